//! What a way to show events must offer, and the stream it writes to.

use std::io::{self, Write};

use jiff::{SignedDuration, Timestamp};

use super::event::Event;

/// One way to show events. Called by the render thread alone, in the order in which things were said.
pub trait View: Send {
    /// Shows one event, said at that time. May block; must not panic, whatever becomes of the terminal.
    fn show(&mut self, at: Timestamp, event: &Event);

    /// Nothing more will come.
    fn end(&mut self);
}

/// Whole lines to a writer that may go away.
pub(super) struct Sink {
    writer: Option<Box<dyn Write + Send>>,
}

impl Sink {
    pub(super) fn new(writer: Box<dyn Write + Send>) -> Self {
        Sink { writer: Some(writer) }
    }

    /// Writes a line at once. Once the reader is gone nothing more is written; after any other error the line is lost, as
    /// a full disk may have room for the next one. Neither may end a migration.
    pub(super) fn line(&mut self, text: &str) {
        let Some(writer) = &mut self.writer else { return };
        let written = writeln!(writer, "{text}").and_then(|()| writer.flush());
        if written.is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            self.writer = None;
        }
    }
}

/// Lets at most one through in each interval, by the time at which things were said.
pub(super) struct Pace {
    every: SignedDuration,
    last: Option<Timestamp>,
}

impl Pace {
    pub(super) fn new(every: SignedDuration) -> Self {
        Pace { every, last: None }
    }

    /// Whether this one may pass. A clock that was set back does not silence what follows.
    pub(super) fn passes(&mut self, at: Timestamp) -> bool {
        let due = self.last.is_none_or(|last| at.duration_since(last).abs() >= self.every);
        if due {
            self.last = Some(at);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples::{Shared, at};

    /// Fails every write in the same way, and counts them.
    struct Failing(io::ErrorKind, std::sync::Arc<std::sync::atomic::AtomicU32>);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn writes_tried(kind: io::ErrorKind) -> u32 {
        let tried = std::sync::Arc::default();
        let mut sink = Sink::new(Box::new(Failing(kind, std::sync::Arc::clone(&tried))));
        sink.line("one");
        sink.line("two");
        tried.load(std::sync::atomic::Ordering::Relaxed)
    }

    #[test]
    fn a_reader_that_is_gone_is_left_alone() {
        assert_eq!(writes_tried(io::ErrorKind::BrokenPipe), 1);
        assert_eq!(writes_tried(io::ErrorKind::StorageFull), 2);
    }

    #[test]
    fn lines_are_whole() {
        let shared = Shared::default();
        let mut sink = Sink::new(Box::new(shared.clone()));
        sink.line("one");
        sink.line("two");
        assert_eq!(shared.lines(), ["one", "two"]);
    }

    #[test]
    fn the_pace_holds_whatever_the_clock_does() {
        let mut pace = Pace::new(SignedDuration::from_secs(5));
        let passed: Vec<bool> = [0, 1, 4, 5, 9, 10, -100, -99].map(|second| pace.passes(at(second))).into();
        assert_eq!(passed, [true, false, false, true, false, true, true, false]);
    }
}
