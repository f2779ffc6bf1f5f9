//! The program as a person runs it: arguments in, lines and an exit code out.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{Db, wait_for};

/// Longer than any run of a test takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// How a run ended and what it said.
#[derive(Debug)]
pub struct Output {
    /// The exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the program as the superuser of this database, to its end.
pub fn pgrecast(db: &Db, args: &[&str]) -> Output {
    spawn(db.dsn(), args).wait()
}

/// Starts the program with this address in `PGRECAST_DSN` and none of this process's own `PG…` settings.
pub fn spawn(dsn: &str, args: &[&str]) -> Running {
    spawn_with(dsn, args, &[])
}

/// The same with more variables in its environment.
pub fn spawn_with(dsn: &str, args: &[&str], variables: &[(&str, &str)]) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgrecast"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    // What is written in half a minute is for the tests of the estimate alone.
    let is_brief = args.contains(&"--dry-run") && !args.contains(&"--sample");
    command
        .args(args)
        .args(is_brief.then_some("--sample=100ms"))
        .env("PGRECAST_DSN", dsn)
        .envs(variables.iter().copied());
    Running::start(command)
}

/// A started program; killed when dropped.
pub struct Running {
    child: Child,
    stdout: Arc<Lines>,
    stderr: Arc<Lines>,
    readers: Vec<JoinHandle<()>>,
}

impl Running {
    /// Starts a command and reads what it says.
    pub fn start(mut command: Command) -> Running {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
        let (stdout, stderr) = (Arc::new(Lines::default()), Arc::new(Lines::default()));
        let readers = vec![
            stdout.read_from(child.stdout.take().expect("standard output is piped")),
            stderr.read_from(child.stderr.take().expect("standard error is piped")),
        ];
        Running { child, stdout, stderr, readers }
    }

    /// The first line of standard output, so far or to come, that is a JSON object with this property.
    pub fn wait_for_event(&self, what: &str, within: Duration, is_it: impl Fn(&Value) -> bool) -> Value {
        let find = |line: &String| serde_json::from_str(line).ok().filter(|value| is_it(value));
        self.stdout.wait_for(within, find).unwrap_or_else(|last| {
            panic!("waited {within:?} for {what}; last line: {last}\nstandard error:\n{}", self.stderr.text())
        })
    }

    /// What standard error has so far.
    pub fn said(&self) -> String {
        self.stderr.text()
    }

    /// What standard output has so far.
    pub fn told(&self) -> String {
        self.stdout.text()
    }

    /// Ends the program at once, as a crash would.
    pub fn kill(mut self) -> Output {
        self.signal(Signal::SIGKILL);
        self.finish()
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("the program still runs");
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub fn is_over(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Waits for the end.
    pub fn wait(self) -> Output {
        self.finish()
    }

    fn finish(mut self) -> Output {
        let status = wait_for("the end of the program", PATIENCE, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            _ => Err(format!("{}{}", self.stdout.text(), self.stderr.text())),
        });
        for reader in self.readers.drain(..) {
            reader.join().expect("a reader of the program's output");
        }
        Output { code: status.code(), stdout: self.stdout.text(), stderr: self.stderr.text() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a stream so far, and a bell for the next one.
#[derive(Default)]
struct Lines {
    said: Mutex<Said>,
    bell: Condvar,
}

#[derive(Default)]
struct Said {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    fn read_from(self: &Arc<Self>, stream: impl Read + Send + 'static) -> JoinHandle<()> {
        let lines = Arc::clone(self);
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                lines.change(|said| said.lines.push(line));
            }
            lines.change(|said| said.ended = true);
        })
    }

    fn change(&self, change: impl FnOnce(&mut Said)) {
        change(&mut self.said.lock().expect("no reader panics"));
        self.bell.notify_all();
    }

    /// The first line that `find` takes; else, at the deadline or the end of the stream, the last line said.
    fn wait_for<T>(&self, within: Duration, find: impl Fn(&String) -> Option<T>) -> Result<T, String> {
        let deadline = Instant::now() + within;
        let mut looked = 0;
        let mut said = self.said.lock().expect("no reader panics");
        loop {
            if let Some(found) = said.lines[looked..].iter().find_map(&find) {
                return Ok(found);
            }
            looked = said.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if said.ended || left.is_zero() {
                return Err(said.lines.last().cloned().unwrap_or_else(|| "none".into()));
            }
            said = self.bell.wait_timeout(said, left).expect("no reader panics").0;
        }
    }

    fn text(&self) -> String {
        self.said.lock().expect("no reader panics").lines.iter().flat_map(|line| [line, "\n"]).collect()
    }
}
