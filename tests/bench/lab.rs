//! The server, the programs that talk to it, and its databases.

use std::collections::HashSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgrecast::demo::Server;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::{Args, Result};

/// The database that is measured; made anew from a template for every run.
pub const DATABASE: &str = "bench";

/// Longer than anything here takes; what takes longer is ended and is a miss.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// What the disk and the server's processes get to come to rest before a measured run.
const SETTLE: Duration = Duration::from_secs(3);

/// So fine that it does not show in a figure.
const GLANCE: Duration = Duration::from_millis(2);

/// What was started here and runs beside this.
static CHILDREN: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// A server with what runs on it.
pub struct Lab {
    // First: the connections of the runtime's tasks are of no use without the server, but not the other way.
    server: Server,
    runtime: Runtime,
    /// In the server's directory, with which it goes in whatever way this ends.
    scratch: PathBuf,
    templates: HashSet<String>,
    clients: PathBuf,
    program: PathBuf,
    buffers: String,
    /// As the server gives it.
    pub version: String,
    /// Multiplies sizes.
    pub scale: f64,
    /// Runs of each figure.
    pub runs: u8,
    /// Cut-overs of row 5.
    pub cutovers: u8,
}

impl Lab {
    /// The lab there is, or a new one where its server has other `shared_buffers`.
    pub fn with_buffers<'a>(lab: &'a mut Option<Lab>, args: &Args, buffers: &str) -> Result<&'a mut Lab> {
        if lab.as_ref().is_none_or(|lab| lab.buffers != buffers) {
            // One server at a time.
            *lab = None;
            *lab = Some(Lab::start(args, buffers)?);
        }
        lab.as_mut().ok_or_else(|| "no server".into())
    }

    fn start(args: &Args, buffers: &str) -> Result<Lab> {
        let settings = [
            ("shared_buffers", buffers),
            ("max_wal_size", "8GB"),
            // Used segments are kept, so that no run has to write new ones full of zeros and the next has not.
            ("min_wal_size", "4GB"),
            // Checkpoints are where this asks for them.
            ("checkpoint_timeout", "1h"),
            ("max_connections", "100"),
            ("fsync", "on"),
            ("autovacuum", "off"),
        ];
        let server = Server::start(&args.server, &settings)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        runtime.spawn(end_with_children());
        let scratch = server.socket_dir().join("scratch");
        std::fs::create_dir(&scratch)?;
        // The server's user removes it; nobody else can enter the directory it lies in.
        std::fs::set_permissions(&scratch, Permissions::from_mode(0o777))?;
        let mut lab = Lab {
            server,
            runtime,
            scratch,
            templates: HashSet::new(),
            clients: args.clients.clone(),
            program: args.program.clone(),
            buffers: buffers.to_owned(),
            version: String::new(),
            scale: args.scale,
            runs: args.runs,
            cutovers: args.cutovers,
        };
        lab.version = lab.sql("postgres")?.text("SHOW server_version")?;
        Ok(lab)
    }

    /// A connection of its own.
    pub fn sql(&self, database: &str) -> Result<Sql<'_>> {
        let dsn = self.server.dsn_of(database);
        let client = self.runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&dsn, NoTls).await?;
            tokio::spawn(connection);
            Ok::<_, tokio_postgres::Error>(client)
        })?;
        Ok(Sql { client, runtime: &self.runtime })
    }

    /// A file or directory that goes at the end.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// pgrecast, to be measured.
    pub fn pgrecast(&self) -> Command {
        self.command(&self.program)
    }

    /// `psql` or `pgbench`.
    pub fn client(&self, name: &str) -> Command {
        self.command(&self.clients.join(name))
    }

    /// A program that finds the database over the Unix socket, and nothing else of its surroundings.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command
            .env("PGHOST", self.server.socket_dir())
            .env("PGPORT", self.server.port().to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", DATABASE)
            .env("PGSSLMODE", "disable")
            .stdin(Stdio::null());
        command
    }

    /// A template with pgbench's tables, 100 000 rows for each unit of `units`, which `--scale` multiplies.
    pub fn pgbench_template(&mut self, units: u32) -> Result<String> {
        let units = (f64::from(units) * self.scale).round().max(1.0);
        let name = format!("pgbench_{units}");
        self.template(&name, |lab| {
            let mut command = lab.client("pgbench");
            command.args(["-i", "-q", "-s", &units.to_string()]).env("PGDATABASE", &name);
            lab.succeed(&mut command)
        })?;
        Ok(name)
    }

    /// Makes the template database, once.
    pub fn template(&mut self, name: &str, fill: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
        if self.templates.contains(name) {
            return Ok(());
        }
        self.sql("postgres")?.run(&format!("CREATE DATABASE {name}"))?;
        fill(self)?;
        self.sql(name)?.run("VACUUM (ANALYZE)")?;
        self.templates.insert(name.to_owned());
        Ok(())
    }

    /// The database anew, as the template has it: with the hint bits and the statistics of its VACUUM.
    pub fn fresh(&self, template: &str) -> Result<()> {
        let sql = self.sql("postgres")?;
        // What a run that failed has left.
        sql.run(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{DATABASE}'; \
             DO $$ BEGIN \
                 FOR i IN 1..100 LOOP \
                     EXIT WHEN NOT EXISTS (SELECT FROM pg_replication_slots WHERE database = '{DATABASE}' AND active); \
                     PERFORM pg_sleep(0.1); \
                 END LOOP; \
                 PERFORM pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = '{DATABASE}'; \
             END $$"
        ))?;
        sql.run(&format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)"))?;
        sql.run(&format!("CREATE DATABASE {DATABASE} TEMPLATE {template}"))
    }

    /// Everything on disk, and nothing under way.
    pub fn settle(&self) -> Result<()> {
        self.sql("postgres")?.run("CHECKPOINT")?;
        sleep(SETTLE.mul_f64(self.scale.clamp(0.1, 1.0)));
        Ok(())
    }

    /// A length of time that `--scale` shortens, to no less than a fifth.
    pub fn span(&self, seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds * self.scale.clamp(0.2, 1.0))
    }

    /// Lets autovacuum look for work this often from now on, or not run.
    pub fn autovacuum(&self, naptime: Option<&str>) -> Result<()> {
        let sql = self.sql("postgres")?;
        sql.run(&format!("ALTER SYSTEM SET autovacuum = {}", naptime.is_some()))?;
        sql.run(&format!("ALTER SYSTEM SET autovacuum_naptime = '{}'", naptime.unwrap_or("1min")))?;
        sql.run("SELECT pg_reload_conf()")
    }

    /// Runs a program to its end; an error where it does not end well.
    pub fn succeed(&self, command: &mut Command) -> Result<()> {
        self.output(command).map(drop)
    }

    /// The same, and what it said.
    pub fn output(&self, command: &mut Command) -> Result<String> {
        let log = self.scratch("output");
        let file = std::fs::File::create(&log)?;
        let name = command.get_program().to_string_lossy().into_owned();
        let status = wait(&mut command.stdout(file.try_clone()?).stderr(file).spawn()?)?;
        let said = std::fs::read_to_string(&log)?;
        if status.success() {
            return Ok(said);
        }
        Err(format!("{name} ended with {status}: {}", said.trim()).into())
    }
}

