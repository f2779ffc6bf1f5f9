//! The target's shape, found by asking the server: an empty temporary copy of the table takes the user's clauses, and
//! what comes out is read back from the catalog. The transaction is rolled back, so nothing is changed.
//!
//! The server stays the judge of every clause, in its own version's grammar and rules; only where each value comes
//! from is decided here. A column of the copy keeps its `attnum` through RENAME and TYPE (ALTER TABLE, PostgreSQL
//! manual), so a column whose number the copy was made with stands for that source column.

pub mod given;
pub mod partitioned;
pub mod parts;

use tokio_postgres::error::SqlState;

use super::ddl::{self, Purpose};
use super::kin;
use super::read;
use super::shape::{Origin, Shape};
use super::tree::{self, Branch, Node, Tree};
use super::types::{TargetColumn, Value};
use crate::error::{Exit, Failure};
use crate::pg::{Conn, Ident, Literal, QualifiedName};
use crate::spec::{Clause, ClauseKind, Clauses};

/// The target and where its columns come from.
pub struct Modelled {
    /// The shape, still under the temporary schema's name.
    pub target: Shape,
    /// Those of the partitions, in the order of the source's.
    pub branches: Vec<Shape>,
    /// Its columns' values.
    pub columns: Vec<TargetColumn>,
    /// For each converted source column: the source columns its expression reads, and whether it depends on settings.
    pub conversions: Vec<Conversion>,
    /// Equality operators by (source column) and (target column), for columns that stand for each other.
    pub equalities: Vec<(String, String, String, String)>,
}

/// What a conversion depends on.
pub struct Conversion {
    /// The source column.
    pub column: String,
    /// The expression, qualified.
    pub expression: String,
    /// Source columns it reads; `None` where it reads the whole row.
    pub reads: Option<Vec<String>>,
    /// How far its result follows from the row alone.
    pub volatility: Volatility,
}

/// As in pg_proc.provolatile, of a whole expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Volatility {
    /// The same row always gives the same value.
    Immutable,
    /// Depends on session settings.
    Stable,
    /// May differ each time.
    Volatile,
}

/// Makes the model on `conn`, a session that still has the role's own search path.
///
/// # Errors
/// Exit 3 with the server's words where it refuses a clause.
pub async fn model(conn: &Conn, tree: &Tree, clauses: &Clauses, version: u32) -> Result<Modelled, Failure> {
    conn.batch("begin model", "BEGIN").await?;
    let made = match Manner::read(conn).await {
        Ok(own) => Model { conn, source: &tree.root, branches: &tree.branches, version, own }.make(clauses).await,
        Err(failure) => Err(failure),
    };
    conn.batch("discard model", "ROLLBACK").await?;
    made
}

struct Model<'a> {
    conn: &'a Conn,
    source: &'a Shape,
    branches: &'a [Branch],
    version: u32,
    own: Manner,
}

/// How a session reads names and writes values.
struct Manner {
    search_path: String,
    date_style: String,
    interval_style: String,
}

impl Manner {
    /// The session's.
    async fn read(conn: &Conn) -> Result<Manner, Failure> {
        let sql =
            "SELECT current_setting('search_path'), current_setting('DateStyle'), current_setting('IntervalStyle')";
        let mut row = conn.simple("read manner", sql).await?.into_iter().next().unwrap_or_default().into_iter();
        let mut next = || row.next().flatten().unwrap_or_default();
        Ok(Manner { search_path: next(), date_style: next(), interval_style: next() })
    }

    /// That of every other session of ours, in which what is read here will be run.
    fn pinned() -> Manner {
        let text = str::to_owned;
        Manner { search_path: text(""), date_style: text("ISO, MDY"), interval_style: text("postgres") }
    }

    fn sql(&self) -> String {
        format!(
            "SELECT set_config('search_path', {}, true), set_config('DateStyle', {}, true), set_config('IntervalStyle', {}, true)",
            Literal(&self.search_path),
            Literal(&self.date_style),
            Literal(&self.interval_style)
        )
    }
}

