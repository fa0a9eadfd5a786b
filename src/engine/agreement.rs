//! Keeping the world and what we intend alike: what the responders could not do is tried again until it is done.

use std::collections::HashSet;
use std::time::Duration;

use tracing::warn;

use crate::clock::{Mono, Now};
use crate::policy::{Ban, Bans};
use crate::respond::{Deed, Error, Holdings, Responders};
use crate::source::Source;

/// The responders, and how far they are behind.
pub(super) struct Agreement {
    responders: Responders,
    /// Bans that some responder could not make real yet.
    unenforced: HashSet<Source>,
    /// Bans that are not to be made real yet, or by others: the responders have no part in them so far.
    held_back: HashSet<Source>,
    /// Bans that are lifted here and that some responder could not lift yet.
    unlifted: HashSet<Source>,
    /// When to try again what is outstanding.
    retry_at: Option<Mono>,
    pause: Duration,
    /// Since when something has been outstanding.
    differs_since: Option<Mono>,
}

/// How long after a failure the responders are tried again: at first, and at most. It doubles in between.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

impl Agreement {
    pub(super) fn new(responders: Responders) -> Self {
        Self {
            responders,
            unenforced: HashSet::new(),
            held_back: HashSet::new(),
            unlifted: HashSet::new(),
            retry_at: None,
            pause: FIRST_PAUSE,
            differs_since: None,
        }
    }

    /// Makes bans real. What fails is tried again.
    pub(super) fn ban(&mut self, bans: &[&Ban], now: Now) -> Result<(), String> {
        let failures = self.responders.ban(bans, now);
        self.banned(bans, failures, now)
    }

    /// As [`ban`](Self::ban), for many of which most may be real already.
    pub(super) fn replay(&mut self, bans: &[&Ban], now: Now) -> Result<(), String> {
        let failures = self.responders.replay(bans, now);
        self.banned(bans, failures, now)
    }

    fn banned(&mut self, bans: &[&Ban], failures: Vec<Error>, now: Now) -> Result<(), String> {
        for ban in bans {
            self.unenforced.remove(&ban.source);
            self.held_back.remove(&ban.source);
            self.unlifted.remove(&ban.source);
        }
        let all = || bans.iter().map(|ban| ban.source).collect();
        self.unenforced.extend(concerned(&failures, all));
        self.outcome(failures, now)
    }

    /// Makes one ban real, or leaves everything as it was: with the ban of the same source that ran `before`, or none.
    pub(super) fn ban_or_undo(
        &mut self,
        ban: &Ban,
        before: Option<&Ban>,
        now: Now,
    ) -> Result<(), String> {
        let failures = self.responders.ban(&[ban], now);
        if failures.is_empty() {
            return self.banned(&[ban], failures, now);
        }
        // What cannot be undone is tried again, and told by what comes of that.
        let _ = match before {
            Some(before) => self.ban(&[before], now),
            None => self.unban(&[ban.source], now),
        };
        Err(sentence(&failures))
    }

    /// Lifts bans. What fails is tried again.
    pub(super) fn unban(&mut self, sources: &[Source], now: Now) -> Result<(), String> {
        let failures = self.responders.unban(sources);
        self.lifted(sources, failures, now)
    }

    fn lifted(&mut self, sources: &[Source], failures: Vec<Error>, now: Now) -> Result<(), String> {
        for source in sources {
            self.unenforced.remove(source);
            self.held_back.remove(source);
        }
        self.unlifted
            .extend(concerned(&failures, || sources.to_vec()));
        self.outcome(failures, now)
    }

    /// Lifts all bans, those that nobody here knows of too.
    pub(super) fn unban_all(&mut self, known: &[Source], now: Now) -> Result<(), String> {
        self.unenforced.clear();
        self.held_back.clear();
        let failures = self.responders.unban_all();
        self.unlifted
            .extend(concerned(&failures, || known.to_vec()));
        self.outcome(failures, now)
    }

    fn outcome(&mut self, failures: Vec<Error>, now: Now) -> Result<(), String> {
        if !failures.is_empty() {
            self.differs_since.get_or_insert(now.mono);
            self.retry_at = Some(now.mono.later(self.pause));
        }
        result(&failures)
    }

    /// The time of bans is over. Responders with a clock know, the others are told. What fails is tried again.
    pub(super) fn end(&mut self, sources: &[Source], now: Now) -> Result<(), String> {
        let failures = self.responders.end(sources);
        self.lifted(sources, failures, now)
    }

