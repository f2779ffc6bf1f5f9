//! What a run may take: memory, snapshots, WAL; and what holds it back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::load::{Load, Options, Shape};
use crate::harness::migration::{SOON, assert_widened, command, finish, wait_until, widen};
use crate::harness::{Db, Running, Session};

/// The most memory of a run, whatever the size of the table and of the backlog.
const MOST_RESIDENT: u64 = 64 << 20;

/// The longest that a snapshot may be held while no index is built.
const LONGEST_SNAPSHOT: Duration = Duration::from_secs(5);

/// Every row's part in one line, to compare the table before and after.
const DIGEST: &str = "SELECT concat_ws(' ', count(*), sum(hashint8(id)::int8), sum(hashtext(v)::int8)) FROM big";

fn big(db: &Db, rows: u32) {
    db.sql("CREATE TABLE big (id integer PRIMARY KEY, v text NOT NULL)");
    db.sql(&format!("INSERT INTO big SELECT n, 'value ' || n FROM generate_series(1, {rows}) n"));
}

fn widen_big(db: &Db, more: &[&str]) -> Running {
    command(db, &[&["alter", "big", "ALTER id TYPE bigint"], more].concat())
}

/// Changes a share of the keys while the copy is held, so that all of them are journaled before any is flushed, in one
/// large transaction and in many small ones; then as many again while the run is live, which sends it back to the
/// journal table.
fn memory_stays_bounded(rows: u32, changed: u32) -> u64 {
    let db = Db::new();
    big(&db, rows);
    let place = tempfile::tempdir().expect("a directory");
    let throttle = place.path().join("throttle");
    std::fs::write(&throttle, "").expect("the file");
    let running = widen_big(&db, &["--throttle-file", &throttle.to_string_lossy(), "--postpone-cutover"]);
    running.wait_for_event("the throttle", SOON, |e| e["event"] == "throttled");
    running.wait_for_phase("copy");
    let half = changed / 2;
    let change = |keys: String| format!("UPDATE big SET v = v || '!' WHERE id IN (SELECT {keys})");
    db.sql(&change(format!("n * 2 FROM generate_series(1, {half}) n")));
    db.sql(&format!(
        "DO $$ BEGIN FOR i IN 0..{half} - 1 BY 500 LOOP \
         UPDATE big SET v = v || '?' WHERE id IN (SELECT n * 2 - 1 FROM generate_series(i, i + 499) n); COMMIT; \
         END LOOP; END $$"
    ));
    let journaled =
        |e: &serde_json::Value| e["backlog_keys"].as_u64().is_some_and(|keys| keys >= u64::from(changed) * 9 / 10);
    running.wait_for_event("the backlog", SOON, |e| e["event"] == "progress" && journaled(e));
    std::fs::remove_file(&throttle).expect("the file");
    running.wait_for_waiting("pgrecast cutover");
    db.sql(&change(format!("n * 2 FROM generate_series(1, {half}) n")));
    running.wait_for_event("the journal table again", SOON, |e| {
        e["event"] == "progress"
            && e["phase"] == "ready"
            && e["backlog_keys"].as_u64().is_some_and(|keys| keys > 50_000)
    });
    let before = db.query_one_text(DIGEST);
    command(&db, &["cutover"]).wait().ended(0);
    let report = running.done();
    assert_eq!(db.query_one_text(DIGEST), before);
    assert!(report["keys_flushed"].as_u64().is_some_and(|keys| keys > u64::from(changed)), "{report}");
    finish(&db);
    report["peak_rss_bytes"].as_u64().expect("the memory")
}

#[test]
fn memory_does_not_grow_with_table_or_backlog() {
    let peak = memory_stays_bounded(500_000, 300_000);
    assert!(peak <= MOST_RESIDENT, "{} MiB", peak >> 20);
}

#[test]
#[ignore = "takes minutes: five million rows, a million of them changed in one transaction"]
fn memory_does_not_grow_with_five_million_rows_and_a_transaction_of_a_million() {
    let peak = memory_stays_bounded(5_000_000, 2_000_000);
    eprintln!("peak resident: {} bytes", peak);
    assert!(peak <= MOST_RESIDENT, "{} MiB", peak >> 20);
}

/// How long each backend of ours has been seen with one and the same snapshot, at most; index builds apart.
fn longest_snapshots(dsn: &str, stop: &AtomicBool) -> HashMap<String, Duration> {
    let session = Session::connect(dsn);
    let mut since: HashMap<(String, String), Instant> = HashMap::new();
    let mut longest: HashMap<String, Duration> = HashMap::new();
    while !stop.load(Ordering::Relaxed) {
        let rows = session.rows(
            "SELECT pid::text, backend_xmin::text, application_name FROM pg_stat_activity WHERE datname = current_database() \
             AND application_name LIKE 'pgrecast%' AND backend_xmin IS NOT NULL AND query NOT LIKE '%CREATE%INDEX%'",
        );
        let mut seen = HashMap::new();
        for row in rows {
            let [Some(pid), Some(xmin), Some(name)] = &row[..] else { continue };
            let begun = since.get(&(pid.clone(), xmin.clone())).copied().unwrap_or_else(Instant::now);
            let held = longest.entry(name.clone()).or_default();
            *held = (*held).max(begun.elapsed());
            seen.insert((pid.clone(), xmin.clone()), begun);
        }
        since = seen;
        session.sql("SELECT pg_sleep(0.05)");
    }
    longest
}

