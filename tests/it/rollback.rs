//! After the swap the old table follows the new one, and a rollback brings it back without losing a write.

use nix::sys::signal::Signal;

use crate::harness::load::{Load, LoadReport, Options, Shape};
use crate::harness::migration::{SOON, command, finish, phase_of, wait_until, widen};
use crate::harness::{Db, Output, Running, assert_nothing_left, dump, leftovers, wait_for};

const WINDOW: &[&str] = &["--rollback-window", "10m"];

/// The number of the only migration.
fn id(db: &Db) -> String {
    db.query_one_text("SELECT id FROM pgrecast.migration")
}

/// Waits until the old table follows.
fn rollback(db: &Db) -> Output {
    command(db, &["rollback", &id(db)]).wait()
}

/// A table of the load's, its traffic, and its schema as it was.
struct Stage {
    db: Db,
    load: Load,
    before: String,
}

impl Stage {
    fn new(seed: u64) -> Stage {
        let db = Db::new();
        db.sql(Shape::plain_ddl());
        let before = dump(&db);
        let load = Load::start(&db, &Shape::plain(), &Options::paced(seed));
        Stage { db, load, before }
    }

    fn start(&self) -> Running {
        widen(&self.db, WINDOW)
    }

    /// The old table is back, holds what the load says, and is all there is.
    fn assert_as_before(self) -> LoadReport {
        self.load.wait_for_more(300, SOON);
        let report = self.load.stop();
        report.assert_kept(&self.db, &Shape::plain().select_all());
        finish(&self.db);
        assert_eq!(dump(&self.db), self.before);
        report
    }
}

#[test]
fn under_traffic_no_write_of_either_side_is_lost() {
    let stage = Stage::new(201);
    let running = stage.start();
    running.wait_for_window();
    stage.load.wait_for_more(1_000, SOON);
    let ended = rollback(&stage.db);
    let report = ended.done();
    assert_eq!(report["outcome"], "done");
    assert!(report["cutover"]["write_blocked"].as_f64().is_some_and(|s| s < 1.0), "{report}");
    running.wait().done();
    assert_eq!(phase_of(&stage.db), "rolled back");
    // What the application wrote into the new table's own columns is still there, until finish.
    assert_eq!(stage.db.query_one_text("SELECT count(*) FROM t_new WHERE extra IS DISTINCT FROM 'none'"), "0");
    stage.assert_as_before();
}

#[test]
fn killed_in_the_window_it_is_resumed_and_rolled_back() {
    let stage = Stage::new(202);
    let running = stage.start();
    running.wait_for_window();
    stage.load.wait_for_more(200, SOON);
    running.kill();
    stage.load.wait_for_more(200, SOON);
    let mut again = command(&stage.db, &["resume"]);
    again.wait_for_window();
    stage.load.wait_for_more(200, SOON);
    again.signal(Signal::SIGINT);
    again.wait().ended(130);
    stage.load.wait_for_more(200, SOON);
    // Nobody has it now: the rollback catches up by itself. The same command as at first would go on, too.
    let same = stage.start();
    same.wait_for_window();
    same.kill();
    rollback(&stage.db).done();
    stage.assert_as_before();
}

#[test]
fn killed_in_a_rollback_the_next_one_ends_it() {
    let stage = Stage::new(203);
    let running = stage.start();
    running.wait_for_window();
    // An idle reader of the new table keeps the rollback from its lock.
    let reader = stage.db.connect();
    reader.sql("BEGIN; SELECT count(*) FROM t");
    let first = command(&stage.db, &["rollback", &id(&stage.db)]);
    first.wait_for_event("an attempt in vain", SOON, |e| e["event"] == "cutover_attempt");
    running.wait().done();
    first.kill();
    reader.sql("ROLLBACK");
    rollback(&stage.db).done();
    stage.assert_as_before();
}

#[test]
fn the_window_ends_and_nothing_of_the_way_back_is_left() {
    let stage = Stage::new(204);
    let running = widen(&stage.db, &["--rollback-window", "1s"]);
    running.wait().done();
    assert_eq!(phase_of(&stage.db), "complete");
    let left = leftovers(&stage.db);
    assert!(!left.iter().any(|l| l.contains("slot") || l.contains("publication") || l.contains("journal")), "{left:?}");
    let refused = rollback(&stage.db);
    refused.ended(2);
    assert!(refused.stderr.contains("window of migration"), "{}", refused.stderr);
    stage.load.wait_for_more(100, SOON);
    stage.load.stop().assert_kept(&stage.db, &Shape::plain().select_all());
    finish(&stage.db);
}

