//! What cannot be done is said before anything is touched: one error, its exit code, and nothing changed or left.

use super::{Postponed, each, only_migration, role};
use crate::harness::{Db, Output, Session, assert_nothing_left, dump, own_server, pgrecast, server, spawn};

/// A table that could be migrated, were it not for what a case adds.
const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text, w int, at timestamptz);
    INSERT INTO t SELECT n, 'v' || n, n FROM generate_series(1, 50) AS n";

const ROWS: &str = "SELECT t::text FROM t ORDER BY id";

/// One error, in the form every error has.
fn assert_error(output: &Output, code: i32, words: &[&str]) {
    assert_eq!(output.code, Some(code), "{}{}", output.stdout, output.stderr);
    let errors = output.stderr.lines().filter(|line| line.starts_with("error: ")).count();
    assert_eq!(errors, 1, "{}", output.stderr);
    for word in words {
        assert!(output.stderr.contains(word), "{word:?} is not in\n{}", output.stderr);
    }
}

/// Runs a command that must be refused, and looks that the database is as before.
fn refused(db: &Db, args: &[&str], code: i32, words: &[&str]) {
    let before = dump(db);
    assert_error(&pgrecast(db, args), code, words);
    assert!(dump(db) == before, "the schema changed");
    assert_nothing_left(db);
}

struct Tie {
    sql: &'static str,
    names: &'static str,
    since: u32,
}

const fn tie(sql: &'static str, names: &'static str) -> Tie {
    Tie { sql, names, since: 14 }
}

#[test]
fn what_is_tied_to_the_table_is_refused_by_name() {
    let ties = [
        tie("CREATE MATERIALIZED VIEW kept AS SELECT NULL::t IS NULL AS x", "error: materialized view public.kept"),
        tie("CREATE PUBLICATION told FOR ALL TABLES", "publication told for all tables has the shadow in it"),
        Tie {
            since: 15,
            ..tie(
                "ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id) DEFERRABLE; ALTER TABLE t REPLICA IDENTITY NOTHING; CREATE PUBLICATION told FOR TABLES IN SCHEMA public",
                "the replica identity would have to change for the time, and publication told rests on it",
            )
        },
        tie(
            "CREATE FUNCTION takes(t) RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE VIEW taken AS SELECT takes(t) FROM t",
            "function public.takes(public.t) has the row type in its signature and has to be made again, and view public.taken depends on it",
        ),
        tie("CREATE TABLE other (whole t)", "column whole of table public.other"),
        tie("CREATE TABLE other (many t[])", "column many of table public.other"),
        tie("CREATE DOMAIN wrapped AS t", "type public.wrapped"),
    ];
    let here = Db::new().major();
    each(
        ties.iter().filter(|tie| tie.since <= here),
        |tie| tie.sql.to_owned(),
        |tie| {
            let db = Db::new();
            db.sql(TABLE);
            db.sql(tie.sql);
            refused(&db, &["alter", "t", "ALTER id TYPE bigint"], 3, &[tie.names, "hint: "]);
        },
    );
}

#[test]
fn a_publication_of_our_own_schema_is_refused() {
    let db = Db::new();
    if db.major() < 15 {
        return;
    }
    db.sql(TABLE);
    db.sql("CREATE SCHEMA pgrecast; CREATE PUBLICATION told FOR TABLES IN SCHEMA pgrecast");
    let output = pgrecast(&db, &["alter", "t", "ALTER id TYPE bigint"]);
    assert_error(&output, 3, &["schema pgrecast in publication told has the shadow in it", "DROP TABLES IN SCHEMA"]);
    db.sql("DROP PUBLICATION told; DROP SCHEMA pgrecast");
    assert_nothing_left(&db);
}

