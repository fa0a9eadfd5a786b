//! Values of the configuration as TOML, in the words that `value.rs` reads.
//!
//! What comes out is one line, and nothing in it moves a terminal's cursor, whatever the value holds.

use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::value::LOG_UNITS;
use super::{CommandLine, LogRate, RollUp};

/// A text in quotes.
pub(super) fn text(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            '\'' => quoted.push(char),
            _ if char.escape_debug().len() == 1 => quoted.push(char),
            _ => {
                write!(quoted, "\\U{:08x}", u32::from(char)).expect("a String takes all text");
            }
        }
    }
    quoted.push('"');
    quoted
}

/// A list of what is TOML already.
pub(super) fn list(elements: impl IntoIterator<Item = String>) -> String {
    let elements: Vec<String> = elements.into_iter().collect();
    format!("[{}]", elements.join(", "))
}

/// The word for `value`, which must be among `known`.
pub(super) fn word<T: PartialEq>(known: &[(&str, T)], value: T) -> String {
    let word = known.iter().find(|(_, meaning)| *meaning == value);
    text(word.map_or("", |(word, _)| word))
}

/// A list of such words.
pub(super) fn words<'a, T: PartialEq + Copy + 'a>(
    known: &[(&str, T)],
    values: impl IntoIterator<Item = &'a T>,
) -> String {
    list(values.into_iter().map(|&value| word(known, value)))
}

/// A path; none is an empty text.
pub(super) fn path(path: Option<&Path>) -> String {
    text(&path.map(Path::to_string_lossy).unwrap_or_default())
}

/// Ports and ranges of them.
pub(super) fn ports(ranges: &[RangeInclusive<u16>]) -> String {
    list(ranges.iter().map(|range| match range.clone().into_inner() {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("\"{first}-{last}\""),
    }))
}

/// A time; none is without an end.
pub(super) fn duration(duration: Option<Duration>) -> String {
    text(&duration.map_or_else(|| "ever".to_owned(), time))
}

/// A time as an admin would write it: in the largest unit of which it is a whole number.
pub(super) fn time(duration: Duration) -> String {
    let seconds = duration.as_secs();
    [(24 * 3600, "d"), (3600, "h"), (60, "m")]
        .into_iter()
        .find(|(unit, _)| duration.subsec_nanos() == 0 && seconds % unit == 0)
        .map_or_else(
            || humantime::format_duration(duration).to_string(),
            |(unit, name)| format!("{}{name}", seconds / unit),
        )
}

/// So many in so long; none is an empty text.
pub(super) fn log_rate(rate: Option<LogRate>) -> String {
    let unit = |per| LOG_UNITS.iter().find(|(_, length)| *length == per);
    text(&match rate {
        Some(LogRate { packets, per }) => {
            format!("{packets}/{}", unit(per).map_or("", |(name, _)| name))
        }
        None => String::new(),
    })
}

/// So many bans in a prefix of such a length.
pub(super) fn rollup(RollUp { count, prefix_len }: &RollUp) -> String {
    text(&format!("{count} in /{prefix_len}"))
}

/// A program and its arguments as a list, a line for the shell as a text; none is an empty list.
pub(super) fn command(command: Option<&CommandLine>) -> String {
    match command {
        Some(CommandLine::Argv(words)) => list(words.iter().map(|word| text(word))),
        Some(CommandLine::Shell(line)) => text(line),
        None => list([]),
    }
}
