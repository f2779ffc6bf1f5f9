//! A throwaway server, shared by the tests that run at the same time and gone with the last of them.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio_postgres::NoTls;

pub const PASSWORD: &str = "sesame'\\ ünd";

static RUNNING: Mutex<Weak<Server>> = Mutex::new(Weak::new());

pub struct Server {
    process: Child,
    pub port: u16,
    pub folder: TempDir,
}

impl Server {
    /// The running server, or a new one.
    pub fn shared() -> Arc<Server> {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        running.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Server::start());
            *running = Arc::downgrade(&server);
            server
        })
    }

    fn start() -> Server {
        let folder = tempfile::Builder::new().prefix("wire-").tempdir_in("/tmp").expect("a folder");
        if let Some((uid, gid)) = servant() {
            chown(folder.path(), Some(uid), Some(gid)).expect("the folder changes hands");
        }
        let data = folder.path().join("data");
        let password_file = folder.path().join("password");
        fs::write(&password_file, PASSWORD).expect("a password file");
        let made = command("initdb")
            .args(["--auth=scram-sha-256", "--username=postgres", "--no-sync", "--encoding=UTF8", "--locale=C"])
            .arg(format!("--pwfile={}", password_file.display()))
            .arg(&data)
            .output()
            .expect("initdb runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        allow_older_methods(&data);
        make_certificate(folder.path(), &data);
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let log = fs::File::create(folder.path().join("log")).expect("a log");
        let process = command("postgres")
            .arg("-D")
            .arg(&data)
            .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="])
            .args(["-c", "wal_level=logical", "-c", "fsync=off", "-c", "max_replication_slots=20", "-c", "ssl=on"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("postgres runs");
        let server = Server { process, port, folder };
        server.wait_until_ready(&data);
        server
    }

    fn wait_until_ready(&self, data: &Path) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !fs::read_to_string(data.join("postmaster.pid")).is_ok_and(|text| text.contains("\nready")) {
            let log = || fs::read_to_string(self.folder.path().join("log"));
            assert!(Instant::now() < deadline, "the server is not ready: {:?}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A plain connection to a database.
    pub async fn sql(&self, dbname: &str) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::Config::new()
            .host("127.0.0.1")
            .port(self.port)
            .user("postgres")
            .password(PASSWORD)
            .dbname(dbname)
            .connect(NoTls)
            .await
            .expect("a connection");
        tokio::spawn(connection);
        client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An immediate shutdown: nobody will read this data again.
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.process.id()).expect("a process id"));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGQUIT);
        let _ = self.process.wait();
    }
}

/// The server refuses to run as root.
fn servant() -> Option<(u32, u32)> {
    let user = nix::unistd::User::from_name("postgres").expect("users are known");
    nix::unistd::geteuid().is_root().then(|| {
        let user = user.expect("a user \"postgres\" to run the server");
        (user.uid.as_raw(), user.gid.as_raw())
    })
}

fn command(program: &str) -> Command {
    let folder = std::env::var_os("PGRECAST_TEST_BIN").unwrap_or_else(|| "/usr/lib/postgresql/15/bin".into());
    let path = PathBuf::from(folder).join(program);
    assert!(path.exists(), "no PostgreSQL server: {} is missing", path.display());
    let mut command = Command::new(path);
    if let Some((uid, gid)) = servant() {
        command.uid(uid).gid(gid);
    }
    command
}

fn allow_older_methods(data: &Path) {
    let file = data.join("pg_hba.conf");
    let rules = fs::read_to_string(&file).expect("the rules");
    let older = "host all md5_user all md5\nhost all plain_user all password\n";
    fs::write(&file, format!("{older}{rules}")).expect("the rules are written");
}

/// `server.crt` and `server.key` for the server, `server.der` for the test.
fn make_certificate(folder: &Path, data: &Path) {
    let openssl = |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        if let Some((uid, gid)) = servant() {
            command.uid(uid).gid(gid);
        }
        let done = command.args(arguments).current_dir(data).output().expect("openssl runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let new = "req -x509 -newkey rsa:2048 -nodes -sha256 -days 2 -subj /CN=localhost -keyout server.key -out server.crt \
               -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:localhost";
    openssl(&new.split_whitespace().collect::<Vec<_>>());
    let der = folder.join("server.der");
    openssl(&["x509", "-in", "server.crt", "-outform", "der", "-out", der.to_str().expect("a plain path")]);
}