/// Planted in the catalog: no provider of labels comes with the server.
#[test]
fn security_labels_are_refused_by_name() {
    let planted = |class: &str, object: &str, column: u32| {
        format!("INSERT INTO pg_seclabel VALUES ({object}, '{class}'::regclass, {column}, 'guard', 'secret')")
    };
    let cases = [
        (planted("pg_class", "'t'::regclass", 0), "security label of provider guard on table public.t is tied"),
        (planted("pg_class", "'t'::regclass", 2), "security label of provider guard on column v of table public.t"),
        (planted("pg_class", "'t_n_seq'::regclass", 0), "security label of provider guard on sequence public.t_n_seq"),
        (planted("pg_type", "'t'::regtype", 0), "security label of provider guard on type public.t"),
        (planted("pg_class", "'shown'::regclass", 0), "and security label of provider guard depends on it"),
    ];
    each(
        cases,
        |(_, words)| (*words).to_owned(),
        |(label, words)| {
            let db = Db::new();
            db.sql(TABLE);
            db.sql("ALTER TABLE t ADD n int GENERATED ALWAYS AS IDENTITY; CREATE VIEW shown AS SELECT id FROM t");
            db.sql(label);
            assert_error(&pgrecast(&db, &["alter", "t", "ALTER id TYPE bigint"]), 3, &[words, "hint: "]);
            db.sql("DELETE FROM pg_seclabel");
            assert_nothing_left(&db);
            assert_eq!(pgrecast(&db, &["alter", "t", "ALTER id TYPE bigint"]).code, Some(0));
            assert_eq!(pgrecast(&db, &["finish", &only_migration(&db)]).code, Some(0));
        },
    );
}

#[test]
fn what_is_not_an_ordinary_table_is_refused() {
    let db = Db::new();
    db.sql(TABLE);
    db.sql(
        "CREATE VIEW shown AS SELECT 1 AS id; CREATE MATERIALIZED VIEW kept AS SELECT 1 AS id; CREATE SEQUENCE counter;
        CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
        CREATE FOREIGN TABLE far (id int) SERVER nowhere; CREATE INDEX by_w ON t (w); CREATE TYPE pair AS (a int);
        CREATE UNLOGGED TABLE fast (id int PRIMARY KEY);
        CREATE TABLE keyless (a int, b int); CREATE TABLE nullable (a int UNIQUE); CREATE SCHEMA s; CREATE TABLE s.there (id int PRIMARY KEY)",
    );
    for (table, words) in [
        ("nothing_like_it", &["there is no table nothing_like_it"][..]),
        ("s.t", &["there is no table s.t"]),
        ("there", &["there is no table there"]),
        ("\"T\"", &["there is no table \"T\""]),
        ("shown", &["public.shown is a view"]),
        ("kept", &["public.kept is a materialized view"]),
        ("counter", &["public.counter is a sequence"]),
        ("far", &["public.far is a foreign table"]),
        ("by_w", &["public.by_w is an index"]),
        ("pair", &["public.pair is a composite type"]),
        ("fast", &["public.fast is an unlogged table"]),
        ("pg_catalog.pg_class", &["is a system table"]),
        ("keyless", &["no primary key", "ALTER TABLE public.keyless ADD PRIMARY KEY"]),
        ("nullable", &["no primary key", "ALTER TABLE public.nullable ALTER COLUMN \"a\" SET NOT NULL"]),
    ] {
        refused(&db, &["alter", table, "ADD COLUMN x int"], 3, &[words, &["hint: "]].concat());
    }
}

