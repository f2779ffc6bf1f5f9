//! From messages to events: what a transaction changed for us, in parts of bounded size.

use std::collections::HashSet;

use super::Error;
use super::key::Key;
use super::keys::KeyReader;
use super::message::{Begin, Commit, LogicalMessage, Message, Relation, Truncate};
use crate::pg::Lsn;

/// The prefix of the messages that the tool sends to itself (`pg_logical_emit_message`).
pub const BARRIER_PREFIX: &str = "pgrecast";

/// What the stream says, as far as it concerns the source.
///
/// Every transaction ends with exactly one [`Event::Changes`] that has a `commit_end`, or with one [`Event::Empty`]; its
/// barriers follow that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Keys that a transaction changed, none twice in one part.
    Changes {
        /// The transaction.
        xid: u32,
        /// Where its commit record starts, which orders it among all others.
        commit_lsn: Lsn,
        /// The changed keys; empty only in a last part, after a truncate or a part that took all.
        keys: Vec<Key>,
        /// Where its commit record ends, in its last part only, since it is not known before: what may be acknowledged
        /// once all of the transaction is durable.
        commit_end: Option<Lsn>,
    },
    /// Tables of the source were emptied, after what came earlier and before what comes later.
    Truncated {
        /// Their oids: the source itself, or partitions of it.
        relations: Vec<u32>,
        /// The transaction.
        xid: u32,
        /// Where its commit record starts.
        commit_lsn: Lsn,
    },
    /// Values that rows of the source refer to were changed.
    Values {
        /// Their table.
        relation: u32,
        /// The values by their own keys, none twice.
        keys: Vec<Key>,
        /// The transaction.
        xid: u32,
    },
    /// A message of the tool came back: all that was committed before it has been received.
    Barrier {
        /// The message's text; bytes that are not UTF-8 are replaced.
        token: String,
        /// The end of its commit; for a message outside of transactions, its own place.
        end_lsn: Lsn,
    },
    /// The source's shape as the changes that follow have it: sent ahead of the first change, and when it differs.
    Schema(Relation),
    /// A transaction with nothing for us.
    Empty {
        /// Where its commit record ends: what may be acknowledged.
        commit_end: Lsn,
    },
}

/// Messages in an order that the protocol does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    /// This message belongs into a transaction.
    #[error("{0} message outside of a transaction in the change stream")]
    Outside(&'static str),
    /// A transaction begins in a transaction.
    #[error("transaction {inner} begins within transaction {outer} in the change stream")]
    Nested {
        /// The one that was open.
        outer: u32,
        /// The one that begins.
        inner: u32,
    },
    /// A transaction ends with another commit than it began with.
    #[error("transaction {xid} was announced to commit at {announced} but did so at {found}")]
    Commit {
        /// The transaction.
        xid: u32,
        /// By its Begin message.
        announced: Lsn,
        /// By its Commit message.
        found: Lsn,
    },
}

/// Assembles the messages of one connection's stream into events.
///
/// A transaction is never held as a whole: its keys leave in parts. After an error the assembler is of no further use.
#[derive(Debug)]
pub struct Assembler {
    reader: KeyReader,
    part: usize,
    open: Option<Open>,
}

/// The transaction that is being received.
#[derive(Debug)]
struct Open {
    xid: u32,
    commit_lsn: Lsn,
    /// Keys not yet sent on, possibly some of them twice.
    keys: Vec<Key>,
    /// An event of this transaction was sent on before.
    begun: bool,
    barriers: Vec<String>,
}

impl Assembler {
    /// Assembles what `reader` reads, into parts of `part` keys at most; a `part` of 0 counts as 1.
    pub fn new(reader: KeyReader, part: usize) -> Self {
        Assembler { reader, part: part.max(1), open: None }
    }

    /// Whether a transaction is begun and not complete: if not, all that was received may be acknowledged once it is
    /// durable.
    pub fn in_transaction(&self) -> bool {
        self.open.is_some()
    }

    /// Takes the next message and appends what it completes.
    ///
    /// # Errors
    ///
    /// [`Error::Sequence`] and [`Error::Key`].
    pub fn feed(&mut self, message: &Message, events: &mut Vec<Event>) -> Result<(), Error> {
        match message {
            Message::Begin(begin) => self.begin(begin)?,
            Message::Commit(commit) => self.commit(commit, events)?,
            Message::Origin(_) => self.open("Origin").map(|_| ())?,
            Message::Type(_) => self.open("Type").map(|_| ())?,
            Message::Relation(relation) => self.relation(relation, events)?,
            Message::Insert(_) => self.change("Insert", message, events)?,
            Message::Update(_) => self.change("Update", message, events)?,
            Message::Delete(_) => self.change("Delete", message, events)?,
            Message::Truncate(truncate) => self.truncate(truncate, events)?,
            Message::Logical(logical) => self.logical(logical, events)?,
        }
        Ok(())
    }

    fn open(&mut self, message: &'static str) -> Result<&mut Open, SequenceError> {
        self.open.as_mut().ok_or(SequenceError::Outside(message))
    }

