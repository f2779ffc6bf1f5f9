//! The estimate of a dry run: what it needs, what it leaves, what it says.

use serde_json::Value;

use crate::harness::migration::{SOON, command};
use crate::harness::{Db, assert_nothing_left, dump, pgrecast, server, spawn, wait_for};

const TABLE: &str = "CREATE SEQUENCE counter; CREATE TABLE t (id int PRIMARY KEY, n int, v text NOT NULL, CHECK (n >= 0));
    CREATE INDEX by_n ON t (n); CREATE VIEW seen AS SELECT id, v FROM t; SELECT nextval('counter');
    INSERT INTO t SELECT n, n % 7, 'a secret that is nobody''s business ' || n FROM generate_series(1, 5000) AS n; ANALYZE t";

/// Everything a dry run could leave behind, and where the sequence stands.
fn catalog(db: &Db) -> Vec<Vec<Option<String>>> {
    let of = |table: &str| format!("SELECT '{table}', count(*)::text, max(oid)::text FROM pg_catalog.{table}");
    let tables = ["pg_class", "pg_namespace", "pg_type", "pg_constraint", "pg_attrdef", "pg_proc", "pg_rewrite"];
    let counted = ["pg_attribute", "pg_index", "pg_depend", "pg_statistic", "pg_replication_slots", "pg_publication"];
    let counts = counted.map(|table| format!("SELECT '{table}', count(*)::text, '' FROM pg_catalog.{table}"));
    let all: Vec<String> = tables.map(of).into_iter().chain(counts).collect();
    let sequence = "SELECT 'counter', last_value::text, is_called::text FROM counter";
    db.rows(&format!("{} UNION ALL {sequence} ORDER BY 1", all.join(" UNION ALL ")))
}

/// The estimate that a dry run tells as JSON.
fn told(stdout: &str) -> Value {
    let last: Value = serde_json::from_str(stdout.lines().last().expect("a line")).expect("JSON");
    assert_eq!(last["event"], "estimate", "{last}");
    last["estimate"].clone()
}

/// A figure whose range is in order, and not nothing.
fn is_figure(figure: &Value) -> bool {
    let of = |name: &str| figure[name].as_f64();
    matches!((of("low"), of("mid"), of("high")), (Some(low), Some(mid), Some(high)) if low <= mid && mid <= high && mid > 0.0)
}

/// What was not measured, and why.
fn why(estimate: &Value) -> String {
    estimate["not_measured"].to_string()
}

/// Whether a slow machine left no time for a part of the trial.
fn is_late(estimate: &Value) -> bool {
    why(estimate).contains("no time left")
}

