//! Against the kernel, each test in a network namespace of its own, with `ip` looking on. They need root.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::clock::{Mono, Wall};
use crate::policy::{Origin, Reason};

const NOW: Now = Now {
    mono: Mono(0),
    wall: Wall(0),
};

/// Moves this test's thread into a network with a link, a router for each family, and a route to somebody else's host.
fn enter_a_network() {
    unshare(CloneFlags::CLONE_NEWNET).expect("tests of the kernel's routes need root");
    for line in [
        "link set lo up",
        "link add v0 type veth peer name v1",
        // Else they give themselves addresses, in their own time.
        "link set v0 addrgenmode none",
        "link set v1 addrgenmode none",
        "link set v0 up",
        "link set v1 up",
        "addr add 10.9.0.1/24 dev v0",
        "addr add 2001:db8:9::1/64 dev v0 nodad",
        "route add default via 10.9.0.254",
        "route add default via 2001:db8:9::254",
        "route add 198.51.100.7 via 10.9.0.253",
        "route add unreachable 198.51.100.8",
        "route add 2001:db8:7::/64 via 2001:db8:9::253",
    ] {
        ip(line);
    }
}

#[track_caller]
fn ip(arguments: &str) -> String {
    let done = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("this test needs the ip command");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "ip {arguments}: {said}");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// What `ip route get` says, in its first words or in its complaint.
fn course(address: &str) -> String {
    let done = Command::new("ip").args(["route", "get", address]).output();
    let done = done.expect("this test needs the ip command");
    String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned()
}

/// Every route, but for ours.
fn others() -> String {
    let all = ip("-4 route show table all") + &ip("-6 route show table all");
    let others = all.lines().filter(|line| !line.contains("proto 112"));
    others.map(|line| format!("{line}\n")).collect()
}

/// Our routes as `ip` shows them, without spaces at the end.
fn ours() -> Vec<String> {
    let all = ip("-4 route show proto 112") + &ip("-6 route show proto 112");
    all.lines().map(|line| line.trim().to_owned()).collect()
}

fn responder(kind: RouteKind) -> Route {
    Route::new(&config::Route {
        kind,
        optional: false,
    })
}

fn ready(kind: RouteKind) -> Route {
    let mut route = responder(kind);
    assert_eq!(route.prepare().unwrap(), Prepared::Adopted);
    route
}

fn source(text: &str) -> Source {
    text.parse().unwrap()
}

fn sources(texts: &[&str]) -> Vec<Source> {
    texts.iter().map(|text| source(text)).collect()
}

fn bans(sources: impl IntoIterator<Item = Source>) -> Vec<Ban> {
    let ban = |source| Ban {
        source,
        reason: Reason::Text("test".into()),
        origin: Origin::Command,
        by: None,
        start: NOW.wall,
        end: None,
    };
    sources.into_iter().map(ban).collect()
}

fn ban(route: &mut Route, texts: &[&str]) -> Result<(), Error> {
    let bans = bans(sources(texts));
    route.ban(&bans.iter().collect::<Vec<_>>(), NOW)
}

#[test]
fn a_ban_is_a_route_that_leads_nowhere_until_it_is_lifted() {
    enter_a_network();
    let before = others();
    for (kind, word, answer) in [
        (RouteKind::Unreachable, "unreachable", "No route to host"),
        (RouteKind::Blackhole, "blackhole", "Invalid argument"),
        (RouteKind::Prohibit, "prohibit", "Permission denied"),
    ] {
        let mut route = ready(kind);
        let all = [
            "192.0.2.7",
            "203.0.113.0/24",
            "2001:db8::7",
            "2001:db8:5::/64",
        ];
        ban(&mut route, &all).unwrap();
        assert_eq!(
            ours(),
            [
                format!("{word} 192.0.2.7"),
                format!("{word} 203.0.113.0/24"),
                format!("{word} 2001:db8::7 dev lo metric 1 pref medium"),
                format!("{word} 2001:db8:5::/64 dev lo metric 1 pref medium"),
            ]
        );
        for address in ["192.0.2.7", "203.0.113.9", "2001:db8::7", "2001:db8:5::9"] {
            let course = course(address);
            assert!(course.contains(answer), "{address}: {course}");
        }
        ban(&mut route, &all).expect("once more is no error");
        assert_eq!(ours().len(), 4);
        assert_eq!(
            route.find(source("192.0.2.7")).unwrap(),
            Some(held(source("192.0.2.7")))
        );
        assert_eq!(route.find(source("203.0.113.9")).unwrap(), None);
        route
            .unban(&sources(&["192.0.2.7", "2001:db8:5::/64", "192.0.2.99"]))
            .unwrap();
        assert_eq!(ours().len(), 2);
        assert!(course("192.0.2.7").contains("via 10.9.0.254"));
        route.withdraw().unwrap();
        assert_eq!(ours(), [""; 0]);
        assert!(!route.take_lost());
    }
    assert_eq!(others(), before);
}

