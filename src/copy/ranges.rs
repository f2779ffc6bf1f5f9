//! Which blocks are still to be copied, and how many at a time. Pure.

use std::time::Duration;

/// A range of blocks: first, and one past the last.
pub type BlockRange = (u32, u32);

/// The least and the most blocks of one chunk: 1 MiB and 8 MiB at the usual block size of 8 KiB. The server decodes
/// our own inserts too, a transaction at a time: larger ones would pass `logical_decoding_work_mem` and go to its disk.
const CHUNK_BLOCKS: (u32, u32) = (128, 1_024);

/// The first chunk's blocks: 4 MiB.
const FIRST_BLOCKS: u32 = 512;

/// How long a chunk should take. Its snapshot holds vacuum back that long, and a kill loses as much work.
const CHUNK_TIME: Duration = Duration::from_millis(700);

/// How long a piece should take where there is rest between them. The longer, the longer others wait for it; much shorter ones
/// cost more in their transactions than in what they do.
const PIECE_TIME: Duration = Duration::from_millis(4);

/// The least, the first and the most blocks of such a piece.
const PIECE_BLOCKS: (u32, u32, u32) = (8, 32, CHUNK_BLOCKS.0);

/// How ranges are cut where there is rest between pieces of work.
#[derive(Debug, Clone, Copy)]
pub struct Pieces {
    blocks: u32,
}

impl Default for Pieces {
    fn default() -> Self {
        Pieces { blocks: PIECE_BLOCKS.1 }
    }
}

impl Pieces {
    /// The end of the next piece of a range: its own where there is no rest.
    pub fn end(&self, (first, end): BlockRange, gently: bool) -> u32 {
        if gently { end.min(first.saturating_add(self.blocks)) } else { end }
    }

    /// Learns from a piece that took `time` for `blocks`.
    pub fn learn(&mut self, blocks: u32, time: Duration) {
        let bounds = (PIECE_BLOCKS.0, PIECE_BLOCKS.2);
        self.blocks = towards(PIECE_TIME, self.blocks, bounds, blocks, time);
    }
}

/// What should take that long, if so many blocks took `time`. At most doubled or halved: one slow one says little about the
/// next.
fn towards(ideal: Duration, now: u32, (least, most): (u32, u32), blocks: u32, time: Duration) -> u32 {
    let ideal = f64::from(blocks) * ideal.as_secs_f64() / time.as_secs_f64().max(0.000_1);
    let bounded = ideal.clamp(f64::from(now) / 2.0, f64::from(now) * 2.0);
    (bounded as u32).clamp(least, most)
}

/// Hands out the blocks that no committed chunk covers, each once.
#[derive(Debug, Clone)]
pub struct Ranges {
    /// Uncovered ranges, the next one last.
    left: Vec<BlockRange>,
    chunk: u32,
    total: u32,
}

impl Ranges {
    /// All blocks below `total` that `done` does not cover. `done` must be sorted; it may not overlap.
    pub fn new(total: u32, done: &[BlockRange]) -> Self {
        let mut left = Vec::new();
        let mut next = 0;
        for (first, end) in done {
            if *first > next {
                left.push((next, (*first).min(total)));
            }
            next = next.max(*end);
        }
        if next < total {
            left.push((next, total));
        }
        left.retain(|(first, end)| first < end);
        left.reverse();
        Ranges { left, chunk: FIRST_BLOCKS, total }
    }

    /// The next range, of the current chunk size at most, and of the least where it is to be done gently. `workers` ranges are
    /// out at a time, so the last of a table are made smaller to let all of them finish together.
    pub fn take(&mut self, workers: u32, gently: bool) -> Option<BlockRange> {
        let remaining = self.remaining();
        let (first, end) = self.left.pop()?;
        let most = if gently { CHUNK_BLOCKS.0 } else { self.chunk };
        let fair = (remaining / workers.max(1) / 2).max(CHUNK_BLOCKS.0);
        let size = most.min(fair).min(end - first);
        if first + size < end {
            self.left.push((first + size, end));
        }
        Some((first, first + size))
    }

    /// Gives back a range that was not copied.
    pub fn give_back(&mut self, range: BlockRange) {
        self.left.push(range);
    }

    /// Learns from a chunk that took `time` for `blocks`.
    pub fn learn(&mut self, blocks: u32, time: Duration) {
        self.chunk = towards(CHUNK_TIME, self.chunk, CHUNK_BLOCKS, blocks, time);
    }

    /// Blocks not handed out yet.
    pub fn remaining(&self) -> u32 {
        self.left.iter().map(|(first, end)| end - first).sum()
    }

    /// Blocks in all.
    pub fn total(&self) -> u32 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_block_is_handed_out_once(total in 0u32..200_000, cuts in prop::collection::vec(0u32..200_000, 0..8), workers in 1u32..5) {
            let mut cuts = cuts;
            cuts.sort_unstable();
            let done: Vec<BlockRange> = cuts.chunks_exact(2).map(|c| (c[0], c[1])).filter(|(a, b)| a < b).collect();
            let mut ranges = Ranges::new(total, &done);
            let mut covered = done.clone();
            while let Some(range) = ranges.take(workers, total % 2 == 0) {
                prop_assert!(range.0 < range.1 && range.1 <= total);
                covered.push(range);
                ranges.learn(range.1 - range.0, Duration::from_millis(100));
            }
            covered.sort_unstable();
            let mut next = 0;
            for (first, end) in covered {
                prop_assert!(first >= next.min(total) || first >= total, "overlap at {first}");
                if next < total { prop_assert!(first <= next, "gap {next}..{first}"); }
                next = next.max(end);
            }
            prop_assert!(next >= total);
        }
    }

    proptest! {
        #[test]
        fn a_range_is_cut_into_pieces_without_a_gap(first in 0u32..1_000, blocks in 1u32..1_500, times in prop::collection::vec(1u64..50_000, 1..40)) {
            let (end, mut next, mut pieces) = (first + blocks, first, Pieces::default());
            for time in times.iter().cycle() {
                let piece = pieces.end((next, end), true);
                prop_assert!(next < piece && piece <= end && piece - next <= PIECE_BLOCKS.2);
                pieces.learn(piece - next, Duration::from_micros(*time));
                next = piece;
                if next == end { break; }
            }
            prop_assert_eq!(pieces.end((first, end), false), end);
        }
    }

    #[test]
    fn pieces_come_to_their_time() {
        let mut pieces = Pieces::default();
        for _ in 0..10 {
            // 50 µs a block.
            let blocks = pieces.end((0, 1_000), true);
            pieces.learn(blocks, Duration::from_micros(50) * blocks);
        }
        assert_eq!(pieces.end((0, 1_000), true), 80);
    }

    #[test]
    fn chunks_grow_and_shrink_towards_their_time() {
        let mut ranges = Ranges::new(1_000_000, &[]);
        ranges.learn(2_048, Duration::from_millis(10));
        assert_eq!(ranges.take(1, false).map(|(a, b)| b - a), Some(1_024));
        assert_eq!(ranges.take(1, true).map(|(a, b)| b - a), Some(128));
        ranges.learn(1_024, Duration::from_secs(60));
        assert_eq!(ranges.take(1, false).map(|(a, b)| b - a), Some(512));
    }
}
