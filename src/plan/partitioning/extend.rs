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

/// The partition for a place in the plan's series; `None` where there can be none.
pub async fn branch(conn: &Conn, plan: &Plan, place: &str) -> Result<Option<Branch>, Failure> {
    let Some(series) = &plan.series else { return Ok(None) };
    let range = read_place(series.step, place).and_then(|place| range_of(series.step, place));
    let like = plan.branches.iter().find(|b| b.parent.is_none() && b.bound != "DEFAULT");
    let (Some(range), Some(like)) = (range, like) else { return Ok(None) };
    if plan.branches.len() >= MOST_PARTITIONS {
        return Ok(None);
    }
    let branches = plan.partitions.iter().map(|p| p.branch.clone()).collect();
    let mut taken = super::taken(conn, &Tree { root: plan.source.clone(), branches }).await?;
    taken.0.extend(own_names(plan));
    let name = free_name(&plan.source.name.name, &range.suffix, |name| taken.has(name));
    taken.0.push(name.clone());
    let bound = bound(conn, plan, series, &range).await?;
    let shape = shape_like(&like.shape, &name, taken.0);
    Ok(Some(Branch { shape, parent: None, bound }))
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
fn shape_like(like: &Shape, name: &str, mut used: Vec<String>) -> Shape {
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
