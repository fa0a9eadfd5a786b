//! The local socket that commands talk to: requests, replies, their framing and limits.
//!
//! A request is one line of JSON. A reply is any number of lines of JSON, ended by a result line. A daemon that will be long
//! about it says so first, with [`Line::Wait`].
//! What a request means is the daemon's business.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::engine::Counters;

mod ask;
mod lease;
mod server;

pub use ask::{AskError, ask};
pub use lease::Lease;
pub use server::{Caller, Client, Server, Step};

/// Bytes a request may have: twice what fits into a command line of xargs.
pub const MAX_REQUEST: usize = 256 * 1024;

/// Sources in one request to import: what is done in one go, before somebody else's turn comes.
pub const MAX_IMPORT: usize = 2048;

/// How long each further line may take once the daemon has said that it is at it.
pub const LONG_PATIENCE: Duration = Duration::from_secs(60);

/// What a command asks of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How it is: answered by one [`Status`].
    Status,
    /// Who is banned: answered by a [`Listed`] each, in the order of their ends, those without one last. One that changes
    /// meanwhile may come twice.
    List,
    /// Ban a source: answered by a [`Listed`].
    Ban {
        /// An address or a prefix.
        source: String,
        /// Seconds; absent: as long as the configuration says for a first ban.
        seconds: Option<u64>,
        /// Without an end.
        ever: bool,
        /// Why, in the admin's words.
        reason: Option<String>,
        /// Whether it holds against what makes a friend of the source.
        #[serde(default)]
        force: bool,
        /// Seconds after which it is undone unless it is confirmed.
        #[serde(default)]
        revert: Option<u64>,
    },
    /// Keep a ban that is to be undone: answered by a [`Listed`].
    Confirm {
        /// As it was banned.
        source: String,
    },
    /// The names in the ignore lists: answered by a [`Named`] each.
    IgnoredNames,
    /// Ban many alike, for as long and with the same words: answered by an [`Imported`]. Who may not be banned is left out; of
    /// the others all are banned, or none is.
    Import {
        /// Addresses or prefixes, [`MAX_IMPORT`] at most.
        sources: Vec<String>,
        /// As with a ban.
        seconds: Option<u64>,
        /// As with a ban.
        ever: bool,
        /// As with a ban.
        reason: Option<String>,
    },
    /// Lift what covers these: answered by a [`Lifted`] each.
    Unban {
        /// Addresses or prefixes.
        sources: Vec<String>,
    },
    /// Lift every ban: answered by a [`Lifted`] each.
    UnbanAll,
    /// All that is known of an address: answered by one [`Explained`].
    Explain {
        /// The address.
        address: std::net::IpAddr,
    },
    /// Read the configuration anew: answered by a [`Reloaded`].
    Reload,
    /// Read the ignore files anew, and lift the bans of whom they name: answered by an [`IgnoreRead`].
    ReadIgnore,
    /// Watch in these modes of 1.2 too: answered when they are in force, which they are until who asked hangs up. See [`Lease`].
    Lease {
        /// `tcp`, `audp` …
        modes: Vec<String>,
        /// The configuration that they were asked for with.
        config: String,
    },
}

/// One line of a reply.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// To `status`.
    Status(Box<Status>),
    /// To `list`, `ban` and `confirm`.
    Listed(Listed),
    /// To `import`.
    Imported(Imported),
    /// To `unban`.
    Lifted(Lifted),
    /// To `ignored-names`.
    Named(Named),
    /// To `explain`.
    Explained(Box<Explained>),
    /// To `reload`.
    Reloaded(Reloaded),
    /// To `read-ignore`.
    IgnoreRead(IgnoreRead),
    /// To any, before what it was asked for: the daemon is at it, and this may take long. Further lines may take
    /// [`LONG_PATIENCE`] each.
    Wait,
    /// The last line: it was done.
    Done,
    /// The last line: it was not done, or not all of it, and why.
    Failed(String),
}

/// How the daemon is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Its process id.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// `replaying`, `enforcing`, `degraded`, `log-only`.
    pub state: State,
    /// Seconds since it became ready.
    pub uptime: u64,
    /// The configuration file.
    pub config: String,
    /// The modes in force.
    pub modes: Vec<Watched>,
    /// Bans that should be in force.
    pub intended: u64,
    /// Bans that the primary responder, the first that works, has acknowledged.
    pub enforced: u64,
    /// For how many seconds the two have differed.
    pub differing_for: Option<u64>,
    /// Who makes bans real, the primary one first.
    pub responders: Vec<String>,
    /// How each of them is.
    pub health: Vec<Health>,
    /// When bans were last put back that somebody had taken away; absent: never. How often is in the counters.
    pub last_repair: Option<Repair>,
    /// Who else talks at the control socket. How many were hung up on is in the counters.
    #[serde(default)]
    pub callers: u64,
    /// How packets are seen.
    pub capture: CaptureStatus,
    /// Who is never banned.
    #[serde(default)]
    pub friends: Friends,
    /// What became of the probes.
    pub counters: Counters,
    /// What goes wrong at present.
    pub troubles: Vec<String>,
}

/// Who is never banned, beside this host itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Friends {
    /// Entries in the ignore lists.
    pub ignored: u64,
    /// The names among them.
    pub names: Vec<Named>,
    /// Gateways, name servers and logins, each in words.
    pub host: Vec<String>,
}

/// A name in the ignore lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The name.
    pub name: String,
    /// Where it is written.
    pub place: String,
    /// Where it leads to, as far as is known.
    pub addresses: Vec<String>,
    /// When that was found out, in milliseconds since 1970; absent: in an earlier run, or never.
    pub found_at: Option<i64>,
    /// Why it could not be looked up the last time; absent: it could, or is just being.
    pub failure: Option<String>,
}

