//! Which old column the rows of a new table are the elements of. Pure.
//!
//! The expressions are the server's own spelling under an empty search path, so a function without a schema is PostgreSQL's.

use pg_query::protobuf::Token;
use pg_query::{Node, NodeEnum};
use serde::{Deserialize, Serialize};

use super::parts::Part;
use super::types::Value;

/// The elements of one old column in a new table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elements<'a> {
    /// The column that has them.
    pub element: &'a str,
    /// The column that numbers them.
    pub place: Option<&'a str>,
    /// What they are collected to.
    pub of: Collection,
}

/// What has elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Collection {
    /// An array of one dimension.
    Array,
    /// A `jsonb` array.
    Jsonb,
}

impl Collection {
    /// What is the same of two collections with the same elements: an array may have had several dimensions, or others places.
    pub fn alike(self, value: &str) -> String {
        match self {
            Collection::Array => format!("ARRAY(SELECT pg_catalog.unnest({value}))"),
            Collection::Jsonb => value.to_owned(),
        }
    }

    /// All elements in their order; none make an empty collection.
    pub fn collected(self, element: &str, place: &str, rows: &str) -> String {
        match self {
            Collection::Array => format!("ARRAY(SELECT {element} {rows} ORDER BY {place})"),
            Collection::Jsonb => format!(
                "(SELECT coalesce(pg_catalog.jsonb_agg({element} ORDER BY {place}), '[]'::pg_catalog.jsonb) {rows})"
            ),
        }
    }
}

/// Where the elements of a column are in a part, if they are.
pub fn elements<'a>(part: &'a Part, column: &str) -> Option<Elements<'a>> {
    let calls = || {
        part.columns.iter().filter_map(|c| match &c.value {
            Value::Converted { expression } => Some((c.name.as_str(), call(expression)?)),
            Value::Copied | Value::Volatile { .. } | Value::Constant { .. } | Value::OwnDefault | Value::Generated => {
                None
            }
        })
    };
    let own = Argument::Column(column.to_owned());
    let (element, of) = calls().find_map(|(name, call)| match (call.function.as_str(), &call.arguments[..]) {
        ("unnest", [one]) if *one == own => Some((name, Collection::Array)),
        ("jsonb_array_elements", [one]) if *one == own => Some((name, Collection::Jsonb)),
        _ => None,
    })?;
    let place = calls().find(|(_, call)| call.numbers(&own)).map(|(name, _)| name);
    Some(Elements { element, place, of })
}

/// Whether an expression may read a column; more often than it does.
pub fn reads(expression: &str, column: &str) -> bool {
    let Ok(scanned) = pg_query::scan(expression) else { return true };
    let mut behind_dot = false;
    scanned.tokens.iter().any(|token| {
        let (Ok(start), Ok(end)) = (usize::try_from(token.start), usize::try_from(token.end)) else { return true };
        let text = expression.get(start..end).unwrap_or_default();
        let word = text == column || text == crate::pg::Ident(column).to_string();
        // A row as a whole is written with a star.
        let whole = behind_dot && token.token == Token::Ascii42 as i32;
        behind_dot = token.token == Token::Ascii46 as i32;
        word || whole
    })
}

/// A call of a function of PostgreSQL's, over columns and numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Call {
    function: String,
    arguments: Vec<Argument>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Argument {
    Column(String),
    Number(i32),
    Call(Call),
}

impl Call {
    /// Whether it gives 1, 2, 3 … for the elements of a column.
    fn numbers(&self, own: &Argument) -> bool {
        let one = Argument::Number(1);
        match (self.function.as_str(), &self.arguments[..]) {
            ("generate_subscripts", [array, dimension]) => array == own && *dimension == one,
            ("generate_series", [from, Argument::Call(length)]) if *from == one => {
                match (length.function.as_str(), &length.arguments[..]) {
                    ("cardinality" | "jsonb_array_length", [of]) => of == own,
                    ("array_length", [of, dimension]) => of == own && *dimension == one,
                    _ => false,
                }
            }
            _ => false,
        }
    }
}

fn call(expression: &str) -> Option<Call> {
    let parsed = pg_query::parse(&format!("SELECT {expression}"), pg_query::ParserOptions::default()).ok()?;
    let statement = parsed.protobuf.stmts.into_iter().next()?.stmt?;
    let Some(NodeEnum::SelectStmt(select)) = statement.node else { return None };
    let [target] = &select.target_list[..] else { return None };
    let Some(NodeEnum::ResTarget(target)) = &target.node else { return None };
    match argument(target.val.as_deref()?)? {
        Argument::Call(call) => Some(call),
        Argument::Column(_) | Argument::Number(_) => None,
    }
}

fn argument(node: &Node) -> Option<Argument> {
    match node.node.as_ref()? {
        NodeEnum::FuncCall(call) => {
            let [function] = &call.funcname[..] else { return None };
            let arguments = call.args.iter().map(argument).collect::<Option<_>>()?;
            Some(Argument::Call(Call { function: text(function)?, arguments }))
        }
        NodeEnum::ColumnRef(reference) => reference.fields.last().and_then(text).map(Argument::Column),
        NodeEnum::AConst(constant) => match constant.val.as_ref()? {
            pg_query::protobuf::a_const::Val::Ival(number) => Some(Argument::Number(number.ival)),
            _ => None,
        },
        _ => None,
    }
}

fn text(node: &Node) -> Option<String> {
    match node.node.as_ref()? {
        NodeEnum::String(text) => Some(text.sval.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gives_the_elements_and_their_places_is_known() {
        let own = Argument::Column("Tags".to_owned());
        for text in [
            "generate_subscripts(t.\"Tags\", 1)",
            "generate_series(1, cardinality(\"Tags\"))",
            "generate_series(1, array_length(t.\"Tags\", 1))",
            "generate_series(1, jsonb_array_length(t.\"Tags\"))",
        ] {
            assert!(call(text).is_some_and(|call| call.numbers(&own)), "{text}");
        }
        for text in [
            "generate_subscripts(t.\"Tags\", 2)",
            "generate_subscripts(t.tags, 1)",
            "generate_series(0, cardinality(\"Tags\"))",
            "generate_series(1, app.cardinality(\"Tags\"))",
            "generate_series(1, 3)",
            "t.\"Tags\"",
            "1 + 1",
        ] {
            assert!(!call(text).is_some_and(|call| call.numbers(&own)), "{text}");
        }
    }

    #[test]
    fn a_column_that_is_read_is_found_by_its_name_or_a_star() {
        for text in ["upper(t.body)", "\"body\" || 'x'", "(t.*)::text"] {
            assert!(reads(text, "body"), "{text}");
        }
        for text in ["upper('body')", "t.bodies", "\"Body\"", "2 * 3"] {
            assert!(!reads(text, "body"), "{text}");
        }
    }
}
