//! Routes that lead nowhere: there while a ban runs, gone when it ends, and nobody else's touched.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::lab::{Daemon, Host, Pair, Routed, at, eventually, send_syns};

/// For a daemon that bans by routes alone.
const ROUTE: &str = "ban.responders = [\"route\"]";

/// A scan is a single probe, from whomever.
const AT_ONCE: &str = "detect.trigger = 1\nban.rate = 100000";

/// Whom our routes name.
fn ours(host: &Host) -> BTreeSet<String> {
    let lists = ["-4", "-6"].map(|family| host.run(&format!("ip {family} route show proto 112")));
    let lines = lists.iter().flat_map(|list| list.lines());
    let whom = lines.map(|line| line.split(' ').nth(1).expect("a kind, a destination"));
    whom.map(str::to_owned).collect()
}

/// All other routes, as `ip` shows them.
fn others(host: &Host) -> String {
    let lists = ["-4", "-6"].map(|family| host.run(&format!("ip {family} route show table all")));
    let all = lists.iter().flat_map(|list| list.lines());
    let others = all.filter(|line| !line.contains("proto 112"));
    others.map(|line| format!("{line}\n")).collect()
}

fn eventually_ours(host: &Host, wanted: &[&str]) {
    let wanted: BTreeSet<String> = wanted.iter().copied().map(str::to_owned).collect();
    eventually(&format!("our routes are {wanted:?}"), || {
        (ours(host) == wanted).then_some(())
    });
}

/// Counts the packets from now on that arrive at a host and match.
fn count(host: &Host, what: &str) {
    host.nft("add table inet seen");
    host.nft("add chain inet seen arrivals { type filter hook prerouting priority -400; }");
    host.nft(&format!("add rule inet seen arrivals {what} counter"));
}

/// How many [`count`] has counted.
fn counted(host: &Host) -> u64 {
    let listing = host.nft("list table inet seen");
    let mut words = listing.split_whitespace();
    words.find(|word| *word == "packets").expect("a counter");
    words
        .next()
        .and_then(|number| number.parse().ok())
        .expect("its number")
}

#[test]
fn no_answer_leaves_for_a_scanner_until_its_ban_ends() {
    let Pair { host, stranger } = &Pair::new();
    let _service = host.serve(at(Pair::HOST), 80);
    let before = others(host);
    let daemon = Daemon::start(host, &format!("{ROUTE}\nban.duration = \"6s\""));
    assert!(stranger.reaches(at(Pair::HOST), 80));
    stranger.nmap("-sS", "21-23", Pair::HOST);
    eventually_ours(host, &[Pair::STRANGER]);
    assert_eq!(daemon.banned(), [Pair::STRANGER]);
    count(host, "tcp dport 80");
    count(stranger, "tcp sport 80");
    assert!(!stranger.reaches(at(Pair::HOST), 80));
    assert!(counted(host) > 0, "its packets still arrive");
    assert_eq!(counted(stranger), 0, "the service's SYN-ACK does not leave");
    let log = daemon.log();
    let told = format!(
        "Host {} has been blocked via dropped route using command: \"ip route add unreachable {} proto 112\"",
        Pair::STRANGER,
        Pair::STRANGER
    );
    assert!(log.contains(&told), "{log}");
    eventually_ours(host, &[]);
    assert_eq!(daemon.banned(), Vec::<String>::new());
    assert!(stranger.reaches(at(Pair::HOST), 80));
    assert_eq!(others(host), before);
}

#[test]
fn a_prefix_elsewhere_has_no_answer_and_the_router_in_between_has() {
    let Routed {
        host,
        router,
        stranger,
    } = &Routed::new();
    let _service = host.serve(at(Routed::HOST6), 80);
    let before = others(host);
    let daemon = Daemon::start(host, ROUTE);
    assert!(stranger.reaches(at(Routed::HOST6), 80));
    stranger.nmap("-6 -sS", "21-23", Routed::HOST6);
    eventually_ours(host, &["2001:db8:1::/64"]);
    assert!(!stranger.reaches(at(Routed::HOST6), 80));
    assert!(router.reaches(at(Routed::HOST6), 80));
    daemon.ok(&["unban", Routed::STRANGER6]);
    assert_eq!(ours(host), BTreeSet::new());
    assert!(stranger.reaches(at(Routed::HOST6), 80));
    assert_eq!(others(host), before);
}

#[test]
fn an_unban_takes_the_route_away_with_and_without_a_daemon() {
    let Routed { host, .. } = &Routed::new();
    host.ip("route add 203.0.113.7 via 192.0.2.1");
    host.ip("route add blackhole 203.0.113.9");
    let before = others(host);
    let mut daemon = Daemon::start(host, ROUTE);
    daemon.ok(&["ban", "203.0.113.7", "--for", "1h"]);
    daemon.ok(&["ban", "2001:db8:5::/64", "--for", "1h"]);
    eventually_ours(host, &["203.0.113.7", "2001:db8:5::/64"]);
    daemon.ok(&["unban", "203.0.113.7"]);
    eventually_ours(host, &["2001:db8:5::/64"]);
    daemon.kill9();
    daemon.ok(&["unban", "2001:db8:5::1"]);
    eventually_ours(host, &[]);
    daemon.ok(&["ban", "203.0.113.9", "--for", "1h"]);
    eventually_ours(host, &["203.0.113.9"]);
    daemon.ok(&["unban", "--all"]);
    eventually_ours(host, &[]);
    assert_eq!(others(host), before);
}

