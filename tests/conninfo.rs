//! Connections to a real server: encryption by `sslmode`, certificates, passwords, sockets.
//!
//! The server's binaries are looked for in `PGRECAST_TEST_BIN`, else where Debian's packages put version 15.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgrecast::pg::conninfo::Canceller;
use pgrecast::pg::tls::server_end_point;
use pgrecast::pg::{Error, Session, Target};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Who may come in how: each role has its own way.
const HBA: &str = "\
local   all app   scram-sha-256
local   all peer  trust
hostssl all app   all scram-sha-256
hostssl all crypt all scram-sha-256
hostnossl all plain all scram-sha-256
hostssl all cert  all cert
";

/// A throwaway server; dropping it stops it and removes its files.
struct Server {
    directory: TempDir,
    port: u16,
    process: Child,
}

impl Server {
    fn start() -> Server {
        let directory = tempfile::Builder::new().prefix("conn-").tempdir_in("/tmp").expect("a directory");
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("chmod");
        let data = directory.path().join("data");
        fs::create_dir(&data).expect("data directory");
        own(&data);
        run(server_program("initdb")
            .args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync", "-D"])
            .arg(&data));
        certificates(directory.path());
        let port = free_port();
        let settings = format!(
            "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{0}'\nfsync = off\n\
             ssl = on\nssl_cert_file = '{0}/server.crt'\nssl_key_file = '{0}/data/server.key'\nssl_ca_file = '{0}/ca.crt'\n",
            directory.path().display()
        );
        fs::write(data.join("postgresql.auto.conf"), settings).expect("settings");
        own(directory.path());
        let mut command = server_program("postgres");
        let log = fs::File::create(directory.path().join("log")).expect("a log");
        command.arg("-D").arg(&data).stdout(Stdio::null()).stderr(log);
        let process = command.spawn().expect("the server starts");
        let mut server = Server { directory, port, process };
        server.await_ready();
        server.add_roles();
        server
    }

