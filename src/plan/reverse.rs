//! The way back: a plan whose source is the new table and whose target is the old one.
//!
//! It is planned as any other, from the clauses that undo the change: the server says how each expression reads, what it
//! depends on, and what identifies the rows.

use super::build::refuse_unpinned;
use super::key;
use super::model;
use super::partitions;
use super::rejoin;
use super::shape::{Column, Index, Shape};
use super::tree::{Branch, Tree};
use super::types::{IdentityChange, Key, Layout, Partition, Plan, TargetColumn, Value, Writing};
use crate::error::{Exit, Failure};
use crate::pg::sql::plain_ident;
use crate::pg::{Conn, Ident};
use crate::spec::{ClauseKind, Clauses};

/// `--reverse 'column = expression'`: how an old column's value comes back from a new row.
pub type Given = (String, String);

/// Plans the way back. `conn` must still have the role's own search path; nothing is changed.
///
/// # Errors
/// Exit 3 where a new row would not give an old one; exit 2 for a `--reverse` that fits no column.
pub async fn reverse(conn: &Conn, plan: &Plan, given: &[Given], version: u32) -> Result<Plan, Failure> {
    if rejoin::is_apart(plan) {
        let given = model::given::given(conn, plan, given, version).await.map_err(no_way_back)?;
        return rejoin::back(plan, &given);
    }
    let old = &plan.source;
    refuse_deferrable(old)?;
    if let Some((unknown, _)) = given.iter().find(|(name, _)| !changes_type(plan, name)) {
        return Err(Failure::usage(format!(
            "--reverse {}: no column of that name changes its type",
            plain_ident(unknown)
        ))
        .hint("Name a column as it is called before the change."));
    }
    let text = undoing(plan, given)?;
    let clauses = Clauses::parse(&text).map_err(no_way_back)?;
    let tree = match plan.layout {
        Layout::Kept => Tree { root: plan.target.clone(), branches: plan.branches.clone() },
        // No column changes: the partitions tell nothing.
        Layout::Made => Tree { root: plan.target.unpartitioned(), branches: Vec::new() },
    };
    let modelled = model::model(conn, &tree, &clauses, version).await.map_err(no_way_back)?;
    refuse_unpinned(&modelled, &plan.settings).map_err(no_way_back)?;
    let columns = old.columns.iter().map(|column| back(column, &modelled.columns)).collect::<Result<Vec<_>, _>>()?;
    let reads = |column: &str| modelled.conversions.iter().find(|c| c.column == column).and_then(|c| c.reads.clone());
    let (key, identity) =
        key::choose(&plan.target, old, &columns, &modelled.equalities, &reads).map_err(no_way_back)?;
    let partitions = followed(plan, &key)?;
    let covers = |identity: &IdentityChange| *identity == IdentityChange::None;
    if !covers(&identity) && partitions.is_empty() || !partitions.iter().all(|p| covers(&p.identity)) {
        return Err(refused("the new table's replica identity does not cover its key")
            .hint("Give the table a primary key, or make the key's index its replica identity."));
    }
    let key = written_again(key, plan, old);
    if key.needs_helper_index {
        return Err(refused("the old table has no unique index over the columns that tell the new table's rows apart")
            .hint("Keep the key as it is in this migration."));
    }
    Ok(Plan {
        partitions,
        branches: plan.partitions.iter().map(|p| p.branch.clone()).collect(),
        layout: plan.layout,
        identity,
        managed: plan.managed.clone(),
        settings: plan.settings.clone(),
        clauses: text,
        ..Plan::plain(plan.target.clone(), old.clone(), columns, key)
    })
}

/// The new table's partitions, which are followed. Their oids are known once they are made: see
/// [`found_again`].
fn followed(plan: &Plan, key: &Key) -> Result<Vec<Partition>, Failure> {
    let tree = Tree { root: plan.target.clone(), branches: plan.branches.clone() };
    let identities = partitions::identities(&tree, key).map_err(no_way_back)?;
    Ok(tree.branches.into_iter().zip(identities).map(|(branch, identity)| Partition { branch, identity }).collect())
}

/// The key of a partitioned table is that of the old one with the partition columns. By the old one's index its rows are
/// found as well; but a row that moves to another partition is another key's then, and comes before the old key's has
/// gone or after it. So both are removed before either is written again.
fn written_again(key: Key, plan: &Plan, old: &Shape) -> Key {
    if !key.needs_helper_index || !plan.target.is_partitioned() {
        return key;
    }
    let place = |name: &String| key.columns.iter().position(|k| k.target == *name);
    let all_in_key = |i: &Index| i.column_names().and_then(|names| names.iter().map(place).collect::<Option<Vec<_>>>());
    let found = old.indexes.iter().filter(|i| i.identifies_rows(old)).find_map(all_in_key);
    match found {
        Some(together) => Key { writing: Writing::Again, together, needs_helper_index: false, ..key },
        None => key,
    }
}

/// The way back with the new table as it stands after the swap. Where somebody has changed its partitions since, no check of
/// the table passes until that is taken back.
pub fn found_again(back: &mut Plan, tree: Tree) {
    for Partition { branch, .. } in &mut back.partitions {
        if let Some(found) = tree.branches.iter().find(|found| found.shape.name == branch.shape.name) {
            *branch = Branch { parent: branch.parent, ..found.clone() };
        }
    }
    back.source = tree.root;
}

pub(super) fn refused(what: impl Into<String>) -> Failure {
    no_way_back(Failure::refused(what))
}

