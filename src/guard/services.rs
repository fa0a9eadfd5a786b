//! What the kernel lately said about our ports: bound, or nobody there.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::clock::Mono;
use crate::probe::Protocol;

/// How long an answer may be used again.
const HOLDS: Duration = Duration::from_secs(1);

/// The same for a port that is handed on: what comes late, after its connection is over, can no longer be asked about.
const REDIRECTED_HOLDS: Duration = Duration::from_secs(10 * 60);

/// Answers kept at most; a newer one takes the place of one that shares its hash.
const ANSWERS: usize = 1024;

/// Answers to "is something bound to this address and port?", each good for a second, and ports that are handed on.
pub struct KnownServices {
    answers: Box<[Option<Answer>]>,
    key: RandomState,
}

#[derive(Clone, Copy)]
struct Answer {
    protocol: Protocol,
    at: SocketAddr,
    bound: bool,
    asked: Mono,
    holds: Duration,
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
        let at = SocketAddr::new(address, port);
        let answer = self.answers[self.index(protocol, at)]?;
        let is_it = answer.protocol == protocol
            && answer.at == at
            && now.since(answer.asked) < answer.holds;
        is_it.then_some((answer.bound, answer.asked))
    }

    /// Keeps an answer.
    pub fn keep(&mut self, protocol: Protocol, address: IpAddr, port: u16, bound: bool, now: Mono) {
        self.put(Answer {
            protocol,
            at: SocketAddr::new(address, port),
            bound,
            asked: now,
            holds: HOLDS,
        });
    }

    /// Keeps that what comes to this port is handed on to somebody else, who serves it.
    pub fn keep_redirected(&mut self, protocol: Protocol, address: IpAddr, port: u16, now: Mono) {
        self.put(Answer {
            protocol,
            at: SocketAddr::new(address, port),
            bound: true,
            asked: now,
            holds: REDIRECTED_HOLDS,
        });
    }

    fn put(&mut self, answer: Answer) {
        self.answers[self.index(answer.protocol, answer.at)] = Some(answer);
    }

    fn index(&self, protocol: Protocol, at: SocketAddr) -> usize {
        let low_bits = self.key.hash_one((protocol, at)) % ANSWERS as u64;
        usize::try_from(low_bits).expect("a remainder below ANSWERS, which is a usize")
    }
}

impl Default for KnownServices {
    fn default() -> Self {
        Self {
            answers: vec![None; ANSWERS].into(),
            key: RandomState::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_holds_for_a_second_and_for_its_own_port_alone() {
        let mut known = KnownServices::default();
        let (a, b): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let t0 = Mono(10_000);
        known.keep(Protocol::Tcp, a, 22, true, t0);
        assert_eq!(
            known.lookup(Protocol::Tcp, a, 22, t0.later(HOLDS / 2)),
            Some((true, t0))
        );
        assert_eq!(known.lookup(Protocol::Tcp, a, 22, t0.later(HOLDS)), None);
        known.keep_redirected(Protocol::Tcp, a, 80, t0);
        let late = t0.later(Duration::from_secs(599));
        assert_eq!(known.lookup(Protocol::Tcp, a, 80, late), Some((true, t0)));
        assert_eq!(known.lookup(Protocol::Udp, a, 22, t0), None);
        assert_eq!(known.lookup(Protocol::Tcp, b, 22, t0), None);
        assert_eq!(known.lookup(Protocol::Tcp, a, 23, t0), None);
        known.keep(Protocol::Tcp, a, 22, false, t0);
        assert_eq!(known.lookup(Protocol::Tcp, a, 22, t0), Some((false, t0)));
    }
}