    fn await_ready(&mut self) {
        let begun = Instant::now();
        let status = self.directory.path().join("data/postmaster.pid");
        while !fs::read_to_string(&status).is_ok_and(|text| text.contains("ready")) {
            assert!(self.process.try_wait().expect("wait").is_none(), "the server ended");
            assert!(begun.elapsed() < Duration::from_secs(60), "the server is not ready");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Roles first, then the rules that keep everybody else out.
    fn add_roles(&self) {
        let roles = "SET password_encryption = 'scram-sha-256';
            CREATE ROLE app LOGIN PASSWORD 'right'; CREATE ROLE crypt LOGIN PASSWORD 'right';
            CREATE ROLE plain LOGIN PASSWORD 'right'; CREATE ROLE cert LOGIN; CREATE ROLE peer LOGIN;";
        let mut psql = Command::new(binaries().join("psql"));
        psql.args(["-XqU", "postgres", "-h"]).arg(self.directory.path()).arg("-p").arg(self.port.to_string());
        fs::write(self.file("data/pg_hba.conf"), HBA).expect("rules");
        run(psql.args(["-d", "postgres", "-c", roles, "-c", "SELECT pg_reload_conf()"]).stdout(Stdio::null()));
    }

    /// Makes the server read its certificate again, as seen by a new connection.
    fn reload(&self) {
        own(self.directory.path());
        run(Command::new("chmod").arg("600").arg(self.file("data/server.key")));
        let before = fs::read_to_string(self.file("log")).unwrap_or_default();
        kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGHUP).expect("the server is there");
        let begun = Instant::now();
        while fs::read_to_string(self.file("log")).unwrap_or_default().len() == before.len() {
            assert!(begun.elapsed() < Duration::from_secs(10), "the server does not reload");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A target over TCP; `host` is the name, whatever it resolves to.
    fn target(&self, host: &str, rest: &str) -> Target {
        let port = self.port;
        target(&format!("host={host} hostaddr=127.0.0.1 port={port} dbname=postgres {}", self.places(rest)))
    }

    /// `{}` in the text becomes the server's directory.
    fn places(&self, text: &str) -> String {
        text.replace("{}", &self.directory.path().display().to_string())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Immediate shutdown: nothing here is worth keeping, and unlike a kill it frees the shared memory.
        let process = Pid::from_raw(self.process.id().cast_signed());
        kill(process, Signal::SIGQUIT).expect("the server is there");
        let _ = self.process.wait();
    }
}

fn binaries() -> PathBuf {
    let place = std::env::var("PGRECAST_TEST_BIN").unwrap_or_else(|_| "/usr/lib/postgresql/15/bin".to_owned());
    let place = PathBuf::from(place);
    assert!(place.join("postgres").exists(), "no PostgreSQL server in {}", place.display());
    place
}

/// The server refuses to run as root.
fn server_program(name: &str) -> Command {
    let program = binaries().join(name);
    if !nix::unistd::Uid::effective().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=QUIT", "--"]).arg(program);
    command
}

/// Gives a directory with its files to the server's user.
fn own(directory: &Path) {
    if nix::unistd::Uid::effective().is_root() {
        run(Command::new("chown").args(["-R", "postgres:postgres"]).arg(directory));
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("the program runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its number").port()
}

/// A certificate authority, a server certificate for `db.test`, a client certificate for `cert`, and an authority
/// that signed nothing here.
fn certificates(directory: &Path) {
    let openssl = |line: &str| run(Command::new("openssl").args(line.split(' ')).current_dir(directory));
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for name in ["ca", "other"] {
        openssl(&format!("req -x509 {key} -keyout {name}.key -out {name}.crt -days 2 -subj /CN={name}"));
    }
    for (name, subject, extension) in
        [("server", "server", "subjectAltName=DNS:db.test"), ("client", "cert", "extendedKeyUsage=clientAuth")]
    {
        fs::write(directory.join("extension"), extension).expect("extension");
        openssl(&format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={subject}"));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -sha384 -extfile extension -out {name}.crt"
        ));
    }
    fs::rename(directory.join("server.key"), directory.join("data/server.key")).expect("move");
    fs::set_permissions(directory.join("client.key"), Permissions::from_mode(0o600)).expect("chmod");
}

fn target(dsn: &str) -> Target {
    Target::resolve(Some(dsn)).unwrap_or_else(|failure| panic!("{dsn}: {failure}"))
}

async fn value(session: &Session, query: &str) -> String {
    session.client.query_one(query, &[]).await.expect("an answer").get(0)
}

async fn connected(target: &Target) -> Session {
    target.connect("pgrecast test", "connect").await.unwrap_or_else(|error| panic!("{target}: {error}"))
}

async fn refused(target: &Target) -> Error {
    match target.connect("pgrecast test", "connect").await {
        Ok(_) => panic!("{target}: connected"),
        Err(error) => error,
    }
}

async fn is_encrypted(session: &Session) -> bool {
    let query = "SELECT ssl::text FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid()";
    value(session, query).await == "true"
}

#[tokio::test]
async fn a_server_with_tls_and_scram() {
    let server = Server::start();
    encryption_is_what_the_mode_says(&server).await;
    certificates_are_held_against_the_mode(&server).await;
    client_certificates_are_shown(&server).await;
    passwords_are_checked_with_channel_binding(&server).await;
    sockets_and_the_password_file_work(&server).await;
    names_and_options_reach_the_server(&server).await;
    a_statement_can_be_cancelled(&server).await;
    a_wire_is_a_connection_before_its_startup(&server).await;
    hosts_are_tried_in_turn(&server).await;
    certificates_of_the_manual_are_taken(&server).await;
}

async fn encryption_is_what_the_mode_says(server: &Server) {
    for (mode, user, encrypted) in [
        ("prefer", "crypt", Some(true)),
        ("prefer", "plain", Some(false)),
        ("allow", "plain", Some(false)),
        ("allow", "crypt", Some(true)),
        ("require", "crypt", Some(true)),
        ("disable", "plain", Some(false)),
        ("require", "plain", None),
        ("disable", "crypt", None),
    ] {
        let target = server.target("db.test", &format!("user={user} password=right sslmode={mode}"));
        match encrypted {
            Some(encrypted) => assert_eq!(is_encrypted(&connected(&target).await).await, encrypted, "{mode} {user}"),
            None => {
                let error = refused(&target).await;
                assert_eq!(error.sqlstate.as_ref().map(|state| state.code()), Some("28000"), "{error}");
                assert!(!error.connection_lost);
            }
        }
    }
}

async fn certificates_are_held_against_the_mode(server: &Server) {
    for (host, settings, fault) in [
        ("db.test", "sslmode=verify-full sslrootcert={}/ca.crt", None),
        ("other.test", "sslmode=verify-full sslrootcert={}/ca.crt", Some("not valid for name")),
        ("127.0.0.1", "sslmode=verify-full sslrootcert={}/ca.crt", Some("not valid for name")),
        ("other.test", "sslmode=verify-ca sslrootcert={}/ca.crt", None),
        ("db.test", "sslmode=verify-ca sslrootcert={}/other.crt", Some("UnknownIssuer")),
        ("db.test", "sslmode=require sslrootcert={}/other.crt", Some("UnknownIssuer")),
        ("db.test", "sslmode=verify-ca sslrootcert={}/none.crt", Some("does not exist")),
        ("db.test", "sslmode=verify-ca sslrootcert={}/client.key", Some("no certificate")),
        ("db.test", "sslrootcert=system", Some("UnknownIssuer")),
        ("db.test", "sslmode=require sslrootcert={}/none.crt", None),
        ("not a name", "sslmode=require", None),
    ] {
        let target = server.target(&format!("'{host}'"), &format!("user=app password=right {settings}"));
        match fault {
            None => assert!(is_encrypted(&connected(&target).await).await, "{host} {settings}"),
            Some(fault) => {
                let (error, opened) = (refused(&target).await, target.open().await);
                assert!(error.message.contains(fault) && error.hint.is_none(), "{host} {settings}: {error}");
                assert!(!error.connection_lost && error.sqlstate.is_none(), "{error:?}");
                let error = opened.expect_err("the same certificate");
                assert!(error.message.contains(fault), "{host} {settings}: {error}");
            }
        }
    }
}

/// The recipes of the manual (19.9.5): a certificate that is its own root, and one of X.509 version 1.
async fn certificates_of_the_manual_are_taken(server: &Server) {
    let directory = server.directory.path();
    let openssl = |line: &str| run(Command::new("openssl").args(line.split(' ')).current_dir(directory));
    let key = "-newkey rsa:2048 -nodes -keyout data/server.key";
    let names = "-subj /CN=db.test -addext subjectAltName=DNS:db.test";

    openssl(&format!("req -x509 {key} {names} -days 2 -sha512 -out server.crt"));
    server.reload();
    for (host, mode, taken) in [
        ("db.test", "verify-full", true),
        ("other.test", "verify-ca", true),
        ("other.test", "verify-full", false),
        ("other.test", "require", true),
    ] {
        let settings =
            format!("user=app password=right channel_binding=require sslmode={mode} sslrootcert={{}}/server.crt");
        let target = server.target(host, &settings);
        let outcome = target.connect("pgrecast test", "connect").await.map(drop);
        assert_eq!(outcome.is_ok(), taken, "{host} {mode}: {outcome:?}");
    }

    openssl(&format!("req {key} -subj /CN=db.test -out old.csr"));
    openssl("x509 -req -in old.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out server.crt");
    server.reload();
    let settings = "user=app password=right sslmode=require channel_binding=require";
    connected(&server.target("db.test", settings)).await;
}

async fn client_certificates_are_shown(server: &Server) {
    let settings = "user=cert sslmode=verify-ca sslrootcert={}/ca.crt sslcert={}/client.crt";
    connected(&server.target("db.test", &format!("{settings} sslkey={{}}/client.key"))).await;
    let error = refused(&server.target("db.test", &format!("{settings} sslkey={{}}/none.key"))).await;
    assert!(error.message.contains("private key file is not"), "{error}");
    let key = server.file("shared.key");
    fs::copy(server.file("client.key"), &key).expect("copy");
    fs::set_permissions(&key, Permissions::from_mode(0o644)).expect("chmod");
    let error = refused(&server.target("db.test", &format!("{settings} sslkey={{}}/shared.key"))).await;
    assert!(error.message.contains("group or world access"), "{error}");
}

async fn passwords_are_checked_with_channel_binding(server: &Server) {
    connected(&server.target("db.test", "user=app password=right sslmode=require channel_binding=require")).await;
    connected(&server.target("db.test", "user=app password=right sslmode=require channel_binding=disable")).await;
    let error = refused(&server.target("db.test", "user=app password=wrong sslmode=require")).await;
    assert_eq!(error.sqlstate.as_ref().map(|state| state.code()), Some("28P01"));
    assert!(!error.connection_lost && !format!("{error:?}").contains("wrong"), "{error:?}");
    let error = refused(&server.target("db.test", "user=app sslmode=require passfile=/none")).await;
    assert!(error.message.ends_with("no password supplied") && !error.connection_lost, "{error}");
    assert!(error.hint.is_some_and(|hint| hint.contains("PGPASSWORD")));
    let unbound = server.target("db.test", "user=plain password=right sslmode=disable channel_binding=require");
    assert!(!refused(&unbound).await.connection_lost);
}

async fn sockets_and_the_password_file_work(server: &Server) {
    let passfile = server.file("passfile");
    fs::write(&passfile, format!("*:1:*:app:wrong\n*:{}:postgres:app:right\n", server.port)).expect("password file");
    fs::set_permissions(&passfile, Permissions::from_mode(0o600)).expect("chmod");
    let socket = server.places(&format!("host={{}} port={} dbname=postgres", server.port));
    let by_socket = |rest: &str| target(&server.places(&format!("{socket} {rest}")));

    let session = connected(&by_socket("user=app passfile={}/passfile sslmode=verify-full")).await;
    assert!(!is_encrypted(&session).await, "a socket is not encrypted, whatever is asked");
    connected(&server.target("db.test", "user=app passfile={}/passfile")).await;

    fs::set_permissions(&passfile, Permissions::from_mode(0o640)).expect("chmod");
    let error = refused(&by_socket("user=app passfile={}/passfile")).await;
    assert!(error.hint.is_some() && error.sqlstate.is_none(), "{error:?}");

    let error = refused(&by_socket("user=peer requirepeer=nobody-here")).await;
    assert!(error.message.contains("requirepeer"), "{error}");
    let error = refused(&target(&format!("{socket}1 user=peer"))).await;
    assert_eq!(error.sqlstate.map(|state| state.code().to_owned()).as_deref(), Some("3D000"));
}

async fn names_and_options_reach_the_server(server: &Server) {
    let options = "user=app password=right application_name=job options='-c work_mem=1MB -c statement_timeout=1s'";
    let target = server.target("db.test", options);
    let session = target.connect_with_options("pgrecast copy", "-c work_mem=2MB", "connect").await.expect("connected");
    assert_eq!(value(&session, "SELECT current_setting('application_name')").await, "pgrecast copy (job)");
    assert_eq!(value(&session, "SELECT current_setting('work_mem')").await, "2MB");
    assert_eq!(value(&session, "SELECT current_setting('statement_timeout')").await, "1s");
    session.client.batch_execute("DO $$ BEGIN RAISE NOTICE 'seen'; END $$").await.expect("notices pass by");
}

async fn a_statement_can_be_cancelled(server: &Server) {
    for (user, mode) in [("app", "require"), ("crypt", "prefer"), ("plain", "disable")] {
        let target = server.target("db.test", &format!("user={user} password=right sslmode={mode}"));
        let (sleeper, watcher) = (connected(&target).await, connected(&target).await);
        let canceller = sleeper.canceller(&target);
        let cancel = async {
            let asleep = "SELECT count(*)::text FROM pg_catalog.pg_stat_activity WHERE wait_event = 'PgSleep'";
            while value(&watcher, asleep).await == "0" {
                tokio::task::yield_now().await;
            }
            canceller.cancel().await.expect("the request is sent");
        };
        let (outcome, ()) = tokio::join!(sleeper.client.batch_execute("SELECT pg_sleep(60)"), cancel);
        let error = Error::from_client("sleep", &outcome.expect_err("cancelled"));
        assert_eq!(error.sqlstate.as_ref().map(|state| state.code()), Some("57014"), "{error}");
    }
}

/// Futures go to whichever thread is free.
#[test]
fn connecting_may_move_between_threads() {
    fn is_send<T: Send>(_: &T) {}
    let target = target("host=/none");
    is_send(&target.connect("pgrecast test", "connect"));
    is_send(&target.open());
    let _ = |canceller: Canceller| is_send(&canceller.cancel());
}

async fn a_wire_is_a_connection_before_its_startup(server: &Server) {
    let certificate = Command::new("openssl")
        .args(["x509", "-outform", "DER", "-in"])
        .arg(server.file("server.crt"))
        .output()
        .expect("openssl");
    for (mode, binding) in [("require", server_end_point(&certificate.stdout)), ("disable", None)] {
        let target = server.target("db.test", &format!("user=app password=right sslmode={mode}"));
        let mut wire = target.open().await.expect("a wire");
        assert_eq!(wire.tls_server_end_point, binding);
        let mut startup = bytes::BytesMut::new();
        let parameters = [("user", target.user()), ("database", target.dbname())];
        postgres_protocol::message::frontend::startup_message(parameters, &mut startup).expect("a message");
        wire.stream.write_all(&startup).await.expect("sent");
        let expected = if mode == "require" { b'R' } else { b'E' };
        assert_eq!(wire.stream.read_u8().await.expect("an answer"), expected);
    }
}

async fn hosts_are_tried_in_turn(server: &Server) {
    let closed = free_port();
    let two =
        format!("hostaddr=127.0.0.1,127.0.0.1 port={closed},{} dbname=postgres user=app password=right", server.port);
    let both = target(&two);
    let session = connected(&both).await;
    let pinned = both.pinned(session.route());
    assert_eq!(pinned.describe(), format!("app@127.0.0.1:{}/postgres", server.port));
    connected(&pinned).await;
    assert!(pinned.open().await.expect("a wire").tls_server_end_point.is_some());

    let nobody = target(&format!("hostaddr=127.0.0.1 port={closed} dbname=postgres"));
    assert!(refused(&nobody).await.connection_lost);
    assert!(nobody.open().await.expect_err("closed").connection_lost);
    let unknown = refused(&target("host=nowhere.invalid dbname=postgres")).await;
    assert!(unknown.connection_lost && unknown.message.contains("nowhere.invalid"), "{unknown}");

    connected(&target(&format!("{two} target_session_attrs=read-write"))).await;
    let read_only = "options='-c default_transaction_read_only=on'";
    connected(&target(&format!("{two} {read_only} target_session_attrs=primary"))).await;
    let error = refused(&target(&format!("{two} {read_only} target_session_attrs=read-write"))).await;
    assert!(error.message.contains("read-only") && !error.connection_lost, "{error}");

    // A server that takes the connection and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("its number").port();
    let error = refused(&target(&format!("hostaddr=127.0.0.1 port={port} dbname=postgres connect_timeout=1"))).await;
    assert!(error.connection_lost && error.message.contains("timeout expired"), "{error}");
}
