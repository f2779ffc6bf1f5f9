//! Passwords in what is said of a command line. Pure.

/// What hides one.
const HIDDEN: &str = "…";

/// The text without the passwords of addresses in it: `postgres://ann:…@host` and `password=…`. An address that stands
/// where none belongs is shown in the error, which may go to a log.
pub(super) fn hidden(text: &str) -> String {
    keywords(&addresses(text))
}

/// Up to the last `@` of what may be an address: a password may have one in it.
fn addresses(text: &str) -> String {
    let mut parts = text.split("://");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str("://");
        let ends = part.find(|c: char| c.is_whitespace()).unwrap_or(part.len());
        let (address, rest) = part.split_at(ends);
        match address.rsplit_once('@').and_then(|(user, host)| Some((user.split_once(':')?.0, host))) {
            Some((user, host)) => out.push_str(&format!("{user}:{HIDDEN}@{host}")),
            None => out.push_str(address),
        }
        out.push_str(rest);
    }
    out
}

/// Both what stands in `key=value` and what is a parameter of an address.
fn keywords(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.to_ascii_lowercase().find("password=") {
        let (head, value) = rest.split_at(at + "password=".len());
        out.push_str(head);
        out.push_str(HIDDEN);
        // A quoted one may have blanks; whatever is cut too much is nobody's loss.
        let quoted = value.strip_prefix('\'').and_then(|inner| inner.find('\'')).map(|end| end + 2);
        let ends = quoted.or_else(|| value.find(|c: char| c.is_whitespace() || c == '&' || c == '\''));
        rest = &value[ends.unwrap_or(value.len())..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_left() {
        let cases = [
            ("error: postgres://ann:hush@h:5432/db found", "error: postgres://ann:…@h:5432/db found"),
            ("'postgresql://ann:hu@sh@h' and more", "'postgresql://ann:…@h' and more"),
            ("postgres://ann@h/db?password=hush&sslmode=require", "postgres://ann@h/db?password=…&sslmode=require"),
            ("'host=h PASSWORD=hush user=ann'", "'host=h PASSWORD=… user=ann'"),
            ("password='hu sh' user=ann", "password=… user=ann"),
            ("nothing: to hide, ann@h", "nothing: to hide, ann@h"),
        ];
        for (text, expected) in cases {
            assert_eq!(hidden(text), expected);
        }
    }
}
