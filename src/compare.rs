//! Compares the two tables of a migration: for its own run, or because somebody asked.
//!
//! Whoever has the lease compares. A question stands in the control row, as a number; a shared advisory lock shows that
//! somebody still waits for the answer, which is the verdict, with the number up to which it answers. A question that
//! nobody waits for any more is not looked at.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::context::Context;
use crate::error::{Exit, Failure};
use crate::follow::Follower;
use crate::monitor::Board;
use crate::plan::types::{Member, Plan};
use crate::report::{Event, Phase as Shown, Reporter, VerifyFigures};
use crate::state::{Migration, Phase, Store};
use crate::stream::Key;
use crate::throttle::Throttle;
use crate::verify::statements::left_out;
use crate::verify::{self, Difference, Kind, Verdict};

/// How often to look whether somebody asks, or still waits.
pub const EVERY: Duration = Duration::from_millis(250);

/// Differences that a message names.
const NAMED: usize = 5;

/// What the control row says in place of a verdict where there was none to be had.
const IMPOSSIBLE: &str = "impossible";

/// A table that is compared with its shadow.
pub struct Pair<'a> {
    /// The table, on its way or on the way back.
    pub context: &'a Context,
    /// What keeps its shadow in step.
    pub follower: &'a Follower,
    /// Its plan forth, where this is the way back.
    pub forth: Option<Arc<Plan>>,
}

/// What is compared, and by whom it is kept in step.
pub struct Comparison<'a> {
    /// The migration, or its way back.
    pub context: &'a Context,
    /// Its tables.
    pub tables: Vec<Pair<'a>>,
    /// What holds the comparison back.
    pub throttle: Throttle,
    /// Where it is shown.
    pub board: &'a Board,
}

impl verify::InStep for Follower {
    async fn watch(&self, keys: Vec<Key>) -> Result<(), Failure> {
        Follower::watch(self, keys).await
    }

    async fn settle(&self) -> Result<(), Failure> {
        Follower::settle(self).await
    }

    async fn touched(&self) -> Result<HashSet<Key>, Failure> {
        Follower::touched(self).await
    }

    fn set_aside(&self) -> HashSet<Key> {
        self.view().unfit_keys()
    }
}

