//! Ports that are listened on, connect mode's and those of traps, so that whoever connects or sends a datagram becomes a [`Probe`].
//!
//! Decides nothing about probes and logs nothing: who opens the ports tells people which of them are ours, from the [`Report`].
//!
//! A stranger gets little out of it. A connection is accepted, told the banner and closed; none is held, so a thousand at once cost
//! no descriptor beyond the ports' own, and the kernel too forgets each as soon as the peer has acknowledged the close. Of a
//! datagram one byte is read. What waits to be read is bounded for each port: `tcp` and `udp` say how.
//!
//! A datagram's source may be forged, and the banner then goes to somebody who never asked. So with no banner, nothing is ever sent. With
//! one, a datagram gets it at most once, at most ten go out in a second to all the world, and none goes where it could be taken for
//! a question or reach many: `banner` has the rules. A connection has proved its source, and is always told.
//!
//! The listener of all traps is another matter (`trap`): one socket for each family, to which the table of traps hands connections to
//! whatever port. It takes no port from anybody.
//!
//! A port that somebody uses, be it on one address only, is never taken from him. It is looked at again every five seconds, as long as
//! any is missing: the kernel tells nobody when a port becomes free. `missing` knows when it may be taken after all.

mod banner;
mod descriptors;
mod missing;
mod socket;
mod tcp;
mod trap;
mod udp;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::mem;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::Socket;

use crate::clock::Mono;
use crate::probe::{Probe, Protocol};
use banner::Banner;
use missing::Missing;
use trap::Family;

/// The most connections and datagrams that one [`Listeners::read`] takes.
pub const BATCH: usize = 64;

/// How long a port in use is left alone before it is looked at again.
const RETRY: Duration = Duration::from_secs(5);

/// How long a port rests that we lacked the means to read, a descriptor for instance.
const REST: Duration = Duration::from_secs(1);

/// A port of one protocol.
pub type Port = (Protocol, u16);

/// Where visitors come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Door {
    /// By a port that is listened on.
    Port(Port),
    /// By the listener of all traps.
    Trap(Family),
}

/// The ports that are ours, and those that we would like to have.
pub struct Listeners {
    listening: BTreeMap<Port, Socket>,
    traps: BTreeMap<Family, Socket>,
    /// Wanted, and not to be had until now.
    missing: Missing,
    retry_at: Option<Mono>,
    /// Listening, and not looked at for a moment.
    resting: BTreeSet<Door>,
    resume_at: Option<Mono>,
    banner: Banner,
    /// Holds the sockets that do not rest.
    epoll: Epoll,
    counters: Counters,
}

/// What is listened on, and what is said there. A port costs a descriptor and, in the kernel, some six KiB for TCP and two for UDP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// TCP ports. Port 0, which is none, is passed over.
    pub tcp: Vec<RangeInclusive<u16>>,
    /// UDP ports, likewise.
    pub udp: Vec<RangeInclusive<u16>>,
    /// What a visitor is told, to the byte; empty: nothing. What does not fit into one datagram is told to nobody who sends one.
    pub banner: String,
    /// Whether there is to be the listener of all traps.
    pub traps: bool,
}

/// What one attempt to open ports came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Ports that are ours from now on.
    pub listening: Vec<Port>,
    /// Ports that are wanted and could not be had, and why. They are tried again. `EADDRINUSE`: somebody uses it.
    pub skipped: Vec<(Port, Errno)>,
}

/// What one [`Listeners::read`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadReport {
    /// How many probes it added.
    pub probes: usize,
    /// Whether the batch was full, so that more may wait.
    pub full: bool,
}

/// What happened since opening.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections that became probes.
    pub connections: u64,
    /// Datagrams that became probes.
    pub datagrams: u64,
    /// Connections and datagrams that were gone before we could know whose they were.
    pub aborted: u64,
    /// Datagrams that did not get the banner: for their source's sake, or because too many asked.
    pub unanswered: u64,
    /// How often a port had to rest because we lacked the means to read it.
    pub rests: u64,
}

/// Listening is impossible, whatever the ports.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Each port takes a descriptor.
    #[error(
        "cannot listen on {wanted} ports: this process may open {limit} files, which is room for {possible} \
         (name fewer in tcp.ports and udp.ports, or raise LimitNOFILE in the unit, ulimit -Hn in a shell)"
    )]
    TooMany {
        /// How many ports are named.
        wanted: usize,
        /// RLIMIT_NOFILE, the hard one.
        limit: u64,
        /// How many ports there is room for.
        possible: u64,
    },
    /// The kernel refuses.
    #[error("cannot {step}: {source}")]
    Kernel {
        /// What.
        step: &'static str,
        /// What it says.
        source: io::Error,
    },
}

