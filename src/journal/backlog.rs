//! Changed keys in memory, on their way to the flushers. Pure.
//!
//! Keys are partitioned by hash, one flusher a partition and one batch at a time, so two flushes of one key never
//! overlap (rule 6).

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::pg::Lsn;
use crate::stream::Key;

/// What is known of a changed key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// The transaction that changed it last, 64 bits; 0 for one known to be visible. Last is by the order of commits, in
    /// which the stream brings them, and not by number: who changes a key waits until the one before is visible, so a
    /// flush that sees the last sees all.
    pub xid: u64,
    /// The stream up to here is not touched by it: what may be acknowledged while it waits.
    pub hold: Lsn,
    /// When it was first added: a running number.
    pub since: u64,
    /// Flushes in a row in which it met a stale neighbour.
    pub conflicts: u32,
}

impl Pending {
    /// Takes over what another mention of the same key has to say besides its transaction.
    fn merge(&mut self, other: &Pending) {
        self.hold = self.hold.min(other.hold);
        self.since = self.since.min(other.since);
        self.conflicts = self.conflicts.max(other.conflicts);
    }
}

/// Memory a key takes besides its text: two map slots with a pointer, a length and a [`Pending`].
const OVERHEAD_BYTES: usize = 128;

#[derive(Debug, Default)]
struct Partition {
    waiting: HashMap<Key, Pending>,
    order: VecDeque<Key>,
    in_flight: Vec<(Key, Pending)>,
    /// Came back from a flush unsettled; tried again on the next tick, not at once.
    resting: Vec<Key>,
}

/// All partitions.
#[derive(Debug)]
pub struct Backlog {
    partitions: Vec<Partition>,
    /// See [`Backlog::together`].
    together: Vec<usize>,
    next: u64,
    bytes: usize,
}

impl Backlog {
    /// Empty, for this many flushers.
    pub fn new(partitions: usize) -> Self {
        let partitions = (0..partitions.max(1)).map(|_| Partition::default()).collect();
        Backlog { partitions, together: Vec::new(), next: 1, bytes: 0 }
    }

    /// Keys that have the columns at these positions in common go to one flusher: they may stand in each other's way.
    pub fn together(self, positions: &[usize]) -> Self {
        Backlog { together: positions.to_vec(), ..self }
    }

    /// The same key goes to the same partition in every run, so that a course of events can be repeated.
    fn partition_of(&self, key: &Key) -> usize {
        let mut hasher = DefaultHasher::new();
        match self.together.is_empty() {
            true => key.hash(&mut hasher),
            false => self.together.iter().for_each(|at| key.columns().nth(*at).hash(&mut hasher)),
        }
        (hasher.finish() % self.partitions.len() as u64) as usize
    }

    /// A change arrived: its transaction counts from now on, and the earlier hold. Whether the key did not wait already.
    pub fn add(&mut self, key: Key, xid: u64, hold: Lsn) -> bool {
        let pending = Pending { xid, hold, since: self.next, conflicts: 0 };
        self.next += 1;
        let index = self.partition_of(&key);
        let partition = &mut self.partitions[index];
        match partition.waiting.get_mut(&key) {
            Some(known) => {
                if xid != 0 {
                    known.xid = xid;
                }
                known.merge(&pending);
                false
            }
            None => {
                self.bytes += 2 * key.heap_bytes() + OVERHEAD_BYTES;
                partition.order.push_back(key.clone());
                partition.waiting.insert(key, pending);
                true
            }
        }
    }

    /// The next batch of a partition whose flusher is idle; empty where nothing waits.
    pub fn take(&mut self, partition: usize, most: usize) -> Vec<(Key, Pending)> {
        let p = &mut self.partitions[partition];
        debug_assert!(p.in_flight.is_empty(), "partition {partition} is in flight");
        while p.in_flight.len() < most {
            let Some(key) = p.order.pop_front() else { break };
            if let Some(pending) = p.waiting.remove(&key) {
                self.bytes -= 2 * key.heap_bytes() + OVERHEAD_BYTES;
                p.in_flight.push((key, pending));
            }
        }
        p.in_flight.clone()
    }

    /// The batch of a partition came back: the keys at these positions stay, the others are retired. Returns the
    /// largest number of conflicts in a row of those that met a neighbour, with its key.
    pub fn settle(&mut self, partition: usize, unseen: &[usize], conflicts: &[usize]) -> Option<(Key, u32)> {
        let batch = std::mem::take(&mut self.partitions[partition].in_flight);
        let mut worst: Option<(Key, u32)> = None;
        for (i, (key, mut pending)) in batch.into_iter().enumerate() {
            let conflict = conflicts.contains(&i);
            if !conflict && !unseen.contains(&i) {
                continue;
            }
            if conflict {
                pending.conflicts += 1;
                if worst.as_ref().is_none_or(|(_, n)| *n < pending.conflicts) {
                    worst = Some((key.clone(), pending.conflicts));
                }
            }
            self.rest(partition, key, pending);
        }
        worst
    }

