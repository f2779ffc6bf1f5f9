//! What the monitor tells others, and what it remembers for the report.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use crate::cli::MigrateOptions;
use crate::error::Failure;
use crate::report::{Phase, VerifyFigures};

/// What the monitor is told and what it remembers for the report.
#[derive(Debug)]
pub struct Board {
    phase: Mutex<(Phase, Instant)>,
    peaks: Mutex<Peaks>,
    throttled: Mutex<BTreeMap<String, f64>>,
    /// Rows and bytes of the source when the run began, by the catalog's estimate and the file's size.
    pub size: (u64, u64),
    /// How far verification is.
    pub verified: Arc<crate::verify::Progress>,
    figures: Mutex<VerifyFigures>,
    options: Mutex<MigrateOptions>,
    ends: Option<Instant>,
    jobs: watch::Sender<u8>,
    left: watch::Sender<Option<Failure>>,
}

/// The largest values seen.
#[derive(Debug, Default, Clone, Copy)]
pub struct Peaks {
    /// WAL the slot retained, in bytes.
    pub slot_wal: u64,
    /// Replay lag of a standby, in seconds; `None` where there is none.
    pub lag: Option<f64>,
}

impl Board {
    /// Nothing begun.
    pub fn new(size: (u64, u64), options: &MigrateOptions) -> Self {
        Board {
            phase: Mutex::new((Phase::Prepare, Instant::now())),
            peaks: Mutex::default(),
            throttled: Mutex::default(),
            size,
            verified: Arc::default(),
            figures: Mutex::default(),
            options: Mutex::new(options.clone()),
            ends: None,
            jobs: watch::Sender::new(options.jobs),
            left: watch::Sender::new(None),
        }
    }

    /// The same for a run whose time is over then.
    pub fn until(self, ends: Option<Instant>) -> Self {
        Board { ends, ..self }
    }

    /// Whether its time is over.
    pub(super) fn is_spent(&self) -> bool {
        self.ends.is_some_and(|ends| ends <= Instant::now())
    }

    /// Keeps what a comparison came to.
    pub fn compared(&self, figures: VerifyFigures) {
        *self.figures.lock().unwrap_or_else(PoisonError::into_inner) = figures;
    }

    /// The figures of the last comparison.
    pub fn figures(&self) -> VerifyFigures {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A phase begins.
    pub fn enter(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = (phase, Instant::now());
    }

    /// The phase, and since when.
    pub(super) fn phase(&self) -> (Phase, Instant) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The peaks so far.
    pub fn peaks(&self) -> Peaks {
        *self.peaks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn saw(&self, slot_wal: u64, lag: Option<f64>) {
        let mut peaks = self.peaks.lock().unwrap_or_else(PoisonError::into_inner);
        peaks.slot_wal = peaks.slot_wal.max(slot_wal);
        if let Some(lag) = lag {
            peaks.lag = Some(peaks.lag.unwrap_or(0.0).max(lag));
        }
    }

    /// Seconds held back, by signal.
    pub fn throttled(&self) -> BTreeMap<String, f64> {
        self.throttled.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn add_throttled(&self, signal: String, seconds: f64) {
        *self.throttled.lock().unwrap_or_else(PoisonError::into_inner).entry(signal).or_default() += seconds;
    }

    /// The options of the moment: `pgrecast set` changes them.
    pub fn options(&self) -> MigrateOptions {
        self.options.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_options(&self, options: MigrateOptions) {
        self.jobs.send_if_modified(|jobs| std::mem::replace(jobs, options.jobs) != options.jobs);
        *self.options.lock().unwrap_or_else(PoisonError::into_inner) = options;
    }

    /// The number of workers, as it changes.
    pub fn jobs(&self) -> watch::Receiver<u8> {
        self.jobs.subscribe()
    }

    pub(super) fn leave(&self, why: Failure) {
        self.left.send_if_modified(|left| {
            let first = left.is_none();
            left.get_or_insert(why);
            first
        });
    }

    /// Waits until the run is to stop, for a reason that the monitor saw.
    pub async fn left(&self) -> Failure {
        let mut left = self.left.subscribe();
        match left.wait_for(Option::is_some).await.map(|why| why.clone()) {
            Ok(Some(why)) => why,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}
