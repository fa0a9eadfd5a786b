//! What is torn in a TOML text, told in words for an admin, and the text mended so that the rest of it can be read.

use std::ops::Range;
use std::path::Path;

use toml::de::DeTable;

use super::complaint::{Complaint, quoted};
use super::value::{Fault, MAX_FAULTS};

/// A text without what is torn in it.
#[derive(Debug)]
pub(super) struct Readable {
    /// As long as the original, and with everything else in its place.
    pub(super) text: String,
    /// What is torn: one fault a line, and no more than are shown.
    pub(super) faults: Vec<Fault>,
    /// The lines that these stand in.
    torn: Vec<Range<usize>>,
}

impl Readable {
    /// The parser reads on after most errors, but not after a key without `=`: such lines are blanked, for it to reach
    /// the end of the text.
    pub(super) fn of(text: &str) -> Self {
        let mut readable = Self {
            text: text.to_owned(),
            faults: Vec::new(),
            torn: Vec::new(),
        };
        while let Some(line) = readable.collect() {
            let blanks = " ".repeat(line.len());
            readable.text.replace_range(line, &blanks);
        }
        readable
    }

    /// Whether the line that `index` lies in is torn.
    pub(super) fn is_torn_at(&self, index: usize) -> bool {
        self.torn
            .iter()
            .any(|line| (line.start..=line.end).contains(&index))
    }

    /// Collects the faults, and gives the line at which the parser gave up.
    fn collect(&mut self) -> Option<Range<usize>> {
        let (_, errors) = DeTable::parse_recoverable(&self.text);
        let mut end = None;
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            if ends_parsing(error.message()) {
                end = Some(line(&self.text, span.start));
            }
            if self.is_torn_at(span.start) {
                continue;
            }
            if self.faults.len() == MAX_FAULTS {
                return None;
            }
            let found = self.text.get(span.clone()).unwrap_or_default();
            let message = syntax(error.message(), found);
            self.torn.push(line(&self.text, span.start));
            self.faults.push(Fault { span, message });
        }
        end.filter(|line| !self.text[line.clone()].trim().is_empty())
    }
}

/// Whether the parser gives up after this error. If it came to say so in other words, complaints would come
/// in instalments; a test shows that they do not.
fn ends_parsing(message: &str) -> bool {
    message.starts_with("key with no value")
}

/// The parser's words, with a remedy where they lack one. `found` is what stands at the place.
fn syntax(message: &str, found: &str) -> String {
    if found.contains('\0') {
        "a NUL character stands here; take it out, or save the file anew as plain UTF-8 text"
            .to_owned()
    } else if message == "duplicate key" {
        format!(
            "{} stands here a second time; keep one of them",
            quoted(found)
        )
    } else if ends_parsing(message) {
        "a key without a value; write key = value".to_owned()
    } else if message.starts_with("string values must be quoted") {
        "what stands here is no value; write a text in quotes, a number, true, false or a list in [ ]".to_owned()
    } else if message.starts_with("carriage return") {
        "a carriage return before this has no newline after it; take it out".to_owned()
    } else {
        message.to_owned()
    }
}

/// The text, or a complaint about the first byte that is not UTF-8.
pub(super) fn utf8(path: &Path, bytes: Vec<u8>) -> Result<String, Complaint> {
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes());
        let byte = error.as_bytes().get(good).copied().unwrap_or_default();
        Complaint::at(
            path,
            &text,
            good..good,
            format!(
                "the file is not UTF-8: a byte {byte:#04x} stands here; \
                 save it as UTF-8, or take out what is not plain English letters"
            ),
        )
    })
}

/// The line that `index` lies in, without its newline. An index at the newline lies in the line that it ends.
fn line(text: &str, index: usize) -> Range<usize> {
    let index = index.min(text.len());
    let (before, after) = text.as_bytes().split_at(index);
    let newline = |&byte: &u8| byte == b'\n';
    let start = before.iter().rposition(newline).map_or(0, |at| at + 1);
    let end = after
        .iter()
        .position(newline)
        .map_or(text.len(), |at| index + at);
    start..end
}
