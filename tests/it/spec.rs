//! A file says what a command line says: either goes on with what the other began.

use std::path::Path;

use crate::harness::migration::{SOON, command, finish, wait_until};
use crate::harness::{Db, Running, pgrecast, spawn};

/// Keeps what the program prints, which asks no server.
fn keep(place: &Path, line: &[&str]) -> String {
    let output = spawn("postgresql://127.0.0.1:1/none", &[line, &["--print-spec"]].concat()).wait();
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    write(place, &output.stdout)
}

fn write(place: &Path, spec: &str) -> String {
    let file = place.join("spec.toml");
    std::fs::write(&file, spec).expect("a file");
    file.to_string_lossy().into_owned()
}

/// What the only migration was asked for.
fn request(db: &Db) -> String {
    db.query_one_text("SELECT string_agg(request::text, '; ') FROM pgrecast.migration")
}

/// Starts a command that must go on with what there is.
fn goes_on(db: &Db, line: &[&str]) -> Running {
    let running = command(db, line);
    let started = running.wait_for_event("the start", SOON, |e| e["event"] == "started");
    assert_eq!(started["resumed"], true, "{started}");
    running
}

#[test]
fn a_partitioning_from_a_file_is_killed_and_goes_on() {
    let place = tempfile::tempdir().expect("a directory");
    let db = Db::new();
    db.sql("CREATE TABLE t (id int PRIMARY KEY, v text, d int NOT NULL); CREATE UNIQUE INDEX t_v ON t (v)");
    db.sql("INSERT INTO t SELECT i, i || repeat('x', 1000), i % 3 FROM generate_series(1, 20000) i");
    let line =
        ["partition", "t", "--range", "d", "--bounds", "0,1,2", "--default-partition", "--drop-constraint", "t_v"];
    let file = keep(place.path(), &[&line[..], &["--nice", "50"]].concat());

    let planned = pgrecast(&db, &["run", &file, "--dry-run"]);
    assert_eq!(planned.code, Some(0), "{}", planned.stderr);
    assert!(planned.stdout.contains("FOR VALUES FROM (0) TO (1)"), "{}", planned.stdout);

    let running = command(&db, &["run", &file]);
    running.wait_for_phase("copy");
    wait_until(&db, "chunks", "SELECT count(*) > 1 FROM pgrecast.chunk", "t");
    running.kill();
    let begun = request(&db);
    let running = goes_on(&db, &[&line[..], &["--postpone-cutover"]].concat());
    running.wait_for_waiting("pgrecast cutover");
    running.kill();
    let report = place.path().join("report.json");
    let beside = ["--nice", "0", "--report", report.to_str().expect("a path")];
    let report_of_run = goes_on(&db, &[&["run", &file], &beside[..]].concat()).done();
    assert_eq!(report_of_run["command"], "partition");
    assert!(report.exists());
    assert_eq!(request(&db), begun);
    assert_eq!(
        db.query_one_text(
            "SELECT string_agg(n::text, ' ') FROM (SELECT count(*) AS n FROM t GROUP BY tableoid ORDER BY tableoid) p"
        ),
        "6666 6667 6667"
    );
    finish(&db);
}

#[test]
fn a_change_from_a_file_goes_on_and_is_rolled_back() {
    let place = tempfile::tempdir().expect("a directory");
    let db = Db::new();
    db.sql("CREATE TABLE t (id int PRIMARY KEY, price numeric NOT NULL)");
    db.sql("INSERT INTO t SELECT i, i FROM generate_series(1, 100) i");
    let file = write(
        place.path(),
        r#"
        [alter]
        table = "t"
        clauses = ["ALTER price TYPE bigint USING round(price * 100)", "ADD COLUMN note text"]
        setting = { TimeZone = "UTC" }
        [alter.reverse]
        price = "price / 100.0"
        [options]
        rollback-window = "10m"
        "#,
    );
    let clauses = "ALTER price TYPE bigint USING round(price * 100), ADD COLUMN note text";
    let line = ["alter", "t", clauses, "--setting", "TimeZone=UTC", "--reverse", "price = price / 100.0"];
    let running = command(&db, &[&line[..], &["--rollback-window", "10m", "--postpone-cutover"]].concat());
    running.wait_for_waiting("pgrecast cutover");
    running.kill();
    let begun = request(&db);
    for _ in 0..2 {
        let running = goes_on(&db, &["run", &file]);
        running.wait_for_window();
        running.kill();
        assert_eq!(request(&db), begun);
    }
    assert_eq!(db.query_one_text("SELECT price FROM t WHERE id = 7"), "700");
    db.sql("UPDATE t SET price = 250 WHERE id = 1");
    let id = db.query_one_text("SELECT id FROM pgrecast.migration");
    command(&db, &["rollback", &id]).wait().done();
    assert_eq!(db.query_one_text("SELECT round(price, 2) FROM t WHERE id = 1"), "2.50");
    finish(&db);
}

#[test]
fn a_file_that_is_wrong_ends_with_2_and_a_report() {
    let place = tempfile::tempdir().expect("a directory");
    let db = Db::new();
    let report = place.path().join("report.json");
    let report = report.to_str().expect("a path");
    for (spec, words) in [
        ("[alter]\ntable = 't'\nclauses = 'FROBNICATE'", "spec.toml:1:2: cannot read the ALTER TABLE clauses"),
        ("[partition]\ntable = 't'\nrange = 'a'\nevery = '1 hour'", "spec.toml:4:1: --every \"1 hour\" is not"),
        ("[partition]\ntabel = 't'", "spec.toml:2:1: unknown key tabel in [partition]"),
    ] {
        let file = write(place.path(), spec);
        let output = pgrecast(&db, &["run", &file, "--report", report]);
        assert_eq!(output.code, Some(2), "{}", output.stderr);
        assert!(output.stderr.contains(words), "{}", output.stderr);
        let report = std::fs::read_to_string(report).expect("a report");
        assert!(report.contains("\"usage\""), "{report}");
    }
    for (file, words) in [("/nowhere/spec.toml", "No such file"), ("/dev/zero", "longer than 1 MiB")] {
        let output = pgrecast(&db, &["run", file]);
        assert_eq!(output.code, Some(2), "{}", output.stderr);
        assert!(output.stderr.contains(&format!("cannot read {file}: ")) && output.stderr.contains(words));
    }
    let output = pgrecast(&db, &["alter", "t", "FROBNICATE", "--print-spec"]);
    assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""));
}
