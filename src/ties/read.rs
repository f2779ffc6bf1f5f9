//! The catalog's side of [`Ties`]: one query a kind, each giving JSON. Read under an empty search path, so every name in
//! every text is qualified.

use super::defaults::{self, OtherDefault};
use super::functions::{self, Function};
use super::sequences::{self, OwnedSequence};
use super::stored;
use super::{ForeignKey, Policy, Publication, Rule, Security, Statistics, Ties, Trigger, View};
use crate::error::Failure;
use crate::pg::{Conn, Literal};
use crate::plan::kin::Kin;
use crate::plan::read::json;
use crate::preflight::Obstacle;

/// Reads all ties of the table with this oid. `publication` is the migration's own, and no tie.
pub(super) async fn ties(conn: &Conn, oid: u32, publication: &str, version: u32) -> Result<Ties, Failure> {
    // Row filters came with 15; a stored expression has no cast that would hide the column.
    let filter = if version >= 150_000 { "pg_catalog.pg_get_expr(r.prqual, r.prrelid)" } else { "NULL" };
    let publication = Literal(publication).to_string();
    let oid_text = oid.to_string();
    let sql = |text: &str| text.replace("$1", &oid_text).replace("$2", &publication).replace("$3", filter);
    let with_mentions = |text: &str, class, object| sql(&text.replace("$mentions", &mentions(class, object, "$1")));
    let foreign: Vec<ForeignKey> = json(conn, "read foreign keys", &sql(FOREIGN_KEYS)).await?;
    let (outgoing, incoming) = foreign.into_iter().partition(|k| k.table.oid == oid);
    let triggers: Vec<Trigger> = json(conn, "read triggers", &triggers_of(oid)).await?;
    let rules: Vec<Rule> = json(conn, "read rules", &with_mentions(RULES, "pg_rewrite", "w.oid")).await?;
    let policies: Vec<Policy> = json(conn, "read policies", &with_mentions(POLICIES, "pg_policy", "p.oid")).await?;
    let security: Security = json(conn, "read row security", &sql(SECURITY)).await?;
    let statistics = statistics(conn, oid).await?;
    let publications = with_mentions(PUBLICATIONS, "pg_publication_rel", "r.oid");
    let publications: Vec<Publication> = json(conn, "read publications", &publications).await?;
    let schema_publications: Vec<String> = match version {
        150_000.. => json(conn, "read publications of schema", &sql(SCHEMA_PUBLICATIONS)).await?,
        _ => Vec::new(),
    };
    let unrooted: Vec<String> = json(conn, "read publications by leaf", &sql(&unrooted(version))).await?;
    let published_above: Vec<String> = json(conn, "read publications above", &sql(PUBLISHED_ABOVE)).await?;
    let with_obstacles = VIEWS.replace("$obstacle", &Obstacle::sql(version));
    let mut views: Vec<View> = json(conn, "read views", &sql(&with_obstacles)).await?;
    for view in &mut views {
        view.triggers = json(conn, "read triggers of view", &triggers_of(view.oid)).await?;
        if view.kind == 'm' {
            view.stored = Some(stored::read(conn, view.oid).await?);
        }
    }
    // Membership without SET came with 16.
    let give = if version >= 160_000 { "SET" } else { "MEMBER" };
    let functions = with_mentions(
        &functions::QUERY.replace("$give", give).replace("$obstacle", &Obstacle::sql(version)),
        "pg_proc",
        "p.oid",
    );
    let functions: Vec<Function> = json(conn, "read functions", &functions).await?;
    let defaults: Vec<OtherDefault> = json(conn, "read defaults", &sql(defaults::QUERY)).await?;
    let sequences: Vec<OwnedSequence> = json(conn, "read sequences", &sql(sequences::QUERY)).await?;
    let kin = Kin::read(conn, oid).await?;
    Ok(Ties {
        outgoing,
        incoming,
        triggers,
        rules,
        policies,
        security,
        statistics,
        publications,
        schema_publications,
        unrooted,
        published_above,
        views,
        former: None,
        functions,
        defaults,
        sequences,
        kin,
    })
}

/// Extended statistics over this table or materialized view.
pub(super) async fn statistics(conn: &Conn, oid: u32) -> Result<Vec<Statistics>, Failure> {
    let sql = STATISTICS.replace("$mentions", &mentions("pg_statistic_ext", "s.oid", "$1"));
    json(conn, "read extended statistics", &sql.replace("$1", &oid.to_string())).await
}

