//! Telling people of scans in 1.2's lines, with the name of who scanned where names are looked up.
//!
//! A report whose name is being looked up waits, but not for long: whoever owns the answer must not hold up the log.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use tracing::info;

use super::{Engine, Errand};
use crate::clock::{Mono, Now, Wall};
use crate::history::{Record, TextLine};
use crate::log::alerts::{self, Host};
use crate::policy::{Alarm, Reason};
use crate::respond::Deed;

/// What is told about one alarm.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) alarm: Alarm,
    /// When that was.
    pub(super) at: Wall,
    /// What it adds up to, for the journal's fields.
    pub(super) reason: Option<Reason>,
    /// Whether this is the first that is told of it: then what was seen comes first.
    pub(super) is_first: bool,
    pub(super) outcome: Outcome,
}

/// What came of an alarm.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// That is not known yet.
    Open,
    /// It is banned, by these.
    Banned(Vec<Deed>),
    /// It is banned by these too, after others have.
    BannedToo(Vec<Deed>),
    /// It could not be banned.
    Failed,
    /// The configuration says to leave it at that.
    LetBe,
    /// The configuration says to run a program, and nothing else.
    ProgramAlone,
    /// It was dealt with before.
    Again,
}

impl Engine {
    /// Tells of an alarm: at once, or when its source has a name.
    pub(super) fn report(
        &mut self,
        alarm: Alarm,
        reason: Option<Reason>,
        is_first: bool,
        outcome: Outcome,
        now: Now,
    ) {
        let report = Report {
            alarm,
            at: now.wall,
            reason,
            is_first,
            outcome,
        };
        let report = if self.config.history.resolve {
            self.errands.push(Errand::Name(alarm.probe.source));
            self.reports.wait(report, now.mono)
        } else {
            Some(report)
        };
        if let Some(report) = report {
            self.tell(&report, None, now);
        }
    }

    pub(super) fn tell(&mut self, report: &Report, name: Option<&str>, now: Now) {
        let is_quiet = !self.alarms.spend(now.mono);
        if let Some(line) = report.tell(name, is_quiet) {
            self.record(
                Record::Line {
                    line,
                    at: report.at,
                },
                now.mono,
            );
        }
    }

    /// The name of `address` has been looked up; `None`: it has none. Tells what waited for it.
    pub fn named(&mut self, address: IpAddr, name: Option<&str>, now: Now) {
        for report in self.reports.take(address) {
            self.tell(&report, name, now);
        }
    }
}

/// Reports that wait for names.
#[derive(Default)]
pub(super) struct Reports {
    waiting: VecDeque<(Mono, Report)>,
}

/// How long a report waits for a name.
const PATIENCE: Duration = Duration::from_secs(3);

/// Reports that wait at once; one beyond is told without a name.
const WAITING: usize = 512;

impl Reports {
    /// Has a report wait for its name; gives it back where too many wait.
    pub(super) fn wait(&mut self, report: Report, now: Mono) -> Option<Report> {
        if self.waiting.len() >= WAITING {
            return Some(report);
        }
        self.waiting.push_back((now.later(PATIENCE), report));
        None
    }

    /// Those that wait for the name of `address`, in their order.
    pub(super) fn take(&mut self, address: IpAddr) -> Vec<Report> {
        let (ready, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(_, report)| report.alarm.probe.source == address);
        self.waiting = waiting;
        let ready: VecDeque<(Mono, Report)> = ready;
        ready.into_iter().map(|(_, report)| report).collect()
    }

    /// The next that has waited long enough.
    pub(super) fn overdue(&mut self, now: Mono) -> Option<Report> {
        let (until, _) = self.waiting.front()?;
        if *until > now {
            return None;
        }
        self.waiting.pop_front().map(|(_, report)| report)
    }

    /// When the next has waited long enough.
    pub(super) fn next_deadline(&self) -> Option<Mono> {
        self.waiting.front().map(|(until, _)| *until)
    }

