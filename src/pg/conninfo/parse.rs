//! The two spellings of a DSN (PostgreSQL manual, 34.1.1), as text only.
//!
//! Messages give names of options and positions, never values: whatever is malformed may be a password.

use std::iter::Peekable;
use std::str::Chars;

use super::keys::Settings;
use crate::error::Failure;

/// The options a DSN sets, whichever way it is spelled.
///
/// # Errors
/// Malformed text, unknown options, unsupported options.
pub(super) fn dsn(text: &str) -> Result<Settings, Failure> {
    match text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
        Some(rest) => uri(rest),
        None => keywords(text),
    }
}

fn malformed(what: impl Into<String>) -> Failure {
    Failure::usage(what.into())
}

/// `keyword = 'value' …`
fn keywords(text: &str) -> Result<Settings, Failure> {
    let mut settings = Settings::default();
    let mut rest = text.chars().peekable();
    let mut nth = 0;
    loop {
        skip_space(&mut rest);
        if rest.peek().is_none() {
            return Ok(settings);
        }
        nth += 1;
        let name = keyword(&mut rest);
        skip_space(&mut rest);
        if rest.next() != Some('=') {
            return Err(malformed(format!("missing \"=\" after keyword {nth} of the connection string"))
                .hint("Values that contain spaces are written in single quotes; a URI starts with postgresql://."));
        }
        skip_space(&mut rest);
        let value = keyword_value(&mut rest)
            .ok_or_else(|| malformed(format!("unterminated quoted value of connection option \"{name}\"")))?;
        settings.set(&name, value)?;
    }
}

/// What the server's parser takes as white space.
fn is_space(c: char) -> bool {
    c.is_ascii_whitespace() || c == '\u{b}'
}

fn skip_space(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if(|c| is_space(*c)).is_some() {}
}

fn keyword(rest: &mut Peekable<Chars<'_>>) -> String {
    let mut name = String::new();
    while let Some(c) = rest.next_if(|c| *c != '=' && !is_space(*c)) {
        name.push(c);
    }
    name
}

/// `None` when a quote is left open.
fn keyword_value(rest: &mut Peekable<Chars<'_>>) -> Option<String> {
    let quoted = rest.next_if_eq(&'\'').is_some();
    let mut value = String::new();
    loop {
        match rest.next() {
            None => return (!quoted).then_some(value),
            Some('\\') => value.extend(rest.next()),
            Some('\'') if quoted => return Some(value),
            Some(c) if !quoted && is_space(c) => return Some(value),
            Some(c) => value.push(c),
        }
    }
}

/// `[user[:password]@][host[:port][,…]][/dbname][?name=value[&…]]`
fn uri(text: &str) -> Result<Settings, Failure> {
    let mut settings = Settings::default();
    let authority_end = text.find('/').unwrap_or(text.len());
    let rest = match text[..authority_end].find('@') {
        Some(at) => {
            user_info(&text[..at], &mut settings)?;
            &text[at + 1..]
        }
        None => text,
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    host_list(authority, &mut settings)?;

    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    let dbname = path.strip_prefix('/').unwrap_or(path);
    if !dbname.is_empty() {
        settings.set("dbname", decode(dbname, "database name")?)?;
    }
    for parameter in query.into_iter().flat_map(|query| query.split('&')).filter(|p| !p.is_empty()) {
        query_parameter(parameter, &mut settings)?;
    }
    Ok(settings)
}

fn user_info(text: &str, settings: &mut Settings) -> Result<(), Failure> {
    let (user, password) = match text.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (text, None),
    };
    if !user.is_empty() {
        settings.set("user", decode(user, "user name")?)?;
    }
    if let Some(password) = password.filter(|password| !password.is_empty()) {
        settings.set("password", decode(password, "password")?)?;
    }
    Ok(())
}

