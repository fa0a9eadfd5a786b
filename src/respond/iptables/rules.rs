//! The chain: what its rules say, which of them are ours, and the script that makes them what they should be.
//!
//! It is told what stands, as text, and gives back text; programs are run by others.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fmt::Write as _;

use ipnet::IpNet;

use super::Family;
use super::words::split;
use crate::respond::note::Note;
use crate::source::Source;

/// Where packets meet our chain, before anything else there.
const HOOKS: [&str; 2] = ["INPUT", "FORWARD"];

/// A rule of our chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// ICMPv6 of this type, of neighbour discovery, goes on.
    Discovery(u8),
    /// Who is ignored goes on.
    Friend(IpNet),
    /// Who stands in this set is dropped.
    Set(String),
    /// This source is dropped.
    Ban(Source, Note),
}

/// Router and neighbour solicitations and advertisements: without them the other hosts of the link find no way.
const DISCOVERY: [u8; 4] = [133, 134, 135, 136];

/// How the comment of a rule begins that bans somebody.
const BAN: &str = "portsentry: ";

/// Comments of rules that ban nobody.
const DISCOVERY_WORDS: &str = "portsentry: neighbour discovery";
const FRIEND_WORDS: &str = "portsentry: ignored";

/// What stands of ours in one family's table filter.
#[derive(Debug)]
pub(super) struct Standing<'a> {
    chain: &'a str,
    /// Whether the chain is there.
    pub(super) exists: bool,
    /// For each of [`HOOKS`], how often it visits our chain, and whether that is its first rule.
    visits: [(usize, bool); 2],
    /// The chain's rules: what iptables says of each, and what it is if it is ours.
    rules: Vec<(&'a str, Option<Rule>)>,
}

/// What is to stand.
pub(super) struct Wanted<'a> {
    pub(super) family: Family,
    /// Who is let through; `None`: who is.
    pub(super) friends: Option<&'a [IpNet]>,
    /// The sets whose elements are dropped.
    pub(super) sets: &'a [String],
    /// Which bans go.
    pub(super) take: &'a dyn Fn(Source) -> bool,
    /// Bans that come, or get another note.
    pub(super) put: &'a HashMap<Source, Note>,
}

/// How the world comes to be as wanted.
pub(super) struct Plan {
    /// For iptables-restore; `None`: it is.
    pub(super) script: Option<String>,
    /// Whether more than bans is in it.
    pub(super) mends: bool,
}

impl<'a> Standing<'a> {
    /// Reads what `iptables -S` lists. What is not exactly ours is somebody's.
    pub(super) fn read(listing: &'a str, chain: &'a str) -> Self {
        let created = format!("-N {chain}");
        let appended = format!("-A {chain} ");
        let ours = listing
            .lines()
            .filter_map(|line| line.strip_prefix(&appended));
        Self {
            chain,
            exists: listing.lines().any(|line| line == created),
            visits: HOOKS.map(|hook| {
                let appended = format!("-A {hook} ");
                let visit = format!("-j {chain}");
                let rules = listing
                    .lines()
                    .filter_map(|line| line.strip_prefix(&appended));
                let mut visits = rules.map(|rule| rule == visit).peekable();
                let is_first = visits.peek() == Some(&true);
                (visits.filter(|visits| *visits).count(), is_first)
            }),
            rules: ours.map(|spec| (spec, Rule::read(spec))).collect(),
        }
    }

    /// The bans that are rules.
    pub(super) fn bans(&self) -> impl Iterator<Item = (Source, &Note)> {
        self.rules.iter().filter_map(|(_, rule)| match rule {
            Some(Rule::Ban(source, note)) => Some((*source, note)),
            _ => None,
        })
    }

