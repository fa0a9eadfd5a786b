//! What carries bans into the world: the [`Responder`] trait and the fan-out over those that the configuration names.
//!
//! One responder's words stay in its own file.

use crate::clock::{Now, Wall};
use crate::config::{Config, ResponderKind};
use crate::host::DeadEnds;
use crate::policy::{Ban, End, Origin, Reason};
use crate::source::{Source, Sources};
use ipnet::IpNet;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

pub mod command;
mod failures;
pub mod hosts_deny;
pub mod iptables;
pub mod nftables;
mod note;
mod program;
pub mod route;
pub mod site;
pub mod worker;

pub use site::Site;
pub use worker::Hands;
use worker::Worker;

/// Anything that can make a ban real. It owns its socket, path or queue, and returns promptly.
pub trait Responder {
    /// As in the configuration: `nftables`.
    fn name(&self) -> &'static str;

    /// Makes ready what bans need (a table, a chain), keeping bans that are there. Called at start, before any ban.
    ///
    /// # Errors
    /// The step that failed, what the kernel said, and the remedy where one is known. Nothing is left half made.
    fn prepare(&mut self) -> Result<Prepared, Error>;

    /// Whether what it has made is for us to change: where it belongs to another program alone, nothing can be lifted either.
    ///
    /// # Errors
    /// It does; with the remedy.
    fn is_free(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// Makes `bans` hold in the world, each for the time it has left at `now`. A source already there gets the new
    /// end and reason.
    ///
    /// # Errors
    /// When at least one of them does not hold afterwards.
    fn ban(&mut self, bans: &[&Ban], now: Now) -> Result<(), Error>;

    /// Puts back what history knows: as [`ban`](Self::ban), but for many, fast, and when most may be there already.
    ///
    /// # Errors
    /// When at least one of them may not hold afterwards.
    fn replay(&mut self, bans: &[&Ban], now: Now) -> Result<(), Error>;

    /// Puts back all that should stand, where much of it may be gone: what bans need, as [`prepare`](Self::prepare), and `bans`, as
    /// [`replay`](Self::replay). What each of the two came to.
    fn restore(&mut self, bans: &[&Ban], now: Now) -> (Result<Prepared, Error>, Result<(), Error>) {
        let prepared = self.prepare();
        let is_put = if bans.is_empty() {
            Ok(())
        } else {
            self.replay(bans, now)
        };
        (prepared, is_put)
    }

    /// Lifts bans. A source that is not banned is no error.
    ///
    /// # Errors
    /// When at least one of them may still be banned.
    fn unban(&mut self, sources: &[Source]) -> Result<(), Error>;

    /// Who is not to be shut out, whatever else holds: all friends but this host itself. Called after [`prepare`](Self::prepare),
    /// and whenever they change; each call replaces the one before. A responder whose world cannot say so does nothing.
    ///
    /// # Errors
    /// When at least one of them could still be shut out by mistake.
    fn spare(&mut self, _friends: &[IpNet]) -> Result<(), Error> {
        Ok(())
    }

    /// Looks one source up in the world, exactly as it stands there.
    ///
    /// # Errors
    /// When the world could not be asked.
    fn find(&mut self, source: Source) -> Result<Option<Held>, Error>;

    /// Lifts every ban it holds, those that nobody here knows of too.
    ///
    /// # Errors
    /// When at least one may still hold.
    fn unban_all(&mut self) -> Result<(), Error>;

    /// Whether, since this was last asked, somebody was found to have taken bans away (a flushed ruleset, a deleted
    /// table): then all bans are to be replayed.
    fn take_lost(&mut self) -> bool;

    /// Begins to watch what others do to what it has made, where the world tells. Called once bans have been put back: watching
    /// costs a little with each.
    ///
    /// # Errors
    /// When it cannot; then nobody is told.
    fn begin_watching(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// What becomes readable when others may have done something; `None`: it does not watch.
    fn watched(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// What others have done since this was last asked.
    fn noticed(&mut self) -> Vec<Meddling> {
        Vec::new()
    }

    /// A job for another thread that lists all that the world holds of ours; `None` where there is nothing to adopt.
    fn holdings(&self) -> Option<Holdings>;

    /// Leaves no trace in the world. What is not there is no error.
    ///
    /// # Errors
    /// When something of ours is still there.
    fn withdraw(&mut self) -> Result<(), Error>;

    /// Whether its bans end by themselves. Where they do not, [`unban`](Self::unban) is called when a ban's time is over, and
    /// [`withdraw`](Self::withdraw) at a clean stop.
    fn has_clock(&self) -> bool;

    /// What it has done to make `ban` hold, for the log.
    fn deed(&self, ban: &Ban, now: Now) -> Deed;
}

/// What somebody else has done, in one go, to what a responder has made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meddling {
    /// Who, fit for a log: `nft pid 4711`.
    pub by: String,
    /// Whether more than bans was touched: it must be looked whether all that bans need still stands.
    pub is_frame: bool,
    /// Whether bans went with it.
    pub is_emptied: bool,
    /// Bans that were put in, or changed, and not taken out again: each once.
    pub added: Vec<Held>,
    /// Bans that were taken out and not put in again: each once.
    pub removed: Vec<Source>,
}

/// The reason of bans that are made to try a responder, and that no daemon is to take for an admin's.
pub const TEST: &str = "test of the responders";

/// What a responder does for a ban, as 1.2 tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// It drops packets: the command that would do the same.
    Route(String),
    /// It adds a line for tcp_wrappers: the line.
    Wrappers(String),
}

/// A job that lists what a responder holds, to be run off the event loop. It may leave out those that are known already.
pub type Holdings = Box<dyn FnOnce(&Sources) -> Result<Vec<Held>, Error> + Send>;

/// A ban as found in the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Whom.
    pub source: Source,
    /// From its comment, if it has one.
    pub reason: Option<Reason>,
    /// Its whole length and the time left, in milliseconds; `None`: without an end.
    pub clock: Option<HeldClock>,
}

