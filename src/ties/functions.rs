//! Functions and procedures that read the table in a body of the SQL standard, or have its row type in their signature:
//! kept in place where the signature stays, made again where not. Pure.
//!
//! A body that is a string is none of the catalog's business: it finds the new table by its name, as it found the old one.

use serde::Deserialize;

use super::Grant;
use super::grants::{hindered, in_order};
use super::text::renamed;
use crate::error::Failure;
use crate::pg::sql::{grantee, plain_ident};
use crate::pg::{Ident, Literal, QualifiedName};
use crate::plan::types::{Names, SCHEMA};
use crate::preflight::Finding;

/// A function or procedure; aggregates are refused.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Function {
    /// Its oid.
    pub oid: u32,
    /// Its name.
    pub name: QualifiedName,
    /// As messages show it: `function schema.name(types)`.
    pub description: String,
    /// `FUNCTION` or `PROCEDURE`.
    pub kind: String,
    /// Its arguments, as the server tells it from its namesakes.
    pub arguments: String,
    /// What follows its name in `CREATE FUNCTION`.
    pub definition: String,
    /// Whether the row type is in its signature, so that another type makes it another function.
    pub typed: bool,
    /// Its owner.
    pub owner: String,
    /// Whether this role may replace it.
    pub owned: bool,
    /// Whether this role may create functions in its schema and of its language.
    pub creatable: bool,
    /// Whether this role may give a function there to its owner.
    pub givable: bool,
    /// Columns of the table that it names.
    pub mentions: Vec<String>,
    /// Its comment.
    pub comment: Option<String>,
    /// Privileges, spelled out where they are those of every new function.
    pub grants: Vec<Grant>,
    /// Whether a new function of this role would have others.
    pub explicit_grants: bool,
    /// Roles that get something on a new function of this role's.
    pub by_default: Vec<Option<String>>,
    /// Extensions that it was told to depend on.
    pub extensions: Vec<String>,
    /// The extension that it belongs to.
    pub member_of: Option<String>,
    /// Whether it has security labels.
    pub labelled: bool,
    /// What depends on it.
    pub others: Vec<String>,
}

/// What cannot be done with one, besides what holds for every text.
pub(super) fn judge(function: &Function) -> Vec<Finding> {
    let what = &function.description;
    let mut found = Vec::new();
    if let Some(extension) = &function.member_of {
        found.push(Finding::new(
            format!("{what} belongs to extension {} and would have to be made anew", plain_ident(extension)),
            "Drop the extension first and create it again afterwards.",
        ));
    }
    if !function.creatable {
        found.push(Finding::new(
            format!(
                "{what} would have to be made anew, and this role may not create functions of its schema or language"
            ),
            "GRANT CREATE ON SCHEMA and USAGE ON LANGUAGE to it, or drop the function and create it again afterwards.",
        ));
    }
    if !function.typed {
        return found;
    }
    if !function.givable {
        found.push(Finding::new(
            format!(
                "{what} would have to be made anew, and this role may not give it to {}",
                plain_ident(&function.owner)
            ),
            "Run as the function's owner, which needs CREATE on its schema, or drop it and create it again afterwards.",
        ));
    }
    found.extend(function.others.iter().map(|other| {
        Finding::new(
            format!("{what} has the row type in its signature and has to be made again, and {other} depends on it"),
            "Drop that first and create it again afterwards.",
        )
    }));
    found.extend(hindered(&function.grants, what, &function.name.schema));
    if function.labelled {
        found.push(Finding::new(
            format!("{what} has to be made again, and has a security label"),
            "This version does not carry security labels: drop the function and create it again afterwards.",
        ));
    }
    found
}

/// What takes those out of the way that are made again. They end with the old table: a call that is under way, and waits
/// for the swap, still needs the one it began with.
pub(super) fn set_aside(functions: &[Function], names: &Names) -> Vec<String> {
    let aside = |function: &Function| {
        let old = names.old_function(function.oid);
        let moved = QualifiedName::new(&old.schema, &function.name.name);
        [
            format!("ALTER {} SET SCHEMA {}", signature(function), Ident(&old.schema)),
            format!("ALTER {} {moved}({}) RENAME TO {}", function.kind, function.arguments, Ident(&old.name)),
        ]
    };
    functions.iter().filter(|f| f.typed).flat_map(aside).collect()
}

