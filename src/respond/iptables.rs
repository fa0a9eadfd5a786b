//! The iptables responder: a chain of our own that INPUT and FORWARD visit first, and in it a rule for each ban, or, where there
//! is `ipset`, one for all that stand in a set.
//!
//! It decides what must stand, and what to do where it does not. What rules and sets are like is the business of `rules` and
//! `sets`, and running programs that of `tools`. Nobody else's rules are ever changed. With sets, bans end by themselves;
//! rules do not, and somebody has to lift them.

mod family;
mod listing;
mod rules;
mod sets;
#[cfg(test)]
mod tests;
mod tools;
mod words;
mod world;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use ipnet::IpNet;

use self::family::Family;
use self::sets::{LONGEST, Trouble};
use self::tools::Tools;
use self::world::{Change, Found, World};
use super::failures::Failures;
use super::note::Note;
use super::{Deed, Error, Held, Holdings, Prepared, Responder};
use crate::clock::{Mono, Now};
use crate::config;
use crate::policy::Ban;
use crate::source::Source;

/// As in the configuration.
const NAME: &str = "iptables";

/// Bans in one run of ipset or iptables-restore, which does all of them or none; more are split.
const BATCH: usize = 8192;

/// How long before its element does, a ban that is longer than a timeout can be is put in again.
const RENEWAL: Duration = Duration::from_secs(14 * 24 * 3600);

/// Bans as rules of a chain, or as elements of sets that rules of it ask.
pub struct Iptables {
    world: World,
    /// Who is let through; `None`: nobody has said yet, and it stays as it is.
    friends: Option<Vec<IpNet>>,
    /// Why no IPv6 source can be banned; `None`: they can.
    without_ipv6: Option<String>,
    /// Whom we have banned, and until when.
    held: HashMap<Source, Option<Mono>>,
    /// Bans that are longer than their elements may last, and when to put them in again.
    long: HashMap<Source, (Ban, Mono)>,
    /// Whether some of these were found gone since somebody last asked.
    lost: bool,
}

/// Why a daemon of `daemon.user` cannot go on with the programs of this host, whatever root can; `None`: nothing is known to be
/// against it. Runs none of them.
#[must_use]
pub fn foreseen(config: &config::Config) -> Option<Error> {
    let is_used = config
        .ban
        .responders
        .contains(&config::ResponderKind::Iptables);
    let user = config.daemon.user.as_ref().filter(|user| *user != "root");
    user.filter(|_| is_used)?;
    Tools::of_the_system().why_root().map(trouble)
}

impl Iptables {
    /// A responder for this configuration. Looks at nothing and changes nothing yet.
    #[must_use]
    pub fn new(settings: &config::Iptables, bans: &config::BanRules) -> Self {
        Self::with(Tools::of_the_system(), settings, bans)
    }

    fn with(tools: Tools, settings: &config::Iptables, bans: &config::BanRules) -> Self {
        Self {
            world: World::new(&settings.chain, bans.limit, tools),
            friends: None,
            without_ipv6: None,
            held: HashMap::new(),
            long: HashMap::new(),
            lost: false,
        }
    }

    fn prepare_one(&mut self, family: Family, now: Now) -> Result<Prepared, String> {
        let mut is_anew = false;
        if let Some(sets) = self.world.sets() {
            for (set, is_address) in sets.prepare(family)?.into_iter().zip([true, false]) {
                is_anew |= set.is_new;
                let soon = now.mono.later(Duration::from_secs(2));
                let lasting = self.held.iter().filter(|(source, end)| {
                    Family::of(**source) == family
                        && source.is_address() == is_address
                        && end.is_none_or(|end| end > soon)
                });
                self.lost |= lasting.count() > set.entries;
            }
        }
        let found = self.settle(family, HashMap::new())?;
        Ok(match found.prepared {
            Prepared::Adopted if is_anew => Prepared::Rebuilt,
            prepared => prepared,
        })
    }

    /// Makes one family's chain what it should be, with these bans as rules.
    fn settle(&mut self, family: Family, put: HashMap<Source, Note>) -> Result<Found, String> {
        let take = &|_| false;
        let friends = self.friends.as_deref();
        let found = self.world.settle(family, friends, &Change { take, put })?;
        if self.world.sets().is_none() {
            let known = self.held.len();
            let stands = |source: &Source| found.banned.contains(source);
            (self.held).retain(|source, _| Family::of(*source) != family || stands(source));
            self.lost |= self.held.len() < known;
        }
        Ok(found)
    }

    /// Bans by rules.
    fn put_rules(&mut self, family: Family, bans: &[&Ban], failures: &mut Failures) {
        let put = bans.iter().map(|ban| (ban.source, Note::of(ban))).collect();
        match self.settle(family, put) {
            Ok(_) => self.hold(bans),
            Err(why) => note_all(bans, &why, failures),
        }
    }

