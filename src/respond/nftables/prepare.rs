//! The table itself: made, adopted as it is, rebuilt with its bans, or left to whom it belongs; and taken down.

use nix::errno::Errno;

use super::{Nftables, trouble};
use crate::nft::{
    BanSet, Change, Comment, Element, Found, FriendSet, Friends, MARK, Rule, SetShape, rules, said,
};
use crate::respond::{Error, Prepared};

/// What somebody is told who has changed by hand who is let through.
const HANDS_OFF: &str = "ignored4 and ignored6 held something else than what the ignore lists name, and are put right; who is \
    never to be banned belongs into an ignore file";

impl Nftables {
    /// See [`Responder::prepare`](crate::respond::Responder::prepare).
    pub(super) fn prepare_table(&mut self) -> Result<Prepared, Error> {
        match self.prepare_once() {
            // Somebody made it between our look and our try.
            Err(Step(_, Errno::EEXIST)) => self.prepare_once(),
            outcome => outcome,
        }
        .map_err(|step| self.told(step))
    }

    /// What went wrong, as it is told.
    pub(super) fn told(&self, Step(what, errno): Step) -> Error {
        trouble(what.words(&self.table.to_string(), errno))
    }

    /// See [`Responder::withdraw`](crate::respond::Responder::withdraw).
    pub(super) fn withdraw_table(&mut self) -> Result<(), Error> {
        self.withdraw_once().map_err(|step| self.told(step))
    }

    /// See [`Responder::unban_all`](crate::respond::Responder::unban_all): all sets are made anew, in one transaction. To list
    /// and delete what they hold would take time that grows with its square.
    pub(super) fn empty_sets(&mut self) -> Result<(), Error> {
        if self.line.handle(&self.table) == Ok(None) {
            return Ok(());
        }
        self.prepare_table()?;
        let mut change = Change::new(&self.table);
        change.delete_chain(&self.chain.name);
        for set in &self.sets {
            change.delete_set(&set.name());
            change.create_set(&set.name(), &self.shape(*set));
        }
        change.create_chain(&self.chain, &self.rules());
        self.commit(change)
            .map_err(Doing::Rebuild.at())
            .map_err(|step| self.told(step))
    }

    fn prepare_once(&mut self) -> Result<Prepared, Step> {
        self.find_out_whether_to_own()?;
        let found = self.own_what_is_left()?;
        self.sets.clone_from(&self.configured);
        let prepared = match found {
            None => {
                self.create()?;
                Prepared::Created
            }
            Some(found) if !found.is_marked() => return Err(Step(Doing::Recognise, Errno::EEXIST)),
            Some(found) if self.is_anothers(&found) => return Err(Step(Doing::Own, Errno::EPERM)),
            Some(found) => {
                self.keep_sets_with_bans(&found)?;
                let spared = self.line.friends(&self.table, &found);
                let spared = spared.map_err(Doing::Look.at())?;
                if self.is_right(&found) {
                    self.handle = Some(found.handle);
                    if self.right_friends(&spared)? {
                        tracing::warn!("table inet {}: {HANDS_OFF}", self.table);
                    }
                    return Ok(Prepared::Adopted);
                }
                self.rebuild(&found, &spared)?;
                Prepared::Rebuilt
            }
        };
        // Old kernels answer success with silence, so look that it is really there.
        self.handle = self.line.handle(&self.table).map_err(Doing::Look.at())?;
        match self.handle {
            Some(_) => Ok(prepared),
            None => Err(Step(Doing::Look, Errno::ENOENT)),
        }
    }

    /// An earlier configuration may have banned prefixes of other lengths. While such bans run, their set and its
    /// rule stay.
    fn keep_sets_with_bans(&mut self, found: &Found) -> Result<(), Step> {
        for (set, shape) in &found.sets {
            if !self.sets.contains(set) && shape.holds_keys_of(self.shape(*set)) {
                let bans = self
                    .line
                    .list(&self.table, *set)
                    .map_err(Doing::List.at())?;
                if !bans.is_empty() {
                    self.sets.push(*set);
                }
            }
        }
        BanSet::put_in_order(&mut self.sets);
        Ok(())
    }

    fn shape(&self, set: BanSet) -> SetShape {
        set.shape(self.limit)
    }

    fn rules(&self) -> Vec<Rule> {
        rules(&self.sets, self.log)
    }

    fn fits(&self, found: &Found, set: BanSet) -> bool {
        found
            .set(set)
            .is_some_and(|shape| shape.serves_as(self.shape(set)))
    }

    pub(super) fn is_right(&self, found: &Found) -> bool {
        found.is_current()
            && self.is_owned_rightly(found)
            && self.sets.iter().all(|set| self.fits(found, *set))
            && found.sets.iter().all(|(set, _)| self.sets.contains(set))
            && FriendSet::ALL.iter().all(|set| found.has(*set))
            && matches!(
                found.chains.as_slice(),
                [(chain, found)] if *chain == self.chain && *found == self.rules()
            )
    }

    fn create(&mut self) -> Result<(), Step> {
        let mut change = Change::new(&self.table);
        change.create_table(&mark(), self.is_owner());
        for set in FriendSet::ALL {
            change.create_set(set.name(), &set.shape());
        }
        for set in &self.sets {
            change.create_set(&set.name(), &self.shape(*set));
        }
        change.create_chain(&self.chain, &self.rules());
        if let Some(friends) = &self.friends {
            change.befriend(friends, &Friends::default());
        }
        let made_after = self.line.changes_of_others().ok();
        self.commit(change).map_err(Doing::Create.at())?;
        self.made_after = made_after;
        Ok(())
    }

