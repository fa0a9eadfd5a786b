//! Traffic of others, and to everybody, is no probe of this host.

use std::net::UdpSocket;
use std::time::Duration;

use crate::lab::{Bridge, Daemon, Pair, Routed, at, eventually};

#[test]
fn a_router_bans_nobody_for_what_it_forwards() {
    let Routed {
        router,
        stranger,
        host,
    } = &Routed::new();
    let daemon = Daemon::start(router, "");
    let _service = host.serve(at(Routed::HOST), 80);
    for (scan, target) in [
        ("-sS", Routed::HOST),
        ("-sU", Routed::HOST),
        ("-6 -sS", Routed::HOST6),
        ("-6 -sU", Routed::HOST6),
    ] {
        stranger.nmap(scan, "21-40", target);
    }
    daemon.everything_is_judged(stranger, at(Routed::ROUTER), 25);
    assert_eq!(
        daemon.counter("hits"),
        1,
        "the one that followed, to the router's own address"
    );
    daemon.assert_nobody_is_banned();
    assert!(stranger.reaches(at(Routed::HOST), 80));
}

#[test]
fn a_router_bans_who_scans_the_router_itself() {
    let Routed {
        router,
        stranger,
        host,
    } = &Routed::new();
    let daemon = Daemon::start(router, "");
    let _service = host.serve(at(Routed::HOST), 80);
    stranger.nmap("-sS", "21-23", Routed::ROUTER);
    daemon.element("banned4", Routed::STRANGER);
    assert!(
        !stranger.reaches(at(Routed::HOST), 80),
        "the hosts behind it are guarded as well"
    );
}

#[test]
fn what_containers_send_and_receive_bans_nobody() {
    let Bridge {
        host,
        container,
        neighbour,
        stranger,
    } = &Bridge::new();
    let daemon = Daemon::start(host, "");
    container.nmap("-sS", "21-30", Bridge::STRANGER);
    container.nmap("-sU", "21-30", Bridge::STRANGER);
    container.nmap("-sS", "21-30", Bridge::NEIGHBOUR);
    neighbour.nmap("-sS", "21-30", Bridge::CONTAINER);
    stranger.nmap("-sS", "21-30", Bridge::CONTAINER);
    daemon.everything_is_judged(container, at(Bridge::HOST), 25);
    daemon.everything_is_judged(stranger, at(Pair::HOST), 25);
    assert_eq!(daemon.counter("hits"), 2, "the two that followed");
    daemon.assert_nobody_is_banned();
}

#[test]
fn a_container_that_scans_its_host_is_banned() {
    let Bridge {
        host, container, ..
    } = &Bridge::new();
    let daemon = Daemon::start(host, "");
    container.nmap("-sS", "21-23", Bridge::HOST);
    let element = daemon.element("banned4", Bridge::CONTAINER);
    assert_eq!(
        element.comment.as_deref(),
        Some("syn scan, 3 tcp ports, last 23"),
        "each packet counted once"
    );
}

#[test]
fn broadcast_and_multicast_never_count() {
    let Pair { host, stranger } = &Pair::new();
    // Two hits are enough: none may slip through.
    let daemon = Daemon::start(host, "[detect]\ntrigger = 2\n[udp]\nexclude = []\n");
    stranger.ip("route add default dev eth0");
    for everybody in ["10.77.0.255", "255.255.255.255", "224.0.0.1", "224.0.0.251"] {
        stranger.datagrams(at(everybody), [67, 68, 69, 137, 138, 520, 631]);
    }
    daemon.everything_is_judged(stranger, at(Pair::HOST), 25);
    for everybody in ["ff02::1", "ff02::fb"] {
        stranger.datagrams(at(everybody), [67, 68, 69, 137, 138, 520, 631]);
    }
    daemon.everything_is_judged(stranger, at(Pair::HOST6), 25);
    assert_eq!(daemon.counter("hits"), 2, "the two that followed");
    daemon.assert_nobody_is_banned();
}

#[test]
fn an_address_that_the_host_gets_later_is_its_own_at_once() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "");
    host.ip("addr add 10.77.0.200/24 dev eth0");
    stranger.nmap("-sS", "21-23", "10.77.0.200");
    daemon.element("banned4", Pair::STRANGER);
}

#[test]
fn what_is_the_hosts_own_by_a_route_alone_is_watched_and_never_banned() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "");
    daemon.ok(&["ban", "198.51.100.8"]);
    host.ip("route add local 198.51.100.0/24 dev lo");
    eventually("what is own now is unbanned", || {
        daemon.banned().is_empty().then_some(())
    });
    for own in ["198.51.100.8", "198.51.100.64/26"] {
        let said = daemon.command(&["ban", own]);
        assert_eq!(said.status, 1, "{said:?}");
        assert!(said.err.contains("is this host's own address"), "{said:?}");
    }
    stranger.ip(&format!("route add 198.51.100.0/24 via {}", Pair::HOST));
    stranger.nmap("-sS", "21-23", "198.51.100.7");
    daemon.element("banned4", Pair::STRANGER);
}

