//! Who is never banned, and which ports are traps. The facts are found out elsewhere and handed in.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::{IpNet, Ipv6Net};

use crate::config::ignore::IgnoreList;
use crate::config::{Config, HostFact, Mode, Watch, WatchMode};
use crate::host::{Facts, Login, Resolver};
use crate::probe::{Probe, Protocol, ScanType};
use crate::source::Source;

mod friends;
mod named;
mod services;

pub use friends::Friend;
use friends::HostFriends;
pub use named::{Named, NamedFriends, News};
pub use services::KnownServices;

/// What stands between a probe and a ban.
pub struct Guard {
    facts: Facts,
    resolvers: Vec<Resolver>,
    logins: Vec<Login>,
    ignored: IgnoreList,
    refresh: Duration,
    /// The facts about this host that make friends.
    spared: BTreeSet<HostFact>,
    /// What follows from them.
    neighbours: HostFriends,
    admins: HostFriends,
    watched: Vec<(WatchMode, Ports)>,
    /// Whether all ports of TCP are traps that take connections.
    traps: bool,
    ipv4_prefix: u8,
    ipv6_prefix: u8,
    /// Answers about our services that are fresh.
    pub services: KnownServices,
    /// The names in the ignore lists, and where they lead to.
    pub names: NamedFriends,
}

impl Guard {
    /// A guard of the host that `facts` describe.
    #[must_use]
    pub fn new(config: &Config, ignored: IgnoreList, facts: Facts) -> Self {
        let spared = config.ignore.host.clone();
        let mut names = NamedFriends::default();
        names.follow(&ignored, config.ignore.refresh);
        Self {
            names,
            refresh: config.ignore.refresh,
            neighbours: HostFriends::of(&facts, &[], &spared),
            admins: HostFriends::default(),
            resolvers: Vec::new(),
            logins: Vec::new(),
            facts,
            ignored,
            spared,
            watched: watched(config),
            traps: config.has_traps(),
            ipv4_prefix: config.ban.ipv4_prefix,
            ipv6_prefix: config.ban.ipv6_prefix,
            services: KnownServices::default(),
        }
    }

    /// Takes another configuration and ignore list; the facts stay.
    pub fn reconfigure(&mut self, config: &Config, ignored: IgnoreList) {
        let facts = std::mem::take(&mut self.facts);
        let resolvers = std::mem::take(&mut self.resolvers);
        let logins = std::mem::take(&mut self.logins);
        let names = std::mem::take(&mut self.names);
        *self = Self::new(config, ignored, facts);
        self.names = names;
        self.names.follow(&self.ignored, self.refresh);
        self.resolvers_changed(resolvers);
        self.logins_changed(logins);
    }

    /// From now on the ports are watched that this configuration has.
    pub fn watch(&mut self, config: &Config) {
        self.watched = watched(config);
    }

    /// The host has changed.
    pub fn host_changed(&mut self, facts: Facts) {
        self.facts = facts;
        self.neighbours = HostFriends::of(&self.facts, &self.resolvers, &self.spared);
    }

    /// Other name servers are asked from now on.
    pub fn resolvers_changed(&mut self, resolvers: Vec<Resolver>) {
        self.resolvers = resolvers;
        self.neighbours = HostFriends::of(&self.facts, &self.resolvers, &self.spared);
    }

    /// Whether those are spared who are logged in: whoever asks for that must find out who is.
    #[must_use]
    pub fn spares_logins(&self) -> bool {
        self.spared.contains(&HostFact::Ssh)
    }

    /// These are logged in from elsewhere, and nobody else. Whether that is news.
    pub fn logins_changed(&mut self, logins: Vec<Login>) -> bool {
        let is_news = self.logins != logins;
        self.admins = HostFriends::logged_in(&logins, &self.spared);
        self.logins = logins;
        is_news
    }

