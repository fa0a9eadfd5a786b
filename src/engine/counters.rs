//! What `status` counts.

use serde::{Deserialize, Serialize};

/// Counts since the start. Each probe ends in exactly one of `not_ours` to `hits`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Probes that reached the engine.
    pub probes: u64,
    /// … sent to an address that is not this host's: forwarded, broadcast, multicast.
    pub not_ours: u64,
    /// … to a port that the configuration does not watch.
    pub unwatched: u64,
    /// … from a source that is banned already.
    pub already_banned: u64,
    /// … from a friend.
    pub ignored: u64,
    /// … to a port that something is bound to.
    pub services: u64,
    /// … that answered traffic of ours.
    pub answers: u64,
    /// … to a trap: evidence. Whatever comes of a source whose scans have been told counts too.
    pub hits: u64,
    /// Scans found.
    pub scans: u64,
    /// … that led to a ban.
    pub bans: u64,
    /// Prefixes in which so many were banned that they became one ban.
    pub rolled_up: u64,
    /// Scans that were logged alone, as configured.
    pub logged: u64,
    /// … spared because `ban.limit` was reached.
    pub spared_limit: u64,
    /// … spared because `ban.rate` was reached.
    pub spared_rate: u64,
    /// … spared because somebody is logged in from there.
    #[serde(default)]
    pub spared_logins: u64,
    /// Packets to traps that count for nothing, because handshakes alone do.
    #[serde(default)]
    pub unconfirmed: u64,
    /// Bans put back from history.
    pub replayed: u64,
    /// Bans found in the kernel and taken over.
    pub adopted: u64,
    /// Times that all bans were put back because somebody had taken them away.
    pub repairs: u64,
    /// Times the kernel could not be asked about a port; the probe was spared.
    pub unanswered: u64,
    /// Programs at the control socket that were hung up on, because they neither asked nor read.
    #[serde(default)]
    pub hung_up: u64,
    /// Records that history had no room for.
    pub unrecorded: u64,
}
