//! Columns move to a table of their own.

use super::*;
use crate::harness::migration::kill_behind_the_swap;

const DETAILS: &[&str] = &[
    "--into",
    "details(key = id, body, tags, size = length(body) * 2, at = clock_timestamp())",
    "--into",
    "\"Rest\"(body = upper(body)) WHERE d > 2",
    "--drop",
    "body,tags",
];

/// What the two new tables must hold, said of the old one.
fn assert_moved(db: &Db, first: &str) {
    assert_same(
        db,
        &format!("SELECT key, body, tags, size FROM details WHERE key >= {first}"),
        &format!("SELECT id, body, tags, length(body) * 2 FROM t_old WHERE id >= {first}"),
    );
    assert_same(
        db,
        &format!("SELECT id, body FROM \"Rest\" WHERE id >= {first}"),
        &format!("SELECT id, upper(body) FROM t_old WHERE d > 2 AND id >= {first}"),
    );
    let columns = "SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped AND attrelid =";
    assert_eq!(db.query_one_text(&format!("{columns} 't'::regclass")), "id,u,v,n,d");
    assert_eq!(db.query_one_text(&format!("{columns} '\"Rest\"'::regclass")), "id,body");
}

#[test]
fn columns_that_move_are_as_they_were_written_last() {
    let (db, writer) = under_traffic(91, |db, writer| {
        db.sql(
            "GRANT SELECT ON t TO PUBLIC; GRANT UPDATE (body, v) ON t TO PUBLIC; COMMENT ON COLUMN t.body IS 'long'",
        );
        let running = split(db, &[DETAILS], &["--foreign-key=cascade", "--postpone-cutover"]);
        let report = released(db, writer, running);
        assert_eq!(report["command"], "split");
        assert_eq!(report["targets"], serde_json::json!(["public.t", "public.details", "public.\"Rest\""]));
        assert!(report["keys_flushed"].as_u64() > Some(200), "{report}");
    });
    writer.assert_kept(
        &db,
        "SELECT t.id, t.d, r.body, r.tags FROM t JOIN details r ON r.key = t.id WHERE t.id >= 1000000",
    );
    // The load's rows went on, and the foreign keys with them.
    assert_moved(&db, "1000000");
    let keys = "SELECT string_agg(conname || ' ' || pg_get_constraintdef(oid), '; ' ORDER BY conname COLLATE \"C\") \
        FROM pg_constraint WHERE conrelid IN ('details'::regclass, '\"Rest\"'::regclass) AND contype IN ('p', 'f')";
    assert_eq!(
        db.query_one_text(keys),
        "Rest_id_fkey FOREIGN KEY (id) REFERENCES t(id) ON UPDATE CASCADE ON DELETE CASCADE; Rest_pkey PRIMARY KEY (id); \
         details_key_fkey FOREIGN KEY (key) REFERENCES t(id) ON UPDATE CASCADE ON DELETE CASCADE; details_pkey PRIMARY KEY (key)"
    );
    assert_eq!(db.query_one_text("SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND NOT convalidated"), "0");
    // A column that is moved as it is keeps what is its own; statistics and autovacuum are there, grants are the table's.
    assert_eq!(
        db.query_one_text("SELECT column_default || is_nullable FROM information_schema.columns WHERE table_name = 'details' AND column_name = 'body'"),
        "'none'::textNO"
    );
    assert_eq!(db.query_one_text("SELECT col_description('details'::regclass, 2)"), "long");
    assert_eq!(db.query_one_text("SELECT has_table_privilege('public', 'details', 'SELECT')::text || has_column_privilege('public', 'details', 'body', 'UPDATE')"), "truetrue");
    assert_eq!(
        db.query_one_text("SELECT reltuples > 0 AND reloptions IS NULL FROM pg_class WHERE oid = 'details'::regclass"),
        "t"
    );
    db.sql("DELETE FROM t WHERE id = 1000000");
    assert_eq!(db.query_one_text("SELECT count(*) FROM details WHERE key = 1000000"), "0");
    finish(&db);
}

