//! [`Findings`]: what an old installation of portsentry, 1.2 or 2.x, has left in the kernel and on disk, and how it is taken
//! away.
//!
//! What counts is what still stands: routes, rules of iptables, lines of hosts.deny, 2.x's blocked file. The
//! old history is a witness only, asked whether it knows these addresses; it may be larger than memory. Who is banned for
//! it is for the caller.

pub mod blocked;
pub mod old;
pub mod record;
pub mod rules;
pub mod wrappers;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::BufReader;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::host::{HostRoute, Routes, Way};
use crate::rewrite::{Rules, SharedFile};
use blocked::BlockedFile;
pub use old::Old;
use rules::Rule;

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Whom the old installation has shut out, as far as anything of that still stands.
    pub addresses: BTreeMap<IpAddr, Found>,
    /// What looks alike but is left alone.
    pub left: Vec<Left>,
    /// What could not be looked at, a sentence each.
    pub troubles: Vec<String>,
    old: Old,
    hosts_deny: PathBuf,
    blocked_files: Vec<BlockedFile>,
}

/// What stands of one address.
#[derive(Debug, Default)]
pub struct Found {
    /// Where, in the order in which it goes.
    pub traces: Vec<Trace>,
    /// When it was last recorded, in seconds since 1970, if that is known.
    pub last: Option<i64>,
    /// An old version has written down that it has shut it out.
    is_on_record: bool,
}

/// An entry of the old installation.
#[derive(Debug)]
pub enum Trace {
    /// A route.
    Route(HostRoute),
    /// A rule of iptables, maybe several times.
    Rule(Rule),
    /// Lines of hosts.deny, by their numbers.
    Lines(PathBuf, Vec<usize>),
    /// A place in 2.x's blocked file.
    Blocked(PathBuf),
}

/// What is left alone.
#[derive(Debug)]
pub struct Left {
    /// What it is.
    pub what: String,
    /// Why it stays.
    pub why: &'static str,
}

/// What became of it.
#[derive(Debug, Default)]
pub struct TakenAway {
    /// What is gone, in words, for each address.
    pub done: BTreeMap<IpAddr, Vec<String>>,
    /// What is not, and why.
    pub failures: Vec<String>,
}

/// Addresses that are looked into.
const MAX_ADDRESSES: usize = 1_000_000;

/// hosts.deny grows with each scan where 1.2 writes to it.
const RULES: Rules = Rules {
    key: "--hosts-deny",
    limit: 64 << 20,
    tries: 300,
};

impl Findings {
    /// Looks for what `old` has left, also in the file `hosts_deny`. Routes and rules of addresses that `may_be_ours` names are
    /// left alone. Changes nothing.
    #[must_use]
    pub fn look(old: Old, hosts_deny: &Path, may_be_ours: impl Fn(IpAddr) -> bool) -> Self {
        let mut findings = Self {
            old,
            hosts_deny: hosts_deny.to_owned(),
            ..Self::default()
        };
        findings.look_at_kernel(may_be_ours);
        findings.look_at_hosts_deny();
        findings.look_at_blocked_files();
        findings.ask_the_records();
        findings
    }

    fn look_at_kernel(&mut self, may_be_ours: impl Fn(IpAddr) -> bool) {
        let routes = Routes::new().list().unwrap_or_else(|cause| {
            self.troubles.push(cause.to_string());
            Vec::new()
        });
        let is_of_old = |route: &HostRoute| match route.way {
            Way::Unreachable | Way::Blackhole | Way::Prohibit => true,
            Way::Via(gateway) => self.old.routes_to(gateway),
        };
        let routes: Vec<HostRoute> = routes.into_iter().filter(is_of_old).collect();

        let (mut rules, troubles) = rules::list();
        self.troubles.extend(troubles);
        let shut_out = rules.iter().filter(|rule| !rule.logs);
        let shut_out: BTreeSet<IpAddr> = shut_out.map(|rule| rule.address).collect();
        rules.retain(|rule| shut_out.contains(&rule.address));
        // What logs goes first: found alone, it would not be known again.
        rules.sort_by_key(|rule| !rule.logs);

        let routes = routes.into_iter().map(|it| (it.address, Trace::Route(it)));
        let rules = rules.into_iter().map(|it| (it.address, Trace::Rule(it)));
        for (address, trace) in routes.chain(rules) {
            if may_be_ours(address) {
                let why = "the address is banned, and command.ban may have made this";
                self.leave(address, &trace, why);
            } else {
                self.add(address, trace);
            }
        }
    }

    fn look_at_hosts_deny(&mut self) {
        let text = SharedFile::behind_links(&self.hosts_deny, RULES).and_then(|file| file.read());
        let text = text.unwrap_or_else(|why| {
            self.troubles.push(why);
            Vec::new()
        });
        let mut lines: BTreeMap<IpAddr, Vec<usize>> = BTreeMap::new();
        for (number, address) in wrappers::find(&text, &self.old.lines) {
            lines.entry(address).or_default().push(number);
        }
        for (address, numbers) in lines {
            self.add(address, Trace::Lines(self.hosts_deny.clone(), numbers));
        }
    }

    fn look_at_blocked_files(&mut self) {
        for path in self.old.blocked.clone() {
            match BlockedFile::read(&path) {
                Ok(None) => {}
                Ok(Some(file)) => {
                    let addresses: BTreeSet<IpAddr> = file.addresses.iter().copied().collect();
                    for address in addresses {
                        if let Some(found) = self.add(address, Trace::Blocked(path.clone())) {
                            found.is_on_record = true;
                        }
                    }
                    self.blocked_files.push(file);
                }
                Err(why) => self.troubles.push(not_read(&path, &why)),
            }
        }
    }

