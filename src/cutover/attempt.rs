//! One attempt: one transaction.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lookout::Lookout;
use super::order::Order;
use super::{Acl, Options, Party, Swap, flusher, followers, head, statements, together};
use crate::context::Context;
use crate::drift;
use crate::error::Failure;
use crate::fill;
use crate::flush::{self, Flusher};
use crate::follow::{Follower, drain_all, hurry_all, settle_all};
use crate::pg::{Conn, Error, Role, Verdict};
use crate::plan::build::relation_names;
use crate::plan::parts::misplaced;
use crate::plan::shape::Shape;
use crate::plan::types::Plan;
use crate::preflight::{self, Finding};
use crate::prepare;
use crate::state::Phase;
use crate::stream::Key;
use crate::ties::{Carry, Ties, share, tied_to_several};

/// Keys beyond which the flush under the lock would take too long.
const MOST_KEYS: usize = 10_000;

/// How often in one attempt materialized views are filled again.
const FILLINGS: u32 = 5;
/// Rows named in one message.
const MOST_NAMED: usize = 20;

/// A swap that was committed.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    /// From the request of the lock to its grant.
    pub lock_wait: Duration,
    /// From the grant to the answer to COMMIT.
    pub write_blocked: Duration,
    /// Keys flushed in between.
    pub final_keys: u64,
}

/// What an attempt ends in, where it does not fail for good.
pub(super) enum Outcome {
    /// Swapped.
    Done(Done),
    /// Rolled back, and why.
    Blocked(String),
}

