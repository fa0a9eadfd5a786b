//! The bans that run, with their own expiry, and those that a source had before.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::Bound;
use std::time::Duration;

use super::Ban;
use super::rollup::{Crowd, Neighbours};
use crate::clock::{Mono, Now, Wall};
use crate::config::BanRules;
use crate::source::Source;

/// What is banned, as we intend it. Only the engine changes it.
#[derive(Debug, Default)]
pub struct Bans {
    running: HashMap<Source, Ban>,
    /// The same bans by their end, those without one left out.
    ends: BTreeSet<(Mono, Source)>,
    /// How many running bans have each prefix length, IPv4 and IPv6: a look-up tries only these.
    lengths_v4: Lengths,
    lengths_v6: Lengths,
    neighbours: Neighbours,
    past: HashMap<Source, Past>,
    begun: Begun,
}

/// Bans of a source that are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    /// How many ran their course; those that an admin lifted are forgiven.
    pub count: u32,
    /// When the last of them ended.
    pub last_end: Wall,
}

/// Sources whose past bans are remembered at most. Beyond it, a newcomer's past is not kept: its next ban is a first one.
pub const MAX_PAST: usize = 1_000_000;

/// A count per prefix length, kept short: few lengths are ever in use.
type Lengths = Vec<(u8, usize)>;

/// How many scans were acted on in the second that `since` opened.
#[derive(Debug, Default)]
struct Begun {
    since: Option<Mono>,
    count: u32,
}

impl Bans {
    /// Counts a scan that was acted on towards the rate.
    pub fn count_new(&mut self, now: Mono) {
        self.begun.add(now);
    }

    /// Holds `ban`; gives back the ban of the same source that ran before, which this one replaces.
    pub fn insert(&mut self, ban: Ban) -> Option<Ban> {
        let replaced = self.remove(ban.source);
        if let Some(end) = ban.end {
            self.ends.insert((end.mono, ban.source));
        }
        let lengths = self.lengths_of(ban.source);
        match lengths
            .iter_mut()
            .find(|(length, _)| *length == ban.source.prefix_len())
        {
            Some((_, count)) => *count += 1,
            None => lengths.push((ban.source.prefix_len(), 1)),
        }
        self.neighbours.add(&ban);
        self.running.insert(ban.source, ban);
        replaced
    }

    /// Takes the ban of exactly this source away, and leaves no memory of it.
    pub fn remove(&mut self, source: Source) -> Option<Ban> {
        let ban = self.running.remove(&source)?;
        self.neighbours.remove(&ban);
        if let Some(end) = ban.end {
            self.ends.remove(&(end.mono, source));
        }
        let lengths = self.lengths_of(source);
        if let Some((_, count)) = lengths
            .iter_mut()
            .find(|(length, _)| *length == source.prefix_len())
        {
            *count -= 1;
        }
        lengths.retain(|(_, count)| *count > 0);
        Some(ban)
    }

    /// Takes away the bans whose end has come, and remembers that they were.
    pub fn expire(&mut self, now: Now) -> Vec<Ban> {
        let mut expired = Vec::new();
        while let Some(&(end, source)) = self.ends.first().filter(|(end, _)| *end <= now.mono) {
            let Some(ban) = self.remove(source) else {
                self.ends.remove(&(end, source));
                continue;
            };
            let count = self
                .past(source)
                .map_or(0, |past| past.count)
                .saturating_add(1);
            self.remember(
                source,
                Past {
                    count,
                    last_end: now.wall,
                },
            );
            expired.push(ban);
        }
        expired
    }

    /// When the next ban ends.
    #[must_use]
    pub fn next_end(&self) -> Option<Mono> {
        self.ends.first().map(|(end, _)| *end)
    }

