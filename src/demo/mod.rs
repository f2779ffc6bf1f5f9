//! The demonstration, and the throwaway servers that it and the tests stand on.

pub mod cluster;
pub mod facts;
pub mod installed;
pub mod load;
pub mod server;
pub mod table;
pub mod watch;

pub use cluster::Cluster;
pub use installed::find_installed;
pub use server::Server;
