//! The machine that figures are of, and how much of it others used: figures of a busy one are worth less. Whoever is measured comes
//! before what else runs, each alike.

use std::fs;
use std::process::Command;
use std::sync::OnceLock;

use nix::unistd::Pid;

use serde_json::{Value, json};

/// What is there, and how busy it was when the run began.
pub(crate) struct Machine {
    model: String,
    processors: usize,
    kernel: String,
    nft: String,
    iptables: String,
    load: String,
    /// Time of all processors, and what of it the hypervisor took away; in hundredths of a second.
    time: u64,
    stolen: u64,
}

impl Machine {
    pub(crate) fn read() -> Self {
        let processors = read("/proc/cpuinfo");
        let model = processors
            .lines()
            .find_map(|line| line.strip_prefix("model name"));
        let (time, stolen) = times();
        Self {
            model: model
                .map_or("unknown", |line| line.trim_start_matches(['\t', ' ', ':']))
                .to_owned(),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            nft: version("nft"),
            iptables: version("iptables"),
            load: load(),
            time,
            stolen,
        }
    }

    pub(crate) fn told(&self) -> String {
        format!(
            "{} × {}, Linux {}, {}, {}; load when it begins {}",
            self.processors, self.model, self.kernel, self.nft, self.iptables, self.load
        )
    }

    pub(crate) fn json(&self) -> Value {
        let (time, stolen) = times();
        let [time, stolen] = [time - self.time, stolen - self.stolen]
            .map(|ticks| f64::from(u32::try_from(ticks).unwrap_or(u32::MAX)));
        json!({
            "processor": self.model,
            "processors": self.processors,
            "kernel": self.kernel,
            "nft": self.nft,
            "iptables": self.iptables,
            "load_before": self.load,
            "load_after": load(),
            "stolen": stolen / time.max(1.0),
        })
    }
}

/// By how much whoever is measured comes before others: more would keep the kernel's own threads from their work.
const PRECEDENCE: &str = "-10";

/// Gives these, with all of their session, precedence. The kernel shares processors out among sessions first (sched(7): autogroup),
/// so that the nice value of a process says nothing beside others' sessions. Where it does not, `make bench` has said `nice`.
pub(crate) fn come_first(pids: &[Pid]) {
    for pid in pids {
        let _ = fs::write(format!("/proc/{pid}/autogroup"), PRECEDENCE);
    }
}

/// The same for our own session, which may be somebody's shell.
pub(crate) fn come_first_ourselves() {
    let before = read("/proc/self/autogroup");
    let before = before
        .rsplit_once("nice ")
        .map(|(_, nice)| nice.trim().to_owned());
    if let Some(before) = before {
        let _ = BEFORE.set(before);
        come_first(&[Pid::this()]);
    }
}

/// Undoes it.
pub(crate) fn step_back() {
    if let Some(before) = BEFORE.get() {
        let _ = fs::write("/proc/self/autogroup", before);
    }
}

static BEFORE: OnceLock<String> = OnceLock::new();

/// How many wanted a processor in the last one, five and fifteen minutes.
pub(crate) fn load() -> String {
    let load = read("/proc/loadavg");
    let averages: Vec<&str> = load.split_whitespace().take(3).collect();
    averages.join(" ")
}

fn times() -> (u64, u64) {
    let stat = read("/proc/stat");
    let line = stat.lines().next().unwrap_or_default();
    let numbers: Vec<u64> = line
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    // user, nice, system, idle, iowait, irq, softirq, steal (proc(5)).
    (
        numbers.iter().take(8).sum(),
        numbers.get(7).copied().unwrap_or(0),
    )
}

fn version(program: &str) -> String {
    let output = Command::new(program).arg("--version").output();
    output.map_or_else(
        |_| format!("no {program}"),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
