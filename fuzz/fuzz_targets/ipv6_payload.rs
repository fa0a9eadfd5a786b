//! What a raw IPv6 socket delivers: the same probe as from the whole packet, whatever the bytes.

#![no_main]

use std::net::Ipv6Addr;

use libfuzzer_sys::fuzz_target;
use portsentry::probe::{Protocol, parse, parse_ipv6_payload};

fuzz_target!(|bytes: &[u8]| {
    let Ok(length) = u16::try_from(bytes.len()) else {
        return;
    };
    let (source, dest) = (Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED);
    for (protocol, number) in [(Protocol::Tcp, 6), (Protocol::Udp, 17)] {
        let alone = parse_ipv6_payload(source, dest, protocol, bytes);
        if length > 0 {
            let [high, low] = length.to_be_bytes();
            let mut packet = vec![0x60, 0, 0, 0, high, low, number, 64];
            packet.extend(source.octets());
            packet.extend(dest.octets());
            packet.extend(bytes);
            assert_eq!(alone, parse(&packet));
        }
    }
});
