//! The place in which what goes into the background runs: a host's network, and a private `/etc`, `/dev`, `/run`, `/var/lib` and
//! process table. 1.2's paths are fixed at its build, so each case needs its own; nothing of this host is touched.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use super::eventually;
use super::host::Host;

/// Namespaces held by their first process, which ends with us. Everything in them ends with it.
pub(crate) struct Sandbox {
    keeper: Child,
    init: u32,
}

/// A process in the sandbox, by its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// How it ended, as `wait` has it. Nobody in the sandbox waits for orphans, so that this stays to be read.
    pub(crate) ended: Option<i32>,
}

/// Makes the private places, then waits for the end of its input. A fixed, small `/etc`: a case must not depend on how this
/// host is set up. `$1` is the socket of the case's own syslog.
const INSIDE: &str = r#"
set -e
mount -t tmpfs tmpfs /run
mkdir /run/etc /run/dev
for name in alternatives group iproute2 ld.so.cache ld.so.conf ld.so.conf.d passwd protocols services; do
    [ ! -e /etc/$name ] || cp -a /etc/$name /run/etc/
done
mkdir /run/etc/portsentry
echo '127.0.0.1 localhost' >/run/etc/hosts
echo 'hosts: files dns' >/run/etc/nsswitch.conf
echo 'nameserver 127.0.0.1' >/run/etc/resolv.conf
for node in full null random tty urandom zero; do
    touch /run/dev/$node
    mount --bind /dev/$node /run/dev/$node
done
ln -s /proc/self/fd /run/dev/fd
touch /run/dev/log
mount --bind "$1" /run/dev/log
mount --rbind /run/dev /dev
mount --bind /run/etc /etc
mount -t tmpfs tmpfs /var/lib
mkdir /var/lib/portsentry
echo ready
exec cat >/dev/null
"#;

impl Sandbox {
    pub(crate) fn new(host: &Host, syslog: &Path) -> Self {
        let mut keeper = host
            .command("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
            ])
            .args(["sh", "-c", INSIDE, "sandbox"])
            .arg(syslog)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("ip is there");
        let said = keeper.stdout.take().expect("it was asked for");
        let mut line = String::new();
        BufReader::new(said)
            .read_line(&mut line)
            .expect("it can be read");
        assert_eq!(line, "ready\n", "the sandbox could not be made");
        let id = keeper.id();
        let init = fs::read_to_string(format!("/proc/{id}/task/{id}/children"))
            .ok()
            .and_then(|children| children.trim().parse().ok())
            .expect("unshare has one child, and the kernel tells it");
        Self { keeper, init }
    }

    /// A program to be run in the sandbox, where a file without a place is of the sandbox too.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.init.to_string()])
            .args(["--mount", "--pid", "--net"])
            .arg(format!("--wd={}", self.path("/run").display()))
            .arg("--")
            .arg(program.as_ref())
            .stdin(Stdio::null());
        command
    }

    /// Runs a program to its end, or until it has gone into the background; what it printed is in a file, because a daemon
    /// may keep its output open.
    pub(crate) fn run(&self, mut command: Command) -> (ExitStatus, String) {
        let said = self.path("/run/said");
        let file = File::create(&said).expect("the sandbox is ours");
        command
            .stdout(file.try_clone().expect("a file can be had twice"))
            .stderr(file);
        let mut child = command.spawn().expect("nsenter is there");
        let status = eventually(&format!("{command:?} returns"), || {
            child.try_wait().expect("it is our child")
        });
        let text = fs::read(&said).expect("it was made above");
        (status, String::from_utf8_lossy(&text).into_owned())
    }

    /// Runs a line of shell that must succeed; what it printed.
    pub(crate) fn sh(&self, line: &str) -> String {
        let mut command = self.command("sh");
        command.args(["-c", line]);
        let (status, said) = self.run(command);
        assert!(status.success(), "{line} failed ({status}): {said}");
        said
    }

    /// Where a file of the sandbox is seen from outside.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init))
    }

    /// What a file in the sandbox holds; nothing where there is none.
    pub(crate) fn read(&self, inside: &str) -> String {
        fs::read(self.path(inside))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    pub(crate) fn write(&self, inside: &str, text: impl AsRef<[u8]>) {
        let path = self.path(inside);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).expect("the sandbox is ours");
        }
        fs::write(&path, text)
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }

    /// The processes of this name, also those that have ended.
    pub(crate) fn processes(&self, name: &str) -> Vec<Process> {
        let entries = fs::read_dir(self.path("/proc")).expect("the sandbox has a /proc");
        let mut found: Vec<Process> = entries
            .filter_map(|entry| {
                let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
                let stat =
                    fs::read_to_string(self.path("/proc").join(format!("{pid}/stat"))).ok()?;
                let (comm, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
                let ended = rest.starts_with('Z').then(|| {
                    let code = rest
                        .split_whitespace()
                        .last()
                        .and_then(|code| code.parse().ok());
                    code.expect("the last field is the exit code")
                });
                (comm == name).then_some(Process { pid, ended })
            })
            .collect();
        found.sort_by_key(|process| process.pid);
        found
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // The first process reads to the end of its input; the kernel ends the others with it.
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}
