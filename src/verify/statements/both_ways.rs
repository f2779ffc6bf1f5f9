//! What can be compared of a new table and the old one that follows it. Pure.

use super::rejoined::untold;
use super::{Compared, absent, one_compared};
use crate::error::Failure;
use crate::pg::Ident;
use crate::plan::types::{Plan, TargetColumn, Value};

/// Columns whose value follows from the other table's both ways: (of the way forth, of the way back).
pub(super) fn both_ways<'a>(forth: &'a Plan, back: &'a Plan) -> Vec<(&'a TargetColumn, &'a TargetColumn)> {
    let derived = |columns: &'a [TargetColumn]| columns.iter().filter(|c| c.is_derived() && c.source.is_some());
    derived(&forth.columns)
        .filter_map(|new| {
            let old = derived(&back.columns)
                .find(|old| old.source.as_ref() == Some(&new.name) && new.source.as_ref() == Some(&old.name))?;
            Some((new, old))
        })
        .collect()
}

/// Columns of the new table, and of the old one, that a comparison in the rollback window leaves out, because their values
/// do not follow from the other table's.
pub fn left_out<'a>(forth: &'a Plan, back: &'a Plan) -> (Vec<&'a str>, Vec<&'a str>) {
    if back.rejoin.is_some() {
        return (Vec::new(), untold(back));
    }
    let pairs = both_ways(forth, back);
    let new = forth.columns.iter().filter(|c| !pairs.iter().any(|(new, _)| new.name == c.name));
    let old = back.columns.iter().filter(|c| !pairs.iter().any(|(_, old)| old.name == c.name));
    (new.map(|c| c.name.as_str()).collect(), old.map(|c| c.name.as_str()).collect())
}

/// A column of the new table as it is, and as the way forth makes it from an old row.
pub(super) fn seen_forwards(forth: &Plan, column: &TargetColumn) -> Result<Compared, Failure> {
    let compared = one_compared(forth, column)?.ok_or_else(|| absent(&column.name))?;
    Ok(Compared { source: compared.shadow, shadow: compared.source, ..compared })
}

/// The columns of the way back's key, likewise.
pub(super) fn keys_forwards(forth: &Plan, back: &Plan) -> Result<Vec<Compared>, Failure> {
    let of_key = |column: &TargetColumn| {
        matches!(column.value, Value::Copied) || forth.key.columns.iter().any(|k| k.target == column.name)
    };
    back.key
        .columns
        .iter()
        .map(|k| match forth.columns.iter().find(|c| c.name == k.source && c.is_derived()) {
            Some(column) if of_key(column) => seen_forwards(forth, column),
            Some(_) | None => Err(Failure::refused(format!(
                "new and old table cannot be compared: the value of key column {} does not follow from an old key",
                Ident(&k.source)
            ))),
        })
        .collect()
}
