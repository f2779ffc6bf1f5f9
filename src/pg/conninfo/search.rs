//! Which route is tried next: every host in turn, every address of a host, with and without encryption as `sslmode`
//! allows (PostgreSQL manual, 34.1.1.3 and table 34.1).

use std::collections::VecDeque;
use std::future::Future;
use std::io;

use super::{Address, Encryption, Host, Route, Target};
use crate::pg::Error;
use crate::pg::tls::SslMode;

/// Why a route led nowhere.
#[derive(Debug)]
pub(super) struct Refusal {
    error: Box<Error>,
    next: Next,
}

/// What may be tried after a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The same address with other encryption, where `sslmode` has one.
    Encryption,
    /// Another address of this host, or another host.
    Address,
    /// Another host.
    Host,
    /// Nothing: it would fail again, or trying on would hide a fault.
    Nothing,
}

impl Refusal {
    /// The search fills the statement and the host in.
    fn new(error: Error, next: Next) -> Self {
        Refusal { error: Box::new(error), next }
    }

    /// No answer: another address may have one.
    pub(super) fn network(error: io::Error) -> Self {
        Refusal::new(Error::lost("", error.to_string()), Next::Address)
    }

    /// The handshake failed, which says nothing about a connection without it.
    pub(super) fn handshake(error: &io::Error) -> Self {
        // rustls gives its findings as errors of I/O with its own error inside.
        let found = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
        let message = format!("TLS error: {error}");
        let error = if found { Error::client("", message) } else { Error::lost("", message) };
        Refusal::new(error, Next::Encryption)
    }

    /// The server is not the one that was asked for; another may be.
    pub(super) fn unwanted(message: impl Into<String>) -> Self {
        Refusal::new(Error::client("", message), Next::Host)
    }

    /// Nothing else is tried.
    pub(super) fn last(message: impl Into<String>) -> Self {
        Refusal::new(Error::client("", message), Next::Nothing)
    }

    /// From the startup and authentication of the client library.
    pub(super) fn startup(error: &tokio_postgres::Error) -> Self {
        let mut made = Error::from_client("", error);
        let next = match made.sqlstate.as_ref().map(|state| state.code()) {
            // What pg_hba.conf answers to a connection of the wrong encryption.
            Some("28000") => Next::Encryption,
            // Starting up, shutting down or recovering.
            Some("57P03") => Next::Host,
            Some(_) => Next::Nothing,
            None if handshake_failed(error) => {
                made.connection_lost = false;
                Next::Encryption
            }
            // The library has no kind for this, only a text.
            None if made.message.ends_with("password missing") => {
                made = Error::client("", "no password supplied");
                made.hint = Some("Give one in PGPASSWORD, the password file or the connection string.".to_owned());
                Next::Nothing
            }
            None => {
                made.connection_lost = error.is_closed() || io_failed(error);
                if made.connection_lost { Next::Address } else { Next::Nothing }
            }
        };
        Refusal::new(made, next)
    }
}

fn causes(error: &tokio_postgres::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(error), |cause| cause.source())
}

fn io_failed(error: &tokio_postgres::Error) -> bool {
    causes(error).any(|cause| cause.is::<io::Error>())
}

/// rustls' own error may sit inside an error of I/O, which does not name it as its source.
fn handshake_failed(error: &tokio_postgres::Error) -> bool {
    causes(error).any(|cause| {
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause.is::<rustls::Error>() || inner.is_some_and(|inner| inner.is::<rustls::Error>())
    })
}

/// The way through a target's routes.
pub(super) struct Search<'a> {
    target: &'a Target,
    statement: &'static str,
    hosts: std::slice::Iter<'a, Host>,
    routes: VecDeque<Route>,
    failures: Vec<Error>,
}

impl<'a> Search<'a> {
    pub(super) fn new(target: &'a Target, statement: &'static str) -> Self {
        Search { target, statement, hosts: target.hosts.iter(), routes: VecDeque::new(), failures: Vec::new() }
    }

    /// The next route, if any is left. Looks names up.
    pub(super) async fn next(&mut self) -> Option<Route> {
        loop {
            if let Some(route) = self.routes.pop_front() {
                return Some(route);
            }
            let host = self.hosts.next()?;
            match addresses(host).await {
                Ok(addresses) => self.routes = routes(self.target, host, addresses),
                Err(error) => {
                    let message = format!("{host}: could not translate host name to address: {error}");
                    self.failures.push(Error::lost(self.statement, message));
                }
            }
        }
    }

    /// Takes an attempt under the `connect_timeout`.
    pub(super) async fn within<T>(&self, attempt: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
        let Some(limit) = self.target.connect_timeout else { return attempt.await };
        tokio::time::timeout(limit, attempt).await.unwrap_or_else(|_| {
            let message = format!("timeout expired after {} s", limit.as_secs());
            Err(Refusal::new(Error::lost("", message), Next::Address))
        })
    }

    /// Learns from a refusal which routes are left.
    pub(super) fn refused(&mut self, route: &Route, refusal: Refusal) {
        let Refusal { mut error, next } = refusal;
        let lost = error.connection_lost;
        error.message = format!("{}: {}", route.host, error.message);
        self.failures.push(*error);
        match next {
            Next::Encryption if self.routes.front().is_some_and(|other| other.address == route.address) => {}
            Next::Encryption if !lost => self.stop(),
            Next::Encryption | Next::Address => self.routes.retain(|other| other.address != route.address),
            Next::Host => self.routes.clear(),
            Next::Nothing => self.stop(),
        }
    }

    fn stop(&mut self) {
        self.routes.clear();
        self.hosts = [].iter();
    }

