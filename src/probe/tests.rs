//! Packets made by hand, and the properties that hold for any bytes.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const URG: u8 = 0x20;
pub(crate) const ECE: u8 = 0x40;
pub(crate) const CWR: u8 = 0x80;

/// An IPv6 extension header of its shortest length, or as long as `units` says.
pub(crate) fn extension(next: u8, units: u8) -> Vec<u8> {
    let mut header = vec![0; (usize::from(units) + 1) * 8];
    header[0] = next;
    header[1] = units;
    header[2] = 1; // PadN, where options stand, over the rest of the first 8 bytes
    header[3] = 4;
    header
}

/// A fragment header; `offset` in units of 8 bytes.
pub(crate) fn fragment(next: u8, offset: u16, more: bool) -> Vec<u8> {
    let field = (offset << 3 | u16::from(more)).to_be_bytes();
    vec![next, 0, field[0], field[1], 0, 0, 0, 7]
}

pub(crate) fn tcp_header(port: u16, flags: u8) -> Vec<u8> {
    let port = port.to_be_bytes();
    let mut header = vec![0x9c, 0x40, port[0], port[1], 0, 0, 0, 1, 0, 0, 0, 0];
    header.extend([0x50, flags, 0x04, 0, 0, 0, 0, 0]);
    header
}

pub(crate) fn udp_header(port: u16) -> Vec<u8> {
    let port = port.to_be_bytes();
    vec![0x9c, 0x40, port[0], port[1], 0, 8, 0, 0]
}

/// IPv4 around `payload`; `field` holds the flags and the fragment offset, `options` the header's options in words.
pub(crate) fn ipv4(protocol: u8, field: u16, options: u8, payload: &[u8]) -> Vec<u8> {
    let header_len = 20 + usize::from(options) * 4;
    let total = u16::try_from(header_len + payload.len())
        .unwrap()
        .to_be_bytes();
    let field = field.to_be_bytes();
    let mut packet = vec![0x45 + options, 0, total[0], total[1], 0, 1];
    packet.extend([field[0], field[1], 64, protocol, 0, 0]);
    packet.extend([198, 51, 100, 7, 192, 0, 2, 1]);
    packet.resize(header_len, 1); // no-operation options
    packet.extend(payload);
    packet
}

pub(crate) fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, len[0], len[1], next, 64];
    packet.extend(V6_SOURCE.octets());
    packet.extend(V6_DEST.octets());
    packet.extend(payload);
    packet
}

const V6_SOURCE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 7, 0, 0, 0, 7);
const V6_DEST: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 1);

fn type_of(packet: &[u8]) -> Result<(u16, ScanType), Skip> {
    parse(packet).map(|probe| (probe.port, probe.scan_type))
}

#[test]
fn every_field_of_an_ipv4_syn_is_read() {
    let expected = Probe {
        source: Ipv4Addr::new(198, 51, 100, 7).into(),
        dest: Ipv4Addr::new(192, 0, 2, 1).into(),
        protocol: Protocol::Tcp,
        source_port: 40_000,
        port: 23,
        scan_type: ScanType::Syn,
        ip_options: false,
        odd_flags: 0,
    };
    assert_eq!(
        parse(&ipv4(6, 0x4000, 0, &tcp_header(23, SYN))),
        Ok(expected)
    );
    let with_options = Probe {
        ip_options: true,
        odd_flags: 0,
        ..expected
    };
    for words in [1, 10] {
        assert_eq!(
            parse(&ipv4(6, 0, words, &tcp_header(23, SYN))),
            Ok(with_options)
        );
    }
}

#[test]
fn every_field_of_an_ipv6_probe_is_read_with_and_without_its_header() {
    let expected = Probe {
        source: V6_SOURCE.into(),
        dest: V6_DEST.into(),
        protocol: Protocol::Udp,
        source_port: 40_000,
        port: 161,
        scan_type: ScanType::Udp,
        ip_options: false,
        odd_flags: 0,
    };
    assert_eq!(parse(&ipv6(17, &udp_header(161))), Ok(expected));
    assert_eq!(
        parse_ipv6_payload(V6_SOURCE, V6_DEST, Protocol::Udp, &udp_header(161)),
        Ok(expected)
    );
    let tcp = Probe {
        protocol: Protocol::Tcp,
        port: 443,
        scan_type: ScanType::Fin,
        ..expected
    };
    assert_eq!(
        parse_ipv6_payload(V6_SOURCE, V6_DEST, Protocol::Tcp, &tcp_header(443, FIN)),
        Ok(tcp)
    );
    assert_eq!(
        parse_ipv6_payload(
            V6_SOURCE,
            V6_DEST,
            Protocol::Tcp,
            &tcp_header(443, SYN)[..8]
        ),
        Err(Skip::Malformed)
    );
}

