//! The test bench: a host with one implementation on it, and a stranger on a cable. Here is what cases do with them; what can be
//! seen of it is in `seen`.

mod seen;

use std::fmt::Debug;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::str::FromStr;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::case::Implementation;
use crate::dns::NameServer;
use crate::eventually;
use crate::host::Host;
use crate::sandbox::Sandbox;
use crate::syslog::Syslog;

/// The host under test.
pub(crate) const HOST: &str = "10.77.0.1";
/// Whoever scans it.
pub(crate) const STRANGER: &str = "10.77.0.2";
/// The same two, where a case gives them an IPv6 address.
pub(crate) const HOST6: &str = "fd77::1";
pub(crate) const STRANGER6: &str = "fd77::2";

/// One case's worth of namespaces, files and processes, all gone when it is dropped.
pub(crate) struct Bench {
    which: Implementation,
    // Before the hosts: its processes must end before their network does.
    sandbox: Sandbox,
    name_server: Option<NameServer>,
    syslog: Syslog,
    pub(crate) host: Host,
    pub(crate) stranger: Host,
    /// Those that are there until all is over.
    services: Vec<OwnedFd>,
    /// Modes that are expected to run, in the order of their start.
    modes: Vec<String>,
    /// Log lines before this are not looked at.
    from: usize,
    notes: Vec<String>,
    /// What is seen is the notes alone.
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

const ACTIVE: &str = "adminalert: PortSentry is now active and listening.";

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
            services: Vec::new(),
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
            self.while_it_runs(&format!("portsentry {mode} is active"), || {
                (self.active() > active).then_some(())
            });
            self.modes.push(mode.to_owned());
        }
    }

    /// Waits until `condition` gives something.
    ///
    /// # Panics
    /// When it does not in time, or the implementation under test has ended.
    fn while_it_runs<T>(&self, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
        let mut ended = None;
        let awaited = eventually(what, || {
            if let Some(found) = condition() {
                return Some(Some(found));
            }
            if self.runs() {
                ended = None;
                return None;
            }
            // A moment for what it has said last.
            let ended = ended.get_or_insert_with(Instant::now);
            (ended.elapsed() >= Duration::from_secs(1)).then_some(None)
        });
        awaited.unwrap_or_else(|| panic!("portsentry has ended; waited for: {what}"))
    }

    fn runs(&self) -> bool {
        let processes = self.sandbox.processes("portsentry");
        processes.iter().any(|process| process.ended.is_none())
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.which == Implementation::Ours
    }

    /// How many times somebody has become active.
    fn active(&self) -> usize {
        let texts = self.syslog.texts();
        texts.iter().filter(|text| *text == ACTIVE).count()
    }

    /// Runs the implementation with these words, until it returns or has gone into the background; its exit status and what
    /// it printed.
    pub(crate) fn launch(&self, words: &str) -> (i32, String) {
        let mut command = self.sandbox.command(self.program());
        command
            .args(words.split_whitespace())
            .env("TZ", seen::ZONE)
            .env("LC_ALL", "C");
        let (status, said) = self.sandbox.run(command);
        (status.code().unwrap_or(-1), said)
    }

    fn program(&self) -> PathBuf {
        match self.which {
            Implementation::Original => {
                let original = target().join("original/usr/sbin/portsentry");
                assert!(
                    original.exists(),
                    "the original is not there: run tests/compliance/fetch"
                );
                original
            }
            Implementation::Ours => PathBuf::from(env!("CARGO_BIN_EXE_portsentry")),
        }
    }

    /// Starts the implementation where it cannot succeed, and notes whether whoever started it is told, and of this.
    pub(crate) fn refuses(&mut self, mode: &str, what: &str) {
        let (status, said) = self.launch(mode);
        self.note(format!("succeeds: {}", status == 0));
        self.note(format!("tells of {what}: {}", said.contains(what)));
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

    /// Ends the process that was started in this mode, and no other, and notes how it ended.
    pub(crate) fn end(&mut self, mode: &str) {
        let processes = self.sandbox.processes("portsentry");
        let was_started_in_it = |pid: u32| {
            let words = self.read(&format!("/proc/{pid}/cmdline"));
            words.trim_end_matches('\0').ends_with(mode)
        };
        let pid = processes
            .iter()
            .map(|process| process.pid)
            .find(|pid| was_started_in_it(*pid))
            .unwrap_or_else(|| panic!("no process was started in mode {mode}"));
        self.sandbox.sh(&format!("kill -TERM {pid}"));
        let status = eventually(&format!("portsentry {mode} ends"), || {
            let processes = self.sandbox.processes("portsentry");
            let process = processes.into_iter().find(|process| process.pid == pid);
            process.and_then(|process| process.ended)
        });
        self.modes.retain(|running| running != mode);
        self.notes.push(ended(status));
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

    /// The same, from another address of the stranger's link, which it takes for this.
    pub(crate) fn nmap_as(&self, source: &str, how: &str, ports: &str) {
        self.stranger.ip(&format!("addr add {source}/24 dev eth0"));
        self.nmap(&format!("{how} -S {source} -e eth0"), ports);
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

    /// Has the host take packets from sources to which it has no way.
    pub(crate) fn hear_any_source(&self) {
        self.host
            .run("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0");
    }

    /// How many sockets the implementation holds.
    pub(crate) fn sockets(&self) -> usize {
        let open = self.sh("ls -l /proc/$(pidof portsentry)/fd");
        open.matches("socket:").count()
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

    /// Has a TCP service listen on the host until all is over.
    pub(crate) fn occupy(&mut self, port: u16) {
        let service = self.listen(port);
        self.services.push(service.into());
    }

    /// The same for UDP.
    pub(crate) fn occupy_udp(&mut self, port: u16) {
        let service = self
            .host
            .inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))
            .unwrap_or_else(|error| panic!("cannot bind UDP port {port}: {error}"));
        self.services.push(service.into());
    }

    /// A TCP listener on the host, in the sandbox's network.
    pub(crate) fn listen(&self, port: u16) -> TcpListener {
        let address = SocketAddr::new(address(HOST), port);
        self.host
            .inside(|| TcpListener::bind(address))
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

pub(crate) fn address<T: FromStr<Err: Debug>>(text: &str) -> T {
    text.parse().expect("the bench's addresses are good")
}
