//! The table that comes out is the one that is made partitioned from the start.

use super::super::role;
use super::super::twins::difference;
use super::{command, finish, only_migration};
use crate::harness::{Db, assert_nothing_left, dump};

/// `$key` is over the partition column where it must be; `$by` is nothing, or PARTITION BY.
const TABLE: &str = "
    CREATE TABLE mother (a int PRIMARY KEY); INSERT INTO mother SELECT generate_series(0, 9);
    CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY, at timestamp NOT NULL, kind text COLLATE \"C\" DEFAULT 'k', a int, s serial,
        g int GENERATED ALWAYS AS (a * 2) STORED, CONSTRAINT positive CHECK (a >= 0), CONSTRAINT t_key PRIMARY KEY ($key) INCLUDE (a)) $by;
    CREATE UNIQUE INDEX once ON t (kind, at, id); CREATE INDEX ON t (lower(kind)) WHERE a > 1;
    ALTER TABLE t ALTER kind SET STORAGE EXTERNAL;
    COMMENT ON TABLE t IS 'all'; COMMENT ON COLUMN t.a IS 'an a'; COMMENT ON INDEX once IS 'once';
    COMMENT ON CONSTRAINT t_key ON t IS 'key'; COMMENT ON CONSTRAINT positive ON t IS 'positive';";

const PARTITIONS: &str = "
    CREATE TABLE t_2026_q1 PARTITION OF t FOR VALUES FROM ('2026-01-01') TO ('2026-04-01');
    CREATE TABLE t_2026_q2 PARTITION OF t FOR VALUES FROM ('2026-04-01') TO ('2026-07-01');
    CREATE TABLE t_default PARTITION OF t DEFAULT;";

const ROWS: &str = "
    INSERT INTO t (at, kind, a) SELECT '2026-01-01'::timestamp + i * interval '1 hour', 'k' || i, i % 10 FROM generate_series(1, 4000) i;
    ALTER TABLE t ADD CONSTRAINT unchecked CHECK (a <> 77) NOT VALID;
    ALTER TABLE t ADD CONSTRAINT to_mother FOREIGN KEY (a) REFERENCES mother ON DELETE SET NULL;
    COMMENT ON CONSTRAINT to_mother ON t IS 'up';
    CREATE TABLE seen (id bigint, how text);
    CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.seen VALUES (NEW.id, TG_NAME); RETURN NEW; END $$;
    CREATE TRIGGER each_row BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION see();
    CREATE TRIGGER each_statement AFTER UPDATE ON t FOR EACH STATEMENT EXECUTE FUNCTION see();
    CREATE VIEW shown AS SELECT id, kind FROM t WHERE at < '2026-02-01';
    CREATE MATERIALIZED VIEW counted AS SELECT a, count(*) FROM t GROUP BY a;
    CREATE STATISTICS both_of ON a, kind FROM t;
    CREATE POLICY mine ON t FOR SELECT TO app USING (a > 5);
    ALTER TABLE t ENABLE ROW LEVEL SECURITY;
    GRANT SELECT, UPDATE (a) ON t TO app;
    CREATE FUNCTION of_row(t) RETURNS int LANGUAGE sql AS 'SELECT $1.a';
    CREATE PUBLICATION told FOR TABLE t WITH (publish_via_partition_root = true);";

#[test]
fn the_schema_is_that_of_a_table_made_partitioned() {
    let (old, new) = (Db::new(), Db::new());
    role(&old, "app");
    let made = TABLE.replace("$key", "id, at").replace("$by", "PARTITION BY RANGE (at)");
    old.sql(&format!("{made}{PARTITIONS}{ROWS}"));
    new.sql(&format!("{}{ROWS}", TABLE.replace("$key", "id").replace("$by", "")));
    let by = ["partition", "t", "--range", "at", "--every", "1 quarter", "--premake", "0", "--default-partition"];
    let running = command(&new, &[&by[..], &["--postpone-cutover"]].concat());
    running.wait_for_waiting("pgrecast cutover");
    let meanwhile = "INSERT INTO t (at, a) VALUES ('2026-05-05', 5), ('2028-01-01', 6);
        UPDATE t SET at = at + interval '3 months', a = NULL WHERE id BETWEEN 10 AND 20; DELETE FROM mother WHERE a = 9";
    [&old, &new].iter().for_each(|db| db.sql(meanwhile));
    command(&new, &["cutover"]).wait().ended(0);
    running.done();
    finish(&new);
    let (expected, got) = (dump(&old), dump(&new));
    assert!(expected == got, "the schemas differ:\n{}", difference(&expected, &got));
    for db in [&old, &new] {
        db.sql("INSERT INTO t (at, a) VALUES ('2026-06-06', 7); UPDATE t SET at = '2026-06-06', a = 8 WHERE id = 30; DELETE FROM mother WHERE a = 8");
        for wrong in
            ["INSERT INTO t (at, a) VALUES ('2026-01-01', 99)", "INSERT INTO t (at, a) VALUES ('2026-01-01', -1)"]
        {
            assert!(db.connect().try_sql(wrong).is_err(), "{wrong}");
        }
        // The server does with the whole what it does.
        db.sql("CREATE TABLE t_2030 PARTITION OF t FOR VALUES FROM ('2030-01-01') TO ('2031-01-01'); ALTER TABLE t ALTER s TYPE bigint");
    }
    for query in [
        "SELECT tableoid::regclass, * FROM t ORDER BY id",
        // Rows that came to another partition of the old one were inserted there.
        "SELECT * FROM seen WHERE id > 4000 OR id IS NULL ORDER BY id, how",
        "SELECT * FROM shown ORDER BY id",
        "SELECT sum(of_row(t)) FROM t",
    ] {
        assert_eq!(new.rows(query), old.rows(query), "{query}");
    }
    let keys = "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND conrelid <> 0 AND NOT convalidated";
    assert_eq!(new.query_one_text(keys), "0");
    let (expected, got) = (dump(&old), dump(&new));
    assert!(expected == got, "the schemas differ:\n{}", difference(&expected, &got));
    assert_nothing_left(&new);
}

