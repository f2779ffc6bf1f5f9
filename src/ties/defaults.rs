//! Column defaults of other tables that name the table or its row type: set again with the same text. Pure.

use serde::Deserialize;

use super::text::renamed;
use crate::error::Failure;
use crate::pg::sql::plain_ident;
use crate::pg::{Ident, QualifiedName};

/// A default of a column of another table.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct OtherDefault {
    /// That table's oid.
    pub oid: u32,
    /// That table.
    pub table: QualifiedName,
    /// Whether this role may alter it.
    pub owned: bool,
    /// The column.
    pub column: String,
    /// Its type, as SQL.
    pub type_sql: String,
    /// The default.
    pub expression: String,
}

impl OtherDefault {
    /// As messages show it.
    pub fn what(&self) -> String {
        format!("default of column {} of {}", plain_ident(&self.column), self.table.plain())
    }

    /// The same default, with its text read anew.
    pub(super) fn set(&self) -> String {
        format!("ALTER TABLE ONLY {} ALTER COLUMN {} SET DEFAULT {}", self.table, Ident(&self.column), self.expression)
    }

    /// The default on a temporary table, over `model` instead of the source.
    pub(super) fn trial(&self, source: &QualifiedName, model: &QualifiedName) -> Result<Vec<String>, Failure> {
        let expression = renamed(&self.expression, source, model)?;
        Ok(vec![format!("CREATE TEMPORARY TABLE pgrecast_default (c {} DEFAULT {expression})", self.type_sql)])
    }
}

/// Those of tables and partitioned tables; whatever else has one is refused, as are generated columns.
pub(super) const QUERY: &str = "
SELECT coalesce(json_agg(json_build_object('oid', c.oid::int8,
    'table', json_build_object('schema', n.nspname, 'name', c.relname), 'owned', pg_catalog.pg_has_role(c.relowner, 'USAGE'),
    'column', a.attname, 'type_sql', pg_catalog.format_type(a.atttypid, a.atttypmod),
    'expression', pg_catalog.pg_get_expr(f.adbin, f.adrelid)) ORDER BY n.nspname, c.relname, a.attnum), '[]')
FROM pg_catalog.pg_attrdef f JOIN pg_catalog.pg_class c ON c.oid = f.adrelid AND c.relkind IN ('r', 'p') AND c.oid <> $1
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum AND a.attgenerated = ''
WHERE EXISTS (SELECT 1 FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class me ON me.oid = $1
    LEFT JOIN pg_catalog.pg_type y ON y.oid = me.reltype
    WHERE d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.objid = f.oid
      AND (d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = me.oid
        OR d.refclassid = 'pg_catalog.pg_type'::regclass AND d.refobjid IN (y.oid, y.typarray)))";
