//! The demonstration, and the throwaway servers that it and the tests stand on.

pub mod cluster;
pub mod installed;
pub mod server;

pub use cluster::Cluster;
pub use installed::find_installed;
pub use server::Server;