#[test]
fn finish_ends_the_window() {
    let stage = Stage::new(205);
    let running = stage.start();
    running.wait_for_window();
    finish(&stage.db);
    running.wait().done();
    stage.load.wait_for_more(100, SOON);
    stage.load.stop().assert_kept(&stage.db, &Shape::plain().select_all());
    assert_nothing_left(&stage.db);
}

#[test]
fn aborted_before_the_swap_it_leaves_nothing() {
    let stage = Stage::new(206);
    let mut running = widen(&stage.db, &[WINDOW, &["--postpone-cutover"]].concat());
    running.wait_for_waiting("pgrecast cutover");
    running.signal(Signal::SIGTERM);
    running.wait().ended(130);
    command(&stage.db, &["abort"]).wait().ended(0);
    stage.load.stop().assert_kept(&stage.db, &Shape::plain().select_all());
    assert_nothing_left(&stage.db);
    assert_eq!(dump(&stage.db), stage.before);
}

/// A table with something of everything that hangs on it, a column that goes and two that change.
const TIED: &str = "
    CREATE TABLE log (what text);
    CREATE TABLE parent (id int PRIMARY KEY);
    INSERT INTO parent SELECT generate_series(1, 20);
    CREATE TABLE t (id serial PRIMARY KEY, name text, a int UNIQUE, gone text DEFAULT 'new', p int REFERENCES parent ON DELETE CASCADE,
        boss int REFERENCES t, twice int GENERATED ALWAYS AS (p * 2) STORED, CHECK (a > -100));
    CREATE INDEX by_name ON t (lower(name)) INCLUDE (a);
    CREATE TABLE child (t_id int REFERENCES t ON DELETE SET NULL);
    CREATE VIEW shown AS SELECT id, name, a FROM t WHERE a > 0;
    CREATE VIEW counted AS SELECT count(*) AS n FROM shown;
    CREATE MATERIALIZED VIEW stored AS SELECT id, name FROM t;
    CREATE UNIQUE INDEX stored_id ON stored (id);
    CREATE FUNCTION all_of_it() RETURNS SETOF t LANGUAGE sql AS 'SELECT * FROM public.t';
    CREATE FUNCTION how_many() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM t; END;
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO public.log VALUES (TG_OP); RETURN NULL; END $$;
    CREATE TRIGGER noted AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION note();
    CREATE RULE never AS ON UPDATE TO t WHERE NEW.a = 13 DO INSTEAD NOTHING;
    ALTER TABLE t ENABLE ROW LEVEL SECURITY;
    CREATE POLICY seen ON t USING (a < 1000);
    CREATE STATISTICS pairs ON name, a FROM t;
    COMMENT ON TABLE t IS 'the table';
    COMMENT ON COLUMN t.a IS 'a number';
    GRANT SELECT ON t TO public;
    GRANT UPDATE (name) ON t TO public;
    INSERT INTO t (name, a, gone, p, boss) SELECT 'n' || n, n, 'old ' || n, n % 20 + 1, CASE WHEN n = 2 THEN 1 END FROM generate_series(1, 100) n;
    INSERT INTO child SELECT generate_series(1, 50);
    DELETE FROM log;";

const CHANGE: &str =
    "ALTER id TYPE bigint, ALTER a TYPE bigint, DROP gone, ADD more int DEFAULT 7, RENAME name TO title";

