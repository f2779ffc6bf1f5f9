//! The partitions as they are to be made: what each is called, and its bound. Pure.

use super::series::{self, Place, Range};
use crate::pg::Literal;
use crate::pg::sql::{MAX_IDENTIFIER_BYTES, cut, ident_list};
use crate::spec::partitioning::{By, MOST_PARTITIONS, Naming, Partitioning, Value};

/// A partition to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its name, free in the table's schema and in ours.
    pub name: String,
    /// `FOR VALUES …` or `DEFAULT`, as read in the time zone of the bounds.
    pub bound: String,
    /// Its parent's place among the pieces; `None` for a partition of the table.
    pub parent: Option<usize>,
    /// What follows its own PARTITION BY, where it is partitioned again.
    pub key: Option<String>,
}

/// What follows PARTITION BY.
pub fn partition_key(by: &By) -> Option<String> {
    Some(format!("{} ({})", by.strategy()?, ident_list(by.columns().iter().map(String::as_str))))
}

/// A level, as it is to be made over the rows there are.
pub struct Level<'a> {
    /// By what.
    pub by: &'a By,
    /// Those of a series, over all rows.
    pub ranges: Vec<Range>,
    /// The least and the greatest number of the column's type.
    pub ends: Option<(i128, i128)>,
}

/// All partitions, parents before children; of more than may be made, not all.
pub fn pieces(spec: &Partitioning, levels: &[Level<'_>], table: &str, taken: impl Fn(&str) -> bool) -> Vec<Piece> {
    let mut chosen: Vec<Piece> = Vec::new();
    // The level of each, and its range where that is of a series.
    let mut places: Vec<(usize, Option<Range>)> = Vec::new();
    let mut parents = vec![None];
    for (n, level) in levels.iter().enumerate() {
        let key = levels.get(n + 1).and_then(|below| partition_key(below.by));
        let mut made = Vec::new();
        for parent in parents {
            let name = parent.map_or(table.to_owned(), |at: usize| chosen[at].name.clone());
            let above = std::iter::successors(parent, |at: &usize| chosen[*at].parent).map(|at| &places[at]);
            let above: Vec<(&By, Option<&Range>)> = above.map(|(of, range)| (levels[*of].by, range.as_ref())).collect();
            for wanted in level.wanted(spec.default, &level.reaching(&above)) {
                if chosen.len() > MOST_PARTITIONS {
                    return chosen;
                }
                let name = free_name(&name, &wanted.suffix, |n| taken(n) || chosen.iter().any(|c| c.name == n));
                made.push(Some(chosen.len()));
                chosen.push(Piece { name, bound: wanted.bound, parent, key: key.clone() });
                places.push((n, wanted.range));
            }
        }
        parents = made;
    }
    chosen
}

/// A partition of one level.
struct Wanted {
    /// What it adds to its parent's name.
    suffix: String,
    bound: String,
    /// Where it is of a series.
    range: Option<Range>,
}

impl Level<'_> {
    /// The ranges below these partitions: of a series over the same column, those that reach into the one above.
    fn reaching(&self, above: &[(&By, Option<&Range>)]) -> Vec<Range> {
        let By::Series { column, step, .. } = self.by else { return Vec::new() };
        let same = |by: &By| matches!(by, By::Series { column: other, .. } if other == column);
        match above.iter().find(|(by, _)| same(by)) {
            None => self.ranges.clone(),
            // A default partition has none of them.
            Some((_, range)) => {
                range.and_then(|range| series::within(*step, Naming::Plain, range).ok()).unwrap_or_default()
            }
        }
    }

    fn wanted(&self, default: bool, ranges: &[Range]) -> Vec<Wanted> {
        let plain = |suffix: String, bound: String| Wanted { suffix, bound, range: None };
        let mut wanted: Vec<Wanted> = match self.by {
            By::Series { .. } => ranges
                .iter()
                .map(|r| Wanted { suffix: r.suffix.clone(), bound: range_bound(r, self.ends), range: Some(r.clone()) })
                .collect(),
            By::Bounds { bounds, .. } => {
                bounds.windows(2).map(|w| plain(spelled(&w[0]), from_to(&w[0], &w[1]))).collect()
            }
            By::List { values, .. } => {
                values.iter().map(|of| plain(spelled(of), format!("FOR VALUES IN ({})", list(of)))).collect()
            }
            By::Hash { partitions, .. } => (0..*partitions)
                .map(|n| plain(n.to_string(), format!("FOR VALUES WITH (MODULUS {partitions}, REMAINDER {n})")))
                .collect(),
            By::Nothing => Vec::new(),
        };
        if default && !matches!(self.by, By::Hash { .. }) {
            wanted.push(plain("default".to_owned(), "DEFAULT".to_owned()));
        }
        wanted
    }
}

