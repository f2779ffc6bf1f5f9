//! Which candidates really differ.
//!
//! A key is compared in one snapshot of both sides. One that differs there is watched, the stream is let catch up, and
//! it is compared again: it differs for good when the stream has brought nothing of it in between. Nothing is ever
//! flushed for the comparison's sake, since that would mend what is to be found.

use std::collections::HashMap;

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::drill::{self, Candidates};
use super::statements::Compare;
use super::{DIFFERENCES_COUNTED, DIFFERENCES_KEPT, Difference, InStep, Kind, Site, Verdict};
use crate::error::Failure;
use crate::pg::sql::plain_ident;
use crate::pg::{Conn, Error, Role};
use crate::retry::Retry;
use crate::stream::Key;

/// Keys compared in one snapshot: two index look-ups each.
const BATCH: usize = 1_000;

/// How often a key that the stream brings again and again is compared. Each of its flushes writes its row whole.
const ROUNDS: u32 = 20;

/// How often a row that only the shadow has, and that no source key is known for, is looked for in the source.
const SEARCHES: u32 = 3;

/// Compares candidates, and keeps what it finds.
pub struct Recheck<'a, S> {
    site: &'a Site,
    in_step: &'a S,
    conn: Option<Conn>,
    verdict: Verdict,
    /// Source keys that were made from target keys, which they need not be the only ones to make.
    inverted: HashMap<Key, Key>,
    /// Those of them that the source does not have.
    doubtful: Vec<(Key, Key)>,
}

/// A key that is not the same on both sides.
struct Unequal {
    key: Key,
    kind: Kind,
    columns: Vec<String>,
}

/// What a compared key's row of the answer says.
struct Seen {
    in_source: bool,
    in_shadow: bool,
    differs: Vec<bool>,
}

impl<'a, S: InStep> Recheck<'a, S> {
    /// Nothing found yet.
    pub fn new(site: &'a Site, in_step: &'a S) -> Self {
        let (inverted, doubtful) = (HashMap::new(), Vec::new());
        Recheck { site, in_step, conn: None, verdict: Verdict::default(), inverted, doubtful }
    }

    /// What was found.
    pub fn into_verdict(self) -> Verdict {
        self.verdict
    }

    /// Whether there is no use in looking for more.
    pub fn is_enough(&self) -> bool {
        self.verdict.difference_count >= DIFFERENCES_COUNTED
    }

    /// Counts each row that is known not to fit, also one of a key that neither side has: only a new table beside has it.
    pub fn tell_all_set_aside(&mut self) {
        let mut keys: Vec<Key> = self.in_step.set_aside().into_iter().collect();
        keys.sort_unstable();
        self.verdict.set_aside_count = keys.len() as u64;
        let named = keys.iter().take(DIFFERENCES_KEPT).map(|key| describe(self.site.key_names(), key));
        self.verdict.set_aside = named.collect();
    }

    /// Compares the candidates.
    ///
    /// # Errors
    /// The server's, drift, and those of the stream.
    pub async fn run(&mut self, candidates: Candidates) -> Result<(), Failure> {
        self.compare_all(candidates.source).await?;
        for batch in candidates.shadow.chunks(BATCH) {
            let (source, rest) = self.invert(batch).await?;
            if !self.site.job.plan.keeps_key_values() {
                self.inverted = source.iter().cloned().collect();
            }
            self.compare_all(source.into_iter().map(|(source, _)| source).collect()).await?;
            self.resolve_doubtful().await?;
            self.search(rest).await?;
        }
        Ok(())
    }

    /// A row that only the shadow seems to have may come from a source key that is spelled otherwise and makes the same
    /// target key, such as '007' beside 7.
    async fn resolve_doubtful(&mut self) -> Result<(), Failure> {
        self.inverted.clear();
        let (sources, targets): (Vec<Key>, Vec<Key>) = std::mem::take(&mut self.doubtful).into_iter().unzip();
        if targets.is_empty() {
            return Ok(());
        }
        let mut others = Vec::new();
        for (position, other) in self.look_through_source(&targets).await? {
            match (other, sources.get(position)) {
                (Some(other), _) => others.push(other),
                (None, Some(source)) => {
                    let key = describe(self.site.key_names(), source);
                    self.found(Difference { kind: Kind::Extra, key, columns: Vec::new(), table: None });
                }
                (None, None) => {}
            }
        }
        self.compare_all(others).await
    }

