//! The spine: prepare, what lies between it and the swap (`work`), clean-up, and the rollback window. A resumed run walks
//! the same path.

mod work;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::work::Work;
use crate::cli::{MigrateOptions, Outside};
use crate::compare;
use crate::context::{Context, Group};
use crate::drift;
use crate::error::{Exit, Failure};
use crate::follow::{failed_any, stop_all};
use crate::monitor::{Board, closed_failure, given_up, spent_failure};
use crate::pg::{Conn, Role};
use crate::report::{Event, Phase, Report};
use crate::state::{self, Migration};
use crate::{extend, finish, keep, prepare, rollback, seams, slot, unconverted, window};

/// How far a run goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// To the end.
    Swapped,
    /// Until source and shadow have been compared, even where an earlier run has compared them.
    Compared,
}

/// A run of a migration from wherever it stands.
pub struct Run {
    /// The migration: its table, and others that go with it.
    pub group: Group,
    /// Its options.
    pub options: MigrateOptions,
    /// What the report will say.
    pub report: Report,
    until: Until,
    begun: Instant,
}

impl Run {
    /// A run that begins now.
    pub fn new(group: Group, options: MigrateOptions, until: Until, report: Report) -> Self {
        Run { group, options, report, until, begun: Instant::now() }
    }

    /// From the phase the control row names to the end, or to a clean stop.
    pub async fn go(&mut self, migration: Migration) -> Result<(), Failure> {
        let wal = self.wal_position().await?;
        let outcome = self.phases(migration).await;
        self.report.seconds.total = Some(self.begun.elapsed().as_secs_f64());
        if let Ok(Some(migration)) = self.group.head.store.get(self.group.head.id).await {
            self.report.unconverted = unconverted::figures(&migration.plan);
        }
        if let Ok(now) = self.wal_position().await {
            self.report.wal_bytes = Some(now.saturating_sub(wal));
        }
        outcome
    }

    async fn phases(&mut self, mut migration: Migration) -> Result<(), Failure> {
        if migration.phase == state::Phase::Differs {
            return compare::allows(&migration);
        }
        let mut stopped = std::pin::pin!(stop_request());
        // What was asked of an earlier run was not carried out, or there would be no migration.
        self.group.head.store.ask_to_end(self.group.head.id, None).await?;
        if migration.phase == state::Phase::Prepare {
            // Later the monitor sees to the end of the run's time, and to what it leaves.
            let ends = self.ends();
            let early = async {
                tokio::select! { why = &mut stopped => why, why = spent(ends) => why }
            };
            let mut early = std::pin::pin!(early);
            self.wait_for_window(&mut early).await?;
            let prepared = tokio::select! {
                prepared = self.timed(Phase::Prepare, prepare::run(&self.group), &mut early) => prepared,
                why = self.aborted() => Err(why),
            };
            let seconds = match prepared {
                Err(failure) if failure.exit == Exit::Failed => return Err(self.undo(failure).await),
                other => other?,
            };
            self.report.seconds.prepare = Some(seconds);
            migration = self.again().await?;
        }
        while migration.phase.is_before_swap() {
            self.end_former_run().await?;
            migration = self.again().await?;
            if !migration.phase.is_before_swap() {
                break;
            }
            match self.swap(migration, &mut stopped).await {
                Err(failure) => migration = self.make_room(failure).await?,
                Ok(()) => break,
            }
        }
        if self.until == Until::Swapped {
            self.clean_up().await?;
        }
        self.keep(&mut stopped).await
    }

    /// When `--max-runtime` is over.
    fn ends(&self) -> Option<Instant> {
        self.options.max_runtime.and_then(|most| self.begun.checked_add(most))
    }

    async fn end_former_run(&self) -> Result<(), Failure> {
        for table in self.group.tables() {
            finish::end_former_run(table).await?;
        }
        Ok(())
    }

    /// Waits until `pgrecast abort` was run elsewhere; later the monitor looks for that.
    async fn aborted(&self) -> Failure {
        let head = &self.group.head;
        let mut steered = head.store.steered();
        loop {
            steered.or_after(compare::EVERY).await;
            // The work beside it may have this session in a transaction that has failed.
            if let Ok(Some(migration)) = head.store.get(head.id).await
                && migration.ending == Some(state::Ending::Abort)
            {
                return given_up(head.id);
            }
        }
    }

