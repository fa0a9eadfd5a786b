//! What outlives a restart: every ban and its end, and the scans that were only logged, in one SQLite file.
//!
//! This file appends and prunes, `judge` looks at a file before `file` opens it, `claim` knows which are open, [`query`] reads;
//! [`recorder`] keeps the disk out of the event loop, [`text`] writes 1.2's line, [`lock`] sees to it that one process writes.
//! Which bans there are is the engine's business: history believes what it is told. A ban that runs out writes nothing: its end
//! was known from the start.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, params};

use self::claim::Claim;
use crate::clock::Wall;
use crate::policy::{Ban, Origin, Reason};
use crate::respond::Site;
use crate::source::Source;

mod claim;
mod file;
mod judge;
pub mod lock;
mod names;
pub mod query;
pub mod recorder;
pub mod row;
#[cfg(test)]
mod tests;
pub mod text;

pub use lock::StateLock;
pub use recorder::{Recorder, Seq};
pub use row::{Ended, Ending, Response, Row};
pub use text::{TextFiles, TextLine};

/// The open file. One process has it open for writing, and holds the [`StateLock`]; any number may read meanwhile.
pub struct History {
    connection: Connection,
    /// After the connection, for it goes later.
    claim: Claim,
    /// Whether a commit waits for the disk, as the connection stands now.
    waits: bool,
}

/// Something to remember.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A ban. One of the same source that runs ends with it, as replaced.
    ///
    /// It is as the engine holds it. Of its end, the wall clock's part is kept.
    Ban(Ban),
    /// A scan that was logged and led to no ban.
    Scan {
        /// Who would have been banned.
        source: Source,
        /// What was seen.
        reason: Reason,
        /// When.
        at: Wall,
    },
    /// A line for the text files alone.
    Line {
        /// What it says.
        line: TextLine,
        /// When that was.
        at: Wall,
    },
    /// Where a name in an ignore list leads to from now on.
    Name {
        /// The name.
        name: Box<str>,
        /// Its addresses.
        addresses: Vec<IpAddr>,
    },
    /// The wall clock has moved, by so many milliseconds, while time went on as ever: bans that ran keep what they have left, and
    /// nothing has happened in a time to come.
    ClockMoved {
        /// What it showed before.
        before: Wall,
        /// By how much, either way.
        by: i64,
    },
    /// The end of a ban before its time. A source whose newest ban has ended in another way is no error.
    End {
        /// Whose ban, exactly as it was recorded.
        source: Source,
        /// When.
        at: Wall,
        /// In which way.
        how: Ending,
        /// Who ended it: `uid 0`.
        by: Box<str>,
    },
}

/// Why history could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is damaged, another program's or of a newer version. It was left as it is.
    #[error("cannot use {} as history: {cause}; to start with an empty one: {remedy}", .path.display())]
    Refused {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
        /// The command that moves it out of the way.
        remedy: String,
    },
    /// A file or directory could not be made or read.
    #[error("cannot {step} {}: {cause} ({remedy})", .path.display())]
    Place {
        /// What was tried.
        step: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
        /// What to do about it.
        remedy: &'static str,
    },
    /// Others could put a file of theirs in our place.
    #[error(
        "refusing to keep history in {}: everybody may write there \
         (set [history] file to a place in a directory of its own)",
        .0.display()
    )]
    Open(PathBuf),
    /// SQLite could not do it.
    #[error("cannot {step} {}: {cause}{}", .path.display(), hint(.cause))]
    Sqlite {
        /// What was tried.
        step: &'static str,
        /// On which file.
        path: PathBuf,
        /// What SQLite said.
        cause: rusqlite::Error,
    },
}

/// When a row's matter was over, in SQL: NULL where it never is by itself.
const OVER: &str = "coalesce(ended, ends, CASE response WHEN 'log' THEN started END)";

impl History {
    /// How many rows one step of [`prune`](Self::prune) looks at, or one of [`shorten`](Self::shorten) deletes: some
    /// milliseconds.
    const PRUNE_STEP: i64 = 10_000;

