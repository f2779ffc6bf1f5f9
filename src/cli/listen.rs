//! `--status-listen`: where a run is to be looked at while it lasts.

use std::net::SocketAddr;

use clap::Args;

// No doc comment: it would be the command's own.
#[derive(Debug, Default, Args)]
pub(super) struct StatusArgs {
    /// Serve a page, /status (JSON) and /metrics (Prometheus) there, to whoever asks: 127.0.0.1:9187
    #[arg(long, value_name = "ADDR")]
    pub(super) status_listen: Option<SocketAddr>,
}