    /// All that wait, at the end.
    pub(super) fn rest(&mut self) -> Vec<Report> {
        self.waiting.drain(..).map(|(_, report)| report).collect()
    }
}

impl Report {
    /// Logs the report, unless `is_quiet`. Gives back what the text files are to say, if anything.
    pub(super) fn tell(&self, name: Option<&str>, is_quiet: bool) -> Option<TextLine> {
        let Alarm { probe, mode } = self.alarm;
        // In a flood nearly all are quiet, and to word them would take more time than to judge them.
        if !is_quiet {
            let reason = self.reason.as_ref().map(ToString::to_string);
            for line in self.lines(name) {
                info!(
                    source = %probe.source,
                    name,
                    port = probe.port,
                    protocol = %mode.protocol,
                    mode = mode.name(),
                    reason,
                    "{line}"
                );
            }
        }
        let is_written = match self.outcome {
            Outcome::Banned(_) | Outcome::LetBe | Outcome::ProgramAlone => true,
            Outcome::Open | Outcome::BannedToo(_) | Outcome::Failed | Outcome::Again => false,
        };
        is_written.then(|| TextLine {
            address: probe.source,
            name: name.map(Into::into),
            port: probe.port,
            mode,
        })
    }

    /// What the log is to say.
    fn lines(&self, name: Option<&str>) -> Vec<String> {
        let probe = &self.alarm.probe;
        let host = Host {
            name,
            address: probe.source,
        };
        let mut lines = Vec::new();
        if self.is_first {
            lines.extend(alerts::seen(&self.alarm, host));
        }
        match &self.outcome {
            Outcome::Open | Outcome::ProgramAlone => {}
            Outcome::Banned(deeds) | Outcome::BannedToo(deeds) => {
                lines.extend(deeds.iter().map(|deed| alerts::done(probe.source, deed)));
            }
            Outcome::Failed => lines.push(alerts::failed(&self.alarm, host)),
            Outcome::LetBe => lines.push(alerts::let_be(probe.protocol)),
            Outcome::Again => lines.push(alerts::already(&self.alarm, host)),
        }
        lines
    }
}

/// How much may be told: so much at once, and then one a second. What is beyond is counted.
pub(super) struct Budget {
    at_once: u32,
    /// Since when, and how many of those that may be told at once have not been; `None`: none have.
    left: Option<(Mono, u32)>,
    /// Since when, and how many were too many that nobody has been told of.
    beyond: Option<(Mono, u32)>,
}

const A_SECOND: Duration = Duration::from_secs(1);

impl Budget {
    pub(super) fn new(at_once: u32) -> Self {
        Self {
            at_once,
            left: None,
            beyond: None,
        }
    }

    /// Whether one more may be told.
    pub(super) fn spend(&mut self, now: Mono) -> bool {
        let (since, left) = self.left.unwrap_or((now, self.at_once));
        let seconds = now.since(since).as_secs();
        let regained = u32::try_from(seconds).unwrap_or(u32::MAX);
        let left = left.saturating_add(regained).min(self.at_once);
        let may = left > 0;
        let since = since.later(Duration::from_secs(seconds));
        self.left = Some((since, left.saturating_sub(1)));
        if !may {
            let (first, count) = self.beyond.unwrap_or((now, 0));
            self.beyond = Some((first, count.saturating_add(1)));
        }
        may
    }

    /// When there is to be told how many were too many; `None`: none were.
    pub(super) fn next_deadline(&self) -> Option<Mono> {
        self.beyond.map(|(first, _)| first.later(A_SECOND))
    }

    /// How many were too many, when a second is over.
    pub(super) fn take_beyond(&mut self, now: Mono) -> Option<u32> {
        self.next_deadline().filter(|at| *at <= now)?;
        self.beyond.take().map(|(_, count)| count)
    }
}
