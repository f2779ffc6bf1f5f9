//! Compares source and shadow while both keep changing, without a snapshot that lasts.
//!
//! Both tables are read block range by block range, each range in a short transaction of its own, into a count and an
//! exclusive or of row digests for every bucket of key hashes ([`digest`]). Buckets that agree are done with. The rest
//! holds real differences and rows that changed between the two readings; where that is much, its rows are divided
//! anew, by other bits of the key hash. What is left is read once more, row by row ([`drill`]), and the keys found that
//! way are compared one by one, each pair in one snapshot ([`recheck`]). A difference counts only if the change stream
//! brought nothing of its key from before the comparison until after it.
//!
//! So a row that nobody touches is compared in any case; one that changes meanwhile is compared as it was when it was
//! read, or when its key was looked up, and every later change of it is the stream's. That holds for one that is
//! interrupted and gone on with as well ([`kept`]).

mod buckets;
mod by_key;
mod digest;
mod drill;
mod hash;
mod kept;
mod pass;
mod recheck;
pub mod statements;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::copy::lock_source;
use crate::drift;
use crate::error::Failure;
use crate::pg::{Connector, Error, QualifiedName, Role};
use crate::plan::types::{Names, Plan};
use crate::report::Reporter;
use crate::retry::Retry;
use crate::stream::Key;
use crate::throttle::Throttle;
use kept::Keeper;
use recheck::Recheck;
use serde::{Deserialize, Serialize};
use statements::Statements;

/// Differences that are kept to be shown.
pub const DIFFERENCES_KEPT: usize = 100;

/// Differences after which no more are looked for: a verdict of so many means "at least".
pub const DIFFERENCES_COUNTED: u64 = 10_000;

/// Rows of differing buckets that are taken apart at a time: some 20 MiB of hashes.
const SLICE_ROWS: u64 = 1 << 19;

/// How often rows are divided into buckets: so many times 20 bits are in a key hash.
const LEVELS: usize = 3;

/// The share of differing buckets from which dividing once more would tell little.
const HOPELESS_SHARE: f64 = 0.75;

/// What keeps the shadow in step with the source, as far as the verification must know.
pub trait InStep: Send + Sync {
    /// From now on remembers which of these source keys the stream brings; earlier ones are forgotten.
    ///
    /// # Errors
    /// The stream's own.
    fn watch(&self, keys: Vec<Key>) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Returns when every change that was committed before the call has been received and flushed.
    ///
    /// # Errors
    /// The stream's own.
    fn settle(&self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The watched keys that the stream has brought since [`InStep::watch`]; TRUNCATE brings every key.
    ///
    /// # Errors
    /// The stream's own.
    fn touched(&self) -> impl Future<Output = Result<HashSet<Key>, Failure>> + Send;

    /// Source keys whose rows are known not to fit the shadow: they were said, and differ for that reason.
    fn set_aside(&self) -> HashSet<Key> {
        HashSet::new()
    }
}

/// What the verification needs.
pub struct Job {
    /// Connections.
    pub connector: Connector,
    /// The plan.
    pub plan: Arc<Plan>,
    /// The migration's names.
    pub names: Names,
    /// Where that is the way back of a migration, the migration's own.
    pub forth: Option<Arc<Plan>>,
    /// The table to compare with the source.
    pub shadow: QualifiedName,
    /// Its tables that hold rows, in the order of the plan: itself where it is not partitioned.
    pub shadow_leaves: Vec<QualifiedName>,
    /// Block ranges read at a time.
    pub jobs: u32,
    /// What holds the workers back.
    pub throttle: Throttle,
    /// Where to keep what was read, so that a comparison that is interrupted goes on.
    pub keep: Option<Keep>,
}

/// What keeping needs.
pub struct Keep {
    /// The migration.
    pub id: i32,
    /// Where it is said that an earlier comparison goes on.
    pub reporter: Reporter,
}

/// How far the verification is; shared with whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Source rows compared.
    pub rows: AtomicU64,
    /// Blocks read, of both tables.
    pub blocks: AtomicU64,
    /// Blocks to read, as far as is known: each further reading adds its own.
    pub total_blocks: AtomicU64,
    /// Keys compared one by one.
    pub rechecked: AtomicU64,
}

