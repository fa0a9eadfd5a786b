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
use crate::wire::{Cable, HOST, MEASURED, TRAP, on};

const OURS: &str = "portsentry";

/// Enough for all that is put back here.
const LIMIT: &str = "ban.limit = 10000000\n";

/// How long it is watched what a daemon does that has nothing to do, and from when after its start on.
const IDLE: Duration = Duration::from_secs(60);
const SETTLED: Duration = Duration::from_secs(2);

/// So many bans are looked after once a minute.
const WITH_BANS: u32 = 1_000;

/// So many are put back by fail2ban, which takes longer than patience lasts for more.
const FOR_FAIL2BAN: u32 = 2_000;

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
    let most = run.size(1_000_000, 20_000);
    let mut first = Table::new(
        format!("start to the first ban of a scanner, while {most} bans are being put back"),
        Unit::Time,
    );
    let mut memory = Table::new(format!("resident with {most} bans"), Unit::Bytes);
    for bans in run.size(
        [FOR_FAIL2BAN, 10_000, 100_000, 1_000_000].as_slice(),
        &[FOR_FAIL2BAN, most],
    ) {
        let bans = *bans;
        let mut table = Table::new(format!("replay: {bans} bans to be in force"), Unit::Time);
        let files = tempfile::tempdir().expect("there is room");
        let (history, ruleset) = (files.path().join("history"), files.path().join("nft"));
        write_history(&history, bans);
        write_ruleset(&ruleset, bans);
        for round in 0..run.rounds {
            let host = Host::new("host");
            let begun = Instant::now();
            host.run(&format!("nft -f {}", ruleset.display()));
            let time = begun.elapsed().as_secs_f64();
            table.add("nft -f, the same elements", Side::Peer, vec![time]);
            drop(host);
            let cable = Cable::new(0);
            let mut daemon = Daemon::new(&cable.host, &format!("{LIMIT}detect.trigger = 1\n"));
            fs::copy(&history, daemon.history()).expect("there is room");
            let (time, first_ban) = if bans == most {
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
            drop(daemon);
            // Once is enough of what takes half a minute.
            if bans == FOR_FAIL2BAN && round == 0 {
                of_fail2ban(run, &mut table);
            }
        }
        if bans == most {
            table.aim(Of::Median, 2.0, Side::Peer);
        }
        tables.push(table);
    }
    memory.limit(120e6);
    tables.push(first);
    tables.push(memory);
    tables
}

fn of_fail2ban(run: &Run, table: &mut Table) {
    let (there, missing) = Contender::there(&[Contender::Fail2ban], run);
    missing.iter().for_each(|words| table.note(words));
    for contender in there {
        let cable = Cable::new(0);
        let mut running = contender.start(&cable.host, Task::Ban);
        let bans = run.size(FOR_FAIL2BAN, FOR_FAIL2BAN / 10);
        let time = running.restarted_with((0..bans).map(source));
        let who = format!("{}, {bans} bans", contender.name());
        table.add(&who, contender.side(), vec![time.as_secs_f64()]);
    }
}

/// Commands when a million are banned.
pub(crate) fn commands(run: &Run) -> Vec<Table> {
    let bans = run.size(1_000_000, 20_000);
    let host = Host::new("host");
    let mut daemon = Daemon::new(&host, LIMIT);
    write_history(&daemon.history(), bans);
    until_ready(&mut daemon);
    let mut tables = Vec::new();
    let last = source(bans - 1).to_string();
    for words in [
        vec!["status"],
        vec!["explain", &last],
        vec!["unban", &last],
        vec!["ban", &last],
    ] {
        let mut table = Table::new(format!("{bans} bans: portsentry {}", words[0]), Unit::Time);
        for _ in 0..run.rounds * run.size(5, 1) {
            let begun = Instant::now();
            daemon.ok(&words);
            table.add(OURS, Side::Ours, vec![begun.elapsed().as_secs_f64()]);
        }
        table.limit(0.030);
        tables.push(table);
    }
    let mut first = Table::new(
        format!("{bans} bans: the first line of the list"),
        Unit::Time,
    );
    let mut all = Table::new(format!("{bans} bans: all of the list"), Unit::Time);
    for round in 0..run.rounds {
        let config = daemon.config();
        let config = config.to_str().expect("a temporary file's name is plain");
        let ours = [env!("CARGO_BIN_EXE_portsentry"), "-c", config, "list"];
        let nft = "timeout 60 nft list set inet portsentry banned4";
        let nft: Vec<&str> = nft.split(' ').collect();
        for (who, side, words) in [
            (OURS, Side::Ours, ours.as_slice()),
            ("nft list set, given up after 60 s", Side::Peer, &nft),
        ] {
            // Once is enough of what takes a minute.
            if side == Side::Peer && round > 0 {
                continue;
            }
            let [one, last] = lines(&host, words);
            first.add(who, side, vec![one]);
            all.add(who, side, vec![last]);
        }
    }
    first.limit(0.030);
    tables.extend([first, all]);
    tables
}

