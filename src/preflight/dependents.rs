//! What hangs on the table by its oid and is not carried: found through `pg_depend` and the catalogs that bypass it,
//! and named one by one.
//!
//! The rule is the other way round from a list of known troubles: whatever depends on the table, its columns or its
//! row type is a finding unless it is of a class the swap carries (PostgreSQL manual, 53.18 "pg_depend").

use super::Finding;
use crate::error::Failure;
use crate::pg::Conn;

/// Dependents by kind and description. Left out, since the swap carries them: the table's own defaults, indexes,
/// NOT NULL, CHECK, primary, unique and exclusion constraints, its TOAST table, its row type, its sequences, and what
/// [`crate::plan::kin`] and [`crate::ties`] have.
const DEPENDENTS: &str = "
WITH me AS (SELECT c.oid, c.reltype, coalesce(t.typarray, 0) AS array_type FROM pg_catalog.pg_class c
    LEFT JOIN pg_catalog.pg_type t ON t.oid = c.reltype WHERE c.oid = $1),
ties AS (
    SELECT d.classid, d.objid, d.objsubid, d.refclassid FROM pg_catalog.pg_depend d, me
    -- 14 marks what it pins by a row that names no object.
    WHERE d.classid <> 0
      AND ((d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = me.oid)
        OR (d.refclassid = 'pg_catalog.pg_type'::regclass AND d.refobjid IN (me.reltype, me.array_type)))),
named AS (
    SELECT DISTINCT t.classid, t.objid,
        -- A view is tied by its rule, which has a name that nobody gave it.
        coalesce((SELECT pg_catalog.pg_describe_object('pg_catalog.pg_class'::regclass, w.ev_class, 0)
                  FROM pg_catalog.pg_rewrite w, pg_catalog.pg_class v
                  WHERE t.classid = 'pg_catalog.pg_rewrite'::regclass AND w.oid = t.objid
                    AND v.oid = w.ev_class AND v.relkind IN ('v', 'm')),
                 pg_catalog.pg_describe_object(t.classid, t.objid, t.objsubid)) AS description,
        CASE t.classid
            -- By its row type a materialized view is tied to the old table: it is made while the type is still that one's.
            WHEN 'pg_catalog.pg_rewrite'::regclass THEN
                (SELECT CASE WHEN v.relkind = 'm' AND t.refclassid = 'pg_catalog.pg_type'::regclass THEN 'materialized view' END
                 FROM pg_catalog.pg_rewrite w JOIN pg_catalog.pg_class v ON v.oid = w.ev_class WHERE w.oid = t.objid)
            WHEN 'pg_catalog.pg_constraint'::regclass THEN
                CASE WHEN (SELECT k.contype FROM pg_catalog.pg_constraint k WHERE k.oid = t.objid) = 'f' THEN NULL
                     WHEN (SELECT k.conrelid FROM pg_catalog.pg_constraint k WHERE k.oid = t.objid) = me.oid THEN NULL
                     ELSE 'constraint' END
            WHEN 'pg_catalog.pg_trigger'::regclass THEN
                CASE WHEN (SELECT g.tgisinternal OR g.tgrelid = me.oid FROM pg_catalog.pg_trigger g WHERE g.oid = t.objid) THEN NULL ELSE 'trigger' END
            WHEN 'pg_catalog.pg_policy'::regclass THEN NULL
            WHEN 'pg_catalog.pg_publication_rel'::regclass THEN
                CASE WHEN (SELECT r.prrelid FROM pg_catalog.pg_publication_rel r WHERE r.oid = t.objid) = me.oid THEN NULL ELSE 'publication' END
            WHEN 'pg_catalog.pg_statistic_ext'::regclass THEN
                CASE WHEN (SELECT s.stxrelid FROM pg_catalog.pg_statistic_ext s WHERE s.oid = t.objid) = me.oid THEN NULL ELSE 'extended statistics' END
            WHEN 'pg_catalog.pg_proc'::regclass THEN
                CASE WHEN (SELECT p.prokind FROM pg_catalog.pg_proc p WHERE p.oid = t.objid) = 'a' THEN 'aggregate' END
            WHEN 'pg_catalog.pg_attrdef'::regclass THEN
                CASE WHEN EXISTS (SELECT 1 FROM pg_catalog.pg_attrdef f JOIN pg_catalog.pg_class c ON c.oid = f.adrelid
                         JOIN pg_catalog.pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
                         WHERE f.oid = t.objid AND (c.oid = me.oid OR c.relkind IN ('r', 'p') AND a.attgenerated = '')) THEN NULL
                     ELSE 'default' END
            WHEN 'pg_catalog.pg_class'::regclass THEN
                CASE WHEN t.objid = me.oid THEN NULL
                     WHEN (SELECT c.relispartition FROM pg_catalog.pg_class c WHERE c.oid = t.objid) THEN NULL
                     WHEN (SELECT c.relkind FROM pg_catalog.pg_class c WHERE c.oid = t.objid) IN ('S', 't', 'v') THEN NULL
                     WHEN EXISTS (SELECT 1 FROM pg_catalog.pg_index i WHERE i.indexrelid = t.objid AND i.indrelid = me.oid) THEN NULL
                     WHEN EXISTS (SELECT 1 FROM pg_catalog.pg_inherits h WHERE h.inhrelid = t.objid AND h.inhparent = me.oid) THEN NULL
                     ELSE 'relation' END
            WHEN 'pg_catalog.pg_type'::regclass THEN CASE WHEN t.objid IN (me.reltype, me.array_type) THEN NULL ELSE 'type' END
            ELSE 'object' END AS kind
    FROM ties t, me),