#[test]
fn flags_tell_the_scan_type() {
    for (flags, expected) in [
        (SYN, Ok(ScanType::Syn)),
        (SYN | ECE | CWR, Ok(ScanType::Syn)),
        (FIN, Ok(ScanType::Fin)),
        (0, Ok(ScanType::Null)),
        (CWR, Ok(ScanType::Null)),
        (FIN | PSH | URG, Ok(ScanType::Xmas)),
        (FIN | PSH | URG | SYN, Ok(ScanType::Xmas)),
        (SYN | FIN, Ok(ScanType::Odd)),
        (URG, Ok(ScanType::Odd)),
        (PSH, Ok(ScanType::Odd)),
        (SYN | ACK, Err(Skip::Answer)),
        (ACK, Err(Skip::Answer)),
        (RST, Err(Skip::Answer)),
        (RST | ACK, Err(Skip::Answer)),
        (RST | SYN, Err(Skip::Answer)),
    ] {
        let expected = expected.map(|scan_type| (80, scan_type));
        let header = tcp_header(80, flags);
        assert_eq!(type_of(&ipv4(6, 0, 0, &header)), expected, "{flags:#04x}");
        assert_eq!(type_of(&ipv6(6, &header)), expected, "{flags:#04x}");
    }
}

#[test]
fn lengths_that_contradict_each_other_are_malformed() {
    let good = ipv4(6, 0, 0, &tcp_header(80, SYN));
    let changed = |at: usize, byte: u8| {
        let mut packet = good.clone();
        packet[at] = byte;
        packet
    };
    for (what, packet) in [
        ("IP version 5", changed(0, 0x55)),
        ("header of 16 bytes", changed(0, 0x44)),
        ("header of 60 bytes in a packet of 40", changed(0, 0x4f)),
        ("total length 19", changed(3, 19)),
        ("total length 0", changed(3, 0)),
        ("TCP header of 16 bytes", changed(32, 0x40)),
        ("total length ends in the TCP header", changed(3, 39)),
        ("TCP of 8 bytes", ipv4(6, 0, 0, &tcp_header(80, SYN)[..8])),
        ("jumbogram", {
            let mut packet = ipv6(6, &tcp_header(80, SYN));
            packet[5] = 0;
            packet
        }),
    ] {
        assert_eq!(parse(&packet), Err(Skip::Malformed), "{what}");
    }
    assert_eq!(parse(&[]), Err(Skip::CutShort));
    assert_eq!(parse(&good[..19]), Err(Skip::CutShort));
    assert_eq!(parse(&ipv4(17, 0, 0, &[0; 7])), Err(Skip::CutShort));
}

#[test]
fn other_protocols_are_skipped() {
    for protocol in [1, 2, 47, 50, 58, 59, 132] {
        assert_eq!(
            parse(&ipv4(protocol, 0, 0, &[0; 40])),
            Err(Skip::OtherProtocol)
        );
        assert_eq!(parse(&ipv6(protocol, &[0; 40])), Err(Skip::OtherProtocol));
    }
}