/// SQL for the names of a table's columns that an object of this catalog depends on, as JSON.
fn mentions(class: &str, object: &str, table: &str) -> String {
    format!(
        "(SELECT coalesce(json_agg(DISTINCT a.attname), '[]') FROM pg_catalog.pg_depend d \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid \
         WHERE d.classid = 'pg_catalog.{class}'::regclass AND d.objid = {object} \
         AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = {table} AND d.refobjsubid > 0)"
    )
}

/// The query for the triggers of a table or view.
fn triggers_of(oid: u32) -> String {
    TRIGGERS.replace("$mentions", &mentions("pg_trigger", "g.oid", "g.tgrelid")).replace("$1", &oid.to_string())
}

/// Both ways. Where a partitioned table is at one end, its partitions have a share each: those that refer are listed with
/// the key, those referred to are the server's to make.
const FOREIGN_KEYS: &str = "
SELECT coalesce(json_agg(json_build_object(
    'name', k.conname,
    'table', json_build_object('oid', k.conrelid::int8, 'name', json_build_object('schema', n.nspname, 'name', c.relname),
        'kind', c.relkind, 'referable', true,
        'partitions', (SELECT coalesce(json_agg(p.relid::oid::int8), '[]') FROM pg_catalog.pg_partition_tree(c.oid) p WHERE p.level > 0),
        'owned', pg_catalog.pg_has_role(c.relowner, 'USAGE') AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_partition_tree(c.oid) p
            JOIN pg_catalog.pg_class b ON b.oid = p.relid WHERE NOT pg_catalog.pg_has_role(b.relowner, 'USAGE'))),
    'refers_to', json_build_object('oid', k.confrelid::int8, 'name', json_build_object('schema', fn.nspname, 'name', f.relname),
        'kind', f.relkind, 'owned', pg_catalog.pg_has_role(f.relowner, 'USAGE'),
        'partitions', (SELECT coalesce(json_agg(p.relid::oid::int8), '[]') FROM pg_catalog.pg_partition_tree(f.oid) p WHERE p.level > 0),
        'referable', pg_catalog.has_any_column_privilege(f.oid, 'REFERENCES')),
    'columns', (SELECT json_agg(a.attname ORDER BY x.n) FROM unnest(k.conkey) WITH ORDINALITY AS x(num, n)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = x.num),
    'key', (SELECT json_agg(a.attname ORDER BY x.n) FROM unnest(k.confkey) WITH ORDINALITY AS x(num, n)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = x.num),
    -- What follows the columns referred to; text inside of names cannot look like it, since they are cut off.
    'actions', concat_ws(' ',
        CASE k.confmatchtype WHEN 'f' THEN 'MATCH FULL' WHEN 'p' THEN 'MATCH PARTIAL' END,
        CASE k.confupdtype WHEN 'r' THEN 'ON UPDATE RESTRICT' WHEN 'c' THEN 'ON UPDATE CASCADE'
            WHEN 'n' THEN 'ON UPDATE SET NULL' WHEN 'd' THEN 'ON UPDATE SET DEFAULT' END),
    'on_delete', CASE k.confdeltype WHEN 'r' THEN 'RESTRICT' WHEN 'c' THEN 'CASCADE'
        WHEN 'n' THEN 'SET NULL' WHEN 'd' THEN 'SET DEFAULT' END,
    'on_delete_columns', (SELECT json_agg(a.attname ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = k.conrelid
          AND jsonb_typeof(to_jsonb(k) -> 'confdelsetcols') = 'array' AND to_jsonb(k) -> 'confdelsetcols' @> to_jsonb(a.attnum)),
    'deferrable', k.condeferrable, 'deferred', k.condeferred, 'validated', k.convalidated,
    'enforced', coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true),
    'temporal', coalesce((to_jsonb(k) ->> 'conperiod')::boolean, false),
    'inherited', k.conparentid <> 0,
    'shares', (WITH RECURSIVE share AS (
            SELECT s.oid, s.conrelid, s.conname, s.convalidated, 1 AS depth FROM pg_catalog.pg_constraint s
            WHERE s.conparentid = k.oid AND s.confrelid = k.confrelid
            UNION ALL
            SELECT s.oid, s.conrelid, s.conname, s.convalidated, above.depth + 1 FROM share above
            JOIN pg_catalog.pg_constraint s ON s.conparentid = above.oid AND s.confrelid = k.confrelid)
        SELECT coalesce(json_agg(json_build_object('table', json_build_object('schema', sn.nspname, 'name', sc.relname),
            'kind', sc.relkind, 'name', s.conname, 'validated', s.convalidated,
            'comment', pg_catalog.obj_description(s.oid, 'pg_constraint')) ORDER BY s.depth DESC, sn.nspname, sc.relname), '[]')
        FROM share s JOIN pg_catalog.pg_class sc ON sc.oid = s.conrelid JOIN pg_catalog.pg_namespace sn ON sn.oid = sc.relnamespace),
    'takes_partitions_unseen', current_setting('server_version_num')::int >= 180000,
    'comment', pg_catalog.obj_description(k.oid, 'pg_constraint')) ORDER BY n.nspname, c.relname, k.conname), '[]')
