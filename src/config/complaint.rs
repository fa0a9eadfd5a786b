//! What is wrong with a file, where, and what to do about it, in words for the admin who wrote it.
//!
//! Knows places and spelling, not what any key means.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One thing that is wrong: `file:line:column: cause; remedy`, the line, and a caret under the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The file.
    pub file: PathBuf,
    /// Line and column, from 1, the column in characters; `None` where the whole file is meant.
    pub place: Option<(usize, usize)>,
    /// Cause and remedy, in one line.
    pub message: String,
    /// 1.2's log line for it, where it had one.
    pub alert: Option<String>,
    /// The line and what marks the place in it, both made safe to print.
    excerpt: Option<Box<(String, String)>>,
}

/// Everything that is wrong: file by file and line by line, then what does not fit together. Empty: nothing.
///
/// Holds and shows no more than [`Complaints::MAX`]; of what is beyond, it says only that there is more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Complaints {
    shown: Vec<Complaint>,
    more: bool,
}

/// Lines up to this many characters are shown whole.
const WHOLE_LINE: usize = 120;
/// Of longer ones, this much before the place …
const BEFORE: usize = 40;
/// … and this much from it on.
const AFTER: usize = 80;
/// Of a word out of a file, no more than this is repeated.
const WORD: usize = 40;

impl Complaint {
    /// About a file as a whole.
    pub(super) fn about(file: &Path, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            place: None,
            message: message.into(),
            alert: None,
            excerpt: None,
        }
    }

    /// About `span`, in bytes, of `text`. A span that lies outside is moved to the nearest place within.
    pub(super) fn at(
        file: &Path,
        text: &str,
        span: Range<usize>,
        message: impl Into<String>,
    ) -> Self {
        let start = floor(text, span.start);
        let begin = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let number = text[..begin].matches('\n').count() + 1;
        let line = text[begin..].split('\n').next().unwrap_or_default();
        let span = start - begin..span.end.saturating_sub(begin);
        Self::on_line(file, number, line, span, message)
    }

    /// About `span`, in bytes, of `line`, which is the file's line `number`, counted from 1.
    pub(super) fn on_line(
        file: &Path,
        number: usize,
        line: &str,
        span: Range<usize>,
        message: impl Into<String>,
    ) -> Self {
        let line = line.strip_suffix('\r').unwrap_or(line);
        let start = floor(line, span.start);
        let end = floor(line, span.end).max(start);
        let column = line[..start].chars().count();

        let (mut from, mut to) = (0, line.len());
        if column + line[start..].chars().count() > WHOLE_LINE {
            from = line[..start]
                .char_indices()
                .nth_back(BEFORE - 1)
                .map_or(0, |(index, _)| index);
            to = line[start..]
                .char_indices()
                .nth(AFTER)
                .map_or(line.len(), |(index, _)| start + index);
        }
        let cut = |yes| if yes { "…" } else { "" };
        let before = format!("{}{}", cut(from > 0), printable(&line[from..start]));
        let marked = printable(&line[start..end.min(to)]);
        let after = printable(&line[end.min(to)..to]);
        let mark = format!(
            "{}^{}",
            " ".repeat(before.chars().count()),
            "~".repeat(marked.chars().count().saturating_sub(1))
        );

        Self {
            file: file.to_owned(),
            place: Some((number, column + 1)),
            message: message.into(),
            alert: None,
            excerpt: Some(Box::new((
                format!("{before}{marked}{after}{}", cut(to < line.len())),
                mark,
            ))),
        }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.file.to_string_lossy()))?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)?;
        if let Some((line, mark)) = self.excerpt.as_deref() {
            write!(f, "\n  {line}\n  {mark}")?;
        }
        Ok(())
    }
}

impl Complaints {
    /// No more than this many are kept: whoever has mended these sees the next.
    pub const MAX: usize = 50;

    /// Whether there is nothing to complain about.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }

    /// The complaints, at most [`Complaints::MAX`].
    pub fn iter(&self) -> impl Iterator<Item = &Complaint> {
        self.shown.iter()
    }

    /// Makes and keeps one more, unless there are enough: a complaint's making costs a look at its file.
    pub(super) fn add(&mut self, make: impl FnOnce() -> Complaint) {
        if self.shown.len() < Self::MAX {
            self.shown.push(make());
        } else {
            self.more = true;
        }
    }

    /// Keeps those of `others` too.
    pub(super) fn append(&mut self, others: Self) {
        self.more |= others.more;
        for complaint in others.shown {
            self.add(|| complaint);
        }
    }

    /// `value`, if there is nothing to complain about.
    pub(super) fn or<T>(self, value: T) -> Result<T, Self> {
        if self.is_empty() {
            Ok(value)
        } else {
            Err(self)
        }
    }
}

impl From<Complaint> for Complaints {
    fn from(complaint: Complaint) -> Self {
        Self {
            shown: vec![complaint],
            more: false,
        }
    }
}

