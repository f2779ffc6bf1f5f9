//! A table that is taken apart: what remains of it, and the new tables.

use super::build::{FinalNames, Request, altered, relation_names};
use super::compat::CompatView;
use super::ddl::free_name;
use super::elements::reads;
use super::guard::look_for_language;
use super::key;
use super::lookups::{NUMBER, expression};
use super::model::given::given;
use super::model::parts::{Made, Wanted, is_published, parts};
use super::parts::{Part, Reference};
use super::reverse::Given;
use super::shape::Shape;
use super::tree::Tree;
use super::types::{Key, KeyColumn, Plan, SCHEMA, Value, Writing};
use crate::cli::TableName;
use crate::error::Failure;
use crate::pg::sql::{ident_list, name_with_suffix, plain_ident};
use crate::pg::{Conn, Ident, Literal, QualifiedName};
use crate::spec::Clauses;
use crate::spec::split::{Column, Into, Lookup, Split};

/// Plans. `conn` must still have the role's own search path; nothing is changed.
///
/// # Errors
/// Exit 2 and 3: what contradicts itself, what the server refuses, and what would be lost.
pub async fn plan(conn: &Conn, tree: Tree, spec: &Split, request: &Request<'_>, version: u32) -> Result<Plan, Failure> {
    refuse_source(&tree.root)?;
    refuse_lookups(&tree.root, spec)?;
    let numbered = spec.lookups.iter().map(|lookup| &lookup.column);
    let gone = spec.drop.iter().chain(numbered).map(|c| format!("DROP COLUMN {}", Ident(c)));
    let come = spec.lookups.iter().map(|lookup| format!("ADD COLUMN {} bigint", Ident(&lookup.reference)));
    let gone = gone.chain(come).collect::<Vec<_>>().join(", ");
    let mut plan = altered(conn, tree, &Clauses::parse(&gone)?, request, version).await?;
    refuse_lost(&plan, spec)?;
    if spec.foreign_key.is_some() {
        refuse_unreferable(&plan)?;
    }
    let typed = spec.into.iter().map(|into| &into.name).chain(spec.lookups.iter().map(|lookup| &lookup.name));
    let names = names(conn, &plan.source, typed.chain(&spec.compat_view)).await?;
    let keys: Vec<Vec<KeyColumn>> = spec.into.iter().map(|into| key_of(&plan, into)).collect();
    let mut wanted: Vec<Wanted<'_>> = spec.into.iter().zip(&keys).map(|(into, key)| wanted(into, key)).collect();
    wanted.extend(spec.lookups.iter().map(of_values));
    let mut made = parts(conn, &plan.source, &wanted, version).await?;
    let taken = relation_names(conn, names.iter().map(|name| name.schema.as_str()).chain([SCHEMA])).await?;
    let mut settled = FinalNames::beside(taken);
    for name in &names {
        settled.settle(&name.name);
    }
    let values = made.split_off(keys.len());
    for ((lookup, name), made) in spec.lookups.iter().zip(names.iter().skip(keys.len())).zip(values) {
        let target = finished(&mut settled, &plan.source, name, made.shape);
        refer(&mut plan, lookup, target, version);
    }
    for ((name, made), key) in names.into_iter().zip(made).zip(keys) {
        refuse_unpinned(&made, request)?;
        let published = made.many && is_published(conn, &name.schema, version).await?;
        let takes_rows = spec.moves_rows();
        if takes_rows && made.many {
            return Err(Failure::refused(format!(
                "rows leave the table for {}, where each gives any number of rows",
                name.plain()
            ))
            .detail("Of a row that gives none nothing would be left.")
            .hint("Move the columns (--drop) in one migration and the rows in another."));
        }
        let mut target = finished(&mut settled, &plan.source, &name, made.shape);
        if published {
            // Without an identity, updates and deletes of a published table fail.
            target.replica_identity = 'f';
        }
        let needs_helper_index = !made.many && key::arbiter(&target, &key).is_none();
        let writing = if made.many { Writing::All } else { Writing::OnKey };
        let foreign_key = spec.foreign_key.map(|on_change| {
            let columns = ident_list(key.iter().map(|k| k.target.as_str()));
            let referred = ident_list(key.iter().map(|k| k.source.as_str()));
            let named = key.iter().map(|k| k.target.as_str()).collect::<Vec<_>>().join("_");
            Reference {
                name: name_with_suffix(&format!("{}_{named}", name.name), "_fkey"),
                definition: format!(
                    "FOREIGN KEY ({columns}) REFERENCES {} ({referred}){}",
                    plan.source.name,
                    on_change.clause()
                ),
            }
        });
        plan.parts.push(Part {
            target,
            columns: made.columns,
            key: Key { columns: key, writing, together: Vec::new(), needs_helper_index },
            rows: made.rows,
            takes_rows,
            foreign_key,
        });
    }
    if spec.moves_rows() {
        let stays = plan.parts.iter().filter_map(|part| part.rows.as_ref()).map(|rows| format!("NOT ({rows})"));
        plan.rows = Some(stays.collect::<Vec<_>>().join(" AND "));
        plan.exhaustive = spec.exhaustive;
    }
    plan.left_off.clone_from(&spec.left_off);
    if let Some(typed) = &spec.compat_view {
        let given = given(conn, &plan, &spec.reverse, version).await?;
        plan.compat_view = Some(compat_view(conn, &plan, typed, &given).await?);
    }
    Ok(plan)
}

