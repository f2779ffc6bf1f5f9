//! A replication connection whose server is a row of bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use pgrecast::pg::Lsn;
use pgrecast::pg::replication::{Frame, Login, Replication};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Gives what it has in pieces of some size, then ends; what is written to it is gone.
struct Canned {
    bytes: Vec<u8>,
    given: usize,
    piece: usize,
}

impl AsyncRead for Canned {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let end = self.bytes.len().min(self.given + self.piece.min(into.remaining()));
        into.put_slice(&self.bytes[self.given..end]);
        self.given = end;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Canned {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A message of the server.
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

/// What a server says before the stream.
pub fn welcome() -> Vec<u8> {
    let version = message(b'S', b"server_version\x0017.2\0");
    let key = message(b'K', &[0, 0, 0, 7, 0, 0, 0, 9]);
    [message(b'R', &[0; 4]), version, key, message(b'Z', b"I"), message(b'W', &[0, 0, 0])].concat()
}

/// Logs in, starts a stream, and takes its frames to the end that the bytes have.
pub fn frames(bytes: Vec<u8>, piece: usize) -> Vec<Frame> {
    let reading = async {
        let mut frames = Vec::new();
        let login = Login { user: "u".to_owned(), password: Some("p".to_owned()), ..Login::default() };
        let canned = Canned { bytes, given: 0, piece };
        let Ok(connection) = Replication::login(canned, login).await else { return frames };
        let Ok(mut stream) = connection.start("slot", Lsn::ZERO, &[("proto_version", "1")]).await else {
            return frames;
        };
        while let Ok(frame) = stream.next().await {
            frames.push(frame);
        }
        frames
    };
    reading.now_or_never().expect("bytes that are there are not waited for")
}
