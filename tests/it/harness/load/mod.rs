//! An application's traffic on one table, with its own account of what the table must hold.
//!
//! Every connection owns its rows, so its account is exact: an answer that contradicts it, a statement that fails, or a
//! row that differs at the end is somebody's lost or invented write.

mod book;
mod shape;
mod speaker;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

pub use shape::{Column, Shape};
pub use speaker::{Answered, TextRow};

use self::speaker::{Mode, Speaker};
use self::worker::Worker;
use super::{Db, RUNTIME, wait_for};

/// How many differences a message names.
const NAMED: usize = 10;

/// How much traffic, and which.
#[derive(Debug, Clone)]
pub struct Options {
    /// Connections take turns in speaking the simple, the extended and the prepared protocol.
    pub connections: usize,
    /// The same seed makes the same choices on every connection.
    pub seed: u64,
    /// Rows of each connection at the start.
    pub rows: usize,
    /// Keys of each connection; the more of them are in use, the more often a key comes back after its row went.
    pub slots: usize,
    /// Rows of a large transaction.
    pub large: usize,
    /// Steps a second on each connection; as many as it can where none.
    pub per_second: Option<u32>,
    /// Whether a lost connection is opened again and the step that lost its answer asked about, or is a failure.
    pub survives: bool,
}

impl Options {
    /// Three connections, one a protocol mode, with a thousand rows each.
    pub fn seeded(seed: u64) -> Options {
        Options { connections: 3, seed, rows: 1000, slots: 4000, large: 2000, per_second: None, survives: false }
    }

    /// The same at a pace that leaves room for other tests beside it.
    pub fn paced(seed: u64) -> Options {
        Options { per_second: Some(80), large: 500, ..Options::seeded(seed) }
    }
}

/// Running traffic; it stops when this is dropped.
pub struct Load {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<Worker>>,
    seed: u64,
}

/// What the connections and the test tell each other while the traffic runs.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    statements: AtomicU64,
    /// How often the table was truncated. A step has it to read, so that there is none while it is written.
    truncated: tokio::sync::RwLock<u64>,
}

impl Load {
    /// Fills the empty table with the first rows, then starts the traffic.
    pub fn start(db: &Db, shape: &Shape, options: &Options) -> Load {
        let shared = Arc::<Shared>::default();
        let mut workers = Vec::new();
        for connection in 0..options.connections {
            let ready = RUNTIME.block_on(async {
                let client = super::db::connect(db.dsn()).await?;
                Speaker::new(client, shape.clone(), Mode::of(connection)).await
            });
            let speaker = ready.unwrap_or_else(|e| panic!("{}", pgrecast::pg::Error::from_client("load", &e)));
            let mut worker = Worker::new(speaker, db.dsn(), shape.clone(), options.clone(), connection);
            RUNTIME.block_on(worker.fill());
            assert!(worker.failed.is_empty(), "{:?}", worker.failed);
            workers.push(worker);
        }
        let workers = workers.into_iter().map(|worker| RUNTIME.spawn(worker.run(Arc::clone(&shared)))).collect();
        Load { shared, workers, seed: options.seed }
    }

    /// Statements answered so far.
    pub fn statements(&self) -> u64 {
        self.shared.statements.load(Ordering::Relaxed)
    }

    /// Waits until so many more statements have been answered.
    pub fn wait_for_more(&self, statements: u64, within: Duration) {
        let target = self.statements() + statements;
        wait_for("the load's statements", within, || {
            let now = self.statements();
            if now >= target { Ok(()) } else { Err(format!("{now} of {target} statements")) }
        });
    }

    /// Empties the table between two steps, and every book with it; whether the table was to be had within a second.
    pub fn truncate(&self, session: &super::Session, table: &str) -> bool {
        let mut truncated = RUNTIME.block_on(self.shared.truncated.write());
        let done = session.try_sql(&format!("SET lock_timeout = '1s'; TRUNCATE {table}")).is_ok();
        *truncated += u64::from(done);
        done
    }

    /// Lets every connection finish its step, and returns the account.
    pub fn stop(mut self) -> LoadReport {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut report = LoadReport::new(self.seed);
        for worker in self.workers.drain(..) {
            report.add(RUNTIME.block_on(worker).expect("a connection of the load"));
        }
        report
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// The traffic's own account.
#[derive(Debug)]
pub struct LoadReport {
    /// Statements answered, those that fill the table at the start included.
    pub statements: u64,
    /// Every statement that failed, or answered what it must not.
    pub failed: Vec<String>,
    /// The longest that a statement waited for its answer; statements on thousands of rows do not count.
    pub worst: Duration,
    /// The slowest answers, slowest first, with their times.
    pub slow: Vec<Answered>,
    /// What the table must hold, by key.
    pub model: HashMap<String, TextRow>,
    seed: u64,
}

impl LoadReport {
    fn new(seed: u64) -> LoadReport {
        let (statements, failed, worst, slow, model) = Default::default();
        LoadReport { statements, failed, worst, slow, model, seed }
    }

    fn add(&mut self, mut worker: Worker) {
        self.model.extend(worker.model().map(|row| (row[0].clone().unwrap_or_default(), row)));
        self.statements += worker.speaker.statements;
        self.failed.append(&mut worker.failed);
        self.slow.append(&mut worker.speaker.slow);
        self.slow.sort_by_key(|slow| std::cmp::Reverse(slow.took));
        self.worst = self.slow.first().map_or(Duration::ZERO, |slow| slow.took);
    }

    /// Compares every row that `select` reads, as key, unique, text and number, with the account.
    pub fn compare(&self, db: &Db, select: &str) -> Result<(), String> {
        let mut expected: HashMap<&str, &TextRow> = self.model.iter().map(|(key, row)| (key.as_str(), row)).collect();
        let mut differences = Vec::new();
        for row in db.rows(select) {
            let key = row[0].as_deref().unwrap_or("NULL");
            match expected.remove(key) {
                Some(wanted) if *wanted == row => {}
                Some(wanted) => differences.push(format!("{key}: is {row:?}, not {wanted:?}")),
                None => differences.push(format!("{key}: is {row:?}, and should not be there, or not twice")),
            }
        }
        differences.extend(expected.values().map(|wanted| format!("missing: {wanted:?}")));
        if differences.is_empty() {
            return Ok(());
        }
        let (count, seed) = (differences.len(), self.seed);
        differences.truncate(NAMED);
        Err(format!("{count} of {} rows differ (seed {seed}):\n{}", self.model.len(), differences.join("\n")))
    }

    /// Panics unless no statement failed and the table holds what it must.
    pub fn assert_kept(&self, db: &Db, select: &str) {
        assert!(self.failed.is_empty(), "failed statements (seed {}):\n{}", self.seed, self.failed.join("\n"));
        self.compare(db, select).unwrap_or_else(|differences| panic!("{differences}"));
    }
}
