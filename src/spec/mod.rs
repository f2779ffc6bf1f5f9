//! What is asked for: clauses, read by PostgreSQL's own parser, or a partitioning.

mod clauses;
pub mod partitioning;

pub use clauses::{Clause, ClauseKind, Clauses, Statement};
pub use partitioning::Partitioning;

/// What is to be done to a table.
#[derive(Debug, Clone)]
pub enum Spec {
    /// It takes these clauses.
    Alter(Clauses),
    /// It becomes partitioned.
    Partition(Partitioning),
}
