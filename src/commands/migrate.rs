//! `pgrecast alter`, `pgrecast partition`, `pgrecast split`, and what goes on with them.

use super::opened::{Opened, is_unfinished, open};
use super::widen::check_type;
use super::{close, report_of, say_line, steps, told};
use crate::cli::{Alter, Command, Connection, MigrateOptions, Output, Outside, Partition, Resume, Split, TableName};
use crate::error::{Exit, Failure};
use crate::estimate::estimate;
use crate::monitor::closed_failure;
use crate::pg::Conn;
use crate::plan::build::Request;
use crate::plan::types::Plan;
use crate::plan::{build::plan, rejoin, reverse::reverse, tree};
use crate::preflight::{self, Finding};
use crate::published::NO_WAY_BACK;
use crate::report::{Event, Format, Report, Reporter};
use crate::run::{Run, Until, absolute};
use crate::seams;
use crate::spec::{self, Clauses, Partitioning, Spec};
use crate::state::{Migration, NewMigration, Phase};
use crate::ties::Ties;
use crate::window::{self, Now};

/// A migration as it was asked for, by whichever command.
pub(super) struct Wanted {
    pub(super) table: TableName,
    pub(super) spec: Spec,
    /// The same in words.
    pub(super) text: String,
    /// What makes the command the same command: the table, the change, and what shapes the target.
    pub(super) request: serde_json::Value,
    /// How old columns come back from a new row.
    pub(super) reverse: Vec<(String, String)>,
    pub(super) dry_run: bool,
    pub(super) options: MigrateOptions,
    pub(super) connection: Connection,
    pub(super) output: Output,
}

impl Wanted {
    fn alter(typed: Alter) -> Result<Wanted, Failure> {
        let request = serde_json::json!({
            "command": "alter",
            "clauses": typed.clauses,
            "primary_key": typed.options.primary_key,
            "settings": typed.options.settings,
            "way_back": typed.options.rollback_window.map(|_| &typed.reverse),
            "failover_slot": typed.options.failover_slot,
            "on_error": typed.options.on_error,
        });
        Ok(Wanted {
            table: typed.table,
            spec: Spec::Alter(Clauses::parse(&typed.clauses)?),
            text: typed.clauses,
            request,
            reverse: typed.reverse.into_iter().map(|r| (r.column, r.expression)).collect(),
            dry_run: typed.dry_run,
            options: typed.options,
            connection: typed.connection,
            output: typed.output,
        })
    }

    fn partition(typed: Partition) -> Result<Wanted, Failure> {
        let spec = Partitioning::read(&typed)?;
        let request = serde_json::json!({
            "command": "partition",
            "by": typed.by,
            "below": typed.below,
            "default_partition": typed.default_partition,
            "left_off": typed.drop_constraints,
            "pg_partman": typed.pg_partman,
            "primary_key": typed.options.primary_key,
            "way_back": typed.options.rollback_window.is_some(),
            "failover_slot": typed.options.failover_slot,
        });
        Ok(Wanted {
            table: typed.table,
            text: spec.to_string(),
            spec: Spec::Partition(spec),
            request,
            reverse: Vec::new(),
            dry_run: typed.dry_run,
            options: typed.options,
            connection: typed.connection,
            output: typed.output,
        })
    }
}

impl Wanted {
    fn split(typed: Split) -> Result<Wanted, Failure> {
        let spec = split_spec(&typed)?;
        let request = serde_json::json!({
            "command": "split",
            "into": typed.into,
            "lookup": typed.lookup,
            "drop": typed.drop,
            "exhaustive": typed.exhaustive,
            "foreign_key": typed.foreign_key,
            "compat_view": typed.compat_view.as_ref().map(ToString::to_string),
            "reverse": typed.reverse,
            "left_off": typed.drop_constraints,
            "settings": typed.options.settings,
            "way_back": typed.options.rollback_window.is_some(),
            "failover_slot": typed.options.failover_slot,
        });
        Ok(Wanted {
            table: typed.table,
            text: spec.to_string(),
            reverse: spec.reverse.clone(),
            spec: Spec::Split(spec),
            request,
            dry_run: typed.dry_run,
            options: typed.options,
            connection: typed.connection,
            output: typed.output,
        })
    }
}

