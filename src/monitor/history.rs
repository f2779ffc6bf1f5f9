//! Where the WAL was at which moment: how old a position is, and how fast the WAL grows. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Two looks a second for an hour: beyond that a position is simply that old.
const MOST: usize = 7_200;

/// Over how long a rate is taken.
const LATELY: Duration = Duration::from_secs(600);

/// A rate over less says nothing.
const AT_LEAST: Duration = Duration::from_secs(2);

/// The WAL's end, look by look.
#[derive(Debug, Default)]
pub struct History {
    /// When, and the position in bytes; neither ever goes back.
    ends: VecDeque<(Instant, u64)>,
}

impl History {
    /// The WAL ends there now.
    pub fn add(&mut self, now: Instant, end: u64) {
        if self.ends.back().is_some_and(|(_, last)| *last > end) {
            // Another server, or one that was set back.
            self.ends.clear();
        }
        if self.ends.len() == MOST {
            self.ends.pop_front();
        }
        self.ends.push_back((now, end));
    }

    /// For how long, in seconds, there has been WAL beyond a position, as far as was looked: how far behind a standby is
    /// that has replayed up to there, also where its own measure stands still with it.
    pub fn age(&self, now: Instant, position: u64) -> f64 {
        let beyond = self.ends.partition_point(|(_, end)| *end <= position);
        self.ends.get(beyond).map_or(0.0, |(since, _)| now.saturating_duration_since(*since).as_secs_f64())
    }

    /// Bytes a second, lately.
    pub fn rate(&self) -> Option<f64> {
        let (last, end) = self.ends.back()?;
        let first = self.ends.partition_point(|(at, _)| last.saturating_duration_since(*at) > LATELY);
        let (first, begin) = self.ends.get(first)?;
        let took = last.saturating_duration_since(*first);
        (took >= AT_LEAST).then(|| end.saturating_sub(*begin) as f64 / took.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_position_is_as_old_as_the_wal_beyond_it() {
        let begun = Instant::now();
        let mut history = History::default();
        assert_eq!(history.age(begun, 0), 0.0);
        for n in 0..=10 {
            history.add(begun + seconds(n), 100 * n);
        }
        let now = begun + seconds(10);
        assert_eq!(history.age(now, 1_000), 0.0, "nothing is beyond it");
        assert_eq!(history.age(now, 999), 0.0, "what is beyond it was seen just now");
        assert_eq!(history.age(now, 500), 4.0);
        assert_eq!(history.age(now + seconds(5), 500), 9.0, "a standby that stands still falls behind");
        assert_eq!(history.age(now, 0), 9.0);
    }

    #[test]
    fn the_rate_is_that_of_the_last_minutes() {
        let begun = Instant::now();
        let mut history = History::default();
        history.add(begun, 0);
        history.add(begun + seconds(1), 1_000);
        assert_eq!(history.rate(), None, "too short to tell");
        history.add(begun + seconds(2), 2_000);
        assert_eq!(history.rate(), Some(1_000.0));
        history.add(begun + seconds(1_000), 2_000);
        history.add(begun + seconds(1_100), 3_000);
        assert_eq!(history.rate(), Some(10.0));
        history.add(begun + seconds(1_101), 10);
        assert_eq!(history.rate(), None, "another server");
    }
}
