//! Session settings that a conversion depends on.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `NAME=VALUE` for every session that copies, flushes or compares, so that a conversion which depends on it always gives
/// the same result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// The setting's name in lower case, as the server compares them without regard to case.
    pub name: String,
    /// Its value, as it was typed.
    pub value: String,
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("a setting reads as NAME=VALUE")?;
        let name = name.trim().to_ascii_lowercase();
        let head = |c: char| c.is_ascii_lowercase() || c == '_';
        let rest = |c: char| head(c) || c.is_ascii_digit() || c == '.' || c == '$';
        if !name.starts_with(head) || !name.chars().all(rest) {
            return Err(format!("{name:?} is not the name of a setting"));
        }
        Ok(Setting { name, value: value.trim().to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_a_name_and_a_value() {
        let cases = [
            ("TimeZone=Europe/Berlin", "timezone", "Europe/Berlin"),
            ("my.setting = a=b", "my.setting", "a=b"),
            ("datestyle=", "datestyle", ""),
        ];
        for (text, name, value) in cases {
            assert_eq!(text.parse(), Ok(Setting { name: name.to_owned(), value: value.to_owned() }), "{text}");
        }
        for text in ["TimeZone", "=UTC", "a b=c", "1a=c", "a;b=c"] {
            assert!(text.parse::<Setting>().is_err(), "{text}");
        }
    }
}
