//! What the stream brings: keys to the backlog or the journal, barriers to whoever waits for them, TRUNCATE to the shadow.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{Applier, MEMORY_BYTES, Mode, Waiter};
use crate::drift;
use crate::error::Failure;
use crate::flush;
use crate::pg::{Error, Lsn};
use crate::plan::types::Layout;
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
                Event::Values { relation, keys, xid } => self.values_changed(relation, &keys, xid).await?,
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
                if self.pending.insert(key, xid).is_none() {
                    self.pace.count();
                }
            }
            Mode::Live => {
                self.gathering_since.get_or_insert_with(Instant::now);
                if self.backlog.add(key, xid, self.last_end) {
                    self.pace.count();
                }
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
        for oid in relations {
            self.job.copy.end(*oid);
        }
        self.touched.clone_from(&self.watched);
        if self.job.plan.rejoin.is_some() {
            return self.emptied().await;
        }
        let mut retry = Retry::new();
        loop {
            let sql = self.emptying(relations).await;
            let emptied = match &sql {
                Ok(sql) => self.conn.batch("empty shadow", sql).await,
                Err(Unknown::Asking(e)) => Err(e.clone()),
                Err(Unknown::Gone) => return Err(drift::changed(&self.job.plan.source)),
            };
            match emptied {
                Ok(()) => return Ok(()),
                Err(e) => self.mend(e, &mut retry).await?,
            }
        }
    }

    /// The transaction that takes the rows of these tables out of the shadow.
    async fn emptying(&self, relations: &[u32]) -> Result<String, Unknown> {
        let (plan, names) = (&self.job.plan, &self.job.names);
        let all = plan.leaves();
        let leaves: Vec<_> = all.iter().filter(|leaf| relations.contains(&leaf.shape.oid)).collect();
        let oids: Vec<String> = leaves.iter().map(|leaf| leaf.shape.oid.to_string()).collect();
        let empty = match plan.layout {
            Layout::Made if leaves.len() < all.len() => {
                let shadow = names.shadow();
                let mut steps = vec![format!("LOCK TABLE {shadow} IN SHARE ROW EXCLUSIVE MODE")];
                for oid in &oids {
                    let rows = self.bounds(oid).await?;
                    steps.push(format!("DELETE FROM {shadow} WHERE {rows}"));
                }
                steps.join("; ")
            }
            Layout::Made | Layout::Kept => {
                let mut shadows: Vec<String> = leaves.iter().map(|l| plan.destination(l, names).to_string()).collect();
                shadows.dedup();
                shadows.extend((0..plan.parts.len()).map(|n| names.of_part(n).shadow().to_string()));
                format!("TRUNCATE {}", shadows.join(", "))
            }
        };
        let aside = plan.forget_truncated_sql(names).map(|sql| format!("{sql}; ")).unwrap_or_default();
        Ok(format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = 0; {empty}; {aside}UPDATE pgrecast.leaf SET copy_over = true \
             WHERE migration = {} AND relation IN ({}); COMMIT",
            self.job.id,
            oids.join(", ")
        ))
    }

    /// What all rows of a partition have in common, and no other: the target's tables do not tell.
    async fn bounds(&self, oid: &str) -> Result<String, Unknown> {
        let sql = format!(
            "SELECT coalesce(pg_catalog.pg_get_partition_constraintdef(c.oid), 'true') FROM pg_catalog.pg_class c \
             WHERE c.oid = {oid} AND c.relispartition"
        );
        self.conn.scalar("read bounds", &sql).await?.ok_or(Unknown::Gone)
    }
}

/// Why it is not known which rows a TRUNCATE took.
enum Unknown {
    /// The server's.
    Asking(Error),
    /// It was a partition's, which is none any more.
    Gone,
}

impl From<Error> for Unknown {
    fn from(error: Error) -> Self {
        Unknown::Asking(error)
    }
}
