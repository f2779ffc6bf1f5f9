//! Both sides as digests per bucket.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::Site;
use super::buckets::{Group, Sums, Suspects};
use super::kept::{self, Done, Keeper, State};
use super::pass::{self, Pass};
use super::statements::{Buckets, Part, Side, Statements};
use crate::copy::ranges::BlockRange;
use crate::error::Failure;

struct Digest<'a> {
    site: &'a Site,
    bits: u32,
    within: &'a [Vec<u8>],
    keeper: Option<&'a Keeper>,
    sums: Mutex<Both>,
}

/// What was read, apart by whether it is worth keeping. The last range of a table is open: rows that come to stand
/// behind it would be read twice if it were kept, and what is read twice on both sides cancels out.
struct Both {
    closed: State,
    open: Sums,
    /// Blocks read since it was kept.
    unkept: u64,
}

/// Reads both sides and says which buckets differ. `within` has a bitmap for each level that is already known; only
/// rows of those buckets count, and they are divided anew. `begun` is what an earlier run has read of this level.
///
/// # Errors
/// As [`pass::run`], and those of keeping.
pub async fn run(
    site: &Site,
    bits: u32,
    within: &[Vec<u8>],
    begun: Option<State>,
    keeper: Option<&Keeper>,
) -> Result<Suspects, Failure> {
    let closed = begun.unwrap_or_else(|| State { sums: Sums::new(bits), done: Done::default(), rows: site.rows() });
    let sums = Mutex::new(Both { closed, open: Sums::new(bits), unkept: 0 });
    let digest = Digest { site, bits, within, keeper, sums };
    pass::run(site, &[Side::Source, Side::Shadow], &digest).await?;
    // So that the level is not begun again if the run ends in the next.
    digest.keep(1).await?;
    let Both { mut closed, open, .. } = digest.sums.into_inner().unwrap_or_else(PoisonError::into_inner);
    closed.sums.absorb(&open);
    Ok(closed.sums.suspects())
}

impl Digest<'_> {
    fn sums(&self) -> MutexGuard<'_, Both> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what was read where that is so much, and no other worker is at it.
    async fn keep(&self, least: u64) -> Result<(), Failure> {
        let Some(keeper) = self.keeper else { return Ok(()) };
        let Some(turn) = keeper.turn() else { return Ok(()) };
        let state = {
            let mut both = self.sums();
            // What a whole table holds that is not worth keeping is not kept at its end either.
            let worth = both.unkept >= least && (both.closed.done.blocks() >= kept::every(&both.closed.sums));
            if !worth {
                return Ok(());
            }
            both.unkept = 0;
            both.closed.clone()
        };
        keeper.keep(turn, self.bits, self.within, &state).await
    }
}

impl Pass for Digest<'_> {
    type Item = Group;
    const NAME: &'static str = "digest chunk";

    fn sql(&self, statements: &Statements, part: Part) -> String {
        let level = u32::try_from(self.within.len()).unwrap_or(0);
        statements.digest(part, Buckets { bits: self.bits, level })
    }

    fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.within.iter().map(|bitmap| bitmap as &(dyn ToSql + Sync)).collect()
    }

    fn read(&self, _: Side, row: &Row) -> Result<Group, tokio_postgres::Error> {
        Ok(Group {
            bucket: row.try_get::<_, i32>(0)?.cast_unsigned(),
            rows: row.try_get::<_, i64>(1)?.cast_unsigned(),
            digest: row.try_get::<_, i64>(2)?.cast_unsigned(),
        })
    }

    fn merge(&self, part: Part, groups: Vec<Group>) {
        let counts = part.side == Side::Source && self.within.is_empty();
        let rows = if counts { groups.iter().map(|g| g.rows).sum() } else { 0 };
        self.site.progress.rows.fetch_add(rows, Ordering::Relaxed);
        let mut both = self.sums();
        let sums = match part.blocks.end {
            Some(end) => {
                both.unkept += u64::from(end - part.blocks.first);
                both.closed.rows += rows;
                both.closed.done.add(part.side, part.table, (part.blocks.first, end));
                &mut both.closed.sums
            }
            None => &mut both.open,
        };
        for group in groups {
            sums.add(part.side, group);
        }
    }

    fn done(&self, side: Side, table: usize) -> Vec<BlockRange> {
        self.sums().closed.done.of(side, table)
    }

    async fn merged(&self) -> Result<(), Failure> {
        let every = kept::every(&self.sums().closed.sums);
        self.keep(every).await
    }
}
