//! Values that do not convert, where `--on-error` lets them become NULL: counted, named, and kept where that was asked for.

use crate::context::Context;
use crate::error::Failure;
use crate::finish;
use crate::pg::sql::{ident_list, name_with_suffix, plain_ident};
use crate::pg::{Conn, Error, Ident, Literal, QualifiedName};
use crate::plan::build::relation_names;
use crate::plan::ddl::free_name;
use crate::plan::guard::{Found, Guard};
use crate::plan::types::{Names, Plan};
use crate::report::{Event, Unconverted};
use crate::state::{Migration, Store};

/// Values named in one message.
const NAMED: u32 = 10;

/// Bytes of a value that are shown.
const SHOWN: u32 = 60;

/// Says what does not convert as things stand; nothing where all does.
///
/// # Errors
/// The server's.
pub async fn say(context: &Context, conn: &Conn) -> Result<(), Failure> {
    let Some(guard) = &context.plan.guard else { return Ok(()) };
    let (plan, table) = (&context.plan, context.names.quarantine());
    let found = count(conn, plan, &table).await?;
    tell(context, guard, &found, &named(conn, plan, &table).await?);
    Ok(())
}

/// After the swap no more come: what there are is counted for good, said, and kept beside the new table where that was asked
/// for. Safe to repeat.
///
/// # Errors
/// The server's.
pub async fn settle(context: &Context, conn: &Conn, migration: &Migration) -> Result<(), Failure> {
    let mut plan = migration.plan.clone();
    let Some(guard) = plan.guard.as_mut().filter(|guard| guard.found.is_none()) else { return Ok(()) };
    let table = context.names.quarantine();
    let found = count(conn, &context.plan, &table).await?;
    let named = named(conn, &context.plan, &table).await?;
    guard.found = Some(found.clone());
    let mut steps = Vec::new();
    if guard.keeps && found.rows > 0 {
        let target = &context.plan.target;
        let taken = relation_names(conn, std::iter::once(target.name.schema.as_str())).await?;
        let kept = target.name.sibling(free_name(&target.name.name, "_quarantine", |n| taken.iter().any(|t| t == n)));
        let key = free_name(&kept.name, "_pkey", |n| taken.iter().any(|t| t == n));
        steps.push(format!("ALTER TABLE {table} RENAME TO {}", Ident(&kept.name)));
        steps.push(format!("ALTER TABLE {} SET SCHEMA {}", table.sibling(&kept.name), Ident(&kept.schema)));
        let made = kept.sibling(name_with_suffix(&table.name, "_pkey"));
        steps.push(format!("ALTER INDEX {made} RENAME TO {}", Ident(&key)));
        if target.owner != context.facts.role {
            steps.push(format!("ALTER TABLE {kept} OWNER TO {}", Ident(&target.owner)));
        }
        guard.table = Some(kept);
    } else {
        steps.push(format!("DROP TABLE {table}"));
    }
    let guard = guard.clone();
    steps.push(Store::keep_plan_sql(context.id, &plan)?);
    finish::patiently(conn, "keep quarantine", &steps.join("; ")).await?;
    tell(context, &guard, &found, &named);
    Ok(())
}

/// For the report; `None` until the swap.
pub fn figures(plan: &Plan) -> Option<Unconverted> {
    let guard = plan.guard.as_ref()?;
    let found = guard.found.as_ref()?;
    Some(Unconverted {
        values: found.values(),
        rows: found.rows,
        columns: found.columns.clone(),
        table: guard.table.as_ref().map(QualifiedName::plain),
    })
}

/// As things stand, in a few words; `None` where all converts.
///
/// # Errors
/// The server's.
pub async fn note(conn: &Conn, migration: &Migration) -> Result<Option<String>, Failure> {
    let Some(guard) = &migration.plan.guard else { return Ok(None) };
    let table = Names::new(migration.id).quarantine();
    let found = match &guard.found {
        Some(found) => found.clone(),
        None if is_there(conn, &table).await? => count(conn, &migration.plan, &table).await?,
        None => return Ok(None),
    };
    let kept = guard.table.as_ref().map(|t| format!(", kept in {}", t.plain())).unwrap_or_default();
    Ok((found.rows > 0).then(|| format!("{}{kept}", words(&found))))
}

/// Whether a table is there.
///
/// # Errors
/// The server's.
pub async fn is_there(conn: &Conn, table: &QualifiedName) -> Result<bool, Error> {
    let sql = format!("SELECT to_regclass({}) IS NOT NULL", Literal(&table.to_string()));
    Ok(conn.scalar("look for quarantine", &sql).await?.as_deref() == Some("t"))
}

async fn count(conn: &Conn, plan: &Plan, table: &QualifiedName) -> Result<Found, Failure> {
    let [column, ..] = plan.quarantine_columns();
    let keys = ident_list(plan.key.columns.iter().map(|k| k.source.as_str()));
    let sql = format!(
        "SELECT NULL, count(*)::text FROM (SELECT DISTINCT {keys} FROM {table}) AS rows \
         UNION ALL SELECT {column}, count(*)::text FROM {table} GROUP BY {column}"
    );
    let mut found = Found::default();
    for row in conn.simple("count quarantine", &sql).await? {
        let number = row.get(1).cloned().flatten().and_then(|n| n.parse().ok()).unwrap_or(0);
        match row.into_iter().next().flatten() {
            Some(column) => drop(found.columns.insert(column, number)),
            None => found.rows = number,
        }
    }
    Ok(found)
}

/// The first of them, each with its key, the value and what is wrong with it.
async fn named(conn: &Conn, plan: &Plan, table: &QualifiedName) -> Result<Vec<String>, Failure> {
    let [column, value, error] = plan.quarantine_columns();
    let keys = ident_list(plan.key.columns.iter().map(|k| k.source.as_str()));
    let key = plan
        .key
        .columns
        .iter()
        .map(|k| format!("{} || concat({})", Literal(&format!("{} = ", plain_ident(&k.source))), Ident(&k.source)));
    let sql = format!(
        "SELECT format('%s of row %s is %L: %s', {column}, concat_ws(', ', {}), left({value}, {SHOWN}), {error}) \
         FROM {table} ORDER BY {keys}, {column} LIMIT {NAMED}",
        key.collect::<Vec<_>>().join(", ")
    );
    let rows = conn.simple("name quarantine", &sql).await?;
    Ok(rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
}

fn tell(context: &Context, guard: &Guard, found: &Found, named: &[String]) {
    if found.rows == 0 {
        return;
    }
    let kept = guard.table.as_ref().map(|t| format!(" and are kept in {}", t.plain())).unwrap_or_default();
    let more = if found.values() > named.len() as u64 { "; …" } else { "" };
    let text = format!("{}; they are NULL in the new table{kept}: {}{more}", words(found), named.join("; "));
    context.reporter.say(Event::Warning { text });
}

fn words(found: &Found) -> String {
    let columns: Vec<String> = found.columns.iter().map(|(c, n)| format!("{n} of {}", plain_ident(c))).collect();
    match found.values() {
        1 => format!("1 value does not convert ({})", columns.join(", ")),
        n => format!("{n} values of {} rows do not convert ({})", found.rows, columns.join(", ")),
    }
}
