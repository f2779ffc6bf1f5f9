//! The new tables of a source that is taken apart. Pure.
//!
//! To what is copied, flushed and compared, a part is a plan of its own over the same source: [`Plan::part_plans`]. Only
//! the change stream, the journal and the cut-over are the whole migration's.

use serde::{Deserialize, Serialize};

use super::shape::Shape;
use super::types::{Key, Names, Plan, TargetColumn, Writing};
use crate::error::Failure;
use crate::pg::{Error, Ident, Literal};

/// A new table that rows, or columns, of the source go to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// As it will stand.
    pub target: Shape,
    /// Where each of its columns' values comes from.
    pub columns: Vec<TargetColumn>,
    /// Where the source's key stands in it.
    pub key: Key,
    /// Which of the source's rows it has, as in [`Plan::rows`].
    pub rows: Option<String>,
    /// Whether these rows leave the source.
    pub takes_rows: bool,
    /// The foreign key to the source's key.
    pub foreign_key: Option<Reference>,
}

/// A foreign key from a part to what remains of the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Its name.
    pub name: String,
    /// `FOREIGN KEY …` with the final names.
    pub definition: String,
}

impl Plan {
    /// Each part as a plan.
    pub fn part_plans(&self) -> Vec<Plan> {
        let plan = |part: &Part| Plan {
            rows: part.rows.clone(),
            settings: self.settings.clone(),
            clauses: self.clauses.clone(),
            ..Plan::plain(self.source.clone(), part.target.clone(), part.columns.clone(), part.key.clone())
        };
        self.parts.iter().map(plan).collect()
    }

    /// The same, each with the names of what is its own until the swap.
    pub fn named_parts(&self, names: &Names) -> Vec<(Plan, Names)> {
        self.part_plans().into_iter().enumerate().map(|(n, plan)| (plan, names.of_part(n))).collect()
    }

    /// Everything that is made beside the target.
    pub fn beside(&self, names: &Names) -> Vec<(Plan, Names)> {
        self.named_parts(names).into_iter().chain(self.named_lookups()).collect()
    }

    /// The plan itself, and those of its parts.
    pub fn with_parts(&self, names: &Names) -> Vec<(Plan, Names)> {
        std::iter::once((self.clone(), names.clone())).chain(self.named_parts(names)).collect()
    }

    /// What everything that is made is called until the swap, the target's shadow first, as SQL lists it.
    pub fn shadows(&self, names: &Names) -> String {
        let beside = self.beside(names).into_iter().map(|(_, names)| names.shadow());
        std::iter::once(names.shadow()).chain(beside).map(|name| name.to_string()).collect::<Vec<_>>().join(", ")
    }

    /// Whether a row of the source gives any number of rows.
    pub fn is_to_many(&self) -> bool {
        self.key.writing == Writing::All
    }

    /// The parts that rows go to, with the predicates.
    fn takers(&self) -> impl Iterator<Item = (&Part, &String)> {
        self.parts.iter().filter(|part| part.takes_rows).filter_map(|part| Some((part, part.rows.as_ref()?)))
    }

    /// A condition over the source's row that says that it has no one place; `None` where each has one in any case.
    pub fn misplaced(&self) -> Option<String> {
        let count: Vec<String> = self.takers().map(|(_, rows)| format!("({rows})::pg_catalog.int4")).collect();
        let count = (count.len() > 1 || (self.exhaustive && !count.is_empty())).then(|| count.join(" + "))?;
        Some(match self.exhaustive {
            true => format!("({count}) <> 1"),
            false => format!("({count}) > 1"),
        })
    }

    /// What is said of such a row, as SQL over it.
    pub fn misplaced_words(&self) -> String {
        let key = self.key.columns.iter().map(|k| {
            format!(
                "pg_catalog.format('%s = %s', {}, {}.{})",
                Literal(&plain(&k.source)),
                self.alias(),
                Ident(&k.source)
            )
        });
        let key = key.collect::<Vec<_>>().join(", ");
        let takers = self
            .takers()
            .map(|(part, rows)| format!("CASE WHEN {rows} THEN {} END", Literal(&part.target.name.plain())));
        let takers = takers.collect::<Vec<_>>().join(", ");
        let of = format!(" of {} meets ", self.source.name.plain());
        format!(
            "pg_catalog.concat('row ', pg_catalog.concat_ws(', ', {key}), {}, \
             coalesce('the predicates of ' || nullif(pg_catalog.concat_ws(' and ', {takers}), ''), 'no predicate'))",
            Literal(&of)
        )
    }
}

/// The name of the statement that looks for rows without one place, and of the error where there is one.
pub const MISPLACED: &str = "find misplaced rows";

/// The failure on account of such a row, where that is the error.
pub fn misplaced(error: &Error) -> Option<Failure> {
    (error.statement == MISPLACED && error.sqlstate.is_none() && !error.connection_lost).then(|| {
        Failure::failed(error.message.clone()).detail("Each row has one place at most; with --exhaustive exactly one.").hint(
            "The table is as it was. Correct the row and run the same command again to go on, or give up with pgrecast abort.",
        )
    })
}

fn plain(name: &str) -> String {
    crate::pg::sql::plain_ident(name)
}
