//! Whoever is measured: our own release build, what a user would pick instead, and the bare kernel. Each runs on a host of the
//! laboratory, and is asked alike whom it has banned and what it has judged.
//!
//! The peers are Debian's packages as `tests/compliance/fetch` unpacks them; what is not there is told, and left out.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::Run;
use crate::lab::{Daemon, Host, Sandbox, Syslog, eventually};
use crate::machine;
use crate::start::until_ready;
use crate::table::Side;

/// One who bans, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// An nft rule that adds to a set by itself.
    Kernel,
    /// Ours, with packet sockets.
    Packet,
    /// Ours, with raw IP sockets.
    Ip,
    /// 1.2 with iptables as its KILL_ROUTE.
    Iptables,
    /// 1.2 with `nft add element` as its KILL_ROUTE.
    Nft,
    /// fail2ban's stock jail for portsentry, on the history of a 1.2 that bans nobody itself.
    Fail2ban,
}

/// What is wanted of a contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// That it bans a source at its first probe, however many there are.
    Ban,
    /// That it only writes them down.
    Log,
}

/// A contender at work. Ended on drop.
pub(crate) struct Running<'a> {
    contender: Contender,
    host: &'a Host,
    daemon: Option<Daemon<'a>>,
    sandbox: Option<Sandbox>,
    fail2ban: Option<Child>,
    _syslog: Option<Syslog>,
}

/// How long fail2ban may take.
const PATIENCE: Duration = Duration::from_secs(120);

const HISTORY: &str = "/var/lib/portsentry/portsentry.history";

impl Contender {
    pub(crate) const ALL: [Self; 6] = [
        Self::Kernel,
        Self::Packet,
        Self::Ip,
        Self::Iptables,
        Self::Nft,
        Self::Fail2ban,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kernel => "bare kernel, a rule that adds to a set",
            Self::Packet => "portsentry, capture.method packet",
            Self::Ip => "portsentry, capture.method ip",
            Self::Iptables => "1.2, iptables",
            Self::Nft => "1.2, nft add element",
            Self::Fail2ban => "fail2ban, nftables, on 1.2's history",
        }
    }

    pub(crate) fn side(self) -> Side {
        match self {
            Self::Kernel => Side::Floor,
            Self::Packet | Self::Ip => Side::Ours,
            Self::Iptables | Self::Nft | Self::Fail2ban => Side::Peer,
        }
    }

    /// Those of these that are there, and a line for each that is not.
    pub(crate) fn there(of: &[Self], run: &Run) -> (Vec<Self>, Vec<String>) {
        if run.ours_alone {
            let ours = of.iter().filter(|it| it.side() == Side::Ours);
            return (ours.copied().collect(), Vec::new());
        }
        let mut missing = vec!["missing: PortSentry 2.x is no package of this Debian".to_owned()];
        let mut there = Vec::new();
        for contender in of {
            let lacks = contender.needs().into_iter().find(|path| !path.exists());
            match lacks {
                None => there.push(*contender),
                Some(path) => missing.push(format!(
                    "missing: {}: there is no {} (tests/compliance/fetch gets it)",
                    contender.name(),
                    path.display()
                )),
            }
        }
        (there, missing)
    }

    fn needs(self) -> Vec<PathBuf> {
        match self {
            Self::Kernel | Self::Packet | Self::Ip => Vec::new(),
            Self::Iptables | Self::Nft => vec![original()],
            Self::Fail2ban => vec![
                original(),
                fail2ban("usr/bin/fail2ban-server"),
                unpacked().join("pyinotify"),
            ],
        }
    }

    /// Starts it, and waits until it sees what arrives.
    pub(crate) fn start(self, host: &Host, task: Task) -> Running<'_> {
        let mut running = Running {
            contender: self,
            host,
            daemon: None,
            sandbox: None,
            fail2ban: None,
            _syslog: None,
        };
        match self {
            Self::Kernel => {
                host.nft(KERNEL);
            }
            Self::Packet => running.daemon = Some(ours(host, "packet", task)),
            Self::Ip => running.daemon = Some(ours(host, "ip", task)),
            Self::Iptables => {
                running.start_original(task, "/usr/sbin/iptables -I INPUT -s $TARGET$ -j DROP")
            }
            Self::Nft => {
                host.nft(SET);
                let command = "/usr/sbin/nft add element inet kill banned { $TARGET$ }";
                running.start_original(task, command);
            }
            Self::Fail2ban => {
                running.start_original(Task::Log, "");
                running.start_fail2ban();
            }
        }
        machine::come_first(&running.pids());
        running
    }
}

