//! The sets: what they are called, what they must be like, and how bans stand in them, in the words of `ipset`.

use std::collections::HashSet;
use std::fmt::Write as _;

use super::Family;
use super::listing::{Shape, element, held};
use super::tools::Program;
use crate::clock::{Now, Wall};
use crate::policy::Ban;
use crate::respond::Held;
use crate::respond::note::Note;
use crate::source::Source;

/// Our sets: of each family one for addresses and one for prefixes.
#[derive(Clone, Debug)]
pub(super) struct Sets {
    ipset: Program,
    chain: String,
    /// Elements that each has room for, at least.
    room: u32,
}

/// What a set of ours is found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Whether it is made just now.
    pub(super) is_new: bool,
    /// How many stand in it.
    pub(super) entries: usize,
}

/// Why bans are not in their sets.
pub(super) enum Trouble {
    /// A set is not there.
    Gone(String),
    /// There is no room for these. The others are where they belong.
    Full { why: String, without: Vec<Source> },
    /// Anything else.
    Other(String),
}

impl Trouble {
    pub(super) fn into_words(self) -> String {
        match self {
            Self::Gone(why) | Self::Full { why, .. } | Self::Other(why) => why,
        }
    }
}

/// Seconds that an element may last: what ipset takes for a timeout. A longer ban is put in again before this is over.
pub(super) const LONGEST: u64 = 2_147_483;

/// What ipset says where a set is not there, an element is not, and there is no room for one.
const GONE: &str = "set with the given name does not exist";
const ABSENT: &str = "is NOT in set";
const FULL: &str = "is full";

/// The kinds of sets: what the name ends with, and ipset's own name for it.
const KINDS: [(&str, &str); 2] = [("", "hash:ip"), ("n", "hash:net")];

impl Sets {
    /// Sets that have room for `limit` bans. The kernel (from 5.6 on) shares the room out to the parts of its table, which do not
    /// fill alike: so it is twice as much, which costs nothing until it is used.
    pub(super) fn new(ipset: Program, chain: &str, limit: u32) -> Self {
        Self {
            ipset,
            chain: chain.to_owned(),
            room: limit.saturating_mul(2),
        }
    }

