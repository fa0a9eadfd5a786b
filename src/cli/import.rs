//! `portsentry import`: bans all that a list names, a batch at a time.
//!
//! One thread reads the list while the bans before are made, and one hears ^C: what is under way is finished then, and what
//! was taken is told.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use nix::sys::signal::{SigSet, Signal};
use serde::Serialize;

use super::ban::{Length, parse_length};
use super::offline::Session;
use super::{Asked, Client, Failure, Output, print, say};
use crate::config::printable;
use crate::control::{Imported, Line, MAX_IMPORT, Refused, Request, Why};
use crate::log::counted;
use crate::source::{NotASource, Source};

#[derive(Args)]
pub(super) struct Import {
    /// The list, - for standard input: an address or a prefix a line; # or ; begins a comment
    file: PathBuf,
    /// How long each is banned: 2h, 30d, "1h 30m", or ever [default: ban.duration]. Who is banned for longer already stays so
    #[arg(long = "for", value_name = "TIME", value_parser = parse_length)]
    length: Option<Length>,
    /// Why, for the list, the history and the set's comment [default: imported]
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    output: Output,
}

/// Bytes of a line, its end included.
const MAX_LINE: usize = 4096;

/// So many of those who are not banned are named.
const NAMED: u64 = 20;

/// How often progress is shown.
const REFRESH: Duration = Duration::from_millis(100);

/// What is waited for.
enum Event {
    Read(Batch),
    /// The list is at its end, or cannot be read any further.
    End(io::Result<()>),
    Interrupted(Signal),
}

/// Some lines of the list.
#[derive(Default)]
struct Batch {
    sources: Vec<String>,
    nonsense: Vec<Refused>,
    /// How far into the list it goes.
    lines: u64,
    bytes: u64,
}

/// What has come of the list so far.
#[derive(Default, Serialize)]
struct Tally {
    lines: u64,
    banned: u64,
    prolonged: u64,
    refused: BTreeMap<Why, u64>,
    /// Whether the end of the list was reached.
    complete: bool,
}

