//! The kernel's filter: classic BPF that lets through what can be a probe at a watched port, and drops the rest before it costs anything.
//!
//! It may let through too much (`probe` looks again), never too little: whatever `probe` takes as a probe in range must pass.
//! A load beyond the packet's end drops the packet, so whatever may be short is measured before it is read.

#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;

use super::Watched;
pub(super) use super::assembler::Insn;
use super::assembler::{Assembler, Label};
use crate::probe::Protocol;

/// Where the packets that meet the filter begin, and which they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// At the IPv4 header.
    Ipv4,
    /// At the IPv6 header.
    Ipv6,
    /// At the transport header, all extension headers gone: a raw IPv6 socket for this protocol.
    Ipv6Payload(Protocol),
}

/// How much of a packet is kept: two IPv4 or TCP headers of full length fit many times over, and so does a chain of IPv6 headers
/// that fills an Ethernet frame.
pub(super) const SNAP_LEN: usize = 2048;

/// The most interfaces that a filter can name. While one filter replaces another a socket is charged for both, and older kernels
/// (`net.core.optmem_max` of 20480) grant 1200 instructions each.
pub(super) const MAX_INTERFACES: usize = 500;

/// A packet's type as the filter sees it, and the one that means "to this host": not broadcast, multicast, for another host, or sent.
const PACKET_TYPE: u32 = ancillary(libc::SKF_AD_PKTTYPE);
const PACKET_HOST: u32 = 0;
/// The interface it came in by. In every network namespace the loopback interface is number 1.
const INTERFACE: u32 = ancillary(libc::SKF_AD_IFINDEX);
const LOOPBACK: u32 = 1;

const TCP: u32 = 6;
const UDP: u32 = 17;
const FRAGMENT: u32 = 44;
/// Hop-by-hop, routing, authentication, destination options, mobility, HIP, Shim6: left to `probe`, for they are rare.
const EXTENSIONS: [u32; 7] = [0, 43, 51, 60, 135, 139, 140];

const ACK_OR_RST: u32 = 0x14;
/// How far into a TCP header the flags reach.
const FLAGS_END: u32 = 14;

/// The whole program. `interfaces` are the only ones that count; `None`: all but loopback.
///
/// # Panics
/// With more than [`MAX_INTERFACES`].
pub(super) fn program(view: View, watched: &Watched, interfaces: Option<&[u32]>) -> Vec<Insn> {
    let mut asm = Assembler::default();
    asm.load_word(PACKET_TYPE);
    asm.drop_unless_equal(PACKET_HOST);
    asm.load_word(INTERFACE);
    match interfaces {
        None => asm.drop_if_equal(LOOPBACK),
        Some(interfaces) => {
            assert!(interfaces.len() <= MAX_INTERFACES, "checked by the caller");
            let listed = asm.label();
            for &interface in interfaces {
                asm.far_jump_if_equal(interface, listed);
            }
            asm.drop();
            asm.place(listed);
        }
    }
    packet(&mut asm, view, watched);
    asm.finish()
}

/// The part that reads the packet itself.
pub(super) fn packet(asm: &mut Assembler, view: View, watched: &Watched) {
    let ports = Ports {
        tcp: watched.tcp.clone(),
        udp: watched.udp.clone(),
        pass: asm.label(),
        drop: asm.label(),
    };
    match view {
        View::Ipv4 => ipv4(asm, &ports),
        View::Ipv6 => ipv6(asm, &ports),
        View::Ipv6Payload(Protocol::Tcp) => whole_tcp(asm, &ports, 0),
        View::Ipv6Payload(Protocol::Udp) => udp(asm, &ports, 0),
    }
    asm.place(ports.pass);
    asm.pass(u32::try_from(SNAP_LEN).expect("a packet is short"));
    asm.place(ports.drop);
    asm.drop();
}

/// What is looked for, and where the two ways out are.
struct Ports {
    tcp: Option<RangeInclusive<u16>>,
    udp: Option<RangeInclusive<u16>>,
    pass: Label,
    drop: Label,
}

