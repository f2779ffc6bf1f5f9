//! Looks once a second: at the throttle's signals, at what the slot retains, at how far everything is; says progress.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cli::Throttle as Limits;
use crate::context::Context;
use crate::copy;
use crate::error::Failure;
use crate::follow;
use crate::pg::{Conn, Literal, Role};
use crate::report::numbers;
use crate::report::{Event, Phase, Progress, VerifyFigures};
use crate::throttle::Gate;

/// How often to look.
const EVERY: Duration = Duration::from_millis(500);

/// What the monitor is told and what it remembers for the report.
#[derive(Debug)]
pub struct Board {
    phase: Mutex<(Phase, Instant)>,
    peaks: Mutex<Peaks>,
    throttled: Mutex<BTreeMap<String, f64>>,
    /// Rows and bytes of the source when the run began, by the catalog's estimate and the file's size.
    pub size: (u64, u64),
    /// How far verification is.
    pub verified: Arc<crate::verify::Progress>,
    figures: Mutex<VerifyFigures>,
}

/// The largest values seen.
#[derive(Debug, Default, Clone, Copy)]
pub struct Peaks {
    /// WAL the slot retained, in bytes.
    pub slot_wal: u64,
    /// Replay lag of a standby, in seconds; `None` where there is none.
    pub lag: Option<f64>,
}

impl Board {
    /// Nothing begun.
    pub fn new(size: (u64, u64), verified: Arc<crate::verify::Progress>) -> Self {
        Board {
            phase: Mutex::new((Phase::Prepare, Instant::now())),
            peaks: Mutex::default(),
            throttled: Mutex::default(),
            size,
            verified,
            figures: Mutex::default(),
        }
    }

    /// Keeps what a comparison came to.
    pub fn compared(&self, figures: VerifyFigures) {
        *self.figures.lock().unwrap_or_else(PoisonError::into_inner) = figures;
    }

