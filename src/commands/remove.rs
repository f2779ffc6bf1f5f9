//! `pgrecast abort`, `pgrecast finish` and `pgrecast cutover`.

use super::opened::{is_unfinished, open};
use super::{reporter, say_line};
use crate::cli::{Finish, MigrateOptions, One};
use crate::error::Failure;
use crate::finish;
use crate::pg::Role;
use crate::state::Phase;
use crate::ties::set_aside_sql;

/// Removes everything of a migration that has not swapped; the table is as it was.
pub async fn abort(typed: One) -> Result<(), Failure> {
    let opened = open(&typed.connection, MigrateOptions::default().cutover.lock_timeout).await?;
    let migration = opened.find(typed.id, "abort", |m| m.phase.is_before_swap()).await?;
    if !migration.phase.is_before_swap() {
        return Err(Failure::usage(format!("migration {} has swapped the tables already", migration.id))
            .hint(format!("pgrecast finish {} drops the old table and all that is ours.", migration.id)));
    }
    let reporter = reporter(typed.format)?;
    let context = opened.context(&migration, 1, reporter).await?;
    finish::end_former_run(&context).await?;
    let conn = context.connector.open(Role::Control).await?;
    finish::remove_ours(&context, &conn).await?;
    context.store.forget(migration.id).await?;
    say(
        typed.format,
        "aborted",
        migration.id,
        &format!("aborted migration {}; {} is as it was", migration.id, migration.source),
    );
    Ok(())
}

/// Drops the old table and the rest.
pub async fn finish(typed: Finish) -> Result<(), Failure> {
    let opened = open(&typed.connection, MigrateOptions::default().cutover.lock_timeout).await?;
    let migration = opened.find(Some(typed.id), "finish", |_| true).await?;
    match migration.phase {
        Phase::Complete => {}
        Phase::Swapped => {
            return Err(Failure::usage(format!("migration {} is not cleaned up yet", migration.id))
                .hint(format!("Run pgrecast resume {} first.", migration.id)));
        }
        Phase::Prepare | Phase::Copy | Phase::Index | Phase::CatchUp | Phase::Ready | Phase::Differs => {
            return Err(Failure::usage(format!("migration {} has not swapped the tables", migration.id))
                .hint(format!("pgrecast resume {0} goes on, pgrecast abort {0} gives it up.", migration.id)));
        }
    }
    let reporter = reporter(typed.format)?;
    let context = opened.context(&migration, 1, reporter).await?;
    let conn = context.connector.open(Role::Control).await?;
    // By oid: the old table may have been renamed since.
    let sql = format!(
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = {} AND c.relkind IN ('r', 'p')",
        migration.source_oid
    );
    let old = conn.scalar("find old table", &sql).await?;
    if let Some(old) = &old {
        let only = if context.plan.source.is_partitioned() { "" } else { "ONLY " };
        let past_vacuum = context.past_vacuum(format!("{only}{old}"), context.connector.lock_timeout());
        // Functions that had its row type in their signatures.
        let functions = conn.simple("find old functions", &set_aside_sql(&context.names)).await?;
        let functions: String =
            functions.into_iter().flatten().flatten().map(|function| format!("DROP {function}; ")).collect();
        let sql = format!("{past_vacuum}; {functions}DROP TABLE {old}");
        finish::patiently(&conn, "drop old table", &sql).await?;
    }
    context.store.forget(migration.id).await?;
    let dropped = old.map_or_else(|| "the old table was gone already".to_owned(), |t| format!("dropped {t}"));
    say(typed.format, "finished", migration.id, &format!("finished migration {}: {dropped}", migration.id));
    Ok(())
}

/// Releases a postponed cut-over.
pub async fn release(typed: One) -> Result<(), Failure> {
    let opened = open(&typed.connection, MigrateOptions::default().cutover.lock_timeout).await?;
    let migration = opened.find(typed.id, "cut over", |m| is_unfinished(m) && m.phase.is_before_swap()).await?;
    opened.store.release_cutover(migration.id).await?;
    let text = format!("migration {} may cut over as soon as it is ready", migration.id);
    say(typed.format, "released", migration.id, &text);
    Ok(())
}

fn say(format: crate::report::Format, event: &str, id: i32, text: &str) {
    match format {
        crate::report::Format::Text => say_line(text),
        crate::report::Format::Json => {
            say_line(&serde_json::json!({ "event": event, "id": id, "text": text }).to_string())
        }
    }
}
