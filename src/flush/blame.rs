//! Names the changed row that a flush failed on by its key.

use super::Flusher;
use crate::error::Failure;
use crate::pg::{Error, Ident, Literal};
use crate::plan::types::{Names, Plan};
use crate::stream::Key;
use crate::unfit::{Unfit, with_final_names};

/// The failure of the row with this key.
pub async fn describe(flusher: &Flusher, plan: &Plan, names: &Names, key: &Key, cause: &Error) -> Failure {
    let aside = ", changed during the migration,";
    let unfit = Unfit { plan, names, row: condition(plan, key), key: name(plan, key), aside, cause };
    let described = async {
        flusher.conn().batch("begin description", "BEGIN").await?;
        let described = unfit.describe(flusher.conn()).await;
        flusher.conn().batch("end description", "ROLLBACK").await?;
        described
    };
    described.await.unwrap_or_else(|_| cause.clone().into())
}

/// What only the row with this key meets.
pub(super) fn condition(plan: &Plan, key: &Key) -> String {
    let columns = plan.key.columns.iter().zip(key.columns());
    let equal = columns.map(|(c, value)| {
        format!("{}.{} {} {}::{}", plan.alias(), Ident(&c.source), c.source_equal, Literal(value), c.source_type)
    });
    equal.collect::<Vec<_>>().join(" AND ")
}

/// The failure of two rows that cannot both be in the new table.
pub fn meets(plan: &Plan, names: &Names, key: &Key, error: Option<&Error>) -> Failure {
    let words = error.map_or("a unique constraint", |e| e.message.as_str());
    let failure = Failure::failed(format!(
        "row {} of {} meets another row: {}",
        name(plan, key),
        plan.source.name.plain(),
        with_final_names(plan, names, words)
    ))
    .detail(format!(
        "{} All other changes up to now have been flushed, so the two rows do not fit the new shape together.",
        error.and_then(|e| e.detail.as_deref()).unwrap_or_default()
    ))
    .hint("Correct one of the rows or the clauses; the table is as it was. Then run pgrecast abort and start again.");
    match error {
        Some(e) => failure.caused_by(e),
        None => failure,
    }
}

/// The failure of a row of the new tables of which there can be no old one.
pub fn stray(plan: &Plan, key: &Key, why: &str) -> Failure {
    Failure::failed(format!("row {} has no old one: {why}", name(plan, key)))
        .hint("Put it right in the new tables, then try again; nothing was changed.")
}

/// `column = value, …` of a key.
pub fn name(plan: &Plan, key: &Key) -> String {
    plan.key
        .columns
        .iter()
        .zip(key.columns())
        .map(|(c, value)| format!("{} = {value}", Ident(&c.source)))
        .collect::<Vec<_>>()
        .join(", ")
}
