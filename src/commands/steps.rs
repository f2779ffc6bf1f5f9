//! `--dry-run`: every statement in order, the lock it takes, and whether it can make anyone wait.

use super::say_line;
use crate::cli::MigrateOptions;
use crate::copy::{Statements as CopyStatements, ToPart};
use crate::cutover::Swap;
use crate::error::Failure;
use crate::flush::Statements as FlushStatements;
use crate::index;
use crate::plan::types::{Names, Plan};
use crate::preflight::ServerFacts;
use crate::prepare;
use crate::report::Format;
use crate::statistics::Statements as Statistics;
use crate::ties::{Carry, Ties};

/// One statement of the plan.
#[derive(Debug, serde::Serialize)]
struct Step {
    event: &'static str,
    phase: &'static str,
    statement: String,
    /// On the source, unless it says otherwise.
    lock: &'static str,
    /// Whom it can make wait, and how long.
    waits: String,
}

/// Prints the plan.
pub fn show(
    plan: &Plan,
    ties: &Ties,
    facts: &ServerFacts,
    format: Format,
    options: &MigrateOptions,
) -> Result<(), Failure> {
    let steps = list(plan, ties, facts, options)?;
    match format {
        Format::Json => {
            for step in &steps {
                let line =
                    serde_json::to_string(step).map_err(|e| Failure::failed(format!("cannot show the plan: {e}")))?;
                say_line(&line);
            }
        }
        Format::Text => say_line(&text(plan, &steps)),
    }
    Ok(())
}

/// A block for each phase, and for each statement the lock it takes and whom it makes wait.
fn text(plan: &Plan, steps: &[Step]) -> String {
    let key = plan.key.columns.iter().map(|k| k.source.as_str()).collect::<Vec<_>>().join(", ");
    let mut out = format!("plan for {} (key: {key}); nothing was changed\n", plan.source.name.plain());
    let mut phase = "";
    for (n, step) in steps.iter().enumerate() {
        if step.phase != phase {
            phase = step.phase;
            out.push_str(&format!("\n{phase}\n"));
        }
        let statement = step.statement.replace('\n', "\n        ");
        out.push_str(&format!("  {:>3}.  {statement}\n", n + 1));
        if step.lock != NO_LOCK || step.waits != NOBODY {
            out.push_str(&format!("        -- lock: {}; waits: {}\n", step.lock, step.waits));
        }
    }
    out.push_str("\nA statement without a remark takes no lock on the table and makes nobody wait.");
    out
}

const NO_LOCK: &str = "none";
const NOBODY: &str = "nobody";

