//! May the lock be asked for now? Pure.

use std::time::Duration;

/// What was seen a moment ago.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Keys not flushed yet.
    pub backlog: u64,
    /// Keys go straight from the stream to the flushers.
    pub live: bool,
    /// How long it took until everything committed before a barrier was received and flushed. As many changes as are made
    /// in such a time are left for the lock.
    pub settled_in: Duration,
    /// Transactions that hold or await a lock on the source for longer than the pause allowed.
    pub blockers: Vec<Blocker>,
}

/// A transaction in the way.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Blocker {
    /// Its backend; `None` for a prepared transaction.
    pub pid: Option<i32>,
    /// Milliseconds since it began.
    pub age_ms: i64,
    /// Its virtual transaction.
    pub transaction: String,
    /// Its age is not to be seen by this role.
    pub hidden: bool,
    /// Who it is, for messages.
    pub who: String,
    /// What it runs.
    pub query: Option<String>,
}

/// The backlog beyond which the lock is not asked for: what gathers between two flushes at some tens of thousands of
/// changes a second.
pub const FINAL_KEYS: u64 = 2_000;

/// A time to settle in that is no reason to wait for a better moment.
const SETTLED_SOON: Duration = Duration::from_millis(150);

/// The longest time to settle in with which the lock is asked for, after waiting so long for a better moment: a load that
/// never leaves one must not keep the cut-over away. Half of what writers may wait remains for the rest.
pub fn patience(waited: Duration, timeout: Duration) -> Duration {
    (SETTLED_SOON + waited / 8).min(timeout / 2).max(SETTLED_SOON)
}

/// Go, or why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Ask for the lock.
    Go,
    /// Not in step yet: look again soon. Not an attempt.
    Behind(String),
    /// Somebody is in the way.
    Blocked(String),
}

/// Decides; `patience` is [`patience()`].
pub fn decide(seen: &Seen, patience: Duration) -> Decision {
    if !seen.live {
        return Decision::Behind("the journal is being flushed".to_owned());
    }
    if seen.backlog > FINAL_KEYS {
        return Decision::Behind(format!("backlog {} > {FINAL_KEYS} keys", seen.backlog));
    }
    if seen.settled_in > patience && seen.blockers.is_empty() {
        let (settled, most) = (seen.settled_in.as_millis(), patience.as_millis());
        return Decision::Behind(format!("{settled} ms > {most} ms until a change is flushed"));
    }
    if seen.blockers.is_empty() {
        return Decision::Go;
    }
    Decision::Blocked(seen.blockers.iter().map(|b| b.who.clone()).collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocker_counts_only_once_in_step() {
        let blocker = Blocker {
            pid: Some(7),
            age_ms: 20_000,
            transaction: "3/7".into(),
            hidden: false,
            who: "pid 7".into(),
            query: None,
        };
        let mut seen = Seen { backlog: 3_000, live: true, blockers: vec![blocker], ..Seen::default() };
        let decide = |seen: &Seen| super::decide(seen, SETTLED_SOON);
        assert!(matches!(decide(&seen), Decision::Behind(_)));
        seen.backlog = 3;
        assert_eq!(decide(&seen), Decision::Blocked("pid 7".into()));
        seen.blockers.clear();
        assert_eq!(decide(&seen), Decision::Go);
        seen.live = false;
        assert!(matches!(decide(&seen), Decision::Behind(_)));
    }

    #[test]
    fn a_slow_stream_is_waited_for_but_not_for_ever() {
        let second = Duration::from_secs(1);
        let seen = Seen { live: true, settled_in: second / 3, ..Seen::default() };
        assert!(matches!(decide(&seen, patience(Duration::ZERO, second)), Decision::Behind(_)));
        assert_eq!(decide(&seen, patience(2 * second, second)), Decision::Go);
        assert_eq!(patience(3_600 * second, second), second / 2);
        // However little time there is, what is soon stays soon.
        assert_eq!(patience(second, second / 100), SETTLED_SOON);
    }
}
