//! What of the table holds when it is partitioned: its keys, its constraints, its indexes. Pure.

use pg_query::protobuf::Token;

use super::column;
use crate::error::Failure;
use crate::pg::sql::{ident_list, plain_ident};
use crate::plan::ddl;
use crate::plan::kin::Kin;
use crate::plan::model::partitioned::Tail;
use crate::plan::partitions;
use crate::plan::shape::{ConstraintKind, Index, Shape};
use crate::plan::tree::{Branch, Tree};
use crate::spec::Partitioning;
use crate::spec::partitioning::By;

/// Refuses what is no table to be partitioned by this.
pub fn refuse_source(tree: &Tree, spec: &Partitioning) -> Result<(), Failure> {
    let source = &tree.root;
    let table = source.name.plain();
    partitions::refuse_source(tree)?;
    if spec.by == By::Nothing && !source.is_partitioned() {
        return Err(Failure::refused(format!("table {table} is not partitioned"))
            .hint("--none is for a table that is to be partitioned no more."));
    }
    if source.kin != Kin::default() {
        return Err(Failure::refused(format!("table {table} is a partition, is typed, inherits, or has children"))
            .hint("End that first: this version makes partitions of a table by itself only."));
    }
    for name in &spec.columns() {
        if column(source, name)?.origin.is_generated() {
            return Err(Failure::refused(format!(
                "column {} is generated, and no table can be partitioned by one",
                plain_ident(name)
            )));
        }
    }
    let left_off = |name: &str| spec.left_off.iter().any(|n| n == name);
    if let Some(check) = source.checks.iter().find(|c| c.definition.contains("NO INHERIT") && !left_off(&c.name)) {
        let name = plain_ident(&check.name);
        return Err(Failure::refused(format!(
            "constraint {name} is NO INHERIT, which a partitioned table's cannot be"
        ))
        .hint(format!("--drop-constraint {name} leaves it off.")));
    }
    refuse_own(tree, spec)
}

/// Other partitions have nothing of what one of these has for itself.
fn refuse_own(tree: &Tree, spec: &Partitioning) -> Result<(), Failure> {
    for Branch { shape, .. } in &tree.branches {
        let of_whole = |name: &String| tree.root.checks.iter().any(|check| check.name == *name);
        let indexes = shape.indexes.iter().filter(|i| i.parent.is_none()).map(|i| &i.name);
        let checks = shape.checks.iter().map(|check| &check.name).filter(|name| !of_whole(name));
        if let Some(name) = indexes.chain(checks).find(|name| !spec.left_off.contains(name)) {
            let (name, table) = (plain_ident(name), shape.name.plain());
            return Err(Failure::refused(format!("{name} is of partition {table} alone, which goes"))
                .hint(format!("--drop-constraint {name} leaves it off; or make it one of the whole table first.")));
        }
    }
    Ok(())
}

/// The table without its indexes and what is left off, partitioned or, with this storage, plain.
pub fn root(source: &Shape, spec: &Partitioning, partition_key: Option<String>, storage: &Shape) -> Shape {
    let mut root = source.clone();
    root.partition_key = partition_key;
    root.tablespace = None;
    match root.is_partitioned() {
        true => {
            root.access_method.clear();
            root.options.clear();
        }
        false => {
            root.access_method.clone_from(&storage.access_method);
            root.options.clone_from(&storage.options);
        }
    }
    root.indexes.clear();
    root.checks.retain(|check| !spec.left_off.contains(&check.name));
    root
}

/// The columns of the primary key: those asked for, or the table's with what PostgreSQL demands besides.
pub fn primary_key(
    source: &Shape,
    spec: &Partitioning,
    asked: Option<&[String]>,
) -> Result<Option<Vec<String>>, Failure> {
    if let Some(asked) = asked {
        for name in asked {
            column(source, name)?;
        }
        if let Some(missing) = spec.columns().iter().find(|c| !asked.contains(c)) {
            return Err(Failure::refused(format!(
                "--primary-key has not the partition column {}",
                plain_ident(missing)
            ))
            .detail("PostgreSQL keeps values unique within a partition only.")
            .hint("Add it to the list."));
        }
        return Ok(Some(asked.to_vec()));
    }
    let Some(own) = source.primary_key().filter(|i| !spec.left_off.contains(&i.name)) else { return Ok(None) };
    let mut columns = own.column_names().unwrap_or_default();
    for name in spec.columns() {
        if !columns.contains(&name) {
            columns.push(name);
        }
    }
    Ok(Some(columns))
}

