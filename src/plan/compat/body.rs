//! The function of a view's trigger. Pure.
//!
//! A trigger in the place of a statement sees the row as the statement's snapshot has it. Whoever else has changed it since
//! would be overwritten, so the row is locked and read again first, and a statement that began with another version of it
//! ends with a serialization failure: nothing is lost, and it may be tried again (PostgreSQL manual, "Rules and Privileges" and
//! "Transaction Isolation").

use super::super::elements::reads;
use super::super::former::Former;
use super::super::lookups::{Lookup, NUMBER};
use super::super::parts::Part;
use super::super::shape::{Column, Origin};
use super::super::types::{KeyColumn, Plan, TargetColumn, Value, Writing};
use crate::pg::sql::{ident_list, plain_ident};
use crate::pg::{Ident, Literal, QualifiedName};

/// What another row's version is called in the function, and the place of a row.
const NOW: &str = "\"#now\"";
const PLACE: &str = "\"#place\"";
const WAS: &str = "\"#was\"";
const WORDS: &str = "\"#words\"";

/// The whole body.
pub(super) fn body(plan: &Plan, former: &Former) -> String {
    let writer = Writer::new(plan);
    let again = former.select_where(|key| {
        let columns = key.iter().zip(&plan.key.columns);
        let columns = columns.map(|(column, k)| format!("{column} {} OLD.{}", k.source_equal, Ident(&k.source)));
        columns.collect::<Vec<_>>().join(" AND ")
    });
    let steps = match plan.rows.is_some() {
        true => writer.rows(&again),
        false => writer.columns(&again),
    };
    format!(
        "\n#variable_conflict use_column\nDECLARE\n  {NOW} record;\n  {PLACE} pg_catalog.int4 := 0;\n  \
         {WAS} pg_catalog.int4 := 0;\n  {WORDS} pg_catalog.text;\nBEGIN\n{}END\n",
        indented(&steps)
    )
}

/// Two more spaces before each line, but for those within a literal or a quoted name.
fn indented(text: &str) -> String {
    let (mut out, mut quote, mut begins) = (String::with_capacity(text.len() + 64), None, true);
    for c in text.chars() {
        if begins && c != '\n' {
            out.push_str("  ");
        }
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            (_, _) => {}
        }
        begins = c == '\n' && quote.is_none();
        out.push(c);
    }
    if !out.is_empty() && !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

/// A table that rows are written to.
struct Place<'a> {
    table: &'a QualifiedName,
    columns: &'a [TargetColumn],
    key: &'a [KeyColumn],
    /// The columns that are written, with their expressions over the old row.
    written: Vec<(String, String)>,
    /// Those that may not be set but by an INSERT.
    fixed: Vec<String>,
    overriding: &'static str,
    /// Which old rows it has.
    rows: Option<&'a String>,
}

struct Writer<'a> {
    plan: &'a Plan,
    /// The old row that is to be, under the source's alias.
    new: String,
    rest: Place<'a>,
    parts: Vec<(&'a Part, Place<'a>)>,
}

impl<'a> Writer<'a> {
    fn new(plan: &'a Plan) -> Self {
        let numbered = |c: &TargetColumn| {
            let lookup = plan.lookups.iter().find(|lookup| lookup.reference == c.name);
            let expression = lookup.map(|lookup| number(plan, lookup)).or_else(|| c.expression())?;
            Some((c.name.clone(), expression))
        };
        let rest = Place {
            table: &plan.target.name,
            columns: &plan.columns,
            key: &plan.key.columns,
            written: plan.columns.iter().filter_map(numbered).collect(),
            fixed: always(&plan.target.columns),
            overriding: plan.overriding(),
            rows: None,
        };
        let part = |(part, own): (&'a Part, Plan)| {
            let place = Place {
                table: &part.target.name,
                columns: &part.columns,
                key: &part.key.columns,
                written: own.written().into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
                fixed: always(&part.target.columns),
                overriding: own.overriding(),
                rows: part.rows.as_ref(),
            };
            (part, place)
        };
        let parts = plan.parts.iter().zip(plan.part_plans()).map(part).collect();
        Writer { plan, new: format!("(SELECT NEW.*) AS {}", plan.alias()), rest, parts }
    }

