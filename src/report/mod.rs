//! Everything that is said: one type of [`Event`], and the ways to show it.
//!
//! The engine says events to a [`Reporter`], whose own thread shows them: on a live terminal, as plain lines, or as JSON
//! lines. At the end a [`Report`] goes to a file where one was asked for.

mod event;
mod failure;
mod file;
mod json;
mod lines;
pub mod log;
pub mod numbers;
mod reporter;
#[cfg(test)]
pub(crate) mod samples;
mod summary;
mod table;
mod terminal;
mod text;
mod view;

pub use event::{Event, Phase, Progress};
pub use failure::render_failure;
pub use file::{
    CutoverFigures, PhaseSeconds, Report, Summary, ThrottledSeconds, Unconverted, VerifyFigures, peak_rss_bytes,
};
pub use json::Json;
pub use lines::Lines;
pub use log::LogFormat;
pub use reporter::{Reporter, on_stdout};
pub use table::{MigrationRow, migrations};
pub use terminal::Terminal;
pub use view::View;

/// How standard output reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
