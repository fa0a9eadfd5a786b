//! The figures we promise, measured on real packets between network namespaces, beside what a user would pick instead, in the same
//! run: `make bench` prints them as tables, and leaves them in `target/bench.json`.
//!
//!     make bench                                                    everything, a quarter of an hour
//!     QUICK=1 make bench                                            whether everything can be measured, two minutes
//!     cargo bench --bench figures -- --rounds 9 floods engine       these measures, so many rounds
//!     cargo bench --bench figures -- --ours floods                  without the peers
//!
//! These machines are noisy: rounds are interleaved, so that what is compared is measured within seconds, and medians and ratios are
//! what to quote. What cannot be measured is told, and fails the run at its end.

mod bans;
mod busy;
mod contender;
mod crowd;
mod engine;
mod instructions;
mod machine;
mod repair;
mod responders;
mod start;
mod table;
mod tidy;
mod wire;

#[path = "../../tests/net/lab/mod.rs"]
#[expect(
    dead_code,
    unused_imports,
    reason = "the tests use more of the laboratory"
)]
mod lab;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use machine::Machine;
use table::Table;

/// How it is to be measured.
pub(crate) struct Run {
    /// How often each contender has its turn.
    pub(crate) rounds: usize,
    /// Whether nobody but us is measured: for comparing two versions of ours.
    pub(crate) ours_alone: bool,
    /// Whether it is enough to see that everything can be measured.
    is_quick: bool,
}

impl Run {
    /// How much of something there is to be.
    pub(crate) fn size<T>(&self, whole: T, quick: T) -> T {
        if self.is_quick { quick } else { whole }
    }
}

type Measure = fn(&Run) -> Vec<Table>;

const MEASURES: [(&str, Measure); 12] = [
    ("time-to-ban", bans::time_to_ban),
    ("floods", bans::floods),
    ("crowd", crowd::crowd),
    ("engine", engine::engine),
    ("busy", busy::busy),
    ("start", start::start),
    ("idle", start::idle),
    ("replay", start::replay),
    ("commands", start::commands),
    ("repair", repair::repair),
    ("responders", responders::responders),
    ("instructions", instructions::instructions),
];

fn main() -> ExitCode {
    let (run, wanted) = options();
    if !tidy::is_to_measure() {
        return tidy::supervise(run.size(Duration::from_secs(1800), Duration::from_secs(300)));
    }
    let machine = Machine::read();
    say(&machine.told());
    let mut all: Vec<Value> = Vec::new();
    let mut failed = Vec::new();
    for (name, measure) in MEASURES {
        if !wanted.is_empty() && !wanted.iter().any(|it| it == name) {
            continue;
        }
        let begun = Instant::now();
        match catch_unwind(AssertUnwindSafe(|| measure(&run))) {
            Ok(tables) => {
                for table in tables {
                    table.print();
                    all.push(table.json());
                }
                let load = machine::load();
                say(&format!(
                    "  ({name}: {:.0} s; load now {load})",
                    begun.elapsed().as_secs_f64()
                ));
            }
            // What went wrong has been printed by then.
            Err(_) => failed.push(name),
        }
        // After each: what is measured stays, whatever becomes of the rest.
        let figures = json!({
            "machine": machine.json(),
            "rounds": run.rounds,
            "quick": run.is_quick,
            "measures": all,
            "failed": failed,
        });
        save(&figures);
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    say(&format!(
        "\nFAILED, for the reasons above: {}",
        failed.join(", ")
    ));
    ExitCode::FAILURE
}

/// How, and the names of the measures that are wanted; none: all.
fn options() -> (Run, Vec<String>) {
    let is_quick = std::env::var_os("QUICK").is_some_and(|value| !value.is_empty() && value != "0");
    let mut wanted = Vec::new();
    let mut run = Run {
        rounds: if is_quick { 1 } else { 3 },
        ours_alone: false,
        is_quick,
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

#[expect(clippy::print_stdout, reason = "the figures are what this prints")]
fn say(line: &str) {
    println!("{line}");
}

fn save(figures: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench.json");
    let text = serde_json::to_string_pretty(figures).expect("figures are plain");
    fs::write(&path, text + "\n")
        .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}
