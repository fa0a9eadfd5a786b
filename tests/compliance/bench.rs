//! The test bench: a host with one implementation on it, a stranger on a cable, and what can be seen of both.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::{TimeZone, offset};
use socket2::{Domain, Socket, Type};

use crate::case::{Implementation, fits};
use crate::dns::NameServer;
use crate::host::Host;
use crate::sandbox::Sandbox;
use crate::syslog::Syslog;
use crate::{PATIENCE, eventually, within};

/// The host under test.
pub(crate) const HOST: &str = "10.77.0.1";
/// Whoever scans it.
pub(crate) const STRANGER: &str = "10.77.0.2";

pub(crate) struct Bench {
    which: Implementation,
    // Before the hosts: its processes must end before their network does.
    sandbox: Sandbox,
    name_server: Option<NameServer>,
    syslog: Syslog,
    pub(crate) host: Host,
    pub(crate) stranger: Host,
    /// Modes that are expected to run, in the order of their start.
    modes: Vec<String>,
    /// Log lines before this are not looked at.
    from: usize,
    notes: Vec<String>,
    canaries: Vec<Canary>,
    canary_port: u16,
    begin: Timestamp,
}

/// A source whose probes only show that all before them have been judged.
struct Canary {
    address: Ipv4Addr,
}

pub(crate) const CONF: &str = "/etc/portsentry/portsentry.conf";
pub(crate) const IGNORE: &str = "/etc/portsentry/portsentry.ignore";
pub(crate) const HISTORY: &str = "/var/lib/portsentry/portsentry.history";
pub(crate) const BLOCKED: &str = "/var/lib/portsentry/portsentry.blocked";
pub(crate) const HOSTS_DENY: &str = "/etc/hosts.deny";
/// Where the commands of a case's configuration write what they are told.
pub(crate) const RAN: &str = "/run/ran";

/// The configuration where a case does not say otherwise. Port 1 is the canaries'.
const DEFAULTS: &str = r#"
TCP_PORTS="1,11,15,79,111"
UDP_PORTS="1,9,69,513,635"
ADVANCED_PORTS_TCP="1024"
ADVANCED_PORTS_UDP="1024"
ADVANCED_EXCLUDE_TCP="113,139"
ADVANCED_EXCLUDE_UDP="520,138,137,67"
IGNORE_FILE="/etc/portsentry/portsentry.ignore"
HISTORY_FILE="/var/lib/portsentry/portsentry.history"
BLOCKED_FILE="/var/lib/portsentry/portsentry.blocked"
RESOLVE_HOST="0"
BLOCK_UDP="1"
BLOCK_TCP="1"
KILL_HOSTS_DENY="ALL: $TARGET$ : DENY"
SCAN_TRIGGER="0"
"#;

const MODES: [&str; 6] = ["tcp", "udp", "stcp", "sudp", "atcp", "audp"];

/// Local time on the host: five hours behind, so that it is not taken for another's.
const ZONE: &str = "EST5";
const ZONE_HOURS: i8 = -5;

impl Bench {
    pub(crate) fn new(which: Implementation) -> Self {
        let (host, stranger) = (Host::new("host"), Host::new("stranger"));
        host.cable(
            "eth0",
            &["10.77.0.1/24 broadcast 10.77.0.255"],
            &stranger,
            "eth0",
            &["10.77.0.2/24 broadcast 10.77.0.255"],
        );
        let syslog = Syslog::new();
        let sandbox = Sandbox::new(&host, &syslog.path());
        sandbox.write(IGNORE, "");
        Self {
            which,
            sandbox,
            name_server: None,
            syslog,
            host,
            stranger,
            modes: Vec::new(),
            from: 0,
            notes: Vec::new(),
            canaries: Vec::new(),
            canary_port: 1,
            begin: Timestamp::now(),
        }
    }

