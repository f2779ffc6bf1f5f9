//! A running migration is steered from another terminal, and holds back for what it sees on the server.

use std::sync::atomic::{AtomicU32, Ordering};

use jiff::Timestamp;
use serde_json::Value;

use crate::harness::load::{Load, Options, Shape};
use crate::harness::migration::{SOON, WIDEN, assert_widened, command, copied_blocks, finish, wait_until, widen};
use crate::harness::{Db, Session, assert_nothing_left, beside, own_server, spawn_with, standby_of, wait_for};

/// Rows that make the copy several chunks long.
const FILLER: &str = "INSERT INTO t (id, v) SELECT -n, repeat('x', 1000) FROM generate_series(2, 12000) n";

/// One chunk in a while.
const SLOWLY: [&str; 4] = ["--jobs", "1", "--nice", "30"];

fn table() -> Db {
    let db = Db::new();
    db.sql(Shape::plain_ddl());
    db.sql(FILLER);
    db
}

fn held_back(running: &crate::harness::Running, why: &str) -> String {
    let event = running.wait_for_event(why, SOON, |e| {
        e["event"] == "throttled" && e["reason"].as_str().is_some_and(|reason| reason.starts_with(why))
    });
    event["reason"].as_str().unwrap_or_default().to_owned()
}

/// Whether an event was said after this.
fn later(event: &Value, than: Timestamp) -> bool {
    event["time"].as_str().and_then(|time| time.parse::<Timestamp>().ok()).is_some_and(|said| said > than)
}

fn idle_copiers(db: &Db) {
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgrecast copier' AND state <> 'idle'";
    wait_until(db, "the last chunk", busy, "0");
}

#[test]
fn paused_shown_set_and_let_go_on() {
    let db = Db::new();
    db.sql(Shape::plain_ddl());
    let load = Load::start(&db, &Shape::plain(), &Options::paced(505));
    db.sql(FILLER);
    let running = widen(&db, &SLOWLY);
    running.wait_for_phase("copy");
    command(&db, &["pause"]).wait().ended(0);
    held_back(&running, "paused");
    idle_copiers(&db);
    let before = copied_blocks(&db);
    wait_for("the status", SOON, || {
        let status = command(&db, &["status"]).wait();
        let row: Value = serde_json::from_str(status.stdout.trim()).map_err(|e| e.to_string())?;
        let shown = row["progress"]["throttle"].as_str() == Some("paused by pgrecast pause");
        let noted = row["note"].as_str().is_some_and(|note| note.contains("running: copy") && note.contains("paused"));
        if shown && noted { Ok(()) } else { Err(status.stdout) }
    });
    assert_eq!(copied_blocks(&db), before, "copied while it was paused");
    let wrong = command(&db, &["set", "max-lag=soon"]).wait();
    assert_eq!(wrong.code, Some(2), "{}", wrong.stderr);
    command(&db, &["set", "nice=0", "jobs=4", "max-lag=20s"]).wait().ended(0);
    command(&db, &["unpause"]).wait().ended(0);
    let report = running.done();
    assert!(report["throttled_seconds"]["by_reason"]["paused"].as_f64().is_some_and(|s| s > 0.0), "{report}");
    load.stop().assert_kept(&db, &format!("{} WHERE id > 0", Shape::plain().select_all()));
    assert_widened(&db);
    let options =
        "SELECT concat_ws(' ', options->>'jobs', options->'throttle'->'max_lag'->>'secs') FROM pgrecast.migration";
    assert_eq!(db.query_one_text(options), "4 20");
    finish(&db);
}

/// By itself it looks once an hour: what it does is what it was notified of.
#[test]
fn a_command_is_heard_at_once() {
    let db = table();
    let start = || {
        let args = [&["alter", "t", WIDEN, "--postpone-cutover", "--format", "json"], &SLOWLY[..]].concat();
        let running = spawn_with(db.dsn(), &args, &[("PGRECAST_POLL", "3600")]);
        running.wait_for_phase("copy");
        running
    };
    let given_up = start();
    command(&db, &["abort"]).wait().ended(0);
    given_up.wait().ended(1);
    let running = start();
    command(&db, &["pause"]).wait().ended(0);
    held_back(&running, "paused");
    command(&db, &["set", "nice=0", "jobs=2"]).wait().ended(0);
    command(&db, &["unpause"]).wait().ended(0);
    running.wait_for_waiting("pgrecast cutover");
    command(&db, &["cutover"]).wait().ended(0);
    running.done();
    assert_widened(&db);
    finish(&db);
}

