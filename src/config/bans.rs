//! `[ban]`: how long, how wide, how many, and by whom.

use std::time::Duration;

use super::Confirm;
use crate::source::Source;

/// `[ban]`: how long, how wide, how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BanRules {
    /// The first ban of a source; `None`: for ever.
    pub duration: Option<Duration>,
    /// Each repeat lasts this many times longer, at least 1.
    pub escalate: u32,
    /// No ban lasts longer; `None`: no bound.
    pub max: Option<Duration>,
    /// A ban that ended longer ago than this is forgotten; `None`: never forgotten.
    pub memory: Option<Duration>,
    /// How many bits of an IPv4 source a ban covers, 8 to 32.
    pub ipv4_prefix: u8,
    /// How many bits of an IPv6 source a ban covers, 16 to 128.
    pub ipv6_prefix: u8,
    /// When many banned IPv4 neighbours become one ban, the longest prefix first; empty: never.
    pub ipv4_rollup: Vec<RollUp>,
    /// The same for IPv6.
    pub ipv6_rollup: Vec<RollUp>,
    /// What a ban must rest on to count towards that.
    pub rollup_confirm: Confirm,
    /// What a clean stop does to running bans.
    pub on_stop: OnStop,
    /// Active bans at most.
    pub limit: u32,
    /// Scans acted on a second at most.
    pub rate: u32,
    /// Who makes bans real, in this order.
    pub responders: Vec<ResponderKind>,
}

impl BanRules {
    /// Whether this responder is among them.
    #[must_use]
    pub fn uses(&self, kind: ResponderKind) -> bool {
        self.responders.contains(&kind)
    }

    /// Whom a ban that shuts out all of `source` may name by these rules: itself, the prefix that a ban of it would cover, and those
    /// that it may have been rolled up into. The narrowest first, each once.
    #[must_use]
    pub fn covering(&self, source: Source) -> Vec<Source> {
        let width = if source.address().is_ipv4() {
            self.ipv4_prefix
        } else {
            self.ipv6_prefix
        };
        let wider = self.rollups(source).iter().map(|step| step.prefix_len);
        let mut covering: Vec<Source> = [source.prefix_len(), width]
            .into_iter()
            .chain(wider)
            .filter(|length| *length <= source.prefix_len())
            .map(|length| Source::prefix(source.address(), length))
            .collect();
        covering.sort_by_key(|covering| std::cmp::Reverse(covering.prefix_len()));
        covering.dedup();
        covering
    }

    /// What may become of many bans of the family that `source` is of.
    #[must_use]
    pub fn rollups(&self, source: Source) -> &[RollUp] {
        if source.address().is_ipv4() {
            &self.ipv4_rollup
        } else {
            &self.ipv6_rollup
        }
    }
}

/// `16 in /56`: so many bans in one prefix of that length become one ban of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RollUp {
    /// How many, at least two.
    pub count: u32,
    /// The length of the prefix in bits.
    pub prefix_len: u8,
}

/// `ban.on_stop`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStop {
    /// Bans stay in the kernel and run out there.
    Keep,
    /// Everything of ours is taken down.
    Remove,
}

/// `ban.responders`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ResponderKind {
    /// An nftables set with timeouts.
    Nftables,
    /// Rules in a chain of our own, or ipsets.
    Iptables,
    /// Routes that lead nowhere.
    Route,
    /// Lines in `/etc/hosts.deny`.
    HostsDeny,
    /// The admin's own programs.
    Command,
}

impl ResponderKind {
    /// All there are.
    pub const ALL: &[Self] = &[
        Self::Nftables,
        Self::Iptables,
        Self::Route,
        Self::HostsDeny,
        Self::Command,
    ];

    /// As in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
            Self::Route => "route",
            Self::HostsDeny => "hosts-deny",
            Self::Command => "command",
        }
    }

    /// What its bans do not stop, for people to know; `None`: nothing gets through.
    #[must_use]
    pub const fn gap(self) -> Option<&'static str> {
        match self {
            Self::Nftables | Self::Iptables => None,
            Self::Route => {
                Some("what banned sources send still arrives, only answers do not leave")
            }
            Self::HostsDeny => Some("only services behind tcp_wrappers heed it"),
            Self::Command => Some("what your program does is not known here"),
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}
