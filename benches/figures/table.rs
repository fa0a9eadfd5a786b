//! What was measured, as a table for people and as JSON: medians, the 99th percentile, how far rounds lie apart, and how ours
//! compare. It measures nothing.

use std::io::Write;

use serde_json::{Value, json};

/// One measure, with a row for everybody it was taken of.
pub(crate) struct Table {
    title: String,
    unit: Unit,
    rows: Vec<Row>,
    notes: Vec<String>,
    aims: Vec<Aim>,
}

/// What figures are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Seconds; the fewer the better.
    Time,
    /// A second; the more the better.
    Rate,
    /// The fewer the better.
    Bytes,
    /// The fewer the better.
    Count,
}

/// Whose figures a row has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Ours,
    /// What a user would pick instead.
    Peer,
    /// What nobody can beat, or what things are without any of us.
    Floor,
}

struct Row {
    who: String,
    side: Side,
    rounds: Vec<Vec<f64>>,
}

struct Aim {
    words: String,
    is_reached: bool,
}

/// What of a row is held against an aim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Median,
    P99,
}

impl Table {
    pub(crate) fn new(title: impl Into<String>, unit: Unit) -> Self {
        Self {
            title: title.into(),
            unit,
            rows: Vec::new(),
            notes: Vec::new(),
            aims: Vec::new(),
        }
    }

    /// Adds the figures of one round.
    pub(crate) fn add(&mut self, who: &str, side: Side, round: Vec<f64>) {
        match self.rows.iter_mut().find(|row| row.who == who) {
            Some(row) => row.rounds.push(round),
            None => self.rows.push(Row {
                who: who.to_owned(),
                side,
                rounds: vec![round],
            }),
        }
    }

    /// Adds a line below the rows: what is missing, and why.
    pub(crate) fn note(&mut self, words: impl Into<String>) {
        self.notes.push(words.into());
    }

    /// Ours are to be this many times better than the best of the other side.
    pub(crate) fn aim(&mut self, of: Of, times: f64, than: Side) {
        let what = match of {
            Of::Median => "median",
            Of::P99 => "p99",
        };
        if of == Of::P99 && !self.ours().all(Row::has_p99) {
            return self.note("no aim for the p99: too few figures");
        }
        let Some(best) = self.best(of, than) else {
            return self.note(format!("no aim for the {what}: nobody to compare with"));
        };
        let aims = self.ours().map(|row| {
            let better = match self.unit {
                Unit::Rate => row.figure(of) / best,
                Unit::Time | Unit::Bytes | Unit::Count => best / row.figure(of),
            };
            let words = format!("{what} of {}: {times} times as good is the aim", row.who);
            Aim {
                words: format!("{words}, {better:.2} times it is"),
                is_reached: better >= times,
            }
        });
        let aims: Vec<Aim> = aims.collect();
        self.aims.extend(aims);
    }

    /// Ours are to be no worse than this.
    pub(crate) fn limit(&mut self, limit: f64) {
        let aims = self.ours().map(|row| {
            let median = row.figure(Of::Median);
            Aim {
                words: format!("{}: {} is the aim", row.who, self.unit.show(limit)),
                is_reached: match self.unit {
                    Unit::Rate => median >= limit,
                    Unit::Time | Unit::Bytes | Unit::Count => median <= limit,
                },
            }
        });
        let aims: Vec<Aim> = aims.collect();
        self.aims.extend(aims);
    }

