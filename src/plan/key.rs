//! Which key tells the source's rows apart, and whether the target can arbitrate an upsert by it. Pure.

use super::shape::{Column, Index, Shape};
use super::types::{IdentityChange, Key, KeyColumn, TargetColumn, Value, Writing};
use crate::error::Failure;
use crate::pg::sql::{Ident, ident_list};

/// What is known of each pair of columns that stand for each other: (source, its equality, target, its equality).
pub type Equalities = [(String, String, String, String)];

/// What a conversion of a column reads: `None` where it reads the whole row.
pub type Reads<'a> = &'a dyn Fn(&str) -> Option<Vec<String>>;

/// Chooses the key.
///
/// The replica identity the table has comes first, since the stream brings its columns without touching the table;
/// then the primary key, then any other unique index over NOT NULL columns, then a deferrable one, which needs
/// REPLICA IDENTITY FULL (PostgreSQL manual, 31.1 "Publication").
///
/// # Errors
/// Exit 3 where nothing tells rows apart, or where no key survives the change.
pub fn choose(
    source: &Shape,
    target: &Shape,
    columns: &[TargetColumn],
    equalities: &Equalities,
    reads: Reads<'_>,
) -> Result<(Key, IdentityChange), Failure> {
    let candidates = candidates(source);
    if candidates.is_empty() {
        return Err(no_key(source));
    }
    let mut reasons = Vec::new();
    for (index, change) in candidates {
        let names = index.column_names().unwrap_or_default();
        match key_over(&names, source, target, columns, equalities, reads) {
            Ok(key) => return Ok((key, change)),
            Err(reason) => reasons.push(format!("{}: {reason}", index.name)),
        }
    }
    Err(Failure::refused("no key of the table survives the change")
        .detail(format!("{}.", reasons.join("; ")))
        .hint("Keep the columns of a unique index over NOT NULL columns; drop them in a second migration."))
}

fn candidates(source: &Shape) -> Vec<(&Index, IdentityChange)> {
    let plain = |i: &&Index| {
        i.column_names()
            .is_some_and(|names| names.iter().all(|n| source.column(n).is_some_and(|c| !c.origin.is_generated())))
    };
    let keys: Vec<&Index> = source.indexes.iter().filter(|i| i.is_key(source)).filter(plain).collect();
    let using = |i: &Index| {
        if i.immediate { IdentityChange::Index { index: i.name.clone() } } else { IdentityChange::Full }
    };
    let mut ranked: Vec<(u8, &Index, IdentityChange)> = keys
        .iter()
        .map(|i| match source.replica_identity {
            'f' => (u8::from(!i.is_primary()), *i, IdentityChange::None),
            'i' if i.replica_identity => (0, *i, IdentityChange::None),
            'd' if i.is_primary() && i.immediate => (0, *i, IdentityChange::None),
            _ if i.immediate => (1 + u8::from(!i.is_primary()), *i, using(i)),
            _ => (3, *i, using(i)),
        })
        .collect();
    ranked.sort_by_key(|(rank, ..)| *rank);
    ranked.into_iter().map(|(_, i, change)| (i, change)).collect()
}

fn no_key(source: &Shape) -> Failure {
    let names = |shape: &Shape| {
        shape.indexes.iter().filter(|i| i.unique && !i.partial && i.immediate).find_map(Index::column_names)
    };
    let hint = match names(source) {
        Some(columns) => format!(
            "The columns of a unique index may be NULL. Make them NOT NULL: ALTER TABLE {} {}.",
            source.name.plain(),
            columns.iter().map(|c| format!("ALTER COLUMN {} SET NOT NULL", Ident(c))).collect::<Vec<_>>().join(", ")
        ),
        None => format!(
            "Add a key first, for instance: ALTER TABLE {} ADD PRIMARY KEY (…), on an index built with CREATE UNIQUE INDEX CONCURRENTLY.",
            source.name.plain()
        ),
    };
    Failure::refused(format!(
        "table {} has no primary key and no unique index over NOT NULL columns",
        source.name.plain()
    ))
    .detail("Nothing tells its rows apart, so a change cannot be followed.")
    .hint(hint)
}

fn key_over(
    names: &[String],
    source: &Shape,
    target: &Shape,
    columns: &[TargetColumn],
    equalities: &Equalities,
    reads: Reads<'_>,
) -> Result<Key, String> {
    let key = columns_over(names, source, columns, equalities, reads)?;
    let needs_helper_index = arbiter(target, &key).is_none();
    Ok(Key { columns: key, writing: Writing::OnKey, together: Vec::new(), needs_helper_index })
}

