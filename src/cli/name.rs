//! Names as SQL writes them: folded unless quoted, doubled quotes inside quotes.
//!
//! The rules are those of "Identifiers and Key Words" (4.1.1) of the PostgreSQL manual, with two differences. A name
//! that the server would cut at 63 bytes is refused, since it would then be another table's name; and key words need no
//! quotes, since nothing but a name can stand here.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::pg::sql::{MAX_IDENTIFIER_BYTES, plain_ident};

/// A table as it was typed: the schema may be left to the role's search path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableName {
    /// The schema, folded or unquoted, if it was given.
    pub schema: Option<String>,
    /// The table's name, folded or unquoted.
    pub name: String,
}

impl fmt::Display for TableName {
    /// Quoted only where needed. For messages, never for SQL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{}.", plain_ident(schema))?;
        }
        f.write_str(&plain_ident(&self.name))
    }
}

/// A column of a table, as it was typed: `TABLE.COLUMN` or `SCHEMA.TABLE.COLUMN`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnName {
    /// Its table.
    pub table: TableName,
    /// Its name, folded or unquoted.
    pub column: String,
}

impl fmt::Display for ColumnName {
    /// Quoted only where needed. For messages, never for SQL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.table, plain_ident(&self.column))
    }
}

impl FromStr for ColumnName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let mut parts = names(text, '.')?;
        match (parts.pop(), parts.pop(), parts.pop(), parts.pop()) {
            (Some(column), Some(name), schema, None) => Ok(ColumnName { table: TableName { schema, name }, column }),
            _ => Err(NameError::NoColumn),
        }
    }
}

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing where a name should be.
    #[error("a name is missing")]
    Missing,
    /// `""`.
    #[error("a quoted name is empty")]
    Empty,
    /// A quote that is never closed.
    #[error("a double quote is not closed")]
    Unclosed,
    /// A character that SQL takes only in quotes.
    #[error("{0:?} can stand in a name only inside double quotes, as in '\"my-table\"'")]
    NeedsQuotes(char),
    /// Longer than the server keeps.
    #[error("the name is {0} bytes long and PostgreSQL keeps {MAX_IDENTIFIER_BYTES}")]
    TooLong(usize),
    /// `a.b.c`.
    #[error("a table is NAME or SCHEMA.NAME; the database is named by --dsn")]
    TooManyParts,
    /// Not `a.b` or `a.b.c`.
    #[error("a column is TABLE.COLUMN or SCHEMA.TABLE.COLUMN")]
    NoColumn,
    /// The same column twice.
    #[error("column {} is named twice", plain_ident(.0))]
    Twice(String),
}

impl FromStr for TableName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let mut parts = names(text, '.')?;
        match (parts.pop(), parts.pop(), parts.pop()) {
            (Some(name), schema, None) => Ok(TableName { schema, name }),
            (None, ..) => Err(NameError::Missing),
            (Some(_), _, Some(_)) => Err(NameError::TooManyParts),
        }
    }
}

/// A comma separated list of columns; none twice, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns(pub Vec<String>);

impl FromStr for Columns {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let columns = names(text, ',')?;
        let twice = columns.iter().enumerate().find(|(at, name)| columns[..*at].contains(name));
        match twice {
            Some((_, name)) => Err(NameError::Twice(name.clone())),
            None => Ok(Columns(columns)),
        }
    }
}

/// One or more names with a separator and free white space between them.
fn names(text: &str, separator: char) -> Result<Vec<String>, NameError> {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        let (name, after) = name(rest.trim_start())?;
        found.push(name);
        let after = after.trim_start();
        match after.chars().next() {
            None => return Ok(found),
            Some(c) if c == separator => rest = &after[c.len_utf8()..],
            Some(c) => return Err(NameError::NeedsQuotes(c)),
        }
    }
}

/// The name at the head of the text, and what follows it.
fn name(text: &str) -> Result<(String, &str), NameError> {
    let (name, rest) = match text.strip_prefix('"') {
        Some(quoted) => quoted_name(quoted)?,
        None => bare_name(text)?,
    };
    if name.len() > MAX_IDENTIFIER_BYTES {
        return Err(NameError::TooLong(name.len()));
    }
    Ok((name, rest))
}

/// What follows an opening quote, up to the quote that is not doubled.
fn quoted_name(text: &str) -> Result<(String, &str), NameError> {
    let mut name = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once('"').ok_or(NameError::Unclosed)?;
        name.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None if name.is_empty() => return Err(NameError::Empty),
            None => return Ok((name, after)),
        }
    }
}

