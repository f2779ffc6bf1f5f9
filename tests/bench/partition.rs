//! A table that becomes partitioned by month, against doing it by hand while nobody may write.

use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::Result;
use crate::lab::{DATABASE, Lab};
use crate::migration::Migration;
use crate::outcome::{Outcome, median};

/// `$1` rows over two years, in the order of time as an application writes them.
const EVENTS: &str = "
    CREATE TABLE events (id bigint PRIMARY KEY, at timestamptz NOT NULL, kind text NOT NULL, payload text);
    INSERT INTO events
    SELECT i, timestamptz '2024-01-01 00:00+00' + i * (interval '730 days' / $1), 'kind ' || i % 20, md5(i::text)
    FROM generate_series(1, $1) AS i;
    CREATE INDEX ON events (at); CREATE INDEX ON events (kind)";

/// The same by hand: as many partitions, one statement for the rows, then the same indexes.
const BY_HAND: &str = "
    SELECT format('CREATE TABLE direct_%s PARTITION OF direct FOR VALUES FROM (%L) TO (%L)', to_char(m, 'YYYY_MM'), m, m + interval '1 month')
    FROM generate_series(timestamptz '2024-01-01 00:00+00', timestamptz '2025-12-01 00:00+00', interval '1 month') AS m";

/// Row 11.
pub fn by_month(lab: &mut Lab) -> Result<Outcome> {
    let rows = (3_000_000.0 * lab.scale).round().max(1_000.0);
    let template = format!("events_{rows}");
    lab.template(&template, |lab| lab.sql(&template)?.run(&EVENTS.replace("$1", &rows.to_string())))?;
    let (mut direct, mut online) = (Vec::new(), Vec::new());
    // The first of each pays for what the server does once.
    for _ in 0..=lab.runs {
        direct.push(by_hand(lab, &template)?);
        online.push(by_pgrecast(lab, &template, rows)?);
    }
    let (direct, online) = (&direct[1..], &online[1..]);
    let middle = |runs: &[Value], path: &str| {
        let numbers = runs.iter().map(|run| run.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN));
        median(&numbers.collect::<Vec<_>>())
    };
    let wall = middle(online, "/wall") / middle(direct, "/wall");
    let blocked = middle(online, "/cutover/write_blocked") * 1_000.0;
    let outcome =
        Outcome::new(11, json!({ "by hand": direct, "pgrecast": online })).at_most("wall time", wall, 1.1, "×");
    Ok(outcome.at_most("write_blocked, median", blocked, 25.0, "ms"))
}

fn prepared(lab: &Lab, template: &str) -> Result<()> {
    lab.fresh(template)?;
    lab.sql(DATABASE)?.run("SELECT count(payload) FROM events")?;
    lab.settle()
}

fn by_hand(lab: &Lab, template: &str) -> Result<Value> {
    prepared(lab, template)?;
    let sql = lab.sql(DATABASE)?;
    sql.run("SET TimeZone = 'UTC'")?;
    let partitions = sql.text(&format!("SELECT string_agg(format, '; ') FROM ({BY_HAND}) AS made"))?;
    let statements = [
        "CREATE TABLE direct (LIKE events) PARTITION BY RANGE (at)",
        &partitions,
        "INSERT INTO direct SELECT * FROM events",
        "ALTER TABLE direct ADD PRIMARY KEY (id, at)",
        "CREATE INDEX ON direct (at)",
        "CREATE INDEX ON direct (kind)",
    ];
    let run = |statements: &[&str]| {
        let mut psql: Command = lab.client("psql");
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1"]);
        for statement in statements {
            psql.args(["-c", statement]);
        }
        lab.succeed(&mut psql)
    };
    let begun = Instant::now();
    run(&statements)?;
    let wall = begun.elapsed().as_secs_f64();
    run(&["ANALYZE direct"])?;
    Ok(json!({ "wall": wall, "analyzed": begun.elapsed().as_secs_f64() }))
}

fn by_pgrecast(lab: &Lab, template: &str, rows: f64) -> Result<Value> {
    prepared(lab, template)?;
    let by = ["partition", "events", "--range", "at", "--every", "1 month", "--premake", "0"];
    let done = Migration::begin(lab, &by, &["--no-verify"])?.done()?;
    let sql = lab.sql(DATABASE)?;
    let seen = sql.number("SELECT count(*) FROM events")?;
    let partitions = sql.number("SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass")?;
    if (seen, partitions) != (rows, 24.0) && (seen, partitions) != (rows, 25.0) {
        return Err(format!("events has {seen} rows of {rows} in {partitions} partitions").into());
    }
    let facts = done.facts();
    done.finish(lab)?;
    Ok(facts)
}
