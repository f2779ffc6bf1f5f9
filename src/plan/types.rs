//! The plan: everything that is decided before the first lock is taken, kept in the control schema.

use serde::{Deserialize, Serialize};

use super::compat::CompatView;
use super::guard::Guard;
use super::lookups::Lookup;
pub use super::names::{Member, Names, OldNames, SCHEMA};
use super::partman::Managed;
use super::parts::Part;
use super::rejoin::Rejoin;
use super::shape::{Column, Shape};
use super::tree::Branch;
use crate::pg::sql::plain_ident;
use crate::pg::{Ident, QualifiedName};
use crate::spec::partitioning::{Naming, Step};

/// A migration, decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The table as it stands.
    pub source: Shape,
    /// The table as it will stand, under its final names.
    pub target: Shape,
    /// Where each target column's value comes from, in column order.
    pub columns: Vec<TargetColumn>,
    /// What tells rows apart.
    pub key: Key,
    /// What must be done to the source's replica identity first; that of a partitioned source counts for nothing.
    pub identity: IdentityChange,
    /// The partitions of a partitioned source, parents before children.
    #[serde(default)]
    pub partitions: Vec<Partition>,
    /// The partitions of a partitioned target under their final names, parents before children.
    #[serde(default)]
    pub branches: Vec<Branch>,
    /// How the tables of the target stand to those of the source.
    #[serde(default)]
    pub layout: Layout,
    /// How the target's ranges follow each other, at each level where they do.
    #[serde(default)]
    pub ladder: Vec<Series>,
    /// What pg_partman is told of the target, where it is to make the partitions that follow.
    #[serde(default)]
    pub managed: Option<Managed>,
    /// Constraints, indexes and foreign keys of the source, or of others to it, that the target is without on request.
    #[serde(default)]
    pub left_off: Vec<String>,
    /// Session settings the conversions were given (`TimeZone` …).
    pub settings: Vec<(String, String)>,
    /// The clauses as typed, or the partitioning in words.
    pub clauses: String,
    /// What becomes of values that do not convert; where none, one of them ends the run.
    #[serde(default)]
    pub guard: Option<Guard>,
    /// Which of the source's rows the target has, as SQL over the source row that is never NULL; `None` for all.
    #[serde(default)]
    pub rows: Option<String>,
    /// Further tables that the source's rows go to. What is said here of the target is what remains of the source.
    #[serde(default)]
    pub parts: Vec<Part>,
    /// Tables for the distinct values of columns, to which the target refers.
    #[serde(default)]
    pub lookups: Vec<Lookup>,
    /// Whether each row must belong to a part.
    #[serde(default)]
    pub exhaustive: bool,
    /// A view with the old shape, where one was asked for.
    #[serde(default)]
    pub compat_view: Option<CompatView>,
    /// The way back, where one was asked for: from the new table to the old one.
    #[serde(default)]
    pub back: Option<Box<Plan>>,
    /// On the way back of a table that was taken apart: the new tables, of which the source is what remains.
    #[serde(default)]
    pub rejoin: Option<Rejoin>,
}

/// A partition of the source. It holds rows, unless it is partitioned itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Partition {
    /// Its shape and its place; a parent's is that among [`Plan::partitions`].
    pub branch: Branch,
    /// What must be done to its replica identity first.
    pub identity: IdentityChange,
}

/// How the tables of the target stand to those of the source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    /// Each takes the place of one of the source's, in the same order, and gets the rows of that one.
    #[default]
    Kept,
    /// The target has partitions of its own or, where the source alone is partitioned, none; the server finds the place
    /// of each row.
    Made,
}

/// Ranges of one length by which a target is partitioned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Series {
    /// The level: that of the table's own partitions is 0.
    pub level: usize,
    /// The column.
    pub column: String,
    /// From one bound to the next.
    pub step: Step,
    /// The time zone of the bounds.
    pub zone: String,
    /// What its partitions are called.
    #[serde(default)]
    pub naming: Naming,
}

