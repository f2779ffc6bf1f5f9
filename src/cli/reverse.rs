//! How an old column's value comes back from a new row.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::name::Columns;

/// `COLUMN = EXPRESSION`: the column as it is called before the change, the expression over the new columns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reverse {
    /// The column's name.
    pub column: String,
    /// The expression, as it was typed.
    pub expression: String,
}

impl FromStr for Reverse {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (column, expression) = divide(text).ok_or("it reads as COLUMN = EXPRESSION")?;
        let mut columns = column.parse::<Columns>().map_err(|e| e.to_string())?.0;
        match (columns.pop(), columns.is_empty(), expression.is_empty()) {
            (Some(column), true, false) => Ok(Reverse { column, expression: expression.to_owned() }),
            _ => Err("it reads as COLUMN = EXPRESSION".to_owned()),
        }
    }
}

/// What stands before and behind the first equals sign outside of double quotes.
pub(super) fn divide(text: &str) -> Option<(&str, &str)> {
    let mut quoted = false;
    let at = text.find(|c| {
        quoted ^= c == '"';
        c == '=' && !quoted
    })?;
    Some((text[..at].trim(), text[at + 1..].trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_equals_sign_outside_of_a_name_divides() {
        let cases = [
            ("Total = cents = 1", "total", "cents = 1"),
            ("\"a=B\"= x", "a=B", "x"),
            ("a=(SELECT 1)", "a", "(SELECT 1)"),
        ];
        for (text, column, expression) in cases {
            let expected = Reverse { column: column.to_owned(), expression: expression.to_owned() };
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in ["", "a", "a=", "=x", "a,b = 1"] {
            assert!(text.parse::<Reverse>().is_err(), "{text}");
        }
    }
}
