//! Reads a generation of the journal ahead of the flushers.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::writer;
use crate::error::Failure;
use crate::journal::table;
use crate::pg::{Conn, Connector, Error};
use crate::plan::types::{Names, Plan};
use crate::retry::Retry;
use crate::stream::Key;

/// Keys read at a time.
const FETCH_KEYS: usize = 2_000;

/// What the task says.
pub(super) enum Drained {
    /// The next keys, each with its latest transaction.
    Keys(Vec<(Key, u64)>),
    /// There are no more.
    End,
    /// The connection was lost: what was read may be incomplete, and another reading begins at the first key.
    Broken,
}

/// The handle of the task; one generation is read at a time.
pub(super) struct Drainer {
    generations: mpsc::Sender<u32>,
    drained: mpsc::Receiver<Result<Drained, Failure>>,
}

impl Drainer {
    /// Starts the task.
    pub fn start(connector: Connector, plan: Arc<Plan>, names: Names) -> Drainer {
        let (generations, asked) = mpsc::channel(1);
        let (told, drained) = mpsc::channel(1);
        tokio::spawn(run(Source { connector, plan, names }, asked, told));
        Drainer { generations, drained }
    }

    /// Begins to read a generation; the reading before must have ended or broken.
    pub fn open(&self, generation: u32) -> Result<(), Failure> {
        self.generations.try_send(generation).map_err(|_| died())
    }

    /// Waits for more; for ever where nothing is read. Dropped half-way, nothing is lost.
    pub async fn next(&mut self) -> Result<Drained, Failure> {
        self.drained.recv().await.unwrap_or_else(|| Err(died()))
    }
}

fn died() -> Failure {
    Failure::failed("the task that reads the journal died")
}

struct Source {
    connector: Connector,
    plan: Arc<Plan>,
    names: Names,
}

async fn run(source: Source, mut asked: mpsc::Receiver<u32>, told: mpsc::Sender<Result<Drained, Failure>>) {
    let mut conn = None;
    let mut retry = Retry::new();
    while let Some(generation) = asked.recv().await {
        let last = match read(&source, &mut conn, generation, &told).await {
            Ok(()) => {
                retry.reset();
                Ok(Drained::End)
            }
            Err(e) => {
                conn = None;
                retry.after(e).await.map(|()| Drained::Broken)
            }
        };
        // A task that is gone needs no answer.
        if told.send(last).await.is_err() {
            return;
        }
    }
}

async fn read(
    source: &Source,
    conn: &mut Option<Conn>,
    generation: u32,
    told: &mpsc::Sender<Result<Drained, Failure>>,
) -> Result<(), Error> {
    let open = match conn.take() {
        Some(open) => open,
        None => writer::open(&source.connector).await?,
    };
    table::open(&open, &source.plan, &source.names, generation).await?;
    loop {
        let keys = table::fetch(&open, FETCH_KEYS).await?;
        if keys.is_empty() {
            break;
        }
        if told.send(Ok(Drained::Keys(keys))).await.is_err() {
            return Ok(());
        }
    }
    table::close_cursor(&open).await?;
    *conn = Some(open);
    Ok(())
}
