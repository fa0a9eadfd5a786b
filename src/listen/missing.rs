//! The ports that are wanted and not to be had: why, in words, and when one of them may be taken up after all. Pure.
//!
//! A port that somebody was seen to use is a service's. It may be down for a while, and would not come up again if we had its port
//! then, which is worse than any trap is good. So it is ours only when nobody has used it for [`PATIENCE`]; what is to be had sooner takes
//! a reload.

use std::collections::BTreeMap;
use std::mem;
use std::time::Duration;

use nix::errno::Errno;

use super::Port;
use crate::clock::Mono;
use crate::probe::Protocol;

/// Longer than services are down that restart, are upgraded with many other packages, or first rework their data.
pub(super) const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// Runs of ports that a sentence names; of the others it has the number.
const RUNS: usize = 12;

/// The missing ports.
#[derive(Default)]
pub(super) struct Missing(BTreeMap<Port, Lack>);

/// Why a port is missing.
#[derive(Clone, Copy)]
enum Lack {
    /// The kernel said so.
    Refused(Errno),
    /// It was in use, and nobody has had it since then, as far as was seen.
    Free(Mono),
}

impl Missing {
    /// A port could not be had.
    pub(super) fn add(&mut self, port: Port, why: Errno) {
        self.0.insert(port, Lack::Refused(why));
    }

    /// Looks at each; those that are to be taken up now are missing no more.
    pub(super) fn look(
        &mut self,
        now: Mono,
        is_free: impl Fn(Port) -> Result<(), Errno>,
    ) -> Vec<Port> {
        let mut ours = Vec::new();
        for (port, lack) in mem::take(&mut self.0) {
            let lack = match (is_free(port), lack) {
                (Err(why), _) => Lack::Refused(why),
                (Ok(()), Lack::Refused(Errno::EADDRINUSE)) => Lack::Free(now),
                (Ok(()), Lack::Free(since)) if now.since(since) < PATIENCE => lack,
                (Ok(()), _) => {
                    ours.push(port);
                    continue;
                }
            };
            self.0.insert(port, lack);
        }
        ours
    }

    pub(super) fn contains(&self, port: Port) -> bool {
        self.0.contains_key(&port)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Which are missing, why, and what helps: a sentence for each protocol and reason.
    pub(super) fn in_words(&self) -> Vec<String> {
        let mut alike: BTreeMap<(Protocol, String), Vec<u16>> = BTreeMap::new();
        for ((protocol, port), lack) in &self.0 {
            let reason = (*protocol, lack.in_words());
            alike.entry(reason).or_default().push(*port);
        }
        let sentence = |((protocol, why), ports): ((Protocol, String), Vec<u16>)| {
            format!("{protocol} {} not listened on: {why}", named(&ports))
        };
        alike.into_iter().map(sentence).collect()
    }
}

impl Lack {
    fn in_words(self) -> String {
        match self {
            Self::Free(_) => {
                "free again, and left to its service for ten minutes; a reload takes it now"
                    .to_owned()
            }
            Self::Refused(Errno::EADDRINUSE) => {
                "in use by other programs; taken up when nobody has used it for ten minutes"
                    .to_owned()
            }
            Self::Refused(why @ (Errno::EACCES | Errno::EPERM)) => format!(
                "{}; restart portsentry with CAP_NET_BIND_SERVICE, and see that SELinux or AppArmor lets it",
                why.desc().to_lowercase()
            ),
            Self::Refused(why) => format!("{}; tried again", why.desc().to_lowercase()),
        }
    }
}

/// Ports in their order, as `1, 7-9 and 12 more`.
fn named(ports: &[u16]) -> String {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for port in ports {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*port) => *last = *port,
            _ => runs.push((*port, *port)),
        }
    }
    let words = runs.iter().take(RUNS).map(|(first, last)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    });
    let words = words.collect::<Vec<_>>().join(", ");
    match runs.get(RUNS) {
        Some((next, _)) => {
            let more = ports.iter().filter(|port| *port >= next).count();
            format!("{words} and {more} more")
        }
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lacking(lacks: &[(Port, Errno)]) -> Missing {
        let mut missing = Missing::default();
        for (port, why) in lacks {
            missing.add(*port, *why);
        }
        missing
    }

    #[test]
    fn each_reason_is_a_sentence_with_what_helps() {
        let (tcp, udp) = (|port| (Protocol::Tcp, port), |port| (Protocol::Udp, port));
        let missing = lacking(&[
            (tcp(81), Errno::EADDRINUSE),
            (tcp(80), Errno::EADDRINUSE),
            (udp(53), Errno::EADDRINUSE),
            (tcp(1), Errno::EACCES),
            (tcp(9), Errno::EMFILE),
        ]);
        assert_eq!(
            missing.in_words(),
            [
                "tcp 80-81 not listened on: in use by other programs; taken up when nobody has used it for ten minutes",
                "tcp 1 not listened on: permission denied; restart portsentry with CAP_NET_BIND_SERVICE, \
                 and see that SELinux or AppArmor lets it",
                "tcp 9 not listened on: too many open files; tried again",
                "udp 53 not listened on: in use by other programs; taken up when nobody has used it for ten minutes",
            ]
        );
        assert_eq!(lacking(&[]).in_words(), [""; 0]);
    }

    #[test]
    fn a_service_has_its_port_back_for_ten_minutes() {
        let port = (Protocol::Tcp, 25);
        let mut missing = lacking(&[(port, Errno::EADDRINUSE)]);
        let t0 = Mono(1_000);
        let after = |minutes: u64| t0.later(Duration::from_secs(minutes * 60));
        let mut look = |minutes, found: Result<(), Errno>| missing.look(after(minutes), |_| found);
        // An upgrade takes its time, and the service is back.
        assert_eq!(look(0, Ok(())), []);
        assert_eq!(look(9, Ok(())), []);
        assert_eq!(look(10, Err(Errno::EADDRINUSE)), []);
        // It is gone for good.
        assert_eq!(look(12, Ok(())), []);
        assert_eq!(look(21, Ok(())), []);
        assert_eq!(look(22, Ok(())), [port]);
        assert!(missing.is_empty());
    }

    #[test]
    fn a_port_that_nobody_used_is_ours_as_soon_as_it_can_be() {
        let port = (Protocol::Udp, 69);
        let mut missing = lacking(&[(port, Errno::EMFILE)]);
        let now = Mono(1_000);
        assert_eq!(missing.look(now, |_| Err(Errno::EMFILE)), []);
        assert_eq!(missing.look(now, |_| Ok(())), [port]);
    }

    #[test]
    fn what_is_free_again_is_told_as_such() {
        let mut missing = lacking(&[((Protocol::Tcp, 25), Errno::EADDRINUSE)]);
        missing.look(Mono(1_000), |_| Ok(()));
        assert_eq!(
            missing.in_words(),
            [
                "tcp 25 not listened on: free again, and left to its service for ten minutes; a reload takes it now"
            ]
        );
    }

    #[test]
    fn a_long_list_is_cut() {
        let odd: Vec<u16> = (0..=u16::MAX).filter(|port| port % 2 == 1).collect();
        let words = named(&odd);
        assert!(
            words.starts_with("1, 3, 5, ") && words.ends_with(", 23 and 32756 more"),
            "{words}"
        );
        let all: Vec<u16> = (1..=u16::MAX).collect();
        assert_eq!(named(&all), "1-65535");
        assert_eq!(named(&[7, 8, 9, 80]), "7-9, 80");
    }
}
