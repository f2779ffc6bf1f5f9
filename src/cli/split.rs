//! `pgrecast split TABLE --into …`.

use serde::Serialize;

use super::alter::{each_column_once, each_once};
use super::name::TableName;
use super::options::MigrateOptions;
use super::reverse::Reverse;
use super::session::{Begun, Connection, Output};
use super::typed::SplitArgs;
use crate::error::Failure;

/// A table that is taken apart.
#[derive(Debug, PartialEq)]
pub struct Split {
    /// The table.
    pub table: TableName,
    /// The new tables as they were typed.
    pub into: Vec<String>,
    /// Tables of distinct values as they were typed.
    pub lookup: Vec<String>,
    /// Columns that leave.
    pub drop: Vec<String>,
    /// No row may belong nowhere.
    pub exhaustive: bool,
    /// A foreign key back from each new table.
    pub foreign_key: Option<OnChange>,
    /// Constraints, indexes and foreign keys that go.
    pub drop_constraints: Vec<String>,
    /// A view with the old shape.
    pub compat_view: Option<TableName>,
    /// How old columns come back from the new tables.
    pub reverse: Vec<Reverse>,
    /// Plan only.
    pub dry_run: bool,
    /// How to run it.
    pub options: MigrateOptions,
    /// The database.
    pub connection: Connection,
    /// What is said, and where.
    pub output: Output,
}

/// What happens to the rows of a new table when theirs in the old one is deleted or gets another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OnChange {
    /// That fails, at the end of the statement.
    NoAction,
    /// That fails.
    Restrict,
    /// They go or change with it.
    Cascade,
}

impl OnChange {
    /// What follows REFERENCES.
    pub fn clause(self) -> &'static str {
        match self {
            OnChange::NoAction => "",
            OnChange::Restrict => " ON UPDATE RESTRICT ON DELETE RESTRICT",
            OnChange::Cascade => " ON UPDATE CASCADE ON DELETE CASCADE",
        }
    }
}

impl Split {
    pub(super) fn check(typed: SplitArgs) -> Result<Self, Failure> {
        let Begun { dry_run, mut options, connection, output } = typed.beginning.check(None)?;
        options.settings = each_once(typed.settings)?;
        each_column_once(&typed.reverse)?;
        if !typed.reverse.is_empty() && typed.compat_view.is_none() && options.rollback_window.is_none() {
            return Err(Failure::usage("--reverse is for --compat-view or --rollback-window")
                .hint("Give one of the two, or leave --reverse out."));
        }
        Ok(Split {
            table: typed.table,
            into: typed.into,
            lookup: typed.lookup,
            drop: typed.drop.map(|columns| columns.0).unwrap_or_default(),
            exhaustive: typed.exhaustive,
            foreign_key: typed.foreign_key,
            drop_constraints: typed.drop_constraints.into_iter().flat_map(|names| names.0).collect(),
            compat_view: typed.compat_view,
            reverse: typed.reverse,
            dry_run,
            options,
            connection,
            output,
        })
    }
}
