//! `portsentry history`

use std::io::{self, Write};

use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::{Failure, offline, print};
use crate::clock::{Now, Wall};
use crate::config::Config;
use crate::history::{History as Store, Response, Row};
use crate::log::{by, span};
use crate::source::Source;

#[derive(Args)]
pub(super) struct History {
    /// Only what covers this address
    address: Option<Source>,
    /// Show at most this many, the newest
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A row, as JSON tells it. Times are milliseconds since 1970.
#[derive(Serialize)]
pub(super) struct Told {
    source: String,
    reason: String,
    origin: &'static str,
    /// Who ordered it; absent: nobody did, or that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    banned_by: Option<String>,
    response: &'static str,
    start: i64,
    /// Absent: permanent, or a scan that was only logged.
    end: Option<i64>,
    /// Absent: it ran its course, or runs still.
    ended: Option<i64>,
    ended_how: Option<&'static str>,
    ended_by: Option<String>,
    running: bool,
}

impl History {
    pub(super) fn print(&self, config: &Config) -> Result<(), Failure> {
        let rows = match Store::open_read_only(&config.history.file)? {
            Some(history) => {
                offline::go_by(&history)?;
                history.of(self.address.map(Source::address), self.limit)?
            }
            None => Vec::new(),
        };
        let now = Now::read().wall;
        if self.json {
            let told: Vec<Told> = rows.iter().map(|row| Told::of(row, now)).collect();
            return print(|out| {
                serde_json::to_writer_pretty(&mut *out, &told)?;
                writeln!(out)
            });
        }
        print(|out| match (rows.as_slice(), self.address) {
            ([], None) => writeln!(out, "nothing has happened yet"),
            ([], Some(address)) => writeln!(out, "nothing is known of {address}"),
            (rows, _) => rows.iter().try_for_each(|row| write_row(out, row, now)),
        })
    }
}

/// `2026-11-22 18:47:39  203.0.113.7  banned for 10m: syn scan, 3 tcp ports, last 23; unbanned by uid 0 after 2m`
pub(super) fn write_row(out: &mut dyn Write, row: &Row, now: Wall) -> io::Result<()> {
    let what = match (row.response, row.end) {
        (Response::Log, _) => "logged".to_owned(),
        (Response::Ban, Some(end)) => format!("banned for {}", span(end.since(row.start))),
        (Response::Ban, None) => "banned for ever".to_owned(),
    };
    write!(
        out,
        "{}  {}  {what}{}: {}",
        local_time(row.start),
        row.source,
        by(row.by),
        row.reason
    )?;
    if let Some(ended) = &row.ended {
        write!(out, "; {}", ended.how.name())?;
        if let Some(by) = &ended.by {
            write!(out, " by {}", by.escape_default())?;
        }
        write!(out, " after {}", span(ended.at.since(row.start)))?;
    } else if row.runs(now) {
        match row.end {
            Some(end) => write!(out, "; {} left", span(end.since(now)))?,
            None => write!(out, "; in force")?,
        }
    }
    writeln!(out)
}

fn local_time(at: Wall) -> String {
    let time = Timestamp::from_millisecond(at.0).unwrap_or_default();
    time.to_zoned(TimeZone::system())
        .strftime("%Y-%m-%d %H:%M:%S")
        .to_string()
}

impl Told {
    pub(super) fn of(row: &Row, now: Wall) -> Self {
        Self {
            source: row.source.to_string(),
            reason: row.reason.to_string(),
            origin: row.origin.name(),
            banned_by: row.by.map(|uid| uid.to_string()),
            response: row.response.name(),
            start: row.start.0,
            end: row.end.map(|end| end.0),
            ended: row.ended.as_ref().map(|ended| ended.at.0),
            ended_how: row.ended.as_ref().map(|ended| ended.how.name()),
            ended_by: row
                .ended
                .as_ref()
                .and_then(|ended| ended.by.as_deref().map(str::to_owned)),
            running: row.runs(now),
        }
    }
}
