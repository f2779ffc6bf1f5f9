//! Follows every concurrent change: from the stream to the journal, from the journal to the flushers.
//!
//! One task owns the backlog and decides; a reader task receives, a writer task journals, a drainer task reads the journal
//! again, flusher tasks flush. None of them waits for another's question to the server. The task is in one of three
//! modes: it journals (during copy and index builds nothing may be flushed, rule 4), it drains the journal table while
//! new keys go to a younger generation of it, or it is live and keys stay in memory. It goes from one to the next by
//! itself once it is told to catch up, and back to draining when the backlog outgrows its memory.

mod applier;
mod drainer;
mod reader;
mod together;
mod writer;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot, watch};

pub use reader::{Positions, connect};
pub use together::{drain_all, failed_any, hurry_all, settle_all, start_all, stop_all};

use crate::copy;
use crate::error::Failure;
use crate::pg::{Connector, Lsn};
use crate::plan::types::{Names, Plan};
use crate::published::Published;
use crate::report::Reporter;
use crate::stream::{Event, Key};
use crate::throttle::Throttle;

/// How long a stop may take: the server may be gone.
const LEAVE_WITHIN: std::time::Duration = std::time::Duration::from_secs(3);

/// What following needs.
pub struct Job {
    /// Connections.
    pub connector: Connector,
    /// The migration, or one of its tables.
    pub id: i32,
    /// The backend that holds the lease.
    pub lease: i32,
    /// Its plan.
    pub plan: Arc<Plan>,
    /// Its names.
    pub names: Names,
    /// The source's columns, as every transaction must find them.
    pub columns: String,
    /// Its slot.
    pub slot: String,
    /// The slot is kept on standbys.
    pub failover: bool,
    /// Flushers.
    pub jobs: usize,
    /// Told when a TRUNCATE ends the copy.
    pub copy: Arc<copy::Progress>,
    /// What holds the flushers back.
    pub throttle: Throttle,
    /// What becomes of a row that does not fit.
    pub unfit: Unfit,
    /// Where that is said.
    pub reporter: Reporter,
}

impl Job {
    fn published(&self) -> Published<'_> {
        Published { id: self.names.head(), names: &self.names, source: &self.plan.source }
    }
}

/// What becomes of a changed row that the other table does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// It ends the run: there will be no swap.
    End,
    /// It is said and set aside: the application uses a table that it fits.
    SetAside,
}

/// What is to be seen of it from outside.
#[derive(Debug, Default)]
pub struct View {
    /// Keys that wait: in memory, and in the journal table as far as counted.
    pub backlog: AtomicU64,
    /// Keys that the stream brought, the same key counted each time.
    pub journaled: AtomicU64,
    /// Keys flushed.
    pub flushed: AtomicU64,
    /// Keys go from the stream to the flushers without touching the journal table.
    pub live: AtomicBool,
    /// Where the stream is.
    pub positions: Arc<Positions>,
    /// Keys of rows that do not fit, and why.
    unfit: Mutex<HashMap<Key, Failure>>,
}

impl View {
    /// Why rows do not fit, each named by its key, in the order of the words.
    pub fn unfit(&self) -> Vec<Failure> {
        let unfit = self.unfit.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<Failure> = unfit.values().cloned().collect();
        all.sort_by(|a, b| a.primary.cmp(&b.primary));
        all
    }

    /// Keys of rows that do not fit.
    pub fn unfit_keys(&self) -> HashSet<Key> {
        self.unfit.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Sets a key aside; whether that is news.
    fn set_aside(&self, key: &Key, why: Failure) -> bool {
        let mut unfit = self.unfit.lock().unwrap_or_else(PoisonError::into_inner);
        unfit.insert(key.clone(), why).is_none()
    }

    /// These fit now.
    fn fit<'a>(&self, keys: impl Iterator<Item = &'a Key>) {
        let mut unfit = self.unfit.lock().unwrap_or_else(PoisonError::into_inner);
        if !unfit.is_empty() {
            keys.for_each(|key| drop(unfit.remove(key)));
        }
    }
}

/// What the task is asked.
enum Command {
    CatchUp,
    Settle(oneshot::Sender<()>),
    Hurry,
    Quiesce(oneshot::Sender<()>),
    Drain(oneshot::Sender<Option<Vec<Key>>>),
    GoOn,
    Watch(Vec<Key>, oneshot::Sender<()>),
    Touched(oneshot::Sender<HashSet<Key>>),
    Stop,
}

/// The task that reads the stream: it ends with the last who takes from it.
struct ReaderTask(tokio::task::JoinHandle<()>);

impl Drop for ReaderTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One end of the stream.
struct Taking {
    events: mpsc::Receiver<Result<Vec<Event>, Failure>>,
    safe: watch::Sender<Lsn>,
    reader: Arc<ReaderTask>,
}