#[test]
fn routes_of_others_to_the_same_place_stay_and_ours_comes_first() {
    enter_a_network();
    let before = others();
    let mut route = ready(RouteKind::Unreachable);
    let all = ["198.51.100.7", "198.51.100.8", "2001:db8:7::/64"];
    ban(&mut route, &all).unwrap();
    assert_eq!(ours().len(), 3);
    assert_eq!(others(), before);
    assert!(course("198.51.100.7").contains("No route to host"));
    assert!(course("2001:db8:7::1").contains("No route to host"));
    route.unban(&sources(&all)).unwrap();
    assert_eq!(others(), before);
    assert_eq!(ours(), [""; 0]);
    route.unban(&sources(&all)).expect("nobody else's is taken");
    assert_eq!(others(), before);
    assert!(course("198.51.100.7").contains("via 10.9.0.253"));
}

#[test]
fn what_this_host_needs_is_never_cut_off_and_the_others_are_banned() {
    enter_a_network();
    ip("route add 100.64.0.0/24 nexthop via 10.9.0.11 nexthop via 10.9.0.12");
    ip("route add 100.64.1.0/24 via inet6 2001:db8:9::13");
    ip("route add 100.64.2.0/24 via 10.9.0.14 table 7");
    let mut route = ready(RouteKind::Unreachable);
    for (wanted, why) in [
        ("10.9.0.254", "the gateway 10.9.0.254"),
        ("10.9.0.253", "the gateway 10.9.0.253"),
        ("10.9.0.11", "the gateway 10.9.0.11"),
        ("10.9.0.12", "the gateway 10.9.0.12"),
        ("10.9.0.14", "the gateway 10.9.0.14"),
        ("10.9.0.128/25", "the gateway 10.9.0.253"),
        ("2001:db8:9::254", "the gateway 2001:db8:9::254"),
        ("10.9.0.1", "this host's own 10.9.0.1"),
        ("127.0.0.0/8", "this host's own 127.0.0.0/8"),
        ("2001:db8:9::1", "this host's own 2001:db8:9::1"),
        ("10.9.0.16/28", ""),
        ("2001:db8:9::/64", "the gateway 2001:db8:9::253"),
        ("2001:db8:9::/120", "this host's own 2001:db8:9::1"),
        (
            "198.51.100.0/24",
            "the narrower route to 198.51.100.7/32 via 10.9.0.253",
        ),
        ("fe80::7", "go by their link"),
    ] {
        let done = ban(&mut route, &["192.0.2.7", wanted]);
        if why.is_empty() {
            done.unwrap();
            continue;
        }
        let error = done.expect_err(wanted);
        assert_eq!(error.sources, [source(wanted)]);
        let said = error.to_string();
        assert!(
            said.starts_with(&format!("route: cannot ban 1 of 2: {wanted}: ")),
            "{said}"
        );
        assert!(said.contains(why), "{said}");
    }
    assert_eq!(
        ours(),
        ["unreachable 10.9.0.16/28", "unreachable 192.0.2.7"]
    );
    // A gateway of the other family stands in nobody's way here.
    assert!(ban(&mut route, &["2001:db8:9::13"]).is_ok());
}

