//! The application: sessions that write the source, one statement a step.

use crate::dice::Dice;
use crate::heap::{Change, KEYS};
use crate::server::{Body, Server};

/// A session. A key that it wrote, or looked for, is locked until its transaction is visible.
#[derive(Debug, Default)]
pub struct App {
    number: usize,
    /// Transactions begun so far.
    count: u32,
    open: Option<Open>,
    /// Its commits wait for a slow standby.
    waits: bool,
    /// It rests for so many turns, about, between its transactions.
    rests: usize,
}

#[derive(Debug)]
struct Open {
    xid: u64,
    /// The subtransaction that writes go to, and the changes made before it.
    savepoint: Option<(u64, usize)>,
    changes: Vec<Change>,
    locked: Vec<u8>,
    truncates: bool,
    /// The commit record is written: where it ends, and whether the disk is waited for.
    committed: Option<(pgrecast::pg::Lsn, bool)>,
}

impl App {
    pub fn new(number: usize, waits: bool, rests: usize) -> Self {
        App { number, waits, rests, ..App::default() }
    }

    /// The server is gone, and the transaction with it.
    pub fn crash(&mut self) {
        self.open = None;
    }

    /// One step; `locked` are the keys of the other sessions, and with `last` nothing new is begun. Says what was done.
    pub fn step(&mut self, server: &mut Server, locked: &[u8], last: bool, dice: &mut Dice) -> Option<&'static str> {
        match &self.open {
            None if last || !dice.once_in(self.rests) => None,
            None => self.begin(server, dice),
            Some(Open { committed: Some((end, durably)), .. }) => {
                let waits = *durably && (*end > server.flushed || self.waits && !last && !dice.once_in(20));
                if waits { None } else { self.release(server) }
            }
            Some(open) if last || open.changes.len() >= 4 || dice.once_in(3) => self.end(server, dice),
            Some(_) => self.write(server, locked, dice),
        }
    }

    fn begin(&mut self, server: &mut Server, dice: &mut Dice) -> Option<&'static str> {
        if server.exclusive {
            return None;
        }
        let truncates = dice.once_in(15) && server.writers.is_empty() && server.readers == 0;
        let xid = server.begin();
        self.count += 1;
        server.writers.push((self.number, self.count));
        let mut open =
            Open { xid, savepoint: None, changes: Vec::new(), locked: Vec::new(), truncates, committed: None };
        if truncates {
            server.exclusive = true;
            server.heap.truncate(xid);
            open.changes.push(Change::Truncate);
        }
        self.open = Some(open);
        Some(if truncates { "truncates" } else { "begins" })
    }

    fn write(&mut self, server: &mut Server, locked: &[u8], dice: &mut Dice) -> Option<&'static str> {
        let open = self.open.as_mut()?;
        if open.savepoint.is_none() && !open.truncates && dice.once_in(8) {
            open.savepoint = Some((server.begin_sub(open.xid), open.changes.len()));
        }
        let xid = open.savepoint.map_or(open.xid, |(sub, _)| sub);
        let (key, other) = (dice.below(KEYS) as u8, dice.below(KEYS) as u8);
        if locked.contains(&key) || locked.contains(&other) {
            return None;
        }
        open.locked.extend([key, other]);
        let file = server.file();
        let (change, what) = match server.find(key) {
            None => {
                server.heap.insert(file, key, xid, dice);
                (Change::Insert(key), "inserts")
            }
            Some(at) if dice.once_in(4) => {
                server.heap.delete(at, xid);
                (Change::Delete(key), "deletes")
            }
            Some(at) => {
                let new = if server.find(other).is_none() && dice.once_in(2) { other } else { key };
                server.heap.update(at, new, xid, dice);
                (Change::Update { old: key, new }, if new == key { "updates" } else { "changes a key" })
            }
        };
        open.changes.push(change);
        Some(what)
    }

    fn end(&mut self, server: &mut Server, dice: &mut Dice) -> Option<&'static str> {
        let open = self.open.as_mut()?;
        if let Some((sub, before)) = open.savepoint.take()
            && dice.once_in(2)
        {
            server.abort_sub(sub);
            open.changes.truncate(before);
            return Some("rolls back to its savepoint");
        }
        if dice.once_in(5) {
            server.abort(open.xid);
            self.free(server);
            return Some("rolls back");
        }
        let end = server.commit(open.xid, Body::Source(open.changes.clone()));
        open.committed = Some((end, !dice.once_in(4)));
        Some("writes its commit record")
    }

    /// The commit becomes visible.
    fn release(&mut self, server: &mut Server) -> Option<&'static str> {
        server.release(self.open.as_ref()?.xid);
        self.free(server);
        Some("is visible")
    }

    fn free(&mut self, server: &mut Server) {
        if self.open.take().is_some_and(|open| open.truncates) {
            server.exclusive = false;
        }
        server.writers.retain(|held| *held != (self.number, self.count));
    }

    /// What it does, for whoever reads a schedule.
    pub fn shown(&self) -> String {
        match &self.open {
            None => "nothing".to_owned(),
            Some(open) => format!("xid {}: {:?}", open.xid, open.changes),
        }
    }

    /// The keys that it has locked.
    pub fn locked(&self) -> &[u8] {
        self.open.as_ref().map_or(&[], |open| &open.locked)
    }
}
