//! The one door through which identifiers and literals become SQL text.
//!
//! Quoting follows "Lexical Structure" of the PostgreSQL manual (4.1.1 and 4.1.2). Identifiers are always quoted, so no
//! key word list is needed; literals use the `E''` form only where a backslash occurs, so the text is right whatever
//! `standard_conforming_strings` says.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest identifier the server keeps, in bytes (`NAMEDATALEN` - 1).
pub const MAX_IDENTIFIER_BYTES: usize = 63;

/// A quoted identifier: displays as `"name"`.
#[derive(Clone, Copy, Debug)]
pub struct Ident<'a>(pub &'a str);

impl fmt::Display for Ident<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for part in self.0.split_inclusive('"') {
            f.write_str(part)?;
            if part.ends_with('"') {
                f.write_str("\"")?;
            }
        }
        f.write_str("\"")
    }
}

/// A quoted string literal: displays as `'text'`.
#[derive(Clone, Copy, Debug)]
pub struct Literal<'a>(pub &'a str);

impl fmt::Display for Literal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.contains('\\') {
            write!(f, " E'{}'", self.0.replace('\\', "\\\\").replace('\'', "''"))
        } else {
            write!(f, "'{}'", self.0.replace('\'', "''"))
        }
    }
}

/// `schema.name`, always shown quoted and qualified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct QualifiedName {
    /// The schema, as the catalog spells it.
    pub schema: String,
    /// The name, as the catalog spells it.
    pub name: String,
}

impl QualifiedName {
    /// A name in a schema.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        QualifiedName { schema: schema.into(), name: name.into() }
    }

    /// A name in the session's own schema of temporary relations.
    pub fn temporary(name: impl Into<String>) -> Self {
        QualifiedName::new("pg_temp", name)
    }

    /// The same schema, another name.
    pub fn sibling(&self, name: impl Into<String>) -> Self {
        QualifiedName { schema: self.schema.clone(), name: name.into() }
    }

    /// As a person would write it: quoted only where needed. For messages, never for SQL.
    pub fn plain(&self) -> String {
        format!("{}.{}", plain_ident(&self.schema), plain_ident(&self.name))
    }
}

impl fmt::Display for QualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", Ident(&self.schema), Ident(&self.name))
    }
}

/// An identifier for messages: quoted only where SQL would need it.
pub fn plain_ident(name: &str) -> String {
    let simple = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if simple { name.to_owned() } else { Ident(name).to_string() }
}

/// Whom a privilege is granted to, as SQL; `None` is PUBLIC.
pub fn grantee(role: Option<&str>) -> String {
    role.map_or_else(|| "PUBLIC".to_owned(), |role| Ident(role).to_string())
}

/// `a, b, c` of quoted identifiers.
pub fn ident_list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|n| Ident(n).to_string()).collect::<Vec<_>>().join(", ")
}

/// `base` followed by `suffix`, cut so that the whole fits [`MAX_IDENTIFIER_BYTES`] at a character boundary.
pub fn name_with_suffix(base: &str, suffix: &str) -> String {
    format!("{}{suffix}", cut(base, MAX_IDENTIFIER_BYTES.saturating_sub(suffix.len())))
}

/// As much of a text as these bytes hold, at a character boundary.
pub fn cut(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_doubled() {
        assert_eq!(Ident("a\"b").to_string(), "\"a\"\"b\"");
        assert_eq!(Ident("").to_string(), "\"\"");
        assert_eq!(Literal("it's").to_string(), "'it''s'");
        assert_eq!(Literal(r"a\'b").to_string(), r" E'a\\''b'");
    }

    #[test]
    fn a_suffix_fits_the_identifier_limit_at_a_character_boundary() {
        let base = "ä".repeat(31);
        let name = name_with_suffix(&base, "_old");
        assert!(name.len() <= MAX_IDENTIFIER_BYTES && name.ends_with("ä_old"), "{name}");
    }

    #[test]
    fn plain_names_are_quoted_only_where_needed() {
        assert_eq!(QualifiedName::new("public", "Orders").plain(), "public.\"Orders\"");
    }
}
