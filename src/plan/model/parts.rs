//! The model of a table that is taken apart: what the server makes of each new table's columns and predicate.
//!
//! An expression is given to the server as the only column of a temporary view on the copy, and read back: qualified, with
//! its type, and with what it is made of. An expression that gives any number of rows can stand nowhere else.

use super::{Manner, Model, Volatility};
use crate::error::{Exit, Failure};
use crate::pg::sql::ident_list;
use crate::pg::{Conn, Error, Ident, Literal, QualifiedName};
use crate::plan::ddl::{self, Purpose};
use crate::plan::lookups::NUMBER;
use crate::plan::shape::{Column, Origin, Shape};
use crate::plan::types::{TargetColumn, Value};
use crate::spec::split;

/// A new table that is to be made.
pub struct Wanted<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its columns; `None` for the table's own.
    pub columns: Option<Vec<split::Column>>,
    /// Which rows, as typed.
    pub predicate: Option<&'a str>,
    /// Its columns for the source's key.
    pub key: Vec<String>,
    /// Whether its only column has distinct values, which get numbers.
    pub lookup: bool,
}

/// One as the server makes it.
pub struct Made {
    /// Its shape, under the temporary schema's name.
    pub shape: Shape,
    /// Its columns' values.
    pub columns: Vec<TargetColumn>,
    /// Its predicate, qualified and never NULL.
    pub rows: Option<String>,
    /// Whether a row of the source gives any number of rows.
    pub many: bool,
    /// What depends on settings, as typed.
    pub unpinned: Option<String>,
}

