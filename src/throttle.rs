//! What holds copy, index builds and flush back. Receiving the stream is never throttled.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// The workers' side: passes while nothing holds them back.
#[derive(Clone)]
pub struct Throttle {
    reason: watch::Receiver<Option<String>>,
    nice: f64,
    held_micros: Arc<AtomicU64>,
}

/// The deciding side.
pub struct Gate {
    reason: watch::Sender<Option<String>>,
}

/// A gate and what passes through it: nothing, until the signals have been looked at. `nice` is the seconds of rest for
/// each second of work.
pub fn throttle(nice: f64) -> (Gate, Throttle) {
    let (sender, reason) = watch::channel(Some("signals unknown: not looked at yet".to_owned()));
    (Gate { reason: sender }, Throttle { reason, nice, held_micros: Arc::default() })
}

impl Gate {
    /// Sets the reason to hold work back, or `None` to let it go on.
    pub fn set(&self, reason: Option<String>) {
        self.reason.send_replace(reason);
    }
}

impl Throttle {
    /// Waits until nothing holds work back.
    pub async fn pass(&self) {
        let mut reason = self.reason.clone();
        if reason.borrow().is_none() {
            return;
        }
        let begun = Instant::now();
        // The gate lives as long as the run; without it nothing is held back.
        let _ = reason.wait_for(Option::is_none).await;
        self.held_micros.fetch_add(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Rests after a piece of work of this length.
    pub async fn rest(&self, worked: Duration) {
        if self.nice > 0.0 {
            tokio::time::sleep(worked.mul_f64(self.nice)).await;
        }
    }

    /// The reason of the moment.
    pub fn reason(&self) -> Option<String> {
        self.reason.borrow().clone()
    }

    /// Time that workers have been held back, added up over them.
    pub fn held(&self) -> Duration {
        Duration::from_micros(self.held_micros.load(Ordering::Relaxed))
    }
}
