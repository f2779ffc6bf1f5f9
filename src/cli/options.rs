//! The options of a migration: what holds when nothing is typed, and what was typed on top of it.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::hours::{Critical, CriticalChanges, Hours, HoursChanges};
use super::quantity;
use super::setting::Setting;
use crate::error::Failure;

/// How a migration is to be run. Kept in the control schema, so that `resume` goes on with the same; a field that an
/// earlier version did not know reads as its default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MigrateOptions {
    /// Copy, index and flush workers, 1 to 64.
    pub jobs: u8,
    /// Stop resumably after a run of this length.
    pub max_runtime: Option<Duration>,
    /// Compare source and targets before the cut-over.
    pub verify: bool,
    /// VACUUM the targets before the cut-over.
    pub vacuum: bool,
    /// The targets' primary key columns; the source's where none.
    pub primary_key: Option<Vec<String>>,
    /// Settings of every session that copies, flushes or compares; no name twice.
    pub settings: Vec<Setting>,
    /// The bounds of the cut-over.
    pub cutover: Cutover,
    /// What holds copy and flush back.
    pub throttle: Throttle,
    /// What stops a run.
    pub critical: Critical,
    /// When there is work.
    pub hours: Hours,
    /// How long the old table is kept in step after the cut-over; not at all where none.
    pub rollback_window: Option<Duration>,
    /// The slots are kept on standbys, so that one which is promoted goes on.
    pub failover_slot: bool,
    /// What becomes of a value that does not convert.
    pub on_error: OnError,
    /// How a dry run measures; no migration's concern, so it is not kept.
    #[serde(skip)]
    pub dry_run: DryRun,
}

/// What becomes of a value that does not convert to the new type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// It ends the run, and is named.
    #[default]
    Abort,
    /// It becomes NULL, and is counted.
    Null,
    /// It becomes NULL, and is kept in a table with its key and the error.
    Quarantine,
}

impl OnError {
    /// As it is typed.
    pub fn word(self) -> &'static str {
        match self {
            OnError::Abort => "abort",
            OnError::Null => "null",
            OnError::Quarantine => "quarantine",
        }
    }
}

/// How a dry run measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DryRun {
    /// How long the writes are counted.
    pub sample: Duration,
    /// Whether a part of the table is copied to a temporary one.
    pub trial: bool,
}

impl Default for DryRun {
    fn default() -> Self {
        DryRun { sample: Duration::from_secs(30), trial: true }
    }
}

/// When and how hard the cut-over tries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cutover {
    /// The longest wait for one lock, in whole milliseconds; shorter than `timeout`.
    pub lock_timeout: Duration,
    /// The longest that writers may ever wait, in whole milliseconds.
    pub timeout: Duration,
    /// Attempts before the run gives up, at least 1.
    pub attempts: u32,
    /// Stay in step until released by `pgrecast cutover`.
    pub postpone: bool,
    /// Stay in step while this file exists.
    pub postpone_file: Option<PathBuf>,
    /// End sessions that have blocked the cut-over for longer than this; never where none.
    pub terminate_blockers: Option<Duration>,
}

/// What copy and flush yield to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Throttle {
    /// The largest replay lag of any standby.
    pub max_lag: Duration,
    /// The standbys that count, by `application_name`; all where none.
    pub replicas: Vec<String>,
    /// The most WAL that the slot may retain, in bytes.
    pub max_slot_wal: u64,
    /// The most active sessions, at least 1.
    pub max_active: Option<u32>,
    /// A query that holds work back while it returns true.
    pub query: Option<String>,
    /// A file that holds work back while it exists.
    pub file: Option<PathBuf>,
    /// Seconds of sleep for each second of work, 0 to 100.
    pub nice: f64,
}

impl Default for MigrateOptions {
    fn default() -> Self {
        MigrateOptions {
            jobs: 2,
            max_runtime: None,
            verify: true,
            vacuum: false,
            primary_key: None,
            settings: Vec::new(),
            cutover: Cutover::default(),
            throttle: Throttle::default(),
            critical: Critical::default(),
            hours: Hours::default(),
            rollback_window: None,
            failover_slot: false,
            on_error: OnError::Abort,
            dry_run: DryRun::default(),
        }
    }
}