/// A table that holds rows of the source: the source itself where it is not partitioned.
#[derive(Debug, Clone, Copy)]
pub struct Leaf<'a> {
    /// As it stands.
    pub shape: &'a Shape,
    /// What must be done to its replica identity first.
    pub identity: &'a IdentityChange,
    /// Its place among the tables of the source.
    place: usize,
}

/// One target column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetColumn {
    /// Its name in the target.
    pub name: String,
    /// The source column it stands for, if any.
    pub source: Option<String>,
    /// How its value comes about.
    pub value: Value,
}

/// How a target value comes about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// The source column as it is.
    Copied,
    /// An expression over the source row; the same row always gives the same value.
    Converted {
        /// SQL over the source's columns, every name qualified.
        expression: String,
    },
    /// An expression over the source row that may differ each time: written once, never compared.
    Volatile {
        /// SQL over the source's columns.
        expression: String,
    },
    /// One value for every row that exists before the swap: an added column's default, evaluated once.
    Constant {
        /// A typed SQL literal.
        literal: String,
    },
    /// Left to the shadow's own default or identity: written once, never compared.
    OwnDefault,
    /// Computed by the server from the other columns.
    Generated,
}

impl TargetColumn {
    /// The expression of the projection, `None` where the column is left out of it.
    pub fn expression(&self) -> Option<String> {
        match &self.value {
            Value::Copied => self.source.as_ref().map(|s| Ident(s).to_string()),
            Value::Converted { expression } | Value::Volatile { expression } => Some(expression.clone()),
            Value::Constant { literal } => Some(literal.clone()),
            Value::OwnDefault | Value::Generated => None,
        }
    }

    /// Whether the value follows from the source row alone, so that it is updated and compared.
    pub fn is_derived(&self) -> bool {
        match self.value {
            Value::Copied | Value::Converted { .. } | Value::Constant { .. } => true,
            Value::Volatile { .. } | Value::OwnDefault | Value::Generated => false,
        }
    }
}

/// The key of the source and where it stands in the target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Key {
    /// Its columns.
    pub columns: Vec<KeyColumn>,
    /// How a flush writes the row of a key.
    #[serde(default)]
    pub writing: Writing,
    /// Positions of columns of which the target keeps the values unique though the source does not: keys that have them
    /// in common are one row that moves, and one flusher sees to them. None where that is said of the whole key.
    #[serde(default)]
    pub together: Vec<usize>,
    /// Whether the shadow needs an index over the key until the swap, because the target has none of its own by which
    /// an upsert could be arbitrated or, where the target's partitions are made, the row of a key be found in each.
    pub needs_helper_index: bool,
}

/// How a flush writes the row of a key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub enum Writing {
    /// By an upsert on a unique index over exactly the key.
    #[default]
    OnKey,
    /// By an upsert on a unique index over the key and these columns, by which the target is partitioned. The row that
    /// the key has under other values of them is removed first: it is in another partition.
    OnKeyAnd(Vec<KeyColumn>),
    /// It is removed and written again: no unique index tells whether it is there.
    Again,
    /// The same of its rows, of which there may be several or none.
    All,
}

impl Key {
    /// What an upsert's unique index is over besides the key.
    pub fn beside(&self) -> &[KeyColumn] {
        match &self.writing {
            Writing::OnKey | Writing::Again | Writing::All => &[],
            Writing::OnKeyAnd(columns) => columns,
        }
    }
}

/// One key column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyColumn {
    /// Its name in the source.
    pub source: String,
    /// Its type in the source, as SQL.
    pub source_type: String,
    /// Equality over it, as SQL: `=` or `OPERATOR(schema.=)`.
    pub source_equal: String,
    /// Its name in the target.
    pub target: String,
    /// Equality over the target column.
    pub target_equal: String,
    /// The target's value, as SQL over the source's key columns.
    pub expression: String,
    /// Whether equal values always have equal texts.
    pub canonical: bool,
}

