//! What carries bans into the world: the [`Responder`] trait and the fan-out over those that the configuration names.
//!
//! One responder's words stay in its own file.

use crate::clock::{Now, Wall};
use crate::config::{Config, ResponderKind};
use crate::policy::{Ban, End, Origin, Reason};
use crate::source::Source;
use ipnet::IpNet;
use std::time::Duration;

pub mod command;
pub mod hosts_deny;
pub mod nftables;

/// Anything that can make a ban real. It owns its socket, path or queue, and returns promptly.
pub trait Responder {
    /// As in the configuration: `nftables`.
    fn name(&self) -> &'static str;

    /// Makes ready what bans need (a table, a chain), keeping bans that are there. Called at start, before any ban.
    ///
    /// # Errors
    /// The step that failed, what the kernel said, and the remedy where one is known. Nothing is left half made.
    fn prepare(&mut self) -> Result<Prepared, Error>;

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

    /// Lifts bans. A source that is not banned is no error.
    ///
    /// # Errors
    /// When at least one of them may still be banned.
    fn unban(&mut self, sources: &[Source]) -> Result<(), Error>;

    /// Who is not to be shut out, whatever else holds: those that the ignore lists name. Called after [`prepare`](Self::prepare),
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

/// What a responder does for a ban, as 1.2 tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// It drops packets: the command that would do the same.
    Route(String),
    /// It adds a line for tcp_wrappers: the line.
    Wrappers(String),
}

/// A job that lists what a responder holds, to be run off the event loop.
pub type Holdings = Box<dyn FnOnce() -> Result<Vec<Held>, Error> + Send>;

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
}

/// The responders that the configuration names, asked one after the other. One that fails does not keep the next from its work.
pub struct Responders(Vec<Box<dyn Responder>>);

impl Responders {
    /// Those in `ban.responders`.
    ///
    /// # Errors
    /// The first that cannot work here.
    pub fn configured(config: &Config) -> Result<Self, Error> {
        let mut list: Vec<Box<dyn Responder>> = Vec::new();
        for kind in &config.ban.responders {
            match kind {
                ResponderKind::Nftables => list.push(Box::new(nftables::Nftables::open(
                    &config.nftables,
                    &config.ban,
                )?)),
                ResponderKind::HostsDeny => {
                    list.push(Box::new(hosts_deny::HostsDeny::open(&config.hosts_deny)?));
                }
                // Programs run elsewhere: they take their time.
                ResponderKind::Command => {}
            }
        }
        Ok(Self(list))
    }

    /// These, for tests of what stands above them.
    #[must_use]
    pub fn of(list: Vec<Box<dyn Responder>>) -> Self {
        Self(list)
    }

    /// Their names, the primary one first.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|responder| responder.name()).collect()
    }

    /// What each does for a ban.
    #[must_use]
    pub fn deeds(&self, ban: &Ban, now: Now) -> Vec<Deed> {
        self.0
            .iter()
            .map(|responder| responder.deed(ban, now))
            .collect()
    }

    /// Makes all of them ready, and tells what each found.
    ///
    /// # Errors
    /// The first that cannot be made ready.
    pub fn prepare(&mut self) -> Result<Vec<(&'static str, Prepared)>, Error> {
        self.0
            .iter_mut()
            .map(|responder| Ok((responder.name(), responder.prepare()?)))
            .collect()
    }

    /// [`Responder::ban`] of all. What failed, put together; `None`: all of it holds.
    #[must_use]
    pub fn ban(&mut self, bans: &[&Ban], now: Now) -> Vec<Error> {
        self.each(bans.is_empty(), |responder| responder.ban(bans, now))
    }

    /// [`Responder::replay`] of all.
    #[must_use]
    pub fn replay(&mut self, bans: &[&Ban], now: Now) -> Vec<Error> {
        self.each(bans.is_empty(), |responder| responder.replay(bans, now))
    }

    /// [`Responder::unban`] of all.
    #[must_use]
    pub fn unban(&mut self, sources: &[Source]) -> Vec<Error> {
        self.each(sources.is_empty(), |responder| responder.unban(sources))
    }

    /// [`Responder::unban`] of those without a clock: the time of these bans is over.
    #[must_use]
    pub fn end(&mut self, sources: &[Source]) -> Vec<Error> {
        self.each(sources.is_empty(), |responder| {
            if responder.has_clock() {
                return Ok(());
            }
            responder.unban(sources)
        })
    }

    /// [`Responder::unban_all`] of all.
    #[must_use]
    pub fn unban_all(&mut self) -> Vec<Error> {
        self.each(false, Responder::unban_all)
    }

    /// [`Responder::withdraw`] of all.
    #[must_use]
    pub fn withdraw(&mut self) -> Vec<Error> {
        self.each(false, Responder::withdraw)
    }

    /// [`Responder::withdraw`] of those without a clock.
    #[must_use]
    pub fn withdraw_clockless(&mut self) -> Vec<Error> {
        self.each(false, |responder| {
            if responder.has_clock() {
                return Ok(());
            }
            responder.withdraw()
        })
    }

    /// [`Responder::prepare`] of all again: whether one had to make something anew, and what failed.
    pub fn verify(&mut self) -> (bool, Vec<Error>) {
        let mut made_anew = false;
        let failures = self.each(false, |responder| {
            made_anew |= responder.prepare()? != Prepared::Adopted;
            Ok(())
        });
        (made_anew, failures)
    }

    /// Whether some responder holds exactly this source.
    ///
    /// # Errors
    /// When one could not be asked and none of the others holds it.
    pub fn hold(&mut self, source: Source) -> Result<bool, Error> {
        let mut failure = None;
        for responder in &mut self.0 {
            match responder.find(source) {
                Ok(Some(_)) => return Ok(true),
                Ok(None) => {}
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(false), Err)
    }

    /// Whether bans of some responder were taken away; see [`Responder::take_lost`].
    pub fn take_lost(&mut self) -> bool {
        let mut lost = false;
        for responder in &mut self.0 {
            lost |= responder.take_lost();
        }
        lost
    }

    /// The jobs that list what they hold.
    #[must_use]
    pub fn holdings(&self) -> Vec<Holdings> {
        self.0
            .iter()
            .filter_map(|responder| responder.holdings())
            .collect()
    }

    fn each(
        &mut self,
        nothing_to_do: bool,
        mut call: impl FnMut(&mut (dyn Responder + 'static)) -> Result<(), Error>,
    ) -> Vec<Error> {
        if nothing_to_do {
            return Vec::new();
        }
        self.0
            .iter_mut()
            .filter_map(|responder| call(responder.as_mut()).err())
            .collect()
    }
}
