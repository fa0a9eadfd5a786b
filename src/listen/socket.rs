//! A socket on all addresses of this host, of both families where there are two.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::errno::Errno;
use socket2::{Domain, Socket, Type};

use crate::probe::Protocol;

/// Binds a socket to `port` on all addresses, after `prepare` has seen to its options. Where the kernel has no IPv6, it is one for IPv4.
///
/// One socket stands for both families, so that a port costs one descriptor. It conflicts with whoever uses the port, in
/// either family and on any address.
///
/// # Errors
/// `EADDRINUSE`: somebody uses the port. `EACCES`: the right to bind low ports is missing.
pub(super) fn bind_everywhere(
    kind: Type,
    port: u16,
    prepare: impl Fn(&Socket, Domain) -> io::Result<()>,
) -> Result<Socket, Errno> {
    match bind(Domain::IPV6, kind, port, &prepare) {
        Err(Errno::EAFNOSUPPORT) => bind(Domain::IPV4, kind, port, &prepare),
        bound => bound,
    }
}

/// Whether this process has the right to `port`; who uses it makes no difference.
pub(super) fn may_bind(protocol: Protocol, port: u16) -> bool {
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    // The kernel looks at rights before it looks who else is there (net/ipv4/af_inet.c, __inet_bind).
    bind_everywhere(kind, port, |_, _| Ok(())).err() != Some(Errno::EACCES)
}

/// As [`bind_everywhere`], of one domain.
pub(super) fn bind(
    domain: Domain,
    kind: Type,
    port: u16,
    prepare: impl Fn(&Socket, Domain) -> io::Result<()>,
) -> Result<Socket, Errno> {
    let attempt = || {
        // socket2 makes it close-on-exec.
        let socket = Socket::new(domain, kind, None)?;
        socket.set_nonblocking(true)?;
        let everywhere = if domain == Domain::IPV6 {
            // Whatever net.ipv6.bindv6only says.
            socket.set_only_v6(false)?;
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
        } else {
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
        };
        prepare(&socket, domain)?;
        socket.bind(&everywhere.into())?;
        Ok(socket)
    };
    attempt().map_err(errno_of)
}

/// The kernel's number for an error; `EINVAL` for one that is not the kernel's.
pub(super) fn errno_of(error: io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EINVAL, Errno::from_raw)
}
