//! What is said of old columns, and how they come back: expressions over the tables that a source was taken apart to, read by
//! the server over empty temporary ones.

use super::parts::{COLUMN, VIEW, cut, foreign, refused};
use super::{Manner, Model, Volatility};
use crate::error::Failure;
use crate::pg::sql::plain_ident;
use crate::pg::{Conn, Ident};
use crate::plan::former::Reading;
use crate::plan::reverse::Given;
use crate::plan::types::Plan;

/// The same with every name qualified. `conn` must still have the role's own search path; nothing is changed.
///
/// # Errors
/// Exit 3 with the server's words where it refuses an expression, or what in one does not follow from the tables' rows.
pub async fn given(conn: &Conn, plan: &Plan, typed: &[Given], version: u32) -> Result<Vec<Given>, Failure> {
    if typed.is_empty() {
        return Ok(Vec::new());
    }
    conn.batch("begin model", "BEGIN").await?;
    let read = match Manner::read(conn).await {
        Ok(own) => Model { conn, source: &plan.source, branches: &[], version, own }.read_given(plan, typed).await,
        Err(failure) => Err(failure),
    };
    conn.batch("discard model", "ROLLBACK").await?;
    read
}

impl Model<'_> {
    async fn read_given(&self, plan: &Plan, typed: &[Given]) -> Result<Vec<Given>, Failure> {
        let reading = Reading::of_rest(plan, &[]);
        let mut names = Vec::new();
        for (alias, table) in reading.joined() {
            let columns = table.columns.iter().map(|c| {
                let collate = c.collation.as_ref().map(|c| format!(" COLLATE {c}")).unwrap_or_default();
                format!("{} {}{collate}", Ident(&c.name), c.type_sql)
            });
            let columns = columns.collect::<Vec<_>>().join(", ");
            self.conn.batch("create part of model", &format!("CREATE TEMPORARY TABLE {alias} ({columns})")).await?;
            names.push(format!("pg_temp.{alias} AS {alias}"));
        }
        let mut read = Vec::new();
        for (column, text) in typed {
            read.push((column.clone(), self.over(&names.join(", "), plan, column, text).await?));
        }
        Ok(read)
    }

    async fn over(&self, tables: &str, plan: &Plan, column: &str, text: &str) -> Result<String, Failure> {
        let shown = plain_ident(column);
        let old = plan.source.column(column).ok_or_else(|| {
            Failure::usage(format!("--reverse {shown}: {} has no column of that name", plan.source.name.plain()))
                .hint("Name a column as it is called before the change.")
        })?;
        let sql =
            format!("SAVEPOINT view; CREATE TEMPORARY VIEW {VIEW} AS SELECT ({text}\n) AS {COLUMN} FROM {tables}");
        self.conn
            .batch("read expression", &sql)
            .await
            .map_err(|e| refused(&format!("--reverse of column {shown}"), e))?;
        let shape = self.read(VIEW).await?;
        self.manner(&Manner::pinned()).await?;
        let sql = format!(
            "SELECT pg_catalog.pg_get_viewdef({0}), (SELECT ev_action::text FROM pg_catalog.pg_rewrite WHERE ev_class = {0})",
            shape.oid
        );
        let row = self.conn.simple("deparse expression", &sql).await?.into_iter().next().unwrap_or_default();
        let text = |n: usize| row.get(n).cloned().flatten().unwrap_or_default();
        let (definition, tree) = (text(0), text(1));
        let cast = format!("SELECT CAST({COLUMN} AS {}) FROM pg_temp.{VIEW}", old.type_sql);
        self.conn
            .batch("read expression", &cast)
            .await
            .map_err(|e| refused(&format!("--reverse of column {shown}"), e))?;
        self.manner(&self.own).await?;
        self.conn.batch("drop view", "ROLLBACK TO SAVEPOINT view; RELEASE SAVEPOINT view").await?;
        let what = match foreign(&tree) {
            Some(what) => Some(what),
            None if tree.contains("retset true") => Some("a function that gives any number of rows"),
            None if self.volatility_of_tree(&tree).await? != Volatility::Immutable => {
                Some("what depends on session settings, or differs each time,")
            }
            None => None,
        };
        if let Some(what) = what {
            return Err(Failure::refused(format!("{what} cannot stand in --reverse of column {shown}"))
                .hint("An old value must follow from the columns of the new tables."));
        }
        cut(&definition).ok_or_else(|| {
            Failure::failed(format!("the server spells an expression in a way not understood: {definition}"))
        })
    }
}
