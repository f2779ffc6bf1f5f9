//! From options to a [`Target`]: ranks of the sources, defaults, meaning of each value.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::environment::Environment;
use super::keys::{KEYS, Settings};
use super::passfile::{self, Wanted};
use super::{Address, ChannelBinding, Host, Secret, SessionAttrs, Target, TcpSettings, parse, service};
use crate::error::Failure;
use crate::pg::tls::{RootCertificates, SslMode, TlsPolicy};

/// The port of a server that was not told otherwise.
const DEFAULT_PORT: u16 = 5432;

/// The socket directory of packaged servers, and of those built from source.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// Resolves a DSN, maybe empty, in its surroundings.
pub(super) fn target(dsn: &str, environment: &dyn Environment) -> Result<Target, Failure> {
    let settings = settings(dsn, environment)?;
    let user = match settings.get("user") {
        Some(user) => user.to_owned(),
        None => environment.user_name().ok_or_else(|| {
            Failure::usage("no user name").detail("The operating system has no name for the user this process runs as.")
        })?,
    };
    let dbname = settings.get("dbname").unwrap_or(&user).to_owned();
    let mut hosts = hosts(&settings, environment)?;
    add_passwords(&mut hosts, &settings, &user, &dbname, environment);
    let application_name = settings.get("application_name").or_else(|| settings.get("fallback_application_name"));
    Ok(Target {
        hosts,
        user,
        dbname,
        options: settings.get("options").unwrap_or_default().to_owned(),
        application_name: application_name.unwrap_or_default().to_owned(),
        channel_binding: channel_binding(&settings)?,
        session_attrs: session_attrs(&settings)?,
        require_peer: settings.get("requirepeer").map(str::to_owned),
        connect_timeout: connect_timeout(&settings)?,
        tcp: tcp(&settings)?,
        tls: tls(&settings, environment)?,
        encryption: None,
    })
}

/// The DSN, then the service, then the variables.
fn settings(dsn: &str, environment: &dyn Environment) -> Result<Settings, Failure> {
    let mut settings = parse::dsn(dsn)?;
    let service = settings.get("service").map(str::to_owned).or_else(|| environment.variable("PGSERVICE"));
    if let Some(service) = service.filter(|name| !name.is_empty()) {
        service::apply(&service, environment, &mut settings)?;
    }
    for key in KEYS {
        if let Some(value) = key.variable.and_then(|variable| environment.variable(variable)) {
            settings.set_default(key.name, value)?;
        }
    }
    Ok(settings)
}

/// Pairs the lists of `host`, `hostaddr` and `port` (PostgreSQL manual, 34.1.1.3).
fn hosts(settings: &Settings, environment: &dyn Environment) -> Result<Vec<Host>, Failure> {
    let list = |name| settings.get(name).map(|text| text.split(',').collect::<Vec<_>>());
    let (names, addresses) = (list("host"), list("hostaddr"));
    let count = names.as_ref().or(addresses.as_ref()).map_or(1, Vec::len);
    if let Some(addresses) = &addresses
        && addresses.len() != count
    {
        return Err(Failure::usage(format!(
            "could not match {count} host names to {} hostaddr values",
            addresses.len()
        )));
    }
    let ports = list("port").unwrap_or_else(|| vec![""]);
    if ports.len() != 1 && ports.len() != count {
        return Err(Failure::usage(format!("could not match {} port numbers to {count} hosts", ports.len())));
    }
    (0..count)
        .map(|nth| {
            let name = names.as_ref().map_or("", |names| names[nth]);
            let address = addresses.as_ref().map_or("", |addresses| addresses[nth]);
            host(name, address, port(ports[nth % ports.len()])?, environment)
        })
        .collect()
}

fn host(name: &str, address: &str, port: u16, environment: &dyn Environment) -> Result<Host, Failure> {
    let named = |address, name: &str| Host { address, name: name.to_owned(), port, password: None };
    if !address.is_empty() {
        let ip = address.parse().map_err(|_| invalid("hostaddr", "It is an IP address, or a list of them."))?;
        return Ok(named(Address::Ip(ip), name));
    }
    if name.is_empty() {
        return Ok(named(Address::Socket(default_socket_directory(environment).to_owned()), ""));
    }
    if name.starts_with(['/', '@']) {
        return Ok(named(Address::Socket(name.to_owned()), ""));
    }
    Ok(match name.parse() {
        Ok(ip) => named(Address::Ip(ip), ""),
        Err(_) => named(Address::Name, name),
    })
}

fn default_socket_directory(environment: &dyn Environment) -> &'static str {
    let [packaged, source] = SOCKET_DIRECTORIES;
    if environment.is_directory(Path::new(packaged)) { packaged } else { source }
}

