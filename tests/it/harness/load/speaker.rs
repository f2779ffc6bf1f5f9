//! One connection that speaks one of the three protocol modes, and times every answer.

use std::time::{Duration, Instant, SystemTime};

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::shape::{Shape, Statement};
use crate::harness::db::{connect, text_rows};

/// How a statement reaches the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One text with its values inside.
    Simple,
    /// Parsed, bound and executed once, without a name.
    Extended,
    /// Named statements that are prepared once and kept for the whole run.
    Prepared,
}

impl Mode {
    /// Connections take turns.
    pub fn of(connection: usize) -> Mode {
        [Mode::Simple, Mode::Extended, Mode::Prepared][connection % 3]
    }
}

/// One answer, and how long it took.
#[derive(Debug, Clone)]
pub struct Answered {
    /// When the statement was sent.
    pub at: SystemTime,
    pub took: Duration,
    pub statement: String,
}

/// The slowest answers that are kept.
const KEPT: usize = 10;

/// A row as text: key, unique, text, number.
pub type TextRow = Vec<Option<String>>;

/// What a statement on one row did.
pub enum Reply {
    Affected(u64),
    Rows(Vec<TextRow>),
}

pub struct Speaker {
    client: Client,
    shape: Shape,
    mode: Mode,
    prepared: Vec<tokio_postgres::Statement>,
    /// Slowest first.
    pub slow: Vec<Answered>,
    pub statements: u64,
}

impl Speaker {
    pub async fn new(client: Client, shape: Shape, mode: Mode) -> Result<Speaker, tokio_postgres::Error> {
        let mut prepared = Vec::new();
        if mode == Mode::Prepared {
            for statement in Statement::ALL {
                prepared.push(client.prepare(&shape.sql(statement, parameter)).await?);
            }
        }
        Ok(Speaker { client, shape, mode, prepared, slow: Vec::new(), statements: 0 })
    }

    /// On a new connection.
    pub async fn again(&mut self, dsn: &str) -> Result<(), tokio_postgres::Error> {
        let client = connect(dsn).await?;
        let new = Speaker::new(client, self.shape.clone(), self.mode).await?;
        (self.client, self.prepared) = (new.client, new.prepared);
        Ok(())
    }

    /// The rows of these keys, given as SQL.
    pub async fn look(&mut self, keys: &str) -> Result<Vec<TextRow>, tokio_postgres::Error> {
        let text = format!("{} WHERE {} IN ({keys})", self.shape.select_all(), self.shape.key.name);
        Ok(text_rows(&self.client.simple_query(&text).await?))
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// A statement on one row.
    pub async fn say(&mut self, statement: Statement, args: &[Option<String>]) -> Result<Reply, tokio_postgres::Error> {
        let (at, begun) = (SystemTime::now(), Instant::now());
        let reply = self.send(statement, args).await;
        self.note(at, begun, &format!("{statement:?} of {}", args[0].as_deref().unwrap_or("")));
        reply
    }

    /// `BEGIN` and its like.
    pub async fn control(&mut self, text: &str) -> Result<(), tokio_postgres::Error> {
        let (at, begun) = (SystemTime::now(), Instant::now());
        let reply = self.client.batch_execute(text).await;
        self.note(at, begun, text);
        reply
    }

    /// A statement on many rows, in the simple protocol; it may take long, so its time does not count.
    pub async fn bulk(&mut self, text: &str) -> Result<u64, tokio_postgres::Error> {
        self.statements += 1;
        self.client.simple_query(text).await.map(|answer| affected(&answer))
    }

    async fn send(&self, statement: Statement, args: &[Option<String>]) -> Result<Reply, tokio_postgres::Error> {
        let reads = statement == Statement::Read;
        let untyped: Vec<&(dyn ToSql + Sync)> = args.iter().map(|arg| arg as &(dyn ToSql + Sync)).collect();
        let rows = match self.mode {
            Mode::Simple => {
                let text = self.shape.sql(statement, |i| literal(args[i - 1].as_deref()));
                let answer = self.client.simple_query(&text).await?;
                return Ok(if reads { Reply::Rows(text_rows(&answer)) } else { Reply::Affected(affected(&answer)) });
            }
            Mode::Extended => {
                let text = self.shape.sql(statement, parameter);
                let typed: Vec<(&(dyn ToSql + Sync), Type)> =
                    untyped.into_iter().map(|arg| (arg, Type::TEXT)).collect();
                if !reads {
                    return Ok(Reply::Affected(self.client.execute_typed(&text, &typed).await?));
                }
                self.client.query_typed(&text, &typed).await?
            }
            Mode::Prepared => {
                let prepared = &self.prepared[statement as usize];
                if !reads {
                    return Ok(Reply::Affected(self.client.execute(prepared, &untyped).await?));
                }
                self.client.query(prepared, &untyped).await?
            }
        };
        Ok(Reply::Rows(rows.iter().map(|row| (0..row.len()).map(|i| row.get(i)).collect()).collect()))
    }

    fn note(&mut self, at: SystemTime, begun: Instant, statement: &str) {
        self.statements += 1;
        let took = begun.elapsed();
        if self.slow.len() < KEPT || self.slow.last().is_some_and(|slow| took > slow.took) {
            let place = self.slow.partition_point(|slow| slow.took >= took);
            self.slow.insert(place, Answered { at, took, statement: statement.into() });
            self.slow.truncate(KEPT);
        }
    }
}

fn parameter(i: usize) -> String {
    format!("${i}::text")
}

pub fn literal(value: Option<&str>) -> String {
    value.map_or("NULL".into(), |value| pgrecast::pg::Literal(value).to_string())
}

fn affected(answer: &[SimpleQueryMessage]) -> u64 {
    let complete = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
        _ => None,
    };
    answer.iter().filter_map(complete).sum()
}
