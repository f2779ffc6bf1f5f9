//! A schedule: at each step chance chooses who takes the next one, and when somebody dies.

use crate::app::App;
use crate::dice::Dice;
use crate::heap::KEYS;
use crate::server::Server;
use crate::tool::follower::Follower;
use crate::tool::{Broken, Done, Ended, JOBS, Tool};

/// Sessions of the application.
const SESSIONS: usize = 3;

/// Steps after which the application begins nothing new and nobody dies any more, at least and at most: what the
/// application writes last hides what went wrong before, so some schedules end early.
const LIVELY: (usize, usize) = (100, 1_500);

/// Steps within which everything must come to its end.
const MOST: usize = 20_000;

/// Who may take a step.
#[derive(Debug, Clone, Copy)]
enum Actor {
    Session(usize),
    Disk,
    Stream,
    Acknowledgement,
    Follower,
    Writer,
    Flusher(usize),
    Worker(usize),
    Spine,
    Death,
}

/// Each as often as it shall come among the others.
const ACTORS: [Actor; 22] = {
    use Actor as A;
    [
        A::Session(0),
        A::Session(1),
        A::Session(2),
        A::Disk,
        A::Stream,
        A::Stream,
        A::Stream,
        A::Stream,
        A::Acknowledgement,
        A::Follower,
        A::Follower,
        A::Follower,
        A::Follower,
        A::Writer,
        A::Flusher(0),
        A::Flusher(1),
        A::Worker(0),
        A::Worker(1),
        A::Spine,
        A::Spine,
        A::Spine,
        A::Death,
    ]
};

/// A schedule that went wrong.
#[derive(Debug)]
pub struct Found {
    pub seed: u64,
    pub why: String,
    /// It only has not come to its end.
    pub stuck: bool,
    /// Its last steps, where they were kept.
    pub steps: Vec<String>,
}

/// What was met on the way, so that it can be said that everything is.
#[derive(Debug, Default, Clone, Copy)]
pub struct Met {
    pub steps: u64,
    pub runs: u64,
    pub crashes: u64,
    pub truncates: u64,
    /// Swapped while the application was still writing.
    pub under_traffic: u64,
}

impl Met {
    /// Both together.
    pub fn and(self, other: Met) -> Met {
        Met {
            steps: self.steps + other.steps,
            runs: self.runs + other.runs,
            crashes: self.crashes + other.crashes,
            truncates: self.truncates + other.truncates,
            under_traffic: self.under_traffic + other.under_traffic,
        }
    }
}

struct World {
    server: Server,
    sessions: Vec<App>,
    /// Each session takes one of so many of its turns: some hold their transactions open for long.
    paces: [usize; SESSIONS],
    tool: Option<Tool>,
    broken: Broken,
    dice: Dice,
    /// Deaths that may still come.
    deaths: usize,
    /// Steps for which the application writes.
    lively: usize,
    last: bool,
    met: Met,
}

/// Runs the schedule of a seed.
pub fn run(seed: u64, broken: Broken, keep: bool) -> Result<Met, Found> {
    let mut world = World::new(seed, broken);
    let mut steps = Vec::new();
    for n in 0..MOST {
        world.last = n >= world.lively;
        let actor = ACTORS[world.dice.below(ACTORS.len())];
        let done = world.step(actor);
        if let (true, Ok(Some(what))) = (keep, &done) {
            steps.push(world.shown(n, actor, what));
        }
        match done {
            Ok(_) if world.is_done() => {
                world.met.steps = n as u64;
                world.met.under_traffic = u64::from(!world.last);
                return Ok(world.met);
            }
            Ok(_) => {}
            Err(why) => return Err(Found { seed, why, stuck: false, steps }),
        }
    }
    Err(Found { seed, why: format!("it has not come to its end in {MOST} steps"), stuck: true, steps })
}

impl World {
    fn new(seed: u64, broken: Broken) -> World {
        let mut dice = Dice::new(seed);
        // Some schedules cross the end of an epoch.
        let next = (1 << 32) - 1 - dice.below(60) as u64 + if dice.once_in(2) { 1_000 } else { 0 };
        let mut server = Server::new(next);
        for key in 0..KEYS as u8 {
            // Of earlier epochs, so that some look newer than any transaction that is.
            let xmin = match dice.below(4) {
                0 => 2,
                1 => next as u32 - 100,
                2 => (next as u32).wrapping_add(dice.below(1 << 31) as u32),
                _ => (next as u32).wrapping_sub(dice.below(1 << 31) as u32),
            };
            if !dice.once_in(4) {
                server.heap.load(key, xmin, &mut dice);
            }
        }
        World {
            server,
            sessions: (0..SESSIONS).map(|n| App::new(n, dice.below(4) == 0, dice.below(2) * 30 + 4)).collect(),
            paces: [1, 1 + dice.below(4), 1 + dice.below(12)],
            tool: None,
            broken,
            deaths: dice.below(4),
            lively: LIVELY.0 + dice.below(LIVELY.1 - LIVELY.0),
            dice,
            last: false,
            met: Met::default(),
        }
    }

    fn is_done(&self) -> bool {
        self.tool.as_ref().is_some_and(Tool::is_done)
    }

