//! What stands in the way of the start and of the cut-over, and who has to wait for it.

use std::time::{Duration, Instant};

use crate::harness::load::{Load, LoadReport, Options, Shape};
use crate::harness::migration::{SOON, WIDEN, assert_widened, command, finish, phase_of, widen};
use crate::harness::proxy::{Cut, Proxy};
use crate::harness::{Db, Running, Session, beside, server, spawn, vacuuming_server, wait_for};

/// The longest that a client's statement may wait while a reader or a vacuum is in the way.
const LONGEST_WAIT: Duration = Duration::from_millis(300);

/// How long a test's transaction stays in the way: long enough for several attempts.
const IN_THE_WAY: Duration = Duration::from_secs(4);

fn table(db: &Db, seed: u64) -> Load {
    db.sql(Shape::plain_ddl());
    // Light, so that what is measured is the waiting for locks and not for the machine.
    Load::start(db, &Shape::plain(), &Options { per_second: Some(30), large: 100, ..Options::seeded(seed) })
}

fn assert_migrated(db: &Db, load: Load) -> LoadReport {
    load.wait_for_more(100, SOON);
    let report = load.stop();
    report.assert_kept(db, &Shape::plain().select_all());
    assert_widened(db);
    finish(db);
    report
}

/// A run that is in step and waits for `pgrecast cutover`.
fn postponed(db: &Db, more: &[&str]) -> Running {
    let running = widen(db, &[&["--postpone-cutover"], more].concat());
    running.wait_for_waiting("pgrecast cutover");
    running
}

fn release(db: &Db) {
    command(db, &["cutover"]).wait().ended(0);
}

/// Waits until an attempt has been blocked by this.
fn wait_for_blocked(running: &Running, by: &str) {
    let is_it = |text: Option<&str>| text.is_some_and(|text| text.contains(by));
    running.wait_for_event(by, SOON, |e| e["event"] == "cutover_attempt" && is_it(e["outcome"].as_str()));
}

/// Goes on once this much time has passed since `begun`, with the traffic running.
fn stay_in_the_way(load: &Load, begun: Instant) {
    wait_for("the time to pass", SOON, || {
        if begun.elapsed() >= IN_THE_WAY { Ok(()) } else { Err(format!("{:?}", begun.elapsed())) }
    });
    load.wait_for_more(20, SOON);
}

/// The run ends within this time.
fn assert_done_within(running: Running, limit: Duration) {
    let begun = Instant::now();
    running.done();
    assert!(begun.elapsed() <= limit, "done only after {:?}", begun.elapsed());
}

#[test]
fn keys_and_unique_values_swapped_in_one_transaction() {
    let db = Db::new();
    let load = table(&db, 101);
    db.sql("ALTER TABLE t ADD mine boolean NOT NULL DEFAULT false");
    db.sql("INSERT INTO t (id, u, v, mine) VALUES (-1, -1, 'a', true), (-2, -2, 'b', true), (-3, -3, 'c', true)");
    // The first swap is followed by the journal table or the live stream, the second only by the latter.
    let swap = "BEGIN; UPDATE t SET id = -9 WHERE id = -1; UPDATE t SET id = -1 WHERE id = -2; \
                UPDATE t SET id = -2 WHERE id = -9; UPDATE t SET u = NULL WHERE id = -3; \
                UPDATE t SET u = -3 WHERE id = -1; UPDATE t SET u = -2 WHERE id = -3; COMMIT";
    let running = widen(&db, &["--postpone-cutover"]);
    running.wait_for_phase("copy");
    db.sql(swap);
    running.wait_for_waiting("pgrecast cutover");
    db.sql("BEGIN; UPDATE t SET id = -9 WHERE id = -2; UPDATE t SET id = -2 WHERE id = -3; UPDATE t SET id = -3 WHERE id = -9; COMMIT");
    let all = "SELECT string_agg(concat_ws(' ', id, u, v), ', ' ORDER BY id) FROM t WHERE mine";
    let expected = db.query_one_text(all);
    assert_eq!(expected, "-3 -1 a, -2 -2 c, -1 -3 b");
    release(&db);
    running.done();
    assert_eq!(db.query_one_text(all), expected);
    db.sql("DELETE FROM t WHERE mine");
    assert_migrated(&db, load);
}

#[test]
fn an_idle_writer_in_another_database_is_named_and_waited_for() {
    let db = Db::new();
    let other = Db::new();
    let load = table(&db, 102);
    other.sql("CREATE TABLE elsewhere (x int); BEGIN; INSERT INTO elsewhere VALUES (1)");
    let running = widen(&db, &[]);
    let named = running.wait_for_waiting(other.name());
    assert!(named.contains("INSERT INTO elsewhere"), "{named}");
    assert_eq!(phase_of(&db), "prepare");
    load.wait_for_more(100, SOON);
    other.sql("COMMIT");
    running.done();
    assert_migrated(&db, load);
}

