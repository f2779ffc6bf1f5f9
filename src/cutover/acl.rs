//! Owner's grants on the table, its columns and its identity sequences, carried as they are.

use crate::error::Failure;
use crate::pg::sql::grantee;
use crate::pg::{Conn, Ident};
use crate::plan::read;
use crate::plan::types::{Names, Plan};

/// One privilege.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Grant {
    /// The role; `None` for PUBLIC.
    pub grantee: Option<String>,
    /// `SELECT`, `INSERT` …
    pub privilege: String,
    /// WITH GRANT OPTION.
    pub grantable: bool,
    /// The source's column, for a column privilege.
    pub column: Option<String>,
    /// The source's column whose identity sequence it is on.
    pub sequence_of: Option<String>,
}

/// The source's grants, and the roles that default privileges gave something on the shadow.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Acl {
    /// Whether the source's list differs from what an owner has by default.
    explicit: bool,
    grants: Vec<Grant>,
    by_default: Vec<Option<String>>,
    by_default_on_sequences: Vec<Option<String>>,
}

const SQL: &str = "
SELECT json_build_object(
    'explicit', (SELECT relacl IS NOT NULL FROM pg_catalog.pg_class WHERE oid = $1),
    'grants', coalesce((SELECT json_agg(g) FROM (
        SELECT r.rolname AS grantee, x.privilege_type AS privilege, x.is_grantable AS grantable,
               NULL::name AS column, NULL::name AS sequence_of
        FROM pg_catalog.pg_class c, aclexplode(c.relacl) x LEFT JOIN pg_catalog.pg_roles r ON r.oid = x.grantee
        WHERE c.oid = $1
        UNION ALL
        SELECT r.rolname, x.privilege_type, x.is_grantable, a.attname, NULL
        FROM pg_catalog.pg_attribute a, aclexplode(a.attacl) x LEFT JOIN pg_catalog.pg_roles r ON r.oid = x.grantee
        WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL
        SELECT r.rolname, x.privilege_type, x.is_grantable, NULL, a.attname
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

impl Acl {
    /// No grants at all: for a plan that is only shown.
    pub fn none() -> Acl {
        Acl { explicit: false, grants: Vec::new(), by_default: Vec::new(), by_default_on_sequences: Vec::new() }
    }

    /// Reads it.
    pub async fn read(conn: &Conn, plan: &Plan, names: &Names) -> Result<Acl, Failure> {
        let sql = SQL.replace("$1", &plan.source.oid.to_string()).replace("$2", &names.shadow().to_string());
        read::json(conn, "read grants", &sql).await
    }

    /// The statements that give the new table what the old one has, once it stands under its final name.
    pub fn statements(&self, plan: &Plan) -> Vec<String> {
        let table = plan.target.name.to_string();
        let role = |r: &Option<String>| grantee(r.as_deref());
        let mut steps = Vec::new();
        for grantee in &self.by_default {
            steps.push(format!("REVOKE ALL ON {table} FROM {}", role(grantee)));
        }
        let of_table = |g: &&Grant| g.column.is_none() && g.sequence_of.is_none();
        if self.explicit {
            // The owner's own privileges are part of the list.
            steps.push(format!("REVOKE ALL ON {table} FROM {}", Ident(&plan.source.owner)));
        } else if !self.by_default.is_empty() {
            steps.push(format!("GRANT ALL ON {table} TO {}", Ident(&plan.source.owner)));
        }
        let option = |g: &Grant| if g.grantable && g.grantee.is_some() { " WITH GRANT OPTION" } else { "" };
        for g in self.grants.iter().filter(of_table) {
            // An owner always has the grant option; saying so would be kept as a grant to oneself.
            let own = g.grantee.as_ref() == Some(&plan.source.owner);
            let with = if own { "" } else { option(g) };
            steps.push(format!("GRANT {} ON {table} TO {}{with}", g.privilege, role(&g.grantee)));
        }
        for g in &self.grants {
            let kept = |source: &Option<String>| {
                source.as_ref().and_then(|s| plan.columns.iter().find(|c| c.source.as_ref() == Some(s)))
            };
            if let Some(column) = kept(&g.column) {
                let column = Ident(&column.name);
                steps.push(format!("GRANT {} ({column}) ON {table} TO {}{}", g.privilege, role(&g.grantee), option(g)));
            }
        }
        steps.extend(self.on_sequences(plan, &role, &option));
        steps
    }

    fn on_sequences(
        &self,
        plan: &Plan,
        role: &dyn Fn(&Option<String>) -> String,
        option: &dyn Fn(&Grant) -> &'static str,
    ) -> Vec<String> {
        let mut steps = Vec::new();
        for column in plan.target.columns.iter().filter(|c| c.origin.is_identity()) {
            let Some(sequence) = &column.sequence else { continue };
            let source = plan.columns.iter().find(|c| c.name == column.name).and_then(|c| c.source.as_ref());
            let name = plan.target.name.sibling(sequence.name.name.clone());
            let grants: Vec<&Grant> =
                self.grants.iter().filter(|g| g.sequence_of.is_some() && g.sequence_of.as_ref() == source).collect();
            for grantee in self.by_default_on_sequences.iter().filter(|g| g.as_ref() != Some(&plan.source.owner)) {
                steps.push(format!("REVOKE ALL ON SEQUENCE {name} FROM {}", role(grantee)));
            }
            for g in grants {
                let own = g.grantee.as_ref() == Some(&plan.source.owner);
                let with = if own { "" } else { option(g) };
                steps.push(format!("GRANT {} ON SEQUENCE {name} TO {}{with}", g.privilege, role(&g.grantee)));
            }
        }
        steps
    }
}