/// Memory, wake-ups and processor time of those who have nothing to do, all at the same time.
pub(crate) fn idle(run: &Run) -> Vec<Table> {
    let time = run.size(IDLE, IDLE / 20);
    let mut memory = Table::new("resident, idle", Unit::Bytes);
    let mut asked = Table::new("resident, idle, after a command", Unit::Bytes);
    let title = format!("wake-ups in {} s, idle", time.as_secs());
    let mut wake_ups = Table::new(title, Unit::Count);
    let mut processor = Table::new("processor time in a second, idle", Unit::Time);
    let title = format!("wake-ups in {} s, with {WITH_BANS} bans", time.as_secs());
    let mut guarding = Table::new(title, Unit::Count);
    let (there, missing) = Contender::there(
        &[
            Contender::Packet,
            Contender::Ip,
            Contender::Nft,
            Contender::Fail2ban,
        ],
        run,
    );
    let cables: Vec<Cable> = there.iter().map(|_| Cable::new(0)).collect();
    let mut all = Vec::new();
    for (contender, cable) in there.iter().copied().zip(&cables) {
        let running = on(MEASURED, || contender.start(&cable.host, Task::Ban));
        let pids = running.pids();
        assert!(!pids.is_empty(), "{} does not run", contender.name());
        all.push((contender, running, pids));
    }
    let host = Host::new("host");
    let mut guard = Daemon::new(&host, "");
    write_history(&guard.history(), WITH_BANS);
    until_ready(&mut guard);
    // What is left of their starts.
    thread::sleep(SETTLED);
    let look = || {
        let all: Vec<Worked> = all.iter().map(|(_, _, pids)| Worked::of(pids)).collect();
        (all, Worked::of(&[guard.pid()]))
    };
    let (before, guard_before) = look();
    thread::sleep(time);
    let (after, guard_after) = look();
    for (((contender, running, pids), before), after) in all.iter().zip(before).zip(after) {
        let (name, side) = (contender.name(), contender.side());
        wake_ups.add(name, side, vec![after.wake_ups - before.wake_ups]);
        let worked = (after.seconds - before.seconds) / time.as_secs_f64();
        processor.add(name, side, vec![worked]);
        let resident = || vec![pids.iter().copied().map(resident).sum()];
        memory.add(name, side, resident());
        if let Some(daemon) = running.daemon() {
            daemon.ok(&["status"]);
            asked.add(name, side, resident());
        }
    }
    guarding.add(
        OURS,
        Side::Ours,
        vec![guard_after.wake_ups - guard_before.wake_ups],
    );
    missing.iter().for_each(|words| memory.note(words));
    memory.limit(6e6);
    wake_ups.limit(0.0);
    // One look: the loop's at the table and at a sample of the bans, and the thread's of history at its file.
    guarding.limit(2.0);
    vec![memory, asked, wake_ups, processor, guarding]
}

/// Starts a daemon; how long until it says that it is ready.
pub(crate) fn until_ready(daemon: &mut Daemon<'_>) -> Duration {
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

/// Who is banned, another one for each number.
pub(crate) fn source(n: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0b00_0000 + n))
}

/// By `timeout`, of a program that took too long.
const GIVEN_UP: i32 = 124;

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
    let is_given_up = status.code() == Some(GIVEN_UP);
    assert!(status.success() || is_given_up, "{words:?}: {status}");
    [first, begun.elapsed()].map(|time| time.as_secs_f64())
}

fn float(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes).unwrap_or(u32::MAX))
}
