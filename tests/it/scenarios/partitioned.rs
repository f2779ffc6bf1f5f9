//! Partitioned tables as a whole: every leaf is copied, followed and swapped, and every name stays.

use super::twins::Twins;
use super::{Postponed, role};
use crate::harness::load::{Load, Options, Shape};
use crate::harness::migration::{SOON, WIDEN, assert_widened, command, finish, wait_until};
use crate::harness::{Db, Running, assert_nothing_left, dump, pgrecast};

/// Lets the run end and the load go on for a while, then compares and cleans up.
fn assert_migrated(db: &Db, load: Load, running: Running) {
    running.done();
    load.wait_for_more(500, SOON);
    load.stop().assert_kept(db, &Shape::plain().select_all());
    finish(db);
}

/// Rows find their partition at random, and stay there.
const AT_RANDOM: &str = "
    CREATE TABLE t (id int, u int, v text, n numeric, part int NOT NULL DEFAULT (random() * 30)::int,
        PRIMARY KEY (id, part), UNIQUE (u, part)) PARTITION BY RANGE (part);
    CREATE INDEX by_n ON t (n);
    CREATE TABLE t_a PARTITION OF t FOR VALUES FROM (MINVALUE) TO (10);
    CREATE TABLE t_b (part int NOT NULL DEFAULT 11, gone text, n numeric, v text, u int, id int NOT NULL);
    ALTER TABLE t_b DROP gone;
    ALTER TABLE t ATTACH PARTITION t_b FOR VALUES FROM (10) TO (20);
    CREATE TABLE t_c PARTITION OF t DEFAULT PARTITION BY LIST (part);
    CREATE TABLE t_c_20 PARTITION OF t_c FOR VALUES IN (20, 21, 22);
    CREATE TABLE t_c_rest PARTITION OF t_c DEFAULT;";

#[test]
fn every_write_is_in_the_new_partitions() {
    let db = Db::new();
    db.sql(AT_RANDOM);
    let load = Load::start(&db, &Shape::plain(), &Options::paced(71));
    let running = command(&db, &["alter", "t", WIDEN]);
    assert_migrated(&db, load, running);
    assert_widened(&db);
    let filled = "SELECT count(DISTINCT tableoid) FROM t";
    assert_eq!(db.query_one_text(filled), "4");
}

#[test]
fn rolled_back_every_write_is_in_the_old_partitions() {
    let db = Db::new();
    db.sql(AT_RANDOM);
    let before = dump(&db);
    let load = Load::start(&db, &Shape::plain(), &Options::paced(74));
    let running = command(&db, &["alter", "t", WIDEN, "--rollback-window", "10m"]);
    running.wait_for_window();
    load.wait_for_more(300, SOON);
    running.kill();
    let running = command(&db, &["resume"]);
    running.wait_for_window();
    load.wait_for_more(300, SOON);
    let id = db.query_one_text("SELECT id FROM pgrecast.migration");
    assert_eq!(command(&db, &["verify", &id]).wait().done()["verify"]["differences"], 0);
    command(&db, &["rollback", &id]).wait().done();
    assert_migrated(&db, load, running);
    assert_eq!(dump(&db), before);
}

/// A new key moves a row to another partition.
const BY_KEY: &str = "
    CREATE TABLE t (id int PRIMARY KEY, u int, v text, n numeric) PARTITION BY RANGE (id);
    CREATE UNIQUE INDEX by_u ON t (u, id);
    CREATE TABLE t_a PARTITION OF t FOR VALUES FROM (MINVALUE) TO (3000);
    CREATE TABLE t_b PARTITION OF t FOR VALUES FROM (3000) TO (MAXVALUE) PARTITION BY HASH (id);
    CREATE TABLE t_b_0 PARTITION OF t_b FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE t_b_1 PARTITION OF t_b FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE UNIQUE INDEX only_here ON t_a (u);";

