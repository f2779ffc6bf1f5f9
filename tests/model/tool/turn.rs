//! How the follower comes from one mode to the next, and what it gives the flushers.

use std::collections::VecDeque;

use super::flusher::{Flusher, Keys, unflushed};
use super::follower::{Draining, Follower, Mode, Reading, Then};
use super::{Broken, Done, Ended, JOBS};
use crate::dice::Dice;
use crate::server::Server;
use crate::tables::Redo;

/// Keys of one flush.
const BATCH_KEYS: usize = 2;

/// Keys of the youngest generation below which following turns live.
const LIVE_KEYS: u64 = 4;

impl Follower {
    /// Takes whatever step is due.
    pub(super) fn advance(&mut self, server: &mut Server, dice: &mut Dice) -> Done {
        match &self.mode {
            Mode::Journal if self.catching_up && self.is_idle() => {
                let Some(oldest) = self.older.first().copied() else {
                    self.then = Some(Then::NextGeneration);
                    return Ok(Some("is done with the older generations"));
                };
                self.mode = draining(oldest);
                Ok(Some("begins to drain"))
            }
            Mode::Journal => Ok(None),
            Mode::Drain(_) => self.drain(server, dice),
            Mode::Live => self.dispatch(dice),
        }
    }

    /// All that was received is in the journal once the writer is done: then this follows.
    pub(super) fn go_on(&mut self, then: Then, server: &mut Server) -> Done {
        if !self.is_written() {
            return Ok(None);
        }
        self.connect(server)?;
        self.then = None;
        match then {
            Then::NextGeneration if self.written.is_some_and(|n| n < LIVE_KEYS) => self.go_live(server),
            Then::NextGeneration => {
                self.rotate(server);
                self.mode = draining(self.older[0]);
                Ok(Some("begins a generation to drain the one before"))
            }
            Then::BackToTable => {
                self.rotate(server);
                for (key, pending) in self.backlog.drain_waiting() {
                    self.keep_pending(key, pending.xid);
                }
                Ok(Some("goes back to the table"))
            }
            Then::Drop(generation) => {
                server.write(vec![Redo::Drop(generation)], false);
                self.older.retain(|g| *g != generation);
                self.mode = Mode::Journal;
                Ok(Some("drops a generation"))
            }
        }
    }

    fn rotate(&mut self, server: &mut Server) {
        server.write(vec![Redo::Create(self.generation + 1)], false);
        self.older.push(self.generation);
        self.generation += 1;
        self.written = Some(0);
    }

    fn go_live(&mut self, server: &Server) -> Done {
        for (key, xid) in self.rows(server, self.generation)? {
            self.backlog.add(key, xid, self.last_end);
        }
        let mark = self.backlog.mark();
        self.settling.iter_mut().for_each(|(settled, _)| *settled = mark);
        self.mode = Mode::Live;
        self.answer_settled();
        Ok(Some("turns live"))
    }

    fn rows(&self, server: &Server, generation: u32) -> Result<Keys, Ended> {
        let rows = server.tables.generations.get(&generation).ok_or(Ended::Again("the journal is gone"))?;
        Ok(unflushed(rows, server))
    }

    fn drain(&mut self, server: &Server, dice: &mut Dice) -> Done {
        let Mode::Drain(d) = &self.mode else { return Ok(None) };
        let unopened = d.reading == Reading::Unopened && d.batches.iter().all(Option::is_none);
        let keys = if unopened { Some(self.rows(server, d.generation)?) } else { None };
        let Mode::Drain(d) = &mut self.mode else { return Ok(None) };
        if let Some(mut keys) = keys {
            d.reading = Reading::Exhausted;
            if dice.once_in(10) {
                keys.truncate(1);
                d.reading = Reading::Breaking;
            }
            d.read = keys.into();
            return Ok(Some("reads a generation"));
        }
        if d.reading == Reading::Breaking && dice.once_in(2) {
            d.read.clear();
            d.reading = Reading::Unopened;
            return Ok(Some("will read the generation again"));
        }
        if let Some(idle) = self.flushers.iter().position(|f| !f.is_busy())
            && !d.read.is_empty()
        {
            let some = d.read.len().min(BATCH_KEYS);
            let batch: Keys = d.read.drain(..some).collect();
            d.batches[idle] = Some(batch.clone());
            self.flushers[idle] = Flusher::Given(batch);
            return Ok(Some("gives a flusher keys of the generation"));
        }
        if d.reading == Reading::Exhausted && d.read.is_empty() && d.batches.iter().all(Option::is_none) {
            self.then = Some(Then::Drop(d.generation));
            return Ok(Some("is done with a generation"));
        }
        Ok(None)
    }

    fn dispatch(&mut self, dice: &mut Dice) -> Done {
        if self.quiet {
            return Ok(None);
        }
        let partition = dice.below(JOBS);
        let anybody = self.broken == Broken::TwoFlushersOnOneKey;
        let flusher = if anybody { dice.below(JOBS) } else { partition };
        if self.flushers[flusher].is_busy() || self.backlog.ready(partition) == 0 {
            return Ok(None);
        }
        let taken = self.backlog.take(partition, BATCH_KEYS);
        if anybody {
            self.backlog.settle(partition, &[], &[]);
        }
        self.flushers[flusher] = Flusher::Given(taken.into_iter().map(|(key, p)| (key, p.xid)).collect());
        Ok(Some("gives a flusher keys"))
    }

    /// A batch came back, or unsettled keys are looked at again.
    pub(super) fn settle(&mut self, dice: &mut Dice) -> Done {
        let which = dice.below(JOBS);
        let (batch, unseen) = match std::mem::take(&mut self.flushers[which]) {
            Flusher::Flushed { batch, unseen } => (batch, unseen),
            other @ (Flusher::Idle | Flusher::Given(_) | Flusher::Open { .. }) => {
                self.flushers[which] = other;
                self.backlog.wake();
                return Ok(None);
            }
        };
        let left = batch.into_iter().enumerate().filter(|(i, _)| unseen.contains(i)).map(|(_, left)| left);
        if let Mode::Drain(d) = &mut self.mode
            && d.batches[which].take().is_some()
        {
            left.for_each(|(key, xid)| self.keep_pending(key, xid));
        } else if self.broken == Broken::TwoFlushersOnOneKey {
            for (key, xid) in left {
                self.backlog.add(key, xid, self.last_end);
            }
        } else {
            self.backlog.settle(which, &unseen, &[]);
        }
        self.answer_settled();
        Ok(Some("settles a batch"))
    }
}

fn draining(generation: u32) -> Mode {
    Mode::Drain(Draining { generation, reading: Reading::Unopened, read: VecDeque::new(), batches: Default::default() })
}