#[test]
fn wrong_and_senseless_clauses_are_refused() {
    let db = Db::new();
    db.sql(TABLE);
    for (code, clauses, words) in [
        (2, "FROBNICATE", "syntax error"),
        (2, "ADD COLUMN", "syntax error"),
        (2, "ADD COLUMN x int; DROP TABLE t", "semicolon"),
        (2, "ADD COLUMN x int,", "syntax error"),
        (2, "ADD COLUMN x text DEFAULT 'open", "unterminated"),
        (3, "RENAME TO u", "RENAME TO"),
        (3, "SET SCHEMA s", "SET SCHEMA"),
        (3, "OWNER TO postgres", "OWNER TO"),
        (3, "SET UNLOGGED", "SET UNLOGGED"),
        (3, "REPLICA IDENTITY FULL", "REPLICA IDENTITY"),
        (3, "ENABLE ROW LEVEL SECURITY", "ROW LEVEL SECURITY"),
        (3, "DISABLE TRIGGER ALL", "TRIGGER"),
        (3, "INHERIT u", "INHERIT"),
        (3, "ADD FOREIGN KEY (w) REFERENCES t", "foreign key"),
        (3, "ADD COLUMN x int REFERENCES t", "foreign key"),
        (3, "ALTER COLUMN nothing TYPE bigint", "column \"nothing\" of relation \"t\" does not exist"),
        (3, "ALTER COLUMN v TYPE bigint", "cannot be cast automatically"),
        (3, "ALTER v TYPE nonsense", "type \"nonsense\" does not exist"),
        (3, "ALTER v TYPE bigint USING nothing::bigint", "column \"nothing\" does not exist"),
        (3, "ALTER v TYPE bigint USING nonsense(v)", "function nonsense(text) does not exist"),
        (3, "ALTER w TYPE bigint USING (SELECT 1)", "subquery"),
        (3, "DROP COLUMN id", "no key of the table survives"),
        (3, "ADD COLUMN v int", "already exists"),
        (3, "ADD COLUMN x int NOT NULL", "would be NOT NULL and has no value"),
        (3, "RENAME nothing TO x", "column \"nothing\" does not exist"),
        (3, "DROP CONSTRAINT nothing", "constraint \"nothing\" of relation \"t\" does not exist"),
        (3, "SET (nonsense = 1)", "unrecognized parameter \"nonsense\""),
        (3, "SET TABLESPACE nonsense", "tablespace \"nonsense\" does not exist"),
        (3, "ALTER w TYPE bigint, ALTER w TYPE numeric", "twice"),
    ] {
        refused(&db, &["alter", "t", clauses], code, &[words]);
    }
    refused(&db, &["alter", "t.t.t", ""], 2, &[]);
    refused(&db, &["alter", "t"], 2, &[]);
    refused(&db, &["alter", "t", "", "--jobs", "0"], 2, &[]);
}

#[test]
fn a_conversion_that_depends_on_a_setting_needs_it() {
    let db = Db::new();
    db.sql(TABLE);
    db.sql("UPDATE t SET at = '2024-10-27 00:30:00+00'::timestamptz + id * interval '1 h'");
    let clauses = "ALTER at TYPE timestamp";
    refused(&db, &["alter", "t", clauses], 3, &["column \"at\" depends on session settings", "--setting TimeZone="]);
    refused(&db, &["alter", "t", clauses, "--setting", "TimeZone=Nowhere/Atall"], 2, &["TimeZone"]);
    refused(&db, &["alter", "t", clauses, "--setting", "search_path=public"], 2, &["search_path"]);
    let expected = db.rows("SELECT id, (at AT TIME ZONE 'Europe/Berlin')::text FROM t ORDER BY id");
    let run = Postponed::start(&db, "t", clauses, &["--setting", "TimeZone=Europe/Berlin"]);
    db.sql("UPDATE t SET w = 0 WHERE id < 20");
    let output = run.release(&db);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert_eq!(db.rows("SELECT id, at::text FROM t ORDER BY id"), expected);
}

#[test]
fn a_server_without_logical_decoding_or_a_free_slot_is_refused() {
    let replica = own_server(&[("wal_level", "replica")]);
    let db = Db::on(&replica);
    db.sql(TABLE);
    refused(
        &db,
        &["alter", "t", ""],
        3,
        &["wal_level is replica, not logical", "hint: ", "ALTER SYSTEM SET wal_level"],
    );

    let narrow = own_server(&[("max_replication_slots", "1")]);
    let db = Db::on(&narrow);
    db.sql(TABLE);
    let slot = "SELECT pg_create_physical_replication_slot('taken')";
    db.sql(slot);
    refused(&db, &["alter", "t", ""], 3, &["replication slots are in use", "max_replication_slots"]);
    db.sql("SELECT pg_drop_replication_slot('taken')");
    assert_eq!(pgrecast(&db, &["alter", "t", ""]).code, Some(0));
}

#[test]
fn a_server_that_is_not_there_and_an_address_that_is_none() {
    let output = spawn("postgresql://postgres@127.0.0.1:1/nowhere", &["alter", "t", ""]).wait();
    assert_error(&output, 1, &["127.0.0.1"]);
    let output = spawn("postgresql://postgres@127.0.0.1:port/nowhere", &["alter", "t", ""]).wait();
    assert_error(&output, 2, &["port"]);
    let output = spawn(&server().dsn_of("no such database"), &["alter", "t", ""]).wait();
    assert_error(&output, 1, &["no such database"]);
}