/// Tries once. The flushers are at rest while the lock is asked for, since they read the sources.
pub(super) async fn run(
    parties: &[Party<'_>],
    options: &Options,
    lock_wait: Duration,
    order: &mut Order,
    lookout: &mut Lookout<'_>,
) -> Result<Outcome, Failure> {
    let (context, followers) = (head(parties)?, followers(parties));
    let begun = match begin(parties, options, lock_wait).await {
        Ok(Ok(begun)) => begun,
        Ok(Err(why)) => return Ok(Outcome::Blocked(why)),
        Err(failure) if is_lost(&failure) => return Ok(Outcome::Blocked(failure.primary)),
        Err(failure) => return Err(failure),
    };
    // What is received by now is flushed at once; what comes while the flushers come to rest is left for the lock.
    hurry_all(&followers).await?;
    settle_all(&followers).await?;
    for follower in &followers {
        follower.quiesce().await?;
    }
    let in_the_way = lookout.moment(lock_wait.mul_f64(0.8)).await?;
    let outcome = match in_the_way {
        Some(who) => Err(Stop::Rolled(who)),
        None => locked(parties, options, &begun, order).await,
    };
    if outcome.is_err() {
        lookout.failed();
    }
    let outcome = match outcome {
        Ok(done) => Ok(Outcome::Done(done)),
        Err(Stop::Rolled(why)) => Ok(Outcome::Blocked(why)),
        Err(Stop::Lost(since, lock_wait, keys)) => {
            after_lost_answer(context, &begun.pid).await.map(|swapped| match swapped {
                true => Outcome::Done(Done { lock_wait, write_blocked: since.elapsed(), final_keys: keys }),
                false => Outcome::Blocked("a lost connection".to_owned()),
            })
        }
        Err(Stop::Failed(failure)) => Err(failure),
    };
    if !matches!(outcome, Ok(Outcome::Done(_))) {
        // Before the flushers go on, the locks are gone: rolled back, or with their connection.
        if let Err(e) = begun.conn.batch("roll back cut-over", "ROLLBACK").await {
            tracing::info!(error = %e, "the connection of the cut-over is gone");
        }
        for follower in &followers {
            follower.go_on().await?;
        }
    }
    outcome
}

/// An attempt with everything but the lock.
struct Begun {
    conn: Arc<Conn>,
    /// The flush of each table.
    flushers: Vec<Flusher>,
    script: Script,
    /// What the grants and dependents of each table were when the statements were made.
    marks: Vec<Option<String>>,
    pid: String,
}

/// What is said in the transaction.
struct Script {
    /// Locks, in the order in which the application's own statements are likely to take them.
    locks: Vec<String>,
    /// What is locked besides the head's source.
    others: Vec<u32>,
    swap: String,
}

/// Reads what the swap rests on, and opens its transaction; or says who is in the way.
async fn begin(
    parties: &[Party<'_>],
    options: &Options,
    lock_wait: Duration,
) -> Result<Result<Begun, String>, Failure> {
    let context = head(parties)?;
    let conn = Arc::new(context.connector.open(Role::Cutover).await?);
    let (mut flushers, mut marks, mut bonds, mut acls) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for party in parties {
        flushers.push(flusher(&conn, party).await?);
        let Some((mark, ties)) = filled(party.context, &conn).await? else {
            return Ok(Err("materialized views that are refreshed all the time".to_owned()));
        };
        let probe = party.context.names.compat_view();
        let found = ties.findings_of_former(&conn, &party.context.plan, &probe).await?;
        since_begun(&party.context.plan.source, found)?;
        marks.push(mark);
        bonds.push(ties);
        acls.push(acls_of(party.context, &conn).await?);
    }
    let plans: Vec<&Plan> = parties.iter().map(|party| &*party.context.plan).collect();
    let mut shared = bonds.clone();
    share(&mut shared, &plans);
    let carries: Vec<Carry<'_>> = parties.iter().zip(&shared).map(|(party, ties)| party.context.carry(ties)).collect();
    let mut part_acls = Vec::new();
    let mut schemas: Vec<String> = Vec::new();
    for Context { plan, names, .. } in parties.iter().map(|party| party.context) {
        let mut of_parts = Vec::new();
        for (part, names) in plan.beside(names) {
            for member in part.members(&names) {
                of_parts.push(Acl::read(&conn, &member).await?);
            }
        }
        part_acls.push(of_parts);
        let targets = plan.members(names).into_iter().map(|member| member.target).collect::<Vec<_>>();
        schemas.extend(targets.into_iter().chain(plan.sources()).map(|shape| shape.name.schema.clone()));
    }
    let mut taken = relation_names(&conn, schemas.iter().map(String::as_str)).await?;
    let mut swaps = Vec::new();
    for (((party, acls), part_acls), carry) in parties.iter().zip(&acls).zip(&part_acls).zip(&carries) {
        let Context { id, plan, names, facts, .. } = party.context;
        let (role, version) = (&facts.role, facts.version);
        let swap = Swap { id: *id, plan, names, taken: taken.clone(), acls, part_acls, carry: *carry, role, version };
        taken.extend(swap.given_names());
        swaps.push(swap);
    }
    let locks = together::locks(&carries);
    // Where several are asked for, a circle of waits must end by our timeout, not by the server's choice of a victim.
    let lock_wait = match locks.len() {
        1 => lock_wait,
        _ => lock_wait.min(Duration::from_millis(context.facts.deadlock_timeout_ms / 2)),
    };
    let mut others: Vec<u32> = carries.iter().flat_map(Carry::locked).collect();
    others.extend(parties.iter().flat_map(|party| party.context.plan.sources().map(|shape| shape.oid)));
    let script = Script { locks, others, swap: statements(&swaps).join(";\n") };
    let pid = conn.scalar("read backend pid", "SELECT pg_backend_pid()").await?.unwrap_or_default();
    if let Some(why) = keep_vacuum_away(context, &conn, options, lock_wait, &carries).await? {
        return Ok(Err(why));
    }
    // From here on nobody else can change the tables' shapes: every such statement needs a lock that ours excludes.
    for party in parties {
        drift::check(&conn, &party.context.plan).await?;
    }
    context.published().check(&conn, context.store.conn()).await?;
    for (party, ties) in parties.iter().zip(&bonds) {
        check_ties(&conn, party.context, ties).await?;
        party.context.refuse_taken(&conn).await?;
    }
    if parties.len() > 1 {
        since_begun(&context.plan.source, tied_to_several(&bonds))?;
    }
    Ok(Ok(Begun { conn, flushers, script, marks, pid }))
}

async fn acls_of(context: &Context, conn: &Conn) -> Result<Vec<Acl>, Failure> {
    let mut acls = Vec::new();
    for member in &context.plan.members(&context.names) {
        acls.push(Acl::read(conn, member).await?);
    }
    Ok(acls)
}

/// What is tied to the source, with the mark of it, once the shadow has what it is to have before the swap. `None` where
/// materialized views are refreshed more often than they can be filled.
async fn filled(context: &Context, conn: &Conn) -> Result<Option<(Option<String>, Ties)>, Failure> {
    for _ in 0..FILLINGS {
        let mark = conn.scalar("mark ties", &drift::ties_sql(&context.plan)).await?;
        let ties = context.ties(conn).await?;
        context.make_statistics(conn, &ties).await?;
        if !fill::run(context, conn, &ties).await? {
            return Ok(Some((mark, ties)));
        }
    }
    Ok(None)
}

/// Nothing may be tied to the source that the swap does not carry.
///
/// # Errors
/// Names what was made since the migration began.
async fn check_ties(conn: &Conn, context: &Context, ties: &Ties) -> Result<(), Failure> {
    let source = &context.plan.source;
    let mut found = preflight::look_again(conn, &context.facts, source.oid).await?;
    found.extend(ties.judge(&context.plan));
    for partition in &context.plan.partitions {
        let ties =
            Ties::read(conn, partition.branch.shape.oid, &context.names.publication(), context.facts.version).await?;
        found.extend(ties.of_partition(&partition.branch.shape.name));
    }
    since_begun(source, found)
}

/// # Errors
/// Names what was made since the migration began.
fn since_begun(source: &Shape, found: Vec<Finding>) -> Result<(), Failure> {
    if found.is_empty() {
        return Ok(());
    }
    let what: Vec<String> = found.into_iter().map(|finding| finding.what).collect();
    Err(drift::changed(source)
        .detail(format!("Since the migration began: {}.", what.join("; ")))
        .hint("Take it back and run pgrecast resume, or run pgrecast abort."))
}

fn is_lost(failure: &Failure) -> bool {
    failure.source.as_ref().is_some_and(|e| e.verdict() != Verdict::Stop)
}

/// Opens the transaction, with a lock that stops nobody's reads and writes and keeps autovacuum from coming back.
async fn keep_vacuum_away(
    context: &Context,
    conn: &Conn,
    options: &Options,
    lock_wait: Duration,
    carries: &[Carry<'_>],
) -> Result<Option<String>, Failure> {
    let quiet: String = carries.iter().flat_map(Carry::quiet).map(|statement| format!("; {statement}")).collect();
    let tables = together::tables(carries).join(", ");
    let sql = format!(
        "BEGIN; SET LOCAL synchronous_commit = local; {}; SET LOCAL lock_timeout = '{}ms'{quiet}; {}; SET LOCAL idle_in_transaction_session_timeout = '{}ms'",
        flush::CONFLICTS_AT_ONCE,
        context.past_vacuum_ms(),
        context.past_vacuum(&tables, lock_wait),
        (options.timeout + options.lock_timeout).as_millis() + 5_000
    );
    match conn.batch("keep vacuum away", &sql).await {
        Ok(()) => Ok(None),
        Err(e) if e.verdict() == Verdict::Stop => Err(e.into()),
        Err(e) if e.connection_lost => Ok(Some(e.to_string())),
        Err(_) => {
            conn.batch("roll back cut-over", "ROLLBACK").await?;
            let others: Vec<u32> = carries.iter().flat_map(|c| c.plan.sources().map(|shape| shape.oid)).collect();
            Ok(Some(prepare::holders(conn, context, &others).await?))
        }
    }
}

enum Stop {
    /// To be rolled back; another attempt may do.
    Rolled(String),
    /// The answer to COMMIT was lost: (lock granted at, lock wait, keys).
    Lost(Instant, Duration, u64),
    /// For good.
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Stop::Failed(failure)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        match error.verdict() {
            Verdict::Retry | Verdict::Reconnect => Stop::Rolled(error.to_string()),
            Verdict::Stop if error.is(&tokio_postgres::error::SqlState::QUERY_CANCELED) => {
                Stop::Rolled("the time writers may wait was over".to_owned())
            }
            Verdict::Stop => Stop::Failed(error.into()),
        }
    }
}

async fn locked(parties: &[Party<'_>], options: &Options, begun: &Begun, order: &mut Order) -> Result<Done, Stop> {
    let Begun { conn, flushers, script, marks, .. } = begun;
    let context = head(parties)?;
    if parties.iter().any(|party| !party.context.plan.partitions.is_empty()) {
        // Each partition is waited for while those before it are held.
        let most = format!("SET LOCAL statement_timeout = '{}ms'", options.timeout.as_millis().max(1));
        conn.batch("bound locks", &most).await?;
    }
    let asked = Instant::now();
    // From here on somebody may wait for us.
    let mut first_granted = None;
    for lock in order.of(script.locks.clone()) {
        let Err(e) = conn.batch("lock source", &lock).await else {
            first_granted.get_or_insert_with(Instant::now);
            continue;
        };
        if e.verdict() == Verdict::Stop {
            return Err(e.into());
        }
        order.failed(&lock);
        // Asked before those who queued behind our request get their locks.
        let holders = prepare::holders(context.store.conn(), context, &script.others).await;
        conn.batch("roll back cut-over", "ROLLBACK").await.map_err(Stop::from)?;
        return Err(Stop::Rolled(match holders {
            Ok(who) => who,
            Err(failure) if is_lost(&failure) => failure.primary,
            Err(failure) => return Err(failure.into()),
        }));
    }
    let granted = first_granted.unwrap_or(asked);
    let lock_wait = granted - asked;
    let left = options.timeout.saturating_sub(lock_wait);
    let over = || Stop::Rolled(format!("writers may wait {} ms in all", options.timeout.as_millis()));
    // The server ends a statement that takes too long; this side ends the wait for the stream.
    conn.batch("bound cut-over", &format!("SET LOCAL statement_timeout = '{}ms'", left.as_millis().max(1))).await?;
    let drained = tokio::time::timeout(left, drain_all(&followers(parties))).await.map_err(|_| over())??;
    let drained: Option<Vec<Vec<Key>>> = drained.into_iter().collect();
    let count = |drained: &Vec<Vec<Key>>| drained.iter().map(Vec::len).sum::<usize>();
    let drained = drained
        .filter(|drained| count(drained) <= MOST_KEYS)
        .ok_or_else(|| Stop::Rolled(format!("more than {MOST_KEYS} changed keys at once")))?;
    let final_keys = count(&drained) as u64;
    for ((party, flusher), keys) in parties.iter().zip(flushers).zip(&drained) {
        final_flush(party.context, flusher, keys).await?;
        if let Some(failure) = unfit(party.context, party.follower) {
            return Err(Stop::Failed(failure));
        }
    }
    let unchanged = context.published().unchanged_sql();
    let asked_ties = parties.iter().map(|party| format!("({})", drift::ties_sql(&party.context.plan)));
    let compared = format!("SELECT {unchanged}, {}", asked_ties.collect::<Vec<_>>().join(", "));
    let now = conn.simple("compare ties", &compared).await?.into_iter().next().unwrap_or_default();
    let (unchanged, ties) = now.split_first().unwrap_or((&None, &[]));
    if unchanged.as_deref() != Some("t") {
        return Err(Stop::Failed(context.published().changed(context.store.conn()).await));
    }
    if ties != marks {
        // The next attempt names it, or carries it.
        return Err(Stop::Rolled("a change of the table's grants or dependents".to_owned()));
    }
    let rest = left.saturating_sub(granted.elapsed());
    if rest.is_zero() {
        return Err(over());
    }
    conn.batch("swap", &format!("SET LOCAL statement_timeout = '{}ms';\n{}", rest.as_millis().max(1), script.swap))
        .await?;
    if granted.elapsed() > left {
        return Err(over());
    }
    match conn.batch("commit cut-over", "COMMIT").await {
        Ok(()) => Ok(Done { lock_wait, write_blocked: granted.elapsed(), final_keys }),
        Err(e) if e.connection_lost => Err(Stop::Lost(granted, lock_wait, final_keys)),
        Err(e) => Err(e.into()),
    }
}

/// Rows that the other table does not take, each named; `None` where all fit.
pub fn unfit(context: &Context, follower: &Follower) -> Option<Failure> {
    let all = follower.view().unfit();
    let (first, count) = (all.first()?.clone(), all.len());
    let named: Vec<&str> = all.iter().take(MOST_NAMED).map(|f| f.primary.as_str()).collect();
    let rows = if count == 1 { "1 row does".to_owned() } else { format!("{count} rows do") };
    Some(
        Failure { detail: Some(format!("They are: {}.", named.join("; "))), ..first }
            .named(format!("{rows} not fit {}", context.names.shadow().plain()))
            .hint("Correct them in the table that is in use, then try again; nothing was changed."),
    )
}

/// Flushes what is left inside the transaction that holds the lock: every commit is visible now, since writers free
/// their locks last.
async fn final_flush(context: &Context, flusher: &Flusher, keys: &[Key]) -> Result<(), Stop> {
    if keys.is_empty() {
        return Ok(());
    }
    let conn = flusher.conn();
    conn.batch("savepoint", "SAVEPOINT final").await?;
    let conflicts = match flusher.write(keys).await {
        Ok(()) => return Ok(()),
        Err(e) if flush::is_conflict(&e) => {
            conn.batch("undo final flush", "ROLLBACK TO SAVEPOINT final").await?;
            match flusher.replace(keys).await {
                Err(e) if misplaced(&e).is_some() || flush::is_stray(&e) => return Err(Stop::Rolled(e.to_string())),
                replaced => replaced?,
            }
        }
        // A flusher meets the same row once the lock is gone, and names it.
        Err(e) if e.is_data() || misplaced(&e).is_some() || flush::is_stray(&e) => {
            return Err(Stop::Rolled(e.to_string()));
        }
        Err(e) => return Err(e.into()),
    };
    // Nothing is stale any more, so a conflict is between two rows of the source.
    let Some(first) = conflicts.positions.first() else { return Ok(()) };
    let error = conflicts.error.as_ref();
    Err(Stop::Failed(flush::blame::meets(&context.plan, &context.names, &keys[*first], error)))
}

/// Asks the control row what happened, once the backend that was to commit is gone. Never guesses.
async fn after_lost_answer(context: &Context, pid: &str) -> Result<bool, Failure> {
    let after = if context.names.are_backwards() { Phase::SwappedBack } else { Phase::Swapped };
    let mut retry = crate::retry::Retry::new();
    loop {
        let conn = match context.connector.open(Role::Control).await {
            Ok(conn) => conn,
            Err(e) => {
                retry.after(e).await?;
                continue;
            }
        };
        let alive = format!(
            "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_stat_activity WHERE pid = {pid} AND application_name = 'pgrecast cut-over')"
        );
        if conn.scalar("look for lost backend", &alive).await?.as_deref() == Some("t") {
            retry.after(Error::lost("look for lost backend", "the backend of the cut-over is still at work")).await?;
            continue;
        }
        let phase = conn
            .scalar("ask what happened", &format!("SELECT phase FROM pgrecast.migration WHERE id = {}", context.id))
            .await?;
        return Ok(phase.as_deref() == Some(after.word()));
    }
}
