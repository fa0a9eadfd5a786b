//! Packets off the wire: sockets, the kernel's filter before them, and reading in batches.
//!
//! Decides nothing and logs nothing. What is read is parsed by [`crate::probe`] and handed on; what is skipped or lost is counted.
//!
//! Packet sockets see what arrives, before the firewall; they miss only what is dropped at the netdev ingress hook, by tc, or by XDP.
//! They are of the kind SOCK_DGRAM and bound to IP and IPv6, so that packets begin at the IP header whatever the link is, and one that
//! arrives on a bridge, a bond or a VLAN is seen once, on the interface that has the address. Raw IP sockets see what the firewall
//! lets in, reassembled.

mod assembler;
mod filter;
mod sockets;

#[cfg(test)]
mod tests;

use std::io::{self, IoSliceMut};
use std::net::Ipv6Addr;
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, MultiHeaders, RecvMsg, SockaddrIn6, recvmmsg,
};

use crate::config::Method;
use crate::probe::{self, Probe, Protocol, Skip};
use filter::{MAX_INTERFACES, SNAP_LEN, View};
use sockets::Tap;

/// The most packets that one [`Capture::read`] takes.
pub const BATCH: usize = 64;

/// The sockets and their buffers. Nothing is allocated after opening.
pub struct Capture {
    taps: Vec<Tap>,
    settings: Settings,
    buffers: Box<Buffers>,
    /// For taps whose packets begin at the IP header, which says it all.
    plain: MultiHeaders<()>,
    /// For raw IPv6 sockets, which say beside the packet who sent it and to whom.
    addressed: MultiHeaders<SockaddrIn6>,
    packets: u64,
    probes: u64,
    skips: [u64; Skip::COUNT],
}

type Buffers = [[u8; SNAP_LEN]; BATCH];

/// What is captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// By which kind of socket.
    pub method: Method,
    /// The indexes of the interfaces that count, loopback's too where it is wanted; `None`: all but loopback.
    /// An interface that is part of a bridge or bond never has packets of its own: the bridge has.
    pub interfaces: Option<Vec<u32>>,
    /// The ports that may be watched.
    pub watched: Watched,
}

/// The smallest range of ports, per protocol, that holds all watched ones; `None`: none is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// TCP
    pub tcp: Option<RangeInclusive<u16>>,
    /// UDP
    pub udp: Option<RangeInclusive<u16>>,
}

/// What one [`Capture::read`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadReport {
    /// Packets read, probes or not, at most [`BATCH`].
    pub packets: usize,
    /// Whether the batch was full, so that more may wait.
    pub full: bool,
}

/// What happened since opening.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets that passed the kernel's filter and were read.
    pub packets: u64,
    /// Those of them that were probes.
    pub probes: u64,
    /// The others, by [`Skip::index`].
    pub skips: [u64; Skip::COUNT],
    /// Packets that the kernel dropped because we did not read them in time; each socket's count starts again at 2³².
    /// With raw IPv6 sockets also those with a wrong checksum, which the kernel never hands over.
    pub kernel_drops: u64,
}

/// Capturing could not begin, or go on as it should.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}{}", remedy(.source))]
pub struct Error {
    step: String,
    source: io::Error,
}

impl Capture {
    /// Opens the sockets, each filtered from its first packet on.
    ///
    /// A kernel without IPv6 is no error: there is nothing to see then.
    ///
    /// # Errors
    /// The kernel refused; without CAP_NET_RAW it always does.
    pub fn open(settings: Settings) -> Result<Self, Error> {
        check(&settings)?;
        let taps = sockets::open(&settings)?;
        Ok(Self {
            taps,
            settings,
            buffers: Box::new([[0; SNAP_LEN]; BATCH]),
            plain: MultiHeaders::preallocate(BATCH, None),
            addressed: addressed_headers(),
            packets: 0,
            probes: 0,
            skips: [0; Skip::COUNT],
        })
    }

