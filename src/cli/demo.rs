//! `pgrecast demo`.

use std::time::Duration;

use super::Output;
use super::typed::DemoArgs;

/// Enough to watch, and done within minutes on two cores.
pub(super) const DEFAULT_ROWS: u64 = 3_000_000;
/// Below this there is nothing to see.
pub(super) const MIN_ROWS: u64 = 1_000;
/// The demo widens an `integer` key and fills the disk of an ordinary machine above this.
pub(super) const MAX_ROWS: u64 = 200_000_000;
/// Enough for a steady rate.
pub(super) const DEFAULT_SECONDS: u64 = 5;
/// An hour.
pub(super) const MAX_SECONDS: u64 = 3_600;

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
