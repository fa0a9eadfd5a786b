//! The admin's own programs: which are due, what for, and what follows from how they end. They are run elsewhere.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use tracing::{info, warn};

use super::post::{FIRST_PAUSE, LONGEST_PAUSE};
use super::report::Outcome;
use super::{About, Engine, Health, Record};
use crate::clock::{Mono, Now};
use crate::config::ignore::HostName;
use crate::config::{CommandLine, ResponderKind};
use crate::log::alerts;
use crate::policy::Alarm;
use crate::respond::Deed;
use crate::respond::command::{self, Ended, Job};
use crate::source::Source;

/// Something that is to be done outside: the answer comes back when it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Errand {
    /// Find the name of this address.
    Name(IpAddr),
    /// Find out where this name leads to.
    Whereabouts(HostName),
    /// Run a program of the admin's.
    Run(Job),
}

/// What a program is run for.
#[derive(Clone, Debug)]
pub(super) enum Purpose {
    /// To tell somebody of an alarm.
    Tell(Alarm),
    /// The same, and the ban of this source waits for it.
    TellFirst(Alarm, Source),
    /// To ban this source because of an alarm; `None`: because somebody asked.
    Ban(Source, Option<Alarm>),
    /// To undo that.
    Unban(Source),
}

/// Programs that are under way, and what they have come to.
#[derive(Default)]
pub(super) struct Programs {
    next: u64,
    under_way: HashMap<u64, Purpose>,
    /// Whom a program has banned.
    made: HashSet<Source>,
    /// Whom it could not ban, and is to try again to.
    unmade: HashMap<Source, Option<Alarm>>,
    retry: Option<Retry>,
}

/// When programs that failed are run again.
struct Retry {
    at: Mono,
    pause: Duration,
    trouble: String,
}

impl Programs {
    /// When those that failed are to be run again; `None`: none has.
    pub(super) fn retry_at(&self) -> Option<Mono> {
        self.retry.as_ref().map(|retry| retry.at)
    }

    /// Whom programs are banning right now, or wait for their turn to.
    fn being_banned(&self) -> HashSet<Source> {
        let purposes = self.under_way.values();
        let banned = purposes.filter_map(|purpose| match purpose {
            Purpose::Ban(source, _) => Some(*source),
            _ => None,
        });
        banned.collect()
    }

    /// A ban could not be made: it is tried again.
    fn failed(&mut self, source: Source, alarm: Option<Alarm>, trouble: String, now: Mono) {
        self.unmade.insert(source, alarm);
        let pause = self.retry.as_ref().map_or(FIRST_PAUSE, |retry| retry.pause);
        self.retry = Some(Retry {
            at: now.later(pause),
            pause,
            trouble,
        });
    }

    /// A ban has been made.
    fn made(&mut self, source: Source) {
        self.made.insert(source);
        self.forget(source);
    }

    /// Whom no program is to ban any more.
    fn over(&mut self, source: Source) {
        self.made.remove(&source);
        self.forget(source);
    }

    fn forget(&mut self, source: Source) {
        self.unmade.remove(&source);
        if self.unmade.is_empty() {
            self.retry = None;
        }
    }

    /// Notes what the next program is for; the number by which it is known.
    pub(super) fn begin(&mut self, purpose: Purpose) -> u64 {
        self.next += 1;
        self.under_way.insert(self.next, purpose);
        self.next
    }

    /// A program has ended: what it was for.
    pub(super) fn end(&mut self, id: u64) -> Option<Purpose> {
        self.under_way.remove(&id)
    }

    /// The bans that wait for programs.
    pub(super) fn take_waiting(&mut self) -> Vec<(Source, Alarm)> {
        let purposes = std::mem::take(&mut self.under_way).into_values();
        purposes
            .filter_map(|purpose| match purpose {
                Purpose::TellFirst(alarm, source) => Some((source, alarm)),
                _ => None,
            })
            .collect()
    }

    /// Whether as many are under way as may be, those that wait for their turn too.
    fn is_full(&self) -> bool {
        self.under_way.len() >= command::Runner::QUEUE
    }
}

