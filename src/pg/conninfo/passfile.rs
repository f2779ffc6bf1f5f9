//! The password file (PostgreSQL manual, 34.16): `host:port:database:user:password` a line, `*` for any, a backslash
//! before `:` and `\`.

use std::path::Path;

use super::environment::Environment;

/// What a line must match.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// The host, `localhost` for the default socket directory.
    pub(super) host: &'a str,
    /// The port.
    pub(super) port: u16,
    /// The database.
    pub(super) dbname: &'a str,
    /// The user.
    pub(super) user: &'a str,
}

/// The text of the password file, unless there is none or libpq would not trust it.
pub(super) fn read(environment: &dyn Environment, path: &Path) -> Option<String> {
    let file = match environment.file(path) {
        Ok(file) => file,
        Err(error) => {
            if error.kind() != std::io::ErrorKind::NotFound {
                tracing::warn!("could not read password file \"{}\": {error}", path.display());
            }
            return None;
        }
    };
    if !file.regular {
        tracing::warn!("password file \"{}\" is not a plain file and was ignored", path.display());
        return None;
    }
    if !file.private {
        tracing::warn!(
            "password file \"{}\" has group or world access and was ignored; permissions should be u=rw (0600) or less",
            path.display()
        );
        return None;
    }
    Some(file.text)
}

/// The password on the first line that matches.
pub(super) fn find(text: &str, wanted: Wanted<'_>) -> Option<String> {
    let port = wanted.port.to_string();
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut rest = line;
        for expected in [wanted.host, &port, wanted.dbname, wanted.user] {
            let (value, after) = field(rest);
            let matches = rest.starts_with("*:") || value == expected;
            rest = after.filter(|_| matches)?;
        }
        let (password, _) = field(rest);
        (!password.is_empty()).then_some(password)
    })
}

/// A field without its backslashes, and what follows its colon.
fn field(text: &str) -> (String, Option<&str>) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            ':' => return (value, Some(&text[at + 1..])),
            '\\' => value.push(characters.next().map_or('\\', |(_, escaped)| escaped)),
            _ => value.push(c),
        }
    }
    (value, None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::environment::Fake;
    use super::*;

    const WANTED: Wanted<'_> = Wanted { host: "h", port: 5432, dbname: "db", user: "ann" };

    #[test]
    fn the_first_matching_line_wins() {
        for (text, expected) in [
            ("", None),
            ("h:5432:db:ann:one", Some("one")),
            ("h:5432:db:ann:one\r\nh:5432:db:ann:two", Some("one")),
            ("# h:5432:db:ann:one\n*:*:*:*:two", Some("two")),
            ("#:5432:db:ann:x", None),
            ("x:5432:db:ann:one\n*:5432:*:ann:two", Some("two")),
            ("h:5433:db:ann:one", None),
            ("h:5432:db:ann", None),
            ("h:5432:db:ann:", None),
            ("h*:5432:db:ann:one", None),
            (r"\h:5432:db:ann:a\:b\\c", Some(r"a:b\c")),
            ("h:5432:db:ann:a:b", Some("a")),
            (r"h:5432:db:ann:a\", Some(r"a\")),
        ] {
            assert_eq!(find(text, WANTED).as_deref(), expected, "{text}");
        }
        let socket = Wanted { host: "/tmp:x", ..WANTED };
        assert_eq!(find(r"/tmp\:x:*:*:*:one", socket).as_deref(), Some("one"));
    }

    #[test]
    fn a_file_others_can_read_is_ignored() {
        let path = Path::new("/p");
        let mut surroundings = Fake::default().with_file("/p", "*:*:*:*:one");
        assert!(read(&surroundings, path).is_some());
        assert!(read(&surroundings, Path::new("/none")).is_none());
        for (regular, private) in [(true, false), (false, true)] {
            let file = surroundings.files.get_mut(path).expect("the file");
            (file.regular, file.private) = (regular, private);
            assert!(read(&surroundings, path).is_none());
        }
    }

    proptest! {
        #[test]
        fn any_file_is_read(text in r"([*:\\a#\n]|.)*") {
            let _ = find(&text, WANTED);
        }
    }
}
