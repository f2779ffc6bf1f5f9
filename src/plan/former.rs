//! The old shape of a table that is taken apart, read from what remains of it and from the new tables, once these have
//! their names. Pure.
//!
//! Where columns or elements left, an old row is there while the table has its row: a new table that lacks it gives NULL, or
//! no elements. Where rows left, they are those of all tables together.

use serde::{Deserialize, Serialize};

use super::elements::{Elements, elements};
use super::lookups::NUMBER;
use super::parts::Part;
use super::reverse::Given;
use super::shape::{Column, Shape};
use super::types::{KeyColumn, Plan, TargetColumn, Value};
use crate::error::Failure;
use crate::pg::sql::{ident_list, plain_ident};
use crate::pg::{Ident, QualifiedName};

/// How the old rows are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Former {
    /// One for each table that rows come from, that of the source first.
    branches: Vec<Branch>,
}

/// The old rows that one table gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Branch {
    /// `expression AS column` for each old column, in order.
    columns: Vec<String>,
    /// What stands in its WITH: the tables that are joined. Joined by themselves they would take the lock of SELECT … FOR
    /// UPDATE, which the server refuses on this side of a LEFT JOIN; written so they are planned just the same.
    with: Vec<String>,
    /// What follows FROM.
    from: String,
    /// The key's columns, qualified, in the order of the plan.
    key: Vec<String>,
}

impl Former {
    /// For a plan of a split. `given` says of old columns how they come back: expressions over the columns of the tables,
    /// which go by their bare names.
    ///
    /// # Errors
    /// Exit 3 with the name of a column that cannot be given back; exit 2 for an expression of no column.
    pub fn of(plan: &Plan, given: &[Given]) -> Result<Former, Failure> {
        if let Some((unknown, _)) = given.iter().find(|(name, _)| plan.source.column(name).is_none()) {
            return Err(Failure::usage(format!(
                "--reverse {}: {} has no column of that name",
                plain_ident(unknown),
                plan.source.name.plain()
            ))
            .hint("Name a column as it is called before the change."));
        }
        let mut branches = vec![Reading::of_rest(plan, given).branch()?];
        for part in plan.parts.iter().filter(|part| part.takes_rows) {
            branches.push(Reading::of_part(plan, part, given).branch()?);
        }
        Ok(Former { branches })
    }

    /// The query that gives all old rows, with the old columns in their order and of their types.
    pub fn select(&self) -> String {
        self.read(|_| String::new())
    }

    /// The same of some rows: `condition` is SQL over the key's columns, which it is given in the order of the plan.
    pub fn select_where(&self, condition: impl Fn(&[String]) -> String) -> String {
        self.read(|key| format!("\n WHERE {}", condition(key)))
    }

    fn read(&self, condition: impl Fn(&[String]) -> String) -> String {
        let with: Vec<&str> = self.branches.iter().flat_map(|b| &b.with).map(String::as_str).collect();
        let with = if with.is_empty() { String::new() } else { format!("WITH {}\n", with.join(",\n    ")) };
        let one = |b: &Branch| format!("SELECT {}\n FROM {}{}", b.columns.join(",\n    "), b.from, condition(&b.key));
        with + &self.branches.iter().map(one).collect::<Vec<_>>().join("\nUNION ALL\n")
    }
}

/// One table that old rows come from, with those that are joined to it.
pub(super) struct Reading<'a> {
    plan: &'a Plan,
    given: &'a [Given],
    /// The table's columns.
    columns: &'a [TargetColumn],
    key: &'a [KeyColumn],
    table: &'a Shape,
    alias: String,
    /// New tables that have columns of its rows, with their aliases.
    beside: Vec<(&'a Part, String)>,
    /// The aliases of the tables of values, where it refers to them.
    values: Vec<String>,
}

impl<'a> Reading<'a> {
    /// What remains of the source.
    pub(super) fn of_rest(plan: &'a Plan, given: &'a [Given]) -> Self {
        let mut names = Aliases::default();
        let alias = names.of(&plan.target.name);
        let beside = plan.parts.iter().filter(|part| !part.takes_rows);
        let beside = beside.map(|part| (part, names.of(&part.target.name))).collect();
        let values = plan.lookups.iter().map(|lookup| names.of(&lookup.target.name)).collect();
        let (columns, key, table) = (&plan.columns, &plan.key.columns, &plan.target);
        Reading { plan, given, columns, key, table, alias, beside, values }
    }

