//! Copies the source in physical order, several block ranges at a time (rules 1 and 3).
//!
//! A chunk is one REPEATABLE READ transaction: old rows of its range go to the shadow, the keys of possibly new ones to
//! the journal, and its progress row is written, all or nothing.

mod blame;
mod chunk;
pub mod ranges;
mod statements;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ranges::Ranges;
pub use statements::{SEEN_NEW, Statements, lock_source};

use crate::drift::{self, Fingerprint};
use crate::error::Failure;
use crate::pg::{Connector, Role};
use crate::plan::types::{Names, Plan};
use crate::retry::Retry;
use crate::throttle::Throttle;

/// How far the copy is; shared with whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Rows in the shadow.
    pub rows: AtomicU64,
    /// Keys journaled because their row was possibly new.
    pub journaled: AtomicU64,
    /// Blocks copied.
    pub blocks: AtomicU64,
    /// Chunks committed by this run.
    pub chunks: AtomicU64,
    /// Set when a TRUNCATE of the source has ended the copy (rule 8).
    pub over: AtomicBool,
}

/// What the copy needs.
pub struct Job {
    /// Connections.
    pub connector: Connector,
    /// The migration.
    pub id: i32,
    /// Its plan.
    pub plan: Arc<Plan>,
    /// Its names.
    pub names: Names,
    /// Rule 1's X0.
    pub x0: u32,
    /// The source as it was when its blocks were measured.
    pub fingerprint: Fingerprint,
    /// Blocks not copied yet.
    pub ranges: Ranges,
    /// Workers.
    pub jobs: u32,
    /// Shared progress.
    pub progress: Arc<Progress>,
    /// What holds the workers back.
    pub throttle: Throttle,
}

/// Why a worker stopped before its ranges were done.
enum Stop {
    /// A TRUNCATE has ended the copy, or another worker failed.
    Over,
    /// [`Ended::OtherFile`].
    OtherFile,
    /// For good.
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Stop::Failed(failure)
    }
}

/// What a copy that did not fail came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every range is copied, or a TRUNCATE that the stream has brought made that needless.
    Complete,
    /// The source's file is not the one that was measured: a TRUNCATE that the stream has still to bring, or a rewrite.
    OtherFile,
}

/// Copies every range.
///
/// # Errors
/// The first worker's failure; the others stop behind their current chunk.
pub async fn run(job: Job) -> Result<Ended, Failure> {
    let ranges = Arc::new(Mutex::new(job.ranges.clone()));
    let job = Arc::new(job);
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..job.jobs {
        workers.spawn(worker(job.clone(), ranges.clone()));
    }
    let mut outcome = Ok(Ended::Complete);
    while let Some(ended) = workers.join_next().await {
        let ended = match ended {
            Ok(Ok(()) | Err(Stop::Over)) => continue,
            Ok(Err(Stop::OtherFile)) => Ok(Ended::OtherFile),
            Ok(Err(Stop::Failed(failure))) => Err(failure),
            Err(panic) => Err(Failure::failed(format!("a copy worker died: {panic}"))),
        };
        // The others see no more ranges.
        *ranges.lock().unwrap_or_else(PoisonError::into_inner) = Ranges::new(0, &[]);
        if outcome.is_ok() {
            outcome = ended;
        }
    }
    outcome
}

async fn worker(job: Arc<Job>, ranges: Arc<Mutex<Ranges>>) -> Result<(), Stop> {
    let statements = Statements::new(&job.plan, &job.names, job.x0);
    let mut retry = Retry::new();
    let mut conn = None;
    let mut worked = None;
    while let Some(range) = next_range(&ranges, job.jobs) {
        if let Some(worked) = worked.take() {
            job.throttle.rest(worked).await;
        }
        loop {
            if job.progress.over.load(Ordering::Acquire) {
                return Err(Stop::Over);
            }
            job.throttle.pass().await;
            let open = match conn.take() {
                Some(open) => open,
                None => match job.connector.open(Role::Copier).await {
                    Ok(open) => open,
                    Err(e) => {
                        retry.after(e).await?;
                        continue;
                    }
                },
            };
            let begun = Instant::now();
            match chunk::copy(&open, &job, &statements, range).await {
                Ok(Some(copied)) => {
                    retry.reset();
                    let blocks = range.1 - range.0;
                    job.progress.rows.fetch_add(copied.rows, Ordering::Relaxed);
                    job.progress.journaled.fetch_add(copied.journaled, Ordering::Relaxed);
                    job.progress.blocks.fetch_add(u64::from(blocks), Ordering::Relaxed);
                    job.progress.chunks.fetch_add(1, Ordering::Relaxed);
                    ranges.lock().unwrap_or_else(PoisonError::into_inner).learn(blocks, begun.elapsed());
                    conn = Some(open);
                    worked = Some(begun.elapsed());
                    break;
                }
                Ok(None) => return Err(Stop::OtherFile),
                Err(e) if e.message == drift::DRIFTED => return Err(Stop::Failed(drift::changed(&job.plan.source))),
                Err(e) if e.is_data() => {
                    match blame::find(&open, &job, &statements, range, &e).await? {
                        Some(failure) => return Err(Stop::Failed(failure)),
                        // The row was changed meanwhile: once more.
                        None => {
                            retry.after_any(e).await?;
                            conn = Some(open);
                        }
                    }
                }
                Err(e) => {
                    if !e.connection_lost {
                        conn = Some(open);
                    }
                    retry.after(e).await?;
                }
            }
        }
    }
    Ok(())
}

fn next_range(ranges: &Mutex<Ranges>, jobs: u32) -> Option<ranges::BlockRange> {
    ranges.lock().unwrap_or_else(PoisonError::into_inner).take(jobs)
}
