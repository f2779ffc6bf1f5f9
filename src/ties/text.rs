//! SQL texts of the catalog, with another relation in the place of one.

use pg_query::protobuf::{KeywordKind, ScanToken, Token};

use crate::error::Failure;
use crate::pg::{Ident, Literal, QualifiedName};

/// The text with every mention of one relation, and of its row type, replaced. Where the new name is another one, what has
/// no alias gets the old name as its alias: columns are called by it.
pub fn renamed(text: &str, from: &QualifiedName, to: &QualifiedName) -> Result<String, Failure> {
    let mut out = String::with_capacity(text.len());
    let mut copied = 0;
    for mention in mentions(text, from)? {
        out.push_str(&text[copied..mention.start]);
        match mention.kind {
            Kind::Literal => out.push_str(&Literal(&to.to_string()).to_string()),
            Kind::RowType | Kind::Relation { named: true, .. } => out.push_str(&to.to_string()),
            Kind::Relation { named: false, .. } if to.name == from.name => out.push_str(&to.to_string()),
            Kind::Relation { named: false, .. } => out.push_str(&format!("{to} AS {}", Ident(&from.name))),
        }
        copied = mention.end;
    }
    out.push_str(&text[copied..]);
    Ok(out)
}

/// Whether the text calls the relation's columns by a list of its own, as in `FROM schema.name alias(a, b)`: by place,
/// that is.
pub fn lists_columns(text: &str, of: &QualifiedName) -> Result<bool, Failure> {
    Ok(mentions(text, of)?.iter().any(|m| matches!(m.kind, Kind::Relation { column_list: true, .. })))
}

/// Whether the text reads the relation without its children or partitions: `FROM ONLY schema.name`.
pub fn reads_only(text: &str, of: &QualifiedName) -> Result<bool, Failure> {
    Ok(mentions(text, of)?.iter().any(|m| matches!(m.kind, Kind::Relation { only: true, .. })))
}

/// A relation in a text.
struct Mention {
    start: usize,
    end: usize,
    kind: Kind,
}

enum Kind {
    /// By its name, with an alias or without one, which may have a list of columns; or behind ONLY.
    Relation { named: bool, column_list: bool, only: bool },
    /// Its row type, in a cast.
    RowType,
    /// As a constant of type `regclass`.
    Literal,
}

/// In texts that the server spells under an empty search path a relation is always `schema.name`, and so is its row type;
/// besides these only other types and functions are, and before a parenthesis a function is meant, but in INSERT INTO.
fn mentions(text: &str, of: &QualifiedName) -> Result<Vec<Mention>, Failure> {
    let tokens = pg_query::scan(text).map_err(|e| Failure::failed(format!("cannot read {text}: {e}")))?.tokens;
    let is = |token: &ScanToken, name: &str| {
        let range = usize::try_from(token.start).ok().zip(usize::try_from(token.end).ok());
        range.and_then(|(start, end)| text.get(start..end)).is_some_and(|t| unquoted(t) == name)
    };
    let kind = |n: usize| tokens.get(n).map(|t| t.token);
    let (dot, open, cast) = (Token::Ascii46 as i32, Token::Ascii40 as i32, Token::Typecast as i32);
    let mut found = Vec::new();
    for (n, window) in tokens.windows(3).enumerate() {
        let [schema, between, name] = window else { continue };
        let before = n.checked_sub(1).and_then(kind);
        let into = before == Some(Token::Into as i32);
        let relation = between.token == dot
            && is(schema, &of.schema)
            && is(name, &of.name)
            && before != Some(dot)
            && (into || kind(n + 3) != Some(open));
        if let (true, Ok(start), Ok(end)) = (relation, usize::try_from(schema.start), usize::try_from(name.end)) {
            let alias = if kind(n + 3) == Some(Token::As as i32) { n + 4 } else { n + 3 };
            let named = tokens
                .get(alias)
                .is_some_and(|t| t.token == Token::Ident as i32 || t.keyword_kind() == KeywordKind::UnreservedKeyword);
            // INSERT INTO lists columns by their names.
            let column_list = !into && named && kind(alias + 1) == Some(open);
            let kind = match before == Some(cast) {
                true => Kind::RowType,
                false => Kind::Relation { named, column_list, only: before == Some(Token::Only as i32) },
            };
            found.push(Mention { start, end, kind });
        }
        // 'schema.name'::regclass
        let constant = schema.token == Token::Sconst as i32 && between.token == cast && is(name, "regclass");
        if let (true, Ok(start), Ok(end)) = (constant, usize::try_from(schema.start), usize::try_from(schema.end))
            && text.get(start..end).is_some_and(|literal| is_literal_of(literal, of))
        {
            found.push(Mention { start, end, kind: Kind::Literal });
        }
    }
    Ok(found)
}