fn host_list(authority: &str, settings: &mut Settings) -> Result<(), Failure> {
    let mut hosts = Vec::new();
    let mut ports = Vec::new();
    for place in authority.split(',') {
        let (host, port) = host_and_port(place)?;
        hosts.push(decode(host, "host")?);
        ports.push(decode(port, "port")?);
    }
    let hosts = hosts.join(",");
    if !hosts.is_empty() {
        settings.set("host", hosts)?;
    }
    let ports = ports.join(",");
    if !ports.is_empty() {
        settings.set("port", ports)?;
    }
    Ok(())
}

/// The port is empty where none is given.
fn host_and_port(place: &str) -> Result<(&str, &str), Failure> {
    let Some(bracketed) = place.strip_prefix('[') else {
        return Ok(place.split_once(':').unwrap_or((place, "")));
    };
    let (address, rest) =
        bracketed.split_once(']').ok_or_else(|| malformed("missing \"]\" in an IPv6 address of the connection URI"))?;
    if address.is_empty() {
        return Err(malformed("empty IPv6 address in the connection URI"));
    }
    match (rest, rest.strip_prefix(':')) {
        ("", _) => Ok((address, "")),
        (_, Some(port)) => Ok((address, port)),
        (_, None) => Err(malformed("unexpected text after an IPv6 address in the connection URI")),
    }
}

fn query_parameter(text: &str, settings: &mut Settings) -> Result<(), Failure> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| malformed("missing \"=\" after a parameter name in the query of the connection URI"))?;
    let name = decode(name, "parameter name")?;
    if value.contains('=') {
        return Err(malformed(format!("extra \"=\" in the value of URI parameter \"{name}\""))
            .hint("An equals sign in a value is written %3D."));
    }
    let value = decode(value, &name)?;
    // The spelling of the JDBC driver, which libpq takes too.
    if name == "ssl" && value == "true" {
        return settings.set("sslmode", "require".to_owned());
    }
    settings.set(&name, value)
}

