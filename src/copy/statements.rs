//! The SQL of a chunk. Pure.

use super::ranges::BlockRange;
use crate::pg::{Ident, QualifiedName};
use crate::plan::types::{Leaf, Names, Plan};

/// The transaction-local setting by which the copy tells that it met a possibly new row.
pub const SEEN_NEW: &str = "pgrecast.seen_new";

/// Stands for the range in a statement.
const RANGE: &str = "\"#range\"";

/// The statements of the chunks of one leaf.
#[derive(Debug, Clone)]
pub struct Statements {
    insert_head: String,
    guarded: Option<Guarded>,
    journal_head: String,
    from: String,
    /// ` AND (…)`: which rows the target has.
    rows: String,
    /// What gives numbers to values, up to the range.
    fill: Vec<(String, String)>,
    /// Which rows have no one place, and what is said of such a one.
    misplaced: Option<(String, String)>,
    alias: String,
    x0: u32,
}

/// What copies rows of which some do not convert.
#[derive(Debug, Clone)]
struct Guarded {
    insert_head: String,
    plan: Plan,
    names: Names,
}

impl Statements {
    /// For a leaf of a plan whose X0 is known.
    pub fn new(plan: &Plan, leaf: &Leaf<'_>, names: &Names, x0: u32) -> Self {
        let key = plan.key.columns.iter().map(|k| Ident(&k.source).to_string()).collect::<Vec<_>>().join(", ");
        Statements {
            insert_head: insert_head(plan, leaf, names),
            guarded: plan.guarded(names).map(|guarded| Guarded {
                insert_head: insert_head(&guarded, leaf, names),
                plan: plan.clone(),
                names: names.clone(),
            }),
            journal_head: format!("INSERT INTO {}\nSELECT {key}, 0", names.journal(1)),
            from: plan.leaf_from(leaf.shape),
            rows: plan.and_its_rows(),
            fill: plan
                .fill(&format!("{} WHERE {RANGE}", plan.leaf_from(leaf.shape)))
                .iter()
                .filter_map(|sql| {
                    let (head, tail) = sql.split_once(RANGE)?;
                    Some((head.to_owned(), tail.to_owned()))
                })
                .collect(),
            misplaced: plan.misplaced().map(|condition| (condition, plan.misplaced_words())),
            alias: plan.alias(),
            x0,
        }
    }

    /// Rule 1: xmin in `[X0, xmax of this snapshot)`, in 32-bit xid space. The bounds are subqueries so that they are
    /// evaluated once a chunk, not once a row.
    fn possibly_new(&self) -> String {
        format!(
            "age({0}.xmin) <= (SELECT age('{1}'::xid)) AND age({0}.xmin) > (SELECT age(pg_snapshot_xmax(pg_current_snapshot())::xid))",
            self.alias, self.x0
        )
    }

    fn range(&self, (first, end): BlockRange) -> String {
        format!("{0}.ctid >= '({first},0)'::tid AND {0}.ctid < '({end},0)'::tid", self.alias)
    }

    /// Gives numbers to the values of a range's rows, each statement in a transaction of its own.
    pub fn fill(&self, range: BlockRange) -> Vec<String> {
        self.fill.iter().map(|(head, tail)| format!("{head}{}{tail}", self.range(range))).collect()
    }

    /// Copies the old rows of a range. A possibly new row is left out, and its presence is noted in [`SEEN_NEW`]: the
    /// range is read a second time only where there is one.
    pub fn insert(&self, range: BlockRange) -> String {
        self.insert_by(&self.insert_head, range)
    }

    /// The same where values may become NULL that do not convert; plain where none may.
    pub fn insert_guarded(&self, range: BlockRange) -> String {
        self.insert_by(self.last_head(), range)
    }

    fn insert_by(&self, head: &str, range: BlockRange) -> String {
        format!(
            "{head} FROM {}\nWHERE {} AND CASE WHEN {} THEN set_config('{SEEN_NEW}', '1', true) IS NULL ELSE true END{}",
            self.from,
            self.range(range),
            self.possibly_new(),
            self.rows
        )
    }

    fn last_head(&self) -> &str {
        self.guarded.as_ref().map_or(&self.insert_head, |guarded| &guarded.insert_head)
    }

    /// Sets aside what does not convert of the rows that [`Statements::insert_guarded`] copies; `None` where nothing is.
    pub fn set_aside(&self, range: BlockRange) -> Option<String> {
        let Guarded { plan, names, .. } = self.guarded.as_ref()?;
        let condition = format!("{} AND NOT ({})", self.range(range), self.possibly_new());
        plan.set_aside_sql(names, &self.from, &condition)
    }

    /// Copies one row, by its place, as the last try of its chunk would.
    pub fn insert_row(&self, block: u32, offset: u32) -> String {
        let (head, from, rows) = (self.last_head(), &self.from, &self.rows);
        format!("{head} FROM {from}\nWHERE {}.ctid = '({block},{offset})'::tid{rows}", self.alias)
    }

    /// Says of the first old row of a range that has no one place which it is.
    pub fn misplaced(&self, range: BlockRange) -> Option<String> {
        let (condition, words) = self.misplaced.as_ref()?;
        let (range, new) = (self.range(range), self.possibly_new());
        Some(format!("SELECT {words} FROM {} WHERE {range} AND NOT ({new}) AND {condition} LIMIT 1", self.from))
    }

    /// Journals the keys of the possibly new rows of a range.
    pub fn journal(&self, range: BlockRange) -> String {
        format!("{} FROM {}\nWHERE {} AND {}", self.journal_head, self.from, self.range(range), self.possibly_new())
    }

    /// Places of a block's rows that the copy would take.
    pub fn places(&self, block: u32) -> String {
        format!(
            "SELECT {0}.ctid::text FROM {1} WHERE {2} AND NOT ({3})",
            self.alias,
            self.from,
            self.range((block, block + 1)),
            self.possibly_new()
        )
    }
}

fn insert_head(plan: &Plan, leaf: &Leaf<'_>, names: &Names) -> String {
    let written = plan.written();
    let columns = written.iter().map(|(n, _)| Ident(n).to_string()).collect::<Vec<_>>().join(", ");
    let values = written.iter().map(|(_, e)| e.clone()).collect::<Vec<_>>().join(", ");
    format!("INSERT INTO {} ({columns}){}\nSELECT {values}", plan.destination(leaf, names), plan.overriding())
}

/// `LOCK TABLE … ACCESS SHARE`: taken before the transaction's snapshot, so that no rewrite by somebody else can come
/// between the check of the table and its reading (LOCK, PostgreSQL manual).
pub fn lock_source(plan: &Plan) -> String {
    format!("LOCK TABLE {} IN ACCESS SHARE MODE", plan.read_tables())
}

/// The same of one leaf.
pub fn lock_leaf(leaf: &QualifiedName) -> String {
    format!("LOCK TABLE ONLY {leaf} IN ACCESS SHARE MODE")
}