/// Who bans.
enum Way<'a> {
    /// The daemon, if there is one.
    Ask(&'a Client),
    Daemon(&'a Client),
    Offline(Box<Session>),
}

impl Import {
    pub(super) fn run(&self, client: &Client) -> Result<(), Failure> {
        let list = self.open()?;
        let events = listen(list, self.name()).map_err(|cause| format!("cannot begin: {cause}"))?;
        let mut tally = Tally::default();
        let mut progress = Progress::of(&self.file);
        let mut way = Way::Ask(client);
        let ended = loop {
            let event = events.recv();
            match event.expect("who reads the list tells of its end last") {
                Event::Read(batch) => {
                    let end = batch.lines;
                    progress.read = batch.bytes;
                    if let Err(why) = self.take(batch, &mut way, &mut tally, &mut progress) {
                        let message = format!("{}, up to line {end}: {}", self.name(), why.message);
                        break Err(Failure { message, ..why });
                    }
                    progress.show(&tally);
                }
                Event::End(Ok(())) => {
                    tally.complete = true;
                    break Ok(());
                }
                Event::End(Err(cause)) => {
                    break Err(Failure::from(format!(
                        "cannot read {}: {cause}",
                        self.name()
                    )));
                }
                Event::Interrupted(signal) => {
                    let message =
                        format!("interrupted by {signal}: the rest of the list is not banned");
                    let status = if signal == Signal::SIGINT { 130 } else { 143 };
                    break Err(Failure { message, status });
                }
            }
        };
        progress.clear();
        let ended = ended.and(match way {
            Way::Offline(session) => session.end(),
            Way::Ask(_) | Way::Daemon(_) => Ok(()),
        });
        tally.print(self.output)?;
        ended?;
        if tally.has_failed() {
            return Err(Failure::from(String::new()));
        }
        Ok(())
    }

    fn open(&self) -> Result<Box<dyn Read + Send>, Failure> {
        if self.file == Path::new("-") {
            return Ok(Box::new(io::stdin()));
        }
        match File::open(&self.file) {
            Ok(file) => Ok(Box::new(file)),
            Err(cause) => Err(Failure::from(format!(
                "cannot open {}: {cause}",
                self.name()
            ))),
        }
    }

    fn name(&self) -> String {
        if self.file == Path::new("-") {
            return "standard input".to_owned();
        }
        printable(&self.file.display().to_string())
    }

    /// Has these banned, and notes what came of it.
    fn take(
        &self,
        batch: Batch,
        way: &mut Way<'_>,
        tally: &mut Tally,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let mut imported = Imported::default();
        if !batch.sources.is_empty() {
            imported = way.import(Request::Import {
                sources: batch.sources,
                seconds: self.length.and_then(Length::seconds),
                ever: matches!(self.length, Some(Length::Ever)),
                reason: self.reason.clone(),
            })?;
        }
        tally.lines = batch.lines;
        tally.banned += imported.banned;
        tally.prolonged += imported.prolonged;
        for refused in batch.nonsense.iter().chain(&imported.refused) {
            let named: u64 = tally.worth_naming();
            if refused.why != Why::BannedAlready && named <= NAMED {
                progress.clear();
                say(if named < NAMED {
                    &refused.words
                } else {
                    "… and so on"
                });
            }
            *tally.refused.entry(refused.why).or_default() += 1;
        }
        Ok(())
    }
}

impl Way<'_> {
    fn import(&mut self, request: Request) -> Result<Imported, Failure> {
        let client = match self {
            Self::Ask(client) | Self::Daemon(client) => *client,
            Self::Offline(session) => return session.import(request),
        };
        let mut imported = None;
        let asked = client.ask(&request, |line| {
            if let Line::Imported(it) = line {
                imported = Some(it);
            }
            Ok(())
        })?;
        match (asked, &self) {
            (Asked::NoDaemon(_), Self::Ask(_)) => {
                let mut session = Session::of(client.good_config()?)?;
                let imported = session.import(request);
                *self = Self::Offline(Box::new(session));
                imported
            }
            (Asked::NoDaemon(why) | Asked::CutOff(why) | Asked::Failed(why), _) => {
                Err(Failure::from(why))
            }
            (Asked::Done, _) => {
                *self = Self::Daemon(client);
                imported
                    .ok_or_else(|| Failure::from("the daemon's answer makes no sense".to_owned()))
            }
        }
    }
}

impl Session {
    fn import(&mut self, request: Request) -> Result<Imported, Failure> {
        let mut imported = Imported::default();
        for line in self.carry_out(request)? {
            match line {
                Line::Imported(it) => imported = it,
                Line::Failed(why) => return Err(Failure::from(why)),
                _ => {}
            }
        }
        Ok(imported)
    }
}

impl Tally {
    /// How many of those who are not banned have been named, or would have been.
    fn worth_naming(&self) -> u64 {
        let named = self
            .refused
            .iter()
            .filter(|(why, _)| **why != Why::BannedAlready);
        named.map(|(_, count)| count).sum()
    }

    /// Whether somebody is not banned who should be.
    fn has_failed(&self) -> bool {
        [Why::NotASource, Why::Limit, Why::Responder]
            .iter()
            .any(|why| self.refused.contains_key(why))
    }

    fn print(&self, output: Output) -> Result<(), Failure> {
        if output.json {
            return print(|out| {
                serde_json::to_writer_pretty(&mut *out, self)?;
                writeln!(out)
            });
        }
        print(|out| {
            writeln!(
                out,
                "{} read: {} banned, {} prolonged",
                counted(self.lines, "line", "lines"),
                counted(self.banned, "source", "sources"),
                counted(self.prolonged, "ban", "bans")
            )?;
            for (why, count) in &self.refused {
                writeln!(out, "  {count} not banned: {}", words(*why))?;
            }
            Ok(())
        })
    }
}

