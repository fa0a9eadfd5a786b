//! [`Host`]: the addresses, links and gateways of this host, kept current by the kernel's own events.
//!
//! Its rooms: [`Facts`] is what is known, [`Services`] asks who uses a port, [`FileWatch`] sees files change.
//! [`Routes`] finds routes that were set by hand, [`DeadEnds`] has routes of our own.
//! [`resolvers`] reads the name servers, [`Sessions`] finds who is logged in from elsewhere.
//! Facts only; what follows from them is for `guard` and `policy`.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::constants::{NETLINK_ROUTE, NETLINK_SOCK_DIAG};
use netlink_sys::{Socket, SocketAddr};

pub use self::closings::Closings;
pub use self::dead_ends::{Course, DeadEnd, DeadEnds, Passage};
pub use self::facts::{Address, Facts, Link};
pub use self::flows::Flows;
pub use self::gateways::Gateway;
pub use self::names::{Names, Whereabouts};
pub use self::resolvers::Resolver;
pub use self::routes::{HostRoute, Routes, Way};
pub use self::services::Services;
pub use self::sessions::{Login, LoginBy, Sessions};
pub use self::watch::FileWatch;

pub mod bridges;
mod closings;
mod dead_ends;
mod facts;
mod flows;
mod gateways;
mod inet_diag;
mod local;
mod login_files;
mod names;
mod netlink;
pub mod resolvers;
mod routes;
mod services;
pub mod sessions;
mod sshd;
mod watch;

use self::netlink::Conversation;

/// This host's addresses, links and gateways. Sees the network namespace of the thread that opened it, for ever.
pub struct Host {
    /// Changes of addresses, links and routes arrive here, and nothing else: answers have a socket of their own.
    events: Socket,
    kernel: Conversation,
    /// For routes.
    strict: Conversation,
    facts: Facts,
    /// Something changed that `facts` does not show yet.
    stale: bool,
    /// Why the gateways are not known as they are now.
    gateways_trouble: Option<Error>,
    buffer: Vec<u8>,
}

/// The kernel, or the file system, would not tell.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The event socket could not be opened or joined.
    #[error("cannot follow changes of this host's addresses: {0}")]
    Subscribe(io::Error),
    /// The event socket could not be read.
    #[error("cannot read changes of this host's addresses: {0}")]
    Events(io::Error),
    /// Addresses or links could not be listed.
    #[error("cannot list this host's {what}: {cause}")]
    List {
        /// `addresses`, `links` or `routes`.
        what: &'static str,
        /// The step that failed.
        cause: NetlinkError,
    },
    /// There are more addresses or links than anybody needs.
    #[error("this host has more than {limit} {what}: portsentry cannot keep them all")]
    TooMany {
        /// `addresses`, `links` or `routes`.
        what: &'static str,
        /// How many can be kept.
        limit: usize,
    },
    /// The look-up of a port failed.
    #[error("cannot ask the kernel who uses {protocol} port {port}: {cause}")]
    Services {
        /// `tcp` or `udp`.
        protocol: &'static str,
        /// The port that was asked for.
        port: u16,
        /// The step that failed.
        cause: NetlinkError,
    },
    /// The kernel has no means to look up ports of this protocol.
    #[error(
        "the kernel cannot tell who uses {protocol} ports: module {protocol}_diag is missing \
         (try: modprobe inet_diag tcp_diag udp_diag; in a container, on its host)"
    )]
    NoDiag {
        /// `tcp` or `udp`.
        protocol: &'static str,
    },
    /// Who is logged in could not be read.
    #[error("cannot tell who is logged in: {path}: {cause}")]
    Sessions {
        /// A file or directory of logind's.
        path: String,
        /// What the system says.
        cause: io::Error,
    },
    /// The look-up of a flow failed.
    #[error("cannot ask connection tracking what answers us: {0}")]
    Flows(NetlinkError),
    /// inotify is not to be had.
    #[error("cannot watch files for changes: {0}")]
    Watch(io::Error),
}

pub use self::netlink::Error as NetlinkError;

/// Events read in one go; what is left makes the socket readable again at once.
const MAX_EVENTS: usize = 256;

impl Host {
    /// Joins the kernel's announcements first and lists second, so that no change falls in between.
    ///
    /// # Errors
    /// When the kernel refuses either.
    pub fn open() -> Result<Self, Error> {
        let events = subscribe().map_err(Error::Subscribe)?;
        let mut host = Self {
            events,
            kernel: Conversation::new(NETLINK_ROUTE),
            strict: Conversation::strict(NETLINK_ROUTE),
            facts: Facts::default(),
            stale: false,
            gateways_trouble: None,
            buffer: Vec::with_capacity(netlink::BUFFER),
        };
        host.facts = host.list()?;
        Ok(host)
    }

