//! `pgrecast widen`: a key's type is changed in every table that holds it, each with a plan of its own, in one cut-over.

use super::migrate::{
    How, Sieve, Wanted, begun_before, go, make_absolute, planned, refuse_blind_throttle, refuse_hours, show,
    without_run,
};
use super::opened::{Opened, open};
use super::{one_by_one, told};
use crate::cli::{ColumnName, TableName, Widen};
use crate::error::Failure;
use crate::pg::sql::plain_ident;
use crate::pg::{Conn, Ident, Literal};
use crate::plan::holding::{self, Holding};
use crate::plan::types::Plan;
use crate::preflight::{self, Finding};
use crate::run::Until;
use crate::spec::{ClauseKind, Clauses, Spec};
use crate::state::{Migration, NewMigration};
use crate::ties::{Ties, share, tied_to_several};

/// Changes a key's type, or goes on with it.
pub async fn widen(mut typed: Widen) -> Result<(), Failure> {
    make_absolute(&mut typed.options);
    if typed.one_by_one {
        return one_by_one::widen(&typed).await;
    }
    let (reporter, _status) = told(&typed.output).await?;
    match begin(&typed).await {
        Ok(Some((opened, migration, resumed))) => {
            let how = How { command: "widen", resumed, until: Until::Swapped };
            go(opened, migration, typed.options, how, &reporter, &typed.output).await
        }
        Ok(None) => Ok(()),
        Err(failure) => Err(without_run("widen", failure, &typed.output)),
    }
}

