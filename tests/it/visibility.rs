//! A commit that waits for a synchronous standby is in the stream, and in no snapshot (rules 2 and 5).
//!
//! Each test has a server of its own: a standby that does not exist is named once the table is there, and every commit
//! that does not say otherwise waits for it.

use pgrecast::demo::Server;

use crate::harness::load::{Load, Options, Shape};
use crate::harness::migration::{SOON, assert_widened, command, finish, phase_of, wait_until, widen};
use crate::harness::{Db, Session, dump, own_server};

fn absent_standby(db: &Db) {
    db.sql("ALTER SYSTEM SET synchronous_standby_names = 'absent'");
    db.sql("SELECT pg_reload_conf()");
    wait_until(db, "the setting", "SHOW synchronous_standby_names", "absent");
}

/// The application's own commits do not wait.
fn local(db: &Db) {
    db.sql(&format!("ALTER DATABASE {} SET synchronous_commit = local", db.name()));
}

/// A commit that waits for the standby, from a thread of its own, until its session is cancelled.
struct Waiting {
    thread: std::thread::JoinHandle<()>,
}

impl Waiting {
    /// Returns once the commit waits.
    fn start(db: &Db, sql: &str) -> Waiting {
        let (dsn, sql) = (db.dsn().to_owned(), sql.to_owned());
        let thread = std::thread::spawn(move || {
            let session = Session::connect(&dsn);
            session.sql("SET synchronous_commit = on");
            // A cancelled wait is a commit with a warning.
            session.sql(&sql);
        });
        wait_until(db, "the commit to wait", "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'", "1");
        Waiting { thread }
    }

    fn release(self, db: &Db) {
        db.sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
        self.thread.join().expect("the waiting session");
    }
}

fn stage() -> (Server, Db, Load) {
    let server = own_server(&[]);
    let db = Db::on(&server);
    local(&db);
    let db = db.again();
    db.sql(Shape::plain_ddl());
    db.sql("INSERT INTO t (id, u, v) VALUES (-1, -1, 'old'), (-2, -2, 'old'), (-3, -3, 'old')");
    let load = Load::start(&db, &Shape::plain(), &Options::paced(201));
    (server, db, load)
}

const OURS: &str = "SELECT string_agg(concat_ws(' ', id, u, v), ', ' ORDER BY id DESC) FROM t WHERE id < 0";

fn assert_migrated(db: &Db, load: Load) {
    load.wait_for_more(100, SOON);
    db.sql("DELETE FROM t WHERE id < 0");
    load.stop().assert_kept(db, &Shape::plain().select_all());
    assert_widened(db);
    finish(db);
}

#[test]
fn no_commit_of_ours_waits_for_a_standby() {
    let (_server, db, load) = stage();
    absent_standby(&db);
    widen(&db, &[]).done();
    assert_migrated(&db, load);
}

#[test]
fn a_change_in_the_stream_that_no_snapshot_sees_is_kept_until_one_does() {
    let (_server, db, load) = stage();
    absent_standby(&db);
    let running = widen(&db, &["--postpone-cutover"]);
    running.wait_for_waiting("pgrecast cutover");
    let waiting = Waiting::start(
        &db,
        "BEGIN; UPDATE t SET v = 'new' WHERE id = -1; DELETE FROM t WHERE id = -2; UPDATE t SET id = -4 WHERE id = -3; COMMIT",
    );
    // The stream has brought it, and what comes after it has been flushed: a backlog of these keys remains.
    let stuck =
        |e: &serde_json::Value| e["event"] == "progress" && e["backlog_keys"].as_u64().is_some_and(|keys| keys >= 4);
    for _ in 0..3 {
        load.wait_for_more(100, SOON);
        running.wait_for_event("a backlog", SOON, stuck);
    }
    assert_eq!(db.query_one_text(OURS), "-1 -1 old, -2 -2 old, -3 -3 old", "nobody sees it yet");
    command(&db, &["cutover"]).wait().ended(0);
    // Its locks are held, so there is no cut-over.
    load.wait_for_more(200, SOON);
    assert_eq!(phase_of(&db), "ready");
    waiting.release(&db);
    running.done();
    assert_eq!(db.query_one_text(OURS), "-1 -1 new, -4 -3 old");
    assert_migrated(&db, load);
}

