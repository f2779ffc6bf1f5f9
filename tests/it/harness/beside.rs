//! Traffic of a test's own, beside what the test is about.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

/// Does `work` while threads do `traffic`, each with its number from 1 on, as long as it is told to go on; they end with
/// the work, also where it panics.
pub fn beside<T>(threads: u32, traffic: impl Fn(u32, &dyn Fn() -> bool) + Sync, work: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 1..=threads {
            let (traffic, stop) = (&traffic, &stop);
            scope.spawn(move || traffic(number, &|| !stop.load(Ordering::Relaxed)));
        }
        let done = catch_unwind(AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        done.unwrap_or_else(|panic| resume_unwind(panic))
    })
}
