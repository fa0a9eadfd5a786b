//! When a source's probes add up to a scan.
//!
//! A table of fixed size remembers the last probes of each source; whoever is friendly, which ports are services
//! and what follows from a scan are other rooms' business. Pure: time comes in as an argument.

use std::hash::{BuildHasher, RandomState};
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::clock::Mono;
use crate::config;
use crate::policy::{Summary, Unit};
use crate::probe::{Probe, Protocol, ScanType};
use crate::source::Source;

/// The finding that a source's probes add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Who scanned: what a ban would name.
    pub source: Source,
    /// The probe that completed it.
    pub last: Probe,
    /// What it was, in one line.
    pub summary: Summary,
}

/// What is known of a source that is not banned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Its probes that count, the latest first.
    pub probes: Vec<Seen>,
    /// Until when its scans are not reported again, because one has been and nobody was banned for it.
    pub muted_until: Option<Mono>,
}

/// One probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// When, the last time.
    pub at: Mono,
    /// Where to.
    pub protocol: Protocol,
    /// Its port.
    pub port: u16,
    /// What it looked like.
    pub scan_type: ScanType,
}

/// Remembers the last probes of each source, and finds the scans among them.
///
/// Memory is bounded by 65,536 sources of `trigger` probes each, and is taken as sources appear.
/// The hash is keyed by chance at start, so that no stranger can choose sources that crowd out another.
pub struct Detector {
    rules: Rules,
    key: RandomState,
    buckets: Box<[Option<Box<Bucket>>]>,
    evicted: u64,
}

/// What adds up to a scan: `[detect]`, made ready for use.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rules {
    trigger: usize,
    unit: Unit,
    window: Option<Duration>,
    decoys: Vec<RangeInclusive<u16>>,
}

/// A power of two: a hash's low bits choose the bucket.
const BUCKETS: usize = 8192;

/// Sources a bucket. When a ninth comes, the one with the least evidence makes room, the quietest among equals:
/// a flood of sources seen once cannot push out one that has been seen twice.
const WAYS: usize = 8;

/// The sources that share one value of the hash.
struct Bucket {
    /// Another part of each slot's hash, [`NOBODY`] for those that are free: most slots need not be looked at.
    tags: [u16; WAYS],
    slots: [Slot; WAYS],
    /// `trigger` places for each slot, of which the slot's `len` first are in use.
    marks: Box<[Mark]>,
}

/// What is known of one source.
#[derive(Clone, Copy)]
struct Slot {
    source: Option<Source>,
    len: usize,
    /// When its last probe came.
    latest: Mono,
    /// No scan of this source is reported before this moment.
    muted_until: Option<Mono>,
}

/// The tag of no source.
const NOBODY: u16 = 0;

/// One probe, remembered.
#[derive(Clone, Copy)]
struct Mark {
    at: Mono,
    port: u16,
    protocol: Protocol,
    scan_type: ScanType,
}

impl Detector {
    /// A detector that has seen nothing.
    #[must_use]
    pub fn new(settings: &config::Detect) -> Self {
        Self {
            rules: Rules::from(settings),
            key: RandomState::new(),
            buckets: std::iter::repeat_with(|| None).take(BUCKETS).collect(),
            evicted: 0,
        }
    }

    /// Counts one probe of `source`, and tells whether its probes now add up to a scan.
    ///
    /// While they do, every further probe is told again, until [`forget`](Self::forget) or [`mute`](Self::mute).
    pub fn observe(&mut self, source: Source, probe: &Probe, now: Mono) -> Option<Scan> {
        let rules = &self.rules;
        let (index, tag) = place(&self.key, source);
        let bucket =
            self.buckets[index].get_or_insert_with(|| Box::new(Bucket::new(rules.trigger)));
        let way = bucket.way_of(source, tag).unwrap_or_else(|| {
            let way = bucket.way_to_fill();
            self.evicted += u64::from(bucket.slots[way].source.is_some());
            bucket.tags[way] = tag;
            bucket.slots[way] = Slot {
                source: Some(source),
                ..Slot::FREE
            };
            way
        });
        let (slot, marks) = bucket.parts(way, rules.trigger);
        if slot.muted_until.is_some_and(|until| now < until) {
            return None;
        }
        slot.drop_old(marks, rules.window, now);
        let mark = Mark {
            at: now,
            port: probe.port,
            protocol: probe.protocol,
            scan_type: probe.scan_type,
        };
        slot.remember(marks, mark, rules.unit);
        slot.latest = now;

        let is_decoy = rules.decoys.iter().any(|range| range.contains(&probe.port));
        (slot.len >= rules.trigger || is_decoy).then(|| Scan {
            source,
            last: *probe,
            summary: summarise(&marks[..slot.len], rules.unit, probe.port),
        })
    }

