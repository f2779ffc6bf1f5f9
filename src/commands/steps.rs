//! `--dry-run`: every statement in order, the lock it takes, and whether it can make anyone wait.

use super::say_line;
use crate::cli::MigrateOptions;
use crate::copy::{Statements as CopyStatements, ToPart};
use crate::cutover::{self, Acl, Swap, together};
use crate::error::Failure;
use crate::flush::Statements as FlushStatements;
use crate::index;
use crate::plan::types::{Names, Plan};
use crate::preflight::ServerFacts;
use crate::prepare;
use crate::report::Format;
use crate::statistics::Statements as Statistics;
use crate::ties::{Carry, Owed, Ties};

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

/// Prints the plan: of each table, with what is tied to it.
pub fn show(
    tables: &[(Plan, Ties)],
    facts: &ServerFacts,
    format: Format,
    options: &MigrateOptions,
) -> Result<(), Failure> {
    let steps = list(tables, facts, options)?;
    match format {
        Format::Json => {
            for step in &steps {
                let line =
                    serde_json::to_string(step).map_err(|e| Failure::failed(format!("cannot show the plan: {e}")))?;
                say_line(&line);
            }
        }
        Format::Text => say_line(&text(tables, &steps)),
    }
    Ok(())
}

/// A block for each phase, and for each statement the lock it takes and whom it makes wait.
fn text(tables: &[(Plan, Ties)], steps: &[Step]) -> String {
    let named = |(plan, _): &(Plan, Ties)| {
        let key = plan.key.columns.iter().map(|k| k.source.as_str()).collect::<Vec<_>>().join(", ");
        format!("{} (key: {key})", plan.source.name.plain())
    };
    let named: Vec<String> = tables.iter().map(named).collect();
    let mut out = format!("plan for {}; nothing was changed\n", named.join(", "));
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

fn step(phase: &'static str, statement: String, lock: &'static str, waits: &str) -> Step {
    Step { event: "plan_step", phase, statement, lock, waits: waits.to_owned() }
}

fn list(tables: &[(Plan, Ties)], facts: &ServerFacts, options: &MigrateOptions) -> Result<Vec<Step>, Failure> {
    // The numbers are given when the migration is registered.
    let carry = |(plan, ties)| Carry { plan, ties, role: &facts.role };
    let tables: Vec<(Names, Carry<'_>)> =
        (0..).zip(tables).map(|(n, (plan, ties))| (Names::beside(n, 0), carry((plan, ties)))).collect();
    let mut steps = prepare_steps(&tables, facts, options);
    for (names, Carry { plan, .. }) in &tables {
        for leaf in plan.leaves() {
            let copy = CopyStatements::new(plan, &leaf, names, 0);
            for fill in copy.fill((0, 1024)) {
                steps.push(step("copy", format!("{fill} (for each block range)"), "ACCESS SHARE", NOBODY));
            }
            let copy = copy.insert((0, 1024));
            let parts = ToPart::all(plan, names, 0);
            let parts = parts.iter().map(|part| part.statements.insert((0, 1024)));
            for copy in std::iter::once(copy).chain(parts) {
                let statement = format!("{copy} (for each block range)");
                steps.push(step("copy", statement, "ACCESS SHARE", "DDL of the table, for a second"));
            }
        }
    }
    for (names, Carry { plan, .. }) in &tables {
        let builds = index::builds(plan, names);
        let of_index = builds.iter().flat_map(|b| &b.build).chain(builds.iter().flat_map(|b| &b.attach));
        for statement in of_index.filter(|s| !s.starts_with("SET LOCAL")) {
            steps.push(step("index", statement.clone(), NO_LOCK, NOBODY));
        }
    }
    for (names, Carry { plan, .. }) in &tables {
        for (plan, names) in plan.with_parts(names) {
            let flush = FlushStatements::new(&plan, &names);
            steps.push(step("catch up", flush.delete_gone, "ACCESS SHARE", NOBODY));
            steps.push(step("catch up", flush.upsert, "ACCESS SHARE", NOBODY));
        }
    }
    for (names, carry) in &tables {
        steps.extend(ready_steps(names, carry, facts, options)?);
    }
    let (swap, all_owed) = cutover_steps(&tables, facts, options);
    steps.extend(swap);
    for owed in all_owed {
        let (lock, stops) = match owed.whole {
            None => ("SHARE UPDATE EXCLUSIVE on that one", "DDL and vacuum of that table"),
            Some(_) => ("ACCESS EXCLUSIVE on the table, SHARE ROW EXCLUSIVE on that one", "the same, for a moment"),
        };
        steps.push(step("finish", owed.statement(), lock, stops));
    }
    Ok(steps)
}

fn prepare_steps(tables: &[(Names, Carry<'_>)], facts: &ServerFacts, options: &MigrateOptions) -> Vec<Step> {
    let briefly = format!("others for {} ms at most", options.cutover.lock_timeout.as_millis());
    let plans = || tables.iter().map(|(_, carry)| carry.plan);
    let head = Names::new(0);
    let mut steps = Vec::new();
    for (names, carry) in tables {
        for statement in prepare::create_shadow(carry.plan, names, facts.version).split(";\n") {
            steps.push(step("prepare", statement.to_owned(), NO_LOCK, NOBODY));
        }
    }
    for identity in plans().flat_map(prepare::identity_sql) {
        steps.push(step("prepare", identity, "ACCESS EXCLUSIVE", &briefly));
    }
    let publication = prepare::publication_sql(plans(), &head, facts.version);
    steps.push(step("prepare", publication, "SHARE UPDATE EXCLUSIVE", "DDL and vacuum of the table, for a moment"));
    let failover = if options.failover_slot { " (FAILOVER)" } else { "" };
    let slot = format!("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput{failover}", head.slot(facts.database_oid));
    steps.push(step("prepare", slot, NO_LOCK, "this run, for every open write transaction of the cluster"));
    steps
}

fn ready_steps(
    names: &Names,
    carry: &Carry<'_>,
    facts: &ServerFacts,
    options: &MigrateOptions,
) -> Result<Vec<Step>, Failure> {
    let recipes = carry.recipes(names)?;
    let mut statements = carry.statistics_of_shadow(names, &[]);
    statements.extend(Statistics::new(carry.plan, names, facts.version, options.vacuum).all().cloned());
    statements.extend(carry.make(names, &recipes, &recipes.iter().collect::<Vec<_>>()));
    for recipe in &recipes {
        let filling = recipe.fill.iter().chain(&recipe.finish).chain(&recipe.analyze);
        statements.extend(filling.filter(|s| !s.starts_with("SET LOCAL")).cloned());
    }
    Ok(statements.into_iter().map(|statement| step("ready", statement, NO_LOCK, NOBODY)).collect())
}

/// Those of the swap, and what is left to do for the foreign keys after it.
fn cutover_steps(
    tables: &[(Names, Carry<'_>)],
    facts: &ServerFacts,
    options: &MigrateOptions,
) -> (Vec<Step>, Vec<Owed>) {
    let mut steps = Vec::new();
    for statement in tables.iter().flat_map(|(_, carry)| carry.quiet()) {
        let lock = "SHARE UPDATE EXCLUSIVE on that one";
        steps.push(step("cut over", statement, lock, "REFRESH, DDL and vacuum of that one"));
    }
    let carries: Vec<Carry<'_>> = tables.iter().map(|(_, carry)| *carry).collect();
    let sources: Vec<String> = tables.iter().map(|(_, carry)| carry.plan.whole_source()).collect();
    steps.push(step(
        "cut over",
        format!("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE", sources.join(", ")),
        "SHARE UPDATE EXCLUSIVE",
        "DDL and vacuum of the table",
    ));
    let all = format!("every reader and writer of the table, {} ms at most", options.cutover.timeout.as_millis());
    let own =
        |carry: &Carry<'_>, lock: &String| *lock == carry.own_lock() || Some(lock) == carry.partitions_lock().as_ref();
    for statement in together::locks(&carries) {
        let own = carries.iter().any(|carry| own(carry, &statement));
        let lock = if own { "ACCESS EXCLUSIVE" } else { "ACCESS EXCLUSIVE on that one" };
        steps.push(step("cut over", statement, lock, &all));
    }
    let acls: Vec<Vec<Acl>> =
        (tables.iter()).map(|(names, carry)| carry.plan.members(names).iter().map(|_| Acl::none()).collect()).collect();
    let part_acls: Vec<Vec<Acl>> =
        (tables.iter()).map(|(names, carry)| carry.plan.beside(names).iter().map(|_| Acl::none()).collect()).collect();
    let swaps: Vec<Swap<'_>> = (0..)
        .zip(tables.iter().zip(acls.iter().zip(&part_acls)))
        .map(|(id, ((names, carry), (acls, part_acls)))| Swap {
            id,
            plan: carry.plan,
            names,
            taken: Vec::new(),
            acls,
            part_acls,
            carry: *carry,
            role: &facts.role,
            version: facts.version,
        })
        .collect();
    for statement in cutover::statements(&swaps) {
        steps.push(step("cut over", statement, "ACCESS EXCLUSIVE", "the same"));
    }
    steps.push(step("cut over", "COMMIT".to_owned(), "released", NOBODY));
    (steps, swaps.iter().flat_map(Swap::owed).collect())
}
