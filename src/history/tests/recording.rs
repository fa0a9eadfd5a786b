//! The writer thread, and what it does when the disk does not.

use super::*;

#[test]
fn records_reach_the_disk_in_order_and_the_text_file_has_a_line_for_each_scan() {
    let (dir, path) = temp();
    let text = dir.path().join("history.log");
    let recorder = Recorder::start(History::open(&path).unwrap(), text_file(&text)).unwrap();
    assert_eq!(recorder.written(), Seq(0));
    for n in 1..=9 {
        recorder.push(line(nth(n))).unwrap();
        let seq = recorder.push(record(nth(n), noon(), Some(HOUR))).unwrap();
        assert_eq!(seq, Seq(2 * u64::from(n)));
    }
    let by_hand = Record::Ban(ban_from(nth(10), noon(), None));
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
    let recorder = Recorder::start(History::open(&path).unwrap(), TextFiles::default()).unwrap();
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
    let recorder = Recorder::start(History::open(&path).unwrap(), TextFiles::default()).unwrap();
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
fn history_is_shortened_while_records_come() {
    let (_dir, path) = temp();
    let recorder = Recorder::start(History::open(&path).unwrap(), TextFiles::default()).unwrap();
    let past = Now {
        wall: noon().wall.earlier(HOUR * 2),
        ..noon()
    };
    let mut ask = |n| {
        let _ = recorder.push(record(nth(n), past, Some(HOUR)));
        recorder.shorten(100, noon().wall);
    };
    (0..25_000).for_each(&mut ask);
    let reading = History::open_read_only(&path).unwrap().unwrap();
    let mut n = 25_000;
    wait_for("no more than a hundred rows to be left", || {
        n += 1;
        ask(n);
        reading.of(None, 200).unwrap().len() == 100
    });
}

#[test]
fn a_text_file_that_cannot_be_written_stops_no_record() {
    let (dir, path) = temp();
    let text = dir.path().join("missing/history.log");
    let recorder = Recorder::start(History::open(&path).unwrap(), text_file(&text)).unwrap();
    recorder.push(record(nth(1), noon(), None)).unwrap();
    let seq = recorder.push(line(nth(1))).unwrap();
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
    let seq = recorder.push(line(nth(2))).unwrap();
    wait_written(&recorder, seq);
    assert_eq!(recorder.trouble(), None);
    assert_eq!(fs::read_to_string(&text).unwrap().lines().count(), 2);
}

#[test]
fn a_full_disk_is_told_waited_out_and_loses_no_record() {
    let dir = tempfile::tempdir().unwrap();
    let _ = small_disk(dir.path(), "1m");
    let path = dir.path().join("history.db");
    let text = dir.path().join("history.log");
    let recorder = Recorder::start(History::open(&path).unwrap(), text_file(&text)).unwrap();
    let seq = recorder.push(record(nth(0), noon(), None)).unwrap();
    wait_written(&recorder, seq);

    let filler = dir.path().join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    let mut last = Seq(0);
    for n in 1..=500 {
        recorder.push(line(nth(n))).unwrap();
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
    recorder.look();
    wait_for("the trouble to be over", || recorder.trouble().is_none());
    recorder.stop(Duration::from_secs(10)).unwrap();
    let history = History::open(&path).unwrap();
    assert_eq!(history.count_active(noon().wall).unwrap(), 501);
    let lines = fs::read_to_string(&text).unwrap();
    assert_eq!(lines.lines().count(), 500);
    for line in lines.lines() {
        assert!(
            line.starts_with("1795348800 - ") && line.ends_with(" Blocked"),
            "{line}"
        );
    }
}

#[test]
fn a_file_that_somebody_has_spoilt_is_told_and_kept_and_what_waits_goes_into_the_next() {
    let garbage = |path: &Path| {
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&[b'x'; 4096], 0).unwrap();
    };
    let emptied = |path: &Path| drop(fs::File::create(path).unwrap());
    type Spoil<'a> = &'a dyn Fn(&Path);
    let spoils: [(Spoil<'_>, &str); 2] = [
        (&garbage, "it is not an SQLite file"),
        (&emptied, "it has been emptied"),
    ];
    for (spoil, why) in spoils {
        let (_dir, path) = temp();
        let recorder =
            Recorder::start(History::open(&path).unwrap(), TextFiles::default()).unwrap();
        let seq = recorder.push(record(nth(1), noon(), None)).unwrap();
        wait_written(&recorder, seq);
        spoil(&path);
        recorder.look();
        wait_for("the damage to be told", || recorder.trouble().is_some());
        let trouble = recorder.trouble().unwrap();
        assert!(trouble.contains(why), "{trouble}");
        assert!(trouble.contains("to start with an empty one: mv -- "));
        let last = recorder.push(record(nth(2), noon(), None)).unwrap();
        let spoilt = fs::read(&path).unwrap();

        let (_, remedy) = trouble.split_once("empty one: ").unwrap();
        let done = Command::new("sh").args(["-c", remedy]).status().unwrap();
        assert!(done.success(), "{remedy}");
        wait_written(&recorder, last);
        assert_eq!(recorder.renewals(), 1);
        wait_for("the trouble to be over", || recorder.trouble().is_none());
        let history = History::open_read_only(&path).unwrap().unwrap();
        assert_eq!(history.count_active(noon().wall).unwrap(), 1);
        let aside = fs::read(path.with_extension("db.damaged")).unwrap();
        assert!(aside == spoilt, "it is left as it is");
    }
}

#[test]
fn a_file_that_is_gone_is_made_anew_before_there_is_anything_to_write() {
    let (_dir, path) = temp();
    let recorder = Recorder::start(History::open(&path).unwrap(), TextFiles::default()).unwrap();
    fs::remove_file(&path).unwrap();
    recorder.look();
    wait_for("a new file", || recorder.renewals() == 1);
    assert!(path.exists());
}

#[test]
fn after_a_leap_of_the_clock_history_has_what_the_running_bans_have_left() {
    let (_dir, path) = temp();
    let recorder = Recorder::start(History::open(&path).unwrap(), TextFiles::default()).unwrap();
    let year = Duration::from_secs(365 * 24 * 3600);
    recorder
        .push(record(nth(1), noon(), Some(HOUR / 60)))
        .unwrap();
    recorder.push(record(nth(2), noon(), Some(HOUR))).unwrap();
    recorder.push(record(nth(3), noon(), None)).unwrap();
    let before = noon().wall.later(HOUR / 2);
    let by = i64::try_from(year.as_millis()).unwrap();
    let seq = recorder.push(Record::ClockMoved { before, by }).unwrap();
    wait_written(&recorder, seq);
    let history = History::open_read_only(&path).unwrap().unwrap();
    let now = noon().later(HOUR / 2);
    let after = Now {
        wall: before.later(year),
        ..now
    };
    let left = |now| {
        let bans = all_active(&history, now, 10);
        let mut left: Vec<_> = bans.iter().map(|ban| ban.left(now)).collect();
        left.sort_unstable();
        left
    };
    assert_eq!(left(after), [None, Some(HOUR / 2)]);
    // And back.
    let back = Record::ClockMoved {
        before: after.wall,
        by: -by,
    };
    let seq = recorder.push(back).unwrap();
    wait_written(&recorder, seq);
    assert_eq!(left(now), [None, Some(HOUR / 2)]);
}

#[test]
fn what_was_over_when_the_clock_went_back_is_over_by_the_new_time() {
    let (_dir, path) = temp();
    let recorder = Recorder::start(History::open(&path).unwrap(), TextFiles::default()).unwrap();
    let year = Duration::from_secs(365 * 24 * 3600);
    let ahead = noon().wall.later(year);
    let wrong = Now {
        wall: ahead,
        ..noon()
    };
    recorder.push(record(nth(1), wrong, Some(HOUR))).unwrap();
    recorder
        .push(record(nth(2), wrong, Some(HOUR / 60)))
        .unwrap();
    recorder.push(record(nth(3), wrong, None)).unwrap();
    let end = |at| Record::End {
        source: nth(3),
        at,
        how: Ending::Unban,
        by: "uid 0".into(),
    };
    recorder.push(end(ahead.later(HOUR / 4))).unwrap();
    let back = Record::ClockMoved {
        before: ahead.later(HOUR / 2),
        by: -i64::try_from(year.as_millis()).unwrap(),
    };
    let seq = recorder.push(back).unwrap();
    wait_written(&recorder, seq);
    let history = History::open_read_only(&path).unwrap().unwrap();
    let now = noon().later(HOUR / 2);
    let bans = all_active(&history, now, 10);
    let left: Vec<_> = bans.iter().map(|ban| (ban.source, ban.left(now))).collect();
    assert_eq!(left, [(nth(1), Some(HOUR / 2))]);
    let last = history.last_moment().unwrap();
    assert_eq!(last, Some(noon().wall.later(HOUR / 4)));
}

#[test]
fn a_stop_on_a_full_disk_keeps_to_its_deadline_and_says_what_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let _ = small_disk(dir.path(), "1m");
    let path = dir.path().join("history.db");
    let recorder = Recorder::start(History::open(&path).unwrap(), TextFiles::default()).unwrap();
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
    let recorder = Recorder::start(History::open(&path).unwrap(), TextFiles::default()).unwrap();
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
    let recorder = Recorder::start(History::open(&path).unwrap(), TextFiles::default()).unwrap();
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
