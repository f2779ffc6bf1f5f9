//! What a run ends with when it does not end well: one exit code of the contract, one primary line, detail and hint.
//!
//! Rooms that talk to the server return [`crate::pg::Error`], which keeps SQLSTATE and statement; what reaches the
//! user is always a [`Failure`].

use std::fmt;

/// The exit codes of the command line contract (`docs/operate.md`, "Exit codes").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Failed; the table is as it was.
    Failed,
    /// The command line is wrong.
    Usage,
    /// Refused in preflight; nothing was touched.
    Refused,
    /// Verification found a difference.
    Differs,
    /// The cut-over never got its lock; everything is kept for another try.
    NoLock,
    /// Another runner works on this migration.
    Busy,
    /// Stopped resumably.
    Paused,
    /// Interrupted; resumable.
    Interrupted,
}

impl Exit {
    /// The process exit status.
    pub fn code(self) -> u8 {
        match self {
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Refused => 3,
            Exit::Differs => 4,
            Exit::NoLock => 5,
            Exit::Busy => 6,
            Exit::Paused => 75,
            Exit::Interrupted => 130,
        }
    }

    /// The word the report's `outcome` field uses.
    pub fn word(self) -> &'static str {
        match self {
            Exit::Failed => "failed",
            Exit::Usage => "usage",
            Exit::Refused => "refused",
            Exit::Differs => "differs",
            Exit::NoLock => "no lock",
            Exit::Busy => "busy",
            Exit::Paused => "paused",
            Exit::Interrupted => "interrupted",
        }
    }
}

/// One clear error, worded as PostgreSQL words its own: primary short and lower case, detail and hint in sentences.
#[derive(Debug, Clone)]
pub struct Failure {
    /// How the process ends.
    pub exit: Exit,
    /// Short, lower case, no full stop.
    pub primary: String,
    /// What was seen, in sentences.
    pub detail: Option<String>,
    /// What to do, in sentences.
    pub hint: Option<String>,
    /// Where a row belongs, where it is about one that has no partition in a series of them.
    pub unplaced: Option<Unplaced>,
    /// The server's error behind it, if any, so that callers can still ask for its SQLSTATE.
    pub source: Option<Box<crate::pg::Error>>,
}

/// The place of a row that has no partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unplaced {
    /// The level that has none for it.
    pub level: usize,
    /// What counts for its place in the series of that level, as text.
    pub place: String,
}

impl Failure {
    /// A failure with the given exit and primary message.
    pub fn new(exit: Exit, primary: impl Into<String>) -> Self {
        Failure { exit, primary: primary.into(), detail: None, hint: None, unplaced: None, source: None }
    }

    /// Exit 1.
    pub fn failed(primary: impl Into<String>) -> Self {
        Self::new(Exit::Failed, primary)
    }

    /// Exit 2.
    pub fn usage(primary: impl Into<String>) -> Self {
        Self::new(Exit::Usage, primary)
    }

    /// Exit 3.
    pub fn refused(primary: impl Into<String>) -> Self {
        Self::new(Exit::Refused, primary)
    }

    /// The same with another primary message.
    pub fn named(mut self, primary: impl Into<String>) -> Self {
        self.primary = primary.into();
        self
    }

    /// Whether it is about what was asked for, and not about what came between: see [`crate::pg::Error::is_judgement`].
    pub fn is_judgement(&self) -> bool {
        self.source.as_ref().is_none_or(|e| e.is_judgement())
    }

    /// Whether a row's value is to blame: see [`crate::pg::Error::is_data`].
    pub fn is_data(&self) -> bool {
        self.source.as_ref().is_some_and(|e| e.is_data())
    }

    /// Whether a privilege was missing.
    pub fn is_forbidden(&self) -> bool {
        self.source.as_ref().is_some_and(|e| e.is(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE))
    }

    /// Adds the detail.
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds the hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Keeps the server's error it comes from.
    pub fn caused_by(mut self, error: &crate::pg::Error) -> Self {
        self.source = Some(Box::new(error.clone()));
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.primary)
    }
}

impl std::error::Error for Failure {}

impl From<crate::pg::Error> for Failure {
    fn from(error: crate::pg::Error) -> Self {
        Failure {
            exit: Exit::Failed,
            primary: error.to_string(),
            detail: error.detail.clone(),
            hint: error.hint.clone(),
            unplaced: None,
            source: Some(Box::new(error)),
        }
    }
}
