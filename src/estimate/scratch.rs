//! The SQL of the trial. Pure.
//!
//! The scratch table is temporary, and its transaction is rolled back: nothing is left of it in the catalog, whatever
//! ends the run, and no privilege beyond SELECT on the table and TEMPORARY on the database is needed. What reads the
//! source does so in a read-only part of that transaction, so that no expression of the change can write: PostgreSQL
//! lets such a part write to temporary tables and to nothing else (SET TRANSACTION, PostgreSQL manual).

use crate::copy::ranges::BlockRange;
use crate::flush;
use crate::pg::sql::ident_list;
use crate::pg::{Ident, QualifiedName};
use crate::plan::ddl::{self, Purpose};
use crate::plan::shape::{Origin, Shape};
use crate::plan::types::{Layout, Names, OldNames, Plan, Value};

/// The scratch table.
const NAME: &str = "pgrecast_estimate";

/// Ranges at most: a few hundred see a table from end to end.
const RANGES: u32 = 300;

/// Blocks of one range, 64 KiB: enough that its rows and not its statement take the time.
const RANGE_BLOCKS: u32 = 8;

/// A block that no table of a usual size has.
const BEYOND: u32 = u32::MAX - 1;

/// The plan as it is tried: into one plain table, without what is written once and might be written somewhere else too.
#[derive(Debug)]
pub struct Scratch {
    plan: Plan,
    version: u32,
}

/// A part of a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Which of the plan's leaves.
    pub leaf: usize,
    /// Its blocks.
    pub range: BlockRange,
}

impl Scratch {
    /// For a plan.
    pub fn new(plan: &Plan, version: u32) -> Scratch {
        let mut plan = plan.clone();
        for column in &mut plan.columns {
            if let Value::Volatile { .. } = column.value {
                column.value = Value::OwnDefault;
            }
        }
        let own: Vec<String> =
            plan.columns.iter().filter(|c| c.value == Value::OwnDefault).map(|c| c.name.clone()).collect();
        let mut target = Shape { tablespace: None, ..plan.target.unpartitioned() };
        for column in target.columns.iter_mut().filter(|c| !c.origin.is_generated()) {
            (column.default, column.sequence, column.origin) = (None, None, Origin::Plain);
            column.not_null &= !own.contains(&column.name);
        }
        plan.target = target;
        Scratch { plan, version }
    }

    /// Its name.
    pub fn table() -> QualifiedName {
        QualifiedName::temporary(NAME)
    }

    /// Makes it.
    pub fn create(&self) -> String {
        let (target, table) = (&self.plan.target, Self::table());
        let create = ddl::create_table(target, &table, Purpose::Model, &[], self.version);
        // How values are stored decides where they go.
        let settings = ddl::column_settings(target, &table.to_string());
        std::iter::once(create).chain(settings).collect::<Vec<_>>().join(";\n")
    }

    /// A piece, as what follows FROM.
    fn part(&self, piece: Piece) -> String {
        let (alias, (first, end)) = (self.plan.alias(), piece.range);
        let leaves = self.plan.leaves();
        let from = leaves.get(piece.leaf).map(|leaf| self.plan.leaf_from(leaf.shape)).unwrap_or_default();
        format!("{from} WHERE {alias}.ctid >= '({first},0)'::tid AND {alias}.ctid < '({end},0)'::tid")
    }

    /// Copies a piece by the plan's own projection.
    pub fn copy(&self, piece: Piece) -> String {
        let written = self.plan.written();
        let columns = ident_list(written.iter().map(|(name, _)| *name));
        let values = written.iter().map(|(_, e)| e.clone()).collect::<Vec<_>>().join(", ");
        format!("INSERT INTO {} ({columns}) SELECT {values} FROM {}", Self::table(), self.part(piece))
    }

    /// The same of nothing: what a statement costs that copies no row.
    pub fn copy_nothing(&self) -> String {
        self.copy(Piece { leaf: 0, range: (BEYOND, BEYOND + 1) })
    }

    /// Counts the rows of pieces that were written by transactions from `xid` on.
    pub fn changed(&self, pieces: &[Piece], xid: u32) -> String {
        let alias = self.plan.alias();
        let new = format!(
            "age({alias}.xmin) <= (SELECT age('{xid}'::xid)) \
             AND age({alias}.xmin) > (SELECT age(pg_snapshot_xmax(pg_current_snapshot())::xid))"
        );
        let counts: Vec<String> =
            pieces.iter().map(|piece| format!("SELECT count(*) AS n FROM {} AND {new}", self.part(*piece))).collect();
        format!("SELECT sum(n)::int8 FROM ({}) AS counts", counts.join(" UNION ALL "))
    }

