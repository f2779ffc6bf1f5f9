//! How many nights it takes, with the given windows. Pure.

use jiff::Timestamp;

use super::figure::Figure;
use crate::cli::{Hours, Outside};
use crate::window::{self, Now, Window};

/// Beyond so many it is as good as without end.
const MOST: u32 = 1_000;

/// A fortnight has every stretch that windows of the week have.
const FORTNIGHT: f64 = 14.0 * 24.0 * 3_600.0;

/// What work takes that is done in windows.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// All of it, in seconds.
    pub total: Figure,
    /// The longest piece that is done in one go, or begun again: an index build, in seconds.
    pub longest: Figure,
}

/// Stretches of time in which work may be done, one after the other; `None` where that is always.
struct Stretches<'a> {
    windows: &'a [Window],
    moment: Timestamp,
}

impl Stretches<'_> {
    /// The seconds until the next one, and its length; without an end where it is never closed.
    fn next(&mut self) -> (f64, f64) {
        let opens = match window::at(self.windows, self.moment) {
            Now::Closed { opens } => opens,
            Now::Open { .. } => self.moment,
        };
        let wait = seconds(self.moment, opens);
        match window::at(self.windows, opens) {
            Now::Open { until: Some(until) } => {
                self.moment = until;
                (wait, seconds(opens, until))
            }
            Now::Open { until: None } | Now::Closed { .. } => (wait, f64::INFINITY),
        }
    }
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

/// How many stretches of the windows it takes from now on; `None` without windows. What is done in one is not done again in
/// the next, as far as whole chunks and whole indexes are concerned: where a run ends with its window, an index that takes
/// longer than any of them is never built.
pub fn nights(hours: &Hours, now: Timestamp, work: Work) -> Option<Figure> {
    if hours.windows.is_empty() {
        return None;
    }
    let of = |total: f64, longest: f64| {
        let mut stretches = Stretches { windows: &hours.windows, moment: now };
        let fits = hours.outside == Outside::KeepUp || longest <= longest_night(&hours.windows, now);
        let mut left = if fits { total } else { f64::INFINITY };
        for night in 1..=MOST {
            left -= stretches.next().1;
            // A window that never closes is as long as whatever is to be done.
            if left <= 0.0 || left.is_nan() {
                return f64::from(night);
            }
        }
        f64::INFINITY
    };
    let Work { total, longest } = work;
    Some(Figure::new(of(total.low, longest.low), of(total.mid, longest.mid), of(total.high, longest.high)))
}

/// The longest stretch of a fortnight, in seconds.
fn longest_night(windows: &[Window], now: Timestamp) -> f64 {
    walk(windows, now).map(|(_, length)| length).fold(0.0, f64::max)
}

/// The longest time between two of them, in seconds.
pub fn longest_day(windows: &[Window], now: Timestamp) -> f64 {
    walk(windows, now).map(|(wait, _)| wait).fold(0.0, f64::max)
}

fn walk(windows: &[Window], now: Timestamp) -> impl Iterator<Item = (f64, f64)> {
    let mut stretches = Stretches { windows, moment: now };
    let mut gone = 0.0;
    std::iter::from_fn(move || {
        let (wait, length) = (gone < FORTNIGHT).then(|| stretches.next())?;
        gone += wait + length;
        Some((wait, length))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: f64 = 3_600.0;

    fn hours(windows: &[&str], outside: Outside) -> Hours {
        let windows = windows.iter().map(|w| w.parse().unwrap_or_else(|e| panic!("{w}: {e}")));
        Hours { windows: windows.collect(), outside, ..Hours::default() }
    }

    fn of(hours: &Hours, total: Figure, longest: f64) -> Figure {
        // A Friday.
        let now = "2026-11-20T12:00:00Z".parse().expect("a moment");
        nights(hours, now, Work { total, longest: Figure::exactly(longest) }).expect("nights")
    }

    #[test]
    fn nights_are_whole() {
        let total = Figure::new(HOUR, 9.0 * HOUR, f64::INFINITY);
        let eight = hours(&["22:00-06:00 UTC"], Outside::Exit);
        assert_eq!(of(&eight, total, HOUR), Figure::new(1.0, 2.0, f64::INFINITY));
        assert_eq!(of(&eight, Figure::exactly(8.0 * HOUR), HOUR), Figure::exactly(1.0));
        assert_eq!(of(&hours(&["00:00-24:00 UTC"], Outside::Exit), total, HOUR), Figure::exactly(1.0));
        let weekend = hours(&["Sat 00:00-24:00 UTC", "Wed 00:00-01:00 UTC"], Outside::Exit);
        assert_eq!(of(&weekend, Figure::exactly(26.0 * HOUR), HOUR).mid, 3.0);
        let now = "2026-11-20T12:00:00Z".parse().expect("a moment");
        assert_eq!(nights(&Hours::default(), now, Work { total, longest: total }), None);
        assert_eq!(longest_day(&weekend.windows, now), 72.0 * HOUR);
    }

    #[test]
    fn a_night_that_has_begun_counts_for_what_is_left_of_it() {
        let late = hours(&["08:00-13:00 UTC"], Outside::Exit);
        assert_eq!(of(&late, Figure::exactly(2.0 * HOUR), HOUR).mid, 2.0);
    }

    #[test]
    fn an_index_that_takes_longer_than_a_night_is_never_built_by_a_run_that_leaves() {
        let total = Figure::exactly(9.0 * HOUR);
        assert!(of(&hours(&["22:00-06:00 UTC"], Outside::Exit), total, 8.5 * HOUR).mid.is_infinite());
        assert_eq!(of(&hours(&["22:00-06:00 UTC"], Outside::KeepUp), total, 8.5 * HOUR).mid, 2.0);
    }
}
