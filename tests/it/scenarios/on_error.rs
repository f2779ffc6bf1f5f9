//! Values that do not convert: they become NULL, are counted, and kept where that was asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::{Postponed, each, only_migration};
use crate::harness::migration::command;
use crate::harness::{Db, Session, assert_nothing_left, dump, pgrecast, spawn_with};

const CLAUSES: &str = "ALTER v TYPE int USING v::int, ALTER w TYPE varchar(3), ALTER j TYPE jsonb USING j::jsonb";

/// Every tenth `v` and every seventh `w` does not convert; large enough for several chunks.
const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text, w text, j text, fill text);
    INSERT INTO t SELECT n, CASE WHEN n % 10 = 0 THEN 'x' || n ELSE n::text END,
        CASE WHEN n % 7 = 0 THEN 'long' ELSE 'ok' END, '[1]', repeat('f', 500) FROM generate_series(1, 8000) AS n";

/// Functions and quarantines of ours.
const OURS: &str = "SELECT concat_ws(' ', (SELECT count(*) FROM pg_proc WHERE pronamespace = 'pgrecast'::regnamespace),
    (SELECT count(*) FROM pg_class WHERE relnamespace = 'pgrecast'::regnamespace AND relname ~ 'quarantine_[0-9]+$'))";

/// A value that does not convert: key, column, value.
type Entry = (String, String, String);

/// What the old rows, here in `t_old`, say that must be in the quarantine.
fn expected(db: &Db, table: &str) -> Vec<Entry> {
    let sql = format!(
        "SELECT id::text, c, x FROM {table}, LATERAL (VALUES ('v', v, v ~ '^-?[0-9]{{1,9}}$'), ('w', w, length(w) < 4),
         ('j', j, j = '[1]')) AS f(c, x, fits) WHERE NOT fits ORDER BY id, c"
    );
    entries(db, &sql)
}

fn entries(db: &Db, sql: &str) -> Vec<Entry> {
    let text = |v: &Option<String>| v.clone().unwrap_or_default();
    db.rows(sql).iter().map(|row| (text(&row[0]), text(&row[1]), text(&row[2]))).collect()
}

/// The new table has NULL for exactly these values and the old value for all others; its quarantine has just these.
fn assert_set_aside(db: &Db, report: &Value) {
    let expected = expected(db, "t_old");
    assert!(!expected.is_empty());
    let kept = "SELECT id::text, column_name, value FROM t_quarantine ORDER BY id, column_name";
    assert!(entries(db, kept) == expected, "the quarantine is not what does not convert");
    assert_eq!(db.query_one_text("SELECT count(*) FROM t_quarantine WHERE error = ''"), "0");
    assert_nulls(db);
    let mut columns = BTreeMap::<&str, u64>::new();
    expected.iter().for_each(|(_, column, _)| *columns.entry(column).or_default() += 1);
    let rows: BTreeSet<_> = expected.iter().map(|(id, ..)| id).collect();
    let told =
        json!({ "values": expected.len(), "rows": rows.len(), "columns": columns, "table": "public.t_quarantine" });
    assert_eq!(report["unconverted"], told);
}

/// Each new value is that of the old one, or NULL where that does not convert.
fn assert_nulls(db: &Db) {
    let wrong = "SELECT count(*) FROM t_old AS o FULL JOIN t AS n USING (id) WHERE
        n.v::text IS DISTINCT FROM CASE WHEN o.v ~ '^-?[0-9]{1,9}$' THEN o.v::int::text END
        OR n.w IS DISTINCT FROM CASE WHEN length(o.w) < 4 THEN o.w END
        OR n.j::text IS DISTINCT FROM CASE WHEN o.j = '[1]' THEN o.j END OR n.fill IS DISTINCT FROM o.fill";
    assert_eq!(db.query_one_text(wrong), "0");
}

/// What the application does in a round: rows arrive, are repaired, spoilt, deleted, get another key. On the new table each
/// of them fails or does nothing, so what the old one holds at the swap stays to be seen.
fn disturb(application: &Session, round: i32) -> usize {
    let old = "pg_typeof(v) = 'text'::regtype";
    let (base, n) = (10_000 + round * 100, round % 100);
    let statements = [
        format!(
            "INSERT INTO t SELECT n, CASE WHEN n % 3 = 0 THEN 'bad' ELSE n || '' END, 'ok', '[1' FROM generate_series({base}, {base} + 20) AS n"
        ),
        format!("UPDATE t SET j = '[1]' WHERE {old} AND id BETWEEN {base} AND {base} + 10"),
        format!("UPDATE t SET v = '1' WHERE {old} AND (id = {base} + 2 OR id = {n} * 10)"),
        format!("DELETE FROM t WHERE {old} AND (id = {base} + 11 OR id = {n} * 70 + 7)"),
        format!("UPDATE t SET id = id + 50 WHERE {old} AND id BETWEEN {base} + 12 AND {base} + 14"),
        format!("UPDATE t SET v = v || '?' WHERE {old} AND id = {n} * 10 + 1"),
        format!("UPDATE t SET w = CASE w WHEN 'ok' THEN 'longer' ELSE 'ok' END WHERE {old} AND id = {n}"),
    ];
    statements.iter().filter(|statement| application.try_sql(statement).is_ok()).count()
}

