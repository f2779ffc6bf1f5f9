//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

/// Looks until `look` has something, and returns that; the error says what was seen instead. Panics at the deadline with
/// the last thing seen.
pub fn wait_for<T>(what: &str, within: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + within;
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) => assert!(Instant::now() < deadline, "waited {within:?} for {what}; last seen: {seen}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