FROM pg_catalog.pg_constraint k
JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_class f ON f.oid = k.confrelid JOIN pg_catalog.pg_namespace fn ON fn.oid = f.relnamespace
WHERE k.contype = 'f' AND (k.conrelid = $1 OR k.confrelid = $1)
  AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_constraint up WHERE up.oid = k.conparentid AND (up.conrelid = $1 OR up.confrelid = $1))";

/// A partition's share of its parent's trigger is internal before 15; one in another state than that is told in any case.
const TRIGGERS: &str = "
SELECT coalesce(json_agg(json_build_object(
    'name', g.tgname, 'definition', pg_catalog.pg_get_triggerdef(g.oid), 'enabled', g.tgenabled, 'above', above.tgenabled,
    'mentions', $mentions, 'inherited', above.tgenabled IS NOT DISTINCT FROM g.tgenabled,
    'comment', pg_catalog.obj_description(g.oid, 'pg_trigger'),
    'extensions', (SELECT coalesce(json_agg(e.extname ORDER BY e.extname), '[]') FROM pg_catalog.pg_depend d
        JOIN pg_catalog.pg_extension e ON d.refclassid = 'pg_catalog.pg_extension'::regclass AND e.oid = d.refobjid
        WHERE d.classid = 'pg_catalog.pg_trigger'::regclass AND d.objid = g.oid AND d.deptype = 'x')) ORDER BY g.tgname), '[]')
FROM pg_catalog.pg_trigger g LEFT JOIN pg_catalog.pg_trigger above ON above.oid = g.tgparentid
-- Before 15 a partition's share of its parent's counts as internal, as those of constraints do.
WHERE g.tgrelid = $1 AND (NOT g.tgisinternal OR g.tgparentid <> 0 AND g.tgconstrindid = 0)";

/// Of the table itself, and those of other relations that mention it.
const RULES: &str = "
SELECT coalesce(json_agg(json_build_object(
    'name', w.rulename, 'own', w.ev_class = $1, 'oid', c.oid::int8, 'of_view', c.relkind = 'v',
    'table', json_build_object('schema', n.nspname, 'name', c.relname), 'owned', pg_catalog.pg_has_role(c.relowner, 'USAGE'),
    'definition', pg_catalog.pg_get_ruledef(w.oid), 'enabled', w.ev_enabled,
    'mentions', $mentions,
    'comment', pg_catalog.obj_description(w.oid, 'pg_rewrite')) ORDER BY w.rulename), '[]')
FROM pg_catalog.pg_rewrite w JOIN pg_catalog.pg_class c ON c.oid = w.ev_class
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE w.rulename <> '_RETURN' AND (w.ev_class = $1 OR EXISTS (
    SELECT 1 FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = w.oid
      AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = $1))";

const POLICIES: &str = "
SELECT coalesce(json_agg(json_build_object(
    'name', p.polname, 'permissive', p.polpermissive, 'own', p.polrelid = $1, 'oid', c.oid::int8,
    'table', json_build_object('schema', n.nspname, 'name', c.relname), 'owned', pg_catalog.pg_has_role(c.relowner, 'USAGE'),
    'command', CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
    'roles', (SELECT coalesce(json_agg(r.rolname ORDER BY r.rolname), '[]') FROM pg_catalog.pg_roles r WHERE r.oid = ANY (p.polroles)),
    'using', pg_catalog.pg_get_expr(p.polqual, p.polrelid), 'check', pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid),
    'mentions', $mentions,
    'comment', pg_catalog.obj_description(p.oid, 'pg_policy')) ORDER BY p.polname), '[]')
FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_class c ON c.oid = p.polrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE p.polrelid = $1 OR EXISTS (
    SELECT 1 FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_policy'::regclass AND d.objid = p.oid
      AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = $1)";

const SECURITY: &str = "
SELECT json_build_object('enabled', c.relrowsecurity, 'forced', c.relforcerowsecurity,
    'hides', pg_catalog.row_security_active(c.oid))
FROM pg_catalog.pg_class c WHERE c.oid = $1";

const STATISTICS: &str = "
SELECT coalesce(json_agg(json_build_object(
    'oid', s.oid::int8, 'name', json_build_object('schema', n.nspname, 'name', s.stxname),
    'owned', pg_catalog.pg_has_role(s.stxowner, 'USAGE'), 'owner', pg_catalog.pg_get_userbyid(s.stxowner),
    'kinds', (SELECT coalesce(json_agg(CASE k WHEN 'd' THEN 'ndistinct' WHEN 'f' THEN 'dependencies' WHEN 'm' THEN 'mcv' END), '[]')
        FROM unnest(s.stxkind) AS k WHERE k IN ('d', 'f', 'm')),
    'columns', pg_catalog.pg_get_statisticsobjdef_columns(s.oid),
    'single', cardinality(s.stxkeys::int2[]) = 0 AND NOT 'd' = ANY (s.stxkind),
    'mentions', $mentions,
    'target', CASE WHEN s.stxstattarget::int >= 0 THEN s.stxstattarget::int END,
    'comment', pg_catalog.obj_description(s.oid, 'pg_statistic_ext')) ORDER BY n.nspname, s.stxname), '[]')
FROM pg_catalog.pg_statistic_ext s JOIN pg_catalog.pg_namespace n ON n.oid = s.stxnamespace
WHERE s.stxrelid = $1";

/// Memberships by name; a publication of all tables or of the schema has none.
const PUBLICATIONS: &str = "
SELECT coalesce(json_agg(json_build_object(
    'name', p.pubname, 'owned', pg_catalog.pg_has_role(p.pubowner, 'USAGE'),
    'columns', (SELECT json_agg(a.attname ORDER BY a.attnum) FROM pg_catalog.pg_attribute a WHERE a.attrelid = $1
        AND jsonb_typeof(to_jsonb(r) -> 'prattrs') = 'array' AND to_jsonb(r) -> 'prattrs' @> to_jsonb(a.attnum)),
    'filter', $3, 'mentions', $mentions) ORDER BY p.pubname), '[]')
FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
WHERE r.prrelid = $1 AND p.pubname <> $2";

/// PostgreSQL 15 and later.
const SCHEMA_PUBLICATIONS: &str = "
SELECT coalesce(json_agg(p.pubname ORDER BY p.pubname), '[]') FROM pg_catalog.pg_publication_namespace s
JOIN pg_catalog.pg_publication p ON p.oid = s.pnpubid JOIN pg_catalog.pg_class c ON c.relnamespace = s.pnnspid
WHERE c.oid = $1";

/// Of the table and of its schema.
fn unrooted(version: u32) -> String {
    let of_schema = match version {
        150_000.. => {
            " OR p.oid IN (SELECT s.pnpubid FROM pg_catalog.pg_publication_namespace s \
             JOIN pg_catalog.pg_class c ON c.relnamespace = s.pnnspid WHERE c.oid = $1)"
        }
        _ => "",
    };
    format!(
        "SELECT coalesce(json_agg(p.pubname ORDER BY p.pubname), '[]') FROM pg_catalog.pg_publication p \
         WHERE NOT p.pubviaroot AND p.pubname <> $2 \
         AND (p.oid IN (SELECT r.prpubid FROM pg_catalog.pg_publication_rel r WHERE r.prrelid = $1){of_schema})"
    )
}

