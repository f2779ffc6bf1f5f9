//! Where a run is, from what it says. Pure.

use jiff::Timestamp;
use serde::Serialize;

use crate::report::{Event, Phase, Progress, Report};

/// What is served: the report as far as it has come, and what the run is at.
#[derive(Debug, Clone, Default, Serialize)]
pub struct State {
    /// What the run is at.
    pub phase: Option<Phase>,
    /// Since when, RFC 3339.
    pub since: Option<String>,
    /// How far it is.
    pub progress: Option<Progress>,
    /// Why it is held back, while it is.
    pub throttled: Option<String>,
    /// What it waits for.
    pub waiting: Option<String>,
    /// Warnings so far.
    pub warnings: u64,
    /// The old table, once the tables are swapped.
    pub old_table: Option<String>,
    /// What it has done; `outcome` is `running` until it is over.
    pub report: Report,
    #[serde(skip)]
    held_since: Option<Timestamp>,
}

impl State {
    /// Takes up what was said at that time.
    pub fn see(&mut self, at: Timestamp, event: &Event) {
        match event {
            Event::Started { id, command, source, server_version, .. } => {
                *self = State::default();
                self.report = Report {
                    id: Some(*id),
                    command: command.clone(),
                    source: Some(source.clone()),
                    outcome: "running".to_owned(),
                    server_version: Some(server_version.clone()),
                    ..Report::default()
                };
            }
            Event::PhaseBegan { phase } => {
                // The last tick was before the last row: the end tells how many there were.
                self.report.rows_copied = None;
                self.phase = Some(*phase);
                self.since = Some(at.to_string());
                (self.progress, self.waiting) = (None, None);
            }
            Event::PhaseEnded { phase, seconds } => self.took(*phase, *seconds),
            // A tick of a phase that has ended comes too late to mean anything.
            Event::Progress(progress) if self.phase == Some(progress.phase) => {
                if progress.phase == Phase::Copy {
                    self.report.rows_copied = progress.rows_done;
                }
                self.progress = Some(progress.clone());
            }
            Event::Progress(_) => {}
            Event::Throttled { reason } => {
                self.throttled = Some(reason.clone());
                self.held_since = Some(at);
            }
            Event::Unthrottled => self.let_go(at),
            Event::Waiting { on } => self.waiting = Some(crate::report::log::who(on)),
            Event::Warning { .. } => self.warnings += 1,
            Event::CutoverAttempt { number, .. } => self.report.cutover.attempts = Some(*number),
            Event::VerifyResult { rows_compared, differences, rechecked } => {
                self.report.verify.rows_compared = Some(*rows_compared);
                self.report.verify.differences = Some(*differences);
                self.report.verify.rechecked = Some(*rechecked);
            }
            Event::CutOver { lock_wait, write_blocked, final_keys } => {
                self.report.cutover.lock_wait = Some(*lock_wait);
                self.report.cutover.write_blocked = Some(*write_blocked);
                self.report.cutover.final_keys = Some(*final_keys);
            }
            Event::Finished { summary } => {
                self.report = summary.report.clone();
                self.old_table.clone_from(&summary.old_table);
                (self.progress, self.waiting, self.throttled) = (None, None, None);
            }
            Event::IndexBegan { .. } | Event::IndexEnded { .. } | Event::Notice { .. } => {}
        }
    }

    fn took(&mut self, phase: Phase, seconds: f64) {
        let all = &mut self.report.seconds;
        let field = match phase {
            Phase::Prepare => &mut all.prepare,
            Phase::Copy => &mut all.copy,
            Phase::Index => &mut all.index,
            Phase::CatchUp => &mut all.catch_up,
            Phase::Verify => &mut all.verify,
            Phase::Ready => &mut all.ready,
            Phase::Preflight | Phase::CutOver | Phase::Keep | Phase::Done => return,
        };
        *field = Some(field.unwrap_or(0.0) + seconds);
    }

    fn let_go(&mut self, at: Timestamp) {
        let (Some(reason), Some(since)) = (self.throttled.take(), self.held_since.take()) else { return };
        let signal = reason.split(' ').next().unwrap_or_default().trim_end_matches(':').to_owned();
        let seconds = at.duration_since(since).as_secs_f64().max(0.0);
        let held = &mut self.report.throttled_seconds;
        *held.by_reason.entry(signal).or_default() += seconds;
        held.total = Some(held.total.unwrap_or(0.0) + seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples::{self, at};

    fn after(events: &[Event]) -> State {
        let mut state = State::default();
        for (second, event) in (0..).zip(events) {
            state.see(at(second), event);
        }
        state
    }

    #[test]
    fn it_knows_what_was_said() {
        // All but the last words.
        let mut events = samples::events();
        let finished = events.pop().expect("the last one");
        let state = after(&events);
        assert_eq!((state.report.id, state.report.outcome.as_str()), (Some(7), "running"));
        assert_eq!(state.phase, Some(Phase::Copy));
        assert_eq!(state.report.rows_copied, Some(1_200_000));
        assert_eq!(state.report.seconds.copy, Some(12.34));
        assert_eq!(state.report.throttled_seconds.total, Some(1.0));
        assert_eq!(state.report.cutover.write_blocked, Some(0.012));
        assert_eq!((state.warnings, state.throttled), (1, None));
        events.push(finished);
        assert_eq!(after(&events).report, samples::summary().report);
    }

    #[test]
    fn what_others_run_is_not_served() {
        let on = "pid 12 (active, open for 5 s): SELECT 'hush'".to_owned();
        let state = after(&[Event::Waiting { on }]);
        assert_eq!(state.waiting.as_deref(), Some("pid 12 (active, open for 5 s)"));
    }
}
