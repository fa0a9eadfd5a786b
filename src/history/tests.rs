//! History through its public face, in directories of its own; the disk's moods in mount namespaces (needs root).

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
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
use crate::policy::{End, Summary, Unit};
use crate::probe::{Protocol, ScanType};

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
        start: now.wall,
        end: end.map(|Now { mono, wall }| End { mono, wall }),
    }
}

fn record(source: Source, now: Now, length: Option<Duration>) -> Record {
    let line = TextLine {
        address: source.address(),
        port: 23,
        protocol: Protocol::Tcp,
    };
    Record::Ban {
        ban: ban_from(source, now, length),
        line: Some(line),
    }
}

fn end(source: Source, at: Wall, how: Ending) -> Record {
    Record::End {
        source,
        at,
        how,
        by: "uid 0".into(),
    }
}

fn all_active(history: &History, now: Now, slice: usize) -> Vec<Ban> {
    let mut bans = Vec::new();
    let mut from = Some(Cursor::default());
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

mod opening {
    use super::*;

    /// Names, bytes and times of everything in `dir`.
    fn picture(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, i64, i64)> {
        let entry = |entry: std::io::Result<fs::DirEntry>| {
            let path = entry.unwrap().path();
            let metadata = fs::metadata(&path).unwrap();
            let bytes = fs::read(&path).unwrap_or_default();
            (path, (bytes, metadata.mtime(), metadata.mtime_nsec()))
        };
        fs::read_dir(dir).unwrap().map(entry).collect()
    }

    /// What opening `path` says, having seen that it changes nothing.
    fn refusal(path: &Path) -> String {
        let before = picture(path.parent().unwrap());
        let error = History::open(path).err().expect("it is refused");
        assert!(matches!(error, Error::Refused { .. }), "{error}");
        assert!(picture(path.parent().unwrap()) == before, "{error}");
        error.to_string()
    }

    fn filled(path: &Path, count: u32) {
        let mut history = History::open(path).unwrap();
        let records: Vec<_> = (0..count)
            .map(|n| record(nth(n), noon(), Some(HOUR)))
            .collect();
        history.append(&records).unwrap();
    }

    fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
        let mut file = fs::File::options().write(true).open(path).unwrap();
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(bytes).unwrap();
    }

    fn header_number(path: &Path, at: usize) -> u32 {
        let bytes = fs::read(path).unwrap();
        u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn a_new_history_is_for_its_owner_alone_and_says_whose_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/history.db");
        let mut history = History::open(&path).unwrap();
        history.append(&[record(nth(1), noon(), None)]).unwrap();
        for name in ["history.db", "history.db-wal", "history.db-shm"] {
            let mode = fs::metadata(path.with_file_name(name)).unwrap().mode();
            assert_eq!(mode & 0o7777, 0o600, "{name}");
        }
        let mode = fs::metadata(dir.path().join("a/b")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o700);
        drop(history);
        assert_eq!(header_number(&path, 68).to_be_bytes(), *b"PtSy");
        assert_eq!(header_number(&path, 60), 1);
        assert_eq!(picture(path.parent().unwrap()).len(), 1);
    }

    #[test]
    fn an_empty_file_becomes_a_history_with_the_mode_it_had() {
        let (_dir, path) = temp();
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        filled(&path, 1);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
        let history = History::open(&path).unwrap();
        assert_eq!(history.count_active(noon().wall).unwrap(), 1);
    }

    #[test]
    fn garbage_is_refused_untouched_with_the_command_that_moves_it_aside() {
        let (dir, path) = temp();
        fs::write(&path, "tired of this\n".repeat(1000)).unwrap();
        let at = path.display();
        assert_eq!(
            refusal(&path),
            format!(
                "cannot use {at} as history: it is not an SQLite file; to start with an empty one: mv -- '{at}' '{at}.damaged'"
            )
        );
        fs::write(dir.path().join("history.db.damaged"), "an older one").unwrap();
        fs::write(dir.path().join("history.db-wal"), "x").unwrap();
        let said = refusal(&path);
        let command = said
            .rsplit_once("to start with an empty one: ")
            .unwrap()
            .1
            .to_owned();
        assert!(
            command.ends_with(&format!(" && mv -- '{at}-wal' '{at}.damaged-2-wal'")),
            "{command}"
        );
        let done = Command::new("sh").args(["-ec", &command]).status().unwrap();
        assert!(done.success());
        filled(&path, 1);
    }

    #[test]
    fn the_command_holds_for_odd_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it's 100%?#&.db");
        filled(&path, 3);
        assert_eq!(
            History::open(&path)
                .unwrap()
                .count_active(noon().wall)
                .unwrap(),
            3
        );
        overwrite(&path, 4096 * 2, &[0xff; 64]);
        let said = refusal(&path);
        let command = said.rsplit_once("one: ").unwrap().1;
        let done = Command::new("sh").args(["-ec", command]).status().unwrap();
        assert!(done.success() && !path.exists(), "{command}");
    }

    #[test]
    fn every_truncation_is_refused() {
        let (_dir, path) = temp();
        filled(&path, 2000);
        let whole = fs::read(&path).unwrap();
        for length in [
            1,
            15,
            16,
            50,
            99,
            100,
            4095,
            4096,
            8192,
            whole.len() - 4096,
            whole.len() - 1,
        ] {
            fs::write(&path, &whole[..length]).unwrap();
            refusal(&path);
        }
    }

    #[test]
    fn a_broken_page_is_refused_wherever_it_is() {
        let (_dir, path) = temp();
        filled(&path, 2000);
        let whole = fs::read(&path).unwrap();
        let pages = whole.len() / 4096;
        assert!(pages > 40, "{pages}");
        for page in 1..pages {
            let mut broken = whole.clone();
            broken[page * 4096] ^= 0x10;
            broken[page * 4096 + 3] ^= 0x80;
            fs::write(&path, &broken).unwrap();
            assert!(refusal(&path).contains("it is damaged: "), "page {page}");
        }
    }

    #[test]
    fn another_programs_file_a_newer_one_and_one_without_the_table_are_refused() {
        let (_dir, path) = temp();
        let make = |sql: &str| {
            let _ = fs::remove_file(&path);
            Connection::open(&path).unwrap().execute_batch(sql).unwrap();
            refusal(&path)
        };
        let said = make("CREATE TABLE mail (id)");
        assert!(
            said.contains("it is an SQLite file of another program"),
            "{said}"
        );
        let said = make("PRAGMA application_id = 0x50745379; PRAGMA user_version = 2");
        assert!(
            said.contains("a newer portsentry wrote it (format 2, this one knows up to 1)"),
            "{said}"
        );
        let said = make(
            "PRAGMA application_id = 0x50745379; PRAGMA user_version = 1; CREATE TABLE mail (id)",
        );
        assert!(said.contains("no such table: ban"), "{said}");
    }

    #[test]
    fn a_directory_or_a_pipe_in_its_place_is_refused() {
        let (_dir, path) = temp();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = History::open(&path).err().unwrap().to_string();
        assert!(error.contains("it is not a file"), "{error}");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let error = History::open(&path).err().unwrap().to_string();
        assert!(error.contains("it is not a file"), "{error}");
    }

    #[test]
    fn a_directory_that_everybody_may_write_is_refused() {
        let (dir, path) = temp();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        let said = format!(
            "refusing to keep history in {}: everybody may write there (set [history] file to a place in a directory of its own)",
            dir.path().display()
        );
        assert_eq!(History::open(&path).err().unwrap().to_string(), said);
        assert_eq!(StateLock::acquire(&path).unwrap_err().to_string(), said);
        let (_other, link) = temp();
        fs::write(&path, "").unwrap();
        symlink(&path, &link).unwrap();
        assert_eq!(History::open(&link).err().unwrap().to_string(), said);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_is_followed_and_its_target_judged() {
        let (dir, path) = temp();
        filled(&path, 2);
        let link = dir.path().join("link.db");
        symlink(&path, &link).unwrap();
        assert_eq!(
            History::open(&link).unwrap().path(),
            path.canonicalize().unwrap()
        );
        overwrite(&path, 0, b"X");
        assert!(refusal(&link).contains("history.db'"));
    }

    #[test]
    fn a_read_only_file_system_is_named_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let mount = small_disk(dir.path(), "1m");
        let path = dir.path().join("history.db");
        filled(&path, 1);
        mount("-oremount,ro");
        let said = History::open(&path).err().unwrap().to_string();
        assert!(
            said.starts_with("cannot write to ") && said.contains("writable"),
            "{said}"
        );
        let said = History::open(&dir.path().join("new.db"))
            .err()
            .unwrap()
            .to_string();
        assert!(
            said.starts_with("cannot create ") && said.contains("Read-only file system"),
            "{said}"
        );
        let said = History::open(&dir.path().join("x/new.db"))
            .err()
            .unwrap()
            .to_string();
        assert!(said.starts_with("cannot create directory "), "{said}");
        assert!(StateLock::acquire(&path).is_err());
    }

    #[test]
    fn damage_found_behind_a_log_leaves_the_log_for_a_rescue() {
        let (dir, path) = temp();
        filled(&path, 2000);
        // Copying file and log while they are open gives what a crash leaves.
        let crashed = dir.path().join("crashed");
        fs::create_dir(&crashed).unwrap();
        let mut history = History::open(&path).unwrap();
        history.append(&[record(nth(9999), noon(), None)]).unwrap();
        for name in ["history.db", "history.db-wal"] {
            fs::copy(dir.path().join(name), crashed.join(name)).unwrap();
        }
        let copy = crashed.join("history.db");
        assert_eq!(
            History::open(&copy)
                .unwrap()
                .count_active(noon().wall)
                .unwrap(),
            2001
        );
        for name in ["history.db", "history.db-wal"] {
            fs::copy(dir.path().join(name), crashed.join(name)).unwrap();
        }
        for page in 4..20 {
            overwrite(&copy, page * 4096, &[0xff; 8]);
        }
        let files =
            || ["history.db", "history.db-wal"].map(|name| fs::read(crashed.join(name)).unwrap());
        let before = files();
        let said = History::open(&copy).err().unwrap().to_string();
        assert!(
            said.contains("it is damaged: ") && said.contains("-wal' "),
            "{said}"
        );
        assert!(files() == before);
    }

    #[test]
    fn reading_needs_a_history_and_changes_nothing() {
        let (dir, path) = temp();
        assert!(History::open_read_only(&path).unwrap().is_none());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        fs::write(&path, "nonsense").unwrap();
        assert!(History::open_read_only(&path).is_err());
        fs::remove_file(&path).unwrap();

        let mut writing = History::open(&path).unwrap();
        writing.append(&[record(nth(1), noon(), None)]).unwrap();
        let mut reading = History::open_read_only(&path).unwrap().unwrap();
        assert_eq!(reading.count_active(noon().wall).unwrap(), 1);
        writing.append(&[record(nth(2), noon(), None)]).unwrap();
        assert_eq!(reading.count_active(noon().wall).unwrap(), 2);
        assert!(reading.append(&[record(nth(3), noon(), None)]).is_err());
        drop(writing);
        drop(reading);
        let reading = History::open_read_only(&path).unwrap().unwrap();
        assert_eq!(reading.of(None, 10).unwrap().len(), 2);
        drop(reading);
        // What a reader may leave beside the file does not worry the next writer.
        assert_eq!(History::open(&path).unwrap().of(None, 10).unwrap().len(), 2);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

mod remembering {
    use super::*;

    #[test]
    fn a_ban_runs_until_its_end_and_comes_back_with_the_time_left() {
        let (_dir, path) = temp();
        let mut history = History::open(&path).unwrap();
        history
            .append(&[record(nth(1), noon(), Some(HOUR))])
            .unwrap();
        // After a reboot the monotonic clock began anew.
        let later = Now {
            mono: Mono(7),
            wall: noon().wall.later(HOUR / 4),
        };
        let ban = all_active(&history, later, 10).pop().unwrap();
        assert_eq!(ban.left(later), Some(HOUR * 3 / 4));
        assert_eq!(ban.length(), Some(HOUR));
        assert_eq!(ban.reason.to_string(), "syn scan, 3 tcp ports, last 23");
        let over = later.later(HOUR * 3 / 4);
        assert!(all_active(&history, over, 10).is_empty());
        assert_eq!(history.count_active(over.wall).unwrap(), 0);
        let row = history.of(None, 1).unwrap().pop().unwrap();
        assert!(row.ended.is_none() && !row.runs(over.wall) && row.runs(later.wall));
    }

    #[test]
    fn a_clock_set_back_makes_no_ban_longer() {
        let (_dir, path) = temp();
        let mut history = History::open(&path).unwrap();
        history
            .append(&[record(nth(1), noon(), Some(HOUR))])
            .unwrap();
        let year_2000 = Now {
            mono: Mono(7),
            wall: Wall(946_684_800_000),
        };
        let ban = all_active(&history, year_2000, 10).pop().unwrap();
        assert_eq!(ban.left(year_2000), Some(HOUR));
    }

    #[test]
    fn a_newer_ban_replaces_the_running_one_and_not_one_that_ran_out() {
        let (_dir, path) = temp();
        let mut history = History::open(&path).unwrap();
        let at = |hours: u32| noon().later(HOUR * hours);
        history
            .append(&[
                record(nth(1), at(0), Some(HOUR)),
                record(nth(1), at(2), Some(HOUR * 9)),
                record(nth(1), at(3), None),
                record(nth(2), at(3), None),
            ])
            .unwrap();
        let rows = history.of(Some(nth(1).address()), 10).unwrap();
        assert_eq!(rows.len(), 3);
        let replaced = Ended {
            at: at(3).wall,
            how: Ending::Replaced,
            by: None,
        };
        assert_eq!(
            rows.iter().map(|row| row.ended.clone()).collect::<Vec<_>>(),
            [None, Some(replaced), None]
        );
        assert_eq!(all_active(&history, at(3), 10).len(), 2);
    }

    #[test]
    fn an_end_ends_its_source_alone_and_is_kept_with_its_author() {
        let (_dir, path) = temp();
        let mut history = History::open(&path).unwrap();
        let wide = source("2001:db8::/64");
        let narrow = source("2001:db8::5");
        let at = noon().wall.later(HOUR);
        history
            .append(&[
                record(wide, noon(), None),
                record(narrow, noon(), None),
                end(wide, at, Ending::Unban),
                end(nth(7), at, Ending::Unban),
            ])
            .unwrap();
        let row = &history
            .of(Some("2001:db8::6".parse().unwrap()), 10)
            .unwrap()[0];
        let ended = row.ended.clone().unwrap();
        assert_eq!(
            (ended.at, ended.how, ended.by.as_deref()),
            (at, Ending::Unban, Some("uid 0"))
        );
        let running = all_active(&history, noon(), 10);
        assert_eq!(
            running.iter().map(|ban| ban.source).collect::<Vec<_>>(),
            [narrow]
        );
    }

    #[test]
    fn an_end_is_kept_though_the_wall_clock_was_set_forward() {
        let (_dir, path) = temp();
        let mut history = History::open(&path).unwrap();
        let at = noon().wall.later(HOUR * 24);
        history
            .append(&[
                record(nth(1), noon(), Some(HOUR)),
                end(nth(1), at, Ending::Unban),
            ])
            .unwrap();
        assert!(history.of(None, 1).unwrap()[0].ended.is_some());
        assert!(history.past(at, None, 10).unwrap().is_empty());
    }

    #[test]
    fn slices_cover_all_once_also_where_all_end_together() {
        let (_dir, path) = temp();
        let mut history = History::open(&path).unwrap();
        let lengths = [
            None,
            Some(HOUR),
            Some(HOUR * 2),
            Some(HOUR),
            Some(Duration::ZERO),
        ];
        let records: Vec<_> = (0..100)
            .map(|n| record(nth(n), noon(), lengths[usize::try_from(n).unwrap() % 5]))
            .collect();
        history.append(&records).unwrap();
        for slice in [1, 2, 7, 20, 40, 80, 1000] {
            let mut sources: Vec<_> = all_active(&history, noon(), slice)
                .iter()
                .map(|ban| ban.source)
                .collect();
            assert_eq!(sources.len(), 80, "slices of {slice}");
            sources.sort();
            sources.dedup();
            assert_eq!(sources.len(), 80, "slices of {slice}");
        }
        assert_eq!(history.count_active(noon().wall).unwrap(), 80);
    }

    #[test]
    fn an_address_finds_every_source_that_covers_it() {
        let (_dir, path) = temp();
        let mut history = History::open(&path).unwrap();
        let sources = [
            "192.0.2.0/24",
            "192.0.2.7",
            "192.0.0.0/16",
            "192.0.2.8",
            "0.0.0.0/0",
            "2001:db8::/64",
            "2001:db8::7",
        ];
        let records: Vec<_> = sources
            .iter()
            .map(|text| record(source(text), noon(), Some(HOUR)))
            .collect();
        history.append(&records).unwrap();
        for (address, covering) in [
            (
                "192.0.2.7",
                &["192.0.2.0/24", "192.0.2.7", "192.0.0.0/16", "0.0.0.0/0"][..],
            ),
            ("::ffff:192.0.3.1", &["192.0.0.0/16", "0.0.0.0/0"]),
            ("2001:db8::7", &["2001:db8::/64", "2001:db8::7"]),
            ("2001:db8:1::7", &[]),
        ] {
            let address: IpAddr = address.parse().unwrap();
            let bans = history.running(noon(), address).unwrap();
            let found: Vec<_> = bans.iter().map(|ban| ban.source.to_string()).collect();
            assert_eq!(found, covering, "{address}");
            let mut rows = history.of(Some(address), 10).unwrap();
            rows.reverse();
            let found: Vec<_> = rows.iter().map(|row| row.source.to_string()).collect();
            assert_eq!(found, covering, "{address}");
            assert!(
                history
                    .running(noon().later(HOUR), address)
                    .unwrap()
                    .is_empty()
            );
        }
        assert_eq!(
            history.of(None, 3).unwrap()[0].source,
            source("2001:db8::7")
        );
        assert_eq!(history.of(None, 3).unwrap().len(), 3);
        let exact = |text| history.running_exact(noon(), source(text)).unwrap();
        assert!(exact("192.0.2.0/24").is_some() && exact("192.0.2.0/25").is_none());
    }

    #[test]
    fn the_past_counts_bans_within_memory_that_nobody_took_back() {
        let (_dir, path) = temp();
        let mut history = History::open(&path).unwrap();
        let at = |hours: u32| noon().later(HOUR * hours);
        let scan = Record::Scan {
            source: nth(5),
            reason: Reason::parse("syn scan, 3 tcp ports, last 23"),
            at: at(1).wall,
            line: None,
        };
        history
            .append(&[
                // Three times, the first too long ago for a memory of twelve hours.
                record(nth(1), at(0), Some(HOUR)),
                record(nth(1), at(10), Some(HOUR)),
                record(nth(1), at(19), Some(HOUR * 2)),
                // Lifted, ignored and replaced bans do not count, withdrawn ones do.
                record(nth(2), at(10), None),
                end(nth(2), at(11).wall, Ending::Unban),
                record(nth(3), at(10), None),
                end(nth(3), at(11).wall, Ending::Ignored),
                record(nth(4), at(10), None),
                end(nth(4), at(11).wall, Ending::Withdrawn),
                record(nth(4), at(12), Some(HOUR)),
                record(nth(4), at(12), None),
                scan,
                record(nth(6), at(0), Some(HOUR)),
            ])
            .unwrap();
        let past = |memory, limit| -> Vec<_> {
            let pasts = history.past(at(20).wall, memory, limit).unwrap();
            let plain = |past: query::Past| (past.source, past.bans, past.last_end);
            pasts.into_iter().map(plain).collect()
        };
        let memory = Some(HOUR * 12);
        assert_eq!(
            past(memory, 10),
            [(nth(4), 2, None), (nth(1), 2, Some(at(21).wall))]
        );
        assert_eq!(past(memory, 1), [(nth(4), 2, None)]);
        assert_eq!(
            past(None, 10)[1..],
            [
                (nth(1), 3, Some(at(21).wall)),
                (nth(6), 1, Some(at(1).wall))
            ]
        );
    }

    #[test]
    fn pruning_takes_what_is_over_and_leaves_what_runs() {
        let (_dir, path) = temp();
        let mut history = History::open(&path).unwrap();
        let mut records: Vec<_> = (0..25_000)
            .map(|n| record(nth(n), noon(), Some(HOUR)))
            .collect();
        records.push(record(nth(30_000), noon(), None));
        records.push(record(nth(30_001), noon(), Some(HOUR * 9)));
        records.push(record(nth(30_002), noon(), None));
        records.push(end(nth(30_002), noon().wall, Ending::Unban));
        records.push(Record::Scan {
            source: nth(30_003),
            reason: Reason::parse("tired"),
            at: noon().wall,
            line: None,
        });
        history.append(&records).unwrap();
        let mut steps = 0;
        let mut from = Some(0);
        while let Some(cursor) = from {
            from = history.prune(noon().wall.later(HOUR * 2), cursor).unwrap();
            steps += 1;
        }
        assert_eq!(steps, 3);
        let left: Vec<_> = history
            .of(None, 10)
            .unwrap()
            .iter()
            .map(|row| row.source)
            .collect();
        assert_eq!(left, [nth(30_001), nth(30_000)]);
        drop(history);
        let size = fs::metadata(&path).unwrap().len();
        assert!(size < 100_000, "{size} bytes for two rows");
    }

    #[test]
    fn rows_that_somebody_spoilt_are_left_out_and_counted() {
        let (_dir, path) = temp();
        let mut history = History::open(&path).unwrap();
        let records: Vec<_> = (0..4).map(|n| record(nth(n), noon(), None)).collect();
        history.append(&records).unwrap();
        history
            .connection
            .execute_batch(
                "UPDATE ban SET source = 'nobody' WHERE id = 1; UPDATE ban SET origin = 'elsewhere' WHERE id = 2;
                 UPDATE ban SET reason = x'ff' WHERE id = 3",
            )
            .unwrap();
        let slice = history.active(noon(), Cursor::default(), 10).unwrap();
        assert_eq!((slice.bans.len(), slice.unreadable), (1, 3));
        assert_eq!(history.of(None, 10).unwrap().len(), 1);
        assert_eq!(history.past(noon().wall, None, 10).unwrap().len(), 3);
    }

    #[test]
    fn the_questions_of_every_start_walk_along_an_index() {
        let (_dir, path) = temp();
        let history = History::open(&path).unwrap();
        for (which, plan) in [
            (
                "ends IS ?1 AND id > ?2",
                "USING INDEX ban_ends (ends=? AND rowid>?)",
            ),
            ("ends > ?1", "USING INDEX ban_ends (ends>?)"),
        ] {
            let sql = format!(
                "EXPLAIN QUERY PLAN SELECT id, source FROM ban INDEXED BY ban_ends
                 WHERE response = 'ban' AND ended IS NULL AND {which} ORDER BY ends, id LIMIT 5"
            );
            let mut statement = history.connection.prepare(&sql).unwrap();
            let nothing = vec![None::<i64>; statement.parameter_count()];
            let mut rows = statement
                .query(rusqlite::params_from_iter(nothing))
                .unwrap();
            let said: String = rows.next().unwrap().unwrap().get(3).unwrap();
            assert!(said.contains(plan), "{said}");
            assert!(rows.next().unwrap().is_none(), "a sorting step");
        }
    }

    #[test]
    fn a_hundred_thousand_bans_are_written_and_read() {
        let count: u32 = std::env::var("HISTORY_TEST_BANS").map_or(100_000, |n| n.parse().unwrap());
        // As scattered as scanners are.
        let nth = |n: u32| Source::from(IpAddr::from(n.wrapping_mul(2_654_435_761).to_be_bytes()));
        let (_dir, path) = temp();
        let mut history = History::open(&path).unwrap();
        let begin = Instant::now();
        for first in (0..count).step_by(4096) {
            let batch: Vec<_> = (first..count.min(first + 4096))
                .map(|n| record(nth(n), noon(), Some(HOUR)))
                .collect();
            history.append(&batch).unwrap();
        }
        let appended = begin.elapsed();
        let begin = Instant::now();
        let mut active = 0;
        let mut from = Some(Cursor::default());
        while let Some(cursor) = from {
            let slice = history.active(noon(), cursor, 10_000).unwrap();
            active += slice.bans.len();
            from = slice.next;
        }
        let replayed = begin.elapsed();
        assert_eq!(active, usize::try_from(count).unwrap());
        let begin = Instant::now();
        let pasts = history.past(noon().wall, None, 100_000).unwrap().len();
        let remembered = begin.elapsed();
        let begin = Instant::now();
        for n in 0..1000 {
            history.running(noon(), nth(n).address()).unwrap();
        }
        let looked_up = begin.elapsed() / 1000;
        let begin = Instant::now();
        history
            .append(&[end(nth(3), noon().wall, Ending::Unban)])
            .unwrap();
        let unbanned = begin.elapsed();
        drop(history);
        let begin = Instant::now();
        drop(History::open(&path).unwrap());
        let opened = begin.elapsed();
        println!(
            "{count} bans: append {appended:.0?}, active {replayed:.0?}, past of {pasts} {remembered:.0?}, \
             one address {looked_up:.0?}, one unban {unbanned:.0?}, open {opened:.0?}, {} MB",
            fs::metadata(&path).unwrap().len() >> 20
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_was_recorded_is_read_back(
            address in any::<IpAddr>(), bits in 0_u8..=128, text in "\\PC{0,120}", start in any::<i64>(),
            length in proptest::option::of(any::<u64>()), by in ".{0,30}",
        ) {
            let (_dir, path) = temp();
            let mut history = History::open(&path).unwrap();
            let now = Now { mono: Mono(1), wall: Wall(start) };
            let mut ban = ban_from(Source::prefix(address.to_canonical(), bits), now, length.map(Duration::from_millis));
            ban.reason = Reason::parse(&text);
            ban.origin = Origin::Command;
            history.append(&[Record::Ban { ban: ban.clone(), line: None }]).unwrap();
            let row = history.of(Some(address), 1).unwrap().pop().unwrap();
            prop_assert_eq!(row.source, ban.source);
            prop_assert_eq!(&row.reason, &ban.reason);
            prop_assert_eq!((row.origin, row.response, row.start), (ban.origin, Response::Ban, ban.start));
            prop_assert_eq!(row.end, ban.end.map(|end| end.wall));
            let by: Box<str> = by.into();
            history.append(&[Record::End { source: ban.source, at: now.wall, how: Ending::Withdrawn, by: by.clone() }]).unwrap();
            let ended = history.of(Some(address), 1).unwrap().pop().unwrap().ended.unwrap();
            prop_assert_eq!(ended, Ended { at: now.wall, how: Ending::Withdrawn, by: Some(by) });
        }
    }
}

mod recording {
    use super::*;

    #[test]
    fn records_reach_the_disk_in_order_and_the_text_file_has_a_line_for_each_scan() {
        let (dir, path) = temp();
        let text = dir.path().join("history.log");
        let recorder = Recorder::start(History::open(&path).unwrap(), Some(text.clone())).unwrap();
        assert_eq!(recorder.written(), Seq(0));
        for n in 1..=9 {
            let seq = recorder.push(record(nth(n), noon(), Some(HOUR))).unwrap();
            assert_eq!(seq, Seq(n.into()));
        }
        let by_hand = Record::Ban {
            ban: ban_from(nth(10), noon(), None),
            line: None,
        };
        recorder.push(by_hand).unwrap();
        let seq = recorder
            .push(end(nth(3), noon().wall, Ending::Unban))
            .unwrap();
        wait_written(&recorder, seq);
        let reading = History::open_read_only(&path).unwrap().unwrap();
        assert_eq!(reading.count_active(noon().wall).unwrap(), 9);
        let lines = fs::read_to_string(&text).unwrap();
        assert_eq!(lines.lines().count(), 9);
        assert!(
            lines
                .lines()
                .next()
                .unwrap()
                .ends_with(" Host: 11.0.0.1/11.0.0.1 Port: 23 TCP Blocked")
        );
        assert_eq!(fs::metadata(&text).unwrap().mode() & 0o7777, 0o600);
        assert!(recorder.trouble().is_none());
        recorder.stop(Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn a_stop_writes_what_is_queued() {
        let (_dir, path) = temp();
        let recorder = Recorder::start(History::open(&path).unwrap(), None).unwrap();
        for n in 0..20_000 {
            recorder.push(record(nth(n), noon(), None)).unwrap();
        }
        recorder.stop(Duration::from_secs(60)).unwrap();
        let history = History::open(&path).unwrap();
        assert_eq!(history.count_active(noon().wall).unwrap(), 20_000);
    }

    #[test]
    fn pruning_is_done_behind_the_records() {
        let (_dir, path) = temp();
        let recorder = Recorder::start(History::open(&path).unwrap(), None).unwrap();
        for n in 0..15_000 {
            recorder.push(record(nth(n), noon(), Some(HOUR))).unwrap();
        }
        let seq = recorder.push(record(nth(20_000), noon(), None)).unwrap();
        wait_written(&recorder, seq);
        recorder.prune(noon().wall.later(HOUR * 2));
        let reading = History::open_read_only(&path).unwrap().unwrap();
        wait_for("one row to be left", || {
            reading.of(None, 5).unwrap().len() == 1
        });
    }

    #[test]
    fn a_text_file_that_cannot_be_written_stops_no_record() {
        let (dir, path) = temp();
        let text = dir.path().join("missing/history.log");
        let recorder = Recorder::start(History::open(&path).unwrap(), Some(text.clone())).unwrap();
        let seq = recorder.push(record(nth(1), noon(), None)).unwrap();
        wait_written(&recorder, seq);
        let trouble = recorder.trouble().unwrap();
        assert!(
            trouble.starts_with(&format!(
                "cannot append to {}: No such file",
                text.display()
            )),
            "{trouble}"
        );
        fs::create_dir(text.parent().unwrap()).unwrap();
        let seq = recorder.push(record(nth(2), noon(), None)).unwrap();
        wait_written(&recorder, seq);
        assert_eq!(recorder.trouble(), None);
        assert_eq!(fs::read_to_string(&text).unwrap().lines().count(), 1);
    }

    #[test]
    fn a_full_disk_is_told_waited_out_and_loses_no_record() {
        let dir = tempfile::tempdir().unwrap();
        let _ = small_disk(dir.path(), "1m");
        let path = dir.path().join("history.db");
        let text = dir.path().join("history.log");
        let recorder = Recorder::start(History::open(&path).unwrap(), Some(text.clone())).unwrap();
        let seq = recorder.push(record(nth(0), noon(), None)).unwrap();
        wait_written(&recorder, seq);

        let filler = dir.path().join("filler");
        let mut file = fs::File::create(&filler).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        let mut last = Seq(0);
        for n in 1..=500 {
            last = recorder.push(record(nth(n), noon(), None)).unwrap();
        }
        wait_for("the trouble to be told", || {
            recorder
                .trouble()
                .is_some_and(|trouble| trouble.starts_with("cannot write to "))
        });
        let trouble = recorder.trouble().unwrap();
        assert!(
            trouble.contains("free some space") || trouble.contains("disk I/O error"),
            "{trouble}"
        );
        assert!(recorder.written() < last);

        fs::remove_file(&filler).unwrap();
        drop(file);
        wait_written(&recorder, last);
        wait_for("the trouble to be over", || {
            recorder.push(record(nth(501), noon(), None)).unwrap();
            recorder.trouble().is_none()
        });
        recorder.stop(Duration::from_secs(10)).unwrap();
        let history = History::open(&path).unwrap();
        assert_eq!(history.count_active(noon().wall).unwrap(), 502);
        for line in fs::read_to_string(&text).unwrap().lines() {
            assert!(
                line.starts_with("1795348800 - ") && line.ends_with(" Blocked"),
                "{line}"
            );
        }
    }

    #[test]
    fn a_stop_on_a_full_disk_keeps_to_its_deadline_and_says_what_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let _ = small_disk(dir.path(), "1m");
        let path = dir.path().join("history.db");
        let recorder = Recorder::start(History::open(&path).unwrap(), None).unwrap();
        let mut file = fs::File::create(dir.path().join("filler")).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        for n in 0..500 {
            recorder.push(record(nth(n), noon(), None)).unwrap();
        }
        wait_for("the trouble to be told", || recorder.trouble().is_some());
        let begin = Instant::now();
        let lost = recorder.stop(Duration::from_millis(500)).unwrap_err();
        assert!(begin.elapsed() < Duration::from_secs(5));
        assert!(lost.records > 0);
        assert!(
            lost.to_string()
                .contains(" records did not reach history: cannot write to "),
            "{lost}"
        );
    }

    #[test]
    fn the_queue_is_bounded_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let _ = small_disk(dir.path(), "1m");
        let path = dir.path().join("history.db");
        let recorder = Recorder::start(History::open(&path).unwrap(), None).unwrap();
        let mut file = fs::File::create(dir.path().join("filler")).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        let mut taken = 0;
        let full = loop {
            match recorder.push(record(nth(taken), noon(), None)) {
                Ok(_) => taken += 1,
                Err(full) => break full,
            }
        };
        assert!((65_536..80_000).contains(&taken), "{taken}");
        assert_eq!(
            full.to_string(),
            "history is behind: 65536 records wait for the disk"
        );
        let _ = recorder.stop(Duration::ZERO);
    }

    #[test]
    fn a_file_moved_away_is_begun_anew() {
        let (dir, path) = temp();
        let recorder = Recorder::start(History::open(&path).unwrap(), None).unwrap();
        let seq = recorder.push(record(nth(1), noon(), None)).unwrap();
        wait_written(&recorder, seq);
        fs::rename(&path, dir.path().join("old.db")).unwrap();
        let seq = recorder.push(record(nth(2), noon(), None)).unwrap();
        wait_written(&recorder, seq);
        assert_eq!(recorder.renewals(), 1);
        recorder.stop(Duration::from_secs(10)).unwrap();
        for (name, source) in [("history.db", nth(2)), ("old.db", nth(1))] {
            let history = History::open(&dir.path().join(name)).unwrap();
            let sources: Vec<_> = history
                .of(None, 5)
                .unwrap()
                .iter()
                .map(|row| row.source)
                .collect();
            assert_eq!(sources, [source], "{name}");
        }
    }
}

mod dying {
    use super::*;

    const CHILD: &str = "HISTORY_TEST_CHILD";

    /// This test program again, running `test` alone, with `path` for it to find.
    fn again(test: &str, path: &Path) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args([
                &format!("history::tests::dying::{test}"),
                "--exact",
                "--nocapture",
            ])
            .env(CHILD, path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    #[test]
    fn what_was_acknowledged_survives_kill_9() {
        if let Some(path) = std::env::var_os(CHILD) {
            let recorder = Recorder::start(History::open(Path::new(&path)).unwrap(), None).unwrap();
            for n in (0..).step_by(2) {
                recorder.push(record(nth(n), noon(), None)).unwrap();
                recorder.push(record(nth(n + 1), noon(), None)).unwrap();
                let seq = recorder
                    .push(end(nth(n), noon().wall, Ending::Unban))
                    .unwrap();
                wait_written(&recorder, seq);
                println!("\nwritten {n}");
            }
        }
        let (_dir, path) = temp();
        for round in 1..=3_u64 {
            let mut child = again("what_was_acknowledged_survives_kill_9", &path);
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let mut acknowledged = || {
                lines.find_map(|line| {
                    line.unwrap()
                        .strip_prefix("written ")
                        .map(|n| n.parse::<u32>().unwrap())
                })
            };
            for _ in 0..20 {
                acknowledged().unwrap();
            }
            child.kill().unwrap();
            let last = std::iter::from_fn(acknowledged).last().unwrap_or(38);
            child.wait().unwrap();
            let history = History::open(&path).unwrap();
            for n in (0..=last).step_by(2) {
                assert!(
                    history.running_exact(noon(), nth(n)).unwrap().is_none(),
                    "{n} in round {round}"
                );
                assert!(history.running_exact(noon(), nth(n + 1)).unwrap().is_some());
            }
        }
    }

    #[test]
    fn the_lock_names_its_holder_and_goes_with_it() {
        if let Some(path) = std::env::var_os(CHILD) {
            let _lock = StateLock::acquire(Path::new(&path)).unwrap();
            println!("\nlocked");
            let _ = std::io::stdin().read(&mut [0]);
            loop {
                thread::park();
            }
        }
        let (dir, path) = temp();
        assert_eq!(lock::holder(&path).unwrap(), None);
        let mut child = again("the_lock_names_its_holder_and_goes_with_it", &path);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        lines
            .find(|line| line.as_ref().is_ok_and(|line| line == "locked"))
            .unwrap()
            .unwrap();
        let holder = lock::holder(&path).unwrap().unwrap();
        assert_eq!(holder.pid, Some(child.id()));
        let said = StateLock::acquire(&path).unwrap_err().to_string();
        let expected = format!(
            "another portsentry holds {}.lock: pid {} (portsentry-",
            path.display(),
            child.id()
        );
        assert!(said.starts_with(&expected), "{said}");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(lock::holder(&path).unwrap(), None);
        let lock = StateLock::acquire(&path).unwrap();
        let file = dir.path().join("history.db.lock");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(
            fs::read_to_string(&file).unwrap(),
            format!("{}\n", std::process::id())
        );
        assert!(matches!(
            StateLock::acquire(&path),
            Err(LockError::Held { .. })
        ));
        drop(lock);
        assert_eq!(fs::read_to_string(&file).unwrap(), "");
        StateLock::acquire(&path).unwrap();
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
