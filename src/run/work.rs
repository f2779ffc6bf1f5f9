//! The phases between prepare and swap: one line each.
//!
//! Each phase gives a token that only it can make, and the next one asks for it: what was not copied cannot be indexed,
//! and what was not compared, or spared the comparison on request, cannot be swapped. A phase that an earlier run has
//! completed gives its token at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::{Run, Until};
use crate::cli::MigrateOptions;
use crate::compare::{self, Comparison, Pair};
use crate::context::{Context, Group};
use crate::copy::{self, ranges::Ranges};
use crate::cutover::{self, Party};
use crate::drift::{self, Fingerprint};
use crate::error::Failure;
use crate::follow::{self, Follower, settle_all, start_all};
use crate::monitor::{Board, Monitor};
use crate::pg::{Conn, Role};
use crate::report::{Event, Phase, Report};
use crate::retry::{Retry, past_locks};
use crate::state::{self, Migration};
use crate::throttle::{Kind, Throttle, throttle};
use crate::{fill, index, prepare, slot, statistics, unconverted};

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

/// One of the tables, and what is its own.
struct Table {
    context: Arc<Context>,
    follower: Follower,
    copy: Arc<copy::Progress>,
    fingerprint: Fingerprint,
    /// The columns of each leaf, by its oid, when this run began.
    columns: HashMap<u32, String>,
    /// Rule 1's X0.
    x0: Option<u32>,
}

impl Table {
    fn pair(&self) -> Pair<'_> {
        Pair { context: &self.context, follower: &self.follower, forth: None }
    }

    fn party(&self) -> Party<'_> {
        Party { context: &self.context, follower: &self.follower, columns: &self.fingerprint.columns }
    }
}

/// What the phases between prepare and swap share.
pub(super) struct Work {
    pub(super) group: Group,
    options: MigrateOptions,
    until: Until,
    migration: Migration,
    tables: Vec<Table>,
    throttle: Throttle,
    pub(super) board: Arc<Board>,
    seconds: std::sync::Mutex<Vec<(Phase, f64)>>,
    figures: std::sync::Mutex<Option<cutover::Figures>>,
}

impl Work {
    /// Starts the followers, and lays out what the phases share.
    pub(super) async fn begin(run: &Run, migration: Migration) -> Result<(Work, Monitor), Failure> {
        let group = run.group.clone();
        let (context, conn) = (group.head.clone(), group.head.store.conn());
        slot::check(&context).await?;
        let (gate, throttle) = throttle(run.options.throttle.nice);
        let (mut seen, mut jobs, mut before) = (Vec::new(), Vec::new(), (0, 0));
        for table in group.tables() {
            past_locks(async || drift::check(conn, &table.plan).await).await?;
            let fingerprint = drift::read(conn, &table.plan.source).await?;
            let mut columns = HashMap::new();
            for leaf in table.plan.leaves() {
                columns.insert(leaf.shape.oid, drift::read(conn, leaf.shape).await?.columns);
            }
            let copy = Arc::new(copy::Progress::default());
            let leaves = context.store.leaves(table.id).await?;
            leaves.iter().filter(|leaf| leaf.copy_over).for_each(|leaf| copy.end(leaf.oid));
            before.0 +=
                leaves.iter().flat_map(|leaf| &leaf.done).map(|(first, end)| u64::from(end - first)).sum::<u64>();
            let job = table.following(&fingerprint.columns, &copy, &throttle).await?;
            jobs.push(group.divided(job));
            seen.push((table.clone(), copy, fingerprint, columns));
        }
        before.1 = migration.tables().map(|table| table.rows_copied.unsigned_abs()).sum();
        let size = source_size(conn, &group).await?;
        let x0 = |id: i32| migration.tables().find(|table| table.id == id).and_then(|table| table.x0);
        let tables: Vec<Table> = (seen.into_iter().zip(start_all(jobs).await?))
            .map(|((context, copy, fingerprint, columns), follower)| {
                let x0 = x0(context.id);
                Table { context, follower, copy, fingerprint, columns, x0 }
            })
            .collect();
        let board = Arc::new(Board::new(size, &run.options).until(run.ends()));
        let monitor = Monitor {
            context,
            board: board.clone(),
            gate,
            copy: tables.iter().map(|table| table.copy.clone()).collect(),
            followers: tables.iter().map(|table| table.follower.view().clone()).collect(),
            blocks: migration.tables().filter_map(|table| table.blocks).sum(),
            before,
        };
        let work = Work {
            group,
            options: run.options.clone(),
            until: run.until,
            migration,
            tables,
            throttle,
            board,
            seconds: std::sync::Mutex::default(),
            figures: std::sync::Mutex::default(),
        };
        Ok((work, monitor))
    }

    pub(super) fn followers(&self) -> Vec<&Follower> {
        self.tables.iter().map(|table| &table.follower).collect()
    }

