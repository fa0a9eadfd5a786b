//! The only owner of what is banned. Events come in with their time; bans go out to the responders and to history.
//!
//! Used by the daemon, and by the command line when no daemon runs. It opens no socket, reads no clock and prints nothing.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use tracing::{error, info, warn};

use crate::clock::{Mono, Now};
use crate::config::Config;
use crate::config::ignore::IgnoreList;
use crate::detect::{Detector, Scan};
use crate::guard::{Friend, Guard};
use crate::history::{Ending, Record, Recorder, Seq, TextLine};
use crate::host::Facts;
use crate::log::{banned, lifted};
use crate::policy::{Ban, Bans, End, Origin, Reason, Spare, Verdict, judge};
use crate::probe::{Probe, Protocol};
use crate::respond::{self, Held, Holdings, Responders};
use crate::source::Source;

mod counters;
#[cfg(test)]
mod tests;

pub use counters::Counters;

/// Asks whether something is bound to an address and port of this host.
pub type AskService<'a> = dyn FnMut(Protocol, SocketAddr) -> Result<bool, String> + 'a;

/// Everything that is decided, and what it is decided from.
pub struct Engine {
    config: Config,
    guard: Guard,
    detector: Detector,
    bans: Bans,
    responders: Responders,
    recorder: Recorder,
    /// Counts for `status`.
    pub counters: Counters,
    /// Bans that some responder could not make real yet. They are tried again.
    unenforced: HashSet<Source>,
    /// Bans that are lifted here while some responder could not lift them yet. They are tried again.
    unlifted: HashSet<Source>,
    /// Set while something of the two is outstanding: when to try again.
    retry_at: Option<Mono>,
    /// Since when not every intended ban is in force.
    differs_since: Option<Mono>,
    /// What has been lifted since the world was listed: such a listing must not bring it back. `None`: no listing is under way.
    lifted_since_listing: Option<HashSet<Source>>,
    /// What was complained of last, and when.
    trouble: Option<(String, Mono)>,
}