    /// Nothing is begun outside the windows, as they are at the moment: `pgrecast set` changes them.
    async fn wait_for_window(&self, stopped: &mut (impl Future<Output = Failure> + Unpin)) -> Result<(), Failure> {
        let head = &self.group.head;
        let opens = async {
            let mut steered = head.store.steered();
            let mut said = None;
            loop {
                let hours = self.again().await?.options.hours;
                let window::Now::Closed { opens } = window::at(&hours.windows, seams::now()) else { return Ok(()) };
                if hours.outside == Outside::Exit {
                    return Err(closed_failure(opens, &hours));
                }
                if said != Some(opens) {
                    said = Some(opens);
                    let on = format!("the window, which opens {}", window::by_clock(&hours.windows, opens));
                    head.reporter.say(Event::Waiting { on });
                }
                steered.or_after(compare::EVERY).await;
            }
        };
        tokio::select! {
            opened = opens => opened,
            why = stopped => Err(why),
            why = self.aborted() => Err(why),
            failure = lease_lost(&self.group.head) => Err(failure),
        }
    }

    /// Makes the partition that a row wants which has none, so that the run can go on; any other failure is the end.
    async fn make_room(&mut self, failure: Failure) -> Result<Migration, Failure> {
        let Some(wanted) = failure.unplaced.clone() else { return Err(failure) };
        self.end_former_run().await?;
        let migration = self.again().await?;
        if !migration.phase.is_before_swap() {
            return Ok(migration);
        }
        let Some(plan) = extend::run(&self.group.head, &migration, &wanted).await? else { return Err(failure) };
        self.group.head = Arc::new(Context { plan: Arc::new(plan), ..Context::clone(&self.group.head) });
        self.again().await
    }

    /// Keeps the old table in step where that was asked for.
    async fn keep(&mut self, stopped: &mut (impl Future<Output = Failure> + Unpin)) -> Result<(), Failure> {
        let migration = self.again().await?;
        if !matches!(migration.phase, state::Phase::Keep | state::Phase::SwappedBack | state::Phase::NoWayBack) {
            return Ok(());
        }
        let back = keep::way_back(&self.group, &migration)?;
        match migration.phase {
            state::Phase::SwappedBack => return rollback::clean_up(&back).await,
            state::Phase::NoWayBack => {
                keep::drop_way_back(&back).await?;
                return compare::allows(&migration);
            }
            _ => {}
        }
        self.group.head.reporter.say(Event::PhaseBegan { phase: Phase::Keep });
        let begun = Instant::now();
        let board = Arc::new(Board::new((0, 0), &self.options).until(self.ends()));
        let work = async {
            match self.until {
                Until::Swapped => keep::run(&back, &self.options, &board).await,
                Until::Compared => keep::compare(&back, &self.options, &board).await,
            }
        };
        let ended = tokio::select! {
            ended = work => ended,
            why = stopped => Err(why),
            why = board.left() => Err(why),
            failure = lease_lost(&self.group.head) => Err(failure),
        };
        if self.until == Until::Compared {
            self.report.seconds.verify = Some(begun.elapsed().as_secs_f64());
            self.report.verify = board.figures();
        }
        ended.map_err(keep::after_swap)
    }

    /// Nothing of worth is made before the copy: a run that cannot prepare leaves nothing behind.
    async fn undo(&self, failure: Failure) -> Failure {
        let removed = async {
            let conn = self.group.head.connector.open(Role::Control).await?;
            for table in self.group.tables() {
                finish::remove_ours(table, &conn).await?;
            }
            self.group.head.store.forget(self.group.head.id).await
        };
        if let Err(e) = removed.await {
            tracing::warn!(error = %e, "what was prepared could not be removed");
        }
        failure
    }

    /// Says when a phase begins and ends.
    async fn timed(
        &self,
        phase: Phase,
        work: impl Future<Output = Result<(), Failure>>,
        stopped: &mut (impl Future<Output = Failure> + Unpin),
    ) -> Result<f64, Failure> {
        let begun = Instant::now();
        self.group.head.reporter.say(Event::PhaseBegan { phase });
        tokio::select! {
            done = work => done?,
            why = stopped => return Err(why),
            failure = lease_lost(&self.group.head) => return Err(failure),
        }
        let seconds = begun.elapsed().as_secs_f64();
        self.group.head.reporter.say(Event::PhaseEnded { phase, seconds });
        Ok(seconds)
    }

    async fn again(&self) -> Result<Migration, Failure> {
        self.group.head.store.get_again(self.group.head.id).await
    }

