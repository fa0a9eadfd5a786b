//! Packets that no ordinary program sends, byte by byte.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::MutableIpv4Packet;
use pnet::packet::tcp::{MutableTcpPacket, TcpFlags, ipv4_checksum, ipv6_checksum};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{Host, eventually};

/// The numbers of what follows a header.
pub(crate) const TCP: u8 = 6;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const NO_NEXT: u8 = 59;
pub(crate) const DEST_OPTIONS: u8 = 60;

/// Bytes in an IPv4 header without options.
const IPV4_HEADER: usize = 20;

/// Bytes in a TCP header without options.
const TCP_HEADER: usize = 20;

/// A TCP header with SYN alone, its checksum right.
pub(crate) fn tcp_syn(source: &str, dest: &str, port: u16) -> Vec<u8> {
    syn(address(source), address(dest), port)
}

fn syn(source: IpAddr, dest: IpAddr, port: u16) -> Vec<u8> {
    let (source, dest) = (SocketAddr::new(source, 40_000), SocketAddr::new(dest, port));
    segment(source, dest, TcpFlags::SYN)
}

/// A TCP header with these flags, its checksum right.
fn segment(source: SocketAddr, dest: SocketAddr, flags: u8) -> Vec<u8> {
    let mut bytes = vec![0; TCP_HEADER];
    let mut tcp = MutableTcpPacket::new(&mut bytes).expect("there is room for a header");
    tcp.set_source(source.port());
    tcp.set_destination(dest.port());
    tcp.set_sequence(1);
    tcp.set_data_offset(5);
    tcp.set_flags(flags);
    tcp.set_window(1024);
    let checksum = match (source.ip(), dest.ip()) {
        (IpAddr::V4(source), IpAddr::V4(dest)) => {
            ipv4_checksum(&tcp.to_immutable(), &source, &dest)
        }
        (IpAddr::V6(source), IpAddr::V6(dest)) => {
            ipv6_checksum(&tcp.to_immutable(), &source, &dest)
        }
        _ => panic!("{source} and {dest} are not of one kind"),
    };
    tcp.set_checksum(checksum);
    bytes
}

/// An IPv4 packet with a SYN, or with the piece of a packet that begins `offset` bytes into it. Whoever sends it fills in its
/// length and its checksum.
pub(crate) fn ipv4_syn(source: Ipv4Addr, dest: Ipv4Addr, port: u16, offset: u16) -> Vec<u8> {
    assert_eq!(offset % 8, 0, "offsets count in units of 8 bytes");
    let mut bytes = vec![0; IPV4_HEADER];
    let mut ip = MutableIpv4Packet::new(&mut bytes).expect("there is room for a header");
    ip.set_version(4);
    ip.set_header_length(5);
    ip.set_fragment_offset(offset / 8);
    ip.set_ttl(64);
    ip.set_next_level_protocol(IpNextHeaderProtocols::Tcp);
    ip.set_source(source);
    ip.set_destination(dest);
    bytes.extend(syn(source.into(), dest.into(), port));
    bytes
}

/// A destination-options header of nothing but padding, before `payload` of the kind `next`.
pub(crate) fn dest_options(next: u8, payload: &[u8]) -> Vec<u8> {
    // The length counts units of 8 bytes beyond the first; PadN: type 1, 4 bytes of padding.
    let mut bytes = vec![next, 0, 1, 4, 0, 0, 0, 0];
    bytes.extend(payload);
    bytes
}

