//! The keys of a spec, as the command line's own definition gives them.

use std::any::TypeId;

use clap::{Arg, ArgAction, Args, CommandFactory};

use crate::cli::name::Columns;
use crate::cli::typed::{Beginning, CommandLine};
use crate::error::Failure;

/// The table of what all commands take and no heading of the help gathers.
const OPTIONS: &str = "options";

/// Of who runs it and not of the migration. The address may hold a password, which is not for a file that others review.
pub(super) const NOT_IN_A_SPEC: [&str; 8] =
    ["dsn", "dry-run", "sample", "no-trial", "print-spec", "format", "report", "status-listen"];

/// Options whose text is `NAME=VALUE`.
const PAIRS: [&str; 2] = ["setting", "reverse"];

/// A key of a spec.
#[derive(Debug)]
pub(super) struct Key {
    /// What the definition of the command line calls it.
    pub(super) id: String,
    /// The table it stands in.
    pub(super) table: String,
    /// Its name: that of the option, or of the argument.
    pub(super) name: String,
    /// The option, without its dashes.
    pub(super) long: Option<String>,
    /// What may stand behind it.
    pub(super) takes: Takes,
    /// Whether the command cannot do without.
    pub(super) needed: bool,
}

/// What may stand behind a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// `true` or `false`; the option is typed for this one.
    Switch(bool),
    /// A text.
    Text,
    /// A number, or the text of one.
    Number,
    /// Names: a text, or a list.
    Columns,
    /// `ALTER TABLE` clauses: a text, or a list.
    Clauses,
    /// Bounds: a text, or a list of values or of lists of them.
    Bounds,
    /// The values of partitions: a text, or a list of values or of lists of them.
    Values,
    /// A list of texts, or one.
    Several,
    /// A table of names and values.
    Pairs,
}

/// The commands that a spec may say, in the order of the help.
pub(super) fn commands() -> Vec<clap::Command> {
    let line = CommandLine::command();
    let prints = |command: &&clap::Command| command.get_arguments().any(|arg| arg.get_id() == "print_spec");
    line.get_subcommands().filter(prints).filter(|command| command.get_name() != "run").cloned().collect()
}

/// One of them.
pub(super) fn command(name: &str) -> Result<clap::Command, Failure> {
    let found = commands().into_iter().find(|command| command.get_name() == name);
    found.ok_or_else(|| Failure::usage(format!("there is no spec of pgrecast {name}")))
}

/// The keys of a command: its own first, then those that all commands have.
pub(super) fn of(command: &clap::Command) -> Vec<Key> {
    let beginning = Beginning::augment_args(clap::Command::new(""));
    let is_shared = |arg: &Arg| beginning.get_arguments().any(|other| other.get_id() == arg.get_id());
    let kept = command.get_arguments().filter(|arg| !arg.is_hide_set() && !is_left_out(&name(arg)));
    let (shared, own): (Vec<&Arg>, Vec<&Arg>) = kept.partition(|arg| is_shared(arg));
    let own = own.into_iter().map(|arg| key(arg, command.get_name().to_owned()));
    let mut keys: Vec<Key> = own.collect();
    keys.extend(shared.into_iter().map(|arg| key(arg, arg.get_help_heading().map_or(OPTIONS.to_owned(), plain))));
    keys
}

/// Whether the command line has it and a spec does not.
pub(super) fn is_left_out(name: &str) -> bool {
    NOT_IN_A_SPEC.contains(&name)
}

/// A heading of the help as the name of a table.
fn plain(heading: &str) -> String {
    heading.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

fn name(arg: &Arg) -> String {
    arg.get_long().map_or_else(|| arg.get_id().as_str().replace('_', "-"), str::to_owned)
}

fn key(arg: &Arg, table: String) -> Key {
    let name = name(arg);
    let is = |id: TypeId| arg.get_value_parser().type_id() == id;
    let numbers = [TypeId::of::<u8>(), TypeId::of::<u32>(), TypeId::of::<u64>(), TypeId::of::<f64>()];
    let takes = match (arg.get_action(), name.as_str()) {
        (ArgAction::SetTrue, name) => Takes::Switch(!name.starts_with("no-")),
        (ArgAction::Append, name) if PAIRS.contains(&name) => Takes::Pairs,
        (ArgAction::Append, _) => Takes::Several,
        (_, "clauses") => Takes::Clauses,
        (_, "bounds") => Takes::Bounds,
        (_, "values" | "sub-values") => Takes::Values,
        _ if is(TypeId::of::<Columns>()) => Takes::Columns,
        _ if numbers.into_iter().any(is) => Takes::Number,
        _ => Takes::Text,
    };
    Key {
        id: arg.get_id().as_str().to_owned(),
        table,
        name: if takes == Takes::Switch(false) { name.trim_start_matches("no-").to_owned() } else { name },
        long: arg.get_long().map(str::to_owned),
        takes,
        needed: arg.is_required_set(),
    }
}