/// Has the kernel ban by itself, what 1.2 and we would: a SYN to a port below 1024.
const KERNEL: &str = "table inet kill {
    set banned { type ipv4_addr; flags dynamic, timeout; timeout 10m; size 10000000; }
    chain prerouting {
        type filter hook prerouting priority -310;
        ip saddr @banned drop
        tcp dport 1-1023 tcp flags syn add @banned { ip saddr } counter
    }
}";

/// Where `nft add element` puts bans.
const SET: &str = "table inet kill {
    set banned { type ipv4_addr; }
    chain prerouting { type filter hook prerouting priority -310; ip saddr @banned drop; }
}";

fn ours<'a>(host: &'a Host, method: &str, task: Task) -> Daemon<'a> {
    let response = match task {
        Task::Ban => "ban",
        Task::Log => "log",
    };
    let mut daemon = Daemon::new(
        host,
        &format!(
            "capture.method = \"{method}\"\ntcp.response = \"{response}\"\nudp.response = \"{response}\"\n\
             detect.trigger = 1\nban.rate = 4294967295\nban.limit = 10000000\n"
        ),
    );
    // Not by a command, which would count as work.
    until_ready(&mut daemon);
    daemon
}

impl Running<'_> {
    /// What ours is asked by an admin; nobody else can be asked.
    pub(crate) fn daemon(&self) -> Option<&Daemon<'_>> {
        self.daemon.as_ref()
    }

    /// 1.2 in its mode `-atcp`, which watches what ours does.
    fn start_original(&mut self, task: Task, kill: &str) {
        let syslog = Syslog::new();
        let sandbox = Sandbox::new(self.host, &syslog.path());
        let block = u8::from(task == Task::Ban);
        sandbox.write("/etc/portsentry/portsentry.ignore", "");
        sandbox.write(HISTORY, "");
        sandbox.write(
            "/etc/portsentry/portsentry.conf",
            format!(
                "ADVANCED_PORTS_TCP=\"1024\"\nADVANCED_EXCLUDE_TCP=\"113,139\"\n\
                 IGNORE_FILE=\"/etc/portsentry/portsentry.ignore\"\nHISTORY_FILE=\"{HISTORY}\"\n\
                 BLOCKED_FILE=\"/var/lib/portsentry/portsentry.blocked\"\nRESOLVE_HOST=\"0\"\n\
                 BLOCK_TCP=\"{block}\"\nBLOCK_UDP=\"{block}\"\nKILL_ROUTE=\"{kill}\"\nSCAN_TRIGGER=\"0\"\n"
            ),
        );
        let mut command = sandbox.command(original());
        command.arg("-atcp");
        let (status, said) = sandbox.run(command);
        assert!(status.success(), "1.2 does not start: {said}");
        eventually("1.2 is active", || {
            let texts = syslog.texts();
            texts
                .iter()
                .any(|text| text == "adminalert: PortSentry is now active and listening.")
                .then_some(())
        });
        self.sandbox = Some(sandbox);
        self._syslog = Some(syslog);
    }

    /// fail2ban with its stock configuration but for the places of files and how it is to ban: by nftables, on all ports.
    fn start_fail2ban(&mut self) {
        let sandbox = self.sandbox.as_ref().expect("1.2 was started before");
        let stock = fail2ban("etc/fail2ban");
        sandbox.sh(&format!(
            "rm -rf /etc/fail2ban /run/fail2ban.log && cp -r {} /etc/fail2ban",
            stock.display()
        ));
        sandbox.write(
            "/etc/fail2ban/fail2ban.local",
            "[Definition]\nlogtarget = /run/fail2ban.log\nsocket = /run/fail2ban.sock\npidfile = /run/fail2ban.pid\n\
             dbfile = /run/fail2ban.sqlite3\n",
        );
        // The stock jails that are on by default, sshd's, would find no log here.
        sandbox.sh("rm -rf /etc/fail2ban/jail.d");
        sandbox.write(
            "/etc/fail2ban/jail.local",
            "[DEFAULT]\nbanaction = nftables-allports\nprotocol = tcp,udp\n[portsentry]\nenabled = true\n",
        );
        let mut command = sandbox.command("/usr/bin/python3");
        command
            .arg("-B")
            .arg(fail2ban("usr/bin/fail2ban-server"))
            .args(["-c", "/etc/fail2ban", "-f", "start"])
            .env("PYTHONPATH", python_path())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.fail2ban = Some(command.spawn().expect("nsenter is there"));
        let log = || sandbox.read("/run/fail2ban.log");
        eventually("fail2ban's jail is up", || {
            log().contains("Jail 'portsentry' started").then_some(())
        });
    }

    /// How long fail2ban takes from its start to these bans, which it was told of before, in force.
    pub(crate) fn restarted_with(&mut self, bans: impl Iterator<Item = IpAddr>) -> Duration {
        let bans: Vec<String> = bans.map(|ban| ban.to_string()).collect();
        let wanted = u64::try_from(bans.len()).expect("a small number");
        let sandbox = self.sandbox.as_ref().expect("it is fail2ban");
        for some in bans.chunks(200) {
            let mut command = sandbox.command("/usr/bin/python3");
            command
                .arg("-B")
                .arg(fail2ban("usr/bin/fail2ban-client"))
                .args(["-s", "/run/fail2ban.sock", "set", "portsentry", "banip"])
                .args(some)
                .env("PYTHONPATH", python_path());
            let (status, said) = sandbox.run(command);
            assert!(status.success(), "fail2ban-client: {said}");
        }
        self.until_banned(wanted);
        let sandbox = self.sandbox.as_ref().expect("it is fail2ban");
        let mut command = sandbox.command("/usr/bin/python3");
        command
            .arg("-B")
            .arg(fail2ban("usr/bin/fail2ban-client"))
            .args(["-s", "/run/fail2ban.sock", "stop"])
            .env("PYTHONPATH", python_path())
            .stdout(Stdio::null());
        // It takes its bans down before it says anything.
        let _ = command.spawn().expect("nsenter is there").wait();
        let mut old = self.fail2ban.take().expect("it is fail2ban");
        let _ = old.wait();
        assert_eq!(self.banned(), 0, "fail2ban takes its bans down");
        let begun = Instant::now();
        self.start_fail2ban();
        self.until_banned(wanted);
        begun.elapsed()
    }

    fn until_banned(&self, wanted: u64) {
        let begun = Instant::now();
        while self.banned() < wanted {
            assert!(
                begun.elapsed() < PATIENCE,
                "{} of {wanted} bans in {PATIENCE:?}",
                self.banned()
            );
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// How many bans are in force.
    pub(crate) fn banned(&self) -> u64 {
        match self.contender {
            Contender::Packet | Contender::Ip => self.status("/enforced"),
            Contender::Iptables => count(&self.host.run("iptables -S INPUT"), "-j DROP"),
            Contender::Kernel => self.added(),
            Contender::Nft => self.elements("kill banned"),
            Contender::Fail2ban => self.elements("f2b-table addr-set-portsentry"),
        }
    }

    /// How many probes it has judged.
    pub(crate) fn judged(&self) -> u64 {
        match &self.sandbox {
            Some(sandbox) => count(&sandbox.read(HISTORY), "\n"),
            None => self.status("/counters/hits"),
        }
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.daemon.is_some()
    }

    /// The processes that it consists of, with what carries them, by their names.
    pub(crate) fn pids(&self) -> Vec<Pid> {
        let of = |sandbox: &Sandbox| {
            let name = match self.contender {
                Contender::Fail2ban => "fail2ban-server",
                _ => "portsentry",
            };
            let processes = sandbox.processes(name);
            // As seen from outside the sandbox, which has numbers of its own.
            let outside = |pid: u32| outside(sandbox, pid);
            processes
                .iter()
                .filter_map(|it| outside(it.pid))
                .collect::<Vec<_>>()
        };
        match (&self.daemon, &self.sandbox) {
            (Some(daemon), _) => vec![daemon.pid()],
            (None, Some(sandbox)) => of(sandbox),
            (None, None) => Vec::new(),
        }
    }

    fn status(&self, pointer: &str) -> u64 {
        let daemon = self.daemon.as_ref().expect("it is one of ours");
        let status = daemon.json("status");
        let figure = status.pointer(pointer).and_then(serde_json::Value::as_u64);
        figure.unwrap_or_else(|| panic!("no {pointer} in {status}"))
    }

    /// How many packets the bare kernel has added the sources of. All are of different ones, and to list them would take minutes.
    fn added(&self) -> u64 {
        let rules = self.host.nft("list chain inet kill prerouting");
        let counted = rules.split_once("counter packets ").map(|(_, rest)| rest);
        let number = counted.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        number.unwrap_or_else(|| panic!("no counter in {rules}"))
    }

    /// How many elements a set has; none where there is no such set yet.
    fn elements(&self, set: &str) -> u64 {
        let listed = self.host.try_nft(&format!("list set inet {set}"));
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        text.split_once("elements = {")
            .map_or(0, |(_, elements)| count(elements, ",") + 1)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // Its end comes with the sandbox's.
        self.sandbox = None;
        if let Some(mut fail2ban) = self.fail2ban.take() {
            let _ = fail2ban.wait();
        }
    }
}

/// What processes have done so far, with those of their children that have ended.
pub(crate) struct Worked {
    /// Times that one of its threads slept.
    pub(crate) wake_ups: f64,
    pub(crate) seconds: f64,
}

impl Worked {
    pub(crate) fn of(pids: &[Pid]) -> Self {
        let mut worked = Self {
            wake_ups: 0.0,
            seconds: 0.0,
        };
        for pid in pids {
            let read = |path| fs::read_to_string(path).unwrap_or_default();
            let stat = read(format!("/proc/{pid}/stat"));
            let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
            // utime, stime, cutime and cstime (proc(5)), in hundredths of a second.
            let times = after_name.split_whitespace().skip(11).take(4);
            let ticks: f64 = times.filter_map(|time| time.parse::<f64>().ok()).sum();
            worked.seconds += ticks / 100.0;
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
            for task in tasks.filter_map(Result::ok) {
                let status = read(task.path().join("status").display().to_string());
                worked.wake_ups += field(&status, "voluntary_ctxt_switches:");
            }
        }
        worked
    }
}

/// Resident memory of a process in bytes.
pub(crate) fn resident(pid: Pid) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    field(&status, "VmRSS:") * 1024.0
}

