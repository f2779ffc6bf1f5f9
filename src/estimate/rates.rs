//! What a unit of work costs on this server: from the trial, else from the constants. Pure.

use super::constants as known;
use super::distinct::Hot;
use super::facts::{Facts, Trial};
use super::figure::Figure;
use crate::plan::shape::Index;
use crate::plan::types::{Names, Plan};

/// What the work costs. `high` is the bad case of everything.
#[derive(Debug, Clone, PartialEq)]
pub struct Rates {
    /// Rows to be copied.
    pub rows: Figure,
    /// Seconds of one worker for a row of the copy.
    pub copy_row: Figure,
    /// Bytes of a row in the target, TOAST included.
    pub row_bytes: Figure,
    /// WAL of a row of the copy.
    pub wal_row: Figure,
    /// The index builds.
    pub builds: Vec<Build>,
    /// Seconds of one worker to flush a key.
    pub flush_key: Figure,
    /// Seconds of one worker to read a row on both sides.
    pub digest_row: Figure,
    /// Seconds of the ANALYZE of all tables.
    pub analyze: Figure,
    /// The rows that the updates fall on, in each case.
    pub hot: Figure,
}

/// An index to build.
#[derive(Debug, Clone, PartialEq)]
pub struct Build {
    /// Where it will be.
    pub tablespace: String,
    /// Seconds, alone.
    pub seconds: Figure,
    /// Its size.
    pub bytes: Figure,
}

/// Of rows that are sorted: `n · log n`.
fn sorted(rows: f64) -> f64 {
    rows * rows.max(2.0).log2()
}

/// From what was measured.
pub fn rates(plan: &Plan, facts: &Facts, trial: Option<&Trial>, default_tablespace: &str) -> Rates {
    let tried = trial.filter(|t| t.rows > 0);
    let share = tried.map_or(0.0, |t| t.blocks as f64 / facts.blocks.max(1.0));
    // What was not looked at may be otherwise.
    let rows = match share {
        s if s >= 1.0 => Figure::exactly(facts.rows),
        s if s > 0.0 => Figure::new(facts.rows * 0.95, facts.rows, facts.rows * 1.05),
        _ => Figure::new(facts.rows * 0.9, facts.rows, facts.rows * 1.15),
    };
    let row_bytes = match tried {
        Some(t) => (t.table_bytes + t.toast_bytes) / t.rows as f64,
        // As it is, bloat included: less is likely, and more if the change makes it wider.
        None => (facts.table_bytes + facts.toast_bytes) / facts.rows.max(1.0),
    };
    let row_range = if tried.is_some() { (0.95, 1.08) } else { (0.6, 1.4) };
    let copy_row = match tried {
        Some(t) => known::COPY_LOGGED.scaled(t.copy_seconds / t.rows as f64),
        None => plus(known::COPY_ROW, known::COPY_BYTE.scaled(row_bytes)),
    };
    // Into how many tables a row goes: one, or as many as a table is taken apart into.
    let tables = plan.with_parts(&Names::new(0)).len() as f64;
    let tables = Figure::new(1.0, f64::midpoint(1.0, tables), tables);
    Rates {
        rows,
        copy_row: copy_row.times(tables),
        row_bytes: Figure::new(row_range.0, 1.0, row_range.1).scaled(row_bytes).times(tables),
        wal_row: plus(known::WAL_OF_ROW, Figure::exactly(row_bytes)).times(tables),
        builds: builds(plan, facts, tried, default_tablespace),
        flush_key: match tried.and_then(|t| t.flush) {
            Some(pace) => known::FLUSH_LOGGED.scaled(pace.each()),
            None => known::FLUSH_KEY.times(tables),
        },
        digest_row: match tried.and_then(|t| t.digest) {
            Some(pace) => known::DIGEST_WHOLE.scaled(pace.each()),
            None => known::DIGEST_ROW.times(tables),
        },
        analyze: analyze(plan, facts, tried),
        // Where nothing tells, each update is of another row, or at best of a hundredth of them.
        hot: hot(facts, tried).unwrap_or(Figure::new(facts.rows / 100.0, f64::INFINITY, f64::INFINITY)),
    }
}

fn plus(a: Figure, b: Figure) -> Figure {
    Figure::new(a.low + b.low, a.mid + b.mid, a.high + b.high)
}

