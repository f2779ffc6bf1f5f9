//! The spine: prepare, copy, index, catch up, cut over, each step of it a step of the schedule.

use std::time::Duration;

use pgrecast::cutover::gate::{self, Blocker, Decision, Seen};
use pgrecast::state::Phase;
use pgrecast::stream::Key;

use super::flusher::final_writes;
use super::follower::{Follower, Waiter};
use super::{Broken, Done, Ended, Tool};
use crate::dice::Dice;
use crate::server::Server;
use crate::slot::Slot;
use crate::tables::Redo;

/// Where the run is. Numbers are barriers that it waits for.
#[derive(Debug)]
pub enum Spine {
    Begin,
    ReadX0,
    /// The slot waits for transactions: for those of a first look, then for those of a second.
    MakeSlot {
        x0: u32,
        looks: u32,
        open: Vec<u64>,
    },
    Settle {
        x0: u32,
        open: Option<Vec<(usize, u32)>>,
    },
    Follow,
    Copy,
    /// The source's file was another one: whatever was committed before is received first.
    Receive(u32),
    Index,
    CatchUp,
    InStep(u32),
    Look,
    Looked(u32),
    Hurried(u32),
    Quiet,
    /// The lock is held.
    Locked(u32),
    Flush(Vec<Key>),
    Done,
}

impl Spine {
    /// The session that holds the cut-over's lock is gone; a COMMIT that it had sent is carried out, or is not.
    pub fn kill(&self, server: &mut Server, dice: &mut Dice) -> Result<(), Ended> {
        if self.is_locked() {
            server.exclusive = false;
        }
        match self {
            Spine::Flush(keys) if dice.once_in(2) => swap(server, keys),
            _ => Ok(()),
        }
    }

    fn is_locked(&self) -> bool {
        matches!(self, Spine::Locked(_) | Spine::Flush(_))
    }
}

impl Tool {
    /// The server has crashed: every session is gone, the memory of this process is not.
    pub fn lose_sessions(&mut self) -> Result<(), Ended> {
        self.copy.lose_sessions()?;
        if let Some(follower) = &mut self.follower {
            follower.lose_sessions();
            follower.quiet &= !self.spine.is_locked();
        }
        if self.spine.is_locked() {
            self.spine = Spine::Look;
        }
        Ok(())
    }

    /// Parts of the tool that are beside the spine.
    pub fn follower(&mut self) -> Option<&mut Follower> {
        self.follower.as_mut()
    }

    /// A step of the task that follows.
    pub fn follow(&mut self, server: &mut Server, dice: &mut Dice) -> Done {
        let Some(follower) = &mut self.follower else { return Ok(None) };
        follower.step(server, self.copy.is_at_work(), &mut self.copy.over, dice)
    }

    /// A step of a copy worker.
    pub fn work(&mut self, worker: usize, server: &mut Server, dice: &mut Dice) -> Done {
        match self.spine {
            Spine::Copy => self.copy.step(worker, server, self.broken, dice),
            _ => Ok(None),
        }
    }

    /// Its connections but those of the follower hold the lease, or end with it.
    fn leased(&self, server: &Server) -> Result<(), Ended> {
        if self.lease == server.life { Ok(()) } else { Err(Ended::Again("the lease is lost")) }
    }

    fn goes(&mut self, to: Spine, what: &'static str) -> Done {
        self.spine = to;
        Ok(Some(what))
    }

    /// A step of the spine.
    pub fn step(&mut self, server: &mut Server, dice: &mut Dice) -> Done {
        match std::mem::replace(&mut self.spine, Spine::Done) {
            spine @ (Spine::Begin | Spine::ReadX0 | Spine::MakeSlot { .. } | Spine::Settle { .. } | Spine::Follow) => {
                self.leased(server)?;
                self.prepare(spine, server, dice)
            }
            spine @ (Spine::Copy | Spine::Receive(_) | Spine::Index | Spine::CatchUp | Spine::InStep(_)) => {
                self.build(spine, server, dice)
            }
            Spine::Done => Ok(None),
            spine @ (Spine::Look
            | Spine::Looked(_)
            | Spine::Hurried(_)
            | Spine::Quiet
            | Spine::Locked(_)
            | Spine::Flush(_)) => self.cut_over(spine, server, dice),
        }
    }

