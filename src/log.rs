//! The words for operators: what is logged and replied is worded here, and where it goes is set up here.

mod syslog;

pub mod alerts;

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use tracing::field::Field;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{self, Writer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::history::Ending;
use crate::policy::{Ban, Uid};
use crate::source::Source;
use syslog::Syslog;

/// Where the log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Standard error; the journal where that is connected to it, with the fields of each event; the system log where it is
    /// /dev/null, as an init script leaves it.
    Foreground,
    /// The system log: there is no standard error in the background.
    Syslog,
}

/// Sends the log to its sink. Called once, by the daemon.
pub fn start(sink: Sink) {
    let in_front = sink == Sink::Foreground && !stderr_is_null();
    let journal = (in_front && stderr_is_journal())
        .then(tracing_journald::layer)
        .and_then(Result::ok)
        .map(|journal| journal.with_field_prefix(Some("PORTSENTRY".to_owned())));
    let text = (in_front && journal.is_none()).then(|| {
        tracing_subscriber::fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(false)
            .with_target(false)
            .with_timer(LocalTime)
            .fmt_fields(format::debug_fn(write_message))
    });
    let syslog = (!in_front).then(|| Syslog::at(Path::new(syslog::DEV_LOG)));
    let registry = tracing_subscriber::registry()
        .with(LevelFilter::INFO)
        .with(journal)
        .with(text)
        .with(syslog);
    // Only a second call could fail, and then the first one's log is the one to keep.
    let _ = registry.try_init();
}

/// Text shows an event's words alone: its fields are in them already.
fn write_message(to: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    if field.name() == "message" {
        write!(to, "{value:?}")?;
    }
    Ok(())
}

/// Whether nobody can read standard error.
fn stderr_is_null() -> bool {
    let stderr = io::stderr().as_fd().try_clone_to_owned();
    let metadata = stderr.and_then(|fd| File::from(fd).metadata());
    let null = fs::metadata("/dev/null");
    matches!((metadata, null), (Ok(stderr), Ok(null)) if stderr.rdev() == null.rdev() && stderr.rdev() != 0)
}

/// Whether standard error is the stream that systemd connected to the journal: a program that inherited the variable and
/// redirected its output elsewhere wants it there.
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let stderr = io::stderr().as_fd().try_clone_to_owned();
    let metadata = stderr.and_then(|fd| File::from(fd).metadata());
    metadata.is_ok_and(|it| is_stream(&stream, it.dev(), it.ino()))
}

/// Whether `stream`, `device:inode` in decimal, names this file.
fn is_stream(stream: &str, device: u64, inode: u64) -> bool {
    stream
        .split_once(':')
        .is_some_and(|(dev, ino)| dev.parse() == Ok(device) && ino.parse() == Ok(inode))
}

/// The local time to the millisecond.
struct LocalTime;

impl tracing_subscriber::fmt::time::FormatTime for LocalTime {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        write!(
            w,
            "{}",
            jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S%.3f")
        )
    }
}

/// `203.0.113.7 banned for 10m: syn scan, 3 tcp ports, last 23`, `203.0.113.7 banned for ever by uid 0: by hand`
#[must_use]
pub fn banned(ban: &Ban) -> String {
    let length = ban.length().map_or("ever".to_owned(), span);
    format!(
        "{} banned for {length}{}: {}",
        ban.source,
        by(ban.by),
        ban.reason
    )
}

/// ` by uid 0`; empty where nobody is known to have ordered it.
#[must_use]
pub fn by(orderer: Option<Uid>) -> String {
    orderer.map_or(String::new(), |uid| format!(" by {uid}"))
}

/// `203.0.113.7 unbanned by uid 0`
#[must_use]
pub fn lifted(source: Source, how: Ending, by: &str) -> String {
    match how {
        Ending::Ignored => format!("{source} unbanned: it is ignored now"),
        _ => format!("{source} unbanned by {by}"),
    }
}

/// A number and what is counted, in the form that goes with it: `1 ban`, `2 bans`.
#[must_use]
pub fn counted<N: fmt::Display + PartialEq + From<u8>>(count: N, one: &str, many: &str) -> String {
    let what = if count == N::from(1) { one } else { many };
    format!("{count} {what}")
}

/// A time span in its two largest units, as a configuration takes it: `30d`, `2h 5m`, `9s`; milliseconds only below a second.
#[must_use]
pub fn span(length: Duration) -> String {
    if length < Duration::from_secs(1) && !length.is_zero() {
        return format!("{}ms", length.as_millis().max(1));
    }
    let seconds = length.as_secs();
    let units = [
        (seconds / 86_400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
    ];
    let Some(largest) = units.iter().position(|(count, _)| *count > 0) else {
        return "0s".to_owned();
    };
    let shown = units[largest..]
        .iter()
        .take(2)
        .filter(|(count, _)| *count > 0);
    shown
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_told_by_device_and_inode() {
        assert!(is_stream("9:4711", 9, 4711));
        for other in ["9:4712", "8:4711", "9", "", ":", "9:4711:1", "x:4711"] {
            assert!(!is_stream(other, 9, 4711), "{other}");
        }
    }

    #[test]
    fn one_is_no_plural() {
        let bans = |count: usize| counted(count, "ban", "bans");
        assert_eq!([bans(0), bans(1), bans(2)], ["0 bans", "1 ban", "2 bans"]);
    }

    #[test]
    fn spans_are_short() {
        for (millis, text) in [
            (0, "0s"),
            (350, "350ms"),
            (9_700, "9s"),
            (600_000, "10m"),
            (7_500_250, "2h 5m"),
            (3_630_000, "1h"),
            (90_061_000, "1d 1h"),
            (2_592_000_000, "30d"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), text);
        }
    }
}
