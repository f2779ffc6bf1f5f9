//! What may be acknowledged to the slot (rule 9). Pure.
//!
//! Journal rows and flushes are committed without waiting for the disk. A position of the stream is safe once the WAL
//! written up to the moment when nothing before it was outstanding has itself reached the disk.

use std::collections::VecDeque;

use crate::pg::Lsn;

/// Positions on their way to being safe.
#[derive(Debug, Default)]
pub struct Ledger {
    /// (position of the stream, WAL that must be flushed first), both growing.
    waiting: VecDeque<(Lsn, Lsn)>,
    safe: Lsn,
}

impl Ledger {
    /// Nothing safe yet.
    pub fn new() -> Self {
        Ledger::default()
    }

    /// Everything of the stream up to `position` had been committed when the server's WAL was written up to `written`.
    pub fn committed(&mut self, position: Lsn, written: Lsn) {
        let last = self.waiting.back().map_or(self.safe, |(p, _)| *p);
        if position > last {
            self.waiting.push_back((position, written));
        }
    }

    /// The server's WAL is on disk up to here.
    pub fn flushed(&mut self, to: Lsn) {
        while let Some((position, written)) = self.waiting.front().copied() {
            if written > to {
                break;
            }
            self.safe = self.safe.max(position);
            self.waiting.pop_front();
        }
    }

    /// What may be acknowledged; it never moves back.
    pub fn safe(&self) -> Lsn {
        self.safe
    }
}

/// The position of the stream before which nothing is outstanding. All up to `received` came; where some of it waits for
/// the journal, it is journaled up to `journaled`; where keys wait for a flush in memory, they leave it at `hold`.
pub fn outstanding_from(received: Lsn, journaled: Option<Lsn>, hold: Option<Lsn>) -> Lsn {
    let journaled = journaled.unwrap_or(received);
    hold.unwrap_or(journaled).min(journaled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_waits_holds_the_position_back() {
        assert_eq!(outstanding_from(Lsn(9), None, None), Lsn(9));
        assert_eq!(outstanding_from(Lsn(9), Some(Lsn(4)), None), Lsn(4));
        assert_eq!(outstanding_from(Lsn(9), None, Some(Lsn(5))), Lsn(5));
        assert_eq!(outstanding_from(Lsn(9), Some(Lsn(4)), Some(Lsn(5))), Lsn(4));
    }

    #[test]
    fn a_position_is_safe_only_when_its_commits_are_on_disk() {
        let mut l = Ledger::new();
        l.committed(Lsn(10), Lsn(100));
        l.committed(Lsn(20), Lsn(200));
        l.flushed(Lsn(99));
        assert_eq!(l.safe(), Lsn(0));
        l.flushed(Lsn(150));
        assert_eq!(l.safe(), Lsn(10));
        l.committed(Lsn(15), Lsn(300));
        l.flushed(Lsn(400));
        assert_eq!(l.safe(), Lsn(20));
    }
}
