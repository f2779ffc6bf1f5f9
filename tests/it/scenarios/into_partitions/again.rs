//! A partitioned table gets other partitions, or none.

use super::{command, finish, only_migration, pgrecast, traffic_on, wait_until};
use crate::harness::{Db, assert_nothing_left, dump};

/// The load's table, partitioned by what tells the partition.
const PARTS: &str = "CREATE TABLE t (id int, u int, v text, n numeric, d int NOT NULL DEFAULT 0, PRIMARY KEY (id, d)) PARTITION BY RANGE (d);
    CREATE TABLE t_0 PARTITION OF t FOR VALUES FROM (0) TO (1); CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (1) TO (2);
    CREATE TABLE middle PARTITION OF t FOR VALUES FROM (2) TO (4) PARTITION BY LIST (d); CREATE TABLE t_3 PARTITION OF middle FOR VALUES IN (3);
    CREATE TABLE t_2 PARTITION OF middle DEFAULT; CREATE TABLE t_4 PARTITION OF t DEFAULT;";

#[test]
fn every_row_is_in_the_new_partition_that_it_was_put_in() {
    let db = traffic_on(PARTS, 91, true, |db, mover| {
        let by = ["partition", "t", "--list", "d", "--values", "0;1;2;3;4"];
        let running = command(db, &[&by[..], &["--postpone-cutover"]].concat());
        running.wait_for_waiting("pgrecast cutover");
        mover.wait_for_more(200);
        command(db, &["cutover"]).wait().ended(0);
        let report = running.done();
        assert_eq!(report["verify"]["differences"], 0);
        let old = "SELECT string_agg(relid::regclass::text, ' ' ORDER BY relid::regclass::text) FROM pg_partition_tree('t_old') WHERE level > 0";
        assert_eq!(db.query_one_text(old), "middle_old t_0_old t_1_old t_2_old t_3_old t_4_old");
        assert_eq!(db.query_one_text(&old.replace("t_old", "t")), "t_0 t_1 t_2 t_3 t_4");
    });
    finish(&db);
    assert_eq!(db.query_one_text("SELECT count(*) FROM pg_class WHERE relname ~ '^middle|_old'"), "0");
}

#[test]
fn rolled_back_every_row_is_in_the_old_partition_that_it_was_put_in() {
    let db = Db::new();
    db.sql(PARTS);
    let before = dump(&db);
    let db = traffic_on(PARTS, 93, true, |db, mover| {
        let by = ["partition", "t", "--hash", "id", "--partitions", "3", "--rollback-window", "10m"];
        let running = command(db, &by);
        running.wait_for_window();
        mover.wait_for_more(200);
        let id = only_migration(db);
        assert_eq!(command(db, &["verify", &id]).wait().done()["verify"]["differences"], 0);
        command(db, &["rollback", &id]).wait().done();
        running.wait().done();
    });
    finish(&db);
    assert_eq!(dump(&db), before);
}

#[test]
fn killed_on_the_way_to_a_plain_table_it_goes_on() {
    let db = traffic_on(PARTS, 92, false, |db, mover| {
        db.sql("INSERT INTO t (id, v, d) SELECT -i, repeat('x', 1000), i % 5 FROM generate_series(1, 20000) i");
        let run = |more: &[&str]| command(db, &[&["partition", "t", "--none"], more].concat());
        let running = run(&["--nice", "50"]);
        running.wait_for_phase("copy");
        wait_until(db, "chunks", "SELECT count(*) > 1 FROM pgrecast.chunk", "t");
        running.kill();
        mover.wait_for_more(20);
        let running = run(&["--postpone-cutover"]);
        running.wait_for_waiting("pgrecast cutover");
        running.kill();
        mover.wait_for_more(20);
        let running = run(&[]);
        command(db, &["cutover"]).wait().ended(0);
        running.done();
        db.sql("DELETE FROM t WHERE id < 0");
    });
    finish(&db);
    let plain = Db::new();
    plain.sql(&PARTS[..PARTS.find(" PARTITION BY").expect("a clause")]);
    assert_eq!(dump(&db), dump(&plain));
}

