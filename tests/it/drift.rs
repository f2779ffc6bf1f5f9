//! Somebody else changes the table while it is migrated (rule 11): the run stops and says so, or nothing is lost.

use crate::harness::migration::{SOON, command, finish, phase_of, wait_until};
use crate::harness::{Db, Running, assert_nothing_left};

/// Tables of some chunks, without traffic: what happens to it is each test's own.
const TABLE: &str = "
    CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE, v text);
    INSERT INTO t SELECT n, n, repeat('x', 1000) FROM generate_series(1, 20000) n";

const CHANGE: &str = "ALTER id TYPE bigint";

/// What others do, and the name the table has afterwards.
const DDL: &[(&str, Option<&str>)] = &[
    ("ALTER TABLE t ADD COLUMN theirs int NOT NULL DEFAULT 1", Some("t")),
    ("ALTER TABLE t DROP COLUMN u", Some("t")),
    ("ALTER TABLE t ALTER u TYPE bigint", Some("t")),
    ("ALTER TABLE t RENAME COLUMN v TO w", Some("t")),
    ("ALTER TABLE t RENAME TO elsewhere", Some("elsewhere")),
    ("ALTER TABLE t SET SCHEMA aside", Some("aside.t")),
    ("ALTER TABLE t RENAME TO elsewhere; CREATE TABLE t (id int PRIMARY KEY, u int, v text)", Some("elsewhere")),
    ("DROP TABLE t", None),
];

/// What the swap would lose although every row is right.
const LATE_DDL: &[&str] = &[
    "CREATE INDEX theirs ON t (v)",
    "ALTER TABLE t ADD CONSTRAINT theirs CHECK (id > 0)",
    "COMMENT ON TABLE t IS 'theirs'",
    "CREATE MATERIALIZED VIEW theirs AS SELECT NULL::t IS NULL AS x",
    "CREATE TABLE theirs () INHERITS (t)",
    "CREATE FUNCTION one(t) RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE VIEW theirs AS SELECT one(t) FROM t",
];

/// What is carried, whenever it was made, and a query that shows it on the new table.
const CARRIED: &[(&str, &str)] = &[
    (
        "CREATE TRIGGER theirs BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "SELECT tgname FROM pg_trigger WHERE tgrelid = 't'::regclass AND NOT tgisinternal",
    ),
    (
        "CREATE VIEW theirs AS SELECT id FROM t",
        "SELECT 'theirs' FROM theirs WHERE id = 30000 AND pg_typeof(id) = 'bigint'::regtype",
    ),
    (
        "CREATE TABLE child (id int CONSTRAINT theirs REFERENCES t)",
        "SELECT conname FROM pg_constraint WHERE confrelid = 't'::regclass AND convalidated",
    ),
    (
        "CREATE MATERIALIZED VIEW theirs AS SELECT id FROM t",
        "SELECT 'theirs' FROM theirs WHERE id = 20000 AND pg_typeof(id) = 'bigint'::regtype",
    ),
    ("CREATE PUBLICATION theirs FOR TABLE t", "SELECT pubname FROM pg_publication_tables WHERE tablename = 't'"),
    (
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY theirs ON t USING (id > 5)",
        "SELECT p.polname FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid WHERE c.oid = 't'::regclass AND c.relrowsecurity",
    ),
    ("CREATE STATISTICS theirs ON u, v FROM t", "SELECT stxname FROM pg_statistic_ext WHERE stxrelid = 't'::regclass"),
    (
        "CREATE FUNCTION theirs(t) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "SELECT proname FROM pg_proc WHERE oid = 'theirs(t)'::regprocedure",
    ),
    ("CREATE FUNCTION theirs() RETURNS text RETURN (SELECT 'theirs' FROM t WHERE id = 30000)", "SELECT theirs()"),
    (
        "CREATE TABLE other (r regclass DEFAULT 't'::regclass)",
        "SELECT 'theirs' FROM pg_attrdef d WHERE d.adrelid = 'other'::regclass AND pg_get_expr(d.adbin, 0) LIKE '''t''::%'",
    ),
    (
        "GRANT SELECT (id) ON t TO theirs",
        "SELECT grantee FROM information_schema.column_privileges WHERE table_name = 't' AND grantee = 'theirs'",
    ),
];

fn table() -> Db {
    let db = Db::new();
    db.sql("CREATE SCHEMA aside");
    db.sql(TABLE);
    db
}