fn refuse_source(source: &Shape) -> Result<(), Failure> {
    let what = match source.is_partitioned() {
        true => "partitioned",
        false if source.kin != super::kin::Kin::default() => "a partition, typed, or related to others by inheritance",
        false => return Ok(()),
    };
    Err(Failure::refused(format!("table {} is {what}, and cannot be taken apart", source.name.plain()))
        .hint("This version takes ordinary tables apart."))
}

/// What ALTER TABLE drops along with a column must have been named: it would be found missing too late.
fn refuse_lost(plan: &Plan, spec: &Split) -> Result<(), Failure> {
    let (source, target) = (&plan.source, &plan.target);
    // Before 15 a generated column goes with what it is computed from, without a word.
    let leaves = |name: &String| spec.drop.contains(name) || spec.lookups.iter().any(|lookup| lookup.column == *name);
    let gone = |c: &&super::shape::Column| !leaves(&c.name) && plan.name_after(&c.name).is_none();
    if let Some(column) = source.columns.iter().find(gone) {
        let read = source.columns.iter().map(|c| &c.name).filter(|name| leaves(name));
        let read = read.filter(|name| column.default.as_ref().is_some_and(|default| reads(default, name)));
        let read = read.map(|name| plain_ident(name)).collect::<Vec<_>>().join(", ");
        return Err(Failure::refused(format!(
            "column {} depends on column {read}, which leaves",
            plain_ident(&column.name)
        ))
        .hint("Drop it first, or let it leave as well."));
    }
    let indexes = source.indexes.iter().map(|i| &i.name).filter(|n| target.indexes.iter().all(|i| i.name != **n));
    let checks = source.checks.iter().map(|c| &c.name).filter(|n| target.checks.iter().all(|c| c.name != **n));
    let lost: Vec<&String> = indexes.chain(checks).collect();
    if let Some(name) = lost.iter().find(|name| !spec.left_off.contains(name)) {
        let name = plain_ident(name);
        return Err(Failure::refused(format!("constraint or index {name} is over a column that leaves"))
            .hint(format!("--drop-constraint {name} lets it go; make one like it on the new table afterwards.")));
    }
    let own = |name: &&String| {
        source.indexes.iter().any(|i| i.name == **name) || source.checks.iter().any(|c| c.name == **name)
    };
    if let Some(name) = spec.left_off.iter().filter(own).find(|name| !lost.contains(name)) {
        return Err(Failure::usage(format!("--drop-constraint {}: no column of it leaves", plain_ident(name)))
            .hint("Drop it with a plain ALTER TABLE or DROP INDEX."));
    }
    Ok(())
}

fn refuse_unreferable(plan: &Plan) -> Result<(), Failure> {
    let fit = key::arbiter(&plan.target, &plan.key.columns).is_some_and(|index| index.immediate);
    match fit {
        true => Ok(()),
        false => Err(Failure::refused("--foreign-key: the table keeps no unique key that it could refer to")
            .hint("It must be unique, and not deferrable.")),
    }
}

