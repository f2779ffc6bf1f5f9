//! Connections with pinned settings, one kind for each use.

use std::time::Duration;

use super::conninfo::Target;
use super::{Conn, Error, Ident, Literal};

/// SQL that tells a running server from every other, also from a standby of the same system.
pub const STARTED: &str = "SELECT extract(epoch FROM pg_postmaster_start_time())::text";

/// The name of that statement.
pub const LOOK_FOR_SERVER: &str = "look for server";

/// Opens the connections of one migration.
#[derive(Clone)]
pub struct Connector {
    target: Target,
    settings: Vec<(String, String)>,
    lock_timeout: Duration,
    /// What [`STARTED`] gives on the server of this run; any server will do where unknown.
    server: Option<String>,
}

/// What a connection is for; its name stands in `application_name`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// State, lease, preflight.
    Control,
    /// Reads the user's clauses: the role's own search path stays.
    Planner,
    /// Copies block ranges.
    Copier,
    /// Builds indexes.
    Indexer,
    /// Fills materialized views, as this role itself would: with its own settings and search path.
    Filler,
    /// Writes the journal and sends barriers.
    Journal,
    /// Brings keys up to date.
    Flusher,
    /// Compares.
    Verifier,
    /// Swaps.
    Cutover,
    /// Looks at lag, locks and signals.
    Monitor,
    /// Measures and tries for an estimate.
    Estimator,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::Control => "control",
            Role::Planner => "planner",
            Role::Copier => "copier",
            Role::Indexer => "indexer",
            Role::Filler => "filler",
            Role::Journal => "journal",
            Role::Flusher => "flusher",
            Role::Verifier => "verifier",
            Role::Cutover => "cut-over",
            Role::Monitor => "monitor",
            Role::Estimator => "estimator",
        }
    }

    /// The name of the statement that opens it, for errors.
    fn statement(self) -> &'static str {
        match self {
            Role::Control => "connect control",
            Role::Planner => "connect planner",
            Role::Copier => "connect copier",
            Role::Indexer => "connect indexer",
            Role::Filler => "connect filler",
            Role::Journal => "connect journal",
            Role::Flusher => "connect flusher",
            Role::Verifier => "connect verifier",
            Role::Cutover => "connect cut-over",
            Role::Monitor => "connect monitor",
            Role::Estimator => "connect estimator",
        }
    }
}

