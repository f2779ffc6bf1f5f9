//! The commands, each from what was typed to its exit.

mod demo;
mod list;
mod migrate;
mod one_by_one;
mod opened;
mod remove;
mod rollback;
mod spec;
mod steer;
mod steps;
mod verify;
mod widen;

use crate::cli::{Command, Output};
use crate::error::Failure;
use crate::plan::types::Plan;
use crate::preflight::ServerFacts;
use crate::report::{Event, Format, Report, Reporter, Summary, on_stdout, peak_rss_bytes};
use crate::state::Migration;
use crate::status::Status;

/// How long the last words may take to reach a slow terminal.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(5);

/// Carries a command out.
pub async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Alter(alter) => migrate::alter(*alter).await,
        Command::Partition(partition) => migrate::partition(*partition).await,
        Command::Widen(typed) => widen::widen(*typed).await,
        Command::Run(typed) => spec::run(*typed).await,
        Command::Print(printed) => spec::print(&printed),
        Command::Split(split) => migrate::split(*split).await,
        Command::Resume(resume) => migrate::resume(*resume).await,
        Command::List(list) => list::list(list).await,
        Command::Status(one) => list::status(one).await,
        Command::Pause(one) => steer::pause(one, true).await,
        Command::Unpause(one) => steer::pause(one, false).await,
        Command::Set(set) => steer::set(*set).await,
        Command::Cutover(one) => remove::release(one).await,
        Command::Abort(one) => remove::abort(one).await,
        Command::Verify(verify) => verify::verify(verify).await,
        Command::Finish(finish) => remove::finish(finish).await,
        Command::Rollback(typed) => rollback::rollback(typed).await,
        Command::Demo(typed) => demo::demo(typed).await,
    }
}

/// Says the last words of a run, and writes its report.
fn close(
    reporter: &Reporter,
    mut report: Report,
    outcome: Result<(), Failure>,
    old_table: Option<String>,
    file: Option<&std::path::Path>,
) -> Result<(), Failure> {
    report.peak_rss_bytes = peak_rss_bytes();
    report.outcome = match &outcome {
        Ok(()) => "done".to_owned(),
        Err(failure) => failure.exit.word().to_owned(),
    };
    let written = file.map_or(Ok(()), |path| {
        report.write(path).map_err(|e| Failure::failed(format!("cannot write the report {}: {e}", path.display())))
    });
    reporter.say(Event::Finished { summary: Box::new(Summary { report, old_table }) });
    reporter.finish(LAST_WORDS);
    outcome.and(written)
}

/// What a report of this command begins with.
fn report_of(migration: &Migration, command: &str, facts: &ServerFacts) -> Report {
    Report {
        id: Some(i64::from(migration.id)),
        command: command.to_owned(),
        source: Some(migration.source.clone()),
        targets: migration.tables().flat_map(|table| targets(&table.plan)).collect(),
        server_version: Some(facts.version_text.clone()),
        unconverted: crate::unconverted::figures(&migration.plan),
        ..Report::default()
    }
}

/// The reporter of a command.
fn reporter(format: Format) -> Result<Reporter, Failure> {
    reporter_beside(None, format)
}

/// The reporter of a run, and what serves its status where that was asked for.
async fn told(output: &Output) -> Result<(Reporter, Option<Status>), Failure> {
    let status = match output.listen {
        Some(address) => Some(Status::listen(address).await?),
        None => None,
    };
    Ok((reporter_beside(status.as_ref(), output.format)?, status))
}

/// A reporter that keeps the status up to date.
fn reporter_beside(status: Option<&Status>, format: Format) -> Result<Reporter, Failure> {
    let shown = on_stdout(format);
    let shown = match status {
        Some(status) => status.beside(shown),
        None => shown,
    };
    Reporter::new(shown, jiff::Timestamp::now)
        .map_err(|e| Failure::failed(format!("cannot start the thread that shows progress: {e}")))
}

/// Prints a line. A reader that is gone is no failure of the command.
fn say_line(text: &str) {
    say(&format!("{text}\n"));
}

/// Prints lines.
fn say(text: &str) {
    use std::io::Write;
    let _ = write!(std::io::stdout(), "{text}");
}

/// The tables of a plan, under the names they have at the end.
fn targets(plan: &Plan) -> Vec<String> {
    std::iter::once(&plan.target)
        .chain(plan.parts.iter().map(|part| &part.target))
        .chain(plan.lookups.iter().map(|lookup| &lookup.target))
        .map(|table| table.name.plain())
        .collect()
}
