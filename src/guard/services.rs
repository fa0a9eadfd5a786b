//! What the kernel lately said about our ports: somebody serves them, or nobody is there.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::clock::Mono;
use crate::probe::Protocol;

/// How long an answer may be used again.
const HOLDS: Duration = Duration::from_secs(1);

/// How long a port whose service is gone is still no trap. The service may be restarting, and its clients try again meanwhile; and
/// what comes late to a port that is handed on, after its connection is over, can no longer be asked about.
const OUTLIVES: Duration = Duration::from_secs(10 * 60);

/// Ports kept at most, of either kind; a newer one takes the place of one that shares its hash.
const PORTS: usize = 1024;

/// Answers to "does anybody serve this address and port?", each good for a second, and which ports were served lately.
pub struct KnownServices {
    answers: Ports<Answer>,
    /// When it was last heard that the port is served. Apart from the answers, so that no scan of unused ports drives them out.
    served: Ports<Mono>,
    key: RandomState,
}

type Port = (Protocol, SocketAddr);
type Ports<T> = Box<[Option<(Port, T)>]>;

#[derive(Clone, Copy)]
struct Answer {
    service: bool,
    asked: Mono,
}

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
        let port = (protocol, SocketAddr::new(address, port));
        let answer = find(&self.answers, self.index(port), port)?;
        (now.since(answer.asked) < HOLDS).then_some((answer.service, answer.asked))
    }

    /// Keeps what the kernel says, that somebody serves this port or nobody does, and returns whether it is a service's: one that
    /// was served in the last ten minutes still is.
    pub fn learn(
        &mut self,
        protocol: Protocol,
        address: IpAddr,
        port: u16,
        served: bool,
        now: Mono,
    ) -> bool {
        let port = (protocol, SocketAddr::new(address, port));
        let index = self.index(port);
        if served {
            self.served[index] = Some((port, now));
        }
        let service =
            find(&self.served, index, port).is_some_and(|last| now.since(last) < OUTLIVES);
        let asked = now;
        self.answers[index] = Some((port, Answer { service, asked }));
        service
    }

    fn index(&self, port: Port) -> usize {
        let low_bits = self.key.hash_one(port) % PORTS as u64;
        usize::try_from(low_bits).expect("a remainder below PORTS, which is a usize")
    }
}

fn find<T: Copy>(ports: &Ports<T>, index: usize, port: Port) -> Option<T> {
    ports[index].and_then(|(it, known)| (it == port).then_some(known))
}

impl Default for KnownServices {
    fn default() -> Self {
        Self {
            answers: vec![None; PORTS].into(),
            served: vec![None; PORTS].into(),
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
