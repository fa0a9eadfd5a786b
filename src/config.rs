//! [`Config`]: everything an admin can set, typed. A `Config` that exists is a good one.
//!
//! Here are the types and their defaults. The native file is read by `native`, key by key as `keys` says, and printed by
//! `convert`; 1.2's is read by `legacy`, ignore files by [`ignore`]; `restart` knows what of a new one takes effect at a restart only. No side
//! effects but reading the files it is told to read.

mod complaint;
mod convert;
mod fit;
pub mod ignore;
mod keys;
mod legacy;
mod native;
mod restart;
mod syntax;
mod value;
mod write;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::ops::RangeInclusive;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use complaint::printable;
pub use complaint::{Complaint, Complaints};
pub use convert::converted;
use ignore::{Syntax, Whom};

use crate::policy::Unit;
use crate::probe::Protocol;
use crate::source::Source;

/// Where the configuration is, unless the command line says otherwise.
pub const DEFAULT_PATH: &str = "/etc/portsentry/portsentry.toml";

/// Where 1.2's configuration is: on Debian, and as its authors installed it.
const LEGACY_PATHS: [&str; 2] = [
    "/etc/portsentry/portsentry.conf",
    "/usr/local/psionic/portsentry/portsentry.conf",
];

/// What Debian's scripts for 1.2 made the ignore file beside it of, at each start: the entries that the admin keeps.
const LEGACY_SECOND_IGNORE_FILE: &str = "portsentry.ignore.static";

/// The ignore file that may be missing, because the default and the sample name it.
pub const DEFAULT_IGNORE_FILE: &str = "/etc/portsentry/ignore.list";

/// A configuration, and what has to be said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// What is in force.
    pub config: Config,
    /// What of a 1.2 configuration is not as it was written: a line each, bounded in number, safe to print. Where 1.2
    /// had a text for it, it is that text and nothing else.
    pub warnings: Vec<String>,
}

/// Where the configuration is: the native one, or else 1.2's where that exists.
#[must_use]
pub fn default_path() -> PathBuf {
    first_of([DEFAULT_PATH].into_iter().chain(LEGACY_PATHS)).unwrap_or_else(|| DEFAULT_PATH.into())
}

/// Where the configuration is that 1.2's flags speak of.
#[must_use]
pub fn legacy_path() -> PathBuf {
    first_of(LEGACY_PATHS.into_iter()).unwrap_or_else(|| LEGACY_PATHS[0].into())
}

fn first_of(mut paths: impl Iterator<Item = &'static str>) -> Option<PathBuf> {
    paths
        .find(|path| Path::new(path).exists())
        .map(PathBuf::from)
}

/// Whether the file at `path` is read as 1.2's: its name ends in `.conf`.
#[must_use]
pub fn is_legacy(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "conf")
}

/// Reads the configuration at `path`, and merges `<path>.d/*.toml` over it, in the order of their names, key by key.
///
/// # Errors
/// Everything that is wrong in all of these files, at once.
pub fn load(path: &Path) -> Result<Config, Complaints> {
    load_with(path, &BTreeSet::new()).map(|loaded| loaded.config)
}

/// As [`load`], with the warnings, and with the modes for a 1.2 configuration, which does not hold them itself. Where
/// `modes` is empty, they are those that its init scripts would start it in.
///
/// # Errors
/// Everything that is wrong in all of these files, at once; modes for a native configuration, which has its own.
pub fn load_with(path: &Path, modes: &BTreeSet<WatchMode>) -> Result<Loaded, Complaints> {
    native::load(path, modes)
}

/// `[control]` of the configuration at `path`, as far as it can be read: what a command finds the daemon by when the
/// configuration has been spoilt since the start.
#[must_use]
pub fn control(path: &Path) -> Control {
    native::control(path)
}

/// Reads `text` as the whole configuration. `file` is the name by which complaints call it; it need not exist.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn parse(file: &Path, text: &str) -> Result<Config, Complaints> {
    native::parse(file, text)
}

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
    /// `[iptables]`
    pub iptables: Iptables,
    /// `[route]`
    pub route: Route,
    /// `[hosts-deny]`
    pub hosts_deny: HostsDeny,
    /// `[command]`
    pub command: Commands,
    /// `[listen]`
    pub listen: Listen,
    /// `[ignore]`
    pub ignore: Ignore,
    /// `[history]`
    pub history: History,
    /// `[log]`
    pub log: Log,
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
    /// `stealth`, `connect`: the watched ports.
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
    /// The ports in `ports`, by packets that arrive for them.
    Stealth,
    /// The ports in `ports`, by listening on them.
    Connect,
}