/// What the comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Source rows compared.
    pub rows_compared: u64,
    /// Keys compared one by one.
    pub rechecked: u64,
    /// The first [`DIFFERENCES_KEPT`] differences.
    pub differences: Vec<Difference>,
    /// All differences; from [`DIFFERENCES_COUNTED`] on there may be more.
    pub difference_count: u64,
    /// Rows that are known not to fit the shadow; they are no differences.
    pub set_aside_count: u64,
    /// The keys of the first [`DIFFERENCES_KEPT`] of them.
    pub set_aside: Vec<String>,
    /// When it was begun, where it went on with what an earlier run had read.
    pub begun_before: Option<String>,
}

/// A row that is not the same on both sides, for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// In what way.
    pub kind: Kind,
    /// Its key: `column = value, …`, in the source's columns where the source has such a key.
    pub key: String,
    /// Names of the target columns that differ.
    pub columns: Vec<String>,
    /// Where that is not the migration's own target, the new table.
    #[serde(default)]
    pub table: Option<String>,
}

impl Verdict {
    /// Takes what was found of a part of that name.
    pub fn add(&mut self, part: Verdict, table: &str) {
        self.rows_compared += part.rows_compared;
        self.rechecked += part.rechecked;
        self.difference_count += part.difference_count;
        let room = DIFFERENCES_KEPT.saturating_sub(self.differences.len());
        let named = part.differences.into_iter().map(|d| Difference { table: Some(table.to_owned()), ..d });
        self.differences.extend(named.take(room));
        self.set_aside_count += part.set_aside_count;
        self.set_aside.extend(part.set_aside.into_iter().map(|key| format!("{table}: {key}")));
        self.set_aside.truncate(DIFFERENCES_KEPT);
        self.begun_before = self.begun_before.take().or(part.begun_before);
    }
}

/// The ways in which a row can differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The shadow does not have it.
    Missing,
    /// The source does not have it, or the shadow has it more than once.
    Extra,
    /// Both have it, with other values.
    Different,
}

/// The job, and what is found out once.
struct Site {
    job: Job,
    progress: Arc<Progress>,
    statements: Statements,
    /// The same with every conversion guarded that may be, for what fails otherwise.
    guarded: Option<Statements>,
    /// The source's tables that hold rows.
    leaves: Vec<QualifiedName>,
    /// Begins a transaction and reads the source's fingerprint.
    begin: String,
    /// The fingerprint's columns.
    columns: String,
    /// What the progress showed when it began.
    rows_before: u64,
}

