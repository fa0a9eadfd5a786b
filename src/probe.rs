//! Bytes to [`Probe`]: IPv4 and IPv6 with its extension headers, fragments, TCP and UDP.
//!
//! Pure: no I/O and no panic, whatever the bytes. What cannot be a probe is a [`Skip`], which is counted and never logged.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use pnet::packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
use pnet::packet::ipv4::{Ipv4Flags, Ipv4Packet};
use pnet::packet::ipv6::{ExtensionPacket, FragmentPacket, Ipv6Packet};
use pnet::packet::tcp::{TcpFlags, TcpPacket};
use pnet::packet::udp::UdpPacket;

/// The two transport protocols that we watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

/// What a probe looks like, in the field's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScanType {
    /// TCP, SYN alone: an ordinary connection attempt, or `nmap -sS`, `-sT`.
    Syn,
    /// TCP, FIN alone: `nmap -sF`.
    Fin,
    /// TCP without any flag: `nmap -sN`.
    Null,
    /// TCP with at least FIN, PSH and URG: `nmap -sX`.
    Xmas,
    /// TCP with any other set of flags that lacks ACK and RST. ECE and CWR never count: an ordinary SYN may carry them.
    Odd,
    /// The first fragment of a TCP segment, cut before the flags: no stack sends that, `nmap -f` does.
    Fragment,
    /// A UDP datagram.
    Udp,
    /// Not a packet but what a listener of ours got: an accepted connection, or a datagram.
    Connect,
}

/// One packet at a port that may be watched. Small and `Copy`: it holds nothing of the bytes it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Who sent it, or pretends to have.
    pub source: IpAddr,
    /// The address it was sent to.
    pub dest: IpAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port it was sent from.
    pub source_port: u16,
    /// The destination port.
    pub port: u16,
    /// What it looks like.
    pub scan_type: ScanType,
    /// Whether the IPv4 header carries options.
    pub ip_options: bool,
    /// TCP's six old flags, FIN in the lowest bit; 0 for anything but [`ScanType::Odd`].
    pub odd_flags: u8,
}

/// Why a packet is no probe. Small and `Copy`: it is counted, never logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Skip {
    /// Its lengths contradict each other: no stack would take it.
    Malformed,
    /// It ends before its port: an odd first fragment, or more headers than were captured.
    CutShort,
    /// A fragment other than the first: it has no port, and its first fragment was counted.
    LaterFragment,
    /// TCP with ACK or RST: part of a connection, or the answer to a packet of ours.
    Answer,
    /// Neither TCP nor UDP.
    OtherProtocol,
}

/// Reads a packet that begins at its IP header. The bytes may be cut short anywhere, and may run past the packet's end.
///
/// Any source and destination is taken as it stands, multicast and broadcast too: whom to spare is the guard's business.
///
/// # Errors
/// The packet is no probe.
pub fn parse(packet: &[u8]) -> Result<Probe, Skip> {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => parse_ipv4(packet),
        Some(6) => parse_ipv6(packet),
        Some(_) => Err(Skip::Malformed),
        None => Err(Skip::CutShort),
    }
}

/// Reads what a raw IPv6 socket delivers: a packet from its transport header on, reassembled, without its extension headers.
///
/// # Errors
/// The packet is no probe.
pub fn parse_ipv6_payload(
    source: Ipv6Addr,
    dest: Ipv6Addr,
    protocol: Protocol,
    payload: &[u8],
) -> Result<Probe, Skip> {
    refuse_mapped(source, dest)?;
    let transport = match protocol {
        Protocol::Tcp => tcp(payload, false)?,
        Protocol::Udp => udp(payload)?,
    };
    Ok(transport.between(source.into(), dest.into(), false))
}

impl Protocol {
    /// `tcp` or `udp`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl ScanType {
    /// Every type, for those who parse the names back.
    pub const ALL: [Self; 8] = [
        Self::Syn,
        Self::Fin,
        Self::Null,
        Self::Xmas,
        Self::Odd,
        Self::Fragment,
        Self::Udp,
        Self::Connect,
    ];

    /// The word before "scan": `syn`, `fin`, `null`, `xmas`, `odd-flags`, `fragment`, `udp`, `connect`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Syn => "syn",
            Self::Fin => "fin",
            Self::Null => "null",
            Self::Xmas => "xmas",
            Self::Odd => "odd-flags",
            Self::Fragment => "fragment",
            Self::Udp => "udp",
            Self::Connect => "connect",
        }
    }
}

