//! portsentry 1.2's configuration: its text into [`Config`], with what it meant there.
//!
//! How it is written stands in `legacy/syntax.rs`, what a scan leads to in
//! `legacy/response.rs`, where its modes are found in `legacy/modes.rs`; here is what each key means. Refused is what would quietly change what is protected;
//! what 1.2 put up with too is a warning.

mod kill;
pub(super) mod modes;
mod response;
mod syntax;

use std::collections::BTreeSet;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::complaint::{Complaint, Complaints, printable, quoted};
use super::value::{BANNER_BYTES, file_path, merged, port};
use super::{
    BanRules, Capture, Config, Detect, History, Hook, Ignore, IgnoreFile, Listen, Log, Method,
    Mode, Nftables, Response, Watch, WatchMode,
};
use crate::policy::Unit;
use crate::probe::Protocol;
use syntax::{Setting, Settings};

/// What a text in 1.2's form means.
pub(super) struct Legacy {
    pub(super) config: Config,
    /// Where in the text the keys that may not fit with others were set.
    pub(super) places: Vec<(&'static str, Range<usize>)>,
    /// What is not as it was written, a line each.
    pub(super) warnings: Vec<String>,
    pub(super) complaints: Complaints,
}

/// How long a ban lasts that 1.2 had no length for.
const DURATION: Duration = Duration::from_secs(24 * 3600);

/// The most that `detect.trigger` takes.
const MAX_TRIGGER: u16 = 64;

/// A file at this path is none.
const NOWHERE: &str = "/dev/null";

/// Reads `text` as 1.2's configuration for these modes; `file` is what complaints and warnings cite.
pub(super) fn parse(file: &Path, text: &str, modes: &BTreeSet<WatchMode>) -> Legacy {
    let mut notes = Notes {
        file,
        text,
        warnings: Vec::new(),
        complaints: Complaints::default(),
    };
    let settings = syntax::read(text, &mut notes);
    let mut reader = Reader {
        settings,
        notes,
        places: Vec::new(),
    };
    let config = reader.config(modes);
    Legacy {
        config,
        places: reader.places,
        warnings: reader.notes.warnings,
        complaints: reader.notes.complaints,
    }
}

/// What there is to say about a text.
struct Notes<'a> {
    file: &'a Path,
    text: &'a str,
    warnings: Vec<String>,
    complaints: Complaints,
}

impl Notes<'_> {
    /// Warns of one line among many that may be alike. Words are made only as long as there are not too many.
    fn warn_of_line(&mut self, at: usize, message: impl FnOnce(&Self) -> String) {
        if self.warnings.len() < Complaints::MAX {
            self.warn(at, message(self));
        } else if self.warnings.len() == Complaints::MAX {
            self.say("there is more of that kind");
        }
    }

    /// Warns of one line among many in these words alone.
    fn say_of_line(&mut self, message: impl FnOnce() -> String) {
        if self.warnings.len() < Complaints::MAX {
            self.say(message());
        }
    }

    /// Warns of something at a place.
    fn warn(&mut self, at: usize, message: impl AsRef<str>) {
        let file = printable(&self.file.to_string_lossy());
        let line = self.line(at);
        self.say(format!("{file}:{line}: {}", message.as_ref()));
    }

    /// Warns in these words alone.
    fn say(&mut self, message: impl Into<String>) {
        self.warnings.push(message.into());
    }

    fn refuse(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.complaints
            .add(|| Complaint::at(self.file, self.text, span, message));
    }

    /// The number of the line that `at` lies in, from 1.
    fn line(&self, at: usize) -> usize {
        let before = self.text.as_bytes().iter().take(at);
        before.filter(|&&byte| byte == b'\n').count() + 1
    }
}

