//! SQL texts of the catalog, with another relation in the place of one.

use pg_query::protobuf::{KeywordKind, ScanToken, Token};

use crate::error::Failure;
use crate::pg::QualifiedName;

/// The text with every mention of one relation replaced.
pub fn renamed(text: &str, from: &QualifiedName, to: &QualifiedName) -> Result<String, Failure> {
    let mut out = String::with_capacity(text.len());
    let mut copied = 0;
    for mention in mentions(text, from)? {
        out.push_str(&text[copied..mention.start]);
        out.push_str(&to.to_string());
        copied = mention.end;
    }
    out.push_str(&text[copied..]);
    Ok(out)
}

/// Whether the text calls the relation's columns by a list of its own, as in `FROM schema.name alias(a, b)`: by place,
/// that is.
pub fn lists_columns(text: &str, of: &QualifiedName) -> Result<bool, Failure> {
    Ok(mentions(text, of)?.iter().any(|mention| mention.column_list))
}

/// A relation in a text.
struct Mention {
    start: usize,
    end: usize,
    /// Its alias has a list of columns.
    column_list: bool,
}

/// In texts that the server spells under an empty search path a relation is always `schema.name`, and nothing else is but
/// types and functions, which stand where no relation can.
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
        let relation = between.token == dot
            && is(schema, &of.schema)
            && is(name, &of.name)
            && before != Some(dot)
            && before != Some(cast)
            && kind(n + 3) != Some(open);
        if let (true, Ok(start), Ok(end)) = (relation, usize::try_from(schema.start), usize::try_from(name.end)) {
            let alias = if kind(n + 3) == Some(Token::As as i32) { n + 4 } else { n + 3 };
            let named = tokens
                .get(alias)
                .is_some_and(|t| t.token == Token::Ident as i32 || t.keyword_kind() == KeywordKind::UnreservedKeyword);
            found.push(Mention { start, end, column_list: named && kind(alias + 1) == Some(open) });
        }
    }
    Ok(found)
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
    fn relations_are_replaced_and_nothing_else() {
        let from = QualifiedName::new("public", "T x");
        let to = QualifiedName::new("pg_temp", "T x");
        let text = r#"SELECT "T x".id, 'public."T x"' AS s, public."T x"(1), NULL::public."T x" FROM (public."T x" JOIN public.t ON true)"#;
        assert_eq!(
            renamed(text, &from, &to).ok().as_deref(),
            Some(
                r#"SELECT "T x".id, 'public."T x"' AS s, public."T x"(1), NULL::public."T x" FROM ("pg_temp"."T x" JOIN public.t ON true)"#
            )
        );
    }

    #[test]
    fn a_list_of_columns_is_noticed() {
        let t = QualifiedName::new("public", "t");
        let lists = |text: &str| lists_columns(text, &t).ok();
        assert_eq!(lists("SELECT x.b FROM public.t x(a, b)"), Some(true));
        assert_eq!(lists("SELECT x.b FROM (public.t t_1(a, b) JOIN public.u USING (a))"), Some(true));
        assert_eq!(lists("SELECT count(*) FROM public.t x WHERE (x.a > 1)"), Some(false));
        assert_eq!(lists("SELECT 1 FROM public.t WHERE (EXISTS (SELECT 1 FROM public.u x(a)))"), Some(false));
        assert_eq!(lists("SELECT 1 FROM (public.u JOIN public.t USING (a))"), Some(false));
    }
}
