//! Rates become times, lag and disk. Pure; `docs/estimate.md` has the formulas in words.
//!
//! The model is worked through three times: with what each unit of work costs in the good case, the likely one and the
//! bad one. A figure's range is what these come to.

use std::collections::BTreeMap;

use serde::Serialize;

use super::constants as known;
use super::course::{Course, Stretch};
use super::distinct::Hot;
use super::facts::{Facts, Writes};
use super::figure::{Case, Figure};
use super::rates::Rates;

/// What the model is given.
#[derive(Debug, Clone)]
pub struct Inputs<'a> {
    /// What was measured.
    pub facts: &'a Facts,
    /// What work costs.
    pub rates: &'a Rates,
    /// `--jobs`.
    pub jobs: u8,
    /// `--nice`.
    pub nice: f64,
    /// Whether both sides are compared.
    pub verify: bool,
    /// `--max-lag`, in seconds.
    pub max_lag: f64,
    /// `--cutover-timeout`, in seconds.
    pub cutover_timeout: f64,
    /// Where the target's rows will be.
    pub tablespace: &'a str,
    /// Where what names no tablespace will be.
    pub default_tablespace: &'a str,
    /// Bytes of a key.
    pub key_bytes: f64,
}

/// What a migration will come to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    /// From the start to the swap; without an end where it does not converge.
    pub total_seconds: Figure,
    /// The same by phase, in order.
    pub seconds: Seconds,
    /// The most WAL that the slot holds back.
    pub peak_slot_wal_bytes: Figure,
    /// The most that is on disk beyond what there is now.
    pub peak_disk_bytes: Figure,
    /// The same by tablespace; `pg_wal` is what the slot holds.
    pub disk: Vec<Disk>,
    /// The largest replay lag of a standby; none where there is none.
    pub peak_lag_seconds: Option<Figure>,
    /// The most keys that wait for their flush.
    pub peak_backlog_keys: Figure,
    /// Whether the backlog comes to an end, in the likely case.
    pub converges: bool,
    /// When it does.
    pub in_step_after_seconds: Figure,
    /// The largest rate of writes, of the kinds that were seen, at which it would.
    pub largest_writes_per_second: Figure,
    /// How long writers wait for the swap.
    pub write_pause_seconds: Figure,
    /// Backlog, WAL and lag over time in the likely case, as far as it has an end.
    pub over_time: Vec<Point>,
}

/// Seconds of each phase.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Seconds {
    /// Shadow, publication, slot.
    pub prepare: Figure,
    /// Block ranges to the shadow.
    pub copy: Figure,
    /// Building the indexes.
    pub index: Figure,
    /// Until the backlog is flushed.
    pub catch_up: Figure,
    /// Comparing.
    pub verify: Figure,
    /// ANALYZE.
    pub ready: Figure,
    /// The swap, and cleaning up behind it.
    pub cut_over: Figure,
}

/// What is needed in a tablespace.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Disk {
    /// Its name, or `pg_wal`.
    pub tablespace: String,
    /// How much.
    pub bytes: Figure,
}

/// How it stands at a time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Point {
    /// Seconds since the start.
    pub seconds: f64,
    /// The phase.
    pub phase: &'static str,
    /// Keys not flushed.
    pub backlog_keys: f64,
    /// WAL that the slot holds back.
    pub slot_wal_bytes: f64,
    /// Replay lag of the standby furthest behind; none where there is none.
    pub lag_seconds: Option<f64>,
}

/// How much the writes of the days differ from those of the sample.
const WRITES_VARY: Figure = Figure::new(0.8, 1.0, 1.3);

/// Points over time.
const POINTS: usize = 60;

/// What one case comes to.
struct Outcome {
    course: Course,
    in_step: f64,
    largest_writes: f64,
    pause: f64,
    disk: BTreeMap<String, f64>,
}