#[test]
fn months_become_days() {
    let db = Db::new();
    db.sql(
        "CREATE TABLE t (id int, at timestamp NOT NULL, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
         CREATE TABLE t_2026_01 PARTITION OF t FOR VALUES FROM ('2026-01-01') TO ('2026-02-01') WITH (fillfactor = 70);
         CREATE TABLE t_2026_02 PARTITION OF t FOR VALUES FROM ('2026-02-01') TO ('2026-03-01') WITH (fillfactor = 70);
         CREATE INDEX by_time ON t (at); CREATE INDEX lone ON t_2026_02 (id);
         INSERT INTO t SELECT i, '2026-01-30'::timestamp + i * interval '1 hour' FROM generate_series(0, 119) i",
    );
    let before = dump(&db);
    let by = ["partition", "t", "--range", "at", "--every", "1 day", "--premake", "0", "--drop-constraint", "lone"];
    let run = || command(&db, &[&by[..], &["--postpone-cutover"]].concat());
    let running = run();
    running.wait_for_waiting("pgrecast cutover");
    running.kill();
    command(&db, &["abort", &only_migration(&db)]).wait().ended(0);
    assert_eq!(dump(&db), before);
    assert_nothing_left(&db);
    let running = run();
    running.wait_for_waiting("pgrecast cutover");
    // Of one old partition all rows go; one comes beyond all new ones.
    db.sql("UPDATE t SET at = '2026-01-15' WHERE id = 100; TRUNCATE t_2026_02; INSERT INTO t VALUES (500, '2026-02-20'), (501, '2026-02-01')");
    command(&db, &["cutover"]).wait().ended(0);
    running.done();
    let rows = "SELECT string_agg(tableoid::regclass || ' ' || n, ',' ORDER BY tableoid::regclass::text) FROM (SELECT tableoid, count(*) AS n FROM t GROUP BY 1) x";
    assert_eq!(db.query_one_text(rows), "t_2026_01_15 1,t_2026_01_30 24,t_2026_01_31 24,t_2026_02_01 1,t_2026_02_20 1");
    let options = "SELECT string_agg(DISTINCT reloptions::text, ' ') FROM pg_class WHERE relname ~ '^t_2026_.._..$'";
    assert_eq!(db.query_one_text(options), "{fillfactor=70}");
    assert_eq!(db.query_one_text("SELECT count(*) FROM pg_indexes WHERE tablename = 't_2026_01_30'"), "2");
    finish(&db);
}

/// A key over less than the partition columns, as a plain table can have.
#[test]
fn a_plain_table_may_have_a_shorter_key() {
    let db = Db::new();
    db.sql(PARTS);
    db.sql("INSERT INTO t (id, d) SELECT i, i % 5 FROM generate_series(1, 500) i; INSERT INTO t (id, d) VALUES (7, 3)");
    let by = ["partition", "t", "--none", "--primary-key", "id"];
    let output = pgrecast(&db, &by);
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    assert!(output.stderr.contains("the new table cannot have t_pkey"), "{}", output.stderr);
    command(&db, &["abort", &only_migration(&db)]).wait().ended(0);
    db.sql("DELETE FROM t WHERE (id, d) = (7, 3)");
    let running = command(&db, &[&by[..], &["--postpone-cutover"]].concat());
    running.wait_for_waiting("pgrecast cutover");
    db.sql("UPDATE t SET d = 9 - d WHERE id < 100; DELETE FROM t WHERE id = 200");
    command(&db, &["cutover"]).wait().ended(0);
    running.done();
    assert_eq!(db.query_one_text("SELECT count(*) || ' ' || sum(d) FROM t WHERE id < 100"), "99 691");
    assert_eq!(
        db.query_one_text("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 't_pkey'"),
        "PRIMARY KEY (id)"
    );
    finish(&db);
}
