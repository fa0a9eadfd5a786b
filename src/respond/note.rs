//! What is written beside a ban where the world has no place for it: since when, until when, and why.

use std::fmt;

use jiff::Timestamp;

use super::{Held, HeldClock};
use crate::clock::Wall;
use crate::policy::{Ban, Reason};
use crate::source::Source;

/// Reads as `from 2026-11-23T11:50:00Z until 2026-11-23T12:00:00Z: syn scan, 3 tcp ports, last 23`, and back. It has no quotes,
/// no backslashes and no line breaks, whatever a ban's reason was made of, and is shorter than 200 characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    from: Timestamp,
    /// `None`: for ever.
    until: Option<Timestamp>,
    reason: Reason,
}

impl Note {
    pub(super) fn of(ban: &Ban) -> Self {
        Self {
            from: timestamp(ban.start),
            until: ban.end.map(|end| timestamp(end.wall)),
            reason: Reason::parse(&ban.reason.to_string()),
        }
    }

    /// Reads what [`Display`](fmt::Display) wrote, and nothing else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (from, words) = text.strip_prefix("from ")?.split_once(' ')?;
        let (until, reason) = words.split_once(": ")?;
        let until = match until {
            "for ever" => None,
            until => Some(until.strip_prefix("until ")?.parse().ok()?),
        };
        let note = Self {
            from: from.parse().ok()?,
            until,
            reason: Reason::parse(reason),
        };
        (note.to_string() == text).then_some(note)
    }

    /// The ban of `source` that this stands beside, with nothing left for one that is over.
    pub(super) fn held(&self, source: Source, now: Wall) -> Held {
        let wall = |timestamp: Timestamp| Wall(timestamp.as_millisecond());
        let millis =
            |end: Wall, start: Wall| u64::try_from(end.0.saturating_sub(start.0)).unwrap_or(0);
        let reason = Some(self.reason.clone());
        Held {
            source,
            reason: reason.filter(|reason| *reason != Reason::Text("".into())),
            clock: self.until.map(|until| HeldClock {
                length: millis(wall(until), wall(self.from)),
                left: millis(wall(until), now),
            }),
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from {} ", self.from)?;
        match self.until {
            Some(until) => write!(f, "until {until}: {}", self.reason),
            None => write!(f, "for ever: {}", self.reason),
        }
    }
}

/// To the second before, and within the years that can be written. A ban that is over by history must not seem to run on
/// here: it would be taken for another one.
fn timestamp(at: Wall) -> Timestamp {
    let nearest = if at.0 < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    };
    Timestamp::from_second(at.0.div_euclid(1000)).unwrap_or(nearest)
}
