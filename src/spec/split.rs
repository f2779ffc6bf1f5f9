//! A table taken apart: the new tables as typed, read with PostgreSQL's own scanner and parser. Pure.

use pg_query::protobuf::Token;
use pg_query::{NodeEnum, ParserOptions};

use crate::cli::{OnChange, TableName};
use crate::error::Failure;
use crate::pg::sql::plain_ident;

/// The most new tables: each is written by every chunk and flush.
pub const MOST_PARTS: usize = 16;

/// How a table is taken apart.
#[derive(Debug, Clone)]
pub struct Split {
    /// The new tables.
    pub into: Vec<Into>,
    /// Columns whose distinct values go to tables of their own.
    pub lookups: Vec<Lookup>,
    /// Columns that leave the table.
    pub drop: Vec<String>,
    /// Each row must belong to one of the tables with a predicate.
    pub exhaustive: bool,
    /// What the foreign key of each new table to the old one does, where there is to be one.
    pub foreign_key: Option<OnChange>,
    /// Constraints, indexes and foreign keys that go.
    pub left_off: Vec<String>,
    /// A view with the old shape.
    pub compat_view: Option<TableName>,
    /// How old columns come back from the new tables, as typed.
    pub reverse: Vec<(String, String)>,
}

/// One new table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Into {
    /// Its name.
    pub name: TableName,
    /// Its columns; `None` for all of the table's, as they are.
    pub columns: Option<Vec<Column>>,
    /// Which rows, as typed.
    pub predicate: Option<String>,
}

/// A table for the distinct values of a column, to which the table refers instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// The column that refers.
    pub reference: String,
    /// The new table.
    pub name: TableName,
    /// Its column for the values.
    pub value: String,
    /// The column that they come from.
    pub column: String,
}

/// A column of a new table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its value as typed.
    pub expression: String,
    /// The column that it is a copy of.
    pub copied: Option<String>,
}

impl Split {
    /// Whether rows leave the table; else columns do, and a predicate says which rows a new table has.
    pub fn moves_rows(&self) -> bool {
        self.drop.is_empty() && self.into.iter().any(|into| into.predicate.is_some())
    }

    /// What contradicts itself.
    ///
    /// # Errors
    /// Exit 2.
    pub fn check(&self) -> Result<(), Failure> {
        if self.into.is_empty() && self.lookups.is_empty() {
            return Err(Failure::usage("split needs --into or --lookup").hint(SYNTAX));
        }
        if self.into.len() + self.lookups.len() > MOST_PARTS {
            return Err(Failure::usage(format!("a table is split into {MOST_PARTS} new tables at most")));
        }
        let names = || self.into.iter().map(|into| &into.name).chain(self.lookups.iter().map(|lookup| &lookup.name));
        if let Some((_, twice)) = names().enumerate().find(|(at, name)| names().take(*at).any(|other| other == *name)) {
            return Err(Failure::usage(format!("two new tables are called {twice}")));
        }
        for into in &self.into {
            if into.columns.is_none() && !self.drop.is_empty() {
                return Err(Failure::usage(format!("--drop beside all columns of the table in {}", into.name)).hint(
                    "Either rows leave the table (WHERE, without --drop) or columns do: list those of the new table.",
                ));
            }
        }
        if self.moves_rows() {
            if let Some((column, _)) = self.reverse.first() {
                return Err(Failure::usage(format!("--reverse {}: rows leave the table", plain_ident(column)))
                    .hint("Each new table has the rows with their columns: list all of them."));
            }
            if let Some(all) = self.into.iter().find(|into| into.predicate.is_none()) {
                return Err(Failure::usage(format!("--into {} has no predicate, and others have one", all.name))
                    .hint("Rows leave the table: say with WHERE which of them each new table gets."));
            }
            if self.foreign_key.is_some() {
                return Err(Failure::usage("--foreign-key is not for rows that leave the table")
                    .hint("Nothing of theirs stays there that a key could refer to."));
            }
            return Ok(());
        }
        if self.exhaustive {
            return Err(Failure::usage("--exhaustive is for rows that leave the table: --into 'NEW WHERE predicate'"));
        }
        match self.drop.is_empty() && !self.into.is_empty() {
            true => Err(Failure::usage("nothing would leave the table").hint(
                "Give --drop with the columns that move, or a WHERE for the rows: --into 'NEW(…) WHERE predicate'.",
            )),
            false => Ok(()),
        }
    }
}

