//! A primary dies under traffic, its standby is promoted, and the migration goes on there (`--failover-slot`).
//!
//! What the application wrote and the standby did not get is lost with the primary, as with every asynchronous standby. So
//! what counts is that the tables agree with each other.

use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgrecast::demo::Server;

use crate::harness::load::{Load, Options, Shape};
use crate::harness::migration::{SOON, assert_widened, command, finish, phase_of, wait_until, widen};
use crate::harness::wire::Wire;
use crate::harness::{
    Db, Output, Running, Session, assert_nothing_left, beside, own_server, spawn, standby_of, wait_for,
};

/// The physical slot that the standby streams from.
const STANDBY: &str = "standby";

/// Rows that make the copy several chunks long.
const FILLER: &str = "INSERT INTO t (id, v) SELECT -n, repeat('x', 1000) FROM generate_series(2, 12000) n";

/// A primary and a standby that may be promoted, with a table of the load's.
struct Pair {
    primary: Server,
    standby: Server,
    db: Db,
}

impl Pair {
    /// `None` on servers that have no failover slots, which `scenarios::refused` is about.
    fn start(settings: &[(&str, &str)]) -> Option<Pair> {
        let primary = own_server(&[]);
        let db = Db::on(&primary);
        if db.major() < 17 {
            return None;
        }
        db.sql(&format!("SELECT pg_create_physical_replication_slot('{STANDBY}', true)"));
        synchronized(&db, STANDBY);
        let synchronizes = [settings, &[("sync_replication_slots", "on")]].concat();
        let standby = standby_of(&primary, STANDBY, &synchronizes);
        let streams = format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{STANDBY}'");
        wait_until(&db, "the standby", &streams, "t");
        db.sql(Shape::plain_ddl());
        Some(Pair { primary, standby, db })
    }

    /// Waits until the standby has a slot of ours for good.
    fn wait_for_slot(&self, ending: &str) {
        let standby = Session::connect(&self.standby.dsn());
        let there = format!(
            "SELECT slot_name, temporary FROM pg_replication_slots WHERE synced AND slot_name LIKE 'pgrecast%{ending}'"
        );
        wait_for("the slot on the standby", SOON, || {
            let slots = standby.rows(&there);
            if slots.iter().any(|slot| slot[1].as_deref() == Some("f")) {
                return Ok(());
            }
            // The server does both by itself, every 15 s or so and every 30 s at the latest.
            self.db.sql("SELECT pg_log_standby_snapshot()");
            standby.sql("SELECT pg_reload_conf()");
            Err(format!("{slots:?}"))
        });
    }

    /// The program and the primary die at once, and the standby takes over.
    fn fail_over(mut self, running: Running) -> Promoted {
        self.primary.stop_immediate();
        running.kill();
        Promoted::new(self.standby, &self.db)
    }
}

/// Names the standbys that may be promoted.
fn synchronized(db: &Db, slots: &str) {
    db.sql(&format!("ALTER SYSTEM SET synchronized_standby_slots = '{slots}'"));
    db.sql("SELECT pg_reload_conf()");
    wait_until(db, "the setting", "SHOW synchronized_standby_slots", slots);
}

/// What was the standby.
struct Promoted {
    db: Db,
    _server: Server,
}

impl Promoted {
    fn new(server: Server, before: &Db) -> Promoted {
        // It may just be recovering, and need not have replayed the database yet.
        let session = wait_for("the standby", SOON, || Session::try_connect(&server.dsn()).map_err(|e| e.to_string()));
        assert_eq!(session.query_one_text("SELECT pg_promote()"), "t");
        let db = before.on_standby(&server);
        Promoted { db, _server: server }
    }