fn words(why: Why) -> &'static str {
    match why {
        Why::NotASource => "neither an address nor a prefix",
        Why::Friend => "friends, which are never banned",
        Why::BannedAlready => "banned already, about as long or longer",
        Why::Limit => "beyond ban.limit",
        Why::Responder => "refused by a responder",
    }
}

/// Reads the list and hears signals, each on a thread of its own. `name` is that of the list.
fn listen(list: impl Read + Send + 'static, name: String) -> io::Result<mpsc::Receiver<Event>> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    // Before there are threads, for they inherit it.
    signals.thread_block()?;
    // One batch waits while one is under way: a signal is heard after these.
    let (send, events) = mpsc::sync_channel(1);
    let interrupt = send.clone();
    let hear = move || {
        if let Ok(signal) = signals.wait() {
            // The next one ends us at once, as if we had not listened.
            let _ = signals.thread_unblock();
            let _ = interrupt.send(Event::Interrupted(signal));
            thread::park();
        }
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(hear)?;
    thread::Builder::new()
        .name("list".to_owned())
        .spawn(move || {
            let end = read(BufReader::new(list), &name, &send);
            // Nobody may want to know any more.
            let _ = send.send(Event::End(end));
        })?;
    Ok(events)
}

/// Hands out the list in batches.
fn read(mut list: impl BufRead, name: &str, to: &SyncSender<Event>) -> io::Result<()> {
    let mut batch = Batch::default();
    let mut line = Vec::new();
    while next_line(&mut list, &mut line, &mut batch)? {
        match source(&line) {
            Ok(source) => batch.sources.extend(source),
            Err(why) => batch.nonsense.push(Refused {
                words: format!("{name}:{}: {why}", batch.lines),
                source: String::new(),
                why: Why::NotASource,
            }),
        }
        if batch.sources.len().max(batch.nonsense.len()) == MAX_IMPORT {
            let next = Batch {
                lines: batch.lines,
                bytes: batch.bytes,
                ..Batch::default()
            };
            let full = std::mem::replace(&mut batch, next);
            if to.send(Event::Read(full)).is_err() {
                return Ok(());
            }
        }
    }
    let _ = to.send(Event::Read(batch));
    Ok(())
}

/// Reads a line, and one byte more than a line may have of one that is too long. False: there is none.
fn next_line(list: &mut impl BufRead, line: &mut Vec<u8>, batch: &mut Batch) -> io::Result<bool> {
    line.clear();
    loop {
        let chunk = match list.fill_buf() {
            Ok(chunk) => chunk,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) => return Err(cause),
        };
        let end = chunk.iter().position(|&byte| byte == b'\n');
        let part = &chunk[..end.unwrap_or(chunk.len())];
        let room = (MAX_LINE + 1).saturating_sub(line.len());
        line.extend_from_slice(&part[..part.len().min(room)]);
        let is_over = chunk.is_empty();
        let taken = part.len() + usize::from(end.is_some());
        list.consume(taken);
        batch.bytes += u64::try_from(taken).unwrap_or(0);
        if end.is_some() || is_over {
            let is_line = end.is_some() || !line.is_empty();
            batch.lines += u64::from(is_line);
            return Ok(is_line);
        }
    }
}

/// Whom a line names; `None`: it is empty, but for a comment.
fn source(line: &[u8]) -> Result<Option<String>, String> {
    if line.len() > MAX_LINE {
        return Err(format!("a line has {MAX_LINE} bytes at most"));
    }
    let line = String::from_utf8_lossy(line);
    let text = line.split(['#', ';']).next().unwrap_or_default().trim();
    if text.is_empty() {
        return Ok(None);
    }
    let source: Source = text
        .parse()
        .map_err(|error: NotASource| error.to_string())?;
    Ok(Some(source.to_string()))
}

/// How far it is, on a terminal.
struct Progress {
    /// When it was shown last; `None`: there is no terminal.
    shown: Option<Instant>,
    /// Bytes of the list: all, where that is known, and those that are done with.
    all: Option<u64>,
    read: u64,
}