/// The indexes that stay, each with how it is made.
///
/// # Errors
/// Exit 3, naming all that cannot hold.
pub fn indexes(
    source: &Shape,
    spec: &Partitioning,
    primary_key: Option<&[String]>,
) -> Result<Vec<(Index, Tail)>, Failure> {
    let mut kept = Vec::new();
    let mut lost: Vec<(String, String)> = Vec::new();
    for index in source.indexes.iter().filter(|i| !spec.left_off.contains(&i.name)) {
        if index.is_primary() {
            continue;
        }
        match why_lost(index, spec) {
            Some(why) => lost.push((index.name.clone(), why)),
            None => kept.push((index.clone(), tail(index))),
        }
    }
    if let Some(columns) = primary_key {
        let own = source.primary_key();
        let new = Index {
            name: format!("{}_pkey", source.name.name),
            definition: String::new(),
            unique: true,
            immediate: true,
            partial: false,
            keys: columns.iter().cloned().map(Some).collect(),
            tablespace: None,
            constraint: None,
            parent: None,
            clustered: false,
            replica_identity: false,
            statistics: Vec::new(),
            comment: None,
            bytes: 0,
        };
        let index = own.cloned().unwrap_or(new);
        if index.constraint.as_ref().is_some_and(|c| c.deferrable) {
            lost.insert(0, (index.name.clone(), "is deferrable".to_owned()));
        }
        let included = ddl::clause(&index.definition, Token::Include).map(|t| format!(" {t}")).unwrap_or_default();
        let with = ddl::parameters(&index);
        let columns = ident_list(columns.iter().map(String::as_str));
        kept.insert(0, (index, Tail::Constraint(format!("PRIMARY KEY ({columns}){included}{with}"))));
    }
    refuse_lost(&lost)?;
    Ok(kept)
}

fn tail(index: &Index) -> Tail {
    match &index.constraint {
        None => Tail::Index,
        Some(constraint) => Tail::Constraint(format!("{}{}", constraint.definition, ddl::parameters(index))),
    }
}

/// Why the partitioned table cannot have an index, if it cannot.
fn why_lost(index: &Index, spec: &Partitioning) -> Option<String> {
    let constraint = index.constraint.as_ref();
    if constraint.is_some_and(|c| c.kind == ConstraintKind::Exclusion) && spec.by != By::Nothing {
        return Some("is an exclusion constraint".to_owned());
    }
    if constraint.is_some_and(|c| c.deferrable) {
        return Some("is deferrable".to_owned());
    }
    let columns = spec.columns();
    let missing = columns.iter().find(|c| !index.keys.iter().flatten().any(|k| k == *c))?;
    index.unique.then(|| format!("is not over the partition column {}", plain_ident(missing)))
}

fn refuse_lost(lost: &[(String, String)]) -> Result<(), Failure> {
    let Some((name, why)) = lost.first() else { return Ok(()) };
    let all: Vec<String> = lost.iter().map(|(name, why)| format!("{} {why}", plain_ident(name))).collect();
    let drops: Vec<String> = lost.iter().map(|(name, _)| format!("--drop-constraint {}", plain_ident(name))).collect();
    let more = if lost.len() > 1 { format!(" They are: {}.", all.join("; ")) } else { String::new() };
    Err(Failure::refused(format!("{} cannot hold on the partitioned table: it {why}", plain_ident(name)))
        .detail(format!("PostgreSQL keeps values unique within a partition only, at once.{more}"))
        .hint(format!("Leave off what cannot hold ({}), or partition by columns that it is over.", drops.join(" "))))
}
