//! From a path to a connection: has the file judged before anything can change it, creates it, opens it.
//!
//! What the rows mean is left to others.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::geteuid;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::claim::Claim;
use super::judge::{
    APPLICATION_ID, Found, VERSION, find_damage, judge, judge_header, refused, unreadable,
};
use super::row::Row;
use super::{Error, names};

/// As SQL has it, for people with the `sqlite3` command too. Times are milliseconds since 1970.
const TABLE: &str = "
CREATE TABLE ban (
    id        INTEGER PRIMARY KEY,
    source    TEXT NOT NULL,
    reason    TEXT NOT NULL,
    origin    TEXT NOT NULL,
    response  TEXT NOT NULL CHECK (response IN ('ban', 'log')),
    started   INTEGER NOT NULL,
    ends      INTEGER,
    ended     INTEGER,
    ended_how TEXT,
    ended_by  TEXT
);
CREATE INDEX ban_source ON ban (source);
CREATE INDEX ban_ends ON ban (ends) WHERE response = 'ban' AND ended IS NULL;
";

/// Where responders may have put bans up, in this run or an earlier one.
const SITES: &str = "
CREATE TABLE IF NOT EXISTS site (
    responder TEXT NOT NULL,
    place     TEXT NOT NULL,
    PRIMARY KEY (responder, place)
) WITHOUT ROWID;
";

/// What was a roll-up is found without a look at everything else.
const ROLLUPS: &str = "
CREATE INDEX IF NOT EXISTS ban_rollup ON ban (source, ended) WHERE origin = 'rollup';
";

/// Who ordered a ban; a file from before there was this gets it when it is opened for writing.
const BY: &str = "ALTER TABLE ban ADD COLUMN banned_by TEXT";

/// How long a lock of another connection is waited for. Readers never hold one that stops a writer, but for moments.
const PATIENCE: Duration = Duration::from_secs(5);

/// Opens for writing, creates if need be.
pub(super) fn open(path: &Path) -> Result<(Connection, Claim), Error> {
    prepare_dir(path)?;
    let path = resolve(path)?;
    let found = judge(&path)?;
    if matches!(found, Found::Nothing) {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|cause| Error::Place {
                step: "create",
                path: path.clone(),
                cause,
                remedy: WRITABLE,
            })?;
        leave_to_owner_of_dir(&file, &path);
    }
    let claim = Claim::new(&path)?;
    let failed = |cause| Error::Sqlite {
        step: "open",
        path: path.clone(),
        cause,
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&path, flags).map_err(failed)?;
    connection.busy_timeout(PATIENCE).map_err(failed)?;
    // SQLite opens what it may not write for reading, without a word.
    if connection.is_readonly(rusqlite::MAIN_DB).map_err(failed)? {
        return Err(Error::Place {
            step: "write to",
            path,
            cause: io::ErrorKind::ReadOnlyFilesystem.into(),
            remedy: WRITABLE,
        });
    }
    let page_count = || connection.query_row("PRAGMA page_count", [], |row| row.get::<_, i64>(0));
    match found {
        // Where its creation was cut short, SQLite has just taken it back, and it is empty.
        Found::History { unfinished: true } if !matches!(page_count(), Ok(0)) => {
            if let Some(damage) = find_damage(&connection).map_err(failed)? {
                // Closing must not write the journal into a file that somebody may want to rescue.
                let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
                drop(connection);
                return Err(refused(&path, damage));
            }
        }
        Found::History { unfinished: false } => {}
        Found::History { .. } | Found::Nothing | Found::Empty => {
            create(&connection).map_err(|cause| Error::Sqlite {
                step: "create",
                path: path.clone(),
                cause,
            })?;
        }
    }
    set_up(&connection).map_err(failed)?;
    Ok((connection, claim))
}

/// Opens for reading; `None` where there is no file, or an empty one.
pub(super) fn open_read_only(path: &Path) -> Result<Option<(Connection, Claim)>, Error> {
    let path = match path.canonicalize() {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(unreadable(path, cause)),
    };
    match judge_header(&path)? {
        Found::Nothing | Found::Empty => return Ok(None),
        Found::History { .. } => {}
    }
    let open = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&path, flags)?;
        connection.busy_timeout(PATIENCE)?;
        connection.pragma_update(None, "cache_size", READERS_CACHE)?;
        Ok(connection)
    };
    let claim = Claim::new(&path)?;
    match open() {
        Ok(connection) => Ok(Some((connection, claim))),
        Err(cause) => Err(Error::Sqlite {
            step: "read",
            path,
            cause,
        }),
    }
}

