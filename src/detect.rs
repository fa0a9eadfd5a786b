//! When a source's probes add up to a scan.
//!
//! A table of fixed size remembers the last probes of each source; whoever is friendly, which ports are services
//! and what follows from a scan are other rooms' business. Pure: time comes in as an argument.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::clock::Mono;
use crate::config;
use crate::policy::{Summary, Unit};
use crate::probe::{Probe, Protocol, ScanType};
use crate::source::Source;

mod table;

use table::{Mark, Table};

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
    table: Table,
    /// Until when anybody is muted, at most; `None`: nobody ever was.
    muted_until: Option<Mono>,
}

/// What adds up to a scan: `[detect]`, made ready for use.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rules {
    trigger: usize,
    unit: Unit,
    window: Option<Duration>,
    decoys: Vec<RangeInclusive<u16>>,
}

impl Detector {
    /// A detector that has seen nothing.
    #[must_use]
    pub fn new(settings: &config::Detect) -> Self {
        let rules = Rules::from(settings);
        let table = Table::new(rules.trigger);
        Self {
            rules,
            table,
            muted_until: None,
        }
    }

    /// Counts one probe of `source`, and tells whether its probes now add up to a scan.
    ///
    /// While they do, every further probe is told again, until [`forget`](Self::forget) or [`mute`](Self::mute).
    pub fn observe(&mut self, source: Source, probe: &Probe, now: Mono) -> Option<Scan> {
        let rules = &self.rules;
        let slot = self.table.find_or_take(source);
        if (self.table.muted_until(slot)).is_some_and(|until| now < until) {
            return None;
        }
        let counts = |mark: Mark| rules.counts(mark.at(), now);
        let told = Mark::new(now, probe);
        // A connection stands for its own packets too.
        let connection = (self.table.marks(slot))
            .find(|known| is_connection(*known) && known.is_beside(told) && counts(*known));
        let mark = match connection {
            Some(known) if rules.unit == Unit::Ports && !is_connection(told) => known,
            _ => told,
        };
        let replaces = |known| rules.takes_place_of(mark, known);
        self.table.remember(slot, mark, counts, replaces);
        let marks = self.table.marks(slot);
        let is_decoy = rules.decoys.iter().any(|range| range.contains(&probe.port));
        (marks.clone().count() >= rules.trigger || is_decoy).then(|| Scan {
            source,
            last: *probe,
            summary: summarise(marks, rules.unit, probe.port),
        })
    }

    /// Drops all that is known of `source`: it was banned or unbanned, and starts afresh.
    pub fn forget(&mut self, source: Source) {
        if let Some(slot) = self.table.find(source) {
            self.table.free(slot);
        }
    }

    /// Reports no scan of `source` until then: it was told once, and nobody is banned for it.
    pub fn mute(&mut self, source: Source, until: Mono) {
        if let Some(slot) = self.table.find(source) {
            self.table.mute(slot, until);
            self.muted_until = self.muted_until.max(Some(until));
        }
    }

    /// Whether scans of `source` are not reported now.
    #[must_use]
    pub fn is_muted(&self, source: Source, now: Mono) -> bool {
        if self.muted_until.is_none_or(|until| until <= now) {
            return false;
        }
        let slot = self.table.find(source);
        slot.and_then(|slot| self.table.muted_until(slot))
            .is_some_and(|until| now < until)
    }

    /// What still counts of what `source` did; `None`: nothing.
    #[must_use]
    pub fn evidence(&self, source: Source, now: Mono) -> Option<Evidence> {
        let slot = self.table.find(source)?;
        let marks = self.table.marks(slot);
        let mut probes: Vec<Seen> = marks
            .filter(|mark| self.rules.counts(mark.at(), now))
            .map(|mark| Seen {
                at: mark.at(),
                protocol: mark.protocol(),
                port: mark.port(),
                scan_type: mark.scan_type(),
            })
            .collect();
        probes.sort_by_key(|seen| std::cmp::Reverse(seen.at));
        let muted_until = self.table.muted_until(slot).filter(|until| now < *until);
        (!probes.is_empty() || muted_until.is_some()).then_some(Evidence {
            probes,
            muted_until,
        })
    }

    /// Sources dropped so far to make room for others.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.table.evicted()
    }

    /// Whether `settings` are what this detector goes by.
    #[must_use]
    pub fn follows(&self, settings: &config::Detect) -> bool {
        self.rules == Rules::from(settings)
    }
}

impl Rules {
    /// Whether what came at that moment is within the window.
    fn counts(&self, at: Mono, now: Mono) -> bool {
        self.window.is_none_or(|window| now.since(at) <= window)
    }

    /// A port counts once, at its latest time. A connection takes the place of its own SYN, also where hits count.
    fn takes_place_of(&self, mark: Mark, known: Mark) -> bool {
        let is_own_syn = is_connection(mark) && !is_connection(known);
        mark.is_beside(known) && (self.unit == Unit::Ports || is_own_syn)
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

fn is_connection(mark: Mark) -> bool {
    mark.scan_type() == ScanType::Connect
}

/// What the marks have in common.
fn summarise(marks: impl Iterator<Item = Mark> + Clone, unit: Unit, last_port: u16) -> Summary {
    let first = marks.clone().next();
    let shared_type = first
        .map(Mark::scan_type)
        .filter(|&it| marks.clone().all(|mark| mark.scan_type() == it));
    let shared_protocol = first
        .map(Mark::protocol)
        .filter(|&it| marks.clone().all(|mark| mark.protocol() == it));
    Summary {
        scan_type: shared_type,
        protocol: shared_protocol,
        count: u16::try_from(marks.count()).unwrap_or(u16::MAX),
        unit,
        last_port,
    }
}

#[cfg(test)]
mod tests {
    use super::table::{BUCKETS, WAYS};
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
        for n in 0..u32::try_from(4 * BUCKETS * WAYS).unwrap() {
            detector.observe(source(n), &syn(1), seconds(1));
        }
        assert!(detector.evicted() > 0);
        assert!(detector.observe(scanner, &syn(3), seconds(2)).is_some());
    }
}
