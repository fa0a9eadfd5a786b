//! The nftables responder: bans as elements of sets with timeouts, in a table of our own.
//!
//! It decides what the table must look like, what to do when the kernel refuses a part of a batch, and how a ban
//! reads in a listing. How any of that is said to the kernel is `nft`'s business.

mod friends;
mod own;
mod prepare;
mod restore;
#[cfg(test)]
mod tests;
mod watch;

use std::os::fd::BorrowedFd;

use ipnet::IpNet;
use nix::errno::Errno;

use super::failures::Failures;
use super::{Deed, Error, Held, HeldClock, Holdings, Meddling, Prepared, Responder};
use crate::clock::Now;
use crate::config;
use crate::log::span;
use crate::nft::{
    BanSet, ChainShape, Change, Comment, Element, Events, FinalizedBatch, Friends, Line, TableName,
    Timeout, said,
};
use crate::policy::{Ban, Reason};
use crate::source::Source;

/// As in the configuration.
const NAME: &str = "nftables";

/// Bans in one transaction at most; more are split.
const BAN_BATCH: usize = 8192;

/// Bans in one transaction of a replay: the kernel grows its hash table between transactions, not within one.
const REPLAY_BATCH: usize = 2048;

/// How often in one call the table is made anew: what is taken away again and again is put back later.
const MENDED_AT_MOST: u32 = 3;

/// Why a prefix has no set.
const TOO_WIDE: &str = "a prefix this wide is not banned: /8 is the widest for IPv4, /16 for IPv6";

/// Bans as elements of sets in our own table. Not `Send`: it stays with the thread that opened it.
pub struct Nftables {
    line: Line,
    table: TableName,
    chain: ChainShape,
    log: Option<config::LogRate>,
    limit: u32,
    /// What the configuration asks for.
    configured: Vec<BanSet>,
    /// What the table has: as configured, and what an earlier configuration left that still holds bans.
    sets: Vec<BanSet>,
    /// Who is let through whatever is banned; `None`: nobody has said yet, and whoever is, stays.
    friends: Option<Friends>,
    handle: Option<u64>,
    /// Whether the table is to be ours alone, as it is configured.
    own: config::Own,
    /// Whether it is; `None`: that is not found out yet.
    is_owner: Option<bool>,
    /// Our port, by which the kernel tells to whom a table belongs.
    port: u32,
    /// By how many changes of others the ruleset was ahead when we made the table; `None`: we found it.
    made_after: Option<u32>,
    /// Whether nobody else can have put a ban in without our knowledge.
    is_all_known: bool,
    /// Whether the table was found gone or changed since somebody last asked.
    lost: bool,
    /// What others do to the table; `None`: nobody listens.
    events: Option<Events>,
    /// What they did while we did not listen, and nobody has asked for yet.
    missed: Option<Meddling>,
}

impl Nftables {
    /// A responder for this configuration. Looks at nothing and changes nothing yet.
    ///
    /// # Errors
    /// When the kernel has no netfilter netlink, or could never take the table's name.
    pub fn open(nftables: &config::Nftables, bans: &config::BanRules) -> Result<Self, Error> {
        let line = open_line()?;
        let table = TableName::new(&nftables.table).ok_or_else(|| {
            trouble(format!(
                "no table can be called \"{}\": set nftables.table in the configuration to something short",
                nftables.table.escape_default()
            ))
        })?;
        let port = line
            .port()
            .map_err(|errno| trouble(format!("cannot tell our netlink port: {}", said(errno))))?;
        let configured = BanSet::for_prefixes(bans.ipv4_prefix, bans.ipv6_prefix);
        Ok(Self {
            line,
            table,
            chain: ChainShape::at(nftables.hook, nftables.priority),
            log: nftables.log,
            limit: bans.limit,
            sets: configured.clone(),
            configured,
            friends: None,
            handle: None,
            own: nftables.own,
            is_owner: None,
            port,
            made_after: None,
            is_all_known: false,
            lost: false,
            events: None,
            missed: None,
        })
    }

    /// The number of the table that was last found or made: another one if somebody has replaced it.
    #[cfg(test)]
    fn handle(&self) -> Option<u64> {
        self.handle
    }

    /// One transaction. On `ENOBUFS` it is open whether it was done; on anything else nothing was.
    fn send(&mut self, entries: &[Entry], how: How) -> Result<(), Errno> {
        self.line.commit(&change(&self.table, entries, how))
    }

