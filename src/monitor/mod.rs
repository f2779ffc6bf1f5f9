//! Looks twice a second, and when somebody steers: at the throttle's signals, at what the slot retains, at how far everything
//! is; says progress.

mod board;
mod decide;
mod history;
mod signals;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub use board::Board;
use decide::{Look, Moment};
pub use decide::{closed_failure, spent_failure};
use history::History;
pub use signals::given_up;

use crate::context::Context;
use crate::copy;
use crate::error::Failure;
use crate::follow;
use crate::pg::{Conn, Role};
use crate::report::{Event, Phase, Progress};
use crate::seams;
use crate::throttle::{Gate, Kind};

/// How often to look, where nobody steers.
const EVERY: Duration = Duration::from_millis(500);

/// How often to write down how far it is.
const KEEP_EVERY: Duration = Duration::from_secs(2);

/// What a phase consists of, so that the reason why it waits is the one that is shown. What waits for its swap is kept in
/// step, so that both may wait.
fn shown(phase: Phase) -> &'static [Kind] {
    match phase {
        Phase::Copy | Phase::Index | Phase::Verify => &[Kind::Bulk],
        Phase::Preflight | Phase::Prepare | Phase::CatchUp | Phase::Keep | Phase::Done => &[Kind::Flush],
        Phase::Ready | Phase::CutOver => &[Kind::Cutover, Kind::Flush],
    }
}

/// What the monitor looks at.
pub struct Monitor {
    /// The migration.
    pub context: Arc<Context>,
    /// What it remembers.
    pub board: Arc<Board>,
    /// The throttle.
    pub gate: Gate,
    /// How far the copy is, of each table.
    pub copy: Vec<Arc<copy::Progress>>,
    /// How far the followers are.
    pub followers: Vec<Arc<follow::View>>,
    /// Blocks to copy in all.
    pub blocks: u64,
    /// Blocks and rows copied by earlier runs.
    pub before: (u64, u64),
}

impl Monitor {
    /// Looks until the run drops it.
    pub async fn run(self) {
        let mut conn: Option<Conn> = None;
        let mut rate = Rate::default();
        let mut history = History::default();
        let mut held_since: Option<(Instant, String)> = None;
        let mut said = false;
        let mut stays = false;
        let mut kept: Option<Instant> = None;
        let mut steered = self.context.store.steered();
        loop {
            let looked = self.look(&mut conn).await;
            let options = self.board.options();
            let (phase, _) = self.board.phase();
            let now = Instant::now();
            let (signal, paused) = match &looked {
                Ok(look) => {
                    history.add(now, look.wal_end);
                    let behind = look.behind(&options.throttle.replicas, &history, now).ok().flatten();
                    self.board.saw(look.slot_wal, behind.map(|(_, lag)| lag));
                    (decide::signal(look, &options.throttle, &history, now), look.paused)
                }
                Err(failure) => (Some(format!("signals unknown: {}", failure.primary)), false),
            };
            let moment = Moment { phase, now: seams::now(), rate: history.rate(), spent: self.board.is_spent() };
            let held = decide::held(signal, paused, &options, &moment);
            let reason = shown(phase).iter().find_map(|work| held.why(*work)).map(str::to_owned);
            self.gate.set(held);
            self.account(&mut held_since, reason.as_deref());
            if said != reason.is_some() {
                said = reason.is_some();
                self.context.reporter.say(match &reason {
                    Some(reason) => Event::Throttled { reason: reason.clone() },
                    None => Event::Unthrottled,
                });
            }
            if looked.is_err() && moment.spent {
                self.board.leave(spent_failure());
            }
            if let Ok(look) = &looked {
                match decide::over(look, &options, &moment) {
                    Some(Ok(failure)) => self.board.leave(failure),
                    Some(Err(text)) if !stays => {
                        stays = true;
                        self.context.reporter.say(Event::Notice { text });
                    }
                    Some(Err(_)) => {}
                    None => stays = false,
                }
                if let Some(failure) = decide::critical(look, &options, &history, now) {
                    self.board.leave(failure);
                }
            }
            let progress = self.progress(looked.ok().as_ref(), reason, &mut rate);
            if kept.is_none_or(|at| now.saturating_duration_since(at) >= KEEP_EVERY) {
                kept = Some(now);
                self.keep(conn.as_ref(), &progress).await;
            }
            self.context.reporter.say(Event::Progress(progress));
            steered.or_after(EVERY).await;
        }
    }

