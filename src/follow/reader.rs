//! Reads the change stream, and answers the server.
//!
//! The loop's priorities are the order of its `select!`: hand over what is decoded, tell the server what is safe, read
//! more. It never stops answering, however slow its consumers are (PostgreSQL manual, 55.4, "Standby status update").
//!
//! Tables that are migrated together share one stream, of which each consumer gets what is its table's: every message is
//! decoded once and fed to an assembler for each. What is acknowledged is safe for all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, select_all};
use tokio::sync::{mpsc, watch};

use crate::error::Failure;
use crate::pg::connector::{LOOK_FOR_SERVER, STARTED};
use crate::pg::replication::{Frame, Login, Replication, Stream};
use crate::pg::{Connector, Error, Ident, Lsn};
use crate::plan::rejoin::Holds;
use crate::plan::types::{Names, Plan};
use crate::published;
use crate::retry::Retry;
use crate::stream::{Assembler, Event, KeyReader, Message, decode};

/// The most keys of one part of a transaction.
const PART_KEYS: usize = 2_048;

/// Keys held for one consumer before reading pauses; a part of a transaction may come on top.
const HELD_KEYS: usize = 2_048;

/// How often the server hears from us at least.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// What the reader needs.
pub struct Source {
    /// Connections; pinned to the server that the first session reached.
    pub connector: Connector,
    /// The slot.
    pub slot: String,
    /// The migration's names.
    pub names: Names,
}

