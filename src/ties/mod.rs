//! What is tied to a table by its oid, in one picture that preflight and cut-over share: read from the catalog, judged
//! before anything is touched, carried in the swap.
//!
//! What is not in here and depends on the table is found, and refused by name, by [`crate::preflight`].

mod carry;
mod defaults;
mod foreign_keys;
mod former;
mod functions;
pub mod grants;
mod judge;
mod kin;
mod made;
mod partition;
mod partitioned;
mod parts;
mod read;
mod sequences;
mod stored;
mod text;
mod together;
mod trial;
mod views;

use serde::Deserialize;

pub use carry::Carry;
pub use defaults::OtherDefault;
pub use foreign_keys::{Owed, Whole, validate};
pub use functions::{Function, set_aside_sql};
pub use grants::Grant;
pub use made::{Recipe, made};
pub use sequences::OwnedSequence;
pub use stored::{Rows, Stored};
pub use together::{share, tied_to_several};

use crate::error::Failure;
use crate::pg::sql::plain_ident;
use crate::pg::{Conn, QualifiedName};
use crate::plan::kin::Kin;
use crate::plan::types::Plan;
use crate::preflight::Finding;

/// Everything that is carried.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ties {
    /// Foreign keys of the table, to itself too.
    pub outgoing: Vec<ForeignKey>,
    /// Foreign keys of other tables that refer to it.
    pub incoming: Vec<ForeignKey>,
    /// Its triggers.
    pub triggers: Vec<Trigger>,
    /// Its rules, and those of other relations that mention it.
    pub rules: Vec<Rule>,
    /// Its policies, and those of other tables that mention it.
    pub policies: Vec<Policy>,
    /// Row level security.
    pub security: Security,
    /// Extended statistics over it.
    pub statistics: Vec<Statistics>,
    /// Publications that name it.
    pub publications: Vec<Publication>,
    /// Publications of its schema: the new table is in them by its name.
    pub schema_publications: Vec<String>,
    /// Publications that would send a change of a partition under its own name.
    pub unrooted: Vec<String>,
    /// Publications of the partitioned tables above it.
    pub published_above: Vec<String>,
    /// Views on it and on those views, materialized ones too, nearest first.
    pub views: Vec<View>,
    /// The view with the old shape that a split left, on the way back from it.
    pub former: Option<View>,
    /// Functions and procedures that read it or have its row type in their signature.
    pub functions: Vec<Function>,
    /// Defaults of other tables that name it or its row type.
    pub defaults: Vec<OtherDefault>,
    /// Sequences of its columns.
    pub sequences: Vec<OwnedSequence>,
    /// The tables it is related to.
    pub kin: Kin,
}

impl Ties {
    /// Reads them, under an empty search path. `publication` is the migration's own, and no tie.
    pub async fn read(conn: &Conn, oid: u32, publication: &str, version: u32) -> Result<Ties, Failure> {
        read::ties(conn, oid, publication, version).await
    }

    /// What cannot be carried through any change, which planning may stumble over.
    pub fn never(&self) -> Vec<Finding> {
        self.functions.iter().flat_map(functions::judge).collect()
    }

    /// What leaves no way back to the old table, as far as the picture itself shows it.
    pub fn no_way_back(&self, plan: &Plan) -> Vec<Finding> {
        let hint = "Leave --rollback-window out to migrate without a way back.";
        let none = |what: String| Finding::new(format!("there is no way back for --rollback-window: {what}"), hint);
        let mut found = Vec::new();
        // What is left off is not on the new table, and would not come back with the old one.
        let keys = self.outgoing.iter().chain(&self.incoming).filter(|key| plan.left_off.contains(&key.name));
        found.extend(keys.map(|key| none(format!("foreign key {} is left off", plain_ident(&key.name)))));
        if self.kin != Kin::default() {
            found.push(none("the table is a partition, is typed, inherits, or has children".to_owned()));
        }
        // The old table is in them as well, and what is written to it would be sent.
        found.extend(
            self.schema_publications
                .iter()
                .map(|p| none(format!("publication {} would send what goes back, too", plain_ident(p)))),
        );
        found
    }

    /// What cannot be carried through this change, as far as the picture itself shows it.
    pub fn judge(&self, plan: &Plan) -> Vec<Finding> {
        judge::judge(plan, self)
    }

