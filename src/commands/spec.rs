//! `pgrecast run SPEC.toml` and `--print-spec`.

use std::io::Read;
use std::path::Path;

use super::{migrate, say};
use crate::cli::{Command, Printed, Run};
use crate::error::Failure;

/// The longest spec, in bytes: more is another file, given by mistake.
const LONGEST: u64 = 1 << 20;

/// Does what the file says, as if it had been typed.
pub async fn run(typed: Run) -> Result<(), Failure> {
    match read(&typed) {
        Ok(command) => Box::pin(super::run(command)).await,
        Err(failure) => Err(migrate::without_run("run", failure, &typed.output)),
    }
}

/// Shows the spec of a command that can be understood.
pub fn print(printed: &Printed) -> Result<(), Failure> {
    migrate::understand(&printed.of)?;
    say(&printed.text);
    Ok(())
}

fn read(typed: &Run) -> Result<Command, Failure> {
    let spelled = typed.spelled(&text_of(&typed.file)?)?;
    migrate::understand(&spelled.command).map_err(|failure| spelled.locate(failure))?;
    Ok(spelled.command)
}

fn text_of(file: &Path) -> Result<String, Failure> {
    let cannot = |why: &dyn std::fmt::Display| Failure::usage(format!("cannot read {}: {why}", file.display()));
    let open = std::fs::File::open(file).map_err(|e| cannot(&e))?;
    let mut text = String::new();
    let read = open.take(LONGEST + 1).read_to_string(&mut text).map_err(|e| cannot(&e))?;
    match read as u64 > LONGEST {
        true => Err(cannot(&"it is longer than 1 MiB")),
        false => Ok(text),
    }
}