/// Makes the models on `conn`, a session that still has the role's own search path.
///
/// # Errors
/// Exit 3 with the server's words where it refuses an expression.
pub async fn parts(conn: &Conn, source: &Shape, wanted: &[Wanted<'_>], version: u32) -> Result<Vec<Made>, Failure> {
    conn.batch("begin model", "BEGIN").await?;
    let made = match Manner::read(conn).await {
        Ok(own) => Model { conn, source, branches: &[], version, own }.make_parts(wanted).await,
        Err(failure) => Err(failure),
    };
    conn.batch("discard model", "ROLLBACK").await?;
    made
}

/// An expression as the server reads it.
struct Expression {
    sql: String,
    column: Column,
    volatility: Volatility,
    many: bool,
}

/// A new table before it is made.
struct Drawn {
    columns: Option<(Vec<Column>, Vec<TargetColumn>)>,
    rows: Option<String>,
    many: bool,
    unpinned: Option<String>,
}

/// The name of the view, and of its column.
pub(super) const VIEW: &str = "pgrecast_view";
pub(super) const COLUMN: &str = "pgrecast_value";

/// The copy's name while new tables are made, which may be called as the table is.
const ASIDE: &str = "pgrecast_source";

impl Model<'_> {
    async fn make_parts(&self, wanted: &[Wanted<'_>]) -> Result<Vec<Made>, Failure> {
        self.create_alone().await?;
        let mut drawn = Vec::new();
        for one in wanted {
            drawn.push(self.draw(one).await?);
        }
        let aside = format!("ALTER TABLE {} RENAME TO {ASIDE}", self.table());
        self.conn.batch("set model aside", &aside).await?;
        let mut made = Vec::new();
        for (one, drawn) in wanted.iter().zip(drawn) {
            made.push(self.make_part(one, drawn).await?);
        }
        Ok(made)
    }

    /// Reads the expressions of a new table.
    async fn draw(&self, wanted: &Wanted<'_>) -> Result<Drawn, Failure> {
        let mut drawn = Drawn { columns: None, rows: None, many: false, unpinned: None };
        if let Some(predicate) = wanted.predicate {
            let read = self.expression(&format!("({predicate}\n) IS TRUE"), predicate).await?;
            if read.many || read.volatility == Volatility::Volatile {
                return Err(Failure::refused("the predicate does not follow from the row alone")
                    .detail(format!("It is: {predicate}"))
                    .hint("A row would belong here now and elsewhere later: use the row's own columns."));
            }
            if read.volatility == Volatility::Stable {
                drawn.unpinned = Some(predicate.to_owned());
            }
            drawn.rows = Some(read.sql);
        }
        let Some(list) = &wanted.columns else { return Ok(drawn) };
        let (mut columns, mut values) = (Vec::new(), Vec::new());
        let mut volatile = None;
        for column in list {
            let (shape, value) = match &column.copied {
                Some(from) => (self.copied(column, from, &wanted.key)?, Value::Copied),
                None => {
                    let read = self.expression(&column.expression, &column.expression).await?;
                    drawn.many |= read.many;
                    let expression = read.sql;
                    let value = match read.volatility {
                        Volatility::Volatile => {
                            volatile = Some(column);
                            Value::Volatile { expression }
                        }
                        Volatility::Immutable | Volatility::Stable => Value::Converted { expression },
                    };
                    if read.volatility == Volatility::Stable {
                        drawn.unpinned = Some(column.expression.clone());
                    }
                    (Column { name: column.name.clone(), ..read.column }, value)
                }
            };
            columns.push(shape);
            values.push(TargetColumn { name: column.name.clone(), source: column.copied.clone(), value });
        }
        if let (true, Some(column)) = (drawn.many, volatile) {
            return Err(Failure::refused(format!("the expression of column {} is volatile", Ident(&column.name)))
                .detail("The rows of a key are removed and written again whenever its row changes, each time with other values."));
        }
        drawn.columns = Some((columns, values));
        Ok(drawn)
    }

    /// A column that is moved as it is: with all that is its own, but for a sequence.
    fn copied(&self, column: &split::Column, from: &str, key: &[String]) -> Result<Column, Failure> {
        let source = self.source.column(from).ok_or_else(|| {
            Failure::refused(format!("column {} does not exist in {}", Ident(from), self.source.name.plain()))
                .hint("Names with capitals must be quoted as in SQL.")
        })?;
        let keeps = source.origin == Origin::Plain && source.sequence.is_none() && !key.contains(&column.name);
        Ok(Column {
            name: column.name.clone(),
            inherited: false,
            not_null_name: None,
            not_null_no_inherit: false,
            not_null_comment: None,
            default: source.default.clone().filter(|_| keeps),
            origin: Origin::Plain,
            sequence: None,
            ..source.clone()
        })
    }

    async fn make_part(&self, wanted: &Wanted<'_>, drawn: Drawn) -> Result<Made, Failure> {
        let name = QualifiedName::temporary(wanted.name);
        let Drawn { columns, rows, many, unpinned } = drawn;
        let (sql, values) = match columns {
            None => {
                let all = format!(
                    "CREATE TEMPORARY TABLE {} (LIKE pg_temp.{ASIDE} INCLUDING ALL EXCLUDING STATISTICS)",
                    Ident(wanted.name)
                );
                (vec![all], self.source.columns.iter().map(whole).collect())
            }
            Some((columns, values)) if wanted.lookup => {
                let value = columns.iter().map(|c| {
                    let c = Column { not_null: true, default: None, ..c.clone() };
                    format!("{} UNIQUE", ddl::column_definition(&c, None, Purpose::Model, self.version))
                });
                let value = value.collect::<Vec<_>>().join(", ");
                let number = format!("{} bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY", Ident(NUMBER));
                (vec![format!("CREATE TEMPORARY TABLE {} ({number}, {value})", Ident(wanted.name))], values)
            }
            Some((columns, values)) => {
                let shape = Shape { columns, ..self.bare() };
                let mut sql = vec![ddl::create_table(&shape, &name, Purpose::Model, &[], self.version)];
                sql.extend(ddl::column_settings(&shape, &name.to_string()));
                sql.extend(ddl::comments(&shape, &name.to_string()));
                let key = ident_list(wanted.key.iter().map(String::as_str));
                sql.push(match many {
                    true => format!("CREATE INDEX ON {name} ({key})"),
                    false => format!("ALTER TABLE {name} ADD PRIMARY KEY ({key})"),
                });
                (sql, values)
            }
        };
        self.manner(&Manner::pinned()).await?;
        let made = self.conn.batch("create part of model", &sql.join(";\n")).await;
        made.map_err(|e| refused(&format!("table {}", crate::pg::sql::plain_ident(wanted.name)), e))?;
        self.manner(&self.own).await?;
        let mut shape = self.read(wanted.name).await?;
        if wanted.columns.is_none() {
            // LIKE makes a constraint that is not validated a valid one.
            shape.checks = self
                .source
                .checks
                .iter()
                .cloned()
                .map(|c| crate::plan::shape::Check { inherited: false, ..c })
                .collect();
        }
        Ok(Made { shape, columns: values, rows, many, unpinned })
    }

    /// A table without anything of its own.
    fn bare(&self) -> Shape {
        Shape {
            checks: Vec::new(),
            indexes: Vec::new(),
            options: Vec::new(),
            tablespace: None,
            comment: None,
            kin: crate::plan::kin::Kin::default(),
            ..self.source.clone()
        }
    }

    async fn expression(&self, text: &str, typed: &str) -> Result<Expression, Failure> {
        let sql = format!(
            "SAVEPOINT view; CREATE TEMPORARY VIEW {VIEW} AS SELECT ({text}\n) AS {COLUMN} FROM ONLY {}",
            self.table()
        );
        self.conn.batch("read expression", &sql).await.map_err(|e| {
            let judged = e.is_judgement();
            let failure = refused("expression", e);
            if judged { failure.detail(format!("It is: {typed}")) } else { failure }
        })?;
        let shape = self.read(VIEW).await?;
        self.manner(&Manner::pinned()).await?;
        let sql = format!(
            "SELECT pg_catalog.pg_get_viewdef({0}), (SELECT ev_action::text FROM pg_catalog.pg_rewrite WHERE ev_class = {0})",
            shape.oid
        );
        let row = self.conn.simple("deparse expression", &sql).await?.into_iter().next().unwrap_or_default();
        self.manner(&self.own).await?;
        self.conn.batch("drop view", "ROLLBACK TO SAVEPOINT view; RELEASE SAVEPOINT view").await?;
        let text = |n: usize| row.get(n).cloned().flatten().unwrap_or_default();
        let (definition, tree) = (text(0), text(1));
        if let Some(what) = foreign(&tree) {
            return Err(Failure::refused(format!("{what} cannot stand in an expression of a new table"))
                .detail(format!("It is: {typed}"))
                .hint("Values and predicates must follow from the row's own columns."));
        }
        let sql = cut(&definition).ok_or_else(|| {
            Failure::failed(format!("the server spells an expression in a way not understood: {definition}"))
        })?;
        let column = shape.columns.into_iter().next().ok_or_else(|| Failure::failed("the view has no column"))?;
        let many = tree.contains("retset true");
        let volatility = match many {
            true => self.volatility_of_tree(&tree).await?,
            false => self.volatility(&sql).await?,
        };
        Ok(Expression { sql, column, volatility, many })
    }

    /// Where no index takes the expression, its functions tell; what cannot be told for certain counts as stable.
    pub(super) async fn volatility_of_tree(&self, tree: &str) -> Result<Volatility, Failure> {
        if tree.contains("{SQLVALUEFUNCTION") {
            return Ok(Volatility::Volatile);
        }
        let functions = [numbers(tree, ":funcid "), numbers(tree, ":opfuncid ")].concat().join(", ");
        // A cast through text calls functions of the types: from text to another type that type's input, which tells.
        let types = numbers(tree, ":resulttype ");
        let through_text = tree.contains("{COERCEVIAIO");
        if functions.is_empty() && !through_text {
            return Ok(Volatility::Immutable);
        }
        let types = if through_text && !types.is_empty() { types.join(", ") } else { "0".to_owned() };
        let sql = format!(
            "SELECT pg_catalog.max(v) FROM (SELECT provolatile::text FROM pg_catalog.pg_proc WHERE oid IN (0{}{functions}) \
             UNION ALL SELECT CASE WHEN t.typcategory = 'S' THEN 's' ELSE p.provolatile::text END FROM pg_catalog.pg_type t \
             JOIN pg_catalog.pg_proc p ON p.oid = t.typinput WHERE t.oid IN ({types})) AS used(v)",
            if functions.is_empty() { "" } else { ", " }
        );
        Ok(match self.conn.scalar("look at functions", &sql).await?.as_deref() {
            Some("i") => Volatility::Immutable,
            Some("s") | None => Volatility::Stable,
            Some(_) => Volatility::Volatile,
        })
    }
}

fn whole(column: &Column) -> TargetColumn {
    let value = if column.origin.is_generated() { Value::Generated } else { Value::Copied };
    TargetColumn { name: column.name.clone(), source: Some(column.name.clone()), value }
}

/// What in an expression does not follow from the row.
pub(super) fn foreign(tree: &str) -> Option<&'static str> {
    let known = [
        ("{SUBLINK", "a subquery"),
        ("{AGGREF", "an aggregate"),
        ("{WINDOWFUNC", "a window function"),
        (":varattno -", "a system column"),
    ];
    known.into_iter().find(|(word, _)| tree.contains(word)).map(|(_, what)| what)
}

