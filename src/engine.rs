//! The only owner of what is banned. Events come in with their time; bans go out to the responders and to history.
//!
//! Used by the daemon, and by the command line when no daemon runs. It opens no socket, reads no clock and prints nothing.

use std::collections::{HashMap, HashSet};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use nix::sys::eventfd::EventFd;
use tracing::info;

use crate::clock::{Mono, Now, Wall};
use crate::config::Config;
use crate::detect::Detector;
use crate::guard::Guard;
use crate::history::{Record, Recorder};
use crate::log::counted;
use crate::policy::{Bans, Place};
use crate::probe::Probe;
use crate::respond::Crew;
use crate::source::Source;

mod aftermath;
mod agreement;
mod changes;
mod complaints;
mod counters;
pub mod explain;
mod forced;
mod health;
pub mod import;
mod logins;
mod meddling;
mod named;
mod orders;
mod post;
mod programs;
mod provisional;
mod records;
mod report;
mod restore;
mod rollup;
#[cfg(test)]
mod tests;
mod trial;

use aftermath::Untold;
use agreement::Agreement;
use complaints::{About, Complaints};
pub use counters::Counters;
pub use health::{Health, Repair};
pub use logins::FindLogins;
use meddling::Fights;
pub use orders::{Clearing, Lifted, Order, Refusal, Unbanned};
use post::PORTION;
pub use programs::Errand;
use programs::{Programs, Purpose};
use provisional::Provisional;
use report::{Budget, Reports};

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

/// Asks the kernel about probes.
pub trait Ask {
    /// About one.
    ///
    /// # Errors
    /// The kernel cannot be asked, in words.
    fn ask(&mut self, question: Question, probe: &Probe) -> Result<bool, String>;

    /// [`Question::WasAnswered`], of each of these: a flood has it asked for every probe.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    fn were_answered(&mut self, probes: &[Probe]) -> Result<Vec<bool>, String> {
        let each = probes.iter();
        each.map(|probe| self.ask(Question::WasAnswered, probe))
            .collect()
    }
}

impl<F: FnMut(Question, &Probe) -> Result<bool, String>> Ask for F {
    fn ask(&mut self, question: Question, probe: &Probe) -> Result<bool, String> {
        self(question, probe)
    }
}

/// Everything that is decided, and what it is decided from.
pub struct Engine {
    config: Config,
    guard: Guard,
    /// Who is logged in; `None`: nobody can tell.
    find_logins: Option<Box<FindLogins>>,
    detector: Detector,
    /// What anybody may have sent in that name, where handshakes alone count: for whoever asks. It displaces nothing that counts.
    unconfirmed: Detector,
    /// What friends have sent to watched ports, each by its address: for whoever asks why nothing comes of it.
    spared: Detector,
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
    ends: Budget,
    /// Bans that history had no room for.
    unrecorded: HashSet<Source>,
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
    /// Since when bans of history are put back; `None`: none has been.
    replayed_since: Option<Wall>,
    /// Whether everything was lifted while the world was being listed.
    listing_is_stale: bool,
}

/// What may be told at once, before it is one a second: alarms, those of sources that are dealt with already, and bans whose time is
/// over.
const ALARMS: u32 = 100;
const REPEATS: u32 = 20;
const ENDS: u32 = 100;

/// Lines that one event may log; what is beyond is told by its number.
const LINES: usize = 20;

impl Engine {
    /// An engine that holds no bans yet.
    #[must_use]
    pub fn new(config: Config, guard: Guard, crew: Crew, recorder: Recorder) -> Self {
        let mut bans = Bans::default();
        bans.go_by(&config.ban);
        Self {
            detector: Detector::new(&config.detect),
            unconfirmed: Detector::new(&config.detect),
            spared: Detector::new(&config.detect),
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
            ends: Budget::new(ENDS),
            unrecorded: HashSet::new(),
            last_repair: None,
            meddler: None,
            fights: Fights::default(),
            reconciled_to: None,
            provisional: Provisional::default(),
            programs: Programs::default(),
            errands: Vec::new(),
            lifted_since_start: Some(HashSet::new()),
            replayed_since: None,
            listing_is_stale: false,
        }
    }

    /// Looks whether what the responders made still stands, and puts it back with all bans where it does not. Waits for them,
    /// but not for long.
    pub fn verify(&mut self, now: Now) {
        self.look(now);
        self.world.wait(now);
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
            self.unrecorded.remove(source);
        }
        self.world.end(&over, now);
        self.heed_forced(expired.iter(), now);
        if let Some(words) = self.undo_by_program(&over, now) {
            self.complaints.once(About::Leftovers, || words);
        }
        for source in &over {
            if self.ends.spend(now.mono) {
                info!("{source} is no longer banned: its time is over");
            }
        }
        self.world.retry(&self.bans, now);
        self.retry_programs(now);
        self.go_on_fighting(now);
        self.world.go_on_making_good(&self.bans, now);
        self.follow_up(now);
        if let Some(more) = self.alarms.take_beyond(now.mono) {
            let alarms = counted(more, "more alarm", "more alarms");
            info!("… and {alarms} within a second: history has them all");
        }
        if let Some(more) = self.ends.take_beyond(now.mono) {
            let over = counted(
                more,
                "more is no longer banned: its",
                "more are no longer banned: their",
            );
            info!("… and {over} time is over");
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
            self.ends.next_deadline(),
            self.reports.next_deadline(),
            self.guard.names.next_deadline(),
            // At once, but other events come first.
            self.world.is_making_good().then_some(Mono(0)),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Puts all bans back where that was only begun, for nobody will call [`tick`](Self::tick) any more. What is taken away
    /// again meanwhile is put back once more.
    pub fn finish_repair(&mut self, now: Now) {
        for _ in 0..2 * (self.bans.len() / PORTION + 1) {
            self.world.go_on_making_good(&self.bans, now);
            self.follow_up(now);
            if !self.world.is_making_good() {
                break;
            }
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
        self.finish_repair(now);
        self.world.withdraw_clockless(now)
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
        self.record_missing();
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
