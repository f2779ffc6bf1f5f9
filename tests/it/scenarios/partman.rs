//! A table that becomes partitioned and is handed on to pg_partman: its maintenance goes on where the migration ended.
//!
//! The extension is Debian's, for its server 15. Where that is the server under test and the extension is not there, the
//! test fails; elsewhere there is none.

use super::only_migration;
use crate::harness::migration::{command, finish, wait_until};
use crate::harness::{Db, assert_nothing_left, dump, pgrecast, server, test_bin};

/// A database with the extension in schema `partman`; `None` where this server has none.
fn with_partman() -> Option<Db> {
    let db = Db::new();
    let version = "SELECT coalesce(max(default_version), '') FROM pg_available_extensions WHERE name = 'pg_partman'";
    let version = db.query_one_text(version);
    if version.is_empty() {
        let debians = test_bin().starts_with("/usr/lib/postgresql/15");
        assert!(!debians, "this server has no pg_partman: `scripts/pg 15` installs postgresql-15-partman");
        return None;
    }
    assert!(version.starts_with("4.7"), "pg_partman {version} is here, and 4.7 is the one that is known");
    db.sql("CREATE SCHEMA partman; CREATE EXTENSION pg_partman SCHEMA partman");
    Some(db)
}

/// Partitions of `t` as `name bound`, in the order of the bounds, read by the clock of UTC.
fn partitions(db: &Db) -> Vec<String> {
    let session = db.connect();
    session.sql("SET TimeZone = 'UTC'");
    let all = "SELECT c.relname || ' ' || replace(pg_get_expr(c.relpartbound, c.oid), 'FOR VALUES ', '') \
        FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid WHERE h.inhparent = 't'::regclass \
        ORDER BY pg_get_expr(c.relpartbound, c.oid)";
    session.rows(all).into_iter().flatten().flatten().collect()
}

#[test]
fn maintenance_makes_the_partitions_that_follow() {
    let Some(db) = with_partman() else { return };
    // What there is, what partitions it by, a row for the last partition, and the partitions after maintenance.
    let cases: [(&str, &[&str], &str, &[&str]); 4] = [
        (
            "at timestamptz NOT NULL); INSERT INTO t VALUES (1, '2025-11-30 23:59:59+00'), (2, '2026-01-01 00:00+00')",
            &["--range", "at", "--every", "1 month", "--premake", "1"],
            "'2026-02-10'",
            &[
                "t_p2025_11 FROM ('2025-11-01 00:00:00+00') TO ('2025-12-01 00:00:00+00')",
                "t_p2025_12 FROM ('2025-12-01 00:00:00+00') TO ('2026-01-01 00:00:00+00')",
                "t_p2026_01 FROM ('2026-01-01 00:00:00+00') TO ('2026-02-01 00:00:00+00')",
                "t_p2026_02 FROM ('2026-02-01 00:00:00+00') TO ('2026-03-01 00:00:00+00')",
                "t_p2026_03 FROM ('2026-03-01 00:00:00+00') TO ('2026-04-01 00:00:00+00')",
            ],
        ),
        (
            "d date NOT NULL); INSERT INTO t VALUES (1, '2026-12-31')",
            &["--range", "d", "--every", "week", "--premake", "2", "--default-partition"],
            "'2027-01-05'",
            &[
                "t_default DEFAULT",
                "t_p2026w53 FROM ('2026-12-28') TO ('2027-01-04')",
                "t_p2027w01 FROM ('2027-01-04') TO ('2027-01-11')",
                "t_p2027w02 FROM ('2027-01-11') TO ('2027-01-18')",
                "t_p2027w03 FROM ('2027-01-18') TO ('2027-01-25')",
            ],
        ),
        (
            "at timestamp NOT NULL); INSERT INTO t VALUES (1, '2026-03-31 12:00')",
            &["--range", "at", "--every", "1 quarter", "--premake", "1"],
            "'2026-06-30'",
            &[
                "t_p2026q1 FROM ('2026-01-01 00:00:00') TO ('2026-04-01 00:00:00')",
                "t_p2026q2 FROM ('2026-04-01 00:00:00') TO ('2026-07-01 00:00:00')",
                "t_p2026q3 FROM ('2026-07-01 00:00:00') TO ('2026-10-01 00:00:00')",
            ],
        ),
        (
            "n bigint NOT NULL); INSERT INTO t VALUES (1, 950), (2, 1)",
            &["--range", "n", "--every", "1000", "--premake", "1"],
            "1999",
            &["t_p0 FROM ('0') TO ('1000')", "t_p1000 FROM ('1000') TO ('2000')", "t_p2000 FROM ('2000') TO ('3000')"],
        ),
    ];
    for (table, by, last, expected) in cases {
        db.sql(&format!("CREATE TABLE t (id int PRIMARY KEY, {table}; CREATE INDEX ON t (id)"));
        let run = command(&db, &[&["partition", "t"], by, &["--pg-partman"]].concat()).wait();
        run.done();
        let said = run.events("notice");
        assert!(
            said.iter().any(|e| e["text"].as_str() == Some("public.t is registered with pg_partman 4.7.2")),
            "{said:?}"
        );
        finish(&db);
        let before = partitions(&db);
        // What pg_partman's own users call, over all tables, while one is due.
        db.sql(&format!("INSERT INTO t VALUES (100, {last})"));
        db.sql("SELECT partman.run_maintenance()");
        assert_eq!(partitions(&db), expected, "{by:?}, from {before:?}");
        assert!(before.len() < expected.len() && before.iter().all(|p| expected.contains(&p.as_str())), "{before:?}");
        // The new one has what the others have, and rows come to it.
        let indexes = "SELECT count(DISTINCT n) FROM (SELECT count(i.indexrelid) AS n FROM pg_inherits h \
            LEFT JOIN pg_index i ON i.indrelid = h.inhrelid WHERE h.inhparent = 't'::regclass GROUP BY h.inhrelid) x";
        assert_eq!(db.query_one_text(indexes), "1");
        db.sql("SELECT partman.run_maintenance('public.t')");
        assert_eq!(partitions(&db), expected, "a second time");
        db.sql("DROP TABLE t; DELETE FROM partman.part_config");
    }
}

