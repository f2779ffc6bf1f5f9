//! Off-peak hours, as cron sees them: nothing outside the window, a stop at its end, and one runner at a time.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::harness::load::{Load, Options, Shape};
use crate::harness::migration::{SOON, assert_widened, command, copied_blocks, finish, wait_until};
use crate::harness::{Db, Output, Running, assert_nothing_left, pgrecast, spawn_with, wait_for};

/// What the load writes in a night of a few seconds would be much until the next one.
const NIGHT: [&str; 6] = ["--window", "22:00-22:05 UTC", "--outside-window", "exit", "--max-slot-wal", "100TB"];

/// A Friday, as seconds since 1970.
const DAY: u64 = 1_795_132_800;

/// Rows that make the copy several chunks long.
const FILLER: &str = "INSERT INTO t (id, v) SELECT -n, repeat('x', 1000) FROM generate_series(2, 12000) n";

/// A clock that shows this now, and goes so many times as fast as the real one.
fn clock(seconds: u64, speed: u32) -> String {
    let real = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970");
    format!("{} {seconds} {speed}", real.as_secs_f64())
}

fn at(hour: u64, minute: u64) -> u64 {
    DAY + hour * 3_600 + minute * 60
}

/// The command, at that time of that day.
fn start(db: &Db, day: u64, time: u64, more: &[&str]) -> Running {
    let clock = clock(day * 86_400 + time, 60);
    let change = "ALTER id TYPE bigint, ALTER u TYPE bigint, ADD COLUMN extra text NOT NULL DEFAULT 'none'";
    let args = [&["alter", "t", change, "--format", "json"], more].concat();
    spawn_with(db.dsn(), &args, &[("PGRECAST_CLOCK", &clock)])
}

fn says(output: &Output, words: &str) {
    assert!(output.stderr.contains(words), "{}", output.stderr);
}

#[test]
fn nothing_is_begun_outside_the_window() {
    let db = Db::new();
    db.sql(Shape::plain_ddl());
    let ended = start(&db, 0, at(12, 0), &NIGHT).wait();
    assert_eq!(ended.code, Some(75), "{}", ended.stderr);
    says(&ended, "opens 2026-11-20 22:00 UTC");
    assert_nothing_left(&db);
    let wrong = pgrecast(&db, &["alter", "t", "", "--window", "22:00-22:00 UTC"]);
    assert_eq!(wrong.code, Some(2), "{}", wrong.stderr);
}

/// Four nights: one that is held, one that is killed, one in which a second is started, and one to its end; and each day.
#[test]
fn cron_starts_it_night_after_night() {
    let db = Db::new();
    db.sql(Shape::plain_ddl());
    let load = Load::start(&db, &Shape::plain(), &Options::paced(507));
    db.sql(FILLER);
    let place = tempfile::tempdir().expect("a directory");
    let hold = place.path().join("hold");
    std::fs::write(&hold, "").expect("the file");
    let file = hold.to_string_lossy().into_owned();
    let args = |night: &'static str| {
        let more = ["--outside-window", "exit", "--max-slot-wal", "100TB", "--throttle-file", &file, "--window", night];
        more.map(str::to_owned).to_vec()
    };
    let begin = |day, time, night| start(&db, day, time, &args(night).iter().map(String::as_str).collect::<Vec<_>>());
    let by_day = |day| {
        let before = copied_blocks(&db);
        let ended = begin(day, at(12, 0), "22:00-22:02 UTC").wait();
        assert_eq!(ended.code, Some(75), "{}", ended.stderr);
        assert_eq!(copied_blocks(&db), before, "something was copied by day");
    };
    let over = |ended: Output| {
        assert_eq!(ended.code, Some(75), "{}\n{}", ended.stdout, ended.stderr);
        says(&ended, "outside the window");
        says(&ended, "the slot will hold");
    };

    over(begin(0, at(22, 0), "22:00-22:02 UTC").wait());
    by_day(1);
    let killed = begin(1, at(22, 0), "22:00-23:00 UTC");
    killed.wait_for_phase("copy");
    std::fs::remove_file(&hold).expect("the file");
    wait_for("a chunk", SOON, || if copied_blocks(&db) == "0" { Err("none".to_owned()) } else { Ok(()) });
    std::fs::write(&hold, "").expect("the file");
    killed.kill();
    by_day(2);
    let third = begin(2, at(22, 0), "22:00-22:05 UTC");
    third.wait_for_event("its start", SOON, |e| e["event"] == "started");
    let second = begin(2, at(22, 0), "22:00-22:05 UTC").wait();
    assert!(second.code == Some(6) && second.stderr.lines().count() == 1, "{}", second.stderr);
    over(third.wait());
    by_day(3);
    std::fs::remove_file(&hold).expect("the file");
    begin(3, at(22, 0), "22:00-06:00 UTC").done();
    begin(4, at(12, 0), "22:00-06:00 UTC").done();
    begin(4, at(22, 0), "22:00-06:00 UTC").done();
    assert_eq!(db.query_one_text("SELECT count(*) || max(phase) FROM pgrecast.migration"), "1complete", "begun anew");
    load.stop().assert_kept(&db, &format!("{} WHERE id > 0", Shape::plain().select_all()));
    assert_widened(&db);
    finish(&db);
}

