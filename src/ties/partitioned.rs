//! Ties of a table that becomes partitioned: what they are at the other end, and what is left off. Pure.

use super::text;
use super::{End, ForeignKey, Share, Ties};
use crate::error::Failure;
use crate::pg::sql::plain_ident;
use crate::plan::shape::Shape;
use crate::plan::tree::Tree;
use crate::plan::types::{Layout, Plan};
use crate::preflight::Finding;

impl Ties {
    /// The same as they are to be carried to the target: a foreign key of a table that becomes partitioned is one of its
    /// partitions, too, and that of one which is so no more is the table's alone.
    pub fn for_target(mut self, plan: &Plan) -> Ties {
        if plan.layout == Layout::Kept {
            return self;
        }
        for key in &mut self.outgoing {
            let shares = plan.branches.iter().map(|branch| Share {
                table: branch.shape.name.clone(),
                kind: if branch.shape.is_partitioned() { 'p' } else { 'r' },
                name: key.name.clone(),
                validated: key.validated,
                comment: None,
            });
            // A partition's before its parent's.
            key.shares = shares.rev().collect();
        }
        let all = self.outgoing.iter_mut().chain(&mut self.incoming);
        let kind = if plan.target.is_partitioned() { 'p' } else { 'r' };
        all.flat_map(|key| [&mut key.table, &mut key.refers_to])
            .filter(|end| end.oid == plan.source.oid)
            .for_each(|end| end.kind = kind);
        self
    }

    /// Refuses names of constraints that nobody has, and of foreign keys that several tables have.
    ///
    /// # Errors
    /// Exit 2 and 3.
    pub fn refuse_unknown(&self, source: &Tree, left_off: &[String]) -> Result<(), Failure> {
        let of = |shape: &Shape, name: &String| {
            let indexes = shape.indexes.iter().any(|index| index.name == *name);
            indexes || shape.checks.iter().any(|check| check.name == *name)
        };
        let own = |name: &String| source.shapes().any(|shape| of(shape, name));
        for name in left_off {
            let keys = self.outgoing.iter().chain(&self.incoming).filter(|key| key.name == *name).count();
            let shown = plain_ident(name);
            match (own(name), keys) {
                (true, 0) | (false, 1) => {}
                (false, 0) => {
                    return Err(Failure::usage(format!("--drop-constraint {shown}: there is none of that name"))
                        .hint("Name a constraint or unique index of the table, or a foreign key that refers to it."));
                }
                (_, _) => {
                    return Err(Failure::refused(format!(
                        "--drop-constraint {shown}: several constraints are called so"
                    ))
                    .hint("Drop the one that is meant yourself."));
                }
            }
        }
        Ok(())
    }
}

/// What does not go with a table that becomes partitioned.
pub(super) fn findings(plan: &Plan, ties: &Ties) -> Vec<Finding> {
    if plan.layout == Layout::Kept {
        return Vec::new();
    }
    if !plan.target.is_partitioned() {
        let unrooted = ties.unrooted.iter().map(|name| plain_ident(name));
        return unrooted
            .map(|name| {
                Finding::new(
                    format!("publication {name} sends changes under the partitions' names, and would send them under the table's"),
                    format!("ALTER PUBLICATION {name} SET (publish_via_partition_root = true), and see to the subscribers."),
                )
            })
            .collect();
    }
    let mut found: Vec<Finding> = (ties.unrooted.iter())
        .map(|name| {
            let name = plain_ident(name);
            Finding::new(
                format!("publication {name} would send changes under the partitions' names, which no subscriber has"),
                format!("ALTER PUBLICATION {name} SET (publish_via_partition_root = true)."),
            )
        })
        .collect();
    let views = ties.views.iter().map(|v| (v.plain(), &v.definition));
    let rules =
        ties.rules.iter().map(|r| (format!("rule {} of {}", plain_ident(&r.name), r.table.plain()), &r.definition));
    let policies = ties.policies.iter().flat_map(|p| {
        let what = format!("policy {} of {}", plain_ident(&p.name), p.table.plain());
        p.using.iter().chain(&p.check).map(move |text| (what.clone(), text))
    });
    let functions = ties.functions.iter().map(|f| (f.description.clone(), &f.definition));
    for (what, definition) in views.chain(rules).chain(policies).chain(functions) {
        // A text that cannot be read is not understood either.
        if text::reads_only(definition, &plan.source.name).unwrap_or(true) {
            found.push(Finding::new(
                format!("{what} reads ONLY the table, and a partitioned table has no rows of its own"),
                "Leave ONLY out of it first.",
            ));
        }
    }
    found
}

/// What is said of a foreign key that refers to a key which the partitioned table cannot have.
pub(super) fn unreferable(what: &str, key: &ForeignKey) -> Finding {
    let name = plain_ident(&key.name);
    Finding::new(
        format!("{what} refers to columns that are not unique over all partitions"),
        format!(
            "--drop-constraint {name} leaves it off; or partition by the columns that it refers to, or let it refer to the \
             partition columns as well."
        ),
    )
}

/// Whether it is one with a partitioned table at both ends.
pub(super) fn both_ends(key: &ForeignKey) -> bool {
    let partitioned = |end: &End| end.kind == 'p';
    partitioned(&key.table) && partitioned(&key.refers_to)
}
