//! The model of a table that becomes partitioned: the server makes it, with all its partitions, and names what it makes.

use tokio_postgres::error::SqlState;

use super::{Manner, Model, Modelled};
use crate::error::{Exit, Failure};
use crate::pg::sql::plain_ident;
use crate::pg::{Conn, Error, Ident, Literal, QualifiedName};
use crate::plan::ddl::{self, Purpose};
use crate::plan::partitioning::Piece;
use crate::plan::shape::{Index, Shape};
use crate::plan::tree::{self, Node, Tree};

/// What is to be made.
pub struct Wanted<'a> {
    /// The table, with its PARTITION BY and without indexes.
    pub root: &'a Shape,
    /// Its partitions.
    pub pieces: &'a [Piece],
    /// What each of them has: access method, storage parameters, tablespace.
    pub storage: &'a Shape,
    /// Its indexes, each with the statement's tail that makes it: a constraint's definition, or what follows the table in
    /// CREATE INDEX.
    pub indexes: &'a [(Index, Tail)],
    /// The time zone in which bounds are read.
    pub zone: &'a str,
}

/// How an index is made.
pub enum Tail {
    /// ADD CONSTRAINT with this definition.
    Constraint(String),
    /// CREATE INDEX.
    Index,
}

/// Makes the model on `conn`, reads it, and takes it back. The branches are in the names' order.
///
/// # Errors
/// Exit 3 with the server's words where it refuses the partitions or an index.
pub async fn partitioned(
    conn: &Conn,
    source: &Shape,
    wanted: &Wanted<'_>,
    version: u32,
) -> Result<(Modelled, Tree), Failure> {
    conn.batch("begin model", "BEGIN").await?;
    let made = match Manner::read(conn).await {
        Ok(own) => Model { conn, source, branches: &[], version, own }.make_partitioned(wanted).await,
        Err(failure) => Err(failure),
    };
    conn.batch("discard model", "ROLLBACK").await?;
    made
}

impl Model<'_> {
    async fn make_partitioned(&self, wanted: &Wanted<'_>) -> Result<(Modelled, Tree), Failure> {
        self.manner(&Manner::pinned()).await?;
        let root = QualifiedName::temporary(&wanted.root.name.name);
        self.zone(wanted.zone).await?;
        let node = Node { shape: wanted.root, name: root.clone(), hangs: None, indexes: Vec::new() };
        let sql = tree::create(&[node], &root, Purpose::Model, &[], self.version);
        self.conn.batch("create model", &sql.join(";\n")).await.map_err(|e| refused("partitioning", e))?;
        let mut sql = Vec::new();
        for piece in wanted.pieces {
            let above = piece.parent.map_or(root.clone(), |n| QualifiedName::temporary(&wanted.pieces[n].name));
            let rest = match &piece.key {
                Some(key) => format!(" PARTITION BY {key}"),
                None => ddl::storage(wanted.storage, Purpose::Model),
            };
            let name = Ident(&piece.name);
            sql.push(format!("CREATE TEMPORARY TABLE {name} PARTITION OF {above} {}{rest}", piece.bound));
            sql.extend(ddl::column_settings(wanted.root, &format!("pg_temp.{}", Ident(&piece.name))));
        }
        // In a partition that is made later they would be valid.
        sql.extend(ddl::unvalidated_checks(wanted.root, &root.to_string()));
        self.conn.batch("create partitions of model", &sql.join(";\n")).await.map_err(|e| refused("partitions", e))?;
        for (index, tail) in wanted.indexes {
            let sql = index_sql(index, tail, &root);
            self.conn.batch("create index of model", &sql.join(";\n")).await.map_err(|e| {
                let name = plain_ident(&index.name);
                let hint = format!("--drop-constraint {name} leaves it off.");
                refused(&name, e).hint(hint)
            })?;
        }
        self.zone("UTC").await?;
        let oid = self.oid(&root.to_string()).await?;
        let tree = tree::tree(self.conn, oid).await?;
        let target_equal = self.equalities(&tree.root).await?;
        // The equalities of the columns that stay are those of the copy.
        let columns = self.columns(&tree.root, &[]).await?;
        let equalities =
            target_equal.into_iter().map(|(column, equal)| (column.clone(), equal.clone(), column, equal)).collect();
        let modelled =
            Modelled { target: tree.root.clone(), branches: Vec::new(), columns, conversions: Vec::new(), equalities };
        Ok((modelled, tree))
    }

    async fn zone(&self, zone: &str) -> Result<(), Failure> {
        let sql = format!("SELECT set_config('TimeZone', {}, true)", Literal(zone));
        Ok(self.conn.batch("set time zone", &sql).await?)
    }
}

fn index_sql(index: &Index, tail: &Tail, root: &QualifiedName) -> Vec<String> {
    let name = Ident(&index.name);
    let unique = if index.unique { "UNIQUE " } else { "" };
    let mut steps = vec![match tail {
        Tail::Constraint(definition) => format!("ALTER TABLE {root} ADD CONSTRAINT {name} {definition}"),
        Tail::Index => format!("CREATE {unique}INDEX {name} ON {root} {}", index.definition),
    }];
    // Only an ordinary table can be marked.
    let bare = Index { clustered: false, ..index.clone() };
    steps.extend(ddl::index_settings(&bare, &root.to_string(), &QualifiedName::temporary(&index.name)));
    steps
}

/// In the server's words, where they are a judgement.
fn refused(what: &str, error: Error) -> Failure {
    if !error.is_judgement() && !error.is_data() {
        return error.into();
    }
    let exit = if error.is(&SqlState::SYNTAX_ERROR) { Exit::Usage } else { Exit::Refused };
    let primary = format!("PostgreSQL refuses the {what}: {}", error.message);
    Failure { exit, primary, ..error.into() }
}