    /// Tries again what is outstanding, if that is due; `None`: it is not.
    pub(super) fn retry(&mut self, bans: &Bans, now: Now) -> Option<Result<(), String>> {
        self.retry_at.filter(|at| *at <= now.mono)?;
        self.retry_at = None;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        let lift: Vec<Source> = self
            .unlifted
            .drain()
            .filter(|source| bans.get(*source).is_none())
            .collect();
        let put: Vec<&Ban> = self
            .unenforced
            .iter()
            .filter_map(|source| bans.get(*source))
            .collect();
        let results = [self.unban(&lift, now), self.ban(&put, now)];
        let failures: Vec<String> = results.into_iter().filter_map(Result::err).collect();
        if !failures.is_empty() {
            return Some(Err(failures.join("; ")));
        }
        self.pause = FIRST_PAUSE;
        self.differs_since = None;
        Some(Ok(()))
    }

    /// Puts all bans back where a responder has found, while at work, that somebody took them away; `None`: none has.
    pub(super) fn make_good(&mut self, bans: &Bans, now: Now) -> Option<Result<(), String>> {
        if !self.responders.take_lost() {
            return None;
        }
        warn!("somebody has taken bans away: putting {} back", bans.len());
        Some(self.replay(&bans.iter().collect::<Vec<_>>(), now))
    }

    /// Looks whether what the responders made still stands, and makes it anew where it does not; `None`: it stands.
    pub(super) fn verify(&mut self, bans: &Bans, now: Now) -> Option<Result<(), String>> {
        let (made_anew, failures) = self.responders.verify();
        let looked = self.outcome(failures, now);
        if !made_anew {
            return looked.err().map(Err);
        }
        warn!(
            "somebody has taken our table away or changed it: putting it and {} bans back",
            bans.len()
        );
        Some(looked.and(self.replay(&bans.iter().collect::<Vec<_>>(), now)))
    }

    /// Whether some responder holds exactly this source.
    pub(super) fn hold(&mut self, source: Source) -> Result<bool, String> {
        self.responders
            .hold(source)
            .map_err(|error| error.to_string())
    }

    /// Leaves no trace in the world; what failed.
    pub(super) fn withdraw(&mut self) -> Result<(), String> {
        result(&self.responders.withdraw())
    }

    /// Leaves nothing that would never end by itself; what failed.
    pub(super) fn withdraw_clockless(&mut self) -> Result<(), String> {
        result(&self.responders.withdraw_clockless())
    }

    pub(super) fn holdings(&self) -> Vec<Holdings> {
        self.responders.holdings()
    }

    pub(super) fn names(&self) -> Vec<&'static str> {
        self.responders.names()
    }

    /// Whether anybody makes bans real but the admin's programs.
    pub(super) fn has_responders(&self) -> bool {
        !self.responders.names().is_empty()
    }

    /// A ban that is not to be made real yet.
    pub(super) fn hold_back(&mut self, source: Source) {
        self.held_back.insert(source);
    }

    /// A ban that was held back, and is real now or none any more.
    pub(super) fn let_go(&mut self, source: Source) {
        self.held_back.remove(&source);
    }

    /// Whether this ban is not in force.
    pub(super) fn is_behind(&self, source: Source) -> bool {
        self.unenforced.contains(&source)
    }

    /// What the responders do for a ban.
    pub(super) fn deeds(&self, ban: &Ban, now: Now) -> Vec<Deed> {
        self.responders.deeds(ban, now)
    }

    /// How many of our bans are not in force.
    pub(super) fn missing(&self) -> usize {
        self.unenforced.len() + self.held_back.len()
    }

    pub(super) fn differs_since(&self) -> Option<Mono> {
        self.differs_since
    }

    pub(super) fn retry_at(&self) -> Option<Mono> {
        self.retry_at
    }
}

/// The sources that failures concern: those they name, or all.
fn concerned(failures: &[Error], all: impl Fn() -> Vec<Source>) -> Vec<Source> {
    let of = |error: &Error| {
        if error.sources.is_empty() {
            all()
        } else {
            error.sources.clone()
        }
    };
    failures.iter().flat_map(of).collect()
}

/// Failures as one.
fn result(failures: &[Error]) -> Result<(), String> {
    if failures.is_empty() {
        Ok(())
    } else {
        Err(sentence(failures))
    }
}

/// Failures as one sentence.
fn sentence(failures: &[Error]) -> String {
    failures
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}
