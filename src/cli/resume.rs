//! `pgrecast resume [ID]`.

use super::options::Changes;
use super::session::{Connection, Output};
use super::typed::ResumeArgs;
use crate::error::Failure;

/// An interrupted migration to go on with.
#[derive(Debug, PartialEq)]
pub struct Resume {
    /// Its number; the only one there is where none.
    pub id: Option<i64>,
    /// What to change in the options that the migration has.
    pub changes: Changes,
    /// The database.
    pub connection: Connection,
    /// What is said, and where.
    pub output: Output,
}

impl Resume {
    pub(super) fn check(typed: ResumeArgs) -> Result<Self, Failure> {
        Ok(Resume {
            id: typed.which.id,
            changes: typed.changes,
            output: Output::new(&typed.session.format, typed.report).listening(&typed.status),
            connection: typed.session.into(),
        })
    }
}
