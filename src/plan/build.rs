//! Source, clauses and options become a [`Plan`]: final names, key, conversions that need a setting.

use super::ddl::free_name;
use super::guard;
use super::key;
use super::model::{self, Modelled, Volatility};
use super::partitioning;
use super::partitions;
use super::shape::{Origin, Shape};
use super::split;
use super::tree::{self, Branch, Tree};
use super::types::{IdentityChange, Partition, Plan, Value};
use crate::cli::OnError;
use crate::error::Failure;
use crate::pg::{Conn, Ident};
use crate::spec::{Clauses, Spec};

/// What the user asked for, besides the table.
pub struct Request<'a> {
    /// What is to be done.
    pub spec: &'a Spec,
    /// In words, for the control schema.
    pub text: &'a str,
    /// `--primary-key`.
    pub primary_key: Option<&'a [String]>,
    /// `--setting`.
    pub settings: &'a [(String, String)],
    /// `--on-error`.
    pub on_error: OnError,
}

/// Plans. `conn` must still have the role's own search path; nothing is changed.
///
/// # Errors
/// Exit 2 and 3, see [`model::model`] and [`key::choose`].
pub async fn plan(conn: &Conn, tree: Tree, request: &Request<'_>, version: u32) -> Result<Plan, Failure> {
    let clauses = match request.spec {
        Spec::Alter(clauses) => clauses,
        Spec::Partition(spec) => return partitioning::plan(conn, tree, spec, request, version).await,
        Spec::Split(spec) => return split::plan(conn, tree, spec, request, version).await,
    };
    altered(conn, tree, clauses, request, version).await
}

/// What these clauses make of the table.
pub(super) async fn altered(
    conn: &Conn,
    tree: Tree,
    clauses: &Clauses,
    request: &Request<'_>,
    version: u32,
) -> Result<Plan, Failure> {
    partitions::refuse_source(&tree)?;
    let source = &tree.root;
    let clauses = with_primary_key(source, clauses, request.primary_key)?;
    let modelled = model::model(conn, &tree, &clauses, version).await?;
    refuse_unpinned(&modelled, request.settings)?;
    let reads = |column: &str| modelled.conversions.iter().find(|c| c.column == column).and_then(|c| c.reads.clone());
    let (key, identity) = key::choose(source, &modelled.target, &modelled.columns, &modelled.equalities, &reads)?;
    refuse_unpublished(source, &identity)?;
    partitions::refuse_target(&tree, &modelled, &key)?;
    let taken = relation_names(conn, tree.shapes().map(|shape| shape.name.schema.as_str())).await?;
    let mut names = FinalNames::new(&tree, taken);
    let mut target = names.apply(source, modelled.target);
    tree::without_parents(&mut target);
    let targets: Vec<Shape> =
        tree.branches.iter().zip(modelled.branches).map(|(b, target)| names.apply(&b.shape, target)).collect();
    refuse_empty_not_null(conn, source, &target, &modelled.columns).await?;
    let identities = partitions::identities(&tree, &key)?;
    let branches = tree.branches.iter().zip(targets).map(|(branch, mut shape)| {
        names.rename_parents(&mut shape);
        Branch { shape, ..branch.clone() }
    });
    let mut plan = Plan {
        branches: branches.collect(),
        partitions: (tree.branches.into_iter().zip(identities))
            .map(|(branch, identity)| Partition { branch, identity })
            .collect(),
        identity,
        settings: request.settings.to_vec(),
        clauses: request.text.to_owned(),
        ..Plan::plain(tree.root, target, modelled.columns, key)
    };
    plan.guard = guard::choose(conn, &plan, &modelled.conversions, request.on_error).await?;
    Ok(plan)
}

/// `--primary-key` is a short form of two clauses.
fn with_primary_key(source: &Shape, clauses: &Clauses, columns: Option<&[String]>) -> Result<Clauses, Failure> {
    let mut clauses = clauses.clone();
    let Some(columns) = columns else { return Ok(clauses) };
    let list = crate::pg::sql::ident_list(columns.iter().map(String::as_str));
    let mut text = format!("ADD PRIMARY KEY ({list})");
    if let Some(index) = source.primary_key() {
        text = format!("DROP CONSTRAINT {}, ADD CONSTRAINT {0} PRIMARY KEY ({list})", Ident(&index.name));
    }
    clauses.list.extend(Clauses::parse(&text)?.list);
    Ok(clauses)
}

/// A conversion that depends on a session setting needs the setting (rule 10).
pub(super) fn refuse_unpinned(modelled: &Modelled, settings: &[(String, String)]) -> Result<(), Failure> {
    let unpinned = modelled.conversions.iter().find(|c| c.volatility == Volatility::Stable && settings.is_empty());
    match unpinned {
        None => Ok(()),
        Some(c) => {
            Err(Failure::refused(format!("the conversion of column {} depends on session settings", Ident(&c.column)))
                .detail(format!(
                    "The expression {} is not immutable: it may give other values in a session with other settings.",
                    c.expression
                ))
                .hint(
                    "Write the setting into the expression (for instance USING column AT TIME ZONE 'UTC'), or give it: \
             --setting TimeZone=UTC. Settings not given are pinned to TimeZone UTC and DateStyle ISO.",
                ))
        }
    }
}

