//! Functions and procedures that read the table in their bodies or have its row type in their signatures, and whatever
//! else is made of that type.

use std::sync::atomic::{AtomicU32, Ordering};

use super::twins::Twins;
use super::{Postponed, SOON, only_migration, role};
use crate::harness::migration::{command, finish};
use crate::harness::{Db, Session, assert_nothing_left, beside, dump, pgrecast, server, spawn, wait_for};

const TABLE: &str = "
    CREATE TABLE t (id int PRIMARY KEY, a int, b text, q int);
    INSERT INTO t SELECT n, n % 10, 'b' || n, n FROM generate_series(1, 500) n;";

/// Of every kind that is carried, in a schema of their own, with all that can hang on one.
const FUNCTIONS: &str = "
    CREATE SCHEMA \"Of t\";
    ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
    ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO other;
    CREATE FUNCTION counted(more int DEFAULT 2) RETURNS bigint STABLE PARALLEL SAFE COST 7
        BEGIN ATOMIC SELECT count(*) FROM t WHERE a > more; END;
    CREATE FUNCTION \"Of t\".\"Listed; it's\"(\"Low est\" int, OUT an_a int, OUT \"A b\" text) RETURNS SETOF record ROWS 9 SECURITY DEFINER
        SET work_mem = '5MB' BEGIN ATOMIC SELECT a, b FROM t WHERE id <= \"Low est\" ORDER BY id; END;
    CREATE FUNCTION least_q() RETURNS int RETURN (SELECT min(q) FROM t WHERE q > 7);
    CREATE FUNCTION grouped() RETURNS TABLE (id int, b text, n bigint) BEGIN ATOMIC SELECT id, b, count(*) FROM t GROUP BY id; END;
    CREATE FUNCTION rows_as_text() RETURNS SETOF text RETURN (SELECT min(t::text) FROM t);
    CREATE FUNCTION where_it_is() RETURNS regclass RETURN 't'::regclass;
    CREATE PROCEDURE written(one int, two text) BEGIN ATOMIC
        INSERT INTO t (id, a, b) VALUES (one, 1, two) ON CONFLICT (id) DO UPDATE SET b = excluded.b;
        UPDATE t SET a = a + 1 WHERE b = two; END;
    CREATE FUNCTION label(t) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT $1.id || ':' || $1.b $$;
    CREATE FUNCTION label(t, text) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT LEAKPROOF AS $$ BEGIN RETURN $1.id || $2; END $$;
    CREATE FUNCTION label(int) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'number' || $1 $$;
    CREATE FUNCTION label(VARIADIC many t[]) RETURNS int LANGUAGE sql AS $$ SELECT cardinality(many) $$;
    CREATE FUNCTION \"Of t\".\"All of t\"(low int DEFAULT 3) RETURNS SETOF t LANGUAGE sql STABLE ROWS 77 SET search_path = public
        AS $$ SELECT * FROM t WHERE id <= low ORDER BY id $$;
    CREATE FUNCTION first_one(OUT one t, OUT number int) LANGUAGE plpgsql AS $$ DECLARE r t%ROWTYPE; BEGIN
        SELECT * INTO r FROM public.t WHERE id = 1; one := r; number := r.a; END $$;
    CREATE FUNCTION pairs() RETURNS TABLE (left_one t, n int) BEGIN ATOMIC SELECT t, a FROM t WHERE id < 3; END;
    CREATE PROCEDURE given(INOUT it t) LANGUAGE plpgsql AS $$ BEGIN it.a := it.a + 1; END $$;
    CREATE FUNCTION by_name() RETURNS int LANGUAGE plpgsql AS $$ DECLARE r public.t%ROWTYPE; BEGIN
        SELECT * INTO r FROM public.t WHERE id = 4; RETURN r.a; END $$;
    COMMENT ON FUNCTION counted(int) IS 'counts'; COMMENT ON FUNCTION label(t) IS 'it''s one'; COMMENT ON PROCEDURE given(t) IS 'gives';
    GRANT EXECUTE ON FUNCTION label(t) TO app WITH GRANT OPTION; GRANT EXECUTE ON FUNCTION \"Of t\".\"All of t\"(int) TO PUBLIC;
    REVOKE ALL ON FUNCTION label(t, text) FROM CURRENT_USER; GRANT EXECUTE ON FUNCTION counted(int) TO app;
    REVOKE ALL ON PROCEDURE given(t) FROM other;
    ALTER FUNCTION label(t, text) OWNER TO app; ALTER FUNCTION grouped() OWNER TO app; GRANT SELECT ON t TO app;
    ALTER FUNCTION label(t) DEPENDS ON EXTENSION plpgsql; ALTER FUNCTION counted(int) DEPENDS ON EXTENSION plpgsql;";

