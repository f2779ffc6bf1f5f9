//! After the swap: the old table follows the new one, so that a swap back loses no write.
//!
//! The way back is a migration of its own: its source is the new table, its shadow the old one, and it begins in step,
//! because the swap left nothing to flush. What is followed, and how, is the same as before the swap. Only a row that the
//! old table does not take is not the end: it is said at once, its key waits, and a rollback names it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cli::MigrateOptions;
use crate::compare::{Comparison, EVERY};
use crate::context::Context;
use crate::copy;
use crate::cutover;
use crate::drift::{self, Fingerprint};
use crate::error::{Exit, Failure};
use crate::finish;
use crate::follow::Follower;
use crate::monitor::{Board, Monitor};
use crate::pg::{Literal, Role};
use crate::plan::reverse::found_again;
use crate::plan::tree;
use crate::plan::types::{Names, Plan};
use crate::report::{Event, Phase};
use crate::retry::past_locks;
use crate::slot;
use crate::state::{self, Ending, Migration};
use crate::throttle::{Kind, Throttle, throttle};

/// Begins to keep in step: the plan of the way back gets the new table as it stands.
pub async fn begin(context: &Context, migration: &Migration) -> Result<(), Failure> {
    let mut plan = migration.plan.clone();
    if let Some(back) = &mut plan.back {
        let conn = context.store.conn();
        let oid = format!("SELECT {}::regclass::oid", Literal(&plan.target.name.to_string()));
        let oid = conn.scalar("find new table", &oid).await?.and_then(|oid| oid.parse().ok());
        let oid = oid.ok_or_else(|| Failure::failed("the new table was not found"))?;
        found_again(back, past_locks(async || tree::tree(conn, oid).await).await?);
        context.store.keep_plan(context.id, &plan).await?;
    }
    context.store.set_phase(context.id, state::Phase::Swapped, state::Phase::Keep).await
}

/// The context of the way back of a migration that keeps in step.
pub fn way_back(forth: &Context, migration: &Migration) -> Result<Arc<Context>, Failure> {
    let (Some(plan), Some(old)) = (&migration.plan.back, &migration.old_names) else {
        return Err(Failure::failed(format!("migration {} has no way back", migration.id)));
    };
    let names = Names::backwards(forth.id, old.clone());
    Ok(Arc::new(Context { plan: Arc::new(Plan::clone(plan)), names, ..forth.clone() }))
}

/// A follower of the new table, in step, and what must live beside it.
pub struct Following {
    /// The follower.
    pub follower: Follower,
    /// The new table's columns, as every transaction must find them.
    pub fingerprint: Fingerprint,
    /// The migration's own plan.
    forth: Arc<Plan>,
    throttle: Throttle,
    board: Arc<Board>,
    monitor: tokio::task::JoinHandle<()>,
}

impl Following {
    /// Starts; returns once everything committed before is in the old table, as far as it fits.
    pub async fn start(
        back: &Arc<Context>,
        options: &MigrateOptions,
        board: &Arc<Board>,
    ) -> Result<Following, Failure> {
        slot::check(back).await?;
        past_locks(async || drift::check(back.store.conn(), &back.plan).await).await?;
        let fingerprint = drift::read(back.store.conn(), &back.plan.source).await?;
        let forth = Arc::new(back.store.get_again(back.id).await?.plan);
        let (gate, throttle) = throttle(options.throttle.nice);
        let copy = Arc::new(copy::Progress::default());
        let follower = Follower::start(back.following(&fingerprint.columns, &copy, &throttle).await?).await?;
        board.enter(Phase::Keep);
        let monitor = Monitor {
            context: back.clone(),
            board: board.clone(),
            gate,
            copy,
            follower: follower.view().clone(),
            blocks: 0,
            before: (0, 0),
        };
        let monitor = tokio::spawn(monitor.run());
        let following = Following { follower, fingerprint, forth, throttle, board: board.clone(), monitor };
        following.follower.catch_up().await?;
        following.follower.settle().await?;
        Ok(following)
    }

    /// A partition that somebody adds is not followed, and nothing that is written to it tells of it: it is looked for.
    async fn still(&self, back: &Context) -> Result<(), Failure> {
        if !back.plan.source.is_partitioned() {
            return Ok(());
        }
        match drift::read(back.store.conn(), &back.plan.source).await?.columns == self.fingerprint.columns {
            true => Ok(()),
            false => drift::check(back.store.conn(), &back.plan).await,
        }
    }

    /// A comparison of the new table with the old one.
    fn comparison<'a>(&'a self, back: &'a Context) -> Comparison<'a> {
        let Following { follower, forth, throttle, board, .. } = self;
        Comparison { context: back, forth: Some(forth.clone()), follower, throttle: throttle.of(Kind::Bulk), board }
    }

    /// Stops.
    pub async fn stop(self) -> Result<(), Failure> {
        self.monitor.abort();
        self.follower.stop().await
    }
}

/// Says what helps where somebody has changed the new table: its migration is past being aborted.
pub fn after_swap(failure: Failure) -> Failure {
    match &failure.hint {
        Some(hint) if hint.contains("pgrecast abort") => {
            failure.hint("Take it back first: what it does to rows is not followed, so a rollback could lose writes.")
        }
        _ => failure,
    }
}

