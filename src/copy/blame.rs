//! Finds the row that a chunk failed on, to name it by its key.
//!
//! The range is halved by trying its halves, each in a savepoint, until one block is left, whose rows are tried one by
//! one. Nothing of it is kept.

use super::ranges::BlockRange;
use super::{Job, Leaf, Statements, lock_leaf};
use crate::error::Failure;
use crate::pg::{Conn, Error, Ident, Literal};
use crate::plan::types::{Names, Plan};
use crate::unfit::{Unfit, fails};

/// The failure, with the key of a row it happens on; `None` where no row of the range fails any more.
pub async fn find(
    conn: &Conn,
    job: &Job,
    leaf: &Leaf,
    range: BlockRange,
    error: &Error,
) -> Result<Option<Failure>, Failure> {
    let begin = format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {}", lock_leaf(&leaf.source.name));
    conn.batch("begin search", &begin).await?;
    let found = async {
        let own = Target { plan: &job.plan, names: &job.names, statements: &leaf.statements };
        let parts = leaf.parts.iter().map(|p| Target { plan: &p.plan, names: &p.names, statements: &p.statements });
        for target in std::iter::once(own).chain(parts) {
            if let Some(found) = search(conn, target, leaf, range, error).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    };
    let found = found.await;
    conn.batch("end search", "ROLLBACK").await?;
    found
}

/// What the range is copied to.
#[derive(Clone, Copy)]
struct Target<'a> {
    plan: &'a Plan,
    names: &'a Names,
    statements: &'a Statements,
}

async fn search(
    conn: &Conn,
    target: Target<'_>,
    leaf: &Leaf,
    range: BlockRange,
    error: &Error,
) -> Result<Option<Failure>, Failure> {
    let statements = target.statements;
    let (mut first, mut end) = range;
    if fails(conn, &statements.insert_guarded(range)).await?.is_none() {
        return Ok(None);
    }
    while end - first > 1 {
        let middle = first + (end - first) / 2;
        if fails(conn, &statements.insert_guarded((first, middle))).await?.is_some() {
            end = middle;
        } else {
            first = middle;
        }
    }
    let places = conn.simple("list rows of block", &statements.places(first)).await?;
    for place in places.into_iter().filter_map(|r| r.into_iter().next().flatten()) {
        let Some((block, offset)) = parse_place(&place) else { continue };
        if let Some(cause) = fails(conn, &statements.insert_row(block, offset)).await? {
            return Ok(Some(describe(conn, target, leaf, &place, &cause).await?));
        }
    }
    // Two rows that each pass alone: the failure is between them, and the server's words must do.
    Ok(Some(error.clone().into()))
}

fn parse_place(place: &str) -> Option<(u32, u32)> {
    let (block, offset) = place.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
    Some((block.parse().ok()?, offset.parse().ok()?))
}

/// Names the row by its key, and the expression with the value it fails on.
async fn describe(
    conn: &Conn,
    target: Target<'_>,
    leaf: &Leaf,
    place: &str,
    cause: &Error,
) -> Result<Failure, Failure> {
    let Target { plan, names, .. } = target;
    let alias = plan.alias();
    let row = format!("{alias}.ctid = {}::tid AND {alias}.tableoid = {}", Literal(place), leaf.source.oid);
    let mut key = Vec::new();
    for column in plan.key.columns.iter().map(|k| &k.source) {
        let read = format!("SELECT {}::text FROM {} WHERE {row}", Ident(column), plan.source_from());
        let value = conn.scalar("read key", &read).await?;
        key.push(format!("{} = {}", Ident(column), value.unwrap_or_default()));
    }
    let unfit = Unfit { plan, names, row, key: key.join(", "), aside: "", cause };
    unfit.describe(conn).await
}

#[cfg(test)]
mod tests {
    #[test]
    fn places_are_read() {
        assert_eq!(super::parse_place("(12,3)"), Some((12, 3)));
        assert_eq!(super::parse_place("12,3"), None);
    }
}