#[test]
fn answers_to_clients_behind_our_address_ban_nobody() {
    let world = Bridge::new();
    world.host.nft(
        "table ip nat { chain out { type nat hook postrouting priority 100; oifname eth0 masquerade; }; }",
    );
    let daemon = Daemon::start(&world.host, "detect.trigger = 1");
    let server = world
        .stranger
        .inside(|| UdpSocket::bind((Bridge::STRANGER, 7000)).expect("a free port"));
    // Both ask from a port below 1024, as time servers' clients do: one of them gets another such port outside.
    for client in [&world.container, &world.neighbour] {
        let client = client.inside(|| UdpSocket::bind(("0.0.0.0", 123)).expect("a free port"));
        client
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a socket takes a time-out");
        client
            .send_to(b"what time is it?", (Bridge::STRANGER, 7000))
            .expect("the stranger is routed to");
        let (_, from) = server
            .recv_from(&mut [0; 64])
            .expect("the question arrives");
        assert_eq!(
            from.ip(),
            at("10.77.0.1"),
            "it comes from the host's address"
        );
        assert!(from.port() < 1024, "and from port {}", from.port());
        server
            .send_to(b"late", from)
            .expect("the way back is the same");
        client.recv_from(&mut [0; 64]).expect("the answer arrives");
    }
    daemon.has_counted("answers", 2);
    daemon.assert_nobody_is_banned();

    // What nobody asked for is a probe, also from that server.
    server
        .send_to(b"?", ("10.77.0.1", 161))
        .expect("the host is on the cable");
    daemon.element("banned4", Bridge::STRANGER);
}

#[test]
fn ports_that_are_published_for_a_container_are_services() {
    let Bridge {
        host,
        container,
        neighbour: _,
        stranger,
    } = &Bridge::new();
    // As a container engine without a proxy of its own does it; one port is redirected on the host itself.
    host.nft(
        "add table ip published { chain pre { type nat hook prerouting priority dstnat; \
         tcp dport 80-82 dnat to 10.88.0.2; tcp dport 85 dnat to 10.88.0.2:80; tcp dport 86 redirect to :8086; \
         udp dport 80-86 dnat to 10.88.0.2; }; }",
    );
    let web = [80, 81, 82].map(|port| container.serve(at(Bridge::CONTAINER), port));
    let _here = host.serve(at(Pair::HOST), 8086);
    let daemon = Daemon::start(host, "detect.trigger = 2");
    let published = [80, 81, 82, 85, 86];
    for port in published {
        assert!(stranger.reaches(at(Pair::HOST), port));
    }
    stranger.datagrams(at(Pair::HOST), 80..=86);
    daemon.has_counted("services", 12);
    // The container restarts: what it refuses meanwhile is no scan.
    drop(web);
    for port in published {
        assert_eq!(stranger.reaches(at(Pair::HOST), port), port == 86);
    }
    daemon.has_counted("services", 17);
    daemon.assert_nobody_is_banned();
    assert_eq!(daemon.counter("hits"), 0);
    // A late packet of a connection that nobody remembers.
    stranger.hping3(1, "-F -A -p 80", Pair::HOST);
    stranger.hping3(1, "-F -p 85", Pair::HOST);
    stranger.nmap("-sS", "21,22", Pair::HOST);
    daemon.element("banned4", Pair::STRANGER);
    assert_eq!(daemon.json("history").as_array().map(Vec::len), Some(1));
}

/// Connection tracking knows where a packet was to go, also when nobody is there. (Of one that is refused at once it forgets all.)
#[test]
fn a_published_port_that_has_never_answered_is_a_service() {
    let Bridge {
        host,
        container: _other,
        neighbour: _,
        stranger,
    } = &Bridge::new();
    host.nft(
        "add table ip published { chain pre { type nat hook prerouting priority dstnat; \
         tcp dport 80-85 dnat to 10.88.0.99; }; }",
    );
    let daemon = Daemon::start(host, "detect.trigger = 2");
    stranger.nmap("-sS", "80-85", Pair::HOST);
    eventually("all are known", || {
        (daemon.counter("services") >= 6).then_some(())
    });
    daemon.assert_nobody_is_banned();
    assert_eq!(daemon.counter("hits"), 0);
    stranger.nmap("-sS", "21,22", Pair::HOST);
    daemon.element("banned4", Pair::STRANGER);
}
