//! Asking whoever has the lease of a migration to compare its tables.

use super::Store;
use super::steering::notify_sql;
use super::store::LOCK_CLASS;
use crate::error::Failure;
use crate::pg::Literal;

/// First half of the key of the shared lock by which whoever has asked for a comparison shows that the answer is still waited for.
const ASKED_CLASS: i32 = LOCK_CLASS + 1;

impl Store {
    /// Asks whoever has the lease for a comparison: its number. The question stands as long as this connection.
    pub async fn ask_to_compare(&self, id: i32) -> Result<i64, Failure> {
        let shown = format!("SELECT pg_advisory_lock_shared({ASKED_CLASS}, {id})");
        self.conn().batch("show question", &shown).await?;
        let sql = "UPDATE pgrecast.migration SET asked = asked + 1 WHERE id = $1 RETURNING asked";
        let rows = self.conn().rows("ask to compare", sql, &[&id]).await?;
        self.conn().batch("notify", &notify_sql(id)).await?;
        rows.first().map(|row| row.get(0)).ok_or_else(|| Failure::failed(format!("migration {id} is gone")))
    }

    /// The number of the last comparison that was asked for and not answered, while somebody waits for it.
    pub async fn asked_to_compare(&self, id: i32) -> Result<Option<i64>, Failure> {
        let sql = format!(
            "SELECT m.asked FROM pgrecast.migration m WHERE m.id = {id} AND m.asked > m.answered AND EXISTS \
             (SELECT 1 FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND granted \
             AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) \
             AND classid = {ASKED_CLASS}::oid AND objid = {id}::oid AND objsubid = 2)"
        );
        Ok(self.conn().scalar("look for question", &sql).await?.and_then(|asked| asked.parse().ok()))
    }

    /// SQL that keeps the verdict of a comparison, the answer to all that were asked for up to `asked`.
    pub fn answer_sql(id: i32, asked: i64, verdict: &serde_json::Value) -> String {
        format!(
            "UPDATE pgrecast.migration SET answered = greatest(answered, {asked}), verdict = {}::jsonb WHERE id = {id}",
            Literal(&verdict.to_string())
        )
    }

    /// Throws away what a comparison that was interrupted has read.
    pub async fn forget_comparison(&self, id: i32) -> Result<(), Failure> {
        let sql = format!(
            "DELETE FROM pgrecast.comparison WHERE migration IN \
             (SELECT m.id FROM pgrecast.migration m WHERE coalesce(m.head, m.id) = {id})"
        );
        Ok(self.conn().batch("forget comparison", &sql).await?)
    }
}
