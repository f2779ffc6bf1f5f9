//! Places in a file: where a mistake is, for those who are to mend it. Pure.

use clap::error::{ContextKind, ContextValue};

use super::read::Spec;
use super::{Word, Words};
use crate::error::Failure;

/// `FILE:LINE:COLUMN` of a byte of the text, counted from 1, columns in characters.
pub(super) fn place(file: &str, text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("{file}:{line}:{column}")
}

impl Spec {
    /// An error of exit 2 at a place.
    pub(super) fn wrong(&self, at: usize, what: impl std::fmt::Display) -> Failure {
        Failure::usage(format!("{}: {what}", place(&self.file, &self.text, at)))
    }

    /// What the reader of command lines says of a value, where the value stands. What was typed beside the file was read
    /// before.
    pub(super) fn misread(&self, error: &clap::Error) -> Failure {
        let context = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => Some(text.clone()),
            _ => None,
        };
        let whole = || {
            let text = error.render().to_string();
            // What is behind the empty line is about the help.
            let said: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
            said.join(" ").trim_start_matches("error: ").to_owned()
        };
        let why = std::error::Error::source(error).map_or_else(whole, ToString::to_string);
        let arg = context(ContextKind::InvalidArg).unwrap_or_default();
        let arg = arg.split(' ').next().unwrap_or_default();
        let value = context(ContextKind::InvalidValue);
        let found = self.keys.iter().find(|key| match &key.long {
            Some(long) => arg.strip_prefix("--") == Some(long),
            None => arg.trim_matches(['<', '>', '[', ']']).eq_ignore_ascii_case(&key.name),
        });
        let word = found.and_then(|key| self.words.0.iter().find(|word| word.id == key.id));
        let (Some(key), Some(word)) = (found, word) else { return self.wrong(self.at, why) };
        let text = word.texts.iter().find(|text| Some(&text.text) == value.as_ref());
        self.wrong(text.map_or(word.at, |text| text.at), format!("{}: {why}", key.name))
    }

    /// A failure of the whole command, at the first of the options it names that stands in the file. It stays as it is
    /// where it names only what was typed beside the file.
    pub(super) fn locate(&self, failure: Failure, beside: &Words) -> Failure {
        let text = format!("{} {}", failure.primary, failure.detail.as_deref().unwrap_or_default());
        let named: Vec<&str> = text
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
            .filter_map(|word| word.strip_prefix("--"))
            .collect();
        let is_named = |word: &&Word| {
            let long = self.keys.iter().find(|key| key.id == word.id).and_then(|key| key.long.as_deref());
            long.is_some_and(|long| named.contains(&long))
        };
        let typed = |word: &&Word| beside.0.iter().any(|other| other.id == word.id);
        let in_file = self.words.0.iter().filter(|word| !typed(word));
        let at = match in_file.filter(is_named).map(|word| word.at).min() {
            Some(at) => at,
            None if beside.0.iter().any(|word| is_named(&word)) => return failure,
            None => self.at,
        };
        let primary = format!("{}: {}", place(&self.file, &self.text, at), failure.primary);
        failure.named(primary)
    }
}
