//! A case: what is sent, and what must be seen.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::time::Instant;

use crate::bench::Bench;

/// What a case is run against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Implementation {
    /// Debian's portsentry 1.2.
    Original,
    /// The program of this repository.
    Ours,
}

/// One case. What must be seen is everything that is to be seen: 1.2's log lines, the files, and what the steps have noted,
/// as [`Bench::seen`] tells them.
pub(crate) struct Case {
    name: String,
    steps: Box<dyn Fn(&mut Bench) + Send + Sync>,
    seen: Vec<String>,
    difference: Option<Difference>,
}

/// Where we differ from the original.
pub(crate) struct Difference {
    /// In one line.
    pub(crate) why: &'static str,
    /// What must be seen of ours.
    pub(crate) seen: Vec<String>,
}

/// How a case went.
pub(crate) struct Outcome {
    /// What went wrong, in lines.
    pub(crate) failure: Option<String>,
    pub(crate) seconds: f64,
}

impl Case {
    /// A case that is called this, a sentence, and whose steps are these.
    pub(crate) fn new(
        name: impl Into<String>,
        steps: impl Fn(&mut Bench) + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            steps: Box::new(steps),
            seen: Vec::new(),
            difference: None,
        }
    }

    /// What must be seen, a line each. An ellipsis (…) stands for anything.
    pub(crate) fn sees(mut self, lines: &str) -> Self {
        self.seen = split(lines);
        self
    }

    /// What must be seen of ours instead, and why.
    pub(crate) fn but_ours(mut self, why: &'static str, lines: &str) -> Self {
        let seen = split(lines);
        self.difference = Some(Difference { why, seen });
        self
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn seen(&self) -> &[String] {
        &self.seen
    }

    pub(crate) fn difference(&self) -> Option<&Difference> {
        self.difference.as_ref()
    }

    /// Runs it. Never panics: what goes wrong is in the outcome.
    pub(crate) fn run(&self, which: Implementation) -> Outcome {
        let begin = Instant::now();
        let result = panic::catch_unwind(AssertUnwindSafe(|| {
            let mut bench = Bench::new(which);
            let steps = panic::catch_unwind(AssertUnwindSafe(|| {
                (self.steps)(&mut bench);
                self.compare(which, &mut bench)
            }));
            match steps {
                Ok(failure) => failure,
                Err(panic) => Some(format!("{}\n{}", words(&*panic), bench.everything())),
            }
        }));
        Outcome {
            failure: result.unwrap_or_else(|panic| Some(words(&*panic))),
            seconds: begin.elapsed().as_secs_f64(),
        }
    }

    /// Waits for what must be seen, then makes sure that nothing else comes.
    fn compare(&self, which: Implementation, bench: &mut Bench) -> Option<String> {
        let expected = match (&self.difference, which) {
            (Some(difference), Implementation::Ours) => &difference.seen,
            _ => &self.seen,
        };
        let as_expected = |seen: &[String]| {
            seen.len() == expected.len()
                && seen
                    .iter()
                    .zip(expected)
                    .all(|(line, like)| fits(line, like))
        };
        bench.wait_until(as_expected);
        bench.everything_is_judged();
        let seen = bench.seen();
        if as_expected(&seen) {
            return None;
        }
        let difference = diff(expected, &seen);
        Some(format!(
            "expected (-) and seen (+):\n{difference}\n{}",
            bench.everything()
        ))
    }
}

/// Whether a line is as expected: the same, but that an ellipsis stands for anything.
pub(crate) fn fits(line: &str, like: &str) -> bool {
    let mut parts = like.split('…');
    let first = parts.next().expect("splitting gives one part at least");
    let Some(mut rest) = line.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// The lines of two lists side by side: those of one alone are marked, in the order of the lists.
pub(crate) fn diff(expected: &[String], seen: &[String]) -> String {
    let same = |a: &str, b: &str| fits(b, a) || fits(a, b);
    // Lengths of the longest common tails.
    let mut tails = vec![vec![0_usize; seen.len() + 1]; expected.len() + 1];
    for (i, a) in expected.iter().enumerate().rev() {
        for (j, b) in seen.iter().enumerate().rev() {
            tails[i][j] = if same(a, b) {
                tails[i + 1][j + 1] + 1
            } else {
                tails[i + 1][j].max(tails[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    while i < expected.len() || j < seen.len() {
        if i < expected.len() && j < seen.len() && same(&expected[i], &seen[j]) {
            lines.push(format!("    {}", seen[j]));
            (i, j) = (i + 1, j + 1);
        } else if j == seen.len() || (i < expected.len() && tails[i + 1][j] >= tails[i][j + 1]) {
            lines.push(format!("  - {}", expected[i]));
            i += 1;
        } else {
            lines.push(format!("  + {}", seen[j]));
            j += 1;
        }
    }
    lines.join("\n")
}

/// A line each, without the indentation it has in the source and without empty ones.
fn split(lines: &str) -> Vec<String> {
    lines
        .lines()
        .map(|line| line.trim_start_matches(' ').to_owned())
        .filter(|line| !line.is_empty())
        .collect()
}

/// What a panic says.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words")
        .to_owned()
}