    /// Where columns leave: each row has one in the table, and what the new tables are to have of it.
    fn columns(&self, again: &str) -> String {
        let mut insert = self.before();
        insert.push_str(&self.number_values(None));
        insert.push_str(&self.insert(&self.rest, true));
        insert.push_str("IF NOT FOUND THEN\n  RETURN NULL;\nEND IF;\n");
        for (_, part) in &self.parts {
            insert.push_str(&self.insert(part, false));
        }
        insert.push_str("RETURN NEW;\n");

        let mut seen = lock(&self.rest);
        seen.push_str("IF NOT FOUND THEN\n  RETURN NULL;\nEND IF;\n");
        seen.extend(self.parts.iter().map(|(_, part)| lock(part)));
        seen.push_str(&unchanged(again));

        let mut delete = seen.clone();
        let (with, before): (Vec<_>, Vec<_>) = self.parts.iter().partition(|(part, _)| goes_along(part));
        delete.extend(before.iter().map(|(_, part)| delete_old(part)));
        delete.push_str(&delete_old(&self.rest));
        delete.push_str(&suppressed(!before.is_empty()));
        delete.extend(with.iter().map(|(_, part)| delete_old(part)));
        delete.push_str("RETURN OLD;\n");

        let key: Vec<&str> = self.plan.key.columns.iter().map(|k| k.source.as_str()).collect();
        let mut update = seen + &self.before();
        update.push_str(&self.number_values(Some(())));
        update.push_str(&format!("IF {} THEN\n  {PLACE} := 1;\n", differs(&key)));
        update.extend(self.parts.iter().map(|(_, part)| indented(&delete_old(part))));
        update.push_str("END IF;\n");
        update.push_str(&self.update(&self.rest));
        update.push_str(&format!(
            "IF NOT FOUND THEN\n  IF {PLACE} = 1 THEN\n{}  END IF;\n  RETURN NULL;\nEND IF;\n",
            indented(&indented(RAISE_SUPPRESSED))
        ));
        for (part, place) in &self.parts {
            let write = match part.key.writing == Writing::All {
                true => format!("{}{}", delete_old(place), self.insert(place, false)),
                false => self.bring(place),
            };
            let condition = format!("{PLACE} = 1 OR {}", differs(&self.read_by(part)));
            update.push_str(&format!("IF {condition} THEN\n{}END IF;\n", indented(&write)));
        }
        update.push_str("RETURN NEW;\n");
        by_operation(&insert, &update, &delete)
    }

