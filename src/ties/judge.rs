//! What of the ties cannot be carried through this change, by name and with the way out. Pure.

use super::functions;
use super::grants::hindered;
use super::partitioned;
use super::parts;
use super::sequences;
use super::text;
use super::views::{self, Fate};
use super::{ForeignKey, Ties, View};
use crate::pg::sql::plain_ident;
use crate::plan::kin::TWIN_HINT;
use crate::plan::types::Plan;
use crate::preflight::Finding;

/// Findings in a stable order; an empty list means that all is carried.
pub fn judge(plan: &Plan, ties: &Ties) -> Vec<Finding> {
    let judge = Judge { plan };
    let mut found = partitioned::findings(plan, ties);
    found.extend(parts::findings(plan, ties));
    for key in ties.outgoing.iter().chain(&ties.incoming) {
        found.extend(judge.foreign_key(key));
    }
    for trigger in &ties.triggers {
        found.extend(judge.mentions(&format!("trigger {}", plain_ident(&trigger.name)), &trigger.mentions));
    }
    for rule in &ties.rules {
        let what = format!("rule {} of {}", plain_ident(&rule.name), rule.table.plain());
        found.extend(owned(&what, rule.owned));
        found.extend(judge.mentions(&what, &rule.mentions));
        found.extend(judge.by_place(&what, &rule.definition));
    }
    for policy in &ties.policies {
        let what = format!("policy {} of {}", plain_ident(&policy.name), policy.table.plain());
        found.extend(owned(&what, policy.owned));
        found.extend(judge.mentions(&what, &policy.mentions));
        let text = [&policy.using, &policy.check].map(|t| t.as_deref().unwrap_or_default());
        found.extend(text.iter().filter_map(|t| judge.by_place(&what, t)).next());
    }
    if ties.security.hides {
        found.push(Finding::new(
            format!("row level security of {} applies to this role", plan.source.name.plain()),
            "A policy could hide rows from the copy: run as a role with BYPASSRLS, or ALTER TABLE … NO FORCE ROW LEVEL SECURITY.",
        ));
    }
    for s in &ties.statistics {
        let what = format!("extended statistics {}", s.name.plain());
        found.extend(owned(&what, s.owned));
        found.extend(judge.renamed(&what, &s.mentions));
    }
    let rest =
        || ties.publications.iter().map(|p| &p.name).chain(&ties.schema_publications).chain(&ties.published_above);
    if plan.changes_identity()
        && let Some(p) = rest().next()
    {
        found.push(Finding::new(
            format!(
                "the replica identity would have to change for the time, and publication {} rests on it",
                plain_ident(p)
            ),
            "Give the table a key that is its replica identity and not deferrable, or take it out of the publication.",
        ));
    }
    for p in &ties.publications {
        let what = format!("publication {}", plain_ident(&p.name));
        found.extend(owned(&what, p.owned));
        found.extend(judge.mentions(&what, &p.mentions));
    }
    found.extend(judge.views(ties));
    for function in &ties.functions {
        let what = &function.description;
        found.extend(owned(what, function.owned));
        found.extend(judge.mentions(what, &function.mentions));
        found.extend(judge.by_place(what, &function.definition));
        found.extend(functions::judge(function));
    }
    for default in &ties.defaults {
        found.extend(owned(&default.what(), default.owned));
    }
    found.extend(sequences::judge(plan, &ties.sequences));
    let twins = ties.kin.partition.iter().flat_map(|p| p.twins(&plan.target));
    found.extend(twins.map(|twins| Finding::new(twins.what(), TWIN_HINT)));
    found
}

struct Judge<'a> {
    plan: &'a Plan,
}

fn owned(what: &str, owned: bool) -> Option<Finding> {
    (!owned).then(|| {
        Finding::of_role(
            format!("{what} belongs to another role"),
            "It is made anew in the cut-over: run as a member of its owner, or drop it and create it again afterwards.",
        )
    })
}

/// What does not go with another view in the place of one.
fn renewed(what: &str, view: &View, why: &str) -> Vec<Finding> {
    let mut found: Vec<Finding> = (view.others.iter())
        .map(|other| {
            Finding::new(
                format!("{what} {why}, and {other} depends on it"),
                "Drop that first and create it again afterwards.",
            )
        })
        .collect();
    found.extend(hindered(&view.grants, what, &view.name.schema));
    if !view.creatable {
        found.push(Finding::of_role(
            format!("{what} {why}, and this role or its owner may create nothing in its schema"),
            format!("GRANT CREATE ON SCHEMA {} to both.", plain_ident(&view.name.schema)),
        ));
    }
    if view.stored.as_ref().is_some_and(|stored| stored.rows.guarded) {
        found.push(Finding::of_role(
            format!("{what} would be filled by this role, and row level security may show its owner other rows"),
            "Run as its owner, or drop it first and create it again afterwards.",
        ));
    }
    found
}

