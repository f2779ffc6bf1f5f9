//! Generations of the journal table on their way to the flushers, until only a small one is left and following turns live.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::{Applier, Draining, LIVE_KEYS, Mode, Reading};
use crate::error::Failure;
use crate::flush::Batch;
use crate::follow::drainer::Drained;
use crate::journal::table;
use crate::pg::Error;
use crate::retry::Retry;
use crate::stream::Key;

impl Applier {
    /// Opens the oldest generation, or turns live where only the youngest is left and it is small. It need not be
    /// empty: under traffic it never would be.
    pub(super) async fn next_generation(&mut self) -> Result<(), Failure> {
        if self.job.throttle.reason().is_some() {
            return Ok(());
        }
        if self.older.is_empty() {
            self.write_journal().await?;
            if self.written.is_some_and(|n| n < LIVE_KEYS) {
                return self.go_live().await;
            }
            self.rotate().await?;
        }
        let Some(generation) = self.older.first().copied() else { return Ok(()) };
        self.mode = Mode::Drain(Draining {
            generation,
            reading: Reading::Unopened,
            read: VecDeque::new(),
            batches: HashMap::new(),
        });
        Ok(())
    }

    /// No older generation is left: the keys of the youngest come to memory. It stays as it is, since flushing a key once
    /// more than needed does no harm, and a run that dies now finds its keys there.
    async fn go_live(&mut self) -> Result<(), Failure> {
        let mut retry = Retry::new();
        let keys = loop {
            match self.read_generation().await {
                Ok(keys) => break keys,
                Err(e) => self.mend(e, &mut retry).await?,
            }
        };
        for (key, xid) in keys {
            self.backlog.add(key, xid, self.last_end);
        }
        self.listed = 0;
        // Whoever waits for a barrier that came back earlier waits for these keys too.
        let mark = self.backlog.mark();
        for (settled, _) in &mut self.settling {
            *settled = mark;
        }
        self.mode = Mode::Live;
        self.gathering_since = (!self.backlog.is_empty()).then(Instant::now);
        self.answer_settled();
        Ok(())
    }

    async fn read_generation(&mut self) -> Result<Vec<(Key, u64)>, Error> {
        table::open(&self.conn, &self.job.plan, &self.job.names, self.generation).await?;
        let mut keys = Vec::new();
        loop {
            let more = table::fetch(&self.conn, 10_000).await?;
            if more.is_empty() {
                break;
            }
            keys.extend(more);
        }
        table::close_cursor(&self.conn).await?;
        Ok(keys)
    }

    /// The drainer has more of the generation.
    pub(super) fn drained(&mut self, drained: Drained) {
        let Mode::Drain(d) = &mut self.mode else { return };
        match drained {
            Drained::Keys(keys) => d.read.extend(keys),
            Drained::End => d.reading = Reading::Exhausted,
            Drained::Broken => {
                d.read.clear();
                d.reading = Reading::Unopened;
            }
        }
    }

    /// Feeds idle flushers from the oldest generation; drops it when all of it is flushed.
    pub(super) async fn drain(&mut self) -> Result<(), Failure> {
        if self.job.throttle.reason().is_some() {
            return Ok(());
        }
        let lot = self.lot();
        let free: Vec<usize> = (0..self.flushers.len()).filter(|n| self.is_free(*n)).collect();
        let Mode::Drain(d) = &mut self.mode else { return Ok(()) };
        if d.reading == Reading::Unopened && d.batches.is_empty() {
            self.drainer.open(d.generation)?;
            d.reading = Reading::Open;
        }
        for partition in free {
            let some = d.read.len().min(lot.most);
            if some == 0 {
                break;
            }
            self.listed = self.listed.saturating_sub(some as u64);
            let (keys, xids): (Vec<_>, Vec<_>) = d.read.drain(..some).unzip();
            d.batches.insert(partition, Batch { partition, keys: keys.clone(), xids: xids.clone() });
            self.flushers[partition].take(Batch { partition, keys, xids })?;
        }
        if d.reading == Reading::Exhausted && d.read.is_empty() && d.batches.is_empty() {
            let generation = d.generation;
            self.drop_generation(generation).await?;
            self.mode = Mode::Journal;
        }
        Ok(())
    }

    async fn drop_generation(&mut self, generation: u32) -> Result<(), Failure> {
        // What came back unsettled is in a younger generation before this one goes.
        self.write_journal().await?;
        let mut retry = Retry::new();
        while let Err(e) = table::close(&self.conn, &self.job.names, generation).await {
            self.mend(e, &mut retry).await?;
        }
        self.older.retain(|g| *g != generation);
        if let (true, Some(written)) = (self.older.is_empty(), self.written) {
            // A key that was written several times was read once.
            self.listed = written;
        }
        Ok(())
    }
}
