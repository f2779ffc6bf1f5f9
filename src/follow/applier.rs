//! The task that owns the backlog.
//!
//! Nothing is acknowledged before it is durable (rule 9): every tick the position up to which all is journaled or
//! flushed goes into the ledger beside the WAL position of the moment, and is told to the slot once that is on disk.

mod again;
mod events;
mod flushers;
mod generations;
mod journal;
mod ledger;
mod pace;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use pace::Pace;

use super::drainer::Drainer;
use super::writer::{self, Writer};
use super::{Command, Job, ReaderTask, Taking, View};
use crate::error::Failure;
use crate::flush::{self, Batch, Outcome};
use crate::journal::{Backlog, Ledger, table};
use crate::pg::{Conn, Error, Literal, Lsn};
use crate::retry::Retry;
use crate::state::{Store, lease_lost};
use crate::stream::{BARRIER_PREFIX, Event, Key};

/// Lots of the reader that may wait here.
pub(super) const HANDED_OVER: usize = 8;
/// How long changed keys gather before a flush, so that a hot row is written once.
const LINGER: Duration = Duration::from_millis(40);
/// Keys journaled in one write.
const JOURNAL_KEYS: usize = 8_192;
/// How long received keys may wait for the next write to the journal.
const JOURNAL_AFTER: Duration = Duration::from_millis(200);
/// Received keys beyond which the stream waits for the journal.
const MOST_PENDING: usize = 4 * JOURNAL_KEYS;
/// Keys of a generation that are read ahead of the flushers.
const READ_AHEAD: usize = 4_000;
/// Keys of the youngest generation below which they are taken to memory and following turns live.
const LIVE_KEYS: u64 = 10_000;
/// Memory of the backlog beyond which keys go back to the journal table.
const MEMORY_BYTES: usize = 12 << 20;
/// How long the throttle may keep keys in memory before they go to the journal table.
const HELD_MOST: Duration = Duration::from_secs(2);
/// How often unsettled keys are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often the ledger is.
const LEDGER_EVERY: Duration = Duration::from_millis(300);
/// Flushes in a row in which a key may meet a neighbour that is still stale, each a tick apart.
const CONFLICTS: u32 = 100;

/// Where changed keys go.
enum Mode {
    /// To the journal table; nothing is flushed.
    Journal,
    /// To the youngest generation of the table, while `generation` is flushed.
    Drain(Draining),
    /// To the flushers.
    Live,
}

/// A generation on its way to the flushers.
struct Draining {
    generation: u32,
    reading: Reading,
    /// Keys that were read and that no flusher has yet.
    read: VecDeque<(Key, u64)>,
    batches: HashMap<usize, Batch>,
}

/// How far the reading of a generation is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// Not begun, or broken: to be read from the start once nothing of it is in flight (rule 6).
    Unopened,
    /// Under way.
    Open,
    /// Behind the last key.
    Exhausted,
}

/// A lot on its way to the journal.
struct Writing {
    keys: u64,
    /// Everything received up to here is in it, or was journaled before.
    end: Lsn,
}

struct Flusher {
    batches: mpsc::Sender<Batch>,
    busy: bool,
    /// When its last batch was handed over.
    begun: Instant,
    /// The last batch that came back.
    last: Option<Flushed>,
}

/// What a flusher rests from.
struct Flushed {
    keys: usize,
    worked: Duration,
    at: Instant,
}

impl Flusher {
    /// How long it still rests, as things are now.
    fn rests(&self, pace: &Pace, nice: f64, flushers: usize) -> Duration {
        let rest = |last: &Flushed| pace.rest(nice, last.worked, last.keys, flushers).saturating_sub(last.at.elapsed());
        self.last.as_ref().map_or(Duration::ZERO, rest)
    }

    fn take(&mut self, batch: Batch) -> Result<(), Error> {
        self.busy = true;
        self.begun = Instant::now();
        self.batches.try_send(batch).map_err(|_| Error::client("flush", "a flusher died"))
    }
}