    /// Writes the configuration: the default one, where these lines take the place of others with the same key. A line
    /// `#KEY` takes the key away.
    pub(crate) fn configure(&self, lines: &str) {
        let key = |line: &str| {
            line.trim_start_matches('#')
                .split(['=', ' '])
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        let own: Vec<String> = lines.lines().map(|line| key(line.trim_start())).collect();
        let mut text = String::new();
        for line in DEFAULTS.lines().filter(|line| !own.contains(&key(line))) {
            text.push_str(line);
            text.push('\n');
        }
        for line in lines.lines() {
            text.push_str(line.trim_start());
            text.push('\n');
        }
        self.write(CONF, text);
    }

    /// Starts the implementation with this configuration in these modes ("-tcp -udp"), one process a mode as init scripts do,
    /// and waits until each is active. What it has logged until then is not looked at.
    pub(crate) fn start(&mut self, modes: &str, conf: &str) {
        self.configure(conf);
        self.start_again(modes);
        self.from = self.syslog.texts().len();
    }

    /// As [`start`](Self::start), with the configuration as it is, and what is logged is looked at.
    pub(crate) fn start_again(&mut self, modes: &str) {
        for mode in modes.split_whitespace() {
            let active = self.active();
            let (status, said) = self.launch(mode);
            assert_eq!(status, 0, "portsentry {mode} failed: {said}");
            eventually(&format!("portsentry {mode} is active"), || {
                (self.active() > active).then_some(())
            });
            self.modes.push(mode.to_owned());
        }
    }

    /// How many times somebody has become active.
    fn active(&self) -> usize {
        let texts = self.syslog.texts();
        let active = |text: &&String| *text == "adminalert: PortSentry is now active and listening.";
        texts.iter().filter(active).count()
    }

    /// Runs the implementation with this flag until it returns; its exit status and what it printed.
    pub(crate) fn launch(&self, mode: &str) -> (i32, String) {
        let program = match self.which {
            Implementation::Original => {
                let original = target().join("original/usr/sbin/portsentry");
                assert!(
                    original.exists(),
                    "the original is not there: run tests/compliance/fetch"
                );
                original
            }
            Implementation::Ours => PathBuf::from(env!("CARGO_BIN_EXE_portsentry")),
        };
        let mut command = self.sandbox.command(program);
        command.arg(mode).env("TZ", ZONE).env("LC_ALL", "C");
        let (status, said) = self.sandbox.run(command);
        (status.code().unwrap_or(-1), said)
    }

    /// Ends all of it as init scripts do, and notes how each process ended.
    pub(crate) fn stop(&mut self) {
        let alive = || {
            let mut processes = self.sandbox.processes("portsentry");
            processes.retain(|process| process.ended.is_none());
            processes
        };
        let running = alive();
        assert!(!running.is_empty(), "it does not run");
        for process in &running {
            self.sandbox.sh(&format!("kill -TERM {}", process.pid));
        }
        eventually("it ends", || alive().is_empty().then_some(()));
        self.modes.clear();
        for process in self.sandbox.processes("portsentry") {
            if running.iter().any(|one| one.pid == process.pid) {
                self.notes.push(ended(process.ended.unwrap_or_default()));
            }
        }
    }

    /// How the processes that have ended did so.
    pub(crate) fn note_ends(&mut self) {
        self.modes.clear();
        let processes = eventually("somebody has ended", || {
            let mut processes = self.sandbox.processes("portsentry");
            // The one that was started and has gone into the background is gone for good, as its parent has waited for it.
            processes.retain(|process| process.ended.is_some());
            (!processes.is_empty()).then_some(processes)
        });
        for process in processes {
            self.notes.push(ended(process.ended.unwrap_or_default()));
        }
    }

    /// Looks at everything logged, also during the start.
    pub(crate) fn look_at_the_start(&mut self) {
        self.from = 0;
    }

    /// Nobody is expected to judge anything any more.
    pub(crate) fn no_canary(&mut self) {
        self.modes.clear();
    }

    /// Another port for canaries than 1.
    pub(crate) fn canary_port(&mut self, port: u16) {
        self.canary_port = port;
    }

    /// Scans with nmap: its scan type, and ports.
    pub(crate) fn nmap(&self, how: &str, ports: &str) {
        self.stranger.nmap(how, ports, HOST);
    }

    /// Connects with nc and says nothing; what the other side said.
    pub(crate) fn nc(&self, how: &str, port: u16) -> String {
        let output = self
            .stranger
            .command("nc")
            .args(how.split_whitespace())
            .args(["-w", "2", HOST, &port.to_string()])
            .output()
            .expect("ip is there");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Has a name server answer for the stranger's reverse zone.
    pub(crate) fn name_server(&mut self, labels: &[&[u8]]) -> &NameServer {
        self.name_server.insert(NameServer::start(&self.host, labels))
    }

    /// A TCP listener on the host, in the sandbox's network.
    pub(crate) fn listen(&self, port: u16) -> std::net::TcpListener {
        let address = SocketAddr::new(address(HOST), port);
        self.host
            .inside(|| std::net::TcpListener::bind(address))
            .unwrap_or_else(|error| panic!("cannot listen on port {port}: {error}"))
    }

    pub(crate) fn sh(&self, line: &str) -> String {
        self.sandbox.sh(line)
    }

    pub(crate) fn read(&self, path: &str) -> String {
        self.sandbox.read(path)
    }

    pub(crate) fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        self.sandbox.write(path, text);
    }

    /// Where a file of the host is seen from outside.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.sandbox.path(inside)
    }

    /// Adds a line to what is seen.
    pub(crate) fn note(&mut self, line: impl Into<String>) {
        self.notes.push(line.into());
    }

    /// Waits until a line that fits is seen.
    pub(crate) fn until(&self, like: &str) {
        eventually(like, || {
            self.seen().iter().any(|line| fits(line, like)).then_some(())
        });
    }

    /// Waits until this many lines that fit are seen.
    pub(crate) fn until_times(&self, times: usize, like: &str) {
        eventually(like, || {
            let lines = self.seen();
            (lines.iter().filter(|line| fits(line, like)).count() >= times).then_some(())
        });
    }

    /// Waits until what is seen is as it should be, or until patience ends.
    pub(crate) fn wait_until(&self, as_expected: impl Fn(&[String]) -> bool) {
        within(PATIENCE, || as_expected(&self.seen()).then_some(()));
    }

