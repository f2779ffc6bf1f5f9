//! How many keys go into a flush, and how long a flusher rests after it. Pure.
//!
//! What a flush takes from the application it takes all at once, so where there is to be rest between pieces of work
//! (`--nice`) batches are small ones. But whoever rests for longer than changes leave time for never ends: the rest is cut so
//! that keys go twice as fast as they come, and each generation of the journal is half of the one before.

use std::time::{Duration, Instant};

/// Keys of one flush, and those ready in one partition that are flushed without lingering.
const AT_ONCE: Lot = Lot { most: 1_000, eager: 400 };

/// The same where there is rest between flushes: about 2 ms of the server's time.
const GENTLY: Lot = Lot { most: 64, eager: 64 };

/// How many times as fast as they come keys go at least.
const AHEAD: f64 = 2.0;

/// The share of the last reading in the rate that is reckoned with.
const WEIGHT: f64 = 0.3;

/// Sizes of a flush.
#[derive(Debug, Clone, Copy)]
pub struct Lot {
    /// Keys of one flush.
    pub most: usize,
    /// Keys ready in one partition that are flushed without lingering.
    pub eager: usize,
}

impl Lot {
    /// The one or the other.
    pub fn of(gently: bool) -> Lot {
        if gently { GENTLY } else { AT_ONCE }
    }
}

/// How fast keys come.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    counted: u32,
    since: Instant,
    /// Keys a second.
    rate: f64,
}

impl Pace {
    /// None has come yet.
    pub fn new(now: Instant) -> Self {
        Pace { counted: 0, since: now, rate: 0.0 }
    }

    /// One has that does not wait already.
    pub fn count(&mut self) {
        self.counted += 1;
    }

    /// Takes a reading.
    pub fn read(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.since).as_secs_f64();
        if seconds > 0.0 {
            self.rate += WEIGHT * (f64::from(self.counted) / seconds - self.rate);
            (self.counted, self.since) = (0, now);
        }
    }

    /// How long one of so many flushers rests after a flush of `keys` that took `worked`, where there are `nice` seconds of rest
    /// for each of work.
    pub fn rest(&self, nice: f64, worked: Duration, keys: usize, flushers: usize) -> Duration {
        let wanted = worked.mul_f64(nice.max(0.0));
        // Infinite where none come.
        let time_for_them = (keys * flushers) as f64 / (AHEAD * self.rate);
        let left = Duration::try_from_secs_f64(time_for_them).unwrap_or(Duration::MAX).saturating_sub(worked);
        wanted.min(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(keys_a_second: u32) -> Pace {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..50 {
            for _ in 0..keys_a_second / 10 {
                pace.count();
            }
            now += Duration::from_millis(100);
            pace.read(now);
        }
        pace
    }

    #[test]
    fn rests_in_proportion_while_there_is_time() {
        let worked = Duration::from_millis(2);
        assert_eq!(pace(0).rest(4.0, worked, 64, 1), Duration::from_millis(8));
        assert_eq!(pace(1_000).rest(4.0, worked, 64, 1), Duration::from_millis(8));
        assert_eq!(pace(1_000).rest(0.0, worked, 64, 1), Duration::ZERO);
    }

    #[test]
    fn keys_go_twice_as_fast_as_they_come() {
        // 64 keys in 6.4 ms are twice 5 000 a second, and two flushers have twice the time.
        let worked = Duration::from_millis(2);
        let near = |rest: Duration, ms: f64| (rest.as_secs_f64() * 1e3 - ms).abs() < 0.1;
        assert!(near(pace(5_000).rest(4.0, worked, 64, 1), 4.4));
        assert!(near(pace(5_000).rest(9.0, worked, 64, 2), 10.8));
        assert_eq!(pace(40_000).rest(4.0, worked, 64, 1), Duration::ZERO);
    }
}
