//! Privileges that another role than the owner granted: the swap becomes that role for the time of its GRANT.

use serde::Deserialize;

use super::{Finding, ServerFacts};
use crate::error::Failure;
use crate::pg::Conn;
use crate::pg::sql::plain_ident;

/// Why a role cannot be made to grant again what it granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Obstacle {
    /// The session may not SET ROLE to it.
    NotSettable,
    /// It has no USAGE on the schema.
    NoUsage,
    /// It has the owner's privileges now, so the server would take the owner for the grantor (`select_best_grantor` in
    /// `acl.c`).
    HasOwners,
}

impl Obstacle {
    /// SQL for the word of an obstacle, NULL where there is none: `x` is an exploded list of privileges, `c` the relation.
    pub fn sql(version: u32) -> String {
        // SET ROLE asks what the session's user may, and from 16 on membership alone is not enough.
        let settable = if version >= 160_000 { "SET" } else { "MEMBER" };
        format!(
            "CASE WHEN x.grantor = c.relowner THEN NULL \
             WHEN NOT pg_catalog.pg_has_role(session_user, x.grantor, '{settable}') THEN 'not_settable' \
             WHEN NOT pg_catalog.has_schema_privilege(x.grantor, c.relnamespace, 'USAGE') THEN 'no_usage' \
             WHEN pg_catalog.pg_has_role(x.grantor, c.relowner, 'USAGE') THEN 'has_owners' END"
        )
    }

    /// The finding for privileges on `what`, in `schema`, that `grantor` granted.
    pub fn finding(self, what: &str, schema: &str, grantor: &str) -> Finding {
        let (grantor, schema) = (plain_ident(grantor), plain_ident(schema));
        let (trouble, way_out) = match self {
            Obstacle::NotSettable => {
                ("which this role cannot become".to_owned(), format!("GRANT {grantor} TO the role that runs this"))
            }
            Obstacle::NoUsage => (
                format!("which has no USAGE on schema {schema} any more"),
                format!("GRANT USAGE ON SCHEMA {schema} TO {grantor}"),
            ),
            Obstacle::HasOwners => (
                "which has the owner's privileges now: the server would name the owner as the grantor".to_owned(),
                format!("Take {grantor} out of the owner's role for the time"),
            ),
        };
        let finding = match self {
            Obstacle::NotSettable => Finding::of_role,
            Obstacle::NoUsage | Obstacle::HasOwners => Finding::new,
        };
        finding(
            format!("a privilege on {what} was granted by role {grantor}, {trouble}"),
            format!("{way_out}, or revoke the privilege and let the owner grant it."),
        )
    }
}

#[derive(Deserialize)]
struct Hindered {
    schema: String,
    name: String,
    grantor: String,
    obstacle: Obstacle,
}

/// On the table, its columns and its identity sequences.
const HINDERED: &str = "
WITH c AS (
    SELECT oid, relname, relnamespace, relowner, relacl FROM pg_catalog.pg_class WHERE oid = $1
    UNION ALL
    SELECT s.oid, s.relname, s.relnamespace, s.relowner, s.relacl FROM pg_catalog.pg_depend d
    JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
      AND d.refobjid = $1 AND d.deptype = 'i'),
lists AS (
    SELECT oid, relacl AS list FROM c
    UNION ALL
    SELECT attrelid, attacl FROM pg_catalog.pg_attribute WHERE attrelid = $1 AND NOT attisdropped),
hindered AS (
    SELECT DISTINCT n.nspname, c.relname, pg_catalog.pg_get_userbyid(x.grantor) AS grantor, $obstacle AS obstacle
    FROM lists JOIN c USING (oid) JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace, aclexplode(lists.list) x)
SELECT coalesce(json_agg(json_build_object('schema', nspname, 'name', relname, 'grantor', grantor, 'obstacle', obstacle)
    ORDER BY relname, grantor), '[]')
FROM hindered WHERE obstacle IS NOT NULL";

pub(super) async fn findings(conn: &Conn, server: &ServerFacts, oid: u32) -> Result<Vec<Finding>, Failure> {
    let sql = HINDERED.replace("$1", &oid.to_string()).replace("$obstacle", &Obstacle::sql(server.version));
    let hindered: Vec<Hindered> = crate::plan::read::json(conn, "read grantors", &sql).await?;
    let finding = |h: &Hindered| {
        let what = format!("{}.{}", plain_ident(&h.schema), plain_ident(&h.name));
        h.obstacle.finding(&what, &h.schema, &h.grantor)
    };
    Ok(hindered.iter().map(finding).collect())
}
