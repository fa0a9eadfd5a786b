//! [`Value`]: one value of the configuration, read as the type its key has, or refused in words.
//!
//! Knows types and how to say that something is not of one; which key has which is in `keys.rs`.

use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::{DeInteger, DeValue};

use super::complaint::{quoted, suggestion};
use super::ignore;

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

    /// One of the `known` words. Those of `later` are words of the interface that this version cannot honour.
    pub(super) fn word<T: Copy>(&self, known: &[(&str, T)], later: &[&str]) -> Result<T, Faults> {
        let words: Vec<&str> = known.iter().map(|&(word, _)| word).collect();
        let Some(text) = self.inner.as_str() else {
            return Err(self.refuse(&format!("\"{}\"", words.join("\" or \""))));
        };
        if let Some(&(_, meaning)) = known.iter().find(|(word, _)| *word == text) {
            return Ok(meaning);
        }
        Err(self.fault(if later.contains(&text) {
            format!(
                "{} is not available in this version; known: \"{}\"",
                quoted(text),
                words.join("\", \"")
            )
        } else {
            format!(
                "does not know {}{}",
                quoted(text),
                suggestion(text, &words, "\"", "\"")
            )
        }))
    }

    /// Refuses all but `unused`, for a key whose feature this version does not have.
    pub(super) fn only_empty(&self) -> Result<(), Faults> {
        match self.text()? {
            "" => Ok(()),
            text => Err(self.fault(format!(
                "{} is not available in this version; leave it at \"\"",
                quoted(text)
            ))),
        }
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
        let mut ranges = self.list("[23, \"135-139\"]", Self::port_range)?;
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
        Ok(merged)
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
        let port = |text: &str| -> Option<u16> {
            let text = text.trim();
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten()
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
        if !text.starts_with('/') {
            return Err(self.refuse("a path that begins with /"));
        }
        if text.contains('\0') {
            return Err(self.refuse("a path without NUL characters"));
        }
        if text.ends_with('/') || text.ends_with("/.") || text.ends_with("/..") {
            return Err(self.refuse("the path of a file in a directory"));
        }
        Ok(text.into())
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

    /// An address or a prefix.
    pub(super) fn prefix(&self) -> Result<IpNet, Faults> {
        let text = self.text()?;
        ignore::prefix(text).map_err(|message| {
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
}

/// The number, unless it is beyond 64 bits.
fn whole(number: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}
