//! The log: standard error for whoever reads the next morning what happened in the night.
//!
//! `--log-format` asks for it. What is said to people becomes lines of it, so few that those of a day can be read: one a
//! change of phase, one for what happens once, and how far it is every few minutes. What else the program has to say, such
//! as a connection that is tried again, comes between them; without the option that alone is shown. A line has no value of
//! a row in it, and nothing of a statement that somebody else runs.

use std::fmt::{self, Write as _};
use std::sync::{Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, filter, prelude::*};

use super::event::{Event, Phase};
use super::numbers::seconds;
use super::text;
use super::view::{Pace, View};
use crate::error::{Exit, Failure};

/// How often it is said how far a phase is: 240 lines in 20 hours.
const PROGRESS_EVERY: SignedDuration = SignedDuration::from_mins(5);

/// How often that something is held back. A signal near its threshold comes and goes twice a second.
const HELD_EVERY: SignedDuration = SignedDuration::from_mins(1);

/// How the log reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// A line of words.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where this process is, which every line says. A process has one log, and works on one migration at a time.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Events are logged.
    asked: bool,
    migration: Option<i64>,
    phase: Option<Phase>,
}

static PLACE: Mutex<Place> = Mutex::new(Place { asked: false, migration: None, phase: None });

fn place() -> Place {
    *PLACE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn move_on(step: impl FnOnce(&mut Place)) {
    step(&mut PLACE.lock().unwrap_or_else(PoisonError::into_inner));
}

/// Sets up the log of this process, once. `PGRECAST_LOG` says what is in it, in the filter syntax of `tracing`; libraries
/// never are, as they would show what a statement was given.
pub fn install(format: Option<LogFormat>) {
    move_on(|place| place.asked = format.is_some());
    let usual = if format.is_some() { "info" } else { "warn" };
    let asked = EnvFilter::try_from_env("PGRECAST_LOG").unwrap_or_else(|_| EnvFilter::new(usual));
    let ours = filter::filter_fn(|metadata| metadata.target().starts_with("pgrecast"));
    let lines = tracing_subscriber::fmt::layer()
        .event_format(Lines { format: format.unwrap_or(LogFormat::Text) })
        .with_ansi(false)
        .with_writer(std::io::stderr);
    tracing_subscriber::registry().with(asked).with(ours).with(lines).init();
}

/// Logs how the process ends, where a log was asked for; whether it did.
pub fn failed(failure: &Failure) -> bool {
    if !place().asked {
        return false;
    }
    let (message, detail, hint) = (primary(failure), detail(failure), failure.hint.as_deref());
    let exit = failure.exit.code();
    match failure.exit {
        Exit::Paused | Exit::Interrupted => tracing::warn!(exit, detail, hint, "{message}"),
        Exit::Failed | Exit::Usage | Exit::Refused | Exit::Differs | Exit::NoLock | Exit::Busy => {
            tracing::error!(exit, detail, hint, "{message}");
        }
    }
    true
}

/// What the server says of a value has the value in it.
fn primary(failure: &Failure) -> String {
    match &failure.source {
        Some(error) if error.is_data() => {
            let code = error.sqlstate.as_ref().map_or("unknown", |state| state.code());
            format!("{} (SQLSTATE {code})", before(&failure.primary, ": "))
        }
        Some(_) | None => failure.primary.clone(),
    }
}

/// Details of other ends name rows, or what others run.
fn detail(failure: &Failure) -> Option<&str> {
    match failure.exit {
        Exit::Paused | Exit::Interrupted | Exit::Busy | Exit::Usage => failure.detail.as_deref(),
        Exit::Failed | Exit::Refused | Exit::Differs | Exit::NoLock => None,
    }
}

/// The text up to this mark, where it has it.
fn before<'a>(text: &'a str, mark: &str) -> &'a str {
    text.split_once(mark).map_or(text, |(head, _)| head)
}

/// The same of a list of sessions: who it is, and not what they run.
pub(crate) fn who(text: &str) -> String {
    text.split_once("): ").map_or(text.to_owned(), |(head, _)| format!("{head})"))
}

/// A view that logs what it shows.
pub(super) struct Logged {
    shown: Box<dyn View>,
    words: Words,
}