    /// How many pages one step gives back to the file system at most: more than its rows filled.
    const PRUNE_PAGES: u32 = 1000;

    /// Opens the history for writing, and creates it (and its directory) where there is none. The caller holds the
    /// [`StateLock`]. The file is judged before anything can change it.
    ///
    /// # Errors
    /// When the file is not a sound history of a version we know (it is left untouched), or cannot be written.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let (connection, claim) = file::open(path)?;
        let mut history = Self {
            connection,
            claim,
            waits: true,
        };
        history.wait_for_disk(false)?;
        Ok(history)
    }

    /// Opens the history for reading, while a daemon may be writing; `None` where there is none.
    ///
    /// # Errors
    /// When the file is not a history of a version we know, or cannot be read.
    pub fn open_read_only(path: &Path) -> Result<Option<Self>, Error> {
        let opened = file::open_read_only(path)?;
        Ok(opened.map(|(connection, claim)| Self {
            connection,
            claim,
            waits: false,
        }))
    }

    /// What is read from now on is as it was at the first look: rows that are written meanwhile are not seen, and those that
    /// they replace are. For one who reads it once, and closes it.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn hold_still(&self) -> Result<(), Error> {
        let begun = self.connection.execute_batch("BEGIN");
        begun.map_err(|cause| self.failed("read", cause))
    }

    /// Where responders may have put bans up that nobody has taken down since.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn sites(&self) -> Result<Vec<Site>, Error> {
        let sites = || -> rusqlite::Result<Vec<Site>> {
            let mut query = self
                .connection
                .prepare("SELECT responder, place FROM site")?;
            let site = |row: &rusqlite::Row<'_>| {
                Ok(Site {
                    responder: row.get(0)?,
                    place: row.get(1)?,
                })
            };
            query.query_map([], site)?.collect()
        };
        sites().map_err(|cause| self.failed("read", cause))
    }

    /// Remembers these in place of those.
    ///
    /// # Errors
    /// When the file cannot be written; then it has what it had.
    pub fn remember_sites(&mut self, sites: &[Site]) -> Result<(), Error> {
        let path = self.claim.path.clone();
        let mut remember = || {
            let transaction = self.connection.transaction()?;
            transaction.execute("DELETE FROM site", [])?;
            for Site { responder, place } in sites {
                let values = [responder, place];
                transaction.execute("INSERT OR IGNORE INTO site VALUES (?, ?)", values)?;
            }
            transaction.commit()
        };
        remember().map_err(|cause| Error::Sqlite {
            step: "write to",
            path,
            cause,
        })
    }

    /// The file, symbolic links resolved.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.claim.path
    }

    /// Whether the file was moved away or replaced since it was opened, so that what is written now is lost.
    #[must_use]
    pub fn was_moved(&self) -> bool {
        self.claim.is_void()
    }

    /// Looks whether the file still is a history. Not at all of its pages: SQLite does that as it comes to them.
    ///
    /// # Errors
    /// Somebody has emptied or overwritten it.
    pub fn check(&self) -> Result<(), Error> {
        self.claim.check()
    }

    /// Adds `records` in this order, all or none. Afterwards they survive the end of this process in any manner; if an
    /// [`End`](Record::End) that somebody asked for is among them, they survive a power failure too.
    ///
    /// # Errors
    /// When none of them was added.
    pub fn append(&mut self, records: &[Record]) -> Result<(), Error> {
        let promised =
            |record: &Record| matches!(record, Record::End { how, .. } if how.is_asked());
        self.wait_for_disk(records.iter().any(promised))?;
        let path = &self.claim.path;
        let failed = |cause: rusqlite::Error| match cause.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                judge::damaged(path, &cause)
            }
            _ => Error::Sqlite {
                step: "write to",
                path: path.clone(),
                cause,
            },
        };
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed)?;
        for record in records {
            insert(&transaction, record).map_err(failed)?;
        }
        transaction.commit().map_err(failed)
    }

    /// Deletes what was over before `before`, a bounded step at a time: begin with 0, and call again with what it returns
    /// until that is `None`. Bans without an end stay.
    ///
    /// # Errors
    /// When this step deleted nothing.
    pub fn prune(&mut self, before: Wall, from: i64) -> Result<Option<i64>, Error> {
        let path = &self.claim.path;
        let failed = |cause| Error::Sqlite {
            step: "prune",
            path: path.clone(),
            cause,
        };
        // SQLite looks up a single one of these at an end of the table, and walks through all of it for both.
        let bounds = "SELECT coalesce((SELECT min(id) FROM ban WHERE id > ?1), 0),
                      coalesce((SELECT max(id) FROM ban WHERE id > ?1), 0)";
        let (first, last): (i64, i64) = self
            .connection
            .query_row(bounds, [from], |row| Ok((row.get(0)?, row.get(1)?)))
            .map_err(failed)?;
        let upto = first.saturating_add(Self::PRUNE_STEP - 1);
        let deleted = self
            .connection
            .prepare_cached(&format!(
                "DELETE FROM ban WHERE id BETWEEN ?1 AND ?2 AND {OVER} < ?3"
            ))
            .and_then(|mut delete| delete.execute(params![first, upto, before.0]))
            .map_err(failed)?;
        if deleted > 0 {
            self.free_pages(Self::PRUNE_PAGES).map_err(failed)?;
        }
        Ok((upto < last).then_some(upto))
    }

    /// Deletes the oldest of what is over `now` while there are more than `most` rows, a bounded step at a time. Bans that run
    /// stay, however many they are. Whether another step may be needed.
    ///
    /// # Errors
    /// When this step deleted nothing.
    pub fn shorten(&mut self, most: u64, now: Wall) -> Result<bool, Error> {
        let path = &self.claim.path;
        let failed = |cause| Error::Sqlite {
            step: "shorten",
            path: path.clone(),
            cause,
        };
        let count = "SELECT count(*) FROM ban";
        let rows: i64 = self
            .connection
            .query_row(count, [], |row| row.get(0))
            .map_err(failed)?;
        let excess = rows.saturating_sub(i64::try_from(most).unwrap_or(i64::MAX));
        if excess <= 0 {
            return Ok(false);
        }
        let deleted = self
            .connection
            .prepare_cached(&format!(
                "DELETE FROM ban WHERE id IN (SELECT id FROM ban WHERE {OVER} < ?1 ORDER BY id LIMIT ?2)"
            ))
            .and_then(|mut delete| delete.execute(params![now.0, excess.min(Self::PRUNE_STEP)]))
            .map_err(failed)?;
        if deleted > 0 {
            self.free_pages(Self::PRUNE_PAGES).map_err(failed)?;
        }
        Ok(deleted > 0 && excess > Self::PRUNE_STEP)
    }

    /// Shortens the file by `count` empty pages at most.
    fn free_pages(&self, count: u32) -> rusqlite::Result<()> {
        // It frees a page for every row it is asked for, and stops where the reader stops.
        let pragma = format!("PRAGMA incremental_vacuum({count})");
        let mut statement = self.connection.prepare_cached(&pragma)?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        Ok(())
    }

    /// Gives back the memory that pages take which were read or written lately.
    fn let_go(&self) {
        // On an error, it stays.
        let _ = self.connection.execute_batch("PRAGMA shrink_memory");
    }

    /// Closes a file that [`was_moved`](Self::was_moved), with all that was written in it unless it is damaged: SQLite would leave that in a
    /// `-wal` of the old name, where the next file's opening deletes it.
    fn close_moved(self) {
        let setting = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
        if self.connection.db_config(setting) == Ok(true) {
            return;
        }
        // On an error, there is nothing better to do.
        let _ = self
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }

    /// Has a damaged file closed as it is: somebody may want to rescue what is in it.
    fn leave_as_it_is(&self) {
        let setting = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
        // On an error, it is closed as any other.
        let _ = self.connection.set_db_config(setting, true);
    }

    /// Makes commits wait for the disk, or not. Without it, a power failure (and nothing less) can take back the last
    /// seconds; the file stays sound in either case.
    fn wait_for_disk(&mut self, wait: bool) -> Result<(), Error> {
        if self.waits != wait {
            let level = if wait { "FULL" } else { "NORMAL" };
            self.connection
                .pragma_update(None, "synchronous", level)
                .map_err(|cause| self.failed("set up", cause))?;
            self.waits = wait;
        }
        Ok(())
    }

    fn failed(&self, step: &'static str, cause: rusqlite::Error) -> Error {
        Error::Sqlite {
            step,
            path: self.claim.path.clone(),
            cause,
        }
    }
}