/// Everything before the first change: `None` where only the plan was asked for.
async fn begin(typed: &Widen) -> Result<Option<(Opened, Migration, bool)>, Failure> {
    check_type(&typed.type_sql)?;
    let opened = open(&typed.connection, typed.options.cutover.lock_timeout).await?;
    let planner = opened.planner().await?;
    let (oid, _) = column(&planner, &typed.column).await?;
    let of_key = wanted(typed, typed.column.table.clone(), &[])?;
    if let Some(begun) = begun_before(&opened, oid, &of_key).await? {
        return Ok(Some((opened, begun, true)));
    }
    refuse_hours(&of_key)?;
    refuse_blind_throttle(&opened, &typed.options)?;
    let mut sieve = Sieve::new(typed.dry_run);
    sieve.pass(preflight::look(opened.store.conn(), &opened.facts, oid, typed.options.failover_slot).await?)?;
    let holding = holding_of(&opened, &planner, typed).await?;
    let tables = plan_each(&opened, &planner, typed, &holding, &mut sieve).await?;
    if tables.is_empty() {
        return Err(Failure::refused(format!("{} has that type already", typed.column))
            .detail("So has every column that refers to it."));
    }
    let tables = judge(&opened, &planner, tables, &mut sieve).await?;
    if typed.dry_run {
        let together = (tables.len() > 1).then(|| {
            format!(
                "This is of one table alone, and {} are migrated together: their times, WAL and disk add up.",
                tables.len()
            )
        });
        let remarks: Vec<String> = together.into_iter().chain(sieve.said()).collect();
        show(&opened, &tables, &remarks, typed.output.format, &typed.options).await?;
        return Ok(None);
    }
    let request = typed.request();
    let names: Vec<String> = tables.iter().map(|(plan, _)| plan.source.name.plain()).collect();
    let new = |((plan, _), source): (&(Plan, Ties), &'_ String)| (plan.source.oid, source.clone(), plan.clone());
    let all: Vec<(u32, String, Plan)> = tables.iter().zip(&names).map(new).collect();
    let mut new = all.iter().map(|(source_oid, source, plan)| NewMigration {
        source_oid: *source_oid,
        source,
        request: &request,
        options: &typed.options,
        plan,
    });
    let head = new.next().ok_or_else(|| Failure::refused("no column would change"))?;
    let id = opened.store.register(&head, &new.collect::<Vec<_>>()).await?;
    let migration = opened.store.get_again(id).await?;
    Ok(Some((opened, migration, false)))
}

/// A type, and nothing that would go on after it.
pub(super) fn check_type(type_sql: &str) -> Result<(), Failure> {
    let wrong = || {
        Failure::usage(format!("cannot read the type: {type_sql}"))
            .hint("Give a type as PostgreSQL spells it, such as bigint or 'numeric(20)'.")
    };
    match &Clauses::parse(&format!("ALTER COLUMN a TYPE {type_sql}")).map_err(|_| wrong())?.list[..] {
        [clause] if matches!(&clause.kind, ClauseKind::Type { using: None, .. }) => Ok(()),
        _ => Err(wrong()),
    }
}

/// The same as clauses of one table's.
fn wanted(typed: &Widen, table: TableName, columns: &[String]) -> Result<Wanted, Failure> {
    let (spec, text) = clauses_of(typed, columns)?;
    Ok(Wanted {
        table,
        spec,
        text,
        request: typed.request(),
        reverse: Vec::new(),
        dry_run: typed.dry_run,
        options: typed.options.clone(),
        connection: typed.connection.clone(),
        output: typed.output.clone(),
    })
}

/// What one table takes, and the same in words.
pub(super) fn clauses_of(typed: &Widen, columns: &[String]) -> Result<(Spec, String), Failure> {
    let clauses = columns.iter().map(|column| format!("ALTER COLUMN {} TYPE {}", Ident(column), typed.type_sql));
    let text = clauses.collect::<Vec<_>>().join(", ");
    Ok((Spec::Alter(Clauses::parse(&text)?), text))
}

/// The tables that hold the key, its own first.
pub(super) async fn holding_of(opened: &Opened, planner: &Conn, typed: &Widen) -> Result<Vec<Holding>, Failure> {
    let mut columns = vec![column(planner, &typed.column).await?];
    for also in &typed.also {
        columns.push(column(planner, also).await?);
    }
    holding::tables(opened.store.conn(), &columns).await
}

async fn column(planner: &Conn, named: &ColumnName) -> Result<(u32, String), Failure> {
    let table = &named.table;
    let oid = preflight::find_table(planner, table.schema.as_deref(), &table.name).await?;
    let sql = format!(
        "SELECT 1 FROM pg_catalog.pg_attribute WHERE attrelid = {oid} AND attname = {} AND attnum > 0 AND NOT attisdropped",
        Literal(&named.column)
    );
    match planner.scalar("find column", &sql).await? {
        Some(_) => Ok((oid, named.column.clone())),
        None => Err(Failure::refused(format!("table {table} has no column {}", plain_ident(&named.column)))
            .hint("Check the spelling; names with capitals must be quoted as in SQL.")),
    }
}

/// Each table's plan, with what is tied to it: those in which a column would change.
pub(super) async fn plan_each(
    opened: &Opened,
    planner: &Conn,
    typed: &Widen,
    holding: &[Holding],
    sieve: &mut Sieve,
) -> Result<Vec<(Plan, Ties)>, Failure> {
    let several = holding.len() > 1;
    let mut found: Vec<Finding> = Vec::new();
    for (n, held) in holding.iter().enumerate().filter(|_| several) {
        if held.is_partition {
            found.push(Finding::new(
                format!("{} is a partition", held.name.plain()),
                "It cannot be swapped with other tables: drop its foreign key for the time, and migrate it by itself.",
            ));
        } else if n > 0 {
            let own = preflight::look_again(opened.store.conn(), &opened.facts, held.oid).await?;
            found.extend(own.into_iter().map(|finding| of(held, finding)));
        }
    }
    sieve.pass(found)?;
    let mut tables = Vec::new();
    for (n, held) in holding.iter().enumerate() {
        let table = TableName { schema: Some(held.name.schema.clone()), name: held.name.name.clone() };
        let wanted = wanted(typed, table, &held.columns)?;
        let begun = if n > 0 { begun_before(opened, held.oid, &wanted).await? } else { None };
        if let Some(begun) = begun {
            return Err(Failure::refused(format!("table {} is being migrated already", held.name.plain()))
                .hint(format!("Go on with it (pgrecast resume {0}), or give it up (pgrecast abort {0}).", begun.id)));
        }
        let planned = planned(opened, planner, held.oid, &wanted).await;
        let (plan, ties) = planned.map_err(|failure| match n {
            0 => failure,
            _ => {
                let named = format!("{}: {}", held.name.plain(), failure.primary);
                failure.named(named)
            }
        })?;
        if changes(&plan, &held.columns) {
            tables.push((plan, ties));
        }
    }
    Ok(tables)
}

/// Whether one of these columns gets another type.
fn changes(plan: &Plan, columns: &[String]) -> bool {
    let type_of = |column: Option<&crate::plan::shape::Column>| column.map(|c| (c.type_oid, c.type_sql.clone()));
    columns.iter().any(|name| type_of(plan.source.column(name)) != type_of(plan.target.column(name)))
}

fn of(held: &Holding, finding: Finding) -> Finding {
    Finding { what: format!("{}: {}", held.name.plain(), finding.what), ..finding }
}

/// What cannot be carried. A foreign key between two of the tables is no tie to the outside: both its ends change.
async fn judge(
    opened: &Opened,
    planner: &Conn,
    tables: Vec<(Plan, Ties)>,
    sieve: &mut Sieve,
) -> Result<Vec<(Plan, Ties)>, Failure> {
    let (plans, mut ties): (Vec<Plan>, Vec<Ties>) = tables.into_iter().unzip();
    let oids: Vec<u32> = plans.iter().map(|plan| plan.source.oid).collect();
    let mut found = tied_to_several(&ties);
    for (plan, ties) in plans.iter().zip(&ties) {
        let mut own = ties.judge(plan);
        if own.is_empty() {
            own = ties.outside(&oids).findings(planner, plan, opened.facts.version).await?;
        }
        let name = plan.source.name.plain();
        found.extend(own.into_iter().map(|f| match f.what.contains(&name) {
            true => f,
            false => Finding { what: format!("{name}: {}", f.what), ..f },
        }));
    }
    sieve.pass(found)?;
    share(&mut ties, &plans.iter().collect::<Vec<_>>());
    Ok(plans.into_iter().zip(ties).collect())
}
