//! `pgrecast verify`: compares by itself where nobody works on the migration, and else asks whoever does.

use super::migrate::{How, go};
use super::opened::{Opened, open};
use super::{close, report_of, reporter};
use crate::cli::{MigrateOptions, Verify};
use crate::compare::{EVERY, allows, differ, figures, kept_verdict, tell};
use crate::error::{Exit, Failure};
use crate::report::{Event, Reporter};
use crate::run::{Until, stop_request};
use crate::state::{Migration, Phase, Store};
use crate::verify::Verdict;

/// Compares source and shadow, or new and old table while the rollback window is open.
pub async fn verify(typed: Verify) -> Result<(), Failure> {
    let opened = open(&typed.connection, MigrateOptions::default().cutover.lock_timeout).await?;
    let migration = opened.find(typed.id, "verify", |m| too_early_or_late(m).is_none()).await?;
    if let Some(failure) = too_early_or_late(&migration) {
        return Err(failure);
    }
    if typed.anew {
        opened.store.forget_comparison(migration.id).await?;
    }
    let reporter = reporter(typed.output.format)?;
    match opened.store.lease(migration.id).await {
        Err(failure) if failure.exit == Exit::Busy => ask(&opened, &migration, &typed, &reporter).await,
        Err(failure) => Err(failure),
        Ok(()) => {
            let options = migration.options.clone();
            let how = How { command: "verify", resumed: true, until: Until::Compared };
            go(opened, migration, options, how, &reporter, &typed.output).await
        }
    }
}

/// Why there is nothing to compare, if so.
fn too_early_or_late(m: &Migration) -> Option<Failure> {
    let id = m.id;
    let wrong = || Failure::usage(format!("migration {id} is in phase {}: there is nothing to compare", m.phase));
    match m.phase {
        Phase::CatchUp | Phase::Ready | Phase::Keep | Phase::Differs | Phase::NoWayBack => None,
        Phase::Prepare | Phase::Copy | Phase::Index => Some(wrong().hint(format!(
            "It is too early: the shadow is complete once it has its indexes. pgrecast status {id} shows how far it is."
        ))),
        Phase::Swapped | Phase::SwappedBack => {
            Some(wrong().hint(format!("The tables are swapped, and the clean-up is not done: pgrecast resume {id}.")))
        }
        Phase::Complete | Phase::RolledBack => Some(
            wrong().hint("It is too late: the tables are swapped, and nothing keeps the old one in step with the new."),
        ),
    }
}

/// Asks the runner, and waits for its verdict.
async fn ask(opened: &Opened, migration: &Migration, typed: &Verify, reporter: &Reporter) -> Result<(), Failure> {
    let id = migration.id;
    let mut report = report_of(migration, "verify", &opened.facts);
    let begun = std::time::Instant::now();
    let outcome = async {
        // The runner may have begun before the next line.
        let stopped = stop_request();
        let asked = opened.store.ask_to_compare(id).await?;
        reporter.say(Event::Waiting {
            on: format!("the runner of migration {id} to compare, in phase {}", migration.phase),
        });
        tokio::select! {
            answer = answer(&opened.store, id, asked) => answer,
            // The question goes with its session.
            why = stopped => Err(why),
        }
    };
    let outcome = match outcome.await {
        Ok((answered, verdict)) => {
            report.verify = figures(&verdict);
            tell(reporter, &verdict);
            if let Some(at) = &verdict.begun_before {
                let text = format!("that comparison had been begun {at}; --anew reads all of it again");
                reporter.say(Event::Notice { text });
            }
            if verdict.difference_count == 0 { Ok(()) } else { Err(differ(&answered, &verdict)) }
        }
        Err(failure) => Err(failure),
    };
    report.seconds.total = Some(begun.elapsed().as_secs_f64());
    close(reporter, report, outcome, None, typed.output.report.as_deref())
}

/// The verdict that answers this question.
async fn answer(store: &Store, id: i32, asked: i64) -> Result<(Migration, Verdict), Failure> {
    loop {
        // Looked at first, so that what a runner did before it ended is seen.
        let leased = store.is_leased(id).await?;
        let migration = store.get(id).await?.ok_or_else(|| {
            Failure::failed(format!("migration {id} was not compared: it is gone from the control schema"))
                .hint("It was aborted or finished by another session.")
        })?;
        if migration.asked.1 >= asked
            && let Some(verdict) = kept_verdict(&migration)?
        {
            return Ok((migration, verdict));
        }
        // A comparison that had begun before the question.
        allows(&migration)?;
        if migration.phase.is_last() {
            return Err(Failure::failed(format!(
                "migration {id} was not compared: it came to phase {} first",
                migration.phase
            )));
        }
        if !leased {
            return Err(Failure::failed(format!(
                "migration {id} was not compared: its runner ended before it had done so"
            ))
            .hint(format!(
                "Nobody works on it now: pgrecast verify {id} compares by itself, pgrecast resume {id} goes on."
            )));
        }
        tokio::time::sleep(EVERY).await;
    }
}