    /// Puts bans in: all at once, and where the kernel refuses by halves, down to those that it will not have.
    /// A source that occurs twice is refused with the rest and gets its turn when they have come apart.
    fn put(&mut self, entries: &[Entry], failures: &mut Failures) {
        let Err(errno) = self.send(entries, How::Refresh) else {
            return;
        };
        match (errno, entries) {
            (Errno::EPERM, _) => self.forbidden(entries, failures),
            // It is not this or that one when the table has gone again; and each refusal costs the kernel some 10 ms.
            (Errno::ENOENT, _) if !self.stands() => refused(entries, errno, failures),
            // When one has found no room, others are not taken apart to find some: that would take minutes.
            (Errno::ENFILE, _) if failures.is_full() => refused(entries, errno, failures),
            (Errno::ENOBUFS, [entry]) if self.holds(entry) => {}
            (_, [_]) => refused(entries, errno, failures),
            (_, _) => {
                let (some, others) = entries.split_at(entries.len() / 2);
                self.put(some, failures);
                self.put(others, failures);
            }
        }
    }

    /// Takes bans out, as [`put`](Self::put) puts them in. What is not there is no failure.
    fn lift(&mut self, entries: &[Entry], failures: &mut Failures) {
        let Err(errno) = self.send(entries, How::Delete) else {
            return;
        };
        match (errno, entries) {
            (Errno::ENOENT, [_]) => {}
            (Errno::ENOENT, _) if self.line.handle(&self.table) == Ok(None) => {}
            // Twice the work, but a transaction that is refused costs the kernel some 10 ms, and there would be many.
            (Errno::ENOENT, _) if self.send(entries, How::Sweep).is_ok() => {}
            (Errno::EPERM, _) => self.forbidden(entries, failures),
            (Errno::ENOBUFS, [entry]) if !self.holds(entry) => {}
            (_, [_]) => refused(entries, errno, failures),
            (_, _) => {
                let (some, others) = entries.split_at(entries.len() / 2);
                self.lift(some, failures);
                self.lift(others, failures);
            }
        }
    }

    /// Notes that we may not do it with these, and why.
    fn forbidden(&mut self, entries: &[Entry], failures: &mut Failures) {
        let words = self
            .is_free()
            .map_or_else(|error| error.message, |()| said(Errno::EPERM));
        for entry in entries {
            failures.note(entry.source, words.clone());
        }
    }

    /// Whether the table is there, and as it should be.
    fn stands(&mut self) -> bool {
        let found = self.line.inspect(&self.table);
        matches!(found, Ok(Some(found)) if self.is_right(&found))
    }

    /// Whether the kernel shows the element, after an answer that was lost.
    fn holds(&mut self, entry: &Entry) -> bool {
        let found = self.line.look_up(&self.table, entry.set, entry.element.key);
        matches!(found, Ok(Some(found)) if found.comment == entry.element.comment)
    }

    /// The bans as elements, those that no set can take as failures.
    fn entries(&self, bans: &[&Ban], now: Now, failures: &mut Failures) -> Vec<Entry> {
        let mut entries = Vec::with_capacity(bans.len());
        for ban in bans {
            let entry = Entry::new(ban, now);
            if self.sets.contains(&entry.set) {
                entries.push(entry);
            } else {
                failures.refuse(ban.source, TOO_WIDE.to_owned());
            }
        }
        entries
    }

    /// Makes the sets, and their rules, for prefixes of lengths that the table has none for: from an admin's own ban, or
    /// from history, where the configuration once said otherwise.
    fn make_sets_for(&mut self, bans: &[&Ban]) -> Result<(), Error> {
        let is_wide =
            |source: Source| source.prefix_len() < if source.address().is_ipv4() { 8 } else { 16 };
        let sources = bans
            .iter()
            .map(|ban| ban.source)
            .filter(|source| !is_wide(*source));
        let mut missing: Vec<BanSet> = sources
            .map(BanSet::of)
            .filter(|set| !self.sets.contains(set))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        BanSet::put_in_order(&mut missing);
        self.configured.extend(missing);
        BanSet::put_in_order(&mut self.configured);
        self.prepare_table().map(drop)
    }

    /// Whether it is worth trying once more after the kernel said that something is not there: somebody has
    /// flushed the ruleset, or deleted a set.
    fn mend(&mut self) -> Result<(), Error> {
        let words = match self.prepare()? {
            Prepared::Adopted => return Ok(()),
            Prepared::Created => "was gone, and is made anew: its bans must be put back",
            Prepared::Rebuilt => "was changed by somebody, and is rebuilt with its bans",
        };
        tracing::warn!("table inet {} {words}", self.table);
        self.lost = true;
        Ok(())
    }

