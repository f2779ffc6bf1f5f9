//! TOML values as the texts of a command line. Pure.

use toml::Spanned;
use toml::de::DeValue;

use super::Text;
use super::keys::Takes;

/// What is wrong, and where.
pub(super) type Wrong = (usize, String);

type Value<'a> = Spanned<DeValue<'a>>;

/// The texts of an option; `None` where it would not be typed.
pub(super) fn texts(takes: Takes, value: &Value<'_>) -> Result<Option<Vec<Text>>, Wrong> {
    let at = value.span().start;
    let one = |text: String| Ok(Some(vec![Text { text, at }]));
    match (takes, value.get_ref()) {
        (Takes::Switch(on), DeValue::Boolean(given)) => Ok((*given == on).then(Vec::new)),
        (Takes::Switch(_), _) => Err((at, "it is true or false".to_owned())),
        (Takes::Columns, DeValue::Array(list)) => one(each(list, text)?.join(",")),
        (Takes::Clauses, DeValue::Array(list)) => one(clauses(&each(list, text)?)),
        (Takes::Bounds, DeValue::Array(list)) => one(each(list, bound)?.join(",")),
        (Takes::Values, DeValue::Array(list)) => one(each(list, partition)?.join(";")),
        (Takes::Several, DeValue::Array(list)) => {
            let read = |value: &Value<'_>| Ok(Text { text: text(value)?, at: value.span().start });
            list.iter().map(read).collect::<Result<_, _>>().map(Some)
        }
        (Takes::Pairs, DeValue::Table(table)) => {
            let mut pairs: Vec<_> = table.iter().collect();
            pairs.sort_by_key(|(name, _)| name.span().start);
            let read = |(name, value): (&Spanned<std::borrow::Cow<'_, str>>, &Value<'_>)| {
                Ok(Text { text: format!("{}={}", name.get_ref(), text(value)?), at: name.span().start })
            };
            pairs.into_iter().map(read).collect::<Result<_, _>>().map(Some)
        }
        (Takes::Pairs, _) => Err((at, "it is a table of names and values".to_owned())),
        (Takes::Text | Takes::Number, DeValue::Array(_)) => Err((at, "it takes one value, not a list".to_owned())),
        (
            Takes::Text
            | Takes::Number
            | Takes::Columns
            | Takes::Clauses
            | Takes::Bounds
            | Takes::Values
            | Takes::Several,
            _,
        ) => one(text(value)?),
    }
}

/// One value.
fn text(value: &Value<'_>) -> Result<String, Wrong> {
    let at = value.span().start;
    match value.get_ref() {
        // PostgreSQL has no text with it, and no command line can have it.
        DeValue::String(text) if text.contains('\0') => Err((at, "the character NUL cannot stand here".to_owned())),
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) => Ok(i128::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| number.as_str().to_owned(), |number| number.to_string())),
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        DeValue::Datetime(time) => Ok(time.to_string()),
        DeValue::Boolean(_) => Err((at, "it takes a value, not true or false".to_owned())),
        DeValue::Array(_) => Err((at, "a list is too much here".to_owned())),
        DeValue::Table(_) => Err((at, "a table is too much here; a name with a dot wants quotes".to_owned())),
    }
}

fn each(list: &[Value<'_>], read: impl Fn(&Value<'_>) -> Result<String, Wrong>) -> Result<Vec<String>, Wrong> {
    list.iter().map(read).collect()
}

/// One text of several clauses. A comment that a clause may close with must not swallow the next clause.
pub(super) fn clauses(list: &[String]) -> String {
    let mut all = String::new();
    for (n, clause) in list.iter().enumerate() {
        if n > 0 {
            all.push_str(if list[n - 1].contains("--") { "\n, " } else { ", " });
        }
        all.push_str(clause);
    }
    all
}

/// A bound: one value, or a list of them for several columns.
fn bound(value: &Value<'_>) -> Result<String, Wrong> {
    match value.get_ref() {
        DeValue::Array(list) => Ok(format!("({})", each(list, item)?.join(","))),
        _ => item(value),
    }
}

/// The values of a partition: one, or a list of them.
fn partition(value: &Value<'_>) -> Result<String, Wrong> {
    match value.get_ref() {
        DeValue::Array(list) => Ok(each(list, item)?.join(",")),
        _ => item(value),
    }
}

/// A value in a list of them, quoted as on the command line where it would be read as several.
fn item(value: &Value<'_>) -> Result<String, Wrong> {
    let text = text(value)?;
    let plain = !text.is_empty() && text.trim() == text && !text.contains([',', ';', '(', ')', '\'']);
    Ok(if plain || text.starts_with('\'') { text } else { format!("'{}'", text.replace('\'', "''")) })
}