#[test]
fn a_prepared_transaction_at_the_start_is_named_and_its_writes_are_kept() {
    let db = Db::new();
    let load = table(&db, 103);
    let session = db.connect();
    session.sql("BEGIN; INSERT INTO t (id, v) VALUES (-1, 'new'); PREPARE TRANSACTION 'at the start'");
    let running = widen(&db, &[]);
    running.wait_for_waiting("at the start");
    load.wait_for_more(50, SOON);
    session.sql("COMMIT PREPARED 'at the start'");
    running.done();
    assert_eq!(db.query_one_text("SELECT v FROM t WHERE id = -1"), "new");
    db.sql("DELETE FROM t WHERE id < 0");
    assert_migrated(&db, load);
}

#[test]
fn a_prepared_transaction_at_the_cut_over_is_named_and_its_writes_are_kept() {
    let db = Db::new();
    let load = table(&db, 104);
    let running = postponed(&db, &[]);
    let session = db.connect();
    session.sql("BEGIN; INSERT INTO t (id, v) VALUES (-1, 'new'); PREPARE TRANSACTION 'in between'");
    release(&db);
    wait_for_blocked(&running, "prepared transaction in between");
    stay_in_the_way(&load, Instant::now());
    assert_eq!(phase_of(&db), "ready");
    session.sql("COMMIT PREPARED 'in between'");
    assert_done_within(running, Duration::from_secs(3));
    assert_eq!(db.query_one_text("SELECT v FROM t WHERE id = -1"), "new");
    db.sql("DELETE FROM t WHERE id < 0");
    let report = assert_migrated(&db, load);
    assert!(report.worst <= LONGEST_WAIT, "{:?}", report.slow);
}

#[test]
fn a_long_reader_makes_nobody_wait() {
    let db = Db::new();
    let load = table(&db, 105);
    let running = postponed(&db, &[]);
    let reader = db.connect();
    reader.sql("BEGIN; SELECT count(*) FROM t");
    let begun = Instant::now();
    release(&db);
    wait_for_blocked(&running, "SELECT count(*) FROM t");
    stay_in_the_way(&load, begun);
    assert_eq!(phase_of(&db), "ready");
    reader.sql("COMMIT");
    assert_done_within(running, Duration::from_secs(3));
    let report = assert_migrated(&db, load);
    assert!(report.worst <= LONGEST_WAIT, "{:?}", report.slow);
}

#[test]
fn readers_that_come_and_go_make_nobody_wait_long() {
    let db = Db::new();
    let load = table(&db, 106);
    let running = postponed(&db, &[]);
    let readers = |_, goes_on: &dyn Fn() -> bool| {
        let reader = Session::connect(db.dsn());
        while goes_on() {
            reader.sql("BEGIN; SELECT count(*) FROM t; SELECT pg_sleep(0.4); COMMIT");
        }
    };
    beside(3, readers, || {
        load.wait_for_more(50, SOON);
        release(&db);
        running.done()
    });
    let report = assert_migrated(&db, load);
    assert!(report.worst <= LONGEST_WAIT, "{:?}", report.slow);
}

#[test]
fn an_autovacuum_at_work_yields() {
    let server = vacuuming_server();
    let db = Db::on(&server);
    let load = table(&db, 107);
    db.sql("ALTER TABLE t ADD filler text");
    db.sql("INSERT INTO t (id, filler) SELECT -n, repeat('x', 500) FROM generate_series(1, 30000) n");
    let running = postponed(&db, &[]);
    db.sql("DELETE FROM t WHERE id < 0");
    let at_work = "SELECT count(*) FROM pg_stat_progress_vacuum WHERE relid = 't'::regclass";
    wait_for("an autovacuum of the table", SOON, || match db.query_one_text(at_work).as_str() {
        "0" => Err("none".into()),
        _ => Ok(()),
    });
    release(&db);
    let begun = Instant::now();
    let report = running.done();
    assert!(begun.elapsed() <= Duration::from_secs(5), "done only after {:?}: {report}", begun.elapsed());
    assert!(server.log().contains("canceling autovacuum task"), "{}", server.log_tail());
    // The old table has its dead rows still.
    wait_for("an autovacuum of the old table", SOON, || {
        match db.query_one_text(&at_work.replace("'t'", "'t_old'")).as_str() {
            "0" => Err("none".into()),
            _ => Ok(()),
        }
    });
    let begun = Instant::now();
    let report = assert_migrated(&db, load);
    assert!(begun.elapsed() <= Duration::from_secs(15), "finished only after {:?}", begun.elapsed());
    assert!(report.worst <= LONGEST_WAIT, "{:?}", report.slow);
}