impl Logged {
    pub(super) fn new(shown: Box<dyn View>) -> Self {
        Logged { shown, words: Words::new() }
    }
}

impl View for Logged {
    fn show(&mut self, at: Timestamp, event: &Event) {
        match event {
            Event::Started { id, .. } => move_on(|place| (place.migration, place.phase) = (Some(*id), None)),
            Event::PhaseBegan { phase } => move_on(|place| place.phase = Some(*phase)),
            _ => {}
        }
        if place().asked {
            match self.words.of(at, event) {
                Some((Level::WARN, message)) => tracing::warn!("{message}"),
                Some((_, message)) => tracing::info!("{message}"),
                None => {}
            }
        }
        self.shown.show(at, event);
    }

    fn end(&mut self) {
        self.shown.end();
    }
}

/// Which events are logged, and in which words.
struct Words {
    progress: Pace,
    held: Pace,
    ended: Option<(Phase, f64)>,
}

impl Words {
    fn new() -> Self {
        Words { progress: Pace::new(PROGRESS_EVERY), held: Pace::new(HELD_EVERY), ended: None }
    }

    fn of(&mut self, at: Timestamp, event: &Event) -> Option<(Level, String)> {
        let plain = || text::lines(event).into_iter().next().unwrap_or_default();
        let said = match event {
            Event::PhaseBegan { phase } => match self.ended.take() {
                Some((before, took)) => format!("{phase} begins, {before} took {}", seconds(took)),
                None => format!("{phase} begins"),
            },
            Event::PhaseEnded { phase, seconds } => {
                self.ended = Some((*phase, *seconds));
                return None;
            }
            Event::Progress(_) if self.progress.passes(at) => plain(),
            Event::Throttled { .. } if self.held.passes(at) => plain(),
            // How far it is tells as well whether it is held back.
            Event::Progress(_) | Event::Throttled { .. } | Event::Unthrottled => return None,
            Event::Waiting { .. } | Event::CutoverAttempt { .. } => who(&plain()),
            // Behind the colon stands what is to be done about, with its key and value.
            Event::Warning { text } => return Some((Level::WARN, before(text, ": ").to_owned())),
            Event::Started { .. }
            | Event::IndexBegan { .. }
            | Event::IndexEnded { .. }
            | Event::Notice { .. }
            | Event::VerifyResult { .. }
            | Event::CutOver { .. }
            | Event::Finished { .. } => plain(),
        };
        Some((Level::INFO, said))
    }
}

/// How a line is written.
struct Lines {
    format: LogFormat,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &tracing::Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        writeln!(out, "{}", line(self.format, Timestamp::now(), &level, place(), fields))
    }
}

#[derive(Serialize)]
struct Object<'a> {
    time: String,
    level: &'a str,
    migration: Option<i64>,
    phase: Option<Phase>,
    message: String,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// One line of the log.
fn line(format: LogFormat, at: Timestamp, level: &str, place: Place, fields: Fields) -> String {
    let Fields { message, others } = fields;
    match format {
        LogFormat::Json => {
            let object = Object {
                time: format!("{at:.3}"),
                level,
                migration: place.migration,
                phase: place.phase,
                message,
                others,
            };
            // Texts and numbers can be written.
            serde_json::to_string(&object).unwrap_or_default()
        }
        LogFormat::Text => {
            let mut out = format!("{at:.3} {level:<5}");
            if let Some(migration) = place.migration {
                let _ = write!(out, " migration {migration}");
            }
            if let Some(phase) = place.phase {
                let _ = write!(out, " {phase}");
            }
            let _ = write!(out, ": {message}");
            for (name, value) in others {
                let _ = write!(out, " {name}={value}");
            }
            text::printable(&out)
        }
    }
}