    /// A new table that rows went to.
    fn of_part(plan: &'a Plan, part: &'a Part, given: &'a [Given]) -> Self {
        let alias = Aliases::default().of(&part.target.name);
        let (columns, key, table) = (&part.columns, &part.key.columns, &part.target);
        Reading { plan, given, columns, key, table, alias, beside: Vec::new(), values: Vec::new() }
    }

    /// The tables that are joined, with their aliases: itself, and those that have one row for one of its.
    pub(super) fn joined(&self) -> Vec<(&str, &Shape)> {
        let beside = self.beside.iter().filter(|(part, _)| !is_many(part));
        let beside = beside.map(|(part, alias)| (alias.as_str(), &part.target));
        let values = self.values.iter().zip(&self.plan.lookups).map(|(alias, lookup)| (alias.as_str(), &lookup.target));
        std::iter::once((self.alias.as_str(), self.table)).chain(beside).chain(values).collect()
    }

    fn branch(&self) -> Result<Branch, Failure> {
        let named = |column: &Column| Ok(format!("{} AS {}", self.value(column)?, Ident(&column.name)));
        let columns: Vec<String> = self.plan.source.columns.iter().map(named).collect::<Result<_, Failure>>()?;
        let mut from = format!("{} AS {}", self.table.name, self.alias);
        let mut with = Vec::new();
        let mut join = |table: &QualifiedName, alias: &str, columns: &[&str], on: String| {
            let columns = ident_list(columns.iter().copied());
            with.push(format!("{alias} AS NOT MATERIALIZED (SELECT {columns} FROM {table})"));
            from.push_str(&format!("\n LEFT JOIN {alias} ON {on}"));
        };
        for (part, alias) in self.beside.iter().filter(|(part, _)| !is_many(part)) {
            let used = part.columns.iter().filter(|c| self.uses(part, c)).map(|c| c.name.as_str());
            join(&part.target.name, alias, &used.collect::<Vec<_>>(), self.same_key(part, alias));
        }
        for (lookup, alias) in self.plan.lookups.iter().zip(&self.values) {
            let on = format!("{alias}.{} = {}.{}", Ident(NUMBER), self.alias, Ident(&lookup.reference));
            join(&lookup.target.name, alias, &[NUMBER, &lookup.value], on);
        }
        let key = self.key.iter().map(|k| format!("{}.{}", self.alias, Ident(&k.target))).collect();
        Ok(Branch { columns, with, from, key })
    }

    /// Whether an old row may need this column of a table that is joined.
    fn uses(&self, part: &Part, column: &TargetColumn) -> bool {
        let leaves = |name: &String| self.columns.iter().all(|own| own.source.as_ref() != Some(name));
        part.key.columns.iter().any(|k| k.target == column.name)
            || (column.value == Value::Copied && column.source.as_ref().is_some_and(leaves))
            || self.given.iter().any(|(_, expression)| super::elements::reads(expression, &column.name))
    }

    /// An old column's value.
    fn value(&self, column: &Column) -> Result<String, Failure> {
        if let Some((_, expression)) = self.given.iter().find(|(name, _)| *name == column.name) {
            return Ok(typed(column, &format!("({expression}\n)")));
        }
        if let Some(kept) = copy(self.columns, column) {
            return Ok(format!("{}.{}", self.alias, Ident(kept)));
        }
        let lookups = self.plan.lookups.iter().zip(&self.values);
        if let Some((lookup, alias)) = lookups.into_iter().find(|(lookup, _)| lookup.source == column.name) {
            return Ok(format!("{alias}.{}", Ident(&lookup.value)));
        }
        let one = self.beside.iter().filter(|(part, _)| !is_many(part));
        let copies: Vec<(&Part, &str, &str)> =
            one.filter_map(|(part, alias)| Some((*part, alias.as_str(), copy(&part.columns, column)?))).collect();
        if let Some((_, alias, name)) = copies.iter().find(|(part, ..)| part.rows.is_none()) {
            return Ok(format!("{alias}.{}", Ident(name)));
        }
        if copies.is_empty() {
            return self.collected(column);
        }
        if column.not_null {
            return Err(lost(column, "it is NOT NULL, and only some rows have theirs in a new table"));
        }
        match &copies[..] {
            [(_, alias, name)] => Ok(format!("{alias}.{}", Ident(name))),
            several => {
                let when = several.iter().map(|(part, alias, name)| {
                    let key = part.key.columns.first().map_or("", |k| &k.target);
                    format!("WHEN {alias}.{} IS NOT NULL THEN {alias}.{}", Ident(key), Ident(name))
                });
                Ok(format!("CASE {} END", when.collect::<Vec<_>>().join(" ")))
            }
        }
    }