    /// Puts what the phases saw into the report.
    pub(super) fn tell(&self, r: &mut Report) {
        let lock = |m: &std::sync::Mutex<Vec<(Phase, f64)>>| m.lock().map(|s| s.clone()).unwrap_or_default();
        for (phase, seconds) in lock(&self.seconds) {
            let field = match phase {
                Phase::Copy => &mut r.seconds.copy,
                Phase::Index => &mut r.seconds.index,
                Phase::CatchUp => &mut r.seconds.catch_up,
                Phase::Verify => &mut r.seconds.verify,
                Phase::Ready => &mut r.seconds.ready,
                Phase::Preflight | Phase::Prepare | Phase::CutOver | Phase::Keep | Phase::Done => continue,
            };
            // A run that made room for a row went through a phase twice.
            *field = Some(field.unwrap_or(0.0) + seconds);
        }
        let copied = |what: fn(&copy::Progress) -> &AtomicU64| -> u64 {
            self.tables.iter().map(|table| what(&table.copy).load(Ordering::Relaxed)).sum()
        };
        let followed = |what: fn(&follow::View) -> &AtomicU64| -> u64 {
            self.tables.iter().map(|table| what(table.follower.view()).load(Ordering::Relaxed)).sum()
        };
        let before: u64 = self.migration.tables().map(|table| table.rows_copied.unsigned_abs()).sum();
        r.rows_copied = Some(before + copied(|copy| &copy.rows));
        r.bytes_copied = Some(self.board.size.1);
        r.chunks = Some(copied(|copy| &copy.chunks));
        r.keys_journaled = Some(followed(|view| &view.journaled) + copied(|copy| &copy.journaled));
        r.keys_flushed = Some(followed(|view| &view.flushed));
        r.verify = self.board.figures();
        let peaks = self.board.peaks();
        r.peak_slot_wal_bytes = Some(peaks.slot_wal);
        r.peak_lag = peaks.lag;
        r.throttled_seconds.by_reason = self.board.throttled();
        r.throttled_seconds.total = Some(r.throttled_seconds.by_reason.values().fold(0.0, |all, s| all + s));
        if let Some(f) = self.figures.lock().ok().and_then(|f| f.clone()) {
            r.keys_flushed = r.keys_flushed.map(|k| k + f.final_keys);
            r.cutover = f.told();
        }
    }

    /// The phases.
    pub(super) async fn all(&self) -> Result<(), Failure> {
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
        self.group.head.reporter.say(Event::PhaseBegan { phase });
        let token = work.await?;
        let seconds = begun.elapsed().as_secs_f64();
        self.group.head.reporter.say(Event::PhaseEnded { phase, seconds });
        if let Ok(mut all) = self.seconds.lock() {
            all.push((phase, seconds));
        }
        Ok(token)
    }

    async fn copy(&self) -> Result<Copied, Failure> {
        if self.migration.phase != state::Phase::Copy {
            return Ok(Copied(()));
        }
        for table in &self.tables {
            while let copy::Ended::OtherFile(leaf) = copy::run(self.copy_job(table).await?).await? {
                // What was committed before is in the stream before the barrier.
                table.follower.receive().await?;
                if !table.copy.is_over(leaf) {
                    return Err(drift::rewritten(&table.context.plan.source));
                }
            }
        }
        self.group.head.store.set_phase(self.group.head.id, state::Phase::Copy, state::Phase::Index).await?;
        unconverted::say(&self.group.head, self.group.head.store.conn()).await?;
        Ok(Copied(()))
    }

