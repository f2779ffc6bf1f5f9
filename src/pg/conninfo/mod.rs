//! How a database is reached: what libpq would make of a DSN, the `PG*` variables, the password file and the service
//! file (PostgreSQL manual, 34.1 and 34.15 to 34.17), and the connections made from it.
//!
//! ```text
//! DSN ── parse ──┐
//! service file ──┼─ Settings ─ resolve ─ Target ─ search ─ dial ─┬─ session   a client of the client library
//! PG* variables ─┘                │                              ├─ cancel    a session's statement
//!                             passfile                           └─ wire      bytes before the startup message
//! ```

mod cancel;
mod dial;
pub mod environment;
mod keys;
mod parse;
mod passfile;
mod resolve;
mod search;
mod service;
mod session;
mod socket;
mod wire;

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::error::Failure;
use crate::pg::tls::TlsPolicy;
pub use cancel::Canceller;
pub use session::Session;
pub use wire::{Stream, Wire};

/// Everything needed to reach a database and log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    hosts: Vec<Host>,
    user: String,
    dbname: String,
    options: String,
    application_name: String,
    channel_binding: ChannelBinding,
    session_attrs: SessionAttrs,
    require_peer: Option<String>,
    connect_timeout: Option<Duration>,
    tcp: TcpSettings,
    tls: TlsPolicy,
    /// Set once a route is chosen: no other encryption is tried.
    encryption: Option<Encryption>,
}

/// The `channel_binding` connection option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// Where connection and server have it.
    Prefer,
    /// A server that does without is refused.
    Require,
}

/// The `target_session_attrs` connection option, as far as it makes sense to a writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SessionAttrs {
    Any,
    ReadWrite,
    Primary,
}

/// One server of the list, with the password that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Host {
    address: Address,
    /// What certificates are held against and messages show; empty for a socket or a bare address.
    name: String,
    port: u16,
    password: Option<Secret>,
}

/// Where to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    /// The directory of a Unix-domain socket; `@…` is the abstract namespace.
    Socket(String),
    /// To be looked up.
    Name,
    /// No look-up needed.
    Ip(IpAddr),
}

/// TCP options of the socket; what is `None` is left to the operating system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TcpSettings {
    keepalives: bool,
    /// Seconds.
    idle: Option<u32>,
    /// Seconds.
    interval: Option<u32>,
    count: Option<u32>,
    /// Milliseconds.
    user_timeout: Option<u32>,
}

/// What one attempt does about encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encryption {
    Plain,
    TlsIfOffered,
    Tls,
}

/// A password: debugs as nothing.
#[derive(Clone, PartialEq, Eq)]
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// The one way among a target's hosts, addresses and encryptions by which a session was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    host: Host,
    address: Address,
    encryption: Encryption,
}

impl Target {
    /// Resolves as libpq does: the DSN, a URI or keywords and values, goes before the service file, that before the
    /// `PG*` variables, those before the defaults. Reads the service file and the password file; certificates are read
    /// when connecting.
    ///
    /// # Errors
    /// [`Failure::usage`] for malformed text, unknown or unsupported options and a service that is not defined. No
    /// message repeats a value that may be a password.
    pub fn resolve(dsn: Option<&str>) -> Result<Target, Failure> {
        Self::resolve_in(dsn, &environment::Process)
    }

    /// [`Target::resolve`] in given surroundings.
    ///
    /// # Errors
    /// As [`Target::resolve`].
    pub fn resolve_in(dsn: Option<&str>, environment: &dyn environment::Environment) -> Result<Target, Failure> {
        resolve::target(dsn.unwrap_or_default(), environment)
    }

    /// `user@host:port/dbname`, the hosts separated by commas, for messages.
    pub fn describe(&self) -> String {
        let hosts: Vec<_> = self.hosts.iter().map(Host::to_string).collect();
        format!("{}@{}/{}", self.user, hosts.join(","), self.dbname)
    }

    /// The role to log in as.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The database.
    pub fn dbname(&self) -> &str {
        &self.dbname
    }

    /// The password, where there is one. Hosts may differ in theirs: this is the first host's, so that of the server
    /// itself once the target is [`Target::pinned`].
    pub fn password(&self) -> Option<&str> {
        self.hosts.first()?.password.as_ref().map(|secret| secret.0.as_str())
    }

    /// The policy that whoever authenticates on a [`Wire`] has to keep.
    pub fn channel_binding(&self) -> ChannelBinding {
        self.channel_binding
    }

    /// The user's own `options` for the startup message, maybe empty.
    pub fn options(&self) -> &str {
        &self.options
    }

    /// The same target, reached by this route only, for connections that must land on the very server of another: the
    /// list of hosts, the look-up of a name and the fall back from or to encryption are not gone through again.
    pub fn pinned(&self, route: &Route) -> Target {
        let host = Host { address: route.address.clone(), ..route.host.clone() };
        Target { hosts: vec![host], encryption: Some(route.encryption), ..self.clone() }
    }

    /// `application_name`, with the user's own in parentheses.
    fn application_name(&self, ours: &str) -> String {
        match (ours, self.application_name.as_str()) {
            (ours, "") => ours.to_owned(),
            ("", theirs) => theirs.to_owned(),
            (ours, theirs) => format!("{ours} ({theirs})"),
        }
    }

    /// The user's options, then ours, which win where both set the same.
    fn options_with(&self, ours: &str) -> String {
        [self.options.as_str(), ours].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Socket(directory) => write!(f, "{directory}:{}", self.port),
            Address::Ip(IpAddr::V6(ip)) if self.name.is_empty() => write!(f, "[{ip}]:{}", self.port),
            Address::Ip(ip) if self.name.is_empty() => write!(f, "{ip}:{}", self.port),
            Address::Ip(_) | Address::Name => write!(f, "{}:{}", self.name, self.port),
        }
    }
}
