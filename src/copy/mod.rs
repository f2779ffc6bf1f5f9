//! Copies the source in physical order, several block ranges at a time (rules 1 and 3).
//!
//! A chunk is one REPEATABLE READ transaction: old rows of its range go to the shadow, the keys of possibly new ones to
//! the journal, and its progress row is written, all or nothing. Where there is rest between pieces of work, each piece of it
//! is one.

mod blame;
mod chunk;
pub mod ranges;
mod statements;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chunk::{Chunk, Piece};
use ranges::{Pieces, Ranges};
use statements::lock_leaf;
pub use statements::{SEEN_NEW, Statements, lock_source};

use tokio::sync::watch;

use crate::drift::{self, Fingerprint};
use crate::error::Failure;
use crate::pg::{Conn, Connector, Role};
use crate::plan::parts::{Part, misplaced};
use crate::plan::shape::Shape;
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
    /// Oids of the leaves whose copy a TRUNCATE has ended (rule 8).
    over: Mutex<HashSet<u32>>,
}

impl Progress {
    /// A TRUNCATE has ended the copy of this leaf.
    pub fn end(&self, leaf: u32) {
        self.over.lock().unwrap_or_else(PoisonError::into_inner).insert(leaf);
    }

    /// Whether one has.
    pub fn is_over(&self, leaf: u32) -> bool {
        self.over.lock().unwrap_or_else(PoisonError::into_inner).contains(&leaf)
    }
}

/// One table that holds rows of the source: the source itself, or a partition.
pub struct Leaf {
    /// As it stands.
    pub source: Shape,
    /// What copies it.
    pub statements: Statements,
    /// What copies it to the parts.
    pub parts: Vec<ToPart>,
    /// What it was when its blocks were measured.
    pub fingerprint: Fingerprint,
    /// Blocks not copied yet.
    pub ranges: Ranges,
}

/// What copies a leaf to one part.
pub struct ToPart {
    /// The part as a plan.
    pub plan: Plan,
    /// The names of what is its own.
    pub names: Names,
    /// Whether rows that are written there are not written to the target.
    pub takes_rows: bool,
    /// The statements.
    pub statements: Statements,
}

impl ToPart {
    /// For each part of a plan that is not partitioned.
    pub fn all(plan: &Plan, names: &Names, x0: u32) -> Vec<ToPart> {
        let named = plan.named_parts(names).into_iter().zip(&plan.parts);
        let one = |((plan, names), part): ((Plan, Names), &Part)| {
            let leaf = plan.leaves().into_iter().next()?;
            let statements = Statements::new(&plan, &leaf, &names, x0);
            Some(ToPart { takes_rows: part.takes_rows, statements, plan, names })
        };
        named.filter_map(one).collect()
    }
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
    /// What is copied, one after the other.
    pub leaves: Vec<Leaf>,
    /// Workers; more or fewer at any time.
    pub jobs: watch::Receiver<u8>,
    /// Shared progress.
    pub progress: Arc<Progress>,
    /// What holds the workers back.
    pub throttle: Throttle,
}

/// Why a worker stopped before its ranges were done.
enum Stop {
    /// [`Ended::OtherFile`].
    OtherFile(u32),
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
    /// The file of the leaf with this oid is not the one that was measured: a TRUNCATE that the stream has still to
    /// bring, or a rewrite.
    OtherFile(u32),
}

/// The blocks not handed out yet, of each leaf.
type Left = Mutex<Vec<Ranges>>;

/// Copies every range.
///
/// # Errors
/// The first worker's failure; the others stop behind their current chunk.
pub async fn run(job: Job) -> Result<Ended, Failure> {
    let left: Arc<Left> = Arc::new(Mutex::new(job.leaves.iter().map(|leaf| leaf.ranges.clone()).collect()));
    let mut jobs = job.jobs.clone();
    let job = Arc::new(job);
    let mut workers = tokio::task::JoinSet::new();
    let mut begun = 0;
    let mut outcome = Ok(Ended::Complete);
    loop {
        let wanted = *jobs.borrow_and_update();
        while begun < wanted {
            workers.spawn(worker(job.clone(), left.clone(), begun));
            begun += 1;
        }
        let ended = tokio::select! {
            ended = workers.join_next() => match ended {
                Some(ended) => ended,
                None => return outcome,
            },
            Ok(()) = jobs.changed() => continue,
        };
        let ended = match ended {
            Ok(Ok(Rest::Done)) => continue,
            Ok(Ok(Rest::Spare)) => {
                begun -= 1;
                continue;
            }
            Ok(Err(Stop::OtherFile(leaf))) => Ok(Ended::OtherFile(leaf)),
            Ok(Err(Stop::Failed(failure))) => Err(failure),
            Err(panic) => Err(Failure::failed(format!("a copy worker died: {panic}"))),
        };
        // The others see no more ranges.
        left.lock().unwrap_or_else(PoisonError::into_inner).clear();
        if outcome.is_ok() {
            outcome = ended;
        }
    }
}