    /// Those of a partition that it has not from the table it belongs to: they are not carried.
    pub fn of_partition(&self, name: &QualifiedName) -> Vec<Finding> {
        partition::findings(self, name)
    }

    /// Those of a new table of one that was taken apart, which goes with a rollback.
    pub fn of_beside(&self, back: &Plan, name: &QualifiedName) -> Vec<Finding> {
        parts::of_beside(self, back, name)
    }

    /// What cannot be carried through this change. `conn` is a session in which temporary tables may be made.
    pub async fn findings(&self, conn: &Conn, plan: &Plan, version: u32) -> Result<Vec<Finding>, Failure> {
        let found = self.judge(plan);
        // What is refused anyway need not be tried.
        if found.is_empty() { trial::trial(conn, plan, self, version).await } else { Ok(found) }
    }
}

/// A table at one end of a foreign key.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct End {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Its name.
    pub name: QualifiedName,
    /// `pg_class.relkind`.
    pub kind: char,
    /// What is below it, where it is partitioned.
    pub partitions: Vec<u32>,
    /// Whether this role may alter it, and, where that is asked for, what is below it.
    pub owned: bool,
    /// Whether its owner lets this role refer to it.
    pub referable: bool,
}

/// A foreign key (`pg_constraint`).
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ForeignKey {
    /// Its name.
    pub name: String,
    /// The table that has it.
    pub table: End,
    /// The table it refers to.
    pub refers_to: End,
    /// Its columns.
    pub columns: Vec<String>,
    /// The columns referred to, in the same order.
    pub key: Vec<String>,
    /// MATCH and ON UPDATE.
    pub actions: String,
    /// ON DELETE, where it is not NO ACTION.
    pub on_delete: Option<String>,
    /// The columns that SET NULL or SET DEFAULT is about, where it is not all.
    pub on_delete_columns: Option<Vec<String>>,
    /// DEFERRABLE.
    pub deferrable: bool,
    /// INITIALLY DEFERRED.
    pub deferred: bool,
    /// Whether existing rows are known to pass.
    pub validated: bool,
    /// PostgreSQL 18: whether it is enforced.
    pub enforced: bool,
    /// PostgreSQL 18: whether it is over periods.
    pub temporal: bool,
    /// Whether it is a partition's share of its parent's, and the parent's is none of the table's.
    pub inherited: bool,
    /// The shares of the partitions of the table that has it, a partition's before its parent's.
    pub shares: Vec<Share>,
    /// Whether the server takes one NOT VALID for a partitioned table: PostgreSQL 18 and later.
    pub takes_partitions_unseen: bool,
    /// Its comment.
    pub comment: Option<String>,
}

impl ForeignKey {
    /// Whether it refers to its own table.
    pub fn is_to_itself(&self) -> bool {
        self.table.oid == self.refers_to.oid
    }
}

/// A partition's share of its parent's foreign key.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Share {
    /// The partition.
    pub table: QualifiedName,
    /// `pg_class.relkind`.
    pub kind: char,
    /// Its name there.
    pub name: String,
    /// Whether existing rows are known to pass.
    pub validated: bool,
    /// Its comment.
    pub comment: Option<String>,
}

/// A trigger.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Trigger {
    /// Its name.
    pub name: String,
    /// `CREATE TRIGGER …`.
    pub definition: String,
    /// `pg_trigger.tgenabled`.
    pub enabled: char,
    /// The same of the parent's trigger that it follows, where the table is a partition.
    pub above: Option<char>,
    /// Columns of the table that it names.
    pub mentions: Vec<String>,
    /// Whether a partition has it from its parent, in the same state.
    pub inherited: bool,
    /// Its comment.
    pub comment: Option<String>,
    /// Extensions that it was told to depend on.
    pub extensions: Vec<String>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// Whether it is the table's own, not another relation's that mentions it.
    pub own: bool,
    /// The relation's oid.
    pub oid: u32,
    /// Whether that is a view.
    pub of_view: bool,
    /// The relation it is on.
    pub table: QualifiedName,
    /// Whether this role may change it.
    pub owned: bool,
    /// `CREATE RULE …`.
    pub definition: String,
    /// `pg_rewrite.ev_enabled`.
    pub enabled: char,
    /// Columns of the table that it names.
    pub mentions: Vec<String>,
    /// Its comment.
    pub comment: Option<String>,
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// Whether it is the table's own, not another table's that mentions it.
    pub own: bool,
    /// The table's oid.
    pub oid: u32,
    /// The table it is on.
    pub table: QualifiedName,
    /// Whether this role may change it.
    pub owned: bool,
    /// PERMISSIVE or RESTRICTIVE.
    pub permissive: bool,
    /// `ALL`, `SELECT` …
    pub command: String,
    /// Roles; none is PUBLIC.
    pub roles: Vec<String>,
    /// USING.
    pub using: Option<String>,
    /// WITH CHECK.
    pub check: Option<String>,
    /// Columns of the table that it names.
    pub mentions: Vec<String>,
    /// Its comment.
    pub comment: Option<String>,
}

