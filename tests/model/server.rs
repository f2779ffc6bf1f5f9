//! The server: transactions, snapshots, WAL, and what a crash leaves.
//!
//! A commit is two steps, as in PostgreSQL: its record enters the WAL, and later the transaction leaves the list of
//! running ones, which makes it visible and frees its locks. In between it may wait for the disk or for a standby as
//! long as the schedule likes. The WAL is on disk up to a position of its own; a crash cuts it there.

use pgrecast::pg::Lsn;

use crate::heap::{Change, Heap};
use crate::slot::Slot;
use crate::tables::{Redo, Tables};

/// Bytes of a commit record.
const RECORD: u64 = 10;

/// The least number of an ordinary transaction within an epoch.
const FIRST_NORMAL: u32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Running,
    Committed,
    Aborted,
}

#[derive(Debug, Clone, Copy)]
struct Xact {
    state: State,
    /// The transaction that this is a part of; itself for a top-level one.
    top: u64,
}

/// What a transaction wrote, as its commit record stands for it.
#[derive(Debug, Clone)]
pub enum Body {
    /// The application's changes of the source.
    Source(Vec<Change>),
    /// The tool's writes to its own tables.
    Tool(Vec<Redo>),
    /// The tool's message to itself.
    Message(u32),
}

#[derive(Debug, Clone)]
pub struct Record {
    pub start: Lsn,
    pub end: Lsn,
    pub xid: u64,
    pub body: Body,
}

/// Which transactions had ended, visibly.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub xmin: u64,
    pub xmax: u64,
    running: Vec<u64>,
}

impl Snapshot {
    /// Whether a top-level transaction had ended (`pg_visible_in_snapshot`).
    pub fn ended(&self, top: u64) -> bool {
        top < self.xmax && !self.running.contains(&top)
    }

    /// As `pg_current_snapshot()::text` has it.
    pub fn text(&self) -> String {
        let running: Vec<String> = self.running.iter().map(u64::to_string).collect();
        format!("{}:{}:{}", self.xmin, self.xmax, running.join(","))
    }
}

pub struct Server {
    first: u64,
    xacts: Vec<Xact>,
    latest_completed: u64,
    /// Top-level transactions that snapshots take for running.
    pub running: Vec<u64>,
    pub wal: Vec<Record>,
    pub end: Lsn,
    pub flushed: Lsn,
    pub heap: Heap,
    /// The tool's tables as the WAL so far leaves them.
    pub tables: Tables,
    pub slot: Option<Slot>,
    /// How often it has crashed: a session lives within one.
    pub life: u32,
    /// Transactions that hold a lock on the source under which rows are written: session, and its how manieth.
    pub writers: Vec<(usize, u32)>,
    /// Transactions of the tool that hold ACCESS SHARE on the source.
    pub readers: u32,
    /// Somebody holds ACCESS EXCLUSIVE on the source.
    pub exclusive: bool,
}

impl Server {
    /// An idle server whose next transaction is `next`.
    pub fn new(next: u64) -> Self {
        Server {
            first: next,
            xacts: Vec::with_capacity(256),
            latest_completed: next - 1,
            running: Vec::new(),
            wal: Vec::with_capacity(256),
            end: Lsn(1_000),
            flushed: Lsn(1_000),
            heap: Heap::default(),
            tables: Tables::default(),
            slot: None,
            life: 0,
            writers: Vec::new(),
            readers: 0,
            exclusive: false,
        }
    }

    /// The next transaction's number.
    pub fn next_xid(&self) -> u64 {
        self.first + self.xacts.len() as u64
    }

    fn xact(&self, xid: u64) -> Xact {
        self.xacts[(xid - self.first) as usize]
    }

    fn set(&mut self, xid: u64, state: State) {
        self.xacts[(xid - self.first) as usize].state = state;
    }

    fn skip_special(&mut self) {
        while (self.next_xid() as u32) < FIRST_NORMAL {
            let top = self.next_xid();
            self.xacts.push(Xact { state: State::Aborted, top });
        }
    }

    /// Begins a top-level transaction.
    pub fn begin(&mut self) -> u64 {
        self.skip_special();
        let xid = self.next_xid();
        self.xacts.push(Xact { state: State::Running, top: xid });
        self.running.push(xid);
        xid
    }