#[test]
fn a_paused_migration_does_not_cut_over() {
    let db = table();
    let running = widen(&db, &["--postpone-cutover"]);
    running.wait_for_waiting("pgrecast cutover");
    command(&db, &["pause"]).wait().ended(0);
    command(&db, &["cutover"]).wait().ended(0);
    running.wait_for_waiting("paused by pgrecast pause");
    assert_eq!(db.query_one_text("SELECT phase FROM pgrecast.migration"), "ready");
    // A notification can be lost; the row is what counts.
    db.sql("UPDATE pgrecast.migration SET paused = false");
    running.done();
    assert_widened(&db);
    finish(&db);
}

#[test]
fn a_running_migration_is_aborted() {
    let db = table();
    let running = widen(&db, &SLOWLY);
    running.wait_for_phase("copy");
    command(&db, &["abort"]).wait().ended(0);
    let ended = running.wait();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("given up: pgrecast abort was run elsewhere"), "{}", ended.stderr);
    assert_nothing_left(&db);
    widen(&db, &[]).done();
    assert_widened(&db);
    finish(&db);
}

#[test]
fn what_is_critical_stops_it_and_it_goes_on_later() {
    let db = table();
    let running = widen(&db, &[&SLOWLY[..], &["--critical-active", "2"]].concat());
    running.wait_for_phase("copy");
    let ended = beside(
        3,
        |_, _| drop(db.connect().try_sql("SELECT pg_sleep(60)")),
        || {
            let ended = running.wait();
            db.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'");
            ended
        },
    );
    assert_eq!(ended.code, Some(75), "{}", ended.stderr);
    assert!(ended.stderr.contains("> --critical-active 2"), "{}", ended.stderr);
    command(&db, &["set", "critical-active=", "nice="]).wait().ended(0);
    command(&db, &["resume"]).wait().ended(0);
    assert_widened(&db);
    finish(&db);
}

/// First it replays late, and is there again by and by; then not at all, where the server's own measure stands still as well.
#[test]
fn a_standby_that_replays_late_or_not_at_all_holds_it_back() {
    let primary = own_server(&[]);
    let db = Db::on(&primary);
    db.sql("SELECT pg_create_physical_replication_slot('standby', true)");
    let standby = standby_of(&primary, "standby", &[]);
    wait_until(&db, "the standby", "SELECT active FROM pg_replication_slots WHERE slot_name = 'standby'", "t");
    db.sql(Shape::plain_ddl());
    db.sql(FILLER);
    let replayed = "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= pg_current_wal_lsn() - 100";
    wait_until(&db, "the standby to be there", replayed, "1");
    let there = Session::connect(&standby.dsn());
    there.sql("ALTER SYSTEM SET recovery_min_apply_delay = '4s'");
    there.sql("SELECT pg_reload_conf()");
    let running = widen(&db, &[&SLOWLY[..], &["--max-lag", "2s"]].concat());
    let reason = held_back(&running, "replica_lag");
    // A look a half second away: what is copied until then is behind by no more than that.
    let seen: f64 = reason.split(' ').nth(1).and_then(|lag| lag.parse().ok()).expect("a lag in seconds");
    assert!((2.0..4.0).contains(&seen), "{reason}");
    there.sql("ALTER SYSTEM RESET recovery_min_apply_delay");
    there.sql("SELECT pg_reload_conf()");
    running.wait_for_event("the standby that is there again", SOON, |e| e["event"] == "unthrottled");
    there.sql("SELECT pg_wal_replay_pause()");
    let stopped = Timestamp::now();
    running.wait_for_event("the standby that stops", SOON, |e| e["event"] == "throttled" && later(e, stopped));
    idle_copiers(&db);
    let before = copied_blocks(&db);
    let looks = AtomicU32::new(0);
    running.wait_for_event("some looks", SOON, |e| {
        let held = e["event"] == "progress" && e["throttle"].is_string() && later(e, stopped);
        looks.fetch_add(u32::from(held), Ordering::Relaxed) > 4
    });
    assert_eq!(copied_blocks(&db), before, "copied while the standby was behind");
    command(&db, &["set", "nice=0"]).wait().ended(0);
    there.sql("SELECT pg_wal_replay_resume()");
    let report = running.done();
    assert!(report["throttled_seconds"]["by_reason"]["replica_lag"].as_f64().is_some_and(|s| s > 0.0), "{report}");
    assert_widened(&db);
    finish(&db);
}
