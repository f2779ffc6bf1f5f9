//! By what a table is to be partitioned, read from what was typed. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::cli::{Partition, PartitionBy};
use crate::error::Failure;
use crate::pg::sql::plain_ident;

/// The most partitions that are made at a time: the swap takes a lock on each of them and on each of their indexes.
pub const MOST_PARTITIONS: usize = 1_000;

/// What the table is to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partitioning {
    /// By what.
    pub by: By,
    /// By what each partition is partitioned again, level by level.
    pub below: Vec<By>,
    /// Whether rows that belong nowhere else get a partition.
    pub default: bool,
    /// Constraints, indexes and foreign keys that are left off.
    pub left_off: Vec<String>,
    /// Whether pg_partman is to make the partitions that follow.
    pub managed: bool,
}

/// How the partitions of a series are called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Naming {
    /// `t_2026_11`.
    #[default]
    Plain,
    /// `t_p2026_11`, as pg_partman knows them again.
    Partman,
}

/// Kinds of partitioning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// RANGE, by steps of one length over the values that there are.
    Series {
        /// The column.
        column: String,
        /// From one bound to the next.
        step: Step,
        /// The time zone of a `timestamptz` column's bounds; UTC where none.
        zone: Option<String>,
        /// Partitions beyond the last row's.
        premake: u32,
    },
    /// RANGE, from each of these bounds to the next.
    Bounds {
        /// The columns.
        columns: Vec<String>,
        /// At least two, each with a value for each column.
        bounds: Vec<Vec<Value>>,
        /// The time zone of bounds that do not name theirs.
        zone: Option<String>,
    },
    /// LIST.
    List {
        /// The column.
        column: String,
        /// Those of each partition.
        values: Vec<Vec<Value>>,
    },
    /// HASH.
    Hash {
        /// The columns.
        columns: Vec<String>,
        /// How many.
        partitions: u32,
    },
    /// Not at all: a partitioned table becomes a plain one.
    Nothing,
}

/// The length of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Calendar days.
    Days(u32),
    /// Calendar weeks, from Monday.
    Weeks(u32),
    /// Calendar months.
    Months(u32),
    /// Of a whole number.
    Numbers(u64),
}

/// A value in a bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// As the column's type reads it.
    Text(String),
    /// NULL.
    Null,
    /// MINVALUE.
    Least,
    /// MAXVALUE.
    Most,
}

impl Partitioning {
    /// Reads what was typed.
    ///
    /// # Errors
    /// Exit 2, naming the option.
    pub fn read(typed: &Partition) -> Result<Partitioning, Failure> {
        let Partition { by, below, default_partition: default, drop_constraints, pg_partman, .. } = typed;
        let default = *default;
        if default && matches!(by, PartitionBy::Hash { .. }) {
            return Err(Failure::usage("--default-partition is not for --hash").hint("Every row has a partition then."));
        }
        let by = By::read(by, default)?;
        let below = below.iter().map(|below| By::read(below, default)).collect::<Result<Vec<_>, _>>()?;
        let (mut made, mut of_level) = (0, 1_usize);
        for by in std::iter::once(&by).chain(&below) {
            of_level = of_level.saturating_mul(by.least());
            made = of_level.saturating_add(made);
        }
        if made > MOST_PARTITIONS {
            return Err(Failure::usage(format!("{made} partitions are more than {MOST_PARTITIONS}")));
        }
        Ok(Partitioning { by, below, default, left_off: drop_constraints.clone(), managed: *pg_partman })
    }

    /// How the partitions of a series are called.
    pub fn naming(&self) -> Naming {
        if self.managed { Naming::Partman } else { Naming::Plain }
    }

    /// The levels, from the table's own down.
    pub fn levels(&self) -> impl Iterator<Item = &By> {
        std::iter::once(&self.by).chain(&self.below)
    }

    /// The columns of all levels, in order.
    pub fn columns(&self) -> Vec<String> {
        let mut columns = Vec::new();
        for column in self.levels().flat_map(By::columns) {
            if !columns.contains(column) {
                columns.push(column.clone());
            }
        }
        columns
    }
}

impl By {
    fn read(by: &PartitionBy, default: bool) -> Result<By, Failure> {
        Ok(match by {
            PartitionBy::Every { column, every, zone, premake } => {
                By::Series { column: column.clone(), step: Step::read(every)?, zone: zone.clone(), premake: *premake }
            }
            PartitionBy::Bounds { columns, bounds, zone } => {
                By::Bounds { columns: columns.clone(), bounds: read_bounds(bounds, columns)?, zone: zone.clone() }
            }
            PartitionBy::List { column, values } => {
                By::List { column: column.clone(), values: read_lists(values, default)? }
            }
            PartitionBy::Hash { columns, partitions } => By::Hash { columns: columns.clone(), partitions: *partitions },
            PartitionBy::Nothing => {
                if default {
                    return Err(Failure::usage("--default-partition is not for --none"));
                }
                By::Nothing
            }
        })
    }