    fn begin(&mut self, begin: &Begin) -> Result<(), SequenceError> {
        let &Begin { xid, final_lsn: commit_lsn, .. } = begin;
        match &self.open {
            Some(open) => Err(SequenceError::Nested { outer: open.xid, inner: xid }),
            None => {
                self.open = Some(Open { xid, commit_lsn, keys: Vec::new(), begun: false, barriers: Vec::new() });
                Ok(())
            }
        }
    }

    fn commit(&mut self, commit: &Commit, events: &mut Vec<Event>) -> Result<(), SequenceError> {
        let mut open = self.open.take().ok_or(SequenceError::Outside("Commit"))?;
        let Open { xid, commit_lsn, .. } = open;
        if commit.commit_lsn != commit_lsn {
            return Err(SequenceError::Commit { xid, announced: commit_lsn, found: commit.commit_lsn });
        }
        let end_lsn = commit.end_lsn;
        deduplicate(&mut open.keys);
        events.push(if open.begun || !open.keys.is_empty() {
            Event::Changes { xid, commit_lsn, keys: open.keys, commit_end: Some(end_lsn) }
        } else {
            Event::Empty { commit_end: end_lsn }
        });
        events.extend(open.barriers.into_iter().map(|token| Event::Barrier { token, end_lsn }));
        Ok(())
    }

    fn relation(&mut self, relation: &Relation, events: &mut Vec<Event>) -> Result<(), Error> {
        self.open("Relation")?;
        if self.reader.describe(relation)? {
            self.open("Relation")?.send_keys(events);
            events.push(Event::Schema(relation.clone()));
        }
        Ok(())
    }

    fn change(&mut self, name: &'static str, message: &Message, events: &mut Vec<Event>) -> Result<(), Error> {
        let open = self.open.as_mut().ok_or(SequenceError::Outside(name))?;
        if let Some((relation, key)) = self.reader.changed_value(message)? {
            open.send_value(relation, key, events);
            return Ok(());
        }
        self.reader.read(message, &mut open.keys)?;
        if open.keys.len() >= self.part {
            open.send_parts(self.part, events);
        }
        Ok(())
    }

    fn truncate(&mut self, truncate: &Truncate, events: &mut Vec<Event>) -> Result<(), SequenceError> {
        let relations: Vec<u32> = truncate.relations.iter().copied().filter(|r| self.reader.reads(*r)).collect();
        let open = self.open("Truncate")?;
        if !relations.is_empty() {
            open.send_keys(events);
            open.begun = true;
            events.push(Event::Truncated { relations, xid: open.xid, commit_lsn: open.commit_lsn });
        }
        Ok(())
    }

    fn logical(&mut self, logical: &LogicalMessage, events: &mut Vec<Event>) -> Result<(), SequenceError> {
        let token = (logical.prefix == BARRIER_PREFIX).then(|| String::from_utf8_lossy(&logical.content).into_owned());
        if logical.transactional {
            self.open("transactional Message")?.barriers.extend(token);
        } else {
            events.extend(token.map(|token| Event::Barrier { token, end_lsn: logical.lsn }));
        }
        Ok(())
    }
}

impl Open {
    /// Sends on what is held, once `part` keys are; keeps them while most are the same few, as a hot row or a loop of
    /// updates makes them.
    fn send_parts(&mut self, part: usize, events: &mut Vec<Event>) {
        deduplicate(&mut self.keys);
        if self.keys.len() <= part / 2 {
            return;
        }
        // An update may have brought two keys where there was room for one.
        while self.keys.len() > part {
            let rest = self.keys.split_off(part);
            self.send_keys(events);
            self.keys = rest;
        }
        self.send_keys(events);
    }

    /// Sends on a value that was changed, with those before it.
    fn send_value(&mut self, relation: u32, key: Key, events: &mut Vec<Event>) {
        self.begun = true;
        match events.last_mut() {
            Some(Event::Values { relation: of, keys, xid }) if (*of, *xid) == (relation, self.xid) => {
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
            _ => events.push(Event::Values { relation, keys: vec![key], xid: self.xid }),
        }
    }

    /// Sends on whatever is held, as a part that is not the last.
    fn send_keys(&mut self, events: &mut Vec<Event>) {
        deduplicate(&mut self.keys);
        if self.keys.is_empty() {
            return;
        }
        self.begun = true;
        let (xid, commit_lsn) = (self.xid, self.commit_lsn);
        events.push(Event::Changes { xid, commit_lsn, keys: std::mem::take(&mut self.keys), commit_end: None });
    }
}

/// Keeps the first of each key.
fn deduplicate(keys: &mut Vec<Key>) {
    if keys.len() < 2 {
        return;
    }
    let mut seen = HashSet::with_capacity(keys.len());
    let mut first = keys.iter().map(|key| seen.insert(key)).collect::<Vec<_>>().into_iter();
    keys.retain(|_| first.next().unwrap_or(true));
}

#[cfg(test)]
mod tests;
