//! The swap back: a cut-over whose source is the new table and whose shadow is the old one.

use std::sync::Arc;

use crate::cli::MigrateOptions;
use crate::compare;
use crate::context::Group;
use crate::cutover::{self, Figures};
use crate::error::{Exit, Failure};
use crate::finish;
use crate::follow::failed_any;
use crate::keep::{self, Following};
use crate::monitor::Board;
use crate::pg::Role;
use crate::preflight;
use crate::report::{Event, Phase};
use crate::retry::past_locks;
use crate::slot;
use crate::state;
use crate::statistics;
use crate::ties::{Ties, tied_to_several};

/// Swaps back, from wherever an earlier try was left.
///
/// # Errors
/// Exit 3 where something made since cannot be carried back; exit 1 where rows do not fit the old table, all named; exit 5
/// where the lock was not to be had. The old table is kept in step by whoever runs `resume` then.
pub async fn run(back: &Group, options: &MigrateOptions) -> Result<Option<Figures>, Failure> {
    let migration = back.head.store.get(back.head.id).await?;
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

async fn swap(back: &Group, options: &MigrateOptions) -> Result<Figures, Failure> {
    past_locks(async || judge(back).await).await?;
    for table in back.tables() {
        finish::end_former_run(table).await?;
    }
    let head = &back.head;
    let following = Following::start(back, options, &Arc::new(Board::new((0, 0), options))).await?;
    let followers = following.followers();
    let swapped = async {
        if let Some(failure) = following.unfit() {
            return Err(failure);
        }
        head.reporter.say(Event::PhaseBegan { phase: Phase::Ready });
        let conn = head.connector.open(Role::Indexer).await?;
        for table in back.tables() {
            table.make_statistics(&conn, &table.ties(&conn).await?).await?;
            statistics::gather(table, false).await?;
        }
        head.reporter.say(Event::PhaseBegan { phase: Phase::CutOver });
        cutover::run(&following.parties(), &options.cutover, None).await
    };
    let swapped = tokio::select! {
        swapped = swapped => swapped,
        failure = failed_any(followers.clone()) => Err(failure),
    };
    drop(followers);
    let stopped = following.stop().await;
    let figures = swapped.map_err(|failure| not_swapped(failure, head.id))?;
    // Nothing follows the new table any more, so what its follower has left to say does not matter.
    if let Err(e) = stopped {
        tracing::info!(error = %e, "the follower of the new table ended");
    }
    head.reporter.say(Event::CutOver {
        lock_wait: figures.lock_wait.as_secs_f64(),
        write_blocked: figures.write_blocked.as_secs_f64(),
        final_keys: figures.final_keys,
    });
    Ok(figures)
}

/// Whether all that hangs on the new tables can be carried back.
async fn judge(back: &Group) -> Result<(), Failure> {
    let head = &back.head;
    let planner = head.connector.open(Role::Planner).await?;
    let (mut all, mut found) = (Vec::new(), Vec::new());
    for table in back.tables() {
        let oid = table.plan.source.oid;
        let ties = Ties::read(head.store.conn(), oid, &table.names.publication(), table.facts.version).await?;
        let ties = ties.apart_from_former(&table.plan);
        found.extend(ties.findings_of_former(&planner, &table.plan, &table.names.compat_view()).await?);
        all.push(ties);
    }
    for (table, ties) in back.tables().zip(&all) {
        let among: Vec<u32> = back.tables().map(|table| table.plan.source.oid).collect();
        found.extend(ties.outside(&among).findings(&planner, &table.plan, table.facts.version).await?);
    }
    found.extend(tied_to_several(&all));
    for table in back.tables() {
        for beside in table.plan.besides() {
            let oid = beside.shape.oid;
            let ties = Ties::read(head.store.conn(), oid, &table.names.publication(), table.facts.version).await?;
            found.extend(ties.apart_from_former(&table.plan).of_beside(&table.plan, &beside.shape.name));
        }
    }
    preflight::refusal(found)
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

/// After the swap back only the new tables and the control rows stay.
pub async fn clean_up(back: &Group) -> Result<(), Failure> {
    let head = &back.head;
    let phase = head.store.get(head.id).await?.map(|m| m.phase);
    if phase != Some(state::Phase::SwappedBack) {
        return Ok(());
    }
    let conn = head.connector.open(Role::Control).await?;
    for table in back.tables() {
        finish::complete_keys(table, &conn).await?;
    }
    slot::hand_on(head, &conn).await?;
    keep::end(back, state::Phase::SwappedBack, state::Phase::RolledBack).await
}