    /// What is left to be copied of a table.
    async fn copy_job(&self, table: &Table) -> Result<copy::Job, Failure> {
        let missing = || Failure::failed("the control schema does not say what is to be copied");
        let context = &table.context;
        let states = context.store.leaves(context.id).await?;
        let x0 = table.x0.ok_or_else(missing)?;
        let mut leaves = Vec::new();
        for leaf in context.plan.leaves() {
            let state = states.iter().find(|s| s.oid == leaf.shape.oid).ok_or_else(missing)?;
            let columns = table.columns.get(&leaf.shape.oid).cloned().ok_or_else(missing)?;
            let blocks = if table.copy.is_over(state.oid) { 0 } else { state.blocks };
            leaves.push(copy::Leaf {
                source: leaf.shape.clone(),
                statements: copy::Statements::new(&context.plan, &leaf, &context.names, x0),
                parts: copy::ToPart::all(&context.plan, &context.names, x0),
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
            jobs: self.board.jobs(),
            progress: table.copy.clone(),
            throttle: self.throttle.of(Kind::Bulk),
        })
    }

    async fn index(&self, _: Copied) -> Result<Indexed, Failure> {
        if matches!(self.migration.phase, state::Phase::Copy | state::Phase::Index) {
            index::run(&self.group, self.board.options().jobs, &self.throttle.of(Kind::Bulk)).await?;
        }
        Ok(Indexed(()))
    }

    async fn catch_up(&self, _: Indexed) -> Result<InStep, Failure> {
        for table in &self.tables {
            table.follower.catch_up().await?;
        }
        settle_all(&self.followers()).await?;
        Ok(InStep(()))
    }

    async fn verify(&self, _: InStep) -> Result<Compared, Failure> {
        use state::Phase as P;
        let again = self.until == Until::Compared;
        if self.migration.phase == P::Ready && !again {
            return Ok(Compared(()));
        }
        let id = self.group.head.id;
        let from = if self.migration.phase == P::Ready { P::Ready } else { P::CatchUp };
        if self.options.verify || again {
            self.comparison().run(from).await?;
        }
        if from == P::CatchUp {
            self.group.head.store.set_phase(id, P::CatchUp, P::Ready).await?;
        }
        Ok(Compared(()))
    }

    /// Statistics before the swap: plans made from none would turn the application's look-ups into scans.
    async fn ready(&self, _: Compared) -> Result<Ready, Failure> {
        for table in self.group.tables() {
            let mut retry = Retry::new();
            while let Err(failure) = self.analyze(table).await {
                retry.after_failure(failure).await?;
            }
        }
        if self.group.head.plan.back.is_some() {
            prepare::way_back(&self.group.head).await?;
        }
        self.wait_while_postponed().await?;
        Ok(Ready(()))
    }

    fn comparison(&self) -> Comparison<'_> {
        let Work { group, throttle, board, .. } = self;
        let tables = self.tables.iter().map(Table::pair).collect();
        Comparison { context: &group.head, tables, throttle: throttle.of(Kind::Bulk), board }
    }

    /// Extended statistics are there before the ANALYZE that fills them, and the planner's before materialized views are
    /// filled.
    async fn analyze(&self, table: &Arc<Context>) -> Result<(), Failure> {
        let conn = table.connector.open(Role::Indexer).await?;
        let ties = table.ties_patiently(&conn).await?;
        table.make_statistics(&conn, &ties).await?;
        statistics::gather(table, self.options.vacuum).await?;
        fill::run(table, &conn, &ties).await?;
        Ok(())
    }

    async fn wait_while_postponed(&self) -> Result<(), Failure> {
        let allowed = self.throttle.of(Kind::Cutover);
        let mut said: Option<String> = None;
        let mut steered = self.group.head.store.steered();
        loop {
            let cutover = self.board.options().cutover;
            if self.comparison().answer(state::Phase::Ready, Phase::Ready).await? {
                said = None;
            }
            let file = cutover.postpone_file.as_ref().filter(|f| f.exists());
            let flag = cutover.postpone && !self.released().await?;
            let why = match (file, flag, allowed.reason()) {
                (Some(file), ..) => format!("the file {} to go", file.display()),
                (None, _, Some(held)) => format!("the end of: {held}"),
                (None, true, None) => format!("pgrecast cutover {}", self.group.head.id),
                (None, false, None) => return Ok(()),
            };
            if said.as_ref() != Some(&why) {
                self.group.head.reporter.say(Event::Waiting { on: why.clone() });
                said = Some(why);
            }
            steered.or_after(compare::EVERY).await;
        }
    }

    async fn released(&self) -> Result<bool, Failure> {
        let head = &self.group.head;
        // A pause that came before the release must be seen with it.
        let sql = format!("SELECT cutover_released AND NOT paused FROM pgrecast.migration WHERE id = {}", head.id);
        Ok(head.store.conn().scalar("look for release", &sql).await?.as_deref() == Some("t"))
    }

    async fn cut_over(&self, _: Ready) -> Result<(), Failure> {
        let parties: Vec<Party<'_>> = self.tables.iter().map(Table::party).collect();
        let cutover = &self.board.options().cutover;
        let figures = cutover::run(&parties, cutover, Some(&self.throttle.of(Kind::Cutover))).await?;
        self.group.head.reporter.say(Event::CutOver {
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
async fn source_size(conn: &Conn, group: &Group) -> Result<(u64, u64), Failure> {
    let sql = format!(
        "SELECT coalesce(sum(greatest(reltuples, 0)), 0)::int8::text, coalesce(sum(pg_relation_size(oid)), 0)::int8::text \
         FROM pg_catalog.pg_class WHERE oid IN ({}) AND relkind = 'r'",
        group.oids()
    );
    let row = conn.simple("read source size", &sql).await?.into_iter().next().unwrap_or_default();
    let number = |i: usize| row.get(i).cloned().flatten().and_then(|t| t.parse().ok()).unwrap_or(0);
    Ok((number(0), number(1)))
}