    /// Most candidates only changed between the two readings: those are equal at once, and nothing is waited for.
    async fn compare_all(&mut self, keys: Vec<Key>) -> Result<(), Failure> {
        let mut unequal = Vec::new();
        for batch in keys.chunks(BATCH) {
            if self.is_enough() {
                return Ok(());
            }
            self.verdict.rechecked += batch.len() as u64;
            self.site.progress.rechecked.fetch_add(batch.len() as u64, std::sync::atomic::Ordering::Relaxed);
            unequal.extend(self.unequal(batch).await?.into_iter().map(|u| u.key));
            while unequal.len() >= BATCH {
                let rest = unequal.split_off(BATCH);
                self.watch(std::mem::replace(&mut unequal, rest)).await?;
            }
        }
        self.watch(unequal).await
    }

    async fn watch(&mut self, mut keys: Vec<Key>) -> Result<(), Failure> {
        for _ in 0..ROUNDS {
            if keys.is_empty() {
                break;
            }
            self.in_step.watch(keys.clone()).await?;
            self.in_step.settle().await?;
            let unequal = self.unequal(&keys).await?;
            if unequal.is_empty() {
                break;
            }
            // A change that the snapshot saw may be on its way: it has been received after this.
            self.in_step.settle().await?;
            let touched = self.in_step.touched().await?;
            let aside = self.in_step.set_aside();
            keys.clear();
            for found in unequal {
                if touched.contains(&found.key) {
                    keys.push(found.key);
                } else if aside.contains(&found.key) {
                    self.verdict.set_aside_count += 1;
                    if self.verdict.set_aside.len() < DIFFERENCES_KEPT {
                        self.verdict.set_aside.push(describe(self.site.key_names(), &found.key));
                    }
                } else if let (Kind::Extra, Some(target)) = (found.kind, self.inverted.get(&found.key)) {
                    self.doubtful.push((found.key, target.clone()));
                } else {
                    let key = describe(self.site.key_names(), &found.key);
                    self.found(Difference { kind: found.kind, key, columns: found.columns, table: None });
                }
            }
        }
        Ok(())
    }

    fn found(&mut self, difference: Difference) {
        self.verdict.difference_count += 1;
        if self.verdict.differences.len() < DIFFERENCES_KEPT {
            self.verdict.differences.push(difference);
        }
    }

    /// Those of the source keys that are not the same on both sides, whichever way they are compared; each way in one
    /// snapshot.
    async fn unequal(&mut self, keys: &[Key]) -> Result<Vec<Unequal>, Failure> {
        let site = self.site;
        let mut left: Vec<Unequal> = Vec::new();
        for (n, way) in site.last().compare.iter().enumerate() {
            let asked: Vec<Key> = if n == 0 { keys.to_vec() } else { left.iter().map(|u| u.key.clone()).collect() };
            let found = self.unequal_by(way, asked).await?;
            left = match n {
                0 => found,
                _ => both(left, found),
            };
        }
        Ok(left)
    }