    /// Does `work` while the application writes.
    fn under_traffic<T>(&self, work: impl FnOnce(&dyn Fn()) -> T) -> T {
        let rounds = std::sync::atomic::AtomicU32::new(0);
        let count = || rounds.load(std::sync::atomic::Ordering::Relaxed);
        let more = || {
            let target = count() + 30;
            wait_for("writes", SOON, || if count() >= target { Ok(()) } else { Err(count().to_string()) });
        };
        let traffic = |_, goes_on: &dyn Fn() -> bool| {
            let session = self.db.connect();
            for n in 1.. {
                if !goes_on() {
                    break;
                }
                session.sql(&format!(
                    "INSERT INTO t (id, v) VALUES (1000000 + {n}, 'after'); \
                     UPDATE t SET v = 'after', n = {n} WHERE id IN (SELECT id FROM t ORDER BY id DESC OFFSET {n} * 7 % 500 LIMIT 5); \
                     DELETE FROM t WHERE id = (SELECT min(id) FROM t); \
                     UPDATE t SET id = 2000000 + {n} WHERE id = (SELECT min(id) FROM t WHERE id > 0); \
                     SELECT pg_sleep(0.005)"
                ));
                rounds.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        };
        beside(1, traffic, || work(&more))
    }

    /// Panics unless two tables hold the same rows, and some.
    fn assert_same(&self, one: &str, other: &str) {
        let less = |a: &str, b: &str| format!("(SELECT id, u, v, n FROM {a} EXCEPT ALL SELECT id, u, v, n FROM {b})");
        let count = |from: &str| self.db.query_one_text(&format!("SELECT count(*) FROM {from} AS rows"));
        assert_ne!(count(one), "0");
        assert_eq!(count(&less(one, other)), "0", "rows of {one} that {other} does not have");
        assert_eq!(count(&less(other, one)), "0", "rows of {other} that {one} does not have");
    }

    /// A run that must end with an error, about this and with this to do.
    fn assert_ends(&self, args: &[&str], words: &[&str]) {
        assert_ends(&command(&self.db, args).wait(), words);
    }
}

fn assert_ends(output: &Output, words: &[&str]) {
    output.ended(1);
    for word in words {
        assert!(output.stderr.contains(word), "{word:?} is not in\n{}", output.stderr);
    }
}

/// The number of the only migration.
fn id(db: &Db) -> String {
    db.query_one_text("SELECT id FROM pgrecast.migration")
}

/// A file that stops copy and flush while it is there.
fn throttle() -> (tempfile::TempDir, PathBuf) {
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("throttle");
    (place, file)
}

#[test]
fn in_the_copy() {
    // As where both servers have one configuration.
    let Some(pair) = Pair::start(&[("synchronized_standby_slots", STANDBY)]) else { return };
    pair.db.sql(FILLER);
    let load = Load::start(&pair.db, &Shape::plain(), &Options::paced(901));
    let (_place, file) = throttle();
    let held = file.to_string_lossy().into_owned();
    let running =
        widen(&pair.db, &["--failover-slot", "--postpone-cutover", "--nice", "100", "--throttle-file", &held]);
    running.wait_for_phase("copy");
    wait_until(&pair.db, "chunks", "SELECT count(*) > 1 FROM pgrecast.chunk", "t");
    std::fs::write(&file, "").expect("the throttle file");
    running.wait_for_event("the throttle", SOON, |e| e["event"] == "throttled");
    pair.wait_for_slot("_1");
    load.wait_for_more(100, SOON);
    let promoted = pair.fail_over(running);
    drop(load);
    let db = &promoted.db;
    assert_eq!(phase_of(db), "copy");
    assert_ne!(db.query_one_text("SELECT count(*) FROM pgrecast.chunk"), "0");
    std::fs::remove_file(&file).expect("the throttle file");
    let running = promoted.under_traffic(|more| {
        let running = command(db, &["resume", "--nice", "0"]);
        running.wait_for_waiting("the standby of standby");
        synchronized(db, "");
        running.wait_for_waiting("pgrecast cutover");
        more();
        running
    });
    command(db, &["cutover"]).wait().ended(0);
    let report = running.done();
    assert_eq!(report["verify"]["differences"], 0);
    promoted.assert_same("t", "t_old");
    assert_widened(db);
    finish(db);
}

/// One slot, and an account of it for each table.
#[test]
fn several_tables_go_on_together() {
    let Some(pair) = Pair::start(&[]) else { return };
    pair.db.sql(
        "CREATE TABLE c (id int PRIMARY KEY, u int, v text, n numeric);
         INSERT INTO c SELECT n, n, 'v', n FROM generate_series(1, 3000) n",
    );
    let load = Load::start(&pair.db, &Shape::plain(), &Options::paced(907));
    let running =
        command(&pair.db, &["widen", "t.id", "bigint", "--also", "c.u", "--failover-slot", "--postpone-cutover"]);
    running.wait_for_waiting("pgrecast cutover");
    pair.wait_for_slot("_1");
    pair.db.sql("UPDATE c SET v = 'late' WHERE id % 3 = 0; DELETE FROM c WHERE id % 7 = 0");
    load.wait_for_more(100, SOON);
    let promoted = pair.fail_over(running);
    drop(load);
    let db = &promoted.db;
    // Of the second table the standby has not got what the slot has confirmed.
    let noted = "SELECT string_agg(migration::text, ' ' ORDER BY migration) FROM pgrecast.slot";
    assert_eq!(db.query_one_text(noted), "1 2");
    let done = db.query_one_text("SELECT done FROM pgrecast.slot WHERE migration = 2");
    db.sql("UPDATE pgrecast.slot SET done = '0/1' WHERE migration = 2");
    promoted.assert_ends(&["resume"], &["is ahead of the tables"]);
    db.sql(&format!("UPDATE pgrecast.slot SET done = '{done}' WHERE migration = 2"));
    let running = promoted.under_traffic(|more| {
        let running = command(db, &["resume"]);
        running.wait_for_waiting("pgrecast cutover");
        db.sql("UPDATE c SET v = 'after' WHERE id % 5 = 0; INSERT INTO c VALUES (4000, 4000, 'new', 1)");
        more();
        running
    });
    command(db, &["cutover"]).wait().ended(0);
    running.done();
    promoted.assert_same("t", "t_old");
    promoted.assert_same("c", "c_old");
    let types = "SELECT string_agg(format_type(atttypid, atttypmod), ' ') FROM pg_attribute \
        WHERE (attrelid, attname) IN (('t'::regclass, 'id'), ('c'::regclass, 'u'))";
    assert_eq!(db.query_one_text(types), "bigint bigint");
    command(db, &["finish", "1"]).wait().ended(0);
    assert_nothing_left(db);
}

/// A standby that has a change, and whose receiver stands still before it has the flush of it.
struct StandStill {
    /// What tells a position past the change.
    past: String,
    receiver: Pid,
    /// Keeps a later change from being flushed, so that nothing is done beyond the first.
    _later: Session,
}

impl StandStill {
    fn new(pair: &Pair) -> StandStill {
        let db = &pair.db;
        let (holder, later) = (db.connect(), db.connect());
        holder.sql("BEGIN; LOCK TABLE pgrecast.shadow_1 IN SHARE MODE");
        later.sql("BEGIN; SELECT FROM pgrecast.shadow_1 WHERE id = 8 FOR UPDATE");
        let change = db.query_one_text("UPDATE t SET v = 'new' WHERE id = 7 RETURNING pg_current_wal_insert_lsn()");
        let waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'pgrecast flusher' AND wait_event_type = 'Lock'";
        wait_until(db, "its flusher", waits, "t");
        db.sql("UPDATE t SET v = 'new' WHERE id = 8");
        let received = format!(
            "SELECT restart_lsn > '{change}' AND pg_current_wal_flush_lsn() = restart_lsn FROM pg_replication_slots \
             WHERE slot_name = '{STANDBY}'"
        );
        wait_until(db, "the changes on the standby", &received, "t");
        let receiver = Session::connect(&pair.standby.dsn()).query_one_text("SELECT pid FROM pg_stat_wal_receiver");
        let receiver = Pid::from_raw(receiver.parse().expect("a process"));
        kill(receiver, Signal::SIGSTOP).expect("the receiver runs");
        holder.sql("ROLLBACK");
        wait_until(db, "the flush", "SELECT v FROM pgrecast.shadow_1 WHERE id = 7", "new");
        StandStill { past: format!("> '{change}'"), receiver, _later: later }
    }