#[test]
fn what_hangs_on_the_table_comes_back_with_it_and_fires_once() {
    let db = Db::new();
    db.sql(TIED);
    let before = dump(&db);
    let running = command(
        &db,
        &[
            &["alter", "t", "ALTER id TYPE bigint, DROP COLUMN gone, ADD more int DEFAULT 7, RENAME name TO title"],
            WINDOW,
        ]
        .concat(),
    );
    running.wait_for_window();
    db.sql(
        "INSERT INTO t (title, a, p) VALUES ('in the window', 500, 3);
         UPDATE t SET title = 'changed' WHERE id = 5;
         DELETE FROM t WHERE id = 100;
         DELETE FROM parent WHERE id = 20",
    );
    rollback(&db).done();
    running.wait().done();
    finish(&db);
    assert_eq!(dump(&db), before);
    // A row of the new table gets what an INSERT without the column gives; the others have what they had.
    assert_eq!(db.query_one_text("SELECT gone FROM t WHERE a = 500"), "new");
    assert_eq!(db.query_one_text("SELECT name || ', ' || gone FROM t WHERE id = 5"), "changed, old 5");
    let kept = "SELECT count(*) FROM t WHERE id <= 100 AND gone = 'old ' || id AND twice = p * 2";
    assert_eq!(db.query_one_text(kept), db.query_one_text("SELECT count(*) - 1 FROM t"));
    let fired = db.query_one_text(
        "SELECT string_agg(what || n, ' ' ORDER BY what) FROM (SELECT what, count(*) AS n FROM log GROUP BY what) AS s",
    );
    // Five rows went with their parent. The old table's own writes fire nothing.
    assert_eq!(fired, "DELETE6 INSERT1 UPDATE1");
    for wrong in
        ["INSERT INTO child VALUES (100)", "INSERT INTO t (a, p) VALUES (600, 999)", "INSERT INTO t (a) VALUES (-200)"]
    {
        assert!(db.connect().try_sql(wrong).is_err(), "{wrong}");
    }
    let rows = db.query_one_text("SELECT count(*) FROM t");
    for also in [
        "SELECT n FROM counted",
        "SELECT count(*) FROM stored",
        "SELECT count(*) FROM all_of_it()",
        "SELECT how_many()",
    ] {
        assert_eq!(db.query_one_text(also), rows, "{also}");
    }
    db.sql("REFRESH MATERIALIZED VIEW CONCURRENTLY stored");
    assert_nothing_left(&db);
}

#[test]
fn values_of_a_dropped_column_outlive_an_exchange_of_unique_values() {
    let db = Db::new();
    db.sql(TIED);
    let running = command(&db, &[&["alter", "t", CHANGE], WINDOW].concat());
    running.wait_for_window();
    db.sql(
        "BEGIN; UPDATE t SET a = -1 WHERE id = 1; UPDATE t SET a = 1 WHERE id = 2; UPDATE t SET a = 2 WHERE id = 1; COMMIT;
         BEGIN; DELETE FROM child; UPDATE t SET id = 1001 WHERE id = 99; COMMIT",
    );
    wait_until(
        &db,
        "the exchange in the old table",
        "SELECT string_agg(a::text, ' ' ORDER BY id) FROM t_old WHERE id IN (1, 2)",
        "2 1",
    );
    rollback(&db).done();
    running.wait().done();
    finish(&db);
    assert_eq!(
        db.query_one_text("SELECT string_agg(gone, ', ' ORDER BY id) FROM t WHERE id IN (1, 2)"),
        "old 1, old 2"
    );
    assert_eq!(db.query_one_text("SELECT count(*) FROM t WHERE id = 1001"), "1");
}

#[test]
fn a_row_that_cannot_go_back_is_named_at_once_and_by_the_rollback() {
    let db = Db::new();
    db.sql(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT n, 'v' || n FROM generate_series(1, 100) n",
    );
    let running = command(&db, &[&["alter", "t", "ALTER id TYPE bigint"], WINDOW].concat());
    running.wait_for_window();
    db.sql("INSERT INTO t VALUES (3000000000, 'wide'), (200, 'narrow'); UPDATE t SET v = 'later' WHERE id = 7");
    running.wait_for_event("the row", SOON, |e| {
        e["event"] == "warning" && e["text"].as_str().is_some_and(|t| t.contains("\"id\" = 3000000000"))
    });
    wait_until(&db, "the other rows", "SELECT count(*) FROM t_old WHERE v IN ('narrow', 'later')", "2");
    let refused = rollback(&db);
    refused.ended(1);
    assert!(
        refused.stderr.contains("\"id\" = 3000000000") && refused.stderr.contains("out of range"),
        "{}",
        refused.stderr
    );
    running.wait().done();
    assert_eq!(phase_of(&db), "keep in step");
    // The application still uses the new table; the row is corrected there.
    let again = command(&db, &["resume"]);
    again.wait_for_window();
    again.wait_for_event("the row, said again", SOON, |e| {
        e["event"] == "warning" && e["text"].as_str().is_some_and(|t| t.contains("\"id\" = 3000000000"))
    });
    db.sql("UPDATE t SET id = 300 WHERE id = 3000000000");
    rollback(&db).done();
    again.wait().done();
    assert_eq!(
        db.query_one_text("SELECT string_agg(id || v, ' ' ORDER BY id) FROM t WHERE id >= 100"),
        "100v100 200narrow 300wide"
    );
    assert_eq!(db.query_one_text("SELECT pg_typeof(id) FROM t LIMIT 1"), "integer");
    finish(&db);
}