impl Held {
    /// The same as a ban of ours, that somebody else made and that we take over at `now`.
    #[must_use]
    pub fn into_ban(self, now: Now) -> Ban {
        let millis = Duration::from_millis;
        let start = self.clock.map_or(now.wall, |clock| {
            let elapsed = clock.length.saturating_sub(clock.left);
            Wall(now.wall.0.saturating_sub_unsigned(elapsed))
        });
        Ban {
            source: self.source,
            reason: self
                .reason
                .unwrap_or_else(|| Reason::Text("found in the kernel".into())),
            origin: Origin::Adopted,
            by: None,
            start,
            end: self.clock.map(|clock| End::after(millis(clock.left), now)),
        }
    }
}

/// How long a ban found in the world lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldClock {
    /// From start to end, in milliseconds.
    pub length: u64,
    /// From now to the end, in milliseconds.
    pub left: u64,
}

/// What [`Responder::prepare`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prepared {
    /// Nothing was there: it is made anew, and empty.
    Created,
    /// Ours was there in the right shape, perhaps with bans in it.
    Adopted,
    /// Ours was there in another shape: rebuilt, its bans kept.
    Rebuilt,
}

/// Why a responder could not do its work: a sentence that names the responder, the step and the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{responder}: {message}")]
pub struct Error {
    /// The responder's name.
    pub responder: &'static str,
    /// The step, the object and the cause.
    pub message: String,
    /// The world is full: the bans of this call that do not hold may fit later.
    pub full: bool,
    /// Those of the call's sources that may not be as asked; empty: all of them may not be.
    pub sources: Vec<Source>,
    /// Those of `sources` for which it is refused for good: to try again would come to the same.
    pub refused: Vec<Source>,
}

