//! May the lock be asked for now? Pure.

/// What was seen a moment ago.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Keys not flushed yet.
    pub backlog: u64,
    /// Keys go straight from the stream to the flushers.
    pub live: bool,
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
}

/// The backlog beyond which the lock is not asked for: what gathers between two flushes at some tens of thousands of
/// changes a second.
pub const FINAL_KEYS: u64 = 2_000;

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

/// Decides.
pub fn decide(seen: &Seen) -> Decision {
    if !seen.live {
        return Decision::Behind("the journal is being flushed".to_owned());
    }
    if seen.backlog > FINAL_KEYS {
        return Decision::Behind(format!("backlog {} > {FINAL_KEYS} keys", seen.backlog));
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
        let blocker =
            Blocker { pid: Some(7), age_ms: 20_000, transaction: "3/7".into(), hidden: false, who: "pid 7".into() };
        let mut seen = Seen { backlog: 3_000, live: true, blockers: vec![blocker] };
        assert!(matches!(decide(&seen), Decision::Behind(_)));
        seen.backlog = 3;
        assert_eq!(decide(&seen), Decision::Blocked("pid 7".into()));
        seen.blockers.clear();
        assert_eq!(decide(&seen), Decision::Go);
        seen.live = false;
        assert!(matches!(decide(&seen), Decision::Behind(_)));
    }
}