impl std::fmt::Display for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lookups = self.lookups.iter().map(|lookup| lookup.name.to_string());
        let into = self.into.iter().map(|into| into.name.to_string()).chain(lookups).collect::<Vec<_>>();
        write!(f, "split into {}", into.join(", "))?;
        if !self.drop.is_empty() {
            let drop = self.drop.iter().map(|c| plain_ident(c)).collect::<Vec<_>>();
            write!(f, ", without {}", drop.join(", "))?;
        }
        Ok(())
    }
}

const SYNTAX: &str = "For instance: --into 'details(id, body, title = upper(title))' --drop body,title, or --into 'archive WHERE closed'.";

impl Lookup {
    /// Reads `reference = NEW(value = column)`.
    ///
    /// # Errors
    /// Exit 2 for what PostgreSQL's grammar refuses.
    pub fn read(text: &str) -> Result<Lookup, Failure> {
        let wrong = |why: &str| {
            Failure::usage(format!("cannot read --lookup: {why}"))
                .detail(format!("The text is: {}", text.trim()))
                .hint("For instance: --lookup 'kind_id = kinds(name = kind)', where kind_id takes the place of kind.")
        };
        let tokens = scan(text, text)?;
        let equal = tokens.iter().find(|token| token.kind == Token::Ascii61).ok_or_else(|| wrong("a = is missing"))?;
        let reference: TableName =
            text[..equal.start].trim().parse().map_err(|e| wrong(&format!("the column that refers: {e}")))?;
        let into = Into::read(&text[equal.end..])
            .map_err(|failure| wrong(failure.primary.trim_start_matches("cannot read --into: ")))?;
        match (reference.schema, into.columns.as_deref(), into.predicate) {
            (None, Some([Column { name, copied: Some(column), .. }]), None) => {
                Ok(Lookup { reference: reference.name, name: into.name, value: name.clone(), column: column.clone() })
            }
            _ => Err(wrong("it is reference = NEW(value = column)")),
        }
    }
}

impl Into {
    /// Reads `NEW(newcol = expression, col, …) [WHERE predicate]`.
    ///
    /// # Errors
    /// Exit 2 for what PostgreSQL's grammar refuses.
    pub fn read(text: &str) -> Result<Into, Failure> {
        let tokens = scan(text, text)?;
        let (mut depth, mut open, mut close, mut filter) = (0_i32, None, None, None);
        for token in &tokens {
            match token.kind {
                Token::Ascii40 if filter.is_none() => {
                    if depth == 0 && open.is_none() {
                        open = Some(token.start);
                    }
                    depth += 1;
                }
                Token::Ascii41 if filter.is_none() => {
                    depth -= 1;
                    if depth == 0 && close.is_none() {
                        close = Some(token.end);
                    }
                }
                Token::Where if depth == 0 && filter.is_none() => filter = Some((token.start, token.end)),
                Token::Ascii59 => return Err(wrong(text, "a semicolon is not part of it")),
                _ if close.is_some() && filter.is_none() => {
                    return Err(wrong(text, "WHERE is all that can follow the columns"));
                }
                _ => {}
            }
        }
        let head = open.or(filter.map(|(start, _)| start)).unwrap_or(text.len());
        let name: TableName = text[..head].trim().parse().map_err(|e| wrong(text, format!("the table's name: {e}")))?;
        let columns = match (open, close) {
            (Some(open), Some(close)) => columns(text, &text[open + 1..close - 1])?,
            (Some(_), None) => return Err(wrong(text, "a parenthesis is not closed")),
            (None, _) => None,
        };
        let predicate = filter.map(|(_, end)| text[end..].trim().to_owned());
        if let Some(predicate) = &predicate {
            expression(text, predicate)?;
        }
        Ok(Into { name, columns, predicate })
    }
}

/// The columns between the parentheses.
fn columns(whole: &str, text: &str) -> Result<Option<Vec<Column>>, Failure> {
    if text.trim() == "*" {
        return Ok(None);
    }
    let mut columns: Vec<Column> = Vec::new();
    for item in items(whole, text)? {
        let column = column(whole, item)?;
        if columns.iter().any(|other| other.name == column.name) {
            return Err(wrong(whole, format!("column {} is named twice", plain_ident(&column.name))));
        }
        columns.push(column);
    }
    Ok(Some(columns))
}

