//! `pgrecast abort`, `pgrecast finish` and `pgrecast cutover`.

use super::opened::{is_unfinished, open};
use super::{reporter, say_line};
use crate::cli::{Finish, MigrateOptions, One};
use crate::compare::allows;
use crate::error::Failure;
use crate::finish;
use crate::pg::Role;
use crate::state::{Ending, Migration, Phase};
use crate::unconverted;

/// Removes everything of a migration that has not swapped; the table is as it was.
pub async fn abort(typed: One) -> Result<(), Failure> {
    let opened = open(&typed.connection, MigrateOptions::default().cutover.lock_timeout).await?;
    let migration = opened.find(typed.id, "abort", |m| m.phase.is_before_swap()).await?;
    if !migration.phase.is_before_swap() {
        return Err(swapped(&migration));
    }
    let reporter = reporter(typed.format)?;
    let group = opened.take_over(&migration, Ending::Abort, 1, reporter).await?;
    // Whoever had the lease until now may have come to the swap first, or given up what was only prepared.
    let left = group.head.store.get(migration.id).await?;
    if let Some(migration) = left {
        if !migration.phase.is_before_swap() {
            return Err(swapped(&migration));
        }
        let conn = group.head.connector.open(Role::Control).await?;
        for table in group.tables() {
            finish::end_former_run(table).await?;
            finish::remove_ours(table, &conn).await?;
        }
        group.head.store.forget(migration.id).await?;
    }
    let sources: Vec<&str> = migration.tables().map(|table| table.source.as_str()).collect();
    let as_before = if sources.len() == 1 { "is as it was" } else { "are as they were" };
    let text = format!("aborted migration {}; {} {as_before}", migration.id, sources.join(", "));
    say(typed.format, "aborted", migration.id, &text);
    Ok(())
}

fn swapped(migration: &Migration) -> Failure {
    Failure::usage(format!("migration {} has swapped the tables already", migration.id))
        .hint(format!("pgrecast finish {} drops the old table and all that is ours.", migration.id))
}

/// Drops the old table and the rest.
pub async fn finish(typed: Finish) -> Result<(), Failure> {
    let opened = open(&typed.connection, MigrateOptions::default().cutover.lock_timeout).await?;
    let migration = opened.find(Some(typed.id), "finish", |_| true).await?;
    match migration.phase {
        Phase::Complete | Phase::Keep | Phase::RolledBack | Phase::NoWayBack => {}
        Phase::Swapped | Phase::SwappedBack => {
            return Err(Failure::usage(format!("migration {} is not cleaned up yet", migration.id))
                .hint(format!("Run pgrecast resume {} first.", migration.id)));
        }
        Phase::Prepare | Phase::Copy | Phase::Index | Phase::CatchUp | Phase::Ready | Phase::Differs => {
            return Err(Failure::usage(format!("migration {} has not swapped the tables", migration.id))
                .hint(format!("pgrecast resume {0} goes on, pgrecast abort {0} gives it up.", migration.id)));
        }
    }
    let reporter = reporter(typed.format)?;
    let group = opened.take_over(&migration, Ending::Finish, 1, reporter).await?;
    let context = &group.head;
    let conn = context.connector.open(Role::Control).await?;
    // Whoever had the lease until now may have moved it on.
    let migration = context.store.get(migration.id).await?.unwrap_or(migration);
    let gone = |table: &Migration| match (table.phase, &table.plan.back) {
        (Phase::RolledBack, Some(back)) => Ok(back.source.oid),
        (Phase::Complete | Phase::Keep | Phase::NoWayBack, _) => Ok(table.source_oid),
        _ => Err(Failure::failed(format!("migration {} is in phase {}", migration.id, migration.phase))),
    };
    let gone = migration.tables().map(gone).collect::<Result<Vec<u32>, _>>()?;
    // After a rollback of a table that was taken apart, all new ones go.
    let backs =
        migration.tables().filter(|table| table.phase == Phase::RolledBack).filter_map(|t| t.plan.back.as_ref());
    let beside: Vec<u32> = backs.flat_map(|back| back.besides()).map(|beside| beside.shape.oid).collect();
    // On a standby that was promoted in time the first slot may still be there.
    finish::drop_stream(context, &conn).await?;
    for table in group.tables() {
        finish::drop_way_back(table, &conn).await?;
    }
    let dropped = finish::drop_by_oid(&group, &conn, &gone, &beside).await?;
    context.store.forget(migration.id).await?;
    let mut dropped = match dropped.is_empty() {
        true => "the table was gone already".to_owned(),
        false => format!("dropped {}", dropped.join(", ")),
    };
    if let Some(kept) = migration.plan.guard.as_ref().and_then(|guard| guard.table.as_ref())
        && unconverted::is_there(&conn, kept).await?
    {
        dropped.push_str(&format!("; {} keeps the values that did not convert, and stays", kept.plain()));
    }
    say(typed.format, "finished", migration.id, &format!("finished migration {}: {dropped}", migration.id));
    Ok(())
}

/// Releases a postponed cut-over.
pub async fn release(typed: One) -> Result<(), Failure> {
    let opened = open(&typed.connection, MigrateOptions::default().cutover.lock_timeout).await?;
    let migration = opened.find(typed.id, "cut over", |m| is_unfinished(m) && m.phase.is_before_swap()).await?;
    allows(&migration)?;
    opened.store.release_cutover(migration.id).await?;
    let text = format!("migration {} may cut over as soon as it is ready", migration.id);
    say(typed.format, "released", migration.id, &text);
    Ok(())
}

pub(super) fn say(format: crate::report::Format, event: &str, id: i32, text: &str) {
    match format {
        crate::report::Format::Text => say_line(text),
        crate::report::Format::Json => {
            say_line(&serde_json::json!({ "event": event, "id": id, "text": text }).to_string())
        }
    }
}
