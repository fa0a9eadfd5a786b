//! Time, as a value that is handed in.
//!
//! The event loop reads both clocks once for everything that happens together, and passes [`Now`] down.
//! Nothing pure, nor the engine, reads a clock itself: a test says `now.later(3 s)` and never sleeps.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};

/// Milliseconds on CLOCK_MONOTONIC: what detection windows and the ends of running bans are measured on.
/// The kernel's set timeouts tick with it too (both stand still in suspend), and no clock change moves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

/// Milliseconds since 1970 by the wall clock: what history keeps and people read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wall(pub i64);

/// The moment at which an event is handled, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For differences and deadlines within this run.
    pub mono: Mono,
    /// For what outlives this run.
    pub wall: Wall,
}

impl Mono {
    /// This moment plus `length`; the far end of time instead of an overflow.
    #[must_use]
    pub fn later(self, length: Duration) -> Self {
        Self(self.0.saturating_add(millis(length)))
    }

    /// The time from `earlier` to this moment; zero if `earlier` is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Wall {
    /// This moment less `length`; the far beginning of time instead of an overflow.
    #[must_use]
    pub fn earlier(self, length: Duration) -> Self {
        Self(self.0.saturating_sub_unsigned(millis(length)))
    }

    /// This moment plus `length`; the far end of time instead of an overflow.
    #[must_use]
    pub fn later(self, length: Duration) -> Self {
        Self(self.0.saturating_add_unsigned(millis(length)))
    }

    /// The time from `earlier` to this moment; zero if `earlier` is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// A moment from which the wall clock is taken to have gone on; see [`Now::have_passed`].
static PASSED: OnceLock<Now> = OnceLock::new();

impl Now {
    /// Reads both clocks. Only the wiring (the event loop, the command line) calls this, and who has to allow for the time that
    /// something took.
    #[must_use]
    pub fn read() -> Self {
        let now = Self::read_clocks();
        let passed = PASSED.get().map(|passed| {
            let since = now.mono.since(passed.mono);
            passed.wall.later(since)
        });
        Self {
            wall: passed.map_or(now.wall, |passed| now.wall.max(passed)),
            ..now
        }
    }

    /// Says that `wall` has passed by now, whatever the wall clock shows: a machine without a battery boots in 1970. Until
    /// the clock is beyond it, time goes on from there. Called once in a process at most.
    ///
    /// The time by which the clock was behind, if it was.
    #[must_use]
    pub fn have_passed(wall: Wall) -> Option<Duration> {
        let now = Self::read_clocks();
        let behind = wall.since(now.wall);
        if behind.is_zero() {
            return None;
        }
        let passed = Self { wall, ..now };
        PASSED.set(passed).is_ok().then_some(behind)
    }

    fn read_clocks() -> Self {
        let mono =
            clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC exists on every Linux");
        let wall = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            mono: Mono(millis(Duration::from(mono))),
            wall: Wall(i64::try_from(wall.as_millis()).unwrap_or(i64::MAX)),
        }
    }

    /// The moment `length` after this one, on both clocks.
    #[must_use]
    pub fn later(self, length: Duration) -> Self {
        Self {
            mono: self.mono.later(length),
            wall: self.wall.later(length),
        }
    }
}

/// What the wall clock shows beside the other one: tells when somebody has set it, or the machine has slept.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    last: Now,
}

/// A leap of the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leap {
    /// What it would show without.
    pub before: Wall,
    /// By how many milliseconds it went on, or back.
    pub by: i64,
}

impl WallClock {
    /// Smaller leaps are added up until they are a larger one: a clock that is kept right by slewing goes faster or slower at times.
    const LEAP: u64 = 2000;

    /// A clock that is right so far.
    #[must_use]
    pub fn at(now: Now) -> Self {
        Self { last: now }
    }

    /// Whether it has leapt since this was last asked and told.
    pub fn leap(&mut self, now: Now) -> Option<Leap> {
        let before = self.last.wall.later(now.mono.since(self.last.mono));
        let by = now.wall.0.saturating_sub(before.0);
        if by.unsigned_abs() < Self::LEAP {
            return None;
        }
        self.last = now;
        Some(Leap { before, by })
    }
}

/// Whole milliseconds of `length`; the largest number there is for what does not fit.
pub(crate) fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leap_of_the_wall_clock_is_told_once_and_by_how_much() {
        let begin = Now {
            mono: Mono(5_000),
            wall: Wall(1_000_000),
        };
        let set = |now: Now, by: i64| Now {
            wall: Wall(now.wall.0 + by),
            ..now
        };
        let minute = Duration::from_secs(60);
        let mut clock = WallClock::at(begin);
        assert_eq!(clock.leap(begin.later(minute)), None);
        assert_eq!(clock.leap(set(begin.later(minute), 1999)), None);
        let later = begin.later(minute * 2);
        let leap = Leap {
            before: later.wall,
            by: 3_600_000,
        };
        assert_eq!(clock.leap(set(later, leap.by)), Some(leap));
        let after = set(later.later(minute), leap.by);
        assert_eq!(clock.leap(after), None);
        let back = Leap {
            before: after.wall,
            by: -7_200_000,
        };
        assert_eq!(clock.leap(set(after, back.by)), Some(back));
        // Seconds that come one by one are seen when there are enough.
        let slow = set(after, back.by);
        assert_eq!(clock.leap(set(slow.later(minute), -1000)), None);
        let told = clock.leap(set(slow.later(minute * 2), -2000));
        assert_eq!(told.map(|leap| leap.by), Some(-2000));
    }
}
