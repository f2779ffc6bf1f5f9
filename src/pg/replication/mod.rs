//! A replication-mode connection: make a slot, start its stream, report what is durable (manual 55.4, "Streaming
//! Replication Protocol", and 55.5, "Logical Streaming Replication Protocol").
//!
//! ```text
//! login ─> Replication ─ simple_query, create_slot ─> start ─> Stream ─ next, status ─> stop
//! ```
//!
//! A [`Replication`] answers one command at a time; a [`Stream`] may be read inside `tokio::select!`, since a read that
//! is dropped loses nothing.

mod channel;
mod login;
mod slot;
mod stream;

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncWrite};

use channel::{Channel, Received, unexpected};
pub use login::Login;
pub use slot::{CreatedSlot, SlotOptions};
pub use stream::{Frame, Stream};

use crate::pg::{Error, Ident, Lsn};
use crate::seams;

const START: &str = "start replication";

/// Rows as text, NULL as `None`.
pub type Rows = Vec<Vec<Option<String>>>;

/// A connection in replication mode that waits for a command.
pub struct Replication {
    channel: Channel,
    backend_pid: i32,
    server_major: u32,
    /// A command was sent and its answer not read to the end.
    answering: bool,
}

impl Replication {
    /// Logs in over a stream on which TLS, if any, is already agreed.
    ///
    /// # Errors
    ///
    /// What the server said (28P01: wrong password; 53300: too many connections; 42501: the role may not replicate); an
    /// authentication method other than password, md5 and SCRAM; a lost connection.
    pub async fn login(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        login: Login,
    ) -> Result<Replication, Error> {
        let mut channel = Channel::new(stream);
        let welcome = login::log_in(&mut channel, &login).await?;
        let (backend_pid, server_major) = (welcome.backend_pid, welcome.server_major);
        Ok(Replication { channel, backend_pid, server_major, answering: false })
    }

    /// The server process behind this connection, by which another one can cancel or terminate what it does.
    pub fn backend_pid(&self) -> i32 {
        self.backend_pid
    }

    /// The server's major version.
    pub fn server_major(&self) -> u32 {
        self.server_major
    }

    /// Runs one replication command or plain SQL, of which several statements give their rows one after the other.
    /// `statement` is its name in errors.
    ///
    /// Not to be dropped half-way: what is left of the answer would be taken for the next one's, so every later call is
    /// refused.
    ///
    /// # Errors
    ///
    /// What the server said, after which the connection takes the next command; a lost connection; a value that is not
    /// UTF-8.
    pub async fn simple_query(&mut self, statement: &'static str, sql: &str) -> Result<Rows, Error> {
        seams::before(statement);
        self.send(statement, sql)?;
        let mut rows = Rows::new();
        let mut failed = None;
        loop {
            let received = match self.channel.receive(statement).await {
                Ok(Received::Message(message)) => message,
                Ok(Received::CopyBoth) => return Err(unexpected(statement)),
                // A server that ends the session says why first.
                Err(lost) => return Err(failed.unwrap_or(lost)),
            };
            match received {
                Message::DataRow(row) => match texts(&row) {
                    Ok(row) => rows.push(row),
                    Err(why) => failed = failed.or(Some(Error::client(statement, why))),
                },
                Message::ErrorResponse(error) => {
                    failed = failed.or_else(|| Some(Error::from_fields(statement, error.fields())));
                }
                Message::RowDescription(_) | Message::CommandComplete(_) | Message::EmptyQueryResponse => {}
                Message::ReadyForQuery(_) => break,
                _ => return Err(unexpected(statement)),
            }
        }
        self.answering = false;
        match failed {
            None => {
                seams::after(statement);
                Ok(rows)
            }
            Some(error) => Err(error),
        }
    }

    /// Makes a logical slot of `pgoutput`.
    ///
    /// The server waits for every open write transaction of the cluster to end. To give up waiting, call
    /// `pg_cancel_backend` on [`Replication::backend_pid`] from another connection: the slot is then not made.
    ///
    /// # Errors
    ///
    /// 42710: it exists; 53400: all slots are in use; 57014: canceled; 55000: `wal_level` is not `logical`; failover
    /// asked of a server before 17.
    pub async fn create_slot(&mut self, name: &str, options: SlotOptions) -> Result<CreatedSlot, Error> {
        let command = slot::command(name, options, self.server_major)?;
        let rows = self.simple_query(slot::CREATE_SLOT, &command).await?;
        slot::created(&rows).ok_or_else(|| unexpected(slot::CREATE_SLOT))
    }

    /// Starts a slot's stream with the output plugin's options (manual 55.5.1).
    ///
    /// The server starts at `start_lsn` or at what the slot has confirmed, whichever is later; [`Lsn::ZERO`] leaves it to
    /// the slot. `publication_names` is a list of identifiers, quoted as such: see [`crate::pg::sql::ident_list`].
    ///
    /// # Errors
    ///
    /// 42704: no such slot; 55006: another connection has it; 55000: it lost its WAL. An unknown publication is reported
    /// by the stream.
    pub async fn start(mut self, slot: &str, start_lsn: Lsn, options: &[(&str, &str)]) -> Result<Stream, Error> {
        self.send(START, &start_command(slot, start_lsn, options))?;
        match self.channel.receive(START).await? {
            Received::CopyBoth => Ok(Stream::new(self.channel, self.backend_pid)),
            Received::Message(Message::ErrorResponse(error)) => Err(Error::from_fields(START, error.fields())),
            Received::Message(_) => Err(unexpected(START)),
        }
    }

    /// Ends the session in order. Dropping the connection ends it as well, once the server notices.
    pub async fn close(self) {
        self.channel.close("close replication").await;
    }

    fn send(&mut self, statement: &'static str, sql: &str) -> Result<(), Error> {
        if self.answering {
            return Err(Error::client(statement, "an earlier command on this connection was abandoned"));
        }
        self.channel.queue(statement, |out| frontend::query(sql, out))?;
        self.answering = true;
        Ok(())
    }
}

/// Option values are plain literals: the grammar of replication commands has no `E''` form, and takes a backslash as it
/// stands.
fn start_command(slot: &str, start_lsn: Lsn, options: &[(&str, &str)]) -> String {
    let option = |(name, value): &(&str, &str)| format!("{} '{}'", Ident(name), value.replace('\'', "''"));
    let options = options.iter().map(option).collect::<Vec<_>>().join(", ");
    format!("START_REPLICATION SLOT {} LOGICAL {start_lsn} ({options})", Ident(slot))
}

/// The columns of a row in text format.
fn texts(row: &DataRowBody) -> Result<Vec<Option<String>>, String> {
    let text = |range: Option<std::ops::Range<usize>>| match range.map(|range| row.buffer()[range].to_vec()) {
        None => Ok(None),
        Some(bytes) => String::from_utf8(bytes).map(Some).map_err(std::io::Error::other),
    };
    row.ranges().map(text).collect().map_err(|error| format!("unreadable row from the server: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_quoted_as_the_replication_grammar_has_it() {
        let options = [("proto_version", "1"), ("publication_names", r#""it's","a\b""#)];
        assert_eq!(
            start_command("s", Lsn(0x1_0000_0002), &options),
            r#"START_REPLICATION SLOT "s" LOGICAL 1/2 ("proto_version" '1', "publication_names" '"it''s","a\b"')"#
        );
    }
}
