//! Tables that are related to others: typed tables, partitions, and both ends of inheritance.

mod inheritance;
mod partitions;
mod traffic;

use super::only_migration;
use super::twins::difference;
use crate::harness::migration::{command, finish, kill_behind_the_swap};
use crate::harness::{Db, assert_nothing_left, dump, pgrecast, server, spawn};

/// Rewrites these tables, and sees that the schema is the same at the end.
fn rewritten(db: &Db, tables: &[&str]) {
    assert_eq!(difference_by_rewriting(db, tables), "");
}

/// Rewrites these tables, and says what is different at the end.
fn difference_by_rewriting(db: &Db, tables: &[&str]) -> String {
    let before = dump(db);
    for table in tables {
        command(db, &["alter", table, ""]).done();
        finish(db);
    }
    let after = dump(db);
    if before == after { String::new() } else { difference(&before, &after) }
}

/// Runs a command that must be refused with these words, and looks that the database is as before.
fn refused(db: &Db, table: &str, clauses: &str, words: &[&str]) {
    let before = dump(db);
    let output = pgrecast(db, &["alter", table, clauses]);
    assert_eq!(output.code, Some(3), "{}{}", output.stdout, output.stderr);
    for word in words {
        assert!(output.stderr.contains(word), "{word:?} is not in\n{}", output.stderr);
    }
    assert!(dump(db) == before, "the schema changed");
    assert_nothing_left(db);
}

#[test]
fn a_typed_table_stays_of_its_type() {
    let db = Db::new();
    db.sql(
        "CREATE SCHEMA \"Kinds\"; CREATE TYPE \"Kinds\".\"A pair\" AS (gone text, a int, b text);
        ALTER TYPE \"Kinds\".\"A pair\" DROP ATTRIBUTE gone;
        CREATE TABLE t OF \"Kinds\".\"A pair\" (PRIMARY KEY (a), b WITH OPTIONS DEFAULT 'x' CHECK (b <> ''));
        INSERT INTO t SELECT n, 'b' || n FROM generate_series(1, 300) n; CREATE INDEX by_b ON t (b);
        COMMENT ON COLUMN t.b IS 'text'",
    );
    rewritten(&db, &["t"]);
    let old = "SELECT count(*) FROM t WHERE b LIKE 'b%'";
    assert_eq!(db.query_one_text(old), "300");
    for (clauses, words) in [
        ("ALTER a TYPE bigint", "cannot alter column type of typed table"),
        ("ADD COLUMN c int", "cannot add column to typed table"),
        ("DROP COLUMN b", "cannot drop column from typed table"),
        ("RENAME b TO c", "cannot rename column of typed table"),
    ] {
        refused(&db, "t", clauses, &[words]);
    }
    command(&db, &["alter", "t", "SET (fillfactor = 60), ALTER b SET DEFAULT 'y'"]).done();
    finish(&db);
    db.sql("INSERT INTO t (a) VALUES (301); ALTER TYPE \"Kinds\".\"A pair\" ADD ATTRIBUTE c int CASCADE");
    assert_eq!(db.query_one_text("SELECT t::text FROM t WHERE a = 301"), "(301,y,)");
}

/// Whose each column and constraint is, as no dump tells it of all of them.
const OWN: &str = "
    SELECT a.attrelid::regclass::text, rank() OVER (PARTITION BY a.attrelid ORDER BY a.attnum) || ' ' || a.attname,
        a.attislocal::text, a.attinhcount::text
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT conrelid::regclass::text, conname, conislocal::text, coninhcount::text
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    ORDER BY 1, 2";

/// The load's table as a partitioned one: rows whose key changes move between its partitions.
const PARTED: &str = "
    CREATE TABLE t (id integer NOT NULL, u integer, v text, n numeric) PARTITION BY RANGE (id);
    CREATE TABLE low PARTITION OF t (PRIMARY KEY (id), UNIQUE (u)) FOR VALUES FROM (MINVALUE) TO (6000);
    CREATE TABLE high PARTITION OF t FOR VALUES FROM (6000) TO (MAXVALUE) PARTITION BY RANGE (id);
    CREATE TABLE high_a PARTITION OF high (PRIMARY KEY (id), UNIQUE (u)) FOR VALUES FROM (6000) TO (9000);
    CREATE TABLE high_b PARTITION OF high (PRIMARY KEY (id), UNIQUE (u)) DEFAULT;";

