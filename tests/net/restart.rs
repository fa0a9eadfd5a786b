//! Stops, restarts and crashes: what stays, what comes back.

use std::time::Instant;

use crate::lab::{Daemon, Host, Pair, at, eventually};

/// Waits until less than its whole time is left of a ban.
fn time_passes(host: &Host, key: &str) -> u64 {
    eventually("three seconds pass", || {
        let element = host.element("banned4", key).expect("it is banned");
        element.expires.filter(|expires| *expires <= 597)
    })
}

#[test]
fn a_ban_comes_back_with_the_time_it_has_left() {
    let Pair { host, stranger } = &Pair::new();
    let _service = host.serve(at(Pair::HOST), 80);
    let mut daemon = Daemon::start(host, "");
    stranger.nmap("-sS", "21-23", Pair::HOST);
    daemon.element("banned4", Pair::STRANGER);
    let left = time_passes(host, Pair::STRANGER);
    assert!(daemon.stop().success());
    // As after a reboot: the kernel knows nothing.
    host.nft("delete table inet portsentry");
    assert!(stranger.reaches(at(Pair::HOST), 80));
    daemon.restart();
    let element = host
        .element("banned4", Pair::STRANGER)
        .expect("it is banned again before the daemon is ready");
    assert_eq!(element.timeout, Some(600), "the whole length stays");
    assert!(
        element.expires.unwrap() <= left,
        "the time left does not grow: {element:?}"
    );
    assert_eq!(
        element.comment.as_deref(),
        Some("syn scan, 3 tcp ports, last 23")
    );
    assert!(!stranger.reaches(at(Pair::HOST), 80));
    assert_eq!(daemon.banned(), [Pair::STRANGER]);
    assert!(daemon.json("list")[0]["left"].as_u64().unwrap() <= left);
}

#[test]
fn a_ban_that_stays_in_the_kernel_over_a_restart_keeps_its_clock() {
    let Pair { host, .. } = &Pair::new();
    let mut daemon = Daemon::start(host, "");
    daemon.ok(&["ban", Pair::STRANGER]);
    let left = time_passes(host, Pair::STRANGER);
    daemon.stop();
    assert!(
        host.element("banned4", Pair::STRANGER).is_some(),
        "on_stop is \"keep\" by default"
    );
    daemon.restart();
    let element = host.element("banned4", Pair::STRANGER).unwrap();
    assert_eq!(element.timeout, Some(600));
    assert!(element.expires.unwrap() <= left, "{element:?}");
    assert_eq!(host.elements("banned4").len(), 1);
    assert_eq!(daemon.banned(), [Pair::STRANGER]);
}

#[test]
fn a_ban_that_ran_out_meanwhile_does_not_come_back() {
    let Pair { host, .. } = &Pair::new();
    let mut daemon = Daemon::start(host, "");
    daemon.ok(&["ban", "203.0.113.7", "--for", "1s"]);
    daemon.ok(&["ban", "203.0.113.8", "--for", "1h"]);
    daemon.stop();
    eventually("the short one runs out", || {
        host.element("banned4", "203.0.113.7")
            .is_none()
            .then_some(())
    });
    daemon.restart();
    assert_eq!(daemon.banned(), ["203.0.113.8"]);
    assert_eq!(host.elements("banned4").len(), 1);
}

#[test]
fn a_permanent_ban_comes_back_as_one() {
    let host = &Host::new("host");
    let mut daemon = Daemon::start(host, "");
    daemon.ok(&["ban", "203.0.113.7", "--for", "ever"]);
    daemon.stop();
    host.nft("delete table inet portsentry");
    daemon.restart();
    assert_eq!(
        host.element("banned4", "203.0.113.7").unwrap().timeout,
        None
    );
    assert_eq!(daemon.json("list")[0]["permanent"], true);
}

#[test]
fn after_a_crash_bans_stand_and_are_known() {
    let Pair { host, stranger } = &Pair::new();
    let _service = host.serve(at(Pair::HOST), 80);
    let mut daemon = Daemon::start(host, "");
    stranger.nmap("-sS", "21-23", Pair::HOST);
    daemon.element("banned4", Pair::STRANGER);
    daemon.kill9();
    assert!(
        !stranger.reaches(at(Pair::HOST), 80),
        "the kernel needs no daemon"
    );
    daemon.restart();
    eventually("the ban is known, by history or by the kernel", || {
        (daemon.banned() == [Pair::STRANGER]).then_some(())
    });
    assert!(!stranger.reaches(at(Pair::HOST), 80));
    let reason = &daemon.json("list")[0]["reason"];
    assert_eq!(reason, "syn scan, 3 tcp ports, last 23");
}