    /// Puts bans in a batch at a time, `first` in this way, and where the kernel refuses that, in any that it takes.
    fn put_batches(
        &mut self,
        entries: &[Entry],
        first: How,
        batch: usize,
        failures: &mut Failures,
    ) -> Result<(), Error> {
        let table = self.table.clone();
        let chunks = entries.chunks(batch);
        self.put_written(
            chunks.map(|chunk| (chunk, change(&table, chunk, first))),
            failures,
        )
    }

    /// The same, with what is to be tried first for each batch.
    fn put_written<'a>(
        &mut self,
        batches: impl Iterator<Item = (&'a [Entry], FinalizedBatch)>,
        failures: &mut Failures,
    ) -> Result<(), Error> {
        let mut mended = 0;
        for (entries, first) in batches {
            if failures.is_full() {
                refused(entries, Errno::ENFILE, failures);
                continue;
            }
            let Err(errno) = self.line.commit(&first) else {
                continue;
            };
            if errno == Errno::ENOENT && mended < MENDED_AT_MOST {
                self.mend()?;
                mended += 1;
            }
            self.put(entries, failures);
        }
        Ok(())
    }
}

impl Responder for Nftables {
    fn name(&self) -> &'static str {
        NAME
    }

    fn prepare(&mut self) -> Result<Prepared, Error> {
        self.prepare_table()
    }

    fn is_free(&mut self) -> Result<(), Error> {
        self.look_whether_it_is_free()
            .map_err(|step| self.told(step))
    }

    fn ban(&mut self, bans: &[&Ban], now: Now) -> Result<(), Error> {
        self.make_sets_for(bans)?;
        let mut failures = Failures::new("ban", bans.len());
        let entries = self.entries(bans, now, &mut failures);
        // As a rule nobody is there yet. Who is, is brought up to date as `put` does it.
        self.put_batches(&entries, How::AddNew, BAN_BATCH, &mut failures)?;
        failures.into_result(NAME)
    }

    fn replay(&mut self, bans: &[&Ban], now: Now) -> Result<(), Error> {
        self.make_sets_for(bans)?;
        let mut failures = Failures::new("ban", bans.len());
        let entries = self.entries(bans, now, &mut failures);
        self.put_batches(&entries, How::Add, REPLAY_BATCH, &mut failures)?;
        failures.into_result(NAME)
    }

    fn restore(&mut self, bans: &[&Ban], now: Now) -> (Result<Prepared, Error>, Result<(), Error>) {
        self.put_all_back(bans, now)
    }

    fn unban(&mut self, sources: &[Source]) -> Result<(), Error> {
        let mut failures = Failures::new("unban", sources.len());
        let entries: Vec<Entry> = sources.iter().copied().map(Entry::key).collect();
        for chunk in entries.chunks(BAN_BATCH) {
            self.lift(chunk, &mut failures);
        }
        failures.into_result(NAME)
    }

    fn spare(&mut self, friends: &[IpNet]) -> Result<(), Error> {
        self.spare_friends(friends)
    }

    fn find(&mut self, source: Source) -> Result<Option<Held>, Error> {
        let set = BanSet::of(source);
        let found = self
            .line
            .look_up(&self.table, set, source.address())
            .map_err(|errno| {
                trouble(format!(
                    "cannot look {source} up in set {} of table inet {}: {}",
                    set.name(),
                    self.table,
                    said(errno)
                ))
            })?;
        Ok(found.and_then(|element| held(set, &element)))
    }

    fn unban_all(&mut self) -> Result<(), Error> {
        self.empty_sets()
    }

    fn take_lost(&mut self) -> bool {
        std::mem::take(&mut self.lost)
    }

    fn begin_watching(&mut self) -> Result<(), Error> {
        Self::begin_watching(self)
    }

    fn watched(&self) -> Option<BorrowedFd<'_>> {
        Self::watched(self)
    }

    fn noticed(&mut self) -> Vec<Meddling> {
        self.hear()
    }

    fn holdings(&self) -> Option<Holdings> {
        // To list a million takes minutes, in which the kernel is slow to carry out anything else.
        if self.is_all_known {
            return None;
        }
        let (table, sets) = (self.table.clone(), self.sets.clone());
        Some(Box::new(move |known| {
            let cannot = |errno| {
                trouble(format!(
                    "cannot list the bans in table inet {table}: {}",
                    said(errno)
                ))
            };
            let mut line = open_line()?;
            let mut all = Vec::new();
            for set in sets {
                let elements = line.list_but(&table, set, known).map_err(cannot)?;
                all.extend(elements.iter().filter_map(|element| held(set, element)));
            }
            Ok(all)
        }))
    }

    fn withdraw(&mut self) -> Result<(), Error> {
        self.withdraw_table()
    }

    fn has_clock(&self) -> bool {
        true
    }

    fn deed(&self, ban: &Ban, now: Now) -> Deed {
        let (set, element) = place(ban.source);
        let timeout = ban.left(now).map_or_else(String::new, |left| {
            format!(" timeout {}", span(left).replace(' ', ""))
        });
        Deed::Route(format!(
            "nft add element inet {} {set} {{ {element}{timeout} }}",
            self.table
        ))
    }
}

