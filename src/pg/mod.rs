//! The conversation with PostgreSQL: connections, quoting, errors, catalog, replication wire.

pub mod conninfo;
pub mod error;
pub mod sql;
pub mod tls;

pub use conninfo::{Session, Target, Wire};
pub use error::{Error, Verdict};
pub use sql::{Ident, Literal, QualifiedName};