#[test]
fn the_schema_is_that_of_a_table_made_plain() {
    let (old, new) = (Db::new(), Db::new());
    role(&old, "app");
    let table = TABLE.replace("$key", "id, at");
    old.sql(&format!("{}{ROWS}", table.replace("$by", "")));
    new.sql(&format!("{}{PARTITIONS}{ROWS}", table.replace("$by", "PARTITION BY RANGE (at)")));
    let running = command(&new, &["partition", "t", "--none", "--postpone-cutover"]);
    running.wait_for_waiting("pgrecast cutover");
    let meanwhile = "INSERT INTO t (at, a) VALUES ('2026-05-05', 5), ('2028-01-01', 6); DELETE FROM mother WHERE a = 9";
    [&old, &new].iter().for_each(|db| db.sql(meanwhile));
    command(&new, &["cutover"]).wait().ended(0);
    running.done();
    finish(&new);
    let (expected, got) = (dump(&old), dump(&new));
    assert!(expected == got, "the schemas differ:\n{}", difference(&expected, &got));
    let rows = "SELECT md5(string_agg(t::text, ',' ORDER BY id)) || count(*) FROM t";
    assert_eq!(new.query_one_text(rows), old.query_one_text(rows));
    assert_nothing_left(&new);
}

#[test]
fn made_plain_and_rolled_back_it_is_partitioned_again() {
    let db = Db::new();
    role(&db, "app");
    let table = TABLE.replace("$key", "id, at").replace("$by", "PARTITION BY RANGE (at)");
    db.sql(&format!(
        "{table}{PARTITIONS}{ROWS} COMMENT ON TABLE t_2026_q2 IS 'of its own'; GRANT SELECT ON t_2026_q1 TO app"
    ));
    let before = dump(&db);
    let running = command(&db, &["partition", "t", "--none", "--rollback-window", "10m"]);
    running.wait_for_window();
    db.sql(
        "INSERT INTO t (at, a) VALUES ('2026-05-05', 5), ('2029-08-01', 6); DELETE FROM t WHERE id = 50; DELETE FROM mother WHERE a = 9;
         UPDATE t SET at = at + interval '3 months', kind = 'moved' WHERE id BETWEEN 10 AND 20; UPDATE t SET a = 1 WHERE id = 40",
    );
    let rows = "SELECT md5(string_agg(t::text, ',' ORDER BY id)) || count(*) FROM t";
    let (written, seen) = (db.query_one_text(rows), db.query_one_text("SELECT count(*) FROM seen"));
    command(&db, &["rollback", &only_migration(&db)]).wait().done();
    running.wait().done();
    assert_eq!(db.query_one_text(rows), written);
    assert_eq!(db.query_one_text("SELECT count(*) FROM seen"), seen, "a trigger fired for what went back");
    assert_eq!(db.query_one_text("SELECT count(*) FROM t_2026_q2 WHERE kind = 'moved'"), "11");
    finish(&db);
    let after = dump(&db);
    assert!(before == after, "the schemas differ:\n{}", difference(&before, &after));
    assert_nothing_left(&db);
}

#[test]
fn rolled_back_it_is_what_it_was_with_all_that_hangs_on_it() {
    let db = Db::new();
    role(&db, "app");
    db.sql(&format!("{}{ROWS}", TABLE.replace("$key", "id").replace("$by", "")));
    let before = dump(&db);
    let by = ["partition", "t", "--range", "at", "--every", "1 quarter", "--rollback-window", "10m"];
    let running = command(&db, &by);
    running.wait_for_window();
    db.sql(
        "INSERT INTO t (at, a) VALUES ('2026-05-05', 5), ('2026-08-01', 6); DELETE FROM t WHERE id = 50; DELETE FROM mother WHERE a = 9;
         UPDATE t SET at = at + interval '3 months', kind = 'moved' WHERE id BETWEEN 10 AND 20; UPDATE t SET a = 1 WHERE id = 40",
    );
    let rows = "SELECT md5(string_agg(t::text, ',' ORDER BY id)) || count(*) FROM t";
    let (written, seen) = (db.query_one_text(rows), db.query_one_text("SELECT count(*) FROM seen"));
    command(&db, &["rollback", &only_migration(&db)]).wait().done();
    running.wait().done();
    assert_eq!(db.query_one_text(rows), written);
    assert_eq!(db.query_one_text("SELECT count(*) FROM seen"), seen, "a trigger fired for what went back");
    finish(&db);
    let after = dump(&db);
    assert!(before == after, "the schemas differ:\n{}", difference(&before, &after));
    db.sql("INSERT INTO t (at, a) VALUES ('2026-06-06', 7)");
    assert_eq!(db.query_one_text("SELECT max(id) FROM t"), "4003");
    assert_nothing_left(&db);
}