#[test]
fn outside_the_window_a_run_keeps_up() {
    let db = Db::new();
    db.sql(Shape::plain_ddl());
    db.sql(FILLER);
    // However quick the machine is, the window ends before the copy does.
    let place = tempfile::tempdir().expect("a directory");
    let hold = place.path().join("hold");
    std::fs::write(&hold, "").expect("the file");
    let file = hold.to_string_lossy().into_owned();
    let keep_up = ["--window", "22:00-22:03 UTC", "--jobs", "1", "--nice", "30", "--throttle-file", &file];
    let begun = Instant::now();
    let running = start(&db, 0, at(22, 0), &keep_up);
    running.wait_for_phase("copy");
    wait_for("the end of the window", SOON, || match begun.elapsed().as_secs() {
        0..4 => Err("it is open".to_owned()),
        _ => Ok(()),
    });
    std::fs::remove_file(&hold).expect("the file");
    running.wait_for_event("the hours without work", SOON, |e| {
        e["event"] == "progress" && e["throttle"].as_str().is_some_and(|r| r.starts_with("window closed"))
    });
    // A chunk that had begun may end.
    wait_until(
        &db,
        "the last chunk",
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgrecast copier' AND state <> 'idle'",
        "0",
    );
    let before = copied_blocks(&db);
    db.sql("UPDATE t SET v = v || '!' WHERE id < 0");
    let journaled = |e: &serde_json::Value| e["backlog_keys"].as_u64().is_some_and(|keys| keys > 10_000);
    running.wait_for_event("the journal", SOON, |e| e["event"] == "progress" && journaled(e));
    assert_eq!(copied_blocks(&db), before, "something was copied outside the window");
    command(&db, &["set", "window=", "nice=0", "jobs=2"]).wait().ended(0);
    let report = running.done();
    let held = &report["throttled_seconds"]["by_reason"]["window"];
    assert!(held.as_f64().is_some_and(|s| s > 0.0), "{report}");
    assert_widened(&db);
    finish(&db);
}

#[test]
fn a_run_that_waits_for_its_window_is_steered() {
    let db = Db::new();
    db.sql(Shape::plain_ddl());
    let start = || {
        let running = start(&db, 0, at(12, 0), &["--window", "22:00-23:00 UTC"]);
        running.wait_for_waiting("the window, which opens 2026-11-20 22:00 UTC");
        running
    };
    let given_up = start();
    command(&db, &["abort"]).wait().ended(0);
    given_up.wait().ended(1);
    assert_nothing_left(&db);
    let running = start();
    command(&db, &["set", "window="]).wait().ended(0);
    running.done();
    assert_widened(&db);
    finish(&db);
}

#[test]
fn the_cutover_waits_for_its_own_window() {
    let db = Db::new();
    db.sql(Shape::plain_ddl());
    let running = start(&db, 0, at(22, 0), &["--cutover-window", "Sat 03:00-04:00 UTC"]);
    let on = running.wait_for_waiting("window closed");
    assert!(on.contains("2026-11-21 03:00 UTC"), "{on}");
    command(&db, &["set", "cutover-window="]).wait().ended(0);
    running.done();
    assert_widened(&db);
    finish(&db);
}