/// Settings every session of ours has (PostgreSQL manual, chapter 20). What a role, a database or the server sets
/// otherwise must not change a value on its way from the source to the shadow, nor end a session of ours.
const PINNED: &[(&str, &str)] = &[
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("xmloption", "content"),
    ("standard_conforming_strings", "on"),
    ("array_nulls", "on"),
    ("transform_null_equals", "off"),
    ("quote_all_identifiers", "off"),
    ("row_security", "off"),
    ("statement_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("default_transaction_deferrable", "off"),
    ("default_tablespace", ""),
    ("synchronous_commit", "local"),
    ("jit", "off"),
];

/// Those that the role's own clauses are read with.
const AS_ROLE_SETS_THEM: &[&str] = &["TimeZone", "DateStyle", "IntervalStyle", "array_nulls", "transform_null_equals"];

/// How often a session is opened anew that ends before its settings are pinned.
const PIN_ATTEMPTS: u32 = 4;

impl Connector {
    /// For `target`, with the conversions' settings on top of the pinned ones.
    pub fn new(target: Target, lock_timeout: Duration) -> Self {
        Connector { target, settings: Vec::new(), lock_timeout, server: None }
    }

    /// The same for the server that was started then, as [`STARTED`] says it, and no other.
    pub fn of_server(mut self, started: &str) -> Self {
        self.server = Some(started.to_owned());
        self
    }

    /// Whether this run may use a server that was started then.
    ///
    /// # Errors
    /// The address leads elsewhere by now: to a standby that was promoted, or to a server that was started again. What a
    /// run remembers is true of the first alone.
    pub fn check_server(&self, started: Option<&str>) -> Result<(), Error> {
        match &self.server {
            Some(server) if started != Some(server.as_str()) => Err(Error {
                detail: Some(
                    "It was started at another time: it is another one, or the same after a crash or a restart."
                        .to_owned(),
                ),
                hint: Some("Run the same command again: it goes on from what this server has.".to_owned()),
                ..Error::client(LOOK_FOR_SERVER, "another server answers than the one this run began on")
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// The same with the settings the conversions were given.
    pub fn with_settings(mut self, settings: &[(String, String)]) -> Self {
        self.settings = settings.to_vec();
        self
    }

    /// Where it connects to.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The longest wait for a lock.
    pub fn lock_timeout(&self) -> Duration {
        self.lock_timeout
    }

    /// Opens a connection for `role`.
    pub async fn open(&self, role: Role) -> Result<Conn, Error> {
        let conn = self.pinned(role).await?;
        if self.server.is_some() {
            self.check_server(conn.scalar(LOOK_FOR_SERVER, STARTED).await?.as_deref())?;
        }
        Ok(conn)
    }

    /// A session that is the pins' from its first statement on. Where the database gives idle sessions next to no time, a
    /// busy machine may be late with it: that is tried again.
    async fn pinned(&self, role: Role) -> Result<Conn, Error> {
        let application = format!("pgrecast {}", role.name());
        let mut left = PIN_ATTEMPTS;
        loop {
            let conn = Conn::new(self.target.connect(&application, role.statement()).await?);
            left -= 1;
            match conn.batch("pin settings", &self.pins(role)).await {
                Ok(()) => return Ok(conn),
                Err(_) if conn.is_closed() && left > 0 => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn pins(&self, role: Role) -> String {
        let mut sql = String::new();
        let mut pin = |name: &str, value: &str| sql.push_str(&format!("SET {} = {};\n", Ident(name), Literal(value)));
        for (name, value) in PINNED {
            // The clauses are read as the role itself would have them read, and a view is filled as it would fill it.
            if matches!(role, Role::Planner | Role::Filler) && AS_ROLE_SETS_THEM.contains(name) {
                continue;
            }
            pin(name, value);
        }
        // PostgreSQL 17 and later.
        sql.push_str(
            "SELECT set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name = 'transaction_timeout';\n",
        );
        let mut pin = |name: &str, value: &str| sql.push_str(&format!("SET {} = {};\n", Ident(name), Literal(value)));
        pin("lock_timeout", &format!("{}ms", self.lock_timeout.as_millis()));
        match role {
            Role::Planner | Role::Control | Role::Monitor | Role::Estimator | Role::Cutover | Role::Journal => {}
            Role::Copier => {
                pin("synchronous_commit", "off");
                // A block range is all that is ever read here.
                pin("enable_seqscan", "off");
            }
            Role::Indexer => pin("synchronous_commit", "off"),
            Role::Filler => {
                pin("synchronous_commit", "off");
                // Other tables of the view may hide rows from its owner.
                pin("row_security", "on");
            }
            Role::Flusher => pin("synchronous_commit", "off"),
            Role::Verifier => {
                pin("max_parallel_workers_per_gather", "0");
                // A chunk's groups stay in memory: a million of them at most.
                pin("work_mem", "96MB");
            }
        }
        if matches!(role, Role::Flusher | Role::Cutover | Role::Verifier | Role::Estimator) {
            // A few keys against a large table: an index look-up each, whatever the statistics of the moment say.
            for node in ["enable_hashjoin", "enable_mergejoin", "enable_seqscan", "enable_material"] {
                pin(node, "off");
            }
        }
        for (name, value) in self.settings.iter().filter(|_| role != Role::Filler) {
            pin(name, value);
        }
        if !matches!(role, Role::Planner | Role::Filler) {
            sql.push_str("SET search_path = '';\n");
        }
        sql
    }

    /// The same pins as startup options of the replication connection, as far as they shape a key's text.
    pub fn replication_options(&self) -> String {
        let escape = |v: &str| v.replace('\\', "\\\\").replace(' ', "\\ ");
        let mut options: Vec<String> = PINNED
            .iter()
            .filter(|(n, _)| {
                ["TimeZone", "DateStyle", "IntervalStyle", "extra_float_digits", "bytea_output"].contains(n)
            })
            .map(|(n, v)| format!("-c {n}={}", escape(v)))
            .collect();
        options.extend(self.settings.iter().map(|(n, v)| format!("-c {n}={}", escape(v))));
        options.push("-c statement_timeout=0".to_owned());
        options.push("-c idle_session_timeout=0".to_owned());
        options.join(" ")
    }
}
