//! The SQL of the verification. Pure.
//!
//! Names made here begin with `#`, so that no column of the user's expressions can mean one of them.

mod both_ways;
mod keyed;
mod many;
mod rejoined;

pub use both_ways::left_out;
use both_ways::{both_ways, keys_forwards, seen_forwards};
use keyed::{compare, forwards_again, invert, present, search};
use many::Many;
use rejoined::Rejoined;
use serde::{Deserialize, Serialize};

use super::hash;
use crate::error::Failure;
use crate::pg::{Ident, QualifiedName};
use crate::plan::types::{Plan, TargetColumn, Value};

/// One of the two tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    /// Which of its tables.
    pub table: usize,
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
    /// Where sums would not show what differs: see [`Statements::by_key`].
    by_key: Option<ByKey>,
    /// Ways to compare source keys: a row that is the same by one of them is the same.
    pub compare: Vec<Compare>,
    /// Which source keys (one `text[]` for each key column) the source has: their positions.
    pub present: String,
    /// Turns target keys (one `text[]` for each key column) back into source keys without looking at a table:
    /// position, source key columns as text. A target key for which it does not work has no row; a value that the
    /// source's type cannot read is an error of class 22.
    pub invert: String,
    /// Looks for target keys (one `text[]` for each key column) that the shadow has: position, and the key columns as
    /// text of the source row that makes this key, NULL where there is none. Reads the whole source.
    pub search: String,
}

/// Tables that are looked at key by key.
#[derive(Debug, Clone)]
enum ByKey {
    Many(Many),
    Rejoined(Rejoined),
}

/// One way to compare source keys (one `text[]` for each key column): position from 1, whether the source has it,
/// whether the shadow has it, and for each compared column whether it differs. A key that the shadow holds twice has two
/// rows.
#[derive(Debug, Clone)]
pub struct Compare {
    /// Names of the columns that are compared, in the order of the flags.
    pub columns: Vec<String>,
    /// The statement.
    pub sql: String,
}

/// What stands for a row of one side.
#[derive(Debug, Clone)]
struct Half {
    /// Each table that holds its rows.
    from: Vec<String>,
    ctid: String,
    /// ` AND (…)`: which of these rows the other side has.
    rows: String,
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

/// How the shadow is called where its rows stand for themselves.
const SHADOW: &str = "\"#shadow\"";

impl Statements {
    /// For a plan, its shadow, and the shadow's tables that hold rows: the source is seen through the projection, the shadow
    /// as it is.
    ///
    /// # Errors
    /// Where the plan contradicts itself: a column it fills is not in the target's shape.
    pub fn new(plan: &Plan, shadow: &QualifiedName, shadow_leaves: &[QualifiedName]) -> Result<Self, Failure> {
        let columns = compared(plan)?;
        let keys = key_columns(plan)?;
        let leaves = plan.leaves().into_iter().map(|leaf| plan.leaf_from(leaf.shape)).collect();
        let shadow_leaves = shadow_leaves.iter().map(|leaf| format!("ONLY {leaf} AS {SHADOW}")).collect();
        let (source, shadow_half) = halves(plan, leaves, shadow_leaves, SHADOW, &keys, &columns);
        let compare = match plan.is_to_many() {
            false => compare(plan, &format!("{shadow} AS {SHADOW}"), SHADOW, &columns),
            true => many::compare(plan, shadow),
        };
        Ok(Statements {
            by_key: plan.is_to_many().then(|| ByKey::Many(Many::new(plan, shadow, &source, &shadow_half))),
            source,
            shadow: shadow_half,
            compare: vec![compare],
            present: present(plan),
            invert: invert(plan, &keys),
            search: search(plan, shadow, &keys),
        })
    }

    /// For the way back `back` of the migration `forth`, whose shadow is the old table `old`.
    ///
    /// A row that nobody has touched since the swap is what the way forth made of its old one; one that was touched, the
    /// way back has written. What is converted with a loss is not the same both ways, so either will do. The buckets see
    /// the old table through the way forth: a new row may have no old form, and an old one always had its new one.
    ///
    /// # Errors
    /// Exit 3 where the key's old values do not tell its new ones.
    pub fn of_way_back(
        forth: &Plan,
        back: &Plan,
        old: &QualifiedName,
        old_leaves: &[QualifiedName],
    ) -> Result<Self, Failure> {
        if back.rejoin.is_some() {
            return Statements::of_rejoined(back, old);
        }
        let pairs = both_ways(forth, back);
        let forwards =
            pairs.iter().map(|(forth_column, _)| seen_forwards(forth, forth_column)).collect::<Result<Vec<_>, _>>()?;
        let mut backwards = compared(back)?;
        backwards.retain(|c| pairs.iter().any(|(_, back_column)| back_column.name == c.name));
        let keys = keys_forwards(forth, back)?;
        let alias = forth.alias();
        let only = if back.target.is_partitioned() { "" } else { "ONLY " };
        let as_before = format!("{only}{old} AS {alias}");
        let before = old_leaves.iter().map(|leaf| format!("ONLY {leaf} AS {alias}")).collect();
        let leaves = back.leaves().into_iter().map(|leaf| back.leaf_from(leaf.shape)).collect();
        let (source, shadow) = halves(back, leaves, before, &alias, &keys, &forwards);
        Ok(Statements {
            source,
            shadow,
            by_key: None,
            compare: vec![
                compare(back, &as_before, &alias, &forwards),
                compare(back, &format!("{only}{old} AS {SHADOW}"), SHADOW, &backwards),
            ],
            present: present(back),
            invert: forwards_again(back, &alias, &keys),
            search: search(back, old, &key_columns(back)?),
        })
    }