impl Model<'_> {
    fn table(&self) -> String {
        format!("pg_temp.{}", Ident(&self.source.name.name))
    }

    /// An empty temporary table of the source's shape with all its partitions, names included.
    async fn create(&self) -> Result<(), Failure> {
        self.create_tree(self.source, self.branches).await
    }

    /// The same without partitions: what is asked of expressions needs none.
    async fn create_alone(&self) -> Result<(), Failure> {
        self.create_tree(&self.source.unpartitioned(), &[]).await
    }

    async fn create_tree(&self, root: &Shape, branches: &[Branch]) -> Result<(), Failure> {
        let nodes = nodes(root, branches);
        let stand_in = QualifiedName::temporary(STAND_IN);
        let mut sql = tree::create(&nodes, &stand_in, Purpose::Model, &[], self.version);
        for node in &nodes {
            sql.extend(ddl::unvalidated_checks(node.shape, &node.name.to_string()));
        }
        for (n, node) in nodes.iter().enumerate().rev() {
            if node.shape.is_partitioned() {
                sql.extend(tree::partitioned_indexes(&nodes, n));
            } else {
                for (index, name) in node.shape.indexes.iter().zip(&node.indexes) {
                    sql.extend(ddl::build_index(index, &node.name.to_string(), &name.name));
                    sql.extend(ddl::attach_index(index, &node.name.to_string(), name));
                }
            }
            for (index, name) in node.shape.indexes.iter().zip(&node.indexes) {
                // Indexes of temporary tables follow temp_tablespaces instead.
                if let Some(tablespace) = &index.tablespace {
                    sql.push(format!("ALTER INDEX {name} SET TABLESPACE {}", Ident(tablespace)));
                }
            }
        }
        sql.extend(kin::ddl::place_model(&root.kin, &root.name, &stand_in));
        self.manner(&Manner::pinned()).await?;
        self.conn.batch("create model", &sql.join(";\n")).await?;
        self.manner(&self.own).await
    }

    async fn manner(&self, manner: &Manner) -> Result<(), Failure> {
        Ok(self.conn.batch("set manner", &manner.sql()).await?)
    }

    async fn use_path(&self, path: &str) -> Result<(), Failure> {
        let sql = format!("SELECT set_config('search_path', {}, true)", Literal(path));
        Ok(self.conn.batch("set search_path", &sql).await?)
    }

    /// Reads the shape of the copy of this name.
    async fn read(&self, name: &str) -> Result<Shape, Failure> {
        let oid = self.oid(&QualifiedName::temporary(name).to_string()).await?;
        self.shape(oid).await
    }

    /// Reads a copy's shape with everything qualified.
    async fn shape(&self, oid: u32) -> Result<Shape, Failure> {
        self.manner(&Manner::pinned()).await?;
        let shape = read::shape(self.conn, oid).await?;
        self.manner(&self.own).await?;
        Ok(shape)
    }

    async fn oid(&self, table: &str) -> Result<u32, Failure> {
        let sql = format!("SELECT {}::regclass::oid", Literal(table));
        self.conn
            .scalar("find model", &sql)
            .await?
            .and_then(|oid| oid.parse().ok())
            .ok_or_else(|| Failure::failed("the planning copy of the table was not found"))
    }

    async fn drop(&self) -> Result<(), Failure> {
        Ok(self.conn.batch("drop model", &kin::ddl::drop_model(&self.source.kin, &self.source.name)).await?)
    }

    async fn make(&self, clauses: &Clauses) -> Result<Modelled, Failure> {
        self.create().await?;
        let child = self.child().await?;
        for statement in clauses.statements() {
            self.apply(&statement).await?;
        }
        if child != self.child().await? {
            return Err(self.reaches_children());
        }
        let target = self.read(&self.source.name.name).await?;
        let mut branches = Vec::new();
        for branch in self.branches {
            branches.push(self.read(&branch.shape.name.name).await?);
        }
        let target_equal = self.equalities(&target).await?;
        self.drop().await?;
        self.create_alone().await?;
        let source_equal = self.equalities(self.source).await?;
        let conversions = self.conversions(clauses, &target).await?;
        let columns = self.columns(&target, &conversions).await?;
        let equalities = columns
            .iter()
            .filter_map(|c| {
                let source = c.source.clone()?;
                let of = |list: &[(String, String)], name: &str| {
                    list.iter().find(|(n, _)| n == name).map(|(_, e)| e.clone())
                };
                Some((source.clone(), of(&source_equal, &source)?, c.name.clone(), of(&target_equal, &c.name)?))
            })
            .collect();
        Ok(Modelled { target, branches, columns, conversions, equalities })
    }

    /// The copy's child, where the table has children.
    async fn child(&self) -> Result<Option<Shape>, Failure> {
        if !self.source.kin.is_parent() {
            return Ok(None);
        }
        let oid = self.oid(&format!("pg_temp.{}", kin::ddl::MODEL_CHILD)).await?;
        self.shape(oid).await.map(Some)
    }

    /// ALTER TABLE would change the children as well, and they are not ours to rewrite.
    fn reaches_children(&self) -> Failure {
        let children: Vec<String> = self.source.kin.children.iter().map(|c| c.name.plain()).collect();
        Failure::refused(format!("the change would reach the tables that inherit from {}", self.source.name.plain()))
            .detail(format!("They are: {}.", children.join(", ")))
            .hint("Leave out what concerns columns, defaults and constraints that they inherit, or end the inheritance first.")
    }

    async fn apply(&self, statement: &[&Clause]) -> Result<(), Failure> {
        let text: Vec<&str> = statement.iter().map(|c| c.text.as_str()).collect();
        // The newline ends a comment that a clause may close with.
        let sql = format!("ALTER TABLE {} {}\n", self.table(), text.join("\n, "));
        self.conn.batch("try clauses", &sql).await.map_err(|e| {
            if !e.is_judgement() {
                return e.into();
            }
            let exit = if e.is(&SqlState::SYNTAX_ERROR) { Exit::Usage } else { Exit::Refused };
            let detail = e.detail.clone().unwrap_or_else(|| {
                format!("The statement is ALTER TABLE {} {}", self.source.name.plain(), text.join(", "))
            });
            let primary = format!("PostgreSQL refuses the clauses: {}", e.message);
            Failure { exit, primary, detail: Some(detail), ..e.into() }
        })
    }

    /// The source column each live column of the target stands for, by number.
    fn source_of(&self, number: i16) -> Option<&super::shape::Column> {
        usize::try_from(number).ok().and_then(|n| n.checked_sub(1)).and_then(|n| self.source.columns.get(n))
    }

    async fn columns(&self, target: &Shape, conversions: &[Conversion]) -> Result<Vec<TargetColumn>, Failure> {
        let mut columns = Vec::new();
        for column in &target.columns {
            let source = self.source_of(column.number);
            let value = match (column.origin, source) {
                (Origin::Stored | Origin::Virtual, _) => Value::Generated,
                (_, Some(source)) => match conversions.iter().find(|c| c.column == source.name) {
                    Some(Conversion { expression, volatility: Volatility::Volatile, .. }) => {
                        Value::Volatile { expression: expression.clone() }
                    }
                    Some(Conversion { expression, .. }) => Value::Converted { expression: expression.clone() },
                    None => Value::Copied,
                },
                (Origin::IdentityAlways | Origin::IdentityByDefault, None) => Value::OwnDefault,
                (Origin::Plain, None) => self.added_value(column).await?,
            };
            columns.push(TargetColumn { name: column.name.clone(), source: source.map(|s| s.name.clone()), value });
        }
        Ok(columns)
    }

    /// The value existing rows get in an added column: as ALTER TABLE does, a default that is not volatile is
    /// evaluated once.
    async fn added_value(&self, column: &super::shape::Column) -> Result<Value, Failure> {
        let Some(default) = &column.default else {
            return Ok(Value::Constant { literal: format!("NULL::{}", column.type_sql) });
        };
        if column.sequence.is_some() || self.is_volatile(default).await? {
            return Ok(Value::OwnDefault);
        }
        // Written as every other session of ours will read it.
        self.manner(&Manner::pinned()).await?;
        let value =
            self.conn.scalar("evaluate default", &format!("SELECT ({default})::{}::text", column.type_sql)).await?;
        self.manner(&self.own).await?;
        let literal = value.map_or_else(|| "NULL".to_owned(), |v| Literal(&v).to_string());
        Ok(Value::Constant { literal: format!("{literal}::{}", column.type_sql) })
    }

    /// The planner does not pull up a subquery whose target list is volatile (`is_simple_subquery` in
    /// `src/backend/optimizer/prep/prepjointree.c`), so it shows in the plan.
    async fn is_volatile(&self, expression: &str) -> Result<bool, Failure> {
        let sql =
            format!("EXPLAIN (COSTS OFF) SELECT 1 FROM (SELECT {expression} AS e FROM ONLY {}) AS s", self.table());
        let plan = self.conn.scalar("explain expression", &sql).await?;
        Ok(plan.is_some_and(|line| line.starts_with("Subquery Scan")))
    }

    /// Every column whose type changes, with its conversion.
    async fn conversions(&self, clauses: &Clauses, target: &Shape) -> Result<Vec<Conversion>, Failure> {
        let mut found: Vec<Conversion> = Vec::new();
        let mut renamed: Vec<(String, String)> = Vec::new();
        let statements = clauses.statements();
        let mut earlier_type_change = false;
        for statement in &statements {
            let mut here = false;
            for clause in statement {
                match &clause.kind {
                    ClauseKind::Rename { column: Some((old, new)) } => renamed.push((old.clone(), new.clone())),
                    ClauseKind::Rename { column: None } | ClauseKind::Other => {}
                    ClauseKind::Type { column, using } => {
                        here = true;
                        if using.is_some() && earlier_type_change {
                            return Err(Failure::refused("USING behind a RENAME that follows another type change")
                                .detail(format!("The clause is: {}", clause.text))
                                .hint("Write the type changes before the RENAME clauses."));
                        }
                        let conversion = self.conversion(column, using.as_deref(), &renamed, target, clause).await?;
                        let Some(conversion) = conversion else { continue };
                        if found.iter().any(|c| c.column == conversion.column) {
                            return Err(Failure::refused(format!(
                                "column {} changes its type twice",
                                conversion.column
                            ))
                            .hint("Write one ALTER COLUMN … TYPE for it."));
                        }
                        found.push(conversion);
                    }
                }
            }
            earlier_type_change |= here;
        }
        Ok(found)
    }

    /// One conversion. `None` where the column is dropped again or was added by the clauses themselves.
    async fn conversion(
        &self,
        column: &str,
        using: Option<&str>,
        renamed: &[(String, String)],
        target: &Shape,
        clause: &Clause,
    ) -> Result<Option<Conversion>, Failure> {
        // The name the source knows the column by.
        let original = renamed
            .iter()
            .rev()
            .fold(column.to_owned(), |name, (old, new)| if *new == name { old.clone() } else { name });
        let Some(source) = self.source.column(&original) else { return Ok(None) };
        let Some(changed) =
            target.columns.iter().find(|c| self.source_of(c.number).is_some_and(|s| s.name == original))
        else {
            return Ok(None);
        };
        if using.is_none() && changed.type_oid == source.type_oid {
            // Only the modifier or the collation changes: the assignment of the INSERT checks the former.
            return Ok(None);
        }
        // Renames so far are made on the copy, so that the expression finds its names, and undone before it is read:
        // the server keeps columns by number and spells the expression with the source's names.
        let table = self.table();
        for (old, new) in renamed {
            self.rename(&table, old, new).await?;
        }
        let input = using.map_or_else(|| Ident(column).to_string(), |text| format!("({text}\n)"));
        let cast = format!("CAST({input} AS {})", changed.base_type_sql);
        let qualified = self.qualify(&cast).await.map_err(|e| match e.is_judgement() {
            true => Failure {
                exit: Exit::Refused,
                primary: format!("PostgreSQL refuses the expression: {}", e.primary),
                detail: Some(format!("The clause is: {}", clause.text)),
                ..e
            },
            false => e,
        });
        let added = qualified?;
        for (old, new) in renamed.iter().rev() {
            self.rename(&table, new, old).await?;
        }
        let (expression, reads) = self.read_check(added).await?;
        let volatility = self.volatility(&expression).await?;
        Ok(Some(Conversion { column: original, expression, reads, volatility }))
    }

    async fn rename(&self, table: &str, old: &str, new: &str) -> Result<(), Failure> {
        let sql = format!("ALTER TABLE {table} RENAME COLUMN {} TO {}", Ident(old), Ident(new));
        Ok(self.conn.batch("rename in model", &sql).await?)
    }

    /// Lets the server read an expression under the role's search path, as a CHECK on the copy that is always true.
    async fn qualify(&self, expression: &str) -> Result<&'static str, Failure> {
        let sql = format!(
            "ALTER TABLE {} ADD CONSTRAINT {PROBE} CHECK (pg_catalog.num_nulls({expression}) >= 0) NOT VALID",
            self.table()
        );
        self.conn.batch("read expression", &sql).await.map_err(|e| {
            let mut failure = Failure::failed(e.message.clone());
            failure.hint = e.hint.clone();
            failure.source = Some(Box::new(e));
            failure
        })?;
        Ok(PROBE)
    }

    /// The probe's expression, fully qualified, and the columns it reads; the probe is dropped.
    async fn read_check(&self, probe: &str) -> Result<(String, Option<Vec<String>>), Failure> {
        let oid = self.oid(&self.table()).await?;
        self.manner(&Manner::pinned()).await?;
        let sql = format!(
            "SELECT pg_catalog.pg_get_expr(conbin, conrelid), array_to_string(conkey, ',') \
             FROM pg_catalog.pg_constraint WHERE conrelid = {oid} AND conname = {}",
            Literal(probe)
        );
        let rows = self.conn.simple("deparse expression", &sql).await?;
        self.manner(&self.own).await?;
        self.conn.batch("drop probe", &format!("ALTER TABLE {} DROP CONSTRAINT {probe}", self.table())).await?;
        let row = rows.into_iter().next().unwrap_or_default();
        let text = row.first().cloned().flatten().unwrap_or_default();
        let inner = text.strip_prefix("(num_nulls(").and_then(|t| t.strip_suffix(") >= 0)")).ok_or_else(|| {
            Failure::failed(format!("the server spells an expression in a way not understood: {text}"))
        })?;
        let numbers: Vec<i16> =
            row.get(1).cloned().flatten().unwrap_or_default().split(',').filter_map(|n| n.parse().ok()).collect();
        let reads = numbers.iter().map(|n| self.source_of(*n).map(|c| c.name.clone())).collect::<Option<Vec<_>>>();
        Ok((inner.to_owned(), reads))
    }

    async fn volatility(&self, expression: &str) -> Result<Volatility, Failure> {
        let immutable = match self.try_as_predicate("", &self.table(), expression).await? {
            Ok(()) => true,
            Err(e) if e.is(&SqlState::INVALID_OBJECT_DEFINITION) => false,
            Err(e) => return Err(e.into()),
        };
        if immutable {
            return Ok(Volatility::Immutable);
        }
        if reads_the_clock(expression) || self.is_volatile(expression).await? {
            return Ok(Volatility::Volatile);
        }
        if self.is_immutable_but_for_enums(expression).await? {
            return Ok(Volatility::Immutable);
        }
        Ok(Volatility::Stable)
    }

    /// Whether the server takes an expression as an index predicate, which must be immutable (CREATE INDEX, PostgreSQL
    /// manual).
    async fn try_as_predicate(
        &self,
        before: &str,
        table: &str,
        expression: &str,
    ) -> Result<Result<(), crate::pg::Error>, Failure> {
        let sql = format!(
            "SAVEPOINT probe; {before}CREATE INDEX ON {table} ((1)) WHERE pg_catalog.num_nulls({expression}) >= 0"
        );
        let taken = self.conn.batch("probe volatility", &sql).await;
        self.conn.batch("undo probe", "ROLLBACK TO SAVEPOINT probe; RELEASE SAVEPOINT probe").await?;
        Ok(taken)
    }

    /// A cast between an enum and text counts as stable, for a label can be renamed; no session setting changes it. So
    /// the expression is tried once more with text in place of every enum.
    async fn is_immutable_but_for_enums(&self, expression: &str) -> Result<bool, Failure> {
        let sql = "SELECT quote_ident(n.nspname) || '.' || quote_ident(t.typname) FROM pg_catalog.pg_type t \
                   JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE t.typtype = 'e'";
        let rows = self.conn.simple("find enums", sql).await?;
        let enums: Vec<String> = rows.into_iter().filter_map(|r| r.into_iter().next().flatten()).collect();
        if enums.is_empty() {
            return Ok(false);
        }
        let columns: Vec<String> = self
            .source
            .columns
            .iter()
            .map(|c| format!("{} AS {}", enums_as_text(&format!("NULL::{}", c.type_sql), &enums), Ident(&c.name)))
            .collect();
        let plain = format!("CREATE TEMPORARY TABLE {PROBE} AS SELECT {};", columns.join(", "));
        let tried = self.try_as_predicate(&plain, PROBE, &enums_as_text(expression, &enums)).await?;
        Ok(tried.is_ok())
    }

    /// Equality over each column that has one: `=`, or the operator with its schema.
    async fn equalities(&self, shape: &Shape) -> Result<Vec<(String, String)>, Failure> {
        let mut found = Vec::new();
        for column in &shape.columns {
            let schema = self
                .conn
                .scalar(
                    "find type's schema",
                    &format!(
                        "SELECT quote_ident(n.nspname) FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n \
                         ON n.oid = t.typnamespace WHERE t.oid = {}",
                        column.type_oid
                    ),
                )
                .await?
                .unwrap_or_default();
            if schema == "pg_catalog" {
                found.push((column.name.clone(), "=".to_owned()));
                continue;
            }
            // The type's own schema first: its equality is meant, not that of a type it converts to.
            self.use_path(&schema).await?;
            self.conn.batch("savepoint", "SAVEPOINT equality").await?;
            let probe = format!("{0} = {0}", Ident(&column.name));
            if self.qualify(&probe).await.is_ok() {
                let (text, _) = self.read_check(PROBE).await?;
                found.push((column.name.clone(), operator_of(&text)));
            }
            self.conn.batch("release", "ROLLBACK TO SAVEPOINT equality; RELEASE SAVEPOINT equality").await?;
            self.manner(&self.own).await?;
        }
        Ok(found)
    }
}