/// Row level security.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct Security {
    /// ENABLE.
    pub enabled: bool,
    /// FORCE.
    pub forced: bool,
    /// Whether it would hide rows from this role.
    pub hides: bool,
}

/// An extended statistics object.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Statistics {
    /// Its oid.
    pub oid: u32,
    /// Its name.
    pub name: QualifiedName,
    /// Its owner.
    pub owner: String,
    /// Whether this role may alter it.
    pub owned: bool,
    /// `ndistinct`, `dependencies`, `mcv`.
    pub kinds: Vec<String>,
    /// What it is over, as SQL.
    pub columns: String,
    /// Whether it is over one expression, which has no kinds.
    pub single: bool,
    /// Columns of the table that it names.
    pub mentions: Vec<String>,
    /// Its statistics target.
    pub target: Option<i32>,
    /// Its comment.
    pub comment: Option<String>,
}

/// Membership in a publication.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Publication {
    /// The publication.
    pub name: String,
    /// Whether this role may alter it.
    pub owned: bool,
    /// Its column list.
    pub columns: Option<Vec<String>>,
    /// Its row filter.
    pub filter: Option<String>,
    /// Columns of the table that list and filter name.
    pub mentions: Vec<String>,
}

/// A view, or a materialized view.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct View {
    /// Its oid.
    pub oid: u32,
    /// `pg_class.relkind`.
    pub kind: char,
    /// What a materialized view has besides.
    #[serde(skip)]
    pub stored: Option<Stored>,
    /// Its name.
    pub name: QualifiedName,
    /// Its query.
    pub definition: String,
    /// `name=value`.
    pub options: Vec<String>,
    /// Its owner.
    pub owner: String,
    /// Whether this role may replace it.
    pub owned: bool,
    /// Whether this role may make one in its schema, and its owner have it there.
    pub creatable: bool,
    /// Whether it reads the table itself, not another view only.
    pub direct: bool,
    /// Whether a column of it has the table's row type.
    pub typed: bool,
    /// Whether a column of it may get another type by another table that is migrated together with this one.
    #[serde(skip)]
    pub retyped: bool,
    /// Views of the list that it reads.
    pub uses: Vec<u32>,
    /// Columns of the table that it names.
    pub mentions: Vec<String>,
    /// Its comment.
    pub comment: Option<String>,
    /// Comments of its columns.
    pub column_comments: Vec<(String, String)>,
    /// Defaults of its columns.
    pub defaults: Vec<(String, String)>,
    /// Grants.
    pub grants: Vec<Grant>,
    /// Whether they differ from what an owner has by default.
    pub explicit_grants: bool,
    /// Roles that get something on a new view of this role's.
    pub by_default: Vec<Option<String>>,
    /// Its triggers.
    pub triggers: Vec<Trigger>,
    /// Its rules, as SQL.
    pub rules: Vec<String>,
    /// What depends on it besides views, or binds it otherwise.
    pub others: Vec<String>,
}

impl View {
    /// What it is called in SQL.
    pub fn word(&self) -> &'static str {
        if self.stored.is_some() { "MATERIALIZED VIEW" } else { "VIEW" }
    }

    /// What it is called in messages.
    pub fn plain(&self) -> String {
        let word = if self.stored.is_some() { "materialized view" } else { "view" };
        format!("{word} {}", self.name.plain())
    }
}