/// Derives it all.
pub fn derive(inputs: &Inputs<'_>) -> Estimate {
    let outcomes = Case::ALL.map(|case| outcome(inputs, case));
    let of = |value: &dyn Fn(&Outcome) -> f64| {
        Figure::of_cases(|case| {
            Case::ALL.iter().position(|c| *c == case).and_then(|n| outcomes.get(n)).map_or(0.0, value)
        })
    };
    let phase = |name: &'static str| of(&move |o: &Outcome| o.course.seconds(name));
    let [_, likely, _] = &outcomes;
    let mut places: Vec<&String> = outcomes.iter().flat_map(|o| o.disk.keys()).collect();
    places.sort_unstable();
    places.dedup();
    let disk = places.into_iter().map(|place| Disk {
        tablespace: place.clone(),
        bytes: of(&|o: &Outcome| o.disk.get(place).copied().unwrap_or(0.0)),
    });
    let standby = !inputs.facts.standbys.is_empty();
    Estimate {
        total_seconds: of(&|o| o.course.total()),
        seconds: Seconds {
            prepare: phase("prepare"),
            copy: phase("copy"),
            index: phase("index"),
            catch_up: phase("catch up"),
            verify: phase("verify"),
            ready: phase("ready"),
            cut_over: phase("cut over"),
        },
        peak_slot_wal_bytes: of(&|o| o.course.peak_slot_wal()),
        peak_disk_bytes: of(&|o| o.disk.values().fold(0.0, |all, one| all + one)),
        disk: disk.collect(),
        peak_lag_seconds: standby.then(|| of(&|o| o.course.peak_lag())),
        peak_backlog_keys: of(&|o| o.course.peak_backlog()),
        converges: likely.in_step.is_finite(),
        in_step_after_seconds: of(&|o| o.in_step),
        largest_writes_per_second: of(&|o| o.largest_writes),
        write_pause_seconds: of(&|o| o.pause),
        over_time: likely.course.points(POINTS, standby),
    }
}

/// Speed of so many workers, in that of one.
fn together(jobs: f64, case: Case) -> f64 {
    1.0 + (jobs - 1.0).max(0.0) * known::WORKER_ADDS.in_case(case)
}

/// Different keys that change within so many seconds.
fn different(writes: Writes, hot: Hot, seconds: f64) -> f64 {
    (writes.inserts + writes.deletes) * seconds + hot.different(writes.updates * seconds)
}

