//! What holds work back, and what ends a run, from what was seen. Pure.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::history::History;
use crate::cli::{Hours, MigrateOptions, Outside, Throttle as Limits};
use crate::error::{Exit, Failure};
use crate::report::{Phase, numbers};
use crate::throttle::Held;
use crate::window::{self, Now};

/// A slot that comes this close to `max_slot_wal_keep_size` is in danger: a part of that size.
const DANGER: u64 = 5;

/// Seconds.
const HOUR: f64 = 3_600.0;

/// A standby that streams.
#[derive(Debug, Clone, PartialEq)]
pub struct Standby {
    /// Its `application_name`.
    pub name: String,
    /// How far it has replayed; `None` where the role may not see that.
    pub replayed: Option<u64>,
    /// What the server measured, in seconds; `None` where nothing was to replay, or the role may not see it.
    pub lag: Option<f64>,
}

/// When it is looked, and how the run stands then.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// What it is at.
    pub phase: Phase,
    /// By the clock on the wall.
    pub now: Timestamp,
    /// WAL that the server writes a second, lately; unknown at first.
    pub rate: Option<f64>,
    /// `--max-runtime` is over.
    pub spent: bool,
}

/// What one look found.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    /// WAL that the slot retains, in bytes.
    pub slot_wal: u64,
    /// WAL that may still be written before the slot is given up, and `max_slot_wal_keep_size`, where that is set.
    pub slot_room: Option<(u64, u64)>,
    /// The WAL's end.
    pub wal_end: u64,
    /// WAL that the stream has still to bring, in bytes.
    pub stream_lag: u64,
    /// Standbys.
    pub standbys: Vec<Standby>,
    /// Sessions at work that are not ours.
    pub active: u32,
    /// The throttle query's answer, NULL included.
    pub query: Option<Option<String>>,
    /// `pgrecast pause` was given.
    pub paused: bool,
}

impl Look {
    /// The standby that is furthest behind, of those that count, and by how many seconds.
    ///
    /// # Errors
    /// The name of one that is not connected.
    pub fn behind(&self, chosen: &[String], history: &History, now: Instant) -> Result<Option<(String, f64)>, String> {
        if let Some(absent) = chosen.iter().find(|name| self.standbys.iter().all(|s| s.name != **name)) {
            return Err(absent.clone());
        }
        let counts = |s: &&Standby| chosen.is_empty() || chosen.contains(&s.name);
        let lags = self.standbys.iter().filter(counts).filter_map(|s| {
            let aged = s.replayed.map(|position| history.age(now, position));
            let lag = match (s.lag, aged) {
                // The server's own measure tells of what was replayed last; it stands still where the standby does.
                (Some(lag), Some(aged)) => lag.max(aged),
                (Some(lag), None) => lag,
                (None, aged) => aged?,
            };
            Some((s.name.clone(), lag))
        });
        Ok(lags.max_by(|a, b| a.1.total_cmp(&b.1)))
    }
}

/// Why copy, index builds, flush and comparison are held back: `signal observed op threshold`.
pub fn signal(look: &Look, limits: &Limits, history: &History, now: Instant) -> Option<String> {
    if look.paused {
        return Some("paused by pgrecast pause".to_owned());
    }
    let max_lag = limits.max_lag.as_secs_f64();
    match look.behind(&limits.replicas, history, now) {
        Err(absent) => return Some(format!("replica_lag unknown: {absent} does not stream")),
        Ok(Some((_, lag))) if lag > max_lag => {
            return Some(format!("replica_lag {} > {}", numbers::seconds(lag), numbers::seconds(max_lag)));
        }
        Ok(_) => {}
    }
    if look.slot_wal > limits.max_slot_wal {
        return Some(format!("slot_wal {} > {}", numbers::bytes(look.slot_wal), numbers::bytes(limits.max_slot_wal)));
    }
    if let Some((room, kept)) = look.slot_room.filter(|(room, kept)| *room < kept / DANGER) {
        return Some(format!("safe_wal_size {} < {}", numbers::bytes(room), numbers::bytes(kept / DANGER)));
    }
    if let Some(most) = limits.max_active.filter(|most| look.active > *most) {
        return Some(format!("active_sessions {} > {most}", look.active));
    }
    match &look.query {
        Some(None) => return Some("throttle_query unknown: it gave NULL or no row".to_owned()),
        Some(Some(answer)) if means_pause(answer) => return Some(format!("throttle_query {answer} > 0")),
        Some(Some(_)) | None => {}
    }
    let file = limits.file.as_ref().filter(|f| f.exists())?;
    Some(format!("throttle_file {} exists", file.display()))
}

/// A query's answer that asks for a pause: true or a positive number (and whatever else is neither false nor 0).
fn means_pause(answer: &str) -> bool {
    match answer {
        "f" | "false" => false,
        "t" | "true" => true,
        text => text.parse::<f64>().map_or(true, |n| n > 0.0),
    }
}