impl Comparison<'_> {
    /// Compares, and keeps the verdict, which answers all that was asked until now. A difference moves the migration from
    /// its phase `from` to the one without a swap.
    ///
    /// # Errors
    /// Exit 4 where there is a difference.
    pub async fn run(&self, from: Phase) -> Result<Verdict, Failure> {
        let asked = self.context.store.get_again(self.context.id).await?.asked.0;
        let verdict = self.compare().await?;
        self.conclude(asked, from, verdict).await
    }

    /// Does so if somebody asks for it, and for as long as somebody waits; whether there was anything to do.
    ///
    /// # Errors
    /// As [`Comparison::run`].
    pub async fn answer(&self, from: Phase, shown: Shown) -> Result<bool, Failure> {
        let Context { id, store, reporter, .. } = self.context;
        let Some(asked) = store.asked_to_compare(*id).await? else { return Ok(false) };
        self.board.enter(Shown::Verify);
        reporter.say(Event::Notice { text: "compares, as pgrecast verify asks".to_owned() });
        reporter.say(Event::PhaseBegan { phase: Shown::Verify });
        let compared = tokio::select! {
            verdict = self.compare() => Some(verdict),
            gone = self.nobody_waits() => {
                gone?;
                None
            }
        };
        match compared {
            Some(Ok(verdict)) => drop(self.conclude(asked, from, verdict).await?),
            // A row of the new table that has no old form is in the way of a comparison, not of what is followed.
            Some(Err(failure)) if self.is_way_back() && failure.is_data() => {
                let why = serde_json::json!({ IMPOSSIBLE: failure.primary });
                store.conn().batch("keep verdict", &Store::answer_sql(*id, asked, &why)).await?;
                reporter.say(Event::Warning { text: format!("the tables cannot be compared: {}", failure.primary) });
            }
            Some(Err(failure)) => return Err(failure),
            None => {
                let text = "the comparison is given up: nobody waits for it any more".to_owned();
                reporter.say(Event::Notice { text });
            }
        }
        self.board.enter(shown);
        reporter.say(Event::PhaseBegan { phase: shown });
        Ok(true)
    }

    async fn compare(&self) -> Result<Verdict, Failure> {
        self.say_left_out();
        let mut all = Verdict::default();
        for table in &self.tables {
            let verdict = verify::run(table.job(&self.throttle), table.follower, self.board.verified.clone()).await?;
            match self.tables.len() {
                1 => all = verdict,
                _ => all.add(verdict, &table.context.plan.source.name.plain()),
            }
            for (plan, names) in table.context.plan.named_parts(&table.context.names) {
                let (name, shadow) = (plan.target.name.plain(), names.shadow());
                let shadow_leaves = vec![shadow.clone()];
                let plan = Arc::new(plan);
                let job = verify::Job { plan, shadow, shadow_leaves, keep: None, ..table.job(&self.throttle) };
                all.add(verify::run(job, table.follower, self.board.verified.clone()).await?, &name);
            }
        }
        Ok(all)
    }

    fn is_way_back(&self) -> bool {
        self.tables.iter().any(|table| table.forth.is_some())
    }

    /// Says the verdict and keeps it. Not to be left half done: see [`Comparison::answer`].
    async fn conclude(&self, asked: i64, from: Phase, verdict: Verdict) -> Result<Verdict, Failure> {
        let Context { id, store, .. } = self.context;
        self.board.compared(figures(&verdict));
        tell(&self.context.reporter, &verdict);
        let answer = serde_json::to_value(&verdict)
            .map_err(|e| Failure::failed(format!("cannot keep the verdict of the comparison: {e}")))?;
        let answer = Store::answer_sql(*id, asked, &answer);
        if verdict.difference_count == 0 {
            store.conn().batch("keep verdict", &answer).await?;
            return Ok(verdict);
        }
        let to = if from == Phase::Keep { Phase::NoWayBack } else { Phase::Differs };
        let phase = Store::set_phase_sql(*id, from, to);
        store.conn().batch("keep verdict", &format!("BEGIN; {answer}; {phase}; COMMIT")).await?;
        Err(differ(&store.get_again(*id).await?, &verdict))
    }

    async fn nobody_waits(&self) -> Result<(), Failure> {
        while self.context.store.asked_to_compare(self.context.id).await?.is_some() {
            tokio::time::sleep(EVERY).await;
        }
        Ok(())
    }

    /// Columns that one of two tables has for itself.
    fn say_left_out(&self) {
        let told: Vec<String> = self.tables.iter().flat_map(Pair::left_out).collect();
        if !told.is_empty() {
            let text = format!("not compared, as the other table does not tell it: {}", told.join("; "));
            self.context.reporter.say(Event::Notice { text });
        }
    }
}

impl Pair<'_> {
    fn job(&self, throttle: &Throttle) -> verify::Job {
        let context = self.context;
        verify::Job {
            connector: context.connector.clone(),
            plan: context.plan.clone(),
            names: context.names.clone(),
            forth: self.forth.clone(),
            shadow: context.names.shadow(),
            shadow_leaves: context.plan.holders(&context.names).iter().map(Member::shadow).collect(),
            jobs: u32::from(context.jobs),
            throttle: throttle.clone(),
            keep: Some(verify::Keep { id: context.id, reporter: context.reporter.clone() }),
        }
    }

    fn left_out(&self) -> Vec<String> {
        let Some(forth) = &self.forth else { return Vec::new() };
        let (new, old) = left_out(forth, &self.context.plan);
        let told = [(new, self.context.plan.source.name.plain()), (old, self.context.names.shadow().plain())];
        told.into_iter()
            .filter(|(columns, _)| !columns.is_empty())
            .map(|(columns, table)| format!("{} of {table}", columns.join(", ")))
            .collect()
    }
}

