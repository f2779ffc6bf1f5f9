//! `pgrecast demo`: a migration of a table under load, on a server of its own.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::{LAST_WORDS, migrate, reporter};
use crate::cli::{Alter, Connection, Demo, MigrateOptions, TableName};
use crate::demo::facts::{Facts, Seen};
use crate::demo::load::{Account, CLIENTS, Load, Stage};
use crate::demo::table::{self, Shape};
use crate::demo::watch::Watch;
use crate::demo::{Server, find_installed};
use crate::error::{Exit, Failure};
use crate::report::numbers::count;
use crate::report::{Event, Format, Reporter};

/// As a server for such a table has it: no checkpoint and no merge sort on disk in the few minutes there are.
const SETTINGS: [(&str, &str); 4] = [
    ("shared_buffers", "512MB"),
    ("maintenance_work_mem", "256MB"),
    ("max_wal_size", "8GB"),
    ("checkpoint_timeout", "30min"),
];

/// Compared with the clients' book at a time.
const BATCH: usize = 20_000;

/// Shows it, and leaves nothing behind, interrupted or not.
pub async fn demo(typed: Demo) -> Result<(), Failure> {
    let voices = Voices::new(typed.output.format)?;
    let outcome = tokio::select! {
        biased;
        why = interrupted() => Err(why),
        seen = show(&typed, &voices) => seen,
    };
    // An error must find the terminal as it was before.
    voices.finish();
    tell(&Facts::new(outcome?), typed.output.format)
}

/// Who speaks: a migration's last words end its reporter, and the demonstration goes on.
struct Voices {
    demo: Reporter,
    migration: Reporter,
    watch: Watch,
}

impl Voices {
    fn new(format: Format) -> Result<Voices, Failure> {
        let watch = Watch::default();
        let migration = Reporter::new(watch.on_stdout(format), Timestamp::now)
            .map_err(|e| Failure::failed(format!("cannot start the thread that shows progress: {e}")))?;
        Ok(Voices { demo: reporter(format)?, migration, watch })
    }

    fn say(&self, text: String) {
        self.demo.say(Event::Notice { text });
    }

    fn finish(&self) {
        self.migration.finish(LAST_WORDS);
        self.demo.finish(LAST_WORDS);
    }
}

/// The server goes with this future, at whatever point it is dropped.
async fn show(typed: &Demo, voices: &Voices) -> Result<Seen, Failure> {
    let server = start().await?;
    let dsn = server.dsn();
    voices.say(format!("a server of its own runs in {}", server.socket_dir().display()));
    voices.say(format!("filling {} with {} rows", table::NAME, count(typed.rows)));
    table::create(&dsn, typed.rows).await?;
    let before = table::look(&dsn).await?;
    let load = Load::start(&dsn, typed.rows).await?;
    let stay = typed.load.as_secs();
    voices.say(format!("{CLIENTS} clients read and write; the migration begins in {stay} s"));
    let mut lasted = [Duration::ZERO; 3];
    lasted[0] = lasting(tokio::time::sleep(typed.load)).await.0;
    load.enter(Stage::During);
    let migrated;
    (lasted[1], migrated) = lasting(migrate(&dsn, typed, &voices.migration)).await;
    migrated?;
    load.enter(Stage::After);
    voices.say(format!("the clients go on for {stay} s"));
    lasted[2] = lasting(tokio::time::sleep(typed.load)).await.0;
    let account = load.stop()?;
    let (after, lost) = compare(&dsn, &account).await?;
    Ok(Seen { before, after, lasted, account, lost, kept: voices.watch.kept() })
}

async fn lasting<T>(what: impl Future<Output = T>) -> (Duration, T) {
    let begun = Instant::now();
    let outcome = what.await;
    (begun.elapsed(), outcome)
}

/// `initdb` takes seconds, in which an interrupt must be heard.
async fn start() -> Result<Server, Failure> {
    let bin = find_installed().ok_or_else(no_server)?;
    tokio::task::spawn_blocking(move || Server::start(&bin, &SETTINGS))
        .await
        .map_err(|e| Failure::failed(format!("cannot start a server: {e}")))?
}

fn no_server() -> Failure {
    Failure::failed("no PostgreSQL server found on this machine")
        .detail("There is none of a supported version in PATH, nor in the places where packages put it.")
        .hint("scripts/demo of the source tree installs one and runs this; or install the package postgresql.")
}

/// As `pgrecast alter` does it.
async fn migrate(dsn: &str, typed: &Demo, reporter: &Reporter) -> Result<(), Failure> {
    let alter = Alter {
        reverse: Vec::new(),
        table: table::NAME.parse::<TableName>().map_err(|e| Failure::failed(e.to_string()))?,
        clauses: table::CLAUSES.to_owned(),
        dry_run: false,
        options: MigrateOptions::default(),
        connection: Connection { dsn: Some(dsn.to_owned()) },
        output: typed.output.clone(),
    };
    // What could be done about it goes with the server.
    migrate::alter_told(alter, reporter).await.map_err(|failure| Failure { hint: None, ..failure })
}

/// The table at the end, and how many of the clients' writes are not in it.
async fn compare(dsn: &str, account: &Account) -> Result<(Shape, u64), Failure> {
    let (keys, cents): (Vec<i64>, Vec<i64>) = account.book.iter().unzip();
    let mut lost = 0;
    for (keys, cents) in keys.chunks(BATCH).zip(cents.chunks(BATCH)) {
        lost += table::differing(dsn, keys, cents).await?;
    }
    Ok((table::look(dsn).await?, lost))
}

fn tell(facts: &Facts, format: Format) -> Result<(), Failure> {
    let text = match format {
        Format::Text => facts.lines().join("\n"),
        Format::Json => facts.object().map_err(|e| Failure::failed(format!("cannot tell the facts: {e}")))?,
    };
    let mut out = std::io::stdout();
    if format == Format::Text && out.is_terminal() {
        // What was shown live ends at the right edge of its last line, and not at the start of the next one.
        let _ = writeln!(out);
    }
    // A closed output is no reason to fail.
    let _ = writeln!(out, "{text}");
    let faults = facts.faults();
    if faults.is_empty() {
        return Ok(());
    }
    Err(Failure::failed("the migration was not what it should be").detail(faults.join("\n")))
}

async fn interrupted() -> Failure {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Failure::new(Exit::Interrupted, "interrupted").detail("The demonstration's server and its files are gone.")
}
