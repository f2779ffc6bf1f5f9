//! A partitioned table as a tree of shapes: read from the catalog, and written as DDL.
//!
//! As `pg_dump` does it, each table is made by itself, with the order of columns it has, and attached afterwards; so is
//! each index. A table that is not partitioned is a tree of one.

use serde::{Deserialize, Serialize};

use super::ddl::{self, Purpose};
use super::kin;
use super::read;
use super::shape::Shape;
use crate::error::Failure;
use crate::pg::{Conn, QualifiedName};

/// A table and its partitions.
#[derive(Debug, Clone, PartialEq)]
pub struct Tree {
    /// The table.
    pub root: Shape,
    /// Its partitions at every level, parents before children.
    pub branches: Vec<Branch>,
}

impl Tree {
    /// Every table of it, parents before children.
    pub fn shapes(&self) -> impl Iterator<Item = &Shape> {
        std::iter::once(&self.root).chain(self.branches.iter().map(|branch| &branch.shape))
    }
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Branch {
    /// Its shape.
    pub shape: Shape,
    /// Its parent's place among the branches; `None` for a partition of the root.
    pub parent: Option<usize>,
    /// `FOR VALUES …` or `DEFAULT`.
    pub bound: String,
}

/// Where a partition hangs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Place {
    /// Its oid.
    pub oid: u32,
    /// Its parent's.
    pub parent: u32,
    /// `FOR VALUES …` or `DEFAULT`.
    pub bound: String,
}

const PLACES: &str = "
SELECT coalesce(json_agg(json_build_object('oid', t.relid::oid::int8, 'parent', t.parentrelid::oid::int8,
    'bound', pg_catalog.pg_get_expr(c.relpartbound, c.oid)) ORDER BY t.level, n.nspname, c.relname), '[]')
FROM pg_catalog.pg_partition_tree($1) t JOIN pg_catalog.pg_class c ON c.oid = t.relid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE t.level > 0";

/// The partitions of the table with this oid, parents before children; none where it is not partitioned.
pub async fn places(conn: &Conn, oid: u32) -> Result<Vec<Place>, Failure> {
    read::json(conn, "read partitions", &PLACES.replace("$1", &oid.to_string())).await
}

/// Reads a table by itself: where it is a partition, its kin tells its place and what its indexes belong to.
pub async fn alone(conn: &Conn, oid: u32) -> Result<Shape, Failure> {
    let mut shape = read::shape(conn, oid).await?;
    without_parents(&mut shape);
    Ok(shape)
}

/// Forgets which indexes of a partitioned table those of this one belong to.
pub fn without_parents(shape: &mut Shape) {
    shape.indexes.iter_mut().for_each(|index| index.parent = None);
}

/// How many partitions are asked about at a time: a table may have thousands, and the server be far away.
const AT_ONCE: usize = 100;

/// Reads tables as parts of the tree above them, in their order: their places in there are told by the tree.
pub async fn partitions(conn: &Conn, oids: &[u32]) -> Result<Vec<Shape>, Failure> {
    let mut shapes = Vec::with_capacity(oids.len());
    for some in oids.chunks(AT_ONCE) {
        shapes.extend(read::many(conn, some).await?);
    }
    Ok(shapes)
}

/// Reads a table with its partitions, under an empty search path.
pub async fn tree(conn: &Conn, oid: u32) -> Result<Tree, Failure> {
    let root = alone(conn, oid).await?;
    let mut branches: Vec<Branch> = Vec::new();
    if root.is_partitioned() {
        let places = places(conn, oid).await?;
        let oids: Vec<u32> = places.iter().map(|place| place.oid).collect();
        let shapes = partitions(conn, &oids).await?;
        for (place, shape) in places.into_iter().zip(shapes) {
            let parent = branches.iter().position(|b| b.shape.oid == place.parent);
            branches.push(Branch { shape, parent, bound: place.bound });
        }
    }
    Ok(Tree { root, branches })
}

/// One table of a tree that is to be made.
#[derive(Debug, Clone)]
pub struct Node<'a> {
    /// Its shape.
    pub shape: &'a Shape,
    /// Its name.
    pub name: QualifiedName,
    /// Its parent's place among the nodes, and its bound; `None` for the root.
    pub hangs: Option<(usize, &'a str)>,
    /// The name of its nth index.
    pub indexes: Vec<QualifiedName>,
}

/// The statements that make the empty tables, attached to each other, without any index. `sequences` are the root's.
pub fn create(
    nodes: &[Node<'_>],
    stand_in: &QualifiedName,
    purpose: Purpose,
    sequences: &[(String, QualifiedName)],
    version: u32,
) -> Vec<String> {
    let mut steps = Vec::new();
    for node in nodes {
        match node.hangs {
            None => {
                steps.extend(kin::ddl::create_table(node.shape, &node.name, stand_in, purpose, sequences, version));
            }
            Some(_) => steps.push(ddl::create_table(node.shape, &node.name, purpose, &[], version)),
        }
        steps.extend(ddl::column_settings(node.shape, &node.name.to_string()));
    }
    for node in nodes {
        if let Some((parent, bound)) = node.hangs {
            let parent = &nodes[parent].name;
            steps.push(format!("ALTER TABLE ONLY {parent} ATTACH PARTITION {} {bound}", node.name));
        }
        steps.extend(ddl::comments(node.shape, &node.name.to_string()));
    }
    steps
}

/// The statements that attach a partitioned table's indexes to the like of them on its partitions: the index, which is
/// nothing but a name and a definition, and then those that are its partitions. Children first.
pub fn partitioned_indexes(nodes: &[Node<'_>], n: usize) -> Vec<String> {
    let Some(node) = nodes.get(n) else { return Vec::new() };
    let mut steps = Vec::new();
    for (index, name) in node.shape.indexes.iter().zip(&node.indexes) {
        steps.push(ddl::index_tablespace(index));
        steps.extend(ddl::partitioned_index(index, &node.name.to_string(), name));
        for child in nodes.iter().filter(|c| c.hangs.is_some_and(|(parent, _)| parent == n)) {
            let same = child.shape.indexes.iter().zip(&child.indexes);
            for (_, child) in same.filter(|(i, _)| i.parent.as_ref() == Some(&index.name)) {
                steps.push(format!("ALTER INDEX {name} ATTACH PARTITION {child}"));
            }
        }
    }
    steps
}
