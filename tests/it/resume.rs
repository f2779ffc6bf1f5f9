//! A run is stopped, killed or cut off in each phase; the same command goes on, and no write is lost.

use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::harness::load::{Load, Options, Shape};
use crate::harness::migration::{SOON, assert_widened, command, finish, journal_tables, phase_of, wait_until, widen};
use crate::harness::{Db, Running, Session, assert_nothing_left, own_server, spawn_with, wait_for};

/// A place where a run stays until the test lets it go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// The slot's creation waits for a transaction.
    Prepare,
    /// The throttle stops the copy after its first chunks.
    Copy,
    /// An index waits for a lock of the test's.
    Index,
    /// The throttle stops the flushing.
    CatchUp,
    /// The cut-over is postponed.
    Ready,
    /// The swap is done; a reader of the journal keeps it from being dropped.
    Swapped,
}

impl Hold {
    const ALL: [Hold; 6] = [Hold::Prepare, Hold::Copy, Hold::Index, Hold::CatchUp, Hold::Ready, Hold::Swapped];

    /// The phase in the control schema.
    fn phase(self) -> &'static str {
        match self {
            Hold::Prepare => "prepare",
            Hold::Copy => "copy",
            Hold::Index => "index",
            Hold::CatchUp => "catch up",
            Hold::Ready => "ready",
            Hold::Swapped => "swapped",
        }
    }
}

/// A table under traffic, and the means to hold a run anywhere.
struct Stage {
    db: Db,
    load: Load,
    throttle: PathBuf,
    _place: tempfile::TempDir,
    /// Has a transaction open, or a lock, while a run is held by it.
    holder: Session,
}

/// The advisory lock that the held index waits for.
const INDEX_LOCK: &str = "4711";

