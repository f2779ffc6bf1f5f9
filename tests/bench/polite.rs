//! What clients at a fixed rate notice of each phase.

use std::thread::sleep;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::Result;
use crate::lab::Lab;
use crate::load::{Load, Log};
use crate::migration::Migration;
use crate::outcome::Outcome;

/// A phase with fewer transactions has no 99th percentile to speak of.
const ENOUGH: usize = 500;

/// What brings it down.
const NICE: &str = "4";

/// Row 13: half of what the machine can do, and one worker; then the same with `--nice`.
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
    let rate = format!("{:.0}", most / 2.0);
    let mut outcome = Outcome::new(13, Value::Null).shown("transactions a second at full speed", most, "tps");
    let mut facts = Vec::new();
    for (name, flags, mark) in [("", &[][..], 2.0), ("--nice 4: ", &["--nice", NICE], 1.3)] {
        let run = beside(lab, &template, &rate, flags)?;
        for phase in run["phases"].as_array().into_iter().flatten() {
            let label =
                format!("{name}{}, 99th percentile to that without", phase["phase"].as_str().unwrap_or_default());
            outcome = outcome.at_most(label, phase["ratio"].as_f64().unwrap_or(f64::NAN), mark, "×");
        }
        outcome =
            outcome.at_most(format!("{name}failed transactions"), run["failed"].as_f64().unwrap_or(f64::NAN), 0.0, "");
        facts.push(run);
    }
    Ok(outcome.with_facts(facts.into()))
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
    let without = alone[0].max(alone[1]);
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
