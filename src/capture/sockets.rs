//! Opening the sockets, so that none ever queues a packet that its filter would drop.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{Ipv6RecvPacketInfo, RcvBufForce};
use socket2::{Domain, SockFilter, Socket, Type};

use super::filter::{self, View};
use super::{Error, Settings, Watched};
use crate::config::Method;
use crate::probe::Protocol;
use crate::sys;

/// Room for some ten thousand SYNs while the daemon is busy elsewhere. The kernel doubles it for its own upkeep.
const RECEIVE_BUFFER: usize = 4 << 20;

/// One socket and what its packets look like.
pub(super) struct Tap {
    socket: Socket,
    pub(super) view: View,
    /// The protocol that a raw IPv4 socket is for; the others see both or have it in their view.
    only: Option<Protocol>,
    name: &'static str,
}

/// Opens all sockets that the method needs. Those of a protocol that is off are opened too, and let nothing through: a reload may
/// switch it on when the right to open sockets is long gone.
pub(super) fn open(settings: &Settings) -> Result<Vec<Tap>, Error> {
    match settings.method {
        Method::Packet => Ok(vec![
            open_packet(settings, View::Ipv4)?,
            open_packet(settings, View::Ipv6)?,
        ]),
        Method::Ip => {
            let mut taps = vec![
                open_raw_ipv4(settings, Protocol::Tcp)?,
                open_raw_ipv4(settings, Protocol::Udp)?,
            ];
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                match open_raw_ipv6(settings, protocol) {
                    Err(error) if error.source.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
                    tap => taps.push(tap?),
                }
            }
            Ok(taps)
        }
    }
}

impl Tap {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Replaces the filter in one step: every packet meets either the old or the new one.
    pub(super) fn attach_filter(&self, settings: &Settings) -> Result<(), Error> {
        let Watched { tcp, udp } = settings.watched.clone();
        let watched = Watched {
            tcp: tcp.filter(|_| self.only != Some(Protocol::Udp)),
            udp: udp.filter(|_| self.only != Some(Protocol::Tcp)),
        };
        let program = filter::program(self.view, &watched, settings.interfaces.as_deref());
        self.socket
            .attach_filter(&kernel_form(&program))
            .map_err(|error| self.failed("attach the filter to", error))
    }

    /// Packets that the kernel dropped because nobody read them in time; 0 where it does not tell.
    pub(super) fn dropped(&self) -> u64 {
        sys::dropped_packets(self.fd()).map_or(0, u64::from)
    }

    /// As much room as we may have. A smaller one only means that drops come sooner, and they are counted.
    fn enlarge_buffer(&self) {
        if setsockopt(&self.socket, RcvBufForce, &RECEIVE_BUFFER).is_err() {
            let _ = self.socket.set_recv_buffer_size(RECEIVE_BUFFER);
        }
    }

    /// Throws away what came between the socket's birth and its filter's: at most what the queue holds.
    fn drain(&self) {
        for _ in 0..10_000 {
            if self.socket.recv(&mut [MaybeUninit::uninit(); 1]).is_err() {
                return;
            }
        }
    }

    fn failed(&self, what: &str, source: io::Error) -> Error {
        failed(what, self.name, source)
    }
}

fn open_packet(settings: &Settings, view: View) -> Result<Tap, Error> {
    let (ethertype, name) = match view {
        View::Ipv4 => (libc::ETH_P_IP, "the packet socket for IPv4"),
        _ => (libc::ETH_P_IPV6, "the packet socket for IPv6"),
    };
    // Without a protocol it receives nothing until it is bound to one, and by then it has its filter.
    let tap = Tap {
        socket: open_socket(Domain::PACKET, Type::DGRAM, 0, name)?,
        view,
        only: None,
        name,
    };
    tap.attach_filter(settings)?;
    tap.enlarge_buffer();
    let ethertype = u16::try_from(ethertype).expect("link protocols are numbers of 16 bits");
    sys::bind_packet_socket(tap.fd(), ethertype).map_err(|error| tap.failed("bind", error))?;
    Ok(tap)
}

fn open_raw_ipv4(settings: &Settings, protocol: Protocol) -> Result<Tap, Error> {
    let (number, name) = match protocol {
        Protocol::Tcp => (libc::IPPROTO_TCP, "the raw IPv4 socket for TCP"),
        Protocol::Udp => (libc::IPPROTO_UDP, "the raw IPv4 socket for UDP"),
    };
    let tap = Tap {
        socket: open_socket(Domain::IPV4, Type::RAW, number, name)?,
        view: View::Ipv4,
        only: Some(protocol),
        name,
    };
    finish_raw(tap, settings)
}

fn open_raw_ipv6(settings: &Settings, protocol: Protocol) -> Result<Tap, Error> {
    let (number, name) = match protocol {
        Protocol::Tcp => (libc::IPPROTO_TCP, "the raw IPv6 socket for TCP"),
        Protocol::Udp => (libc::IPPROTO_UDP, "the raw IPv6 socket for UDP"),
    };
    let tap = Tap {
        socket: open_socket(Domain::IPV6, Type::RAW, number, name)?,
        view: View::Ipv6Payload(protocol),
        only: Some(protocol),
        name,
    };
    setsockopt(&tap.socket, Ipv6RecvPacketInfo, &true)
        .map_err(|errno| tap.failed("ask for destinations on", errno.into()))?;
    finish_raw(tap, settings)
}

/// A raw socket receives from its first moment on. Packets that came before the filter are dropped: they may lack their destination, too.
fn finish_raw(tap: Tap, settings: &Settings) -> Result<Tap, Error> {
    tap.attach_filter(settings)?;
    tap.drain();
    tap.enlarge_buffer();
    Ok(tap)
}

fn open_socket(
    domain: Domain,
    kind: Type,
    protocol: libc::c_int,
    name: &'static str,
) -> Result<Socket, Error> {
    // socket2 makes it close-on-exec.
    let socket = Socket::new(domain, kind, Some(protocol.into()))
        .map_err(|error| failed("open", name, error))?;
    socket
        .set_nonblocking(true)
        .map_err(|error| failed("configure", name, error))?;
    Ok(socket)
}

pub(super) fn kernel_form(program: &[filter::Insn]) -> Vec<SockFilter> {
    program
        .iter()
        .map(|insn| SockFilter::new(insn.code, insn.if_true, insn.if_false, insn.k))
        .collect()
}

fn failed(what: &str, name: &str, source: io::Error) -> Error {
    Error {
        step: format!("{what} {name}"),
        source,
    }
}
