//! The only owner of what is banned. Events come in with their time; bans go out to the responders and to history.
//!
//! Used by the daemon, and by the command line when no daemon runs. It opens no socket, reads no clock and prints nothing.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::eventfd::EventFd;
use tracing::{info, warn};

use crate::clock::{Mono, Now, Wall};
use crate::config::Config;
use crate::config::ignore::IgnoreList;
use crate::detect::Detector;
use crate::guard::{Friend, Guard};
use crate::history::{Ending, Record, Recorder, Seq};
use crate::host::{Facts, Resolver};
use crate::log::{banned, lifted};
use crate::policy::{Alarm, Ban, Bans, End, Origin, Past, Place, Reason};
use crate::probe::Probe;
use crate::respond::{Crew, Held, Holdings, Member};
use crate::source::Source;

mod aftermath;
mod agreement;
mod complaints;
mod counters;
pub mod explain;
mod forced;
pub mod import;
mod logins;
mod meddling;
mod named;
mod post;
mod programs;
mod provisional;
mod report;
mod rollup;
#[cfg(test)]
mod tests;
mod trial;

use aftermath::Untold;
use agreement::Agreement;
use complaints::{About, Complaints};
pub use counters::Counters;
pub use logins::FindLogins;
use meddling::Fights;
pub use programs::Errand;
use programs::{Programs, Purpose};
use provisional::Provisional;
use report::{Budget, Outcome, Report, Reports};

/// What only the kernel knows about a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Is something bound to the port it was sent to?
    IsService,
    /// Is it handed on to another address or port, to be served there?
    IsRedirected,
    /// Does it answer traffic that left this host?
    IsAnswer,
    /// Has somebody answered it, who need not be there any more?
    WasAnswered,
}

/// Asks the kernel about a probe.
pub type Ask<'a> = dyn FnMut(Question, &Probe) -> Result<bool, String> + 'a;

/// Everything that is decided, and what it is decided from.
pub struct Engine {
    config: Config,
    guard: Guard,
    /// Who is logged in; `None`: nobody can tell.
    find_logins: Option<Box<FindLogins>>,
    detector: Detector,
    bans: Bans,
    world: Agreement,
    recorder: Recorder,
    /// Counts for `status`.
    pub counters: Counters,
    complaints: Complaints,
    /// Bans that some responder has still to make real, and that people are to be told of then.
    untold: HashMap<Source, Untold>,
    /// Prefixes that have been rolled up, and of which people are to be told when some responder has made that real.
    untold_rollups: HashSet<Source>,
    /// Reports that wait for names.
    reports: Reports,
    /// How many more lines may tell of those who are dealt with already.
    repeats: Budget,
    /// How many more alarms may be told.
    alarms: Budget,
    last_repair: Option<Repair>,
    /// Who has taken bans away that are being put back, if that is known.
    meddler: Option<String>,
    fights: Fights,
    /// How far it has been looked, by the ends of bans, whether they are in force.
    reconciled_to: Option<Place>,
    /// Bans that end soon unless they are confirmed.
    provisional: Provisional,
    /// Programs that are under way.
    programs: Programs,
    /// What is to be done outside.
    errands: Vec<Errand>,
    /// What has been lifted, or ended, since history and the world began to be read: what was read before must not bring it back.
    /// `None`: both are read.
    lifted_since_start: Option<HashSet<Source>>,
    /// Whether everything was lifted while the world was being listed.
    listing_is_stale: bool,
}

/// Alarms that are told a second, and those of sources that are dealt with already.
const ALARMS: u32 = 100;
const REPEATS: u32 = 20;

/// Lines that one event may log; what is beyond is told by its number.
const LINES: usize = 20;

/// Why nobody is banned on demand where there are no responders.
const PROGRAMS_ALONE: &str =
    "programs alone ban here (ban.responders), and they are run for scans alone; run yours by hand";

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
}

/// Why an ordered ban was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The source is guarded.
    #[error("{0} is never banned: {1}")]
    Friend(Source, Friend),
    /// As many bans run as may.
    #[error("{0} is not banned: the limit of {1} bans (ban.limit) is reached")]
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
}

/// How a responder is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Its name.
    pub responder: &'static str,
    /// Our bans that are in force there.
    pub enforced: usize,
    /// Why it does not work here, or what went wrong last and is not mended; `None`: all is well.
    pub trouble: Option<String>,
}

/// Bans that were put back after somebody had taken them away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// When.
    pub at: Wall,
    /// Where.
    pub responder: &'static str,
    /// Who had taken them away, fit for a log.
    pub after: String,
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