#[test]
fn rows_that_move_between_partitions_are_followed() {
    let db = Db::new();
    db.sql(BY_KEY);
    let load = Load::start(&db, &Shape::plain(), &Options::paced(72));
    let running = command(&db, &["alter", "t", "ALTER u TYPE bigint, ADD COLUMN extra uuid DEFAULT gen_random_uuid()"]);
    assert_migrated(&db, load, running);
    assert_eq!(db.query_one_text("SELECT count(*) = count(DISTINCT extra) AND count(*) > 0 FROM t"), "t");
}

#[test]
fn the_schema_is_that_of_the_blocking_change() {
    let setup =
        format!("{AT_RANDOM} INSERT INTO t (id, u, v, n) SELECT i, i, 'v' || i, i FROM generate_series(1, 2000) i;");
    let twins = Twins {
        setup: &setup,
        table: "t",
        clauses: WIDEN,
        old_way: &[&format!("ALTER TABLE t {WIDEN}")],
        meanwhile: &[
            "UPDATE t SET v = 'new' WHERE id < 50",
            "INSERT INTO t (id, u) VALUES (5000, 5000)",
            "DELETE FROM t WHERE id = 60",
        ],
        compare: &["SELECT id, u, v, n, extra FROM t ORDER BY id"],
        options: &[],
    };
    twins.check();
}

/// Everything that a partition can have of its own.
const OF_ITS_OWN: &str = "
    CREATE SCHEMA parts; GRANT USAGE, CREATE ON SCHEMA parts TO app;
    CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY, d date NOT NULL, kind text NOT NULL, a int DEFAULT 3, b text, s serial,
        g int GENERATED ALWAYS AS (a * 2) STORED, CONSTRAINT positive CHECK (a > 0), CONSTRAINT t_key PRIMARY KEY (id, d, kind))
        PARTITION BY RANGE (d);
    CREATE INDEX by_a ON t (a) INCLUDE (b);
    COMMENT ON TABLE t IS 'all'; COMMENT ON INDEX by_a IS 'by a'; COMMENT ON CONSTRAINT t_key ON t IS 'key';
    COMMENT ON CONSTRAINT positive ON t IS 'positive';
    CREATE TABLE parts.t_24 PARTITION OF t (CONSTRAINT small CHECK (a < 1000000)) FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')
        WITH (fillfactor = 70, autovacuum_enabled = false);
    COMMENT ON TABLE parts.t_24 IS 'a year'; COMMENT ON COLUMN parts.t_24.b IS 'its b'; COMMENT ON CONSTRAINT small ON parts.t_24 IS 'small';
    ALTER TABLE parts.t_24 ALTER a SET DEFAULT 4, ALTER b SET STORAGE EXTERNAL, ALTER b SET STATISTICS 77;
    CREATE INDEX \"Only here\" ON parts.t_24 (lower(b)) WHERE a > 1;
    CREATE UNIQUE INDEX ON parts.t_24 (id, b);
    ALTER TABLE parts.t_24 CLUSTER ON t_24_a_b_idx;
    COMMENT ON INDEX parts.t_24_a_b_idx IS 'its share';
    GRANT SELECT ON parts.t_24 TO app; GRANT UPDATE (b) ON parts.t_24 TO PUBLIC; GRANT ALL ON t TO app;
    CREATE TABLE t_25 (kind text NOT NULL, b text, s int NOT NULL, g int GENERATED ALWAYS AS (a * 2) STORED, a int, id int NOT NULL,
        d date NOT NULL, CONSTRAINT positive CHECK (a > 0));
    ALTER TABLE t ATTACH PARTITION t_25 FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
    ALTER TABLE t_25 OWNER TO app;
    CREATE TABLE t_rest PARTITION OF t DEFAULT PARTITION BY LIST (kind);
    COMMENT ON TABLE t_rest IS 'whatever else'; CREATE INDEX of_rest ON t_rest (kind);
    CREATE TABLE t_rest_x PARTITION OF t_rest FOR VALUES IN ('x', 'y');
    CREATE TABLE t_rest_other PARTITION OF t_rest DEFAULT;
    INSERT INTO t (d, kind, a, b) SELECT date '2024-01-01' + n, 'xyz'::char(3), n, 'b' || n FROM generate_series(1, 900) n;
    INSERT INTO t (d, kind, b) SELECT date '2027-01-01' + n, 'x', 'b' || n FROM generate_series(1, 100) n;
    ALTER TABLE t ADD CONSTRAINT unchecked CHECK (a <> 77) NOT VALID;
    ALTER TABLE t_25 ADD CONSTRAINT unchecked_here CHECK (a <> 400) NOT VALID;";

