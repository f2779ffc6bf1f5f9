//! Partitions more, for a row that came while the table was migrated.

use super::design::{Taken, free_name, range_bound};
use super::look::{ends_of, read_place};
use super::series::{Place, Range, range_of, within};
use crate::error::{Failure, Unplaced};
use crate::pg::sql::name_with_suffix;
use crate::pg::{Conn, Literal};
use crate::plan::shape::Shape;
use crate::plan::tree::{Branch, Tree};
use crate::plan::types::{Plan, Series};
use crate::spec::partitioning::MOST_PARTITIONS;

/// The partition for a place in the plan's series of a level, below each that is partitioned so, with its own partitions
/// behind it; none where there can be none.
pub async fn branches(conn: &Conn, plan: &Plan, wanted: &Unplaced) -> Result<Vec<Branch>, Failure> {
    let Some(series) = plan.ladder.iter().find(|series| series.level == wanted.level) else { return Ok(Vec::new()) };
    let range = read_place(series.step, &wanted.place);
    let Some(range) = range.and_then(|place| range_of(series.step, series.naming, place)) else {
        return Ok(Vec::new());
    };
    let same = |other: &&Series| other.column == series.column;
    // Below a range of the same column there are all that reach into it; the rest has no place there.
    if plan.ladder.iter().filter(same).any(|other| other.level < series.level) {
        return Ok(Vec::new());
    }
    let own = plan.partitions.iter().map(|p| p.branch.clone()).collect();
    let mut taken = super::taken(conn, &Tree { root: plan.source.clone(), branches: own }).await?;
    taken.0.extend(own_names(plan));
    let mut making = Making { plan, taken, finer: Vec::new(), made: Vec::new() };
    for finer in plan.ladder.iter().filter(same).filter(|other| other.level > series.level) {
        let mut ranges = Vec::new();
        for range in within(finer.step, finer.naming, &range).unwrap_or_default() {
            let bound = bound(conn, plan, finer, &range).await?;
            ranges.push((range.suffix, bound));
        }
        making.finer.push((finer.level, ranges));
    }
    let bound = bound(conn, plan, series, &range).await?;
    let parents: Vec<Option<usize>> = match series.level.checked_sub(1) {
        None => vec![None],
        Some(above) => (0..plan.branches.len()).filter(|n| plan.level(&plan.branches[*n]) == above).map(Some).collect(),
    };
    for parent in parents {
        let like = plan.branches.iter().position(|b| b.parent == parent && b.bound != DEFAULT);
        if let Some(like) = like {
            making.grow(parent, like, &range.suffix, bound.clone());
        }
    }
    let Making { made, .. } = making;
    let too_many = plan.branches.len() + made.len() > MOST_PARTITIONS;
    // What finds it by its name finds it by no other.
    let wanted = format!("{}_{}", plan.source.name.name, range.suffix);
    let lost = plan.managed.is_some() && made.iter().any(|branch| branch.shape.name.name != wanted);
    Ok(if too_many || lost { Vec::new() } else { made })
}

/// The bound of a partition for what belongs to no other.
const DEFAULT: &str = "DEFAULT";

/// What is being made.
struct Making<'a> {
    plan: &'a Plan,
    taken: Taken,
    /// Levels below of the same column, each with its suffixes and bounds.
    finer: Vec<(usize, Vec<(String, String)>)>,
    /// Behind those of the plan.
    made: Vec<Branch>,
}

impl Making<'_> {
    fn shape(&self, parent: Option<usize>) -> &Shape {
        match parent {
            None => &self.plan.target,
            Some(n) => &self.plan.branches.get(n).unwrap_or_else(|| &self.made[n - self.plan.branches.len()]).shape,
        }
    }

    /// A partition like another, with partitions like that one's.
    fn grow(&mut self, parent: Option<usize>, like: usize, suffix: &str, bound: String) {
        let old = &self.plan.branches[like];
        let name = free_name(&self.shape(parent).name.name, suffix, |name| self.taken.has(name));
        self.taken.0.push(name.clone());
        let mut shape = shape_like(&old.shape, &name, &mut self.taken.0);
        let above = self.shape(old.parent).indexes.iter().zip(&self.shape(parent).indexes);
        let above: Vec<(&str, &str)> = above.map(|(old, new)| (old.name.as_str(), new.name.as_str())).collect();
        for of in shape.indexes.iter_mut().filter_map(|index| index.parent.as_mut()) {
            if let Some((_, new)) = above.iter().find(|(old, _)| old == of) {
                *of = (*new).to_owned();
            }
        }
        self.made.push(Branch { shape, parent, bound });
        let own = Some(self.plan.branches.len() + self.made.len() - 1);
        let level = self.plan.level(old) + 1;
        let finer = self.finer.iter().find(|(of, _)| *of == level).map(|(_, ranges)| ranges.clone());
        let below = (0..self.plan.branches.len()).filter(|n| self.plan.branches[*n].parent == Some(like));
        let (mut copied, mut first) = (Vec::new(), None);
        for child in below {
            match finer.is_some() && self.plan.branches[child].bound != DEFAULT {
                true => first = first.or(Some(child)),
                false => copied.push(child),
            }
        }
        for child in copied {
            let Branch { shape, bound, .. } = &self.plan.branches[child];
            let suffix = shape.name.name.strip_prefix(&old.shape.name.name).unwrap_or(&shape.name.name);
            self.grow(own, child, suffix.trim_start_matches('_'), bound.clone());
        }
        if let Some(first) = first {
            for (suffix, bound) in finer.unwrap_or_default() {
                self.grow(own, first, &suffix, bound);
            }
        }
    }
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
