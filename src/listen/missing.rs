//! The ports that are wanted and not to be had: why, in words, and when one of them may be taken up after all. Pure.

use std::collections::BTreeMap;
use std::mem;

use nix::errno::Errno;

use super::Port;
use crate::probe::Protocol;

/// At how many looks in a row a port must be free before it is ours.
const FREE_LOOKS: u8 = 3;

/// Runs of ports that a sentence names; of the others it has the number.
const RUNS: usize = 12;

/// The missing ports.
#[derive(Default)]
pub(super) struct Missing(BTreeMap<Port, Lack>);

#[derive(Clone, Copy)]
struct Lack {
    why: Errno,
    /// At how many looks in a row it was free since.
    looks: u8,
}

impl Missing {
    /// A port could not be had.
    pub(super) fn add(&mut self, port: Port, why: Errno) {
        self.0.insert(port, Lack { why, looks: 0 });
    }

    /// Looks at each; those that are to be taken up now are missing no more.
    pub(super) fn look(&mut self, is_free: impl Fn(Port) -> Result<(), Errno>) -> Vec<Port> {
        let mut free = Vec::new();
        for (port, mut lack) in mem::take(&mut self.0) {
            match is_free(port) {
                Ok(()) => lack.looks += 1,
                Err(why) => lack = Lack { why, looks: 0 },
            }
            if lack.looks >= FREE_LOOKS {
                free.push(port);
            } else {
                self.0.insert(port, lack);
            }
        }
        free
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
            let reason = (*protocol, reason(lack.why));
            alike.entry(reason).or_default().push(*port);
        }
        let sentence = |((protocol, why), ports): ((Protocol, String), Vec<u16>)| {
            format!("cannot listen on {protocol} {}: {why}", named(&ports))
        };
        alike.into_iter().map(sentence).collect()
    }
}

fn reason(why: Errno) -> String {
    match why {
        Errno::EADDRINUSE => {
            "in use by other programs; taken up when it has been free for a while".to_owned()
        }
        Errno::EACCES | Errno::EPERM => format!(
            "{}; restart portsentry with CAP_NET_BIND_SERVICE, and see that SELinux or AppArmor lets it",
            why.desc().to_lowercase()
        ),
        _ => format!("{}; tried again", why.desc().to_lowercase()),
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
                "cannot listen on tcp 80-81: in use by other programs; taken up when it has been free for a while",
                "cannot listen on tcp 1: permission denied; restart portsentry with CAP_NET_BIND_SERVICE, \
                 and see that SELinux or AppArmor lets it",
                "cannot listen on tcp 9: too many open files; tried again",
                "cannot listen on udp 53: in use by other programs; taken up when it has been free for a while",
            ]
        );
        assert_eq!(lacking(&[]).in_words(), [""; 0]);
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
