//! What is tied to the table by its oid is tied to the new one afterwards.

use std::sync::atomic::{AtomicU32, Ordering};

use super::role;
use super::twins::Twins;
use crate::harness::migration::{command, finish, kill_behind_the_swap};
use crate::harness::{Db, beside, pgrecast};

/// A table with a key that becomes wider, and rows.
const TABLE: &str = "
    CREATE TABLE parent (id int PRIMARY KEY, code text UNIQUE);
    INSERT INTO parent SELECT n, 'code ' || n FROM generate_series(1, 20) n;
    CREATE TABLE t (id int PRIMARY KEY, a int, b text, p int, boss int, q int, UNIQUE (a, b));
    INSERT INTO t SELECT n, n % 10, 'b' || n, n % 20 + 1, CASE WHEN n BETWEEN 2 AND 9 THEN n / 2 END, n % 20 + 1 FROM generate_series(1, 500) n;";

const WIDER: &str = "ALTER id TYPE bigint, DROP p2, ADD COLUMN more text DEFAULT 'm'";

/// What both take, with a column that goes.
fn twins<'a>(setup: &'a str, old_way: &'a [&'a str], meanwhile: &'a [&'a str], compare: &'a [&'a str]) -> Twins<'a> {
    Twins { setup, table: "t", clauses: WIDER, old_way, meanwhile, compare, options: &[] }
}

const OLD_WAY: &[&str] = &["ALTER TABLE t ALTER id TYPE bigint, DROP p2, ADD COLUMN more text DEFAULT 'm'"];
const ROWS: &[&str] = &["SELECT * FROM t ORDER BY id"];

#[test]
fn foreign_keys_of_every_kind() {
    let db = Db::new();
    let since_15 = if db.major() >= 15 {
        "ALTER TABLE t ADD CONSTRAINT only_q FOREIGN KEY (q) REFERENCES parent ON DELETE SET NULL (q);"
    } else {
        ""
    };
    let setup = format!(
        "{TABLE}
        ALTER TABLE t ADD p2 int;
        ALTER TABLE t ADD CONSTRAINT to_parent FOREIGN KEY (p) REFERENCES parent ON UPDATE CASCADE ON DELETE CASCADE,
            ADD CONSTRAINT to_itself FOREIGN KEY (boss) REFERENCES t DEFERRABLE INITIALLY DEFERRED,
            ADD CONSTRAINT unchecked FOREIGN KEY (a) REFERENCES parent NOT VALID,
            ADD CONSTRAINT \"Goes with it\" FOREIGN KEY (p2) REFERENCES parent;
        {since_15}
        COMMENT ON CONSTRAINT to_parent ON t IS 'up';
        CREATE SCHEMA elsewhere;
        CREATE TABLE elsewhere.child (id int PRIMARY KEY, t_id int REFERENCES public.t ON DELETE SET NULL, a int, b text,
            CONSTRAINT whole FOREIGN KEY (a, b) REFERENCES public.t (a, b) MATCH FULL DEFERRABLE);
        COMMENT ON CONSTRAINT whole ON elsewhere.child IS 'both';
        INSERT INTO elsewhere.child SELECT n, n, CASE WHEN n < 5 THEN n END, CASE WHEN n < 5 THEN 'b' || n END FROM generate_series(1, 10) n;
        CREATE TABLE wide_child (t_id bigint REFERENCES t ON DELETE CASCADE);
        INSERT INTO wide_child VALUES (7), (NULL);"
    );
    let twins = twins(
        &setup,
        OLD_WAY,
        &[
            "INSERT INTO elsewhere.child VALUES (1000, 8, 8, 'b8')",
            "DELETE FROM parent WHERE id = 20",
            "DELETE FROM t WHERE id = 499",
        ],
        &[
            "SELECT * FROM t ORDER BY id",
            "SELECT * FROM elsewhere.child ORDER BY id",
            "SELECT * FROM wide_child ORDER BY 1",
        ],
    );
    let (_, new) = twins.check();
    for (wrong, constraint) in [
        ("INSERT INTO elsewhere.child VALUES (2000, 999999)", "child_t_id_fkey"),
        ("INSERT INTO elsewhere.child VALUES (2000, NULL, 1, NULL)", "whole"),
        ("INSERT INTO t (id, p) VALUES (2000, 999)", "to_parent"),
        ("INSERT INTO t (id, boss) VALUES (2000, 999999)", "to_itself"),
        ("INSERT INTO wide_child VALUES (5000000000)", "wide_child_t_id_fkey"),
    ] {
        let error = new.connect().try_sql(wrong).expect_err(wrong);
        assert!(error.to_string().contains(constraint), "{wrong}: {error}");
    }
    new.sql("DELETE FROM t WHERE id = 7; DELETE FROM parent WHERE id = 15");
    assert_eq!(new.query_one_text("SELECT count(*) FROM wide_child WHERE t_id = 7"), "0");
    assert_eq!(new.query_one_text("SELECT count(*) FROM elsewhere.child WHERE id = 7 AND t_id IS NULL"), "1");
    assert_eq!(new.query_one_text("SELECT count(*) FROM t WHERE p = 15"), "0");
}

