//! The SQL of the verification. Pure.
//!
//! Names made here begin with `#`, so that no column of the user's expressions can mean one of them.

use super::hash;
use crate::error::Failure;
use crate::pg::{Ident, QualifiedName};
use crate::plan::types::{Names, Plan, Value};

/// One of the two tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The user's table, seen through the projection.
    Source,
    /// The shadow, as it is.
    Shadow,
}

/// Blocks of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    /// The first.
    pub first: u32,
    /// One past the last; `None` for whatever there is, rows that moved to new blocks meanwhile included.
    pub end: Option<u32>,
}

/// What a statement reads: blocks of one of the tables that hold a side's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The side.
    pub side: Side,
    /// Which of its tables: there is one for each leaf of the source.
    pub leaf: usize,
    /// Its blocks.
    pub blocks: Blocks,
}

/// Which bits of the key hash number the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buckets {
    /// Bits of a bucket's number.
    pub bits: u32,
    /// How many times `bits` bits are left out first: every level divides the rows anew.
    pub level: u32,
}

/// The statements of one migration's verification.
///
/// Where a statement is for rows of certain buckets only, its parameters are one bitmap (`bytea`) for each level.
#[derive(Debug, Clone)]
pub struct Statements {
    source: Half,
    shadow: Half,
    /// Names of the target columns that are compared, in the order of the flags of [`Statements::compare`].
    pub columns: Vec<String>,
    /// Compares source keys (one `text[]` for each key column): position from 1, whether the source has it, whether
    /// the shadow has it, and for each compared column whether it differs. A key that the shadow holds twice has two
    /// rows.
    pub compare: String,
    /// Turns target keys (one `text[]` for each key column) back into source keys without looking at a table:
    /// position, source key columns as text. A target key for which it does not work has no row; a value that the
    /// source's type cannot read is an error of class 22.
    pub invert: String,
    /// Looks for target keys (one `text[]` for each key column) that the shadow has: position, and the key columns as
    /// text of the source row that makes this key, NULL where there is none. Reads the whole source.
    pub search: String,
}

/// What stands for a row of one side.
#[derive(Debug, Clone)]
struct Half {
    /// Each table that holds its rows.
    from: Vec<String>,
    ctid: String,
    key_hash: String,
    digest: String,
    key_texts: String,
}

/// A target column that is compared: its value on both sides, of one type.
struct Compared {
    name: String,
    source: String,
    shadow: String,
    type_oid: u32,
    type_sql: String,
}

impl Statements {
    /// For a plan, its shadow, and the shadow's tables that hold rows, in the order of the plan's leaves.
    ///
    /// # Errors
    /// Where the plan contradicts itself: a column it fills is not in the target's shape.
    pub fn new(plan: &Plan, shadow: &QualifiedName, shadow_leaves: &[QualifiedName]) -> Result<Self, Failure> {
        let columns = compared(plan)?;
        let keys = key_columns(plan)?;
        let is_key = |c: &&Compared| plan.key.columns.iter().any(|k| k.target == c.name);
        let others: Vec<&Compared> = columns.iter().filter(|c| !is_key(c)).collect();
        let half = |from: Vec<String>, ctid: String, value: fn(&Compared) -> &str, key_texts: String| {
            let hash = |(n, c): (usize, &Compared)| hash::value(value(c), c.type_oid, n);
            let key_hash = hash::combine(&keys.iter().enumerate().map(hash).collect::<Vec<_>>(), 0);
            let mut inputs = vec![key_hash.clone()];
            inputs.extend(others.iter().enumerate().map(|(n, c)| hash((keys.len() + n, *c))));
            Half { from, ctid, digest: hash::combine(&inputs, 1), key_hash, key_texts }
        };
        let alias = plan.alias();
        let source_texts = list(&plan.key.columns, |_, k| output(&format!("{alias}.{}", Ident(&k.source))));
        let shadow_texts = list(&plan.key.columns, |_, k| output(&format!("\"#shadow\".{}", Ident(&k.target))));
        let leaves = plan.leaves(&Names::new(0)).into_iter().map(|leaf| plan.leaf_from(leaf.source)).collect();
        let source = half(leaves, format!("{alias}.ctid"), |c| c.source.as_str(), source_texts);
        let shadow_half = half(
            shadow_leaves.iter().map(|leaf| format!("ONLY {leaf} AS \"#shadow\"")).collect(),
            "\"#shadow\".ctid".to_owned(),
            |c| c.shadow.as_str(),
            shadow_texts,
        );
        Ok(Statements {
            source,
            shadow: shadow_half,
            compare: compare(plan, shadow, &columns),
            invert: invert(plan, &keys),
            search: search(plan, shadow, &keys),
            columns: columns.into_iter().map(|c| c.name).collect(),
        })
    }