/// A table whose changes are read, and who takes them. An error is the last that is said.
pub struct Consumer {
    /// Its plan.
    pub plan: Arc<Plan>,
    /// To whom its changes go.
    pub events: mpsc::Sender<Result<Vec<Event>, Failure>>,
    /// Up to where they are safe with that one.
    pub safe: watch::Receiver<Lsn>,
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

/// Reads until it is dropped, or until what another connection would not mend: the slot is gone, the publication does not
/// show the key. Connections that break are opened again.
pub async fn read(source: Source, consumers: Vec<Consumer>, positions: Arc<Positions>) {
    if let Err(failure) = read_on(&source, &consumers, &positions).await {
        for consumer in consumers {
            // One that is gone needs no answer.
            let _ = consumer.events.send(Err(failure.clone())).await;
        }
    }
}

async fn read_on(source: &Source, consumers: &[Consumer], positions: &Positions) -> Result<(), Failure> {
    let mut retry = Retry::new();
    loop {
        let started = match start(source, safe_for_all(consumers)).await {
            Ok(stream) => pump(source, stream, consumers, positions, &mut retry).await,
            Err(e) => Err(Broken::Server(e)),
        };
        match started {
            // Whose consumer is gone ends the others' work as well, and says why.
            Ok(()) => std::future::pending().await,
            Err(Broken::Server(e)) if is_slot_gone(&e) => return Err(slot_gone(source, &e)),
            Err(Broken::Server(e)) => retry.after(e).await?,
            Err(Broken::Stream(failure)) => return Err(failure),
        }
    }
}

/// Rule 9, for every table: up to where nothing of any of them can be lost any more.
fn safe_for_all(consumers: &[Consumer]) -> Lsn {
    consumers.iter().map(|consumer| *consumer.safe.borrow()).min().unwrap_or(Lsn::ZERO)
}

/// Returns when more is safe for a consumer.
async fn more_is_safe(safe: &mut [watch::Receiver<Lsn>]) {
    let mut changes: Vec<BoxFuture<'_, ()>> = Vec::with_capacity(safe.len());
    for safe in safe {
        changes.push(Box::pin(async {
            // Nothing more comes of a consumer that is gone.
            if safe.changed().await.is_err() {
                std::future::pending().await
            }
        }));
    }
    select_all(changes).await;
}

/// Returns when a consumer is gone.
async fn gone(consumers: &[Consumer]) {
    let mut closed: Vec<BoxFuture<'_, ()>> = Vec::with_capacity(consumers.len());
    for consumer in consumers {
        closed.push(Box::pin(consumer.events.closed()));
    }
    select_all(closed).await;
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
    consumers: &[Consumer],
    positions: &Positions,
    retry: &mut Retry,
) -> Result<(), Broken> {
    let mut intake = Intake { lanes: consumers.iter().map(Lane::new).collect(), received: Lsn::ZERO };
    let mut safe: Vec<watch::Receiver<Lsn>> = consumers.iter().map(|consumer| consumer.safe.clone()).collect();
    let mut status = tokio::time::interval(STATUS_EVERY);
    loop {
        let has_room = intake.has_room();
        tokio::select! {
            biased;
            handed = hand_over(&mut intake.lanes) => match handed {
                Ok(()) => {}
                Err(Gone) => return Ok(stream.stop().await?),
            },
            () = gone(consumers) => return Ok(stream.stop().await?),
            _ = status.tick() => report(&mut stream, &intake, consumers).await?,
            () = more_is_safe(&mut safe) => report(&mut stream, &intake, consumers).await?,
            frame = stream.next(), if has_room => {
                let mut reply = intake.take(frame?).map_err(|why| unreadable(source, &why))?;
                while intake.has_room() {
                    let Some(frame) = stream.try_next_buffered()? else { break };
                    reply |= intake.take(frame).map_err(|why| unreadable(source, &why))?;
                }
                positions.received.store(intake.received.0, Ordering::Relaxed);
                retry.reset();
                if reply {
                    report(&mut stream, &intake, consumers).await?;
                }
            }
        }
    }
}

async fn report(stream: &mut Stream, intake: &Intake, consumers: &[Consumer]) -> Result<(), Error> {
    let flushed = safe_for_all(consumers);
    stream.status(intake.received.max(flushed), flushed).await
}

/// A consumer is.
struct Gone;

/// Hands over what is held, to one consumer after the other; for ever where nothing is held. Dropped half-way, nothing is
/// lost.
async fn hand_over(lanes: &mut [Lane]) -> Result<(), Gone> {
    if lanes.iter().all(|lane| lane.held.is_empty()) {
        std::future::pending::<()>().await;
    }
    for lane in lanes.iter_mut() {
        if lane.held.is_empty() {
            continue;
        }
        let permit = lane.events.clone().reserve_owned().await.map_err(|_| Gone)?;
        permit.send(Ok(lane.hand_over()));
    }
    Ok(())
}

/// Frames become events.
struct Intake {
    lanes: Vec<Lane>,
    received: Lsn,
}

/// What one consumer gets.
struct Lane {
    assembler: Assembler,
    events: mpsc::Sender<Result<Vec<Event>, Failure>>,
    held: Vec<Event>,
    /// How many of the events held have been counted, and the keys in them; an event without any counts as one.
    counted: usize,
    keys: usize,
}

impl Lane {
    fn new(consumer: &Consumer) -> Lane {
        let plan = &consumer.plan;
        let reader = KeyReader::new(plan.leaves().into_iter().map(|leaf| leaf.shape.oid), plan.key_names());
        let reader = plan.besides().iter().fold(reader, |reader, beside| match beside.holds {
            Holds::Columns { .. } | Holds::Rows { .. } => reader.beside(beside.shape.oid, beside.told_by()),
            Holds::Values { .. } => reader.values(beside.shape.oid, beside.told_by()),
        });
        Lane {
            assembler: Assembler::new(reader, PART_KEYS),
            events: consumer.events.clone(),
            held: Vec::new(),
            counted: 0,
            keys: 0,
        }
    }

    fn has_room(&mut self) -> bool {
        let keys = |event: &Event| match event {
            Event::Changes { keys, .. } | Event::Values { keys, .. } => keys.len().max(1),
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

    fn take(&mut self, message: &Message) -> Result<(), String> {
        self.assembler.feed(message, &mut self.held).map_err(|e| e.to_string())
    }
}

impl Intake {
    /// Whether more may be read before what is held is handed over.
    fn has_room(&mut self) -> bool {
        self.lanes.iter_mut().all(Lane::has_room)
    }

    /// Takes a frame; says whether the server wants an answer, or why the frame cannot be read.
    fn take(&mut self, frame: Frame) -> Result<bool, String> {
        match frame {
            Frame::XLogData { end, data, .. } => {
                let message = decode(data).map_err(|e| e.to_string())?;
                self.lanes.iter_mut().try_for_each(|lane| lane.take(&message))?;
                self.received = self.received.max(end);
                Ok(false)
            }
            Frame::Keepalive { end, reply_requested } => {
                self.received = self.received.max(end);
                for lane in self.lanes.iter_mut().filter(|lane| !lane.assembler.in_transaction()) {
                    // Everything that was committed before this position has been sent.
                    lane.held.push(Event::Empty { commit_end: end });
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
