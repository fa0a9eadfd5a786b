//! All that was taken away, put back: ready to be sent before the table is made, and while nobody listens. What others do
//! meanwhile is found by looking.
//!
//! Whoever flushes the ruleset closes his line to the kernel, which for some 10 to 30 ms keeps everybody else from changing
//! anything (6.18's `nft_rcv_nl_event` waits for what was deleted to be freed). All that can be done before we wait for that is
//! done before. And while somebody listens, the kernel writes a message about each element that we put in: half of its work.

use std::collections::HashMap;

use nix::errno::Errno;

use super::watch::anything;
use super::{Entry, How, Nftables, REPLAY_BATCH, change, held};
use crate::clock::{self, Now};
use crate::nft::{BanSet, Timeout};
use crate::policy::Ban;
use crate::respond::failures::Failures;
use crate::respond::{Error, Meddling, Prepared, Responder};
use crate::source::Source;

/// Bans that are put back while nobody listens, at most: some 30 ms. To look then what others have done takes as long again. Of
/// more, a look would take seconds.
const MOST_UNHEARD: usize = 16_384;

/// Bans that are put back first, while we listen still: when the kernel has taken these, whoever was in the middle of a change
/// is done with it and was heard.
const FIRST: usize = 256;

/// In so many milliseconds an element may end by itself, and an end that has moved by less is the same one.
const SOON: u64 = 2000;

/// Bans that are taken out one by one, at most, in that moment. Where more are missing, a set was flushed, or not read to its end.
const MOST_REMOVED: usize = 1000;

/// Who does what nobody has heard of.
const SOMEBODY: &str = "somebody";

impl Nftables {
    /// See [`Responder::restore`].
    pub(super) fn put_all_back(
        &mut self,
        bans: &[&Ban],
        now: Now,
    ) -> (Result<Prepared, Error>, Result<(), Error>) {
        if bans.len() > MOST_UNHEARD || !self.has_sets_for(bans) {
            let prepared = self.prepare();
            return (prepared, self.replay(bans, now));
        }
        let mut failures = Failures::new("ban", bans.len());
        let entries = self.entries(bans, now, &mut failures);
        let (first, others) = entries.split_at(entries.len().min(FIRST));
        let chunks = first.chunks(FIRST).chain(others.chunks(REPLAY_BATCH));
        let written = chunks.map(|chunk| (chunk, change(&self.table, chunk, How::Add)));
        let mut written = written.collect::<Vec<_>>().into_iter();

        let before = self.line.changes_of_others();
        let prepared = self.prepare();
        if prepared.is_err() || !self.has_sets_for(bans) {
            return (prepared, self.replay(bans, now));
        }
        let mut done = self.put_written(written.by_ref().take(1), &mut failures);
        if done.is_ok() && !others.is_empty() {
            let is_deaf = self.events.as_mut().map(|events| events.pause().is_ok());
            done = self.put_written(written, &mut failures);
            if is_deaf == Some(true) {
                self.listen_again(before, &entries, &failures, now);
            }
        }
        let done = done.and_then(|()| failures.into_result(self.name()));
        (prepared, done)
    }

    fn has_sets_for(&self, bans: &[&Ban]) -> bool {
        let mut sets = bans.iter().map(|ban| BanSet::of(ban.source));
        sets.all(|set| self.sets.contains(&set))
    }

    /// Listens to what others do, and looks what they have done while we did not, if they have done anything since `before`.
    ///
    /// The number of changes is one higher before anybody is told of a change. So who is not in that number when we listen
    /// again will be heard.
    pub(super) fn listen_again(
        &mut self,
        before: Result<u32, Errno>,
        put: &[Entry],
        failures: &Failures,
        now: Now,
    ) {
        let Some(events) = &mut self.events else {
            return;
        };
        if let Err(cause) = events.resume() {
            tracing::warn!(
                "cannot watch table inet {} any more: {cause}; what others do to it is found at the next ban, or by \
                 `portsentry status`; to watch it again, restart portsentry",
                self.table
            );
        }
        if before.is_ok() && self.line.changes_of_others() == before {
            return;
        }
        let missed = self.look_for_meddling(put, failures, now);
        self.missed = missed.unwrap_or_else(|_| Some(anything(SOMEBODY)));
        if let (Some(_), Some(events)) = (&self.missed, &mut self.events) {
            // If it cannot be sent, it is told with what is heard next.
            let _ = events.ring();
        }
    }

    /// What others have done since `put` were all that stood, with the time that they had left then, `now`; `None`: nothing, or nothing to us.
    fn look_for_meddling(
        &mut self,
        put: &[Entry],
        failures: &Failures,
        now: Now,
    ) -> Result<Option<Meddling>, Errno> {
        let found = self.line.inspect(&self.table)?;
        let Some(found) = found.filter(|found| Some(found.handle) == self.handle) else {
            return Ok(Some(anything(SOMEBODY)));
        };
        let friends = self.line.friends(&self.table, &found)?;
        let has_other_friends = self.friends.as_ref().is_some_and(|it| *it != friends);
        let mut meddling = Meddling {
            by: SOMEBODY.to_owned(),
            is_frame: has_other_friends || !self.is_right(&found),
            ..Meddling::default()
        };
        let elapsed = clock::millis(Now::read().mono.since(now.mono));
        let left_of = |entry: &Entry| entry.element.timeout.map(Timeout::left);
        let mut missing: HashMap<Source, Option<u64>> = put
            .iter()
            .map(|entry| (entry.source, left_of(entry)))
            .collect();
        for set in self.sets.clone() {
            let elements = self.line.list(&self.table, set)?;
            for held in elements.iter().filter_map(|element| held(set, element)) {
                let left = held.clock.map(|clock| clock.left);
                let put = missing.remove(&held.source);
                if !put.is_some_and(|put| is_same(put, left, elapsed)) {
                    meddling.added.push(held);
                }
            }
        }
        missing.retain(|_, left| left.is_none_or(|left| left > SOON + elapsed));
        // What was found to be lost is put back anyway.
        if !self.lost {
            meddling.is_emptied =
                !failures.is_empty() || missing.len() > MOST_REMOVED || is_flush(put, &missing);
            if !meddling.is_emptied {
                meddling.removed = missing.into_keys().collect();
            }
        }
        let is_nothing = meddling
            == Meddling {
                by: SOMEBODY.to_owned(),
                ..Meddling::default()
            };
        Ok((!is_nothing).then_some(meddling))
    }
}

/// Whether, in some set, all are missing that were put in up to some moment, at least two: who flushes a set takes those. Who
/// takes some out by hand takes others.
fn is_flush(put: &[Entry], missing: &HashMap<Source, Option<u64>>) -> bool {
    let mut sets: Vec<BanSet> = put.iter().map(|entry| entry.set).collect();
    BanSet::put_in_order(&mut sets);
    sets.into_iter().any(|set| {
        let in_set = || put.iter().filter(|entry| entry.set == set);
        let is_missing = |entry: &&Entry| missing.contains_key(&entry.source);
        let count = in_set().filter(is_missing).count();
        count >= 2 && in_set().take_while(is_missing).count() == count
    })
}

/// Whether an element that was put in with so much time left may have this much left by now, `elapsed` milliseconds later.
fn is_same(put: Option<u64>, left: Option<u64>, elapsed: u64) -> bool {
    match (put, left) {
        (None, None) => true,
        (Some(put), Some(left)) => put <= left + elapsed + SOON && left <= put + SOON,
        _ => false,
    }
}
