//! 1.2's text into its settings: which line sets a key, and where its value begins and ends.
//!
//! As 1.2 has it: a key begins its line, its value stands between the first two quotes, what is not known is ignored,
//! and of a key that is set twice the first counts. What any key means is not known here.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::super::complaint::{nearest, quoted};
use super::Notes;

/// 1.2's keys.
pub(super) const KEYS: &[&str] = &[
    "TCP_PORTS",
    "UDP_PORTS",
    "ADVANCED_PORTS_TCP",
    "ADVANCED_PORTS_UDP",
    "ADVANCED_EXCLUDE_TCP",
    "ADVANCED_EXCLUDE_UDP",
    "IGNORE_FILE",
    "HISTORY_FILE",
    "BLOCKED_FILE",
    "RESOLVE_HOST",
    "BLOCK_UDP",
    "BLOCK_TCP",
    "KILL_ROUTE",
    "KILL_HOSTS_DENY",
    "KILL_RUN_CMD",
    "KILL_RUN_CMD_FIRST",
    "SCAN_TRIGGER",
    "PORT_BANNER",
];

/// A key's value, and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting<'a> {
    pub(super) key: &'static str,
    pub(super) value: &'a str,
    /// Where in the text the value begins.
    pub(super) start: usize,
}

/// Each key's first value.
#[derive(Default)]
pub(super) struct Settings<'a> {
    found: BTreeMap<&'static str, Setting<'a>>,
    /// Keys that are set in a way that cannot be read, which has been complained about.
    spoilt: BTreeSet<&'static str>,
}

impl<'a> Settings<'a> {
    pub(super) fn get(&self, key: &str) -> Option<Setting<'a>> {
        self.found.get(key).copied()
    }

    /// Whether the key is set, but its value cannot be read.
    pub(super) fn is_spoilt(&self, key: &str) -> bool {
        self.spoilt.contains(key)
    }
}

impl Setting<'_> {
    /// Where in the text the value stands.
    pub(super) fn span(&self) -> Range<usize> {
        self.start..self.start + self.value.len()
    }
}

/// Reads all lines. Bytes that are not UTF-8 must have become U+FFFD.
pub(super) fn read<'a>(text: &'a str, notes: &mut Notes<'_>) -> Settings<'a> {
    let mut settings = Settings::default();
    let mut next = 0;
    for line in text.split_inclusive('\n') {
        let mut start = next;
        next += line.len();
        let mut line = line.trim_end_matches(['\n', '\r']);
        if let Some(rest) = line.strip_prefix('\u{feff}').filter(|_| start == 0) {
            start += line.len() - rest.len();
            line = rest;
        }
        let shown = line.trim_start();
        if shown.is_empty() || shown.starts_with('#') {
            continue;
        }
        if let Some(nul) = line.find('\0') {
            let place = start + nul;
            notes.refuse(
                place..place + 1,
                "a NUL character stands here; take it out, or save the file anew as plain text",
            );
            settings.spoilt.extend(key(line).0);
            continue;
        }
        let (Some(key), end) = key(line) else {
            notes.warn_of_line(start, |_| unknown(line));
            continue;
        };
        if let Some(first) = settings.get(key) {
            notes.warn_of_line(start, |notes| {
                let first = notes.line(first.start);
                format!("{key} is set a second time; as in 1.2 line {first} counts, take one out")
            });
            continue;
        }
        if settings.is_spoilt(key) {
            continue;
        }
        if !line[end..]
            .trim_start_matches([' ', '\t', '='])
            .starts_with('"')
        {
            notes.say_of_line(|| {
                format!("adminalert: Quotes missing from {key} token. Option skipped")
            });
            notes.warn_of_line(start, |_| {
                format!(
                    "{key} has no quote before its value; to put it into force, write {key}=\"…\""
                )
            });
            continue;
        }
        match value(key, line, end, start, notes) {
            Some(value) => settings.found.insert(key, value).map_or((), drop),
            None => drop(settings.spoilt.insert(key)),
        }
    }
    settings
}

/// The key that a line begins with, and how long what it begins with is.
fn key(line: &str) -> (Option<&'static str>, usize) {
    let end = line.find(['=', ' ', '\t', '"']).unwrap_or(line.len());
    let key = KEYS.iter().find(|&&key| key == &line[..end]);
    (key.copied(), end)
}

/// What stands between the first two quotes of a line that begins at `start` and has its key up to `end`.
fn value<'a>(
    key: &'static str,
    line: &'a str,
    end: usize,
    start: usize,
    notes: &mut Notes<'_>,
) -> Option<Setting<'a>> {
    let (_, quoted_value) = line[end..].split_once('"')?;
    let place = start + line.len() - quoted_value.len();
    let mut value = match quoted_value.split_once('"') {
        Some((value, after)) => {
            let after = after.trim();
            if !after.is_empty() && !after.starts_with('#') {
                notes.warn(
                    place,
                    format!(
                        "what follows the second quote of {key} is not read: {}; \
                         within a value, write single quotes",
                        quoted(after)
                    ),
                );
            }
            value
        }
        None => {
            notes.warn(
                place,
                format!("{key} has no quote behind its value; as in 1.2 the line's end ends it"),
            );
            quoted_value.trim_end()
        }
    };
    let alien = |char: char| char == '\u{fffd}' || (char.is_control() && char != '\t');
    if let Some(at) = value.find(alien) {
        let what = "has a character that is not UTF-8 or cannot be printed";
        if key != "PORT_BANNER" {
            let place = place + at;
            notes.refuse(
                place..place + 1,
                format!("{key} {what}; take it out, or save the file as UTF-8"),
            );
            return None;
        }
        notes.warn(place, format!("{key} {what}; as in 1.2 it is cut there"));
        value = &value[..at];
    }
    Some(Setting {
        key,
        value,
        start: place,
    })
}

/// The words for a line that sets nothing.
fn unknown(line: &str) -> String {
    if let (Some(key), _) = key(line.trim_start()) {
        return format!(
            "{key} has blanks before it and is ignored, as in 1.2; to put it into force, move it to the line's start"
        );
    }
    let (_, end) = key(line);
    let (word, kind) = match &line[..end] {
        "" => (line.trim(), "a line that sets nothing"),
        word => (word, "an unknown key"),
    };
    let near = nearest(word, KEYS).map_or(String::new(), |near| format!("; did you mean {near}?"));
    format!("{kind} is ignored, as in 1.2: {}{near}", quoted(word))
}