impl Error {
    /// A failure that concerns all of the call, and may pass.
    #[must_use]
    pub fn new(responder: &'static str, message: String) -> Self {
        Self {
            responder,
            message,
            full: false,
            sources: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// The sources that it concerns: those it names, or `all` of the call's.
    #[must_use]
    pub fn of(&self, all: impl FnOnce() -> Vec<Source>) -> Vec<Source> {
        if self.sources.is_empty() {
            all()
        } else {
            self.sources.clone()
        }
    }
}

/// The responders that the configuration names, in its order, before anybody has set to work.
pub struct Responders(Vec<Opened>);

struct Opened {
    name: &'static str,
    responder: Place,
    optional: bool,
    absent: Option<String>,
}

/// What [`Responders::prepare`] came to for one of them.
pub struct Readiness {
    /// As in the configuration.
    pub name: &'static str,
    /// What it found, or why it cannot work here.
    pub prepared: Result<Prepared, String>,
}

/// Where a responder can work.
enum Place {
    /// Here: it takes microseconds.
    Here(Box<dyn Responder>),
    /// On a thread of its own: it writes files, or runs programs, or has much to read.
    Anywhere(Box<dyn Responder + Send>),
}

/// Responders at work.
pub struct Crew {
    /// In the configuration's order.
    pub members: Vec<Member>,
    /// Rings when a thread has done something; `None`: there are no threads.
    pub bell: Option<Arc<EventFd>>,
}

/// A responder at work.
pub struct Member {
    /// As in the configuration.
    pub name: &'static str,
    /// Who does its work.
    pub hands: Hands,
    /// As [`Responder::has_clock`] says.
    pub has_clock: bool,
    /// Why it does not work here; `None`: it does.
    pub absent: Option<String>,
}

impl Responders {
    /// Those in `ban.responders`.
    ///
    /// # Errors
    /// The first that could never work here.
    pub fn configured(config: &Config) -> Result<Self, Error> {
        Self::of_kinds(&config.ban.responders, config)
    }

    /// Those of these kinds, as the configuration has them.
    ///
    /// # Errors
    /// The first that could never work here.
    pub fn of_kinds(kinds: &[ResponderKind], config: &Config) -> Result<Self, Error> {
        let mut list = Vec::new();
        for kind in kinds {
            let (responder, optional) = match kind {
                ResponderKind::Nftables => {
                    let nftables = nftables::Nftables::open(&config.nftables, &config.ban)?;
                    (Place::Here(Box::new(nftables)), config.nftables.optional)
                }
                // It reads the host's routes, which may be many.
                ResponderKind::Route => {
                    let route = route::Route::new(&config.route);
                    (Place::Anywhere(Box::new(route)), config.route.optional)
                }
                ResponderKind::HostsDeny => {
                    let file = hosts_deny::HostsDeny::open(&config.hosts_deny)?;
                    (Place::Anywhere(Box::new(file)), config.hosts_deny.optional)
                }
                // It runs programs.
                ResponderKind::Iptables => {
                    let iptables = iptables::Iptables::new(&config.iptables, &config.ban);
                    let optional = config.iptables.optional;
                    (Place::Anywhere(Box::new(iptables)), optional)
                }
                // Programs are run for the engine, which is told of each.
                ResponderKind::Command => continue,
            };
            list.push(Opened::new(responder, optional));
        }
        Ok(Self(list))
    }

    /// These, for tests of what stands above them.
    #[cfg(test)]
    pub(crate) fn of(list: Vec<Box<dyn Responder>>) -> Self {
        let opened = |responder| Opened::new(Place::Here(responder), false);
        Self(list.into_iter().map(opened).collect())
    }

    /// Makes all of them ready, and tells what each found. One that is optional may fail, as long as another one does not.
    ///
    /// # Errors
    /// The first that cannot be made ready and must be.
    pub fn prepare(&mut self) -> Result<Vec<Readiness>, Error> {
        let mut found = Vec::new();
        let mut failure = None;
        for one in &mut self.0 {
            let prepared = one.responder.get().prepare();
            one.absent = prepared.as_ref().err().map(ToString::to_string);
            found.push(Readiness {
                name: one.name,
                prepared: prepared.as_ref().copied().map_err(ToString::to_string),
            });
            match prepared {
                Err(error) if !one.optional => return Err(error),
                Err(error) => failure = Some(error),
                Ok(_) => {}
            }
        }
        match failure {
            Some(error) if self.0.iter().all(|one| one.absent.is_some()) => Err(error),
            _ => Ok(found),
        }
    }

    /// Whether what they have made is for us to change; looked at where nothing is made ready.
    ///
    /// # Errors
    /// The first of which it is not.
    pub fn are_free(&mut self) -> Result<(), Error> {
        let mut all = self.0.iter_mut();
        all.try_for_each(|one| one.responder.get().is_free())
    }

    /// Has them work for whoever asks, each as long as it takes.
    #[must_use]
    pub fn here(self) -> Crew {
        let here = |mut one: Opened| Member {
            name: one.name,
            has_clock: one.responder.get().has_clock(),
            hands: match one.responder {
                Place::Here(responder) => Hands::Own(responder),
                Place::Anywhere(responder) => Hands::Own(responder),
            },
            absent: one.absent,
        };
        Crew {
            members: self.0.into_iter().map(here).collect(),
            bell: None,
        }
    }

    /// Sends those to threads of their own that may take their time. Threads have the rights of the one that calls.
    ///
    /// # Errors
    /// When the system has no thread or no descriptor left.
    pub fn on_threads(self) -> io::Result<Crew> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let bell = Arc::new(EventFd::from_flags(flags)?);
        let members = self.on_threads_with(&bell)?;
        Ok(Crew {
            members,
            bell: Some(bell),
        })
    }

    /// The same, with a bell that others ring too.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn on_threads_with(self, bell: &Arc<EventFd>) -> io::Result<Vec<Member>> {
        let deployed = |mut one: Opened| {
            Ok(Member {
                name: one.name,
                has_clock: one.responder.get().has_clock(),
                hands: match one.responder {
                    Place::Here(responder) => Hands::Own(responder),
                    Place::Anywhere(responder) => Hands::Thread(Worker::start(responder, bell)?),
                },
                absent: one.absent,
            })
        };
        self.0.into_iter().map(deployed).collect()
    }