/// Cuts at commas outside of parentheses and brackets.
fn items<'t>(whole: &str, text: &'t str) -> Result<Vec<&'t str>, Failure> {
    let (mut items, mut depth, mut start) = (Vec::new(), 0_i32, 0);
    for token in scan(whole, text)? {
        match token.kind {
            Token::Ascii40 | Token::Ascii91 => depth += 1,
            Token::Ascii41 | Token::Ascii93 => depth -= 1,
            Token::Ascii44 if depth == 0 => {
                items.push(&text[start..token.start]);
                start = token.end;
            }
            _ => {}
        }
    }
    items.push(&text[start..]);
    Ok(items)
}

/// `col`, or `newcol = expression` as in the SET of an UPDATE.
fn column(whole: &str, item: &str) -> Result<Column, Failure> {
    let tokens = scan(whole, item)?;
    let [first, rest @ ..] = &tokens[..] else { return Err(wrong(whole, "a column is missing")) };
    let name = |text: &str| {
        let parsed = text.parse::<TableName>().map_err(|e| wrong(whole, e))?;
        match parsed.schema {
            None => Ok(parsed.name),
            Some(_) => Err(wrong(whole, format!("{text} is not the name of a column"))),
        }
    };
    match rest.first() {
        None => {
            let name = name(item[first.start..first.end].trim())?;
            Ok(Column { expression: crate::pg::Ident(&name).to_string(), copied: Some(name.clone()), name })
        }
        Some(equal) if equal.kind == Token::Ascii61 => {
            let text = item[equal.end..].trim();
            let copied = expression(whole, text)?;
            Ok(Column { name: name(item[..equal.start].trim())?, expression: text.to_owned(), copied })
        }
        Some(_) => Err(wrong(whole, format!("{} is neither a column nor newcol = expression", item.trim()))),
    }
}

/// Whether this is one expression; gives the column where it is nothing else.
fn expression(whole: &str, text: &str) -> Result<Option<String>, Failure> {
    // The newline ends a comment that it may close with. What is one in parentheses and without them closes none that it
    // has not opened, and is followed by nothing.
    let read = |set: String| {
        pg_query::parse(&format!("UPDATE t SET c = {set}"), ParserOptions::default())
            .map_err(|e| wrong(whole, format!("{text}: {e}")))
    };
    read(format!("{text}\n"))?;
    let parsed = read(format!("({text}\n)"))?;
    let node = match &parsed.protobuf.stmts[..] {
        [only] => only.stmt.as_ref().and_then(|s| s.node.as_ref()),
        _ => None,
    };
    let Some(NodeEnum::UpdateStmt(update)) = node else { return Err(wrong(whole, format!("{text} is no expression"))) };
    let value = match &update.target_list[..] {
        [only] => match &only.node {
            Some(NodeEnum::ResTarget(target)) => target.val.as_ref().and_then(|v| v.node.as_ref()),
            _ => None,
        },
        _ => None,
    };
    let value = value.ok_or_else(|| wrong(whole, format!("{text} is no expression")))?;
    let NodeEnum::ColumnRef(reference) = value else { return Ok(None) };
    match &reference.fields[..] {
        [only] => match &only.node {
            Some(NodeEnum::String(name)) => Ok(Some(name.sval.clone())),
            _ => Ok(None),
        },
        _ => Ok(None),
    }
}

/// A token, with its place in the text.
struct Found {
    kind: Token,
    start: usize,
    end: usize,
}

/// The tokens of a text, without comments.
fn scan(whole: &str, text: &str) -> Result<Vec<Found>, Failure> {
    let scanned = pg_query::scan(text).map_err(|e| wrong(whole, e))?;
    let found = scanned.tokens.iter().filter_map(|token| {
        let kind = Token::try_from(token.token).ok()?;
        let (start, end) = (usize::try_from(token.start).ok()?, usize::try_from(token.end).ok()?);
        (!matches!(kind, Token::SqlComment | Token::CComment)).then_some(Found { kind, start, end })
    });
    Ok(found.collect())
}

