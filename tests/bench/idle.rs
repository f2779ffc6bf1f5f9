//! Tables that nobody else uses: whole runs against the blocking `ALTER TABLE`, and the comparison against the copy.

use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::Result;
use crate::lab::{DATABASE, Lab, reap, spawn, wait};
use crate::migration::Migration;
use crate::outcome::{Outcome, median};

/// A table, and the change made to it.
struct Job {
    template: String,
    table: &'static str,
    column: &'static str,
    /// The new shape, empty and without indexes, and then its indexes.
    bare: (&'static str, &'static [&'static str]),
    /// Reads the whole table through an index, and so into shared_buffers: a scan of a large table goes past them.
    warm: &'static str,
}

/// Row 2's table, for `$1` rows. The keys are random to look at and the same every time.
const WIDE: &str = "
    CREATE TABLE documents (id uuid PRIMARY KEY, name text NOT NULL UNIQUE, changed timestamptz NOT NULL, n int NOT NULL,
                            body jsonb NOT NULL);
    INSERT INTO documents
    SELECT md5(i::text)::uuid, 'document ' || i, timestamptz '2020-01-01 00:00+00' + i * interval '31 s', i,
           jsonb_build_object('author', 'author ' || i % 1000, 'tags', jsonb_build_array('red', 'green', i % 7),
                              'title', md5((i + 1)::text), 'size', i % 9973)
    FROM generate_series(1, $1) AS i;
    CREATE INDEX ON documents (changed)";

/// Row 1.
pub fn narrow(lab: &mut Lab) -> Result<Outcome> {
    let job = accounts(lab, 30)?;
    let seen = against_alter(lab, &job)?;
    let outcome = Outcome::new(1, seen.facts).at_most("wall time", seen.wall, 0.95, "×");
    Ok(outcome.at_most("WAL", seen.wal, 1.05, "×").shown(FLOOR, seen.floor, "×"))
}

/// Row 2.
pub fn wide(lab: &mut Lab) -> Result<Outcome> {
    let rows = (1_500_000.0 * lab.scale).round().max(1_000.0);
    let template = format!("documents_{rows}");
    lab.template(&template, |lab| lab.sql(&template)?.run(&WIDE.replace("$1", &rows.to_string())))?;
    let warm = "SELECT sum(n) FROM documents WHERE id > '00000000-0000-0000-0000-000000000000'";
    let bare = (
        "CREATE TABLE bare (id uuid NOT NULL, name text NOT NULL, changed timestamptz NOT NULL, n bigint NOT NULL, body jsonb NOT NULL)",
        &[
            "ALTER TABLE bare ADD PRIMARY KEY (id)",
            "CREATE UNIQUE INDEX ON bare (name)",
            "CREATE INDEX ON bare (changed)",
        ][..],
    );
    let seen = against_alter(lab, &Job { template, table: "documents", column: "n", bare, warm })?;
    Ok(Outcome::new(2, seen.facts).at_most("wall time", seen.wall, 0.95, "×").shown(FLOOR, seen.floor, "×"))
}

/// Row 3.
pub fn larger_than_memory(lab: &mut Lab) -> Result<Outcome> {
    let job = accounts(lab, 50)?;
    let seen = against_alter(lab, &job)?;
    Ok(Outcome::new(3, seen.facts).at_most("wall time", seen.wall, 1.1, "×").shown(FLOOR, seen.floor, "×"))
}

/// Less than half of row 3's table, which has about 640 MB.
pub fn small_buffers(scale: f64) -> String {
    format!("{}kB", (256.0 * 1_024.0 * scale).max(1_024.0).round())
}

/// Row 4.
pub fn verify(lab: &mut Lab) -> Result<Outcome> {
    let job = accounts(lab, 30)?;
    let clauses = job.clauses();
    let rows = lab.sql(&job.template)?.number(&format!("SELECT count(*) FROM {}", job.table))?;
    let (mut ratios, mut runs) = (Vec::new(), Vec::new());
    for _ in 0..lab.runs {
        prepared(lab, &job)?;
        let done = Migration::run(lab, job.table, &clauses, &[])?;
        ratios.push(done.number("/seconds/verify") / (done.number("/seconds/copy") + done.number("/seconds/index")));
        runs.push(done.facts());
        if done.number("/verify/rows_compared") != rows || done.number("/verify/differences") != 0.0 {
            return Err(format!("not all of the {rows} rows were compared and found equal: {}", done.facts()).into());
        }
    }
    Ok(Outcome::new(4, json!({ "runs": runs })).at_most("verify / (copy + index)", median(&ratios), 0.5, "×"))
}

/// pgbench's table of 100 000 rows for each unit.
fn accounts(lab: &mut Lab, units: u32) -> Result<Job> {
    let template = lab.pgbench_template(units)?;
    let warm = "SELECT sum(abalance) FROM pgbench_accounts WHERE aid > 0";
    let bare = (
        "CREATE TABLE bare (aid bigint NOT NULL, bid int, abalance int, filler char(84))",
        &["ALTER TABLE bare ADD PRIMARY KEY (aid)"][..],
    );
    Ok(Job { template, table: "pgbench_accounts", column: "aid", bare, warm })
}

impl Job {
    fn clauses(&self) -> String {
        format!("ALTER COLUMN {} TYPE bigint", self.column)
    }
}

/// What a table's runs came to.
struct Seen {
    /// pgrecast's wall time and WAL to the blocking statement's: ratios of medians.
    wall: f64,
    wal: f64,
    /// The same for the bare statements.
    floor: f64,
    /// Every run.
    facts: Value,
}

/// What nothing that copies with `INSERT … SELECT` can be faster than: two sessions that each copy half of the table
/// into a bare heap, then the indexes, two at a time. No slot, no chunks, nothing followed.
const FLOOR: &str = "bare statements' wall time";

/// The three take turns; the first of each is not counted, since it pays for what the server does once.
fn against_alter(lab: &Lab, job: &Job) -> Result<Seen> {
    let (mut blocking, mut bare, mut online) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..=lab.runs {
        blocking.push(blocking_run(lab, job)?);
        bare.push(bare_run(lab, job)?);
        online.push(online_run(lab, job)?);
    }
    let (blocking, bare, online) = (&blocking[1..], &bare[1..], &online[1..]);
    let middle = |runs: &[Value], what: &str| {
        median(&runs.iter().map(|run| run[what].as_f64().unwrap_or(f64::NAN)).collect::<Vec<_>>())
    };
    let ratio = |runs: &[Value], what: &str| middle(runs, what) / middle(blocking, what);
    let facts = json!({
        "table_bytes": lab.sql(&job.template)?.number(&format!("SELECT pg_table_size('{}')", job.table))?,
        "blocking": blocking, "bare": bare, "pgrecast": online,
    });
    Ok(Seen { wall: ratio(online, "wall"), wal: ratio(online, "wal_bytes"), floor: ratio(bare, "wall"), facts })
}

fn blocking_run(lab: &Lab, job: &Job) -> Result<Value> {
    prepared(lab, job)?;
    let sql = lab.sql(DATABASE)?;
    let statement = format!("ALTER TABLE {} {}", job.table, job.clauses());
    let mut psql = psql(lab, &[statement]);
    let wal = sql.wal()?;
    let begun = Instant::now();
    lab.succeed(&mut psql)?;
    let wall = begun.elapsed();
    let wal = sql.wal()? - wal;
    is_bigint(lab, job)?;
    Ok(json!({ "wall": wall.as_secs_f64(), "wal_bytes": wal }))
}

/// [`FLOOR`].
fn bare_run(lab: &Lab, job: &Job) -> Result<Value> {
    prepared(lab, job)?;
    let sql = lab.sql(DATABASE)?;
    let (shape, indexes) = job.bare;
    sql.run(shape)?;
    let middle =
        sql.text(&format!("SELECT pg_relation_size('{}') / current_setting('block_size')::int / 2", job.table))?;
    let half = |operator| {
        let table = job.table;
        format!("INSERT INTO bare SELECT * FROM {table} WHERE ctid {operator} '({middle},0)'")
    };
    let wal = sql.wal()?;
    let begun = Instant::now();
    // As pgrecast's: no commit waits for the disk.
    let unforced = || "SET synchronous_commit = off".to_owned();
    both(psql(lab, &[unforced(), half("<")]), psql(lab, &[unforced(), half(">=")]))?;
    let copied = begun.elapsed();
    let (first, second): (Vec<_>, Vec<_>) = indexes.iter().enumerate().partition(|(n, _)| n % 2 == 0);
    let statements = |of: Vec<(usize, &&str)>| of.into_iter().map(|(_, index)| (*index).to_owned()).collect::<Vec<_>>();
    both(psql(lab, &statements(first)), psql(lab, &statements(second)))?;
    let wall = begun.elapsed();
    let wal = sql.wal()? - wal;
    Ok(json!({ "wall": wall.as_secs_f64(), "copy": copied.as_secs_f64(), "wal_bytes": wal }))
}

/// A session that runs these statements.
fn psql(lab: &Lab, statements: &[String]) -> Command {
    let mut psql = lab.client("psql");
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1"]);
    for statement in statements {
        psql.args(["-c", statement]);
    }
    psql
}

fn both(mut one: Command, mut other: Command) -> Result<()> {
    let (mut one, mut other) = (spawn(&mut one)?, spawn(&mut other)?);
    let (first, second) = (wait(&mut one), wait(&mut other));
    for child in [&mut one, &mut other] {
        reap(child);
    }
    match (first?.success(), second?.success()) {
        (true, true) => Ok(()),
        _ => Err("a bare statement failed".into()),
    }
}

fn online_run(lab: &Lab, job: &Job) -> Result<Value> {
    prepared(lab, job)?;
    let sql = lab.sql(DATABASE)?;
    let wal = sql.wal()?;
    let done = Migration::run(lab, job.table, &job.clauses(), &["--no-verify"])?;
    let wal = sql.wal()? - wal;
    is_bigint(lab, job)?;
    let mut facts = done.facts();
    facts["wal_bytes"] = json!(wal);
    facts["finish"] = json!(done.finish(lab)?.as_secs_f64());
    Ok(facts)
}

/// The same for both: a fresh copy, in memory as far as it fits, all of it on disk.
fn prepared(lab: &Lab, job: &Job) -> Result<()> {
    lab.fresh(&job.template)?;
    let sql = lab.sql(DATABASE)?;
    sql.run("SET enable_seqscan = off; SET enable_bitmapscan = off; SET max_parallel_workers_per_gather = 0")?;
    sql.run(job.warm)?;
    lab.settle()
}

/// That it was done, and with every row.
fn is_bigint(lab: &Lab, job: &Job) -> Result<()> {
    let (sql, template) = (lab.sql(DATABASE)?, lab.sql(&job.template)?);
    let kind = sql.text(&format!("SELECT pg_typeof({}) FROM {} LIMIT 1", job.column, job.table))?;
    let count = format!("SELECT count(*) FROM {}", job.table);
    let (rows, expected) = (sql.text(&count)?, template.text(&count)?);
    if kind == "bigint" && rows == expected {
        return Ok(());
    }
    Err(format!("{} has {rows} rows of {expected}, and {} is {kind}", job.table, job.column).into())
}
