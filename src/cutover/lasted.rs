//! How long transactions have lasted that were seen to end, and hence how long those like them may take yet. Pure.
//!
//! A table may never be without a reader. Then the lock is to be had when all that are there are about to end, and only
//! a look at the ones before tells when that is.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::gate::Blocker;

/// Looks further apart than this tell nothing of an end between them.
const DENSE: Duration = Duration::from_millis(80);
/// An end is noticed this much later, about; in milliseconds.
const NOTICED_AFTER: i64 = 30;
/// Queries that are remembered.
const MOST_QUERIES: usize = 256;
/// An end further away than this is not waited for; in milliseconds.
const SOON: i64 = 2_000;

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Lasted {
    /// Milliseconds, by query.
    by_query: HashMap<String, i64>,
    /// Transactions of the last look: (query, age).
    open: HashMap<String, (String, i64)>,
    /// Those that had to wait for a lock of ours: their length is our doing.
    spoiled: HashSet<String>,
    spoil: bool,
    looked_at: Option<Instant>,
}

impl Lasted {
    /// Takes in a look at all transactions in the way.
    pub fn observe(&mut self, seen: &[Blocker], now: Instant) {
        let known = seen.iter().filter(|b| !b.hidden);
        let open: HashMap<String, (String, i64)> =
            known.map(|b| (b.transaction.clone(), (b.query.clone().unwrap_or_default(), b.age_ms))).collect();
        if std::mem::take(&mut self.spoil) {
            self.spoiled.extend(open.keys().cloned());
        }
        if self.looked_at.is_some_and(|last| now.saturating_duration_since(last) <= DENSE) {
            for (transaction, (query, age)) in &self.open {
                if !open.contains_key(transaction) && !self.spoiled.contains(transaction) {
                    let lasted = self.by_query.entry(query.clone()).or_insert(*age);
                    // What lasted long once is forgotten slowly.
                    *lasted = (*age).max(*lasted * 3 / 4);
                }
            }
        }
        if self.by_query.len() > MOST_QUERIES {
            self.by_query.clear();
        }
        self.spoiled.retain(|t| open.contains_key(t));
        self.open = open;
        self.looked_at = Some(now);
    }

    /// A request for the lock made others wait.
    pub fn spoil(&mut self) {
        self.spoil = true;
    }

    /// Milliseconds until it ends, as far as others of its query tell.
    fn left(&self, blocker: &Blocker) -> Option<i64> {
        let lasted = self.by_query.get(blocker.query.as_deref()?)?;
        Some(lasted + NOTICED_AFTER - blocker.age_ms).filter(|left| *left >= 0)
    }

    /// Whether it is open for longer than `pause` and nothing says that it ends soon.
    pub fn is_hopeless(&self, blocker: &Blocker, pause: Duration) -> bool {
        blocker.age_ms > millis(pause) && self.left(blocker).is_none_or(|left| left > SOON)
    }

    /// Whether it is likely to end within `pause`.
    pub fn ends_within(&self, blocker: &Blocker, pause: Duration) -> bool {
        match self.left(blocker) {
            Some(left) => left <= millis(pause),
            None => blocker.age_ms <= millis(pause),
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(250);

    fn reader(transaction: &str, age_ms: i64) -> Blocker {
        let query = Some("report".to_owned());
        Blocker { pid: Some(1), age_ms, transaction: transaction.into(), hidden: false, who: "1".into(), query }
    }

    #[test]
    fn an_end_that_was_seen_tells_of_the_next() {
        let (mut lasted, mut now) = (Lasted::default(), Instant::now());
        assert!(lasted.is_hopeless(&reader("a", 300), PAUSE));
        assert!(lasted.ends_within(&reader("a", 100), PAUSE), "nothing is known, and it is young");
        for age in [380, 400] {
            lasted.observe(&[reader("a", age)], now);
            now += Duration::from_millis(20);
        }
        lasted.observe(&[], now);
        assert!(!lasted.ends_within(&reader("b", 100), PAUSE), "it takes 400 ms");
        assert!(lasted.ends_within(&reader("b", 300), PAUSE));
        assert!(!lasted.is_hopeless(&reader("b", 300), PAUSE));
        assert!(lasted.is_hopeless(&reader("b", 5_000), PAUSE), "longer than any before");
    }

    #[test]
    fn what_waited_for_us_and_what_was_not_looked_at_tell_nothing() {
        let (mut lasted, now) = (Lasted::default(), Instant::now());
        lasted.spoil();
        lasted.observe(&[reader("a", 400)], now);
        lasted.observe(&[reader("b", 50)], now + Duration::from_millis(20));
        lasted.observe(&[], now + Duration::from_secs(2));
        assert!(lasted.is_hopeless(&reader("c", 300), PAUSE));
    }
}
