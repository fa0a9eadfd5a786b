//! What ipset says of sets and of the elements in them, read.

use super::Family;
use super::sets::LONGEST;
use super::words::split;
use crate::clock::Wall;
use crate::policy::Reason;
use crate::respond::note::Note;
use crate::respond::{Held, HeldClock};
use crate::source::Source;

/// What a set is like, by `ipset list -t`.
pub(super) struct Shape {
    kind: String,
    header: String,
    pub(super) maxelem: u32,
    pub(super) entries: usize,
}

impl Shape {
    pub(super) fn read(all: &str, name: &str) -> Option<Self> {
        let mut lines = all
            .lines()
            .skip_while(|line| line.strip_prefix("Name: ") != Some(name));
        lines.next()?;
        let lines: Vec<&str> = lines
            .take_while(|line| !line.starts_with("Name: "))
            .collect();
        let value = |key: &str| {
            lines
                .iter()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
        };
        let header = value("Header")?;
        let mut words = header.split(' ');
        Some(Self {
            kind: value("Type")?.to_owned(),
            header: header.to_owned(),
            maxelem: words
                .find(|word| *word == "maxelem")
                .and_then(|_| words.next()?.parse().ok())?,
            entries: value("Number of entries")?.parse().ok()?,
        })
    }

    pub(super) fn is_like(&self, kind: &str, family: Family) -> bool {
        let header = format!(" {} ", self.header);
        let family = format!(" family {} ", family.inet());
        let has = |what: &str| header.contains(what);
        self.kind == kind && has(&family) && has(" timeout ") && has(" comment ")
    }
}

/// Whom a line of `ipset save` puts into the set of this name.
pub(super) fn element(line: &str, name: &str) -> Option<Source> {
    let mut words = line.split(' ');
    let is_element = (words.next()?, words.next()?) == ("add", name);
    words.next().filter(|_| is_element)?.parse().ok()
}

/// A line of `ipset save` as a ban; `None` for any other line. Who adds an element by hand need not write what we do.
pub(super) fn held(line: &str, name: &str, now: Wall) -> Option<Held> {
    let source = element(line, name)?;
    let words = split(line)?;
    let mut words = words.iter().map(String::as_str).skip(3);
    let (mut timeout, mut comment) = (None, None);
    while let Some(key) = words.next() {
        match key {
            "timeout" => timeout = Some(words.next()?.parse::<u64>().ok()?),
            "comment" => comment = Some(words.next()?),
            _ => return None,
        }
    }
    let left = timeout
        .filter(|seconds| *seconds > 0)
        .map(|seconds| seconds.saturating_mul(1000));
    let noted = comment
        .and_then(Note::parse)
        .map(|note| note.held(source, now));
    let Some(noted) = noted else {
        return Some(Held {
            source,
            reason: comment.map(Reason::parse),
            clock: left.map(|left| HeldClock { length: left, left }),
        });
    };
    let clock = match (noted.clock, left) {
        // Longer than a timeout can be: the note knows.
        (Some(clock), _) if clock.length > LONGEST * 1000 => Some(clock),
        (Some(clock), Some(left)) => Some(HeldClock {
            length: clock.length.max(left),
            left,
        }),
        (_, left) => left.map(|left| HeldClock { length: left, left }),
    };
    Some(Held { clock, ..noted })
}