/// How long after a failure the responders are tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How long a complaint stands, and is not logged again in the same words.
const COMPLAINT_STANDS: Duration = Duration::from_secs(60);

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
            responders,
            recorder,
            counters: Counters::default(),
            unenforced: HashSet::new(),
            unlifted: HashSet::new(),
            retry_at: None,
            differs_since: None,
            lifted_since_listing: None,
            trouble: None,
        }
    }

    /// Judges a batch of probes, and bans in one go whom it convicts.
    pub fn probes(&mut self, probes: &[Probe], now: Now, ask: &mut AskService<'_>) {
        let mut convicted: Vec<Source> = Vec::new();
        for probe in probes {
            if let Some(scan) = self.observe(probe, now, ask) {
                convicted.extend(self.convict(&scan, now));
            }
        }
        if !convicted.is_empty() {
            self.enforce(&convicted, now);
        }
    }

    /// Follows one probe up to a scan of a trap by somebody who is neither banned nor a friend.
    fn observe(&mut self, probe: &Probe, now: Now, ask: &mut AskService<'_>) -> Option<Scan> {
        let counters = &mut self.counters;
        counters.probes += 1;
        if !self.guard.is_ours(probe) {
            counters.not_ours += 1;
        } else if !self.guard.is_watched(probe) {
            counters.unwatched += 1;
        } else if self.bans.covers(probe.source) {
            counters.already_banned += 1;
        } else if self.guard.friend(Source::from(probe.source)).is_some() {
            counters.ignored += 1;
        } else if self.is_service(probe, Freshness::WithinASecond, now, ask) {
            self.counters.services += 1;
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

    /// Whether something listens on the probe's port. When the kernel cannot be asked, the benefit of the doubt is the source's.
    fn is_service(
        &mut self,
        probe: &Probe,
        fresh: Freshness,
        now: Now,
        ask: &mut AskService<'_>,
    ) -> bool {
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
        match ask(protocol, SocketAddr::new(dest, port)) {
            Ok(bound) => {
                self.guard
                    .services
                    .keep(protocol, dest, port, bound, now.mono);
                bound
            }
            Err(cause) => {
                self.counters.unanswered += 1;
                self.complain(
                    format!("cannot tell services from traps: {cause}"),
                    now.mono,
                );
                true
            }
        }
    }

    /// Bans the scan's source in memory and history, or spares it. The world comes after the whole batch.
    fn convict(&mut self, scan: &Scan, now: Now) -> Option<Source> {
        self.counters.scans += 1;
        let response = match scan.last.protocol {
            Protocol::Tcp => self.config.tcp.response,
            Protocol::Udp => self.config.udp.response,
        };
        let line = TextLine {
            address: scan.last.source,
            port: scan.last.port,
            protocol: scan.last.protocol,
        };
        match judge(scan, response, &self.config.ban, &self.bans, now) {
            Verdict::Ban(ban) => {
                self.detector.forget(scan.source);
                let source = ban.source;
                self.record(
                    Record::Ban {
                        ban: ban.clone(),
                        line: Some(line),
                    },
                    now.mono,
                );
                self.bans.begin(ban, now.mono);
                self.counters.bans += 1;
                return Some(source);
            }
            Verdict::Spare(Spare::LogOnly) => {
                self.counters.logged += 1;
                let quiet = self
                    .config
                    .ban
                    .duration
                    .unwrap_or(Duration::from_secs(24 * 3600));
                self.detector.mute(scan.source, now.mono.later(quiet));
                info!("scan by {}: {} (log only)", scan.source, scan.summary);
                let reason = Reason::Scan(scan.summary);
                self.record(
                    Record::Scan {
                        source: scan.source,
                        reason,
                        at: now.wall,
                        line: Some(line),
                    },
                    now.mono,
                );
            }
            Verdict::Spare(Spare::Limit) => {
                self.counters.spared_limit += 1;
                let limit = self.config.ban.limit;
                self.complain(
                    format!("ban.limit of {limit} bans is reached: scanners are spared"),
                    now.mono,
                );
            }
            Verdict::Spare(Spare::Rate) => {
                self.counters.spared_rate += 1;
                let rate = self.config.ban.rate;
                self.complain(
                    format!("ban.rate of {rate} bans a second is reached: scanners are spared"),
                    now.mono,
                );
            }
        }
        None
    }

    /// Takes bans for granted that hold in the world already: for a command without a daemon.
    pub fn know(&mut self, bans: Vec<Ban>) {
        for ban in bans {
            self.bans.insert(ban);
        }
    }

    /// Makes running bans real, and says of which it is so.
    fn enforce(&mut self, sources: &[Source], now: Now) {
        let bans: Vec<&Ban> = sources
            .iter()
            .filter_map(|source| self.bans.get(*source))
            .collect();
        let failures = self.responders.ban(&bans, now);
        if failures.is_empty() {
            bans.iter().for_each(|ban| info!("{}", banned(ban)));
        } else {
            bans.iter()
                .for_each(|ban| warn!("{}, but not in force yet", banned(ban)));
            self.unenforced.extend(sources);
            self.failed(&failures, now);
        }
        self.make_good(now);
    }

    /// Puts all bans back where a responder has found that somebody took them away.
    fn make_good(&mut self, now: Now) {
        if !self.responders.take_lost() {
            return;
        }
        let bans: Vec<&Ban> = self.bans.iter().collect();
        let failures = self.responders.replay(&bans, now);
        self.counters.repairs += 1;
        if failures.is_empty() {
            info!("put {} bans back that somebody had taken away", bans.len());
        } else {
            self.unenforced = self.bans.iter().map(|ban| ban.source).collect();
            self.failed(&failures, now);
        }
    }

    /// Something could not be done: say so, and try again soon.
    fn failed(&mut self, failures: &[respond::Error], now: Now) {
        self.differs_since.get_or_insert(now.mono);
        self.retry_at = Some(now.mono.later(RETRY));
        self.complain(sentence(failures), now.mono);
    }

    /// Keeps the complaint for `status`, and logs it unless it stands already.
    fn complain(&mut self, complaint: String, now: Mono) {
        let stands = self
            .trouble(now)
            .is_some_and(|standing| standing == complaint);
        if !stands {
            error!("{complaint}");
            self.trouble = Some((complaint, now));
        }
    }

    /// Does what is due: ends bans whose time has come, and tries again what failed.
    pub fn tick(&mut self, now: Now) {
        for ban in self.bans.expire(now) {
            self.unenforced.remove(&ban.source);
            info!("{} is no longer banned: its time is over", ban.source);
        }
        if self.retry_at.is_some_and(|at| at <= now.mono) {
            self.retry(now);
        }
    }

    fn retry(&mut self, now: Now) {
        self.retry_at = None;
        let lift: Vec<Source> = self.unlifted.iter().copied().collect();
        let mut failures = self.responders.unban(&lift);
        if failures.is_empty() {
            self.unlifted.clear();
        }
        let bans: Vec<&Ban> = self
            .unenforced
            .iter()
            .filter_map(|source| self.bans.get(*source))
            .collect();
        let unenforced = self.responders.ban(&bans, now);
        if unenforced.is_empty() {
            self.unenforced.clear();
        }
        failures.extend(unenforced);
        self.make_good(now);
        if !failures.is_empty() {
            return self.failed(&failures, now);
        }
        self.differs_since = None;
        self.trouble = None;
        info!("what we ban and what is in force agree again");
    }

    /// When [`tick`](Self::tick) is due next; `None`: nothing waits.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Mono> {
        [self.bans.next_end(), self.retry_at]
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
        let failures = self.responders.ban(&[&ban], now);
        if !failures.is_empty() {
            self.undo(source, now);
            return Err(Refusal::Failed(source, sentence(&failures)));
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
        self.unenforced.remove(&source);
        self.unlifted.remove(&source);
        self.make_good(now);
        Ok((ban, recorded))
    }

    /// Puts a source back to what it was before an ordered ban that only some responders carried out.
    fn undo(&mut self, source: Source, now: Now) {
        let failures = match self.bans.get(source) {
            Some(before) => self.responders.ban(&[before], now),
            None => self.responders.unban(&[source]),
        };
        if !failures.is_empty() {
            self.complain(sentence(&failures), now.mono);
        }
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
        for candidate in [target, self.config.ban.widest(target)] {
            if found.contains(&candidate) {
                continue;
            }
            match self.responders.hold(candidate) {
                Ok(true) => found.push(candidate),
                Ok(false) => {}
                Err(failure) => failures.push(failure.to_string()),
            }
        }
        let mut unbanned = self.lift(&found, Ending::Unban, by, now);
        unbanned.failures.extend(failures);
        self.detector.forget(self.guard.source_of(target.address()));
        unbanned
    }

    /// Lifts every ban there is.
    pub fn unban_all(&mut self, by: &str, now: Now) -> Unbanned {
        let all: Vec<Source> = self.bans.iter().map(|ban| ban.source).collect();
        self.lift(&all, Ending::Unban, by, now)
    }

    fn lift(&mut self, sources: &[Source], how: Ending, by: &str, now: Now) -> Unbanned {
        let failures = self.responders.unban(sources);
        if !failures.is_empty() {
            self.unlifted.extend(sources);
            self.failed(&failures, now);
        }
        let failures = failures.iter().map(ToString::to_string).collect();
        let mut unbanned = Unbanned {
            failures,
            ..Unbanned::default()
        };
        for &source in sources {
            let ban = self.bans.remove(source);
            self.unenforced.remove(&source);
            self.detector.forget(source);
            if let Some(since_listing) = &mut self.lifted_since_listing {
                since_listing.insert(source);
            }
            info!("{}", lifted(source, how, by));
            let recorded = self.record(
                Record::End {
                    source,
                    at: now.wall,
                    how,
                    by: by.into(),
                },
                now.mono,
            );
            unbanned.recorded = unbanned.recorded.max(recorded);
            unbanned.lifted.push(Lifted { source, ban });
        }
        unbanned
    }

    /// Puts bans back that history knows, for the time they have left; those that are friends by now end instead.
    pub fn replay(&mut self, bans: Vec<Ban>, now: Now) {
        let (friends, bans): (Vec<Ban>, Vec<Ban>) = bans
            .into_iter()
            .partition(|ban| self.guard.friend(ban.source).is_some());
        let failures = self
            .responders
            .replay(&bans.iter().collect::<Vec<_>>(), now);
        if !failures.is_empty() {
            self.unenforced.extend(bans.iter().map(|ban| ban.source));
            self.failed(&failures, now);
        }
        self.counters.replayed += bans.len() as u64;
        for ban in bans {
            self.bans.insert(ban);
        }
        let friends: Vec<Source> = friends.iter().map(|ban| ban.source).collect();
        if !friends.is_empty() {
            self.lift(&friends, Ending::Ignored, "portsentry", now);
        }
    }

    /// Takes over what the world holds and we do not know, as bans that somebody else made.
    pub fn adopt(&mut self, held: Vec<Held>, now: Now) {
        let lifted_meanwhile = self.lifted_since_listing.take().unwrap_or_default();
        let mut friends = Vec::new();
        for held in held {
            let source = held.source;
            if self.bans.get(source).is_some() || lifted_meanwhile.contains(&source) {
                continue;
            }
            if self.guard.friend(source).is_some() {
                friends.push(source);
                continue;
            }
            let ban = held.into_ban(now);
            info!("adopted from the kernel: {}", banned(&ban));
            self.counters.adopted += 1;
            self.record(
                Record::Ban {
                    ban: ban.clone(),
                    line: None,
                },
                now.mono,
            );
            self.bans.insert(ban);
        }
        if !friends.is_empty() {
            self.lift(&friends, Ending::Ignored, "portsentry", now);
        }
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
        let friends: Vec<Source> = self
            .bans
            .iter()
            .filter(is_friend)
            .map(|ban| ban.source)
            .collect();
        if !friends.is_empty() {
            self.lift(&friends, Ending::Ignored, "portsentry", now);
        }
    }

    /// Hands a record to history; the mark up to which history must have written for it to be safe.
    fn record(&mut self, record: Record, now: Mono) -> Option<Seq> {
        match self.recorder.push(record) {
            Ok(seq) => Some(seq),
            Err(full) => {
                self.counters.unrecorded += 1;
                self.complain(full.to_string(), now);
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

    /// What is banned, for loading a past.
    pub fn bans_mut(&mut self) -> &mut Bans {
        &mut self.bans
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
        self.bans.len() - self.unenforced.len()
    }

    /// Since when not every intended ban is in force.
    #[must_use]
    pub fn differs_since(&self) -> Option<Mono> {
        self.differs_since
    }

    /// What was complained of within the last minute, or still goes wrong.
    #[must_use]
    pub fn trouble(&self, now: Mono) -> Option<&str> {
        let (complaint, since) = self.trouble.as_ref()?;
        let stands = self.differs_since.is_some() || now.since(*since) < COMPLAINT_STANDS;
        stands.then_some(complaint)
    }

    /// The responders' names, the primary one first.
    #[must_use]
    pub fn responder_names(&self) -> Vec<&'static str> {
        self.responders.names()
    }

    /// The jobs that list what the world holds, for [`adopt`](Self::adopt). From now on until then, what is lifted is remembered.
    #[must_use]
    pub fn begin_listing(&mut self) -> Vec<Holdings> {
        self.lifted_since_listing = Some(HashSet::new());
        self.responders.holdings()
    }

    /// Ends the engine: history is written out, the responders are given back.
    #[must_use]
    pub fn close(self) -> (Responders, Recorder) {
        (self.responders, self.recorder)
    }
}

/// Failures as one sentence.
fn sentence(failures: &[respond::Error]) -> String {
    failures
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// How old an answer about a service may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Freshness {
    WithinASecond,
    Now,
}