/// Storage goes to the partitions, and so do the identity and the mark of CLUSTER; the table belongs to another role.
#[test]
fn what_a_partitioned_table_cannot_have_its_partitions_have() {
    let db = Db::new();
    role(&db, "app");
    db.sql(
        "GRANT CREATE ON SCHEMA public TO app;
         CREATE TABLE t (id int, d int NOT NULL, v text, CONSTRAINT k PRIMARY KEY (id, d) WITH (fillfactor = 90))
             WITH (fillfactor = 60, autovacuum_enabled = off, toast.autovacuum_enabled = off);
         CREATE UNIQUE INDEX way ON t (d, id); ALTER TABLE t CLUSTER ON way; ALTER TABLE t REPLICA IDENTITY USING INDEX way;
         ALTER TABLE t OWNER TO app; INSERT INTO t SELECT i, i % 2, 'v' FROM generate_series(1, 100) i",
    );
    let by = ["partition", "t", "--list", "d", "--values", "0;1"];
    command(&db, &by).done();
    finish(&db);
    let tables = "SELECT c.relname, c.relreplident, pg_get_userbyid(c.relowner), c.reloptions, x.reloptions FROM pg_class c \
        LEFT JOIN pg_class x ON x.oid = c.reltoastrelid WHERE c.relname ~ '^t(_[01])?$' ORDER BY 1";
    let mut seen: Vec<String> = Vec::new();
    for row in db.rows(tables) {
        let mut words: Vec<String> = row.into_iter().map(Option::unwrap_or_default).collect();
        let mut options: Vec<&str> = words[3].trim_matches(['{', '}']).split(',').collect();
        options.sort_unstable();
        words[3] = options.join(",");
        seen.push(words.join(" "));
    }
    assert_eq!(
        seen,
        [
            "t i app  ",
            "t_0 i app autovacuum_enabled=off,fillfactor=60 {autovacuum_enabled=off}",
            "t_1 i app autovacuum_enabled=off,fillfactor=60 {autovacuum_enabled=off}",
        ]
    );
    let indexes = "SELECT string_agg(c.relname || ' ' || indisclustered || indisreplident || coalesce(c.reloptions[1], ''), ', ' ORDER BY c.relname) \
        FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE indrelid = 't_0'::regclass";
    assert_eq!(db.query_one_text(indexes), "t_0_d_id_idx truetrue, t_0_pkey falsefalsefillfactor=90");
    db.sql("UPDATE t SET d = 1 WHERE id = 2; DELETE FROM t WHERE id = 3");
}

#[test]
fn what_cannot_hold_is_left_off_on_request() {
    let db = Db::new();
    db.sql(
        "CREATE TABLE t (id int PRIMARY KEY, email text NOT NULL CONSTRAINT mail UNIQUE, d int NOT NULL, CONSTRAINT late UNIQUE (id, d) DEFERRABLE);
         ALTER TABLE t REPLICA IDENTITY USING INDEX mail;
         CREATE TABLE child (t_id int CONSTRAINT to_t REFERENCES t); INSERT INTO t SELECT i, i, i % 2 FROM generate_series(1, 100) i;
         INSERT INTO child VALUES (5)",
    );
    let by = [
        "partition",
        "t",
        "--list",
        "d",
        "--values",
        "0;1",
        "--drop-constraint",
        "mail,late",
        "--drop-constraint",
        "to_t",
    ];
    command(&db, &by).done();
    finish(&db);
    let left = "SELECT string_agg(conname, ',') FROM pg_constraint WHERE conname IN ('mail', 'late', 'to_t')";
    assert_eq!(db.rows(left), [[None]]);
    db.sql("INSERT INTO child VALUES (12345); INSERT INTO t VALUES (1000, '7', 1)");
    // By a hash of what it refers to, a foreign key holds.
    let db = Db::new();
    db.sql(
        "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE child (t_id int CONSTRAINT to_t REFERENCES t ON DELETE CASCADE);
         INSERT INTO t SELECT i, i FROM generate_series(1, 100) i; INSERT INTO child VALUES (5), (6)",
    );
    command(&db, &["partition", "t", "--hash", "id", "--partitions", "2"]).done();
    finish(&db);
    assert!(db.connect().try_sql("INSERT INTO child VALUES (12345)").is_err());
    db.sql("DELETE FROM t WHERE id = 5");
    assert_eq!(db.query_one_text("SELECT count(*) FROM child"), "1");
}