/// The copies of a table and its partitions, under the names of those.
fn nodes<'a>(root: &'a Shape, branches: &'a [Branch]) -> Vec<Node<'a>> {
    let node = |shape: &'a Shape, hangs| {
        let indexes = shape.indexes.iter().map(|i| QualifiedName::temporary(&i.name)).collect();
        Node { shape, name: QualifiedName::temporary(&shape.name.name), hangs, indexes }
    };
    let partitions = branches.iter().map(|b| node(&b.shape, Some((b.parent.map_or(0, |n| n + 1), b.bound.as_str()))));
    std::iter::once(node(root, None)).chain(partitions).collect()
}

/// The copy's parent until its place is made.
const STAND_IN: &str = "pgrecast_stand_in";

/// The name of the CHECK that carries an expression through the server.
const PROBE: &str = "pgrecast_probe";

/// `OPERATOR(schema.=)` where the text spells one, else `=`.
fn operator_of(text: &str) -> String {
    text.find("OPERATOR(")
        .and_then(|start| text[start..].find(')').map(|end| text[start..=start + end].to_owned()))
        .unwrap_or_else(|| "=".to_owned())
}

/// `::text` for each cast to one of these types.
fn enums_as_text(expression: &str, enums: &[String]) -> String {
    let within = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '"');
    let mut text = expression.to_owned();
    for name in enums {
        let cast = format!("::{name}");
        let mut parts = text.split(&cast);
        let mut made = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            made.push_str(if part.starts_with(within) { &cast } else { "::text" });
            made.push_str(part);
        }
        text = made;
    }
    text
}

