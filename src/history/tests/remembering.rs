//! What is recorded, and what history answers.

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
    };
    history
        .append(&[
            // Three times, the first too long ago for a memory of twelve hours.
            record(nth(1), at(0), Some(HOUR)),
            record(nth(1), at(10), Some(HOUR)),
            record(nth(1), at(19), Some(HOUR * 2)),
            // Lifted, ignored and replaced bans do not count.
            record(nth(2), at(10), None),
            end(nth(2), at(11).wall, Ending::Unban),
            record(nth(3), at(10), None),
            end(nth(3), at(11).wall, Ending::Ignored),
            record(nth(4), at(10), Some(HOUR)),
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
fn of_too_many_rows_the_oldest_that_are_over_go() {
    let (_dir, path) = temp();
    let mut history = History::open(&path).unwrap();
    let mut records = vec![record(nth(1), noon(), None)];
    records.extend((2..15_002).map(|n| record(nth(n), noon(), Some(HOUR))));
    records.push(record(nth(20_000), noon(), Some(HOUR * 9)));
    history.append(&records).unwrap();
    let now = noon().wall.later(HOUR * 2);
    assert!(!history.shorten(20_000, now).unwrap(), "there is room");
    assert!(history.shorten(4, now).unwrap(), "a step at a time");
    assert!(!history.shorten(4, now).unwrap());
    let left = |history: &History| -> Vec<_> {
        let rows = history.of(None, 10).unwrap();
        rows.iter().map(|row| row.source).collect()
    };
    let expected = [nth(20_000), nth(15_001), nth(15_000), nth(1)];
    assert_eq!(left(&history), expected);
    assert!(!history.shorten(1, now).unwrap(), "what runs stays");
    assert_eq!(left(&history), [nth(20_000), nth(1)]);
}

#[test]
fn where_names_led_to_is_known_after_a_restart() {
    let (_dir, path) = temp();
    let name = |name: &str, addresses: &[&str]| Record::Name {
        name: name.into(),
        addresses: addresses.iter().map(|it| it.parse().unwrap()).collect(),
    };
    let mut history = History::open(&path).unwrap();
    let records = [
        name("office.example.net", &["192.0.2.7"]),
        name("home.example.net", &["192.0.2.9"]),
        name(
            "office.example.net",
            &["2001:db8::7", "192.0.2.8", "192.0.2.8"],
        ),
    ];
    history.append(&records).unwrap();
    drop(history);
    let mut history = History::open(&path).unwrap();
    let known = |history: &History| -> Vec<String> {
        let names = history.names().unwrap();
        names
            .iter()
            .map(|(name, at)| format!("{name} {at:?}"))
            .collect()
    };
    let office = "office.example.net [192.0.2.8, 2001:db8::7]";
    assert_eq!(known(&history), ["home.example.net [192.0.2.9]", office]);
    history.forget_name("home.example.net").unwrap();
    assert_eq!(known(&history), [office]);
    // One that an older version made, and nobody has opened to write since.
    history.connection.execute("DROP TABLE name", []).unwrap();
    let history = History::open_read_only(&path).unwrap().unwrap();
    assert_eq!(known(&history), [""; 0]);
}

#[test]
fn rows_that_somebody_spoilt_are_left_out_and_counted() {
    let (_dir, path) = temp();
    let mut history = History::open(&path).unwrap();
    let records: Vec<_> = (0..4).map(|n| record(nth(n), noon(), Some(HOUR))).collect();
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
    assert_eq!(history.past(noon().wall, None, 10).unwrap(), []);
    let later = noon().later(HOUR).wall;
    assert_eq!(history.past(later, None, 10).unwrap().len(), 3);
}

#[test]
fn the_questions_of_every_start_walk_along_an_index() {
    let (_dir, path) = temp();
    let history = History::open(&path).unwrap();
    for (which, plan) in [
        (
            query::BY_SAME_END,
            "USING INDEX ban_ends (ends=? AND rowid>?)",
        ),
        (query::BY_LATER_END, "USING INDEX ban_ends (ends>?)"),
        (query::BY_ID, "USING INTEGER PRIMARY KEY (rowid>?)"),
    ] {
        let sql = format!("EXPLAIN QUERY PLAN SELECT id, source FROM ban {which} LIMIT 5");
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
        length in proptest::option::of(any::<u64>()), by in ".{0,30}", user in any::<u32>(),
    ) {
        let (_dir, path) = temp();
        let mut history = History::open(&path).unwrap();
        let now = Now { mono: Mono(1), wall: Wall(start) };
        let mut ban = ban_from(Source::prefix(address.to_canonical(), bits), now, length.map(Duration::from_millis));
        ban.reason = Reason::parse(&text);
        ban.origin = Origin::Command;
        ban.by = Uid::parse(&format!("uid {user}"));
        history.append(&[Record::Ban(ban.clone())]).unwrap();
        let row = history.of(Some(address), 1).unwrap().pop().unwrap();
        prop_assert_eq!(row.source, ban.source);
        prop_assert_eq!(&row.reason, &ban.reason);
        prop_assert_eq!((row.origin, row.response, row.start), (ban.origin, Response::Ban, ban.start));
        prop_assert_eq!(row.by, ban.by);
        prop_assert_eq!(row.end, ban.end.map(|end| end.wall));
        let by: Box<str> = by.into();
        history.append(&[Record::End { source: ban.source, at: now.wall, how: Ending::Ignored, by: by.clone() }]).unwrap();
        let ended = history.of(Some(address), 1).unwrap().pop().unwrap().ended.unwrap();
        prop_assert_eq!(ended, Ended { at: now.wall, how: Ending::Ignored, by: Some(by) });
    }
}

#[test]
fn who_reads_it_as_it_was_sees_what_is_replaced_meanwhile() {
    let (_dir, path) = temp();
    let mut history = History::open(&path).unwrap();
    let now = noon();
    let both = [nth(1), nth(2)].map(|source| record(source, now, Some(HOUR)));
    history.append(&both).unwrap();
    let reader = History::open_read_only(&path).unwrap().unwrap();
    reader.hold_still().unwrap();
    let (beginning, count) = reader.beginning(now.wall).unwrap();
    assert_eq!(count, 2);
    let first = reader.active(now, beginning, 1).unwrap();
    let later = now.later(Duration::from_secs(1));
    let again = [nth(1), nth(2)].map(|source| record(source, later, Some(HOUR / 60)));
    history.append(&again).unwrap();
    let rest = reader.active(now, first.next.unwrap(), 10).unwrap();
    let read: Vec<Ban> = first.bans.into_iter().chain(rest.bans).collect();
    assert_eq!(read.len(), 2);
    assert!(read.iter().all(|ban| ban.length() == Some(HOUR)));
    drop(reader);
    let reader = History::open_read_only(&path).unwrap().unwrap();
    let read = all_active(&reader, later, 10);
    assert!(read.iter().all(|ban| ban.length() == Some(HOUR / 60)));
}
