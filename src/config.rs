//! [`Config`]: everything an admin can set, typed. A `Config` that exists is a good one.
//!
//! No side effects but reading the files it is told to read.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::policy::Unit;

/// The whole configuration. `Config::default()` is what an empty file means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[capture]`
    pub capture: Capture,
    /// `[tcp]`
    pub tcp: Watch,
    /// `[udp]`
    pub udp: Watch,
    /// `[detect]`
    pub detect: Detect,
    /// `[ban]`
    pub ban: BanRules,
    /// `[nftables]`
    pub nftables: Nftables,
    /// `[ignore]`
    pub ignore: Ignore,
    /// `[history]`
    pub history: History,
    /// `[control]`
    pub control: Control,
    /// `[daemon]`
    pub daemon: Daemon,
}

/// `[capture]`: how packets are seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// By which kind of socket.
    pub method: Method,
    /// Interface names; empty: all but loopback.
    pub interfaces: BTreeSet<String>,
}

/// `capture.method`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Packet sockets: they see probes that the firewall drops.
    Packet,
    /// Raw IP sockets, as 1.2: they see what the firewall lets in.
    Ip,
}

/// `[tcp]`, `[udp]`: which ports are traps, and what a scan of them leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The modes in force; empty: off.
    pub modes: BTreeSet<Mode>,
    /// `stealth`: the watched ports.
    pub ports: Vec<RangeInclusive<u16>>,
    /// `advanced`: every port below this, up to 65536.
    pub below: u32,
    /// `advanced`: but not these.
    pub exclude: Vec<RangeInclusive<u16>>,
    /// What a scan leads to.
    pub response: Response,
}

/// `tcp.mode`, `udp.mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Every port below `below` that nothing listens on.
    Advanced,
    /// The ports in `ports`.
    Stealth,
}

/// `tcp.response`, `udp.response`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// The source is banned.
    Ban,
    /// The scan is logged and kept in history, nobody is banned.
    Log,
}

/// `[detect]`: what adds up to a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detect {
    /// This many, 1 to 64 …
    pub trigger: u16,
    /// … of these …
    pub count: Unit,
    /// … within this time; `None`: for ever.
    pub window: Option<Duration>,
    /// Ports where one hit is enough.
    pub decoys: Vec<RangeInclusive<u16>>,
}

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
    /// What a clean stop does to running bans.
    pub on_stop: OnStop,
    /// Active bans at most.
    pub limit: u32,
    /// New bans a second at most.
    pub rate: u32,
    /// Who makes bans real, in this order.
    pub responders: Vec<ResponderKind>,
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
}

/// `[nftables]`: where our table stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nftables {
    /// The table's name, family inet.
    pub table: String,
    /// Where packets meet it.
    pub hook: Hook,
    /// Before whom, −400 to 400; below −200 is before connection tracking.
    pub priority: i32,
}

/// `nftables.hook`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Before routing: stops forwarded traffic too.
    Prerouting,
    /// Traffic to this host alone.
    Input,
}

/// `[ignore]`: who is never banned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignore {
    /// Files of addresses and prefixes.
    pub files: Vec<IgnoreFile>,
    /// Prefixes from the configuration itself.
    pub addresses: Vec<IpNet>,
    /// What of this host is never banned.
    pub host: BTreeSet<HostFact>,
}

/// A file of addresses and prefixes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IgnoreFile {
    /// Where it is.
    pub path: PathBuf,
    /// Whether the admin named it: one that is named must exist, the default one may be missing.
    pub named: bool,
}

/// `ignore.host`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostFact {
    /// Its own addresses.
    Addresses,
    /// Its gateways.
    Gateways,
    /// Its name servers.
    Resolvers,
    /// Peers of its SSH sessions.
    Ssh,
}

/// `[history]`: what outlives a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// The SQLite file.
    pub file: PathBuf,
    /// 1.2's line for every scan acted on; `None`: none.
    pub text: Option<PathBuf>,
}

/// `[control]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// The socket commands talk to.
    pub socket: PathBuf,
}

/// `[daemon]`
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Daemon {
    /// Become this user after start; `None`: stay.
    pub user: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        let watch = Watch {
            modes: BTreeSet::from([Mode::Advanced]),
            ports: Vec::new(),
            below: 1024,
            exclude: Vec::new(),
            response: Response::Ban,
        };
        Self {
            capture: Capture {
                method: Method::Packet,
                interfaces: BTreeSet::new(),
            },
            tcp: Watch {
                exclude: vec![113..=113, 139..=139],
                ..watch.clone()
            },
            udp: Watch {
                exclude: vec![67..=68, 137..=138, 520..=520],
                ..watch
            },
            detect: Detect {
                trigger: 3,
                count: Unit::Ports,
                window: Some(Duration::from_secs(5 * 60)),
                decoys: Vec::new(),
            },
            ban: BanRules {
                duration: Some(Duration::from_secs(10 * 60)),
                escalate: 4,
                max: Some(Duration::from_secs(30 * 24 * 3600)),
                memory: Some(Duration::from_secs(90 * 24 * 3600)),
                ipv4_prefix: 32,
                ipv6_prefix: 64,
                on_stop: OnStop::Keep,
                limit: 200_000,
                rate: 1000,
                responders: vec![ResponderKind::Nftables],
            },
            nftables: Nftables {
                table: "portsentry".to_owned(),
                hook: Hook::Prerouting,
                priority: -310,
            },
            ignore: Ignore {
                files: vec![IgnoreFile {
                    path: "/etc/portsentry/ignore.list".into(),
                    named: false,
                }],
                addresses: Vec::new(),
                host: BTreeSet::from([
                    HostFact::Addresses,
                    HostFact::Gateways,
                    HostFact::Resolvers,
                    HostFact::Ssh,
                ]),
            },
            history: History {
                file: "/var/lib/portsentry/history.db".into(),
                text: Some("/var/lib/portsentry/history.log".into()),
            },
            control: Control {
                socket: "/run/portsentry/control.sock".into(),
            },
            daemon: Daemon::default(),
        }
    }
}

impl Watch {
    /// Whether `port` is a trap as far as the configuration goes.
    #[must_use]
    pub fn watches(&self, port: u16) -> bool {
        let listed =
            |ranges: &[RangeInclusive<u16>]| ranges.iter().any(|range| range.contains(&port));
        (self.modes.contains(&Mode::Stealth) && listed(&self.ports))
            || (self.modes.contains(&Mode::Advanced)
                && u32::from(port) < self.below
                && !listed(&self.exclude))
    }
}