/// Negative: in KiB. Who reads does so once, from the beginning to the end.
const READERS_CACHE: i32 = -512;

/// It is filled as pages are touched: a flood's bans, whose sources lie all over the index, take it all.
const WRITERS_CACHE: i32 = -4096;

const WRITABLE: &str =
    "it must be writable for the user portsentry runs as; [history] file says where it is";

/// Makes sure of the directory that `path` lies in, and that not everybody may put files there.
pub(super) fn prepare_dir(path: &Path) -> Result<(), Error> {
    let dir = dir_of(path);
    let failed = |cause| Error::Place {
        step: "create directory",
        path: dir.to_owned(),
        cause,
        remedy: WRITABLE,
    };
    if let Err(error) = fs::metadata(dir) {
        if error.kind() != io::ErrorKind::NotFound {
            return Err(failed(error));
        }
        if let Some(above) = dir.parent() {
            fs::create_dir_all(above).map_err(failed)?;
        }
        DirBuilder::new().mode(0o700).create(dir).map_err(failed)?;
    }
    refuse_open_dir(dir)
}

/// A file that root has made in another user's directory becomes that user's: it is the daemon's, which runs as a user of its own, and
/// a command of root's must not lock it out. Where that does not work out, it is told when the file is used.
pub(super) fn leave_to_owner_of_dir(file: &File, path: &Path) {
    let (Ok(dir), Ok(made)) = (fs::metadata(dir_of(path)), file.metadata()) else {
        return;
    };
    // Under another name it may be a file that matters to somebody else.
    let is_roots_own = made.is_file() && made.nlink() == 1 && made.uid() == 0;
    if is_roots_own && dir.uid() != 0 && geteuid().is_root() {
        let _ = fchown(file, Some(dir.uid()), Some(dir.gid()));
    }
}

fn refuse_open_dir(dir: &Path) -> Result<(), Error> {
    match fs::metadata(dir) {
        Ok(metadata) if metadata.mode() & 0o002 != 0 => Err(Error::Open(dir.to_owned())),
        Ok(_) => Ok(()),
        Err(cause) => Err(unreadable(dir, cause)),
    }
}

fn dir_of(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// The file behind the symbolic links, with a directory that is as trustworthy as that of the link.
fn resolve(path: &Path) -> Result<PathBuf, Error> {
    match path.canonicalize() {
        Ok(real) => {
            refuse_open_dir(dir_of(&real))?;
            Ok(real)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let name = path.file_name().unwrap_or_default();
            dir_of(path)
                .canonicalize()
                .map(|dir| dir.join(name))
                .map_err(|cause| unreadable(path, cause))
        }
        Err(cause) => Err(unreadable(path, cause)),
    }
}

/// Makes the tables. All of it is in the file before the write-ahead log comes into play, so that the header is true
/// from its first byte on. In one transaction, for each waits for the disk several times; not an immediate one, for that writes
/// the first page, after which `auto_vacuum` cannot be chosen any more.
fn create(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "BEGIN;
         PRAGMA auto_vacuum = INCREMENTAL;
         {TABLE} {SITES} {ROLLUPS} {names}
         PRAGMA application_id = {APPLICATION_ID};
         PRAGMA user_version = {VERSION};
         COMMIT;",
        names = names::TABLE
    ))
}

/// Whether it has a place for who ordered a ban.
pub(super) fn knows_who(connection: &Connection) -> bool {
    let question = format!("SELECT {} FROM ban LIMIT 0", Row::BY);
    connection.prepare_cached(&question).is_ok()
}

fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    // Where the file system has no shared memory, SQLite stays with its rollback journal, which is slower but as safe.
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update_and_check(None, "journal_size_limit", 4 << 20, |_| Ok(()))?;
    connection.execute_batch(SITES)?;
    connection.execute_batch(ROLLUPS)?;
    connection.execute_batch(names::TABLE)?;
    if !knows_who(connection) {
        connection.execute_batch(BY)?;
    }
    connection.pragma_update(None, "cache_size", WRITERS_CACHE)
}
