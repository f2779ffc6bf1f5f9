//! Reads a table's [`Shape`] from the catalog.
//!
//! The session must have an empty `search_path`, so that `format_type`, `pg_get_expr` and their kin qualify every
//! name (PostgreSQL manual, 9.27.7 "System Information Functions").

use std::collections::HashMap;

use serde::de::DeserializeOwned;

use super::kin::Kin;
use super::shape::{Check, Column, Index, Shape};
use crate::error::Failure;
use crate::pg::{Conn, QualifiedName};

/// Reads the shape of the table with this oid.
pub async fn shape(conn: &Conn, oid: u32) -> Result<Shape, Failure> {
    Ok(Shape { kin: Kin::read(conn, oid).await?, ..without_kin(conn, oid).await? })
}

/// The same without its kin.
pub async fn without_kin(conn: &Conn, oid: u32) -> Result<Shape, Failure> {
    many(conn, &[oid]).await?.pop().ok_or_else(|| nothing("read table"))
}

/// The same of several tables, in their order: each statement is planned once for all of them.
pub async fn many(conn: &Conn, oids: &[u32]) -> Result<Vec<Shape>, Failure> {
    if oids.is_empty() {
        return Ok(Vec::new());
    }
    let mut heads: Each<Head> = each(conn, "read table", HEAD, oids).await?;
    let mut columns: Each<Vec<Column>> = each(conn, "read columns", COLUMNS, oids).await?;
    let mut checks: Each<Vec<Check>> = each(conn, "read checks", CHECKS, oids).await?;
    let mut indexes: Each<Vec<RawIndex>> = each(conn, "read indexes", INDEXES, oids).await?;
    let shape = |oid: &u32| {
        let head = taken(&mut heads, *oid, "read table")?;
        let indexes = taken(&mut indexes, *oid, "read indexes")?;
        Ok(Shape {
            oid: *oid,
            name: QualifiedName::new(head.schema, head.name),
            owner: head.owner,
            access_method: head.access_method,
            partition_key: head.partition_key,
            tablespace: head.tablespace,
            options: head.options,
            columns: taken(&mut columns, *oid, "read columns")?,
            checks: taken(&mut checks, *oid, "read checks")?,
            indexes: indexes.into_iter().map(RawIndex::cook).collect::<Result<Vec<_>, _>>()?,
            replica_identity: head.replica_identity,
            comment: head.comment,
            kin: Kin::default(),
        })
    };
    oids.iter().map(shape).collect()
}

/// What a statement says of each table; nothing of one that is gone.
type Each<T> = HashMap<u32, Option<T>>;

/// Runs a statement for each table, whose oid is `$1` in it.
async fn each<T: DeserializeOwned>(
    conn: &Conn,
    name: &'static str,
    sql: &str,
    oids: &[u32],
) -> Result<Each<T>, Failure> {
    let list = oids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let sql = format!(
        "SELECT json_object_agg(wanted.oid, ({})) FROM unnest('{{{list}}}'::oid[]) AS wanted(oid)",
        sql.replace("$1", "wanted.oid")
    );
    json(conn, name, &sql).await
}

fn taken<T>(each: &mut Each<T>, oid: u32, name: &str) -> Result<T, Failure> {
    each.get_mut(&oid).and_then(Option::take).ok_or_else(|| nothing(name))
}

fn nothing(name: &str) -> Failure {
    Failure::failed(format!("{name}: the catalog gave no row")).hint("The table may just have been dropped.")
}

/// Runs a statement whose single value is JSON, and reads it.
pub async fn json<T: DeserializeOwned>(conn: &Conn, name: &'static str, sql: &str) -> Result<T, Failure> {
    let text = conn.scalar(name, sql).await?.ok_or_else(|| nothing(name))?;
    serde_json::from_str(&text).map_err(|e| Failure::failed(format!("{name}: unexpected catalog content: {e}")))
}

#[derive(serde::Deserialize)]
struct Head {
    schema: String,
    name: String,
    owner: String,
    access_method: String,
    partition_key: Option<String>,
    tablespace: Option<String>,
    options: Vec<String>,
    replica_identity: char,
    comment: Option<String>,
}

