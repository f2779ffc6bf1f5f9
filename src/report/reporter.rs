//! From the engine to the render thread, so that a slow terminal never slows a migration.
//!
//! What happened must be shown, and there is little of it: it goes through a channel without a bound. Progress is said
//! often and only the latest matters: it goes through a short channel, and where that is full the oldest is dropped.
//! Each event carries a number that tells in which order they were said, and the render thread shows what it finds in
//! that order.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, select, unbounded};
use jiff::Timestamp;

use super::Format;
use super::event::Event;
use super::json::Json;
use super::lines::Lines;
use super::log::Logged;
use super::terminal::Terminal;
use super::view::View;

/// Ticks that may wait for the render thread. More would only be shown late.
const TICKS: usize = 8;

/// Where time comes from.
type Clock = dyn Fn() -> Timestamp + Send + Sync;

/// An event with the time and the order in which it was said.
struct Said {
    order: u64,
    at: Timestamp,
    event: Event,
}

/// What happened, or `None` where nothing more will.
type Milestone = Option<Said>;

/// The one who is told everything. Cheap to clone; every clone speaks to the same render thread.
#[derive(Clone)]
pub struct Reporter {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Box<Clock>,
    order: AtomicU64,
    milestones: Sender<Milestone>,
    ticks: Sender<Said>,
    /// The render thread's own end of `ticks`, to take the oldest from where it is full.
    waiting_ticks: Receiver<Said>,
    /// Disconnected once the render thread is gone.
    ended: Receiver<()>,
}

impl Reporter {
    /// Standard output in that format.
    pub fn stdout(format: Format) -> io::Result<Self> {
        Self::new(on_stdout(format), Timestamp::now)
    }