/// What is held back at this moment, for this signal. The window of a way back that is kept open knows no hours. A run
/// whose time is over and that is still there follows the changes and does nothing else.
pub fn held(signal: Option<String>, paused: bool, options: &MigrateOptions, moment: &Moment) -> Held {
    let closed = |windows: &[window::Window]| match window::at(windows, moment.now) {
        _ if moment.phase == Phase::Keep => None,
        Now::Closed { opens } => Some(format!("window closed: it opens {}", window::by_clock(windows, opens))),
        Now::Open { .. } => moment.spent.then(|| "max_runtime over: the run stays to follow the changes".to_owned()),
    };
    let asked = paused.then(|| "paused by pgrecast pause".to_owned());
    Held {
        signal,
        closed: closed(&options.hours.windows),
        no_cutover: asked.or_else(|| closed(options.hours.for_cutover())),
        nice: options.throttle.nice,
    }
}

/// What stops the run at once, resumably.
pub fn critical(look: &Look, options: &MigrateOptions, history: &History, now: Instant) -> Option<Failure> {
    let limits = &options.critical;
    let lag = look.behind(&options.throttle.replicas, history, now).ok().flatten().map(|(_, lag)| lag);
    let most = limits.lag.map(|most| most.as_secs_f64());
    let why = match (lag, most, limits.slot_wal, limits.active) {
        (Some(lag), Some(most), _, _) if lag > most => {
            format!("replica_lag {} > --critical-lag {}", numbers::seconds(lag), numbers::seconds(most))
        }
        (_, _, Some(most), _) if look.slot_wal > most => {
            format!("slot_wal {} > --critical-slot-wal {}", numbers::bytes(look.slot_wal), numbers::bytes(most))
        }
        (_, _, _, Some(most)) if look.active > most => {
            format!("active_sessions {} > --critical-active {most}", look.active)
        }
        _ => return None,
    };
    Some(
        Failure::new(Exit::Paused, format!("stopped: {why}"))
            .detail(format!("Everything is kept in place; its slot holds {} of WAL.", numbers::bytes(look.slot_wal)))
            .hint("Run the same command again to go on, or pgrecast abort to give up."),
    )
}

/// Whether a run is to leave now, as its window or its time is over, and what it says then. One with windows stays where the
/// slot would hold more WAL than it may until the next one opens.
pub fn over(look: &Look, options: &MigrateOptions, moment: &Moment) -> Option<Result<Failure, String>> {
    let windows = &options.hours.windows;
    let (why, failure, opens) = match closed(&options.hours, moment.phase, moment.now) {
        Some(opens) => ("the window", closed_failure(opens, &options.hours), Some(opens)),
        None if moment.spent => {
            let opens = window::opens_next(windows, moment.now).filter(|_| moment.phase != Phase::Keep);
            ("--max-runtime", spent_failure(), opens)
        }
        None => return None,
    };
    let Some(opens) = opens else {
        let more = match moment.rate {
            Some(rate) => {
                format!("{} more each hour, at the rate of the last minutes", numbers::bytes((rate * HOUR) as u64))
            }
            None => "what is written until the next start".to_owned(),
        };
        let holds = numbers::bytes(look.slot_wal);
        return Some(Ok(
            failure.detail(format!("Everything is kept in place; its slot holds {holds} of WAL, and {more}."))
        ));
    };
    let until = Duration::try_from(opens.duration_since(moment.now)).unwrap_or_default();
    let forecast = look.slot_wal.saturating_add((moment.rate.unwrap_or(0.0) * until.as_secs_f64()) as u64);
    let at = match moment.rate {
        Some(rate) => format!("at {} a second, as lately", numbers::bytes(rate as u64)),
        None => "and what is written until then".to_owned(),
    };
    let will = format!(
        "until {} the slot will hold {} of WAL, {at}",
        window::by_clock(windows, opens),
        numbers::bytes(forecast)
    );
    if forecast > options.throttle.max_slot_wal {
        let most = numbers::bytes(options.throttle.max_slot_wal);
        return Some(Err(format!("{why} is over, and the run stays to follow the changes: {will}, more than {most}")));
    }
    Some(Ok(failure.detail(format!("Everything is kept in place; {will}."))))
}

/// What a run ends with whose time is over.
pub fn spent_failure() -> Failure {
    Failure::new(Exit::Paused, "stopped at the end of --max-runtime").hint("Run the same command again to go on.")
}

/// What a command outside its windows ends with.
pub fn closed_failure(opens: Timestamp, hours: &Hours) -> Failure {
    let opens = window::by_clock(&hours.windows, opens);
    Failure::new(Exit::Paused, format!("outside the window, which opens {opens}"))
        .hint("Run the same command again then; cron may start it at any time.")
}

/// When the next window opens that there is something to do in, where a run is not to stay until then.
fn closed(hours: &Hours, phase: Phase, now: Timestamp) -> Option<Timestamp> {
    if hours.outside == Outside::KeepUp || phase == Phase::Keep {
        return None;
    }
    let waits_for_cutover = matches!(phase, Phase::Ready | Phase::CutOver);
    match (window::at(&hours.windows, now), window::at(hours.for_cutover(), now)) {
        (Now::Open { .. }, _) => None,
        (_, Now::Open { .. }) if waits_for_cutover => None,
        (Now::Closed { opens: work }, Now::Closed { opens: swap }) if waits_for_cutover => Some(work.min(swap)),
        (Now::Closed { opens }, _) => Some(opens),
    }
}

#[cfg(test)]
mod tests;
