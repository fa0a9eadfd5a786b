//! Lines in hosts.deny: there while a ban runs, gone when it ends, and nobody else's touched.

use std::fs;
use std::process::Command;

use crate::lab::{Daemon, Host, Pair, eventually};

const THEIRS: &str = "sshd: .example.net\nALL: 203.0.113.9";

/// A daemon that bans in the kernel and in a hosts.deny of its own, which holds lines of others.
fn with_file<'a>(host: &'a Host, rest: &str) -> Daemon<'a> {
    let daemon = Daemon::new(host, "");
    let file = daemon.path("hosts.deny");
    fs::write(&file, THEIRS).expect("the directory is ours");
    daemon.configure(&format!(
        "ban.responders = [\"nftables\", \"hosts-deny\"]\nhosts-deny.file = {file:?}\n\
         hosts-deny.line = \"ALL: {{source}} : DENY\"\n{rest}\n"
    ));
    daemon
}

fn text(daemon: &Daemon<'_>) -> String {
    fs::read_to_string(daemon.path("hosts.deny")).expect("it is there")
}

/// What a service behind tcp_wrappers says to this client by the daemon's file.
fn access(daemon: &Daemon<'_>, client: &str) -> String {
    let file = daemon.path("hosts.deny");
    let asked = Command::new("tcpdmatch")
        .args(["-d", "sshd", client])
        .current_dir(file.parent().expect("it is in a directory"))
        .output()
        .expect("tcpdmatch is there (packaging/setup)");
    let said = String::from_utf8_lossy(&asked.stdout).into_owned();
    let access = said.lines().find_map(|line| line.strip_prefix("access:"));
    access.expect("it decides").trim().to_owned()
}

#[test]
fn a_scanner_is_in_hosts_deny_until_its_ban_ends() {
    let Pair { host, stranger } = &Pair::new();
    let mut daemon = with_file(host, "ban.duration = \"5s\"");
    daemon.restart();
    stranger.nmap("-sS", "21-23", Pair::HOST);
    let line = format!("\nALL: {} : DENY\n", Pair::STRANGER);
    eventually("the line is there", || {
        text(&daemon).contains(&line).then_some(())
    });
    assert!(text(&daemon).starts_with(THEIRS));
    assert!(text(&daemon).contains(": syn scan, 3 tcp ports, last 23\n"));
    assert_eq!(access(&daemon, Pair::STRANGER), "denied");
    assert_eq!(access(&daemon, Pair::OTHER), "granted");
    eventually("the ban ends there too", || {
        (text(&daemon) == THEIRS).then_some(())
    });
    assert_eq!(daemon.banned(), Vec::<String>::new());
}

#[test]
fn an_unban_takes_the_line_out_with_and_without_a_daemon() {
    let host = &Host::new("host");
    let mut daemon = with_file(host, "");
    daemon.restart();
    daemon.ok(&["ban", "2001:db8::/64", "--for", "1h"]);
    daemon.ok(&["ban", "203.0.113.7", "--for", "1h"]);
    assert!(text(&daemon).contains("\nALL: [2001:db8::]/64 : DENY\n"));
    assert_eq!(access(&daemon, "2001:db8::7"), "denied");
    assert_eq!(access(&daemon, "2001:db8:0:1::7"), "granted");
    daemon.ok(&["unban", "203.0.113.7"]);
    assert!(!text(&daemon).contains("203.0.113.7"));
    daemon.kill9();
    daemon.ok(&["unban", "2001:db8::7"]);
    assert_eq!(text(&daemon), THEIRS);
    daemon.ok(&["ban", "203.0.113.9", "--for", "1h"]);
    daemon.ok(&["unban", "--all"]);
    assert_eq!(
        text(&daemon),
        THEIRS,
        "the line of others for the same address stays"
    );
}

