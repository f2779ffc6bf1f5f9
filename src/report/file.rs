//! The report file: one JSON object with the fields of the contract.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What a run did, in numbers. Times are seconds, sizes bytes; what does not apply is `None`, and `null` in the file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The migration's number; none where the run was refused before it got one.
    pub id: Option<i64>,
    /// The command's name.
    pub command: String,
    /// The source, as a person would write it.
    pub source: Option<String>,
    /// The targets, under the names they have at the end.
    pub targets: Vec<String>,
    /// `done`, or the word of [`crate::error::Exit`].
    pub outcome: String,
    /// As the server gives it: `15.4`.
    pub server_version: Option<String>,
    /// Rows that the copy wrote.
    pub rows_copied: Option<u64>,
    /// Bytes of the source that the copy read.
    pub bytes_copied: Option<u64>,
    /// Keys that went to the journal, repeats included.
    pub keys_journaled: Option<u64>,
    /// Keys that were brought up to date in the targets.
    pub keys_flushed: Option<u64>,
    /// Chunks of the copy.
    pub chunks: Option<u64>,
    /// How long each phase took.
    pub seconds: PhaseSeconds,
    /// The swap.
    pub cutover: CutoverFigures,
    /// WAL written by the whole server during the run.
    pub wal_bytes: Option<u64>,
    /// The most WAL that the slot retained.
    pub peak_slot_wal_bytes: Option<u64>,
    /// The largest replay lag of any standby, in seconds.
    pub peak_lag: Option<f64>,
    /// The most memory that this process had resident.
    pub peak_rss_bytes: Option<u64>,
    /// The comparison.
    pub verify: VerifyFigures,
    /// How long copy and flush were held back.
    pub throttled_seconds: ThrottledSeconds,
    /// Values that did not convert, once the tables are swapped; none where one would have ended the run.
    #[serde(default)]
    pub unconverted: Option<Unconverted>,
}

/// Values that became NULL because they did not convert.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unconverted {
    /// All of them.
    pub values: u64,
    /// Rows that have one or more.
    pub rows: u64,
    /// How many each column has.
    pub columns: BTreeMap<String, u64>,
    /// The table that keeps them, where that was asked for and there are any.
    pub table: Option<String>,
}

/// Seconds of each phase, over all runs of the migration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PhaseSeconds {
    /// From the start to the end.
    pub total: Option<f64>,
    /// Shadow, publication, slot, settle.
    pub prepare: Option<f64>,
    /// Block ranges to the shadow.
    pub copy: Option<f64>,
    /// Building what was left off.
    pub index: Option<f64>,
    /// Until the journal was small.
    pub catch_up: Option<f64>,
    /// Comparing.
    pub verify: Option<f64>,
    /// ANALYZE, VACUUM, and waiting in step.
    pub ready: Option<f64>,
}

/// The swap in numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CutoverFigures {
    /// Attempts, the successful one included.
    pub attempts: Option<u32>,
    /// Seconds spent waiting for the grant of the lock on the source, in the attempt that succeeded.
    pub lock_wait: Option<f64>,
    /// Seconds from that grant to the answer to COMMIT: how long writers waited.
    pub write_blocked: Option<f64>,
    /// Keys flushed while the lock was held.
    pub final_keys: Option<u64>,
}

/// The comparison in numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VerifyFigures {
    /// Rows of the source that were compared.
    pub rows_compared: Option<u64>,
    /// Differences that were still there after a flush.
    pub differences: Option<u64>,
    /// Keys that were looked at a second time.
    pub rechecked: Option<u64>,
}

/// How long copy and flush were held back.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ThrottledSeconds {
    /// Seconds in all.
    pub total: Option<f64>,
    /// Seconds by signal.
    pub by_reason: BTreeMap<String, f64>,
}

/// A run's report, and what stays for a person to do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The run in numbers.
    #[serde(flatten)]
    pub report: Report,
    /// The name under which the old table stays until `finish`, as a person would write it.
    pub old_table: Option<String>,
}

impl Report {
    /// Writes the file whole or not at all: a reader sees the old one or the new one. What is no regular file, such as
    /// a pipe or `/dev/null`, is written to and never replaced.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        match fs::metadata(path) {
            // the name may be a symbolic link: what it leads to is replaced, and the link stays
            Ok(found) if found.is_file() => replace(&fs::canonicalize(path)?, &text),
            Ok(_) => File::options().write(true).open(path)?.write_all(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => replace(path, &text),
            Err(error) => Err(error),
        }
    }
}