impl Engine {
    /// What is to be done outside. Called after everything that was handed to the engine.
    #[must_use]
    pub fn take_errands(&mut self) -> Vec<Errand> {
        std::mem::take(&mut self.errands)
    }

    /// A program has ended.
    pub fn ended(&mut self, ended: &Ended, now: Now) {
        let Some(purpose) = self.programs.end(ended.id) else {
            return;
        };
        match purpose {
            Purpose::Tell(alarm) => told_of(&alarm, ended),
            Purpose::TellFirst(alarm, source) => {
                told_of(&alarm, ended);
                self.carry_out(vec![(source, alarm)], false, now);
            }
            Purpose::Ban(source, alarm) => self.banned_by_program(source, alarm, ended, now),
            Purpose::Unban(source) => match &ended.trouble {
                None => info!("command.unban has run for {source}: {}", ended.command),
                Some(trouble) => {
                    let failure = format!(
                        "command.unban failed for {source}: {}: {trouble}",
                        ended.command
                    );
                    self.complaints.add(About::Programs, now.mono, || failure);
                }
            },
        }
    }

    fn banned_by_program(&mut self, source: Source, alarm: Option<Alarm>, ended: &Ended, now: Now) {
        let is_sole = !self.world.has_responders();
        if is_sole {
            self.world.let_go(source);
        }
        if self.bans.get(source).is_none() {
            return; // It was lifted meanwhile, and is being undone.
        }
        if let Some(trouble) = &ended.trouble {
            let address = alarm.map_or(source.address(), |alarm| alarm.probe.source);
            warn!(
                "adminalert: ERROR: There was an error trying to block host (system fail) {address}"
            );
            let failure = format!(
                "command.ban failed for {source}: {}: {trouble}",
                ended.command
            );
            self.complaints
                .add(About::Programs, now.mono, || failure.clone());
            if is_sole {
                self.not_banned(source, alarm, now);
            } else {
                self.programs.failed(source, alarm, failure, now.mono);
            }
            return;
        }
        self.programs.made(source);
        let deed = Deed::Route(ended.command.clone());
        let Some(alarm) = alarm else {
            info!("{}", alerts::done(source.address(), &deed));
            return;
        };
        let Some(ban) = self.bans.get(source).cloned() else {
            return;
        };
        let reason = Some(ban.reason.clone());
        let untold = self.untold.get_mut(&source);
        let is_first = untold.map_or(is_sole, |it| !std::mem::replace(&mut it.is_real, true));
        let outcome = if is_first {
            Outcome::Banned(vec![deed])
        } else {
            Outcome::BannedToo(vec![deed])
        };
        if is_sole {
            self.record(Record::Ban(ban), now.mono);
        }
        self.report(alarm, reason, false, outcome, now);
    }

    /// Runs those programs again that could not ban whom they should, if that is due.
    pub(super) fn retry_programs(&mut self, now: Now) {
        let Some(retry) = &mut self.programs.retry else {
            return;
        };
        if retry.at > now.mono {
            return;
        }
        retry.pause = (retry.pause * 2).min(LONGEST_PAUSE);
        retry.at = now.mono.later(retry.pause);
        let under_way = self.programs.being_banned();
        let mut again = self.programs.unmade.clone();
        again.retain(|source, _| !under_way.contains(source));
        for (source, alarm) in again {
            let address = alarm.map_or(source.address(), |alarm| alarm.probe.source);
            let line = self.config.command.ban.clone();
            self.run(line, alarm, Purpose::Ban(source, alarm), address, now);
        }
    }

    /// Whether a program has banned this one.
    pub(super) fn stands_by_program(&self, source: Source) -> bool {
        self.programs.made.contains(&source)
    }

    /// How the program that bans is; `None`: there is none.
    pub(super) fn programs_health(&self) -> Option<Health> {
        self.bans_by_program().then(|| Health {
            responder: "command",
            enforced: self.programs.made.len(),
            trouble: self.programs.retry.as_ref().map(|it| it.trouble.clone()),
        })
    }

