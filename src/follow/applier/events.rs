//! What the stream brings: keys to the backlog or the journal, barriers to whoever waits for them, TRUNCATE to the shadow.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{Applier, MEMORY_BYTES, Mode, Waiter};
use crate::error::Failure;
use crate::flush;
use crate::pg::Lsn;
use crate::retry::Retry;
use crate::stream::{Event, Key};

impl Applier {
    pub(super) async fn take(&mut self, events: Vec<Event>) -> Result<(), Failure> {
        for event in events {
            match event {
                Event::Changes { xid, keys, commit_end, .. } => {
                    let xid = flush::widen(xid, self.near_xid);
                    self.near_xid = self.near_xid.max(xid);
                    self.view.journaled.fetch_add(keys.len() as u64, Ordering::Relaxed);
                    for key in keys {
                        self.note(key, xid);
                    }
                    self.last_end = self.last_end.max(commit_end.unwrap_or(Lsn::ZERO));
                }
                Event::Truncated { relations, .. } => self.truncate(&relations).await?,
                Event::Barrier { token, .. } => self.barrier(&token).await?,
                Event::Schema(_) => {}
                Event::Empty { commit_end } => self.last_end = self.last_end.max(commit_end),
            }
        }
        if matches!(self.mode, Mode::Live) && self.backlog.bytes() > MEMORY_BYTES {
            self.back_to_table().await?;
        }
        Ok(())
    }

    fn note(&mut self, key: Key, xid: u64) {
        if self.watched.contains(&key) {
            self.touched.insert(key.clone());
        }
        match self.mode {
            Mode::Journal | Mode::Drain(_) => {
                if self.pending.is_empty() {
                    self.pending_since = Instant::now();
                }
                self.pending.insert(key, xid);
            }
            Mode::Live => {
                self.gathering_since.get_or_insert_with(Instant::now);
                self.backlog.add(key, xid, self.last_end);
            }
        }
    }

    async fn barrier(&mut self, token: &str) -> Result<(), Failure> {
        match self.barriers.remove(token) {
            Some(Waiter::Settle(reply)) => {
                self.settling.push((self.backlog.mark(), reply));
                self.answer_settled();
            }
            Some(Waiter::Drain(reply)) => {
                // A transaction larger than the memory may have come since the look before the lock.
                let _ = reply.send(matches!(self.mode, Mode::Live).then(|| self.backlog.outstanding()));
            }
            None => {}
        }
        Ok(())
    }

    /// Rule 8: TRUNCATE empties the shadow, or those of the partitions it was about, and ends their copy. On the shadow
    /// only workers of ours hold locks, so nobody queues behind the wait for the last of them, be it an index build.
    async fn truncate(&mut self, relations: &[u32]) -> Result<(), Failure> {
        let (plan, names) = (&self.job.plan, &self.job.names);
        let leaves = plan.leaves().into_iter().filter(|leaf| relations.contains(&leaf.shape.oid));
        let (oids, shadows): (Vec<String>, Vec<String>) =
            leaves.map(|leaf| (leaf.shape.oid.to_string(), plan.destination(&leaf, names).to_string())).unzip();
        let aside = plan.forget_truncated_sql(names).map(|sql| format!("{sql}; ")).unwrap_or_default();
        let sql = format!(
            "BEGIN; SET LOCAL lock_timeout = 0; TRUNCATE {}; {aside}UPDATE pgrecast.leaf SET copy_over = true WHERE migration = {} AND relation IN ({}); COMMIT",
            shadows.join(", "),
            self.job.id,
            oids.join(", ")
        );
        for oid in relations {
            self.job.copy.end(*oid);
        }
        self.touched.clone_from(&self.watched);
        let mut retry = Retry::new();
        while let Err(e) = self.conn.batch("empty shadow", &sql).await {
            self.mend(e, &mut retry).await?;
        }
        Ok(())
    }
}
