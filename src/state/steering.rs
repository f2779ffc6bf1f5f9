//! Steering a migration from another terminal, and looking at it.
//!
//! What is asked for stands in the control row, which is the truth. Who changes it notifies the run in the same transaction,
//! and the run, which listens on the connection that holds its lease, looks at the row at once; it looks twice a second
//! all the same, as a notification can be lost with a connection.

use tokio_postgres::error::SqlState;

use super::Store;
use super::store::Ending;
use crate::cli::MigrateOptions;
use crate::error::{Exit, Failure};
use crate::pg::{Heard, Ident, Literal};

/// Where the run of a migration listens.
fn channel(id: i32) -> String {
    format!("pgrecast_{id}")
}

/// Tells it, as part of the transaction that changes its row.
pub(super) fn notify_sql(id: i32) -> String {
    format!("NOTIFY {}", Ident(&channel(id)))
}

impl Store {
    /// Listens on this connection to whoever steers the migration.
    pub(super) async fn listen(&self, id: i32) -> Result<(), Failure> {
        Ok(self.conn().batch("listen", &format!("LISTEN {}", Ident(&channel(id)))).await?)
    }

    /// Wakes when somebody steers, where this connection has the lease.
    pub fn steered(&self) -> Heard {
        self.conn().heard()
    }

    /// Puts new options in the place of those that were read.
    ///
    /// # Errors
    /// Exit 6 where somebody else has changed them meanwhile.
    pub async fn change_options(&self, id: i32, from: &MigrateOptions, to: &MigrateOptions) -> Result<(), Failure> {
        let json = |options| {
            serde_json::to_string(options).map_err(|e| Failure::failed(format!("cannot keep the options: {e}")))
        };
        let sql = "WITH changed AS (UPDATE pgrecast.migration SET options = $3::text::jsonb \
                   WHERE id = $1 AND options = $2::text::jsonb RETURNING id) \
                   SELECT pg_catalog.pg_notify($4, '') FROM changed";
        let changed =
            self.conn().execute("change options", sql, &[&id, &json(from)?, &json(to)?, &channel(id)]).await?;
        match changed {
            0 => Err(Failure::new(Exit::Busy, format!("somebody else has just changed the options of migration {id}"))
                .hint("Run the same command again.")),
            _ => Ok(()),
        }
    }

    /// Holds a migration back, or lets it go on.
    pub async fn pause(&self, id: i32, paused: bool) -> Result<(), Failure> {
        let sql = format!("UPDATE pgrecast.migration SET paused = {paused} WHERE id = {id}; {}", notify_sql(id));
        Ok(self.conn().batch("pause", &sql).await?)
    }

    /// Asks whoever runs a migration to stop; `None` takes it back. One that is gone with the control schema has nobody to ask:
    /// who was asked before may have given it up meanwhile.
    pub async fn ask_to_end(&self, id: i32, ending: Option<Ending>) -> Result<(), Failure> {
        let word = ending.map_or_else(|| "NULL".to_owned(), |e| Literal(e.word()).to_string());
        let sql = format!("UPDATE pgrecast.migration SET ending = {word} WHERE id = {id}; {}", notify_sql(id));
        match self.conn().batch("ask to end", &sql).await {
            Err(e) if e.is(&SqlState::UNDEFINED_TABLE) => Ok(()),
            asked => Ok(asked?),
        }
    }

    /// What the run of a migration wrote down last, where that was a moment ago.
    pub async fn progress(&self, id: i32) -> Result<Option<String>, Failure> {
        let sql = format!(
            "SELECT state::text FROM pgrecast.progress WHERE migration = {id} AND at > clock_timestamp() - interval '15s'"
        );
        Ok(self.conn().scalar("read progress", &sql).await?)
    }

    /// Releases a postponed cut-over.
    pub async fn release_cutover(&self, id: i32) -> Result<(), Failure> {
        let sql = format!("UPDATE pgrecast.migration SET cutover_released = true WHERE id = {id}; {}", notify_sql(id));
        Ok(self.conn().batch("release cut-over", &sql).await?)
    }
}
