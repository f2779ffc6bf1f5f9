//! A table that becomes partitioned, or partitioned otherwise, or not any more: its partitions, their names and bounds, its keys, and what cannot hold.

mod design;
mod extend;
mod hold;
mod look;
pub mod series;

pub use design::Piece;
use design::{Level, Taken};
pub use extend::branches;
pub use look::{place_sql, read_place};

use super::build::{FinalNames, Request, refuse_unpublished, relation_names};
use super::key;
use super::model::partitioned::{Wanted, partitioned};
use super::partitions;
use super::partman;
use super::shape::Shape;
use super::tree::{Branch, Tree};
use super::types::{Layout, Partition, Plan, SCHEMA, Series};
use crate::error::Failure;
use crate::pg::Conn;
use crate::pg::sql::plain_ident;
use crate::spec::partitioning::{By, MOST_PARTITIONS, Partitioning};

/// Plans. `conn` must still have the role's own search path; nothing is changed.
///
/// # Errors
/// Exit 2 and 3: see [`hold`] and [`look`], and what the server refuses.
pub async fn plan(
    conn: &Conn,
    tree: Tree,
    spec: &Partitioning,
    request: &Request<'_>,
    version: u32,
) -> Result<Plan, Failure> {
    let source = &tree.root;
    hold::refuse_source(&tree, spec)?;
    let primary_key = hold::primary_key(source, spec, request.primary_key)?;
    let indexes = hold::indexes(source, spec, primary_key.as_deref())?;
    let zone = look::zone(conn, source, spec).await?;
    let managed = partman::look(conn, source, spec, &zone).await?;
    let mut ladder = Vec::new();
    for by in spec.levels() {
        let ranges = look::ranges(conn, source, by, spec.naming(), &zone).await?;
        ladder.push(Level { by, ranges, ends: look::ends(source, by) });
    }
    let taken = taken(conn, &tree).await?;
    let pieces = design::pieces(spec, &ladder, &source.name.name, |name| taken.has(name));
    if pieces.len() > MOST_PARTITIONS {
        return Err(Failure::refused(format!("{} partitions are more than {MOST_PARTITIONS}", pieces.len()))
            .hint("Give longer ranges, or fewer partitions of each."));
    }
    if managed.is_some() {
        partman::refuse_pieces(source, &ladder[0].ranges, &pieces)?;
    }
    let storage = storage(&tree);
    let root = hold::root(source, spec, design::partition_key(&spec.by), &storage);
    let wanted = Wanted { root: &root, pieces: &pieces, storage: &storage, indexes: &indexes, zone: &zone };
    let (modelled, made) = partitioned(conn, source, &wanted, version).await?;
    let no_conversion = |_: &str| None;
    let (key, identity) =
        key::choose(source, &modelled.target, &modelled.columns, &modelled.equalities, &no_conversion)?;
    refuse_unpublished(source, &identity)?;
    let by = key::columns_over(&spec.columns(), source, &modelled.columns, &modelled.equalities, &no_conversion)
        .map_err(|why| Failure::refused(format!("the table cannot be partitioned: {why}")))?;
    let mut names = FinalNames::new(&tree, taken.0);
    let mut target = names.apply(source, made.root);
    target.tablespace.clone_from(&storage.tablespace);
    for index in &mut target.indexes {
        index.tablespace = of(source, &index.name).and_then(|i| i.tablespace.clone());
    }
    // Of an index that is left off, nothing can be identified by.
    if target.indexes.iter().all(|index| of(source, &index.name).is_none_or(|own| !own.replica_identity))
        && source.replica_identity == 'i'
    {
        target.replica_identity = 'd';
    }
    let identity_kind = target.replica_identity;
    let branches: Vec<Branch> = (made.branches.into_iter())
        .map(|branch| Branch { shape: partition(&mut names, source, &storage, identity_kind, branch.shape), ..branch })
        .collect();
    let identities = partitions::identities(&tree, &key)?;
    let key = if target.is_partitioned() { key::in_partitions(key, by, &target) } else { key };
    look::refuse_null(conn, source, &target, spec, &key).await?;
    Ok(Plan {
        partitions: (tree.branches.into_iter().zip(identities))
            .map(|(branch, identity)| Partition { branch, identity })
            .collect(),
        identity,
        branches,
        layout: Layout::Made,
        ladder: series(spec, &zone),
        managed,
        left_off: spec.left_off.clone(),
        clauses: request.text.to_owned(),
        ..Plan::plain(tree.root, target, modelled.columns, key)
    })
}

