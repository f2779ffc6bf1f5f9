//! Words for a row that the new shape cannot hold: its key, the value, the expression, all under the names that the
//! user knows.

use tokio_postgres::error::SqlState;

use crate::error::{Failure, Unplaced};
use crate::pg::{Conn, Error, Ident, Literal};
use crate::plan::partitioning::{place_sql, read_place};
use crate::plan::types::{Names, Plan, Series, Value};

/// What helps against every one of them.
const HINT: &str =
    "The table is as it was. Correct the row and run the same command again to go on, or give up with pgrecast abort.";

/// A row of the source that `cause` was raised for.
pub struct Unfit<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The migration's names.
    pub names: &'a Names,
    /// A condition over the source, under [`Plan::alias`], that only this row meets.
    pub row: String,
    /// Its key as people read it: `column = value, …`.
    pub key: String,
    /// What is to be said of it between commas, if anything.
    pub aside: &'static str,
    /// What the server said.
    pub cause: &'a Error,
}

impl Unfit<'_> {
    /// The failure. A transaction must be open on `conn`; nothing in it is kept.
    ///
    /// # Errors
    /// What goes wrong in asking; a conversion that fails again is the answer, not an error.
    pub async fn describe(&self, conn: &Conn) -> Result<Failure, Failure> {
        let row = format!("row {} of {}{}", self.key, self.plan.source.name.plain(), self.aside);
        let said = with_final_names(self.plan, self.names, &self.cause.message);
        let mut detail = self.conversion(conn).await?;
        for (plan, names) in self.plan.named_parts(self.names) {
            if detail.is_none() {
                let (row, key) = (self.row.clone(), self.key.clone());
                detail = Unfit { plan: &plan, names: &names, row, key, ..*self }.conversion(conn).await?;
            }
        }
        if let Some(detail) = detail {
            let failure = Failure::failed(format!("{row} cannot be converted: {said}")).detail(detail);
            return Ok(failure.hint(HINT).caused_by(self.cause));
        }
        let failure = Failure::failed(format!("{row} does not fit the new shape: {said}"));
        let failure = failure.hint(HINT).caused_by(self.cause);
        match self.has_no_partition() {
            true => Ok(self.unplaced(conn, failure).await?),
            false => Ok(failure),
        }
    }

    /// Whether another table may be to blame.
    fn is_one_of_several(&self) -> bool {
        !self.plan.parts.is_empty() || self.names.is_of_part()
    }

    /// A CHECK that a row fails has a name.
    fn has_no_partition(&self) -> bool {
        let unnamed = self.cause.constraint.is_none() && self.cause.is(&SqlState::CHECK_VIOLATION);
        self.plan.makes_partitions() && unnamed
    }

    /// Where the row would belong, so that it can get a partition there.
    async fn unplaced(&self, conn: &Conn, failure: Failure) -> Result<Failure, Failure> {
        let detail = self.cause.detail.clone().unwrap_or_default();
        let failure = failure.detail(detail).hint(format!("{HINT} With --default-partition it would have a place."));
        let series = self.level().and_then(|level| self.plan.ladder.iter().find(|series| series.level == level));
        let Some(Series { level, column, step, zone, .. }) = series else { return Ok(failure) };
        let place = place_sql(&self.plan.source, column, *step, &Ident(column).to_string(), zone)?;
        let sql = format!("SELECT {place} FROM {} WHERE {}", self.plan.source_from(), self.row);
        let place = conn.scalar("read place", &sql).await?.filter(|text| read_place(*step, text).is_some());
        Ok(Failure { unplaced: place.map(|place| Unplaced { level: *level, place }), ..failure })
    }

    /// The level that has no partition for the row: the server names the table whose partitions they would be.
    fn level(&self) -> Option<usize> {
        let members = self.plan.members(self.names);
        let table = self.cause.table.as_deref()?;
        let place = members.iter().position(|member| member.shadow().name == table)?;
        let branch = place.checked_sub(1).and_then(|n| self.plan.branches.get(n));
        Some(branch.map_or(0, |branch| self.plan.level(branch) + 1))
    }

    /// The column, its value and the expression, where a conversion is what fails.
    async fn conversion(&self, conn: &Conn) -> Result<Option<String>, Failure> {
        if self.cause.is(&SqlState::NOT_NULL_VIOLATION) || self.cause.is(&SqlState::CHECK_VIOLATION) {
            return Ok(None);
        }
        let at = format!("FROM {} WHERE {}", self.plan.source_from(), self.row);
        let conversions = || {
            let columns = self.plan.columns.iter().filter(|c| !self.plan.guards(&c.name));
            columns.filter(|c| matches!(c.value, Value::Converted { .. }))
        };
        // Of a part that is not to blame nothing may be said.
        let only = conversions().count() == 1 && !self.is_one_of_several();
        for column in conversions() {
            let (Some(expression), Some(target)) = (column.expression(), self.plan.target.column(&column.name)) else {
                continue;
            };
            let evaluate = format!("SELECT CAST({expression} AS {}) {at}", target.type_sql);
            if fails(conn, &evaluate).await?.is_none() && self.cause.column.is_none() && !only {
                continue;
            }
            let Some(source) = &column.source else {
                let (name, type_sql) = (Ident(&column.name), &target.type_sql);
                return Ok(Some(format!(
                    "Column {name} of {} is {expression}, of type {type_sql}.",
                    self.plan.target.name.plain()
                )));
            };
            let value = conn.scalar("read value", &format!("SELECT left({}::text, 200) {at}", Ident(source))).await?;
            return Ok(Some(format!(
                "Column {} is {}; the expression is {expression}, the type {}.",
                Ident(source),
                value.map_or_else(|| "NULL".to_owned(), |v| Literal(&v).to_string()),
                target.type_sql
            )));
        }
        Ok(None)
    }
}

/// The data error of a statement, tried in a savepoint.
///
/// # Errors
/// Any other.
pub async fn fails(conn: &Conn, sql: &str) -> Result<Option<Error>, Failure> {
    conn.batch("savepoint", "SAVEPOINT try").await?;
    let outcome = conn.batch("try rows", sql).await;
    conn.batch("undo try", "ROLLBACK TO SAVEPOINT try; RELEASE SAVEPOINT try").await?;
    match outcome {
        Ok(()) => Ok(None),
        Err(e) if e.is_data() => Ok(Some(e)),
        Err(e) => Err(e.into()),
    }
}

/// The server's words with the final names in place of those that the shadow and its indexes have until the swap.
pub fn with_final_names(plan: &Plan, names: &Names, text: &str) -> String {
    let quoted = |name: &str| format!("\"{name}\"");
    let mut said = text.to_owned();
    for (part, names) in plan.beside(names) {
        said = with_final_names(&part, &names, &said);
    }
    for member in plan.members(names) {
        let indexes = member.target.indexes.iter().enumerate();
        let indexes = indexes.map(|(n, i)| (member.index(n).name, i.name.clone()));
        for (ours, last) in indexes.chain([(member.shadow().name, member.target.name.name.clone())]) {
            said = said.replace(&quoted(&ours), &quoted(&last));
        }
    }
    said
}
