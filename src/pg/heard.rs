//! Notifications that a session hears (PostgreSQL manual, NOTIFY and LISTEN).

use std::time::Duration;

use tokio::sync::watch;

use crate::seams;

/// Wakes whoever waits when the session is notified, of whatever it listens for.
#[derive(Debug, Clone)]
pub struct Heard(watch::Receiver<u64>);

impl Heard {
    /// Nothing heard yet, and where it is counted.
    pub(super) fn nothing() -> (watch::Sender<u64>, Heard) {
        let (sender, receiver) = watch::channel(0);
        (sender, Heard(receiver))
    }

    /// The same for somebody else, who has heard all that came until now.
    pub fn from_now(&self) -> Heard {
        let mut heard = self.0.clone();
        heard.mark_unchanged();
        Heard(heard)
    }

    /// Waits for a notification that came since the last wait or is to come, and no longer than this: one that is sent
    /// while a connection is gone is lost with it, so that whoever waits looks all the same.
    pub async fn or_after(&mut self, most: Duration) {
        let notified = async {
            // The connection is gone, and with it whoever would notify.
            if self.0.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        // Either is a reason to look.
        let _ = tokio::time::timeout(seams::poll(most), notified).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);

    #[tokio::test]
    async fn what_was_said_before_the_wait_is_not_missed() {
        let (sender, heard) = Heard::nothing();
        sender.send_modify(|n| *n += 1);
        let mut later = heard.from_now();
        sender.send_modify(|n| *n += 1);
        later.or_after(LONG).await;
        let waits = tokio::time::timeout(Duration::from_millis(20), later.or_after(LONG)).await;
        assert!(waits.is_err(), "heard twice");
    }

    #[tokio::test]
    async fn without_a_connection_it_is_the_time_that_counts() {
        let (sender, heard) = Heard::nothing();
        drop(sender);
        let waits = tokio::time::timeout(Duration::from_millis(20), heard.from_now().or_after(LONG)).await;
        assert!(waits.is_err(), "it does not wait");
        heard.from_now().or_after(Duration::from_millis(1)).await;
    }
}
