//! Steering a migration from another terminal, and looking at it: the run reads its control row twice a second.

use super::Store;
use super::store::Ending;
use crate::cli::MigrateOptions;
use crate::error::{Exit, Failure};
use crate::pg::Literal;

impl Store {
    /// Puts new options in the place of those that were read.
    ///
    /// # Errors
    /// Exit 6 where somebody else has changed them meanwhile.
    pub async fn change_options(&self, id: i32, from: &MigrateOptions, to: &MigrateOptions) -> Result<(), Failure> {
        let json = |options| {
            serde_json::to_string(options).map_err(|e| Failure::failed(format!("cannot keep the options: {e}")))
        };
        let sql = "UPDATE pgrecast.migration SET options = $3::text::jsonb WHERE id = $1 AND options = $2::text::jsonb";
        match self.conn().execute("change options", sql, &[&id, &json(from)?, &json(to)?]).await? {
            0 => Err(Failure::new(Exit::Busy, format!("somebody else has just changed the options of migration {id}"))
                .hint("Run the same command again.")),
            _ => Ok(()),
        }
    }

    /// Holds a migration back, or lets it go on.
    pub async fn pause(&self, id: i32, paused: bool) -> Result<(), Failure> {
        let sql = format!("UPDATE pgrecast.migration SET paused = {paused} WHERE id = {id}");
        Ok(self.conn().batch("pause", &sql).await?)
    }

    /// Asks whoever runs a migration to stop; `None` takes it back.
    pub async fn ask_to_end(&self, id: i32, ending: Option<Ending>) -> Result<(), Failure> {
        let word = ending.map_or_else(|| "NULL".to_owned(), |e| Literal(e.word()).to_string());
        Ok(self
            .conn()
            .batch("ask to end", &format!("UPDATE pgrecast.migration SET ending = {word} WHERE id = {id}"))
            .await?)
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
        let sql = format!("UPDATE pgrecast.migration SET cutover_released = true WHERE id = {id}");
        Ok(self.conn().batch("release cut-over", &sql).await?)
    }
}
