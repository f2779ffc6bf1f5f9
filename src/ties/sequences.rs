//! Sequences that belong to a column. The swap carries the one a column's value comes from; what else there is, and who
//! uses those that go. Pure.

use serde::Deserialize;

use crate::pg::sql::plain_ident;
use crate::pg::{Ident, QualifiedName};
use crate::plan::types::Plan;
use crate::preflight::Finding;

/// A sequence of a column of the table.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct OwnedSequence {
    /// Its name.
    pub name: QualifiedName,
    /// The column.
    pub column: String,
    /// Whether it makes the column an identity column: the new table has one of its own.
    pub identity: bool,
    /// What uses it besides the table's own defaults.
    pub users: Vec<User>,
}

/// Who uses it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct User {
    /// The relation whose default or query does.
    pub relation: Option<u32>,
    /// What it is called in messages.
    pub what: String,
}

/// Whoever uses a sequence that goes would go on using the old one, which ends with the old table.
pub(super) fn judge(plan: &Plan, sequences: &[OwnedSequence]) -> Vec<Finding> {
    let becomes_identity = |s: &OwnedSequence| {
        let column = plan.source.column(&s.column);
        column.is_some_and(|c| c.sequence.as_ref().is_some_and(|own| own.name == s.name) && plan.leaves_sequence(c))
    };
    let mut found = Vec::new();
    for sequence in sequences {
        let column = plain_ident(&sequence.column);
        let why = match (sequence.identity, plan.name_after(&sequence.column)) {
            (true, _) => format!("of identity column {column}, which gets a new one"),
            (false, None) => format!("of column {column}, which the change drops"),
            (false, Some(_)) if becomes_identity(sequence) => {
                format!("of column {column}, which gets a new one as an identity column")
            }
            (false, Some(_)) => continue,
        };
        found.extend(sequence.users.iter().map(|user| {
            Finding::new(
                format!("{} uses sequence {} {why}", user.what, sequence.name.plain()),
                "Drop or change it first, or let it use a sequence that belongs to no column.",
            )
        }));
    }
    found
}

/// Further sequences of columns that stay: they belong to the new table's columns.
pub(super) fn carry(plan: &Plan, sequences: &[OwnedSequence]) -> Vec<String> {
    let of_plan =
        |s: &OwnedSequence| plan.source.columns.iter().filter_map(|c| c.sequence.as_ref()).any(|p| p.name == s.name);
    let further = sequences.iter().filter(|s| !s.identity && !of_plan(s));
    let owned = further.filter_map(|s| Some((s, plan.name_after(&s.column)?)));
    owned
        .map(|(s, column)| format!("ALTER SEQUENCE {} OWNED BY {}.{}", s.name, plan.target.name, Ident(column)))
        .collect()
}

pub(super) const QUERY: &str = "
SELECT coalesce(json_agg(json_build_object(
    'name', json_build_object('schema', n.nspname, 'name', s.relname), 'column', a.attname, 'identity', o.deptype = 'i',
    'users', (SELECT coalesce(jsonb_agg(DISTINCT jsonb_build_object(
            'relation', coalesce(f.adrelid, w.ev_class)::int8,
            -- A view is tied by its rule, which has a name that nobody gave it.
            'what', CASE WHEN w.oid IS NOT NULL THEN pg_catalog.pg_describe_object('pg_catalog.pg_class'::regclass, w.ev_class, 0)
                ELSE pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid) END)), '[]')
        FROM pg_catalog.pg_depend d LEFT JOIN pg_catalog.pg_attrdef f
            ON d.classid = 'pg_catalog.pg_attrdef'::regclass AND f.oid = d.objid
        LEFT JOIN pg_catalog.pg_rewrite w
            ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND w.oid = d.objid AND w.rulename = '_RETURN'
        WHERE d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = s.oid AND d.deptype = 'n'
          AND f.adrelid IS DISTINCT FROM $1)) ORDER BY n.nspname, s.relname), '[]')
FROM pg_catalog.pg_depend o JOIN pg_catalog.pg_class s ON s.oid = o.objid AND s.relkind = 'S'
JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = o.refobjid AND a.attnum = o.refobjsubid
WHERE o.classid = 'pg_catalog.pg_class'::regclass AND o.refclassid = 'pg_catalog.pg_class'::regclass AND o.refobjid = $1
  AND o.deptype IN ('a', 'i')";
