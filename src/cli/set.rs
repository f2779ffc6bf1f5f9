//! `pgrecast set [ID] NAME=VALUE …`.

use clap::Parser;

use super::options::{Changes, Throttle};
use super::session::Connection;
use super::typed::SetArgs;
use super::{Critical, MigrateOptions};
use crate::error::Failure;
use crate::report::Format;

/// What a run takes up while it works.
const NAMES: &[&str] = &[
    "jobs",
    "max-lag",
    "lag-replica",
    "max-slot-wal",
    "max-active",
    "throttle-query",
    "throttle-file",
    "nice",
    "critical-lag",
    "critical-slot-wal",
    "critical-active",
    "window",
    "cutover-window",
    "outside-window",
    "lock-timeout",
    "cutover-timeout",
    "cutover-attempts",
    "postpone-file",
    "terminate-blockers",
];

/// New values for options of a migration.
#[derive(Debug, PartialEq)]
pub struct Set {
    /// Its number; the only one there is where none.
    pub id: Option<i64>,
    /// Options that get their defaults again.
    reset: Vec<String>,
    changes: Changes,
    /// The database.
    pub connection: Connection,
    /// How standard output reads.
    pub format: Format,
}

/// The values, read as the command line's options are.
#[derive(Debug, Parser)]
#[command(name = "set", no_binary_name = true, disable_help_flag = true)]
struct Values {
    #[command(flatten)]
    changes: Changes,
}

impl Set {
    pub(super) fn check(typed: SetArgs) -> Result<Self, Failure> {
        let mut values = typed.values.as_slice();
        let id = values.first().and_then(|first| first.parse::<i64>().ok());
        if id.is_some() {
            values = &values[1..];
        }
        if values.is_empty() {
            return Err(Failure::usage("nothing to set").hint("Write NAME=VALUE, as in max-lag=30s."));
        }
        let mut reset = Vec::new();
        let mut options = Vec::new();
        for value in values {
            let (name, value) = value
                .split_once('=')
                .ok_or_else(|| Failure::usage(format!("{value}: write NAME=VALUE, as in max-lag=30s")))?;
            if !NAMES.contains(&name) {
                return Err(Failure::usage(format!("{name} cannot be set while a migration runs"))
                    .hint(format!("These can: {}.", NAMES.join(", "))));
            }
            match value.is_empty() {
                true => reset.push(name.to_owned()),
                false => options.push(format!("--{name}={value}")),
            }
        }
        let read = Values::try_parse_from(&options).map_err(|e| {
            let text = e.render().to_string();
            let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Failure::usage(first)
        })?;
        Ok(Set {
            id,
            reset,
            changes: read.changes,
            format: typed.session.format.format,
            connection: typed.session.into(),
        })
    }

    /// The options with the new values.
    ///
    /// # Errors
    /// Where they contradict each other.
    pub fn apply(&self, mut options: MigrateOptions) -> Result<MigrateOptions, Failure> {
        let fresh = MigrateOptions::default();
        for name in &self.reset {
            let (throttle, critical) = (&mut options.throttle, &mut options.critical);
            match name.as_str() {
                "jobs" => options.jobs = fresh.jobs,
                "max-lag" => throttle.max_lag = Throttle::default().max_lag,
                "lag-replica" => throttle.replicas.clear(),
                "max-slot-wal" => throttle.max_slot_wal = Throttle::default().max_slot_wal,
                "max-active" => throttle.max_active = None,
                "throttle-query" => throttle.query = None,
                "throttle-file" => throttle.file = None,
                "nice" => throttle.nice = 0.0,
                "critical-lag" => *critical = Critical { lag: None, ..critical.clone() },
                "critical-slot-wal" => *critical = Critical { slot_wal: None, ..critical.clone() },
                "critical-active" => *critical = Critical { active: None, ..critical.clone() },
                "window" => options.hours.windows.clear(),
                "cutover-window" => options.hours.cutover_windows.clear(),
                "outside-window" => options.hours.outside = fresh.hours.outside,
                "lock-timeout" => options.cutover.lock_timeout = fresh.cutover.lock_timeout,
                "cutover-timeout" => options.cutover.timeout = fresh.cutover.timeout,
                "cutover-attempts" => options.cutover.attempts = fresh.cutover.attempts,
                "postpone-file" => options.cutover.postpone_file = None,
                "terminate-blockers" => options.cutover.terminate_blockers = None,
                other => return Err(Failure::usage(format!("{other} cannot be set while a migration runs"))),
            }
        }
        self.changes.apply(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Command, parse};

    fn set(values: &[&str]) -> Result<Set, String> {
        match parse([&["pgrecast", "set"], values].concat()) {
            Ok(Command::Set(set)) => Ok(*set),
            Ok(other) => Err(format!("{other:?}")),
            Err(unparsed) => Err(format!("{unparsed:?}")),
        }
    }

    #[test]
    fn every_name_reads_and_goes_back_to_its_default() {
        let values = |name: &&str| match *name {
            "jobs" | "max-active" | "critical-active" | "cutover-attempts" => "7",
            "max-slot-wal" | "critical-slot-wal" => "5GB",
            "throttle-query" => "SELECT 1",
            "throttle-file" | "postpone-file" => "/tmp/x",
            "lag-replica" => "b",
            "nice" => "0.5",
            "window" | "cutover-window" => "22:00-06:00 UTC",
            "outside-window" => "exit",
            "lock-timeout" => "100ms",
            _ => "33s",
        };
        for name in NAMES {
            let text = format!("{name}={}", values(name));
            let changed = set(&["3", &text]).expect(&text);
            assert_eq!(changed.id, Some(3));
            let options = changed.apply(MigrateOptions::default()).expect(&text);
            assert_ne!(options, MigrateOptions::default(), "{text}");
            let back = set(&[&format!("{name}=")]).expect(name).apply(options).expect(name);
            assert_eq!(back, MigrateOptions::default(), "{name}");
        }
    }

    #[test]
    fn what_cannot_be_set_is_refused() {
        for values in [&[][..], &["3"], &["jobs"], &["jobs=0"], &["vacuum=on"], &["lock-timeout=9h"], &["max-lag=soon"]]
        {
            assert!(
                set(values).and_then(|s| s.apply(MigrateOptions::default()).map_err(|e| e.primary)).is_err(),
                "{values:?}"
            );
        }
    }
}