    fn half(&self, side: Side) -> &Half {
        match side {
            Side::Source => &self.source,
            Side::Shadow => &self.shadow,
        }
    }

    /// One row a bucket that has rows in these blocks: its number (`int4`), its rows (`int8`) and the exclusive or of
    /// their digests (`int8`). Only rows of the buckets that the bitmaps of the levels above hold.
    pub fn digest(&self, part: Part, buckets: Buckets) -> String {
        let half = self.half(part.side);
        // OFFSET 0 keeps the subquery apart: the planner then expects few groups and hashes them, where it would
        // otherwise expect one group a row, and sort.
        format!(
            "SELECT \"#bucket\", pg_catalog.count(*), pg_catalog.bit_xor(\"#digest\") FROM (SELECT {} AS \"#bucket\", \
             {} AS \"#digest\" FROM {} WHERE {}{} OFFSET 0) AS \"#rows\" GROUP BY \"#bucket\"",
            half.bucket(buckets),
            half.digest,
            half.from(part.leaf),
            half.range(part.blocks),
            half.in_buckets(buckets.bits, buckets.level),
        )
    }

    /// Key hash (`int8`), row digest (`int8`) and, of the source, the key columns as text, of the rows in these blocks
    /// whose buckets the bitmaps of `levels` levels hold.
    pub fn pairs(&self, part: Part, bits: u32, levels: u32) -> String {
        let half = self.half(part.side);
        let keys = match part.side {
            Side::Source => format!(", {}", half.key_texts),
            Side::Shadow => String::new(),
        };
        format!(
            "SELECT {}, {}{keys} FROM {} WHERE {}{}",
            half.key_hash,
            half.digest,
            half.from(part.leaf),
            half.range(part.blocks),
            half.in_buckets(bits, levels),
        )
    }

    /// Key columns as text of the shadow's rows in these blocks whose key hashes are in `$1` (`int8[]`).
    pub fn keys(&self, part: Part) -> String {
        let half = &self.shadow;
        format!(
            "SELECT {} FROM {} WHERE {} AND {} = ANY ($1::int8[])",
            half.key_texts,
            half.from(part.leaf),
            half.range(part.blocks),
            half.key_hash
        )
    }
}

impl Half {
    fn from(&self, leaf: usize) -> &str {
        self.from.get(leaf).map_or("", String::as_str)
    }

    fn range(&self, blocks: Blocks) -> String {
        let first = format!("{} >= '({},0)'::tid", self.ctid, blocks.first);
        match blocks.end {
            Some(end) => format!("{first} AND {} < '({end},0)'::tid", self.ctid),
            None => first,
        }
    }

    fn bucket(&self, Buckets { bits, level }: Buckets) -> String {
        format!("(({} >> {}) & {})::int4", self.key_hash, bits * level, (1u64 << bits) - 1)
    }

    fn in_buckets(&self, bits: u32, levels: u32) -> String {
        (0..levels)
            .map(|level| {
                let bucket = self.bucket(Buckets { bits, level });
                format!(" AND pg_catalog.get_bit(${}::bytea, {bucket}) = 1", level + 1)
            })
            .collect()
    }
}

fn compared(plan: &Plan) -> Result<Vec<Compared>, Failure> {
    plan.columns
        .iter()
        .filter(|c| c.is_derived())
        .filter_map(|c| c.expression().map(|e| (c, e)))
        .map(|(c, expression)| {
            let target = plan.target.column(&c.name).ok_or_else(|| absent(&c.name))?;
            let original = c.source.as_ref().and_then(|s| plan.source.column(s));
            let same_type = matches!(c.value, Value::Copied)
                && original.is_some_and(|o| o.type_oid == target.type_oid && o.type_sql == target.type_sql);
            Ok(Compared {
                name: c.name.clone(),
                source: if same_type { expression } else { cast(&expression, &target.type_sql) },
                shadow: Ident(&c.name).to_string(),
                type_oid: target.type_oid,
                type_sql: target.type_sql.clone(),
            })
        })
        .collect()
}

/// The key's columns, whether the plan lists them among those that are compared or not.
fn key_columns(plan: &Plan) -> Result<Vec<Compared>, Failure> {
    plan.key
        .columns
        .iter()
        .map(|k| {
            let target = plan.target.column(&k.target).ok_or_else(|| absent(&k.target))?;
            Ok(Compared {
                name: k.target.clone(),
                source: cast(&k.expression, &target.type_sql),
                shadow: Ident(&k.target).to_string(),
                type_oid: target.type_oid,
                type_sql: target.type_sql.clone(),
            })
        })
        .collect()
}

fn absent(column: &str) -> Failure {
    Failure::failed(format!("the plan's target has no column {}", Ident(column)))
}

fn cast(expression: &str, type_sql: &str) -> String {
    format!("CAST({expression} AS {type_sql})")
}

