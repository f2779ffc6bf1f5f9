//! Writes received keys to the journal beside the task that decides, so that neither the stream nor the flushers wait for
//! it.

use std::collections::HashMap;

use tokio::sync::mpsc;

use crate::error::Failure;
use crate::journal::table;
use crate::pg::{Conn, Connector, Error, Role};
use crate::plan::types::Names;
use crate::retry::Retry;
use crate::stream::Key;

/// Keys with their latest transactions, for one generation.
pub(super) struct Lot {
    pub generation: u32,
    pub keys: HashMap<Key, u64>,
}

/// The handle of the task; one lot is under way at a time.
pub(super) struct Writer {
    lots: mpsc::Sender<Lot>,
    written: mpsc::Receiver<Result<(), Failure>>,
}

impl Writer {
    /// Starts the task.
    pub fn start(connector: Connector, names: Names) -> Writer {
        let (lots, given) = mpsc::channel(1);
        let (done, written) = mpsc::channel(1);
        tokio::spawn(run(connector, names, given, done));
        Writer { lots, written }
    }

    /// Hands a lot over; the one before must have been written.
    pub fn begin(&self, lot: Lot) -> Result<(), Failure> {
        self.lots.try_send(lot).map_err(|_| died())
    }

    /// Waits until the lot under way is written; for ever where there is none. Dropped half-way, nothing is lost.
    pub async fn written(&mut self) -> Result<(), Failure> {
        self.written.recv().await.unwrap_or_else(|| Err(died()))
    }
}

fn died() -> Failure {
    Failure::failed("the task that writes the journal died")
}

/// Opens a connection to the journal. Its rows are lost together with the acknowledgement that rests on them, so no
/// commit waits for the disk (rule 9).
pub(super) async fn open(connector: &Connector) -> Result<Conn, Error> {
    let conn = connector.open(Role::Journal).await?;
    conn.batch("pin journal settings", "SET synchronous_commit = off").await?;
    Ok(conn)
}

async fn run(
    connector: Connector,
    names: Names,
    mut given: mpsc::Receiver<Lot>,
    done: mpsc::Sender<Result<(), Failure>>,
) {
    let mut conn = None;
    while let Some(lot) = given.recv().await {
        let outcome = write(&connector, &names, &mut conn, &lot).await;
        // A task that is gone needs no answer.
        if done.send(outcome).await.is_err() {
            return;
        }
    }
}

/// Until it is written: a lot whose answer was lost is written twice, which does no harm.
async fn write(connector: &Connector, names: &Names, conn: &mut Option<Conn>, lot: &Lot) -> Result<(), Failure> {
    let mut retry = Retry::new();
    loop {
        match attempt(connector, names, conn, lot).await {
            Ok(()) => return Ok(()),
            Err(e) => {
                *conn = None;
                retry.after(e).await?;
            }
        }
    }
}

async fn attempt(connector: &Connector, names: &Names, conn: &mut Option<Conn>, lot: &Lot) -> Result<(), Error> {
    let open = match conn.take() {
        Some(open) => open,
        None => open(connector).await?,
    };
    let keys = lot.keys.iter().map(|(key, xid)| (key, *xid));
    table::append(&open, names, lot.generation, keys).await?;
    *conn = Some(open);
    Ok(())
}
