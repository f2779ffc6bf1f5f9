//! The way back of a table that was taken apart: what its new tables say together of an old row. Pure.
//!
//! The source of that way back is a query over the new tables, with a row for each old one, under the old columns' names.
//! Whatever is written to one of the tables is a change of the old rows whose keys it has, or that refer to it.

use serde::{Deserialize, Serialize};

use super::compat::CompatView;
use super::elements::{Collection, Elements, elements, reads};
use super::former::Reading;
use super::key;
use super::lookups::{Lookup, NUMBER};
use super::parts::Part;
use super::reverse::{Given, refuse_deferrable, refused};
use super::shape::{Column, Index, Shape};
use super::types::{IdentityChange, Key, KeyColumn, Plan, TargetColumn, Value, Writing};
use crate::error::Failure;
use crate::pg::sql::plain_ident;
use crate::pg::{Ident, QualifiedName};

/// The new tables as one source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rejoin {
    /// The query.
    pub rows: String,
    /// The tables beside what remains of the source.
    pub tables: Vec<Beside>,
    /// The view that was left with the old shape.
    pub view: Option<CompatView>,
    /// How old rows are compared with the query.
    pub comparison: Comparison,
}

/// What of the old rows follows from the new ones alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// The query, but that an old row which a new table lacks keeps what it has: a default may give another value each time.
    pub rows: String,
    /// Columns that come back by an expression. An old row that nobody touched has what it had, which need not be that.
    pub given: Vec<String>,
    /// Columns whose elements are rows.
    pub elements: Vec<(String, Collection)>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Beside {
    /// As it stands.
    pub shape: Shape,
    /// What its rows are to the old ones.
    pub holds: Holds,
    /// Whether its replica identity is FULL for the time of the window only.
    pub lends_identity: bool,
}

/// What the rows of a new table are to the old ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Holds {
    /// Columns of theirs, or elements.
    Columns {
        /// Where the old key stands, in its order.
        key: Vec<String>,
    },
    /// Whole rows.
    Rows {
        /// Where the old key stands, in its order.
        key: Vec<String>,
    },
    /// Values that rows refer to.
    Values {
        /// The column of what remains that refers to their numbers.
        reference: String,
    },
}

impl Holds {
    /// Where the old key stands, if there.
    pub fn key(&self) -> Option<&[String]> {
        match self {
            Holds::Columns { key } | Holds::Rows { key } => Some(key),
            Holds::Values { .. } => None,
        }
    }
}

/// What remains of the source, in the query.
const REST: &str = "\"#rest\"";

/// Stands in the query for the old table, whose name is known after the swap only.
const OLD: &str = "\"#old\"";

impl Beside {
    /// The columns that say which old rows a change is about, as the stream has to bring them.
    pub fn told_by(&self) -> Vec<String> {
        self.holds.key().map_or_else(|| vec![NUMBER.to_owned()], <[String]>::to_vec)
    }
}

impl Rejoin {
    /// Puts the old table's name into the query.
    pub fn know(&mut self, old: &QualifiedName) {
        for rows in [&mut self.rows, &mut self.comparison.rows] {
            *rows = rows.replace(OLD, &old.to_string());
        }
    }
}

/// Whether the table is taken apart.
pub fn is_apart(plan: &Plan) -> bool {
    !plan.parts.is_empty() || !plan.lookups.is_empty()
}

/// Plans the way back of one that is. `given` says of old columns how they come back, over the new tables' names, qualified.
///
/// # Errors
/// Exit 3 where the new tables would not give an old row.
pub fn back(plan: &Plan, given: &[Given]) -> Result<Plan, Failure> {
    let old = &plan.source;
    refuse_deferrable(old)?;
    if let Some((name, _)) = given.iter().find(|(name, _)| plan.key.columns.iter().any(|k| k.source == *name)) {
        return Err(Failure::usage(format!("--reverse {}: a column of the key stays as it is", plain_ident(name))));
    }
    let key = key_back(plan)?;
    let compared = query(plan, given, Lacking::Kept)?;
    let query = query(plan, given, Lacking::Default)?;
    let column = |column: &Column| back_column(column, query.columns.contains(&column.name));
    let columns = old.columns.iter().map(column).collect::<Result<Vec<_>, _>>()?;
    let names = plan.key_names();
    if !covers(&plan.target, &names) {
        return Err(refused("the new table's replica identity does not cover its key")
            .hint("Give the table a primary key, or make the key's index its replica identity."));
    }
    Ok(Plan {
        identity: IdentityChange::None,
        settings: plan.settings.clone(),
        clauses: plan.clauses.clone(),
        rejoin: Some(Rejoin {
            rows: query.sql,
            tables: tables(plan),
            view: plan.compat_view.clone(),
            comparison: Comparison {
                rows: compared.sql,
                given: given.iter().map(|(name, _)| name.clone()).collect(),
                elements: compared.elements,
            },
        }),
        ..Plan::plain(plan.target.clone(), old.clone(), columns, key)
    })
}