    /// The keys of a few rows of each piece, as text.
    pub fn keys(&self, pieces: &[Piece], each: usize) -> String {
        let alias = self.plan.alias();
        let keys: Vec<String> =
            self.plan.key.columns.iter().map(|k| format!("{alias}.{}::text", Ident(&k.source))).collect();
        let some = |piece: &Piece| format!("(SELECT {} FROM {} LIMIT {each})", keys.join(", "), self.part(*piece));
        pieces.iter().map(some).collect::<Vec<_>>().join(" UNION ALL ")
    }

    /// What brings keys up to date in it.
    pub fn flush(&self) -> flush::Statements {
        let names = Names::new(0).backwards(OldNames { table: Self::table(), ..OldNames::default() });
        flush::Statements::new(&self.plan, &names)
    }

    /// The plan that it stands for.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Builds the nth index; `None` for one that comes with its constraint.
    pub fn index(&self, n: usize) -> Option<String> {
        let index = self.plan.target.indexes.get(n)?;
        ddl::build_index(index, &Self::table().to_string(), &format!("{NAME}_{n}"))
    }

    /// The name of that index.
    pub fn index_name(n: usize) -> QualifiedName {
        QualifiedName::temporary(format!("{NAME}_{n}"))
    }

    /// The index over the key that the target has not.
    pub fn helper(&self) -> Option<String> {
        let unique = if self.plan.layout == Layout::Made { "" } else { "UNIQUE " };
        let list = ident_list(self.plan.key.columns.iter().map(|k| k.target.as_str()));
        let needed = self.plan.key.needs_helper_index;
        needed.then(|| format!("CREATE {unique}INDEX {} ON {} ({list})", Ident(&format!("{NAME}_key")), Self::table()))
    }
}

/// Pieces from all over the leaves, `blocks` long each; any first few of them are from all over as well.
pub fn pieces(blocks: &[u32]) -> Vec<Piece> {
    let all: u64 = blocks.iter().map(|b| u64::from(*b)).sum();
    let mut list = Vec::new();
    for (leaf, blocks) in blocks.iter().copied().enumerate().filter(|(_, blocks)| *blocks > 0) {
        let share = (u64::from(RANGES) * u64::from(blocks)).div_ceil(all);
        let fit = blocks.div_ceil(RANGE_BLOCKS);
        let count = u32::try_from(share).unwrap_or(RANGES).clamp(1, fit);
        for n in 0..count {
            let slot = u64::from(n) * u64::from(fit) / u64::from(count);
            let first = u32::try_from(slot).unwrap_or(0) * RANGE_BLOCKS;
            list.push(Piece { leaf, range: (first, (first + RANGE_BLOCKS).min(blocks)) });
        }
    }
    scattered(&list)
}

/// The same in an order that halves the gaps again and again: by the numbers of their places, with the bits reversed.
fn scattered(list: &[Piece]) -> Vec<Piece> {
    let bits = usize::BITS - list.len().leading_zeros();
    let reversed = |n: usize| if bits == 0 { 0 } else { n.reverse_bits() >> (usize::BITS - bits) };
    (0..1_usize << bits).filter_map(|n| list.get(reversed(n)).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        #[test]
        fn pieces_are_different_and_inside(blocks in prop::collection::vec(0u32..100_000, 1..6)) {
            let pieces = pieces(&blocks);
            let different: HashSet<_> = pieces.iter().map(|p| (p.leaf, p.range.0)).collect();
            prop_assert_eq!(different.len(), pieces.len());
            for piece in &pieces {
                let (first, end) = piece.range;
                prop_assert!(first < end && end <= blocks[piece.leaf] && end - first <= RANGE_BLOCKS);
            }
            prop_assert!(pieces.len() <= RANGES as usize + blocks.len());
            let with_rows = blocks.iter().filter(|b| **b > 0).count();
            let leaves: HashSet<_> = pieces.iter().map(|p| p.leaf).collect();
            prop_assert_eq!(leaves.len(), with_rows);
        }
    }

    #[test]
    fn a_small_table_is_tried_whole_and_a_large_one_all_over() {
        let whole: u32 = pieces(&[100]).iter().map(|p| p.range.1 - p.range.0).sum();
        assert_eq!(whole, 100);
        let first_few: Vec<u32> = pieces(&[1_000_000]).iter().take(10).map(|p| p.range.0 / 100_000).collect();
        let tenths: HashSet<u32> = first_few.iter().copied().collect();
        assert!(tenths.len() >= 8, "{first_few:?}");
    }
}
