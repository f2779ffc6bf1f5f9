//! The columns that hold a key: its own, those that refer to it by a foreign key, those that refer to these, and so on.

use serde::Deserialize;

use super::read;
use crate::error::Failure;
use crate::pg::{Conn, Literal, QualifiedName};

/// A table with columns that hold the key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Holding {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Its name.
    pub name: QualifiedName,
    /// Whether it is a partition.
    pub is_partition: bool,
    /// The columns, in the table's order.
    pub columns: Vec<String>,
}

/// The tables that hold what these columns hold, each given as oid and name: those of the first of them first.
///
/// Of a partitioned table that refers, the partitions have shares of its foreign key, which count with it.
pub async fn tables(conn: &Conn, columns: &[(u32, String)]) -> Result<Vec<Holding>, Failure> {
    let first = columns.first().map_or(0, |(oid, _)| *oid);
    let given: Vec<String> = columns.iter().map(|(oid, name)| format!("({oid}::oid, {})", Literal(name))).collect();
    let sql = TABLES.replace("$given", &given.join(", ")).replace("$first", &first.to_string());
    read::json(conn, "find columns that hold the key", &sql).await
}

const TABLES: &str = "
WITH RECURSIVE held AS (
    SELECT a.attrelid, a.attnum FROM (VALUES $given) AS given (relation, name)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = given.relation AND a.attname = given.name AND a.attnum > 0 AND NOT a.attisdropped
    UNION
    SELECT k.conrelid, x.own FROM held h
    JOIN pg_catalog.pg_constraint k ON k.contype = 'f' AND k.conparentid = 0 AND k.confrelid = h.attrelid
    CROSS JOIN LATERAL unnest(k.conkey, k.confkey) AS x (own, referred) WHERE x.referred = h.attnum)
SELECT coalesce(json_agg(t ORDER BY t.oid <> $first, t.name ->> 'schema', t.name ->> 'name'), '[]') FROM (
    SELECT c.oid::int8, jsonb_build_object('schema', n.nspname, 'name', c.relname) AS name,
        c.relispartition AS is_partition, json_agg(a.attname ORDER BY a.attnum) AS columns
    FROM held h JOIN pg_catalog.pg_class c ON c.oid = h.attrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute a ON a.attrelid = h.attrelid AND a.attnum = h.attnum
    GROUP BY c.oid, n.nspname, c.relname, c.relispartition) AS t";