/// A virtual column is never published, and an UPDATE fails whose replica identity has one (PostgreSQL 18).
pub(super) fn refuse_unpublished(source: &Shape, identity: &IdentityChange) -> Result<(), Failure> {
    let full = identity.leaves_full(source);
    match source.columns.iter().find(|c| full && c.origin == Origin::Virtual) {
        None => Ok(()),
        Some(column) => Err(Failure::refused(format!(
            "{} has the replica identity FULL and the virtual column {}",
            source.name.plain(),
            Ident(&column.name)
        ))
        .detail("Once the table is published, every UPDATE and DELETE of the application would fail.")
        .hint("Give it a key as its replica identity: ALTER TABLE … REPLICA IDENTITY DEFAULT.")),
    }
}

/// A NOT NULL column without a value fails on the first row: say so before anything is touched.
async fn refuse_empty_not_null(
    conn: &Conn,
    source: &Shape,
    target: &Shape,
    columns: &[super::types::TargetColumn],
) -> Result<(), Failure> {
    let null = |c: &&super::types::TargetColumn| {
        matches!(&c.value, Value::Constant { literal } if literal.starts_with("NULL::"))
            && target.column(&c.name).is_some_and(|t| t.not_null)
    };
    let Some(column) = columns.iter().find(null) else { return Ok(()) };
    let only = if source.is_partitioned() { "" } else { "ONLY " };
    let sql = format!("SELECT 1 FROM {only}{} LIMIT 1", source.name);
    if conn.scalar("look for rows", &sql).await?.is_none() {
        return Ok(());
    }
    Err(Failure::refused(format!(
        "column {} would be NOT NULL and has no value for the existing rows",
        Ident(&column.name)
    ))
    .hint("Give it a DEFAULT, or add it without NOT NULL."))
}

/// Every relation name of these schemas: tables, indexes and sequences of one share it.
pub async fn relation_names(conn: &Conn, schemas: impl Iterator<Item = &str>) -> Result<Vec<String>, Failure> {
    let mut schemas: Vec<&str> = schemas.collect();
    schemas.sort_unstable();
    schemas.dedup();
    let sql = "SELECT c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname = ANY ($1)";
    Ok(conn.rows("read relation names", sql, &[&schemas]).await?.iter().map(|r| r.get(0)).collect())
}

/// The model's names, moved to the source's schema: an index the source has keeps its name, a new one gets the
/// server's name for it, or a free one where that is taken.
pub(super) struct FinalNames {
    used: Vec<String>,
    own: Vec<String>,
    taken: Vec<String>,
    /// Indexes: as the model calls them, and as they will be called.
    indexes: Vec<(String, String)>,
}

impl FinalNames {
    pub(super) fn new(tree: &Tree, taken: Vec<String>) -> Self {
        let indexes = tree.shapes().flat_map(|s| s.indexes.iter().map(|i| i.name.clone()));
        let sequences = tree
            .shapes()
            .flat_map(|s| s.columns.iter().filter_map(|c| c.sequence.as_ref().map(|s| s.name.name.clone())));
        FinalNames { used: Vec::new(), own: indexes.chain(sequences).collect(), taken, indexes: Vec::new() }
    }

    /// For tables that take nobody's place.
    pub(super) fn beside(taken: Vec<String>) -> Self {
        FinalNames { used: Vec::new(), own: Vec::new(), taken, indexes: Vec::new() }
    }

    pub(super) fn settle(&mut self, name: &str) -> String {
        let blocked = |n: &str| {
            self.used.iter().any(|u| u == n) || (!self.own.iter().any(|o| o == n) && self.taken.iter().any(|t| t == n))
        };
        let free = free_name(name, "", blocked);
        self.used.push(free.clone());
        free
    }

    pub(super) fn apply(&mut self, source: &Shape, mut target: Shape) -> Shape {
        target.name = source.name.clone();
        target.oid = source.oid;
        target.owner.clone_from(&source.owner);
        target.replica_identity = source.replica_identity;
        target.kin.clone_from(&source.kin);
        self.settle_indexes(&mut target);
        for column in &mut target.columns {
            let origin =
                usize::try_from(column.number).ok().and_then(|n| n.checked_sub(1)).and_then(|n| source.columns.get(n));
            let kept = origin.and_then(|o| o.sequence.as_ref());
            match (&mut column.sequence, kept) {
                (Some(own), Some(kept)) => {
                    own.name = kept.name.clone();
                    own.comment.clone_from(&kept.comment);
                }
                (Some(own), None) => own.name = source.name.sibling(self.settle(&own.name.name)),
                (None, Some(kept))
                    if !column.origin.is_identity() && origin.is_some_and(|o| !o.origin.is_identity()) =>
                {
                    let mut kept = kept.clone();
                    widen(&mut kept, &column.type_sql);
                    column.sequence = Some(kept);
                }
                (None, _) => {}
            }
        }
        target
    }

    /// Gives its indexes their names.
    pub(super) fn settle_indexes(&mut self, target: &mut Shape) {
        for index in &mut target.indexes {
            let name = self.settle(&index.name);
            self.indexes.push((std::mem::replace(&mut index.name, name.clone()), name));
        }
    }

    /// An index of a partition belongs to one of its parent's, whatever that is called in the end.
    pub(super) fn rename_parents(&self, target: &mut Shape) {
        for parent in target.indexes.iter_mut().filter_map(|i| i.parent.as_mut()) {
            if let Some((_, name)) = self.indexes.iter().find(|(old, _)| old == parent) {
                parent.clone_from(name);
            }
        }
    }
}

/// A serial's sequence follows its column to a wider type.
fn widen(sequence: &mut super::shape::Sequence, column_type: &str) {
    let rank = |t: &str| ["smallint", "integer", "bigint"].iter().position(|n| *n == t);
    if rank(column_type) > rank(&sequence.type_sql) && rank(&sequence.type_sql).is_some() {
        sequence.type_sql = column_type.to_owned();
    }
}
