//! Figures held against marks, and how they are shown.

use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::Value;

/// What a row came to.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// Its number.
    pub row: u8,
    title: &'static str,
    checks: Vec<Check>,
    /// What went wrong, where the row could not be measured to its end.
    error: Option<String>,
    /// Everything measured, each run by itself.
    facts: Value,
}

/// One figure and its mark.
#[derive(Debug, Serialize)]
struct Check {
    what: String,
    value: f64,
    mark: Mark,
    unit: &'static str,
    pass: bool,
}

/// What a figure is held against.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Mark {
    AtMost(f64),
    AtLeast(f64),
    Between(f64, f64),
    /// Worth knowing, and free.
    Shown,
}

/// What a row is about.
pub fn title(row: u8) -> &'static str {
    match row {
        1 => "3 M pgbench rows, aid int to bigint, idle, against ALTER TABLE",
        2 => "1.5 M rows with uuid key, text, timestamp and jsonb, against ALTER TABLE",
        3 => "5 M pgbench rows, over twice the shared_buffers, against ALTER TABLE",
        4 => "verify against copy and index",
        5 => "cut-over under pgbench -N, 8 clients, three protocol modes",
        6 => "cut-over with a reader's transaction open across it",
        7 => "cut-over with an autovacuum of the table",
        8 => "sustained random-key updates",
        9 => "memory with 5 M rows and 1 M changed keys",
        10 => "cut-over under pgbench -N of a table with views, foreign keys, triggers and policies",
        11 => "3 M rows by month, idle, against the same by hand without traffic",
        12 => "cut-over under pgbench -N of five tables that hold one key",
        13 => "pgbench -N at half of its full rate beside a run with --jobs 1, 99th percentile of latency by phase",
        14 => "a dry run's estimate against the run, four tables, idle and under load",
        15 => "cut-over under pgbench -N of a table of which a column moves to a new one",
        _ => "unknown",
    }
}

impl Outcome {
    /// A row with nothing checked yet.
    pub fn new(row: u8, facts: Value) -> Self {
        Outcome { row, title: title(row), checks: Vec::new(), error: None, facts }
    }

    /// A row that could not be measured.
    pub fn failed(row: u8, error: String) -> Self {
        Outcome { error: Some(error), ..Outcome::new(row, Value::Null) }
    }

    /// With a figure that must not be above its mark.
    pub fn at_most(self, what: impl Into<String>, value: f64, mark: f64, unit: &'static str) -> Self {
        self.check(what, value, Mark::AtMost(mark), unit)
    }

    /// With a figure that must not be below its mark.
    pub fn at_least(self, what: impl Into<String>, value: f64, mark: f64, unit: &'static str) -> Self {
        self.check(what, value, Mark::AtLeast(mark), unit)
    }

    /// With a figure that must be neither below nor above its mark.
    pub fn between(self, what: impl Into<String>, value: f64, (low, high): (f64, f64), unit: &'static str) -> Self {
        self.check(what, value, Mark::Between(low, high), unit)
    }

    /// With a figure that has no mark.
    pub fn shown(self, what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        self.check(what, value, Mark::Shown, unit)
    }

    /// A figure that is not a number misses every mark.
    fn check(mut self, what: impl Into<String>, value: f64, mark: Mark, unit: &'static str) -> Self {
        let pass = match mark {
            Mark::AtMost(bound) => value <= bound,
            Mark::AtLeast(bound) => value >= bound,
            Mark::Between(low, high) => (low..=high).contains(&value),
            Mark::Shown => true,
        };
        self.checks.push(Check { what: what.into(), value, mark, unit, pass });
        self
    }

    /// With these facts.
    pub fn with_facts(self, facts: Value) -> Self {
        Outcome { facts, ..self }
    }

    /// Whether all marks were met.
    pub fn passes(&self) -> bool {
        self.error.is_none() && !self.checks.is_empty() && self.checks.iter().all(|check| check.pass)
    }

    /// For reading along: the figures, and where a mark was missed, all that was measured.
    pub fn lines(&self) -> String {
        let mut lines: Vec<String> = self.checks.iter().map(Check::line).collect();
        lines.extend(self.error.iter().map(|error| format!("   MISS  {error}")));
        if !self.passes() {
            lines.push(format!("   {}", self.facts));
        }
        lines.join("\n") + "\n"
    }
}

impl Check {
    fn measured(&self) -> String {
        with_unit(self.value, self.unit)
    }

    fn bound(&self) -> String {
        match self.mark {
            Mark::AtMost(mark) => format!("≤ {}", with_unit(mark, self.unit)),
            Mark::AtLeast(mark) => format!("≥ {}", with_unit(mark, self.unit)),
            Mark::Between(low, high) => format!("{} to {}", with_unit(low, self.unit), with_unit(high, self.unit)),
            Mark::Shown => String::new(),
        }
    }

    fn verdict(&self) -> &'static str {
        match self.mark {
            Mark::Shown => "",
            _ if self.pass => "PASS",
            Mark::AtMost(_) | Mark::AtLeast(_) | Mark::Between(..) => "MISS",
        }
    }

    fn line(&self) -> String {
        format!("   {:4}  {}: {} {}", self.verdict(), self.what, self.measured(), self.bound()).trim_end().to_owned()
    }
}

fn with_unit(value: f64, unit: &str) -> String {
    match unit {
        _ if value.is_nan() => "–".to_owned(),
        "×" => format!("{value:.3} ×"),
        "" => format!("{value}"),
        _ => format!("{value:.1} {unit}"),
    }
}

/// All rows, for people.
pub fn table(outcomes: &[Outcome]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(["row", "", "figure", "measured", "mark", ""]);
    for outcome in outcomes {
        let row = outcome.row.to_string();
        for check in &outcome.checks {
            table.add_row([&row, outcome.title, &check.what, &check.measured(), &check.bound(), check.verdict()]);
        }
        if let Some(error) = &outcome.error {
            table.add_row([&row, outcome.title, error, "", "", "MISS"]);
        }
    }
    table
}

/// The middle one, or the mean of the two in the middle; not a number where there is none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The largest; not a number where there is none.
pub fn worst(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NAN, f64::max)
}