impl fmt::Display for Complaints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, complaint) in self.shown.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            complaint.fmt(f)?;
        }
        if self.more {
            f.write_str("\nthere is more; mend these first")?;
        }
        Ok(())
    }
}

impl std::error::Error for Complaints {}

/// A word out of a file, in quotes, cut where it is long, and safe to print.
pub(super) fn quoted(word: &str) -> String {
    format!("\"{}\"", shortened(word, WORD))
}

/// A line out of a file as far as it is shown whole, and safe to print.
pub(super) fn line_of(line: &str) -> String {
    shortened(line, WHOLE_LINE)
}

fn shortened(text: &str, length: usize) -> String {
    match text.char_indices().nth(length) {
        Some((end, _)) => format!("{}…", printable(&text[..end])),
        None => printable(text),
    }
}

/// `; did you mean "window"?`, or where nothing is near: `; known: "trigger", "window"`.
///
/// `[` as `open` and `]` as `close` name sections, quotes everything else.
pub(super) fn suggestion(word: &str, known: &[&str], open: &str, close: &str) -> String {
    match nearest(word, known) {
        Some(near) => format!("; did you mean {open}{near}{close}?"),
        None => format!("; known: {open}{}{close}", {
            known.join(&format!("{close}, {open}"))
        }),
    }
}

/// The known word that `word` was most likely meant to be.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let length = word.chars().take(WORD + 1).count();
    if length > WORD {
        return None; // nothing we know is as long, and the comparison costs the product of the lengths
    }
    let word = word.to_lowercase().replace('-', "_");
    known
        .iter()
        .map(|&name| {
            let name_there = name.to_lowercase().replace('-', "_");
            let distance = strsim::damerau_levenshtein(&word, &name_there);
            (distance, name)
        })
        .min_by_key(|&(distance, _)| distance)
        .filter(|&(distance, _)| distance <= (length / 3).max(1))
        .map(|(_, name)| name)
}

/// The text without anything that moves a terminal's cursor, hides or turns round what follows. A tab is one blank.
pub(crate) fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\t' => safe.push(' '),
            '"' | '\'' | '\\' => safe.push(char),
            _ => safe.extend(char.escape_debug()),
        }
    }
    safe
}

/// The start of the character that `index` falls into, the end of the text for one beyond it.
fn floor(text: &str, index: usize) -> usize {
    let mut index = index.min(text.len());
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str, span: Range<usize>) -> String {
        Complaint::at(Path::new("/f"), text, span, "no").to_string()
    }

    #[test]
    fn the_caret_stands_under_the_place() {
        assert_eq!(
            at("a\n\tbé cd = 1\nz", 7..9),
            "/f:2:5: no\n   bé cd = 1\n      ^~"
        );
        assert_eq!(at("a = 1\r\nb\r\n", 0..7), "/f:1:1: no\n  a = 1\n  ^~~~~");
    }

    #[test]
    fn the_end_of_the_file_is_a_place() {
        assert_eq!(at("ab", 2..2), "/f:1:3: no\n  ab\n    ^");
        assert_eq!(at("", 9..9), "/f:1:1: no\n  \n  ^");
        assert_eq!(at("ab\n", 3..3), "/f:2:1: no\n  \n  ^");
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let text = format!("{}X{}", "ä".repeat(500_000), "b".repeat(500_000));
        let shown = at(&text, 1_000_000..1_000_001);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0], "/f:1:500001: no");
        assert_eq!(
            lines[1],
            format!("  …{}X{}…", "ä".repeat(40), "b".repeat(79))
        );
        assert_eq!(lines[2], format!("{}^", " ".repeat(43)));
    }

    #[test]
    fn nothing_from_the_file_reaches_the_terminal_raw() {
        let shown = at("a\u{1b}[2J\u{202e}\0x", 0..1);
        assert_eq!(shown, "/f:1:1: no\n  a\\u{1b}[2J\\u{202e}\\0x\n  ^");
        assert_eq!(quoted("a\u{7}\"b"), "\"a\\u{7}\"b\"");
        assert_eq!(quoted(&"x".repeat(41)), format!("\"{}…\"", "x".repeat(40)));
    }

    #[test]
    fn the_nearest_name_is_offered_only_if_it_is_near() {
        let known = ["trigger", "window", "ipv4_prefix"];
        assert_eq!(nearest("tirgger", &known), Some("trigger"));
        assert_eq!(nearest("WINDOWS", &known), Some("window"));
        assert_eq!(nearest("ipv4-prefix", &known), Some("ipv4_prefix"));
        assert_eq!(nearest("widget", &known), None);
        assert_eq!(nearest(&"trigger".repeat(200_000), &known), None);
    }

    #[test]
    fn complaints_are_bounded_and_say_so() {
        let mut all = Complaints::default();
        for line in 1..=Complaints::MAX + 1 {
            all.add(|| Complaint::on_line(Path::new("/f"), line, "x", 0..1, "no"));
        }
        assert_eq!(all.iter().count(), Complaints::MAX);
        assert!(
            all.to_string()
                .ends_with("\nthere is more; mend these first")
        );
    }
}
