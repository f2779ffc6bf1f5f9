//! One migration from its beginning to its end, whichever it is.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pgrecast::demo::Server;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::harness::load::{Load, Options};
use crate::harness::migration::only_migration;
use crate::harness::wire::Wire;
use crate::harness::{Db, Output, Running, Session, assert_nothing_left, dump, spawn, wait_for};

use super::fault::{Fault, Spoil};
use super::table::Table;

/// A goal that is not reached by then, faults or not, is missed.
const PATIENCE: Duration = Duration::from_secs(150);

/// How the migration is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    Swapped,
    Kept,
    RolledBack,
    Aborted,
}

/// A table under traffic, and one who breaks things.
pub struct Round<'a> {
    server: &'a mut Server,
    wire: &'a Wire,
    rng: StdRng,
    db: Db,
    table: Table,
    load: Option<Load>,
    before: String,
    filler: u32,
    options: Vec<&'static str>,
    /// Sessions with a transaction open.
    open: Vec<Session>,
    /// What may have ended the runs of now.
    met: Vec<Fault>,
    /// What the migration rests on was broken.
    spoiled: bool,
    /// What a run said is left to do, which was broken.
    left: Option<Goal>,
}

/// Where a migration stands; the phase of the control row where there is one.
type Phase = Option<String>;

