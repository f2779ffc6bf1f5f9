//! Finds the row that a chunk failed on, to name it by its key.
//!
//! The range is halved by trying its halves, each in a savepoint, until one block is left, whose rows are tried one by
//! one. Nothing of it is kept.

use tokio_postgres::error::SqlState;

use super::ranges::BlockRange;
use super::{Job, Statements, lock_source};
use crate::error::Failure;
use crate::pg::{Conn, Error, Ident, Literal};
use crate::plan::types::Value;

/// The failure, with the key of a row it happens on; `None` where no row of the range fails any more.
pub async fn find(
    conn: &Conn,
    job: &Job,
    statements: &Statements,
    range: BlockRange,
    error: &Error,
) -> Result<Option<Failure>, Failure> {
    let begin = format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {}", lock_source(&job.plan.source.name));
    conn.batch("begin search", &begin).await?;
    let found = search(conn, job, statements, range, error).await;
    conn.batch("end search", "ROLLBACK").await?;
    found
}

async fn search(
    conn: &Conn,
    job: &Job,
    statements: &Statements,
    range: BlockRange,
    error: &Error,
) -> Result<Option<Failure>, Failure> {
    let (mut first, mut end) = range;
    if fails(conn, &statements.insert(range)).await?.is_none() {
        return Ok(None);
    }
    while end - first > 1 {
        let middle = first + (end - first) / 2;
        if fails(conn, &statements.insert((first, middle))).await?.is_some() {
            end = middle;
        } else {
            first = middle;
        }
    }
    let places = conn.simple("list rows of block", &statements.places(first)).await?;
    for place in places.into_iter().filter_map(|r| r.into_iter().next().flatten()) {
        let Some((block, offset)) = parse_place(&place) else { continue };
        if let Some(cause) = fails(conn, &statements.insert_row(block, offset)).await? {
            return Ok(Some(describe(conn, job, &place, &cause).await?));
        }
    }
    // Two rows that each pass alone: the failure is between them, and the server's words must do.
    Ok(Some(error.clone().into()))
}

fn parse_place(place: &str) -> Option<(u32, u32)> {
    let (block, offset) = place.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
    Some((block.parse().ok()?, offset.parse().ok()?))
}

/// The data error of a statement, tried in a savepoint.
async fn fails(conn: &Conn, sql: &str) -> Result<Option<Error>, Failure> {
    conn.batch("savepoint", "SAVEPOINT try").await?;
    let outcome = conn.batch("try rows", sql).await;
    conn.batch("undo try", "ROLLBACK TO SAVEPOINT try; RELEASE SAVEPOINT try").await?;
    match outcome {
        Ok(()) => Ok(None),
        Err(e) if e.is_data() => Ok(Some(e)),
        Err(e) => Err(e.into()),
    }
}

/// Names the row by its key, and the expression with the value it fails on.
async fn describe(conn: &Conn, job: &Job, place: &str, cause: &Error) -> Result<Failure, Failure> {
    let at = format!("FROM {} WHERE {}.ctid = {}::tid", job.plan.source_from(), job.plan.alias(), Literal(place));
    let mut key = Vec::new();
    for column in job.plan.key.columns.iter().map(|k| &k.source) {
        let value = conn.scalar("read key", &format!("SELECT {}::text {at}", Ident(column))).await?;
        key.push(format!("{} = {}", Ident(column), value.unwrap_or_default()));
    }
    let key = key.join(", ");
    let table = job.plan.source.name.plain();
    let constraint = cause.is(&SqlState::NOT_NULL_VIOLATION) || cause.is(&SqlState::CHECK_VIOLATION);
    let hint = "The table is as it was. Correct the row and run the same command again to go on, or give up with pgrecast abort.";
    if !constraint {
        for column in &job.plan.columns {
            let Value::Converted { expression } = &column.value else { continue };
            let Some(target) = job.plan.target.column(&column.name) else { continue };
            let evaluate = format!("SELECT CAST({expression} AS {}) {at}", target.type_sql);
            if fails(conn, &evaluate).await?.is_none() && cause.column.is_none() && !only_conversion(job) {
                continue;
            }
            let source = column.source.as_deref().unwrap_or(&column.name);
            let value = conn.scalar("read value", &format!("SELECT left({}::text, 200) {at}", Ident(source))).await?;
            return Ok(Failure::failed(format!("row {key} of {table} cannot be converted: {}", cause.message))
                .detail(format!(
                    "Column {} is {}; the expression is {expression}, the type {}.",
                    Ident(source),
                    value.map_or_else(|| "NULL".to_owned(), |v| Literal(&v).to_string()),
                    target.type_sql
                ))
                .hint(hint)
                .caused_by(cause));
        }
    }
    Ok(Failure::failed(format!("row {key} of {table} does not fit the new shape: {}", cause.message))
        .hint(hint)
        .caused_by(cause))
}

fn only_conversion(job: &Job) -> bool {
    job.plan.columns.iter().filter(|c| matches!(c.value, Value::Converted { .. })).count() == 1
}

#[cfg(test)]
mod tests {
    #[test]
    fn places_are_read() {
        assert_eq!(super::parse_place("(12,3)"), Some((12, 3)));
        assert_eq!(super::parse_place("12,3"), None);
    }
}
