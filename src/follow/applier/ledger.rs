//! What may be acknowledged (rule 9): a position is told to the slot once all that it rests on is on the disk.

use std::time::Instant;

use super::{Applier, Mode};
use crate::error::Failure;
use crate::journal::outstanding_from;
use crate::pg::{Literal, Lsn};
use crate::retry::Retry;
use crate::standby;

impl Applier {
    /// What of the stream is journaled or flushed, as far as this task knows.
    fn done_up_to(&self) -> Lsn {
        let unwritten = !self.pending.is_empty() || self.writing.is_some();
        let journaled = match self.mode {
            Mode::Journal | Mode::Drain(_) => unwritten.then_some(self.journaled_end),
            Mode::Live => None,
        };
        outstanding_from(self.last_end, journaled, self.backlog.hold())
    }

    pub(super) async fn look_at_wal(&mut self) -> Result<(), Failure> {
        let done = self.done_up_to();
        let sql = self.look_sql(done);
        let mut retry = Retry::new();
        let rows = loop {
            match self.conn.simple("look at WAL", &sql).await {
                Ok(rows) => break rows,
                Err(e) => self.mend(e, &mut retry).await?,
            }
        };
        let row = rows.into_iter().next().unwrap_or_default();
        let text = |i: usize| row.get(i).cloned().flatten().unwrap_or_default();
        let lsn = |i: usize| text(i).parse::<Lsn>().map_err(|e| Failure::failed(e.to_string()));
        if text(3) != "t" {
            return Err(self.job.published().changed(&self.conn).await);
        }
        self.near_xid = self.near_xid.max(text(2).parse().unwrap_or(0));
        self.looked_at_wal = Instant::now();
        self.ledger.committed(done, lsn(0)?);
        let standbys = if self.job.failover { standby::parse(&text(4))? } else { Vec::new() };
        self.ledger.flushed(standby::on_every_disk(lsn(1)?, &standbys));
        self.tell_of(&standbys);
        let safe = self.ledger.safe();
        self.safe.send_if_modified(|known| {
            let news = safe > *known;
            if news {
                *known = safe;
            }
            news
        });
        Ok(())
    }

    /// Reads where the WAL is. Where the slot is kept on standbys it first notes, in the WAL and behind all that it speaks
    /// of, what is done: a standby that was promoted holds the slot against that (`crate::slot`).
    fn look_sql(&self, done: Lsn) -> String {
        let look = format!(
            "SELECT pg_current_wal_insert_lsn()::text, pg_current_wal_flush_lsn()::text, \
             pg_snapshot_xmax(pg_current_snapshot())::text, {}",
            self.job.published().unchanged_sql()
        );
        if !self.job.failover {
            return look;
        }
        format!(
            "BEGIN; UPDATE pgrecast.slot SET done = '{done}' WHERE migration = {} AND name = {} AND done < '{done}'; COMMIT; \
             {look}, {}",
            self.job.id,
            Literal(&self.job.slot),
            standby::NAMED
        )
    }

    /// Says once that a standby is away, for the stream waits for it then.
    fn tell_of(&mut self, standbys: &[standby::Standby]) {
        use crate::report::Event;
        let news = match standby::silent(standbys) {
            Some(slots) => Some(Event::Waiting {
                on: format!("the standby of {slots}: until it streams, the server sends no change (synchronized_standby_slots)"),
            }),
            None if self.job.failover && standbys.is_empty() => Some(Event::Warning {
                text: "synchronized_standby_slots names no standby: after a failover this migration may have to begin anew"
                    .to_owned(),
            }),
            None => None,
        };
        if news != self.standbys_said {
            self.standbys_said.clone_from(&news);
            news.into_iter().for_each(|event| self.job.reporter.say(event));
        }
    }

    /// Makes what was received durable. The flushers' last batches are left to themselves: what they were to write
    /// stays unacknowledged.
    pub(super) async fn leave(&mut self) -> Result<(), Failure> {
        self.write_journal().await?;
        self.look_at_wal().await
    }
}
