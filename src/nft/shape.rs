//! What our table looks like: its mark, the sets that hold bans, the chain and its rules. Those that hold friends are in
//! `friends`.
//!
//! Pure. The same types describe what is wanted and what was found, so that the two can be compared.

use std::ffi::CStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::friends::FriendSet;
use crate::config::LogRate;
use crate::source::Source;

/// The comment that makes a table ours, with the number of its format.
pub const MARK: &str = "portsentry format 2";

/// How a comment of any format begins.
const ANY_MARK: &str = "portsentry format ";

/// `NFT_TABLE_F_OWNER`: one netlink socket alone may change the table. `NFT_TABLE_F_PERSIST`: it stays when that is closed.
const OWNER: u32 = 2;
const PERSIST: u32 = 4;

/// The flags of a table that is kept for whoever makes it.
pub(super) const OWNED: u32 = OWNER | PERSIST;

/// Room beyond what is asked for, at least: expired elements count until they are collected, and admins add some of their own.
const HEADROOM: u32 = 16_384;

/// Milliseconds between collections of expired elements, for each so many that a set can hold: a collection walks over all of
/// them, a tenth of a second for a million.
const GC_INTERVAL: u32 = 10_000;
const PER_GC_INTERVAL: u32 = 1 << 18;

/// The longest time between two collections.
const LONGEST_GC_INTERVAL: u32 = 60_000;

/// `NFT_SET_TIMEOUT`: each element may have a timeout.
const TIMEOUT_FLAG: u32 = 0x10;

/// nft's numbers of the two key types.
const IPV4_ADDR: u32 = 7;
const IPV6_ADDR: u32 = 8;

/// Bytes in a key of each.
const IPV4_LEN: u32 = 4;
const IPV6_LEN: u32 = 16;

/// `NF_ACCEPT`, as a chain's policy.
pub(super) const POLICY_ACCEPT: u32 = 1;

/// `NF_INET_PRE_ROUTING` and `NF_INET_LOCAL_IN`.
pub(super) const HOOK_PREROUTING: u32 = 0;
const HOOK_INPUT: u32 = 1;

/// ICMPv6's protocol number.
const ICMPV6: u8 = 58;

/// How a logged packet's line begins in the kernel's log: as with the rules that were common for PortSentry 1.2, because
/// people's filters match on it.
pub(super) const LOG_PREFIX: &CStr = c"Portsentry: dropping: ";

/// `LOG_DEBUG`, as those rules had it: in the log, and not on consoles.
pub(super) const LOG_LEVEL: u32 = 7;

/// Packets that may be logged at once after a quiet time. What nft and iptables take when nobody says.
pub(super) const LOG_BURST: u32 = 5;

/// Neighbour discovery: router and neighbour solicitations and advertisements.
const DISCOVERY: [u8; 2] = [133, 136];

/// Whether a table with this comment is ours, whatever its format.
pub(super) fn is_marked(comment: &str) -> bool {
    comment.starts_with(ANY_MARK)
}

/// Who may change a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Everybody with the right to.
    Anybody,
    /// The same, until somebody takes it over: its owner is gone.
    Gone,
    /// The netlink socket of this port alone.
    Port(u32),
}

impl Owner {
    /// By the table's flags, and the port that it names.
    pub(super) fn of(flags: u32, port: u32) -> Self {
        match flags & OWNED {
            0 => Self::Anybody,
            PERSIST => Self::Gone,
            _ => Self::Port(port),
        }
    }
}

/// A set of bans: single addresses (`banned4`, `banned6`), or prefixes of one length (`banned6_64`).
/// The order is that of the table: single addresses first, then the longer prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BanSet {
    ipv6: bool,
    prefix_len: u8,
}

impl BanSet {
    /// Single IPv4 addresses.
    pub const ADDRESSES4: Self = Self {
        ipv6: false,
        prefix_len: 32,
    };
    /// Single IPv6 addresses.
    pub const ADDRESSES6: Self = Self {
        ipv6: true,
        prefix_len: 128,
    };

    /// The sets of a table that bans prefixes of these lengths besides single addresses, in their order.
    #[must_use]
    pub fn for_prefixes(ipv4: u8, ipv6: u8) -> Vec<Self> {
        let mut sets = vec![
            Self::ADDRESSES4,
            Self::ADDRESSES6,
            Self {
                ipv6: false,
                prefix_len: ipv4.min(32),
            },
            Self {
                ipv6: true,
                prefix_len: ipv6.min(128),
            },
        ];
        Self::put_in_order(&mut sets);
        sets
    }

