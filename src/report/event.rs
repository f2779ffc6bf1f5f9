//! Everything ever said. The terminal, the plain lines and the JSON lines are three ways to show these.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::file::Summary;

/// Where a migration stands, as people and JSON are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// All findings before anything is touched.
    Preflight,
    /// Shadow, publication, slot.
    Prepare,
    /// Block ranges to the shadow.
    Copy,
    /// What was left off for the copy.
    Index,
    /// The journal becomes small.
    CatchUp,
    /// Source and targets are compared.
    Verify,
    /// In step, before the cut-over.
    Ready,
    /// The swap.
    CutOver,
    /// The old table follows the new one.
    Keep,
    /// The new table is in place.
    Done,
}

impl Phase {
    /// The phase's words.
    pub fn words(self) -> &'static str {
        match self {
            Phase::Preflight => "preflight",
            Phase::Prepare => "prepare",
            Phase::Copy => "copy",
            Phase::Index => "index",
            Phase::CatchUp => "catch up",
            Phase::Verify => "verify",
            Phase::Ready => "ready",
            Phase::CutOver => "cut over",
            Phase::Keep => "keep in step",
            Phase::Done => "done",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.words())
    }
}

/// How far a phase is. What is unknown, or means nothing in the phase, is `None`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The phase that this is about.
    pub phase: Phase,
    /// Rows done.
    pub rows_done: Option<u64>,
    /// Rows in all; an estimate while the phase lasts.
    pub rows_total: Option<u64>,
    /// Bytes of the source done.
    pub bytes_done: Option<u64>,
    /// Bytes of the source in all.
    pub bytes_total: Option<u64>,
    /// Rows per second, lately.
    pub rate_rows: Option<f64>,
    /// Seconds left in this phase.
    pub eta_seconds: Option<f64>,
    /// Keys in the journal that wait for a flush.
    pub backlog_keys: Option<u64>,
    /// Bytes of WAL between the server's end and what the stream has delivered.
    pub lag_bytes: Option<u64>,
    /// Seconds between a commit and its delivery by the stream.
    pub lag_seconds: Option<f64>,
    /// Why copy and flush are held back, while they are.
    pub throttle: Option<String>,
    /// What the phase is at, in a few words.
    pub detail: Option<String>,
}

impl Progress {
    /// Nothing known yet but the phase.
    pub fn of(phase: Phase) -> Self {
        Progress {
            phase,
            rows_done: None,
            rows_total: None,
            bytes_done: None,
            bytes_total: None,
            rate_rows: None,
            eta_seconds: None,
            backlog_keys: None,
            lag_bytes: None,
            lag_seconds: None,
            throttle: None,
            detail: None,
        }
    }

    /// The part that is done, 0 to 1: of the bytes where they are known, as those do not rest on an estimate, else of
    /// the rows.
    pub fn fraction(&self) -> Option<f64> {
        let part = |done: Option<u64>, total: Option<u64>| match (done, total) {
            (Some(done), Some(total)) if total > 0 => Some((done as f64 / total as f64).min(1.0)),
            _ => None,
        };
        part(self.bytes_done, self.bytes_total).or_else(|| part(self.rows_done, self.rows_total))
    }
}

/// One thing said. In JSON the name stands in `event`, in snake case. Times are seconds, sizes bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A run began.
    Started {
        /// The migration's number.
        id: i64,
        /// The command's name.
        command: String,
        /// The source, as a person would write it.
        source: String,
        /// As the server gives it: `15.4`.
        server_version: String,
        /// Whether an earlier run had begun it.
        resumed: bool,
    },
    /// A phase began.
    PhaseBegan {
        /// Which.
        phase: Phase,
    },
    /// A phase ended well.
    PhaseEnded {
        /// Which.
        phase: Phase,
        /// How long it took.
        seconds: f64,
    },
    /// How far the phase is. The only event that may be dropped: a later one says it all.
    Progress(Progress),
    /// Copy and flush are held back from now on.
    Throttled {
        /// Signal, what was seen, and the limit.
        reason: String,
    },
    /// Copy and flush go on.
    Unthrottled,
    /// An index build began.
    IndexBegan {
        /// The index.
        name: String,
    },
    /// An index was built.
    IndexEnded {
        /// The index.
        name: String,
        /// How long it took.
        seconds: f64,
    },
    /// The cut-over was tried.
    CutoverAttempt {
        /// From 1.
        number: u32,
        /// What came of it, in a few words.
        outcome: String,
    },
    /// Nothing goes on until somebody else moves.
    Waiting {
        /// Who or what: pid and the head of its query.
        #[serde(rename = "for")]
        on: String,
    },
    /// Worth knowing.
    Notice {
        /// In a sentence.
        text: String,
    },
    /// Worth doing something about.
    Warning {
        /// In a sentence.
        text: String,
    },
    /// Source and targets were compared.
    VerifyResult {
        /// Rows of the source that were compared.
        rows_compared: u64,
        /// Differences that were still there after a flush.
        differences: u64,
        /// Keys that were looked at a second time.
        rechecked: u64,
    },
    /// Source and target were swapped.
    CutOver {
        /// From the request of the lock on the source to its grant.
        lock_wait: f64,
        /// From that grant to the answer to COMMIT.
        write_blocked: f64,
        /// Keys flushed while the lock was held.
        final_keys: u64,
    },
    /// The run is over, well or not.
    Finished {
        /// All of it.
        summary: Box<Summary>,
    },
}

impl Event {
    /// Whether a later event of the same kind makes this one worthless.
    pub(super) fn is_tick(&self) -> bool {
        match self {
            Event::Progress(_) => true,
            Event::Started { .. }
            | Event::PhaseBegan { .. }
            | Event::PhaseEnded { .. }
            | Event::Throttled { .. }
            | Event::Unthrottled
            | Event::IndexBegan { .. }
            | Event::IndexEnded { .. }
            | Event::CutoverAttempt { .. }
            | Event::Waiting { .. }
            | Event::Notice { .. }
            | Event::Warning { .. }
            | Event::VerifyResult { .. }
            | Event::CutOver { .. }
            | Event::Finished { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_believed_before_rows() {
        let mut progress = Progress { rows_done: Some(3), rows_total: Some(4), ..Progress::of(Phase::Copy) };
        assert_eq!(progress.fraction(), Some(0.75));
        progress = Progress { bytes_done: Some(1), bytes_total: Some(2), ..progress };
        assert_eq!(progress.fraction(), Some(0.5));
    }

    #[test]
    fn a_fraction_needs_a_total_and_never_passes_one() {
        assert_eq!(Progress::of(Phase::Ready).fraction(), None);
        let rows =
            |done, total| Progress { rows_done: done, rows_total: total, ..Progress::of(Phase::Copy) }.fraction();
        assert_eq!(rows(Some(1), None), None);
        assert_eq!(rows(Some(0), Some(0)), None);
        assert_eq!(rows(Some(5), Some(4)), Some(1.0));
    }
}