/// Where the values of these columns, and nothing else, give those of the target's.
pub fn columns_over(
    names: &[String],
    source: &Shape,
    columns: &[TargetColumn],
    equalities: &Equalities,
    reads: Reads<'_>,
) -> Result<Vec<KeyColumn>, String> {
    let mut key = Vec::new();
    for name in names {
        let kept = columns
            .iter()
            .find(|c| c.source.as_ref() == Some(name))
            .ok_or_else(|| format!("its column {} is dropped", Ident(name)))?;
        let expression = match &kept.value {
            Value::Copied => Ident(name).to_string(),
            Value::Converted { expression } => {
                let all_key = reads(name).is_some_and(|read| read.iter().all(|r| names.contains(r)));
                if !all_key {
                    return Err(format!("the conversion of its column {} reads other columns", Ident(name)));
                }
                expression.clone()
            }
            Value::Volatile { .. } => return Err(format!("the conversion of its column {} is volatile", Ident(name))),
            Value::Constant { .. } | Value::OwnDefault | Value::Generated => {
                return Err(format!("its column {} is not kept", Ident(name)));
            }
        };
        let (_, source_equal, _, target_equal) = equalities
            .iter()
            .find(|(s, ..)| s == name)
            .ok_or_else(|| format!("the type of its column {} has no equality", Ident(name)))?;
        let typed = source.column(name).ok_or_else(|| format!("its column {} is missing", Ident(name)))?;
        key.push(KeyColumn {
            source: name.clone(),
            source_type: typed.type_sql.clone(),
            source_equal: source_equal.clone(),
            target: kept.name.clone(),
            target_equal: target_equal.clone(),
            expression,
            canonical: is_canonical(typed),
        });
    }
    Ok(key)
}

/// Types whose equal values have equal texts. Text counts where its collation is the database's, which is always a
/// deterministic one, or bytewise.
pub fn is_canonical(column: &Column) -> bool {
    let base = column.base_type_sql.as_str();
    match base {
        "smallint" | "integer" | "bigint" | "oid" | "uuid" | "bytea" | "date" | "boolean" => true,
        "timestamp without time zone" | "timestamp with time zone" | "time without time zone" => true,
        "text" | "character varying" => {
            column.collation.as_deref().is_none_or(|c| c == "pg_catalog.\"C\"" || c == "pg_catalog.\"POSIX\"")
        }
        _ => false,
    }
}

/// The target's own unique index over exactly these columns that ON CONFLICT can use.
pub fn arbiter<'a>(target: &'a Shape, columns: &[KeyColumn]) -> Option<&'a Index> {
    target.indexes.iter().find(|i| {
        i.unique
            && (i.immediate || i.is_deferred_to_swap())
            && !i.partial
            && i.column_names()
                .is_some_and(|names| names.len() == columns.len() && columns.iter().all(|k| names.contains(&k.target)))
    })
}

/// The same key for a target that is partitioned by these columns of its own. A unique index of it has them all, so it
/// may tell more rows apart than the key does.
pub fn in_partitions(key: Key, by: Vec<KeyColumn>, target: &Shape) -> Key {
    let beside: Vec<KeyColumn> = by.into_iter().filter(|c| key.columns.iter().all(|k| k.target != c.target)).collect();
    let whole: Vec<KeyColumn> = key.columns.iter().chain(&beside).cloned().collect();
    // A NULL never meets another.
    let told = whole.iter().all(|c| target.column(&c.target).is_some_and(|c| c.not_null));
    let writing = match (told && arbiter(target, &whole).is_some(), beside.is_empty()) {
        (true, true) => Writing::OnKey,
        (true, false) => Writing::OnKeyAnd(beside),
        (false, _) => Writing::Again,
    };
    let leads = |index: &Index| {
        let first = index.keys.iter().take(key.columns.len());
        index.definition.starts_with("USING btree")
            && !index.partial
            && index.keys.len() >= key.columns.len()
            && first.flatten().filter(|name| key.columns.iter().any(|k| k.target == **name)).count()
                == key.columns.len()
    };
    let needs_helper_index = !target.indexes.iter().any(leads);
    Key { writing, needs_helper_index, ..key }
}

/// `ON CONFLICT (…)` over the columns of the index that arbitrates.
pub fn conflict_target(key: &Key) -> String {
    ident_list(key.columns.iter().chain(key.beside()).map(|k| k.target.as_str()))
}
