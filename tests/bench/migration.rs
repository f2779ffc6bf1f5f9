//! One run of pgrecast, and what it says on the way.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::Result;
use crate::lab::{self, Lab};

/// How often to look at what grows while it runs, and whether it still does.
const LOOK: Duration = Duration::from_millis(200);
const GLANCE: Duration = Duration::from_millis(2);

/// A run under way.
pub struct Migration<'a> {
    lab: &'a Lab,
    child: Child,
    events: Receiver<Value>,
    said: Vec<Value>,
    report: PathBuf,
    errors: PathBuf,
    begun: Instant,
    /// By the clock that pgbench's log goes by.
    begun_at: SystemTime,
}

/// A run that ended with everything done.
#[derive(Debug)]
pub struct Done {
    /// The migration's number.
    id: i64,
    /// From the start of the process to its end.
    pub wall: Duration,
    /// By the clock that pgbench's log goes by.
    pub begun_at: SystemTime,
    /// The same.
    pub ended_at: SystemTime,
    /// The report file.
    report: Value,
    /// What it said of its attempts at the cut-over, and when.
    attempts: Value,
    /// When which phase began and ended.
    phases: Vec<Value>,
}

impl<'a> Migration<'a> {
    /// Starts `pgrecast alter TABLE CLAUSES`.
    pub fn start(lab: &'a Lab, table: &str, clauses: &str, flags: &[&str]) -> Result<Self> {
        Migration::begin(lab, &["alter", table, clauses], flags)
    }

    /// Starts any command that migrates.
    pub fn begin(lab: &'a Lab, command_line: &[&str], flags: &[&str]) -> Result<Self> {
        let (report, errors) = (lab.scratch("report.json"), lab.scratch("errors"));
        let _ = std::fs::remove_file(&report);
        let mut command = lab.pgrecast();
        command.args(command_line).args(["--format", "json", "--report"]).arg(&report).args(flags);
        if !flags.contains(&"--jobs") {
            command.args(["--jobs", "2"]);
        }
        command.stdout(Stdio::piped()).stderr(File::create(&errors)?);
        let (begun, begun_at) = (Instant::now(), SystemTime::now());
        let mut child = lab::spawn(&mut command)?;
        let out = child.stdout.take().ok_or("no output")?;
        let (sender, events) = channel();
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(std::result::Result::ok) {
                // Whoever waits no longer has no use for it.
                let _ = sender.send(serde_json::from_str(&line).unwrap_or(Value::String(line)));
            }
        });
        Ok(Migration { lab, child, events, said: Vec::new(), report, errors, begun, begun_at })
    }

    /// Runs one to its end.
    pub fn run(lab: &'a Lab, table: &str, clauses: &str, flags: &[&str]) -> Result<Done> {
        Migration::start(lab, table, clauses, flags)?.done()
    }

    /// Waits for an event of one of these names.
    pub fn wait_for(&mut self, names: &[&str]) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(15 * 60);
        while let Ok(event) = self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            let found = names.iter().any(|name| event["event"] == *name);
            self.said.push(event);
            if found {
                return Ok(());
            }
        }
        Err(format!("pgrecast did not come to: {}{}", names.join(" or "), self.complaint()).into())
    }

    /// Waits until it is in step and waits for its release.
    pub fn postponed(&mut self) -> Result<()> {
        let release = Value::String(format!("pgrecast cutover {}", self.id()?));
        while self.said.last().is_none_or(|event| event["for"] != release) {
            self.wait_for(&["waiting"])?;
        }
        Ok(())
    }

    /// Releases it.
    pub fn release(&mut self) -> Result<()> {
        let id = self.id()?.to_string();
        self.lab.succeed(self.lab.pgrecast().args(["cutover", &id]))
    }

    /// Whether the process is still there.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// What it has said of its attempts so far.
    fn attempts(&self) -> Value {
        self.said.iter().filter(|event| event["event"] == "cutover_attempt").cloned().collect()
    }

    fn id(&mut self) -> Result<i64> {
        self.said.extend(self.events.try_iter());
        if !self.said.iter().any(|event| event["event"] == "started") {
            self.wait_for(&["started"])?;
        }
        let started = self.said.iter().find(|event| event["event"] == "started");
        started.and_then(|event| event["id"].as_i64()).ok_or_else(|| "a migration without a number".into())
    }

    /// Waits for the end of the process.
    pub fn done(self) -> Result<Done> {
        self.done_beside(|| Ok(()))
    }

    /// The same, and looks at something five times a second meanwhile.
    pub fn done_beside(mut self, mut look: impl FnMut() -> Result<()>) -> Result<Done> {
        let mut next = Instant::now();
        while self.is_running()? {
            if Instant::now() >= next {
                look()?;
                next += LOOK;
            }
            thread::sleep(GLANCE);
        }
        let status = lab::wait(&mut self.child)?;
        let (wall, ended_at) = (self.begun.elapsed(), SystemTime::now());
        // The channel closes when all has been read.
        self.said.extend(self.events.iter());
        if !status.success() {
            return Err(format!("pgrecast ended with {status}{}", self.complaint()).into());
        }
        let report: Value = serde_json::from_reader(File::open(&self.report)?)?;
        let id = report["id"].as_i64().ok_or("a report without an id")?;
        let phases = self.said.iter().filter(|e| e["event"] == "phase_began" || e["event"] == "phase_ended").cloned();
        let phases = phases.collect();
        Ok(Done { id, wall, begun_at: self.begun_at, ended_at, report, attempts: self.attempts(), phases })
    }

    /// What it said on standard error, or last.
    fn complaint(&self) -> String {
        let errors = std::fs::read_to_string(&self.errors).unwrap_or_default();
        let last = self.said.iter().rev().take(3).map(Value::to_string).collect::<Vec<_>>().join(" ");
        format!("; it said: {} {last}", errors.trim())
    }
}

