//! What follows from what the responders have done: a ban is told of when it is in force, trouble when it begins, and what
//! somebody took away is put back.

use std::collections::HashMap;

use tracing::{info, warn};

use super::post::Happened;
use super::report::Outcome;
use super::{About, Engine, Repair};
use crate::clock::Now;
use crate::history::Ending;
use crate::policy::{Alarm, Reason};
use crate::respond::Deed;
use crate::source::Source;

/// A ban that is not told of to its end: some responder has still to make it real.
pub(super) struct Untold {
    pub(super) alarm: Alarm,
    pub(super) reason: Reason,
    /// Whether the scan itself has been told of.
    pub(super) is_seen: bool,
    /// Whether some responder has made the ban real.
    pub(super) is_real: bool,
    /// Whether it has been told that it could not be made real.
    pub(super) has_failed: bool,
    /// Whether the admin's programs are still to do their part: after the responders, as in 1.2.
    pub(super) is_for_programs: bool,
}

/// How often in a row it is looked whether putting back what was lost has found more to be lost.
const ROUNDS: usize = 3;

impl Engine {
    /// Responders with threads of their own have done something.
    pub fn collect(&mut self, now: Now) {
        self.world.collect(now);
        self.follow_up(now);
    }

    /// Called after everything that was ordered of the responders.
    pub(super) fn follow_up(&mut self, now: Now) {
        for _ in 0..ROUNDS {
            let lost = self.hear(now);
            for name in &lost {
                self.counters.repairs += 1;
                let by = self.meddler.take().unwrap_or_else(|| "somebody".to_owned());
                warn!(
                    "{name}: {by} has taken bans away, or what they need: putting {} back",
                    self.bans.len()
                );
                self.last_repair = Some(Repair {
                    at: now.wall,
                    responder: name,
                    after: by,
                });
                self.world.make_good(name, &self.bans, now);
            }
            if lost.is_empty() {
                break;
            }
        }
    }

    /// Tells of what has happened; gives back who has lost bans.
    fn hear(&mut self, now: Now) -> Vec<&'static str> {
        let mut made: Vec<(Source, Vec<Deed>)> = Vec::new();
        let mut places: HashMap<Source, usize> = HashMap::new();
        let mut refused = Vec::new();
        let mut troubles = Vec::new();
        let mut agree = Vec::new();
        let mut lost = Vec::new();
        for happened in self.world.take_happened() {
            match happened {
                Happened::InForce(source, deed) if self.untold.contains_key(&source) => {
                    let place = *places.entry(source).or_insert(made.len());
                    match made.get_mut(place) {
                        Some((_, deeds)) => deeds.push(deed),
                        None => made.push((source, vec![deed])),
                    }
                }
                Happened::InForce(source, _) if self.untold_rollups.remove(&source) => {
                    self.tell_of_rollup(source, now);
                }
                Happened::InForce(..) => {}
                Happened::NotInForce(source) => refused.push(source),
                Happened::Trouble(name, words) => troubles.push((name, words)),
                Happened::Agrees(name) => agree.push(name),
                Happened::Lost(name) if lost.contains(&name) => {}
                Happened::Lost(name) => lost.push(name),
            }
        }
        for (source, deeds) in made {
            self.tell_of_ban(source, deeds, now);
            self.go_on_with(source, now);
        }
        for source in refused {
            self.tell_of_failure(source, now);
            if self.bans.get(source).is_some() && self.world.is_refused(source) {
                self.lift(&[source], Ending::Ignored, "portsentry", now);
            }
            self.go_on_with(source, now);
        }
        for (name, words) in troubles {
            self.complaints
                .add(About::Responder(name), now.mono, || words);
        }
        for name in agree {
            self.complaints.settle(About::Responder(name));
            info!("{name}: what we ban and what is in force agree again");
        }
        lost
    }

    fn tell_of_ban(&mut self, source: Source, deeds: Vec<Deed>, now: Now) {
        let Some(untold) = self.untold.get_mut(&source) else {
            return;
        };
        let (alarm, reason) = (untold.alarm, untold.reason.clone());
        let is_first = !std::mem::replace(&mut untold.is_seen, true);
        let outcome = if std::mem::replace(&mut untold.is_real, true) {
            Outcome::BannedToo(deeds)
        } else {
            Outcome::Banned(deeds)
        };
        self.report(alarm, Some(reason), is_first, outcome, now);
    }

    /// What comes after the responders have said whether this ban is in force: all of them.
    fn go_on_with(&mut self, source: Source, now: Now) {
        if self.world.is_pending(source) {
            return;
        }
        let Some(untold) = self.untold.get_mut(&source) else {
            return;
        };
        let alarm = untold.alarm;
        let is_for_programs = std::mem::take(&mut untold.is_for_programs);
        if self.world.is_in_force(source) {
            self.untold.remove(&source);
        }
        if is_for_programs {
            self.go_on_with_programs(source, alarm, now);
        }
    }

    /// Tells once that a ban could not be made real, where nobody has made it so, nor is at it.
    fn tell_of_failure(&mut self, source: Source, now: Now) {
        let is_pending = self.world.is_pending(source);
        let Some(untold) = self.untold.get_mut(&source) else {
            return;
        };
        if untold.is_real || untold.has_failed || is_pending {
            return;
        }
        untold.has_failed = true;
        let (alarm, reason) = (untold.alarm, untold.reason.clone());
        let is_first = !std::mem::replace(&mut untold.is_seen, true);
        self.report(alarm, Some(reason), is_first, Outcome::Failed, now);
    }
}