/// A table of each sort, what is changed in it, and one of it that is looked at.
const SORTS: [(&str, &str); 4] =
    [("of_type", ""), ("low", "SET (fillfactor = 70)"), ("child", "ADD COLUMN x int DEFAULT 1"), ("p", "")];

fn one_of_each(db: &Db) {
    db.sql(PARTED);
    db.sql(
        "CREATE TYPE pair AS (id int, v text); CREATE TABLE of_type OF pair (PRIMARY KEY (id));
        CREATE TABLE p (id int PRIMARY KEY, v text); CREATE TABLE child (PRIMARY KEY (id), own int) INHERITS (p);
        INSERT INTO t SELECT n, n, 'v' FROM generate_series(1, 3000) n; INSERT INTO of_type SELECT n, 'v' FROM generate_series(1, 3000) n;
        INSERT INTO p SELECT n, 'v' FROM generate_series(1, 3000) n; INSERT INTO child SELECT n, 'c' FROM generate_series(3001, 6000) n;",
    );
}

#[test]
fn a_run_that_was_killed_goes_on_and_one_that_is_given_up_leaves_nothing() {
    let db = Db::new();
    one_of_each(&db);
    for (table, clauses) in SORTS {
        let before = dump(&db);
        let rows = || db.query_one_text(&format!("SELECT count(*) FROM {table}"));
        let all = rows();
        let args = ["alter", table, clauses, "--postpone-cutover"];
        let running = command(&db, &args);
        running.wait_for_waiting("pgrecast cutover");
        running.kill();
        let id = only_migration(&db);
        command(&db, &["abort", &id]).wait().ended(0);
        assert_nothing_left(&db);
        assert!(dump(&db) == before, "{table}: {}", difference(&before, &dump(&db)));

        let running = command(&db, &args);
        running.wait_for_waiting("pgrecast cutover");
        running.kill();
        db.sql(&format!("DELETE FROM {table} WHERE id IN (77, 4077)"));
        let left = rows();
        assert_ne!(left, all);
        let running = command(&db, &["resume"]);
        running.wait_for_waiting("pgrecast cutover");
        kill_behind_the_swap(&db, running);
        command(&db, &["resume"]).done();
        finish(&db);
        assert_eq!(rows(), left, "{table}");
        if clauses.is_empty() {
            assert!(dump(&db) == before, "{table}: {}", difference(&before, &dump(&db)));
        }
    }
}

#[test]
fn an_owner_of_all_of_them_and_no_more_goes_all_the_way() {
    let db = Db::new();
    one_of_each(&db);
    db.sql(&format!(
        "CREATE ROLE kin_owner LOGIN PASSWORD 'secret' REPLICATION; GRANT CREATE ON DATABASE {} TO kin_owner; GRANT CREATE ON SCHEMA public TO kin_owner;
         ALTER TABLE low OWNER TO kin_owner; ALTER TABLE child OWNER TO kin_owner; ALTER TABLE p OWNER TO kin_owner; ALTER TABLE of_type OWNER TO kin_owner",
        db.name()
    ));
    let dsn = server().dsn_for("kin_owner", "secret", db.name());
    let run = |table: &str| spawn(&dsn, &["alter", table, ""]).wait();
    for (table, theirs, words) in [
        ("low", "t", "partitioned table public.t belongs to another role"),
        ("child", "p", "parent table public.p belongs to another role"),
        ("p", "child", "child table public.child belongs to another role"),
    ] {
        db.sql(&format!("ALTER TABLE {theirs} OWNER TO postgres"));
        let output = run(table);
        output.ended(3);
        assert!(output.stderr.contains(words), "{}", output.stderr);
        assert_nothing_left(&db);
        db.sql(&format!("ALTER TABLE {theirs} OWNER TO kin_owner"));
    }
    let before = dump(&db);
    for (table, _) in SORTS {
        run(table).ended(0);
        spawn(&dsn, &["finish", &only_migration(&db)]).wait().ended(0);
    }
    assert_nothing_left(&db);
    assert!(dump(&db) == before, "{}", difference(&before, &dump(&db)));
}
