//! Whom the table lets through whatever is banned.

use super::super::friends::MOST_FRIENDS;
use super::*;
use crate::nft::Events;

/// As versions before friends made it.
const FORMAT_1: &str = r#"
    table inet portsentry {
        comment "portsentry format 1"
        set banned4 { type ipv4_addr; size 262143; flags timeout; gc-interval 10s; }
        set banned6 { type ipv6_addr; size 262143; flags timeout; gc-interval 10s; }
        set banned6_64 { type ipv6_addr; size 262143; flags timeout; gc-interval 10s; }
        chain prerouting {
            type filter hook prerouting priority -310; policy accept;
            icmpv6 type 133-136 accept
            ip saddr @banned4 counter drop
            ip6 saddr @banned6 counter drop
            ip6 saddr & ffff:ffff:ffff:ffff:: @banned6_64 counter drop
        }
    }
"#;

/// What nft shows in a set, without blanks.
fn elements(set: &str) -> String {
    let listed = run(
        Command::new("nft").args(["list", "set", "inet", "portsentry", set]),
        "",
    );
    let listed = listed.expect("the set is there");
    let Some((_, elements)) = listed.split_once("elements = {") else {
        return String::new();
    };
    let (elements, _) = elements.split_once('}').unwrap();
    elements.split_whitespace().collect::<Vec<_>>().concat()
}

/// Whether a datagram from here arrives there, both addresses of this host.
fn arrives(from: &str, to: &str) -> bool {
    let receiver = UdpSocket::bind((to, 0)).unwrap();
    let patience = Duration::from_millis(200);
    receiver.set_read_timeout(Some(patience)).unwrap();
    let sender = UdpSocket::bind((from, 0)).unwrap();
    sender
        .send_to(b"x", receiver.local_addr().unwrap())
        .unwrap();
    receiver.recv(&mut [0; 8]).is_ok()
}

#[test]
fn a_friend_that_is_banned_all_the_same_is_let_through() {
    let mut nftables = prepared();
    ip("link set lo up");
    for address in ["2001:db8:1::1", "2001:db8:1::2"] {
        ip(&format!("address add {address}/128 dev lo nodad"));
    }
    let now = Now::read();
    let bans = [
        ban("127.0.0.2", now),
        ban("127.0.0.3", now),
        ban("127.0.4.0/24", now),
        ban("2001:db8:1::/64", now),
    ];
    nftables.ban(&refs(&bans), now).unwrap();
    for from in ["127.0.0.2", "127.0.0.3", "127.0.4.5"] {
        assert!(!arrives(from, "127.0.0.1"), "{from}");
    }
    nftables
        .spare(&nets(&[
            "127.0.0.2/32",
            "127.0.4.4/30",
            "2001:db8:1::2/128",
        ]))
        .unwrap();
    for (from, to, passes) in [
        ("127.0.0.2", "127.0.0.1", true),
        ("127.0.0.3", "127.0.0.1", false),
        ("127.0.4.5", "127.0.0.1", true),
        ("127.0.4.8", "127.0.0.1", false),
        ("2001:db8:1::2", "::1", true),
        ("2001:db8:1::1", "::1", false),
    ] {
        assert_eq!(arrives(from, to), passes, "{from}");
    }
    assert_eq!(counted("@ignored4 counter"), 2);
    nftables.spare(&[]).unwrap();
    assert!(!arrives("127.0.0.2", "127.0.0.1"));
}

#[test]
fn everybody_and_the_last_addresses_of_all_are_friends_like_others() {
    let mut nftables = prepared();
    ip("link set lo up");
    let now = Now::read();
    nftables
        .ban(&[&ban("127.0.0.2", now), &ban("::1", now)], now)
        .unwrap();
    for (friends, four, six) in [
        (&["0.0.0.0/0", "::/0"][..], "0.0.0.0/0", "::/0"),
        (
            &["127.0.0.0/8", "255.255.255.255/32", "::/8", "ff00::/8"],
            "127.0.0.0/8,255.255.255.255",
            "::/8,ff00::/8",
        ),
        (
            &["0.0.0.0/1", "240.0.0.0/4", "::1/128"],
            "0.0.0.0/1,240.0.0.0/4",
            "::1",
        ),
        // They touch.
        (
            &["127.0.0.1/32", "127.0.0.2/31", "::/128", "::1/128"],
            "127.0.0.1,127.0.0.2/31",
            "::/127",
        ),
    ] {
        nftables.spare(&nets(friends)).unwrap();
        assert_eq!(
            (&*elements("ignored4"), &*elements("ignored6")),
            (four, six)
        );
        assert!(arrives("127.0.0.2", "127.0.0.1"), "{friends:?}");
        assert!(arrives("::1", "::1"), "{friends:?}");
        assert_eq!(nftables.prepare().unwrap(), Prepared::Adopted);

        let listed = listing();
        load(&format!("delete table inet portsentry\n{listed}"));
        assert_eq!(elements("ignored4"), four, "what nft lists, nft loads");
        assert_eq!(elements("ignored6"), six, "what nft lists, nft loads");
        assert_eq!(nftables.prepare().unwrap(), Prepared::Adopted);
    }
}

