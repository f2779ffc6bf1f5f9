//! A table becomes partitioned: rows, ties and names are those of one that was made so.

mod again;
mod back;
mod below;
mod kinds;
mod refused;
mod same;
mod unplaced;

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{SOON, only_migration};
use crate::harness::load::{Load, Options, Shape};
use crate::harness::migration::{command, finish, wait_until};
use crate::harness::{Db, Running, assert_nothing_left, beside, dump, pgrecast};

/// The load's table, with a column that tells the partition.
const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, u int, v text, n numeric, d int NOT NULL DEFAULT 0)";

/// Partitions of [`TABLE`].
const BY: &[&str] = &["partition", "t", "--range", "d", "--bounds", "0,1,2,3,4,5"];

/// Starts it with more options, told as events.
fn partition(db: &Db, more: &[&str]) -> Running {
    command(db, &[BY, more].concat())
}

/// Runs it to its end, and gives what it said.
fn partitioned(db: &Db, options: &[&str]) {
    let output = pgrecast(db, &[&["partition", "t"], options].concat());
    assert_eq!(output.code, Some(0), "{options:?}: {}{}", output.stdout, output.stderr);
}

/// An application that moves rows of its own from partition to partition, and knows where each is.
#[derive(Default)]
struct Mover {
    moves: AtomicU64,
    places: Mutex<HashMap<u64, u64>>,
}

impl Mover {
    /// The first of its keys: the load's are below.
    const FIRST: u64 = 1_000_000;
    /// A prime, so that a row comes to another place each time.
    const ROWS: u64 = 199;

    fn fill(db: &Db) -> Mover {
        let (first, last) = (Mover::FIRST, Mover::FIRST + Mover::ROWS - 1);
        db.sql(&format!("INSERT INTO t (id, v) SELECT i, 'moves' FROM generate_series({first}, {last}) i"));
        let places = (first..=last).map(|id| (id, 0)).collect();
        Mover { moves: AtomicU64::new(0), places: Mutex::new(places) }
    }

    /// Moves one row, or two in a transaction that may be taken back; now and then one goes and comes again elsewhere.
    fn run(&self, db: &Db, goes_on: &dyn Fn() -> bool) {
        let session = db.connect();
        while goes_on() {
            let turn = self.moves.fetch_add(1, Ordering::Relaxed);
            let (one, other) = (Mover::FIRST + turn * 7 % Mover::ROWS, Mover::FIRST + (turn * 7 + 3) % Mover::ROWS);
            let (to, back) = (turn * 3 % 5, turn % 5);
            let update = |id: u64, d: u64| format!("UPDATE t SET d = {d} WHERE id = {id}");
            match turn % 4 {
                0 => session.sql(&format!("BEGIN; {}; {}; COMMIT", update(one, to), update(other, back))),
                1 => session.sql(&format!("BEGIN; {}; {}; ROLLBACK", update(one, to), update(other, back))),
                2 => session.sql(&format!(
                    "BEGIN; DELETE FROM t WHERE id = {one}; INSERT INTO t (id, v, d) VALUES ({one}, 'again', {to}); COMMIT"
                )),
                _ => session.sql(&update(one, to)),
            }
            let mut places = self.places.lock().expect("the books");
            if turn % 4 != 1 {
                places.insert(one, to);
            }
            if turn.is_multiple_of(4) {
                places.insert(other, back);
            }
        }
    }

    fn wait_for_more(&self, moves: u64) {
        let wanted = self.moves.load(Ordering::Relaxed) + moves;
        crate::harness::wait_for("moved rows", SOON, || {
            let now = self.moves.load(Ordering::Relaxed);
            if now >= wanted { Ok(()) } else { Err(now.to_string()) }
        });
    }

    /// Row by row: each is there once, where it was put; in a partitioned table, or in one that is not.
    fn assert_kept(self, db: &Db, partitioned: bool) {
        let mut places = self.places.into_inner().expect("the books");
        for row in db.rows(&format!("SELECT id, d, tableoid::regclass FROM t WHERE id >= {}", Mover::FIRST)) {
            let [Some(id), Some(d), Some(table)] = &row[..] else { panic!("{row:?}") };
            let wanted = places.remove(&id.parse().expect("a key"));
            assert_eq!(wanted.map(|d| d.to_string()).as_ref(), Some(d), "row {id}");
            assert_eq!(*table, if partitioned { format!("t_{d}") } else { "t".to_owned() }, "row {id}");
        }
        assert!(places.is_empty(), "missing: {places:?}");
    }
}