/// A fragment header before `payload`, which begins `offset` bytes into a packet of the kind `next`.
pub(crate) fn fragment(next: u8, id: u32, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    assert_eq!(offset % 8, 0, "offsets count in units of 8 bytes");
    let mut bytes = vec![next, 0];
    bytes.extend((offset | u16::from(more)).to_be_bytes());
    bytes.extend(id.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Sends an IPv6 packet whose payload, of the kind `next`, is exactly this.
pub(crate) fn send_ipv6(from: &Host, dest: &str, next: u8, payload: &[u8]) {
    from.inside(|| {
        let socket = Socket::new(
            Domain::IPV6,
            Type::RAW,
            Some(Protocol::from(i32::from(next))),
        )
        .expect("root may");
        let to = SockAddr::from(SocketAddr::new(address(dest), 0));
        let sent = socket
            .send_to(payload, &to)
            .expect("the destination is on a cable of ours");
        assert_eq!(sent, payload.len());
    });
}

/// Sends a TCP packet of nothing but a header with these flags, over the protocol of its addresses.
pub(crate) fn send_tcp(from: &Host, source: SocketAddr, dest: SocketAddr, flags: u8) {
    from.inside(|| {
        let (domain, tcp) = (Domain::for_address(dest), Protocol::TCP);
        let socket = Socket::new(domain, Type::RAW, Some(tcp)).expect("root may");
        // ipv6(7): a port is none of a raw socket's business.
        let to = SockAddr::from(SocketAddr::new(dest.ip(), 0));
        let packet = segment(source, dest, flags);
        let sent = socket
            .send_to(&packet, &to)
            .expect("it is on a cable of ours");
        assert_eq!(sent, packet.len());
    });
}

/// Sends IPv4 packets with their headers, whose sources need not be the sender's own.
pub(crate) fn send_ipv4(
    from: &Host,
    dest: Ipv4Addr,
    packets: impl IntoIterator<Item = Vec<u8>> + Send,
) {
    from.inside(|| {
        // IPPROTO_RAW: the packet has its header with it; the kernel fills in length, number and checksum (raw(7)).
        let socket =
            Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).expect("root may");
        let to = SockAddr::from(SocketAddrV4::new(dest, 0));
        for packet in packets {
            let sent = socket
                .send_to(&packet, &to)
                .expect("the destination is on a cable of ours");
            assert_eq!(sent, packet.len());
        }
    });
}

/// SYNs to one port, each from another source, none of which exists: sent on and on from another thread, as fast as can be, until
/// this is dropped.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU32>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// From IPv4 sources, 16 million before one comes again, or from as many /64s of IPv6, as `dest` is.
    pub(crate) fn begin(from: &Host, dest: IpAddr, port: u16) -> Self {
        let (stop, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU32::new(0)),
        );
        let (stopping, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let socket = from.inside(|| {
            let domain = Domain::for_address(SocketAddr::new(dest, 0));
            // IPPROTO_RAW: the packet has its header with it, IPv6's too (raw(7), ipv6(7)).
            Socket::new(domain, Type::RAW, Some(Protocol::from(255))).expect("root may")
        });
        let to = SockAddr::from(SocketAddr::new(dest, 0));
        let thread = thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                let n = count.fetch_add(1, Ordering::Relaxed);
                // For want of room it is one packet less.
                let _ = socket.send_to(&made_up_syn(n, dest, port), &to);
            }
        });
        Self {
            stop,
            sent,
            thread: Some(thread),
        }
    }

    /// Waits until there have been so many.
    pub(crate) fn has_sent(&self, count: u32) {
        eventually(&format!("{count} packets are sent"), || {
            (self.sent.load(Ordering::Relaxed) >= count).then_some(())
        });
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn made_up_syn(n: u32, dest: IpAddr, port: u16) -> Vec<u8> {
    match dest {
        IpAddr::V4(dest) => {
            let source = Ipv4Addr::from(0x0b00_0000 | n.wrapping_mul(7) & 0x00ff_ffff);
            ipv4_syn(source, dest, port, 0)
        }
        IpAddr::V6(dest) => {
            let prefix = 0x2001_0db8_u128 << 96 | u128::from(n) << 64;
            let source = Ipv6Addr::from(prefix | 1);
            let mut bytes = vec![0x60, 0, 0, 0, 0, 20, TCP, 64];
            bytes.extend(source.octets());
            bytes.extend(dest.octets());
            bytes.extend(syn(source.into(), dest.into(), port));
            bytes
        }
    }
}

/// Sends one SYN to `port` from each of these sources, which need not be the sender's own.
pub(crate) fn send_syns(
    from: &Host,
    sources: impl IntoIterator<Item = Ipv4Addr>,
    dest: Ipv4Addr,
    port: u16,
) {
    let syns = sources
        .into_iter()
        .map(|source| ipv4_syn(source, dest, port, 0));
    send_ipv4(from, dest, syns.collect::<Vec<_>>());
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("the worlds' addresses are good")
}
