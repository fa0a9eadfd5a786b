//! Wall clocks that leap, or are wrong: a ban lasts as long as it was to last, and what is told of it is true by the new time.

use crate::lab::{Clock, Daemon, Host, eventually};

const SOURCE: &str = "203.0.113.7";
const DAY: i64 = 24 * 3600;

/// Seconds that are left of the ban: between these in the list, and in the kernel.
fn assert_left(daemon: &Daemon<'_>, host: &Host, from: u64, to: u64) {
    let list = daemon.json("list");
    let mut bans = list.as_array().expect("the list is one").iter();
    let ban = bans.find(|ban| ban["source"] == SOURCE);
    let ban = ban.expect("it is banned");
    let left = ban["left"].as_u64().expect("it has an end");
    assert!((from..=to).contains(&left), "{list}");
    let length = ban["length"].as_u64().expect("it has an end");
    assert_eq!(length, 3600, "{list}");
    let element = host.element("banned4", SOURCE).expect("it is banned");
    let expires = element.expires.expect("it has an end");
    assert!((from..=to).contains(&expires), "{element:?}");
}

/// The bans of the kernel are gone, the history stays.
fn reboot(daemon: &mut Daemon<'_>, host: &Host) {
    eventually("history has it, as it is by the clock of now", || {
        let rows = daemon.json("history");
        let mut rows = rows.as_array().expect("rows are a list").iter();
        rows.any(|row| row["source"] == SOURCE && row["running"] == true)
            .then_some(())
    });
    daemon.kill9();
    host.nft("flush ruleset");
    daemon.restart();
}

#[test]
fn a_ban_lasts_as_long_as_it_was_to_last_however_the_clock_leaps() {
    let host = &Host::new("host");
    let clock = Clock::new();
    let mut daemon = Daemon::start_by(&clock, host, "");
    daemon.ok(&["ban", SOURCE, "--for", "1h"]);
    assert_left(&daemon, host, 3500, 3600);
    for (leap, said) in [
        (DAY, "the clock has gone on by 1d at once: bans keep"),
        (-2 * DAY, "the clock has gone back by 3d at once: bans keep"),
        (0, "the clock has gone on by 2d at once: bans keep"),
    ] {
        clock.set_off(leap);
        daemon.ok(&["status"]);
        let log = daemon.log();
        assert!(log.contains(said), "{said}: {log}");
        assert_left(&daemon, host, 3400, 3600);
        reboot(&mut daemon, host);
        assert_left(&daemon, host, 3300, 3600);
    }
}

#[test]
fn when_the_clock_goes_back_what_is_over_stays_over_and_the_new_time_is_believed() {
    let host = &Host::new("host");
    let clock = Clock::new();
    clock.set_off(365 * DAY);
    let mut daemon = Daemon::start_by(&clock, host, "");
    daemon.ok(&["ban", SOURCE, "--for", "1s"]);
    eventually("its time is over", || {
        daemon.banned().is_empty().then_some(())
    });
    daemon.ok(&["ban", "203.0.113.8", "--for", "1h"]);
    daemon.ok(&["unban", "203.0.113.8"]);
    clock.set_off(0);
    daemon.ok(&["status"]);
    daemon.stop();
    host.nft("flush ruleset");
    daemon.restart();
    daemon.assert_nobody_is_banned();
    let log = daemon.log();
    assert!(!log.contains("behind history's last entry"), "{log}");
}

#[test]
fn a_command_in_1970_goes_by_history_too_and_what_it_records_brings_nothing_back() {
    let host = &Host::new("host");
    let clock = Clock::new();
    let mut daemon = Daemon::start_by(&clock, host, "");
    daemon.ok(&["ban", "203.0.113.8", "--for", "1s"]);
    eventually("its time is over", || {
        daemon.banned().is_empty().then_some(())
    });
    daemon.ok(&["ban", SOURCE, "--for", "1h"]);
    daemon.stop();
    host.nft("flush ruleset");
    clock.set_to_1970();
    assert_eq!(daemon.banned(), [SOURCE]);
    let rows = daemon.json("history");
    for row in rows.as_array().expect("rows are a list") {
        assert_eq!(row["running"], row["source"] == SOURCE, "{row}");
    }
    daemon.ok(&["ban", "203.0.113.9"]);
    daemon.restart();
    assert_eq!(daemon.banned(), [SOURCE, "203.0.113.9"]);
    assert_left(&daemon, host, 3500, 3600);
}

#[test]
fn a_boot_in_1970_goes_by_history_until_the_clock_is_right() {
    let host = &Host::new("host");
    let clock = Clock::new();
    let mut daemon = Daemon::start_by(&clock, host, "");
    daemon.ok(&["ban", SOURCE, "--for", "1h"]);
    let start = |daemon: &Daemon<'_>, n: usize| {
        let list = daemon.json("history");
        list[n]["start"].as_i64().expect("it has one")
    };
    let first = start(&daemon, 0);
    daemon.stop();
    host.nft("flush ruleset");
    clock.set_to_1970();
    daemon.restart();
    let log = daemon.log();
    assert!(log.contains("behind history's last entry"), "{log}");
    assert_left(&daemon, host, 3500, 3600);
    // What is banned meanwhile is newer than what was.
    daemon.ok(&["ban", "203.0.113.8", "--for", "3h"]);
    assert!(start(&daemon, 0) >= first);
    daemon.ok(&["unban", "203.0.113.8"]);

    // Then the time server is reached: a day went by while the machine was off, which nobody could know.
    clock.set_off(DAY);
    daemon.ok(&["status"]);
    let log = daemon.log();
    assert!(log.contains("the clock has gone on by "), "{log}");
    assert_left(&daemon, host, 3400, 3600);
    reboot(&mut daemon, host);
    assert_left(&daemon, host, 3300, 3600);
}
