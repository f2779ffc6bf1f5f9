//! Rows that have no partition, from the start or on the way.

use super::{TABLE, command, finish, partition, pgrecast, wait_until};
use crate::harness::migration::SOON;
use crate::harness::{Db, assert_nothing_left, spawn_with};

#[test]
fn a_row_out_of_all_ranges_is_named_before_the_swap() {
    let db = Db::new();
    db.sql(TABLE);
    db.sql("INSERT INTO t (id, d) SELECT i, i % 5 FROM generate_series(1, 500) i; UPDATE t SET d = 77 WHERE id = 123");
    let output = partition(&db, &[]).wait();
    output.ended(1);
    for words in ["row \"id\" = 123 of public.t", "no partition of relation \"t\"", "(77)", "--default-partition"] {
        assert!(output.stderr.contains(words), "no {words:?} in {}", output.stderr);
    }
    // Corrected, it goes on.
    db.sql("UPDATE t SET d = 4 WHERE id = 123");
    let running = partition(&db, &["--postpone-cutover"]);
    running.wait_for_waiting("pgrecast cutover");
    db.sql("UPDATE t SET d = -1 WHERE id = 7");
    let output = running.wait();
    output.ended(1);
    assert!(output.stderr.contains("row \"id\" = 7 of public.t, changed during the migration,"), "{}", output.stderr);
    command(&db, &["abort"]).wait().ended(0);
    assert_nothing_left(&db);
    assert_eq!(db.query_one_text("SELECT d FROM t WHERE id = 7"), "-1");
}

#[test]
fn a_default_partition_takes_what_belongs_nowhere() {
    let db = Db::new();
    db.sql(TABLE);
    db.sql("INSERT INTO t (id, d) SELECT i, i % 7 FROM generate_series(1, 700) i");
    let running = partition(&db, &["--default-partition", "--postpone-cutover"]);
    running.wait_for_waiting("pgrecast cutover");
    db.sql("TRUNCATE t; INSERT INTO t (id, d) SELECT i, i % 7 FROM generate_series(1, 70) i");
    db.sql(
        "UPDATE t SET d = 3 WHERE id = 5; UPDATE t SET d = -9 WHERE id = 8; INSERT INTO t (id, d) VALUES (1000, 55)",
    );
    command(&db, &["cutover"]).wait().ended(0);
    running.done();
    assert_eq!(
        db.query_one_text("SELECT string_agg(id::text, ',' ORDER BY id) FROM t_default WHERE id IN (5, 8, 1000)"),
        "8,1000"
    );
    assert_eq!(db.query_one_text("SELECT tableoid::regclass FROM t WHERE id = 5"), "t_3");
    assert_eq!(db.query_one_text("SELECT count(*) FROM t"), "71");
    finish(&db);
}