/// A mode in force, and who has asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// `tcp`, `audp` …
    pub mode: String,
    /// The daemon's process id where it is its own, and those of the processes that hold a lease of it.
    pub holders: Vec<u32>,
}

/// How a responder is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Its name.
    pub responder: String,
    /// Bans that are in force there.
    pub enforced: u64,
    /// Why it does not work, or what went wrong last and is not mended; absent: all is well.
    pub trouble: Option<String>,
}

/// Bans that were put back after somebody had taken them away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// When, in milliseconds since 1970.
    pub at: i64,
    /// Where.
    pub responder: String,
    /// Who had taken them away.
    pub after: String,
}

/// The daemon's state in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// History is being put back into the responders; detection is on already.
    Replaying,
    /// All is well.
    Enforcing,
    /// Something goes wrong: see the troubles.
    Degraded,
    /// The configuration says to log scans and to ban nobody.
    LogOnly,
}

/// How packets are seen, and what became of them before they were probes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureStatus {
    /// `packet` or `ip`.
    pub method: String,
    /// Packets that the kernel filter let through.
    pub packets: u64,
    /// Packets that the kernel dropped because we were too slow.
    pub dropped: u64,
    /// Packets that were no probes, by why.
    pub skipped: BTreeMap<String, u64>,
}

/// A running ban.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// An address or a prefix.
    pub source: String,
    /// Why.
    pub reason: String,
    /// `scan`, `command`, `forced`, `rollup` or `adopted`.
    pub origin: String,
    /// Who ordered it: `uid 0`; absent: nobody did, or that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// When it began, in milliseconds since 1970.
    pub start: i64,
    /// Whole length in seconds; absent: permanent.
    pub length: Option<u64>,
    /// Seconds left; absent: permanent.
    pub left: Option<u64>,
    /// Whether it is permanent.
    pub permanent: bool,
    /// Whether it is on trial: undone when that time is over, unless it is confirmed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub on_trial: bool,
    /// The responders where it is in force; absent where nobody has looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub responders: Option<Vec<String>>,
}

/// What became of sources that were to be banned together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// How many are banned that were not.
    pub banned: u64,
    /// How many were banned already, and are for longer now.
    pub prolonged: u64,
    /// Those that were left out.
    pub refused: Vec<Refused>,
}

/// A source that was not banned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Whom.
    pub source: String,
    /// Why, in one word.
    pub why: Why,
    /// Why, in a sentence.
    pub words: String,
}

/// Why a source of many is not banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// It is neither an address nor a prefix.
    NotASource,
    /// It is never banned.
    Friend,
    /// It is banned already, and for about as long or longer.
    BannedAlready,
    /// `ban.limit` is reached.
    Limit,
    /// A responder never bans it.
    Responder,
}

/// What is known of an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// The address.
    pub address: String,
    /// What a ban of it would name.
    pub source: String,
    /// Why it is never banned; absent: it may be.
    pub friend: Option<String>,
    /// What else would keep it from being banned.
    #[serde(default)]
    pub also: Vec<String>,
    /// The bans that cover it, where `responders` are those that hold it right now.
    pub bans: Vec<Listed>,
    /// Responders that do not hold a ban which covers it, or could not be asked, in words.
    pub missing: Vec<String>,
    /// Its probes that count, the latest first.
    pub probes: Vec<Seen>,
    /// So many make a scan.
    pub trigger: u64,
    /// Where they do, and nobody is banned for it: of what there are too many, in words.
    #[serde(default)]
    pub too_many: Vec<String>,
    /// Whether TCP handshakes with traps alone count.
    #[serde(default)]
    pub needs_handshake: bool,
    /// Then: its last packets that do not count, the latest first.
    #[serde(default)]
    pub unconfirmed: Vec<Seen>,
    /// Its last packets to watched ports that nobody has looked further into, because it is never banned, the latest first.
    #[serde(default)]
    pub spared: Vec<Seen>,
    /// Seconds for which its scans are not reported again; absent: they are.
    pub muted: Option<u64>,
    /// Bans that are over and count towards the next.
    pub past: u32,
    /// Seconds that the next ban would last; absent: for ever.
    pub next: Option<u64>,
    /// The prefixes around it in which neighbours are banned that may become one ban.
    pub neighbours: Vec<Neighbours>,
}

/// Banned neighbours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbours {
    /// The prefix they share.
    pub prefix: String,
    /// How many of their bans count.
    pub banned: u32,
    /// So many become one ban of the prefix.
    pub needed: u32,
    /// Whether the prefix may be banned: it holds nobody who must not be.
    pub may_be_banned: bool,
}

/// A probe that counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Seconds ago.
    pub ago: u64,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Its port.
    pub port: u16,
    /// What it looked like: `syn`, `fin` …
    pub scan: String,
}

/// What became of one address that was to be unbanned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifted {
    /// As it was asked for; absent where all were.
    pub asked: Option<String>,
    /// The ban that was lifted; absent: nothing covered the address.
    pub source: Option<String>,
    /// The ban as it was known; absent: it stood in the kernel alone.
    pub ban: Option<Listed>,
    /// Bans that lay within it and go on.
    pub within: u64,
    /// Whether the source may be shut out still: some responder has failed, or has not answered.
    #[serde(default)]
    pub stands: bool,
}

/// What a reload did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Keys that have changed and take effect at a restart only.
    pub needs_restart: Vec<String>,
}

/// Where it is written who is ignored from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IgnoreRead {
    /// The files the daemon reads, by the configuration it runs with.
    pub files: Vec<String>,
}
