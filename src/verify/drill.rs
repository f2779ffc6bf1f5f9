//! From buckets that differ to keys.
//!
//! The shadow's rows of the suspect buckets are kept as pairs of hashes; then the source is read, and a row that finds
//! its pair is forgotten. What stays are candidates: they differ, or changed in between.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::Site;
use super::pass::{self, Pass};
use super::statements::{Part, Side, Statements};
use crate::error::Failure;
use crate::stream::Key;

/// Keys whose rows seem to differ.
#[derive(Debug, Default)]
pub struct Candidates {
    /// Source keys.
    pub source: Vec<Key>,
    /// Target keys of rows that only the shadow seems to have.
    pub shadow: Vec<Key>,
}

/// The candidates among the rows of some buckets: one bitmap for each level.
///
/// # Errors
/// As [`pass::run`].
pub async fn candidates(site: &Site, bits: u32, within: &[Vec<u8>]) -> Result<Candidates, Failure> {
    let pairs = Pairs { bits, within, state: Mutex::default() };
    pass::run(site, &[Side::Shadow], &pairs).await?;
    pass::run(site, &[Side::Source], &pairs).await?;
    let State { shadow, source } = pairs.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    // A key that differs on both sides is found by its source key.
    let named: HashSet<i64> = source.iter().map(|(hash, _)| *hash).collect();
    let extra: Vec<i64> = shadow.into_keys().filter(|hash| !named.contains(hash)).collect();
    let mut candidates = Candidates { source: source.into_iter().map(|(_, key)| key).collect(), shadow: Vec::new() };
    if !extra.is_empty() {
        let names = Names { hashes: extra, keys: Mutex::default() };
        pass::run(site, &[Side::Shadow], &names).await?;
        candidates.shadow = names.keys.into_inner().unwrap_or_else(PoisonError::into_inner);
        // A row that moved was read twice.
        candidates.shadow.sort_unstable();
        candidates.shadow.dedup();
    }
    Ok(candidates)
}

struct Pairs<'a> {
    bits: u32,
    within: &'a [Vec<u8>],
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By key hash: the exclusive or of the digests of the shadow's rows, and how many there are.
    shadow: HashMap<i64, (i64, u32)>,
    /// Source rows without their like.
    source: Vec<(i64, Key)>,
}

/// A row's key hash and digest, and its key where it is a source row without its like.
struct Pair {
    hash: i64,
    digest: i64,
    alone: Option<Key>,
}

impl Pass for Pairs<'_> {
    type Item = Pair;
    const NAME: &'static str = "read suspects";

    fn sql(&self, statements: &Statements, part: Part) -> String {
        statements.pairs(part, self.bits, u32::try_from(self.within.len()).unwrap_or(0))
    }

    fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.within.iter().map(|bitmap| bitmap as &(dyn ToSql + Sync)).collect()
    }

    fn read(&self, side: Side, row: &Row) -> Result<Pair, tokio_postgres::Error> {
        let (hash, digest) = (row.try_get(0)?, row.try_get(1)?);
        let matched = || {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.shadow.get(&hash) == Some(&(digest, 1))
        };
        let alone = if side == Side::Source && !matched() { key(row, 2)? } else { None };
        Ok(Pair { hash, digest, alone })
    }

    fn merge(&self, part: Part, pairs: Vec<Pair>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for Pair { hash, digest, alone } in pairs {
            match (part.side, alone) {
                (Side::Shadow, _) => {
                    let (sum, rows) = state.shadow.entry(hash).or_default();
                    *sum ^= digest;
                    *rows += 1;
                }
                (Side::Source, Some(key)) => state.source.push((hash, key)),
                (Side::Source, None) => {
                    state.shadow.remove(&hash);
                }
            }
        }
    }
}

struct Names {
    hashes: Vec<i64>,
    keys: Mutex<Vec<Key>>,
}

impl Pass for Names {
    type Item = Option<Key>;
    const NAME: &'static str = "read keys of suspects";

    fn sql(&self, statements: &Statements, part: Part) -> String {
        statements.keys(part)
    }

    fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        vec![&self.hashes]
    }

    fn read(&self, _: Side, row: &Row) -> Result<Option<Key>, tokio_postgres::Error> {
        key(row, 0)
    }

    fn merge(&self, _: Part, keys: Vec<Option<Key>>) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).extend(keys.into_iter().flatten());
    }
}

/// The key in the columns from `first` on. Text of the server holds no zero byte, so it always is one.
pub fn key(row: &Row, first: usize) -> Result<Option<Key>, tokio_postgres::Error> {
    let columns = (first..row.len()).map(|i| row.try_get::<_, &str>(i)).collect::<Result<Vec<_>, _>>()?;
    Ok(Key::new(columns))
}