/// Runs `work` while the application writes.
fn disturbed<T>(db: &Db, work: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writes = scope.spawn(|| {
            let application = db.connect();
            let mut done = 0;
            for round in (0..).take_while(|_| !over.load(Ordering::Relaxed)) {
                done += disturb(&application, round);
                // A pace that leaves room for other tests beside it.
                application.sql("SELECT pg_sleep(0.05)");
            }
            done
        });
        let outcome = catch_unwind(AssertUnwindSafe(work));
        over.store(true, Ordering::Relaxed);
        let done = writes.join().expect("the application");
        let outcome = outcome.unwrap_or_else(|panic| resume_unwind(panic));
        assert!(done > 100, "only {done} writes");
        outcome
    })
}

#[test]
fn what_does_not_convert_is_null_and_kept_with_its_key_under_traffic() {
    let db = Db::new();
    db.sql(TABLE);
    let args = ["alter", "t", CLAUSES, "--on-error", "quarantine", "--format", "json"];
    let report = disturbed(&db, || {
        // At a chunk that has such values, in the midst of catching up, and behind the swap.
        for fault in ["before commit chunk #2", "after commit flush", "before keep quarantine"] {
            let output = spawn_with(db.dsn(), &args, &[("PGRECAST_FAULT", fault)]).wait();
            assert_eq!(output.code, None, "{fault}: {}{}", output.stdout, output.stderr);
        }
        let status = pgrecast(&db, &["status"]);
        assert!(status.stdout.contains("do not convert"), "{}", status.stdout);
        spawn_with(db.dsn(), &args, &[]).wait()
    });
    assert!(report.stdout.contains("do not convert"), "{}", report.stdout);
    assert_set_aside(&db, &report.done());
    let finished = pgrecast(&db, &["finish", &only_migration(&db)]);
    assert!(finished.stdout.contains("public.t_quarantine keeps"), "{}{}", finished.stdout, finished.stderr);
    assert_nothing_left(&db);
    assert_ne!(db.query_one_text("SELECT count(*) FROM t_quarantine"), "0");
}

#[test]
fn in_the_rollback_window_a_row_that_nobody_changed_keeps_its_old_value() {
    let db = Db::new();
    db.sql(TABLE);
    let before = db.rows("SELECT t::text FROM t ORDER BY id");
    let reverse = ["--reverse", "v = v::text", "--reverse", "j = j::text"];
    let args =
        [&["alter", "t", CLAUSES, "--on-error", "quarantine", "--rollback-window", "10m"][..], &reverse].concat();
    let running = command(&db, &args);
    running.wait_for_window();
    let id = only_migration(&db);
    pgrecast(&db, &["verify", &id]).ended(0);
    db.sql("UPDATE t SET fill = 'changed' WHERE id IN (10, 20); UPDATE t SET v = 5 WHERE id = 20");
    let report = command(&db, &["rollback", &id]).done();
    assert_eq!(report["unconverted"]["table"], "public.t_quarantine");
    running.done();
    // The two that were changed have what the new table has of them; the old value is in the quarantine.
    assert_eq!(
        db.query_one_text("SELECT string_agg(coalesce(v, 'none'), ',' ORDER BY id) FROM t WHERE id IN (10, 20)"),
        "none,5"
    );
    assert_eq!(
        db.query_one_text("SELECT string_agg(value, ',' ORDER BY id) FROM t_quarantine WHERE id IN (10, 20)"),
        "x10,x20"
    );
    db.sql("UPDATE t SET v = 'x' || id, fill = repeat('f', 500) WHERE id IN (10, 20)");
    assert!(db.rows("SELECT t::text FROM t ORDER BY id") == before, "a row lost its old value");
    pgrecast(&db, &["finish", &id]).ended(0);
    assert_nothing_left(&db);
}

