//! Conversions that may fail for a value, and what stands for the value then (`--on-error`).
//!
//! Each such conversion gets a function of ours that tries it and gives NULL where the value is to blame. It is the plain
//! conversion wherever that one raises nothing, so a statement is tried with the plain one first, and only what fails is
//! done again with the function: a subtransaction for each row, which gets no transaction id, since it writes nothing. A
//! second function gives the server's words for such a value.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ddl::free_name;
use super::model::Conversion;
use super::shape::Column;
use super::types::{Names, Plan, TargetColumn, Value};
use crate::cli::OnError;
use crate::error::{Exit, Failure};
use crate::pg::sql::plain_ident;
use crate::pg::{Conn, Error, Ident, Literal, QualifiedName};

/// What becomes of values that do not convert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    /// Whether they are kept for good.
    pub keeps: bool,
    /// The columns whose conversion may fail.
    pub columns: Vec<Guarded>,
    /// How many there were at the swap.
    #[serde(default)]
    pub found: Option<Found>,
    /// Where they are, from the swap on.
    #[serde(default)]
    pub table: Option<QualifiedName>,
}

/// One conversion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Guarded {
    /// The target column.
    pub column: String,
    /// The source column whose value it is.
    pub source: String,
    /// The conversion, over the source's columns.
    pub expression: String,
    /// The type, with its modifier, that the value is assigned to.
    pub type_sql: String,
    /// The source columns it reads, with their types.
    pub reads: Vec<(String, String)>,
    /// A cast could cut a value that the assignment refuses, so the comparison goes by the function.
    pub cuts: bool,
}

/// Values that do not convert.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Rows that have such a value.
    pub rows: u64,
    /// Values of each column.
    pub columns: BTreeMap<String, u64>,
}

impl Found {
    /// Values of all columns.
    pub fn values(&self) -> u64 {
        self.columns.values().sum()
    }
}

/// What the functions catch: class 22, a domain's CHECK, what is beyond the limits of a type, and what a function of the
/// user's own raises.
const CAUGHT: &str = "data_exception OR check_violation OR program_limit_exceeded OR raise_exception";

/// Whether a statement failed for a reason that the functions catch.
pub fn catches(error: &Error) -> bool {
    let code = error.sqlstate.as_ref().map_or("", |s| s.code());
    code.starts_with("22") || code.starts_with("54") || code == "23514" || code == "P0001"
}

impl Guard {
    /// The statements that make the functions.
    pub fn functions(&self, name: impl Fn(Function, usize) -> QualifiedName) -> Vec<String> {
        let of = |(n, guarded): (usize, &Guarded)| {
            [Function::Conversion, Function::Refusal].map(|function| guarded.create(function, &name(function, n)))
        };
        self.columns.iter().enumerate().flat_map(of).collect()
    }
}

/// The two functions of a conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// Gives the value, or NULL.
    Conversion,
    /// Gives the reason why there is none, or NULL.
    Refusal,
}

impl Guarded {
    /// In one line, since statements are shown by lines. An alias hides what PL/pgSQL itself declares, as `found`; the
    /// variable makes the assignment that the INSERT makes.
    fn create(&self, function: Function, name: &QualifiedName) -> String {
        let types = self.reads.iter().map(|(_, t)| t.as_str()).collect::<Vec<_>>().join(", ");
        let aliases = self.reads.iter().enumerate().map(|(n, (c, _))| format!("{} ALIAS FOR ${}; ", Ident(c), n + 1));
        let aliases: String = aliases.collect();
        let (returns, told, given, otherwise) = match function {
            Function::Conversion => (self.type_sql.as_str(), "", "\"#value\"", "RETURN NULL;"),
            Function::Refusal => (
                "text",
                " \"#detail\" text;",
                "NULL",
                "GET STACKED DIAGNOSTICS \"#detail\" = PG_EXCEPTION_DETAIL; \
                 RETURN concat(SQLERRM, ' (' || nullif(\"#detail\", '') || ')');",
            ),
        };
        let body = format!(
            "DECLARE {aliases}\"#value\" {};{told} BEGIN \"#value\" := {}; RETURN {given}; EXCEPTION WHEN {CAUGHT} THEN {otherwise} END",
            self.type_sql, self.expression
        );
        format!("CREATE FUNCTION {name}({types}) RETURNS {returns} LANGUAGE plpgsql STABLE AS {}", Literal(&body))
    }

    /// A call with the columns of the row at hand.
    fn call(&self, name: &QualifiedName) -> String {
        let columns = self.reads.iter().map(|(c, _)| Ident(c).to_string()).collect::<Vec<_>>();
        format!("{name}({})", columns.join(", "))
    }
}

