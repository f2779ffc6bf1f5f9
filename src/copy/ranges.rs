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
        let seconds = time.as_secs_f64().max(0.001);
        let ideal = f64::from(blocks) * CHUNK_TIME.as_secs_f64() / seconds;
        // At most doubled or halved: one slow chunk says little about the next.
        let bounded = ideal.clamp(f64::from(self.chunk) / 2.0, f64::from(self.chunk) * 2.0);
        self.chunk = (bounded as u32).clamp(CHUNK_BLOCKS.0, CHUNK_BLOCKS.1);
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
