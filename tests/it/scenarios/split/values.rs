//! Distinct values go to a table of their own, and the table refers to them.

use super::*;

#[test]
fn values_that_come_meanwhile_have_one_number_each() {
    let body = ["--lookup", "body_id = bodies(body)"];
    let (db, writer) = under_traffic(96, |db, writer| {
        db.sql(
            "ALTER TABLE t ALTER body DROP NOT NULL, ALTER body DROP DEFAULT; GRANT SELECT ON t TO PUBLIC;
             INSERT INTO t (id, body, v) SELECT -i, 'one of ' || i % 7, repeat('x', 1000) FROM generate_series(1, 10000) i",
        );
        let running = split(db, &[&body], &["--nice", "50"]);
        running.wait_for_phase("copy");
        wait_until(db, "chunks", "SELECT count(*) > 1 FROM pgrecast.chunk", "t");
        running.kill();
        writer.wait_for_more(20);
        let report = released(db, writer, split(db, &[&body], &["--postpone-cutover"]));
        assert_eq!(report["targets"], serde_json::json!(["public.t", "public.bodies"]));
    });
    writer.assert_kept(
        &db,
        "SELECT t.id, d, b.body, tags FROM t LEFT JOIN bodies b ON b.id = body_id WHERE t.id >= 1000000",
    );
    assert_same(
        &db,
        "SELECT t.id, b.body FROM t LEFT JOIN bodies b ON b.id = body_id WHERE t.id >= 1000000 OR t.id < 0",
        "SELECT id, body FROM t_old WHERE id >= 1000000 OR id < 0",
    );
    assert_eq!(db.query_one_text("SELECT count(*) - count(DISTINCT body) FROM bodies"), "0");
    let keys = "SELECT string_agg(pg_get_constraintdef(oid), '; ' ORDER BY conname COLLATE \"C\") FROM pg_constraint \
        WHERE conrelid IN ('t'::regclass, 'bodies'::regclass) AND contype IN ('p', 'f', 'u') AND convalidated";
    assert_eq!(
        db.query_one_text(keys),
        "UNIQUE (body); PRIMARY KEY (id); FOREIGN KEY (body_id) REFERENCES bodies(id); PRIMARY KEY (id)"
    );
    assert_eq!(db.query_one_text("SELECT has_table_privilege('public', 'bodies', 'SELECT')"), "t");
    // Numbers go on where they are.
    db.sql("INSERT INTO bodies (body) VALUES ('another')");
    finish(&db);
}

#[test]
fn a_column_without_null_refers_without_null_and_an_abort_leaves_nothing() {
    let db = Db::new();
    db.sql(
        "CREATE SCHEMA app; CREATE TABLE t (id int PRIMARY KEY, \"Kind\" varchar(9) NOT NULL, d date);
         INSERT INTO t SELECT i, 'kind ' || i % 3, '2026-01-01'::date + i % 10 FROM generate_series(1, 500) i",
    );
    let kinds = ["--lookup", "kind = app.kinds(name = \"Kind\")", "--lookup", "day = days(d)"];
    let before = dump(&db);
    let running = split(&db, &[&kinds], &["--postpone-cutover"]);
    running.wait_for_waiting("pgrecast cutover");
    db.sql("UPDATE t SET \"Kind\" = 'new', d = NULL WHERE id < 9");
    command(&db, &["verify"]).wait().ended(0);
    running.kill();
    command(&db, &["abort"]).wait().ended(0);
    assert_nothing_left(&db);
    assert_eq!(dump(&db), before);
    split(&db, &[&kinds], &[]).done();
    assert_same(
        &db,
        "SELECT t.id, k.name, d.d FROM t JOIN app.kinds k ON k.id = t.kind LEFT JOIN days d ON d.id = t.day",
        "SELECT id, \"Kind\", d FROM t_old",
    );
    let columns = "SELECT string_agg(concat_ws(' ', attname, attnotnull, format_type(atttypid, atttypmod)), ', ' ORDER BY attnum) \
        FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped AND attrelid =";
    assert_eq!(db.query_one_text(&format!("{columns} 't'::regclass")), "id t integer, kind t bigint, day f bigint");
    assert_eq!(
        db.query_one_text(&format!("{columns} 'app.kinds'::regclass")),
        "id t bigint, name t character varying(9)"
    );
    finish(&db);
}