#[test]
fn a_run_that_dies_before_it_validates_is_completed_by_the_next() {
    let db = Db::new();
    db.sql(TABLE);
    db.sql("CREATE TABLE child (t_id int REFERENCES t); INSERT INTO child SELECT id FROM t");
    let running = command(&db, &["alter", "t", "ALTER id TYPE bigint", "--postpone-cutover"]);
    running.wait_for_waiting("pgrecast cutover");
    kill_behind_the_swap(&db, running);
    let validated = "SELECT convalidated FROM pg_constraint WHERE conname = 'child_t_id_fkey'";
    assert_eq!(db.query_one_text(validated), "f");
    assert!(db.connect().try_sql("INSERT INTO child VALUES (-1)").is_err(), "new rows are checked at once");
    command(&db, &["resume"]).done();
    assert_eq!(db.query_one_text(validated), "t");
    finish(&db);
}

#[test]
fn an_application_that_locks_the_other_way_round_is_learned_from() {
    let db = Db::new();
    db.sql(TABLE);
    db.sql("CREATE TABLE child (t_id int REFERENCES t, n int)");
    let done = AtomicU32::new(0);
    let application = |worker, goes_on: &dyn Fn() -> bool| {
        let session = db.connect();
        while goes_on() {
            session.sql(&format!(
                "BEGIN; UPDATE t SET a = a + 1 WHERE id = {worker}; SELECT pg_sleep(0.02); \
                 INSERT INTO child VALUES ({worker}, 1); COMMIT"
            ));
            done.fetch_add(1, Ordering::Relaxed);
        }
    };
    let report = beside(4, application, || command(&db, &["alter", "t", "ALTER id TYPE bigint"]).done());
    let attempts = report["cutover"]["attempts"].as_u64().expect("attempts");
    // The referring table first, there is always a transaction that has the source and asks for it: no attempt would do.
    assert!(attempts < 30, "{report}");
    let made = done.load(Ordering::Relaxed);
    assert_eq!(db.query_one_text("SELECT count(*) FROM child"), made.to_string());
    assert_eq!(db.query_one_text("SELECT sum(a) FROM t WHERE id <= 4"), (made + 10).to_string());
    finish(&db);
}