/// A role with what is needed, of which each case takes one thing away.
fn limited(db: &Db, name: &str) -> String {
    db.sql(&format!(
        "CREATE ROLE {name} LOGIN PASSWORD 'secret' REPLICATION; ALTER TABLE t OWNER TO {name};
        GRANT CREATE ON DATABASE {} TO {name}; GRANT CREATE ON SCHEMA public TO {name}",
        db.name()
    ));
    server().dsn_for(name, "secret", db.name())
}

#[test]
fn a_missing_privilege_is_named_with_its_remedy() {
    for (role, take, remedy) in [
        ("plain", "ALTER ROLE plain NOREPLICATION", "ALTER ROLE plain REPLICATION"),
        ("stranger", "ALTER TABLE t OWNER TO postgres", "GRANT postgres TO stranger"),
        ("narrow", "REVOKE CREATE ON DATABASE {db} FROM narrow", "GRANT CREATE ON DATABASE {db} TO narrow"),
        (
            "homeless",
            "REVOKE CREATE ON SCHEMA public FROM homeless, PUBLIC",
            "GRANT CREATE ON SCHEMA public TO homeless",
        ),
    ] {
        let db = Db::new();
        db.sql(TABLE);
        let dsn = limited(&db, role);
        db.sql(&take.replace("{db}", db.name()));
        let before = dump(&db);
        let output = spawn(&dsn, &["alter", "t", "ALTER id TYPE bigint"]).wait();
        assert_error(&output, 3, &[&remedy.replace("{db}", db.name()), "hint: "]);
        assert!(dump(&db) == before);
        assert_nothing_left(&db);
    }
}

#[test]
fn an_owner_and_no_more_carries_its_own_ties_and_names_those_of_others() {
    let db = Db::new();
    db.sql(TABLE);
    let dsn = limited(&db, "tied_owner");
    db.sql("CREATE TABLE mother (id int PRIMARY KEY); INSERT INTO mother VALUES (1); GRANT REFERENCES, SELECT ON mother TO tied_owner");
    let owner = Session::connect(&dsn);
    owner.sql(
        "ALTER TABLE t ADD m int CONSTRAINT up REFERENCES mother;
         CREATE TABLE child (t_id int CONSTRAINT down REFERENCES t);
         CREATE VIEW shown AS SELECT id, v FROM t; CREATE VIEW shown_too AS SELECT id FROM shown;
         CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TRIGGER watch BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f();
         CREATE POLICY own ON t USING (id > 0); ALTER TABLE t ENABLE ROW LEVEL SECURITY;
         CREATE STATISTICS both_of_them ON v, w FROM t;
         CREATE RULE silent AS ON DELETE TO t WHERE old.id < 0 DO INSTEAD NOTHING;
         CREATE PUBLICATION told FOR TABLE t;",
    );
    for (theirs, words, away) in [
        ("CREATE VIEW theirs AS SELECT id FROM t", "view public.theirs belongs to another role", "DROP VIEW theirs"),
        (
            "CREATE TABLE theirs (t int CONSTRAINT down_too REFERENCES t)",
            "foreign key down_too of public.theirs",
            "DROP TABLE theirs",
        ),
        (
            "ALTER STATISTICS both_of_them OWNER TO postgres",
            "extended statistics public.both_of_them",
            "ALTER STATISTICS both_of_them OWNER TO tied_owner",
        ),
        ("ALTER PUBLICATION told OWNER TO postgres", "publication told", "ALTER PUBLICATION told OWNER TO tied_owner"),
        (
            "REVOKE REFERENCES ON mother FROM tied_owner",
            "GRANT REFERENCES ON public.mother",
            "GRANT REFERENCES ON mother TO tied_owner",
        ),
        (
            "ALTER TABLE t FORCE ROW LEVEL SECURITY",
            "row level security of public.t",
            "ALTER TABLE t NO FORCE ROW LEVEL SECURITY",
        ),
    ] {
        db.sql(theirs);
        let before = dump(&db);
        let output = spawn(&dsn, &["alter", "t", "ALTER id TYPE bigint"]).wait();
        assert_error(&output, 3, &[words, "hint: "]);
        assert!(dump(&db) == before, "{theirs}");
        db.sql(away);
    }
    let output = spawn(&dsn, &["alter", "t", "ALTER id TYPE bigint"]).wait();
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    let finished = spawn(&dsn, &["finish", &only_migration(&db)]).wait();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_nothing_left(&db);
    for (what, there) in [
        (
            "SELECT string_agg(conname, ',' ORDER BY conname) FROM pg_constraint WHERE contype = 'f' AND convalidated",
            "down,up",
        ),
        ("SELECT string_agg(pg_typeof(id)::text, ',') FROM (SELECT * FROM shown_too LIMIT 1) AS one", "bigint"),
        ("SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'shown'::regclass", "tied_owner"),
        ("SELECT tgname FROM pg_trigger WHERE tgrelid = 't'::regclass AND NOT tgisinternal", "watch"),
        ("SELECT polname FROM pg_policy WHERE polrelid = 't'::regclass", "own"),
        ("SELECT tablename FROM pg_publication_tables WHERE pubname = 'told'", "t"),
    ] {
        assert_eq!(db.query_one_text(what), there, "{what}");
    }
}