    /// Where rows leave: each row is in one of the tables.
    fn rows(&self, again: &str) -> String {
        let places = || std::iter::once(&self.rest).chain(self.parts.iter().map(|(_, place)| place)).enumerate();
        let each = |variable: &str, of: &dyn Fn(&Place<'_>) -> String| {
            let when = places().map(|(n, place)| format!("WHEN {n} THEN\n{}", indented(&of(place))));
            format!("CASE {variable}\n{}END CASE;\n", indented(&when.collect::<String>()))
        };
        // Where the row is now, whatever its predicate says.
        let mut seen = String::new();
        for (n, place) in places().collect::<Vec<_>>().into_iter().rev() {
            let found = format!("{}IF FOUND THEN\n  {WAS} := {n};\n", lock(place));
            let otherwise = match seen.is_empty() {
                true => "ELSE\n  RETURN NULL;\n".to_owned(),
                false => format!("ELSE\n{}", indented(&seen)),
            };
            seen = format!("{found}{otherwise}END IF;\n");
        }
        seen.push_str(&unchanged(again));

        // Where it is to be.
        let mut put = self.before();
        if let Some(misplaced) = self.plan.misplaced() {
            put.push_str(&format!(
                "SELECT {} INTO {WORDS} FROM {} WHERE {misplaced};\nIF FOUND THEN\n  RAISE EXCEPTION USING ERRCODE = 'check_violation', MESSAGE = {WORDS};\nEND IF;\n",
                self.plan.misplaced_words(),
                self.new
            ));
        }
        let when = self.parts.iter().enumerate().filter_map(|(n, (part, _))| {
            Some(format!(" WHEN (SELECT {} FROM {}) THEN {}", part.rows.as_ref()?, self.new, n + 1))
        });
        put.push_str(&format!("{PLACE} := CASE{} ELSE 0 END;\n", when.collect::<String>()));
        if !self.plan.lookups.is_empty() {
            put.push_str(&format!("IF {PLACE} = 0 THEN\n{}END IF;\n", indented(&self.number_values(None))));
        }

        let mut insert = put.clone();
        insert.push_str(&each(PLACE, &|place| self.alone(place)));
        insert.push_str(&each(PLACE, &|place| self.insert(place, true)));
        insert.push_str("IF NOT FOUND THEN\n  RETURN NULL;\nEND IF;\nRETURN NEW;\n");

        let key: Vec<&str> = self.plan.key.columns.iter().map(|k| k.source.as_str()).collect();
        let mut update = seen.clone() + &put;
        update.push_str(&format!(
            "IF {} THEN\n{}END IF;\nIF {PLACE} = {WAS} THEN\n{}ELSE\n{}  IF FOUND THEN\n{}  END IF;\nEND IF;\n",
            differs(&key),
            indented(&each(PLACE, &|place| self.alone(place))),
            indented(&each(WAS, &|place| self.update(place))),
            indented(&each(WAS, &delete_old)),
            indented(&indented(&each(PLACE, &|place| self.insert(place, true)))),
        ));
        update.push_str("IF NOT FOUND THEN\n  RETURN NULL;\nEND IF;\nRETURN NEW;\n");

        let mut delete = seen;
        delete.push_str(&each(WAS, &delete_old));
        delete.push_str("IF NOT FOUND THEN\n  RETURN NULL;\nEND IF;\nRETURN OLD;\n");
        by_operation(&insert, &update, &delete)
    }

    /// What the old table saw to itself: generated columns, and NOT NULL where the table that has the column now does not.
    fn before(&self) -> String {
        let source = &self.plan.source;
        let mut steps = String::new();
        for column in source.columns.iter().filter(|c| c.origin.is_generated()) {
            if let Some(expression) = &column.default {
                steps.push_str(&format!("NEW.{} := (SELECT {expression} FROM {});\n", Ident(&column.name), self.new));
            }
        }
        let gone = |c: &&Column| c.not_null && self.plan.name_after(&c.name).is_none();
        for column in source.columns.iter().filter(gone) {
            let message =
                format!("null value in column {} of the view violates not-null constraint", Ident(&column.name));
            steps.push_str(&format!(
                "IF NEW.{} IS NULL THEN\n  RAISE EXCEPTION USING ERRCODE = 'not_null_violation', MESSAGE = {};\nEND IF;\n",
                Ident(&column.name),
                Literal(&message)
            ));
        }
        steps
    }

    /// Values that have no number yet get one; those that the old row had have one.
    fn number_values(&self, update: Option<()>) -> String {
        let one = |lookup: &Lookup| {
            let (table, value, column) = (&lookup.target.name, Ident(&lookup.value), Ident(&lookup.source));
            let wanted = format!("NEW.{column} IS NOT NULL");
            let wanted = match update {
                Some(()) => format!("{wanted} AND {}", differs(&[lookup.source.as_str()])),
                None => wanted,
            };
            let there = format!("SELECT 1 FROM {table} AS \"#lookup\" WHERE \"#lookup\".{value} = NEW.{column}");
            format!(
                "IF {wanted} AND NOT EXISTS ({there}) THEN\n  INSERT INTO {table} ({value}) VALUES (NEW.{column}) ON CONFLICT DO NOTHING;\n\
                 \x20 IF NOT EXISTS ({there}) THEN\n    RAISE EXCEPTION USING ERRCODE = 'serialization_failure', MESSAGE = {};\n  END IF;\nEND IF;\n",
                Literal(&format!("a value of {} came and went meanwhile", table.plain()))
            )
        };
        self.plan.lookups.iter().map(one).collect()
    }