/// Starts a program that does not outlive this one.
pub fn spawn(command: &mut Command) -> Result<Child> {
    let child = command.spawn()?;
    if let Ok(mut children) = CHILDREN.lock() {
        children.push(pid(&child));
    }
    Ok(child)
}

/// Kills it where it still runs: after an error, that is.
pub fn reap(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
    if let Ok(mut children) = CHILDREN.lock() {
        children.retain(|known| *known != pid(child));
    }
}

/// Its id, as signals want it.
pub fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// On an interrupt everything goes; the server by itself, when this process is gone.
async fn end_with_children() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
    for child in CHILDREN.lock().iter().flat_map(|children| children.iter()) {
        let _ = kill(*child, Signal::SIGKILL);
    }
    std::process::exit(130);
}

/// Waits for the end, to within 2 ms; kills what takes too long.
pub fn wait(child: &mut Child) -> Result<ExitStatus> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if begun.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            return Err(format!("not done after {} s", PATIENCE.as_secs()).into());
        }
        sleep(GLANCE);
    }
}

/// Waits until `seen` gives something.
pub fn wait_for<T>(what: &str, patience: Duration, mut seen: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(found) = seen()? {
            return Ok(found);
        }
        if begun.elapsed() > patience {
            return Err(format!("waited {} s in vain for {what}", patience.as_secs()).into());
        }
        sleep(Duration::from_millis(5));
    }
}

/// A connection.
pub struct Sql<'a> {
    client: tokio_postgres::Client,
    runtime: &'a Runtime,
}

impl Sql<'_> {
    /// Runs statements whose results nobody wants.
    pub fn run(&self, sql: &str) -> Result<()> {
        Ok(self.runtime.block_on(self.client.batch_execute(sql)).map_err(|error| explained(&error, sql))?)
    }

    /// The first column of the first row, if there is one.
    pub fn maybe(&self, sql: &str) -> Result<Option<String>> {
        let answer = self.runtime.block_on(self.client.simple_query(sql)).map_err(|error| explained(&error, sql))?;
        Ok(answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        }))
    }

    /// The first column of the first row.
    pub fn text(&self, sql: &str) -> Result<String> {
        self.maybe(sql)?.ok_or_else(|| format!("no answer to {sql}").into())
    }

    /// The same as a number.
    pub fn number(&self, sql: &str) -> Result<f64> {
        Ok(self.text(sql)?.parse()?)
    }

    /// How much WAL this server has ever written, in bytes.
    pub fn wal(&self) -> Result<f64> {
        self.number("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
    }
}

fn explained(error: &tokio_postgres::Error, sql: &str) -> String {
    let said = error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
    format!("{said}, in: {sql}")
}
