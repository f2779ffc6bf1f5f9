//! The trial: some rows are copied, indexed, flushed and compared by the plan's own statements, in one transaction that
//! is rolled back.
//!
//! It is over within seconds: nothing new is begun after [`IN_ALL`], and no statement may take longer than [`LONGEST`]. So
//! vacuum is not held back for more than that, and the only lock on the table is that of reading it.

use std::time::{Duration, Instant};

use tokio_postgres::types::ToSql;

use super::facts::{Built, Missing, Pace, Trial};
use super::scratch::{Piece, Scratch, pieces};
use crate::pg::{Conn, Error, Literal};
use crate::plan::types::Plan;
use crate::verify::statements::{Blocks, Buckets, Part, Side, Statements as Digests};

/// How long the copy, the index builds and any statement may take.
const LONGEST: Duration = Duration::from_secs(2);

/// After so long nothing new is begun.
const IN_ALL: Duration = Duration::from_secs(6);

/// The most rows that are copied: enough for any rate, and little to sort.
const ENOUGH_ROWS: u64 = 120_000;

/// Statements that are sent at a time: their round trip counts for little then.
const AT_ONCE: usize = 16;

/// Why something was not tried.
const NO_TIME: &str = "there was no time left";

/// Keys of one flush, as many as a flusher takes at a time.
const FLUSH_KEYS: usize = 1_000;

/// Bits of a bucket's number in the comparison of all but very large tables.
const BUCKET_BITS: u32 = 14;

/// Blocks of the source that are read for the comparison: 1 MiB.
const DIGEST_BLOCKS: u32 = 128;

/// What is tried.
pub struct Job<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The server's version.
    pub version: u32,
    /// Blocks of each leaf.
    pub blocks: &'a [u32],
    /// The first transaction that counts as a change of the sample; none where nothing was written.
    pub since: Option<u32>,
}

/// Tries. What does not work is not measured, and said.
///
/// # Errors
/// The connection's.
pub async fn run(conn: &Conn, job: &Job<'_>, missing: &mut Vec<Missing>) -> Result<Option<Trial>, Error> {
    let round_trip = round_trip(conn).await?;
    let begin = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SET LOCAL statement_timeout = {}; SET LOCAL work_mem = '96MB'; \
         SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL temp_buffers = '64MB'",
        LONGEST.as_millis()
    );
    conn.batch("begin estimate", &begin).await?;
    let scratch = Scratch::new(job.plan, job.version);
    let tried = Try { conn, job, scratch: &scratch, round_trip }.all(missing).await;
    if !conn.is_closed() {
        conn.batch("discard estimate", "ROLLBACK").await?;
    }
    match tried {
        Ok(trial) => Ok(trial),
        Err(e) if e.connection_lost => Err(e),
        Err(e) => {
            missing.push(Missing::new("the trial", why(&e)));
            Ok(None)
        }
    }
}

/// Why something did not work. The server's own words may have values of a row in them.
fn why(error: &Error) -> String {
    let code = error.sqlstate.as_ref().map_or("no SQLSTATE", |s| s.code());
    match error.is_data() {
        true => format!("a row does not go with the change ({}, SQLSTATE {code})", error.statement),
        false => format!("{} (SQLSTATE {code})", error.message),
    }
}

/// The shortest of a few.
async fn round_trip(conn: &Conn) -> Result<f64, Error> {
    let mut shortest = f64::INFINITY;
    for _ in 0..5 {
        let begun = Instant::now();
        conn.batch("measure round trip", "SELECT 1").await?;
        shortest = shortest.min(begun.elapsed().as_secs_f64());
    }
    Ok(shortest)
}

struct Try<'a> {
    conn: &'a Conn,
    job: &'a Job<'a>,
    scratch: &'a Scratch,
    round_trip: f64,
}

