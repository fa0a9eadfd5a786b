//! [`Config`]: everything an admin can set, typed. A `Config` that exists is a good one.
//!
//! Here are the whole and its defaults; `watch`, `bans` and `responders` hold the larger tables. The native file is read
//! by `native`, key by key as `keys` says, and printed by `convert`; 1.2's is read by `legacy`, ignore files by
//! [`ignore`]; `restart` knows what of a new one takes effect at a restart only. No side effects but reading the files it
//! is told to read.

mod bans;
mod complaint;
mod convert;
mod files;
mod fit;
pub mod ignore;
mod keys;
mod legacy;
mod native;
mod responders;
mod restart;
mod syntax;
mod value;
mod watch;
mod write;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use bans::{BanRules, OnStop, ResponderKind, RollUp};
pub(crate) use complaint::printable;
pub use complaint::{Complaint, Complaints};
pub use convert::converted;
use files::cannot_read;
pub(crate) use files::read_file;
use ignore::{Syntax, Whom};
pub use responders::{
    CommandLine, Commands, Hook, HostsDeny, Iptables, LogRate, Nftables, Own, Route, RouteKind,
    When,
};
pub use watch::{Mode, Response, Watch, WatchMode};

use crate::policy::Unit;
use crate::probe::Protocol;

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

/// What proves that a source is who it says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirm {
    /// Nothing is asked for: packets count whose sender may be forged.
    None,
    /// A TCP handshake with a trap.
    Handshake,
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
