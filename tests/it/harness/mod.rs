//! What a test stands on: servers, databases, the program, the load, and what may be said about them afterwards.

mod beside;
mod db;
mod dump;
mod leftovers;
pub mod load;
pub mod migration;
mod program;
pub mod proxy;
mod servers;
mod wait;
pub mod wire;

pub use beside::beside;
pub use db::{Db, Session};
pub use dump::{client, dump};
pub use leftovers::{assert_nothing_left, leftovers};
pub use program::{Output, Running, pgrecast, spawn, spawn_with};
pub use servers::{own_server, server, standby_of, test_bin, vacuuming_server};
pub use wait::wait_for;

use std::sync::LazyLock;

use tokio::runtime::Runtime;

/// Drives the connections of this process, so that tests can be written as plain sequences.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime for the tests"));
