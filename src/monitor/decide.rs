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

/// What is held back at this moment, for this signal. The window of a way back that is kept open knows no hours.
pub fn held(signal: Option<String>, paused: bool, options: &MigrateOptions, phase: Phase, now: Timestamp) -> Held {
    let closed = |windows: &[window::Window]| match window::at(windows, now) {
        Now::Closed { opens } if phase != Phase::Keep => {
            Some(format!("window closed: it opens {}", window::by_clock(windows, opens)))
        }
        Now::Closed { .. } | Now::Open { .. } => None,
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

/// Whether a run that leaves outside its windows is to leave now, and what it says then. It stays where the slot would
/// hold more WAL than it may until the next window opens.
pub fn over(
    look: &Look,
    options: &MigrateOptions,
    phase: Phase,
    rate: Option<f64>,
    now: Timestamp,
) -> Option<Result<Failure, String>> {
    let opens = closed(&options.hours, phase, now)?;
    let until = Duration::try_from(opens.duration_since(now)).unwrap_or_default();
    let forecast = look.slot_wal.saturating_add((rate.unwrap_or(0.0) * until.as_secs_f64()) as u64);
    let at = match rate {
        Some(rate) => format!("at {} a second, as lately", numbers::bytes(rate as u64)),
        None => "and what is written until then".to_owned(),
    };
    let will = format!(
        "until {} the slot will hold {} of WAL, {at}",
        window::by_clock(&options.hours.windows, opens),
        numbers::bytes(forecast)
    );
    if forecast > options.throttle.max_slot_wal {
        let most = numbers::bytes(options.throttle.max_slot_wal);
        return Some(Err(format!(
            "the window is over, and the run stays to follow the changes: {will}, more than {most}"
        )));
    }
    Some(Ok(closed_failure(opens, &options.hours).detail(format!("Everything is kept in place; {will}."))))
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
mod tests {
    use super::*;

    fn look() -> Look {
        Look {
            slot_wal: 1 << 30,
            slot_room: None,
            wal_end: 0,
            stream_lag: 0,
            standbys: Vec::new(),
            active: 3,
            query: None,
            paused: false,
        }
    }

    fn limits(change: impl FnOnce(&mut MigrateOptions)) -> MigrateOptions {
        let mut options = MigrateOptions::default();
        change(&mut options);
        options
    }

    fn night(change: impl FnOnce(&mut Hours)) -> MigrateOptions {
        limits(|o| {
            o.hours.windows = vec!["22:00-06:00 UTC".parse().expect("a window")];
            o.hours.outside = Outside::Exit;
            change(&mut o.hours);
        })
    }

    fn moment(clock: &str) -> Timestamp {
        format!("2026-11-20T{clock}:00Z").parse().expect(clock)
    }

    #[test]
    fn a_query_means_pause_when_true_positive_or_not_understood() {
        for (answer, pause) in
            [("t", true), ("f", false), ("0", false), ("3", true), ("-1", false), ("0.5", true), ("maybe", true)]
        {
            assert_eq!(means_pause(answer), pause, "{answer}");
        }
    }

    #[test]
    fn each_signal_holds_back_and_says_why() {
        let now = Instant::now();
        let mut history = History::default();
        history.add(now, 100);
        let standby = |name: &str, replayed, lag| Standby { name: name.to_owned(), replayed, lag };
        let said =
            |look: &Look, options: &MigrateOptions, later| signal(look, &options.throttle, &history, now + later);
        let soon = Duration::ZERO;
        let none = MigrateOptions::default();
        assert_eq!(said(&look(), &none, soon), None);
        let cases = [
            (Look { paused: true, ..look() }, none.clone(), "paused by pgrecast pause"),
            (Look { slot_wal: 11 << 30, ..look() }, none.clone(), "slot_wal 11.0 GB > 10.0 GB"),
            (Look { slot_room: Some((1 << 30, 10 << 30)), ..look() }, none.clone(), "safe_wal_size 1.0 GB < 2.0 GB"),
            (look(), limits(|o| o.throttle.max_active = Some(2)), "active_sessions 3 > 2"),
            (Look { query: Some(None), ..look() }, none.clone(), "throttle_query unknown"),
            (Look { query: Some(Some("t".to_owned())), ..look() }, none.clone(), "throttle_query t > 0"),
            (
                Look { standbys: vec![standby("a", None, Some(11.0))], ..look() },
                none.clone(),
                "replica_lag 11.0 s > 10.0 s",
            ),
            (look(), limits(|o| o.throttle.replicas = vec!["a".to_owned()]), "replica_lag unknown: a does not stream"),
        ];
        for (look, options, expected) in cases {
            let reason = said(&look, &options, soon).unwrap_or_default();
            assert!(reason.starts_with(expected), "{reason}, not {expected}");
        }
        // The server's measure stands still with the standby.
        let stuck = Look { standbys: vec![standby("a", Some(50), Some(0.1))], ..look() };
        assert_eq!(said(&stuck, &none, Duration::from_secs(10)), None);
        let reason = said(&stuck, &none, Duration::from_secs(12)).expect("a reason");
        assert_eq!(reason, "replica_lag 12.0 s > 10.0 s");
        let others = limits(|o| o.throttle.replicas = vec!["b".to_owned()]);
        let two = Look { standbys: vec![standby("a", Some(50), None), standby("b", Some(100), None)], ..look() };
        assert_eq!(said(&two, &others, Duration::from_secs(12)), None, "only b counts");
    }

    #[test]
    fn the_hours_hold_back_what_they_are_about() {
        let of = |options: &MigrateOptions, phase, clock| held(None, false, options, phase, moment(clock));
        let plain = night(|_| {});
        assert_eq!(of(&plain, Phase::Copy, "23:00"), Held { nice: 0.0, ..Held::default() });
        let day = of(&plain, Phase::Copy, "12:00");
        let opens = "window closed: it opens 2026-11-20 22:00 UTC";
        assert_eq!((day.signal, day.closed.as_deref(), day.no_cutover.as_deref()), (None, Some(opens), Some(opens)));
        let swap = night(|h| h.cutover_windows = vec!["12:00-13:00 UTC".parse().expect("a window")]);
        let noon = of(&swap, Phase::Ready, "12:30");
        assert!(noon.closed.is_some() && noon.no_cutover.is_none());
        let late = of(&swap, Phase::Ready, "23:00");
        assert!(late.closed.is_none() && late.no_cutover.is_some());
        assert_eq!(of(&plain, Phase::Keep, "12:00"), Held::default(), "the old table is kept in step at any hour");
        assert!(held(None, true, &limits(|_| {}), Phase::Ready, moment("12:00")).no_cutover.is_some());
    }

    #[test]
    fn a_run_leaves_when_the_window_ends_unless_the_slot_would_grow_too_large() {
        let options = night(|_| {});
        let day = moment("12:00");
        assert!(over(&look(), &options, Phase::Copy, None, moment("23:00")).is_none());
        assert!(over(&look(), &options, Phase::Keep, None, day).is_none());
        assert!(over(&look(), &night(|h| h.outside = Outside::KeepUp), Phase::Copy, None, day).is_none());
        // Ten hours on top of 1 GB.
        let failure = over(&look(), &options, Phase::Copy, Some(104_857.6), day).expect("an end").expect("it leaves");
        assert_eq!(failure.exit, Exit::Paused);
        let detail = failure.detail.expect("what the slot will hold");
        assert!(detail.contains("until 2026-11-20 22:00 UTC the slot will hold 4.5 GB"), "{detail}");
        let why = over(&look(), &options, Phase::Copy, Some(1_048_576.0), day).expect("an end").expect_err("it stays");
        assert!(why.contains("the slot will hold 36.2 GB") && why.contains("more than 10.0 GB"), "{why}");
    }

    #[test]
    fn a_run_that_waits_for_its_cutover_stays_for_that_window() {
        let options = night(|h| h.cutover_windows = vec!["12:00-13:00 UTC".parse().expect("a window")]);
        let leaves = |phase, clock| over(&look(), &options, phase, None, moment(clock)).is_some();
        assert!(!leaves(Phase::Ready, "12:30") && leaves(Phase::Copy, "12:30"));
        assert!(leaves(Phase::Ready, "14:00") && !leaves(Phase::Ready, "23:00"));
    }

    /// Cron starts it every ten minutes, something kills it now and then, and in one of the nights the clocks change.
    #[test]
    fn a_week_of_nights() {
        let window = "22:00-06:00 Europe/Berlin";
        let options = night(|h| h.windows = vec![window.parse().expect(window)]);
        let zone = jiff::tz::TimeZone::get("Europe/Berlin").expect("a zone");
        let begun: Timestamp = "2026-03-25T12:00:00Z".parse().expect("a moment");
        let (mut running, mut starts, mut worked) = (false, 0, 0);
        for minute in 0..(7 * 24 * 60) {
            let now = begun + jiff::SignedDuration::from_mins(minute);
            let hour = now.to_zoned(zone.clone()).hour();
            let at_night = !(6..22).contains(&hour);
            if minute % 10 == 0 && !running {
                (running, starts) = (true, starts + 1);
            }
            // As the monitor does: what is held back first, then whether to leave.
            let held = held(None, false, &options, Phase::Copy, now);
            assert_eq!(held.closed.is_none(), at_night, "at {hour} o'clock");
            if running && held.closed.is_none() {
                worked += 1;
            }
            let leaves = over(&look(), &options, Phase::Copy, Some(1_000.0), now);
            assert_eq!(leaves.is_some(), !at_night, "at {hour} o'clock");
            running = running && leaves.is_none() && minute % 97 != 0;
        }
        // Seven nights, of which one is an hour shorter; up to ten minutes are lost to each kill.
        let (all, kills) = ((7 * 8 - 1) * 60, 7 * 8 * 60 / 97 + 1);
        assert!(worked <= all && worked >= all - 10 * kills, "{worked} of {all} minutes");
        assert!(starts > 7 * 16 * 6, "by day each start is over at once: {starts}");
    }

    #[test]
    fn what_is_critical_stops_the_run() {
        let now = Instant::now();
        let history = History::default();
        let stops = |options: &MigrateOptions, look: &Look| critical(look, options, &history, now).map(|f| f.primary);
        assert_eq!(stops(&MigrateOptions::default(), &look()), None);
        let lagging =
            Look { standbys: vec![Standby { name: "a".to_owned(), replayed: None, lag: Some(61.0) }], ..look() };
        let cases = [
            (limits(|o| o.critical.lag = Some(Duration::from_secs(60))), lagging, "--critical-lag"),
            (limits(|o| o.critical.slot_wal = Some(1 << 29)), look(), "--critical-slot-wal"),
            (limits(|o| o.critical.active = Some(2)), look(), "--critical-active"),
        ];
        for (options, look, name) in cases {
            assert!(stops(&options, &look).is_some_and(|why| why.contains(name)), "{name}");
        }
    }
}
