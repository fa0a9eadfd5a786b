//! The programs that change rules and sets: which there are, and what comes of running one. What to have them do is for others.

use std::fs::{self, File};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::Family;
use crate::log::span;
use crate::privilege;
use crate::respond::program::{self, PATH, Running};

/// Where programs are looked for, and how long one may take.
#[derive(Clone, Debug)]
pub(super) struct Tools {
    dirs: Vec<PathBuf>,
    limit: Duration,
}

/// A program that is there.
#[derive(Clone, Debug)]
pub(super) struct Program {
    path: PathBuf,
    limit: Duration,
}

/// The two programs that a family's rules need.
#[derive(Clone, Debug)]
pub(super) struct Xtables {
    list: Program,
    restore: Program,
}

/// How long a program may take. A hundred thousand rules are a matter of seconds.
const LIMIT: Duration = Duration::from_secs(30);

/// Seconds for which iptables-legacy waits for others to be done. Those that speak nf_tables take the option, and need no lock.
const LOCK_PATIENCE: &str = "5";

/// What whoever is not root lacks, and what to do about it.
const NO_ROOT: &str = "it needs CAP_NET_ADMIN and CAP_NET_RAW, and iptables-legacy its lock, which is root's: make iptables \
    iptables-nft (update-alternatives --config iptables), or take \"nftables\" in ban.responders, or leave daemon.user out, or \
    give the unit the drop-in iptables-legacy.conf";

/// Bytes of a listing: many times what a hundred thousand bans need.
const ANSWER: usize = 256 << 20;

impl Tools {
    /// Those of the system. What the environment has for a PATH is nobody's business.
    pub(super) fn of_the_system() -> Self {
        Self::within(PATH.split(':').map(PathBuf::from).collect(), LIMIT)
    }

    pub(super) fn within(dirs: Vec<PathBuf>, limit: Duration) -> Self {
        Self { dirs, limit }
    }

    /// `ipset`, where it is there.
    pub(super) fn ipset(&self) -> Option<Program> {
        self.find("ipset")
    }

    /// Those for the rules of a family: what `iptables` is, or the one variant that is there.
    ///
    /// # Errors
    /// What is missing.
    pub(super) fn xtables(&self, family: Family) -> Result<Xtables, String> {
        let name = family.iptables();
        let variant = |suffix: &&str| {
            Some(Xtables {
                list: self.find(&format!("{name}{suffix}"))?,
                restore: self.find(&format!("{name}{suffix}-restore"))?,
            })
        };
        let found = ["", "-nft", "-legacy"].iter().find_map(variant);
        found.ok_or_else(|| {
            format!(
                "there is no program {name} with its {name}-restore in {}: install Debian's package iptables, or take \"nftables\" in ban.responders",
                self.places()
            )
        })
    }

    /// Why whoever is not root can change no rules with the programs that are here; `None`: nothing is known to be against it.
    pub(super) fn why_root(&self) -> Option<String> {
        let legacy = Family::ALL.into_iter().find_map(|family| {
            let list = self.xtables(family).ok()?.list.path;
            // Names are links to links, the last of them to the one program that is all of a kind's.
            let program = fs::canonicalize(&list).unwrap_or_else(|_| list.clone());
            let is_legacy = program.to_string_lossy().contains("legacy");
            is_legacy.then_some(list)
        })?;
        Some(format!(
            "{} is iptables-legacy ({NO_ROOT})",
            legacy.display()
        ))
    }

    fn find(&self, name: &str) -> Option<Program> {
        let paths = self.dirs.iter().map(|dir| dir.join(name));
        let path = paths.into_iter().find(|path| is_program(path))?;
        let limit = self.limit;
        Some(Program { path, limit })
    }

    fn places(&self) -> String {
        let places: Vec<String> = (self.dirs.iter())
            .map(|dir| dir.display().to_string())
            .collect();
        places.join(":")
    }
}

impl Xtables {
    /// All rules of the table filter, as commands that would make them.
    pub(super) fn list(&self) -> Result<String, String> {
        let rules = self.list.run(&["-w", LOCK_PATIENCE, "-S"], "");
        rules.map_err(with_remedy)
    }

    /// Does what `script` says with the table filter: all of it, or nothing.
    pub(super) fn restore(&self, script: &str) -> Result<(), String> {
        let done = self
            .restore
            .run(&["--noflush", "-w", LOCK_PATIENCE], script);
        done.map(drop).map_err(with_remedy)
    }
}

impl Program {
    /// Runs it to its end with this for an input: what it prints.
    ///
    /// # Errors
    /// Its name, how it ended and what it said, fit for a log.
    pub(super) fn run(&self, args: &[&str], input: &str) -> Result<String, String> {
        let outcome = self.try_run(args, input);
        outcome.map_err(|why| format!("{} {why}", self.path.display()))
    }

    fn try_run(&self, args: &[&str], input: &str) -> Result<String, String> {
        // Else a program of somebody who is not root can do nothing.
        privilege::hand_on();
        let begun = Instant::now();
        let mut command = program::command(&self.path);
        command.args(args);
        let input = stdin(input).map_err(|cause| program::cannot_run(&cause))?;
        let mut running = Running::start(command, input, Some(ANSWER))?;
        if running.watch(&|| begun.elapsed() >= self.limit) {
            let answer = running.outcome()?;
            // A comment of somebody's may be in any encoding.
            return Ok(String::from_utf8_lossy(&answer).into_owned());
        }
        // What the kernel will not let go of is waited for by nobody.
        let (words, _) = running.kill(&format!("did not end within {}", span(self.limit)));
        Err(words)
    }
}

/// A file in memory: whoever reads it never waits for us, nor we for whom.
fn stdin(input: &str) -> io::Result<Stdio> {
    if input.is_empty() {
        return Ok(Stdio::null());
    }
    let mut file = File::from(memfd_create(c"portsentry", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(input.as_bytes())?;
    file.rewind()?;
    Ok(file.into())
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

/// What iptables said, and what to do about it where that is known.
fn with_remedy(said: String) -> String {
    let remedies = [
        ("ermission denied", NO_ROOT),
        (
            "Operation not permitted",
            "it needs CAP_NET_ADMIN and CAP_NET_RAW",
        ),
        (
            "Read-only file system",
            "iptables-legacy needs to write its lock, /run/xtables.lock: make iptables iptables-nft (update-alternatives --config \
             iptables), or give the unit the drop-in iptables-legacy.conf",
        ),
        (
            "incompatible",
            "the table has rules that only nft knows: take \"nftables\" in ban.responders",
        ),
        (
            "do you need to insmod",
            "the kernel lacks the tables of iptables-legacy: load the module ip_tables or ip6_tables, or take \"nftables\" in ban.responders",
        ),
    ];
    let remedy = remedies.iter().find(|(words, _)| said.contains(words));
    remedy.map_or(said.clone(), |(_, remedy)| format!("{said} ({remedy})"))
}