    /// Sorts `sets` as they stand in a table, each once.
    pub fn put_in_order(sets: &mut Vec<Self>) {
        sets.sort_by_key(|set| {
            let prefix = *set != Self::ADDRESSES4 && *set != Self::ADDRESSES6;
            (prefix, set.ipv6, u8::MAX - set.prefix_len)
        });
        sets.dedup();
    }

    /// The set that a ban of `source` stands in.
    #[must_use]
    pub fn of(source: Source) -> Self {
        Self {
            ipv6: source.address().is_ipv6(),
            prefix_len: source.prefix_len(),
        }
    }

    /// The set of that name, if it is one of ours.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let (ipv6, rest) = if let Some(rest) = name.strip_prefix("banned4") {
            (false, rest)
        } else {
            (true, name.strip_prefix("banned6")?)
        };
        let prefix_len = match rest.strip_prefix('_') {
            Some(digits) => digits.parse().ok()?,
            None if ipv6 => 128,
            None => 32,
        };
        let set = Self { ipv6, prefix_len };
        (set.name() == name && prefix_len <= set.bits()).then_some(set)
    }

    /// `banned4`, `banned6_64`.
    #[must_use]
    pub fn name(self) -> String {
        let family = if self.ipv6 { 6 } else { 4 };
        if self.prefix_len == self.bits() {
            format!("banned{family}")
        } else {
            format!("banned{family}_{}", self.prefix_len)
        }
    }

    /// Whether its keys are IPv6.
    #[must_use]
    pub fn is_ipv6(self) -> bool {
        self.ipv6
    }

    /// Whom the element with this key bans; `None` for a key that no packet can match, because it has host bits.
    #[must_use]
    pub fn source(self, key: IpAddr) -> Option<Source> {
        if key.is_ipv6() != self.ipv6 {
            return None;
        }
        let source = Source::prefix(key, self.prefix_len);
        (source.address() == key).then_some(source)
    }

    /// The shape of this set in a table that holds up to `limit` bans.
    #[must_use]
    pub fn shape(self, limit: u32) -> SetShape {
        let size = size_for(limit);
        SetShape {
            flags: TIMEOUT_FLAG,
            size,
            gc_interval: gc_interval_for(size),
            ..SetShape::of_keys(self.ipv6)
        }
    }

    fn bits(self) -> u8 {
        if self.ipv6 { 128 } else { 32 }
    }

    /// The mask that a packet's source goes through before it is looked up; `None` for single addresses.
    fn mask(self) -> Option<Vec<u8>> {
        if self.prefix_len == self.bits() {
            return None;
        }
        let length = u32::from(self.prefix_len);
        Some(if self.ipv6 {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            Ipv6Addr::from(mask).octets().to_vec()
        } else {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            Ipv4Addr::from(mask).octets().to_vec()
        })
    }

    /// `ip6 saddr & ffff:ffff:ffff:ffff:: @banned6_64 counter drop`, and before it, when there is to be a log, a rule that
    /// logs some of the same packets and lets them go on to this one. Each set has a limit of its own, so that a flood
    /// from one leaves room for the others.
    fn rules(self, log: Option<LogRate>) -> impl Iterator<Item = Rule> {
        let log = log.map(|rate| vec![Expr::Limit(rate), Expr::Counter, Expr::Log]);
        let drop = vec![Expr::Counter, Expr::Drop];
        log.into_iter()
            .chain([drop])
            .map(move |deed| [self.condition(), deed].concat())
    }

    /// `ip6 saddr & ffff:ffff:ffff:ffff:: @banned6_64`
    fn condition(self) -> Rule {
        let mut rule = from_family(self.ipv6);
        rule.extend(self.mask().map(Expr::Mask));
        rule.push(Expr::Lookup(self.name()));
        rule
    }
}

/// `ip saddr`, to be looked up in a set.
pub(super) fn from_family(ipv6: bool) -> Rule {
    let source = if ipv6 { Expr::Source6 } else { Expr::Source4 };
    let [family, is_family] = of_family(ipv6);
    vec![family, is_family, source]
}

/// `meta nfproto ipv6`
pub(super) fn of_family(ipv6: bool) -> [Expr; 2] {
    let family = if ipv6 {
        libc::NFPROTO_IPV6
    } else {
        libc::NFPROTO_IPV4
    };
    let family = u8::try_from(family).expect("both families are small numbers");
    [Expr::Family, Expr::Equal(vec![family])]
}

/// The size of a set for up to `limit` bans: room for those not collected yet, which are the more the larger it is, rounded
/// up to k·65536 − 1, because the kernel takes the low 16 bits of it for its hint of how many buckets to begin with.
fn size_for(limit: u32) -> u32 {
    limit.saturating_add(HEADROOM.max(limit / 8)) | 0xffff
}