impl Plan {
    /// The same plan with the functions in place of what they guard.
    pub fn guarded(&self, names: &Names) -> Option<Plan> {
        self.guard.as_ref().map(|_| self.with_functions(names, |_| true))
    }

    /// The same plan for a comparison: it casts where the others assign, and a cast may cut.
    pub fn compared(&self, names: &Names) -> Plan {
        self.with_functions(names, |guarded| guarded.cuts)
    }

    fn with_functions(&self, names: &Names, which: impl Fn(&Guarded) -> bool) -> Plan {
        let mut plan = self.clone();
        let all = self.guard.iter().flat_map(|guard| guard.columns.iter().enumerate());
        for (n, guarded) in all.filter(|(_, guarded)| which(guarded)) {
            if let Some(column) = plan.columns.iter_mut().find(|c| c.name == guarded.column) {
                let expression = guarded.call(&names.guard(Function::Conversion, n));
                column.value = Value::Converted { expression };
            }
        }
        plan
    }

    /// Whether a failure to convert this target column is caught.
    pub fn guards(&self, column: &str) -> bool {
        self.guard.iter().any(|guard| guard.columns.iter().any(|g| g.column == column))
    }

    /// `CREATE TABLE` of the one that has the values which do not convert, one row each.
    pub fn quarantine_sql(&self, table: &str) -> String {
        let key = self.key.columns.iter().map(|k| {
            let collation = self.source.column(&k.source).and_then(|c| c.collation.as_ref());
            let collation = collation.map(|c| format!(" COLLATE {c}")).unwrap_or_default();
            format!("{} {}{collation}", Ident(&k.source), k.source_type)
        });
        let [column, value, error] = self.quarantine_columns();
        let own = [format!("{column} text"), format!("{value} text"), format!("{error} text NOT NULL")];
        let columns = key.chain(own).collect::<Vec<_>>().join(", ");
        let key = self.quarantine_key();
        format!("CREATE TABLE {table} ({columns}, PRIMARY KEY ({key}, {column}))")
    }

    /// What its own columns are called: column, value and error.
    pub fn quarantine_columns(&self) -> [String; 3] {
        let taken = |name: &str| self.key.columns.iter().any(|k| k.source == name);
        ["column_name", "value", "error"].map(|name| Ident(&free_name(name, "", taken)).to_string())
    }

    fn quarantine_key(&self) -> String {
        crate::pg::sql::ident_list(self.key.columns.iter().map(|k| k.source.as_str()))
    }

    /// Puts there what does not convert among the rows of `from`, a FROM clause whose rows go by [`Plan::alias`] with
    /// conditions on them.
    pub fn set_aside_sql(&self, names: &Names, from: &str, condition: &str) -> Option<String> {
        let guard = self.guard.as_ref()?;
        let alias = self.alias();
        let key = self.key.columns.iter().map(|k| format!("{alias}.{}", Ident(&k.source))).collect::<Vec<_>>();
        let value = |(n, guarded): (usize, &Guarded)| {
            let (column, source) = (Literal(&guarded.column), format!("{alias}.{}", Ident(&guarded.source)));
            // The type's own text, as a cast to text is not of every type.
            let text = format!("CASE WHEN {source} IS NOT NULL THEN pg_catalog.concat({source}) END");
            format!("({column}, {text}, {})", guarded.call(&names.guard(Function::Refusal, n)))
        };
        let values = guard.columns.iter().enumerate().map(value).collect::<Vec<_>>().join(", ");
        Some(format!(
            "INSERT INTO {} ({}, {}) SELECT {}, \"#column\", \"#text\", \"#error\" FROM {from} \
             CROSS JOIN LATERAL (VALUES {values}) AS \"#failed\"(\"#column\", \"#text\", \"#error\") \
             WHERE \"#error\" IS NOT NULL AND {condition}",
            names.quarantine(),
            self.quarantine_key(),
            self.quarantine_columns().join(", "),
            key.join(", ")
        ))
    }

    /// Takes out of there what belongs to rows that the shadow has not, after a TRUNCATE.
    pub fn forget_truncated_sql(&self, names: &Names) -> Option<String> {
        self.guard.as_ref()?;
        let keys = || self.key.columns.iter().enumerate();
        let projected = keys().map(|(n, k)| format!(", {} AS \"#{n}\"", k.expression)).collect::<String>();
        let same =
            keys().map(|(n, k)| format!("\"#shadow\".{} {} \"#entry\".\"#{n}\"", Ident(&k.target), k.target_equal));
        Some(format!(
            "DELETE FROM {0} AS \"#kept\" USING (SELECT ctid AS \"#place\"{projected} FROM {0} AS {1}) AS \"#entry\" \
             WHERE \"#kept\".ctid = \"#entry\".\"#place\" AND NOT EXISTS (SELECT 1 FROM {2} AS \"#shadow\" WHERE {3})",
            names.quarantine(),
            self.alias(),
            names.shadow(),
            same.collect::<Vec<_>>().join(" AND ")
        ))
    }
}

