//! One partition more, for a row that came while the table was migrated.

use super::design::{free_name, range_bound};
use super::look::{ends_of, read_place};
use super::series::{Place, Range, range_of};
use crate::error::Failure;
use crate::pg::sql::name_with_suffix;
use crate::pg::{Conn, Literal};
use crate::plan::shape::Shape;
use crate::plan::tree::{Branch, Tree};
use crate::plan::types::{Plan, Series};
use crate::spec::partitioning::MOST_PARTITIONS;

/// The partition for a place in the plan's series, with its own partitions behind it; none where there can be none.
pub async fn branches(conn: &Conn, plan: &Plan, place: &str) -> Result<Vec<Branch>, Failure> {
    let Some(series) = &plan.series else { return Ok(Vec::new()) };
    let range = read_place(series.step, place).and_then(|place| range_of(series.step, series.naming, place));
    let like = plan.branches.iter().position(|b| b.parent.is_none() && b.bound != "DEFAULT");
    let (Some(range), Some(like)) = (range, like) else { return Ok(Vec::new()) };
    let below: Vec<&Branch> = plan.branches.iter().filter(|b| b.parent == Some(like)).collect();
    if plan.branches.len() + below.len() >= MOST_PARTITIONS {
        return Ok(Vec::new());
    }
    let own = plan.partitions.iter().map(|p| p.branch.clone()).collect();
    let mut taken = super::taken(conn, &Tree { root: plan.source.clone(), branches: own }).await?;
    taken.0.extend(own_names(plan));
    let name = free_name(&plan.source.name.name, &range.suffix, |name| taken.has(name));
    // What finds it by its name finds it by no other.
    if plan.managed.is_some() && name != format!("{}_{}", plan.source.name.name, range.suffix) {
        return Ok(Vec::new());
    }
    taken.0.push(name.clone());
    let bound = bound(conn, plan, series, &range).await?;
    let like = &plan.branches[like].shape;
    let shape = shape_like(like, &name, &mut taken.0);
    let mut made = vec![Branch { shape: shape.clone(), parent: None, bound }];
    for branch in below {
        let suffix = branch.shape.name.name.strip_prefix(&like.name.name).unwrap_or(&branch.shape.name.name);
        let own = free_name(&name, suffix.trim_start_matches('_'), |name| taken.has(name));
        taken.0.push(own.clone());
        let mut child = shape_like(&branch.shape, &own, &mut taken.0);
        for parent in child.indexes.iter_mut().filter_map(|index| index.parent.as_mut()) {
            let same = like.indexes.iter().zip(&shape.indexes).find(|(old, _)| old.name == *parent);
            if let Some((_, new)) = same {
                parent.clone_from(&new.name);
            }
        }
        made.push(Branch { shape: child, parent: Some(plan.branches.len()), bound: branch.bound.clone() });
    }
    Ok(made)
}

/// What the partitions and their indexes will be called in the table's schema.
fn own_names(plan: &Plan) -> impl Iterator<Item = String> {
    let indexes = |shape: &Shape| shape.indexes.iter().map(|i| i.name.clone()).collect::<Vec<_>>();
    plan.branches.iter().flat_map(move |b| std::iter::once(b.shape.name.name.clone()).chain(indexes(&b.shape)))
}

/// The bound as every session of ours reads it.
async fn bound(conn: &Conn, plan: &Plan, series: &Series, range: &Range) -> Result<String, Failure> {
    let column = plan.source.column(&series.column);
    let (Place::Day(from), Place::Day(to), Some(column)) = (range.from, range.to, column) else {
        return Ok(range_bound(range, column.and_then(ends_of)));
    };
    let Some(zone) = column.base_type_sql.ends_with("with time zone").then_some(&series.zone) else {
        return Ok(range_bound(range, None));
    };
    let instant = |day: &str| format!("pg_catalog.timezone({}, {}::pg_catalog.timestamp)", Literal(zone), Literal(day));
    let sql = format!("SELECT {}::text, {}::text", instant(&from.to_string()), instant(&to.to_string()));
    let row = conn.simple("read bounds", &sql).await?.into_iter().next().unwrap_or_default();
    let text = |i: usize| row.get(i).cloned().flatten().unwrap_or_default();
    Ok(format!("FOR VALUES FROM ({}) TO ({})", Literal(&text(0)), Literal(&text(1))))
}

/// A partition like another, under names that follow its own.
fn shape_like(like: &Shape, name: &str, used: &mut Vec<String>) -> Shape {
    let mut shape = like.clone();
    shape.name = like.name.sibling(name);
    for index in &mut shape.indexes {
        let rest = index.name.strip_prefix(&like.name.name).unwrap_or("_idx").to_owned();
        let free = std::iter::once(String::new()).chain((1..).map(|n: u32| n.to_string()));
        let mut free = free.map(|n| name_with_suffix(name, &format!("{rest}{n}")));
        index.name = free.find(|n| !used.contains(n)).unwrap_or_default();
        used.push(index.name.clone());
    }
    shape
}
