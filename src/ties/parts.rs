//! What does not go with a table that is taken apart. Pure.

use super::{ForeignKey, Ties};
use crate::pg::QualifiedName;
use crate::pg::sql::plain_ident;
use crate::plan::types::Plan;
use crate::preflight::Finding;

/// Each of them.
pub(super) fn findings(plan: &Plan, ties: &Ties) -> Vec<Finding> {
    if plan.parts.is_empty() && plan.lookups.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    let left_off = |key: &&ForeignKey| plan.left_off.contains(&key.name);
    let name = |key: &ForeignKey| (plain_ident(&key.name), key.table.name.plain());
    for key in ties.outgoing.iter().filter(|key| !left_off(key)) {
        if key.columns.iter().any(|column| plan.name_after(column).is_none()) {
            let (name, table) = name(key);
            found.push(Finding::new(
                format!("foreign key {name} of {table} is over a column that leaves"),
                format!("--drop-constraint {name} lets it go; make one like it on the new table afterwards."),
            ));
        }
    }
    let names = plan.lookups.iter().map(|lookup| &lookup.foreign_key.name);
    for name in names.filter(|name| ties.outgoing.iter().any(|key| key.name == **name)) {
        found.push(Finding::new(
            format!(
                "foreign key {} of {} has the name of one that is to be made",
                plain_ident(name),
                plan.source.name.plain()
            ),
            "Rename it, or give the column that refers another name.",
        ));
    }
    if plan.rows.is_some() {
        let to_itself = ties.outgoing.iter().filter(|key| key.is_to_itself());
        for key in ties.incoming.iter().chain(to_itself).filter(|key| !left_off(key)) {
            let (name, table) = name(key);
            found.push(Finding::new(
                format!("foreign key {name} of {table} refers to rows that may leave the table"),
                format!("--drop-constraint {name} lets it go."),
            ));
        }
    }
    if ties.security.enabled {
        found.push(Finding::new(
            format!("row level security of {} is enabled, and the new tables would have no policies", plan.source.name.plain()),
            "Whoever may read the table could read all rows there: disable it for the time, or split before it is enabled.",
        ));
    }
    found
}

/// What would be left without a table that goes with the rollback.
pub(super) fn of_beside(ties: &Ties, back: &Plan, table: &QualifiedName) -> Vec<Finding> {
    let other = |key: &&ForeignKey| {
        key.table.oid != back.source.oid && !back.besides().iter().any(|b| b.shape.oid == key.table.oid)
    };
    let keys = ties.incoming.iter().filter(other);
    let keys = keys.map(|k| format!("foreign key {} of {}", plain_ident(&k.name), k.table.name.plain()));
    let views = ties.views.iter().map(|v| v.plain());
    let functions = ties.functions.iter().map(|f| f.description.clone());
    let rules = ties.rules.iter().filter(|r| !r.own && !r.of_view);
    let rules = rules.map(|r| format!("rule {} of {}", plain_ident(&r.name), r.table.plain()));
    let policies = ties.policies.iter().filter(|p| !p.own);
    let policies = policies.map(|p| format!("policy {} of {}", plain_ident(&p.name), p.table.plain()));
    let defaults = ties.defaults.iter().map(|d| format!("a default of {}", d.table.plain()));
    keys.chain(views)
        .chain(functions)
        .chain(rules)
        .chain(policies)
        .chain(defaults)
        .map(|what| {
            Finding::new(format!("{what} uses table {}, which goes with the rollback", table.plain()), "Drop it first.")
        })
        .collect()
}