    /// At most `count` of the bans that have an end, by their ends: those after `last`, or the first ones if there are none.
    #[must_use]
    pub fn sample(&self, last: Option<(Mono, Source)>, count: usize) -> Vec<(Mono, Source)> {
        let after = |last| {
            let range = self.ends.range((Bound::Excluded(last), Bound::Unbounded));
            range.take(count).copied().collect()
        };
        let rest: Vec<_> = last.map_or_else(Vec::new, after);
        if rest.is_empty() {
            return self.ends.iter().take(count).copied().collect();
        }
        rest
    }

    /// The ban of exactly this source.
    #[must_use]
    pub fn get(&self, source: Source) -> Option<&Ban> {
        self.running.get(&source)
    }

    /// Whether some ban covers `address`. For every packet: a look-up for each prefix length in use.
    #[must_use]
    pub fn covers(&self, address: IpAddr) -> bool {
        !self.running.is_empty() && self.covering(address).next().is_some()
    }

    /// The bans that cover `address`.
    pub fn covering(&self, address: IpAddr) -> impl Iterator<Item = &Ban> {
        let address = address.to_canonical();
        let lengths = if address.is_ipv4() {
            &self.lengths_v4
        } else {
            &self.lengths_v6
        };
        lengths
            .iter()
            .filter_map(move |&(length, _)| self.running.get(&Source::prefix(address, length)))
    }

    /// Counts neighbours by these rules from now on.
    pub fn roll_up_by(&mut self, rules: &BanRules) {
        self.neighbours.follow(rules, self.running.values());
    }

    /// The prefixes of `source` that may become one ban, and how many neighbours are banned in each; the widest first.
    pub fn crowds(&self, source: Source) -> impl Iterator<Item = Crowd> {
        self.neighbours.crowds(source)
    }

    /// How many prefixes are counted for.
    #[cfg(test)]
    pub(super) fn counted(&self) -> usize {
        self.neighbours.counted()
    }

    /// Prefixes that would be rolled up if one more were banned in them. Walks over all that are counted: for the start alone.
    #[must_use]
    pub fn crowded(&self) -> Vec<Source> {
        let is_open = |prefix: &Source| !self.running.contains_key(prefix);
        self.neighbours.crowded().filter(is_open).collect()
    }

    /// Somebody has lifted, each at that time, the bans that these prefixes had been rolled up into: what was banned in them until then
    /// counts no more, nor for wider ones. Walks over all bans.
    pub fn forgive(&mut self, lifted: &[(Source, Wall)]) {
        if !lifted.is_empty() {
            self.neighbours.forgive(lifted, self.running.values());
        }
    }

    /// All running bans, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Ban> {
        self.running.values()
    }

    /// How many bans run.
    #[must_use]
    pub fn len(&self) -> usize {
        self.running.len()
    }

    /// How many running bans are of the same kind as a ban of `source`: of its family, and as wide.
    #[must_use]
    pub fn count_like(&self, source: Source) -> usize {
        let lengths = if source.address().is_ipv4() {
            &self.lengths_v4
        } else {
            &self.lengths_v6
        };
        let alike = lengths.iter().find(|(it, _)| *it == source.prefix_len());
        alike.map_or(0, |(_, count)| *count)
    }

    /// How many running bans lie within this prefix. Walks over all of them: to answer people.
    #[must_use]
    pub fn count_within(&self, prefix: Source) -> u64 {
        let is_within = |ban: &&Ban| {
            ban.source.prefix_len() > prefix.prefix_len() && prefix.covers(ban.source.address())
        };
        if prefix.is_address() {
            return 0;
        }
        self.iter().filter(is_within).map(|_| 1).sum()
    }

    /// Whether nobody is banned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// What this source had before.
    #[must_use]
    pub fn past(&self, source: Source) -> Option<Past> {
        self.past.get(&source).copied()
    }

    /// Keeps what a source had before, up to [`MAX_PAST`] sources.
    pub fn remember(&mut self, source: Source, past: Past) {
        if self.past.len() < MAX_PAST || self.past.contains_key(&source) {
            self.past.insert(source, past);
        }
    }

    /// Drops what ended before that moment: its memory is over.
    pub fn forget_before(&mut self, moment: Wall) {
        self.past.retain(|_, past| past.last_end >= moment);
        self.neighbours.forget_before(moment);
    }

    /// How many scans were acted on within the current second.
    #[must_use]
    pub fn begun_within_a_second(&self, now: Mono) -> u32 {
        self.begun.within(now)
    }

    fn lengths_of(&mut self, source: Source) -> &mut Lengths {
        if source.address().is_ipv4() {
            &mut self.lengths_v4
        } else {
            &mut self.lengths_v6
        }
    }
}

