//! Events in words: what the terminal and the plain lines share. Pure.

use super::event::{Event, Progress};
use super::numbers::{bytes, count, counted, seconds};
use super::summary::{self, verified};

/// The event as lines for people, free of control characters whatever a name or a query holds.
pub(super) fn lines(event: &Event) -> Vec<String> {
    let said = match event {
        Event::Started { id, command, source, server_version, resumed } => {
            let resumed = if *resumed { ", resumed" } else { "" };
            format!("{command} {source} on PostgreSQL {server_version} (migration {id}{resumed})")
        }
        Event::PhaseBegan { phase } => format!("{phase}: begins"),
        Event::PhaseEnded { phase, seconds: took } => format!("{phase}: done in {}", seconds(*took)),
        Event::Progress(progress) => format!("{}: {}", progress.phase, so_far(progress)),
        Event::Throttled { reason } => format!("throttled: {reason}"),
        Event::Unthrottled => "no longer throttled".to_owned(),
        Event::IndexBegan { name } => format!("index {name}: building"),
        Event::IndexEnded { name, seconds: took } => format!("index {name}: built in {}", seconds(*took)),
        Event::CutoverAttempt { number, outcome } => format!("cut-over attempt {number}: {outcome}"),
        Event::Waiting { on } => format!("waiting for {on}"),
        Event::Notice { text } => text.clone(),
        Event::Warning { text } => format!("warning: {text}"),
        Event::VerifyResult { rows_compared, differences, rechecked } => {
            verified(*rows_compared, *differences, *rechecked)
        }
        Event::CutOver { lock_wait, write_blocked, final_keys } => format!(
            "swapped: writers waited {} (the lock came after {}, {} in the last flush)",
            seconds(*write_blocked),
            seconds(*lock_wait),
            counted(*final_keys, "key")
        ),
        Event::Finished { summary } => return summary::lines(summary).iter().map(|line| printable(line)).collect(),
    };
    vec![printable(&said)]
}

/// What is known of a phase's progress, most telling first.
fn so_far(progress: &Progress) -> String {
    let parts = [done(progress), pace(progress)];
    let known: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    if known.is_empty() { "working".to_owned() } else { known.join(", ") }
}

/// What is done; empty where that is unknown.
pub(super) fn done(progress: &Progress) -> String {
    listed([
        progress.detail.clone(),
        amount(progress.rows_done, progress.rows_total, count).map(|rows| format!("{rows} rows")),
        amount(progress.bytes_done, progress.bytes_total, bytes),
    ])
}

/// How it goes on; empty where that is unknown.
pub(super) fn pace(progress: &Progress) -> String {
    listed([
        progress.throttle.as_ref().map(|reason| format!("throttled: {reason}")),
        progress.rate_rows.filter(|rate| *rate >= 1.0).map(|rate| format!("{} rows/s", count(rate as u64))),
        progress.eta_seconds.map(|left| format!("{} left", seconds(left))),
        progress.backlog_keys.map(|keys| format!("backlog {}", counted(keys, "key"))),
        lag(progress.lag_bytes, progress.lag_seconds),
    ])
}

fn listed<const N: usize>(parts: [Option<String>; N]) -> String {
    printable(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
}

/// `1.2 M of 3.0 M`, or as much of it as is known.
fn amount(done: Option<u64>, total: Option<u64>, show: fn(u64) -> String) -> Option<String> {
    match (done, total) {
        (Some(done), Some(total)) => Some(format!("{} of {}", show(done), show(total))),
        (Some(done), None) => Some(show(done)),
        (None, Some(total)) => Some(format!("0 of {}", show(total))),
        (None, None) => None,
    }
}

fn lag(size: Option<u64>, time: Option<f64>) -> Option<String> {
    match (size, time) {
        (Some(size), Some(time)) => Some(format!("lag {} / {}", bytes(size), seconds(time))),
        (Some(size), None) => Some(format!("lag {}", bytes(size))),
        (None, Some(time)) => Some(format!("lag {}", seconds(time))),
        (None, None) => None,
    }
}

/// The text with control characters as spaces: a query or a name must not steer the terminal or break a line.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::event::Phase;
    use crate::report::samples;

    #[test]
    fn every_event_has_its_words() {
        let expected = [
            "alter public.orders on PostgreSQL 15.4 (migration 7, resumed)",
            "copy: begins",
            "copy: done in 12.3 s",
            "copy: block 64 of 128, 1.2 M of 3.0 M rows, 64.0 MB of 128 MB, \
             throttled: lag 11 s > 10 s, 410 k rows/s, 4.4 s left, backlog 1.2 k keys, lag 12.0 kB / 20 ms",
            "throttled: lag 11 s > 10 s",
            "no longer throttled",
            "index orders_pkey: building",
            "index orders_pkey: built in 900 ms",
            "cut-over attempt 2: the lock was not granted within 250 ms",
            "waiting for pid 12: SELECT pg_sleep(20)",
            "statistics are fresh",
            "warning: the slot retains 9.0 GB of WAL",
            "verified 3.0 M rows: no difference, 12 keys looked at twice",
            "swapped: writers waited 12 ms (the lock came after 3.0 ms, 35 keys in the last flush)",
        ];
        let events = samples::events();
        for (event, text) in events.iter().zip(expected) {
            assert_eq!(lines(event), [text]);
        }
        assert_eq!(events.len(), expected.len() + 1, "the last one, the summary, has a test of its own");
    }

    #[test]
    fn what_is_unknown_is_not_said() {
        let progress = Progress::of(Phase::Ready);
        assert_eq!(so_far(&progress), "working");
        let progress = Progress { rows_total: Some(10), lag_seconds: Some(0.1), rate_rows: Some(f64::NAN), ..progress };
        assert_eq!(so_far(&progress), "0 of 10 rows, lag 100 ms");
    }

    #[test]
    fn a_query_cannot_steer_the_terminal() {
        let event = Event::Waiting { on: "pid 1: SELECT\n'\u{1b}[2J'".to_owned() };
        assert_eq!(lines(&event), ["waiting for pid 1: SELECT ' [2J'"]);
    }
}
