//! Real packets over a pair of virtual links between two network namespaces: a scanner's and a host's.

mod lab;

use std::collections::HashSet;
use std::net::IpAddr;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use self::lab::{HOST_V4, HOST_V6, Lab, SCANNER_V4, SCANNER_V6};
use super::*;
use crate::probe::ScanType;
use crate::probe::tests::{
    ACK, FIN, PSH, RST, SYN, URG, extension, fragment, tcp_header, udp_header,
};

const METHODS: [Method; 2] = [Method::Packet, Method::Ip];

/// A UDP port that closes each case: what has not been seen when it arrives will not be.
const MARKER: u16 = 999;

fn open(method: Method, interfaces: Option<Vec<u32>>) -> Capture {
    Capture::open(Settings {
        method,
        interfaces,
        watched: Watched {
            tcp: Some(1..=1023),
            udp: Some(1..=1023),
        },
    })
    .unwrap()
}

/// Reads until as many markers have come as were sent, and gives back everything else, in any order.
fn read_until_marked(capture: &mut Capture, markers: usize) -> Vec<Probe> {
    let mut seen = Vec::new();
    while seen.iter().filter(|probe| is_marker(probe)).count() < markers {
        let mut ready: Vec<PollFd<'_>> = capture
            .fds()
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        let count = poll(&mut ready, PollTimeout::from(5000_u16)).unwrap();
        assert!(count > 0, "no marker within 5 s; until then {seen:?}");
        let which: Vec<usize> = (0..ready.len())
            .filter(|&which| ready[which].any() == Some(true))
            .collect();
        for which in which {
            capture.read(which, &mut seen).unwrap();
        }
    }
    // The sockets are read in turn: what was sent before a marker may wait in another.
    let sockets = capture.fds().len();
    for which in 0..sockets {
        while capture.read(which, &mut seen).unwrap().full {}
    }
    seen.retain(|probe| !is_marker(probe));
    seen
}

fn is_marker(probe: &Probe) -> bool {
    probe.protocol == Protocol::Udp && probe.port == MARKER
}

/// Sends one marker by each family, and reads up to them.
fn seen_by(lab: &Lab, capture: &mut Capture) -> Vec<Probe> {
    lab.send_v4(17, 0, &udp_header(MARKER));
    lab.send_v6(17, &udp_header(MARKER));
    read_until_marked(capture, 2)
}

fn words(seen: &[Probe]) -> HashSet<(bool, u16, ScanType)> {
    seen.iter()
        .map(|probe| (probe.source.is_ipv6(), probe.port, probe.scan_type))
        .collect()
}

#[test]
fn every_kind_of_scan_is_seen_once_by_both_methods_and_both_families() {
    let lab = Lab::new();
    for method in METHODS {
        let mut capture = open(method, None);
        let kinds = [
            (101, SYN, ScanType::Syn),
            (102, FIN, ScanType::Fin),
            (103, 0, ScanType::Null),
            (104, FIN | PSH | URG, ScanType::Xmas),
            (105, SYN | FIN, ScanType::Odd),
        ];
        for (port, flags, _) in kinds {
            lab.send_v4(6, 0, &tcp_header(port, flags));
            lab.send_v6(6, &tcp_header(port, flags));
        }
        lab.send_v4(17, 0, &udp_header(106));
        lab.send_v6(17, &udp_header(106));
        let seen = seen_by(&lab, &mut capture);
        let expected: HashSet<_> = kinds
            .into_iter()
            .map(|(port, _, scan_type)| (port, scan_type))
            .chain([(106, ScanType::Udp)])
            .flat_map(|(port, kind)| [(false, port, kind), (true, port, kind)])
            .collect();
        assert_eq!(words(&seen), expected, "{method:?}");
        assert_eq!(seen.len(), expected.len(), "each once: {method:?}");
        for probe in seen {
            let (source, dest): (IpAddr, IpAddr) = match probe.source {
                IpAddr::V4(_) => (SCANNER_V4.into(), HOST_V4.into()),
                IpAddr::V6(_) => (SCANNER_V6.into(), HOST_V6.into()),
            };
            assert_eq!((probe.source, probe.dest), (source, dest));
        }
        let counters = capture.counters();
        assert_eq!((counters.packets, counters.probes), (14, 14));
        assert_eq!(counters.kernel_drops, 0);
    }
}

