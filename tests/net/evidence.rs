//! What innocents send is never evidence: late packets, strays, neighbours behind one address, users of ports that are answered
//! without a listener. Each in every way of watching, over both protocols.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use pnet::packet::tcp::TcpFlags;
use socket2::{Domain, Socket, Type};

use crate::lab::{Daemon, Host, Pair, Service, at, eventually, send_ipv6, send_tcp, tcp_syn};

/// The ways to watch.
const WAYS: [&str; 3] = [
    "",
    "capture.method = \"ip\"\n",
    "detect.confirm = \"handshake\"\n",
];

/// The host and the stranger, over each protocol.
const BOTH: [(&str, &str); 2] = [(Pair::HOST, Pair::STRANGER), (Pair::HOST6, Pair::STRANGER6)];

/// Every port is watched, and the first hit bans.
const TOUCHY: &str =
    "detect.trigger = 1\n[tcp]\nbelow = 65536\nexclude = []\n[udp]\nbelow = 65536\nexclude = []\n";

/// A port that nobody serves.
const TRAP: u16 = 25;

/// ICMPv6's number.
const ICMP6: u8 = 58;

/// What happens in each way of watching on a host and a stranger of its own. Nobody is banned for it, and who touches as many traps
/// then as `config` asks for is.
fn is_no_evidence(config: &str, happens: impl Fn(&Host, &Host, &Daemon<'_>)) {
    for way in WAYS {
        let Pair { host, stranger } = &Pair::new();
        let daemon = Daemon::start(host, &format!("{way}{config}"));
        happens(host, stranger, &daemon);
        let unconfirmed = daemon.counter("unconfirmed");
        assert_eq!(daemon.counter("hits"), unconfirmed, "{way}");
        daemon.assert_nobody_is_banned();
        stranger.knock(at(Pair::HOST), [TRAP]);
        daemon.element("banned4", Pair::STRANGER);
    }
}

/// Waits until it has been seen that so much more came to services than before.
fn services_after<T>(daemon: &Daemon<'_>, more: u64, what: impl FnOnce() -> T) -> T {
    let before = daemon.counter("services");
    let done = what();
    daemon.has_counted("services", before + more);
    done
}

/// Connects from this port.
fn connect_from(stranger: &Host, from: (&str, u16), to: (&str, u16)) -> std::io::Result<TcpStream> {
    let from = SocketAddr::new(at(from.0), from.1);
    let to = SocketAddr::new(at(to.0), to.1);
    stranger.inside(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&from.into())?;
        socket.connect_timeout(&to.into(), Duration::from_secs(10))?;
        Ok(TcpStream::from(socket))
    })
}

fn said(connection: std::io::Result<TcpStream>) -> String {
    let mut connection = connection.expect("it is accepted");
    connection
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a socket takes one");
    let mut words = String::new();
    connection.read_to_string(&mut words).expect("it is served");
    words
}

/// The service closes first, so that its end of each connection is in TIME_WAIT when the next one comes, and when the service is
/// gone.
#[test]
fn who_comes_again_to_a_connection_in_time_wait_is_no_scanner() {
    is_no_evidence(TOUCHY, |host, stranger, daemon| {
        for (address, own) in BOTH {
            let service = host.serve(at(address), 80);
            for _ in 0..3 {
                let connection = services_after(daemon, 1, || {
                    connect_from(stranger, (own, 40_000), (address, 80))
                });
                assert_eq!(said(connection), "welcome\n");
                let remains = host.run("ss -Htan state time-wait");
                assert!(remains.contains(":80 "), "{remains}");
            }
            drop(service);
            // The end once more, as where our last word was lost; and another try.
            let from = SocketAddr::new(at(own), 40_000);
            let to = SocketAddr::new(at(address), 80);
            send_tcp(stranger, from, to, TcpFlags::FIN | TcpFlags::ACK);
            services_after(daemon, 1, || {
                let _ = connect_from(stranger, (own, 40_000), (address, 80));
            });
        }
    });
}