fn port(text: &str) -> Result<u16, Failure> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(DEFAULT_PORT);
    }
    // In a URI this may be the first half of a password with a slash in it.
    text.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
        invalid("port", "It is a number from 1 to 65535.")
            .hint("In a URI, write a slash within a user name or password as %2F.")
    })
}

/// A password that is given goes to every host; else each has its own line of the password file.
fn add_passwords(hosts: &mut [Host], settings: &Settings, user: &str, dbname: &str, environment: &dyn Environment) {
    if let Some(password) = settings.get("password") {
        for host in hosts {
            host.password = Some(Secret(password.to_owned()));
        }
        return;
    }
    let path = settings.get("passfile").map(PathBuf::from);
    let Some(path) = path.or_else(|| Some(environment.home()?.join(".pgpass"))) else { return };
    let Some(text) = passfile::read(environment, &path) else { return };
    for host in hosts {
        let name = passfile_name(host, environment);
        let wanted = Wanted { host: &name, port: host.port, dbname, user };
        host.password = passfile::find(&text, wanted).map(Secret);
    }
}

/// How the password file spells a host: as the DSN does, `localhost` for the default socket directory.
fn passfile_name(host: &Host, environment: &dyn Environment) -> String {
    match &host.address {
        Address::Socket(directory) if directory == default_socket_directory(environment) => "localhost".to_owned(),
        Address::Socket(directory) => directory.clone(),
        Address::Ip(ip) if host.name.is_empty() => ip.to_string(),
        Address::Ip(_) | Address::Name => host.name.clone(),
    }
}

fn channel_binding(settings: &Settings) -> Result<ChannelBinding, Failure> {
    match settings.get("channel_binding") {
        None | Some("prefer") => Ok(ChannelBinding::Prefer),
        Some("disable") => Ok(ChannelBinding::Disable),
        Some("require") => Ok(ChannelBinding::Require),
        Some(_) => Err(invalid("channel_binding", "It is one of disable, prefer, require.")),
    }
}

fn session_attrs(settings: &Settings) -> Result<SessionAttrs, Failure> {
    match settings.get("target_session_attrs") {
        None | Some("any") => Ok(SessionAttrs::Any),
        Some("read-write") => Ok(SessionAttrs::ReadWrite),
        Some("primary") => Ok(SessionAttrs::Primary),
        Some(_) => Err(invalid(
            "target_session_attrs",
            "A migration writes, so it is one of any, read-write, primary; read-only, standby and prefer-standby are \
             not supported.",
        )),
    }
}

/// Zero and less wait for ever, one second counts as two: as in libpq.
fn connect_timeout(settings: &Settings) -> Result<Option<Duration>, Failure> {
    let seconds = integer(settings, "connect_timeout")?.filter(|seconds| *seconds > 0);
    Ok(seconds.map(|seconds| Duration::from_secs(u64::from(seconds.max(2).unsigned_abs()))))
}

fn tcp(settings: &Settings) -> Result<TcpSettings, Failure> {
    let positive = |name| -> Result<Option<u32>, Failure> {
        Ok(integer(settings, name)?.filter(|value| *value > 0).map(i32::unsigned_abs))
    };
    Ok(TcpSettings {
        keepalives: integer(settings, "keepalives")?.is_none_or(|value| value != 0),
        idle: positive("keepalives_idle")?,
        interval: positive("keepalives_interval")?,
        count: positive("keepalives_count")?,
        user_timeout: positive("tcp_user_timeout")?,
    })
}

fn tls(settings: &Settings, environment: &dyn Environment) -> Result<TlsPolicy, Failure> {
    let in_home = |name| environment.home().map(|home| home.join(".postgresql").join(name));
    let file = |option, name| settings.get(option).map(PathBuf::from).or_else(|| in_home(name));
    let system = settings.get("sslrootcert") == Some("system");
    let roots = match file("sslrootcert", "root.crt") {
        _ if system => RootCertificates::System,
        Some(path) => RootCertificates::File(path),
        None => RootCertificates::None,
    };
    let mode = ssl_mode(settings, system)?;
    Ok(TlsPolicy {
        mode,
        roots,
        certificate: file("sslcert", "postgresql.crt"),
        key: file("sslkey", "postgresql.key"),
        sni: integer(settings, "sslsni")?.is_none_or(|value| value != 0),
    })
}

