//! The process edge: arguments in, exit code out.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use pgrecast::cli::{self, Unparsed};
use pgrecast::error::Failure;
use pgrecast::report::{Format, render_failure};

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(unparsed) => return unparsed_exit(&unparsed),
    };
    log();
    let format = command.format();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(pgrecast::commands::run(command)),
        Err(e) => Err(Failure::failed(format!("cannot start: {e}"))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tell(&failure, format);
            ExitCode::from(failure.exit.code())
        }
    }
}

fn tell(failure: &Failure, format: Format) {
    let now = jiff::Timestamp::now();
    // A closed output is no reason to fail otherwise than we already do.
    let _ = writeln!(std::io::stderr(), "{}", render_failure(failure, Format::Text, now));
    if format == Format::Json {
        let _ = writeln!(std::io::stdout(), "{}", render_failure(failure, Format::Json, now));
    }
}

fn unparsed_exit(unparsed: &Unparsed) -> ExitCode {
    // As above.
    let _ = match unparsed {
        Unparsed::Asked(text) => write!(std::io::stdout(), "{text}"),
        Unparsed::Wrong(text) => write!(std::io::stderr(), "{text}"),
        Unparsed::Refused(failure) => {
            tell(failure, Format::Text);
            Ok(())
        }
    };
    ExitCode::from(unparsed.code())
}

/// Logs go to standard error; `PGRECAST_LOG` says what, in the filter syntax of `tracing`.
fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("PGRECAST_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
}
