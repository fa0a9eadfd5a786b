//! What the kernel lately said about our ports: somebody serves them, or nobody is there.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use crate::clock::Mono;
use crate::probe::Protocol;

/// How long an answer may be used again.
const HOLDS: Duration = Duration::from_secs(1);

/// How long a port whose service is gone is still no trap. The service may be restarting, and its clients try again meanwhile; and
/// what comes late to a port that is handed on, after its connection is over, can no longer be asked about.
const OUTLIVES: Duration = Duration::from_secs(10 * 60);

/// Ports kept of either kind, a power of two: in a flood over all ports, each is asked about once a second, and not for each packet.
const PORTS: usize = 8192;

/// Ports that share a hash; when there is one more, the one heard of longest ago makes room.
const WAYS: usize = 8;

/// Answers to "does anybody serve this address and port?", each good for a second, and which ports were served lately.
pub struct KnownServices {
    /// When the kernel was asked, and in the lowest bit whether it is a service.
    answers: Ports,
    /// When it was last heard that the port is served. Apart from the answers, so that no scan of unused ports drives them out.
    served: Ports,
    /// When a program of this host let go of the UDP port, and at which address; an unspecified one stands for all. Apart from those that
    /// are served, which a host that asks much would drive out.
    left: Ports,
    key: RandomState,
}

/// What stands for a port: a hash of it, keyed by chance at start, so that nobody can make out two that share one.
type Tag = u64;

/// A number for each of many ports; zero for one that nothing is known of. The kernel gives the memory as ports are asked about.
struct Ports(Box<[(Tag, u64)]>);

impl KnownServices {
    /// The answer and when it was asked for, if it is fresh.
    #[must_use]
    pub fn lookup(
        &self,
        protocol: Protocol,
        address: IpAddr,
        port: u16,
        now: Mono,
    ) -> Option<(bool, Mono)> {
        let answer = self.answers.get(self.tag(protocol, address, port))?;
        let (service, asked) = (answer & 1 == 1, Mono(answer >> 1));
        let service = service || self.was_left(protocol, address, port, now);
        (now.since(asked) < HOLDS).then_some((service, asked))
    }

    /// A program of this host has let go of a UDP port that it had at this address. What comes there for a while may be the late
    /// answer to what it has asked.
    pub fn leave(&mut self, at: SocketAddr, now: Mono) {
        let tag = self.tag(Protocol::Udp, at.ip(), at.port());
        self.left.put(tag, now.0);
        // A socket for all of IPv6 is one for all of IPv4, unless it says otherwise.
        if at.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
            let ipv4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), at.port());
            self.leave(ipv4, now);
        }
    }

    fn was_left(&self, protocol: Protocol, address: IpAddr, port: u16, now: Mono) -> bool {
        let all = match address {
            IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        };
        let is_left = |at| {
            let last = self.left.get(self.tag(Protocol::Udp, at, port));
            last.is_some_and(|last| now.since(Mono(last)) < OUTLIVES)
        };
        protocol == Protocol::Udp && [address, all].into_iter().any(is_left)
    }

    /// Keeps what the kernel says, that somebody serves this port or nobody does, and returns whether it is a service's: one that
    /// was served in the last ten minutes still is, and so is one that was let go of since.
    pub fn learn(
        &mut self,
        protocol: Protocol,
        address: IpAddr,
        port: u16,
        served: bool,
        now: Mono,
    ) -> bool {
        let tag = self.tag(protocol, address, port);
        if served {
            self.served.put(tag, now.0);
        }
        let served = (self.served.get(tag)).is_some_and(|last| now.since(Mono(last)) < OUTLIVES);
        let service = served || self.was_left(protocol, address, port, now);
        self.answers.put(tag, now.0 << 1 | u64::from(service));
        service
    }

    fn tag(&self, protocol: Protocol, address: IpAddr, port: u16) -> Tag {
        let port = u32::from(port) << 1 | u32::from(protocol == Protocol::Udp);
        // For each packet: in as few words as there can be.
        match address {
            IpAddr::V4(v4) => self
                .key
                .hash_one(u64::from(v4.to_bits()) << 32 | u64::from(port)),
            IpAddr::V6(v6) => self.key.hash_one((v6.to_bits(), port)),
        }
    }
}

impl Ports {
    fn get(&self, tag: Tag) -> Option<u64> {
        let ways = &self.0[Self::ways(tag)];
        let known = ways.iter().find(|(it, known)| *it == tag && *known > 0);
        known.map(|(_, known)| *known)
    }

