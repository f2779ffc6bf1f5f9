//! What clients at a fixed rate notice of each phase.

use std::thread::sleep;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::Result;
use crate::lab::{DATABASE, Lab};
use crate::load::{Load, Log};
use crate::migration::Migration;
use crate::outcome::Outcome;

/// A phase with fewer transactions has no 99th percentile to speak of.
const ENOUGH: usize = 500;

/// What brings it down.
const NICE: &str = "4";

/// What anybody could do by hand, each in one session without parallel workers.
const BY_HAND: [(&str, &str); 3] = [
    ("a session that only computes", "SELECT count(*) FROM generate_series(1, 20000000)"),
    (
        "INSERT … SELECT",
        "CREATE TABLE shadow (LIKE pgbench_accounts); ALTER TABLE shadow ALTER aid TYPE bigint; \
         SET synchronous_commit = off; INSERT INTO shadow SELECT * FROM pgbench_accounts",
    ),
    ("CREATE INDEX", "ALTER TABLE shadow ADD PRIMARY KEY (aid)"),
];

/// Row 13: half of what the machine can do, and one worker; then the same with `--nice`. What the same rate and a little more
/// of it come to without pgrecast, and what bare statements do to it, says how much room there is.
pub fn at_half_rate(lab: &mut Lab) -> Result<Outcome> {
    let template = lab.pgbench_template(30)?;
    lab.fresh(&template)?;
    lab.settle()?;
    let full = Load::start(lab, &["-N", "-M", "prepared"])?;
    sleep(lab.span(5.0));
    let begun = SystemTime::now();
    sleep(lab.span(15.0));
    let ended = SystemTime::now();
    let most = full.stop()?.tps(begun, ended);
    let mut outcome = Outcome::new(13, Value::Null).shown("transactions a second at full speed", most, "tps");
    let mut facts = Vec::new();
    for (name, flags, mark) in [("", &[][..], 2.0), ("--nice 4: ", &["--nice", NICE], 1.3)] {
        let run = beside(lab, &template, &at(most, 0.5), flags)?;
        for phase in run["phases"].as_array().into_iter().flatten() {
            let label =
                format!("{name}{}, 99th percentile to that without", phase["phase"].as_str().unwrap_or_default());
            outcome = outcome.at_most(label, phase["ratio"].as_f64().unwrap_or(f64::NAN), mark, "×");
        }
        outcome =
            outcome.at_most(format!("{name}failed transactions"), run["failed"].as_f64().unwrap_or(f64::NAN), 0.0, "");
        facts.push(run);
    }
    let control = without(lab, &template, most)?;
    for (name, ratio) in &control {
        outcome = outcome.shown(format!("without pgrecast: {name}, 99th percentile"), *ratio, "×");
    }
    facts.push(json!({ "without": control.into_iter().collect::<std::collections::BTreeMap<_, _>>() }));
    Ok(outcome.with_facts(facts.into()))
}

/// As `--rate` takes it.
fn at(most: f64, share: f64) -> String {
    format!("{:.0}", most * share)
}

/// The 99th percentile against that of half of the rate: with more of the same clients, and with bare statements.
fn without(lab: &Lab, template: &str, most: f64) -> Result<Vec<(String, f64)>> {
    lab.fresh(template)?;
    lab.settle()?;
    let mut alone = Vec::new();
    for share in [0.5, 0.55, 0.6, 0.7] {
        let load = Load::start(lab, &["-N", "-M", "prepared", "--rate", &at(most, share)])?;
        sleep(lab.span(5.0));
        let begun = SystemTime::now();
        sleep(lab.span(15.0));
        let ended = SystemTime::now();
        alone.push((share, load.stop()?.percentile_ms(0.99, begun, ended)));
    }
    let base = alone[0].1;
    let mut found: Vec<(String, f64)> =
        alone.iter().skip(1).map(|(share, p99)| (format!("{share} of the full rate"), p99 / base)).collect();
    let load = Load::start(lab, &["-N", "-M", "prepared", "--rate", &at(most, 0.5)])?;
    let sql = lab.sql(DATABASE)?;
    sql.run("SET max_parallel_workers_per_gather = 0; SET max_parallel_maintenance_workers = 0")?;
    let mut spans = Vec::new();
    for (name, statement) in BY_HAND {
        sleep(lab.span(5.0));
        let begun = SystemTime::now();
        sql.run(statement)?;
        spans.push((name, begun, SystemTime::now()));
    }
    sleep(lab.span(2.0));
    let log = load.stop()?;
    found.extend(spans.into_iter().map(|(name, from, to)| (name.to_owned(), log.percentile_ms(0.99, from, to) / base)));
    Ok(found)
}

/// One run beside clients at that rate; before it and after it they are alone.
fn beside(lab: &Lab, template: &str, rate: &str, flags: &[&str]) -> Result<Value> {
    lab.fresh(template)?;
    lab.settle()?;
    let load = Load::start(lab, &["-N", "-M", "prepared", "--rate", rate])?;
    sleep(lab.span(5.0));
    let before = (SystemTime::now(), SystemTime::now() + lab.span(20.0));
    sleep(lab.span(20.0));
    let flags = [&["--jobs", "1"], flags].concat();
    let done = Migration::start(lab, "pgbench_accounts", "ALTER COLUMN aid TYPE bigint", &flags)?.done()?;
    sleep(Duration::from_secs(2));
    let after = (SystemTime::now(), SystemTime::now() + lab.span(20.0));
    sleep(lab.span(20.0));
    let log = load.stop()?;
    let alone = [before, after].map(|(from, to)| log.percentile_ms(0.99, from, to));
    // Whatever else has happened in one of them is not what clients have to live with.
    let without = alone[0].min(alone[1]);
    let phases: Vec<Value> = done.phases()?.into_iter().filter_map(|phase| of_phase(&log, phase, without)).collect();
    let facts = json!({
        "flags": flags, "rate": rate, "failed": log.failed, "p99_before_ms": alone[0], "p99_after_ms": alone[1],
        "phases": phases, "run": done.facts(),
    });
    done.finish(lab)?;
    Ok(facts)
}

fn of_phase(log: &Log, (name, from, to): (String, SystemTime, SystemTime), without: f64) -> Option<Value> {
    let count = log.count(from, to);
    let p99 = log.percentile_ms(0.99, from, to);
    (count >= ENOUGH).then(|| json!({ "phase": name, "transactions": count, "p99_ms": p99, "ratio": p99 / without }))
}
