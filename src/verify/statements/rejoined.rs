//! The statements for the way back of a table that was taken apart, whose source is a query over the new tables. Pure.
//!
//! Sums of digests would need its rows to stand in blocks. So each old row is held against what the query gives for its key,
//! and each key of a new table is looked for in the old one.

use super::{
    ByKey, Compared, Half, Part, SHADOW, Side, Statements, all, compare, compared, halves, key_columns, list, more,
    output, present, text,
};
use crate::error::Failure;
use crate::pg::{Ident, QualifiedName};
use crate::plan::types::{Plan, TargetColumn};

/// What is said of block ranges.
#[derive(Debug, Clone)]
pub(super) struct Rejoined {
    /// Of the old table: what stands before the range and behind it.
    old: (String, String),
    /// Of each new table that has the key: what stands before it.
    new: Vec<String>,
}

impl Statements {
    /// For the way back `back` to the old table `old`.
    ///
    /// # Errors
    /// As [`Statements::new`].
    pub(super) fn of_rejoined(back: &Plan, old: &QualifiedName) -> Result<Self, Failure> {
        let mut seen = back.clone();
        if let Some(rejoin) = &mut seen.rejoin {
            rejoin.rows.clone_from(&rejoin.comparison.rows);
        }
        let columns = columns(&seen)?;
        let old = format!("ONLY {old} AS {SHADOW}");
        let new = seen.keyed_tables().iter().map(|(table, _)| format!("ONLY {table} AS {}", seen.alias())).collect();
        let (source, shadow) = halves(&seen, new, vec![old.clone()], SHADOW, &key_columns(&seen)?, &columns);
        Ok(Statements {
            by_key: Some(ByKey::Rejoined(Rejoined::new(&seen, &source, &shadow, &columns))),
            compare: vec![compare(&seen, &old, SHADOW, &columns)],
            present: present(&seen),
            invert: String::new(),
            search: String::new(),
            source,
            shadow,
        })
    }
}

impl Rejoined {
    fn new(back: &Plan, new: &Half, old: &Half, columns: &[Compared]) -> Rejoined {
        let (keys, alias, from_old) = (&back.key.columns, back.alias(), old.from(0));
        let given = more(columns, |i, c| format!("{} AS \"#{i}\"", text(&c.source)));
        let same =
            all(keys, |_, k| format!("{alias}.{} {} {SHADOW}.{}", Ident(&k.source), k.source_equal, Ident(&k.target)));
        let differs = columns.iter().enumerate();
        let differs: String =
            differs.map(|(i, c)| format!(" OR \"#s\".\"#{i}\" IS DISTINCT FROM {}", text(&c.shadow))).collect();
        let names = list(keys, |i, _| format!("\"#k{i}\""));
        let head = format!(
            "WITH \"#read\"({names}, \"#differs\") AS MATERIALIZED (SELECT {}, \"#s\".\"#found\" IS NOT TRUE{differs} \
             FROM {from_old} LEFT JOIN LATERAL (SELECT true AS \"#found\"{given} FROM {} WHERE {same}) AS \"#s\" ON true WHERE ",
            old.key_texts,
            back.source_from()
        );
        let none = list(keys, |_, _| "''".to_owned());
        let tail = format!(
            ") SELECT NULL::int8, {names} FROM \"#read\" WHERE \"#differs\" UNION ALL SELECT count(*), {none} FROM \"#read\""
        );
        let missing = back.keyed_tables().into_iter().enumerate().map(|(n, (_, names))| {
            let columns: Vec<_> = keys.iter().zip(names).collect();
            let texts = list(&columns, |_, (_, name)| output(&format!("{alias}.{}", Ident(name))));
            let same = all(&columns, |_, (k, name)| {
                format!("{SHADOW}.{} {} {alias}.{}", Ident(&k.target), k.target_equal, Ident(name))
            });
            format!(
                "SELECT DISTINCT NULL::int8, {texts} FROM {} WHERE NOT EXISTS (SELECT 1 FROM {from_old} WHERE {same}) AND ",
                new.from(n)
            )
        });
        Rejoined { new: missing.collect(), old: (head, tail) }
    }

    pub(super) fn sql(&self, part: Part, half: &Half) -> String {
        let range = half.range(part.blocks);
        match part.side {
            Side::Shadow => format!("{}{range}{}", self.old.0, self.old.1),
            Side::Source => format!("{}{range}", self.new.get(part.table).map_or("", String::as_str)),
        }
    }
}

/// Columns whose value the new tables tell.
fn columns(back: &Plan) -> Result<Vec<Compared>, Failure> {
    let Some(rejoin) = &back.rejoin else { return Ok(Vec::new()) };
    let mut columns = compared(back)?;
    columns.retain(|c| !rejoin.comparison.given.contains(&c.name));
    for (name, of) in &rejoin.comparison.elements {
        for column in columns.iter_mut().filter(|c| c.name == *name) {
            (column.source, column.shadow) = (of.alike(&column.source), of.alike(&format!("{SHADOW}.{}", Ident(name))));
        }
    }
    Ok(columns)
}

/// Columns of the old table that are not compared.
pub(super) fn untold(back: &Plan) -> Vec<&str> {
    let given = |c: &TargetColumn| back.rejoin.as_ref().is_some_and(|r| r.comparison.given.contains(&c.name));
    back.columns.iter().filter(|c| !c.is_derived() || given(c)).map(|c| c.name.as_str()).collect()
}