/// A name without quotes. Only ASCII is folded, as the server does in a multi-byte encoding.
fn bare_name(text: &str) -> Result<(String, &str), NameError> {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii();
    let end = text.find(|c| !inner(c)).unwrap_or(text.len());
    match text.chars().next() {
        Some(c) if c.is_ascii_digit() || c == '$' => Err(NameError::NeedsQuotes(c)),
        Some(c) if end == 0 && c != '.' && c != ',' => Err(NameError::NeedsQuotes(c)),
        _ if end == 0 => Err(NameError::Missing),
        _ => Ok((text[..end].to_ascii_lowercase(), &text[end..])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(schema: Option<&str>, name: &str) -> TableName {
        TableName { schema: schema.map(str::to_owned), name: name.to_owned() }
    }

    #[test]
    fn tables_read_as_in_sql() {
        let longest = "x".repeat(MAX_IDENTIFIER_BYTES);
        let cases = [
            ("orders", table(None, "orders")),
            ("Orders", table(None, "orders")),
            ("public.Orders", table(Some("public"), "orders")),
            (" public . orders ", table(Some("public"), "orders")),
            ("\"Orders\"", table(None, "Orders")),
            ("\"a.b\".\"c\"\"d\"", table(Some("a.b"), "c\"d")),
            ("\"\"\"\"", table(None, "\"")),
            ("\" spaced \"", table(None, " spaced ")),
            ("_x$1", table(None, "_x$1")),
            ("Größe", table(None, "größe")),
            ("ÄRGER", table(None, "Ärger")),
            (longest.as_str(), table(None, &longest)),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn columns_are_named_with_their_tables() {
        let orders = |schema| ColumnName { table: table(schema, "orders"), column: "Id".to_owned() };
        assert_eq!("orders.\"Id\"".parse(), Ok(orders(None)));
        assert_eq!("public.orders.\"Id\"".parse(), Ok(orders(Some("public"))));
        for text in ["orders", "a.b.c.d"] {
            assert_eq!(text.parse::<ColumnName>(), Err(NameError::NoColumn), "{text}");
        }
    }

    #[test]
    fn what_is_no_table_is_refused() {
        let cases = [
            ("", NameError::Missing),
            ("  ", NameError::Missing),
            ("public.", NameError::Missing),
            (".orders", NameError::Missing),
            ("a..b", NameError::Missing),
            ("a.b.c", NameError::TooManyParts),
            ("a.b.c.d", NameError::TooManyParts),
            ("\"\"", NameError::Empty),
            ("\"abc", NameError::Unclosed),
            ("\"abc\"\"", NameError::Unclosed),
            ("my-table", NameError::NeedsQuotes('-')),
            ("two words", NameError::NeedsQuotes('w')),
            ("1st", NameError::NeedsQuotes('1')),
            ("$1", NameError::NeedsQuotes('$')),
            ("a;b", NameError::NeedsQuotes(';')),
            ("a,b", NameError::NeedsQuotes(',')),
            ("\"a\"b", NameError::NeedsQuotes('b')),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<TableName>(), Err(expected), "{text}");
        }
    }

    #[test]
    fn a_name_that_the_server_would_cut_is_refused() {
        assert_eq!("x".repeat(64).parse::<TableName>(), Err(NameError::TooLong(64)));
        let in_bytes = format!("\"{}\"", "ä".repeat(32));
        assert_eq!(in_bytes.parse::<TableName>(), Err(NameError::TooLong(64)));
    }

    #[test]
    fn columns_are_a_list_without_repeats() {
        let two = Columns(vec!["id".to_owned(), "Created, at".to_owned()]);
        assert_eq!("ID, \"Created, at\"".parse(), Ok(two));
        assert_eq!("a,b,A".parse::<Columns>(), Err(NameError::Twice("a".to_owned())));
        assert_eq!("a,".parse::<Columns>(), Err(NameError::Missing));
        assert_eq!("a.b".parse::<Columns>(), Err(NameError::NeedsQuotes('.')));
    }

    #[test]
    fn a_table_shows_quotes_only_where_needed() {
        assert_eq!(table(Some("public"), "Orders").to_string(), "public.\"Orders\"");
        assert_eq!(table(None, "orders").to_string(), "orders");
    }
}
