//! A migration of the load's table, as tests drive it: its phases awaited, its end judged.

use std::time::Duration;

use serde_json::Value;

use super::program::Output;
use super::{Db, Running, spawn, wait_for};

/// Longer than any phase of a test takes on a loaded machine.
pub const SOON: Duration = Duration::from_secs(90);

/// A wider key and unique column, and a column more.
pub const WIDEN: &str = "ALTER id TYPE bigint, ALTER u TYPE bigint, ADD COLUMN extra text NOT NULL DEFAULT 'none'";

/// Starts the change [`WIDEN`] of table `t`, with more arguments.
pub fn widen(db: &Db, more: &[&str]) -> Running {
    command(db, &[&["alter", "t", WIDEN], more].concat())
}

/// Starts a command that tells its events.
pub fn command(db: &Db, args: &[&str]) -> Running {
    spawn(db.dsn(), &[args, &["--format", "json"]].concat())
}

impl Running {
    /// Waits until a phase has begun.
    pub fn wait_for_phase(&self, phase: &str) {
        self.wait_for_event(phase, SOON, |e| e["event"] == "phase_began" && e["phase"] == phase);
    }

    /// Waits until a `waiting` event says this, and returns its words.
    pub fn wait_for_waiting(&self, words: &str) -> String {
        let says = |e: &Value| e["for"].as_str().is_some_and(|on| on.contains(words));
        let event = self.wait_for_event(words, SOON, |e| e["event"] == "waiting" && says(e));
        event["for"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the old table follows the new one.
    pub fn wait_for_window(&self) {
        self.wait_for_event("the old table that follows", SOON, |e| {
            e["event"] == "notice" && e["text"].as_str().is_some_and(|t| t.contains("pgrecast rollback"))
        });
    }

    /// Waits for an end in success, and returns the report.
    pub fn done(self) -> Value {
        self.wait().done()
    }
}

impl Output {
    /// The report of a run that must have succeeded.
    pub fn done(&self) -> Value {
        self.ended(0);
        let finished = self.events("finished").pop().expect("a summary");
        finished["summary"].clone()
    }

    /// Panics with everything it said unless it ended with this code.
    pub fn ended(&self, code: i32) -> &Self {
        let events = self.stdout.lines().filter(|line| !line.contains(r#""event":"progress""#));
        let events: Vec<&str> = events.collect();
        assert_eq!(self.code, Some(code), "{}\n{}", events.join("\n"), self.stderr);
        self
    }

    /// All events of that name, oldest first.
    pub fn events(&self, name: &str) -> Vec<Value> {
        let events = self.stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.filter(|event| event["event"] == name).collect()
    }
}

/// What the control schema says of the only migration.
pub fn phase_of(db: &Db) -> String {
    db.query_one_text("SELECT phase FROM pgrecast.migration")
}

/// The tables of the journal, as SQL lists them.
pub fn journal_tables(db: &Db) -> String {
    db.query_one_text(
        "SELECT string_agg(oid::regclass::text, ', ') FROM pg_class WHERE relkind = 'r' \
         AND relnamespace = 'pgrecast'::regnamespace AND relname ~ 'journal'",
    )
}

/// Waits until a query of one value gives this.
pub fn wait_until(db: &Db, what: &str, query: &str, value: &str) {
    wait_for(what, SOON, || {
        let seen = db.query_one_text(query);
        if seen == value { Ok(()) } else { Err(seen) }
    });
}

/// Releases the cut-over of a run that waits for it, and kills the run after the swap, before its clean-up.
pub fn kill_behind_the_swap(db: &Db, running: Running) {
    // The clean-up comes to the journal first.
    let holder = db.connect();
    holder.sql(&format!("BEGIN; LOCK TABLE {} IN ACCESS SHARE MODE", journal_tables(db)));
    command(db, &["cutover"]).wait().ended(0);
    wait_until(db, "the swap", "SELECT phase FROM pgrecast.migration", "swapped");
    running.kill();
}

/// The number of the only migration there is, be it of one table or of several.
pub fn only_migration(db: &Db) -> String {
    db.query_one_text("SELECT id FROM pgrecast.migration WHERE head IS NULL")
}

/// How much of the table is copied.
pub fn copied_blocks(db: &Db) -> String {
    db.query_one_text("SELECT coalesce(sum(end_block - first_block), 0) FROM pgrecast.chunk")
}

/// Finishes the only migration, and sees that nothing of ours is left.
pub fn finish(db: &Db) {
    command(db, &["finish", &only_migration(db)]).wait().ended(0);
    super::assert_nothing_left(db);
}

/// Panics unless the change [`WIDEN`] is in place.
pub fn assert_widened(db: &Db) {
    let types = "SELECT string_agg(format_type(atttypid, atttypmod), ', ' ORDER BY attnum) FROM pg_attribute \
                 WHERE attrelid = 't'::regclass AND attnum > 0 AND NOT attisdropped";
    assert!(db.query_one_text(types).starts_with("bigint, bigint, text, numeric"), "{}", db.query_one_text(types));
    assert_eq!(db.query_one_text("SELECT count(*) FROM t WHERE extra IS DISTINCT FROM 'none'"), "0");
}
