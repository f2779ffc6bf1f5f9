//! A view with the old shape of a table that is taken apart, which the old version of an application reads and writes. Pure.
//!
//! What is written to it becomes what the split itself would have made of the row: the function of its trigger has the
//! expressions of the copy. It runs as whoever writes and sets no search path, since triggers of the tables run inside of it
//! and expect the application's; whatever it names itself is qualified.

mod body;

use serde::{Deserialize, Serialize};

use super::former::Former;
use super::reverse::Given;
use super::shape::{Column, Origin, Shape};
use super::types::{Plan, TargetColumn, Value};
use crate::error::Failure;
use crate::pg::sql::plain_ident;
use crate::pg::{Ident, Literal, QualifiedName};

/// A view with the old shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompatView {
    /// Its name.
    pub name: QualifiedName,
    /// The function that writes what is written to it.
    pub function: QualifiedName,
    /// How the old rows are read.
    pub former: Former,
}

impl CompatView {
    /// For a plan that is complete but for it. `given` says how columns come back that the new tables do not have as they
    /// were, every name in it qualified.
    ///
    /// # Errors
    /// Exit 3 with the name of what cannot be read, or written, as it was.
    pub fn new(plan: &Plan, name: QualifiedName, function: QualifiedName, given: &[Given]) -> Result<Self, Failure> {
        let former = Former::of(plan, given)?;
        if matches!(plan.source.name.name.as_str(), "new" | "old") {
            return Err(Failure::refused(format!(
                "--compat-view: a table called {} cannot have one",
                plan.source.name.plain()
            ))
            .detail("The function that writes what is written to the view would take it for a row of its trigger.")
            .hint("Give the table another name first."));
        }
        let leaves = |c: &&Column| c.sequence.is_some() && kept_sequence(plan, &c.name).is_none();
        if let Some(column) = plan.source.columns.iter().find(leaves) {
            return Err(Failure::refused(format!(
                "--compat-view: column {} leaves the table, and its values are those of a sequence that does not",
                plain_ident(&column.name)
            ))
            .hint("Give the column a default from a sequence of its own, owned by none, first."));
        }
        Ok(CompatView { name, function, former })
    }

    /// The statements by which `role` makes it, by way of a name in our schema.
    pub fn make(&self, plan: &Plan, waiting: &QualifiedName, role: &str) -> Vec<String> {
        let mut steps = vec![format!("CREATE VIEW {waiting} AS {}", self.former.select())];
        for column in &plan.source.columns {
            let own = match (&column.sequence, column.origin) {
                (_, Origin::IdentityAlways | Origin::IdentityByDefault) => kept_sequence(plan, &column.name)
                    .map(|sequence| format!("nextval({}::regclass)", Literal(&sequence.to_string()))),
                (_, Origin::Plain) => column.default.clone(),
                (_, _) => None,
            };
            if let Some(default) = own {
                steps.push(format!("ALTER VIEW {waiting} ALTER COLUMN {} SET DEFAULT {default}", Ident(&column.name)));
            }
        }
        steps.push(format!(
            "CREATE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql{} AS {}",
            self.function,
            settings(plan),
            Literal(&body::body(plan, &self.former))
        ));
        steps.push(format!(
            "CREATE TRIGGER {} INSTEAD OF INSERT OR UPDATE OR DELETE ON {waiting} FOR EACH ROW EXECUTE FUNCTION {}()",
            Ident(&self.function.name),
            self.function
        ));
        // Out of our schema, where nobody's default privileges gave anything but what the shadows have as well.
        let moved = self.name.sibling(waiting.name.clone());
        steps.push(format!("ALTER VIEW {waiting} SET SCHEMA {}", Ident(&self.name.schema)));
        steps.push(format!("ALTER VIEW {moved} RENAME TO {}", Ident(&self.name.name)));
        if plan.source.owner != role {
            let owner = Ident(&plan.source.owner);
            steps.push(format!("ALTER VIEW {} OWNER TO {owner}", self.name));
            steps.push(format!("ALTER FUNCTION {}() OWNER TO {owner}", self.function));
        }
        steps
    }

    /// The view as if it were a table that every old column goes to, so that it gets the table's privileges.
    pub fn as_target(&self, plan: &Plan) -> Plan {
        let source = &plan.source;
        let columns = source.columns.iter().map(|c| Column { origin: Origin::Plain, sequence: None, ..c.clone() });
        let target = Shape { name: self.name.clone(), columns: columns.collect(), ..source.clone() };
        let copied = source.columns.iter().map(|c| TargetColumn {
            name: c.name.clone(),
            source: Some(c.name.clone()),
            value: Value::Copied,
        });
        Plan::plain(source.clone(), target, copied.collect(), plan.key.clone())
    }

    /// The sequences that its defaults draw from and that only a table's identity column draws from without a privilege.
    pub fn identity_sequences(plan: &Plan) -> impl Iterator<Item = &QualifiedName> {
        let identity = plan.source.columns.iter().filter(|c| c.origin.is_identity());
        identity.filter_map(|c| kept_sequence(plan, &c.name))
    }
}

/// The sequence of an old column, as the new table's column draws from it.
fn kept_sequence<'a>(plan: &'a Plan, column: &str) -> Option<&'a QualifiedName> {
    Some(&plan.target.column(plan.name_after(column)?)?.sequence.as_ref()?.name)
}

/// The settings under which the copy evaluated expressions that depend on some (rule 10).
fn settings(plan: &Plan) -> String {
    if plan.settings.is_empty() {
        return String::new();
    }
    let own = plan.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let pinned = [("TimeZone", "UTC"), ("DateStyle", "ISO, MDY"), ("IntervalStyle", "postgres")];
    let pinned = pinned.into_iter().filter(|(name, _)| own.clone().all(|(own, _)| !own.eq_ignore_ascii_case(name)));
    let set = |(name, value): (&str, &str)| format!(" SET {} TO {}", Ident(name), Literal(value));
    pinned.chain(own.clone()).map(set).collect()
}