/// How often a set of this size is rid of expired elements.
fn gc_interval_for(size: u32) -> u32 {
    GC_INTERVAL
        .saturating_mul(size.div_ceil(PER_GC_INTERVAL))
        .clamp(GC_INTERVAL, LONGEST_GC_INTERVAL)
}

/// A set, but for its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetShape {
    /// nft's number of the key's type.
    pub key_type: u32,
    /// Bytes in a key.
    pub key_len: u32,
    /// `NFT_SET_…`
    pub flags: u32,
    /// Elements at most; 0: no bound.
    pub size: u32,
    /// Milliseconds between collections of expired elements.
    pub gc_interval: u32,
    /// The timeout of elements that have none of their own, in milliseconds; 0: none.
    pub timeout: u64,
    /// No map, no concatenation, nothing to be evaluated with each element.
    pub plain: bool,
}

impl SetShape {
    /// An unbounded set of addresses without any flags.
    pub(super) fn of_keys(ipv6: bool) -> Self {
        Self {
            key_type: if ipv6 { IPV6_ADDR } else { IPV4_ADDR },
            key_len: if ipv6 { IPV6_LEN } else { IPV4_LEN },
            flags: 0,
            size: 0,
            gc_interval: 0,
            timeout: 0,
            plain: true,
        }
    }

    /// Whether its keys are IPv6 addresses.
    pub(super) fn is_ipv6(&self) -> bool {
        self.key_len == IPV6_LEN
    }

    /// Whether this set of bans, as found, does the work of `wanted`. A larger size is as good: lowering a limit is no
    /// reason to move bans about.
    #[must_use]
    pub fn serves_as(self, wanted: Self) -> bool {
        self.size >= wanted.size
            && self
                == Self {
                    size: self.size,
                    gc_interval: gc_interval_for(self.size),
                    ..wanted
                }
    }

    /// Whether its elements are single keys of this type, so that they can be moved to a set of another shape.
    #[must_use]
    pub fn holds_keys_of(self, wanted: Self) -> bool {
        self.plain
            && self.flags & !TIMEOUT_FLAG == 0
            && (self.key_type, self.key_len) == (wanted.key_type, wanted.key_len)
    }
}

/// A base chain, but for its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainShape {
    /// That of its hook.
    pub name: String,
    /// `NF_INET_…`
    pub hook: u32,
    /// Lower is earlier.
    pub priority: i32,
    /// `filter`
    pub kind: String,
    /// What becomes of packets that no rule speaks of.
    pub policy: u32,
}

impl ChainShape {
    /// The names that our chain can have.
    pub const NAMES: [&str; 2] = ["prerouting", "input"];

    /// The chain at this hook.
    #[must_use]
    pub fn at(hook: crate::config::Hook, priority: i32) -> Self {
        let (name, hook) = match hook {
            crate::config::Hook::Prerouting => ("prerouting", HOOK_PREROUTING),
            crate::config::Hook::Input => ("input", HOOK_INPUT),
        };
        Self {
            name: name.to_owned(),
            hook,
            priority,
            kind: "filter".to_owned(),
            policy: POLICY_ACCEPT,
        }
    }

    /// Whether this is the prerouting hook rather than input.
    pub(super) fn is_prerouting(&self) -> bool {
        self.hook == HOOK_PREROUTING
    }
}

/// What a rule does, in order.
pub type Rule = Vec<Expr>;

/// A step of a rule. All work on register 1; [`Lead`](Expr::Lead) needs another besides. Those from [`Interface`](Expr::Interface)
/// to [`Differs`](Expr::Differs) are for traps, and are only made, never read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// Loads whether the packet is IPv4 or IPv6.
    Family,
    /// Loads the transport protocol.
    Transport,
    /// Loads the IPv4 source address.
    Source4,
    /// Loads the IPv6 source address.
    Source6,
    /// Loads the ICMPv6 type.
    IcmpType,
    /// Loads the number of the interface that the packet came in by.
    Interface,
    /// Loads its name, in 16 bytes.
    InterfaceName,
    /// Loads the TCP port that the packet is for.
    DestPort,
    /// Loads what kind of address it is for: this host's own, somebody else's, everybody's.
    DestType,
    /// Loads whether the socket that takes the packet is transparent; goes on only if there is one, be it what remains of a
    /// connection.
    Socket,
    /// Hands the packet to the transparent socket that listens there; goes on only if there is one.
    Lead(SocketAddr),
    /// Goes on if what is loaded is anything but this.
    Differs(Vec<u8>),
    /// Goes on if what is loaded equals this.
    Equal(Vec<u8>),
    /// Goes on if what is loaded is this or more.
    AtLeast(Vec<u8>),
    /// Goes on if what is loaded is this or less.
    AtMost(Vec<u8>),
    /// Keeps of what is loaded the bits that are set here.
    Mask(Vec<u8>),
    /// Goes on if what is loaded is in the set.
    Lookup(String),
    /// Goes on unless more came than this, and a burst.
    Limit(LogRate),
    /// Counts packets and bytes.
    Counter,
    /// Writes the packet to the kernel's log, in our words.
    Log,
    /// The packet passes this chain.
    Accept,
    /// The packet is gone.
    Drop,
    /// Anything that our rules never have; only found, never made.
    Foreign,
}