#[test]
fn snapshots_are_short_and_wal_is_let_go() {
    let db = Db::new();
    big(&db, 400_000);
    db.sql("CREATE TABLE other (x int)");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sampler = scope.spawn(|| longest_snapshots(db.dsn(), &stop));
        let running = widen_big(&db, &["--nice", "15", "--postpone-cutover"]);
        running.wait_for_phase("copy");
        let confirmed = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name ~ 'pgrecast'";
        let copying = "SELECT phase FROM pgrecast.migration";
        // Changes of the table and of others, twice: each time the slot moves on while the copy lasts.
        for _ in 0..2 {
            let before = db.query_one_text("SELECT pg_current_wal_insert_lsn()");
            db.sql(
                "UPDATE big SET v = v || '.' WHERE id % 1000 = 0; INSERT INTO other SELECT generate_series(1, 1000)",
            );
            let moved = format!("SELECT ({confirmed})::pg_lsn > '{before}'::pg_lsn");
            wait_until(&db, "the slot to move on", &moved, "t");
            assert_eq!(db.query_one_text(copying), "copy");
        }
        running.wait_for_waiting("pgrecast cutover");
        let before = db.query_one_text(DIGEST);
        command(&db, &["cutover"]).wait().ended(0);
        running.done();
        stop.store(true, Ordering::Relaxed);
        let longest = sampler.join().expect("the sampler");
        assert!(longest.contains_key("pgrecast copier"), "{longest:?}");
        assert!(longest.values().all(|held| *held < LONGEST_SNAPSHOT), "{longest:?}");
        assert_eq!(db.query_one_text(DIGEST), before);
    });
    finish(&db);
}

#[test]
fn a_file_holds_the_copy_back_and_says_so() {
    let db = Db::new();
    db.sql(Shape::plain_ddl());
    let load = Load::start(&db, &Shape::plain(), &Options::paced(301));
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("stop");
    std::fs::write(&file, "").expect("the file");
    let running = widen(&db, &["--throttle-file", &file.to_string_lossy()]);
    running.wait_for_phase("copy");
    let held = |e: &serde_json::Value| {
        e["event"] == "progress"
            && e["phase"] == "copy"
            && e["throttle"].as_str().is_some_and(|why| why.starts_with("throttle_file"))
    };
    running.wait_for_event("the reason in the progress", SOON, held);
    load.wait_for_more(200, SOON);
    assert_eq!(db.query_one_text("SELECT count(*) FROM pgrecast.chunk"), "0");
    std::fs::remove_file(&file).expect("the file");
    running.wait_for_event("the end of it", SOON, |e| e["event"] == "unthrottled");
    let report = running.done();
    let throttled = &report["throttled_seconds"];
    assert!(throttled["total"].as_f64().is_some_and(|seconds| seconds > 0.1), "{throttled}");
    assert!(throttled["by_reason"]["throttle_file"].as_f64().is_some_and(|seconds| seconds > 0.1), "{throttled}");
    load.wait_for_more(100, SOON);
    load.stop().assert_kept(&db, &Shape::plain().select_all());
    assert_widened(&db);
    finish(&db);
}

#[test]
fn each_signal_holds_the_copy_back_with_its_name() {
    let db = Db::new();
    db.sql(Shape::plain_ddl());
    db.sql("INSERT INTO t SELECT n, n, 'v' FROM generate_series(1, 1000) n");
    let busy: Vec<Session> = (0..2).map(|_| db.connect()).collect();
    let stop = AtomicBool::new(false);
    let hold = |args: &[&str], reason: &str, end: &dyn Fn()| {
        let running = widen(&db, &[args, &["--max-lag", "1h"]].concat());
        let is_it = |e: &serde_json::Value| {
            e["event"] == "throttled" && e["reason"].as_str().is_some_and(|r| r.starts_with(reason))
        };
        running.wait_for_event(reason, SOON, is_it);
        wait_until(&db, "the phase", "SELECT phase FROM pgrecast.migration", "copy");
        end();
        running
    };
    db.sql("CREATE TABLE pause (yes boolean); INSERT INTO pause VALUES (true)");
    let query = "SELECT yes FROM public.pause";
    hold(&["--throttle-query", query], "throttle_query t > 0", &|| db.sql("DELETE FROM pause")).kill();
    // No row is no answer, and unknown means pause.
    hold(&["--throttle-query", query], "throttle_query unknown", &|| ()).kill();
    hold(&["--throttle-query", "SELECT nonsense"], "signals unknown", &|| ()).kill();
    std::thread::scope(|scope| {
        for session in &busy {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    session.sql("SELECT pg_sleep(1)");
                }
            });
        }
        hold(&["--max-active", "1"], "active_sessions", &|| stop.store(true, Ordering::Relaxed)).done();
    });
    assert_widened(&db);
    finish(&db);
    db.sql("CREATE TABLE wal (filler text)");
    held_by_slot_wal(&db).kill();
    command(&db, &["abort"]).wait().ended(0);
}

/// The slot retains WAL from the oldest open transaction on.
fn held_by_slot_wal(db: &Db) -> Running {
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("stop");
    std::fs::write(&file, "").expect("the file");
    let running = command(
        db,
        &["alter", "t", "ADD COLUMN more int", "--max-slot-wal", "1MB", "--throttle-file", &file.to_string_lossy()],
    );
    running.wait_for_phase("copy");
    let writer = db.connect();
    writer.sql("BEGIN; INSERT INTO wal VALUES ('first')");
    db.sql("INSERT INTO wal SELECT repeat('x', 1000) FROM generate_series(1, 10000)");
    let is_it = |e: &serde_json::Value| {
        e["event"] == "progress" && e["throttle"].as_str().is_some_and(|r| r.starts_with("slot_wal"))
    };
    running.wait_for_event("slot_wal", SOON, is_it);
    writer.sql("COMMIT");
    running
}
