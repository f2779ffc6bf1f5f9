//! The spine: one line a phase.
//!
//! Each phase gives a token that only it can make, and the next one asks for it: what was not copied cannot be indexed,
//! and what was not compared, or spared the comparison on request, cannot be swapped. A resumed run walks the same path;
//! a phase that an earlier run has completed gives its token at once.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::cli::MigrateOptions;
use crate::compare::{self, Comparison};
use crate::context::Context;
use crate::copy::{self, ranges::Ranges};
use crate::cutover;
use crate::drift::{self, Fingerprint};
use crate::error::{Exit, Failure};
use crate::follow::{self, Follower};
use crate::monitor::{Board, Monitor};
use crate::pg::{Conn, Role};
use crate::report::{Event, Phase, Report};
use crate::retry::{Retry, past_locks};
use crate::state::{self, Migration};
use crate::throttle::{Throttle, throttle};
use crate::{extend, fill, finish, index, keep, prepare, rollback, slot};

/// Every row alive at X0 is in the shadow.
struct Copied(());
/// The shadow has its indexes.
struct Indexed(());
/// Changes go straight to the shadow.
struct InStep(());
/// Compared, or not to be compared.
struct Compared(());
/// Statistics are there, and nothing postpones the cut-over.
struct Ready(());

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
    /// The migration.
    pub context: Arc<Context>,
    /// Its options.
    pub options: MigrateOptions,
    /// What the report will say.
    pub report: Report,
    until: Until,
    begun: Instant,
}

/// What the phases between prepare and swap share.
struct Work {
    context: Arc<Context>,
    options: MigrateOptions,
    until: Until,
    migration: Migration,
    follower: Follower,
    copy: Arc<copy::Progress>,
    throttle: Throttle,
    board: Arc<Board>,
    fingerprint: Fingerprint,
    /// The columns of each leaf, by its oid, when this run began.
    columns: HashMap<u32, String>,
    seconds: std::sync::Mutex<Vec<(Phase, f64)>>,
    figures: std::sync::Mutex<Option<cutover::Figures>>,
}

impl Run {
    /// A run that begins now.
    pub fn new(context: Arc<Context>, options: MigrateOptions, until: Until, report: Report) -> Self {
        Run { context, options, report, until, begun: Instant::now() }
    }

    /// From the phase the control row names to the end, or to a clean stop.
    pub async fn go(&mut self, migration: Migration) -> Result<(), Failure> {
        let wal = self.wal_position().await?;
        let outcome = self.phases(migration).await;
        self.report.seconds.total = Some(self.begun.elapsed().as_secs_f64());
        if let Ok(now) = self.wal_position().await {
            self.report.wal_bytes = Some(now.saturating_sub(wal));
        }
        outcome
    }

