//! The tool's own tables: shadow, journal, progress and control row. What the WAL says is all they are.

use std::collections::BTreeMap;

use pgrecast::copy::ranges::BlockRange;
use pgrecast::pg::Lsn;
use pgrecast::state::Phase;

/// A row of the shadow.
#[derive(Debug, Clone, Copy)]
pub struct Shadow {
    pub key: u8,
    pub value: u32,
    /// Where the WAL ended when it was inserted, and when it was written last.
    pub created: Lsn,
    pub changed: Lsn,
}

/// One write to the tool's tables.
#[derive(Debug, Clone)]
pub enum Redo {
    /// A chunk inserts: there is no unique index yet.
    Copied(u8, u32),
    /// A flush upserts.
    Put(u8, u32),
    Remove(u8),
    /// TRUNCATE of the shadow.
    Empty,
    Create(u32),
    Journal(u32, u8, u64),
    Drop(u32),
    Chunk(BlockRange),
    CopyOver,
    Measured {
        x0: u32,
        file: u32,
        blocks: u32,
    },
    Become(Phase),
    /// All that an earlier run of prepare made.
    Forget,
}

#[derive(Debug, Clone)]
pub struct Tables {
    pub phase: Phase,
    pub shadow: Vec<Shadow>,
    pub generations: BTreeMap<u32, Vec<(u8, u64)>>,
    pub chunks: Vec<BlockRange>,
    pub copy_over: bool,
    pub x0: u32,
    pub file: u32,
    pub blocks: u32,
}

impl Default for Tables {
    fn default() -> Self {
        Tables {
            phase: Phase::Prepare,
            shadow: Vec::new(),
            generations: BTreeMap::new(),
            chunks: Vec::new(),
            copy_over: false,
            x0: 0,
            file: 0,
            blocks: 0,
        }
    }
}

impl Tables {
    /// Carries a write out; `at` is where the WAL ends before it.
    pub fn apply(&mut self, redo: &Redo, at: Lsn) {
        match *redo {
            Redo::Copied(key, value) => self.shadow.push(Shadow { key, value, created: at, changed: at }),
            Redo::Put(key, value) => match self.shadow.iter_mut().find(|row| row.key == key) {
                Some(row) => (row.value, row.changed) = (value, at),
                None => self.shadow.push(Shadow { key, value, created: at, changed: at }),
            },
            Redo::Remove(key) => self.shadow.retain(|row| row.key != key),
            Redo::Empty => self.shadow.clear(),
            Redo::Create(generation) => drop(self.generations.entry(generation).or_default()),
            // A table that is gone takes no rows; whoever tries gets an error.
            Redo::Journal(generation, key, xid) => {
                self.generations.get_mut(&generation).into_iter().for_each(|g| g.push((key, xid)));
            }
            Redo::Drop(generation) => drop(self.generations.remove(&generation)),
            Redo::Chunk(range) => self.chunks.push(range),
            Redo::CopyOver => self.copy_over = true,
            Redo::Measured { x0, file, blocks } => (self.x0, self.file, self.blocks) = (x0, file, blocks),
            Redo::Become(phase) => {
                assert!(self.phase.may_become(phase), "{} to {phase}", self.phase);
                self.phase = phase;
            }
            Redo::Forget => *self = Tables { phase: self.phase, ..Tables::default() },
        }
    }

    /// A key that stands in the shadow twice, which its unique index would refuse.
    pub fn twice(&self) -> Option<u8> {
        let keys: Vec<u8> = self.shadow.iter().map(|row| row.key).collect();
        keys.iter().enumerate().find(|(i, key)| keys[..*i].contains(key)).map(|(_, key)| *key)
    }
}
