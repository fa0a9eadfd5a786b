//! From a path to a connection: judges the file before anything can change it, creates it, opens it.
//!
//! What SQLite would do by itself is too kind: it would put our table into another program's file, and find damage
//! when a ban is due. What the rows mean is left to others.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, fchown,
};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::unistd::geteuid;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::row::Row;
use super::{Error, names};

/// "PtSy" in the file's header: ours. `file history.db` shows it.
const APPLICATION_ID: u32 = 0x5074_5379;

/// The shape of the table. A newer one is refused, an older one would be brought up to date on opening.
const VERSION: u32 = 1;

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

/// How long a lock of another connection is waited for. Readers never hold one that stops a writer, but for moments.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which file this is, whatever its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::from(&metadata))
    }
}

impl From<&fs::Metadata> for Identity {
    fn from(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// Files that this process has connections to, once for each. Locks of files are the process's (POSIX): to close any descriptor
/// of such a file takes away those of its connections. Another program would then think itself alone with it, and delete at its end
/// the `-wal` that we write to.
static OPEN: Mutex<Vec<Identity>> = Mutex::new(Vec::new());

/// A place among those that are [`OPEN`]: to be dropped after the connection.
pub(super) struct Claim {
    identity: Identity,
    /// Symbolic links resolved: the name beside which SQLite puts its `-wal` and `-shm`.
    pub(super) path: PathBuf,
    /// For looking at the header; `None`: an earlier connection's claim has one.
    file: Option<File>,
}

impl Claim {
    fn new(path: &Path) -> Result<Self, Error> {
        let identity = Identity::of(path).map_err(|cause| unreadable(path, cause))?;
        let mut open = open_files();
        let file = if open.contains(&identity) {
            None
        } else {
            Some(File::open(path).map_err(|cause| unreadable(path, cause))?)
        };
        open.push(identity);
        Ok(Self {
            identity,
            path: path.to_owned(),
            file,
        })
    }

    /// Whether there is another file at the path by now, or none.
    pub(super) fn is_void(&self) -> bool {
        Identity::of(&self.path).map_or(true, |identity| identity != self.identity)
    }

    /// Looks whether the file still begins as a history does.
    pub(super) fn check(&self) -> Result<(), Error> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        match judge_start(file, &self.path)? {
            Found::History { .. } => Ok(()),
            Found::Nothing | Found::Empty => {
                Err(refused(&self.path, "it has been emptied".to_owned()))
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut open = open_files();
        if let Some(place) = open.iter().position(|it| *it == self.identity) {
            open.swap_remove(place);
        }
    }
}

fn open_files() -> MutexGuard<'static, Vec<Identity>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What stands at the path.
enum Found {
    Nothing,
    Empty,
    /// Sound, as far as it can be seen without opening it for good.
    History {
        /// A journal beside it has what the file lacks: its pages cannot be judged yet.
        unfinished: bool,
    },
}

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

/// What SQLite says of a damaged file, as [`open`] would say it.
pub(super) fn damaged(path: &Path, cause: &rusqlite::Error) -> Error {
    refused(path, format!("it is damaged: {cause}"))
}

/// Looks at the file without changing anything, in it or beside it.
fn judge(path: &Path) -> Result<Found, Error> {
    let found = judge_header(path)?;
    if let Found::History { unfinished: false } = found {
        let look = || {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
            find_damage(&Connection::open_with_flags(immutable_uri(path), flags)?)
        };
        let damage = look().map_err(|cause| Error::Sqlite {
            step: "check",
            path: path.to_owned(),
            cause,
        })?;
        if let Some(damage) = damage {
            return Err(refused(path, damage));
        }
    }
    Ok(found)
}

/// Judges by how the file begins; one that we have open was judged then.
fn judge_header(path: &Path) -> Result<Found, Error> {
    if Identity::of(path).is_ok_and(|identity| open_files().contains(&identity)) {
        return Ok(Found::History { unfinished: true });
    }
    // Without O_NONBLOCK, opening a pipe would wait for somebody to write into it.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(cause) => return Err(unreadable(path, cause)),
    };
    judge_start(&file, path)
}

/// Judges by the first hundred bytes, <https://www.sqlite.org/fileformat.html#the_database_header>.
fn judge_start(file: &File, path: &Path) -> Result<Found, Error> {
    let look = || -> io::Result<Option<(u64, Vec<u8>)>> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(None);
        }
        let mut header = vec![0; 100];
        let length = file.read_at(&mut header, 0)?;
        header.truncate(length);
        Ok(Some((metadata.len(), header)))
    };
    let Some((length, header)) = look().map_err(|cause| unreadable(path, cause))? else {
        return Err(refused(path, "it is not a file".to_owned()));
    };
    if header.is_empty() {
        return Ok(Found::Empty);
    }
    if !header.starts_with(b"SQLite format 3\0") {
        return Err(refused(path, "it is not an SQLite file".to_owned()));
    }
    let number = |at: usize| {
        let bytes = header.get(at..).and_then(|rest| rest.first_chunk());
        bytes.map(|bytes| u32::from_be_bytes(*bytes))
    };
    let cause = match (number(68), number(60)) {
        (Some(APPLICATION_ID), Some(VERSION)) if header.len() == 100 => {
            let waits = |ending| {
                fs::metadata(sibling(path, ending)).is_ok_and(|metadata| metadata.len() > 0)
            };
            let unfinished = waits("-wal") || waits("-journal");
            // SQLite takes a page that is cut short for one that ends in zeros.
            let page_size = match header.get(16..18) {
                Some(&[0, 1]) => 65_536,
                Some(&[high, low]) => u64::from(u16::from_be_bytes([high, low])),
                _ => 0,
            };
            if unfinished || length.checked_rem(page_size) == Some(0) {
                return Ok(Found::History { unfinished });
            }
            "it is damaged: its end is missing".to_owned()
        }
        (Some(APPLICATION_ID), Some(version @ 1..)) if version > VERSION => format!(
            "a newer portsentry wrote it (format {version}, this one knows up to {VERSION})"
        ),
        (Some(APPLICATION_ID) | None, _) => "it is damaged: its header is broken".to_owned(),
        (Some(_), _) => "it is an SQLite file of another program".to_owned(),
    };
    Err(refused(path, cause))
}

