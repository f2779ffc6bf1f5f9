//! One flusher: a connection that takes a batch, flushes it, and says what is left of it.

use tokio::sync::mpsc;

use super::{Conflicts, Flusher};
use crate::drift;
use crate::error::Failure;
use crate::pg::{Connector, Role};
use crate::plan::types::{Names, Plan};
use crate::retry::Retry;
use crate::stream::Key;

/// Keys for one flusher, each with the latest transaction known to have changed it.
pub struct Batch {
    /// Which flusher's partition they belong to.
    pub partition: usize,
    /// The keys.
    pub keys: Vec<Key>,
    /// Their transactions, in the same order; 0 for one known to be visible.
    pub xids: Vec<u64>,
}

/// What became of a batch.
pub struct Outcome {
    /// Its partition.
    pub partition: usize,
    /// Keys in it.
    pub size: usize,
    /// What is not settled yet.
    pub result: Result<Settled, Failure>,
}

/// Keys of a batch that stay in the journal.
#[derive(Default)]
pub struct Settled {
    /// Their last change was not visible yet (rule 5).
    pub unseen: Vec<usize>,
    /// They met a stale neighbour (rule 7).
    pub conflicts: Conflicts,
}

/// Works through batches until the channel closes.
pub async fn worker(
    connector: Connector,
    plan: std::sync::Arc<Plan>,
    names: Names,
    columns: String,
    mut batches: mpsc::Receiver<Batch>,
    outcomes: mpsc::Sender<Outcome>,
) {
    let mut flusher = None;
    while let Some(batch) = batches.recv().await {
        let result = flush(&connector, &plan, &names, &columns, &mut flusher, &batch).await;
        let outcome = Outcome { partition: batch.partition, size: batch.keys.len(), result };
        if outcomes.send(outcome).await.is_err() {
            return;
        }
    }
}

async fn flush(
    connector: &Connector,
    plan: &Plan,
    names: &Names,
    columns: &str,
    kept: &mut Option<Flusher>,
    batch: &Batch,
) -> Result<Settled, Failure> {
    let mut retry = Retry::new();
    loop {
        let opened = match kept.take() {
            Some(flusher) => Ok(flusher),
            None => match connector.open(Role::Flusher).await {
                Ok(conn) => Flusher::new(conn, plan, names, columns).await,
                Err(e) => Err(e),
            },
        };
        let flusher = match opened {
            Ok(flusher) => flusher,
            Err(e) => {
                retry.after(e).await?;
                continue;
            }
        };
        match flusher.flush(&batch.keys).await {
            Ok(flushed) => {
                *kept = Some(flusher);
                let unseen = flushed.snapshot.unseen(&batch.xids);
                return Ok(Settled { unseen, conflicts: flushed.conflicts });
            }
            Err(e) if e.message == drift::DRIFTED => return Err(drift::changed(&plan.source)),
            Err(e) if e.is_data() => return Err(super::blame::find(&flusher, plan, names, &batch.keys, &e).await),
            Err(e) => {
                if !e.connection_lost {
                    *kept = Some(flusher);
                }
                retry.after(e).await?;
            }
        }
    }
}
