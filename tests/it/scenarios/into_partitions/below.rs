//! Partitions that are partitioned again.

use super::{Mover, TABLE, command, finish, only_migration, under_traffic, wait_until};
use crate::harness::Db;

#[test]
fn rows_find_their_place_at_both_levels() {
    let db = under_traffic(95, false, |db, mover| {
        let by = ["partition", "t", "--list", "d", "--values", "0;1;2", "--default-partition"];
        let below = ["--sub-hash", "id", "--sub-partitions", "2", "--rollback-window", "10m"];
        let running = command(db, &[&by[..], &below[..]].concat());
        running.wait_for_window();
        let tree = "SELECT string_agg(relid || CASE WHEN isleaf THEN '' ELSE '+' END, ' ' ORDER BY relid::text) FROM pg_partition_tree('t')";
        assert_eq!(
            db.query_one_text(tree),
            "t+ t_0+ t_0_0 t_0_1 t_1+ t_1_0 t_1_1 t_2+ t_2_0 t_2_1 t_default+ t_default_0 t_default_1"
        );
        // Of each level there are statistics, and an index that belongs to the one above.
        let seen = "SELECT count(DISTINCT tablename) FROM pg_stats WHERE tablename ~ '^t(_|$)'";
        assert_eq!(db.query_one_text(seen), "13");
        let key = "SELECT count(*) FROM pg_partition_tree('t_pkey')";
        assert_eq!(db.query_one_text(key), "13");
        mover.wait_for_more(100);
        command(db, &["rollback", &only_migration(db)]).wait().done();
        running.wait().done();
        assert!(db.query_one_text("SELECT count(*) FROM t").parse::<u64>().expect("a count") > Mover::ROWS);
    });
    finish(&db);
}

