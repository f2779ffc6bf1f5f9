//! A live terminal: what happened scrolls by, and below it the phase that is going on has a bar and a line for its pace.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;

use super::event::{Event, Phase, Progress};
use super::text;
use super::view::View;

/// The bar's length in steps: tenths of a percent are as fine as eyes are.
const STEPS: u64 = 1_000;

const WITH_BAR: &str = "{prefix:>9} {bar:20} {percent:>3}% {wide_msg}";
const WITHOUT_BAR: &str = "{prefix:>9} {wide_msg}";
/// Below the bar, so that a terminal of eighty columns still shows what holds the phase back.
const PACE: &str = "          {wide_msg}";

/// Text with two lines at the bottom that move.
pub struct Terminal {
    screen: MultiProgress,
    live: Option<Live>,
}

/// The phase that is going on.
struct Live {
    phase: Phase,
    bar: ProgressBar,
    pace: ProgressBar,
    /// Whether the style is the one with a bar: only once a total is known.
    measured: bool,
}

impl Terminal {
    /// Standard output.
    pub fn stdout() -> Self {
        Self::new(ProgressDrawTarget::stdout())
    }

    fn new(target: ProgressDrawTarget) -> Self {
        Terminal { screen: MultiProgress::with_draw_target(target), live: None }
    }

    /// A terminal that is gone must not end the run, so what cannot be printed is lost.
    fn print(&self, event: &Event) {
        for line in text::lines(event) {
            let _ = self.screen.println(line);
        }
    }

    fn begin(&mut self, phase: Phase) {
        self.clear();
        let bar = self.screen.add(ProgressBar::new(STEPS));
        bar.set_style(style(WITHOUT_BAR));
        bar.set_prefix(phase.words());
        bar.set_message("begins");
        let pace = self.screen.add(ProgressBar::new(STEPS));
        pace.set_style(style(PACE));
        self.live = Some(Live { phase, bar, pace, measured: false });
    }

    fn clear(&mut self) {
        if let Some(live) = self.live.take() {
            live.bar.finish_and_clear();
            live.pace.finish_and_clear();
            self.screen.remove(&live.bar);
            self.screen.remove(&live.pace);
        }
    }

    fn message(&self, event: &Event) {
        match &self.live {
            Some(live) => live.pace.set_message(text::lines(event).join(" ")),
            None => self.print(event),
        }
    }
}

impl Live {
    /// A tick of a phase that has ended comes too late to mean anything.
    fn advance(&mut self, progress: &Progress) {
        if progress.phase != self.phase {
            return;
        }
        self.bar.set_message(text::done(progress));
        self.pace.set_message(text::pace(progress));
        if let Some(fraction) = progress.fraction() {
            if !self.measured {
                self.measured = true;
                self.bar.set_style(style(WITH_BAR));
            }
            self.bar.set_position((fraction * STEPS as f64) as u64);
        }
    }
}

/// The templates above are constants that a test reads, so the fallback is never seen.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl View for Terminal {
    fn show(&mut self, _: Timestamp, event: &Event) {
        match event {
            Event::PhaseBegan { phase } => self.begin(*phase),
            Event::Progress(progress) => {
                if let Some(live) = &mut self.live {
                    live.advance(progress);
                }
            }
            // these last a while and end by themselves: the next progress overwrites them
            Event::Throttled { .. } | Event::Unthrottled | Event::Waiting { .. } | Event::IndexBegan { .. } => {
                self.message(event);
            }
            Event::PhaseEnded { .. } | Event::Finished { .. } => {
                self.clear();
                self.print(event);
            }
            Event::Started { .. }
            | Event::IndexEnded { .. }
            | Event::CutoverAttempt { .. }
            | Event::Notice { .. }
            | Event::Warning { .. }
            | Event::VerifyResult { .. }
            | Event::CutOver { .. } => self.print(event),
        }
    }

    fn end(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use indicatif::TermLike;

    use super::*;
    use crate::report::samples::{self, Shared, at};

    /// Keeps all that is written, with no regard to where the cursor is.
    #[derive(Debug)]
    struct Paper(Shared);

    impl TermLike for Paper {
        fn width(&self) -> u16 {
            200
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            self.0.push(text);
            self.0.push("\n");
            Ok(())
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.push(text);
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            self.0.push("\n");
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn shown(events: &[Event]) -> String {
        let shared = Shared::default();
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(Paper(shared.clone())), 255);
        let mut terminal = Terminal::new(target);
        for event in events {
            terminal.show(at(0), event);
        }
        terminal.end();
        shared.text()
    }

    #[test]
    fn the_templates_are_well_formed() {
        for template in [WITH_BAR, WITHOUT_BAR, PACE] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn what_happened_is_printed_and_what_goes_on_is_in_the_bar() {
        let text = shown(&samples::events());
        for part in [
            "alter public.orders on PostgreSQL 15.4",
            "     copy begins",
            "copy: done in 12.3 s",
            "cut-over attempt 2",
            "warning: the slot",
            "swapped: writers waited 12 ms",
            "drop it with: pgrecast finish 7",
        ] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
    }

    #[test]
    fn a_bar_appears_once_there_is_a_total() {
        let began = Event::PhaseBegan { phase: Phase::Copy };
        let unmeasured = Event::Progress(Progress { detail: Some("settling".to_owned()), ..Progress::of(Phase::Copy) });
        assert!(!shown(&[began.clone(), unmeasured]).contains('%'));
        let text = shown(&[began, samples::progress()]);
        assert!(text.contains("50% block 64 of 128, 1.2 M of 3.0 M rows"), "{text}");
    }

    #[test]
    fn a_late_tick_of_another_phase_is_not_shown() {
        let text = shown(&[Event::PhaseBegan { phase: Phase::Verify }, samples::progress()]);
        assert!(!text.contains("rows"), "{text}");
    }
}