    /// Leaves alone whom no record names.
    fn ask_the_records(&mut self) {
        if self.addresses.is_empty() {
            return;
        }
        let mut why = "no history of an old portsentry was found; --from names its configuration";
        for path in &self.old.records {
            let read = blocked::open(path).and_then(|file| {
                let Some(file) = file else { return Ok(()) };
                why = "not in the history of an old portsentry";
                let each = |record: record::Record| {
                    if let Some(found) = self.addresses.get_mut(&record.address) {
                        found.is_on_record = true;
                        found.last = found.last.max(record.at);
                    }
                };
                record::read(BufReader::new(file), each).map_err(|cause| cause.to_string())
            });
            if let Err(why) = read {
                self.troubles.push(not_read(path, &why));
            }
        }
        for (address, found) in std::mem::take(&mut self.addresses) {
            if found.is_on_record {
                self.addresses.insert(address, found);
                continue;
            }
            for trace in &found.traces {
                self.leave(address, trace, why);
            }
        }
    }

    fn leave(&mut self, address: IpAddr, trace: &Trace, why: &'static str) {
        let what = format!("{address}, {trace}");
        self.left.push(Left { what, why });
    }

    /// `None`: there are too many.
    fn add(&mut self, address: IpAddr, trace: Trace) -> Option<&mut Found> {
        if self.addresses.len() >= MAX_ADDRESSES && !self.addresses.contains_key(&address) {
            let words = format!(
                "there are more than {MAX_ADDRESSES} addresses: the rest is left alone until these are done"
            );
            if self.troubles.last() != Some(&words) {
                self.troubles.push(words);
            }
            return None;
        }
        let found = self.addresses.entry(address).or_default();
        found.traces.push(trace);
        Some(found)
    }

    /// Takes away what stands of these addresses; what fails does not keep the rest from going. What has gone meanwhile is no
    /// failure. A blocked file goes when all whom it names may.
    #[must_use]
    pub fn take_away(&self, addresses: &BTreeSet<IpAddr>) -> TakenAway {
        let mut taken = TakenAway::default();
        let lines = self.take_lines(addresses);
        let files: BTreeMap<&Path, Result<bool, String>> = self
            .blocked_files
            .iter()
            .map(|file| {
                let all = file.addresses.iter().all(|one| addresses.contains(one));
                let gone = if all {
                    file.remove().map(|()| true)
                } else {
                    Ok(false)
                };
                (file.path.as_path(), gone)
            })
            .collect();
        taken.failures.extend(lines.as_ref().err().cloned());
        for (path, gone) in &files {
            let path = path.display();
            match gone {
                Ok(true) => {}
                Ok(false) => taken.failures.push(format!(
                    "{path} stays, for not all whom it names are banned now"
                )),
                Err(why) => taken.failures.push(format!("cannot remove {path}: {why}")),
            }
        }

        let mut routes = Routes::new();
        for (address, found) in &self.addresses {
            if !addresses.contains(address) {
                continue;
            }
            let done = taken.done.entry(*address).or_default();
            for trace in &found.traces {
                let gone = match trace {
                    Trace::Route(route) => routes.remove(route).map_err(|why| why.to_string()),
                    Trace::Rule(rule) => rule.remove(),
                    // Told once, above.
                    Trace::Lines(..) if lines.is_err() => continue,
                    Trace::Blocked(path) if files.get(path.as_path()) != Some(&Ok(true)) => {
                        continue;
                    }
                    Trace::Lines(..) | Trace::Blocked(_) => Ok(()),
                };
                match gone {
                    Ok(()) => done.push(trace.to_string()),
                    Err(why) => taken
                        .failures
                        .push(format!("cannot take away {trace} of {address}: {why}")),
                }
            }
        }
        taken
    }

    fn take_lines(&self, addresses: &BTreeSet<IpAddr>) -> Result<(), String> {
        let has_lines = |found: &Found| {
            let mut traces = found.traces.iter();
            traces.any(|trace| matches!(trace, Trace::Lines(..)))
        };
        let going: BTreeSet<IpAddr> = self
            .addresses
            .iter()
            .filter(|(address, found)| addresses.contains(address) && has_lines(found))
            .map(|(address, _)| *address)
            .collect();
        if going.is_empty() {
            return Ok(());
        }
        SharedFile::behind_links(&self.hosts_deny, RULES)?
            .edit(|text| wrappers::without(text, &self.old.lines, &going))
    }
}

fn not_read(path: &Path, why: &str) -> String {
    format!("{} is not read: {why}", path.display())
}

impl Trace {
    /// What kind it is, in a word or two.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Route(_) => "route",
            Self::Rule(_) => "iptables",
            Self::Lines(..) => "hosts.deny",
            Self::Blocked(_) => "blocked file",
        }
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route(route) => write!(f, "route: {}", route.way),
            Self::Rule(rule) if rule.times > 1 => write!(f, "{} times {rule}", rule.times),
            Self::Rule(rule) => rule.fmt(f),
            Self::Lines(path, numbers) => {
                let numbers: Vec<String> = numbers.iter().map(usize::to_string).collect();
                let s = if numbers.len() > 1 { "s" } else { "" };
                write!(f, "{}: line{s} {}", path.display(), numbers.join(", "))
            }
            Self::Blocked(path) => path.display().fmt(f),
        }
    }
}