    fn put(&mut self, tag: Tag, number: u64) {
        let ways = &mut self.0[Self::ways(tag)];
        let own = |(it, known): &(Tag, u64)| (*it != tag, *known);
        if let Some(place) = ways.iter_mut().min_by_key(|place| own(place)) {
            *place = (tag, number);
        }
    }

    fn ways(tag: Tag) -> Range<usize> {
        let buckets = u64::try_from(PORTS / WAYS).expect("a small number");
        let first = usize::try_from(tag % buckets).expect("below a usize") * WAYS;
        first..first + WAYS
    }
}

impl Default for Ports {
    fn default() -> Self {
        Self(vec![(0, 0); PORTS].into())
    }
}

impl Default for KnownServices {
    fn default() -> Self {
        Self {
            answers: Ports::default(),
            served: Ports::default(),
            left: Ports::default(),
            key: RandomState::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: Protocol = Protocol::Tcp;

    fn addresses() -> (IpAddr, IpAddr) {
        ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap())
    }

    #[test]
    fn an_answer_holds_for_a_second_and_for_its_own_port_alone() {
        let mut known = KnownServices::default();
        let (a, b) = addresses();
        let t0 = Mono(10_000);
        assert!(known.learn(TCP, a, 22, true, t0));
        let soon = t0.later(HOLDS / 2);
        assert_eq!(known.lookup(TCP, a, 22, soon), Some((true, t0)));
        assert_eq!(known.lookup(TCP, a, 22, t0.later(HOLDS)), None);
        assert_eq!(known.lookup(Protocol::Udp, a, 22, t0), None);
        assert_eq!(known.lookup(TCP, b, 22, t0), None);
        assert_eq!(known.lookup(TCP, a, 23, t0), None);
        assert!(!known.learn(TCP, b, 22, false, soon));
        assert_eq!(known.lookup(TCP, b, 22, soon), Some((false, soon)));
    }

    #[test]
    fn every_port_that_is_watched_by_default_is_asked_about_once_a_second() {
        let mut known = KnownServices::default();
        let (a, b) = addresses();
        let t0 = Mono(10_000);
        let asked = || {
            [a, b]
                .into_iter()
                .flat_map(|at| (1..1024).map(move |port| (at, port)))
        };
        for (at, port) in asked() {
            for protocol in [TCP, Protocol::Udp] {
                known.learn(protocol, at, port, port % 7 == 0, t0);
            }
        }
        let soon = t0.later(HOLDS / 2);
        let kept = asked()
            .filter(|&(at, port)| known.lookup(TCP, at, port, soon) == Some((port % 7 == 0, t0)));
        // Now and then, nine share a hash.
        assert!(kept.count() > 2000);
    }

    #[test]
    fn a_port_that_was_let_go_of_is_no_trap_for_ten_minutes() {
        let udp = Protocol::Udp;
        let mut known = KnownServices::default();
        let (a, b) = addresses();
        let t0 = Mono(10_000);
        assert!(!known.learn(udp, a, 700, false, t0));
        known.leave(SocketAddr::new(a, 700), t0);
        assert_eq!(known.lookup(udp, a, 700, t0), Some((true, t0)));
        assert!(known.learn(udp, a, 700, false, t0));
        assert!(!known.learn(udp, b, 700, false, t0), "another address");
        assert!(!known.learn(TCP, a, 700, false, t0));
        known.leave("[::]:701".parse().unwrap(), t0);
        let ipv6 = "2001:db8::1".parse().unwrap();
        for at in [a, b, ipv6] {
            assert!(known.learn(udp, at, 701, false, t0), "{at}");
            assert!(!known.learn(udp, at, 701, false, t0.later(OUTLIVES)));
        }
        known.leave("0.0.0.0:702".parse().unwrap(), t0);
        assert!(known.learn(udp, b, 702, false, t0));
        assert!(!known.learn(udp, ipv6, 702, false, t0));
    }

    #[test]
    fn a_service_that_is_gone_still_counts_for_ten_minutes() {
        let mut known = KnownServices::default();
        let (a, b) = addresses();
        let t0 = Mono(10_000);
        let nearly = t0.later(OUTLIVES - HOLDS);
        known.learn(TCP, a, 80, true, t0);
        for port in 1..=65_535 {
            known.learn(TCP, b, port, false, t0);
        }
        assert!(known.learn(TCP, a, 80, false, nearly));
        assert_eq!(known.lookup(TCP, a, 80, nearly), Some((true, nearly)));
        assert!(!known.learn(TCP, a, 80, false, t0.later(OUTLIVES)));
        assert!(!known.learn(TCP, b, 80, false, nearly), "another address");
    }
}
