//! What it takes until everything is back that another program has taken away: `nft flush ruleset`, while one who is banned sends
//! all the time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use portsentry::clock::Now;
use portsentry::history::{History, Record};
use portsentry::policy::{Ban, End};
use portsentry::source::Source;

use crate::Run;
use crate::lab::Daemon;
use crate::responders::ban;
use crate::start::{source, until_ready};
use crate::table::{Side, Table, Unit};
use crate::wire::{Cable, Datagrams, MEASURED, SCANNER, address, on, pin};

/// Whoever lets nothing through for so long has put everything back.
const SILENCE: Duration = Duration::from_millis(100);

/// Whoever has let nothing through so long after the flush was so quick that nobody came between.
const TOO_QUICK: Duration = Duration::from_secs(1);

/// How long the flush may take to come, and the bans to be back.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn repair(run: &Run) -> Vec<Table> {
    let mut tables = Vec::new();
    for bans in [1, 10_000, run.size(200_000, 20_000)] {
        let title = format!("repair: nft flush ruleset, {bans} bans");
        let mut time = Table::new(format!("{title}: until all are in force again"), Unit::Time);
        let mut through = Table::new(
            "the same: datagrams let through, of the one who is put back last",
            Unit::Count,
        );
        let mut pace = Table::new("the same: datagrams that he sent a second", Unit::Rate);
        for _ in 0..run.rounds {
            let gap = flushed(bans);
            time.add("portsentry", Side::Ours, vec![gap.time.as_secs_f64()]);
            through.add("portsentry", Side::Ours, vec![f64::from(gap.through)]);
            pace.add("portsentry", Side::Ours, vec![gap.pace]);
        }
        time.note("1.2, and fail2ban: never");
        if bans <= 10_000 {
            time.limit(0.050);
        }
        tables.extend([time, through, pace]);
    }
    tables
}

/// How long nobody was kept out, and what came meanwhile.
struct Gap {
    time: Duration,
    through: u32,
    pace: f64,
}

fn flushed(bans: u32) -> Gap {
    let cable = Cable::new(1);
    let mut daemon = Daemon::new(&cable.host, "ban.limit = 10000000\n");
    // Whoever is banned longest is put back first. He who sends has the least time left.
    let last = Source::from(std::net::IpAddr::V4(address(1)));
    let mut history = History::open(&daemon.history()).expect("a history can be made");
    let others = (1..bans).map(|n| ban(source(n).into()));
    let all: Vec<Record> = others
        .chain([shorter(ban(last))])
        .map(Record::Ban)
        .collect();
    history.append(&all).expect("a history can be written");
    drop(history);
    on(MEASURED, || until_ready(&mut daemon));
    let intact = |when: &str| {
        let enforced = daemon.json("status")["enforced"].as_u64();
        assert_eq!(enforced, Some(bans.into()), "in force {when}");
    };
    intact("at first");
    let service = cable.service();
    let is_flushed = AtomicBool::new(false);
    let gap = thread::scope(|scope| {
        let sender = scope.spawn(|| {
            cable
                .scanner
                .inside(|| watch(&Datagrams::new(address(1), &service), &is_flushed))
        });
        cable.host.nft("flush ruleset");
        is_flushed.store(true, Ordering::Release);
        sender
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    intact("after a flush");
    gap
}

fn shorter(ban: Ban) -> Ban {
    Ban {
        end: Some(End::after(Duration::from_secs(1800), Now::read())),
        ..ban
    }
}

/// Sends until somebody lets datagrams through, and then nobody does any more.
fn watch(datagrams: &Datagrams<'_>, is_flushed: &AtomicBool) -> Gap {
    pin(SCANNER);
    let begun = Instant::now();
    let mut flushed = None;
    let (mut through, mut sent) = (0_u32, 0_u32);
    let (mut first, mut last) = (None, Duration::ZERO);
    loop {
        let at = begun.elapsed();
        sent += 1;
        if datagrams.arrives() {
            through += 1;
            first.get_or_insert(at);
            last = at;
        }
        if is_flushed.load(Ordering::Acquire) {
            flushed.get_or_insert(at);
        }
        let is_over = match first {
            Some(_) => at > last + SILENCE,
            None => flushed.is_some_and(|flushed| at > flushed + TOO_QUICK),
        };
        if is_over {
            return Gap {
                time: last.saturating_sub(first.unwrap_or(last)),
                through,
                pace: f64::from(sent) / at.as_secs_f64(),
            };
        }
        assert!(
            at < PATIENCE,
            "{through} datagrams were let through in {PATIENCE:?}"
        );
    }
}
