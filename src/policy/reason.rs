//! Why a ban is: the words that an admin reads in the set's comment, in the log and in history.
//!
//! They are written so that they survive in an nft comment, a log line and a terminal, and a scan reads back from them.

use std::fmt;
use std::sync::Arc;

use crate::probe::{Protocol, ScanType};

/// Why a source was banned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It scanned.
    Scan(Summary),
    /// In somebody's words: an admin's, or a comment found in the kernel.
    Text(Arc<str>),
}

/// A scan in one line: `syn scan, 3 tcp ports, last 23`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The type that all its probes shared; `None` where they differ: `mixed scan`.
    pub scan_type: Option<ScanType>,
    /// The protocol that all its probes shared; `None` where they differ: `3 ports`.
    pub protocol: Option<Protocol>,
    /// How many were counted when the trigger was reached.
    pub count: u16,
    /// What was counted.
    pub unit: Unit,
    /// The port of the last probe.
    pub last_port: u16,
}

/// What adds up to a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Distinct ports.
    Ports,
    /// Hits, as 1.2 counts.
    Hits,
}

impl Reason {
    /// Characters a reason may have: a comment with others makes a saved ruleset unloadable.
    pub const MAX_LEN: usize = 100;

    /// Reads what [`Display`](fmt::Display) wrote, and takes any other text as somebody's words.
    /// Characters that would not survive in an nft comment become `?`, and text beyond [`MAX_LEN`](Self::MAX_LEN) is cut.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        if let Some(summary) = Summary::parse(text) {
            return Self::Scan(summary);
        }
        let clean = text
            .chars()
            .take(Self::MAX_LEN)
            .map(|c| if is_plain(c) { c } else { '?' });
        Self::Text(clean.collect::<String>().into())
    }
}

/// Whether `c` is safe in an nft comment, a log line and a terminal alike.
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || " ._:/,=-".contains(c)
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scan(summary) => summary.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match (self.unit, self.count) {
            (Unit::Ports, 1) => "port",
            (Unit::Ports, _) => "ports",
            (Unit::Hits, 1) => "hit",
            (Unit::Hits, _) => "hits",
        };
        let scan_type = self.scan_type.map_or("mixed", ScanType::name);
        write!(f, "{scan_type} scan, {} ", self.count)?;
        if let Some(protocol) = self.protocol {
            write!(f, "{protocol} ")?;
        }
        write!(f, "{unit}, last {}", self.last_port)
    }
}

impl Summary {
    /// Whether all its probes were TCP handshakes that were completed: nobody can do so in another's name.
    #[must_use]
    pub fn is_confirmed(self) -> bool {
        (self.protocol, self.scan_type) == (Some(Protocol::Tcp), Some(ScanType::Connect))
    }

    /// Reads what [`Display`](fmt::Display) wrote, and nothing else.
    fn parse(text: &str) -> Option<Self> {
        let (scan_type, rest) = text.split_once(" scan, ")?;
        let scan_type = match scan_type {
            "mixed" => None,
            name => Some(
                ScanType::ALL
                    .into_iter()
                    .find(|known| known.name() == name)?,
            ),
        };
        let (counted, last_port) = rest.split_once(", last ")?;
        let mut words = counted.split(' ');
        let count = words.next()?.parse().ok()?;
        let (protocol, unit) = match (words.next()?, words.next(), words.next()) {
            ("tcp", Some(unit), None) => (Some(Protocol::Tcp), unit),
            ("udp", Some(unit), None) => (Some(Protocol::Udp), unit),
            (unit, None, None) => (None, unit),
            _ => return None,
        };
        let unit = match unit {
            "port" | "ports" => Unit::Ports,
            "hit" | "hits" => Unit::Hits,
            _ => return None,
        };
        let summary = Self {
            scan_type,
            protocol,
            count,
            unit,
            last_port: last_port.parse().ok()?,
        };
        (summary.to_string() == text).then_some(summary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_reads_as_an_admin_would_say_it_and_back() {
        for text in [
            "syn scan, 3 tcp ports, last 23",
            "udp scan, 1 udp port, last 53",
            "mixed scan, 4 ports, last 161",
            "odd-flags scan, 2 tcp hits, last 1",
        ] {
            let reason = Reason::parse(text);
            assert!(matches!(reason, Reason::Scan(_)), "{text}");
            assert_eq!(reason.to_string(), text);
        }
    }

    #[test]
    fn other_words_are_kept_but_disarmed() {
        for (text, kept) in [
            ("tired of this one", "tired of this one"),
            (
                "syn scan, 03 tcp ports, last 23",
                "syn scan, 03 tcp ports, last 23",
            ),
            ("a \"quoted\"\nline", "a ?quoted??line"),
        ] {
            assert_eq!(Reason::parse(text), Reason::Text(kept.into()));
        }
        assert_eq!(
            Reason::parse(&"x".repeat(300)).to_string().len(),
            Reason::MAX_LEN
        );
    }
}
