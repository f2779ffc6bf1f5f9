//! `--dry-run`: every statement in order, the lock it takes, and whether it can make anyone wait.

use comfy_table::{ContentArrangement, Table, presets};

use crate::cli::MigrateOptions;
use crate::copy::Statements as CopyStatements;
use crate::cutover::Swap;
use crate::error::Failure;
use crate::flush::Statements as FlushStatements;
use crate::index;
use crate::plan::types::{Names, Plan};
use crate::preflight::ServerFacts;
use crate::prepare;
use crate::report::Format;

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
pub fn show(plan: &Plan, facts: &ServerFacts, format: Format, options: &MigrateOptions) -> Result<(), Failure> {
    let steps = list(plan, facts, options);
    match format {
        Format::Json => {
            for step in &steps {
                let line = serde_json::to_string(step).map_err(|e| Failure::failed(format!("cannot show the plan: {e}")))?;
                println!("{line}");
            }
        }
        Format::Text => println!("{}", text(plan, &steps)),
    }
    Ok(())
}

fn text(plan: &Plan, steps: &[Step]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["phase", "statement", "lock on the table", "who can wait"]);
    for step in steps {
        table.add_row([step.phase, &step.statement, step.lock, &step.waits]);
    }
    let key = plan.key.columns.iter().map(|k| k.source.as_str()).collect::<Vec<_>>().join(", ");
    format!("plan for {} (key {key}); nothing was changed\n{table}", plan.source.name.plain())
}

const NOBODY: &str = "nobody";

fn list(plan: &Plan, facts: &ServerFacts, options: &MigrateOptions) -> Vec<Step> {
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
        steps.push(step("prepare", statement.to_owned(), "none", NOBODY));
    }
    if let Some(identity) = prepare::identity_sql(plan) {
        steps.push(step("prepare", identity, "ACCESS EXCLUSIVE", &briefly));
    }
    let publication = prepare::publication_sql(plan, &names, facts.version);
    steps.push(step("prepare", publication, "SHARE UPDATE EXCLUSIVE", "DDL and vacuum of the table, for a moment"));
    let slot = format!("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput", names.slot(facts.database_oid));
    steps.push(step("prepare", slot, "none", "this run, for every open write transaction of the cluster"));
    let copy = CopyStatements::new(plan, &names, 0).insert((0, 2048));
    steps.push(step("copy", format!("{copy} (for each block range)"), "ACCESS SHARE", "DDL of the table, for a second"));
    let builds = index::builds(plan, &names);
    let of_index = builds.iter().flat_map(|b| &b.build).chain(builds.iter().flat_map(|b| &b.attach));
    for statement in of_index.filter(|s| !s.starts_with("SET LOCAL")) {
        steps.push(step("index", statement.clone(), "none", NOBODY));
    }
    let flush = FlushStatements::new(plan, &names);
    steps.push(step("catch up", flush.delete_gone, "ACCESS SHARE", NOBODY));
    steps.push(step("catch up", flush.upsert, "ACCESS SHARE", NOBODY));
    steps.push(step("ready", format!("ANALYZE {}", names.shadow()), "none", NOBODY));
    let lock = |mode| format!("LOCK TABLE ONLY {} IN {mode} MODE", plan.source.name);
    steps.push(step("cut over", lock("SHARE UPDATE EXCLUSIVE"), "SHARE UPDATE EXCLUSIVE", "DDL and vacuum of the table"));
    let all = format!("every reader and writer of the table, {} ms at most", options.cutover.timeout.as_millis());
    steps.push(step("cut over", lock("ACCESS EXCLUSIVE"), "ACCESS EXCLUSIVE", &all));
    let acl = crate::cutover::Acl::none();
    let swap = Swap { id: 0, plan, names: &names, taken: &[], acl: &acl, role: &facts.role };
    for statement in swap.statements() {
        steps.push(step("cut over", statement, "ACCESS EXCLUSIVE", "the same"));
    }
    steps.push(step("cut over", "COMMIT".to_owned(), "released", NOBODY));
    steps
}