const CALLS: &[&str] = &[
    "SELECT * FROM t ORDER BY id",
    "SELECT counted(), counted(5), where_it_is()",
    "SELECT * FROM \"Of t\".\"Listed; it's\"(4)",
    "SELECT * FROM grouped() ORDER BY id LIMIT 3",
    "SELECT t.label, label(t.*), label(t, '!'), label(id), label(t, t) FROM t WHERE id < 5 ORDER BY id",
    "SELECT id, a, b FROM \"Of t\".\"All of t\"()",
    "SELECT number, (one).b FROM first_one()",
    "SELECT (left_one).id, n FROM pairs()",
    "SELECT by_name(), least_q()",
    "CALL written(2, 'anew')",
    "SELECT id, a, b FROM t WHERE id = 2",
];

#[test]
fn functions_of_every_kind() {
    role(&Db::new(), "app");
    role(&Db::new(), "other");
    let setup = format!("{TABLE} {FUNCTIONS}");
    let twins = Twins {
        setup: &setup,
        table: "t",
        clauses: "RENAME q TO \"Q q\", ADD COLUMN more text DEFAULT 'm'",
        old_way: &["ALTER TABLE t RENAME q TO \"Q q\"", "ALTER TABLE t ADD COLUMN more text DEFAULT 'm'"],
        meanwhile: &["CALL written(1000, 'meanwhile')", "CALL written(3, 'three')"],
        compare: CALLS.split_at(CALLS.len() - 2).0,
        options: &[],
    };
    let (_, new) = twins.check();
    new.sql("CALL written(5, 'afterwards'); CALL given('(7,1,x,,m)'::t)");
    assert_eq!(new.query_one_text("SELECT label(t) FROM t WHERE id = 5"), "5:afterwards");
    assert_eq!(new.query_one_text("SELECT more FROM \"Of t\".\"All of t\"(1)"), "m");
}

#[test]
fn a_new_type_goes_through_bodies_views_and_defaults() {
    let db = Db::new();
    db.sql(TABLE);
    db.sql(
        "CREATE FUNCTION listed() RETURNS SETOF bigint BEGIN ATOMIC SELECT q FROM t ORDER BY id; END;
         CREATE FUNCTION added(int) RETURNS void BEGIN ATOMIC INSERT INTO t AS mine (id, q) VALUES ($1, $1); END;
         CREATE FUNCTION any_of(it anyelement DEFAULT NULL::t) RETURNS text LANGUAGE sql AS $$ SELECT pg_typeof(it)::text $$;
         CREATE FUNCTION said(it text DEFAULT (NULL::t)::text) RETURNS text LANGUAGE sql AS $$ SELECT coalesce(it, 'none') $$;
         CREATE VIEW whole AS SELECT t AS one, (t).q AS number FROM t;
         CREATE VIEW above AS SELECT (one).b, number FROM whole;
         CREATE VIEW spelled AS SELECT NULL::t AS none, ARRAY[]::t[] AS nones;
         CREATE VIEW grouped AS SELECT id, q, count(*) FROM t GROUP BY id;
         CREATE TABLE other (w text DEFAULT (NULL::t)::text, r regclass DEFAULT 't'::regclass);",
    );
    let output = pgrecast(&db, &["alter", "t", "ALTER q TYPE bigint, ALTER id TYPE bigint"]);
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    finish(&db);
    db.sql("SELECT added(1000); UPDATE t SET q = 5000000000 WHERE id = 3; INSERT INTO other DEFAULT VALUES");
    assert_eq!(db.query_one_text("SELECT max(l) FROM listed() l"), "5000000000");
    assert_eq!(db.query_one_text("SELECT number FROM above WHERE b = 'b3'"), "5000000000");
    assert_eq!(db.query_one_text("SELECT pg_typeof((one).q) FROM whole LIMIT 1"), "bigint");
    assert_eq!(db.query_one_text("SELECT pg_typeof(q) FROM grouped LIMIT 1"), "bigint");
    assert_eq!(db.query_one_text("SELECT pg_typeof((none).q) FROM spelled"), "bigint");
    assert_eq!(db.query_one_text("SELECT any_of() || said()"), "tnone");
    assert_eq!(db.query_one_text("SELECT r FROM other"), "t");
}

