//! Reads the change stream, and answers the server.
//!
//! The loop's priorities are the order of its `select!`: hand over what is decoded, tell the server what is safe, read
//! more. It never stops answering, however slow its consumer is (PostgreSQL manual, 55.4, "Standby status update").

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::error::Failure;
use crate::pg::connector::{LOOK_FOR_SERVER, STARTED};
use crate::pg::replication::{Frame, Login, Replication, Stream};
use crate::pg::{Connector, Error, Ident, Lsn};
use crate::plan::types::{Names, Plan};
use crate::published;
use crate::retry::Retry;
use crate::stream::{Assembler, Event, KeyReader, decode};

/// The most keys of one part of a transaction.
const PART_KEYS: usize = 2_048;

/// Keys held before reading pauses; a part of a transaction may come on top.
const HELD_KEYS: usize = 2_048;

/// How often the server hears from us at least.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// What the reader needs.
pub struct Source {
    /// Connections; pinned to the server that the first session reached.
    pub connector: Connector,
    /// The plan.
    pub plan: Arc<Plan>,
    /// The slot.
    pub slot: String,
    /// The migration's names.
    pub names: Names,
}

/// Positions for whoever shows or checks them.
#[derive(Debug, Default)]
pub struct Positions {
    /// The stream has been received up to here.
    pub received: AtomicU64,
}

/// Opens a replication connection.
pub async fn connect(connector: &Connector) -> Result<Replication, Error> {
    let target = connector.target();
    let wire = target.open().await?;
    let own = connector.replication_options();
    let login = Login {
        user: target.user().to_owned(),
        password: target.password().map(str::to_owned),
        dbname: target.dbname().to_owned(),
        application_name: "pgrecast stream".to_owned(),
        options: format!("{} {own}", target.options()).trim().to_owned(),
        tls_server_end_point: wire.tls_server_end_point,
    };
    let mut replication = Replication::login(wire.stream, login).await?;
    let started = replication.simple_query(LOOK_FOR_SERVER, STARTED).await?.into_iter().flatten().flatten().next();
    connector.check_server(started.as_deref())?;
    Ok(replication)
}

/// Reads until the consumer is gone. Connections that break are opened again.
///
/// # Errors
/// What another connection would not mend: the slot is gone, the publication does not show the key.
pub async fn read(
    source: Source,
    events: mpsc::Sender<Vec<Event>>,
    safe: watch::Receiver<Lsn>,
    positions: Arc<Positions>,
) -> Result<(), Failure> {
    let mut retry = Retry::new();
    loop {
        let from = *safe.borrow();
        let started = match start(&source, from).await {
            Ok(stream) => pump(&source, stream, &events, safe.clone(), &positions, &mut retry).await,
            Err(e) => Err(Broken::Server(e)),
        };
        match started {
            Ok(()) => return Ok(()),
            Err(Broken::Server(e)) if is_slot_gone(&e) => return Err(slot_gone(&source, &e)),
            Err(Broken::Server(e)) => retry.after(e).await?,
            Err(Broken::Stream(failure)) => return Err(failure),
        }
    }
}

enum Broken {
    Server(Error),
    Stream(Failure),
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Broken::Server(error)
    }
}

fn is_slot_gone(error: &Error) -> bool {
    use tokio_postgres::error::SqlState;
    // 55000 is what an invalidated slot answers.
    error.is(&SqlState::UNDEFINED_OBJECT) || error.is(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE)
}

fn slot_gone(source: &Source, error: &Error) -> Failure {
    let why = error.detail.as_ref().map(|why| format!("{why} ")).unwrap_or_default();
    Failure::failed(format!("replication slot {} cannot be read any more: {}", source.slot, error.message))
        .detail(format!("{why}Changes may have been missed, so this migration cannot go on."))
        .hint(format!(
            "{} The slot is gone where somebody dropped it, or where max_slot_wal_keep_size was too small.",
            published::way_out(&source.names)
        ))
        .caused_by(error)
}