/// Percent-decoding. `what` names the part in messages.
fn decode(text: &str, what: &str) -> Result<String, Failure> {
    if text.contains(' ') {
        return Err(malformed(format!("unexpected space in the {what} of the connection URI")).hint("Write it %20."));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut pieces = text.split('%');
    bytes.extend(pieces.next().unwrap_or_default().bytes());
    for piece in pieces {
        let byte = piece
            .get(..2)
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
            .ok_or_else(|| malformed(format!("invalid percent-encoding in the {what} of the connection URI")))?;
        if byte == 0 {
            return Err(malformed(format!("forbidden value %00 in the {what} of the connection URI")));
        }
        bytes.push(byte);
        bytes.extend(piece[2..].bytes());
    }
    String::from_utf8(bytes).map_err(|_| malformed(format!("the {what} of the connection URI is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::Exit;

    /// `name=value` of everything that is set, in the order of names.
    fn shown(settings: &Settings) -> String {
        let mut names: Vec<_> = super::super::keys::KEYS.iter().map(|key| key.name).collect();
        names.sort_unstable();
        let set = names.iter().filter_map(|name| settings.get(name).map(|value| format!("{name}={value}")));
        set.collect::<Vec<_>>().join("|")
    }

    #[test]
    fn both_spellings_are_read() {
        for (text, expected) in [
            ("", ""),
            ("   ", ""),
            ("postgres://", ""),
            ("postgresql:///mydb", "dbname=mydb"),
            ("postgresql://localhost", "host=localhost"),
            ("postgresql://localhost:5433", "host=localhost|port=5433"),
            ("postgresql://ann@localhost/db", "dbname=db|host=localhost|user=ann"),
            ("postgresql://ann:s%40c%3Aret@h", "host=h|password=s@c:ret|user=ann"),
            ("postgresql://ann:a:b@h", "host=h|password=a:b|user=ann"),
            ("postgresql://a:1,b,c:3/db", "dbname=db|host=a,b,c|port=1,,3"),
            (
                "postgresql://a,b/db?target_session_attrs=primary",
                "dbname=db|host=a,b|port=,|target_session_attrs=primary",
            ),
            ("postgresql://[2001:db8::1]:5433/db", "dbname=db|host=2001:db8::1|port=5433"),
            ("postgresql://%2Fvar%2Flib%2Fpg/db", "dbname=db|host=/var/lib/pg"),
            ("postgresql:///db?host=/run/pg&port=6000", "dbname=db|host=/run/pg|port=6000"),
            // Whatever stands before an `@` that comes before a slash is the user, as in libpq.
            ("postgresql://h?user=ann@x", "host=x|user=h?user=ann"),
            ("postgresql://h/?user=ann@x", "host=h|user=ann@x"),
            ("postgresql://h/db?ssl=true", "dbname=db|host=h|sslmode=require"),
            ("postgresql://h/db?options=-c%20a%3Db", "dbname=db|host=h|options=-c a=b"),
            ("postgresql://h/d%C3%A4b", "dbname=däb|host=h"),
            ("host=h port = 5433  dbname= 'my db'", "dbname=my db|host=h|port=5433"),
            (r"password='it\'s \\ ' user=ann", r"password=it's \ |user=ann"),
            (r"password=a\ b\'c user=ann", "password=a b'c|user=ann"),
            ("host='' port=1", "port=1"),
            ("host=a host=b", "host=b"),
            ("user=", ""),
            ("gssencmode=disable client_encoding=UTF8", "client_encoding=UTF8|gssencmode=disable"),
        ] {
            let read = dsn(text).unwrap_or_else(|failure| panic!("{text}: {failure}"));
            assert_eq!(shown(&read), expected, "{text}");
        }
    }

    #[test]
    fn malformed_text_is_refused_without_repeating_values() {
        for (text, expected) in [
            ("mydb", "missing \"=\" after keyword 1"),
            ("password=hush hush2", "missing \"=\" after keyword 2"),
            ("password='hush", "unterminated quoted value of connection option \"password\""),
            ("hots=h", "unknown connection option \"hots\""),
            ("postgresql://h?hots=x", "unknown connection option \"hots\""),
            ("postgresql://h?hots", "missing \"=\" after a parameter name"),
            ("postgresql://h?user=a=b", "extra \"=\" in the value of URI parameter \"user\""),
            ("postgresql://u:hush%4@h", "invalid percent-encoding in the password"),
            ("postgresql://u:hush%zz@h", "invalid percent-encoding in the password"),
            ("postgresql://u:hush%+1@h", "invalid percent-encoding in the password"),
            ("postgresql://u:hush%00@h", "forbidden value %00 in the password"),
            ("postgresql://u:hush%ff@h", "the password of the connection URI is not UTF-8"),
            ("postgresql://[::1", "missing \"]\""),
            ("postgresql://[]", "empty IPv6 address"),
            ("postgresql://[::1]x", "unexpected text after an IPv6 address"),
            ("postgresql://h/my db", "unexpected space in the database name"),
            ("sslcrl=/x", "connection option \"sslcrl\" is not supported"),
            ("gssencmode=require", "connection option \"gssencmode\" is not supported"),
        ] {
            let Err(failure) = dsn(text) else { panic!("{text} was taken") };
            assert!(failure.primary.contains(expected), "{text}: {failure}");
            assert_eq!(failure.exit, Exit::Usage);
            assert!(!format!("{failure:?}").contains("hush"), "{text}: {failure:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused(text in ".*") {
            let _ = dsn(&text);
        }

        #[test]
        fn any_uri_is_taken_or_refused(text in r"postgres(ql)?://[a-c%0-9@:/?&=,\[\] é]*") {
            let _ = dsn(&text);
        }

        #[test]
        fn any_password_survives_quoting(password in "[^\0]+") {
            let quoted = password.replace('\\', "\\\\").replace('\'', "\\'");
            let read = dsn(&format!("user=ann password='{quoted}' host=h")).expect("well-formed");
            prop_assert_eq!(read.get("password"), Some(password.as_str()));
            let encoded: String = password.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let read = dsn(&format!("postgres://ann:{encoded}@h/db")).expect("well-formed");
            prop_assert_eq!(read.get("password"), Some(password.as_str()));
        }
    }
}
