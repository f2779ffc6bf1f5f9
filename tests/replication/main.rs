//! The replication connection against a real server.

mod login;
mod server;
mod slot;
mod stream;

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgrecast::pg::replication::{Frame, Login, Replication, SlotOptions, Stream};
use pgrecast::pg::{Error, Lsn};
use pgrecast::stream::{Assembler, Event, KeyReader, decode};
use server::{PASSWORD, Server};
use tokio::net::TcpStream;
use tokio_postgres::Client;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// A database of its own on the shared server, with a table `orders` and a publication of its key.
struct Site {
    server: Arc<Server>,
    name: String,
    sql: Client,
}

impl Site {
    async fn new(name: &str) -> Site {
        let server = Server::shared();
        server.sql("postgres").await.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("a database");
        let sql = server.sql(name).await;
        sql.batch_execute(
            "CREATE TABLE orders (note text, region text, id int, PRIMARY KEY (region, id));
             CREATE TABLE other (x int);",
        )
        .await
        .expect("tables");
        // Column lists came with PostgreSQL 15.
        let list = if major(&sql).await < 15 { "" } else { "(region, id)" };
        let publication = format!("CREATE PUBLICATION \"our's\" FOR TABLE orders {list}");
        sql.batch_execute(&publication).await.expect("a publication");
        Site { server, name: name.to_owned(), sql }
    }

    fn login(&self) -> Login {
        Login {
            user: "postgres".to_owned(),
            password: Some(PASSWORD.to_owned()),
            dbname: self.name.clone(),
            application_name: format!("pgrecast {}", self.name),
            options: "-c TimeZone=UTC -c DateStyle=ISO".to_owned(),
            tls_server_end_point: None,
        }
    }

    async fn connect_as(&self, login: Login) -> Result<Replication, Error> {
        let stream = TcpStream::connect(("127.0.0.1", self.server.port)).await.expect("the server listens");
        Replication::login(stream, login).await
    }

    async fn connect(&self) -> Replication {
        self.connect_as(self.login()).await.expect("logged in")
    }

    /// Starts the stream of the slot named like the database, making the slot first if need be.
    async fn start(&self, from: Lsn) -> Stream {
        self.start_as(self.login(), from).await.expect("started")
    }

    async fn start_as(&self, login: Login, from: Lsn) -> Result<Stream, Error> {
        let mut replication = self.connect_as(login).await?;
        if self.slot("slot_name").await.is_none() {
            replication.create_slot(&self.name, SlotOptions::default()).await?;
        }
        let options = [("proto_version", "1"), ("publication_names", "\"our's\""), ("messages", "true")];
        replication.start(&self.name, from, &options).await
    }

    /// A column of this slot's row in `pg_replication_slots`.
    async fn slot(&self, column: &str) -> Option<String> {
        let query = format!("SELECT {column}::text FROM pg_replication_slots WHERE slot_name = $1");
        self.sql.query_opt(&query, &[&self.name]).await.expect("slots").and_then(|row| row.get(0))
    }

    async fn execute(&self, sql: &str) {
        self.sql.batch_execute(sql).await.expect("executed");
    }

    /// The end of the WAL that is flushed.
    async fn wal_end(&self) -> Lsn {
        let row = self.sql.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await.expect("a position");
        row.get::<_, String>(0).parse().expect("a position")
    }

    async fn oid(&self, table: &str) -> u32 {
        self.sql.query_one("SELECT $1::text::regclass::oid", &[&table]).await.expect("an oid").get(0)
    }

    async fn assembler(&self, part: usize) -> Assembler {
        let key = vec!["id".to_owned(), "region".to_owned()];
        Assembler::new(KeyReader::new([self.oid("orders").await], key), part)
    }

    /// Waits until `condition`, a query of one boolean, holds.
    async fn wait_for(&self, condition: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.sql.query_one(condition, &[]).await.expect("a condition").get::<_, bool>(0) {
            assert!(Instant::now() < deadline, "still not true: {condition}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn major(sql: &Client) -> i32 {
    let row = sql.query_one("SELECT current_setting('server_version_num')::int / 10000", &[]).await;
    row.expect("a version").get(0)
}

/// The next frame, waited for with patience.
async fn next(stream: &mut Stream) -> Result<Frame, Error> {
    tokio::time::timeout(PATIENCE, stream.next()).await.expect("a frame in time")
}

/// Events up to and with the barrier `token`; keepalives are answered with nothing flushed.
async fn events_to_barrier(stream: &mut Stream, assembler: &mut Assembler, token: &str) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        match next(stream).await.expect("a frame") {
            Frame::XLogData { data, .. } => {
                assembler.feed(&decode(data).expect("a message"), &mut events).expect("a valid stream");
            }
            Frame::Keepalive { end, .. } => stream.status(end, Lsn::ZERO).await.expect("reported"),
        }
        if matches!(events.last(), Some(Event::Barrier { token: found, .. }) if found == token) {
            return events;
        }
    }
}

/// The text of each key, its columns joined by a slash.
fn texts(keys: &[pgrecast::stream::Key]) -> Vec<String> {
    keys.iter().map(|key| key.columns().collect::<Vec<_>>().join("/")).collect()
}
