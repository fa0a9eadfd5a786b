//! [`Value`]: one value of the configuration, read as the type its key has, or refused in words.
//!
//! Knows types and how to say that something is not of one; which key has which is in `keys.rs`.

use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeInteger, DeValue};

use super::complaint::{quoted, suggestion};
use super::ignore::Whom;
use super::{CommandLine, LogRate, RollUp};

/// What stands behind a key, and where.
#[derive(Clone, Debug)]
pub(super) struct Value<'a> {
    key: &'static str,
    span: Range<usize>,
    inner: &'a DeValue<'a>,
}

/// Something wrong at a place of a text, in bytes.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) span: Range<usize>,
    pub(super) message: String,
}

/// All that is wrong with one value; never empty where it is an error.
pub(super) type Faults = Vec<Fault>;

/// More faults than this need not be collected: complaints are bounded anyway.
pub(super) const MAX_FAULTS: usize = super::complaint::Complaints::MAX + 1;

/// Longer is for ever, and must be said so: time arithmetic need not fear it then.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// What `nftables.log` counts in.
pub(super) const LOG_UNITS: &[(&str, Duration)] = &[
    ("second", Duration::from_secs(1)),
    ("minute", Duration::from_secs(60)),
    ("hour", Duration::from_secs(3600)),
    ("day", Duration::from_secs(24 * 3600)),
];

/// A longer banner is refused: it is said to everybody who connects.
pub(super) const BANNER_BYTES: usize = 1024;

/// What commands are told.
const PLACEHOLDERS: &[&str] = &["{source}", "{port}", "{mode}"];

/// What the kernel takes in `sun_path`, without the NUL.
const SOCKET_PATH_BYTES: usize = 107;

impl<'a> Value<'a> {
    pub(super) fn new(key: &'static str, value: &'a Spanned<DeValue<'a>>) -> Self {
        Self {
            key,
            span: value.span(),
            inner: value.get_ref(),
        }
    }

    /// Refuses the value: `message` says why and what to write.
    pub(super) fn fault(&self, message: impl AsRef<str>) -> Faults {
        vec![Fault {
            span: self.span.clone(),
            message: format!("{} {}", self.key, message.as_ref()),
        }]
    }

    /// Refuses the value for another type or range than what the key takes.
    fn refuse(&self, takes: &str) -> Faults {
        let found = match self.inner {
            DeValue::String(text) => quoted(text),
            DeValue::Integer(number) => number.to_string().chars().take(40).collect(),
            DeValue::Float(_) => "a number with a fraction".to_owned(),
            DeValue::Boolean(yes) => yes.to_string(),
            DeValue::Datetime(_) => "a date".to_owned(),
            DeValue::Array(_) => "a list".to_owned(),
            DeValue::Table(_) => "a table".to_owned(),
        };
        self.fault(format!("takes {takes}, not {found}"))
    }