#[test]
fn answers_and_ports_out_of_range_never_leave_the_kernel() {
    let lab = Lab::new();
    for method in METHODS {
        let mut capture = open(method, None);
        for flags in [ACK, RST, SYN | ACK, RST | ACK, FIN | ACK] {
            lab.send_v4(6, 0, &tcp_header(80, flags));
            lab.send_v6(6, &tcp_header(80, flags));
        }
        for port in [0, 1024, 8080] {
            lab.send_v4(6, 0, &tcp_header(port, SYN));
            lab.send_v6(17, &udp_header(port));
        }
        assert_eq!(seen_by(&lab, &mut capture), []);
        assert_eq!(capture.counters().packets, 2, "the markers: {method:?}");
    }
}

#[test]
fn a_packet_socket_sees_what_the_firewall_drops() {
    let lab = Lab::new();
    lab.run("nft add table inet wall");
    lab.run("nft add chain inet wall input { type filter hook input priority 0 ; policy drop ; }");
    lab.run("nft add rule inet wall input icmpv6 type { 135, 136 } accept");
    let mut by_packet = open(Method::Packet, None);
    let mut by_ip = open(Method::Ip, None);
    lab.send_v4(6, 0, &tcp_header(23, SYN));
    lab.send_v6(6, &tcp_header(23, SYN));
    let expected = HashSet::from([(false, 23, ScanType::Syn), (true, 23, ScanType::Syn)]);
    assert_eq!(words(&seen_by(&lab, &mut by_packet)), expected);
    lab.run("nft delete table inet wall");
    assert_eq!(seen_by(&lab, &mut by_ip), [], "raw sockets stand behind it");
}

#[test]
fn what_the_ingress_hook_drops_is_not_seen() {
    let lab = Lab::new();
    lab.run("nft add table netdev wall");
    lab.run(
        "nft add chain netdev wall ingress { type filter hook ingress device in priority 0 ; }",
    );
    lab.run("nft add rule netdev wall ingress tcp dport 23 drop");
    let mut capture = open(Method::Packet, None);
    lab.send_v4(6, 0, &tcp_header(23, SYN));
    lab.send_v4(6, 0, &tcp_header(24, SYN));
    let seen = words(&seen_by(&lab, &mut capture));
    assert_eq!(seen, [(false, 24, ScanType::Syn)].into());
}

#[test]
fn a_syn_in_two_fragments_is_seen_once() {
    let lab = Lab::new();
    let syn = tcp_header(22, SYN);
    for (method, kind) in [
        (Method::Packet, ScanType::Fragment),
        (Method::Ip, ScanType::Syn), // reassembled
    ] {
        let mut capture = open(method, None);
        lab.send_v4(6, 0x2000, &syn[..8]);
        lab.send_v4(6, 1, &syn[8..]);
        let seen = seen_by(&lab, &mut capture);
        assert_eq!(words(&seen), [(false, 22, kind)].into(), "{method:?}");
    }
    // Linux drops an IPv6 fragment without a whole transport header, so that raw sockets see none.
    let mut capture = open(Method::Packet, None);
    for (at, bytes) in [(0, &syn[..16]), (2, &syn[16..])] {
        lab.send_v6(44, &[&fragment(6, at, at == 0), bytes].concat());
    }
    let seen = seen_by(&lab, &mut capture);
    assert_eq!(words(&seen), [(true, 22, ScanType::Syn)].into());
    assert_eq!(capture.counters().skips, [0; Skip::COUNT], "the later one");
}

