//! A database for one test, and sessions in it.

use std::sync::atomic::{AtomicU32, Ordering};

use pgrecast::demo::Server;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::RUNTIME;

/// A fresh database, and a session of the superuser in it. It goes with its server.
pub struct Db {
    name: String,
    dsn: String,
    session: Session,
}

impl Db {
    /// A database in the shared server.
    pub fn new() -> Db {
        Db::on(super::server())
    }

    /// A database in this server.
    pub fn on(server: &Server) -> Db {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", COUNTER.fetch_add(1, Ordering::Relaxed));
        Session::connect(&server.dsn()).sql(&format!("CREATE DATABASE {name}"));
        let dsn = server.dsn_of(&name);
        let session = Session::connect(&dsn);
        Db { name, dsn, session }
    }

    /// The same database on a standby of its server.
    pub fn on_standby(&self, standby: &Server) -> Db {
        let dsn = standby.dsn_of(&self.name);
        let session = Session::connect(&dsn);
        Db { name: self.name.clone(), dsn, session }
    }

    /// The same database with a new session, after its server was restarted.
    pub fn again(&self) -> Db {
        Db { name: self.name.clone(), dsn: self.dsn.clone(), session: Session::connect(&self.dsn) }
    }

    /// The database's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The server's major version.
    pub fn major(&self) -> u32 {
        let text = self.query_one_text("SELECT current_setting('server_version_num')::int / 10000");
        text.parse().expect("a version number")
    }

    /// How the superuser reaches it.
    pub fn dsn(&self) -> &str {
        &self.dsn
    }

    /// Another session of the superuser.
    pub fn connect(&self) -> Session {
        Session::connect(&self.dsn)
    }

    /// Runs statements that must succeed.
    pub fn sql(&self, text: &str) {
        self.session.sql(text);
    }

    /// The only column of the only row, as text; the empty string for NULL.
    pub fn query_one_text(&self, text: &str) -> String {
        self.session.query_one_text(text)
    }

    /// All rows, every value as text.
    pub fn rows(&self, text: &str) -> Vec<Vec<Option<String>>> {
        self.session.rows(text)
    }

    /// The same of a query that may fail.
    pub fn try_rows(&self, text: &str) -> Result<Vec<Vec<Option<String>>>, Box<pgrecast::pg::Error>> {
        self.session.try_rows(text)
    }
}

/// One connection, used from a plain thread.
pub struct Session {
    client: Client,
}

impl Session {
    /// Connects, or panics.
    pub fn connect(dsn: &str) -> Session {
        Session::try_connect(dsn).unwrap_or_else(|e| panic!("no connection: {e}"))
    }

    /// Connects.
    pub fn try_connect(dsn: &str) -> Result<Session, Box<pgrecast::pg::Error>> {
        RUNTIME
            .block_on(connect(dsn))
            .map(|client| Session { client })
            .map_err(|e| Box::new(pgrecast::pg::Error::from_client("connect", &e)))
    }

    /// Runs statements that must succeed.
    pub fn sql(&self, text: &str) {
        self.try_sql(text).unwrap_or_else(|e| panic!("{e}\nin {text}"));
    }

    /// Runs statements that may fail.
    pub fn try_sql(&self, text: &str) -> Result<(), Box<pgrecast::pg::Error>> {
        let ran = RUNTIME.block_on(self.client.batch_execute(text));
        ran.map_err(|e| Box::new(pgrecast::pg::Error::from_client("test", &e)))
    }

    /// The only column of the only row, as text; the empty string for NULL.
    pub fn query_one_text(&self, text: &str) -> String {
        let mut rows = self.rows(text);
        assert!(rows.len() == 1 && rows[0].len() == 1, "expected one value from {text}, got {rows:?}");
        rows[0][0].take().unwrap_or_default()
    }

    /// All rows, every value as text.
    pub fn rows(&self, text: &str) -> Vec<Vec<Option<String>>> {
        self.try_rows(text).unwrap_or_else(|e| panic!("{e}\nin {text}"))
    }

    /// The same of a query that may fail.
    pub fn try_rows(&self, text: &str) -> Result<Vec<Vec<Option<String>>>, Box<pgrecast::pg::Error>> {
        let answer = RUNTIME.block_on(self.client.simple_query(text));
        answer.map(|answer| text_rows(&answer)).map_err(|e| Box::new(pgrecast::pg::Error::from_client("test", &e)))
    }
}

/// The rows of an answer in the simple protocol.
pub fn text_rows(answer: &[SimpleQueryMessage]) -> Vec<Vec<Option<String>>> {
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect()),
        _ => None,
    };
    answer.iter().filter_map(row).collect()
}

/// A client whose connection is driven until it is dropped.
pub async fn connect(dsn: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await?;
    // Its end, good or bad, shows in the client's next call.
    RUNTIME.spawn(connection);
    Ok(client)
}
