//! The memory of a detector: a table of fixed size with the last probes of each source. When they make a scan is not its business.
//!
//! A flood of forged sources has every probe go to another place of it, so it is kept small enough for a processor's cache, and what one
//! probe needs lies side by side: who has the eight slots of a bucket, what is known of each, and the probes of each. The kernel gives
//! the memory page by page as sources appear, which takes it a good microsecond a page: a source costs one page at most, and one that is
//! looked for in a bucket that nobody has used costs none.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use crate::clock::Mono;
use crate::probe::{Probe, Protocol, ScanType};
use crate::source::Source;

/// A power of two: a hash's low bits choose the bucket.
pub(super) const BUCKETS: usize = 8192;

/// Sources a bucket. When a ninth comes, the one with the least evidence makes room, the quietest among equals:
/// a flood of sources seen once cannot push out one that has been seen twice.
pub(super) const WAYS: usize = 8;

/// Who was seen lately, and how.
pub(super) struct Table {
    /// Places for the marks of each slot.
    places: usize,
    key: RandomState,
    /// Bucket by bucket:
    /// - Whose each of its slots is: a source's hash, [`NOBODY`] for those that are free. The hash stands for the source, of which
    ///   nothing else is kept: it is keyed by chance at start, so that nobody can make out two sources that share one, and that two
    ///   of those in the table do by chance is as likely as guessing a key of 48 bits.
    /// - The [`State`] of each.
    /// - The marks of each, `places` of them, of which the slot's first are in use.
    cells: Vec<u64>,
    /// A bit for each bucket that was ever used.
    used: Vec<u64>,
    evicted: u64,
}

/// Where a source's slot is.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    bucket: usize,
    way: usize,
}

/// One probe, remembered in eight bytes: its time in the upper five, then its port, its protocol and what it looked like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark(u64);

/// How many marks a slot has in the upper byte, or [`MUTED`]; below that when the last came, or until when it is muted.
/// So states are in the order in which slots make room.
type State = u64;

const NOBODY: u64 = 0;
const MUTED: u64 = 0xff;
const COUNT_SHIFT: u32 = 56;
/// 2 million years in milliseconds.
const TIME: u64 = (1 << COUNT_SHIFT) - 1;

impl Table {
    /// An empty one, with so many places for the marks of each source: 254 at most.
    pub(super) fn new(places: usize) -> Self {
        Self {
            places,
            key: RandomState::new(),
            cells: vec![0; BUCKETS * WAYS * (2 + places)],
            used: vec![0; BUCKETS / 64],
            evicted: 0,
        }
    }

    /// The slot of `source`, if it has one.
    pub(super) fn find(&self, source: Source) -> Option<Slot> {
        let (bucket, owner) = self.bucket(source);
        self.slot_of(bucket, owner)
    }

    /// The slot of `source`: an empty one, or that of the source that makes room, if it has none yet.
    pub(super) fn find_or_take(&mut self, source: Source) -> Slot {
        let (bucket, owner) = self.bucket(source);
        if let Some(slot) = self.slot_of(bucket, owner) {
            return slot;
        }
        self.used[bucket / 64] |= 1 << (bucket % 64);
        let first = self.first_of(bucket);
        let cells = &mut self.cells[first..];
        let room = |&way: &usize| (cells[way] != NOBODY, cells[WAYS + way]);
        let way = (0..WAYS).min_by_key(room).unwrap_or(0);
        self.evicted += u64::from(cells[way] != NOBODY);
        cells[way] = owner;
        cells[WAYS + way] = 0;
        Slot { bucket, way }
    }

    /// Frees a slot.
    pub(super) fn free(&mut self, slot: Slot) {
        let owner = self.owner_at(slot);
        self.cells[owner] = NOBODY;
        self.set_state(slot, 0);
    }

    /// Forgets the marks of a slot, which its source keeps.
    pub(super) fn mute(&mut self, slot: Slot, until: Mono) {
        self.set_state(slot, MUTED << COUNT_SHIFT | until.0.min(TIME));
    }

    /// Until when it is muted, be that over or not; `None`: it is not.
    pub(super) fn muted_until(&self, slot: Slot) -> Option<Mono> {
        let state = self.state(slot);
        (state >> COUNT_SHIFT == MUTED).then_some(Mono(state & TIME))
    }

    /// Its marks, in no order.
    pub(super) fn marks(&self, slot: Slot) -> impl Iterator<Item = Mark> + Clone {
        let first = self.marks_at(slot);
        let marks = &self.cells[first..first + self.len(slot)];
        marks.iter().map(|it| Mark(*it))
    }

    /// Changes its marks: those that `keep` does not are gone, and `mark` takes the place of the first that it `replaces`, or else
    /// an empty one, or else that of the oldest. What mutes it does no longer.
    pub(super) fn remember(
        &mut self,
        slot: Slot,
        mark: Mark,
        keep: impl Fn(Mark) -> bool,
        replaces: impl Fn(Mark) -> bool,
    ) {
        let mut len = self.len(slot);
        let first = self.marks_at(slot);
        let marks = &mut self.cells[first..first + self.places];
        let mut place = 0;
        while place < len {
            if keep(Mark(marks[place])) {
                place += 1;
            } else {
                len -= 1;
                marks[place] = marks[len];
            }
        }
        let known = &marks[..len];
        let place = match known.iter().position(|it| replaces(Mark(*it))) {
            Some(place) => place,
            None if len < self.places => {
                len += 1;
                len - 1
            }
            // The time comes first in a mark.
            None => (0..len).min_by_key(|place| known[*place]).unwrap_or(0),
        };
        marks[place] = mark.0;
        let count = u64::try_from(len).expect("`places` at most");
        self.set_state(slot, count << COUNT_SHIFT | mark.at().0.min(TIME));
    }