#[test]
fn a_new_list_takes_the_place_of_the_old_one() {
    let mut nftables = prepared();
    for (friends, four, six) in [
        (&["192.0.2.0/24", "192.0.2.7/32"][..], "192.0.2.0/24", ""),
        (
            &["192.0.2.0/25", "2001:db8::/32"],
            "192.0.2.0/25",
            "2001:db8::/32",
        ),
        (
            &["192.0.0.0/16", "2001:db8::7/128"],
            "192.0.0.0/16",
            "2001:db8::7",
        ),
        (&["192.0.2.7/32", "192.0.2.6/32"], "192.0.2.6/31", ""),
        (&[], "", ""),
    ] {
        for _ in 0..2 {
            nftables.spare(&nets(friends)).unwrap();
            assert_eq!(
                (&*elements("ignored4"), &*elements("ignored6")),
                (four, six)
            );
        }
    }
}

#[test]
fn no_packet_of_a_friend_who_stays_is_lost_while_the_list_changes() {
    let mut nftables = prepared();
    ip("link set lo up");
    let now = Now::read();
    nftables.ban(&[&ban("127.0.0.2", now)], now).unwrap();
    let lists = [
        nets(&["127.0.0.2/32"]),
        nets(&["127.0.0.2/32", "127.0.0.1/32", "192.0.2.0/24"]),
        nets(&["127.0.0.2/32", "127.0.0.4/32", "255.255.255.255/32"]),
    ];
    nftables.spare(&lists[0]).unwrap();
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = receiver.local_addr().unwrap();
    let sender = std::thread::spawn(move || {
        let sender = UdpSocket::bind("127.0.0.2:0").unwrap();
        for _ in 0..20_000 {
            sender.send_to(b"x", to).unwrap();
        }
    });
    while !sender.is_finished() {
        for list in &lists {
            nftables.spare(list).unwrap();
        }
    }
    sender.join().unwrap();
    assert_eq!(dropped("banned4"), 0);
    assert_eq!(counted("@ignored4 counter"), 20_000);
}

#[test]
fn a_table_that_is_made_anew_has_its_friends_from_the_first_moment() {
    let mut nftables = prepared();
    let now = Now::read();
    nftables
        .spare(&nets(&["192.0.2.0/24", "2001:db8::/32"]))
        .unwrap();
    let mut events = Events::open(&nftables.table, 0).unwrap();
    for damage in [
        "flush ruleset",
        "delete table inet portsentry",
        "delete chain inet portsentry prerouting; delete set inet portsentry ignored4",
        "flush chain inet portsentry prerouting",
        "flush set inet portsentry ignored4",
    ] {
        load(damage);
        nftables.prepare().unwrap();
        let heard = events.hear();
        assert!(!heard.is_incomplete);
        assert_eq!(heard.transactions.len(), 2, "theirs, and ours, {damage}");
        assert_eq!(elements("ignored4"), "192.0.2.0/24", "{damage}");
        assert_eq!(elements("ignored6"), "2001:db8::/32", "{damage}");
    }
    load("flush ruleset");
    nftables.ban(&[&ban("192.0.2.7", now)], now).unwrap();
    assert_eq!(elements("ignored4"), "192.0.2.0/24");
    load("flush ruleset");
    nftables.spare(&nets(&["198.51.100.0/24"])).unwrap();
    assert_eq!(elements("ignored4"), "198.51.100.0/24");
    nftables.unban_all().unwrap();
    assert_eq!(elements("ignored4"), "198.51.100.0/24");
}

#[test]
fn who_does_not_know_the_friends_leaves_them_as_they_are() {
    let mut nftables = prepared();
    let friends = nets(&["192.0.2.0/24", "255.0.0.0/8", "2001:db8::/32"]);
    nftables.spare(&friends).unwrap();
    drop(nftables);
    // A command without a daemon knows none.
    let mut nftables = responder(&config());
    assert_eq!(nftables.prepare().unwrap(), Prepared::Adopted);
    for damage in [
        "flush chain inet portsentry prerouting",
        "table inet portsentry { flags dormant; }",
    ] {
        load(damage);
        assert_eq!(nftables.prepare().unwrap(), Prepared::Rebuilt, "{damage}");
        assert_eq!(elements("ignored4"), "192.0.2.0/24,255.0.0.0/8", "{damage}");
        assert_eq!(elements("ignored6"), "2001:db8::/32", "{damage}");
    }
}