const HEAD: &str = "
SELECT json_build_object(
    'schema', n.nspname, 'name', c.relname, 'owner', pg_catalog.pg_get_userbyid(c.relowner),
    'access_method', coalesce(am.amname, CASE c.relkind WHEN 'p' THEN '' ELSE 'heap' END),
    'partition_key', pg_catalog.pg_get_partkeydef(c.oid), 'tablespace', ts.spcname,
    'options', (SELECT coalesce(json_agg(o), '[]') FROM (
        SELECT unnest(c.reloptions) AS o UNION ALL SELECT 'toast.' || unnest(tc.reloptions)) AS opts),
    'replica_identity', c.relreplident, 'comment', pg_catalog.obj_description(c.oid, 'pg_class'))
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam
LEFT JOIN pg_catalog.pg_tablespace ts ON ts.oid = c.reltablespace
LEFT JOIN pg_catalog.pg_class tc ON tc.oid = c.reltoastrelid
WHERE c.oid = $1";

const COLUMNS: &str = "
SELECT coalesce(json_agg(json_build_object(
    'number', a.attnum, 'name', a.attname, 'inherited', a.attinhcount > 0 AND NOT a.attislocal,
    'type_sql', pg_catalog.format_type(a.atttypid, a.atttypmod),
    'base_type_sql', pg_catalog.format_type(a.atttypid, -1),
    'type_oid', a.atttypid::int8,
    'collation', CASE WHEN a.attcollation <> t.typcollation THEN
        (SELECT quote_ident(cn.nspname) || '.' || quote_ident(co.collname) FROM pg_catalog.pg_collation co
         JOIN pg_catalog.pg_namespace cn ON cn.oid = co.collnamespace WHERE co.oid = a.attcollation) END,
    'not_null', a.attnotnull AND coalesce(nn.convalidated, true),
    'not_null_name', nn.conname, 'not_null_no_inherit', coalesce(nn.connoinherit, false),
    'not_null_own', coalesce(nn.conislocal, false),
    'not_null_comment', pg_catalog.obj_description(nn.oid, 'pg_constraint'),
    'default', pg_catalog.pg_get_expr(d.adbin, d.adrelid),
    'origin', CASE WHEN a.attgenerated = 's' THEN 'Stored' WHEN a.attgenerated = 'v' THEN 'Virtual'
        WHEN a.attidentity = 'a' THEN 'IdentityAlways' WHEN a.attidentity = 'd' THEN 'IdentityByDefault'
        ELSE 'Plain' END,
    'storage', CASE WHEN a.attstorage <> t.typstorage THEN CASE a.attstorage WHEN 'p' THEN 'PLAIN'
        WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' WHEN 'x' THEN 'EXTENDED' END END,
    'compression', CASE a.attcompression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' END,
    'statistics', nullif(a.attstattarget::int, -1),
    'options', (SELECT coalesce(json_agg(o), '[]') FROM unnest(a.attoptions) AS o WHERE starts_with(o, 'n_distinct')),
    'comment', pg_catalog.col_description(a.attrelid, a.attnum),
    'sequence', (SELECT json_build_object(
        'name', json_build_object('schema', sn.nspname, 'name', sc.relname),
        'type_sql', pg_catalog.format_type(s.seqtypid, NULL), 'start', s.seqstart, 'increment', s.seqincrement,
        'min', s.seqmin, 'max', s.seqmax, 'cache', s.seqcache, 'cycle', s.seqcycle,
        'comment', pg_catalog.obj_description(sc.oid, 'pg_class'))
        FROM pg_catalog.pg_depend dep
        JOIN pg_catalog.pg_class sc ON sc.oid = dep.objid AND sc.relkind = 'S'
        JOIN pg_catalog.pg_namespace sn ON sn.oid = sc.relnamespace
        JOIN pg_catalog.pg_sequence s ON s.seqrelid = sc.oid
        WHERE dep.classid = 'pg_catalog.pg_class'::regclass AND dep.refclassid = 'pg_catalog.pg_class'::regclass
          AND dep.refobjid = a.attrelid AND dep.refobjsubid = a.attnum AND dep.deptype IN ('a', 'i')
        ORDER BY dep.deptype DESC, sc.oid LIMIT 1)
    ) ORDER BY a.attnum), '[]')
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
LEFT JOIN pg_catalog.pg_constraint nn ON nn.conrelid = a.attrelid AND nn.contype = 'n' AND nn.conkey[1] = a.attnum
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped";

const CHECKS: &str = "
SELECT coalesce(json_agg(json_build_object(
    'name', k.conname, 'definition', pg_catalog.pg_get_constraintdef(k.oid), 'validated', k.convalidated,
    'inherited', k.coninhcount > 0 AND NOT k.conislocal,
    'comment', pg_catalog.obj_description(k.oid, 'pg_constraint')) ORDER BY k.conname), '[]')