impl fmt::Display for ScanType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Skip {
    /// Every kind, in the order of [`Skip::index`].
    pub const ALL: [Self; 5] = [
        Self::Malformed,
        Self::CutShort,
        Self::LaterFragment,
        Self::Answer,
        Self::OtherProtocol,
    ];

    /// How many kinds there are: the length of an array of counters.
    pub const COUNT: usize = Self::ALL.len();

    /// Its place in an array of counters.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// The counter's name: `malformed`, `cut-short`, `later-fragment`, `answer`, `other-protocol`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::CutShort => "cut-short",
            Self::LaterFragment => "later-fragment",
            Self::Answer => "answer",
            Self::OtherProtocol => "other-protocol",
        }
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

fn parse_ipv4(packet: &[u8]) -> Result<Probe, Skip> {
    let ip = Ipv4Packet::new(packet).ok_or(Skip::CutShort)?;
    let header_len = usize::from(ip.get_header_length()) * 4;
    let total_len = usize::from(ip.get_total_length());
    if header_len < Ipv4Packet::minimum_packet_size() || total_len < header_len {
        return Err(Skip::Malformed);
    }
    if ip.get_fragment_offset() != 0 {
        return Err(Skip::LaterFragment);
    }
    // Beyond the total length stands the link's padding, which the sender may fill with anything.
    let transport = packet
        .get(header_len..total_len.min(packet.len()))
        .ok_or(Skip::CutShort)?;
    let first_fragment = ip.get_flags() & Ipv4Flags::MoreFragments != 0;
    let transport = read_transport(ip.get_next_level_protocol(), transport, first_fragment)?;
    let ip_options = header_len > Ipv4Packet::minimum_packet_size();
    Ok(transport.between(
        ip.get_source().into(),
        ip.get_destination().into(),
        ip_options,
    ))
}

fn parse_ipv6(packet: &[u8]) -> Result<Probe, Skip> {
    let ip = Ipv6Packet::new(packet).ok_or(Skip::CutShort)?;
    // Zero announces a jumbogram, which has no business at a trap.
    let payload_len = usize::from(ip.get_payload_length());
    if payload_len == 0 {
        return Err(Skip::Malformed);
    }
    let (_, payload) = packet
        .split_at_checked(Ipv6Packet::minimum_packet_size())
        .ok_or(Skip::CutShort)?;
    let payload = payload.get(..payload_len).unwrap_or(payload);
    let (next, transport, first_fragment) = skip_extensions(ip.get_next_header(), payload)?;
    let (source, dest) = (ip.get_source(), ip.get_destination());
    refuse_mapped(source, dest)?;
    let transport = read_transport(next, transport, first_fragment)?;
    Ok(transport.between(source.into(), dest.into(), false))
}

/// An IPv4 address in IPv6 clothes (`::ffff:192.0.2.1`) has no business on a wire, and Linux drops such packets before any
/// socket (net/ipv6/ip6_input.c, `ip6_rcv_core`). A packet socket looks earlier: to believe it would be to ban, on a forged
/// IPv6 packet's word, an IPv4 host.
fn refuse_mapped(source: Ipv6Addr, dest: Ipv6Addr) -> Result<(), Skip> {
    let is_mapped = source.to_ipv4_mapped().is_some() || dest.to_ipv4_mapped().is_some();
    if is_mapped {
        Err(Skip::Malformed)
    } else {
        Ok(())
    }
}

/// What a transport header says.
struct Transport {
    protocol: Protocol,
    source_port: u16,
    port: u16,
    scan_type: ScanType,
    odd_flags: u8,
}

impl Transport {
    fn between(self, source: IpAddr, dest: IpAddr, ip_options: bool) -> Probe {
        let Self {
            protocol,
            source_port,
            port,
            scan_type,
            odd_flags,
        } = self;
        Probe {
            source,
            dest,
            protocol,
            source_port,
            port,
            scan_type,
            ip_options,
            odd_flags,
        }
    }
}