/// Through a file of this process beside the real one, as a rename works only within a file system.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let beside = beside(path)?;
    let written = write_through(&beside, text).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // the first error is the one to tell; there may be nothing to remove
        let _ = fs::remove_file(&beside);
    }
    written
}

fn beside(path: &Path) -> io::Result<PathBuf> {
    let no_name = || io::Error::new(io::ErrorKind::InvalidInput, "the path does not end in a file name");
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().ok_or_else(no_name)?);
    name.push(format!(".{}.tmp", std::process::id()));
    Ok(path.with_file_name(name))
}

fn write_through(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text)?;
    file.sync_all()
}

/// The most memory this process had resident, in bytes, where the system has `/proc`.
pub fn peak_rss_bytes() -> Option<u64> {
    high_water_mark(&fs::read_to_string("/proc/self/status").ok()?)
}

/// `VmHWM` of `/proc/PID/status`, which proc(5) gives in units of 1024 bytes.
fn high_water_mark(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn keys(value: &Value) -> Vec<&str> {
        value.as_object().expect("an object").keys().map(String::as_str).collect()
    }

    fn sorted(names: &str) -> Vec<&str> {
        let mut names: Vec<&str> = names.split_whitespace().collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn the_file_has_exactly_the_fields_that_are_documented() {
        let report = serde_json::to_value(Report::default()).expect("JSON");
        let top = "id command source targets outcome server_version rows_copied bytes_copied keys_journaled \
                   keys_flushed chunks seconds cutover wal_bytes peak_slot_wal_bytes peak_lag peak_rss_bytes verify \
                   throttled_seconds unconverted";
        assert_eq!(keys(&report), sorted(top));
        assert_eq!(keys(&report["seconds"]), sorted("total prepare copy index catch_up verify ready"));
        assert_eq!(keys(&report["cutover"]), sorted("attempts lock_wait write_blocked final_keys"));
        assert_eq!(keys(&report["verify"]), sorted("rows_compared differences rechecked"));
        assert_eq!(keys(&report["throttled_seconds"]), sorted("total by_reason"));
    }

    #[test]
    fn what_does_not_apply_is_null() {
        let report = serde_json::to_value(Report::default()).expect("JSON");
        for field in ["id", "source", "rows_copied", "peak_lag"] {
            assert_eq!(report[field], Value::Null, "{field}");
        }
        assert_eq!(report["cutover"]["write_blocked"], Value::Null);
        assert_eq!(report["targets"], Value::Array(Vec::new()));
    }

    #[test]
    fn a_report_replaces_the_one_before_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("report.json");
        for outcome in ["paused", "done"] {
            let report = Report { outcome: outcome.to_owned(), ..Report::default() };
            report.write(&path).expect("written");
            let read: Report = serde_json::from_slice(&fs::read(&path).expect("read")).expect("a report");
            assert_eq!(read, report);
        }
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
    }

    #[test]
    fn a_link_stays_a_link() {
        let dir = tempfile::tempdir().expect("a directory");
        let (real, link) = (dir.path().join("real.json"), dir.path().join("link.json"));
        fs::write(&real, "old").expect("written");
        std::os::unix::fs::symlink(&real, &link).expect("linked");
        Report::default().write(&link).expect("written");
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        assert_ne!(fs::read(&real).expect("read"), b"old");
    }

    #[test]
    fn what_is_no_file_is_not_replaced() {
        let device = Path::new("/dev/null");
        Report::default().write(device).expect("written");
        assert!(!fs::metadata(device).expect("there").is_file());
    }

    #[test]
    fn a_place_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(Report::default().write(&dir.path().join("no/report.json")).is_err());
        assert!(Report::default().write(dir.path()).is_err());
    }

    #[test]
    fn the_high_water_mark_is_read_in_bytes() {
        assert_eq!(high_water_mark("Name:\tx\nVmHWM:\t    1234 kB\nVmRSS:\t 1 kB\n"), Some(1_234 * 1_024));
        assert_eq!(high_water_mark("Name:\tx\n"), None);
        assert_eq!(high_water_mark("VmHWM:\t12 pages\n"), None);
    }
}