    /// Everything between prepare and the swap, with the follower and the monitor beside it.
    async fn swap(
        &mut self,
        migration: Migration,
        stopped: &mut (impl Future<Output = Failure> + Unpin),
    ) -> Result<(), Failure> {
        let (work, monitor) = Work::begin(self, migration).await?;
        let monitor = tokio::spawn(monitor.run());
        let followers = work.followers();
        let outcome = tokio::select! {
            done = work.all() => done,
            failure = failed_any(followers.clone()) => Err(failure),
            why = &mut *stopped => Err(why),
            why = work.board.left() => Err(why),
            failure = lease_lost(&work.group.head) => Err(failure),
        };
        monitor.abort();
        let outcome = match outcome {
            Err(failure) if failure.exit == Exit::Failed => Err(self.explained(failure).await),
            other => other,
        };
        work.tell(&mut self.report);
        let left = match (&outcome, self.until) {
            // Nothing follows the old table any more.
            (Ok(()), Until::Swapped) => Ok(()),
            (Ok(()), Until::Compared) | (Err(_), _) => stop_all(&followers).await,
        };
        outcome.and(left)
    }

    /// A statement of ours that fails because somebody changed the table says so (rule 11), whatever it was.
    async fn explained(&self, failure: Failure) -> Failure {
        let context = &self.group.head;
        match context.store.get(context.id).await {
            Ok(Some(migration)) if migration.phase.is_before_swap() => {}
            _ => return failure,
        }
        for table in self.group.tables() {
            match drift::check(context.store.conn(), &table.plan).await {
                Err(drifted) if drifted.source.is_none() => return drifted,
                Ok(()) | Err(_) => {}
            }
        }
        failure
    }

    /// After the swap only the old table and the control row stay.
    async fn clean_up(&self) -> Result<(), Failure> {
        let context = &self.group.head;
        let migration = self.again().await?;
        let conn = context.connector.open(Role::Control).await?;
        if migration.phase != state::Phase::Swapped {
            return self.drop_synchronized(&migration, &conn).await;
        }
        slot::hand_on(context, &conn).await?;
        finish::drop_stream(context, &conn).await?;
        for table in self.group.tables() {
            clean_up_table(table, &conn).await?;
            if let Some(managed) = &table.plan.managed {
                table.reporter.say(Event::Notice { text: managed.told(table.plan.back.is_some()) });
            }
        }
        unconverted::settle(context, &conn, &migration).await?;
        match migration.plan.back {
            Some(_) => keep::begin(&self.group, &self.again().await?).await,
            None => {
                for table in self.group.tables() {
                    finish::drop_functions(&conn, &table.names).await?;
                }
                context.store.set_phase(context.id, state::Phase::Swapped, state::Phase::Complete).await
            }
        }
    }

    /// A standby may have been promoted before it heard that a slot was dropped.
    async fn drop_synchronized(&self, migration: &Migration, conn: &Conn) -> Result<(), Failure> {
        if !self.group.head.failover {
            return Ok(());
        }
        finish::drop_stream(&self.group.head, conn).await?;
        match migration.phase.is_last() {
            true => finish::drop_way_back(&self.group.head, conn).await,
            false => Ok(()),
        }
    }

    async fn wal_position(&self) -> Result<u64, Failure> {
        let sql = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::int8::text";
        let text = self.group.head.store.conn().scalar("read WAL position", sql).await?;
        Ok(text.and_then(|t| t.parse().ok()).unwrap_or(0))
    }
}

/// What belongs to one of the tables that were swapped.
async fn clean_up_table(table: &Context, conn: &Conn) -> Result<(), Failure> {
    finish::drop_tables(table, conn).await?;
    finish::restore_autovacuum(table, conn).await?;
    finish::complete_keys(table, conn).await?;
    for (plan, names) in table.plan.with_parts(&table.names) {
        for holder in plan.holders(&names).iter().filter(|_| plan.key.needs_helper_index) {
            let helper = holder.target.name.sibling(holder.helper_index().name);
            let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {helper}");
            finish::patiently(conn, "drop helper index", &drop).await?;
        }
    }
    Ok(())
}

/// The lease goes with its connection: another runner may take over, so this one stops.
async fn lease_lost(context: &Context) -> Failure {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if context.store.conn().is_closed() {
            return state::lease_lost();
        }
    }
}

/// The end of `--max-runtime`.
async fn spent(ends: Option<Instant>) -> Failure {
    match ends {
        Some(ends) => tokio::time::sleep_until(ends.into()).await,
        None => std::future::pending().await,
    }
    spent_failure()
}

/// SIGINT or SIGTERM, from this call on. A second signal ends the process at once.
pub fn stop_request() -> impl Future<Output = Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tokio::spawn(async move {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            std::process::exit(i32::from(Exit::Interrupted.code()));
        });
        Failure::new(Exit::Interrupted, "interrupted").hint("Run the same command again to go on.")
    }
}

/// Where relative paths in the options begin: kept absolute, so that a resume from elsewhere looks at the same file.
pub fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}