    /// Lifts these in all of them; what failed.
    #[must_use]
    pub fn unban(&mut self, sources: &[Source]) -> Vec<Error> {
        self.each(|responder| responder.unban(sources))
    }

    /// Lifts everything in all of them; what failed.
    #[must_use]
    pub fn unban_all(&mut self) -> Vec<Error> {
        self.each(|responder| responder.unban_all())
    }

    /// Has all of them leave no trace; what failed.
    #[must_use]
    pub fn withdraw(&mut self) -> Vec<Error> {
        self.each(|responder| responder.withdraw())
    }

    /// Has those leave no trace that have no clock; what failed.
    #[must_use]
    pub fn withdraw_clockless(&mut self) -> Vec<Error> {
        self.each(withdraw_clockless)
    }

    /// Hands out each.
    pub fn for_each(&mut self, mut call: impl FnMut(&mut dyn Responder)) {
        (self.0.iter_mut()).for_each(|one| call(one.responder.get()));
    }

    fn each(&mut self, call: impl Fn(&mut dyn Responder) -> Result<(), Error>) -> Vec<Error> {
        let done = self.0.iter_mut().map(|one| call(one.responder.get()));
        done.filter_map(Result::err).collect()
    }
}

impl Opened {
    fn new(mut responder: Place, optional: bool) -> Self {
        Self {
            name: responder.get().name(),
            responder,
            optional,
            absent: None,
        }
    }
}

impl Place {
    fn get(&mut self) -> &mut dyn Responder {
        match self {
            Self::Here(responder) => responder.as_mut(),
            Self::Anywhere(responder) => responder.as_mut(),
        }
    }
}

/// [`Responder::withdraw`] of one that has no clock.
///
/// # Errors
/// Its own.
pub fn withdraw_clockless(responder: &mut dyn Responder) -> Result<(), Error> {
    if responder.has_clock() {
        return Ok(());
    }
    responder.withdraw()
}

/// The commands that lift these bans in one responder without us, or `all` of them, for an admin to type.
#[must_use]
pub fn by_hand(
    kind: ResponderKind,
    config: &Config,
    sources: &BTreeSet<Source>,
    all: bool,
) -> Vec<String> {
    let each = |line: &dyn Fn(&Source) -> String| sources.iter().map(line).collect();
    match kind {
        ResponderKind::Nftables if all => {
            vec![format!("nft delete table inet {}", config.nftables.table)]
        }
        ResponderKind::Nftables => each(&|source| {
            let (set, element) = nftables::place(*source);
            let table = &config.nftables.table;
            format!("nft delete element inet {table} {set} '{{ {element} }}'")
        }),
        ResponderKind::Route if all => ["-4", "-6"]
            .map(|family| format!("ip {family} route flush proto {}", DeadEnds::PROTOCOL))
            .to_vec(),
        ResponderKind::Route => each(&|source| {
            let to = source.net();
            format!("ip route del {to} proto {}", DeadEnds::PROTOCOL)
        }),
        ResponderKind::Iptables => iptables::by_hand(&config.iptables.chain, sources, all),
        ResponderKind::HostsDeny => vec![format!(
            "delete its line in {}, and the comment of ours above it",
            config.hosts_deny.file.display()
        )],
        ResponderKind::Command => vec!["undo what the program of command.ban does".to_owned()],
    }
}
