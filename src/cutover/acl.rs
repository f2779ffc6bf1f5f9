//! Grants on the table, its columns and its identity sequences, carried as they are: each by the role that gave it.

use crate::error::Failure;
use crate::pg::sql::grantee as grantee_sql;
use crate::pg::{Conn, Ident};
use crate::plan::read;
use crate::plan::types::{Member, Plan};
use crate::ties::Grant;
use crate::ties::grants::in_order;

/// One privilege.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
struct OfSource {
    #[serde(flatten)]
    grant: Grant,
    /// The source's column whose identity sequence it is on.
    sequence_of: Option<String>,
}

/// The source's grants, and the roles that default privileges gave something on the shadow.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Acl {
    /// Whether the source's list differs from what an owner has by default.
    explicit: bool,
    grants: Vec<OfSource>,
    by_default: Vec<Option<String>>,
    by_default_on_sequences: Vec<Option<String>>,
}

const SQL: &str = "
SELECT json_build_object(
    'explicit', coalesce((SELECT relacl IS NOT NULL FROM pg_catalog.pg_class WHERE oid = $1), false),
    'grants', coalesce((SELECT json_agg(g) FROM (
        SELECT r.rolname AS grantee, x.privilege_type AS privilege, x.is_grantable AS grantable,
               NULL::name AS column, NULL::name AS sequence_of,
               CASE WHEN x.grantor <> c.relowner THEN pg_catalog.pg_get_userbyid(x.grantor) END AS grantor
        FROM pg_catalog.pg_class c, aclexplode(c.relacl) x LEFT JOIN pg_catalog.pg_roles r ON r.oid = x.grantee
        WHERE c.oid = $1
        UNION ALL
        SELECT r.rolname, x.privilege_type, x.is_grantable, a.attname, NULL,
               CASE WHEN x.grantor <> c.relowner THEN pg_catalog.pg_get_userbyid(x.grantor) END
        FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid, aclexplode(a.attacl) x LEFT JOIN pg_catalog.pg_roles r ON r.oid = x.grantee
        WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
$3        UNION ALL
        SELECT r.rolname, x.privilege_type, x.is_grantable, NULL, a.attname,
               CASE WHEN x.grantor <> s.relowner THEN pg_catalog.pg_get_userbyid(x.grantor) END
        FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
        JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid,
        aclexplode(s.relacl) x LEFT JOIN pg_catalog.pg_roles r ON r.oid = x.grantee
        WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
          AND d.refobjid = $1 AND d.deptype = 'i') AS g), '[]'),
    'by_default', coalesce((SELECT json_agg(DISTINCT r.rolname) FROM pg_catalog.pg_class c, aclexplode(c.relacl) x
        LEFT JOIN pg_catalog.pg_roles r ON r.oid = x.grantee WHERE c.oid = '$2'::regclass), '[]'),
    'by_default_on_sequences', coalesce((SELECT json_agg(DISTINCT r.rolname) FROM pg_catalog.pg_depend d
        JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S', aclexplode(s.relacl) x
        LEFT JOIN pg_catalog.pg_roles r ON r.oid = x.grantee
        WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
          AND d.refobjid = '$2'::regclass AND d.deptype = 'i'), '[]'))";

/// Columns that only the old table has keep their grants.
const OF_OLD_COLUMNS: &str = "        UNION ALL
        SELECT r.rolname, x.privilege_type, x.is_grantable, a.attname, NULL,
               CASE WHEN x.grantor <> c.relowner THEN pg_catalog.pg_get_userbyid(x.grantor) END
        FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid, aclexplode(a.attacl) x LEFT JOIN pg_catalog.pg_roles r ON r.oid = x.grantee
        WHERE a.attrelid = '$2'::regclass AND a.attnum > 0 AND NOT a.attisdropped
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute s WHERE s.attrelid = $1 AND s.attname = a.attname AND NOT s.attisdropped)
";

impl Acl {
    /// No grants at all: for a plan that is only shown.
    pub fn none() -> Acl {
        Acl { explicit: false, grants: Vec::new(), by_default: Vec::new(), by_default_on_sequences: Vec::new() }
    }

    /// Reads that of one member. What takes nobody's place gets nothing but its owner's privileges: who may use the table
    /// may use its partitions through it.
    /// A partition that is old has what it had.
    pub async fn read(conn: &Conn, member: &Member<'_>) -> Result<Acl, Failure> {
        if member.source.is_none() && member.is_old() {
            return Ok(Acl::none());
        }
        let (oid, shadow) = (member.source.map_or(0, |s| s.oid).to_string(), member.shadow().to_string());
        let sql = SQL.replace("$3", if member.is_old() { OF_OLD_COLUMNS } else { "" });
        read::json(conn, "read grants", &sql.replace("$1", &oid).replace("$2", &shadow)).await
    }

    /// The roles other than the owner that may insert rows, be it some columns of them; `None` for PUBLIC.
    pub fn inserters(&self, owner: &str) -> Vec<Option<&str>> {
        let on_table = self.grants.iter().filter(|g| g.sequence_of.is_none()).map(|g| &g.grant);
        let inserts = on_table.filter(|g| g.privilege == "INSERT" && g.grantee.as_deref() != Some(owner));
        let mut roles: Vec<Option<&str>> = inserts.map(|g| g.grantee.as_deref()).collect();
        roles.sort_unstable();
        roles.dedup();
        roles
    }

    /// The statements that give the new table what the old one has, once it stands under its final name.
    pub fn statements(&self, plan: &Plan, member: &Member<'_>) -> Vec<String> {
        let table = member.target.name.to_string();
        let mut steps = Vec::new();
        for grantee in &self.by_default {
            steps.push(format!("REVOKE ALL ON {table} FROM {}", grantee_sql(grantee.as_deref())));
        }
        if self.explicit {
            // The owner's own privileges are part of the list.
            steps.push(format!("REVOKE ALL ON {table} FROM {}", Ident(&member.target.owner)));
        } else if !self.by_default.is_empty() {
            steps.push(format!("GRANT ALL ON {table} TO {}", Ident(&member.target.owner)));
        }
        for g in in_order(self.grants.iter().filter(|g| g.sequence_of.is_none()).map(|g| &g.grant)) {
            let column = match &g.column {
                None => None,
                Some(before) => match plan.name_after(before) {
                    Some(after) => Some(after),
                    None => continue,
                },
            };
            steps.extend(g.statements(&table, column, &plan.source.owner));
        }
        steps.extend(self.on_sequences(plan, member));
        steps
    }

    fn on_sequences(&self, plan: &Plan, member: &Member<'_>) -> Vec<String> {
        let mut steps = Vec::new();
        for column in member.target.columns.iter().filter(|c| c.origin.is_identity()) {
            let Some(sequence) = &column.sequence else { continue };
            let source = plan.columns.iter().find(|c| c.name == column.name).and_then(|c| c.source.as_ref());
            let name = member.target.name.sibling(sequence.name.name.clone());
            let owner = &member.target.owner;
            let grants = self.grants.iter().filter(|g| g.sequence_of.is_some() && g.sequence_of.as_ref() == source);
            for grantee in self.by_default_on_sequences.iter().filter(|g| g.as_ref() != Some(owner)) {
                steps.push(format!("REVOKE ALL ON SEQUENCE {name} FROM {}", grantee_sql(grantee.as_deref())));
            }
            for g in in_order(grants.map(|g| &g.grant)) {
                steps.extend(g.statements(&format!("SEQUENCE {name}"), None, owner));
            }
        }
        steps
    }
}
