//! Plain lines, for logs and pipes: what happened at once, progress now and then.

use std::io::Write;

use jiff::{SignedDuration, Timestamp};

use super::event::Event;
use super::text;
use super::view::{Pace, Sink, View};

/// A log of a night's migration stays readable.
const PROGRESS_EVERY: SignedDuration = SignedDuration::from_secs(5);

/// One line for each event, after its time in UTC.
pub struct Lines {
    out: Sink,
    pace: Pace,
}

impl Lines {
    /// Lines to that writer.
    pub fn new(writer: Box<dyn Write + Send>) -> Self {
        Lines { out: Sink::new(writer), pace: Pace::new(PROGRESS_EVERY) }
    }
}

impl View for Lines {
    fn show(&mut self, at: Timestamp, event: &Event) {
        if event.is_tick() && !self.pace.passes(at) {
            return;
        }
        for line in text::lines(event) {
            self.out.line(&format!("{at:.0} {line}"));
        }
    }

    fn end(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples::{self, Shared, at};

    #[test]
    fn each_line_begins_with_its_time() {
        let shared = Shared::default();
        let mut view = Lines::new(Box::new(shared.clone()));
        view.show(at(3), &Event::Unthrottled);
        view.show(at(4), &Event::Finished { summary: Box::new(samples::summary()) });
        let lines = shared.lines();
        assert_eq!(lines[0], "2026-11-03T12:00:03Z no longer throttled");
        assert_eq!(lines[1], "2026-11-03T12:00:04Z done: alter public.orders in 12.3 s");
        assert_eq!(lines.len(), 8);
    }

    #[test]
    fn progress_comes_at_most_every_five_seconds_and_the_rest_at_once() {
        let shared = Shared::default();
        let mut view = Lines::new(Box::new(shared.clone()));
        for second in 0..12 {
            view.show(at(second), &samples::progress());
        }
        view.show(at(12), &Event::Unthrottled);
        view.show(at(12), &Event::Unthrottled);
        let times: Vec<String> = shared.lines().iter().map(|line| line[17..19].to_owned()).collect();
        assert_eq!(times, ["00", "05", "10", "12", "12"]);
    }
}