/// The query for those that a swap has set aside, as DROP names them.
pub fn set_aside_sql(names: &Names) -> String {
    format!(
        "SELECT format('%s %I.%I(%s)', CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END, n.nspname, p.proname, \
         pg_catalog.pg_get_function_identity_arguments(p.oid)) FROM pg_catalog.pg_proc p \
         JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = {} AND starts_with(p.proname, {})",
        Literal(SCHEMA),
        Literal(&names.old_function_prefix())
    )
}

/// What makes all of them mean the new table.
pub(super) fn creates(functions: &[Function], role: &str) -> Vec<String> {
    if functions.is_empty() {
        return Vec::new();
    }
    let mut steps = vec![WITHOUT_CHECKS.to_owned()];
    for function in functions {
        let verb = if function.typed { "CREATE" } else { "CREATE OR REPLACE" };
        steps.push(format!("{verb} {} {}{}", function.kind, function.name, function.definition));
        // Forgotten by CREATE OR REPLACE, too.
        for extension in &function.extensions {
            steps.push(format!("ALTER {} DEPENDS ON EXTENSION {}", signature(function), Ident(extension)));
        }
        if function.typed {
            steps.extend(belongings(function, role));
        }
    }
    steps
}

/// A body that is a string is not looked at: its names are found under the search path of whoever calls it.
const WITHOUT_CHECKS: &str = "SET LOCAL check_function_bodies = off";

/// Statements that make a temporary one over `model` instead of the table.
pub(super) fn trial(
    function: &Function,
    source: &QualifiedName,
    model: &QualifiedName,
) -> Result<Vec<String>, Failure> {
    let own = QualifiedName::temporary(&function.name.name);
    let create = format!("CREATE {} {own}{}", function.kind, renamed(&function.definition, source, model)?);
    Ok(vec![WITHOUT_CHECKS.to_owned(), create])
}

fn signature(function: &Function) -> String {
    format!("{} {}({})", function.kind, function.name, function.arguments)
}

/// Owner first: privileges are granted in the owner's name then, by whoever is a member of it.
fn belongings(function: &Function, role: &str) -> Vec<String> {
    let on = signature(function);
    let mut steps = Vec::new();
    if let Some(comment) = &function.comment {
        steps.push(format!("COMMENT ON {on} IS {}", Literal(comment)));
    }
    if function.owner != role {
        steps.push(format!("ALTER {on} OWNER TO {}", Ident(&function.owner)));
    }
    if !function.explicit_grants {
        return steps;
    }
    let owner = Some(function.owner.clone());
    let mut everyone: Vec<&Option<String>> = vec![&None, &owner];
    everyone.extend(function.by_default.iter().filter(|r| r.is_some() && **r != owner));
    for one in everyone {
        steps.push(format!("REVOKE ALL ON {on} FROM {}", grantee(one.as_deref())));
    }
    steps.extend(in_order(&function.grants).iter().flat_map(|g| g.statements(&on, None, &function.owner)));
    steps
}

/// Those that depend on the table, its columns, its row type or the array of that. `$give` is the privilege on a role
/// with which something can be given to it.
pub(super) const QUERY: &str = "
WITH me AS (SELECT c.oid, array_remove(ARRAY[c.reltype, t.typarray], NULL) AS types FROM pg_catalog.pg_class c
    LEFT JOIN pg_catalog.pg_type t ON t.oid = c.reltype WHERE c.oid = $1),
found AS (SELECT DISTINCT d.objid AS oid FROM pg_catalog.pg_depend d, me WHERE d.classid = 'pg_catalog.pg_proc'::regclass
    AND (d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = me.oid
        OR d.refclassid = 'pg_catalog.pg_type'::regclass AND d.refobjid = ANY (me.types)))
