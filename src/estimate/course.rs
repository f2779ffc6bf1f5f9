//! How a migration goes over time: what the slot holds, how far a standby is behind, how many keys wait. Pure.

use super::constants::SNAPSHOT_SECONDS;
use super::model::Point;

/// A phase.
#[derive(Debug, Clone, PartialEq)]
pub struct Stretch {
    /// Its name.
    pub name: &'static str,
    /// How long it takes; without an end where it does not converge.
    pub seconds: f64,
    /// The WAL that it writes itself.
    pub wal: f64,
    /// Keys that wait at its end.
    pub backlog: f64,
}

/// A whole run, phase by phase.
#[derive(Debug, Clone, PartialEq)]
pub struct Course {
    stretches: Vec<Stretch>,
    /// WAL of the server a second, without us.
    server_wal: f64,
    /// WAL that a standby replays a second.
    replay: f64,
    /// Records of running transactions that the slot lags.
    held: f64,
}

/// A time on the way.
struct At<'a> {
    stretch: &'a Stretch,
    /// When it begins.
    begun: f64,
    /// Keys that wait then.
    before: f64,
}

/// Steps in which the course is gone through to find its peaks.
const STEPS: usize = 2_000;

impl Course {
    /// From its phases.
    pub fn new(stretches: Vec<Stretch>, server_wal: f64, replay: f64, held: f64) -> Course {
        Course { stretches, server_wal, replay, held }
    }

    /// How long a phase takes.
    pub fn seconds(&self, name: &str) -> f64 {
        self.stretches.iter().find(|s| s.name == name).map_or(0.0, |s| s.seconds)
    }

    /// From the start to the swap.
    pub fn total(&self) -> f64 {
        self.stretches.iter().map(|s| s.seconds).fold(0.0, |all, one| all + one)
    }

    /// As much of it as has an end.
    fn end(&self) -> f64 {
        self.stretches.iter().map(|s| s.seconds).take_while(|s| s.is_finite()).fold(0.0, |all, one| all + one)
    }

