//! Single bans, and floods of them: the main job, beside everybody else.

use std::time::{Duration, Instant};

use crate::Run;
use crate::contender::{Contender, Running, Task, Worked};
use crate::table::{Of, Side, Table, Unit};
use crate::wire::{Cable, Flood, MEASURED, on};

/// Sources whose time to the ban is taken of each contender, over all rounds.
const SOURCES: usize = 200;

/// Fewer of one that takes a second for each.
const SOURCES_OF_FAIL2BAN: usize = 30;

/// How long floods last, and how long whoever has a backlog may work on it. Peers never get through theirs.
const FLOOD: Duration = Duration::from_secs(3);
const BACKLOG: Duration = Duration::from_secs(5);
const BACKLOG_OF_PEERS: Duration = Duration::from_secs(1);

/// Who has done nothing for so long is through.
const THROUGH: Duration = Duration::from_millis(300);

/// What a flood that nobody may lose a probe of brings a second.
const BRISK: u32 = 100_000;

/// From the first SYN sent to the last datagram of its source that the host takes.
pub(crate) fn time_to_ban(run: &Run) -> Vec<Table> {
    let mut table = Table::new(
        "time to ban: from the first SYN sent to the last datagram of its source that the host still takes",
        Unit::Time,
    );
    let (there, missing) = Contender::there(&Contender::ALL, run);
    let sources = |contender: Contender| {
        let all = match contender {
            Contender::Fail2ban => run.size(SOURCES_OF_FAIL2BAN, 3),
            _ => run.size(SOURCES, 20),
        };
        u8::try_from(all.div_ceil(run.rounds)).unwrap_or(u8::MAX)
    };
    for _ in 0..run.rounds {
        for contender in &there {
            let sources = sources(*contender);
            let cable = Cable::new(sources);
            let _running = on(MEASURED, || contender.start(&cable.host, Task::Ban));
            let times = (1..=sources).map(|n| cable.time_to_ban(n).as_secs_f64());
            table.add(contender.name(), contender.side(), times.collect());
        }
    }
    missing.iter().for_each(|words| table.note(words));
    table.aim(Of::Median, 25.0, Side::Peer);
    table.aim(Of::P99, 10.0, Side::Peer);
    vec![table]
}

/// Floods of SYNs, every one from a source of its own.
pub(crate) fn floods(run: &Run) -> Vec<Table> {
    let mut banned = Table::new(
        format!("flood of {BRISK} new sources a second, all to be banned: bans in force a second"),
        Unit::Rate,
    );
    let mut lost = Table::new("the same: probes lost", Unit::Count);
    let mut brought = Table::new("the same: probes sent a second", Unit::Rate);
    let mut at_most = Table::new(
        "flood as fast as can be sent, all to be banned: bans in force a second",
        Unit::Rate,
    );
    let mut logged = Table::new(
        "flood as fast as can be sent, log only: probes judged a second",
        Unit::Rate,
    );
    let mut sent = Table::new("the same: probes sent a second", Unit::Rate);
    let mut work = ["ban", "log only"].map(|what| {
        let title =
            format!("the same floods, {what}: processor time for each probe that was not lost");
        Table::new(title, Unit::Time)
    });
    let (there, missing) = Contender::there(&Contender::ALL, run);
    let take = |contender, task, rate| take(contender, task, rate, run.size(FLOOD, FLOOD / 6));
    for _ in 0..run.rounds {
        for contender in &there {
            let (name, side) = (contender.name(), contender.side());
            let counted = take(*contender, Task::Ban, Some(BRISK));
            banned.add(name, side, vec![counted.rate]);
            lost.add(name, side, vec![counted.lost]);
            brought.add(name, side, vec![counted.sent]);
            let counted = take(*contender, Task::Ban, None);
            at_most.add(name, side, vec![counted.rate]);
            let is_program = *contender != Contender::Kernel;
            if is_program {
                work[0].add(name, side, vec![counted.work]);
            }
            if !matches!(
                contender,
                Contender::Kernel | Contender::Nft | Contender::Fail2ban
            ) {
                let counted = take(*contender, Task::Log, None);
                logged.add(name, side, vec![counted.rate]);
                sent.add(name, side, vec![counted.sent]);
                work[1].add(name, side, vec![counted.work]);
            }
        }
    }
    for words in missing {
        banned.note(words);
    }
    banned.aim(Of::Median, 100.0, Side::Peer);
    lost.limit(0.0);
    logged.aim(Of::Median, 3.0, Side::Peer);
    let [work_of_bans, work_of_logs] = work;
    vec![
        banned,
        lost,
        brought,
        at_most,
        logged,
        sent,
        work_of_bans,
        work_of_logs,
    ]
}

/// What came of one flood.
struct Counted {
    sent: f64,
    rate: f64,
    lost: f64,
    /// Processor time for each that is done, in seconds.
    work: f64,
}

fn take(contender: Contender, task: Task, a_second: Option<u32>, time: Duration) -> Counted {
    let cable = Cable::new(0);
    let running = on(MEASURED, || contender.start(&cable.host, task));
    let pids = running.pids();
    let before = Worked::of(&pids).seconds;
    let begun = Instant::now();
    let (sent, sending) = Flood::new().send(&cable.scanner, a_second, time);
    // What is still on its way counts, and so does the time that it takes.
    let (mut done, mut at) = look(&running, task, begun);
    let mut looked = at;
    let backlog = match contender.side() {
        Side::Peer => BACKLOG_OF_PEERS,
        Side::Ours | Side::Floor => BACKLOG,
    };
    while looked < time + backlog && looked < at + THROUGH && done < u64::from(sent) {
        std::thread::sleep(Duration::from_millis(20));
        let now_done;
        (now_done, looked) = look(&running, task, begun);
        if now_done > done {
            (done, at) = (now_done, looked);
        }
    }
    let worked = Worked::of(&pids).seconds - before;
    assert!(done > 0, "{} has done nothing in a flood", contender.name());
    let sent = f64::from(sent);
    #[expect(clippy::cast_precision_loss, reason = "counts are below 2^53")]
    let done = done as f64;
    Counted {
        sent: sent / sending.as_secs_f64(),
        rate: done / at.as_secs_f64(),
        lost: (sent - done).max(0.0),
        work: worked / done,
    }
}

/// How much is done, and when. To ask takes time too: for peers, what is done meanwhile counts and the time does not.
fn look(running: &Running<'_>, task: Task, begun: Instant) -> (u64, Duration) {
    let asked = begun.elapsed();
    let done = match task {
        Task::Ban => running.banned(),
        Task::Log => running.judged(),
    };
    let is_peer = !running.is_ours();
    (done, if is_peer { asked } else { begun.elapsed() })
}
