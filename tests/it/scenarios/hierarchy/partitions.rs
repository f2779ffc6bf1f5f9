//! Partitions, at any depth.

use super::{OWN, PARTED, one_of_each, refused, rewritten};
use crate::harness::load::{Load, Options, Shape};
use crate::harness::migration::{command, finish, wait_until};
use crate::harness::{Db, assert_nothing_left, dump};
use crate::scenarios::twins::Twins;
use crate::scenarios::{Postponed, each, only_migration};

/// Two partitioned tables with partitions of every kind, at two depths, tied to this and that.
fn partitions(major: u32) -> String {
    let identity = if major >= 17 { "GENERATED ALWAYS AS IDENTITY" } else { "DEFAULT 0" };
    format!(
        "CREATE TABLE seen (who text, id bigint);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO public.seen VALUES (TG_NAME || ' of ' || TG_TABLE_NAME, NEW.id); RETURN NEW; END $$;
        CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other VALUES (1);
        CREATE TABLE root (id bigint {identity}, ts timestamptz NOT NULL, v varchar(20) DEFAULT 'd', n int NOT NULL DEFAULT 0,
            twice int GENERATED ALWAYS AS (n * 2) STORED, o int,
            CONSTRAINT \"Root key\" PRIMARY KEY (id, ts), CONSTRAINT pos CHECK (n >= 0)) PARTITION BY RANGE (ts);
        CREATE INDEX root_v ON root (v DESC); CREATE INDEX \"Root lower\" ON root (lower(v)) INCLUDE (n) WHERE n > 0;
        CREATE TRIGGER told AFTER INSERT ON root FOR EACH ROW EXECUTE FUNCTION note();
        CREATE CONSTRAINT TRIGGER later AFTER UPDATE ON root DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note();
        CREATE TABLE early PARTITION OF root FOR VALUES FROM (MINVALUE) TO ('2024-01-01 00:00+00');
        CREATE TABLE mid PARTITION OF root FOR VALUES FROM ('2024-01-01 00:00+00') TO ('2025-01-01 00:00+00') PARTITION BY HASH (id);
        CREATE TABLE mid_0 PARTITION OF mid FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE \"Mid 1\" PARTITION OF mid FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        CREATE TABLE late (o int, twice int GENERATED ALWAYS AS (n * 2) STORED, junk text, n int NOT NULL DEFAULT 7, v varchar(20), ts timestamptz,
            id bigint NOT NULL, CONSTRAINT pos CHECK (n >= 0), CONSTRAINT \"Late's own key\" PRIMARY KEY (ts, id), UNIQUE (id, ts));
        ALTER TABLE late DROP junk, DROP CONSTRAINT \"Late's own key\", DROP CONSTRAINT late_id_ts_key, ADD CONSTRAINT \"Late's key\" PRIMARY KEY (id, ts);
        ALTER TABLE root ATTACH PARTITION late FOR VALUES FROM ('2025-01-01 00:00+00') TO ('2026-01-01 00:00+00');
        CREATE TABLE rest PARTITION OF root DEFAULT;
        CREATE INDEX \"Only here\" ON early (n, v); ALTER TABLE early ADD CONSTRAINT mine CHECK (v <> 'no') NOT VALID, ALTER v SET DEFAULT 'e';
        ALTER TABLE early ADD CONSTRAINT own_key FOREIGN KEY (o) REFERENCES other; CREATE STATISTICS both_of ON n, v FROM early;
        CREATE TABLE refers (id bigint, ts timestamptz, FOREIGN KEY (id, ts) REFERENCES early ON DELETE CASCADE);
        CREATE TRIGGER own BEFORE UPDATE ON early FOR EACH ROW EXECUTE FUNCTION note();
        ALTER TABLE early DISABLE TRIGGER told; ALTER TABLE mid_0 ENABLE ALWAYS TRIGGER told; COMMENT ON TRIGGER told ON mid_0 IS 'a copy';
        ALTER TABLE early ENABLE ROW LEVEL SECURITY; CREATE POLICY old_ones ON early USING (n < 100);
        ALTER TABLE late REPLICA IDENTITY USING INDEX \"Late's key\";
        COMMENT ON INDEX early_v_idx IS 'by v'; COMMENT ON CONSTRAINT early_pkey ON early IS 'key'; COMMENT ON COLUMN late.v IS 'of late';
        ALTER TABLE \"Mid 1\" SET (fillfactor = 70); ALTER TABLE early CLUSTER ON early_v_idx; GRANT SELECT ON early, mid_0 TO PUBLIC;
        CREATE VIEW of_early AS SELECT id, v FROM early; CREATE VIEW of_root AS SELECT id, v, n FROM root;
        CREATE PUBLICATION above FOR TABLE root WITH (publish_via_partition_root = true); CREATE PUBLICATION beside FOR TABLE mid_0;

        CREATE TABLE listed (k varchar(10), v text, n int NOT NULL DEFAULT 0) PARTITION BY LIST (lower(k));
        CREATE TABLE listed_ab PARTITION OF listed (PRIMARY KEY (v)) FOR VALUES IN ('a', 'b', NULL);
        CREATE TABLE listed_z PARTITION OF listed (CONSTRAINT z UNIQUE (v, n), v NOT NULL) FOR VALUES IN ('z');
        CREATE TABLE listed_rest PARTITION OF listed (PRIMARY KEY (v)) DEFAULT;
        CREATE INDEX ON listed (n); ALTER TABLE listed_z REPLICA IDENTITY FULL;

        SET session_replication_role = replica;
        INSERT INTO root (id, ts, v, n, o) OVERRIDING SYSTEM VALUE SELECT i, '2023-01-01 00:00+00'::timestamptz + i * interval '1 day', 'v' || i, i % 50, 1
            FROM generate_series(1, 1400) i;
        RESET session_replication_role; TRUNCATE seen;
        INSERT INTO refers SELECT id, ts FROM early LIMIT 5;
        INSERT INTO listed SELECT chr(96 + i % 27), 'v' || i FROM generate_series(1, 400) i; INSERT INTO listed VALUES (NULL, 'none');"
    )
}

const PARTITIONS: &[&str] = &["early", "mid_0", "\"Mid 1\"", "late", "rest", "listed_ab", "listed_z", "listed_rest"];

const ROOT_ROWS: &str = "SELECT tableoid::regclass::text, * FROM root ORDER BY id, ts";
const LISTED_ROWS: &str = "SELECT tableoid::regclass::text, * FROM listed ORDER BY v";

#[test]
fn partitions_keep_their_places() {
    let db = Db::new();
    db.sql(&partitions(db.major()));
    let rows = [db.rows(ROOT_ROWS), db.rows(LISTED_ROWS)];
    let own = db.rows(OWN);
    rewritten(&db, PARTITIONS);
    assert_eq!([db.rows(ROOT_ROWS), db.rows(LISTED_ROWS)], rows);
    assert_eq!(db.rows(OWN), own);
    assert_eq!(db.query_one_text("SELECT count(*) FROM seen"), "0", "no trigger for us");
    db.sql(
        "INSERT INTO root (id, ts, v) OVERRIDING SYSTEM VALUE VALUES (5000, '2022-01-01', 'x'), (5001, '2024-05-01', 'x'), (5002, '2025-05-01', 'x'),
            (5003, '2030-01-01', 'x'); UPDATE root SET n = 9 WHERE id = 5002; INSERT INTO listed VALUES ('A', 'x1'), ('z', 'x2'), ('q', 'x3');
         UPDATE listed SET k = 'z' WHERE v = 'x1'; DELETE FROM root WHERE id IN (SELECT id FROM refers)",
    );
    let seen = "SELECT string_agg(who || ' ' || id, ',' ORDER BY id, who) FROM seen";
    let mid = db.query_one_text("SELECT tableoid::regclass::text FROM root WHERE id = 5001").replace('"', "");
    let expected = format!("told of {mid} 5001,later of late 5002,told of late 5002,told of rest 5003");
    assert_eq!(db.query_one_text(seen), expected);
    assert_eq!(db.query_one_text("SELECT count(*) FROM refers"), "0");
    assert_eq!(
        db.query_one_text("SELECT string_agg(tableoid::regclass::text, ',' ORDER BY v) FROM listed WHERE v LIKE 'x%'"),
        "listed_z,listed_z,listed_rest"
    );
    for wrong in [
        "INSERT INTO early (id, ts) VALUES (1, '2026-01-01')",
        "INSERT INTO early (id, ts, n) VALUES (-1, '2020-01-01', -1)",
    ] {
        assert!(db.connect().try_sql(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_partition_changes_what_is_its_own() {
    let clauses = "ALTER v SET DEFAULT 'new', ADD CONSTRAINT new CHECK (v <> 'gone'), ADD CONSTRAINT once UNIQUE (v, id), ALTER v SET NOT NULL, \
                   SET (fillfactor = 75), DROP CONSTRAINT mine";
    let twins = Twins {
        setup: &partitions(Db::new().major()),
        table: "early",
        clauses,
        old_way: &[&format!("ALTER TABLE early {clauses}")],
        meanwhile: &[
            "UPDATE root SET v = 'seen' WHERE id BETWEEN 20 AND 60",
            "DELETE FROM root WHERE id = 70",
            "UPDATE root SET ts = '2024-03-01' WHERE id = 71",
            "UPDATE root SET ts = '2020-03-01' WHERE id = 800",
            "INSERT INTO root (id, ts, o) OVERRIDING SYSTEM VALUE VALUES (9000, '2019-01-01', 1)",
        ],
        compare: &[ROOT_ROWS, "SELECT * FROM of_early ORDER BY id", "SELECT * FROM seen ORDER BY id, who"],
        options: &[],
    };
    let (old, new) = twins.check();
    assert_eq!(new.rows(OWN), old.rows(OWN));
}

#[test]
fn a_partition_is_changed_no_further_than_its_parent_allows() {
    let db = Db::new();
    db.sql(&partitions(db.major()));
    for (table, clauses, words) in [
        ("early", "ALTER o TYPE bigint", "cannot alter inherited column \"o\""),
        ("early", "ADD COLUMN x int", "cannot add column to a partition"),
        ("early", "DROP COLUMN o", "cannot drop inherited column \"o\""),
        ("mid_0", "ADD CONSTRAINT twin UNIQUE (id, ts)", "indexes mid_0_pkey and twin of the partition are alike"),
        ("mid_0", "RENAME v TO w", "cannot rename inherited column \"v\""),
        ("mid_0", "DROP CONSTRAINT mid_0_pkey", "cannot drop inherited constraint \"mid_0_pkey\""),
        ("listed_rest", "ALTER n DROP NOT NULL", "column \"n\" is marked NOT NULL in parent table"),
        ("rest", "DROP CONSTRAINT pos", "cannot drop inherited constraint \"pos\""),
    ] {
        refused(&db, table, clauses, &[words]);
    }
}

#[test]
fn what_cannot_be_carried_of_a_partition_is_refused_by_name() {
    let cases = [
        (
            "ALTER TABLE root ADD CONSTRAINT up FOREIGN KEY (o) REFERENCES other",
            "foreign key up of public.mid_0",
            "ATTACH PARTITION would check",
        ),
        (
            "CREATE TABLE down (id bigint, ts timestamptz, CONSTRAINT down FOREIGN KEY (id, ts) REFERENCES root)",
            "foreign key down",
            "DETACH PARTITION would look",
        ),
        ("CREATE INDEX twin ON mid_0 (v)", "indexes mid_0_v_idx and twin", "root_v"),
        (
            "CREATE INDEX bare ON ONLY mid (ts, n)",
            "index bare of public.mid has no valid index",
            "CREATE INDEX CONCURRENTLY",
        ),
        ("ALTER TABLE mid_0 REPLICA IDENTITY NOTHING", "publication above rests on it", "replica identity"),
        (
            "CREATE AGGREGATE made (mid_0) (SFUNC = array_append, STYPE = mid_0[])",
            "function public.made(public.mid_0)",
            "tied",
        ),
    ];
    each(
        cases,
        |case| case.0.to_owned(),
        |(sql, name, more)| {
            let db = Db::new();
            db.sql(&partitions(db.major()));
            db.sql("ALTER PUBLICATION beside DROP TABLE mid_0");
            db.sql(sql);
            // An index of the root is known by the name of its part of the level below.
            let more = if *more == "root_v" { "mid_v_idx" } else { more };
            refused(&db, "mid_0", "", &[name, more, "hint: "]);
        },
    );
}

#[test]
fn a_large_default_partition_beside_it_is_refused() {
    let db = Db::new();
    db.sql(&partitions(db.major()));
    db.sql("INSERT INTO root (id, ts, v) OVERRIDING SYSTEM VALUE SELECT i, '2030-01-01 00:00+00', 'filler' FROM generate_series(10001, 35000) i");
    refused(&db, "early", "", &["the default partition public.rest would be read under the lock", "hint: "]);
    // Another level has its own.
    command(&db, &["alter", "mid_0", ""]).done();
    finish(&db);
    command(&db, &["alter", "rest", ""]).done();
    finish(&db);
}

#[test]
fn partitions_are_rewritten_under_traffic_through_the_root() {
    let db = Db::new();
    db.sql(PARTED);
    let before = dump(&db);
    let shape = Shape::plain();
    // The default partition must stay as small as it may be where another one is rewritten beside it.
    let load = Load::start(&db, &shape, &Options::paced(71));
    for table in ["high_a", "high_b", "low"] {
        command(&db, &["alter", table, ""]).done();
        finish(&db);
    }
    let report = load.stop();
    report.assert_kept(&db, &shape.select_all());
    assert_ne!(db.query_one_text("SELECT count(*) FROM low"), "0");
    assert_ne!(db.query_one_text("SELECT count(*) FROM high_a"), "0");
    assert!(dump(&db) == before);
}

#[test]
fn the_swap_of_a_partition_reads_no_row() {
    let db = Db::new();
    if db.major() < 15 {
        // What a session counted shows late there.
        return;
    }
    one_of_each(&db);
    db.sql("CREATE TABLE hashed (id int PRIMARY KEY) PARTITION BY HASH (id); CREATE TABLE half PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        CREATE TABLE spans (id int PRIMARY KEY, v text DEFAULT 'a') PARTITION BY RANGE (id); CREATE TABLE span PARTITION OF spans DEFAULT;
        CREATE TABLE beside PARTITION OF spans FOR VALUES FROM (1000000) TO (2000000);
        INSERT INTO half SELECT n FROM generate_series(1, 5000) n WHERE satisfies_hash_partition('hashed'::regclass, 2, 1, n);
        INSERT INTO spans SELECT n FROM generate_series(1, 3000) n");
    for table in ["low", "half", "span"] {
        let run = Postponed::start(&db, table, "", &["--no-verify"]);
        let shadow = db.query_one_text("SELECT 'pgrecast.shadow_' || id FROM pgrecast.migration");
        let oid = db.query_one_text(&format!("SELECT '{shadow}'::regclass::oid"));
        let read = || {
            db.query_one_text(&format!(
                "SELECT seq_scan || ' ' || seq_tup_read FROM pg_stat_all_tables WHERE relid = {oid}"
            ))
        };
        let before = read();
        assert_eq!(run.release(&db).code, Some(0), "{table}");
        // The session of the cut-over has told what it did before it was gone.
        wait_until(
            &db,
            "the end of the cut-over",
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgrecast %'",
            "0",
        );
        assert_eq!(read(), before, "{table}");
        finish(&db);
    }
}

#[test]
fn a_default_partition_whose_neighbours_change_meanwhile_ends_the_run() {
    let db = Db::new();
    db.sql(&partitions(db.major()));
    let run = Postponed::start(&db, "rest", "", &[]);
    db.sql("CREATE TABLE next PARTITION OF root FOR VALUES FROM ('2040-01-01') TO ('2041-01-01')");
    let output = run.release(&db);
    output.ended(1);
    assert!(output.stderr.contains("its place among the tables it is related to"), "{}", output.stderr);
    command(&db, &["abort", &only_migration(&db)]).wait().ended(0);
    assert_nothing_left(&db);
    // Those of another partition do no harm.
    let run = Postponed::start(&db, "early", "", &[]);
    db.sql("CREATE TABLE later PARTITION OF root FOR VALUES FROM ('2041-01-01') TO ('2042-01-01')");
    run.release(&db).ended(0);
    finish(&db);
}
