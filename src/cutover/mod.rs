//! The one transaction that swaps source and shadow.
//!
//! Look before you lock; keep autovacuum away; lock, each wait short; receive and flush what is left; swap; commit. Any
//! failure on the way rolls everything back, and the application notices nothing but a pause.

mod acl;
mod attempt;
mod gate;
mod order;
mod swap;

use std::time::{Duration, Instant};

pub use acl::Acl;
pub use attempt::Done;
use attempt::Outcome;
pub use gate::Blocker;
use gate::{Decision, Seen};
use order::Order;
pub use swap::Swap;

use crate::cli::Cutover as Options;
use crate::context::Context;
use crate::error::{Exit, Failure};
use crate::flush::Flusher;
use crate::follow::Follower;
use crate::pg::{Conn, Role};
use crate::prepare::PREPARED;
use crate::report::Event;
use crate::retry::Retry;

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

/// Swaps.
///
/// # Errors
/// Exit 5 where the lock was never granted: everything is kept for another try.
pub async fn run(context: &Context, follower: &Follower, options: &Options, columns: &str) -> Result<Figures, Failure> {
    let ties = context.ties(context.store.conn()).await?;
    let mut lookout = Lookout { context, others: context.carry(&ties).locked(), conn: None, retry: Retry::new() };
    let mut last = String::new();
    let mut order = Order::default();
    for number in 1..=options.attempts {
        let patience = lock_wait(number, options.lock_timeout);
        let decision = wait_in_step(context, follower, patience / 2, options.timeout, &mut lookout).await?;
        let outcome = match decision {
            Some(who) => {
                terminate(&mut lookout, options).await?;
                Outcome::Blocked(who)
            }
            None => attempt::run(context, follower, options, columns, patience, &mut order).await?,
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
    Err(Failure::new(Exit::NoLock, format!("the lock on {} was not to be had in {} attempts", context.plan.source.name.plain(), options.attempts))
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
    context: &Context,
    follower: &Follower,
    pause: Duration,
    timeout: Duration,
    lookout: &mut Lookout<'_>,
) -> Result<Option<String>, Failure> {
    let begun = Instant::now();
    let mut said = false;
    loop {
        let asked = Instant::now();
        follower.settle().await?;
        let settled_in = asked.elapsed();
        let view = follower.view();
        let seen = Seen {
            settled_in,
            backlog: view.backlog.load(std::sync::atomic::Ordering::Relaxed),
            live: view.live.load(std::sync::atomic::Ordering::Acquire),
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

/// Looks for whoever is in the way.
struct Lookout<'a> {
    context: &'a Context,
    /// Relations that are locked besides the source.
    others: Vec<u32>,
    conn: Option<Conn>,
    retry: Retry,
}

impl Lookout<'_> {
    /// Transactions with a lock on the source, or a request for one, older than `pause`; autovacuum yields and is no
    /// blocker, a vacuum against wraparound does not and is one.
    async fn blockers(&mut self, pause: Duration) -> Result<Vec<Blocker>, Failure> {
        let mut seen = self.holders().await?;
        if seen.iter().any(|b| b.hidden) {
            // Whose age this role may not see has it if it is still there after the pause.
            let before = seen;
            tokio::time::sleep(pause).await;
            seen = self.holders().await?;
            for blocker in seen.iter_mut().filter(|b| b.hidden) {
                let same = |b: &&Blocker| b.hidden && b.transaction == blocker.transaction;
                blocker.age_ms = if before.iter().any(|b| same(&b)) { i64::MAX } else { 0 };
            }
        }
        let pause = i64::try_from(pause.as_millis()).unwrap_or(i64::MAX);
        Ok(seen.into_iter().filter(|b| b.age_ms > pause).collect())
    }

    async fn holders(&mut self) -> Result<Vec<Blocker>, Failure> {
        let rows = self.ask("look for blockers", &blockers_sql(self.context, &self.others)).await?;
        let broken = |e: serde_json::Error| Failure::failed(format!("look for blockers: {e}"));
        rows.into_iter()
            .filter_map(|r| r.into_iter().next().flatten())
            .map(|text| serde_json::from_str::<Blocker>(&text).map_err(broken))
            .collect()
    }

    /// Asks over a connection that is opened again where it broke.
    async fn ask(&mut self, name: &'static str, sql: &str) -> Result<Vec<Vec<Option<String>>>, Failure> {
        loop {
            let open = match self.conn.take() {
                Some(open) => Ok(open),
                None => self.context.connector.open(Role::Monitor).await,
            };
            let answer = match open {
                Ok(conn) => match conn.simple(name, sql).await {
                    Ok(rows) => {
                        self.conn = Some(conn);
                        self.retry.reset();
                        return Ok(rows);
                    }
                    Err(e) => e,
                },
                Err(e) => e,
            };
            self.retry.after(answer).await?;
        }
    }
}

fn blockers_sql(context: &Context, others: &[u32]) -> String {
    let others: String = others.iter().map(|oid| format!(", {oid}")).collect();
    format!(
        "SELECT json_build_object('pid', l.pid, 'transaction', l.virtualtransaction, \
         'hidden', p.gid IS NULL AND a.xact_start IS NULL, 'age_ms', coalesce((extract(epoch FROM clock_timestamp() - \
         coalesce(a.xact_start, p.prepared)) * 1000)::int8, 0), 'who', CASE WHEN p.gid IS NOT NULL \
         THEN 'prepared transaction ' || p.gid ELSE format('pid %s (%s, open for %s s): %s', l.pid, a.state, \
         round(extract(epoch FROM clock_timestamp() - a.xact_start)), left(a.query, 80)) END) \
         FROM (SELECT DISTINCT pid, virtualtransaction FROM pg_catalog.pg_locks WHERE locktype = 'relation' \
         AND database = {0} AND (relation IN ({1}{2}) OR relation IN (SELECT d.objid FROM pg_catalog.pg_depend d \
         WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass \
         AND d.refobjid = {1} AND d.deptype IN ('a', 'i'))) AND pid IS DISTINCT FROM pg_backend_pid()) AS l \
         LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
         LEFT JOIN {PREPARED} ON l.pid IS NULL AND p.held_as = l.virtualtransaction \
         WHERE coalesce(a.application_name, '') NOT LIKE 'pgrecast %' AND (coalesce(a.backend_type, '') <> 'autovacuum worker' \
         OR a.query LIKE '%(to prevent wraparound)%')",
        context.facts.database_oid, context.plan.source.oid, others
    )
}

/// Ends blockers that are older than the user allows.
async fn terminate(lookout: &mut Lookout<'_>, options: &Options) -> Result<(), Failure> {
    let Some(limit) = options.terminate_blockers else { return Ok(()) };
    let context = lookout.context;
    for blocker in lookout.blockers(limit.max(options.lock_timeout)).await? {
        let Some(pid) = blocker.pid else { continue };
        context.reporter.say(Event::Warning { text: format!("Ending a blocker: {}.", blocker.who) });
        if let Err(failure) = lookout.ask("end blocker", &format!("SELECT pg_terminate_backend({pid})")).await {
            context.reporter.say(Event::Warning { text: format!("It could not be ended: {}.", failure.primary) });
        }
    }
    Ok(())
}

/// Opens the connection of an attempt, with the flush prepared on it.
async fn open(context: &Context, columns: &str) -> Result<Flusher, Failure> {
    let conn = context.connector.open(Role::Cutover).await?;
    Ok(Flusher::new(conn, &context.plan, &context.names, columns).await?)
}
