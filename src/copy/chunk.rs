//! One chunk, one transaction.

use tokio_postgres::error::SqlState;

use super::ranges::BlockRange;
use super::{Job, Leaf, SEEN_NEW, lock_leaf};
use crate::drift;
use crate::pg::{Conn, Error};
use crate::plan::guard;
use crate::plan::parts::MISPLACED;

/// What a chunk did.
pub struct Copied {
    /// Rows of the source that were written.
    pub rows: u64,
    /// Keys written to the journal.
    pub journaled: u64,
}

/// Copies one range; where a value does not convert and may become NULL, once more with the conversions guarded. `None` where the source's file is another one than was measured; then nothing was written.
pub async fn copy(conn: &Conn, job: &Job, leaf: &Leaf, range: BlockRange) -> Result<Option<Copied>, Error> {
    match tried(conn, job, leaf, range, false).await {
        Err(e) if guard::catches(&e) && job.plan.guard.is_some() => tried(conn, job, leaf, range, true).await,
        done => done,
    }
}

async fn tried(conn: &Conn, job: &Job, leaf: &Leaf, range: BlockRange, guarded: bool) -> Result<Option<Copied>, Error> {
    let done = attempt(conn, job, leaf, range, guarded).await;
    if !matches!(done, Ok(Some(_))) && !conn.is_closed() {
        conn.batch("roll back chunk", "ROLLBACK").await?;
    }
    done
}

async fn attempt(
    conn: &Conn,
    job: &Job,
    leaf: &Leaf,
    range: BlockRange,
    guarded: bool,
) -> Result<Option<Copied>, Error> {
    for fill in leaf.statements.fill(range) {
        conn.batch("number values", &fill).await?;
    }
    let begin = format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {}", lock_leaf(&leaf.source.name));
    conn.batch("begin chunk", &begin).await?;
    let seen = drift::read(conn, &leaf.source).await?;
    if seen.columns != leaf.fingerprint.columns {
        return Err(Error::client("check source", drift::DRIFTED));
    }
    if seen.filenode != leaf.fingerprint.filenode {
        return Ok(None);
    }
    if let Some(copied) = committed_before(conn, job, leaf, range).await? {
        conn.batch("end chunk", "ROLLBACK").await?;
        return Ok(Some(copied));
    }
    let insert = if guarded { leaf.statements.insert_guarded(range) } else { leaf.statements.insert(range) };
    let mut rows = conn.execute("copy chunk", &insert, &[]).await?;
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
    let progress = format!(
        "INSERT INTO pgrecast.chunk (migration, relation, first_block, end_block, rows, journaled) \
         VALUES ({}, {}, {}, {}, {rows}, {journaled}); COMMIT",
        job.id, leaf.source.oid, range.0, range.1
    );
    conn.batch("commit chunk", &progress).await.map_err(|e| match e.is(&SqlState::UNIQUE_VIOLATION) {
        // The same chunk was committed by a connection whose answer was lost: the next look finds it.
        true => Error { sqlstate: Some(SqlState::T_R_SERIALIZATION_FAILURE), ..e },
        false => e,
    })?;
    Ok(Some(Copied { rows, journaled }))
}

/// The chunk's progress row, where an earlier attempt's COMMIT went through but its answer was lost.
async fn committed_before(conn: &Conn, job: &Job, leaf: &Leaf, range: BlockRange) -> Result<Option<Copied>, Error> {
    let sql = "SELECT rows, journaled FROM pgrecast.chunk WHERE migration = $1 AND relation = $2 AND first_block = $3";
    let row = conn.rows("look for chunk", sql, &[&job.id, &leaf.source.oid, &i64::from(range.0)]).await?;
    Ok(row
        .first()
        .map(|r| Copied { rows: r.get::<_, i64>(0).unsigned_abs(), journaled: r.get::<_, i64>(1).unsigned_abs() }))
}