#[test]
fn nmaps_fragments_are_seen() {
    let lab = Lab::new();
    let mut capture = open(Method::Packet, None);
    lab.run_at_scanner(&format!(
        "nmap -n -Pn -sS -f -p 21-23 --max-retries 0 {HOST_V4}"
    ));
    let expected = [21, 22, 23].map(|port| (false, port, ScanType::Fragment));
    assert_eq!(words(&seen_by(&lab, &mut capture)), expected.into());
}

#[test]
fn a_syn_behind_extension_headers_is_seen() {
    let lab = Lab::new();
    for method in METHODS {
        let mut capture = open(method, None);
        lab.send_v6(60, &[extension(6, 0), tcp_header(23, SYN)].concat());
        let headers = [fragment(60, 0, false), extension(6, 0)].concat();
        lab.send_v6(44, &[headers, tcp_header(24, FIN)].concat());
        lab.send_v6(0, &[extension(17, 0), udp_header(25)].concat());
        lab.send_v6(60, &[extension(6, 0), tcp_header(26, ACK)].concat());
        let seen = seen_by(&lab, &mut capture);
        let expected = [
            (true, 23, ScanType::Syn),
            (true, 24, ScanType::Fin),
            (true, 25, ScanType::Udp),
        ];
        assert_eq!(words(&seen), expected.into(), "{method:?}");
    }
}

#[test]
fn loopback_is_seen_only_if_it_is_named() {
    let lab = Lab::new();
    let connect = || {
        for address in ["127.0.0.1:77", "[::1]:77"] {
            assert!(std::net::TcpStream::connect(address).is_err());
        }
    };
    for method in METHODS {
        let mut capture = open(method, None);
        connect();
        assert_eq!(seen_by(&lab, &mut capture), [], "{method:?}");

        capture
            .set_interfaces(Some(vec![1, lab.interface("in")]))
            .unwrap();
        connect();
        let seen = words(&seen_by(&lab, &mut capture));
        let expected = [(false, 77, ScanType::Syn), (true, 77, ScanType::Syn)];
        assert_eq!(seen, expected.into(), "{method:?}");
    }
}

#[test]
fn only_the_named_interfaces_count() {
    let lab = Lab::new();
    for method in METHODS {
        // Number 4000 is nobody's.
        let mut capture = open(method, Some(vec![1, 4000]));
        lab.send_v4(6, 0, &tcp_header(23, SYN));
        lab.send_v6(6, &tcp_header(23, SYN));
        // Both have arrived when the host has answered what was sent after them.
        lab.run_at_scanner(&format!("ping -c1 -W5 {HOST_V4}"));
        lab.run_at_scanner(&format!("ping -c1 -W5 {HOST_V6}"));
        capture
            .set_interfaces(Some(vec![4000, lab.interface("in")]))
            .unwrap();
        assert_eq!(seen_by(&lab, &mut capture), [], "{method:?}");
    }
}

#[test]
fn a_reload_changes_the_watched_ports_of_open_sockets() {
    let lab = Lab::new();
    for method in METHODS {
        let mut capture = open(method, None);
        let marker = Some(MARKER..=MARKER);
        capture
            .set_watched(Watched {
                tcp: None,
                udp: marker.clone(),
            })
            .unwrap();
        lab.send_v4(6, 0, &tcp_header(23, SYN));
        assert_eq!(seen_by(&lab, &mut capture), [], "{method:?}");
        capture
            .set_watched(Watched {
                tcp: Some(5000..=6000),
                udp: marker,
            })
            .unwrap();
        lab.send_v4(6, 0, &tcp_header(23, SYN));
        lab.send_v4(6, 0, &tcp_header(5001, SYN));
        let seen = words(&seen_by(&lab, &mut capture));
        assert_eq!(seen, [(false, 5001, ScanType::Syn)].into());
    }
}

