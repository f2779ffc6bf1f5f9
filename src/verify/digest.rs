//! Both sides as digests per bucket.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::Site;
use super::buckets::{Group, Sums, Suspects};
use super::pass::{self, Pass};
use super::statements::{Buckets, Part, Side};
use crate::error::Failure;

struct Digest<'a> {
    site: &'a Site,
    bits: u32,
    within: &'a [Vec<u8>],
    sums: Mutex<Sums>,
}

/// Reads both sides and says which buckets differ. `within` has a bitmap for each level that is already known; only
/// rows of those buckets count, and they are divided anew.
///
/// # Errors
/// As [`pass::run`].
pub async fn run(site: &Site, bits: u32, within: &[Vec<u8>]) -> Result<Suspects, Failure> {
    let digest = Digest { site, bits, within, sums: Mutex::new(Sums::new(bits)) };
    pass::run(site, &[Side::Source, Side::Shadow], &digest).await?;
    Ok(digest.sums.into_inner().unwrap_or_else(PoisonError::into_inner).suspects())
}

impl Pass for Digest<'_> {
    type Item = Group;
    const NAME: &'static str = "digest chunk";

    fn sql(&self, part: Part) -> String {
        let level = u32::try_from(self.within.len()).unwrap_or(0);
        self.site.statements.digest(part, Buckets { bits: self.bits, level })
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

    fn merge(&self, side: Side, groups: Vec<Group>) {
        if side == Side::Source && self.within.is_empty() {
            self.site.progress.rows.fetch_add(groups.iter().map(|g| g.rows).sum(), Ordering::Relaxed);
        }
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        for group in groups {
            sums.add(side, group);
        }
    }
}