const MORE: &str = "ALTER id TYPE bigint, ADD UNIQUE (s, d, kind), ADD COLUMN extra text DEFAULT 'e'";

#[test]
fn what_a_partition_has_of_its_own_stays() {
    role(&Db::new(), "app");
    let twins = Twins {
        setup: OF_ITS_OWN,
        table: "t",
        clauses: MORE,
        old_way: &[&format!("ALTER TABLE t {MORE}")],
        meanwhile: &[
            "INSERT INTO t (d, kind, b) VALUES ('2024-05-05', 'x', 'new'), ('2030-01-01', 'q', 'new')",
            "INSERT INTO parts.t_24 (id, d, kind, b) OVERRIDING SYSTEM VALUE VALUES (5000, '2024-06-06', 'x', 'here')",
            "UPDATE t SET d = d + 366, kind = 'y' WHERE id BETWEEN 10 AND 20",
            "DELETE FROM t_25 WHERE id > 600",
        ],
        compare: &["SELECT tableoid::regclass, * FROM t ORDER BY id"],
        options: &[],
    };
    let (old, new) = twins.check();
    for db in [&old, &new] {
        db.sql("INSERT INTO t (d, kind, b) VALUES ('2024-07-07', 'x', 'after'), ('2031-01-01', 'x', 'after')");
        assert!(
            db.connect()
                .try_sql("INSERT INTO parts.t_24 (id, d, kind, a) OVERRIDING SYSTEM VALUE VALUES (1, '2024-06-06', 'x', 1000000)")
                .is_err()
        );
        // What the server does with the whole tree, it does with the new one.
        db.sql("ALTER TABLE t ALTER id TYPE int; CREATE TABLE t_23 PARTITION OF t FOR VALUES FROM ('2023-01-01') TO ('2024-01-01')");
    }
    let all = "SELECT id, d, kind, a, b, s, g, extra FROM t ORDER BY id";
    assert_eq!(new.rows(all), old.rows(all));
    assert_eq!(dump(&new), dump(&old));
}

