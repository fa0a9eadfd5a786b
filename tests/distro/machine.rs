//! A booted Debian: its root is a cached one with an overlay above, its processes are in a process namespace of their own, its
//! network is that of a [`Host`](crate::Host), with a stranger on the other end of the cable.
//!
//! What is installed in it is for the tests.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::worlds::Pair;
use crate::{eventually, within};

/// Which Debian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    Debian12,
    Debian13,
}

/// A Debian on a cable. Switched off on drop; where the test failed, its journal is shown.
pub(crate) struct Machine {
    /// Its network, which outlives a reboot, and the stranger's.
    pub(crate) net: Pair,
    root: PathBuf,
    /// What it has written to its disk, and what its boots said.
    dir: TempDir,
    cgroup: PathBuf,
    /// What is /usr/sbin/portsentry, whatever its disk has there.
    program: Option<&'static str>,
    power: Option<Child>,
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_portsentry");

/// Run by `sh` in the machine's cgroup, with the directory, the root and the network namespace: makes namespaces in which
/// systemd finds a cgroup tree that is its own, and boots. Process 1 in there is systemd-nspawn: when it ends, all ends.
const BOOT: &str = r#"
echo $$ >"$4/cgroup.procs"
exec unshare --mount --cgroup --pid --fork --kill-child --mount-proc sh -ec '
    cd "$1"
    touch net
    mount --bind "$3" net
    mount -t overlay -o "lowerdir=$2,upperdir=$1/disk,workdir=$1/work" none root
    # Marks that nspawn leaves for other programs are no business of this host.
    mount -t tmpfs none /run
    umount --recursive /sys/fs/cgroup
    mount -t cgroup2 none /sys/fs/cgroup
    exec systemd-nspawn --boot --quiet --register=no --keep-unit --console=pipe --directory="$1/root" \
        --network-namespace-path="$1/net" --capability=CAP_NET_ADMIN,CAP_NET_RAW \
        ${5:+"--bind-ro=$5:/usr/sbin/portsentry"} --resolv-conf=off --timezone=off --link-journal=no
' boot "$@"
"#;

impl Release {
    /// As in the names of files under target/distro.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Debian12 => "debian12",
            Self::Debian13 => "debian13",
        }
    }
}

impl Machine {
    /// A Debian that is booted and has nothing of portsentry but the program, as /usr/sbin/portsentry.
    pub(crate) fn boot(release: Release) -> Self {
        Self::with(release.name(), Some(PROGRAM))
    }

    /// A Debian that is booted and has nothing of portsentry at all.
    pub(crate) fn boot_bare(release: Release) -> Self {
        Self::with(release.name(), None)
    }

    /// The same, but Debian 13 with sysvinit in place of systemd.
    pub(crate) fn boot_sysvinit() -> Self {
        Self::with("sysvinit", None)
    }

    /// The same, but Debian 13 with rpm beside dpkg.
    pub(crate) fn boot_rpm() -> Self {
        Self::with("rpm", None)
    }

