//! Keys in memory on their way to the flushers, and what comes back.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::pace::Lot;
use super::{Applier, CONFLICTS, Flushed, LINGER, Mode};
use crate::error::Failure;
use crate::flush::{self, Batch, Outcome};
use crate::follow::Unfit;
use crate::pg::Error;
use crate::stream::Key;

impl Applier {
    /// Hands ready keys to idle flushers once they have gathered for a moment.
    pub(super) fn dispatch(&mut self) -> Result<(), Failure> {
        self.stuck = self.quiet || self.job.throttle.reason().is_some();
        if self.stuck {
            return Ok(());
        }
        let due = self.urgent || self.gathering_since.is_some_and(|s| s.elapsed() >= LINGER);
        let lot = self.lot();
        let mut left = false;
        for partition in 0..self.flushers.len() {
            let ready = self.backlog.ready(partition);
            if !self.is_free(partition) || ready == 0 || !(due || ready >= lot.eager) {
                left |= ready > 0;
                continue;
            }
            let taken = self.backlog.take(partition, lot.most);
            left |= self.backlog.ready(partition) > 0;
            let (keys, xids) = taken.into_iter().map(|(k, p)| (k, p.xid)).unzip();
            self.flushers[partition].take(Batch { partition, keys, xids })?;
        }
        if due {
            self.gathering_since = left.then(Instant::now);
        }
        Ok(())
    }

    /// How much is flushed at a time.
    pub(super) fn lot(&self) -> Lot {
        Lot::of(self.job.throttle.is_gentle() && !self.urgent)
    }

    /// Whether a flusher may take a batch; in a hurry nobody rests.
    pub(super) fn is_free(&self, partition: usize) -> bool {
        !self.flushers[partition].busy && (self.urgent || self.rests(partition).is_zero())
    }

    /// How long a flusher still rests.
    pub(super) fn rests(&self, partition: usize) -> Duration {
        self.flushers[partition].rests(&self.pace, self.job.throttle.nice(), self.flushers.len())
    }

    /// A batch came back.
    pub(super) async fn settle(&mut self, outcome: Outcome) -> Result<(), Failure> {
        let flusher = &mut self.flushers[outcome.partition];
        flusher.busy = false;
        let (keys, worked) = (outcome.keys.len(), flusher.begun.elapsed());
        flusher.last = Some(Flushed { keys, worked, at: Instant::now() });
        let settled = outcome.result?;
        let positions = &settled.conflicts.positions;
        let unfit: Vec<usize> = settled.unfit.iter().map(|(i, _)| *i).collect();
        let stays = |i: &usize| settled.unseen.contains(i) || positions.contains(i) || unfit.contains(i);
        let flushed = outcome.keys.iter().enumerate().filter(|(i, _)| !stays(i)).map(|(_, key)| key);
        self.view.flushed.fetch_add(flushed.clone().count() as u64, Ordering::Relaxed);
        self.view.fit(flushed);
        for (i, why) in settled.unfit {
            self.set_aside(outcome.keys[i].clone(), why).await?;
        }
        if let Mode::Drain(d) = &mut self.mode
            && let Some(batch) = d.batches.remove(&outcome.partition)
        {
            for (i, (key, xid)) in batch.keys.into_iter().zip(batch.xids).enumerate() {
                if settled.unseen.contains(&i) || positions.contains(&i) {
                    self.keep_pending(key, xid);
                }
            }
            return Ok(());
        }
        let worst = self.backlog.settle(outcome.partition, &settled.unseen, positions);
        if let Some((key, count)) = worst
            && count >= CONFLICTS
            && outcome.keys.iter().position(|k| *k == key).is_none_or(|i| !settled.unseen.contains(&i))
        {
            let why = self.conflict(&key, settled.conflicts.error);
            self.set_aside(key.clone(), why).await?;
            self.backlog.forget(&key);
        }
        self.answer_settled();
        Ok(())
    }

    /// A row that does not fit ends the run; on the way back, its key waits in the journal for whoever corrects it.
    async fn set_aside(&mut self, key: Key, why: Failure) -> Result<(), Failure> {
        if self.job.unfit == Unfit::End {
            return Err(why);
        }
        self.keep_pending(key.clone(), 0);
        // Before the key is retired, since nothing holds the stream back for it afterwards.
        self.write_journal().await?;
        let text = format!("{}: it stays out of the old table", why.primary);
        if self.view.set_aside(&key, why) {
            self.job.reporter.say(crate::report::Event::Warning { text });
        }
        Ok(())
    }

    fn conflict(&self, key: &Key, error: Option<Error>) -> Failure {
        flush::blame::meets(&self.job.plan, &self.job.names, key, error.as_ref())
    }

    pub(super) fn answer_settled(&mut self) {
        if self.settling.is_empty() || !matches!(self.mode, Mode::Live) {
            return;
        }
        let waiting = std::mem::take(&mut self.settling);
        for (mark, reply) in waiting {
            if self.backlog.retired_before(mark) {
                let _ = reply.send(());
            } else {
                self.settling.push((mark, reply));
            }
        }
    }
}