    /// The row, into a table; as that has it then, the row is the statement's result.
    fn insert(&self, place: &Place<'_>, returns: bool) -> String {
        let (columns, values): (Vec<_>, Vec<_>) =
            place.written.iter().map(|(name, value)| (name.as_str(), value.as_str())).unzip();
        let rows = match (returns, place.rows) {
            (false, Some(rows)) => format!(" WHERE {rows}"),
            (_, _) => String::new(),
        };
        format!(
            "INSERT INTO {} AS \"#table\" ({}){}\n  SELECT {} FROM {}{rows}{};\n",
            place.table,
            ident_list(columns),
            place.overriding,
            values.join(", "),
            self.new,
            if returns { self.returning(place) } else { String::new() }
        )
    }

    /// The row that the table has, as it is to be.
    fn update(&self, place: &Place<'_>) -> String {
        let mut steps = String::new();
        let fixed = place.columns.iter().filter(|c| place.fixed.contains(&c.name)).filter_map(|c| c.source.as_deref());
        for column in fixed {
            let message = format!("column {} can only be updated to DEFAULT", Ident(column));
            steps.push_str(&format!(
                "IF {} THEN\n  RAISE EXCEPTION USING ERRCODE = 'generated_always', MESSAGE = {};\nEND IF;\n",
                differs(&[column]),
                Literal(&message)
            ));
        }
        steps + &self.set(place, &self.returning(place))
    }

    fn set(&self, place: &Place<'_>, returning: &str) -> String {
        let is_set = |name: &str| {
            let column = place.columns.iter().find(|c| c.name == name);
            column.is_some_and(TargetColumn::is_derived) && !place.fixed.iter().any(|fixed| fixed == name)
        };
        let set = place.written.iter().filter(|(name, _)| is_set(name));
        let (columns, values): (Vec<_>, Vec<_>) = set.map(|(name, value)| (name.as_str(), value.as_str())).unzip();
        if columns.is_empty() {
            // An identity column and nothing else: the row is there, and stays.
            return lock(place);
        }
        format!(
            "UPDATE {} AS \"#table\" SET ({}) =\n  (SELECT {} FROM {})\n  WHERE {}{returning};\n",
            place.table,
            ident_list(columns),
            values.join(", "),
            self.new,
            of_old(place)
        )
    }

    /// The one row of the old row's key, where it is to have one.
    fn bring(&self, place: &Place<'_>) -> String {
        let there =
            format!("{}IF NOT FOUND THEN\n{}END IF;\n", self.set(place, ""), indented(&self.insert(place, false)));
        match place.rows {
            None => there,
            Some(rows) => format!(
                "IF (SELECT {rows} FROM {}) THEN\n{}ELSE\n{}END IF;\n",
                self.new,
                indented(&there),
                indented(&delete_old(place))
            ),
        }
    }

    /// A key that another table has already.
    fn alone(&self, place: &Place<'_>) -> String {
        let others = std::iter::once(&self.rest).chain(self.parts.iter().map(|(_, place)| place));
        let others = others.filter(|other| other.table != place.table).map(|other| {
            let key = self.plan.key.columns.iter().zip(other.key);
            let key = key.map(|(own, k)| {
                format!("\"#table\".{} {} NEW.{}", Ident(&k.target), own.source_equal, Ident(&own.source))
            });
            let key = key.collect::<Vec<_>>().join(" AND ");
            let shown = self.plan.key.columns.iter().map(|k| plain_ident(&k.source)).collect::<Vec<_>>().join(", ");
            let message = format!("{} has a row with this key ({shown}) already", other.table.plain());
            format!(
                "IF EXISTS (SELECT 1 FROM {} AS \"#table\" WHERE {key}) THEN\n  RAISE EXCEPTION USING ERRCODE = 'unique_violation', MESSAGE = {};\nEND IF;\n",
                other.table,
                Literal(&message)
            )
        });
        others.collect()
    }

    fn returning(&self, place: &Place<'_>) -> String {
        let is_old = |c: &&TargetColumn| matches!(c.value, Value::Copied | Value::Generated);
        let kept = place.columns.iter().filter(is_old).filter_map(|c| Some((c.name.as_str(), c.source.as_deref()?)));
        let (own, old): (Vec<_>, Vec<_>) =
            kept.map(|(own, old)| (format!("\"#table\".{}", Ident(own)), format!("NEW.{}", Ident(old)))).unzip();
        format!("\n  RETURNING {} INTO {}", own.join(", "), old.join(", "))
    }