#[test]
fn ties_of_the_whole_go_to_the_new_one() {
    role(&Db::new(), "app");
    let setup = format!(
        "{OF_ITS_OWN}
        CREATE TABLE parent (a int PRIMARY KEY); INSERT INTO parent SELECT generate_series(1, 2000);
        CREATE TABLE child (id int, d date, kind text, CONSTRAINT to_t FOREIGN KEY (id, d, kind) REFERENCES t ON DELETE CASCADE);
        INSERT INTO child SELECT id, d, kind FROM t WHERE id < 9;
        ALTER TABLE t ADD CONSTRAINT to_parent FOREIGN KEY (a) REFERENCES parent ON DELETE SET NULL;
        COMMENT ON CONSTRAINT to_parent ON t IS 'up';
        CREATE TABLE seen (id bigint, how text);
        CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.seen VALUES (NEW.id, TG_NAME); RETURN NULL; END $$;
        CREATE TRIGGER each_row AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION see();
        CREATE TRIGGER off AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION see();
        ALTER TABLE t DISABLE TRIGGER off;
        CREATE VIEW shown AS SELECT a, b FROM t WHERE d < '2026-01-01';
        CREATE STATISTICS both_of ON a, b FROM t;
        CREATE POLICY mine ON t FOR SELECT TO app USING (a > 5);
        ALTER TABLE t ENABLE ROW LEVEL SECURITY;
        CREATE PUBLICATION told FOR TABLE t WITH (publish_via_partition_root = true);"
    );
    let change = "ALTER s TYPE bigint, RENAME b TO bee, ADD COLUMN extra int";
    let twins = Twins {
        setup: &setup,
        table: "t",
        clauses: change,
        old_way: &[
            "ALTER TABLE t ALTER s TYPE bigint, ADD COLUMN extra int",
            "ALTER SEQUENCE t_s_seq AS bigint",
            "ALTER TABLE t RENAME b TO bee",
        ],
        meanwhile: &[
            "INSERT INTO t (d, kind, b) VALUES ('2024-05-05', 'x', 'new'), ('2030-01-01', 'q', 'new')",
            "INSERT INTO child SELECT id, d, kind FROM t WHERE id = 12",
            "DELETE FROM t WHERE id = 3",
            "DELETE FROM parent WHERE a = 30",
        ],
        compare: &[
            "SELECT id, d, kind, a, bee, s, g FROM t ORDER BY id",
            "SELECT * FROM child ORDER BY id",
            "SELECT * FROM seen ORDER BY id",
            "SELECT * FROM shown ORDER BY a, b",
        ],
        options: &[],
    };
    let (old, new) = twins.check();
    for db in [&old, &new] {
        db.sql("INSERT INTO t (d, kind, bee) VALUES ('2024-07-07', 'x', 'after'), ('2031-01-01', 'x', 'after'); DELETE FROM t WHERE id = 5");
        for wrong in [
            "INSERT INTO child VALUES (0, '2024-01-01', 'x')",
            "INSERT INTO t (d, kind, a) VALUES ('2024-01-01', 'x', 999999)",
        ] {
            let error = db.connect().try_sql(wrong).expect_err(wrong);
            assert!(error.to_string().contains("foreign key constraint \"to_"), "{wrong}: {error}");
        }
        let keys =
            "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND conname ~ 'to_parent' AND NOT convalidated";
        assert_eq!(db.query_one_text(keys), "0");
        db.sql("UPDATE t SET a = 55 WHERE id = 40; DELETE FROM parent WHERE a = 55");
        assert_eq!(db.query_one_text("SELECT a IS NULL FROM t WHERE id = 40"), "t");
    }
    for query in ["SELECT count(*) FROM child", "SELECT * FROM seen ORDER BY id", "SELECT * FROM shown ORDER BY a, b"] {
        assert_eq!(new.rows(query), old.rows(query), "{query}");
    }
}

/// Partitions whose replica identity is not the key: it is set for the time, and is what it was afterwards.
#[test]
fn replica_identities_of_partitions_stay_as_they_were() {
    let setup = "
        CREATE TABLE t (id int, d int NOT NULL, a int, PRIMARY KEY (id, d)) PARTITION BY LIST (d);
        CREATE TABLE t_1 PARTITION OF t FOR VALUES IN (1); CREATE TABLE t_2 PARTITION OF t FOR VALUES IN (2);
        CREATE TABLE t_3 PARTITION OF t FOR VALUES IN (3); CREATE TABLE t_4 PARTITION OF t FOR VALUES IN (4);
        ALTER TABLE t_2 REPLICA IDENTITY NOTHING; ALTER TABLE t_3 REPLICA IDENTITY FULL;
        CREATE UNIQUE INDEX of_4 ON t_4 (d, id); ALTER TABLE t_4 REPLICA IDENTITY USING INDEX of_4;
        ALTER TABLE t REPLICA IDENTITY FULL;
        INSERT INTO t SELECT n, n % 4 + 1, n FROM generate_series(1, 400) n;";
    let twins = Twins {
        setup,
        table: "t",
        clauses: "ALTER id TYPE bigint",
        old_way: &["ALTER TABLE t ALTER id TYPE bigint"],
        meanwhile: &[
            "UPDATE t SET a = 0 WHERE id < 50",
            "DELETE FROM t WHERE id > 390",
            "UPDATE t SET d = d % 4 + 1 WHERE id < 20",
        ],
        compare: &["SELECT * FROM t ORDER BY id"],
        options: &[],
    };
    twins.check();
    let db = Db::new();
    db.sql(setup);
    let before = dump(&db);
    let run = Postponed::start(&db, "t", "ALTER id TYPE bigint", &[]);
    assert_ne!(dump(&db), before, "nothing was set");
    db.sql("DELETE FROM t WHERE id < 9");
    drop(run);
    assert_eq!(command(&db, &["abort"]).wait().code, Some(0));
    assert_nothing_left(&db);
    assert_eq!(dump(&db), before);
}