impl Default for Cutover {
    fn default() -> Self {
        Cutover {
            lock_timeout: Duration::from_millis(250),
            timeout: Duration::from_secs(1),
            attempts: 60,
            postpone: false,
            postpone_file: None,
            terminate_blockers: None,
        }
    }
}

impl Default for Throttle {
    fn default() -> Self {
        Throttle {
            max_lag: Duration::from_secs(10),
            replicas: Vec::new(),
            max_slot_wal: 10 << 30,
            max_active: None,
            query: None,
            file: None,
            nice: 0.0,
        }
    }
}

/// The options that were typed. A new migration puts them on the defaults, `resume` on what the migration has.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct Changes {
    /// Copy, index and flush workers, 1 to 64 [default: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: Option<u8>,
    /// Stop after this long, to be resumed later
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration)]
    max_runtime: Option<Duration>,
    /// Skip the comparison of source and targets
    #[arg(long)]
    no_verify: bool,
    /// VACUUM the targets before the cut-over, for index-only scans from the first moment
    #[arg(long)]
    vacuum: bool,
    /// After the cut-over stay and keep the old table in step for this long, so that rollback loses nothing
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration)]
    rollback_window: Option<Duration>,
    #[command(flatten)]
    cutover: CutoverChanges,
    #[command(flatten)]
    throttle: ThrottleChanges,
    #[command(flatten)]
    critical: CriticalChanges,
    #[command(flatten)]
    hours: HoursChanges,
}

#[derive(Debug, Clone, Default, PartialEq, Args)]
#[command(next_help_heading = "Cut-over")]
struct CutoverChanges {
    /// The longest wait for one lock [default: 250ms]
    #[arg(long, value_name = "DURATION", value_parser = quantity::timeout)]
    lock_timeout: Option<Duration>,
    /// The longest that writers may ever wait [default: 1s]
    #[arg(long, value_name = "DURATION", value_parser = quantity::timeout)]
    cutover_timeout: Option<Duration>,
    /// Attempts before giving up with everything kept in place [default: 60]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    cutover_attempts: Option<u32>,
    /// Stay in step and wait for `pgrecast cutover`
    #[arg(long)]
    postpone_cutover: bool,
    /// Stay in step while this file exists
    #[arg(long, value_name = "PATH", value_parser = path)]
    postpone_file: Option<PathBuf>,
    /// End sessions that block the cut-over longer than this [default: never]
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration)]
    terminate_blockers: Option<Duration>,
}

#[derive(Debug, Clone, Default, PartialEq, Args)]
#[command(next_help_heading = "Throttle")]
struct ThrottleChanges {
    /// Pause while a standby is further behind [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration)]
    max_lag: Option<Duration>,
    /// A standby that --max-lag is about, by its application_name; may be repeated [default: all]
    #[arg(long = "lag-replica", value_name = "NAME")]
    replicas: Vec<String>,
    /// Pause while the slot retains more WAL [default: 10GB]
    #[arg(long, value_name = "SIZE", value_parser = quantity::size)]
    max_slot_wal: Option<u64>,
    /// Pause while more sessions are active
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_active: Option<u32>,
    /// Pause while this query returns true
    #[arg(long, value_name = "SQL")]
    throttle_query: Option<String>,
    /// Pause while this file exists
    #[arg(long, value_name = "PATH", value_parser = path)]
    throttle_file: Option<PathBuf>,
    /// Rest so many times as long as each piece of work took [default: 0]
    #[arg(long, value_name = "RATIO", value_parser = quantity::nice)]
    nice: Option<f64>,
}

impl Changes {
    /// These changes on top of `base`; refused where the result contradicts itself.
    pub fn apply(&self, base: MigrateOptions) -> Result<MigrateOptions, Failure> {
        let options = MigrateOptions {
            jobs: self.jobs.unwrap_or(base.jobs),
            max_runtime: self.max_runtime.or(base.max_runtime),
            verify: base.verify && !self.no_verify,
            vacuum: base.vacuum || self.vacuum,
            primary_key: base.primary_key,
            settings: base.settings,
            cutover: self.cutover.apply(base.cutover),
            throttle: self.throttle.apply(base.throttle),
            critical: self.critical.apply(base.critical),
            hours: self.hours.apply(base.hours),
            rollback_window: self.rollback_window.or(base.rollback_window),
            failover_slot: base.failover_slot,
            on_error: base.on_error,
            dry_run: base.dry_run,
        };
        options.cutover.check()?;
        Ok(options)
    }
}

