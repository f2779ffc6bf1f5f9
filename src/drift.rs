//! Is the source still the table that was planned? (Rule 11.)

use crate::error::Failure;
use crate::pg::{Conn, Error, Literal};
use crate::plan::shape::Shape;
use crate::plan::tree::{self, Branch};
use crate::plan::types::Plan;

/// The text of the error where the source is no longer the table of the plan.
pub const DRIFTED: &str = "the source's columns are not those of the plan";

/// What a transaction compares before it relies on the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// `pg_relation_filenode`: changes with TRUNCATE, VACUUM FULL, CLUSTER and a rewriting ALTER TABLE.
    pub filenode: u32,
    /// Oid, and name, type and nullability of every column; of a partitioned table its partitions too.
    pub columns: String,
}

/// SQL whose one row is the fingerprint of the table of that name: (filenode, columns).
pub fn sql(source: &Shape) -> String {
    let partitions = match source.is_partitioned() {
        true => {
            " || (SELECT ';' || coalesce(string_agg(concat_ws(' ', t.relid::oid, t.parentrelid::oid), ',' ORDER BY t.relid::oid), '') \
             FROM pg_catalog.pg_partition_tree(c.oid) t)"
        }
        false => "",
    };
    format!(
        "SELECT coalesce(pg_catalog.pg_relation_filenode(c.oid), 0)::text, c.oid || ';' || (SELECT string_agg(concat_ws(' ', a.attnum, a.attname, a.atttypid, \
         a.atttypmod, a.attcollation, a.attnotnull), ',' ORDER BY a.attnum) FROM pg_catalog.pg_attribute a \
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped){partitions} \
         FROM pg_catalog.pg_class c WHERE c.oid = {}::regclass",
        Literal(&source.name.to_string())
    )
}

/// The same of a plan's source, with the columns of the tables beside it.
pub fn plan_sql(plan: &Plan) -> String {
    let beside = plan.besides().iter().map(|beside| {
        format!(" || (SELECT ';' || beside.columns FROM ({}) AS beside(filenode, columns))", sql(&beside.shape))
    });
    match plan.besides().is_empty() {
        true => sql(&plan.source),
        false => format!(
            "SELECT source.filenode, source.columns{} FROM ({}) AS source(filenode, columns)",
            beside.collect::<String>(),
            sql(&plan.source)
        ),
    }
}

/// Reads the fingerprint.
///
/// # Errors
/// `undefined_table` where the source is gone.
pub async fn read(conn: &Conn, source: &Shape) -> Result<Fingerprint, Error> {
    fingerprint(conn, &sql(source)).await
}

/// The same of a plan's source, with the tables beside it.
///
/// # Errors
/// `undefined_table` where one of them is gone.
pub async fn read_all(conn: &Conn, plan: &Plan) -> Result<Fingerprint, Error> {
    fingerprint(conn, &plan_sql(plan)).await
}

async fn fingerprint(conn: &Conn, sql: &str) -> Result<Fingerprint, Error> {
    let rows = conn.simple("check source", sql).await?;
    let row = rows.into_iter().next().unwrap_or_default();
    let text = |i: usize| row.get(i).cloned().flatten().unwrap_or_default();
    Ok(Fingerprint { filenode: text(0).parse().unwrap_or(0), columns: text(1) })
}

/// The whole shape must still be the planned one, that of every partition too: an index or a comment made meanwhile
/// would be lost.
///
/// # Errors
/// [`changed`], with what differs.
pub async fn check(conn: &Conn, plan: &Plan) -> Result<(), Failure> {
    let source = &plan.source;
    check_alone(conn, source).await?;
    for beside in plan.besides() {
        check_alone(conn, &beside.shape).await?;
    }
    if !source.is_partitioned() {
        return Ok(());
    }
    let places = tree::places(conn, source.oid).await?;
    let parent = |n: Option<usize>| n.map_or(source.oid, |n| plan.partitions[n].branch.shape.oid);
    let planned = |p: &tree::Place| {
        let same = |b: &Branch| b.shape.oid == p.oid && parent(b.parent) == p.parent && b.bound == p.bound;
        plan.partitions.iter().any(|q| same(&q.branch))
    };
    if places.len() != plan.partitions.len() || !places.iter().all(planned) {
        return Err(changed(source).detail("Changed: its partitions."));
    }
    let partitions: Vec<&Shape> = plan.partitions.iter().map(|partition| &partition.branch.shape).collect();
    let oids: Vec<u32> = partitions.iter().map(|shape| shape.oid).collect();
    let now = tree::partitions(conn, &oids).await.map_err(|f| unread(f, source))?;
    partitions.iter().zip(&now).try_for_each(|(planned, now)| compare(source, planned, now))
}