/// A table of some chunks a leaf.
const LARGE: &str = "
    CREATE TABLE t (id int, d int NOT NULL, v text, PRIMARY KEY (id, d)) PARTITION BY LIST (d);
    CREATE TABLE t_1 PARTITION OF t FOR VALUES IN (1); CREATE TABLE t_2 PARTITION OF t FOR VALUES IN (2);
    CREATE TABLE t_3 PARTITION OF t FOR VALUES IN (3);
    INSERT INTO t SELECT n, n % 3 + 1, repeat('x', 1000) FROM generate_series(1, 20000) n;";

/// A run that stays in the copy of the first leaf until the file goes.
fn in_the_copy(db: &Db, hold: &std::path::Path, options: &[&str]) -> Running {
    let file = hold.to_string_lossy().into_owned();
    let args = ["alter", "t", "ALTER id TYPE bigint", "--nice", "25", "--throttle-file", &file];
    let running = command(db, &[&args[..], options].concat());
    running.wait_for_phase("copy");
    wait_until(db, "a chunk", "SELECT count(*) > 0 FROM pgrecast.chunk", "t");
    std::fs::write(hold, "").expect("the throttle file");
    running.wait_for_event("the throttle", SOON, |e| e["event"] == "throttled");
    running
}

#[test]
fn a_truncate_of_one_partition_empties_that_one() {
    let db = Db::new();
    db.sql(LARGE);
    let place = tempfile::tempdir().expect("a directory");
    let hold = place.path().join("throttle");
    let running = in_the_copy(&db, &hold, &["--postpone-cutover"]);
    db.sql("TRUNCATE t_1, t_3; INSERT INTO t SELECT n, n % 3 + 1, 'after' FROM generate_series(30001, 30300) n");
    wait_until(&db, "the end of their copy", "SELECT count(*) FROM pgrecast.leaf WHERE copy_over", "2");
    std::fs::remove_file(&hold).expect("the throttle file");
    running.wait_for_waiting("pgrecast cutover");
    db.sql("TRUNCATE t_2; INSERT INTO t VALUES (40000, 2, 'last')");
    let rows = "SELECT string_agg(t::text, ',' ORDER BY id) FROM t";
    let expected = db.query_one_text(rows);
    command(&db, &["cutover"]).wait().ended(0);
    running.done();
    assert_eq!(db.query_one_text(rows), expected);
    assert_eq!(db.query_one_text("SELECT count(*) FROM t"), "201");
    finish(&db);
}

/// What others do to the partitions: the run stops and says so.
const DDL: &[&str] = &[
    "CREATE TABLE t_9 PARTITION OF t FOR VALUES IN (9)",
    "ALTER TABLE t DETACH PARTITION t_2",
    "DROP TABLE t_3",
    "ALTER TABLE t_1 RENAME TO elsewhere",
    "CREATE INDEX theirs ON t_2 (v)",
    "COMMENT ON TABLE t_3 IS 'theirs'",
    "ALTER TABLE t_2 SET (fillfactor = 50)",
    "CREATE VIEW theirs AS SELECT id FROM t_1",
    "CREATE TRIGGER theirs BEFORE UPDATE ON t_1 FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
];