fn outcome(inputs: &Inputs<'_>, case: Case) -> Outcome {
    let Inputs { facts, rates, .. } = inputs;
    let jobs = f64::from(inputs.jobs);
    let rows = rates.rows.in_case(case);
    let hot = Hot { rows: rates.hot.in_case(case) }.within(rows.max(1.0));
    let vary = WRITES_VARY.in_case(case);
    let scaled = |factor: f64| Writes {
        inserts: facts.writes.inserts * factor,
        updates: facts.writes.updates * factor,
        deletes: facts.writes.deletes * factor,
    };
    let writes = scaled(vary);
    let server_wal = facts.wal_bytes_per_second * vary;
    let replay = known::REPLAYED_PER_SECOND.in_case(case);
    let copy_wal = rows * rates.wal_row.in_case(case);
    // How many times as long work takes with what rest there is.
    let gently = |pieces: Figure| if inputs.nice > 0.0 { (1.0 + inputs.nice) * pieces.in_case(case) } else { 1.0 };
    let copy = {
        let alone = rows * rates.copy_row.in_case(case) * gently(known::COPY_GENTLY) / together(jobs, case);
        // A standby that falls behind further than allowed makes the copy wait for it.
        let spare = (replay - server_wal).max(replay / 100.0);
        let held = if facts.standbys.is_empty() { 0.0 } else { (copy_wal - inputs.max_lag * replay).max(0.0) / spare };
        known::COPY.in_case(case) + alone.max(held)
    };
    let builds = || rates.builds.iter();
    let index = {
        let all = builds().map(|b| b.seconds.in_case(case)).fold(0.0, |all, one| all + one);
        let longest = builds().map(|b| b.seconds.in_case(case)).fold(0.0, f64::max);
        known::INDEX.in_case(case) + (all / together(jobs.min(rates.builds.len() as f64), case)).max(longest)
    };
    let index_bytes = builds().map(|b| b.bytes.in_case(case)).fold(0.0, |all, one| all + one);
    let prepare = known::PREPARE.in_case(case);
    let backlog = different(writes, hot, copy + index);
    let flushed_per_second = together(jobs, case) / rates.flush_key.in_case(case);
    let decoded = known::DECODED_PER_SECOND.in_case(case);
    let in_step_rate =
        |factor: f64| different(scaled(factor), hot, known::IN_STEP) / known::IN_STEP / flushed_per_second;
    let follows = |factor: f64| in_step_rate(factor) < 1.0 && facts.writes.all() * factor < decoded;
    let catch_up = match follows(vary) {
        true => {
            // Flushes rest as well, but keys go twice as fast as they come where that can be.
            let come = in_step_rate(vary);
            let go = (1.0 / (1.0 + inputs.nice)).max((2.0 * come).min(1.0));
            known::CATCH_UP.in_case(case) + backlog / flushed_per_second / (go - come)
        }
        false => f64::INFINITY,
    };
    let verify = match inputs.verify {
        true => {
            rows * rates.digest_row.in_case(case) * gently(known::DIGEST_GENTLY) / together(jobs, case)
                + known::TURN.in_case(case)
        }
        false => 0.0,
    };
    // What a flush writes: the row, its old version's end, and an entry of each index.
    let flush_wal = backlog * (rates.wal_row.in_case(case) * 1.5 + 90.0 * rates.builds.len() as f64);
    let stretch = |name, seconds, wal, backlog| Stretch { name, seconds, wal, backlog };
    let at_once = different(writes, hot, known::IN_STEP);
    let before_index = different(writes, hot, copy);
    let course = Course::new(
        vec![
            stretch("prepare", prepare, 0.0, 0.0),
            stretch("copy", copy, copy_wal, before_index),
            stretch("index", index, index_bytes, backlog),
            stretch("catch up", catch_up, flush_wal, at_once),
            stretch("verify", verify, 0.0, at_once),
            stretch("ready", rates.analyze.in_case(case) + known::TURN.in_case(case), 0.0, at_once),
            stretch("cut over", known::CUT_OVER.in_case(case), 0.0, at_once),
        ],
        server_wal,
        replay,
        known::SNAPSHOTS_HELD.in_case(case),
    );
    let pause = known::WRITE_PAUSE.in_case(case) + at_once * rates.flush_key.in_case(case);
    let mut disk = BTreeMap::new();
    let mut add = |place: &str, bytes: f64| *disk.entry(place.to_owned()).or_insert(0.0) += bytes;
    add(inputs.tablespace, rows * rates.row_bytes.in_case(case));
    builds().for_each(|b| add(&b.tablespace, b.bytes.in_case(case)));
    add(inputs.default_tablespace, backlog * (inputs.key_bytes + known::JOURNAL_KEY));
    let mut sorts: Vec<f64> =
        builds().map(|b| b.bytes.in_case(case)).filter(|bytes| *bytes > known::BUILD_MEMORY).collect();
    sorts.sort_by(|a, b| b.total_cmp(a));
    add(inputs.default_tablespace, sorts.iter().take(usize::from(inputs.jobs)).fold(0.0, |all, one| all + one));
    add("pg_wal", course.peak_slot_wal());
    Outcome {
        in_step: prepare + copy + index + catch_up,
        largest_writes: largest(facts.writes, follows).unwrap_or_else(|| flushed_per_second.min(decoded)),
        pause: pause.min(inputs.cutover_timeout),
        course,
        disk,
    }
}

/// The largest rate at which `follows` holds, by bisection; `None` where nothing was written.
fn largest(writes: Writes, follows: impl Fn(f64) -> bool) -> Option<f64> {
    if writes.all() <= 0.0 {
        return None;
    }
    let (mut low, mut high) = (0.0, 1e9 / writes.all());
    for _ in 0..80 {
        let middle = f64::midpoint(low, high);
        if follows(middle) { low = middle } else { high = middle }
    }
    Some(low * writes.all())
}

#[cfg(test)]
mod tests;
