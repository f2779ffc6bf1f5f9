//! Cancelling what a session runs, from outside of it (PostgreSQL manual, 55.2.9).

use std::fmt;

use tokio_postgres::CancelToken;
use tokio_postgres::tls::NoTls;

use super::dial::dial;
use super::search::{Refusal, Search};
use super::session::tls_of;
use super::{Encryption, Route, Session, Target};
use crate::pg::Error;

/// The right to cancel a session's statement; outlives the session.
#[derive(Clone)]
pub struct Canceller {
    target: Target,
    token: CancelToken,
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canceller").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Session {
    /// For stopping a statement before the session is dropped: a server that computes does not notice that its client
    /// went away. (The client library's own token knows no address, because it did not make the connection.)
    pub fn canceller(&self, target: &Target) -> Canceller {
        Canceller { target: target.pinned(self.route()), token: self.client.cancel_token() }
    }
}

impl Canceller {
    /// Asks the server to cancel the statement under way, by a connection of its own. The server does not say whether
    /// there was one: the session's caller sees SQLSTATE 57014, or a result that came first.
    ///
    /// # Errors
    /// The server could not be reached.
    pub async fn cancel(&self) -> Result<(), Error> {
        let mut search = Search::new(&self.target, "cancel");
        while let Some(route) = search.next().await {
            match search.within(self.request(&route)).await {
                Ok(()) => return Ok(()),
                Err(refusal) => search.refused(&route, refusal),
            }
        }
        Err(search.into_error())
    }

    async fn request(&self, route: &Route) -> Result<(), Refusal> {
        let socket = dial(&self.target, route).await?;
        let sent = match route.encryption {
            Encryption::Plain => self.token.cancel_query_raw(socket, NoTls).await,
            Encryption::TlsIfOffered | Encryption::Tls => {
                self.token.cancel_query_raw(socket, tls_of(&self.target, route)?).await
            }
        };
        sent.map_err(|error| Refusal::startup(&error))
    }
}
