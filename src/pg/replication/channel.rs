//! Messages over a byte stream, both ways, in a form that may be dropped at any await.

use std::io;

use bytes::{Buf, BytesMut};
use postgres_protocol::message::backend::{Header, Message};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::pg::Error;

/// Spare room for every read, in bytes: large enough that a busy stream brings many frames with one system call.
const READ_SPARE_BYTES: usize = 64 << 10;

/// The largest frame that is taken, in bytes: the server can build none beyond its own allocation limit of 1 GiB
/// (`MaxAllocSize`), so a longer one is garbage.
const MAX_FRAME_BYTES: usize = 1 << 30;

/// A frame beyond this many bytes does not leave its buffer behind for the small ones that follow.
const KEPT_BUFFER_BYTES: usize = 1 << 20;

/// `CopyBothResponse`, which postgres-protocol does not know.
const COPY_BOTH_RESPONSE_TAG: u8 = b'W';

/// What a connection runs over: plain TCP, a Unix socket, TLS.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A message of the server.
pub(super) enum Received {
    Message(Message),
    CopyBoth,
}

/// A connection as a sequence of messages. Notices and parameter changes, which may come at any time, stay in here.
pub(super) struct Channel {
    stream: Box<dyn Duplex>,
    input: BytesMut,
    output: BytesMut,
    /// Output may still be on its way, here or within the stream.
    unsent: bool,
    server_version: Option<String>,
}

impl Channel {
    pub(super) fn new(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (input, output) = (BytesMut::new(), BytesMut::new());
        Channel { stream: Box::new(stream), input, output, unsent: false, server_version: None }
    }

    /// The server's version as it reported it, which it does while logging in.
    pub(super) fn server_version(&self) -> Option<&str> {
        self.server_version.as_deref()
    }

    /// Queues a message that `write` makes; it leaves with the next [`Channel::send`] or [`Channel::receive`].
    pub(super) fn queue(
        &mut self,
        statement: &'static str,
        write: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<(), Error> {
        let before = self.output.len();
        self.unsent = true;
        write(&mut self.output).map_err(|error| {
            self.output.truncate(before);
            Error::client(statement, error.to_string())
        })
    }

    /// Sends what is queued. Dropped half-way, the rest leaves with the next call.
    pub(super) async fn send(&mut self, statement: &'static str) -> Result<(), Error> {
        if !self.unsent {
            return Ok(());
        }
        let lost = |error: io::Error| Error::lost(statement, error.to_string());
        while self.output.has_remaining() {
            if self.stream.write_buf(&mut self.output).await.map_err(lost)? == 0 {
                return Err(Error::lost(statement, "the connection takes no more data"));
            }
        }
        self.stream.flush().await.map_err(lost)?;
        self.unsent = false;
        Ok(())
    }

    /// Waits for the next message. Dropped half-way, nothing is lost.
    pub(super) async fn receive(&mut self, statement: &'static str) -> Result<Received, Error> {
        loop {
            if let Some(received) = self.take(statement)? {
                return Ok(received);
            }
            self.send(statement).await?;
            self.input.reserve(READ_SPARE_BYTES);
            match self.stream.read_buf(&mut self.input).await {
                Ok(0) => return Err(Error::lost(statement, "the server closed the connection")),
                Ok(_) => {}
                Err(error) => return Err(Error::lost(statement, error.to_string())),
            }
        }
    }

    /// The next message, if it was received whole.
    pub(super) fn take(&mut self, statement: &'static str) -> Result<Option<Received>, Error> {
        let received = self.parse();
        received.map_err(|error| Error::client(statement, format!("malformed message from the server: {error}")))
    }

    fn parse(&mut self) -> io::Result<Option<Received>> {
        while let Some(frame) = self.frame()? {
            if frame.tag == COPY_BOTH_RESPONSE_TAG {
                self.input.advance(frame.bytes);
                return Ok(Some(Received::CopyBoth));
            }
            let message = Message::parse(&mut self.input)?;
            if frame.bytes > KEPT_BUFFER_BYTES {
                self.input = BytesMut::from(&self.input[..]);
            }
            match message {
                Some(Message::NoticeResponse(_) | Message::NotificationResponse(_)) => {}
                Some(Message::ParameterStatus(status)) => {
                    if status.name()? == "server_version" {
                        self.server_version = Some(status.value()?.to_owned());
                    }
                }
                Some(message) => return Ok(Some(Received::Message(message))),
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// The frame at the head of the input, if it is there whole. Its length is judged here, ahead of any parser that
    /// would make room for it.
    fn frame(&self) -> io::Result<Option<Frame>> {
        let Some(header) = Header::parse(&self.input)? else { return Ok(None) };
        let length = usize::try_from(header.len()).map_err(io::Error::other)?;
        if length > MAX_FRAME_BYTES {
            return Err(io::Error::other(format!("a frame of {length} bytes")));
        }
        let bytes = length + size_of::<u8>();
        Ok((self.input.len() >= bytes).then_some(Frame { tag: header.tag(), bytes }))
    }

    /// Closes the connection in order; an error no longer matters.
    pub(super) async fn close(mut self, statement: &'static str) {
        postgres_protocol::message::frontend::terminate(&mut self.output);
        self.unsent = true;
        if self.send(statement).await.is_ok() {
            let _ = self.stream.shutdown().await;
        }
    }
}

/// The extent of a message in the input.
struct Frame {
    tag: u8,
    /// Tag and length included.
    bytes: usize,
}

/// A message that has no place in the conversation.
pub(super) fn unexpected(statement: &'static str) -> Error {
    Error::client(statement, "unexpected message from the server")
}
