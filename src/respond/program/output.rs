//! What a program says, as far as it is kept, and made fit for a log. Others may have a hand in it: a program may well pass on
//! what it was told of a scanner.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read as _;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

/// The last of what a program says.
pub(super) struct Output {
    /// `None`: nobody has the other end any more.
    pub(super) pipe: Option<File>,
    tail: VecDeque<u8>,
    /// Bytes that are kept.
    most: usize,
    is_cut: bool,
}

/// Characters of it that are shown.
const OUTPUT_SHOWN: usize = 512;

impl Output {
    pub(super) fn of(pipe: OwnedFd, most: usize) -> Self {
        Self {
            pipe: Some(pipe.into()),
            tail: VecDeque::new(),
            most,
            is_cut: false,
        }
    }

    /// Takes what is there, up to a bound: whoever talks without end is not listened to without end.
    pub(super) fn take(&mut self) {
        // In sixteen rounds as much as a pipe holds.
        let mut bytes = [0; 4096];
        for _ in 0..16 {
            let Some(pipe) = &mut self.pipe else { return };
            match pipe.read(&mut bytes) {
                Ok(0) => self.pipe = None,
                Ok(length) => {
                    self.tail.extend(&bytes[..length]);
                    let excess = self.tail.len().saturating_sub(self.most);
                    self.is_cut |= excess > 0;
                    self.tail.drain(..excess);
                }
                Err(_) => return,
            }
        }
    }

    /// All that the program said; `None`: it was more than is kept.
    pub(super) fn whole(self) -> Option<Vec<u8>> {
        (!self.is_cut).then(|| self.tail.into())
    }

    /// These words, and behind them the last that the program said, if anything.
    pub(super) fn after(&mut self, words: &str) -> String {
        let text = String::from_utf8_lossy(self.tail.make_contiguous());
        let text = text.trim();
        if text.is_empty() {
            return words.to_owned();
        }
        let skipped = text.chars().count().saturating_sub(OUTPUT_SHOWN);
        let last: String = text.chars().skip(skipped).collect();
        let cut = if skipped > 0 { "…" } else { "" };
        format!("{words}: {cut}{}", printable(&last, OUTPUT_SHOWN))
    }
}

/// Fit for a log: what cannot be seen is escaped, and it is not too long.
pub(in crate::respond) fn printable(text: &str, most: usize) -> String {
    let mut printable = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == most {
            printable.push('…');
            break;
        }
        if c.is_control() || UNSEEN.iter().any(|unseen| unseen.contains(&c)) {
            printable.extend(c.escape_default());
        } else {
            printable.push(c);
        }
    }
    printable
}

/// Characters that have no looks, but change those of others: their direction, or where a line ends.
const UNSEEN: [RangeInclusive<char>; 4] = [
    '\u{200b}'..='\u{200f}',
    '\u{2028}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{feff}'..='\u{feff}',
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_escaped() {
        for (said, shown) in [
            ("a\nb", r"a\nb"),
            ("caf\u{e9}", "caf\u{e9}"),
            ("\u{202e}moor", r"\u{202e}moor"),
            ("one\u{2028}two", r"one\u{2028}two"),
        ] {
            assert_eq!(printable(said, 20), shown);
        }
        assert_eq!(printable("abcdef", 3), "abc…");
    }
}
