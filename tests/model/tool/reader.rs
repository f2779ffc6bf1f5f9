//! The reader: frames to events.

use std::collections::VecDeque;

use pgrecast::pg::Lsn;
use pgrecast::stream::{Assembler, Event, KeyReader, Message, Update};

use super::{Broken, Done, Ended};
use crate::server::Server;
use crate::slot::{Frame, SOURCE, Sender};

/// Keys of one part of a transaction: few, so that there are several.
const PART_KEYS: usize = 2;

/// Events that wait before reading pauses.
const HELD: usize = 12;

#[derive(Default)]
pub struct Reader {
    connection: Option<(Sender, Assembler)>,
    held: Vec<Event>,
    received: Lsn,
}

impl Reader {
    /// The connection breaks: what was not handed over is sent again.
    pub fn lose(&mut self) {
        self.connection = None;
        self.held.clear();
    }

    /// Opens the stream, reads a frame, or hands over what is decoded.
    pub fn step(
        &mut self,
        server: &Server,
        safe: Lsn,
        broken: Broken,
        given: &mut VecDeque<Event>,
        hand_over: bool,
    ) -> Done {
        if self.connection.as_ref().is_some_and(|(sender, _)| sender.life != server.life) {
            self.lose();
        }
        let Some((sender, assembler)) = &mut self.connection else {
            let Some(sender) = Sender::start(server, safe) else { return Ok(None) };
            let reader = KeyReader::new([SOURCE], vec!["id".to_owned()]);
            self.connection = Some((sender, Assembler::new(reader, PART_KEYS)));
            return Ok(Some("opens the stream"));
        };
        if hand_over && !self.held.is_empty() {
            given.extend(self.held.drain(..));
            return Ok(Some("hands over"));
        }
        if self.held.len() + given.len() >= HELD {
            return Ok(None);
        }
        match sender.next(server) {
            Frame::Keepalive(end) if self.received >= end => Ok(None),
            Frame::Keepalive(end) => {
                self.received = self.received.max(end);
                if !assembler.in_transaction() {
                    self.held.push(Event::Empty { commit_end: end });
                }
                Ok(Some("gets a keepalive"))
            }
            Frame::Message(message) => {
                let message = damaged(message, broken);
                if let Message::Commit(commit) = &message {
                    self.received = self.received.max(commit.end_lsn);
                }
                assembler.feed(&message, &mut self.held).map_err(|e| Ended::Wrong(e.to_string()))?;
                Ok(Some("reads the stream"))
            }
        }
    }

    /// How far the stream was received.
    pub fn received(&self) -> Lsn {
        self.received
    }
}

fn damaged(message: Message, broken: Broken) -> Message {
    match message {
        Message::Update(update) if broken == Broken::DropsOldKeys => Message::Update(Update { old: None, ..update }),
        other => other,
    }
}
