//! The test bench: a host with one implementation on it, a stranger on a cable, and what can be seen of both.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
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
/// The same two, where a case gives them an IPv6 address.
pub(crate) const HOST6: &str = "fd77::1";
pub(crate) const STRANGER6: &str = "fd77::2";

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
    only_notes: bool,
    /// Sources whose probes only show that all before them have been judged.
    canaries: Vec<Ipv4Addr>,
    /// How many lines were logged before the first of them sang.
    first_song: Option<usize>,
    begin: Timestamp,
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

const CANARY_PORT: u16 = 1;

const ACTIVE: &str = "adminalert: PortSentry is now active and listening.";

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
            only_notes: false,
            canaries: Vec::new(),
            first_song: None,
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
        texts.iter().filter(|text| *text == ACTIVE).count()
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

    /// Starts the implementation where it cannot succeed, and notes whether it is told.
    pub(crate) fn refuses(&mut self, mode: &str) {
        let (status, said) = self.launch(mode);
        self.note(format!("succeeds: {}", status == 0));
        self.note(format!("says something: {}", !said.is_empty()));
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

    /// Waits until something is recorded in history, or until a process has ended, of which no more is expected; which of the
    /// two it was.
    pub(crate) fn recorded_or_ended(&mut self) -> String {
        let end = eventually("something is recorded, or somebody has ended", || {
            let processes = self.sandbox.processes("portsentry");
            let ended = processes.into_iter().find_map(|process| process.ended);
            (ended.is_some() || !self.read(HISTORY).is_empty()).then_some(ended)
        });
        let Some(status) = end else {
            return "recorded".to_owned();
        };
        self.modes.clear();
        ended(status)
    }

    /// Does not look at what was logged until the last mode became active.
    pub(crate) fn look_behind_the_start(&mut self) {
        let texts = self.syslog.texts();
        let active = texts.iter().rposition(|text| text == ACTIVE);
        self.from = active.map_or(texts.len(), |at| at + 1);
    }

    pub(crate) fn forget_notes(&mut self) {
        self.notes.clear();
    }

    /// How many questions the name server has had.
    pub(crate) fn asked(&self) -> u32 {
        self.name_server.as_ref().map_or(0, NameServer::asked)
    }

    /// Scans with nmap: its scan type, and ports.
    pub(crate) fn nmap(&self, how: &str, ports: &str) {
        self.stranger.nmap(how, ports, HOST);
    }

    /// Says a word with nc; what the other side said.
    pub(crate) fn nc(&self, how: &str, port: u16) -> String {
        let mut child = self
            .stranger
            .command("nc")
            .args(how.split_whitespace())
            .args([HOST, &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("ip is there");
        let mut input = child.stdin.take().expect("it was asked for");
        // Who has been answered and left does not read it any more.
        let _ = input.write_all(b"hello\n");
        let output = child.wait_with_output().expect("it is our child");
        // Until then it must not think that all is said.
        drop(input);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Has a name server answer for the stranger's reverse zone.
    pub(crate) fn name_server(&mut self, labels: &[&[u8]]) -> &NameServer {
        self.name_server
            .insert(NameServer::start(&self.host, labels))
    }

    /// Gives both hosts an IPv6 address.
    pub(crate) fn speak_ipv6(&self) {
        for (host, address) in [(&self.host, HOST6), (&self.stranger, STRANGER6)] {
            host.ip(&format!("addr add {address}/64 dev eth0 nodad"));
        }
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

    /// What is seen is nothing but these lines: what a reader of the log has found in it.
    pub(crate) fn report(&mut self, found: &str) {
        self.only_notes = true;
        self.notes
            .extend(found.lines().map(|line| line.trim_start().to_owned()));
        self.notes.retain(|line| !line.is_empty());
    }

    /// The log of 1.2's words, without the canaries'.
    pub(crate) fn log(&self) -> String {
        self.logged().join("\n")
    }

    /// History, without the canaries'.
    pub(crate) fn history(&self) -> String {
        let text = self.read(HISTORY);
        let others = text.lines().filter(|line| !self.is_a_canarys(line));
        others.map(|line| format!("{line}\n")).collect()
    }

    /// Adds a line to what is seen.
    pub(crate) fn note(&mut self, line: impl Into<String>) {
        self.notes.push(line.into());
    }

    /// Waits until a line that fits is seen.
    pub(crate) fn until(&self, like: &str) {
        eventually(like, || {
            self.seen()
                .iter()
                .any(|line| fits(line, like))
                .then_some(())
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
            // In a network of their own, which no ignore file names.
            let last = u8::try_from(1 + self.canaries.len()).expect("a case has few canaries");
            let address = Ipv4Addr::new(10, 99, 0, last);
            self.stranger.ip(&format!("addr add {address}/32 dev eth0"));
            self.host.ip(&format!("route add {address}/32 dev eth0"));
            self.first_song.get_or_insert(self.syslog.texts().len());
            self.canaries.push(address);
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
        let to = SocketAddr::new(address(HOST), CANARY_PORT);
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
        if self.only_notes {
            return self.notes.clone();
        }
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

    /// Log lines that are 1.2's, or that are not as syslog has them. Once a canary has sung, those that name the stranger.
    fn logged(&self) -> Vec<String> {
        let quiet = self.first_song.unwrap_or(usize::MAX);
        let is_theirs = |text: &str| {
            ["attackalert: ", "adminalert: ", "securityalert: ", "<"]
                .iter()
                .any(|start| text.starts_with(start))
        };
        let texts = self.syslog.texts().into_iter().enumerate().skip(self.from);
        texts
            .filter(|(at, text)| is_theirs(text) && (*at < quiet || names_the_stranger(text)))
            .map(|(_, text)| text.replace('\n', "␤"))
            .collect()
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
        let local = time
            .to_zoned(zone)
            .strftime("%m/%d/%Y %H:%M:%S ")
            .to_string();
        let plausible =
            (self.begin.as_second()..=Timestamp::now().as_second()).contains(&time.as_second());
        rest.strip_prefix(&local).filter(|_| plausible)
    }

    fn is_a_canarys(&self, line: &str) -> bool {
        self.canaries.iter().any(|canary| {
            let address = canary.to_string();
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

/// Whether the line is about the stranger as a host, not as an entry of a file.
fn names_the_stranger(text: &str) -> bool {
    let addresses = [STRANGER, STRANGER6];
    let parts = text.split([' ', '/']);
    text.contains("ost")
        && parts
            .into_iter()
            .any(|part| addresses.contains(&part.trim_end_matches('!')))
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