fn insert(transaction: &Transaction<'_>, record: &Record) -> rusqlite::Result<()> {
    let (source, reason, origin, by, response, started, ends) = match record {
        Record::Ban(ban) => {
            // By the wall clock alone: what has run out by it is over, and not replaced.
            transaction
                .prepare_cached(
                    "UPDATE ban SET ended = ?2, ended_how = ?3 WHERE source = ?1 AND response = 'ban'
                     AND ended IS NULL AND (ends IS NULL OR ends > ?2)",
                )?
                .execute(params![
                    ban.source.to_string(),
                    ban.start.0,
                    Ending::Replaced.name()
                ])?;
            let ends = ban.end.map(|end| end.wall.0);
            (
                ban.source,
                &ban.reason,
                ban.origin,
                ban.by.map(|uid| uid.to_string()),
                Response::Ban,
                ban.start,
                ends,
            )
        }
        Record::Line { .. } => return Ok(()),
        // Back: all that is later than the new time moves too. What had run out would run again, and the last row, were it
        // of a time to come, would have the next start take the clock for one that is behind.
        Record::ClockMoved { before, by } if *by < 0 => {
            transaction
                .prepare_cached(
                    "UPDATE ban SET started = started + ?2, ends = ends + ?2, ended = ended + ?2
                     WHERE max(started, coalesce(ended, ends, started)) > ?1 + ?2",
                )?
                .execute(params![before.0, by])?;
            return Ok(());
        }
        Record::ClockMoved { before, by } => {
            transaction
                .prepare_cached(
                    "UPDATE ban SET started = started + ?2, ends = ends + ?2
                     WHERE response = 'ban' AND ended IS NULL AND ends > ?1",
                )?
                .execute(params![before.0, by])?;
            return Ok(());
        }
        Record::Name { name, addresses } => return names::write(transaction, name, addresses),
        Record::Scan { source, reason, at } => {
            let by = None;
            (*source, reason, Origin::Scan, by, Response::Log, *at, None)
        }
        Record::End {
            source,
            at,
            how,
            by,
        } => {
            // The newest row is ended even where the wall clock says that it has run out: who asks goes by the
            // monotonic clock, and the wall clock may have been set in between.
            transaction
                .prepare_cached(
                    "UPDATE ban SET ended = ?2, ended_how = ?3, ended_by = ?4
                     WHERE source = ?1 AND response = 'ban' AND ended IS NULL AND (ends IS NULL OR ends > ?2
                     OR id = (SELECT max(id) FROM ban WHERE source = ?1 AND response = 'ban'))",
                )?
                .execute(params![source.to_string(), at.0, how.name(), by])?;
            return Ok(());
        }
    };
    transaction
        .prepare_cached(
            "INSERT INTO ban (source, reason, origin, response, started, ends, banned_by) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            source.to_string(),
            reason.to_string(),
            origin.name(),
            response.name(),
            started.0,
            ends,
            by
        ])?;
    Ok(())
}

/// What helps against `cause`, where that is known.
fn hint(cause: &rusqlite::Error) -> &'static str {
    match cause.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => " (free some space on its file system)",
        Some(ErrorCode::SystemIoFailure) => {
            " (the kernel's log says why: a disk that fails, or a file system that is read-only since it did)"
        }
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            " (it and its directory must be writable for the user portsentry runs as)"
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            " (another program keeps it locked: fuser names it)"
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            " (restart portsentry: it then says how to move the file aside)"
        }
        _ => "",
    }
}