#[test]
fn an_estimate_leaves_nothing_and_stands_in_nobodys_way() {
    let db = Db::new();
    db.sql(TABLE);
    let before = (dump(&db), catalog(&db));
    // All that conflicts with it is stronger than reading. An ALTER of a volatile expression must not be evaluated either.
    let holder = db.connect();
    holder.sql("BEGIN; LOCK TABLE t IN EXCLUSIVE MODE");
    let pid = holder.query_one_text("SELECT pg_backend_pid()");
    wait_for("an old transaction", SOON, || {
        let age = "SELECT clock_timestamp() - xact_start > '1.1 s' FROM pg_stat_activity WHERE pid = ";
        let old = db.query_one_text(&format!("{age}{pid}"));
        if old == "t" { Ok(()) } else { Err(old) }
    });
    let clauses = "ALTER id TYPE bigint, ALTER v TYPE text USING v || nextval('counter'), \
                   ADD COLUMN own bigint DEFAULT nextval('counter'), ADD COLUMN w text DEFAULT 'w'";
    let output = command(&db, &["alter", "t", clauses, "--dry-run", "--sample", "1s"]).wait();
    let text = pgrecast(&db, &["alter", "t", clauses, "--dry-run"]);
    holder.sql("ROLLBACK");
    let estimate = told(&output.ended(0).stdout);
    let phases = ["prepare", "copy", "index", "catch_up", "verify", "ready", "cut_over"];
    for phase in phases {
        assert!(is_figure(&estimate["seconds"][phase]), "{phase}: {estimate}");
    }
    for name in ["total_seconds", "peak_slot_wal_bytes", "peak_disk_bytes", "write_pause_seconds"] {
        assert!(is_figure(&estimate[name]), "{name}: {estimate}");
    }
    assert_eq!(estimate["converges"], true);
    assert_eq!(estimate["peak_lag_seconds"], Value::Null);
    let trial = &estimate["trial"];
    assert!(trial["rows"].as_u64() > Some(0), "{estimate}");
    assert_eq!(trial["indexes"].as_array().map(Vec::len), Some(2), "{trial}");
    for part in ["flush", "digest", "analyze"] {
        assert!(trial[part]["rows"].as_f64() > Some(0.0) || is_late(&estimate), "{part}: {estimate}");
    }
    assert!(why(&estimate) == "[]" || is_late(&estimate), "{estimate}");
    assert!(!estimate["over_time"].as_array().expect("points").is_empty());
    let in_the_way = format!("The cut-over would wait for pid {pid}");
    assert!(estimate["remarks"].as_array().expect("remarks")[0].as_str().is_some_and(|r| r.contains(&in_the_way)));
    assert!(text.stdout.contains(&in_the_way) && text.stdout.contains("slot WAL"), "{}{}", text.stdout, text.stderr);
    for said in [&output.stdout, &output.stderr, &text.stdout, &text.stderr] {
        assert!(!said.contains("secret"), "{said}");
    }
    assert!((dump(&db), catalog(&db)) == before);
    assert_nothing_left(&db);
}

#[test]
fn to_read_the_table_is_enough() {
    let db = Db::new();
    db.sql(TABLE);
    db.sql(
        "DO $$ BEGIN CREATE ROLE looks_only LOGIN PASSWORD 'secret'; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
         GRANT SELECT ON t TO looks_only",
    );
    let before = catalog(&db);
    let dsn = server().dsn_for("looks_only", "secret", db.name());
    let dry_run = |clauses: &str, more: &[&str]| {
        let output = spawn(&dsn, &[&["alter", "t", clauses, "--dry-run", "--format", "json"], more].concat()).wait();
        assert!(!output.stdout.contains("secret that"), "{}", output.stdout);
        told(&output.ended(0).stdout)
    };
    let estimate = dry_run("ALTER id TYPE bigint", &[]);
    assert!(estimate["trial"]["rows"].as_u64() > Some(0), "{estimate}");
    assert!(why(&estimate) == "[]" || is_late(&estimate), "{estimate}");
    let remarks = estimate["remarks"].to_string();
    for needed in ["replication", "does not own", "publication"] {
        assert!(remarks.contains(needed), "no {needed} in {remarks}");
    }
    // What a row is to become cannot be tried where a row does not go with it; its value is not shown.
    let estimate = dry_run("ALTER v TYPE int USING v::int", &[]);
    assert!(estimate["trial"].is_null() && why(&estimate).contains("22P02"), "{estimate}");
    assert!(is_figure(&estimate["total_seconds"]));
    let estimate = dry_run("ALTER id TYPE bigint", &["--no-trial"]);
    assert!(estimate["trial"].is_null() && why(&estimate).contains("--no-trial"), "{estimate}");
    assert!(is_figure(&estimate["total_seconds"]) && is_figure(&estimate["peak_disk_bytes"]));
    // Without the right to read it there is no trial either.
    db.sql("REVOKE SELECT ON t FROM looks_only");
    let estimate = dry_run("ALTER id TYPE bigint", &[]);
    assert!(estimate["trial"].is_null() && why(&estimate).contains("42501"), "{estimate}");
    assert!(catalog(&db) == before);
    // A run is refused as ever.
    spawn(&dsn, &["alter", "t", "ALTER id TYPE bigint"]).wait().ended(3);
}