/// Compares the two tables.
///
/// # Errors
/// The server's, where trying again does not help; drift of the source; the stream's. Differences are no error.
pub async fn run<S: InStep>(job: Job, in_step: &S, progress: Arc<Progress>) -> Result<Verdict, Failure> {
    let (site, rows) = Site::open(job, progress).await?;
    if site.statements.is_by_key() {
        let mut recheck = Recheck::new(&site, in_step);
        recheck.run(by_key::candidates(&site).await?).await?;
        if site.job.plan.rejoin.is_some() {
            recheck.tell_all_set_aside();
        }
        return Ok(Verdict { rows_compared: site.rows(), ..recheck.into_verdict() });
    }
    let (keeper, begun) = match &site.job.keep {
        Some(keep) => {
            let (keeper, begun) = Keeper::open(&site, keep).await?;
            (Some(keeper), begun)
        }
        None => (None, None),
    };
    let (bits, mut within, mut begun, begun_before) = match begun {
        Some(begun) => (begun.bits, begun.within, Some(begun.state), Some(begun.at)),
        None => (buckets::bits(rows), Vec::new(), None, None),
    };
    let mut recheck = Recheck::new(&site, in_step);
    let suspects = loop {
        let suspects = digest::run(&site, bits, &within, begun.take(), keeper.as_ref()).await?;
        tracing::debug!(depth = within.len(), bits, rows = suspects.rows(), share = suspects.share(), "buckets differ");
        let is_small = suspects.rows() <= SLICE_ROWS || suspects.share() > HOPELESS_SHARE;
        if is_small || within.len() + 1 == LEVELS {
            break suspects;
        }
        within.push(suspects.bitmap());
    };
    for slice in suspects.slices(SLICE_ROWS) {
        within.push(slice.bitmap());
        recheck.run(drill::candidates(&site, bits, &within).await?).await?;
        within.pop();
        if recheck.is_enough() {
            break;
        }
    }
    if let Some(keeper) = keeper {
        keeper.forget().await?;
    }
    Ok(Verdict { rows_compared: site.rows(), begun_before, ..recheck.into_verdict() })
}

impl Site {
    /// Also says how many rows the source is thought to have.
    async fn open(job: Job, progress: Arc<Progress>) -> Result<(Site, u64), Failure> {
        let forth = job.forth.as_ref().unwrap_or(&job.plan);
        let by = |forth: &Plan| match &job.forth {
            None => Statements::new(forth, &job.shadow, &job.shadow_leaves),
            Some(_) => Statements::of_way_back(forth, &job.plan, &job.shadow, &job.shadow_leaves),
        };
        let statements = by(&forth.compared(&job.names))?;
        let guarded = forth.guarded(&job.names).map(|forth| by(&forth)).transpose()?;
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {}; {}",
            lock_source(&job.plan),
            drift::plan_sql(&job.plan)
        );
        let mut retry = Retry::new();
        let (columns, rows) = loop {
            match look(&job).await {
                Ok(seen) => break seen,
                Err(e) => retry.after(e).await?,
            }
        };
        let leaves = match job.plan.rejoin {
            Some(_) => job.plan.keyed_tables().into_iter().map(|(table, _)| table.clone()).collect(),
            None => job.plan.leaves().into_iter().map(|leaf| leaf.shape.name.clone()).collect(),
        };
        let rows_before = progress.rows.load(Ordering::Relaxed);
        Ok((Site { begin, columns, statements, guarded, leaves, job, progress, rows_before }, rows))
    }

    /// What fails for no value that may become NULL.
    fn last(&self) -> &Statements {
        self.guarded.as_ref().unwrap_or(&self.statements)
    }

    /// Source rows read so far.
    fn rows(&self) -> u64 {
        self.progress.rows.load(Ordering::Relaxed).saturating_sub(self.rows_before)
    }

    fn key_names(&self) -> impl Iterator<Item = &str> {
        self.job.plan.key.columns.iter().map(|k| k.source.as_str())
    }

    fn target_key_names(&self) -> impl Iterator<Item = &str> {
        self.job.plan.key.columns.iter().map(|k| k.target.as_str())
    }
}

/// The source's columns, and its rows by the planner's reckoning, which a table never analysed has by its size.
async fn look(job: &Job) -> Result<(String, u64), Error> {
    let conn = job.connector.open(Role::Verifier).await?;
    let columns = drift::read_all(&conn, &job.plan).await?.columns;
    let sql = format!(
        "SELECT coalesce(sum(CASE WHEN reltuples > 0 THEN reltuples ELSE pg_catalog.pg_relation_size(oid) / 100 END), 0)::int8::text \
         FROM pg_catalog.pg_class WHERE oid IN ({}) AND relkind = 'r'",
        job.plan.oids()
    );
    let rows = conn.scalar("estimate rows", &sql).await?.and_then(|text| text.parse().ok()).unwrap_or(0);
    Ok((columns, rows))
}