/// The builds of every table of the target that holds rows, in the order in which a run begins them.
fn builds(plan: &Plan, facts: &Facts, trial: Option<&Trial>, default_tablespace: &str) -> Vec<Build> {
    let mut all = Vec::new();
    for (plan, names) in plan.with_parts(&Names::new(0)) {
        let holders = plan.holders(&names);
        let rows = facts.rows / holders.len().max(1) as f64;
        for index in holders.iter().flat_map(|holder| &holder.target.indexes) {
            // An index of a partition is tried as that of the whole.
            let whole = index.parent.as_ref().unwrap_or(&index.name);
            let place = plan.target.indexes.iter().position(|i| i.name == *whole);
            let built = place.and_then(|n| trial.and_then(|t| Some((t, (*t.indexes.get(n)?)?))));
            let (seconds, bytes) = match built {
                Some((t, built)) => (
                    known::BUILD_LOGGED.scaled(built.seconds * sorted(rows) / sorted(t.rows as f64)),
                    built.bytes / t.rows as f64 * rows,
                ),
                None => (known::BUILD_ROW.scaled(sorted(rows)), index_bytes(&plan, facts, index) * rows),
            };
            let range = if built.is_some() { (0.9, 1.1) } else { (0.6, 1.4) };
            all.push(Build {
                tablespace: index.tablespace.clone().unwrap_or_else(|| default_tablespace.to_owned()),
                seconds,
                bytes: Figure::new(bytes * range.0, bytes, bytes * range.1),
            });
        }
    }
    all
}

/// Bytes for a row of an index that was not tried: those of the source's index of that name, else those of a usual key.
fn index_bytes(plan: &Plan, facts: &Facts, index: &Index) -> f64 {
    /// Item header, line pointer, eight bytes of key, pages nine tenths full.
    const USUAL: f64 = 22.5;
    let same = plan.source.indexes.iter().find(|i| i.name == index.name && i.bytes > 0);
    same.map_or(USUAL, |i| i.bytes as f64 / facts.rows.max(1.0))
}

/// ANALYZE samples each table that holds rows, and one that is partitioned once more as a whole.
fn analyze(plan: &Plan, facts: &Facts, trial: Option<&Trial>) -> Figure {
    let tables = plan.holders(&Names::new(0)).len().max(1) as f64;
    let each = (facts.rows / tables).min(known::ANALYZE_ROWS);
    let sampled = each * tables + if plan.target.is_partitioned() { facts.rows.min(known::ANALYZE_ROWS) } else { 0.0 };
    match trial.and_then(|t| t.analyze) {
        Some(pace) => {
            let row = pace.seconds / pace.rows.clamp(1.0, known::ANALYZE_ROWS);
            Figure::new(row * sampled * 0.8, row * sampled, row * sampled * 3.0)
        }
        None => known::ANALYZE_ROW.scaled(sampled),
    }
}

/// Updates of the sample, and how many different rows they were of, by what the trial saw of them; `None` where that was
/// too little. Deletes leave nothing to see.
fn updated(facts: &Facts, trial: Option<&Trial>) -> Option<(f64, f64)> {
    /// Rows seen, below which their number tells little.
    const ENOUGH: f64 = 30.0;
    let trial = trial?;
    let (changed, share) = (trial.changed?, trial.blocks as f64 / facts.blocks.max(1.0));
    let updates = facts.writes.updates * facts.sampled_seconds;
    let inserts = facts.writes.inserts * facts.sampled_seconds;
    if updates < 1.0 || share <= 0.0 || (changed < ENOUGH && share < 1.0) {
        return None;
    }
    Some((updates, (changed / share - inserts).clamp(1.0, updates)))
}

/// On how many rows the updates fall.
fn hot(facts: &Facts, trial: Option<&Trial>) -> Option<Figure> {
    let (updates, different) = updated(facts, trial)?;
    let rows = Hot::seen(updates, different).rows;
    Some(Figure::new(rows / 2.0, rows, rows * 2.0))
}

/// Which share of the sample's writes was of different rows.
pub fn different_share(facts: &Facts, trial: Option<&Trial>) -> Option<f64> {
    let (updates, different) = updated(facts, trial)?;
    let all = facts.writes.all() * facts.sampled_seconds;
    Some((all - updates + different) / all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::facts::Writes;

    #[test]
    fn a_sort_of_ten_times_the_rows_takes_more_than_ten_times() {
        let ratio = sorted(1e6) / sorted(1e5);
        assert!(ratio > 11.9 && ratio < 12.1, "{ratio}");
        assert_eq!(sorted(0.0), 0.0);
    }

    #[test]
    fn rows_that_are_written_again_and_again_are_few() {
        let writes = Writes { inserts: 0.0, updates: 1_000.0, deletes: 0.0 };
        let facts = Facts { rows: 1e6, blocks: 1e4, sampled_seconds: 10.0, writes, ..Facts::default() };
        // All blocks were seen, and 500 rows of them were written, ten thousand times in all.
        let trial = Trial { changed: Some(500.0), blocks: 10_000, ..Trial::default() };
        let seen = hot(&facts, Some(&trial)).expect("enough to tell").mid;
        assert!((seen - 500.0).abs() < 1.0, "{seen}");
        assert_eq!(different_share(&facts, Some(&trial)), Some(0.05));
        // Of a hundredth of the blocks, as many as there were updates in it: they are all different.
        let trial = Trial { changed: Some(100.0), blocks: 100, ..Trial::default() };
        assert!(hot(&facts, Some(&trial)).expect("enough to tell").mid.is_infinite());
        // Too few were seen to tell.
        let trial = Trial { changed: Some(5.0), blocks: 100, ..Trial::default() };
        assert_eq!((hot(&facts, Some(&trial)), hot(&facts, None)), (None, None));
    }
}