#[test]
fn on_the_way_back_it_is_kept_as_well() {
    let (_server, db, load) = stage();
    absent_standby(&db);
    let before = dump(&db);
    let running = widen(&db, &["--rollback-window", "1h"]);
    running.wait_for_window();
    let waiting =
        Waiting::start(&db, "BEGIN; UPDATE t SET v = 'new' WHERE id = -1; DELETE FROM t WHERE id = -2; COMMIT");
    load.wait_for_more(100, SOON);
    let mut rollback = command(&db, &["rollback", "1"]);
    running.wait();
    load.wait_for_more(200, SOON);
    assert!(!rollback.is_over());
    assert_eq!(db.query_one_text(OURS), "-1 -1 old, -2 -2 old, -3 -3 old", "nobody sees it yet");
    assert_eq!(phase_of(&db), "keep in step");
    waiting.release(&db);
    rollback.wait().ended(0);
    assert_eq!(db.query_one_text(OURS), "-1 -1 new, -3 -3 old");
    load.wait_for_more(100, SOON);
    db.sql("DELETE FROM t WHERE id < 0");
    load.stop().assert_kept(&db, &Shape::plain().select_all());
    finish(&db);
    assert_eq!(dump(&db), before);
}

#[test]
fn of_two_changes_of_a_key_the_last_to_commit_is_waited_for_whatever_its_number() {
    let (_server, db, load) = stage();
    absent_standby(&db);
    let place = tempfile::tempdir().expect("a directory");
    let throttle = place.path().join("throttle");
    std::fs::write(&throttle, "").expect("the throttle file");
    // Nothing is flushed: both changes are in the journal when it is.
    let running = widen(&db, &["--postpone-cutover", "--throttle-file", &throttle.to_string_lossy()]);
    running.wait_for_phase("copy");
    let turn = db.connect();
    turn.sql("SELECT pg_advisory_lock(7)");
    let second = {
        let dsn = db.dsn().to_owned();
        let db = db.again();
        std::thread::spawn(move || {
            let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND NOT granted";
            wait_until(&db, "the older transaction", waits, "1");
            Session::connect(&dsn).sql("UPDATE t SET v = 'in between' WHERE id = -1");
            // In another write to the journal than the change that follows.
            let journaled = "SELECT count(*) FROM pgrecast.journal_1_1 WHERE id = -1 AND pgrecast_xid <> 0";
            wait_until(&db, "the change in the journal", journaled, "1");
            turn.sql("SELECT pg_advisory_unlock(7)");
        })
    };
    let waiting = Waiting::start(
        &db,
        "BEGIN; UPDATE t SET v = 'new' WHERE id = -2; SELECT pg_advisory_xact_lock(7); UPDATE t SET v = 'new' WHERE id = -1; COMMIT",
    );
    second.join().expect("the younger transaction");
    std::fs::remove_file(&throttle).expect("the throttle file");
    // Its row is possibly new, so it is a flush that brings it, and one that does not see the last change.
    let flushed = "SELECT coalesce((SELECT v FROM pgrecast.shadow_1 WHERE id = -1), '')";
    wait_until(&db, "a flush of the key", flushed, "in between");
    assert_eq!(db.query_one_text(OURS), "-1 -1 in between, -2 -2 old, -3 -3 old", "nobody sees it yet");
    waiting.release(&db);
    running.wait_for_waiting("pgrecast cutover");
    command(&db, &["cutover"]).wait().ended(0);
    running.done();
    assert_eq!(db.query_one_text(OURS), "-1 -1 new, -2 -2 new, -3 -3 old");
    assert_migrated(&db, load);
}

#[test]
fn a_change_from_before_the_stream_that_no_snapshot_sees_is_waited_for() {
    let (_server, db, load) = stage();
    absent_standby(&db);
    let waiting = Waiting::start(&db, "UPDATE t SET v = 'new' WHERE id = -1");
    let running = widen(&db, &[]);
    // By the slot's creation, which waits for its transaction id, or by the settling after that.
    running.wait_for_event("a wait for it", SOON, |e| {
        e["event"] == "waiting" && e["for"].as_str().is_some_and(|on| on.contains("UPDATE t SET v = 'new'"))
    });
    load.wait_for_more(100, SOON);
    assert_eq!(phase_of(&db), "prepare");
    waiting.release(&db);
    running.done();
    assert_eq!(db.query_one_text(OURS), "-1 -1 new, -2 -2 old, -3 -3 old");
    assert_migrated(&db, load);
}