/// The guard of a plan, where one was asked for. `conn` must be a session of the planner's; nothing is changed.
///
/// # Errors
/// Exit 3 where a value could not become NULL, or its conversion cannot be tried by a function.
pub async fn choose(
    conn: &Conn,
    plan: &Plan,
    conversions: &[Conversion],
    on_error: OnError,
) -> Result<Option<Guard>, Failure> {
    let keeps = match on_error {
        OnError::Abort => return Ok(None),
        OnError::Null => false,
        OnError::Quarantine => true,
    };
    let mut columns = Vec::new();
    for column in &plan.columns {
        columns.extend(guarded(conn, plan, column, conversions).await.map_err(|f| refused(f, on_error))?);
    }
    if columns.is_empty() {
        let failure = Failure::refused("the change converts no column in a way that could fail for a value")
            .hint("Leave --on-error out.");
        return Err(refused(failure, on_error));
    }
    let guard = Guard { keeps, columns, found: None, table: None };
    conn.batch("begin trial", "BEGIN; SELECT set_config('search_path', '', true)").await?;
    let tried = try_out(conn, plan, &guard).await;
    conn.batch("end trial", "ROLLBACK").await?;
    tried.map_err(|f| refused(f, on_error))?;
    Ok(Some(guard))
}

fn refused(failure: Failure, on_error: OnError) -> Failure {
    match failure.exit {
        Exit::Refused => Failure { primary: format!("--on-error {}: {}", on_error.word(), failure.primary), ..failure },
        _ => failure,
    }
}

/// The guard of a target column, where it needs one.
async fn guarded(
    conn: &Conn,
    plan: &Plan,
    column: &TargetColumn,
    conversions: &[Conversion],
) -> Result<Option<Guarded>, Failure> {
    let name = plain_ident(&column.name);
    let (Some(source), Some(target)) =
        (column.source.as_deref().and_then(|s| plan.source.column(s)), plan.target.column(&column.name))
    else {
        return Ok(None);
    };
    let (expression, reads) = match &column.value {
        Value::Copied if source.type_sql != target.type_sql => {
            (Ident(&source.name).to_string(), Some(vec![source.name.clone()]))
        }
        Value::Converted { expression } => {
            let conversion = conversions.iter().find(|c| c.column == source.name);
            (expression.clone(), conversion.and_then(|c| c.reads.clone()))
        }
        Value::Volatile { .. } => {
            return Err(Failure::refused(format!("the conversion of column {name} is volatile"))
                .detail("A value could be converted at one time and not at another.")
                .hint("Write an expression that follows from the row alone, or leave --on-error out."));
        }
        Value::Copied | Value::Constant { .. } | Value::OwnDefault | Value::Generated => return Ok(None),
    };
    if takes_every_value(source, target, &expression) {
        return Ok(None);
    }
    let in_key = plan.key.columns.iter().chain(plan.key.beside()).any(|k| k.target == column.name);
    if in_key || target.not_null {
        let why = if in_key { "part of the key" } else { "NOT NULL" };
        return Err(Failure::refused(format!("column {name} is {why}, so a value that does not convert cannot become NULL"))
            .hint("Let the column be NULL by ALTER COLUMN … DROP NOT NULL in the same change, convert it in a migration of its own, or leave --on-error out."));
    }
    let Some(reads) = reads else {
        return Err(Failure::refused(format!("the conversion of column {name} reads whole rows"))
            .hint("Name the columns that it reads, or leave --on-error out."));
    };
    let columns: Vec<&Column> = reads.iter().filter_map(|read| plan.source.column(read)).collect();
    let mut collations: Vec<_> = columns.iter().filter(|c| is_text(c)).map(|c| c.collation.as_deref()).collect();
    collations.sort_unstable();
    collations.dedup();
    if collations.len() > 1 {
        return Err(Failure::refused(format!("the conversion of column {name} reads columns of several collations"))
            .hint("Let it read one column, or leave --on-error out."));
    }
    let sql = format!("SELECT typtype::text FROM pg_catalog.pg_type WHERE oid = {}", target.type_oid);
    let is_domain = conn.scalar("read type", &sql).await?.as_deref() == Some("d");
    Ok(Some(Guarded {
        column: column.name.clone(),
        source: source.name.clone(),
        expression,
        type_sql: target.type_sql.clone(),
        reads: columns.iter().map(|c| (c.name.clone(), c.base_type_sql.clone())).collect(),
        cuts: is_domain || target.type_sql != target.base_type_sql,
    }))
}

fn is_text(column: &Column) -> bool {
    column.collation.is_some() || ["text", "character varying", "character"].contains(&column.base_type_sql.as_str())
}

