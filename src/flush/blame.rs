//! Finds the changed row that a flush failed on, to name it by its key.

use super::{Flusher, is_conflict};
use crate::error::Failure;
use crate::pg::{Error, Ident};
use crate::plan::types::Plan;
use crate::stream::Key;

/// The failure, with the key of the first row it happens on.
pub async fn find(flusher: &Flusher, plan: &Plan, keys: &[Key], error: &Error) -> Failure {
    for key in keys {
        match flusher.flush(std::slice::from_ref(key)).await {
            Err(e) if e.is_data() && !is_conflict(&e) => {
                return Failure::failed(format!(
                    "row {} of {}, changed during the migration, does not fit the new shape: {}",
                    name(plan, key),
                    plan.source.name.plain(),
                    e.message
                ))
                .hint(
                    "The table is as it was. Correct the row and run the same command again to go on, or give up with pgrecast abort.",
                )
                .caused_by(&e);
            }
            // Flushed alone it passes, or its connection is gone: the next one.
            Ok(_) | Err(_) => {}
        }
    }
    error.clone().into()
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