async fn start(source: &Source, from: Lsn) -> Result<Stream, Error> {
    let replication = connect(&source.connector).await?;
    let publications = Ident(&source.names.publication()).to_string();
    replication
        .start(
            &source.slot,
            from,
            &[("proto_version", "1"), ("publication_names", &publications), ("messages", "true")],
        )
        .await
}

async fn pump(
    source: &Source,
    mut stream: Stream,
    events: &mpsc::Sender<Vec<Event>>,
    mut safe: watch::Receiver<Lsn>,
    positions: &Positions,
    retry: &mut Retry,
) -> Result<(), Broken> {
    let leaves = source.plan.leaves().into_iter().map(|leaf| leaf.shape.oid).collect::<Vec<_>>();
    let reader = KeyReader::new(leaves, source.plan.key_names());
    let mut intake = Intake {
        assembler: Assembler::new(reader, PART_KEYS),
        held: Vec::new(),
        counted: 0,
        keys: 0,
        received: Lsn::ZERO,
    };
    let mut status = tokio::time::interval(STATUS_EVERY);
    loop {
        tokio::select! {
            biased;
            permit = events.reserve(), if !intake.held.is_empty() => match permit {
                Ok(permit) => permit.send(intake.hand_over()),
                Err(_) => return Ok(stream.stop().await?),
            },
            () = events.closed() => return Ok(stream.stop().await?),
            _ = status.tick() => report(&mut stream, &intake, &mut safe).await?,
            Ok(()) = safe.changed() => report(&mut stream, &intake, &mut safe).await?,
            frame = stream.next(), if intake.has_room() => {
                let mut reply = intake.take(frame?).map_err(|why| unreadable(source, &why))?;
                while intake.has_room() {
                    let Some(frame) = stream.try_next_buffered()? else { break };
                    reply |= intake.take(frame).map_err(|why| unreadable(source, &why))?;
                }
                positions.received.store(intake.received.0, Ordering::Relaxed);
                retry.reset();
                if reply {
                    report(&mut stream, &intake, &mut safe).await?;
                }
            }
        }
    }
}

async fn report(stream: &mut Stream, intake: &Intake, safe: &mut watch::Receiver<Lsn>) -> Result<(), Error> {
    let flushed = *safe.borrow_and_update();
    stream.status(intake.received.max(flushed), flushed).await
}

/// Frames become events.
struct Intake {
    assembler: Assembler,
    held: Vec<Event>,
    /// How many of the events held have been counted, and the keys in them; an event without any counts as one.
    counted: usize,
    keys: usize,
    received: Lsn,
}

impl Intake {
    /// Whether more may be read before what is held is handed over.
    fn has_room(&mut self) -> bool {
        let keys = |event: &Event| match event {
            Event::Changes { keys, .. } => keys.len().max(1),
            Event::Truncated { .. } | Event::Barrier { .. } | Event::Schema(_) | Event::Empty { .. } => 1,
        };
        self.keys += self.held[self.counted..].iter().map(keys).sum::<usize>();
        self.counted = self.held.len();
        self.keys < HELD_KEYS
    }

    fn hand_over(&mut self) -> Vec<Event> {
        (self.counted, self.keys) = (0, 0);
        std::mem::take(&mut self.held)
    }

    /// Takes a frame; says whether the server wants an answer, or why the frame cannot be read.
    fn take(&mut self, frame: Frame) -> Result<bool, String> {
        match frame {
            Frame::XLogData { end, data, .. } => {
                let message = decode(data).map_err(|e| e.to_string())?;
                self.assembler.feed(&message, &mut self.held).map_err(|e| e.to_string())?;
                self.received = self.received.max(end);
                Ok(false)
            }
            Frame::Keepalive { end, reply_requested } => {
                self.received = self.received.max(end);
                if !self.assembler.in_transaction() {
                    // Everything that was committed before this position has been sent.
                    self.held.push(Event::Empty { commit_end: end });
                }
                Ok(reply_requested)
            }
        }
    }
}

fn unreadable(source: &Source, why: &str) -> Broken {
    let failure = Failure::failed(format!("the change stream cannot be followed: {why}"))
        .detail("The table's key, its replica identity or the publication may have been changed.")
        .hint(published::way_out(&source.names));
    Broken::Stream(failure)
}
