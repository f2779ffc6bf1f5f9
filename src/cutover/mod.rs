//! The one transaction that swaps source and shadow.
//!
//! Look before you lock; keep autovacuum away; lock, each wait short; receive and flush what is left; swap; commit. Any
//! failure on the way rolls everything back, and the application notices nothing but a pause.

mod acl;
mod attempt;
pub mod gate;
mod lasted;
mod lookout;
mod order;
mod parts;
mod swap;
pub mod together;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use acl::Acl;
use attempt::Outcome;
pub use attempt::{Done, unfit};
pub use gate::Blocker;
use gate::{Decision, Seen};
use lookout::{Lookout, terminate};
use order::Order;
pub use swap::{Swap, statements};

use crate::cli::Cutover as Options;
use crate::context::Context;
use crate::error::{Exit, Failure};
use crate::flush::Flusher;
use crate::follow::{Follower, settle_all};
use crate::pg::Conn;
use crate::report::{CutoverFigures, Event};
use crate::throttle::Throttle;

/// The longest pause between two attempts: soon after a blocker's end the table is swapped.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What became of the cut-over, for the report.
#[derive(Debug, Clone)]
pub struct Figures {
    /// Attempts, the successful one included.
    pub attempts: u32,
    /// From the request of the lock on the source to its grant.
    pub lock_wait: Duration,
    /// From that grant to the answer to COMMIT.
    pub write_blocked: Duration,
    /// Keys flushed while the lock was held.
    pub final_keys: u64,
}

impl Figures {
    /// As the report has them.
    pub fn told(&self) -> CutoverFigures {
        CutoverFigures {
            attempts: Some(self.attempts),
            lock_wait: Some(self.lock_wait.as_secs_f64()),
            write_blocked: Some(self.write_blocked.as_secs_f64()),
            final_keys: Some(self.final_keys),
        }
    }
}

/// A table that is swapped, by itself or together with others.
#[derive(Clone, Copy)]
pub struct Party<'a> {
    /// The table.
    pub context: &'a Context,
    /// What keeps its shadow in step.
    pub follower: &'a Follower,
    /// The source's fingerprint.
    pub columns: &'a str,
}

/// The first of them, by which the migration goes.
fn head<'a>(parties: &[Party<'a>]) -> Result<&'a Context, Failure> {
    parties.first().map(|party| party.context).ok_or_else(|| Failure::failed("there is nothing to swap"))
}

fn followers<'a>(parties: &[Party<'a>]) -> Vec<&'a Follower> {
    parties.iter().map(|party| party.follower).collect()
}

/// Swaps all of them, or none.
///
/// No attempt begins while `throttle` holds the cut-over back; `None` where nothing may.
///
/// # Errors
/// Exit 5 where the lock was never granted: everything is kept for another try.
pub async fn run(parties: &[Party<'_>], options: &Options, throttle: Option<&Throttle>) -> Result<Figures, Failure> {
    let context = head(parties)?;
    let mut others: Vec<u32> = Vec::new();
    for party in parties {
        let ties = party.context.ties_patiently(context.store.conn()).await?;
        others.extend(party.context.carry(&ties).locked());
        others.extend(party.context.plan.sources().map(|shape| shape.oid));
    }
    let mut lookout = Lookout::new(context, others);
    let mut last = String::new();
    let mut order = Order::default();
    for number in 1..=options.attempts {
        if let Some(throttle) = throttle {
            throttle.pass().await;
        }
        let patience = lock_wait(number, options.lock_timeout);
        lookout.watch().await?;
        let decision = wait_in_step(parties, patience / 2, options.timeout, &mut lookout).await?;
        let outcome = match decision {
            Some(who) => {
                terminate(&mut lookout, options).await?;
                Outcome::Blocked(who)
            }
            None => attempt::run(parties, options, patience, &mut order, &mut lookout).await?,
        };
        match outcome {
            Outcome::Done(done) => {
                context.reporter.say(Event::CutoverAttempt { number, outcome: "swapped".to_owned() });
                return Ok(Figures {
                    attempts: number,
                    lock_wait: done.lock_wait,
                    write_blocked: done.write_blocked,
                    final_keys: done.final_keys,
                });
            }
            Outcome::Blocked(who) => {
                if who != last || number % 10 == 0 {
                    context.reporter.say(Event::CutoverAttempt { number, outcome: format!("blocked by {who}") });
                }
                last = who;
            }
        }
        if number < options.attempts {
            pause(number).await;
        }
    }
    let tables: Vec<String> = parties.iter().map(|party| party.context.plan.source.name.plain()).collect();
    Err(Failure::new(Exit::NoLock, format!("the lock on {} was not to be had in {} attempts", tables.join(", "), options.attempts))
        .detail(format!("In the way: {last}."))
        .hint(format!(
            "Everything is kept in place: run the same command again (or pgrecast resume {}) when they have ended. --terminate-blockers DURATION ends them.",
            context.id
        )))
}

/// How long an attempt waits for the lock: everybody queues behind the request, so the first ones ask briefly.
fn lock_wait(number: u32, most: Duration) -> Duration {
    Duration::from_millis(100).saturating_mul(number).min(most)
}

/// Growing, jittered: in the pauses the queue behind our request drains.
async fn pause(number: u32) {
    let base = Duration::from_millis(100).saturating_mul(number).min(LONGEST_PAUSE);
    tokio::time::sleep(base.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
}

/// Waits until the backlog is small; then says who is in the way, if anybody is.
async fn wait_in_step(
    parties: &[Party<'_>],
    pause: Duration,
    timeout: Duration,
    lookout: &mut Lookout<'_>,
) -> Result<Option<String>, Failure> {
    let (context, followers) = (head(parties)?, followers(parties));
    let begun = Instant::now();
    let mut said = false;
    loop {
        let asked = Instant::now();
        settle_all(&followers).await?;
        let settled_in = asked.elapsed();
        let views = || followers.iter().map(|follower| follower.view());
        let seen = Seen {
            settled_in,
            backlog: views().map(|view| view.backlog.load(std::sync::atomic::Ordering::Relaxed)).sum(),
            live: views().all(|view| view.live.load(std::sync::atomic::Ordering::Acquire)),
            blockers: lookout.blockers(pause).await?,
        };
        match gate::decide(&seen, gate::patience(begun.elapsed(), timeout)) {
            Decision::Go => return Ok(None),
            Decision::Blocked(who) => return Ok(Some(who)),
            Decision::Behind(why) => {
                if begun.elapsed() > Duration::from_secs(5) && !said {
                    said = true;
                    context.reporter.say(Event::Waiting { on: format!("a short backlog: {why}") });
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// The flush of a table, prepared on the connection of an attempt.
async fn flusher(conn: &Arc<Conn>, party: &Party<'_>) -> Result<Flusher, Failure> {
    Ok(Flusher::new(conn.clone(), &party.context.plan, &party.context.names, party.columns).await?)
}