    /// That view, with times from that clock. An error is the system's, where it has no thread to give.
    pub fn new(view: Box<dyn View>, clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> io::Result<Self> {
        let (milestones, milestones_out) = unbounded();
        let (ticks, ticks_out) = bounded(TICKS);
        let (alive, ended) = bounded(0);
        let waiting_ticks = ticks_out.clone();
        thread::Builder::new().name("render".to_owned()).spawn(move || {
            render(Box::new(Logged::new(view)), &milestones_out, &ticks_out);
            drop(alive);
        })?;
        let order = AtomicU64::new(0);
        let shared = Shared { clock: Box::new(clock), order, milestones, ticks, waiting_ticks, ended };
        Ok(Reporter { shared: Arc::new(shared) })
    }

    /// Says it. Never waits; said after [`Reporter::finish`], it is not heard.
    pub fn say(&self, event: Event) {
        let order = self.shared.order.fetch_add(1, Ordering::Relaxed);
        let said = Said { order, at: (self.shared.clock)(), event };
        if said.event.is_tick() {
            self.shared.tick(said);
        } else {
            // refused only by a render thread that has ended
            let _ = self.shared.milestones.send(Some(said));
        }
    }

    /// Waits until all that was said is shown, no longer than `deadline`. False where it was not: the terminal takes no
    /// more, and the run ends without it.
    pub fn finish(&self, deadline: Duration) -> bool {
        // refused only by a render thread that has ended, which is what this waits for
        let _ = self.shared.milestones.send(None);
        let answer = self.shared.ended.recv_timeout(deadline);
        matches!(answer, Err(crossbeam_channel::RecvTimeoutError::Disconnected))
    }
}

/// Standard output in that format: a live terminal where it is one, plain lines where not.
pub fn on_stdout(format: Format) -> Box<dyn View> {
    match format {
        Format::Json => Box::new(Json::new(Box::new(io::stdout()))),
        Format::Text if io::stdout().is_terminal() => Box::new(Terminal::stdout()),
        Format::Text => Box::new(Lines::new(Box::new(io::stdout()))),
    }
}

impl Shared {
    /// Two threads that speak at once may each drop one: what is then lost is as old.
    fn tick(&self, said: Said) {
        if let Err(TrySendError::Full(said)) = self.ticks.try_send(said) {
            let _ = self.waiting_ticks.try_recv();
            let _ = self.ticks.try_send(said);
        }
    }
}

/// The render thread. It takes ticks before milestones, as whatever happened before a tick has then arrived; a tick that
/// comes after a later milestone was shown is out of date.
fn render(mut view: Box<dyn View>, milestones: &Receiver<Milestone>, ticks: &Receiver<Said>) {
    let mut shown = 0;
    let mut ended = false;
    while !ended {
        let mut batch = Vec::new();
        select! {
            recv(milestones) -> milestone => match milestone {
                Ok(Some(said)) => batch.push(said),
                Ok(None) | Err(_) => ended = true,
            },
            recv(ticks) -> tick => batch.extend(tick),
        }
        // no more than what waits by now: a batch must end even where the engine speaks faster than this takes
        batch.extend(ticks.try_iter().take(TICKS));
        for milestone in milestones.try_iter().take(milestones.len()) {
            ended |= milestone.is_none();
            batch.extend(milestone);
        }
        batch.sort_by_key(|said| said.order);
        for said in batch.iter().filter(|said| said.order >= shown || !said.event.is_tick()) {
            view.show(said.at, &said.event);
        }
        shown = batch.last().map_or(shown, |last| shown.max(last.order));
    }
    view.end();
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use serde_json::Value;

    use super::*;
    use crate::report::event::{Phase, Progress};
    use crate::report::samples::{Shared as Page, at};

    const LONG: Duration = Duration::from_secs(30);

    /// A terminal that takes nothing until the other end of its channel is dropped.
    struct Stuck {
        released: Receiver<()>,
        page: Page,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.released.recv();
            self.page.clone().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn tick(rows: u64) -> Event {
        Event::Progress(Progress { rows_done: Some(rows), ..Progress::of(Phase::Copy) })
    }

    fn notice(number: u64) -> Event {
        Event::Notice { text: number.to_string() }
    }

    /// A clock in which each event comes an hour after the one before, so that no pace holds anything back.
    fn slow_clock() -> impl Fn() -> Timestamp + Send + Sync {
        let hours = AtomicU64::new(0);
        move || at(3_600 * hours.fetch_add(1, Ordering::Relaxed) as i64)
    }

    fn objects(page: &Page) -> Vec<Value> {
        page.lines().iter().map(|line| serde_json::from_str(line).expect("an object")).collect()
    }

    #[test]
    fn a_stuck_terminal_neither_slows_the_engine_nor_loses_what_happened() {
        let page = Page::default();
        let (release, released) = bounded(0);
        let view = Json::new(Box::new(Stuck { released, page: page.clone() }));
        let reporter = Reporter::new(Box::new(view), slow_clock()).expect("a thread");

        reporter.say(notice(0));
        for number in 1..=10_000 {
            reporter.say(tick(number));
            if number % 1_000 == 0 {
                reporter.say(notice(number));
            }
        }
        assert!(!reporter.finish(Duration::from_millis(1)), "nothing can have been shown yet");
        drop(release);
        assert!(reporter.finish(LONG));

        let shown = objects(&page);
        let notices: Vec<&Value> = shown.iter().filter_map(|object| object.get("text")).collect();
        assert_eq!(notices, ["0", "1000", "2000", "3000", "4000", "5000", "6000", "7000", "8000", "9000", "10000"]);
        let ticks: Vec<u64> = shown.iter().filter_map(|object| object.get("rows_done")?.as_u64()).collect();
        assert!(ticks.len() <= 4 * TICKS, "{ticks:?}");
        assert_eq!(ticks.last(), Some(&10_000), "the latest is what matters");
    }

    #[test]
    fn what_was_said_is_shown_in_that_order() {
        let page = Page::default();
        let reporter = Reporter::new(Box::new(Json::new(Box::new(page.clone()))), slow_clock()).expect("a thread");
        for number in 0..1_000 {
            reporter.say(tick(number));
            reporter.say(notice(number));
        }
        assert!(reporter.finish(LONG));
        let times: Vec<String> = objects(&page).iter().map(|object| object["time"].to_string()).collect();
        assert!(times.is_sorted(), "{times:?}");
    }

    #[test]
    fn what_is_said_after_the_end_is_not_heard() {
        let page = Page::default();
        let reporter = Reporter::new(Box::new(Json::new(Box::new(page.clone()))), slow_clock()).expect("a thread");
        let other = reporter.clone();
        assert!(reporter.finish(LONG));
        other.say(notice(1));
        for number in 0..100 {
            other.say(tick(number));
        }
        assert!(other.finish(LONG), "it has ended already");
        assert_eq!(page.text(), "");
    }

    #[test]
    fn a_view_that_panics_does_not_hold_up_the_end() {
        struct Broken;

        impl View for Broken {
            fn show(&mut self, _: Timestamp, _: &Event) {
                panic!("as asked for by the test");
            }

            fn end(&mut self) {}
        }

        let reporter = Reporter::new(Box::new(Broken), Timestamp::now).expect("a thread");
        reporter.say(notice(1));
        assert!(reporter.finish(LONG));
    }

    #[test]
    fn a_reporter_goes_wherever_the_engine_does() {
        fn assert<T: Clone + Send + Sync + 'static>() {}
        assert::<Reporter>();
    }
}
