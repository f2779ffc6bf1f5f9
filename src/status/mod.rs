//! `--status-listen`: where a run is, for a browser, a script and Prometheus.
//!
//! What is said to people is what is served: a view of the same events keeps the state, and each request shows it as it
//! stands. Nothing can be asked for but to look, and nobody is asked who he is: the address is the user's choice, and no
//! other is listened at.

mod page;
mod state;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State as Of;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::error::Failure;
use crate::report::{Event, View};
use state::State;

type Shared = Arc<Mutex<State>>;

/// Serves until it is dropped.
pub struct Status {
    shared: Shared,
    task: JoinHandle<()>,
}

impl Drop for Status {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Status {
    /// Listens at this address and no other.
    ///
    /// # Errors
    /// Exit 3 where it is not to be had: nothing was begun yet.
    pub async fn listen(address: SocketAddr) -> Result<Status, Failure> {
        let listener = TcpListener::bind(address).await.map_err(|e| {
            Failure::refused(format!("cannot listen at {address}: {e}")).hint("Give --status-listen another address.")
        })?;
        let shared = Shared::default();
        let pages = Router::new()
            .route("/", get(html))
            .route("/status", get(json))
            .route("/metrics", get(metrics))
            .with_state(shared.clone());
        let task = tokio::spawn(async move {
            // It ends with the run; a connection that breaks is that client's alone.
            if let Err(error) = axum::serve(listener, pages).await {
                tracing::warn!(%error, "the status is served no more");
            }
        });
        Ok(Status { shared, task })
    }

    /// What keeps the state, and shows each event where it was shown before.
    pub fn beside(&self, shown: Box<dyn View>) -> Box<dyn View> {
        Box::new(Seen { shared: self.shared.clone(), shown })
    }
}

struct Seen {
    shared: Shared,
    shown: Box<dyn View>,
}

impl View for Seen {
    fn show(&mut self, at: Timestamp, event: &Event) {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).see(at, event);
        self.shown.show(at, event);
    }

    fn end(&mut self) {
        self.shown.end();
    }
}

fn now(shared: &Shared) -> State {
    shared.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

async fn html(Of(shared): Of<Shared>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], page::html(&now(&shared)))
}

async fn json(Of(shared): Of<Shared>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], page::json(&now(&shared)))
}

async fn metrics(Of(shared): Of<Shared>) -> impl IntoResponse {
    let openmetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, openmetrics)], page::metrics(&now(&shared)))
}