#[test]
fn what_others_do_to_partitions_stops_the_cut_over() {
    for ddl in DDL {
        let db = Db::new();
        db.sql(LARGE);
        let run = Postponed::start(&db, "t", "ALTER id TYPE bigint", &[]);
        db.sql(ddl);
        db.sql("INSERT INTO t VALUES (50000, 1, 'late')");
        let seen = db.query_one_text("SELECT count(*) FROM t");
        let output = run.release(&db);
        assert_eq!(output.code, Some(1), "{ddl}: {}{}", output.stdout, output.stderr);
        for words in ["public.t", "by somebody else", "pgrecast abort"] {
            assert!(output.stderr.contains(words), "{ddl}: no {words:?} in {}", output.stderr);
        }
        assert_eq!(command(&db, &["abort"]).wait().code, Some(0));
        assert_nothing_left(&db);
        assert_eq!(db.query_one_text("SELECT count(*) FROM t"), seen, "{ddl}");
    }
}

#[test]
fn what_others_do_to_partitions_stops_the_copy() {
    for ddl in ["ALTER TABLE t DETACH PARTITION t_3", "VACUUM FULL t_2", "ALTER TABLE t ADD COLUMN theirs int"] {
        let db = Db::new();
        db.sql(LARGE);
        let place = tempfile::tempdir().expect("a directory");
        let hold = place.path().join("throttle");
        let running = in_the_copy(&db, &hold, &[]);
        db.sql(ddl);
        std::fs::remove_file(&hold).expect("the throttle file");
        let output = running.wait();
        output.ended(1);
        assert!(output.stderr.contains("by somebody else"), "{ddl}: {}", output.stderr);
        assert_eq!(command(&db, &["abort"]).wait().code, Some(0));
        assert_nothing_left(&db);
        assert_eq!(db.query_one_text("SELECT count(*) > 10000 FROM t"), "t", "{ddl}");
    }
}

#[test]
fn a_run_that_is_killed_goes_on_where_it_was() {
    let db = Db::new();
    db.sql(AT_RANDOM);
    db.sql("INSERT INTO t (id, u, v) SELECT -n, -n, repeat('x', 1000) FROM generate_series(1, 20000) n");
    let load = Load::start(&db, &Shape::plain(), &Options::paced(73));
    let place = tempfile::tempdir().expect("a directory");
    let hold = place.path().join("throttle");
    let file = hold.to_string_lossy().into_owned();
    let run = |more: &[&str]| command(&db, &[&["alter", "t", WIDEN, "--throttle-file", &file], more].concat());
    let running = run(&["--nice", "50"]);
    running.wait_for_phase("copy");
    let chunks = || db.query_one_text("SELECT count(*) FROM pgrecast.chunk");
    wait_until(&db, "chunks", "SELECT count(*) > 2 FROM pgrecast.chunk", "t");
    running.kill();
    let before = chunks();
    assert!(before.parse::<u32>().is_ok_and(|n| n > 2), "{before}");
    run(&["--postpone-cutover"]).wait_for_phase("index");
    let running = run(&["--postpone-cutover"]);
    running.wait_for_waiting("pgrecast cutover");
    running.kill();
    let running = run(&[]);
    command(&db, &["cutover"]).wait().ended(0);
    running.done();
    load.wait_for_more(300, SOON);
    load.stop().assert_kept(&db, &format!("{} WHERE id > 0", Shape::plain().select_all()));
    assert_eq!(db.query_one_text("SELECT count(*) FROM t WHERE id < 0"), "20000");
    finish(&db);
}

