//! What a comparison has read so far, kept in the control schema, so that one that is interrupted goes on.
//!
//! Sums do not depend on the order of reading, so one array and the list of ranges that are in it are all there is to
//! keep: one row, written whole, now and then. It rests on both tables being what they were: their files, the way they
//! are compared, and the server, which must not have been started anew since, for what was read could then be undone by
//! a crash. Where anything of that is another it is thrown away.

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, MutexGuard};

use super::buckets::Sums;
use super::statements::{Blocks, Buckets, Part, Side};
use super::{Keep, Site};
use crate::copy::ranges::BlockRange;
use crate::error::Failure;
use crate::pg::{Conn, Error, Literal, Role};
use crate::report::{Event, numbers};
use crate::retry::Retry;

/// Blocks read between two writings: 128 MiB, so a kill costs a second of work.
const EVERY: u64 = 1 << 14;

/// Bytes read for each byte written, at least.
const READ_FOR_WRITTEN: u64 = 64;

/// The usual size of a block; another one shifts the bounds, nothing else.
const BLOCK: u64 = 8_192;

/// Blocks to be read before sums of this size are kept again.
pub fn every(sums: &Sums) -> u64 {
    EVERY.max(sums.size() * READ_FOR_WRITTEN / BLOCK)
}

/// Block ranges of each table that have been read. Pure.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done(Vec<DoneOf>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct DoneOf {
    side: Side,
    table: usize,
    /// Sorted, apart from each other.
    ranges: Vec<BlockRange>,
}

impl Done {
    /// Adds a range that was not there.
    pub fn add(&mut self, side: Side, table: usize, range: BlockRange) {
        let at = match self.0.iter().position(|d| d.side == side && d.table == table) {
            Some(at) => at,
            None => {
                self.0.push(DoneOf { side, table, ranges: Vec::new() });
                self.0.len() - 1
            }
        };
        let ranges = &mut self.0[at].ranges;
        let place = ranges.partition_point(|(first, _)| *first < range.0);
        ranges.insert(place, range);
        // With those it touches.
        let mut merged: Vec<BlockRange> = Vec::with_capacity(ranges.len());
        for range in ranges.drain(..) {
            match merged.last_mut() {
                Some(last) if last.1 >= range.0 => last.1 = last.1.max(range.1),
                _ => merged.push(range),
            }
        }
        *ranges = merged;
    }

    /// Those of a table, sorted.
    pub fn of(&self, side: Side, table: usize) -> Vec<BlockRange> {
        self.0.iter().find(|d| d.side == side && d.table == table).map(|d| d.ranges.clone()).unwrap_or_default()
    }

    /// Blocks in all of them.
    pub fn blocks(&self) -> u64 {
        self.0.iter().flat_map(|d| &d.ranges).map(|(first, end)| u64::from(end - first)).sum()
    }
}

/// What was read of a level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The sums.
    pub sums: Sums,
    /// What is in them.
    pub done: Done,
    /// Source rows read at the first level.
    pub rows: u64,
}

/// A comparison that an earlier run has begun.
pub struct Begun {
    /// Bits of a bucket's number.
    pub bits: u32,
    /// A bitmap for each level that is known.
    pub within: Vec<Vec<u8>>,
    /// What was read of the next one.
    pub state: State,
    /// When it was begun.
    pub at: String,
}

/// Keeps the comparison of one migration.
pub struct Keeper {
    id: i32,
    connector: crate::pg::Connector,
    basis: String,
    conn: Mutex<Option<Conn>>,
}

impl Keeper {
    /// For a comparison that begins now; also what an earlier run has left, where it still holds.
    ///
    /// # Errors
    /// The server's.
    pub async fn open(site: &Site, keep: &Keep) -> Result<(Keeper, Option<Begun>), Failure> {
        let connector = site.job.connector.clone();
        let mut retry = Retry::new();
        let (conn, basis, found) = loop {
            let read = async {
                let conn = connector.open(Role::Control).await?;
                let basis = basis(site, &conn).await?;
                let found = read(&conn, keep.id, &basis).await?;
                Ok::<_, Error>((conn, basis, found))
            };
            match read.await {
                Ok(read) => break read,
                Err(e) => retry.after(e).await?,
            }
        };
        if let Some(begun) = &found {
            let text = format!(
                "goes on with the comparison begun {}: {} read already",
                begun.at,
                numbers::counted(begun.state.done.blocks(), "block")
            );
            keep.reporter.say(Event::Notice { text });
            site.progress.rows.fetch_add(begun.state.rows, Ordering::Relaxed);
        }
        Ok((Keeper { id: keep.id, connector, basis, conn: Mutex::new(Some(conn)) }, found))
    }