/// An index over the one row that no load touches: its expression waits.
const HELD_INDEX: &str = "
    CREATE FUNCTION public.held(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN
        WHILE NOT pg_catalog.pg_try_advisory_lock_shared(4711) LOOP PERFORM pg_catalog.pg_sleep(0.02); END LOOP;
        PERFORM pg_catalog.pg_advisory_unlock_shared(4711);
        RETURN $1;
    END $$;
    ALTER TABLE t ADD held int;
    INSERT INTO t (id, held) VALUES (-1, 1);
    CREATE INDEX held_up ON t (public.held(held)) WHERE held IS NOT NULL;";

/// Rows that make the copy several chunks long.
const FILLER: &str = "INSERT INTO t (id, v) SELECT -n, repeat('x', 1000) FROM generate_series(2, 20000) n";

/// Rows of the load.
const ROWS: &str = "WHERE id > 0";

impl Stage {
    fn new(db: Db, seed: u64) -> Stage {
        db.sql(Shape::plain_ddl());
        db.sql(HELD_INDEX);
        db.sql(FILLER);
        let load = Load::start(&db, &Shape::plain(), &Options { rows: 5_000, slots: 8_000, ..Options::paced(seed) });
        let place = tempfile::tempdir().expect("a directory");
        let holder = db.connect();
        Stage { db, load, throttle: place.path().join("throttle"), _place: place, holder }
    }

    fn hold(&self) {
        std::fs::write(&self.throttle, "").expect("the throttle file");
    }

    fn go_on(&self) {
        std::fs::remove_file(&self.throttle).expect("the throttle file");
    }

    fn start(&self, more: &[&str]) -> Running {
        let throttle = self.throttle.to_string_lossy().into_owned();
        widen(&self.db, &[&["--throttle-file", &throttle], more].concat())
    }

    /// A run that stays at the hold until [`Stage::release`].
    fn run_to(&self, hold: Hold) -> Running {
        let postponed = self.begin(hold);
        self.await_hold(hold, &postponed);
        postponed
    }

    fn begin(&self, hold: Hold) -> Running {
        match hold {
            Hold::Prepare => {
                // It writes nothing, and holds no lock on the table.
                let writer = "BEGIN; SELECT pg_current_xact_id()";
                self.holder.sql(writer);
                self.start(&[])
            }
            Hold::Copy => self.start(&["--nice", "100"]),
            Hold::Index => {
                self.holder.sql(&format!("SELECT pg_advisory_lock({INDEX_LOCK})"));
                self.start(&[])
            }
            Hold::CatchUp => {
                self.holder.sql(&format!("SELECT pg_advisory_lock({INDEX_LOCK})"));
                let running = self.start(&[]);
                running
                    .wait_for_event("the held index", SOON, |e| e["event"] == "index_began" && e["name"] == "held_up");
                // The throttle holds index builds back too, so the others must have ended.
                for other in ["t_pkey", "t_u_key"] {
                    running.wait_for_event(other, SOON, |e| e["event"] == "index_ended" && e["name"] == other);
                }
                self.hold();
                running.wait_for_event("the throttle", SOON, |e| e["event"] == "throttled");
                self.holder.sql(&format!("SELECT pg_advisory_unlock({INDEX_LOCK})"));
                running
            }
            Hold::Ready => self.start(&["--postpone-cutover"]),
            Hold::Swapped => {
                let running = self.start(&["--postpone-cutover"]);
                running.wait_for_waiting("pgrecast cutover");
                let journal = journal_tables(&self.db);
                self.holder.sql(&format!("BEGIN; LOCK TABLE {journal} IN ACCESS SHARE MODE"));
                command(&self.db, &["cutover"]).wait().ended(0);
                running
            }
        }
    }

    fn await_hold(&self, hold: Hold, running: &Running) {
        match hold {
            Hold::Prepare => {
                running.wait_for_waiting("open write transactions");
            }
            Hold::Copy => {
                running.wait_for_phase("copy");
                let some = "SELECT count(*) > 1 FROM pgrecast.chunk";
                wait_until(&self.db, "chunks", some, "t");
                self.hold();
                running.wait_for_event("the throttle", SOON, |e| e["event"] == "throttled");
            }
            Hold::Index => {
                running
                    .wait_for_event("the held index", SOON, |e| e["event"] == "index_began" && e["name"] == "held_up");
            }
            Hold::CatchUp => running.wait_for_phase("catch_up"),
            Hold::Ready => {
                running.wait_for_waiting("pgrecast cutover");
            }
            Hold::Swapped => {}
        }
        wait_until(&self.db, "the phase", "SELECT phase FROM pgrecast.migration", hold.phase());
        // The traffic goes on wherever the run stands.
        self.load.wait_for_more(50, SOON);
    }

    /// Nothing holds a run any more.
    fn release(&self, hold: Hold) {
        match hold {
            Hold::Prepare | Hold::Swapped => self.holder.sql("ROLLBACK"),
            Hold::Copy | Hold::CatchUp => self.go_on(),
            Hold::Index => self.holder.sql(&format!("SELECT pg_advisory_unlock({INDEX_LOCK})")),
            // The next run is not told to postpone.
            Hold::Ready => {}
        }
    }

    /// The new table is in place, holds what the load says, and is all there is.
    fn assert_migrated(self) {
        self.load.wait_for_more(300, SOON);
        let report = self.load.stop();
        report.assert_kept(&self.db, &format!("{} {ROWS}", Shape::plain().select_all()));
        assert_widened(&self.db);
        drop(self.holder);
        finish(&self.db);
    }
}

fn kill_and_go_on(hold: Hold, resume: bool) {
    let stage = Stage::new(Db::new(), 31 + hold as u64);
    stage.run_to(hold).kill();
    stage.load.wait_for_more(50, SOON);
    assert_eq!(phase_of(&stage.db), hold.phase());
    stage.release(hold);
    let again = if resume { command(&stage.db, &["resume"]) } else { stage.start(&[]) };
    if resume && hold == Hold::Ready {
        // What was asked for stays asked for.
        again.wait_for_waiting("pgrecast cutover");
        command(&stage.db, &["cutover"]).wait().ended(0);
    }
    let output = again.wait();
    output.done();
    assert_eq!(output.events("started")[0]["resumed"], true);
    stage.assert_migrated();
}

#[test]
fn killed_while_the_slot_waits() {
    kill_and_go_on(Hold::Prepare, false);
}

#[test]
fn killed_in_the_copy() {
    kill_and_go_on(Hold::Copy, false);
}

#[test]
fn killed_while_an_index_is_built() {
    kill_and_go_on(Hold::Index, true);
}

#[test]
fn killed_while_catching_up() {
    kill_and_go_on(Hold::CatchUp, true);
}

#[test]
fn killed_while_postponed() {
    kill_and_go_on(Hold::Ready, true);
}

#[test]
fn killed_between_swap_and_clean_up() {
    kill_and_go_on(Hold::Swapped, false);
}

#[test]
fn killed_again_and_again_in_the_copy() {
    let stage = Stage::new(Db::new(), 41);
    let chunks = || stage.db.query_one_text("SELECT count(*) FROM pgrecast.chunk").parse::<u32>().expect("a number");
    let mut before = 0;
    for _ in 0..3 {
        let running = stage.start(&["--nice", "100"]);
        running.wait_for_phase("copy");
        wait_for("another chunk", SOON, || if chunks() > before { Ok(()) } else { Err(format!("{before}")) });
        running.kill();
        before = chunks();
        assert_eq!(phase_of(&stage.db), "copy");
    }
    stage.start(&[]).done();
    stage.assert_migrated();
}

#[test]
fn aborted_in_each_phase_nothing_is_left() {
    let before = Db::new();
    before.sql(Shape::plain_ddl());
    before.sql(HELD_INDEX);
    for hold in Hold::ALL.into_iter().filter(|hold| *hold != Hold::Swapped) {
        let stage = Stage::new(Db::new(), 51);
        let running = stage.run_to(hold);
        // Some are aborted while they work, some after they were killed.
        if matches!(hold, Hold::Copy | Hold::Index) {
            running.kill();
            command(&stage.db, &["abort"]).wait().ended(0);
        } else {
            command(&stage.db, &["abort"]).wait().ended(0);
            let ended = running.wait();
            ended.ended(1);
            assert!(ended.stderr.contains("pgrecast abort was run elsewhere"), "{}", ended.stderr);
        }
        stage.release(hold);
        stage.load.wait_for_more(100, SOON);
        let report = stage.load.stop();
        report.assert_kept(&stage.db, &format!("{} {ROWS}", Shape::plain().select_all()));
        assert_eq!(crate::harness::dump(&stage.db), crate::harness::dump(&before), "aborted in {hold:?}");
        drop(stage.holder);
        assert_nothing_left(&stage.db);
    }
}

/// A run that has only prepared gives all of it up when it is asked to, and the control schema with it.
#[test]
fn what_was_given_up_meanwhile_is_aborted() {
    let db = Db::new();
    db.sql(Shape::plain_ddl());
    let dies = [("PGRECAST_FAULT", "after commit register")];
    let died = spawn_with(db.dsn(), &["alter", "t", "ALTER v SET NOT NULL", "--format", "json"], &dies).wait();
    assert_eq!(died.code, None, "{}", died.stderr);
    let runner = Session::connect(db.dsn());
    // The lease, `LOCK_CLASS` of `src/state/store.rs`.
    runner.sql("SELECT pg_advisory_lock(1885827683, id) FROM pgrecast.migration");
    let abort = command(&db, &["abort"]);
    wait_until(&db, "the wish", "SELECT ending = 'abort' FROM pgrecast.migration", "t");
    db.sql("DROP SCHEMA pgrecast CASCADE");
    std::thread::sleep(std::time::Duration::from_millis(400));
    runner.sql("SELECT pg_advisory_unlock_all()");
    abort.wait().ended(0);
    drop(runner);
    assert_nothing_left(&db);
}

#[test]
fn interrupted_it_ends_with_130_and_goes_on() {
    let stage = Stage::new(Db::new(), 61);
    for hold in [Hold::Prepare, Hold::Copy, Hold::CatchUp, Hold::Ready] {
        let mut running = stage.run_to(hold);
        running.signal(if hold == Hold::Copy { Signal::SIGTERM } else { Signal::SIGINT });
        let output = running.wait();
        output.ended(130);
        assert!(output.stderr.contains("Run the same command again"), "{}", output.stderr);
        stage.release(hold);
    }
    stage.start(&[]).done();
    stage.assert_migrated();
}

#[test]
fn a_run_that_is_over_its_time_ends_with_75_and_goes_on() {
    let stage = Stage::new(Db::new(), 62);
    stage.start(&["--postpone-cutover", "--max-runtime", "3s"]).wait().ended(75);
    stage.start(&[]).done();
    stage.assert_migrated();
}

#[test]
fn a_second_runner_is_sent_away_in_one_line() {
    let stage = Stage::new(Db::new(), 63);
    for hold in [Hold::Copy, Hold::Ready] {
        let running = stage.run_to(hold);
        for second in [stage.start(&[]).wait(), command(&stage.db, &["resume"]).wait()] {
            second.ended(6);
            let errors: Vec<&str> =
                second.stderr.lines().filter(|line| line.to_lowercase().starts_with("error")).collect();
            assert!(errors.len() == 1 && errors[0].contains("another runner"), "{}", second.stderr);
        }
        running.kill();
        stage.release(hold);
    }
    stage.start(&[]).done();
    stage.assert_migrated();
}

#[test]
fn other_clauses_are_refused_while_a_migration_is_unfinished() {
    let stage = Stage::new(Db::new(), 64);
    stage.run_to(Hold::Ready).kill();
    let other = command(&stage.db, &["alter", "t", "ADD COLUMN other int"]).wait();
    other.ended(3);
    stage.start(&[]).done();
    stage.assert_migrated();
}

/// Ends every backend of ours with this `application_name`; returns how many there were.
fn terminate(db: &Db, name: &str) -> u32 {
    let sql = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() \
         AND application_name = 'pgrecast {name}'"
    );
    db.query_one_text(&sql).parse().expect("a number")
}

