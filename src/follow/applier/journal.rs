//! Received keys on their way to the journal table.

use super::{Applier, Mode, Writing};
use crate::error::Failure;
use crate::follow::writer::Lot;
use crate::journal::table;
use crate::retry::Retry;
use crate::stream::Key;

impl Applier {
    /// Keeps a key that is not flushed yet for the next write to the journal, unless a later change of it is there.
    pub(super) fn keep_pending(&mut self, key: Key, xid: u64) {
        self.pending.entry(key).or_insert(xid);
    }

    /// Hands what was received to the writer, unless it is at work.
    pub(super) fn begin_writing(&mut self) -> Result<(), Failure> {
        if self.pending.is_empty() || self.writing.is_some() {
            return Ok(());
        }
        let keys = std::mem::take(&mut self.pending);
        self.writing = Some(Writing { keys: keys.len() as u64, end: self.last_end });
        self.writer.begin(Lot { generation: self.generation, keys })
    }

    /// The writer is done with its lot.
    pub(super) fn journaled(&mut self, written: Result<(), Failure>) -> Result<(), Failure> {
        written?;
        if let Some(Writing { keys, end }) = self.writing.take() {
            self.written = self.written.map(|n| n + keys);
            self.listed += keys;
            self.journaled_end = end;
        }
        Ok(())
    }

    /// Returns once all that was received is in the journal.
    pub(super) async fn write_journal(&mut self) -> Result<(), Failure> {
        loop {
            self.begin_writing()?;
            if self.writing.is_none() {
                return Ok(());
            }
            let written = self.writer.written().await;
            self.journaled(written)?;
        }
    }

    /// The backlog outgrew its memory: what waits goes to a new generation, and flushing goes on from the table.
    pub(super) async fn back_to_table(&mut self) -> Result<(), Failure> {
        self.mode = Mode::Journal;
        self.gathering_since = None;
        self.rotate().await?;
        for (key, pending) in self.backlog.drain_waiting() {
            self.keep_pending(key, pending.xid);
        }
        self.write_journal().await
    }

    /// Begins a new generation.
    pub(super) async fn rotate(&mut self) -> Result<(), Failure> {
        self.write_journal().await?;
        let next = self.generation + 1;
        let sql = table::create_sql(&self.job.plan, &self.job.names, next);
        let mut retry = Retry::new();
        while let Err(e) = self.conn.batch("create journal", &sql).await {
            self.mend(e, &mut retry).await?;
        }
        self.older.push(self.generation);
        self.generation = next;
        self.written = Some(0);
        Ok(())
    }
}