/// The keys of one protocol.
struct Names {
    ports: &'static str,
    below: &'static str,
    exclude: &'static str,
    block: &'static str,
    /// What the first three are called in the native file.
    native: [&'static str; 3],
}

const TCP: Names = Names {
    ports: "TCP_PORTS",
    below: "ADVANCED_PORTS_TCP",
    exclude: "ADVANCED_EXCLUDE_TCP",
    block: "BLOCK_TCP",
    native: ["tcp.ports", "tcp.below", "tcp.exclude"],
};

const UDP: Names = Names {
    ports: "UDP_PORTS",
    below: "ADVANCED_PORTS_UDP",
    exclude: "ADVANCED_EXCLUDE_UDP",
    block: "BLOCK_UDP",
    native: ["udp.ports", "udp.below", "udp.exclude"],
};

struct Reader<'a> {
    settings: Settings<'a>,
    notes: Notes<'a>,
    places: Vec<(&'static str, Range<usize>)>,
}

impl<'a> Reader<'a> {
    fn config(&mut self, modes: &BTreeSet<WatchMode>) -> Config {
        let default = Config::default();
        let mut config = Config {
            capture: Capture {
                method: Method::Ip,
                ..default.capture
            },
            tcp: self.watch(&TCP, of(modes, Protocol::Tcp)),
            udp: self.watch(&UDP, of(modes, Protocol::Udp)),
            detect: Detect {
                trigger: self.trigger(),
                count: Unit::Hits,
                window: None,
                ..default.detect
            },
            ban: BanRules {
                duration: Some(DURATION),
                escalate: 1,
                max: None,
                ipv4_prefix: 32,
                ..default.ban
            },
            // As a rule of INPUT: what is forwarded to others is none of ours.
            nftables: Nftables {
                hook: Hook::Input,
                ..default.nftables
            },
            listen: Listen {
                banner: self.banner(),
            },
            ignore: Ignore {
                files: self
                    .somewhere("IGNORE_FILE")
                    .map(IgnoreFile::legacy)
                    .into_iter()
                    .collect(),
                ..default.ignore
            },
            history: self.history(default.history),
            log: Log { repeats: true },
            ..default
        };
        self.responses(&mut config);
        config
    }

    /// The ports of one protocol. Lists that no mode looks at need not be good.
    fn watch(&mut self, names: &Names, modes: BTreeSet<Mode>) -> Watch {
        let listed = modes.contains(&Mode::Stealth) || modes.contains(&Mode::Connect);
        let advanced = modes.contains(&Mode::Advanced);
        let ports = self.ports(names.ports, names.native[0], listed);
        if listed && ports.is_empty() {
            self.missing(names.ports, "1,11,15,79");
        }
        let below = match self.number(names.below) {
            Some(below) => self.below(names, below),
            None if advanced => {
                self.notes.say(format!(
                    "adminalert: ERROR: Could not read {} option from config file. Assuming 1024.",
                    names.below
                ));
                1024
            }
            None => 1024,
        };
        Watch {
            modes,
            ports,
            below,
            exclude: self.ports(names.exclude, names.native[2], advanced),
            response: Response::Log,
        }
    }

    fn below(&mut self, names: &Names, below: i64) -> u32 {
        let setting = self.settings.get(names.below);
        self.place(names.native[1], setting);
        let good = below.clamp(0, 65536);
        if good != below {
            self.warn(
                setting,
                format!("lies outside of 0 to 65536; {good} is taken"),
            );
        }
        u32::try_from(good).unwrap_or(0)
    }

    /// A list of ports and ranges of them. What in it is none is passed over; of one that is not `needed` that is told once.
    fn ports(
        &mut self,
        key: &'static str,
        native: &'static str,
        needed: bool,
    ) -> Vec<RangeInclusive<u16>> {
        let Some(setting) = self.settings.get(key) else {
            return Vec::new();
        };
        self.place(native, Some(setting));
        let mut ranges = Vec::new();
        let mut warned = false;
        let mut start = setting.start;
        for entry in setting.value.split(',') {
            let span = start..start + entry.len();
            start = span.end + 1;
            match port_range(entry.trim()) {
                Ok(range) => ranges.extend(range),
                Err(wrong) if needed => {
                    self.notes.warn_of_line(span.start, |_| {
                        format!("{key} {wrong}; until then it is passed over")
                    });
                }
                Err(_) if warned => {}
                Err(wrong) => {
                    warned = true;
                    self.notes
                        .warn(span.start, format!("{key}, which is not in use, {wrong}"));
                }
            }
        }
        merged(ranges)
    }

    fn trigger(&mut self) -> u16 {
        let Some(hits) = self.number("SCAN_TRIGGER") else {
            self.notes.say(
                "adminalert: ERROR: Could not read SCAN_TRIGGER option from config file. \
                 Disabling SCAN DETECTION TRIGGER",
            );
            return 1;
        };
        if hits > MAX_TRIGGER.into() {
            let message = format!("is more than {MAX_TRIGGER}, which is taken");
            self.warn(self.settings.get("SCAN_TRIGGER"), message);
        }
        u16::try_from(hits.max(1)).map_or(MAX_TRIGGER, |hits| hits.min(MAX_TRIGGER))
    }