#[test]
fn values_that_become_null_are_counted_and_named_and_no_table_stays() {
    let db = Db::new();
    db.sql(TABLE);
    let run = Postponed::start(&db, "t", CLAUSES, &["--on-error", "null"]);
    db.sql("TRUNCATE t; INSERT INTO t VALUES (1, '1', 'ok', '[1]'), (2, 'two', 'ok', '[1]'), (3, '3', 'wide', '[')");
    let output = run.release(&db);
    let columns = json!({ "v": 1, "w": 1, "j": 1 });
    assert_eq!(output.done()["unconverted"], json!({ "values": 3, "rows": 2, "columns": columns, "table": null }));
    let said = output.events("warning").pop().expect("a warning")["text"].to_string();
    for word in ["v of row id = 2 is 'two'", "invalid input syntax for type integer", "value too long"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert_nulls(&db);
    assert_eq!(
        db.query_one_text("SELECT string_agg(concat_ws('/', id, v, w, j), ' ' ORDER BY id) FROM t"),
        "1/1/ok/[1] 2/ok/[1] 3/3"
    );
    assert_eq!(db.query_one_text(OURS), "0 0");
    pgrecast(&db, &["finish", &only_migration(&db)]).ended(0);
    assert_nothing_left(&db);
}

#[test]
fn partitions_a_truncate_of_one_and_a_key_of_two_columns() {
    let db = Db::new();
    db.sql("CREATE TABLE t (id int, value text, v text, PRIMARY KEY (value, id)) PARTITION BY LIST (value);
        CREATE TABLE t_a PARTITION OF t FOR VALUES IN ('a'); CREATE TABLE t_b PARTITION OF t FOR VALUES IN ('b');
        INSERT INTO t SELECT n, chr(97 + n % 2), CASE WHEN n < 30 THEN 'x' ELSE '1' END FROM generate_series(1, 300) AS n");
    let run = Postponed::start(&db, "t", "ALTER v TYPE int USING v::int", &["--on-error", "quarantine"]);
    db.sql("TRUNCATE t_b; INSERT INTO t VALUES (1, 'b', 'new'), (3, 'b', '3'); UPDATE t SET value = 'b' WHERE id = 2");
    let report = run.release(&db).done();
    assert_eq!(report["unconverted"]["values"], 15);
    assert_eq!(
        db.query_one_text("SELECT string_agg(concat_ws('/', value, id, column_name, value1), ' ' ORDER BY value, id) FROM t_quarantine"),
        "a/4/v/x a/6/v/x a/8/v/x a/10/v/x a/12/v/x a/14/v/x a/16/v/x a/18/v/x a/20/v/x a/22/v/x a/24/v/x a/26/v/x a/28/v/x b/1/v/new b/2/v/x"
    );
    assert_eq!(db.query_one_text("SELECT count(*) FROM t WHERE v IS NULL"), "15");
    pgrecast(&db, &["finish", &only_migration(&db)]).ended(0);
    assert_nothing_left(&db);
}

#[test]
fn what_cannot_become_null_is_refused() {
    let db = Db::new();
    db.sql("CREATE DOMAIN must AS text NOT NULL; CREATE TABLE t (id text PRIMARY KEY, n text NOT NULL, v text, w varchar(5), s smallint, d numeric(6,2))");
    let schema = dump(&db);
    let cases = [
        ("ALTER n TYPE int USING n::int", "column n is NOT NULL"),
        ("ALTER id TYPE int USING id::int", "column id is part of the key"),
        ("ALTER v TYPE float8 USING v::float8 + random()", "the conversion of column v is volatile"),
        ("ALTER v TYPE must", "column v does not take NULL"),
        ("ALTER v TYPE int USING num_nulls(t)", "reads whole rows"),
        (
            "ALTER w TYPE varchar(9), ALTER s TYPE int, ALTER id TYPE varchar, ADD x int",
            "converts no column in a way that could fail",
        ),
    ];
    each(
        cases,
        |(clauses, _)| (*clauses).to_owned(),
        |(clauses, why)| {
            let output = pgrecast(&db, &["alter", "t", clauses, "--on-error", "null"]);
            assert_eq!(output.code, Some(3), "{}{}", output.stdout, output.stderr);
            assert!(output.stderr.contains("--on-error null") && output.stderr.contains(why), "{}", output.stderr);
        },
    );
    assert_eq!(dump(&db), schema);
    db.sql("DROP EXTENSION plpgsql");
    let output = pgrecast(&db, &["alter", "t", "ALTER v TYPE int USING v::int", "--on-error", "quarantine"]);
    assert!(output.code == Some(3) && output.stderr.contains("plpgsql"), "{}", output.stderr);
    assert_nothing_left(&db);
}

#[test]
fn a_value_that_a_cast_would_cut_is_null_in_the_comparison_too() {
    let db = Db::new();
    db.sql("CREATE TABLE t (id int PRIMARY KEY, w text); INSERT INTO t VALUES (1, 'ok'), (2, 'long'), (3, NULL)");
    let postponed = Postponed::start(&db, "t", "ALTER w TYPE varchar(3)", &["--on-error", "quarantine"]);
    assert_eq!(db.query_one_text(OURS), "2 1");
    postponed.running.kill();
    pgrecast(&db, &["abort"]).ended(0);
    assert_nothing_left(&db);
    let again = Postponed::start(&db, "t", "ALTER w TYPE varchar(3)", &["--on-error", "quarantine"]);
    let report = again.release(&db).done();
    assert_eq!(report["unconverted"]["columns"], json!({ "w": 1 }));
    // The digests say that all rows are the same: none was looked at twice.
    assert_eq!(report["verify"]["rechecked"], 0);
    assert_eq!(db.query_one_text("SELECT string_agg(coalesce(w, '-'), ' ' ORDER BY id) FROM t"), "ok - -");
    let kept = "SELECT concat_ws('/', id, column_name, value, error) FROM t_quarantine";
    assert_eq!(db.query_one_text(kept), "2/w/long/value too long for type character varying(3)");
}