#[test]
fn what_cannot_be_made_again_is_refused_by_name() {
    const LABEL: &str = "CREATE FUNCTION label(t) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT NULL::text';";
    for (sql, clauses, words) in [
        (
            "CREATE VIEW v AS SELECT t.label FROM t",
            "",
            &["function public.label(public.t)", "view public.v depends on it"][..],
        ),
        (
            "CREATE FUNCTION all_of_it() RETURNS SETOF t LANGUAGE sql AS 'SELECT * FROM public.t'; CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM all_of_it()",
            "",
            &["function public.all_of_it()", "materialized view public.m depends on it"],
        ),
        ("CREATE INDEX labelled ON t (label(t.*))", "", &["index public.labelled"]),
        (
            "CREATE TABLE o (l text DEFAULT label(NULL))",
            "",
            &["default value for column l of table public.o depends on it"],
        ),
        (
            "CREATE TRIGGER g BEFORE UPDATE ON t FOR EACH ROW WHEN (label(NEW.*) > 'x') EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "",
            &["trigger g on table public.t depends on it"],
        ),
        ("CREATE POLICY p ON t USING (label(t.*) > 'x')", "", &["policy p on table public.t depends on it"]),
        (
            "CREATE FUNCTION f() RETURNS text RETURN (SELECT label(t) FROM t)",
            "",
            &["function public.f() depends on it"],
        ),
        ("CREATE AGGREGATE sum_of(t) (SFUNC = label_of, STYPE = text)", "", &["function public.sum_of(public.t)"]),
        (
            "CREATE FUNCTION f() RETURNS text BEGIN ATOMIC SELECT b FROM t; END",
            "DROP b",
            &["function public.f()", "column b, which the change drops"],
        ),
        (
            "CREATE FUNCTION f() RETURNS text BEGIN ATOMIC SELECT b FROM t; END",
            "RENAME b TO c, ADD COLUMN b int",
            &["function public.f()", "column b, whose name the change gives to another column"],
        ),
        (
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT x.one FROM t AS x(one, two, three); END",
            "DROP q",
            &["function public.f()", "by their places"],
        ),
        (
            "CREATE FUNCTION f() RETURNS text BEGIN ATOMIC SELECT lower(b) FROM t; END",
            "ALTER b TYPE int USING 1",
            &["function public.f() does not go with the change", "lower(integer)"],
        ),
        (
            "CREATE FUNCTION f(it t DEFAULT ROW(1, 2, 'three', 4)) RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "ADD COLUMN more int",
            &["function public.f(public.t) does not go with the change", "cannot cast type record"],
        ),
        (
            "CREATE TABLE o (w text DEFAULT (ROW(1, 2, 'three', 4)::t)::text)",
            "ADD COLUMN more int",
            &["default of column w of public.o does not go with the change", "cannot cast type record"],
        ),
        (
            "SET allow_system_table_mods = on; INSERT INTO pg_seclabel VALUES ('label(t)'::regprocedure, 'pg_proc'::regclass, 0, 'tests', 'secret')",
            "",
            &["function public.label(public.t)", "security label"],
        ),
        (
            "ALTER EXTENSION plpgsql ADD FUNCTION label(t)",
            "",
            &["function public.label(public.t) belongs to extension plpgsql"],
        ),
    ] {
        let db = Db::new();
        db.sql(&format!(
            "{TABLE} {LABEL} CREATE FUNCTION label_of(text, t) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT NULL::text'; {sql}"
        ));
        let before = dump(&db);
        let output = pgrecast(&db, &["alter", "t", clauses]);
        assert_eq!(output.code, Some(3), "{sql}: {}{}", output.stdout, output.stderr);
        for word in words {
            assert!(output.stderr.contains(word), "{sql}: no {word:?} in {}", output.stderr);
        }
        assert!(output.stderr.contains("hint: "), "{sql}: {}", output.stderr);
        assert!(dump(&db) == before, "{sql}");
        assert_nothing_left(&db);
    }
}