#[test]
fn an_owner_with_replication_and_no_more_goes_all_the_way() {
    let db = Db::new();
    db.sql(TABLE);
    role(&db, "some_reader");
    let dsn = limited(&db, "modest");
    db.sql("GRANT SELECT ON t TO some_reader");
    let before = dump(&db);
    let running = spawn(&dsn, &["alter", "t", "ALTER id TYPE bigint", "--postpone-cutover", "--format", "json"]);
    running.wait_for_event("the wait", super::SOON, |event| event["event"] == "waiting");
    Session::connect(&dsn)
        .sql("UPDATE t SET v = NULL WHERE id = 7; DELETE FROM t WHERE id = 8; INSERT INTO t VALUES (99)");
    assert_eq!(spawn(&dsn, &["cutover"]).wait().code, Some(0));
    let output = running.wait();
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    let finished = spawn(&dsn, &["finish", &only_migration(&db)]).wait();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_nothing_left(&db);
    assert_eq!(dump(&db), before.replace("id integer NOT NULL", "id bigint NOT NULL"));
    assert_eq!(db.query_one_text("SELECT count(*) || ' ' || count(v) FROM t"), "50 48");
}

#[test]
fn a_migration_that_is_not_over_is_resumed_or_stands_in_the_way() {
    let db = Db::new();
    db.sql(TABLE);
    let clauses = "ALTER id TYPE bigint";
    let killed = Postponed::start(&db, "t", clauses, &[]);
    let id = killed.id.clone();
    killed.running.kill();
    let kept = dump(&db);
    let other = pgrecast(&db, &["alter", "t", "ADD COLUMN x int"]);
    assert_error(&other, 3, &["is being migrated already", clauses, &format!("pgrecast abort {id}")]);
    assert!(dump(&db) == kept);
    db.sql("UPDATE t SET v = 'meanwhile' WHERE id = 3");
    let same = pgrecast(&db, &["alter", "t", clauses]);
    assert_eq!(same.code, Some(0), "{}", same.stderr);
    assert_eq!(db.query_one_text("SELECT pg_typeof(id) || ' ' || v FROM t WHERE id = 3"), "bigint meanwhile");
    assert_eq!(pgrecast(&db, &["finish", &id]).code, Some(0));
    assert_nothing_left(&db);
}

#[test]
fn an_aborted_migration_leaves_the_table_as_it_was() {
    let db = Db::new();
    db.sql(TABLE);
    db.sql("ALTER TABLE t REPLICA IDENTITY NOTHING");
    let (schema, rows) = (dump(&db), db.rows(ROWS));
    let run = Postponed::start(&db, "t", "ALTER id TYPE bigint, DROP COLUMN v", &[]);
    let id = run.id.clone();
    run.running.kill();
    let aborted = pgrecast(&db, &["abort", &id]);
    assert_eq!(aborted.code, Some(0), "{}", aborted.stderr);
    assert_nothing_left(&db);
    assert_eq!((dump(&db), db.rows(ROWS)), (schema, rows));
    assert_error(&pgrecast(&db, &["abort", &id]), 2, &["there is no migration"]);
}

#[test]
fn a_failover_slot_is_refused_where_nobody_would_keep_it() {
    let db = Db::new();
    db.sql(TABLE);
    let words = match db.major() {
        ..17 => "--failover-slot: the server is PostgreSQL",
        17.. => "--failover-slot: synchronized_standby_slots names no standby",
    };
    refused(&db, &["alter", "t", "", "--failover-slot"], 3, &[words]);
}
