//! The swap back: a cut-over whose source is the new table and whose shadow is the old one.

use std::sync::Arc;

use crate::cli::MigrateOptions;
use crate::compare;
use crate::context::Context;
use crate::cutover::{self, Figures};
use crate::error::{Exit, Failure};
use crate::finish;
use crate::keep::{self, Following};
use crate::monitor::Board;
use crate::pg::Role;
use crate::preflight;
use crate::report::{Event, Phase};
use crate::retry::past_locks;
use crate::slot;
use crate::state;
use crate::statistics;
use crate::ties::Ties;

/// Swaps back, from wherever an earlier try was left.
///
/// # Errors
/// Exit 3 where something made since cannot be carried back; exit 1 where rows do not fit the old table, all named; exit 5
/// where the lock was not to be had. The old table is kept in step by whoever runs `resume` then.
pub async fn run(back: &Arc<Context>, options: &MigrateOptions) -> Result<Option<Figures>, Failure> {
    let migration = back.store.get(back.id).await?;
    if let Some(migration) = &migration {
        compare::allows(migration)?;
    }
    let figures = match migration.map(|m| m.phase) {
        Some(state::Phase::Keep) => Some(swap(back, options).await.map_err(keep::after_swap)?),
        _ => None,
    };
    clean_up(back).await?;
    Ok(figures)
}

async fn swap(back: &Arc<Context>, options: &MigrateOptions) -> Result<Figures, Failure> {
    past_locks(async || judge(back).await).await?;
    finish::end_former_run(back).await?;
    let following = Following::start(back, options, &Arc::new(Board::new((0, 0), options))).await?;
    let swapped = async {
        if let Some(failure) = cutover::unfit(back, &following.follower) {
            return Err(failure);
        }
        back.reporter.say(Event::PhaseBegan { phase: Phase::Ready });
        let conn = back.connector.open(Role::Indexer).await?;
        back.make_statistics(&conn, &back.ties(&conn).await?).await?;
        statistics::gather(back, false).await?;
        back.reporter.say(Event::PhaseBegan { phase: Phase::CutOver });
        cutover::run(back, &following.follower, &options.cutover, &following.fingerprint.columns, None).await
    };
    let swapped = tokio::select! {
        swapped = swapped => swapped,
        failure = following.follower.failed() => Err(failure),
    };
    let stopped = following.stop().await;
    let figures = swapped.map_err(|failure| not_swapped(failure, back.id))?;
    // Nothing follows the new table any more, so what its follower has left to say does not matter.
    if let Err(e) = stopped {
        tracing::info!(error = %e, "the follower of the new table ended");
    }
    back.reporter.say(Event::CutOver {
        lock_wait: figures.lock_wait.as_secs_f64(),
        write_blocked: figures.write_blocked.as_secs_f64(),
        final_keys: figures.final_keys,
    });
    Ok(figures)
}

/// Whether all that hangs on the new table can be carried back.
async fn judge(back: &Context) -> Result<(), Failure> {
    let planner = back.connector.open(Role::Planner).await?;
    let ties =
        Ties::read(back.store.conn(), back.plan.source.oid, &back.names.publication(), back.facts.version).await?;
    preflight::refusal(ties.findings(&planner, &back.plan, back.facts.version).await?)
}

/// What a rollback that did not come to its end leaves, and what keeps the old table in step again.
fn not_swapped(failure: Failure, id: i32) -> Failure {
    let keeps = format!("pgrecast resume {id} keeps the old table in step meanwhile.");
    let hint = match (&failure.hint, failure.exit) {
        (_, Exit::NoLock) => format!("Try again when they have ended; {keeps}"),
        (Some(hint), _) => format!("{hint} {keeps}"),
        (None, _) => keeps,
    };
    failure.hint(hint)
}

/// After the swap back only the new table and the control row stay.
pub async fn clean_up(back: &Context) -> Result<(), Failure> {
    let phase = back.store.get(back.id).await?.map(|m| m.phase);
    if phase != Some(state::Phase::SwappedBack) {
        return Ok(());
    }
    let conn = back.connector.open(Role::Control).await?;
    finish::complete_keys(back, &conn).await?;
    slot::hand_on(back, &conn).await?;
    keep::end(back, state::Phase::SwappedBack, state::Phase::RolledBack).await
}
