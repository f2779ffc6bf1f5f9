//! Killed before and after every message that changes something, a migration goes on and loses nothing.
//!
//! The fault points are those of `src/seams.rs`: each statement has two. A case must really have died where it was to.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use pgrecast::demo::Server;

use crate::harness::load::{Load, Options, Shape};
use crate::harness::migration::{SOON, WIDEN, assert_widened, command, only_migration, phase_of, widen};
use crate::harness::{Db, Output, Running, assert_nothing_left, dump, own_server, spawn_with, wait_for};

/// Of a run up to the end of its clean-up, in its order: both sides of a statement, unless one is named.
const RUN: &[&str] = &[
    "commit register",
    "after create shadow",
    "after create publication",
    "create replication slot",
    "commit prepare",
    "after copy chunk",
    "after journal new rows",
    "commit chunk",
    "after commit chunk #2",
    "write journal",
    "after report replication status",
    "set phase",
    "build index",
    "after keep verdict",
    "commit attach",
    "after emit barrier",
    "after open journal",
    "flush upserts",
    "commit flush",
    "drop journal",
    "after analyze shadow",
    "after lock source",
    "after swap",
    "commit cut-over",
    "drop slot",
    "after drop publication #2",
    "after drop shadow #2",
    "validate foreign key",
];

/// Of a run with rest between pieces of work: inside a chunk, whose pieces are a transaction each.
const GENTLY: &[&str] = &["commit chunk #2", "after look for chunk #3", "after copy chunk #3", "commit flush #2"];

/// Of a run that takes the table apart: where it writes to the new table as well.
const SPLIT: &[&str] = &[
    "after create shadow",
    "after copy chunk",
    "after copy chunk to part",
    "after commit chunk",
    "after build index #2",
    "flush upserts #2",
    "commit flush",
    "after swap",
    "commit cut-over",
];

/// The new table gets a column that follows from one that the load writes.
const APART: &[&str] = &["split", "t", "--into", "part(t_id = id, w)", "--drop", "w"];

/// Of a run with a rollback window, beyond those.
const WINDOW: &[&str] =
    &["create publication #2", "create replication slot #2", "keep plan", "ask to end", "set phase #3"];

/// Of `rollback`.
const ROLLBACK: &[&str] =
    &["analyze shadow", "swap", "commit cut-over", "validate foreign key", "drop slot", "set phase"];

/// Of `finish`.
const FINISH: &[&str] = &["drop old table", "forget migration", "drop control schema", "commit forget"];

/// Of `abort`.
const ABORT: &[&str] = &["drop slot", "drop publication", "drop shadow", "drop journal", "forget migration"];

/// Of a run over two tables, where that is another matter than over one; on the newest major.
const TOGETHER: &[&str] = &[
    "after register migration",
    "after create shadow",
    "after commit prepare",
    "before commit attach",
    "after analyze shadow",
    "after lock source",
    "after swap",
    "after commit cut-over",
    "after drop shadow #3",
    "before validate foreign key",
];

/// Lanes of cases, each with a server of its own: a slot waits for the transactions of every database.
const LANES: usize = 3;

/// Both sides of each statement that is not given with one.
fn both(points: &[&str]) -> Vec<String> {
    let sides = |point: &&str| match point.starts_with("after ") || point.starts_with("before ") {
        true => vec![point.to_string()],
        false => vec![format!("before {point}"), format!("after {point}")],
    };
    points.iter().flat_map(sides).collect()
}

