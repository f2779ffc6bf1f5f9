//! The command line: what was typed (`typed`, clap's words), and what was checked ([`Command`]). Nothing here
//! touches a file or a server.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};

use crate::error::{Exit, Failure};
use crate::report::{Format, LogFormat};

mod alter;
mod demo;
mod hours;
mod listen;
mod name;
mod options;
mod partition;
mod quantity;
mod resume;
mod reverse;
mod secret;
mod session;
mod set;
mod setting;
mod spec;
mod split;
mod sub;
mod typed;
mod widen;

pub use alter::Alter;
pub use demo::Demo;
pub use hours::{Critical, Hours, Outside};
pub use name::{ColumnName, NameError, TableName};
pub use options::{Changes, Cutover, DryRun, MigrateOptions, OnError, Throttle};
pub use partition::{Partition, PartitionBy};
pub use resume::Resume;
pub use reverse::Reverse;
pub use session::{Connection, Output};
pub use set::Set;
pub use setting::Setting;
pub use spec::{Printed, Run, Spelled};
pub use split::{OnChange, Split};
pub use widen::Widen;

use typed::{CommandLine, OneArgs, Typed};

/// What is to be done.
#[derive(Debug, PartialEq)]
pub enum Command {
    /// Give a table a new shape.
    Alter(Box<Alter>),
    /// Make a table partitioned.
    Partition(Box<Partition>),
    /// Change a key's type wherever it is held.
    Widen(Box<Widen>),
    /// Do what a file says.
    Run(Box<Run>),
    /// Show a command as a file says it.
    Print(Box<Printed>),
    /// Move columns or rows into new tables.
    Split(Box<Split>),
    /// Go on with an interrupted migration.
    Resume(Box<Resume>),
    /// Show all migrations.
    List(List),
    /// Show where a migration stands.
    Status(One),
    /// Hold a migration back.
    Pause(One),
    /// Let it go on.
    Unpause(One),
    /// Change its options.
    Set(Box<Set>),
    /// Release a postponed cut-over.
    Cutover(One),
    /// Give a migration up and remove all that belongs to it.
    Abort(One),
    /// Compare source and targets now.
    Verify(Verify),
    /// Drop the old table and all that the tool owns for it.
    Finish(Finish),
    /// Swap back without losing a write.
    Rollback(Rollback),
    /// Migrate a table under load on a throwaway server.
    Demo(Demo),
}

impl Command {
    /// The command's name, as typed and as the report's `command` field has it.
    pub fn name(&self) -> &'static str {
        match self {
            Command::Alter(_) => "alter",
            Command::Partition(_) => "partition",
            Command::Widen(_) => "widen",
            Command::Run(_) => "run",
            Command::Print(printed) => printed.of.name(),
            Command::Split(_) => "split",
            Command::Resume(_) => "resume",
            Command::List(_) => "list",
            Command::Status(_) => "status",
            Command::Pause(_) => "pause",
            Command::Unpause(_) => "unpause",
            Command::Set(_) => "set",
            Command::Cutover(_) => "cutover",
            Command::Abort(_) => "abort",
            Command::Verify(_) => "verify",
            Command::Finish(_) => "finish",
            Command::Rollback(_) => "rollback",
            Command::Demo(_) => "demo",
        }
    }

    /// How standard output reads.
    pub fn format(&self) -> Format {
        match self {
            Command::Alter(alter) => alter.output.format,
            Command::Partition(partition) => partition.output.format,
            Command::Widen(widen) => widen.output.format,
            Command::Run(run) => run.output.format,
            Command::Print(_) => Format::Text,
            Command::Split(split) => split.output.format,
            Command::Resume(resume) => resume.output.format,
            Command::List(list) => list.format,
            Command::Status(one) | Command::Cutover(one) | Command::Abort(one) => one.format,
            Command::Pause(one) | Command::Unpause(one) => one.format,
            Command::Set(set) => set.format,
            Command::Verify(verify) => verify.output.format,
            Command::Finish(finish) => finish.format,
            Command::Rollback(rollback) => rollback.output.format,
            Command::Demo(demo) => demo.output.format,
        }
    }
}

/// `pgrecast list`.
#[derive(Debug, PartialEq)]
pub struct List {
    /// The database.
    pub connection: Connection,
    /// How standard output reads.
    pub format: Format,
}

/// `pgrecast status`, `pause`, `unpause`, `cutover` and `abort`: one migration.
#[derive(Debug, PartialEq)]
pub struct One {
    /// Its number; the only one there is where none.
    pub id: Option<i64>,
    /// The database.
    pub connection: Connection,
    /// How standard output reads.
    pub format: Format,
}

/// `pgrecast verify [ID]`.
#[derive(Debug, PartialEq)]
pub struct Verify {
    /// The migration's number; the only one there is where none.
    pub id: Option<i64>,
    /// Nothing is taken from a comparison that was interrupted.
    pub anew: bool,
    /// The database.
    pub connection: Connection,
    /// What is said, and where.
    pub output: Output,
}

/// `pgrecast finish ID`.
#[derive(Debug, PartialEq)]
pub struct Finish {
    /// The migration's number, always named since what is dropped is gone.
    pub id: i64,
    /// The database.
    pub connection: Connection,
    /// How standard output reads.
    pub format: Format,
}

