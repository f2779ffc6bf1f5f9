//! What a materialized view has besides its query, read from the catalog.

use serde::Deserialize;

use super::{Statistics, read};
use crate::error::Failure;
use crate::pg::Conn;
use crate::plan::read::{json, shape};
use crate::plan::shape::Shape;

/// The table behind a materialized view.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// What the catalog says of its rows.
    pub rows: Rows,
    /// Columns, options and indexes, as those of a table.
    pub shape: Shape,
    /// Extended statistics over it.
    pub statistics: Vec<Statistics>,
}

/// Its rows.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Rows {
    /// Whether it has been filled.
    pub populated: bool,
    /// Another one after each REFRESH, CONCURRENTLY or not: both write its row of `pg_class`.
    pub stamp: String,
    /// Row level security may show its owner other rows than this role, where they are not the same.
    pub guarded: bool,
}

/// Reads it.
pub(super) async fn read(conn: &Conn, oid: u32) -> Result<Stored, Failure> {
    let rows = json(conn, "read materialized view", &ROWS.replace("$1", &oid.to_string())).await?;
    let shape = shape(conn, oid).await?;
    let statistics = read::statistics(conn, oid).await?;
    Ok(Stored { rows, shape, statistics })
}

const ROWS: &str = "
WITH RECURSIVE below AS (
    SELECT $1::oid AS oid
    UNION
    SELECT d.refobjid FROM below b JOIN pg_catalog.pg_rewrite w ON w.ev_class = b.oid AND w.rulename = '_RETURN'
    JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = w.oid
      AND d.refclassid = 'pg_catalog.pg_class'::regclass)
SELECT json_build_object(
    'populated', (SELECT c.relispopulated FROM pg_catalog.pg_class c WHERE c.oid = $1),
    'stamp', (SELECT c.xmin::text FROM pg_catalog.pg_class c WHERE c.oid = $1),
    'guarded', (SELECT bool_or(c.relkind IN ('v', 'm') AND r.rolname <> current_user) AND bool_or(c.relrowsecurity)
        FROM below b JOIN pg_catalog.pg_class c ON c.oid = b.oid JOIN pg_catalog.pg_roles r ON r.oid = c.relowner))";