/// Set and element by which a ban of `source` stands in the kernel, for words to an admin.
#[must_use]
pub fn place(source: Source) -> (String, String) {
    (BanSet::of(source).name(), source.address().to_string())
}

/// A transaction that does this with all of them.
fn change(table: &TableName, entries: &[Entry], how: How) -> FinalizedBatch {
    let mut change = Change::new(table);
    let mut sets: Vec<BanSet> = entries.iter().map(|entry| entry.set).collect();
    BanSet::put_in_order(&mut sets);
    for set in sets {
        let elements: Vec<&Element> = entries
            .iter()
            .filter(|entry| entry.set == set)
            .map(|entry| &entry.element)
            .collect();
        match how {
            How::Add => change.add(set, &elements),
            How::AddNew => change.add_new(set, &elements),
            How::Refresh => change.refresh(set, &elements),
            How::Delete => change.delete(set, &elements),
            How::Sweep => change.sweep(set, &elements),
        }
    }
    change.finish()
}

/// Notes what the kernel said of these.
fn refused(entries: &[Entry], errno: Errno, failures: &mut Failures) {
    for entry in entries {
        let words = said(errno);
        if errno == Errno::ENFILE {
            failures.overflow(entry.source, words);
        } else {
            failures.note(entry.source, words);
        }
    }
}

/// What is done with elements.
#[derive(Clone, Copy)]
enum How {
    /// Added; what is there stays more or less as it is.
    Add,
    /// Added; none may be there.
    AddNew,
    /// Added, or brought up to date.
    Refresh,
    /// Deleted; all must be there.
    Delete,
    /// Deleted, there or not.
    Sweep,
}

/// A ban on its way into the kernel, or out.
struct Entry {
    source: Source,
    set: BanSet,
    element: Element,
}

impl Entry {
    fn new(ban: &Ban, now: Now) -> Self {
        let timeout = ban
            .length()
            .zip(ban.left(now))
            .map(|(length, left)| Timeout::new(length, left));
        Self {
            element: Element {
                key: ban.source.address(),
                timeout,
                comment: comment(ban),
            },
            ..Self::key(ban.source)
        }
    }

    fn key(source: Source) -> Self {
        Self {
            source,
            set: BanSet::of(source),
            element: Element {
                key: source.address(),
                timeout: None,
                comment: None,
            },
        }
    }
}

/// How a ban reads in a listing: its reason; before it the prefix, which the key does not show.
fn comment(ban: &Ban) -> Option<Comment> {
    if ban.source.is_address() {
        Comment::new(&ban.reason.to_string())
    } else {
        Comment::new(format!("{} {}", ban.source, ban.reason).trim_end())
    }
}

/// An element as a ban; `None` for one that bans nobody.
fn held(set: BanSet, element: &Element) -> Option<Held> {
    let source = set.source(element.key)?;
    let words = element.comment.as_ref().map(Comment::as_str);
    let reason = words.map(|words| {
        let bare = words.strip_prefix(&source.to_string()).unwrap_or(words);
        bare.trim_start()
    });
    Some(Held {
        source,
        reason: reason.filter(|words| !words.is_empty()).map(Reason::parse),
        clock: element.timeout.map(|timeout| HeldClock {
            length: timeout.length(),
            left: timeout.left(),
        }),
    })
}

fn open_line() -> Result<Line, Error> {
    Line::open().map_err(|errno| {
        let words = errno.desc().to_lowercase();
        trouble(format!("cannot open a netfilter netlink socket: {words}"))
    })
}

fn trouble(message: String) -> Error {
    Error::new(NAME, message)
}
