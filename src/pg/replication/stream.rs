//! The stream of a started slot: frames in, status out (manual 55.4, `START_REPLICATION`).

use std::time::{Duration, SystemTime};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use super::channel::{Channel, Received, unexpected};
use crate::pg::{Error, Lsn};

const READ: &str = "read replication stream";
const STATUS: &str = "report replication status";
const STOP: &str = "stop replication";

/// From 1970 to 2000, where PostgreSQL's timestamps start.
const POSTGRES_EPOCH: Duration = Duration::from_secs(946_684_800);

/// What the server sends on a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// One message of the output plugin.
    XLogData {
        /// Where its WAL starts; zero for a message that has none of its own, such as a Relation.
        start: Lsn,
        /// The end of the WAL on the server.
        end: Lsn,
        /// The message; a view into the receive buffer.
        data: Bytes,
    },
    /// The server is there.
    Keepalive {
        /// The end of the WAL that it has looked at: all before is sent, or was not for this stream.
        end: Lsn,
        /// It wants a status at once, or will take the client for dead.
        reply_requested: bool,
    },
}

impl Frame {
    /// Reads the body of a CopyData message. Nothing of it is copied.
    ///
    /// # Errors
    ///
    /// A kind that the protocol does not have; a body that is cut short.
    pub fn parse(mut data: Bytes) -> Result<Frame, Error> {
        match fields(&mut data) {
            Ok(Some(frame)) => Ok(frame),
            Ok(None) => Err(Error::client(READ, "unknown frame from the server")),
            Err(_) => Err(Error::client(READ, "a frame from the server is cut short")),
        }
    }
}

/// A started stream. Dropping it closes the connection; the slot stays where it was last told to be.
pub struct Stream {
    channel: Channel,
    backend_pid: i32,
    /// The furthest that was reported flushed.
    flushed: Lsn,
}

impl Stream {
    pub(super) fn new(channel: Channel, backend_pid: i32) -> Self {
        Stream { channel, backend_pid, flushed: Lsn::ZERO }
    }

    /// The server process behind this stream.
    pub fn backend_pid(&self) -> i32 {
        self.backend_pid
    }

    /// Waits for the next frame. Dropped half-way, nothing is lost: safe inside `tokio::select!`.
    ///
    /// # Errors
    ///
    /// What the server said (42704: no such publication; 55000: the slot lost its WAL); a lost connection, which an
    /// orderly end by the server is as well. The stream is of no further use then.
    pub async fn next(&mut self) -> Result<Frame, Error> {
        loop {
            let received = self.channel.receive(READ).await?;
            if let Some(frame) = frame(received)? {
                return Ok(frame);
            }
        }
    }

    /// The next frame if it was received already; never waits.
    ///
    /// # Errors
    ///
    /// As [`Stream::next`].
    pub fn try_next_buffered(&mut self) -> Result<Option<Frame>, Error> {
        match self.channel.take(READ)? {
            Some(received) => frame(received),
            None => Ok(None),
        }
    }

    /// Reports what was received, and what of it is on disk, which is what the slot may forget; `flushed` counts as
    /// applied too. A report that would take the slot back repeats the furthest one. Dropped half-way, the rest leaves with
    /// the next read or report.
    ///
    /// # Errors
    ///
    /// A lost connection.
    pub async fn status(&mut self, received: Lsn, flushed: Lsn) -> Result<(), Error> {
        self.flushed = self.flushed.max(flushed);
        let body = status_update(received.max(self.flushed), self.flushed);
        self.channel.queue(STATUS, |out| {
            frontend::CopyData::new(body)?.write(out);
            Ok(())
        })?;
        crate::seams::before(STATUS);
        self.channel.send(STATUS).await?;
        crate::seams::after(STATUS);
        Ok(())
    }

    /// Ends the stream and the session in order, throwing away what the server still sends. It finishes the transaction
    /// that it is sending first, so set a deadline; the stream may be dropped instead.
    ///
    /// # Errors
    ///
    /// What the server said; a lost connection.
    pub async fn stop(mut self) -> Result<(), Error> {
        self.channel.queue(STOP, |out| {
            frontend::copy_done(out);
            Ok(())
        })?;
        loop {
            match self.channel.receive(STOP).await? {
                Received::Message(Message::CopyData(_) | Message::CopyDone | Message::CommandComplete(_)) => {}
                Received::Message(Message::ReadyForQuery(_)) => break,
                Received::Message(Message::ErrorResponse(error)) => {
                    return Err(Error::from_fields(STOP, error.fields()));
                }
                Received::Message(_) | Received::CopyBoth => return Err(unexpected(STOP)),
            }
        }
        self.channel.close(STOP).await;
        Ok(())
    }
}

fn status_update(received: Lsn, flushed: Lsn) -> BytesMut {
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + POSTGRES_EPOCH).unwrap_or_default();
    let mut body = BytesMut::with_capacity(34);
    body.put_u8(b'r');
    body.put_u64(received.0);
    body.put_u64(flushed.0);
    body.put_u64(flushed.0);
    body.put_i64(i64::try_from(clock.as_micros()).unwrap_or(i64::MAX));
    // No reply is asked for.
    body.put_u8(0);
    body
}

/// The frame in a message; `None` where the message says nothing.
fn frame(received: Received) -> Result<Option<Frame>, Error> {
    match received {
        Received::Message(Message::CopyData(body)) => Frame::parse(body.into_bytes()).map(Some),
        Received::Message(Message::ErrorResponse(error)) => Err(Error::from_fields(READ, error.fields())),
        // A server that shuts down ends the stream first.
        Received::Message(Message::CopyDone | Message::CommandComplete(_)) => {
            Err(Error::lost(READ, "the server ended the stream"))
        }
        Received::Message(_) | Received::CopyBoth => Err(unexpected(READ)),
    }
}

/// `None` for a kind that the protocol does not have.
fn fields(data: &mut Bytes) -> Result<Option<Frame>, bytes::TryGetError> {
    match data.try_get_u8()? {
        b'w' => {
            let (start, end) = (Lsn(data.try_get_u64()?), Lsn(data.try_get_u64()?));
            data.try_get_i64()?;
            Ok(Some(Frame::XLogData { start, end, data: std::mem::take(data) }))
        }
        b'k' => {
            let end = Lsn(data.try_get_u64()?);
            data.try_get_i64()?;
            Ok(Some(Frame::Keepalive { end, reply_requested: data.try_get_u8()? != 0 }))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests;