    /// Drops all that is known of `source`: it was banned or unbanned, and starts afresh.
    pub fn forget(&mut self, source: Source) {
        if let Some(slot) = self.slot_of(source) {
            *slot = Slot::FREE;
        }
    }

    /// Reports no scan of `source` until then: it was told once, and nobody is banned for it.
    pub fn mute(&mut self, source: Source, until: Mono) {
        if let Some(slot) = self.slot_of(source) {
            *slot = Slot {
                source: Some(source),
                muted_until: Some(until),
                ..Slot::FREE
            };
        }
    }

    /// Whether scans of `source` are not reported now.
    #[must_use]
    pub fn is_muted(&self, source: Source, now: Mono) -> bool {
        let (index, tag) = place(&self.key, source);
        let Some(bucket) = &self.buckets[index] else {
            return false;
        };
        let slot = bucket.way_of(source, tag).map(|way| &bucket.slots[way]);
        slot.and_then(|slot| slot.muted_until)
            .is_some_and(|until| now < until)
    }

    /// What still counts of what `source` did; `None`: nothing.
    #[must_use]
    pub fn evidence(&self, source: Source, now: Mono) -> Option<Evidence> {
        let Rules {
            trigger, window, ..
        } = self.rules;
        let (index, tag) = place(&self.key, source);
        let bucket = self.buckets[index].as_ref()?;
        let way = bucket.way_of(source, tag)?;
        let slot = &bucket.slots[way];
        let marks = bucket.marks[way * trigger..][..slot.len].iter();
        let mut probes: Vec<Seen> = marks
            .filter(|mark| window.is_none_or(|window| now.since(mark.at) <= window))
            .map(|mark| Seen {
                at: mark.at,
                protocol: mark.protocol,
                port: mark.port,
                scan_type: mark.scan_type,
            })
            .collect();
        probes.sort_by_key(|seen| std::cmp::Reverse(seen.at));
        let muted_until = slot.muted_until.filter(|until| now < *until);
        (!probes.is_empty() || muted_until.is_some()).then_some(Evidence {
            probes,
            muted_until,
        })
    }

    /// Sources dropped so far to make room for others.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Whether `settings` are what this detector goes by.
    #[must_use]
    pub fn follows(&self, settings: &config::Detect) -> bool {
        self.rules == Rules::from(settings)
    }

    fn slot_of(&mut self, source: Source) -> Option<&mut Slot> {
        let (index, tag) = place(&self.key, source);
        let bucket = self.buckets[index].as_mut()?;
        let way = bucket.way_of(source, tag)?;
        Some(&mut bucket.slots[way])
    }
}

impl From<&config::Detect> for Rules {
    fn from(settings: &config::Detect) -> Self {
        Self {
            trigger: usize::from(settings.trigger.max(1)),
            unit: settings.count,
            window: settings.window,
            decoys: settings.decoys.clone(),
        }
    }
}

/// The bucket of `source`, and its tag there.
fn place(key: &RandomState, source: Source) -> (usize, u16) {
    let hash = key.hash_one(source);
    let low_bits = usize::try_from(hash % BUCKETS as u64).expect("BUCKETS is a usize");
    let high_bits = u16::try_from(hash >> 48).expect("16 bits are left");
    (low_bits, high_bits.max(NOBODY + 1))
}

impl Bucket {
    fn new(trigger: usize) -> Self {
        let blank = Mark {
            at: Mono(0),
            port: 0,
            protocol: Protocol::Tcp,
            scan_type: ScanType::Syn,
        };
        Self {
            tags: [NOBODY; WAYS],
            slots: [Slot::FREE; WAYS],
            marks: vec![blank; WAYS * trigger].into(),
        }
    }

    fn way_of(&self, source: Source, tag: u16) -> Option<usize> {
        (0..WAYS).find(|&way| self.tags[way] == tag && self.slots[way].source == Some(source))
    }

    /// An empty slot, or else the one to evict.
    fn way_to_fill(&self) -> usize {
        let quietness = |way: usize| {
            let slot = &self.slots[way];
            (
                slot.source.is_some(),
                slot.muted_until.is_some(),
                slot.len,
                slot.latest,
            )
        };
        (0..WAYS)
            .min_by_key(|&way| quietness(way))
            .expect("WAYS is not zero")
    }

    fn parts(&mut self, way: usize, trigger: usize) -> (&mut Slot, &mut [Mark]) {
        (
            &mut self.slots[way],
            &mut self.marks[way * trigger..][..trigger],
        )
    }
}

impl Slot {
    const FREE: Self = Self {
        source: None,
        len: 0,
        latest: Mono(0),
        muted_until: None,
    };

