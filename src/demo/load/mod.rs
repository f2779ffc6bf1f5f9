//! An application's traffic on the table: real connections that time every answer and keep account of every write.
//!
//! It runs on a thread with a runtime of its own, as applications share neither with the migration; else a pause could be
//! the tool's own, and not the table's.

mod client;
mod speaker;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::oneshot;

use self::client::Client;
use self::speaker::Speaker;
use crate::error::Failure;

/// Connections; a third of them each speaks the simple, the extended and the prepared protocol.
pub const CLIENTS: usize = 6;

/// What the client of an application does between two statements takes about as long.
const THINK: Duration = Duration::from_millis(1);

/// The times that are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// No migration yet.
    Before,
    /// It runs.
    During,
    /// It has ended.
    After,
}

impl Stage {
    /// In order.
    pub const ALL: [Stage; 3] = [Stage::Before, Stage::During, Stage::After];

    /// For people, and for JSON.
    pub fn word(self) -> &'static str {
        match self {
            Stage::Before => "before",
            Stage::During => "during",
            Stage::After => "after",
        }
    }
}

/// One answer, and how long it took.
#[derive(Debug, Clone, Copy)]
pub struct Pause {
    /// When the statement was sent.
    pub at: Timestamp,
    /// Until the answer.
    pub took: Duration,
    /// The stage in which it was sent.
    pub stage: Stage,
}

impl Pause {
    /// Whether some of it lies between these times.
    pub fn meets(&self, from: Timestamp, to: Timestamp) -> bool {
        let end = jiff::SignedDuration::try_from(self.took).map_or(self.at, |took| self.at + took);
        self.at <= to && end >= from
    }
}

/// Running traffic; it stops when this is dropped.
pub struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Account>>,
}

/// What the load is told while it runs.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// Index in [`Stage::ALL`].
    stage: AtomicUsize,
}

impl Shared {
    fn stage(&self) -> Stage {
        Stage::ALL[self.stage.load(Ordering::Relaxed)]
    }
}

/// What the clients saw, and what they wrote.
#[derive(Debug, Default)]
pub struct Account {
    /// Statements answered in each stage.
    pub statements: [u64; 3],
    /// Statements that failed, or were answered wrongly.
    pub failed: u64,
    /// What the first of them said.
    pub errors: Vec<String>,
    /// The longest answer that each client got in each tenth of a second.
    pub pauses: Vec<Pause>,
    /// Orders that were put in.
    pub inserted: u64,
    /// Orders that were changed, as often as they were.
    pub updated: u64,
    /// What the orders that a client wrote must be by now, in cents, by key.
    pub book: HashMap<i64, i64>,
}

impl Load {
    /// Connects all clients to the table, which has the keys 1 to `rows`, and starts.
    pub async fn start(dsn: &str, rows: u64) -> Result<Load, Failure> {
        let shared = Arc::<Shared>::default();
        let (tell, told) = oneshot::channel();
        let (dsn, theirs) = (dsn.to_owned(), Arc::clone(&shared));
        let cannot = |e: &dyn std::fmt::Display| Failure::failed(format!("cannot start the load: {e}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| cannot(&e))?;
        let thread = std::thread::Builder::new()
            .name("load".to_owned())
            .spawn(move || runtime.block_on(clients(&dsn, rows, &theirs, tell)))
            .map_err(|e| cannot(&e))?;
        let load = Load { shared, thread: Some(thread) };
        told.await.map_err(|e| cannot(&e))??;
        Ok(load)
    }

    /// From now on the statements count for this stage.
    pub fn enter(&self, stage: Stage) {
        self.shared.stage.store(stage as usize, Ordering::Relaxed);
    }

    /// Lets every client finish its statement, and returns the account.
    pub fn stop(mut self) -> Result<Account, Failure> {
        self.end().ok_or_else(|| Failure::failed("the load broke off"))
    }

    fn end(&mut self) -> Option<Account> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.take()?.join().ok()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

/// All clients, from their connections to the end; `tell` hears when they have begun.
async fn clients(dsn: &str, rows: u64, shared: &Arc<Shared>, tell: oneshot::Sender<Result<(), Failure>>) -> Account {
    let mut account = Account::default();
    let connected = futures_util::future::try_join_all((0..CLIENTS).map(|number| Speaker::connect(dsn, number))).await;
    let speakers = match connected {
        Ok(speakers) => speakers,
        Err(failure) => {
            // Who waits for it is told, or is gone.
            let _ = tell.send(Err(failure));
            return account;
        }
    };
    let running = speakers.into_iter().enumerate().map(|(n, speaker)| Client::new(speaker, n, rows).run(shared));
    // As above.
    let _ = tell.send(Ok(()));
    for client in futures_util::future::join_all(running).await {
        client.enter_into(&mut account);
    }
    account
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millisecond: i64) -> Timestamp {
        Timestamp::from_millisecond(1_700_000_000_000 + millisecond).expect("a time")
    }

    #[test]
    fn a_pause_meets_what_it_overlaps() {
        let pause = Pause { at: at(100), took: Duration::from_millis(50), stage: Stage::During };
        assert!(pause.meets(at(0), at(100)) && pause.meets(at(150), at(200)) && pause.meets(at(110), at(120)));
        assert!(!pause.meets(at(0), at(99)) && !pause.meets(at(151), at(200)));
    }

    #[test]
    fn the_stages_are_in_order() {
        for (index, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, index);
        }
    }
}