    fn ours(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.side == Side::Ours)
    }

    fn best(&self, of: Of, side: Side) -> Option<f64> {
        let figures = self.rows.iter().filter(|row| row.side == side);
        let figures = figures.map(|row| row.figure(of));
        match self.unit {
            Unit::Rate => figures.max_by(f64::total_cmp),
            Unit::Time | Unit::Bytes | Unit::Count => figures.min_by(f64::total_cmp),
        }
    }

    /// Prints it on standard output.
    pub(crate) fn print(&self) {
        let mut out = std::io::stdout().lock();
        let mut line = |text: &str| writeln!(out, "{text}").expect("standard output is there");
        let head = ["median", "p99", "rounds", "best peer's"];
        line(&format!(
            "\n{}\n{:<52}{:>12}{:>12}{:>24}{:>12}",
            self.title, "", head[0], head[1], head[2], head[3]
        ));
        let best = self.best(Of::Median, Side::Peer);
        for row in &self.rows {
            let median = self.unit.show(row.figure(Of::Median));
            let p99 = row.has_p99().then(|| self.unit.show(row.figure(Of::P99)));
            let p99 = p99.unwrap_or_default();
            let (low, high) = row.spread();
            let spread = format!("{} – {}", self.unit.show(low), self.unit.show(high));
            let times = best.filter(|best| *best > 0.0);
            let times = times.map_or(String::new(), |best| {
                format!("× {:.3}", row.figure(Of::Median) / best)
            });
            line(&format!(
                "  {:<50}{median:>12}{p99:>12}{spread:>24}{times:>12}",
                row.who
            ));
        }
        for note in &self.notes {
            line(&format!("  {note}"));
        }
        for aim in &self.aims {
            let mark = if aim.is_reached {
                "reached"
            } else {
                "NOT REACHED"
            };
            line(&format!("  {mark}: {}", aim.words));
        }
    }

    pub(crate) fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let (low, high) = row.spread();
            json!({
                "who": row.who,
                "side": format!("{:?}", row.side).to_lowercase(),
                "median": row.figure(Of::Median),
                "p99": row.has_p99().then(|| row.figure(Of::P99)),
                "lowest_round": low,
                "highest_round": high,
                "rounds": row.rounds,
            })
        });
        let aims = self.aims.iter();
        let aims = aims.map(|aim| json!({ "aim": aim.words, "reached": aim.is_reached }));
        json!({
            "measure": self.title,
            "unit": self.unit.name(),
            "rows": rows.collect::<Vec<_>>(),
            "aims": aims.collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }
}

impl Row {
    fn figure(&self, of: Of) -> f64 {
        let all = sorted(self.rounds.iter().flatten().copied());
        match of {
            Of::Median => middle(&all),
            Of::P99 => all.get(all.len() * 99 / 100).copied().unwrap_or(f64::NAN),
        }
    }

    /// Whether there are enough figures for one in a hundred to be told.
    fn has_p99(&self) -> bool {
        self.rounds.iter().map(Vec::len).sum::<usize>() >= 100
    }

    /// The lowest and the highest of the rounds' medians.
    fn spread(&self) -> (f64, f64) {
        let medians = self.rounds.iter();
        let medians = sorted(medians.map(|round| middle(&sorted(round.iter().copied()))));
        let end = |figure: Option<&f64>| figure.copied().unwrap_or(f64::NAN);
        (end(medians.first()), end(medians.last()))
    }
}

/// The one in the middle of what is sorted.
fn middle(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn sorted(figures: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Time => "s",
            Self::Rate => "1/s",
            Self::Bytes => "B",
            Self::Count => "1",
        }
    }

    fn show(self, figure: f64) -> String {
        let (figure, units): (f64, [&str; 4]) = match self {
            Self::Time => (figure * 1e9, ["ns", "µs", "ms", "s"]),
            Self::Rate => (figure, ["/s", "k/s", "M/s", "G/s"]),
            Self::Bytes => (figure, ["B", "kB", "MB", "GB"]),
            Self::Count => (figure, ["", "k", "M", "G"]),
        };
        let step = units
            .iter()
            .scan(figure, |figure, unit| {
                let this = (*figure, unit);
                *figure /= 1000.0;
                Some(this)
            })
            .find(|(figure, _)| figure.abs() < 1000.0);
        let (figure, unit) = step.unwrap_or((figure, &""));
        let digits = if figure.fract() == 0.0 || figure.abs() >= 100.0 {
            0
        } else if figure.abs() >= 10.0 {
            1
        } else {
            2
        };
        format!("{figure:.digits$} {unit}").trim_end().to_owned()
    }
}
