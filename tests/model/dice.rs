//! All chance of a schedule comes from here, so that its seed replays it.

/// A small generator (splitmix64): the same numbers on every machine and in every release.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// For a seed.
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        // Neighbouring seeds part.
        dice.0 = dice.next();
        dice
    }

    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}
