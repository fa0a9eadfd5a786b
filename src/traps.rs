//! The table of traps: it leads TCP connections to watched ports that nothing listens on to our one listener. Made when the listener
//! is there, kept as it should be while we run, gone when we stop.
//!
//! It holds nothing that is worth keeping, unlike that of bans. So it is never compared or mended, but made anew, all of it in one
//! transaction: where the wishes have changed, and where somebody else has touched it. What it looks like is `nft`'s to know.

#[cfg(test)]
mod tests;

use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::errno::Errno;
use tracing::{info, warn};

use crate::clock::Mono;
use crate::nft::{self, Change, Comment, Events, Line, TRAP_MARK, TableName, said};

/// How long after a failure it is tried again.
const AGAIN: Duration = Duration::from_secs(30);

/// What is put right at once within [`A_ROUND`]; after that, each time after [`AGAIN`].
const AT_ONCE: u32 = 10;
const A_ROUND: Duration = Duration::from_secs(60);

/// The table, which is taken down with this. Not `Send`: it stays with the thread that made it.
pub struct Traps {
    line: Line,
    table: TableName,
    wanted: nft::Traps,
    /// What others do to it; `None`: nobody listens.
    events: Option<Events>,
    handle: Option<u64>,
    trouble: Option<String>,
    again_at: Option<Mono>,
    /// Since when somebody has touched it so many times.
    touched: (Mono, u32),
}

/// What the kernel refuses, in words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Traps {
    /// Makes the table. One that was left behind is replaced; nobody else's is touched.
    ///
    /// # Errors
    /// The table cannot be made: then nothing has changed.
    pub fn set_up(bans_table: &str, wanted: nft::Traps) -> Result<Self, Error> {
        let (line, table) = open(bans_table)?;
        let mut traps = Self {
            line,
            table,
            wanted,
            events: None,
            handle: None,
            trouble: None,
            again_at: None,
            touched: (Mono(0), 0),
        };
        traps.make()?;
        Ok(traps)
    }

    /// Takes down what a daemon that had no time for it has left behind.
    ///
    /// # Errors
    /// It is still there.
    pub fn clear_away(bans_table: &str) -> Result<(), Error> {
        let (mut line, table) = open(bans_table)?;
        delete(&mut line, &table)
    }

    /// Whether it is the one beside this table of bans.
    #[must_use]
    pub fn is_beside(&self, bans_table: &str) -> bool {
        self.table.to_string() == name_beside(bans_table)
    }

    /// From now on these are led.
    ///
    /// # Errors
    /// The table cannot be made: then it stays as it was.
    pub fn change(&mut self, wanted: nft::Traps) -> Result<(), Error> {
        if wanted == self.wanted && self.trouble.is_none() {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.wanted, wanted);
        self.make().inspect_err(|_| self.wanted = before)
    }

    /// Begins to listen to what others do to the table.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn begin_watching(&mut self) -> Result<(), Error> {
        let port = self.line.port().map_err(std::io::Error::from);
        let events = port.and_then(|port| Events::open(&self.table, port));
        let cannot = |cause| Error(format!("cannot watch table inet {}: {cause}", self.table));
        self.events = Some(events.map_err(cannot)?);
        Ok(())
    }

    /// Becomes readable when [`notice`](Self::notice) has something to do.
    #[must_use]
    pub fn watched(&self) -> Option<BorrowedFd<'_>> {
        self.events.as_ref().map(Events::fd)
    }

    /// Others may have done something to the table: then it is made anew, but not for ever at once.
    pub fn notice(&mut self, now: Mono) {
        let Some(events) = &mut self.events else {
            return;
        };
        let heard = events.hear();
        if heard.transactions.is_empty() && !heard.is_incomplete {
            return;
        }
        let by = heard.transactions.into_iter().rev().find_map(|it| it.by);
        let by = by.map_or_else(|| "somebody".to_owned(), |by| by.to_string());
        if now.since(self.touched.0) >= A_ROUND {
            self.touched = (now, 0);
        }
        self.touched.1 += 1;
        if self.touched.1 <= AT_ONCE {
            self.put_right(&by, now);
        } else if self.again_at.is_none() {
            let words = format!(
                "{by} changes table inet {} again and again: it is made anew only every {} s",
                self.table,
                AGAIN.as_secs()
            );
            self.fails(words, now);
        }
    }

    /// Looks whether the table is there, and makes it anew where it is not: for what nobody has told.
    pub fn verify(&mut self, now: Mono) {
        if self.again_at.is_none() && self.line.handle(&self.table) != Ok(self.handle) {
            self.put_right("somebody", now);
        }
    }

    /// When [`tick`](Self::tick) is due; `None`: there is nothing to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Mono> {
        self.again_at
    }

    /// Tries again what has failed, when its time has come.
    pub fn tick(&mut self, now: Mono) {
        if self.again_at.take_if(|at| *at <= now).is_some() {
            match self.make() {
                Ok(()) => info!("table inet {} is made anew", self.table),
                Err(Error(why)) => self.fails(why, now),
            }
        }
    }

    /// What is wrong with the table; `None`: nothing.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.trouble.clone()
    }

    fn put_right(&mut self, by: &str, now: Mono) {
        match self.make() {
            Ok(()) => warn!(
                "{by} has changed table inet {}: it is made anew",
                self.table
            ),
            Err(Error(why)) => self.fails(why, now),
        }
    }

    fn fails(&mut self, why: String, now: Mono) {
        warn!("{why}");
        self.trouble = Some(why);
        self.again_at = Some(now.later(AGAIN));
    }

    /// Makes the table as it should be, in place of any of ours that is there.
    fn make(&mut self) -> Result<(), Error> {
        let made = self.make_once();
        made.map_err(|errno| told("make", &self.table, errno))?;
        (self.trouble, self.again_at) = (None, None);
        Ok(())
    }

    fn make_once(&mut self) -> Result<(), Errno> {
        let mut change = Change::new(&self.table);
        if is_ours(&mut self.line, &self.table)? {
            change.delete_table();
        }
        let mark = Comment::new(TRAP_MARK).expect("the mark is not empty");
        change.create_table(&mark, false);
        change.create_traps(&self.wanted);
        self.line.commit(&change.finish())?;
        // Old kernels answer success with silence, so look that it is really there.
        self.handle = self.line.handle(&self.table)?;
        self.handle.map(drop).ok_or(Errno::ENOENT)
    }
}