/// The number in a line of `/proc/…/status`.
fn field(status: &str, name: &str) -> f64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0.0)
}

fn count(text: &str, what: &str) -> u64 {
    u64::try_from(text.matches(what).count()).expect("a text is not that long")
}

/// The number by which this host knows a process of the sandbox.
fn outside(sandbox: &Sandbox, pid: u32) -> Option<Pid> {
    let space = fs::read_link(sandbox.path("/proc/1/ns/pid")).ok()?;
    let processes = fs::read_dir("/proc").ok()?;
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .find(|number| {
            let place = Path::new("/proc").join(number.to_string());
            let is_inside = fs::read_link(place.join("ns/pid")).is_ok_and(|its| its == space);
            let status = fs::read_to_string(place.join("status")).unwrap_or_default();
            let inner = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            let inner = inner.and_then(|line| line.split_whitespace().last()?.parse::<u32>().ok());
            is_inside && inner == Some(pid)
        })
        .map(Pid::from_raw)
}

/// fail2ban's modules, and that by which it hears of new lines at once.
fn python_path() -> String {
    let of = |package: &str| {
        unpacked()
            .join(package)
            .join("usr/lib/python3/dist-packages")
    };
    format!("{}:{}", of("fail2ban").display(), of("pyinotify").display())
}

fn unpacked() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/compliance")
}

fn original() -> PathBuf {
    unpacked().join("original/usr/sbin/portsentry")
}

fn fail2ban(file: &str) -> PathBuf {
    unpacked().join("fail2ban").join(file)
}