const PUBLISHED_ABOVE: &str = "
SELECT coalesce(json_agg(p.pubname ORDER BY p.pubname), '[]')
FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
WHERE r.prrelid <> $1 AND r.prrelid IN (SELECT a.relid FROM pg_catalog.pg_partition_ancestors($1) a)";

/// Views on the table and on those views, nearest first. What bypasses `pg_depend` or would get lost counts as dependent
/// on a materialized view; its indexes and statistics do not.
const VIEWS: &str = "
WITH RECURSIVE uses AS (
    SELECT DISTINCT w.ev_class AS view, d.refobjid AS used FROM pg_catalog.pg_depend d
    JOIN pg_catalog.pg_rewrite w ON w.oid = d.objid AND w.rulename = '_RETURN'
    JOIN pg_catalog.pg_class c ON c.oid = w.ev_class AND c.relkind IN ('v', 'm')
      -- Those that another migration of ours is making are its own affair.
      AND c.relnamespace IS DISTINCT FROM pg_catalog.to_regnamespace('pgrecast')::oid
    WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
      AND d.refobjid <> w.ev_class
    UNION
    -- One may spell the row type and read no row.
    SELECT w.ev_class, me.oid FROM pg_catalog.pg_class me JOIN pg_catalog.pg_type y ON y.oid = me.reltype
    JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_type'::regclass AND d.refobjid IN (y.oid, y.typarray)
    JOIN pg_catalog.pg_rewrite w ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND w.oid = d.objid AND w.rulename = '_RETURN'
    JOIN pg_catalog.pg_class c ON c.oid = w.ev_class AND c.relkind = 'v'
    WHERE me.oid = $1),
above AS (
    SELECT view, 1 AS depth FROM uses WHERE used = $1
    UNION
    SELECT u.view, a.depth + 1 FROM above a JOIN uses u ON u.used = a.view),