    /// The old columns that what a part has may come from; rather too many.
    fn read_by(&self, part: &Part) -> Vec<&'a str> {
        let columns = self.plan.source.columns.iter().map(|c| c.name.as_str());
        let used = |name: &&str| {
            part.rows.as_ref().is_some_and(|rows| reads(rows, name))
                || part.columns.iter().any(|c| match &c.value {
                    Value::Copied => c.source.as_deref() == Some(*name),
                    Value::Converted { expression } => reads(expression, name),
                    Value::Volatile { .. } | Value::Constant { .. } | Value::OwnDefault | Value::Generated => false,
                })
        };
        columns.filter(used).collect()
    }
}

fn by_operation(insert: &str, update: &str, delete: &str) -> String {
    format!(
        "IF TG_OP = 'INSERT' THEN\n{}ELSIF TG_OP = 'UPDATE' THEN\n{}ELSE\n{}END IF;\n",
        indented(insert),
        indented(update),
        indented(delete)
    )
}

/// The number of the old row's value.
fn number(plan: &Plan, lookup: &Lookup) -> String {
    format!(
        "(SELECT \"#lookup\".{} FROM {} AS \"#lookup\" WHERE \"#lookup\".{} = {}.{})",
        Ident(NUMBER),
        lookup.target.name,
        Ident(&lookup.value),
        plan.alias(),
        Ident(&lookup.source)
    )
}

/// Columns that only an INSERT may set.
fn always(columns: &[Column]) -> Vec<String> {
    columns.iter().filter(|c| c.origin == Origin::IdentityAlways).map(|c| c.name.clone()).collect()
}

/// Whether a part's rows go with the table's, or must go before them.
fn goes_along(part: &Part) -> bool {
    part.foreign_key.as_ref().is_none_or(|key| key.definition.contains(" ON DELETE CASCADE"))
}

/// Whether columns of the row change, by what is stored: some types know no equality.
fn differs(columns: &[&str]) -> String {
    let row = |of: &str| columns.iter().map(|c| format!("{of}.{}", Ident(c))).collect::<Vec<_>>().join(", ");
    match columns.is_empty() {
        true => "false".to_owned(),
        // As records: two row constructors side by side would be compared column by column.
        false => format!("ROW({})::record OPERATOR(pg_catalog.*<>) ROW({})::record", row("NEW"), row("OLD")),
    }
}

fn of_old(place: &Place<'_>) -> String {
    let key = place
        .key
        .iter()
        .map(|k| format!("\"#table\".{} {} OLD.{}", Ident(&k.target), k.source_equal, Ident(&k.source)));
    key.collect::<Vec<_>>().join(" AND ")
}

fn lock(place: &Place<'_>) -> String {
    format!("PERFORM 1 FROM {} AS \"#table\" WHERE {} FOR NO KEY UPDATE;\n", place.table, of_old(place))
}

fn delete_old(place: &Place<'_>) -> String {
    format!("DELETE FROM {} AS \"#table\" WHERE {};\n", place.table, of_old(place))
}

/// The row as it is now must be the one that the statement saw.
fn unchanged(again: &str) -> String {
    format!(
        "SELECT \"#row\".* INTO {NOW} FROM (\n{}) AS \"#row\";\nIF {NOW} OPERATOR(pg_catalog.*<>) OLD THEN\n  \
         RAISE EXCEPTION USING ERRCODE = 'serialization_failure', MESSAGE = 'could not serialize access due to concurrent update';\nEND IF;\n",
        indented(again)
    )
}

const RAISE_SUPPRESSED: &str = "RAISE EXCEPTION USING ERRCODE = 'triggered_data_change_violation', \
    MESSAGE = 'a trigger of the table kept its row as it was, whose rows in the new tables are gone';\n";

/// Where a trigger of the table's own let nothing happen.
fn suppressed(gone_before: bool) -> String {
    match gone_before {
        true => format!("IF NOT FOUND THEN\n{}END IF;\n", indented(RAISE_SUPPRESSED)),
        false => "IF NOT FOUND THEN\n  RETURN NULL;\nEND IF;\n".to_owned(),
    }
}
