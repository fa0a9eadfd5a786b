//! Compliance with PortSentry 1.2: one set of cases, written as what is sent and what must be seen, run against the original
//! and against us. Both are driven in the same way, by 1.2's flags, files and syslog; where we differ, the case says why.
//!
//!     make compliance                                      both, and the table
//!     PORTSENTRY=original cargo test --test compliance     one of them: original, ours (the default) or both
//!     cargo test --test compliance -- 'TIME_WAIT'          the cases with these words in their names
//!
//! The original is Debian's package; `tests/compliance/fetch` unpacks it, and the rule files of those who read our log, under
//! target/compliance. All of it needs root: each case makes namespaces of its own, and touches nothing of this host.

mod bench;
mod case;
mod cases;
mod dns;
#[path = "../net/lab/host.rs"]
#[expect(dead_code, reason = "the tests in tests/net use the rest of it")]
mod host;
#[path = "../net/lab/packets.rs"]
#[expect(dead_code, reason = "the tests in tests/net use the rest of it")]
mod packets;
mod readers;
mod report;
#[path = "../net/lab/sandbox.rs"]
mod sandbox;
#[path = "../net/lab/syslog.rs"]
mod syslog;

use std::panic;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, setrlimit};

use case::{Case, Implementation, Outcome};
use host::Host;
use report::Report;

/// How long anything may take before a case gives up. Far more than it takes: the cases share few processors.
const PATIENCE: Duration = Duration::from_secs(20);

/// Files open at a time, over all cases.
const FILES: u64 = 16 * 1024;

/// Cases at a time. Most of a case's time is waiting.
const AT_A_TIME: usize = 4;

fn main() -> ExitCode {
    let options = Options::read();
    let implementations: &[Implementation] = match std::env::var("PORTSENTRY").as_deref() {
        Err(_) | Ok("ours") => &[Implementation::Ours],
        Ok("original") => &[Implementation::Original],
        Ok("both") => &[Implementation::Original, Implementation::Ours],
        Ok(other) => panic!("PORTSENTRY is original, ours or both, not {other}"),
    };
    let cases: Vec<Case> = cases::all()
        .into_iter()
        .filter(|case| case.name().contains(&options.filter))
        .collect();
    if options.list {
        report::list(&cases);
        return ExitCode::SUCCESS;
    }
    // Some cases hold many sockets.
    setrlimit(Resource::RLIMIT_NOFILE, FILES, FILES).expect("root may");
    // What goes wrong in a case is told with the case.
    panic::set_hook(Box::new(|_| {}));
    let report = Report::new(implementations, run(&cases, implementations));
    report.print();
    if report.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs every case on every implementation, a few at a time. The outcomes are in the order of the cases.
fn run<'a>(cases: &'a [Case], implementations: &[Implementation]) -> Vec<(&'a Case, Vec<Outcome>)> {
    let jobs: Vec<(usize, Implementation)> = (0..cases.len())
        .flat_map(|number| implementations.iter().map(move |which| (number, *which)))
        .collect();
    let next = AtomicUsize::new(0);
    let outcomes: Mutex<Vec<Option<Outcome>>> = Mutex::new(jobs.iter().map(|_| None).collect());
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some((job, (number, which))) = {
                    let job = next.fetch_add(1, Ordering::Relaxed);
                    jobs.get(job).map(|what| (job, *what))
                } {
                    let outcome = cases[number].run(which);
                    outcomes.lock().expect("nobody panics with it")[job] = Some(outcome);
                }
            });
        }
    });
    let mut outcomes = outcomes
        .into_inner()
        .expect("nobody panics with it")
        .into_iter()
        .flatten();
    cases
        .iter()
        .map(|case| {
            (
                case,
                outcomes.by_ref().take(implementations.len()).collect(),
            )
        })
        .collect()
}

/// What `cargo test` passes on.
struct Options {
    filter: String,
    list: bool,
}

impl Options {
    fn read() -> Self {
        let mut options = Self {
            filter: String::new(),
            list: false,
        };
        for word in std::env::args().skip(1) {
            match word.as_str() {
                "--list" => options.list = true,
                // The other options of a test program are about what this one has not.
                option if option.starts_with('-') => {}
                filter => filter.clone_into(&mut options.filter),
            }
        }
        options
    }
}

/// Waits until `condition` gives something.
///
/// # Panics
/// When it does not in time; then `what` says what was waited for.
pub(crate) fn eventually<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, condition)
        .unwrap_or_else(|| panic!("waited {} s in vain: {what}", PATIENCE.as_secs()))
}

/// Waits until `condition` gives something, or until the time is up.
pub(crate) fn within<T>(time: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let begin = Instant::now();
    loop {
        if let Some(found) = condition() {
            return Some(found);
        }
        if begin.elapsed() >= time {
            return None;
        }
        thread::sleep(Duration::from_millis(20));
    }
}
