//! Rows move to tables of their own.

use super::*;

const APART: &[&str] = &["--into", "one WHERE d = 1", "--into", "app.two(id, d, body, tags) WHERE d IN (2, 3)"];

/// Where each row was at the swap, said of the old table, and that none is twice.
fn assert_apart(db: &Db) {
    assert_same(db, "SELECT * FROM one", "SELECT * FROM t_old WHERE d = 1");
    assert_same(db, "SELECT * FROM app.two", "SELECT id, d, body, tags FROM t_old WHERE d IN (2, 3)");
    assert_same(
        db,
        "SELECT id FROM t_old WHERE id >= 1000000",
        "SELECT id FROM (SELECT id FROM t UNION ALL SELECT id FROM one UNION ALL SELECT id FROM app.two) x WHERE id >= 1000000",
    );
}

const ALL: &str = "SELECT * FROM (SELECT id, d, body, tags FROM t UNION ALL SELECT id, d, body, tags FROM one \
    UNION ALL SELECT id, d, body, tags FROM app.two) AS x WHERE id >= 1000000";

#[test]
fn rows_that_leave_are_where_they_belong() {
    let (db, writer) = under_traffic(93, |db, writer| {
        db.sql(
            "CREATE SCHEMA app; ALTER TABLE t ADD CHECK (d < 100), ADD seq serial, ADD twin int GENERATED ALWAYS AS (d * 2) STORED,
                 ADD own int GENERATED ALWAYS AS IDENTITY;
             CREATE UNIQUE INDEX by_d ON t (d, id) INCLUDE (v) WHERE d IS NOT NULL",
        );
        let report = released(db, writer, split(db, &[APART], &["--postpone-cutover"]));
        assert_eq!(report["targets"], serde_json::json!(["public.t", "public.one", "app.two"]));
    });
    writer.assert_kept(&db, ALL);
    assert_apart(&db);
    // The table's own shape, as LIKE gives it.
    let like = Db::new();
    like.sql(TABLE);
    like.sql(
        "ALTER TABLE t ADD CHECK (d < 100), ADD seq serial, ADD twin int GENERATED ALWAYS AS (d * 2) STORED,
             ADD own int GENERATED ALWAYS AS IDENTITY;
         CREATE UNIQUE INDEX by_d ON t (d, id) INCLUDE (v) WHERE d IS NOT NULL; CREATE TABLE one (LIKE t INCLUDING ALL)",
    );
    let shape = "SELECT string_agg(x, '; ' ORDER BY x) FROM (SELECT concat_ws(' ', attname, attnotnull, format_type(atttypid, atttypmod), attgenerated, attidentity, pg_get_expr(adbin, adrelid)) \
         FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum WHERE attrelid = 'one'::regclass AND attnum > 0 \
         UNION ALL SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'one'::regclass \
         UNION ALL SELECT conname || pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'one'::regclass) AS of(x)";
    assert_eq!(db.query_one_text(shape), like.query_one_text(shape));
    // Identity values go on from those there are.
    let next = "SELECT nextval(pg_get_serial_sequence('one', 'own')) > (SELECT max(own) FROM t_old)";
    assert_eq!(db.query_one_text(next), "t");
    finish(&db);
}

#[test]
fn a_run_that_is_killed_goes_on_where_it_was() {
    let (db, writer) = under_traffic(94, |db, writer| {
        db.sql("CREATE SCHEMA app; INSERT INTO t (id, body, d) SELECT -i, repeat('x', 1000), i % 5 FROM generate_series(1, 10000) i");
        let running = split(db, &[APART], &["--nice", "50"]);
        running.wait_for_phase("copy");
        wait_until(db, "chunks", "SELECT count(*) > 1 FROM pgrecast.chunk", "t");
        running.kill();
        writer.wait_for_more(20);
        let running = split(db, &[APART], &["--postpone-cutover"]);
        running.wait_for_waiting("pgrecast cutover");
        running.kill();
        writer.wait_for_more(20);
        let running = split(db, &[APART], &[]);
        command(db, &["cutover"]).wait().ended(0);
        running.done();
    });
    writer.assert_kept(&db, ALL);
    assert_apart(&db);
    finish(&db);
}

#[test]
fn a_row_without_one_place_is_named_whenever_it_comes() {
    let db = Db::new();
    db.sql("CREATE TABLE t (id int, \"K\" text, d int, PRIMARY KEY (id, \"K\")); INSERT INTO t SELECT i, 'k', i % 9 FROM generate_series(1, 500) i");
    let overlap = ["--into", "one WHERE d > 3", "--into", "two WHERE d = 8"];
    let exhaustive = ["--into", "one WHERE d > 3", "--into", "two WHERE d < 4", "--exhaustive"];
    let ends = |running: Running, words: &str| {
        let output = running.wait();
        output.ended(1);
        assert!(output.stderr.contains(words), "no {words:?} in {}", output.stderr);
    };
    // As it is copied.
    let both = "row id = 8, \"K\" = k of public.t meets the predicates of public.one and public.two";
    ends(split(&db, &[&overlap], &[]), both);
    // Put right, the run goes on; and as it comes meanwhile.
    db.sql("UPDATE t SET d = 7 WHERE d = 8");
    let running = split(&db, &[&overlap], &["--postpone-cutover"]);
    running.wait_for_waiting("pgrecast cutover");
    db.sql("INSERT INTO t VALUES (1000, 'k', 8)");
    ends(running, "row id = 1000, \"K\" = k of public.t meets the predicates of public.one and public.two");
    command(&db, &["abort"]).wait().ended(0);
    db.sql("UPDATE t SET d = 1 WHERE id = 1000");
    let running = split(&db, &[&exhaustive], &["--postpone-cutover"]);
    running.wait_for_waiting("pgrecast cutover");
    db.sql("INSERT INTO t VALUES (1001, 'k', NULL)");
    ends(running, "row id = 1001, \"K\" = k of public.t meets no predicate");
    db.sql("DELETE FROM t WHERE id = 1001");
    let running = split(&db, &[&exhaustive], &[]);
    command(&db, &["cutover"]).wait().ended(0);
    running.done();
    assert_eq!(
        db.query_one_text(
            "SELECT (SELECT count(*) FROM t) || ' ' || (SELECT count(*) FROM one) + (SELECT count(*) FROM two)"
        ),
        "0 501"
    );
    finish(&db);
    assert_nothing_left(&db);
}
