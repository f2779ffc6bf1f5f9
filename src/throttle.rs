//! What holds work back: the throttle's signals, a pause that somebody asked for, and the hours of the windows. Receiving
//! the stream is never held back.

use std::time::{Duration, Instant};

use tokio::sync::watch;

/// Why work is held back at the moment, by the kinds of work that it concerns.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Held {
    /// A signal of the throttle, or a pause: copy, index builds, flush and comparison.
    pub signal: Option<String>,
    /// Hours without work: copy, index builds and comparison.
    pub closed: Option<String>,
    /// Hours without a cut-over, or a pause.
    pub no_cutover: Option<String>,
    /// Seconds of rest for each second of work.
    pub nice: f64,
}

/// What is held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What keeps the shadow in step: flushes.
    Flush,
    /// What reads or writes a whole table: copy, index builds, comparison.
    Bulk,
    /// The swap.
    Cutover,
}

impl Held {
    /// Why this kind of work is held back, if so.
    pub fn why(&self, work: Kind) -> Option<&str> {
        match work {
            Kind::Flush => self.signal.as_deref(),
            Kind::Bulk => self.signal.as_deref().or(self.closed.as_deref()),
            Kind::Cutover => self.no_cutover.as_deref(),
        }
    }
}

/// The workers' side: passes while nothing holds them back.
#[derive(Clone)]
pub struct Throttle {
    held: watch::Receiver<Held>,
    work: Kind,
}

/// The deciding side.
pub struct Gate {
    held: watch::Sender<Held>,
}

/// A gate and what passes through it, for flushes: nothing, until the signals have been looked at.
pub fn throttle(nice: f64) -> (Gate, Throttle) {
    let unknown = || Some("signals unknown: not looked at yet".to_owned());
    let (sender, held) = watch::channel(Held { signal: unknown(), no_cutover: unknown(), closed: None, nice });
    (Gate { held: sender }, Throttle { held, work: Kind::Flush })
}

impl Gate {
    /// Sets what holds work back.
    pub fn set(&self, held: Held) {
        self.held.send_if_modified(|now| {
            let changed = *now != held;
            *now = held;
            changed
        });
    }

    /// What held work back last.
    pub fn last(&self) -> Held {
        self.held.borrow().clone()
    }
}

impl Throttle {
    /// The same for another kind of work.
    pub fn of(&self, work: Kind) -> Throttle {
        Throttle { held: self.held.clone(), work }
    }

    /// Waits until nothing holds work back.
    pub async fn pass(&self) {
        let mut held = self.held.clone();
        if held.borrow().why(self.work).is_none() {
            return;
        }
        // The gate lives as long as the run; without it nothing is held back.
        let _ = held.wait_for(|held| held.why(self.work).is_none()).await;
    }

    /// Rests after a piece of work of this length; shorter or longer where that is changed meanwhile.
    pub async fn rest(&self, worked: Duration) {
        let begun = Instant::now();
        let mut held = self.held.clone();
        loop {
            let left = worked.mul_f64(held.borrow_and_update().nice).saturating_sub(begun.elapsed());
            if left.is_zero() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(left) => return,
                changed = held.changed() => match changed {
                    Ok(()) => {}
                    // The gate lives as long as the run.
                    Err(_) => return,
                },
            }
        }
    }

    /// Whether there is rest between pieces of work: then they are small ones, and each is one process, for what a piece takes
    /// from the application it takes all at once.
    pub fn is_gentle(&self) -> bool {
        self.nice() > 0.0
    }

    /// Seconds of rest for each second of work.
    pub fn nice(&self) -> f64 {
        self.held.borrow().nice
    }

    /// The reason of the moment.
    pub fn reason(&self) -> Option<String> {
        self.held.borrow().why(self.work).map(str::to_owned)
    }
}