impl Progress {
    fn of(list: &Path) -> Self {
        let file = std::fs::metadata(list).ok().filter(|it| it.is_file());
        Self {
            shown: io::stderr().is_terminal().then(Instant::now),
            all: file.map(|it| it.len()).filter(|all| *all > 0),
            read: 0,
        }
    }

    fn show(&mut self, tally: &Tally) {
        let Some(shown) = self.shown.filter(|shown| shown.elapsed() >= REFRESH) else {
            return;
        };
        let share = self.all.map(|all| self.read.saturating_mul(100) / all);
        let share = share.map_or(String::new(), |share| format!(" ({share} %)"));
        let refused: u64 = tally.refused.values().sum();
        let _ = write!(
            io::stderr(),
            "\r\x1b[K{} read{share}: {} banned, {refused} not",
            counted(tally.lines, "line", "lines"),
            counted(tally.banned + tally.prolonged, "source", "sources"),
        );
        self.shown = Some(shown + shown.elapsed());
    }

    /// Leaves the line to other words.
    fn clear(&self) {
        if self.shown.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The batches of a list, with the lines that were read by then.
    fn batches(list: &[u8], chunk: usize) -> Vec<(u64, Vec<String>, Vec<String>)> {
        let (send, events) = mpsc::sync_channel(100);
        read(BufReader::with_capacity(chunk, list), "list", &send).unwrap();
        drop(send);
        let batch = |event| match event {
            Event::Read(batch) => {
                let nonsense = batch.nonsense.into_iter().map(|it| it.words);
                Some((batch.lines, batch.sources, nonsense.collect()))
            }
            _ => None,
        };
        events.into_iter().filter_map(batch).collect()
    }

    #[test]
    fn a_list_is_read_with_its_comments_and_whatever_its_lines_end_in() {
        let list = b"# ours\n192.0.2.1\r\n\n  192.0.2.77/24 ; SBL 7\n::ffff:192.0.2.3# x\n2001:db8::/64 # until 1970: it # was";
        for chunk in [1, 7, 8192] {
            let read = batches(list, chunk);
            let sources = ["192.0.2.1", "192.0.2.0/24", "192.0.2.3", "2001:db8::/64"];
            let sources = sources.map(str::to_owned).to_vec();
            assert_eq!(read, [(6, sources, vec![])]);
        }
    }

    #[test]
    fn nonsense_is_told_with_its_line_and_costs_no_other_one() {
        let endless = "1".repeat(3 * MAX_LINE);
        let list =
            format!("example.org\n{endless}\n192.0.2.1\n192.0.2.1 192.0.2.2\n\u{1b}[2J\n192.0.2.2");
        for chunk in [7, 8192] {
            let [(lines, sources, nonsense)] = &batches(list.as_bytes(), chunk)[..] else {
                panic!("one batch is enough");
            };
            assert_eq!((*lines, sources.len()), (6, 2));
            assert_eq!(
                nonsense[..3],
                [
                    "list:1: not an IP address or prefix: \"example.org\"",
                    "list:2: a line has 4096 bytes at most",
                    "list:4: not an IP address or prefix: \"192.0.2.1 192.0.2.2\"",
                ]
            );
            assert!(nonsense[3].starts_with("list:5: ") && !nonsense[3].contains('\u{1b}'));
        }
    }

    #[test]
    fn a_long_list_comes_in_batches_that_a_request_can_hold() {
        let list: String = (0..5000)
            .map(|n| format!("2001:db8:ffff:ffff:ffff:ffff:{n:x}:ffff\n"))
            .collect();
        let read = batches(list.as_bytes(), 8192);
        let lines: Vec<u64> = read.iter().map(|(lines, ..)| *lines).collect();
        assert_eq!(lines, [2048, 4096, 5000]);
        let request = Request::Import {
            sources: read[0].1.clone(),
            seconds: Some(u64::MAX),
            ever: false,
            reason: Some("x".repeat(1000)),
        };
        let length = serde_json::to_vec(&request).unwrap().len();
        assert!(length < crate::control::MAX_REQUEST / 2, "{length}");
    }
}