/// Why a worker went without a failure.
enum Rest {
    /// No range is left.
    Done,
    /// There are to be fewer workers.
    Spare,
}

async fn worker(job: Arc<Job>, left: Arc<Left>, nth: u8) -> Result<Rest, Stop> {
    let mut copier = Copier { pieces: Pieces::default(), conn: None, retry: Retry::new(), worked: None };
    loop {
        let jobs = *job.jobs.borrow();
        if nth >= jobs {
            return Ok(Rest::Spare);
        }
        let Some((n, range)) = next_range(&left, u32::from(jobs), job.throttle.is_gentle()) else {
            return Ok(Rest::Done);
        };
        let leaf = &job.leaves[n];
        let mut chunk = Chunk::new(range);
        while !chunk.is_done() && !job.progress.is_over(leaf.source.oid) {
            let begun = chunk;
            let end = copier.pieces.end((chunk.next, range.1), job.throttle.is_gentle());
            let Some((after, took)) = copier.piece(&job, leaf, chunk, end).await? else { break };
            chunk = after;
            let progress = &job.progress;
            progress.rows.fetch_add(chunk.done.rows - begun.done.rows, Ordering::Relaxed);
            progress.journaled.fetch_add(chunk.done.journaled - begun.done.journaled, Ordering::Relaxed);
            progress.blocks.fetch_add(u64::from(chunk.next - begun.next), Ordering::Relaxed);
            if begun.next == range.0
                && chunk.is_done()
                && let Some(ranges) = left.lock().unwrap_or_else(PoisonError::into_inner).get_mut(n)
            {
                ranges.learn(range.1 - range.0, took);
            }
        }
        if chunk.is_done() {
            job.progress.chunks.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What a worker keeps from one piece to the next.
struct Copier {
    pieces: Pieces,
    conn: Option<Conn>,
    retry: Retry,
    /// How long the last piece took, until it was rested for.
    worked: Option<Duration>,
}

impl Copier {
    /// Copies a piece of a chunk, up to `end`: the chunk as it is then, and how long it took. `None` where a TRUNCATE has ended
    /// the copy of this leaf.
    async fn piece(
        &mut self,
        job: &Job,
        leaf: &Leaf,
        chunk: Chunk,
        end: u32,
    ) -> Result<Option<(Chunk, Duration)>, Stop> {
        if let Some(worked) = self.worked.take() {
            job.throttle.rest(worked).await;
        }
        loop {
            if job.progress.is_over(leaf.source.oid) {
                return Ok(None);
            }
            job.throttle.pass().await;
            let open = match self.conn.take() {
                Some(open) => open,
                None => match job.connector.open(Role::Copier).await {
                    Ok(open) => open,
                    Err(e) => {
                        self.retry.after(e).await?;
                        continue;
                    }
                },
            };
            let begun = Instant::now();
            match chunk::copy(&open, job, leaf, &chunk, end).await {
                Ok(Piece::Committed(after, read)) => {
                    self.retry.reset();
                    self.conn = Some(open);
                    self.worked = Some(begun.elapsed());
                    self.pieces.learn(end - chunk.next, read);
                    return Ok(Some((after, begun.elapsed())));
                }
                Ok(Piece::OtherFile) => return Err(Stop::OtherFile(leaf.source.oid)),
                Err(e) if e.message == drift::DRIFTED => return Err(Stop::Failed(drift::changed(&job.plan.source))),
                Err(e) if let Some(failure) = misplaced(&e) => return Err(Stop::Failed(failure)),
                Err(e) if e.is_data() => match blame::find(&open, job, leaf, (chunk.next, end), &e).await? {
                    Some(failure) => return Err(Stop::Failed(failure)),
                    // The row was changed meanwhile: once more.
                    None => {
                        self.retry.after_any(e).await?;
                        self.conn = Some(open);
                    }
                },
                Err(e) => {
                    if !e.connection_lost {
                        self.conn = Some(open);
                    }
                    self.retry.after(e).await?;
                }
            }
        }
    }
}

fn next_range(left: &Left, jobs: u32, gently: bool) -> Option<(usize, ranges::BlockRange)> {
    let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
    left.iter_mut().enumerate().find_map(|(n, ranges)| Some((n, ranges.take(jobs, gently)?)))
}