    /// Sets in the right shape are not touched. If the table itself is of another format or owner, or somebody's own chain
    /// holds on to what must go, all of it is made anew.
    fn rebuild(&mut self, found: &Found, spared: &Friends) -> Result<(), Step> {
        if found.is_current() && self.is_owned_rightly(found) {
            match self.rebuild_parts(found, spared, false) {
                Err(Step(Doing::Rebuild, Errno::EBUSY)) => {}
                outcome => return outcome,
            }
        }
        self.rebuild_parts(found, spared, true)
    }

    fn rebuild_parts(&mut self, found: &Found, spared: &Friends, all: bool) -> Result<(), Step> {
        let mut moved: Vec<(BanSet, Vec<Element>)> = Vec::new();
        for set in self.sets.clone() {
            let readable = |shape: SetShape| shape.holds_keys_of(self.shape(set));
            if (all || !self.fits(found, set)) && found.set(set).is_some_and(readable) {
                let bans = self.line.list(&self.table, set).map_err(Doing::List.at())?;
                moved.push((set, bans));
            }
        }
        let mut change = Change::new(&self.table);
        if all {
            change.delete_table();
            change.create_table(&mark(), self.is_owner());
        } else {
            for (chain, _) in &found.chains {
                change.delete_chain(&chain.name);
            }
            for (set, _) in &found.friend_sets {
                if !found.has(*set) {
                    change.delete_set(set.name());
                }
            }
            for (set, _) in &found.sets {
                if !self.sets.contains(set) || !self.fits(found, *set) {
                    change.delete_set(&set.name());
                }
            }
        }
        for set in FriendSet::ALL {
            if all || !found.has(set) {
                change.create_set(set.name(), &set.shape());
            }
        }
        for set in &self.sets {
            if all || !self.fits(found, *set) {
                let bans = moved.iter().find(|(moved, _)| moved == set);
                let held = bans.map_or(0, |(_, bans)| bans.len());
                let limit = self.limit.max(u32::try_from(held).unwrap_or(u32::MAX));
                change.create_set(&set.name(), &set.shape(limit));
            }
        }
        change.create_chain(&self.chain, &self.rules());
        let nobody = Friends::default();
        let staying = if all { &nobody } else { spared };
        change.befriend(self.friends.as_ref().unwrap_or(spared), staying);
        for (set, bans) in &moved {
            change.add(*set, &bans.iter().collect::<Vec<_>>());
        }
        self.commit(change).map_err(Doing::Rebuild.at())
    }

    fn withdraw_once(&mut self) -> Result<(), Step> {
        let found = self.look_for_a_free_one()?;
        self.handle = None;
        let Some(found) = found else {
            return Ok(());
        };
        if !found.is_marked() {
            return Err(Step(Doing::Recognise, Errno::EEXIST));
        }
        if self.is_anothers(&found) {
            return Err(Step(Doing::Own, Errno::EPERM));
        }
        let mut change = Change::new(&self.table);
        change.delete_table();
        match self.line.commit(&change.finish()) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(Step(Doing::Delete, errno)),
        }
    }

    /// Commits. After an answer that was lost, the table tells whether it was done.
    fn commit(&mut self, change: Change) -> Result<(), Errno> {
        match self.line.commit(&change.finish()) {
            Err(Errno::ENOBUFS) => match self.line.inspect(&self.table)? {
                Some(found) if self.is_right(&found) => Ok(()),
                _ => Err(Errno::ENOBUFS),
            },
            outcome => outcome,
        }
    }
}

fn mark() -> Comment {
    Comment::new(MARK).expect("the mark is not empty")
}

/// What was being done when the kernel said this.
pub(super) struct Step(pub(super) Doing, pub(super) Errno);

#[derive(Clone, Copy)]
pub(super) enum Doing {
    Look,
    Recognise,
    Own,
    List,
    Create,
    Rebuild,
    Delete,
    Spare,
}

impl Doing {
    pub(super) fn at(self) -> impl Fn(Errno) -> Step {
        move |errno| Step(self, errno)
    }

    pub(super) fn words(self, table: &str, errno: Errno) -> String {
        let doing = match self {
            Self::Recognise => {
                return format!(
                    "table inet {table} is there already, without the comment \"{MARK}\": somebody else made it; \
                     remove it with \"nft delete table inet {table}\", or set nftables.table in the configuration to \
                     another name"
                );
            }
            Self::Own if errno == Errno::EOPNOTSUPP => {
                return format!(
                    "table inet {table} cannot be made one that belongs to portsentry alone: this kernel has none (Linux 6.9 does); set \
                     nftables.own in the configuration to \"auto\" or \"off\""
                );
            }
            Self::Own if errno == Errno::EPERM => {
                return format!(
                    "table inet {table} belongs to another program, which alone may change it as long as it runs (\"nft list table inet \
                     {table}\" names it); if that is a portsentry, give this one the same configuration (-c); else end it, or set \
                     nftables.table in the configuration to another name"
                );
            }
            Self::Own => "take over",
            Self::Spare => "let those that the ignore lists name through",
            Self::Look => "look at",
            Self::List => "list the bans in",
            Self::Create => "create",
            Self::Rebuild => "rebuild",
            Self::Delete => "delete",
        };
        let mut words = format!("cannot {doing} table inet {table}: {}", said(errno));
        if matches!((self, errno), (Self::Look, Errno::EINVAL)) {
            words.push_str(" (does this kernel have nf_tables?)");
        }
        if matches!((self, errno), (Self::Create | Self::Rebuild, Errno::ENOENT)) {
            words.push_str(
                " (does this kernel lack a part of nf_tables? nftables.log needs nft_limit, nft_log and nf_log_syslog)",
            );
        }
        words
    }
}
