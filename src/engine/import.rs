//! Many bans at once, which somebody has a list of.

use std::collections::HashSet;
use std::time::Duration;

use tracing::info;

use super::orders::PROGRAMS_ALONE;
use super::{Engine, Refusal};
use crate::clock::Now;
use crate::history::Seq;
use crate::log;
use crate::policy::{Ban, End, Origin, Reason, Uid};
use crate::source::Source;

/// What became of many sources.
#[derive(Debug, Default)]
pub struct Imported {
    /// How many are banned that were not.
    pub banned: usize,
    /// How many were banned already, and are for longer now.
    pub prolonged: usize,
    /// Those that were left out.
    pub refused: Vec<Refusal>,
    /// They are in history when it has written this far; `None`: there was nothing to write.
    pub recorded: Option<Seq>,
}

/// A ban is left as it is that would become longer by less than this part of its length: a list that names somebody twice, or that
/// is imported again a moment later, is not worth writing everything anew.
const NEGLIGIBLE: u32 = 100;

impl Engine {
    /// Bans `sources`, as [`ban`](Self::ban) does, in one transaction: all of them but those that may not be banned, or that are
    /// already and about as long. Programs are not run for them.
    ///
    /// # Errors
    /// A responder failed; then nothing has changed.
    pub fn import(
        &mut self,
        sources: &[Source],
        length: Option<Duration>,
        reason: &Reason,
        by: Option<Uid>,
        now: Now,
    ) -> Result<Imported, String> {
        if !self.world.has_responders() {
            return Err(PROGRAMS_ALONE.to_owned());
        }
        self.notice(now);
        self.look_for_logins(false, now);
        let end = length.map(|length| End::after(length, now));
        let mut imported = Imported::default();
        let mut chosen = HashSet::new();
        let mut bans = Vec::new();
        let limit = usize::try_from(self.config.ban.limit).unwrap_or(usize::MAX);
        let mut room = limit.saturating_sub(self.bans.len());
        for &source in sources {
            if let Some(refusal) = self.refusal(source, end, room, now) {
                imported.refused.push(refusal);
            } else if !chosen.insert(source) {
                imported.refused.push(Refusal::BannedAlready(source));
            } else {
                room = room.saturating_sub(usize::from(self.bans.get(source).is_none()));
                bans.push(Ban {
                    source,
                    reason: reason.clone(),
                    origin: Origin::Command,
                    by,
                    start: now.wall,
                    end,
                });
            }
        }
        let all: Vec<&Ban> = bans.iter().collect();
        let done = self.world.ban_or_undo(&all, &self.bans, now);
        let refused = match done {
            Ok(refused) => refused,
            Err(failure) => {
                self.follow_up(now);
                return Err(failure);
            }
        };
        for (source, words) in refused {
            chosen.remove(&source);
            imported.refused.push(Refusal::Failed(source, words));
        }
        bans.retain(|ban| chosen.contains(&ban.source));
        if !bans.is_empty() {
            imported.recorded = Some(self.recorder.push_together(bans.iter().cloned()));
            let sources = log::counted(bans.len(), "source", "sources");
            let length = length.map_or("ever".to_owned(), log::span);
            info!("{sources} of a list banned for {length}: {reason}");
        }
        for ban in bans {
            self.detector.forget(ban.source);
            self.provisional.remove(&ban.source);
            match self.bans.insert(ban) {
                None => imported.banned += 1,
                Some(_) => imported.prolonged += 1,
            }
        }
        self.follow_up(now);
        Ok(imported)
    }

    /// Why `source` is not to be banned until `end`, where there is room for so many more bans.
    fn refusal(&self, source: Source, end: Option<End>, room: usize, now: Now) -> Option<Refusal> {
        if let Some(friend) = self.guard.friend(source) {
            return Some(Refusal::Friend(source, friend));
        }
        match self.bans.get(source) {
            None if room == 0 => Some(Refusal::Limit(source, self.config.ban.limit)),
            None => None,
            Some(known) => {
                let is_prolonged = match (known.end, end) {
                    (None, _) => false,
                    (Some(_), None) => true,
                    (Some(known), Some(end)) => {
                        let length = end.mono.since(now.mono);
                        end.mono.since(known.mono) > length / NEGLIGIBLE
                    }
                };
                (!is_prolonged).then_some(Refusal::BannedAlready(source))
            }
        }
    }
}