impl Judge<'_> {
    /// A text that calls the table's columns by their places means others once one of them is gone.
    fn by_place(&self, what: &str, text: &str) -> Option<Finding> {
        let gone = self.plan.source.columns.iter().any(|c| self.plan.name_after(&c.name).is_none());
        // A text that cannot be read is not understood either.
        let lists = text::lists_columns(text, &self.plan.source.name).unwrap_or(true);
        (gone && lists).then(|| {
            Finding::new(
                format!("{what} calls columns of the table by their places, and the change drops one"),
                "Drop it first and create it again afterwards, or drop the column in an ALTER TABLE of its own.",
            )
        })
    }

    /// Columns that are dropped, which ALTER TABLE would refuse as well.
    fn dropped(&self, what: &str, columns: &[String]) -> Option<Finding> {
        let gone = columns.iter().find(|c| self.plan.name_after(c).is_none())?;
        Some(Finding::new(
            format!("{what} uses column {}, which the change drops", plain_ident(gone)),
            "Drop or change it first.",
        ))
    }

    /// Columns that get another name, while another column gets theirs: its text has the old one.
    fn renamed(&self, what: &str, columns: &[String]) -> Option<Finding> {
        let taken = |c: &String| self.plan.target.column(c).is_some();
        let other = columns.iter().find(|c| self.plan.name_after(c).is_some_and(|name| name != *c) && taken(c))?;
        Some(Finding::new(
            format!("{what} uses column {}, whose name the change gives to another column", plain_ident(other)),
            "Rename it in an ALTER TABLE of its own, before or afterwards: that takes no time.",
        ))
    }

    fn mentions(&self, what: &str, columns: &[String]) -> Vec<Finding> {
        self.dropped(what, columns).into_iter().chain(self.renamed(what, columns)).collect()
    }

    fn foreign_key(&self, key: &ForeignKey) -> Vec<Finding> {
        let what = format!("foreign key {} of {}", plain_ident(&key.name), key.table.name.plain());
        if key.inherited {
            return vec![self.inherited_key(key, &what)];
        }
        let mut found = Vec::new();
        let drop = "Drop the foreign key and add it again afterwards (NOT VALID, then VALIDATE CONSTRAINT).";
        // A partitioned source is carried at one end, where the other is not.
        if self.plan.leaves_off(&key.name, [key.table.oid, key.refers_to.oid]) {
            return owned(&what, key.table.owned).into_iter().collect();
        }
        if self.plan.target.is_partitioned() && partitioned::both_ends(key) {
            found.push(Finding::new(format!("{what} has partitioned tables at both ends"), drop));
        }
        if !key.table.owned {
            found.push(Finding::of_role(
                format!("{what} is of a table that belongs to another role, or has a partition that does"),
                "Run as a member of that table's owner, or drop the foreign key for the time.",
            ));
        }
        if !key.refers_to.referable {
            found.push(Finding::of_role(
                format!(
                    "{what} would have to be added anew, and this role may not refer to {}",
                    key.refers_to.name.plain()
                ),
                format!("GRANT REFERENCES ON {} to it.", key.refers_to.name.plain()),
            ));
        }
        if key.temporal {
            found.push(Finding::new(format!("{what} is over periods"), drop));
        }
        if key.refers_to.oid == self.plan.source.oid {
            let goes_with_a_column =
                key.is_to_itself() && key.columns.iter().any(|c| self.plan.name_after(c).is_none());
            if !goes_with_a_column {
                found.extend(self.dropped(&what, &key.key));
                if found.is_empty() && !self.is_unique(&key.key) && self.plan.makes_partitions() {
                    found.push(partitioned::unreferable(&what, key));
                } else if found.is_empty() && !self.is_unique(&key.key) {
                    found.push(Finding::new(
                        format!("{what} refers to a key that the change removes"),
                        "Keep a primary key or unique constraint over these columns, or drop the foreign key first.",
                    ));
                }
            }
        }
        found
    }

    /// A partition's share of a key of the partitioned table above it. Nothing tells the server that all is well as it
    /// knows of a CHECK, so that the time under the lock would grow with the table.
    fn inherited_key(&self, key: &ForeignKey, what: &str) -> Finding {
        let reads = match key.table.oid == self.plan.source.oid {
            true => "ATTACH PARTITION would check every row under the lock",
            false => "DETACH PARTITION would look under the lock for rows that refer to the partition's",
        };
        Finding::new(
            format!("{what} is one of the partitioned table's, and {reads}"),
            "Drop the foreign key of the partitioned table for the time.",
        )
    }

    /// Whether the target has a unique index that a foreign key over these source columns can refer to.
    fn is_unique(&self, columns: &[String]) -> bool {
        let mut wanted: Vec<Option<&str>> = columns.iter().map(|c| self.plan.name_after(c)).collect();
        wanted.sort_unstable();
        self.plan.target.indexes.iter().any(|index| {
            let mut keys: Vec<Option<&str>> = index.keys.iter().map(Option::as_deref).collect();
            keys.sort_unstable();
            index.unique && index.immediate && !index.partial && keys == wanted
        })
    }

    fn views(&self, ties: &Ties) -> Vec<Finding> {
        let mut found = Vec::new();
        for (view, fate) in ties.views.iter().zip(views::fates(self.plan, ties)) {
            let what = view.plain();
            if fate != Fate::Kept {
                found.extend(owned(&what, view.owned));
                found.extend(self.by_place(&what, &view.definition));
            }
            found.extend(self.mentions(&what, &view.mentions));
            match fate {
                Fate::Kept | Fate::Replaced => {}
                Fate::Remade => found.extend(renewed(&what, view, "has to be made again for its new column types")),
                Fate::Filled => found.extend(renewed(&what, view, "has to be made again")),
            }
        }
        found
    }
}
