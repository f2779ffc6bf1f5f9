//! pgbench at full speed beside a migration, and what its clients saw.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};

use crate::Result;
use crate::lab::{self, Lab};

/// Longer than any load here: each is stopped.
const FOR_EVER: &str = "1000000";

/// Tells the logs of one load from another's.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Eight clients at work.
pub struct Load {
    child: Child,
    prefix: PathBuf,
}

/// One transaction, in seconds since the epoch.
#[derive(Debug, Clone, Copy)]
struct Transaction {
    began: f64,
    ended: f64,
}

/// What the clients saw.
#[derive(Debug)]
pub struct Log {
    /// In the order of their ends.
    transactions: Vec<Transaction>,
    /// Transactions that failed, and clients that gave up for a failure.
    pub failed: f64,
}

impl Load {
    /// Starts eight clients on two threads; `flags` say what they do.
    pub fn start(lab: &Lab, flags: &[&str]) -> Result<Load> {
        Load::with_options(lab, flags, "")
    }

    /// The same, with settings of their sessions as `PGOPTIONS` takes them.
    pub fn with_options(lab: &Lab, flags: &[&str], options: &str) -> Result<Load> {
        let prefix = lab.scratch(&format!("load-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let mut command = lab.client("pgbench");
        command.args(["-n", "-c", "8", "-j", "2", "-T", FOR_EVER, "--log", "--log-prefix"]).arg(&prefix).args(flags);
        command.env("PGOPTIONS", options);
        command.stdout(File::create(prefix.with_extension("out"))?).stderr(File::create(prefix.with_extension("err"))?);
        Ok(Load { child: lab::spawn(&mut command)?, prefix })
    }

    /// Whether all clients are still at it, as far as the process shows.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Lets each client end its transaction, and reads the log.
    pub fn stop(mut self) -> Result<Log> {
        // The alarm by which pgbench itself learns that the time of -T is over (handle_sig_alarm in pgbench.c).
        kill(lab::pid(&self.child), Signal::SIGALRM)?;
        let status = lab::wait(&mut self.child)?;
        let said = fs::read_to_string(self.prefix.with_extension("out"))?;
        let errors = fs::read_to_string(self.prefix.with_extension("err"))?;
        // A client that meets an error other than a deadlock or a serialization failure says so and ends.
        let aborted = errors.lines().filter(|line| line.contains(" aborted ")).count() as f64;
        if !status.success() && aborted == 0.0 {
            return Err(format!("pgbench ended with {status}: {}", errors.trim()).into());
        }
        if aborted > 0.0 {
            eprintln!("   pgbench: {}", errors.trim());
        }
        Ok(Log { transactions: read(&self.prefix)?, failed: aborted + failed(&said)? })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        lab::reap(&mut self.child);
    }
}

/// "number of failed transactions: 0 (0.000%)", as pgbench ends with.
fn failed(said: &str) -> Result<f64> {
    let line = said.lines().find_map(|line| line.strip_prefix("number of failed transactions: "));
    let number = line.and_then(|line| line.split_whitespace().next()).ok_or("pgbench did not count its failures")?;
    Ok(number.parse()?)
}

/// Every thread writes a file of its own: PREFIX.PID, PREFIX.PID.1 …
fn read(prefix: &Path) -> Result<Vec<Transaction>> {
    let stem = prefix.file_name().and_then(OsStr::to_str).ok_or("a log without a name")?;
    let mut transactions = Vec::new();
    for entry in fs::read_dir(prefix.parent().ok_or("a log without a directory")?)? {
        let entry = entry?;
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(stem)).and_then(|rest| rest.strip_prefix('.'));
        if rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) {
            let text = fs::read_to_string(entry.path())?;
            for line in text.lines() {
                transactions.extend(transaction(line).ok_or_else(|| format!("in pgbench's log: {line}"))?);
            }
            fs::remove_file(entry.path())?;
        }
    }
    transactions.sort_by(|a, b| a.ended.total_cmp(&b.ended));
    Ok(transactions)
}

/// `client transaction latency script epoch micros`, times in µs, at the end of the transaction; a word in place of the
/// latency where it failed, which is counted elsewhere. The outer `None` is a line of another shape.
fn transaction(line: &str) -> Option<Option<Transaction>> {
    let fields: Vec<&str> = line.split(' ').collect();
    let [_, _, latency, _, seconds, micros, ..] = fields.as_slice() else { return None };
    let ended = seconds.parse::<f64>().ok()? + micros.parse::<f64>().ok()? / 1e6;
    Some(latency.parse::<f64>().ok().map(|latency| Transaction { began: ended - latency / 1e6, ended }))
}

impl Log {
    /// Transactions per second that ended in that time.
    pub fn tps(&self, from: SystemTime, to: SystemTime) -> f64 {
        let (from, to) = (epoch(from), epoch(to));
        let ended = |at: f64| self.transactions.partition_point(|transaction| transaction.ended < at);
        ended(to).saturating_sub(ended(from)) as f64 / (to - from)
    }

    /// Transactions that began in that time.
    pub fn count(&self, from: SystemTime, to: SystemTime) -> usize {
        self.latencies(from, to).count()
    }

    /// The latency that this share of the transactions that began in that time did not pass, in milliseconds. With `--rate`
    /// it counts from when the transaction was due.
    pub fn percentile_ms(&self, share: f64, from: SystemTime, to: SystemTime) -> f64 {
        let mut all: Vec<f64> = self.latencies(from, to).collect();
        all.sort_by(f64::total_cmp);
        let at = (all.len() as f64 * share).ceil() as usize;
        all.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }

    fn latencies(&self, from: SystemTime, to: SystemTime) -> impl Iterator<Item = f64> {
        let (from, to) = (epoch(from), epoch(to));
        let within = self.transactions.iter().filter(move |t| t.began >= from && t.began < to);
        within.map(|transaction| (transaction.ended - transaction.began) * 1e3)
    }

    /// The longest transaction of which any part lies in that time, in milliseconds. No statement waited longer.
    pub fn longest_ms(&self, from: SystemTime, to: SystemTime) -> f64 {
        let (from, to) = (epoch(from), epoch(to));
        let within =
            self.transactions.iter().filter(|transaction| transaction.began <= to && transaction.ended >= from);
        within.map(|transaction| (transaction.ended - transaction.began) * 1e3).fold(f64::NAN, f64::max)
    }
}

fn epoch(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
