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
use super::statements::{Blocks, Part, Side, Statements};
use crate::copy::ranges::{BlockRange, Pieces, Ranges};
use crate::drift;
use crate::error::Failure;
use crate::pg::{Conn, Error, Literal, QualifiedName, Role};
use crate::plan::guard;
use crate::plan::types::Layout;
use crate::retry::Retry;

/// What a reading asks of each block range, and what becomes of the answers.
pub trait Pass: Sync {
    /// One row of an answer.
    type Item: Send;
    /// The statement's name.
    const NAME: &'static str;

    /// The statement, one of these.
    fn sql(&self, statements: &Statements, part: Part) -> String;

    /// Its parameters.
    fn params(&self) -> Vec<&(dyn ToSql + Sync)>;

    /// Reads a row.
    ///
    /// # Errors
    /// The client library's, where a column is of another type.
    fn read(&self, side: Side, row: &Row) -> Result<Self::Item, tokio_postgres::Error>;

    /// Takes the rows of one range, each range once.
    fn merge(&self, part: Part, items: Vec<Self::Item>);

    /// Ranges of a table, sorted, that an earlier run has read.
    fn done(&self, _side: Side, _table: usize) -> Vec<BlockRange> {
        Vec::new()
    }

    /// After each range, outside of any transaction of the reading.
    fn merged(&self) -> impl Future<Output = Result<(), Failure>> + Send {
        std::future::ready(Ok(()))
    }
}

/// Reads every block of these sides.
///
/// # Errors
/// The first worker's; drift of the source; a lost connection that does not come back.
pub async fn run<P: Pass>(site: &Site, sides: &[Side], pass: &P) -> Result<(), Failure> {
    let mut queue = Vec::new();
    for side in sides {
        for table in 0..site.tables(*side).len() {
            let done = pass.done(*side, table);
            // The last range is open: an empty table may not stay empty, and a read one may have grown.
            let behind = done.last().map_or(0, |(_, end)| *end);
            let ranges = Ranges::new(blocks(site, *side, table).await?.max(behind.saturating_add(1)), &done);
            let progress = &site.progress;
            progress.total_blocks.fetch_add(u64::from(ranges.total()), Ordering::Relaxed);
            progress.blocks.fetch_add(u64::from(ranges.total() - ranges.remaining()), Ordering::Relaxed);
            queue.push(Reading { lot: site.lot(table), side: *side, table, ranges });
        }
    }
    queue.sort_by_key(|reading| reading.lot);
    let queue = Mutex::new(queue);
    try_join_all((0..site.job.jobs.max(1)).map(|_| worker(site, &queue, sides.len(), pass))).await?;
    Ok(())
}