#[test]
fn an_owner_and_no_more_makes_its_own_functions_again_and_names_those_of_others() {
    let db = Db::new();
    db.sql(TABLE);
    db.sql(&format!(
        "CREATE ROLE of_functions LOGIN PASSWORD 'secret' REPLICATION; CREATE ROLE of_more NOLOGIN; GRANT of_more TO of_functions;
         CREATE ROLE of_none NOLOGIN; CREATE SCHEMA closed; GRANT ALL ON SCHEMA public, closed TO of_functions, of_more, of_none;
         ALTER TABLE t OWNER TO of_functions; GRANT ALL ON t TO of_none, of_more; GRANT CREATE ON DATABASE {} TO of_functions",
        db.name()
    ));
    let dsn = server().dsn_for("of_functions", "secret", db.name());
    Session::connect(&dsn).sql(
        "CREATE FUNCTION label(t) RETURNS text LANGUAGE sql AS $$ SELECT $1.b $$;
         CREATE FUNCTION counted() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM t; END;
         GRANT EXECUTE ON FUNCTION label(t) TO of_none;
         SET ROLE of_more; CREATE FUNCTION more(t) RETURNS text LANGUAGE sql AS $$ SELECT $1.b $$;
         REVOKE ALL ON FUNCTION more(t) FROM PUBLIC; GRANT EXECUTE ON FUNCTION more(t) TO of_functions;",
    );
    const THEIRS: &str = "function public.theirs(public.t)";
    for (made, words, away) in [
        (
            "SET ROLE of_none; CREATE FUNCTION theirs() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM t; END",
            ["function public.theirs() belongs to another role", "run as a member of its owner"],
            "DROP FUNCTION theirs()",
        ),
        (
            "CREATE FUNCTION theirs(t) RETURNS int LANGUAGE internal AS 'int4abs'; ALTER FUNCTION theirs(t) OWNER TO of_functions",
            [THEIRS, "its schema or language"],
            "DROP FUNCTION theirs(t)",
        ),
        (
            "CREATE FUNCTION closed.theirs(t) RETURNS int LANGUAGE sql AS 'SELECT 1'; ALTER FUNCTION closed.theirs(t) OWNER TO of_functions;
             REVOKE CREATE ON SCHEMA closed FROM of_functions, of_more",
            ["function closed.theirs(public.t)", "its schema or language"],
            "GRANT CREATE ON SCHEMA closed TO of_functions, of_more; DROP FUNCTION closed.theirs(t)",
        ),
        (
            "CREATE FUNCTION theirs(t) RETURNS int LANGUAGE sql AS 'SELECT 1'; ALTER FUNCTION theirs(t) OWNER TO of_more;
             REVOKE CREATE ON SCHEMA public FROM of_more, PUBLIC",
            [THEIRS, "may not give it to of_more"],
            "DROP FUNCTION theirs(t); GRANT CREATE ON SCHEMA public TO of_more",
        ),
        (
            "CREATE TABLE theirs (r regclass DEFAULT 't'::regclass)",
            ["default of column r of public.theirs belongs to another role", "hint: "],
            "DROP TABLE theirs",
        ),
        (
            "CREATE FUNCTION theirs(t) RETURNS int LANGUAGE sql LEAKPROOF AS 'SELECT 1'; ALTER FUNCTION theirs(t) OWNER TO of_functions",
            [THEIRS, "leakproof"],
            "DROP FUNCTION theirs(t)",
        ),
    ] {
        db.connect().sql(made);
        let before = dump(&db);
        let output = spawn(&dsn, &["alter", "t", ""]).wait();
        assert_eq!(output.code, Some(3), "{made}: {}{}", output.stdout, output.stderr);
        for word in words {
            assert!(output.stderr.contains(word), "{made}: no {word:?} in {}", output.stderr);
        }
        assert!(dump(&db) == before, "{made}");
        db.sql(away);
    }
    let before = dump(&db);
    let output = spawn(&dsn, &["alter", "t", ""]).wait();
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    finish(&db);
    let after = dump(&db);
    assert!(before == after, "{}", super::twins::difference(&before, &after));
}

