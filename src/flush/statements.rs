//! The SQL of a flush. Pure.
//!
//! Keys arrive as one text array for each key column and are cast to the column's type: the text is the server's own
//! output under the same pinned settings.

use crate::pg::{Ident, QualifiedName};
use crate::plan::key::conflict_target;
use crate::plan::types::{KeyColumn, Names, Plan, Value, Writing};

/// The statements of one migration's flushes; `$1 …` are text arrays of equal length, one for each key column.
#[derive(Debug, Clone)]
pub struct Statements {
    /// Removes from the shadow what is not to be written over: the rows of keys that the source no longer has, or has
    /// in another partition.
    pub delete_gone: String,
    /// Removes the keys from the shadow, whether the source has them or not.
    pub delete_all: String,
    /// Writes the rows of the keys that the source has.
    pub upsert: String,
    /// How rows that meet a neighbour are left out in one statement; `None` where the target has a deferrable
    /// constraint, which ON CONFLICT cannot look at (INSERT, PostgreSQL manual).
    pub around: Option<Around>,
    /// Removes the rows of the keys and writes them again in one statement, for a target with columns that the source
    /// knows nothing of, on the way back: they keep their values.
    pub exchange: Option<String>,
}

/// Keeps the values that do not convert in step with the rows.
#[derive(Debug, Clone)]
pub struct Aside {
    /// Takes those of the keys out.
    pub forget: String,
    /// Puts those of the keys' rows in, as the source has them now.
    pub keep: String,
}

impl Aside {
    /// For a plan; `None` where such a value ends the run.
    pub fn new(plan: &Plan, names: &Names) -> Option<Aside> {
        let (alias, source) = (plan.alias(), plan.whole_source());
        let equal = |left: &str, right: &str| {
            let columns = plan.key.columns.iter();
            let columns = columns.map(|k| format!("{left}.{0} {1} {right}.{0}", Ident(&k.source), k.source_equal));
            columns.collect::<Vec<_>>().join(" AND ")
        };
        let rows = format!(
            "(SELECT src.* FROM ({}) AS changed JOIN {source} AS src ON {}) AS {alias}",
            each_key_once(plan),
            equal("src", "changed")
        );
        let forget = format!(
            "DELETE FROM {} AS aside USING ({}) AS changed WHERE {}",
            names.quarantine(),
            every_key(plan),
            equal("aside", "changed")
        );
        plan.set_aside_sql(names, &rows, "true").map(|keep| Aside { forget, keep })
    }
}

/// Writes what fits, and tells what does not.
#[derive(Debug, Clone)]
pub struct Around {
    /// Writes the rows that meet no other, of keys that the shadow does not have.
    pub insert: String,
    /// Positions, from 1, of the keys that the source has and the shadow has not.
    pub left_out: String,
}

impl Statements {
    /// For a plan.
    pub fn new(plan: &Plan, names: &Names) -> Self {
        let shadow = names.shadow();
        let alias = plan.alias();
        let columns = || plan.key.columns.iter().enumerate();
        let joined = |conditions: Vec<String>| conditions.join(" AND ");
        // Each key column as the source has it, and as the target will.
        let pairs = columns()
            .map(|(i, k)| format!("{} AS s{i}, {} AS p{i}", Ident(&k.source), target_key(plan, k)))
            .collect::<Vec<_>>();
        let pairs = pairs.join(", ");
        let beside = || plan.key.beside().iter().enumerate();
        let besides: String = beside().map(|(i, k)| format!(", {} AS b{i}", target_key(plan, k))).collect();
        let in_shadow = joined(
            columns().map(|(i, k)| format!("shadow.{} {} gone.p{i}", Ident(&k.target), k.target_equal)).collect(),
        );
        let same = joined(
            columns()
                .map(|(i, k)| {
                    let collation = target_collation(plan, k);
                    let (source_equal, target_equal) = (&k.source_equal, &k.target_equal);
                    format!("now.s{i} {source_equal} gone.s{i} AND now.p{i} {target_equal} gone.p{i}{collation}")
                })
                .collect(),
        );
        let in_source = joined(
            columns().map(|(_, k)| format!("src.{0} {1} changed.{0}", Ident(&k.source), k.source_equal)).collect(),
        );
        let source = plan.rows_source();
        let delete = |filter: &str| {
            format!(
                "DELETE FROM {shadow} AS shadow USING (SELECT {pairs} FROM ({}) AS {alias}) AS gone WHERE {in_shadow}{filter}",
                every_key(plan)
            )
        };
        // Equal source keys may become target keys that differ, as numeric 1.0 and 1.00 do in text: a row is still there
        // only if its target key is. One that has moved is not there where the shadow has it.
        let there = |more: &str| {
            let from = plan.source_from();
            let rows = plan.rows.as_ref().map(|rows| format!(" WHERE {rows}")).unwrap_or_default();
            format!("EXISTS (SELECT 1 FROM (SELECT {pairs}{besides} FROM {from}{rows}) AS now WHERE {same}{more})")
        };
        let unmoved: String =
            beside().map(|(i, k)| format!(" AND now.b{i} {} shadow.{}", k.target_equal, Ident(&k.target))).collect();
        let still_there = format!(" AND NOT {}", there(&unmoved));
        let written = plan.written();
        let columns = written.iter().map(|(n, _)| Ident(n).to_string()).collect::<Vec<_>>().join(", ");
        let values = written.iter().map(|(_, e)| e.clone()).collect::<Vec<_>>().join(", ");
        let set = plan
            .columns
            .iter()
            .filter(|c| c.is_derived())
            .map(|c| format!("{0} = EXCLUDED.{0}", Ident(&c.name)))
            .collect::<Vec<_>>()
            .join(", ");
        let insert = format!(
            "INSERT INTO {shadow} AS shadow ({columns}){} SELECT {values} FROM (SELECT src.* FROM ({}) AS changed \
             JOIN {source} AS src ON {in_source}) AS {alias}{}",
            plan.overriding(),
            each_key_once(plan),
            written_rows(plan),
        );
        // A key that makes no rows is not left out.
        let told = plan.target.indexes.iter().all(|i| i.immediate) && !plan.is_to_many();
        let around = told.then(|| Around {
            insert: format!("{insert} ON CONFLICT DO NOTHING"),
            left_out: format!(
                "SELECT gone.position FROM (SELECT {pairs}, {alias}.{POSITION} AS position FROM ({}) AS {alias}) AS gone \
                 WHERE {} AND NOT EXISTS (SELECT 1 FROM {shadow} AS shadow WHERE {in_shadow})",
                placed_keys(plan),
                there(""),
            ),
        });
        let (delete_gone, upsert) = match plan.key.writing {
            Writing::OnKey | Writing::OnKeyAnd(_) => (
                delete(&still_there),
                format!("{insert} ON CONFLICT ({}) DO UPDATE SET {set}", conflict_target(&plan.key)),
            ),
            Writing::Again | Writing::All => (delete(""), insert),
        };
        let exchange = names.are_backwards().then(|| exchange(plan, &delete(""), &shadow, &in_source)).flatten();
        Statements { delete_gone, delete_all: delete(""), upsert, around, exchange }
    }
}

