//! A failed statement, with everything the server said and what may be done about it.

use std::fmt;

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::ErrorFields;
use tokio_postgres::error::SqlState;

/// What a caller may do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The same call may succeed later: lock timeout, deadlock, serialization failure, too many connections.
    Retry,
    /// The connection is gone; a new one may do.
    Reconnect,
    /// It will fail again.
    Stop,
}

/// An error of one named statement or connection attempt.
#[derive(Debug, Clone)]
pub struct Error {
    /// The statement's name, as logs and `docs/operate.md` spell it.
    pub statement: &'static str,
    /// The five-character code, where the server answered.
    pub sqlstate: Option<SqlState>,
    /// The primary message: the server's, or the client's cause chain.
    pub message: String,
    /// The server's detail.
    pub detail: Option<String>,
    /// The server's hint.
    pub hint: Option<String>,
    /// The table the server named.
    pub table: Option<Box<str>>,
    /// The column the server named.
    pub column: Option<String>,
    /// The constraint the server named.
    pub constraint: Option<String>,
    /// No answer came: connection lost, refused, timed out.
    pub connection_lost: bool,
}

impl Error {
    /// From the client library, whose own text is just `db error`: takes the fields the server sent.
    pub fn from_client(statement: &'static str, error: &tokio_postgres::Error) -> Self {
        if let Some(db) = error.as_db_error() {
            return Error {
                statement,
                sqlstate: Some(db.code().clone()),
                message: db.message().to_owned(),
                detail: db.detail().map(str::to_owned),
                hint: db.hint().map(str::to_owned),
                table: db.table().map(Box::from),
                column: db.column().map(str::to_owned),
                constraint: db.constraint().map(str::to_owned),
                connection_lost: is_shutdown(db.code()),
            };
        }
        let mut message = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(inner) = cause {
            let text = inner.to_string();
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            cause = inner.source();
        }
        let mut made = Error::client(statement, message);
        made.connection_lost = true;
        made
    }

    /// From the fields of an ErrorResponse (manual 55.8, "Error and Notice Message Fields"), for connections that read
    /// the protocol themselves. A server that fails before the encoding is agreed may send other than UTF-8: such
    /// bytes are replaced.
    pub fn from_fields(statement: &'static str, mut fields: ErrorFields<'_>) -> Self {
        let mut made = Error::client(statement, "");
        while let Ok(Some(field)) = fields.next() {
            let value = || String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'C' => made.sqlstate = Some(SqlState::from_code(&value())),
                b'M' => made.message = value(),
                b'D' => made.detail = Some(value()),
                b'H' => made.hint = Some(value()),
                b't' => made.table = Some(value().into()),
                b'c' => made.column = Some(value()),
                b'n' => made.constraint = Some(value()),
                _ => {}
            }
        }
        made.connection_lost = made.sqlstate.as_ref().is_some_and(is_shutdown);
        made
    }

    /// An error found on this side of the wire.
    pub fn client(statement: &'static str, message: impl Into<String>) -> Self {
        Error {
            statement,
            sqlstate: None,
            message: message.into(),
            detail: None,
            hint: None,
            table: None,
            column: None,
            constraint: None,
            connection_lost: false,
        }
    }

    /// A connection that could not be made or was lost.
    pub fn lost(statement: &'static str, message: impl Into<String>) -> Self {
        Error { connection_lost: true, ..Error::client(statement, message) }
    }

    /// Whether the server answered with this SQLSTATE.
    pub fn is(&self, state: &SqlState) -> bool {
        self.sqlstate.as_ref() == Some(state)
    }

    /// Retry, reconnect or stop. Classes of Appendix A of the PostgreSQL manual.
    pub fn verdict(&self) -> Verdict {
        if self.connection_lost {
            return Verdict::Reconnect;
        }
        match self.sqlstate.as_ref().map(SqlState::code) {
            // serialization failure, deadlock
            Some("40001" | "40P01") => Verdict::Retry,
            // lock not available, object in use
            Some("55P03" | "55006") => Verdict::Retry,
            // insufficient resources: disk full, out of memory, too many connections
            Some(code) if code.starts_with("53") => Verdict::Retry,
            _ => Verdict::Stop,
        }
    }

    /// Whether the server has judged the statement itself, and not been kept from it by a lock, a lost connection or somebody
    /// who cancelled it.
    pub fn is_judgement(&self) -> bool {
        self.verdict() == Verdict::Stop && !self.is(&SqlState::QUERY_CANCELED)
    }

    /// Whether a row's value is to blame: data exceptions (class 22) and integrity violations (class 23).
    pub fn is_data(&self) -> bool {
        self.sqlstate.as_ref().is_some_and(|s| s.code().starts_with("22") || s.code().starts_with("23"))
    }
}

/// `admin_shutdown`, `crash_shutdown`, `cannot_connect_now`, `idle_session_timeout` and class 08 end the session.
fn is_shutdown(state: &SqlState) -> bool {
    let code = state.code();
    code.starts_with("08") || matches!(code, "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "25P04")
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.statement, self.message)?;
        if let Some(state) = &self.sqlstate {
            write!(f, " (SQLSTATE {})", state.code())?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(code: &str) -> Error {
        Error { sqlstate: Some(SqlState::from_code(code)), ..Error::client("test", "") }
    }

    #[test]
    fn what_came_between_is_no_judgement() {
        // Syntax error, datatype mismatch, division by zero.
        assert!(["42601", "42804", "22012"].into_iter().all(|code| answered(code).is_judgement()));
        // Lock timeout, deadlock, cancelled, too many connections.
        assert!(!["55P03", "40P01", "57014", "53300"].into_iter().any(|code| answered(code).is_judgement()));
        assert!(!Error::lost("test", "").is_judgement());
    }
}
