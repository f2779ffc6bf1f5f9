//! The task that owns the backlog.
//!
//! Nothing is acknowledged before it is durable (rule 9): every tick the position up to which all is journaled or
//! flushed goes into the ledger beside the WAL position of the moment, and is told to the slot once that is on disk.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use super::drainer::{Drained, Drainer};
use super::writer::{self, Lot, Writer};
use super::{Command, Job, Unfit, View, reader};
use crate::error::Failure;
use crate::flush::{self, Batch, Outcome};
use crate::journal::{Backlog, Ledger, outstanding_from, table};
use crate::pg::{Conn, Error, Literal, Lsn};
use crate::retry::Retry;
use crate::standby;
use crate::state::{Store, lease_lost};
use crate::stream::{BARRIER_PREFIX, Event, Key};

/// Lots of the reader that may wait here.
const HANDED_OVER: usize = 8;
/// Keys of one flush.
const BATCH_KEYS: usize = 1_000;
/// How long changed keys gather before a flush, so that a hot row is written once.
const LINGER: Duration = Duration::from_millis(40);
/// Keys ready in one partition that are flushed without lingering.
const EAGER_KEYS: usize = 400;
/// Keys journaled in one write.
const JOURNAL_KEYS: usize = 8_192;
/// How long received keys may wait for the next write to the journal.
const JOURNAL_AFTER: Duration = Duration::from_millis(200);
/// Received keys beyond which the stream waits for the journal.
const MOST_PENDING: usize = 4 * JOURNAL_KEYS;
/// Keys of a generation that are read ahead of the flushers.
const READ_AHEAD: usize = 4 * BATCH_KEYS;
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
}