impl Drop for Migration<'_> {
    fn drop(&mut self) {
        lab::reap(&mut self.child);
    }
}

impl Done {
    /// A number of the report, by its path; not a number where it is null.
    pub fn number(&self, pointer: &str) -> f64 {
        self.report.pointer(pointer).and_then(Value::as_f64).unwrap_or(f64::NAN)
    }

    /// How long writers waited, in milliseconds.
    pub fn blocked_ms(&self) -> f64 {
        self.number("/cutover/write_blocked") * 1_000.0
    }

    /// Each phase with its beginning and end, by the clock that pgbench's log goes by.
    pub fn phases(&self) -> Result<Vec<(String, SystemTime, SystemTime)>> {
        let at = |event: &Value| -> Result<SystemTime> {
            Ok(event["time"].as_str().ok_or("an event without a time")?.parse::<jiff::Timestamp>()?.into())
        };
        let began = self.phases.iter().filter(|event| event["event"] == "phase_began");
        let spans = began.filter_map(|began| {
            let ends = |e: &&Value| {
                e["event"] == "phase_ended"
                    && e["phase"] == began["phase"]
                    && e["time"].as_str() >= began["time"].as_str()
            };
            let ended = self.phases.iter().find(ends)?;
            Some((began["phase"].as_str()?.to_owned(), began, ended))
        });
        spans.map(|(name, began, ended)| Ok((name, at(began)?, at(ended)?))).collect()
    }

    /// What goes into the facts.
    pub fn facts(&self) -> Value {
        let part = |name: &str| self.report[name].clone();
        json!({
            "wall": self.wall.as_secs_f64(), "seconds": part("seconds"), "cutover": part("cutover"),
            "attempts": self.attempts, "rows_copied": part("rows_copied"), "chunks": part("chunks"), "wal_bytes": part("wal_bytes"),
            "keys_journaled": part("keys_journaled"), "keys_flushed": part("keys_flushed"),
            "peak_slot_wal_bytes": part("peak_slot_wal_bytes"), "peak_rss_bytes": part("peak_rss_bytes"),
            "verify": part("verify"), "throttled_seconds": part("throttled_seconds"),
        })
    }

    /// `pgrecast finish`; how long it took.
    pub fn finish(&self, lab: &Lab) -> Result<Duration> {
        let begun = Instant::now();
        lab.succeed(lab.pgrecast().args(["finish", &self.id.to_string()]))?;
        Ok(begun.elapsed())
    }
}
