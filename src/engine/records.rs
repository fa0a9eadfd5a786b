//! What history is told: bans and their ends as they come about, and once more where it had no room for them, has begun anew, or goes
//! by a wall clock that has leapt.

use std::time::Duration;

use tracing::{info, warn};

use super::complaints::About;
use super::{Engine, named};
use crate::clock::{Mono, Now, Wall};
use crate::history::{Record, Seq};
use crate::log;
use crate::policy::Ban;

impl Engine {
    /// Hands a record to history; the mark up to which history must have written for it to be safe.
    pub(super) fn record(&mut self, record: Record, now: Mono) -> Option<Seq> {
        let banned = match &record {
            Record::Ban(ban) => Some(ban.source),
            _ => None,
        };
        match self.recorder.push(record) {
            Ok(seq) => {
                if let Some(source) = banned {
                    self.unrecorded.remove(&source);
                }
                Some(seq)
            }
            Err(full) => {
                self.counters.unrecorded += 1;
                self.unrecorded.extend(banned);
                self.complaints
                    .add(About::History, now, || full.to_string());
                None
            }
        }
    }

    /// Tells history about every running ban once more: its file was moved away, and the new one knows none.
    pub fn record_anew(&mut self, now: Now) {
        warn!("history: its file was moved away; the running bans go into a new one");
        self.unrecorded.clear();
        self.recorder.push_together(self.bans.iter().cloned());
        let names: Vec<Record> = self.guard.names.iter().map(named::record_of).collect();
        for name in names {
            self.record(name, now.mono);
        }
    }

    /// Tells history about the running bans that it had no room for, when it has.
    pub fn record_what_is_missing(&mut self) {
        if !self.unrecorded.is_empty() && self.recorder.has_room() {
            self.record_missing();
        }
    }

    /// The same, whether it has room or not.
    pub(super) fn record_missing(&mut self) {
        let missing = std::mem::take(&mut self.unrecorded);
        let bans: Vec<Ban> = missing
            .into_iter()
            .filter_map(|source| self.bans.get(source).cloned())
            .collect();
        if !bans.is_empty() {
            let follow = log::counted(
                bans.len(),
                "ban that it had no room for follows",
                "bans that it had no room for follow",
            );
            info!("history: {follow}");
            self.recorder.push_together(bans);
        }
    }

    /// The wall clock has moved by so many milliseconds while time went on as ever: it would show `before` without that. Who is
    /// banned keeps the time that is left, over a restart too.
    pub fn clock_moved(&mut self, before: Wall, by: i64, now: Now) {
        if by < 0 || !self.bans.is_empty() {
            self.record(Record::ClockMoved { before, by }, now.mono);
        }
        if self.bans.is_empty() {
            return;
        }
        // The two clocks are read one after the other.
        let seconds = by.unsigned_abs().saturating_add(500) / 1000;
        let length = log::span(Duration::from_secs(seconds));
        let way = if by < 0 { "back" } else { "on" };
        info!(
            "the clock has gone {way} by {length} at once: bans keep the time that they have left"
        );
        self.bans.clock_moved(by);
    }
}
