//! What a dry run says beforehand, against what the run comes to.

use std::fs;
use std::thread::sleep;

use serde_json::{Value, json};

use crate::Result;
use crate::lab::{DATABASE, Lab};
use crate::load::Load;
use crate::migration::Migration;
use crate::outcome::Outcome;

/// A table, the change to it, and what is written to it meanwhile.
struct Case {
    name: &'static str,
    /// Makes the table `t`; `$1` is the number of rows.
    make: &'static str,
    rows: f64,
    clauses: &'static str,
    /// A script of pgbench; `$1` is the number of rows.
    write: &'static str,
}

const CASES: [Case; 4] = [
    Case {
        name: "narrow",
        make: "CREATE TABLE t (id int PRIMARY KEY, n int, filler char(84));
               INSERT INTO t SELECT i, i % 1000, '' FROM generate_series(1, $1) i",
        rows: 4_000_000.0,
        clauses: "ALTER id TYPE bigint",
        write: "\\set id random(1, $1)\nUPDATE t SET n = n + 1 WHERE id = :id;\n",
    },
    Case {
        name: "wide with TOAST",
        make: "CREATE TABLE t (id int PRIMARY KEY, n int, body text); ALTER TABLE t ALTER body SET STORAGE EXTERNAL;
               INSERT INTO t SELECT i, i % 1000, repeat(md5(i::text), 160) FROM generate_series(1, $1) i",
        rows: 150_000.0,
        clauses: "ALTER id TYPE bigint",
        write: "\\set id random(1, $1)\nUPDATE t SET n = n + 1 WHERE id = :id;\n",
    },
    Case {
        name: "uuid with several indexes",
        make: "CREATE TABLE t (id uuid PRIMARY KEY, name text NOT NULL, at timestamptz NOT NULL, n int NOT NULL);
               INSERT INTO t SELECT md5(i::text)::uuid, 'name ' || i, timestamptz '2024-01-01' + i * interval '1 s', i
               FROM generate_series(1, $1) i;
               CREATE UNIQUE INDEX ON t (name); CREATE INDEX ON t (at); CREATE INDEX ON t (n)",
        rows: 1_500_000.0,
        clauses: "ALTER n TYPE bigint",
        write: "\\set id random(1, $1)\nUPDATE t SET n = n + 1 WHERE id = md5(:id::text)::uuid;\n",
    },
    Case {
        name: "write-hot",
        make: "CREATE TABLE t (id int PRIMARY KEY, n int, filler char(84)) WITH (fillfactor = 80);
               INSERT INTO t SELECT i, i % 1000, '' FROM generate_series(1, $1) i; CREATE INDEX ON t (n)",
        rows: 2_000_000.0,
        clauses: "ALTER id TYPE bigint",
        // Nine of ten writes fall on a hundredth of the rows.
        write: "\\set hot random(1, 10)\n\\set id random(1, CASE WHEN :hot < 10 THEN $1 / 100 ELSE $1 END)\n\
                UPDATE t SET n = n + 1 WHERE id = :id;\n",
    },
];

/// Row 14.
pub fn against_measured(lab: &mut Lab) -> Result<Outcome> {
    let mut outcome = Outcome::new(14, Value::Null);
    let mut facts = Vec::new();
    for (number, case) in CASES.iter().enumerate() {
        let rows = (case.rows * lab.scale).round().max(1_000.0).to_string();
        let template = format!("estimated_{number}");
        lab.template(&template, |lab| lab.sql(&template)?.run(&case.make.replace("$1", &rows)))?;
        for rate in [None, Some("800")] {
            let seen = one(lab, case, &template, &rows, rate)?;
            let name = format!("{}, {}", case.name, if rate.is_some() { "800 writes a second" } else { "idle" });
            for (what, pointer) in [("time", "/total"), ("peak slot WAL", "/slot_wal"), ("peak disk", "/disk")] {
                let ratio = seen.pointer(&format!("/ratios{pointer}")).and_then(Value::as_f64).unwrap_or(f64::NAN);
                let label = format!("{name}: {what}, measured to estimated");
                outcome = outcome.between(label, ratio, (0.75, 1.25), "×");
            }
            for phase in seen["outside"].as_array().into_iter().flatten() {
                let label = format!("{name}: {} out of its range", phase["phase"].as_str().unwrap_or_default());
                outcome = outcome.at_most(label, phase["measured"].as_f64().unwrap_or(f64::NAN), 0.0, "s");
            }
            facts.push(seen);
        }
    }
    Ok(outcome.with_facts(facts.into()))
}

fn one(lab: &Lab, case: &Case, template: &str, rows: &str, rate: Option<&str>) -> Result<Value> {
    lab.fresh(template)?;
    lab.settle()?;
    let script = lab.scratch("write.sql");
    fs::write(&script, case.write.replace("$1", rows))?;
    let script = script.to_string_lossy().into_owned();
    let load = match rate {
        Some(rate) => Some(Load::start(lab, &["-M", "prepared", "--rate", rate, "-f", &script])?),
        None => None,
    };
    sleep(lab.span(3.0));
    let sample = format!("{}s", lab.span(10.0).as_secs());
    let said = lab.output(lab.pgrecast().args([
        "alter",
        "t",
        case.clauses,
        "--dry-run",
        "--format",
        "json",
        "--sample",
        &sample,
    ]))?;
    let last: Value = serde_json::from_str(said.lines().last().unwrap_or_default())?;
    let estimate = &last["estimate"];
    let sql = lab.sql(DATABASE)?;
    let size = "SELECT pg_database_size(current_database()) + (SELECT coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), \
                restart_lsn)), 0) FROM pg_replication_slots WHERE database = current_database())";
    let (before, mut most) = (sql.number(size)?, 0.0_f64);
    let done = Migration::start(lab, "t", case.clauses, &[])?.done_beside(|| {
        most = most.max(sql.number(size)?);
        Ok(())
    })?;
    let failed = load.map(Load::stop).transpose()?.map_or(0.0, |log| log.failed);
    let disk = most - before;
    let middle = |field: &str| estimate[field]["mid"].as_f64().unwrap_or(f64::NAN);
    let run = done.facts();
    let outside: Vec<Value> = ["copy", "index", "catch_up", "verify", "ready"]
        .into_iter()
        .filter_map(|phase| {
            let measured = run["seconds"][phase].as_f64()?;
            let range = &estimate["seconds"][phase];
            let within = (range["low"].as_f64()?..=range["high"].as_f64().unwrap_or(f64::MAX)).contains(&measured);
            (measured > 5.0 && !within).then(|| json!({ "phase": phase, "measured": measured }))
        })
        .collect();
    let facts = json!({
        "table": case.name, "rate": rate, "failed": failed, "disk": disk, "outside": outside,
        "ratios": {
            "total": done.number("/seconds/total") / middle("total_seconds"),
            "slot_wal": done.number("/peak_slot_wal_bytes") / middle("peak_slot_wal_bytes"),
            "disk": disk / middle("peak_disk_bytes"),
        },
        "estimate": estimate, "run": run,
    });
    done.finish(lab)?;
    Ok(facts)
}
