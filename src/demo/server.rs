//! A throwaway PostgreSQL server: started in an instant, reached over 127.0.0.1 and a Unix socket, gone when dropped.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cluster::{Cluster, cannot};
use crate::error::Failure;

/// What every server gets before the caller's own settings, which come after and win.
const DEFAULTS: [(&str, &str); 6] = [
    ("listen_addresses", "127.0.0.1"),
    ("wal_level", "logical"),
    ("max_wal_senders", "20"),
    ("max_replication_slots", "20"),
    ("log_line_prefix", "%m [%p] %a "),
    ("logging_collector", "off"),
];

/// Longer than any start or stop takes on a loaded machine, crash recovery of a small cluster included.
const PATIENCE: Duration = Duration::from_secs(90);

/// How often a condition of another process is looked at.
const GLANCE: Duration = Duration::from_millis(10);

/// Ports are free when chosen and can be taken a moment later.
const PORT_ATTEMPTS: u32 = 5;

/// How much of the log goes into an error.
const TAIL_LINES: usize = 30;

/// A running server with its files; both go when this is dropped, or when this process ends in whatever way.
#[derive(Debug)]
pub struct Server {
    // Before the cluster: a server must end before its files go.
    postmaster: Postmaster,
    cluster: Cluster,
    port: u16,
}

impl Server {
    /// Initialises a data directory with the programs in `bin` and starts a server on it. `settings` go to its
    /// `postgresql.conf` over these: `wal_level=logical`, 20 WAL senders and replication slots.
    ///
    /// As root, the server runs as the user in `PGRECAST_SERVER_USER`, else `postgres`, else `nobody`.
    pub fn start(bin: &Path, settings: &[(&str, &str)]) -> Result<Server, Failure> {
        Server::on(Cluster::initdb(bin)?, settings)
    }

    /// Starts a server on a data directory.
    pub fn on(cluster: Cluster, settings: &[(&str, &str)]) -> Result<Server, Failure> {
        configure(&cluster, settings)?;
        let mut server = Server { postmaster: Postmaster(None), cluster, port: 0 };
        for attempt in 1.. {
            server.port = free_port()?;
            match server.launch() {
                Err(_) if attempt < PORT_ATTEMPTS && server.log_tail().contains("could not bind") => {}
                outcome => return outcome.map(|()| server),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// How the superuser reaches the database `postgres` over TCP, with a password.
    pub fn dsn(&self) -> String {
        self.dsn_for("postgres", self.cluster.password(), "postgres")
    }

    /// How the superuser reaches a database over TCP.
    pub fn dsn_of(&self, dbname: &str) -> String {
        self.dsn_for("postgres", self.cluster.password(), dbname)
    }

    /// How a user reaches a database over TCP.
    pub fn dsn_for(&self, user: &str, password: &str, dbname: &str) -> String {
        let [user, password, dbname] = [user, password, dbname].map(percent_encoded);
        format!("postgresql://{user}:{password}@127.0.0.1:{}/{dbname}", self.port)
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.cluster.data_dir()
    }

    /// The TCP port, which names the Unix socket, too; a restart keeps it.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of the Unix socket, over which nobody is asked for a password.
    pub fn socket_dir(&self) -> &Path {
        self.cluster.directory()
    }

    /// The process id of the running postmaster.
    pub fn pid(&self) -> Option<u32> {
        self.postmaster.0.as_ref().map(Child::id)
    }

    /// An immediate shutdown: every session is cut off, and the next start has to recover from the WAL.
    pub fn stop_immediate(&mut self) {
        self.postmaster.stop(Signal::SIGQUIT);
    }

    /// A fast shutdown, if the server runs.
    pub fn stop(&mut self) {
        self.postmaster.stop(Signal::SIGINT);
    }

    /// The same, and a start on the same port.
    pub fn restart(&mut self) -> Result<(), Failure> {
        self.stop();
        self.launch()
    }

    /// A program of the server's, run as the user it runs as.
    pub fn command(&self, program: &str) -> Command {
        self.cluster.command(program)
    }

    /// All that the server wrote to its log.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// The last lines of the server's log.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    fn log_file(&self) -> PathBuf {
        self.cluster.directory().join("log")
    }

    /// Starts the server and waits until it takes connections.
    fn launch(&mut self) -> Result<(), Failure> {
        let log_file = self.log_file();
        let log = open_log(&log_file)?;
        let log_too = log.try_clone().map_err(|e| cannot("open", &log_file, &e))?;
        let child = self
            .cluster
            .command("postgres")
            .arg("-D")
            .arg(self.data_dir())
            .args(["-p", &self.port.to_string()])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_too)
            .spawn()
            .map_err(|e| cannot("run", Path::new("postgres"), &e))?;
        self.postmaster = Postmaster(Some(child));
        self.wait_until_ready()
    }

    fn wait_until_ready(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        let Some(child) = &mut self.postmaster.0 else { return Err(Failure::failed("the server was not started")) };
        let pid = child.id().to_string();
        let pid_file = self.cluster.data_dir().join("postmaster.pid");
        loop {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(Failure::failed(format!("the server did not start: {status}")).detail(self.log_tail()));
            }
            if is_ready(&std::fs::read_to_string(&pid_file).unwrap_or_default(), &pid) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Failure::failed(format!("the server was not ready after {} s", PATIENCE.as_secs()))
                    .detail(self.log_tail()));
            }
            std::thread::sleep(GLANCE);
        }
    }
}

