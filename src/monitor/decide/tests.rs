//! The decisions, case by case, and over a week of nights.

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

fn at(phase: Phase, clock: &str, rate: Option<f64>) -> Moment {
    let now = format!("2026-11-20T{clock}:00Z").parse().expect(clock);
    Moment { phase, now, rate, spent: false }
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
    let said = |look: &Look, options: &MigrateOptions, later| signal(look, &options.throttle, &history, now + later);
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
    let of = |options: &MigrateOptions, phase, clock| held(None, false, options, &at(phase, clock, None));
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
    assert!(held(None, true, &limits(|_| {}), &at(Phase::Ready, "12:00", None)).no_cutover.is_some());
}

#[test]
fn a_run_leaves_when_the_window_ends_unless_the_slot_would_grow_too_large() {
    let options = night(|_| {});
    let day = |rate| at(Phase::Copy, "12:00", rate);
    assert!(over(&look(), &options, &at(Phase::Copy, "23:00", None)).is_none());
    assert!(over(&look(), &options, &at(Phase::Keep, "12:00", None)).is_none());
    assert!(over(&look(), &night(|h| h.outside = Outside::KeepUp), &day(None)).is_none());
    // Ten hours on top of 1 GB.
    let failure = over(&look(), &options, &day(Some(104_857.6))).expect("an end").expect("it leaves");
    assert_eq!(failure.exit, Exit::Paused);
    let detail = failure.detail.expect("what the slot will hold");
    assert!(detail.contains("until 2026-11-20 22:00 UTC the slot will hold 4.5 GB"), "{detail}");
    let why = over(&look(), &options, &day(Some(1_048_576.0))).expect("an end").expect_err("it stays");
    assert!(why.contains("the slot will hold 36.2 GB") && why.contains("more than 10.0 GB"), "{why}");
}

#[test]
fn a_run_whose_time_is_over_says_what_it_leaves() {
    let spent = |phase, clock, rate| Moment { spent: true, ..at(phase, clock, rate) };
    let leaves = |options: &MigrateOptions, moment: &Moment| over(&look(), options, moment).expect("an end");
    let detail = |options: &MigrateOptions, moment: &Moment| {
        let failure = leaves(options, moment).expect("it leaves");
        assert!(failure.exit == Exit::Paused && failure.primary.contains("--max-runtime"), "{failure}");
        failure.detail.expect("what the slot will hold")
    };
    let plain = limits(|_| {});
    assert!(over(&look(), &plain, &at(Phase::Copy, "12:00", None)).is_none());
    let hourly = detail(&plain, &spent(Phase::Copy, "12:00", Some(1_048_576.0)));
    assert!(hourly.contains("its slot holds 1.0 GB of WAL, and 3.5 GB more each hour"), "{hourly}");
    assert!(detail(&plain, &spent(Phase::Copy, "12:00", None)).contains("until the next start"));
    // In an open window it is the next one that counts: 23 hours on top of 1 GB.
    let open = night(|_| {});
    let until = detail(&open, &spent(Phase::Copy, "23:00", Some(104_857.6)));
    assert!(until.contains("until 2026-11-21 22:00 UTC the slot will hold 9.1 GB"), "{until}");
    let stays = spent(Phase::Copy, "23:00", Some(1_048_576.0));
    let why = leaves(&open, &stays).expect_err("it stays");
    assert!(why.starts_with("--max-runtime is over") && why.contains("more than 10.0 GB"), "{why}");
    let held = held(None, false, &open, &stays);
    assert!(held.closed.is_some() && held.no_cutover.is_some() && held.signal.is_none(), "it flushes and nothing else");
    // The old table is kept in step at any hour, and not beyond the run's time.
    assert!(detail(&open, &spent(Phase::Keep, "12:00", Some(1_048_576.0))).contains("each hour"));
}