    async fn phases(&mut self, mut migration: Migration) -> Result<(), Failure> {
        if migration.phase == state::Phase::Differs {
            return compare::allows(&migration);
        }
        let stopped = stop_request(self.options.max_runtime);
        let mut stopped = std::pin::pin!(stopped);
        if migration.phase == state::Phase::Prepare {
            let prepared = self.timed(Phase::Prepare, prepare::run(&self.context), &mut stopped).await;
            let seconds = match prepared {
                Err(failure) if failure.exit == Exit::Failed => return Err(self.undo(failure).await),
                other => other?,
            };
            self.report.seconds.prepare = Some(seconds);
            migration = self.again().await?;
        }
        while migration.phase.is_before_swap() {
            finish::end_former_run(&self.context).await?;
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

    /// Makes the partition that a row wants which has none, so that the run can go on; any other failure is the end.
    async fn make_room(&mut self, failure: Failure) -> Result<Migration, Failure> {
        let Some(place) = failure.unplaced.clone() else { return Err(failure) };
        finish::end_former_run(&self.context).await?;
        let migration = self.again().await?;
        if !migration.phase.is_before_swap() {
            return Ok(migration);
        }
        let Some(plan) = extend::run(&self.context, &migration, &place).await? else { return Err(failure) };
        self.context = Arc::new(self.context.with_plan(plan));
        self.again().await
    }

    /// Keeps the old table in step where that was asked for.
    async fn keep(&mut self, stopped: &mut (impl Future<Output = Failure> + Unpin)) -> Result<(), Failure> {
        let migration = self.again().await?;
        if !matches!(migration.phase, state::Phase::Keep | state::Phase::SwappedBack | state::Phase::NoWayBack) {
            return Ok(());
        }
        let back = keep::way_back(&self.context, &migration)?;
        match migration.phase {
            state::Phase::SwappedBack => return rollback::clean_up(&back).await,
            state::Phase::NoWayBack => {
                keep::drop_way_back(&back).await?;
                return compare::allows(&migration);
            }
            _ => {}
        }
        self.context.reporter.say(Event::PhaseBegan { phase: Phase::Keep });
        let begun = Instant::now();
        let board = Arc::new(Board::new((0, 0), Arc::default()));
        let work = async {
            match self.until {
                Until::Swapped => keep::run(&back, &self.options, &board).await,
                Until::Compared => keep::compare(&back, &self.options, &board).await,
            }
        };
        let ended = tokio::select! {
            ended = work => ended,
            why = stopped => Err(why),
            failure = lease_lost(&self.context) => Err(failure),
        };
        if self.until == Until::Compared {
            self.report.seconds.verify = Some(begun.elapsed().as_secs_f64());
            self.report.verify = board.figures();
        }
        ended
    }

    /// Nothing of worth is made before the copy: a run that cannot prepare leaves nothing behind.
    async fn undo(&self, failure: Failure) -> Failure {
        let removed = async {
            let conn = self.context.connector.open(Role::Control).await?;
            finish::remove_ours(&self.context, &conn).await?;
            self.context.store.forget(self.context.id).await
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
        self.context.reporter.say(Event::PhaseBegan { phase });
        tokio::select! {
            done = work => done?,
            why = stopped => return Err(why),
            failure = lease_lost(&self.context) => return Err(failure),
        }
        let seconds = begun.elapsed().as_secs_f64();
        self.context.reporter.say(Event::PhaseEnded { phase, seconds });
        Ok(seconds)
    }

    async fn again(&self) -> Result<Migration, Failure> {
        self.context.store.get_again(self.context.id).await
    }

    /// Everything between prepare and the swap, with the follower and the monitor beside it.
    async fn swap(
        &mut self,
        migration: Migration,
        stopped: &mut (impl Future<Output = Failure> + Unpin),
    ) -> Result<(), Failure> {
        let (work, monitor) = self.begin(migration).await?;
        let monitor = tokio::spawn(monitor.run());
        let outcome = tokio::select! {
            done = work.all() => done,
            failure = work.follower.failed() => Err(failure),
            why = &mut *stopped => Err(why),
            failure = lease_lost(&work.context) => Err(failure),
        };
        monitor.abort();
        let outcome = match outcome {
            Err(failure) if failure.exit == Exit::Failed => Err(self.explained(failure).await),
            other => other,
        };
        self.tell(&work);
        let left = match (&outcome, self.until) {
            // Nothing follows the old table any more.
            (Ok(()), Until::Swapped) => Ok(()),
            (Ok(()), Until::Compared) | (Err(_), _) => work.follower.stop().await,
        };
        outcome.and(left)
    }

    /// A statement of ours that fails because somebody changed the table says so (rule 11), whatever it was.
    async fn explained(&self, failure: Failure) -> Failure {
        let context = &self.context;
        match context.store.get(context.id).await {
            Ok(Some(migration)) if migration.phase.is_before_swap() => {}
            _ => return failure,
        }
        match drift::check(context.store.conn(), &context.plan).await {
            Err(drifted) if drifted.source.is_none() => drifted,
            Ok(()) | Err(_) => failure,
        }
    }

    /// Starts the follower, and lays out what the phases share.
    async fn begin(&self, migration: Migration) -> Result<(Work, Monitor), Failure> {
        let context = self.context.clone();
        slot::check(&context).await?;
        past_locks(async || drift::check(context.store.conn(), &context.plan).await).await?;
        let fingerprint = drift::read(context.store.conn(), &context.plan.source).await?;
        let mut columns = HashMap::new();
        for leaf in context.plan.leaves() {
            columns.insert(leaf.shape.oid, drift::read(context.store.conn(), leaf.shape).await?.columns);
        }
        let size = source_size(context.store.conn(), &context).await?;
        let (gate, throttle) = throttle(self.options.throttle.nice);
        let copy = Arc::new(copy::Progress::default());
        let jobs = if context.plan.key.is_canonical() { usize::from(context.jobs) } else { 1 };
        let follower = Follower::start(follow::Job {
            connector: context.connector.clone(),
            id: context.id,
            lease: context.store.backend().await?,
            plan: context.plan.clone(),
            names: context.names.clone(),
            columns: fingerprint.columns.clone(),
            slot: context.slot(),
            failover: context.failover,
            jobs,
            copy: copy.clone(),
            throttle: throttle.clone(),
            unfit: follow::Unfit::End,
            reporter: context.reporter.clone(),
        })
        .await?;
        let board = Arc::new(Board::new(size, Arc::default()));
        let leaves = context.store.leaves(context.id).await?;
        leaves.iter().filter(|leaf| leaf.copy_over).for_each(|leaf| copy.end(leaf.oid));
        let done = leaves.iter().flat_map(|leaf| &leaf.done).map(|(first, end)| u64::from(end - first)).sum();
        let monitor = Monitor {
            context: context.clone(),
            board: board.clone(),
            limits: self.options.throttle.clone(),
            gate,
            copy: copy.clone(),
            follower: follower.view().clone(),
            blocks: migration.blocks.unwrap_or(0),
            before: (done, migration.rows_copied.unsigned_abs()),
        };
        let work = Work {
            context,
            options: self.options.clone(),
            until: self.until,
            migration,
            follower,
            copy,
            throttle,
            board,
            fingerprint,
            columns,
            seconds: std::sync::Mutex::default(),
            figures: std::sync::Mutex::default(),
        };
        Ok((work, monitor))
    }

    /// Puts what the phases saw into the report.
    fn tell(&mut self, work: &Work) {
        let lock = |m: &std::sync::Mutex<Vec<(Phase, f64)>>| m.lock().map(|s| s.clone()).unwrap_or_default();
        for (phase, seconds) in lock(&work.seconds) {
            let field = match phase {
                Phase::Copy => &mut self.report.seconds.copy,
                Phase::Index => &mut self.report.seconds.index,
                Phase::CatchUp => &mut self.report.seconds.catch_up,
                Phase::Verify => &mut self.report.seconds.verify,
                Phase::Ready => &mut self.report.seconds.ready,
                Phase::Preflight | Phase::Prepare | Phase::CutOver | Phase::Keep | Phase::Done => continue,
            };
            // A run that made room for a row went through a phase twice.
            *field = Some(field.unwrap_or(0.0) + seconds);
        }
        let view = work.follower.view();
        let r = &mut self.report;
        r.rows_copied = Some(work.migration.rows_copied.unsigned_abs() + work.copy.rows.load(Ordering::Relaxed));
        r.bytes_copied = Some(work.board.size.1);
        r.chunks = Some(work.copy.chunks.load(Ordering::Relaxed));
        r.keys_journaled = Some(view.journaled.load(Ordering::Relaxed) + work.copy.journaled.load(Ordering::Relaxed));
        r.keys_flushed = Some(view.flushed.load(Ordering::Relaxed));
        r.verify = work.board.figures();
        let peaks = work.board.peaks();
        r.peak_slot_wal_bytes = Some(peaks.slot_wal);
        r.peak_lag = peaks.lag;
        r.throttled_seconds.by_reason = work.board.throttled();
        r.throttled_seconds.total = Some(r.throttled_seconds.by_reason.values().fold(0.0, |all, s| all + s));
        if let Some(f) = work.figures.lock().ok().and_then(|f| f.clone()) {
            r.keys_flushed = r.keys_flushed.map(|k| k + f.final_keys);
            r.cutover = f.told();
        }
    }

    /// After the swap only the old table and the control row stay.
    async fn clean_up(&self) -> Result<(), Failure> {
        let context = &self.context;
        let migration = self.again().await?;
        let conn = context.connector.open(Role::Control).await?;
        if migration.phase != state::Phase::Swapped {
            return self.drop_synchronized(&migration, &conn).await;
        }
        slot::hand_on(context, &conn).await?;
        finish::drop_stream(context, &conn).await?;
        finish::drop_tables(context, &conn).await?;
        finish::restore_autovacuum(context, &conn).await?;
        finish::complete_keys(context, &conn).await?;
        if context.plan.key.needs_helper_index {
            for holder in context.plan.holders(&context.names) {
                let helper = holder.target.name.sibling(holder.helper_index().name);
                finish::patiently(&conn, "drop helper index", &format!("DROP INDEX CONCURRENTLY IF EXISTS {helper}"))
                    .await?;
            }
        }
        match migration.plan.back {
            Some(_) => keep::begin(context, &migration).await,
            None => context.store.set_phase(context.id, state::Phase::Swapped, state::Phase::Complete).await,
        }
    }

    /// A standby may have been promoted before it heard that a slot was dropped.
    async fn drop_synchronized(&self, migration: &Migration, conn: &Conn) -> Result<(), Failure> {
        if !self.context.failover {
            return Ok(());
        }
        finish::drop_stream(&self.context, conn).await?;
        match migration.phase.is_last() {
            true => finish::drop_way_back(&self.context, conn).await,
            false => Ok(()),
        }
    }

    async fn wal_position(&self) -> Result<u64, Failure> {
        let sql = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::int8::text";
        let text = self.context.store.conn().scalar("read WAL position", sql).await?;
        Ok(text.and_then(|t| t.parse().ok()).unwrap_or(0))
    }
}

impl Work {
    /// The phases.
    async fn all(&self) -> Result<(), Failure> {
        let copied = self.phase(Phase::Copy, self.copy()).await?;
        let indexed = self.phase(Phase::Index, self.index(copied)).await?;
        let in_step = self.phase(Phase::CatchUp, self.catch_up(indexed)).await?;
        let compared = self.phase(Phase::Verify, self.verify(in_step)).await?;
        if self.until == Until::Compared {
            return Ok(());
        }
        let ready = self.phase(Phase::Ready, self.ready(compared)).await?;
        self.phase(Phase::CutOver, self.cut_over(ready)).await
    }

    async fn phase<T>(&self, phase: Phase, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let begun = Instant::now();
        self.board.enter(phase);
        self.context.reporter.say(Event::PhaseBegan { phase });
        let token = work.await?;
        let seconds = begun.elapsed().as_secs_f64();
        self.context.reporter.say(Event::PhaseEnded { phase, seconds });
        if let Ok(mut all) = self.seconds.lock() {
            all.push((phase, seconds));
        }
        Ok(token)
    }

    async fn copy(&self) -> Result<Copied, Failure> {
        if self.migration.phase != state::Phase::Copy {
            return Ok(Copied(()));
        }
        while let copy::Ended::OtherFile(leaf) = copy::run(self.copy_job().await?).await? {
            // What was committed before is in the stream before the barrier.
            self.follower.receive().await?;
            if !self.copy.is_over(leaf) {
                return Err(drift::rewritten(&self.context.plan.source));
            }
        }
        self.context.store.set_phase(self.context.id, state::Phase::Copy, state::Phase::Index).await?;
        Ok(Copied(()))
    }

    /// What is left to be copied.
    async fn copy_job(&self) -> Result<copy::Job, Failure> {
        let missing = || Failure::failed("the control schema does not say what is to be copied");
        let context = &self.context;
        let states = context.store.leaves(context.id).await?;
        let x0 = self.migration.x0.ok_or_else(missing)?;
        let mut leaves = Vec::new();
        for leaf in context.plan.leaves() {
            let state = states.iter().find(|s| s.oid == leaf.shape.oid).ok_or_else(missing)?;
            let columns = self.columns.get(&leaf.shape.oid).cloned().ok_or_else(missing)?;
            let blocks = if self.copy.is_over(state.oid) { 0 } else { state.blocks };
            leaves.push(copy::Leaf {
                source: leaf.shape.clone(),
                statements: copy::Statements::new(&context.plan, &leaf, &context.names, x0),
                fingerprint: Fingerprint { filenode: state.filenode, columns },
                ranges: Ranges::new(blocks, &state.done),
            });
        }
        Ok(copy::Job {
            connector: context.connector.clone(),
            id: context.id,
            plan: context.plan.clone(),
            names: context.names.clone(),
            leaves,
            jobs: u32::from(context.jobs),
            progress: self.copy.clone(),
            throttle: self.throttle.clone(),
        })
    }

    async fn index(&self, _: Copied) -> Result<Indexed, Failure> {
        if matches!(self.migration.phase, state::Phase::Copy | state::Phase::Index) {
            index::run(&self.context, &self.throttle).await?;
        }
        Ok(Indexed(()))
    }

    async fn catch_up(&self, _: Indexed) -> Result<InStep, Failure> {
        self.follower.catch_up().await?;
        self.follower.settle().await?;
        Ok(InStep(()))
    }

    async fn verify(&self, _: InStep) -> Result<Compared, Failure> {
        use state::Phase as P;
        let again = self.until == Until::Compared;
        if self.migration.phase == P::Ready && !again {
            return Ok(Compared(()));
        }
        let id = self.context.id;
        let from = if self.migration.phase == P::Ready { P::Ready } else { P::CatchUp };
        if self.options.verify || again {
            self.comparison().run(from).await?;
        }
        if from == P::CatchUp {
            self.context.store.set_phase(id, P::CatchUp, P::Ready).await?;
        }
        Ok(Compared(()))
    }

    /// Statistics before the swap: plans made from none would turn the application's look-ups into scans.
    async fn ready(&self, _: Compared) -> Result<Ready, Failure> {
        let verb = if self.options.vacuum { "VACUUM (ANALYZE)" } else { "ANALYZE" };
        let sql = format!("{verb} {}", self.context.names.shadow());
        let mut retry = Retry::new();
        while let Err(failure) = self.analyze(&sql).await {
            retry.after_failure(failure).await?;
        }
        if self.context.plan.back.is_some() {
            prepare::way_back(&self.context).await?;
        }
        self.wait_while_postponed().await?;
        Ok(Ready(()))
    }

    fn comparison(&self) -> Comparison<'_> {
        let Work { context, follower, throttle, board, .. } = self;
        Comparison { context, forth: None, follower, throttle, board }
    }

    /// Extended statistics are there before the ANALYZE that fills them, and the planner's before materialized views are
    /// filled.
    async fn analyze(&self, sql: &str) -> Result<(), Failure> {
        let conn = self.context.connector.open(Role::Indexer).await?;
        let ties = self.context.ties_patiently(&conn).await?;
        self.context.make_statistics(&conn, &ties).await?;
        conn.batch("analyze shadow", sql).await?;
        fill::run(&self.context, &conn, &ties).await?;
        Ok(())
    }

    async fn wait_while_postponed(&self) -> Result<(), Failure> {
        let cutover = &self.options.cutover;
        let mut said = false;
        loop {
            if self.comparison().answer(state::Phase::Ready, Phase::Ready).await? {
                said = false;
            }
            let file = cutover.postpone_file.as_ref().filter(|f| f.exists());
            let flag = cutover.postpone && !self.released().await?;
            let why = match (file, flag) {
                (Some(file), _) => format!("the file {} to go", file.display()),
                (None, true) => format!("pgrecast cutover {}", self.context.id),
                (None, false) => return Ok(()),
            };
            if !said {
                said = true;
                self.context.reporter.say(Event::Waiting { on: why });
            }
            tokio::time::sleep(compare::EVERY).await;
        }
    }

    async fn released(&self) -> Result<bool, Failure> {
        let sql = format!("SELECT cutover_released FROM pgrecast.migration WHERE id = {}", self.context.id);
        Ok(self.context.store.conn().scalar("look for release", &sql).await?.as_deref() == Some("t"))
    }

    async fn cut_over(&self, _: Ready) -> Result<(), Failure> {
        let figures =
            cutover::run(&self.context, &self.follower, &self.options.cutover, &self.fingerprint.columns).await?;
        self.context.reporter.say(Event::CutOver {
            lock_wait: figures.lock_wait.as_secs_f64(),
            write_blocked: figures.write_blocked.as_secs_f64(),
            final_keys: figures.final_keys,
        });
        if let Ok(mut kept) = self.figures.lock() {
            *kept = Some(figures);
        }
        Ok(())
    }
}

/// Rows by the catalog's estimate, and bytes of the main fork.
async fn source_size(conn: &Conn, context: &Context) -> Result<(u64, u64), Failure> {
    let sql = format!(
        "SELECT coalesce(sum(greatest(reltuples, 0)), 0)::int8::text, coalesce(sum(pg_relation_size(oid)), 0)::int8::text \
         FROM pg_catalog.pg_class WHERE oid IN ({}) AND relkind = 'r'",
        context.plan.oids()
    );
    let row = conn.simple("read source size", &sql).await?.into_iter().next().unwrap_or_default();
    let number = |i: usize| row.get(i).cloned().flatten().and_then(|t| t.parse().ok()).unwrap_or(0);
    Ok((number(0), number(1)))
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

/// SIGINT, SIGTERM or the end of `--max-runtime`. A second signal ends the process at once.
pub async fn stop_request(max_runtime: Option<Duration>) -> Failure {
    use tokio::signal::unix::{SignalKind, signal};
    let again = "Run the same command again to go on.";
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    let over = async {
        match max_runtime {
            Some(most) => tokio::time::sleep(most).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = over => return Failure::new(Exit::Paused, "stopped at the end of --max-runtime").hint(again),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tokio::spawn(async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        std::process::exit(i32::from(Exit::Interrupted.code()));
    });
    Failure::new(Exit::Interrupted, "interrupted").hint(again)
}

/// Where relative paths in the options begin: kept absolute, so that a resume from elsewhere looks at the same file.
pub fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}
