//! The table: case by case, how it went with each implementation, and where and why the two differ.

use crate::case::{Case, Implementation, Outcome, diff};

pub(crate) struct Report<'a> {
    implementations: &'a [Implementation],
    results: Vec<(&'a Case, Vec<Outcome>)>,
}

impl<'a> Report<'a> {
    /// `results` has an outcome for each implementation, in their order.
    pub(crate) fn new(
        implementations: &'a [Implementation],
        results: Vec<(&'a Case, Vec<Outcome>)>,
    ) -> Self {
        Self {
            implementations,
            results,
        }
    }

    pub(crate) fn is_good(&self) -> bool {
        self.failures().count() == 0 && !self.results.is_empty()
    }

    fn failures(&self) -> impl Iterator<Item = (&Case, Implementation, &str)> {
        self.results.iter().flat_map(|(case, outcomes)| {
            outcomes
                .iter()
                .zip(self.implementations)
                .filter_map(|(outcome, which)| Some((*case, *which, outcome.failure.as_deref()?)))
        })
    }

    #[expect(clippy::print_stdout, reason = "this is what the suite is run for")]
    pub(crate) fn print(&self) {
        for (case, which, failure) in self.failures() {
            println!("FAILED with {}: {}", which.name(), case.name());
            println!("{failure}\n");
        }
        let width = self
            .results
            .iter()
            .map(|(case, _)| case.name().chars().count())
            .max()
            .unwrap_or(0);
        let columns = |cells: Vec<String>| cells.join(" | ");
        let names = self.implementations.iter().map(|which| which.name());
        let mut head = vec![format!("{:width$}", "case")];
        head.extend(names.map(|name| format!("{name:8}")));
        head.push("why we differ".to_owned());
        println!("{}", columns(head));
        for (case, outcomes) in &self.results {
            let mut row = vec![format!("{:width$}", case.name())];
            row.extend(outcomes.iter().map(|outcome| {
                let word = if outcome.failure.is_none() {
                    "ok"
                } else {
                    "FAILED"
                };
                format!("{word:8}")
            }));
            row.push(
                case.difference()
                    .map_or("", |difference| difference.why)
                    .to_owned(),
            );
            println!("{}", columns(row).trim_end());
        }
        self.print_differences();
        self.print_figures();
    }

    /// The original's behaviour beside ours, where they differ.
    #[expect(clippy::print_stdout, reason = "this is what the suite is run for")]
    fn print_differences(&self) {
        if self.implementations.len() < 2 {
            return;
        }
        println!("\nWhere we differ: the original's lines (-) and ours (+)");
        for (case, _) in &self.results {
            if let Some(difference) = case.difference() {
                println!("\n{}: {}", case.name(), difference.why);
                println!("{}", diff(case.seen(), &difference.seen));
            }
        }
    }

    #[expect(clippy::print_stdout, reason = "this is what the suite is run for")]
    fn print_figures(&self) {
        let passed = |differing: bool| {
            self.results
                .iter()
                .filter(|(case, outcomes)| {
                    case.difference().is_some() == differing
                        && outcomes.iter().all(|outcome| outcome.failure.is_none())
                })
                .count()
        };
        let seconds: f64 = self
            .results
            .iter()
            .flat_map(|(_, outcomes)| outcomes)
            .map(|outcome| outcome.seconds)
            .sum();
        println!(
            "\n{} cases: {} pass where both do the same, {} where we differ, as told above; {} failures; {seconds:.0} s of work",
            self.results.len(),
            passed(false),
            passed(true),
            self.failures().count(),
        );
    }
}

impl Implementation {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Original => "original",
            Self::Ours => "ours",
        }
    }
}

/// The names, as `cargo test -- --list` has them.
#[expect(clippy::print_stdout, reason = "it was asked for")]
pub(crate) fn list(cases: &[Case]) {
    for case in cases {
        println!("{}: test", case.name());
    }
}