/// What is done to the source's replica identity before it is published.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum IdentityChange {
    /// It covers the key already.
    #[default]
    None,
    /// REPLICA IDENTITY USING INDEX.
    Index {
        /// The index's name.
        index: String,
    },
    /// REPLICA IDENTITY FULL: only a deferrable key tells the rows apart.
    Full,
}

impl IdentityChange {
    /// Whether the table has the identity FULL then.
    pub fn leaves_full(&self, shape: &Shape) -> bool {
        match self {
            IdentityChange::None => shape.replica_identity == 'f',
            IdentityChange::Index { .. } => false,
            IdentityChange::Full => true,
        }
    }
}

impl Plan {
    /// A plan by which the rows of one ordinary table become those of another, and nothing else is done.
    pub fn plain(source: Shape, target: Shape, columns: Vec<TargetColumn>, key: Key) -> Plan {
        Plan {
            source,
            target,
            columns,
            key,
            identity: IdentityChange::None,
            partitions: Vec::new(),
            branches: Vec::new(),
            layout: Layout::Kept,
            ladder: Vec::new(),
            managed: None,
            left_off: Vec::new(),
            settings: Vec::new(),
            clauses: String::new(),
            guard: None,
            rows: None,
            parts: Vec::new(),
            lookups: Vec::new(),
            exhaustive: false,
            compat_view: None,
            back: None,
            rejoin: None,
        }
    }

    /// Whether the target has partitions that the source has not.
    pub fn makes_partitions(&self) -> bool {
        self.layout == Layout::Made && self.target.is_partitioned()
    }

    /// The source with its partitions, and with nothing else that may inherit from it, as LOCK TABLE and FROM name it.
    pub fn whole_source(&self) -> String {
        match self.source.is_partitioned() {
            true => self.source.name.to_string(),
            false => format!("ONLY {}", self.source.name),
        }
    }

    /// The source as the FROM clause of every statement that evaluates the projection: aliased to its bare name, so
    /// that a qualified column reference of the user's expression still means it.
    pub fn source_from(&self) -> String {
        format!("{} AS {}", self.rows_source(), self.alias())
    }

    /// One table that holds rows of the source as such a FROM clause.
    pub fn leaf_from(&self, leaf: &Shape) -> String {
        format!("ONLY {} AS {}", leaf.name, self.alias())
    }

