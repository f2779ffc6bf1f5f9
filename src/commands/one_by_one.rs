//! `widen --one-by-one`: tables too large to be swapped together, each by a migration of its own.
//!
//! PostgreSQL lets a column refer to one of another type where the two types have an equality in common, as the integers
//! have: so between two swaps every foreign key holds, whichever of its ends is wider. Columns that refer come first, as a
//! value that only the new type can hold comes up in the key and must have a place in all that refers to it.

use super::migrate::{How, Sieve, Wanted, begin, go, show, without_run};
use super::opened::{Opened, is_unfinished, open};
use super::widen::{check_type, clauses_of, holding_of, plan_each};
use super::{reporter_beside, told};
use crate::cli::{TableName, Widen};
use crate::error::Failure;
use crate::plan::types::Plan;
use crate::run::Until;
use crate::state::Migration;
use crate::ties::Ties;

/// Changes the type in one table after the other; said again, it goes on where it stopped.
pub(super) async fn widen(typed: &Widen) -> Result<(), Failure> {
    let mut any = false;
    let (_, status) = told(&typed.output).await?;
    loop {
        let step = step(typed, any).await.map_err(|failure| without_run("widen", failure, &typed.output))?;
        let Some((opened, migration, resumed)) = step else { return Ok(()) };
        let how = How { command: "widen", resumed, until: Until::Swapped };
        let reporter = reporter_beside(status.as_ref(), typed.output.format)?;
        go(opened, migration, typed.options.clone(), how, &reporter, &typed.output).await?;
        any = true;
    }
}

/// The next table's migration, or the one that an earlier run has begun; `None` where none is left, or where only the plan
/// was asked for.
async fn step(typed: &Widen, any: bool) -> Result<Option<(Opened, Migration, bool)>, Failure> {
    check_type(&typed.type_sql)?;
    let opened = open(&typed.connection, typed.options.cutover.lock_timeout).await?;
    let request = typed.request();
    let ours = |m: &Migration| is_unfinished(m) && m.request.get("step_of") == Some(&request);
    if let Some(begun) = opened.store.list().await?.into_iter().find(ours) {
        return Ok(Some((opened, begun, true)));
    }
    let planner = opened.planner().await?;
    let holding = holding_of(&opened, &planner, typed).await?;
    let mut sieve = Sieve::new(typed.dry_run);
    let tables = in_order(plan_each(&opened, &planner, typed, &holding, &mut sieve).await?);
    if tables.is_empty() && !any {
        return Err(Failure::refused(format!("{} has that type already", typed.column))
            .detail("So has every column that refers to it."));
    }
    // All are judged before the first is touched.
    let mut found = Vec::new();
    for (plan, ties) in &tables {
        found.extend(ties.findings(&planner, plan, opened.facts.version).await?);
    }
    sieve.pass(found)?;
    if typed.dry_run {
        let remarks = sieve.said();
        for table in tables {
            show(&opened, &[table], &remarks, typed.output.format, &typed.options).await?;
        }
        return Ok(None);
    }
    let Some((plan, _)) = tables.into_iter().next() else { return Ok(None) };
    let name = &plan.source.name;
    let table = TableName { schema: Some(name.schema.clone()), name: name.name.clone() };
    let held = holding.into_iter().find(|held| held.oid == plan.source.oid).map(|held| held.columns);
    let (spec, text) = clauses_of(typed, &held.unwrap_or_default())?;
    begin(&Wanted {
        table,
        spec,
        text,
        request: serde_json::json!({ "command": "widen", "table": name.plain(), "step_of": request }),
        reverse: Vec::new(),
        dry_run: false,
        options: typed.options.clone(),
        connection: typed.connection.clone(),
        output: typed.output.clone(),
    })
    .await
}

/// Tables that refer before those they refer to; in a circle any may be the first.
fn in_order(mut left: Vec<(Plan, Ties)>) -> Vec<(Plan, Ties)> {
    let refers = |(_, from): &(Plan, Ties), to: u32| {
        from.outgoing.iter().any(|key| !key.is_to_itself() && key.refers_to.oid == to)
    };
    let mut ordered = Vec::new();
    while !left.is_empty() {
        let next = left.iter().position(|(plan, _)| !left.iter().any(|from| refers(from, plan.source.oid)));
        ordered.push(left.remove(next.unwrap_or(0)));
    }
    ordered
}
