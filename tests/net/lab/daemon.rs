//! The daemon on one of the hosts, with files of its own, and the commands that talk to it.

use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::surroundings::{self, Surroundings};
use super::{Clock, Disk, Element, Host, eventually};

/// portsentry on a host. Ended on drop; where the test failed, its log is shown.
pub(crate) struct Daemon<'a> {
    host: &'a Host,
    /// What its files are on, where that is none of this host's; before them, for it goes first.
    disk: Option<Disk>,
    dir: TempDir,
    /// What it takes to see a clock of its own.
    environment: Vec<(&'static str, PathBuf)>,
    /// Where its `/etc` and `/run` are kept; `None`: it sees this host's.
    surroundings: Option<PathBuf>,
    child: Option<Child>,
}

/// What a command printed, and its exit status.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_portsentry");

impl<'a> Daemon<'a> {
    /// Starts the daemon and waits until it is ready. Its configuration is the default one with these lines.
    pub(crate) fn start(host: &'a Host, config: &str) -> Self {
        let mut daemon = Self::new(host, config);
        daemon.restart();
        daemon
    }

    /// As [`start`](Self::start), where it sees these in place of this host's `/etc` and `/run`, and spares all friends it can find
    /// there.
    pub(crate) fn start_in(surroundings: &Surroundings, host: &'a Host, config: &str) -> Self {
        let all = "ignore.host = [\"addresses\", \"gateways\", \"resolvers\", \"ssh\"]\n";
        let mut daemon = Self::new(host, &format!("{all}{config}"));
        daemon.see(surroundings);
        daemon.restart();
        daemon
    }

    /// The files of a daemon that does not run yet. Of this host, its own addresses are spared alone: a test must not depend on the name
    /// servers of who runs it.
    pub(crate) fn new(host: &'a Host, config: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        Self::new_in(dir, None, host, config)
    }

    /// As [`start`](Self::start), where all its files, its log too, are on a disk of this size.
    pub(crate) fn start_on_disk(size: &str, host: &'a Host, config: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let disk = Disk::mount(dir.path(), size);
        let mut daemon = Self::new_in(dir, Some(disk), host, config);
        daemon.restart();
        daemon
    }

    /// As [`start`](Self::start), where it goes by this clock, and so do commands.
    pub(crate) fn start_by(clock: &Clock, host: &'a Host, config: &str) -> Self {
        let mut daemon = Self::new(host, config);
        daemon.environment.extend(clock.environment());
        daemon.restart();
        daemon
    }

    fn new_in(dir: TempDir, disk: Option<Disk>, host: &'a Host, config: &str) -> Self {
        let daemon = Self {
            host,
            disk,
            dir,
            environment: Vec::new(),
            surroundings: None,
            child: None,
        };
        let [ignore, history, text, socket] =
            ["ignore.list", "history.db", "history.log", "control.sock"]
                .map(|name| daemon.path(name));
        let places = format!(
            "[ignore]\nfiles = [{ignore:?}]\nhost = [\"addresses\"]\n[history]\nfile = {history:?}\ntext = {text:?}\n[control]\nsocket = {socket:?}\n"
        );
        fs::write(daemon.config(), places).expect("the directory is ours");
        fs::create_dir(daemon.path("portsentry.toml.d")).expect("the directory is ours");
        daemon.ignore("");
        daemon.configure(config);
        daemon
    }

    /// The host it runs on.
    pub(crate) fn host(&self) -> &Host {
        self.host
    }

    /// It sees these from its next start on, and so do commands.
    pub(crate) fn see(&mut self, surroundings: &Surroundings) {
        self.surroundings = Some(surroundings.root().to_owned());
    }

    /// Puts these lines into the configuration, in place of those before.
    pub(crate) fn configure(&self, config: &str) {
        fs::write(self.path("portsentry.toml.d/test.toml"), config).expect("the directory is ours");
    }

    /// Writes the ignore file, as an editor does: a new file takes the old one's place.
    pub(crate) fn ignore(&self, lines: &str) {
        fs::write(self.path("ignore.list.new"), lines).expect("the directory is ours");
        fs::rename(self.path("ignore.list.new"), self.path("ignore.list")).expect("both are ours");
    }

