//! `pgrecast demo`.

use std::time::Duration;

use super::session::Output;
use super::typed::DemoArgs;

/// A migration to watch, on a server of its own.
#[derive(Debug, PartialEq)]
pub struct Demo {
    /// Rows of the table, 1 000 to 200 000 000.
    pub rows: u64,
    /// How long the load runs before the migration, and again after it; whole seconds.
    pub load: Duration,
    /// What is said, and where.
    pub output: Output,
}

impl From<DemoArgs> for Demo {
    fn from(typed: DemoArgs) -> Self {
        Demo {
            rows: typed.rows,
            load: Duration::from_secs(typed.seconds),
            output: Output::new(&typed.format, typed.report),
        }
    }
}