#[test]
fn triggers_fire_as_before_and_never_for_us() {
    let setup = format!(
        "{TABLE}
        ALTER TABLE t ADD p2 int;
        CREATE TABLE seen (who text, id bigint);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO public.seen VALUES (TG_NAME, CASE WHEN TG_LEVEL = 'ROW' THEN coalesce(NEW.id, OLD.id) END); RETURN NEW; END $$;
        CREATE FUNCTION bump() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.b := NEW.b || '+'; RETURN NEW; END $$;
        CREATE TRIGGER before_a BEFORE UPDATE OF a ON t FOR EACH ROW WHEN (NEW.a > 5) EXECUTE FUNCTION bump();
        CREATE TRIGGER after_all AFTER INSERT OR UPDATE OR DELETE ON t REFERENCING OLD TABLE AS o NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION note();
        CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note();
        CREATE TRIGGER off AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note();
        CREATE TRIGGER always AFTER DELETE ON t FOR EACH ROW EXECUTE FUNCTION note();
        CREATE TRIGGER only_replica AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note();
        CREATE TRIGGER \"On truncate\" AFTER TRUNCATE ON t EXECUTE FUNCTION note();
        ALTER TABLE t DISABLE TRIGGER off; ALTER TABLE t ENABLE ALWAYS TRIGGER always; ALTER TABLE t ENABLE REPLICA TRIGGER only_replica;
        COMMENT ON TRIGGER late ON t IS 'late';"
    );
    // A trigger with a transition table is for one event.
    let setup = setup.replace(
        "AFTER INSERT OR UPDATE OR DELETE ON t REFERENCING OLD TABLE AS o NEW TABLE AS n",
        "AFTER UPDATE ON t REFERENCING OLD TABLE AS o NEW TABLE AS n",
    );
    let meanwhile = &[
        "UPDATE t SET a = a + 1 WHERE id < 50",
        "INSERT INTO t (id, a, b) VALUES (2000, 1, 'x')",
        "DELETE FROM t WHERE id = 3",
    ];
    let seen = "SELECT who, id, count(*) FROM seen GROUP BY 1, 2 ORDER BY 1, 2";
    let (old, new) = twins(&setup, OLD_WAY, meanwhile, &["SELECT * FROM t ORDER BY id", seen]).check();
    for db in [&old, &new] {
        db.sql("UPDATE t SET a = 9 WHERE id = 60; INSERT INTO t (id, a, b) VALUES (3000, 1, 'y'); DELETE FROM t WHERE id = 61");
        db.sql("TRUNCATE t");
    }
    assert_eq!(new.rows(seen), old.rows(seen));
    assert!(new.rows(seen).len() > 5, "{:?}", new.rows(seen));
}

#[test]
fn rules_policies_and_row_security() {
    let setup = format!(
        "{TABLE}
        ALTER TABLE t ADD p2 int;
        CREATE TABLE lost (id bigint, b text);
        CREATE RULE keep AS ON DELETE TO t WHERE old.a = 5 DO ALSO INSERT INTO lost VALUES (old.id, old.b);
        CREATE RULE off AS ON UPDATE TO t WHERE new.a = 77 DO INSTEAD NOTHING;
        ALTER TABLE t DISABLE RULE off;
        COMMENT ON RULE keep ON t IS 'kept';
        CREATE POLICY mine ON t FOR SELECT TO app USING (a IN (SELECT p.id FROM parent p WHERE p.id < 4));
        CREATE POLICY wide ON t AS RESTRICTIVE FOR ALL TO PUBLIC USING (id > 0) WITH CHECK (b IS NOT NULL AND id < 1000000);
        COMMENT ON POLICY mine ON t IS 'theirs';
        ALTER TABLE t ENABLE ROW LEVEL SECURITY; ALTER TABLE t FORCE ROW LEVEL SECURITY;
        GRANT SELECT ON t, parent TO app;"
    );
    role(&Db::new(), "app");
    let compare = &["SELECT * FROM t ORDER BY id", "SELECT * FROM lost ORDER BY id"];
    // No column of them may change its type: so they go, and come again.
    let again = |words: &str| setup.lines().filter(|l| words.split('|').any(|w| l.contains(w))).collect::<String>();
    let again = again("CREATE RULE keep|ON RULE keep|CREATE POLICY wide");
    let old_way = ["DROP RULE keep ON t", "DROP POLICY wide ON t", OLD_WAY[0], &again];
    let (old, new) = twins(&setup, &old_way, &["DELETE FROM t WHERE id = 5"], compare).check();
    for db in [&old, &new] {
        db.sql("DELETE FROM t WHERE id IN (15, 16)");
        assert_eq!(db.query_one_text("SELECT count(*) FROM lost"), "2");
        let session = db.connect();
        session.sql("SET ROLE app");
        let seen = session.query_one_text("SELECT count(*) FROM t");
        assert_eq!(seen, db.query_one_text("SELECT count(*) FROM t WHERE a IN (1, 2, 3)"));
        assert_ne!(seen, "0");
    }
}

#[test]
fn extended_statistics_are_there_and_filled() {
    let setup = format!(
        "{TABLE}
        ALTER TABLE t ADD p2 int;
        CREATE SCHEMA aside;
        CREATE STATISTICS both_of (ndistinct, dependencies) ON a, p FROM t;
        CREATE STATISTICS aside.mixed ON a, (b || 'x'), p FROM t;
        CREATE STATISTICS single ON (a + p) FROM t;
        CREATE STATISTICS gone ON a, p2 FROM t;
        ALTER STATISTICS both_of SET STATISTICS 77;
        COMMENT ON STATISTICS both_of IS 'two';"
    );
    let (_, new) = twins(&setup, OLD_WAY, &[], ROWS).check();
    let filled = "SELECT string_agg(statistics_name, ',' ORDER BY statistics_name) FROM pg_stats_ext WHERE tablename = 't' AND n_distinct IS NOT NULL";
    assert_eq!(new.query_one_text(filled), "both_of,mixed");
}

