//! One JSON object a line.

use std::io::Write;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::event::Event;
use super::view::{Pace, Sink, View};

/// Often enough for a display that moves.
const PROGRESS_EVERY: SignedDuration = SignedDuration::from_millis(500);

/// One object for each event: `time` as RFC 3339 in UTC, `event`, and the event's fields.
pub struct Json {
    out: Sink,
    pace: Pace,
}

#[derive(Serialize)]
struct Line<'a, T: Serialize> {
    time: String,
    #[serde(flatten)]
    event: &'a T,
}

/// The event as one line, with the time at which it was said.
pub(super) fn line<T: Serialize>(at: Timestamp, event: &T) -> serde_json::Result<String> {
    serde_json::to_string(&Line { time: format!("{at:.3}"), event })
}

impl Json {
    /// Lines to that writer.
    pub fn new(writer: Box<dyn Write + Send>) -> Self {
        Json { out: Sink::new(writer), pace: Pace::new(PROGRESS_EVERY) }
    }
}

impl View for Json {
    fn show(&mut self, at: Timestamp, event: &Event) {
        if event.is_tick() && !self.pace.passes(at) {
            return;
        }
        match line(at, event) {
            Ok(line) => self.out.line(&line),
            Err(error) => tracing::error!(%error, ?event, "an event has no JSON"),
        }
    }

    fn end(&mut self) {}
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::report::samples::{self, Shared, at};

    fn said(event: &Event) -> Value {
        let line = line(at(0), event).expect("JSON");
        assert!(!line.contains('\n'), "{line}");
        serde_json::from_str(&line).expect("an object")
    }

    #[test]
    fn every_event_has_its_object() {
        let expected = [
            json!({"event": "started", "id": 7, "command": "alter", "source": "public.orders",
                "server_version": "15.4", "resumed": true}),
            json!({"event": "phase_began", "phase": "copy"}),
            json!({"event": "phase_ended", "phase": "copy", "seconds": 12.34}),
            json!({"event": "progress", "phase": "copy", "rows_done": 1_200_000, "rows_total": 3_000_000,
                "bytes_done": 67_108_864, "bytes_total": 134_217_728, "rate_rows": 410_000.0, "eta_seconds": 4.4,
                "backlog_keys": 1_200, "lag_bytes": 12_288, "lag_seconds": 0.02, "throttle": "lag 11 s > 10 s",
                "detail": "block 64 of 128"}),
            json!({"event": "throttled", "reason": "lag 11 s > 10 s"}),
            json!({"event": "unthrottled"}),
            json!({"event": "index_began", "name": "orders_pkey"}),
            json!({"event": "index_ended", "name": "orders_pkey", "seconds": 0.9}),
            json!({"event": "cutover_attempt", "number": 2, "outcome": "the lock was not granted within 250 ms"}),
            json!({"event": "waiting", "for": "pid 12: SELECT pg_sleep(20)"}),
            json!({"event": "notice", "text": "statistics are fresh"}),
            json!({"event": "warning", "text": "the slot retains 9.0 GB of WAL"}),
            json!({"event": "verify_result", "rows_compared": 3_000_000, "differences": 0, "rechecked": 12}),
            json!({"event": "cut_over", "lock_wait": 0.003, "write_blocked": 0.012, "final_keys": 35}),
            json!({"event": "finished", "summary": samples::summary()}),
        ];
        for (event, mut object) in samples::events().iter().zip(expected) {
            object["time"] = json!("2026-11-03T12:00:00.000Z");
            assert_eq!(said(event), object);
        }
    }

    #[test]
    fn the_summary_is_the_report_and_the_old_table() {
        let summary = said(&Event::Finished { summary: Box::new(samples::summary()) });
        assert_eq!(summary["summary"]["cutover"]["write_blocked"], json!(0.012));
        assert_eq!(summary["summary"]["old_table"], json!("public.orders_old"));
    }

    #[test]
    fn an_object_reads_back_as_its_event() {
        for event in samples::events() {
            let line = line(at(0), &event).expect("JSON");
            assert_eq!(serde_json::from_str::<Event>(&line).expect("an event"), event);
        }
    }

    #[test]
    fn progress_comes_at_most_twice_a_second() {
        let shared = Shared::default();
        let mut view = Json::new(Box::new(shared.clone()));
        for tenth in 0..20 {
            view.show(at(0) + SignedDuration::from_millis(100 * tenth), &samples::progress());
        }
        view.show(at(2), &Event::Unthrottled);
        assert_eq!(shared.lines().len(), 4 + 1);
    }
}
