//! What somebody listens on is no trap.

use std::net::{SocketAddr, UdpSocket};

use portsentry::host::Closings;

use crate::lab::{Daemon, Pair, at, eventually};

/// Every port is watched, and the first hit bans.
const TOUCHY: &str = "[detect]\ntrigger = 1\n[tcp]\nbelow = 65536\nexclude = []\n[udp]\nbelow = 65536\nexclude = []\n";

#[test]
fn a_hundred_connections_to_an_open_port_ban_nobody() {
    let Pair { host, stranger } = &Pair::new();
    let (service, service6) = (
        host.serve(at(Pair::HOST), 80),
        host.serve(at(Pair::HOST6), 80),
    );
    let daemon = Daemon::start(host, TOUCHY);
    for _ in 0..100 {
        assert!(stranger.reaches(at(Pair::HOST), 80));
        assert!(stranger.reaches(at(Pair::HOST6), 80));
    }
    daemon.has_counted("services", 200);
    eventually("all have been served", || {
        (service.taken() + service6.taken() == 200).then_some(())
    });
    assert_eq!(daemon.counter("hits"), 0);
    daemon.assert_nobody_is_banned();
}

#[test]
fn strays_to_an_open_port_ban_nobody() {
    let Pair { host, stranger } = &Pair::new();
    let _service = host.serve(at(Pair::HOST), 80);
    let daemon = Daemon::start(host, TOUCHY);
    for flags in ["-F", "", "-F -P -U", "-S", "-U"] {
        stranger.hping3(20, &format!("{flags} -p 80"), Pair::HOST);
    }
    daemon.has_counted("services", 100);
    assert_eq!(daemon.counter("hits"), 0);
    daemon.assert_nobody_is_banned();
    assert!(stranger.reaches(at(Pair::HOST), 80));
}

#[test]
fn a_service_on_all_addresses_is_one_on_each() {
    let Pair { host, stranger } = &Pair::new();
    // Both protocols by one socket, as most services listen.
    let _service = host.serve(at("::"), 80);
    let daemon = Daemon::start(host, TOUCHY);
    for address in [Pair::HOST, Pair::HOST6] {
        assert!(stranger.reaches(at(address), 80));
    }
    daemon.has_counted("services", 2);
    daemon.assert_nobody_is_banned();
}

#[test]
fn a_port_that_is_open_on_another_address_alone_is_a_trap() {
    let Pair { host, stranger } = &Pair::new();
    let _service = host.serve(at("127.0.0.1"), 25);
    let daemon = Daemon::start(host, TOUCHY);
    stranger.knock(at(Pair::HOST), [25]);
    daemon.element("banned4", Pair::STRANGER);
}

#[test]
fn a_bound_udp_port_is_no_trap() {
    let Pair { host, stranger } = &Pair::new();
    let server = host.inside(|| UdpSocket::bind((Pair::HOST, 53)).unwrap());
    let daemon = Daemon::start(host, TOUCHY);
    stranger.datagrams(at(Pair::HOST), [53; 10]);
    daemon.has_counted("services", 10);
    daemon.assert_nobody_is_banned();
    drop(server);
}

#[test]
fn answers_to_a_connected_udp_socket_ban_nobody() {
    let Pair { host, stranger } = &Pair::new();
    let resolver = stranger.inside(|| UdpSocket::bind((Pair::STRANGER, 53)).unwrap());
    let daemon = Daemon::start(host, TOUCHY);
    let client = host.inside(|| {
        let client = UdpSocket::bind("0.0.0.0:0").unwrap();
        client.connect((Pair::STRANGER, 53)).unwrap();
        client
    });
    client.send(b"question").unwrap();
    let mut buffer = [0; 64];
    let (_, from) = resolver.recv_from(&mut buffer).unwrap();
    for _ in 0..10 {
        resolver.send_to(b"answer", from).unwrap();
    }
    daemon.has_counted("services", 10);
    daemon.assert_nobody_is_banned();
}

#[test]
fn answers_that_come_when_who_asked_has_gone_ban_nobody() {
    let Pair { host, stranger } = &Pair::new();
    let server = stranger.inside(|| UdpSocket::bind((Pair::STRANGER, 53)).unwrap());
    let daemon = Daemon::start(host, TOUCHY);
    // What the kernel tells one, it has told all.
    let mut closings = host.inside(|| Closings::open(Some(0..=u16::MAX)).unwrap());
    // As programs of root do it that must have a port below 1024, and as others.
    for bind in ["0.0.0.0:700", "[::]:701", "10.77.0.1:702", "0.0.0.0:0"] {
        let client = host.inside(|| UdpSocket::bind(bind).unwrap());
        let to = match client.local_addr().unwrap() {
            SocketAddr::V4(_) => format!("{}:53", Pair::STRANGER),
            SocketAddr::V6(_) => format!("[::ffff:{}]:53", Pair::STRANGER),
        };
        client.send_to(b"question", to).unwrap();
        drop(client);
        let (_, from) = server.recv_from(&mut [0; 64]).unwrap();
        eventually("it is told that the port is free", || {
            let mut told = closings.take().into_iter();
            told.any(|it| it.port() == from.port()).then_some(())
        });
        server.send_to(b"late answer", from).unwrap();
    }
    daemon.has_counted("services", 4);
    daemon.assert_nobody_is_banned();
    // What nobody asked for is a probe, also from there.
    server.send_to(b"?", (Pair::HOST, 703)).unwrap();
    daemon.element("banned4", Pair::STRANGER);
}

#[test]
fn a_service_that_starts_under_fire_is_spared_at_once() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "[detect]\ntrigger = 2\ncount = \"hits\"\n");
    stranger.knock(at(Pair::HOST), [80]);
    daemon.has_counted("hits", 1);
    // The answer "nobody there" is fresh, but is not believed when it comes to a ban.
    let _service = host.serve(at(Pair::HOST), 80);
    assert!(stranger.reaches(at(Pair::HOST), 80));
    daemon.has_counted("services", 1);
    daemon.assert_nobody_is_banned();
}

#[test]
fn clients_of_a_service_that_is_restarting_are_no_scanners() {
    let Pair { host, stranger } = &Pair::new();
    let web: Vec<_> = [80, 443]
        .map(|port| host.serve(at(Pair::HOST), port))
        .into();
    let daemon = Daemon::start(host, TOUCHY);
    for port in [80, 443] {
        assert!(stranger.reaches(at(Pair::HOST), port));
    }
    daemon.has_counted("services", 2);
    drop(web);
    for port in [80, 443, 80] {
        assert!(!stranger.reaches(at(Pair::HOST), port));
    }
    daemon.has_counted("services", 5);
    daemon.assert_nobody_is_banned();
    // What nobody has served is a trap still.
    stranger.knock(at(Pair::HOST), [8080]);
    daemon.element("banned4", Pair::STRANGER);
}