    /// With a root from target/distro.
    fn with(root: &str, program: Option<&'static str>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let root = target("distro").join(root);
        assert!(
            root.exists() && target("distro").join("original").exists(),
            "{} is not there: as root, run tests/distro/roots, or make distro",
            root.display()
        );
        let name = format!(
            "pst-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = tempfile::tempdir_in(target("distro")).expect("the directory is ours");
        // The disk's top directory is the machine's.
        for (name, mode) in [("disk", 0o755), ("work", 0o755), ("root", 0o755)] {
            let path = dir.path().join(name);
            fs::create_dir(&path).expect("the directory is ours");
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
        }
        let mut machine = Self {
            net: Pair::new(),
            root,
            dir,
            cgroup: cgroups().join(name),
            program,
            power: None,
        };
        machine.switch_on();
        machine
    }

    fn switch_on(&mut self) {
        let _ = fs::create_dir(&self.cgroup);
        let console = File::create(self.dir.path().join("console")).expect("the directory is ours");
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "sh", "-ec", BOOT, "boot"])
            .args([self.dir.path(), &self.root])
            .arg(self.net.host.namespace())
            .args([&self.cgroup, Path::new(self.program.unwrap_or_default())])
            .stdin(Stdio::null())
            .stderr(console.try_clone().expect("a file can be shared"))
            .stdout(console)
            .spawn()
            .expect("setpriv is there");
        self.power = Some(child);
        eventually("the machine boots", || {
            let power = self.power.as_mut().expect("it was switched on above");
            if let Some(status) = power.try_wait().expect("it is our child") {
                panic!(
                    "the machine went off at once, {status}:\n{}",
                    self.console()
                );
            }
            let leader = self.leader()?;
            let line = match name_of(leader).as_str() {
                "systemd" => "systemctl is-system-running",
                // It tells of its runlevel when it enters it.
                _ => "runlevel && ! pgrep -x rc",
            };
            let output = self.enter(leader, line);
            let state = text(&output.stdout);
            match state.trim() {
                "running" | "N 2" => Some(()),
                "degraded" => panic!(
                    "units of the machine have failed:\n{}",
                    self.run("systemctl --failed --no-pager; journalctl --no-pager -p warning")
                ),
                _ => None,
            }
        });
    }

    /// Shuts down in order, and boots. What it has on disk stays, what the kernel had is gone.
    pub(crate) fn reboot(&mut self) {
        let _ = self.try_run("poweroff");
        eventually("the machine shuts down", || {
            let power = self.power.as_mut().expect("it is on");
            power.try_wait().expect("it is our child")
        });
        self.power = None;
        // It had no kernel of its own.
        self.net.host.nft("flush ruleset");
        // Some take their network down as they go.
        for link in ["lo", "eth0"] {
            self.net.host.ip(&format!("link set {link} up"));
        }
        self.switch_on();
    }

    /// Runs a line of shell in the machine; what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub(crate) fn run(&self, line: &str) -> String {
        let output = self.try_run(line);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(
            output.status.success(),
            "{line}: {}\n{out}{err}",
            output.status
        );
        out
    }

    /// Runs a line of shell in the machine, which must fail; what it printed.
    pub(crate) fn fails(&self, line: &str) -> String {
        let output = self.try_run(line);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(!output.status.success(), "{line} succeeded:\n{said}");
        said
    }

    /// Runs a line of shell in the machine.
    pub(crate) fn try_run(&self, line: &str) -> Output {
        self.enter(self.leader().expect("the machine is on"), line)
    }

    fn enter(&self, leader: u32, line: &str) -> Output {
        Command::new("nsenter")
            .arg(format!("--target={leader}"))
            .args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"])
            .args(["timeout", "60", "/bin/sh", "-c", line])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .output()
            .expect("nsenter is there")
    }

    /// Writes a file of the machine's.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("a file is in a directory"))
            .and_then(|()| fs::write(&path, text))
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }

    /// Copies a file into the machine, with its mode.
    pub(crate) fn copy(&self, from: &Path, path: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("a file is in a directory"))
            .and_then(|()| fs::copy(from, &path))
            .unwrap_or_else(|error| panic!("cannot copy {}: {error}", from.display()));
    }

    /// What stands in a file of the machine's.
    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// A file of the machine's, by the name it has here.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        let leader = self.leader().expect("the machine is on");
        PathBuf::from(format!("/proc/{leader}/root{path}"))
    }

    /// What `systemctl show` says of a unit.
    pub(crate) fn shows(&self, unit: &str, property: &str) -> String {
        let line = format!("systemctl show --value --property={property} {unit}");
        self.run(&line).trim().to_owned()
    }

    /// What `systemctl status` prints of a unit that is not as it should be, once the journal has all that was said.
    pub(crate) fn status_of_failed(&self, unit: &str) -> String {
        self.fails(&format!(
            "journalctl --sync; systemctl status --no-pager --full '{unit}'"
        ))
    }

    /// The journal's entries with syslog's identifier `portsentry`.
    pub(crate) fn journal(&self) -> Vec<Value> {
        self.run("journalctl --sync; journalctl --output=json --identifier=portsentry")
            .lines()
            .map(|line| serde_json::from_str(line).expect("journalctl prints JSON"))
            .collect()
    }

    /// Waits for an entry with this text.
    pub(crate) fn entry(&self, message: &str) -> Value {
        eventually(&format!("the journal has \"{message}\""), || {
            let entries = self.journal();
            entries
                .into_iter()
                .find(|entry| entry["MESSAGE"] == message)
        })
    }

    /// Waits until `nft list set` shows an address.
    pub(crate) fn is_banned(&self, address: &str) -> String {
        eventually(&format!("{address} is banned"), || {
            let set = self.try_run("nft list set inet portsentry banned4");
            let set = text(&set.stdout);
            set.contains(address).then_some(set)
        })
    }

    /// Process 1 of the machine, by the number it has here.
    pub(crate) fn leader(&self) -> Option<u32> {
        let nspawn = self.nspawn()?;
        child_of(nspawn).filter(|leader| ["systemd", "init"].contains(&name_of(*leader).as_str()))
    }

    /// A name that nothing else on this host has.
    pub(crate) fn name(&self) -> &str {
        let name = self.cgroup.file_name().and_then(|name| name.to_str());
        name.expect("it was given one by `with`")
    }

    fn nspawn(&self) -> Option<u32> {
        let nspawn = child_of(self.power.as_ref()?.id())?;
        (name_of(nspawn) == "systemd-nspawn").then_some(nspawn)
    }

    fn console(&self) -> String {
        fs::read_to_string(self.dir.path().join("console")).unwrap_or_default()
    }

    #[expect(
        clippy::print_stderr,
        reason = "the test's own output, shown when it fails"
    )]
    fn show(&self) {
        let mut said = self.console();
        if let Some(leader) = self.leader() {
            let output = self.enter(leader, "journalctl --no-pager --lines=60; nft list ruleset");
            let _ = write!(said, "\n{}", text(&output.stdout));
        }
        eprintln!("{said}");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show();
        }
        let first = self.power.as_ref().and_then(|power| child_of(power.id()));
        if let Some(mut power) = self.power.take() {
            // The first process takes all others with it, and is waited for; before there is one, its parent is enough.
            match first.map(i32::try_from) {
                Some(Ok(first)) => drop(kill(Pid::from_raw(first), Signal::SIGKILL)),
                _ => drop(power.kill()),
            }
            let _ = power.wait();
        }
        let memory = mounted("cgroup", "memory").map(|hierarchy| hierarchy.join(self.name()));
        for cgroup in memory
            .filter(|dir| dir.exists())
            .iter()
            .chain([&self.cgroup])
        {
            let _ = within(Duration::from_secs(5), || remove(cgroup).ok());
        }
    }
}

/// A file or directory under cargo's target directory, which the roots are made in.
pub(crate) fn target(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target")
        .join(name)
}

/// The only child of a process, if it has one.
fn child_of(process: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

fn name_of(process: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

/// Where this host has cgroups of version 2, be it beside those of version 1.
fn cgroups() -> PathBuf {
    let place = mounted("cgroup2", "rw");
    place.expect("these tests need a mounted cgroup2 file system: systemd runs in one")
}

/// Where this host has a file system of a kind mounted with an option.
pub(crate) fn mounted(kind: &str, option: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").expect("every process can read its mounts");
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (place, its_kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        let is_it = its_kind == kind && options.split(',').any(|it| it == option);
        is_it.then(|| PathBuf::from(place))
    })
}

/// Removes a cgroup and those below, which have no processes any more.
fn remove(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