/// How ranges follow each other, at each level where they do.
fn series(spec: &Partitioning, zone: &str) -> Vec<Series> {
    let of_level = |(level, by): (usize, &By)| match by {
        By::Series { column, step, .. } => {
            Some(Series { level, column: column.clone(), step: *step, zone: zone.to_owned(), naming: spec.naming() })
        }
        By::Bounds { .. } | By::List { .. } | By::Hash { .. } | By::Nothing => None,
    };
    spec.levels().enumerate().filter_map(of_level).collect()
}

/// Names in the table's schema and in ours. What its partitions are called is free once they make room.
async fn taken(conn: &Conn, tree: &Tree) -> Result<Taken, Failure> {
    let mut names = Vec::new();
    for schema in [tree.root.name.schema.as_str(), SCHEMA] {
        let mut of_schema = relation_names(conn, std::iter::once(schema)).await?;
        of_schema.extend(look::type_names(conn, schema).await?);
        let own = |name: &str| tree.branches.iter().any(|b| b.shape.name.schema == schema && b.shape.name.name == name);
        of_schema.retain(|name| !own(name) && !name.strip_prefix('_').is_some_and(own));
        names.extend(of_schema);
    }
    Ok(Taken(names))
}

/// What each partition has of the table's: it is a table like it, but for what it has from above. What is partitioned
/// already has that on its partitions, as far as they are alike.
fn storage(tree: &Tree) -> Shape {
    let plain = tree.root.unpartitioned();
    let mut leaves = tree.shapes().filter(|shape| !shape.is_partitioned());
    let Some(first) = leaves.next() else { return plain };
    let rest: Vec<&Shape> = leaves.collect();
    let alike = |same: fn(&Shape, &Shape) -> bool| rest.iter().all(|shape| same(first, shape));
    Shape {
        access_method: first.access_method.clone(),
        options: if alike(|a, b| a.options == b.options) { first.options.clone() } else { Vec::new() },
        tablespace: if alike(|a, b| a.tablespace == b.tablespace) { first.tablespace.clone() } else { None },
        ..plain
    }
}

/// The table's own index of that name.
fn of<'a>(source: &'a Shape, name: &str) -> Option<&'a super::shape::Index> {
    source.indexes.iter().find(|index| index.name == name)
}

/// A partition as it will stand.
fn partition(names: &mut FinalNames, source: &Shape, storage: &Shape, identity: char, mut shape: Shape) -> Shape {
    shape.name = source.name.sibling(shape.name.name);
    shape.oid = 0;
    shape.owner.clone_from(&source.owner);
    shape.tablespace.clone_from(&storage.tablespace);
    shape.replica_identity = identity;
    shape.kin = super::kin::Kin::default();
    names.settle_indexes(&mut shape);
    names.rename_parents(&mut shape);
    for index in &mut shape.indexes {
        let Some(own) = index.parent.as_deref().and_then(|parent| of(source, parent)) else { continue };
        index.tablespace.clone_from(&own.tablespace);
        index.clustered = own.clustered;
        index.replica_identity = own.replica_identity;
    }
    shape
}

/// A column of the table.
fn column<'a>(source: &'a Shape, name: &str) -> Result<&'a super::shape::Column, Failure> {
    source.column(name).ok_or_else(|| {
        Failure::refused(format!("table {} has no column {}", source.name.plain(), plain_ident(name)))
            .hint("Names with capitals must be quoted as in SQL.")
    })
}
