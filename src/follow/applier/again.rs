//! Changes of the new tables of one that was taken apart that are about more old rows than they name: all their keys go to
//! the journal, to be read again.

use std::time::Duration;

use super::{Applier, Mode};
use crate::error::Failure;
use crate::flush;
use crate::pg::{Ident, Literal};
use crate::plan::rejoin::Holds;
use crate::retry::Retry;
use crate::stream::Key;

/// How often to look whether a change is to be seen.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl Applier {
    /// One of the tables was emptied: every old row that there is may have lost something.
    ///
    /// TRUNCATE got its lock when no flush was reading the table any more, and whoever asks for one now gets it once the
    /// TRUNCATE is to be seen. So what earlier flushes wrote is there to be listed, and later ones see the table empty.
    pub(super) async fn emptied(&mut self) -> Result<(), Failure> {
        let (plan, names) = (&self.job.plan, &self.job.names);
        let list = |name: fn(&crate::plan::types::KeyColumn) -> &str| {
            plan.key.columns.iter().map(|k| Ident(name(k)).to_string()).collect::<Vec<_>>().join(", ")
        };
        let sql = format!(
            "LOCK TABLE {} IN ACCESS SHARE MODE; INSERT INTO {} ({}, pgrecast_xid) SELECT {}, 0 FROM {}",
            plan.read_tables(),
            names.journal(self.generation),
            list(|k| &k.source),
            list(|k| &k.target),
            names.shadow(),
        );
        self.read_again(&sql).await
    }

    /// Values were changed that rows refer to.
    ///
    /// The rows are looked for once the change is to be seen. One that cannot be seen then was changed itself, and will be
    /// read by a flush that sees it, and hence the value as well.
    pub(super) async fn values_changed(&mut self, relation: u32, keys: &[Key], xid: u32) -> Result<(), Failure> {
        // Which rows they are is known later than a comparison may ask.
        self.touched.clone_from(&self.watched);
        let xid = flush::widen(xid, self.near_xid);
        let plan = self.job.plan.clone();
        let of = |beside: &&crate::plan::rejoin::Beside| beside.shape.oid == relation;
        let Some(Holds::Values { reference }) = plan.besides().iter().find(of).map(|beside| &beside.holds) else {
            return Ok(());
        };
        let seen = format!("SELECT pg_visible_in_snapshot('{xid}'::xid8, pg_current_snapshot())");
        let mut retry = Retry::new();
        loop {
            match self.conn.scalar("look for change", &seen).await {
                Ok(Some(seen)) if seen == "t" => break,
                Ok(_) => tokio::time::sleep(LOOK_AGAIN).await,
                Err(e) => self.mend(e, &mut retry).await?,
            }
        }
        let columns = plan.key_names().iter().map(|name| Ident(name).to_string()).collect::<Vec<_>>().join(", ");
        let numbers = keys.iter().filter_map(|key| key.columns().next()).map(|n| Literal(n).to_string());
        let sql = format!(
            "INSERT INTO {} ({columns}, pgrecast_xid) SELECT {columns}, 0 FROM {} WHERE {} IN ({})",
            self.job.names.journal(self.generation),
            plan.whole_source(),
            Ident(reference),
            numbers.collect::<Vec<_>>().join(", "),
        );
        self.read_again(&sql).await
    }

    /// Writes keys to the generation that is written, and lets it be drained. It is lost with the acknowledgement that rests
    /// on it, as all of the journal is.
    async fn read_again(&mut self, sql: &str) -> Result<(), Failure> {
        let sql = format!("BEGIN ISOLATION LEVEL READ COMMITTED; {sql}; COMMIT");
        let mut retry = Retry::new();
        while let Err(e) = self.conn.batch("journal old rows", &sql).await {
            self.mend(e, &mut retry).await?;
        }
        self.written = None;
        match self.mode {
            Mode::Live => self.back_to_table().await,
            Mode::Journal | Mode::Drain(_) => Ok(()),
        }
    }
}
