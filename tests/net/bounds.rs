//! What a flood of made-up sources may cost, whatever is configured: memory, lines of the log, bans; and that it passes.

use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::lab::{Daemon, Flood, Pair, at, eventually};

/// Kilobytes: what the README promises with the limits of these tests, and as much again for a build that is not optimised.
const MEMORY: u64 = 48 << 10;

/// Lines of a log that a flood of these tests may lead to: those that a start has, a hundred alarms and a hundred ends of bans at once
/// with two lines each, and then a few a second.
fn assert_log_is_quiet(daemon: &Daemon<'_>, time: Duration) {
    let lines = daemon.log().lines().count();
    let seconds = usize::try_from(time.as_secs()).expect("tests are short") + 1;
    assert!(
        lines < 500 + 6 * seconds,
        "{lines} lines in {seconds} s: {}",
        daemon.log()
    );
}

/// Scans, as slowly as it takes to be seen among others, until it is banned.
fn scans_until_banned(daemon: &Daemon<'_>, scan: impl Fn(), set: &str, key: &str) {
    eventually("who scans amid the flood is banned", || {
        scan();
        daemon.banned().iter().any(|it| it == key).then_some(())
    });
    let element = daemon.element(set, key);
    let comment = element.comment.unwrap_or_default();
    assert!(comment.contains("scan"), "{comment}");
}

#[test]
fn a_flood_over_ipv6_leaves_memory_and_log_as_they_are_and_hides_no_scanner() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "");
    let begun = Instant::now();
    let flood = Flood::begin(stranger, at(Pair::HOST6), 25);
    // More than the table of sources takes.
    flood.has_sent(100_000);
    let scan = || {
        stranger.nmap("-6 -sS", "21-24", Pair::HOST6);
    };
    scans_until_banned(&daemon, scan, "banned6", Pair::STRANGER6);
    daemon.ok(&["status"]);
    drop(flood);
    assert_eq!(daemon.banned(), [Pair::STRANGER6]);
    let resident = daemon.resident();
    assert!(resident < MEMORY, "{resident} kB");
    assert_log_is_quiet(&daemon, begun.elapsed());
}

#[test]
fn memory_is_bounded_where_every_made_up_source_is_banned() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(
        host,
        "detect.trigger = 1\nban.rate = 1000000\nban.limit = 5000\nban.duration = \"1s\"\nban.escalate = 1\n",
    );
    let begun = Instant::now();
    let flood = Flood::begin(stranger, at(Pair::HOST), 23);
    eventually("several times as many as may have been banned", || {
        let status = daemon.command(&["status", "--json"]).out;
        let status: serde_json::Value = serde_json::from_str(&status).expect("--json prints JSON");
        (status["counters"]["bans"].as_u64()? > 15_000).then_some(())
    });
    let resident = daemon.resident();
    drop(flood);
    assert!(resident < MEMORY, "{resident} kB");
    let log = daemon.log();
    assert!(
        log.contains("more are no longer banned: their time is over"),
        "{log}"
    );
    assert_log_is_quiet(&daemon, begun.elapsed());
    // When it is over, all is as it was.
    eventually("all of them end", || {
        daemon.banned().is_empty().then_some(())
    });
    stranger.nmap("-sS", "23", Pair::HOST);
    daemon.element("banned4", Pair::STRANGER);
}

#[test]
fn beyond_the_rate_a_flood_is_one_loud_line_and_a_count() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "detect.trigger = 1\nban.rate = 20\n");
    let begun = Instant::now();
    let flood = Flood::begin(stranger, at(Pair::HOST), 23);
    daemon.has_counted("spared_rate", 50_000);
    drop(flood);
    let seconds = begun.elapsed().as_secs() + 1;
    let bans = daemon.counter("bans");
    assert!(bans <= 20 * (seconds + 1), "{bans} in {seconds} s");
    let said = "ban.rate of 20 scans a second is reached: scanners are spared";
    let log = daemon.log();
    let minutes = usize::try_from(seconds / 60).expect("tests are short");
    assert!(log.matches(said).count() <= 1 + minutes, "{log}");
    assert!(log.contains(said), "{log}");
    let status = daemon.ok(&["status"]);
    assert!(status.contains(&format!("trouble   {said}")), "{status}");
    assert_log_is_quiet(&daemon, begun.elapsed());
    // It takes no more than a second of quiet.
    eventually("who scans after it is banned", || {
        stranger.nmap("-sS", "23", Pair::HOST);
        host.element("banned4", Pair::STRANGER)
    });
}

#[test]
fn where_handshakes_are_asked_for_a_flood_bans_nobody_and_who_connects_is_banned() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "detect.trigger = 1\ndetect.confirm = \"handshake\"\n");
    let begun = Instant::now();
    let flood = Flood::begin(stranger, at(Pair::HOST), 23);
    daemon.has_counted("unconfirmed", 50_000);
    daemon.assert_nobody_is_banned();
    let scan = || stranger.knock(at(Pair::HOST), [79]);
    scans_until_banned(&daemon, scan, "banned4", Pair::STRANGER);
    drop(flood);
    assert_eq!(daemon.banned(), [Pair::STRANGER]);
    let resident = daemon.resident();
    assert!(resident < MEMORY, "{resident} kB");
    assert_log_is_quiet(&daemon, begun.elapsed());
}

#[test]
fn a_set_that_somebody_has_filled_is_told_and_used_again_when_there_is_room() {
    let Pair { host, stranger } = &Pair::new();
    let mut daemon = Daemon::start(host, "ban.limit = 100\n");
    let listing = host.nft("list set inet portsentry banned4");
    let size = listing
        .lines()
        .find_map(|line| line.trim().strip_prefix("size ")?.parse::<u32>().ok());
    let size = size.unwrap_or_else(|| panic!("it has a size: {listing}"));
    // What comes while the daemon runs is a ban up to the limit; what stands there at its start is one in any case.
    daemon.stop();
    let strangers: Vec<String> = (0..size)
        .map(|n| Ipv4Addr::from(0x0b00_0000 + n).to_string())
        .collect();
    let fill = daemon.path("fill");
    let line = format!(
        "add element inet portsentry banned4 {{ {} }}\n",
        strangers.join(", ")
    );
    fs::write(&fill, line).expect("the directory is ours");
    host.run(&format!("nft -f {}", fill.display()));
    daemon.restart();
    stranger.knock(at(Pair::HOST), 21..=23);
    daemon.has_counted("scans", 1);
    let status = daemon.command(&["status"]);
    // By which of the two, depends on whether it has been listed by then what stands there.
    let troubles = ["the set is full", "ban.limit of 100 bans is reached"];
    assert!(
        troubles.iter().any(|words| status.out.contains(words)),
        "{status:?}"
    );
    daemon.ok(&["unban", "--all"]);
    eventually("who scans when there is room is banned", || {
        stranger.knock(at(Pair::HOST), 21..=23);
        host.element("banned4", Pair::STRANGER)
    });
    eventually("all is well again", || {
        let status = daemon.command(&["status"]);
        let is_well = status.status == 0 && !status.out.contains("the set is full");
        is_well.then_some(())
    });
}