/// The numbers behind a word.
fn numbers(tree: &str, word: &str) -> Vec<String> {
    let number = |rest: &str| rest.chars().take_while(char::is_ascii_digit).collect::<String>();
    let mut found: Vec<String> = tree.split(word).skip(1).map(number).filter(|n| !n.is_empty()).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// The expression in `SELECT expression AS pgrecast_value FROM …`.
pub(super) fn cut(definition: &str) -> Option<String> {
    use pg_query::protobuf::Token;
    let tokens = pg_query::scan(definition).ok()?.tokens;
    let at = |n: i32| usize::try_from(n).ok();
    let name = tokens
        .iter()
        .rposition(|t| at(t.start).zip(at(t.end)).and_then(|(s, e)| definition.get(s..e)) == Some(COLUMN))?;
    let alias = tokens.get(name.checked_sub(1)?).filter(|t| t.token == Token::As as i32)?;
    let select = tokens.first().filter(|t| t.token == Token::Select as i32)?;
    Some(definition.get(at(select.end)?..at(alias.start)?)?.trim().to_owned())
}

/// In the server's words, where they are a judgement.
pub(super) fn refused(what: &str, error: Error) -> Failure {
    if !error.is_judgement() && !error.is_data() {
        return error.into();
    }
    let primary = format!("PostgreSQL refuses the {what}: {}", error.message);
    Failure { exit: Exit::Refused, primary, ..error.into() }
}

/// Whether a publication has all tables of this schema. One of all tables of the database is refused anyway.
pub async fn is_published(conn: &Conn, schema: &str, version: u32) -> Result<bool, Failure> {
    if version < 150_000 {
        return Ok(false);
    }
    let sql = format!(
        "SELECT 1 FROM pg_catalog.pg_publication_namespace p JOIN pg_catalog.pg_namespace n ON n.oid = p.pnnspid \
         WHERE n.nspname = {} LIMIT 1",
        Literal(schema)
    );
    Ok(conn.scalar("look for publications", &sql).await?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expression_is_cut_out_of_the_view() {
        let text = " SELECT (EXTRACT(year FROM t.at) IS DISTINCT FROM '1 AS pgrecast_value'::text) AS pgrecast_value\n   FROM ONLY t;";
        let cut = cut(text);
        assert_eq!(cut.as_deref(), Some("(EXTRACT(year FROM t.at) IS DISTINCT FROM '1 AS pgrecast_value'::text)"));
    }

    #[test]
    fn functions_are_found_in_a_tree_each_once() {
        let tree =
            "{FUNCEXPR :funcid 2331 :funcretset true :args ({OPEXPR :opno 1 :opfuncid 7} {FUNCEXPR :funcid 2331})}";
        assert_eq!([numbers(tree, ":funcid "), numbers(tree, ":opfuncid ")].concat(), ["2331", "7"]);
    }
}