    /// Bans by elements of sets.
    fn put_elements(&mut self, bans: &[&Ban], now: Now, failures: &mut Failures) {
        let Some(sets) = self.world.sets().cloned() else {
            return;
        };
        let mut done = sets.put(bans, now);
        if let Err(Trouble::Gone(_)) = done {
            tracing::warn!(
                "iptables: a set of ours was gone, and is made anew: its bans must be put back"
            );
            self.lost = true;
            done = match self.prepare() {
                Ok(_) => sets.put(bans, now),
                Err(error) => Err(Trouble::Other(error.message)),
            };
        }
        match done {
            Ok(()) => self.hold_long(bans, now),
            Err(Trouble::Full { why, without }) => {
                let without: HashSet<Source> = without.into_iter().collect();
                let stands = |ban: &&Ban| !without.contains(&ban.source);
                let standing: Vec<&Ban> = bans.iter().copied().filter(stands).collect();
                self.hold_long(&standing, now);
                for source in without {
                    failures.overflow(source, why.clone());
                }
            }
            Err(trouble) => note_all(bans, &trouble.into_words(), failures),
        }
    }

    fn hold(&mut self, bans: &[&Ban]) {
        let held = bans
            .iter()
            .map(|ban| (ban.source, ban.end.map(|end| end.mono)));
        self.held.extend(held);
    }

    /// As [`hold`](Self::hold), with an eye on those that an element cannot keep to their end.
    fn hold_long(&mut self, bans: &[&Ban], now: Now) {
        self.hold(bans);
        let longest = Duration::from_secs(LONGEST);
        for ban in bans {
            if ban.left(now).is_some_and(|left| left > longest) {
                let due = now.mono.later(longest - RENEWAL);
                self.long.insert(ban.source, ((*ban).clone(), due));
            } else {
                self.long.remove(&ban.source);
            }
        }
    }

    /// Puts those in again whose elements would end before they do.
    fn renew(&mut self, now: Now) -> Result<(), Error> {
        let due = self.long.values().filter(|(_, due)| *due <= now.mono);
        let due: Vec<Ban> = due.map(|(ban, _)| ban.clone()).collect();
        if due.is_empty() {
            return Ok(());
        }
        let mut failures = Failures::new("renew the bans of", due.len());
        self.put_elements(&due.iter().collect::<Vec<_>>(), now, &mut failures);
        failures.into_result(NAME)
    }

    /// Families that rules can be made for.
    fn families(&self) -> impl Iterator<Item = Family> + use<> {
        let without_ipv6 = self.without_ipv6.is_some();
        let all = Family::ALL.into_iter();
        all.filter(move |family| *family == Family::V4 || !without_ipv6)
    }

    /// Does this for each family, whatever becomes of the other.
    fn for_each(&self, job: impl Fn(Family) -> Result<(), String>) -> Result<(), Error> {
        let failures: Vec<String> = self.families().filter_map(|it| job(it).err()).collect();
        if failures.is_empty() {
            Ok(())
        } else {
            Err(trouble(failures.join("; ")))
        }
    }
}