#[test]
fn publications_have_the_new_table() {
    let db = Db::new();
    let fine = match db.major() {
        14 => "CREATE PUBLICATION fine FOR TABLE t",
        _ => "CREATE PUBLICATION fine FOR TABLE t (id, a) WHERE (a > 3) WITH (publish = 'insert')",
    };
    let setup = format!(
        "{TABLE} ALTER TABLE t ADD p2 int;
        CREATE PUBLICATION plain FOR TABLE t, parent; {fine};"
    );
    let again = fine
        .replace("CREATE PUBLICATION fine FOR", "ALTER PUBLICATION fine ADD")
        .replace(" WITH (publish = 'insert')", "");
    let old_way = ["ALTER PUBLICATION fine DROP TABLE t", OLD_WAY[0], &again];
    twins(&setup, &old_way, &["UPDATE t SET b = 'c' WHERE id = 4"], ROWS).check();
}

/// Views on the table and on views, with all that can hang on one.
const VIEWS: &str = "
    CREATE SCHEMA aside;
    CREATE VIEW plain AS SELECT a, b FROM t WHERE a > 2;
    CREATE VIEW keyed WITH (security_barrier = true) AS SELECT id, a AS \"An A\", b FROM t WHERE id > 3;
    CREATE VIEW aside.far AS SELECT keyed.id, keyed.\"An A\", p.code FROM keyed JOIN parent p ON p.id = keyed.\"An A\";
    CREATE VIEW checked AS SELECT id, a FROM t WHERE a < 8 WITH LOCAL CHECK OPTION;
    CREATE VIEW writable AS SELECT id, b FROM t;
    ALTER VIEW checked ALTER COLUMN a SET DEFAULT 4;
    CREATE RULE ins AS ON INSERT TO writable DO INSTEAD INSERT INTO t (id, b) VALUES (new.id, new.b || '!');
    CREATE FUNCTION instead() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE public.t SET b = NEW.b WHERE id = OLD.id; RETURN NEW; END $$;
    CREATE TRIGGER write_far INSTEAD OF UPDATE ON keyed FOR EACH ROW EXECUTE FUNCTION instead();
    COMMENT ON VIEW keyed IS 'by key'; COMMENT ON COLUMN keyed.b IS 'a b'; COMMENT ON TRIGGER write_far ON keyed IS 'writes';
    COMMENT ON VIEW aside.far IS 'far';
    GRANT SELECT ON keyed TO app WITH GRANT OPTION; GRANT SELECT (id, code) ON aside.far TO PUBLIC; GRANT UPDATE (b) ON keyed TO app;
    REVOKE DELETE ON aside.far FROM CURRENT_USER;
    ALTER VIEW checked OWNER TO app; GRANT SELECT, INSERT ON t TO app;
    ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO other;";

const VIEW_ROWS: &[&str] = &[
    "SELECT * FROM t ORDER BY id",
    "SELECT * FROM plain ORDER BY a, b",
    "SELECT * FROM keyed ORDER BY id",
    "SELECT * FROM aside.far ORDER BY id",
    "SELECT * FROM checked ORDER BY id",
];

#[test]
fn views_stay_in_place() {
    let db = Db::new();
    role(&db, "app");
    role(&db, "other");
    let setup = format!("{TABLE} {VIEWS} CREATE MATERIALIZED VIEW stored AS SELECT * FROM aside.far;");
    let twins = Twins {
        setup: &setup,
        table: "t",
        clauses: "ALTER p TYPE bigint",
        old_way: &["ALTER TABLE t ALTER p TYPE bigint"],
        meanwhile: &["UPDATE keyed SET b = 'seen' WHERE id = 9", "INSERT INTO writable VALUES (2000, 'w')"],
        compare: VIEW_ROWS,
        options: &[],
    };
    let (old, new) = twins.check();
    for db in [&old, &new] {
        db.sql("UPDATE keyed SET b = 'after' WHERE id = 10; INSERT INTO writable VALUES (3000, 'w'); REFRESH MATERIALIZED VIEW stored");
        assert!(db.connect().try_sql("INSERT INTO checked VALUES (4000, 9)").is_err());
        db.sql("INSERT INTO checked (id) VALUES (4001)");
    }
    for query in VIEW_ROWS {
        assert_eq!(new.rows(query), old.rows(query));
    }
    assert_eq!(new.query_one_text("SELECT b FROM t WHERE id = 3000"), "w!");
}

