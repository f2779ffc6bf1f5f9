//! Views: kept in place where their columns stay as they are, made again where not. Pure.

use std::collections::HashSet;

use super::{Grant, Ties, View};
use crate::pg::sql::grantee;
use crate::pg::{Ident, Literal};
use crate::plan::ddl::option_list;
use crate::plan::types::Plan;

/// What happens to a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It reads other views only, which stay: nothing.
    Kept,
    /// CREATE OR REPLACE: its oid, and everything that hangs on it, stays.
    Replaced,
    /// Dropped and created: a column of it may have another type now.
    Remade,
}

/// Each view's fate, in the order of the list.
pub(super) fn fates(plan: &Plan, ties: &Ties) -> Vec<Fate> {
    let changed = changed_columns(plan);
    let mut remade: HashSet<u32> = HashSet::new();
    let fate = |view: &View, remade: &mut HashSet<u32>| {
        let touched = view.mentions.iter().any(|c| changed.contains(c.as_str()));
        if touched || view.uses.iter().any(|v| remade.contains(v)) {
            remade.insert(view.oid);
            return Fate::Remade;
        }
        if view.direct { Fate::Replaced } else { Fate::Kept }
    };
    ties.views.iter().map(|view| fate(view, &mut remade)).collect()
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

/// What takes views out of the way, furthest first.
pub(super) fn drops(plan: &Plan, ties: &Ties) -> Vec<String> {
    with_fate(plan, ties, Fate::Remade).into_iter().rev().map(|view| format!("DROP VIEW {}", view.name)).collect()
}

/// What brings them back, nearest first.
pub(super) fn creates(plan: &Plan, ties: &Ties, role: &str) -> Vec<String> {
    let fates = fates(plan, ties);
    let mut steps = Vec::new();
    for (view, fate) in ties.views.iter().zip(&fates) {
        match fate {
            Fate::Kept => {}
            Fate::Replaced => steps.push(create(view, "CREATE OR REPLACE VIEW")),
            Fate::Remade => steps.extend(remade(view, role)),
        }
    }
    steps
}

/// The views of one fate, nearest first.
pub(super) fn with_fate<'a>(plan: &Plan, ties: &'a Ties, fate: Fate) -> Vec<&'a View> {
    ties.views.iter().zip(fates(plan, ties)).filter(|(_, f)| *f == fate).map(|(view, _)| view).collect()
}

/// The views that the swap replaces or makes again, nearest first.
pub(super) fn touched<'a>(plan: &Plan, ties: &'a Ties) -> Vec<&'a View> {
    ties.views.iter().zip(fates(plan, ties)).filter(|(_, f)| *f != Fate::Kept).map(|(view, _)| view).collect()
}

fn create(view: &View, verb: &str) -> String {
    let options = match view.options.is_empty() {
        true => String::new(),
        false => format!(" WITH ({})", option_list(&view.options)),
    };
    format!("{verb} {}{options} AS {}", view.name, view.definition.trim_end_matches(';'))
}

fn remade(view: &View, role: &str) -> Vec<String> {
    let name = view.name.to_string();
    let mut steps = vec![create(view, "CREATE VIEW")];
    for (column, default) in &view.defaults {
        steps.push(format!("ALTER VIEW {name} ALTER COLUMN {} SET DEFAULT {default}", Ident(column)));
    }
    steps.extend(view.rules.iter().map(|rule| rule.trim_end_matches(';').to_owned()));
    for trigger in &view.triggers {
        steps.extend(super::carry::create_trigger(trigger, &name));
    }
    if let Some(comment) = &view.comment {
        steps.push(format!("COMMENT ON VIEW {name} IS {}", Literal(comment)));
    }
    for (column, comment) in &view.column_comments {
        steps.push(format!("COMMENT ON COLUMN {name}.{} IS {}", Ident(column), Literal(comment)));
    }
    steps.extend(grants(view));
    if view.owner != role {
        steps.push(format!("ALTER VIEW {name} OWNER TO {}", Ident(&view.owner)));
    }
    steps
}

/// Given while this role owns the view; a change of owner makes the grants the owner's.
fn grants(view: &View) -> Vec<String> {
    let name = view.name.to_string();
    let role = |r: &Option<String>| grantee(r.as_deref());
    let mut steps: Vec<String> =
        view.by_default.iter().map(|r| format!("REVOKE ALL ON {name} FROM {}", role(r))).collect();
    if !view.explicit_grants {
        if !view.by_default.is_empty() {
            steps.push(format!("GRANT ALL ON {name} TO CURRENT_USER"));
        }
    } else {
        steps.push(format!("REVOKE ALL ON {name} FROM CURRENT_USER"));
    }
    for g in &view.grants {
        let own = g.grantee.as_ref() == Some(&view.owner);
        steps.push(grant(g, &name, &if own { "CURRENT_USER".to_owned() } else { role(&g.grantee) }, own));
    }
    steps
}

fn grant(g: &Grant, name: &str, to: &str, own: bool) -> String {
    let column = g.column.as_ref().map(|c| format!(" ({})", Ident(c))).unwrap_or_default();
    let option = if g.grantable && g.grantee.is_some() && !own { " WITH GRANT OPTION" } else { "" };
    format!("GRANT {}{column} ON {name} TO {to}{option}", g.privilege)
}
