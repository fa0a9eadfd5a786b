//! What other programs and admins do to our table: by hand it counts, wholesale it is put right.

use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::lab::{Daemon, Host, eventually};

const A: &str = "203.0.113.7";
const B: &str = "203.0.113.8";

/// A daemon with two bans in force, for an hour each.
fn with_two_bans(host: &Host) -> Daemon<'_> {
    let daemon = Daemon::start(host, "");
    daemon.ok(&["ban", A, "--for", "1h"]);
    daemon.ok(&["ban", B, "--for", "1h"]);
    daemon
}

fn both_stand(host: &Host) -> Option<()> {
    let stands = |key| {
        let element = host.element("banned4", key)?;
        // The remaining time, not a new hour.
        assert!(element.expires.is_some_and(|left| left <= 3600));
        Some(())
    };
    stands(A).and(stands(B))
}

fn drops(host: &Host) -> bool {
    let rules = host.try_nft("list table inet portsentry");
    String::from_utf8_lossy(&rules.stdout).contains("ip saddr @banned4 counter")
}

/// The last row of history for this source.
fn last_row(daemon: &Daemon<'_>, source: &str) -> Value {
    let history = daemon.json("history");
    let rows = history.as_array().expect("it is a list");
    let of = rows.iter().find(|row| row["source"] == source);
    of.cloned().unwrap_or(Value::Null)
}

#[test]
fn whatever_takes_bans_away_wholesale_is_put_right_at_once() {
    let host = &Host::new("host");
    let daemon = with_two_bans(host);
    for (n, damage) in (0_u64..).zip([
        "flush ruleset",
        "delete table inet portsentry",
        "flush set inet portsentry banned4",
        "flush table inet portsentry",
        "flush chain inet portsentry prerouting; delete set inet portsentry banned4",
        "delete element inet portsentry banned4 { 203.0.113.7, 203.0.113.8 }",
        "flush ruleset",
    ]) {
        host.nft(damage);
        eventually(&format!("all is back after {damage}"), || {
            (drops(host) && both_stand(host).is_some()).then_some(())
        });
        let repaired = || daemon.counter("repairs") > n;
        eventually(&format!("{damage} is counted"), || repaired().then_some(()));
        let status = daemon.json("status");
        assert_eq!(
            (&status["intended"], &status["enforced"]),
            (&json!(2), &json!(2))
        );
        assert_eq!(status["state"], "enforcing", "{status}");
    }
    let status = daemon.ok(&["status"]);
    assert!(
        status.contains("had taken bans away from nftables"),
        "{status}"
    );
    let log = daemon.log();
    assert!(log.contains("nftables: nft pid "), "{log}");
    assert!(log.contains("putting 2 back"), "{log}");
    assert_eq!(daemon.json("history").as_array().map(Vec::len), Some(2));
}

#[test]
fn an_element_that_is_deleted_by_hand_is_an_unban() {
    let host = &Host::new("host");
    let daemon = with_two_bans(host);
    host.nft("delete element inet portsentry banned4 { 203.0.113.7 }");
    eventually("it is unbanned", || (daemon.banned() == [B]).then_some(()));
    let row = last_row(&daemon, A);
    assert!(row.to_string().contains("nft pid "), "{row}");
    host.nft("delete element inet portsentry banned4 { 203.0.113.8 }");
    eventually("so is the last one", || {
        daemon.banned().is_empty().then_some(())
    });
    assert_eq!(daemon.json("status")["counters"]["repairs"], 0);
    assert!(daemon.log().contains("counts as an unban"));
}

#[test]
fn an_element_that_is_added_by_hand_is_a_ban() {
    let host = &Host::new("host");
    let mut daemon = Daemon::start(host, "");
    host.nft("add element inet portsentry banned4 { 203.0.113.7 timeout 1h comment \"I do not like it\" }");
    host.nft("add element inet portsentry banned4 { 203.0.113.8 }");
    eventually("both are bans", || {
        (daemon.banned().len() == 2).then_some(())
    });
    let row = last_row(&daemon, A);
    assert!(row.to_string().contains("I do not like it"), "{row}");
    assert_eq!(row["origin"], "adopted");
    let row = last_row(&daemon, B);
    assert!(row.to_string().contains("by nft pid "), "{row}");
    assert!(daemon.ok(&["list"]).contains("permanent"));
    host.nft("flush ruleset");
    eventually("they are put back as any", || both_stand_or_last(host));
    daemon.kill9();
    host.nft("flush ruleset");
    daemon.restart();
    eventually("also after a restart", || both_stand_or_last(host));
}

