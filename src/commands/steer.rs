//! `pgrecast pause`, `unpause` and `set`: a running migration takes it up within a second, another when it goes on.

use super::opened::{Opened, is_unfinished, open};
use super::remove::say;
use crate::cli::{MigrateOptions, One, Set};
use crate::error::Failure;
use crate::run::absolute;
use crate::state::Migration;

/// Holds copy, index builds, flush, comparison and cut-over back, or lets them go on. The stream is received all the same.
pub async fn pause(typed: One, paused: bool) -> Result<(), Failure> {
    let word = if paused { "pause" } else { "go on with" };
    let opened = open(&typed.connection, MigrateOptions::default().cutover.lock_timeout).await?;
    let migration = opened.find(typed.id, word, is_unfinished).await?;
    refuse_finished(&migration)?;
    opened.store.pause(migration.id, paused).await?;
    let when = taken_up(&opened, &migration).await?;
    let (event, what) = if paused { ("paused", "is paused") } else { ("unpaused", "is not paused") };
    say(typed.format, event, migration.id, &format!("migration {} {what}{when}", migration.id));
    Ok(())
}

/// Changes options.
pub async fn set(typed: Set) -> Result<(), Failure> {
    let opened = open(&typed.connection, MigrateOptions::default().cutover.lock_timeout).await?;
    let migration = opened.find(typed.id, "set options of", is_unfinished).await?;
    refuse_finished(&migration)?;
    let mut options = typed.apply(migration.options.clone())?;
    options.cutover.postpone_file = options.cutover.postpone_file.map(absolute);
    options.throttle.file = options.throttle.file.map(absolute);
    super::migrate::refuse_blind_throttle(&opened, &options)?;
    opened.store.change_options(migration.id, &migration.options, &options).await?;
    let when = taken_up(&opened, &migration).await?;
    say(typed.format, "set", migration.id, &format!("migration {} has new options{when}", migration.id));
    Ok(())
}

fn refuse_finished(migration: &Migration) -> Result<(), Failure> {
    match is_unfinished(migration) {
        true => Ok(()),
        false => Err(Failure::usage(format!("migration {} is over: it is in phase {}", migration.id, migration.phase))),
    }
}

async fn taken_up(opened: &Opened, migration: &Migration) -> Result<String, Failure> {
    Ok(match opened.store.is_leased(migration.id).await? {
        true => String::new(),
        false => format!("; nobody runs it: pgrecast resume {} goes on", migration.id),
    })
}