/// Gives the new tables whose keys do not identify their rows another replica identity for the time of the window.
pub fn lend_identities(plan: &mut Plan) {
    let Some(Rejoin { tables, .. }) = plan.back.as_ref().and_then(|back| back.rejoin.clone()) else { return };
    for (part, beside) in plan.parts.iter_mut().zip(tables).filter(|(_, beside)| beside.lends_identity) {
        part.target.replica_identity = beside.shape.replica_identity;
    }
}

/// The old key has the same columns in what remains, where nothing is converted.
fn key_back(plan: &Plan) -> Result<Key, Failure> {
    let back = |k: &KeyColumn| KeyColumn {
        source_equal: k.target_equal.clone(),
        target_equal: k.source_equal.clone(),
        ..k.clone()
    };
    if plan.key.columns.iter().any(|k| k.source != k.target || k.expression != Ident(&k.source).to_string()) {
        return Err(refused("the key does not stay as it is"));
    }
    let columns: Vec<KeyColumn> = plan.key.columns.iter().map(back).collect();
    if key::arbiter(&plan.source, &columns).is_none() {
        return Err(refused("the old table has no unique index over the columns that tell its rows apart"));
    }
    Ok(Key { columns, writing: Writing::OnKey, together: Vec::new(), needs_helper_index: false })
}

/// Whether the replica identity shows these columns.
fn covers(shape: &Shape, names: &[String]) -> bool {
    let shows = |index: &Index| index.column_names().is_some_and(|shown| names.iter().all(|name| shown.contains(name)));
    match shape.replica_identity {
        'f' => true,
        'd' => shape.primary_key().is_some_and(|index| index.immediate && shows(index)),
        'i' => shape.indexes.iter().any(|index| index.replica_identity && shows(index)),
        _ => false,
    }
}

/// The new tables beside what remains, the parts in their order first.
fn tables(plan: &Plan) -> Vec<Beside> {
    let part = |part: &Part| {
        let key: Vec<String> = part.key.columns.iter().map(|k| k.target.clone()).collect();
        let lends_identity = !covers(&part.target, &key);
        let replica_identity = if lends_identity { 'f' } else { part.target.replica_identity };
        Beside {
            shape: Shape { replica_identity, ..part.target.clone() },
            holds: if part.takes_rows { Holds::Rows { key } } else { Holds::Columns { key } },
            lends_identity,
        }
    };
    let values = |lookup: &Lookup| Beside {
        shape: lookup.target.clone(),
        holds: Holds::Values { reference: lookup.reference.clone() },
        lends_identity: false,
    };
    plan.parts.iter().map(part).chain(plan.lookups.iter().map(values)).collect()
}

/// Where an old column's value comes from.
fn back_column(column: &Column, told: bool) -> Result<TargetColumn, Failure> {
    let of =
        |source: Option<&String>, value| TargetColumn { name: column.name.clone(), source: source.cloned(), value };
    if column.origin.is_generated() {
        return Ok(of(None, Value::Generated));
    }
    if told {
        return Ok(of(Some(&column.name), Value::Copied));
    }
    let name = plain_ident(&column.name);
    match !column.origin.is_identity() && (!column.not_null || column.default.is_some()) {
        // Old rows keep what they have; new ones get what an INSERT without the column would give.
        true => Ok(of(None, Value::OwnDefault)),
        false => Err(refused(format!("no new table has column {name}, and an old row is not without it"))
            .hint("Take it along to a new table, or give it a default before the migration.")),
    }
}

/// What an old row has in place of a column whose new table lacks it.
#[derive(Clone, Copy)]
enum Lacking {
    /// The column's default, as an INSERT without it gives.
    Default,
    /// What it has.
    Kept,
}

/// The query, and the old columns that it gives.
struct Query {
    sql: String,
    columns: Vec<String>,
    /// Those that are put together of elements.
    elements: Vec<(String, Collection)>,
}

