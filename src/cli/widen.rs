//! `pgrecast widen TABLE.COLUMN TYPE`.

use super::name::ColumnName;
use super::options::MigrateOptions;
use super::session::{Begun, Connection, Output};
use super::typed::WidenArgs;
use crate::error::Failure;

/// A key's column and its new type.
#[derive(Debug, PartialEq)]
pub struct Widen {
    /// The column.
    pub column: ColumnName,
    /// As PostgreSQL spells it.
    pub type_sql: String,
    /// Columns that hold the key without a foreign key that says so.
    pub also: Vec<ColumnName>,
    /// One table after the other, each by a migration of its own.
    pub one_by_one: bool,
    /// Plan only.
    pub dry_run: bool,
    /// How to run it.
    pub options: MigrateOptions,
    /// The database.
    pub connection: Connection,
    /// What is said, and where.
    pub output: Output,
}

impl Widen {
    /// What makes the command the same command.
    pub fn request(&self) -> serde_json::Value {
        let also: Vec<String> = self.also.iter().map(ColumnName::to_string).collect();
        serde_json::json!({
            "command": "widen",
            "column": self.column.to_string(),
            "type": self.type_sql,
            "also": also,
            "way_back": self.options.rollback_window.is_some(),
            "failover_slot": self.options.failover_slot,
        })
    }

    pub(super) fn check(typed: WidenArgs) -> Result<Self, Failure> {
        let Begun { dry_run, options, connection, output } = typed.beginning.check(None)?;
        let twice = typed.also.iter().enumerate().find(|(at, one)| typed.also[..*at].contains(one));
        if let Some((_, one)) = twice {
            return Err(Failure::usage(format!("--also {one} is given twice")));
        }
        if typed.one_by_one && options.rollback_window.is_some() {
            return Err(Failure::usage("--one-by-one and --rollback-window exclude each other")
                .hint("The next table would be begun when the window of the one before is over."));
        }
        Ok(Widen {
            column: typed.column,
            type_sql: typed.type_sql,
            also: typed.also,
            one_by_one: typed.one_by_one,
            dry_run,
            options,
            connection,
            output,
        })
    }
}