    /// What makes it as wanted.
    pub(super) fn plan(&self, wanted: &Wanted<'_>) -> Plan {
        let mut script = String::new();
        let frame = self.frame(wanted);
        let is_framed = self.is_framed_by(&frame);
        let is_visited = self.visits == [(1, true); 2];
        let (gone, added) = self.changes(wanted);
        let is_ours = self.rules.iter().all(|(_, rule)| rule.is_some());
        // One by one would take each time as long as the chain is.
        let is_flushed = is_ours && !gone.is_empty() && gone.len() == self.bans().count();
        if !self.exists || is_flushed {
            self.line(&mut script, format_args!(":{} - [0:0]", self.chain));
        }
        for (hook, (visits, is_first)) in HOOKS.iter().zip(self.visits) {
            if (visits, is_first) != (1, true) {
                for _ in 0..visits {
                    self.line(&mut script, format_args!("-D {hook} -j {}", self.chain));
                }
                self.line(&mut script, format_args!("-I {hook} 1 -j {}", self.chain));
            }
        }
        if !is_flushed {
            let old = self
                .rules
                .iter()
                .filter(|(_, rule)| matches!(rule, Some(rule) if rule.is_frame()));
            let old = old.filter(|_| !is_framed).map(|(spec, _)| *spec);
            for spec in old.chain(gone) {
                self.line(&mut script, format_args!("-D {} {spec}", self.chain));
            }
        }
        if !is_framed || is_flushed {
            for (place, rule) in (1..).zip(&frame) {
                self.line(
                    &mut script,
                    format_args!("-I {} {place} {rule}", self.chain),
                );
            }
        }
        for rule in added {
            self.line(&mut script, format_args!("-A {} {rule}", self.chain));
        }
        Plan {
            script: (!script.is_empty()).then(|| format!("*filter\n{script}COMMIT\n")),
            mends: !self.exists || !is_visited || !is_framed,
        }
    }

    /// What leaves nothing of ours, and whether somebody's rules stay in the chain.
    pub(super) fn withdrawal(&self) -> (Option<String>, bool) {
        let mut script = String::new();
        for (hook, (visits, _)) in HOOKS.iter().zip(self.visits) {
            for _ in 0..visits {
                self.line(&mut script, format_args!("-D {hook} -j {}", self.chain));
            }
        }
        let is_shared = self.rules.iter().any(|(_, rule)| rule.is_none());
        if is_shared {
            for (spec, _) in self.rules.iter().filter(|(_, rule)| rule.is_some()) {
                self.line(&mut script, format_args!("-D {} {spec}", self.chain));
            }
        } else if self.exists {
            self.line(&mut script, format_args!("-F {}", self.chain));
            self.line(&mut script, format_args!("-X {}", self.chain));
        }
        let script = (!script.is_empty()).then(|| format!("*filter\n{script}COMMIT\n"));
        (script, is_shared)
    }

    /// The rules that come before all bans.
    fn frame(&self, wanted: &Wanted<'_>) -> Vec<Rule> {
        let discovery = match wanted.family {
            Family::V4 => &[][..],
            Family::V6 => &DISCOVERY,
        };
        let found = self.rules.iter().filter_map(|(_, rule)| match rule {
            Some(Rule::Friend(net)) => Some(*net),
            _ => None,
        });
        let friends = match wanted.friends {
            None => found.collect(),
            Some(friends) => of_family(friends, wanted.family),
        };
        let discovery = discovery.iter().copied().map(Rule::Discovery);
        let friends = friends.into_iter().map(Rule::Friend);
        let sets = wanted.sets.iter().cloned().map(Rule::Set);
        discovery.chain(friends).chain(sets).collect()
    }

    /// Whether these rules, and no others of ours but bans, stand at the chain's head.
    fn is_framed_by(&self, frame: &[Rule]) -> bool {
        let rules = || self.rules.iter().map(|(_, rule)| rule.as_ref());
        let is_frame = |rule: &Option<&Rule>| rule.is_some_and(Rule::is_frame);
        rules().take(frame.len()).eq(frame.iter().map(Some))
            && rules().filter(is_frame).count() == frame.len()
    }