impl<'a> Round<'a> {
    /// A table, and its traffic.
    pub fn new(server: &'a mut Server, wire: &'a Wire, seed: u64) -> Round<'a> {
        let mut rng = StdRng::seed_from_u64(seed);
        let db = Db::on(server);
        let table = Table::random(&mut rng);
        let filler = rng.random_range(1..20_000);
        table.create(&db, filler);
        let before = dump(&db);
        let load = Options {
            connections: rng.random_range(1..4),
            rows: 300,
            slots: 1_000,
            large: 200,
            survives: true,
            ..Options::paced(seed)
        };
        let load = Some(Load::start(&db, &table.shape, &load));
        let jobs = ["1", "2", "4"][rng.random_range(0..3)];
        let mut options = vec!["--jobs", jobs];
        if rng.random_bool(0.5) {
            options.extend(["--rollback-window", "1h"]);
        }
        // Chunks in pieces, and flushes of few keys.
        if rng.random_bool(0.3) {
            options.extend(["--nice", "1"]);
        }
        let (open, met) = (Vec::new(), Vec::new());
        Round { server, wire, rng, db, table, load, before, filler, options, open, met, spoiled: false, left: None }
    }

    /// Everything, to the end.
    pub fn run(mut self) {
        let goals: &[Goal] = match (self.rng.random_range(0..5), self.options.contains(&"--rollback-window")) {
            (0, _) => &[Goal::Aborted],
            (1..3, true) => &[Goal::Kept],
            (_, true) => &[Goal::Kept, Goal::RolledBack],
            (_, false) => &[Goal::Swapped],
        };
        eprintln!("chaos: {} ({}), to be {goals:?}", self.table.change.join(" "), self.options.join(" "));
        let mut reached = goals[0];
        for goal in goals {
            reached = self.reach(*goal);
            if reached != *goal {
                break;
            }
        }
        if reached != Goal::Aborted {
            self.finish();
        }
        self.judge(reached);
    }

    /// Runs what leads there, breaks things meanwhile, and goes on until it is reached, or another one where it is too
    /// late.
    fn reach(&mut self, mut goal: Goal) -> Goal {
        let deadline = Instant::now() + PATIENCE;
        let mut faults = self.rng.random_range(0..8);
        // An abort comes once enough has happened to what it aborts; the others begin at once.
        let mut aborts = false;
        let mut running: Option<Running> = None;
        loop {
            assert!(Instant::now() < deadline, "not {goal:?} after {PATIENCE:?}, but {:?}", self.phase());
            if let Some(mut now) = running.take() {
                match now.is_over() {
                    true => self.judge_end(now.wait()),
                    false => running = Some(now),
                }
            }
            let phase = self.phase();
            if let Some(left) = self.left.take() {
                (goal, faults, aborts) = (left, 0, left == Goal::Aborted);
            }
            if goal == Goal::Aborted && matches!(phase.as_deref(), Some("swapped" | "keep in step" | "complete")) {
                goal = if self.options.contains(&"--rollback-window") { Goal::Kept } else { Goal::Swapped };
            }
            if running.is_none() && goal == Goal::Aborted && faults == 0 {
                aborts = true;
            }
            if self.is_reached(goal, &phase, aborts) && (faults == 0 || goal != Goal::Kept) {
                break;
            }
            if running.is_none() {
                // What ended the one before is over with it.
                self.met.retain(|met| matches!(met, Fault::IdleWriter | Fault::LongReader) && !self.open.is_empty());
                let args = self.command(goal, &phase, aborts);
                running = Some(spawn(&self.wire.dsn(self.db.dsn(), self.server.port()), &words(&args)));
            }
            if faults == 0 {
                self.let_go();
                if goal == Goal::Aborted && !aborts {
                    drop(running.take().map(Running::kill));
                    continue;
                }
                if let Some(now) = &mut running {
                    self.look_for_a_moment(now);
                }
                continue;
            }
            faults -= 1;
            if let Some(now) = &mut running {
                self.some_statements(now);
                if !now.is_over() {
                    self.meet(now);
                }
            }
        }
        self.let_go();
        // Whoever keeps in step goes on beside what comes next, or not.
        match running {
            Some(running) if goal == Goal::Kept && self.rng.random_bool(0.5) => drop(running.kill()),
            Some(mut running) if goal == Goal::Kept => {
                running.signal(Signal::SIGTERM);
                running.wait();
            }
            Some(running) => self.judge_end(running.wait()),
            None => {}
        }
        goal
    }

    /// The command that leads there from here.
    fn command(&mut self, goal: Goal, phase: &Phase, aborts: bool) -> Vec<String> {
        let id = || only_migration(&self.db);
        let args: Vec<String> = match (phase, goal) {
            (None, _) => self.table.change.iter().chain(&self.options).map(|&word| word.to_owned()).collect(),
            (Some(_), Goal::Aborted) if aborts => vec!["abort".into(), id()],
            (Some(_), Goal::RolledBack) => vec!["rollback".into(), id()],
            (Some(_), Goal::Swapped | Goal::Kept | Goal::Aborted) => vec!["resume".into(), id()],
        };
        eprintln!("chaos:   {} {}", args[0], phase.as_deref().unwrap_or("unregistered"));
        args
    }

    fn is_reached(&self, goal: Goal, phase: &Phase, aborts: bool) -> bool {
        match (goal, phase.as_deref()) {
            (Goal::Swapped, Some("complete")) | (Goal::Kept, Some("keep in step")) => true,
            (Goal::RolledBack, Some("rolled back")) => true,
            (Goal::Aborted, None) => aborts,
            _ => false,
        }
    }

    /// `finish`, with a fault or without, until there is nothing to finish.
    fn finish(&mut self) {
        let mut faults = self.rng.random_range(0..2);
        while self.phase().is_some() {
            self.met.clear();
            let id = only_migration(&self.db);
            eprintln!("chaos:   finish");
            let dsn = self.wire.dsn(self.db.dsn(), self.server.port());
            let mut running = spawn(&dsn, &["finish", &id, "--format", "json"]);
            if faults > 0 {
                faults -= 1;
                self.meet(&mut running);
                self.let_go();
            }
            self.judge_end(running.wait());
        }
    }

    /// The rows are what the books say, the table is what was asked for, and nothing of ours is left.
    fn judge(mut self, goal: Goal) {
        self.let_go();
        let load = self.load.take().expect("the load runs until now");
        load.wait_for_more(20, PATIENCE);
        load.stop().assert_kept(&self.db, &self.table.rows());
        assert_eq!(self.db.query_one_text(&self.table.filler()), self.filler.to_string(), "the rows beside the load's");
        assert_nothing_left(&self.db);
        if goal == Goal::RolledBack {
            self.db.sql(self.table.leaves);
        }
        match goal {
            Goal::Swapped | Goal::Kept => assert_eq!(self.db.query_one_text(self.table.changed), "t"),
            Goal::RolledBack | Goal::Aborted => assert_eq!(dump(&self.db), self.before),
        }
        self.wire.cut();
    }

    /// Where the migration stands.
    fn phase(&self) -> Phase {
        let there = "SELECT to_regclass('pgrecast.migration') IS NOT NULL";
        if self.db.query_one_text(there) != "t" {
            return None;
        }
        // It may be dropped at this moment.
        let rows = self.db.try_rows("SELECT phase FROM pgrecast.migration WHERE head IS NULL").ok()?;
        rows.into_iter().next().and_then(|row| row.into_iter().next().flatten())
    }

    /// A run ends well, or for a reason.
    fn judge_end(&mut self, output: Output) {
        let excused = self.spoiled || self.met.iter().any(|met| met.may_end_a_run());
        if self.spoiled && output.code == Some(1) {
            let left = [("pgrecast abort", Goal::Aborted), ("pgrecast finish", Goal::Kept)];
            self.left = left.into_iter().find(|(words, _)| output.stderr.contains(words)).map(|(_, goal)| goal);
        }
        // SIGTERM and SIGINT kill what has not begun yet.
        let killed = self.met.iter().any(|met| matches!(met, Fault::Signal(_)));
        let may_be = match output.code {
            Some(0) => true,
            // Failed, no lock, another runner's session not gone yet, paused, interrupted.
            Some(1 | 5 | 6 | 75 | 130) => excused,
            Some(_) => false,
            None => killed,
        };
        let told = format!("{}\n{}", last_lines(&output.stdout), output.stderr);
        assert!(may_be, "a run ended with {:?} after {:?}:\n{told}", output.code, self.met);
        if output.code != Some(0) {
            let why = output.stderr.lines().next().unwrap_or("").to_owned();
            eprintln!("chaos:   ended with {:?}: {why}", output.code);
        }
    }

    /// Goes on once the traffic has, or the run is over.
    fn some_statements(&mut self, running: &mut Running) {
        let load = self.load.as_ref().expect("the load runs until now");
        // Soon after the last, or once the run has come further.
        let most = [20, 150, 500][self.rng.random_range(0..3)];
        let target = load.statements() + self.rng.random_range(0..most);
        wait_for("the load's statements", PATIENCE, || match load.statements() >= target || running.is_over() {
            true => Ok(()),
            false => Err(format!("{} of {target}", load.statements())),
        });
    }

    fn look_for_a_moment(&self, running: &mut Running) {
        let load = self.load.as_ref().expect("the load runs until now");
        let target = load.statements() + 20;
        wait_for("the load's statements", PATIENCE, || match load.statements() >= target || running.is_over() {
            true => Ok(()),
            false => Err(format!("{} of {target}", load.statements())),
        });
    }

    /// Something happens.
    fn meet(&mut self, running: &mut Running) {
        let fault = Fault::random(&mut self.rng);
        eprintln!("chaos:   {fault:?}");
        self.met.push(fault);
        match fault {
            Fault::Signal(signal) => running.signal(signal),
            Fault::Freeze => {
                running.signal(Signal::SIGSTOP);
                self.some_statements(running);
                running.signal(Signal::SIGCONT);
            }
            Fault::EndSession(which) => self.hit_session("pg_terminate_backend", which),
            Fault::CancelSession(which) => self.hit_session("pg_cancel_backend", which),
            Fault::Crash => self.crash(),
            Fault::Cut => self.wire.cut(),
            Fault::Stall => {
                self.wire.stall(true);
                self.some_statements(running);
                self.wire.stall(false);
            }
            Fault::IdleWriter => self.hold(&format!("BEGIN; {}", self.table.idle_write())),
            Fault::Prepare => {
                let prepare =
                    format!("BEGIN; {}; PREPARE TRANSACTION '{}'", self.table.idle_write(), self.rng.random::<u32>());
                let session = self.db.connect();
                if session.try_sql(&format!("SET lock_timeout = '1s'; {prepare}")).is_err() {
                    // One of them has the row already.
                    let _ = session.try_sql("ROLLBACK");
                }
            }
            Fault::Spoil(spoil) => self.spoil(spoil),
            Fault::LongReader => self.hold("BEGIN; SELECT count(*) FROM t WHERE n > 0"),
            Fault::Lock => {
                let lock = "SET lock_timeout = '1s'; BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(0.3); COMMIT";
                // Who holds it may do so for longer.
                let _ = self.db.connect().try_sql(lock);
            }
            Fault::Truncate if self.table.truncates => {
                let load = self.load.as_ref().expect("the load runs until now");
                if load.truncate(&self.db.connect(), "t") {
                    self.filler = 0;
                }
            }
            Fault::Truncate => {}
            Fault::LetGo => self.let_go(),
        }
    }

    /// A session that stays in its transaction, if it gets there within a second.
    fn hold(&mut self, sql: &str) {
        let session = self.db.connect();
        if session.try_sql(&format!("SET lock_timeout = '1s'; {sql}")).is_ok() {
            self.open.push(session);
        }
    }

    /// As somebody who has the right to, and is not asked; a lock in the way keeps it from happening.
    fn spoil(&mut self, spoil: Spoil) {
        let session = self.db.connect();
        session.sql("SET lock_timeout = '1s'");
        let ours = "pubname ~ '^pgrecast'";
        self.spoiled |= match spoil {
            Spoil::Rewrite => session.try_sql("VACUUM (FULL) t").is_ok(),
            Spoil::Publication => {
                let names = session.rows(&format!("SELECT pubname FROM pg_publication WHERE {ours}"));
                let dropped = names.into_iter().flatten().flatten();
                dropped.filter(|name| session.try_sql(&format!("DROP PUBLICATION {name}")).is_ok()).count() > 0
            }
            Spoil::Slot => {
                let here = "FROM pg_replication_slots WHERE database = current_database()";
                session.rows(&format!("SELECT pg_terminate_backend(active_pid) {here} AND active"));
                session
                    .try_rows(&format!("SELECT pg_drop_replication_slot(slot_name) {here}"))
                    .is_ok_and(|r| !r.is_empty())
            }
        };
    }

    fn let_go(&mut self) {
        for gid in self.db.rows("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()").concat() {
            self.db.sql(&format!("COMMIT PREPARED '{}'", gid.unwrap_or_default()));
        }
        for session in self.open.drain(..) {
            // A crash has ended it already.
            let _ = session.try_sql("COMMIT");
        }
    }

    fn hit_session(&self, function: &str, which: u32) {
        self.db.rows(&format!(
            "SELECT {function}(pid) FROM (SELECT pid, row_number() OVER (ORDER BY backend_start, pid) - 1 AS number, \
             count(*) OVER () AS count FROM pg_stat_activity WHERE datname = current_database() \
             AND (application_name ~ '^pgrecast' OR backend_type = 'walsender')) ours \
             WHERE number = {which}::int8 % count"
        ));
    }

    fn crash(&mut self) {
        self.open.clear();
        self.server.stop_immediate();
        self.server.restart().unwrap_or_else(|e| panic!("the server does not come back: {e}"));
        self.db = self.db.again();
    }
}

fn words(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).chain(["--format", "json"]).collect()
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|l| !l.contains(r#""event":"progress""#)).collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