#[test]
fn views_are_made_again_for_a_new_type() {
    let db = Db::new();
    role(&db, "app");
    role(&db, "other");
    let setup = format!("{TABLE} {VIEWS}");
    let change = "ALTER TABLE t ALTER id TYPE bigint";
    // As somebody does it by hand, with the default privileges out of the way for the time.
    let again: Vec<&str> = VIEWS
        .split_inclusive(";\n")
        .filter(|s| {
            !["CREATE SCHEMA", "CREATE FUNCTION", "CREATE VIEW plain", "DEFAULT PRIVILEGES"]
                .iter()
                .any(|w| s.contains(w))
        })
        .collect();
    let again = again.concat();
    let mut old_way = vec![
        "ALTER DEFAULT PRIVILEGES REVOKE SELECT ON TABLES FROM other",
        "DROP VIEW aside.far, keyed, checked, writable",
        change,
        &again,
    ];
    old_way.push("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO other");
    // What the default privileges gave the first ones, the second ones have as well.
    old_way.push("GRANT SELECT ON keyed, aside.far, writable TO other");
    let setup_first = setup.replace("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO other;", "GRANT SELECT ON keyed, aside.far, writable TO other; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO other;");
    let twins = Twins {
        setup: &setup_first,
        table: "t",
        clauses: "ALTER id TYPE bigint",
        old_way: &old_way,
        meanwhile: &["UPDATE keyed SET b = 'seen' WHERE id = 9"],
        compare: VIEW_ROWS,
        options: &[],
    };
    let (_, new) = twins.check();
    new.sql("UPDATE keyed SET b = 'after' WHERE id = 10; INSERT INTO writable VALUES (5000000000, 'w')");
    assert_eq!(new.query_one_text("SELECT b FROM keyed WHERE id = 5000000000"), "w!");
    assert_eq!(new.query_one_text("SELECT pg_typeof(id) FROM aside.far LIMIT 1"), "bigint");
}

#[test]
fn renamed_columns_are_renamed_in_what_uses_them() {
    let db = Db::new();
    let publication = match db.major() {
        14 => "CREATE PUBLICATION told FOR TABLE t",
        _ => "CREATE PUBLICATION told FOR TABLE t (id, b) WHERE (a > 3) WITH (publish = 'insert')",
    };
    let setup = format!(
        "{TABLE}
        CREATE FUNCTION bump() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
        CREATE TRIGGER of_b BEFORE UPDATE OF b ON t FOR EACH ROW WHEN (NEW.b <> OLD.b) EXECUTE FUNCTION bump();
        CREATE RULE keep AS ON DELETE TO t WHERE old.a = 5 DO INSTEAD NOTHING;
        CREATE POLICY mine ON t USING (b LIKE 'b%');
        CREATE STATISTICS both_of ON a, b FROM t;
        CREATE TABLE child (a int, b text, FOREIGN KEY (a, b) REFERENCES t (a, b));
        ALTER TABLE t ADD FOREIGN KEY (p) REFERENCES parent;
        CREATE VIEW plain AS SELECT b, a FROM t WHERE a > 2;
        CREATE VIEW far AS SELECT * FROM plain;
        {publication};"
    );
    let twins = Twins {
        setup: &setup,
        table: "t",
        clauses: "RENAME a TO \"An A\", RENAME COLUMN b TO bee, RENAME p TO pee, ALTER q TYPE bigint",
        old_way: &[
            "ALTER TABLE t RENAME a TO \"An A\"",
            "ALTER TABLE t RENAME COLUMN b TO bee",
            "ALTER TABLE t RENAME p TO pee",
            "ALTER TABLE t ALTER q TYPE bigint",
        ],
        meanwhile: &["UPDATE t SET b = 'b!' WHERE id = 4", "DELETE FROM t WHERE id < 6"],
        compare: &["SELECT * FROM t ORDER BY id", "SELECT * FROM far ORDER BY a, b"],
        options: &[],
    };
    twins.check();
}