#[test]
fn a_lock_never_granted_ends_with_5_and_the_same_command_again_succeeds() {
    let db = Db::new();
    let load = table(&db, 108);
    let holder = db.connect();
    let running = postponed(&db, &["--cutover-attempts", "3"]);
    holder.sql("BEGIN; LOCK TABLE t IN ACCESS SHARE MODE");
    release(&db);
    let output = running.wait();
    output.ended(5);
    assert!(output.stderr.contains("LOCK TABLE t IN ACCESS SHARE MODE"), "{}", output.stderr);
    assert_eq!(phase_of(&db), "ready");
    assert_eq!(db.query_one_text("SELECT count(*) FROM pg_replication_slots WHERE slot_name ~ 'pgrecast'"), "1");
    load.wait_for_more(100, SOON);
    // Still there: the same again.
    widen(&db, &["--cutover-attempts", "2"]).wait().ended(5);
    holder.sql("COMMIT");
    let output = widen(&db, &["--cutover-attempts", "3"]).wait();
    output.done();
    let phases: Vec<String> = output.events("phase_began").iter().map(|e| e["phase"].to_string()).collect();
    assert!(!phases.contains(&"\"prepare\"".to_owned()), "{phases:?}");
    let report = assert_migrated(&db, load);
    assert!(report.worst <= LONGEST_WAIT, "{:?}", report.slow);
}

#[test]
fn blockers_are_ended_only_where_asked_and_only_when_old() {
    let db = Db::new();
    let load = table(&db, 109);
    let holder = db.connect();
    let running = postponed(&db, &["--terminate-blockers", "3s"]);
    holder.sql("BEGIN; LOCK TABLE t IN ACCESS SHARE MODE");
    let begun = Instant::now();
    release(&db);
    running.done();
    assert!(begun.elapsed() >= Duration::from_secs(3), "ended after {:?}", begun.elapsed());
    let gone = holder.try_sql("SELECT 1").expect_err("the session was ended");
    assert!(gone.connection_lost, "{gone}");
    assert_migrated(&db, load);
}

#[test]
fn writers_wait_no_longer_than_the_timeout() {
    let db = Db::new();
    let load = table(&db, 110);
    let running = postponed(&db, &["--lock-timeout", "50ms", "--cutover-timeout", "400ms", "--cutover-attempts", "4"]);
    // The swap itself is held up: it renames the shadow, of which somebody reads.
    let shadow = "SELECT string_agg(oid::regclass::text, ', ') FROM pg_class WHERE relkind = 'r' \
                  AND relnamespace = 'pgrecast'::regnamespace AND relname ~ 'shadow'";
    let shadow = db.query_one_text(shadow);
    let reader = db.connect();
    reader.sql(&format!("BEGIN; SELECT count(*) FROM {shadow}"));
    release(&db);
    running.wait().ended(5);
    load.wait_for_more(50, SOON);
    reader.sql("COMMIT");
    widen(&db, &[]).done();
    let report = assert_migrated(&db, load);
    assert!(report.worst <= Duration::from_millis(600), "{:?}", report.slow);
}

#[test]
fn a_file_postpones_the_cut_over() {
    let db = Db::new();
    let load = table(&db, 111);
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("not yet");
    std::fs::write(&file, "").expect("the file");
    let running = widen(&db, &["--postpone-file", &file.to_string_lossy()]);
    running.wait_for_waiting("not yet");
    load.wait_for_more(200, SOON);
    assert_eq!(phase_of(&db), "ready");
    std::fs::remove_file(&file).expect("the file");
    running.done();
    assert_migrated(&db, load);
}

/// A run whose cut-over loses its connection at COMMIT; returns how many attempts it took.
fn cut_at_commit(cut: Cut, seed: u64) -> usize {
    let db = Db::new();
    let load = table(&db, seed);
    let port = server().port();
    let proxy = Proxy::start(port, cut);
    let output = spawn(&proxy.dsn(db.dsn(), port), &["alter", "t", WIDEN, "--format", "json"]).wait();
    let report = output.done();
    assert!(proxy.has_cut(), "{}", output.stdout);
    assert!(report["cutover"]["write_blocked"].as_f64().is_some_and(|s| s > 0.0), "{report}");
    let attempts = output.events("cutover_attempt").len();
    assert_migrated(&db, load);
    attempts
}

#[test]
fn a_commit_whose_answer_is_lost_was_the_swap() {
    assert_eq!(cut_at_commit(Cut::BeforeItsAnswer, 121), 1);
}

#[test]
fn a_commit_that_never_arrived_was_none_and_is_tried_again() {
    assert_eq!(cut_at_commit(Cut::BeforeCommit, 122), 2);
}