#[test]
fn a_partition_is_made_for_a_row_beyond_the_series() {
    let db = Db::new();
    db.sql(
        "CREATE TABLE t (id int PRIMARY KEY, at timestamptz NOT NULL, v text);
         CREATE INDEX by_v ON t (v); CREATE INDEX ON t (at) WITH (fillfactor = 70);
         INSERT INTO t SELECT i, '2026-05-31 23:00+00'::timestamptz + i * interval '1 hour', repeat('x', 500) FROM generate_series(1, 10000) i",
    );
    let place = tempfile::tempdir().expect("a directory");
    let hold = place.path().join("throttle").to_string_lossy().into_owned();
    let by = ["partition", "t", "--range", "at", "--every", "1 month", "--zone", "Europe/Berlin", "--premake", "0"];
    let run = |more: &[&str]| command(&db, &[&by[..], &["--throttle-file", &hold], more].concat());
    let running = run(&["--nice", "40", "--postpone-cutover"]);
    running.wait_for_phase("copy");
    wait_until(&db, "a chunk", "SELECT count(*) > 0 FROM pgrecast.chunk", "t");
    // In the copy: a row of a block that is still to come is older than the migration only in its place.
    db.sql("UPDATE t SET at = '2030-01-31 23:30+00' WHERE id IN (9000, 17); INSERT INTO t VALUES (20000, '2019-12-31 23:00+00', 'early')");
    running.wait_for_waiting("pgrecast cutover");
    let made = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'pgrecast.shadow_1'::regclass AND inhrelid::regclass::text ~ '_(2030_02|2020_01)$'";
    wait_until(&db, "two partitions", made, "2");
    // In step: another, for a row that comes with the last flush at the latest.
    db.sql("INSERT INTO t VALUES (30000, '2031-06-01 00:00 Europe/Berlin', 'late')");
    wait_until(&db, "a third", &made.replace("2020_01", "2031_06"), "2");
    running.kill();
    let running = run(&[]);
    command(&db, &["cutover"]).wait().ended(0);
    running.done();
    let placed = "SELECT string_agg(id || ' ' || tableoid::regclass, ',' ORDER BY id) FROM t WHERE id IN (17, 9000, 20000, 30000)";
    assert_eq!(db.query_one_text(placed), "17 t_2030_02,9000 t_2030_02,20000 t_2020_01,30000 t_2031_06");
    assert_eq!(db.query_one_text("SELECT count(*) FROM t"), "10002");
    let bound = "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = 't_2031_06'";
    let session = db.connect();
    session.sql("SET TimeZone = 'UTC'");
    assert_eq!(
        session.query_one_text(bound),
        "FOR VALUES FROM ('2031-05-31 22:00:00+00') TO ('2031-06-30 22:00:00+00')"
    );
    // All have all indexes of the whole, under names alike.
    let indexes = "SELECT string_agg(replace(c.relname, t.relname, ''), ' ' ORDER BY c.relname COLLATE \"C\") FROM pg_index i \
        JOIN pg_class t ON t.oid = i.indrelid JOIN pg_class c ON c.oid = i.indexrelid \
        JOIN pg_inherits h ON h.inhrelid = c.oid WHERE t.relname IN ('t_2031_06', 't_2026_07', 't_2030_02') GROUP BY t.oid";
    let all = db.rows(indexes);
    assert_eq!(all.len(), 3, "{all:?}");
    assert!(all.iter().all(|names| names[0].as_deref() == Some("_at_idx _pkey _v_idx")), "{all:?}");
    finish(&db);
}

#[test]
fn a_row_without_a_value_is_named_at_once() {
    let db = Db::new();
    db.sql("CREATE TABLE t (id int PRIMARY KEY, d date); INSERT INTO t VALUES (1, '2026-01-01'), (2, NULL)");
    let by = ["partition", "t", "--range", "d", "--every", "1 year"];
    let output = pgrecast(&db, &by);
    assert_eq!(output.code, Some(3), "{}", output.stderr);
    assert!(output.stderr.contains("row id = 2 of public.t has no partition: its d is NULL"), "{}", output.stderr);
    // The key over it makes the column NOT NULL, default or not.
    let output = pgrecast(&db, &[&by[..], &["--default-partition"]].concat());
    assert_eq!(output.code, Some(3), "{}", output.stderr);
    db.sql("DELETE FROM t WHERE id = 2");
    let running = command(&db, &[&by[..], &["--postpone-cutover"]].concat());
    running.wait_for_waiting("pgrecast cutover");
    db.sql("INSERT INTO t VALUES (3, NULL)");
    let output = running.wait();
    output.ended(1);
    assert!(output.stderr.contains("row \"id\" = 3 of public.t"), "{}", output.stderr);
    db.sql("DELETE FROM t WHERE id = 3");
    let running = command(&db, &by);
    command(&db, &["cutover"]).wait().ended(0);
    running.wait_for_event("the end", SOON, |e| e["event"] == "finished");
    assert_eq!(running.wait().code, Some(0));
    finish(&db);
}

#[test]
fn a_run_that_dies_as_it_makes_a_partition_goes_on() {
    for point in ["before make partition", "after make partition"] {
        let db = Db::new();
        db.sql("CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL); INSERT INTO t SELECT i, i FROM generate_series(1, 99) i");
        let by = ["partition", "t", "--range", "n", "--every", "100", "--premake", "0", "--format", "json"];
        let run =
            |more: &[&str], variables: &[(&str, &str)]| spawn_with(db.dsn(), &[&by[..], more].concat(), variables);
        let running = run(&["--postpone-cutover"], &[("PGRECAST_FAULT", point)]);
        running.wait_for_waiting("pgrecast cutover");
        db.sql("UPDATE t SET n = 550 WHERE id = 5");
        assert_ne!(running.wait().code, Some(0), "{point}");
        let running = run(&[], &[]);
        command(&db, &["cutover"]).wait().ended(0);
        running.done();
        assert_eq!(db.query_one_text("SELECT tableoid::regclass FROM t WHERE id = 5"), "t_500", "{point}");
        assert_eq!(db.query_one_text("SELECT count(*) FROM t"), "99");
        finish(&db);
    }
}