/// Keeps in step until the window ends, or `finish` or `rollback` takes over; compares when somebody asks for it.
///
/// # Errors
/// Exit 4 where a comparison found a difference: what the way back needs is gone then, and the migration past it.
pub async fn run(back: &Arc<Context>, options: &MigrateOptions, board: &Arc<Board>) -> Result<(), Failure> {
    let following = begin_following(back, options, board).await?;
    let ended = tokio::select! {
        ended = wait_for_end(back, Some(options.rollback_window.unwrap_or_default())) => ended,
        failure = answer(back, &following) => Err(failure),
        failure = following.follower.failed() => Err(failure),
    };
    let unfit = cutover::unfit(back, &following.follower);
    let stopped = following.stop().await;
    match over(back, ended).await? {
        Some(Ending::Finish | Ending::Rollback | Ending::Abort) => stopped,
        None => {
            stopped?;
            if let Some(unfit) = unfit {
                let text = format!("the rollback window ends although {}", unfit.primary);
                back.reporter.say(Event::Warning { text });
            }
            end(back, state::Phase::Keep, state::Phase::Complete).await
        }
    }
}

/// Keeps in step until both tables are compared; gives way to `finish` and `rollback`.
///
/// # Errors
/// As [`run`].
pub async fn compare(back: &Arc<Context>, options: &MigrateOptions, board: &Arc<Board>) -> Result<(), Failure> {
    let following = begin_following(back, options, board).await?;
    board.enter(Phase::Verify);
    back.reporter.say(Event::PhaseBegan { phase: Phase::Verify });
    let comparison = following.comparison(back);
    let ended = tokio::select! {
        compared = comparison.run(state::Phase::Keep) => compared.map(|_| ()),
        ended = wait_for_end(back, None) => ended.and_then(|ending| Err(gave_way(back.id, ending))),
        failure = following.follower.failed() => Err(failure),
    };
    let stopped = following.stop().await;
    over(back, ended).await?;
    stopped
}

async fn begin_following(
    back: &Arc<Context>,
    options: &MigrateOptions,
    board: &Arc<Board>,
) -> Result<Following, Failure> {
    // What was asked of an earlier run was not carried out, or it would be over.
    back.store.ask_to_end(back.id, None).await?;
    finish::end_former_run(back).await?;
    Following::start(back, options, board).await
}

/// Compares whenever somebody asks for it; ends with the first failure.
async fn answer(back: &Context, following: &Following) -> Failure {
    let comparison = following.comparison(back);
    loop {
        if let Err(failure) = following.still(back).await {
            return failure;
        }
        if let Err(failure) = comparison.answer(state::Phase::Keep, Phase::Keep).await {
            return failure;
        }
        tokio::time::sleep(EVERY).await;
    }
}

fn gave_way(id: i32, ending: Option<Ending>) -> Failure {
    let to = match ending {
        Some(Ending::Finish) => "finish",
        Some(Ending::Rollback | Ending::Abort) | None => "rollback",
    };
    Failure::new(Exit::Interrupted, format!("the comparison gave way to pgrecast {to} {id}"))
}

/// A way back that is not to be trusted is not kept: nothing reads its slot any more.
async fn over<T>(back: &Context, ended: Result<T, Failure>) -> Result<T, Failure> {
    if ended.as_ref().is_err_and(|failure| failure.exit == Exit::Differs) {
        drop_way_back(back).await?;
    }
    ended
}

/// Removes what the way back needs. Safe to repeat.
pub async fn drop_way_back(back: &Context) -> Result<(), Failure> {
    let conn = back.connector.open(Role::Control).await?;
    finish::drop_way_back(back, &conn).await
}

/// Removes what the way back needs and moves on.
pub async fn end(back: &Context, from: state::Phase, to: state::Phase) -> Result<(), Failure> {
    drop_way_back(back).await?;
    back.store.set_phase(back.id, from, to).await
}

/// `None` where the window is over; without one only an ending is waited for. The server's clock is read once: one that
/// jumps meanwhile ends no window.
async fn wait_for_end(back: &Context, window: Option<Duration>) -> Result<Option<Ending>, Failure> {
    let mut ends = None;
    loop {
        let migration = back.store.get_again(back.id).await?;
        let said = ends.is_some();
        let left = window.map(|window| {
            let ends = *ends.get_or_insert_with(|| {
                let gone = Duration::try_from_secs_f64(migration.since_swap.unwrap_or_default()).unwrap_or_default();
                Instant::now() + window.saturating_sub(gone)
            });
            ends.saturating_duration_since(Instant::now())
        });
        if migration.ending.is_some() || left.is_some_and(|left| left.is_zero()) {
            return Ok(migration.ending);
        }
        if let (false, Some(left)) = (said, left) {
            back.reporter.say(Event::Notice {
                text: format!(
                    "{} follows for {} more; pgrecast rollback {} swaps back, pgrecast finish {} drops it",
                    back.names.shadow().plain(),
                    humantime::format_duration(Duration::from_secs(left.as_secs_f64().ceil() as u64)),
                    back.id,
                    back.id
                ),
            });
        }
        tokio::time::sleep(EVERY).await;
    }
}
