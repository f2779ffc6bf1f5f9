//! A position in the write-ahead log.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A log sequence number: a byte position in the WAL, written as two hexadecimal halves, `16/B374D848` (manual 8.20,
/// "`pg_lsn` Type"). Serialized as that text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Lsn(pub u64);

impl Lsn {
    /// `0/0`, which no record has: the server reads it as "not given".
    pub const ZERO: Lsn = Lsn(0);
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// A text that is no [`Lsn`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid log sequence number \"{0}\"")]
pub struct InvalidLsn(String);

impl FromStr for Lsn {
    type Err = InvalidLsn;

    fn from_str(text: &str) -> Result<Self, InvalidLsn> {
        let halves = text.split_once('/').and_then(|(high, low)| Some((half(high)?, half(low)?)));
        match halves {
            Some((high, low)) => Ok(Lsn(u64::from(high) << 32 | u64::from(low))),
            None => Err(InvalidLsn(text.to_owned())),
        }
    }
}

/// One to eight hexadecimal digits; unlike the standard parser, no sign.
fn half(text: &str) -> Option<u32> {
    let digits = (1..=8).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    if digits { u32::from_str_radix(text, 16).ok() } else { None }
}

impl TryFrom<String> for Lsn {
    type Error = InvalidLsn;

    fn try_from(text: String) -> Result<Self, InvalidLsn> {
        text.parse()
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> String {
        lsn.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_what_the_server_writes() {
        for text in ["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF", "0/15"] {
            assert_eq!(text.parse::<Lsn>().map(|l| l.to_string()).as_deref(), Ok(text));
        }
        assert_eq!("0/0000000a".parse(), Ok(Lsn(10)));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "/", "1", "1/", "/1", "1/2/3", "+1/2", "123456789/0", "g/0", " 1/2"] {
            assert_eq!(text.parse::<Lsn>(), Err(InvalidLsn(text.to_owned())));
        }
    }

    #[test]
    fn it_is_stored_as_text() {
        let json = serde_json::to_string(&Lsn(0x16_0000_00FF)).expect("serializes");
        assert_eq!(json, "\"16/FF\"");
        assert_eq!(serde_json::from_str::<Lsn>(&json).expect("parses"), Lsn(0x16_0000_00FF));
        assert!(serde_json::from_str::<Lsn>("\"x\"").is_err());
    }
}
