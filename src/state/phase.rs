//! What a migration does next, as the control schema keeps it, and the only legal steps. Pure.

use std::fmt;
use std::str::FromStr;

/// The phase a migration is in: what the next runner does first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The plan is kept; shadow, publication and slot may exist in part.
    Prepare,
    /// Block ranges go to the shadow.
    Copy,
    /// Indexes are built.
    Index,
    /// The journal is flushed; verification has not passed.
    CatchUp,
    /// Verification has passed or was not asked for; in step until the cut-over.
    Ready,
    /// The tables are swapped; what is ours besides the old table is still there.
    Swapped,
    /// The old table follows the new one, until the rollback window ends.
    Keep,
    /// Swapped back; what is ours besides the new table is still there.
    SwappedBack,
    /// Only the old table and the control row are left.
    Complete,
    /// The same after a rollback: only the new table and the control row are left.
    RolledBack,
    /// Verification found a difference: abort is all that is left.
    Differs,
    /// It found one in the rollback window: the old table is followed no more, and finish is all that is left.
    NoWayBack,
}

impl Phase {
    /// Every phase, in order.
    pub const ALL: [Phase; 12] = [
        Phase::Prepare,
        Phase::Copy,
        Phase::Index,
        Phase::CatchUp,
        Phase::Ready,
        Phase::Swapped,
        Phase::Keep,
        Phase::SwappedBack,
        Phase::Complete,
        Phase::RolledBack,
        Phase::Differs,
        Phase::NoWayBack,
    ];

    /// The word the control schema keeps.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Prepare => "prepare",
            Phase::Copy => "copy",
            Phase::Index => "index",
            Phase::CatchUp => "catch up",
            Phase::Ready => "ready",
            Phase::Swapped => "swapped",
            Phase::Keep => "keep in step",
            Phase::SwappedBack => "swapped back",
            Phase::Complete => "complete",
            Phase::RolledBack => "rolled back",
            Phase::Differs => "differs",
            Phase::NoWayBack => "no way back",
        }
    }

    /// Whether `next` may follow.
    pub fn may_become(self, next: Phase) -> bool {
        use Phase as P;
        match (self, next) {
            (P::Prepare, P::Copy)
            | (P::Copy, P::Index)
            | (P::Index, P::CatchUp)
            | (P::CatchUp, P::Ready)
            | (P::CatchUp, P::Differs)
            | (P::Ready, P::Differs)
            | (P::Ready, P::Swapped)
            | (P::Swapped, P::Keep | P::Complete)
            | (P::Keep, P::SwappedBack | P::Complete | P::NoWayBack)
            | (P::SwappedBack, P::RolledBack) => true,
            (P::Prepare | P::Copy | P::Index | P::CatchUp | P::Ready | P::Differs, _)
            | (P::Swapped | P::Keep | P::SwappedBack | P::Complete | P::RolledBack | P::NoWayBack, _) => false,
        }
    }

    /// Whether the source still is the table the application uses.
    pub fn is_before_swap(self) -> bool {
        match self {
            Phase::Prepare | Phase::Copy | Phase::Index | Phase::CatchUp | Phase::Ready | Phase::Differs => true,
            Phase::Swapped | Phase::Keep | Phase::SwappedBack | Phase::Complete | Phase::RolledBack => false,
            Phase::NoWayBack => false,
        }
    }

    /// Whether nothing is left to do but `finish`.
    pub fn is_last(self) -> bool {
        match self {
            Phase::Complete | Phase::RolledBack => true,
            Phase::Prepare | Phase::Copy | Phase::Index | Phase::CatchUp | Phase::Ready | Phase::Differs => false,
            Phase::Swapped | Phase::Keep | Phase::SwappedBack | Phase::NoWayBack => false,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Phase {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Phase::ALL.into_iter().find(|p| p.word() == text).ok_or_else(|| format!("unknown phase {text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_back() {
        for phase in Phase::ALL {
            assert_eq!(phase.word().parse(), Ok(phase));
        }
    }

    #[test]
    fn nothing_leads_back_and_nothing_leads_out_of_the_last() {
        for (i, a) in Phase::ALL.into_iter().enumerate() {
            for b in &Phase::ALL[..=i] {
                assert!(!a.may_become(*b), "{a} to {b}");
            }
            for last in [Phase::Differs, Phase::NoWayBack, Phase::Complete, Phase::RolledBack] {
                assert!(!last.may_become(a), "{last} to {a}");
            }
        }
    }
}
