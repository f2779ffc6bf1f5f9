//! Elements of a row become rows of their own.

use super::*;

const ELEMENTS: &[&str] =
    &["--into", "tag(tag = unnest(tags), at = generate_subscripts(tags, 1), d)", "--drop", "tags"];

#[test]
fn elements_are_rows_of_their_own() {
    let (db, writer) = under_traffic(95, |db, writer| {
        db.sql("INSERT INTO t (id, body, tags) SELECT -i, repeat('x', 1000), ARRAY['a', NULL, i::text] FROM generate_series(1, 10000) i");
        let running = split(db, &[ELEMENTS], &["--foreign-key=cascade", "--nice", "50"]);
        running.wait_for_phase("copy");
        wait_until(db, "chunks", "SELECT count(*) > 1 FROM pgrecast.chunk", "t");
        running.kill();
        writer.wait_for_more(20);
        let running = split(db, &[ELEMENTS], &["--foreign-key=cascade", "--postpone-cutover"]);
        released(db, writer, running);
    });
    writer.assert_kept(
        &db,
        "SELECT t.id, t.d, t.body, (SELECT coalesce(array_agg(tag ORDER BY at), '{}') FROM tag WHERE tag.id = t.id) FROM t WHERE t.id >= 1000000",
    );
    assert_same(
        &db,
        "SELECT id, tag, at, d FROM tag",
        "SELECT id, x.e, x.n, d FROM t_old, unnest(tags) WITH ORDINALITY AS x(e, n)",
    );
    assert_eq!(
        db.query_one_text("SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'tag'::regclass"),
        "CREATE INDEX tag_id_idx ON public.tag USING btree (id)"
    );
    db.sql("DELETE FROM t WHERE id = -1");
    assert_eq!(db.query_one_text("SELECT count(*) FROM tag WHERE id = -1"), "0");
    finish(&db);
}

#[test]
fn elements_of_json_and_differences_among_them() {
    let db = Db::new();
    db.sql(
        "CREATE TABLE t (id int PRIMARY KEY, lines jsonb);
         INSERT INTO t SELECT i, jsonb_build_array(jsonb_build_object('n', i, 'what', 'a'), jsonb_build_object('n', i, 'what', 'a'), '{}'::jsonb) FROM generate_series(1, 500) i;
         INSERT INTO t VALUES (1000, '[]'), (1001, NULL)",
    );
    if db.major() >= 15 {
        db.sql("CREATE PUBLICATION told FOR TABLES IN SCHEMA public");
    }
    let lines = [
        "--into",
        "line(t_id = id, no = generate_series(1, jsonb_array_length(lines)), n = (jsonb_array_elements(lines) ->> 'n')::int, what = jsonb_array_elements(lines) ->> 'what')",
        "--drop",
        "lines",
    ];
    let running = split(&db, &[&lines], &["--postpone-cutover"]);
    running.wait_for_waiting("pgrecast cutover");
    command(&db, &["verify"]).wait().ended(0);
    let shadow = format!("pgrecast.shadow_{}_part_0", only_migration(&db));
    // Two equal rows for two equal others, which sums of digests would take for the same.
    db.sql(&format!("UPDATE {shadow} SET no = 1 WHERE t_id = 7 AND no < 3; DELETE FROM {shadow} WHERE t_id = 8; INSERT INTO {shadow} VALUES (9, 4, 9, 'a'), (2000, 1, 1, 'a'), (1000, 1, 1, 'a')"));
    let output = pgrecast(&db, &["verify"]);
    assert_eq!(output.code, Some(4), "{}{}", output.stdout, output.stderr);
    for words in [
        "differ in 5 rows",
        "id = 7 differs in its rows of public.line",
        "id = 8 is missing",
        "id = 9 differs",
        "id = 1000 is in public.line only",
        "id = 2000 is in public.line only",
    ] {
        assert!(output.stderr.contains(words), "no {words:?} in {}", output.stderr);
    }
    running.wait().ended(4);
    command(&db, &["abort"]).wait().ended(0);
    split(&db, &[&lines], &[]).done();
    assert_eq!(
        db.query_one_text("SELECT string_agg(concat_ws(' ', no, n, what), ', ' ORDER BY no) FROM line WHERE t_id = 3"),
        "1 3 a, 2 3 a, 3"
    );
    // It has no key, and is published: with an identity updates and deletes do not fail.
    db.sql("DELETE FROM line WHERE t_id = 3 AND no = 3; UPDATE line SET n = 0 WHERE t_id = 4");
    finish(&db);
}