loose AS (
    SELECT 'publication of all' AS kind, 'publication ' || quote_ident(p.pubname) || ' for all tables' AS description
    FROM pg_catalog.pg_publication p WHERE p.puballtables
    UNION ALL
    -- PostgreSQL 15 and later.
    SELECT 'publication of ours', pg_catalog.pg_describe_object(d.classid, d.objid, 0) FROM pg_catalog.pg_depend d
    WHERE d.classid = to_regclass('pg_catalog.pg_publication_namespace') AND d.refclassid = 'pg_catalog.pg_namespace'::regclass
      AND d.refobjid = to_regnamespace('pgrecast')
    UNION ALL
    SELECT 'security label', 'security label of provider ' || s.provider || ' on ' || pg_catalog.pg_describe_object(s.classoid, s.objoid, s.objsubid)
    FROM pg_catalog.pg_seclabel s, me
    WHERE s.classoid = 'pg_catalog.pg_class'::regclass AND (s.objoid = me.oid OR s.objoid IN (
            SELECT q.oid FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class q ON q.oid = d.objid AND q.relkind = 'S'
            WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
              AND d.refobjid = me.oid AND d.deptype = 'i'))
       OR s.classoid = 'pg_catalog.pg_type'::regclass AND s.objoid IN (me.reltype, me.array_type)
    UNION ALL
    SELECT 'temporal key', 'constraint ' || quote_ident(k.conname) FROM pg_catalog.pg_constraint k, me
    WHERE k.conrelid = me.oid AND pg_catalog.pg_get_constraintdef(k.oid) LIKE '%WITHOUT OVERLAPS)%'
    UNION ALL
    -- A whole row is spelled with the table's name, which the shadow has not.
    SELECT 'whole row', pg_catalog.pg_describe_object(w.classid, w.objid, 0) || ', which reads whole rows,' FROM me, LATERAL (
        SELECT 'pg_catalog.pg_constraint'::regclass, k.oid, k.conbin::text FROM pg_catalog.pg_constraint k WHERE k.conrelid = me.oid
        UNION ALL
        SELECT 'pg_catalog.pg_class'::regclass, i.indexrelid, concat(i.indexprs, i.indpred) FROM pg_catalog.pg_index i WHERE i.indrelid = me.oid
        UNION ALL
        SELECT 'pg_catalog.pg_statistic_ext'::regclass, s.oid, s.stxexprs::text FROM pg_catalog.pg_statistic_ext s WHERE s.stxrelid = me.oid
    ) AS w (classid, objid, expression) WHERE w.expression LIKE '%:varattno 0 %'
    UNION ALL
    SELECT 'row type', 'comment on row type ' || pg_catalog.format_type(me.reltype, NULL) FROM me
    WHERE pg_catalog.obj_description(me.reltype, 'pg_type') IS NOT NULL
    UNION ALL
    SELECT 'row type', 'privilege on row type ' || pg_catalog.format_type(y.oid, NULL) FROM pg_catalog.pg_type y, me
    WHERE y.oid = me.reltype AND (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(y.typacl) AS a)
        <> (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(acldefault('T', y.typowner)) AS a)
    UNION ALL
    -- Its state is by the table's oid, and what a subscription does not know it does not apply.
    SELECT 'subscription', pg_catalog.pg_describe_object('pg_catalog.pg_subscription'::regclass, r.srsubid, 0)
    FROM pg_catalog.pg_subscription_rel r, me WHERE r.srrelid = me.oid
    UNION ALL
    SELECT 'dependence on an extension', pg_catalog.pg_describe_object(d.classid, d.objid, 0) || ', which depends on '
        || pg_catalog.pg_describe_object(d.refclassid, d.refobjid, 0) || ','
    FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_index i ON i.indexrelid = d.objid, me
    WHERE i.indrelid = me.oid AND d.classid = 'pg_catalog.pg_class'::regclass AND d.deptype = 'x'
    UNION ALL
    SELECT 'extension membership', 'extension ' || quote_ident(e.extname) FROM pg_catalog.pg_depend d
    JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid, me
    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = me.oid AND d.deptype = 'e')
