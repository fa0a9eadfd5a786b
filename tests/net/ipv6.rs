//! IPv6: extension headers, prefixes.

use crate::lab::{
    DEST_OPTIONS, Daemon, NO_NEXT, Pair, Routed, TCP, at, dest_options, send_ipv6, tcp_syn,
};

const THREE_PORTS: &str = "[detect]\ntrigger = 3\n";

#[test]
fn a_probe_behind_destination_options_counts() {
    for method in ["packet", "ip"] {
        let Pair { host, stranger } = &Pair::new();
        let daemon = Daemon::start(
            host,
            &format!("[capture]\nmethod = \"{method}\"\n{THREE_PORTS}"),
        );
        for port in [21, 22, 23] {
            send_ipv6(
                stranger,
                Pair::HOST6,
                DEST_OPTIONS,
                &dest_options(TCP, &tcp_syn(Pair::STRANGER6, Pair::HOST6, port)),
            );
        }
        let element = daemon.element("banned6", Pair::STRANGER6);
        assert_eq!(
            element.comment.as_deref(),
            Some("syn scan, 3 tcp ports, last 23"),
            "{method}"
        );
    }
}

#[test]
fn a_probe_behind_several_extension_headers_counts() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, THREE_PORTS);
    for port in [21, 22, 23] {
        let syn = tcp_syn(Pair::STRANGER6, Pair::HOST6, port);
        let headers = (0..4).fold((TCP, syn), |(next, inner), _| {
            (DEST_OPTIONS, dest_options(next, &inner))
        });
        send_ipv6(stranger, Pair::HOST6, headers.0, &headers.1);
    }
    daemon.element("banned6", Pair::STRANGER6);
}

#[test]
fn extension_headers_that_end_in_nothing_are_no_probe_and_no_trouble() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "");
    for payload in [
        dest_options(NO_NEXT, &[]),
        dest_options(TCP, &[0; 3]),
        vec![TCP, 255, 0, 0, 0, 0, 0, 0],
        vec![TCP],
    ] {
        send_ipv6(stranger, Pair::HOST6, DEST_OPTIONS, &payload);
    }
    daemon.everything_is_judged(stranger, at(Pair::HOST6), 25);
    assert_eq!(daemon.counter("hits"), 1, "the one that followed");
    daemon.assert_nobody_is_banned();
}

#[test]
fn a_stranger_from_elsewhere_is_banned_with_its_prefix() {
    let Routed { host, stranger, .. } = &Routed::new();
    let _service = host.serve(at(Routed::HOST6), 80);
    let daemon = Daemon::start(host, "");
    assert!(stranger.reaches(at(Routed::HOST6), 80));
    stranger.nmap("-6 -sS", "21-23", Routed::HOST6);
    let element = daemon.element("banned6_64", Routed::STRANGER6_PREFIX);
    assert_eq!(
        element.comment.as_deref(),
        Some("2001:db8:1::/64 syn scan, 3 tcp ports, last 23")
    );
    assert!(!stranger.reaches(at(Routed::HOST6), 80));
    // Another address of the same prefix is shut out as well: it is commonly the same host.
    stranger.ip("addr del 2001:db8:1::2/64 dev eth0");
    stranger.ip("addr add 2001:db8:1::99/64 dev eth0 nodad");
    stranger.ip("-6 route replace default via 2001:db8:1::1");
    assert!(!stranger.reaches(at(Routed::HOST6), 80));
    assert_eq!(host.elements("banned6"), []);
}

#[test]
fn probes_from_all_over_a_prefix_add_up() {
    let Routed { host, stranger, .. } = &Routed::new();
    let daemon = Daemon::start(host, "");
    for (number, port) in [(11, 21), (12, 22), (13, 23)] {
        let address = format!("2001:db8:1::{number}");
        stranger.ip(&format!("addr add {address}/64 dev eth0 nodad"));
        stranger.nmap(
            &format!("-6 -sS -S {address} -e eth0"),
            &port.to_string(),
            Routed::HOST6,
        );
    }
    daemon.element("banned6_64", Routed::STRANGER6_PREFIX);
}

#[test]
fn a_neighbour_on_the_same_link_is_banned_alone() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "");
    stranger.nmap("-6 -sS", "21-23", Pair::HOST6);
    daemon.element("banned6", Pair::STRANGER6);
    assert_eq!(
        host.elements("banned6_64"),
        [],
        "its prefix is the host's own"
    );
}

#[test]
fn neighbour_discovery_passes_a_banned_neighbour() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "");
    daemon.ok(&["ban", Pair::STRANGER6]);
    host.ip("-6 neigh flush dev eth0");
    stranger.ip("-6 neigh flush dev eth0");
    stranger.knock(at(Pair::HOST6), [80]);
    let neighbours = stranger.run("ip -6 neigh show fd77::1");
    assert!(
        neighbours.contains("lladdr"),
        "the stranger still finds the host's link address: {neighbours}"
    );
}