    /// Closes the gaps that marks older than the window leave; the order does not matter.
    fn drop_old(&mut self, marks: &mut [Mark], window: Option<Duration>, now: Mono) {
        let Some(window) = window else { return };
        let mut way = 0;
        while way < self.len {
            if now.since(marks[way].at) > window {
                self.len -= 1;
                marks[way] = marks[self.len];
            } else {
                way += 1;
            }
        }
    }

    /// A port counts once, at its latest time; when all places are taken, the oldest makes room. A connection takes the place of
    /// its own SYN, also where hits count, and a packet does not take that of a connection.
    fn remember(&mut self, marks: &mut [Mark], mark: Mark, unit: Unit) {
        let known = &marks[..self.len];
        let is_connection = |mark: &Mark| mark.scan_type == ScanType::Connect;
        let same = |known: &Mark| {
            (known.port, known.protocol) == (mark.port, mark.protocol)
                && (unit == Unit::Ports || is_connection(&mark) && !is_connection(known))
        };
        let place = match known.iter().position(same) {
            Some(place) if is_connection(&known[place]) && !is_connection(&mark) => return,
            Some(place) => place,
            None if self.len < marks.len() => {
                self.len += 1;
                self.len - 1
            }
            None => (0..self.len)
                .min_by_key(|&place| known[place].at)
                .unwrap_or(0),
        };
        marks[place] = mark;
    }
}

