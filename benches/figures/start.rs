//! Starts, with history and without; what is resident, and what runs, when nothing happens; commands when many are banned.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use portsentry::history::{History, Record};

use crate::Run;
use crate::contender::{Contender, Task, Worked, resident};
use crate::lab::{Daemon, Host};
use crate::responders::ban;
use crate::table::{Of, Side, Table, Unit};
use crate::wire::{Cable, Flood, HOST, MEASURED, TRAP, on};

const OURS: &str = "portsentry";

/// Enough for all that is put back here.
const LIMIT: &str = "ban.limit = 10000000\n";

/// How long it is watched what a daemon does that has nothing to do.
const IDLE: Duration = Duration::from_secs(10);

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) fn start(run: &Run) -> Vec<Table> {
    let mut ready = Table::new("start to ready, empty history", Unit::Time);
    for _ in 0..run.rounds * 5 {
        let host = Host::new("host");
        let begun = Instant::now();
        host.run("true");
        let floor = begun.elapsed().as_secs_f64();
        ready.add("`true`, run in the same way", Side::Floor, vec![floor]);
        let mut daemon = Daemon::new(&host, "");
        let time = until_ready(&mut daemon).as_secs_f64();
        ready.add(OURS, Side::Ours, vec![time]);
    }
    ready.limit(0.020);
    let mut size = Table::new("the binary", Unit::Bytes);
    let bytes = fs::metadata(env!("CARGO_BIN_EXE_portsentry")).expect("cargo has built it");
    size.add(OURS, Side::Ours, vec![float(bytes.len())]);
    size.limit(4.0 * 1024.0 * 1024.0);
    vec![ready, size]
}

pub(crate) fn replay(run: &Run) -> Vec<Table> {
    let mut tables = Vec::new();
    let mut first = Table::new(
        "start to the first ban of a scanner, while 1000000 bans are being put back",
        Unit::Time,
    );
    let mut memory = Table::new("resident with 1000000 bans", Unit::Bytes);
    for bans in [10_000, 100_000, 1_000_000] {
        let mut table = Table::new(format!("replay: {bans} bans to be in force"), Unit::Time);
        let files = tempfile::tempdir().expect("there is room");
        let (history, ruleset) = (files.path().join("history"), files.path().join("nft"));
        write_history(&history, bans);
        write_ruleset(&ruleset, bans);
        let rounds = if bans == 1_000_000 {
            run.rounds.min(3)
        } else {
            run.rounds
        };
        for _ in 0..rounds {
            let host = Host::new("host");
            let begun = Instant::now();
            host.run(&format!("nft -f {}", ruleset.display()));
            let time = begun.elapsed().as_secs_f64();
            table.add("nft -f, the same elements", Side::Peer, vec![time]);
            drop(host);
            let cable = Cable::new(0);
            let mut daemon = Daemon::new(&cable.host, &format!("{LIMIT}detect.trigger = 1\n"));
            fs::copy(&history, daemon.history()).expect("there is room");
            let (time, first_ban) = if bans == 1_000_000 {
                let (time, first_ban) = until_ready_and_scanned(&cable, &mut daemon);
                (time, Some(first_ban))
            } else {
                (until_ready(&mut daemon), None)
            };
            table.add(
                "portsentry, start to ready",
                Side::Ours,
                vec![time.as_secs_f64()],
            );
            let enforced = daemon.json("status")["enforced"].as_u64().unwrap_or(0);
            assert!(enforced >= u64::from(bans), "{enforced} of {bans} in force");
            if let Some(first_ban) = first_ban {
                first.add(OURS, Side::Ours, vec![first_ban.as_secs_f64()]);
                memory.add(OURS, Side::Ours, vec![resident(daemon.pid())]);
            }
        }
        if bans == 1_000_000 {
            table.aim(Of::Median, 2.0, Side::Peer);
        }
        tables.push(table);
    }
    memory.limit(120e6);
    tables.push(first);
    tables.push(memory);
    tables
}

/// Commands when a million are banned.
pub(crate) fn commands(run: &Run) -> Vec<Table> {
    const BANS: u32 = 1_000_000;
    let host = Host::new("host");
    let mut daemon = Daemon::new(&host, LIMIT);
    write_history(&daemon.history(), BANS);
    until_ready(&mut daemon);
    let mut tables = Vec::new();
    let last = source(BANS - 1).to_string();
    for words in [
        vec!["status"],
        vec!["explain", &last],
        vec!["unban", &last],
        vec!["ban", &last],
    ] {
        let mut table = Table::new(format!("{BANS} bans: portsentry {}", words[0]), Unit::Time);
        for _ in 0..run.rounds {
            let begun = Instant::now();
            daemon.command(&words);
            table.add(OURS, Side::Ours, vec![begun.elapsed().as_secs_f64()]);
        }
        table.limit(0.030);
        tables.push(table);
    }
    let mut first = Table::new(
        format!("{BANS} bans: the first line of the list"),
        Unit::Time,
    );
    let mut all = Table::new(format!("{BANS} bans: all of the list"), Unit::Time);
    for _ in 0..run.rounds.min(2) {
        let config = daemon.config();
        let config = config.to_str().expect("a temporary file's name is plain");
        let ours = [env!("CARGO_BIN_EXE_portsentry"), "-c", config, "list"];
        let nft = ["nft", "list", "set", "inet", "portsentry", "banned4"];
        for (who, side, words) in [
            (OURS, Side::Ours, ours.as_slice()),
            ("nft list set", Side::Peer, nft.as_slice()),
        ] {
            let [one, last] = lines(&host, words);
            first.add(who, side, vec![one]);
            all.add(who, side, vec![last]);
        }
    }
    first.limit(0.030);
    tables.extend([first, all]);
    tables
}

