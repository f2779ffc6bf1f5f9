//! What the demonstration keeps of what the migration says, while all of it goes on to be shown.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use crate::report::{Event, Format, Phase, Summary, View, on_stdout};

/// The moments and figures that the facts need.
#[derive(Debug, Default, Clone)]
pub struct Kept {
    /// When the swap was done: the answer to COMMIT, or just after it.
    pub swapped: Option<Timestamp>,
    /// How long the cut-over took as a phase, in seconds.
    pub cut_over: Option<f64>,
    /// The migration's last words.
    pub summary: Option<Box<Summary>>,
}

/// What is kept, shared with the thread that shows events.
#[derive(Debug, Default, Clone)]
pub struct Watch(Arc<Mutex<Kept>>);

impl Watch {
    /// What is said in that format to standard output. For people the facts take the place of the last words, which
    /// would tell them what to do on a server that is gone by then.
    pub fn on_stdout(&self, format: Format) -> Box<dyn View> {
        Box::new(Watched { view: on_stdout(format), watch: self.clone(), last_words: format == Format::Json })
    }

    /// What has been said so far.
    pub fn kept(&self) -> Kept {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, at: Timestamp, event: &Event) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Event::CutOver { .. } = event {
            kept.swapped = Some(at);
        }
        if let Event::PhaseEnded { phase: Phase::CutOver, seconds } = event {
            kept.cut_over = Some(*seconds);
        }
        if let Event::Finished { summary } = event {
            kept.summary = Some(summary.clone());
        }
    }
}

struct Watched {
    view: Box<dyn View>,
    watch: Watch,
    last_words: bool,
}

impl View for Watched {
    fn show(&mut self, at: Timestamp, event: &Event) {
        self.watch.note(at, event);
        if self.last_words || !matches!(event, Event::Finished { .. }) {
            self.view.show(at, event);
        }
    }

    fn end(&mut self) {
        self.view.end();
    }
}
