//! Bans that stood before this run: what history knows is put back, what the world holds is taken over.

use std::collections::HashSet;

use super::complaints::About;
use super::{Engine, log_each};
use crate::clock::{Now, Wall};
use crate::history::{Ending, Record};
use crate::log::banned;
use crate::policy::{Ban, End, Origin, Past, Place, length_of_next};
use crate::respond::{Held, Holdings};
use crate::source::Source;

impl Engine {
    /// Takes bans for granted that hold in the world already: for a command without a daemon.
    pub fn know(&mut self, bans: Vec<Ban>) {
        for ban in bans {
            self.bans.insert(ban);
        }
    }

    /// So many bans will be put back.
    pub fn make_room(&mut self, count: u64) {
        let limit = u64::from(self.config().ban.limit);
        self.bans
            .make_room(usize::try_from(count.min(limit)).unwrap_or(0));
    }

    /// Puts bans back that history knows, for the time they have left; those that are friends by now end instead.
    /// What has been decided since the start is newer than history, and stands; but nobody has his ban shortened by one more scan.
    /// Where programs alone ban, nothing is put back: what they did cannot be looked at, and may be gone. It is undone, as
    /// far as there is a program for that, and the ban ends.
    pub fn replay(&mut self, bans: Vec<Ban>, now: Now) {
        self.replayed_since.get_or_insert(now.wall);
        if !self.world.has_responders() {
            let sources: Vec<Source> = bans.iter().map(|ban| ban.source).collect();
            let unbanned = self.lift(&sources, Ending::Unban, "portsentry", now);
            for failure in unbanned.failures {
                self.complaints.once(About::Leftovers, || failure);
            }
            return;
        }
        let lifted = self.lifted_since_start.as_ref();
        let (mut friends, mut longer) = (Vec::new(), Vec::new());
        let mut places = Vec::with_capacity(bans.len());
        for ban in bans {
            let newer = self.bans.get(ban.source);
            let stands = |newer: &Ban| newer.origin != Origin::Scan || !ban.outlasts(newer);
            if newer.is_some_and(stands) || lifted.is_some_and(|it| it.contains(&ban.source)) {
                continue;
            }
            if self.is_guarded(&ban) {
                friends.push(ban.source);
            } else if newer.is_some() {
                longer.push(ban);
            } else {
                // Right behind the look: a million of them are found and held at the cost of one walk through memory.
                places.push(self.bans.hold(ban).0);
            }
        }
        self.bans.put_in_order(places.clone());
        self.keep_longer(longer, now);
        let at = |place: &Place| self.bans.at(*place);
        let missing: Vec<&Ban> = places.iter().filter_map(at).collect();
        self.world.replay(&missing, now);
        self.counters.replayed += missing.len() as u64;
        if missing.iter().any(|ban| ban.origin == Origin::Forced) {
            self.world.spare(&self.let_through(), now);
        }
        self.end_friends(friends, now);
        self.follow_up(now);
    }

    /// Has these bans go on, whose sources have scanned since the start and were banned for a shorter time than history asks for.
    fn keep_longer(&mut self, bans: Vec<Ban>, now: Now) {
        if bans.is_empty() {
            return;
        }
        self.world.ban(&bans.iter().collect::<Vec<_>>(), now);
        for mut ban in bans {
            ban.start = now.wall;
            self.record(Record::Ban(ban.clone()), now.mono);
            self.bans.insert(ban);
        }
    }

    /// The jobs that list what the world holds, for [`adopt`](Self::adopt), and what they may leave out.
    #[must_use]
    pub fn begin_listing(&mut self) -> (Vec<Holdings>, Vec<Source>) {
        self.lifted_since_start.get_or_insert_default();
        self.listing_is_stale = false;
        let jobs = self.world.holdings();
        if jobs.is_empty() {
            return (jobs, Vec::new());
        }
        let known = self.bans.iter().map(|ban| ban.source).collect();
        (jobs, known)
    }

    /// Takes over what the world holds and we do not know, as bans that somebody else made: once each, where several
    /// responders hold it. What nobody has ended in time, because we did not run then, ends now.
    pub fn adopt(&mut self, held: Vec<Held>, now: Now) {
        let lifted = self.lifted_since_start.take().unwrap_or_default();
        if std::mem::take(&mut self.listing_is_stale) {
            return;
        }
        let mut seen = HashSet::new();
        let is_news = |source| self.bans.get(source).is_none() && !lifted.contains(&source);
        let (over, held): (Vec<Held>, Vec<Held>) = held
            .into_iter()
            .filter(|held| is_news(held.source))
            .partition(|held| held.clock.is_some_and(|clock| clock.left == 0));
        let (friends, held): (Vec<Held>, Vec<Held>) = held
            .into_iter()
            .filter(|held| seen.insert(held.source))
            .partition(|held| self.guard.friend(held.source).is_some());
        let over: Vec<Source> = over
            .iter()
            .map(|held| held.source)
            .filter(|source| !seen.contains(source))
            .collect();
        self.world.end(&over, now);
        let adopted: Vec<Ban> = held.into_iter().map(|held| held.into_ban(now)).collect();
        self.counters.adopted += adopted.len() as u64;
        log_each(&adopted, |ban| format!("adopted: {}", banned(ban)));
        // What one responder holds, the others are to hold too, and so is that one, whatever has become of it since.
        self.world.replay(&adopted.iter().collect::<Vec<_>>(), now);
        for ban in adopted {
            self.record(Record::Ban(ban.clone()), now.mono);
            self.bans.insert(ban);
        }
        self.end_friends(friends.iter().map(|held| held.source).collect(), now);
        self.follow_up(now);
    }

    /// Takes pasts from history: each counts towards the length of the source's next ban, and of one that was decided since the start,
    /// before it was known. What has ended since is known already.
    pub fn remember(&mut self, pasts: Vec<(Source, Past)>, now: Now) {
        let mut longer = Vec::new();
        for (source, past) in pasts {
            let known = self.bans.past(source).unwrap_or(past);
            let past = Past {
                count: known.count.max(past.count),
                last_end: known.last_end.max(past.last_end),
            };
            self.bans.remember(source, past);
            longer.extend(self.escalated(source, past, now));
        }
        self.keep_longer(longer, now);
        self.follow_up(now);
    }

    /// The ban of this source as it would have been with that past, if it was decided since the start and would have been longer.
    fn escalated(&self, source: Source, past: Past, now: Now) -> Option<Ban> {
        let is_new = |ban: &&Ban| self.replayed_since.is_some_and(|since| ban.start >= since);
        let ban = self.bans.get(source).filter(is_new)?;
        if ban.origin != Origin::Scan {
            return None;
        }
        let then = Now {
            wall: ban.start,
            ..now
        };
        let length = length_of_next(&self.config.ban, Some(past), then)?;
        let more = length.checked_sub(ban.length()?)?;
        let end = ban.end.filter(|_| !more.is_zero())?;
        Some(Ban {
            end: Some(End {
                mono: end.mono.later(more),
                wall: end.wall.later(more),
            }),
            ..ban.clone()
        })
    }

    /// Forgets pasts that ended before that moment.
    pub fn forget_before(&mut self, moment: Wall) {
        self.bans.forget_before(moment);
    }
}
