//! What the contract names and this version does not do yet: recognised, so that it is refused in plain words.

use std::ffi::OsString;

use clap::Args;

use crate::error::Failure;

/// Whatever follows a command that is not built yet.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(super) struct Ignored {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<OsString>,
}

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

/// The refusal of a command that is not built yet.
pub(super) fn refuse(command: &str) -> Failure {
    Failure::usage(format!("pgrecast {command} is not part of this version yet"))
        .hint("`pgrecast --help` shows the commands there are.")
}