/// An old column's value, as SQL.
struct Told {
    sql: String,
    elements: Option<Collection>,
}

impl Told {
    fn plain(sql: String) -> Told {
        Told { sql, elements: None }
    }
}

fn query(plan: &Plan, given: &[Given], lacking: Lacking) -> Result<Query, Failure> {
    let mut told: Vec<(&Column, Told)> = Vec::new();
    for column in plan.source.columns.iter().filter(|c| !c.origin.is_generated()) {
        let value = match given.iter().find(|(name, _)| *name == column.name) {
            Some((_, expression)) => Some(Told::plain(as_given(plan, column, expression))),
            None => value(plan, column, lacking)?,
        };
        told.extend(value.map(|value| (column, value)));
    }
    let mut branches = vec![format!("SELECT {} FROM {}", listed(&told), from(plan))];
    for part in plan.parts.iter().filter(|part| part.takes_rows) {
        let column = |(column, _): &(&'_ Column, Told)| match copy_in(part, column) {
            Some(name) => Ok(format!("\"#taken\".{} AS {}", Ident(name), Ident(&column.name))),
            None => Err(refused(format!(
                "table {} has no copy of column {}, so its rows would not come back whole",
                part.target.name.plain(),
                plain_ident(&column.name)
            ))
            .hint("Give it all columns of the table, each as it is.")),
        };
        let columns = told.iter().map(column).collect::<Result<Vec<_>, _>>()?.join(", ");
        branches.push(format!("SELECT {columns} FROM ONLY {} AS \"#taken\"", part.target.name));
    }
    let columns = told.iter().map(|(column, _)| column.name.clone()).collect();
    let elements = told.iter().filter_map(|(column, told)| Some((column.name.clone(), told.elements?))).collect();
    Ok(Query { sql: branches.join(" UNION ALL "), columns, elements })
}

fn listed(told: &[(&Column, Told)]) -> String {
    told.iter().map(|(column, told)| format!("{} AS {}", told.sql, Ident(&column.name))).collect::<Vec<_>>().join(", ")
}

/// What remains, and what is joined to it.
fn from(plan: &Plan) -> String {
    let mut from = format!("ONLY {} AS {REST}", plan.target.name);
    for (n, part) in plan.parts.iter().enumerate().filter(|(_, part)| is_joined(part)) {
        let alias = part_alias(n);
        from.push_str(&format!(" LEFT JOIN ONLY {} AS {alias} ON {}", part.target.name, same(part, &alias)));
    }
    for (n, lookup) in plan.lookups.iter().enumerate() {
        let (alias, table) = (values_alias(n), &lookup.target.name);
        let (number, reference) = (Ident(NUMBER), Ident(&lookup.reference));
        from.push_str(&format!(" LEFT JOIN ONLY {table} AS {alias} ON {alias}.{number} = {REST}.{reference}"));
    }
    from
}

/// One row at most for each old one.
fn is_joined(part: &Part) -> bool {
    !part.takes_rows && part.key.writing != Writing::All
}

/// An old column by an expression over the tables that are joined, which go by names of their own there.
fn as_given(plan: &Plan, column: &Column, expression: &str) -> String {
    let reading = Reading::of_rest(plan, &[]);
    let parts = plan.parts.iter().enumerate().filter(|(_, part)| is_joined(part)).map(|(n, _)| part_alias(n));
    let ours = std::iter::once(REST.to_owned()).chain(parts).chain((0..plan.lookups.len()).map(values_alias));
    let joined = reading.joined();
    let tables = joined.iter().zip(ours).map(|((name, _), ours)| format!("(SELECT {ours}.*) AS {name}"));
    let tables = tables.collect::<Vec<_>>().join(", ");
    format!("(SELECT CAST(({expression}\n) AS {}) FROM {tables})", column.type_sql)
}

fn part_alias(n: usize) -> String {
    format!("\"#part {n}\"")
}

fn values_alias(n: usize) -> String {
    format!("\"#values {n}\"")
}

/// That a part's row belongs to the one of what remains.
fn same(part: &Part, alias: &str) -> String {
    let columns = part.key.columns.iter();
    let equal = columns.map(|k| format!("{alias}.{} {} {REST}.{}", Ident(&k.target), k.target_equal, Ident(&k.source)));
    equal.collect::<Vec<_>>().join(" AND ")
}

