//! One connection's own bookkeeping: what its rows must look like, and a way back for what is rolled back.
//!
//! A connection owns every n-th number, of keys and of unique values, so that no two ever meet on a row. A *slot* is the
//! place of a number among the connection's own.

use std::collections::HashMap;

use rand::RngExt;
use rand::rngs::StdRng;

/// A row without its key; `u` is a slot of the connection's unique values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub u: Option<usize>,
    pub v: Option<String>,
    pub n: Option<String>,
}

/// The rows of one connection by slot, the uncommitted changes included.
pub struct Book {
    rows: Vec<Option<Row>>,
    taken: Vec<bool>,
    /// What the rows of the open transaction were before, oldest first.
    undo: Vec<(usize, Option<Row>)>,
}

impl Book {
    /// No rows, and room for this many. There are twice as many unique values, so that a free one is soon found.
    pub fn new(slots: usize) -> Book {
        Book { rows: vec![None; slots], taken: vec![false; slots * 2], undo: Vec::new() }
    }

    pub fn get(&self, slot: usize) -> Option<&Row> {
        self.rows[slot].as_ref()
    }

    /// Every row with its slot.
    pub fn rows(&self) -> impl Iterator<Item = (usize, &Row)> {
        self.rows.iter().enumerate().filter_map(|(slot, row)| Some((slot, row.as_ref()?)))
    }

    pub fn put(&mut self, slot: usize, row: Option<Row>) {
        let before = self.swap(slot, row);
        self.undo.push((slot, before));
    }

    /// The table was emptied, outside of any transaction of this connection's.
    pub fn clear(&mut self) {
        *self = Book::new(self.rows.len());
    }

    /// The rows that the open transaction has changed, as they were before it.
    pub fn changed(&self) -> HashMap<usize, Option<&Row>> {
        // The oldest of a row's entries is put in last.
        self.undo.iter().rev().map(|(slot, before)| (*slot, before.as_ref())).collect()
    }

    pub fn commit(&mut self) {
        self.undo.clear();
    }

    /// A point of the open transaction to go back to; 0 is its beginning.
    pub fn mark(&self) -> usize {
        self.undo.len()
    }

    pub fn roll_back_to(&mut self, mark: usize) {
        while self.undo.len() > mark {
            if let Some((slot, before)) = self.undo.pop() {
                self.swap(slot, before);
            }
        }
    }

    /// A slot that holds a row.
    pub fn some_row(&self, rng: &mut StdRng) -> Option<usize> {
        pick(rng, self.rows.len(), |slot| self.rows[slot].is_some())
    }

    /// A slot that holds none.
    pub fn free_slot(&self, rng: &mut StdRng) -> Option<usize> {
        pick(rng, self.rows.len(), |slot| self.rows[slot].is_none())
    }

    /// A unique value that no row has.
    pub fn free_unique(&self, rng: &mut StdRng) -> Option<usize> {
        pick(rng, self.taken.len(), |slot| !self.taken[slot])
    }

    fn swap(&mut self, slot: usize, row: Option<Row>) -> Option<Row> {
        let before = self.rows[slot].take();
        // A value can pass through two rows of one transaction, so it is freed before it is taken.
        if let Some(u) = before.as_ref().and_then(|row| row.u) {
            self.taken[u] = false;
        }
        if let Some(u) = row.as_ref().and_then(|row| row.u) {
            self.taken[u] = true;
        }
        self.rows[slot] = row;
        before
    }
}

/// A random index that fits, if a few tries or a walk from there find one.
fn pick(rng: &mut StdRng, len: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
    let start = rng.random_range(0..len);
    (0..16)
        .map(|_| rng.random_range(0..len))
        .find(|i| fits(*i))
        .or_else(|| (0..len).map(|i| (start + i) % len).find(|i| fits(*i)))
}