fn both_stand_or_last(host: &Host) -> Option<()> {
    (host.elements("banned4").len() == 2).then_some(())
}

#[test]
fn a_friend_that_somebody_bans_by_hand_is_let_in_again() {
    let host = &Host::new("host");
    let daemon = Daemon::new(host, "ignore.addresses = [\"203.0.113.0/24\"]");
    let mut daemon = daemon;
    daemon.restart();
    host.nft("add element inet portsentry banned4 { 203.0.113.7 }");
    eventually("it is let in again", || {
        host.elements("banned4").is_empty().then_some(())
    });
    assert!(daemon.banned().is_empty());
    eventually("it is told", || {
        daemon.log().contains("is never banned").then_some(())
    });
}

#[test]
fn who_takes_the_table_away_for_ever_is_told_of_and_not_fought_for_ever() {
    let host = &Host::new("host");
    let daemon = with_two_bans(host);
    for _ in 0..11 {
        eventually("the table is there", || {
            host.try_nft("delete table inet portsentry")
                .status
                .success()
                .then_some(())
        });
    }
    let status = eventually("status says so", || {
        let status = daemon.command(&["status"]);
        status.out.contains("again and again").then_some(status)
    });
    assert!(status.out.contains("nft pid "), "{status:?}");
}

#[test]
fn a_table_of_our_name_that_somebody_else_makes_is_told_of_and_left_alone() {
    let host = &Host::new("host");
    let daemon = with_two_bans(host);
    host.nft("flush ruleset; add table inet portsentry");
    let status = eventually("status tells", || {
        let status = daemon.command(&["status"]);
        (status.status == 1).then_some(status)
    });
    assert!(status.out.contains("somebody else made it"), "{status:?}");
    assert!(
        status.out.contains("0 in force of 2 intended"),
        "{status:?}"
    );
    assert!(!drops(host));
    host.nft("delete table inet portsentry");
    eventually("all is back", || both_stand(host));
    eventually("status agrees", || {
        (daemon.command(&["status"]).status == 0).then_some(())
    });
}

#[test]
fn a_table_that_is_saved_and_loaded_again_keeps_its_bans() {
    let host = &Host::new("host");
    let daemon = with_two_bans(host);
    let saved = host.nft("list table inet portsentry");
    let file = daemon.path("saved.nft");
    std::fs::write(&file, format!("flush ruleset\n{saved}")).expect("the directory is ours");
    let loaded = host.command("nft").arg("-f").arg(&file).status();
    assert!(loaded.is_ok_and(|status| status.success()));
    eventually("all is back", || {
        (drops(host) && both_stand(host).is_some()).then_some(())
    });
    assert_eq!(daemon.banned(), [A, B]);
}

/// What others do while the daemon is busy.
fn meanwhile(daemon: &Daemon<'_>, happens: impl FnOnce()) {
    kill(daemon.pid(), Signal::SIGSTOP).expect("it runs");
    happens();
    kill(daemon.pid(), Signal::SIGCONT).expect("it is there");
}

#[test]
fn a_ban_that_is_taken_out_and_put_in_again_is_in_force_when_it_is_listed() {
    let host = &Host::new("host");
    let daemon = with_two_bans(host);
    meanwhile(&daemon, || {
        host.nft("delete element inet portsentry banned4 { 203.0.113.7 }");
        host.nft("add element inet portsentry banned4 { 203.0.113.7 timeout 2h }");
        host.nft("delete element inet portsentry banned4 { 203.0.113.8 }");
    });
    eventually("all of it is heard of", || {
        let element = host.element("banned4", A)?;
        let is_other = element.timeout == Some(7200);
        (is_other && daemon.banned() == [A]).then_some(())
    });
    assert!(daemon.ok(&["list"]).contains("1h 59m"));
}

#[test]
fn a_table_that_was_saved_brings_no_ban_back_that_nobody_lists() {
    let host = &Host::new("host");
    let daemon = with_two_bans(host);
    let saved = host.nft("list table inet portsentry");
    daemon.ok(&["unban", A]);
    daemon.ok(&["ban", B, "--for", "10m"]);
    let file = daemon.path("saved.nft");
    std::fs::write(&file, format!("flush ruleset\n{saved}")).expect("the directory is ours");
    let loaded = host.command("nft").arg("-f").arg(&file).status();
    assert!(loaded.is_ok_and(|status| status.success()));
    eventually("what the kernel drops is listed", || {
        let in_kernel = host.elements("banned4").len();
        (in_kernel == 2 && daemon.banned() == [A, B]).then_some(())
    });
    eventually("a ban that we know lasts as long as we know", || {
        let element = host.element("banned4", B)?;
        (element.expires? <= 600).then_some(())
    });
    let row = last_row(&daemon, A);
    assert!(row.to_string().contains("adopted"), "{row}");
}