    /// The tables of the target, parents before children; one that is not partitioned is alone.
    pub fn members(&self, names: &Names) -> Vec<Member<'_>> {
        let root = Member { source: Some(&self.source), target: &self.target, hangs: None, names: names.clone() };
        let branches = self.branches.iter().enumerate().map(|(n, branch)| Member {
            source: match self.layout {
                Layout::Kept => self.partitions.get(n).map(|p| &p.branch.shape),
                Layout::Made => None,
            },
            target: &branch.shape,
            hangs: Some((branch.parent.map_or(0, |n| n + 1), branch.bound.as_str())),
            names: names.of_partition(n),
        });
        std::iter::once(root).chain(branches).collect()
    }

    /// Those of the members that hold rows.
    pub fn holders(&self, names: &Names) -> Vec<Member<'_>> {
        let mut members = self.members(names);
        members.retain(|member| !member.target.is_partitioned());
        members
    }

    /// The level of a partition of the target: that of the table's own partitions is 0.
    pub fn level(&self, branch: &Branch) -> usize {
        std::iter::successors(branch.parent, |parent| self.branches.get(*parent)?.parent).count()
    }

    /// The tables of the source that hold rows.
    pub fn leaves(&self) -> Vec<Leaf<'_>> {
        let root = Leaf { shape: &self.source, identity: &self.identity, place: 0 };
        let partitions = self.partitions.iter().enumerate();
        let partitions = partitions.map(|(n, p)| Leaf { shape: &p.branch.shape, identity: &p.identity, place: n + 1 });
        std::iter::once(root).chain(partitions).filter(|leaf| !leaf.shape.is_partitioned()).collect()
    }

    /// The table of the target that the rows of a leaf are copied to, as it is called until the swap.
    pub fn destination(&self, leaf: &Leaf<'_>, names: &Names) -> QualifiedName {
        match (self.layout, leaf.place.checked_sub(1)) {
            (Layout::Kept, Some(partition)) => names.of_partition(partition).shadow(),
            (Layout::Kept, None) | (Layout::Made, _) => names.shadow(),
        }
    }

    /// The tables of the source, parents before children, and those beside it.
    pub fn sources(&self) -> impl Iterator<Item = &Shape> {
        let beside = self.besides().iter().map(|beside| &beside.shape);
        std::iter::once(&self.source).chain(self.partitions.iter().map(|p| &p.branch.shape)).chain(beside)
    }

    /// Oids of the tables of the source, as an SQL list.
    pub fn oids(&self) -> String {
        self.sources().map(|shape| shape.oid.to_string()).collect::<Vec<_>>().join(", ")
    }

    /// Whether the replica identity of any table that holds rows must be changed.
    pub fn changes_identity(&self) -> bool {
        self.leaves().iter().any(|leaf| *leaf.identity != IdentityChange::None)
    }

    /// The alias of the source in every statement.
    pub fn alias(&self) -> String {
        Ident(&self.source.name.name).to_string()
    }

    /// ` AND (…)`: that the target has the source's row; nothing where it has all.
    pub fn and_its_rows(&self) -> String {
        self.rows.as_ref().map(|rows| format!(" AND ({rows})")).unwrap_or_default()
    }

    /// Columns the copy and the flush write: (name, expression).
    pub fn written(&self) -> Vec<(&str, String)> {
        self.columns.iter().filter_map(|c| c.expression().map(|e| (c.name.as_str(), e))).collect()
    }

    /// The name of a source column in the target, where it is there.
    pub fn name_after(&self, column: &str) -> Option<&str> {
        self.columns.iter().find(|c| c.source.as_deref() == Some(column)).map(|c| c.name.as_str())
    }

    /// Whether the sequence of a source column stays with the old table. An identity column's is its own, and a serial's
    /// stays where the column becomes an identity, which gets another.
    pub fn leaves_sequence(&self, column: &Column) -> bool {
        let target = || self.name_after(&column.name).and_then(|name| self.target.column(name));
        column.origin.is_identity() || target().is_some_and(|target| target.origin.is_identity())
    }

    /// `OVERRIDING SYSTEM VALUE`, which an identity column that is written needs.
    pub fn overriding(&self) -> &'static str {
        let identity = |c: &&TargetColumn| {
            c.expression().is_some() && self.target.column(&c.name).is_some_and(|t| t.origin.is_identity())
        };
        if self.columns.iter().any(|c| identity(&c)) { " OVERRIDING SYSTEM VALUE" } else { "" }
    }

    /// Whether the target's key has the very values of the source's: no two source keys can make one target key then.
    pub fn keeps_key_values(&self) -> bool {
        let integer = |c: &Column| matches!(c.base_type_sql.as_str(), "smallint" | "integer" | "bigint");
        self.key.columns.iter().all(|k| {
            let (Some(from), Some(to)) = (self.source.column(&k.source), self.target.column(&k.target)) else {
                return false;
            };
            let name = plain_ident(&k.source);
            let cast = [format!("({name})::{}", to.base_type_sql), format!("{name}::{}", to.base_type_sql)];
            k.expression == Ident(&k.source).to_string()
                || (integer(from) && integer(to) && cast.contains(&k.expression))
        })
    }

    /// Names of the source's key columns.
    pub fn key_names(&self) -> Vec<String> {
        self.key.columns.iter().map(|c| c.source.clone()).collect()
    }
}

impl Key {
    /// Whether equal values always have equal texts, so that a key's text tells which flusher it belongs to. Two
    /// spellings of one `numeric` or `citext` key would meet in two flushers at once (rule 6).
    pub fn is_canonical(&self) -> bool {
        self.columns.iter().all(|k| k.canonical)
    }
}