impl Listeners {
    /// Listens on all ports of `settings` that can be had, below 1024 with CAP_NET_BIND_SERVICE only.
    ///
    /// Raises the process's soft limit of open files if the ports need it.
    ///
    /// # Errors
    /// There are more ports than this process may open files. A port that cannot be had is no error: the report has it.
    pub fn open(settings: Settings, now: Mono) -> Result<(Self, Report), Error> {
        let epoll =
            Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed("wait for connections"))?;
        let mut listeners = Self {
            listening: BTreeMap::new(),
            traps: BTreeMap::new(),
            missing: Missing::default(),
            retry_at: None,
            resting: BTreeSet::new(),
            resume_at: None,
            banner: Banner::default(),
            epoll,
            counters: Counters::default(),
        };
        let report = listeners.set(settings, now)?;
        Ok((listeners, report))
    }

    /// The one descriptor to wait for (readable, level-triggered). It never changes.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// Takes one batch of what has come, each port in its turn, and adds the probes to `out`. Never waits.
    pub fn read(&mut self, out: &mut Vec<Probe>, now: Mono) -> ReadReport {
        let before = out.len();
        let mut events = [EpollEvent::empty(); BATCH];
        let mut left = BATCH;
        while left > 0 {
            // One from each port that has something, and then the next from each.
            let ready = self.epoll.wait(&mut events[..left], EpollTimeout::ZERO);
            let count = ready.unwrap_or(0);
            if count == 0 {
                break;
            }
            for event in &events[..count] {
                self.visit(Door::of(event.data()), out, now);
            }
            left -= count;
        }
        ReadReport {
            probes: out.len() - before,
            full: left == 0,
        }
    }

    /// Does what is due: looks at missing ports, and again at those that rested. The report has only what is new.
    pub fn retry(&mut self, now: Mono) -> Report {
        let is_due = |at: &mut Option<Mono>| at.take_if(|at| *at <= now).is_some();
        if is_due(&mut self.resume_at) {
            for door in mem::take(&mut self.resting) {
                let Some(socket) = at(door, &self.listening, &self.traps) else {
                    continue;
                };
                if watch(&self.epoll, door, socket).is_err() {
                    self.rest(door, now);
                }
            }
        }
        if !is_due(&mut self.retry_at) {
            return Report::default();
        }
        // Given back at once: whoever starts just now may have it.
        let free = self.missing.look(now, |port| open(port).map(drop));
        Report {
            skipped: Vec::new(),
            ..self.take_up(free, now)
        }
    }

    /// When to call [`Listeners::retry`]; `None`: there is nothing to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Mono> {
        [self.retry_at, self.resume_at].into_iter().flatten().min()
    }

    /// From now on these ports and this banner. Ports that stay lose nothing that waits there, and are not reported again; all that are
    /// missing are tried at once.
    ///
    /// # Errors
    /// As with [`Listeners::open`]; nothing has changed then.
    pub fn set(&mut self, settings: Settings, now: Mono) -> Result<Report, Error> {
        let mut wanted = settings.ports();
        descriptors::make_room(wanted.len())?;
        self.set_traps(settings.traps)?;
        self.banner.set(settings.banner);
        // Those that go are closed, which takes them out of the epoll set.
        self.listening.retain(|port, _| wanted.remove(port));
        self.resting
            .retain(|door| at(*door, &self.listening, &self.traps).is_some());
        self.missing = Missing::default();
        Ok(self.take_up(wanted, now))
    }

    /// The ports on which the listener of all traps waits at 127.0.0.1 and at ::1, as far as it does.
    #[must_use]
    pub fn trap_ports(&self) -> [Option<u16>; 2] {
        Family::ALL.map(|family| self.traps.get(&family).and_then(trap::port_of))
    }

    /// Whether we listen on that port ourselves: then nobody else does.
    #[must_use]
    pub fn holds(&self, protocol: Protocol, port: u16) -> bool {
        self.listening.contains_key(&(protocol, port))
    }

    /// Which ports are wanted and could not be had, why, and what helps: a sentence for each protocol and reason.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        self.missing.in_words()
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Opens the listener of all traps, or closes it.
    fn set_traps(&mut self, wanted: bool) -> Result<(), Error> {
        if !wanted {
            self.traps.clear();
        } else if self.traps.is_empty() {
            let fail = |errno| failed("listen for connections to traps")(errno);
            let mut traps = BTreeMap::new();
            for family in Family::ALL {
                if let Some(socket) = family.listen().map_err(fail)? {
                    watch(&self.epoll, Door::Trap(family), &socket).map_err(fail)?;
                    traps.insert(family, socket);
                }
            }
            self.traps = traps;
        }
        Ok(())
    }

    fn take_up(&mut self, ports: impl IntoIterator<Item = Port>, now: Mono) -> Report {
        let mut report = Report::default();
        for port in ports {
            match open(port).and_then(|socket| {
                watch(&self.epoll, Door::Port(port), &socket)?;
                Ok(socket)
            }) {
                Ok(socket) => {
                    self.listening.insert(port, socket);
                    report.listening.push(port);
                }
                Err(errno) => {
                    self.missing.add(port, errno);
                    report.skipped.push((port, errno));
                }
            }
        }
        self.retry_at = (!self.missing.is_empty()).then(|| now.later(RETRY));
        report
    }

    /// Takes one connection or datagram.
    fn visit(&mut self, door: Door, out: &mut Vec<Probe>, now: Mono) {
        let Some(socket) = at(door, &self.listening, &self.traps) else {
            return;
        };
        let taken = match door {
            Door::Trap(_) | Door::Port((Protocol::Tcp, _)) => {
                tcp::accept(socket, self.banner.for_connection()).inspect(|_| {
                    self.counters.connections += 1;
                })
            }
            Door::Port((Protocol::Udp, port)) => udp::receive(socket, port).map(|datagram| {
                self.counters.datagrams += 1;
                let asks = (Protocol::Udp, datagram.probe.source_port);
                let is_one_of_us =
                    self.listening.contains_key(&asks) || self.missing.contains(asks);
                if let Some(words) = self.banner.for_datagram(&datagram.probe, is_one_of_us, now) {
                    // Whoever it does not reach, because he is nowhere or a crowd, was not to have it.
                    let _ = udp::answer(socket, &datagram, words);
                } else if !self.banner.is_empty() {
                    self.counters.unanswered += 1;
                }
                datagram.probe
            }),
        };
        match taken {
            Ok(probe) => out.push(probe),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) if is_the_peers(errno) => self.counters.aborted += 1,
            Err(_) => {
                // What waits stays there, and would wake us again at once.
                let _ = self.epoll.delete(socket);
                self.counters.rests += 1;
                self.rest(door, now);
            }
        }
    }

    fn rest(&mut self, door: Door, now: Mono) {
        self.resting.insert(door);
        self.resume_at.get_or_insert(now.later(REST));
    }
}

