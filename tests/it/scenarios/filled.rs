//! Materialized views while a migration runs: always readable, never older than before, whatever ends the run.

use std::sync::atomic::{AtomicU32, Ordering};

use super::only_migration;
use super::twins::difference;
use crate::harness::migration::{SOON, command, finish, wait_until};
use crate::harness::{
    Db, Running, Session, assert_nothing_left, beside, dump, server, spawn, vacuuming_server, wait_for,
};

const SETUP: &str = "
    CREATE TABLE t (id int PRIMARY KEY, n int, at timestamptz);
    INSERT INTO t SELECT n, n, '2024-01-01 20:00+00'::timestamptz + n * interval '1 h' FROM generate_series(1, 2000) n;
    CREATE FUNCTION gate() RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN 1; END $$;
    CREATE MATERIALIZED VIEW m AS SELECT t.id, t.n FROM t;
    CREATE UNIQUE INDEX m_id ON m (id);
    CREATE MATERIALIZED VIEW total AS SELECT count(m.id) AS rows, max(m.n) AS most, gate() AS gate FROM m;
    COMMENT ON MATERIALIZED VIEW total IS 'all';";

/// How many stand on the shadow, and how many of those are complete.
const MADE: &str = "SELECT count(*) || ',' || count(obj_description(oid, 'pg_class')) FROM pg_class \
    WHERE relnamespace = to_regnamespace('pgrecast') AND relname ~ '^shadow_\\d+_made_\\d+$'";

fn made(db: &Db, what: &str, expected: &str) {
    wait_until(db, what, MADE, expected);
}

fn postponed(db: &Db, clauses: &str) -> Running {
    let running = command(db, &["alter", "t", clauses, "--postpone-cutover"]);
    running.wait_for_waiting("pgrecast cutover");
    running
}

fn release(db: &Db, running: Running) {
    command(db, &["cutover"]).wait().ended(0);
    running.done();
}

fn assert_schema(db: &Db, before: &str) {
    let after = dump(db);
    assert!(before == after, "{}", difference(before, &after));
}