/// The task's state.
pub(super) struct Applier {
    job: Job,
    view: Arc<View>,
    conn: Conn,
    mode: Mode,
    catching_up: bool,
    /// The generation that is written.
    generation: u32,
    /// Earlier generations, oldest first.
    older: Vec<u32>,
    /// Keys in the generation that is written; unknown where others wrote to it: an earlier run, or the copy.
    written: Option<u64>,
    /// Keys in all generations that wait for a flush, about, for whoever looks.
    listed: u64,
    /// Keys received and not journaled yet, each with the transaction that changed it last.
    pending: HashMap<Key, u64>,
    pending_since: Instant,
    writer: Writer,
    writing: Option<Writing>,
    drainer: Drainer,
    backlog: Backlog,
    gathering_since: Option<Instant>,
    flushers: Vec<Flusher>,
    pace: Pace,
    outcomes: mpsc::Receiver<Outcome>,
    events: mpsc::Receiver<Result<Vec<Event>, Failure>>,
    /// The task that reads, as long as anybody takes what it reads.
    _reader: Arc<ReaderTask>,
    safe: watch::Sender<Lsn>,
    ledger: Ledger,
    looked_at_wal: Instant,
    /// What was last said of the standbys that the slot is kept on.
    standbys_said: Option<crate::report::Event>,
    /// The end of the last transaction received in full.
    last_end: Lsn,
    /// The same when the journal was last written: all up to there is in it.
    journaled_end: Lsn,
    /// A 64-bit transaction id of the recent past.
    near_xid: u64,
    urgent: bool,
    /// No batch leaves while this is set.
    quiet: bool,
    /// To be told once no flusher is at work.
    awaiting_quiet: Vec<oneshot::Sender<()>>,
    /// Keys were due and no flusher could take them.
    stuck: bool,
    /// Since when the throttle has kept keys in memory.
    held_since: Option<Instant>,
    barriers: HashMap<String, Waiter>,
    next_token: u64,
    /// Settles whose barrier has come back: what was added before the mark must be retired.
    settling: Vec<(u64, oneshot::Sender<()>)>,
    watched: HashSet<Key>,
    touched: HashSet<Key>,
}

enum Waiter {
    Settle(oneshot::Sender<()>),
    Drain(oneshot::Sender<Option<Vec<Key>>>),
}

impl Applier {
    pub(super) async fn new(job: Job, view: Arc<View>, taking: Taking) -> Result<Applier, Failure> {
        let conn = writer::open(&job.connector).await?;
        let mut older = table::generations(&conn, &job.names).await?;
        let generation = match older.last() {
            Some(last) => *last,
            None => {
                conn.batch("create journal", &table::create_sql(&job.plan, &job.names, 1)).await?;
                1
            }
        };
        older.retain(|g| *g != generation);
        let mut listed = 0;
        for generation in older.iter().chain([&generation]) {
            listed += table::count(&conn, &job.names, *generation).await?;
        }
        let (done, outcomes) = mpsc::channel(job.jobs * 2);
        let flushers = (0..job.jobs)
            .map(|_| {
                let (batches, taken) = mpsc::channel(1);
                let (connector, plan, names) = (job.connector.clone(), job.plan.clone(), job.names.clone());
                tokio::spawn(flush::worker(connector, plan, names, job.columns.clone(), taken, done.clone()));
                Flusher { batches, busy: false, begun: Instant::now(), last: None }
            })
            .collect::<Vec<_>>();
        let backlog = Backlog::new(flushers.len()).together(&job.plan.key.together);
        let writer = Writer::start(job.connector.clone(), job.names.clone());
        let drainer = Drainer::start(job.connector.clone(), job.plan.clone(), job.names.clone());
        Ok(Applier {
            job,
            view,
            conn,
            mode: Mode::Journal,
            catching_up: false,
            generation,
            older,
            written: None,
            listed,
            pending: HashMap::new(),
            pending_since: Instant::now(),
            writer,
            writing: None,
            drainer,
            backlog,
            gathering_since: None,
            flushers,
            pace: Pace::new(Instant::now()),
            outcomes,
            events: taking.events,
            _reader: taking.reader,
            safe: taking.safe,
            ledger: Ledger::new(),
            looked_at_wal: Instant::now(),
            standbys_said: None,
            last_end: Lsn::ZERO,
            journaled_end: Lsn::ZERO,
            near_xid: 0,
            urgent: false,
            quiet: false,
            awaiting_quiet: Vec::new(),
            stuck: false,
            held_since: None,
            barriers: HashMap::new(),
            next_token: 0,
            settling: Vec::new(),
            watched: HashSet::new(),
            touched: HashSet::new(),
        })
    }

