//! `pgrecast alter TABLE CLAUSES`.

use super::name::TableName;
use super::options::MigrateOptions;
use super::reverse::Reverse;
use super::session::{Begun, Connection, Output};
use super::setting::Setting;
use super::typed::AlterArgs;
use crate::error::Failure;

/// A table and its new shape.
#[derive(Debug, PartialEq)]
pub struct Alter {
    /// The table to migrate.
    pub table: TableName,
    /// `ALTER TABLE` clauses as they were typed; empty for a plain rewrite.
    pub clauses: String,
    /// How old columns come back from a new row; no column twice.
    pub reverse: Vec<Reverse>,
    /// Plan and estimate only.
    pub dry_run: bool,
    /// How to run it.
    pub options: MigrateOptions,
    /// The database.
    pub connection: Connection,
    /// What is said, and where.
    pub output: Output,
}

impl Alter {
    pub(super) fn check(typed: AlterArgs) -> Result<Self, Failure> {
        let Begun { dry_run, mut options, connection, output } = typed.beginning.check(typed.primary_key)?;
        options.settings = each_once(typed.settings)?;
        options.on_error = typed.on_error;
        let reverse = typed.reverse;
        each_column_once(&reverse)?;
        if !reverse.is_empty() && options.rollback_window.is_none() {
            return Err(Failure::usage("--reverse is for --rollback-window")
                .hint("Give --rollback-window, or leave --reverse out."));
        }
        Ok(Alter { table: typed.table, clauses: typed.clauses, reverse, dry_run, options, connection, output })
    }
}

/// Of two expressions for one column neither would be the one.
pub(super) fn each_column_once(reverse: &[Reverse]) -> Result<(), Failure> {
    let twice = reverse.iter().enumerate().find(|(at, one)| reverse[..*at].iter().any(|o| o.column == one.column));
    match twice {
        Some((_, one)) => Err(Failure::usage(format!("--reverse {} is given twice", one.column))),
        None => Ok(()),
    }
}

/// Two values of one setting are a mistake that the server would not report.
pub(super) fn each_once(settings: Vec<Setting>) -> Result<Vec<Setting>, Failure> {
    let twice = settings.iter().enumerate().find(|(at, one)| settings[..*at].iter().any(|o| o.name == one.name));
    match twice {
        Some((_, setting)) => Err(Failure::usage(format!("--setting {} is given twice", setting.name))),
        None => Ok(settings),
    }
}
