//! Compares what sums of digests cannot: a part of which a source row has any number of rows, and the new tables of one that
//! was taken apart, as one source.
//!
//! The rows of one key in such a part are not told apart by anything, and may be equal, so sums would not show all that
//! differs; and the rows of a query stand in no blocks. Both sides of a key are looked at in one snapshot instead: block
//! range by block range of one side, what the projection gives is held against what there is; block range by block range of
//! the other, each key must be one that the first has. What differs there is a candidate as any other.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::drill::{self, Candidates};
use super::pass::{self, Pass};
use super::statements::{Part, Side, Statements};
use super::{SLICE_ROWS, Site};
use crate::error::Failure;
use crate::stream::Key;

/// Keys whose rows seem to differ.
///
/// # Errors
/// As [`pass::run`]; more keys than can be kept.
pub async fn candidates(site: &Site) -> Result<Candidates, Failure> {
    let keys = Keys { site, found: Mutex::default() };
    pass::run(site, &[Side::Source, Side::Shadow], &keys).await?;
    let mut source = keys.found.into_inner().unwrap_or_else(PoisonError::into_inner);
    source.sort_unstable();
    source.dedup();
    Ok(Candidates { source, shadow: Vec::new() })
}

struct Keys<'a> {
    site: &'a Site,
    found: Mutex<Vec<Key>>,
}

/// What a row of an answer says.
enum Said {
    /// So many rows were read.
    Read(u64),
    /// This key seems to differ.
    Differs(Option<Key>),
}

impl Pass for Keys<'_> {
    type Item = Said;
    const NAME: &'static str = "compare rows of keys";

    fn sql(&self, statements: &Statements, part: Part) -> String {
        statements.by_key(part)
    }

    fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        Vec::new()
    }

    fn read(&self, _: Side, row: &Row) -> Result<Said, tokio_postgres::Error> {
        Ok(match row.try_get::<_, Option<i64>>(0)? {
            Some(count) => Said::Read(count.cast_unsigned()),
            None => Said::Differs(drill::key(row, 1)?),
        })
    }

    fn merge(&self, _: Part, said: Vec<Said>) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        for said in said {
            match said {
                Said::Read(count) => drop(self.site.progress.rows.fetch_add(count, Ordering::Relaxed)),
                Said::Differs(key) => found.extend(key),
            }
        }
    }

    async fn merged(&self) -> Result<(), Failure> {
        let count = self.found.lock().unwrap_or_else(PoisonError::into_inner).len() as u64;
        match count > SLICE_ROWS {
            true => Err(Failure::failed(format!("the rows of more than {SLICE_ROWS} keys seem to differ at once"))
                .hint("Under less traffic pgrecast resume compares again.")),
            false => Ok(()),
        }
    }
}
