//! The view with the old shape of a table that was taken apart, once a rollback puts it together again: from then on it
//! reads the table alone, and PostgreSQL itself writes through it.

use std::collections::HashSet;

use super::carry::Carry;
use super::{Ties, View, views};
use crate::error::Failure;
use crate::pg::sql::ident_list;
use crate::pg::{Conn, Ident, Literal, QualifiedName};
use crate::plan::compat::CompatView;
use crate::plan::types::Plan;
use crate::preflight::Finding;

/// The view that the plan goes back from, if there was one.
fn made(back: &Plan) -> Option<&CompatView> {
    back.rejoin.as_ref()?.view.as_ref()
}

/// By its trigger: it may have another name by now.
fn is_it(view: &View, made: &CompatView) -> bool {
    view.triggers.iter().any(|trigger| {
        trigger.name == made.function.name && trigger.definition.contains(" INSTEAD OF INSERT OR DELETE OR UPDATE ")
    })
}

impl Ties {
    /// Sets the view with the old shape apart from the others. Those that read the table through it alone are none of the
    /// table's: its columns stay what they are.
    pub fn apart_from_former(mut self, back: &Plan) -> Ties {
        let found = made(back).and_then(|made| self.views.iter().position(|view| is_it(view, made)));
        let Some(former) = found.map(|n| self.views.remove(n)) else { return self };
        let mut behind = HashSet::from([former.oid]);
        self.views.retain(|view| {
            let through_it = !view.direct && view.uses.iter().all(|used| behind.contains(used));
            if through_it {
                behind.insert(view.oid);
            }
            !through_it
        });
        // Its defaults go before the sequences do.
        for sequence in &mut self.sequences {
            sequence.users.retain(|user| user.relation != Some(former.oid));
        }
        self.former = Some(former);
        self
    }

    /// What speaks against replacing it. `probe` is a name that is free.
    ///
    /// # Errors
    /// Of the server, after which the session is of no more use.
    pub async fn findings_of_former(
        &self,
        conn: &Conn,
        back: &Plan,
        probe: &QualifiedName,
    ) -> Result<Vec<Finding>, Failure> {
        let (Some(view), Some(made)) = (&self.former, made(back)) else { return Ok(Vec::new()) };
        let what = view.plain();
        if !view.owned {
            let hint = "It is replaced in the rollback: run as a member of its owner, or drop it.";
            return Ok(vec![Finding::of_role(format!("{what} belongs to another role"), hint)]);
        }
        // Both are spelled in one session, so that a name is qualified in both or in none.
        let make = format!("BEGIN; CREATE VIEW {probe} AS {}", made.former.select());
        conn.batch("make view again", &make).await?;
        let same = format!(
            "SELECT pg_catalog.pg_get_viewdef({}) = pg_catalog.pg_get_viewdef({}::regclass)",
            view.oid,
            Literal(&probe.to_string())
        );
        let same = conn.scalar("compare view", &same).await?;
        conn.batch("discard view", "ROLLBACK").await?;
        Ok(match same.as_deref() {
            Some("t") => Vec::new(),
            _ => vec![Finding::new(
                format!("{what} was changed since the split, and a rollback would replace its query"),
                format!(
                    "Drop it, or take the change back; after the rollback make one like it over {}.",
                    back.target.name.plain()
                ),
            )],
        })
    }
}

impl Carry<'_> {
    /// Makes it read the table, once that has its name and old shape again. Defaults are the table's own from then on. Where
    /// somebody dropped the view, its function is theirs to drop as well.
    pub fn former(&self) -> Vec<String> {
        let (Some(made), Some(view)) = (made(self.plan), &self.ties.former) else { return Vec::new() };
        let table = &self.plan.target;
        let columns = ident_list(table.columns.iter().map(|column| column.name.as_str()));
        let rows = format!("SELECT {columns} FROM {}", table.name);
        let mut steps = vec![format!("DROP TRIGGER {} ON {}", Ident(&made.function.name), view.name)];
        for (column, _) in &view.defaults {
            steps.push(format!("ALTER VIEW {} ALTER COLUMN {} DROP DEFAULT", view.name, Ident(column)));
        }
        steps.push(views::create(view, "CREATE OR REPLACE VIEW", &view.name, &rows));
        steps.push(format!("DROP FUNCTION {}()", made.function));
        steps
    }
}
