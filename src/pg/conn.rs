//! A connection that says which statement failed.
//!
//! Every statement has a name; it stands in errors, in logs and in `docs/operate.md`.

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, SimpleQueryMessage, Statement};

use super::Error;
use crate::seams;

/// One SQL connection with named statements.
pub struct Conn {
    session: super::conninfo::Session,
}

impl Conn {
    /// Takes over an open session.
    pub fn new(session: super::conninfo::Session) -> Self {
        Conn { session }
    }

    /// The client underneath, for COPY and pipelining.
    pub fn client(&self) -> &Client {
        &self.session.client
    }

    /// Whether the connection is known to be gone.
    pub fn is_closed(&self) -> bool {
        self.session.client.is_closed()
    }

    /// What it is notified of, from now on.
    pub fn heard(&self) -> super::Heard {
        self.session.heard().from_now()
    }

    /// Runs statements without parameters; the rows are dropped.
    pub async fn batch(&self, name: &'static str, sql: &str) -> Result<(), Error> {
        said(name, sql);
        named(name, self.client().batch_execute(sql)).await
    }

    /// Runs statements without parameters in one round trip and returns all rows as text, all result sets in turn.
    pub async fn simple(&self, name: &'static str, sql: &str) -> Result<Vec<Vec<Option<String>>>, Error> {
        said(name, sql);
        let messages = named(name, self.client().simple_query(sql)).await?;
        Ok(messages
            .into_iter()
            .filter_map(|m| match m {
                SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect()),
                _ => None,
            })
            .collect())
    }

    /// The first column of the first row, as text; `None` where there is no row or it is NULL.
    pub async fn scalar(&self, name: &'static str, sql: &str) -> Result<Option<String>, Error> {
        let rows = self.simple(name, sql).await?;
        Ok(rows.into_iter().next().and_then(|r| r.into_iter().next().flatten()))
    }

    /// Rows of a statement with parameters.
    pub async fn rows(&self, name: &'static str, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        said(name, sql);
        named(name, self.client().query(sql, params)).await
    }

    /// Rows touched by a statement with parameters.
    pub async fn execute(&self, name: &'static str, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<u64, Error> {
        said(name, sql);
        named(name, self.client().execute(sql, params)).await
    }

    /// Prepares a statement.
    pub async fn prepare(&self, name: &'static str, sql: &str) -> Result<Statement, Error> {
        self.client().prepare(sql).await.map_err(|e| Error::from_client(name, &e))
    }
}

/// The text may have keys in it, and what a row has: it is not for a log that others read.
fn said(name: &'static str, sql: &str) {
    tracing::debug!(statement = name, "sent");
    tracing::trace!(statement = name, sql, "text");
}

/// A statement under its name, in errors and as a fault point.
pub async fn named<T>(
    name: &'static str,
    statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Error> {
    seams::before(name);
    let answer = statement.await.map_err(|e| Error::from_client(name, &e))?;
    seams::after(name);
    Ok(answer)
}