/// Every way to come to a function at the moment of the swap: by name, by a plan made before, from inside of another.
const CALLERS: &[(&str, &str)] = &[
    ("", "SELECT count(*) FROM all_of_it(5)"),
    ("", "SELECT label(t) FROM t WHERE id = 3"),
    ("", "SELECT counted()"),
    ("", "SELECT count(*) FROM listed()"),
    ("", "SELECT found(7)"),
    ("", "SELECT through(7)"),
    ("PREPARE p AS SELECT count(*) FROM all_of_it(5)", "EXECUTE p"),
    ("PREPARE p AS SELECT label(t) FROM t WHERE id = 3", "EXECUTE p"),
    ("PREPARE p AS SELECT counted()", "EXECUTE p"),
    ("PREPARE p AS SELECT through(7)", "EXECUTE p"),
];

#[test]
fn callers_at_the_moment_of_the_swap() {
    let db = Db::new();
    db.sql(TABLE);
    db.sql(
        "CREATE FUNCTION all_of_it(low int) RETURNS SETOF t LANGUAGE sql AS 'SELECT * FROM t WHERE id <= low';
         CREATE FUNCTION label(t) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT $1.b $$;
         CREATE FUNCTION counted() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM t; END;
         CREATE FUNCTION found(int) RETURNS t LANGUAGE plpgsql AS $$ DECLARE r t; BEGIN SELECT * INTO r FROM t WHERE id = $1; RETURN r; END $$;
         CREATE FUNCTION listed() RETURNS SETOF t LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY SELECT * FROM t; END $$;
         CREATE FUNCTION through(int) RETURNS text LANGUAGE plpgsql AS $$ DECLARE r t%ROWTYPE; BEGIN
            SELECT * INTO r FROM all_of_it($1) AS x WHERE x.id = $1; RETURN label(r); END $$;",
    );
    let done = AtomicU32::new(0);
    let failed = std::sync::Mutex::new(Vec::new());
    let application = |worker: u32, goes_on: &dyn Fn() -> bool| {
        let (first, call) = CALLERS[worker as usize - 1];
        let session = db.connect();
        session.sql(first);
        while goes_on() {
            if let Err(e) = session.try_sql(call) {
                failed.lock().expect("no poison").push(format!("{first}; {call}: {e}"));
            }
            done.fetch_add(1, Ordering::Relaxed);
            session.sql("SELECT pg_sleep(0.001)");
        }
    };
    beside(CALLERS.len() as u32, application, || {
        for _ in 0..3 {
            command(&db, &["alter", "t", ""]).done();
            finish(&db);
        }
    });
    let failed = failed.into_inner().expect("no poison");
    assert!(failed.is_empty(), "{} of {done:?} calls failed: {failed:#?}", failed.len());
    assert!(done.load(Ordering::Relaxed) > 100, "{done:?} calls");
}

#[test]
fn a_function_replaced_while_an_attempt_is_under_way_stays_replaced() {
    let db = Db::new();
    db.sql(TABLE);
    let body = |n: u32| {
        format!("CREATE OR REPLACE FUNCTION version() RETURNS bigint RETURN (SELECT {n} + 0 * count(*) FROM public.t)")
    };
    let typed = |n: u32| format!("CREATE OR REPLACE FUNCTION typed(t) RETURNS int LANGUAGE sql AS 'SELECT {n}'");
    db.sql(&format!("{}; {}", body(1), typed(1)));
    let run = Postponed::start(&db, "t", "", &[]);
    let holder = db.connect();
    // Made late, they are made on the shadow by the attempt, once it has read what is tied to the table.
    db.sql("CREATE STATISTICS both_of ON a, q FROM t");
    holder.sql(&format!("BEGIN; LOCK TABLE pgrecast.shadow_{} IN SHARE UPDATE EXCLUSIVE MODE", only_migration(&db)));
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgrecast cut-over' AND wait_event_type = 'Lock'";
    std::thread::scope(|scope| {
        let released = scope.spawn(|| run.release(&db.again()));
        wait_for("an attempt that has read the functions and waits", SOON, || {
            match db.query_one_text(waits).as_str() {
                "1" => Ok(()),
                seen => Err(seen.to_owned()),
            }
        });
        db.sql(&format!("{}; {}", body(2), typed(2)));
        holder.sql("COMMIT");
        let output = released.join().expect("the run");
        assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    });
    assert_eq!(db.query_one_text("SELECT public.version()"), "2");
    assert_eq!(db.query_one_text("SELECT typed(t) FROM t LIMIT 1"), "2");
    finish(&db);
}
