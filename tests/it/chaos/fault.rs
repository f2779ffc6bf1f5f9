//! What happens to a run.

use nix::sys::signal::Signal;
use rand::RngExt;
use rand::rngs::StdRng;

/// One of the things that happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The program gets a signal.
    Signal(Signal),
    /// The program stands still for a while.
    Freeze,
    /// A session of ours is ended; which of them, by a number.
    EndSession(u32),
    /// What a session of ours is doing is cancelled.
    CancelSession(u32),
    /// The server crashes and comes back.
    Crash,
    /// Every connection of the program breaks.
    Cut,
    /// Nothing passes between the program and the server for a while.
    Stall,
    /// A transaction that has written stays open.
    IdleWriter,
    /// A transaction that has read stays open.
    LongReader,
    /// Somebody locks the table for a moment.
    Lock,
    /// The application empties the table.
    Truncate,
    /// A prepared transaction that has written stays open.
    Prepare,
    /// Whoever has a transaction open ends it.
    LetGo,
    /// Somebody breaks what the migration rests on.
    Spoil(Spoil),
}

/// What a migration may not outlive: then it can be aborted, or finished after the swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoil {
    /// VACUUM FULL of the table: harmless once it is copied.
    Rewrite,
    /// The publication is dropped.
    Publication,
    /// The slot is.
    Slot,
}

impl Fault {
    /// Any of them.
    pub fn random(rng: &mut StdRng) -> Fault {
        match rng.random_range(0..100) {
            0..15 => Fault::Signal(Signal::SIGKILL),
            15..20 => Fault::Signal(Signal::SIGTERM),
            20..25 => Fault::Signal(Signal::SIGINT),
            25..30 => Fault::Freeze,
            30..45 => Fault::EndSession(rng.random()),
            45..50 => Fault::CancelSession(rng.random()),
            50..60 => Fault::Crash,
            60..67 => Fault::Cut,
            67..73 => Fault::Stall,
            73..77 => Fault::IdleWriter,
            77..79 => Fault::Prepare,
            79..83 => Fault::LongReader,
            83..87 => Fault::Lock,
            87..91 => Fault::Truncate,
            91..95 => Fault::LetGo,
            95..97 => Fault::Spoil(Spoil::Rewrite),
            97 => Fault::Spoil(Spoil::Publication),
            _ => Fault::Spoil(Spoil::Slot),
        }
    }

    /// Whether a run that meets it may end without being done.
    pub fn may_end_a_run(self) -> bool {
        match self {
            Fault::Signal(_) | Fault::EndSession(_) | Fault::CancelSession(_) | Fault::Crash | Fault::Cut => true,
            // The cut-over gives up where it never gets its lock, and a server drops a client that does not answer.
            Fault::Freeze | Fault::Stall | Fault::IdleWriter | Fault::Prepare | Fault::LongReader | Fault::Lock => true,
            Fault::Spoil(_) => true,
            Fault::Truncate | Fault::LetGo => false,
        }
    }
}
