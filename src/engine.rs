//! The only owner of what is banned. Events come in with their time; bans go out to the responders and to history.
//!
//! Used by the daemon, and by the command line when no daemon runs. It opens no socket, reads no clock and prints nothing.

use std::collections::HashSet;
use std::time::Duration;

use tracing::{info, warn};

use crate::clock::{Mono, Now, Wall};
use crate::config::Config;
use crate::config::ignore::IgnoreList;
use crate::detect::{Detector, Scan};
use crate::guard::{Friend, Guard};
use crate::history::{Ending, Record, Recorder, Seq, TextLine};
use crate::host::Facts;
use crate::log::{banned, lifted};
use crate::policy::{Ban, Bans, End, Origin, Past, Reason, Spare, Verdict, judge};
use crate::probe::{Probe, Protocol};
use crate::respond::{Held, Holdings, Responders};
use crate::source::Source;

mod agreement;
mod complaints;
mod counters;
#[cfg(test)]
mod tests;

use agreement::Agreement;
use complaints::{About, Complaints};
pub use counters::Counters;

/// What only the kernel knows about a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Is something bound to the port it was sent to?
    IsService,
    /// Does it answer traffic that left this host?
    IsAnswer,
}

/// Asks the kernel about a probe.
pub type Ask<'a> = dyn FnMut(Question, &Probe) -> Result<bool, String> + 'a;

/// Everything that is decided, and what it is decided from.
pub struct Engine {
    config: Config,
    guard: Guard,
    detector: Detector,
    bans: Bans,
    world: Agreement,
    recorder: Recorder,
    /// Counts for `status`.
    pub counters: Counters,
    complaints: Complaints,
    /// What has been lifted since history and the world began to be read: what was read before must not bring it back.
    /// `None`: both are read.
    lifted_since_start: Option<HashSet<Source>>,
    /// Whether everything was lifted while the world was being listed.
    listing_is_stale: bool,
}

/// Lines that one event may log; what is beyond is told by its number.
const LINES: usize = 20;

/// A ban that somebody asks for.
#[derive(Clone, Debug)]
pub struct Order {
    /// Whom.
    pub source: Source,
    /// How long; `None`: for ever.
    pub length: Option<Duration>,
    /// Why.
    pub reason: Reason,
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
    pub fn new(config: Config, guard: Guard, responders: Responders, recorder: Recorder) -> Self {
        Self {
            detector: Detector::new(&config.detect),
            config,
            guard,
            bans: Bans::default(),
            world: Agreement::new(responders),
            recorder,
            counters: Counters::default(),
            complaints: Complaints::default(),
            lifted_since_start: Some(HashSet::new()),
            listing_is_stale: false,
        }
    }

    /// Judges a batch of probes, and bans in one go whom it convicts: the kernel first, history after.
    pub fn probes(&mut self, probes: &[Probe], now: Now, ask: &mut Ask<'_>) {
        let mut convicted: Vec<(Source, TextLine)> = Vec::new();
        for probe in probes {
            if let Some(scan) = self.observe(probe, now, ask) {
                convicted.extend(self.convict(&scan, now));
            }
        }
        if convicted.is_empty() {
            return;
        }
        let bans: Vec<Ban> = convicted
            .iter()
            .filter_map(|(source, _)| self.bans.get(*source).cloned())
            .collect();
        let outcome = self.world.ban(&bans.iter().collect::<Vec<_>>(), now);
        let not_yet = if outcome.is_ok() {
            ""
        } else {
            ", but not in force yet"
        };
        for (ban, (_, line)) in bans.into_iter().zip(convicted) {
            info!("{}{not_yet}", banned(&ban));
            self.record(
                Record::Ban {
                    ban,
                    line: Some(line),
                },
                now.mono,
            );
        }
        self.told(outcome, now);
        self.make_good(now);
    }

    /// Follows one probe up to a scan of a trap by somebody who is neither banned nor a friend.
    fn observe(&mut self, probe: &Probe, now: Now, ask: &mut Ask<'_>) -> Option<Scan> {
        let counters = &mut self.counters;
        counters.probes += 1;
        if !self.guard.is_ours(probe) {
            counters.not_ours += 1;
        } else if self.guard.mode_of(probe).is_none() {
            counters.unwatched += 1;
        } else if self.bans.covers(probe.source) {
            counters.already_banned += 1;
        } else if self.guard.friend(Source::from(probe.source)).is_some() {
            counters.ignored += 1;
        } else if self.is_service(probe, Freshness::WithinASecond, now, ask) {
            self.counters.services += 1;
        } else if self.is_answer(probe, now, ask) {
            self.counters.answers += 1;
        } else {
            self.counters.hits += 1;
            let scan =
                self.detector
                    .observe(self.guard.source_of(probe.source), probe, now.mono)?;
            if !self.is_service(probe, Freshness::Now, now, ask) {
                return Some(scan);
            }
            self.counters.hits -= 1;
            self.counters.services += 1;
        }
        None
    }