/// The handle of a running follower.
pub struct Follower {
    commands: mpsc::Sender<Command>,
    task: tokio::sync::Mutex<Option<tokio::task::JoinHandle<Result<(), Failure>>>>,
    view: Arc<View>,
}

impl Follower {
    /// Starts to follow one table.
    pub async fn start(job: Job) -> Result<Follower, Failure> {
        let started = start_all(vec![job]).await?.pop();
        started.ok_or_else(|| Failure::failed("there is nothing to follow"))
    }

    async fn begin(job: Job, positions: &Arc<Positions>, taking: Taking) -> Result<Follower, Failure> {
        let view = Arc::new(View { positions: positions.clone(), ..View::default() });
        let (commands, asked) = mpsc::channel(64);
        let applier = applier::Applier::new(job, view.clone(), taking).await?;
        let task = tokio::spawn(applier.run(asked));
        Ok(Follower { commands, task: tokio::sync::Mutex::new(Some(task)), view })
    }

    /// What it is at.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Waits until following has failed; never returns while it goes on.
    pub async fn failed(&self) -> Failure {
        self.commands.closed().await;
        self.verdict().await
    }

    /// Why the task ended.
    async fn verdict(&self) -> Failure {
        let ended = match self.task.lock().await.take() {
            Some(task) => task.await,
            None => Ok(Ok(())),
        };
        match ended {
            Ok(Err(failure)) => failure,
            Ok(Ok(())) => Failure::failed("the change stream is not followed any more"),
            Err(panic) => Failure::failed(format!("the task that follows the change stream died: {panic}")),
        }
    }

    /// Sends a question whose answer is waited for later.
    async fn put<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<oneshot::Receiver<T>, Failure> {
        let (sender, answer) = oneshot::channel();
        self.tell(command(sender)).await?;
        Ok(answer)
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Failure> {
        let answer = self.put(command).await?;
        self.answered(answer).await
    }

    async fn answered<T>(&self, answer: oneshot::Receiver<T>) -> Result<T, Failure> {
        match answer.await {
            Ok(answer) => Ok(answer),
            Err(_) => Err(self.verdict().await),
        }
    }

    async fn tell(&self, command: Command) -> Result<(), Failure> {
        match self.commands.send(command).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.verdict().await),
        }
    }

    /// The copy is complete and the shadow has its key: flush from now on.
    pub async fn catch_up(&self) -> Result<(), Failure> {
        self.tell(Command::CatchUp).await
    }

    /// Returns once everything committed before the call has been received and flushed.
    pub async fn settle(&self) -> Result<(), Failure> {
        self.ask(Command::Settle).await
    }

    /// Flushes at once, until [`Follower::go_on`], what would otherwise be gathered for a moment.
    pub async fn hurry(&self) -> Result<(), Failure> {
        self.tell(Command::Hurry).await
    }

    /// Returns once no flusher is at work; none will be until [`Follower::go_on`]. The stream is received all the same.
    pub async fn quiesce(&self) -> Result<(), Failure> {
        self.ask(Command::Quiesce).await
    }

    /// Returns once everything committed before the call has been received, and a TRUNCATE carried out.
    pub async fn receive(&self) -> Result<(), Failure> {
        self.drain().await.map(|_| ())
    }

    /// The keys still to be flushed after everything committed before the call has been received; they stay. `None`
    /// where they are so many that they went to the journal table.
    pub async fn drain(&self) -> Result<Option<Vec<Key>>, Failure> {
        self.ask(Command::Drain).await
    }

    /// Lets the flushers work again.
    pub async fn go_on(&self) -> Result<(), Failure> {
        self.tell(Command::GoOn).await
    }

    /// Remembers from now on which of these keys the stream brings.
    pub async fn watch(&self, keys: Vec<Key>) -> Result<(), Failure> {
        self.ask(|reply| Command::Watch(keys, reply)).await
    }

    /// Watched keys that the stream has brought.
    pub async fn touched(&self) -> Result<HashSet<Key>, Failure> {
        self.ask(Command::Touched).await
    }

    /// Stops: what is received is made durable and acknowledged first, as far as that is possible soon. What is not
    /// acknowledged, the slot sends again to the next run.
    pub async fn stop(&self) -> Result<(), Failure> {
        let Some(mut task) = self.task.lock().await.take() else { return Ok(()) };
        let stopped = tokio::time::timeout(LEAVE_WITHIN, async {
            // A task that has ended already says why below.
            let _ = self.commands.send(Command::Stop).await;
            (&mut task).await
        });
        match stopped.await {
            Ok(Ok(ended)) => ended,
            Ok(Err(panic)) => Err(Failure::failed(format!("the task that follows the change stream died: {panic}"))),
            Err(_) => {
                task.abort();
                Ok(())
            }
        }
    }
}
