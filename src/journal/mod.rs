//! The journal: the set of keys known to have changed, on disk or in memory.

mod ack;
mod backlog;
pub mod table;

pub use ack::{Ledger, outstanding_from};
pub use backlog::{Backlog, Pending};