fn split_spec(typed: &Split) -> Result<spec::Split, Failure> {
    let spec = spec::Split {
        into: typed.into.iter().map(|text| spec::split::Into::read(text)).collect::<Result<_, _>>()?,
        lookups: typed.lookup.iter().map(|text| spec::split::Lookup::read(text)).collect::<Result<_, _>>()?,
        drop: typed.drop.clone(),
        exhaustive: typed.exhaustive,
        foreign_key: typed.foreign_key,
        left_off: typed.drop_constraints.clone(),
        compat_view: typed.compat_view.clone(),
        reverse: typed.reverse.iter().map(|r| (r.column.clone(), r.expression.clone())).collect(),
    };
    spec.check()?;
    Ok(spec)
}

/// Reads what no server is needed for, of a command that begins a migration.
///
/// # Errors
/// As the command itself.
pub(super) fn understand(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Alter(typed) => Clauses::parse(&typed.clauses).map(drop),
        Command::Partition(typed) => Partitioning::read(typed).map(drop),
        Command::Split(typed) => split_spec(typed).map(drop),
        Command::Widen(typed) => check_type(&typed.type_sql),
        Command::Print(printed) => understand(&printed.of),
        Command::Run(_)
        | Command::Resume(_)
        | Command::List(_)
        | Command::Status(_)
        | Command::Pause(_)
        | Command::Unpause(_)
        | Command::Set(_)
        | Command::Cutover(_)
        | Command::Abort(_)
        | Command::Verify(_)
        | Command::Finish(_)
        | Command::Rollback(_)
        | Command::Demo(_) => Ok(()),
    }
}

/// Gives a table a new shape, or goes on with the same migration where it was begun before.
pub async fn alter(typed: Alter) -> Result<(), Failure> {
    let (reporter, _status) = told(&typed.output).await?;
    alter_told(typed, &reporter).await
}

/// The same, told to a reporter of the caller's.
pub(super) async fn alter_told(typed: Alter, reporter: &Reporter) -> Result<(), Failure> {
    let output = typed.output.clone();
    migrate("alter", Wanted::alter(typed), &output, reporter).await
}

/// Makes a table partitioned, or goes on with it.
pub async fn partition(typed: Partition) -> Result<(), Failure> {
    let (reporter, _status) = told(&typed.output).await?;
    let output = typed.output.clone();
    migrate("partition", Wanted::partition(typed), &output, &reporter).await
}

/// Takes a table apart, or goes on with it.
pub async fn split(typed: Split) -> Result<(), Failure> {
    let (reporter, _status) = told(&typed.output).await?;
    let output = typed.output.clone();
    migrate("split", Wanted::split(typed), &output, &reporter).await
}

async fn migrate(
    command: &'static str,
    wanted: Result<Wanted, Failure>,
    output: &Output,
    reporter: &Reporter,
) -> Result<(), Failure> {
    let begun = async {
        let mut wanted = wanted?;
        make_absolute(&mut wanted.options);
        Ok::<_, Failure>((begin(&wanted).await?, wanted.options))
    };
    match begun.await {
        Ok((Some((opened, migration, resumed)), options)) => {
            let how = How { command, resumed, until: Until::Swapped };
            go(opened, migration, options, how, reporter, output).await
        }
        Ok((None, _)) => Ok(()),
        Err(failure) => Err(without_run(command, failure, output)),
    }
}

/// Everything before the first change: `None` where only the plan was asked for.
pub(super) async fn begin(wanted: &Wanted) -> Result<Option<(Opened, Migration, bool)>, Failure> {
    let opened = open(&wanted.connection, wanted.options.cutover.lock_timeout).await?;
    let planner = opened.planner().await?;
    let oid = preflight::find_table(&planner, wanted.table.schema.as_deref(), &wanted.table.name).await?;
    match begun_before(&opened, oid, wanted).await {
        Ok(Some(begun)) => return Ok(Some((opened, begun, true))),
        Ok(None) => {}
        // That the control schema is another role's is among what preflight finds.
        Err(failure) if wanted.dry_run && failure.is_forbidden() => {}
        Err(failure) => return Err(failure),
    }
    refuse_hours(wanted)?;
    let mut sieve = Sieve::new(wanted.dry_run);
    sieve.pass(preflight::look(opened.store.conn(), &opened.facts, oid, wanted.options.failover_slot).await?)?;
    check_settings(&opened, &settings(&wanted.options)).await?;
    refuse_blind_throttle(&opened, &wanted.options)?;
    let (plan, ties) = planned(&opened, &planner, oid, wanted).await?;
    let mut found = ties.findings(&planner, &plan, opened.facts.version).await?;
    found.extend(of_partitions(&opened, &plan).await?);
    sieve.pass(found)?;
    if wanted.dry_run {
        show(&opened, &[(plan, ties)], &sieve.said(), wanted.output.format, &wanted.options).await?;
        return Ok(None);
    }
    let source = plan.source.name.plain();
    let new = NewMigration {
        source_oid: oid,
        source: &source,
        request: &wanted.request,
        options: &wanted.options,
        plan: &plan,
    };
    let id = opened.store.register(&new, &[]).await?;
    let migration = opened.store.get_again(id).await?;
    Ok(Some((opened, migration, false)))
}

