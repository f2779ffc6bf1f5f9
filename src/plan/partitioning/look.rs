//! One look at the rows: how far they reach, and whether one of them can have no partition.

use jiff::civil::Date;

use super::column;
use super::series::{self, Place, Range, Unending};
use crate::error::Failure;
use crate::pg::sql::plain_ident;
use crate::pg::{Conn, Ident, Literal};
use crate::plan::shape::{Column, Shape};
use crate::plan::types::Key;
use crate::spec::partitioning::{By, MOST_PARTITIONS, Naming, Partitioning, Step};

/// The type without which a time zone means nothing.
const ZONED: &str = "timestamp with time zone";

/// Every type of the schema: a table has two.
pub async fn type_names(conn: &Conn, schema: &str) -> Result<Vec<String>, Failure> {
    let sql = "SELECT t.typname::text FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace \
               WHERE n.nspname = $1";
    Ok(conn.rows("read type names", sql, &[&schema]).await?.iter().map(|r| r.get(0)).collect())
}

/// The time zone of the bounds, as the server knows it.
///
/// # Errors
/// Exit 2 for one that it does not know, exit 3 where the column's values have none.
pub async fn zone(conn: &Conn, source: &Shape, spec: &Partitioning) -> Result<String, Failure> {
    let zones = spec.levels().filter_map(|by| match by {
        By::Series { zone, .. } | By::Bounds { zone, .. } => zone.as_deref(),
        By::List { .. } | By::Hash { .. } | By::Nothing => None,
    });
    let zones: Vec<&str> = zones.collect();
    let Some(zone) = zones.first().copied() else { return Ok("UTC".to_owned()) };
    if let Some(other) = zones.iter().find(|other| **other != zone) {
        return Err(Failure::usage(format!("the levels have two time zones, {zone} and {other}"))
            .hint("Give one: bounds of all levels are read by one clock."));
    }
    let zoned = spec.columns().iter().any(|c| source.column(c).is_some_and(|c| c.base_type_sql == ZONED));
    if !zoned {
        return Err(Failure::refused("--zone is for columns of type timestamptz")
            .hint("Leave it out: other values have no time zone."));
    }
    let sql = format!("SELECT pg_catalog.timezone({}, pg_catalog.now())", Literal(zone));
    match conn.scalar("try time zone", &sql).await {
        Ok(_) => Ok(zone.to_owned()),
        Err(e) if e.is_data() => Err(Failure::usage(format!("--zone {zone}: {}", e.message)).caused_by(&e)),
        Err(e) => Err(e.into()),
    }
}

/// The least and the greatest value of a whole number's type.
pub fn ends(source: &Shape, by: &By) -> Option<(i128, i128)> {
    let By::Series { column, .. } = by else { return None };
    source.column(column).and_then(ends_of)
}

/// The same of one column.
pub fn ends_of(column: &Column) -> Option<(i128, i128)> {
    let of = |bits: u32| (-(1_i128 << (bits - 1)), (1_i128 << (bits - 1)) - 1);
    match column.base_type_sql.as_str() {
        "smallint" => Some(of(16)),
        "integer" => Some(of(32)),
        "bigint" => Some(of(64)),
        _ => None,
    }
}

/// What of a value counts for its place, as SQL, and whether that is text of a day.
pub fn place_sql(source: &Shape, name: &str, step: Step, value: &str, zone: &str) -> Result<String, Failure> {
    let type_sql = column(source, name)?.base_type_sql.as_str();
    let calendar = !matches!(step, Step::Numbers(_));
    match (type_sql, calendar) {
        ("date", true) => Ok(format!("({value})::pg_catalog.text")),
        ("timestamp without time zone", true) => Ok(format!("({value})::pg_catalog.date::pg_catalog.text")),
        (ZONED, true) => {
            Ok(format!("pg_catalog.timezone({}, {value})::pg_catalog.date::pg_catalog.text", Literal(zone)))
        }
        ("smallint" | "integer" | "bigint", false) => Ok(format!("({value})::pg_catalog.text")),
        (other, _) => {
            let what = match calendar {
                true => format!("--every {step} is for columns of type date, timestamp and timestamptz"),
                false => format!("--every {step} is for columns of whole numbers"),
            };
            Err(Failure::refused(format!("{what}, and {} is of type {other}", plain_ident(name)))
                .hint("Give a length that fits the column, or --bounds."))
        }
    }
}

/// A place as the server tells it.
pub fn read_place(step: Step, text: &str) -> Option<Place> {
    match step {
        Step::Days(_) | Step::Weeks(_) | Step::Months(_) => text.parse::<Date>().ok().map(Place::Day),
        Step::Numbers(_) => text.parse().ok().map(Place::Number),
    }
}

