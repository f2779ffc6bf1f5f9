//! The connection service file (PostgreSQL manual, 34.17): named groups of options.

use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::keys::Settings;
use crate::error::Failure;

/// The system-wide directories of the common builds: Debian's, the Red Hat packages', a build from source.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/etc/postgresql-common", "/etc/sysconfig/pgsql", "/usr/local/pgsql/etc"];

/// Adds the options of the named service that `settings` does not have: those of the user's file, where it has the
/// service, else those of the system's.
///
/// # Errors
/// No file has the service, or the file that has it is malformed.
pub(super) fn apply(name: &str, environment: &dyn Environment, settings: &mut Settings) -> Result<(), Failure> {
    for path in candidates(environment) {
        let Ok(file) = environment.file(&path) else { continue };
        if let Some(options) = group(&file.text, name, &path)? {
            for (key, value) in options {
                settings.set_default(&key, value).map_err(|failure| {
                    let place = format!("It stands in service file \"{}\", service \"{name}\".", path.display());
                    failure.detail(place)
                })?;
            }
            return Ok(());
        }
    }
    Err(Failure::usage(format!("definition of service \"{name}\" not found"))
        .hint("Services are defined in the file PGSERVICEFILE names, else ~/.pg_service.conf, or in pg_service.conf of the directory PGSYSCONFDIR names."))
}

fn candidates(environment: &dyn Environment) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    match environment.variable("PGSERVICEFILE") {
        Some(path) => paths.push(PathBuf::from(path)),
        None => paths.extend(environment.home().map(|home| home.join(".pg_service.conf"))),
    }
    match environment.variable("PGSYSCONFDIR") {
        Some(directory) => paths.push(Path::new(&directory).join("pg_service.conf")),
        None => paths.extend(SYSTEM_DIRECTORIES.iter().map(|directory| Path::new(directory).join("pg_service.conf"))),
    }
    paths
}

/// The options of one group in the order of their lines, or `None` where the file does not have it.
fn group(text: &str, name: &str, path: &Path) -> Result<Option<Vec<(String, String)>>, Failure> {
    let mut options = None;
    for (number, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(heading) = line.strip_prefix('[') {
            if options.is_some() {
                break;
            }
            if heading.split_once(']').is_some_and(|(found, _)| found == name) {
                options = Some(Vec::new());
            }
        } else if let Some(options) = &mut options {
            let place = || format!("service file \"{}\", line {}", path.display(), number + 1);
            let (key, value) = line
                .split_once('=')
                .ok_or_else(|| Failure::usage(format!("syntax error in {}", place())).detail("There is no \"=\"."))?;
            if key == "service" {
                return Err(Failure::usage(format!("nested service in {}", place())));
            }
            options.push((key.to_owned(), value.to_owned()));
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::super::environment::Fake;
    use super::*;

    const USER: &str = "/home/ann/.pg_service.conf";
    const FILE: &str = "# ours\n[other]\nhost=o\n\n[app]\n host=h1 \nport=5433\nhost=h2\n[last]\nuser=x\n";

    fn applied(name: &str, surroundings: &Fake) -> Result<Settings, Failure> {
        let mut settings = Settings::default();
        settings.set("port", "1".to_owned())?;
        apply(name, surroundings, &mut settings)?;
        Ok(settings)
    }

    #[test]
    fn a_group_fills_what_is_not_set() {
        let settings = applied("app", &Fake::default().with_file(USER, FILE)).expect("the service");
        assert_eq!(settings.get("host"), Some("h1"), "the first line of a key counts");
        assert_eq!(settings.get("port"), Some("1"), "the DSN goes first");
        assert_eq!(settings.get("user"), None);
    }

    #[test]
    fn the_user_file_goes_before_the_system_file() {
        let both = Fake::default()
            .with_file(USER, "[app]\nhost=user")
            .with_file("/sys/pg_service.conf", "[app]\nhost=system\n[sys]\nhost=system")
            .with_variable("PGSYSCONFDIR", "/sys");
        assert_eq!(applied("app", &both).expect("found").get("host"), Some("user"));
        assert_eq!(applied("sys", &both).expect("found").get("host"), Some("system"));
        let named = both.with_file("/mine", "[app]\nhost=mine").with_variable("PGSERVICEFILE", "/mine");
        assert_eq!(applied("app", &named).expect("found").get("host"), Some("mine"));
    }

    #[test]
    fn faults_name_their_place() {
        for (text, expected) in [
            ("[b]\nhost=h", "definition of service \"app\" not found"),
            ("[app]\nhost", "syntax error in service file \"/home/ann/.pg_service.conf\", line 2"),
            ("[app]\nservice=x", "nested service in service file \"/home/ann/.pg_service.conf\", line 2"),
            ("[app]\nhots=x", "unknown connection option \"hots\""),
        ] {
            let Err(failure) = applied("app", &Fake::default().with_file(USER, text)) else {
                panic!("{text} was taken")
            };
            assert_eq!(failure.primary, expected);
        }
    }
}
