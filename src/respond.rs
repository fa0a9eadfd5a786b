//! What carries bans into the world: the [`Responder`] trait and the fan-out over those that the configuration names.
//!
//! One responder's words stay in its own file.

use crate::clock::Now;
use crate::policy::{Ban, Reason};
use crate::source::Source;

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

    /// Looks one source up in the world, exactly as it stands there.
    ///
    /// # Errors
    /// When the world could not be asked.
    fn find(&mut self, source: Source) -> Result<Option<Held>, Error>;

    /// A job for another thread that lists all that the world holds of ours; `None` where there is nothing to adopt.
    fn holdings(&self) -> Option<Holdings>;

    /// Leaves no trace in the world. What is not there is no error.
    ///
    /// # Errors
    /// When something of ours is still there.
    fn withdraw(&mut self) -> Result<(), Error>;
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
}
