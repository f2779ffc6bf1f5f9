//! Tables for the distinct values of a column, in the place of which the source keeps a reference. Pure.
//!
//! Such a table is there, with its keys, from the beginning: a value gets its number in a transaction of its own before
//! the chunk or the flush that writes the reference. Values are never taken away, as others may have come to refer to them.

use serde::{Deserialize, Serialize};

use super::parts::Reference;
use super::shape::Shape;
use super::types::{Key, Names, OldNames, Plan, SCHEMA, TargetColumn, Value, Writing};
use crate::pg::{Ident, QualifiedName};

/// The column of a table of values that is referred to.
pub const NUMBER: &str = "id";

/// A table of values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lookup {
    /// As it will stand: its number and its value.
    pub target: Shape,
    /// The source's column that the values come from.
    pub source: String,
    /// The column for it in the table of values.
    pub value: String,
    /// The target's column that refers to its number.
    #[serde(default)]
    pub reference: String,
    /// The foreign key of what remains of the source.
    pub foreign_key: Reference,
}

/// What the nth table of values of a source is called until the swap. It is part of the plan's expressions, so it is known
/// before the migration has its number; a source has one migration at a time.
fn waiting(source: &Shape, n: usize) -> QualifiedName {
    QualifiedName::new(SCHEMA, format!("lookup_{}_{n}", source.oid))
}

/// The number of the source's value.
pub fn expression(source: &Shape, n: usize, column: &str, value: &str) -> String {
    let (table, alias) = (waiting(source, n), Ident(&source.name.name));
    let (number, value, column) = (Ident(NUMBER), Ident(value), Ident(column));
    format!("(SELECT \"#lookup\".{number} FROM {table} AS \"#lookup\" WHERE \"#lookup\".{value} = {alias}.{column})")
}

impl Plan {
    /// Each table of values as a plan of its own, for what is made of it and what becomes of it in the swap.
    pub fn named_lookups(&self) -> Vec<(Plan, Names)> {
        let one = |(n, lookup): (usize, &Lookup)| {
            let table = waiting(&self.source, n);
            let sequences = lookup.target.columns.iter().enumerate();
            let names = OldNames {
                indexes: (0..lookup.target.indexes.len()).map(|i| format!("{}_index_{i}", table.name)).collect(),
                sequences: sequences
                    .map(|(c, _)| Some(table.sibling(format!("{}_sequence_{c}", table.name))))
                    .collect(),
                partitions: Vec::new(),
                table,
            };
            (self.lookup_plan(lookup), Names::fixed(names))
        };
        self.lookups.iter().enumerate().map(one).collect()
    }

    fn lookup_plan(&self, lookup: &Lookup) -> Plan {
        let column = |c: &super::shape::Column| match c.name == lookup.value {
            true => TargetColumn { name: c.name.clone(), source: Some(lookup.source.clone()), value: Value::Copied },
            false => TargetColumn { name: c.name.clone(), source: None, value: Value::OwnDefault },
        };
        let columns = lookup.target.columns.iter().map(column).collect();
        let key = Key { columns: Vec::new(), writing: Writing::OnKey, together: Vec::new(), needs_helper_index: false };
        Plan {
            settings: self.settings.clone(),
            clauses: self.clauses.clone(),
            ..Plan::plain(self.source.clone(), lookup.target.clone(), columns, key)
        }
    }

    /// The statements that give numbers to the values of some rows that have none yet: `rows` is what follows FROM, with the
    /// rows under the source's alias. In the order of the values, so that two of these never wait for each other.
    pub fn fill(&self, rows: &str) -> Vec<String> {
        let fill = |(n, lookup): (usize, &Lookup)| {
            let (table, value, column) = (waiting(&self.source, n), Ident(&lookup.value), Ident(&lookup.source));
            format!(
                "INSERT INTO {table} ({value}) SELECT DISTINCT {0}.{column} FROM {rows} AND {1} ORDER BY 1 ON CONFLICT DO NOTHING",
                self.alias(),
                self.without_number(n, lookup)
            )
        };
        self.lookups.iter().enumerate().map(fill).collect()
    }

    /// Whether a value of the source's row has no number yet; `None` where there are no tables of values.
    pub fn unnumbered(&self) -> Option<String> {
        let wanting = self.lookups.iter().enumerate().map(|(n, lookup)| self.without_number(n, lookup));
        let wanting = wanting.collect::<Vec<_>>().join(" OR ");
        (!self.lookups.is_empty()).then(|| format!("({wanting})"))
    }

    fn without_number(&self, n: usize, lookup: &Lookup) -> String {
        let (table, value) = (waiting(&self.source, n), Ident(&lookup.value));
        let column = format!("{}.{}", self.alias(), Ident(&lookup.source));
        format!(
            "({column} IS NOT NULL AND NOT EXISTS (SELECT 1 FROM {table} AS \"#lookup\" WHERE \"#lookup\".{value} = {column}))"
        )
    }
}