#[test]
fn a_run_that_is_killed_goes_on_and_loses_nothing() {
    let (db, writer) = under_traffic(92, |db, writer| {
        db.sql("INSERT INTO t (id, body, d) SELECT -i, repeat('x', 1000), i % 5 FROM generate_series(1, 10000) i");
        let running = split(db, &[DETAILS], &["--nice", "50"]);
        wait_until(db, "chunks", "SELECT coalesce((SELECT true FROM pg_class WHERE relname = 'chunk'), false)", "t");
        wait_until(db, "chunks", "SELECT count(*) > 1 FROM pgrecast.chunk", "t");
        running.kill();
        writer.wait_for_more(20);
        split(db, &[DETAILS], &["--postpone-cutover"]).wait_for_phase("index");
        let running = split(db, &[DETAILS], &["--postpone-cutover", "--foreign-key=no-action"]).wait();
        running.ended(3);
        let running = split(db, &[DETAILS], &["--postpone-cutover"]);
        running.wait_for_waiting("pgrecast cutover");
        writer.wait_for_more(100);
        kill_behind_the_swap(db, running);
        command(db, &["resume"]).done();
    });
    writer.assert_kept(
        &db,
        "SELECT t.id, t.d, r.body, r.tags FROM t JOIN details r ON r.key = t.id WHERE t.id >= 1000000",
    );
    assert_moved(&db, "-10000");
    finish(&db);
}

#[test]
fn a_run_that_is_given_up_leaves_nothing_and_truncate_empties_all() {
    let db = Db::new();
    db.sql(TABLE);
    db.sql("INSERT INTO t (id, d, body) SELECT i, i % 5, i FROM generate_series(1, 500) i");
    let before = dump(&db);
    let running = split(&db, &[DETAILS], &["--postpone-cutover"]);
    running.wait_for_waiting("pgrecast cutover");
    db.sql("TRUNCATE t; INSERT INTO t (id, d, body) VALUES (7, 3, 'seven')");
    command(&db, &["verify"]).wait().ended(0);
    running.kill();
    assert!(pgrecast(&db, &["status"]).stdout.contains("public.t"));
    command(&db, &["abort", &only_migration(&db)]).wait().ended(0);
    assert_nothing_left(&db);
    assert_eq!(dump(&db), before);
    assert_eq!(db.query_one_text("SELECT count(*) FROM t"), "1");
}

#[test]
fn a_row_that_a_new_table_cannot_hold_is_named() {
    let db = Db::new();
    db.sql("CREATE TABLE t (id int PRIMARY KEY, d int, v text); INSERT INTO t SELECT i, i - 7 FROM generate_series(1, 500) i");
    let shares = ["--into", "share(part = 100 / d)", "--into", "n(v)", "--drop", "d,v"];
    let ends = |running: Running, words: &str| {
        let output = running.wait();
        output.ended(1);
        assert!(output.stderr.contains(words), "no {words:?} in {}", output.stderr);
    };
    ends(split(&db, &[&shares], &[]), "row \"id\" = 7 of public.t cannot be converted: division by zero");
    db.sql("UPDATE t SET d = 1 WHERE id = 7");
    let running = split(&db, &[&shares], &["--postpone-cutover"]);
    running.wait_for_waiting("pgrecast cutover");
    db.sql("UPDATE t SET d = 0 WHERE id = 8");
    ends(running, "row \"id\" = 8 of public.t, changed during the migration, cannot be converted: division by zero");
    db.sql("UPDATE t SET d = 1 WHERE id = 8; CREATE TABLE n ()");
    let running = split(&db, &[&shares], &[]);
    command(&db, &["cutover"]).wait().ended(0);
    ends(running, "somebody else has made public.n meanwhile");
    db.sql("DROP TABLE n");
    split(&db, &[&shares], &[]).done();
    assert_same(&db, "SELECT id, part FROM share", "SELECT id, 100 / d FROM t_old");
    finish(&db);
}

#[test]
fn a_difference_in_a_new_table_is_found() {
    let db = Db::new();
    db.sql(TABLE);
    db.sql("INSERT INTO t (id, d, body) SELECT i, i % 5, i FROM generate_series(1, 500) i");
    let running = split(&db, &[DETAILS], &["--postpone-cutover"]);
    running.wait_for_waiting("pgrecast cutover");
    let part = |n: u32| format!("pgrecast.shadow_{}_part_{n}", only_migration(&db));
    db.sql(&format!(
        "UPDATE {0} SET body = 'x' WHERE key = 3; DELETE FROM {0} WHERE key = 4; INSERT INTO {0} (key, body) VALUES (600, 'x');
         DELETE FROM {1} WHERE id = 8; INSERT INTO {1} VALUES (10, 'x')",
        part(0),
        part(1)
    ));
    let output = pgrecast(&db, &["verify"]);
    assert_eq!(output.code, Some(4), "{}{}", output.stdout, output.stderr);
    for words in [
        "differ in 5 rows",
        "id = 3 differs in body of public.details",
        "id = 4 is missing in public.details",
        "= 600 is in public.details only",
        "id = 8 is missing in public.\"Rest\"",
        "id = 10 is in public.\"Rest\" only",
    ] {
        assert!(output.stderr.contains(words), "no {words:?} in {}", output.stderr);
    }
    running.wait().ended(4);
    command(&db, &["abort"]).wait().ended(0);
}
