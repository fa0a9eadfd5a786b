//! The bans that run, with their own expiry, and those that a source had before.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::rollup::{Crowd, Neighbours};
use super::{Ban, End, Reason};
use crate::clock::{Mono, Now, Wall};
use crate::config::BanRules;
use crate::source::Source;

/// What is banned, as we intend it. Only the engine changes it.
///
/// There may be a million of them, so that each stands in one place, and all else knows it by the number of that.
#[derive(Debug, Default)]
pub struct Bans {
    slots: Vec<Option<Ban>>,
    /// Slots without a ban.
    free: Vec<Slot>,
    /// Which slot holds whose ban.
    by_source: HashTable<Slot>,
    hasher: RandomState,
    by_end: BTreeSet<Place>,
    /// The words of reasons, of which many bans may have the same.
    words: HashSet<Arc<str>>,
    /// How many running bans have each prefix length, IPv4 and IPv6: a look-up tries only these.
    lengths_v4: Lengths,
    lengths_v6: Lengths,
    neighbours: Neighbours,
    past: HashMap<Source, Past>,
    /// `None`: there are no rules yet.
    most_past: Option<usize>,
    begun: Begun,
}

/// The number of a slot.
type Slot = u32;

/// A running ban's place in the order of their ends; those without one come last. As bytes, the highest first, which take two thirds
/// of the room of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Milliseconds, as far as 8,900 years go.
    end: [u8; 6],
    slot: [u8; 4],
}

/// Bans of a source that are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    /// How many ran their course; those that an admin lifted are forgiven.
    pub count: u32,
    /// When the last of them ended.
    pub last_end: Wall,
}

/// Sources whose past bans are remembered at most, for each that may be banned at a time, and by themselves: one more, and the table
/// would take twice the room. Beyond it, a newcomer's past is not kept: its next ban is a first one.
const PASTS_A_BAN: usize = 4;
const MAX_PAST: usize = (1 << 20) / 8 * 7;

/// Reasons whose words are shared; a list is banned with one, what people type is few.
const MAX_WORDS: usize = 1024;