/// What an event of `tracing` has.
#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Fields {
    fn keep(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) => drop(self.others.insert(name.to_owned(), value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.keep(field, Value::from(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.keep(field, Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.keep(field, Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.keep(field, Value::from(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.keep(field, Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.keep(field, Value::from(value));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pg::Error;
    use crate::report::event::Progress;
    use crate::report::samples::{self, at};

    fn fields(message: &str) -> Fields {
        let others = Map::from_iter([("exit".to_owned(), json!(75)), ("hint".to_owned(), json!("Go\non."))]);
        Fields { message: message.to_owned(), others }
    }

    #[test]
    fn a_line_says_when_what_and_where() {
        let place = Place { asked: true, migration: Some(7), phase: Some(Phase::CatchUp) };
        let object = line(LogFormat::Json, at(1), "warn", place, fields("stopped"));
        let expected = json!({"time": "2026-11-03T12:00:01.000Z", "level": "warn", "migration": 7, "phase": "catch_up",
            "message": "stopped", "exit": 75, "hint": "Go\non."});
        assert_eq!(serde_json::from_str::<Value>(&object).expect("an object"), expected);
        let text = line(LogFormat::Text, at(1), "warn", place, fields("stopped\u{1b}"));
        let words = "2026-11-03T12:00:01.000Z warn  migration 7 catch up: stopped  exit=75 hint=\"Go\\non.\"";
        assert_eq!(text, words);
        let nowhere = Place { asked: true, migration: None, phase: None };
        let text = line(LogFormat::Text, at(1), "error", nowhere, Fields { others: Map::new(), ..fields("no") });
        assert_eq!(text, "2026-11-03T12:00:01.000Z error: no");
    }

    /// Twenty hours with a tick twice a second, and a signal that comes and goes as often.
    #[test]
    fn the_log_of_a_day_can_be_read() {
        let mut words = Words::new();
        let progress = Event::Progress(Progress { rows_done: Some(1), ..Progress::of(Phase::Copy) });
        let (mut lines, throttled) = (0, Event::Throttled { reason: "lag 11 s > 10 s".to_owned() });
        for second in 0..72_000 {
            for event in [&progress, &throttled, &progress, &Event::Unthrottled] {
                lines += u32::from(words.of(at(second), event).is_some());
            }
        }
        assert_eq!(lines, 20 * 12 + 20 * 60);
    }

    #[test]
    fn one_line_a_change_of_phase() {
        let mut words = Words::new();
        let mut said = |event: Event| words.of(at(0), &event).map(|(_, said)| said);
        assert_eq!(said(Event::PhaseBegan { phase: Phase::Copy }).as_deref(), Some("copy begins"));
        assert_eq!(said(Event::PhaseEnded { phase: Phase::Copy, seconds: 12.34 }), None);
        assert_eq!(said(Event::PhaseBegan { phase: Phase::Index }).as_deref(), Some("index begins, copy took 12.3 s"));
        let finished = Event::Finished { summary: Box::new(samples::summary()) };
        assert_eq!(said(finished).as_deref(), Some("done: alter public.orders in 12.3 s"));
    }

    #[test]
    fn neither_a_value_nor_what_others_run_is_logged() {
        let mut words = Words::new();
        let mut said = |event: Event| words.of(at(0), &event).map(|(_, said)| said).unwrap_or_default();
        let on = "pid 12 (active, open for 5 s): SELECT 'hush'; pid 13 (idle, open for 9 s): SELECT 'hush'".to_owned();
        assert_eq!(said(Event::Waiting { on: on.clone() }), "waiting for pid 12 (active, open for 5 s)");
        let attempt = Event::CutoverAttempt { number: 2, outcome: format!("blocked by {on}") };
        assert_eq!(said(attempt), "cut-over attempt 2: blocked by pid 12 (active, open for 5 s)");
        let warning = Event::Warning { text: "1 value does not convert (1 of v): id = 1: hush".to_owned() };
        assert_eq!(said(warning), "1 value does not convert (1 of v)");
        let error = Error {
            sqlstate: Some(tokio_postgres::error::SqlState::INVALID_TEXT_REPRESENTATION),
            detail: Some("hush".to_owned()),
            ..Error::client("copy chunk", "invalid input syntax for type integer: \"hush\"")
        };
        let failure =
            Failure::failed("row (id)=(1) of t cannot be converted: \"hush\"").detail("hush").caused_by(&error);
        assert_eq!(primary(&failure), "row (id)=(1) of t cannot be converted (SQLSTATE 22P02)");
        assert_eq!(primary(&Failure::from(error)), "copy chunk (SQLSTATE 22P02)");
        assert_eq!(detail(&failure), None);
    }
}
