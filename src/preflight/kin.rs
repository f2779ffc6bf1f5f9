//! What of a table's kin stands in the way: a table above or below that is not the role's, an index that would have to be
//! built under the lock, a neighbour that would be read under it.

use super::Finding;
use crate::error::Failure;
use crate::pg::Conn;
use crate::pg::sql::plain_ident;
use crate::plan::kin::{Kin, Partition, Relative, TWIN_HINT};
use crate::plan::read;
use crate::plan::shape::Shape;

/// ATTACH PARTITION reads the default partition for rows that belong to the new one. So much of it is read in a
/// millisecond or two, under the lock.
const MOST_DEFAULT_BYTES: u64 = 1 << 20;

pub(super) async fn findings(conn: &Conn, oid: u32) -> Result<Vec<Finding>, Failure> {
    if Kin::read(conn, oid).await? == Kin::default() {
        return Ok(Vec::new());
    }
    let shape = read::shape(conn, oid).await?;
    let mut found = judge(&shape);
    if let Some(default) = shape.kin.partition.as_ref().and_then(|p| p.default.as_ref()) {
        let sql = format!(
            "SELECT coalesce(sum(pg_catalog.pg_relation_size(relid)), 0) FROM pg_catalog.pg_partition_tree({})",
            default.oid
        );
        let bytes = conn.scalar("measure default partition", &sql).await?;
        found.extend(default_partition(default, bytes.and_then(|b| b.parse().ok()).unwrap_or(u64::MAX)));
    }
    Ok(found)
}

fn default_partition(default: &Relative, bytes: u64) -> Option<Finding> {
    (bytes > MOST_DEFAULT_BYTES).then(|| {
        Finding::new(
            format!(
                "the default partition {} would be read under the lock, and has {bytes} bytes",
                default.name.plain()
            ),
            "ATTACH PARTITION looks in it for rows of the new partition: move its rows to partitions of their own, or \
             detach it for the time.",
        )
    })
}

fn judge(shape: &Shape) -> Vec<Finding> {
    let Kin { of_type: _, partition, parents, children } = &shape.kin;
    let table = shape.name.plain();
    let mut found = Vec::new();
    if let Some(p) = partition {
        found.extend(owned("partitioned table", &p.parent));
        found.extend(p.default.iter().filter_map(|d| owned("default partition", d)));
        if p.detaching {
            found.push(Finding::new(
                format!("{table} is being detached from {}", p.parent.name.plain()),
                "Complete that first: ALTER TABLE … DETACH PARTITION … FINALIZE.",
            ));
        }
        found.extend(indexes(shape, p));
    }
    found.extend(parents.iter().filter_map(|r| owned("parent table", r)));
    found.extend(children.iter().filter_map(|r| owned("child table", r)));
    for child in children.iter().filter(|r| r.temporary) {
        found.push(Finding::new(
            format!("child table {} is a temporary table", child.name.plain()),
            "No other session can give it another parent: end that session first.",
        ));
    }
    if !parents.is_empty() {
        found.extend(inherited(shape));
    }
    found
}

fn owned(what: &str, relative: &Relative) -> Option<Finding> {
    (!relative.owned).then(|| {
        Finding::new(
            format!("{what} {} belongs to another role", relative.name.plain()),
            "It is altered in the cut-over: run as a member of its owner.",
        )
    })
}

/// What of its parents' the table could not have again as it has it.
fn inherited(shape: &Shape) -> Vec<Finding> {
    let checks = shape.checks.iter().filter(|c| c.inherited && !c.validated).map(|c| {
        Finding::new(
            format!("constraint {} is inherited and not valid", plain_ident(&c.name)),
            "ALTER TABLE … VALIDATE CONSTRAINT first.",
        )
    });
    let identities = shape.columns.iter().filter(|c| c.inherited && c.origin.is_identity()).map(|c| {
        Finding::new(
            format!("column {} is inherited, and an identity column", plain_ident(&c.name)),
            "This version does not carry both: ALTER TABLE … ALTER COLUMN … DROP IDENTITY.",
        )
    });
    checks.chain(identities).collect()
}

/// ATTACH PARTITION takes for each index of the parent the first one that does, and builds it where there is none.
fn indexes(shape: &Shape, partition: &Partition) -> Vec<Finding> {
    let mut found = Vec::new();
    for above in &partition.indexes {
        let own = above.own.as_ref().and_then(|name| shape.indexes.iter().find(|i| i.name == *name));
        if own.is_none() {
            found.push(Finding::new(
                format!("index {} of {} has no valid index of the partition", plain_ident(&above.name), partition.parent.name.plain()),
                "It would be built under the lock: CREATE INDEX CONCURRENTLY on the partition, then ALTER INDEX … ATTACH PARTITION.",
            ));
        }
    }
    found.extend(partition.twins(shape).into_iter().map(|twins| Finding::new(twins.what(), TWIN_HINT)));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_default_partition_is_no_obstacle() {
        let name = crate::pg::QualifiedName::new("public", "d");
        let default = Relative { oid: 1, name, kind: 'r', temporary: false, owned: true };
        assert_eq!(default_partition(&default, MOST_DEFAULT_BYTES), None);
        let found = default_partition(&default, MOST_DEFAULT_BYTES + 1).map(|f| f.what);
        assert!(found.is_some_and(|what| what.contains("public.d")), "it is named");
    }
}
