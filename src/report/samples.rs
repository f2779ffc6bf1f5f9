//! One of each event, and a page to write on: what the tests of every view share.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};

use super::event::{Event, Phase, Progress};
use super::file::{CutoverFigures, PhaseSeconds, Report, Summary, VerifyFigures};

/// So many seconds after a noon.
pub(crate) fn at(second: i64) -> Timestamp {
    let noon: Timestamp = "2026-11-03T12:00:00Z".parse().expect("a time");
    noon + SignedDuration::from_secs(second)
}

/// A writer whose text can be read by whoever has a clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    pub(crate) fn push(&self, text: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(text.as_bytes());
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.text().lines().map(str::to_owned).collect()
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A progress with every field known.
pub(crate) fn progress() -> Event {
    Event::Progress(Progress {
        phase: Phase::Copy,
        rows_done: Some(1_200_000),
        rows_total: Some(3_000_000),
        bytes_done: Some(64 << 20),
        bytes_total: Some(128 << 20),
        rate_rows: Some(410_000.0),
        eta_seconds: Some(4.4),
        backlog_keys: Some(1_200),
        lag_bytes: Some(12 << 10),
        lag_seconds: Some(0.02),
        throttle: Some("lag 11 s > 10 s".to_owned()),
        detail: Some("block 64 of 128".to_owned()),
    })
}

/// A run that went well.
pub(crate) fn summary() -> Summary {
    let report = Report {
        id: Some(7),
        command: "alter".to_owned(),
        source: Some("public.orders".to_owned()),
        targets: vec!["public.orders".to_owned()],
        outcome: "done".to_owned(),
        rows_copied: Some(3_000_000),
        bytes_copied: Some(128 << 20),
        keys_journaled: Some(3_400),
        keys_flushed: Some(1_200),
        seconds: PhaseSeconds {
            total: Some(12.34),
            prepare: Some(0.3),
            copy: Some(6.1),
            index: Some(3.2),
            catch_up: Some(0.2),
            verify: Some(2.0),
            ready: Some(0.4),
        },
        cutover: CutoverFigures {
            attempts: Some(2),
            lock_wait: Some(0.003),
            write_blocked: Some(0.012),
            final_keys: Some(35),
        },
        verify: VerifyFigures { rows_compared: Some(3_000_000), differences: Some(0), rechecked: Some(12) },
        ..Report::default()
    };
    Summary { report, old_table: Some("public.orders_old".to_owned()) }
}

/// One of each event, in the order of the enum.
pub(crate) fn events() -> Vec<Event> {
    let reason = "lag 11 s > 10 s".to_owned();
    let name = "orders_pkey".to_owned();
    vec![
        Event::Started {
            id: 7,
            command: "alter".to_owned(),
            source: "public.orders".to_owned(),
            server_version: "15.4".to_owned(),
            resumed: true,
        },
        Event::PhaseBegan { phase: Phase::Copy },
        Event::PhaseEnded { phase: Phase::Copy, seconds: 12.34 },
        progress(),
        Event::Throttled { reason },
        Event::Unthrottled,
        Event::IndexBegan { name: name.clone() },
        Event::IndexEnded { name, seconds: 0.9 },
        Event::CutoverAttempt { number: 2, outcome: "the lock was not granted within 250 ms".to_owned() },
        Event::Waiting { on: "pid 12: SELECT pg_sleep(20)".to_owned() },
        Event::Notice { text: "statistics are fresh".to_owned() },
        Event::Warning { text: "the slot retains 9.0 GB of WAL".to_owned() },
        Event::VerifyResult { rows_compared: 3_000_000, differences: 0, rechecked: 12 },
        Event::CutOver { lock_wait: 0.003, write_blocked: 0.012, final_keys: 35 },
        Event::Finished { summary: Box::new(summary()) },
    ]
}