    fn half(&self, side: Side) -> &Half {
        match side {
            Side::Source => &self.source,
            Side::Shadow => &self.shadow,
        }
    }

    /// Whether they are looked at key by key.
    pub fn is_by_key(&self) -> bool {
        self.by_key.is_some()
    }

    /// Of rows in these blocks whose key has not the same rows on both sides: NULL, and the source key's columns as text. Of
    /// one side only those are told that the other has not. A row may say first how many were read (`int8`).
    pub fn by_key(&self, part: Part) -> String {
        let half = self.half(part.side);
        match &self.by_key {
            Some(ByKey::Many(many)) => many.sql(part.side, half, part.blocks),
            Some(ByKey::Rejoined(rejoined)) => rejoined.sql(part, half),
            None => String::new(),
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
            half.from(part.table),
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
            half.from(part.table),
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
            half.from(part.table),
            half.range(part.blocks),
            half.key_hash
        )
    }
}

impl Half {
    fn from(&self, table: usize) -> &str {
        self.from.get(table).map_or("", String::as_str)
    }

    fn range(&self, blocks: Blocks) -> String {
        let (ctid, rows) = (&self.ctid, &self.rows);
        let first = format!("{ctid} >= '({},0)'::tid", blocks.first);
        match blocks.end {
            Some(end) => format!("{first} AND {ctid} < '({end},0)'::tid{rows}"),
            None => format!("{first}{rows}"),
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

/// Both sides, each with what stands for the keys and for the columns that are compared.
fn halves(
    plan: &Plan,
    source_from: Vec<String>,
    shadow_from: Vec<String>,
    shadow: &str,
    keys: &[Compared],
    columns: &[Compared],
) -> (Half, Half) {
    let is_key = |c: &&Compared| keys.iter().any(|k| k.name == c.name);
    let others: Vec<&Compared> = columns.iter().filter(|c| !is_key(c)).collect();
    let half = |from: Vec<String>, rows: String, ctid: String, value: fn(&Compared) -> &str, key_texts: String| {
        let hash = |(n, c): (usize, &Compared)| hash::value(value(c), c.type_oid, n);
        let key_hash = hash::combine(&keys.iter().enumerate().map(hash).collect::<Vec<_>>(), 0);
        let mut inputs = vec![key_hash.clone()];
        inputs.extend(others.iter().enumerate().map(|(n, c)| hash((keys.len() + n, *c))));
        Half { from, rows, ctid, digest: hash::combine(&inputs, 1), key_hash, key_texts }
    };
    let alias = plan.alias();
    // Where any number of rows may be, a key without any is looked at as well.
    let its_rows = if plan.is_to_many() { String::new() } else { plan.and_its_rows() };
    let source_texts = list(&plan.key.columns, |_, k| output(&format!("{alias}.{}", Ident(&k.source))));
    let shadow_texts = list(&plan.key.columns, |_, k| output(&format!("{shadow}.{}", Ident(&k.target))));
    (
        half(source_from, its_rows, format!("{alias}.ctid"), |c| c.source.as_str(), source_texts),
        half(shadow_from, String::new(), format!("{shadow}.ctid"), |c| c.shadow.as_str(), shadow_texts),
    )
}

fn compared(plan: &Plan) -> Result<Vec<Compared>, Failure> {
    let derived = plan.columns.iter().filter(|c| c.is_derived());
    derived.filter_map(|c| one_compared(plan, c).transpose()).collect()
}

/// A target column: its value on both sides; `None` where the projection has none.
fn one_compared(plan: &Plan, column: &TargetColumn) -> Result<Option<Compared>, Failure> {
    let Some(expression) = column.expression() else { return Ok(None) };
    let target = plan.target.column(&column.name).ok_or_else(|| absent(&column.name))?;
    let original = column.source.as_ref().and_then(|s| plan.source.column(s));
    let same_type = matches!(column.value, Value::Copied)
        && original.is_some_and(|o| o.type_oid == target.type_oid && o.type_sql == target.type_sql);
    Ok(Some(Compared {
        name: column.name.clone(),
        source: if same_type { expression } else { cast(&expression, &target.type_sql) },
        shadow: Ident(&column.name).to_string(),
        type_oid: target.type_oid,
        type_sql: target.type_sql.clone(),
    }))
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

/// The same behind something else.
fn more<T>(of: &[T], write: impl Fn(usize, &T) -> String) -> String {
    of.iter().enumerate().map(|(i, item)| format!(", {}", write(i, item))).collect()
}

fn all<T>(of: &[T], write: impl Fn(usize, &T) -> String) -> String {
    of.iter().enumerate().map(|(i, item)| write(i, item)).collect::<Vec<_>>().join(" AND ")
}
