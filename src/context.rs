//! What every phase of one migration shares.

use std::sync::Arc;

use crate::pg::Connector;
use crate::plan::types::{Names, Plan};
use crate::preflight::ServerFacts;
use crate::report::Reporter;
use crate::state::Store;

/// One migration, planned and registered.
pub struct Context {
    /// Its number.
    pub id: i32,
    /// Connections, with the conversions' settings pinned.
    pub connector: Connector,
    /// The control schema, over the connection that holds the lease.
    pub store: Store,
    /// Its plan.
    pub plan: Arc<Plan>,
    /// Its names.
    pub names: Names,
    /// The server.
    pub facts: ServerFacts,
    /// Where everything is said.
    pub reporter: Reporter,
    /// Workers.
    pub jobs: u8,
}

impl Context {
    /// The slot's name.
    pub fn slot(&self) -> String {
        self.names.slot(self.facts.database_oid)
    }
}