    /// The primary dies, and the receiver with all that is on its way to the standby.
    fn fail_over(self, mut pair: Pair, running: Running) -> Promoted {
        pair.primary.stop_immediate();
        running.kill();
        kill(self.receiver, Signal::SIGKILL).expect("the receiver is there");
        let promoted = Promoted::new(pair.standby, &pair.db);
        let db = &promoted.db;
        assert_eq!(phase_of(db), "ready");
        assert_eq!(db.query_one_text("SELECT v FROM t WHERE id = 7"), "new");
        assert_eq!(db.query_one_text("SELECT v FROM pgrecast.shadow_1 WHERE id = 7"), "old");
        promoted
    }
}

/// A run that is in step, with a standby that has its slot.
fn in_step(pair: &Pair) -> Running {
    pair.db.sql("INSERT INTO t (id, v) SELECT n, 'old' FROM generate_series(1, 100) n");
    let running = widen(&pair.db, &["--failover-slot", "--postpone-cutover"]);
    running.wait_for_waiting("pgrecast cutover");
    pair.wait_for_slot("_1");
    running
}

const CONFIRMED: &str = "FROM pg_replication_slots WHERE slot_name LIKE 'pgrecast%'";

#[test]
fn nothing_is_confirmed_that_the_standby_does_not_have() {
    let Some(pair) = Pair::start(&[]) else { return };
    let running = in_step(&pair);
    let db = &pair.db;
    let still = StandStill::new(&pair);
    let past = &still.past;
    wait_until(db, "the note of it", &format!("SELECT done {past} FROM pgrecast.slot"), "t");
    for _ in 0..4 {
        look_at_wal(db);
    }
    let confirmed = db.query_one_text(&format!("SELECT confirmed_flush_lsn {past} {CONFIRMED}"));
    assert_eq!(confirmed, "f", "confirmed, though the standby has no flush of it");
    let promoted = still.fail_over(pair, running);
    let db = &promoted.db;
    let running = command(db, &["resume"]);
    running.wait_for_waiting("pgrecast cutover");
    command(db, &["cutover"]).wait().ended(0);
    running.done();
    promoted.assert_same("t", "t_old");
    assert_widened(db);
    finish(db);
}

#[test]
fn a_standby_that_was_not_waited_for_is_found_out() {
    let Some(pair) = Pair::start(&[]) else { return };
    let running = in_step(&pair);
    synchronized(&pair.db, "");
    running.wait_for_event("the warning", SOON, |e| {
        e["event"] == "warning" && e["text"].as_str().is_some_and(|text| text.contains("names no standby"))
    });
    let still = StandStill::new(&pair);
    let past = &still.past;
    wait_until(&pair.db, "what is confirmed", &format!("SELECT confirmed_flush_lsn {past} {CONFIRMED}"), "t");
    let confirmed = pair.db.query_one_text(&format!("SELECT confirmed_flush_lsn {CONFIRMED}"));
    let promoted = still.fail_over(pair, running);
    // When a standby hears of that is up to the server; it may, since it has the WAL up to there.
    promoted.db.sql(&format!("SELECT pg_replication_slot_advance(slot_name, '{confirmed}') {CONFIRMED}"));
    promoted.assert_ends(&["resume"], &["is ahead of the tables", "The table is as it was", "pgrecast abort"]);
    command(&promoted.db, &["abort"]).wait().ended(0);
    assert_nothing_left(&promoted.db);
}

/// Waits until the run has looked once more at how far the WAL is.
fn look_at_wal(db: &Db) {
    let looked = "SELECT max(query_start)::text FROM pg_stat_activity WHERE query LIKE 'BEGIN; UPDATE pgrecast.slot%'";
    let before = db.query_one_text(looked);
    wait_for("another look at the WAL", SOON, || {
        let now = db.query_one_text(looked);
        if now == before { Err(now) } else { Ok(()) }
    });
}

#[test]
fn while_the_old_table_follows() {
    let Some(pair) = Pair::start(&[]) else { return };
    let load = Load::start(&pair.db, &Shape::plain(), &Options::paced(903));
    let running = widen(&pair.db, &["--failover-slot", "--rollback-window", "10m"]);
    running.wait_for_window();
    pair.wait_for_slot("_back");
    load.wait_for_more(100, SOON);
    let promoted = pair.fail_over(running);
    drop(load);
    let db = &promoted.db;
    assert_eq!(phase_of(db), "keep in step");
    let running = promoted.under_traffic(|more| {
        let running = command(db, &["resume"]);
        running.wait_for_window();
        more();
        running
    });
    command(db, &["rollback", &id(db)]).wait().done();
    running.done();
    promoted.assert_same("t", "t_new");
    finish(db);
}

#[test]
fn a_standby_without_the_slot_says_so_and_loses_nothing() {
    let Some(pair) = Pair::start(&[("sync_replication_slots", "off")]) else { return };
    let load = Load::start(&pair.db, &Shape::plain(), &Options::paced(904));
    let running = widen(&pair.db, &["--failover-slot", "--postpone-cutover"]);
    running.wait_for_waiting("pgrecast cutover");
    wait_until(&pair.db, "the phase", "SELECT phase FROM pgrecast.migration", "ready");
    let at = pair.db.query_one_text("SELECT pg_current_wal_insert_lsn()");
    let received = format!("SELECT restart_lsn > '{at}' FROM pg_replication_slots WHERE slot_name = '{STANDBY}'");
    wait_until(&pair.db, "the phase on the standby", &received, "t");
    let promoted = pair.fail_over(running);
    drop(load);
    promoted.assert_ends(&["resume"], &["is not on this server", "synced", "The table is as it was", "pgrecast abort"]);
    command(&promoted.db, &["abort"]).wait().ended(0);
    assert_nothing_left(&promoted.db);
    assert_ne!(promoted.db.query_one_text("SELECT count(*) FROM t"), "0");
}

#[test]
fn a_slot_that_is_ahead_of_the_tables_ends_the_run() {
    let Some(pair) = Pair::start(&[]) else { return };
    let db = &pair.db;
    let running = widen(db, &["--failover-slot", "--rollback-window", "10m"]);
    running.wait_for_window();
    // What it was begun with belongs to it.
    command(db, &["alter", "t", crate::harness::migration::WIDEN, "--rollback-window", "10m"]).wait().ended(3);
    running.kill();
    // As if the slot had been synchronized, and what was done before it was confirmed had not come.
    let advance = "SELECT pg_replication_slot_advance(slot_name, pg_current_wal_lsn()) FROM pg_replication_slots \
                   WHERE slot_name LIKE 'pgrecast%' AND NOT active";
    wait_for("the slot", SOON, || {
        db.sql("INSERT INTO t (id) SELECT coalesce(max(id), 0) + 1 FROM t");
        match db.try_rows(advance) {
            Ok(rows) if rows.len() == 1 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert_ends(
        &command(db, &["resume"]).wait(),
        &["is ahead of the tables", "The new table has every write", "pgrecast finish"],
    );
    finish(db);
}

#[test]
fn an_address_that_leads_to_another_server_ends_the_run() {
    let Some(pair) = Pair::start(&[]) else { return };
    let db = &pair.db;
    let wire = Wire::to(pair.primary.port());
    let through = wire.dsn(db.dsn(), pair.primary.port());
    let args =
        ["alter", "t", crate::harness::migration::WIDEN, "--failover-slot", "--postpone-cutover", "--format", "json"];
    let running = spawn(&through, &args);
    running.wait_for_waiting("pgrecast cutover");
    pair.wait_for_slot("_1");
    wire.lead_to(pair.standby.port());
    let promoted = Promoted::new(pair.standby, db);
    // The one it began on is alive, and so is the lease there.
    db.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgrecast stream'");
    assert_ends(&running.wait(), &["another server answers than the one this run began on"]);
    // The same command goes on where the address leads now.
    let again = spawn(&through, &["resume", "--format", "json"]);
    again.wait_for_waiting("pgrecast cutover");
    command(&promoted.db, &["cutover"]).wait().ended(0);
    again.done();
    assert_widened(&promoted.db);
    finish(&promoted.db);
}

#[test]
fn without_a_standby_that_streams_it_is_refused() {
    let server = own_server(&[]);
    let db = Db::on(&server);
    if db.major() < 17 {
        return;
    }
    db.sql(Shape::plain_ddl());
    synchronized(&db, "nobody");
    let refused = widen(&db, &["--failover-slot"]).wait();
    refused.ended(3);
    assert!(refused.stderr.contains("no standby streams from nobody"), "{}", refused.stderr);
    assert_nothing_left(&db);
}