    /// The only program that could ban this source has not: its next scan is one.
    pub(super) fn not_banned(&mut self, source: Source, alarm: Option<Alarm>, now: Now) {
        self.bans.remove(source);
        self.world.let_go(source);
        if let Some(alarm) = alarm {
            self.report(alarm, None, false, Outcome::Failed, now);
        }
    }

    /// Has a program run, if there is one and it has a place; whether it does.
    pub(super) fn run(
        &mut self,
        line: Option<CommandLine>,
        alarm: Option<Alarm>,
        purpose: Purpose,
        address: IpAddr,
        now: Now,
    ) -> bool {
        let Some(line) = line else { return false };
        if address.is_ipv6() && command::knows_only_ipv4(&line) {
            self.complaints.once(About::Ipv4Programs, || {
                "a program of [command] knows IPv4 alone, and is not run for IPv6 sources"
                    .to_owned()
            });
            return false;
        }
        if self.programs.is_full() {
            self.complaints.add(About::Programs, now.mono, || {
                format!(
                    "{} programs of [command] wait for their turn: further ones are not run",
                    command::Runner::QUEUE
                )
            });
            return false;
        }
        let id = self.programs.begin(purpose);
        self.errands.push(Errand::Run(Job {
            id,
            line,
            source: address,
            port: alarm.map_or(0, |alarm| alarm.probe.port),
            mode: alarm.map(|alarm| alarm.mode),
        }));
        true
    }

    pub(super) fn complain_of_ipv4_programs(&mut self) {
        self.complaints.once(About::Ipv4Programs, || {
            "a program of [command] knows IPv4 alone, and is not run for IPv6 sources".to_owned()
        });
    }

    fn has_programs(&self) -> bool {
        let responders = &self.config.ban.responders;
        responders.contains(&ResponderKind::Command)
    }

    /// Whether a program is told of bans.
    pub(super) fn tells_of_bans(&self) -> bool {
        self.has_programs() && self.config.command.run.is_some()
    }

    /// Whether a program makes bans real.
    pub(super) fn bans_by_program(&self) -> bool {
        self.has_programs() && self.config.command.ban.is_some()
    }

    /// Whether nothing can ban the source of this alarm.
    pub(super) fn cannot_ban(&self, alarm: Alarm) -> bool {
        !self.world.has_responders()
            && alarm.probe.source.is_ipv6()
            && (self.config.command.ban.as_ref()).is_some_and(command::knows_only_ipv4)
    }

    /// Undoes what a program did to ban these, as far as another one can. What nobody can undo is told.
    pub(super) fn undo_by_program(&mut self, sources: &[Source], now: Now) -> Option<String> {
        if !self.bans_by_program() || sources.is_empty() {
            return None;
        }
        let mut left = 0;
        for &source in sources {
            self.programs.over(source);
            let line = self.config.command.unban.clone();
            if !self.run(line, None, Purpose::Unban(source), source.address(), now) {
                left += 1;
            }
        }
        (left > 0).then(|| {
            format!(
                "what command.ban did for {} stays: no command.unban has undone it",
                if left == 1 {
                    "it".to_owned()
                } else {
                    format!("{left} of them")
                }
            )
        })
    }

    /// Makes bans real that wait for programs which will not end any more. Called when nothing runs programs any longer.
    pub fn release_waiting(&mut self, now: Now) {
        let waiting = self.programs.take_waiting();
        self.carry_out(waiting, false, now);
    }
}

/// Logs what came of telling a program.
fn told_of(alarm: &Alarm, ended: &Ended) {
    let address = alarm.probe.source;
    match &ended.trouble {
        None => info!("{}", alerts::told(address, &ended.command)),
        Some(trouble) => {
            warn!(
                "adminalert: ERROR: There was an error trying to run command (system fail) {address}"
            );
            warn!(
                "command.run failed for {address}: {}: {trouble}",
                ended.command
            );
        }
    }
}