impl Engine {
    /// An engine that holds no bans yet.
    #[must_use]
    pub fn new(config: Config, guard: Guard, crew: Crew, recorder: Recorder) -> Self {
        let mut bans = Bans::default();
        bans.roll_up_by(&config.ban);
        Self {
            detector: Detector::new(&config.detect),
            config,
            guard,
            find_logins: None,
            bans,
            world: Agreement::new(crew),
            recorder,
            counters: Counters::default(),
            complaints: Complaints::default(),
            untold: HashMap::new(),
            untold_rollups: HashSet::new(),
            reports: Reports::default(),
            repeats: Budget::new(REPEATS),
            alarms: Budget::new(ALARMS),
            last_repair: None,
            meddler: None,
            fights: Fights::default(),
            reconciled_to: None,
            provisional: Provisional::default(),
            programs: Programs::default(),
            errands: Vec::new(),
            lifted_since_start: Some(HashSet::new()),
            listing_is_stale: false,
        }
    }

    /// Tells of an alarm: at once, or when its source has a name.
    fn report(
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

    fn tell(&mut self, report: &Report, name: Option<&str>, now: Now) {
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

    /// Looks whether what the responders made still stands, and puts it back with all bans where it does not. Waits for them,
    /// but not for long.
    pub fn verify(&mut self, now: Now) {
        self.world.look(now);
        self.world.wait(now);
        self.follow_up(now);
    }

    /// Has the responders let friends through, whatever else holds. Called once at the start.
    pub fn spare_friends(&mut self, now: Now) {
        self.world.spare(&self.let_through(), now);
        self.follow_up(now);
    }

    /// Works with the responders of these names from now on, in this order; `new` are those among them that it does not have
    /// yet. What the others have put up stays, for the caller to take down.
    pub fn change_responders(&mut self, names: &[&str], new: Vec<Member>, now: Now) {
        let friends = self.let_through();
        self.world.change(names, new, &self.bans, &friends, now);
        self.follow_up(now);
    }

    /// What becomes readable when [`notice`](Self::notice) has something to do.
    pub fn watched(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.world.watched()
    }

    /// The bell that the threads of its responders ring; `None`: they have none.
    #[must_use]
    pub fn bell(&self) -> Option<Arc<EventFd>> {
        self.world.bell()
    }

    /// Takes bans for granted that hold in the world already: for a command without a daemon.
    pub fn know(&mut self, bans: Vec<Ban>) {
        for ban in bans {
            self.bans.insert(ban);
        }
    }

    /// Does what is due: ends bans whose time has come, and tries again what failed.
    pub fn tick(&mut self, now: Now) {
        self.undo_unconfirmed(now);
        self.send_for_names(now.mono);
        let expired = self.bans.expire(now);
        let over: Vec<Source> = expired.iter().map(|ban| ban.source).collect();
        if let Some(lifted) = &mut self.lifted_since_start {
            lifted.extend(&over);
        }
        for source in &over {
            self.untold.remove(source);
            self.untold_rollups.remove(source);
        }
        self.world.end(&over, now);
        self.heed_forced(expired.iter(), now);
        if let Some(words) = self.undo_by_program(&over, now) {
            self.complaints.once(About::Leftovers, || words);
        }
        log_each(&expired, |ban| {
            format!("{} is no longer banned: its time is over", ban.source)
        });
        self.world.retry(&self.bans, now);
        self.retry_programs(now);
        self.go_on_fighting(now);
        self.follow_up(now);
        if let Some(more) = self.alarms.take_beyond(now.mono) {
            info!("… and {more} more alarms within a second: history has them all");
        }
        while let Some(report) = self.reports.overdue(now.mono) {
            self.tell(&report, None, now);
        }
    }

    /// When [`tick`](Self::tick) is due next; `None`: nothing waits.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Mono> {
        [
            self.bans.next_end(),
            self.world.retry_at(),
            self.programs.retry_at(),
            self.fights.next_deadline(),
            self.alarms.next_deadline(),
            self.reports.next_deadline(),
            self.guard.names.next_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

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
        }
        // Also where nothing was found: a list of the world that is under way may have it.
        if let Some(lifted) = &mut self.lifted_since_start {
            lifted.extend(candidates);
        }
        self.detector.forget(self.guard.source_of(target.address()));
        unbanned
    }

    /// Lifts every ban there is, those that stand in the world alone too.
    pub fn unban_all(&mut self, by: &str, now: Now) -> Unbanned {
        self.notice(now);
        let all: Vec<Source> = self.bans.iter().map(|ban| ban.source).collect();
        self.world.unban_all(&all, now);
        self.listing_is_stale = true;
        let mut unbanned = self.have_lifted(&all, Ending::Unban, by, now);
        unbanned
            .failures
            .extend(self.world.is_cleared_of(&all, now).err());
        self.follow_up(now);
        unbanned
    }

    fn lift(&mut self, sources: &[Source], how: Ending, by: &str, now: Now) -> Unbanned {
        self.world.unban(sources, now);
        self.have_lifted(sources, how, by, now)
    }

    /// What follows where the responders have been told to lift these, or need not be.
    fn have_lifted(&mut self, sources: &[Source], how: Ending, by: &str, now: Now) -> Unbanned {
        let mut unbanned = self.lifted(sources, how, by, now);
        unbanned.failures.extend(self.undo_by_program(sources, now));
        unbanned
    }

    /// Takes bans out of memory that the world was told to lift, and tells history.
    fn lifted(&mut self, sources: &[Source], how: Ending, by: &str, now: Now) -> Unbanned {
        let mut unbanned = Unbanned::default();
        let mut forgiven = Vec::new();
        for &source in sources {
            let ban = self.bans.remove(source);
            self.provisional.remove(&source);
            self.untold.remove(&source);
            self.untold_rollups.remove(&source);
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
            });
        }
        self.bans.forgive(&forgiven);
        log_each(sources, |source| lifted(*source, how, by));
        let bans = unbanned.lifted.iter().filter_map(|it| it.ban.as_ref());
        self.heed_forced(bans, now);
        unbanned
    }

    /// Puts bans back that history knows, for the time they have left; those that are friends by now end instead.
    /// What has been decided since the start is newer than history, and stands.
    /// Where programs alone ban, nothing is put back: what they did cannot be looked at, and may be gone. It is undone, as
    /// far as there is a program for that, and the ban ends.
    pub fn replay(&mut self, bans: Vec<Ban>, now: Now) {
        if !self.world.has_responders() {
            let sources: Vec<Source> = bans.iter().map(|ban| ban.source).collect();
            let unbanned = self.lift(&sources, Ending::Unban, "portsentry", now);
            for failure in unbanned.failures {
                self.complaints.once(About::Leftovers, || failure);
            }
            return;
        }
        let lifted = self.lifted_since_start.as_ref();
        let is_old = |source| {
            self.bans.get(source).is_some() || lifted.is_some_and(|lifted| lifted.contains(&source))
        };
        let (friends, bans): (Vec<Ban>, Vec<Ban>) = bans
            .into_iter()
            .filter(|ban| !is_old(ban.source))
            .partition(|ban| self.is_guarded(ban));
        self.world.replay(&bans.iter().collect::<Vec<_>>(), now);
        self.counters.replayed += bans.len() as u64;
        let replayed: Vec<Source> = bans.iter().map(|ban| ban.source).collect();
        for ban in bans {
            self.bans.insert(ban);
        }
        if replayed.iter().any(|source| self.is_forced(*source)) {
            self.world.spare(&self.let_through(), now);
        }
        self.end_friends(friends.iter().map(|ban| ban.source).collect(), now);
        self.follow_up(now);
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

    /// Ends the bans of those who are friends by now.
    fn end_friends(&mut self, friends: Vec<Source>, now: Now) {
        if !friends.is_empty() {
            self.lift(&friends, Ending::Ignored, "portsentry", now);
            self.follow_up(now);
        }
    }

    /// Leaves no trace in the world. History keeps the bans: the next start puts them back.
    ///
    /// # Errors
    /// Something of ours is still there.
    pub fn withdraw(&mut self) -> Result<(), String> {
        self.world.withdraw()
    }

    /// As [`withdraw`](Self::withdraw), but leaves bans that end by themselves, and waits until all of them stand as they should.
    ///
    /// # Errors
    /// Something is still there that nobody would end.
    pub fn withdraw_clockless(&mut self, now: Now) -> Result<(), String> {
        self.world.withdraw_clockless(now)
    }

    /// Takes another configuration. Who is a friend by it is unbanned.
    pub fn reconfigure(&mut self, config: Config, ignored: IgnoreList, now: Now) {
        if !self.detector.follows(&config.detect) {
            self.detector = Detector::new(&config.detect);
        }
        self.guard.reconfigure(&config, ignored);
        self.bans.roll_up_by(&config.ban);
        self.config = config;
        self.look_for_logins(true, now);
        self.spare_friends(now);
        self.lift_friends(now);
    }

    /// Takes a configuration that differs in its modes alone.
    pub fn watch_by(&mut self, config: Config) {
        self.guard.watch(&config);
        self.config = config;
    }

    /// The host's own addresses, links or gateways have changed.
    pub fn host_changed(&mut self, facts: Facts, now: Now) {
        self.guard.host_changed(facts);
        // There may be a way to name servers now.
        self.guard.names.hurry(true, now.mono);
        self.spare_friends(now);
        self.lift_friends(now);
    }

    /// Other name servers are asked from now on.
    pub fn resolvers_changed(&mut self, resolvers: Vec<Resolver>, now: Now) {
        self.guard.resolvers_changed(resolvers);
        self.guard.names.hurry(true, now.mono);
        self.spare_friends(now);
        self.lift_friends(now);
    }

    /// The ignore files have changed. Who is ignored now is unbanned.
    pub fn ignore_changed(&mut self, ignored: IgnoreList, now: Now) {
        self.guard.ignore_changed(ignored);
        self.spare_friends(now);
        self.lift_friends(now);
    }

    fn lift_friends(&mut self, now: Now) {
        let friends = self
            .bans
            .iter()
            .filter(|ban| self.is_guarded(ban))
            .map(|ban| ban.source)
            .collect();
        self.end_friends(friends, now);
    }

    /// Hands a record to history; the mark up to which history must have written for it to be safe.
    fn record(&mut self, record: Record, now: Mono) -> Option<Seq> {
        match self.recorder.push(record) {
            Ok(seq) => Some(seq),
            Err(full) => {
                self.counters.unrecorded += 1;
                self.complaints
                    .add(About::History, now, || full.to_string());
                None
            }
        }
    }

    /// Who is never banned.
    #[must_use]
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// What is banned.
    #[must_use]
    pub fn bans(&self) -> &Bans {
        &self.bans
    }

    /// Tells history about every running ban once more: its file was moved away, and the new one knows none.
    pub fn record_anew(&mut self, now: Now) {
        warn!("history: its file was moved away; the running bans go into a new one");
        let bans: Vec<Ban> = self.bans.iter().cloned().collect();
        for ban in bans {
            self.record(Record::Ban(ban), now.mono);
        }
        let names: Vec<Record> = self.guard.names.iter().map(named::record_of).collect();
        for name in names {
            self.record(name, now.mono);
        }
    }

    /// Takes a past from history: it counts towards the length of the source's next ban. What has ended since is known already.
    pub fn remember(&mut self, source: Source, past: Past) {
        let known = self.bans.past(source).unwrap_or(past);
        let past = Past {
            count: known.count.max(past.count),
            last_end: known.last_end.max(past.last_end),
        };
        self.bans.remember(source, past);
    }

    /// Forgets pasts that ended before that moment.
    pub fn forget_before(&mut self, moment: Wall) {
        self.bans.forget_before(moment);
    }

    /// The history's writer.
    #[must_use]
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How many bans are in force, as far as the responders acknowledged.
    #[must_use]
    pub fn enforced(&self) -> usize {
        self.bans.len().saturating_sub(self.world.missing())
    }

    /// Since when not every intended ban is in force, or not every lifted one is lifted.
    #[must_use]
    pub fn differs_since(&self) -> Option<Mono> {
        self.world.differs_since()
    }

    /// What went wrong within the last minute.
    #[must_use]
    pub fn troubles(&self, now: Mono) -> Vec<String> {
        let hung = self
            .world
            .posts()
            .iter()
            .filter_map(|post| post.is_hung(now));
        let complaints = self.complaints.list(now).into_iter();
        let names = self.guard.names.troubles();
        complaints.chain(hung).chain(names).collect()
    }

    /// How each responder is, the primary one first; `command` last, where a program bans.
    #[must_use]
    pub fn health(&self) -> Vec<Health> {
        let of = |post: &post::Post| Health {
            responder: post.name,
            enforced: if post.is_present() {
                self.bans.len().saturating_sub(post.missing())
            } else {
                0
            },
            trouble: post.trouble().map(str::to_owned),
        };
        let posts = self.world.posts().iter().map(of);
        posts.chain(self.programs_health()).collect()
    }

    /// When bans were last put back; `None`: they never had to be.
    #[must_use]
    pub fn last_repair(&self) -> Option<&Repair> {
        self.last_repair.as_ref()
    }

    /// Where the ban of this source is in force.
    #[must_use]
    pub fn standing(&self, source: Source) -> Vec<&'static str> {
        let programs = self.stands_by_program(source).then_some("command");
        self.world
            .standing(source)
            .into_iter()
            .chain(programs)
            .collect()
    }

    /// Becomes readable when [`collect`](Self::collect) has something to do; `None`: it never has.
    #[must_use]
    pub fn responders_fd(&self) -> Option<BorrowedFd<'_>> {
        self.world.fd()
    }

    /// Ends the engine: what waits for names or programs waits no longer. Gives back the history's writer, who may have
    /// something to write yet.
    #[must_use]
    pub fn close(mut self, now: Now) -> Recorder {
        self.release_waiting(now);
        for report in self.reports.rest() {
            self.tell(&report, None, now);
        }
        self.recorder
    }
}

/// Logs a line for each, and beyond [`LINES`] how many more there are.
fn log_each<T>(items: &[T], line: impl Fn(&T) -> String) {
    for item in items.iter().take(LINES) {
        info!("{}", line(item));
    }
    if items.len() > LINES {
        info!("… and {} more of the same", items.len() - LINES);
    }
}