    /// A text, whatever it says.
    pub(super) fn text(&self) -> Result<&'a str, Faults> {
        self.inner
            .as_str()
            .ok_or_else(|| self.refuse("a text in quotes"))
    }

    pub(super) fn boolean(&self) -> Result<bool, Faults> {
        self.inner
            .as_bool()
            .ok_or_else(|| self.refuse("true or false"))
    }

    /// One of the `known` words.
    pub(super) fn word<T: Copy>(&self, known: &[(&str, T)]) -> Result<T, Faults> {
        let words: Vec<&str> = known.iter().map(|&(word, _)| word).collect();
        let Some(text) = self.inner.as_str() else {
            return Err(self.refuse(&format!("\"{}\"", words.join("\" or \""))));
        };
        if let Some(&(_, meaning)) = known.iter().find(|(word, _)| *word == text) {
            return Ok(meaning);
        }
        Err(self.fault(format!(
            "does not know {}{}",
            quoted(text),
            suggestion(text, &words, "\"", "\"")
        )))
    }

    /// The name of a user, who need not exist here; "" is none.
    pub(super) fn user_name(&self) -> Result<Option<String>, Faults> {
        let text = self.text()?;
        let is_odd =
            |c: char| c == '/' || c == ':' || c == ',' || c.is_control() || c.is_whitespace();
        if text.len() > 32 || text.starts_with('-') || text.contains(is_odd) {
            return Err(self.refuse("the name of a user, or \"\""));
        }
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }

    /// A list, each element read by `read`. `example` shows how one is written.
    pub(super) fn list<T>(
        &self,
        example: &str,
        read: impl Fn(&Self) -> Result<T, Faults>,
    ) -> Result<Vec<T>, Faults> {
        let Some(array) = self.inner.as_array() else {
            return Err(self.refuse(&format!("a list such as {example}")));
        };
        let mut list = Vec::new();
        let mut faults = Faults::new();
        for element in array {
            match read(&Self::new(self.key, element)) {
                Ok(value) => list.push(value),
                Err(wrong) => faults.extend(wrong),
            }
            if faults.len() >= MAX_FAULTS {
                break;
            }
        }
        if faults.is_empty() {
            Ok(list)
        } else {
            Err(faults)
        }
    }

    /// Whether it is a list, for a key that takes one or a single word.
    pub(super) fn is_list(&self) -> bool {
        self.inner.is_array()
    }

    /// A whole number within `range`, which must be one of `T`.
    pub(super) fn number<T: TryFrom<i64>>(&self, range: RangeInclusive<i64>) -> Result<T, Faults> {
        let takes = format!("a whole number from {} to {}", range.start(), range.end());
        self.inner
            .as_integer()
            .and_then(whole)
            .filter(|number| range.contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| match self.inner.as_str().map(str::parse::<i64>) {
                Some(Ok(_)) => self.refuse(&format!("{takes} without quotes")),
                _ => self.refuse(&takes),
            })
    }

    /// A time of at least `least`, or `"ever"`: `None`.
    pub(super) fn duration(&self, least: Duration) -> Result<Option<Duration>, Faults> {
        const TAKES: &str = "a time such as \"90s\", \"5m\", \"1h 30m\", \"30d\" or \"ever\"";
        let Some(text) = self.inner.as_str() else {
            return Err(match self.inner.as_integer() {
                Some(number) if whole(number).is_some() => {
                    self.refuse(&format!("{TAKES}, in quotes and with its unit"))
                }
                _ => self.refuse(TAKES),
            });
        };
        if text == "ever" {
            return Ok(None);
        }
        if text.contains('M') {
            return Err(self.fault(format!(
                "{} could be minutes or months; write \"m\" or \"min\" for minutes, \"months\" for months",
                quoted(text)
            )));
        }
        let duration = humantime::parse_duration(text).map_err(|_| self.refuse(TAKES))?;
        if duration < least {
            return Err(self.fault(format!(
                "is too short at {}; write at least \"{}\"",
                quoted(text),
                humantime::format_duration(least)
            )));
        }
        if duration > LONGEST {
            return Err(self.fault(format!(
                "is longer than 100 years at {}; write \"ever\"",
                quoted(text)
            )));
        }
        Ok(Some(duration))
    }

    /// Ports and ranges of ports, in order, each once.
    pub(super) fn ports(&self) -> Result<Vec<RangeInclusive<u16>>, Faults> {
        self.list("[23, \"135-139\"]", Self::port_range).map(merged)
    }

    /// A port, or two with a dash between.
    fn port_range(&self) -> Result<RangeInclusive<u16>, Faults> {
        const TAKES: &str = "ports from 0 to 65535, such as 23 or \"135-139\"";
        let Some(text) = self.inner.as_str() else {
            return self
                .inner
                .as_integer()
                .and_then(whole)
                .and_then(|port| u16::try_from(port).ok())
                .map(|port| port..=port)
                .ok_or_else(|| self.refuse(TAKES));
        };
        let Some((first, last)) = text.split_once('-') else {
            return Err(match port(text) {
                Some(port) => self.fault(format!(
                    "takes a single port without quotes; write {port} for {}",
                    quoted(text)
                )),
                None => self.refuse(TAKES),
            });
        };
        match (port(first), port(last)) {
            (Some(first), Some(last)) if first <= last => Ok(first..=last),
            (Some(first), Some(last)) => Err(self.fault(format!(
                "has a range that runs backwards, {}; write \"{last}-{first}\"",
                quoted(text)
            ))),
            _ => Err(self.refuse(TAKES)),
        }
    }

    /// The path of a file, from `/` on.
    pub(super) fn path(&self) -> Result<PathBuf, Faults> {
        let text = self.text()?;
        file_path(text).map_err(|takes| self.refuse(takes))
    }

    /// The path of a file, or nothing: an empty text.
    pub(super) fn path_or_none(&self) -> Result<Option<PathBuf>, Faults> {
        Ok(if self.text()?.is_empty() {
            None
        } else {
            Some(self.path()?)
        })
    }

    /// The path of a socket, which the kernel wants short.
    pub(super) fn socket_path(&self) -> Result<PathBuf, Faults> {
        let path = self.path()?;
        let length = path.as_os_str().len();
        if length > SOCKET_PATH_BYTES {
            return Err(self.fault(format!(
                "is a path of {length} bytes; a socket's has at most {SOCKET_PATH_BYTES}, such as /run/portsentry/control.sock"
            )));
        }
        Ok(path)
    }

    /// At most so many in so long, or nothing: an empty text.
    pub(super) fn log_rate(&self) -> Result<Option<LogRate>, Faults> {
        let text = self.text()?;
        if text.is_empty() {
            return Ok(None);
        }
        text.split_once('/')
            .and_then(|(packets, unit)| LogRate::new(packets, |name| name == unit))
            .map(Some)
            .ok_or_else(|| {
                self.refuse(
                    "1 to 1000000 a \"second\", \"minute\", \"hour\" or \"day\", such as \"3/minute\", or \"\"",
                )
            })
    }

    /// So many bans in a prefix of such a length.
    pub(super) fn rollup(&self, lengths: RangeInclusive<u8>) -> Result<RollUp, Faults> {
        let text = self.text()?;
        let rollup = text.split_once(" in /").and_then(|(count, length)| {
            Some(RollUp {
                count: digits(count).filter(|count| (2..=10_000_000).contains(count))?,
                prefix_len: digits(length).filter(|length| lengths.contains(length))?,
            })
        });
        rollup.ok_or_else(|| {
            self.refuse(&format!(
                "how many bans, at least 2, in a prefix of which length, /{} to /{}, such as \"16 in /{}\"",
                lengths.start(),
                lengths.end(),
                if *lengths.end() < 32 { 24 } else { 56 }
            ))
        })
    }

    /// A line of hosts.deny, with a place for the address.
    pub(super) fn hosts_line(&self) -> Result<String, Faults> {
        let text = self.text()?;
        hosts_line(text).map_err(|message| self.fault(format!("{} {message}", quoted(text))))?;
        Ok(text.to_owned())
    }

    /// A program with its arguments, a line for the shell, or nothing: an empty list or text.
    pub(super) fn command(&self) -> Result<Option<CommandLine>, Faults> {
        const EXAMPLE: &str = "[\"/usr/local/bin/notify\", \"{source}\"]";
        let no_nul = |element: &Self| match element.text()? {
            text if text.contains('\0') => Err(element.refuse("words without NUL characters")),
            text => Ok(text),
        };
        if self.inner.as_str().is_some() {
            let line = no_nul(self)?;
            let given = !line.trim().is_empty();
            return Ok(given.then(|| CommandLine::Shell(line.to_owned())));
        }
        if !self.is_list() {
            return Err(self.refuse(&format!(
                "a list such as {EXAMPLE}, or a line for the shell in quotes"
            )));
        }
        let words = self.list(EXAMPLE, |element| {
            let word = no_nul(element)?;
            if let Some(unknown) = placeholders(word).find(|name| !PLACEHOLDERS.contains(name)) {
                return Err(element.fault(format!(
                    "does not know {}{}",
                    quoted(unknown),
                    suggestion(unknown, PLACEHOLDERS, "\"", "\"")
                )));
            }
            Ok(word.to_owned())
        })?;
        if words
            .first()
            .is_some_and(|program| program.trim().is_empty())
        {
            return Err(self.fault("names no program; the first word must be one"));
        }
        Ok((!words.is_empty()).then_some(CommandLine::Argv(words)))
    }

    /// A text that is not too long to be said to everybody.
    pub(super) fn banner(&self) -> Result<String, Faults> {
        let text = self.text()?;
        if text.len() > BANNER_BYTES {
            return Err(self.fault(format!(
                "has {} bytes; write {BANNER_BYTES} at most",
                text.len()
            )));
        }
        Ok(text.to_owned())
    }

    /// An address, a prefix or a name.
    pub(super) fn whom(&self) -> Result<Whom, Faults> {
        let text = self.text()?;
        Whom::parse(text).map_err(|message| {
            vec![Fault {
                span: self.span.clone(),
                message: format!("{}: {message}", self.key),
            }]
        })
    }

    /// The name of a network interface, as the kernel takes one.
    pub(super) fn interface(&self) -> Result<String, Faults> {
        let text = self.text()?;
        let good = (1..=15).contains(&text.len())
            && !matches!(text, "." | "..")
            && !text.contains(|c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace());
        if good {
            Ok(text.to_owned())
        } else {
            Err(self
                .refuse("names of interfaces, 1 to 15 bytes without blanks, slashes and colons"))
        }
    }

    /// A name that `nft` reads without quotes.
    pub(super) fn table_name(&self) -> Result<String, Faults> {
        let text = self.text()?;
        let good = (1..=31).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_/.-".contains(&byte));
        if good {
            Ok(text.to_owned())
        } else {
            Err(self.refuse(
                "a name of 1 to 31 letters, digits and _ / . -, with a letter or _ at the start",
            ))
        }
    }

    /// A name for a chain that `iptables` takes: 28 characters at most (`XT_EXTENSION_MAXNAMELEN`, include/uapi/linux/netfilter/x_tables.h).
    pub(super) fn chain_name(&self) -> Result<String, Faults> {
        let text = self.text()?;
        let good = (1..=28).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        if good && !BUILT_IN_CHAINS.contains(&text) {
            Ok(text.to_owned())
        } else {
            Err(self.refuse(
                "a name of 1 to 28 letters, digits and _ . -, with a letter at the start, that is no chain or target of iptables' own",
            ))
        }
    }
}