#[test]
fn a_reader_sees_it_all_the_time_and_never_an_older_one() {
    let db = Db::new();
    db.sql(SETUP);
    let (reads, refreshes) = (AtomicU32::new(0), AtomicU32::new(0));
    let application = |number, goes_on: &dyn Fn() -> bool| {
        let session = db.connect();
        let mut last = 0;
        session.sql("PREPARE newest AS SELECT max(n) FROM m");
        while goes_on() {
            match number {
                1 => {
                    session.sql("UPDATE t SET n = n + 1 WHERE id = 2000");
                    session.sql("REFRESH MATERIALIZED VIEW CONCURRENTLY m");
                    session.sql("SELECT pg_sleep(1)");
                    refreshes.fetch_add(1, Ordering::Relaxed);
                }
                2 => session.sql("SELECT m.n, total.most FROM m, total WHERE m.id = 5"),
                _ => {
                    let seen = session.query_one_text("EXECUTE newest").parse::<i64>().expect("a number");
                    assert!(seen >= last, "{seen} after {last}");
                    last = seen;
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    };
    let before = dump(&db);
    // A fast server migrates three times between two of its refreshes.
    let enough = || reads.load(Ordering::Relaxed) > 100 && refreshes.load(Ordering::Relaxed) > 5;
    beside(4, application, || {
        let mut rounds = 0;
        while rounds < 3 || !enough() {
            command(&db, &["alter", "t", ""]).done();
            finish(&db);
            rounds += 1;
        }
    });
    assert_schema(&db, &before);
}

#[test]
fn what_is_refreshed_meanwhile_is_filled_again() {
    for refresh in ["REFRESH MATERIALIZED VIEW m", "REFRESH MATERIALIZED VIEW CONCURRENTLY m"] {
        let db = Db::new();
        db.sql(SETUP);
        let running = postponed(&db, "ALTER id TYPE bigint");
        made(&db, "both", "2,2");
        db.sql("UPDATE t SET n = 77777 WHERE id = 1");
        db.sql(refresh);
        release(&db, running);
        assert_eq!(db.query_one_text("SELECT max(n) FROM m"), "77777", "{refresh}");
        finish(&db);
    }
}

#[test]
fn a_refresh_that_lasts_is_waited_for() {
    let db = Db::new();
    db.sql(SETUP);
    let running = postponed(&db, "ALTER id TYPE bigint");
    let refresher = db.connect();
    refresher.sql("BEGIN; REFRESH MATERIALIZED VIEW m");
    command(&db, &["cutover"]).wait().ended(0);
    let waiting = running.wait_for_waiting("a lock on a view");
    assert!(waiting.contains("read views"), "{waiting}");
    refresher.sql("COMMIT");
    running.done();
    finish(&db);
}

#[test]
fn two_migrations_share_one() {
    let db = Db::new();
    db.sql(SETUP);
    db.sql(
        "CREATE TABLE u (id int PRIMARY KEY, n int); INSERT INTO u SELECT n, n FROM generate_series(1, 50) n;
         CREATE MATERIALIZED VIEW both_of AS SELECT t.id, u.id AS u FROM t JOIN u USING (n); CREATE INDEX of_both ON both_of (id, u);
         CREATE VIEW shown AS SELECT both_of.u FROM both_of",
    );
    let before = dump(&db);
    let (first, second) = (
        postponed(&db, "ALTER id TYPE bigint"),
        command(&db, &["alter", "u", "ALTER id TYPE bigint", "--postpone-cutover"]),
    );
    second.wait_for_waiting("pgrecast cutover");
    for (running, table) in [(first, "t"), (second, "u")] {
        let id = db.query_one_text(&format!("SELECT id FROM pgrecast.migration WHERE source = 'public.{table}'"));
        command(&db, &["cutover", &id]).wait().ended(0);
        running.done();
    }
    for id in ["2", "1"] {
        command(&db, &["finish", id]).wait().ended(0);
    }
    assert_nothing_left(&db);
    assert_schema(&db, &widened(&before));
    assert_eq!(db.query_one_text("SELECT count(*) || pg_typeof(max(u))::text FROM both_of"), "50bigint");
}

#[test]
fn one_that_was_empty_and_is_refreshed_meanwhile_is_filled() {
    let db = Db::new();
    db.sql(SETUP);
    db.sql("REFRESH MATERIALIZED VIEW total WITH NO DATA");
    let running = postponed(&db, "");
    db.sql("REFRESH MATERIALIZED VIEW total");
    release(&db, running);
    assert_eq!(db.query_one_text("SELECT rows FROM total"), "2000");
    finish(&db);
}

const LATE: &str = "
    CREATE MATERIALIZED VIEW late AS SELECT total.rows FROM total; CREATE VIEW shown AS SELECT t.id FROM t;
    CREATE MATERIALIZED VIEW of_shown AS SELECT shown.id FROM shown; CREATE INDEX of_shown_id ON of_shown (id);
    CREATE INDEX m_n ON m (n); ALTER MATERIALIZED VIEW m RENAME COLUMN n TO \"An n\"; COMMENT ON MATERIALIZED VIEW total IS NULL;";

/// The schema after the change of the key's type.
fn widened(dump: &str) -> String {
    dump.replace("    id integer NOT NULL", "    id bigint NOT NULL")
}

#[test]
fn what_is_made_or_changed_late_is_carried() {
    let db = Db::new();
    db.sql(SETUP);
    let running = postponed(&db, "ALTER id TYPE bigint");
    db.sql(LATE);
    release(&db, running);
    assert_eq!(db.query_one_text("SELECT max(id) || pg_typeof(max(id))::text FROM of_shown"), "2000bigint");
    assert_eq!(db.query_one_text("SELECT rows FROM late"), "2000");
    finish(&db);
    let by_hand = Db::new();
    by_hand.sql(SETUP);
    by_hand.sql(LATE);
    assert_schema(&db, &widened(&dump(&by_hand)));

    let running = postponed(&db, "");
    db.sql("DROP MATERIALIZED VIEW m CASCADE; DROP VIEW shown CASCADE");
    release(&db, running);
    finish(&db);
    assert_eq!(db.query_one_text("SELECT count(*) FROM pg_class WHERE relkind = 'm'"), "0");
}

/// A run that cannot fill the second one, which waits for a lock, and the session that has it.
fn stuck(db: &Db) -> (Running, Session) {
    let holder = db.connect();
    holder.sql("BEGIN; SELECT pg_advisory_xact_lock(7)");
    let running = command(db, &["alter", "t", "ALTER id TYPE bigint"]);
    made(db, "one of two", "2,1");
    (running, holder)
}

#[test]
fn killed_while_it_fills_and_resumed() {
    let db = Db::new();
    db.sql(SETUP);
    let before = dump(&db);
    let (running, holder) = stuck(&db);
    running.kill();
    holder.sql("ROLLBACK");
    command(&db, &["resume"]).done();
    assert_eq!(db.query_one_text("SELECT rows || ',' || most || ',' || gate FROM total"), "2000,2000,1");
    finish(&db);
    assert_schema(&db, &widened(&before));

    let running = postponed(&db, "ALTER id TYPE int");
    let complete =
        "SELECT string_agg(oid::text, ',' ORDER BY oid) FROM pg_class WHERE relname ~ '^shadow_\\d+_made_\\d+$'";
    let first = db.query_one_text(complete);
    running.kill();
    // What is complete is not made again.
    let resumed = command(&db, &["resume"]);
    resumed.wait_for_waiting("pgrecast cutover");
    assert_eq!(db.query_one_text(complete), first);
    release(&db, resumed);
    finish(&db);
    assert_schema(&db, &before);
}

#[test]
fn abort_leaves_nothing() {
    let db = Db::new();
    db.sql(SETUP);
    let before = dump(&db);
    let (running, holder) = stuck(&db);
    running.kill();
    holder.sql("ROLLBACK");
    command(&db, &["abort"]).wait().ended(0);
    assert_schema(&db, &before);
    assert_nothing_left(&db);
}

#[test]
fn one_that_cannot_be_filled_is_named() {
    let db = Db::new();
    db.sql(SETUP);
    db.sql("CREATE MATERIALIZED VIEW divided AS SELECT 1 / t.n AS part FROM t; UPDATE t SET n = 0 WHERE id = 9");
    let output = command(&db, &["alter", "t", ""]).wait();
    output.ended(1);
    for words in ["materialized view public.divided cannot be filled", "division by zero", "pgrecast resume"] {
        assert!(output.stderr.contains(words), "no {words:?} in {}", output.stderr);
    }
    assert_eq!(db.query_one_text("SELECT count(*) FROM divided"), "2000");
    db.sql("DROP MATERIALIZED VIEW divided");
    command(&db, &["resume"]).done();
    finish(&db);
}

#[test]
fn it_is_filled_with_the_settings_of_the_role() {
    let db = Db::new();
    db.sql(SETUP);
    db.sql(&format!("ALTER DATABASE {} SET TimeZone = 'Asia/Tokyo'", db.name()));
    db.connect().sql("CREATE MATERIALIZED VIEW days AS SELECT date_trunc('day', t.at) AS day, count(*), min(t.at::text) FROM t GROUP BY 1");
    let rows = "SELECT day::text, count, min FROM days ORDER BY 1";
    let before = db.connect().rows(rows);
    command(&db, &["alter", "t", "ALTER at TYPE timestamp(0) with time zone", "--setting", "TimeZone=UTC"]).done();
    assert_eq!(db.connect().rows(rows), before);
    finish(&db);
}

#[test]
fn an_autovacuum_of_one_yields() {
    let server = vacuuming_server();
    let db = Db::on(&server);
    db.sql(
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 30000);
         CREATE MATERIALIZED VIEW m AS SELECT id, clock_timestamp() AS at, repeat('x', 500) AS filler FROM t;
         CREATE UNIQUE INDEX ON m (id); REFRESH MATERIALIZED VIEW CONCURRENTLY m",
    );
    let at_work = "SELECT count(*) FROM pg_stat_progress_vacuum WHERE relid = 'm'::regclass";
    wait_for("an autovacuum of the view", SOON, || match db.query_one_text(at_work).as_str() {
        "0" => Err("none".into()),
        _ => Ok(()),
    });
    let report = command(&db, &["alter", "t", "", "--cutover-attempts", "5"]).done();
    assert!(server.log().contains("canceling autovacuum task"), "{report}: {}", server.log_tail());
    finish(&db);
}

#[test]
fn a_role_that_owns_table_and_views_is_enough() {
    let db = Db::new();
    db.sql(SETUP);
    db.sql(&format!(
        "CREATE ROLE stored_owner LOGIN PASSWORD 'secret' REPLICATION; GRANT CREATE ON DATABASE {} TO stored_owner;
        GRANT CREATE ON SCHEMA public TO stored_owner; CREATE SCHEMA closed;
        GRANT USAGE ON SCHEMA closed TO stored_owner;
        ALTER TABLE t OWNER TO stored_owner; ALTER MATERIALIZED VIEW m OWNER TO stored_owner",
        db.name()
    ));
    let dsn = server().dsn_for("stored_owner", "secret", db.name());
    let args = ["alter", "t", "ALTER id TYPE bigint"];
    for (words, remedy) in [
        (
            "materialized view public.total belongs to another role",
            "ALTER MATERIALIZED VIEW total SET SCHEMA closed; ALTER MATERIALIZED VIEW closed.total OWNER TO stored_owner",
        ),
        (
            "materialized view closed.total has to be made again, and this role or its owner may create nothing in its schema",
            "GRANT CREATE ON SCHEMA closed TO stored_owner",
        ),
    ] {
        let before = dump(&db);
        let output = spawn(&dsn, &args).wait();
        assert_eq!(output.code, Some(3), "{}{}", output.stdout, output.stderr);
        assert!(output.stderr.contains(words), "no {words:?} in {}", output.stderr);
        assert_schema(&db, &before);
        db.sql(remedy);
    }
    let before = dump(&db);
    let output = spawn(&dsn, &args).wait();
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    let finished = spawn(&dsn, &["finish", &only_migration(&db)]).wait();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_nothing_left(&db);
    assert_schema(&db, &widened(&before));
}

#[test]
fn a_long_reader_of_one_is_waited_for_and_named() {
    let db = Db::new();
    db.sql(SETUP);
    let reader = db.connect();
    reader.sql("BEGIN; SELECT * FROM total");
    let running = command(&db, &["alter", "t", ""]);
    let attempt = running.wait_for_event("an attempt in vain", SOON, |e| e["event"] == "cutover_attempt");
    let outcome = attempt["outcome"].as_str().unwrap_or_default();
    assert!(outcome.contains("SELECT * FROM total"), "{outcome}");
    reader.sql("COMMIT");
    running.done();
    wait_for("its rows", SOON, || match db.query_one_text("SELECT rows FROM total").as_str() {
        "2000" => Ok(()),
        other => Err(other.to_owned()),
    });
    finish(&db);
}