/// The part's column that is the old one as it is.
fn copy_in<'a>(part: &'a Part, column: &Column) -> Option<&'a str> {
    let copy = |c: &&TargetColumn| c.source.as_ref() == Some(&column.name) && c.value == Value::Copied;
    part.columns.iter().find(copy).map(|c| c.name.as_str())
}

/// An old column's value over what remains and what is joined to it; `None` where it is simply gone.
fn value(plan: &Plan, column: &Column, lacking: Lacking) -> Result<Option<Told>, Failure> {
    if let Some(name) = plan.name_after(&column.name) {
        return Ok(Some(Told::plain(format!("{REST}.{}", Ident(name)))));
    }
    if let Some((n, lookup)) = plan.lookups.iter().enumerate().find(|(_, lookup)| lookup.source == column.name) {
        return Ok(Some(Told::plain(format!("{}.{}", values_alias(n), Ident(&lookup.value)))));
    }
    let (shown, parts) = (plain_ident(&column.name), || plan.parts.iter().enumerate().filter(|(_, p)| !p.takes_rows));
    if column.origin.is_identity() {
        return Err(refused(format!("column {shown} leaves the table and is an identity column")));
    }
    for (n, part) in parts().filter(|(_, part)| is_joined(part) && part.rows.is_none()) {
        let (Some(copy), Some(key)) = (copy_in(part, column), part.key.columns.first()) else { continue };
        let alias = part_alias(n);
        let copy = format!("{alias}.{}", Ident(copy));
        let Some(default) = &column.default else { return Ok(Some(Told::plain(copy))) };
        let otherwise = match lacking {
            Lacking::Default => default.clone(),
            Lacking::Kept => {
                let name = Ident(&column.name);
                format!("(SELECT \"#was\".{name} FROM {OLD} AS \"#was\" WHERE {})", old_row(plan))
            }
        };
        let key = Ident(&key.target);
        return Ok(Some(Told::plain(format!("CASE WHEN {alias}.{key} IS NULL THEN {otherwise} ELSE {copy} END"))));
    }
    if let Some(elements) = parts().find_map(|(_, part)| collected(plan, part, column)) {
        return Ok(Some(elements));
    }
    match parts().find(|(_, part)| is_told_by(part, column)) {
        None => Ok(None),
        Some((_, part)) => Err(refused(format!(
            "table {} has column {shown} in part or in another form only",
            part.target.name.plain()
        ))
        .hint(format!(
            "Take {shown} along as it is to a new table that has all rows; or elements as --into \
             '{}(element = unnest({shown}), place = generate_subscripts({shown}, 1))'; or say how it comes back: --reverse \
             '{shown} = expression over the columns of the new tables'.",
            part.target.name.plain()
        ))),
    }
}

/// Whether something in the part is made of the column.
fn is_told_by(part: &Part, column: &Column) -> bool {
    part.columns.iter().filter_map(TargetColumn::expression).any(|sql| reads(&sql, &column.name))
}

/// The elements of a part, put together in the order of their places.
fn collected(plan: &Plan, part: &Part, column: &Column) -> Option<Told> {
    let Elements { element, place: Some(place), of } = elements(part, &column.name)? else { return None };
    if part.rows.is_some() {
        return None;
    }
    let (alias, name) = ("\"#element\"", Ident(&column.name));
    let (element, place) = (format!("{alias}.{}", Ident(element)), format!("{alias}.{}", Ident(place)));
    let rows = format!("FROM ONLY {} AS {alias} WHERE {}", part.target.name, same(part, alias));
    let collected = of.collected(&element, &place, &rows);
    let sql = match column.not_null {
        true => collected,
        // Neither NULL nor an empty one has elements: an old row that had NULL has it still.
        false => format!(
            "CASE WHEN EXISTS (SELECT 1 {rows}) OR NOT EXISTS (SELECT 1 FROM {OLD} AS \"#was\" WHERE {} AND \"#was\".{name} IS NULL) \
             THEN {collected} END",
            old_row(plan),
        ),
    };
    Some(Told { sql, elements: Some(of) })
}

fn old_row(plan: &Plan) -> String {
    let columns = plan.key.columns.iter();
    let equal = columns.map(|k| format!("\"#was\".{0} {1} {REST}.{0}", Ident(&k.source), k.source_equal));
    equal.collect::<Vec<_>>().join(" AND ")
}

impl Plan {
    /// The source's rows, as FROM has them.
    pub fn rows_source(&self) -> String {
        match &self.rejoin {
            Some(rejoin) => format!("({})", rejoin.rows),
            None => self.whole_source(),
        }
    }

