//! The estimate of a dry run: how long, how much, and how far behind.
//!
//! [`read`] and [`trial`] measure; what they find becomes [`rates`], and these become an [`Estimate`] in [`model`], which
//! is pure, as everything is that decides. Nothing is written that outlives a transaction, no row's value is shown, and
//! the only lock on the table is that of reading it. `docs/estimate.md` is the manual of the model.

mod constants;
mod course;
mod distinct;
mod facts;
mod figure;
mod model;
mod nights;
mod rates;
mod read;
mod scratch;
mod show;
mod trial;

use serde::Serialize;

use crate::cli::{MigrateOptions, Outside};
use crate::error::Failure;
use crate::pg::{Connector, Role};
use crate::plan::types::{Names, Plan};
use crate::preflight::ServerFacts;
use crate::report::Format;
use crate::report::numbers::{bytes, seconds};
use crate::seams;
use crate::ties::Ties;
use facts::{Facts, Missing, Open, Trial};
pub use figure::Figure;
pub use model::Estimate;
use nights::Work;

/// An estimate, and what it rests on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimated {
    /// What it will come to.
    #[serde(flatten)]
    estimate: Estimate,
    /// How many of the given windows it takes; none where it may work at any hour.
    nights: Option<Figure>,
    /// What there is.
    #[serde(rename = "measured")]
    facts: Facts,
    /// What was tried.
    trial: Option<Trial>,
    /// What was not measured, and why.
    #[serde(rename = "not_measured")]
    missing: Vec<Missing>,
    /// What else there is to know.
    remarks: Vec<String>,
}

/// Measures and derives.
///
/// # Errors
/// The server's; what this role may not do is no error, and named in the estimate.
pub async fn estimate(
    connector: &Connector,
    plan: &Plan,
    ties: &Ties,
    server: &ServerFacts,
    options: &MigrateOptions,
) -> Result<Estimated, Failure> {
    let connector = connector.clone().with_settings(&plan.settings);
    let conn = connector.open(Role::Estimator).await?;
    let mut missing = Vec::new();
    let (mut facts, sampled) = read::run(&conn, plan, server, options.dry_run.sample, &mut missing).await?;
    let untried = match options.dry_run.trial {
        false => Some("--no-trial"),
        true if plan.rows.is_some() || !plan.beside(&Names::new(0)).is_empty() => {
            Some("a table that is taken apart is not tried; each new one counts as if it might get all rows")
        }
        true => None,
    };
    let trial = match untried {
        None => {
            let job = trial::Job { plan, version: server.version, blocks: &sampled.blocks, since: sampled.since };
            trial::run(&conn, &job, &mut missing).await?
        }
        Some(why) => {
            missing.push(Missing::new("what copy, index builds, flush and comparison cost here", why));
            None
        }
    };
    if let Some(trial) = trial.as_ref().filter(|t| t.blocks > 0) {
        facts.rows = trial.rows as f64 / trial.blocks as f64 * facts.blocks;
    }
    facts.different_share = rates::different_share(&facts, trial.as_ref());
    let rates = rates::rates(plan, &facts, trial.as_ref(), &sampled.default_tablespace);
    let tablespace = plan.target.tablespace.as_deref().unwrap_or(&sampled.default_tablespace);
    let estimate = model::derive(&model::Inputs {
        facts: &facts,
        rates: &rates,
        jobs: options.jobs,
        nice: options.throttle.nice,
        verify: options.verify,
        max_lag: options.throttle.max_lag.as_secs_f64(),
        cutover_timeout: options.cutover.timeout.as_secs_f64(),
        tablespace,
        default_tablespace: &sampled.default_tablespace,
        key_bytes: 8.0 * plan.key.columns.len() as f64,
    });
    let longest =
        rates.builds.iter().map(|build| build.seconds).reduce(Figure::or_more).unwrap_or(Figure::exactly(0.0));
    let nights = nights::nights(&options.hours, seams::now(), Work { total: estimate.total_seconds, longest });
    let mut remarks = remarks(&facts, &estimate, ties, options);
    remarks.extend(by_day(&facts, nights, options));
    Ok(Estimated { estimate, nights, facts, trial, missing, remarks })
}

/// What a person should know before starting.
fn remarks(facts: &Facts, estimate: &Estimate, ties: &Ties, options: &MigrateOptions) -> Vec<String> {
    let mut said = Vec::new();
    if !estimate.converges {
        let rate = estimate.largest_writes_per_second.mid;
        said.push(format!(
            "It does not converge: {:.0} writes a second are more than the {rate:.0} it can follow.",
            facts.writes.all()
        ));
    }
    let age = |open: &Open| open.seconds.map_or("for an unknown time".to_owned(), |s| format!("for {}", seconds(s)));
    for open in facts.open_transactions.iter().filter(|o| o.on_table) {
        said.push(format!("The cut-over would wait for {}, open {} with a lock on the table.", open.who, age(open)));
    }
    for open in facts.open_transactions.iter().filter(|o| o.writes) {
        said.push(format!("The replication slot would wait for {}, open {} and writing.", open.who, age(open)));
    }
    let most = options.throttle.max_slot_wal;
    if estimate.peak_slot_wal_bytes.mid > most as f64 {
        said.push(format!("The slot would hold back more than --max-slot-wal {}, and work would pause.", bytes(most)));
    }
    if ties.views.iter().any(|view| view.stored.is_some()) {
        let text = "Materialized views on the table are filled before the swap; that time is not in the estimate.";
        said.push(text.to_owned());
    }
    said
}

/// What a run leaves in the slot that ends with its window.
fn by_day(facts: &Facts, nights: Option<Figure>, options: &MigrateOptions) -> Option<String> {
    let several = nights.is_some_and(|nights| nights.mid > 1.0);
    if !several || options.hours.outside == Outside::KeepUp {
        return None;
    }
    let held = facts.wal_bytes_per_second * nights::longest_day(&options.hours.windows, seams::now());
    let most = options.throttle.max_slot_wal;
    let stays = match held > most as f64 {
        true => format!(": more than --max-slot-wal {}, so the run would stay and follow the changes", bytes(most)),
        false => String::new(),
    };
    Some(format!("Between two windows the slot would come to hold {} of WAL{stays}.", bytes(held as u64)))
}

impl Estimated {
    /// The same with more to know.
    pub fn remarked(mut self, more: &[String]) -> Estimated {
        self.remarks.extend_from_slice(more);
        self
    }

    /// As it is said.
    ///
    /// # Errors
    /// None that is expected.
    pub fn shown(&self, format: Format) -> Result<String, Failure> {
        match format {
            Format::Text => Ok(format!("\n{}", show::text(self))),
            Format::Json => serde_json::to_string(&serde_json::json!({"event": "estimate", "estimate": self}))
                .map_err(|e| Failure::failed(format!("cannot show the estimate: {e}"))),
        }
    }
}