/// Whether a string constant has this name in it, as the server spells one.
fn is_literal_of(literal: &str, of: &QualifiedName) -> bool {
    let inner = literal.strip_prefix('\'').and_then(|t| t.strip_suffix('\'')).map(|t| t.replace("''", "'"));
    let Some(inner) = inner else { return false };
    let parts: Vec<&str> = pg_query::scan(&inner)
        .map(|scanned| scanned.tokens)
        .unwrap_or_default()
        .iter()
        .filter_map(|t| inner.get(usize::try_from(t.start).ok()?..usize::try_from(t.end).ok()?))
        .collect();
    matches!(parts[..], [schema, ".", name] if unquoted(schema) == of.schema && unquoted(name) == of.name)
}

/// An identifier as the catalog has it.
fn unquoted(token: &str) -> String {
    match token.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
        Some(inner) => inner.replace("\"\"", "\""),
        None => token.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relations_and_row_types_are_replaced_and_nothing_else() {
        let from = QualifiedName::new("public", "T x");
        let to = QualifiedName::temporary("T x");
        let text = r#"SELECT "T x".id, 'public."T x"' AS s, public."T x"(1), NULL::public."T x"[] FROM (public."T x" JOIN public.t ON true); INSERT INTO public."T x" (id) VALUES (1)"#;
        assert_eq!(
            renamed(text, &from, &to).ok().as_deref(),
            Some(
                r#"SELECT "T x".id, 'public."T x"' AS s, public."T x"(1), NULL::"pg_temp"."T x"[] FROM ("pg_temp"."T x" JOIN public.t ON true); INSERT INTO "pg_temp"."T x" (id) VALUES (1)"#
            )
        );
    }

    #[test]
    fn another_name_comes_with_the_old_one_as_its_alias() {
        let of = QualifiedName::new("public", "t");
        let to = QualifiedName::new("pgrecast", "shadow_1");
        let text = "SELECT t.a, x.b FROM (ONLY public.t JOIN public.t x(b) USING (a)) WHERE (t.a = 1)";
        let aliased = r#"SELECT t.a, x.b FROM (ONLY "pgrecast"."shadow_1" AS "t" JOIN "pgrecast"."shadow_1" x(b) USING (a)) WHERE (t.a = 1)"#;
        assert_eq!(renamed(text, &of, &to).ok().as_deref(), Some(aliased));
        let text = "SELECT t.a FROM public.t TABLESAMPLE system (50) UNION ALL SELECT 1 FROM public.t";
        let aliased = r#"SELECT t.a FROM "pgrecast"."shadow_1" AS "t" TABLESAMPLE system (50) UNION ALL SELECT 1 FROM "pgrecast"."shadow_1" AS "t""#;
        assert_eq!(renamed(text, &of, &to).ok().as_deref(), Some(aliased));
    }

    #[test]
    fn constants_of_its_oid_are_replaced() {
        let of = QualifiedName::new("public", "It's");
        let to = QualifiedName::new("pgrecast", "shadow_1");
        let text =
            r#"SELECT 'public."It''s"'::regclass, 'public.t'::regclass, 'public."It''s"'::text, '"It''s"'::regclass"#;
        let expected = r#"SELECT '"pgrecast"."shadow_1"'::regclass, 'public.t'::regclass, 'public."It''s"'::text, '"It''s"'::regclass"#;
        assert_eq!(renamed(text, &of, &to).ok().as_deref(), Some(expected));
    }

    #[test]
    fn a_list_of_columns_is_noticed() {
        let t = QualifiedName::new("public", "t");
        let lists = |text: &str| lists_columns(text, &t).ok();
        assert_eq!(lists("SELECT x.b FROM public.t x(a, b)"), Some(true));
        assert_eq!(lists("SELECT x.b FROM (public.t t_1(a, b) JOIN public.u USING (a))"), Some(true));
        assert_eq!(lists("SELECT count(*) FROM public.t x WHERE (x.a > 1)"), Some(false));
        assert_eq!(lists("INSERT INTO public.t AS x (a, b) VALUES (1, 2)"), Some(false));
        assert_eq!(lists("SELECT 1 FROM public.t WHERE (EXISTS (SELECT 1 FROM public.u x(a)))"), Some(false));
        assert_eq!(lists("SELECT 1 FROM (public.u JOIN public.t USING (a))"), Some(false));
    }
}