#[test]
fn swapped_back_the_table_is_not_registered_any_more() {
    let Some(db) = with_partman() else { return };
    db.sql(
        "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL); INSERT INTO t SELECT i, i FROM generate_series(1, 99) i",
    );
    let before = dump(&db);
    let by = ["partition", "t", "--range", "n", "--every", "100", "--premake", "1", "--pg-partman"];
    let registered = "SELECT string_agg(parent_table || ' ' || automatic_maintenance, ',') FROM partman.part_config";
    // Given up: it never was.
    let running = command(&db, &[&by[..], &["--postpone-cutover"]].concat());
    running.wait_for_waiting("pgrecast cutover");
    // A row beyond gets a partition of the same kind of name.
    db.sql("UPDATE t SET n = 550 WHERE id = 5");
    wait_until(&db, "a partition", "SELECT count(*) FROM pg_class WHERE relname = 't_p500'", "1");
    running.kill();
    command(&db, &["abort"]).wait().ended(0);
    assert_eq!(db.query_one_text(registered), "");
    assert_nothing_left(&db);
    db.sql("UPDATE t SET n = 5 WHERE id = 5");
    // In the window its maintenance rests, for another partition would end the way back.
    let window = [&by[..], &["--rollback-window", "10m"]].concat();
    let running = command(&db, &window);
    running.wait_for_window();
    assert_eq!(db.query_one_text(registered), "public.t off");
    db.sql("UPDATE t SET n = 150 WHERE id = 7; SELECT partman.run_maintenance()");
    assert_eq!(partitions(&db).len(), 2);
    command(&db, &["rollback", &only_migration(&db)]).wait().done();
    running.wait().done();
    finish(&db);
    assert_eq!(db.query_one_text(registered), "");
    assert_eq!(dump(&db), before);
    // Once the window is over it comes to the table.
    let running = command(&db, &window);
    running.wait_for_window();
    command(&db, &["finish", &only_migration(&db)]).wait().ended(0);
    running.wait();
    assert_eq!(db.query_one_text(registered), "public.t on");
    db.sql("SELECT partman.run_maintenance()");
    assert_eq!(partitions(&db).len(), 3);
    // It would go by the old partitions of a table that gets others.
    let refused = command(&db, &["partition", "t", "--range", "n", "--every", "50"]).wait();
    refused.ended(3);
    for words in
        ["pg_partman maintains table public.t", "DELETE FROM partman.part_config WHERE parent_table = 'public.t'"]
    {
        assert!(refused.stderr.contains(words), "no {words:?} in {}", refused.stderr);
    }
    // The extension may be gone when the table is swapped back.
    db.sql("DELETE FROM partman.part_config");
    let running =
        command(&db, &["partition", "t", "--range", "n", "--every", "50", "--pg-partman", "--rollback-window", "10m"]);
    running.wait_for_window();
    db.sql("DROP EXTENSION pg_partman");
    command(&db, &["rollback", &only_migration(&db)]).wait().done();
    running.wait().done();
    finish(&db);
}