/// Runs a case for each point, one after the other in each lane, and names those that fail.
fn each(command: Command, points: &[String], must: Must) {
    let (next, failed, missed) = (AtomicUsize::new(0), Mutex::new(Vec::new()), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..LANES.min(points.len()) {
            scope.spawn(|| {
                let server = own_server(&[]);
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some(point) = points.get(n) else { break };
                    if n > 0 && n.is_multiple_of(50) {
                        eprintln!("{command:?}: {n} of {} points", points.len());
                    }
                    let case = || Case::new(&server, point).run(command, must);
                    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(case)) {
                        Ok(Died::There) => {}
                        Ok(Died::Not) => drop(missed.fetch_add(1, Ordering::Relaxed)),
                        Err(panic) => {
                            let said = panic.downcast_ref::<String>().cloned();
                            let said = said.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
                            let said = format!("* {command:?}, {point}: {}", said.unwrap_or_default());
                            failed.lock().expect("no case holds it").push(said);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no case holds it");
    eprintln!("{command:?}: {} points, {} not reached", points.len(), missed.into_inner());
    assert!(failed.is_empty(), "{} of {} cases fail:\n{}", failed.len(), points.len(), failed.join("\n\n"));
}

/// The command that dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Alter,
    AlterGently,
    Split,
    AlterWithWindow,
    Widen,
    Rollback,
    Finish,
    Abort,
}

/// Whether a point may be one that only some runs come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Must {
    Die,
    DieOrEnd,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Died {
    There,
    Not,
}

/// A table under traffic, with a child, whose copy takes some chunks; and where a command is to die.
struct Case {
    db: Db,
    load: Load,
    before: String,
    variable: (&'static str, String),
}

impl Case {
    fn new(server: &Server, point: &str) -> Case {
        Case::with(server, ("PGRECAST_FAULT", point.to_owned()))
    }

    fn with(server: &Server, variable: (&'static str, String)) -> Case {
        let db = Db::on(server);
        db.sql(Shape::plain_ddl());
        db.sql(
            "INSERT INTO t (id, v) SELECT -n, repeat('x', 1000) FROM generate_series(1, 3000) n;
             CREATE TABLE child (id int PRIMARY KEY, t_id int REFERENCES t); INSERT INTO child VALUES (1, -1), (2, -2)",
        );
        let before = dump(&db);
        let options = Options { connections: 2, rows: 200, slots: 600, large: 50, ..Options::paced(7) };
        let load = Load::start(&db, &Shape::plain(), &options);
        Case { db, load, before, variable }
    }

    fn run(self, command: Command, must: Must) -> Died {
        match command {
            Command::Alter => self.alter(&[], must),
            Command::AlterGently => self.alter(&["--jobs", "1", "--nice", "1"], must),
            Command::Split => self.split(must),
            Command::AlterWithWindow => self.alter_with_window(must),
            Command::Widen => self.widen(must),
            Command::Rollback => self.rollback(must),
            Command::Finish => self.finish(must),
            Command::Abort => self.abort(must),
        }
    }

    fn alter(self, options: &[&str], must: Must) -> Died {
        let args = [&["alter", "t", WIDEN], options].concat();
        let died = self.dies(&args, must);
        // One that died before it was registered begins anew.
        match self.is_registered() {
            true => self.go_on(&["resume", &self.id()]),
            false => self.go_on(&args),
        };
        self.go_on(&["finish", &self.id()]);
        assert_widened(&self.db);
        self.assert_kept();
        died
    }

    fn split(self, must: Must) -> Died {
        self.db.sql("ALTER TABLE t ADD w text GENERATED ALWAYS AS (left(v, 9)) STORED");
        let died = self.dies(APART, must);
        match self.is_registered() {
            true => self.go_on(&["resume", &self.id()]),
            false => self.go_on(APART),
        };
        // Nobody writes to either from the swap on.
        let differ = "SELECT count(*) FROM part p FULL JOIN t_old o ON p.t_id = o.id \
            WHERE o.id IS NULL OR p.t_id IS NULL OR p.w IS DISTINCT FROM o.w";
        assert_eq!(self.db.query_one_text(differ), "0");
        assert_eq!(self.db.query_one_text("SELECT count(*) FROM part WHERE t_id < 0"), "3000");
        self.go_on(&["finish", &self.id()]);
        self.assert_kept();
        died
    }

    fn widen(self, must: Must) -> Died {
        let args = ["widen", "t.id", "bigint"];
        let died = self.dies(&args, must);
        match self.is_registered() {
            true => self.go_on(&["resume", &self.id()]),
            false => self.go_on(&args),
        };
        self.go_on(&["finish", &self.id()]);
        let types = "SELECT string_agg(format_type(atttypid, NULL), ' ') FROM pg_attribute \
             WHERE attrelid = 't'::regclass AND attname = 'id' OR attrelid = 'child'::regclass AND attname = 't_id'";
        assert_eq!(self.db.query_one_text(types), "bigint bigint");
        assert_eq!(self.db.query_one_text("SELECT string_agg(t_id::text, ' ' ORDER BY id) FROM child"), "-1 -2");
        self.assert_kept();
        died
    }

    fn alter_with_window(self, must: Must) -> Died {
        let args = ["alter", "t", WIDEN, "--rollback-window", "10m"];
        let mut first = self.start(&args);
        wait_for("its death, or the end of its way", SOON, || {
            if first.is_over() || self.is_kept() { Ok(()) } else { Err("it is on its way".to_owned()) }
        });
        let died = match must {
            Must::Die => judge(first.wait(), must),
            Must::DieOrEnd => {
                self.load.wait_for_more(100, SOON);
                match first.is_over() {
                    true => judge(first.wait(), must),
                    false => {
                        first.kill();
                        Died::Not
                    }
                }
            }
        };
        let again = match self.is_registered() {
            true => command(&self.db, &["resume", &self.id()]),
            false => command(&self.db, &args),
        };
        again.wait_for_phase("keep");
        self.load.wait_for_more(50, SOON);
        self.go_on(&["rollback", &self.id()]);
        again.wait().ended(0);
        self.go_on(&["finish", &self.id()]);
        self.assert_as_before();
        died
    }

    fn rollback(self, must: Must) -> Died {
        let running = widen(&self.db, &["--rollback-window", "10m"]);
        running.wait_for_phase("keep");
        self.load.wait_for_more(50, SOON);
        let died = self.dies(&["rollback", &self.id()], must);
        if phase_of(&self.db) != "rolled back" {
            self.go_on(&["rollback", &self.id()]);
        }
        // One that died before it had asked left this one at work.
        running.wait().ended(0);
        self.go_on(&["finish", &self.id()]);
        self.assert_as_before();
        died
    }

    fn finish(self, must: Must) -> Died {
        widen(&self.db, &["--no-verify"]).done();
        let id = self.id();
        let died = self.dies(&["finish", &id], must);
        if self.is_registered() {
            self.go_on(&["finish", &id]);
        }
        assert_widened(&self.db);
        self.assert_kept();
        died
    }

    fn abort(self, must: Must) -> Died {
        let running = widen(&self.db, &["--postpone-cutover", "--no-verify"]);
        running.wait_for_waiting("pgrecast cutover");
        running.kill();
        let id = self.id();
        let died = self.dies(&["abort", &id], must);
        if self.is_registered() {
            self.go_on(&["abort", &id]);
        }
        self.assert_as_before();
        died
    }

    /// Starts the command that is to die.
    fn start(&self, args: &[&str]) -> Running {
        let args = [args, &["--format", "json"]].concat();
        let (name, value) = &self.variable;
        spawn_with(self.db.dsn(), &args, &[(name, value)])
    }

    /// Runs it to its end.
    fn dies(&self, args: &[&str], must: Must) -> Died {
        judge(self.start(args).wait(), must)
    }

    /// Whether the control schema has a migration.
    fn is_registered(&self) -> bool {
        self.db.query_one_text("SELECT to_regclass('pgrecast.migration') IS NOT NULL") == "t"
            && self.db.query_one_text("SELECT count(*) FROM pgrecast.migration WHERE head IS NULL") == "1"
    }

    /// Whether the old table is kept in step.
    fn is_kept(&self) -> bool {
        self.is_registered() && phase_of(&self.db) == "keep in step"
    }

    fn id(&self) -> String {
        only_migration(&self.db)
    }

    fn go_on(&self, args: &[&str]) -> Output {
        let output = command(&self.db, args).wait();
        output.ended(0);
        output
    }

    fn assert_as_before(self) {
        let before = self.before.clone();
        let db = self.assert_kept();
        assert_eq!(dump(&db), before);
    }

    /// The traffic has lost nothing, and nothing of ours is left.
    fn assert_kept(self) -> Db {
        self.load.wait_for_more(20, SOON);
        let report = self.load.stop();
        report.assert_kept(&self.db, &format!("{} WHERE id > 0", Shape::plain().select_all()));
        assert_eq!(self.db.query_one_text("SELECT count(*) FROM t WHERE id <= 0 AND v = repeat('x', 1000)"), "3000");
        let invalid = "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND NOT convalidated";
        assert_eq!(self.db.query_one_text(invalid), "0");
        assert_nothing_left(&self.db);
        self.db
    }
}

/// Whether a command died, or ended well where it may.
fn judge(output: Output, must: Must) -> Died {
    match (output.code, must) {
        (None, _) => Died::There,
        (Some(0), Must::DieOrEnd) => Died::Not,
        (Some(_), _) => panic!("it was to die: {}{}", tail(&output.stdout), output.stderr),
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|l| !l.contains(r#""event":"progress""#)).collect();
    lines[lines.len().saturating_sub(4)..].join("\n")
}

#[test]
fn a_run_dies_at_every_step_and_goes_on() {
    each(Command::Alter, &both(RUN), Must::Die);
}

#[test]
fn a_run_dies_inside_a_chunk_and_goes_on() {
    each(Command::AlterGently, &both(GENTLY), Must::Die);
}

#[test]
fn a_split_dies_at_every_step_and_goes_on() {
    each(Command::Split, &both(SPLIT), Must::Die);
}

#[test]
fn a_run_over_two_tables_dies_and_goes_on() {
    // Which step it is matters here, and not which server.
    if Db::new().major() >= 18 {
        each(Command::Widen, &both(TOGETHER), Must::Die);
    }
}

#[test]
fn a_run_dies_on_the_way_back_and_goes_on() {
    each(Command::AlterWithWindow, &both(WINDOW), Must::Die);
}

#[test]
fn a_rollback_dies_at_every_step_and_goes_on() {
    each(Command::Rollback, &both(ROLLBACK), Must::Die);
}

#[test]
fn finish_and_abort_die_at_every_step_and_are_said_again() {
    each(Command::Finish, &both(FINISH), Must::Die);
    each(Command::Abort, &both(ABORT), Must::Die);
}

/// Each point that a run comes by, of every command; or those of `PGRECAST_FAULTS`, one a line. For `scripts/faults`.
#[test]
#[ignore = "takes long: scripts/faults"]
fn every_point_that_is_reached() {
    let place = tempfile::tempdir().expect("a directory");
    let asked = std::env::var("PGRECAST_FAULTS").unwrap_or_default();
    let with_pieces = [Command::AlterGently, Command::AlterWithWindow, Command::Widen];
    for command in with_pieces.into_iter().chain([Command::Rollback, Command::Finish, Command::Abort]) {
        let log = place.path().join(format!("{command:?}"));
        let asked: Vec<String> = asked.lines().map(str::to_owned).collect();
        let points = if asked.is_empty() { reached(command, &log) } else { asked };
        each(command, &points, Must::DieOrEnd);
    }
}

/// The points that a command comes by.
fn reached(command: Command, log: &Path) -> Vec<String> {
    let path = log.to_string_lossy().into_owned();
    Case::with(&own_server(&[]), ("PGRECAST_FAULT_LOG", path)).run(command, Must::DieOrEnd);
    let points = std::fs::read_to_string(log).expect("the log of the points");
    points.lines().map(str::to_owned).collect()
}
