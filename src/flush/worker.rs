//! One flusher: a connection that takes a batch, flushes it, and says what is left of it.

use std::ops::Range;

use tokio::sync::mpsc;

use super::{Conflicts, Flushed, Flusher};
use crate::drift;
use crate::error::Failure;
use crate::pg::{Connector, Error, Role};
use crate::plan::parts::misplaced;
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
    /// Its keys.
    pub keys: Vec<Key>,
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
    /// Their rows do not fit, each with the reason.
    pub unfit: Vec<(usize, Failure)>,
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
        let outcome = Outcome { partition: batch.partition, keys: batch.keys, result };
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
                Ok(conn) => Flusher::new(conn.into(), plan, names, columns).await,
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
        let flushed = flusher.flush(&batch.keys).await;
        if let Some(failure) = flushed.as_ref().err().and_then(misplaced) {
            return Err(failure);
        }
        match flushed {
            Ok(flushed) => {
                *kept = Some(flusher);
                let mut settled = Settled::default();
                settled.add(plan, flushed, batch, 0..batch.keys.len());
                return Ok(settled);
            }
            Err(e) if e.message == drift::DRIFTED => return Err(drift::changed(&plan.source)),
            Err(e) if e.is_data() => match sift(&flusher, plan, names, batch).await {
                Ok(settled) => {
                    *kept = Some(flusher);
                    return Ok(settled);
                }
                Err(e) => match misplaced(&e) {
                    Some(failure) => return Err(failure),
                    None => retry.after(e).await?,
                },
            },
            Err(e) => {
                if !e.connection_lost {
                    *kept = Some(flusher);
                }
                retry.after(e).await?;
            }
        }
    }
}

impl Settled {
    /// Adds what became of the keys at these positions of the batch.
    fn add(&mut self, plan: &Plan, flushed: Flushed, batch: &Batch, positions: Range<usize>) {
        let first = positions.start;
        let unseen = flushed.snapshot.unseen(&batch.xids[positions]);
        let strays = flushed.strays.into_iter().filter(|(i, _)| !unseen.contains(i));
        self.unfit.extend(strays.map(|(i, why)| (first + i, super::blame::stray(plan, &batch.keys[first + i], &why))));
        self.unseen.extend(unseen.into_iter().map(|i| first + i));
        self.unseen.extend(flushed.waiting.into_iter().map(|i| first + i));
        self.conflicts.positions.extend(flushed.conflicts.positions.into_iter().map(|i| first + i));
        if let Some(error) = flushed.conflicts.error {
            self.conflicts.error.get_or_insert(error);
        }
    }
}

/// Flushes a batch of which some row does not fit: half by half, down to the rows that do not.
async fn sift(flusher: &Flusher, plan: &Plan, names: &Names, batch: &Batch) -> Result<Settled, Error> {
    let mut settled = Settled::default();
    let mut parts = vec![(0, batch.keys.len())];
    while let Some((start, end)) = parts.pop() {
        let part = start..end;
        let alone = part.len() == 1;
        // What this sees, the flush sees.
        let sees = match alone {
            true => flusher.sees(batch.xids[part.start]).await?,
            false => true,
        };
        match flusher.flush(&batch.keys[part.clone()]).await {
            Ok(flushed) => settled.add(plan, flushed, batch, part),
            // What the source has no more, a table that cannot even hold the key has not either.
            Err(e) if e.is_data() && alone && sees && !flusher.source_has(plan, &batch.keys[part.start]).await? => {
                tracing::debug!(error = %e, "a key without a row");
            }
            // Another version of the row is still to be seen.
            Err(e) if e.is_data() && alone && !sees => settled.unseen.push(part.start),
            Err(e) if e.is_data() && alone => {
                let why = super::blame::describe(flusher, plan, names, &batch.keys[part.start], &e).await;
                settled.unfit.push((part.start, why));
            }
            Err(e) if e.is_data() => {
                let middle = part.start + part.len() / 2;
                parts.push((middle, end));
                parts.push((start, middle));
            }
            Err(e) => return Err(e),
        }
    }
    Ok(settled)
}