#[test]
fn a_clean_stop_leaves_no_line_that_nobody_would_end() {
    let host = &Host::new("host");
    let mut daemon = with_file(host, "");
    daemon.restart();
    daemon.ok(&["ban", "203.0.113.7", "--for", "1h"]);
    daemon.stop();
    assert_eq!(text(&daemon), THEIRS);
    assert!(
        host.element("banned4", "203.0.113.7").is_some(),
        "on_stop is \"keep\""
    );
    daemon.restart();
    assert!(text(&daemon).contains("\nALL: 203.0.113.7 : DENY\n"));
    daemon.kill9();
    assert!(text(&daemon).contains("\nALL: 203.0.113.7 : DENY\n"));
    daemon.ok(&["withdraw", "--clockless"]);
    assert_eq!(text(&daemon), THEIRS);
    assert!(host.element("banned4", "203.0.113.7").is_some());
}

#[test]
fn a_ban_whose_time_was_over_before_the_start_leaves_the_file() {
    let host = &Host::new("host");
    let mut daemon = with_file(host, "");
    daemon.restart();
    daemon.ok(&["ban", "203.0.113.7", "--for", "1s"]);
    daemon.kill9();
    eventually("its time is over", || {
        host.element("banned4", "203.0.113.7")
            .is_none()
            .then_some(())
    });
    daemon.restart();
    eventually("its line is gone", || {
        (text(&daemon) == THEIRS).then_some(())
    });
    assert_eq!(daemon.banned(), Vec::<String>::new());
    let history = daemon.json("history");
    assert_eq!(history.as_array().map(Vec::len), Some(1), "{history}");
}

#[test]
fn a_file_that_cannot_be_edited_does_not_keep_the_kernel_from_banning() {
    let Pair { host, stranger } = &Pair::new();
    let mut daemon = with_file(host, "");
    daemon.restart();
    let file = daemon.path("hosts.deny");
    fs::remove_file(&file).expect("it is ours");
    fs::create_dir(&file).expect("the directory is ours");
    stranger.nmap("-sS", "21-23", Pair::HOST);
    daemon.element("banned4", Pair::STRANGER);
    let status = eventually("status tells of it", || {
        let status = daemon.command(&["status"]).out;
        status.contains("is not a regular file").then_some(status)
    });
    assert!(status.contains("1 in force of 1 intended"), "{status}");
    assert!(status.contains("hosts-deny: 0 in force"), "{status}");
    let standing = || daemon.json("list")[0]["responders"].clone();
    assert_eq!(standing(), serde_json::json!(["nftables"]));
    fs::remove_dir(&file).expect("it is empty");
    eventually("what failed is made good", || {
        text_or_nothing(&daemon)
            .contains(Pair::STRANGER)
            .then_some(())
    });
    eventually("list knows", || {
        let both = serde_json::json!(["nftables", "hosts-deny"]);
        (daemon.json("list")[0]["responders"] == both).then_some(())
    });
    daemon.stop();
    fs::remove_file(&file).expect("it is ours");
    fs::create_dir(&file).expect("the directory is ours");
    let said = daemon.run_to_its_end();
    assert!(said.err.contains("is not a regular file"), "{said:?}");
}

#[test]
fn what_is_optional_may_be_missing_and_is_put_to_work_when_it_is_there() {
    let Pair { host, stranger } = &Pair::new();
    let mut daemon = with_file(host, "hosts-deny.optional = true");
    let file = daemon.path("hosts.deny");
    fs::remove_file(&file).expect("it is ours");
    fs::create_dir(&file).expect("the directory is ours");
    daemon.restart();
    stranger.nmap("-sS", "21-23", Pair::HOST);
    daemon.element("banned4", Pair::STRANGER);
    let status = daemon.command(&["status"]);
    assert!(status.out.contains("is not a regular file"), "{status:?}");
    assert_eq!(status.status, 0, "{status:?}");
    fs::remove_dir(&file).expect("it is empty");
    eventually(
        "status has found that it works, and it has caught up",
        || {
            daemon.command(&["status"]);
            text_or_nothing(&daemon)
                .contains(Pair::STRANGER)
                .then_some(())
        },
    );
}

fn text_or_nothing(daemon: &Daemon<'_>) -> String {
    fs::read_to_string(daemon.path("hosts.deny")).unwrap_or_default()
}
