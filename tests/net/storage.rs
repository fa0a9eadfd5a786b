//! Disks that are full, and histories that somebody locks, deletes or spoils while the daemon runs: bans are made all the same,
//! `status` says what is wrong, and all that there was room for is in history when it is over, without a restart.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::process::Command;

use crate::lab::{Daemon, Host, Pair, at, eventually};

/// The stranger scans, and is banned in the kernel whatever becomes of history.
fn is_banned(daemon: &Daemon<'_>, stranger: &Host) {
    stranger.knock(at(Pair::HOST), 21..=23);
    daemon.element("banned4", Pair::STRANGER);
}

/// Waits until `status` tells of a trouble that contains this; the line.
fn trouble(daemon: &Daemon<'_>, words: &str) -> String {
    eventually(&format!("status says \"{words}\""), || {
        let status = daemon.command(&["status"]);
        assert!(status.out.contains(", pid "), "{status:?}");
        let mut lines = status.out.lines().map(str::trim);
        let line = lines.find(|line| line.starts_with("trouble ") && line.contains(words))?;
        assert!(status.out.contains(" is degraded, "), "{status:?}");
        Some(line.to_owned())
    })
}

fn no_more_trouble(daemon: &Daemon<'_>) {
    eventually("all is well again", || {
        let status = daemon.command(&["status"]);
        assert_eq!(status.status, 0, "{status:?}");
        status.out.contains(" is enforcing, ").then_some(())
    });
}

/// A power failure takes the kernel's bans away; what comes back is what history has.
fn comes_back_from_history(daemon: &mut Daemon<'_>, host: &Host) {
    eventually("history has it", || {
        let said = daemon.command(&["history"]);
        said.out.contains(Pair::STRANGER).then_some(())
    });
    daemon.kill9();
    host.nft("flush ruleset");
    daemon.restart();
    assert_eq!(daemon.banned(), [Pair::STRANGER]);
    daemon.element("banned4", Pair::STRANGER);
}

#[test]
fn a_full_disk_stops_no_ban_and_loses_neither_history_nor_lines() {
    let Pair { host, stranger } = &Pair::new();
    let mut daemon = Daemon::start_on_disk("512k", host, "");
    let config = format!(
        "history.blocked = {:?}\n",
        daemon.path("blocked").display().to_string()
    );
    daemon.configure(&config);
    daemon.stop();
    daemon.restart();
    daemon.disk().fill();
    is_banned(&daemon, stranger);
    trouble(
        &daemon,
        "history.db: database or disk is full (free some space",
    );
    trouble(&daemon, "history.log: No space left on device");
    trouble(&daemon, "blocked.atcp: No space left on device");
    // The log has no room either, which ends nobody.
    let said = daemon.command(&["ban", "203.0.113.7"]);
    assert!(
        said.err.contains("done in the kernel, but history has not"),
        "{said:?}"
    );
    daemon.element("banned4", "203.0.113.7");
    daemon.ok(&["list"]);

    daemon.disk().make_room();
    no_more_trouble(&daemon);
    for name in ["history.log", "blocked.atcp"] {
        let lines = fs::read_to_string(daemon.path(name)).expect("it is there");
        assert_eq!(lines.lines().count(), 1, "{name}: {lines}");
        assert!(lines.ends_with("Port: 23 TCP Blocked\n"), "{name}: {lines}");
    }
    let said = daemon.ok(&["unban", "203.0.113.7"]);
    assert!(said.contains("203.0.113.7 unbanned"), "{said}");
    comes_back_from_history(&mut daemon, host);
    assert!(daemon.log().contains("ready: 1 ban in force from history"));
}

#[test]
fn a_history_that_somebody_locks_is_waited_for() {
    let Pair { host, stranger } = &Pair::new();
    let mut daemon = Daemon::start(host, "");
    let other = rusqlite::Connection::open(daemon.history()).expect("anybody may read it");
    other.execute_batch("BEGIN IMMEDIATE").expect("it is free");
    is_banned(&daemon, stranger);
    trouble(&daemon, "another program keeps it locked");
    // Who follows the lines of text does not wait for it.
    eventually("the line of text is there", || {
        let lines = fs::read_to_string(daemon.path("history.log")).ok()?;
        lines.ends_with("Port: 23 TCP Blocked\n").then_some(())
    });
    let said = daemon.command(&["ban", "203.0.113.7"]);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.err.contains("done in the kernel, but history has not"));
    daemon.element("banned4", "203.0.113.7");
    other.execute_batch("ROLLBACK").expect("it was begun");
    drop(other);
    no_more_trouble(&daemon);
    eventually("the log says so", || {
        let log = daemon.log();
        log.contains("history: all is written again").then_some(())
    });
    daemon.ok(&["unban", "203.0.113.7"]);
    comes_back_from_history(&mut daemon, host);
}