/// What is broken, in SQLite's words.
fn find_damage(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let check = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    let said = match check {
        Ok(said) if said == "ok" => {
            let columns = format!("SELECT {} FROM ban LIMIT 0", Row::COLUMNS);
            match connection.prepare(&columns) {
                Ok(_) => return Ok(None),
                Err(error) => error.to_string(),
            }
        }
        Ok(said) => said.replace('\n', " "),
        Err(error)
            if matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
            ) =>
        {
            error.to_string()
        }
        Err(error) => return Err(error),
    };
    Ok(Some(format!("it is damaged: {}", said.escape_default())))
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

fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    // Where the file system has no shared memory, SQLite stays with its rollback journal, which is slower but as safe.
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update_and_check(None, "journal_size_limit", 4 << 20, |_| Ok(()))?;
    connection.execute_batch(SITES)?;
    connection.execute_batch(ROLLUPS)?;
    connection.execute_batch(names::TABLE)?;
    connection.pragma_update(None, "cache_size", WRITERS_CACHE)
}

fn unreadable(path: &Path, cause: io::Error) -> Error {
    Error::Place {
        step: "read",
        path: path.to_owned(),
        cause,
        remedy: "run as root, or as the user portsentry runs as",
    }
}

fn refused(path: &Path, cause: String) -> Error {
    Error::Refused {
        path: path.to_owned(),
        cause,
        remedy: move_aside(path),
    }
}

/// The command that moves the file away, and what SQLite keeps beside it too: a stale `-wal` would be taken for the new
/// file's. The file comes last, for a daemon that runs makes a new one as soon as it is gone, with its own beside it.
fn move_aside(path: &Path) -> String {
    let taken = |target: &PathBuf| target.symlink_metadata().is_ok();
    let mut target = sibling(path, ".damaged");
    for number in 2..100 {
        if !taken(&target) {
            break;
        }
        target = sibling(path, &format!(".damaged-{number}"));
    }
    let present =
        |ending: &&str| ending.is_empty() || sibling(path, ending).symlink_metadata().is_ok();
    ["-wal", "-shm", "-journal", ""]
        .iter()
        .filter(|ending| present(ending))
        .map(|ending| {
            let from = quoted(&sibling(path, ending));
            format!("mv -- {from} {}", quoted(&sibling(&target, ending)))
        })
        .collect::<Vec<_>>()
        .join(" && ")
}

/// As a shell reads it.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

pub(super) fn sibling(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned().into_vec();
    name.extend_from_slice(ending.as_bytes());
    PathBuf::from(std::ffi::OsString::from_vec(name))
}

/// The name by which SQLite looks at the file as it lies on disk: no locks, no journal, nothing made beside it.
fn immutable_uri(path: &Path) -> String {
    let mut uri = String::from("file:");
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    uri + "?mode=ro&immutable=1"
}