#[test]
fn a_first_fragment_is_a_probe_and_a_later_one_is_not() {
    const MORE: u16 = 0x2000;
    let header = tcp_header(22, SYN);
    for (len, expected) in [
        (3, Err(Skip::CutShort)),
        (4, Ok((22, ScanType::Fragment))),
        (8, Ok((22, ScanType::Fragment))),
        (13, Ok((22, ScanType::Fragment))),
        (14, Ok((22, ScanType::Syn))),
        (16, Ok((22, ScanType::Syn))),
        (20, Ok((22, ScanType::Syn))),
    ] {
        let bytes = &header[..len];
        assert_eq!(type_of(&ipv4(6, MORE, 0, bytes)), expected, "{len} bytes");
        let payload = [fragment(6, 0, true), bytes.to_vec()].concat();
        assert_eq!(type_of(&ipv6(44, &payload)), expected, "{len} bytes");
    }
    assert_eq!(
        type_of(&ipv4(6, MORE, 0, &tcp_header(22, ACK)[..16])),
        Err(Skip::Answer)
    );
    assert_eq!(
        type_of(&ipv4(17, MORE, 0, &udp_header(53))),
        Ok((53, ScanType::Udp))
    );
    for field in [1, MORE | 1, 0x1fff] {
        assert_eq!(
            type_of(&ipv4(6, field, 0, &header)),
            Err(Skip::LaterFragment)
        );
    }
    for (offset, more) in [(1, false), (1, true), (0x1fff, false)] {
        let payload = [fragment(6, offset, more), header.clone()].concat();
        assert_eq!(type_of(&ipv6(44, &payload)), Err(Skip::LaterFragment));
    }
}

#[test]
fn padding_behind_a_short_first_fragment_is_not_taken_for_its_flags() {
    let mut packet = ipv4(6, 0x2000, 0, &tcp_header(22, SYN)[..8]);
    packet.resize(46, 0xff);
    assert_eq!(type_of(&packet), Ok((22, ScanType::Fragment)));
    let mut packet = ipv6(
        44,
        &[fragment(6, 0, true), tcp_header(22, SYN)[..8].to_vec()].concat(),
    );
    packet.resize(80, 0xff);
    assert_eq!(type_of(&packet), Ok((22, ScanType::Fragment)));
}

#[test]
fn an_atomic_fragment_is_a_whole_packet() {
    let mut header = fragment(6, 0, false);
    let payload = [header.clone(), tcp_header(22, SYN)].concat();
    assert_eq!(type_of(&ipv6(44, &payload)), Ok((22, ScanType::Syn)));
    assert_eq!(type_of(&ipv6(44, &payload[..16])), Err(Skip::Malformed));
    // Both reserved bits may be set by anybody and mean nothing.
    header[3] = 0b110;
    let payload = [header, tcp_header(22, SYN)].concat();
    assert_eq!(type_of(&ipv6(44, &payload)), Ok((22, ScanType::Syn)));
}

#[test]
fn a_probe_is_found_behind_every_extension_header() {
    let syn = tcp_header(23, SYN);
    let expected = Ok((23, ScanType::Syn));
    for next in [0, 43, 60, 135, 139, 140] {
        for units in [0, 1, 31] {
            let payload = [extension(6, units), syn.clone()].concat();
            assert_eq!(type_of(&ipv6(next, &payload)), expected, "header {next}");
        }
    }
    // An authentication header counts in words of 4 bytes, less 2.
    let mut auth = vec![0; 24];
    auth[..2].copy_from_slice(&[6, 4]);
    assert_eq!(type_of(&ipv6(51, &[auth, syn.clone()].concat())), expected);
    let chain = [
        extension(60, 0),
        extension(43, 2),
        extension(44, 1),
        fragment(60, 0, true),
        extension(6, 0),
        syn.clone(),
    ];
    assert_eq!(type_of(&ipv6(0, &chain.concat())), expected);
    let many = extension(60, 0).repeat(170);
    let chain = [many, extension(6, 0), syn].concat();
    assert_eq!(type_of(&ipv6(60, &chain)), expected);
}

#[test]
fn a_chain_of_headers_that_runs_out_is_cut_short() {
    let first = [fragment(60, 0, true), extension(6, 1)[..8].to_vec()].concat();
    assert_eq!(parse(&ipv6(44, &first)), Err(Skip::CutShort));
    let first = [fragment(60, 0, true), extension(6, 0)].concat();
    assert_eq!(parse(&ipv6(44, &first)), Err(Skip::CutShort));
    assert_eq!(parse(&ipv6(60, &[6])), Err(Skip::CutShort));
}

#[test]
fn skips_index_their_own_counters() {
    for (index, skip) in Skip::ALL.into_iter().enumerate() {
        assert_eq!(skip.index(), index);
    }
}

