//! The follower: owner of the backlog. What it does and in what order is what `src/follow/applier/` does; what it
//! decides by is the crate's own backlog, ledger and assembler.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use pgrecast::flush::widen;
use pgrecast::journal::{Backlog, Ledger, outstanding_from};
use pgrecast::pg::Lsn;
use pgrecast::stream::{Event, Key};

use super::flusher::{Flusher, Keys};
use super::reader::Reader;
use super::{Broken, Done, Ended, JOBS, number};
use crate::dice::Dice;
use crate::server::Server;
use crate::tables::Redo;

pub enum Mode {
    Journal,
    Drain(Draining),
    Live,
}

pub struct Draining {
    pub generation: u32,
    pub reading: Reading,
    pub read: VecDeque<(Key, u64)>,
    pub batches: [Option<Keys>; JOBS],
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    Unopened,
    /// The connection will be found to be lost: what was read is not all.
    Breaking,
    Exhausted,
}

/// What follows once all that was received is in the journal.
#[derive(Clone, Copy)]
pub enum Then {
    NextGeneration,
    BackToTable,
    Drop(u32),
}

pub enum Waiter {
    Settle,
    Drain,
}

struct Writing {
    keys: BTreeMap<Key, u64>,
    end: Lsn,
}

pub struct Follower {
    pub(super) broken: Broken,
    /// Lives of the server: in which the run began, and in which the connection was opened.
    lease: u32,
    conn: Option<u32>,
    pub(super) mode: Mode,
    pub catching_up: bool,
    pub(super) generation: u32,
    pub(super) older: Vec<u32>,
    pub(super) written: Option<u64>,
    pub(super) pending: BTreeMap<Key, u64>,
    writing: Option<Writing>,
    pub(super) then: Option<Then>,
    pub(super) backlog: Backlog,
    /// Keys beyond which the backlog goes back to the table.
    pub(super) memory: usize,
    pub(super) flushers: [Flusher; JOBS],
    pub(super) quiet: bool,
    reader: Reader,
    given: VecDeque<Event>,
    /// A TRUNCATE waits for those who work on the shadow.
    truncating: bool,
    ledger: Ledger,
    safe: Lsn,
    pub(super) last_end: Lsn,
    journaled_end: Lsn,
    near_xid: u64,
    /// Of a broken tool: the highest transaction that ever changed a key.
    highest: BTreeMap<Key, u64>,
    barriers: BTreeMap<u32, Waiter>,
    pub(super) settling: Vec<(u64, u32)>,
    /// Barriers that are answered.
    pub settled: BTreeSet<u32>,
    pub drained: Option<Option<Vec<Key>>>,
}

impl Follower {
    /// Starts from what the journal holds.
    pub fn start(server: &mut Server, broken: Broken, dice: &mut Dice) -> Follower {
        let mut older: Vec<u32> = server.tables.generations.keys().copied().collect();
        let generation = older.pop().unwrap_or_else(|| {
            server.write(vec![Redo::Create(1)], false);
            1
        });
        Follower {
            broken,
            lease: server.life,
            conn: Some(server.life),
            mode: Mode::Journal,
            catching_up: broken == Broken::FlushesDuringCopy,
            generation,
            older,
            written: None,
            pending: BTreeMap::new(),
            writing: None,
            then: None,
            backlog: Backlog::new(JOBS),
            memory: if dice.once_in(3) { 2 } else { usize::MAX },
            flushers: Default::default(),
            quiet: false,
            reader: Reader::default(),
            given: VecDeque::new(),
            truncating: false,
            ledger: Ledger::new(),
            safe: Lsn::ZERO,
            last_end: Lsn::ZERO,
            journaled_end: Lsn::ZERO,
            near_xid: server.next_xid(),
            highest: BTreeMap::new(),
            barriers: BTreeMap::new(),
            settling: Vec::new(),
            settled: BTreeSet::new(),
            drained: None,
        }
    }

    pub fn is_live(&self) -> bool {
        matches!(self.mode, Mode::Live)
    }

    /// Keys that wait, as far as they are in memory.
    pub fn waiting(&self) -> usize {
        self.pending.len() + self.backlog.len()
    }

    pub fn is_idle(&self) -> bool {
        self.flushers.iter().all(|f| !f.is_busy())
    }

