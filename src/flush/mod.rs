//! Brings a batch of changed keys up to date in the shadow, by re-reading their rows from the source (rules 5 to 7).
//!
//! A flush is one REPEATABLE READ transaction: keys that the source no longer has are deleted, the rest is upserted on
//! the target's own key. Rows that meet another unique index because a neighbour is still stale are removed from the
//! shadow and stay in the journal: their stale version was wrong anyway, and its absence lets the neighbour in.

pub mod blame;
mod snapshot;
mod statements;
mod worker;

pub use snapshot::{Snapshot, widen};
pub use statements::Statements;
use tokio_postgres::Statement;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
pub use worker::{Batch, Outcome, Settled, worker};

use crate::copy::lock_source;
use crate::drift;
use crate::pg::{Conn, Error};
use crate::plan::types::{Names, Plan};
use crate::stream::Key;

/// A connection that can flush.
pub struct Flusher {
    conn: Conn,
    delete_gone: Statement,
    delete_all: Statement,
    upsert: Statement,
    begin: String,
    check: String,
    columns: String,
}

/// What a flush did.
pub struct Flushed {
    /// The snapshot it read.
    pub snapshot: Snapshot,
    /// Positions of keys that met a stale neighbour, with the server's error.
    pub conflicts: Vec<(usize, Error)>,
}

/// A deferred constraint would tell only at COMMIT that a row met a stale neighbour, when the statement that wrote it
/// can no longer be undone alone (SET CONSTRAINTS, PostgreSQL manual).
pub const CONFLICTS_AT_ONCE: &str = "SET CONSTRAINTS ALL IMMEDIATE";

/// The error's text where the source is no longer the table of the plan.
pub const DRIFTED: &str = "the source's columns are not those of the plan";

impl Flusher {
    /// Prepares the statements on `conn`. `columns` is the source's fingerprint (rule 11).
    pub async fn new(conn: Conn, plan: &Plan, names: &Names, columns: &str) -> Result<Self, Error> {
        let sql = Statements::new(plan, names);
        Ok(Flusher {
            delete_gone: conn.prepare("flush deletes", &sql.delete_gone).await?,
            delete_all: conn.prepare("flush removals", &sql.delete_all).await?,
            upsert: conn.prepare("flush upserts", &sql.upsert).await?,
            begin: format!(
                "BEGIN ISOLATION LEVEL REPEATABLE READ; {}; {CONFLICTS_AT_ONCE}",
                lock_source(&plan.source.name)
            ),
            check: format!(
                "SELECT pg_current_snapshot()::text, f.columns FROM ({}) AS f(filenode, columns)",
                drift::sql(&plan.source)
            ),
            columns: columns.to_owned(),
            conn,
        })
    }

    /// The connection.
    pub fn conn(&self) -> &Conn {
        &self.conn
    }

    /// Flushes the keys in a transaction of its own.
    pub async fn flush(&self, keys: &[Key]) -> Result<Flushed, Error> {
        match self.attempt(keys).await {
            Err(e) if is_conflict(&e) => {
                self.roll_back().await?;
                self.careful(keys).await
            }
            Err(e) => {
                self.roll_back().await?;
                Err(e)
            }
            Ok(flushed) => Ok(flushed),
        }
    }

    async fn roll_back(&self) -> Result<(), Error> {
        if self.conn.is_closed() { Ok(()) } else { self.conn.batch("roll back flush", "ROLLBACK").await }
    }

    async fn attempt(&self, keys: &[Key]) -> Result<Flushed, Error> {
        let arrays = Arrays::new(keys);
        let params = arrays.params();
        // One round trip: the server works through them in this order and skips the rest behind an error.
        let (begun, checked, deleted, written) = tokio::join!(
            biased;
            self.conn.batch("begin flush", &self.begin),
            self.conn.simple("check source", &self.check),
            self.run("flush deletes", &self.delete_gone, &params),
            self.run("flush upserts", &self.upsert, &params),
        );
        begun?;
        let snapshot = self.read_check(checked?)?;
        deleted?;
        written?;
        self.conn.batch("commit flush", "COMMIT").await?;
        Ok(Flushed { snapshot, conflicts: Vec::new() })
    }

