//! After the swap: the old table follows the new one, so that a swap back loses no write.
//!
//! The way back is a migration of its own: its source is the new table, its shadow the old one, and it begins in step,
//! because the swap left nothing to flush. What is followed, and how, is the same as before the swap. Only a row that the
//! old table does not take is not the end: it is said at once, its key waits, and a rollback names it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cli::MigrateOptions;
use crate::compare::{Comparison, EVERY, Pair};
use crate::context::{Context, Group};
use crate::copy;
use crate::cutover::{self, Party};
use crate::drift::{self, Fingerprint};
use crate::error::{Exit, Failure};
use crate::finish;
use crate::follow::{Follower, failed_any, settle_all, start_all, stop_all};
use crate::monitor::{Board, Monitor};
use crate::pg::{Conn, Literal, Role};
use crate::plan::reverse::found_again;
use crate::plan::tree;
use crate::plan::types::Plan;
use crate::report::{Event, Phase};
use crate::retry::past_locks;
use crate::slot;
use crate::state::{self, Ending, Migration};
use crate::throttle::{Kind, Throttle, throttle};

/// Begins to keep in step: the plans of the way back get the new tables as they stand.
pub async fn begin(group: &Group, migration: &Migration) -> Result<(), Failure> {
    let store = &group.head.store;
    for table in migration.tables() {
        let mut plan = table.plan.clone();
        let Some(back) = &mut plan.back else { continue };
        let conn = store.conn();
        let oid = format!("SELECT {}::regclass::oid", Literal(&plan.target.name.to_string()));
        let oid = conn.scalar("find new table", &oid).await?.and_then(|oid| oid.parse().ok());
        let oid = oid.ok_or_else(|| Failure::failed("the new table was not found"))?;
        found_again(back, past_locks(async || tree::tree(conn, oid).await).await?);
        find_beside(conn, back).await?;
        store.keep_plan(table.id, &plan).await?;
    }
    store.set_phase(migration.id, state::Phase::Swapped, state::Phase::Keep).await
}

/// The same of the tables beside what remains of one that was taken apart.
async fn find_beside(conn: &Conn, back: &mut Plan) -> Result<(), Failure> {
    for beside in back.rejoin.iter_mut().flat_map(|rejoin| &mut rejoin.tables) {
        let oid = format!("SELECT {}::regclass::oid", Literal(&beside.shape.name.to_string()));
        let oid = conn.scalar("find new table", &oid).await?.and_then(|oid| oid.parse().ok());
        let oid = oid.ok_or_else(|| Failure::failed("a new table was not found"))?;
        beside.shape = past_locks(async || tree::tree(conn, oid).await).await?.root;
    }
    Ok(())
}

/// The contexts of the way back of a migration that keeps in step.
pub fn way_back(forth: &Group, migration: &Migration) -> Result<Group, Failure> {
    let mut tables = Vec::new();
    for (context, table) in forth.tables().zip(migration.tables()) {
        let (Some(plan), Some(old)) = (&table.plan.back, &table.old_names) else {
            return Err(Failure::failed(format!("migration {} has no way back", migration.id)));
        };
        let names = context.names.backwards(old.clone());
        let mut plan = Plan::clone(plan);
        if let Some(rejoin) = &mut plan.rejoin {
            rejoin.know(&old.table);
        }
        tables.push(Arc::new(Context { plan: Arc::new(plan), names, ..Context::clone(context) }));
    }
    let head = tables.remove(0);
    Ok(Group { head, others: tables })
}

/// A new table and what follows it.
struct Followed {
    context: Arc<Context>,
    /// In step.
    follower: Follower,
    /// The new table's columns, as every transaction must find them.
    fingerprint: Fingerprint,
    /// The table's own plan, forth.
    forth: Arc<Plan>,
}

/// Followers of the new tables, in step, and what must live beside them.
pub struct Following {
    tables: Vec<Followed>,
    throttle: Throttle,
    board: Arc<Board>,
    monitor: tokio::task::JoinHandle<()>,
}

impl Following {
    /// Starts; returns once everything committed before is in the old tables, as far as it fits.
    pub async fn start(back: &Group, options: &MigrateOptions, board: &Arc<Board>) -> Result<Following, Failure> {
        let head = &back.head;
        slot::check(head).await?;
        let migration = head.store.get_again(head.id).await?;
        let (gate, throttle) = throttle(options.throttle.nice);
        let (mut seen, mut jobs, mut copy) = (Vec::new(), Vec::new(), Vec::new());
        for (context, table) in back.tables().zip(migration.tables()) {
            past_locks(async || drift::check(head.store.conn(), &context.plan).await).await?;
            let fingerprint = drift::read_all(head.store.conn(), &context.plan).await?;
            let progress = Arc::new(copy::Progress::default());
            let job = context.following(&fingerprint.columns, &progress, &throttle).await?;
            jobs.push(back.divided(job));
            copy.push(progress);
            seen.push((context.clone(), fingerprint, Arc::new(table.plan.clone())));
        }
        let followed = |((context, fingerprint, forth), follower)| Followed { context, follower, fingerprint, forth };
        let tables: Vec<Followed> = seen.into_iter().zip(start_all(jobs).await?).map(followed).collect();
        board.enter(Phase::Keep);
        let monitor = Monitor {
            context: head.clone(),
            board: board.clone(),
            gate,
            copy,
            followers: tables.iter().map(|table| table.follower.view().clone()).collect(),
            blocks: 0,
            before: (0, 0),
        };
        let monitor = tokio::spawn(monitor.run());
        let following = Following { tables, throttle, board: board.clone(), monitor };
        for follower in following.followers() {
            follower.catch_up().await?;
        }
        settle_all(&following.followers()).await?;
        Ok(following)
    }

