//! The questions that history answers: what runs, what ran before, what became of an address.
//!
//! Every answer is bounded by an argument. Rows that cannot be read are left out; [`Slice`] counts them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::time::Duration;

use rusqlite::{params, params_from_iter};

use super::row::Row;
use super::{Error, History, file};
use crate::clock::{Now, Wall};
use crate::policy::Ban;
use crate::source::Source;

/// Some of the bans that run.
#[derive(Debug)]
pub struct Slice {
    /// In the cursor's order; by their ends, those without one come first.
    pub bans: Vec<Ban>,
    /// Where the next slice begins; `None`: this is the last one.
    pub next: Option<Cursor>,
    /// Rows left out because they cannot be read.
    pub unreadable: usize,
}

/// A place between two rows, and in which order they are read. The default is the beginning of the order by their ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// By their ends, along an index: whatever is over is passed by.
    ByEnd {
        /// That of the last row.
        ends: Option<i64>,
        /// Its number.
        id: i64,
    },
    /// As they stand in the file: for the most part of its rows, this takes a third of the time.
    ById(i64),
}

impl Default for Cursor {
    fn default() -> Self {
        Self::ByEnd { ends: None, id: 0 }
    }
}

/// What a source has behind it, for the length of its next ban.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// Whom.
    pub source: Source,
    /// Bans that count, a running one among them: not those that were lifted, ignored or replaced, nor logged scans.
    pub bans: u32,
    /// When the last of them ended or is to end; `None`: never.
    pub last_end: Option<Wall>,
}

/// Which rows hold bans that run, after those that were read: `?1` is an end and `?2` a number.
pub(super) const BY_SAME_END: &str = "INDEXED BY ban_ends WHERE response = 'ban' AND ended IS NULL \
     AND ends IS ?1 AND id > ?2 ORDER BY ends, id";
pub(super) const BY_LATER_END: &str =
    "INDEXED BY ban_ends WHERE response = 'ban' AND ended IS NULL AND ends > ?1 ORDER BY ends, id";
pub(super) const BY_ID: &str = "NOT INDEXED WHERE response = 'ban' AND ended IS NULL \
     AND (ends IS NULL OR ends > ?1) AND id > ?2 ORDER BY id";