    /// Bans that go, as they stand there, and rules that come.
    fn changes(&self, wanted: &Wanted<'_>) -> (Vec<&'a str>, Vec<Rule>) {
        let mut standing = HashSet::new();
        let mut gone = Vec::new();
        for (spec, rule) in &self.rules {
            let Some(Rule::Ban(source, note)) = rule else {
                continue;
            };
            let is_old = wanted.put.get(source).is_some_and(|new| new != note);
            // One that stands there twice goes once.
            if (wanted.take)(*source) || is_old || !standing.insert(*source) {
                gone.push(*spec);
            }
        }
        let new = wanted
            .put
            .iter()
            .filter(|(source, _)| !standing.contains(source));
        let rules = new.map(|(source, note)| Rule::Ban(*source, note.clone()));
        (gone, rules.collect())
    }

    fn line(&self, script: &mut String, line: fmt::Arguments<'_>) {
        let _ = writeln!(script, "{line}");
    }
}

impl Rule {
    /// Reads a rule of ours as iptables shows it; `None` for any other.
    fn read(spec: &str) -> Option<Self> {
        let words = split(spec)?;
        let mut words = words.iter().map(String::as_str);
        let (mut source, mut kind, mut set, mut comment, mut target) =
            (None, None, None, None, None);
        while let Some(word) = words.next() {
            match word {
                "-s" => source = Some(words.next()?.parse::<IpNet>().ok()?),
                "-p" if is_icmpv6(words.next()?) => {}
                "-m" if ["comment", "set", "icmp6"].contains(&words.next()?) => {}
                "--icmpv6-type" => kind = Some(words.next()?.parse::<u8>().ok()?),
                "--match-set" => {
                    set = Some(words.next()?.to_owned());
                    (words.next()? == "src").then_some(())?;
                }
                "--comment" => comment = Some(words.next()?),
                "-j" => target = Some(words.next()?),
                _ => return None,
            }
        }
        match (source, kind, set, comment, target?) {
            (None, Some(kind), None, Some(DISCOVERY_WORDS), "RETURN") => {
                Some(Self::Discovery(kind))
            }
            (net, None, None, Some(FRIEND_WORDS), "RETURN") => Some(Self::Friend(net?)),
            (None, None, Some(set), Some(SET_WORDS), "DROP") => Some(Self::Set(set)),
            (Some(net), None, None, Some(comment), "DROP") => Some(Self::Ban(
                net.into(),
                Note::parse(comment.strip_prefix(BAN)?)?,
            )),
            _ => None,
        }
    }

    fn is_frame(&self) -> bool {
        !matches!(self, Self::Ban(..))
    }
}

/// As iptables takes it. Notes have neither quotes nor backslashes.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Discovery(kind) => write!(
                f,
                "-p icmpv6 -m icmp6 --icmpv6-type {kind} -m comment --comment \"{DISCOVERY_WORDS}\" -j RETURN"
            ),
            Self::Friend(net) => {
                write!(
                    f,
                    "-s {net} -m comment --comment \"{FRIEND_WORDS}\" -j RETURN"
                )
            }
            Self::Set(name) => write!(
                f,
                "-m set --match-set {name} src -m comment --comment \"{SET_WORDS}\" -j DROP"
            ),
            Self::Ban(source, note) => {
                let net = source.net();
                write!(f, "-s {net} -m comment --comment \"{BAN}{note}\" -j DROP")
            }
        }
    }
}

const SET_WORDS: &str = "portsentry: banned";

fn is_icmpv6(protocol: &str) -> bool {
    ["ipv6-icmp", "icmpv6", "58"].contains(&protocol)
}

/// Those of a family, each once, and those alone that no other one covers. `0.0.0.0/0` is as good as its two halves, and
/// iptables shows those.
fn of_family(nets: &[IpNet], family: Family) -> Vec<IpNet> {
    let nets = nets.iter().map(|net| Source::from(*net));
    let ours = nets.filter(|source| Family::of(*source) == family);
    let all = IpNet::aggregate(&ours.map(Source::net).collect()).into_iter();
    let halves = |net: IpNet| match net.prefix_len() {
        0 => net.subnets(1).expect("1 is longer than 0").collect(),
        _ => vec![net],
    };
    all.flat_map(halves).collect()
}