/// Whether an expression reads the clock or the session, which the server calls stable but no setting can pin.
fn reads_the_clock(expression: &str) -> bool {
    use pg_query::NodeRef;
    let Ok(parsed) = pg_query::parse(&format!("SELECT {expression}"), pg_query::ParserOptions::default()) else {
        return false;
    };
    parsed.protobuf.nodes().iter().any(|(node, ..)| match node {
        NodeRef::SqlvalueFunction(_) => true,
        NodeRef::FuncCall(call) => call.funcname.last().and_then(|n| n.node.as_ref()).is_some_and(|n| {
            matches!(n, pg_query::NodeEnum::String(s) if matches!(s.sval.as_str(),
                "now" | "transaction_timestamp" | "statement_timestamp" | "current_setting" | "pg_current_snapshot"
                | "txid_current_snapshot" | "inet_client_addr" | "pg_backend_pid"))
        }),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_outside_pg_catalog_keeps_its_schema() {
        assert_eq!(operator_of("(a OPERATOR(public.=) a)"), "OPERATOR(public.=)");
        assert_eq!(operator_of("((a)::text = (a)::text)"), "=");
    }

    #[test]
    fn casts_to_an_enum_become_casts_to_text() {
        let enums = ["app.mood".to_owned(), "app.\"M\"".to_owned()];
        assert_eq!(
            enums_as_text("(a::app.mood)::text || b::app.mood[] || c::app.mood2 || d::app.\"M\"", &enums),
            "(a::text)::text || b::text[] || c::app.mood2 || d::text"
        );
    }

    #[test]
    fn the_clock_is_seen_in_functions_and_key_words() {
        assert!(reads_the_clock("a + CURRENT_DATE"));
        assert!(reads_the_clock("coalesce(a, now())"));
        assert!(!reads_the_clock("(a AT TIME ZONE 'UTC')"));
    }
}