    /// How many partitions there will be at the least.
    fn least(&self) -> usize {
        match self {
            By::Series { .. } | By::Nothing => 1,
            By::Bounds { bounds, .. } => bounds.len() - 1,
            By::List { values, .. } => values.len(),
            By::Hash { partitions, .. } => usize::try_from(*partitions).unwrap_or(usize::MAX),
        }
    }

    /// The columns, in order.
    pub fn columns(&self) -> &[String] {
        match self {
            By::Series { column, .. } | By::List { column, .. } => std::slice::from_ref(column),
            By::Bounds { columns, .. } | By::Hash { columns, .. } => columns,
            By::Nothing => &[],
        }
    }

    /// RANGE, LIST or HASH.
    pub fn strategy(&self) -> Option<&'static str> {
        match self {
            By::Series { .. } | By::Bounds { .. } => Some("RANGE"),
            By::List { .. } => Some("LIST"),
            By::Hash { .. } => Some("HASH"),
            By::Nothing => None,
        }
    }

    /// Whether a row with NULL in one of the columns has a partition.
    pub fn takes_null(&self, default: bool) -> bool {
        default
            || match self {
                By::Series { .. } | By::Bounds { .. } => false,
                By::List { values, .. } => values.iter().flatten().any(|value| *value == Value::Null),
                By::Hash { .. } | By::Nothing => true,
            }
    }
}

impl fmt::Display for Partitioning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.by)?;
        self.below.iter().try_for_each(|below| write!(f, ", each {below}"))
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.columns().iter().map(|c| plain_ident(c)).collect::<Vec<_>>().join(", ");
        let Some(strategy) = self.strategy() else { return f.write_str("without partitions") };
        write!(f, "PARTITION BY {strategy} ({columns})")?;
        match self {
            By::Series { step, zone: None, .. } => write!(f, " every {step}"),
            By::Series { step, zone: Some(zone), .. } => write!(f, " every {step} in {zone}"),
            By::Bounds { bounds, .. } => write!(f, " with {} bounds", bounds.len()),
            By::List { values, .. } => write!(f, " with {} lists", values.len()),
            By::Hash { partitions, .. } => write!(f, " into {partitions}"),
            By::Nothing => Ok(()),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (n, unit) = match *self {
            Step::Days(n) => (u64::from(n), "day"),
            Step::Weeks(n) => (u64::from(n), "week"),
            Step::Months(n) => (u64::from(n), "month"),
            Step::Numbers(n) => return write!(f, "{n}"),
        };
        write!(f, "{n} {unit}{}", if n == 1 { "" } else { "s" })
    }
}

impl Step {
    /// `1 month`, `2 weeks`, `day`, `1000000`.
    fn read(text: &str) -> Result<Step, Failure> {
        let wrong = || {
            Failure::usage(format!("--every {text:?} is not a length of partitions")).hint(
                "Write it as '1 month', '2 weeks', '1 day', '1 quarter', '1 year' or, for whole numbers, 1000000.",
            )
        };
        let typed = text.trim();
        let digits = typed.len() - typed.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (count, unit) = typed.split_at(digits);
        let count: u64 = if count.is_empty() { 1 } else { count.parse().map_err(|_| wrong())? };
        let unit = unit.trim().to_ascii_lowercase();
        if count == 0 {
            return Err(wrong());
        }
        // A thousand years in one partition are a mistake.
        let calendar = |of_one: u64, most: u64| {
            let n = count.checked_mul(of_one).filter(|n| *n <= most).ok_or_else(wrong)?;
            u32::try_from(n).map_err(|_| wrong())
        };
        match unit.strip_suffix('s').unwrap_or(&unit) {
            "day" => Ok(Step::Days(calendar(1, 366_000)?)),
            "week" => Ok(Step::Weeks(calendar(1, 52_000)?)),
            "month" => Ok(Step::Months(calendar(1, 12_000)?)),
            "quarter" => Ok(Step::Months(calendar(3, 12_000)?)),
            "year" => Ok(Step::Months(calendar(12, 12_000)?)),
            "" if digits > 0 => Ok(Step::Numbers(count)),
            _ => Err(wrong()),
        }
    }
}

fn read_bounds(text: &str, columns: &[String]) -> Result<Vec<Vec<Value>>, Failure> {
    let wrong = |why: String| {
        Failure::usage(format!("--bounds {text:?}: {why}")).hint(
            "Write A,B,C for partitions from A to B and from B to C; for several columns (A1,A2),(B1,B2); \
             MINVALUE and MAXVALUE stand for the ends; a value with a comma goes in single quotes.",
        )
    };
    let mut bounds = Vec::new();
    for item in split(text, ',').map_err(wrong)? {
        let values = match item.strip_prefix('(').and_then(|t| t.strip_suffix(')')) {
            Some(inner) => split(inner, ',').map_err(wrong)?.into_iter().map(value).collect::<Result<Vec<_>, _>>(),
            None => value(item).map(|one| vec![one]),
        };
        let values = values.map_err(wrong)?;
        if values.len() != columns.len() {
            return Err(wrong(format!("{item} has {} values for {} columns", values.len(), columns.len())));
        }
        if values.contains(&Value::Null) {
            return Err(wrong("NULL is in no range".to_owned()));
        }
        bounds.push(values);
    }
    match bounds.len() {
        0 | 1 => Err(wrong("two bounds are the least".to_owned())),
        _ => Ok(bounds),
    }
}