/// What a full node of a [`BTreeSet`] takes, with the one above it that parts it from the next, and what is left in it when it is
/// split for one more at its end (alloc's btree/node.rs, `splitpoint`).
const NODE: usize = 12;
const HALF_NODE: usize = 7;

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

    /// So many more will come: the table need not grow again and again.
    pub fn make_room(&mut self, count: usize) {
        let Self { slots, hasher, .. } = self;
        let hash_of = |slot: &Slot| hash_of(slots, hasher, *slot);
        self.by_source.reserve(count, hash_of);
    }

    /// Holds `ban`; gives back the ban of the same source that ran before, which this one replaces.
    pub fn insert(&mut self, ban: Ban) -> Option<Ban> {
        let (place, replaced) = self.hold(ban);
        self.by_end.insert(place);
        replaced
    }

    /// Ends the holding of many, each of which [`hold`](Self::hold) has given a place.
    ///
    /// Where they come in the order of their ends, the nodes of the order by ends would stay half empty, which costs 10 bytes a ban.
    /// So of those that share a node in the end, the first fill one half, and the others come after.
    pub(crate) fn put_in_order(&mut self, mut places: Vec<Place>) {
        // Where a source came twice, the last of its bans stands.
        let end_in = |slot| self.slots[index(slot)].as_ref().and_then(|ban| ban.end);
        places.retain(|place| *place == Place::of(end_in(place.slot()), place.slot()));
        places.sort_unstable();
        for half in [true, false] {
            let of_half = |(n, _): &(usize, &Place)| (n % NODE < HALF_NODE) == half;
            let places = places.iter().enumerate().filter(of_half);
            self.by_end.extend(places.map(|(_, place)| *place));
        }
    }

    /// The ban that was put in this place.
    pub(crate) fn at(&self, place: Place) -> Option<&Ban> {
        self.slots[index(place.slot())].as_ref()
    }

    /// Holds `ban` in all but the order by ends; gives back its place there, and the ban that it replaces.
    pub(crate) fn hold(&mut self, mut ban: Ban) -> (Place, Option<Ban>) {
        self.share_words_of(&mut ban);
        let (source, end) = (ban.source, ban.end);
        let Self { slots, hasher, .. } = self;
        let is_it = |slot: &Slot| is_of(slots, *slot, source);
        let hash_of = |slot: &Slot| hash_of(slots, hasher, *slot);
        let place = self.by_source.entry(hash(hasher, source), is_it, hash_of);
        let (slot, is_new) = match place {
            Entry::Occupied(place) => (*place.get(), false),
            Entry::Vacant(place) => {
                let last = || Slot::try_from(slots.len()).expect("memory ends before");
                let slot = self.free.pop().unwrap_or_else(last);
                place.insert(slot);
                (slot, true)
            }
        };
        if index(slot) == self.slots.len() {
            self.slots.push(None);
        }
        self.neighbours.add(&ban);
        let replaced = self.slots[index(slot)].replace(ban);
        if let Some(replaced) = &replaced {
            self.neighbours.remove(replaced);
            self.by_end.remove(&Place::of(replaced.end, slot));
        }
        if is_new {
            self.count_length(source);
        }
        (Place::of(end, slot), replaced)
    }

    fn count_length(&mut self, source: Source) {
        let lengths = self.lengths_of(source);
        let length = source.prefix_len();
        match lengths.iter_mut().find(|(known, _)| *known == length) {
            Some((_, count)) => *count += 1,
            None => lengths.push((length, 1)),
        }
    }

    /// Takes the ban of exactly this source away, and leaves no memory of it.
    pub fn remove(&mut self, source: Source) -> Option<Ban> {
        let hash = hash(&self.hasher, source);
        let slots = &self.slots;
        let is_it = |slot: &Slot| is_of(slots, *slot, source);
        let (slot, _) = self.by_source.find_entry(hash, is_it).ok()?.remove();
        let ban = self.slots[index(slot)].take()?;
        self.neighbours.remove(&ban);
        self.free.push(slot);
        self.by_end.remove(&Place::of(ban.end, slot));
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
        while let Some(ban) = self.first_over(now.mono) {
            let source = ban.source;
            let Some(ban) = self.remove(source) else {
                break;
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

    fn first_over(&self, now: Mono) -> Option<&Ban> {
        let first = self.by_end.first()?;
        let is_over = first.end().is_some_and(|end| end <= now);
        self.slots[index(first.slot())].as_ref().filter(|_| is_over)
    }

    /// When the next ban ends.
    #[must_use]
    pub fn next_end(&self) -> Option<Mono> {
        self.by_end.first().and_then(|place| place.end())
    }

    /// The running bans in the order of their ends, those without one last: all, or those after that place, whether or not
    /// there still is a ban in it.
    pub fn by_end(&self, after: Option<Place>) -> impl Iterator<Item = (Place, &Ban)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let places = self.by_end.range((from, Bound::Unbounded));
        places.filter_map(|place| Some((*place, self.slots[index(place.slot())].as_ref()?)))
    }

    /// The running bans, those without an end first, then those that end last: all, or those after that place, whether or not there
    /// still is a ban in it.
    pub fn longest_first(&self, after: Option<Place>) -> impl Iterator<Item = (Place, &Ban)> {
        let to = after.map_or(Bound::Unbounded, Bound::Excluded);
        let places = self.by_end.range((Bound::Unbounded, to)).rev();
        places.filter_map(|place| Some((*place, self.slots[index(place.slot())].as_ref()?)))
    }

    /// The ban of exactly this source.
    #[must_use]
    pub fn get(&self, source: Source) -> Option<&Ban> {
        let hash = hash(&self.hasher, source);
        let is_it = |slot: &Slot| is_of(&self.slots, *slot, source);
        let slot = self.by_source.find(hash, is_it)?;
        self.slots[index(*slot)].as_ref()
    }

    /// Has a reason's words shared with bans that give the same.
    fn share_words_of(&mut self, ban: &mut Ban) {
        let Reason::Text(words) = &mut ban.reason else {
            return;
        };
        if let Some(known) = self.words.get(&**words) {
            *words = Arc::clone(known);
            return;
        }
        if self.words.len() >= MAX_WORDS {
            self.words.retain(|words| Arc::strong_count(words) > 1);
        }
        if self.words.len() < MAX_WORDS {
            self.words.insert(Arc::clone(words));
        }
    }

    /// Whether some ban covers `address`. For every packet: a look-up for each prefix length in use.
    #[must_use]
    pub fn covers(&self, address: IpAddr) -> bool {
        !self.is_empty() && self.covering(address).next().is_some()
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
            .filter_map(move |&(length, _)| self.get(Source::prefix(address, length)))
    }

    /// Counts neighbours, and bounds memory, by these rules from now on.
    pub fn go_by(&mut self, rules: &BanRules) {
        self.most_past = Some(most_past(rules));
        self.neighbours.follow(rules, self.slots.iter().flatten());
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

    /// Prefixes that would be rolled up if one more were banned in them.
    #[cfg(test)]
    pub(crate) fn crowded(&self) -> Vec<Source> {
        let is_open = |prefix: &Source| self.get(*prefix).is_none();
        self.neighbours.crowded().filter(is_open).collect()
    }

    /// Somebody has lifted, each at that time, the bans that these prefixes had been rolled up into: what was banned in them until then
    /// counts no more, nor for wider ones. Walks over all bans.
    pub fn forgive(&mut self, lifted: &[(Source, Wall)]) {
        if !lifted.is_empty() {
            self.neighbours.forgive(lifted, self.slots.iter().flatten());
        }
    }

    /// All running bans, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Ban> {
        self.slots.iter().flatten()
    }

    /// How many bans run.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_end.len()
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
        self.by_end.is_empty()
    }

    /// What this source had before.
    #[must_use]
    pub fn past(&self, source: Source) -> Option<Past> {
        self.past.get(&source).copied()
    }

    /// The wall clock has moved by so many milliseconds: bans end when they would have.
    pub fn clock_moved(&mut self, by: i64) {
        let move_on = |wall: &mut Wall| wall.0 = wall.0.saturating_add(by);
        for ban in self.slots.iter_mut().flatten() {
            if let Some(end) = &mut ban.end {
                move_on(&mut end.wall);
                move_on(&mut ban.start);
            }
        }
        self.neighbours.clock_moved(by, self.slots.iter().flatten());
    }

    /// Keeps what a source had before, up to [`most_past`] sources.
    pub fn remember(&mut self, source: Source, past: Past) {
        if self.past.len() < self.most_past.unwrap_or(MAX_PAST) || self.past.contains_key(&source) {
            self.past.insert(source, past);
        }
    }

    /// Drops what ended before that moment: its memory is over.
    pub fn forget_before(&mut self, moment: Wall) {
        self.past.retain(|_, past| past.last_end >= moment);
        self.neighbours
            .forget_before(moment, self.slots.iter().flatten());
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

/// Of so many sources it is remembered what they had before, by these rules.
#[must_use]
pub fn most_past(rules: &BanRules) -> usize {
    let limit = usize::try_from(rules.limit).unwrap_or(usize::MAX);
    limit.saturating_mul(PASTS_A_BAN).min(MAX_PAST)
}

fn index(slot: Slot) -> usize {
    usize::try_from(slot).expect("an address space has more than 32 bits")
}

/// Keyed, for strangers choose their addresses.
fn hash(hasher: &RandomState, source: Source) -> u64 {
    let bits = match source.address() {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    hasher.hash_one((bits, source.prefix_len()))
}

fn hash_of(slots: &[Option<Ban>], hasher: &RandomState, slot: Slot) -> u64 {
    let ban = slots[index(slot)].as_ref();
    ban.map_or(0, |ban| hash(hasher, ban.source))
}

fn is_of(slots: &[Option<Ban>], slot: Slot, source: Source) -> bool {
    let ban = slots[index(slot)].as_ref();
    ban.is_some_and(|ban| ban.source == source)
}

impl Place {
    const NEVER: [u8; 6] = [u8::MAX; 6];

    fn of(end: Option<End>, slot: Slot) -> Self {
        let bytes = |end: End| match end.mono.0.to_be_bytes() {
            [0, 0, end @ ..] => end,
            _ => Self::NEVER,
        };
        Self {
            end: end.map_or(Self::NEVER, bytes),
            slot: slot.to_be_bytes(),
        }
    }

    /// When the ban ends; `None`: never.
    fn end(&self) -> Option<Mono> {
        let [a, b, c, d, e, f] = self.end;
        let end = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
        (self.end != Self::NEVER).then_some(Mono(end))
    }

    fn slot(&self) -> Slot {
        Slot::from_be_bytes(self.slot)
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
    use crate::policy::Origin;

    const NOW: Now = Now {
        mono: Mono(0),
        wall: Wall(0),
    };

    fn ban(source: &str, seconds: Option<u64>) -> Ban {
        Ban {
            source: source.parse().unwrap(),
            reason: Reason::parse("test"),
            origin: Origin::Command,
            by: None,
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
    fn who_is_banned_longest_comes_first() {
        let mut bans = Bans::default();
        let ends = [Some(30), Some(10), None, Some(20)];
        for (n, seconds) in (1..).zip(ends) {
            bans.insert(ban(&format!("192.0.2.{n}"), seconds));
        }
        let order = |after| -> Vec<(Place, String)> {
            let listed = bans.longest_first(after);
            listed
                .map(|(place, ban)| (place, ban.source.to_string()))
                .collect()
        };
        let all = order(None);
        let names: Vec<&str> = all.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["192.0.2.3", "192.0.2.1", "192.0.2.4", "192.0.2.2"]);
        assert_eq!(order(Some(all[1].0)), all[2..]);
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
    fn bans_are_listed_by_their_ends_also_while_they_change() {
        let mut bans = Bans::default();
        for (source, seconds) in [
            ("192.0.2.4", None),
            ("192.0.2.1", Some(30)),
            ("192.0.2.2", Some(10)),
            ("192.0.2.3", Some(30)),
        ] {
            bans.insert(ban(source, seconds));
        }
        let names = |bans: &Bans, after| -> Vec<String> {
            let listed = bans.by_end(after);
            listed.map(|(_, ban)| ban.source.to_string()).collect()
        };
        let all = names(&bans, None);
        assert_eq!(
            (all[0].as_str(), all[3].as_str()),
            ("192.0.2.2", "192.0.2.4")
        );
        let (first, _) = bans.by_end(None).next().unwrap();
        for gone in ["192.0.2.2", &all[1]] {
            bans.remove(gone.parse().unwrap());
        }
        bans.insert(ban("192.0.2.5", Some(5)));
        assert_eq!(names(&bans, Some(first)), all[2..]);
    }

    #[test]
    fn a_slot_that_is_free_is_used_again() {
        let mut bans = Bans::default();
        for round in 0..3 {
            for n in 0..100_u32 {
                let mut ban = ban("192.0.2.1", Some(u64::from(n * 7 % 100)));
                ban.source = IpAddr::from((0x0b00_0000 + n).to_be_bytes()).into();
                assert_eq!(bans.insert(ban).is_some(), round == 1, "{round}");
            }
            assert_eq!(
                (bans.len(), bans.slots.len(), bans.iter().count()),
                (100, 100, 100)
            );
            if round == 1 {
                assert_eq!(bans.expire(NOW.later(Duration::from_secs(100))).len(), 100);
                assert!(bans.is_empty() && bans.next_end().is_none());
            }
        }
    }

    #[test]
    fn a_ban_takes_no_more_room_than_it_must() {
        assert_eq!((size_of::<Option<Ban>>(), size_of::<Place>()), (72, 10));
        let mut bans = Bans::default();
        for source in ["192.0.2.1", "192.0.2.2"] {
            bans.insert(ban(source, None));
        }
        assert_eq!(bans.words.len(), 1);
        let shared = bans.words.iter().next().unwrap();
        assert_eq!(Arc::strong_count(shared), 3);
    }

    #[test]
    fn many_at_once_are_held_as_one_by_one() {
        let many = |count: u32| {
            (0..count).map(|n| {
                let mut ban = ban("192.0.2.1", Some(u64::from(n * 7 % 100)));
                ban.source = IpAddr::from((0x0b00_0000 + n % 90).to_be_bytes()).into();
                ban
            })
        };
        let (mut at_once, mut one_by_one) = (Bans::default(), Bans::default());
        for count in [1, 100, 37] {
            let places = many(count).map(|ban| at_once.hold(ban).0).collect();
            at_once.put_in_order(places);
            many(count).for_each(|ban| drop(one_by_one.insert(ban)));
            let listed = |bans: &Bans| -> Vec<Ban> {
                bans.by_end(None).map(|(_, ban)| ban.clone()).collect()
            };
            assert!(listed(&at_once) == listed(&one_by_one), "{count}");
            assert_eq!(at_once.len(), one_by_one.len());
        }
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

    #[test]
    fn pasts_are_remembered_of_four_sources_for_each_that_may_be_banned() {
        let mut bans = Bans::default();
        let rules = |limit| BanRules {
            limit,
            ..crate::config::Config::default().ban
        };
        bans.go_by(&rules(2));
        let past = Past {
            count: 1,
            last_end: Wall(0),
        };
        let source = |n: u32| Source::from(IpAddr::from(std::net::Ipv4Addr::from(n)));
        (0..10).for_each(|n| bans.remember(source(n), past));
        assert!(bans.past(source(7)).is_some());
        assert!(bans.past(source(8)).is_none());
        let again = Past { count: 2, ..past };
        bans.remember(source(7), again);
        assert_eq!(bans.past(source(7)), Some(again));
        assert_eq!(most_past(&rules(200_000)), 800_000);
        assert_eq!(most_past(&rules(10_000_000)), MAX_PAST);
    }

    #[test]
    fn a_clock_that_moves_changes_what_people_read_and_not_when_bans_end() {
        let mut bans = Bans::default();
        bans.insert(ban("192.0.2.1", Some(600)));
        bans.insert(ban("192.0.2.2", None));
        let hour = 3_600_000;
        bans.clock_moved(hour);
        let moved = bans.get("192.0.2.1".parse().unwrap()).unwrap();
        assert_eq!(moved.start, Wall(hour));
        assert_eq!(moved.length(), Some(Duration::from_secs(600)));
        assert_eq!(moved.left(NOW), Some(Duration::from_secs(600)));
        let for_ever = bans.get("192.0.2.2".parse().unwrap()).unwrap();
        assert_eq!(for_ever.start, Wall(0), "it had begun when it had");
    }
}
