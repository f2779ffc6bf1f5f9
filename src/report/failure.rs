//! A failure as it is told.

use jiff::Timestamp;
use serde::Serialize;

use super::{Format, json};
use crate::error::Failure;

#[derive(Serialize)]
struct Told<'a> {
    event: &'static str,
    exit: u8,
    primary: &'a str,
    detail: Option<&'a str>,
    hint: Option<&'a str>,
}

/// The failure without a line's end: in [`Format::Text`] for standard error, whatever the format of the run; in
/// [`Format::Json`] one more object for standard output, with the time of the failure.
pub fn render_failure(failure: &Failure, format: Format, at: Timestamp) -> String {
    match format {
        Format::Text => text(failure),
        Format::Json => object(failure, at),
    }
}

fn text(failure: &Failure) -> String {
    let parts = [("detail", &failure.detail), ("hint", &failure.hint)];
    let mut told = format!("error: {}", indented(&failure.primary));
    for (name, part) in parts {
        if let Some(part) = part {
            told.push_str(&format!("\n  {name}: {}", indented(part)));
        }
    }
    told
}

/// A detail may list findings line by line; a control character elsewhere must not steer the terminal.
fn indented(text: &str) -> String {
    text.trim_end().lines().map(super::text::printable).collect::<Vec<_>>().join("\n    ")
}

fn object(failure: &Failure, at: Timestamp) -> String {
    let told = Told {
        event: "error",
        exit: failure.exit.code(),
        primary: &failure.primary,
        detail: failure.detail.as_deref(),
        hint: failure.hint.as_deref(),
    };
    // serialising strings and a number cannot fail; the words would still be better than nothing
    json::line(at, &told).unwrap_or_else(|_| text(failure))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::report::samples::at;

    #[test]
    fn the_parts_stand_below_each_other() {
        let failure = Failure::refused("table public.t has no key")
            .detail("Two findings:\n- one\n- \u{1b}[2Jtwo\n")
            .hint("Add a primary key.");
        let expected = "error: table public.t has no key\n  detail: Two findings:\n    - one\n    -  [2Jtwo\n  \
                        hint: Add a primary key.";
        assert_eq!(render_failure(&failure, Format::Text, at(0)), expected);
        assert_eq!(render_failure(&Failure::failed("no"), Format::Text, at(0)), "error: no");
    }

    #[test]
    fn the_object_has_the_exit_and_every_part() {
        let failure = Failure::refused("no key").hint("Add one.");
        let told: Value = serde_json::from_str(&render_failure(&failure, Format::Json, at(0))).expect("JSON");
        let expected = json!({"event": "error", "time": "2026-11-03T12:00:00.000Z", "exit": 3, "primary": "no key",
            "detail": null, "hint": "Add one."});
        assert_eq!(told, expected);
    }
}
