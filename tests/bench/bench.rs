//! Speed and pauses, measured on a server of its own. Run by `scripts/bench`; see its head for the options.
//!
//! Each row is a file's or a function's worth of measuring that returns an [`Outcome`]: figures held against marks, and
//! the facts behind them. A row that fails is a miss, and the others go on.

mod changes;
mod cutover;
mod estimated;
mod idle;
mod lab;
mod load;
mod migration;
mod outcome;
mod partition;
mod polite;

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use lab::Lab;
use outcome::Outcome;
use serde_json::json;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Measures pgrecast against its marks; the exit code is 1 where one is missed.
#[derive(Debug, Parser)]
#[command(name = "scripts/bench")]
pub struct Args {
    /// The rows to measure
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
          value_parser = clap::value_parser!(u8).range(1..=15))]
    rows: Vec<u8>,
    /// Multiplies the sizes of tables, and shortens loads where it is below 1
    #[arg(long, value_name = "F", default_value_t = 1.0, value_parser = positive)]
    scale: f64,
    /// Runs of each figure, whose median counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    runs: u8,
    /// Cut-overs of row 5, over the three protocol modes
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u8).range(3..))]
    cutovers: u8,
    /// Where to write all figures as JSON
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The directory of the server's programs
    #[arg(long, value_name = "DIR", hide = true)]
    server: PathBuf,
    /// The directory of psql and pgbench
    #[arg(long, value_name = "DIR", hide = true)]
    clients: PathBuf,
    /// The program to measure
    #[arg(long, value_name = "PATH", hide = true, default_value = env!("CARGO_BIN_EXE_pgrecast"))]
    program: PathBuf,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn positive(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        Ok(_) | Err(_) => Err("a number above 0 is needed".to_owned()),
    }
}

fn main() -> ExitCode {
    // `cargo test --all-targets` starts this too, and is not to wait for an hour.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    match measure(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("scripts/bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every mark was met.
fn measure(args: &Args) -> Result<bool> {
    let mut rows = args.rows.clone();
    // Row 3 wants a server of other settings, which is started last.
    rows.sort_by_key(|row| (*row == 3, *row));
    rows.dedup();
    let mut lab = None;
    let mut version = String::new();
    let mut outcomes = Vec::new();
    for row in rows {
        let buffers = if row == 3 { idle::small_buffers(args.scale) } else { "1GB".to_owned() };
        let lab = Lab::with_buffers(&mut lab, args, &buffers)?;
        version.clone_from(&lab.version);
        eprintln!("== row {row}: {}", outcome::title(row));
        let outcome = of_row(lab, row).unwrap_or_else(|error| Outcome::failed(row, error.to_string()));
        eprint!("{}", outcome.lines());
        outcomes.push(outcome);
    }
    outcomes.sort_by_key(|outcome| outcome.row);
    println!("{}", outcome::table(&outcomes));
    if let Some(out) = &args.out {
        let all = json!({ "server_version": version, "scale": args.scale, "runs": args.runs, "rows": outcomes });
        fs::write(out, serde_json::to_string_pretty(&all)? + "\n")?;
    }
    Ok(outcomes.iter().all(Outcome::passes))
}

fn of_row(lab: &mut Lab, row: u8) -> Result<Outcome> {
    // An idle table is measured without it; the rows with clients have it as a server has it by default, and row 7 says when.
    lab.autovacuum(if (5..=10).contains(&row) || [12, 15].contains(&row) { Some("1min") } else { None })?;
    match row {
        1 => idle::narrow(lab),
        2 => idle::wide(lab),
        3 => idle::larger_than_memory(lab),
        4 => idle::verify(lab),
        5 => cutover::under_load(lab),
        6 => cutover::with_reader(lab),
        7 => cutover::with_autovacuum(lab),
        8 => changes::sustained(lab),
        9 => changes::memory(lab),
        10 => cutover::tied(lab),
        11 => partition::by_month(lab),
        12 => cutover::together(lab),
        13 => polite::at_half_rate(lab),
        14 => estimated::against_measured(lab),
        15 => cutover::apart(lab),
        _ => Err(format!("there is no row {row}").into()),
    }
}