FROM pg_catalog.pg_constraint k
WHERE k.conrelid = $1 AND (k.contype = 'c' OR k.contype = 'n' AND NOT k.convalidated)";

/// An index as the catalog gives it: the definition still names the table.
#[derive(serde::Deserialize)]
struct RawIndex {
    definition: String,
    #[serde(flatten)]
    index: IndexRest,
}

#[derive(serde::Deserialize)]
struct IndexRest {
    name: String,
    unique: bool,
    immediate: bool,
    partial: bool,
    keys: Vec<Option<String>>,
    tablespace: Option<String>,
    constraint: Option<super::shape::Constraint>,
    parent: Option<String>,
    clustered: bool,
    replica_identity: bool,
    statistics: Vec<(i16, i32)>,
    comment: Option<String>,
    bytes: i64,
}

impl RawIndex {
    fn cook(self) -> Result<Index, Failure> {
        let i = self.index;
        Ok(Index {
            definition: after_table_name(&self.definition)?,
            name: i.name,
            unique: i.unique,
            immediate: i.immediate,
            partial: i.partial,
            keys: i.keys,
            tablespace: i.tablespace,
            constraint: i.constraint,
            parent: i.parent,
            clustered: i.clustered,
            replica_identity: i.replica_identity,
            statistics: i.statistics,
            comment: i.comment,
            bytes: i.bytes,
        })
    }
}

/// The part of `CREATE INDEX … ON table USING …` from the key word USING on, found with the server's own scanner.
fn after_table_name(definition: &str) -> Result<String, Failure> {
    let scanned = pg_query::scan(definition)
        .map_err(|e| Failure::failed(format!("cannot read the index definition {definition}: {e}")))?;
    scanned
        .tokens
        .iter()
        .find(|t| t.token == pg_query::protobuf::Token::Using as i32)
        .and_then(|t| usize::try_from(t.start).ok())
        .and_then(|start| definition.get(start..))
        .map(str::to_owned)
        .ok_or_else(|| Failure::failed(format!("cannot read the index definition {definition}")))
}

const INDEXES: &str = "
SELECT coalesce(json_agg(json_build_object(
    'name', ic.relname, 'definition', pg_catalog.pg_get_indexdef(i.indexrelid),
    'unique', i.indisunique, 'immediate', i.indimmediate, 'partial', i.indpred IS NOT NULL,
    'keys', (SELECT json_agg(CASE WHEN k.attnum > 0 THEN (SELECT a.attname FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = i.indrelid AND a.attnum = k.attnum) END ORDER BY k.ord)
             FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, ord) WHERE k.ord <= i.indnkeyatts),
    'tablespace', ts.spcname,
    'constraint', (SELECT json_build_object(
        'kind', CASE k.contype WHEN 'p' THEN 'Primary' WHEN 'u' THEN 'Unique' ELSE 'Exclusion' END,
        'definition', pg_catalog.pg_get_constraintdef(k.oid), 'deferrable', k.condeferrable, 'deferred', k.condeferred,
        'comment', pg_catalog.obj_description(k.oid, 'pg_constraint'))
        FROM pg_catalog.pg_constraint k WHERE k.conindid = i.indexrelid AND k.conrelid = i.indrelid
          AND k.contype IN ('p', 'u', 'x')),
    'parent', (SELECT pc.relname FROM pg_catalog.pg_inherits h JOIN pg_catalog.pg_class pc ON pc.oid = h.inhparent
        WHERE h.inhrelid = i.indexrelid),
    'clustered', i.indisclustered, 'replica_identity', i.indisreplident,
    'statistics', (SELECT coalesce(json_agg(json_build_array(a.attnum, a.attstattarget::int)), '[]')
        FROM pg_catalog.pg_attribute a WHERE a.attrelid = i.indexrelid AND a.attstattarget::int >= 0),
    'comment', pg_catalog.obj_description(ic.oid, 'pg_class'),
    'bytes', pg_catalog.pg_relation_size(ic.oid)) ORDER BY i.indisprimary DESC, ic.relname), '[]')
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
LEFT JOIN pg_catalog.pg_tablespace ts ON ts.oid = ic.reltablespace
WHERE i.indrelid = $1 AND i.indisvalid";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_definition_is_cut_behind_the_table_name() {
        let text = r#"CREATE UNIQUE INDEX "USING" ON public."a USING b" USING btree (x) WHERE (y > 'USING')"#;
        assert_eq!(after_table_name(text).ok().as_deref(), Some("USING btree (x) WHERE (y > 'USING')"));
    }
}
