//! What a migration's own tables, indexes and the rest are called in the database, until the swap and after it. Pure.

use serde::{Deserialize, Serialize};

use super::guard::Function;
use super::shape::Shape;
use crate::pg::QualifiedName;

/// A table of the target: the root, or one of its partitions.
#[derive(Debug, Clone)]
pub struct Member<'a> {
    /// The table of the source whose place it takes.
    pub source: Option<&'a Shape>,
    /// As it will stand.
    pub target: &'a Shape,
    /// Its parent's place among the members, and its bound; `None` for the root.
    pub hangs: Option<(usize, &'a str)>,
    /// The names of what is its own until the swap.
    pub(super) names: Names,
}

impl Member<'_> {
    /// Whether it is the table itself, not a partition.
    pub fn is_root(&self) -> bool {
        self.hangs.is_none()
    }

    /// Whether it is the old table, on the way back to it.
    pub fn is_old(&self) -> bool {
        self.names.are_backwards()
    }

    /// What it is called until the swap. What is made for the migration has nobody's place to take and waits under its
    /// own name, so that the swap has less to do.
    pub fn shadow(&self) -> QualifiedName {
        match self.has_place() {
            true => self.names.shadow(),
            false => QualifiedName::new(SCHEMA, &self.target.name.name),
        }
    }

    fn has_place(&self) -> bool {
        self.source.is_some() || self.is_old()
    }

    /// What its nth index is called until the swap.
    pub fn index(&self, n: usize) -> QualifiedName {
        match self.has_place() {
            true => self.names.index(n),
            false => QualifiedName::new(SCHEMA, self.target.indexes.get(n).map_or("", |index| index.name.as_str())),
        }
    }

    /// See [`Key::needs_helper_index`].
    pub fn helper_index(&self) -> QualifiedName {
        self.names.helper_index()
    }
}

/// The names a migration uses in the database, from its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    id: i32,
    /// The migration whose stream brings the table's changes: itself, or the head of the tables it goes with.
    head: i32,
    /// A partition's place in the plan.
    partition: Option<usize>,
    /// A part's place in the plan.
    part: Option<usize>,
    /// The table that follows the new one, once they are swapped.
    old: Option<OldNames>,
}

/// What the old table and its belongings are called after the swap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldNames {
    /// The table.
    pub table: QualifiedName,
    /// Its indexes, in the order of its shape.
    pub indexes: Vec<String>,
    /// The sequences of its columns, in the order of its shape.
    pub sequences: Vec<Option<QualifiedName>>,
    /// The same of its partitions, in the order of the plan.
    #[serde(default)]
    pub partitions: Vec<OldNames>,
}

/// The schema that holds everything the tool owns.
pub const SCHEMA: &str = "pgrecast";

impl Names {
    /// The names of migration `id`.
    pub fn new(id: i32) -> Self {
        Names { id, head: id, partition: None, part: None, old: None }
    }

    /// Those of a table that goes with others, whose head has this id.
    pub fn beside(id: i32, head: i32) -> Self {
        Names { head, ..Names::new(id) }
    }

    /// The migration that has phase, stream and lease.
    pub fn head(&self) -> i32 {
        self.head
    }

    /// The same for the nth partition of the target: its shadow, and what belongs to that.
    pub(super) fn of_partition(&self, n: usize) -> Self {
        let old = self.old.as_ref().map(|old| old.partitions.get(n).cloned().unwrap_or_default());
        Names { partition: Some(n), part: None, old, ..*self }
    }

    /// The same for the nth part: its shadow, and what belongs to that.
    pub fn of_part(&self, n: usize) -> Self {
        Names { partition: None, part: Some(n), old: None, ..*self }
    }

    /// Names that are known beforehand, of a table that belongs to no one migration's shadow.
    pub fn fixed(names: OldNames) -> Self {
        Names { old: Some(names), ..Names::new(0) }
    }

    /// The names of the way back, on which the old table is the shadow of the new one.
    pub fn backwards(&self, old: OldNames) -> Self {
        Names { partition: None, part: None, old: Some(old), ..*self }
    }

    /// The shadow table.
    pub fn shadow(&self) -> QualifiedName {
        match &self.old {
            Some(old) => old.table.clone(),
            None => QualifiedName::new(SCHEMA, self.stem()),
        }
    }

    fn stem(&self) -> String {
        match (self.part, self.partition) {
            (Some(n), _) => format!("shadow_{}_part_{n}", self.id),
            (None, None) => format!("shadow_{}", self.id),
            (None, Some(n)) => format!("shadow_{}_partition_{n}", self.id),
        }
    }

    /// The shadow's nth index, until the swap renames it.
    pub fn index(&self, n: usize) -> QualifiedName {
        match self.old.as_ref().and_then(|old| Some(old.table.sibling(old.indexes.get(n)?.clone()))) {
            Some(name) => name,
            None => QualifiedName::new(SCHEMA, format!("{}_index_{n}", self.stem())),
        }
    }