    fn stay(&mut self, spine: Spine) -> Done {
        self.spine = spine;
        Ok(None)
    }

    fn prepare(&mut self, spine: Spine, server: &mut Server, dice: &mut Dice) -> Done {
        match spine {
            Spine::Begin if server.tables.phase == Phase::Swapped => self.goes(Spine::Done, "finds it swapped"),
            Spine::Begin if server.tables.phase != Phase::Prepare => self.goes(Spine::Follow, "resumes"),
            Spine::Begin => {
                server.slot = None;
                server.write(vec![Redo::Forget, Redo::Create(1)], true);
                self.goes(Spine::ReadX0, "creates the shadow")
            }
            Spine::ReadX0 => {
                let x0 = server.snapshot().xmin as u32;
                self.goes(Spine::MakeSlot { x0, looks: 0, open: Vec::new() }, "reads X0")
            }
            Spine::MakeSlot { x0, looks, open } if open.iter().any(|x| server.running.contains(x)) => {
                self.stay(Spine::MakeSlot { x0, looks, open })
            }
            Spine::MakeSlot { x0, looks: looks @ (0 | 1), .. } => {
                server.flush();
                let open = server.running.clone();
                self.goes(Spine::MakeSlot { x0, looks: looks + 1, open }, "looks whom the slot must wait for")
            }
            Spine::MakeSlot { x0, .. } => {
                server.flush();
                server.slot = Some(Slot::new(server.end));
                self.goes(Spine::Settle { x0, open: None }, "makes the slot")
            }
            Spine::Settle { x0, open: None } if self.broken != Broken::DoesNotSettle => {
                self.goes(Spine::Settle { x0, open: Some(server.writers.clone()) }, "looks for writers")
            }
            Spine::Settle { x0, open: Some(open) } if open.iter().any(|w| server.writers.contains(w)) => {
                self.stay(Spine::Settle { x0, open: Some(open) })
            }
            // The file is read behind a lock that a TRUNCATE holds.
            spine @ Spine::Settle { .. } if server.exclusive => self.stay(spine),
            Spine::Settle { x0, .. } => {
                let measured = Redo::Measured { x0, file: server.file(), blocks: server.heap.blocks };
                server.write(vec![measured, Redo::Become(Phase::Copy)], true);
                self.goes(Spine::Follow, "is prepared")
            }
            _ => {
                self.copy.over = server.tables.copy_over;
                self.follower = Some(Follower::start(server, self.broken, dice));
                match server.tables.phase {
                    Phase::Copy => {
                        self.copy.begin(server);
                        self.goes(Spine::Copy, "begins to follow and to copy")
                    }
                    Phase::Index => self.goes(Spine::Index, "begins to follow"),
                    _ => self.goes(Spine::CatchUp, "begins to follow"),
                }
            }
        }
    }

    fn build(&mut self, spine: Spine, server: &mut Server, dice: &mut Dice) -> Done {
        let token = dice.below(usize::MAX >> 33) as u32;
        let follower = self.follower.as_mut().ok_or(Ended::Again("nobody follows"))?;
        match spine {
            Spine::Copy if !self.copy.is_done() => self.stay(Spine::Copy),
            Spine::Copy if self.copy.other_file && !self.copy.over => {
                follower.ask(server, token, Waiter::Drain)?;
                self.goes(Spine::Receive(token), "waits for the TRUNCATE to come")
            }
            Spine::Receive(token) if follower.drained.is_none() => self.stay(Spine::Receive(token)),
            Spine::Receive(_) if !self.copy.over => Err(Ended::Wrong("a TRUNCATE was not received".to_owned())),
            Spine::Copy | Spine::Receive(_) => {
                self.leased(server)?;
                server.write(vec![Redo::Become(Phase::Index)], true);
                self.goes(Spine::Index, "has copied")
            }
            Spine::Index => {
                self.leased(server)?;
                if let Some(key) = server.tables.twice() {
                    return Err(Ended::Wrong(format!("key {key} was copied twice")));
                }
                server.write(vec![Redo::Become(Phase::CatchUp)], true);
                self.goes(Spine::CatchUp, "has built the indexes")
            }
            Spine::CatchUp => {
                follower.catching_up = true;
                follower.ask(server, token, Waiter::Settle)?;
                self.goes(Spine::InStep(token), "catches up")
            }
            Spine::InStep(token) if !follower.settled.contains(&token) => self.stay(Spine::InStep(token)),
            _ => {
                self.leased(server)?;
                if server.tables.phase == Phase::CatchUp {
                    server.write(vec![Redo::Become(Phase::Ready)], true);
                }
                self.goes(Spine::Look, "is in step")
            }
        }
    }