/// Says what a comparison came to, save for the differences, which are the failure.
pub fn tell(reporter: &Reporter, verdict: &Verdict) {
    reporter.say(Event::VerifyResult {
        rows_compared: verdict.rows_compared,
        differences: verdict.difference_count,
        rechecked: verdict.rechecked,
    });
    if verdict.set_aside_count > 0 {
        let text = format!(
            "rows that do not fit the old table are no differences, but no rollback is possible with them: {}",
            first_of(&verdict.set_aside, verdict.set_aside_count)
        );
        reporter.say(Event::Warning { text });
    }
}

/// The first of so many.
fn first_of(named: &[String], count: u64) -> String {
    let mut shown: Vec<String> = named.iter().take(NAMED).cloned().collect();
    let more = count.saturating_sub(shown.len() as u64);
    if more > 0 {
        shown.push(format!("and {more} more"));
    }
    shown.join("; ")
}

/// What the report says of a verdict.
pub fn figures(verdict: &Verdict) -> VerifyFigures {
    VerifyFigures {
        rows_compared: Some(verdict.rows_compared),
        differences: Some(verdict.difference_count),
        rechecked: Some(verdict.rechecked),
    }
}

/// What a migration that is compared ends in where its tables differ: before the swap, or after it.
pub fn differ(migration: &Migration, verdict: &Verdict) -> Failure {
    let (id, count) = (migration.id, verdict.difference_count);
    let other = match &migration.old_table {
        Some(old) if !migration.phase.is_before_swap() => old.clone(),
        _ => "the shadow".to_owned(),
    };
    let rows = if count == 1 { "1 row".to_owned() } else { format!("{count} rows") };
    let (primary, hint) = match migration.phase.is_before_swap() {
        true => (
            format!("source and shadow differ in {rows}"),
            format!("There is no cut-over for this migration: run pgrecast abort {id}. The table is as it was."),
        ),
        false => (
            format!("{} and {other} differ in {rows}", migration.source),
            format!(
                "There is no rollback for this migration any more, and {other} follows no longer: \
                 pgrecast finish {id} drops it. Nothing was changed in {}.",
                migration.source
            ),
        ),
    };
    Failure::new(Exit::Differs, primary).detail(named(verdict, &other)).hint(hint)
}

fn named(verdict: &Verdict, other: &str) -> String {
    let how = |d: &Difference| {
        let other = d.table.as_deref().unwrap_or(other);
        let of = d.table.as_ref().map(|table| format!(" of {table}")).unwrap_or_default();
        match d.kind {
            Kind::Missing => format!("{} is missing in {other}", d.key),
            Kind::Extra => format!("{} is in {other} only", d.key),
            Kind::Different => format!("{} differs in {}{of}", d.key, d.columns.join(", ")),
        }
    };
    let named: Vec<String> = verdict.differences.iter().map(how).collect();
    format!("{}.", first_of(&named, verdict.difference_count))
}

/// The verdict that the control row keeps.
///
/// # Errors
/// Where there was none to be had.
pub fn kept_verdict(migration: &Migration) -> Result<Option<Verdict>, Failure> {
    let Some(kept) = &migration.verdict else { return Ok(None) };
    if let Some(why) = kept.get(IMPOSSIBLE).and_then(|why| why.as_str()) {
        return Err(Failure::failed(format!("migration {} cannot be compared: {why}", migration.id))
            .hint("Correct the rows of the new table that do not fit the old one, then ask again."));
    }
    serde_json::from_value(kept.clone())
        .map(Some)
        .map_err(|e| Failure::failed(format!("migration {}: cannot read its verdict: {e}", migration.id)))
}

/// What an earlier comparison has put an end to: the cut-over, or the way back.
///
/// # Errors
/// Exit 4 where one has.
pub fn allows(migration: &Migration) -> Result<(), Failure> {
    match migration.phase {
        Phase::Differs | Phase::NoWayBack => {}
        Phase::Prepare | Phase::Copy | Phase::Index | Phase::CatchUp | Phase::Ready | Phase::Swapped => return Ok(()),
        Phase::Keep | Phase::SwappedBack | Phase::Complete | Phase::RolledBack => return Ok(()),
    }
    let failure = differ(migration, &kept_verdict(migration)?.unwrap_or_default());
    Err(failure.named(format!("migration {} failed its verification", migration.id)))
}