/// Which of the changed rows are written: those the target has, as far as their values have numbers, and are one row.
fn written_rows(plan: &Plan) -> String {
    let numbered = plan.unnumbered().map(|wanting| format!("NOT {wanting}"));
    let once = plan.is_twice(&plan.alias()).map(|twice| format!("NOT ({twice})"));
    let conditions: Vec<String> = plan.rows.iter().cloned().chain(numbered).chain(once).collect();
    if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) }
}

/// What gives numbers to the values of the changed rows, and what tells the places, from 1, of keys whose rows have a value
/// without one.
pub fn numbers(plan: &Plan) -> (Vec<String>, Option<String>) {
    let fill = plan.fill(&format!("{} WHERE true", changed_rows(plan)));
    let columns = plan.key.columns.iter();
    let in_source =
        columns.map(|k| format!("src.{0} {1} changed.{0}", Ident(&k.source), k.source_equal)).collect::<Vec<_>>();
    let wanting = plan.unnumbered().map(|wanting| {
        format!(
            "SELECT {POSITION} FROM (SELECT src.*, changed.{POSITION} FROM ({}) AS changed JOIN {} AS src ON {}) AS {} WHERE {wanting}",
            placed_keys(plan),
            plan.whole_source(),
            in_source.join(" AND "),
            plan.alias(),
        )
    });
    (fill, wanting)
}

/// The changed rows under the source's alias.
fn changed_rows(plan: &Plan) -> String {
    let columns = plan.key.columns.iter();
    let in_source =
        columns.map(|k| format!("src.{0} {1} changed.{0}", Ident(&k.source), k.source_equal)).collect::<Vec<_>>();
    format!(
        "(SELECT src.* FROM ({}) AS changed JOIN {} AS src ON {}) AS {}",
        every_key(plan),
        plan.whole_source(),
        in_source.join(" AND "),
        plan.alias(),
    )
}

/// What says of the first changed row without one place which it is; `None` where each has one in any case.
pub fn misplaced(plan: &Plan) -> Option<String> {
    let condition = plan.misplaced()?;
    Some(format!("SELECT {} FROM {} WHERE {condition} LIMIT 1", plan.misplaced_words(), changed_rows(plan)))
}

/// What tells the places, from 1, of changed keys with rows of which there can be no old one, and why; `None` where that
/// cannot be.
pub fn strays(plan: &Plan) -> Option<String> {
    let (condition, words) = plan.strays(STRAY)?;
    Some(format!("SELECT {STRAY}.{POSITION}, {words} FROM ({}) AS {STRAY} WHERE {condition}", placed_keys(plan)))
}

/// The changed keys, in that statement.
const STRAY: &str = "changed";