/// The system's roots vouch for half the world, so libpq takes them only together with the host's name.
fn ssl_mode(settings: &Settings, system_roots: bool) -> Result<SslMode, Failure> {
    let mode = match settings.get("sslmode") {
        None if system_roots => SslMode::VerifyFull,
        None | Some("prefer") => SslMode::Prefer,
        Some("disable") => SslMode::Disable,
        Some("allow") => SslMode::Allow,
        Some("require") => SslMode::Require,
        Some("verify-ca") => SslMode::VerifyCa,
        Some("verify-full") => SslMode::VerifyFull,
        Some(_) => {
            return Err(invalid("sslmode", "It is one of disable, allow, prefer, require, verify-ca, verify-full."));
        }
    };
    if system_roots && mode != SslMode::VerifyFull {
        return Err(Failure::usage("weak sslmode may not be used with sslrootcert=system")
            .hint("Use sslmode=verify-full, or leave sslmode out."));
    }
    Ok(mode)
}

fn integer(settings: &Settings, name: &str) -> Result<Option<i32>, Failure> {
    let parsed = settings.get(name).map(|text| text.trim().parse().map_err(|_| invalid(name, "It is a whole number.")));
    parsed.transpose()
}

/// The value itself is not repeated: in a malformed DSN it may be part of a password.
fn invalid(name: &str, detail: &str) -> Failure {
    Failure::usage(format!("invalid value for connection option \"{name}\"")).detail(detail)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::environment::Fake;
    use super::*;

    fn resolved(dsn: &str, surroundings: &Fake) -> Target {
        target(dsn, surroundings).unwrap_or_else(|failure| panic!("{dsn}: {failure}"))
    }

    fn packaged() -> Fake {
        Fake { directories: vec![PathBuf::from("/var/run/postgresql")], ..Fake::default() }
    }

    #[test]
    fn defaults_fill_what_is_not_given() {
        for (dsn, expected) in [
            ("", "ann@/var/run/postgresql:5432/ann"),
            ("user=bob", "bob@/var/run/postgresql:5432/bob"),
            ("host='' port='' dbname=''", "ann@/var/run/postgresql:5432/ann"),
            ("postgres://h", "ann@h:5432/ann"),
            ("postgres://bob@a,b:2/db", "bob@a:5432,b:2/db"),
            ("host=a,b,c port=7", "ann@a:7,b:7,c:7/ann"),
            ("host=a,,/tmp port=7,,9", "ann@a:7,/var/run/postgresql:5432,/tmp:9/ann"),
            ("host=@pg", "ann@@pg:5432/ann"),
            ("hostaddr=10.0.0.1,::1", "ann@10.0.0.1:5432,[::1]:5432/ann"),
            ("postgres://[::1]:2/db", "ann@[::1]:2/db"),
            ("host=db.example hostaddr=10.0.0.1", "ann@db.example:5432/ann"),
        ] {
            assert_eq!(resolved(dsn, &packaged()).describe(), expected, "{dsn}");
        }
        assert_eq!(resolved("", &Fake::default()).describe(), "ann@/tmp:5432/ann");
    }

    #[test]
    fn the_dsn_goes_before_the_service_and_that_before_the_variables() {
        let surroundings = packaged()
            .with_variable("PGHOST", "v")
            .with_variable("PGPORT", "1")
            .with_variable("PGUSER", "v")
            .with_variable("PGDATABASE", "v")
            .with_variable("PGOPTIONS", "-c a=b")
            .with_variable("PGAPPNAME", "job")
            .with_file("/home/ann/.pg_service.conf", "[app]\nhost=s\nuser=s\ndbname=s\n");
        assert_eq!(resolved("", &surroundings).describe(), "v@v:1/v");
        assert_eq!(resolved("service=app dbname=d", &surroundings).describe(), "s@s:1/d");
        let by_variable = surroundings.with_variable("PGSERVICE", "app");
        let target = resolved("postgres:///d", &by_variable);
        assert_eq!(target.describe(), "s@s:1/d");
        assert_eq!(target.options_with("-c x=y"), "-c a=b -c x=y");
        assert_eq!(target.application_name("pgrecast copy"), "pgrecast copy (job)");
        assert_eq!(resolved("host=''", &by_variable).describe(), "s@/var/run/postgresql:1/s");
    }

    #[test]
    fn every_variable_reaches_its_option() {
        for (variable, value, bad) in [
            ("PGHOSTADDR", "10.0.0.1", "x"),
            ("PGPORT", "1", "0"),
            ("PGSSLMODE", "require", "maybe"),
            ("PGCONNECT_TIMEOUT", "5", "soon"),
            ("PGTARGETSESSIONATTRS", "primary", "standby"),
            ("PGCHANNELBINDING", "require", "maybe"),
            ("PGGSSENCMODE", "disable", "require"),
            ("PGSSLSNI", "0", "off"),
        ] {
            resolved("", &packaged().with_variable(variable, value));
            assert!(target("", &packaged().with_variable(variable, bad)).is_err(), "{variable}={bad}");
        }
        let peer = resolved("", &packaged().with_variable("PGREQUIREPEER", "postgres"));
        assert_eq!(peer.require_peer.as_deref(), Some("postgres"));
    }

    #[test]
    fn each_host_has_its_own_password() {
        let surroundings = packaged()
            .with_file("/home/ann/.pgpass", "a:*:*:*:one\nlocalhost:*:*:*:two\n/tmp:*:*:*:three\n10.0.0.1:*:*:*:four\n")
            .with_file("/other", "*:*:db:*:five\n");
        let passwords = |dsn: &str, surroundings: &Fake| {
            let hosts = resolved(dsn, surroundings).hosts;
            hosts.into_iter().map(|host| host.password.map_or("-".to_owned(), |s| s.0)).collect::<Vec<_>>().join(",")
        };
        assert_eq!(passwords("host=a,b,,/tmp,10.0.0.1", &surroundings), "one,-,two,three,four");
        assert_eq!(passwords("host=a,b password=x", &surroundings), "x,x");
        assert_eq!(passwords("host=a passfile=/other dbname=db", &surroundings), "five");
        assert_eq!(passwords("host=b", &surroundings.clone().with_variable("PGPASSWORD", "x")), "x");
        assert_eq!(passwords("dbname=db", &surroundings.with_variable("PGPASSFILE", "/other")), "five");
    }

    #[test]
    fn certificates_are_looked_for_where_libpq_does() {
        let policy = resolved("", &packaged()).tls;
        assert_eq!(policy.mode, SslMode::Prefer);
        assert_eq!(policy.roots, RootCertificates::File(PathBuf::from("/home/ann/.postgresql/root.crt")));
        assert_eq!(policy.certificate, Some(PathBuf::from("/home/ann/.postgresql/postgresql.crt")));
        assert_eq!(policy.key, Some(PathBuf::from("/home/ann/.postgresql/postgresql.key")));
        let policy = resolved("sslrootcert=system sslcert=/c sslkey=/k sslsni=0", &packaged()).tls;
        assert_eq!((policy.mode, policy.roots), (SslMode::VerifyFull, RootCertificates::System));
        assert_eq!((policy.certificate, policy.sni), (Some(PathBuf::from("/c")), false));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (dsn, expected) in [
            ("host=a,b hostaddr=::1", "could not match 2 host names to 1 hostaddr values"),
            ("host=a,b port=1,2,3", "could not match 3 port numbers to 2 hosts"),
            ("hostaddr=localhost", "invalid value for connection option \"hostaddr\""),
            ("port=65536", "invalid value for connection option \"port\""),
            ("sslmode=maybe", "invalid value for connection option \"sslmode\""),
            ("sslrootcert=system sslmode=require", "weak sslmode may not be used with sslrootcert=system"),
            ("target_session_attrs=standby", "invalid value for connection option \"target_session_attrs\""),
            ("keepalives=yes", "invalid value for connection option \"keepalives\""),
            ("service=none", "definition of service \"none\" not found"),
            ("postgres://ann:pass/word@h/db", "invalid value for connection option \"port\""),
        ] {
            let Err(failure) = target(dsn, &packaged()) else { panic!("{dsn} was taken") };
            assert_eq!(failure.primary, expected, "{dsn}");
        }
    }

    #[test]
    fn numbers_mean_what_they_mean_to_libpq() {
        for (seconds, expected) in [("0", None), ("-1", None), ("1", Some(2)), (" 30 ", Some(30))] {
            let target = resolved(&format!("connect_timeout='{seconds}'"), &packaged());
            assert_eq!(target.connect_timeout, expected.map(Duration::from_secs), "{seconds}");
        }
        let tcp = resolved("keepalives=0 keepalives_idle=7 keepalives_count=-1", &packaged()).tcp;
        assert_eq!((tcp.keepalives, tcp.idle, tcp.count), (false, Some(7), None));
    }

    #[test]
    fn nothing_shows_the_password() {
        let target = resolved("postgres://ann:hush@h/db", &packaged());
        assert_eq!(target.password(), Some("hush"));
        for text in [target.to_string(), format!("{target:?}"), format!("{target:#?}"), target.describe()] {
            assert!(!text.contains("hush"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_lists_are_paired_or_refused(host in "[a,/]{0,6}", address in "[1:,.]{0,6}", port in "[0-9, ]{0,6}") {
            let _ = target(&format!("host='{host}' hostaddr='{address}' port='{port}'"), &packaged());
        }

        #[test]
        fn any_text_is_resolved_or_refused(dsn in ".*", passwords in ".*", services in ".*") {
            let surroundings = packaged()
                .with_file("/home/ann/.pgpass", &passwords)
                .with_file("/home/ann/.pg_service.conf", &format!("[app]\n{services}"))
                .with_variable("PGSERVICE", "app");
            let _ = target(&dsn, &surroundings);
        }
    }
}