impl History {
    /// At most `limit` of the bans that run at `now`, from `from` on. Start with the default cursor, or with
    /// [`beginning`](Self::beginning), and ask again with [`Slice::next`] until there is none; a ban that is added, replaced or
    /// ends in between may be missed or be stale.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn active(&self, now: Now, from: Cursor, limit: usize) -> Result<Slice, Error> {
        let mut slice = Slice {
            bans: Vec::new(),
            next: None,
            unreadable: 0,
        };
        let limit = limit.max(1);
        let mut seen = 0;
        let mut last = from;
        let mut take = |which: &str, ends: Option<i64>, id: i64| -> Result<(), Error> {
            let sql = format!("SELECT {} FROM ban {which} LIMIT ?3", self.columns());
            self.each(&sql, params![ends, id, bound(limit - seen)], |row| {
                seen += 1;
                let id = row.get(0)?;
                last = match from {
                    Cursor::ByEnd { .. } => Cursor::ByEnd {
                        ends: row.get(6)?,
                        id,
                    },
                    Cursor::ById(_) => Cursor::ById(id),
                };
                match Row::read(row) {
                    Ok(row) if row.runs(now.wall) => slice.bans.push(row.into_ban(now)),
                    Ok(_) => {}
                    Err(_) => slice.unreadable += 1,
                }
                Ok(())
            })
        };
        match from {
            Cursor::ByEnd { ends, id } => {
                // First the rest of those that end at the same moment as the last one seen, then the later ones: both are a
                // plain walk along the index, also where a million bans end in one moment.
                take(BY_SAME_END, ends, id)?;
                let after = ends.map_or(now.wall.0, |ends| ends.max(now.wall.0));
                take(BY_LATER_END, Some(after), id)?;
            }
            Cursor::ById(id) => take(BY_ID, Some(now.wall.0), id)?,
        }
        slice.next = (seen == limit).then_some(last);
        Ok(slice)
    }

    /// Where to begin with [`active`](Self::active) so that all that run at `now` are read in the least time, and how many they
    /// are.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn beginning(&self, now: Wall) -> Result<(Cursor, u64), Error> {
        let active = self.count_active(now)?;
        // SQLite looks up a single one of these at an end of the table, and walks through all of it for both.
        let sql = "SELECT coalesce((SELECT max(id) FROM ban) - (SELECT min(id) FROM ban), 0)";
        let rows = self.connection.query_row(sql, [], |row| row.get(0));
        let rows: i64 = rows.map_err(|cause| self.failed("read", cause))?;
        let cursor = if active > u64::try_from(rows).unwrap_or(0) / 2 {
            Cursor::ById(i64::MIN)
        } else {
            Cursor::default()
        };
        Ok((cursor, active))
    }

    /// When the last thing happened that is known, by its order, not by its time; `None`: nothing has.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn last_moment(&self) -> Result<Option<Wall>, Error> {
        let sql = "SELECT max(started, coalesce(ended, started)) FROM ban ORDER BY id DESC LIMIT 1";
        let mut last = None;
        self.each(sql, [], |row| {
            last = Some(Wall(row.get(0)?));
            Ok(())
        })?;
        Ok(last)
    }

    /// How many bans run at `now`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn count_active(&self, now: Wall) -> Result<u64, Error> {
        // Each is a piece of the index, of which nothing else has to be looked at: half the time of both at once.
        let sql = "SELECT (SELECT count(*) FROM ban INDEXED BY ban_ends
                           WHERE response = 'ban' AND ended IS NULL AND ends > ?1)
                        + (SELECT count(*) FROM ban INDEXED BY ban_ends
                           WHERE response = 'ban' AND ended IS NULL AND ends IS NULL)";
        self.connection
            .query_row(sql, [now.0], |row| row.get::<_, i64>(0))
            .map(|count| u64::try_from(count).unwrap_or(0))
            .map_err(|cause| self.failed("read", cause))
    }

    /// The pasts of at most `limit` sources whose last ban ended within `memory` (`None`: whenever), the latest ends
    /// first; without those that have but a running one. Only bans that ended within `memory` themselves are counted, so that pruning what is older changes nothing.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn past(
        &self,
        now: Wall,
        memory: Option<Duration>,
        limit: usize,
    ) -> Result<Vec<Past>, Error> {
        let memory = memory.and_then(|memory| i64::try_from(memory.as_millis()).ok());
        let since = memory.map_or(i64::MIN, |memory| now.0.saturating_sub(memory));
        // In the order of the index and the rest kept here: SQLite would sort in a file in /var/tmp, and a hardened
        // service may have none.
        let mut latest = BinaryHeap::new();
        let sql =
            "SELECT source, count(*), max(coalesce(ended, ends, ?2)) FROM ban INDEXED BY ban_source
                   WHERE response = 'ban' AND ended_how IS NULL
                   AND coalesce(ended, ends, ?2) > ?1 GROUP BY source
                   HAVING count(*) > 1 OR max(coalesce(ended, ends, ?2)) <= ?3";
        let parameters = params![since, i64::MAX, now.0];
        self.each(sql, parameters, |row| {
            if let Ok(source) = row.get_ref(0)?.as_str()?.parse::<Source>() {
                let bans = row.get(1).unwrap_or(u32::MAX);
                latest.push((Reverse(row.get::<_, i64>(2)?), source, bans));
                if latest.len() > limit {
                    latest.pop();
                }
            }
            Ok(())
        })?;
        let past = |(Reverse(last), source, bans)| Past {
            source,
            bans,
            last_end: (last != i64::MAX).then_some(Wall(last)),
        };
        Ok(latest.into_sorted_vec().into_iter().map(past).collect())
    }

    /// At most `limit` rows, the newest first: all, or those of every source that covers `address`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn of(&self, address: Option<IpAddr>, limit: usize) -> Result<Vec<Row>, Error> {
        let mut sources = address.map(covering).unwrap_or_default();
        let which = if address.is_some() {
            format!(
                "INDEXED BY ban_source WHERE source IN ({})",
                marks(sources.len())
            )
        } else {
            String::new()
        };
        let sql = format!(
            "SELECT {} FROM ban {which} ORDER BY id DESC LIMIT CAST(? AS INTEGER)",
            self.columns()
        );
        sources.push(bound(limit).to_string());
        let mut rows = Vec::new();
        self.each(&sql, params_from_iter(sources), |row| {
            rows.extend(Row::read(row).ok());
            Ok(())
        })?;
        Ok(rows)
    }

    /// The prefixes whose roll-up somebody has lifted, and when that was last: at most `limit`, the latest of them.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn rollups_lifted(&self, limit: usize) -> Result<Vec<(Source, Wall)>, Error> {
        let sql =
            "SELECT source, max(ended) FROM ban WHERE origin = 'rollup' AND ended_how = 'unban'
                   GROUP BY source ORDER BY max(ended) DESC LIMIT CAST(? AS INTEGER)";
        let mut lifted = Vec::new();
        self.each(sql, [bound(limit).to_string()], |row| {
            if let Ok(source) = row.get_ref(0)?.as_str()?.parse() {
                lifted.push((source, Wall(row.get(1)?)));
            }
            Ok(())
        })?;
        Ok(lifted)
    }

    /// The bans that run at `now` and cover `address`, the oldest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn running(&self, now: Now, address: IpAddr) -> Result<Vec<Ban>, Error> {
        self.running_of(now, &covering(address))
    }

    /// The ban of exactly this source, if it runs at `now`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn running_exact(&self, now: Now, source: Source) -> Result<Option<Ban>, Error> {
        Ok(self.running_of(now, &[source.to_string()])?.pop())
    }

    fn running_of(&self, now: Now, sources: &[String]) -> Result<Vec<Ban>, Error> {
        let sql = format!(
            "SELECT {} FROM ban INDEXED BY ban_source WHERE source IN ({}) AND response = 'ban'
             AND ended IS NULL AND (ends IS NULL OR ends > CAST(? AS INTEGER)) ORDER BY id",
            self.columns(),
            marks(sources.len())
        );
        let now_text = now.wall.0.to_string();
        let mut bans = Vec::new();
        self.each(
            &sql,
            params_from_iter(sources.iter().chain([&now_text])),
            |row| {
                bans.extend(Row::read(row).ok().map(|row| row.into_ban(now)));
                Ok(())
            },
        )?;
        Ok(bans)
    }

    /// What [`Row::read`] reads; of who ordered a ban nothing, where this is an old file that is only read.
    fn columns(&self) -> String {
        let knows_who = file::knows_who(&self.connection);
        let by = if knows_who { Row::BY } else { "NULL" };
        format!("{}, {by}", Row::COLUMNS)
    }

    /// Calls `handle` for each row of the answer.
    fn each(
        &self,
        sql: &str,
        parameters: impl rusqlite::Params,
        mut handle: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<()>,
    ) -> Result<(), Error> {
        let run = || {
            let mut statement = self.connection.prepare_cached(sql)?;
            let mut rows = statement.query(parameters)?;
            while let Some(row) = rows.next()? {
                handle(row)?;
            }
            Ok(())
        };
        run().map_err(|cause| self.failed("read", cause))
    }
}

/// The texts of every source that can cover `address`: few enough to look each up, so that no list of the prefix
/// lengths in use need be kept.
fn covering(address: IpAddr) -> Vec<String> {
    let single = Source::from(address);
    (0..=single.prefix_len())
        .map(|length| Source::prefix(single.address(), length).to_string())
        .collect()
}

/// `?,?,?` for a list of `count`.
fn marks(count: usize) -> String {
    vec!["?"; count].join(",")
}

/// As SQL's LIMIT takes it.
fn bound(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
