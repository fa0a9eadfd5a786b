//! The filter as the kernel runs it: attached to a Unix socket, it sees exactly the bytes that are sent there.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;

use proptest::prelude::*;
use socket2::SockRef;

use super::*;
use crate::capture::sockets::kernel_form;
use crate::probe::tests::{
    ACK, RST, SYN, any_packet, extension, fragment, ipv4, ipv6, tcp_header, udp_header,
};
use crate::probe::{Skip, parse, parse_ipv6_payload};

/// The kernel with the packet part of one filter.
struct Kernel {
    send: UnixDatagram,
    receive: UnixDatagram,
}

impl Kernel {
    fn new(view: View, watched: &Watched) -> Self {
        let mut asm = Assembler::default();
        packet(&mut asm, view, watched);
        let (send, receive) = UnixDatagram::pair().unwrap();
        receive.set_nonblocking(true).unwrap();
        SockRef::from(&receive)
            .attach_filter(&kernel_form(&asm.finish()))
            .unwrap();
        Self { send, receive }
    }

    /// How many bytes of the packet pass; `None`: it is dropped.
    fn passes(&self, packet: &[u8]) -> Option<usize> {
        self.send.send(packet).unwrap();
        match self.receive.recv(&mut [0; 9000]) {
            Ok(len) => Some(len),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }
}

fn view_of(packet: &[u8]) -> View {
    match packet[0] >> 4 {
        4 => View::Ipv4,
        _ => View::Ipv6,
    }
}

fn watched(tcp: RangeInclusive<u16>, udp: RangeInclusive<u16>) -> Watched {
    Watched {
        tcp: Some(tcp),
        udp: Some(udp),
    }
}

fn in_range(watched: &Watched, protocol: Protocol, port: u16) -> bool {
    let range = match protocol {
        Protocol::Tcp => &watched.tcp,
        Protocol::Udp => &watched.udp,
    };
    range.as_ref().is_some_and(|range| range.contains(&port))
}

/// Where the filter leaves the judgement to `parse`, for want of a loop.
fn has_extensions(packet: &[u8]) -> bool {
    view_of(packet) == View::Ipv6
        && (EXTENSIONS.contains(&packet[6].into()) || u32::from(packet[6]) == FRAGMENT)
}

fn any_watched() -> impl Strategy<Value = Watched> {
    let range = || {
        proptest::option::weighted(0.9, (any::<u16>(), any::<u16>()))
            .prop_map(|ends| ends.map(|(a, b)| a.min(b)..=a.max(b)))
    };
    (range(), range()).prop_map(|(tcp, udp)| Watched { tcp, udp })
}

/// The two edges of each range and their neighbours, which a filter that is off by one gets wrong.
fn at_an_edge(watched: &Watched) -> impl Iterator<Item = (Protocol, u16)> {
    [
        (Protocol::Tcp, watched.tcp.clone()),
        (Protocol::Udp, watched.udp.clone()),
    ]
    .into_iter()
    .filter_map(|(protocol, range)| Some((protocol, range?)))
    .flat_map(|(protocol, range)| {
        [*range.start(), *range.end()]
            .into_iter()
            .flat_map(|edge| [edge.saturating_sub(1), edge, edge.saturating_add(1)])
            .map(move |port| (protocol, port))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn every_probe_in_range_passes_whole_and_what_is_plainly_none_does_not(
        packet in any_packet(),
        watched in any_watched(),
    ) {
        let passed = Kernel::new(view_of(&packet), &watched).passes(&packet);
        match parse(&packet) {
            Ok(probe) if in_range(&watched, probe.protocol, probe.port) => {
                prop_assert_eq!(passed, Some(packet.len()));
            }
            Ok(_) | Err(Skip::Answer | Skip::LaterFragment | Skip::OtherProtocol) => {
                prop_assert!(passed.is_none() || has_extensions(&packet));
            }
            Err(_) => {}
        }
    }

    #[test]
    fn a_probe_cut_anywhere_passes_as_long_as_it_is_one(packet in any_packet()) {
        let watched = watched(0..=65535, 0..=65535);
        let kernel = Kernel::new(view_of(&packet), &watched);
        for len in 1..packet.len() {
            if parse(&packet[..len]).is_ok() {
                prop_assert_eq!(kernel.passes(&packet[..len]), Some(len));
            }
        }
    }

    #[test]
    fn the_edges_of_the_ranges_are_exact(watched in any_watched()) {
        for (protocol, port) in at_an_edge(&watched) {
            let (number, payload) = match protocol {
                Protocol::Tcp => (6, tcp_header(port, SYN)),
                Protocol::Udp => (17, udp_header(port)),
            };
            for (view, packet) in [
                (View::Ipv4, ipv4(number, 0, 0, &payload)),
                (View::Ipv4, ipv4(number, 0x2000, 10, &payload)),
                (View::Ipv6, ipv6(number, &payload)),
                (View::Ipv6, ipv6(44, &[fragment(number, 0, true), payload.clone()].concat())),
                (View::Ipv6Payload(protocol), payload.clone()),
            ] {
                let passed = Kernel::new(view, &watched).passes(&packet).is_some();
                prop_assert_eq!(passed, in_range(&watched, protocol, port));
            }
        }
    }

    #[test]
    fn a_raw_ipv6_socket_gets_every_probe_in_range_and_no_answer(
        payload in proptest::collection::vec(any::<u8>(), 0..40),
        watched in any_watched(),
    ) {
        let any = "2001:db8::1".parse().unwrap();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let passed = Kernel::new(View::Ipv6Payload(protocol), &watched).passes(&payload);
            match parse_ipv6_payload(any, any, protocol, &payload) {
                Ok(probe) if in_range(&watched, protocol, probe.port) => {
                    prop_assert_eq!(passed, Some(payload.len()));
                }
                Ok(_) | Err(Skip::Answer) => prop_assert_eq!(passed, None),
                Err(_) => {}
            }
        }
    }
}

#[test]
fn the_traffic_of_a_busy_server_is_dropped() {
    let watched = watched(0..=1023, 0..=1023);
    let v4 = Kernel::new(View::Ipv4, &watched);
    let v6 = Kernel::new(View::Ipv6, &watched);
    for flags in [ACK, ACK | SYN, ACK | RST, RST, 0x18, 0x11] {
        let segment = [tcp_header(443, flags), vec![0; 1400]].concat();
        assert_eq!(v4.passes(&ipv4(6, 0x4000, 0, &segment)), None);
        assert_eq!(v6.passes(&ipv6(6, &segment)), None);
    }
    let later = [fragment(17, 5, false), vec![0; 1000]].concat();
    assert_eq!(v6.passes(&ipv6(44, &later)), None);
    assert_eq!(v4.passes(&ipv4(17, 5, 0, &[0; 1000])), None);
    assert_eq!(v4.passes(&ipv4(1, 0, 0, &[0; 64])), None);
    assert_eq!(v6.passes(&ipv6(58, &[0; 64])), None);
    assert_eq!(v4.passes(&ipv4(17, 0, 0, &udp_header(5353))), None);
    // A packet of the other family under this one's link protocol.
    assert_eq!(v4.passes(&ipv6(6, &tcp_header(23, SYN))), None);
    assert_eq!(v6.passes(&ipv4(6, 0, 0, &tcp_header(23, SYN))), None);
}

#[test]
fn a_long_packet_is_cut_behind_any_chain_of_headers() {
    let watched = watched(0..=65535, 0..=65535);
    let kernel = Kernel::new(View::Ipv6, &watched);
    let chain = [
        extension(60, 0).repeat(178),
        extension(6, 0),
        tcp_header(23, SYN),
    ]
    .concat();
    let chain = ipv6(60, &chain);
    assert!(chain.len() > 1490, "fills an Ethernet frame");
    assert_eq!(kernel.passes(&chain), Some(chain.len()));
    let long = ipv6(17, &[udp_header(23), vec![0; 5000]].concat());
    assert_eq!(kernel.passes(&long), Some(SNAP_LEN));
}

#[test]
fn the_kernel_takes_every_program() {
    let most: Vec<u32> = (1..=500).collect();
    let lists = [None, Some(&[][..]), Some(&[7][..]), Some(&most[..])];
    let views = [
        View::Ipv4,
        View::Ipv6,
        View::Ipv6Payload(Protocol::Tcp),
        View::Ipv6Payload(Protocol::Udp),
    ];
    let (socket, _) = UnixDatagram::pair().unwrap();
    for view in views {
        for watched in [Watched::default(), watched(1..=2, 3..=4)] {
            for interfaces in lists {
                let program = program(view, &watched, interfaces);
                assert!(program.len() <= 1200);
                SockRef::from(&socket)
                    .attach_filter(&kernel_form(&program))
                    .unwrap();
            }
        }
    }
}