async fn blocks(site: &Site, side: Side, table: usize) -> Result<u32, Failure> {
    let table = site.tables(side).get(table).map(QualifiedName::to_string).unwrap_or_default();
    let sql = format!(
        "SELECT (pg_catalog.pg_relation_size({}::regclass) / current_setting('block_size')::int8)::text",
        Literal(&table)
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

/// What is left to be read of one table.
struct Reading {
    /// Tables of both sides that hold the same rows have the same number.
    lot: usize,
    side: Side,
    table: usize,
    ranges: Ranges,
}

type Queue = Mutex<Vec<Reading>>;

/// Lot by lot; of the two sides of a lot the one further behind.
fn next(queue: &Queue, sides: usize, jobs: u32, gently: bool) -> Option<(BlockRange, Part)> {
    let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    let lot = queue.iter().find(|r| r.ranges.remaining() > 0)?.lot;
    let share = |side: Side| {
        let of_side = queue.iter().filter(|r| r.lot == lot && r.side == side);
        let (left, all) = of_side.fold((0, 0), |(left, all), r| (left + r.ranges.remaining(), all + r.ranges.total()));
        f64::from(left) / f64::from(all.max(1))
    };
    let side = if share(Side::Source) > share(Side::Shadow) { Side::Source } else { Side::Shadow };
    let workers = jobs.div_ceil(u32::try_from(sides).unwrap_or(1).max(1));
    let mut of_side = queue.iter_mut().filter(|r| r.lot == lot && r.side == side);
    let Reading { table, ranges, .. } = of_side.find(|r| r.ranges.remaining() > 0)?;
    let range = ranges.take(workers, gently)?;
    let end = (range.1 < ranges.total()).then_some(range.1);
    Some((range, Part { side, table: *table, blocks: Blocks { first: range.0, end } }))
}

fn learn(queue: &Queue, part: Part, blocks: u32, time: Duration) {
    let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(reading) = queue.iter_mut().find(|r| r.side == part.side && r.table == part.table) {
        reading.ranges.learn(blocks, time);
    }
}

async fn worker<P: Pass>(site: &Site, queue: &Queue, sides: usize, pass: &P) -> Result<(), Failure> {
    let mut reader = Reader { pieces: Pieces::default(), conn: None, retry: Retry::new() };
    let gently = || site.job.throttle.is_gentle();
    while let Some((range, part)) = next(queue, sides, site.job.jobs, gently()) {
        let mut first = range.0;
        while first < range.1 {
            let end = reader.pieces.end((first, range.1), gently());
            let last = end == range.1;
            let blocks = Blocks { first, end: if last { part.blocks.end } else { Some(end) } };
            let took = reader.piece(site, pass, Part { blocks, ..part }, end - first).await?;
            if first == range.0 && last {
                learn(queue, part, end - first, took);
            }
            site.progress.blocks.fetch_add(u64::from(end - first), Ordering::Relaxed);
            first = end;
            site.job.throttle.rest(took).await;
            pass.merged().await?;
        }
    }
    Ok(())
}

/// What a worker keeps from one piece to the next.
struct Reader {
    pieces: Pieces,
    conn: Option<Conn>,
    retry: Retry,
}

impl Reader {
    /// Reads one piece and hands it on; how long the reading took.
    async fn piece<P: Pass>(&mut self, site: &Site, pass: &P, part: Part, blocks: u32) -> Result<Duration, Failure> {
        loop {
            site.job.throttle.pass().await;
            let open = match self.conn.take() {
                Some(open) => open,
                None => match site.job.connector.open(Role::Verifier).await {
                    Ok(open) => open,
                    Err(e) => {
                        self.retry.after(e).await?;
                        continue;
                    }
                },
            };
            let begun = Instant::now();
            match read(site, &open, pass, part).await {
                Ok(read) => {
                    self.retry.reset();
                    let (items, read) = read?;
                    self.pieces.learn(blocks, read);
                    pass.merge(part, items);
                    self.conn = Some(open);
                    return Ok(begun.elapsed());
                }
                Err(e) => {
                    if !open.is_closed() {
                        self.conn = Some(open);
                    }
                    self.retry.after(e).await?;
                }
            }
        }
    }
}

/// Reads a range; where a value does not convert that may become NULL, once more with the conversions guarded.
async fn read<P: Pass>(
    site: &Site,
    conn: &Conn,
    pass: &P,
    part: Part,
) -> Result<Result<(Vec<P::Item>, Duration), Failure>, Error> {
    match (site.within(conn, chunk(conn, pass, &site.statements, part)).await, &site.guarded) {
        (Err(e), Some(guarded)) if guard::catches(&e) => site.within(conn, chunk(conn, pass, guarded, part)).await,
        (read, _) => read,
    }
}

/// The rows of the answer, and how long it took.
async fn chunk<P: Pass>(
    conn: &Conn,
    pass: &P,
    statements: &Statements,
    part: Part,
) -> Result<(Vec<P::Item>, Duration), Error> {
    let begun = Instant::now();
    let lost = |e: tokio_postgres::Error| Error::from_client(P::NAME, &e);
    let sql = pass.sql(statements, part);
    tracing::trace!(statement = P::NAME, sql, "query");
    let mut rows = pin!(conn.client().query_raw(&sql, pass.params()).await.map_err(lost)?);
    let mut items = Vec::new();
    while let Some(row) = rows.try_next().await.map_err(lost)? {
        items.push(pass.read(part.side, &row).map_err(|e| Error::client(P::NAME, e.to_string()))?);
    }
    Ok((items, begun.elapsed()))
}

impl Site {
    /// See [`Reading::lot`]. Where a row's table is the target's own choice, all of them together hold the same rows.
    fn lot(&self, table: usize) -> usize {
        match self.job.plan.layout {
            Layout::Kept => table,
            Layout::Made => 0,
        }
    }

    /// The tables that hold a side's rows.
    pub fn tables(&self, side: Side) -> &[QualifiedName] {
        match side {
            Side::Source => &self.leaves,
            Side::Shadow => &self.job.shadow_leaves,
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