#[test]
fn a_history_that_another_program_has_looked_at_takes_what_happens_after_that() {
    let Pair { host, stranger } = &Pair::new();
    let mut daemon = Daemon::start(host, "");
    daemon.ok(&["ban", "203.0.113.7"]);
    // As `sqlite3 history.db` does, or a backup. Who takes itself for the last to close the file deletes what stands beside it.
    let other = rusqlite::Connection::open(daemon.history()).expect("anybody may read it");
    let rows = other.query_row("SELECT count(*) FROM ban", [], |row| row.get::<_, i64>(0));
    assert!(rows.is_ok(), "{rows:?}");
    drop(other);
    assert!(daemon.path("history.db-wal").exists());
    daemon.ok(&["unban", "203.0.113.7"]);
    is_banned(&daemon, stranger);
    comes_back_from_history(&mut daemon, host);
    // A reload may open the file once more, beside what has it open.
    daemon.configure("ban.responders = [\"nftables\", \"route\"]\n");
    daemon.ok(&["reload"]);
    daemon.configure("");
    daemon.ok(&["reload"]);
    drop(
        rusqlite::Connection::open(daemon.history()).map(|other| {
            other.query_row("SELECT count(*) FROM ban", [], |row| row.get::<_, i64>(0))
        }),
    );
    assert!(daemon.path("history.db-wal").exists());
    comes_back_from_history(&mut daemon, host);
}

#[test]
fn a_history_that_somebody_deletes_is_begun_anew_with_all_that_runs() {
    let Pair { host, stranger } = &Pair::new();
    let mut daemon = Daemon::start(host, "");
    is_banned(&daemon, stranger);
    eventually("history has it", || {
        let said = daemon.command(&["history"]);
        said.out.contains(Pair::STRANGER).then_some(())
    });
    for name in ["history.db", "history.db-wal", "history.db-shm"] {
        fs::remove_file(daemon.path(name)).expect("it is there");
    }
    // To be asked how it is makes it look.
    daemon.ok(&["status"]);
    comes_back_from_history(&mut daemon, host);
    let log = daemon.log();
    assert!(log.contains("its file was moved away"), "{log}");
}

#[test]
fn a_history_whose_directory_is_gone_is_begun_anew() {
    let Pair { host, stranger } = &Pair::new();
    let mut daemon = Daemon::new(host, "");
    let dir = daemon.path("state");
    fs::create_dir(&dir).expect("the directory is ours");
    let places = ["history.db", "history.log"].map(|name| dir.join(name).display().to_string());
    let [file, text] = &places;
    daemon.configure(&format!(
        "history.file = {file:?}\nhistory.text = {text:?}\n"
    ));
    daemon.restart();
    fs::remove_dir_all(&dir).expect("it is there");
    is_banned(&daemon, stranger);
    no_more_trouble(&daemon);
    comes_back_from_history(&mut daemon, host);
    eventually("the line is there too", || fs::read_to_string(text).ok());
}

#[test]
fn a_history_that_somebody_overwrites_is_told_with_the_remedy_and_nothing_is_lost() {
    let Pair { host, stranger } = &Pair::new();
    let mut daemon = Daemon::start(host, "");
    let file = fs::File::options().write(true).open(daemon.history());
    let file = file.expect("it is there");
    file.write_all_at(&[0xa5; 8192], 0).expect("it has room");
    is_banned(&daemon, stranger);
    let told = trouble(&daemon, "it is not an SQLite file");
    let (_, remedy) = told
        .split_once("to start with an empty one: ")
        .unwrap_or_else(|| panic!("it says what to type: {told}"));
    let done = Command::new("sh").args(["-c", remedy]).status();
    assert!(done.expect("sh is there").success(), "{remedy}");
    no_more_trouble(&daemon);
    comes_back_from_history(&mut daemon, host);
}
