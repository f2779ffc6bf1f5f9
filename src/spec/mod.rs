//! What is asked for: clauses, read by PostgreSQL's own parser, a partitioning, or how a table is taken apart.

mod clauses;
pub mod partitioning;
pub mod split;

pub use clauses::{Clause, ClauseKind, Clauses, Statement};
pub use partitioning::Partitioning;
pub use split::Split;

/// What is to be done to a table.
#[derive(Debug, Clone)]
pub enum Spec {
    /// It takes these clauses.
    Alter(Clauses),
    /// It becomes partitioned.
    Partition(Partitioning),
    /// Columns or rows leave it for new tables.
    Split(Split),
}