fn refuse_unpinned(made: &Made, request: &Request<'_>) -> Result<(), Failure> {
    match &made.unpinned {
        Some(typed) if request.settings.is_empty() => {
            Err(Failure::refused("an expression of a new table depends on session settings")
                .detail(format!("It is: {typed}. It may give other values in a session with other settings."))
                .hint(
                    "Write the setting into the expression (for instance column AT TIME ZONE 'UTC'), or give it: \
                     --setting TimeZone=UTC. Settings not given are pinned to TimeZone UTC and DateStyle ISO.",
                ))
        }
        _ => Ok(()),
    }
}

/// Where the source's key stands in a new table: under the name of its first copy, or else its own.
fn key_of(plan: &Plan, into: &Into) -> Vec<KeyColumn> {
    let name = |source: &String| {
        let copies = into.columns.iter().flatten();
        copies.filter(|c| c.copied.as_ref() == Some(source)).map(|c| c.name.clone()).next()
    };
    let column = |k: &KeyColumn| KeyColumn {
        target: name(&k.source).unwrap_or_else(|| k.source.clone()),
        target_equal: k.source_equal.clone(),
        expression: Ident(&k.source).to_string(),
        ..k.clone()
    };
    plan.key.columns.iter().map(column).collect()
}

/// The key's columns come first where they are not listed.
fn wanted<'a>(into: &'a Into, key: &[KeyColumn]) -> Wanted<'a> {
    let columns = into.columns.as_ref().map(|listed| {
        let is_there = |k: &&KeyColumn| listed.iter().any(|c| c.copied.as_ref() == Some(&k.source));
        let missing = key.iter().filter(|k| !is_there(k)).map(|k| Column {
            name: k.target.clone(),
            expression: Ident(&k.source).to_string(),
            copied: Some(k.source.clone()),
        });
        missing.chain(listed.iter().cloned()).collect()
    });
    Wanted {
        name: &into.name.name,
        columns,
        predicate: into.predicate.as_deref(),
        key: key.iter().map(|k| k.target.clone()).collect(),
        lookup: false,
    }
}

/// A table of values: its number is made beside them.
fn of_values(lookup: &Lookup) -> Wanted<'_> {
    let value = Column {
        name: lookup.value.clone(),
        expression: Ident(&lookup.column).to_string(),
        copied: Some(lookup.column.clone()),
    };
    Wanted { name: &lookup.name.name, columns: Some(vec![value]), predicate: None, key: Vec::new(), lookup: true }
}

/// Values that are equal must be the same: one of them stands for all.
fn refuse_lookups(source: &Shape, spec: &Split) -> Result<(), Failure> {
    for lookup in &spec.lookups {
        let shown = plain_ident(&lookup.column);
        let column = source.column(&lookup.column).ok_or_else(|| {
            Failure::refused(format!("column {shown} does not exist in {}", source.name.plain()))
                .hint("Names with capitals must be quoted as in SQL.")
        })?;
        if !key::is_canonical(column) {
            return Err(Failure::refused(format!("equal values of column {shown} may differ in their spelling"))
                .detail(format!("It is of type {}; one of them would stand for all.", column.type_sql))
                .hint("Change its type first: to an integer, text, uuid, date or the like, under the database's collation."));
        }
    }
    Ok(())
}

/// Lets what remains of the source refer to a table of values.
fn refer(plan: &mut Plan, lookup: &Lookup, target: Shape, version: u32) {
    let expression = expression(&plan.source, plan.lookups.len(), &lookup.column, &lookup.value);
    let not_null = plan.source.column(&lookup.column).is_some_and(|c| c.not_null);
    let table = plan.source.name.name.clone();
    for column in plan.columns.iter_mut().filter(|c| c.name == lookup.reference) {
        column.value = Value::Converted { expression: expression.clone() };
    }
    for column in plan.target.columns.iter_mut().filter(|c| c.name == lookup.reference && not_null) {
        column.not_null = true;
        column.not_null_name =
            (version >= 180_000).then(|| name_with_suffix(&format!("{table}_{}", lookup.reference), "_not_null"));
    }
    let reference = Ident(&lookup.reference);
    let foreign_key = Reference {
        name: name_with_suffix(&format!("{table}_{}", lookup.reference), "_fkey"),
        definition: format!("FOREIGN KEY ({reference}) REFERENCES {} ({})", target.name, Ident(NUMBER)),
    };
    let (source, value, reference) = (lookup.column.clone(), lookup.value.clone(), lookup.reference.clone());
    plan.lookups.push(super::lookups::Lookup { target, source, value, reference, foreign_key });
}

