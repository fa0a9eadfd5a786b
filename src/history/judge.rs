//! Whether what stands at a path is a history of ours, and sound: seen before anything can change it, in it or beside it.
//!
//! What SQLite would do by itself is too kind: it would put our table into another program's file, and find damage
//! when a ban is due.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::row::Row;
use super::{Error, claim};

/// "PtSy" in the file's header: ours. `file history.db` shows it.
pub(super) const APPLICATION_ID: u32 = 0x5074_5379;

/// The shape of the table. A newer one is refused, an older one would be brought up to date on opening.
pub(super) const VERSION: u32 = 1;

/// What stands at the path.
pub(super) enum Found {
    Nothing,
    Empty,
    /// Sound, as far as it can be seen without opening it for good.
    History {
        /// A journal beside it has what the file lacks: its pages cannot be judged yet.
        unfinished: bool,
    },
}

/// What SQLite says of a damaged file, as [`judge`] would say it.
pub(super) fn damaged(path: &Path, cause: &rusqlite::Error) -> Error {
    refused(path, format!("it is damaged: {cause}"))
}

/// Looks at the file without changing anything, in it or beside it.
pub(super) fn judge(path: &Path) -> Result<Found, Error> {
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
pub(super) fn judge_header(path: &Path) -> Result<Found, Error> {
    if claim::is_open(path) {
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
pub(super) fn judge_start(file: &File, path: &Path) -> Result<Found, Error> {
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
pub(super) fn find_damage(connection: &Connection) -> rusqlite::Result<Option<String>> {
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

pub(super) fn unreadable(path: &Path, cause: io::Error) -> Error {
    Error::Place {
        step: "read",
        path: path.to_owned(),
        cause,
        remedy: "run as root, or as the user portsentry runs as",
    }
}

pub(super) fn refused(path: &Path, cause: String) -> Error {
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
