//! What others do to our bans in the world. What an admin adds or deletes by hand counts as a ban or an unban; what would leave
//! this host unprotected without anybody having meant it (a flushed ruleset, a deleted table) is put right at once.

use std::collections::HashMap;
use std::time::Duration;

use tracing::{info, warn};

use super::{About, Engine, log_each};
use crate::clock::{Mono, Now};
use crate::history::{Ending, Record};
use crate::log::banned;
use crate::policy::{Ban, Origin, Place, Reason};
use crate::respond::{Held, Meddling, TEST};
use crate::source::Source;

/// Who puts right what is taken away again at once does not win by haste.
#[derive(Default)]
pub(super) struct Fights(HashMap<(&'static str, Over), Fight>);

/// What a fight is over: each has its own, so that who disputes the one does not keep the other from being put right.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Over {
    /// Bans, which are taken away.
    Bans,
    /// What stands beside them: rules, and who is let through.
    TheRest,
}

struct Fight {
    since: Mono,
    rounds: u32,
    /// When it is put right next; `None`: nothing waits.
    pause_until: Option<Mono>,
}

/// So many times within [`A_ROUND`] what was taken away is put back at once.
const AT_ONCE: u32 = 10;
const A_ROUND: Duration = Duration::from_secs(60);

/// And after that, no more often than this.
const PAUSE: Duration = Duration::from_secs(30);

/// Bans that are looked for at a time.
const SAMPLE: usize = 32;

/// Bans of one transaction that are looked up before they count, for something newer may have happened to them. Where a program
/// changes more than that, it is taken at its word: to look up so many would take seconds.
const LOOKED_UP: usize = 1000;

/// An end that an admin has moved by less is the same one.
const SAME_END: Duration = Duration::from_secs(2);

impl Fights {
    /// Whether it may be put right now.
    fn may_go_on(&mut self, name: &'static str, over: Over, now: Mono) -> bool {
        let fight = self.0.entry((name, over)).or_insert(Fight {
            since: now,
            rounds: 0,
            pause_until: None,
        });
        if now.since(fight.since) >= A_ROUND && fight.pause_until.is_none() {
            (fight.since, fight.rounds) = (now, 0);
        }
        fight.rounds += 1;
        if fight.rounds > AT_ONCE {
            fight.pause_until.get_or_insert(now.later(PAUSE));
        }
        fight.pause_until.is_none()
    }

    /// What has waited long enough.
    fn due(&mut self, now: Mono) -> Vec<(&'static str, Over)> {
        let mut due = Vec::new();
        for (which, fight) in &mut self.0 {
            if fight.pause_until.take_if(|until| *until <= now).is_some() {
                // One more round, and the next pause, if it goes on.
                (fight.since, fight.rounds) = (now, AT_ONCE);
                due.push(*which);
            }
        }
        due
    }

    /// Whether nothing is put right there for the time being.
    pub(super) fn is_paused(&self, name: &str) -> bool {
        let mut fights = self.0.iter();
        fights.any(|((at, _), fight)| *at == name && fight.pause_until.is_some())
    }

    pub(super) fn next_deadline(&self) -> Option<Mono> {
        self.0.values().filter_map(|fight| fight.pause_until).min()
    }
}

impl Engine {
    /// Begins to watch what others do to what the responders have made. Called once bans have been put back, and again
    /// when the responders have changed.
    pub fn begin_watching(&mut self, now: Now) {
        self.world.begin_watching();
        // What was done before nobody has heard.
        self.look(now);
        self.follow_up(now);
    }

    /// Others may have done something to what the responders have made. Called also before we do something ourselves, which they
    /// cannot have known of.
    pub fn notice(&mut self, now: Now) {
        for (name, meddling) in self.world.noticed() {
            self.follow(name, meddling, now);
        }
    }

    fn follow(&mut self, name: &'static str, meddling: Meddling, now: Now) {
        let Meddling {
            by,
            is_frame,
            mut is_emptied,
            added,
            removed,
        } = meddling;
        if let Some(lifted) = &mut self.lifted_since_start {
            lifted.extend(&removed);
        }
        let removed: Vec<Source> = removed
            .into_iter()
            .filter(|source| self.bans.get(*source).is_some())
            .collect();
        is_emptied |= self.is_flush(name, &removed, now);
        if !is_emptied {
            self.unban_by(name, removed, &by, now);
        }
        if is_frame {
            self.put_right(name, &by, is_emptied, now);
            let others = self.set_right(name, added, now);
            self.ban_by(name, others, &by, now);
        } else {
            self.ban_by(name, added, &by, now);
            if is_emptied {
                self.put_right(name, &by, is_emptied, now);
            }
        }
    }

    /// Whether, of all bans that stand together, at least two, none was left. A single last one may have been meant. Those that do
    /// not stand, or of which the kernel may have seen the end a moment before us, are none that were left.
    fn is_flush(&self, name: &str, removed: &[Source], now: Now) -> bool {
        let Some(first) = removed.first() else {
            return false;
        };
        let is_alike = |other: &Source| {
            (first.address().is_ipv4(), first.prefix_len())
                == (other.address().is_ipv4(), other.prefix_len())
        };
        if removed.iter().filter(|it| is_alike(it)).nth(1).is_none() {
            return false;
        }
        if self.world.is_making_good_at(name) {
            // Nobody can tell which of those had been put back that are alike.
            return true;
        }
        let soon = now.mono.later(SAME_END);
        let ending = self.bans.by_end(None).map(|(_, ban)| ban);
        let ending = ending.take_while(|ban| ban.end.is_some_and(|end| end.mono <= soon));
        let mut gone = self.world.not_in_force_at(name);
        gone.extend(removed);
        gone.extend(ending.map(|ban| ban.source));
        gone.retain(|source| is_alike(source) && self.bans.get(*source).is_some());
        gone.len() == self.bans.count_like(*first)
    }

    fn unban_by(&mut self, name: &'static str, mut sources: Vec<Source>, by: &str, now: Now) {
        if sources.len() <= LOOKED_UP {
            // Who has been put in again since is banned.
            sources.retain(|source| !matches!(self.world.find_at(name, *source), Ok(Some(_))));
        }
        if sources.is_empty() {
            return;
        }
        if self.bans.len() == sources.len() {
            warn!("{by} has taken the last ban out by hand, which counts as an unban");
        }
        self.world.is_gone_from(name, &sources, now);
        self.have_lifted(&sources, Ending::Unban, by, now);
        self.follow_up(now);
    }

    /// Where our own bans came with a frame that somebody put in place of ours, a table that was saved and is loaded again for
    /// instance, it is our times that count. Gives back the others.
    fn set_right(&mut self, name: &'static str, added: Vec<Held>, now: Now) -> Vec<Held> {
        let is_known = |held: &Held| self.bans.get(held.source).is_some();
        let (known, others): (Vec<Held>, Vec<Held>) = added.into_iter().partition(is_known);
        let known = known.iter().filter_map(|held| self.bans.get(held.source));
        self.world.ban_at(name, &known.collect::<Vec<_>>(), now);
        others
    }

    fn ban_by(&mut self, name: &'static str, added: Vec<Held>, by: &str, now: Now) {
        let mut bans = Vec::new();
        let is_looked_up = added.len() <= LOOKED_UP;
        for told in added {
            let source = told.source;
            if told.reason == Some(Reason::Text(TEST.into())) {
                continue;
            }
            let is_forced = self.is_forced(source);
            if let Some(friend) = self.guard.friend(source).filter(|_| !is_forced) {
                warn!(
                    "{by} has banned {source}, which is never banned ({friend}): it is let in again"
                );
                self.world.unban(&[source], now);
                continue;
            }
            if self.bans.get(source).is_none() && self.is_full_with(bans.len()) {
                let words = || {
                    format!(
                        "{by} has banned more than ban.limit allows: those stay in the kernel alone"
                    )
                };
                self.complaints.add(About::Limit, now.mono, words);
                continue;
            }
            let found = is_looked_up.then(|| self.world.find_at(name, source));
            let mut held = match found {
                // It has been taken out again since.
                Some(Ok(None)) => continue,
                Some(Ok(Some(found))) => found,
                Some(Err(_)) | None => told,
            };
            held.reason
                .get_or_insert_with(|| Reason::Text(format!("by {by}").into()));
            let mut ban = held.into_ban(now);
            if is_forced {
                ban.origin = Origin::Forced;
            }
            let known = self.bans.get(source);
            if known.is_none_or(|known| !is_same(known, &ban, now)) {
                bans.push(ban);
            }
        }
        if bans.is_empty() {
            return;
        }
        self.counters.adopted += bans.len() as u64;
        log_each(&bans, |ban| {
            format!("{}, put into {name} by {by}", banned(ban))
        });
        for ban in &bans {
            self.detector.forget(ban.source);
            self.provisional.remove(&ban.source);
            self.record(Record::Ban(ban.clone()), now.mono);
            self.bans.insert(ban.clone());
        }
        if self.world.posts().len() > 1 {
            self.world.ban(&bans.iter().collect::<Vec<_>>(), now);
        }
        self.follow_up(now);
    }

    /// Whether as many bans run as may.
    pub(super) fn is_full(&self) -> bool {
        self.is_full_with(0)
    }

    /// The same, with so many more.
    fn is_full_with(&self, more: usize) -> bool {
        let limit = usize::try_from(self.config.ban.limit).unwrap_or(usize::MAX);
        self.bans.len().saturating_add(more) >= limit
    }

    /// Makes anew what is gone, and puts back all bans if they may be gone too.
    fn put_right(&mut self, name: &'static str, by: &str, is_emptied: bool, now: Now) {
        let over = if is_emptied {
            Over::Bans
        } else {
            Over::TheRest
        };
        if !self.fights.may_go_on(name, over, now.mono) {
            let what = match over {
                Over::Bans => "takes away again and again what",
                Over::TheRest => {
                    "changes again and again the rules, or the sets of who is let through, that"
                }
            };
            let words = || {
                format!(
                    "{by} {what} {name} has made: bans may not be in force, and that is put right only every {} s. \
                     Find out what it does to the table, or give nftables.table another name",
                    PAUSE.as_secs()
                )
            };
            self.complaints.add(About::Fight, now.mono, words);
            self.world.is_robbed(name, now);
            return;
        }
        self.meddler = Some(by.to_owned());
        if is_emptied {
            self.world.is_lost(name);
        } else {
            self.world.look_at(name, now);
        }
        self.follow_up(now);
        if self.meddler.take().is_some() {
            info!("{name}: {by} has changed something there, which does no harm");
        }
    }

    /// Looks whether what the responders have made stands, and whether some of the bans do that should, other ones each time:
    /// for what nobody has told.
    pub fn reconcile(&mut self, now: Now) {
        self.look(now);
        let sample = |after| self.bans.by_end(after).take(SAMPLE).collect();
        let mut bans: Vec<(Place, &Ban)> = sample(self.reconciled_to);
        if bans.is_empty() {
            bans = sample(None);
        }
        self.reconciled_to = bans.last().map(|(place, _)| *place);
        let soon = now.mono.later(SAME_END);
        let lasts = |ban: &&Ban| ban.end.is_none_or(|end| end.mono > soon);
        let bans = bans.into_iter().map(|(_, ban)| ban);
        let sources: Vec<Source> = bans.filter(lasts).map(|ban| ban.source).collect();
        self.world.look_for(&sources);
        self.follow_up(now);
    }

    /// Looks whether what the responders have made stands; but for those that wait for a fight to calm down, of which that is known.
    pub(super) fn look(&mut self, now: Now) {
        let Self { world, fights, .. } = self;
        world.look(|name| !fights.is_paused(name), now);
    }

    /// Puts right what has waited for a fight to calm down.
    pub(super) fn go_on_fighting(&mut self, now: Now) {
        for (name, over) in self.fights.due(now.mono) {
            self.world.look_at(name, now);
            if over == Over::Bans {
                self.world.is_lost(name);
            }
        }
    }
}

/// Whether a ban found in the world says what we know.
fn is_same(known: &Ban, found: &Ban, now: Now) -> bool {
    match (known.left(now), found.left(now)) {
        (None, None) => true,
        (Some(known), Some(found)) => known.abs_diff(found) <= SAME_END,
        _ => false,
    }
}
