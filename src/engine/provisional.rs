//! Bans on trial: they end soon, as if they had never been, unless somebody confirms them. For an admin who might shut himself out.

use std::collections::HashMap;
use std::time::Duration;

use tracing::info;

use super::{Engine, Order, Refusal};
use crate::clock::Now;
use crate::history::{Ending, Seq};
use crate::policy::Ban;
use crate::source::Source;

/// Those that wait to be confirmed, and what they are to be then.
pub(super) type Provisional = HashMap<Source, Order>;

impl Engine {
    /// Carries out an ordered ban for so long at first. Whatever becomes of us and of who ordered it, it ends then: the world is told no
    /// more than that.
    ///
    /// # Errors
    /// As [`ban`](Self::ban); or there is a ban already, which would end with this one.
    pub fn ban_for_now(
        &mut self,
        order: Order,
        trial: Duration,
        now: Now,
    ) -> Result<(Ban, Option<Seq>), Refusal> {
        let source = order.source;
        if self.bans.get(source).is_some() {
            return Err(Refusal::Banned(source));
        }
        let length = order.length.map_or(trial, |length| length.min(trial));
        let at_first = Order {
            length: Some(length),
            ..order.clone()
        };
        let done = self.ban(at_first, now)?;
        self.provisional.insert(source, order);
        Ok(done)
    }

    /// Makes a ban that was ordered for now what it was ordered to be; its time begins now.
    ///
    /// # Errors
    /// None of this source waits for that, or as [`ban`](Self::ban).
    pub fn confirm(&mut self, source: Source, now: Now) -> Result<(Ban, Option<Seq>), Refusal> {
        let order = self.provisional.get(&source).cloned();
        let order = order.ok_or(Refusal::NotProvisional(source))?;
        self.ban(order, now)
    }

    /// Whether this source's ban is undone unless it is confirmed.
    #[must_use]
    pub fn is_provisional(&self, source: Source) -> bool {
        self.provisional.contains_key(&source)
    }

    /// Ends those whose time to be confirmed is over. They are lifted, and so count for nothing.
    pub(super) fn undo_unconfirmed(&mut self, now: Now) {
        let is_over = |source: &&Source| {
            let end = self.bans.get(**source).and_then(|ban| ban.end);
            end.is_some_and(|end| end.mono <= now.mono)
        };
        let over: Vec<Source> = self.provisional.keys().filter(is_over).copied().collect();
        if over.is_empty() {
            return;
        }
        for source in &over {
            info!("the ban of {source} was not confirmed in time");
        }
        self.lift(&over, Ending::Unban, "portsentry", now);
    }
}