    /// All keys are removed first, so that rows which trade a unique value among themselves cannot meet; those that
    /// still meet a neighbour outside of the batch are found one by one.
    async fn careful(&self, keys: &[Key]) -> Result<Flushed, Error> {
        self.conn.batch("begin flush", &self.begin).await?;
        let outcome = async {
            let snapshot = self.read_check(self.conn.simple("check source", &self.check).await?)?;
            let conflicts = self.replace(keys).await?;
            self.conn.batch("commit flush", "COMMIT").await?;
            Ok(Flushed { snapshot, conflicts })
        }
        .await;
        if outcome.is_err() {
            self.roll_back().await?;
        }
        outcome
    }

    /// Removes the keys and writes their rows again, inside the transaction that is open; gives back those that met a
    /// neighbour, which are then absent from the shadow.
    pub async fn replace(&self, keys: &[Key]) -> Result<Vec<(usize, Error)>, Error> {
        self.run("flush removals", &self.delete_all, &Arrays::new(keys).params()).await?;
        let mut conflicts = Vec::new();
        let mut parts = vec![(0, keys.len())];
        while let Some((start, end)) = parts.pop() {
            if start == end {
                continue;
            }
            self.conn.batch("savepoint", "SAVEPOINT part").await?;
            match self.run("flush upserts", &self.upsert, &Arrays::new(&keys[start..end]).params()).await {
                Ok(_) => self.conn.batch("release", "RELEASE SAVEPOINT part").await?,
                Err(e) if is_conflict(&e) => {
                    self.conn.batch("undo part", "ROLLBACK TO SAVEPOINT part; RELEASE SAVEPOINT part").await?;
                    if end - start == 1 {
                        conflicts.push((start, e));
                    } else {
                        let middle = start + (end - start) / 2;
                        parts.push((middle, end));
                        parts.push((start, middle));
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Ok(conflicts)
    }

    /// Deletes and upserts inside the transaction that is open.
    pub async fn write(&self, keys: &[Key]) -> Result<(), Error> {
        let arrays = Arrays::new(keys);
        let params = arrays.params();
        let (deleted, written) = tokio::join!(
            biased;
            self.run("flush deletes", &self.delete_gone, &params),
            self.run("flush upserts", &self.upsert, &params),
        );
        deleted?;
        written?;
        Ok(())
    }

    async fn run(
        &self,
        name: &'static str,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, Error> {
        self.conn.client().execute(statement, params).await.map_err(|e| Error::from_client(name, &e))
    }

    fn read_check(&self, rows: Vec<Vec<Option<String>>>) -> Result<Snapshot, Error> {
        let row = rows.into_iter().next().unwrap_or_default();
        let text = |i: usize| row.get(i).cloned().flatten().unwrap_or_default();
        if text(1) != self.columns {
            return Err(Error::client("check source", DRIFTED));
        }
        Snapshot::parse(&text(0)).ok_or_else(|| Error::client("check source", "the server's snapshot cannot be read"))
    }
}

/// A row met a unique or exclusion constraint other than the one the upsert names.
pub fn is_conflict(error: &Error) -> bool {
    error.is(&SqlState::UNIQUE_VIOLATION) || error.is(&SqlState::EXCLUSION_VIOLATION)
}

/// Keys turned into one array for each key column.
struct Arrays<'a> {
    columns: Vec<Vec<&'a str>>,
}

impl<'a> Arrays<'a> {
    fn new(keys: &'a [Key]) -> Self {
        let width = keys.first().map_or(0, |k| k.columns().count());
        let mut columns = vec![Vec::with_capacity(keys.len()); width];
        for key in keys {
            for (column, value) in columns.iter_mut().zip(key.columns()) {
                column.push(value);
            }
        }
        Arrays { columns }
    }

    fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.columns.iter().map(|c| c as &(dyn ToSql + Sync)).collect()
    }
}
