//! Compares a part of which a source row has any number of rows.
//!
//! Its rows of one key are not told apart by anything, and may be equal, so sums of digests would not show all that
//! differs. Both sides of a key are looked at in one snapshot instead: block range by block range of the source, what the
//! projection gives is held against what the part has; block range by block range of the part, each key must be one that
//! the source has. What differs there is a candidate as any other.

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
    let keys = Keys { found: Mutex::default() };
    pass::run(site, &[Side::Source, Side::Shadow], &keys).await?;
    let mut source = keys.found.into_inner().unwrap_or_else(PoisonError::into_inner);
    source.sort_unstable();
    source.dedup();
    Ok(Candidates { source, shadow: Vec::new() })
}

struct Keys {
    found: Mutex<Vec<Key>>,
}

impl Pass for Keys {
    type Item = Option<Key>;
    const NAME: &'static str = "compare rows of keys";

    fn sql(&self, statements: &Statements, part: Part) -> String {
        statements.many(part)
    }

    fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        Vec::new()
    }

    fn read(&self, _: Side, row: &Row) -> Result<Self::Item, tokio_postgres::Error> {
        drill::key(row, 0)
    }

    fn merge(&self, _: Part, keys: Vec<Self::Item>) {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).extend(keys.into_iter().flatten());
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