fn wrong(text: &str, why: impl std::fmt::Display) -> Failure {
    Failure::usage(format!("cannot read --into: {why}")).detail(format!("The text is: {}", text.trim())).hint(SYNTAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    fn read(text: &str) -> Into {
        Into::read(text).expect("reads")
    }

    #[test]
    fn columns_expressions_and_predicates_are_cut_where_the_parser_cuts() {
        let into = read(
            "App.\"De tails\"(id, \"Body\", b = body, meta = upper(meta || '),') || 'a,b' = 'x' OR d, e = (x)[1] /* ) */) WHERE a IN (1, 2) AND b = ')'",
        );
        assert_eq!(into.name, TableName { schema: Some("app".into()), name: "De tails".into() });
        let columns = into.columns.expect("columns");
        let names: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["id", "Body", "b", "meta", "e"]);
        assert_eq!(columns[1].copied.as_deref(), Some("Body"));
        assert_eq!(columns[2].copied.as_deref(), Some("body"));
        assert_eq!(
            (columns[3].expression.as_str(), &columns[3].copied),
            ("upper(meta || '),') || 'a,b' = 'x' OR d", &None)
        );
        assert_eq!(into.predicate.as_deref(), Some("a IN (1, 2) AND b = ')'"));
    }

    #[test]
    fn all_columns_are_meant_by_a_star_or_none() {
        for text in ["old WHERE closed", "old(*) WHERE closed", "old ( * ) WHERE closed"] {
            let into = read(text);
            assert_eq!((into.columns, into.predicate.as_deref()), (None, Some("closed")), "{text}");
        }
    }

    #[test]
    fn what_is_no_table_with_columns_is_refused() {
        for text in [
            "",
            "(a)",
            "t(a",
            "t()",
            "t(a,)",
            "t(a b)",
            "t(a = )",
            "t(a = b c)",
            "t(a, a)",
            "t(a) WHERE",
            "t(a) x",
            "t(a); DROP TABLE t",
            "t(a = (SELECT)",
            "t(s.a)",
            "t(a) WHERE x; y",
            "t(a = b) WHERE a) OR (b",
            "t(a, *)",
        ] {
            match Into::read(text) {
                Err(failure) => assert_eq!(failure.exit, Exit::Usage, "{text}: {failure}"),
                Ok(into) => panic!("{text} was taken: {into:?}"),
            }
        }
    }

    #[test]
    fn a_table_of_values_is_read_with_what_refers_to_it() {
        let read = Lookup::read("kind_id = app.\"Kinds\"(name = kind)").expect("reads");
        assert_eq!((read.reference.as_str(), read.value.as_str(), read.column.as_str()), ("kind_id", "name", "kind"));
        assert_eq!(Lookup::read("k = kinds(kind)").map(|l| l.value).ok().as_deref(), Some("kind"));
        for text in [
            "kinds(name = kind)",
            "k = kinds",
            "k = kinds(a, b)",
            "k = kinds(n = upper(a))",
            "k = kinds(n = a) WHERE b",
            "s.k = kinds(a)",
        ] {
            assert!(Lookup::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn either_columns_leave_or_rows() {
        let split = |into: &[&str], drop: &[&str]| Split {
            into: into.iter().map(|text| read(text)).collect(),
            lookups: Vec::new(),
            drop: drop.iter().map(|c| (*c).to_owned()).collect(),
            exhaustive: false,
            foreign_key: None,
            left_off: Vec::new(),
            compat_view: None,
            reverse: Vec::new(),
        };
        assert!(split(&["a(x)"], &["x"]).check().is_ok());
        assert!(
            split(&["a(x) WHERE x > 1"], &["x"])
                .check()
                .is_ok_and(|()| !split(&["a(x) WHERE x > 1"], &["x"]).moves_rows())
        );
        assert!(split(&["a WHERE x", "b(id) WHERE y"], &[]).check().is_ok());
        for wrong in [
            split(&["a(x)"], &[]),
            split(&["a WHERE x"], &["x"]),
            split(&["a WHERE x", "b(id)"], &[]),
            split(&["a(x)", "a(y)"], &["x"]),
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
        let all = Split { exhaustive: true, ..split(&["a(x)"], &["x"]) };
        assert!(all.check().is_err());
    }
}
