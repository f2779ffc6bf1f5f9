//! `pgrecast list` and `pgrecast status`.

use super::opened::{Opened, open};
use crate::cli::{Connection, List, MigrateOptions, One};
use crate::error::Failure;
use crate::report::{Format, MigrationRow, Progress, migrations, numbers};
use crate::state::{Migration, Phase};
use crate::unconverted;

/// All migrations of the database.
pub async fn list(typed: List) -> Result<(), Failure> {
    let opened = connect(&typed.connection).await?;
    let all = opened.store.list().await?;
    show(&opened, all, typed.format).await
}

/// One, or all where no number is given.
pub async fn status(typed: One) -> Result<(), Failure> {
    let opened = connect(&typed.connection).await?;
    let chosen = match typed.id {
        Some(_) => vec![opened.find(typed.id, "show", |_| true).await?],
        None => opened.store.list().await?,
    };
    show(&opened, chosen, typed.format).await
}

async fn connect(connection: &Connection) -> Result<Opened, Failure> {
    open(connection, MigrateOptions::default().cutover.lock_timeout).await
}

async fn show(opened: &Opened, all: Vec<Migration>, format: Format) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for m in all {
        let running = opened.store.is_leased(m.id).await?;
        let progress = if running { progress(opened, m.id).await? } else { None };
        rows.push(MigrationRow {
            id: i64::from(m.id),
            phase: m.phase.word().to_owned(),
            started: m.started_at.parse().map_err(|e| Failure::failed(format!("migration {}: {e}", m.id)))?,
            rows: u64::try_from(m.tables().map(|table| table.rows_copied).sum::<i64>()).ok(),
            note: match unconverted::note(opened.store.conn(), &m).await? {
                Some(more) => format!("{}; {more}", note(&m, running, progress.as_ref())),
                None => note(&m, running, progress.as_ref()),
            },
            progress,
            source: m.source,
        });
    }
    let text = migrations(&rows, format).map_err(|e| Failure::failed(format!("cannot show the migrations: {e}")))?;
    super::say_line(text.trim_end());
    Ok(())
}

/// What the run wrote down a moment ago.
async fn progress(opened: &Opened, id: i32) -> Result<Option<Progress>, Failure> {
    let Some(text) = opened.store.progress(id).await? else { return Ok(None) };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|e| Failure::failed(format!("migration {id}: cannot read its progress: {e}")))
}

/// `running: copy, 45 %, 3m 20s left; held back: replica_lag 12s > 10s`.
fn at_work(progress: &Progress) -> String {
    let mut said = format!("running: {}", progress.phase);
    if let Some(fraction) = progress.fraction() {
        said.push_str(&format!(", {:.0} %", fraction * 100.0));
    }
    if let Some(eta) = progress.eta_seconds {
        said.push_str(&format!(", {} left", numbers::seconds(eta)));
    }
    if let Some(why) = &progress.throttle {
        said.push_str(&format!("; held back: {why}"));
    }
    said
}

/// What a person may want to do next.
fn note(m: &Migration, running: bool, progress: Option<&Progress>) -> String {
    match (m.phase, running) {
        (_, true) => progress.map_or_else(|| "running".to_owned(), at_work),
        (Phase::Complete, false) => {
            format!(
                "old table {} stays until pgrecast finish {}",
                m.old_tables().unwrap_or_else(|| "(unknown)".to_owned()),
                m.id
            )
        }
        (Phase::Keep, false) => {
            format!(
                "its rollback window is open, and nothing follows: pgrecast resume {0}, rollback {0} or finish {0}",
                m.id
            )
        }
        (Phase::SwappedBack, false) => format!("to be cleaned up: pgrecast rollback {}", m.id),
        (Phase::RolledBack, false) => {
            format!(
                "rolled back; new table {} stays until pgrecast finish {}",
                m.old_tables().unwrap_or_else(|| "(unknown)".to_owned()),
                m.id
            )
        }
        (Phase::NoWayBack, false) => {
            format!("new and old table differ, so there is no rollback: pgrecast finish {}", m.id)
        }
        (Phase::Differs, false) => format!("source and shadow differ: pgrecast abort {}", m.id),
        (_, false) if m.paused => {
            format!("stopped and paused; its slot holds WAL: pgrecast unpause {0}, then pgrecast resume {0}", m.id)
        }
        (Phase::Prepare | Phase::Copy | Phase::Index | Phase::CatchUp | Phase::Ready | Phase::Swapped, false) => {
            format!("stopped; its slot holds WAL: pgrecast resume {0} or pgrecast abort {0}", m.id)
        }
    }
}