fn read_lists(text: &str, default: bool) -> Result<Vec<Vec<Value>>, Failure> {
    let wrong = |why: String| {
        Failure::usage(format!("--values {text:?}: {why}")).hint(
            "Write a;b,c for one partition with a and one with b and c; NULL stands for rows without a value; \
             a value with a comma or semicolon goes in single quotes.",
        )
    };
    let mut lists = Vec::new();
    for item in split(text, ';').map_err(wrong)? {
        let read = |one: &str| match value(one)? {
            // These are words for ranges.
            Value::Least | Value::Most => Ok(Value::Text(one.to_owned())),
            read => Ok(read),
        };
        let values = split(item, ',').map_err(wrong)?.into_iter().map(read).collect::<Result<Vec<_>, _>>();
        lists.push(values.map_err(wrong)?);
    }
    if lists.is_empty() && !default {
        return Err(wrong("there is no value".to_owned()));
    }
    Ok(lists)
}

/// Cuts at a separator that stands outside of quotes and parentheses.
fn split(text: &str, at: char) -> Result<Vec<&str>, String> {
    let (mut items, mut start, mut depth, mut quoted) = (Vec::new(), 0, 0_i32, false);
    for (place, c) in text.char_indices() {
        match c {
            '\'' => quoted = !quoted,
            _ if quoted => {}
            '(' => depth += 1,
            ')' => depth -= 1,
            _ if c == at && depth == 0 => {
                items.push(text[start..place].trim());
                start = place + c.len_utf8();
            }
            _ => {}
        }
    }
    if quoted {
        return Err("a single quote is not closed".to_owned());
    }
    if depth != 0 {
        return Err("a parenthesis is not closed".to_owned());
    }
    items.push(text[start..].trim());
    Ok(items)
}

fn value(item: &str) -> Result<Value, String> {
    if item.is_empty() {
        return Err("a value is missing".to_owned());
    }
    if let Some(quoted) = item.strip_prefix('\'') {
        let inner = quoted.strip_suffix('\'').unwrap_or(quoted).replace("''", "\u{0}");
        return match inner.contains('\'') {
            true => Err(format!("{item} is more than one value")),
            false => Ok(Value::Text(inner.replace('\u{0}', "'"))),
        };
    }
    Ok(match item.to_ascii_uppercase().as_str() {
        "NULL" => Value::Null,
        "MINVALUE" => Value::Least,
        "MAXVALUE" => Value::Most,
        _ => Value::Text(item.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(of: &[Vec<Value>]) -> Vec<String> {
        let show = |v: &Value| match v {
            Value::Text(t) => t.clone(),
            Value::Null => "<null>".to_owned(),
            Value::Least => "<least>".to_owned(),
            Value::Most => "<most>".to_owned(),
        };
        of.iter().map(|values| values.iter().map(show).collect::<Vec<_>>().join("|")).collect()
    }

    fn columns(n: usize) -> Vec<String> {
        (0..n).map(|n| format!("c{n}")).collect()
    }

    #[test]
    fn steps_are_read_with_their_units() {
        for (text, step) in [
            ("1 month", Step::Months(1)),
            ("month", Step::Months(1)),
            ("3MONTHS", Step::Months(3)),
            ("2 weeks", Step::Weeks(2)),
            (" 7 days ", Step::Days(7)),
            ("1 quarter", Step::Months(3)),
            ("2 years", Step::Months(24)),
            ("1000000", Step::Numbers(1_000_000)),
        ] {
            assert_eq!(Step::read(text).expect(text), step, "{text}");
        }
        for text in ["", "0 days", "1 hour", "-1 day", "1 month 2 days", "99999999999999999999", "99999 years", "s"] {
            assert!(Step::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bounds_may_be_quoted_open_and_of_several_columns() {
        let one = |text| texts(&read_bounds(text, &columns(1)).expect(text));
        assert_eq!(one("1, 2,3"), ["1", "2", "3"]);
        assert_eq!(one("minvalue,'a,''b',MAXVALUE"), ["<least>", "a,'b", "<most>"]);
        let two = read_bounds("(1,a),(1,'b)'),(2,MAXVALUE)", &columns(2)).expect("bounds");
        assert_eq!(texts(&two), ["1|a", "1|b)", "2|<most>"]);
        for text in ["", "1", "1,", "1,NULL", "(1,2),(3,4)", "'1,2", "1,'a'b'"] {
            assert!(read_bounds(text, &columns(1)).is_err(), "{text}");
        }
    }

    #[test]
    fn lists_are_separated_by_semicolons() {
        let lists = |text| texts(&read_lists(text, false).expect(text));
        assert_eq!(lists("a;b,c"), ["a", "b|c"]);
        assert_eq!(lists("'a;b';NULL,'NULL';maxvalue"), ["a;b", "<null>|NULL", "maxvalue"]);
        for text in ["", "a;", "a,,b"] {
            assert!(read_lists(text, false).is_err(), "{text}");
        }
    }
}
