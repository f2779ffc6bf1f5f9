//! A table is migrated under traffic that keeps its own account: what the account says is what the new table holds.

use crate::harness::load::{Column, Load, LoadReport, Options, Shape};
use crate::harness::migration::{SOON, assert_widened, command, finish, phase_of, wait_until, widen};
use crate::harness::{Db, Running};

/// Statements that must be answered by the new table before the load ends.
const AFTERWARDS: u64 = 1_000;

/// More seeds than the suite has: `PGRECAST_TEST_SEEDS=100..120`.
fn seeds(usual: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(given) = std::env::var("PGRECAST_TEST_SEEDS") else { return usual };
    let (from, to) = given.split_once("..").expect("PGRECAST_TEST_SEEDS=FROM..TO");
    from.parse().expect("a number")..to.parse().expect("a number")
}

/// Lets the run end and the load go on for a while, then compares and cleans up.
fn assert_migrated(db: &Db, shape: &Shape, load: Load, running: Running) -> serde_json::Value {
    let report = running.done();
    load.wait_for_more(AFTERWARDS, SOON);
    assert_kept(db, shape, load);
    finish(db);
    report
}

fn assert_kept(db: &Db, shape: &Shape, load: Load) -> LoadReport {
    let kept = load.stop();
    kept.assert_kept(db, &shape.select_all());
    kept
}

fn number(report: &serde_json::Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("{field} in {report}"))
}

#[test]
fn every_write_is_in_the_new_table() {
    for seed in seeds(1..3) {
        let db = Db::new();
        db.sql(Shape::plain_ddl());
        let shape = Shape::plain();
        let load = Load::start(&db, &shape, &Options { connections: 6, ..Options::paced(seed) });
        let report = assert_migrated(&db, &shape, load, widen(&db, &[]));
        assert_widened(&db);
        assert!(number(&report, "rows_copied") > 1_000 && number(&report, "keys_flushed") > 0, "{report}");
    }
}

/// A uuid for a number, none like its neighbours'.
fn uuid(number: u64) -> String {
    let mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    format!("{:08x}-0000-4000-8000-{number:012x}", mixed >> 32)
}

fn word(number: u64) -> String {
    format!("{} 'ünï' \\ {}", ["é", "Zz", "a b", "_"][(number % 4) as usize], number)
}

#[test]
fn keys_of_other_types_are_followed() {
    let of = |key_type: &str, render| Shape {
        table: r#""Sch ema"."Tä""ble""#.into(),
        key: Column { name: r#""Key""#.into(), cast: key_type.into(), render },
        unique: Column { name: r#""U""#.into(), cast: "text".into(), render: word },
        text: "v".into(),
        number: "n".into(),
    };
    for (key_type, render) in [("uuid", uuid as fn(u64) -> String), ("text", word)] {
        let db = Db::new();
        let shape = of(key_type, render);
        db.sql(&format!(
            r#"CREATE SCHEMA "Sch ema"; CREATE TABLE {} ("Key" {key_type} PRIMARY KEY, "U" text UNIQUE, v text, n numeric)"#,
            shape.table
        ));
        let load = Load::start(&db, &shape, &Options::paced(11));
        let running = command(
            &db,
            &["alter", &shape.table, r#"ADD COLUMN "Ex tra" int DEFAULT 7, ALTER v SET STORAGE EXTERNAL"#],
        );
        assert_migrated(&db, &shape, load, running);
    }
}

#[test]
fn a_composite_key_is_followed() {
    let db = Db::new();
    db.sql(
        "CREATE TABLE t (id integer NOT NULL, part text NOT NULL DEFAULT 'x', day date NOT NULL DEFAULT '2024-02-29', \
         u integer UNIQUE, v text, n numeric, PRIMARY KEY (part, id, day))",
    );
    let shape = Shape::plain();
    let load = Load::start(&db, &shape, &Options::paced(12));
    let running = widen(&db, &[]);
    assert_migrated(&db, &shape, load, running);
}

#[test]
fn copy_indexes_and_catching_up_overlap_with_traffic() {
    let db = Db::new();
    db.sql(Shape::plain_ddl());
    db.sql("CREATE INDEX ON t (left(v, 20)); CREATE INDEX ON t (n) WHERE n > 0");
    let shape = Shape::plain();
    let load = Load::start(&db, &shape, &Options { rows: 40_000, slots: 60_000, ..Options::paced(21) });
    let running = widen(&db, &[]);
    for phase in ["copy", "index", "catch_up"] {
        running.wait_for_phase(phase);
        load.wait_for_more(100, SOON);
    }
    let report = assert_migrated(&db, &shape, load, running);
    assert!(number(&report, "rows_copied") > 80_000 && number(&report, "keys_journaled") > 1_000, "{report}");
}

/// Empties the table, and lets a load fill it again: what it holds then is the load's alone.
fn truncate_and_fill(db: &Db, seed: u64) -> Load {
    db.sql("TRUNCATE t");
    Load::start(db, &Shape::plain(), &Options::paced(seed))
}

#[test]
fn a_truncate_ends_the_copy() {
    let db = Db::new();
    db.sql(Shape::plain_ddl());
    db.sql("INSERT INTO t SELECT n, n, repeat('x', 500) FROM generate_series(1, 40000) n");
    let running = widen(&db, &["--nice", "100"]);
    running.wait_for_phase("copy");
    wait_until(&db, "a chunk", "SELECT count(*) > 0 FROM pgrecast.chunk", "t");
    let load = truncate_and_fill(&db, 31);
    wait_until(&db, "the end of the copy", "SELECT copy_over FROM pgrecast.leaf", "t");
    let blocks = "SELECT sum(c.end_block - c.first_block) < max(m.blocks) FROM pgrecast.chunk c, pgrecast.migration m";
    assert_eq!(db.query_one_text(blocks), "t", "the copy was not complete");
    assert_migrated(&db, &Shape::plain(), load, running);
}

#[test]
fn a_truncate_while_catching_up_is_followed() {
    let db = Db::new();
    db.sql(Shape::plain_ddl());
    db.sql("INSERT INTO t SELECT n, n, 'v' FROM generate_series(1, 150000) n");
    let place = tempfile::tempdir().expect("a directory");
    let throttle = place.path().join("throttle");
    std::fs::write(&throttle, "").expect("the file");
    let running = widen(&db, &["--throttle-file", &throttle.to_string_lossy()]);
    running.wait_for_phase("copy");
    db.sql("UPDATE t SET v = 'changed'");
    std::fs::remove_file(&throttle).expect("the file");
    running.wait_for_phase("catch_up");
    db.sql("TRUNCATE t");
    assert_eq!(phase_of(&db), "catch up");
    let load = Load::start(&db, &Shape::plain(), &Options::paced(32));
    assert_migrated(&db, &Shape::plain(), load, running);
}

#[test]
fn a_truncate_of_a_table_in_step_is_followed() {
    let db = Db::new();
    db.sql(Shape::plain_ddl());
    db.sql("INSERT INTO t SELECT n, n, 'v' FROM generate_series(1, 5000) n");
    let running = widen(&db, &["--postpone-cutover"]);
    running.wait_for_waiting("pgrecast cutover");
    let load = truncate_and_fill(&db, 33);
    load.wait_for_more(100, SOON);
    db.sql("BEGIN; TRUNCATE t; ROLLBACK");
    load.wait_for_more(100, SOON);
    command(&db, &["cutover"]).wait().ended(0);
    assert_migrated(&db, &Shape::plain(), load, running);
}
