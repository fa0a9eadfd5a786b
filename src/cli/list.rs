//! `portsentry list`

use std::io::{self, Write};
use std::panic::resume_unwind;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::{Asked, Client, Failure, Output, ago, offline, say};
use crate::clock::Now;
use crate::control::{Line, Listed, Request};
use crate::log::span;

/// Prints the running bans as they arrive.
pub(super) fn run(client: &Client, output: Output) -> Result<(), Failure> {
    let mut failure = None;
    super::print(|out| {
        let mut table = Table::new(out, output);
        match each_running(client, |listed| table.row(listed)) {
            Ok(written) => written.and_then(|()| table.end()),
            Err(error) => {
                // A list that broke off is not ended, so that it is not taken for whole.
                failure = Some(error);
                Ok(())
            }
        }
    })?;
    failure.map_or(Ok(()), Err)
}

/// Hands out the running bans as they arrive: the daemon's, or without one those that history says still run. An error of
/// `each` ends it, and is given back as such.
pub(super) fn each_running(
    client: &Client,
    mut each: impl FnMut(&Listed) -> io::Result<()>,
) -> Result<io::Result<()>, Failure> {
    let (rows, arrived) = mpsc::channel();
    // The daemon hangs up on who does not read: a pager that nobody leafs through is waited for at this end.
    let (asked, written) = thread::scope(|scope| {
        let asked = scope.spawn(move || {
            client.ask(&Request::List, |line| match line {
                Line::Listed(listed) => rows.send(listed).map_err(io::Error::other),
                _ => Ok(()),
            })
        });
        let written = arrived.into_iter().try_for_each(|listed| each(&listed));
        (asked.join(), written)
    });
    let asked = asked.unwrap_or_else(|panic| resume_unwind(panic));
    if written.is_err() {
        return Ok(written);
    }
    match asked {
        Ok(Asked::Done) => Ok(Ok(())),
        Ok(Asked::Failed(why)) => Err(Failure::from(why)),
        Ok(Asked::NoDaemon(why) | Asked::CutOff(why)) => {
            let bans = client.good_config().and_then(offline::running)?;
            say(&format!(
                "{why}: history says that these still run; whether the kernel holds them was not looked at"
            ));
            Ok(bans.iter().try_for_each(each))
        }
        Err(error) => Err(Failure::from(error)),
    }
}

/// The head of the column that names responders.
const STANDING: &str = "IN FORCE IN";

/// The rows of a list, as text or as one JSON array. Nothing is written before the first row or the end.
struct Table<'a> {
    out: &'a mut dyn Write,
    json: bool,
    rows: u64,
    /// For the responders of a row: as wide as the first one's.
    standing_width: usize,
    now: Now,
}

impl<'a> Table<'a> {
    fn new(out: &'a mut dyn Write, output: Output) -> Self {
        Self {
            out,
            json: output.json,
            rows: 0,
            standing_width: STANDING.len(),
            now: Now::read(),
        }
    }

    fn row(&mut self, listed: &Listed) -> io::Result<()> {
        self.rows += 1;
        if self.json {
            write!(
                self.out,
                "{}",
                if self.rows == 1 { "[\n  " } else { ",\n  " }
            )?;
            return Ok(serde_json::to_writer(&mut *self.out, listed)?);
        }
        let standing = match listed.responders.as_deref() {
            None => "?".to_owned(),
            Some([]) => "nothing yet".to_owned(),
            Some(responders) => responders.join(", "),
        };
        if self.rows == 1 {
            self.standing_width = standing.len().max(STANDING.len());
            writeln!(
                self.out,
                "{:<39}  {:<20}  {:<12}  {STANDING:<width$}  REASON",
                "SOURCE",
                "LEFT",
                "SINCE",
                width = self.standing_width
            )?;
        }
        let seconds = |n| span(Duration::from_secs(n));
        let left = match (listed.left, listed.length) {
            (Some(left), Some(length)) => format!("{} of {}", seconds(left), seconds(length)),
            _ => "permanent".to_owned(),
        };
        writeln!(
            self.out,
            "{:<39}  {left:<20}  {:<12}  {standing:<width$}  {}",
            listed.source,
            ago(listed.start, self.now),
            listed.reason,
            width = self.standing_width
        )
    }

    fn end(self) -> io::Result<()> {
        match (self.json, self.rows) {
            (true, 0) => writeln!(self.out, "[]"),
            (true, _) => writeln!(self.out, "\n]"),
            (false, 0) => writeln!(self.out, "nobody is banned"),
            (false, _) => Ok(()),
        }
    }
}