    /// Becomes readable when something may have changed: then call [`changed`](Self::changed).
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// What was last known.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Takes in all events, never waiting for one, and lists anew if there were any. `None`: all is as it was.
    ///
    /// # Errors
    /// When the kernel does not answer. The old facts stay, and the next call lists anew, with or without an event.
    pub fn changed(&mut self) -> Result<Option<&Facts>, Error> {
        // All is listed anew whatever a message says, but for those about routes that are none to us.
        for _ in 0..MAX_EVENTS {
            self.buffer.clear();
            match self
                .events
                .recv_from(&mut self.buffer, libc::MSG_DONTWAIT | libc::MSG_TRUNC)
            {
                Ok((_, sender)) => {
                    self.stale |= sender.port_number() == 0 && gateways::may_concern(&self.buffer);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Events were lost: which ones does not matter, as all is listed anew.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.stale = true,
                Err(error) => return Err(Error::Events(error)),
            }
        }
        if !self.stale {
            return Ok(None);
        }
        let facts = self.list()?;
        self.stale = false;
        if facts == self.facts {
            return Ok(None);
        }
        self.facts = facts;
        Ok(Some(&self.facts))
    }

    /// Why the gateways are not known as they are now, if so: those that were known last count.
    #[must_use]
    pub fn gateways_trouble(&self) -> Option<&Error> {
        self.gateways_trouble.as_ref()
    }

    /// Addresses and links must be known. A router with all routes of the Internet may take longer to list them than we wait.
    fn list(&mut self) -> Result<Facts, Error> {
        let facts = facts::list(&mut self.kernel)?;
        let facts = facts.with_local(local::list(&mut self.strict)?);
        let (gateways, trouble) = match gateways::list(&mut self.strict) {
            Ok(gateways) => (gateways, None),
            Err(trouble) => (self.facts.gateways().to_vec(), Some(trouble)),
        };
        self.gateways_trouble = trouble;
        Ok(facts.with_gateways(gateways))
    }
}

fn subscribe() -> io::Result<Socket> {
    let groups = libc::RTMGRP_IPV4_IFADDR
        | libc::RTMGRP_IPV6_IFADDR
        | libc::RTMGRP_LINK
        | libc::RTMGRP_IPV4_ROUTE
        | libc::RTMGRP_IPV6_ROUTE;
    let groups = u32::try_from(groups).map_err(io::Error::other)?;
    let mut events = Socket::new(NETLINK_ROUTE)?;
    events.set_non_blocking(true)?;
    events.bind(&SocketAddr::new(0, groups))?;
    Ok(events)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::process::Command;
    use std::thread;
    use std::time::{Duration, Instant};

    use nix::poll::{PollFd, PollFlags, poll};
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// Runs a test in a network of its own, where only lo is up. A thread's network is its own: this one has an end.
    pub(super) fn in_a_network(test: impl FnOnce() + Send + 'static) {
        thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root");
            ip("link set lo up");
            test();
        })
        .join()
        .unwrap();
    }

    #[track_caller]
    pub(super) fn ip(arguments: &str) {
        let done = Command::new("ip")
            .args(arguments.split_whitespace())
            .output()
            .expect("this test needs the ip command");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "ip {arguments}: {said}");
    }

    #[track_caller]
    pub(super) fn wait(what: &str, mut come: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !come() {
            assert!(Instant::now() < deadline, "waited in vain: {what}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until the facts are as wanted, going by events alone.
    #[track_caller]
    pub(super) fn follow(host: &mut Host, wanted: impl Fn(&Facts) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !wanted(host.facts()) {
            assert!(Instant::now() < deadline, "{:#?}", host.facts());
            poll(&mut [PollFd::new(host.fd(), PollFlags::POLLIN)], 1000_u16).unwrap();
            host.changed().unwrap();
        }
    }

    fn owns(facts: &Facts, text: &str) -> bool {
        facts.is_own(text.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn what_is_there_at_the_start_is_known() {
        in_a_network(|| {
            ip("link add v0 type veth peer name v1");
            ip("link set v0 up");
            ip("addr add 10.9.0.1/24 dev v0");
            ip("addr add 10.8.0.1 peer 10.8.0.2/32 dev v0");
            // Without a carrier the address stays tentative.
            ip("addr add 2001:db8::1/64 dev v0");
            let host = Host::open().unwrap();
            let facts = host.facts();
            for (text, own) in [
                ("127.0.0.1", true),
                ("127.0.0.9", true),
                ("::1", true),
                ("10.9.0.1", true),
                ("10.9.0.255", false),
                ("10.8.0.1", true),
                ("10.8.0.2", false),
                ("2001:db8::1", true),
                ("2001:db8::2", false),
            ] {
                assert_eq!(owns(facts, text), own, "{text}");
            }
            let on_link: Vec<String> = facts.on_link().iter().map(ToString::to_string).collect();
            assert_eq!(on_link, ["10.8.0.2/32", "10.9.0.0/24", "2001:db8::/64"]);
            let index = nix::net::if_::if_nametoindex("v0").unwrap();
            assert_eq!(facts.index_of("v0"), Some(index));
            assert_eq!(facts.name_of(index), Some("v0"));
            assert_eq!(facts.index_of("v9"), None);
        });
    }

    #[test]
    fn what_comes_and_goes_is_seen_and_told_once() {
        in_a_network(|| {
            let mut host = Host::open().unwrap();
            assert!(host.changed().unwrap().is_none(), "nothing happened yet");

            ip("link add v0 type veth peer name v1");
            follow(&mut host, |facts| facts.index_of("v0").is_some());
            ip("link set v0 name uplink");
            follow(&mut host, |facts| facts.index_of("uplink").is_some());
            assert_eq!(host.facts().index_of("v0"), None);

            ip("addr add 10.9.0.1/24 dev uplink");
            follow(&mut host, |facts| owns(facts, "10.9.0.1"));
            ip("addr add 2001:db8::1/64 dev uplink nodad");
            ip("link set uplink up");
            ip("link set v1 up");
            follow(&mut host, |facts| owns(facts, "2001:db8::1"));
            ip("addr del 10.9.0.1/24 dev uplink");
            follow(&mut host, |facts| !owns(facts, "10.9.0.1"));
            ip("link del v1");
            follow(&mut host, |facts| facts.index_of("uplink").is_none());
            assert!(!owns(host.facts(), "2001:db8::1"));

            ip("link set lo down");
            ip("link set lo up");
            follow(&mut host, |facts| owns(facts, "127.0.0.1"));
            while host.changed().unwrap().is_some() {}
            assert!(host.changed().unwrap().is_none(), "told already");
        });
    }

    #[test]
    fn a_gateway_is_seen_to_come_and_go_and_other_routes_make_no_work() {
        in_a_network(|| {
            ip("link add v0 type veth peer name v1");
            // Without addresses that the kernel makes up by itself, some time later.
            ip("link set v0 addrgenmode none");
            ip("link set v0 up");
            ip("link set v1 up");
            ip("addr add 10.9.0.1/24 dev v0");
            let mut host = Host::open().unwrap();
            assert_eq!(host.facts().gateways(), []);
            let gateways = |host: &Facts| -> Vec<IpAddr> {
                host.gateways().iter().map(|it| it.address).collect()
            };
            let at = |text: &str| text.parse::<IpAddr>().unwrap();
            ip("route add default via 10.9.0.2");
            follow(&mut host, |facts| gateways(facts) == [at("10.9.0.2")]);
            ip("route replace default via 10.9.0.3");
            follow(&mut host, |facts| gateways(facts) == [at("10.9.0.3")]);
            while host.changed().unwrap().is_some() {}
            ip("route add 192.0.2.0/24 via 10.9.0.4");
            ip("route add unreachable 203.0.113.7");
            assert!(host.changed().unwrap().is_none());
            assert!(!host.stale);
            // The kernel does not tell of routes that go with their link.
            ip("link set v0 down");
            follow(&mut host, |facts| gateways(facts).is_empty());
        });
    }

    #[test]
    fn lost_events_are_made_good_by_listing() {
        in_a_network(|| {
            let mut host = Host::open().unwrap();
            host.events.set_rx_buf_sz(1_u32).unwrap();
            ip("link add v0 type veth peer name v1");
            let batch = tempfile::NamedTempFile::new().unwrap();
            let lines: String = (0..250)
                .map(|n| format!("addr add 10.9.0.{n}/16 dev v0\n"))
                .collect();
            std::fs::write(batch.path(), lines).unwrap();
            ip(&format!("-batch {}", batch.path().display()));

            let error = host.events.recv(&mut Vec::with_capacity(64), 0);
            let lost = error.unwrap_err().raw_os_error();
            assert_eq!(lost, Some(libc::ENOBUFS), "this test is to lose events");
            follow(&mut host, |facts| owns(facts, "10.9.0.249"));
            assert_eq!(host.facts().addresses().len(), 2 + 250);
        });
    }

    #[test]
    fn a_host_with_many_addresses_is_read_in_full() {
        in_a_network(|| {
            ip("link add v0 type veth peer name v1");
            let batch = tempfile::NamedTempFile::new().unwrap();
            let lines: String = (0..3000)
                .map(|n| format!("addr add 10.9.{}.{}/16 dev v0\n", n / 250, n % 250))
                .collect();
            std::fs::write(batch.path(), lines).unwrap();
            ip(&format!("-batch {}", batch.path().display()));
            let host = Host::open().unwrap();
            assert_eq!(host.facts().addresses().len(), 2 + 3000);
            assert!(owns(host.facts(), "10.9.11.249"));
            assert_eq!(host.facts().on_link().len(), 1);
        });
    }
}
