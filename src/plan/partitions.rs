//! What a partitioned source asks of its plan: what cannot be done with one, and each partition's replica identity.
//! Pure.

use std::collections::HashSet;

use super::model::Modelled;
use super::shape::{Index, Origin, Shape};
use super::tree::{Branch, Tree};
use super::types::{IdentityChange, Key, Value};
use crate::error::Failure;
use crate::pg::sql::plain_ident;

/// Refuses what cannot be made again as it is.
pub fn refuse_source(tree: &Tree) -> Result<(), Failure> {
    if !tree.root.is_partitioned() {
        return Ok(());
    }
    let mut seen = HashSet::new();
    for shape in tree.shapes() {
        for name in std::iter::once(&shape.name.name).chain(shape.indexes.iter().map(|i| &i.name)) {
            if !seen.insert(name) {
                let name = plain_ident(name);
                return Err(Failure::refused(format!("partitions or indexes in several schemas are called {name}"))
                    .detail("The clauses are tried on temporary tables of these names, which share one schema.")
                    .hint("Rename one of them."));
            }
        }
    }
    for branch in &tree.branches {
        let parent = parent_of(tree, branch);
        let lost = |i: &&Index| i.parent.as_ref().is_some_and(|p| parent.indexes.iter().all(|i| i.name != *p));
        if let Some(index) = branch.shape.indexes.iter().find(lost) {
            let parent = plain_ident(index.parent.as_deref().unwrap_or_default());
            return Err(Failure::refused(format!("index {parent} is not there on every partition")).hint(
                "Build it on the partitions that lack it and attach it (ALTER INDEX … ATTACH PARTITION), or drop it.",
            ));
        }
    }
    Ok(())
}

fn parent_of<'a>(tree: &'a Tree, branch: &Branch) -> &'a Shape {
    branch.parent.map_or(&tree.root, |n| &tree.branches[n].shape)
}

/// Refuses what the new shape cannot have.
pub fn refuse_target(tree: &Tree, modelled: &Modelled, key: &Key) -> Result<(), Failure> {
    if !tree.root.is_partitioned() {
        return Ok(());
    }
    let targets = || std::iter::once(&modelled.target).chain(&modelled.branches);
    let deferrable = targets().flat_map(|t| &t.indexes).find(|i| !i.immediate);
    if let Some(index) = deferrable {
        return Err(Failure::refused(format!(
            "constraint {} of a partitioned table is deferrable",
            plain_ident(&index.name)
        ))
        .hint("This version does not carry it: make it NOT DEFERRABLE first."));
    }
    if key.needs_helper_index {
        return Err(Failure::refused("the change takes the key of a partitioned table away")
            .detail("Its rows are told apart by the key while it is migrated.")
            .hint("Keep the key, or drop it in an ALTER TABLE of its own afterwards."));
    }
    let serial = |name: &str| {
        let column = modelled.target.column(name);
        column.is_some_and(|c| c.origin == Origin::Plain && c.sequence.is_some())
    };
    if let Some(column) = modelled.columns.iter().find(|c| c.value == Value::OwnDefault && serial(&c.name)) {
        return Err(Failure::refused(format!(
            "serial column {} is added to a partitioned table",
            plain_ident(&column.name)
        ))
        .hint("Make the sequence yourself and add the column with a DEFAULT of nextval."));
    }
    Ok(())
}

/// What must be done to the replica identity of each partition for the stream to bring the key.
///
/// # Errors
/// Exit 3 where a partition has no index of the key.
pub fn identities(tree: &Tree, key: &Key) -> Result<Vec<IdentityChange>, Failure> {
    let columns: Vec<&str> = key.columns.iter().map(|k| k.source.as_str()).collect();
    tree.branches.iter().map(|branch| identity(&branch.shape, &columns)).collect()
}

fn identity(leaf: &Shape, key: &[&str]) -> Result<IdentityChange, Failure> {
    if leaf.is_partitioned() || leaf.replica_identity == 'f' {
        return Ok(IdentityChange::None);
    }
    let covers = |i: &&Index| {
        let names = i.column_names().unwrap_or_default();
        i.identifies_rows(leaf) && names.len() == key.len() && key.iter().all(|k| names.iter().any(|n| n == k))
    };
    let mut fitting: Vec<&Index> = leaf.indexes.iter().filter(covers).collect();
    let identifies = |i: &&Index| match leaf.replica_identity {
        'i' => i.replica_identity,
        'd' => i.is_primary(),
        _ => false,
    };
    if fitting.iter().any(identifies) {
        return Ok(IdentityChange::None);
    }
    // Of several, one that goes with the parent's: it stays as long as that does.
    fitting.sort_by_key(|i| i.parent.is_none());
    let index = fitting.first().ok_or_else(|| {
        Failure::refused(format!("partition {} has no unique index over the key", leaf.name.plain()))
            .hint("Make the key's columns NOT NULL, and unique on every partition.")
    })?;
    Ok(IdentityChange::Index { index: index.name.clone() })
}
