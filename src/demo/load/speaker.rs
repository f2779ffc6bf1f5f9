//! One connection that speaks one of the three protocol modes.

use std::num::ParseIntError;

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{SimpleQueryMessage, Statement};

use crate::demo::table;
use crate::error::Failure;

/// Keys that a scan reads.
pub const SCANNED: i64 = 100;

/// What a client can ask for. Each takes one or two numbers and answers with one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// An order's amount, by its key.
    Read,
    /// How many of the [`SCANNED`] orders from this key on there are.
    Scan,
    /// How many orders a customer has.
    Customer,
    /// A new order of a customer, with an amount; its key.
    Insert,
    /// Another amount for an order; its key.
    Update,
}

impl Ask {
    const ALL: [Ask; 5] = [Ask::Read, Ask::Scan, Ask::Customer, Ask::Insert, Ask::Update];

    /// The key goes in and out as the type that it will have, as in an application that is ready for the change: a
    /// prepared statement whose result changes its type fails in PostgreSQL, however the column is changed.
    fn sql(self) -> &'static str {
        match self {
            Ask::Read => "SELECT (amount * 100)::bigint::text FROM public.orders WHERE id = $1::bigint",
            Ask::Scan => "SELECT count(note)::text FROM public.orders WHERE id >= $1::bigint AND id < $1::bigint + 100",
            Ask::Customer => "SELECT count(note)::text FROM public.orders WHERE customer_id = $1::bigint",
            Ask::Insert => {
                "INSERT INTO public.orders (customer_id, status, amount, placed_at, note)
                 VALUES ($1::bigint, 'new', $2::bigint::numeric / 100, now(), 'from the load') RETURNING id::text"
            }
            Ask::Update => {
                "UPDATE public.orders SET status = 'paid', amount = $2::bigint::numeric / 100
                 WHERE id = $1::bigint RETURNING id::text"
            }
        }
    }

    /// How many numbers it takes.
    fn arity(self) -> usize {
        match self {
            Ask::Read | Ask::Scan | Ask::Customer => 1,
            Ask::Insert | Ask::Update => 2,
        }
    }
}

/// How a statement reaches the server.
#[derive(Debug)]
enum Mode {
    /// One text with its values inside.
    Simple,
    /// Parsed, bound and executed in one go, without a name.
    Extended,
    /// Prepared once, in the order of [`Ask::ALL`], and kept for the whole run.
    Prepared(Vec<Statement>),
}

/// A connection and its mode.
#[derive(Debug)]
pub struct Speaker {
    client: tokio_postgres::Client,
    mode: Mode,
}

impl Speaker {
    /// Clients take turns with the modes.
    pub async fn connect(dsn: &str, number: usize) -> Result<Speaker, Failure> {
        let client = table::connect(dsn).await?;
        let mode = match number % 3 {
            0 => Mode::Simple,
            1 => Mode::Extended,
            _ => Mode::Prepared(prepare(&client).await.map_err(|e| Failure::failed(words(&e)))?),
        };
        Ok(Speaker { client, mode })
    }

    /// Asks, and returns the number in the only row; none where there is no row.
    pub async fn ask(&self, ask: Ask, numbers: [i64; 2]) -> Result<Option<i64>, String> {
        self.send(ask, numbers)
            .await
            .map_err(|e| words(&e))?
            .map(|text| text.parse().map_err(|e: ParseIntError| format!("answered {text:?}: {e}")))
            .transpose()
    }

    async fn send(&self, ask: Ask, numbers: [i64; 2]) -> Result<Option<String>, tokio_postgres::Error> {
        let rows = match &self.mode {
            Mode::Simple => {
                let sql = ask.sql().replace("$1", &numbers[0].to_string()).replace("$2", &numbers[1].to_string());
                return self.client.simple_query(&sql).await.map(|messages| first_text(&messages));
            }
            Mode::Extended => {
                let typed = numbers.each_ref().map(|number| (number as &(dyn ToSql + Sync), Type::INT8));
                self.client.query_typed(ask.sql(), &typed[..ask.arity()]).await?
            }
            Mode::Prepared(statements) => {
                let params = numbers.each_ref().map(|number| number as &(dyn ToSql + Sync));
                self.client.query(&statements[ask as usize], &params[..ask.arity()]).await?
            }
        };
        rows.first().map(|row| row.try_get(0)).transpose()
    }

    /// Whether there is nobody to ask any more.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }
}

async fn prepare(client: &tokio_postgres::Client) -> Result<Vec<Statement>, tokio_postgres::Error> {
    futures_util::future::try_join_all(Ask::ALL.map(|ask| client.prepare(ask.sql()))).await
}

fn first_text(messages: &[SimpleQueryMessage]) -> Option<String> {
    messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    })
}

fn words(error: &tokio_postgres::Error) -> String {
    crate::pg::Error::from_client("load", error).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_has_the_place_of_its_number_and_the_parameters_it_takes() {
        for (index, ask) in Ask::ALL.into_iter().enumerate() {
            assert_eq!(ask as usize, index);
            assert_eq!(ask.sql().contains("$2"), ask.arity() == 2, "{ask:?}");
        }
        assert!(Ask::Scan.sql().contains(&format!("+ {SCANNED}")));
    }
}
