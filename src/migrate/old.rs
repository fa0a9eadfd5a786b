//! Where an old installation has kept what: by its own configuration, and by what both versions do without one.
//!
//! Of the configuration of either version just the four keys that matter here are read, for each version chokes on the other's.

use std::path::{Path, PathBuf};

use super::wrappers::Template;
use crate::config::{self, WatchMode};

/// An old installation, by its configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Old {
    /// Text that tells of blocks: histories, 1.2's blocked files.
    pub records: Vec<PathBuf>,
    /// 2.x's blocked files.
    pub blocked: Vec<PathBuf>,
    /// What its lines in hosts.deny were made of.
    pub lines: Vec<Template>,
    /// Words of the commands that it ran.
    commands: Vec<String>,
}

/// Histories of 1.2 and 2.x, as packaged.
const HISTORIES: [&str; 2] = [
    "/var/lib/portsentry/portsentry.history",
    "/var/log/portsentry.log",
];
/// 1.2's blocked files begin so, as packaged.
const BLOCKED: &str = "/var/lib/portsentry/portsentry.blocked";
/// 2.x's blocked file.
const BINARY_BLOCKED: &str = "/tmp/portsentry.blocked";
/// Both versions shipped these.
const LINES: [&str; 2] = ["ALL: $TARGET$ : DENY", "ALL: $TARGET$"];

/// The most a configuration may have.
const MAX_BYTES: u64 = 1 << 20;

impl Old {
    /// What the configuration at `file` says, and nothing else.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn by(file: &Path) -> Result<Self, String> {
        let bytes = config::read_file(file, MAX_BYTES)
            .map_err(|cause| format!("cannot read {}: {cause}", file.display()))?;
        let mut old = Self::default();
        old.read(&String::from_utf8_lossy(&bytes));
        Ok(old)
    }

    /// What either version does as packaged.
    #[must_use]
    pub fn as_packaged() -> Self {
        let mut old = Self::default();
        old.records.extend(HISTORIES.map(PathBuf::from));
        old.add_blocked(Path::new(BLOCKED));
        old.blocked.push(BINARY_BLOCKED.into());
        old.lines
            .extend(LINES.into_iter().filter_map(Template::new));
        old
    }

    /// Both together.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        fn add<T: PartialEq>(to: &mut Vec<T>, from: Vec<T>) {
            for one in from {
                if !to.contains(&one) {
                    to.push(one);
                }
            }
        }
        add(&mut self.records, other.records);
        add(&mut self.blocked, other.blocked);
        add(&mut self.lines, other.lines);
        add(&mut self.commands, other.commands);
        self
    }

    /// Whether a command of its own led packets to this gateway, from which they were not to return.
    #[must_use]
    pub fn routes_to(&self, gateway: std::net::IpAddr) -> bool {
        let gateway = gateway.to_string();
        self.commands.contains(&gateway)
    }

    fn read(&mut self, text: &str) {
        let value = |key: &str| text.lines().find_map(|line| value(line, key));
        let path = |key: &str| {
            value(key)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        self.records.extend(path("HISTORY_FILE"));
        if let Some(path) = path("BLOCKED_FILE") {
            self.add_blocked(&path);
            self.blocked.push(path);
        }
        self.lines
            .extend(value("KILL_HOSTS_DENY").and_then(Template::new));
        for key in ["KILL_ROUTE", "KILL_RUN_CMD"] {
            let words = value(key).unwrap_or_default().split_whitespace();
            self.commands.extend(words.map(str::to_owned));
        }
    }

    /// 1.2 has a file for each mode.
    fn add_blocked(&mut self, path: &Path) {
        self.records.extend(WatchMode::ALL.map(|mode| {
            let mut name = path.as_os_str().to_owned();
            name.push(".");
            name.push(mode.name());
            PathBuf::from(name)
        }));
    }
}

/// What a line sets `key` to: it begins with the key, and the value stands between the first two quotes.
fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let rest = line
        .strip_prefix('\u{feff}')
        .unwrap_or(line)
        .strip_prefix(key)?;
    let value = rest
        .trim_start_matches([' ', '\t', '='])
        .strip_prefix('"')?;
    let value = value
        .split_once('"')
        .map_or(value.trim_end(), |(value, _)| value);
    (!value.is_empty() && rest.starts_with([' ', '\t', '='])).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(text: &str) -> Old {
        let mut old = Old::default();
        old.read(text);
        old
    }

    #[test]
    fn the_keys_that_matter_are_read_from_either_versions_configuration() {
        let old = by(
            "#HISTORY_FILE=\"/no\"\nTCP_PORTS=\"1,2,512-515\"\nrubbish\n\
             HISTORY_FILE = \"/var/h\"\r\nHISTORY_FILE=\"/second\"\nBLOCKED_FILE=\"/var/b\"\n\
             KILL_HOSTS_DENY=\"ALL: $TARGET$\"\nKILL_ROUTE=\"/sbin/route add -host $TARGET$ gw 10.9.0.66\"",
        );
        assert_eq!(
            old.records[..2],
            ["/var/h", "/var/b.tcp"].map(PathBuf::from)
        );
        assert_eq!(old.records.len(), 7);
        assert_eq!(old.blocked, [PathBuf::from("/var/b")]);
        assert_eq!(old.lines, [Template::new("ALL: $TARGET$").unwrap()]);
        assert!(old.routes_to([10, 9, 0, 66].into()));
        assert!(!old.routes_to([10, 9, 0, 6].into()));
    }

    #[test]
    fn what_sets_nothing_is_passed_over() {
        for text in [
            "",
            "HISTORY_FILE",
            "HISTORY_FILE=/var/h",
            "HISTORY_FILE=\"\"",
            "HISTORY_FILE=\"history\"",
            "HISTORY_FILE_OLD=\"/var/h\"",
            " HISTORY_FILE=\"/var/h\"",
            "KILL_HOSTS_DENY=\"ALL: ALL\"",
        ] {
            assert_eq!(by(text), Old::default(), "{text}");
        }
        assert_eq!(
            by("HISTORY_FILE=\"/var/h").records,
            [PathBuf::from("/var/h")]
        );
    }

    #[test]
    fn two_that_say_the_same_are_one() {
        let old = Old::as_packaged();
        assert_eq!(old.clone().and(Old::as_packaged()), old);
        assert_eq!(old.records.len(), 8);
    }
}
