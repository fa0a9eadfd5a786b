//! What stands in the kernel: our table and what is in it, the elements of a set, one of them.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::CString;
use std::net::IpAddr;

use nix::errno::Errno;

use super::batch::TableName;
use super::decode;
use super::element::Element;
use super::events;
use super::friends::{FriendSet, Friends};
use super::line::Line;
use super::request::Request;
use super::shape::{BanSet, ChainShape, MARK, OWNED, Owner, Rule, SetShape, is_marked};
use crate::source::Sources;

/// How often a set is listed at most. The kernel remembers only how far it has come, by count: when its hash table
/// grows or it collects expired elements meanwhile, some come twice and others not at all. So a list is done when
/// another one brings nothing new.
const PASSES: usize = 5;

/// The table as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// A number that no other table of this boot had or will have.
    pub handle: u64,
    /// `NFT_TABLE_F_…`, but for those that `owner` tells.
    pub flags: u32,
    /// Who may change it.
    pub owner: Owner,
    /// What stands under its name.
    pub comment: Option<String>,
    /// Those of its sets that have the names of ours for bans.
    pub sets: Vec<(BanSet, SetShape)>,
    /// Those that have the names of ours for friends.
    pub friend_sets: Vec<(FriendSet, SetShape)>,
    /// Those of its chains whose names are ours, with their rules.
    pub chains: Vec<(ChainShape, Vec<Rule>)>,
}

impl Found {
    /// Whether the table is ours, of whatever format.
    #[must_use]
    pub fn is_marked(&self) -> bool {
        self.comment.as_deref().is_some_and(is_marked)
    }

    /// Whether the table itself, whatever is in it and whoever owns it, is as we would make it: in our format, and not asleep.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.comment.as_deref() == Some(MARK) && self.flags == 0
    }

    /// The shape of this set, if it is there.
    #[must_use]
    pub fn set(&self, set: BanSet) -> Option<SetShape> {
        self.sets
            .iter()
            .find(|(found, _)| *found == set)
            .map(|(_, shape)| *shape)
    }

    /// Whether this set is there, in its one shape.
    #[must_use]
    pub fn has(&self, set: FriendSet) -> bool {
        self.friend_sets.contains(&(set, set.shape()))
    }
}

impl Line {
    /// The table with all that is ours in it; `None` if there is none of that name.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn inspect(&mut self, table: &TableName) -> Result<Option<Found>, Errno> {
        let Some(read) = self.table(table)? else {
            return Ok(None);
        };
        let name = table.as_c_str();
        let is_here = |found: &str| found.as_bytes() == name.to_bytes();
        let (mut sets, mut friend_sets) = (Vec::new(), Vec::new());
        for (found_in, set, shape) in self.ask(&Request::sets(name), decode::set)? {
            if is_here(&found_in) {
                sets.extend(BanSet::from_name(&set).map(|set| (set, shape)));
                friend_sets.extend(FriendSet::from_name(&set).map(|set| (set, shape)));
            }
        }
        let mut chains = Vec::new();
        for (found_in, shape) in self.ask(&Request::chains(name), decode::chain)? {
            if is_here(&found_in) && ChainShape::NAMES.contains(&shape.name.as_str()) {
                let chain = CString::new(shape.name.as_str()).expect("one of our two names");
                let rules = self.ask(&Request::rules(name, &chain), decode::rule)?;
                chains.push((shape, rules));
            }
        }
        Ok(Some(Found {
            handle: read.handle,
            flags: read.flags & !OWNED,
            owner: Owner::of(read.flags, read.owner),
            comment: read.comment,
            sets,
            friend_sets,
            chains,
        }))
    }

    /// The number of the table; `None` if there is none of that name.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn handle(&mut self, table: &TableName) -> Result<Option<u64>, Errno> {
        Ok(self.table(table)?.map(|found| found.handle))
    }

    /// How often somebody else than this line has changed the ruleset, whatever part of it, counted from some moment; it tells by
    /// not growing that nobody has.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn changes_of_others(&mut self) -> Result<u32, Errno> {
        let found = self.ask(&Request::generation(), events::generation)?;
        let generation = found.first().ok_or(Errno::EIO)?;
        Ok(generation.wrapping_sub(self.committed()))
    }

    /// One element, by its key, without a list of the others; `None` if it, its set or its table is not there.
    /// One that has run out is not there.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn look_up(
        &mut self,
        table: &TableName,
        set: BanSet,
        key: IpAddr,
    ) -> Result<Option<Element>, Errno> {
        let request = Request::element(table.as_c_str(), set, key);
        let found = self.ask(&request, decode::elements);
        Ok(absent_is_none(found)?
            .into_iter()
            .flatten()
            .flatten()
            .find(|element| element.key == key && is_running(element)))
    }

    /// All elements of a set but those that have run out; none if it or its table is not there. Takes seconds for
    /// 200,000, and far more than five times that for five times as many: never to answer a question.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn list(&mut self, table: &TableName, set: BanSet) -> Result<Vec<Element>, Errno> {
        self.list_but(table, set, &Sources::default())
    }

    /// The same without those that are `known`, in which a million takes no room.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn list_but(
        &mut self,
        table: &TableName,
        set: BanSet,
        known: &Sources,
    ) -> Result<Vec<Element>, Errno> {
        let request = Request::elements(table.as_c_str(), &set.name());
        let expected = known.iter().filter(|it| BanSet::of(*it) == set).count();
        let mut all = HashMap::new();
        for _ in 0..PASSES {
            let before = all.len();
            let seen = Cell::new(0);
            let is_news = |element: &Element| {
                let source = set.source(element.key);
                let is_known = source.is_some_and(|source| known.contains(source));
                seen.set(seen.get() + usize::from(is_known));
                !is_known && is_running(element)
            };
            let news = |message: &[u8]| {
                let mut elements = decode::elements(message)?;
                elements.retain(is_news);
                Some(elements)
            };
            let found = absent_is_none(self.ask(&request, news))?;
            let found = found.into_iter().flatten().flatten();
            all.extend(found.map(|element| (element.key, element)));
            // One that shows all that must be there was not disturbed.
            let is_whole = expected > 0 && seen.get() == expected;
            if all.len() == before || is_whole {
                break;
            }
        }
        Ok(all.into_values().collect())
    }

    /// Who stands in the sets of friends that were found.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn friends(&mut self, table: &TableName, found: &Found) -> Result<Friends, Errno> {
        let mut edges = Vec::new();
        for set in FriendSet::ALL.into_iter().filter(|set| found.has(*set)) {
            let request = Request::elements(table.as_c_str(), set.name());
            let listed = absent_is_none(self.ask(&request, decode::edges))?;
            edges.extend(listed.into_iter().flatten().flatten());
        }
        Ok(Friends::from_edges(edges))
    }

    fn table(&mut self, table: &TableName) -> Result<Option<decode::TableRead>, Errno> {
        let found = self.ask(&Request::table(table.as_c_str()), decode::table);
        Ok(absent_is_none(found)?.and_then(|found| found.into_iter().next()))
    }
}

fn is_running(element: &Element) -> bool {
    element.timeout.is_none_or(|timeout| timeout.left() > 0)
}

fn absent_is_none<T>(found: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}