#[test]
fn after_a_crash_and_a_reboot_what_history_knows_comes_back() {
    let host = &Host::new("host");
    let mut daemon = Daemon::start(host, "");
    // Answered when it is in history.
    daemon.ok(&["ban", "203.0.113.7", "--for", "1h"]);
    daemon.kill9();
    host.nft("delete table inet portsentry");
    daemon.restart();
    let element = host
        .element("banned4", "203.0.113.7")
        .expect("replayed before the daemon is ready");
    assert_eq!(element.timeout, Some(3600));
    assert_eq!(daemon.banned(), ["203.0.113.7"]);
}

#[test]
fn what_the_kernel_alone_holds_after_a_crash_is_adopted() {
    let host = &Host::new("host");
    let mut daemon = Daemon::start(host, "");
    daemon.ok(&["ban", "203.0.113.7", "--for", "1h"]);
    daemon.kill9();
    host.nft("add element inet portsentry banned4 { 203.0.113.9 timeout 20m comment \"syn scan, 3 tcp ports, last 23\" }");
    daemon.restart();
    eventually("both are known", || {
        (daemon.banned() == ["203.0.113.7", "203.0.113.9"]).then_some(())
    });
    let list = daemon.json("list");
    assert_eq!(
        list[0]["origin"], "adopted",
        "who is free first comes first: {list}"
    );
    assert_eq!(list[0]["length"], 1200);
    assert_eq!(list[0]["reason"], "syn scan, 3 tcp ports, last 23");
    // And from now on history knows it too.
    daemon.stop();
    host.nft("delete table inet portsentry");
    daemon.restart();
    let element = host.element("banned4", "203.0.113.9").unwrap();
    assert_eq!(element.timeout, Some(1200));
}

#[test]
fn what_an_admin_puts_into_the_set_before_the_start_is_adopted() {
    let host = &Host::new("host");
    let mut daemon = Daemon::start(host, "");
    daemon.stop();
    host.nft("add element inet portsentry banned4 { 203.0.113.9 timeout 20m, 203.0.113.10 comment \"for good\" }");
    host.nft("add element inet portsentry banned6_64 { 2001:db8:9:: timeout 1h }");
    daemon.restart();
    eventually("all are known", || {
        (daemon.banned().len() == 3).then_some(())
    });
    let list = daemon.ok(&["list"]);
    let line = |source: &str| {
        let line = list
            .lines()
            .find(|line| line.starts_with(&format!("{source} ")));
        line.unwrap_or_else(|| panic!("{source} is listed: {list}"))
            .to_owned()
    };
    assert!(line("203.0.113.9").contains(" of 20m"), "{list}");
    assert!(
        line("203.0.113.10").contains("permanent") && line("203.0.113.10").ends_with("for good"),
        "{list}"
    );
    assert!(line("2001:db8:9::/64").contains(" of 1h"), "{list}");
    // They can be lifted like all others.
    for source in ["203.0.113.9", "203.0.113.10", "2001:db8:9::1"] {
        daemon.ok(&["unban", source]);
    }
    daemon.assert_nobody_is_banned();
}

#[test]
fn friends_in_the_set_or_in_history_are_unbanned_at_the_start() {
    let host = &Host::new("host");
    let mut daemon = Daemon::start(host, "");
    daemon.ok(&["ban", "192.0.2.7"]);
    daemon.stop();
    host.nft("add element inet portsentry banned4 { 192.0.2.8, 203.0.113.9 }");
    daemon.configure("[ignore]\naddresses = [\"192.0.2.0/24\"]\n");
    daemon.restart();
    eventually("only the one who is no friend is left", || {
        (daemon.banned() == ["203.0.113.9"]).then_some(())
    });
    eventually("in the kernel too", || {
        (host.elements("banned4").len() == 1).then_some(())
    });
}

#[test]
fn a_stop_that_is_to_remove_takes_all_down_and_a_start_puts_it_back() {
    let host = &Host::new("host");
    let mut daemon = Daemon::start(host, "[ban]\non_stop = \"remove\"\n");
    daemon.ok(&["ban", "203.0.113.7", "--for", "1h"]);
    assert!(daemon.stop().success());
    assert_eq!(host.nft("list ruleset"), "", "no trace is left");
    daemon.restart();
    assert!(
        host.element("banned4", "203.0.113.7").is_some(),
        "its time is not over"
    );
}

