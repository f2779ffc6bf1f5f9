//! Fills materialized views on the shadow before the swap, which then only has to give them their names.
//!
//! Each is made empty, filled, given its indexes and analyzed. Its comment comes last and says what it was made from: one
//! with another comment, or none, is made again.

use std::collections::HashSet;

use crate::context::Context;
use crate::error::Failure;
use crate::pg::{Conn, Error, QualifiedName, Role};
use crate::plan::types::Names;
use crate::ties::{Recipe, Ties, made};

/// One that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct There {
    name: QualifiedName,
    /// What it is called in SQL.
    word: String,
    mark: Option<String>,
}

/// Makes what is missing or was made from something else; says whether there was anything to do. Safe to repeat.
///
/// # Errors
/// Names the view that cannot be filled.
pub async fn run(context: &Context, conn: &Conn, ties: &Ties) -> Result<bool, Failure> {
    let carry = context.carry(ties);
    let recipes = carry.recipes(&context.names)?;
    let there = look(conn, &context.names).await?;
    let (drop, make) = outdated(&recipes, &there);
    if drop.is_empty() && make.is_empty() {
        return Ok(false);
    }
    let drops: Vec<String> = drop.iter().map(|view| drop_sql(view)).collect();
    let made = carry.make(&context.names, &recipes, &make);
    let steps: Vec<String> = drops.into_iter().chain(made).collect();
    conn.batch("make views of shadow", &format!("BEGIN; {}; COMMIT", steps.join(";\n")))
        .await
        .map_err(Failure::from)?;
    let filler = context.connector.open(Role::Filler).await?;
    for recipe in make {
        fill(&filler, recipe).await?;
    }
    Ok(true)
}

async fn fill(conn: &Conn, recipe: &Recipe) -> Result<(), Failure> {
    let refused = |e: Error| {
        let failure = Failure::failed(format!("{} cannot be filled anew: {}", recipe.shown, e.message))
            .hint("Correct it, or drop it and create it again after the cut-over.")
            .caused_by(&e);
        match e.detail {
            Some(detail) => failure.detail(detail),
            None => failure,
        }
    };
    if let Some(sql) = &recipe.fill {
        conn.batch("fill materialized view", sql).await.map_err(refused)?;
    }
    if !recipe.finish.is_empty() {
        let steps = recipe.finish.join(";\n");
        conn.batch("index materialized view", &format!("BEGIN; {steps}; COMMIT")).await.map_err(refused)?;
    }
    if let Some(sql) = &recipe.analyze {
        conn.batch("analyze materialized view", sql).await?;
    }
    Ok(conn.batch("complete view of shadow", &recipe.complete()).await?)
}

/// Drops all that were made, or taken away by the swap.
pub async fn drop_all(conn: &Conn, names: &Names) -> Result<(), Failure> {
    let drops: Vec<String> = look(conn, names).await?.iter().map(drop_sql).collect();
    if drops.is_empty() {
        return Ok(());
    }
    let mut retry = crate::retry::Retry::new();
    while let Err(e) = conn.batch("drop views of shadow", &drops.join(";\n")).await {
        retry.after(e).await?;
    }
    Ok(())
}

fn drop_sql(view: &There) -> String {
    format!("DROP {} {}", view.word, view.name)
}

/// Those that are there, furthest first.
async fn look(conn: &Conn, names: &Names) -> Result<Vec<There>, Failure> {
    let rows = conn.simple("list views of shadow", &made(names)).await?;
    let there = |row: Vec<Option<String>>| {
        let mut row = row.into_iter();
        let name = QualifiedName::new(row.next()??, row.next()??);
        Some(There { name, word: row.next()??, mark: row.next()? })
    };
    Ok(rows.into_iter().filter_map(there).collect())
}

/// What is to go, and what is to be made, in order. What reads one that is made again is made again.
fn outdated<'a>(recipes: &'a [Recipe], there: &'a [There]) -> (Vec<&'a There>, Vec<&'a Recipe>) {
    let mut stale: HashSet<u32> = HashSet::new();
    let mut make = Vec::new();
    for recipe in recipes {
        let complete = there.iter().any(|t| t.name == recipe.name && t.mark.as_ref() == Some(&recipe.mark));
        if !complete || recipe.uses.iter().any(|oid| stale.contains(oid)) {
            stale.insert(recipe.oid);
            make.push(recipe);
        }
    }
    let kept = |t: &There| recipes.iter().any(|r| r.name == t.name && !stale.contains(&r.oid));
    (there.iter().filter(|t| !kept(t)).collect(), make)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(oid: u32, uses: &[u32], mark: &str) -> Recipe {
        let name = Names::new(1).made(oid);
        Recipe {
            oid,
            word: "MATERIALIZED VIEW",
            name,
            staged: String::new(),
            shown: String::new(),
            uses: uses.to_vec(),
            create: Vec::new(),
            fill: None,
            finish: Vec::new(),
            analyze: None,
            mark: mark.to_owned(),
        }
    }

    fn there(oid: u32, mark: Option<&str>) -> There {
        let name = Names::new(1).made(oid);
        There { name, word: "MATERIALIZED VIEW".to_owned(), mark: mark.map(str::to_owned) }
    }

    #[test]
    fn what_was_made_from_something_else_goes_with_what_reads_it() {
        let recipes = [recipe(1, &[], "a"), recipe(2, &[1], "b"), recipe(3, &[], "c")];
        let whole = [there(2, Some("b")), there(3, Some("c")), there(1, Some("a"))];
        assert_eq!(outdated(&recipes, &whole), (vec![], vec![]));
        // The first was made before a REFRESH, the third never got complete, the fourth is wanted no more.
        let some = [there(4, Some("d")), there(2, Some("b")), there(3, None), there(1, Some("before"))];
        let (drop, make) = outdated(&recipes, &some);
        assert_eq!(drop, some.iter().collect::<Vec<_>>());
        assert_eq!(make, recipes.iter().collect::<Vec<_>>());
        let third = [there(2, Some("b")), there(3, Some("before")), there(1, Some("a"))];
        let (drop, make) = outdated(&recipes, &third);
        assert_eq!((drop, make), (vec![&third[1]], vec![&recipes[2]]));
    }
}