/// Plain casts that fail for no value: to a wider number, to text, to a larger length or precision.
fn takes_every_value(source: &Column, target: &Column, expression: &str) -> bool {
    let name = plain_ident(&source.name);
    let base = &target.base_type_sql;
    let casts = [Ident(&source.name).to_string(), format!("({name})::{base}"), format!("{name}::{base}")];
    if !casts.iter().any(|cast| cast == expression) {
        return false;
    }
    let unlimited = target.type_sql == target.base_type_sql;
    if unlimited && (source.type_oid == target.type_oid || is_text(source) && is_text(target)) {
        return true;
    }
    let larger = |kind: &str, holds: fn(&[u32], &[u32]) -> bool| {
        limits(&source.type_sql, kind).zip(limits(&target.type_sql, kind)).is_some_and(|(from, to)| holds(&from, &to))
    };
    let wider: &[&str] = match source.type_sql.as_str() {
        "smallint" => &["integer", "bigint", "numeric", "real", "double precision", "text", "character varying"],
        "integer" | "bigint" => &["bigint", "numeric", "real", "double precision", "text", "character varying"],
        "real" => &["double precision", "text", "character varying"],
        "double precision" | "numeric" => &["text", "character varying"],
        _ => &[],
    };
    wider.contains(&target.type_sql.as_str())
        || larger("character varying", |from, to| from <= to)
        || larger("numeric", |from, to| match (from, to) {
            ([precision, scale], [most, digits]) => scale <= digits && precision + digits <= most + scale,
            _ => false,
        })
}

/// The numbers in the parentheses behind a type's name.
fn limits(type_sql: &str, kind: &str) -> Option<Vec<u32>> {
    let inner = type_sql.strip_prefix(kind)?.strip_prefix('(')?.strip_suffix(')')?;
    inner.split(',').map(|number| number.parse().ok()).collect()
}

/// Whether this role may make functions of ours. `why` says what for, on account of which option.
pub(super) async fn look_for_language(conn: &Conn, why: &str, option: &str) -> Result<(), Failure> {
    let language = "SELECT has_language_privilege(oid, 'USAGE') FROM pg_catalog.pg_language WHERE lanname = 'plpgsql'";
    match conn.scalar("look for language", language).await?.as_deref() {
        Some("t") => Ok(()),
        _ => Err(Failure::refused("the language plpgsql is not there, or not for this role")
            .detail(why)
            .hint(format!("CREATE EXTENSION plpgsql, GRANT USAGE ON LANGUAGE plpgsql, or leave {option} out."))),
    }
}

/// Whether the server takes the functions and the table, and NULL for each column.
async fn try_out(conn: &Conn, plan: &Plan, guard: &Guard) -> Result<(), Failure> {
    look_for_language(conn, "A conversion that may fail is tried by a function of ours.", "--on-error").await?;
    let name = |function, n| QualifiedName::temporary(Names::new(0).guard(function, n).name);
    let judged = |e: Error, what: String| match e.is_judgement() {
        true => Failure::refused(format!("{what}: {}", e.message)).detail(e.detail.clone().unwrap_or_default()),
        false => e.into(),
    };
    let made = [guard.functions(name), vec![plan.quarantine_sql("pg_temp.pgrecast_quarantine")]].concat().join("; ");
    conn.batch("try functions", &made)
        .await
        .map_err(|e| judged(e, "PostgreSQL refuses what would catch it".to_owned()))?;
    for (n, guarded) in guard.columns.iter().enumerate() {
        let nulls = guarded.reads.iter().map(|(_, t)| format!("NULL::{t}")).collect::<Vec<_>>().join(", ");
        let call = format!("SELECT {}({nulls})", name(Function::Conversion, n));
        let of = format!("column {} does not take NULL", plain_ident(&guarded.column));
        conn.batch("try functions", &call).await.map_err(|e| judged(e, of))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio_postgres::error::SqlState;

    use super::*;

    #[test]
    fn what_is_caught_is_about_a_value() {
        let failed = |code| catches(&Error { sqlstate: Some(SqlState::from_code(code)), ..Error::client("test", "") });
        assert!(["22P02", "22003", "23514", "54000", "P0001"].into_iter().all(failed));
        // Duplicates, NOT NULL, cancelled, out of memory, a lock, a function that is gone.
        assert!(!["23505", "23502", "57014", "53200", "55P03", "42883"].into_iter().any(failed));
        assert!(!catches(&Error::lost("test", "")));
    }

    #[test]
    fn limits_are_read() {
        assert_eq!(limits("numeric(10,2)", "numeric"), Some(vec![10, 2]));
        assert_eq!(limits("numeric", "numeric"), None);
        assert_eq!(limits("character varying(5)[]", "character varying"), None);
    }
}