    /// Whether the kernel has sets at all.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn try_kernel(&self) -> Result<(), String> {
        self.ipset.run(&["list", "-n"], "").map(drop)
    }

    /// The names of a family's.
    pub(super) fn names(&self, family: Family) -> [String; 2] {
        KINDS.map(|(kind, _)| set_name(&self.chain, kind, family))
    }

    /// Makes a family's sets, where they are not there or too small, and tells what they are like.
    pub(super) fn prepare(&self, family: Family) -> Result<[Found; 2], String> {
        let all = self.ipset.run(&["list", "-t"], "")?;
        let mut found = [Found {
            is_new: true,
            entries: 0,
        }; 2];
        for ((found, name), (_, kind)) in found.iter_mut().zip(self.names(family)).zip(KINDS) {
            match Shape::read(&all, &name) {
                None => drop(
                    self.ipset
                        .run(&["restore"], &self.creation(&name, kind, family))?,
                ),
                Some(shape) if !shape.is_like(kind, family) => {
                    return Err(format!(
                        "the set {name} is not as portsentry makes it ({kind} with timeout and comment): take it away (ipset destroy {name}), or set iptables.chain to another name"
                    ));
                }
                Some(shape) => {
                    if shape.maxelem < self.room {
                        self.enlarge(&name, kind, family)?;
                    }
                    *found = Found {
                        is_new: false,
                        entries: shape.entries,
                    };
                }
            }
        }
        Ok(found)
    }

    /// Puts a bigger set with the same elements in the place of this one.
    fn enlarge(&self, name: &str, kind: &str, family: Family) -> Result<(), String> {
        let bigger = format!("{}-t", self.chain);
        // What a crash has left.
        let _ = self.ipset.run(&["destroy", &bigger], "");
        let old = self.ipset.run(&["save", name], "")?;
        let mut script = self.creation(&bigger, kind, family);
        let elements = old
            .lines()
            .filter_map(|line| line.strip_prefix(&format!("add {name} ")));
        for element in elements {
            let _ = writeln!(script, "add {bigger} {element}");
        }
        let _ = writeln!(script, "swap {bigger} {name}\ndestroy {bigger}");
        self.ipset.run(&["restore"], &script).map(drop)
    }

    fn creation(&self, name: &str, kind: &str, family: Family) -> String {
        format!(
            "create {name} {kind} family {} maxelem {} timeout 0 comment\n",
            family.inet(),
            self.room
        )
    }

    /// Puts bans in, or brings them up to date.
    pub(super) fn put(&self, bans: &[&Ban], now: Now) -> Result<(), Trouble> {
        match self.try_to_put(bans, now) {
            Err(said) if said.contains(GONE) => Err(Trouble::Gone(said)),
            Err(said) if said.contains(FULL) => self.put_where_there_is_room(bans, said, now),
            done => done.map_err(Trouble::Other),
        }
    }

    fn try_to_put(&self, bans: &[&Ban], now: Now) -> Result<(), String> {
        let mut script = String::new();
        for ban in bans {
            let _ = writeln!(
                script,
                "add {} {} timeout {} comment \"{}\"",
                self.place(ban.source),
                ban.source,
                timeout(ban, now),
                Note::of(ban)
            );
        }
        self.restore(&script)
    }

    /// Puts in what there is room for, one set after another, for ipset does no more where one is full.
    fn put_where_there_is_room(&self, bans: &[&Ban], why: String, now: Now) -> Result<(), Trouble> {
        let mut without = Vec::new();
        for name in Family::ALL.iter().flat_map(|family| self.names(*family)) {
            let here = bans.iter().copied();
            let here: Vec<&Ban> = here.filter(|ban| self.place(ban.source) == name).collect();
            let done = self.put_in_one(&name, &here, now);
            without.extend(done.map_err(Trouble::Other)?);
        }
        if without.is_empty() {
            return Ok(());
        }
        Err(Trouble::Full { why, without })
    }

    /// Puts those into their set that there is room for; gives back the others. What stands there needs none.
    fn put_in_one(&self, name: &str, bans: &[&Ban], now: Now) -> Result<Vec<Source>, String> {
        match self.try_to_put(bans, now) {
            Err(said) if said.contains(FULL) => {}
            done => return done.map(|()| Vec::new()),
        }
        let held = self.list_one(name, now.wall)?;
        let standing: HashSet<Source> = held.into_iter().map(|held| held.source).collect();
        let mut there = bans.to_vec();
        there.retain(|ban| standing.contains(&ban.source));
        self.try_to_put(&there, now)?;
        let sources = bans.iter().map(|ban| ban.source);
        Ok(sources.filter(|it| !standing.contains(it)).collect())
    }

    /// Takes bans out. Those that are not there are no trouble.
    pub(super) fn take(&self, sources: &[Source]) -> Result<(), String> {
        let done = self.try_to_take(sources);
        if !done.as_ref().is_err_and(|said| said.contains(GONE)) {
            return done;
        }
        let mut there = Vec::new();
        for family in Family::ALL {
            there.extend(self.standing(family)?);
        }
        let sources = sources.iter().copied();
        let left = sources.filter(|source| there.contains(&self.place(*source)));
        self.try_to_take(&left.collect::<Vec<_>>())
    }

    fn try_to_take(&self, sources: &[Source]) -> Result<(), String> {
        let mut script = String::new();
        for source in sources {
            let _ = writeln!(script, "del {} {source}", self.place(*source));
        }
        self.restore(&script)
    }

    fn restore(&self, script: &str) -> Result<(), String> {
        self.ipset.run(&["-exist", "restore"], script).map(drop)
    }

    /// All bans of a family, as they stand there.
    pub(super) fn list(&self, family: Family, now: Wall) -> Result<Vec<Held>, String> {
        let mut all = Vec::new();
        for name in self.standing(family)? {
            all.extend(self.list_one(&name, now)?);
        }
        Ok(all)
    }

    /// One ban, as it stands there.
    pub(super) fn find(&self, source: Source, now: Wall) -> Result<Option<Held>, String> {
        let name = self.place(source);
        // Most are asked for that are not there, and to look through a set takes as long as it is big.
        match self.ipset.run(&["test", &name, &source.to_string()], "") {
            Ok(_) => {}
            Err(said) if said.contains(ABSENT) || said.contains(GONE) => return Ok(None),
            Err(said) => return Err(said),
        }
        let saved = self.ipset.run(&["save", &name], "")?;
        let is_its = |line: &&str| element(line, &name) == Some(source);
        let line = saved.lines().find(is_its);
        Ok(line.and_then(|line| held(line, &name, now)))
    }

    fn list_one(&self, name: &str, now: Wall) -> Result<Vec<Held>, String> {
        let saved = self.ipset.run(&["save", name], "")?;
        Ok(saved
            .lines()
            .filter_map(|line| held(line, name, now))
            .collect())
    }

    /// Empties a family's sets.
    pub(super) fn clear(&self, family: Family) -> Result<(), String> {
        let standing = self.standing(family)?;
        standing
            .iter()
            .try_for_each(|name| self.ipset.run(&["flush", name], "").map(drop))
    }

    /// Takes a family's sets away.
    pub(super) fn withdraw(&self, family: Family) -> Result<(), String> {
        let standing = self.standing(family)?;
        standing
            .iter()
            .try_for_each(|name| self.ipset.run(&["destroy", name], "").map(drop))
    }

    /// The names of those of a family's sets that are there.
    pub(super) fn standing(&self, family: Family) -> Result<Vec<String>, String> {
        let all = self.ipset.run(&["list", "-n"], "")?;
        let names = self.names(family).into_iter();
        Ok(names
            .filter(|name| all.lines().any(|line| line == name))
            .collect())
    }

    /// The command that puts a ban in, for the log.
    pub(super) fn deed(&self, ban: &Ban, now: Now) -> String {
        let name = self.place(ban.source);
        format!(
            "ipset add {name} {} timeout {}",
            ban.source,
            timeout(ban, now)
        )
    }

    fn place(&self, source: Source) -> String {
        place(&self.chain, source)
    }
}

/// The name of the set that a source belongs in.
pub(super) fn place(chain: &str, source: Source) -> String {
    let (kind, _) = KINDS[usize::from(!source.is_address())];
    set_name(chain, kind, Family::of(source))
}

/// 31 characters at most, where the chain has the 28 that it may have.
fn set_name(chain: &str, kind: &str, family: Family) -> String {
    format!("{chain}-{kind}{}", family.digit())
}

/// In seconds, none being lost; 0 is for ever.
fn timeout(ban: &Ban, now: Now) -> u64 {
    ban.left(now).map_or(0, |left| {
        let seconds = u64::try_from(left.as_millis().div_ceil(1000)).unwrap_or(LONGEST);
        seconds.clamp(1, LONGEST)
    })
}