#[test]
fn what_somebody_puts_in_or_takes_out_by_hand_is_put_right() {
    let mut nftables = prepared();
    nftables
        .spare(&nets(&["192.0.2.0/24", "198.51.100.0/24"]))
        .unwrap();
    nftables.begin_watching().unwrap();
    for change in [
        "add element inet portsentry ignored4 { 203.0.113.7 comment \"me\" }",
        "delete element inet portsentry ignored4 { 192.0.2.0/24 }",
        "add element inet portsentry ignored6 { ::/0 }",
    ] {
        load(change);
        let heard = nftables.noticed();
        assert!(heard.len() == 1 && heard[0].is_frame, "{heard:?}");
        assert!(!heard[0].is_emptied, "{heard:?}");
        assert_eq!(nftables.prepare().unwrap(), Prepared::Adopted, "{change}");
        assert_eq!(elements("ignored4"), "192.0.2.0/24,198.51.100.0/24");
        assert_eq!(elements("ignored6"), "");
    }
}

#[test]
fn a_set_of_friends_of_another_kind_gives_way() {
    let friends = nets(&["192.0.2.0/24"]);
    for kind in [
        "type ipv4_addr",
        "type ipv4_addr; flags interval, timeout",
        "type ipv6_addr; flags interval",
        "type ipv4_addr . inet_service",
    ] {
        enter_empty_network();
        load(&format!(
            "table inet portsentry {{ comment \"portsentry format 2\"; set ignored4 {{ {kind}; }}; }}"
        ));
        let mut nftables = responder(&config());
        assert_eq!(nftables.prepare().unwrap(), Prepared::Rebuilt, "{kind}");
        nftables.spare(&friends).unwrap();
        assert_eq!(elements("ignored4"), "192.0.2.0/24", "{kind}");
    }
}

#[test]
fn a_table_of_the_format_before_gets_friends_and_keeps_its_bans() {
    enter_empty_network();
    load(FORMAT_1);
    let elements_then = r#"
        add element inet portsentry banned4 { 192.0.2.7 timeout 1h expires 10m comment "why" }
        add element inet portsentry banned6 { 2001:db8::7 comment "by hand" }
        add element inet portsentry banned6_64 { 2001:db8:1:: timeout 90d }"#;
    load(elements_then);
    let mut nftables = responder(&config());
    assert_eq!(nftables.prepare().unwrap(), Prepared::Rebuilt);
    assert_eq!(held_by(&nftables).len(), 3);
    let found = find(&mut nftables, "192.0.2.7").unwrap();
    assert_eq!(found.reason, Some(Reason::Text("why".into())));
    assert!((500_000..=600_000).contains(&found.clock.unwrap().left));
    assert_eq!(find(&mut nftables, "2001:db8::7").unwrap().clock, None);
    let rebuilt = listed_shape();
    assert_eq!(nftables.prepare().unwrap(), Prepared::Adopted);
    enter_empty_network();
    load(FILE);
    assert_eq!(rebuilt, listed_shape());
}

#[test]
fn thousands_are_let_through_and_of_too_many_the_widest() {
    let mut nftables = prepared();
    let addresses = |count: usize| -> Vec<IpNet> {
        let address = |i| IpNet::from(IpAddr::from(Ipv4Addr::from(0x0a00_0000 + 2 * i)));
        (0_u32..).map(address).take(count).collect()
    };
    let mut friends = addresses(5000);
    friends.extend(nets(&["2001:db8::/32", "198.51.100.0/24"]));
    nftables.spare(&friends).unwrap();
    assert_eq!(elements("ignored4").split(',').count(), 5001);
    assert_eq!(nftables.prepare().unwrap(), Prepared::Adopted);

    let mut friends = addresses(MOST_FRIENDS);
    friends.extend(nets(&["198.51.100.0/24", "2001:db8::/32"]));
    let error = nftables.spare(&friends).unwrap_err();
    assert!(
        error.to_string().contains("2 prefixes more than the 65536"),
        "{error}"
    );
    assert_eq!(elements("ignored6"), "2001:db8::/32");
    let found = elements("ignored4");
    assert!(found.ends_with(",198.51.100.0/24"), "{}", found.len());
    assert_eq!(nftables.prepare().unwrap(), Prepared::Adopted);
}
