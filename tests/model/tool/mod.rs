//! The tool: one process with its memory. What it decides it decides with the code of the crate wherever that is pure;
//! what it does, it does to the modelled server.

pub mod copy;
pub mod flusher;
pub mod follower;
pub mod reader;
pub mod spine;
mod turn;

use pgrecast::stream::Key;

use crate::dice::Dice;
use crate::server::Server;
use copy::Copy;
use follower::Follower;
use spine::Spine;

/// A rule that the tool breaks, to see that the model notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    Nothing,
    /// Rule 1: possibly new rows are copied as old ones are.
    CopiesNewRows,
    /// Rule 2: the copy begins as soon as the slot exists.
    DoesNotSettle,
    /// Rule 3: the progress row is committed after the rows.
    ProgressAfterRows,
    /// Rule 3: the progress row is committed ahead of the rows.
    ProgressBeforeRows,
    /// Rule 4: the follower flushes from the start.
    FlushesDuringCopy,
    /// Rule 5: every flush counts as having seen the last change.
    RetiresUnseen,
    /// Rule 5: of the transactions that changed a key the one with the highest number counts, not the last to commit.
    CountsHighestXid,
    /// Rule 6: a key may be in two flushes.
    TwoFlushersOnOneKey,
    /// Rule 8: of a key change only the new key is journaled.
    DropsOldKeys,
    /// Rule 8: TRUNCATE is passed over.
    IgnoresTruncate,
    /// Rule 9: what is received is acknowledged.
    AcknowledgesReceived,
    /// Rule 9: what is committed is acknowledged, on disk or not.
    AcknowledgesCommitted,
    /// Rule 9: what is remembered of commits outlives a crash of the server.
    TrustsMemory,
}

/// Why a run of the tool ends.
#[derive(Debug)]
pub enum Ended {
    /// Another run goes on.
    Again(&'static str),
    /// The migration is wrong.
    Wrong(String),
}

pub type Done = Result<Option<&'static str>, Ended>;

/// How many copy workers and flushers there are.
pub const JOBS: usize = 2;

pub struct Tool {
    pub broken: Broken,
    /// The life of the server in which the session that holds the lease was opened.
    lease: u32,
    spine: Spine,
    copy: Copy,
    follower: Option<Follower>,
}

impl Tool {
    /// A run that begins now. What an earlier one left at work is ended.
    pub fn start(server: &mut Server, broken: Broken) -> Tool {
        server.readers = 0;
        Tool { broken, lease: server.life, spine: Spine::Begin, copy: Copy::default(), follower: None }
    }

    /// Whether the tables are swapped.
    pub fn is_done(&self) -> bool {
        matches!(self.spine, Spine::Done)
    }

    /// The process dies. What it had sent to the server as a whole is still carried out, or is not.
    pub fn kill(mut self, server: &mut Server, dice: &mut Dice) -> Result<(), Ended> {
        if self.lease == server.life {
            self.spine.kill(server, dice)?;
            self.copy.kill(server, self.broken, dice);
            if let Some(mut follower) = self.follower.take() {
                follower.kill(server, dice)?;
            }
        }
        server.readers = 0;
        Ok(())
    }

    /// The process leaves in order: what is received is journaled and acknowledged first.
    pub fn leave(mut self, server: &mut Server, dice: &mut Dice) -> Result<(), Ended> {
        if let Some(follower) = &mut self.follower {
            follower.leave(server, dice)?;
        }
        self.kill(server, dice)
    }

    /// What it is at, for whoever reads a schedule.
    pub fn shown(&self) -> String {
        let follower = self.follower.as_ref().map(Follower::shown).unwrap_or_default();
        format!("{:?}; {follower}", self.spine)
    }

    /// Whether the session that holds the lease lives.
    pub fn is_leased(&self, server: &Server) -> bool {
        self.lease == server.life
    }
}

/// A key as the crate has it.
pub fn key(number: u8) -> Key {
    Key::new([number.to_string().as_str()]).expect("a key")
}

/// And back.
pub fn number(key: &Key) -> u8 {
    key.columns().next().and_then(|text| text.parse().ok()).expect("a key of the model")
}
