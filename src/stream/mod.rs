//! The change stream of the source: what the server sends, read into changed keys.
//!
//! ```text
//! pg::replication::Stream ─ XLogData ─> decode ─ Message ─> Assembler (KeyReader) ─ Event ─> journal or flushers
//! ```
//!
//! Everything here is pure: no connection, no clock. Only the key of a changed row is kept, since its row is read again
//! from the source when the key is flushed.

mod decode;
#[cfg(test)]
mod fixtures;
mod key;
mod keys;
mod message;
mod transaction;

pub use decode::{DecodeError, Reason, decode};
pub use key::Key;
pub use keys::{KeyError, KeyReader};
pub use message::{
    Begin, Column, Commit, Delete, Insert, LogicalMessage, Message, OldRow, Origin, Relation, ReplicaIdentity,
    Truncate, Tuple, Type, Update, Value,
};
pub use transaction::{Assembler, BARRIER_PREFIX, Event, SequenceError};

/// Why a stream cannot be read on. None of these goes away by trying again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes are no message of the protocol.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A change does not show its key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Messages in an order that the protocol does not have.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
}