SELECT coalesce(json_agg(json_build_object(
    'oid', p.oid::int8, 'name', json_build_object('schema', n.nspname, 'name', p.proname),
    'description', pg_catalog.pg_describe_object('pg_catalog.pg_proc'::regclass, p.oid, 0),
    'kind', k.word, 'arguments', pg_catalog.pg_get_function_identity_arguments(p.oid),
    'definition', substr(pg_catalog.pg_get_functiondef(p.oid),
        length(format('CREATE OR REPLACE %s %I.%I', k.word, n.nspname, p.proname)) + 1),
    -- A polymorphic argument has the type of its default, which CREATE OR REPLACE does not let change.
    'typed', p.prorettype = ANY (me.types) OR p.proargtypes::oid[] && me.types OR coalesce(p.proallargtypes && me.types, false)
        OR p.pronargdefaults > 0 AND EXISTS (SELECT 1 FROM pg_catalog.pg_type y
            WHERE y.oid = ANY (p.proargtypes::oid[]) AND y.typtype = 'p'),
    'owner', pg_catalog.pg_get_userbyid(p.proowner), 'owned', pg_catalog.pg_has_role(p.proowner, 'USAGE'),
    'creatable', has_schema_privilege(n.oid, 'CREATE')
        AND (me_too.rolsuper OR l.lanpltrusted AND has_language_privilege(l.oid, 'USAGE')),
    'givable', me_too.rolsuper OR me_too.oid = p.proowner
        OR pg_catalog.pg_has_role(p.proowner, '$give') AND has_schema_privilege(p.proowner, n.oid, 'CREATE'),
    'mentions', $mentions, 'comment', pg_catalog.obj_description(p.oid, 'pg_proc'),
    'grants', (SELECT coalesce(json_agg(g), '[]') FROM (
        SELECT r.rolname AS grantee, x.privilege_type AS privilege, x.is_grantable AS grantable, NULL::name AS column,
            CASE WHEN x.grantor <> p.proowner THEN pg_catalog.pg_get_userbyid(x.grantor) END AS grantor, $obstacle AS obstacle
        FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) x
        CROSS JOIN (SELECT p.proowner AS relowner, p.pronamespace AS relnamespace) AS c
        LEFT JOIN pg_catalog.pg_roles r ON r.oid = x.grantee) AS g),
    'explicit_grants', p.proacl IS NOT NULL OR EXISTS (SELECT 1 FROM pg_catalog.pg_default_acl da
        WHERE da.defaclobjtype = 'f' AND da.defaclrole = me_too.oid AND da.defaclnamespace IN (0, n.oid)),
    'by_default', (SELECT coalesce(json_agg(DISTINCT r.rolname), '[]') FROM pg_catalog.pg_default_acl da, aclexplode(da.defaclacl) x
        LEFT JOIN pg_catalog.pg_roles r ON r.oid = x.grantee
        WHERE da.defaclobjtype = 'f' AND da.defaclrole = me_too.oid AND da.defaclnamespace IN (0, n.oid)),
    'extensions', (SELECT coalesce(json_agg(e.extname ORDER BY e.extname), '[]') FROM pg_catalog.pg_depend d
        JOIN pg_catalog.pg_extension e ON d.refclassid = 'pg_catalog.pg_extension'::regclass AND e.oid = d.refobjid
        WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'x'),
    'member_of', (SELECT e.extname FROM pg_catalog.pg_depend d
        JOIN pg_catalog.pg_extension e ON d.refclassid = 'pg_catalog.pg_extension'::regclass AND e.oid = d.refobjid
        WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'),
    'labelled', EXISTS (SELECT 1 FROM pg_catalog.pg_seclabel s
        WHERE s.classoid = 'pg_catalog.pg_proc'::regclass AND s.objoid = p.oid),
    'others', (SELECT coalesce(json_agg(DISTINCT coalesce(
            -- A view is tied by its rule, which has a name that nobody gave it.
            (SELECT pg_catalog.pg_describe_object('pg_catalog.pg_class'::regclass, w.ev_class, 0) FROM pg_catalog.pg_rewrite w
                WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass AND w.oid = d.objid AND w.rulename = '_RETURN'),
            pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid))), '[]')
        FROM pg_catalog.pg_depend d WHERE d.refclassid = 'pg_catalog.pg_proc'::regclass AND d.refobjid = p.oid))
    ORDER BY n.nspname, p.proname, p.oid), '[]')
