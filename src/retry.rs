//! Tries again what may succeed later: a bounded number of times, with growing pauses.

use std::time::Duration;

use crate::error::Failure;
use crate::pg::{Error, Verdict};

/// Attempts in a row before giving up.
const ATTEMPTS: u32 = 60;

/// So many in a row are more than a moment's trouble, and the user is told.
const WORTH_A_WORD: u32 = 6;

/// The longest pause.
const LONGEST: Duration = Duration::from_secs(5);

/// Does it again while somebody's lock is in the way. A lost connection is not for here: `work` may be all that uses it.
pub async fn past_locks<T>(mut work: impl AsyncFnMut() -> Result<T, Failure>) -> Result<T, Failure> {
    let mut retry = Retry::new();
    loop {
        match work().await {
            Err(failure) if failure.source.as_ref().is_some_and(|e| e.verdict() == Verdict::Retry) => {
                retry.after_failure(failure).await?;
            }
            ended => return ended,
        }
    }
}

/// Counts failures in a row.
#[derive(Debug, Default)]
pub struct Retry {
    failures: u32,
}

impl Retry {
    /// None so far.
    pub fn new() -> Self {
        Retry::default()
    }

    /// It worked.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Pauses where the error may pass, and gives it back where it will not or has come too often.
    pub async fn after(&mut self, error: Error) -> Result<(), Failure> {
        match error.verdict() {
            Verdict::Retry | Verdict::Reconnect => self.after_any(error).await,
            Verdict::Stop => Err(error.into()),
        }
    }

    /// The same where the error behind a failure may pass; a failure of our own will not.
    pub async fn after_failure(&mut self, failure: Failure) -> Result<(), Failure> {
        match failure.source.clone() {
            Some(error) if error.verdict() != Verdict::Stop => self.after(*error).await,
            Some(_) | None => Err(failure),
        }
    }

    /// The same, whatever the error.
    pub async fn after_any(&mut self, error: Error) -> Result<(), Failure> {
        self.failures += 1;
        if self.failures >= ATTEMPTS {
            return Err(Failure::from(error)
                .hint(format!("It was tried {} times; run the same command again to go on.", ATTEMPTS)));
        }
        match self.failures % WORTH_A_WORD {
            0 => tracing::warn!(failures = self.failures, %error, "trying again"),
            _ => tracing::info!(failures = self.failures, %error, "trying again"),
        }
        let pause = Duration::from_millis(20).saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
        Ok(())
    }
}
