//! What is opened, what is refused, and that refusing leaves no trace.

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
fn what_root_makes_in_a_users_directory_is_that_users() {
    let dir = tempfile::tempdir().unwrap();
    chown(dir.path(), Some(4711), Some(4712)).expect("this test needs root");
    let path = dir.path().join("history.db");
    let theirs = dir.path().join("theirs");
    fs::write(&theirs, "").unwrap();
    {
        let _lock = StateLock::acquire(&path).unwrap();
        let mut history = History::open(&path).unwrap();
        history.append(&[record(nth(1), noon(), None)]).unwrap();
        for name in [
            "history.db",
            "history.db-wal",
            "history.db-shm",
            "history.db.lock",
        ] {
            let found = fs::metadata(path.with_file_name(name)).unwrap();
            assert_eq!((found.uid(), found.gid()), (4711, 4712), "{name}");
        }
    }
    assert_eq!(fs::metadata(theirs).unwrap().uid(), 0);
}

#[test]
fn a_file_with_another_name_elsewhere_is_not_given_away() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = dir.path().join("shadow");
    fs::write(&elsewhere, "").unwrap();
    let theirs = dir.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    chown(&theirs, Some(4711), Some(4712)).expect("this test needs root");
    fs::hard_link(&elsewhere, theirs.join("history.db.lock")).unwrap();
    let _lock = StateLock::acquire(&theirs.join("history.db"));
    assert_eq!(fs::metadata(elsewhere).unwrap().uid(), 0);
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
        command.ends_with(&format!(
            "mv -- '{at}-wal' '{at}.damaged-2-wal' && mv -- '{at}' '{at}.damaged-2'"
        )),
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
    let said =
        make("PRAGMA application_id = 0x50745379; PRAGMA user_version = 1; CREATE TABLE mail (id)");
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

#[test]
fn a_creation_cut_short_is_begun_anew() {
    let (dir, path) = temp();
    let journal = dir.path().join("history.db-journal");
    filled(&path, 2000);
    let made = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    // The journal of a first transaction is on disk once the cache overflows; the file is whole before it goes.
    let other = Connection::open(&path).unwrap();
    other
        .execute_batch(
            "PRAGMA cache_size = 5; BEGIN; CREATE TABLE a (b);
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
             INSERT INTO a SELECT i FROM n;",
        )
        .unwrap();
    let left = fs::read(&journal).unwrap();
    drop(other);
    fs::write(&path, made).unwrap();
    fs::write(&journal, left).unwrap();
    let history = History::open(&path).unwrap();
    assert_eq!(history.of(None, 5).unwrap().len(), 0);
    drop(history);
    assert_eq!(picture(dir.path()).len(), 1);
}

/// From before there was a place for who ordered a ban.
#[test]
fn a_file_from_before_is_read_as_it_is_and_then_brought_up_to_date() {
    let (_dir, path) = temp();
    filled(&path, 1);
    let as_before = rusqlite::Connection::open(&path).unwrap();
    as_before
        .execute_batch("ALTER TABLE ban DROP COLUMN banned_by")
        .unwrap();
    drop(as_before);
    let reader = History::open_read_only(&path).unwrap().unwrap();
    let row = reader.of(None, 1).unwrap().pop().unwrap();
    assert_eq!((row.source, row.by), (nth(0), None));
    let mut history = History::open(&path).unwrap();
    let root = Uid::parse("uid 0");
    let ban = Ban {
        by: root,
        ..ban_from(nth(2), noon(), Some(HOUR))
    };
    history.append(&[Record::Ban(ban)]).unwrap();
    for history in [&history, &reader] {
        let by = |row: Row| (row.source, row.by);
        let known: Vec<_> = history.of(None, 9).unwrap().into_iter().map(by).collect();
        assert_eq!(known, [(nth(2), root), (nth(0), None)]);
    }
    let running = history.running(noon(), nth(2).address()).unwrap();
    assert_eq!(running[0].by, root);
}
