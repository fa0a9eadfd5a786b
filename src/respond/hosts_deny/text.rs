//! The text of a hosts.deny, taken apart into what is ours and what is not, and put together again.
//!
//! Ours are pairs of lines: a mark, which tells us whom, since when, until when and why, and below it the line that
//! libwrap reads. Everything else is somebody's, and goes back byte by byte. Files are `file`'s business.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use crate::policy::Ban;
use crate::respond::note::Note;
use crate::source::Source;

/// Where the source goes in a [`Template`].
const PLACE: &str = "{source}";

/// Bytes a line may have: libwrap reads no longer ones (BUFLEN of its tcpd.h, newline and zero included). What an
/// address takes more than its place is allowed for.
const MAX_TEMPLATE: usize = 1900;

/// The line that a ban becomes, from the configuration: `ALL: {source}`.
#[derive(Clone, Debug)]
pub(super) struct Template(String);

impl Template {
    /// # Errors
    /// Why no ban could be written, or be recognised later, by this line.
    pub(super) fn new(line: &str) -> Result<Self, &'static str> {
        if !line.contains(PLACE) {
            return Err("it lacks {source}, the place of the address");
        }
        if line.contains(|c: char| c.is_control() && c != '\t') {
            return Err("it has a line break or a control character in it");
        }
        if line.starts_with('#') {
            return Err("it begins with #, which makes it a comment");
        }
        if line.ends_with('\\') {
            return Err("it ends with a backslash, which joins it to the next line");
        }
        if line.len() + line.matches(PLACE).count() * 64 > MAX_TEMPLATE {
            return Err("it is longer than tcp_wrappers can read");
        }
        Ok(Self(line.to_owned()))
    }

    /// The line that bans `source`.
    pub(super) fn line(&self, source: Source) -> String {
        self.0.replace(PLACE, &pattern(source))
    }
}

/// How libwrap wants a source written, see hosts_access(5). A mask is understood by every version, a length after an IPv4
/// address by newer ones, and /0 by none. An IPv6 prefix has its length behind the brackets.
fn pattern(source: Source) -> String {
    match source.address() {
        IpAddr::V4(address) if source.is_address() => address.to_string(),
        IpAddr::V4(address) => {
            let host_bits = u32::MAX.checked_shr(source.prefix_len().into());
            let mask = Ipv4Addr::from_bits(!host_bits.unwrap_or(0));
            format!("{address}/{mask}")
        }
        IpAddr::V6(address) if source.is_address() => format!("[{address}]"),
        IpAddr::V6(address) => format!("[{address}]/{}", source.prefix_len()),
    }
}

/// The text, taken apart.
pub(super) struct Text<'a> {
    pieces: Vec<Piece<'a>>,
    /// Bytes that it had when it was parsed.
    len: usize,
}

enum Piece<'a> {
    Theirs(&'a [u8]),
    Ours(Entry),
}

/// A ban in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// Line breaks right above that are ours too: the text before lacked them.
    breaks: usize,
    mark: Mark,
    line: Vec<u8>,
}

/// What the mark says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) source: Source,
    pub(super) note: Note,
}

impl<'a> Text<'a> {
    pub(super) fn parse(bytes: &'a [u8], template: &Template) -> Self {
        let mut pieces = Vec::new();
        let (mut theirs, mut at) = (0, 0);
        while let Some(end) = line_end(bytes, at) {
            let Some((entry, after)) = Entry::parse(bytes, at, end, template) else {
                at = end;
                continue;
            };
            let before = &bytes[theirs..at];
            // Somebody may have taken our line break away since.
            let breaks = if before.ends_with(&BREAKS[..entry.breaks]) {
                entry.breaks
            } else {
                0
            };
            if before.len() > breaks {
                pieces.push(Piece::Theirs(&before[..before.len() - breaks]));
            }
            pieces.push(Piece::Ours(Entry { breaks, ..entry }));
            (theirs, at) = (after, after);
        }
        if theirs < bytes.len() {
            pieces.push(Piece::Theirs(&bytes[theirs..]));
        }
        let len = bytes.len();
        Self { pieces, len }
    }

