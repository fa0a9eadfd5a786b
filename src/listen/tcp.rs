//! TCP: a connection is accepted, told the banner and closed, in one go.
//!
//! What strangers can have the kernel keep for a port is bounded: [`BACKLOG`] connections that wait to be accepted, each with no more
//! than a small receive buffer. What we have closed leaves nothing once the peer has acknowledged it, and is given up when the peer
//! says nothing for [`GIVE_UP`].

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use socket2::{SockAddr, Socket, Type};

use super::socket::{bind_everywhere, errno_of};
use crate::probe::{Probe, Protocol, ScanType};
use crate::sys;

/// Connections that wait to be accepted; more are not answered, and come again by themselves.
const BACKLOG: i32 = 16;

/// How long the kernel goes on telling a peer that we have closed who does not acknowledge it.
const GIVE_UP: Duration = Duration::from_secs(10);

/// Room for what a peer sends unasked. The kernel makes of it the least that it allows.
const RECEIVE_BUFFER: usize = 1;

/// Listens on `port`.
///
/// # Errors
/// As [`bind_everywhere`].
pub(super) fn open(port: u16) -> Result<Socket, Errno> {
    let socket = bind_everywhere(Type::STREAM, port, |socket, _| {
        // Remains of past connections are no reason to leave a port out. One that somebody listens on is refused all the same, on
        // whatever address he does (net/ipv4/inet_connection_sock.c, inet_csk_bind_conflict).
        socket.set_reuse_address(true)?;
        hold_nothing(socket)
    })?;
    socket.listen(BACKLOG).map_err(errno_of)?;
    Ok(socket)
}

/// Bounds what the kernel keeps of a connection: these are handed on to accepted ones.
///
/// # Errors
/// What setsockopt(2) says.
pub(super) fn hold_nothing(listener: &Socket) -> io::Result<()> {
    listener.set_recv_buffer_size(RECEIVE_BUFFER)?;
    listener.set_tcp_user_timeout(Some(GIVE_UP))?;
    sys::forget_closed_connections(listener.as_fd())
}

/// Accepts a connection, tells it `words` if there are any, and closes it. Also one that the peer has reset meanwhile is a probe.
///
/// # Errors
/// What accept(2) says; `EAGAIN` when nobody waits.
pub(super) fn accept(listener: &Socket, words: &[u8]) -> Result<Probe, Errno> {
    let (connection, peer) = listener.accept().map_err(errno_of)?;
    let local = connection.local_addr().map_err(errno_of)?;
    if !words.is_empty() {
        // What does not fit at once is not told: nobody waits for a stranger.
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let _ = connection.send_with_flags(words, flags);
        // What is left unread would make a reset of the close, and that may overtake the banner in the peer's buffers.
        let mut unread = [MaybeUninit::uninit(); 4096];
        let _ = connection.recv_with_flags(&mut unread, flags);
    }
    let (source, dest) = (end(&peer)?, end(&local)?);
    Ok(Probe {
        source: source.ip().to_canonical(),
        dest: dest.ip().to_canonical(),
        protocol: Protocol::Tcp,
        source_port: source.port(),
        port: dest.port(),
        scan_type: ScanType::Connect,
        ip_options: false,
        odd_flags: 0,
    })
}

fn end(address: &SockAddr) -> Result<SocketAddr, Errno> {
    address.as_socket().ok_or(Errno::ECONNABORTED)
}
