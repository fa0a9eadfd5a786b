//! Probes that come in pieces.

use crate::lab::{Daemon, FRAGMENT, Pair, TCP, at, fragment, send_ipv6, tcp_syn};

#[test]
fn a_syn_in_fragments_counts() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "");
    stranger.nmap("-sS -f", "21-23", Pair::HOST);
    let element = daemon.element("banned4", Pair::STRANGER);
    assert_eq!(
        element.comment.as_deref(),
        Some("fragment scan, 3 tcp ports, last 23")
    );
}

#[test]
fn raw_sockets_see_a_syn_in_fragments_put_together() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "[capture]\nmethod = \"ip\"\n");
    stranger.nmap("-sS -f", "21-23", Pair::HOST);
    let element = daemon.element("banned4", Pair::STRANGER);
    assert_eq!(
        element.comment.as_deref(),
        Some("syn scan, 3 tcp ports, last 23")
    );
}

/// Sends a SYN with data to each of ports 21 to 23, in two fragments, the first of them this long.
fn scan_in_two(world: &Pair, first: u16) {
    for port in [21, 22, 23] {
        let mut syn = tcp_syn(Pair::STRANGER6, Pair::HOST6, port);
        syn.extend([0; 20]);
        let (id, half) = (u32::from(port), usize::from(first));
        let head = fragment(TCP, id, 0, true, &syn[..half]);
        let tail = fragment(TCP, id, first, false, &syn[half..]);
        send_ipv6(&world.stranger, Pair::HOST6, FRAGMENT, &head);
        send_ipv6(&world.stranger, Pair::HOST6, FRAGMENT, &tail);
    }
}

#[test]
fn an_ipv6_syn_that_is_split_within_its_header_counts() {
    let world = Pair::new();
    let daemon = Daemon::start(&world.host, "");
    scan_in_two(&world, 8);
    let element = daemon.element("banned6", Pair::STRANGER6);
    assert_eq!(
        element.comment.as_deref(),
        Some("fragment scan, 3 tcp ports, last 23")
    );
}

#[test]
fn an_ipv6_syn_that_is_split_after_its_header_counts() {
    let world = Pair::new();
    let daemon = Daemon::start(&world.host, "");
    scan_in_two(&world, 24);
    let element = daemon.element("banned6", Pair::STRANGER6);
    assert_eq!(
        element.comment.as_deref(),
        Some("syn scan, 3 tcp ports, last 23")
    );
}

// One that is split within its header is nothing that raw sockets could see: Linux puts no such packet together (RFC 7112).
#[test]
fn raw_sockets_see_an_ipv6_syn_in_two_fragments_put_together() {
    let world = Pair::new();
    let daemon = Daemon::start(&world.host, "[capture]\nmethod = \"ip\"\n");
    scan_in_two(&world, 24);
    let element = daemon.element("banned6", Pair::STRANGER6);
    assert_eq!(
        element.comment.as_deref(),
        Some("syn scan, 3 tcp ports, last 23")
    );
}

#[test]
fn an_ipv6_syn_in_a_fragment_of_its_own_counts() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "");
    for port in [21, 22, 23] {
        let syn = tcp_syn(Pair::STRANGER6, Pair::HOST6, port);
        send_ipv6(
            stranger,
            Pair::HOST6,
            FRAGMENT,
            &fragment(TCP, u32::from(port), 0, false, &syn),
        );
    }
    let element = daemon.element("banned6", Pair::STRANGER6);
    assert_eq!(
        element.comment.as_deref(),
        Some("syn scan, 3 tcp ports, last 23")
    );
}

#[test]
fn later_fragments_alone_are_no_probes() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "");
    for port in 21..=30 {
        let syn = tcp_syn(Pair::STRANGER6, Pair::HOST6, port);
        send_ipv6(
            stranger,
            Pair::HOST6,
            FRAGMENT,
            &fragment(TCP, u32::from(port), 8, false, &syn),
        );
    }
    daemon.everything_is_judged(stranger, at(Pair::HOST6), 25);
    assert_eq!(daemon.counter("hits"), 1, "the one that followed");
    daemon.assert_nobody_is_banned();
}