/// A mode of one protocol: what one of 1.2's flags asks for, and what its commands and files know as the mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WatchMode {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Which of the three.
    pub mode: Mode,
}

impl WatchMode {
    /// All six, in the order of 1.2's usage line.
    pub const ALL: [Self; 6] = [
        Self::new(Protocol::Tcp, Mode::Connect),
        Self::new(Protocol::Udp, Mode::Connect),
        Self::new(Protocol::Tcp, Mode::Stealth),
        Self::new(Protocol::Tcp, Mode::Advanced),
        Self::new(Protocol::Udp, Mode::Stealth),
        Self::new(Protocol::Udp, Mode::Advanced),
    ];

    /// The mode of that protocol.
    #[must_use]
    pub const fn new(protocol: Protocol, mode: Mode) -> Self {
        Self { protocol, mode }
    }

    /// 1.2's word: `tcp`, `udp`, `stcp`, `sudp`, `atcp`, `audp`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match (self.protocol, self.mode) {
            (Protocol::Tcp, Mode::Connect) => "tcp",
            (Protocol::Udp, Mode::Connect) => "udp",
            (Protocol::Tcp, Mode::Stealth) => "stcp",
            (Protocol::Udp, Mode::Stealth) => "sudp",
            (Protocol::Tcp, Mode::Advanced) => "atcp",
            (Protocol::Udp, Mode::Advanced) => "audp",
        }
    }

    /// The mode of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

/// `tcp.response`, `udp.response`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// The source is banned.
    Ban,
    /// The scan is logged and kept in history, nobody is banned.
    Log,
    /// As [`Log`](Self::Log), and `command.run` is told.
    Command,
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
    /// What has to complete a scan.
    pub confirm: Confirm,
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

/// `16 in /56`: so many bans in one prefix of that length become one ban of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RollUp {
    /// How many, at least two.
    pub count: u32,
    /// The length of the prefix in bits.
    pub prefix_len: u8,
}

/// What proves that a source is who it says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirm {
    /// Nothing is asked for: packets count whose sender may be forged.
    None,
    /// A TCP handshake with a trap.
    Handshake,
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

/// `[listen]`
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Listen {
    /// What whoever connects is told; empty: nothing.
    pub banner: String,
}

/// `[log]`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Log {
    /// Whether further probes of a source that is dealt with already are logged too, some a second at most.
    pub repeats: bool,
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
    /// Files of addresses, prefixes and names; a key for each syntax names them.
    pub files: Vec<IgnoreFile>,
    /// The same, from the configuration itself.
    pub addresses: Vec<Whom>,
    /// After how long it is looked up again where a name leads to.
    pub refresh: Duration,
    /// What of this host is never banned.
    pub host: BTreeSet<HostFact>,
}

/// A file of addresses and prefixes.
///
/// A file at [`DEFAULT_IGNORE_FILE`] counts as unnamed even where the configuration spells it out, as the sample does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IgnoreFile {
    /// Where it is.
    pub path: PathBuf,
    /// Whether the admin named it: one that is named must exist, the default one may be missing.
    pub named: bool,
    /// How its lines are read.
    pub syntax: Syntax,
}