/// All that may come of a connection that nobody remembers any more, to ports that nobody serves.
#[test]
fn what_comes_late_of_a_closed_connection_is_no_probe() {
    is_no_evidence(TOUCHY, |_, stranger, daemon| {
        let (fin, ack, rst, psh) = (TcpFlags::FIN, TcpFlags::ACK, TcpFlags::RST, TcpFlags::PSH);
        let late = [
            fin | ack,
            fin | psh | ack,
            ack,
            psh | ack,
            rst,
            rst | ack,
            TcpFlags::SYN | ack,
            ack | TcpFlags::URG,
        ];
        for (address, own) in BOTH {
            let from = SocketAddr::new(at(own), 40_000);
            for port in [22, 80, 443, 50_000] {
                for flags in late {
                    let to = SocketAddr::new(at(address), port);
                    send_tcp(stranger, from, to, flags);
                }
            }
        }
        is_all_judged(daemon, stranger);
    });
}

/// Waits until what was sent before this has been judged, by a packet to a service.
fn is_all_judged(daemon: &Daemon<'_>, stranger: &Host) {
    for (address, _) in BOTH {
        let host = daemon.host();
        let service = host.serve(at(address), 70);
        services_after(daemon, 1, || {
            assert!(stranger.reaches(at(address), 70));
        });
        drop(service);
    }
}

#[test]
fn who_still_talks_to_a_service_that_has_gone_is_no_scanner() {
    is_no_evidence(TOUCHY, |host, stranger, daemon| {
        for (address, _) in BOTH {
            let service = host.serve(at(address), 80);
            let mut open = services_after(daemon, 5, || {
                let open = (0..5).map(|_| stranger.connect(at(address), 80));
                open.collect::<Result<Vec<_>, _>>().expect("it is served")
            });
            eventually("all are served", || (service.taken() == 5).then_some(()));
            drop(service);
            for connection in &mut open {
                // Data that nobody takes any more, and the end: the host answers with resets.
                let _ = connection.write_all(b"GET / HTTP/1.0\r\n\r\n");
            }
            drop(open);
        }
        is_all_judged(daemon, stranger);
    });
}

#[test]
fn what_routers_say_of_our_own_packets_is_no_probe() {
    is_no_evidence(TOUCHY, |_, stranger, daemon| {
        for kind in ["-C 3 -K 3", "-C 3 -K 1", "-C 11 -K 0"] {
            stranger.hping3(3, &format!("--icmp {kind}"), Pair::HOST);
        }
        // Unreachable, too big, time exceeded; each with a SYN from the host to somebody else.
        let host: std::net::Ipv6Addr = Pair::HOST6.parse().expect("an address");
        let mut about = vec![0x60, 0, 0, 0, 0, 20, 6, 64];
        about.extend(host.octets());
        about.extend(
            "2001:db8::1"
                .parse::<std::net::Ipv6Addr>()
                .expect("an address")
                .octets(),
        );
        about.extend(tcp_syn(Pair::HOST6, "2001:db8::1", 80));
        for kind in [1, 2, 3] {
            let mut message = vec![kind, 0, 0, 0, 0, 0, 5, 0];
            message.extend(&about);
            send_ipv6(stranger, Pair::HOST6, ICMP6, &message);
        }
        is_all_judged(daemon, stranger);
    });
}

#[test]
fn connections_that_the_host_opens_ban_nobody() {
    is_no_evidence(TOUCHY, |host, stranger, daemon| {
        for (_, own) in BOTH {
            let service = stranger.serve(at(own), 80);
            for _ in 0..10 {
                assert!(host.reaches(at(own), 80));
                // Refused: a reset comes back.
                assert!(!host.reaches(at(own), 81));
            }
            eventually("all have been served", || {
                (service.taken() == 10).then_some(())
            });
        }
        is_all_judged(daemon, stranger);
    });
}