#[test]
fn an_expression_needs_its_reverse() {
    let db = Db::new();
    db.sql("CREATE TABLE t (id int PRIMARY KEY, cents int); INSERT INTO t SELECT n, n * 100 + 5 FROM generate_series(1, 50) n");
    let clauses = "ALTER cents TYPE numeric USING cents / 100.0, RENAME cents TO price";
    let refused = command(&db, &[&["alter", "t", clauses], WINDOW].concat()).wait();
    refused.ended(3);
    assert!(refused.stderr.contains("--reverse 'cents ="), "{}", refused.stderr);
    let unknown = command(&db, &[&["alter", "t", clauses, "--reverse", "nothing = 1"], WINDOW].concat()).wait();
    unknown.ended(2);
    let wrong =
        command(&db, &[&["alter", "t", clauses, "--reverse", "cents = price), DROP (id"], WINDOW].concat()).wait();
    wrong.ended(2);
    assert_nothing_left(&db);
    let running = command(&db, &[&["alter", "t", clauses, "--reverse", "cents = round(price * 100)"], WINDOW].concat());
    running.wait_for_window();
    db.sql("INSERT INTO t VALUES (1000, 12.34); UPDATE t SET price = price + 1 WHERE id = 1");
    rollback(&db).done();
    running.wait().done();
    assert_eq!(
        db.query_one_text("SELECT string_agg(cents::text, ' ' ORDER BY id) FROM t WHERE id IN (1, 2, 1000)"),
        "205 205 1234"
    );
    finish(&db);
}

#[test]
fn a_truncate_in_the_window_goes_back_too() {
    let db = Db::new();
    db.sql(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT n, 'v' || n FROM generate_series(1, 100) n",
    );
    let running = command(&db, &[&["alter", "t", "ALTER id TYPE bigint"], WINDOW].concat());
    running.wait_for_window();
    db.sql("INSERT INTO t VALUES (500, 'before'); TRUNCATE t; INSERT INTO t VALUES (1, 'after')");
    wait_for("the old table", SOON, || {
        let seen = db.query_one_text("SELECT string_agg(id || v, ' ') FROM t_old");
        if seen == "1after" { Ok(()) } else { Err(seen) }
    });
    rollback(&db).done();
    running.wait().done();
    assert_eq!(db.query_one_text("SELECT string_agg(id || v, ' ') FROM t"), "1after");
    finish(&db);
}

#[test]
fn what_has_no_way_back_is_refused_by_name() {
    let db = Db::new();
    db.sql("CREATE TABLE t (id int PRIMARY KEY, must text NOT NULL, d int, CONSTRAINT later UNIQUE (d) DEFERRABLE)");
    for (clauses, words) in [("DROP must", "later"), ("ALTER id TYPE bigint", "deferrable")] {
        let refused = command(&db, &[&["alter", "t", clauses], WINDOW].concat()).wait();
        refused.ended(3);
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
    }
    db.sql("ALTER TABLE t DROP CONSTRAINT later");
    if db.major() >= 15 {
        db.sql("CREATE PUBLICATION told FOR TABLES IN SCHEMA public");
        let refused = command(&db, &[&["alter", "t", "ALTER id TYPE bigint"], WINDOW].concat()).wait();
        refused.ended(3);
        assert!(refused.stderr.contains("publication told would send what goes back"), "{}", refused.stderr);
        db.sql("DROP PUBLICATION told");
    }
    db.sql("CREATE TABLE whole (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE half PARTITION OF whole FOR VALUES FROM (0) TO (9)");
    let refused = command(&db, &[&["alter", "half", ""], WINDOW].concat()).wait();
    refused.ended(3);
    assert!(refused.stderr.contains("is a partition"), "{}", refused.stderr);
    let refused = command(&db, &[&["alter", "t", "DROP must"], WINDOW].concat()).wait();
    refused.ended(3);
    assert!(refused.stderr.contains("column must is dropped and NOT NULL"), "{}", refused.stderr);
    let moved = command(&db, &[&["alter", "t", "", "--primary-key", "id,must"], WINDOW].concat()).wait();
    assert_eq!(moved.code, Some(3), "{}", moved.stderr);
    assert_nothing_left(&db);
}
