//! The statements for the way back of a table that was taken apart, whose source is a query over the new tables. Pure.
//!
//! Sums of digests would need its rows to stand in blocks. So each old row is held against what the query gives for its key,
//! and each key of a new table is looked for in the old one.

use super::{Compared, Part, SHADOW, Side, Statements, all, compared, halves, key_columns, list, more, output, text};
use crate::error::Failure;
use crate::pg::{Ident, QualifiedName};
use crate::plan::types::{Plan, TargetColumn};

/// What is said of block ranges.
#[derive(Debug, Clone)]
pub(super) struct Rejoined {
    /// Of the old table, but for the range; it stands at the end of a subquery.
    old: (String, String),
    /// Of each new table that has the key.
    new: Vec<String>,
}

/// A new table.
const NEW: &str = "\"#new\"";

impl Statements {
    /// For the way back `back` to the old table `old`.
    ///
    /// # Errors
    /// As [`Statements::new`].
    pub fn of_rejoined(back: &Plan, old: &QualifiedName) -> Result<Self, Failure> {
        let mut seen = back.clone();
        if let Some(rejoin) = &mut seen.rejoin {
            rejoin.rows.clone_from(&rejoin.comparison.rows);
        }
        let columns = columns(&seen)?;
        let from = format!("ONLY {old} AS {SHADOW}");
        let (source, shadow) = halves(&seen, Vec::new(), vec![from.clone()], SHADOW, &key_columns(&seen)?, &columns);
        Ok(Statements {
            source,
            shadow,
            by_key: Some(super::ByKey::Rejoined(Rejoined::new(&seen, old, &columns))),
            compare: vec![super::compare(&seen, &from, SHADOW, &columns)],
            present: super::present(&seen),
            invert: String::new(),
            search: String::new(),
        })
    }
}

impl Rejoined {
    fn new(back: &Plan, old: &QualifiedName, columns: &[Compared]) -> Rejoined {
        let (keys, alias) = (&back.key.columns, back.alias());
        let given = more(columns, |i, c| format!("{} AS \"#{i}\"", text(&c.source)));
        let same =
            all(keys, |_, k| format!("{alias}.{} {} {SHADOW}.{}", Ident(&k.source), k.source_equal, Ident(&k.target)));
        let differs = columns.iter().enumerate();
        let differs: String =
            differs.map(|(i, c)| format!(" OR \"#s\".\"#{i}\" IS DISTINCT FROM {}", text(&c.shadow))).collect();
        let texts = list(keys, |i, k| format!("{} AS \"#k{i}\"", output(&format!("{SHADOW}.{}", Ident(&k.target)))));
        let head = format!(
            "WITH \"#read\" AS MATERIALIZED (SELECT {texts}, \"#s\".\"#found\" IS NOT TRUE{differs} AS \"#differs\" \
             FROM ONLY {old} AS {SHADOW} LEFT JOIN LATERAL (SELECT true AS \"#found\"{given} FROM {} WHERE {same}) AS \"#s\" \
             ON true WHERE ",
            back.source_from()
        );
        let names = list(keys, |i, _| format!("\"#k{i}\""));
        let none = list(keys, |_, _| "''".to_owned());
        let tail = format!(
            ") SELECT NULL::int8, {names} FROM \"#read\" WHERE \"#differs\" UNION ALL SELECT count(*), {none} FROM \"#read\""
        );
        let own = std::iter::once((&back.source.name, back.key_names()));
        let beside = back.besides().iter().filter_map(|b| Some((&b.shape.name, b.holds.key()?.to_vec())));
        let new = own.chain(beside).map(|(table, names)| {
            let columns: Vec<_> = keys.iter().zip(names).collect();
            let texts = list(&columns, |_, (_, name)| output(&format!("{NEW}.{}", Ident(name))));
            let same = all(&columns, |_, (k, name)| {
                format!("{SHADOW}.{} {} {NEW}.{}", Ident(&k.target), k.target_equal, Ident(name))
            });
            format!(
                "SELECT DISTINCT NULL::int8, {texts} FROM ONLY {table} AS {NEW} \
                 WHERE NOT EXISTS (SELECT 1 FROM ONLY {old} AS {SHADOW} WHERE {same}) AND "
            )
        });
        Rejoined { new: new.collect(), old: (head, tail) }
    }

    pub(super) fn sql(&self, part: Part) -> String {
        let (head, tail) = &self.old;
        match part.side {
            Side::Shadow => format!("{head}{}{tail}", super::within(&format!("{SHADOW}.ctid"), part.blocks)),
            Side::Source => {
                let head = self.new.get(part.table).map_or("", String::as_str);
                format!("{head}{}", super::within(&format!("{NEW}.ctid"), part.blocks))
            }
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
pub fn untold(back: &Plan) -> Vec<&str> {
    let given = |c: &TargetColumn| back.rejoin.as_ref().is_some_and(|r| r.comparison.given.contains(&c.name));
    back.columns.iter().filter(|c| !c.is_derived() || given(c)).map(|c| c.name.as_str()).collect()
}
