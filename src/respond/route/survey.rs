//! [`Survey`]: what a dead end must not cut off, and what it could not cut off, from the routes of this host.
//!
//! It reads them no more often than it can afford, and tells of one source at a time.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Instant;

use ipnet::IpNet;

use crate::host::{DeadEnds, Error, Passage};
use crate::source::Source;

/// The landmarks of each family, as they were when last read.
#[derive(Default)]
pub(super) struct Survey([Option<Kept>; 2]);

struct Kept {
    landmarks: Landmarks,
    until: Instant,
}

/// The places on the way, by address.
pub(super) struct Landmarks(Vec<Landmark>);

/// Why there cannot be a dead end for a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Landmark {
    /// A router of ours lives there.
    Gateway(IpAddr),
    /// It is, or has in it, an address of our own.
    Own(IpNet),
    /// We are connected to all of this prefix.
    Connected(IpNet),
    /// A narrower route would still lead there, by this gateway.
    Narrower(IpNet, IpAddr),
}

/// What was read is used for so many times as long as reading took: a moment on most hosts, seconds where there are a
/// million routes. So no flood of scanners has us do nothing but read.
const KEPT_FOR: u32 = 10;

impl Survey {
    /// The landmarks of the family of `like`.
    pub(super) fn of(&mut self, like: IpAddr, kernel: &mut DeadEnds) -> Result<&Landmarks, Error> {
        let begin = Instant::now();
        let kept = &mut self.0[usize::from(like.is_ipv6())];
        let kept = match kept.take().filter(|kept| begin < kept.until) {
            Some(good) => kept.insert(good),
            None => {
                let landmarks = Landmarks::of(&kernel.passages(like)?);
                let until = Instant::now() + begin.elapsed() * KEPT_FOR;
                kept.insert(Kept { landmarks, until })
            }
        };
        Ok(&kept.landmarks)
    }
}

impl Landmarks {
    /// Those that these routes show.
    fn of(passages: &[Passage]) -> Self {
        let gateways: BTreeSet<IpAddr> = passages
            .iter()
            .flat_map(|it| &it.gateways)
            .copied()
            .collect();
        let mut all: Vec<Landmark> = gateways.into_iter().map(Landmark::Gateway).collect();
        for passage in passages {
            if passage.is_own {
                all.push(Landmark::Own(passage.to));
            } else if let Some(gateway) = passage.gateways.first() {
                let narrower = Landmark::Narrower(passage.to, *gateway);
                all.extend(Some(narrower).filter(|_| passage.is_in_main_table()));
            } else {
                all.push(Landmark::Connected(passage.to));
            }
        }
        all.sort_unstable_by_key(|landmark| (landmark.to(), *landmark));
        Self(all)
    }

    /// What speaks most against a dead end for `source`; `None`: nothing.
    pub(super) fn against(&self, source: Source) -> Option<Landmark> {
        let first = |landmark: &Landmark| landmark.to().network();
        let begin = self.0.partition_point(|it| first(it) < source.address());
        self.0[begin..]
            .iter()
            .take_while(|it| source.covers(first(it)))
            .filter(|it| match it {
                // Ours takes precedence over a route to the same prefix.
                Landmark::Narrower(to, _) => to.prefix_len() > source.prefix_len(),
                it => it.to().prefix_len() >= source.prefix_len(),
            })
            .min()
            .copied()
    }
}

impl Landmark {
    /// Where it is.
    fn to(&self) -> IpNet {
        match *self {
            Self::Gateway(gateway) => gateway.into(),
            Self::Own(to) | Self::Connected(to) | Self::Narrower(to, _) => to,
        }
    }
}

impl fmt::Display for Landmark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway(gateway) => {
                write!(f, "a route would cut off the gateway {gateway}")
            }
            Self::Own(to) => {
                write!(
                    f,
                    "a route would cut off this host's own {}",
                    Source::from(*to)
                )
            }
            Self::Connected(to) => {
                write!(
                    f,
                    "a route would cut off {to}, which this host is connected to"
                )
            }
            Self::Narrower(to, gateway) => write!(
                f,
                "the narrower route to {to} via {gateway} would still lead there; ban less at a time"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passage(to: &str, via: &[&str], is_own: bool, table: u32) -> Passage {
        Passage {
            to: to.parse().unwrap(),
            gateways: via.iter().map(|via| via.parse().unwrap()).collect(),
            is_own,
            table,
        }
    }

    #[test]
    fn a_source_that_holds_something_we_need_has_no_dead_end() {
        let landmarks = Landmarks::of(&[
            passage("0.0.0.0/0", &["192.0.2.1"], false, 254),
            passage("0.0.0.0/0", &["198.51.100.1", "198.51.100.9"], false, 7),
            passage("0.0.0.0/1", &[], false, 254),
            passage("192.0.2.0/24", &[], false, 254),
            passage("192.0.2.7/32", &[], true, 255),
            passage("10.9.0.2/32", &[], false, 254),
            passage("10.0.0.0/8", &["192.0.2.2"], false, 254),
            passage("10.8.0.0/16", &["192.0.2.3"], false, 7),
            passage("2001:db8:5::/48", &["fe80::1"], false, 254),
            passage("2001:db8::/64", &[], false, 254),
        ]);
        for (source, why) in [
            ("192.0.2.1", "cut off the gateway 192.0.2.1"),
            ("192.0.2.2", "cut off the gateway 192.0.2.2"),
            ("192.0.2.3", "cut off the gateway 192.0.2.3"),
            ("198.51.100.0/28", "cut off the gateway 198.51.100.1"),
            ("198.51.100.9", "cut off the gateway 198.51.100.9"),
            ("192.0.2.4/30", "cut off this host's own 192.0.2.7"),
            ("192.0.2.0/24", "cut off the gateway 192.0.2.1"),
            ("192.0.0.0/8", "cut off the gateway 192.0.2.1"),
            ("10.9.0.2", "cut off 10.9.0.2/32, which"),
            ("10.9.0.0/16", "cut off 10.9.0.2/32, which"),
            ("10.0.0.0/7", "cut off 10.9.0.2/32, which"),
            ("2001:db8::/64", "cut off 2001:db8::/64, which"),
            ("2001:db8::/32", "cut off 2001:db8::/64, which"),
            (
                "2001:db8:4::/46",
                "route to 2001:db8:5::/48 via fe80::1 would",
            ),
            ("fe80::1", "cut off the gateway fe80::1"),
        ] {
            let found = landmarks.against(source.parse().unwrap());
            let said = found.map(|landmark| landmark.to_string());
            let said = said.unwrap_or_default();
            assert!(said.contains(why), "{source}: {said}");
        }
        for source in [
            "192.0.2.5",
            "192.0.2.128/25",
            "203.0.113.0/24",
            "10.8.0.0/24",
            "10.8.0.0/16",
            "2001:db8:5::/48",
            "2001:db8::7",
            "2001:db8:0:1::/64",
        ] {
            assert_eq!(landmarks.against(source.parse().unwrap()), None, "{source}");
        }
    }
}
