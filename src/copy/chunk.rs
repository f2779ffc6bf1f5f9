//! One chunk: one transaction, or several with rest between them, of which each takes a piece of the chunk's blocks and moves
//! the end of its progress row.

use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;

use super::ranges::BlockRange;
use super::{Job, Leaf, SEEN_NEW, lock_leaf};
use crate::drift;
use crate::pg::{Conn, Error};
use crate::plan::guard;
use crate::plan::parts::MISPLACED;

/// A chunk under way, as its progress row has it.
#[derive(Debug, Clone, Copy)]
pub struct Chunk {
    /// Its first block, and one past its last.
    pub range: BlockRange,
    /// The first block that no transaction has committed; the first of all where there is no progress row yet.
    pub next: u32,
    /// What was committed.
    pub done: Copied,
}

/// What was copied.
#[derive(Debug, Clone, Copy, Default)]
pub struct Copied {
    /// Rows of the source that were written.
    pub rows: u64,
    /// Keys written to the journal.
    pub journaled: u64,
}

/// What became of a piece.
pub enum Piece {
    /// It is committed, up to the block of the chunk that is given.
    Committed(Chunk, Duration),
    /// The source's file is another one than was measured; nothing was written.
    OtherFile,
}

impl Chunk {
    /// One of which nothing is done.
    pub fn new(range: BlockRange) -> Self {
        Chunk { range, next: range.0, done: Copied::default() }
    }

    /// Whether all of it is.
    pub fn is_done(&self) -> bool {
        self.next >= self.range.1
    }

    /// The same once these blocks up to `end` are copied as well.
    fn with(self, end: u32, more: Copied) -> Self {
        let done = Copied { rows: self.done.rows + more.rows, journaled: self.done.journaled + more.journaled };
        Chunk { next: end, done, ..self }
    }

    /// What notes that: the row is written with the first piece.
    fn note(&self, before: &Chunk, job: &Job, leaf: &Leaf) -> String {
        let Copied { rows, journaled } = self.done;
        let (id, oid, first, end) = (job.id, leaf.source.oid, self.range.0, self.next);
        match before.next == first {
            true => format!(
                "INSERT INTO pgrecast.chunk (migration, relation, first_block, end_block, rows, journaled) \
                 VALUES ({id}, {oid}, {first}, {end}, {rows}, {journaled})"
            ),
            false => format!(
                "UPDATE pgrecast.chunk SET end_block = {end}, rows = {rows}, journaled = {journaled} \
                 WHERE migration = {id} AND relation = {oid} AND first_block = {first}"
            ),
        }
    }
}

/// Copies the blocks of a chunk up to `end`; where a value does not convert and may become NULL, once more with the
/// conversions guarded.
pub async fn copy(conn: &Conn, job: &Job, leaf: &Leaf, chunk: &Chunk, end: u32) -> Result<Piece, Error> {
    match tried(conn, job, leaf, chunk, end, false).await {
        Err(e) if guard::catches(&e) && job.plan.guard.is_some() => tried(conn, job, leaf, chunk, end, true).await,
        done => done,
    }
}

async fn tried(conn: &Conn, job: &Job, leaf: &Leaf, chunk: &Chunk, end: u32, guarded: bool) -> Result<Piece, Error> {
    let done = attempt(conn, job, leaf, chunk, end, guarded).await;
    if !matches!(done, Ok(Piece::Committed(..))) && !conn.is_closed() {
        conn.batch("roll back chunk", "ROLLBACK").await?;
    }
    done
}

async fn attempt(conn: &Conn, job: &Job, leaf: &Leaf, chunk: &Chunk, end: u32, guarded: bool) -> Result<Piece, Error> {
    let range = (chunk.next, end);
    for fill in leaf.statements.fill(range) {
        conn.batch("number values", &fill).await?;
    }
    let begin = format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {}", lock_leaf(&leaf.source.name));
    // One round trip: the server takes them in this order.
    let (begun, seen, committed) = tokio::join!(
        biased;
        conn.batch("begin chunk", &begin),
        drift::read(conn, &leaf.source),
        committed(conn, job, leaf, chunk),
    );
    begun?;
    let seen = seen?;
    if seen.columns != leaf.fingerprint.columns {
        return Err(Error::client("check source", drift::DRIFTED));
    }
    if seen.filenode != leaf.fingerprint.filenode {
        return Ok(Piece::OtherFile);
    }
    match committed? {
        None if chunk.next == chunk.range.0 => {}
        Some(there) if there.next == chunk.next => {}
        // The same piece was committed by a connection whose answer was lost.
        Some(there) if there.next > chunk.next => {
            conn.batch("end chunk", "ROLLBACK").await?;
            return Ok(Piece::Committed(there, Duration::ZERO));
        }
        _ => return Err(Error::client("look for chunk", "its progress row is not as this run left it")),
    }
    let begun = Instant::now();
    let insert = if guarded { leaf.statements.insert_guarded(range) } else { leaf.statements.insert(range) };
    let mut rows = conn.execute("copy chunk", &insert, &[]).await?;
    let worked = begun.elapsed();
    if let Some(sql) = leaf.statements.set_aside(range).filter(|_| guarded) {
        conn.execute("set aside chunk", &sql, &[]).await?;
    }
    for part in &leaf.parts {
        let copied = conn.execute("copy chunk to part", &part.statements.insert(range), &[]).await?;
        rows += if part.takes_rows { copied } else { 0 };
    }
    if let Some(misplaced) = leaf.statements.misplaced(range)
        && let Some(row) = conn.scalar(MISPLACED, &misplaced).await?
    {
        return Err(Error::client(MISPLACED, row));
    }
    let flag = conn.scalar("ask for new rows", &format!("SELECT current_setting('{SEEN_NEW}', true)")).await?;
    let journaled = match flag.as_deref() {
        Some("1") => conn.execute("journal new rows", &leaf.statements.journal(range), &[]).await?,
        _ => 0,
    };
    let after = chunk.with(end, Copied { rows, journaled });
    let progress = format!("{}; COMMIT", after.note(chunk, job, leaf));
    conn.batch("commit chunk", &progress).await.map_err(|e| match e.is(&SqlState::UNIQUE_VIOLATION) {
        // The same chunk was committed by a connection whose answer was lost: the next look finds it.
        true => Error { sqlstate: Some(SqlState::T_R_SERIALIZATION_FAILURE), ..e },
        false => e,
    })?;
    Ok(Piece::Committed(after, worked))
}

/// The chunk by its progress row; none where no piece of it was committed.
async fn committed(conn: &Conn, job: &Job, leaf: &Leaf, chunk: &Chunk) -> Result<Option<Chunk>, Error> {
    let sql = format!(
        "SELECT end_block, rows, journaled FROM pgrecast.chunk WHERE migration = {} AND relation = {} AND first_block = {}",
        job.id, leaf.source.oid, chunk.range.0
    );
    let rows = conn.simple("look for chunk", &sql).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let number = |i: usize| row.get(i).and_then(Option::as_ref).and_then(|text| text.parse::<u64>().ok());
    let read = || {
        let next = u32::try_from(number(0)?).ok()?;
        Some(Chunk { next, done: Copied { rows: number(1)?, journaled: number(2)? }, ..*chunk })
    };
    read().map(Some).ok_or_else(|| Error::client("look for chunk", "its progress row is not of numbers"))
}