impl Drop for Traps {
    fn drop(&mut self) {
        if let Err(failure) = delete(&mut self.line, &self.table) {
            // It does nothing without our listener.
            warn!("{failure}");
        }
    }
}

fn name_beside(bans_table: &str) -> String {
    format!("{bans_table}-traps")
}

fn open(bans_table: &str) -> Result<(Line, TableName), Error> {
    let name = name_beside(bans_table);
    let table = TableName::new(&name).ok_or_else(|| {
        Error(format!(
            "no table can be called \"{}\"",
            name.escape_default()
        ))
    })?;
    let line = Line::open().map_err(|errno| told("make", &table, errno))?;
    Ok((line, table))
}

fn delete(line: &mut Line, table: &TableName) -> Result<(), Error> {
    let deleted = is_ours(line, table).and_then(|is_ours| {
        if !is_ours {
            return Ok(());
        }
        let mut change = Change::new(table);
        change.delete_table();
        line.commit(&change.finish())
    });
    match deleted {
        Ok(()) | Err(Errno::ENOENT | Errno::EEXIST) => Ok(()),
        Err(errno) => Err(told("delete", table, errno)),
    }
}

/// Whether the table is there, as ours.
///
/// # Errors
/// `EEXIST`: it is somebody else's. Or what the kernel said.
fn is_ours(line: &mut Line, table: &TableName) -> Result<bool, Errno> {
    match line.inspect(table)? {
        None => Ok(false),
        Some(found) if found.comment.as_deref() == Some(TRAP_MARK) => Ok(true),
        Some(_) => Err(Errno::EEXIST),
    }
}

fn told(doing: &str, table: &TableName, errno: Errno) -> Error {
    Error(match errno {
        Errno::EEXIST => format!(
            "table inet {table} is there already, without the comment \"{TRAP_MARK}\": somebody else made it; \
             remove it with \"nft delete table inet {table}\", or set nftables.table in the configuration to another name"
        ),
        Errno::ENOENT => format!(
            "cannot {doing} table inet {table}: this kernel lacks a part of nf_tables; detect.confirm = \"handshake\" \
             needs nft_tproxy, nft_socket and nft_fib_inet"
        ),
        errno => format!("cannot {doing} table inet {table}: {}", said(errno)),
    })
}