/// Memory, wake-ups and processor time of those who have nothing to do.
pub(crate) fn idle(run: &Run) -> Vec<Table> {
    let mut memory = Table::new("resident, idle", Unit::Bytes);
    let mut wake_ups = Table::new("wake-ups a second, idle", Unit::Rate);
    let mut processor = Table::new("processor time in a second, idle", Unit::Time);
    let (there, missing) = Contender::there(
        &[
            Contender::Packet,
            Contender::Ip,
            Contender::Nft,
            Contender::Fail2ban,
        ],
        run,
    );
    for _ in 0..run.rounds.min(2) {
        for contender in &there {
            let cable = Cable::new(0);
            let running = on(MEASURED, || contender.start(&cable.host, Task::Ban));
            let pids = running.pids();
            // What is left of its start.
            thread::sleep(Duration::from_secs(1));
            let before = Worked::of(&pids);
            thread::sleep(IDLE);
            let after = Worked::of(&pids);
            let (name, side) = (contender.name(), contender.side());
            let a_second = |after: f64, before: f64| vec![(after - before) / IDLE.as_secs_f64()];
            wake_ups.add(name, side, a_second(after.switches, before.switches));
            processor.add(name, side, a_second(after.seconds, before.seconds));
            memory.add(name, side, vec![pids.iter().copied().map(resident).sum()]);
        }
    }
    missing.iter().for_each(|words| memory.note(words));
    memory.limit(6e6);
    let mut flooded = Table::new(
        "resident after a flood of 2000000 made-up sources",
        Unit::Bytes,
    );
    let flood = Flood::new(2_000_000);
    for method in ["packet", "ip"] {
        let cable = Cable::new(0);
        let config = format!("capture.method = \"{method}\"");
        let daemon = on(MEASURED, || Daemon::start(&cable.host, &config));
        flood.send(&cable.scanner, None, PATIENCE);
        let who = format!("portsentry, capture.method {method}");
        flooded.add(&who, Side::Ours, vec![resident(daemon.pid())]);
    }
    vec![memory, wake_ups, processor, flooded]
}

/// Starts a daemon; how long until it says that it is ready.
fn until_ready(daemon: &mut Daemon<'_>) -> Duration {
    let begun = Instant::now();
    daemon.spawn();
    until_logged(daemon, "ready: ", begun)
}

/// The same, and how long until the first ban of somebody who scans all the while.
fn until_ready_and_scanned(cable: &Cable, daemon: &mut Daemon<'_>) -> (Duration, Duration) {
    let begun = Instant::now();
    daemon.spawn();
    let first_ban = {
        let is_logged = || daemon.log().contains("attackalert: ");
        while !is_logged() && begun.elapsed() < PATIENCE {
            crate::lab::send_syns(&cable.scanner, [Ipv4Addr::new(10, 78, 9, 9)], HOST, TRAP);
            thread::sleep(Duration::from_millis(1));
        }
        begun.elapsed()
    };
    (until_logged(daemon, "ready: ", begun), first_ban)
}

fn until_logged(daemon: &Daemon<'_>, words: &str, begun: Instant) -> Duration {
    while !daemon.log().contains(words) {
        assert!(begun.elapsed() < PATIENCE, "{}", daemon.log());
        thread::sleep(Duration::from_micros(200));
    }
    begun.elapsed()
}

/// A history in which so many are banned.
fn write_history(path: &Path, bans: u32) {
    let mut history = History::open(path).expect("a history can be made");
    for first in (0..bans).step_by(10_000) {
        let records: Vec<Record> = (first..bans.min(first + 10_000))
            .map(|n| Record::Ban(ban(source(n).into())))
            .collect();
        history.append(&records).expect("a history can be written");
    }
}

/// The same bans as an admin would keep them for nft: the same set, the same elements.
fn write_ruleset(path: &PathBuf, bans: u32) {
    let file = fs::File::create(path).expect("there is room");
    let mut file = std::io::BufWriter::new(file);
    let mut write = |text: &str| file.write_all(text.as_bytes()).expect("there is room");
    write(
        "table inet portsentry {\nset banned4 { type ipv4_addr; flags timeout; size 10000000; elements = {\n",
    );
    let reason = ban(source(0).into()).reason;
    for n in 0..bans {
        write(&format!(
            "{} timeout 1h expires 59m comment \"{reason}\",\n",
            source(n)
        ));
    }
    write("}\n}\n}\n");
    file.flush().expect("there is room");
}

fn source(n: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0b00_0000 + n))
}

/// When the first line of what a program prints is there, and when the last; in seconds.
fn lines(host: &Host, words: &[&str]) -> [f64; 2] {
    let (program, args) = words.split_first().expect("a program's name");
    let begun = Instant::now();
    let mut child = host
        .command(program)
        .args(args)
        .stdout(Stdio::piped())
        .spawn()
        .expect("ip is there");
    let mut out = BufReader::new(child.stdout.take().expect("it was asked for"));
    let mut line = Vec::new();
    out.read_until(b'\n', &mut line).expect("it can be read");
    let first = begun.elapsed();
    std::io::copy(&mut out, &mut std::io::sink()).expect("it can be read");
    let status = child.wait().expect("it is our child");
    assert!(status.success(), "{words:?}: {status}");
    [first, begun.elapsed()].map(|time| time.as_secs_f64())
}

fn float(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes).unwrap_or(u32::MAX))
}