/// See [`Statements::exchange`]; `None` where every column comes from the source.
fn exchange(plan: &Plan, delete: &str, shadow: &QualifiedName, in_source: &str) -> Option<String> {
    let kept = || plan.columns.iter().filter(|c| c.value == Value::OwnDefault).enumerate();
    kept().next()?;
    let alias = plan.alias();
    let keys = || plan.key.columns.iter().enumerate();
    let comma = |parts: Vec<String>| parts.join(", ");
    let given_back = keys()
        .map(|(i, k)| format!("shadow.{} AS pgrecast_p{i}", Ident(&k.target)))
        .chain(kept().map(|(n, c)| format!("shadow.{} AS pgrecast_o{n}", Ident(&c.name))));
    let same = keys()
        .map(|(i, k)| {
            format!("{} {} was.pgrecast_p{i}{}", target_key(plan, k), k.target_equal, target_collation(plan, k))
        })
        .collect::<Vec<_>>()
        .join(" AND ");
    let default = |name: &str| plan.target.column(name).and_then(|c| c.default.clone()).unwrap_or("NULL".to_owned());
    let written = plan.written();
    let columns =
        written.iter().map(|(n, _)| Ident(n).to_string()).chain(kept().map(|(_, c)| Ident(&c.name).to_string()));
    let values = written.iter().map(|(_, e)| e.clone()).chain(kept().map(|(n, c)| {
        format!("CASE WHEN was.pgrecast_p0 IS NULL THEN {} ELSE was.pgrecast_o{n} END", default(&c.name))
    }));
    let once = plan.is_twice(&alias).map(|twice| format!(" AND NOT ({twice})")).unwrap_or_default();
    // The count makes the server remove every row before it writes the first (SELECT, PostgreSQL manual, "WITH").
    Some(format!(
        "WITH was AS MATERIALIZED ({delete} RETURNING {}) INSERT INTO {shadow} AS shadow ({}){} SELECT {} \
         FROM (SELECT src.* FROM ({}) AS changed JOIN {} AS src ON {in_source}) AS {alias} \
         LEFT JOIN was ON {same} WHERE (SELECT count(*) FROM was) >= 0{once}",
        comma(given_back.collect()),
        comma(columns.collect()),
        plan.overriding(),
        comma(values.collect()),
        each_key_once(plan),
        plan.rows_source(),
    ))
}

/// The name of a key's place; no source column has it, as it is ours.
const POSITION: &str = "pgrecast_position";

/// The changed keys as rows of the source's key columns, in every spelling that came.
fn every_key(plan: &Plan) -> String {
    let (arrays, names) = arrays(plan);
    format!("SELECT {} FROM {arrays} AS keys({names})", typed(plan))
}

/// The same, each with its place in the arrays.
fn placed_keys(plan: &Plan) -> String {
    let (arrays, names) = arrays(plan);
    format!("SELECT {}, {POSITION} FROM {arrays} WITH ORDINALITY AS keys({names}, {POSITION})", typed(plan))
}

fn typed(plan: &Plan) -> String {
    let columns = plan.key.columns.iter().enumerate();
    let typed = columns.map(|(i, k)| format!("k{}::{} AS {}", i + 1, k.source_type, Ident(&k.source)));
    typed.collect::<Vec<_>>().join(", ")
}

/// The changed keys, each once: two texts can spell values that are equal for the type or for the column's collation.
fn each_key_once(plan: &Plan) -> String {
    let columns = plan.key.columns.iter().enumerate();
    let distinct = columns.map(|(i, k)| {
        let collation = plan.source.column(&k.source).and_then(|c| c.collation.as_ref());
        let collation = collation.map(|c| format!(" COLLATE {c}")).unwrap_or_default();
        format!("k{}::{}{collation}", i + 1, k.source_type)
    });
    let distinct = distinct.collect::<Vec<_>>().join(", ");
    every_key(plan).replacen("SELECT", &format!("SELECT DISTINCT ON ({distinct})"), 1)
}

/// The arrays as rows, and the names of their elements.
fn arrays(plan: &Plan) -> (String, String) {
    let count = plan.key.columns.len();
    let arrays = (1..=count).map(|n| format!("${n}::text[]")).collect::<Vec<_>>().join(", ");
    let names = (1..=count).map(|n| format!("k{n}")).collect::<Vec<_>>().join(", ");
    (format!("unnest({arrays})"), names)
}

/// A key column as the target stores it: a changed type modifier rounds numbers and times.
fn target_key(plan: &Plan, key: &KeyColumn) -> String {
    let source = plan.source.column(&key.source).map(|c| &c.type_sql);
    let target = plan.target.column(&key.target).filter(|c| c.type_sql != c.base_type_sql);
    match target.map(|c| &c.type_sql).filter(|target| source != Some(*target)) {
        Some(target) => format!("CAST({} AS {target})", key.expression),
        None => key.expression.clone(),
    }
}

/// The collation that the target compares a key column by, where it is another one than the source's.
fn target_collation(plan: &Plan, key: &KeyColumn) -> String {
    let (Some(source), Some(target)) = (plan.source.column(&key.source), plan.target.column(&key.target)) else {
        return String::new();
    };
    let is_text = ["text", "character varying", "character"].contains(&target.base_type_sql.as_str());
    match &target.collation {
        same if *same == source.collation => String::new(),
        Some(other) => format!(" COLLATE {other}"),
        None if is_text => " COLLATE pg_catalog.\"default\"".to_owned(),
        None => String::new(),
    }
}