/// The server's main process, while there is one.
#[derive(Debug)]
struct Postmaster(Option<Child>);

impl Postmaster {
    /// Sends the signal and waits for the end, which is forced if it does not come.
    fn stop(&mut self, signal: Signal) {
        let Some(mut child) = self.0.take() else { return };
        let deadline = Instant::now() + PATIENCE;
        // A process that is gone already cannot be signalled, and need not be.
        let _ = kill(Pid::from_raw(child.id().cast_signed()), signal);
        while matches!(child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = child.kill();
            }
            std::thread::sleep(GLANCE);
        }
    }
}

impl Drop for Postmaster {
    fn drop(&mut self) {
        self.stop(Signal::SIGQUIT);
    }
}

/// The eighth line of `postmaster.pid` is the state (`LOCK_FILE_LINE_PM_STATUS` in PostgreSQL's `pidfile.h`); the first
/// tells a file that a killed server left from one of this server.
fn is_ready(pid_file: &str, pid: &str) -> bool {
    let mut lines = pid_file.lines();
    lines.next().is_some_and(|line| line.trim() == pid) && lines.nth(6).is_some_and(|line| line.trim() == "ready")
}

/// Appends the settings; where a name occurs twice, the server takes the last.
fn configure(cluster: &Cluster, settings: &[(&str, &str)]) -> Result<(), Failure> {
    use std::io::Write as _;
    let file = cluster.data_dir().join("postgresql.conf");
    let socket_dir = cluster.directory().to_string_lossy();
    let ours = DEFAULTS.into_iter().chain([("unix_socket_directories", socket_dir.as_ref())]);
    let mut text = String::new();
    for (name, value) in ours.chain(settings.iter().copied()) {
        text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
    }
    OpenOptions::new()
        .append(true)
        .open(&file)
        .and_then(|mut conf| conf.write_all(text.as_bytes()))
        .map_err(|e| cannot("write", &file, &e))
}

fn open_log(path: &Path) -> Result<File, Failure> {
    OpenOptions::new().create(true).append(true).open(path).map_err(|e| cannot("open", path, &e))
}

fn free_port() -> Result<u16, Failure> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|e| Failure::failed(format!("no free port on 127.0.0.1: {e}")))
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_is_ready_only_for_its_own_process() {
        let file = "42\n/data\n1700000000\n5432\n/tmp\n127.0.0.1\n  5432001  0\nready   \n";
        assert!(is_ready(file, "42"));
        assert!(!is_ready(file, "43"));
        assert!(!is_ready(&file.replace("ready", "starting"), "42"));
        assert!(!is_ready("", "42"));
    }

    #[test]
    fn names_and_passwords_survive_in_an_address() {
        assert_eq!(percent_encoded("a b@c/ä"), "a%20b%40c%2F%C3%A4");
    }
}