    /// One error for everything that was tried. It has the last SQLSTATE that was given; the connection counts as lost
    /// if that is what happened everywhere.
    pub(super) fn into_error(self) -> Error {
        let messages: Vec<_> = self.failures.iter().map(|failure| failure.message.as_str()).collect();
        let message = format!("could not connect to {}", messages.join("; "));
        let connection_lost = self.failures.iter().all(|failure| failure.connection_lost);
        let told = self.failures.iter().rfind(|failure| failure.sqlstate.is_some()).or(self.failures.last());
        match told.cloned() {
            Some(told) => Error { statement: self.statement, message, connection_lost, ..told },
            None => Error::client(self.statement, "there is no host to connect to"),
        }
    }
}

async fn addresses(host: &Host) -> io::Result<Vec<Address>> {
    match &host.address {
        Address::Name => {
            let found = tokio::net::lookup_host((host.name.as_str(), host.port)).await?;
            Ok(found.map(|address| Address::Ip(address.ip())).collect())
        }
        Address::Socket(_) | Address::Ip(_) => Ok(vec![host.address.clone()]),
    }
}

fn routes(target: &Target, host: &Host, addresses: Vec<Address>) -> VecDeque<Route> {
    let mut routes = VecDeque::new();
    for address in addresses {
        let chosen = target.encryption.as_ref().map(std::slice::from_ref);
        for encryption in chosen.unwrap_or_else(|| encryptions(target.tls.mode, &address)) {
            routes.push_back(Route { host: host.clone(), address: address.clone(), encryption: *encryption });
        }
    }
    routes
}

/// In the order of trying. A Unix-domain socket is never encrypted, whatever `sslmode` says.
fn encryptions(mode: SslMode, address: &Address) -> &'static [Encryption] {
    match (mode, address) {
        (_, Address::Socket(_)) | (SslMode::Disable, _) => &[Encryption::Plain],
        (SslMode::Allow, _) => &[Encryption::Plain, Encryption::Tls],
        (SslMode::Prefer, _) => &[Encryption::TlsIfOffered, Encryption::Plain],
        (SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull, _) => &[Encryption::Tls],
    }
}

#[cfg(test)]
mod tests {
    use super::super::environment::Fake;
    use super::*;

    /// The routes that are tried, when every attempt ends in the same way.
    async fn tried(dsn: &str, refusal: fn() -> Refusal) -> (Vec<String>, Error) {
        let target = Target::resolve_in(Some(dsn), &Fake::default()).expect("a target");
        let mut search = Search::new(&target, "connect");
        let mut seen = Vec::new();
        while let Some(route) = search.next().await {
            seen.push(format!("{} {:?}", route.host, route.encryption));
            search.refused(&route, refusal());
        }
        (seen, search.into_error())
    }

    fn unreachable() -> Refusal {
        Refusal::network(io::Error::other("no route"))
    }

    fn wrong_certificate() -> Refusal {
        Refusal::handshake(&io::Error::other(rustls::Error::DecryptError))
    }

    #[tokio::test]
    async fn an_unreachable_host_gives_way_to_the_next() {
        let (seen, error) = tried("hostaddr=10.0.0.1,10.0.0.2 port=1,2", unreachable).await;
        assert_eq!(seen, ["10.0.0.1:1 TlsIfOffered", "10.0.0.2:2 TlsIfOffered"]);
        assert_eq!(error.message, "could not connect to 10.0.0.1:1: no route; 10.0.0.2:2: no route");
        assert!(error.connection_lost);
    }

    #[tokio::test]
    async fn a_refused_handshake_is_tried_without_where_the_mode_allows() {
        let hosts = "hostaddr=10.0.0.1,10.0.0.2 sslmode=";
        for (mode, expected) in [
            ("disable", vec!["Plain"]),
            ("allow", vec!["Plain", "Tls"]),
            ("prefer", vec!["TlsIfOffered", "Plain"]),
            ("require", vec!["Tls"]),
            ("verify-full", vec!["Tls"]),
        ] {
            let (seen, error) = tried(&format!("{hosts}{mode}"), wrong_certificate).await;
            let expected: Vec<_> = expected.iter().map(|tried| format!("10.0.0.1:5432 {tried}")).collect();
            assert_eq!(seen, expected, "{mode}: no other host is asked");
            assert!(!error.connection_lost);
        }
        let (seen, _) = tried("host=/tmp sslmode=verify-full", wrong_certificate).await;
        assert_eq!(seen, ["/tmp:5432 Plain"]);
    }

    #[tokio::test]
    async fn a_standby_gives_way_and_a_wrong_password_does_not() {
        let (seen, _) = tried("host=/a,/b", || Refusal::unwanted("a standby")).await;
        assert_eq!(seen, ["/a:5432 Plain", "/b:5432 Plain"]);
        let (seen, error) = tried("host=/a,/b", || Refusal::last("no")).await;
        assert_eq!(seen, ["/a:5432 Plain"]);
        assert_eq!(error.to_string(), "connect: could not connect to /a:5432: no");
    }

    #[tokio::test]
    async fn a_pinned_target_has_one_route() {
        let target = Target::resolve_in(Some("hostaddr=10.0.0.1,10.0.0.2"), &Fake::default()).expect("a target");
        let mut search = Search::new(&target, "connect");
        let route = search.next().await.expect("a route");
        let pinned = target.pinned(&route);
        let mut search = Search::new(&pinned, "connect");
        assert_eq!(search.next().await.as_ref(), Some(&route));
        assert_eq!(search.next().await, None);
    }
}