    fn banner(&mut self) -> String {
        let Some(setting) = self.settings.get("PORT_BANNER") else {
            return String::new();
        };
        let mut end = setting.value.len().min(BANNER_BYTES);
        if end < setting.value.len() {
            let message = format!("is longer than {BANNER_BYTES} bytes, and is cut there");
            self.warn(Some(setting), message);
        }
        while !setting.value.is_char_boundary(end) {
            end -= 1;
        }
        setting.value[..end].to_owned()
    }

    fn history(&mut self, default: History) -> History {
        let text = self.somewhere("HISTORY_FILE");
        let blocked = self.somewhere("BLOCKED_FILE");
        self.place("history.text", self.settings.get("HISTORY_FILE"));
        self.place("history.blocked", self.settings.get("BLOCKED_FILE"));
        History {
            file: text
                .as_ref()
                .map_or(default.file, |text| text.with_file_name("history.db")),
            text,
            blocked,
            resolve: self.flag("RESOLVE_HOST"),
        }
    }

    fn flag(&mut self, key: &'static str) -> bool {
        self.number(key).is_some_and(|number| number != 0)
    }

    /// The number that 1.2 reads: the digits at the start, 0 where there are none.
    fn number(&mut self, key: &'static str) -> Option<i64> {
        let setting = self.settings.get(key)?;
        let text = setting.value.trim();
        if let Ok(number) = text.parse() {
            return Some(number);
        }
        let end = text
            .find(|char: char| !char.is_ascii_digit())
            .unwrap_or(text.len());
        let number = match &text[..end] {
            "" => 0,
            digits => digits.parse().unwrap_or(i64::MAX),
        };
        let message = format!(
            "is no number: {}; as in 1.2 it is read as {number}",
            quoted(text)
        );
        self.warn(Some(setting), message);
        Some(number)
    }

    /// The path of a file that must be named.
    fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let Some(setting) = self.settings.get(key) else {
            let example = match key {
                "IGNORE_FILE" => "/etc/portsentry/portsentry.ignore",
                "HISTORY_FILE" => "/var/lib/portsentry/portsentry.history",
                _ => "/var/lib/portsentry/portsentry.blocked",
            };
            self.missing(key, example);
            return None;
        };
        match file_path(setting.value.trim()) {
            Ok(path) => Some(path),
            Err(takes) => {
                let found = quoted(setting.value);
                self.notes
                    .refuse(setting.span(), format!("{key} takes {takes}, not {found}"));
                None
            }
        }
    }

    /// The path of a file that must be named, unless it is the one for nothing.
    fn somewhere(&mut self, key: &'static str) -> Option<PathBuf> {
        self.path(key).filter(|path| path != Path::new(NOWHERE))
    }

    /// Complains that a key must be there, once.
    fn missing(&mut self, key: &'static str, example: &str) {
        if self.settings.is_spoilt(key) {
            return;
        }
        let message = format!("{key} is missing, which is needed; write {key}=\"{example}\"");
        let complaint = match self.settings.get(key) {
            Some(setting) => Complaint::at(self.notes.file, self.notes.text, setting.span(), {
                format!("{key} names none; write {key}=\"{example}\"")
            }),
            None => Complaint::about(self.notes.file, message),
        };
        self.notes.complaints.add(|| complaint);
    }

    fn warn(&mut self, setting: Option<Setting<'a>>, message: impl AsRef<str>) {
        if let Some(setting) = setting {
            let message = format!("{} {}", setting.key, message.as_ref());
            self.notes.warn(setting.start, message);
        }
    }

    fn place(&mut self, native: &'static str, setting: Option<Setting<'a>>) {
        self.places
            .extend(setting.map(|setting| (native, setting.span())));
    }
}

/// The modes of one protocol.
fn of(modes: &BTreeSet<WatchMode>, protocol: Protocol) -> BTreeSet<Mode> {
    let modes = modes.iter().filter(|mode| mode.protocol == protocol);
    modes.map(|mode| mode.mode).collect()
}

/// A port, or two with a dash between; nothing where nothing stands, as between two commas.
fn port_range(text: &str) -> Result<Option<RangeInclusive<u16>>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok(Some(first..=last)),
        (Some(first), Some(last)) => Err(format!(
            "has a range that runs backwards, {}; write {last}-{first}",
            quoted(text)
        )),
        _ => Err(format!(
            "takes ports from 0 to 65535 with commas between, such as 23,135-139, not {}",
            quoted(text)
        )),
    }
}

#[cfg(test)]
use syntax::KEYS;

#[cfg(test)]
mod tests;
