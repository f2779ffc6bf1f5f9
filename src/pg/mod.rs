//! The conversation with PostgreSQL: connections, quoting, errors, catalog, replication wire.

pub mod conn;
pub mod connector;
pub mod conninfo;
pub mod error;
pub mod heard;
pub mod lsn;
pub mod replication;
pub mod sql;
pub mod tls;

pub use conn::{Conn, named};
pub use connector::{Connector, Role};
pub use conninfo::{Session, Target, Wire};
pub use error::{Error, Verdict};
pub use heard::Heard;
pub use lsn::{InvalidLsn, Lsn};
pub use sql::{Ident, Literal, QualifiedName};