    /// The figures of the last comparison.
    pub fn figures(&self) -> VerifyFigures {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A phase begins.
    pub fn enter(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = (phase, Instant::now());
    }

    /// The peaks so far.
    pub fn peaks(&self) -> Peaks {
        *self.peaks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seconds held back, by signal.
    pub fn throttled(&self) -> BTreeMap<String, f64> {
        self.throttled.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the monitor looks at.
pub struct Monitor {
    /// The migration.
    pub context: Arc<Context>,
    /// What it remembers.
    pub board: Arc<Board>,
    /// The throttle's limits.
    pub limits: Limits,
    /// The throttle.
    pub gate: Gate,
    /// How far the copy is.
    pub copy: Arc<copy::Progress>,
    /// How far the follower is.
    pub follower: Arc<follow::View>,
    /// Blocks to copy in all.
    pub blocks: u64,
    /// Blocks and rows copied by earlier runs.
    pub before: (u64, u64),
}

/// What one look found.
struct Look {
    slot_wal: u64,
    stream_lag: u64,
    replica_lag: Option<f64>,
    active: u32,
    /// The throttle query's answer, NULL included.
    query: Option<Option<String>>,
}

impl Monitor {
    /// Looks until the run drops it.
    pub async fn run(self) {
        let mut conn: Option<Conn> = None;
        let mut rate = Rate::default();
        let mut held_since: Option<(Instant, String)> = None;
        let mut said = false;
        loop {
            let looked = self.look(&mut conn).await;
            let reason = match &looked {
                Ok(look) => self.reason(look),
                Err(failure) => Some(format!("signals unknown: {}", failure.primary)),
            };
            self.account(&mut held_since, reason.as_deref());
            self.gate.set(reason.clone());
            if said != reason.is_some() {
                said = reason.is_some();
                self.context.reporter.say(match &reason {
                    Some(reason) => Event::Throttled { reason: reason.clone() },
                    None => Event::Unthrottled,
                });
            }
            self.context.reporter.say(Event::Progress(self.progress(looked.ok().as_ref(), reason, &mut rate)));
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Adds the time since the last look to the signal that held work back.
    fn account(&self, held: &mut Option<(Instant, String)>, reason: Option<&str>) {
        if let Some((since, signal)) = held.take() {
            let mut throttled = self.board.throttled.lock().unwrap_or_else(PoisonError::into_inner);
            *throttled.entry(signal).or_default() += since.elapsed().as_secs_f64();
        }
        let signal = |r: &str| r.split(' ').next().unwrap_or(r).trim_end_matches(':').to_owned();
        *held = reason.map(|r| (Instant::now(), signal(r)));
    }

    async fn look(&self, kept: &mut Option<Conn>) -> Result<Look, Failure> {
        let conn = match kept.take().filter(|c| !c.is_closed()) {
            Some(conn) => conn,
            None => {
                let conn = self.context.connector.open(Role::Monitor).await?;
                conn.batch("pin monitor settings", "SET statement_timeout = '5s'").await?;
                conn
            }
        };
        let sql = format!(
            "SELECT coalesce((SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::int8 FROM pg_catalog.pg_replication_slots \
             WHERE slot_name = {}), 0)::text, pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::int8::text, \
             (SELECT max(extract(epoch FROM replay_lag)) FROM pg_catalog.pg_stat_replication WHERE pid NOT IN \
             (SELECT active_pid FROM pg_catalog.pg_replication_slots WHERE slot_type = 'logical' AND active_pid IS NOT NULL))::text, \
             (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE state = 'active' AND backend_type = 'client backend' \
             AND application_name NOT LIKE 'pgrecast %')::text",
            Literal(&self.context.slot())
        );
        let rows = conn.simple("look at signals", &sql).await?;
        let row = rows.into_iter().next().unwrap_or_default();
        let text = |i: usize| row.get(i).cloned().flatten();
        let number = |i: usize| text(i).and_then(|t| t.parse::<u64>().ok()).unwrap_or(0);
        let query = match &self.limits.query {
            Some(sql) => Some(conn.scalar("ask throttle query", sql).await?),
            None => None,
        };
        let received = self.follower.positions.received.load(Ordering::Relaxed);
        let look = Look {
            slot_wal: number(0),
            stream_lag: if received == 0 { 0 } else { number(1).saturating_sub(received) },
            replica_lag: text(2).and_then(|t| t.parse().ok()),
            active: u32::try_from(number(3)).unwrap_or(u32::MAX),
            query,
        };
        *kept = Some(conn);
        let mut peaks = self.board.peaks.lock().unwrap_or_else(PoisonError::into_inner);
        peaks.slot_wal = peaks.slot_wal.max(look.slot_wal);
        if let Some(lag) = look.replica_lag {
            peaks.lag = Some(peaks.lag.unwrap_or(0.0).max(lag));
        }
        Ok(look)
    }

    /// Why work is held back: `signal observed op threshold`.
    fn reason(&self, look: &Look) -> Option<String> {
        let limits = &self.limits;
        let max_lag = limits.max_lag.as_secs_f64();
        if let Some(lag) = look.replica_lag.filter(|lag| *lag > max_lag) {
            return Some(format!("replica_lag {} > {}", numbers::seconds(lag), numbers::seconds(max_lag)));
        }
        if look.slot_wal > limits.max_slot_wal {
            return Some(format!(
                "slot_wal {} > {}",
                numbers::bytes(look.slot_wal),
                numbers::bytes(limits.max_slot_wal)
            ));
        }
        if let Some(most) = limits.max_active.filter(|most| look.active > *most) {
            return Some(format!("active_sessions {} > {most}", look.active));
        }
        match &look.query {
            Some(None) => return Some("throttle_query unknown: it gave NULL or no row".to_owned()),
            Some(Some(answer)) if means_pause(answer) => return Some(format!("throttle_query {answer} > 0")),
            Some(Some(_)) | None => {}
        }
        if let Some(file) = limits.file.as_ref().filter(|f| f.exists()) {
            return Some(format!("throttle_file {} exists", file.display()));
        }
        None
    }

    fn progress(&self, look: Option<&Look>, throttle: Option<String>, rate: &mut Rate) -> Progress {
        let (phase, since) = *self.board.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let mut p = Progress { throttle, ..Progress::of(phase) };
        p.backlog_keys = Some(self.follower.backlog.load(Ordering::Relaxed));
        p.lag_bytes = look.map(|l| l.stream_lag);
        match phase {
            Phase::Copy => {
                let blocks = self.before.0 + self.copy.blocks.load(Ordering::Relaxed);
                let share = blocks as f64 / self.blocks.max(1) as f64;
                p.rows_done = Some(self.before.1 + self.copy.rows.load(Ordering::Relaxed));
                p.rows_total = Some(self.board.size.0.max(p.rows_done.unwrap_or(0)));
                p.bytes_done = Some((self.board.size.1 as f64 * share) as u64);
                p.bytes_total = Some(self.board.size.1);
                let done = self.copy.blocks.load(Ordering::Relaxed) as f64;
                let left = self.blocks.saturating_sub(blocks) as f64;
                p.eta_seconds = (done > 0.0).then(|| since.elapsed().as_secs_f64() * left / done);
            }
            Phase::Verify => {
                let v = &self.board.verified;
                let share =
                    v.blocks.load(Ordering::Relaxed) as f64 / v.total_blocks.load(Ordering::Relaxed).max(1) as f64;
                p.rows_done = Some(v.rows.load(Ordering::Relaxed));
                p.rows_total = Some(self.board.size.0.max(v.rows.load(Ordering::Relaxed)));
                p.eta_seconds = (share > 0.0).then(|| since.elapsed().as_secs_f64() * (1.0 - share) / share);
            }
            Phase::CatchUp => p.rows_done = Some(self.follower.flushed.load(Ordering::Relaxed)),
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

/// A query's answer that asks for a pause: true or a positive number (and whatever else is neither false nor 0).
fn means_pause(answer: &str) -> bool {
    match answer {
        "f" | "false" => false,
        "t" | "true" => true,
        text => text.parse::<f64>().map_or(true, |n| n > 0.0),
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

#[cfg(test)]
mod tests {
    #[test]
    fn a_query_means_pause_when_true_positive_or_not_understood() {
        for (answer, pause) in
            [("t", true), ("f", false), ("0", false), ("3", true), ("-1", false), ("0.5", true), ("maybe", true)]
        {
            assert_eq!(super::means_pause(answer), pause, "{answer}");
        }
    }
}