#[test]
fn a_partition_for_a_row_beyond_the_series_has_its_own_partitions() {
    let db = Db::new();
    db.sql("CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL, kind text NOT NULL); CREATE INDEX by_kind ON t (kind);
        INSERT INTO t SELECT i, i, CASE i % 3 WHEN 0 THEN 'a' WHEN 1 THEN 'b' ELSE 'c' END FROM generate_series(1, 99) i");
    let by = [
        "partition",
        "t",
        "--range",
        "n",
        "--every",
        "100",
        "--premake",
        "0",
        "--sub-list",
        "kind",
        "--sub-values",
        "a;b,c",
    ];
    let running = command(&db, &[&by[..], &["--postpone-cutover"]].concat());
    running.wait_for_waiting("pgrecast cutover");
    db.sql("UPDATE t SET n = 550 WHERE id = 5; UPDATE t SET n = 501 WHERE id = 6");
    wait_until(&db, "partitions", "SELECT count(*) FROM pg_class WHERE relname ~ '^t_500(_a|_b_c)?$'", "3");
    command(&db, &["cutover"]).wait().ended(0);
    running.done();
    assert_eq!(
        db.query_one_text("SELECT string_agg(id || ' ' || tableoid::regclass, ',' ORDER BY id) FROM t WHERE n > 500"),
        "5 t_500_b_c,6 t_500_a"
    );
    let indexes = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE indrelid = 't_500_a'::regclass AND indisvalid";
    assert_eq!(db.query_one_text(indexes), "t_500_a_kind_idx t_500_a_pkey");
    assert_eq!(db.query_one_text("SELECT count(*) FROM pg_partition_tree('t_pkey')"), "7");
    assert_eq!(
        db.query_one_text("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 't_pkey'"),
        "PRIMARY KEY (id, n, kind)"
    );
    finish(&db);
}

/// Lists, ranges and a hash; killed in step and behind the swap, and swapped back.
#[test]
fn three_levels_are_followed_both_ways() {
    let db = under_traffic(96, false, |db, mover| {
        let by =
            ["partition", "t", "--list", "d", "--values", "0;1,2;3;4", "--sub", "range id every 1000000 premake 1"];
        let by = [&by[..], &["--sub", "hash id partitions 2", "--rollback-window", "10m"]].concat();
        let running = command(db, &[&by[..], &["--postpone-cutover"]].concat());
        running.wait_for_waiting("pgrecast cutover");
        mover.wait_for_more(50);
        running.kill();
        mover.wait_for_more(20);
        let running = command(db, &by);
        command(db, &["cutover"]).wait().ended(0);
        running.wait_for_window();
        let levels = "SELECT string_agg(n::text, ' ' ORDER BY level) FROM (SELECT level, count(*) n FROM pg_partition_tree('t') GROUP BY level) x";
        assert_eq!(db.query_one_text(levels), "1 4 12 24");
        let wrong =
            "SELECT count(*) FROM t WHERE d IN (1, 2) AND tableoid::regclass::text !~ '^t_1_2_(0|1000000)_[01]$'";
        assert_eq!(db.query_one_text(wrong), "0");
        mover.wait_for_more(50);
        running.kill();
        mover.wait_for_more(20);
        command(db, &["rollback", &only_migration(db)]).wait().done();
    });
    finish(&db);
}

#[test]
fn a_series_below_others_grows_in_each_of_them() {
    let db = Db::new();
    db.sql(
        "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL, kind text NOT NULL); CREATE INDEX by_kind ON t (kind);
        INSERT INTO t SELECT i, i, CASE i % 2 WHEN 0 THEN 'a' ELSE 'b' END FROM generate_series(1, 99) i",
    );
    let by = ["partition", "t", "--list", "kind", "--values", "a;b", "--sub", "range n every 100 premake 0"];
    // Ranges of the same column fill those above.
    let by = [&by[..], &["--sub", "range n every 50", "--postpone-cutover"]].concat();
    let running = command(&db, &by);
    running.wait_for_waiting("pgrecast cutover");
    // Of the row beyond, only one list has need.
    db.sql("UPDATE t SET n = 560 WHERE id = 5");
    wait_until(&db, "partitions", "SELECT count(*) FROM pg_class WHERE relname ~ '^t_[ab]_500(_5[05]0)?$'", "6");
    // A row without a list is not helped by ranges.
    db.sql("UPDATE t SET kind = 'z' WHERE id = 6");
    let ended = running.wait();
    ended.ended(1);
    for words in ["row \"id\" = 6 of public.t", "no partition of relation \"t\" found"] {
        assert!(ended.stderr.contains(words), "no {words:?} in {}", ended.stderr);
    }
    db.sql("UPDATE t SET kind = 'a' WHERE id = 6");
    let running = command(&db, &by);
    command(&db, &["cutover"]).wait().ended(0);
    running.done();
    let tree = "SELECT string_agg(relid::text, ' ' ORDER BY relid::text COLLATE \"C\") FROM pg_partition_tree('t_b')";
    assert_eq!(db.query_one_text(tree), "t_b t_b_0 t_b_0_0 t_b_0_50 t_b_500 t_b_500_500 t_b_500_550");
    assert_eq!(db.query_one_text("SELECT tableoid::regclass FROM t WHERE id = 5"), "t_b_500_550");
    let indexes = "SELECT count(*) || ' ' || bool_and(indisvalid) FROM pg_partition_tree('by_kind') JOIN pg_index ON indexrelid = relid";
    assert_eq!(db.query_one_text(indexes), "15 true");
    finish(&db);
}

#[test]
fn what_a_level_cannot_take_is_refused() {
    let db = Db::new();
    db.sql(TABLE);
    db.sql("INSERT INTO t VALUES (1, NULL, 'v', 1, 0)");
    let cases: [(&[&str], i32, &str); 6] = [
        (&["--list", "d", "--values", "0", "--sub", "list u values 1"], 3, "has no partition: its u is NULL"),
        (
            &["--hash", "id", "--partitions", "9", "--sub", "hash d partitions 9", "--sub", "hash id partitions 12"],
            2,
            "are more than 1000",
        ),
        (
            &["--list", "d", "--values", "0", "--sub-list", "u", "--sub-values", "1"],
            3,
            "has no partition: its u is NULL",
        ),
        (
            &["--hash", "id", "--partitions", "100", "--sub-hash", "d", "--sub-partitions", "10"],
            2,
            "are more than 1000",
        ),
        (&["--hash", "id", "--partitions", "2", "--sub-hash", "d"], 2, "--sub-hash needs --sub-partitions"),
        (&["--none", "--sub-hash", "d", "--sub-partitions", "2"], 2, "--none excludes --sub,"),
    ];
    for (by, code, words) in cases {
        let refused = command(&db, &[&["partition", "t"], by].concat()).wait();
        refused.ended(code);
        assert!(refused.stderr.contains(words), "no {words:?} in {}", refused.stderr);
    }
}
