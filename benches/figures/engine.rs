//! The engine alone: probes out of memory through detection, guard and policy, with nobody to ask, nothing to ban by and nothing
//! to write.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use allocation_counter::{AllocationInfo, measure};
use portsentry::clock::Now;
use portsentry::config::Config;
use portsentry::config::ignore::IgnoreList;
use portsentry::engine::{Engine, Question};
use portsentry::guard::Guard;
use portsentry::history::{History, Recorder, TextFiles};
use portsentry::host::{Address, Facts};
use portsentry::probe::{Probe, Protocol, ScanType};
use portsentry::respond::Crew;

use crate::Run;
use crate::table::{Side, Table, Unit};
use crate::wire::{HOST, MEASURED, on};

/// Sources, each with one probe.
const SOURCES: u32 = 16_000_000;

/// After so many, whatever is made as sources appear is there.
const SETTLED: u32 = 1_000_000;

/// Probes that are judged together, as many as one read gives.
const BATCH: u32 = 64;

/// Probes a millisecond of the time that the engine is told.
const A_MILLISECOND: u32 = 4_096;

pub(crate) fn engine(run: &Run) -> Vec<Table> {
    let sources = run.size(SOURCES, 2 * SETTLED);
    let title = format!("engine alone: {sources} probes, each of a source of its own");
    let mut rate = Table::new(format!("{title}, judged a second"), Unit::Rate);
    let mut allocations = Table::new(
        format!("the same: allocations after the first {SETTLED}"),
        Unit::Count,
    );
    let mut heap = Table::new(
        "the same: memory that the engine takes, at most",
        Unit::Bytes,
    );
    for _ in 0..run.rounds {
        let (time, settling, steady) = on(MEASURED, || judge_all(sources));
        let add = |table: &mut Table, figure| {
            table.add("portsentry", Side::Ours, vec![figure]);
        };
        add(&mut rate, f64::from(sources) / time.as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "counts are below 2^53")]
        let [count, bytes] = [steady.count_total, settling.bytes_max].map(|it| it as f64);
        add(&mut allocations, count);
        add(&mut heap, bytes);
    }
    rate.limit(3e6);
    allocations.limit(0.0);
    vec![rate, allocations, heap]
}

/// How long it took, what was allocated at first, and what then.
fn judge_all(sources: u32) -> (Duration, AllocationInfo, AllocationInfo) {
    let directory = tempfile::tempdir().expect("there is room");
    let mut probes = Vec::with_capacity(BATCH.try_into().expect("a small number"));
    let start = Now::read();
    let mut judge = |engine: &mut Engine, from: u32, to: u32| {
        for first in (from..to).step_by(BATCH.try_into().expect("a small number")) {
            probes.clear();
            probes.extend((first..first + BATCH).map(probe));
            let now = start.later(Duration::from_millis((first / A_MILLISECOND).into()));
            engine.probes(&probes, now, &mut |_: Question, _: &Probe| Ok(false));
        }
    };
    let begun = Instant::now();
    let mut engine = None;
    let settling = measure(|| {
        let history = directory.path().join("history.db");
        judge(engine.insert(engine_without_a_world(&history)), 0, SETTLED);
    });
    let mut engine = engine.expect("it was made");
    let steady = measure(|| judge(&mut engine, SETTLED, sources));
    (begun.elapsed(), settling, steady)
}

fn engine_without_a_world(history: &std::path::Path) -> Engine {
    let config = Config::default();
    let own = Address {
        ip: HOST.into(),
        on_link: "10.78.0.0/16".parse().expect("it is a network"),
        link: 1,
    };
    let facts = Facts::new(vec![own], Vec::new());
    let guard = Guard::new(&config, IgnoreList::default(), facts);
    let crew = Crew {
        members: Vec::new(),
        bell: None,
    };
    let history = History::open(history).expect("a history can be made");
    let recorder = Recorder::start(history, TextFiles::default()).expect("threads can be had");
    Engine::new(config, guard, crew, recorder)
}

/// The only probe of source number `n`: a SYN to one of the traps.
fn probe(n: u32) -> Probe {
    // An odd factor permutes the numbers.
    let source = n.wrapping_mul(0x9e37_79b1) | 0x2000_0000;
    Probe {
        source: IpAddr::V4(Ipv4Addr::from(source)),
        dest: HOST.into(),
        protocol: Protocol::Tcp,
        source_port: 40_000,
        port: 1 + u16::try_from(n % 100).expect("a small number"),
        scan_type: ScanType::Syn,
        ip_options: false,
        odd_flags: 0,
    }
}
