//! A level of partitions below another, as one text. Pure.

use std::str::FromStr;

use super::name::Columns;
use super::partition::{Method, PartitionBy};

/// `range COL every LENGTH`, `range COL,… bounds A,B,C`, `list COL values a;b,c`, `hash COL,… partitions N`; the first two
/// with `zone ZONE`, the first with `premake N`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Level(pub(super) PartitionBy);

/// The words that a value follows; one of the user's values that is spelled so goes in quotes.
const WORDS: [&str; 6] = ["every", "bounds", "zone", "premake", "values", "partitions"];

const SHAPE: &str = "it reads as range COL every LENGTH, range COL,… bounds A,B,C, list COL values a;b,c or hash COL,… \
     partitions N";

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut clauses = clauses(text)?;
        if clauses.is_empty() {
            return Err(SHAPE.to_owned());
        }
        let (method, columns) = clauses.remove(0);
        let columns = columns.parse::<Columns>().map_err(|e| e.to_string())?;
        let mut take = |word: &str| {
            let at = clauses.iter().position(|(given, _)| given == word)?;
            Some(clauses.remove(at).1)
        };
        let number = |word: &str, value: Option<String>| {
            let read = |text: String| {
                text.parse()
                    .ok()
                    .filter(|n| *n <= 1_000)
                    .ok_or_else(|| format!("{word} {text}: not a number from 0 to 1000"))
            };
            value.map(read).transpose()
        };
        let mut typed = Method {
            every: take("every").map(unquoted),
            bounds: take("bounds"),
            zone: take("zone").map(unquoted),
            premake: number("premake", take("premake"))?,
            values: take("values"),
            partitions: number("partitions", take("partitions"))?,
            ..Method::default()
        };
        if let Some((twice, _)) = clauses.first() {
            return Err(format!("{twice} stands there twice"));
        }
        if typed.partitions == Some(0) {
            return Err("partitions 0: one is the least".to_owned());
        }
        match method.as_str() {
            "range" => typed.range = Some(columns),
            "list" => typed.list = Some(columns),
            "hash" => typed.hash = Some(columns),
            _ => return Err(SHAPE.to_owned()),
        }
        PartitionBy::check(typed).map(Level).map_err(|failure| failure.primary)
    }
}

/// The first word, and each of [`WORDS`], with what stands behind it.
fn clauses(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut found: Vec<(String, String)> = Vec::new();
    for word in words(text)? {
        let lower = word.to_ascii_lowercase();
        match found.last_mut() {
            Some((_, value)) if !WORDS.contains(&lower.as_str()) => {
                if !value.is_empty() {
                    value.push(' ');
                }
                value.push_str(word);
            }
            Some(_) | None => found.push((lower, String::new())),
        }
    }
    Ok(found)
}

/// Cut at white space outside of quotes and parentheses.
fn words(text: &str) -> Result<Vec<&str>, String> {
    let (mut found, mut start, mut depth, mut quote) = (Vec::new(), None, 0_i32, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '(') => depth += 1,
            (None, ')') => depth -= 1,
            (None, _) => {}
        }
        let inside = quote.is_some() || depth > 0 || !c.is_whitespace();
        match (inside, start) {
            (true, None) => start = Some(at),
            (false, Some(from)) => {
                found.push(&text[from..at]);
                start = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
    }
    if quote.is_some() || depth != 0 {
        return Err("a quote or a parenthesis is not closed".to_owned());
    }
    found.extend(start.map(|from| &text[from..]));
    Ok(found)
}

/// A length or a zone may stand in quotes, as it does in a shell.
fn unquoted(text: String) -> String {
    let inner = text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
    inner.map(str::to_owned).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<PartitionBy, String> {
        text.parse::<Level>().map(|level| level.0)
    }

    #[test]
    fn levels_read_as_the_options_do() {
        let columns = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let every = |every: &str, zone: Option<&str>, premake| PartitionBy::Every {
            column: "at".to_owned(),
            every: every.to_owned(),
            zone: zone.map(str::to_owned),
            premake,
        };
        assert_eq!(read("range at every 1 month"), Ok(every("1 month", None, 4)));
        assert_eq!(
            read("RANGE At  EVERY '2 weeks' premake 0 zone 'Europe/Berlin'"),
            Ok(every("2 weeks", Some("Europe/Berlin"), 0))
        );
        let bounds = PartitionBy::Bounds {
            columns: columns(&["a", "Zone every"]),
            bounds: "(1, 'x y'), (2, MAXVALUE)".to_owned(),
            zone: None,
        };
        assert_eq!(read("range a, \"Zone every\" bounds (1, 'x y'), (2, MAXVALUE)"), Ok(bounds));
        let list = PartitionBy::List { column: "kind".to_owned(), values: "a;b, 'every';NULL".to_owned() };
        assert_eq!(read("list kind values a;b, 'every';NULL"), Ok(list));
        assert_eq!(
            read("hash id,b partitions 4"),
            Ok(PartitionBy::Hash { columns: columns(&["id", "b"]), partitions: 4 })
        );
        for (text, words) in [
            ("", "it reads as range COL"),
            ("none", "a name is missing"),
            ("tree id partitions 2", "it reads as range COL"),
            ("range at", "--range needs --every or --bounds"),
            ("list a values x zone UTC", "--zone is not for --list"),
            ("hash id partitions 0", "one is the least"),
            ("hash id partitions 2000", "not a number from 0 to 1000"),
            ("range at every 1 day every 2 days", "every stands there twice"),
            ("list a values 'x", "is not closed"),
            ("list a-b values x", "can stand in a name only"),
        ] {
            let said = read(text).expect_err(text);
            assert!(said.contains(words), "{text}: {said}");
        }
    }
}