/// Any packet that has a port: every header chain, protocol, flag and fragment.
pub(crate) fn any_packet() -> impl Strategy<Value = Vec<u8>> {
    let transport = prop_oneof![
        4 => (any::<u16>(), any::<u8>()).prop_map(|(port, flags)| (6, tcp_header(port, flags))),
        1 => any::<u16>().prop_map(|port| (17, udp_header(port))),
        1 => any::<[u8; 20]>().prop_map(|bytes| (6, bytes.to_vec())),
        1 => (any::<u8>(), any::<[u8; 8]>()).prop_map(|(next, bytes)| (next, bytes.to_vec())),
    ];
    let payload = (
        transport,
        proptest::collection::vec(any::<u8>(), 0..24),
        0..24_usize,
    )
        .prop_map(|((protocol, mut bytes), tail, keep)| {
            bytes.extend(tail);
            bytes.truncate(keep.max(4));
            (protocol, bytes)
        });
    let fields = prop_oneof![3 => Just(0), 1 => Just(0x4000), 2 => Just(0x2000), 1 => any::<u16>()];
    let headers = proptest::collection::vec((any::<u8>(), 0..3_u8, any::<bool>()), 0..4);
    (
        payload,
        any::<bool>(),
        fields,
        0..11_u8,
        headers,
        0..30_usize,
    )
        .prop_map(
            |((protocol, payload), v6, field, options, headers, padding)| {
                let mut packet = if v6 {
                    let (mut next, mut bytes) = (protocol, payload);
                    for (kind, units, more) in headers {
                        let (kind, header) = match kind % 9 {
                            0 => (0, extension(next, units)),
                            1 => (43, extension(next, units)),
                            2 => (135, extension(next, units)),
                            3 => (44, fragment(next, 0, more)),
                            4 => {
                                let mut header = fragment(next, 0, more);
                                header[3] |= 0b110; // both reserved bits
                                (44, header)
                            }
                            5 => (44, fragment(next, u16::from(units), more)),
                            6 => {
                                let mut header = vec![0; (usize::from(units) + 2) * 4];
                                header[..2].copy_from_slice(&[next, units]);
                                (51, header)
                            }
                            _ => (60, extension(next, units)),
                        };
                        next = kind;
                        bytes = [header, bytes].concat();
                    }
                    ipv6(next, &bytes)
                } else {
                    ipv4(protocol, field, options, &payload)
                };
                packet.resize(packet.len() + padding, 0xff);
                packet
            },
        )
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&bytes);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let _ = parse_ipv6_payload(V6_SOURCE, V6_DEST, protocol, &bytes);
        }
    }

    #[test]
    fn a_packet_cut_anywhere_never_names_another_port(packet in any_packet()) {
        let whole = parse(&packet);
        for len in 0..packet.len() {
            if let Ok(cut) = parse(&packet[..len]) {
                match whole {
                    Ok(whole) => prop_assert_eq!(
                        (cut.source, cut.dest, cut.protocol, cut.port),
                        (whole.source, whole.dest, whole.protocol, whole.port)
                    ),
                    // A cut before the flags leaves a first fragment that may have been an answer.
                    Err(skip) => {
                        prop_assert_eq!(cut.scan_type, ScanType::Fragment);
                        prop_assert!(matches!(skip, Skip::Answer | Skip::Malformed));
                    }
                }
            }
        }
    }

    #[test]
    fn bytes_behind_the_packet_change_nothing(packet in any_packet(), tail in any::<[u8; 40]>()) {
        let total = match packet[0] >> 4 {
            4 => usize::from(u16::from_be_bytes([packet[2], packet[3]])),
            _ => usize::from(u16::from_be_bytes([packet[4], packet[5]])) + 40,
        };
        let bare = &packet[..total];
        prop_assert_eq!(parse(bare), parse(&[bare, &tail[..]].concat()));
    }
}

#[test]
fn an_ipv4_address_in_ipv6_clothes_is_believed_by_nobody() {
    let mapped = Ipv4Addr::new(198, 51, 100, 77).to_ipv6_mapped();
    for (source, dest) in [(mapped, V6_DEST), (V6_SOURCE, mapped)] {
        let mut packet = ipv6(6, &tcp_header(23, SYN));
        packet[8..24].copy_from_slice(&source.octets());
        packet[24..40].copy_from_slice(&dest.octets());
        assert_eq!(parse(&packet), Err(Skip::Malformed));
        let raw = parse_ipv6_payload(source, dest, Protocol::Tcp, &tcp_header(23, SYN));
        assert_eq!(raw, Err(Skip::Malformed));
    }
}