    /// Whether something listens on the probe's port.
    fn is_service(&mut self, probe: &Probe, fresh: Freshness, now: Now, ask: &mut Ask<'_>) -> bool {
        let Probe {
            protocol,
            dest,
            port,
            ..
        } = *probe;
        let known = self.guard.services.lookup(protocol, dest, port, now.mono);
        let is_enough = |bound: bool, asked: Mono| {
            bound || fresh == Freshness::WithinASecond || asked == now.mono
        };
        if let Some((bound, _)) = known.filter(|&(bound, asked)| is_enough(bound, asked)) {
            return bound;
        }
        let Some(bound) = self.ask(Question::IsService, probe, now, ask) else {
            return true;
        };
        self.guard
            .services
            .keep(protocol, dest, port, bound, now.mono);
        bound
    }

    /// Whether the probe is the late answer to a question that left this host, or a host behind it. TCP's answers are told
    /// by their flags.
    fn is_answer(&mut self, probe: &Probe, now: Now, ask: &mut Ask<'_>) -> bool {
        probe.protocol == Protocol::Udp
            && self
                .ask(Question::IsAnswer, probe, now, ask)
                .unwrap_or(true)
    }

    /// Asks the kernel; `None` when it cannot be asked: then the benefit of the doubt is the source's.
    fn ask(
        &mut self,
        question: Question,
        probe: &Probe,
        now: Now,
        ask: &mut Ask<'_>,
    ) -> Option<bool> {
        match ask(question, probe) {
            Ok(answer) => Some(answer),
            Err(cause) => {
                self.counters.unanswered += 1;
                let words =
                    || format!("cannot tell traps from services, and probes from answers: {cause}");
                self.complaints.add(About::Services, now.mono, words);
                None
            }
        }
    }

    /// Bans the scan's source in memory, or spares it. The world and history come after the whole batch.
    fn convict(&mut self, scan: &Scan, now: Now) -> Option<(Source, TextLine)> {
        self.counters.scans += 1;
        let Probe {
            source: address,
            port,
            protocol,
            ..
        } = scan.last;
        let line = TextLine {
            address,
            port,
            protocol,
        };
        let response = match protocol {
            Protocol::Tcp => self.config.tcp.response,
            Protocol::Udp => self.config.udp.response,
        };
        let rules = &self.config.ban;
        match judge(scan, response, rules, &self.bans, now) {
            Verdict::Ban(ban) => {
                self.counters.bans += 1;
                self.bans.count_new(now.mono);
                self.detector.forget(scan.source);
                self.bans.insert(ban);
                return Some((scan.source, line));
            }
            Verdict::Spare(Spare::LogOnly) => {
                self.counters.logged += 1;
                self.bans.count_new(now.mono);
                let quiet = rules.duration.unwrap_or(Duration::from_secs(24 * 3600));
                self.detector.mute(scan.source, now.mono.later(quiet));
                info!("scan by {}: {} (log only)", scan.source, scan.summary);
                let reason = Reason::Scan(scan.summary);
                let scan = Record::Scan {
                    source: scan.source,
                    reason,
                    at: now.wall,
                    line: Some(line),
                };
                self.record(scan, now.mono);
            }
            Verdict::Spare(Spare::Limit) => {
                self.counters.spared_limit += 1;
                let words = || {
                    format!(
                        "ban.limit of {} bans is reached: scanners are spared",
                        rules.limit
                    )
                };
                self.complaints.add(About::Limit, now.mono, words);
            }
            Verdict::Spare(Spare::Rate) => {
                self.counters.spared_rate += 1;
                let words = || {
                    format!(
                        "ban.rate of {} scans a second is reached: scanners are spared",
                        rules.rate
                    )
                };
                self.complaints.add(About::Rate, now.mono, words);
            }
        }
        None
    }

    /// Complains of what the responders could not do.
    fn told(&mut self, outcome: Result<(), String>, now: Now) {
        if let Err(failure) = outcome {
            self.complaints.add(About::Responders, now.mono, || failure);
        }
    }

    /// Puts bans back that somebody was found to have taken away.
    fn make_good(&mut self, now: Now) {
        if let Some(outcome) = self.world.make_good(&self.bans, now) {
            self.counters.repairs += 1;
            self.told(outcome, now);
        }
    }