/// The names that the new tables will have.
///
/// # Errors
/// Exit 3 where one is taken, or its schema is not there or not for this role or the table's owner to create in.
async fn names(
    conn: &Conn,
    source: &Shape,
    typed: impl Iterator<Item = &TableName>,
) -> Result<Vec<QualifiedName>, Failure> {
    let mut names: Vec<QualifiedName> = Vec::new();
    for typed in typed {
        let schema = typed.schema.clone().unwrap_or_else(|| source.name.schema.clone());
        let name = QualifiedName::new(schema, &typed.name);
        let sql = format!(
            "SELECT n.oid IS NOT NULL, pg_catalog.has_schema_privilege(n.oid, 'CREATE') AND \
             pg_catalog.has_schema_privilege({owner}, n.oid, 'CREATE'), \
             EXISTS (SELECT 1 FROM pg_catalog.pg_class c WHERE c.relnamespace = n.oid AND c.relname = {name}) OR \
             EXISTS (SELECT 1 FROM pg_catalog.pg_type t WHERE t.typnamespace = n.oid AND t.typname = {name}) \
             FROM (SELECT 1) AS one LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = {schema}",
            owner = Literal(&source.owner),
            name = Literal(&name.name),
            schema = Literal(&name.schema),
        );
        let row = conn.simple("look for new table", &sql).await?.into_iter().next().unwrap_or_default();
        let is = |n: usize| row.get(n).and_then(|v| v.as_deref()) == Some("t");
        let schema = plain_ident(&name.schema);
        if !is(0) || name.schema == SCHEMA {
            return Err(Failure::refused(format!("there is no schema {schema} for {}", name.plain())));
        }
        // Of the table's own schema preflight says so, which a dry run tells and no more.
        if !is(1) && name.schema != source.name.schema {
            return Err(Failure::refused(format!(
                "this role, or the table's owner, may not create tables in schema {schema}"
            ))
            .hint(format!("GRANT CREATE ON SCHEMA {schema} to both.")));
        }
        if is(2) || names.contains(&name) {
            return Err(Failure::refused(format!("the name {} is taken", name.plain()))
                .hint("Give the new table another name."));
        }
        names.push(name);
    }
    Ok(names)
}

/// The view with the old shape, under a name that is free, and a name for its function that is.
async fn compat_view(conn: &Conn, plan: &Plan, typed: &TableName, given: &[Given]) -> Result<CompatView, Failure> {
    look_for_language(conn, "What is written to the view is written by a function.", "--compat-view").await?;
    let schema = typed.schema.clone().unwrap_or_else(|| plan.source.name.schema.clone());
    let name = QualifiedName::new(schema, &typed.name);
    let sql = format!(
        "SELECT p.proname::text FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace \
         WHERE n.nspname = {}",
        Literal(&name.schema)
    );
    let taken: Vec<Option<String>> =
        conn.simple("read function names", &sql).await?.into_iter().filter_map(|row| row.into_iter().next()).collect();
    let free = free_name(&name.name, "_write", |name| taken.iter().flatten().any(|taken| taken == name));
    CompatView::new(plan, name.clone(), name.sibling(free), given)
}

/// The server's shape under its final names.
fn finished(names: &mut FinalNames, source: &Shape, name: &QualifiedName, made: Shape) -> Shape {
    let mut shape = Shape {
        oid: 0,
        name: name.clone(),
        owner: source.owner.clone(),
        tablespace: source.tablespace.clone(),
        access_method: source.access_method.clone(),
        ..made
    };
    names.settle_indexes(&mut shape);
    for column in &mut shape.columns {
        if let Some(sequence) = &mut column.sequence {
            sequence.name = name.sibling(names.settle(&sequence.name.name));
        }
    }
    shape
}