    /// Runs until told to stop.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) -> Result<(), Failure> {
        self.serve(&mut commands).await
    }

    async fn serve(&mut self, commands: &mut mpsc::Receiver<Command>) -> Result<(), Failure> {
        self.look_at_wal().await?;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.advance().await?;
            self.show();
            let linger = self.linger();
            let has_room = self.pending.len() < MOST_PENDING;
            let reads_ahead = matches!(&self.mode, Mode::Drain(d) if d.read.len() < READ_AHEAD);
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(Command::Stop) | None => return self.leave().await,
                    Some(command) => self.obey(command).await?,
                },
                Some(outcome) = self.outcomes.recv() => self.settle(outcome).await?,
                _ = tick.tick() => self.tick().await?,
                written = self.writer.written() => self.journaled(written)?,
                drained = self.drainer.next(), if reads_ahead => self.drained(drained?),
                events = self.events.recv(), if has_room => match events {
                    Some(Ok(events)) => {
                        self.take(events).await?;
                        // The rest of what waits, before anything else is asked of the server.
                        for _ in 0..HANDED_OVER {
                            match self.events.try_recv() {
                                Ok(Ok(events)) => self.take(events).await?,
                                Ok(Err(failure)) => return Err(self.reader_failed(failure).await),
                                Err(_) => break,
                            }
                        }
                    }
                    Some(Err(failure)) => return Err(self.reader_failed(failure).await),
                    None => return Err(Failure::failed("the task that reads the change stream died")),
                },
                () = tokio::time::sleep(linger) => {}
            }
        }
    }

    /// Why there is no stream any more; where the publication is to blame, that rather than what it led to.
    async fn reader_failed(&mut self, failure: Failure) -> Failure {
        match self.look_at_wal().await {
            Err(changed) if changed.source.is_none() => changed,
            Ok(()) | Err(_) => failure,
        }
    }

    /// How long the loop may sleep before gathered keys must move on.
    fn linger(&self) -> Duration {
        let due = match &self.mode {
            Mode::Live if self.stuck => TICK,
            Mode::Journal | Mode::Drain(_) if self.pending.is_empty() || self.writing.is_some() => TICK,
            Mode::Journal | Mode::Drain(_) => JOURNAL_AFTER.saturating_sub(self.pending_since.elapsed()),
            Mode::Live => match self.gathering_since {
                Some(since) => LINGER.saturating_sub(since.elapsed()).max(Duration::from_millis(1)),
                None => TICK,
            },
        };
        let rests = (0..self.flushers.len()).filter(|n| !self.flushers[*n].busy).map(|n| self.rests(n));
        rests.filter(|left| !left.is_zero()).fold(due, Duration::min)
    }

    fn show(&self) {
        let backlog = self.listed + self.pending.len() as u64 + self.backlog.len() as u64;
        self.view.backlog.store(backlog, Ordering::Relaxed);
        self.view.live.store(matches!(self.mode, Mode::Live), Ordering::Release);
    }

    async fn obey(&mut self, command: Command) -> Result<(), Failure> {
        match command {
            Command::CatchUp => {
                self.catching_up = true;
                self.listed += self.job.copy.journaled.load(Ordering::Relaxed);
            }
            Command::Settle(reply) => self.emit_barrier(Waiter::Settle(reply)).await?,
            Command::Hurry => self.urgent = true,
            Command::Quiesce(reply) => {
                self.quiet = true;
                self.awaiting_quiet.push(reply);
            }
            Command::Drain(reply) => self.emit_barrier(Waiter::Drain(reply)).await?,
            Command::GoOn => {
                self.quiet = false;
                self.urgent = false;
            }
            Command::Watch(keys, reply) => {
                self.watched = keys.into_iter().collect();
                self.touched.clear();
                // A caller that is gone needs no answer; so below.
                let _ = reply.send(());
            }
            Command::Touched(reply) => {
                let _ = reply.send(self.touched.clone());
            }
            Command::Stop => {}
        }
        Ok(())
    }

    /// A transactional message: its commit forces the WAL to disk, so the server sends it at once.
    async fn emit_barrier(&mut self, waiter: Waiter) -> Result<(), Failure> {
        self.next_token += 1;
        let token = format!("{}-{}-{}", self.job.slot, self.job.id, self.next_token);
        let sql = format!(
            "BEGIN; SET LOCAL synchronous_commit = local; SELECT pg_logical_emit_message(true, '{BARRIER_PREFIX}', {}); COMMIT",
            Literal(&token)
        );
        self.barriers.insert(token, waiter);
        let mut retry = Retry::new();
        while let Err(e) = self.conn.batch("emit barrier", &sql).await {
            self.mend(e, &mut retry).await?;
        }
        Ok(())
    }

    /// Opens the journal's connection again where it broke.
    ///
    /// What this task remembers of commits may be wrong once the server has crashed, for they do not wait for the disk
    /// (rule 9). A crash ends every session; one that is opened while the lease is still held by the session of this run
    /// shows that there was none before it.
    async fn mend(&mut self, error: Error, retry: &mut Retry) -> Result<(), Failure> {
        retry.after(error).await?;
        if !self.conn.is_closed() && self.conn.batch("roll back journal", "ROLLBACK").await.is_ok() {
            return Ok(());
        }
        let leased = Store::has_lease_sql(self.job.names.head(), self.job.lease);
        loop {
            let opened = async {
                let conn = writer::open(&self.job.connector).await?;
                let leased = conn.scalar("look for lease", &leased).await?;
                Ok::<_, Error>((conn, leased.as_deref() == Some("t")))
            };
            match opened.await {
                Ok((conn, true)) => {
                    self.conn = conn;
                    return Ok(());
                }
                Ok((_, false)) => return Err(lease_lost()),
                Err(e) => retry.after(e).await?,
            }
        }
    }

    /// Takes whatever step is due.
    async fn advance(&mut self) -> Result<(), Failure> {
        if self.pending_since.elapsed() >= JOURNAL_AFTER || self.pending.len() >= JOURNAL_KEYS {
            self.begin_writing()?;
        }
        let idle = self.flushers.iter().all(|f| !f.busy);
        if idle && matches!(self.mode, Mode::Live) {
            for reply in self.awaiting_quiet.drain(..) {
                let _ = reply.send(());
            }
        }
        match &self.mode {
            Mode::Journal if self.catching_up && idle => self.next_generation().await,
            Mode::Journal => Ok(()),
            Mode::Drain(_) => self.drain().await,
            Mode::Live => self.dispatch(),
        }
    }

    async fn tick(&mut self) -> Result<(), Failure> {
        self.let_go_of_held_keys().await?;
        self.pace.read(Instant::now());
        self.backlog.wake();
        if !self.backlog.is_empty() {
            self.gathering_since.get_or_insert_with(Instant::now);
        }
        self.answer_settled();
        if self.looked_at_wal.elapsed() >= LEDGER_EVERY {
            self.look_at_wal().await?;
        }
        Ok(())
    }

    /// Keys that the throttle keeps in memory hold the slot back, and that may be the very reason of the pause: in the
    /// journal table they do not.
    async fn let_go_of_held_keys(&mut self) -> Result<(), Failure> {
        let held = matches!(self.mode, Mode::Live)
            && !self.quiet
            && !self.backlog.is_empty()
            && self.job.throttle.reason().is_some();
        if !held {
            self.held_since = None;
            return Ok(());
        }
        match self.held_since {
            Some(since) if since.elapsed() > HELD_MOST => self.back_to_table().await,
            Some(_) => Ok(()),
            None => {
                self.held_since = Some(Instant::now());
                Ok(())
            }
        }
    }
}