/// What the type's output function says, as the change stream does: a cast to text differs for `boolean`, `inet` and
/// `character(n)`.
fn output(value: &str) -> String {
    format!("pg_catalog.concat({value})")
}

fn text(value: &str) -> String {
    format!("({value})::text COLLATE \"C\"")
}

fn list<T>(of: &[T], write: impl Fn(usize, &T) -> String) -> String {
    of.iter().enumerate().map(|(i, item)| write(i, item)).collect::<Vec<_>>().join(", ")
}

fn all<T>(of: &[T], write: impl Fn(usize, &T) -> String) -> String {
    of.iter().enumerate().map(|(i, item)| write(i, item)).collect::<Vec<_>>().join(" AND ")
}

/// `unnest` of one text array a key column: columns `#0` … and the position `#`.
fn given<T>(columns: &[T]) -> String {
    format!(
        "unnest({}) WITH ORDINALITY AS \"#given\"({}, \"#\")",
        list(columns, |i, _| format!("${}::text[]", i + 1)),
        list(columns, |i, _| format!("\"#{i}\"")),
    )
}

fn compare(plan: &Plan, shadow: &QualifiedName, columns: &[Compared]) -> String {
    let keys = &plan.key.columns;
    let alias = plan.alias();
    let typed = list(keys, |i, k| format!("\"#{i}\"::{} AS {}", k.source_type, Ident(&k.source)));
    let own = list(keys, |i, k| format!("{alias}.{} AS \"#s{i}\"", Ident(&k.source)));
    let projected = list(keys, |i, k| format!("{} AS \"#t{i}\"", k.expression));
    let in_source = all(keys, |i, k| format!("{alias}.{} {} \"#wanted\".\"#s{i}\"", Ident(&k.source), k.source_equal));
    let in_shadow =
        all(keys, |i, k| format!("\"#shadow\".{} {} \"#wanted\".\"#t{i}\"", Ident(&k.target), k.target_equal));
    format!(
        "SELECT \"#wanted\".\"#\", \"#s\".\"#found\" IS TRUE, \"#t\".\"#found\" IS TRUE, ARRAY[{differs}] \
         FROM (SELECT \"#\", {own}, {projected} FROM (SELECT \"#\", {typed} FROM {given}) AS {alias}) AS \"#wanted\" \
         LEFT JOIN LATERAL (SELECT true AS \"#found\", {source_values} FROM {from} WHERE {in_source}) AS \"#s\" ON true \
         LEFT JOIN LATERAL (SELECT true AS \"#found\", {shadow_values} FROM {shadow} AS \"#shadow\" WHERE {in_shadow}) \
         AS \"#t\" ON true",
        differs = list(columns, |i, _| format!("\"#s\".\"#{i}\" IS DISTINCT FROM \"#t\".\"#{i}\"")),
        given = given(keys),
        source_values = list(columns, |i, c| format!("{} AS \"#{i}\"", text(&c.source))),
        from = plan.source_from(),
        shadow_values = list(columns, |i, c| format!("{} AS \"#{i}\"", text(&c.shadow))),
    )
}

fn invert(plan: &Plan, targets: &[Compared]) -> String {
    let keys = &plan.key.columns;
    let typed = list(keys, |i, k| format!("\"#{i}\"::{} AS {}", k.source_type, Ident(&k.source)));
    let same = all(targets, |i, t| format!("{} COLLATE \"C\" = \"#{i}\"", output(&t.source)));
    format!(
        "SELECT \"#\", {} FROM (SELECT \"#\", {typed}, {} FROM {}) AS {} WHERE {same}",
        list(keys, |_, k| output(&Ident(&k.source).to_string())),
        list(keys, |i, _| format!("\"#{i}\"")),
        given(keys),
        plan.alias(),
    )
}

fn search(plan: &Plan, shadow: &QualifiedName, targets: &[Compared]) -> String {
    let keys = &plan.key.columns;
    let alias = plan.alias();
    let in_shadow =
        all(keys, |i, k| format!("\"#shadow\".{} {} \"#wanted\".\"#{i}\"", Ident(&k.target), k.target_equal));
    let makes_it = all(keys, |i, k| format!("{} {} \"#wanted\".\"#{i}\"", targets[i].source, k.target_equal));
    format!(
        "SELECT \"#wanted\".\"#\", {} FROM (SELECT \"#\", {} FROM {}) AS \"#wanted\" LEFT JOIN {} ON {makes_it} \
         WHERE EXISTS (SELECT 1 FROM {shadow} AS \"#shadow\" WHERE {in_shadow})",
        list(keys, |_, k| format!(
            "CASE WHEN {alias}.ctid IS NOT NULL THEN {} END",
            output(&format!("{alias}.{}", Ident(&k.source)))
        )),
        list(targets, |i, t| format!("\"#{i}\"::{} AS \"#{i}\"", t.type_sql)),
        given(keys),
        plan.source_from(),
    )
}