/// The rules of our chain over these sets, with a log or without. Neighbour discovery passes first: without it a banned
/// prefix on our own link would cut off every host in it, and ourselves from the router. Friends pass next, so that even a
/// ban that should never have been made does not shut them out.
#[must_use]
pub fn rules(sets: &[BanSet], log: Option<LogRate>) -> Vec<Rule> {
    let [first, last] = DISCOVERY;
    let ipv6 = u8::try_from(libc::NFPROTO_IPV6).expect("the family is a small number");
    let discovery = vec![
        Expr::Family,
        Expr::Equal(vec![ipv6]),
        Expr::Transport,
        Expr::Equal(vec![ICMPV6]),
        Expr::IcmpType,
        Expr::AtLeast(vec![first]),
        Expr::AtMost(vec![last]),
        Expr::Accept,
    ];
    std::iter::once(discovery)
        .chain(FriendSet::ALL.map(FriendSet::rule))
        .chain(sets.iter().flat_map(|set| set.rules(log)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(sets: &[BanSet]) -> Vec<String> {
        sets.iter().map(|set| set.name()).collect()
    }

    #[test]
    fn the_sets_follow_from_the_prefix_lengths() {
        for (ipv4, ipv6, expected) in [
            (32, 64, vec!["banned4", "banned6", "banned6_64"]),
            (32, 128, vec!["banned4", "banned6"]),
            (
                24,
                56,
                vec!["banned4", "banned6", "banned4_24", "banned6_56"],
            ),
        ] {
            assert_eq!(names(&BanSet::for_prefixes(ipv4, ipv6)), expected);
        }
    }

    #[test]
    fn a_name_is_read_back_only_as_it_is_written() {
        for name in ["banned4", "banned6", "banned4_24", "banned6_64"] {
            assert_eq!(BanSet::from_name(name).map(BanSet::name).unwrap(), name);
        }
        for name in [
            "banned4_32",
            "banned4_33",
            "banned6_064",
            "banned6_",
            "banned",
            "ignored4",
            "banned6_999",
        ] {
            assert_eq!(BanSet::from_name(name), None, "{name}");
        }
    }

    #[test]
    fn the_size_never_loses_its_hint() {
        for (limit, size) in [
            (1, 65_535),
            (49_151, 65_535),
            (49_152, 131_071),
            (200_000, 262_143),
            (1_000_000, 1_179_647),
            (u32::MAX, u32::MAX),
        ] {
            assert_eq!(size_for(limit), size, "{limit}");
        }
    }

    #[test]
    fn larger_sets_are_collected_less_often() {
        for (limit, seconds) in [
            (1, 10),
            (200_000, 10),
            (300_000, 20),
            (1_000_000, 50),
            (u32::MAX, 60),
        ] {
            let interval = BanSet::ADDRESSES4.shape(limit).gc_interval;
            assert_eq!(interval, seconds * 1000, "{limit}");
        }
    }

    #[test]
    fn a_key_with_host_bits_bans_nobody() {
        let set = BanSet::from_name("banned6_64").unwrap();
        assert_eq!(
            set.source("2001:db8::".parse().unwrap()),
            Some("2001:db8::/64".parse().unwrap())
        );
        assert_eq!(set.source("2001:db8::5".parse().unwrap()), None);
        assert_eq!(set.source("192.0.2.0".parse().unwrap()), None);
    }

    #[test]
    fn a_roomier_set_serves_and_a_tighter_one_does_not() {
        let wanted = BanSet::ADDRESSES4.shape(1000);
        let with_size = |size| SetShape { size, ..wanted };
        assert!(with_size(wanted.size + 65_536).serves_as(wanted));
        assert!(BanSet::ADDRESSES4.shape(5_000_000).serves_as(wanted));
        assert!(!with_size(wanted.size - 1).serves_as(wanted));
        assert!(
            !with_size(0).serves_as(wanted),
            "without a bound a set can eat all memory"
        );
        assert!(
            !SetShape {
                timeout: 1,
                ..wanted
            }
            .serves_as(wanted)
        );
    }
}