/// A run that stays in the copy, with chunks done and others to do, until the file goes.
fn in_the_copy(db: &Db, hold: &std::path::Path) -> Running {
    let file = hold.to_string_lossy().into_owned();
    let running = command(db, &["alter", "t", CHANGE, "--nice", "25", "--throttle-file", &file]);
    running.wait_for_phase("copy");
    wait_until(db, "chunks", "SELECT count(*) > 1 FROM pgrecast.chunk", "t");
    std::fs::write(hold, "").expect("the throttle file");
    running.wait_for_event("the throttle", SOON, |e| e["event"] == "throttled");
    assert_eq!(phase_of(db), "copy");
    running
}

fn postponed(db: &Db) -> Running {
    let running = command(db, &["alter", "t", CHANGE, "--postpone-cutover"]);
    running.wait_for_waiting("pgrecast cutover");
    running
}

/// The run ended on its own account, and everything of it can go.
fn assert_stopped(db: &Db, running: Running, ddl: &str) {
    let output = running.wait();
    output.ended(1);
    for words in ["public.t", "by somebody else", "pgrecast abort"] {
        assert!(output.stderr.contains(words), "{ddl}: no {words:?} in {}", output.stderr);
    }
    let aborted = command(db, &["abort"]).wait();
    assert_eq!(aborted.code, Some(0), "{ddl}: {}", aborted.stderr);
    assert_nothing_left(db);
}

/// The same for a run that meets it in the copy.
fn assert_stopped_in_the_copy(ddl: &str) -> Db {
    let db = table();
    let place = tempfile::tempdir().expect("a directory");
    let hold = place.path().join("throttle");
    let running = in_the_copy(&db, &hold);
    db.sql(ddl);
    std::fs::remove_file(&hold).expect("the throttle file");
    assert_stopped(&db, running, ddl);
    db
}

#[test]
fn other_columns_or_another_table_stop_the_copy() {
    for (ddl, name) in DDL {
        let db = assert_stopped_in_the_copy(ddl);
        if let Some(name) = name {
            assert_eq!(db.query_one_text(&format!("SELECT count(*) FROM {name}")), "20000", "{ddl}");
        }
    }
}

#[test]
fn other_columns_or_another_table_stop_the_cut_over() {
    for (ddl, name) in DDL {
        let db = table();
        let running = postponed(&db);
        db.sql(ddl);
        if let Some(name) = name {
            db.sql(&format!("INSERT INTO {name} (id) VALUES (0)"));
        }
        // Where no change has told it, the cut-over finds out.
        let _ = command(&db, &["cutover"]).wait();
        assert_stopped(&db, running, ddl);
        if let Some(name) = name {
            assert_eq!(db.query_one_text(&format!("SELECT count(*) FROM {name}")), "20001", "{ddl}");
        }
    }
}

#[test]
fn what_the_swap_would_lose_stops_it() {
    for ddl in LATE_DDL {
        let db = table();
        let running = postponed(&db);
        db.sql(ddl);
        db.sql("INSERT INTO t (id) VALUES (30000)");
        command(&db, &["cutover"]).wait().ended(0);
        assert_stopped(&db, running, ddl);
    }
}

#[test]
fn what_is_made_late_is_carried() {
    for (ddl, shown) in CARRIED {
        let db = table();
        db.sql("DO $$ BEGIN CREATE ROLE theirs; EXCEPTION WHEN duplicate_object THEN NULL; END $$");
        let running = postponed(&db);
        db.sql(ddl);
        db.sql("INSERT INTO t (id) VALUES (30000)");
        command(&db, &["cutover"]).wait().ended(0);
        running.done();
        assert_eq!(db.query_one_text(shown), "theirs", "{ddl}");
        finish(&db);
    }
}

#[test]
fn a_rewrite_stops_the_copy_and_nothing_later() {
    for ddl in ["VACUUM FULL t", "CLUSTER t USING t_pkey"] {
        assert_stopped_in_the_copy(ddl);
    }
    let db = table();
    let running = postponed(&db);
    db.sql("UPDATE t SET v = 'new' WHERE id < 100; DELETE FROM t WHERE id > 19000");
    db.sql("VACUUM FULL t");
    db.sql("UPDATE t SET v = 'newer' WHERE id < 50; INSERT INTO t VALUES (-1, -1, 'after')");
    let rows = "SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM t";
    let expected = db.query_one_text(rows);
    command(&db, &["cutover"]).wait().ended(0);
    running.done();
    assert_eq!(db.query_one_text(rows), expected);
    finish(&db);
}