#[test]
fn a_terminated_backend_is_replaced() {
    let stage = Stage::new(Db::new(), 71);
    let some = |name: &str| {
        wait_for(name, SOON, || match terminate(&stage.db, name) {
            0 => Err("none".into()),
            ended => Ok(ended),
        });
        stage.load.wait_for_more(30, SOON);
    };
    stage.holder.sql(&format!("SELECT pg_advisory_lock({INDEX_LOCK})"));
    let running = stage.start(&["--nice", "30", "--postpone-cutover"]);
    running.wait_for_phase("copy");
    some("copier");
    stage.hold();
    running.wait_for_event("the throttle", SOON, |e| e["event"] == "throttled");
    for name in ["journal", "stream", "monitor", "copier", "stream"] {
        some(name);
    }
    assert_eq!(phase_of(&stage.db), "copy");
    stage.go_on();
    running.wait_for_event("the held index", SOON, |e| e["event"] == "index_began" && e["name"] == "held_up");
    for name in ["indexer", "stream", "journal", "indexer"] {
        some(name);
    }
    assert_eq!(phase_of(&stage.db), "index");
    stage.holder.sql(&format!("SELECT pg_advisory_unlock({INDEX_LOCK})"));
    running.wait_for_phase("catch_up");
    for name in ["flusher", "journal", "stream", "flusher", "journal"] {
        some(name);
    }
    running.wait_for_waiting("pgrecast cutover");
    for name in ["flusher", "journal", "stream", "monitor", "flusher"] {
        some(name);
    }
    // Something must be in the way, or the cut-over is too quick to be hit.
    stage.holder.sql("BEGIN; LOCK TABLE t IN ACCESS SHARE MODE");
    command(&stage.db, &["cutover"]).wait().ended(0);
    running.wait_for_event("an attempt", SOON, |e| e["event"] == "cutover_attempt");
    for name in ["monitor", "stream", "flusher", "journal", "monitor"] {
        some(name);
    }
    stage.holder.sql("COMMIT");
    running.done();
    stage.assert_migrated();
}