    /// Sends a canary into each mode and waits for its line. Packets are judged in their order, so all before have been.
    pub(crate) fn everything_is_judged(&mut self) {
        for mode in self.modes.clone() {
            let last = u8::try_from(101 + self.canaries.len()).expect("a case has few canaries");
            let address = Ipv4Addr::new(10, 77, 0, last);
            self.stranger.ip(&format!("addr add {address}/24 dev eth0"));
            self.canaries.push(Canary { address });
            let text = format!("/{address} ");
            eventually(&format!("the canary {address} of {mode} sings"), || {
                self.sing(&mode, address);
                // A moment for its line, before it sings again.
                within(Duration::from_millis(200), || {
                    let texts = self.syslog.texts();
                    texts.iter().any(|line| line.contains(&text)).then_some(())
                })
            });
        }
    }

    fn sing(&self, mode: &str, from: Ipv4Addr) {
        let to = SocketAddr::new(address(HOST), self.canary_port);
        self.stranger.inside(|| {
            let from = SocketAddr::from((from, 0));
            if mode.ends_with("tcp") {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("there is IPv4");
                socket.bind(&from.into()).expect("the address was added");
                // Refused or not, the host has had a SYN.
                let _ = socket.connect_timeout(&to.into(), Duration::from_millis(500));
            } else {
                let socket = UdpSocket::bind(from).expect("the address was added");
                let _ = socket.send_to(b"canary", to);
            }
        });
    }

    /// Everything that is to be seen, a line each: log lines that are 1.2's, then the lines of the files by their names, then
    /// the notes.
    pub(crate) fn seen(&self) -> Vec<String> {
        let mut lines = self.logged();
        lines.extend(self.records("history", HISTORY));
        for mode in MODES {
            lines.extend(self.records(&format!("blocked.{mode}"), &format!("{BLOCKED}.{mode}")));
        }
        for (name, path) in [("hosts.deny", HOSTS_DENY), ("ran", RAN)] {
            let text = self.read(path);
            let others = text.lines().filter(|line| !self.is_a_canarys(line));
            lines.extend(others.map(|line| format!("{name}: {line}")));
        }
        lines.extend(self.notes.iter().cloned());
        lines
    }

    /// Log lines that are 1.2's, or that are not as syslog has them.
    fn logged(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut after_a_canary = false;
        for text in self.syslog.texts().into_iter().skip(self.from) {
            if self.is_a_canarys(&text) {
                after_a_canary = true;
                continue;
            }
            // The one line about a source that does not name it.
            let of_a_canary = after_a_canary
                && text.starts_with("attackalert: Ignoring ")
                && text.ends_with(" response per configuration file setting.");
            after_a_canary = false;
            let is_theirs = ["attackalert: ", "adminalert: ", "securityalert: ", "<"]
                .iter()
                .any(|start| text.starts_with(start));
            if is_theirs && !of_a_canary {
                lines.push(text);
            }
        }
        lines
    }

    /// The lines of a history or blocked file: without their time, where it is a good one.
    fn records(&self, name: &str, path: &str) -> Vec<String> {
        let text = self.read(path);
        text.lines()
            .filter(|line| !self.is_a_canarys(line))
            .map(|line| format!("{name}: {}", self.undated(line).unwrap_or(line)))
            .collect()
    }

    /// A record without its time. The time must be one since the case began, and the same in both of its forms.
    fn undated<'a>(&self, line: &'a str) -> Option<&'a str> {
        let (epoch, rest) = line.split_once(" - ")?;
        let time = Timestamp::from_second(epoch.parse().ok()?).ok()?;
        let zone = TimeZone::fixed(offset(ZONE_HOURS));
        let local = time.to_zoned(zone).strftime("%m/%d/%Y %H:%M:%S ").to_string();
        let plausible =
            (self.begin.as_second()..=Timestamp::now().as_second()).contains(&time.as_second());
        rest.strip_prefix(&local).filter(|_| plausible)
    }

    fn is_a_canarys(&self, line: &str) -> bool {
        self.canaries.iter().any(|canary| {
            let address = canary.address.to_string();
            line.match_indices(&address).any(|(at, _)| {
                let digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
                !digit(line.as_bytes().get(at + address.len()))
            })
        })
    }

    /// All there is to tell when a case fails.
    pub(crate) fn everything(&self) -> String {
        let mut text = String::from("log:\n");
        for line in self.syslog.datagrams() {
            writeln!(text, "  {}", String::from_utf8_lossy(&line)).expect("a string takes it");
        }
        for path in [HISTORY, HOSTS_DENY, RAN, "/run/said"] {
            for line in self.read(path).lines() {
                writeln!(text, "  {path}: {line}").expect("a string takes it");
            }
        }
        text
    }
}

/// How a process ended, in words.
fn ended(status: i32) -> String {
    match (status & 0x7f, status >> 8) {
        (0, code) => format!("exit status {code}"),
        (signal, _) => format!("killed by signal {signal}"),
    }
}

/// Where `tests/compliance/fetch` unpacks.
pub(crate) fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/compliance")
}

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().expect("the bench's addresses are good")
}
