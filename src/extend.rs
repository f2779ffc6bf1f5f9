//! Makes a partition for a row that has none, where the table is partitioned by a series: the row says which.
//!
//! The run that met the row has ended its work; it goes on from the control row with a plan that has one partition more,
//! as a run does that is resumed. What such a partition needs, it has at once: there is no row in it.

use crate::context::Context;
use crate::error::{Failure, Unplaced};
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
pub async fn run(context: &Context, migration: &Migration, wanted: &Unplaced) -> Result<Option<Plan>, Failure> {
    let conn = context.connector.open(Role::Control).await?;
    let made = partitioning::branches(&conn, &context.plan, wanted).await?;
    let there = context.plan.branches.len();
    let is_new = |parent: &Option<usize>| parent.is_some_and(|parent| parent >= there);
    let names: Vec<String> = (made.iter().filter(|b| !is_new(&b.parent))).map(|b| b.shape.name.plain()).collect();
    if names.is_empty() {
        return Ok(None);
    }
    let mut plan = Plan::clone(&context.plan);
    if let Some(back) = &mut plan.back {
        let followed = |branch: &Branch| Partition { branch: branch.clone(), identity: IdentityChange::None };
        back.partitions.extend(made.iter().map(followed));
    }
    plan.branches.extend(made);
    let members = plan.members(&context.names);
    let steps = statements(context, &plan, &members, there + 1, migration.phase);
    let keep = Store::keep_plan_sql(context.id, &plan)?;
    conn.batch("make partition", &format!("BEGIN;\n{};\n{keep};\nCOMMIT", steps.join(";\n"))).await?;
    let names = names.join(", ");
    context.reporter.say(Event::Notice { text: format!("partition {names} is made for a row that came meanwhile") });
    Ok(Some(plan))
}

/// Of all members those from the first new one on are made, each with its own partitions.
fn statements<'a>(context: &Context, plan: &Plan, members: &[Member<'a>], first: usize, phase: Phase) -> Vec<String> {
    let (_, new) = members.split_at(first);
    // What hangs on one that is there is the root of what is made.
    let node = |member: &Member<'a>| -> Node<'a> {
        Node {
            shape: member.target,
            name: member.shadow(),
            hangs: member.hangs.and_then(|(parent, bound)| Some((parent.checked_sub(first)?, bound))),
            indexes: (0..member.target.indexes.len()).map(|n| member.index(n)).collect(),
        }
    };
    let nodes: Vec<Node<'a>> = new.iter().map(node).collect();
    let mut steps = tree::create(&nodes, &context.names.stand_in(), Purpose::Shadow, &[], context.facts.version);
    // Before that they are built with those of the others, and the whole has none yet.
    let has_indexes = match phase {
        Phase::CatchUp | Phase::Ready => true,
        Phase::Prepare | Phase::Copy | Phase::Index | Phase::Differs => false,
        Phase::Swapped | Phase::Keep | Phase::SwappedBack | Phase::Complete => false,
        Phase::RolledBack | Phase::NoWayBack => false,
    };
    if has_indexes {
        for holder in new.iter().filter(|member| !member.target.is_partitioned()) {
            for build in index::builds_of(plan, holder) {
                steps.extend(build.build);
                steps.extend(build.attach);
            }
        }
        let partitioned = (0..nodes.len()).rev().filter(|n| nodes[*n].shape.is_partitioned());
        steps.extend(partitioned.flat_map(|n| tree::partitioned_indexes(&nodes, n)));
    }
    for member in new {
        let Some((parent, bound)) = member.hangs.filter(|(parent, _)| *parent < first) else { continue };
        // Its indexes become those of the one above by being like them.
        steps.push(format!(
            "ALTER TABLE ONLY {} ATTACH PARTITION {} {bound}",
            members[parent].shadow(),
            member.shadow()
        ));
    }
    steps
}