/// The ranges of a series over all rows there are; around this day, or zero, where there is none. None where the level is
/// no series.
pub async fn ranges(conn: &Conn, source: &Shape, by: &By, naming: Naming, zone: &str) -> Result<Vec<Range>, Failure> {
    let By::Series { column, step, premake, .. } = by else { return Ok(Vec::new()) };
    let value = Ident(column).to_string();
    let finite = match step {
        Step::Numbers(_) => String::new(),
        Step::Days(_) | Step::Weeks(_) | Step::Months(_) => format!(" WHERE pg_catalog.isfinite({value})"),
    };
    let least = place_sql(source, column, *step, &format!("pg_catalog.min({value})"), zone)?;
    let most = place_sql(source, column, *step, &format!("pg_catalog.max({value})"), zone)?;
    let none = match step {
        Step::Numbers(_) => "'0'".to_owned(),
        Step::Days(_) | Step::Weeks(_) | Step::Months(_) => {
            format!("pg_catalog.timezone({}, pg_catalog.now())::pg_catalog.date::pg_catalog.text", Literal(zone))
        }
    };
    let sql = format!(
        "BEGIN READ ONLY; SET LOCAL DateStyle = 'ISO, MDY'; SELECT coalesce({least}, {none}), coalesce({most}, {none}) \
         FROM {}{finite}; COMMIT",
        whole(source)
    );
    let rows = match conn.simple("look at bounds", &sql).await {
        Ok(rows) => rows,
        Err(e) => {
            conn.batch("roll back look", "ROLLBACK").await?;
            return Err(e.into());
        }
    };
    let row = rows.into_iter().next().unwrap_or_default();
    let text = |i: usize| row.get(i).cloned().flatten().unwrap_or_default();
    let (first, last) = (text(0), text(1));
    let reach = format!("The values of {} go from {first} to {last}.", plain_ident(column));
    let (Some(from), Some(to)) = (read_place(*step, &first), read_place(*step, &last)) else {
        return Err(beyond(reach));
    };
    let mut ranges = series::ranges(*step, naming, from, to, *premake).map_err(|why| match why {
        Unending::Beyond => beyond(reach.clone()),
        Unending::TooMany => Failure::refused(format!("partitions of {step} would be more than {MOST_PARTITIONS}"))
            .detail(reach.clone())
            .hint("Give a longer --every, or --bounds and --default-partition for rows far away."),
    })?;
    // Beyond the type's last value there is nothing to come.
    if let Some((_, greatest)) = ends(source, by) {
        ranges.retain(|range| range.from <= Place::Number(greatest));
    }
    Ok(ranges)
}

/// The table with its partitions.
fn whole(source: &Shape) -> String {
    if source.is_partitioned() { source.name.to_string() } else { format!("ONLY {}", source.name) }
}

fn beyond(reach: String) -> Failure {
    Failure::refused("the column has values that are in no year from 1 to 9999")
        .detail(reach)
        .hint("Correct those rows, or give --bounds and --default-partition.")
}

/// A row without a value that has no partition, or none with the primary key over that column, is told before anything is
/// touched.
pub async fn refuse_null(
    conn: &Conn,
    source: &Shape,
    target: &Shape,
    spec: &Partitioning,
    key: &Key,
) -> Result<(), Failure> {
    let may_be_null = |name: &&String| source.column(name).is_some_and(|c| !c.not_null);
    let columns = spec.levels().flat_map(|by| by.columns().iter().map(|name| (name, by.takes_null(spec.default))));
    for (name, takes_null) in columns.filter(|(name, _)| may_be_null(name)) {
        let must_not = target.column(name).is_some_and(|c| c.not_null);
        if takes_null && !must_not {
            continue;
        }
        let columns = key.columns.iter().map(|k| {
            format!("pg_catalog.concat({}, {})", Literal(&format!("{} = ", plain_ident(&k.source))), Ident(&k.source))
        });
        let sql = format!(
            "SELECT pg_catalog.concat_ws(', ', {}) FROM {} WHERE {} IS NULL LIMIT 1",
            columns.collect::<Vec<_>>().join(", "),
            whole(source),
            Ident(name)
        );
        let Some(row) = conn.scalar("look for NULL", &sql).await? else { continue };
        let name = plain_ident(name);
        let failure =
            Failure::refused(format!("row {row} of {} has no partition: its {name} is NULL", source.name.plain()));
        return Err(match must_not {
            true => failure
                .detail("The primary key is over that column, which makes it NOT NULL.")
                .hint("Give the rows a value, or leave the primary key off (--drop-constraint)."),
            false => failure.hint("Give the rows a value, or a place: --default-partition."),
        });
    }
    Ok(())
}
