//! The copy: workers that take block ranges, each a transaction.

use pgrecast::copy::ranges::{BlockRange, Ranges};

use super::{Broken, Done, Ended, JOBS};
use crate::dice::Dice;
use crate::heap::Version;
use crate::server::{Server, Snapshot};
use crate::tables::Redo;

/// The workers and what they share.
#[derive(Default)]
pub struct Copy {
    ranges: Option<Ranges>,
    workers: [Worker; JOBS],
    /// The source's file is another one than was measured.
    pub other_file: bool,
    /// The stream has brought a TRUNCATE.
    pub over: bool,
}

#[derive(Default)]
enum Worker {
    #[default]
    Idle,
    /// Has locked the table and has its snapshot.
    Open(BlockRange, Snapshot),
    /// The first of the two transactions that a broken one makes of it is committed.
    Half(Vec<Redo>),
}

impl Copy {
    /// The blocks that no chunk covers.
    pub fn begin(&mut self, server: &Server) {
        let mut done = server.tables.chunks.clone();
        done.sort_unstable();
        self.ranges = Some(Ranges::new(server.tables.blocks, &done));
    }

    /// Whether every range is copied, or need not be.
    pub fn is_done(&self) -> bool {
        let idle = self.workers.iter().all(|w| matches!(w, Worker::Idle));
        let none_left = self.ranges.as_ref().is_some_and(|r| r.remaining() == 0);
        idle && (none_left || self.over || self.other_file)
    }

    /// A step of one worker.
    pub fn step(&mut self, worker: usize, server: &mut Server, broken: Broken, dice: &mut Dice) -> Done {
        match std::mem::take(&mut self.workers[worker]) {
            Worker::Idle => self.open(worker, server),
            Worker::Open(range, snapshot) => {
                let redo = chunk(server, range, &snapshot, broken);
                if dice.once_in(30) {
                    // The connection is lost on the way to COMMIT, or on the way back: the worker looks for its progress.
                    if dice.once_in(2) {
                        server.write(redo, false);
                    }
                    server.readers -= 1;
                    let committed = server.tables.chunks.contains(&range);
                    if let (false, Some(ranges)) = (committed, &mut self.ranges) {
                        ranges.give_back(range);
                    }
                    return Ok(Some("loses the answer to a chunk's COMMIT"));
                }
                self.workers[worker] = commit(server, redo, broken);
                Ok(Some("copies a chunk"))
            }
            Worker::Half(rest) => {
                server.write(rest, false);
                server.readers -= 1;
                Ok(Some("commits the other half of a chunk"))
            }
        }
    }

    fn open(&mut self, worker: usize, server: &mut Server) -> Done {
        let Some(ranges) = &mut self.ranges else { return Ok(None) };
        if server.exclusive || self.over || self.other_file {
            return Ok(None);
        }
        let Some(range) = ranges.take(JOBS as u32, false) else { return Ok(None) };
        if server.file() != server.tables.file {
            self.other_file = true;
            return Ok(Some("meets another file"));
        }
        server.readers += 1;
        self.workers[worker] = Worker::Open(range, server.snapshot());
        Ok(Some("begins a chunk"))
    }

    /// What the workers had sent as a whole is carried out, or is not.
    pub fn kill(&mut self, server: &mut Server, broken: Broken, dice: &mut Dice) {
        for worker in std::mem::take(&mut self.workers) {
            if let Worker::Open(range, snapshot) = worker
                && dice.once_in(2)
            {
                let redo = chunk(server, range, &snapshot, broken);
                commit(server, redo, broken);
            }
        }
    }

    /// Whether a worker is in a transaction.
    pub fn is_at_work(&self) -> bool {
        self.workers.iter().any(|w| !matches!(w, Worker::Idle))
    }

    /// A crash of the server ends their transactions; what is left of the ranges stays in memory.
    pub fn lose_sessions(&mut self) -> Result<(), Ended> {
        let Some(ranges) = &mut self.ranges else { return Ok(()) };
        for worker in &mut self.workers {
            if let Worker::Open(range, _) = std::mem::take(worker) {
                ranges.give_back(range);
            }
        }
        Ok(())
    }
}

/// Rule 1's filter, as the copy's SQL has it.
fn possibly_new(server: &Server, row: &Version, snapshot: &Snapshot) -> bool {
    let age = server.age(row.xmin());
    age <= server.age(server.tables.x0) && age > server.age(snapshot.xmax as u32)
}

/// What a chunk writes; its progress comes last.
fn chunk(server: &Server, range: BlockRange, snapshot: &Snapshot, broken: Broken) -> Vec<Redo> {
    let in_range = server.rows(snapshot).filter(|v| range.0 <= v.block && v.block < range.1);
    let write = |row: &Version| match broken != Broken::CopiesNewRows && possibly_new(server, row, snapshot) {
        true => Redo::Journal(1, row.key, 0),
        false => Redo::Copied(row.key, row.value),
    };
    in_range.map(write).chain([Redo::Chunk(range)]).collect()
}

/// One transaction; a broken tool makes two of it.
fn commit(server: &mut Server, mut redo: Vec<Redo>, broken: Broken) -> Worker {
    let progress = redo.split_off(redo.len() - 1);
    let (first, rest) = match broken {
        Broken::ProgressAfterRows => (redo, progress),
        Broken::ProgressBeforeRows => (progress, redo),
        _ => {
            redo.extend(progress);
            server.write(redo, false);
            server.readers -= 1;
            return Worker::Idle;
        }
    };
    server.write(first, false);
    Worker::Half(rest)
}
