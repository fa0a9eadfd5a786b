//! Putting back all bans that somebody took away: many of them a portion at a time, between other events.

use super::{Happened, Post};
use crate::clock::Now;
use crate::policy::{Ban, Bans, Place};
use crate::respond::Hands;

/// Bans that are put back at once, at most: some 100 ms.
pub(crate) const PORTION: usize = 16_384;

/// How far a long repair is. Bans are put back by their ends, those first that last longest; what is banned meanwhile is
/// put in at once.
pub(super) struct Repair {
    /// The place of the last one that was put back; `None`: none was.
    after: Option<Place>,
    /// How many are still to be put back, if none ends meanwhile.
    left: usize,
}

impl Post {
    /// Puts all of these back that are `due`, and what they need. Where they are many, and no thread does it, it is only begun:
    /// [`go_on_repairing`](Self::go_on_repairing) does the rest.
    pub(in crate::engine) fn repair(
        &mut self,
        bans: &Bans,
        due: impl Fn(&Ban) -> bool,
        now: Now,
        told: &mut Vec<Happened>,
    ) {
        self.repair = None;
        let is_long = bans.len() > PORTION && self.is_present();
        if !is_long || matches!(self.hands, Hands::Thread(_)) {
            let bans = bans.longest_first(None).map(|(_, ban)| ban);
            let bans: Vec<&Ban> = bans.filter(|ban| due(ban)).collect();
            return self.restore(&bans, now, told);
        }
        self.differs_since.get_or_insert(now.mono);
        self.repair = Some(Repair {
            after: None,
            left: bans.len(),
        });
        self.restore(&[], now, told);
        self.go_on_repairing(bans, due, now, told);
    }

    /// Puts the next portion back.
    pub(in crate::engine) fn go_on_repairing(
        &mut self,
        bans: &Bans,
        due: impl Fn(&Ban) -> bool,
        now: Now,
        told: &mut Vec<Happened>,
    ) {
        let Some(repair) = &mut self.repair else {
            return;
        };
        let portion: Vec<(Place, &Ban)> = bans.longest_first(repair.after).take(PORTION).collect();
        let is_last = portion.len() < PORTION;
        repair.after = portion.last().map(|(place, _)| *place);
        repair.left = repair.left.saturating_sub(portion.len());
        let portion = portion.into_iter().map(|(_, ban)| ban);
        let portion: Vec<&Ban> = portion.filter(|ban| due(ban)).collect();
        self.ban(&portion, true, now, told);
        if is_last {
            self.repair = None;
            self.settle(now, told);
        }
    }

    /// Whether a long repair goes on.
    pub(in crate::engine) fn is_repairing(&self) -> bool {
        self.repair.is_some()
    }

    /// How many bans it has still to put back.
    pub(super) fn left_to_repair(&self) -> usize {
        self.repair.as_ref().map_or(0, |repair| repair.left)
    }
}