    /// Keeps an unsettled key out of the order until [`Backlog::wake`].
    fn rest(&mut self, partition: usize, key: Key, pending: Pending) {
        let p = &mut self.partitions[partition];
        if let Some(later) = p.waiting.get_mut(&key) {
            later.merge(&pending);
            return;
        }
        self.bytes += 2 * key.heap_bytes() + OVERHEAD_BYTES;
        p.resting.push(key.clone());
        p.waiting.insert(key, pending);
    }

    /// Retires a key that waits.
    pub fn forget(&mut self, key: &Key) {
        let index = self.partition_of(key);
        let p = &mut self.partitions[index];
        if p.waiting.remove(key).is_some() {
            self.bytes -= 2 * key.heap_bytes() + OVERHEAD_BYTES;
            p.resting.retain(|k| k != key);
            p.order.retain(|k| k != key);
        }
    }

    /// Puts the resting keys back in order.
    pub fn wake(&mut self) {
        for p in &mut self.partitions {
            p.order.extend(p.resting.drain(..));
        }
    }

    /// Keys ready to be taken from a partition.
    pub fn ready(&self, partition: usize) -> usize {
        self.partitions[partition].order.len()
    }

    /// Whether a partition's batch is out.
    pub fn is_in_flight(&self, partition: usize) -> bool {
        !self.partitions[partition].in_flight.is_empty()
    }

    /// Keys that are not retired.
    pub fn len(&self) -> usize {
        self.partitions.iter().map(|p| p.waiting.len() + p.in_flight.len()).sum()
    }

    /// Whether every key is retired.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory held, in bytes, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn all(&self) -> impl Iterator<Item = (&Key, &Pending)> {
        self.partitions.iter().flat_map(|p| p.waiting.iter().chain(p.in_flight.iter().map(|(k, pending)| (k, pending))))
    }

    /// What may be acknowledged while these keys wait; `None` where none does.
    pub fn hold(&self) -> Option<Lsn> {
        self.all().map(|(_, p)| p.hold).min()
    }

    /// The running number that the next key will get.
    pub fn mark(&self) -> u64 {
        self.next
    }

    /// Whether every key added before `mark` is retired.
    pub fn retired_before(&self, mark: u64) -> bool {
        self.all().all(|(_, p)| p.since >= mark)
    }

    /// All keys that are not retired; they stay.
    pub fn outstanding(&self) -> Vec<Key> {
        self.all().map(|(k, _)| k.clone()).collect()
    }

    /// Takes out every key that is not in flight.
    pub fn drain_waiting(&mut self) -> Vec<(Key, Pending)> {
        self.bytes = 0;
        self.partitions
            .iter_mut()
            .flat_map(|p| {
                p.order.clear();
                p.resting.clear();
                p.waiting.drain().collect::<Vec<_>>()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::new([text]).expect("a key")
    }

    #[test]
    fn a_hot_key_waits_once_with_its_latest_transaction_and_its_earliest_hold() {
        let mut b = Backlog::new(1);
        b.add(key("a"), 10, Lsn(5));
        b.add(key("a"), 12, Lsn(9));
        let batch = b.take(0, 10);
        assert_eq!(batch.len(), 1);
        assert_eq!((batch[0].1.xid, batch[0].1.hold), (12, Lsn(5)));
    }

    #[test]
    fn the_last_to_commit_counts_whatever_its_number() {
        let mut b = Backlog::new(1);
        b.add(key("a"), 12, Lsn(5));
        b.add(key("a"), 10, Lsn(9));
        // What is known to be visible says nothing of another change.
        b.add(key("a"), 0, Lsn(9));
        assert_eq!(b.take(0, 10)[0].1.xid, 10);
        b.add(key("a"), 7, Lsn(11));
        b.settle(0, &[0], &[]);
        b.wake();
        assert_eq!(b.take(0, 10)[0].1.xid, 7);
    }

    #[test]
    fn a_change_during_the_flush_outlives_it() {
        let mut b = Backlog::new(1);
        b.add(key("a"), 10, Lsn(5));
        b.take(0, 10);
        b.add(key("a"), 11, Lsn(7));
        assert_eq!(b.hold(), Some(Lsn(5)));
        b.settle(0, &[], &[]);
        assert_eq!((b.len(), b.hold()), (1, Some(Lsn(7))));
    }

    #[test]
    fn an_unseen_key_rests_and_keeps_its_hold() {
        let mut b = Backlog::new(1);
        b.add(key("a"), 10, Lsn(5));
        let mark = b.mark();
        b.take(0, 10);
        b.settle(0, &[0], &[]);
        assert_eq!((b.ready(0), b.len(), b.hold()), (0, 1, Some(Lsn(5))));
        assert!(!b.retired_before(mark));
        b.wake();
        assert_eq!(b.take(0, 10).len(), 1);
        b.settle(0, &[], &[]);
        assert!(b.is_empty() && b.retired_before(mark) && b.bytes() == 0);
    }

    #[test]
    fn conflicts_are_counted_in_a_row() {
        let mut b = Backlog::new(1);
        b.add(key("a"), 10, Lsn(5));
        for n in 1..4 {
            b.wake();
            b.take(0, 10);
            assert_eq!(b.settle(0, &[], &[0]), Some((key("a"), n)));
        }
    }
}