impl Settings {
    /// Whether this process has the right to listen on all of these ports of `protocol`; who uses them makes no difference.
    #[must_use]
    pub fn may_be_had(&self, protocol: Protocol) -> bool {
        // What may be had begins at some number: it is the lowest port's.
        let mut ports = self.ports().into_iter();
        let lowest = ports.find(|port| port.0 == protocol);
        lowest.is_none_or(|(_, port)| socket::may_bind(protocol, port))
    }

    fn ports(&self) -> BTreeSet<Port> {
        let of = |protocol, ranges: &[RangeInclusive<u16>]| -> Vec<Port> {
            let ports = ranges.iter().cloned().flatten();
            // The kernel would take port 0 for any port.
            ports
                .filter(|port| *port != 0)
                .map(|port| (protocol, port))
                .collect()
        };
        let mut ports = BTreeSet::from_iter(of(Protocol::Tcp, &self.tcp));
        ports.extend(of(Protocol::Udp, &self.udp));
        ports
    }
}

fn open((protocol, port): Port) -> Result<Socket, Errno> {
    match protocol {
        Protocol::Tcp => tcp::open(port),
        Protocol::Udp => udp::open(port),
    }
}

/// The socket behind a door.
fn at<'a>(
    door: Door,
    listening: &'a BTreeMap<Port, Socket>,
    traps: &'a BTreeMap<Family, Socket>,
) -> Option<&'a Socket> {
    match door {
        Door::Port(port) => listening.get(&port),
        Door::Trap(family) => traps.get(&family),
    }
}

fn watch(epoll: &Epoll, door: Door, socket: &Socket) -> Result<(), Errno> {
    epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, door.data()))
}

impl Door {
    /// What epoll keeps beside the descriptor: the kind above the low two bytes, and in these the port.
    fn data(self) -> u64 {
        match self {
            Self::Port((Protocol::Tcp, port)) => u64::from(port),
            Self::Port((Protocol::Udp, port)) => 1 << 16 | u64::from(port),
            Self::Trap(Family::Ipv4) => 2 << 16,
            Self::Trap(Family::Ipv6) => 3 << 16,
        }
    }

    fn of(data: u64) -> Self {
        let port = u16::try_from(data & 0xffff).expect("two bytes are left by the mask");
        match data >> 16 {
            0 => Self::Port((Protocol::Tcp, port)),
            1 => Self::Port((Protocol::Udp, port)),
            2 => Self::Trap(Family::Ipv4),
            _ => Self::Trap(Family::Ipv6),
        }
    }
}

/// Whether an error is about one connection or datagram that is gone now, as accept(2) lists them, so that the next may be fine.
fn is_the_peers(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ECONNABORTED
            | Errno::ECONNREFUSED
            | Errno::ECONNRESET
            | Errno::EPROTO
            | Errno::ENOPROTOOPT
            | Errno::ENETDOWN
            | Errno::ENETUNREACH
            | Errno::EHOSTDOWN
            | Errno::EHOSTUNREACH
            | Errno::ENONET
    )
}

fn failed(step: &'static str) -> impl Fn(Errno) -> Error {
    move |errno| Error::Kernel {
        step,
        source: errno.into(),
    }
}
