//! Tables that inherit, and tables with children.

use super::{OWN, difference_by_rewriting, refused, rewritten};
use crate::harness::migration::finish;
use crate::harness::{Db, pgrecast};
use crate::scenarios::Postponed;
use crate::scenarios::twins::Twins;

/// On 18 a primary key that gets its index afterwards makes an inherited NOT NULL the table's own as well.
pub(super) fn key_of_cc(db: &Db) -> &'static str {
    if db.major() >= 18 { "+     CONSTRAINT c_id_not_null NOT NULL id,\n" } else { "" }
}

/// Two parents, children made in every way, and a child of a child.
pub(super) fn family(major: u32) -> String {
    let named = if major >= 18 {
        "ALTER TABLE c ADD CONSTRAINT \"Never without\" NOT NULL v; ALTER TABLE p ADD CONSTRAINT p_late NOT NULL late;"
    } else {
        "ALTER TABLE c ALTER v SET NOT NULL;"
    };
    format!(
        "CREATE TABLE p (id int PRIMARY KEY, v text DEFAULT 'a', n int NOT NULL DEFAULT 0, g int GENERATED ALWAYS AS (length(v)) STORED,
            CONSTRAINT pos CHECK (id > -1000000));
        CREATE TABLE \"P 2\" (w int PRIMARY KEY DEFAULT 5, stamp timestamptz, n int);
        CREATE TABLE c (extra int NOT NULL DEFAULT 3, PRIMARY KEY (id)) INHERITS (p, \"P 2\");
        ALTER TABLE p ADD late text DEFAULT 'l';
        ALTER TABLE c ADD own text, ADD twice int GENERATED ALWAYS AS (extra * 2) STORED, ADD number bigserial;
        ALTER TABLE \"P 2\" ADD CONSTRAINT \"Both of them\" CHECK (w IS NULL OR w > -5), ADD CONSTRAINT alone CHECK (n IS NULL OR n > -5) NO INHERIT;
        ALTER TABLE c ALTER v SET DEFAULT 'c', ADD CONSTRAINT mine CHECK (extra > 0), ADD CONSTRAINT unchecked CHECK (extra < 1000) NOT VALID;
        {named}
        CREATE TABLE joined (n int NOT NULL DEFAULT 1, v text, id int NOT NULL PRIMARY KEY, late text DEFAULT 'mine',
            g int GENERATED ALWAYS AS (length(v)) STORED, x int, CONSTRAINT pos CHECK (id > -1000000));
        {joined_late}
        ALTER TABLE joined INHERIT p;
        CREATE TABLE merged (id int NOT NULL UNIQUE, late text, z int, CONSTRAINT pos CHECK (id > -1000000)) INHERITS (p);
        CREATE TABLE cc (deep int) INHERITS (c);
        ALTER TABLE cc ADD PRIMARY KEY (id);
        COMMENT ON COLUMN c.v IS 'inherited'; COMMENT ON CONSTRAINT mine ON c IS 'its own'; COMMENT ON TABLE c IS 'child';
        ALTER TABLE c ALTER v SET STATISTICS 77, ALTER late SET STORAGE EXTERNAL; ALTER TABLE c SET (fillfactor = 80);
        INSERT INTO p SELECT n, 'p' FROM generate_series(-20, -1) n;
        INSERT INTO c (id, v, w) SELECT n, 'v' || n, n FROM generate_series(1, 300) n;
        INSERT INTO joined (id, v) SELECT n, 'j' FROM generate_series(1001, 1100) n;
        INSERT INTO merged (id, v, late) SELECT n, 'm', 'x' FROM generate_series(2001, 2100) n;
        INSERT INTO cc (id, v) SELECT n, 'd' FROM generate_series(3001, 3100) n;",
        joined_late = if major >= 18 { "ALTER TABLE joined ALTER late SET NOT NULL;" } else { "" },
    )
}

