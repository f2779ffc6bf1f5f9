//! What was asked.

pub mod clauses;

pub use clauses::{Clause, ClauseKind, Clauses};
