//! From a fresh byte stream to a connection that takes commands (manual 55.2.1, "Start-up", and 55.3, "SASL
//! Authentication").

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

use super::channel::{Channel, Received, unexpected};
use crate::pg::Error;

const LOGIN: &str = "log in for replication";

/// Who logs in, and how.
#[derive(Clone, Default)]
pub struct Login {
    /// The role.
    pub user: String,
    /// Its password; an error if the server asks and there is none.
    pub password: Option<String>,
    /// The database whose changes are to be read.
    pub dbname: String,
    /// `application_name`.
    pub application_name: String,
    /// Settings for the session, as command-line switches: `-c TimeZone=UTC -c DateStyle=ISO`.
    pub options: String,
    /// On a TLS connection, the hash of the server's certificate (RFC 5929, section 4), to which SCRAM then binds.
    pub tls_server_end_point: Option<Vec<u8>>,
}

/// What the server said of itself.
pub(super) struct Welcome {
    pub(super) backend_pid: i32,
    pub(super) server_major: u32,
}

/// Starts the session and answers the server's questions until it is ready.
pub(super) async fn log_in(channel: &mut Channel, login: &Login) -> Result<Welcome, Error> {
    let parameters = [
        ("user", login.user.as_str()),
        ("database", &login.dbname),
        ("replication", "database"),
        ("client_encoding", "UTF8"),
        ("application_name", &login.application_name),
        ("options", &login.options),
    ];
    channel.queue(LOGIN, |out| frontend::startup_message(parameters, out))?;
    authenticate(channel, login).await?;
    let mut backend_pid = 0;
    loop {
        match receive(channel).await? {
            Message::BackendKeyData(key) => backend_pid = key.process_id(),
            Message::ReadyForQuery(_) => break,
            _ => return Err(unexpected(LOGIN)),
        }
    }
    let server_major = channel.server_version().and_then(major);
    let server_major = server_major.ok_or_else(|| Error::client(LOGIN, "the server did not report its version"))?;
    Ok(Welcome { backend_pid, server_major })
}

/// `15` of `15.4 (Debian …)`, `17` of `17beta1`.
fn major(version: &str) -> Option<u32> {
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version[..digits].parse().ok()
}

async fn receive(channel: &mut Channel) -> Result<Message, Error> {
    match channel.receive(LOGIN).await? {
        Received::Message(Message::ErrorResponse(error)) => Err(Error::from_fields(LOGIN, error.fields())),
        Received::Message(message) => Ok(message),
        Received::CopyBoth => Err(unexpected(LOGIN)),
    }
}

async fn authenticate(channel: &mut Channel, login: &Login) -> Result<(), Error> {
    loop {
        match receive(channel).await? {
            Message::AuthenticationOk => return Ok(()),
            Message::AuthenticationCleartextPassword => send_password(channel, password(login)?.as_bytes())?,
            Message::AuthenticationMd5Password(body) => {
                let hash = md5_hash(login.user.as_bytes(), password(login)?.as_bytes(), body.salt());
                send_password(channel, hash.as_bytes())?;
            }
            Message::AuthenticationSasl(body) => scram(channel, login, &body).await?,
            Message::AuthenticationKerberosV5
            | Message::AuthenticationScmCredential
            | Message::AuthenticationGss
            | Message::AuthenticationSspi => {
                return Err(Error::client(LOGIN, "the server asks for an authentication method that is not supported"));
            }
            _ => return Err(unexpected(LOGIN)),
        }
    }
}

fn password(login: &Login) -> Result<&str, Error> {
    login.password.as_deref().ok_or_else(|| Error::client(LOGIN, "the server asks for a password, and none was given"))
}

fn send_password(channel: &mut Channel, password: &[u8]) -> Result<(), Error> {
    channel.queue(LOGIN, |out| frontend::password_message(password, out))
}

/// The whole SCRAM exchange, the server's own proof included: the server is not believed without it.
async fn scram(channel: &mut Channel, login: &Login, offer: &AuthenticationSaslBody) -> Result<(), Error> {
    let malformed = |error: std::io::Error| Error::client(LOGIN, format!("SCRAM authentication failed: {error}"));
    let offered: Vec<&str> = offer.mechanisms().collect().map_err(malformed)?;
    let (mechanism, binding) = choose(&offered, login.tls_server_end_point.as_deref())?;
    let mut scram = ScramSha256::new(password(login)?.as_bytes(), binding);
    channel.queue(LOGIN, |out| frontend::sasl_initial_response(mechanism, scram.message(), out))?;
    let Message::AuthenticationSaslContinue(challenge) = receive(channel).await? else {
        return Err(unexpected(LOGIN));
    };
    scram.update(challenge.data()).map_err(malformed)?;
    channel.queue(LOGIN, |out: &mut BytesMut| frontend::sasl_response(scram.message(), out))?;
    let Message::AuthenticationSaslFinal(proof) = receive(channel).await? else {
        return Err(unexpected(LOGIN));
    };
    scram.finish(proof.data()).map_err(malformed)
}

/// Binds to the TLS channel where both sides can. Where only this side can, it says so, and a server that could as well
/// then knows that its offer was tampered with.
fn choose(offered: &[&str], end_point: Option<&[u8]>) -> Result<(&'static str, ChannelBinding), Error> {
    match end_point {
        Some(end_point) if offered.contains(&SCRAM_SHA_256_PLUS) => {
            Ok((SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(end_point.to_vec())))
        }
        Some(_) if offered.contains(&SCRAM_SHA_256) => Ok((SCRAM_SHA_256, ChannelBinding::unrequested())),
        None if offered.contains(&SCRAM_SHA_256) => Ok((SCRAM_SHA_256, ChannelBinding::unsupported())),
        _ => Err(Error::client(LOGIN, format!("the server offers only {}", offered.join(", ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_leads_what_the_server_reports() {
        assert_eq!(major("15.20 (Debian 15.20-0+deb12u1)"), Some(15));
        assert_eq!(major("18beta1"), Some(18));
        assert_eq!(major("devel"), None);
    }

    #[test]
    fn the_channel_is_bound_where_both_sides_can() {
        let mechanism = |offered: &[&str], end_point| choose(offered, end_point).map(|chosen| chosen.0).ok();
        let both = [SCRAM_SHA_256_PLUS, SCRAM_SHA_256];
        assert_eq!(mechanism(&both, Some(b"hash")), Some(SCRAM_SHA_256_PLUS));
        assert_eq!(mechanism(&both, None), Some(SCRAM_SHA_256));
        assert_eq!(mechanism(&[SCRAM_SHA_256], Some(b"hash")), Some(SCRAM_SHA_256));
        assert_eq!(mechanism(&["OAUTHBEARER"], None), None);
    }
}