/// Shows the plan, and what the migration of each table will come to.
pub(super) async fn show(
    opened: &Opened,
    plans: &[(Plan, Ties)],
    remarks: &[String],
    format: Format,
    options: &MigrateOptions,
) -> Result<(), Failure> {
    steps::show(plans, &opened.facts, format, options)?;
    for (plan, ties) in plans {
        let estimated = estimate(&opened.connector, plan, ties, &opened.facts, options).await?;
        say_line(&estimated.remarked(remarks).shown(format)?);
    }
    Ok(())
}

/// The plan for one table, and what is tied to it.
pub(super) async fn planned(
    opened: &Opened,
    planner: &Conn,
    oid: u32,
    wanted: &Wanted,
) -> Result<(Plan, Ties), Failure> {
    let settings = settings(&wanted.options);
    let source = tree::tree(opened.store.conn(), oid).await?;
    let request = Request {
        spec: &wanted.spec,
        text: &wanted.text,
        primary_key: wanted.options.primary_key.as_deref(),
        settings: &settings,
        on_error: wanted.options.on_error,
    };
    let ties = Ties::read(opened.store.conn(), oid, "", opened.facts.version).await?;
    preflight::refusal(ties.never())?;
    match &wanted.spec {
        Spec::Partition(spec) => ties.refuse_unknown(&source, &spec.left_off)?,
        Spec::Split(spec) => ties.refuse_unknown(&source, &spec.left_off)?,
        Spec::Alter(_) => {}
    }
    let mut plan: Plan = plan(planner, source, &request, opened.facts.version).await?;
    let ties = ties.for_target(&plan);
    if wanted.options.rollback_window.is_some() {
        preflight::refusal(ties.no_way_back(&plan))?;
        plan.back = Some(Box::new(reverse(planner, &plan, &wanted.reverse, opened.facts.version).await?));
        rejoin::lend_identities(&mut plan);
    }
    Ok((plan, ties))
}

/// What is tied to the partitions alone.
async fn of_partitions(opened: &Opened, plan: &Plan) -> Result<Vec<Finding>, Failure> {
    let mut found = Vec::new();
    for partition in &plan.partitions {
        let ties = Ties::read(opened.store.conn(), partition.branch.shape.oid, "", opened.facts.version).await?;
        found.extend(ties.of_partition(&partition.branch.shape.name));
    }
    Ok(found)
}

/// What speaks against a migration ends it before it begins. That another role would have to run it does not end a dry
/// run, which tells it instead.
pub(super) struct Sieve {
    dry_run: bool,
    of_role: Vec<Finding>,
}

impl Sieve {
    /// Nothing found yet.
    pub(super) fn new(dry_run: bool) -> Sieve {
        Sieve { dry_run, of_role: Vec::new() }
    }

    pub(super) fn pass(&mut self, findings: Vec<Finding>) -> Result<(), Failure> {
        let (of_role, others) = findings.into_iter().partition(|f| self.dry_run && f.of_role);
        self.of_role.extend::<Vec<Finding>>(of_role);
        preflight::refusal(others)
    }

    pub(super) fn said(self) -> Vec<String> {
        let said = |f: Finding| format!("This role could not run it: {}. {}", f.what, f.hint);
        self.of_role.into_iter().map(said).collect()
    }
}

/// A command that ended before there was a run writes its report all the same.
pub(super) fn without_run(command: &str, failure: Failure, output: &Output) -> Failure {
    let report = Report { command: command.to_owned(), outcome: failure.exit.word().to_owned(), ..Report::default() };
    if let Some(path) = &output.report
        && let Err(e) = report.write(path)
    {
        tracing::warn!(path = %path.display(), error = %e, "the report cannot be written");
    }
    failure
}