#[test]
fn a_stop_leaves_no_route_and_the_next_start_puts_them_back() {
    let host = &Host::new("host");
    let before = others(host);
    let mut daemon = Daemon::start(host, ROUTE);
    daemon.ok(&["ban", "203.0.113.7", "--for", "1h"]);
    daemon.ok(&["ban", "2001:db8:5::/64", "--for", "ever"]);
    assert!(daemon.stop().success());
    assert_eq!(ours(host), BTreeSet::new());
    assert_eq!(others(host), before);
    daemon.restart();
    eventually_ours(host, &["203.0.113.7", "2001:db8:5::/64"]);
    daemon.kill9();
    eventually_ours(host, &["203.0.113.7", "2001:db8:5::/64"]);
    daemon.configure(&format!("{ROUTE}\nroute.kind = \"blackhole\""));
    daemon.restart();
    eventually_ours(host, &["203.0.113.7", "2001:db8:5::/64"]);
    assert!(
        host.run("ip route show proto 112")
            .starts_with("blackhole 203.0.113.7")
    );
    daemon.kill9();
    daemon.ok(&["withdraw", "--clockless"]);
    assert_eq!(ours(host), BTreeSet::new());
    assert_eq!(others(host), before);
}

#[test]
fn a_ban_whose_time_was_over_before_the_start_leaves_no_route() {
    let host = &Host::new("host");
    let mut daemon = Daemon::start(host, ROUTE);
    daemon.ok(&["ban", "203.0.113.7", "--for", "1s"]);
    daemon.ok(&["ban", "203.0.113.8", "--for", "1h"]);
    daemon.kill9();
    eventually("its time is over", || {
        let list = daemon.command(&["list"]).out;
        (!list.contains("203.0.113.7")).then_some(())
    });
    daemon.restart();
    eventually_ours(host, &["203.0.113.8"]);
    assert_eq!(daemon.banned(), ["203.0.113.8"]);
}

#[test]
fn a_crash_amid_a_thousand_bans_leaves_what_is_known_and_nothing_else() {
    let Pair { host, stranger } = &Pair::new();
    let before = others(host);
    let mut daemon = Daemon::start(host, &format!("{ROUTE}\n{AT_ONCE}"));
    // Answered when it is in history; how many of the others are is a matter of luck.
    daemon.ok(&["ban", "203.0.113.7", "--for", "1h"]);
    let crowd: Vec<Ipv4Addr> = (1..=1000)
        .map(|n| Ipv4Addr::from(0xc612_0000 + n))
        .collect();
    for some in crowd.chunks(100) {
        send_syns(
            stranger,
            some.iter().copied(),
            Ipv4Addr::new(10, 77, 0, 1),
            23,
        );
    }
    eventually("some are banned", || (ours(host).len() > 1).then_some(()));
    daemon.kill9();
    daemon.configure(&format!("{ROUTE}\n{AT_ONCE}\ntcp.mode = \"off\""));
    daemon.restart();
    eventually("the world and the list agree", || {
        let known: BTreeSet<String> = daemon.banned().into_iter().collect();
        (ours(host) == known).then_some(())
    });
    let known = ours(host);
    assert!(known.contains("203.0.113.7"), "{known:?}");
    daemon.ok(&["unban", "--all"]);
    assert_eq!(ours(host), BTreeSet::new());
    assert_eq!(others(host), before);
}

#[test]
fn a_daemon_proves_that_routes_ban_and_takes_them_down_when_they_are_no_longer_used() {
    let host = &Host::new("host");
    let before = others(host);
    let mut daemon = Daemon::start(host, ROUTE);
    let said = daemon.ok(&["test-responders"]);
    assert!(said.contains("route"), "{said}");
    daemon.ok(&["ban", "203.0.113.7", "--for", "1h"]);
    eventually_ours(host, &["203.0.113.7"]);
    daemon.configure("ban.responders = [\"nftables\", \"route\"]");
    daemon.ok(&["reload"]);
    assert_eq!(ours(host).len(), 1);
    daemon.kill9();
    daemon.configure("");
    daemon.restart();
    eventually_ours(host, &[]);
    daemon.element("banned4", "203.0.113.7");
    assert_eq!(others(host), before);
}

#[test]
fn routes_that_another_program_drops_are_put_back_when_status_is_asked() {
    let Routed { host, .. } = &Routed::new();
    let daemon = Daemon::start(host, ROUTE);
    for source in ["203.0.113.7", "203.0.113.8", "2001:db8:5::/64"] {
        daemon.ok(&["ban", source, "--for", "1h"]);
    }
    let all = ["203.0.113.7", "203.0.113.8", "2001:db8:5::/64"];
    eventually_ours(host, &all);
    host.ip("-4 route flush proto 112");
    host.ip("-6 route flush proto 112");
    assert_eq!(ours(host), BTreeSet::new());
    daemon.ok(&["status"]);
    eventually_ours(host, &all);
    let log = daemon.log();
    assert!(log.contains("putting 3 back"), "{log}");
    daemon.ok(&["status"]);
    assert_eq!(daemon.log().matches("putting 3 back").count(), 1);
}

#[test]
fn the_gateway_is_never_cut_off() {
    let Routed { host, .. } = &Routed::new();
    let before = others(host);
    let daemon = Daemon::start(host, ROUTE);
    for (source, why) in [
        ("192.0.2.1", "a route would cut off the gateway 192.0.2.1"),
        (
            "192.0.2.0/29",
            "a route would cut off the gateway 192.0.2.1",
        ),
        (
            "2001:db8:2::1",
            "a route would cut off the gateway 2001:db8:2::1",
        ),
    ] {
        let said = daemon.command(&["ban", source]);
        assert_ne!(said.status, 0, "{said:?}");
        let words = said.out + &said.err;
        assert!(
            words.contains(why) || words.contains("never banned"),
            "{source}: {words}"
        );
    }
    assert_eq!(ours(host), BTreeSet::new());
    assert_eq!(others(host), before);
    assert_eq!(daemon.banned(), Vec::<String>::new());
}