SELECT json_build_object('kind', kind, 'description', description) FROM (
    SELECT kind, description FROM named WHERE kind IS NOT NULL UNION SELECT kind, description FROM loose) AS everything
ORDER BY kind, description";

#[derive(serde::Deserialize)]
struct Dependent {
    kind: String,
    description: String,
}

pub(super) async fn findings(conn: &Conn, oid: u32) -> Result<Vec<Finding>, Failure> {
    let rows = conn.simple("find dependents", &DEPENDENTS.replace("$1", &oid.to_string())).await?;
    let mut found = Vec::new();
    for text in rows.into_iter().filter_map(|r| r.into_iter().next().flatten()) {
        let d: Dependent = serde_json::from_str(&text)
            .map_err(|e| Failure::failed(format!("find dependents: unexpected catalog content: {e}")))?;
        let trouble = match d.kind.as_str() {
            "publication of all" | "publication of ours" => "has the shadow in it, which no subscriber has",
            _ => "is tied to the table and would not be carried",
        };
        found.push(Finding::new(format!("{} {trouble}", d.description), hint(&d.kind)));
    }
    Ok(found)
}

fn hint(kind: &str) -> &'static str {
    match kind {
        "materialized view" => "It goes by the table's row type: drop it and create it again afterwards.",
        "publication of all" => {
            "Publish tables by name or by schema instead: a publication of all tables cannot leave one out."
        }
        "publication of ours" => {
            "Take schema pgrecast out of the publication: ALTER PUBLICATION … DROP TABLES IN SCHEMA."
        }
        "row type" => {
            "No dump has it either: take it away first (COMMENT ON TYPE … IS NULL, GRANT USAGE ON TYPE … TO PUBLIC)."
        }
        "whole row" => "Let it name the columns, or drop it and create it again afterwards.",
        "subscription" => {
            "A subscription writes to the table it was made for: drop it, or take the table out of it for the time."
        }
        "dependence on an extension" => "ALTER INDEX … NO DEPENDS ON EXTENSION for the time.",
        "default" => "It cannot be set again without a rewrite: drop the column or its default first.",
        "temporal key" => "This version does not carry keys WITHOUT OVERLAPS.",
        "security label" => {
            "Only its provider may set a label, and it need not let this role: take it off, and set it again afterwards."
        }
        "extension membership" => "A table of an extension cannot be replaced.",
        _ => "This version carries neither it nor its kind: drop it and create it again afterwards.",
    }
}
