//! Bans of many neighbours that become one: when that is looked for, and what is told of it. When it is due, `policy` says.

use tracing::info;

use super::{Engine, Record};
use crate::clock::{Now, Wall};
use crate::log::banned;
use crate::policy::{Ban, Origin, roll_up};
use crate::source::Source;

impl Engine {
    /// Bans, as a whole, the prefixes in which enough are banned now that these are too. In a transaction of their own, so that
    /// trouble with them is none for their parts. Where programs ban, bans name single addresses, and nothing is rolled up.
    pub(super) fn roll_up(&mut self, parts: &[Source], now: Now) {
        if self.bans_by_program() || !self.world.has_responders() {
            return;
        }
        let mut prefixes = Vec::new();
        for part in parts {
            let may = |prefix| self.guard.may_be_wide(prefix);
            if let Some(ban) = roll_up(*part, &self.config.ban, &self.bans, may, now) {
                self.bans.insert(ban.clone());
                prefixes.push(ban);
            }
        }
        if prefixes.is_empty() {
            return;
        }
        self.untold_rollups
            .extend(prefixes.iter().map(|ban| ban.source));
        self.world.ban(&prefixes.iter().collect::<Vec<_>>(), now);
        for ban in prefixes {
            self.counters.rolled_up += 1;
            self.record(Record::Ban(ban), now.mono);
        }
        self.follow_up(now);
    }

    /// A wide ban is in force for the first time.
    pub(super) fn tell_of_rollup(&mut self, prefix: Source, now: Now) {
        if let Some(ban) = self.bans.get(prefix) {
            if self.alarms.spend(now.mono) {
                info!("{}", banned(ban));
            }
        }
    }

    /// Whether this ban must not be: it names a friend, or is wider than one may be that nobody has asked for.
    pub(super) fn is_guarded(&self, ban: &Ban) -> bool {
        self.friend_of(ban).is_some()
            || ban.origin == Origin::RollUp && !self.guard.may_be_wide(ban.source)
    }

    /// Somebody had lifted, each at that time, the bans that these prefixes had been rolled up into: what was banned in them until then
    /// counts no more. Called before history's bans are put back.
    pub fn forgive(&mut self, lifted: &[(Source, Wall)]) {
        self.bans.forgive(lifted);
    }
}