    /// Those that are let through whatever is banned: whom the ignore lists name, by names too, gateways, name servers, and who
    /// is logged in.
    #[must_use]
    pub fn let_through(&self) -> Vec<IpNet> {
        let host = self.neighbours.addresses().chain(self.admins.addresses());
        let host = host.chain(self.names.addresses());
        let host = host.map(Source::from).filter(|it| !is_special(*it));
        let ignored = self.ignored.iter().map(|entry| entry.net);
        ignored.chain(host.map(Source::net)).collect()
    }

    /// Gateways, name servers and who is logged in, up to a bound.
    pub fn of_this_host(&self) -> impl Iterator<Item = &Friend> {
        const MAX: usize = 256;
        let all = self.neighbours.iter().chain(self.admins.iter());
        all.take(MAX)
    }

    /// How many entries the ignore lists have.
    #[must_use]
    pub fn ignored(&self) -> usize {
        self.ignored.len()
    }

    /// The ignore files have changed.
    pub fn ignore_changed(&mut self, ignored: IgnoreList) {
        self.ignored = ignored;
        self.names.follow(&self.ignored, self.refresh);
    }

    /// Whether the probe was sent to this host itself, to one of its unicast addresses.
    #[must_use]
    pub fn is_ours(&self, probe: &Probe) -> bool {
        self.facts.is_own(probe.dest)
    }

    /// The mode by which the configuration watches the probe's port; `None`: it does not. Listeners tell of what reaches
    /// them, the other modes of packets; traps, of what reaches the ports of any mode.
    #[must_use]
    pub fn mode_of(&self, probe: &Probe) -> Option<WatchMode> {
        let is_told = probe.scan_type == ScanType::Connect;
        self.watched
            .iter()
            .filter(|(mode, _)| {
                let is_trapped = self.traps && is_told && probe.protocol == Protocol::Tcp;
                let is_telling = is_told == (mode.mode == Mode::Connect);
                mode.protocol == probe.protocol && (is_telling || is_trapped)
            })
            .find(|(_, ports)| ports.contains(probe.port))
            .map(|(mode, _)| *mode)
    }

    /// What a ban of `address` would name: its prefix of the configured length, or the address alone where that
    /// prefix holds somebody who must not be banned, or neighbours on a link of ours. An address that is link-local, or stands for
    /// an IPv4 one, is never widened.
    #[must_use]
    pub fn source_of(&self, address: IpAddr) -> Source {
        let alone = Source::from(address);
        let length = match alone.address() {
            IpAddr::V4(_) => self.ipv4_prefix,
            IpAddr::V6(_) => self.ipv6_prefix,
        };
        let prefix = Source::prefix(alone.address(), length);
        if prefix != alone && self.may_be_wide(prefix) {
            prefix
        } else {
            alone
        }
    }