    /// What the text says of our bans.
    pub(super) fn marks(&self) -> impl Iterator<Item = &Mark> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Ours(entry) => Some(&entry.mark),
            Piece::Theirs(_) => None,
        })
    }

    /// Puts bans in: where the source's line stands already, else at the end. Gives back those that would make the text
    /// longer than `limit` bytes.
    pub(super) fn put(&mut self, bans: &[&Ban], template: &Template, limit: usize) -> Vec<Source> {
        let mut places: HashMap<Source, usize> = HashMap::new();
        for (place, piece) in self.pieces.iter().enumerate() {
            if let Piece::Ours(entry) = piece {
                places.entry(entry.mark.source).or_insert(place);
            }
        }
        let mut without_room = Vec::new();
        let mut room = limit.saturating_sub(self.len);
        for ban in bans {
            let entry = Entry {
                breaks: 0,
                mark: Mark::of(ban),
                line: template.line(ban.source).into_bytes(),
            };
            if let Some(Piece::Ours(there)) = places
                .get(&ban.source)
                .map(|&place| &mut self.pieces[place])
            {
                *there = Entry {
                    breaks: there.breaks,
                    ..entry
                };
                continue;
            }
            let breaks = match self.pieces.last() {
                Some(Piece::Theirs(text)) => breaks_after(text),
                _ => 0,
            };
            let entry = Entry { breaks, ..entry };
            let Some(rest) = room.checked_sub(entry.len()) else {
                without_room.push(ban.source);
                continue;
            };
            room = rest;
            places.insert(ban.source, self.pieces.len());
            self.pieces.push(Piece::Ours(entry));
        }
        without_room
    }

    /// Takes the bans of these sources out.
    pub(super) fn take(&mut self, sources: &HashSet<Source>) {
        self.retain(|mark| !sources.contains(&mark.source));
    }

    /// Takes all of ours out.
    pub(super) fn clear(&mut self) {
        self.retain(|_| false);
    }

    /// Line breaks of ours pass to what comes next, and go with the last of us.
    fn retain(&mut self, keep: impl Fn(&Mark) -> bool) {
        let mut breaks = 0;
        for piece in std::mem::take(&mut self.pieces) {
            match piece {
                Piece::Ours(entry) if !keep(&entry.mark) => breaks += entry.breaks,
                Piece::Ours(entry) => self.pieces.push(Piece::Ours(Entry {
                    breaks: entry.breaks + std::mem::take(&mut breaks),
                    ..entry
                })),
                Piece::Theirs(text) => {
                    if breaks > 0 {
                        self.pieces
                            .push(Piece::Theirs(&BREAKS[..std::mem::take(&mut breaks)]));
                    }
                    self.pieces.push(Piece::Theirs(text));
                }
            }
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Theirs(text) => bytes.extend_from_slice(text),
                Piece::Ours(entry) => entry.write(&mut bytes),
            }
        }
        bytes
    }
}

/// As many line breaks as one of our lines may need above it.
const BREAKS: &[u8] = b"\n\n";

/// Line breaks that keep a line of ours from becoming a part of `text`: where its last line has no end, and where a backslash
/// there joins what follows to it.
fn breaks_after(text: &[u8]) -> usize {
    match text {
        [.., b'\\', b'\n'] => 1,
        [] | [.., b'\n'] => 0,
        [.., b'\\'] => 2,
        [..] => 1,
    }
}

/// Where the line that begins at `at` ends, its line break included; `None` at the end of the text.
fn line_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
    let length = rest.iter().position(|&byte| byte == b'\n');
    Some(length.map_or(bytes.len(), |length| at + length + 1))
}

impl Entry {
    /// The entry whose mark is the line `at..end`, and where it ends. A mark above a line that is not for its source is what an
    /// editor left, and nobody's.
    fn parse(bytes: &[u8], at: usize, end: usize, template: &Template) -> Option<(Self, usize)> {
        let (breaks, mark) = Mark::parse(bytes[at..end].strip_suffix(b"\n")?)?;
        let after = line_end(bytes, end)?;
        let line = &bytes[end..after];
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let is_ours =
            line == template.line(mark.source).as_bytes() || names(line, &pattern(mark.source));
        let line = line.to_owned();
        is_ours.then_some((Self { breaks, mark, line }, after))
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&BREAKS[..self.breaks]);
        bytes.extend_from_slice(self.mark.line(self.breaks).as_bytes());
        bytes.push(b'\n');
        bytes.extend_from_slice(&self.line);
        bytes.push(b'\n');
    }

    fn len(&self) -> usize {
        self.breaks + self.mark.line(self.breaks).len() + self.line.len() + 2
    }
}

/// Whether `pattern` stands in `line` by itself: 192.0.2.1 does not in 192.0.2.10, nor in a comment. For lines by an earlier
/// configuration.
fn names(line: &[u8], pattern: &str) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"./".contains(byte);
    let Some(line) = std::str::from_utf8(line)
        .ok()
        .filter(|it| !it.contains('#'))
    else {
        return false;
    };
    line.match_indices(pattern).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + pattern.len()..]);
        !before.as_bytes().last().is_some_and(is_part)
            && !after.as_bytes().first().is_some_and(is_part)
    })
}

/// How a mark begins, by the number of line breaks above that are ours.
const BEGINNINGS: [&str; 3] = [
    "# portsentry: ",
    "# portsentry (the line break above, too): ",
    "# portsentry (two line breaks above, too): ",
];

impl Mark {
    fn of(ban: &Ban) -> Self {
        Self {
            source: ban.source,
            note: Note::of(ban),
        }
    }

    /// Reads what [`line`](Self::line) wrote, and nothing else.
    pub(super) fn parse(line: &[u8]) -> Option<(usize, Self)> {
        let line = std::str::from_utf8(line).ok()?;
        let (breaks, words) = BEGINNINGS
            .iter()
            .enumerate()
            .find_map(|(breaks, beginning)| Some((breaks, line.strip_prefix(beginning)?)))?;
        let (source, note) = words.split_once(' ')?;
        let mark = Self {
            source: source.parse().ok()?,
            note: Note::parse(note)?,
        };
        (mark.line(breaks) == line).then_some((breaks, mark))
    }

    fn line(&self, breaks: usize) -> String {
        format!("{}{self}", BEGINNINGS[breaks])
    }
}

/// `203.0.113.7 from 2026-11-23T11:50:00Z until 2026-11-23T12:00:00Z: syn scan, 3 tcp ports, last 23`. The source stands there
/// so that whoever takes it out of the file with sed takes both lines.
impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.source, self.note)
    }
}
