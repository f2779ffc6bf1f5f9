//! Migrations under random faults: whatever happens, a migration goes on, loses no write, and leaves nothing behind.
//!
//! Everything that is chosen comes from one seed; the times at which it happens do not. `PGRECAST_CHAOS_SECONDS` and
//! `PGRECAST_CHAOS_SEED` are those of `scripts/chaos`.

mod fault;
mod round;
mod table;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use pgrecast::demo::Server;

use crate::harness::own_server;
use crate::harness::wire::Wire;

use self::round::Round;

/// A number in the environment.
fn given(name: &str, otherwise: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text}")))
}

/// The last that the server said, without the statements.
fn told(server: &Server) -> String {
    let log = server.log();
    let lines: Vec<&str> =
        log.lines().filter(|line| !line.contains(" STATEMENT: ") && !line.starts_with('\t')).collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

#[test]
fn migrations_go_on_whatever_happens() {
    let until = Instant::now() + Duration::from_secs(given("PGRECAST_CHAOS_SECONDS", 20));
    let first = given("PGRECAST_CHAOS_SEED", 1);
    let mut server = own_server(&[]);
    let wire = Wire::to(server.port());
    for seed in first.. {
        eprintln!("chaos: seed {seed}");
        let begun = Instant::now();
        let round = catch_unwind(AssertUnwindSafe(|| Round::new(&mut server, &wire, seed).run()));
        round.unwrap_or_else(|panic| {
            eprintln!("chaos: seed {seed} fails: scripts/chaos --seed {seed}\n{}", told(&server));
            resume_unwind(panic)
        });
        eprintln!("chaos: seed {seed} kept everything, {:.1} s", begun.elapsed().as_secs_f64());
        if Instant::now() > until {
            return;
        }
    }
}
