//! The figures we promise, measured on real packets between network namespaces, beside what a user would pick instead, in the same
//! run: `make bench` prints them as tables, and leaves them in `target/bench.json`.
//!
//!     make bench                                                    everything, half an hour
//!     cargo bench --bench figures -- --rounds 3 floods engine       these measures, so many rounds
//!     cargo bench --bench figures -- --ours floods                  without the peers
//!
//! These machines are noisy: rounds are interleaved, so that what is compared is measured within seconds, and medians and ratios are
//! what to quote.

mod bans;
mod busy;
mod contender;
mod engine;
mod repair;
mod responders;
mod start;
mod table;
mod wire;

#[path = "../../tests/net/lab/mod.rs"]
#[expect(
    dead_code,
    unused_imports,
    reason = "the tests use more of the laboratory"
)]
mod lab;

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use table::Table;

/// How it is to be measured.
pub(crate) struct Run {
    /// How often each contender has its turn.
    pub(crate) rounds: usize,
    /// Whether nobody but us is measured: for comparing two versions of ours.
    pub(crate) ours_alone: bool,
}

type Measure = fn(&Run) -> Vec<Table>;

const MEASURES: [(&str, Measure); 10] = [
    ("time-to-ban", bans::time_to_ban),
    ("floods", bans::floods),
    ("engine", engine::engine),
    ("busy", busy::busy),
    ("start", start::start),
    ("idle", start::idle),
    ("replay", start::replay),
    ("commands", start::commands),
    ("responders", responders::responders),
    ("repair", repair::repair),
];

fn main() {
    let (run, wanted) = options();
    let mut all: Vec<Value> = Vec::new();
    for (name, measure) in MEASURES {
        if !wanted.is_empty() && !wanted.iter().any(|it| it == name) {
            continue;
        }
        for table in measure(&run) {
            table.print();
            all.push(table.json());
        }
        // After each: what is measured stays, whatever becomes of the rest.
        save(&json!({ "machine": machine(), "rounds": run.rounds, "measures": all }));
    }
}

/// How, and the names of the measures that are wanted; none: all.
fn options() -> (Run, Vec<String>) {
    let mut wanted = Vec::new();
    let mut run = Run {
        rounds: 5,
        ours_alone: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            // Of cargo's.
            "--bench" => {}
            "--ours" => run.ours_alone = true,
            "--rounds" => {
                let number = words.next().and_then(|number| number.parse().ok());
                run.rounds = number
                    .filter(|number| *number > 0)
                    .expect("--rounds takes a number");
            }
            name => {
                let known = MEASURES.map(|(name, _)| name);
                assert!(
                    known.contains(&name),
                    "no measure {name}; known: {}",
                    known.join(", ")
                );
                wanted.push(name.to_owned());
            }
        }
    }
    (run, wanted)
}

fn machine() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let model = processors
        .lines()
        .find(|line| line.starts_with("model name"));
    let said = |program: &str, arg: &str| {
        let output = Command::new(program).arg(arg).output();
        output.map_or(String::new(), |output| {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        })
    };
    json!({
        "processor": model.and_then(|line| line.split(": ").nth(1)),
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "nft": said("nft", "--version"),
        "iptables": said("iptables", "--version"),
        "load": read("/proc/loadavg").trim(),
    })
}

fn save(figures: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench.json");
    let text = serde_json::to_string_pretty(figures).expect("figures are plain");
    fs::write(&path, text + "\n")
        .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}