    /// Its connection works, or another is opened. A session that is opened while the lease is still held shows that the
    /// server has not crashed since the run began: nothing that was committed is lost.
    pub(super) fn connect(&mut self, server: &Server) -> Result<(), Ended> {
        if self.conn != Some(server.life) && self.lease != server.life && self.broken != Broken::TrustsMemory {
            return Err(Ended::Again("the journal's connection is lost, and the lease with it"));
        }
        self.conn = Some(server.life);
        Ok(())
    }

    /// The connection of the journal, or that of the stream, breaks.
    pub fn lose(&mut self, stream: bool) {
        if stream { self.reader.lose() } else { self.conn = None }
    }

    /// Every session is gone.
    pub fn lose_sessions(&mut self) {
        self.reader.lose();
        for flusher in &mut self.flushers {
            match std::mem::take(flusher) {
                Flusher::Open { batch, .. } => *flusher = Flusher::Given(batch),
                other @ (Flusher::Idle | Flusher::Given(_) | Flusher::Flushed { .. }) => *flusher = other,
            }
        }
    }

    /// The reader's step.
    pub fn read(&mut self, server: &Server, dice: &mut Dice) -> Done {
        self.reader.step(server, self.safe, self.broken, &mut self.given, dice.once_in(2))
    }

    /// The reader tells the slot what is safe.
    pub fn acknowledge(&mut self, server: &mut Server, dice: &mut Dice) -> Done {
        let safe = match self.broken {
            Broken::AcknowledgesReceived => self.reader.received(),
            Broken::AcknowledgesCommitted => self.done_up_to(),
            _ => self.safe,
        };
        match &mut server.slot {
            Some(slot) if slot.confirmed < safe => {
                slot.confirm(safe, dice.once_in(2));
                Ok(Some("acknowledges"))
            }
            Some(_) | None => Ok(None),
        }
    }

    /// The flushers' step.
    pub fn flush(&mut self, which: usize, server: &mut Server, dice: &mut Dice) -> Done {
        self.flushers[which].step(server, self.broken, dice)
    }

    /// The task's step: an event, a step that is due, a look at the WAL.
    pub fn step(&mut self, server: &mut Server, copying: bool, over: &mut bool, dice: &mut Dice) -> Done {
        if self.truncating {
            return self.truncate(server, copying, over);
        }
        if let Some(then) = self.then {
            return if self.begin_writing() { Ok(Some("hands over to the writer")) } else { self.go_on(then, server) };
        }
        match dice.below(6) {
            0 | 1 => self.take(server, copying, over),
            2 => Ok(self.begin_writing().then_some("hands over to the writer")),
            3 => self.look_at_wal(server),
            4 => self.settle(dice),
            _ => self.advance(server, dice),
        }
    }

    /// Whether the writer is at work, or was just given a lot.
    fn begin_writing(&mut self) -> bool {
        if self.writing.is_none() && !self.pending.is_empty() {
            self.writing = Some(Writing { keys: std::mem::take(&mut self.pending), end: self.last_end });
            return true;
        }
        false
    }

    /// Whether all that was received is in the journal.
    pub(super) fn is_written(&self) -> bool {
        self.pending.is_empty() && self.writing.is_none()
    }

    /// The writer's step.
    pub fn write(&mut self, server: &mut Server, dice: &mut Dice) -> Done {
        let Some(writing) = &self.writing else { return Ok(None) };
        if !server.tables.generations.contains_key(&self.generation) {
            return Err(Ended::Again("the journal is gone"));
        }
        let redo = writing.keys.iter().map(|(key, xid)| Redo::Journal(self.generation, number(key), *xid)).collect();
        server.write(redo, false);
        if dice.once_in(30) {
            return Ok(Some("loses the answer of the journal"));
        }
        self.journaled_end = writing.end;
        self.written = self.written.map(|n| n + writing.keys.len() as u64);
        self.writing = None;
        Ok(Some("journals"))
    }

    fn take(&mut self, server: &mut Server, copying: bool, over: &mut bool) -> Done {
        let Some(event) = self.given.pop_front() else { return Ok(None) };
        match event {
            Event::Changes { xid, keys, commit_end, .. } => {
                let xid = widen(xid, self.near_xid);
                self.near_xid = self.near_xid.max(xid);
                keys.into_iter().for_each(|key| self.note(key, xid));
                self.last_end = self.last_end.max(commit_end.unwrap_or(Lsn::ZERO));
            }
            Event::Truncated { .. } if self.broken == Broken::IgnoresTruncate => *over = true,
            Event::Truncated { .. } => {
                self.truncating = true;
                return self.truncate(server, copying, over);
            }
            Event::Barrier { token, .. } => self.barrier(&token),
            // The model's table is not taken apart.
            Event::Schema(_) | Event::Values { .. } => {}
            Event::Empty { commit_end } => self.last_end = self.last_end.max(commit_end),
        }
        if self.is_live() && self.backlog.len() > self.memory {
            self.mode = Mode::Journal;
            self.then = Some(Then::BackToTable);
        }
        Ok(Some("takes an event"))
    }