/// Where connections are tracked, also for a socket that is closed by then.
#[test]
fn answers_to_questions_of_the_host_ban_nobody_however_late() {
    is_no_evidence(TOUCHY, |host, stranger, daemon| {
        host.nft(
            "add table inet filter { chain in { type filter hook input priority filter; ct state established accept; }; }",
        );
        let any = |own: &str| {
            if own.contains(':') {
                "[::]:0"
            } else {
                "0.0.0.0:0"
            }
        };
        for (_, own) in BOTH {
            let server = stranger.inside(|| UdpSocket::bind((own, 53)).expect("a free port"));
            let client = host.inside(|| UdpSocket::bind(any(own)).expect("a free port"));
            client
                .send_to(b"question", (own, 53))
                .expect("it is on the cable");
            let (_, from) = server
                .recv_from(&mut [0; 64])
                .expect("the question arrives");
            services_after(daemon, 1, || {
                server.send_to(b"answer", from).expect("the way back")
            });
            drop(client);
            eventually("the port is let go of", || {
                let open = host.run("ss -Huan");
                (!open.contains(&format!(":{} ", from.port()))).then_some(())
            });
            let before = (daemon.counter("answers"), daemon.counter("services"));
            server.send_to(b"once more", from).expect("the way back");
            eventually("it is judged", || {
                let now = (daemon.counter("answers"), daemon.counter("services"));
                (now != before).then_some(())
            });
        }
    });
}

/// Many customers of a provider have one address: what they do at ports that are open adds nothing to what one of them does.
#[test]
fn neighbours_behind_one_address_add_nothing_by_using_what_is_open() {
    for way in WAYS {
        for ((address, own), set) in BOTH.into_iter().zip(["banned4", "banned6"]) {
            let Pair { host, stranger } = &Pair::new();
            let open = 80..90;
            let services: Vec<_> = open
                .clone()
                .map(|port| host.serve(at(address), port))
                .collect();
            let daemon = Daemon::start(host, way);
            let hits = if way.contains("handshake") { 2 } else { 1 };
            for (n, trap) in (1..).zip([21, 23]) {
                stranger.knock(at(address), [trap]);
                daemon.has_counted("hits", n * hits);
                services_after(&daemon, 50, || {
                    for port in open.clone().cycle().take(50) {
                        assert!(stranger.reaches(at(address), port));
                    }
                });
                for port in open.clone() {
                    let from = SocketAddr::new(at(own), 40_000);
                    let to = SocketAddr::new(at(address), port);
                    // A scanner's packet, to a port that is open.
                    services_after(&daemon, 1, || send_tcp(stranger, from, to, TcpFlags::FIN));
                }
            }
            daemon.assert_nobody_is_banned();
            assert_eq!(daemon.counter("hits"), 2 * hits);
            let told = daemon.ok(&["explain", own]);
            assert!(told.contains("probes that count: 2 of the 3"), "{told}");
            drop(services);
            stranger.knock(at(address), [25]);
            daemon.element(set, own);
        }
    }
}

/// Bound by somebody who takes no connections yet, as a service manager does that starts the service with the first one.
#[test]
fn a_port_that_is_listened_on_for_a_service_to_come_is_one() {
    is_no_evidence(TOUCHY, |host, stranger, daemon| {
        for (address, own) in BOTH {
            let listener = host.inside(|| TcpListener::bind((address, 79)).expect("a free port"));
            let socket = host.inside(|| UdpSocket::bind((address, 79)).expect("a free port"));
            services_after(daemon, 15, || {
                for _ in 0..5 {
                    assert!(stranger.reaches(at(address), 79));
                }
                stranger.datagrams(at(address), [79; 10]);
            });
            // The service has come, serves one, and ends; the manager goes on listening.
            let (served, _) = listener.accept().expect("there are some");
            assert_eq!(served.peer_addr().map(|from| from.ip()).ok(), Some(at(own)));
            drop(served);
            services_after(daemon, 1, || assert!(stranger.reaches(at(address), 79)));
            drop((listener, socket));
        }
    });
}