/// Says what the failure is about: the change itself may well be possible.
pub(super) fn no_way_back(failure: Failure) -> Failure {
    if !failure.is_judgement() {
        return failure;
    }
    let hint = failure.hint.clone();
    Failure {
        exit: Exit::Refused,
        primary: format!("there is no way back for --rollback-window: {}", failure.primary),
        ..failure
    }
    .hint(hint.unwrap_or_else(|| "Leave --rollback-window out to migrate without a way back.".to_owned()))
}

/// An upsert cannot name a constraint that is checked later (INSERT, PostgreSQL manual, "ON CONFLICT").
pub(super) fn refuse_deferrable(old: &Shape) -> Result<(), Failure> {
    let deferrable = |i: &&Index| i.constraint.as_ref().is_some_and(|c| c.deferrable);
    match old.indexes.iter().find(deferrable) {
        Some(index) => Err(refused(format!("constraint {} of the old table is deferrable", plain_ident(&index.name)))),
        None => Ok(()),
    }
}

fn changes_type(plan: &Plan, source: &str) -> bool {
    plan.columns.iter().any(|c| {
        c.source.as_deref() == Some(source) && matches!(c.value, Value::Converted { .. } | Value::Volatile { .. })
    })
}

/// The clauses that undo the change, over the new table: types, then what was added, then names.
fn undoing(plan: &Plan, given: &[Given]) -> Result<String, Failure> {
    let mut types = Vec::new();
    let (mut drops, mut away, mut home) = (Vec::new(), Vec::new(), Vec::new());
    for (n, column) in plan.columns.iter().enumerate() {
        let name = Ident(&column.name);
        let Some(source) = column.source.as_deref() else {
            drops.push(format!("DROP COLUMN {name} CASCADE"));
            continue;
        };
        types.extend(type_back(plan, column, source, given)?);
        if column.name != source {
            // By way of a name that nobody has: names may have been exchanged.
            let between = format!("pgrecast_back_{n}");
            away.push(format!("RENAME COLUMN {name} TO {between}"));
            home.push(format!("RENAME COLUMN {between} TO {}", Ident(source)));
        }
    }
    Ok([types, drops, away, home].concat().join(", "))
}

/// What gives a column its old type again.
fn type_back(plan: &Plan, column: &TargetColumn, source: &str, given: &[Given]) -> Result<Option<String>, Failure> {
    let (Some(before), Some(after)) = (plan.source.column(source), plan.target.column(&column.name)) else {
        return Ok(None);
    };
    let same = (&before.type_sql, &before.collation) == (&after.type_sql, &after.collation);
    let expression = given.iter().find(|(name, _)| name == source).map(|(_, expression)| expression.as_str());
    if same && expression.is_none() {
        return Ok(None);
    }
    let collate = before.collation.as_ref().map(|c| format!(" COLLATE {c}")).unwrap_or_default();
    let clause = format!("ALTER COLUMN {} TYPE {}{collate}", Ident(&column.name), before.type_sql);
    if let Some(expression) = expression {
        let clause = format!("{clause} USING ({expression}\n)");
        // A text that closes the parenthesis would be more than an expression.
        return match Clauses::parse(&clause) {
            Ok(one) if one.list.len() == 1 => Ok(Some(clause)),
            _ => Err(Failure::usage(format!("--reverse {}: not an expression", plain_ident(source)))
                .detail(format!("The text is: {expression}"))),
        };
    }
    if before.type_oid == after.type_oid {
        return Ok(Some(clause));
    }
    if !is_a_cast(plan, column, source, before, after) {
        return Err(refused(format!("the change computes column {} by an expression of its own", plain_ident(source)))
            .hint(format!(
                "Say how the old value comes back from a new row: --reverse '{} = expression over the new columns'.",
                plain_ident(source)
            )));
    }
    // To the bare type: a cast to one with a length would cut what does not fit.
    Ok(Some(format!("{clause} USING CAST({} AS {})", Ident(&column.name), before.base_type_sql)))
}

/// Whether the change takes the column from one type to the other and does nothing else to its value.
fn is_a_cast(plan: &Plan, column: &TargetColumn, source: &str, before: &Column, after: &Column) -> bool {
    let Value::Converted { expression } = &column.value else { return false };
    let name = plain_ident(&before.name);
    let casts = [format!("({name})::{}", after.base_type_sql), format!("{name}::{}", after.base_type_sql)];
    let using = |clauses: Clauses| {
        clauses.list.iter().any(|c| match &c.kind {
            ClauseKind::Type { column: named, using } => using.is_some() && (*named == source || *named == column.name),
            ClauseKind::Rename { .. } | ClauseKind::Other => false,
        })
    };
    casts.contains(expression) || Clauses::parse(&plan.clauses).is_ok_and(|clauses| !using(clauses))
}

/// Where an old column's value comes from on the way back.
fn back(column: &Column, modelled: &[TargetColumn]) -> Result<TargetColumn, Failure> {
    if column.origin.is_generated() {
        return Ok(TargetColumn { name: column.name.clone(), source: None, value: Value::Generated });
    }
    if let Some(found) = modelled.iter().find(|c| c.name == column.name && c.source.is_some()) {
        return Ok(found.clone());
    }
    if column.origin.is_identity() {
        return Err(refused(format!("column {} is dropped and is an identity column", plain_ident(&column.name))));
    }
    match !column.not_null || column.default.is_some() {
        // Old rows keep what they have; new ones get what an INSERT without the column would give.
        true => Ok(TargetColumn { name: column.name.clone(), source: None, value: Value::OwnDefault }),
        false => Err(refused(format!(
            "column {} is dropped and NOT NULL without a default, so a new row could not go back",
            plain_ident(&column.name)
        ))
        .hint("Give it a default, or let it be NULL, before the migration.")),
    }
}
