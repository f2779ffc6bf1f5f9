//! Makes a partition for a row that has none, where the table is partitioned by a series: the row says which.
//!
//! The run that met the row has ended its work; it goes on from the control row with a plan that has one partition more,
//! as a run does that is resumed. What such a partition needs, it has at once: there is no row in it.

use crate::context::Context;
use crate::error::Failure;
use crate::index;
use crate::pg::Role;
use crate::plan::ddl::Purpose;
use crate::plan::partitioning;
use crate::plan::tree::{self, Branch, Node};
use crate::plan::types::{IdentityChange, Member, Partition, Plan};
use crate::report::Event;
use crate::state::{Migration, Phase, Store};

/// The plan with the partition; `None` where there can be none for this place.
///
/// # Errors
/// The server's.
pub async fn run(context: &Context, migration: &Migration, place: &str) -> Result<Option<Plan>, Failure> {
    let conn = context.connector.open(Role::Control).await?;
    let made = partitioning::branches(&conn, &context.plan, place).await?;
    let Some(name) = made.first().map(|branch| branch.shape.name.plain()) else { return Ok(None) };
    let mut plan = Plan::clone(&context.plan);
    if let Some(back) = &mut plan.back {
        let followed = |branch: &Branch| Partition { branch: branch.clone(), identity: IdentityChange::None };
        back.partitions.extend(made.iter().map(followed));
    }
    plan.branches.extend(made);
    let members = plan.members(&context.names);
    let steps = statements(context, &plan, &members[context.plan.branches.len() + 1..], migration.phase);
    let keep = Store::keep_plan_sql(context.id, &plan)?;
    conn.batch("make partition", &format!("BEGIN;\n{};\n{keep};\nCOMMIT", steps.join(";\n"))).await?;
    context.reporter.say(Event::Notice { text: format!("partition {name} is made for a row that came meanwhile") });
    Ok(Some(plan))
}

/// The first of the members is a partition of the whole, the others are its own.
fn statements<'a>(context: &Context, plan: &Plan, members: &[Member<'a>], phase: Phase) -> Vec<String> {
    let Some(first) = members.first() else { return Vec::new() };
    let node = |(n, member): (usize, &Member<'a>)| Node {
        shape: member.target,
        name: member.shadow(),
        hangs: (n > 0).then(|| (0, member.hangs.map_or("", |(_, bound)| bound))),
        indexes: (0..member.target.indexes.len()).map(|n| member.index(n)).collect(),
    };
    let nodes: Vec<Node<'a>> = members.iter().enumerate().map(node).collect();
    let mut steps = tree::create(&nodes, &context.names.stand_in(), Purpose::Shadow, &[], context.facts.version);
    // Before that they are built with those of the others, and the whole has none yet.
    let has_indexes = match phase {
        Phase::CatchUp | Phase::Ready => true,
        Phase::Prepare | Phase::Copy | Phase::Index | Phase::Differs => false,
        Phase::Swapped | Phase::Keep | Phase::SwappedBack | Phase::Complete => false,
        Phase::RolledBack | Phase::NoWayBack => false,
    };
    if has_indexes {
        for holder in members.iter().filter(|member| !member.target.is_partitioned()) {
            for build in index::builds_of(plan, holder) {
                steps.extend(build.build);
                steps.extend(build.attach);
            }
        }
        if first.target.is_partitioned() {
            steps.extend(tree::partitioned_indexes(&nodes, 0));
        }
    }
    let bound = first.hangs.map_or("", |(_, bound)| bound);
    // Its indexes become those of the whole by being like them.
    steps.push(format!("ALTER TABLE ONLY {} ATTACH PARTITION {} {bound}", context.names.shadow(), first.shadow()));
    steps
}