/// Walks the extension headers to the transport header. The last of the three says whether this is the first of several fragments.
///
/// Each header takes at least 8 bytes, so the bytes bound the walk, and no lower limit hides a probe that the stack would answer.
fn skip_extensions(
    mut next: IpNextHeaderProtocol,
    mut rest: &[u8],
) -> Result<(IpNextHeaderProtocol, &[u8], bool), Skip> {
    let mut first_fragment = false;
    loop {
        let header = ExtensionPacket::new(rest);
        let units = || {
            let header = header.as_ref().ok_or(Skip::CutShort)?;
            Ok(usize::from(header.get_hdr_ext_len()))
        };
        let len = match next {
            IpNextHeaderProtocols::Hopopt
            | IpNextHeaderProtocols::Ipv6Route
            | IpNextHeaderProtocols::Ipv6Opts
            | IpNextHeaderProtocols::MobilityHeader
            | IpNextHeaderProtocols::Hip
            | IpNextHeaderProtocols::Shim6 => (units()? + 1) * 8,
            IpNextHeaderProtocols::Ah => (units()? + 2) * 4,
            IpNextHeaderProtocols::Ipv6Frag => {
                let fragment = FragmentPacket::new(rest).ok_or(Skip::CutShort)?;
                // pnet's own accessor counts a reserved bit as part of the offset, which anybody may set.
                let field = fragment.get_fragment_offset_with_flags();
                if field & FRAGMENT_OFFSET != 0 {
                    return Err(Skip::LaterFragment);
                }
                first_fragment |= field & MORE_FRAGMENTS != 0;
                FragmentPacket::minimum_packet_size()
            }
            _ => return Ok((next, rest, first_fragment)),
        };
        next = header.ok_or(Skip::CutShort)?.get_next_header();
        rest = rest.get(len..).ok_or(Skip::CutShort)?;
    }
}

/// The fragment header's offset, in units of 8 bytes, where it stands in the field.
const FRAGMENT_OFFSET: u16 = 0xfff8;
/// The fragment header's M flag.
const MORE_FRAGMENTS: u16 = 0x0001;

fn read_transport(
    protocol: IpNextHeaderProtocol,
    transport: &[u8],
    first_fragment: bool,
) -> Result<Transport, Skip> {
    match protocol {
        IpNextHeaderProtocols::Tcp => tcp(transport, first_fragment),
        IpNextHeaderProtocols::Udp => udp(transport),
        _ => Err(Skip::OtherProtocol),
    }
}

/// The ports and type of a TCP segment, whole or as far as the first fragment of it goes.
fn tcp(segment: &[u8], first_fragment: bool) -> Result<Transport, Skip> {
    let mut padded = [0; TcpPacket::minimum_packet_size()];
    if segment.len() < padded.len() {
        if segment.len() < PORTS_END {
            return Err(Skip::CutShort);
        }
        if !first_fragment {
            return Err(Skip::Malformed);
        }
        padded[..segment.len()].copy_from_slice(segment);
    } else {
        padded.copy_from_slice(&segment[..TcpPacket::minimum_packet_size()]);
    }
    let tcp = TcpPacket::new(&padded).expect("the buffer is as long as a TCP header");
    let of_type = |scan_type| Transport {
        protocol: Protocol::Tcp,
        source_port: tcp.get_source(),
        port: tcp.get_destination(),
        scan_type,
        odd_flags: 0,
    };
    if segment.len() < FLAGS_END {
        return Ok(of_type(ScanType::Fragment));
    }
    if tcp.get_data_offset() < 5 {
        return Err(Skip::Malformed);
    }
    const XMAS: u8 = TcpFlags::FIN | TcpFlags::PSH | TcpFlags::URG;
    let flags = tcp.get_flags() & !(TcpFlags::ECE | TcpFlags::CWR);
    let scan_type = match flags {
        flags if flags & (TcpFlags::ACK | TcpFlags::RST) != 0 => return Err(Skip::Answer),
        0 => ScanType::Null,
        flags if flags & XMAS == XMAS => ScanType::Xmas,
        TcpFlags::FIN => ScanType::Fin,
        TcpFlags::SYN => ScanType::Syn,
        _ => ScanType::Odd,
    };
    let odd_flags = if scan_type == ScanType::Odd { flags } else { 0 };
    Ok(Transport {
        odd_flags,
        ..of_type(scan_type)
    })
}

/// How far into a TCP header the ports reach.
const PORTS_END: usize = 4;
/// How far into a TCP header the flags reach.
const FLAGS_END: usize = 14;

fn udp(datagram: &[u8]) -> Result<Transport, Skip> {
    let udp = UdpPacket::new(datagram).ok_or(Skip::CutShort)?;
    Ok(Transport {
        protocol: Protocol::Udp,
        source_port: udp.get_source(),
        port: udp.get_destination(),
        scan_type: ScanType::Udp,
        odd_flags: 0,
    })
}

#[cfg(test)]
pub(crate) mod tests;
