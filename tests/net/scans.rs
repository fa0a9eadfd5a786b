//! Scans lead to bans: every scan type, both ways to see packets.

use crate::lab::{Daemon, Pair, Routed, TCP, at, eventually, send_ipv6, tcp_syn};

/// Scans ports 21 to 23 of a host that has a service on port 80, and expects that the scan shuts its source out
/// within these three packets, and that the set says why.
fn three_ports_are_enough(method: &str, scan: &str, reason: &str) {
    let Pair { host, stranger } = &Pair::new();
    let six = scan.starts_with("-6");
    let (target, set, source) = if six {
        (Pair::HOST6, "banned6", Pair::STRANGER6)
    } else {
        (Pair::HOST, "banned4", Pair::STRANGER)
    };
    let _service = host.serve(at(target), 80);
    let daemon = Daemon::start(host, &format!("[capture]\nmethod = \"{method}\"\n"));
    assert!(stranger.reaches(at(target), 80), "nobody is banned yet");

    stranger.nmap(scan, "21-23", target);

    let element = daemon.element(set, source);
    assert_eq!(element.comment.as_deref(), Some(reason));
    assert_eq!(
        element.timeout,
        Some(600),
        "the first ban lasts ten minutes"
    );
    assert!(
        !stranger.reaches(at(target), 80),
        "a banned source reaches no service"
    );
    assert_eq!(daemon.banned(), [source]);
}

#[test]
fn a_syn_scan_is_banned() {
    three_ports_are_enough("packet", "-sS", "syn scan, 3 tcp ports, last 23");
}

#[test]
fn a_fin_scan_is_banned() {
    three_ports_are_enough("packet", "-sF", "fin scan, 3 tcp ports, last 23");
}

#[test]
fn a_null_scan_is_banned() {
    three_ports_are_enough("packet", "-sN", "null scan, 3 tcp ports, last 23");
}

#[test]
fn an_xmas_scan_is_banned() {
    three_ports_are_enough("packet", "-sX", "xmas scan, 3 tcp ports, last 23");
}

#[test]
fn a_udp_scan_is_banned() {
    three_ports_are_enough("packet", "-sU", "udp scan, 3 udp ports, last 23");
}

#[test]
fn a_connect_scan_is_banned() {
    three_ports_are_enough("packet", "-sT", "syn scan, 3 tcp ports, last 23");
}

#[test]
fn a_syn_scan_over_ipv6_is_banned() {
    three_ports_are_enough("packet", "-6 -sS", "syn scan, 3 tcp ports, last 23");
}

#[test]
fn a_fin_scan_over_ipv6_is_banned() {
    three_ports_are_enough("packet", "-6 -sF", "fin scan, 3 tcp ports, last 23");
}

#[test]
fn a_udp_scan_over_ipv6_is_banned() {
    three_ports_are_enough("packet", "-6 -sU", "udp scan, 3 udp ports, last 23");
}

#[test]
fn raw_sockets_see_a_syn_scan() {
    three_ports_are_enough("ip", "-sS", "syn scan, 3 tcp ports, last 23");
}

#[test]
fn raw_sockets_see_a_fin_scan() {
    three_ports_are_enough("ip", "-sF", "fin scan, 3 tcp ports, last 23");
}

#[test]
fn raw_sockets_see_a_null_scan() {
    three_ports_are_enough("ip", "-sN", "null scan, 3 tcp ports, last 23");
}

#[test]
fn raw_sockets_see_an_xmas_scan() {
    three_ports_are_enough("ip", "-sX", "xmas scan, 3 tcp ports, last 23");
}

#[test]
fn raw_sockets_see_a_udp_scan() {
    three_ports_are_enough("ip", "-sU", "udp scan, 3 udp ports, last 23");
}

#[test]
fn raw_sockets_see_a_syn_scan_over_ipv6() {
    three_ports_are_enough("ip", "-6 -sS", "syn scan, 3 tcp ports, last 23");
}

#[test]
fn raw_sockets_see_a_udp_scan_over_ipv6() {
    three_ports_are_enough("ip", "-6 -sU", "udp scan, 3 udp ports, last 23");
}

#[test]
fn ack_and_rst_scans_are_no_evidence() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "");
    stranger.nmap("-sA", "21-30", Pair::HOST);
    stranger.hping3(5, "-R -p ++21", Pair::HOST);
    daemon.everything_is_judged(stranger, at(Pair::HOST), 25);
    assert_eq!(daemon.counter("hits"), 1, "the one that followed");
    daemon.assert_nobody_is_banned();
}

#[test]
fn a_firewall_that_drops_everything_does_not_blind_the_packet_sockets() {
    let Pair { host, stranger } = &Pair::new();
    host.nft("add table inet filter");
    host.nft("add chain inet filter input { type filter hook input priority 0; policy drop; iif lo accept; }");
    host.nft("add chain inet filter raw { type filter hook prerouting priority raw; policy drop; iif lo accept; }");
    let daemon = Daemon::start(host, "");
    stranger.nmap("-sS", "21-23", Pair::HOST);
    let element = daemon.element("banned4", Pair::STRANGER);
    assert_eq!(
        element.comment.as_deref(),
        Some("syn scan, 3 tcp ports, last 23")
    );
    // Over IPv6 such a firewall does not even let neighbours be found.
    host.ip("link set eth0 address 02:00:00:00:00:01");
    stranger.ip("neigh replace fd77::1 lladdr 02:00:00:00:00:01 dev eth0");
    for port in [21, 22, 23] {
        let syn = tcp_syn(Pair::STRANGER6, Pair::HOST6, port);
        send_ipv6(stranger, Pair::HOST6, TCP, &syn);
    }
    daemon.element("banned6", Pair::STRANGER6);
}

#[test]
fn a_scan_across_a_router_is_banned() {
    let Routed { host, stranger, .. } = &Routed::new();
    let _service = host.serve(at(Routed::HOST), 80);
    let daemon = Daemon::start(host, "");
    stranger.nmap("-sS", "21-23", Routed::HOST);
    daemon.element("banned4", Routed::STRANGER);
    assert!(!stranger.reaches(at(Routed::HOST), 80));
}

#[test]
fn one_scanner_is_banned_and_its_neighbour_is_not() {
    let Pair { host, stranger } = &Pair::new();
    let service = host.serve(at(Pair::HOST), 80);
    let daemon = Daemon::start(host, "");
    stranger.nmap(
        &format!("-sS -S {} -e eth0", Pair::OTHER),
        "21-23",
        Pair::HOST,
    );
    daemon.element("banned4", Pair::OTHER);
    assert!(
        stranger.reaches(at(Pair::HOST), 80),
        "the other address is in nobody's set"
    );
    assert_eq!(daemon.banned(), [Pair::OTHER]);
    eventually("it is served", || (service.taken() == 1).then_some(()));
}

#[test]
fn two_tests_at_once_do_not_disturb_each_other() {
    let (one, other) = (&Pair::new(), &Pair::new());
    let (mine, theirs) = (Daemon::start(&one.host, ""), Daemon::start(&other.host, ""));
    one.stranger.nmap("-sS", "21-23", Pair::HOST);
    mine.element("banned4", Pair::STRANGER);
    theirs.assert_nobody_is_banned();
    assert_eq!(theirs.counter("probes"), 0);
}
