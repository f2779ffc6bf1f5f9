//! SQL texts of the catalog, with another relation in the place of one.

use pg_query::protobuf::Token;

use crate::error::Failure;
use crate::pg::QualifiedName;

/// The text with every mention of one relation replaced. In texts that the server spells under an empty search path a
/// relation is always `schema.name`, and nothing else is but types and functions, which are followed by what no relation
/// is.
pub fn renamed(text: &str, from: &QualifiedName, to: &QualifiedName) -> Result<String, Failure> {
    let tokens = pg_query::scan(text).map_err(|e| Failure::failed(format!("cannot read {text}: {e}")))?.tokens;
    let at =
        |start: i32, end: i32| -> Option<&str> { text.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?) };
    let is = |token: &pg_query::protobuf::ScanToken, name: &str| {
        at(token.start, token.end).is_some_and(|t| unquoted(t) == name)
    };
    let mut out = String::with_capacity(text.len());
    let mut copied = 0;
    for (n, window) in tokens.windows(3).enumerate() {
        let [schema, dot, name] = window else { continue };
        let before = n.checked_sub(1).and_then(|n| tokens.get(n)).map(|t| t.token);
        let after = tokens.get(n + 3).map(|t| t.token);
        let relation = dot.token == Token::Ascii46 as i32
            && is(schema, &from.schema)
            && is(name, &from.name)
            && before != Some(Token::Ascii46 as i32)
            && before != Some(Token::Typecast as i32)
            && after != Some(Token::Ascii40 as i32);
        let (Ok(start), Ok(end)) = (usize::try_from(schema.start), usize::try_from(name.end)) else { continue };
        if relation && start >= copied {
            out.push_str(&text[copied..start]);
            out.push_str(&to.to_string());
            copied = end;
        }
    }
    out.push_str(&text[copied..]);
    Ok(out)
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
}
