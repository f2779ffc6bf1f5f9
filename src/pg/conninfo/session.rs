//! A session of the client library, and the task that reads and writes for it.

use std::fmt;
use std::future::poll_fn;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::config::{ChannelBinding as ClientBinding, SslMode as ClientSslMode};
use tokio_postgres::tls::{MakeTlsConnect, NoTls};
use tokio_postgres::{AsyncMessage, Client, Config, Connection};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::dial::dial;
use super::search::{Refusal, Search};
use super::socket::Socket;
use super::wire::tls_name;
use super::{ChannelBinding, Encryption, Route, Secret, SessionAttrs, Target};
use crate::pg::{Error, Heard, tls};

/// A logged-in connection. Dropping it closes the connection at once, whatever is under way.
pub struct Session {
    /// The client library's handle.
    pub client: Client,
    route: Route,
    heard: Heard,
    task: JoinHandle<()>,
}

impl Session {
    /// Its notifications.
    pub fn heard(&self) -> &Heard {
        &self.heard
    }

    /// How the server was reached, for [`Target::pinned`].
    pub fn route(&self) -> &Route {
        &self.route
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("route", &self.route).finish_non_exhaustive()
    }
}

impl Target {
    /// Logs in to the first host that is reachable and wanted. `statement` names the call in errors.
    ///
    /// The server shows `application_name`, followed by the user's own in parentheses.
    ///
    /// # Errors
    /// One error for all that was tried. `connection_lost` says that the network failed everywhere; a refused login
    /// keeps its SQLSTATE, such as 28P01.
    pub async fn connect(&self, application_name: &str, statement: &'static str) -> Result<Session, Error> {
        self.connect_with_options(application_name, "", statement).await
    }

    /// [`Target::connect`] with command-line options for the server, such as `-c search_path=`, appended to the user's
    /// own, so that they win.
    ///
    /// # Errors
    /// As [`Target::connect`].
    pub async fn connect_with_options(
        &self,
        application_name: &str,
        options: &str,
        statement: &'static str,
    ) -> Result<Session, Error> {
        let config = self.client_config(application_name, options);
        let mut search = Search::new(self, statement);
        while let Some(route) = search.next().await {
            match search.within(log_in(self, config.clone(), &route)).await {
                Ok(session) => return Ok(session),
                Err(refusal) => search.refused(&route, refusal),
            }
        }
        Err(search.into_error())
    }

    /// The part of the settings that does not depend on the route.
    fn client_config(&self, application_name: &str, options: &str) -> Config {
        let mut config = Config::new();
        config.user(&self.user).dbname(&self.dbname);
        config.application_name(self.application_name(application_name));
        config.options(self.options_with(options));
        config.channel_binding(match self.channel_binding {
            ChannelBinding::Disable => ClientBinding::Disable,
            ChannelBinding::Prefer => ClientBinding::Prefer,
            ChannelBinding::Require => ClientBinding::Require,
        });
        config
    }
}

async fn log_in(target: &Target, mut config: Config, route: &Route) -> Result<Session, Refusal> {
    if let Some(Secret(password)) = &route.host.password {
        config.password(password);
    }
    let socket = dial(target, route).await?;
    config.ssl_mode(match route.encryption {
        Encryption::Plain => ClientSslMode::Disable,
        Encryption::TlsIfOffered => ClientSslMode::Prefer,
        Encryption::Tls => ClientSslMode::Require,
    });
    match route.encryption {
        Encryption::Plain => launch(target, route, config.connect_raw(socket, NoTls).await),
        Encryption::TlsIfOffered | Encryption::Tls => {
            let tls = tls_of(target, route)?;
            launch(target, route, config.connect_raw(socket, tls).await)
        }
    }
}

/// A handshake of the client library.
type Handshake = <MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect;

/// The handshake for one connection of the client library.
pub(super) fn tls_of(target: &Target, route: &Route) -> Result<Handshake, Refusal> {
    let settings = tls::client_config(&target.tls).map_err(Refusal::last)?;
    let mut maker = MakeRustlsConnect::new(settings);
    let Ok(handshake) = MakeTlsConnect::<Socket>::make_tls_connect(&mut maker, &tls_name(route));
    Ok(handshake)
}

fn launch<S, T>(
    target: &Target,
    route: &Route,
    outcome: Result<(Client, Connection<S, T>), tokio_postgres::Error>,
) -> Result<Session, Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (client, connection) = outcome.map_err(|error| Refusal::startup(&error))?;
    check_attrs(target.session_attrs, &connection)?;
    let (hears, heard) = Heard::nothing();
    let task = tokio::spawn(converse(connection, hears));
    Ok(Session { client, route: route.clone(), heard, task })
}

/// The server tells both settings at login since version 14.
fn check_attrs<S, T>(wanted: SessionAttrs, connection: &Connection<S, T>) -> Result<(), Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let is_on = |name| connection.parameter(name) == Some("on");
    match wanted {
        SessionAttrs::Any => Ok(()),
        SessionAttrs::Primary | SessionAttrs::ReadWrite if is_on("in_hot_standby") => {
            Err(Refusal::unwanted("server is in hot standby mode"))
        }
        SessionAttrs::ReadWrite if is_on("default_transaction_read_only") => {
            Err(Refusal::unwanted("session is read-only"))
        }
        SessionAttrs::Primary | SessionAttrs::ReadWrite => Ok(()),
    }
}

/// Moves messages until the connection ends.
async fn converse<S, T>(mut connection: Connection<S, T>, hears: watch::Sender<u64>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
        match message {
            Ok(AsyncMessage::Notice(notice)) => {
                // A function of the application may say what a row has.
                tracing::trace!(severity = notice.severity(), code = notice.code().code(), "{}", notice.message());
            }
            Ok(AsyncMessage::Notification(_)) => hears.send_modify(|n| *n += 1),
            Ok(_) => {}
            Err(error) => {
                tracing::debug!("{}", Error::from_client("session", &error));
                return;
            }
        }
    }
}
