//! Copy, stream, journal, flush and cut-over on a model of the server, in every order that chance can think of, with a
//! death at any step: the target always equals the source.
//!
//! ```text
//! schedule ─ who is next ─> app      writes the source
//!                           server   transactions, snapshots, WAL; heap: row versions; slot: the change stream
//!                           tool     spine, copy, follower (reader, turn, flusher): the crate's own decisions
//! ```
//!
//! What is modelled and what is not stands in `docs/testing.md`. `PGRECAST_MODEL_SCHEDULES` sets how many schedules are
//! run, `PGRECAST_MODEL_SEED` replays one and prints its steps.

mod app;
mod dice;
mod heap;
mod rules;
mod schedule;
mod server;
mod slot;
mod tables;
mod tool;

use std::sync::atomic::{AtomicU64, Ordering};

use schedule::{Found, Met};
use tool::Broken;

/// Schedules of a run.
const SCHEDULES: u64 = 25_000;

/// Steps that are shown of one that failed.
const SHOWN: usize = 80;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// Runs schedules from seed 0 on until one fails; what the others met, where none does.
fn search(schedules: u64, broken: Broken) -> Result<Met, Found> {
    let next = AtomicU64::new(0);
    let worker = || -> Result<Met, Found> {
        let mut met = Met::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= schedules {
                return Ok(met);
            }
            match schedule::run(seed, broken, false) {
                Ok(one) => met = met.and(one),
                // A broken tool must be seen to be wrong, not only to come to no end.
                Err(found) if found.stuck && broken != Broken::Nothing => {}
                Err(found) => {
                    next.store(schedules, Ordering::Relaxed);
                    return Err(found);
                }
            }
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get().min(4));
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        running
            .into_iter()
            .map(|w| w.join().expect("a schedule panicked"))
            .try_fold(Met::default(), |a, b| Ok(a.and(b?)))
    })
}

/// Runs a schedule again, with its steps.
fn replay(seed: u64, broken: Broken) -> String {
    match schedule::run(seed, broken, true) {
        Ok(met) => format!("seed {seed} comes to a good end: {met:?}"),
        Err(Found { why, steps, .. }) => {
            let shown = &steps[steps.len().saturating_sub(SHOWN)..];
            format!("{}\nseed {seed} ({broken:?}): {why}", shown.join("\n"))
        }
    }
}

#[test]
fn the_target_equals_the_source_whatever_happens() {
    if let Some(seed) = setting("PGRECAST_MODEL_SEED") {
        let told = replay(seed, Broken::Nothing);
        println!("{told}");
        assert!(told.contains("good end"), "seed {seed} fails");
        return;
    }
    let schedules = setting("PGRECAST_MODEL_SCHEDULES").unwrap_or(SCHEDULES);
    match search(schedules, Broken::Nothing) {
        Ok(met) => {
            println!("{schedules} schedules: {met:?}");
            // Else it would show little.
            let often = met.crashes.min(met.truncates).min(met.under_traffic).min(met.runs - schedules);
            assert!(schedules < 1_000 || often > schedules / 50, "too little happened: {met:?}");
        }
        Err(found) => panic!("{}", replay(found.seed, Broken::Nothing)),
    }
}
