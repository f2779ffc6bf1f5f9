//! What holds copy, index builds and flush back. Receiving the stream is never throttled.

use std::time::Duration;

use tokio::sync::watch;

/// The workers' side: passes while nothing holds them back.
#[derive(Clone)]
pub struct Throttle {
    reason: watch::Receiver<Option<String>>,
    nice: f64,
}

/// The deciding side.
pub struct Gate {
    reason: watch::Sender<Option<String>>,
}

/// A gate and what passes through it: nothing, until the signals have been looked at. `nice` is the seconds of rest for
/// each second of work.
pub fn throttle(nice: f64) -> (Gate, Throttle) {
    let (sender, reason) = watch::channel(Some("signals unknown: not looked at yet".to_owned()));
    (Gate { reason: sender }, Throttle { reason, nice })
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
        // The gate lives as long as the run; without it nothing is held back.
        let _ = reason.wait_for(Option::is_none).await;
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
}
