//! One family's rules and sets, brought to what is wanted: read, compared, and changed in one go. What is wanted is for others.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};

use ipnet::IpNet;

use super::Family;
use super::rules::{Standing, Wanted};
use super::sets::{Sets, Trouble};
use super::tools::Tools;
use crate::clock::Now;
use crate::policy::Ban;
use crate::respond::note::Note;
use crate::respond::{Held, Prepared};
use crate::source::Source;

/// What all that touches the world needs to know.
#[derive(Clone)]
pub(super) struct World {
    pub(super) chain: String,
    pub(super) tools: Tools,
    /// Bans that may run at a time.
    pub(super) limit: u32,
    /// What was found when somebody first asked.
    sets: OnceCell<Option<Sets>>,
}

/// How rules that are bans are to change.
pub(super) struct Change<'a> {
    pub(super) take: &'a dyn Fn(Source) -> bool,
    pub(super) put: HashMap<Source, Note>,
}

/// What was found before it was changed.
pub(super) struct Found {
    pub(super) prepared: Prepared,
    /// Whom rules banned.
    pub(super) banned: HashSet<Source>,
}

impl World {
    pub(super) fn new(chain: &str, limit: u32, tools: Tools) -> Self {
        Self {
            chain: chain.to_owned(),
            tools,
            limit,
            sets: OnceCell::new(),
        }
    }

    /// The sets, where the program and the kernel are there for them. What is found at first holds until we end.
    pub(super) fn sets(&self) -> Option<&Sets> {
        let look = || {
            let sets = Sets::new(self.tools.ipset()?, &self.chain, self.limit);
            match sets.try_kernel() {
                Ok(()) => Some(sets),
                Err(why) => {
                    tracing::warn!("iptables: each ban is a rule, for there are no sets: {why}");
                    None
                }
            }
        };
        self.sets.get_or_init(look).as_ref()
    }

    /// Makes the chain what it should be, with these bans as rules.
    pub(super) fn settle(
        &self,
        family: Family,
        friends: Option<&[IpNet]>,
        change: &Change<'_>,
    ) -> Result<Found, String> {
        let xtables = self.tools.xtables(family)?;
        let sets = self.sets();
        let wanted = Wanted {
            family,
            friends,
            sets: &sets.map_or(Vec::new(), |sets| sets.names(family).to_vec()),
            take: &|source| sets.is_some() || (change.take)(source),
            put: &change.put,
        };
        let mut is_second = false;
        loop {
            let listing = xtables.list()?;
            let standing = Standing::read(&listing, &self.chain);
            if let Some(sets) = sets {
                move_over(&standing, sets)?;
            }
            let plan = standing.plan(&wanted);
            let done = plan
                .script
                .map_or(Ok(()), |script| xtables.restore(&script));
            match done {
                Ok(()) => {
                    return Ok(Found {
                        prepared: match (standing.exists, plan.mends) {
                            (false, _) => Prepared::Created,
                            (true, true) => Prepared::Rebuilt,
                            (true, false) => Prepared::Adopted,
                        },
                        banned: standing.bans().map(|(source, _)| source).collect(),
                    });
                }
                // Somebody may have changed the rules in between.
                Err(_) if !is_second => is_second = true,
                Err(why) => return Err(why),
            }
        }
    }

    /// Takes rules away that are bans. A chain that is not there is not made for that.
    pub(super) fn take(
        &self,
        family: Family,
        friends: Option<&[IpNet]>,
        take: &dyn Fn(Source) -> bool,
    ) -> Result<(), String> {
        let listing = self.tools.xtables(family)?.list()?;
        let standing = Standing::read(&listing, &self.chain);
        if !standing.bans().any(|(source, _)| take(source)) {
            return Ok(());
        }
        let put = HashMap::new();
        self.settle(family, friends, &Change { take, put })
            .map(drop)
    }

    /// All bans of a family, rules or in sets.
    pub(super) fn held(&self, family: Family, now: Now) -> Result<Vec<Held>, String> {
        let listing = self.tools.xtables(family)?.list()?;
        let standing = Standing::read(&listing, &self.chain);
        let rules = standing
            .bans()
            .map(|(source, note)| note.held(source, now.wall));
        let mut all: Vec<Held> = rules.collect();
        if let Some(sets) = self.sets() {
            all.extend(sets.list(family, now.wall)?);
        }
        Ok(all)
    }

    /// Leaves nothing of ours.
    pub(super) fn withdraw(&self, family: Family) -> Result<(), String> {
        let mut shared = Ok(());
        // Without the programs there is nothing of ours that anybody could see.
        if let Ok(xtables) = self.tools.xtables(family) {
            let listing = xtables.list()?;
            let (script, is_shared) = Standing::read(&listing, &self.chain).withdrawal();
            script.map_or(Ok(()), |script| xtables.restore(&script))?;
            if is_shared {
                shared = Err(format!(
                    "the chain {} is still there in {}, for it has rules that are not portsentry's",
                    self.chain,
                    family.iptables()
                ));
            }
        }
        self.sets().map_or(Ok(()), |sets| sets.withdraw(family))?;
        shared
    }
}

/// Has those stand in sets that are rules, from before there were sets. What is over is left out.
fn move_over(standing: &Standing<'_>, sets: &Sets) -> Result<(), String> {
    let now = Now::read();
    let held = standing
        .bans()
        .map(|(source, note)| note.held(source, now.wall));
    let running = held.filter(|held| held.clock.is_none_or(|clock| clock.left > 0));
    let bans: Vec<Ban> = running.map(|held| held.into_ban(now)).collect();
    if bans.is_empty() {
        return Ok(());
    }
    let moved = sets.put(&bans.iter().collect::<Vec<_>>(), now);
    moved.map_err(Trouble::into_words)
}
