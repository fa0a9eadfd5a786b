//! A socket on all addresses of this host, of both families where there are two.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::errno::Errno;
use socket2::{Domain, Socket, Type};

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

/// The same, of one domain.
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