    /// The right to write, unless somebody else has it.
    pub fn turn(&self) -> Option<MutexGuard<'_, Option<Conn>>> {
        self.conn.try_lock().ok()
    }

    /// Writes it down: the whole row in one statement.
    pub async fn keep(
        &self,
        mut turn: MutexGuard<'_, Option<Conn>>,
        bits: u32,
        within: &[Vec<u8>],
        state: &State,
    ) -> Result<(), Failure> {
        let done = serde_json::to_string(&state.done)
            .map_err(|e| Failure::failed(format!("cannot keep the comparison: {e}")))?;
        let (sums, rows, bits) = (state.sums.to_bytes(), state.rows.cast_signed(), bits.cast_signed());
        let sql = "INSERT INTO pgrecast.comparison AS kept (migration, basis, bits, within, done, rows, sums) \
                   VALUES ($1, $2, $3, $4, $5::text::jsonb, $6, $7) ON CONFLICT (migration) DO UPDATE SET \
                   basis = EXCLUDED.basis, bits = EXCLUDED.bits, within = EXCLUDED.within, done = EXCLUDED.done, \
                   rows = EXCLUDED.rows, sums = EXCLUDED.sums, \
                   begun_at = CASE WHEN kept.basis = EXCLUDED.basis THEN kept.begun_at ELSE EXCLUDED.begun_at END";
        self.run(&mut turn, "keep comparison", sql, &[&self.id, &self.basis, &bits, &within, &done, &rows, &sums]).await
    }

    /// The comparison is over.
    pub async fn forget(&self) -> Result<(), Failure> {
        let mut turn = self.conn.lock().await;
        self.run(&mut turn, "forget comparison", "DELETE FROM pgrecast.comparison WHERE migration = $1", &[&self.id])
            .await
    }

    async fn run(
        &self,
        kept: &mut Option<Conn>,
        name: &'static str,
        sql: &str,
        params: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<(), Failure> {
        let mut retry = Retry::new();
        loop {
            let done = async {
                let conn = match kept.take().filter(|conn| !conn.is_closed()) {
                    Some(conn) => conn,
                    None => self.connector.open(Role::Control).await?,
                };
                conn.execute(name, sql, params).await?;
                Ok::<_, Error>(conn)
            };
            match done.await {
                Ok(conn) => {
                    *kept = Some(conn);
                    return Ok(());
                }
                Err(e) => retry.after(e).await?,
            }
        }
    }
}

/// What the sums rest on. A filenode is another after TRUNCATE and after a rewrite. A crash that the postmaster survives
/// discards the statistics (`pgstat_discard_stats`, `src/backend/utils/activity/pgstat.c`), so they begin anew.
async fn basis(site: &Site, conn: &Conn) -> Result<String, Error> {
    let tables: Vec<String> = [Side::Source, Side::Shadow]
        .iter()
        .flat_map(|side| site.tables(*side))
        .map(|table| {
            let table = Literal(&table.to_string()).to_string();
            format!("{table}::regclass::oid || ':' || pg_catalog.pg_relation_filenode({table}::regclass)")
        })
        .collect();
    let sql = format!(
        "SELECT concat_ws(' ', current_setting('server_version_num'), pg_catalog.pg_postmaster_start_time(), \
         (SELECT stats_reset FROM pg_catalog.pg_stat_bgwriter), array_to_string(ARRAY[{}], ' '))",
        tables.join(", ")
    );
    let of_server = conn.scalar("read basis of comparison", &sql).await?.unwrap_or_default();
    let statement = |side| {
        let blocks = Blocks { first: 0, end: None };
        site.statements.digest(Part { side, table: 0, blocks }, Buckets { bits: 1, level: 0 })
    };
    Ok(format!("{of_server}\n{}\n{}\n{}", site.columns, statement(Side::Source), statement(Side::Shadow)))
}

/// What is kept on this basis, and since when.
async fn read(conn: &Conn, id: i32, basis: &str) -> Result<Option<Begun>, Error> {
    let sql = "SELECT bits, within, done::text, rows, sums, to_char(begun_at AT TIME ZONE 'UTC', \
               'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM pgrecast.comparison WHERE migration = $1 AND basis = $2";
    let rows = conn.rows("read comparison", sql, &[&id, &basis]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let broken = |e: tokio_postgres::Error| Error::client("read comparison", e.to_string());
    let bits = row.try_get::<_, i32>(0).map_err(broken)?.cast_unsigned();
    let within: Vec<Vec<u8>> = row.try_get(1).map_err(broken)?;
    let done = serde_json::from_str(row.try_get(2).map_err(broken)?);
    let rows = row.try_get::<_, i64>(3).map_err(broken)?.cast_unsigned();
    let sums = Sums::from_bytes(bits, row.try_get(4).map_err(broken)?);
    let (Ok(done), Some(sums)) = (done, sums) else { return Ok(None) };
    let at: String = row.try_get(5).map_err(broken)?;
    Ok(Some(Begun { bits, within, state: State { sums, done, rows }, at }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_in_any_order_are_those_that_were_read(mut cuts in prop::collection::btree_set(0u32..1_000, 2..40), turn in any::<prop::sample::Index>()) {
            let last = cuts.pop_last().expect("two at least");
            let firsts: Vec<u32> = cuts.iter().copied().collect();
            let ends = firsts.iter().skip(1).copied().chain([last]);
            let mut ranges: Vec<BlockRange> = firsts.iter().copied().zip(ends).collect();
            let left_out = ranges.remove(turn.index(ranges.len()));
            let by = turn.index(ranges.len().max(1));
            ranges.rotate_left(by);
            let mut done = Done::default();
            for range in &ranges {
                done.add(Side::Shadow, 3, *range);
            }
            prop_assert_eq!(done.blocks(), u64::from(last - firsts[0] - (left_out.1 - left_out.0)));
            let of = done.of(Side::Shadow, 3);
            prop_assert!(of.len() <= 2 && of.windows(2).all(|w| w[0].1 < w[1].0));
            prop_assert!(of.iter().all(|(first, end)| *end <= left_out.0 || *first >= left_out.1));
            prop_assert_eq!(done.of(Side::Source, 3), vec![]);
            let text = serde_json::to_string(&done).expect("text");
            prop_assert_eq!(serde_json::from_str::<Done>(&text).expect("the same"), done);
        }
    }
}