/// `pgrecast rollback ID`.
#[derive(Debug, PartialEq)]
pub struct Rollback {
    /// The migration's number, always named since the application's table changes.
    pub id: i64,
    /// The database.
    pub connection: Connection,
    /// What is said, and where.
    pub output: Output,
}

impl From<OneArgs> for One {
    fn from(typed: OneArgs) -> Self {
        One { id: typed.which.id, format: typed.session.format.format, connection: typed.session.into() }
    }
}

/// Why there is no command to run.
#[derive(Debug)]
pub enum Unparsed {
    /// The help or the version was asked for: this text goes to standard output, and the exit is 0.
    Asked(String),
    /// The command line is wrong, in clap's words, which begin with `error:` or are the help: for standard error.
    Wrong(String),
    /// The command line reads well and cannot be done.
    Refused(Failure),
}

impl Unparsed {
    /// The process exit status.
    pub fn code(&self) -> u8 {
        match self {
            Unparsed::Asked(_) => 0,
            Unparsed::Wrong(_) => Exit::Usage.code(),
            Unparsed::Refused(failure) => failure.exit.code(),
        }
    }
}

impl From<clap::Error> for Unparsed {
    fn from(error: clap::Error) -> Self {
        let text = error.render().to_string();
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Unparsed::Asked(text),
            _ => Unparsed::Wrong(secret::hidden(&text)),
        }
    }
}

impl From<Failure> for Unparsed {
    fn from(failure: Failure) -> Self {
        Unparsed::Refused(failure)
    }
}

/// Reads a command line, the program's name first, and the variable `PGRECAST_DSN`.
pub fn parse<A: Into<OsString> + Clone>(args: impl IntoIterator<Item = A>) -> Result<Command, Unparsed> {
    line(args).map_err(|problem| match problem {
        Problem::Line(error) => error.into(),
        Problem::Refused(failure) => failure.into(),
    })
}

/// Which log a command line asks for, whatever else it says.
pub fn log_format<A: Into<OsString> + Clone>(args: impl IntoIterator<Item = A>) -> Option<LogFormat> {
    let matches = CommandLine::command().try_get_matches_from(args).ok()?;
    matches.get_one::<LogFormat>("log_format").copied()
}

/// Why a line is no command.
enum Problem {
    /// It cannot be read, or asks for help.
    Line(clap::Error),
    /// It contradicts itself.
    Refused(Failure),
}

impl From<clap::Error> for Problem {
    fn from(error: clap::Error) -> Self {
        Problem::Line(error)
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Problem::Refused(failure)
    }
}

fn line<A: Into<OsString> + Clone>(args: impl IntoIterator<Item = A>) -> Result<Command, Problem> {
    let mut definition = CommandLine::command();
    let matches = definition.try_get_matches_from_mut(args)?;
    let typed = CommandLine::from_arg_matches(&matches).map_err(|error| error.format(&mut definition))?.command;
    let words = spec::Words::typed(&matches);
    let print = typed.beginning().is_some_and(|beginning| beginning.print_spec);
    match check(typed, &words)? {
        // What is typed beside a file is printed with what stands in it.
        run @ Command::Run(_) => Ok(run),
        command if print => Ok(Command::Print(Box::new(spec::print(words, command)?))),
        command => Ok(command),
    }
}

fn check(typed: Typed, words: &spec::Words) -> Result<Command, Failure> {
    match typed {
        Typed::Alter(typed) => Alter::check(*typed).map(Box::new).map(Command::Alter),
        Typed::Partition(typed) => Partition::check(*typed).map(Box::new).map(Command::Partition),
        Typed::Widen(typed) => Widen::check(*typed).map(Box::new).map(Command::Widen),
        Typed::Run(typed) => Ok(Command::Run(Box::new(Run::check(*typed, words.clone())))),
        Typed::Split(typed) => Split::check(*typed).map(Box::new).map(Command::Split),
        Typed::Resume(typed) => Resume::check(*typed).map(Box::new).map(Command::Resume),
        Typed::List(session) => Ok(Command::List(List { format: session.format.format, connection: session.into() })),
        Typed::Status(typed) => Ok(Command::Status(typed.into())),
        Typed::Pause(typed) => Ok(Command::Pause(typed.into())),
        Typed::Unpause(typed) => Ok(Command::Unpause(typed.into())),
        Typed::Set(typed) => Set::check(typed).map(Box::new).map(Command::Set),
        Typed::Cutover(typed) => Ok(Command::Cutover(typed.into())),
        Typed::Abort(typed) => Ok(Command::Abort(typed.into())),
        Typed::Verify(typed) => Ok(Command::Verify(Verify {
            id: typed.which.id,
            anew: typed.anew,
            output: Output::new(&typed.session.format, typed.report),
            connection: typed.session.into(),
        })),
        Typed::Finish(typed) => Ok(Command::Finish(Finish {
            id: typed.id,
            format: typed.session.format.format,
            connection: typed.session.into(),
        })),
        Typed::Rollback(typed) => Ok(Command::Rollback(Rollback {
            id: typed.id,
            output: Output::new(&typed.session.format, typed.report),
            connection: typed.session.into(),
        })),
        Typed::Demo(typed) => Ok(Command::Demo(typed.into())),
    }
}

#[cfg(test)]
mod tests;
