//! `pgrecast rollback`.

use super::opened::open;
use super::{close, report_of, reporter};
use crate::cli::{MigrateOptions, Rollback};
use crate::compare;
use crate::error::Failure;
use crate::keep;
use crate::report::{Event, Report};
use crate::rollback;
use crate::state::{Ending, Phase};

/// Swaps back without losing a write.
pub async fn rollback(typed: Rollback) -> Result<(), Failure> {
    let opened = open(&typed.connection, MigrateOptions::default().cutover.lock_timeout).await?;
    let migration = opened.find(Some(typed.id), "roll back", |_| true).await?;
    let id = migration.id;
    match migration.phase {
        Phase::Keep | Phase::SwappedBack => {}
        Phase::Swapped => {
            return Err(Failure::usage(format!("migration {id} is not cleaned up yet"))
                .hint(format!("Run pgrecast resume {id} first.")));
        }
        Phase::Prepare | Phase::Copy | Phase::Index | Phase::CatchUp | Phase::Ready | Phase::Differs => {
            return Err(Failure::usage(format!("migration {id} has not swapped the tables"))
                .hint(format!("pgrecast abort {id} gives it up; the table is as it was.")));
        }
        Phase::Complete => {
            return Err(Failure::usage(format!("the rollback window of migration {id} is over, or there was none"))
                .detail("Nothing keeps the old table in step, so a swap back would lose what was written since.")
                .hint(format!("pgrecast finish {id} drops the old table.")));
        }
        Phase::NoWayBack => return compare::allows(&migration),
        Phase::RolledBack => {
            return Err(Failure::usage(format!("migration {id} is rolled back already"))
                .hint(format!("pgrecast finish {id} drops the new table.")));
        }
    }
    let reporter = reporter(typed.output.format)?;
    let options = migration.options.clone();
    let targets = migration.tables().map(|table| table.plan.source.name.plain()).collect();
    let mut report = Report { targets, ..report_of(&migration, "rollback", &opened.facts) };
    let begun = std::time::Instant::now();
    let outcome = async {
        let forth = opened.take_over(&migration, Ending::Rollback, options.jobs, reporter.clone()).await?;
        // What the one before was at when it let go.
        let migration = forth.head.store.get_again(id).await?;
        let back = keep::way_back(&forth, &migration)?;
        reporter.say(Event::Started {
            id: i64::from(id),
            command: "rollback".to_owned(),
            source: migration.source.clone(),
            server_version: back.head.facts.version_text.clone(),
            resumed: migration.phase == Phase::SwappedBack,
        });
        let figures = rollback::run(&back, &options).await?;
        Ok::<_, Failure>((figures, back.head.store.get(id).await?.and_then(|m| m.old_tables())))
    };
    let (outcome, replaced) = match outcome.await {
        Ok((figures, replaced)) => {
            if let Some(f) = figures {
                report.cutover = f.told();
            }
            (Ok(()), replaced)
        }
        Err(failure) => (Err(failure), None),
    };
    report.seconds.total = Some(begun.elapsed().as_secs_f64());
    close(&reporter, report, outcome, replaced, typed.output.report.as_deref())
}
