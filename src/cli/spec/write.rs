//! A command line as a spec. Pure.

use toml::Value;

use super::keys::{self, Key, Takes};
use super::value::clauses;
use super::{Word, Words};
use crate::cli::reverse::divide;

const HEAD: &str =
    "# `pgrecast run FILE` does this, `pgrecast run FILE --dry-run` shows the plan. Keys: docs/spec.md.\n";

/// The spec: tables and keys in the order of the help, each option with what the help says of it.
pub(super) fn text(command: &clap::Command, words: &Words) -> String {
    let keys = keys::of(command);
    let mut given: Vec<(&Key, &Word)> = Vec::new();
    given.extend(keys.iter().filter_map(|key| Some((key, words.0.iter().find(|word| word.id == key.id)?))));
    let mut tables: Vec<&str> = Vec::new();
    for (key, _) in &given {
        if !tables.contains(&key.table.as_str()) {
            tables.push(&key.table);
        }
    }
    let mut text = HEAD.to_owned();
    for table in tables {
        text.push_str(&format!("\n[{table}]\n"));
        let (pairs, plain): (Vec<_>, Vec<_>) =
            given.iter().filter(|(key, _)| key.table == table).partition(|(key, _)| key.takes == Takes::Pairs);
        for (key, word) in plain {
            text.push_str(&comment(command, key));
            text.push_str(&line(&key.name, value(key.takes, word)));
        }
        for (key, word) in pairs {
            text.push_str(&format!("\n{}[{table}.{}]\n", comment(command, key), key.name));
            for (name, value) in word.texts.iter().filter_map(|text| divide(&text.text)) {
                text.push_str(&line(name, Value::String(value.to_owned())));
            }
        }
    }
    text
}

/// What the help says of an option. What an argument is, its name says.
fn comment(command: &clap::Command, key: &Key) -> String {
    let arg = command.get_arguments().find(|arg| arg.get_id() == key.id.as_str() && arg.get_long().is_some());
    let help = arg.and_then(clap::Arg::get_help).map(ToString::to_string);
    help.map(|help| format!("# {}\n", help.replace('\n', " "))).unwrap_or_default()
}

/// `KEY = VALUE`; a list of several goes over as many lines.
fn line(key: &str, value: Value) -> String {
    let table = toml::Table::from_iter([(key.to_owned(), value)]);
    // A table of texts, numbers and lists of texts can be written.
    toml::to_string_pretty(&table).unwrap_or_default()
}

fn value(takes: Takes, word: &Word) -> Value {
    let texts = || word.texts.iter().map(|text| text.text.clone());
    let text = texts().next().unwrap_or_default();
    let list = |items: Vec<String>| Value::Array(items.into_iter().map(Value::String).collect());
    match takes {
        Takes::Switch(on) => Value::Boolean(on),
        Takes::Several => list(texts().collect()),
        Takes::Number => number(&text).unwrap_or(Value::String(text)),
        Takes::Clauses => match cut(&text) {
            cut if cut.len() > 1 && clauses(&cut) == text => list(cut),
            _ => Value::String(text),
        },
        // Pairs have a table of their own.
        Takes::Text | Takes::Columns | Takes::Bounds | Takes::Values | Takes::Pairs => Value::String(text),
    }
}

/// A number that reads back as the same text.
fn number(text: &str) -> Option<Value> {
    let whole = text.parse::<i64>().ok().filter(|n| n.to_string() == text).map(Value::Integer);
    whole.or_else(|| text.parse::<f64>().ok().filter(|n| n.is_finite() && n.to_string() == text).map(Value::Float))
}

/// Clauses as a list that is good to read. It need not be right: what is put together again is what counts.
fn cut(text: &str) -> Vec<String> {
    let (mut items, mut depth, mut quote) = (vec![String::new()], 0_i32, None);
    for c in text.chars() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (None, '(' | '[') => depth += 1,
            (None, ')' | ']') => depth -= 1,
            _ => {}
        }
        match items.last_mut() {
            Some(item) if c == ' ' && depth == 0 && quote.is_none() && item.ends_with(',') => {
                item.pop();
                items.push(String::new());
            }
            Some(item) => item.push(c),
            None => {}
        }
    }
    items
}