/// What the marks have in common.
fn summarise(marks: &[Mark], unit: Unit, last_port: u16) -> Summary {
    let first = marks.first();
    let shared_type = first
        .map(|m| m.scan_type)
        .filter(|&t| marks.iter().all(|m| m.scan_type == t));
    let shared_protocol = first
        .map(|m| m.protocol)
        .filter(|&p| marks.iter().all(|m| m.protocol == p));
    Summary {
        scan_type: shared_type,
        protocol: shared_protocol,
        count: u16::try_from(marks.len()).unwrap_or(u16::MAX),
        unit,
        last_port,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const T0: Mono = Mono(1_000_000);

    fn seconds(n: u64) -> Mono {
        T0.later(Duration::from_secs(n))
    }

    fn detector(change: impl FnOnce(&mut config::Detect)) -> Detector {
        let mut settings = Config::default().detect;
        change(&mut settings);
        Detector::new(&settings)
    }

    fn source(n: u32) -> Source {
        Source::from(std::net::IpAddr::from(std::net::Ipv4Addr::from(
            0xc633_6400 + n,
        )))
    }

    fn syn(port: u16) -> Probe {
        Probe {
            source: source(1).address(),
            dest: "192.0.2.1".parse().unwrap(),
            protocol: Protocol::Tcp,
            source_port: 40_000,
            port,
            scan_type: ScanType::Syn,
            ip_options: false,
            odd_flags: 0,
        }
    }

    fn udp(port: u16) -> Probe {
        Probe {
            protocol: Protocol::Udp,
            scan_type: ScanType::Udp,
            ..syn(port)
        }
    }

    #[test]
    fn what_still_counts_is_told_the_latest_first() {
        let mut detector = detector(|_| {});
        let known = |detector: &Detector, at| {
            let evidence = detector.evidence(source(1), at)?;
            Some(evidence.probes.iter().map(|seen| seen.port).collect())
        };
        assert_eq!(known(&detector, T0), None::<Vec<u16>>);
        let _ = detector.observe(source(1), &syn(21), T0);
        let _ = detector.observe(source(1), &syn(22), seconds(10));
        assert_eq!(known(&detector, seconds(10)), Some(vec![22, 21]));
        assert_eq!(known(&detector, seconds(305)), Some(vec![22]));
        assert_eq!(known(&detector, seconds(311)), None);
        detector.mute(source(1), seconds(999));
        assert_eq!(known(&detector, seconds(400)), Some(vec![]));
    }

    #[test]
    fn the_third_distinct_port_is_a_scan() {
        let mut detector = detector(|_| {});
        assert_eq!(detector.observe(source(1), &syn(21), T0), None);
        assert_eq!(detector.observe(source(1), &syn(22), T0), None);
        let scan = detector.observe(source(1), &syn(23), T0).unwrap();
        assert_eq!(scan.summary.to_string(), "syn scan, 3 tcp ports, last 23");
        assert_eq!((scan.source, scan.last), (source(1), syn(23)));
    }

    #[test]
    fn one_port_however_often_is_no_scan() {
        let mut detector = detector(|_| {});
        for n in 0..1000 {
            assert_eq!(
                detector.observe(source(1), &syn(22), seconds(n / 100)),
                None
            );
        }
    }

    #[test]
    fn hits_count_one_port_again() {
        let mut detector = detector(|d| d.count = Unit::Hits);
        assert_eq!(detector.observe(source(1), &syn(22), T0), None);
        assert_eq!(detector.observe(source(1), &syn(22), T0), None);
        let scan = detector.observe(source(1), &syn(22), T0).unwrap();
        assert_eq!(scan.summary.to_string(), "syn scan, 3 tcp hits, last 22");
    }

    #[test]
    fn a_connection_stands_for_its_own_syn() {
        for count in [Unit::Ports, Unit::Hits] {
            let mut detector = detector(|d| d.count = count);
            let connection = |port| Probe {
                scan_type: ScanType::Connect,
                ..syn(port)
            };
            for port in [21, 22] {
                assert_eq!(detector.observe(source(1), &syn(port), T0), None);
                assert_eq!(detector.observe(source(1), &connection(port), T0), None);
            }
            let scan = detector.observe(source(1), &connection(23), T0).unwrap();
            assert!(scan.summary.is_confirmed(), "{}", scan.summary);
        }
        let mut detector = detector(|_| {});
        let connection = Probe {
            scan_type: ScanType::Connect,
            ..syn(21)
        };
        let _ = detector.observe(source(1), &connection, T0);
        let _ = detector.observe(source(1), &syn(21), T0);
        let known = detector.evidence(source(1), T0).unwrap().probes;
        assert_eq!((known.len(), known[0].scan_type), (1, ScanType::Connect));
    }

    #[test]
    fn tcp_and_udp_add_up() {
        let mut detector = detector(|_| {});
        assert_eq!(detector.observe(source(1), &syn(53), T0), None);
        assert_eq!(detector.observe(source(1), &udp(53), T0), None);
        let scan = detector.observe(source(1), &udp(161), T0).unwrap();
        assert_eq!(scan.summary.to_string(), "mixed scan, 3 ports, last 161");
    }

    #[test]
    fn ports_outside_the_window_do_not_count() {
        let mut detector = detector(|d| d.window = Some(Duration::from_secs(60)));
        assert_eq!(detector.observe(source(1), &syn(1), seconds(0)), None);
        assert_eq!(detector.observe(source(1), &syn(2), seconds(40)), None);
        assert_eq!(
            detector.observe(source(1), &syn(3), seconds(61)),
            None,
            "port 1 is 61 s ago"
        );
        assert!(
            detector.observe(source(1), &syn(4), seconds(99)).is_some(),
            "2, 3 and 4 within 60 s"
        );
    }

    #[test]
    fn without_a_window_evidence_never_ages() {
        let mut detector = detector(|d| d.window = None);
        detector.observe(source(1), &syn(1), seconds(0));
        detector.observe(source(1), &syn(2), seconds(1_000_000));
        assert!(
            detector
                .observe(source(1), &syn(3), seconds(9_000_000))
                .is_some()
        );
    }

    #[test]
    fn one_hit_on_a_decoy_is_enough() {
        let mut detector = detector(|d| d.decoys = vec![23..=23]);
        assert_eq!(detector.observe(source(1), &syn(22), T0), None);
        let scan = detector.observe(source(2), &syn(23), T0).unwrap();
        assert_eq!(scan.summary.to_string(), "syn scan, 1 tcp port, last 23");
    }

    #[test]
    fn a_scan_is_told_until_it_is_forgotten_or_muted() {
        let mut detector = detector(|_| {});
        (1..3).for_each(|port| assert_eq!(detector.observe(source(1), &syn(port), T0), None));
        assert!(detector.observe(source(1), &syn(3), T0).is_some());
        assert!(detector.observe(source(1), &syn(4), T0).is_some());
        detector.forget(source(1));
        assert_eq!(detector.observe(source(1), &syn(5), T0), None);
        assert_eq!(detector.observe(source(1), &syn(6), T0), None);
        assert!(detector.observe(source(1), &syn(7), T0).is_some());
        detector.mute(source(1), seconds(10));
        (10..100)
            .for_each(|port| assert_eq!(detector.observe(source(1), &syn(port), seconds(9)), None));
        (1..3).for_each(|port| {
            assert_eq!(detector.observe(source(1), &syn(port), seconds(10)), None)
        });
        assert!(detector.observe(source(1), &syn(3), seconds(10)).is_some());
    }

    #[test]
    fn a_flood_of_sources_neither_grows_the_table_nor_hides_the_scanner() {
        let mut detector = detector(|_| {});
        let scanner = source(1 << 24);
        detector.observe(scanner, &syn(1), T0);
        detector.observe(scanner, &syn(2), T0);
        for n in 0..(4 * BUCKETS * WAYS) {
            detector.observe(source(u32::try_from(n).unwrap()), &syn(1), seconds(1));
        }
        assert!(detector.evicted() > 0);
        assert!(detector.observe(scanner, &syn(3), seconds(2)).is_some());
    }
}
