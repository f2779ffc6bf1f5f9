//! The source's rows, as versions in blocks.

use crate::dice::Dice;
use crate::server::{Server, Snapshot};

/// The source's blocks at first: some chunks of the least size.
pub const BLOCKS: u32 = 640;

/// Beyond this it does not grow.
const MOST_BLOCKS: u32 = 900;

/// How many different keys there are.
pub const KEYS: usize = 5;

/// A change as the WAL has it.
#[derive(Debug, Clone, Copy)]
pub enum Change {
    Insert(u8),
    Update { old: u8, new: u8 },
    Delete(u8),
    Truncate,
}

/// Who wrote a row version.
#[derive(Debug, Clone, Copy)]
pub enum Writer {
    /// Long ago: visible to everybody, whatever its 32-bit number looks like.
    Frozen(u32),
    Xact(u64),
}

#[derive(Debug, Clone, Copy)]
pub struct Version {
    file: u32,
    pub block: u32,
    pub key: u8,
    pub value: u32,
    xmin: Writer,
    xmax: Option<u64>,
}

impl Version {
    /// The system column: 32 bits.
    pub fn xmin(&self) -> u32 {
        match self.xmin {
            Writer::Frozen(xid) => xid,
            Writer::Xact(xid) => xid as u32,
        }
    }
}

pub struct Heap {
    versions: Vec<Version>,
    pub blocks: u32,
    /// Files, each with the TRUNCATE that made it.
    files: Vec<u64>,
    values: u32,
}

impl Default for Heap {
    fn default() -> Self {
        Heap { versions: Vec::with_capacity(64), blocks: BLOCKS, files: Vec::new(), values: 0 }
    }
}

impl Heap {
    fn value(&mut self) -> u32 {
        self.values += 1;
        self.values
    }

    fn place(&mut self, dice: &mut Dice) -> u32 {
        if dice.once_in(8) && self.blocks < MOST_BLOCKS {
            self.blocks += 100;
            return self.blocks - 1;
        }
        dice.below(self.blocks as usize) as u32
    }

    /// A row of before.
    pub fn load(&mut self, key: u8, xmin: u32, dice: &mut Dice) {
        let (block, value) = (self.place(dice), self.value());
        self.versions.push(Version { file: 0, block, key, value, xmin: Writer::Frozen(xmin), xmax: None });
    }

    /// Inserts a row.
    pub fn insert(&mut self, file: u32, key: u8, xid: u64, dice: &mut Dice) {
        let (block, value) = (self.place(dice), self.value());
        self.versions.push(Version { file, block, key, value, xmin: Writer::Xact(xid), xmax: None });
    }

    /// Updates the row at `at`; the new version stays in its block or goes to another.
    pub fn update(&mut self, at: usize, key: u8, xid: u64, dice: &mut Dice) {
        self.versions[at].xmax = Some(xid);
        let old = self.versions[at];
        let block = if dice.once_in(2) { old.block } else { self.place(dice) };
        let value = self.value();
        self.versions.push(Version { block, key, value, xmin: Writer::Xact(xid), xmax: None, ..old });
    }

    /// Deletes the row at `at`.
    pub fn delete(&mut self, at: usize, xid: u64) {
        self.versions[at].xmax = Some(xid);
    }

    /// TRUNCATE: a new file under the table's name.
    pub fn truncate(&mut self, xid: u64) {
        self.files.push(xid);
    }
}

impl Server {
    /// The file under the source's name, for whoever may look at it: one that is being truncated is locked.
    pub fn file(&self) -> u32 {
        let last = self.heap.files.iter().rposition(|xid| !self.is_aborted(*xid));
        last.map_or(0, |i| i as u32 + 1)
    }

    /// Where a key's row is for the next to write it, who waits for the locks of those before.
    pub fn find(&self, key: u8) -> Option<usize> {
        let file = self.file();
        self.heap.versions.iter().position(|v| {
            let written = match v.xmin {
                Writer::Frozen(_) => true,
                Writer::Xact(xid) => !self.is_aborted(xid),
            };
            v.key == key && v.file == file && written && v.xmax.is_none_or(|xid| self.is_aborted(xid))
        })
    }

    /// The source's rows as a snapshot sees them.
    pub fn rows(&self, snapshot: &Snapshot) -> impl Iterator<Item = &Version> {
        let file = self.file();
        self.heap.versions.iter().filter(move |v| {
            let written = match v.xmin {
                Writer::Frozen(_) => true,
                Writer::Xact(xid) => self.sees(snapshot, xid),
            };
            v.file == file && written && !v.xmax.is_some_and(|xid| self.sees(snapshot, xid))
        })
    }
}