#[test]
fn rules_and_policies_of_others_that_read_the_table() {
    let setup = format!(
        "{TABLE}
        CREATE TABLE other (w int);
        INSERT INTO other SELECT * FROM generate_series(1, 20);
        CREATE POLICY those ON other FOR SELECT USING (w IN (SELECT t.id FROM t WHERE t.a < 4));
        CREATE POLICY new ON other FOR INSERT WITH CHECK (EXISTS (SELECT FROM t WHERE t.id = other.w));
        COMMENT ON POLICY those ON other IS 'theirs';
        ALTER TABLE other ENABLE ROW LEVEL SECURITY;
        CREATE RULE told AS ON DELETE TO other DO ALSO UPDATE t SET b = 'told' WHERE id = old.w;
        ALTER TABLE other ENABLE ALWAYS RULE told;
        COMMENT ON RULE told ON other IS 'kept';
        GRANT ALL ON other, t TO app;"
    );
    role(&Db::new(), "app");
    let twins = Twins {
        setup: &setup,
        table: "t",
        clauses: "ALTER q TYPE bigint",
        old_way: &["ALTER TABLE t ALTER q TYPE bigint"],
        meanwhile: &["DELETE FROM other WHERE w = 3"],
        compare: &["SELECT * FROM t ORDER BY id"],
        options: &[],
    };
    let (old, new) = twins.check();
    for db in [&old, &new] {
        db.sql("UPDATE t SET a = 9 WHERE id = 2; DELETE FROM other WHERE w = 11");
        let session = db.connect();
        session.sql("SET ROLE app");
        assert!(session.try_sql("INSERT INTO other VALUES (9999)").is_err());
        assert_eq!(session.query_one_text("SELECT string_agg(w::text, ',' ORDER BY w) FROM other"), "1,10,12,13,20");
    }
    assert_eq!(new.query_one_text("SELECT b FROM t WHERE id = 11"), "told");
}

#[test]
fn what_cannot_go_with_the_change_is_refused_by_name() {
    for (tie, clauses, words) in [
        ("CREATE VIEW v AS SELECT b FROM t", "DROP b", &["view public.v", "column b", "drops"][..]),
        (
            "CREATE VIEW v AS SELECT b FROM t",
            "RENAME b TO c, ADD COLUMN b int",
            &["view public.v", "column b", "to another column"],
        ),
        (
            "CREATE FUNCTION f(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1'; CREATE VIEW v AS SELECT f(id) FROM t",
            "ALTER id TYPE bigint",
            &["view public.v", "does not go with the change", "f(bigint)"],
        ),
        (
            "CREATE VIEW v AS SELECT id FROM t; CREATE FUNCTION f(v) RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "ALTER id TYPE bigint",
            &["view public.v", "function public.f(public.v)", "depends on it"],
        ),
        (
            "CREATE VIEW v AS SELECT x.three FROM t AS x(one, two, three)",
            "DROP a",
            &["view public.v", "by their places"],
        ),
        (
            "CREATE TABLE child (t_id int REFERENCES t)",
            "DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id, a)",
            &["foreign key child_t_id_fkey", "key that the change removes"],
        ),
        (
            "CREATE TABLE child (t_id int REFERENCES t)",
            "ALTER id TYPE text",
            &["foreign key child_t_id_fkey", "does not go with the change"],
        ),
        (
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER g BEFORE UPDATE OF b ON t FOR EACH ROW EXECUTE FUNCTION f()",
            "DROP b",
            &["trigger g", "column b", "drops"],
        ),
        (
            "CREATE POLICY p ON t USING (b LIKE 'x%')",
            "ALTER b TYPE bytea USING b::bytea",
            &["policy p", "does not go with the change"],
        ),
    ] {
        let db = Db::new();
        db.sql(TABLE);
        db.sql(tie);
        let before = crate::harness::dump(&db);
        let output = pgrecast(&db, &["alter", "t", clauses]);
        assert_eq!(output.code, Some(3), "{tie}: {}{}", output.stdout, output.stderr);
        for word in words {
            assert!(output.stderr.contains(word), "{tie}: no {word:?} in {}", output.stderr);
        }
        assert_eq!(crate::harness::dump(&db), before, "{tie}");
    }
}