impl Begun {
    fn within(&self, now: Mono) -> u32 {
        let is_current = self
            .since
            .is_some_and(|since| now.since(since) < Duration::from_secs(1));
        if is_current { self.count } else { 0 }
    }

    fn add(&mut self, now: Mono) {
        self.count = self.within(now).saturating_add(1);
        if self.count == 1 {
            self.since = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{End, Origin, Reason};

    const NOW: Now = Now {
        mono: Mono(0),
        wall: Wall(0),
    };

    fn ban(source: &str, seconds: Option<u64>) -> Ban {
        Ban {
            source: source.parse().unwrap(),
            reason: Reason::parse("test"),
            origin: Origin::Command,
            start: NOW.wall,
            end: seconds.map(|s| End::after(Duration::from_secs(s), NOW)),
        }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_is_covered_by_its_own_ban_and_by_its_prefixes() {
        let mut bans = Bans::default();
        assert!(!bans.covers(address("192.0.2.1")));
        for source in ["192.0.2.1", "192.0.2.0/24", "2001:db8::/64"] {
            bans.insert(ban(source, None));
        }
        assert_eq!(bans.covering(address("192.0.2.1")).count(), 2);
        assert_eq!(bans.covering(address("192.0.2.2")).count(), 1);
        assert!(bans.covers(address("2001:db8::77")));
        assert!(!bans.covers(address("2001:db8:1::77")));
        bans.remove("192.0.2.0/24".parse().unwrap());
        assert!(!bans.covers(address("192.0.2.2")));
    }

    #[test]
    fn bans_end_in_order_and_are_remembered() {
        let mut bans = Bans::default();
        for (source, seconds) in [
            ("192.0.2.1", Some(30)),
            ("192.0.2.2", Some(10)),
            ("192.0.2.3", None),
        ] {
            bans.insert(ban(source, seconds));
        }
        assert_eq!(bans.next_end(), Some(Mono(10_000)));
        assert!(bans.expire(NOW.later(Duration::from_secs(9))).is_empty());
        let expired = bans.expire(NOW.later(Duration::from_secs(30)));
        assert_eq!(
            expired
                .iter()
                .map(|ban| ban.source.to_string())
                .collect::<Vec<_>>(),
            ["192.0.2.2", "192.0.2.1"]
        );
        assert_eq!(bans.past("192.0.2.1".parse().unwrap()).unwrap().count, 1);
        assert_eq!((bans.len(), bans.next_end()), (1, None));
    }

    #[test]
    fn a_second_ban_replaces_the_first_with_its_end() {
        let mut bans = Bans::default();
        assert_eq!(bans.insert(ban("192.0.2.1", Some(10))), None);
        assert!(bans.insert(ban("192.0.2.1", Some(99))).is_some());
        assert!(bans.expire(NOW.later(Duration::from_secs(10))).is_empty());
        assert_eq!(bans.len(), 1);
    }

    #[test]
    fn a_lifted_ban_is_forgiven() {
        let mut bans = Bans::default();
        bans.insert(ban("192.0.2.1", Some(10)));
        bans.remove("192.0.2.1".parse().unwrap());
        assert_eq!(bans.past("192.0.2.1".parse().unwrap()), None);
        assert_eq!(bans.next_end(), None);
    }
}