/// How a dry run is to measure.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub(super) struct DryRunArgs {
    /// How long --dry-run counts the table's writes [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration, requires = "dry_run")]
    sample: Option<Duration>,
    /// Let --dry-run estimate from the catalog alone, and copy no part of the table to a temporary one
    #[arg(long, requires = "dry_run")]
    no_trial: bool,
}

impl From<DryRunArgs> for DryRun {
    fn from(typed: DryRunArgs) -> Self {
        let default = DryRun::default();
        DryRun { sample: typed.sample.unwrap_or(default.sample), trial: !typed.no_trial }
    }
}

impl CutoverChanges {
    fn apply(&self, base: Cutover) -> Cutover {
        Cutover {
            lock_timeout: self.lock_timeout.unwrap_or(base.lock_timeout),
            timeout: self.cutover_timeout.unwrap_or(base.timeout),
            attempts: self.cutover_attempts.unwrap_or(base.attempts),
            postpone: base.postpone || self.postpone_cutover,
            postpone_file: self.postpone_file.clone().or(base.postpone_file),
            terminate_blockers: self.terminate_blockers.or(base.terminate_blockers),
        }
    }
}

impl ThrottleChanges {
    fn apply(&self, base: Throttle) -> Throttle {
        Throttle {
            max_lag: self.max_lag.unwrap_or(base.max_lag),
            replicas: if self.replicas.is_empty() { base.replicas } else { self.replicas.clone() },
            max_slot_wal: self.max_slot_wal.unwrap_or(base.max_slot_wal),
            max_active: self.max_active.or(base.max_active),
            query: self.throttle_query.clone().or(base.query),
            file: self.throttle_file.clone().or(base.file),
            nice: self.nice.unwrap_or(base.nice),
        }
    }
}

impl Cutover {
    /// Writers queue behind a lock request, so its wait is part of the time they may wait in all.
    fn check(&self) -> Result<(), Failure> {
        if self.lock_timeout < self.timeout {
            return Ok(());
        }
        Err(Failure::usage("--lock-timeout must be shorter than --cutover-timeout")
            .detail(format!(
                "A lock may be waited for {}, and writers may wait {} in all.",
                humantime::format_duration(self.lock_timeout),
                humantime::format_duration(self.timeout)
            ))
            .hint("Give a shorter --lock-timeout or a longer --cutover-timeout."))
    }
}

/// A path that JSON can hold: as a reader of text, clap refuses bytes that are not UTF-8.
pub(super) fn path(text: &str) -> Result<PathBuf, &'static str> {
    if text.is_empty() { Err("the path is empty") } else { Ok(PathBuf::from(text)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_version_kept_reads_with_defaults() {
        let kept: MigrateOptions = serde_json::from_str(r#"{"jobs": 4, "cutover": {"attempts": 3}}"#).expect("options");
        let expected = MigrateOptions {
            jobs: 4,
            cutover: Cutover { attempts: 3, ..Cutover::default() },
            ..MigrateOptions::default()
        };
        assert_eq!(kept, expected);
    }

    #[test]
    fn options_survive_the_control_schema() {
        let options = MigrateOptions {
            max_runtime: Some(Duration::from_millis(1_500)),
            primary_key: Some(vec!["id".to_owned()]),
            failover_slot: true,
            settings: vec![Setting { name: "timezone".to_owned(), value: "UTC".to_owned() }],
            throttle: Throttle { nice: 0.1, file: Some(PathBuf::from("/tmp/stop")), ..Throttle::default() },
            ..MigrateOptions::default()
        };
        let text = serde_json::to_string(&options).expect("JSON");
        assert_eq!(serde_json::from_str::<MigrateOptions>(&text).expect("options"), options);
    }

    #[test]
    fn changes_leave_alone_what_was_not_typed() {
        let kept =
            MigrateOptions { jobs: 8, verify: false, vacuum: true, failover_slot: true, ..MigrateOptions::default() };
        assert_eq!(Changes::default().apply(kept.clone()).expect("no change"), kept);
        let changes = Changes { jobs: Some(3), ..Changes::default() };
        assert_eq!(changes.apply(kept.clone()).expect("a change"), MigrateOptions { jobs: 3, ..kept });
    }
}