    /// A partition that somebody adds is not followed, and nothing that is written to it tells of it: it is looked for.
    async fn still(&self) -> Result<(), Failure> {
        for Followed { context, fingerprint, .. } in
            self.tables.iter().filter(|t| t.context.plan.source.is_partitioned())
        {
            if drift::read(context.store.conn(), &context.plan.source).await?.columns != fingerprint.columns {
                drift::check(context.store.conn(), &context.plan).await?;
            }
        }
        Ok(())
    }

    /// What follows each table.
    pub fn followers(&self) -> Vec<&Follower> {
        self.tables.iter().map(|table| &table.follower).collect()
    }

    /// The tables, as they are swapped back.
    pub fn parties(&self) -> Vec<Party<'_>> {
        self.tables.iter().map(Followed::party).collect()
    }

    /// Rows that an old table does not take, each named; `None` where all fit.
    pub fn unfit(&self) -> Option<Failure> {
        self.tables.iter().find_map(|table| cutover::unfit(&table.context, &table.follower))
    }

    /// A comparison of the new tables with the old ones.
    fn comparison<'a>(&'a self, back: &'a Context) -> Comparison<'a> {
        let tables = self.tables.iter().map(|table| Pair {
            context: &table.context,
            follower: &table.follower,
            forth: Some(table.forth.clone()),
        });
        let throttle = self.throttle.of(Kind::Bulk);
        Comparison { context: back, tables: tables.collect(), throttle, board: &self.board }
    }

    /// Stops.
    pub async fn stop(self) -> Result<(), Failure> {
        self.monitor.abort();
        stop_all(&self.followers()).await
    }
}

impl Followed {
    fn party(&self) -> Party<'_> {
        Party { context: &self.context, follower: &self.follower, columns: &self.fingerprint.columns }
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
pub async fn run(back: &Group, options: &MigrateOptions, board: &Arc<Board>) -> Result<(), Failure> {
    let following = begin_following(back, options, board).await?;
    let ended = tokio::select! {
        ended = wait_for_end(&back.head, Some(options.rollback_window.unwrap_or_default())) => ended,
        failure = answer(&back.head, &following) => Err(failure),
        failure = failed_any(following.followers()) => Err(failure),
    };
    let unfit = following.unfit();
    let stopped = following.stop().await;
    match over(back, ended).await? {
        Some(Ending::Finish | Ending::Rollback | Ending::Abort) => stopped,
        None => {
            stopped?;
            if let Some(unfit) = unfit {
                let text = format!("the rollback window ends although {}", unfit.primary);
                back.head.reporter.say(Event::Warning { text });
            }
            end(back, state::Phase::Keep, state::Phase::Complete).await
        }
    }
}

/// Keeps in step until both tables are compared; gives way to `finish` and `rollback`.
///
/// # Errors
/// As [`run`].
pub async fn compare(back: &Group, options: &MigrateOptions, board: &Arc<Board>) -> Result<(), Failure> {
    let following = begin_following(back, options, board).await?;
    board.enter(Phase::Verify);
    back.head.reporter.say(Event::PhaseBegan { phase: Phase::Verify });
    let comparison = following.comparison(&back.head);
    let ended = tokio::select! {
        compared = comparison.run(state::Phase::Keep) => compared.map(|_| ()),
        ended = wait_for_end(&back.head, None) => ended.and_then(|ending| Err(gave_way(back.head.id, ending))),
        failure = failed_any(following.followers()) => Err(failure),
    };
    let stopped = following.stop().await;
    over(back, ended).await?;
    stopped
}

async fn begin_following(back: &Group, options: &MigrateOptions, board: &Arc<Board>) -> Result<Following, Failure> {
    // What was asked of an earlier run was not carried out, or it would be over.
    back.head.store.ask_to_end(back.head.id, None).await?;
    for table in back.tables() {
        finish::end_former_run(table).await?;
    }
    Following::start(back, options, board).await
}

/// Compares whenever somebody asks for it; ends with the first failure.
async fn answer(back: &Context, following: &Following) -> Failure {
    let comparison = following.comparison(back);
    let mut steered = back.store.steered();
    loop {
        if let Err(failure) = following.still().await {
            return failure;
        }
        if let Err(failure) = comparison.answer(state::Phase::Keep, Phase::Keep).await {
            return failure;
        }
        steered.or_after(EVERY).await;
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
async fn over<T>(back: &Group, ended: Result<T, Failure>) -> Result<T, Failure> {
    if ended.as_ref().is_err_and(|failure| failure.exit == Exit::Differs) {
        drop_way_back(back).await?;
    }
    ended
}

/// Removes what the way back needs. Safe to repeat.
pub async fn drop_way_back(back: &Group) -> Result<(), Failure> {
    let conn = back.head.connector.open(Role::Control).await?;
    for table in back.tables() {
        finish::drop_way_back(table, &conn).await?;
    }
    Ok(())
}

/// Removes what the way back needs and moves on.
pub async fn end(back: &Group, from: state::Phase, to: state::Phase) -> Result<(), Failure> {
    drop_way_back(back).await?;
    back.head.store.set_phase(back.head.id, from, to).await
}

/// `None` where the window is over; without one only an ending is waited for. The server's clock is read once: one that
/// jumps meanwhile ends no window.
async fn wait_for_end(back: &Context, window: Option<Duration>) -> Result<Option<Ending>, Failure> {
    let mut ends = None;
    let mut steered = back.store.steered();
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
        steered.or_after(EVERY).await;
    }
}
