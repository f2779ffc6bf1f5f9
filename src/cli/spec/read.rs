//! A spec's text as the words of a command line. Pure.

use std::borrow::Cow;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{self, Key};
use super::place::place;
use super::value::texts;
use super::{Word, Words};
use crate::error::Failure;

/// Below this a name is not like another, by Jaro and Winkler.
const ALIKE: f64 = 0.7;

/// A spec, and where all of it stands.
pub(super) struct Spec {
    /// The file's name, for messages.
    pub(super) file: String,
    /// What stands in it.
    pub(super) text: String,
    /// What it says to do.
    pub(super) command: clap::Command,
    /// All keys that this has.
    pub(super) keys: Vec<Key>,
    /// With what.
    pub(super) words: Words,
    /// Where the command's own table begins.
    pub(super) at: usize,
}

type Name<'a> = Spanned<Cow<'a, str>>;
type Entry<'a, 'b> = (&'b Name<'a>, &'b Spanned<DeValue<'a>>);

impl Spec {
    /// Reads all of it.
    ///
    /// # Errors
    /// Exit 2 with the place of the first mistake.
    pub(super) fn read(file: &Path, text: &str) -> Result<Spec, Failure> {
        let file = file.display().to_string();
        let root = DeTable::parse(text).map_err(|e| {
            let at = place(&file, text, e.span().map_or(0, |span| span.start));
            Failure::usage(format!("{at}: {}", e.message().trim().replace('\n', ", ")))
                .hint("A spec is a TOML file; docs/spec.md has examples.")
        })?;
        let commands = keys::commands();
        let entries = in_order(root.get_ref());
        let is_named = |(name, _): &&Entry<'_, '_>| commands.iter().any(|c| c.get_name() == name.get_ref());
        let named: Vec<&Entry<'_, '_>> = entries.iter().filter(is_named).collect();
        let command = named.first().and_then(|(name, _)| keys::command(name.get_ref()).ok());
        let Some(command) = command else {
            return Err(nothing_to_do(&file, text, &commands, entries.first()));
        };
        let keys = keys::of(&command);
        let at = named[0].0.span().start;
        let mut spec = Spec { file, text: text.to_owned(), command, keys, words: Words::default(), at };
        if let [(first, _), (second, _), ..] = named[..] {
            let both = format!("[{}] and [{}] exclude each other", first.get_ref(), second.get_ref());
            return Err(spec.wrong(second.span().start, both).hint("A spec says one migration."));
        }
        for (name, value) in entries {
            let words = spec.table(name, value)?;
            spec.words.0.extend(words);
        }
        let missing = spec.keys.iter().find(|key| key.needed && !spec.words.0.iter().any(|word| word.id == key.id));
        match missing {
            Some(key) => Err(spec.wrong(spec.at, format!("[{}] needs the key {}", key.table, key.name))),
            None => Ok(spec),
        }
    }

    fn table(&self, table: &Name<'_>, value: &Spanned<DeValue<'_>>) -> Result<Vec<Word>, Failure> {
        let (at, name) = (table.span().start, table.get_ref().as_ref());
        if !self.keys.iter().any(|key| key.table == name) {
            return Err(self.unknown_table(at, name));
        }
        let DeValue::Table(entries) = value.get_ref() else {
            return Err(self.wrong(at, format!("{name} is a table: write [{name}] and its keys below")));
        };
        let mut words = Vec::new();
        for (key, value) in in_order(entries) {
            let at = key.span().start;
            let found = self.keys.iter().find(|known| known.table == name && known.name == *key.get_ref());
            let Some(found) = found else { return Err(self.unknown_key(at, name, key.get_ref())) };
            let texts =
                texts(found.takes, value).map_err(|(at, why)| self.wrong(at, format!("{}: {why}", found.name)))?;
            words.extend(texts.map(|texts| Word { id: found.id.clone(), texts, at }));
        }
        Ok(words)
    }

    fn unknown_table(&self, at: usize, name: &str) -> Failure {
        if let Some(key) = self.keys.iter().find(|key| key.name == name) {
            return self
                .wrong(at, format!("{name} stands in no table"))
                .hint(format!("Write it below [{}].", key.table));
        }
        let mut tables: Vec<&str> = self.keys.iter().map(|key| key.table.as_str()).collect();
        tables.dedup();
        self.wrong(at, format!("unknown table [{name}]")).hint(match nearest(name, &tables) {
            Some(near) => format!("Did you mean [{near}]?"),
            None => format!("There is {}.", bracketed(&tables)),
        })
    }

    fn unknown_key(&self, at: usize, table: &str, name: &str) -> Failure {
        let failure = self.wrong(at, format!("unknown key {name} in [{table}]"));
        if keys::is_left_out(name) {
            return failure.hint(format!("It is not the migration's: give --{name} beside `pgrecast run`."));
        }
        if let Some(key) = self.keys.iter().find(|key| key.long.as_deref() == Some(name) && key.name != name) {
            return failure.hint(format!("Write {} = false.", key.name));
        }
        if let Some(key) = self.keys.iter().find(|key| key.name == name) {
            return failure.hint(format!("Write it below [{}].", key.table));
        }
        let others = keys::commands();
        let other = others.iter().find(|other| keys::of(other).iter().any(|key| key.name == name));
        if let Some(other) = other {
            return failure.hint(format!("It is for [{}].", other.get_name()));
        }
        let names = |own: bool| {
            let keys = self.keys.iter().filter(move |key| (key.table == table) == own);
            keys.map(|key| key.name.as_str()).collect::<Vec<_>>()
        };
        let own = names(true);
        let near = nearest(name, &own).or_else(|| nearest(name, &names(false)));
        let near = near.and_then(|near| self.keys.iter().find(|key| key.name == near));
        failure.hint(match near {
            Some(key) if key.table == table => format!("Did you mean {}?", key.name),
            Some(key) => format!("Did you mean {} below [{}]?", key.name, key.table),
            None => format!("There is {}.", own.join(", ")),
        })
    }
}

/// As they stand in the file.
fn in_order<'a, 'b>(table: &'b DeTable<'a>) -> Vec<Entry<'a, 'b>> {
    let mut entries: Vec<Entry<'a, 'b>> = table.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries
}

fn nothing_to_do(file: &str, text: &str, commands: &[clap::Command], first: Option<&Entry<'_, '_>>) -> Failure {
    let names: Vec<&str> = commands.iter().map(clap::Command::get_name).collect();
    let at = first.map_or(0, |(name, _)| name.span().start);
    let failure = Failure::usage(format!("{}: the spec does not say what to do", place(file, text, at)));
    let alike = first.and_then(|(name, _)| nearest(name.get_ref(), &names));
    match alike {
        Some(name) => failure.hint(format!("Did you mean [{name}]?")),
        None => failure.hint(format!("It wants one of the tables {}.", bracketed(&names))),
    }
}

fn bracketed(names: &[&str]) -> String {
    names.iter().map(|name| format!("[{name}]")).collect::<Vec<_>>().join(", ")
}

fn nearest<'a>(name: &str, names: &[&'a str]) -> Option<&'a str> {
    let like = |other: &&str| strsim::jaro_winkler(name, other);
    let best = names.iter().copied().max_by(|a, b| like(a).total_cmp(&like(b)))?;
    (like(&best) > ALIKE).then_some(best)
}