#[test]
fn loading_our_table_over_itself_takes_no_bans_away() {
    let host = &Host::new("host");
    let daemon = with_two_bans(host);
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/nft/portsentry.nft");
    let loaded = host.command("nft").arg("-f").arg(file).status();
    assert!(loaded.is_ok_and(|status| status.success()));
    eventually("it is heard of", || {
        daemon.log().contains("does no harm").then_some(())
    });
    assert_eq!(daemon.counter("repairs"), 0);
    assert!(both_stand(host).is_some());
}

#[test]
fn a_table_that_is_put_to_sleep_is_woken() {
    let host = &Host::new("host");
    let daemon = with_two_bans(host);
    host.nft("add table inet portsentry { flags dormant; }");
    eventually("it is awake", || {
        let listed = host.nft("list table inet portsentry");
        (!listed.contains("dormant")).then_some(())
    });
    assert!(both_stand(host).is_some());
    assert_eq!(daemon.banned(), [A, B]);
}

/// What is done while ten thousand bans are on their way back counts: an element that is added is a ban, a flush is repaired.
#[test]
fn what_others_do_in_the_middle_of_a_repair_counts() {
    let host = &Host::new("host");
    let daemon = Daemon::start(host, "");
    let address = |n| format!("11.0.{}.{}", n >> 8, n & 255);
    let all: Vec<String> = (0..10_000).map(address).collect();
    std::fs::write(daemon.path("list"), all.join("\n")).expect("the directory is ours");
    daemon.ok(&["import", &daemon.path("list").display().to_string()]);
    let mut expected = all.len();
    for n in 1..=4 {
        host.nft("flush ruleset");
        let element = format!("198.51.100.{n}");
        let words = format!("add element inet portsentry banned4 {{ {element} timeout 1h }}");
        // The table is the first thing that is there again.
        eventually("the element is added", || {
            host.try_nft(&words).status.success().then_some(())
        });
        expected += 1;
        if n == 4 {
            host.nft("flush ruleset");
            host.nft("flush ruleset");
            // Nobody can tell whether it was heard of before it was gone.
            expected -= usize::from(!daemon.ok(&["list"]).contains(&element));
        }
        eventually(&format!("all are in force, {element} too"), || {
            let status = daemon.json("status");
            let counts = [&status["intended"], &status["enforced"]];
            let is_whole = host.elements("banned4").len() == expected;
            (is_whole && counts == [&json!(expected); 2]).then_some(())
        });
        let listed = daemon.ok(&["list"]);
        assert!(n == 4 || listed.contains(&element), "{element} is a ban");
        assert_eq!(daemon.json("status")["state"], "enforcing");
    }
}

#[test]
fn while_many_bans_are_put_back_others_have_their_turn() {
    let host = &Host::new("host");
    let daemon = Daemon::start(host, "");
    let address = |n| format!("11.{}.{}.{}", n >> 16, n >> 8 & 255, n & 255);
    let all: Vec<String> = (0..100_000).map(address).collect();
    std::fs::write(daemon.path("list"), all.join("\n")).expect("the directory is ours");
    daemon.ok(&["import", &daemon.path("list").display().to_string()]);
    host.nft("flush ruleset");
    // What is asked for is answered while some are in force and others are not yet.
    eventually("it is at it", || {
        let status = daemon.json("status");
        let enforced = status["enforced"].as_u64().expect("a number");
        if enforced == 0 || enforced >= 100_000 {
            return None;
        }
        assert_eq!(status["state"], "degraded");
        Some(())
    });
    daemon.ok(&["ban", A, "--for", "1h"]);
    assert!(host.element("banned4", A).is_some(), "it is in force");
    daemon.ok(&["unban", "11.0.0.1"]);
    assert!(host.element("banned4", "11.0.0.1").is_none());
    eventually("all are in force", || {
        let status = daemon.json("status");
        let counts = [&status["intended"], &status["enforced"]];
        (counts == [&json!(100_000); 2]).then_some(())
    });
    assert_eq!(host.elements("banned4").len(), 100_000);
    assert!(host.element("banned4", "11.0.0.1").is_none());
    assert_eq!(daemon.json("status")["state"], "enforcing");
    assert_eq!(daemon.counter("repairs"), 1);
}