async fn check_alone(conn: &Conn, planned: &Shape) -> Result<(), Failure> {
    let now = tree::alone(conn, planned.oid).await.map_err(|f| unread(f, planned))?;
    compare(planned, planned, &now)
}

/// What the catalog does not know is gone; another failure is that of asking.
fn unread(failure: Failure, source: &Shape) -> Failure {
    match failure.source {
        Some(_) => failure,
        None => changed(source),
    }
}

fn compare(source: &Shape, planned: &Shape, now: &Shape) -> Result<(), Failure> {
    // Sizes change, and the identity may be the one prepare set.
    let still = |shape: &Shape| {
        let mut shape = shape.clone();
        shape.replica_identity = 'd';
        for index in &mut shape.indexes {
            index.bytes = 0;
            index.replica_identity = false;
        }
        // Children are carried as they are then.
        shape.kin = shape.kin.without_children();
        shape
    };
    let (was, is) = (still(planned), still(now));
    let same_standing = planned.kin.is_parent() == now.kin.is_parent();
    if was == is && same_standing {
        return Ok(());
    }
    let of = if planned.oid == source.oid { String::new() } else { format!(" of partition {}", planned.name.plain()) };
    Err(changed(source).detail(format!("Changed: {}{of}.", differences(&was, &is, same_standing))))
}

fn differences(was: &Shape, is: &Shape, same_standing: bool) -> String {
    let mut what = Vec::new();
    if was.name != is.name {
        what.push(format!("its name, now {}", is.name.plain()));
    }
    let names = |s: &Shape| s.indexes.iter().map(|i| i.name.clone()).collect::<Vec<_>>();
    if was.columns != is.columns {
        what.push("its columns".to_owned());
    }
    if was.checks != is.checks {
        what.push("its CHECK constraints".to_owned());
    }
    if was.indexes != is.indexes {
        let differ: Vec<String> = names(was)
            .into_iter()
            .chain(names(is))
            .filter(|n| was.indexes.iter().find(|i| i.name == *n) != is.indexes.iter().find(|i| i.name == *n))
            .collect();
        what.push(format!("its indexes ({})", differ.join(", ")));
    }
    if was.kin != is.kin || !same_standing {
        what.push("its place among the tables it is related to".to_owned());
    }
    if what.is_empty() {
        what.push("its owner, options or comment".to_owned());
    }
    what.join(", ")
}

/// Things nobody's lock keeps away (GRANT, CREATE VIEW, CREATE OR REPLACE FUNCTION) were not done since this was read: a mark
/// of the grants and of everything that depends on the table or its partitions, and of the views above it and what they
/// consist of. What is replaced keeps its oid and gets another `xmin`; a function is made again with its comment, and
/// must have no dependents of its own.
pub fn ties_sql(plan: &Plan) -> String {
    format!(
        "{above} SELECT concat_ws(';', (SELECT string_agg(concat_ws(' ', oid, relacl), ',' ORDER BY oid) FROM pg_catalog.pg_class WHERE oid IN ({0})), \
         (SELECT string_agg(concat_ws(' ', attrelid, attnum, attacl), ',' ORDER BY attrelid, attnum) FROM pg_catalog.pg_attribute WHERE attrelid IN ({0}) AND attacl IS NOT NULL), \
         (SELECT md5(string_agg(concat_ws(' ', classid, objid, objsubid, refobjid, refobjsubid, p.xmin, w.xmin, y.xmin, \
              pg_catalog.obj_description(p.oid, 'pg_proc'), \
              (SELECT string_agg(concat_ws(' ', o.classid, o.objid), ' ' ORDER BY o.classid, o.objid) FROM pg_catalog.pg_depend o \
               WHERE o.refclassid = 'pg_catalog.pg_proc'::regclass AND o.refobjid = p.oid)), ',' \
              ORDER BY classid, objid, objsubid, refobjid, refobjsubid)) \
          FROM pg_catalog.pg_depend \
          LEFT JOIN pg_catalog.pg_proc p ON classid = 'pg_catalog.pg_proc'::regclass AND p.oid = objid \
          LEFT JOIN pg_catalog.pg_rewrite w ON classid = 'pg_catalog.pg_rewrite'::regclass AND w.oid = objid \
          LEFT JOIN pg_catalog.pg_policy y ON classid = 'pg_catalog.pg_policy'::regclass AND y.oid = objid WHERE (refclassid = 'pg_catalog.pg_class'::regclass AND refobjid IN ({0})) \
          OR (refclassid = 'pg_catalog.pg_type'::regclass AND refobjid IN (SELECT t.oid FROM pg_catalog.pg_type t \
              JOIN pg_catalog.pg_class c ON t.oid = c.reltype OR t.typelem = c.reltype WHERE c.oid IN ({0}) AND c.reltype <> 0))), \
         {VIEWS})",
        plan.oids(),
        above = ABOVE.replace("$1", &plan.source.oid.to_string()),
    )
}