#[test]
fn a_route_that_comes_before_ours_is_named() {
    enter_a_network();
    ip("route add 192.0.2.0/24 via 10.9.0.77 table 5");
    ip("rule add pref 100 lookup 5");
    ip("route add 2001:db8:1::/64 via 2001:db8:9::77 metric 1");
    let mut route = ready(RouteKind::Blackhole);
    let error = ban(&mut route, &["192.0.2.7", "203.0.113.7", "2001:db8:1::/64"]).unwrap_err();
    assert_eq!(error.sources, sources(&["192.0.2.7", "2001:db8:1::/64"]));
    assert_eq!(
        error.to_string(),
        "route: cannot ban 2 of 3: 192.0.2.7: packets to it still go by the route to 192.0.2.0/24 via 10.9.0.77 in table 5, which comes first; \
         2001:db8:1::/64: packets to it still go by the route to 2001:db8:1::/64 via 2001:db8:9::77, which comes first"
    );
    ip("rule del pref 100");
    ban(&mut route, &["192.0.2.7"]).unwrap();

    ip("route add unreachable 2001:db8:2::/64 metric 1");
    let error = ban(&mut route, &["2001:db8:2::/64"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "route: cannot ban 2001:db8:2::/64: another program's route to it has our metric, 1"
    );
}

#[test]
fn routes_that_another_program_took_away_are_noticed_once() {
    enter_a_network();
    let mut route = ready(RouteKind::Unreachable);
    ban(&mut route, &["192.0.2.7", "192.0.2.8", "2001:db8::/64"]).unwrap();
    assert_eq!(route.prepare().unwrap(), Prepared::Adopted);
    assert!(!route.take_lost());
    ip("-4 route flush proto 112");
    assert_eq!(route.prepare().unwrap(), Prepared::Adopted);
    assert!(route.take_lost());
    assert!(!route.take_lost());
    ban(&mut route, &["192.0.2.7", "192.0.2.8", "2001:db8::/64"]).unwrap();
    assert_eq!(ours().len(), 3);
    ip("route replace 192.0.2.7 via 10.9.0.253");
    route.prepare().unwrap();
    assert!(route.take_lost());
    route.unban(&sources(&["192.0.2.8"])).unwrap();
    route.prepare().unwrap();
    assert!(!route.take_lost(), "what was lifted is not missed");
}

#[test]
fn what_a_crash_left_is_found_and_is_over_unless_history_knows_better() {
    enter_a_network();
    let mut dying = ready(RouteKind::Unreachable);
    ban(&mut dying, &["192.0.2.7", "2001:db8::/64"]).unwrap();
    ip("route add 192.0.2.9 via 10.9.0.253 proto 112");
    let mut next = ready(RouteKind::Unreachable);
    let held = next.holdings().unwrap()(&crate::source::Sources::default()).unwrap();
    let found: Vec<Source> = held.iter().map(|held| held.source).collect();
    assert_eq!(found, sources(&["192.0.2.7", "2001:db8::/64"]));
    assert!(
        held.iter()
            .all(|held| held.clock == Some(HeldClock { length: 0, left: 0 }))
    );
    next.unban_all().unwrap();
    assert_eq!(ours(), ["192.0.2.9 via 10.9.0.253 dev v0"]);
}

#[test]
fn another_kind_in_the_configuration_changes_what_is_there() {
    enter_a_network();
    let before = others();
    let mut route = ready(RouteKind::Unreachable);
    let all = ["192.0.2.7", "198.51.100.7", "2001:db8::/64"];
    ban(&mut route, &all).unwrap();
    let mut route = responder(RouteKind::Prohibit);
    assert_eq!(route.prepare().unwrap(), Prepared::Rebuilt);
    assert!(
        ours().iter().all(|line| line.starts_with("prohibit ")),
        "{:?}",
        ours()
    );
    assert_eq!(ours().len(), 3);
    assert!(!route.take_lost());
    assert_eq!(route.prepare().unwrap(), Prepared::Adopted);
    route.unban(&sources(&all)).unwrap();
    assert_eq!(ours(), [""; 0]);
    assert_eq!(others(), before);
}

#[test]
fn a_route_gives_way_when_the_host_comes_to_need_it() {
    enter_a_network();
    let mut route = ready(RouteKind::Unreachable);
    ban(&mut route, &["10.9.0.77", "192.0.2.0/24", "203.0.113.7"]).unwrap();
    // The kernel lets nobody name a gateway that has a dead end; but one of those that are there already may be on its link.
    ip("route add 100.64.0.0/24 via 10.9.0.77 dev v0 onlink");
    ip("addr add 192.0.2.9/25 dev v0");
    assert_eq!(route.prepare().unwrap(), Prepared::Adopted);
    assert_eq!(ours(), ["unreachable 203.0.113.7"]);
    assert!(route.take_lost(), "those who say so again are asked again");
    let error = ban(&mut route, &["10.9.0.77", "192.0.2.0/24", "203.0.113.7"]).unwrap_err();
    assert_eq!(error.sources, sources(&["10.9.0.77", "192.0.2.0/24"]));
    route.prepare().unwrap();
    assert!(!route.take_lost());
}

#[test]
fn without_the_right_to_change_routes_the_start_says_what_is_missing() {
    enter_a_network();
    caps::drop(
        None,
        caps::CapSet::Effective,
        caps::Capability::CAP_NET_ADMIN,
    )
    .unwrap();
    let error = responder(RouteKind::Unreachable).prepare().unwrap_err();
    assert_eq!(
        error.to_string(),
        "route: routes cannot be changed: the kernel refused: Operation not permitted (os error 1); portsentry needs CAP_NET_ADMIN"
    );
}

#[test]
fn thousands_are_banned_in_one_call_and_lifted_in_one() {
    enter_a_network();
    let before = others();
    let mut route = ready(RouteKind::Unreachable);
    let v4 = (0..10_000_u32).map(|n| Source::from(IpAddr::from((0xC612_0000 + n).to_be_bytes())));
    let v6 = (0..10_000_u128).map(|n| {
        let address = (0x2001_0db8_0001_u128 << 80) + (n << 64);
        Source::prefix(IpAddr::from(address.to_be_bytes()), 64)
    });
    let all: Vec<Source> = v4.chain(v6).collect();
    for part in [1, 1_000, all.len()] {
        let some = bans(all[..part].iter().copied());
        let some: Vec<&Ban> = some.iter().collect();
        route.ban(&some, NOW).unwrap();
        route.replay(&some, NOW).unwrap();
        route.prepare().unwrap();
        assert!(!route.take_lost());
        assert_eq!(ours().len(), part);
        route.unban(&all[..part]).unwrap();
        assert_eq!(ours(), [""; 0]);
    }
    assert_eq!(others(), before);
}
