//! Bans that somebody orders, and bans that are lifted before their time.

use std::time::Duration;

use tracing::info;

use super::programs::Purpose;
use super::{Engine, log_each};
use crate::clock::Now;
use crate::guard::Friend;
use crate::history::{Ending, Record, Seq};
use crate::log::{banned, counted, lifted};
use crate::policy::{Ban, End, Origin, Reason, Uid};
use crate::source::Source;

/// A ban that somebody asks for.
#[derive(Clone, Debug)]
pub struct Order {
    /// Whom.
    pub source: Source,
    /// How long; `None`: for ever.
    pub length: Option<Duration>,
    /// Why.
    pub reason: Reason,
    /// Whether it holds against all that makes a friend of the source, but for what is for good.
    pub is_forced: bool,
    /// Who asks.
    pub by: Option<Uid>,
}

/// Why an ordered ban was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The source is guarded.
    #[error("{0} is never banned: {1}")]
    Friend(Source, Friend),
    /// As many bans run as may.
    #[error("{0} is not banned: the limit of {limit} (ban.limit) is reached", limit = counted(*.1, "ban", "bans"))]
    Limit(Source, u32),
    /// It is banned already.
    #[error("{0} is banned already, and would not be when this ban is undone: unban it first")]
    Banned(Source),
    /// Nothing of it waits to be confirmed.
    #[error(
        "{0} has no ban that waits to be confirmed: it was undone, or confirmed, or is none of --revert"
    )]
    NotProvisional(Source),
    /// It is banned, and for about as long or longer.
    #[error("{0} is banned already, and about as long")]
    BannedAlready(Source),
    /// It does not hold.
    #[error("{0} is not banned: {1}")]
    Failed(Source, String),
}

/// A ban that was lifted.
#[derive(Clone, Debug)]
pub struct Lifted {
    /// Whom it named.
    pub source: Source,
    /// The ban as we knew it; `None`: it stood in the kernel alone.
    pub ban: Option<Ban>,
    /// How many bans lie within it, and go on: counted where somebody asked for this one.
    pub within: u64,
    /// Whether it may hold somewhere still: looked at where somebody asked for this one.
    pub stands: bool,
}

/// What lifting bans came to.
#[derive(Debug, Default)]
pub struct Unbanned {
    /// What was lifted.
    pub lifted: Vec<Lifted>,
    /// What failed, in the responders' words; the address may still be shut out.
    pub failures: Vec<String>,
    /// Reply when history has written this far; `None`: there was nothing to write.
    pub recorded: Option<Seq>,
}

/// How far the lifting of all bans is, which is done in portions between other events.
#[derive(Debug)]
pub struct Clearing {
    left: Vec<Source>,
    lifted: Vec<Source>,
    is_over: bool,
}

impl Clearing {
    /// Whether all are lifted, or have failed to be.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over
    }
}

/// Bans in a portion: some 2 ms.
const CLEARED_AT_ONCE: usize = 128;

/// Why nobody is banned on demand where there are no responders.
pub(super) const PROGRAMS_ALONE: &str =
    "programs alone ban here (ban.responders), and they are run for scans alone; run yours by hand";

impl Engine {
    /// Carries out an ordered ban. It holds when this returns `Ok`, and is in history when that has written up to the mark.
    ///
    /// # Errors
    /// The source is guarded, the limit is reached, or a responder failed; then nothing has changed.
    pub fn ban(&mut self, order: Order, now: Now) -> Result<(Ban, Option<Seq>), Refusal> {
        let source = order.source;
        self.notice(now);
        self.look_for_logins(false, now);
        let friend = self.guard.friend(source);
        if let Some(friend) = friend.filter(|friend| !order.is_forced || friend.is_for_good()) {
            return Err(Refusal::Friend(source, friend));
        }
        let limit = self.config.ban.limit;
        if self.bans.get(source).is_none() && self.is_full() {
            return Err(Refusal::Limit(source, limit));
        }
        if !self.world.has_responders() {
            return Err(Refusal::Failed(source, PROGRAMS_ALONE.to_owned()));
        }
        let end = order.length.map(|length| End::after(length, now));
        let ban = Ban {
            source,
            reason: order.reason,
            origin: if order.is_forced {
                Origin::Forced
            } else {
                Origin::Command
            },
            by: order.by,
            start: now.wall,
            end,
        };
        let done = self.world.ban_or_undo(&[&ban], &self.bans, now);
        let refused = done.map(|mut refused| refused.pop());
        if let Some(failure) = refused.map_or_else(Some, |it| it.map(|(_, words)| words)) {
            self.follow_up(now);
            return Err(Refusal::Failed(source, failure));
        }
        info!("{}", banned(&ban));
        let recorded = self.record(Record::Ban(ban.clone()), now.mono);
        self.detector.forget(source);
        self.provisional.remove(&source);
        let replaced = self.bans.insert(ban.clone());
        self.heed_forced(replaced.iter().chain([&ban]), now);
        if self.bans_by_program() {
            let line = self.config.command.ban.clone();
            self.run(
                line,
                None,
                Purpose::Ban(source, None),
                source.address(),
                now,
            );
        }
        self.follow_up(now);
        Ok((ban, recorded))
    }