/// Goes on with an interrupted migration.
pub async fn resume(typed: Resume) -> Result<(), Failure> {
    let opened = open(&typed.connection, MigrateOptions::default().cutover.lock_timeout).await?;
    let migration = opened.find(typed.id, "resume", is_unfinished).await?;
    let mut options = typed.changes.apply(migration.options.clone())?;
    if options.rollback_window.is_some() && migration.plan.back.is_none() {
        return Err(Failure::usage(format!("migration {} was begun without --rollback-window", migration.id))
            .hint("The way back is planned at the start: leave the option out, or abort and start again with it."));
    }
    make_absolute(&mut options);
    let how = How { command: "resume", resumed: true, until: Until::Swapped };
    let (reporter, _status) = told(&typed.output).await?;
    go(opened, migration, options, how, &reporter, &typed.output).await
}

/// What a run is for.
pub(super) struct How {
    pub(super) command: &'static str,
    pub(super) resumed: bool,
    pub(super) until: Until,
}

/// An unfinished migration of the same table: the same request goes on, another one is refused.
pub(super) async fn begun_before(opened: &Opened, oid: u32, wanted: &Wanted) -> Result<Option<Migration>, Failure> {
    let all = opened.store.list().await?;
    // After the swap the name stands for the new table, whose oid is another one: it is found by the name.
    let same_name = |m: &Migration| {
        !m.phase.is_before_swap()
            && m.plan.source.name.name == wanted.table.name
            && wanted.table.schema.as_ref().is_none_or(|s| *s == m.plan.source.name.schema)
    };
    let is_it = |m: &Migration| m.tables().any(|table| table.source_oid == oid || same_name(table));
    let found = match all.iter().find(|m| is_unfinished(m) && is_it(m)) {
        Some(found) => found.clone(),
        None => return Ok(all.into_iter().rev().find(|m| is_repeated(wanted, m) && same_name(m))),
    };
    if found.request == wanted.request {
        if wanted.dry_run {
            return Err(Failure::refused(format!("migration {} does this already", found.id))
                .hint(format!("pgrecast status {} shows how far it is.", found.id)));
        }
        return Ok(Some(found));
    }
    let table = found.tables().find(|table| table.source_oid == oid || same_name(table)).unwrap_or(&found);
    Err(Failure::refused(format!("table {} is being migrated already", table.source))
        .detail(format!(
            "Migration {} is in phase {} and was begun with another change: {}",
            found.id, found.phase, found.plan.clauses
        ))
        .hint(format!("Go on with it (pgrecast resume {0}), or give it up (pgrecast abort {0}).", found.id)))
}

/// Whoever starts a command again and again, as cron does, has it done once: until `finish` it is over, and so it is after
/// a rollback.
fn is_repeated(wanted: &Wanted, m: &Migration) -> bool {
    !is_unfinished(m) && !wanted.dry_run && wanted.options.hours.outside == Outside::Exit && m.request == wanted.request
}

/// Runs a registered migration to its end.
pub(super) async fn go(
    opened: Opened,
    migration: Migration,
    options: MigrateOptions,
    how: How,
    reporter: &Reporter,
    output: &Output,
) -> Result<(), Failure> {
    let report = report_of(&migration, how.command, &opened.facts);
    let group = match opened.group(&migration, options.jobs, reporter.clone()).await {
        Ok(group) => group,
        Err(failure) => return close(reporter, report, Err(failure), None, output.report.as_deref()),
    };
    let context = group.head.clone();
    reporter.say(Event::Started {
        id: i64::from(migration.id),
        command: how.command.to_owned(),
        source: migration.source.clone(),
        server_version: context.facts.version_text.clone(),
        resumed: how.resumed,
    });
    if context.facts.has_standby && !context.facts.sees_all {
        let text =
            "Replica lag is not to be seen by this role, so it holds nothing back: GRANT pg_read_all_stats lets it.";
        reporter.say(Event::Warning { text: text.to_owned() });
    }
    let mut run = Run::new(group, options.clone(), how.until, report);
    let outcome = async {
        context.store.keep_options(migration.id, &options).await?;
        run.go(context.store.get_again(migration.id).await?).await
    }
    .await;
    let (phase, old_table) = match context.store.get(migration.id).await {
        Ok(Some(m)) => (Some(m.phase), m.old_tables()),
        Ok(None) => (None, None),
        Err(_) => (Some(migration.phase), None),
    };
    let outcome = outcome.map_err(|failure| what_remains(failure, migration.id, phase));
    close(reporter, run.report, outcome, old_table, output.report.as_deref())
}

