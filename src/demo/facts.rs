//! What the demonstration showed, for people and as JSON. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::load::{Account, CLIENTS, Pause, Stage};
use super::table::{self, Shape, first_cents};
use super::watch::Kept;
use crate::report::numbers::{bytes, count, counted, seconds};
use crate::report::{Report, VerifyFigures};

/// The clock of the clients and the moment at which the swap is told differ by a little.
const SLACK: SignedDuration = SignedDuration::from_millis(20);

/// All that was seen. Times are seconds, sizes bytes.
#[derive(Debug, Serialize)]
pub struct Facts {
    event: &'static str,
    table: TableFacts,
    migration: MigrationFacts,
    clients: ClientFacts,
    writes: WriteFacts,
}

#[derive(Debug, Serialize)]
struct TableFacts {
    name: &'static str,
    rows: u64,
    bytes: u64,
    key_type_before: String,
    key_type: String,
}

#[derive(Debug, Serialize)]
struct MigrationFacts {
    seconds: Option<f64>,
    /// Phase and seconds, in order.
    phases: Vec<(&'static str, f64)>,
    write_blocked: Option<f64>,
    rows_compared: Option<u64>,
    differences: Option<u64>,
    wal_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct ClientFacts {
    connections: usize,
    statements: u64,
    failed: u64,
    errors: Vec<String>,
    stages: Vec<StageFacts>,
    /// The longest of all.
    longest_pause: f64,
    /// Whether that one was at the swap.
    longest_pause_at_swap: bool,
    /// The longest that some of it lay between the request of the swap's lock and its end.
    swap_pause: Option<f64>,
}

#[derive(Debug, Serialize)]
struct StageFacts {
    stage: &'static str,
    seconds: f64,
    statements: u64,
    per_second: f64,
    longest_pause: f64,
}

#[derive(Debug, Serialize)]
struct WriteFacts {
    inserted: u64,
    updated: u64,
    rows_expected: u64,
    rows: u64,
    /// Orders that are not there or not as a client wrote them.
    lost: u64,
    /// Whether the sum of all amounts is what it was at first with the clients' writes on top.
    sum_is_right: bool,
}

/// What the facts are made of.
#[derive(Debug)]
pub struct Seen {
    /// The table as it was made.
    pub before: Shape,
    /// The table at the end.
    pub after: Shape,
    /// How long each stage lasted.
    pub lasted: [Duration; 3],
    /// What the clients tell.
    pub account: Account,
    /// Orders that are not there or not as a client wrote them.
    pub lost: u64,
    /// What the migration told.
    pub kept: Kept,
}

impl Facts {
    /// Draws them up.
    pub fn new(seen: Seen) -> Facts {
        let report = seen.kept.summary.as_ref().map(|summary| summary.report.clone()).unwrap_or_default();
        let (clients, writes) = (clients(&seen, &report), writes(&seen));
        Facts {
            event: "demo_facts",
            migration: migration(&seen.kept, &report),
            clients,
            writes,
            table: TableFacts {
                name: table::NAME,
                rows: seen.before.rows,
                bytes: seen.before.bytes,
                key_type_before: seen.before.key_type,
                key_type: seen.after.key_type,
            },
        }
    }

    /// What must not have happened, in sentences; empty where all is well.
    pub fn faults(&self) -> Vec<String> {
        let (clients, writes) = (&self.clients, &self.writes);
        let mut faults = Vec::new();
        if clients.failed > 0 {
            faults.push(format!("{} statements failed, such as: {}", clients.failed, clients.errors.join("; ")));
        }
        if writes.rows != writes.rows_expected {
            faults.push(format!("The table has {} rows and should have {}.", writes.rows, writes.rows_expected));
        }
        if writes.lost > 0 {
            faults.push(format!("{} orders are not as a client wrote them.", writes.lost));
        }
        if !writes.sum_is_right {
            faults.push("The sum of all amounts is not what the clients' writes make it.".to_owned());
        }
        faults
    }

    /// One JSON object, `{"event":"demo_facts",…}`.
    pub fn object(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }

    /// Lines for people.
    pub fn lines(&self) -> Vec<String> {
        let saw = format!("what {} clients saw, in simple, extended and prepared protocol", self.clients.connections);
        let mut lines = vec![String::new(), saw];
        lines.extend(self.clients.lines());
        lines.push("what became of the table".to_owned());
        let (table, migration, writes) = (&self.table, &self.migration, &self.writes);
        let mut tell = |name: &str, text: String| lines.push(format!("  {name:<16}{text}"));
        tell("size", format!("{} rows, {} with indexes", count(table.rows), bytes(table.bytes)));
        tell("type of id", format!("{}; was {}", table.key_type, table.key_type_before));
        if let Some(took) = migration.seconds {
            tell("migration", format!("{} in all", seconds(took)));
            // Two lines, as a terminal of eighty columns has no room for one.
            migration.phases.chunks(4).for_each(|phases| tell("", listed(phases)));
        }
        if let Some(blocked) = migration.write_blocked {
            tell("writers waited", format!("{} for the swap, by the tool's own account", seconds(blocked)));
        }
        tell("rows compared", migration.compared());
        tell("client writes", writes.words());
        if let Some(wal) = migration.wal_bytes {
            tell("WAL", format!("{} during the migration, the clients' included", bytes(wal)));
        }
        lines
    }
}

fn listed(phases: &[(&str, f64)]) -> String {
    phases.iter().map(|(phase, took)| format!("{phase} {}", seconds(*took))).collect::<Vec<_>>().join(", ")
}

impl ClientFacts {
    fn lines(&self) -> Vec<String> {
        let row = |name: &str, cells: [String; 3], note: &str| {
            let [before, during, after] = cells;
            format!("  {name:<16}{before:>10}{during:>10}{after:>10}{note}").trim_end().to_owned()
        };
        let cells = |cell: fn(&StageFacts) -> String| {
            let mut cells = self.stages.iter().map(cell);
            std::array::from_fn(|_| cells.next().unwrap_or_default())
        };
        vec![
            row("", cells(|stage| stage.stage.to_owned()), ""),
            row("statements/s", cells(|stage| format!("{:.0}", stage.per_second)), ""),
            row("longest pause", cells(|stage| seconds(stage.longest_pause)), &self.at_swap()),
            format!("  {:<16}{} of {} statements", "failed", self.failed, count(self.statements)),
        ]
    }

    fn at_swap(&self) -> String {
        self.swap_pause.map(|pause| format!("   at the swap: {}", seconds(pause))).unwrap_or_default()
    }
}

impl MigrationFacts {
    fn compared(&self) -> String {
        match (self.rows_compared, self.differences) {
            (Some(rows), Some(0)) => format!("{}, no difference", count(rows)),
            (Some(rows), differences) => format!("{}, {} differences", count(rows), differences.unwrap_or_default()),
            (None, _) => "none".to_owned(),
        }
    }
}

impl WriteFacts {
    fn words(&self) -> String {
        let whole = self.lost == 0 && self.rows == self.rows_expected && self.sum_is_right;
        let found = if whole { "every one of them is there" } else { "NOT all of them are there" };
        format!("{} and {}; {found}", counted(self.inserted, "insert"), counted(self.updated, "update"))
    }
}

fn migration(kept: &Kept, report: &Report) -> MigrationFacts {
    let times = &report.seconds;
    let phases = [
        ("prepare", times.prepare),
        ("copy", times.copy),
        ("index", times.index),
        ("catch up", times.catch_up),
        ("verify", times.verify),
        ("ready", times.ready),
        ("cut over", kept.cut_over),
    ];
    let VerifyFigures { rows_compared, differences, .. } = report.verify;
    MigrationFacts {
        seconds: times.total,
        phases: phases.into_iter().filter_map(|(phase, took)| Some((phase, took?))).collect(),
        write_blocked: report.cutover.write_blocked,
        rows_compared,
        differences,
        wal_bytes: report.wal_bytes,
    }
}

fn clients(seen: &Seen, report: &Report) -> ClientFacts {
    let account = &seen.account;
    let longest = |these: &dyn Fn(&Pause) -> bool| account.pauses.iter().filter(|p| these(p)).max_by_key(|p| p.took);
    let swap = swap(&seen.kept, report);
    let at_swap = |pause: &Pause| swap.is_some_and(|(from, to)| pause.meets(from, to));
    let of_all = longest(&|_| true);
    let stages = Stage::ALL.into_iter().zip(seen.lasted).zip(account.statements);
    ClientFacts {
        connections: CLIENTS,
        statements: account.statements.iter().sum(),
        failed: account.failed,
        errors: account.errors.clone(),
        stages: stages
            .map(|((stage, lasted), statements)| StageFacts {
                stage: stage.word(),
                seconds: lasted.as_secs_f64(),
                statements,
                per_second: statements as f64 / lasted.as_secs_f64(),
                longest_pause: in_seconds(longest(&|pause| pause.stage == stage)),
            })
            .collect(),
        longest_pause: in_seconds(of_all),
        longest_pause_at_swap: of_all.is_some_and(at_swap),
        swap_pause: swap.map(|_| in_seconds(longest(&at_swap))),
    }
}

fn in_seconds(pause: Option<&Pause>) -> f64 {
    pause.map_or(0.0, |pause| pause.took.as_secs_f64())
}

/// From the request of the lock to the end of the swap: clients wait behind a request, too.
fn swap(kept: &Kept, report: &Report) -> Option<(Timestamp, Timestamp)> {
    let end = kept.swapped?;
    let cutover = &report.cutover;
    let lasted = SignedDuration::try_from_secs_f64(cutover.write_blocked? + cutover.lock_wait?).ok()?;
    Some((end - lasted - SLACK, end + SLACK))
}

fn writes(seen: &Seen) -> WriteFacts {
    let (account, before) = (&seen.account, &seen.before);
    let at_first = |key: i64| if key.cast_unsigned() <= before.rows { first_cents(key) } else { 0 };
    let added: i64 = account.book.iter().map(|(key, cents)| cents - at_first(*key)).sum();
    WriteFacts {
        inserted: account.inserted,
        updated: account.updated,
        rows_expected: before.rows + account.inserted,
        rows: seen.after.rows,
        lost: seen.lost,
        sum_is_right: before.cents + added == seen.after.cents,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{CutoverFigures, PhaseSeconds, Summary};

    fn at(millisecond: i64) -> Timestamp {
        Timestamp::from_millisecond(1_700_000_000_000 + millisecond).expect("a time")
    }

    fn shape(rows: u64, cents: i64, key_type: &str) -> Shape {
        Shape { rows, cents, bytes: 1 << 20, key_type: key_type.to_owned() }
    }

    fn seen() -> Seen {
        let pause = |ms, took, stage| Pause { at: at(ms), took: Duration::from_millis(took), stage };
        let report = Report {
            seconds: PhaseSeconds { total: Some(12.0), copy: Some(8.0), index: Some(3.0), ..PhaseSeconds::default() },
            cutover: CutoverFigures { lock_wait: Some(0.001), write_blocked: Some(0.007), ..CutoverFigures::default() },
            wal_bytes: Some(3 << 20),
            ..Report::default()
        };
        Seen {
            before: shape(1_000, 5_000_000, "integer"),
            after: shape(1_001, 5_000_000 + 250 + 1, "bigint"),
            lasted: [Duration::from_secs(5), Duration::from_secs(12), Duration::from_secs(5)],
            account: Account {
                statements: [5_000, 9_600, 5_000],
                pauses: vec![
                    pause(0, 4, Stage::Before),
                    pause(6_000, 30, Stage::During),
                    pause(10_000, 9, Stage::During),
                    pause(13_000, 5, Stage::After),
                ],
                inserted: 1,
                updated: 1,
                book: [(1_001, 250), (1, first_cents(1) + 1)].into(),
                ..Account::default()
            },
            lost: 0,
            kept: Kept {
                swapped: Some(at(10_010)),
                cut_over: Some(0.05),
                summary: Some(Box::new(Summary { report, old_table: None })),
            },
        }
    }

    #[test]
    fn people_see_all_of_it() {
        let expected = [
            "",
            "what 6 clients saw, in simple, extended and prepared protocol",
            "                      before    during     after",
            "  statements/s          1000       800      1000",
            "  longest pause       4.0 ms     30 ms    5.0 ms   at the swap: 9.0 ms",
            "  failed          0 of 19.6 k statements",
            "what became of the table",
            "  size            1.0 k rows, 1.0 MB with indexes",
            "  type of id      bigint; was integer",
            "  migration       12.0 s in all",
            "                  copy 8.0 s, index 3.0 s, cut over 50 ms",
            "  writers waited  7.0 ms for the swap, by the tool's own account",
            "  rows compared   none",
            "  client writes   1 insert and 1 update; every one of them is there",
            "  WAL             3.0 MB during the migration, the clients' included",
        ];
        let facts = Facts::new(seen());
        assert_eq!(facts.lines(), expected);
        assert_eq!(facts.faults(), Vec::<String>::new());
    }

    #[test]
    fn a_lost_write_and_a_failed_statement_are_faults() {
        let mut seen = seen();
        seen.account.failed = 1;
        seen.account.errors = vec!["no".to_owned()];
        seen.after.rows -= 1;
        seen.after.cents -= 250;
        seen.lost = 1;
        assert_eq!(Facts::new(seen).faults().len(), 4);
    }

    #[test]
    fn the_object_names_itself() {
        let object = Facts::new(seen()).object().expect("JSON");
        let object: serde_json::Value = serde_json::from_str(&object).expect("an object");
        assert_eq!(object["event"], "demo_facts");
        assert_eq!(object["clients"]["swap_pause"], 0.009);
        assert_eq!(object["clients"]["longest_pause_at_swap"], false);
    }
}
