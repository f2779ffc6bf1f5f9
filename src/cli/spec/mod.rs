//! A spec: a command line kept in a file, `pgrecast run SPEC.toml` and `--print-spec`. `docs/spec.md` is its manual.
//!
//! A spec is another spelling of a command line and nothing more. It is read into the words of one, these are parsed and
//! checked by what parses and checks every command line, and there is no second opinion of what an option means. Its keys
//! are not written down here: they are the options that the command line defines (`keys`), so neither side can have
//! one that the other lacks.
//!
//! **How a command is added:** its arguments flatten `Beginning`, which has `--print-spec`, and `Typed::beginning` names
//! it. Then `[its-name]` is a table of the spec, its own options are the keys there, and those of `Beginning` are where
//! they are for all. A list in an option that is not one of columns and cannot be repeated wants a line in `keys::Takes`.
//! The tests ask for a sample of each option, and for its line in `docs/spec.md`.

mod keys;
mod place;
mod read;
mod value;
mod write;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, CommandFactory};

use super::session::Output;
use super::typed::{CommandLine, RunArgs};
use super::{Command, Problem, line};
use crate::error::Failure;
use read::Spec;

/// `pgrecast run SPEC.toml`.
#[derive(Debug, PartialEq)]
pub struct Run {
    /// The file.
    pub file: PathBuf,
    /// What is said, and where, while there is no command yet.
    pub output: Output,
    beside: Words,
}

/// `--print-spec`.
#[derive(Debug, PartialEq)]
pub struct Printed {
    /// The spec.
    pub text: String,
    /// What it says.
    pub of: Command,
}

/// The command that a spec says, and where the spec says it.
pub struct Spelled {
    /// The command.
    pub command: Command,
    spec: Spec,
    beside: Words,
}

impl Run {
    pub(super) fn check(typed: RunArgs, mut beside: Words) -> Run {
        beside.0.retain(|word| word.id != "file");
        let output =
            Output::new(&typed.beginning.session.format, typed.beginning.report).listening(&typed.beginning.status);
        Run { file: typed.file, output, beside }
    }

    /// What the file's text says, and what was typed beside it, which counts for more.
    ///
    /// # Errors
    /// Exit 2, by file, line and column.
    pub fn spelled(&self, text: &str) -> Result<Spelled, Failure> {
        let spec = Spec::read(&self.file, text)?;
        let mut words = self.beside.clone();
        let free = |word: &Word| !self.beside.0.iter().any(|typed| typed.id == word.id);
        words.0.extend(spec.words.0.iter().filter(|word| free(word)).cloned());
        match line(words.line(&spec.command)) {
            Ok(command) => Ok(Spelled { command, spec, beside: self.beside.clone() }),
            Err(Problem::Line(error)) => Err(spec.misread(&error)),
            Err(Problem::Refused(failure)) => Err(spec.locate(failure, &self.beside)),
        }
    }
}

impl Spelled {
    /// The failure of the command, with the place in the file that it is about.
    pub fn locate(&self, failure: Failure) -> Failure {
        self.spec.locate(failure, &self.beside)
    }
}

/// The spec of a command line that was checked: what changes nothing where it is left out is left out.
pub(super) fn print(mut words: Words, of: Command) -> Result<Printed, Failure> {
    let command = keys::command(of.name())?;
    let of_a_spec: BTreeSet<String> = keys::of(&command).into_iter().map(|key| key.id).collect();
    words.0.retain(|word| word.id != "print_spec");
    let ids: Vec<String> = words.0.iter().map(|word| word.id.clone()).filter(|id| of_a_spec.contains(id)).collect();
    for id in ids {
        let without = Words(words.0.iter().filter(|word| word.id != id).cloned().collect());
        if line(without.line(&command)).is_ok_and(|other| other == of) {
            words = without;
        }
    }
    Ok(Printed { text: write::text(&command, &words), of })
}

/// What was typed or stands in a spec, word by word.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Words(Vec<Word>);

/// One option or argument.
#[derive(Debug, Clone, PartialEq)]
struct Word {
    /// As the command line's definition calls it.
    id: String,
    /// Its values; none for a switch.
    texts: Vec<Text>,
    /// Where its key stands in the spec.
    at: usize,
}

/// A value as on the command line.
#[derive(Debug, Clone, PartialEq)]
struct Text {
    text: String,
    /// Where it stands in the spec.
    at: usize,
}

impl fmt::Debug for Words {
    /// Hides the values: the DSN is among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|word| &word.id)).finish()
    }
}

impl Words {
    /// Those of a parsed line that were typed; neither defaults nor what the environment has.
    pub(super) fn typed(matches: &ArgMatches) -> Words {
        let Some((name, matches)) = matches.subcommand() else { return Words::default() };
        let line = CommandLine::command();
        let Some(command) = line.find_subcommand(name) else { return Words::default() };
        let typed = command
            .get_arguments()
            .filter(|arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine));
        let words = typed.map(|arg| {
            let id = arg.get_id().as_str();
            let raw = matches.get_raw(id).into_iter().flatten();
            // A switch has the text of its default action, which is not typed.
            let raw = raw.filter(|_| !matches!(arg.get_action(), ArgAction::SetTrue));
            let texts = raw.map(|text| Text { text: text.to_string_lossy().into_owned(), at: 0 }).collect();
            Word { id: id.to_owned(), texts, at: 0 }
        });
        Words(words.collect())
    }

    /// The command line that says this.
    fn line(&self, command: &clap::Command) -> Vec<OsString> {
        let mut line = vec!["pgrecast".to_owned(), command.get_name().to_owned()];
        let find = |arg: &clap::Arg| self.0.iter().find(|word| word.id == arg.get_id().as_str());
        for arg in command.get_arguments() {
            let (Some(long), Some(word)) = (arg.get_long(), find(arg)) else { continue };
            match &word.texts[..] {
                [] => line.push(format!("--{long}")),
                texts => line.extend(texts.iter().map(|text| format!("--{long}={}", text.text))),
            }
        }
        line.push("--".to_owned());
        // One that is missing would give its place to the next.
        let given = command.get_positionals().map_while(find);
        line.extend(given.flat_map(|word| word.texts.iter().map(|text| text.text.clone())));
        line.into_iter().map(OsString::from).collect()
    }
}

#[cfg(test)]
mod tests;