    /// The new tables beside what remains of one that was taken apart, on the way back.
    pub fn besides(&self) -> &[Beside] {
        self.rejoin.as_ref().map_or(&[], |rejoin| &rejoin.tables)
    }

    /// What remains and the new tables that have the key, each with the columns in which it stands there.
    pub fn keyed_tables(&self) -> Vec<(&QualifiedName, Vec<String>)> {
        let beside = self.besides().iter().filter_map(|b| Some((&b.shape.name, b.holds.key()?.to_vec())));
        std::iter::once((&self.source.name, self.key_names())).chain(beside).collect()
    }

    /// Everything that is read for the source's rows, as LOCK TABLE calls it.
    pub fn read_tables(&self) -> String {
        let beside = self.besides().iter().map(|beside| format!("ONLY {}", beside.shape.name));
        std::iter::once(self.whole_source()).chain(beside).collect::<Vec<_>>().join(", ")
    }

    /// Whether a foreign key of that name between these tables (oids) is not there afterwards: on request, or because it goes
    /// with the new tables.
    pub fn leaves_off(&self, key: &str, ends: [u32; 2]) -> bool {
        self.left_off.iter().any(|name| name == key)
            || self.besides().iter().any(|beside| ends.contains(&beside.shape.oid))
    }

    /// Of a key, under the name `changed`, whether it is more than once in the new tables that have whole rows; `None` where
    /// there is one such table only.
    pub fn is_twice(&self, changed: &str) -> Option<String> {
        let found: Vec<String> = self
            .holding_rows()
            .map(|(table, key)| format!("{}::pg_catalog.int4", self.has(table, key, changed)))
            .collect();
        (found.len() > 1).then(|| format!("{} > 1", found.join(" + ")))
    }

    /// A condition that the key `changed` meets where new tables have rows of which there can be no old one, and what is
    /// said of it, both as SQL; `None` where that cannot be.
    pub fn strays(&self, changed: &str) -> Option<(String, String)> {
        let rest = self.rejoin.as_ref().map(|_| self.has(&self.source.name, self.key_names(), changed))?;
        let orphan = self.besides().iter().filter_map(|beside| match &beside.holds {
            Holds::Columns { key } => {
                let name = &beside.shape.name;
                let words = format!("{} has it, and {} has not", name.plain(), self.source.name.plain());
                Some((format!("({} AND NOT {rest})", self.has(name, key, changed)), literal(&words)))
            }
            Holds::Rows { .. } | Holds::Values { .. } => None,
        });
        let twice = self.is_twice(changed).map(|twice| {
            let names = self.holding_rows().map(|(table, key)| {
                format!("CASE WHEN {} THEN {} END", self.has(table, key, changed), literal(&table.plain()))
            });
            let names = names.collect::<Vec<_>>().join(", ");
            (format!("({twice})"), format!("'it is in ' || pg_catalog.concat_ws(' and ', {names})"))
        });
        let all: Vec<(String, String)> = orphan.chain(twice).collect();
        let condition = all.iter().map(|(condition, _)| condition.as_str()).collect::<Vec<_>>().join(" OR ");
        let words = all.iter().map(|(condition, words)| format!("WHEN {condition} THEN {words}")).collect::<Vec<_>>();
        (!all.is_empty()).then(|| (condition, format!("CASE {} END", words.join(" "))))
    }

    fn holding_rows(&self) -> impl Iterator<Item = (&QualifiedName, Vec<String>)> {
        let rows = self.besides().iter().filter_map(|beside| match &beside.holds {
            Holds::Rows { key } => Some((&beside.shape.name, key.clone())),
            Holds::Columns { .. } | Holds::Values { .. } => None,
        });
        std::iter::once((&self.source.name, self.key_names())).chain(rows)
    }

    /// Whether a table has the key `changed`, which stands there in these columns.
    fn has(&self, table: &QualifiedName, key: impl AsRef<[String]>, changed: &str) -> String {
        let columns = self.key.columns.iter().zip(key.as_ref());
        let equal = columns
            .map(|(k, name)| format!("\"#has\".{} {} {changed}.{}", Ident(name), k.source_equal, Ident(&k.source)))
            .collect::<Vec<_>>();
        format!("EXISTS (SELECT 1 FROM ONLY {table} AS \"#has\" WHERE {})", equal.join(" AND "))
    }
}

fn literal(text: &str) -> String {
    crate::pg::Literal(text).to_string()
}