#[test]
fn a_packet_on_a_bridge_is_seen_once_on_the_bridge() {
    let lab = Lab::new();
    lab.run("ip link add bridge type bridge forward_delay 0");
    lab.run("ip addr flush dev in");
    lab.run("ip link set in master bridge");
    lab.address("bridge", &format!("{HOST_V4}/24"), &format!("{HOST_V6}/64"));
    lab.until_it_answers();
    for method in METHODS {
        for interfaces in [None, Some(vec![lab.interface("bridge")])] {
            let mut capture = open(method, interfaces);
            lab.send_v4(6, 0, &tcp_header(23, SYN));
            lab.send_v6(6, &tcp_header(23, SYN));
            let seen = seen_by(&lab, &mut capture);
            let expected = [(false, 23, ScanType::Syn), (true, 23, ScanType::Syn)];
            assert_eq!(words(&seen), expected.into(), "{method:?}");
            assert_eq!(seen.len(), 2, "each once: {method:?}");
        }
    }
}

#[test]
fn a_full_batch_says_that_more_may_wait() {
    let lab = Lab::new();
    for method in METHODS {
        let mut capture = open(method, None);
        for port in 1..=BATCH {
            let port = u16::try_from(port).unwrap();
            lab.send_v6(6, &tcp_header(port, SYN));
        }
        lab.send_v6(6, &tcp_header(500, SYN));
        lab.run_at_scanner(&format!("ping -c1 -W5 {HOST_V6}"));
        let mut seen = Vec::new();
        let sockets = capture.fds().len();
        let reports: Vec<ReadReport> = (0..sockets)
            .flat_map(|which| [which, which])
            .map(|which| capture.read(which, &mut seen).unwrap())
            .filter(|report| report.packets > 0)
            .collect();
        let full = ReadReport {
            packets: BATCH,
            full: true,
        };
        let rest = ReadReport {
            packets: 1,
            full: false,
        };
        assert_eq!(reports, [full, rest], "{method:?}");
        assert_eq!(seen.len(), BATCH + 1);
        assert!(seen.iter().all(|probe| probe.dest == IpAddr::from(HOST_V6)));
    }
}

#[test]
fn packets_that_nobody_reads_in_time_are_counted() {
    let lab = Lab::new();
    for method in METHODS {
        let capture = open(method, None);
        let mut sent = 0;
        while capture.counters().kernel_drops == 0 {
            assert!(sent < 100_000, "the receive buffer has a bound");
            for _ in 0..500 {
                lab.send_v4(17, 0, &udp_header(53));
            }
            sent += 500;
        }
        assert!(sent > 5_000, "{method:?}: room for only {sent}");
    }
}

#[test]
fn there_is_no_socket_beyond_the_last() {
    let _lab = Lab::new();
    let mut capture = open(Method::Packet, None);
    let error = capture.read(2, &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn without_the_capability_the_error_says_what_to_do() {
    let _lab = Lab::new();
    caps::drop(None, caps::CapSet::Effective, caps::Capability::CAP_NET_RAW).unwrap();
    for (method, what) in [
        (Method::Packet, "cannot open the packet socket for IPv4 "),
        (Method::Ip, "cannot open the raw IPv4 socket for TCP "),
    ] {
        let error = Capture::open(Settings {
            method,
            interfaces: None,
            watched: Watched::default(),
        })
        .map(|_| ())
        .unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with(what), "{text}");
        assert!(text.contains("needs CAP_NET_RAW"), "{text}");
    }
}

#[test]
fn too_many_interfaces_are_refused_before_anything_is_opened() {
    let _lab = Lab::new();
    let error = Capture::open(Settings {
        method: Method::Packet,
        interfaces: Some((1..=501).collect()),
        watched: Watched::default(),
    })
    .map(|_| ())
    .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("501 interfaces: 500 are the most")
    );
}