/// Both applications beside the work; then their books are looked at.
fn under_traffic(seed: u64, partitioned: bool, work: impl FnOnce(&Db, &Mover)) -> Db {
    traffic_on(TABLE, seed, partitioned, work)
}

/// The same on another table, which is partitioned in the end or is not.
fn traffic_on(table: &str, seed: u64, partitioned: bool, work: impl FnOnce(&Db, &Mover)) -> Db {
    let db = Db::new();
    db.sql(table);
    let load = Load::start(&db, &Shape::plain(), &Options::paced(seed));
    let mover = Mover::fill(&db);
    beside(
        1,
        |_, goes_on| mover.run(&db, goes_on),
        || {
            work(&db, &mover);
            load.wait_for_more(300, SOON);
            mover.wait_for_more(50);
        },
    );
    load.stop().assert_kept(&db, &format!("{} WHERE id < {}", Shape::plain().select_all(), Mover::FIRST));
    mover.assert_kept(&db, partitioned);
    db
}

#[test]
fn rows_that_move_between_partitions_are_where_they_were_put() {
    let db = under_traffic(81, true, |db, mover| {
        let running = partition(db, &["--postpone-cutover"]);
        running.wait_for_waiting("pgrecast cutover");
        mover.wait_for_more(200);
        command(db, &["cutover"]).wait().ended(0);
        let report = running.done();
        assert_eq!(report["command"], "partition");
        assert_eq!(report["verify"]["differences"], 0);
        assert!(report["keys_flushed"].as_u64() > Some(200), "{report}");
    });
    finish(&db);
}

/// Without a unique index that could arbitrate, and with rows in the default partition.
#[test]
fn rows_without_a_unique_key_move_as_well() {
    let by =
        ["partition", "t", "--range", "u,d", "--bounds", "(0,0),(2000,3),(MAXVALUE,MAXVALUE)", "--default-partition"];
    let db = Db::new();
    db.sql(TABLE);
    let load = Load::start(&db, &Shape::plain(), &Options::paced(82));
    let running = command(&db, &[&by[..], &["--drop-constraint", "t_pkey", "--postpone-cutover"]].concat());
    running.wait_for_waiting("pgrecast cutover");
    load.wait_for_more(1_000, SOON);
    command(&db, &["cutover"]).wait().ended(0);
    running.done();
    load.wait_for_more(300, SOON);
    load.stop().assert_kept(&db, &Shape::plain().select_all());
    assert_eq!(db.query_one_text("SELECT count(DISTINCT tableoid) FROM t"), "3");
    assert_eq!(db.query_one_text("SELECT count(*) FROM pg_index WHERE indrelid = 't_default'::regclass"), "0");
    finish(&db);
}

#[test]
fn a_run_that_is_killed_goes_on_where_it_was() {
    let db = under_traffic(83, true, |db, mover| {
        db.sql("INSERT INTO t (id, v, d) SELECT -i, repeat('x', 1000), i % 5 FROM generate_series(1, 20000) i");
        let running = partition(db, &["--nice", "50"]);
        running.wait_for_phase("copy");
        wait_until(db, "chunks", "SELECT count(*) > 1 FROM pgrecast.chunk", "t");
        running.kill();
        mover.wait_for_more(20);
        partition(db, &["--postpone-cutover"]).wait_for_phase("index");
        let running = partition(db, &["--postpone-cutover"]);
        running.wait_for_waiting("pgrecast cutover");
        running.kill();
        mover.wait_for_more(20);
        let running = partition(db, &[]);
        command(db, &["cutover"]).wait().ended(0);
        running.done();
        db.sql("DELETE FROM t WHERE id < 0");
    });
    finish(&db);
}