impl IgnoreFile {
    /// The file at `path` in our syntax, named by the admin unless it is the default one.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            named: path != Path::new(DEFAULT_IGNORE_FILE),
            syntax: Syntax::Ours,
            path,
        }
    }

    /// The file at `path` in 1.2's syntax, which must exist unless it is the second one that Debian has.
    pub(crate) fn legacy(path: PathBuf) -> Self {
        let is_second = path
            .file_name()
            .is_some_and(|name| name == LEGACY_SECOND_IGNORE_FILE);
        Self {
            named: !is_second,
            syntax: Syntax::Legacy,
            path,
        }
    }
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
    /// The same line in one file for each mode, this path with `.` and the mode's name behind it, which begins empty at every
    /// start; `None`: none.
    pub blocked: Option<PathBuf>,
    /// Whether names are looked up for log and text lines.
    pub resolve: bool,
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
                confirm: Confirm::None,
            },
            ban: BanRules {
                duration: Some(Duration::from_secs(10 * 60)),
                escalate: 4,
                max: Some(Duration::from_secs(30 * 24 * 3600)),
                memory: Some(Duration::from_secs(90 * 24 * 3600)),
                ipv4_prefix: 32,
                ipv6_prefix: 64,
                ipv4_rollup: Vec::new(),
                ipv6_rollup: vec![
                    RollUp {
                        count: 4,
                        prefix_len: 64,
                    },
                    RollUp {
                        count: 16,
                        prefix_len: 56,
                    },
                    RollUp {
                        count: 64,
                        prefix_len: 48,
                    },
                ],
                rollup_confirm: Confirm::Handshake,
                on_stop: OnStop::Keep,
                limit: 200_000,
                rate: 1000,
                responders: vec![ResponderKind::Nftables],
            },
            nftables: Nftables {
                table: "portsentry".to_owned(),
                hook: Hook::Prerouting,
                priority: -310,
                log: None,
                own: Own::Off,
                optional: false,
            },
            iptables: Iptables {
                chain: "PORTSENTRY".to_owned(),
                optional: false,
            },
            route: Route {
                kind: RouteKind::Unreachable,
                optional: false,
            },
            hosts_deny: HostsDeny {
                file: "/etc/hosts.deny".into(),
                line: "ALL: {source}".to_owned(),
                optional: false,
            },
            command: Commands {
                run: None,
                ban: None,
                unban: None,
                when: When::After,
                timeout: Duration::from_secs(10),
            },
            listen: Listen::default(),
            ignore: Ignore {
                files: vec![IgnoreFile {
                    path: DEFAULT_IGNORE_FILE.into(),
                    named: false,
                    syntax: Syntax::Ours,
                }],
                addresses: Vec::new(),
                refresh: Duration::from_secs(5 * 60),
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
                blocked: None,
                resolve: false,
            },
            log: Log::default(),
            control: Control {
                socket: "/run/portsentry/control.sock".into(),
            },
            daemon: Daemon::default(),
        }
    }
}

impl Ignore {
    /// The paths of the files in that syntax.
    fn files_in(&self, syntax: Syntax) -> impl Iterator<Item = &Path> {
        let files = self.files.iter();
        files
            .filter(move |file| file.syntax == syntax)
            .map(|file| file.path.as_path())
    }

    /// Puts these files in place of those in their syntax.
    fn set_files_in(&mut self, syntax: Syntax, files: Vec<IgnoreFile>) {
        self.files.retain(|file| file.syntax != syntax);
        self.files.extend(files);
        // Ours come first, whichever key was read first.
        self.files.sort_by_key(|file| file.syntax == Syntax::Legacy);
    }
}

impl Config {
    /// The modes in force.
    pub fn watch_modes(&self) -> impl Iterator<Item = WatchMode> {
        WatchMode::ALL.into_iter().filter(|mode| {
            let watch = match mode.protocol {
                Protocol::Tcp => &self.tcp,
                Protocol::Udp => &self.udp,
            };
            watch.modes.contains(&mode.mode)
        })
    }

    /// This configuration, but in these of its modes alone.
    #[must_use]
    pub fn in_modes(mut self, modes: &BTreeSet<WatchMode>) -> Self {
        for (protocol, watch) in [
            (Protocol::Tcp, &mut self.tcp),
            (Protocol::Udp, &mut self.udp),
        ] {
            let is_one = |mode: &Mode| modes.contains(&WatchMode::new(protocol, *mode));
            watch.modes.retain(is_one);
        }
        self
    }

    /// Whether traps take connections to the watched TCP ports, so that handshakes can be completed.
    #[must_use]
    pub fn has_traps(&self) -> bool {
        self.detect.confirm == Confirm::Handshake
    }
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

impl Watch {
    /// Whether `port` is a trap of that mode as far as the configuration goes.
    #[must_use]
    pub fn watches_by(&self, mode: Mode, port: u16) -> bool {
        self.modes.contains(&mode)
            && match mode {
                Mode::Stealth | Mode::Connect => listed(&self.ports, port),
                Mode::Advanced => u32::from(port) < self.below && !listed(&self.exclude, port),
            }
    }

