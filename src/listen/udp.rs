//! UDP: whence a datagram came and whither, without its content, and an answer from where it was sent to.
//!
//! What strangers can have the kernel keep for a port is bounded by a small receive buffer: room for some forty datagrams of a few
//! bytes, and for one of any size.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
};
use socket2::{Domain, Socket, Type};

use super::socket::bind_everywhere;
use crate::probe::{Probe, Protocol, ScanType};

/// The kernel doubles it for its own upkeep.
const RECEIVE_BUFFER: usize = 16 << 10;

/// A datagram, with what it takes to answer it.
pub(super) struct Datagram {
    pub(super) probe: Probe,
    from: SockaddrStorage,
    to: Destination,
}

/// Where a datagram was sent to, in the words that the kernel has for it.
#[derive(Clone, Copy)]
enum Destination {
    Ipv4(libc::in_pktinfo),
    /// IPv4 too, mapped, on a socket for both.
    Ipv6(libc::in6_pktinfo),
}

/// Listens on `port`. There is no address reuse: with UDP, it takes ports from those who have them.
///
/// # Errors
/// As [`bind_everywhere`].
pub(super) fn open(port: u16) -> Result<Socket, Errno> {
    bind_everywhere(Type::DGRAM, port, prepare)
}

pub(super) fn prepare(socket: &Socket, domain: Domain) -> io::Result<()> {
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    if domain == Domain::IPV6 {
        setsockopt(socket, Ipv6RecvPacketInfo, &true)?;
    } else {
        setsockopt(socket, Ipv4PacketInfo, &true)?;
    }
    Ok(())
}

/// Takes one datagram off a socket that is bound to `port`, and throws its content away.
///
/// # Errors
/// What recvmsg(2) says; `EAGAIN` when there is none, `ECONNABORTED` when the kernel does not say whose it was.
pub(super) fn receive(socket: &Socket, port: u16) -> Result<Datagram, Errno> {
    let mut byte = [0];
    let mut slices = [IoSliceMut::new(&mut byte)];
    let mut room = cmsg_space!(libc::in6_pktinfo);
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut slices,
        Some(&mut room),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let from = message.address.ok_or(Errno::ECONNABORTED)?;
    let source = end(&from).ok_or(Errno::ECONNABORTED)?;
    let to = message
        .cmsgs()?
        .find_map(|control| match control {
            ControlMessageOwned::Ipv4PacketInfo(info) => Some(Destination::Ipv4(info)),
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(Destination::Ipv6(info)),
            _ => None,
        })
        .ok_or(Errno::ECONNABORTED)?;
    Ok(Datagram {
        probe: Probe {
            source: source.ip().to_canonical(),
            dest: to.address().to_canonical(),
            protocol: Protocol::Udp,
            source_port: source.port(),
            port,
            scan_type: ScanType::Connect,
            ip_options: false,
            odd_flags: 0,
        },
        from,
        to,
    })
}

/// Sends `words` back to where the datagram came from, from where it was sent to. Never waits.
///
/// # Errors
/// What sendmsg(2) says, also when the datagram was sent to an address that is not this host's alone.
pub(super) fn answer(socket: &Socket, datagram: &Datagram, words: &[u8]) -> Result<(), Errno> {
    let to = datagram.to.as_a_sender();
    let sender = match &to {
        Destination::Ipv4(info) => ControlMessage::Ipv4PacketInfo(info),
        Destination::Ipv6(info) => ControlMessage::Ipv6PacketInfo(info),
    };
    sendmsg(
        socket.as_raw_fd(),
        &[IoSlice::new(words)],
        &[sender],
        MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
        Some(&datagram.from),
    )
    .map(|_| ())
}

impl Destination {
    fn address(self) -> IpAddr {
        match self {
            Self::Ipv4(info) => Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).into(),
            Self::Ipv6(info) => Ipv6Addr::from(info.ipi6_addr.s6_addr).into(),
        }
    }

    /// What is to stand as an answer's source. The way there is the kernel's to find; a link-local one is in the receiver's address.
    fn as_a_sender(self) -> Self {
        match self {
            Self::Ipv4(info) => Self::Ipv4(libc::in_pktinfo {
                ipi_ifindex: 0,
                // For what was broadcast, the kernel has our own address here; it is not to be answered.
                ipi_spec_dst: info.ipi_addr,
                ..info
            }),
            Self::Ipv6(info) => Self::Ipv6(libc::in6_pktinfo {
                ipi6_ifindex: 0,
                ..info
            }),
        }
    }
}

fn end(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = || {
        address
            .as_sockaddr_in()
            .map(|v4| SocketAddrV4::from(*v4).into())
    };
    let v6 = || {
        address
            .as_sockaddr_in6()
            .map(|v6| SocketAddrV6::from(*v6).into())
    };
    v4().or_else(v6)
}
