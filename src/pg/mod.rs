//! The conversation with PostgreSQL: connections, quoting, errors, catalog, replication wire.

pub mod error;
pub mod lsn;
pub mod replication;
pub mod sql;

pub use error::{Error, Verdict};
pub use lsn::{InvalidLsn, Lsn};
pub use sql::{Ident, Literal, QualifiedName};
