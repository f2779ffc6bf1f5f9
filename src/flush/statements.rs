//! The SQL of a flush. Pure.
//!
//! Keys arrive as one text array for each key column and are cast to the column's type: the text is the server's own
//! output under the same pinned settings.

use crate::pg::Ident;
use crate::plan::key::conflict_target;
use crate::plan::types::{Names, Plan};

/// The statements of one migration's flushes; `$1 …` are text arrays of equal length, one for each key column.
#[derive(Debug, Clone)]
pub struct Statements {
    /// Removes from the shadow the keys that the source no longer has.
    pub delete_gone: String,
    /// Removes the keys from the shadow, whether the source has them or not.
    pub delete_all: String,
    /// Writes the rows of the keys that the source has.
    pub upsert: String,
    /// How rows that meet a neighbour are left out in one statement; `None` where the target has a deferrable
    /// constraint, which ON CONFLICT cannot look at (INSERT, PostgreSQL manual).
    pub around: Option<Around>,
}

/// Writes what fits, and tells what does not.
#[derive(Debug, Clone)]
pub struct Around {
    /// Writes the rows that meet no other, of keys that the shadow does not have.
    pub insert: String,
    /// Positions, from 1, of the keys that the source has and the shadow has not.
    pub left_out: String,
}

impl Statements {
    /// For a plan.
    pub fn new(plan: &Plan, names: &Names) -> Self {
        let shadow = names.shadow();
        let keys = typed_keys(plan);
        let alias = plan.alias();
        let projected = plan
            .key
            .columns
            .iter()
            .enumerate()
            .map(|(i, k)| format!("{} AS p{i}", k.expression))
            .collect::<Vec<_>>()
            .join(", ");
        let in_shadow = plan
            .key
            .columns
            .iter()
            .enumerate()
            .map(|(i, k)| format!("shadow.{} {} gone.p{i}", Ident(&k.target), k.target_equal))
            .collect::<Vec<_>>()
            .join(" AND ");
        let in_source = |left: &str, right: &str| {
            plan.key
                .columns
                .iter()
                .map(|k| format!("{left}.{0} {1} {right}.{0}", Ident(&k.source), k.source_equal))
                .collect::<Vec<_>>()
                .join(" AND ")
        };
        let source = &plan.source.name;
        let delete = |filter: &str| {
            format!(
                "DELETE FROM {shadow} AS shadow USING (SELECT {projected} FROM ({keys}) AS {alias}{filter}) AS gone WHERE {in_shadow}"
            )
        };
        let still_there = format!(
            " WHERE NOT EXISTS (SELECT 1 FROM ONLY {source} AS pgrecast_src WHERE {})",
            in_source("pgrecast_src", &alias)
        );
        let written = plan.written();
        let columns = written.iter().map(|(n, _)| Ident(n).to_string()).collect::<Vec<_>>().join(", ");
        let values = written.iter().map(|(_, e)| e.clone()).collect::<Vec<_>>().join(", ");
        let set = plan
            .columns
            .iter()
            .filter(|c| c.is_derived())
            .map(|c| format!("{0} = EXCLUDED.{0}", Ident(&c.name)))
            .collect::<Vec<_>>()
            .join(", ");
        let insert = format!(
            "INSERT INTO {shadow} AS shadow ({columns}){} SELECT {values} FROM (SELECT pgrecast_src.* FROM ({keys}) AS changed \
             JOIN ONLY {source} AS pgrecast_src ON {}) AS {alias} ON CONFLICT",
            plan.overriding(),
            in_source("pgrecast_src", "changed"),
        );
        let around = plan.target.indexes.iter().all(|i| i.immediate).then(|| Around {
            insert: format!("{insert} DO NOTHING"),
            left_out: format!(
                "SELECT gone.position FROM (SELECT {projected}, {alias}.{POSITION} AS position FROM ({}) AS {alias} \
                 WHERE EXISTS (SELECT 1 FROM ONLY {source} AS pgrecast_src WHERE {})) AS gone \
                 WHERE NOT EXISTS (SELECT 1 FROM {shadow} AS shadow WHERE {in_shadow})",
                placed_keys(plan),
                in_source("pgrecast_src", &alias),
            ),
        });
        let upsert = format!("{insert} ({}) DO UPDATE SET {set}", conflict_target(&plan.key));
        Statements { delete_gone: delete(&still_there), delete_all: delete(""), upsert, around }
    }
}

/// The changed keys as rows of the source's key columns, each once: two texts can spell equal values.
fn typed_keys(plan: &Plan) -> String {
    let (arrays, names, typed) = key_lists(plan);
    format!("SELECT DISTINCT {typed} FROM unnest({arrays}) AS keys({names})")
}

/// The changed keys as rows of the source's key columns, each with its place in the arrays.
fn placed_keys(plan: &Plan) -> String {
    let (arrays, names, typed) = key_lists(plan);
    format!("SELECT {typed}, {POSITION} FROM unnest({arrays}) WITH ORDINALITY AS keys({names}, {POSITION})")
}

/// The name of a key's place; no source column has it, as it is ours.
const POSITION: &str = "pgrecast_position";

/// The arrays, the names of their elements, and the elements as the source's key columns.
fn key_lists(plan: &Plan) -> (String, String, String) {
    let columns = &plan.key.columns;
    let arrays = (1..=columns.len()).map(|n| format!("${n}::text[]")).collect::<Vec<_>>().join(", ");
    let names = (1..=columns.len()).map(|n| format!("k{n}")).collect::<Vec<_>>().join(", ");
    let typed = columns
        .iter()
        .enumerate()
        .map(|(i, k)| format!("k{}::{} AS {}", i + 1, k.source_type, Ident(&k.source)))
        .collect::<Vec<_>>()
        .join(", ");
    (arrays, names, typed)
}