    fn step(&mut self, actor: Actor) -> Result<Option<&'static str>, String> {
        let done = self.act(actor);
        match done {
            Ok(done) => Ok(done),
            Err(Ended::Wrong(why)) => Err(why),
            Err(Ended::Again(why)) => match self.tool.take().map(|t| self.end(t, true)) {
                None | Some(Ok(()) | Err(Ended::Again(_))) => Ok(Some(why)),
                Some(Err(Ended::Wrong(why))) => Err(why),
            },
        }
    }

    /// A run that ends leaves in order as far as it can, or is killed.
    fn end(&mut self, tool: Tool, in_order: bool) -> Result<(), Ended> {
        let (server, dice) = (&mut self.server, &mut self.dice);
        if in_order && dice.once_in(2) { tool.leave(server, dice) } else { tool.kill(server, dice) }
    }

    fn act(&mut self, actor: Actor) -> Done {
        match actor {
            Actor::Session(n) => return Ok(self.session(n)),
            Actor::Disk => return Ok(self.disk()),
            Actor::Death => return self.death(),
            Actor::Stream
            | Actor::Acknowledgement
            | Actor::Follower
            | Actor::Writer
            | Actor::Flusher(_)
            | Actor::Worker(_)
            | Actor::Spine => {}
        }
        let (server, dice) = (&mut self.server, &mut self.dice);
        let Some(tool) = &mut self.tool else {
            self.tool = Some(Tool::start(server, self.broken));
            self.met.runs += 1;
            return Ok(Some("a run begins"));
        };
        if !tool.is_leased(server) && dice.once_in(60) {
            return Err(Ended::Again("notices that the lease is lost"));
        }
        let mut follower = |step: &mut dyn FnMut(&mut Follower, &mut Server, &mut Dice) -> Done| {
            tool.follower().map_or(Ok(None), |follower| step(follower, server, dice))
        };
        match actor {
            Actor::Stream => follower(&mut |f, server, dice| f.read(server, dice)),
            Actor::Acknowledgement => follower(&mut |f, server, dice| f.acknowledge(server, dice)),
            Actor::Writer => follower(&mut |f, server, dice| f.write(server, dice)),
            Actor::Flusher(n) => follower(&mut |f, server, dice| f.flush(n, server, dice)),
            Actor::Follower => tool.follow(server, dice),
            Actor::Worker(n) => tool.work(n, server, dice),
            Actor::Spine => tool.step(server, dice),
            Actor::Session(_) | Actor::Disk | Actor::Death => Ok(None),
        }
    }

    fn session(&mut self, n: usize) -> Option<&'static str> {
        if !self.last && !self.dice.once_in(self.paces[n]) {
            return None;
        }
        let others = self.sessions.iter().enumerate().filter(|(other, _)| *other != n);
        let locked: Vec<u8> = others.flat_map(|(_, session)| session.locked()).copied().collect();
        let done = self.sessions[n].step(&mut self.server, &locked, self.last, &mut self.dice);
        self.met.truncates += u64::from(done == Some("truncates"));
        done
    }

    /// The WAL reaches the disk up to some commit.
    fn disk(&mut self) -> Option<&'static str> {
        let behind = self.server.wal.iter().filter(|r| r.end > self.server.flushed).map(|r| r.end).collect::<Vec<_>>();
        if behind.is_empty() {
            return None;
        }
        self.server.flushed = behind[if self.last { behind.len() - 1 } else { self.dice.below(behind.len()) }];
        Some("takes WAL")
    }

    fn death(&mut self) -> Done {
        if self.last || self.deaths == 0 || !self.dice.once_in(6) {
            return Ok(None);
        }
        self.deaths -= 1;
        let (server, dice) = (&mut self.server, &mut self.dice);
        match (dice.below(6), self.tool.take()) {
            (0, Some(tool)) => self.end(tool, true).map(|()| Some("the tool is told to stop")),
            (1, Some(tool)) => self.end(tool, false).map(|()| Some("the tool is killed")),
            (what @ (2 | 3), Some(mut tool)) => {
                if let Some(follower) = tool.follower() {
                    follower.lose(what == 2);
                }
                self.tool = Some(tool);
                Ok(Some(if what == 2 { "the stream breaks" } else { "the journal's connection breaks" }))
            }
            (_, tool) => {
                server.crash();
                self.met.crashes += 1;
                self.sessions.iter_mut().for_each(App::crash);
                self.tool = tool;
                self.tool.as_mut().map_or(Ok(()), Tool::lose_sessions)?;
                Ok(Some("the server crashes, and recovers"))
            }
        }
    }

    fn shown(&self, n: usize, actor: Actor, what: &str) -> String {
        let detail = match actor {
            Actor::Session(n) => self.sessions[n].shown(),
            Actor::Disk
            | Actor::Stream
            | Actor::Acknowledgement
            | Actor::Follower
            | Actor::Writer
            | Actor::Flusher(_)
            | Actor::Worker(_)
            | Actor::Spine
            | Actor::Death => self.tool.as_ref().map(Tool::shown).unwrap_or_default(),
        };
        let (end, flushed) = (self.server.end.0, self.server.flushed.0);
        format!("{n:4} WAL {end} ({flushed} on disk) {actor:?}: {what} [{detail}]")
    }
}

const _: () = assert!(JOBS == 2, "the list of actors names each worker");
