//! What the program shows: the plan, the events, the report.

use serde_json::Value;

use crate::harness::{Db, assert_nothing_left, dump, pgrecast};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);
    CREATE INDEX by_v ON t (v); INSERT INTO t SELECT n, 'v' FROM generate_series(1, 1000) AS n";

#[test]
fn a_dry_run_shows_each_statement_with_its_lock_and_changes_nothing() {
    let db = Db::new();
    db.sql(TABLE);
    let before = dump(&db);
    let text = pgrecast(&db, &["alter", "t", "ALTER id TYPE bigint", "--dry-run"]);
    assert_eq!(text.code, Some(0), "{}", text.stderr);
    let json = pgrecast(&db, &["alter", "t", "ALTER id TYPE bigint", "--dry-run", "--format", "json"]);
    assert_eq!(json.code, Some(0), "{}", json.stderr);
    let mut steps: Vec<Value> = json.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(steps.pop().expect("lines")["event"], "estimate");
    let phases = ["prepare", "copy", "index", "catch up", "ready", "cut over"];
    for phase in phases {
        assert!(steps.iter().any(|step| step["phase"] == phase), "{phase} has no step in\n{}", json.stdout);
        assert!(text.stdout.contains(phase), "{phase} is not in\n{}", text.stdout);
    }
    let order: Vec<usize> =
        steps.iter().map(|step| phases.iter().position(|p| step["phase"] == *p).expect("a phase")).collect();
    assert!(order.is_sorted(), "{order:?}");
    for step in &steps {
        for field in ["statement", "lock", "waits"] {
            assert!(step[field].as_str().is_some_and(|text| !text.is_empty()), "{step}");
        }
    }
    assert!(steps.iter().any(|step| step["lock"] == "ACCESS EXCLUSIVE"));
    assert!(dump(&db) == before);
    assert_nothing_left(&db);
    assert_eq!(db.query_one_text("SELECT count(*) FROM pg_class WHERE relpersistence = 't'"), "0");
}

#[test]
fn every_line_is_json_and_the_report_has_every_field() {
    let db = Db::new();
    db.sql(TABLE);
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("report.json");
    let path = file.to_str().expect("a plain path");
    let output = pgrecast(&db, &["alter", "t", "ALTER id TYPE bigint", "--format", "json", "--report", path]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let events: Vec<Value> = output.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    for event in ["started", "phase_began", "phase_ended", "index_ended", "cut_over", "finished"] {
        assert!(events.iter().any(|e| e["event"] == event), "no {event} in\n{}", output.stdout);
    }
    let report: Value = serde_json::from_slice(&std::fs::read(&file).expect("the report")).expect("JSON");
    assert_eq!(report["command"], "alter");
    assert_eq!(report["source"], "public.t");
    assert_eq!(report["targets"], serde_json::json!(["public.t"]));
    assert_eq!(report["outcome"], "done");
    assert_eq!(report["rows_copied"], 1000);
    // Without what a packager adds to it.
    let version = db.query_one_text("SELECT split_part(current_setting('server_version'), ' ', 1)");
    assert_eq!(report["server_version"], version);
    for numbers in [
        "id",
        "bytes_copied",
        "keys_journaled",
        "keys_flushed",
        "chunks",
        "wal_bytes",
        "peak_slot_wal_bytes",
        "peak_rss_bytes",
    ] {
        assert!(report[numbers].is_u64(), "{numbers}: {}", report[numbers]);
    }
    for phase in ["total", "prepare", "copy", "index", "catch_up", "ready"] {
        assert!(
            report["seconds"][phase].as_f64().is_some_and(|seconds| seconds >= 0.0),
            "{phase}: {}",
            report["seconds"]
        );
    }
    for figure in ["attempts", "lock_wait", "write_blocked", "final_keys"] {
        assert!(report["cutover"][figure].is_number(), "{figure}: {}", report["cutover"]);
    }
    for (group, field) in [
        ("verify", "rows_compared"),
        ("verify", "differences"),
        ("verify", "rechecked"),
        ("throttled_seconds", "total"),
        ("throttled_seconds", "by_reason"),
    ] {
        assert!(report[group].get(field).is_some(), "{group}.{field}");
    }
    assert!(report.get("peak_lag").is_some());
    let missing = pgrecast(&db, &["alter", "nothing", "", "--format", "json"]);
    assert_eq!(missing.code, Some(3));
    assert!(missing.stdout.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{}", missing.stdout);
}
