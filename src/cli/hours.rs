//! When a migration works, and what stops it.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::quantity;
use crate::window::Window;

/// When there is work.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hours {
    /// Copy, index builds, comparison and cut-over only within one of these; always where none.
    pub windows: Vec<Window>,
    /// The cut-over only within one of these; within the others where none.
    pub cutover_windows: Vec<Window>,
    /// What a run does in between.
    pub outside: Outside,
}

/// What a run does outside its windows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Outside {
    /// It stays and follows the changes.
    #[default]
    KeepUp,
    /// It stops, to be resumed by the next start of the same command.
    Exit,
}

/// What stops a run, to be resumed later.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Critical {
    /// The largest replay lag of any standby.
    pub lag: Option<Duration>,
    /// The most WAL that the slot may retain, in bytes.
    pub slot_wal: Option<u64>,
    /// The most active sessions, at least 1.
    pub active: Option<u32>,
}

impl Hours {
    /// The windows of the cut-over.
    pub fn for_cutover(&self) -> &[Window] {
        if self.cutover_windows.is_empty() { &self.windows } else { &self.cutover_windows }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Args)]
#[command(next_help_heading = "Hours")]
pub(super) struct HoursChanges {
    /// Work only in these hours: 22:00-06:00, 'Sat,Sun 00:00-24:00 Europe/Berlin'; may be repeated [zone: this machine's]
    #[arg(long = "window", value_name = "HOURS")]
    pub(super) windows: Vec<Window>,
    /// Cut over only in these hours; may be repeated [default: those of --window]
    #[arg(long = "cutover-window", value_name = "HOURS")]
    pub(super) cutover_windows: Vec<Window>,
    /// Outside the windows: keep-up follows the changes, exit stops with code 75, to be started again [default: keep-up]
    #[arg(long, value_enum, hide_possible_values = true, value_name = "WHAT")]
    pub(super) outside_window: Option<Outside>,
}

impl HoursChanges {
    pub(super) fn apply(&self, base: Hours) -> Hours {
        let typed = |typed: &[Window], base| if typed.is_empty() { base } else { typed.to_vec() };
        Hours {
            windows: typed(&self.windows, base.windows),
            cutover_windows: typed(&self.cutover_windows, base.cutover_windows),
            outside: self.outside_window.unwrap_or(base.outside),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Args)]
#[command(next_help_heading = "Throttle")]
pub(super) struct CriticalChanges {
    /// Stop, to be resumed later, once a standby is further behind
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration)]
    pub(super) critical_lag: Option<Duration>,
    /// Stop, to be resumed later, once the slot retains more WAL
    #[arg(long, value_name = "SIZE", value_parser = quantity::size)]
    pub(super) critical_slot_wal: Option<u64>,
    /// Stop, to be resumed later, once more sessions are active
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) critical_active: Option<u32>,
}

impl CriticalChanges {
    pub(super) fn apply(&self, base: Critical) -> Critical {
        Critical {
            lag: self.critical_lag.or(base.lag),
            slot_wal: self.critical_slot_wal.or(base.slot_wal),
            active: self.critical_active.or(base.active),
        }
    }
}
