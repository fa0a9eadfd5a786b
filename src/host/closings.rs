//! [`Closings`]: which UDP ports a program of this host has just let go of. What comes to them yet may answer what it has asked.
//!
//! The kernel tells of sockets when they are destroyed (net/core/sock_diag.c, `sock_diag_broadcast_destroy`). Connection tracking
//! would know of the question too, but is at work on few hosts.

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::constants::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr};
use socket2::{SockFilter, SockRef};

use super::inet_diag::Answer;

/// Listens for the ends of UDP sockets. Sees the network namespace of the thread that opened it.
pub struct Closings {
    socket: Socket,
    buffer: Vec<u8>,
}

/// `SKNLGRP_INET_UDP_DESTROY` and `SKNLGRP_INET6_UDP_DESTROY`
const GROUPS: [u32; 2] = [2, 4];

/// Where, in a message, the header ends and the socket's own port stands.
const HEADER: usize = 16;
const PORT: u32 = 20;

/// Messages taken at a time, and room for one.
const AT_ONCE: usize = 256;
const ROOM: usize = 4096;

impl Closings {
    /// Begins to listen, for ports in this range; `None`: for none.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn open(ports: Option<RangeInclusive<u16>>) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind(&NetlinkAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        let closings = Self {
            socket,
            buffer: Vec::with_capacity(ROOM),
        };
        // Before anything can come.
        closings.watch(ports)?;
        for group in GROUPS {
            closings.socket.add_membership(group)?;
        }
        Ok(closings)
    }

    /// Listens for other ports from now on.
    ///
    /// # Errors
    /// The kernel refuses the filter.
    pub fn watch(&self, ports: Option<RangeInclusive<u16>>) -> io::Result<()> {
        SockRef::from(&self.socket).attach_filter(&of_ports(ports))
    }

    /// Becomes readable when there is something to be taken.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Where sockets were bound that have been closed since; an unspecified address stands for all. Never waits. What the kernel had no
    /// room for is lost: then such a port is one that nobody is known to have had.
    pub fn take(&mut self) -> Vec<SocketAddr> {
        let mut closed = Vec::new();
        for _ in 0..AT_ONCE {
            self.buffer.clear();
            let received = self
                .socket
                .recv_from(&mut self.buffer, libc::MSG_DONTWAIT | libc::MSG_TRUNC);
            match received {
                Ok((_, sender)) if sender.port_number() == 0 => closed.extend(read(&self.buffer)),
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(_) => break,
            }
        }
        closed
    }
}

fn read(message: &[u8]) -> Option<SocketAddr> {
    let (socket, _) = Answer::read(message.get(HEADER..)?)?;
    let (address, port) = socket.source;
    (port > 0).then(|| SocketAddr::new(address.to_canonical(), port))
}

/// A filter that lets through messages about sockets on these ports.
fn of_ports(ports: Option<RangeInclusive<u16>>) -> [SockFilter; 5] {
    let statement = |code: u32, jt, jf, k| {
        SockFilter::new(u16::try_from(code).expect("codes have 16 bits"), jt, jf, k)
    };
    let jump = libc::BPF_JMP | libc::BPF_K;
    // No port is both 1 at least and 0 at most.
    let (first, last) = ports.map_or((1, 0), RangeInclusive::into_inner);
    [
        statement(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, PORT),
        statement(jump | libc::BPF_JGE, 0, 2, first.into()),
        statement(jump | libc::BPF_JGT, 1, 0, last.into()),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use nix::poll::{PollFd, PollFlags, poll};
    use proptest::prelude::*;

    use super::super::tests::in_a_network;
    use super::*;

    fn next(closings: &mut Closings) -> Vec<SocketAddr> {
        poll(
            &mut [PollFd::new(closings.fd(), PollFlags::POLLIN)],
            5000_u16,
        )
        .unwrap();
        closings.take()
    }

    #[test]
    fn a_port_that_was_let_go_of_is_told_if_it_is_one_of_those() {
        in_a_network(|| {
            let mut closings = Closings::open(Some(600..=1023)).unwrap();
            let bind = |at: &str| UdpSocket::bind(at).unwrap();
            let told = |at: &str| vec![at.parse::<SocketAddr>().unwrap()];
            drop(bind("127.0.0.1:599"));
            drop(bind("127.0.0.1:1024"));
            drop(bind("127.0.0.1:600"));
            assert_eq!(next(&mut closings), told("127.0.0.1:600"));
            drop(bind("0.0.0.0:1023"));
            assert_eq!(next(&mut closings), told("0.0.0.0:1023"));
            drop(bind("[::]:700"));
            assert_eq!(next(&mut closings), told("[::]:700"));
            let connected = bind("0.0.0.0:701");
            connected.connect("127.0.0.1:53").unwrap();
            drop(connected);
            assert_eq!(next(&mut closings), told("127.0.0.1:701"));
            closings.watch(None).unwrap();
            drop(bind("127.0.0.1:702"));
            closings.watch(Some(0..=u16::MAX)).unwrap();
            drop(bind("127.0.0.1:40000"));
            assert_eq!(next(&mut closings), told("127.0.0.1:40000"));
        });
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = read(&bytes);
        }
    }
}
