use super::*;
use crate::estimate::facts::Standby;
use crate::estimate::rates::Build;

const PLACE: &str = "pg_default";

fn facts() -> Facts {
    Facts { rows: 1e6, table_bytes: 1e8, sampled_seconds: 1.0, ..Facts::default() }
}

fn rates() -> Rates {
    let around = |mid: f64| Figure::new(mid / 2.0, mid, mid * 2.0);
    Rates {
        rows: Figure::exactly(1e6),
        copy_row: around(2e-6),
        row_bytes: Figure::exactly(100.0),
        wal_row: Figure::exactly(130.0),
        builds: vec![Build { tablespace: "fast".to_owned(), seconds: around(0.5), bytes: Figure::exactly(2e7) }],
        flush_key: around(20e-6),
        digest_row: around(1e-6),
        analyze: around(0.2),
        hot: Figure::exactly(f64::INFINITY),
    }
}

fn derived(facts: &Facts, rates: &Rates, change: impl Fn(&mut Inputs<'_>)) -> Estimate {
    let mut inputs = Inputs {
        facts,
        rates,
        jobs: 2,
        nice: 0.0,
        verify: true,
        max_lag: 10.0,
        cutover_timeout: 1.0,
        tablespace: PLACE,
        default_tablespace: PLACE,
        key_bytes: 8.0,
    };
    change(&mut inputs);
    derive(&inputs)
}

fn in_order(figure: Figure) -> bool {
    figure.low <= figure.mid && figure.mid <= figure.high
}

#[test]
fn an_idle_table_takes_what_its_phases_take() {
    let estimate = derived(&facts(), &rates(), |_| ());
    let Seconds { prepare, copy, index, catch_up, verify, ready, cut_over } = estimate.seconds;
    for figure in [prepare, copy, index, catch_up, verify, ready, cut_over, estimate.total_seconds] {
        assert!(in_order(figure), "{figure:?}");
    }
    // Two workers are 1.35 times as fast as one.
    assert!((copy.mid - 2.0 / 1.35 - known::COPY.mid).abs() < 0.001, "{copy:?}");
    assert_eq!(index.mid, 0.5 + known::INDEX.mid);
    let sum = [prepare, copy, index, catch_up, verify, ready, cut_over].iter().map(|f| f.mid).sum::<f64>();
    assert!((estimate.total_seconds.mid - sum).abs() < 1e-9);
    assert!(estimate.converges);
    // All of it is over before the server's first record of running transactions.
    assert_eq!(estimate.peak_slot_wal_bytes.mid, 1.3e8 + 2e7);
    assert_eq!(estimate.peak_lag_seconds, None);
    assert_eq!(estimate.peak_backlog_keys.mid, 0.0);
    assert!(!estimate.over_time.is_empty());
}

#[test]
fn disk_is_by_place_and_adds_up() {
    let estimate = derived(&facts(), &rates(), |_| ());
    let of = |place: &str| estimate.disk.iter().find(|d| d.tablespace == place).expect("a place").bytes.mid;
    assert_eq!((of(PLACE), of("fast"), of("pg_wal")), (1e8, 2e7, 1.5e8));
    assert_eq!(estimate.peak_disk_bytes.mid, 2.7e8);
}

#[test]
fn more_is_slower_and_less_is_faster() {
    let total = |change: &dyn Fn(&mut Inputs<'_>)| derived(&facts(), &rates(), change).total_seconds.mid;
    let usual = total(&|_| ());
    assert!(total(&|i| i.jobs = 8) < usual);
    assert!(total(&|i| i.nice = 1.0) > usual * 1.4);
    assert!(total(&|i| i.verify = false) < usual);
    assert_eq!(derived(&facts(), &rates(), |i| i.verify = false).seconds.verify, Figure::exactly(0.0));
}

#[test]
fn rest_between_pieces_makes_all_but_the_indexes_longer() {
    let seconds = |nice: f64| derived(&written(1_000.0, 1_000.0), &rates(), |i| i.nice = nice).seconds;
    let (usual, rested) = (seconds(0.0), seconds(4.0));
    assert!(rested.copy.mid > usual.copy.mid * 4.0 && rested.verify.mid > usual.verify.mid * 8.0);
    assert_eq!(rested.index, usual.index);
    assert!(rested.catch_up.mid > usual.catch_up.mid * 2.0);
    // However long the rest, what comes is kept up with: as much again is flushed meanwhile.
    let endless = seconds(100.0);
    let meanwhile = endless.copy.mid + endless.index.mid;
    assert!(endless.catch_up.mid < meanwhile * 1.2, "{endless:?}");
}

fn written(inserts: f64, updates: f64) -> Facts {
    Facts { writes: Writes { inserts, updates, deletes: 0.0 }, ..facts() }
}

#[test]
fn what_is_written_meanwhile_is_caught_up_with() {
    let estimate = derived(&written(1_000.0, 1_000.0), &rates(), |_| ());
    assert!(estimate.converges);
    let meanwhile = estimate.seconds.copy.mid + estimate.seconds.index.mid;
    assert!((estimate.peak_backlog_keys.mid - 2_000.0 * meanwhile).abs() < 2_000.0, "{estimate:?}");
    // 1.35 workers at 50 000 keys a second each.
    let largest = estimate.largest_writes_per_second;
    assert!(in_order(largest) && (58_000.0..68_000.0).contains(&largest.mid), "{largest:?}");
}

#[test]
fn a_load_beyond_that_does_not_converge_and_is_without_end() {
    let largest = derived(&written(1.0, 1.0), &rates(), |_| ()).largest_writes_per_second.mid;
    for (share, converges) in [(0.98, true), (1.02, false)] {
        let estimate = derived(&written(largest / 2.0 * share, largest / 2.0 * share), &rates(), |_| ());
        assert_eq!(estimate.converges, converges, "{share}");
        assert_eq!(estimate.total_seconds.mid.is_finite(), converges, "{share}");
        assert!(estimate.seconds.copy.high.is_finite() && !estimate.over_time.is_empty());
    }
}

#[test]
fn hot_rows_are_a_small_backlog() {
    let hot = Rates { hot: Figure::exactly(100.0), ..rates() };
    let estimate = derived(&written(0.0, 50_000.0), &hot, |_| ());
    assert!(estimate.converges && estimate.peak_backlog_keys.high <= 101.0, "{:?}", estimate.peak_backlog_keys);
    assert!(estimate.largest_writes_per_second.mid >= 59_000.0);
}

#[test]
fn a_standby_that_cannot_follow_holds_the_copy_back() {
    let standby = Standby { name: "s".to_owned(), lag_seconds: None, behind_bytes: None };
    // So fast a copy that any standby falls behind.
    let fast = Rates { copy_row: Figure::exactly(1e-9), rows: Figure::exactly(1e9), ..rates() };
    let with = derived(&Facts { standbys: vec![standby], ..facts() }, &fast, |_| ());
    let without = derived(&facts(), &fast, |_| ());
    assert!(with.seconds.copy.mid > without.seconds.copy.mid * 10.0);
    let lag = with.peak_lag_seconds.expect("a standby");
    assert!((9.0..=11.0).contains(&lag.mid), "{lag:?}");
}
