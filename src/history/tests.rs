//! History through its public face, in directories of its own; the disk's moods in mount namespaces (needs root).

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use proptest::prelude::*;
use tempfile::TempDir;

use super::lock::{self, LockError};
use super::query::Cursor;
use super::*;
use crate::clock::{Mono, Now};
use crate::config::{self, Mode, WatchMode};
use crate::policy::{End, Summary, Uid, Unit};
use crate::probe::{Protocol, ScanType};

mod dying;
mod opening;
mod recording;
mod remembering;

const HOUR: Duration = Duration::from_secs(3600);

/// Noon of some day in 2026, a while after boot.
fn noon() -> Now {
    Now {
        mono: Mono(5_000_000),
        wall: Wall(1_795_348_800_000),
    }
}

fn temp() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.db");
    (dir, path)
}

fn source(text: &str) -> Source {
    text.parse().unwrap()
}

/// The `n`th of a million IPv4 addresses.
fn nth(n: u32) -> Source {
    Source::from(IpAddr::from((0x0b00_0000 + n).to_be_bytes()))
}

fn ban_from(source: Source, now: Now, length: Option<Duration>) -> Ban {
    let summary = Summary {
        scan_type: Some(ScanType::Syn),
        protocol: Some(Protocol::Tcp),
        count: 3,
        unit: Unit::Ports,
        last_port: 23,
    };
    let end = length.map(|length| now.later(length));
    Ban {
        source,
        reason: Reason::Scan(summary),
        origin: Origin::Scan,
        by: None,
        start: now.wall,
        end: end.map(|Now { mono, wall }| End { mono, wall }),
    }
}

/// What the text file says of a scan by `source`, at noon.
fn line(source: Source) -> Record {
    let line = TextLine {
        address: source.address(),
        name: None,
        port: 23,
        mode: WatchMode::new(Protocol::Tcp, Mode::Stealth),
    };
    Record::Line {
        line,
        at: noon().wall,
    }
}

/// 1.2's lines go to this file alone.
fn text_file(path: &Path) -> TextFiles {
    TextFiles::of(&config::History {
        text: Some(path.to_owned()),
        ..config::Config::default().history
    })
}

fn record(source: Source, now: Now, length: Option<Duration>) -> Record {
    Record::Ban(ban_from(source, now, length))
}

fn end(source: Source, at: Wall, how: Ending) -> Record {
    Record::End {
        source,
        at,
        how,
        by: "uid 0".into(),
    }
}

/// By their ends. Read as they stand in the file, they are the same.
fn all_active(history: &History, now: Now, slice: usize) -> Vec<Ban> {
    let bans = all_active_from(history, now, Cursor::default(), slice);
    let mut by_id = all_active_from(history, now, Cursor::ById(i64::MIN), slice);
    let mut sorted = bans.clone();
    sorted.sort_by_key(|ban| ban.source);
    by_id.sort_by_key(|ban| ban.source);
    assert_eq!(by_id, sorted);
    bans
}

fn all_active_from(history: &History, now: Now, begin: Cursor, slice: usize) -> Vec<Ban> {
    let mut bans = Vec::new();
    let mut from = Some(begin);
    while let Some(cursor) = from {
        let some = history.active(now, cursor, slice).unwrap();
        assert!(some.bans.len() <= slice);
        assert_eq!(some.unreadable, 0);
        bans.extend(some.bans);
        from = some.next;
    }
    bans
}

fn wait_for(what: &str, mut met: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !met() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits as the event loop does.
fn wait_written(recorder: &Recorder, seq: Seq) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while recorder.settle() < seq {
        assert!(Instant::now() < deadline, "{:?}", recorder.trouble());
        let mut fds = [PollFd::new(recorder.fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(1000_u16)).unwrap();
    }
}

/// Mounts a file system of `size` at `dir`, seen by this test's thread and what it starts alone; returns a way to run
/// `mount` on it again. Needs root.
fn small_disk(dir: &Path, size: &str) -> impl Fn(&str) {
    unshare(CloneFlags::CLONE_NEWNS)
        .expect("this test needs root, for a mount namespace of its own");
    let dir = dir.to_owned();
    let mount = move |arguments: &[&str]| {
        let done = Command::new("mount")
            .args(arguments)
            .arg(&dir)
            .status()
            .unwrap();
        assert!(done.success(), "mount {arguments:?}");
    };
    let status = Command::new("mount")
        .args(["--make-rprivate", "/"])
        .status()
        .unwrap();
    assert!(status.success());
    mount(&[
        "-t",
        "tmpfs",
        "-o",
        &format!("size={size},mode=700"),
        "tmpfs",
    ]);
    move |option| mount(&[option])
}
