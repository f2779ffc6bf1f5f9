//! A byte stream to the server, encrypted as `sslmode` asks for, before any startup message (PostgreSQL manual,
//! 55.2.10): for the replication connection, which the client library does not speak.

use std::fmt;
use std::sync::Arc;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::dial::dial;
use super::search::{Refusal, Search};
use super::socket::Socket;
use super::{Address, Encryption, Route, Target};
use crate::pg::{Error, tls};

/// A connection's two directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection on which nothing was said yet.
pub struct Wire {
    /// What is sent and received, in the clear on this side.
    pub stream: Box<dyn Stream>,
    /// The channel binding data of the server's certificate, where the connection is encrypted and there is any.
    pub tls_server_end_point: Option<Vec<u8>>,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("tls_server_end_point", &self.tls_server_end_point).finish_non_exhaustive()
    }
}

impl Target {
    /// Opens a raw connection: the first host that takes one, TCP_NODELAY and keepalives set, TLS done.
    ///
    /// What only a login can tell is not known yet: whether the server satisfies `target_session_attrs`, whether it
    /// takes logins of this encryption under `allow` and `prefer`. So open it on a target that is
    /// [`Target::pinned`] to the route of a [`super::Session`].
    ///
    /// # Errors
    /// No host could be reached, or TLS failed; `connection_lost` tells the network's fault from others.
    pub async fn open(&self) -> Result<Wire, Error> {
        let mut search = Search::new(self, "open");
        while let Some(route) = search.next().await {
            match search.within(open_route(self, &route)).await {
                Ok(wire) => return Ok(wire),
                Err(refusal) => search.refused(&route, refusal),
            }
        }
        Err(search.into_error())
    }
}

async fn open_route(target: &Target, route: &Route) -> Result<Wire, Refusal> {
    let mut socket = dial(target, route).await?;
    match route.encryption {
        Encryption::Plain => Ok(Wire { stream: Box::new(socket), tls_server_end_point: None }),
        Encryption::Tls | Encryption::TlsIfOffered => {
            if offers_tls(&mut socket).await? {
                return encrypt(target, route, socket).await;
            }
            if route.encryption == Encryption::Tls {
                return Err(Refusal::last("server does not support TLS, but it was required"));
            }
            Ok(Wire { stream: Box::new(socket), tls_server_end_point: None })
        }
    }
}

/// Sends SSLRequest. Reads one byte only: whatever an intruder sent behind it ends up in the handshake and fails it.
async fn offers_tls(socket: &mut Socket) -> Result<bool, Refusal> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.write_all(&request).await.map_err(Refusal::network)?;
    socket.flush().await.map_err(Refusal::network)?;
    match socket.read_u8().await.map_err(Refusal::network)? {
        b'S' => Ok(true),
        b'N' => Ok(false),
        other => Err(Refusal::last(format!("received invalid response to TLS negotiation: 0x{other:02x}"))),
    }
}

async fn encrypt(target: &Target, route: &Route, socket: Socket) -> Result<Wire, Refusal> {
    let config = tls::client_config(&target.tls).map_err(Refusal::last)?;
    let name = ServerName::try_from(tls_name(route)).map_err(|error| Refusal::last(error.to_string()))?;
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, socket);
    let stream = connecting.await.map_err(|error| Refusal::handshake(&error))?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let tls_server_end_point = certificate.and_then(|certificate| tls::server_end_point(certificate));
    Ok(Wire { stream: Box::new(stream), tls_server_end_point })
}

/// The name that the certificate is held against: the host's, else its address. A name that no certificate could have
/// gives way to the address too, for the modes that do not compare.
pub(super) fn tls_name(route: &Route) -> String {
    match &route.address {
        Address::Ip(ip) if ServerName::try_from(route.host.name.as_str()).is_err() => ip.to_string(),
        Address::Ip(_) | Address::Name | Address::Socket(_) => route.host.name.clone(),
    }
}