    fn note(&mut self, key: Key, mut xid: u64) {
        if self.broken == Broken::CountsHighestXid {
            let highest = self.highest.entry(key.clone()).or_default();
            *highest = (*highest).max(xid);
            xid = *highest;
        }
        match self.mode {
            Mode::Journal | Mode::Drain(_) => drop(self.pending.insert(key, xid)),
            Mode::Live => {
                self.backlog.add(key, xid, self.last_end);
            }
        }
    }

    pub(super) fn keep_pending(&mut self, key: Key, xid: u64) {
        self.pending.entry(key).or_insert(xid);
    }

    fn barrier(&mut self, token: &str) {
        let token: u32 = token.parse().expect("a token of the model");
        match self.barriers.remove(&token) {
            Some(Waiter::Settle) => {
                self.settling.push((self.backlog.mark(), token));
                self.answer_settled();
            }
            Some(Waiter::Drain) => self.drained = Some(self.is_live().then(|| self.backlog.outstanding())),
            // Of a run before.
            None => {}
        }
    }

    fn truncate(&mut self, server: &mut Server, copying: bool, over: &mut bool) -> Done {
        *over = true;
        self.connect(server)?;
        if copying || self.flushers.iter().any(|f| f.is_open(server)) {
            return Ok(None);
        }
        server.write(vec![Redo::Empty, Redo::CopyOver], false);
        self.truncating = false;
        Ok(Some("empties the shadow"))
    }

    /// Sends a barrier; its answer comes under the same number.
    pub fn ask(&mut self, server: &mut Server, token: u32, waiter: Waiter) -> Result<(), Ended> {
        self.connect(server)?;
        self.drained = None;
        self.barriers.insert(token, waiter);
        server.emit(token);
        Ok(())
    }

    pub(super) fn answer_settled(&mut self) {
        if !self.is_live() {
            return;
        }
        let (answered, waiting) = self.settling.drain(..).partition(|(mark, _)| self.backlog.retired_before(*mark));
        self.settling = waiting;
        self.settled.extend(answered.into_iter().map(|(_, token): (u64, u32)| token));
    }

    fn done_up_to(&self) -> Lsn {
        let journaled = (!self.is_live() && !self.is_written()).then_some(self.journaled_end);
        outstanding_from(self.last_end, journaled, self.backlog.hold())
    }

    fn look_at_wal(&mut self, server: &mut Server) -> Done {
        self.connect(server)?;
        self.near_xid = self.near_xid.max(server.snapshot().xmax);
        self.ledger.committed(self.done_up_to(), server.end);
        self.ledger.flushed(server.flushed);
        let news = self.ledger.safe() > self.safe;
        self.safe = self.ledger.safe();
        Ok(news.then_some("finds more to be safe"))
    }

    /// Leaves: what is received is journaled, and acknowledged if it is on disk.
    pub fn leave(&mut self, server: &mut Server, dice: &mut Dice) -> Result<(), Ended> {
        if self.truncating {
            return Ok(());
        }
        while !self.is_written() {
            self.begin_writing();
            self.write(server, dice)?;
        }
        self.look_at_wal(server)?;
        self.acknowledge(server, dice)?;
        Ok(())
    }

    /// What it is at, for whoever reads a schedule.
    pub fn shown(&self) -> String {
        let mode = match &self.mode {
            Mode::Journal => "journal",
            Mode::Drain(_) => "drain",
            Mode::Live => "live",
        };
        let (end, safe) = (self.last_end.0, self.safe.0);
        format!(
            "{mode}, received {end}, safe {safe}, pending {:?}, backlog {:?}",
            self.pending,
            self.backlog.outstanding()
        )
    }

    /// Dies: what was sent to the server as a whole is still carried out, or is not.
    pub fn kill(&mut self, server: &mut Server, dice: &mut Dice) -> Result<(), Ended> {
        self.flushers.iter_mut().for_each(|f| f.kill(server, dice));
        if dice.once_in(2) {
            self.write(server, dice)?;
        }
        Ok(())
    }
}