    /// Lifts every ban that covers `target`, in every responder, even if one fails.
    pub fn unban(&mut self, target: Source, by: &str, now: Now) -> Unbanned {
        self.notice(now);
        let mut found: Vec<Source> = self
            .bans
            .covering(target.address())
            .map(|ban| ban.source)
            .collect();
        found.retain(|source| source.prefix_len() <= target.prefix_len());
        let mut failures = Vec::new();
        let candidates = self.config.ban.covering(target);
        for candidate in &candidates {
            if found.contains(candidate) {
                continue;
            }
            match self.world.hold(*candidate) {
                Ok(true) => found.push(*candidate),
                Ok(false) => {}
                Err(failure) => failures.push(failure),
            }
        }
        let mut unbanned = self.lift(&found, Ending::Unban, by, now);
        unbanned
            .failures
            .extend(self.world.done_for(&found, now).err());
        unbanned.failures.extend(failures);
        self.follow_up(now);
        for lifted in &mut unbanned.lifted {
            lifted.within = self.bans.count_within(lifted.source);
            lifted.stands = self.world.may_hold(lifted.source);
        }
        // Also where nothing was found: a list of the world that is under way may have it.
        if let Some(lifted) = &mut self.lifted_since_start {
            lifted.extend(candidates);
        }
        self.detector.forget(self.guard.source_of(target.address()));
        unbanned
    }

    /// Begins to lift every ban there is, those that stand in the world alone too.
    #[must_use]
    pub fn begin_clearing(&self) -> Clearing {
        Clearing {
            left: self.bans.iter().map(|ban| ban.source).collect(),
            lifted: Vec::new(),
            is_over: false,
        }
    }

    /// Lifts some more of them, and with the last all that has come meanwhile. What fails is told at the end, where also what was
    /// lifted before may turn out to [hold still](Self::may_hold).
    pub fn clear_some(&mut self, clearing: &mut Clearing, by: &str, now: Now) -> Unbanned {
        self.notice(now);
        if clearing.left.len() <= CLEARED_AT_ONCE {
            return self.clear(clearing, by, now);
        }
        let mut portion = clearing
            .left
            .split_off(clearing.left.len() - CLEARED_AT_ONCE);
        portion.retain(|source| self.bans.get(*source).is_some());
        self.world.unban(&portion, now);
        let mut unbanned = self.lifted(&portion, Ending::Unban, by, now);
        unbanned
            .failures
            .extend(self.undo_by_program(&portion, now));
        clearing.lifted.extend(portion);
        self.follow_up(now);
        unbanned
    }

    /// Whether this one, which was to be lifted, may hold somewhere still.
    #[must_use]
    pub fn may_hold(&self, source: Source) -> bool {
        self.world.may_hold(source)
    }

    fn clear(&mut self, clearing: &mut Clearing, by: &str, now: Now) -> Unbanned {
        clearing.is_over = true;
        let rest: Vec<Source> = self.bans.iter().map(|ban| ban.source).collect();
        clearing.lifted.extend(&rest);
        let all = &clearing.lifted;
        self.world.unban_all(all, now);
        self.listing_is_stale = true;
        let mut unbanned = self.lifted(&rest, Ending::Unban, by, now);
        log_each(all, |source| lifted(*source, Ending::Unban, by));
        unbanned.failures.extend(self.undo_by_program(&rest, now));
        unbanned
            .failures
            .extend(self.world.is_cleared_of(all, now).err());
        self.follow_up(now);
        unbanned
    }

    /// Lifts every ban there is at once.
    #[cfg(test)]
    pub fn unban_all(&mut self, by: &str, now: Now) -> Unbanned {
        let mut clearing = self.begin_clearing();
        let mut all = Unbanned::default();
        while !clearing.is_over() {
            let some = self.clear_some(&mut clearing, by, now);
            all.lifted.extend(some.lifted);
            all.failures.extend(some.failures);
            all.recorded = all.recorded.max(some.recorded);
        }
        all
    }

    pub(super) fn lift(&mut self, sources: &[Source], how: Ending, by: &str, now: Now) -> Unbanned {
        self.world.unban(sources, now);
        self.have_lifted(sources, how, by, now)
    }

    /// What follows where the responders have been told to lift these, or need not be.
    pub(super) fn have_lifted(
        &mut self,
        sources: &[Source],
        how: Ending,
        by: &str,
        now: Now,
    ) -> Unbanned {
        let mut unbanned = self.lifted(sources, how, by, now);
        log_each(sources, |source| lifted(*source, how, by));
        unbanned.failures.extend(self.undo_by_program(sources, now));
        unbanned
    }

    /// Takes bans out of memory that the world was told to lift, and tells history.
    pub(super) fn lifted(
        &mut self,
        sources: &[Source],
        how: Ending,
        by: &str,
        now: Now,
    ) -> Unbanned {
        let mut unbanned = Unbanned::default();
        let mut forgiven = Vec::new();
        for &source in sources {
            let ban = self.bans.remove(source);
            self.provisional.remove(&source);
            self.untold.remove(&source);
            self.untold_rollups.remove(&source);
            self.unrecorded.remove(&source);
            self.detector.forget(source);
            if how == Ending::Unban && ban.as_ref().is_some_and(|it| it.origin == Origin::RollUp) {
                forgiven.push((source, now.wall));
            }
            if let Some(lifted) = &mut self.lifted_since_start {
                lifted.insert(source);
            }
            let end = Record::End {
                source,
                at: now.wall,
                how,
                by: by.into(),
            };
            unbanned.recorded = unbanned.recorded.max(self.record(end, now.mono));
            unbanned.lifted.push(Lifted {
                source,
                ban,
                within: 0,
                stands: false,
            });
        }
        self.bans.forgive(&forgiven);
        let bans = unbanned.lifted.iter().filter_map(|it| it.ban.as_ref());
        self.heed_forced(bans, now);
        unbanned
    }
}
