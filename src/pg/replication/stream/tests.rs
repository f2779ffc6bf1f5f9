use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;

/// A stream and the server's end of it.
fn pair(buffer: usize) -> (Stream, DuplexStream) {
    let (client, server) = tokio::io::duplex(buffer);
    (Stream::new(Channel::new(client), 1), server)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a short body");
    [&[tag][..], &length.to_be_bytes(), body].concat()
}

fn data(start: u64, payload: &[u8]) -> Vec<u8> {
    message(b'd', &[b"w", &start.to_be_bytes()[..], &[0; 16], payload].concat())
}

fn keepalive(end: u64, reply: u8) -> Vec<u8> {
    message(b'd', &[b"k", &end.to_be_bytes()[..], &[0; 8], &[reply]].concat())
}

fn received(start: u64, payload: &[u8]) -> Frame {
    Frame::XLogData { start: Lsn(start), end: Lsn::ZERO, data: Bytes::copy_from_slice(payload) }
}

/// The error that `bytes`, then the end of the connection, end with.
fn error(bytes: &[u8]) -> Error {
    runtime().block_on(async {
        let (mut stream, mut server) = pair(1 << 16);
        server.write_all(bytes).await.expect("room");
        drop(server);
        loop {
            if let Err(error) = stream.next().await {
                return error;
            }
        }
    })
}

#[test]
fn a_read_that_is_dropped_loses_nothing() {
    runtime().block_on(async {
        let (mut stream, mut server) = pair(1 << 16);
        let sent = [data(7, b"hello"), message(b'N', b"\0"), keepalive(9, 1), data(8, b"")].concat();
        let mut frames = Vec::new();
        for byte in sent {
            server.write_all(&[byte]).await.expect("room");
            // The frame is polled once and dropped unless it is whole.
            tokio::select! {
                biased;
                frame = stream.next() => frames.push(frame.expect("a frame")),
                () = std::future::ready(()) => {}
            }
        }
        let alive = Frame::Keepalive { end: Lsn(9), reply_requested: true };
        assert_eq!(frames, [received(7, b"hello"), alive, received(8, b"")]);
    });
}

#[test]
fn a_report_that_is_dropped_leaves_with_the_next_read() {
    runtime().block_on(async {
        // The other end takes ten bytes at a time, so that the report must wait.
        let (mut stream, mut server) = pair(10);
        tokio::select! {
            biased;
            sent = stream.status(Lsn(5), Lsn(3)) => panic!("there was no room: {sent:?}"),
            () = std::future::ready(()) => {}
        }
        let mut report = [0; 39];
        tokio::select! {
            biased;
            frame = stream.next() => panic!("nothing was sent: {frame:?}"),
            read = server.read_exact(&mut report) => drop(read.expect("a report")),
        }
        assert_eq!(report[..6], *b"d\0\0\0\x26r");
        assert_eq!(report[6..30], [5_u64.to_be_bytes(), 3_u64.to_be_bytes(), 3_u64.to_be_bytes()].concat());
    });
}

#[test]
fn a_report_never_takes_the_slot_back() {
    runtime().block_on(async {
        let (mut stream, mut server) = pair(1 << 16);
        stream.status(Lsn(5), Lsn(5)).await.expect("sent");
        stream.status(Lsn(2), Lsn(1)).await.expect("sent");
        let mut reports = [0; 78];
        server.read_exact(&mut reports).await.expect("two reports");
        assert_eq!(reports[6..30], reports[45..69]);
    });
}

#[test]
fn frames_received_together_are_taken_without_waiting() {
    runtime().block_on(async {
        let (mut stream, mut server) = pair(1 << 16);
        assert_eq!(stream.try_next_buffered().expect("no error"), None);
        server.write_all(&[data(1, b"a"), data(2, b"b"), data(3, b"c")[..9].to_vec()].concat()).await.expect("room");
        assert_eq!(stream.next().await.expect("a frame"), received(1, b"a"));
        assert_eq!(stream.try_next_buffered().expect("no error"), Some(received(2, b"b")));
        assert_eq!(stream.try_next_buffered().expect("no error"), None);
    });
}

#[test]
fn a_large_frame_passes_and_the_small_ones_behind_it_are_kept() {
    runtime().block_on(async {
        let (mut stream, mut server) = pair(1 << 16);
        let large = vec![b'x'; 3 << 20];
        let sent = [data(1, &large), data(2, b"small")].concat();
        let writer = tokio::spawn(async move { server.write_all(&sent).await.map(|()| server) });
        assert_eq!(stream.next().await.expect("a frame"), received(1, &large));
        assert_eq!(stream.next().await.expect("a frame"), received(2, b"small"));
        writer.await.expect("no panic").expect("all was sent");
    });
}

#[test]
fn a_length_is_not_believed() {
    let beyond = error(b"d\x40\0\0\x01");
    assert_eq!(beyond.message, "malformed message from the server: a frame of 1073741825 bytes");
    assert!(!beyond.connection_lost);
    assert!(!error(b"d\xFF\xFF\xFF\xFF").connection_lost);
    assert!(!error(b"d\0\0\0\x03").connection_lost);
    // The largest length that may be true is waited for, byte by byte.
    assert!(error(b"d\x40\0\0\0").connection_lost);
}

#[test]
fn a_stream_that_ends_is_a_lost_connection() {
    assert!(error(b"").connection_lost);
    assert!(error(&message(b'C', b"COPY 0\0")).connection_lost);
    assert!(error(&message(b'c', b"")).connection_lost);
    assert!(error(&message(b'E', b"SFATAL\0C57P01\0Mterminating\0\0")).connection_lost);
}

#[test]
fn the_server_is_quoted() {
    let error = error(&message(b'E', b"SERROR\0C55000\0Mslot lost\0Dd\xFF\0Hmake it anew\0\0"));
    assert_eq!(error.to_string(), "read replication stream: slot lost (SQLSTATE 55000)");
    assert_eq!(error.detail.as_deref(), Some("d\u{FFFD}"));
    assert_eq!(error.hint.as_deref(), Some("make it anew"));
    assert!(!error.connection_lost);
}

#[test]
fn what_is_no_frame_is_an_error() {
    assert_eq!(error(&message(b'd', b"")).message, "a frame from the server is cut short");
    assert_eq!(error(&message(b'd', b"w1234")).message, "a frame from the server is cut short");
    assert_eq!(error(&message(b'd', b"?")).message, "unknown frame from the server");
    assert_eq!(error(&message(b'Z', b"I")).message, "unexpected message from the server");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), tag in prop::sample::select(b"dEZWNSR".to_vec())) {
        let _ = error(&bytes);
        let _ = error(&message(tag, &bytes));
    }
}
