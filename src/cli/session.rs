//! What most commands have in common: which database, and what is said where.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::listen::StatusArgs;
use super::name::Columns;
use super::options::MigrateOptions;
use super::typed::{Beginning, FormatArgs, ReportArgs, Session};
use crate::error::Failure;
use crate::report::Format;

/// Which database; found as libpq finds it where nothing was given.
#[derive(Clone, PartialEq, Eq)]
pub struct Connection {
    /// `--dsn` or `PGRECAST_DSN`; may hold a password.
    pub dsn: Option<String>,
}

impl fmt::Debug for Connection {
    /// Hides the DSN, so that no log can show its password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("dsn", &self.dsn.as_ref().map(|_| "…")).finish()
    }
}

/// What is said, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// How standard output reads.
    pub format: Format,
    /// Where the report goes at the end.
    pub report: Option<PathBuf>,
    /// Where the status is served.
    pub listen: Option<SocketAddr>,
}

impl Output {
    /// The same, with the status of the run served there.
    pub(super) fn listening(self, typed: &StatusArgs) -> Self {
        Output { listen: typed.status_listen, ..self }
    }

    pub(super) fn new(format: &FormatArgs, report: ReportArgs) -> Self {
        Output { format: format.format, report: report.report, listen: None }
    }
}

/// What every command that begins a migration was given.
pub(super) struct Begun {
    pub(super) dry_run: bool,
    pub(super) options: MigrateOptions,
    pub(super) connection: Connection,
    pub(super) output: Output,
}

impl Beginning {
    pub(super) fn check(self, primary_key: Option<Columns>) -> Result<Begun, Failure> {
        let mut options = self.changes.apply(MigrateOptions::default())?;
        options.primary_key = primary_key.map(|columns| columns.0);
        options.failover_slot = self.failover_slot;
        options.dry_run = self.measures.into();
        let output = Output::new(&self.session.format, self.report).listening(&self.status);
        Ok(Begun { dry_run: self.dry_run, options, connection: self.session.into(), output })
    }
}

impl From<Session> for Connection {
    /// An empty `PGRECAST_DSN` counts as none, as with libpq's variables.
    fn from(typed: Session) -> Self {
        Connection { dsn: typed.dsn.filter(|dsn| !dsn.is_empty()) }
    }
}