/// A failed run says what is still there: `phase` is where the migration stands now, if it still does.
fn what_remains(failure: Failure, id: i32, phase: Option<Phase>) -> Failure {
    if failure.exit != Exit::Failed {
        return failure;
    }
    let remains = match phase {
        None => "Nothing was left behind.".to_owned(),
        Some(Phase::Keep) if failure.hint.as_ref().is_some_and(|h| h.contains(NO_WAY_BACK)) => return failure,
        Some(Phase::Keep) => format!(
            "The tables are swapped, and the slot of the way back holds WAL: pgrecast resume {id} keeps the old table in step again, pgrecast finish {id} drops it."
        ),
        Some(Phase::SwappedBack | Phase::RolledBack) => {
            format!("The tables are swapped back: pgrecast rollback {id} cleans up.")
        }
        Some(Phase::Swapped | Phase::Complete | Phase::NoWayBack) => {
            format!("The tables are swapped; what remains to clean up, pgrecast resume {id} removes.")
        }
        Some(Phase::Prepare | Phase::Copy | Phase::Index | Phase::CatchUp | Phase::Ready | Phase::Differs) => {
            match failure.hint.as_ref().is_some_and(|h| h.contains("pgrecast abort")) {
                true => return failure,
                false => format!(
                    "Migration {id} is kept, its replication slot holds WAL: pgrecast resume {id} goes on, pgrecast abort {id} removes it."
                ),
            }
        }
    };
    let hint = failure.hint.clone().map(|h| format!("{h} ")).unwrap_or_default();
    failure.hint(format!("{hint}{remains}"))
}

pub(super) fn settings(options: &MigrateOptions) -> Vec<(String, String)> {
    options.settings.iter().map(|s| (s.name.clone(), s.value.clone())).collect()
}

/// Nothing is begun outside the windows by a run that does not wait for them.
pub(super) fn refuse_hours(wanted: &Wanted) -> Result<(), Failure> {
    let hours = &wanted.options.hours;
    match window::at(&hours.windows, seams::now()) {
        Now::Closed { opens } if hours.outside == Outside::Exit && !wanted.dry_run => Err(closed_failure(opens, hours)),
        Now::Closed { .. } | Now::Open { .. } => Ok(()),
    }
}

/// A limit on what the role cannot see would never hold anything back.
pub(super) fn refuse_blind_throttle(opened: &Opened, options: &MigrateOptions) -> Result<(), Failure> {
    let role = crate::pg::sql::plain_ident(&opened.facts.role);
    let blind = if options.throttle.max_active.is_some() { "--max-active" } else { "--critical-active" };
    if options.throttle.max_active.or(options.critical.active).is_none() || opened.facts.sees_all {
        return Ok(());
    }
    Err(Failure::refused(format!("{blind}: role {role} does not see the sessions of other roles"))
        .hint(format!("GRANT pg_read_all_stats TO {role}, or leave the option out.")))
}

/// Settings of ours cannot be given, and a value the server refuses is said before anything else.
pub(super) async fn check_settings(opened: &Opened, settings: &[(String, String)]) -> Result<(), Failure> {
    const OURS: &[&str] = &[
        "search_path",
        "row_security",
        "role",
        "session_authorization",
        "lock_timeout",
        "statement_timeout",
        "synchronous_commit",
        "default_transaction_isolation",
        "default_transaction_read_only",
        "session_replication_role",
        "client_encoding",
        "standard_conforming_strings",
    ];
    for (name, value) in settings {
        if OURS.contains(&name.to_ascii_lowercase().as_str()) {
            return Err(Failure::usage(format!("--setting {name} is not for conversions"))
                .hint("Give settings that a conversion reads, such as TimeZone, DateStyle or lc_monetary."));
        }
        let sql = format!("SET {} = {}", crate::pg::Ident(name), crate::pg::Literal(value));
        opened.store.conn().batch("try setting", &format!("BEGIN; {sql}; ROLLBACK")).await.map_err(|e| {
            match e.is_judgement() {
                true => Failure::usage(format!("--setting {name}={value}: {}", e.message)),
                false => e.into(),
            }
        })?;
    }
    Ok(())
}

pub(super) fn make_absolute(options: &mut MigrateOptions) {
    let cutover = &mut options.cutover;
    cutover.postpone_file = cutover.postpone_file.take().map(absolute);
    options.throttle.file = options.throttle.file.take().map(absolute);
}