/// The service itself, started by systemd's own tool.
#[test]
fn what_systemd_listens_on_is_a_service() {
    is_no_evidence(TOUCHY, |host, stranger, daemon| {
        for (address, _) in BOTH {
            let to = SocketAddr::new(at(address), 79);
            let mut manager = host
                .command("systemd-socket-activate")
                .args(["--listen", &to.to_string(), "--accept", "--inetd"])
                .args(["echo", "activated"])
                .stderr(std::process::Stdio::null())
                .spawn()
                .expect("systemd is there");
            eventually("it listens", || {
                host.run("ss -Htln").contains(":79 ").then_some(())
            });
            for _ in 0..3 {
                let words = services_after(daemon, 1, || said(stranger.connect(at(address), 79)));
                assert_eq!(words, "activated\n");
            }
            manager.kill().expect("it runs");
            manager.wait().expect("it ran");
            // While it is restarted, it is one still.
            services_after(daemon, 1, || {
                let _ = stranger.connect(at(address), 79);
            });
        }
    });
}

/// A listener for one caller, closed as soon as he is there, as FTP's is for data.
#[test]
fn a_listener_for_one_caller_alone_is_a_service() {
    is_no_evidence(TOUCHY, |host, stranger, daemon| {
        for (address, _) in BOTH {
            // With handshakes, what came before one is counted with what counts for nothing.
            let judged = || daemon.counter("services") + daemon.counter("unconfirmed");
            let before = judged();
            let mut open = Vec::new();
            for port in [2000, 2001, 2002] {
                let listener = host.inside(|| TcpListener::bind((address, port)).expect("free"));
                open.push(stranger.connect(at(address), port).expect("it is served"));
                open.push(listener.accept().expect("he is there").0);
            }
            eventually("all are judged", || (judged() == before + 3).then_some(()));
        }
    });
}

/// To another port here, or to somebody who is not there and never answers.
#[test]
fn ports_that_are_handed_on_are_services() {
    is_no_evidence(TOUCHY, |host, stranger, daemon| {
        host.be_a_router();
        for ((address, _), (family, absent)) in BOTH
            .into_iter()
            .zip([("ip", "10.77.0.99"), ("ip6", "fd77::99")])
        {
            host.nft(&format!(
                "add table {family} published {{ chain pre {{ type nat hook prerouting priority dstnat; \
                 tcp dport 86 redirect to :8086; tcp dport 87 dnat to {absent}; udp dport 86 dnat to {absent}; }}; }}"
            ));
            let service = host.serve(at(address), 8086);
            services_after(daemon, 3, || {
                for _ in 0..3 {
                    assert!(stranger.reaches(at(address), 86));
                }
            });
            drop(service);
            // Refused, or a trap of ours takes it.
            services_after(daemon, 1, || {
                let _ = stranger.connect(at(address), 86);
            });
            assert!(!stranger.reaches(at(address), 87));
            stranger.datagrams(at(address), [86; 3]);
        }
        is_all_judged(daemon, stranger);
    });
}

/// An admin's own rule hands ports to a proxy that listens on another: nothing is bound to them, and no connection is tracked.
fn with_proxy(host: &Host, address: IpAddr) -> Service {
    let family = if address.is_ipv4() { "ip" } else { "ip6" };
    host.nft(&format!(
        "add table {family} proxy {{ chain pre {{ type filter hook prerouting priority mangle; \
         tcp dport 1000-1009 tproxy to :3128 accept; }}; }}"
    ));
    host.serve_for_others(address, 3128)
}

/// With handshakes, packets to its ports are counted with those that count for nothing.
#[test]
fn ports_that_a_proxy_answers_are_services() {
    for way in WAYS {
        let Pair { host, stranger } = &Pair::new();
        let (told, each) = if way.contains("handshake") {
            ("unconfirmed", 2)
        } else {
            ("services", 1)
        };
        let daemon = Daemon::start(host, way);
        for (address, _) in BOTH {
            let _proxy = with_proxy(host, at(address));
            let before = daemon.counter(told);
            for (n, port) in (1..).zip(1000..1010) {
                assert_eq!(said(stranger.connect(at(address), port)), "welcome\n");
                daemon.has_counted(told, before + n);
            }
        }
        // What its users did adds nothing to what one of them does later.
        let before = daemon.counter("hits");
        stranger.knock(at(Pair::HOST), [21, 23]);
        daemon.has_counted("hits", before + 2 * each);
        daemon.assert_nobody_is_banned();
        stranger.knock(at(Pair::HOST), [TRAP]);
        daemon.element("banned4", Pair::STRANGER);
    }
}