FROM found f JOIN pg_catalog.pg_proc p ON p.oid = f.oid AND p.prokind <> 'a'
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace JOIN pg_catalog.pg_language l ON l.oid = p.prolang
CROSS JOIN LATERAL (SELECT CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END AS word) k
CROSS JOIN me JOIN pg_catalog.pg_roles me_too ON me_too.rolname = current_user";

#[cfg(test)]
mod tests {
    use super::*;

    fn function(typed: bool) -> Function {
        Function {
            oid: 99,
            name: QualifiedName::new("public", "f"),
            description: "function public.f(public.t)".to_owned(),
            kind: "FUNCTION".to_owned(),
            arguments: "one public.t".to_owned(),
            definition: "(one public.t)\n RETURNS integer".to_owned(),
            typed,
            owner: "boss".to_owned(),
            owned: true,
            creatable: true,
            givable: false,
            mentions: Vec::new(),
            comment: Some("it's one".to_owned()),
            grants: vec![Grant {
                grantee: Some("app".to_owned()),
                privilege: "EXECUTE".to_owned(),
                grantable: true,
                column: None,
                grantor: None,
                obstacle: None,
            }],
            explicit_grants: true,
            by_default: vec![None, Some("other".to_owned())],
            extensions: vec!["plpgsql".to_owned()],
            member_of: None,
            labelled: false,
            others: vec!["view public.v".to_owned()],
        }
    }

    #[test]
    fn one_with_the_row_type_is_set_aside_and_made_again_with_all_that_hangs_on_it() {
        let functions = [function(true)];
        assert_eq!(
            set_aside(&functions, &Names::new(7)),
            [
                r#"ALTER FUNCTION "public"."f"(one public.t) SET SCHEMA "pgrecast""#,
                r#"ALTER FUNCTION "pgrecast"."f"(one public.t) RENAME TO "function_7_99""#,
            ]
        );
        let on = r#"FUNCTION "public"."f"(one public.t)"#;
        assert_eq!(
            creates(&functions, "me"),
            [
                WITHOUT_CHECKS.to_owned(),
                "CREATE FUNCTION \"public\".\"f\"(one public.t)\n RETURNS integer".to_owned(),
                format!(r#"ALTER {on} DEPENDS ON EXTENSION "plpgsql""#),
                format!("COMMENT ON {on} IS 'it''s one'"),
                format!(r#"ALTER {on} OWNER TO "boss""#),
                format!("REVOKE ALL ON {on} FROM PUBLIC"),
                format!(r#"REVOKE ALL ON {on} FROM "boss""#),
                format!(r#"REVOKE ALL ON {on} FROM "other""#),
                format!(r#"GRANT EXECUTE ON {on} TO "app" WITH GRANT OPTION"#),
            ]
        );
        let found: Vec<String> = judge(&functions[0]).into_iter().map(|f| f.what).collect();
        assert!(
            found.len() == 2 && found[0].contains("give it to boss") && found[1].contains("view public.v"),
            "{found:?}"
        );
    }

    #[test]
    fn another_is_replaced_in_place_and_keeps_the_rest() {
        let functions = [function(false)];
        assert!(set_aside(&functions, &Names::new(7)).is_empty() && judge(&functions[0]).is_empty());
        let steps = creates(&functions, "me");
        assert_eq!(steps.len(), 3, "{steps:?}");
        assert!(steps[1].starts_with("CREATE OR REPLACE FUNCTION"), "{steps:?}");
    }
}