/// Names that iptables has a meaning of its own for.
const BUILT_IN_CHAINS: [&str; 14] = [
    "INPUT",
    "FORWARD",
    "OUTPUT",
    "PREROUTING",
    "POSTROUTING",
    "ACCEPT",
    "DROP",
    "QUEUE",
    "RETURN",
    "REJECT",
    "LOG",
    "SET",
    "MARK",
    "MASQUERADE",
];

/// The number, unless it is beyond 64 bits.
fn whole(number: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// The number that `text` is, in digits and nothing else.
fn digits<T: FromStr>(text: &str) -> Option<T> {
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_digits)
}

impl LogRate {
    /// `packets` in digits, each unit's name being asked for by `is_unit`.
    pub(super) fn new(packets: &str, is_unit: impl Fn(&str) -> bool) -> Option<Self> {
        let packets = digits(packets)?;
        let (_, per) = LOG_UNITS.iter().find(|(name, _)| is_unit(name))?;
        (1..=1_000_000)
            .contains(&packets)
            .then_some(Self { packets, per: *per })
    }
}

/// The port that `text` names in digits, with or without blanks around them.
pub(super) fn port(text: &str) -> Option<u16> {
    digits(text.trim())
}

/// The same ports in order, each once.
pub(super) fn merged(mut ranges: Vec<RangeInclusive<u16>>) -> Vec<RangeInclusive<u16>> {
    ranges.sort_by_key(|range| *range.start());
    let mut merged: Vec<RangeInclusive<u16>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if u32::from(*range.start()) <= u32::from(*last.end()) + 1 => {
                *last = *last.start()..=*range.end().max(last.end());
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// The path of a file from `/` on, or what such a path is.
pub(super) fn file_path(text: &str) -> Result<PathBuf, &'static str> {
    if !text.starts_with('/') {
        Err("a path that begins with /")
    } else if text.contains('\0') {
        Err("a path without NUL characters")
    } else if text.ends_with('/') || text.ends_with("/.") || text.ends_with("/..") {
        Err("the path of a file in a directory")
    } else {
        Ok(text.into())
    }
}

/// Whether `line` shuts an address out when tcp_wrappers reads it; if not, cause and remedy.
pub(super) fn hosts_line(line: &str) -> Result<(), &'static str> {
    let mut lists = line.split(':');
    let services = lists.next().unwrap_or_default();
    let clients: Vec<&str> = lists
        .next()
        .unwrap_or_default()
        .split([' ', '\t', ','])
        .collect();
    if line.contains(['\n', '\r', '\0']) {
        Err("is more than one line; write a single one")
    } else if line.contains('#') {
        Err("has a \"#\", but what follows it would be read as clients too; take it out")
    } else if line.trim_end().ends_with('\\') {
        Err("ends in a backslash, which would join it to the next line; take it out")
    } else if services.trim().is_empty() || !clients.contains(&"{source}") {
        Err("has no client {source}; write a line such as \"ALL: {source}\"")
    } else if clients
        .iter()
        .any(|client| client.eq_ignore_ascii_case("EXCEPT"))
    {
        Err("would shut out others than {source}; write a line such as \"ALL: {source}\"")
    } else {
        Ok(())
    }
}

/// What stands in braces and could be meant as a placeholder: letters and underscores.
fn placeholders(word: &str) -> impl Iterator<Item = &str> {
    word.match_indices('{').filter_map(move |(start, _)| {
        let rest = &word[start..];
        let end = rest.find('}')?;
        let name = &rest[1..end];
        let meant = !name.is_empty() && name.chars().all(|c| c.is_alphabetic() || c == '_');
        meant.then(|| &rest[..=end])
    })
}
