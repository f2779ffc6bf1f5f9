//! One reading of a table, or of both: block ranges, each in a short transaction of its own, several at a time.
//!
//! Where both sides are read, whichever is further behind goes next. The copy writes the shadow in the order of the
//! source's blocks, so the two versions of a row are then read close together, and few rows change in between.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use futures_util::future::try_join_all;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::Site;
use super::statements::{Blocks, Side};
use crate::copy::ranges::{BlockRange, Ranges};
use crate::drift;
use crate::error::Failure;
use crate::pg::{Conn, Error, Literal, QualifiedName, Role};
use crate::retry::Retry;

/// What a reading asks of each block range, and what becomes of the answers.
pub trait Pass: Sync {
    /// One row of an answer.
    type Item: Send;
    /// The statement's name.
    const NAME: &'static str;

    /// The statement.
    fn sql(&self, side: Side, blocks: Blocks) -> String;

    /// Its parameters.
    fn params(&self) -> Vec<&(dyn ToSql + Sync)>;

    /// Reads a row.
    ///
    /// # Errors
    /// The client library's, where a column is of another type.
    fn read(&self, side: Side, row: &Row) -> Result<Self::Item, tokio_postgres::Error>;

    /// Takes the rows of one range, each range once.
    fn merge(&self, side: Side, items: Vec<Self::Item>);
}

/// Reads every block of these sides.
///
/// # Errors
/// The first worker's; drift of the source; a lost connection that does not come back.
pub async fn run<P: Pass>(site: &Site, sides: &[Side], pass: &P) -> Result<(), Failure> {
    let mut queue = Vec::new();
    for side in sides {
        // An empty table has one range all the same: it may not stay empty.
        let ranges = Ranges::new(blocks(site, *side).await?.max(1), &[]);
        site.progress.total_blocks.fetch_add(u64::from(ranges.total()), Ordering::Relaxed);
        queue.push((*side, ranges));
    }
    let queue = Mutex::new(queue);
    try_join_all((0..site.job.jobs.max(1)).map(|_| worker(site, &queue, pass))).await?;
    Ok(())
}

async fn blocks(site: &Site, side: Side) -> Result<u32, Failure> {
    let sql = format!(
        "SELECT (pg_catalog.pg_relation_size({}::regclass) / current_setting('block_size')::int8)::text",
        Literal(&site.table(side).to_string())
    );
    let mut retry = Retry::new();
    loop {
        let measured = async {
            let conn = site.job.connector.open(Role::Verifier).await?;
            conn.scalar("measure table", &sql).await
        };
        match measured.await {
            Ok(text) => return Ok(text.and_then(|t| t.parse().ok()).unwrap_or(0)),
            Err(e) => retry.after(e).await?,
        }
    }
}

type Queue = Mutex<Vec<(Side, Ranges)>>;

fn next(queue: &Queue, jobs: u32) -> Option<(Side, BlockRange, Blocks)> {
    let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    let share = |ranges: &Ranges| f64::from(ranges.remaining()) / f64::from(ranges.total());
    let workers = jobs.div_ceil(u32::try_from(queue.len()).unwrap_or(1).max(1));
    let (side, ranges) = queue.iter_mut().max_by(|a, b| share(&a.1).total_cmp(&share(&b.1)))?;
    let range = ranges.take(workers)?;
    let end = (range.1 < ranges.total()).then_some(range.1);
    Some((*side, range, Blocks { first: range.0, end }))
}

fn learn(queue: &Queue, side: Side, blocks: u32, time: Duration) {
    let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, ranges)) = queue.iter_mut().find(|(s, _)| *s == side) {
        ranges.learn(blocks, time);
    }
}

async fn worker<P: Pass>(site: &Site, queue: &Queue, pass: &P) -> Result<(), Failure> {
    let mut retry = Retry::new();
    let mut conn = None;
    while let Some((side, range, blocks)) = next(queue, site.job.jobs) {
        loop {
            site.job.throttle.pass().await;
            let open = match conn.take() {
                Some(open) => open,
                None => match site.job.connector.open(Role::Verifier).await {
                    Ok(open) => open,
                    Err(e) => {
                        retry.after(e).await?;
                        continue;
                    }
                },
            };
            let begun = Instant::now();
            match site.within(&open, chunk(&open, pass, side, blocks)).await {
                Ok(items) => {
                    retry.reset();
                    pass.merge(side, items?);
                    let blocks = range.1 - range.0;
                    site.progress.blocks.fetch_add(u64::from(blocks), Ordering::Relaxed);
                    learn(queue, side, blocks, begun.elapsed());
                    conn = Some(open);
                    site.job.throttle.rest(begun.elapsed()).await;
                    break;
                }
                Err(e) => {
                    if !open.is_closed() {
                        conn = Some(open);
                    }
                    retry.after(e).await?;
                }
            }
        }
    }
    Ok(())
}

async fn chunk<P: Pass>(conn: &Conn, pass: &P, side: Side, blocks: Blocks) -> Result<Vec<P::Item>, Error> {
    let lost = |e: tokio_postgres::Error| Error::from_client(P::NAME, &e);
    let sql = pass.sql(side, blocks);
    tracing::debug!(statement = P::NAME, sql, "query");
    let mut rows = pin!(conn.client().query_raw(&sql, pass.params()).await.map_err(lost)?);
    let mut items = Vec::new();
    while let Some(row) = rows.try_next().await.map_err(lost)? {
        items.push(pass.read(side, &row).map_err(|e| Error::client(P::NAME, e.to_string()))?);
    }
    Ok(items)
}

impl Site {
    fn table(&self, side: Side) -> &QualifiedName {
        match side {
            Side::Source => &self.job.plan.source.name,
            Side::Shadow => &self.job.shadow,
        }
    }

    /// Runs `work` in a read-only transaction with one snapshot, with the source locked against being rewritten and
    /// known to be that of the plan (rule 11). The outer error is worth another try.
    pub async fn within<T>(
        &self,
        conn: &Conn,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<Result<T, Failure>, Error> {
        let done = async {
            let rows = conn.simple("begin comparison", &self.begin).await?;
            let columns = rows.into_iter().next().and_then(|row| row.into_iter().nth(1)).flatten();
            if columns.as_ref() != Some(&self.columns) {
                return Ok(None);
            }
            let done = work.await?;
            conn.batch("end comparison", "COMMIT").await?;
            Ok(Some(done))
        }
        .await;
        if !matches!(done, Ok(Some(_))) && !conn.is_closed() {
            conn.batch("roll back comparison", "ROLLBACK").await?;
        }
        Ok(done?.ok_or_else(|| drift::changed(&self.job.plan.source)))
    }
}
