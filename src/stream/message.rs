//! The messages of `pgoutput`, protocol version 1 (manual 55.9, "Logical Replication Message Formats").

use bytes::Bytes;

use crate::pg::Lsn;

/// One message: the data of one `XLogData` frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A transaction begins.
    Begin(Begin),
    /// The transaction is complete.
    Commit(Commit),
    /// The transaction was itself replicated from elsewhere.
    Origin(Origin),
    /// The shape of a table, ahead of its first change and again after its shape changed.
    Relation(Relation),
    /// A type that is not built in, ahead of the relation that uses it.
    Type(Type),
    /// A new row.
    Insert(Insert),
    /// A changed row.
    Update(Update),
    /// A removed row.
    Delete(Delete),
    /// Tables were emptied.
    Truncate(Truncate),
    /// What `pg_logical_emit_message` wrote.
    Logical(LogicalMessage),
}

/// Start of a transaction. Transactions arrive whole and in commit order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    /// Where the commit record starts.
    pub final_lsn: Lsn,
    /// Microseconds since 2000-01-01 00:00 UTC, by the server's clock.
    pub commit_time: i64,
    /// The transaction's 32-bit id.
    pub xid: u32,
}

/// End of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// Where the commit record starts: the `final_lsn` of the transaction's [`Begin`].
    pub commit_lsn: Lsn,
    /// Where the commit record ends: what may be acknowledged.
    pub end_lsn: Lsn,
    /// Microseconds since 2000-01-01 00:00 UTC, by the server's clock.
    pub commit_time: i64,
}

/// Where a replicated transaction came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Its commit on the server of origin.
    pub commit_lsn: Lsn,
    /// The origin's name.
    pub name: String,
}

/// A table as the publication shows it: with a column list, only the listed columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// The table's oid.
    pub oid: u32,
    /// Its schema; empty for `pg_catalog`.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What the old row of an update or delete shows.
    pub replica_identity: ReplicaIdentity,
    /// The published columns, in the order of every tuple that follows.
    pub columns: Vec<Column>,
}

/// `pg_class.relreplident`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key, if any.
    Default,
    /// Nothing: updates and deletes fail while they are published.
    Nothing,
    /// All columns.
    Full,
    /// A chosen unique index.
    Index,
}

/// A published column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Part of the replica identity.
    pub is_key: bool,
    /// The column's name.
    pub name: String,
    /// `pg_attribute.atttypid`.
    pub type_oid: u32,
    /// `pg_attribute.atttypmod`.
    pub typmod: i32,
}

/// A type that is not built in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Type {
    /// The type's oid.
    pub oid: u32,
    /// Its schema; empty for `pg_catalog`.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A new row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Insert {
    /// The table's oid.
    pub relation: u32,
    /// The row.
    pub new: Tuple,
}

/// A changed row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// The table's oid.
    pub relation: u32,
    /// The row before; absent where no column of the replica identity changed.
    pub old: Option<OldRow>,
    /// The row after.
    pub new: Tuple,
}

/// A removed row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delete {
    /// The table's oid.
    pub relation: u32,
    /// The row before.
    pub old: OldRow,
}

/// The row before a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OldRow {
    /// The columns of the replica identity; the others read as NULL.
    Key(Tuple),
    /// All columns, under `REPLICA IDENTITY FULL`.
    Full(Tuple),
}

impl OldRow {
    /// The row, whichever columns it shows.
    pub fn tuple(&self) -> &Tuple {
        match self {
            OldRow::Key(tuple) | OldRow::Full(tuple) => tuple,
        }
    }
}

/// Tables emptied by one TRUNCATE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truncate {
    /// The tables' oids: those that are published.
    pub relations: Vec<u32>,
    /// `CASCADE` was given.
    pub cascade: bool,
    /// `RESTART IDENTITY` was given.
    pub restart_identity: bool,
}

/// What `pg_logical_emit_message` wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogicalMessage {
    /// Part of a transaction, hence sent with it; otherwise sent as soon as it is read from the WAL.
    pub transactional: bool,
    /// Where its record starts.
    pub lsn: Lsn,
    /// Whose message it is.
    pub prefix: String,
    /// What it says.
    pub content: Bytes,
}

/// A row: one value a published column, in the order of [`Relation::columns`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuple(pub Vec<Value>);

/// A column's value. The bytes are a view into the frame they came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// NULL.
    Null,
    /// Stored out of line and not touched by the update, hence not sent.
    UnchangedToast,
    /// The type's text form.
    Text(Bytes),
    /// The type's binary form, sent only where the `binary` option asks for it.
    Binary(Bytes),
}