    /// Begins a subtransaction.
    pub fn begin_sub(&mut self, top: u64) -> u64 {
        self.skip_special();
        let xid = self.next_xid();
        self.xacts.push(Xact { state: State::Running, top });
        xid
    }

    /// Rolls a subtransaction back.
    pub fn abort_sub(&mut self, xid: u64) {
        self.set(xid, State::Aborted);
    }

    /// Writes the commit record; the transaction is not visible yet.
    pub fn commit(&mut self, xid: u64, body: Body) -> Lsn {
        self.end_all(xid, State::Committed);
        let start = self.end;
        self.end = Lsn(start.0 + RECORD);
        self.wal.push(Record { start, end: self.end, xid, body });
        self.end
    }

    /// Ends without a trace.
    pub fn abort(&mut self, xid: u64) {
        self.end_all(xid, State::Aborted);
        self.release(xid);
    }

    fn end_all(&mut self, top: u64, state: State) {
        let from = (top - self.first) as usize;
        for xact in self.xacts[from..].iter_mut().filter(|x| x.top == top && x.state == State::Running) {
            xact.state = state;
        }
    }

    /// Leaves the list of running transactions: what was committed is visible from now on.
    pub fn release(&mut self, top: u64) {
        self.running.retain(|x| *x != top);
        let from = (top - self.first) as usize;
        let last = self.xacts[from..].iter().rposition(|x| x.top == top).unwrap_or(0);
        self.latest_completed = self.latest_completed.max(top + last as u64);
    }

    /// A transaction of the tool on its own tables, with or without waiting for the disk.
    pub fn write(&mut self, redo: Vec<Redo>, durably: bool) -> Lsn {
        let xid = self.begin();
        for one in &redo {
            self.tables.apply(one, self.end);
        }
        let end = self.commit(xid, Body::Tool(redo));
        self.release(xid);
        if durably {
            self.flush();
        }
        end
    }

    /// The tool's message to itself, whose commit forces the WAL to disk.
    pub fn emit(&mut self, token: u32) {
        let xid = self.begin();
        self.commit(xid, Body::Message(token));
        self.release(xid);
        self.flush();
    }

    /// All of the WAL is on disk.
    pub fn flush(&mut self) {
        self.flushed = self.end;
    }

    /// A snapshot of now. Its upper bound is one past the highest transaction that has ended, not the next to begin.
    pub fn snapshot(&self) -> Snapshot {
        let after = self.latest_completed + 1;
        let xmax = if (after as u32) < FIRST_NORMAL { after + u64::from(FIRST_NORMAL - after as u32) } else { after };
        let running: Vec<u64> = self.running.iter().copied().filter(|x| *x < xmax).collect();
        let xmin = running.iter().copied().min().unwrap_or(xmax);
        Snapshot { xmin, xmax, running }
    }

    /// Whether a row written or removed by `xid` is so for this snapshot.
    pub fn sees(&self, snapshot: &Snapshot, xid: u64) -> bool {
        let xact = self.xact(xid);
        xact.state == State::Committed && snapshot.ended(xact.top)
    }

    /// Whether a transaction was rolled back.
    pub fn is_aborted(&self, xid: u64) -> bool {
        self.xact(xid).state == State::Aborted
    }

    /// `age(xid)`: how far back, in 32-bit space, where special numbers are infinitely old.
    pub fn age(&self, xid: u32) -> i32 {
        match xid {
            ..FIRST_NORMAL => i32::MAX,
            _ => (self.next_xid() as u32).wrapping_sub(xid).cast_signed(),
        }
    }

    /// The server dies and recovers: what had not reached the disk never was, and every session is gone.
    pub fn crash(&mut self) {
        let kept = self.wal.partition_point(|r| r.end <= self.flushed);
        let lost: Vec<u64> = self.wal.drain(kept..).map(|r| r.xid).collect();
        self.end = self.flushed;
        for xact in &mut self.xacts {
            if xact.state == State::Running || lost.contains(&xact.top) {
                xact.state = State::Aborted;
            }
        }
        self.running.clear();
        self.writers.clear();
        (self.readers, self.exclusive) = (0, false);
        self.latest_completed = self.next_xid() - 1;
        self.tables = Tables::default();
        for record in &self.wal {
            if let Body::Tool(redo) = &record.body {
                redo.iter().for_each(|one| self.tables.apply(one, record.start));
            }
        }
        if let Some(slot) = &mut self.slot {
            slot.crash();
        }
        self.life += 1;
    }
}
