//! One row of history, and its way from the file into types.
//!
//! A row that cannot be read (somebody else wrote it) is an error here; the queries leave it out.

use rusqlite::types::Type;

use crate::clock::{Now, Wall};
use crate::policy::{Ban, End, Origin, Reason, Uid};
use crate::source::Source;

/// A ban, or a scan that was only logged, as history keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Grows with every row.
    pub id: i64,
    /// Whom.
    pub source: Source,
    /// Why.
    pub reason: Reason,
    /// Who decided it.
    pub origin: Origin,
    /// Who ordered it, where that is known.
    pub by: Option<Uid>,
    /// What was done.
    pub response: Response,
    /// When it began.
    pub start: Wall,
    /// When it was to end; `None`: never, or nothing to end.
    pub end: Option<Wall>,
    /// How it ended before that.
    pub ended: Option<Ended>,
}

/// What a scan led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// A ban.
    Ban,
    /// Nothing but this row.
    Log,
}

/// The end of a ban before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// When.
    pub at: Wall,
    /// In which way.
    pub how: Ending,
    /// Who ended it.
    pub by: Option<Box<str>>,
}

/// The ways in which a ban ends before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// Somebody lifted it: by a command of ours, or out of the kernel's set.
    Unban,
    /// Its source is on the list of those who are never banned.
    Ignored,
    /// A newer ban of the same source took its place.
    Replaced,
}

impl Row {
    /// What every history has.
    pub(super) const COLUMNS: &str =
        "id, source, reason, origin, response, started, ends, ended, ended_how, ended_by";

    /// What one has that has been opened for writing since there is this.
    pub(super) const BY: &str = "banned_by";

    /// Reads [`COLUMNS`](Self::COLUMNS), and [`BY`](Self::BY) behind them.
    pub(super) fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        let ended = match row.get(7)? {
            Some(at) => Some(Ended {
                at: Wall(at),
                how: parsed(row, 8, Ending::from_name)?,
                by: row.get::<_, Option<String>>(9)?.map(Box::from),
            }),
            None => None,
        };
        Ok(Self {
            id: row.get(0)?,
            source: parsed(row, 1, |text| text.parse().ok())?,
            reason: parsed(row, 2, |text| Some(Reason::parse(text)))?,
            origin: parsed(row, 3, Origin::from_name)?,
            by: row
                .get::<_, Option<String>>(10)?
                .and_then(|text| Uid::parse(&text)),
            response: parsed(row, 4, Response::from_name)?,
            start: Wall(row.get(5)?),
            end: row.get::<_, Option<i64>>(6)?.map(Wall),
            ended,
        })
    }

    /// Whether this is a ban that runs at `now`.
    #[must_use]
    pub fn runs(&self, now: Wall) -> bool {
        self.response == Response::Ban
            && self.ended.is_none()
            && self.end.is_none_or(|end| end > now)
    }

    /// The ban, with what is left of it from `now` on. A clock that was set back gives no ban more than its whole length.
    pub(super) fn into_ban(self, now: Now) -> Ban {
        let end = self.end.map(|wall| End {
            mono: now.mono.later(wall.since(now.wall.max(self.start))),
            wall,
        });
        Ban {
            source: self.source,
            reason: self.reason,
            origin: self.origin,
            by: self.by,
            start: self.start,
            end,
        }
    }
}

/// Reads a text column by `parse`.
fn parsed<T>(
    row: &rusqlite::Row<'_>,
    column: usize,
    parse: impl Fn(&str) -> Option<T>,
) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?.as_str()?;
    parse(text).ok_or_else(|| {
        rusqlite::Error::FromSqlConversionFailure(
            column,
            Type::Text,
            format!("unknown word \"{}\"", text.escape_default()).into(),
        )
    })
}

impl Response {
    /// The word that the file keeps: `ban`, `log`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ban => "ban",
            Self::Log => "log",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Ban, Self::Log]
            .into_iter()
            .find(|known| known.name() == name)
    }
}

impl Ending {
    /// The word that the file keeps: `unban`, `ignored`, `replaced`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unban => "unban",
            Self::Ignored => "ignored",
            Self::Replaced => "replaced",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Unban, Self::Ignored, Self::Replaced]
            .into_iter()
            .find(|known| known.name() == name)
    }

    /// Whether somebody asked for it, and may have been told that it is done.
    pub(super) fn is_asked(self) -> bool {
        matches!(self, Self::Unban | Self::Ignored)
    }
}