    /// Adds the time since the last look to the signal that held work back.
    fn account(&self, held: &mut Option<(Instant, String)>, reason: Option<&str>) {
        if let Some((since, signal)) = held.take() {
            self.board.add_throttled(signal, since.elapsed().as_secs_f64());
        }
        let signal = |r: &str| r.split(' ').next().unwrap_or(r).trim_end_matches(':').to_owned();
        *held = reason.map(|r| (Instant::now(), signal(r)));
    }

    async fn look(&self, kept: &mut Option<Conn>) -> Result<Look, Failure> {
        let conn = match kept.take().filter(|c| !c.is_closed()) {
            Some(conn) => conn,
            None => {
                let conn = self.context.connector.open(Role::Monitor).await?;
                conn.batch("pin monitor settings", "SET statement_timeout = '5s'; SET synchronous_commit = off")
                    .await?;
                conn
            }
        };
        let asked = signals::asked(&conn, self.context.id).await?;
        if let Some(failure) = asked.ended(self.context.id) {
            self.board.leave(failure);
        }
        if let Some(options) = asked.options {
            self.board.set_options(options);
        }
        let query = self.board.options().throttle.query;
        // They share the stream.
        let received = self.followers.first().map_or(0, |f| f.positions.received.load(Ordering::Relaxed));
        let look = signals::look(&conn, &self.context.slot(), query.as_deref(), received, asked.paused).await?;
        *kept = Some(conn);
        Ok(look)
    }

    /// What `pgrecast status` shows. Worth nothing to the run itself, so a failure is no reason to hold anything back.
    async fn keep(&self, conn: Option<&Conn>, progress: &Progress) {
        let Some(conn) = conn else { return };
        if let Err(failure) = signals::keep_progress(conn, self.context.id, progress).await {
            tracing::debug!(error = %failure, "progress is not kept");
        }
    }

    fn progress(&self, look: Option<&Look>, throttle: Option<String>, rate: &mut Rate) -> Progress {
        let (phase, since) = self.board.phase();
        let mut p = Progress { throttle, ..Progress::of(phase) };
        let copied = |what: fn(&copy::Progress) -> &AtomicU64| -> u64 {
            self.copy.iter().map(|copy| what(copy).load(Ordering::Relaxed)).sum()
        };
        let followed = |what: fn(&follow::View) -> &AtomicU64| -> u64 {
            self.followers.iter().map(|view| what(view).load(Ordering::Relaxed)).sum()
        };
        p.backlog_keys = Some(followed(|view| &view.backlog));
        p.lag_bytes = look.map(|l| l.stream_lag);
        match phase {
            Phase::Copy => {
                let done = copied(|copy| &copy.blocks);
                let blocks = self.before.0 + done;
                let share = blocks as f64 / self.blocks.max(1) as f64;
                p.rows_done = Some(self.before.1 + copied(|copy| &copy.rows));
                p.rows_total = Some(self.board.size.0.max(p.rows_done.unwrap_or(0)));
                p.bytes_done = Some((self.board.size.1 as f64 * share) as u64);
                p.bytes_total = Some(self.board.size.1);
                let left = self.blocks.saturating_sub(blocks) as f64;
                p.eta_seconds = (done > 0).then(|| since.elapsed().as_secs_f64() * left / done as f64);
            }
            Phase::Verify => {
                let v = &self.board.verified;
                let share =
                    v.blocks.load(Ordering::Relaxed) as f64 / v.total_blocks.load(Ordering::Relaxed).max(1) as f64;
                p.rows_done = Some(v.rows.load(Ordering::Relaxed));
                p.rows_total = Some(self.board.size.0.max(v.rows.load(Ordering::Relaxed)));
                p.eta_seconds = (share > 0.0).then(|| since.elapsed().as_secs_f64() * (1.0 - share) / share);
            }
            Phase::CatchUp => p.rows_done = Some(followed(|view| &view.flushed)),
            Phase::Preflight
            | Phase::Prepare
            | Phase::Index
            | Phase::Ready
            | Phase::CutOver
            | Phase::Keep
            | Phase::Done => {}
        }
        p.rate_rows = p.rows_done.and_then(|rows| rate.of(phase, rows));
        p
    }
}

/// Rows per second since the last look.
#[derive(Default)]
struct Rate {
    last: Option<(Phase, u64, Instant)>,
}

impl Rate {
    fn of(&mut self, phase: Phase, rows: u64) -> Option<f64> {
        let now = Instant::now();
        let before = self.last.replace((phase, rows, now));
        let (was, then, at) = before?;
        let seconds = (now - at).as_secs_f64();
        (was == phase && seconds > 0.0).then(|| rows.saturating_sub(then) as f64 / seconds)
    }
}