#[test]
fn what_it_cannot_maintain_is_refused() {
    let db = Db::new();
    let rows = "INSERT INTO t SELECT i, 0, now(), 'k' FROM generate_series(1, 9) i";
    let table = "(id int PRIMARY KEY, n int NOT NULL, at timestamptz NOT NULL, kind text NOT NULL)";
    db.sql(&format!("CREATE TABLE t {table}; {rows}; CREATE TABLE \"t.s\" {table}"));
    let before = dump(&db);
    let refused = |db: &Db, args: &[&str], words: &str| {
        let output = pgrecast(db, &[&["partition"], args, &["--pg-partman"]].concat());
        assert_eq!(output.code, Some(3), "{args:?}: {}{}", output.stdout, output.stderr);
        assert!(output.stderr.contains(words), "no {words:?} in {}", output.stderr);
    };
    for (args, words) in [
        (&["t", "--list", "kind", "--values", "k"][..], "it makes ranges of one length only"),
        (&["t", "--hash", "id", "--partitions", "2"], "it makes ranges of one length only"),
        (&["t", "--range", "n", "--bounds", "0,10"], "it makes ranges of one length only"),
        (&["t", "--range", "n", "--every", "10", "--premake", "0"], "one partition ahead at the least"),
        (
            &["t", "--range", "n", "--every", "10", "--sub-hash", "id", "--sub-partitions", "2"],
            "would not be partitioned again",
        ),
        (&["\"t.s\"", "--range", "n", "--every", "10"], "it does not read the name \"t.s\""),
        (&["t", "--range", "n", "--every", "10"], "it is not installed in this database"),
    ] {
        refused(&db, args, words);
    }
    assert_eq!(dump(&db), before);
    assert_nothing_left(&db);
    let Some(db) = with_partman() else { return };
    db.sql(&format!("CREATE TABLE t {table}; {rows}"));
    let numbers = &["t", "--range", "n", "--every", "10"][..];
    db.sql("CREATE VIEW t_p10 AS SELECT 1");
    refused(&db, numbers, "the name t_p10 of a partition is taken");
    db.sql("DROP VIEW t_p10; UPDATE t SET n = -5 WHERE id = 3");
    refused(&db, numbers, "it counts its ranges of numbers from zero");
    refused(
        &db,
        &["t", "--range", "at", "--every", "1 month", "--zone", "Asia/Tokyo"],
        "it makes bounds by the clock of its session",
    );
    let long = "l".repeat(60);
    db.sql(&format!("UPDATE t SET n = 5; CREATE TABLE {long} {table}"));
    refused(&db, &[&long, "--range", "n", "--every", "10"], "of a partition is too long");
    // A role that may do all but this.
    db.sql("CREATE ROLE partman_keeper LOGIN REPLICATION PASSWORD 'k'; ALTER TABLE t OWNER TO partman_keeper");
    db.sql(&format!(
        "GRANT CREATE ON DATABASE {} TO partman_keeper; GRANT CREATE ON SCHEMA public TO partman_keeper",
        db.name()
    ));
    let keeper = server().dsn_for("partman_keeper", "k", db.name());
    let as_keeper = |words: &[&str]| {
        let output = crate::harness::spawn(&keeper, &[&["partition"], numbers, &["--pg-partman"]].concat()).wait();
        for words in words {
            assert!(output.stderr.contains(words), "no {words:?} in {}{}", output.stdout, output.stderr);
        }
        output.code
    };
    let grants = "GRANT USAGE ON SCHEMA partman TO partman_keeper; GRANT SELECT, INSERT, UPDATE, DELETE ON partman.part_config TO partman_keeper";
    assert_eq!(as_keeper(&["role partman_keeper may not register public.t with it", grants]), Some(3));
    db.sql(grants);
    assert_eq!(as_keeper(&[]), Some(0));
    assert_eq!(db.query_one_text("SELECT parent_table FROM partman.part_config"), "public.t");
    finish(&db);
    // Its names may be others.
    db.sql(
        "DELETE FROM partman.part_config; UPDATE pg_extension SET extversion = '5.1.0' WHERE extname = 'pg_partman'",
    );
    refused(&db, numbers, "its version 5.1.0 is not one that is known here");
}