views AS (SELECT view AS oid, max(depth) AS depth FROM above GROUP BY view)
SELECT coalesce(json_agg(json_build_object(
    'oid', c.oid::int8, 'kind', c.relkind, 'name', json_build_object('schema', n.nspname, 'name', c.relname),
    'creatable', pg_catalog.has_schema_privilege(n.oid, 'CREATE') AND (pg_catalog.current_setting('is_superuser')::boolean
        OR pg_catalog.has_schema_privilege(c.relowner, n.oid, 'CREATE')),
    'definition', pg_catalog.pg_get_viewdef(c.oid), 'options', coalesce(to_json(c.reloptions), '[]'),
    'owner', pg_catalog.pg_get_userbyid(c.relowner), 'owned', pg_catalog.pg_has_role(c.relowner, 'USAGE'),
    'direct', EXISTS (SELECT 1 FROM uses u WHERE u.view = c.oid AND u.used = $1),
    'typed', EXISTS (SELECT 1 FROM pg_catalog.pg_attribute a, pg_catalog.pg_type y, pg_catalog.pg_class me
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND me.oid = $1 AND y.oid = me.reltype AND a.atttypid IN (y.oid, y.typarray)),
    'uses', (SELECT coalesce(json_agg(u.used::int8), '[]') FROM uses u JOIN views w ON w.oid = u.used WHERE u.view = c.oid),
    'mentions', (SELECT coalesce(json_agg(DISTINCT a.attname), '[]') FROM pg_catalog.pg_depend d
        JOIN pg_catalog.pg_rewrite w ON w.oid = d.objid AND w.ev_class = c.oid
        JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
          AND d.refobjid = $1 AND d.refobjsubid > 0),
    'comment', pg_catalog.obj_description(c.oid, 'pg_class'),
    'column_comments', (SELECT coalesce(json_agg(json_build_array(a.attname, s.description) ORDER BY a.attnum), '[]')
        FROM pg_catalog.pg_description s JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = s.objsubid
        WHERE s.classoid = 'pg_catalog.pg_class'::regclass AND s.objoid = c.oid AND s.objsubid > 0),
    'defaults', (SELECT coalesce(json_agg(json_build_array(a.attname, pg_catalog.pg_get_expr(d.adbin, d.adrelid)) ORDER BY a.attnum), '[]')
        FROM pg_catalog.pg_attrdef d JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
        WHERE d.adrelid = c.oid),
    'grants', (SELECT coalesce(json_agg(g), '[]') FROM (
        SELECT r.rolname AS grantee, x.privilege_type AS privilege, x.is_grantable AS grantable, NULL::name AS column,
            CASE WHEN x.grantor <> c.relowner THEN pg_catalog.pg_get_userbyid(x.grantor) END AS grantor, $obstacle AS obstacle
        FROM aclexplode(c.relacl) x LEFT JOIN pg_catalog.pg_roles r ON r.oid = x.grantee
        UNION ALL
        SELECT r.rolname, x.privilege_type, x.is_grantable, a.attname,
            CASE WHEN x.grantor <> c.relowner THEN pg_catalog.pg_get_userbyid(x.grantor) END, $obstacle
        FROM pg_catalog.pg_attribute a, aclexplode(a.attacl) x LEFT JOIN pg_catalog.pg_roles r ON r.oid = x.grantee
        WHERE a.attrelid = c.oid AND NOT a.attisdropped) AS g),
    'explicit_grants', c.relacl IS NOT NULL,
    'by_default', (SELECT coalesce(json_agg(DISTINCT r.rolname), '[]') FROM pg_catalog.pg_default_acl da, aclexplode(da.defaclacl) x
        LEFT JOIN pg_catalog.pg_roles r ON r.oid = x.grantee
        WHERE da.defaclobjtype = 'r' AND da.defaclrole = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user)
          AND da.defaclnamespace IN (0, c.relnamespace, pg_catalog.to_regnamespace('pgrecast'))),
    'triggers', '[]'::json,
    'rules', (SELECT coalesce(json_agg(pg_catalog.pg_get_ruledef(w.oid) ORDER BY w.rulename), '[]') FROM pg_catalog.pg_rewrite w
        WHERE w.ev_class = c.oid AND w.rulename <> '_RETURN'),
    'others', (SELECT coalesce(json_agg(DISTINCT o.what), '[]') FROM (
        SELECT pg_catalog.pg_describe_object(d.classid, d.objid, 0)
        FROM pg_catalog.pg_depend d LEFT JOIN pg_catalog.pg_rewrite w
            ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND w.oid = d.objid
        LEFT JOIN pg_catalog.pg_class wc ON wc.oid = w.ev_class
        WHERE (d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = c.oid
            OR d.refclassid = 'pg_catalog.pg_type'::regclass AND d.refobjid IN (SELECT t.oid FROM pg_catalog.pg_type t
                WHERE t.oid = c.reltype OR t.typelem = c.reltype AND c.reltype <> 0))
          AND d.deptype <> 'i' AND coalesce(w.ev_class, 0) <> c.oid
          -- A view's text goes by names; a materialized view is made while its type is the old one's still.
          AND NOT (coalesce(wc.relkind, ' ') IN ('v', 'm') AND w.rulename = '_RETURN'
              AND (wc.relkind = 'v' OR d.refclassid = 'pg_catalog.pg_class'::regclass))
          AND NOT (d.classid = 'pg_catalog.pg_class'::regclass
              AND EXISTS (SELECT 1 FROM pg_catalog.pg_index i WHERE i.indexrelid = d.objid AND i.indrelid = c.oid))
          AND NOT (d.classid = 'pg_catalog.pg_statistic_ext'::regclass
              AND EXISTS (SELECT 1 FROM pg_catalog.pg_statistic_ext s WHERE s.oid = d.objid AND s.stxrelid = c.oid))
          AND d.classid NOT IN ('pg_catalog.pg_attrdef'::regclass, 'pg_catalog.pg_trigger'::regclass)
        UNION ALL
        SELECT 'security label of provider ' || s.provider FROM pg_catalog.pg_seclabel s
        WHERE s.classoid = 'pg_catalog.pg_class'::regclass AND s.objoid = c.oid
        UNION ALL
        SELECT 'its bond with extension ' || quote_ident(e.extname) FROM pg_catalog.pg_depend d
        JOIN pg_catalog.pg_extension e ON d.refclassid = 'pg_catalog.pg_extension'::regclass AND e.oid = d.refobjid
        WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.deptype IN ('e', 'x')
          AND (d.objid = c.oid OR d.objid IN (SELECT i.indexrelid FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid))) AS o(what)))
    ORDER BY v.depth, n.nspname, c.relname), '[]')
FROM views v JOIN pg_catalog.pg_class c ON c.oid = v.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace";