#[test]
fn a_partition_of_another_kind_or_with_ties_of_its_own_is_refused_by_name() {
    let base = "CREATE TABLE t (id int, d int NOT NULL, a int, PRIMARY KEY (id, d)) PARTITION BY LIST (d); CREATE TABLE t_1 PARTITION OF t FOR VALUES IN (1);";
    let function = "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'";
    for (setup, clauses, words) in [
        ("CREATE UNLOGGED TABLE t_2 PARTITION OF t FOR VALUES IN (2)", "", &["public.t_2 is an unlogged table"][..]),
        ("CREATE SCHEMA s; CREATE TABLE s.t_1 PARTITION OF t FOR VALUES IN (2)", "", &["several schemas", "t_1"]),
        ("CREATE VIEW v AS SELECT id FROM t_1", "", &["view public.v", "partition public.t_1"]),
        ("CREATE MATERIALIZED VIEW m AS SELECT id FROM t_1", "", &["materialized view public.m"]),
        ("CREATE RULE r AS ON INSERT TO t_1 DO ALSO NOTHING", "", &["rule r", "partition public.t_1"]),
        ("CREATE POLICY p ON t_1 USING (a > 1)", "", &["policy p", "partition public.t_1"]),
        ("ALTER TABLE t_1 ENABLE ROW LEVEL SECURITY", "", &["row level security", "partition public.t_1"]),
        ("CREATE STATISTICS s ON a, d FROM t_1", "", &["extended statistics public.s", "partition public.t_1"]),
        ("CREATE PUBLICATION p FOR TABLE t_1", "", &["publication p", "partition public.t_1"]),
        (
            &format!("{function}; CREATE TRIGGER g BEFORE UPDATE ON t_1 FOR EACH ROW EXECUTE FUNCTION f()"),
            "",
            &["trigger g", "partition public.t_1"],
        ),
        (
            &format!(
                "{function}; CREATE TRIGGER g BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f(); ALTER TABLE t_1 DISABLE TRIGGER g"
            ),
            "",
            &["trigger g", "partition public.t_1"],
        ),
        (
            "CREATE TABLE p (a int PRIMARY KEY); ALTER TABLE t_1 ADD CONSTRAINT k FOREIGN KEY (a) REFERENCES p",
            "",
            &["foreign key k", "partition public.t_1"],
        ),
        (
            "CREATE TABLE c (id int, d int, CONSTRAINT k FOREIGN KEY (id, d) REFERENCES t_1)",
            "",
            &["foreign key k", "partition public.t_1"],
        ),
        ("CREATE FUNCTION g(t_1) RETURNS int LANGUAGE sql AS 'SELECT 1'", "", &["function public.g(public.t_1)"]),
        (
            "CREATE TABLE c (id int, d int, CONSTRAINT k FOREIGN KEY (id, d) REFERENCES t) PARTITION BY LIST (d)",
            "",
            &["foreign key k", "partitioned"],
        ),
        (
            "ALTER TABLE t ADD b int, ADD c int, ADD CONSTRAINT k FOREIGN KEY (b, c) REFERENCES t",
            "",
            &["foreign key k", "partitioned"],
        ),
        (
            "CREATE TABLE t_2 PARTITION OF t FOR VALUES IN (2); CREATE INDEX half ON ONLY t (a); CREATE INDEX of_1 ON t_1 (a); ALTER INDEX half ATTACH PARTITION of_1",
            "",
            &["index half", "every partition"],
        ),
        ("CREATE TABLE k (id int, d int NOT NULL, a int) PARTITION BY LIST (d)", "DROP d", &["PostgreSQL refuses"]),
        ("", "ALTER d TYPE bigint", &["PostgreSQL refuses", "part of the partition key"]),
        ("", "ADD COLUMN x serial", &["serial column x"]),
        ("", "DROP CONSTRAINT t_pkey", &["takes the key"]),
        ("", "ADD UNIQUE (a)", &["PostgreSQL refuses", "partition"]),
        ("ALTER TABLE t ADD CONSTRAINT late UNIQUE (a, d) DEFERRABLE", "", &["constraint late", "deferrable"]),
    ] {
        let db = Db::new();
        db.sql(base);
        db.sql(setup);
        let before = dump(&db);
        let output = pgrecast(&db, &["alter", "t", clauses]);
        assert_eq!(output.code, Some(3), "{setup} {clauses}: {}{}", output.stdout, output.stderr);
        for word in words {
            assert!(output.stderr.contains(word), "{setup} {clauses}: no {word:?} in {}", output.stderr);
        }
        assert!(dump(&db) == before, "{setup}");
        assert_nothing_left(&db);
    }
}
