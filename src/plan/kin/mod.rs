//! A table's kin: the type it is of, the partitioned table it is a partition of, the tables it inherits from, and those
//! that inherit from it.

pub mod ddl;

use serde::{Deserialize, Serialize};

use super::read;
use super::shape::{Index, Shape};
use crate::error::Failure;
use crate::pg::sql::plain_ident;
use crate::pg::{Conn, QualifiedName};

/// Everything a table is related to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Kin {
    /// The type of a typed table (`OF type`).
    pub of_type: Option<QualifiedName>,
    /// What makes it a partition.
    pub partition: Option<Partition>,
    /// Tables it inherits from, in order.
    pub parents: Vec<Relative>,
    /// Tables that inherit from it, in the order in which the server locks them.
    pub children: Vec<Relative>,
}

/// Another table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Relative {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Its name.
    pub name: QualifiedName,
    /// `pg_class.relkind`.
    pub kind: char,
    /// Whether it is a temporary table, of whatever session.
    pub temporary: bool,
    /// Whether this role may alter it.
    pub owned: bool,
}

/// A place in a partitioned table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Partition {
    /// The partitioned table right above.
    pub parent: Relative,
    /// Its `PARTITION BY`.
    pub key: String,
    /// `FOR VALUES …` or `DEFAULT`.
    pub bound: String,
    /// What every row must pass to be in here, all levels above included; `None` for a default partition without
    /// neighbours.
    pub constraint: Option<String>,
    /// The parent's default partition, where that is another one.
    pub default: Option<Relative>,
    /// `DETACH PARTITION … CONCURRENTLY` has begun.
    pub detaching: bool,
    /// The parent's indexes.
    pub indexes: Vec<ParentIndex>,
}

/// An index of the partitioned table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ParentIndex {
    /// Its name.
    pub name: String,
    /// The partition's valid index that is attached to it.
    pub own: Option<String>,
}

impl Kin {
    /// Reads them, under an empty search path.
    pub async fn read(conn: &Conn, oid: u32) -> Result<Kin, Failure> {
        let oid = oid.to_string();
        read::json(conn, "read kin", &KIN.replace("$relative", RELATIVE).replace("$1", &oid)).await
    }

    /// Whether the rows of other tables are seen through this one.
    pub fn is_parent(&self) -> bool {
        !self.children.is_empty()
    }

    /// The same but for the children, whose coming and going changes nothing in the table itself.
    pub fn without_children(&self) -> Kin {
        Kin { children: Vec::new(), ..self.clone() }
    }
}

/// Two indexes of a partition of which ATTACH PARTITION could take either for one of the parent's.
#[derive(Debug, Clone, PartialEq)]
pub struct Twins {
    own: String,
    other: String,
    above: String,
}

/// What helps against [`Twins`].
pub const TWIN_HINT: &str = "Drop the other one; create it again afterwards if it is of use.";

impl Twins {
    /// In words.
    pub fn what(&self) -> String {
        let [own, other, above] = [&self.own, &self.other, &self.above].map(|name| plain_ident(name));
        format!("indexes {own} and {other} of the partition are alike, and either could be attached to index {above}")
    }
}

impl Partition {
    /// ATTACH PARTITION takes for each index of the parent the first one that does. `shape` is the partition's, before
    /// or after the change.
    pub fn twins(&self, shape: &Shape) -> Vec<Twins> {
        // As far as the server looks at them (`CompareIndexInfo` in `src/backend/catalog/index.c`), and no further.
        let alike = |a: &Index, b: &Index| (a.unique, a.partial, &a.keys) == (b.unique, b.partial, &b.keys);
        let mut found = Vec::new();
        for above in &self.indexes {
            let own = above.own.as_ref().and_then(|name| shape.indexes.iter().find(|i| i.name == *name));
            let other = own.and_then(|own| shape.indexes.iter().find(|i| i.name != own.name && alike(i, own)));
            if let (Some(own), Some(other)) = (own, other) {
                let (own, other, above) = (own.name.clone(), other.name.clone(), above.name.clone());
                found.push(Twins { own, other, above });
            }
        }
        found
    }
}

/// SQL for a [`Relative`] from `r`, a row of `pg_class`, and `rn`, its schema.
const RELATIVE: &str = "json_build_object('oid', r.oid::int8, 'name', json_build_object('schema', rn.nspname, 'name', r.relname), \
    'kind', r.relkind, 'temporary', r.relpersistence = 't', 'owned', pg_catalog.pg_has_role(r.relowner, 'USAGE'))";

const KIN: &str = "
SELECT json_build_object(
    'of_type', (SELECT json_build_object('schema', n.nspname, 'name', t.typname)
        FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE t.oid = c.reloftype),
    'partition', (SELECT json_build_object('parent', $relative, 'key', pg_catalog.pg_get_partkeydef(r.oid),
            'bound', pg_catalog.pg_get_expr(c.relpartbound, c.oid),
            'constraint', pg_catalog.pg_get_partition_constraintdef(c.oid), 'detaching', h.inhdetachpending,
            'default', (SELECT $relative FROM pg_catalog.pg_partitioned_table p JOIN pg_catalog.pg_class r ON r.oid = p.partdefid
                JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace WHERE p.partrelid = h.inhparent AND r.oid <> c.oid),
            'indexes', (SELECT coalesce(json_agg(json_build_object('name', pc.relname, 'own', (
                    SELECT oc.relname FROM pg_catalog.pg_inherits ih JOIN pg_catalog.pg_index oi ON oi.indexrelid = ih.inhrelid
                    JOIN pg_catalog.pg_class oc ON oc.oid = oi.indexrelid
                    WHERE ih.inhparent = pi.indexrelid AND oi.indrelid = c.oid AND oi.indisvalid)) ORDER BY pc.relname), '[]')
                FROM pg_catalog.pg_index pi JOIN pg_catalog.pg_class pc ON pc.oid = pi.indexrelid WHERE pi.indrelid = r.oid))
        FROM pg_catalog.pg_inherits h JOIN pg_catalog.pg_class r ON r.oid = h.inhparent
        JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace WHERE c.relispartition AND h.inhrelid = c.oid),
    'parents', (SELECT coalesce(json_agg($relative ORDER BY h.inhseqno), '[]')
        FROM pg_catalog.pg_inherits h JOIN pg_catalog.pg_class r ON r.oid = h.inhparent
        JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace WHERE NOT c.relispartition AND h.inhrelid = c.oid),
    'children', (SELECT coalesce(json_agg($relative ORDER BY r.oid), '[]')
        FROM pg_catalog.pg_inherits h JOIN pg_catalog.pg_class r ON r.oid = h.inhrelid
        JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace WHERE c.relkind = 'r' AND h.inhparent = c.oid))
FROM pg_catalog.pg_class c WHERE c.oid = $1";