fn list(plan: &Plan, ties: &Ties, facts: &ServerFacts, options: &MigrateOptions) -> Result<Vec<Step>, Failure> {
    // The number is given when the migration is registered.
    let names = Names::new(0);
    let step = |phase, statement: String, lock, waits: &str| Step {
        event: "plan_step",
        phase,
        statement,
        lock,
        waits: waits.to_owned(),
    };
    let briefly = format!("others for {} ms at most", options.cutover.lock_timeout.as_millis());
    let mut steps = Vec::new();
    for statement in prepare::create_shadow(plan, &names, facts.version).split(";\n") {
        steps.push(step("prepare", statement.to_owned(), NO_LOCK, NOBODY));
    }
    for identity in prepare::identity_sql(plan) {
        steps.push(step("prepare", identity, "ACCESS EXCLUSIVE", &briefly));
    }
    let publication = prepare::publication_sql(plan, &names, facts.version);
    steps.push(step("prepare", publication, "SHARE UPDATE EXCLUSIVE", "DDL and vacuum of the table, for a moment"));
    let failover = if options.failover_slot { " (FAILOVER)" } else { "" };
    let slot = format!("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput{failover}", names.slot(facts.database_oid));
    steps.push(step("prepare", slot, NO_LOCK, "this run, for every open write transaction of the cluster"));
    for leaf in plan.leaves() {
        let copy = CopyStatements::new(plan, &leaf, &names, 0);
        for fill in copy.fill((0, 1024)) {
            steps.push(step("copy", format!("{fill} (for each block range)"), "ACCESS SHARE", NOBODY));
        }
        let copy = copy.insert((0, 1024));
        let parts = ToPart::all(plan, &names, 0);
        let parts = parts.iter().map(|part| part.statements.insert((0, 1024)));
        for copy in std::iter::once(copy).chain(parts) {
            let statement = format!("{copy} (for each block range)");
            steps.push(step("copy", statement, "ACCESS SHARE", "DDL of the table, for a second"));
        }
    }
    let builds = index::builds(plan, &names);
    let of_index = builds.iter().flat_map(|b| &b.build).chain(builds.iter().flat_map(|b| &b.attach));
    for statement in of_index.filter(|s| !s.starts_with("SET LOCAL")) {
        steps.push(step("index", statement.clone(), NO_LOCK, NOBODY));
    }
    for (plan, names) in plan.with_parts(&names) {
        let flush = FlushStatements::new(&plan, &names);
        steps.push(step("catch up", flush.delete_gone, "ACCESS SHARE", NOBODY));
        steps.push(step("catch up", flush.upsert, "ACCESS SHARE", NOBODY));
    }
    let carry = Carry { plan, ties, role: &facts.role };
    for statement in carry.statistics_of_shadow(&names, &[]) {
        steps.push(step("ready", statement, NO_LOCK, NOBODY));
    }
    for statement in Statistics::new(plan, &names, facts.version, options.vacuum).all() {
        steps.push(step("ready", statement.clone(), NO_LOCK, NOBODY));
    }
    let recipes = carry.recipes(&names)?;
    for statement in carry.make(&names, &recipes, &recipes.iter().collect::<Vec<_>>()) {
        steps.push(step("ready", statement, NO_LOCK, NOBODY));
    }
    for recipe in &recipes {
        let filling = recipe.fill.iter().chain(&recipe.finish).chain(&recipe.analyze);
        for statement in filling.filter(|s| !s.starts_with("SET LOCAL")) {
            steps.push(step("ready", statement.clone(), NO_LOCK, NOBODY));
        }
    }
    for statement in carry.quiet() {
        let lock = "SHARE UPDATE EXCLUSIVE on that one";
        steps.push(step("cut over", statement, lock, "REFRESH, DDL and vacuum of that one"));
    }
    steps.push(step(
        "cut over",
        format!("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE", plan.whole_source()),
        "SHARE UPDATE EXCLUSIVE",
        "DDL and vacuum of the table",
    ));
    let all = format!("every reader and writer of the table, {} ms at most", options.cutover.timeout.as_millis());
    let own_lock = carry.own_lock();
    for statement in carry.locks() {
        let own = statement == own_lock || Some(&statement) == carry.partitions_lock().as_ref();
        let lock = if own { "ACCESS EXCLUSIVE" } else { "ACCESS EXCLUSIVE on that one" };
        steps.push(step("cut over", statement, lock, &all));
    }
    let acls: Vec<_> = plan.members(&names).iter().map(|_| crate::cutover::Acl::none()).collect();
    let part_acls: Vec<_> = plan.beside(&names).iter().map(|_| crate::cutover::Acl::none()).collect();
    let (version, part_acls) = (facts.version, &part_acls);
    let swap =
        Swap { id: 0, plan, names: &names, taken: &[], acls: &acls, part_acls, carry, role: &facts.role, version };
    for statement in swap.statements() {
        steps.push(step("cut over", statement, "ACCESS EXCLUSIVE", "the same"));
    }
    steps.push(step("cut over", "COMMIT".to_owned(), "released", NOBODY));
    for owed in swap.owed() {
        let (lock, stops) = match owed.whole {
            None => ("SHARE UPDATE EXCLUSIVE on that one", "DDL and vacuum of that table"),
            Some(_) => ("ACCESS EXCLUSIVE on the table, SHARE ROW EXCLUSIVE on that one", "the same, for a moment"),
        };
        steps.push(step("finish", owed.statement(), lock, stops));
    }
    Ok(steps)
}