impl Flusher {
    fn take(&mut self, batch: Batch) -> Result<(), Error> {
        self.busy = true;
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
    outcomes: mpsc::Receiver<Outcome>,
    events: mpsc::Receiver<Vec<Event>>,
    reader: tokio::task::JoinHandle<Result<(), Failure>>,
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
    pub(super) async fn new(job: Job, view: Arc<View>) -> Result<Applier, Failure> {
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
        let (sender, events) = mpsc::channel(HANDED_OVER);
        let (safe, heard) = watch::channel(Lsn::ZERO);
        let source = reader::Source {
            connector: job.connector.clone(),
            plan: job.plan.clone(),
            slot: job.slot.clone(),
            names: job.names.clone(),
        };
        let reader = tokio::spawn(reader::read(source, sender, heard, view.positions.clone()));
        let (done, outcomes) = mpsc::channel(job.jobs * 2);
        let flushers = (0..job.jobs)
            .map(|_| {
                let (batches, taken) = mpsc::channel(1);
                let (connector, plan, names) = (job.connector.clone(), job.plan.clone(), job.names.clone());
                tokio::spawn(flush::worker(connector, plan, names, job.columns.clone(), taken, done.clone()));
                Flusher { batches, busy: false }
            })
            .collect::<Vec<_>>();
        let partitions = flushers.len();
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
            backlog: Backlog::new(partitions),
            gathering_since: None,
            flushers,
            outcomes,
            events,
            reader,
            safe,
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
        let outcome = self.serve(&mut commands).await;
        self.reader.abort();
        outcome
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
                    Some(events) => {
                        self.take(events).await?;
                        // The rest of what waits, before anything else is asked of the server.
                        for _ in 0..HANDED_OVER {
                            let Ok(events) = self.events.try_recv() else { break };
                            self.take(events).await?;
                        }
                    }
                    None => return Err(self.reader_failed().await),
                },
                () = tokio::time::sleep(linger) => {}
            }
        }
    }

    /// Why there is no stream any more; where the publication is to blame, that rather than what it led to.
    async fn reader_failed(&mut self) -> Failure {
        let failure = match (&mut self.reader).await {
            Ok(Err(failure)) => failure,
            Ok(Ok(())) => Failure::failed("the change stream ended"),
            Err(panic) => return Failure::failed(format!("the task that reads the change stream died: {panic}")),
        };
        match self.look_at_wal().await {
            Err(changed) if changed.source.is_none() => changed,
            Ok(()) | Err(_) => failure,
        }
    }

    /// How long the loop may sleep before gathered keys must move on.
    fn linger(&self) -> Duration {
        match &self.mode {
            Mode::Live if self.stuck => TICK,
            Mode::Journal | Mode::Drain(_) if self.pending.is_empty() || self.writing.is_some() => TICK,
            Mode::Journal | Mode::Drain(_) => JOURNAL_AFTER.saturating_sub(self.pending_since.elapsed()),
            Mode::Live => match self.gathering_since {
                Some(since) => LINGER.saturating_sub(since.elapsed()).max(Duration::from_millis(1)),
                None => TICK,
            },
        }
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
        let token = format!("{}-{}", self.job.slot, self.next_token);
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
        let leased = Store::has_lease_sql(self.job.id, self.job.lease);
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

    async fn take(&mut self, events: Vec<Event>) -> Result<(), Failure> {
        for event in events {
            match event {
                Event::Changes { xid, keys, commit_end, .. } => {
                    let xid = flush::widen(xid, self.near_xid);
                    self.near_xid = self.near_xid.max(xid);
                    self.view.journaled.fetch_add(keys.len() as u64, Ordering::Relaxed);
                    for key in keys {
                        self.note(key, xid);
                    }
                    self.last_end = self.last_end.max(commit_end.unwrap_or(Lsn::ZERO));
                }
                Event::Truncated { relations, .. } => self.truncate(&relations).await?,
                Event::Barrier { token, .. } => self.barrier(&token).await?,
                Event::Schema(_) => {}
                Event::Empty { commit_end } => self.last_end = self.last_end.max(commit_end),
            }
        }
        if matches!(self.mode, Mode::Live) && self.backlog.bytes() > MEMORY_BYTES {
            self.back_to_table().await?;
        }
        Ok(())
    }

    fn note(&mut self, key: Key, xid: u64) {
        if self.watched.contains(&key) {
            self.touched.insert(key.clone());
        }
        match self.mode {
            Mode::Journal | Mode::Drain(_) => {
                if self.pending.is_empty() {
                    self.pending_since = Instant::now();
                }
                self.pending.insert(key, xid);
            }
            Mode::Live => {
                self.gathering_since.get_or_insert_with(Instant::now);
                self.backlog.add(key, xid, self.last_end);
            }
        }
    }

    async fn barrier(&mut self, token: &str) -> Result<(), Failure> {
        match self.barriers.remove(token) {
            Some(Waiter::Settle(reply)) => {
                self.settling.push((self.backlog.mark(), reply));
                self.answer_settled();
            }
            Some(Waiter::Drain(reply)) => {
                // A transaction larger than the memory may have come since the look before the lock.
                let _ = reply.send(matches!(self.mode, Mode::Live).then(|| self.backlog.outstanding()));
            }
            None => {}
        }
        Ok(())
    }

    /// Rule 8: TRUNCATE empties the shadow, or those of the partitions it was about, and ends their copy. On the shadow
    /// only workers of ours hold locks, so nobody queues behind the wait for the last of them, be it an index build.
    async fn truncate(&mut self, relations: &[u32]) -> Result<(), Failure> {
        let (plan, names) = (&self.job.plan, &self.job.names);
        let leaves = plan.leaves().into_iter().filter(|leaf| relations.contains(&leaf.shape.oid));
        let (oids, shadows): (Vec<String>, Vec<String>) =
            leaves.map(|leaf| (leaf.shape.oid.to_string(), plan.destination(&leaf, names).to_string())).unzip();
        let sql = format!(
            "BEGIN; SET LOCAL lock_timeout = 0; TRUNCATE {}; UPDATE pgrecast.leaf SET copy_over = true WHERE migration = {} AND relation IN ({}); COMMIT",
            shadows.join(", "),
            self.job.id,
            oids.join(", ")
        );
        for oid in relations {
            self.job.copy.end(*oid);
        }
        self.touched.clone_from(&self.watched);
        let mut retry = Retry::new();
        while let Err(e) = self.conn.batch("empty shadow", &sql).await {
            self.mend(e, &mut retry).await?;
        }
        Ok(())
    }

    /// Keeps a key that is not flushed yet for the next write to the journal, unless a later change of it is there.
    fn keep_pending(&mut self, key: Key, xid: u64) {
        self.pending.entry(key).or_insert(xid);
    }

    /// Hands what was received to the writer, unless it is at work.
    fn begin_writing(&mut self) -> Result<(), Failure> {
        if self.pending.is_empty() || self.writing.is_some() {
            return Ok(());
        }
        let keys = std::mem::take(&mut self.pending);
        self.writing = Some(Writing { keys: keys.len() as u64, end: self.last_end });
        self.writer.begin(Lot { generation: self.generation, keys })
    }

    /// The writer is done with its lot.
    fn journaled(&mut self, written: Result<(), Failure>) -> Result<(), Failure> {
        written?;
        if let Some(Writing { keys, end }) = self.writing.take() {
            self.written = self.written.map(|n| n + keys);
            self.listed += keys;
            self.journaled_end = end;
        }
        Ok(())
    }

    /// Returns once all that was received is in the journal.
    async fn write_journal(&mut self) -> Result<(), Failure> {
        loop {
            self.begin_writing()?;
            if self.writing.is_none() {
                return Ok(());
            }
            let written = self.writer.written().await;
            self.journaled(written)?;
        }
    }

    /// The backlog outgrew its memory: what waits goes to a new generation, and flushing goes on from the table.
    async fn back_to_table(&mut self) -> Result<(), Failure> {
        self.mode = Mode::Journal;
        self.gathering_since = None;
        self.rotate().await?;
        for (key, pending) in self.backlog.drain_waiting() {
            self.keep_pending(key, pending.xid);
        }
        self.write_journal().await
    }

    /// Begins a new generation.
    async fn rotate(&mut self) -> Result<(), Failure> {
        self.write_journal().await?;
        let next = self.generation + 1;
        let sql = table::create_sql(&self.job.plan, &self.job.names, next);
        let mut retry = Retry::new();
        while let Err(e) = self.conn.batch("create journal", &sql).await {
            self.mend(e, &mut retry).await?;
        }
        self.older.push(self.generation);
        self.generation = next;
        self.written = Some(0);
        Ok(())
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

    /// Opens the oldest generation, or turns live where only the youngest is left and it is small. It need not be
    /// empty: under traffic it never would be.
    async fn next_generation(&mut self) -> Result<(), Failure> {
        if self.job.throttle.reason().is_some() {
            return Ok(());
        }
        if self.older.is_empty() {
            self.write_journal().await?;
            if self.written.is_some_and(|n| n < LIVE_KEYS) {
                return self.go_live().await;
            }
            self.rotate().await?;
        }
        let Some(generation) = self.older.first().copied() else { return Ok(()) };
        self.mode = Mode::Drain(Draining {
            generation,
            reading: Reading::Unopened,
            read: VecDeque::new(),
            batches: HashMap::new(),
        });
        Ok(())
    }

    /// No older generation is left: the keys of the youngest come to memory. It stays as it is, since flushing a key once
    /// more than needed does no harm, and a run that dies now finds its keys there.
    async fn go_live(&mut self) -> Result<(), Failure> {
        let mut retry = Retry::new();
        let keys = loop {
            match self.read_generation().await {
                Ok(keys) => break keys,
                Err(e) => self.mend(e, &mut retry).await?,
            }
        };
        for (key, xid) in keys {
            self.backlog.add(key, xid, self.last_end);
        }
        self.listed = 0;
        // Whoever waits for a barrier that came back earlier waits for these keys too.
        let mark = self.backlog.mark();
        for (settled, _) in &mut self.settling {
            *settled = mark;
        }
        self.mode = Mode::Live;
        self.gathering_since = (!self.backlog.is_empty()).then(Instant::now);
        self.answer_settled();
        Ok(())
    }

    async fn read_generation(&mut self) -> Result<Vec<(Key, u64)>, Error> {
        table::open(&self.conn, &self.job.plan, &self.job.names, self.generation).await?;
        let mut keys = Vec::new();
        loop {
            let more = table::fetch(&self.conn, 10_000).await?;
            if more.is_empty() {
                break;
            }
            keys.extend(more);
        }
        table::close_cursor(&self.conn).await?;
        Ok(keys)
    }

    /// The drainer has more of the generation.
    fn drained(&mut self, drained: Drained) {
        let Mode::Drain(d) = &mut self.mode else { return };
        match drained {
            Drained::Keys(keys) => d.read.extend(keys),
            Drained::End => d.reading = Reading::Exhausted,
            Drained::Broken => {
                d.read.clear();
                d.reading = Reading::Unopened;
            }
        }
    }

    /// Feeds idle flushers from the oldest generation; drops it when all of it is flushed.
    async fn drain(&mut self) -> Result<(), Failure> {
        if self.job.throttle.reason().is_some() {
            return Ok(());
        }
        let Mode::Drain(d) = &mut self.mode else { return Ok(()) };
        if d.reading == Reading::Unopened && d.batches.is_empty() {
            self.drainer.open(d.generation)?;
            d.reading = Reading::Open;
        }
        for (partition, flusher) in self.flushers.iter_mut().enumerate().filter(|(_, f)| !f.busy) {
            let some = d.read.len().min(BATCH_KEYS);
            if some == 0 {
                break;
            }
            self.listed = self.listed.saturating_sub(some as u64);
            let (keys, xids): (Vec<_>, Vec<_>) = d.read.drain(..some).unzip();
            d.batches.insert(partition, Batch { partition, keys: keys.clone(), xids: xids.clone() });
            flusher.take(Batch { partition, keys, xids })?;
        }
        if d.reading == Reading::Exhausted && d.read.is_empty() && d.batches.is_empty() {
            let generation = d.generation;
            self.drop_generation(generation).await?;
            self.mode = Mode::Journal;
        }
        Ok(())
    }

    async fn drop_generation(&mut self, generation: u32) -> Result<(), Failure> {
        // What came back unsettled is in a younger generation before this one goes.
        self.write_journal().await?;
        let mut retry = Retry::new();
        while let Err(e) = table::close(&self.conn, &self.job.names, generation).await {
            self.mend(e, &mut retry).await?;
        }
        self.older.retain(|g| *g != generation);
        if let (true, Some(written)) = (self.older.is_empty(), self.written) {
            // A key that was written several times was read once.
            self.listed = written;
        }
        Ok(())
    }

    /// Hands ready keys to idle flushers once they have gathered for a moment.
    fn dispatch(&mut self) -> Result<(), Failure> {
        self.stuck = self.quiet || self.job.throttle.reason().is_some();
        if self.stuck {
            return Ok(());
        }
        let due = self.urgent || self.gathering_since.is_some_and(|s| s.elapsed() >= LINGER);
        let mut left = false;
        for partition in 0..self.flushers.len() {
            let ready = self.backlog.ready(partition);
            if self.flushers[partition].busy || ready == 0 || !(due || ready >= EAGER_KEYS) {
                left |= ready > 0;
                continue;
            }
            let taken = self.backlog.take(partition, BATCH_KEYS);
            left |= self.backlog.ready(partition) > 0;
            let (keys, xids) = taken.into_iter().map(|(k, p)| (k, p.xid)).unzip();
            self.flushers[partition].take(Batch { partition, keys, xids })?;
        }
        if due {
            self.gathering_since = left.then(Instant::now);
        }
        Ok(())
    }

    /// A batch came back.
    async fn settle(&mut self, outcome: Outcome) -> Result<(), Failure> {
        self.flushers[outcome.partition].busy = false;
        let settled = outcome.result?;
        let positions = &settled.conflicts.positions;
        let unfit: Vec<usize> = settled.unfit.iter().map(|(i, _)| *i).collect();
        let stays = |i: &usize| settled.unseen.contains(i) || positions.contains(i) || unfit.contains(i);
        let flushed = outcome.keys.iter().enumerate().filter(|(i, _)| !stays(i)).map(|(_, key)| key);
        self.view.flushed.fetch_add(flushed.clone().count() as u64, Ordering::Relaxed);
        self.view.fit(flushed);
        for (i, why) in settled.unfit {
            self.set_aside(outcome.keys[i].clone(), why).await?;
        }
        if let Mode::Drain(d) = &mut self.mode
            && let Some(batch) = d.batches.remove(&outcome.partition)
        {
            for (i, (key, xid)) in batch.keys.into_iter().zip(batch.xids).enumerate() {
                if settled.unseen.contains(&i) || positions.contains(&i) {
                    self.keep_pending(key, xid);
                }
            }
            return Ok(());
        }
        let worst = self.backlog.settle(outcome.partition, &settled.unseen, positions);
        if let Some((key, count)) = worst
            && count >= CONFLICTS
            && outcome.keys.iter().position(|k| *k == key).is_none_or(|i| !settled.unseen.contains(&i))
        {
            let why = self.conflict(&key, settled.conflicts.error);
            self.set_aside(key.clone(), why).await?;
            self.backlog.forget(&key);
        }
        self.answer_settled();
        Ok(())
    }

    /// A row that does not fit ends the run; on the way back, its key waits in the journal for whoever corrects it.
    async fn set_aside(&mut self, key: Key, why: Failure) -> Result<(), Failure> {
        if self.job.unfit == Unfit::End {
            return Err(why);
        }
        self.keep_pending(key.clone(), 0);
        // Before the key is retired, since nothing holds the stream back for it afterwards.
        self.write_journal().await?;
        let text = format!("{}: it stays out of the old table", why.primary);
        if self.view.set_aside(&key, why) {
            self.job.reporter.say(crate::report::Event::Warning { text });
        }
        Ok(())
    }

    fn conflict(&self, key: &Key, error: Option<Error>) -> Failure {
        flush::blame::meets(&self.job.plan, &self.job.names, key, error.as_ref())
    }

    fn answer_settled(&mut self) {
        if self.settling.is_empty() || !matches!(self.mode, Mode::Live) {
            return;
        }
        let waiting = std::mem::take(&mut self.settling);
        for (mark, reply) in waiting {
            if self.backlog.retired_before(mark) {
                let _ = reply.send(());
            } else {
                self.settling.push((mark, reply));
            }
        }
    }

    async fn tick(&mut self) -> Result<(), Failure> {
        self.let_go_of_held_keys().await?;
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

    /// What of the stream is journaled or flushed, as far as this task knows.
    fn done_up_to(&self) -> Lsn {
        let unwritten = !self.pending.is_empty() || self.writing.is_some();
        let journaled = match self.mode {
            Mode::Journal | Mode::Drain(_) => unwritten.then_some(self.journaled_end),
            Mode::Live => None,
        };
        outstanding_from(self.last_end, journaled, self.backlog.hold())
    }

    async fn look_at_wal(&mut self) -> Result<(), Failure> {
        let done = self.done_up_to();
        let sql = self.look_sql(done);
        let mut retry = Retry::new();
        let rows = loop {
            match self.conn.simple("look at WAL", &sql).await {
                Ok(rows) => break rows,
                Err(e) => self.mend(e, &mut retry).await?,
            }
        };
        let row = rows.into_iter().next().unwrap_or_default();
        let text = |i: usize| row.get(i).cloned().flatten().unwrap_or_default();
        let lsn = |i: usize| text(i).parse::<Lsn>().map_err(|e| Failure::failed(e.to_string()));
        if text(3) != "t" {
            return Err(self.job.published().changed(&self.conn).await);
        }
        self.near_xid = self.near_xid.max(text(2).parse().unwrap_or(0));
        self.looked_at_wal = Instant::now();
        self.ledger.committed(done, lsn(0)?);
        let standbys = if self.job.failover { standby::parse(&text(4))? } else { Vec::new() };
        self.ledger.flushed(standby::on_every_disk(lsn(1)?, &standbys));
        self.tell_of(&standbys);
        let safe = self.ledger.safe();
        self.safe.send_if_modified(|known| {
            let news = safe > *known;
            if news {
                *known = safe;
            }
            news
        });
        Ok(())
    }

    /// Reads where the WAL is. Where the slot is kept on standbys it first notes, in the WAL and behind all that it speaks
    /// of, what is done: a standby that was promoted holds the slot against that (`crate::slot`).
    fn look_sql(&self, done: Lsn) -> String {
        let look = format!(
            "SELECT pg_current_wal_insert_lsn()::text, pg_current_wal_flush_lsn()::text, \
             pg_snapshot_xmax(pg_current_snapshot())::text, {}",
            self.job.published().unchanged_sql()
        );
        if !self.job.failover {
            return look;
        }
        format!(
            "BEGIN; UPDATE pgrecast.slot SET done = '{done}' WHERE migration = {} AND name = {} AND done < '{done}'; COMMIT; \
             {look}, {}",
            self.job.id,
            Literal(&self.job.slot),
            standby::NAMED
        )
    }

    /// Says once that a standby is away, for the stream waits for it then.
    fn tell_of(&mut self, standbys: &[standby::Standby]) {
        use crate::report::Event;
        let news = match standby::silent(standbys) {
            Some(slots) => Some(Event::Waiting {
                on: format!("the standby of {slots}: until it streams, the server sends no change (synchronized_standby_slots)"),
            }),
            None if self.job.failover && standbys.is_empty() => Some(Event::Warning {
                text: "synchronized_standby_slots names no standby: after a failover this migration may have to begin anew"
                    .to_owned(),
            }),
            None => None,
        };
        if news != self.standbys_said {
            self.standbys_said.clone_from(&news);
            news.into_iter().for_each(|event| self.job.reporter.say(event));
        }
    }

    /// Makes what was received durable. The flushers' last batches are left to themselves: what they were to write
    /// stays unacknowledged.
    async fn leave(&mut self) -> Result<(), Failure> {
        self.write_journal().await?;
        self.look_at_wal().await
    }
}