/// `table_suffix`, or `table_suffix_1` and so on where that is taken.
pub fn free_name(table: &str, suffix: &str, taken: impl Fn(&str) -> bool) -> String {
    let first = name(table, &format!("_{suffix}"));
    if !taken(&first) {
        return first;
    }
    let numbered = |n: u32| name(table, &format!("_{suffix}_{n}"));
    (1..).map(numbered).find(|name| !taken(name)).unwrap_or(first)
}

/// Cut so that the name of its array type, which has one byte more, is its own.
fn name(table: &str, suffix: &str) -> String {
    format!("{}{suffix}", cut(table, (MAX_IDENTIFIER_BYTES - 1).saturating_sub(suffix.len())))
}

/// Names that are in use: of relations and types.
pub struct Taken(pub Vec<String>);

impl Taken {
    /// Whether a table cannot be called so, nor its array type be called after it.
    pub fn has(&self, name: &str) -> bool {
        let array = format!("_{name}");
        self.0.iter().any(|taken| *taken == name || *taken == array)
    }
}

/// The bound of one range of a series. What the column's type cannot spell is its end.
pub fn range_bound(range: &Range, ends: Option<(i128, i128)>) -> String {
    let spell = |place: Place| match (place, ends) {
        (Place::Day(day), _) => Literal(&day.to_string()).to_string(),
        (Place::Number(n), Some((least, _))) if n < least => "MINVALUE".to_owned(),
        (Place::Number(n), Some((_, most))) if n > most => "MAXVALUE".to_owned(),
        (Place::Number(n), _) => Literal(&n.to_string()).to_string(),
    };
    format!("FOR VALUES FROM ({}) TO ({})", spell(range.from), spell(range.to))
}

fn from_to(from: &[Value], to: &[Value]) -> String {
    format!("FOR VALUES FROM ({}) TO ({})", list(from), list(to))
}