    /// A column whose elements are rows.
    fn collected(&self, column: &Column) -> Result<String, Failure> {
        let many = || self.beside.iter().filter(|(part, _)| is_many(part));
        let found = many().find_map(|(part, alias)| Some((part, alias, elements(part, &column.name)?)));
        let Some((part, alias, Elements { element, place, of })) = found else {
            if self.table.name != self.plan.target.name {
                return Err(lost(column, &format!("rows leave for {} without it", self.table.name.plain())));
            }
            return Err(match self.plan.parts.iter().any(|part| mentions(part, column)) {
                true => lost(column, "a new table has what an expression makes of it"),
                false => lost(column, "no new table has it"),
            });
        };
        let Some(place) = place else {
            return Err(lost(column, "nothing in the new table says in which order its elements stood"));
        };
        if part.rows.is_some() {
            return Err(lost(column, "only some rows have their elements in the new table"));
        }
        let (element, place) = (format!("{alias}.{}", Ident(element)), format!("{alias}.{}", Ident(place)));
        let rows = format!("FROM {} AS {alias} WHERE {}", part.target.name, self.same_key(part, alias));
        Ok(typed(column, &of.collected(&element, &place, &rows)))
    }

    fn same_key(&self, part: &Part, alias: &str) -> String {
        let pairs = self.key.iter().zip(&part.key.columns);
        let pairs = pairs.map(|(own, k)| {
            format!("{alias}.{} {} {}.{}", Ident(&k.target), own.source_equal, self.alias, Ident(&own.target))
        });
        pairs.collect::<Vec<_>>().join(" AND ")
    }
}

/// Whether a row of the source may have several rows in it.
fn is_many(part: &Part) -> bool {
    part.key.writing == super::types::Writing::All
}

/// The name of the column that has an old one's values as they are.
fn copy<'a>(columns: &'a [TargetColumn], column: &Column) -> Option<&'a str> {
    let is_copy = |c: &&TargetColumn| {
        c.source.as_deref() == Some(&column.name) && matches!(c.value, Value::Copied | Value::Generated)
    };
    columns.iter().find(is_copy).map(|c| c.name.as_str())
}

/// Whether a column of the part is an expression that may read the old one.
fn mentions(part: &Part, column: &Column) -> bool {
    part.columns.iter().any(|c| match &c.value {
        Value::Converted { expression } | Value::Volatile { expression } => {
            super::elements::reads(expression, &column.name)
        }
        Value::Copied | Value::Constant { .. } | Value::OwnDefault | Value::Generated => false,
    })
}

/// A value of an old column's type and collation.
fn typed(column: &Column, value: &str) -> String {
    let collate = column.collation.as_ref().map(|c| format!(" COLLATE {c}")).unwrap_or_default();
    format!("CAST({value} AS {}){collate}", column.type_sql)
}

fn lost(column: &Column, why: &str) -> Failure {
    let name = plain_ident(&column.name);
    Failure::refused(format!("column {name} cannot be given back: {why}")).hint(format!(
        "Let a new table have it as it is; of columns that leave you may say instead how they come back from those of the new \
         tables: --reverse '{name} = expression'."
    ))
}

/// Bare names of tables, each once.
#[derive(Default)]
struct Aliases(Vec<String>);

impl Aliases {
    fn of(&mut self, table: &QualifiedName) -> String {
        let free = super::ddl::free_name(&table.name, "", |name| self.0.iter().any(|used| used == name));
        self.0.push(free.clone());
        Ident(&free).to_string()
    }
}

#[cfg(test)]
mod tests;