    fn at(&self, seconds: f64) -> Option<At<'_>> {
        let (mut begun, mut before) = (0.0, 0.0);
        for stretch in &self.stretches {
            if seconds <= begun + stretch.seconds {
                return Some(At { stretch, begun, before });
            }
            begun += stretch.seconds;
            before = stretch.backlog;
        }
        None
    }

    /// WAL written up to a time.
    fn wal(&self, seconds: f64) -> f64 {
        let (mut begun, mut wal) = (0.0, self.server_wal * seconds);
        for stretch in &self.stretches {
            let share = if stretch.seconds > 0.0 { ((seconds - begun) / stretch.seconds).clamp(0.0, 1.0) } else { 1.0 };
            wal += if seconds >= begun { stretch.wal * share } else { 0.0 };
            begun += stretch.seconds;
        }
        wal
    }

    /// Where the slot still begins at a time. It moves on at records that come every so often, not past the beginning of
    /// a transaction that was open at one, and an index build is one transaction.
    fn anchor(&self, seconds: f64) -> f64 {
        let index = self.stretches.iter().take_while(|s| s.name != "index");
        let index_begun = index.map(|s| s.seconds).fold(0.0, |all, one| all + one);
        let index_ended = index_begun + self.seconds("index");
        let record = |seconds: f64| (seconds / SNAPSHOT_SECONDS).floor() * SNAPSHOT_SECONDS;
        let last = record(seconds);
        let counts = if last > index_begun && last <= index_ended { record(index_begun) } else { last };
        (counts - (self.held - 1.0) * SNAPSHOT_SECONDS).max(0.0)
    }

    fn slot_wal(&self, seconds: f64) -> f64 {
        self.wal(seconds) - self.wal(self.anchor(seconds))
    }

    /// Rises from phase to phase, as the keys that were not there before.
    fn backlog(&self, seconds: f64) -> f64 {
        self.at(seconds).map_or(0.0, |At { stretch, begun, before }| {
            let share = if stretch.seconds > 0.0 { (seconds - begun) / stretch.seconds } else { 1.0 };
            before + (stretch.backlog - before) * if share.is_finite() { share } else { 0.0 }
        })
    }

    /// How many seconds a standby is behind that began in step, at times so far apart.
    fn lags(&self, step: f64, count: usize) -> Vec<f64> {
        let mut behind = 0.0_f64;
        let lag = |n: usize| {
            let (now, before) = (n as f64 * step, n.saturating_sub(1) as f64 * step);
            behind = (behind + self.wal(now) - self.wal(before) - self.replay * (now - before)).max(0.0);
            behind / self.replay
        };
        (0..=count).map(lag).collect()
    }

    fn most(&self, value: impl Fn(f64) -> f64) -> f64 {
        let step = self.end() / STEPS as f64;
        let mut ends = Vec::new();
        let mut end = 0.0;
        for stretch in self.stretches.iter().take_while(|s| s.seconds.is_finite()) {
            end += stretch.seconds;
            ends.push(end);
        }
        (0..=STEPS).map(|n| n as f64 * step).chain(ends).map(value).fold(0.0, f64::max)
    }

    /// The most WAL that the slot holds back.
    pub fn peak_slot_wal(&self) -> f64 {
        self.most(|seconds| self.slot_wal(seconds))
    }

    /// The most keys that wait.
    pub fn peak_backlog(&self) -> f64 {
        self.most(|seconds| self.backlog(seconds))
    }

    /// The largest lag of a standby.
    pub fn peak_lag(&self) -> f64 {
        self.lags(self.end() / STEPS as f64, STEPS).into_iter().fold(0.0, f64::max)
    }

    /// How it stands at so many times.
    pub fn points(&self, count: usize, standby: bool) -> Vec<Point> {
        let step = self.end() / count as f64;
        let lags = self.lags(step, count);
        let point = |(n, lag): (usize, f64)| {
            let seconds = n as f64 * step;
            let phase = self.at(seconds).map_or("cut over", |at| at.stretch.name);
            let round = |v: f64| (v * 1_000.0).round() / 1_000.0;
            Point {
                seconds: round(seconds),
                phase,
                backlog_keys: self.backlog(seconds).round(),
                slot_wal_bytes: self.slot_wal(seconds).round(),
                lag_seconds: standby.then(|| round(lag)),
            }
        };
        lags.into_iter().enumerate().map(point).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course(copy: f64, index: f64, server_wal: f64) -> Course {
        let stretch = |name, seconds, wal, backlog| Stretch { name, seconds, wal, backlog };
        let stretches = vec![
            stretch("prepare", 0.0, 0.0, 0.0),
            stretch("copy", copy, copy * 100.0, 10.0),
            stretch("index", index, index * 50.0, 20.0),
            stretch("catch up", 10.0, 0.0, 0.0),
        ];
        Course::new(stretches, server_wal, 60.0, 2.0)
    }

    #[test]
    fn a_short_run_leaves_all_its_wal_to_the_slot() {
        assert_eq!(course(5.0, 3.0, 0.0).peak_slot_wal(), 650.0);
    }

    #[test]
    fn a_long_copy_holds_two_intervals() {
        let peak = course(600.0, 0.0, 0.0).peak_slot_wal();
        assert!((2_900.0..=3_000.0).contains(&peak), "{peak}");
    }

    #[test]
    fn an_index_build_holds_what_came_since_it_began() {
        let peak = course(600.0, 600.0, 0.0).peak_slot_wal();
        assert!((600.0 * 50.0..600.0 * 50.0 + 3_000.0).contains(&peak), "{peak}");
    }

    #[test]
    fn a_standby_falls_behind_while_more_is_written_than_it_replays() {
        // 100 a second for 30 s against 60: behind by 1200, which is 20 s, and then less.
        let lag = course(30.0, 0.0, 0.0).peak_lag();
        assert!((19.5..20.1).contains(&lag), "{lag}");
        let points = course(30.0, 0.0, 0.0).points(40, true);
        assert_eq!(points.last().and_then(|p| p.lag_seconds), Some(10.0));
        assert!(course(30.0, 0.0, 0.0).points(4, false).iter().all(|p| p.lag_seconds.is_none()));
    }

    #[test]
    fn the_backlog_rises_and_falls() {
        let points = course(10.0, 10.0, 0.0).points(30, false);
        let backlog: Vec<f64> = points.iter().map(|p| p.backlog_keys).collect();
        assert_eq!((backlog[10], backlog[20], backlog[30]), (10.0, 20.0, 0.0));
        assert_eq!(points[15].phase, "index");
    }
}
