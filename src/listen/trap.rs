//! The one listener of all traps: a socket for each family, to which the table of traps hands connections to any port.
//!
//! They listen on loopback addresses, so that nobody reaches them but by that table. They are transparent: a connection that they
//! accept keeps the address and the port that its peer meant.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::errno::Errno;
use socket2::{Domain, Socket, Type};

use super::socket::errno_of;
use super::tcp;

/// Connections that wait to be accepted; beyond that, the kernel goes over to SYN cookies, which hold nothing. They are for all
/// traps together, and a scan tries many ports at a time.
const BACKLOG: i32 = 1024;

/// One of the two sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// Listens, on a port that the kernel chooses; `None`: this host does not have this family.
    ///
    /// # Errors
    /// The kernel's: `EPERM` without CAP_NET_ADMIN or CAP_NET_RAW.
    pub(super) fn listen(self) -> Result<Option<Socket>, Errno> {
        match self.open().map_err(errno_of) {
            Ok(socket) => Ok(Some(socket)),
            Err(Errno::EAFNOSUPPORT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn open(self) -> io::Result<Socket> {
        let (domain, here) = match self {
            Self::Ipv4 => (Domain::IPV4, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            Self::Ipv6 => (Domain::IPV6, SocketAddr::from((Ipv6Addr::LOCALHOST, 0))),
        };
        let socket = Socket::new(domain, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        match self {
            Self::Ipv4 => socket.set_ip_transparent_v4(true)?,
            Self::Ipv6 => socket.set_ip_transparent_v6(true)?,
        }
        tcp::hold_nothing(&socket)?;
        socket.bind(&here.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    }
}

/// The port that a socket listens on.
pub(super) fn port_of(socket: &Socket) -> Option<u16> {
    Some(socket.local_addr().ok()?.as_socket()?.port())
}