#[test]
fn children_keep_their_parents_and_what_is_theirs() {
    let db = Db::new();
    db.sql(&family(db.major()));
    let (rows, own) = (db.rows("SELECT tableoid::regclass::text, * FROM p ORDER BY id"), db.rows(OWN));
    rewritten(&db, &["c", "joined", "merged"]);
    assert_eq!(db.rows(OWN), own);
    assert_eq!(difference_by_rewriting(&db, &["cc"]), key_of_cc(&db));
    assert_eq!(db.rows("SELECT tableoid::regclass::text, * FROM p ORDER BY id"), rows);
    // A column that came with the parent goes with it.
    db.sql("ALTER TABLE p DROP COLUMN late");
    let late = "SELECT string_agg(attrelid::regclass::text, ',' ORDER BY 1) FROM pg_attribute WHERE attname = 'late'";
    assert_eq!(db.query_one_text(late), "joined,merged");
    for (table, clauses, words) in [
        ("c", "ALTER id TYPE bigint", "cannot alter inherited column \"id\""),
        ("c", "RENAME v TO x", "cannot rename inherited column \"v\""),
        ("c", "DROP COLUMN w", "cannot drop inherited column \"w\""),
        ("c", "DROP CONSTRAINT pos", "cannot drop inherited constraint \"pos\""),
        ("merged", "ALTER id TYPE bigint", "cannot alter inherited column \"id\""),
    ] {
        refused(&db, table, clauses, &[words]);
    }
}

#[test]
fn a_child_changes_what_is_its_own() {
    let clauses = "ALTER number TYPE numeric, DROP own, ADD COLUMN more text DEFAULT 'm', ALTER v SET DEFAULT 'd', \
                   ADD CONSTRAINT new CHECK (more <> ''), RENAME extra TO additional";
    // No rename between other clauses of ALTER TABLE.
    let others = clauses.trim_end_matches(", RENAME extra TO additional");
    let twins = Twins {
        setup: &(family(Db::new().major()) + "DROP TABLE cc;"),
        table: "c",
        clauses,
        old_way: &[&format!("ALTER TABLE c {others}"), "ALTER TABLE c RENAME extra TO additional"],
        meanwhile: &[
            "UPDATE p SET n = 5 WHERE id BETWEEN 10 AND 20",
            "DELETE FROM p WHERE id = 30",
            "UPDATE c SET id = -500 WHERE id = 31",
        ],
        compare: &["SELECT * FROM c ORDER BY id", "SELECT tableoid::regclass::text, * FROM p ORDER BY id"],
        options: &[],
    };
    let (old, new) = twins.check();
    assert_eq!(new.rows(OWN), old.rows(OWN));
}

#[test]
fn a_parent_keeps_its_children() {
    let db = Db::new();
    db.sql(&family(db.major()));
    db.sql("CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing; CREATE FOREIGN TABLE far () INHERITS (\"P 2\") SERVER nowhere");
    let (rows, own) = (db.rows("SELECT tableoid::regclass::text, * FROM p ORDER BY id"), db.rows(OWN));
    // A child of several parents has the new one last.
    let (first, second) = ("INHERITS (public.p, public.\"P 2\")\n", "INHERITS (public.\"P 2\", public.p)\n");
    assert_eq!(difference_by_rewriting(&db, &["p"]), format!("- {first}+ {second}"));
    assert_eq!(db.rows("SELECT tableoid::regclass::text, * FROM p ORDER BY id"), rows);
    // A table in the middle, and the other parent.
    rewritten(&db, &["c"]);
    assert_eq!(difference_by_rewriting(&db, &["\"P 2\""]), format!("- {second}+ {first}"));
    assert_eq!(db.rows(OWN), own);
    db.sql("ALTER TABLE p ADD fresh int DEFAULT 3; INSERT INTO cc (id, v) VALUES (9000, 'deep')");
    assert_eq!(db.query_one_text("SELECT tableoid::regclass || ' ' || fresh FROM p WHERE id = 9000"), "cc 3");
    for clauses in [
        "ALTER id TYPE bigint",
        "ADD COLUMN x int",
        "DROP COLUMN late",
        "RENAME v TO x",
        "ALTER v SET DEFAULT 'other'",
        "ADD CONSTRAINT more CHECK (id < 1000000)",
        "DROP CONSTRAINT pos",
    ] {
        refused(
            &db,
            "p",
            clauses,
            &["would reach the tables that inherit from public.p", "public.joined, public.merged", "hint: "],
        );
    }
}