    /// Sources dropped so far to make room for others.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    fn slot_of(&self, bucket: usize, owner: u64) -> Option<Slot> {
        if self.used[bucket / 64] >> (bucket % 64) & 1 == 0 {
            return None;
        }
        let first = self.first_of(bucket);
        let owners = &self.cells[first..first + WAYS];
        let way = owners.iter().position(|it| *it == owner)?;
        Some(Slot { bucket, way })
    }

    fn len(&self, slot: Slot) -> usize {
        let count = self.state(slot) >> COUNT_SHIFT;
        let count = if count == MUTED { 0 } else { count };
        usize::try_from(count).expect("one byte")
    }

    fn state(&self, slot: Slot) -> State {
        self.cells[self.owner_at(slot) + WAYS]
    }

    fn set_state(&mut self, slot: Slot, state: State) {
        let place = self.owner_at(slot) + WAYS;
        self.cells[place] = state;
    }

    /// The first cell of a bucket.
    fn first_of(&self, bucket: usize) -> usize {
        bucket * WAYS * (2 + self.places)
    }

    /// Which cell says whose a slot is.
    fn owner_at(&self, Slot { bucket, way }: Slot) -> usize {
        self.first_of(bucket) + way
    }

    /// Which cell is the first of a slot's marks.
    fn marks_at(&self, Slot { bucket, way }: Slot) -> usize {
        self.first_of(bucket) + 2 * WAYS + way * self.places
    }

    /// Its bucket, and what says in a slot that it is the source's.
    fn bucket(&self, source: Source) -> (usize, u64) {
        let length = source.prefix_len();
        // For each packet: in as few words as there can be.
        let hash = match source.address() {
            IpAddr::V4(v4) => self
                .key
                .hash_one(u64::from(v4.to_bits()) << 8 | u64::from(length)),
            IpAddr::V6(v6) => self.key.hash_one((v6.to_bits(), length)),
        };
        let bucket = usize::try_from(hash % BUCKETS as u64).expect("BUCKETS is a usize");
        (bucket, hash.max(NOBODY + 1))
    }
}

const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];
const SCAN_TYPES: [ScanType; 8] = [
    ScanType::Syn,
    ScanType::Fin,
    ScanType::Null,
    ScanType::Xmas,
    ScanType::Odd,
    ScanType::Fragment,
    ScanType::Udp,
    ScanType::Connect,
];

impl Mark {
    /// The latest time that a mark can tell: 34 years after the host was started, where others end too.
    const LAST: u64 = (1 << 40) - 1;

    /// That `probe` came at this moment.
    pub(super) fn new(at: Mono, probe: &Probe) -> Self {
        let at = at.0.min(Self::LAST);
        let protocol = place_of(&PROTOCOLS, probe.protocol);
        let scan_type = place_of(&SCAN_TYPES, probe.scan_type);
        Self(at << 24 | u64::from(probe.port) << 8 | protocol << 4 | scan_type)
    }

    pub(super) fn at(self) -> Mono {
        Mono(self.0 >> 24)
    }

    pub(super) fn port(self) -> u16 {
        u16::try_from(self.0 >> 8 & 0xffff).expect("16 bits are left")
    }

    pub(super) fn protocol(self) -> Protocol {
        PROTOCOLS[self.bits(4, 0x1)]
    }

    pub(super) fn scan_type(self) -> ScanType {
        SCAN_TYPES[self.bits(0, 0x7)]
    }

    /// Whether both came to the same port.
    pub(super) fn is_beside(self, other: Self) -> bool {
        (self.port(), self.protocol()) == (other.port(), other.protocol())
    }

    fn bits(self, shift: u32, mask: u64) -> usize {
        usize::try_from(self.0 >> shift & mask).expect("a few bits are left")
    }
}

fn place_of<T: PartialEq>(all: &[T], one: T) -> u64 {
    let place = all.iter().position(|it| *it == one);
    u64::try_from(place.expect("all are there")).expect("there are a few")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_tells_what_it_was_made_of() {
        for protocol in PROTOCOLS {
            for scan_type in SCAN_TYPES {
                for (at, port) in [(0, 0), (1, 1), (Mark::LAST, u16::MAX), (86_400_000, 8080)] {
                    let probe = Probe {
                        source: IpAddr::from([192, 0, 2, 1]),
                        dest: IpAddr::from([192, 0, 2, 2]),
                        protocol,
                        source_port: 1,
                        port,
                        scan_type,
                        ip_options: true,
                        odd_flags: 0xff,
                    };
                    let mark = Mark::new(Mono(at), &probe);
                    assert_eq!((mark.at(), mark.port()), (Mono(at), port));
                    assert_eq!((mark.protocol(), mark.scan_type()), (protocol, scan_type));
                }
            }
        }
    }

    #[test]
    fn sources_are_told_apart_by_address_and_length() {
        let table = Table::new(1);
        let names = [
            "10.0.0.0",
            "10.0.0.0/8",
            "::a00:0",
            "2001:db8::",
            "2001:db8::/64",
        ];
        let mut owners: Vec<u64> = names
            .iter()
            .map(|name| table.bucket(name.parse().unwrap()).1)
            .collect();
        owners.sort_unstable();
        owners.dedup();
        assert_eq!(owners.len(), names.len());
    }
}
