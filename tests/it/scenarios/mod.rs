//! What the program does to a table, one behaviour or small family of them a file.

mod added;
mod clauses;
mod conversions;
mod dry_run;
mod estimated;
mod filled;
mod granted;
mod hierarchy;
mod into_partitions;
mod keys;
mod large;
mod materialized;
mod named;
mod on_error;
mod partition_keys;
mod partitioned;
mod partman;
mod planted;
mod refused;
mod rowtypes;
mod shown;
mod split;
mod tied;
mod twins;
mod unfit;
mod values;
mod widened;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::harness::migration::only_migration;
use crate::harness::{Db, Running, spawn};

/// Longer than any phase of these small tables takes on a loaded machine.
const SOON: Duration = Duration::from_secs(60);

/// Runs a check for each case and names every one that fails, not only the first.
fn each<T>(cases: impl IntoIterator<Item = T>, name: impl Fn(&T) -> String, check: impl Fn(&T)) {
    let mut count = 0;
    let mut failed = Vec::new();
    for case in cases {
        count += 1;
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(&case))) {
            let message = panic.downcast_ref::<String>().cloned();
            let message = message.or_else(|| panic.downcast_ref::<&str>().map(|m| (*m).to_owned()));
            failed.push(format!("* {}\n{}", name(&case), message.unwrap_or_default()));
            // What it left must not count against the others.
            Db::new().sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active");
        }
    }
    assert!(count > 0, "no case at all");
    assert!(failed.is_empty(), "{} of {count} cases fail:\n{}", failed.len(), failed.join("\n\n"));
}

/// Makes a role that cannot log in; roles belong to the server, so another database may have made it already.
fn role(db: &Db, name: &str) {
    db.sql(&format!(
        "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{name}') THEN CREATE ROLE \"{name}\"; END IF; END $$"
    ));
}

/// A run that waits in step before its cut-over, and its number.
struct Postponed {
    running: Running,
    id: String,
}

impl Postponed {
    /// Starts `alter` and waits until it stays in step.
    fn start(db: &Db, table: &str, clauses: &str, options: &[&str]) -> Postponed {
        let mut args = vec!["alter", table, clauses, "--format", "json", "--postpone-cutover"];
        args.extend(options);
        let running = spawn(db.dsn(), &args);
        let waiting = running.wait_for_event("the wait for its release", SOON, |event| {
            event["event"] == "waiting" && event["for"].as_str().is_some_and(|on| on.starts_with("pgrecast cutover "))
        });
        let id = waiting["for"].as_str().and_then(|on| on.rsplit(' ').next()).expect("its number").to_owned();
        Postponed { running, id }
    }

    /// Lets it cut over and waits for its end.
    fn release(self, db: &Db) -> crate::harness::Output {
        let released = crate::harness::pgrecast(db, &["cutover", &self.id]);
        assert_eq!(released.code, Some(0), "{}", released.stderr);
        self.running.wait()
    }
}
