//! The statements for a part of which a source row has any number of rows. Pure.

use super::{Blocks, Compare, Half, SHADOW, Side, all, list};
use crate::pg::{Ident, QualifiedName};
use crate::plan::types::Plan;

/// The keys, of rows in these blocks, that have other rows in the part than the projection gives. Of the part's rows those
/// whose source row is there are seen from there.
#[derive(Debug, Clone)]
pub(super) struct Many {
    source: String,
    shadow: String,
}

impl Many {
    pub(super) fn new(plan: &Plan, shadow: &QualifiedName, source: &Half, target: &Half) -> Many {
        let alias = plan.alias();
        let wanted = format!("{} IS DISTINCT FROM {}", expected(plan), present(plan, shadow, &alias));
        let same = all(&plan.key.columns, |_, k| {
            format!("{alias}.{} {} {SHADOW}.{}", Ident(&k.source), k.source_equal, Ident(&k.target))
        });
        let missing = format!("NOT EXISTS (SELECT 1 FROM {} WHERE {same})", plan.source_from());
        Many {
            source: format!("SELECT NULL::int8, {} FROM {} WHERE {wanted}", source.key_texts, source.from(0)),
            shadow: format!("SELECT NULL::int8, {} FROM {} WHERE {missing}", target.key_texts, target.from(0)),
        }
    }

    pub(super) fn sql(&self, side: Side, half: &Half, blocks: Blocks) -> String {
        let head = if side == Side::Source { &self.source } else { &self.shadow };
        format!("{head} AND {}", half.range(blocks))
    }
}

/// As for any other target, but that a side has a key where it has rows of it.
pub(super) fn compare(plan: &Plan, shadow: &QualifiedName) -> Compare {
    let alias = plan.alias();
    let keys = &plan.key.columns;
    let in_source = all(keys, |_, k| format!("{alias}.{0} {1} \"#wanted\".{0}", Ident(&k.source), k.source_equal));
    let given = super::keyed::typed_source_keys(plan);
    let sql = format!(
        "SELECT \"#\", \"#e\" <> '{{}}', \"#p\" <> '{{}}', ARRAY[\"#e\" <> \"#p\"] FROM (SELECT \"#\", \
         coalesce((SELECT {expected} FROM {from} WHERE {in_source}), '{{}}') AS \"#e\", {present} AS \"#p\" \
         FROM {given} AS \"#wanted\") AS \"#both\"",
        expected = expected(plan),
        from = plan.source_from(),
        present = present(plan, shadow, "\"#wanted\""),
    );
    Compare { columns: vec!["its rows".to_owned()], sql }
}

/// What the projection gives for one source row, as a sorted array of texts.
fn expected(plan: &Plan) -> String {
    let columns = plan.written();
    let values = list(&columns, |i, (_, e)| format!("{e} AS \"#c{i}\""));
    let filter = plan.rows.as_ref().map(|rows| format!(" WHERE {rows}")).unwrap_or_default();
    let row = list(&columns, |i, _| format!("\"#x\".\"#c{i}\""));
    format!(
        "ARRAY(SELECT ROW({row})::text COLLATE \"C\" AS \"#r\" FROM (SELECT {values}{filter} OFFSET 0) AS \"#x\" ORDER BY 1)"
    )
}

/// What the part has of a key, in the same way; `of` has the key under the source's names.
fn present(plan: &Plan, shadow: &QualifiedName, of: &str) -> String {
    let columns = plan.written();
    let row = list(&columns, |_, (name, _)| format!("{SHADOW}.{}", Ident(name)));
    let same = all(&plan.key.columns, |_, k| {
        format!("{SHADOW}.{} {} {of}.{}", Ident(&k.target), k.target_equal, Ident(&k.source))
    });
    format!(
        "ARRAY(SELECT ROW({row})::text COLLATE \"C\" AS \"#r\" FROM ONLY {shadow} AS {SHADOW} WHERE {same} ORDER BY 1)"
    )
}