fn list(values: &[Value]) -> String {
    let one = |value: &Value| match value {
        Value::Text(text) => Literal(text).to_string(),
        Value::Null => "NULL".to_owned(),
        Value::Least => "MINVALUE".to_owned(),
        Value::Most => "MAXVALUE".to_owned(),
    };
    values.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// The most bytes of values in a name: the rest is the table's.
const MOST_SPELLED: usize = 30;

/// Values as part of a name.
fn spelled(values: &[Value]) -> String {
    let mut name = String::new();
    for value in values {
        let text = match value {
            Value::Text(text) => text.to_lowercase(),
            Value::Null => "null".to_owned(),
            Value::Least => "minvalue".to_owned(),
            Value::Most => "maxvalue".to_owned(),
        };
        let negative = text.strip_prefix('-').filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        let text = negative.map_or(text.clone(), |rest| format!("m{rest}"));
        for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
            if !name.is_empty() {
                name.push('_');
            }
            name.push_str(word);
        }
    }
    let name = cut(&name, MOST_SPELLED);
    if name.is_empty() { "other".to_owned() } else { name.trim_end_matches('_').to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::partitioning::Step;

    fn text(values: &[&str]) -> Vec<Value> {
        values.iter().map(|v| Value::Text((*v).to_owned())).collect()
    }

    /// Without any row.
    fn levels(spec: &Partitioning) -> Vec<Level<'_>> {
        spec.levels().map(|by| Level { by, ranges: Vec::new(), ends: None }).collect()
    }

    #[test]
    fn ranges_below_a_range_stay_in_it() {
        let every = |step| By::Series { column: "at".to_owned(), step, zone: None, premake: 1 };
        let by = By::List { column: "region".to_owned(), values: vec![text(&["eu"])] };
        let below = vec![every(Step::Months(12)), every(Step::Months(3))];
        let spec = Partitioning { by, below, default: true, left_off: Vec::new(), managed: false };
        let day = |text: &str| Place::Day(text.parse().expect("a day"));
        let over =
            |step| series::ranges(step, Naming::Plain, day("2026-11-05"), day("2026-11-05"), 1).expect("a series");
        let mut levels = levels(&spec);
        levels[1].ranges = over(Step::Months(12));
        levels[2].ranges = over(Step::Months(3));
        let made = pieces(&spec, &levels, "t", |_| false);
        let of = |name: &str| -> Vec<&str> {
            let parent = made.iter().position(|p| p.name == name);
            made.iter().filter(|p| p.parent == parent).map(|p| p.name.strip_prefix(name).unwrap_or(&p.name)).collect()
        };
        assert_eq!(of("t_eu"), ["_2026", "_2027", "_default"]);
        assert_eq!(of("t_eu_2026"), ["_2026_q1", "_2026_q2", "_2026_q3", "_2026_q4", "_default"]);
        assert_eq!(of("t_default_2027").len(), 5);
        assert_eq!(of("t_eu_default"), ["_default"]);
        assert_eq!(made.len(), 2 + 2 * 3 + 2 * (5 + 5 + 1));
    }

    #[test]
    fn names_are_readable_short_and_free() {
        let values = vec![text(&["EU"]), text(&["eu"]), vec![Value::Null], text(&["São Paulo/x", "b"]), text(&["-5"])];
        let by = By::List { column: "region".to_owned(), values };
        let spec = Partitioning { by, below: Vec::new(), default: true, left_off: Vec::new(), managed: false };
        let made = pieces(&spec, &levels(&spec), "t", |n| n == "t_null");
        let names: Vec<&str> = made.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["t_eu", "t_eu_1", "t_null_1", "t_são_paulo_x_b", "t_m5", "t_default"]);
        assert_eq!(made[2].bound, "FOR VALUES IN (NULL)");
        let long = "x".repeat(63);
        assert!(pieces(&spec, &levels(&spec), &long, |_| false).iter().all(|p| p.name.len() <= 62));
        let below = By::Hash { columns: vec!["id".to_owned()], partitions: 2 };
        let by = By::List { column: "region".to_owned(), values: vec![text(&["eu"])] };
        let nested = Partitioning { by, below: vec![below], default: true, left_off: Vec::new(), managed: false };
        let made: Vec<(String, Option<usize>)> =
            pieces(&nested, &levels(&nested), "t", |n| n == "t_eu_1").into_iter().map(|p| (p.name, p.parent)).collect();
        let told: Vec<(&str, Option<usize>)> = made.iter().map(|(name, parent)| (name.as_str(), *parent)).collect();
        let (eu, rest) = (Some(0), Some(1));
        assert_eq!(
            told,
            [
                ("t_eu", None),
                ("t_default", None),
                ("t_eu_0", eu),
                ("t_eu_1_1", eu),
                ("t_default_0", rest),
                ("t_default_1", rest)
            ]
        );
        let taken = Taken(vec!["_t_eu".to_owned()]);
        assert!(taken.has("t_eu") && !taken.has("t_us"));
    }

    #[test]
    fn a_number_beyond_the_type_is_its_end() {
        let ranges =
            series::ranges(Step::Numbers(30_000), Naming::Plain, Place::Number(-32_768), Place::Number(32_767), 0);
        let bounds: Vec<String> =
            ranges.expect("a series").iter().map(|r| range_bound(r, Some((-32_768, 32_767)))).collect();
        assert_eq!(
            bounds,
            [
                "FOR VALUES FROM (MINVALUE) TO ('-30000')",
                "FOR VALUES FROM ('-30000') TO ('0')",
                "FOR VALUES FROM ('0') TO ('30000')",
                "FOR VALUES FROM ('30000') TO (MAXVALUE)"
            ]
        );
    }
}
