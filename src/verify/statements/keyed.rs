//! The statements that are about given keys, which are their parameters: one `text[]` for each key column. Pure.

use super::{Compare, Compared, all, list, more, output, text};
use crate::pg::{Ident, QualifiedName};
use crate::plan::types::Plan;

pub(super) fn compare(plan: &Plan, shadow_from: &str, shadow: &str, columns: &[Compared]) -> Compare {
    let keys = &plan.key.columns;
    let alias = plan.alias();
    let own = list(keys, |i, k| format!("{alias}.{} AS \"#s{i}\"", Ident(&k.source)));
    let projected = list(keys, |i, k| format!("{} AS \"#t{i}\"", k.expression));
    let in_source = all(keys, |i, k| format!("{alias}.{} {} \"#wanted\".\"#s{i}\"", Ident(&k.source), k.source_equal));
    let in_shadow = all(keys, |i, k| format!("{shadow}.{} {} \"#wanted\".\"#t{i}\"", Ident(&k.target), k.target_equal));
    let sql = format!(
        "SELECT \"#wanted\".\"#\", \"#s\".\"#found\" IS TRUE, \"#t\".\"#found\" IS TRUE, ARRAY[{differs}]::bool[] \
         FROM (SELECT \"#\", {own}, {projected} FROM {given}) AS \"#wanted\" \
         LEFT JOIN LATERAL (SELECT true AS \"#found\"{source_values} FROM {from} WHERE {in_source}{rows}) AS \"#s\" ON true \
         LEFT JOIN LATERAL (SELECT true AS \"#found\"{shadow_values} FROM {shadow_from} WHERE {in_shadow}) \
         AS \"#t\" ON true",
        differs = list(columns, |i, _| format!("\"#s\".\"#{i}\" IS DISTINCT FROM \"#t\".\"#{i}\"")),
        given = given_source_keys(plan),
        source_values = more(columns, |i, c| format!("{} AS \"#{i}\"", text(&c.source))),
        from = plan.source_from(),
        rows = plan.and_its_rows(),
        shadow_values = more(columns, |i, c| format!("{} AS \"#{i}\"", text(&c.shadow))),
    );
    Compare { columns: columns.iter().map(|c| c.name.clone()).collect(), sql }
}

/// The given source keys under the source's alias, typed.
fn given_source_keys(plan: &Plan) -> String {
    format!("{} AS {}", typed_source_keys(plan), plan.alias())
}

/// The same without an alias.
pub(super) fn typed_source_keys(plan: &Plan) -> String {
    let keys = &plan.key.columns;
    let typed = list(keys, |i, k| format!("\"#{i}\"::{} AS {}", k.source_type, Ident(&k.source)));
    format!("(SELECT \"#\", {typed} FROM {})", given(keys))
}

pub(super) fn present(plan: &Plan) -> String {
    let keys = &plan.key.columns;
    let alias = plan.alias();
    let own = list(keys, |i, k| format!("{alias}.{} AS \"#s{i}\"", Ident(&k.source)));
    let same = all(keys, |i, k| format!("{alias}.{} {} \"#wanted\".\"#s{i}\"", Ident(&k.source), k.source_equal));
    format!(
        "SELECT \"#\" FROM (SELECT \"#\", {own} FROM {}) AS \"#wanted\" \
         WHERE EXISTS (SELECT 1 FROM {} WHERE {same}{})",
        given_source_keys(plan),
        plan.source_from(),
        plan.and_its_rows(),
    )
}

pub(super) fn invert(plan: &Plan, targets: &[Compared]) -> String {
    let keys = &plan.key.columns;
    let typed = list(keys, |i, k| format!("\"#{i}\"::{} AS {}", k.source_type, Ident(&k.source)));
    let same = all(targets, |i, t| format!("{} COLLATE \"C\" = \"#{i}\"", output(&t.source)));
    format!(
        "SELECT \"#\", {} FROM (SELECT \"#\", {typed}, {} FROM {}) AS {} WHERE {same}",
        list(keys, |_, k| output(&Ident(&k.source).to_string())),
        list(keys, |i, _| format!("\"#{i}\"")),
        given(keys),
        plan.alias(),
    )
}

pub(super) fn search(plan: &Plan, shadow: &QualifiedName, targets: &[Compared]) -> String {
    let keys = &plan.key.columns;
    let alias = plan.alias();
    let in_shadow =
        all(keys, |i, k| format!("\"#shadow\".{} {} \"#wanted\".\"#{i}\"", Ident(&k.target), k.target_equal));
    let makes_it = all(keys, |i, k| format!("{} {} \"#wanted\".\"#{i}\"", targets[i].source, k.target_equal));
    format!(
        "SELECT \"#wanted\".\"#\", {} FROM (SELECT \"#\", {} FROM {}) AS \"#wanted\" LEFT JOIN {} ON {makes_it}{} \
         WHERE EXISTS (SELECT 1 FROM {shadow} AS \"#shadow\" WHERE {in_shadow})",
        list(keys, |_, k| format!(
            "CASE WHEN {alias}.ctid IS NOT NULL THEN {} END",
            output(&format!("{alias}.{}", Ident(&k.source)))
        )),
        list(targets, |i, t| format!("\"#{i}\"::{} AS \"#{i}\"", t.type_sql)),
        given(keys),
        plan.source_from(),
        plan.and_its_rows(),
    )
}

/// Old keys as new ones, which the way forth makes of them.
pub(super) fn forwards_again(back: &Plan, alias: &str, keys: &[Compared]) -> String {
    let given = given(&back.key.columns);
    let typed = list(&back.key.columns, |i, k| {
        let shape = back.target.column(&k.target);
        let type_sql = shape.map_or("text", |c| c.type_sql.as_str());
        format!("\"#{i}\"::{type_sql} AS {}", Ident(&k.target))
    });
    let made = list(keys, |_, key| output(&key.shadow));
    format!("SELECT \"#\", {made} FROM (SELECT \"#\", {typed} FROM {given}) AS {alias}")
}

/// `unnest` of one text array a key column: columns `#0` … and the position `#`.
fn given<T>(columns: &[T]) -> String {
    format!(
        "unnest({}) WITH ORDINALITY AS \"#given\"({}, \"#\")",
        list(columns, |i, _| format!("${}::text[]", i + 1)),
        list(columns, |i, _| format!("\"#{i}\"")),
    )
}