    /// Whether `port` is a trap of any mode.
    #[must_use]
    pub fn watches(&self, port: u16) -> bool {
        [Mode::Stealth, Mode::Advanced, Mode::Connect]
            .into_iter()
            .any(|mode| self.watches_by(mode, port))
    }

    /// The ports that are traps of any mode, but for port 0, in ranges that neither touch nor overlap.
    #[must_use]
    pub fn ranges(&self) -> Vec<RangeInclusive<u16>> {
        let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
        for port in (1..=u16::MAX).filter(|&port| self.watches(port)) {
            match ranges.last_mut() {
                Some(last) if last.end().checked_add(1) == Some(port) => {
                    *last = *last.start()..=port;
                }
                _ => ranges.push(port..=port),
            }
        }
        ranges
    }

    /// The least range that holds all ports watched by their packets; `None` where none is. Decoys lie within it: they
    /// count only where they are watched.
    #[must_use]
    pub fn span(&self) -> Option<RangeInclusive<u16>> {
        let has = |mode| self.modes.contains(&mode);
        let named = self.ports.iter().filter(|_| has(Mode::Stealth));
        let below = if has(Mode::Advanced) { self.below } else { 0 };
        let mut open = (0..below)
            .filter_map(|port| u16::try_from(port).ok())
            .filter(|&port| !listed(&self.exclude, port));
        let ends: Vec<u16> = named
            .flat_map(|range| [*range.start(), *range.end()])
            .chain(open.next())
            .chain(open.next_back())
            .collect();
        Some(*ends.iter().min()?..=*ends.iter().max()?)
    }
}

fn listed(ranges: &[RangeInclusive<u16>], port: u16) -> bool {
    ranges.iter().any(|range| range.contains(&port))
}

/// What the file holds, unless it holds more than `limit`.
pub(crate) fn read_file(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // A pipe that nobody writes to must not stop us.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let kind = file.metadata()?.file_type();
    if !kind.is_file() && !kind.is_dir() {
        return Err(io::Error::other("it is no regular file"));
    }
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > limit) {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

/// Cause and remedy for a file that [`read_file`] could not read.
fn cannot_read(error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => "there is no such file; create it, or name another",
        io::ErrorKind::PermissionDenied => {
            "permission denied; it must belong to the user portsentry runs as or be readable for all, also for root, who gives up the right to read everything"
        }
        io::ErrorKind::IsADirectory => "it is a directory; name a file",
        io::ErrorKind::FileTooLarge => "it is too large to be what it should; name another",
        _ => return format!("cannot read the file: {error}; see that it can be read with cat"),
    };
    format!("cannot read the file: {remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        parse(Path::new("/p.toml"), text).unwrap_or_else(|wrong| panic!("{wrong}"))
    }

    #[test]
    fn what_is_watched_in_fewer_modes_is_otherwise_the_same() {
        let modes = |names: &[&str]| -> BTreeSet<WatchMode> {
            let modes = names.iter().filter_map(|name| WatchMode::from_name(name));
            modes.collect()
        };
        let before = Config::default();
        assert_eq!(
            before.watch_modes().collect::<BTreeSet<_>>(),
            modes(&["atcp", "audp"])
        );
        let after = before.clone().in_modes(&modes(&["audp", "stcp"]));
        assert_eq!(
            after.watch_modes().collect::<BTreeSet<_>>(),
            modes(&["audp"])
        );
        let mut back = after;
        back.tcp.modes.insert(Mode::Advanced);
        assert_eq!(back, before);
    }

    #[test]
    fn the_span_holds_all_watched_ports_and_no_more() {
        for (text, span) in [
            ("", Some(0..=1023)),
            ("tcp.mode = \"off\"", None),
            ("tcp.exclude = [\"0-9\", \"1000-1023\"]", Some(10..=999)),
            (
                "tcp.mode = \"stealth\"\ntcp.ports = [7, \"80-90\"]",
                Some(7..=90),
            ),
            (
                "tcp.mode = [\"advanced\", \"stealth\"]\ntcp.ports = [65535]",
                Some(0..=65535),
            ),
            ("tcp.below = 65536", Some(0..=65535)),
            ("tcp.below = 9\ntcp.exclude = [\"0-7\"]", Some(8..=8)),
        ] {
            assert_eq!(config(text).tcp.span(), span, "{text}");
        }
    }
}