#[test]
fn a_run_that_waits_for_its_cutover_stays_for_that_window() {
    let options = night(|h| h.cutover_windows = vec!["12:00-13:00 UTC".parse().expect("a window")]);
    let leaves = |phase, clock| over(&look(), &options, &at(phase, clock, None)).is_some();
    assert!(!leaves(Phase::Ready, "12:30") && leaves(Phase::Copy, "12:30"));
    assert!(leaves(Phase::Ready, "14:00") && !leaves(Phase::Ready, "23:00"));
}

/// A week, minute by minute. Cron starts the same command every ten minutes on two machines at once, something kills the run
/// now and then, its time is over after some hours, and in one of the nights the clocks change. The lease is one lock, which
/// goes with its holder; whether to work, to wait and to leave is what the monitor decides.
fn week(begun: &str, minutes_of_work: u32) {
    let window = "22:00-06:00 Europe/Berlin";
    let options = night(|h| h.windows = vec![window.parse().expect(window)]);
    let zone = jiff::tz::TimeZone::get("Europe/Berlin").expect("a zone");
    let begun: Timestamp = begun.parse().expect("a moment");
    // Since when whoever has the lease works, and what is left to be done.
    let (mut lease, mut left): (Option<i64>, u32) = (None, minutes_of_work);
    let (mut busy, mut by_day, mut kills, mut spent) = (0, 0, 0, 0);
    for minute in 0..(7 * 24 * 60) {
        let now = begun + jiff::SignedDuration::from_mins(minute);
        let hour = now.to_zoned(zone.clone()).hour();
        let at_night = !(6..22).contains(&hour);
        let moment = |since| Moment { phase: Phase::Copy, now, rate: Some(1_000.0), spent: minute - since >= 60 };
        let mut starts = if minute % 10 == 0 && left > 0 { 2 } else { 0 };
        while starts > 0 {
            starts -= 1;
            match (over(&look(), &options, &moment(minute)), lease) {
                (Some(_), _) => by_day += 1,
                (None, Some(_)) => busy += 1,
                (None, None) => lease = Some(minute),
            }
        }
        let Some(since) = lease else { continue };
        // As the monitor does: what is held back first, then whether to leave.
        let held = held(None, false, &options, &moment(since));
        if held.closed.is_none() {
            assert!(at_night, "it works at {hour} o'clock");
            left -= 1;
        }
        let leaves = over(&look(), &options, &moment(since)).is_some();
        assert!(leaves || at_night, "it stays at {hour} o'clock");
        let killed = minute % 97 == 0;
        (kills, spent) = (kills + u32::from(killed), spent + u32::from(leaves && at_night));
        lease = lease.filter(|_| !leaves && !killed && left > 0);
    }
    assert_eq!(left, 0, "not done in a week");
    assert!(busy > 100 && by_day > 500 && kills > 10 && spent > 5, "{busy}, {by_day}, {kills}, {spent}");
}

#[test]
fn weeks_of_nights() {
    // Six whole nights at the least, in one of which an hour does not come or comes twice; up to ten minutes are lost to
    // each kill and to each end of a run's time.
    week("2026-03-25T12:00:00Z", 2_500);
    week("2026-10-21T12:00:00Z", 2_500);
}

#[test]
fn what_is_critical_stops_the_run() {
    let now = Instant::now();
    let history = History::default();
    let stops = |options: &MigrateOptions, look: &Look| critical(look, options, &history, now).map(|f| f.primary);
    assert_eq!(stops(&MigrateOptions::default(), &look()), None);
    let lagging = Look { standbys: vec![Standby { name: "a".to_owned(), replayed: None, lag: Some(61.0) }], ..look() };
    let cases = [
        (limits(|o| o.critical.lag = Some(Duration::from_secs(60))), lagging, "--critical-lag"),
        (limits(|o| o.critical.slot_wal = Some(1 << 29)), look(), "--critical-slot-wal"),
        (limits(|o| o.critical.active = Some(2)), look(), "--critical-active"),
    ];
    for (options, look, name) in cases {
        assert!(stops(&options, &look).is_some_and(|why| why.contains(name)), "{name}");
    }
}
