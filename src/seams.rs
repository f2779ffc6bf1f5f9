//! Fault points, for tests only: each statement, before it is sent and after its answer has come.
//!
//! Every message to the server has a name, so every place between two of them has one, too: `before commit chunk`, `after
//! commit chunk`. `PGRECAST_FAULT='after commit chunk'` kills the process there as `kill -9` would, and `… #3` at the third
//! time. `PGRECAST_FAULT_LOG=FILE` writes down each point that is reached for the first time. A build without debug
//! assertions has none of this.

/// The statement is about to be sent.
pub fn before(statement: &str) {
    if cfg!(debug_assertions) {
        reached::reach("before", statement);
    }
}

/// Its answer has come.
pub fn after(statement: &str) {
    if cfg!(debug_assertions) {
        reached::reach("after", statement);
    }
}

/// The time of day. Tests set it: `PGRECAST_CLOCK='REAL SET SPEED'` is SET, as seconds since 1970, at the real time REAL, and
/// goes SPEED times as fast from then on.
pub fn now() -> jiff::Timestamp {
    let now = jiff::Timestamp::now();
    if cfg!(debug_assertions) { clock::set(now).unwrap_or(now) } else { now }
}

/// How long to wait before a look that nobody asked for. `PGRECAST_POLL=SECONDS` puts it off, so that what happens all the
/// same was asked for.
pub fn poll(every: std::time::Duration) -> std::time::Duration {
    static ASKED: std::sync::LazyLock<Option<u64>> =
        std::sync::LazyLock::new(|| std::env::var("PGRECAST_POLL").ok()?.parse().ok());
    match *ASKED {
        Some(seconds) if cfg!(debug_assertions) => std::time::Duration::from_secs(seconds),
        Some(_) | None => every,
    }
}

mod clock {
    use std::sync::LazyLock;

    use jiff::{SignedDuration, Timestamp};

    /// The real time, the time that was set for it, and the speed.
    static ASKED: LazyLock<Option<(f64, f64, f64)>> = LazyLock::new(|| {
        let text = std::env::var("PGRECAST_CLOCK").ok()?;
        let mut numbers = text.split_whitespace().map(|n| n.parse::<f64>().ok());
        Some((numbers.next()??, numbers.next()??, numbers.next()??))
    });

    pub(super) fn set(now: Timestamp) -> Option<Timestamp> {
        let (real, set, speed) = (*ASKED)?;
        let gone = now.as_duration().as_secs_f64() - real;
        Timestamp::from_duration(SignedDuration::from_secs_f64(set + gone * speed)).ok()
    }
}

mod reached {
    use std::collections::HashMap;
    use std::io::Write;
    use std::sync::{LazyLock, Mutex, PoisonError};

    /// What the environment asks for.
    struct Asked {
        point: Option<(String, u32)>,
        log: Option<Mutex<std::fs::File>>,
        times: Mutex<HashMap<String, u32>>,
    }

    static ASKED: LazyLock<Option<Asked>> = LazyLock::new(|| {
        let (point, log) = (std::env::var("PGRECAST_FAULT").ok(), std::env::var_os("PGRECAST_FAULT_LOG"));
        if point.is_none() && log.is_none() {
            return None;
        }
        let point = point.map(|text| parse(&text));
        let log = log.and_then(|path| std::fs::File::options().append(true).create(true).open(path).ok());
        Some(Asked { point, log: log.map(Mutex::new), times: Mutex::default() })
    });

    /// A point, and the time at which it counts: the first, unless `#N` says otherwise.
    fn parse(text: &str) -> (String, u32) {
        match text.rsplit_once(" #").map(|(point, nth)| (point, nth.parse())) {
            Some((point, Ok(nth))) => (point.to_owned(), nth),
            Some((_, Err(_))) | None => (text.to_owned(), 1),
        }
    }

    pub(super) fn reach(side: &str, statement: &str) {
        let Some(asked) = &*ASKED else { return };
        let point = format!("{side} {statement}");
        let mut times = asked.times.lock().unwrap_or_else(PoisonError::into_inner);
        let times = times.entry(point.clone()).or_default();
        *times += 1;
        if let (Some(log), 1) = (&asked.log, *times) {
            // A point that cannot be written down is missed by the test that looks for it.
            let _ = writeln!(log.lock().unwrap_or_else(PoisonError::into_inner), "{point}");
        }
        if asked.point.as_ref().is_some_and(|(wanted, nth)| *wanted == point && nth == times) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
            // The signal is on its way; nothing more may happen.
            loop {
                std::thread::park();
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::parse;

        #[test]
        fn a_point_counts_the_first_time_or_the_one_that_is_named() {
            assert_eq!(parse("after commit chunk"), ("after commit chunk".to_owned(), 1));
            assert_eq!(parse("before flush upserts #3"), ("before flush upserts".to_owned(), 3));
            assert_eq!(parse("before half #1 of it"), ("before half #1 of it".to_owned(), 1));
        }
    }
}