#[test]
fn a_run_that_is_given_up_leaves_nothing() {
    under_traffic(84, false, |db, mover| {
        let before = dump(db);
        let running = partition(db, &["--postpone-cutover"]);
        running.wait_for_waiting("pgrecast cutover");
        mover.wait_for_more(50);
        running.kill();
        mover.wait_for_more(20);
        command(db, &["abort", &only_migration(db)]).wait().ended(0);
        assert_nothing_left(db);
        assert_eq!(dump(db), before);
    });
}

#[test]
fn plans_look_at_one_partition_and_statistics_are_there() {
    let db = Db::new();
    db.sql(TABLE);
    db.sql("INSERT INTO t (id, d) SELECT i, i % 5 FROM generate_series(1, 5000) i; ANALYZE t");
    // Two sessions prepare before: one has a generic plan, for which partitions are chosen as it runs, one a plan for each.
    let prepared = |mode: &str| {
        let session = db.connect();
        let find = "PREPARE find (int) AS SELECT * FROM t WHERE d = $1 AND id = 7";
        session.sql(&format!(
            "SET plan_cache_mode = {mode}; {find}; PREPARE change AS UPDATE t SET v = 'w' WHERE d = $1 AND id = 7"
        ));
        session.rows("EXECUTE find (2)");
        session.sql("EXECUTE change (2)");
        session
    };
    let (generic, custom) = (prepared("force_generic_plan"), prepared("force_custom_plan"));
    partitioned(&db, &BY[2..]);
    for (session, removed) in [(&generic, true), (&custom, false)] {
        for statement in ["find", "change"] {
            let rows =
                session.rows(&format!("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) EXECUTE {statement} (2)"));
            let plan: Vec<String> = rows.into_iter().flatten().flatten().collect();
            let plan = plan.join("\n");
            assert_eq!(plan.contains("Subplans Removed: 4"), removed, "{plan}");
            // Before 18 an UPDATE names all tables that it could have written to.
            let mut scans = plan.lines().filter(|line| line.contains("Scan"));
            assert!(plan.contains("Scan") && scans.all(|line| line.contains(" t_2")), "{plan}");
        }
    }
    for (table, inherited) in [("t", "t"), ("t_3", "f")] {
        let seen = format!("SELECT count(*) FROM pg_stats WHERE tablename = '{table}' AND inherited = '{inherited}'");
        assert_eq!(db.query_one_text(&seen), "5", "{table}");
    }
    assert_eq!(db.query_one_text("SELECT reltuples FROM pg_class WHERE oid = 't_3'::regclass"), "1000");
    let quiet =
        "SELECT count(*) FROM pg_class WHERE relkind IN ('r', 't') AND reloptions IS NOT NULL AND relname ~ '^t_[0-9]'";
    assert_eq!(db.query_one_text(quiet), "0");
    finish(&db);
}

#[test]
fn a_dry_run_shows_the_partitions_and_changes_nothing() {
    let db = Db::new();
    db.sql(TABLE);
    let before = dump(&db);
    let output = pgrecast(&db, &[BY, &["--default-partition", "--dry-run"]].concat());
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    for words in [
        "PARTITION BY RANGE (d)",
        "\"pgrecast\".\"t_4\"",
        "FOR VALUES FROM (4) TO (5)",
        "PRIMARY KEY (id, d)",
        "DEFAULT",
    ] {
        assert!(output.stdout.contains(words), "no {words:?} in {}", output.stdout);
    }
    // Without rows a series begins today.
    db.sql("CREATE TABLE e (id int PRIMARY KEY, at timestamp NOT NULL)");
    let output =
        pgrecast(&db, &["partition", "e", "--range", "at", "--every", "1 year", "--premake", "1", "--dry-run"]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    for year in [0, 1] {
        let name = db.query_one_text(&format!("SELECT 'e_' || extract(year FROM now() AT TIME ZONE 'UTC') + {year}"));
        assert!(output.stdout.contains(&format!("\"pgrecast\".\"{name}\"")), "no {name} in {}", output.stdout);
    }
    db.sql("DROP TABLE e");
    assert_eq!(dump(&db), before);
    assert_nothing_left(&db);
}