impl Try<'_> {
    async fn all(&self, missing: &mut Vec<Missing>) -> Result<Option<Trial>, Error> {
        self.conn.batch("create scratch table", &self.scratch.create()).await?;
        let (begun, mut late) = (Instant::now(), Vec::new());
        let empty = self.empty_builds().await?;
        let mut trial = Trial::default();
        let done = self.copy(&mut trial, missing).await?;
        if trial.rows == 0 {
            return Ok(None);
        }
        self.indexes(&mut trial, &empty, missing).await?;
        if let Some(since) = self.job.since {
            trial.changed = self.changed(&done, since).await?;
        }
        let mut is_time = |what: &str| {
            let is_time = begun.elapsed() < IN_ALL;
            if !is_time {
                late.push(Missing::new(what, NO_TIME));
            }
            is_time
        };
        if is_time("the comparison") {
            trial.digest = self.digest(&trial, missing).await?;
        }
        if is_time("the flush of changed keys") {
            trial.flush = self.flush(&done, missing).await?;
        }
        if is_time("ANALYZE") {
            let sql = format!("ANALYZE {}", Scratch::table());
            let seconds = self.part("analyze scratch table", &sql).await?.ok();
            trial.analyze = seconds.map(|seconds| Pace { rows: trial.rows as f64, seconds });
        }
        missing.append(&mut late);
        Ok(Some(trial))
    }

    /// Runs statements in a part of the transaction of its own; the seconds they took, or why they did not work.
    async fn part(&self, name: &'static str, sql: &str) -> Result<Result<f64, Error>, Error> {
        self.conn.batch("begin part", "SAVEPOINT part").await?;
        let begun = Instant::now();
        let ran = self.conn.batch(name, sql).await;
        let seconds = (begun.elapsed().as_secs_f64() - self.round_trip).max(0.0);
        self.end_part(ran.is_ok()).await?;
        match ran {
            Err(e) if e.connection_lost => Err(e),
            ran => Ok(ran.map(|()| seconds)),
        }
    }

    async fn end_part(&self, kept: bool) -> Result<(), Error> {
        let end = if kept { "RELEASE SAVEPOINT part" } else { "ROLLBACK TO SAVEPOINT part; RELEASE SAVEPOINT part" };
        if self.conn.is_closed() { Ok(()) } else { self.conn.batch("end part", end).await }
    }

    /// Copies pieces until there are enough; those it copied.
    async fn copy(&self, trial: &mut Trial, missing: &mut Vec<Missing>) -> Result<Vec<Piece>, Error> {
        let pieces = pieces(self.job.blocks);
        let nothing = vec![self.scratch.copy_nothing(); AT_ONCE].join("; ");
        let nothing = self.part("copy nothing", &nothing).await?.unwrap_or(0.0) / AT_ONCE as f64;
        let begun = Instant::now();
        let (mut done, mut at_once) = (0, 1);
        while done < pieces.len() && begun.elapsed() < LONGEST && trial.rows < ENOUGH_ROWS {
            let next = &pieces[done..(done + at_once).min(pieces.len())];
            let copies: Vec<String> = next.iter().map(|piece| self.scratch.copy(*piece)).collect();
            let sql = format!("SET TRANSACTION READ ONLY; {}", copies.join("; "));
            match self.part("copy piece", &sql).await? {
                // A run's chunks are so large that what a statement itself costs counts for nothing.
                Ok(seconds) => trial.copy_seconds += (seconds - nothing * next.len() as f64).max(seconds / 10.0),
                Err(e) => {
                    missing.push(Missing::new("the copy of some sampled blocks", why(&e)));
                    break;
                }
            }
            done += next.len();
            let sql = format!("SELECT count(*) FROM {}", Scratch::table());
            trial.rows = self.number("count copied rows", &sql).await? as u64;
            // The first ones tell how many will do at a time.
            at_once = (at_once * 2).min(AT_ONCE);
        }
        let done = pieces[..done].to_vec();
        trial.ranges = done.len() as u64;
        trial.blocks = done.iter().map(|p| u64::from(p.range.1 - p.range.0)).sum();
        let size =
            |what: &str| format!("SELECT pg_catalog.{what}({}::regclass)", Literal(&Scratch::table().to_string()));
        trial.table_bytes = self.number("measure scratch table", &size("pg_relation_size")).await?;
        trial.toast_bytes = self.number("measure scratch table", &size("pg_table_size")).await? - trial.table_bytes;
        Ok(done)
    }

    async fn number(&self, name: &'static str, sql: &str) -> Result<f64, Error> {
        let text = self.conn.scalar(name, sql).await?;
        Ok(text.and_then(|t| t.parse().ok()).unwrap_or(0.0))
    }

    /// What each build takes when there is nothing to build.
    async fn empty_builds(&self) -> Result<Vec<f64>, Error> {
        let mut all = Vec::new();
        for n in 0..self.scratch.plan().target.indexes.len() {
            let Some(sql) = self.scratch.index(n) else {
                all.push(0.0);
                continue;
            };
            self.conn.batch("begin part", "SAVEPOINT part").await?;
            let begun = Instant::now();
            let built = self.conn.batch("build scratch index", &sql).await;
            all.push(begun.elapsed().as_secs_f64() - self.round_trip);
            self.end_part(false).await?;
            if let Err(e) = built
                && e.connection_lost
            {
                return Err(e);
            }
        }
        Ok(all)
    }

    async fn indexes(&self, trial: &mut Trial, empty: &[f64], missing: &mut Vec<Missing>) -> Result<(), Error> {
        let begun = Instant::now();
        for (n, index) in self.scratch.plan().target.indexes.iter().enumerate() {
            let what = || format!("index {}", crate::pg::sql::plain_ident(&index.name));
            let built = match self.scratch.index(n) {
                Some(_) if begun.elapsed() > LONGEST => Err(NO_TIME.to_owned()),
                Some(sql) => self.part("build scratch index", &sql).await?.map_err(|e| why(&e)),
                None => Err("an exclusion constraint builds its index itself".to_owned()),
            };
            trial.indexes.push(match built {
                Ok(seconds) => {
                    let name = Literal(&Scratch::index_name(n).to_string()).to_string();
                    let sql = format!("SELECT pg_catalog.pg_relation_size({name}::regclass)");
                    let bytes = self.number("measure scratch index", &sql).await?;
                    // What a build takes whatever there is belongs to no row.
                    let own = empty.get(n).copied().unwrap_or(0.0);
                    Some(Built { seconds: (seconds - own).max(seconds / 10.0), bytes })
                }
                Err(why) => {
                    missing.push(Missing::new(what(), why));
                    None
                }
            });
        }
        if let Some(sql) = self.scratch.helper() {
            let _ = self.part("build scratch index", &sql).await?;
        }
        Ok(())
    }

    async fn changed(&self, done: &[Piece], since: u32) -> Result<Option<f64>, Error> {
        self.conn.batch("begin part", "SAVEPOINT part").await?;
        let counted = self.conn.scalar("count changed rows", &self.scratch.changed(done, since)).await;
        self.end_part(counted.is_ok()).await?;
        Ok(counted.ok().flatten().and_then(|text| text.parse().ok()))
    }

    /// Reads both sides as the comparison does: some of the source in one go, and all of the scratch table.
    async fn digest(&self, trial: &Trial, missing: &mut Vec<Missing>) -> Result<Option<Pace>, Error> {
        let table = Scratch::table();
        let Ok(digests) = Digests::new(self.scratch.plan(), &table, std::slice::from_ref(&table)) else {
            return Ok(None);
        };
        let density = trial.rows as f64 / trial.blocks.max(1) as f64;
        let largest = self.job.blocks.iter().copied().enumerate().max_by_key(|(_, blocks)| *blocks);
        let (leaf, blocks) = largest.unwrap_or_default();
        let first = (blocks / 2).saturating_sub(DIGEST_BLOCKS / 2);
        let end = (first + DIGEST_BLOCKS).min(blocks);
        let some = Part { side: Side::Source, table: leaf, blocks: Blocks { first, end: Some(end) } };
        let whole = Part { side: Side::Shadow, table: 0, blocks: Blocks { first: 0, end: None } };
        let mut each = 0.0;
        for (part, expected) in [(some, density * f64::from(end - first)), (whole, trial.rows as f64)] {
            // As many rows to a bucket as in a chunk of a run.
            let bits = (expected.max(16.0).log2() as u32 - 3).min(BUCKET_BITS);
            let sql = digests.digest(part, Buckets { bits, level: 0 });
            let sql = format!("SET TRANSACTION READ ONLY; {sql}");
            self.conn.batch("begin part", "SAVEPOINT part").await?;
            let begun = Instant::now();
            let read = self.conn.simple("digest scratch table", &sql).await;
            let seconds = (begun.elapsed().as_secs_f64() - self.round_trip).max(0.0);
            self.end_part(read.is_ok()).await?;
            match read {
                Ok(buckets) => {
                    let count = |row: &Vec<Option<String>>| row.get(1)?.as_ref()?.parse::<f64>().ok();
                    let rows = buckets.iter().filter_map(count).fold(0.0, |all, one| all + one);
                    each += Pace { rows, seconds }.each();
                }
                Err(e) if e.connection_lost => return Err(e),
                Err(e) => {
                    missing.push(Missing::new("the comparison", why(&e)));
                    return Ok(None);
                }
            }
        }
        Ok(Some(Pace { rows: 1.0, seconds: each }))
    }

    /// Brings keys from all over the source up to date in the scratch table.
    async fn flush(&self, done: &[Piece], missing: &mut Vec<Missing>) -> Result<Option<Pace>, Error> {
        self.conn.batch("begin part", "SAVEPOINT part; SET TRANSACTION READ ONLY").await?;
        let flushed = self.flush_in_part(done).await;
        self.end_part(flushed.is_ok()).await?;
        match flushed {
            Ok(pace) => Ok(pace),
            Err(e) if e.connection_lost => Err(e),
            Err(e) => {
                missing.push(Missing::new("the flush of changed keys", why(&e)));
                Ok(None)
            }
        }
    }

    async fn flush_in_part(&self, done: &[Piece]) -> Result<Option<Pace>, Error> {
        let each = (2 * FLUSH_KEYS).div_ceil(done.len().max(1));
        let rows = self.conn.simple("read sampled keys", &self.scratch.keys(done, each)).await?;
        let keys: Vec<Vec<String>> =
            rows.into_iter().filter_map(|row| row.into_iter().collect::<Option<Vec<String>>>()).collect();
        let sql = self.scratch.flush();
        let delete = self.conn.prepare("flush deletes", &sql.delete_gone).await?;
        let upsert = self.conn.prepare("flush upserts", &sql.upsert).await?;
        let mut pace = Pace { rows: 0.0, seconds: 0.0 };
        // The first batch finds nothing cached of the statements; every later one is as those of a run.
        for (n, batch) in keys.chunks(FLUSH_KEYS.min(keys.len().div_ceil(2)).max(1)).enumerate() {
            let width = self.scratch.plan().key.columns.len();
            let columns: Vec<Vec<&str>> =
                (0..width).map(|c| batch.iter().filter_map(|key| key.get(c).map(String::as_str)).collect()).collect();
            let params: Vec<&(dyn ToSql + Sync)> = columns.iter().map(|c| c as &(dyn ToSql + Sync)).collect();
            let begun = Instant::now();
            for (name, statement) in [("flush deletes", &delete), ("flush upserts", &upsert)] {
                let ran = self.conn.client().execute(statement, &params).await;
                ran.map_err(|e| Error::from_client(name, &e))?;
            }
            if n > 0 {
                // A run sends both in one round trip.
                pace.seconds += (begun.elapsed().as_secs_f64() - self.round_trip).max(0.0);
                pace.rows += batch.len() as f64;
            }
        }
        Ok((pace.rows > 0.0).then_some(pace))
    }
}
