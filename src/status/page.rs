//! The state as the three answers there are. Pure.

use std::fmt::Write as _;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::state::State;
use crate::report::numbers::{bytes, count, seconds};

/// A gauge of any size.
type Number = Gauge<f64, std::sync::atomic::AtomicU64>;

/// One JSON object.
pub fn json(state: &State) -> String {
    // Texts and numbers can be written.
    serde_json::to_string(state).unwrap_or_default()
}

/// The text format that Prometheus reads.
pub fn metrics(state: &State) -> String {
    let mut registry = Registry::with_prefix("pgrecast");
    let mut gauge = |name: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            let number = Number::default();
            number.set(value);
            registry.register(name, help, number);
        }
    };
    let of = |number: Option<u64>| number.map(|n| n as f64);
    let yes = |it: bool| Some(f64::from(u8::from(it)));
    let report = &state.report;
    let progress = state.progress.as_ref();
    gauge("migration", "Number of the migration", report.id.map(|id| id as f64));
    gauge("running", "1 until the run is over", yes(report.outcome == "running"));
    gauge("throttled", "1 while work is held back", yes(state.throttled.is_some()));
    gauge("waiting", "1 while the run waits for somebody else", yes(state.waiting.is_some()));
    gauge("warnings", "Warnings so far", of(Some(state.warnings)));
    gauge("rows_copied", "Rows that the copy has written, while it lasts and at the end", of(report.rows_copied));
    gauge("phase_rows_done", "Rows done in this phase", of(progress.and_then(|p| p.rows_done)));
    gauge("phase_rows", "Rows to be done in this phase, an estimate", of(progress.and_then(|p| p.rows_total)));
    gauge("phase_left_seconds", "Time that this phase still takes", progress.and_then(|p| p.eta_seconds));
    gauge("backlog_keys", "Changed keys that wait for their flush", of(progress.and_then(|p| p.backlog_keys)));
    gauge("stream_lag_bytes", "WAL that the stream has still to bring", of(progress.and_then(|p| p.lag_bytes)));
    gauge("throttled_seconds", "How long work was held back", report.throttled_seconds.total);
    gauge("write_blocked_seconds", "How long writers waited for the swap", report.cutover.write_blocked);
    if let Some(phase) = state.phase {
        let phases = Family::<Vec<(String, String)>, Gauge>::default();
        phases.get_or_create(&vec![("phase".to_owned(), phase.words().to_owned())]).set(1);
        registry.register("phase", "What the run is at", phases);
    }
    let mut text = String::new();
    // A text can always be written to.
    let _ = encode(&mut text, &registry);
    text
}

/// A page for people, which shows itself again every two seconds.
pub fn html(state: &State) -> String {
    let report = &state.report;
    let mut rows = String::new();
    let mut row = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            let _ = write!(rows, "<tr><th>{name}</th><td>{}</td></tr>", escaped(&value));
        }
    };
    let progress = state.progress.as_ref();
    row("migration", report.id.map(|id| id.to_string()));
    row("command", Some(format!("{} {}", report.command, report.source.as_deref().unwrap_or_default())));
    row("outcome", Some(report.outcome.clone()));
    row("phase", state.phase.map(|phase| phase.words().to_owned()));
    row("done", progress.and_then(|p| p.fraction()).map(|share| format!("{:.0} %", share * 100.0)));
    row("left", progress.and_then(|p| p.eta_seconds).map(seconds));
    row("rows copied", report.rows_copied.map(count));
    row("backlog", progress.and_then(|p| p.backlog_keys).map(|keys| format!("{} keys", count(keys))));
    row("lag of the stream", progress.and_then(|p| p.lag_bytes).map(bytes));
    row("held back", state.throttled.clone());
    row("waits for", state.waiting.clone());
    row("writers waited", report.cutover.write_blocked.map(seconds));
    row("warnings", (state.warnings > 0).then(|| state.warnings.to_string()));
    format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"2\">\
         <title>pgrecast</title><style>body{{font:16px sans-serif;margin:2em}}th{{text-align:left;padding-right:2em}}</style>\
         </head><body><h1>pgrecast</h1><table>{rows}</table><p><a href=\"status\">status</a> <a href=\"metrics\">metrics</a></p>\
         </body></html>\n"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples::{self, at};

    fn state() -> State {
        let mut state = State::default();
        for event in samples::events().iter().take(4) {
            state.see(at(0), event);
        }
        state
    }

    #[test]
    fn metrics_read_as_prometheus_reads_them() {
        let text = metrics(&state());
        for line in ["pgrecast_migration 7.0", "pgrecast_running 1.0", "pgrecast_rows_copied 1200000.0"] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        assert!(text.contains("pgrecast_phase{phase=\"copy\"} 1") && text.ends_with("# EOF\n"), "{text}");
        assert!(text.contains("# TYPE pgrecast_backlog_keys gauge"), "{text}");
    }

    #[test]
    fn a_name_cannot_become_a_part_of_the_page() {
        let mut state = state();
        state.report.source = Some("public.\"<script>\"".to_owned());
        let page = html(&state);
        assert!(page.contains("public.&quot;&lt;script&gt;&quot;") && !page.contains("<script>"), "{page}");
        assert!(page.contains("<th>done</th><td>50 %</td>"), "{page}");
    }
}