impl Responder for Iptables {
    fn name(&self) -> &'static str {
        NAME
    }

    /// Where IPv6 cannot be had, IPv4 is, and the log says why.
    fn prepare(&mut self) -> Result<Prepared, Error> {
        let now = Now::read();
        let v4 = self.prepare_one(Family::V4, now).map_err(trouble)?;
        let prepared = match self.prepare_one(Family::V6, now) {
            Ok(v6) => {
                self.lost |= self.without_ipv6.take().is_some();
                if v6 == v4 { v4 } else { Prepared::Rebuilt }
            }
            Err(why) => {
                if self.without_ipv6.as_ref() != Some(&why) {
                    tracing::warn!("iptables: no IPv6 source can be banned: {why}");
                }
                self.without_ipv6 = Some(why);
                v4
            }
        };
        self.held
            .retain(|_, end| end.is_none_or(|end| end > now.mono));
        self.long.retain(|source, _| self.held.contains_key(source));
        self.renew(now)?;
        Ok(prepared)
    }

    fn ban(&mut self, bans: &[&Ban], now: Now) -> Result<(), Error> {
        let mut failures = Failures::new("ban", bans.len());
        let mut able = Vec::new();
        for ban in bans {
            match &self.without_ipv6 {
                _ if ban.source.prefix_len() == 0 => {
                    failures.refuse(ban.source, EVERYBODY.to_owned())
                }
                Some(why) if Family::of(ban.source) == Family::V6 => {
                    failures.refuse(ban.source, why.clone());
                }
                _ => able.push(*ban),
            }
        }
        if self.world.sets().is_some() {
            for some in able.chunks(BATCH) {
                self.put_elements(some, now, &mut failures);
            }
        } else {
            for family in Family::ALL {
                let mine = able.iter().filter(|ban| Family::of(ban.source) == family);
                let mine: Vec<&Ban> = mine.copied().collect();
                for some in mine.chunks(BATCH) {
                    self.put_rules(family, some, &mut failures);
                }
            }
        }
        failures.into_result(NAME)
    }

    fn replay(&mut self, bans: &[&Ban], now: Now) -> Result<(), Error> {
        self.ban(bans, now)
    }

    fn unban(&mut self, sources: &[Source]) -> Result<(), Error> {
        for source in sources {
            self.held.remove(source);
            self.long.remove(source);
        }
        if let Some(sets) = self.world.sets() {
            return (sources.chunks(BATCH))
                .try_for_each(|some| sets.take(some))
                .map_err(trouble);
        }
        let gone: HashSet<Source> = sources.iter().copied().collect();
        let friends = self.friends.as_deref();
        self.for_each(|family| {
            if gone.iter().all(|source| Family::of(*source) != family) {
                return Ok(());
            }
            self.world
                .take(family, friends, &|source| gone.contains(&source))
        })
    }

    fn spare(&mut self, friends: &[IpNet]) -> Result<(), Error> {
        self.friends = Some(friends.to_vec());
        for family in self.families() {
            self.settle(family, HashMap::new()).map_err(trouble)?;
        }
        Ok(())
    }

    fn find(&mut self, source: Source) -> Result<Option<Held>, Error> {
        let (family, now) = (Family::of(source), Now::read());
        if self.families().all(|it| it != family) {
            return Ok(None);
        }
        let found = match self.world.sets() {
            Some(sets) => sets.find(source, now.wall),
            None => (self.world.held(family, now))
                .map(|held| held.into_iter().find(|held| held.source == source)),
        };
        found.map_err(trouble)
    }

    fn unban_all(&mut self) -> Result<(), Error> {
        self.held.clear();
        self.long.clear();
        let friends = self.friends.as_deref();
        self.for_each(|family| match self.world.sets() {
            Some(sets) => sets.clear(family),
            None => self.world.take(family, friends, &|_| true),
        })
    }

    fn take_lost(&mut self) -> bool {
        std::mem::take(&mut self.lost)
    }

    fn holdings(&self) -> Option<Holdings> {
        let (world, families) = (self.world.clone(), self.families());
        Some(Box::new(move |_| {
            let now = Now::read();
            let held: Result<Vec<Vec<Held>>, String> =
                families.map(|it| world.held(it, now)).collect();
            Ok(held.map_err(trouble)?.concat())
        }))
    }

    fn withdraw(&mut self) -> Result<(), Error> {
        self.held.clear();
        self.long.clear();
        self.for_each(|family| self.world.withdraw(family))
    }

    fn has_clock(&self) -> bool {
        self.world.sets().is_some()
    }

    fn deed(&self, ban: &Ban, now: Now) -> Deed {
        Deed::Route(match self.world.sets() {
            Some(sets) => sets.deed(ban, now),
            None => {
                let program = Family::of(ban.source).iptables();
                format!(
                    "{program} -A {} -s {} -j DROP",
                    self.world.chain, ban.source
                )
            }
        })
    }
}

/// The commands that lift the bans of these sources without us, or `all` of them, for an admin to type.
#[must_use]
pub fn by_hand(chain: &str, sources: &BTreeSet<Source>, all: bool) -> Vec<String> {
    if all {
        return Family::ALL
            .map(|family| format!("{} -w -F {chain}", family.iptables()))
            .to_vec();
    }
    let has_sets = Tools::of_the_system().ipset().is_some();
    let line = |source: &Source| line_by_hand(chain, *source, has_sets);
    sources.iter().map(line).collect()
}

fn line_by_hand(chain: &str, source: Source, has_sets: bool) -> String {
    if has_sets {
        return format!("ipset del {} {source}", sets::place(chain, source));
    }
    let program = Family::of(source).iptables();
    let net = source.net();
    // A rule goes by all that it says.
    format!(
        "{program} -w -S {chain} | grep -F -e '-s {net} ' | sed 's/^-A //' | xargs -r -L 1 {program} -w -D"
    )
}

/// Why `0.0.0.0/0` is no ban.
const EVERYBODY: &str = "that would be everybody";

fn note_all(bans: &[&Ban], why: &str, failures: &mut Failures) {
    for ban in bans {
        failures.note(ban.source, why.to_owned());
    }
}

fn trouble(message: String) -> Error {
    Error::new(NAME, message)
}
