//! Makes a partition for a row that has none, where the table is partitioned by a series: the row says which.
//!
//! The run that met the row has ended its work; it goes on from the control row with a plan that has one partition more,
//! as a run does that is resumed. What such a partition needs, it has at once: there is no row in it.

use crate::context::Context;
use crate::error::Failure;
use crate::index;
use crate::pg::Role;
use crate::plan::ddl::{self, Purpose};
use crate::plan::partitioning;
use crate::plan::tree::{self, Node};
use crate::plan::types::{IdentityChange, Member, Partition, Plan};
use crate::report::Event;
use crate::state::{Migration, Phase, Store};

/// The plan with the partition; `None` where there can be none for this place.
///
/// # Errors
/// The server's.
pub async fn run(context: &Context, migration: &Migration, place: &str) -> Result<Option<Plan>, Failure> {
    let conn = context.connector.open(Role::Control).await?;
    let Some(branch) = partitioning::branch(&conn, &context.plan, place).await? else { return Ok(None) };
    let mut plan = Plan::clone(&context.plan);
    let name = branch.shape.name.plain();
    if let Some(back) = &mut plan.back {
        back.partitions.push(Partition { branch: branch.clone(), identity: IdentityChange::None });
    }
    plan.branches.push(branch);
    let Some(member) = plan.members(&context.names).pop() else { return Ok(None) };
    let steps = statements(context, &plan, &member, migration.phase);
    let keep = Store::keep_plan_sql(context.id, &plan)?;
    conn.batch("make partition", &format!("BEGIN;\n{};\n{keep};\nCOMMIT", steps.join(";\n"))).await?;
    context.reporter.say(Event::Notice { text: format!("partition {name} is made for a row that came meanwhile") });
    Ok(Some(plan))
}

fn statements(context: &Context, plan: &Plan, member: &Member<'_>, phase: Phase) -> Vec<String> {
    let (shape, name) = (member.target, member.shadow());
    let table = name.to_string();
    let indexes = (0..shape.indexes.len()).map(|n| member.index(n)).collect();
    let node = Node { shape, name: name.clone(), hangs: None, indexes };
    let mut steps = tree::create(&[node], &context.names.stand_in(), Purpose::Shadow, &[], context.facts.version);
    // Before that they are built with those of the others, and the whole has none yet.
    let has_indexes = match phase {
        Phase::CatchUp | Phase::Ready => true,
        Phase::Prepare | Phase::Copy | Phase::Index | Phase::Differs => false,
        Phase::Swapped | Phase::Keep | Phase::SwappedBack | Phase::Complete => false,
        Phase::RolledBack | Phase::NoWayBack => false,
    };
    if has_indexes {
        for build in index::builds_of(plan, member) {
            steps.extend(build.build);
            steps.extend(build.attach);
        }
    }
    let bound = member.hangs.map_or("", |(_, bound)| bound);
    // Its indexes become those of the whole by being like them.
    steps.push(format!("ALTER TABLE ONLY {} ATTACH PARTITION {table} {bound}", context.names.shadow()));
    steps.extend(ddl::comments(shape, &table));
    steps
}
