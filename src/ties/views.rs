//! Views: kept in place where their columns stay as they are, made again where not. Pure.

use std::collections::HashSet;

use super::grants::in_order;
use super::{Ties, View, made};
use crate::pg::sql::grantee;
use crate::pg::{Ident, Literal, QualifiedName};
use crate::plan::ddl::option_list;
use crate::plan::types::{Names, Plan};

/// What happens to a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It reads other views only, which stay: nothing.
    Kept,
    /// CREATE OR REPLACE: its oid, and everything that hangs on it, stays.
    Replaced,
    /// Dropped and created: a column of it may have another type now, or has the table's row type.
    Remade,
    /// A materialized view, which cannot be replaced: another one is filled before the swap and takes its place.
    Filled,
}

/// Each view's fate, in the order of the list.
pub(super) fn fates(plan: &Plan, ties: &Ties) -> Vec<Fate> {
    let changed = changed_columns(plan);
    // Whose columns may have other types, and whose oid is another one.
    let (mut retyped, mut renewed) = (HashSet::new(), HashSet::new());
    let mut fates = Vec::new();
    for view in &ties.views {
        let other_types = view.typed
            || view.retyped
            || view.mentions.iter().any(|c| changed.contains(c.as_str()))
            || view.uses.iter().any(|v| retyped.contains(v));
        let reads_new = view.direct || view.uses.iter().any(|v| renewed.contains(v));
        let fate = match (view.stored.is_some(), other_types, reads_new) {
            (true, true, _) | (true, false, true) => Fate::Filled,
            (false, true, _) => Fate::Remade,
            (false, false, true) => Fate::Replaced,
            (_, false, false) => Fate::Kept,
        };
        if other_types {
            retyped.insert(view.oid);
        }
        if matches!(fate, Fate::Remade | Fate::Filled) {
            renewed.insert(view.oid);
        }
        fates.push(fate);
    }
    fates
}

/// Source columns that are not there afterwards as they were.
fn changed_columns(plan: &Plan) -> HashSet<&str> {
    let same = |name: &str| {
        let before = plan.source.column(name);
        let after = plan.name_after(name).and_then(|name| plan.target.column(name));
        before
            .zip(after)
            .is_some_and(|(b, a)| (b.type_oid, &b.type_sql, &b.collation) == (a.type_oid, &a.type_sql, &a.collation))
    };
    plan.source.columns.iter().map(|c| c.name.as_str()).filter(|name| !same(name)).collect()
}

/// What takes views that are made again out of the way: another name, since others read them still.
pub(super) fn away(plan: &Plan, ties: &Ties, names: &Names) -> Vec<String> {
    let mut steps = Vec::new();
    for view in renewed(plan, ties) {
        let own = names.away(view.oid);
        steps.push(format!("ALTER {} {} RENAME TO {}", view.word(), view.name, Ident(&own)));
        steps.extend(view.stored.iter().flat_map(|stored| made::make_room(stored, &own)));
    }
    steps
}

/// What drops them at last, furthest first, when nothing reads them any more. A materialized view, and what it reads, is
/// dropped after the swap: an autovacuum of its TOAST table would be waited for.
pub(super) fn drops(plan: &Plan, ties: &Ties, names: &Names) -> Vec<String> {
    let later = made::of(plan, ties);
    let drop = |v: &View| format!("DROP {} {}", v.word(), v.name.sibling(names.away(v.oid)));
    renewed(plan, ties).into_iter().rev().filter(|v| !later.contains(&v.oid)).map(drop).collect()
}

/// What brings them back, nearest first.
pub(super) fn creates(plan: &Plan, ties: &Ties, role: &str, names: &Names) -> Vec<String> {
    let made = made::of(plan, ties);
    let mut steps = Vec::new();
    for (view, fate) in ties.views.iter().zip(fates(plan, ties)) {
        match fate {
            Fate::Kept => {}
            Fate::Replaced => steps.push(create(view, "CREATE OR REPLACE VIEW", &view.name, &view.definition)),
            Fate::Remade | Fate::Filled => {
                match made.contains(&view.oid) {
                    true => steps.extend(made::move_in(view, names)),
                    false => steps.push(create(view, "CREATE VIEW", &view.name, &view.definition)),
                }
                steps.extend(dressed(view, role));
            }
        }
    }
    steps
}

/// The views of one fate, nearest first.
pub(super) fn with_fate<'a>(plan: &Plan, ties: &'a Ties, fate: Fate) -> Vec<&'a View> {
    ties.views.iter().zip(fates(plan, ties)).filter(|(_, f)| *f == fate).map(|(view, _)| view).collect()
}

/// The views that get another oid, nearest first.
pub(super) fn renewed<'a>(plan: &Plan, ties: &'a Ties) -> Vec<&'a View> {
    let fates = fates(plan, ties).into_iter();
    let renewed = |fate: &Fate| matches!(fate, Fate::Remade | Fate::Filled);
    ties.views.iter().zip(fates).filter(|(_, f)| renewed(f)).map(|(view, _)| view).collect()
}

/// The views that the swap replaces or makes again, nearest first.
pub(super) fn touched<'a>(plan: &Plan, ties: &'a Ties) -> Vec<&'a View> {
    ties.views.iter().zip(fates(plan, ties)).filter(|(_, f)| *f != Fate::Kept).map(|(view, _)| view).collect()
}

/// CREATE VIEW of a view's kind, under this name and with this query.
pub(super) fn create(view: &View, verb: &str, name: &QualifiedName, definition: &str) -> String {
    let options = match view.options.is_empty() {
        true => String::new(),
        false => format!(" WITH ({})", option_list(&view.options)),
    };
    format!("{verb} {name}{options} AS {}", definition.trim_end_matches(';'))
}

/// What a view has besides its query.
fn dressed(view: &View, role: &str) -> Vec<String> {
    let name = view.name.to_string();
    let word = view.word();
    let mut steps = Vec::new();
    for (column, default) in &view.defaults {
        steps.push(format!("ALTER VIEW {name} ALTER COLUMN {} SET DEFAULT {default}", Ident(column)));
    }
    steps.extend(view.rules.iter().map(|rule| rule.trim_end_matches(';').to_owned()));
    for trigger in &view.triggers {
        steps.extend(super::carry::create_trigger(trigger, &name));
    }
    if let Some(comment) = &view.comment {
        steps.push(format!("COMMENT ON {word} {name} IS {}", Literal(comment)));
    }
    for (column, comment) in &view.column_comments {
        steps.push(format!("COMMENT ON COLUMN {name}.{} IS {}", Ident(column), Literal(comment)));
    }
    if view.owner != role {
        steps.push(format!("ALTER {word} {name} OWNER TO {}", Ident(&view.owner)));
    }
    steps.extend(grants(view));
    steps
}

/// Given once the view has its owner: what default privileges gave this role is the owner's by then.
fn grants(view: &View) -> Vec<String> {
    let name = view.name.to_string();
    let owner = Ident(&view.owner);
    let revoke = |r: &Option<String>| format!("REVOKE ALL ON {name} FROM {}", grantee(r.as_deref()));
    let mut steps: Vec<String> = view.by_default.iter().map(revoke).collect();
    if !view.explicit_grants {
        if !view.by_default.is_empty() {
            steps.push(format!("GRANT ALL ON {name} TO {owner}"));
        }
    } else {
        steps.push(format!("REVOKE ALL ON {name} FROM {owner}"));
    }
    steps.extend(in_order(&view.grants).iter().flat_map(|g| g.statements(&name, g.column.as_deref(), &view.owner)));
    steps
}
