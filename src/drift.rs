//! Is the source still the table that was planned? (Rule 11.)

use crate::error::Failure;
use crate::pg::{Conn, Error};
use crate::plan::shape::Shape;

/// What a transaction compares before it relies on the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// `pg_relation_filenode`: changes with TRUNCATE, VACUUM FULL, CLUSTER and a rewriting ALTER TABLE.
    pub filenode: u32,
    /// Oid, and name, type and nullability of every column.
    pub columns: String,
}

/// SQL whose one row is the fingerprint of the table of that name: (filenode, columns).
pub fn sql(source: &Shape) -> String {
    format!(
        "SELECT coalesce(pg_catalog.pg_relation_filenode(c.oid), 0)::text, c.oid || ';' || (SELECT string_agg(concat_ws(' ', a.attnum, a.attname, a.atttypid, \
         a.atttypmod, a.attcollation, a.attnotnull), ',' ORDER BY a.attnum) FROM pg_catalog.pg_attribute a \
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) \
         FROM pg_catalog.pg_class c WHERE c.oid = '{}'::regclass",
        source.name.to_string().replace('\'', "''")
    )
}

/// Reads the fingerprint.
///
/// # Errors
/// `undefined_table` where the source is gone.
pub async fn read(conn: &Conn, source: &Shape) -> Result<Fingerprint, Error> {
    let rows = conn.simple("check source", &sql(source)).await?;
    let row = rows.into_iter().next().unwrap_or_default();
    let text = |i: usize| row.get(i).cloned().flatten().unwrap_or_default();
    Ok(Fingerprint { filenode: text(0).parse().unwrap_or(0), columns: text(1) })
}

/// The error for a source whose columns are no longer those of the plan.
pub fn changed(source: &Shape) -> Failure {
    Failure::failed(format!("table {} was changed by somebody else during the migration", source.name.plain()))
        .detail("Its columns, or the table behind the name, are not those the plan was made for.")
        .hint("Run pgrecast abort, then start the migration again.")
}

/// The error for a source that was rewritten while it was copied.
pub fn rewritten(source: &Shape) -> Failure {
    Failure::failed(format!("table {} was rewritten by somebody else while it was copied", source.name.plain()))
        .detail(
            "Its file is another one, as after VACUUM FULL or CLUSTER, so the block ranges copied so far mean nothing.",
        )
        .hint("Run pgrecast abort, then start the migration again.")
}