fn ipv4(asm: &mut Assembler, ports: &Ports) {
    let (is_tcp, is_udp, unsure) = (asm.label(), asm.label(), asm.label());
    asm.load_byte(0);
    asm.and(0xf0);
    asm.jump_unless_equal(0x40, ports.drop);
    asm.load_half(6);
    asm.jump_if_any_bit(0x1fff, ports.drop); // a later fragment
    asm.load_header_len(0);
    asm.load_byte(9);
    asm.jump_if_equal(TCP, is_tcp);
    asm.jump_if_equal(UDP, is_udp);
    asm.jump(ports.drop);

    asm.place(is_tcp);
    in_range(asm, ports, ports.tcp.as_ref(), |asm| asm.load_half_x(2));
    // Are the flags there? Both lengths count: behind the total length stands padding, which the sender may fill with any flags.
    asm.load_half(2);
    asm.subtract_x();
    asm.jump_if_less(FLAGS_END, unsure);
    asm.load_len();
    asm.subtract_x();
    asm.jump_if_less(FLAGS_END, unsure);
    asm.load_byte_x(13);
    asm.jump_if_any_bit(ACK_OR_RST, ports.drop);
    asm.jump(ports.pass);
    asm.place(unsure);
    asm.load_half(6);
    asm.jump_if_any_bit(0x2000, ports.pass); // a first fragment that ends before the flags
    asm.jump(ports.drop);

    asm.place(is_udp);
    in_range(asm, ports, ports.udp.as_ref(), |asm| asm.load_half_x(2));
    asm.jump(ports.pass);
}

fn ipv6(asm: &mut Assembler, ports: &Ports) {
    let (is_tcp, is_udp, is_fragment) = (asm.label(), asm.label(), asm.label());
    asm.load_byte(0);
    asm.and(0xf0);
    asm.jump_unless_equal(0x60, ports.drop);
    asm.load_byte(6);
    asm.jump_if_equal(TCP, is_tcp);
    asm.jump_if_equal(UDP, is_udp);
    asm.jump_if_equal(FRAGMENT, is_fragment);
    for header in EXTENSIONS {
        asm.jump_if_equal(header, ports.pass);
    }
    asm.jump(ports.drop);

    asm.place(is_tcp);
    whole_tcp(asm, ports, 40);

    asm.place(is_udp);
    udp(asm, ports, 40);

    // First fragments are left to `probe`; later ones, which may be many, never have a port.
    asm.place(is_fragment);
    asm.load_half(42);
    asm.jump_if_any_bit(0xfff8, ports.drop);
    asm.load_byte(40);
    for header in EXTENSIONS.into_iter().chain([FRAGMENT]) {
        asm.jump_if_equal(header, ports.pass);
    }
    let (is_tcp, is_udp) = (asm.label(), asm.label());
    asm.jump_if_equal(TCP, is_tcp);
    asm.jump_if_equal(UDP, is_udp);
    asm.jump(ports.drop);
    asm.place(is_tcp);
    in_range(asm, ports, ports.tcp.as_ref(), |asm| asm.load_half(50));
    asm.jump(ports.pass);
    asm.place(is_udp);
    udp(asm, ports, 48);
}

/// TCP that is no fragment: if its flags lie beyond its end, the kernel drops it at the load, and rightly.
fn whole_tcp(asm: &mut Assembler, ports: &Ports, at: u32) {
    in_range(asm, ports, ports.tcp.as_ref(), |asm| asm.load_half(at + 2));
    asm.load_byte(at + 13);
    asm.jump_if_any_bit(ACK_OR_RST, ports.drop);
    asm.jump(ports.pass);
}

fn udp(asm: &mut Assembler, ports: &Ports, at: u32) {
    in_range(asm, ports, ports.udp.as_ref(), |asm| asm.load_half(at + 2));
    asm.jump(ports.pass);
}

/// Drops unless what `load` loads lies in `range`.
fn in_range(
    asm: &mut Assembler,
    ports: &Ports,
    range: Option<&RangeInclusive<u16>>,
    load: impl Fn(&mut Assembler),
) {
    let Some(range) = range else {
        asm.jump(ports.drop);
        return;
    };
    load(asm);
    asm.jump_if_less(u32::from(*range.start()), ports.drop);
    asm.jump_if_greater(u32::from(*range.end()), ports.drop);
}

/// Where the kernel keeps a packet's ancillary data: a load from a negative offset.
const fn ancillary(field: i32) -> u32 {
    u32::from_ne_bytes((libc::SKF_AD_OFF + field).to_ne_bytes())
}