    fn cut_over(&mut self, spine: Spine, server: &mut Server, dice: &mut Dice) -> Done {
        let token = dice.below(usize::MAX >> 33) as u32;
        let follower = self.follower.as_mut().ok_or(Ended::Again("nobody follows"))?;
        match spine {
            Spine::Looked(token) | Spine::Hurried(token) if !follower.settled.contains(&token) => self.stay(spine),
            Spine::Looked(_) if gate::decide(&seen(follower, server, dice), Duration::ZERO) != Decision::Go => {
                self.goes(Spine::Look, "does not ask for the lock now")
            }
            Spine::Looked(_) => {
                follower.ask(server, token, Waiter::Settle)?;
                self.goes(Spine::Hurried(token), "begins an attempt")
            }
            Spine::Hurried(_) => {
                follower.quiet = true;
                self.goes(Spine::Quiet, "quiesces")
            }
            Spine::Quiet if !(follower.is_live() && follower.is_idle()) => self.stay(Spine::Quiet),
            Spine::Quiet if server.exclusive || server.readers > 0 || !server.writers.is_empty() => {
                follower.quiet = false;
                self.goes(Spine::Look, "does not get the lock")
            }
            Spine::Quiet => {
                follower.ask(server, token, Waiter::Drain)?;
                server.exclusive = true;
                self.goes(Spine::Locked(token), "locks, and sends a barrier")
            }
            Spine::Locked(token) => match follower.drained.take() {
                None if !dice.once_in(40) => self.stay(Spine::Locked(token)),
                Some(Some(keys)) => self.goes(Spine::Flush(keys), "has received all"),
                None | Some(None) => self.roll_back(server, "gives the lock back"),
            },
            Spine::Flush(_) if dice.once_in(10) => self.roll_back(server, "runs out of time"),
            Spine::Flush(keys) => {
                swap(server, &keys)?;
                server.exclusive = false;
                self.goes(Spine::Done, "swaps")
            }
            _ => {
                follower.ask(server, token, Waiter::Settle)?;
                self.goes(Spine::Looked(token), "looks before it locks")
            }
        }
    }

    fn roll_back(&mut self, server: &mut Server, why: &'static str) -> Done {
        server.exclusive = false;
        if let Some(follower) = &mut self.follower {
            follower.quiet = false;
        }
        self.goes(Spine::Look, why)
    }
}

/// The last flush and the swap, one transaction. Here it shows whether the tool was right.
fn swap(server: &mut Server, keys: &[Key]) -> Result<(), Ended> {
    let mut redo = final_writes(server, keys);
    redo.push(Redo::Become(Phase::Swapped));
    server.write(redo, true);
    let mut target: Vec<_> = server.tables.shadow.iter().map(|row| (row.key, row.value)).collect();
    let mut source: Vec<_> = server.rows(&server.snapshot()).map(|row| (row.key, row.value)).collect();
    target.sort_unstable();
    source.sort_unstable();
    match target == source {
        true => Ok(()),
        false => Err(Ended::Wrong(format!("the target has {target:?}, the source {source:?} (key, value)"))),
    }
}

fn seen(follower: &Follower, server: &Server, dice: &mut Dice) -> Seen {
    let blocker = Blocker {
        pid: Some(1),
        age_ms: 1,
        transaction: String::new(),
        hidden: false,
        who: "a writer".to_owned(),
        query: None,
    };
    // Whoever is in the way may not have been there long enough to count.
    let count = if server.writers.is_empty() || dice.once_in(2) { 0 } else { 1 };
    Seen {
        backlog: follower.waiting() as u64,
        live: follower.is_live(),
        settled_in: Duration::ZERO,
        blockers: vec![blocker; count],
    }
}