    /// A file of this daemon's own.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The disk that it was started on.
    pub(crate) fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("it was started on a disk")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path("portsentry.toml")
    }

    pub(crate) fn history(&self) -> PathBuf {
        self.path("history.db")
    }

    /// Starts it, after it was stopped or killed, and waits until it is ready.
    pub(crate) fn restart(&mut self) {
        self.spawn();
        eventually("the daemon gets ready", || {
            let child = self.child.as_mut().expect("it was started above");
            if let Some(status) = child.try_wait().expect("it is our child") {
                self.child = None;
                panic!("the daemon ended at its start, {status}:\n{}", self.log());
            }
            (self.command(&["status"]).status == 0).then_some(())
        });
    }

    /// Starts it, and does not wait.
    pub(crate) fn spawn(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .expect("the directory is ours");
        let child = self.program().arg("run").stderr(log).spawn();
        self.child = Some(child.expect("ip is there"));
    }

    /// Runs it in the foreground when it is not expected to stay.
    pub(crate) fn run_to_its_end(&self) -> Said {
        Said::from(self.program().arg("run").output().expect("ip is there"))
    }

    /// The same with another program before it: `setpriv …`.
    pub(crate) fn run_through(&self, program: &str, args: &[&str]) -> Said {
        let mut command = self.host.command(program);
        command
            .args(args)
            .arg(PROGRAM)
            .arg("-c")
            .arg(self.config())
            .arg("run");
        Said::from(command.output().expect("ip is there"))
    }

    /// Ends it as a service manager does.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.end(Signal::SIGTERM)
    }

    /// Ends it as the kernel does when memory is short.
    pub(crate) fn kill9(&mut self) -> ExitStatus {
        self.end(Signal::SIGKILL)
    }

    pub(crate) fn hang_up(&self) {
        kill(self.pid(), Signal::SIGHUP).expect("it runs");
    }

    pub(crate) fn pid(&self) -> Pid {
        let child = self.child.as_ref().expect("it runs");
        Pid::from_raw(i32::try_from(child.id()).expect("process ids are small"))
    }

    fn end(&mut self, signal: Signal) -> ExitStatus {
        kill(self.pid(), signal).expect("it runs");
        let mut child = self.child.take().expect("it runs");
        let pid = child.id();
        eventually(&format!("process {pid} ends on {signal}"), || {
            child.try_wait().expect("it is our child")
        })
    }

    /// Runs `portsentry -c … ARGS`.
    pub(crate) fn command(&self, args: &[&str]) -> Said {
        Said::from(self.program().args(args).output().expect("ip is there"))
    }

    /// As [`command`](Self::command), where only success will do; what it printed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let said = self.command(args);
        assert_eq!(said.status, 0, "portsentry {args:?} failed: {said:?}");
        said.out
    }

    /// What `COMMAND --json` printed.
    pub(crate) fn json(&self, command: &str) -> Value {
        serde_json::from_str(&self.ok(&[command, "--json"])).expect("--json prints JSON")
    }

    /// One of the counters in `status --json`.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        let status = self.json("status");
        status["counters"][name]
            .as_u64()
            .unwrap_or_else(|| panic!("no counter {name} in {status}"))
    }

    /// Who is banned, by `list --json`, in the order of their names.
    pub(crate) fn banned(&self) -> Vec<String> {
        let list = self.json("list");
        let bans = list.as_array().expect("the list is one");
        let name = |ban: &Value| ban["source"].as_str().map(str::to_owned);
        let names = bans.iter().map(|ban| name(ban).expect("each has one"));
        let mut names: Vec<String> = names.collect();
        names.sort_unstable();
        names
    }

    /// Waits until a set of ours has the element.
    pub(crate) fn element(&self, set: &str, key: &str) -> Element {
        eventually(&format!("{key} stands in {set}"), || {
            self.host.element(set, key)
        })
    }

    /// Waits until a counter has reached a number: what was sent before has been judged then.
    pub(crate) fn has_counted(&self, name: &str, number: u64) {
        eventually(&format!("{number} {name} are counted"), || {
            (self.counter(name) >= number).then_some(())
        });
    }

    /// Sends one more probe after all others, to a trap, and waits until it is counted: packets are seen in their order,
    /// so all before it have been judged. Needs a trigger above what is known of `from`.
    pub(crate) fn everything_is_judged(&self, from: &Host, at: IpAddr, trap: u16) {
        let before = self.counter("hits");
        from.knock(at, [trap]);
        self.has_counted("hits", before + 1);
    }

    /// Nobody is banned, neither by our account nor in the kernel.
    pub(crate) fn assert_nobody_is_banned(&self) {
        assert_eq!(
            self.banned(),
            Vec::<String>::new(),
            "status: {}",
            self.json("status")
        );
        for set in ["banned4", "banned6", "banned6_64"] {
            assert_eq!(self.host.elements(set), [], "in {set}");
        }
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// `portsentry -c …`, for who wants more of it than what it printed.
    pub(crate) fn program(&self) -> Command {
        let mut command = match &self.surroundings {
            None => self.host.command(PROGRAM),
            Some(root) => {
                let mut command = self.host.command("unshare");
                command
                    .args(["--mount", "--propagation", "private", "sh", "-c"])
                    .arg(surroundings::INSIDE)
                    .arg(root)
                    .arg(PROGRAM);
                command
            }
        };
        command.arg("-c").arg(self.config());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Kilobytes that it has in memory.
    pub(crate) fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let size = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        size.expect("every process has one")
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            show(&self.path("log"), &self.log());
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the test's own output, shown when it fails"
)]
fn show(path: &Path, log: &str) {
    eprintln!("{}:\n{log}", path.display());
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            status: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }
}
