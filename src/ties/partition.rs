//! The ties that a partition has of its own. They are refused by name; what it has from the table it belongs to comes with
//! that. Pure.

use super::Ties;
use crate::pg::QualifiedName;
use crate::pg::sql::plain_ident;
use crate::preflight::Finding;

/// Each of them.
pub(super) fn findings(ties: &Ties, partition: &QualifiedName) -> Vec<Finding> {
    let keys = ties.outgoing.iter().chain(&ties.incoming).filter(|k| !k.inherited);
    let keys = keys.map(|k| format!("foreign key {} of {}", plain_ident(&k.name), k.table.name.plain()));
    let triggers = ties.triggers.iter().filter(|t| !t.inherited);
    let triggers = triggers.map(|t| format!("trigger {}, or its state,", plain_ident(&t.name)));
    let rules = ties.rules.iter().map(|r| format!("rule {} of {}", plain_ident(&r.name), r.table.plain()));
    let policies = ties.policies.iter().map(|p| format!("policy {} of {}", plain_ident(&p.name), p.table.plain()));
    let security = ties.security.enabled || ties.security.forced;
    let security = security.then(|| "row level security".to_owned());
    let statistics = ties.statistics.iter().map(|s| format!("extended statistics {}", s.name.plain()));
    let publications = ties.publications.iter().map(|p| format!("publication {}", plain_ident(&p.name)));
    let views = ties.views.iter().map(|v| v.plain());
    let functions = ties.functions.iter().map(|f| f.description.clone());
    let defaults = ties.defaults.iter().map(|d| format!("a default of {}", d.table.plain()));
    let all = keys.chain(triggers).chain(rules).chain(policies).chain(security).chain(statistics);
    all.chain(publications)
        .chain(views)
        .chain(functions)
        .chain(defaults)
        .map(|what| {
            Finding::new(
                format!("{what} is tied to partition {} alone and would not be carried", partition.plain()),
                "Tie it to the partitioned table, or drop it first and create it again afterwards.",
            )
        })
        .collect()
}