/// Views on the source and on those views.
const ABOVE: &str = "WITH RECURSIVE above AS (SELECT $1::oid AS oid UNION \
    SELECT w.ev_class FROM above a JOIN pg_catalog.pg_depend d \
    ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = a.oid AND d.classid = 'pg_catalog.pg_rewrite'::regclass \
    JOIN pg_catalog.pg_rewrite w ON w.oid = d.objid AND w.rulename = '_RETURN'), \
    views AS (SELECT oid FROM above WHERE oid <> $1)";

/// A mark of theirs: a REFRESH writes the row of `pg_class`, and whatever shapes one a row of the others.
const VIEWS: &str = "(SELECT md5(string_agg(concat_ws(' ', c.oid, c.xmin), ',' ORDER BY c.oid)) FROM pg_catalog.pg_class c \
      WHERE c.oid IN (SELECT oid FROM views)), \
    (SELECT md5(string_agg(concat_ws(' ', a.attrelid, a.attnum, a.xmin), ',' ORDER BY a.attrelid, a.attnum)) \
      FROM pg_catalog.pg_attribute a WHERE a.attrelid IN (SELECT oid FROM views)), \
    (SELECT md5(string_agg(concat_ws(' ', w.oid, w.xmin), ',' ORDER BY w.oid)) FROM pg_catalog.pg_rewrite w \
      WHERE w.ev_class IN (SELECT oid FROM views)), \
    (SELECT md5(string_agg(concat_ws(' ', i.indexrelid, i.xmin, c.xmin), ',' ORDER BY i.indexrelid)) FROM pg_catalog.pg_index i \
      JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid WHERE i.indrelid IN (SELECT oid FROM views)), \
    (SELECT md5(string_agg(concat_ws(' ', s.objoid, s.objsubid, s.description), ',' ORDER BY s.objoid, s.objsubid)) \
      FROM pg_catalog.pg_description s WHERE s.classoid = 'pg_catalog.pg_class'::regclass AND s.objoid IN (SELECT oid FROM views)), \
    (SELECT md5(string_agg(concat_ws(' ', d.classid, d.objid, d.objsubid, d.refobjid, d.refobjsubid), ',' \
      ORDER BY d.classid, d.objid, d.objsubid, d.refobjid, d.refobjsubid)) FROM pg_catalog.pg_depend d \
      WHERE d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid IN (SELECT oid FROM views))";

/// The error for a source whose columns are no longer those of the plan.
pub fn changed(source: &Shape) -> Failure {
    Failure::failed(format!("table {} was changed by somebody else during the migration", source.name.plain()))
        .detail("Its columns, or the table behind the name, are not those the plan was made for.")
        .hint("Run pgrecast abort, then start the migration again.")
}

/// The error for a source that was rewritten while it was copied.
pub fn rewritten(source: &Shape) -> Failure {
    Failure::failed(format!("table {} was rewritten by somebody else while it was copied", source.name.plain()))
        .detail(
            "Its file is another one, as after VACUUM FULL or CLUSTER, so the block ranges copied so far mean nothing.",
        )
        .hint("Run pgrecast abort, then start the migration again.")
}
