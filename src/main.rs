//! The process edge: arguments in, exit code out.

use std::io::Write;
use std::process::ExitCode;

use pgrecast::cli::{self, Unparsed};
use pgrecast::error::Failure;
use pgrecast::report::{Format, log, render_failure};

fn main() -> ExitCode {
    log::install(cli::log_format(std::env::args_os()));
    let command = match cli::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(unparsed) => return unparsed_exit(&unparsed),
    };
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

/// On standard error, which is the log's alone where one was asked for; on standard output then, and where it is JSON.
fn tell(failure: &Failure, format: Format) {
    let now = jiff::Timestamp::now();
    let logged = log::failed(failure);
    // A closed output is no reason to fail otherwise than we already do.
    if !logged {
        let _ = writeln!(std::io::stderr(), "{}", render_failure(failure, Format::Text, now));
    }
    if logged || format == Format::Json {
        let _ = writeln!(std::io::stdout(), "{}", render_failure(failure, format, now));
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
