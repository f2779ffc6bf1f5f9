//! What the contract names and this version does not do yet: recognised, so that it is refused in plain words.

use std::ffi::OsString;

use clap::Args;

use crate::error::Failure;

/// Options that are not built yet.
#[derive(Debug, Args)]
pub(super) struct LaterOptions {
    #[arg(long, hide = true)]
    status_listen: Option<OsString>,
}

impl LaterOptions {
    /// Refuses the first of them that was typed.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let options = [("--status-listen", &self.status_listen)];
        match options.iter().find(|(_, value)| value.is_some()) {
            Some((name, _)) => Err(Failure::usage(format!("{name} is not part of this version yet"))
                .hint("Leave it out; `pgrecast alter --help` shows the options there are.")),
            None => Ok(()),
        }
    }
}
