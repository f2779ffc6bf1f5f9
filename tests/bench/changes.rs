//! Many changed keys: at full speed for as long as it takes, and more than memory should hold.

use std::fs;
use std::thread::sleep;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::Result;
use crate::lab::{DATABASE, Lab};
use crate::load::Load;
use crate::migration::Migration;
use crate::outcome::Outcome;

const CLAUSES: &str = "ALTER COLUMN aid TYPE bigint";

/// 64 MiB.
const MEMORY: f64 = 64.0;
const MIB: f64 = 1_048_576.0;

/// Row 8: with every commit on disk, as by default, and without, which is several times as many changes.
pub fn sustained(lab: &mut Lab) -> Result<Outcome> {
    let template = lab.pgbench_template(30)?;
    let mut outcome = Outcome::new(8, Value::Null);
    let mut facts = Vec::new();
    for commit in ["on", "off"] {
        let run = followed(lab, &template, commit)?;
        let name = format!("synchronous_commit = {commit}: ");
        let said = run["dry_run"]["converges"].as_bool();
        outcome = outcome.shown(
            format!("{name}a dry run said that it would complete"),
            said.map_or(f64::NAN, |converges| f64::from(u8::from(converges))),
            "",
        );
        if run["error"].is_string() {
            let beforehand = f64::from(u8::from(said == Some(false)));
            outcome = outcome.at_least(format!("{name}that it does not was said beforehand"), beforehand, 1.0, "");
        }
        outcome = match run["error"].as_str() {
            None => outcome.at_least(format!("{name}completed under load"), 1.0, 1.0, ""),
            Some(_) => outcome.at_least(format!("{name}completed under load"), 0.0, 1.0, ""),
        };
        outcome = outcome.at_most(format!("{name}failed transactions"), number(&run, "/failed"), 0.0, "");
        for (what, pointer, unit) in [
            ("whole run", "/run/wall", "s"),
            ("keys followed", "/run/keys_journaled", ""),
            ("keys left for the lock", "/run/cutover/final_keys", ""),
            ("write_blocked", "/write_blocked_ms", "ms"),
            ("tps without", "/tps_without", "tps"),
            ("tps with", "/tps_with", "tps"),
        ] {
            outcome = outcome.shown(format!("{name}{what}"), number(&run, pointer), unit);
        }
        facts.push(run);
    }
    Ok(outcome.with_facts(facts.into()))
}

fn number(facts: &Value, pointer: &str) -> f64 {
    facts.pointer(pointer).and_then(Value::as_f64).unwrap_or(f64::NAN)
}

fn followed(lab: &Lab, template: &str, commit: &str) -> Result<Value> {
    lab.fresh(template)?;
    lab.settle()?;
    let rows = lab.sql(DATABASE)?.text("SELECT count(*) FROM pgbench_accounts")?;
    let script = lab.scratch("update.sql");
    let update = "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;\n";
    fs::write(&script, format!("\\set aid random(1, {rows})\n{update}"))?;
    let script = script.to_string_lossy().into_owned();
    let options = format!("-c synchronous_commit={commit}");
    let mut load = Load::with_options(lab, &["-M", "prepared", "-f", &script], &options)?;
    sleep(lab.span(10.0));
    let before = SystemTime::now();
    sleep(lab.span(15.0));
    let middle = SystemTime::now();
    let flags = ["--dry-run", "--format", "json", "--sample", "10s"];
    let said = lab.output(lab.pgrecast().args(["alter", "pgbench_accounts", CLAUSES]).args(flags))?;
    let said: Value = serde_json::from_str(said.lines().last().unwrap_or_default())?;
    let begun = SystemTime::now();
    let limit = format!("{}s", lab.span(300.0).as_secs());
    let run = Migration::run(lab, "pgbench_accounts", CLAUSES, &["--no-verify", "--max-runtime", &limit]);
    let ended = SystemTime::now();
    let at_work = load.is_running()?;
    let log = load.stop()?;
    let mut facts = json!({
        "synchronous_commit": commit, "failed": log.failed, "tps_without": log.tps(before, middle),
        "tps_with": log.tps(begun, ended), "longest_ms": log.longest_ms(begun, ended),
        "longest_before_ms": log.longest_ms(before, middle), "dry_run": {
            "converges": said["estimate"]["converges"], "writes": said["estimate"]["largest_writes_per_second"],
        },
    });
    match run {
        Ok(done) if at_work => {
            facts["write_blocked_ms"] = json!(done.number("/cutover/write_blocked") * 1_000.0);
            facts["run"] = done.facts();
            done.finish(lab)?;
        }
        Ok(_) => facts["error"] = json!("the load ended before the migration"),
        Err(error) => facts["error"] = json!(error.to_string()),
    }
    Ok(facts)
}

/// Row 9: half of the keys change during the copy, in transactions of a thousand; the other half in one transaction, while
/// flushing is held back.
pub fn memory(lab: &mut Lab) -> Result<Outcome> {
    let template = lab.pgbench_template(50)?;
    lab.fresh(&template)?;
    lab.settle()?;
    let sql = lab.sql(DATABASE)?;
    let rows = sql.number("SELECT count(*) FROM pgbench_accounts")?;
    let keys = rows / 5.0;
    let hold = lab.scratch("hold");
    let hold_name = hold.to_string_lossy().into_owned();
    let flags = ["--no-verify", "--postpone-cutover", "--throttle-file", &hold_name];
    let mut migration = Migration::start(lab, "pgbench_accounts", CLAUSES, &flags)?;
    migration.wait_for(&["started"])?;
    let half = (keys / 2.0).round();
    let mut from = 0.0;
    while from < half {
        sql.run(&update(from, (from + 1_000.0).min(half), rows))?;
        from += 1_000.0;
    }
    migration.postponed()?;
    fs::write(&hold, "")?;
    migration.wait_for(&["throttled"])?;
    sql.run(&update(half, keys, rows))?;
    // The stream is read while nothing is flushed.
    sleep(lab.span(10.0));
    fs::remove_file(&hold)?;
    migration.release()?;
    let done = migration.done()?;
    let changed = sql.number("SELECT count(*) FROM pgbench_accounts WHERE abalance <> 0")?;
    let facts = json!({ "rows": rows, "keys": keys, "changed_in_the_new_table": changed, "run": done.facts() });
    done.finish(lab)?;
    Ok(Outcome::new(9, facts)
        .at_most("peak resident memory", done.number("/peak_rss_bytes") / MIB, MEMORY, "MiB")
        .at_least("keys journaled", done.number("/keys_journaled"), keys, "")
        .at_least("changed rows in the new table", changed, keys, ""))
}

/// Updates the keys of that part of a sequence which visits every key once, in no order: 48271 is prime, and no factor of a
/// number of rows.
fn update(from: f64, to: f64, rows: f64) -> String {
    format!(
        "UPDATE pgbench_accounts SET abalance = abalance + 1 \
         WHERE aid IN (SELECT (1 + i * 48271 % {rows})::int FROM generate_series({from}::int8, {to}::int8 - 1) AS i)"
    )
}
