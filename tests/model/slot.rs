//! The replication slot, and the WAL sender that reads the WAL for it.

use std::collections::VecDeque;

use bytes::Bytes;
use pgrecast::pg::Lsn;
use pgrecast::stream::{
    BARRIER_PREFIX, Begin, Column, Commit, Delete, Insert, LogicalMessage, Message, OldRow, Relation, ReplicaIdentity,
    Truncate, Tuple, Update, Value,
};

use crate::heap::Change;
use crate::server::{Body, Record, Server};

/// The source's oid.
pub const SOURCE: u32 = 16_384;

pub struct Slot {
    /// What the tool has acknowledged: commits that begin before it are not sent again.
    pub confirmed: Lsn,
    /// The same on disk.
    saved: Lsn,
}

impl Slot {
    /// A slot that starts here.
    pub fn new(start: Lsn) -> Self {
        Slot { confirmed: start, saved: start }
    }

    /// The tool acknowledges. The slot is saved only now and then.
    pub fn confirm(&mut self, to: Lsn, saved: bool) {
        self.confirmed = self.confirmed.max(to);
        if saved {
            self.saved = self.confirmed;
        }
    }

    /// What is left after a crash.
    pub fn crash(&mut self) {
        self.confirmed = self.saved;
    }
}

/// What the server sends.
pub enum Frame {
    Message(Message),
    /// All before this was sent, or was not for the stream.
    Keepalive(Lsn),
}

/// The server's end of a stream.
pub struct Sender {
    /// The life of the server that it belongs to.
    pub life: u32,
    position: Lsn,
    described: bool,
    queue: VecDeque<Message>,
}

impl Sender {
    /// Starts at the slot's position, or later where the client asks for it.
    pub fn start(server: &Server, asked: Lsn) -> Option<Sender> {
        let slot = server.slot.as_ref()?;
        let position = slot.confirmed.max(asked);
        Some(Sender { life: server.life, position, described: false, queue: VecDeque::new() })
    }

    /// The next frame, in the order of commits, of what is on disk.
    pub fn next(&mut self, server: &Server) -> Frame {
        if let Some(message) = self.queue.pop_front() {
            return Frame::Message(message);
        }
        let next = server.wal.partition_point(|r| r.start < self.position);
        match server.wal.get(next).filter(|r| r.end <= server.flushed) {
            Some(record) => {
                self.position = record.end;
                self.read(record);
                self.queue.pop_front().map_or(Frame::Keepalive(self.position), Frame::Message)
            }
            None => Frame::Keepalive(self.position),
        }
    }

    fn read(&mut self, record: &Record) {
        match &record.body {
            Body::Source(changes) => {
                self.open(record);
                if !self.described {
                    self.described = true;
                    self.queue.push_back(Message::Relation(description()));
                }
                self.queue.extend(changes.iter().map(message));
            }
            Body::Message(token) => {
                self.open(record);
                self.queue.push_back(Message::Logical(LogicalMessage {
                    transactional: true,
                    lsn: record.start,
                    prefix: BARRIER_PREFIX.to_owned(),
                    content: token.to_string().into(),
                }));
            }
            // Of every other one PostgreSQL 14 says that it was there, and later releases nothing.
            Body::Tool(_) if record.xid.is_multiple_of(2) => self.open(record),
            Body::Tool(_) => return,
        }
        let (commit_lsn, end_lsn) = (record.start, record.end);
        self.queue.push_back(Message::Commit(Commit { commit_lsn, end_lsn, commit_time: 0 }));
    }

    fn open(&mut self, record: &Record) {
        let begin = Begin { final_lsn: record.start, commit_time: 0, xid: record.xid as u32 };
        self.queue.push_back(Message::Begin(begin));
    }
}

fn description() -> Relation {
    Relation {
        oid: SOURCE,
        namespace: "public".to_owned(),
        name: "source".to_owned(),
        replica_identity: ReplicaIdentity::Default,
        columns: vec![Column { is_key: true, name: "id".to_owned(), type_oid: 20, typmod: -1 }],
    }
}

fn message(change: &Change) -> Message {
    let row = |key: u8| Tuple(vec![Value::Text(Bytes::from(key.to_string()))]);
    match *change {
        Change::Insert(key) => Message::Insert(Insert { relation: SOURCE, new: row(key) }),
        Change::Update { old, new } => {
            let old = (old != new).then(|| OldRow::Key(row(old)));
            Message::Update(Update { relation: SOURCE, old, new: row(new) })
        }
        Change::Delete(key) => Message::Delete(Delete { relation: SOURCE, old: OldRow::Key(row(key)) }),
        Change::Truncate => {
            Message::Truncate(Truncate { relations: vec![SOURCE], cascade: false, restart_identity: false })
        }
    }
}