#[test]
fn withdraw_takes_all_down_and_leaves_history() {
    let host = &Host::new("host");
    let mut daemon = Daemon::start(host, "");
    daemon.ok(&["ban", "203.0.113.7", "--for", "1h"]);
    let said = daemon.command(&["withdraw"]);
    assert_eq!(
        said.status, 1,
        "a daemon that runs would put it back: {said:?}"
    );
    daemon.stop();
    daemon.ok(&["withdraw", "--clockless"]);
    assert!(
        host.element("banned4", "203.0.113.7").is_some(),
        "it ends by itself, and stays"
    );
    daemon.ok(&["withdraw"]);
    assert_eq!(host.nft("list ruleset"), "");
    assert!(daemon.ok(&["history"]).contains("203.0.113.7"));
    daemon.ok(&["withdraw"]);
}

#[test]
fn a_clock_that_is_behind_history_is_not_believed() {
    let host = &Host::new("host");
    let mut daemon = Daemon::start(host, "");
    daemon.ok(&["ban", "203.0.113.7", "--for", "2h"]);
    daemon.stop();
    // As if the next boot came an hour earlier.
    let moved = rusqlite::Connection::open(daemon.history()).expect("nobody else has it");
    let hour = 3_600_000;
    moved
        .execute(
            "UPDATE ban SET started = started + ?1, ends = ends + ?1",
            [hour],
        )
        .expect("it is a row");
    drop(moved);
    daemon.restart();
    assert!(daemon.log().contains("behind history's last entry"));
    let list = daemon.json("list");
    let left = list[0]["left"].as_u64().expect("it has an end");
    assert!((7000..=7200).contains(&left), "{list}");
    daemon.ok(&["ban", "203.0.113.8", "--for", "3h"]);
    let list = daemon.json("list");
    let start = |n: usize| list[n]["start"].as_i64().expect("a time");
    assert!(start(1) >= start(0), "time goes on from there: {list}");
}

/// The stranger scans; how many seconds its ban lasts from its beginning.
fn scans(stranger: &Host, daemon: &Daemon<'_>) -> u64 {
    stranger.knock(at(Pair::HOST), 21..=23);
    let length = eventually("it is banned", || daemon.json("list")[0]["length"].as_u64());
    // As far as the next start can know.
    eventually("history has it", || {
        let rows = daemon.json("history");
        (rows[0]["running"] == true).then_some(())
    });
    length
}

#[test]
fn each_ban_lasts_longer_than_the_one_before_whatever_befalls_the_daemon() {
    let Pair { host, stranger } = &Pair::new();
    let rules = "ban.duration = \"2s\"\nban.escalate = 3\nban.max = \"7s\"\n";
    let mut daemon = Daemon::start(host, rules);
    let is_over = |daemon: &Daemon<'_>| {
        let rows = daemon.json("history");
        (rows[0]["running"] == false).then_some(())
    };
    assert_eq!(scans(stranger, &daemon), 2);
    eventually("the first ends", || is_over(&daemon));
    daemon.stop();
    daemon.restart();
    assert_eq!(scans(stranger, &daemon), 6);
    // The second ends while nobody looks.
    daemon.kill9();
    eventually("the second ends", || is_over(&daemon));
    daemon.restart();
    assert_eq!(scans(stranger, &daemon), 7, "the longest there is");
    // The third runs over a restart, and is none of those before it.
    daemon.stop();
    daemon.restart();
    eventually("the third ends", || is_over(&daemon));
    assert_eq!(scans(stranger, &daemon), 7);
    let told = daemon.ok(&["history", Pair::STRANGER]);
    let steps: Vec<&str> = told
        .lines()
        .filter_map(|row| row.split_once("banned for ")?.1.split_once(':'))
        .map(|(length, _)| length)
        .collect();
    assert_eq!(steps, ["7s", "7s", "6s", "2s"], "{told}");

    // One that was lifted does not count, nor do those that memory has lost.
    daemon.ok(&["unban", Pair::STRANGER]);
    let said = daemon.ok(&["explain", Pair::STRANGER]);
    assert!(said.contains("make the next one longer: 3\n"), "{said}");
    daemon.stop();
    daemon.configure(&format!("{rules}ban.memory = \"1s\"\n"));
    let since = Instant::now();
    eventually("memory is over", || {
        (since.elapsed().as_secs() >= 1).then_some(())
    });
    daemon.restart();
    assert_eq!(scans(stranger, &daemon), 2);
}
