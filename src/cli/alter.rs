//! `pgrecast alter TABLE CLAUSES`.

use super::name::TableName;
use super::options::MigrateOptions;
use super::session::{Connection, Output};
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
        typed.later.check()?;
        let mut options = typed.changes.apply(MigrateOptions::default())?;
        options.primary_key = typed.primary_key.map(|columns| columns.0);
        options.settings = each_once(typed.settings)?;
        Ok(Alter {
            table: typed.table,
            clauses: typed.clauses,
            dry_run: typed.dry_run,
            options,
            output: Output::new(&typed.session.format, typed.report),
            connection: typed.session.into(),
        })
    }
}

/// Two values of one setting are a mistake that the server would not report.
fn each_once(settings: Vec<Setting>) -> Result<Vec<Setting>, Failure> {
    let twice = settings.iter().enumerate().find(|(at, one)| settings[..*at].iter().any(|o| o.name == one.name));
    match twice {
        Some((_, setting)) => Err(Failure::usage(format!("--setting {} is given twice", setting.name))),
        None => Ok(settings),
    }
}
