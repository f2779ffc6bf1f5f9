//! The table itself: found, of a kind the stream can show, and the role's to change.

use super::{Finding, ServerFacts};
use crate::error::Failure;
use crate::pg::sql::plain_ident;
use crate::pg::{Conn, Literal, QualifiedName};

/// The oid of the table the user named, found as the server would find it.
///
/// # Errors
/// Exit 3 where there is no such relation.
pub async fn find_table(conn: &Conn, schema: Option<&str>, name: &str) -> Result<u32, Failure> {
    let sql = match schema {
        Some(schema) => format!(
            "SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = {} AND c.relname = {}",
            Literal(schema),
            Literal(name)
        ),
        None => format!(
            "SELECT c.oid FROM pg_catalog.pg_class c WHERE c.relname = {} AND pg_catalog.pg_table_is_visible(c.oid)",
            Literal(name)
        ),
    };
    let shown = schema.map_or_else(|| plain_ident(name), |s| QualifiedName::new(s, name).plain());
    conn.scalar("find table", &sql).await?.and_then(|oid| oid.parse().ok()).ok_or_else(|| {
        let hint = match schema {
            Some(_) => "Check the spelling; names with capitals must be quoted as in SQL.",
            None => "Check the spelling and the search path, or write schema.name; names with capitals must be quoted as in SQL.",
        };
        Failure::refused(format!("there is no table {shown}")).hint(hint)
    })
}

#[derive(serde::Deserialize)]
struct Facts {
    schema: String,
    name: String,
    kind: char,
    persistence: char,
    system: bool,
    partition: bool,
    access_method: Option<String>,
    owner: String,
    is_owner: bool,
    schema_create: bool,
    owner_schema_create: bool,
}

const FACTS: &str = "
SELECT json_build_object('schema', n.nspname, 'name', c.relname, 'kind', c.relkind, 'persistence', c.relpersistence,
    'partition', c.relispartition,
    'system', n.nspname IN ('pg_catalog', 'information_schema', 'pg_toast', 'pgrecast') OR c.oid < 16384,
    'access_method', am.amname, 'owner', pg_catalog.pg_get_userbyid(c.relowner),
    'is_owner', pg_catalog.pg_has_role(c.relowner, 'USAGE'),
    'schema_create', has_schema_privilege(n.oid, 'CREATE'),
    'owner_schema_create', has_schema_privilege(c.relowner, n.oid, 'CREATE'))
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam WHERE c.oid = ";

/// `of_tree` is said of a partition that is looked at as part of the table it belongs to.
pub(super) async fn findings(
    conn: &Conn,
    server: &ServerFacts,
    oid: u32,
    of_tree: bool,
) -> Result<Vec<Finding>, Failure> {
    let f: Facts = crate::plan::read::json(conn, "read table facts", &format!("{FACTS}{oid}")).await?;
    let table = QualifiedName::new(f.schema.clone(), f.name.clone()).plain();
    let role = plain_ident(&server.role);
    let mut found = Vec::new();
    if let Some(kind) = other_kind(f.kind) {
        let (table, hint) = match of_tree {
            true => (format!("partition {table}"), "Detach it for the time."),
            false => (table, "Name the ordinary table behind it."),
        };
        found.push(Finding::new(format!("{table} is {kind}, not a table"), hint));
        return Ok(found);
    }
    if f.system {
        found.push(Finding::new(format!("{table} is a system table"), "Only the user's own tables can be migrated."));
    }
    if f.persistence != 'p' {
        let kind = if f.persistence == 'u' { "an unlogged" } else { "a temporary" };
        found.push(Finding::new(
            format!("{table} is {kind} table"),
            "Its changes are not in the WAL, so they cannot be followed.",
        ));
    }
    if f.access_method.as_deref().is_some_and(|am| am != "heap") {
        found.push(Finding::new(
            format!("{table} uses access method {}", f.access_method.unwrap_or_default()),
            "Block ranges can be read of heap tables only.",
        ));
    }
    if f.kind == 'p' && f.partition && !of_tree {
        found.push(Finding::new(
            format!("{table} is a partition, and partitioned itself"),
            "Migrate the partitioned table as a whole, or the partitions that hold the rows.",
        ));
    }
    if !(f.is_owner || server.superuser) {
        found.push(Finding::of_role(
            format!("role {role} does not own table {table}"),
            format!("Run as {}, or GRANT {} TO {role}.", plain_ident(&f.owner), plain_ident(&f.owner)),
        ));
    }
    if !f.schema_create {
        found.push(Finding::of_role(
            format!("role {role} may not create tables in schema {}", plain_ident(&f.schema)),
            format!("GRANT CREATE ON SCHEMA {} TO {role}.", plain_ident(&f.schema)),
        ));
    }
    if f.is_owner && !server.superuser && f.owner != server.role && !f.owner_schema_create {
        found.push(Finding::new(
            format!("owner {} may not create tables in schema {}", plain_ident(&f.owner), plain_ident(&f.schema)),
            format!("GRANT CREATE ON SCHEMA {} TO {}.", plain_ident(&f.schema), plain_ident(&f.owner)),
        ));
    }
    Ok(found)
}

fn other_kind(kind: char) -> Option<&'static str> {
    match kind {
        'r' | 'p' => None,
        'v' => Some("a view"),
        'm' => Some("a materialized view"),
        'f' => Some("a foreign table"),
        'S' => Some("a sequence"),
        'i' | 'I' => Some("an index"),
        'c' => Some("a composite type"),
        _ => Some("something else"),
    }
}