#[test]
fn the_end_of_its_lease_ends_a_run_which_goes_on_later() {
    let stage = Stage::new(Db::new(), 72);
    for hold in [Hold::Prepare, Hold::Copy, Hold::CatchUp, Hold::Ready] {
        let running = stage.run_to(hold);
        assert!(terminate(&stage.db, "control") > 0);
        let output = running.wait();
        output.ended(1);
        assert!(
            output.stderr.contains("pgrecast resume") || output.stderr.contains("same command again"),
            "{}",
            output.stderr
        );
        stage.release(hold);
    }
    stage.start(&[]).done();
    stage.assert_migrated();
}

/// A crash ends the load's sessions too, so its account is closed before: what was acknowledged must be there.
fn crash(hold: Hold) {
    let mut server = own_server(&[]);
    let stage = Stage::new(Db::on(&server), 81);
    let running = stage.run_to(hold);
    let report = stage.load.stop();
    server.stop_immediate();
    let output = running.wait();
    output.ended(1);
    server.restart().expect("a start that recovers");
    let db = stage.db.again();
    assert_eq!(db.query_one_text("SELECT phase FROM pgrecast.migration"), hold.phase());
    if hold == Hold::Copy {
        let chunks = "SELECT count(*) FROM pgrecast.chunk";
        assert_ne!(db.query_one_text(chunks), "0");
    }
    std::fs::remove_file(&stage.throttle).expect("the throttle file");
    widen(&db, &[]).done();
    report.assert_kept(&db, &format!("{} {ROWS}", Shape::plain().select_all()));
    assert_widened(&db);
    finish(&db);
}

#[test]
fn the_server_crashes_in_the_copy() {
    crash(Hold::Copy);
}

#[test]
fn the_server_crashes_while_catching_up() {
    crash(Hold::CatchUp);
}