    /// The sockets to wait for (readable, level-triggered), in the order that [`Capture::read`] counts. They never change.
    pub fn fds(&self) -> impl ExactSizeIterator<Item = BorrowedFd<'_>> {
        self.taps.iter().map(Tap::fd)
    }

    /// Reads one batch from socket number `which` of [`Capture::fds`], and adds its probes to `out`. Never waits.
    ///
    /// # Errors
    /// What the socket reports, or that there is no such socket. An error of the socket's is reported once; reading goes on after it.
    pub fn read(&mut self, which: usize, out: &mut Vec<Probe>) -> io::Result<ReadReport> {
        let Self { taps, buffers, .. } = self;
        let tap = taps
            .get(which)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let (fd, view) = (tap.fd().as_raw_fd(), tap.view);
        let mut slices = buffers.each_mut().map(|bytes| [IoSliceMut::new(bytes)]);
        let flags = MsgFlags::MSG_DONTWAIT;
        let mut batch = Batch::new(out, &mut self.skips);
        let result = match view {
            View::Ipv4 | View::Ipv6 => {
                recvmmsg(fd, &mut self.plain, &mut slices, flags, None).map(|messages| {
                    for message in messages {
                        batch.take(probe::parse(bytes_of(&message)));
                    }
                    true
                })
            }
            View::Ipv6Payload(protocol) => {
                recvmmsg(fd, &mut self.addressed, &mut slices, flags, None).map(|messages| {
                    let mut all_addressed = true;
                    for message in messages {
                        let parsed = parse_addressed(&message, protocol);
                        all_addressed &= parsed.is_some();
                        batch.take(parsed.unwrap_or(Err(Skip::CutShort)));
                    }
                    all_addressed
                })
            }
        };
        let (packets, probes) = (batch.packets, batch.probes);
        match result {
            Ok(true) => {}
            // The headers keep the room for addresses that the last packet left; a packet without any leaves none.
            Ok(false) => self.addressed = addressed_headers(),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.packets += widen(packets);
        self.probes += widen(probes);
        Ok(ReadReport {
            packets,
            full: packets == BATCH,
        })
    }

    /// What happened so far. Asks the kernel for its drops, so not for every packet.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            packets: self.packets,
            probes: self.probes,
            skips: self.skips,
            kernel_drops: self.taps.iter().map(Tap::dropped).sum(),
        }
    }

    /// From now on these interfaces count, as in [`Settings::interfaces`]. No packet is lost or seen unfiltered over the change.
    ///
    /// # Errors
    /// The kernel refused; some sockets may go by the new list then and some by the old.
    pub fn set_interfaces(&mut self, interfaces: Option<Vec<u32>>) -> Result<(), Error> {
        self.change(Settings {
            interfaces,
            ..self.settings.clone()
        })
    }

    /// From now on these ports are watched. No packet is lost or seen unfiltered over the change.
    ///
    /// # Errors
    /// The kernel refused; some sockets may go by the new ranges then and some by the old.
    pub fn set_watched(&mut self, watched: Watched) -> Result<(), Error> {
        self.change(Settings {
            watched,
            ..self.settings.clone()
        })
    }

    fn change(&mut self, settings: Settings) -> Result<(), Error> {
        if settings == self.settings {
            return Ok(());
        }
        check(&settings)?;
        for tap in &self.taps {
            tap.attach_filter(&settings)?;
        }
        self.settings = settings;
        Ok(())
    }
}

/// Where the packets of one read go.
struct Batch<'a> {
    out: &'a mut Vec<Probe>,
    skips: &'a mut [u64; Skip::COUNT],
    packets: usize,
    probes: usize,
}

impl<'a> Batch<'a> {
    fn new(out: &'a mut Vec<Probe>, skips: &'a mut [u64; Skip::COUNT]) -> Self {
        Self {
            out,
            skips,
            packets: 0,
            probes: 0,
        }
    }

    fn take(&mut self, parsed: Result<Probe, Skip>) {
        self.packets += 1;
        match parsed {
            Ok(probe) => {
                self.probes += 1;
                self.out.push(probe);
            }
            Err(skip) => self.skips[skip.index()] += 1,
        }
    }
}

/// What a raw IPv6 socket delivered; `None` if the kernel did not say whence and whither.
fn parse_addressed(
    message: &RecvMsg<'_, '_, SockaddrIn6>,
    protocol: Protocol,
) -> Option<Result<Probe, Skip>> {
    let source = message.address?.ip();
    let dest = message.cmsgs().ok()?.find_map(|control| match control {
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(Ipv6Addr::from(info.ipi6_addr.s6_addr)),
        _ => None,
    })?;
    Some(probe::parse_ipv6_payload(
        source,
        dest,
        protocol,
        bytes_of(message),
    ))
}

fn bytes_of<'a, S>(message: &RecvMsg<'_, 'a, S>) -> &'a [u8] {
    message.iovs().next().unwrap_or_default()
}

/// Headers with room for a packet's destination beside it, and for nothing else.
fn addressed_headers() -> MultiHeaders<SockaddrIn6> {
    MultiHeaders::preallocate(BATCH, Some(cmsg_space!(libc::in6_pktinfo)))
}

fn check(settings: &Settings) -> Result<(), Error> {
    let count = settings.interfaces.as_ref().map_or(0, Vec::len);
    if count > MAX_INTERFACES {
        return Err(Error {
            step: format!(
                "watch {count} interfaces: {MAX_INTERFACES} are the most that can be named (name none to watch all)"
            ),
            source: io::ErrorKind::InvalidInput.into(),
        });
    }
    Ok(())
}

/// What to try next, where that is known.
fn remedy(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            " (needs CAP_NET_RAW: start as root, or with AmbientCapabilities=CAP_NET_RAW CAP_NET_ADMIN in the unit, \
             or after setcap cap_net_raw,cap_net_admin+ep on the program)"
        }
        Some(libc::EAFNOSUPPORT) => {
            " (this kernel has none: capture.method chooses the other kind of socket)"
        }
        _ => "",
    }
}

fn widen(count: usize) -> u64 {
    u64::try_from(count).expect("a batch is small")
}