    /// The shadow's helper index.
    fn helper_index(&self) -> QualifiedName {
        QualifiedName::new(SCHEMA, format!("{}_key", self.stem()))
    }

    /// The view with the old shape, before the swap gives it its name.
    pub fn compat_view(&self) -> QualifiedName {
        QualifiedName::new(SCHEMA, format!("shadow_{}_view", self.id))
    }

    /// The table that the shadow inherits from until the swap.
    pub fn stand_in(&self) -> QualifiedName {
        QualifiedName::new(SCHEMA, format!("shadow_{}_parent", self.id))
    }

    /// The sequence of the shadow's nth column, until the swap renames it.
    pub fn sequence(&self, n: usize) -> QualifiedName {
        match self.old.as_ref().and_then(|old| old.sequences.get(n)?.clone()) {
            Some(name) => name,
            None => QualifiedName::new(SCHEMA, format!("{}_sequence_{n}", self.stem())),
        }
    }

    /// The shadow's statistics object for the one with this oid, until the swap renames it.
    pub fn statistics(&self, oid: u32) -> QualifiedName {
        QualifiedName::new(SCHEMA, format!("{}_statistics_{oid}", self.stem()))
    }

    /// What the names of views begin with that are made on the shadow before the swap.
    pub fn made_prefix(&self) -> String {
        format!("shadow_{}_made_", self.id)
    }

    /// The view on the shadow for the one with this oid, until the swap gives it its name.
    pub fn made(&self, oid: u32) -> QualifiedName {
        QualifiedName::new(SCHEMA, format!("{}{oid}", self.made_prefix()))
    }

    /// A schema in which the stand-in for the relation with this oid has that one's name, while views are made.
    pub fn stage(&self, oid: u32) -> String {
        format!("pgrecast_{}_{oid}", self.id)
    }

    /// The nth index of such a materialized view.
    pub fn made_index(&self, oid: u32, n: usize) -> QualifiedName {
        QualifiedName::new(SCHEMA, format!("shadow_{}_view_{oid}_index_{n}", self.id))
    }

    /// What the names of views begin with that made room in the swap and are dropped after it.
    pub fn away_prefix(&self) -> String {
        format!("pgrecast_{}_old_", self.id)
    }

    /// The name of a view that makes room.
    pub fn away(&self, oid: u32) -> String {
        format!("{}{oid}", self.away_prefix())
    }

    /// The function with this oid that the swap made again, from then on.
    pub fn old_function(&self, oid: u32) -> QualifiedName {
        QualifiedName::new(SCHEMA, format!("{}{oid}", self.old_function_prefix()))
    }

    /// What the name of every such function begins with.
    pub fn old_function_prefix(&self) -> String {
        format!("function_{}_", self.id)
    }

    /// A function of the nth guarded column.
    pub fn guard(&self, function: Function, n: usize) -> QualifiedName {
        QualifiedName::new(SCHEMA, format!("{}{n}", self.guard_prefix(function)))
    }

    /// What the names of those functions begin with.
    pub fn guard_prefix(&self, function: Function) -> String {
        match function {
            Function::Conversion => format!("convert_{}_", self.id),
            Function::Refusal => format!("refuse_{}_", self.id),
        }
    }

    /// Where the values are that do not convert, until the swap.
    pub fn quarantine(&self) -> QualifiedName {
        QualifiedName::new(SCHEMA, format!("quarantine_{}", self.id))
    }

    /// The journal's nth generation.
    pub fn journal(&self, generation: u32) -> QualifiedName {
        QualifiedName::new(SCHEMA, format!("{}{generation}", self.journal_prefix()))
    }

    /// What every journal generation's name begins with.
    pub fn journal_prefix(&self) -> String {
        format!("{}_{}_", if self.old.is_some() { "journal_back" } else { "journal" }, self.id)
    }

    /// The publication.
    pub fn publication(&self) -> String {
        match self.old {
            Some(_) => self.back_publication(),
            None => format!("pgrecast_{}", self.head),
        }
    }

    /// The publication of the way back.
    pub fn back_publication(&self) -> String {
        format!("pgrecast_{}_back", self.head)
    }

    /// The replication slot: slots belong to the cluster, so the database's oid is part of the name.
    pub fn slot(&self, database: u32) -> String {
        match self.old {
            Some(_) => self.back_slot(database),
            None => format!("pgrecast_{database}_{}", self.head),
        }
    }

    /// The slot of the way back.
    pub fn back_slot(&self, database: u32) -> String {
        format!("pgrecast_{database}_{}_back", self.head)
    }

    /// Whether these are the names of a part.
    pub fn is_of_part(&self) -> bool {
        self.part.is_some()
    }

    /// Whether these are the names of the way back.
    pub fn are_backwards(&self) -> bool {
        self.old.is_some()
    }
}
