//! `[nftables]`, `[iptables]`, `[route]`, `[hosts-deny]`, `[command]`: what each responder is told.

use std::path::PathBuf;
use std::time::Duration;

/// `[nftables]`: where our table stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nftables {
    /// The table's name, family inet.
    pub table: String,
    /// Where packets meet it.
    pub hook: Hook,
    /// Before whom, −400 to 400; below −200 is before connection tracking.
    pub priority: i32,
    /// Dropped packets that the kernel logs; `None`: none.
    pub log: Option<LogRate>,
    /// Whether we alone may change it.
    pub own: Own,
    /// Whether the start goes on where this cannot work.
    pub optional: bool,
}

/// `nftables.hook`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Before routing: stops forwarded traffic too.
    Prerouting,
    /// Traffic to this host alone.
    Input,
}

/// `nftables.own`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// Where the kernel can.
    Auto,
    /// Or not at all.
    On,
    /// Never.
    Off,
}

/// `nftables.log`: at most so many, in so long, from each of our sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRate {
    /// 1 to 1,000,000.
    pub packets: u32,
    /// A second, a minute, an hour or a day.
    pub per: Duration,
}

/// `[iptables]`: where our chain stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Iptables {
    /// The chain's name: 1 to 28 letters, digits, `-`, `_` and `.`, of which the first is a letter.
    pub chain: String,
    /// Whether the start goes on where this cannot work.
    pub optional: bool,
}

/// `[route]`: what our routes do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// What becomes of packets to a banned source.
    pub kind: RouteKind,
    /// Whether the start goes on where this cannot work.
    pub optional: bool,
}

/// `route.kind`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// Refused as without a way.
    Unreachable,
    /// Dropped.
    Blackhole,
    /// Refused as forbidden.
    Prohibit,
}

/// `[hosts-deny]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostsDeny {
    /// The file that tcp_wrappers reads.
    pub file: PathBuf,
    /// A line of it, with `{source}` where the address goes.
    pub line: String,
    /// Whether the start goes on where this cannot work.
    pub optional: bool,
}

/// `[command]`: the admin's own programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commands {
    /// Is told of a scan.
    pub run: Option<CommandLine>,
    /// Shuts a source out.
    pub ban: Option<CommandLine>,
    /// Undoes what `ban` did.
    pub unban: Option<CommandLine>,
    /// Whether `run` comes before the ban or after it.
    pub when: When,
    /// A program that runs longer is killed.
    pub timeout: Duration,
}

/// A program to run. `{source}`, `{port}` and `{mode}` in it are filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandLine {
    /// A program and its arguments, at least one word; no shell sees it.
    Argv(Vec<String>),
    /// A line for `/bin/sh -c`.
    Shell(String),
}

/// `command.when`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The ban waits until the program has ended.
    Before,
    /// The program starts when the ban is in force.
    After,
}