    /// A row of the new table may have no form in the old one: its value, or its key, is then an error, which ends a
    /// comparison of tables that each hold all rows, but on the way back is the row's own. It is found by halves.
    async fn unequal_by(&mut self, way: &Compare, keys: Vec<Key>) -> Result<Vec<Unequal>, Failure> {
        let mut found = Vec::new();
        let mut parts = vec![keys];
        while let Some(mut part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            match self.unequal_of(way, &part).await {
                Ok(unequal) => found.extend(unequal),
                Err(failure) if self.site.job.forth.is_some() && failure.is_data() => {
                    if part.len() > 1 {
                        let rest = part.split_off(part.len() / 2);
                        parts.extend([rest, part]);
                    } else if !self.query("find keys", "", &self.site.last().present, &part).await?.is_empty() {
                        found.extend(part.pop().map(|key| Unequal { key, kind: Kind::Missing, columns: Vec::new() }));
                    }
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(found)
    }

    async fn unequal_of(&mut self, way: &Compare, keys: &[Key]) -> Result<Vec<Unequal>, Failure> {
        let rows = self.query("compare keys", "", &way.sql, keys).await?;
        let mut seen: Vec<Vec<Seen>> = keys.iter().map(|_| Vec::new()).collect();
        for row in &rows {
            let read = || -> Result<(i64, Seen), tokio_postgres::Error> {
                let seen = Seen { in_source: row.try_get(1)?, in_shadow: row.try_get(2)?, differs: row.try_get(3)? };
                Ok((row.try_get(0)?, seen))
            };
            let (position, read) = read().map_err(|e| Error::client("compare keys", e.to_string()))?;
            if let Some(of_key) = index(position).and_then(|i| seen.get_mut(i)) {
                of_key.push(read);
            }
        }
        Ok(keys
            .iter()
            .zip(seen)
            .filter_map(|(key, seen)| {
                let (kind, columns) = judge(&seen, &way.columns)?;
                Some(Unequal { key: key.clone(), kind, columns })
            })
            .collect())
    }

    /// Source keys, each with the target key that it makes, and target keys of which no source key is known.
    async fn invert(&mut self, targets: &[Key]) -> Result<(Vec<(Key, Key)>, Vec<Key>), Failure> {
        let rows = match self.query("invert keys", "", &self.site.last().invert, targets).await {
            Ok(rows) => rows,
            // One of them is no value of the source's type.
            Err(failure) if failure.is_data() => Vec::new(),
            Err(failure) => return Err(failure),
        };
        let mut known = vec![false; targets.len()];
        let mut source = Vec::new();
        for (position, key) in keyed(&rows, "invert keys")? {
            if let (Some(known), Some(target), Some(key)) = (known.get_mut(position), targets.get(position), key) {
                *known = true;
                source.push((key, target.clone()));
            }
        }
        let rest = targets.iter().zip(known).filter(|(_, known)| !known).map(|(key, _)| key.clone()).collect();
        Ok((source, rest))
    }

    /// Looks for the source rows of target keys by reading the whole source in one snapshot. That is slow on a large
    /// table, and rare: the key's conversion is neither a cast nor the like, and the shadow has a row too many.
    async fn search(&mut self, mut targets: Vec<Key>) -> Result<(), Failure> {
        self.verdict.rechecked += targets.len() as u64;
        let mut source = Vec::new();
        for _ in 0..SEARCHES {
            if targets.is_empty() || self.is_enough() {
                break;
            }
            self.in_step.settle().await?;
            let mut left = Vec::new();
            for (position, key) in self.look_through_source(&targets).await? {
                match key {
                    Some(key) => source.push(key),
                    None => left.extend(targets.get(position).cloned()),
                }
            }
            targets = left;
        }
        for key in targets {
            let key = describe(self.site.target_key_names(), &key);
            self.found(Difference { kind: Kind::Extra, key, columns: Vec::new(), table: None });
        }
        self.compare_all(source).await
    }

    /// The source rows of target keys, by reading the whole source.
    async fn look_through_source(&mut self, targets: &[Key]) -> Result<Vec<(usize, Option<Key>)>, Failure> {
        let settings = "SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = on";
        let rows = self.query("search keys", settings, &self.site.last().search, targets).await?;
        keyed(&rows, "search keys")
    }

    /// Runs a statement whose parameters are keys, after `settings`, until it works.
    async fn query(
        &mut self,
        name: &'static str,
        settings: &str,
        sql: &str,
        keys: &[Key],
    ) -> Result<Vec<Row>, Failure> {
        let width = keys.first().map_or(0, |key| key.columns().count());
        let mut columns: Vec<Vec<&str>> = vec![Vec::with_capacity(keys.len()); width];
        for key in keys {
            for (column, value) in columns.iter_mut().zip(key.columns()) {
                column.push(value);
            }
        }
        let params: Vec<&(dyn ToSql + Sync)> = columns.iter().map(|c| c as &(dyn ToSql + Sync)).collect();
        let mut retry = Retry::new();
        loop {
            self.site.job.throttle.pass().await;
            let opened = match self.conn.take() {
                Some(conn) => Ok(conn),
                None => self.site.job.connector.open(Role::Verifier).await,
            };
            let conn = match opened {
                Ok(conn) => conn,
                Err(e) => {
                    retry.after(e).await?;
                    continue;
                }
            };
            let work = async {
                if !settings.is_empty() {
                    conn.batch("set planner", settings).await?;
                }
                conn.rows(name, sql, &params).await
            };
            let done = self.site.within(&conn, work).await;
            if !conn.is_closed() {
                self.conn = Some(conn);
            }
            match done {
                Ok(rows) => return rows,
                Err(e) => retry.after(e).await?,
            }
        }
    }
}

/// Keys that differ both ways, each as the way says it that finds fewer columns. Pure.
fn both(one: Vec<Unequal>, other: Vec<Unequal>) -> Vec<Unequal> {
    let mut other: HashMap<Key, Unequal> = other.into_iter().map(|u| (u.key.clone(), u)).collect();
    one.into_iter()
        .filter_map(|one| {
            let other = other.remove(&one.key)?;
            let says_more = one.kind != Kind::Different || other.columns.len() < one.columns.len();
            Some(if other.kind == Kind::Different && says_more { other } else { one })
        })
        .collect()
}

/// What is wrong with a key, if anything. Pure.
fn judge(seen: &[Seen], names: &[String]) -> Option<(Kind, Vec<String>)> {
    let first = seen.first()?;
    match (first.in_source, first.in_shadow) {
        (false, false) => None,
        (true, false) => Some((Kind::Missing, Vec::new())),
        (false, true) => Some((Kind::Extra, Vec::new())),
        // The source's key is unique, so it is the shadow that has it more than once.
        (true, true) if seen.len() > 1 => Some((Kind::Extra, Vec::new())),
        (true, true) => {
            let columns: Vec<String> =
                names.iter().zip(&first.differs).filter(|(_, differs)| **differs).map(|(n, _)| n.clone()).collect();
            (!columns.is_empty()).then_some((Kind::Different, columns))
        }
    }
}

/// Rows of a position, from 1, and key columns that may be NULL.
fn keyed(rows: &[Row], name: &'static str) -> Result<Vec<(usize, Option<Key>)>, Failure> {
    let read = |row: &Row| -> Result<Option<(usize, Option<Key>)>, tokio_postgres::Error> {
        let known = row.try_get::<_, Option<&str>>(1)?.is_some();
        let key = if known { drill::key(row, 1)? } else { None };
        Ok(index(row.try_get(0)?).map(|i| (i, key)))
    };
    let read = |row| read(row).map_err(|e| Error::client(name, e.to_string()).into());
    rows.iter().filter_map(|row| read(row).transpose()).collect()
}

fn index(position: i64) -> Option<usize> {
    usize::try_from(position).ok()?.checked_sub(1)
}

fn describe<'a>(names: impl Iterator<Item = &'a str>, key: &Key) -> String {
    names.zip(key.columns()).map(|(n, v)| format!("{} = {v}", plain_ident(n))).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(in_source: bool, in_shadow: bool, differs: [bool; 2]) -> Seen {
        Seen { in_source, in_shadow, differs: differs.to_vec() }
    }

    #[test]
    fn a_key_is_judged_by_what_both_sides_have() {
        let names = ["id".to_owned(), "note".to_owned()];
        let judge = |seen: &[Seen]| judge(seen, &names);
        assert_eq!(judge(&[seen(true, true, [false, false])]), None);
        assert_eq!(judge(&[seen(false, false, [false, false])]), None);
        assert_eq!(judge(&[seen(true, false, [true, true])]), Some((Kind::Missing, vec![])));
        assert_eq!(judge(&[seen(false, true, [true, true])]), Some((Kind::Extra, vec![])));
        assert_eq!(judge(&[seen(true, true, [false, true])]), Some((Kind::Different, vec!["note".to_owned()])));
        let same = || seen(true, true, [false, false]);
        assert_eq!(judge(&[same(), same()]), Some((Kind::Extra, vec![])));
    }

    #[test]
    fn a_key_is_named_column_by_column() {
        let key = Key::new(["EU", "7"]).expect("a key");
        assert_eq!(describe(["region", "Id"].into_iter(), &key), "region = EU, \"Id\" = 7");
    }
}