#[test]
fn a_parent_changes_what_is_its_own() {
    let clauses = "SET (fillfactor = 70), ADD CONSTRAINT once UNIQUE (v, id), ADD CONSTRAINT here CHECK (id < 1000000) NO INHERIT, DROP CONSTRAINT alone";
    let twins = Twins {
        setup: &(family(Db::new().major())
            + "ALTER TABLE p ADD CONSTRAINT alone CHECK (n > -5) NO INHERIT; DROP TABLE c CASCADE"),
        table: "p",
        clauses,
        old_way: &[&format!("ALTER TABLE p {clauses}")],
        meanwhile: &[
            "UPDATE p SET n = 5 WHERE id < 1050",
            "DELETE FROM p WHERE id IN (-3, 1003)",
            "INSERT INTO p (id) VALUES (-77)",
            "TRUNCATE ONLY p",
            "INSERT INTO p (id) VALUES (-78)",
        ],
        compare: &["SELECT tableoid::regclass::text, * FROM p ORDER BY id", "SELECT * FROM ONLY p"],
        options: &[],
    };
    let (old, new) = twins.check();
    assert_eq!(new.rows(OWN), old.rows(OWN));
}

#[test]
fn what_a_child_cannot_have_again_is_refused_by_name() {
    let db = Db::new();
    db.sql(
        "CREATE TABLE p (id int NOT NULL, v text, w int); CREATE TABLE c (PRIMARY KEY (id)) INHERITS (p); CREATE TABLE q (id int PRIMARY KEY);
         ALTER TABLE p ADD CONSTRAINT maybe CHECK (w > 0) NOT VALID; ALTER TABLE c ALTER id ADD GENERATED ALWAYS AS IDENTITY",
    );
    refused(
        &db,
        "c",
        "",
        &["constraint maybe is inherited and not valid", "column id is inherited, and an identity column", "hint: "],
    );
    db.sql("ALTER TABLE p VALIDATE CONSTRAINT maybe; ALTER TABLE c ALTER id DROP IDENTITY");
    rewritten(&db, &["c"]);
    let session = db.connect();
    session.sql("CREATE TEMPORARY TABLE passing () INHERITS (q)");
    let output = pgrecast(&db, &["alter", "q", ""]);
    output.ended(3);
    assert!(output.stderr.contains("passing is a temporary table"), "{}", output.stderr);
    session.sql("DROP TABLE passing");
    rewritten(&db, &["q"]);
}

#[test]
fn children_that_come_and_go_meanwhile_are_carried() {
    let db = Db::new();
    db.sql("CREATE TABLE p (id int PRIMARY KEY, v text); CREATE TABLE first () INHERITS (p)");
    let run = Postponed::start(&db, "p", "", &[]);
    db.sql("CREATE TABLE second () INHERITS (p); ALTER TABLE first NO INHERIT p; INSERT INTO second VALUES (2)");
    run.release(&db).ended(0);
    finish(&db);
    assert_eq!(
        db.query_one_text(
            "SELECT string_agg(inhrelid::regclass::text, ',') FROM pg_inherits WHERE inhparent = 'p'::regclass"
        ),
        "second"
    );
    assert_eq!(db.query_one_text("SELECT count(*) FROM p"), "1");
}