    /// Asks whether what the responders made still stands, and puts it back with all bans where it does not.
    pub fn verify(&mut self, now: Now) {
        if let Some(outcome) = self.world.verify(&self.bans, now) {
            self.counters.repairs += 1;
            self.told(outcome, now);
        }
    }

    /// Takes bans for granted that hold in the world already: for a command without a daemon.
    pub fn know(&mut self, bans: Vec<Ban>) {
        for ban in bans {
            self.bans.insert(ban);
        }
    }

    /// Does what is due: ends bans whose time has come, and tries again what failed.
    pub fn tick(&mut self, now: Now) {
        let expired = self.bans.expire(now);
        for ban in &expired {
            self.world.over(ban.source);
        }
        log_each(&expired, |ban| {
            format!("{} is no longer banned: its time is over", ban.source)
        });
        match self.world.retry(&self.bans, now) {
            None => {}
            Some(Err(failure)) => self.told(Err(failure), now),
            Some(Ok(())) => {
                self.complaints.settle(About::Responders);
                info!("what we ban and what is in force agree again");
            }
        }
        self.make_good(now);
    }

    /// When [`tick`](Self::tick) is due next; `None`: nothing waits.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Mono> {
        [self.bans.next_end(), self.world.retry_at()]
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
        if let Some(friend) = self.guard.friend(source) {
            return Err(Refusal::Friend(source, friend));
        }
        let limit = self.config.ban.limit;
        if self.bans.get(source).is_none()
            && self.bans.len() >= usize::try_from(limit).unwrap_or(usize::MAX)
        {
            return Err(Refusal::Limit(source, limit));
        }
        let end = order.length.map(|length| End::after(length, now));
        let ban = Ban {
            source,
            reason: order.reason,
            origin: Origin::Command,
            start: now.wall,
            end,
        };
        if let Err(failure) = self.world.ban_or_undo(&ban, self.bans.get(source), now) {
            self.complaints
                .add(About::Responders, now.mono, || failure.clone());
            return Err(Refusal::Failed(source, failure));
        }
        info!("{}", banned(&ban));
        let recorded = self.record(
            Record::Ban {
                ban: ban.clone(),
                line: None,
            },
            now.mono,
        );
        self.detector.forget(source);
        self.bans.insert(ban.clone());
        self.make_good(now);
        Ok((ban, recorded))
    }

    /// Lifts every ban that covers `target`, in every responder, even if one fails.
    pub fn unban(&mut self, target: Source, by: &str, now: Now) -> Unbanned {
        let mut found: Vec<Source> = self
            .bans
            .covering(target.address())
            .map(|ban| ban.source)
            .collect();
        found.retain(|source| source.prefix_len() <= target.prefix_len());
        let mut failures = Vec::new();
        let candidates = [target, self.config.ban.widest(target)];
        for candidate in candidates {
            if found.contains(&candidate) {
                continue;
            }
            match self.world.hold(candidate) {
                Ok(true) => found.push(candidate),
                Ok(false) => {}
                Err(failure) => failures.push(failure),
            }
        }
        let mut unbanned = self.lift(&found, Ending::Unban, by, now);
        unbanned.failures.extend(failures);
        // Also where nothing was found: a list of the world that is under way may have it.
        if let Some(lifted) = &mut self.lifted_since_start {
            lifted.extend(candidates);
        }
        self.detector.forget(self.guard.source_of(target.address()));
        unbanned
    }

    /// Lifts every ban there is, those that stand in the world alone too.
    pub fn unban_all(&mut self, by: &str, now: Now) -> Unbanned {
        let all: Vec<Source> = self.bans.iter().map(|ban| ban.source).collect();
        let outcome = self.world.unban_all(&all, now);
        self.listing_is_stale = true;
        self.lifted(&all, outcome, Ending::Unban, by, now)
    }

    fn lift(&mut self, sources: &[Source], how: Ending, by: &str, now: Now) -> Unbanned {
        let outcome = self.world.unban(sources, now);
        self.lifted(sources, outcome, how, by, now)
    }

    /// Takes bans out of memory that the world was told to lift, and tells history.
    fn lifted(
        &mut self,
        sources: &[Source],
        outcome: Result<(), String>,
        how: Ending,
        by: &str,
        now: Now,
    ) -> Unbanned {
        let mut unbanned = Unbanned {
            failures: outcome.clone().err().into_iter().collect(),
            ..Unbanned::default()
        };
        self.told(outcome, now);
        for &source in sources {
            let ban = self.bans.remove(source);
            self.detector.forget(source);
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
            unbanned.lifted.push(Lifted { source, ban });
        }
        log_each(sources, |source| lifted(*source, how, by));
        unbanned
    }

    /// Puts bans back that history knows, for the time they have left; those that are friends by now end instead.
    /// What has been decided since the start is newer than history, and stands.
    pub fn replay(&mut self, bans: Vec<Ban>, now: Now) {
        let lifted = self.lifted_since_start.as_ref();
        let is_old = |source| {
            self.bans.get(source).is_some() || lifted.is_some_and(|lifted| lifted.contains(&source))
        };
        let (friends, bans): (Vec<Ban>, Vec<Ban>) = bans
            .into_iter()
            .filter(|ban| !is_old(ban.source))
            .partition(|ban| self.guard.friend(ban.source).is_some());
        let outcome = self.world.replay(&bans.iter().collect::<Vec<_>>(), now);
        self.told(outcome, now);
        self.counters.replayed += bans.len() as u64;
        for ban in bans {
            self.bans.insert(ban);
        }
        self.end_friends(friends.iter().map(|ban| ban.source).collect(), now);
    }

    /// The jobs that list what the world holds, for [`adopt`](Self::adopt).
    #[must_use]
    pub fn begin_listing(&mut self) -> Vec<Holdings> {
        self.lifted_since_start.get_or_insert_default();
        self.listing_is_stale = false;
        self.world.holdings()
    }

    /// Takes over what the world holds and we do not know, as bans that somebody else made.
    pub fn adopt(&mut self, held: Vec<Held>, now: Now) {
        let lifted = self.lifted_since_start.take().unwrap_or_default();
        if std::mem::take(&mut self.listing_is_stale) {
            return;
        }
        let is_news = |source| self.bans.get(source).is_none() && !lifted.contains(&source);
        let (friends, held): (Vec<Held>, Vec<Held>) = held
            .into_iter()
            .filter(|held| is_news(held.source))
            .partition(|held| self.guard.friend(held.source).is_some());
        let adopted: Vec<Ban> = held.into_iter().map(|held| held.into_ban(now)).collect();
        self.counters.adopted += adopted.len() as u64;
        log_each(&adopted, |ban| {
            format!("adopted from the kernel: {}", banned(ban))
        });
        for ban in adopted {
            self.record(
                Record::Ban {
                    ban: ban.clone(),
                    line: None,
                },
                now.mono,
            );
            self.bans.insert(ban);
        }
        self.end_friends(friends.iter().map(|held| held.source).collect(), now);
    }

    /// Ends the bans of those who are friends by now.
    fn end_friends(&mut self, friends: Vec<Source>, now: Now) {
        if !friends.is_empty() {
            self.lift(&friends, Ending::Ignored, "portsentry", now);
        }
    }

    /// Leaves no trace in the world. History keeps the bans: the next start puts them back.
    ///
    /// # Errors
    /// Something of ours is still there.
    pub fn withdraw(&mut self) -> Result<(), String> {
        self.world.withdraw()
    }

    /// Takes another configuration. Who is a friend by it is unbanned.
    pub fn reconfigure(&mut self, config: Config, ignored: IgnoreList, now: Now) {
        if !self.detector.follows(&config.detect) {
            self.detector = Detector::new(&config.detect);
        }
        self.guard.reconfigure(&config, ignored);
        self.config = config;
        self.lift_friends(now);
    }

    /// The host's own addresses have changed.
    pub fn host_changed(&mut self, facts: Facts, now: Now) {
        self.guard.host_changed(facts);
        self.lift_friends(now);
    }

    /// The ignore files have changed. Who is ignored now is unbanned.
    pub fn ignore_changed(&mut self, ignored: IgnoreList, now: Now) {
        self.guard.ignore_changed(ignored);
        self.lift_friends(now);
    }

    fn lift_friends(&mut self, now: Now) {
        let is_friend = |ban: &&Ban| self.guard.friend(ban.source).is_some();
        let friends = self
            .bans
            .iter()
            .filter(is_friend)
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
            self.record(Record::Ban { ban, line: None }, now.mono);
        }
    }

    /// Takes a past from history: it counts towards the length of the source's next ban.
    pub fn remember(&mut self, source: Source, past: Past) {
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
        self.complaints.list(now)
    }

    /// The responders' names, the primary one first.
    #[must_use]
    pub fn responder_names(&self) -> Vec<&'static str> {
        self.world.names()
    }

    /// Ends the engine, and gives back the history's writer, who may have something to write yet.
    #[must_use]
    pub fn close(self) -> Recorder {
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

/// How old an answer about a service may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Freshness {
    WithinASecond,
    Now,
}