    /// Whether a scan may have all of this prefix banned: it holds nobody who must not be, nor neighbours on a link of ours, nor
    /// everybody.
    #[must_use]
    pub fn may_be_wide(&self, prefix: Source) -> bool {
        let is_link_local = match prefix.address() {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        !is_link_local
            && !is_translated(prefix)
            && !self.facts.meets_link(&prefix.net())
            && self.friend(prefix).is_none()
    }

    /// Why `source` is not banned now, if so: it is a friend, or a prefix that holds one.
    #[must_use]
    pub fn friend(&self, source: Source) -> Option<Friend> {
        self.lasting_friend(source)
            .or_else(|| self.admins.within(source).next().cloned())
    }

    /// All of that there is to say, up to a bound, [`friend`](Self::friend) first.
    #[must_use]
    pub fn reasons(&self, source: Source) -> Vec<Friend> {
        const MAX: usize = 16;
        let mut reasons: Vec<Friend> = self.lasting_friend(source).into_iter().collect();
        let found = self.neighbours.within(source);
        let found = found.chain(self.admins.within(source)).cloned();
        for reason in self.names.within(source).chain(found).take(MAX) {
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
        reasons
    }

    /// As [`friend`](Self::friend), but for who is logged in: that may be over by now, and is looked up when it comes to a ban.
    #[must_use]
    pub fn lasting_friend(&self, source: Source) -> Option<Friend> {
        if is_special(source) || self.is_broadcast(source) {
            return Some(Friend::Special);
        }
        if let Some(own) = self.own_within(source) {
            return Some(Friend::Own(own));
        }
        let ignored = self.ignored.overlapping(source.net());
        ignored
            .map(|entry| Friend::Ignored(entry.to_string()))
            .or_else(|| self.names.within(source).next())
            .or_else(|| self.neighbours.within(source).next().cloned())
    }

    /// Whether `source` is everybody on a link of ours. On a link of two there is no such address.
    fn is_broadcast(&self, source: Source) -> bool {
        let everybody =
            |link: &IpNet| link.prefix_len() <= 30 && link.broadcast() == source.address();
        source.address().is_ipv4()
            && source.is_address()
            && self.facts.on_link().iter().any(everybody)
    }

    fn own_within(&self, source: Source) -> Option<IpAddr> {
        if !self.spared.contains(&HostFact::Addresses) {
            return None;
        }
        self.facts.own_within(&source.net())
    }
}

/// Addresses that belong to no single host: a ban of them, or of a prefix that holds one, would hit everybody or ourselves.
fn is_special(source: Source) -> bool {
    let is_special_address = match source.address() {
        IpAddr::V4(v4) => {
            v4.is_unspecified() || v4.is_loopback() || v4.is_multicast() || v4.is_broadcast()
        }
        IpAddr::V6(v6) => v6.is_unspecified() || v6.is_loopback() || v6.is_multicast(),
    };
    let holds_special = || SPECIAL.iter().any(|special| source.covers(*special));
    is_special_address || !source.is_address() && holds_special()
}

/// Whether addresses in `prefix` stand for IPv4 ones, whose owners have nothing in common: all of IPv4 by 64:ff9b::/96 and what a
/// site takes from 64:ff9b:1::/48 (RFC 6052, RFC 8215), all clients of a server by a Teredo /64 (RFC 4380).
fn is_translated(prefix: Source) -> bool {
    const WELL_KNOWN: Ipv6Net =
        Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);
    const LOCAL_USE: Ipv6Net =
        Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48);
    const TEREDO: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32);
    let IpNet::V6(prefix) = prefix.net() else {
        return false;
    };
    [WELL_KNOWN, LOCAL_USE, TEREDO]
        .iter()
        .any(|net| net.contains(&prefix) || prefix.contains(net))
}

/// An address of each special kind that a prefix may hold without beginning with one.
const SPECIAL: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V4(Ipv4Addr::new(224, 0, 0, 1)),
    IpAddr::V4(Ipv4Addr::BROADCAST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// The ports of the modes in force: those that name their ports before the one that takes all.
fn watched(config: &Config) -> Vec<(WatchMode, Ports)> {
    let mut watched = Vec::new();
    for (protocol, watch) in [(Protocol::Tcp, &config.tcp), (Protocol::Udp, &config.udp)] {
        for mode in [Mode::Connect, Mode::Stealth, Mode::Advanced] {
            if watch.modes.contains(&mode) {
                watched.push((WatchMode::new(protocol, mode), Ports::of(watch, mode)));
            }
        }
    }
    watched
}

/// The ports that one mode watches, a bit each.
struct Ports(Box<[u64]>);

impl Ports {
    fn of(watch: &Watch, mode: Mode) -> Self {
        let mut bits = vec![0; usize::from(u16::MAX) / 64 + 1];
        for port in (0..=u16::MAX).filter(|&port| watch.watches_by(mode, port)) {
            bits[usize::from(port / 64)] |= 1 << (port % 64);
        }
        Self(bits.into())
    }

    fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port / 64)] & (1 << (port % 64)) != 0
    }
}
