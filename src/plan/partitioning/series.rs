//! The ranges of a series: where one begins and the next, and what each is called. Pure.

use jiff::ToSpan;
use jiff::civil::{Date, Weekday};

use crate::spec::partitioning::{MOST_PARTITIONS, Naming, Step};

/// A place in a series: the first value of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Midnight of a day.
    Day(Date),
    /// A whole number.
    Number(i128),
}

/// A range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// The first value.
    pub from: Place,
    /// One past the last.
    pub to: Place,
    /// What tells it from the others in a name.
    pub suffix: String,
}

/// Why there is no series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unending {
    /// More ranges than [`MOST_PARTITIONS`].
    TooMany,
    /// A bound is in no calendar.
    Beyond,
}

/// The ranges from that of `first` to that of `last`, and so many more.
///
/// # Errors
/// [`Unending`].
pub fn ranges(step: Step, naming: Naming, first: Place, last: Place, more: u32) -> Result<Vec<Range>, Unending> {
    let mut found: Vec<Range> = Vec::new();
    let mut from = floor(step, first).ok_or(Unending::Beyond)?;
    let mut left = more;
    loop {
        if from > last {
            if left == 0 {
                return Ok(found);
            }
            left -= 1;
        }
        if found.len() == MOST_PARTITIONS {
            return Err(Unending::TooMany);
        }
        let to = next(step, from).ok_or(Unending::Beyond)?;
        found.push(Range { from, to, suffix: suffix(step, naming, from) });
        from = to;
    }
}

/// The ranges that another one reaches into.
pub fn within(step: Step, naming: Naming, range: &Range) -> Result<Vec<Range>, Unending> {
    let last = match range.to {
        Place::Day(day) => day.checked_sub(1.days()).map(Place::Day).map_err(|_| Unending::Beyond)?,
        Place::Number(n) => Place::Number(n - 1),
    };
    ranges(step, naming, range.from, last, 0)
}

/// The one range that a value is in.
pub fn range_of(step: Step, naming: Naming, value: Place) -> Option<Range> {
    let from = floor(step, value)?;
    Some(Range { from, to: next(step, from)?, suffix: suffix(step, naming, from) })
}

/// A Monday, from which weeks are counted.
const MONDAY: Date = Date::constant(2000, 1, 3);
/// From which days are counted.
const DAY: Date = Date::constant(2000, 1, 1);

/// Where the range begins that a value is in. Ranges of several units are counted from one place, so that they are the
/// same whatever rows there are.
fn floor(step: Step, value: Place) -> Option<Place> {
    match (step, value) {
        (Step::Days(n), Place::Day(day)) => floor_days(DAY, i64::from(n), day),
        (Step::Weeks(n), Place::Day(day)) => floor_days(MONDAY, 7 * i64::from(n), day),
        (Step::Months(n), Place::Day(day)) => {
            let month = i64::from(day.year()) * 12 + i64::from(day.month()) - 1;
            month_of(month - month.rem_euclid(i64::from(n)))
        }
        (Step::Numbers(n), Place::Number(value)) => Some(Place::Number(value - value.rem_euclid(i128::from(n)))),
        (Step::Days(_) | Step::Weeks(_) | Step::Months(_), Place::Number(_)) | (Step::Numbers(_), Place::Day(_)) => {
            None
        }
    }
}

fn floor_days(origin: Date, length: i64, day: Date) -> Option<Place> {
    let days = i64::from((day - origin).get_days());
    origin.checked_add((days - days.rem_euclid(length)).days()).ok().map(Place::Day)
}

fn month_of(month: i64) -> Option<Place> {
    let year = i16::try_from(month.div_euclid(12)).ok()?;
    Date::new(year, i8::try_from(month.rem_euclid(12) + 1).ok()?, 1).ok().map(Place::Day)
}

fn next(step: Step, from: Place) -> Option<Place> {
    match (step, from) {
        (Step::Days(n), Place::Day(day)) => day.checked_add(i64::from(n).days()).ok().map(Place::Day),
        (Step::Weeks(n), Place::Day(day)) => day.checked_add(i64::from(n).weeks()).ok().map(Place::Day),
        (Step::Months(n), Place::Day(day)) => day.checked_add(i64::from(n).months()).ok().map(Place::Day),
        (Step::Numbers(n), Place::Number(value)) => value.checked_add(i128::from(n)).map(Place::Number),
        (Step::Days(_) | Step::Weeks(_) | Step::Months(_), Place::Number(_)) | (Step::Numbers(_), Place::Day(_)) => {
            None
        }
    }
}

fn suffix(step: Step, naming: Naming, from: Place) -> String {
    match naming {
        Naming::Plain => plain(step, from),
        Naming::Partman => partman(step, from),
    }
}

/// As `to_char` gives it for [`partman_format`]: pg_partman finds its partitions by their names.
fn partman(step: Step, from: Place) -> String {
    let day = match from {
        Place::Number(value) => return format!("p{value}"),
        Place::Day(day) => day,
    };
    let (year, month) = (day.year(), day.month());
    match partman_format(step) {
        Some(YEAR) => format!("p{year:04}"),
        Some(QUARTER) => format!("p{year:04}q{}", (month - 1) / 3 + 1),
        Some(MONTH) => format!("p{year:04}_{month:02}"),
        Some(WEEK) => format!("p{:04}w{:02}", day.iso_week_date().year(), day.iso_week_date().week()),
        Some(_) | None => format!("p{year:04}_{month:02}_{:02}", day.day()),
    }
}

const YEAR: &str = "YYYY";
const QUARTER: &str = "YYYY\"q\"Q";
const MONTH: &str = "YYYY_MM";
const WEEK: &str = "IYYY\"w\"IW";
const DAYS: &str = "YYYY_MM_DD";

/// The format of `to_char` by which pg_partman 4 calls partitions of that length; none for numbers. Of the steps that it
/// has no name for, each partition has a name of its own by this.
pub fn partman_format(step: Step) -> Option<&'static str> {
    match step {
        Step::Months(n) if n % 12 == 0 => Some(YEAR),
        Step::Months(3) => Some(QUARTER),
        Step::Months(_) => Some(MONTH),
        Step::Weeks(1) => Some(WEEK),
        Step::Weeks(_) | Step::Days(_) => Some(DAYS),
        Step::Numbers(_) => None,
    }
}

fn plain(step: Step, from: Place) -> String {
    match (step, from) {
        (_, Place::Number(value)) => value.to_string().replace('-', "m"),
        (Step::Weeks(_), Place::Day(day)) => {
            let week = day.iso_week_date();
            debug_assert_eq!(week.weekday(), Weekday::Monday);
            format!("{}_w{:02}", year(week.year()), week.week())
        }
        (Step::Months(n), Place::Day(day)) if n % 12 == 0 => year(day.year()),
        (Step::Months(3), Place::Day(day)) => format!("{}_q{}", year(day.year()), (day.month() - 1) / 3 + 1),
        (Step::Months(_), Place::Day(day)) => format!("{}_{:02}", year(day.year()), day.month()),
        (Step::Days(_) | Step::Numbers(_), Place::Day(day)) => {
            format!("{}_{:02}_{:02}", year(day.year()), day.month(), day.day())
        }
    }
}

fn year(year: i16) -> String {
    format!("{year:04}").replace('-', "m")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn day(text: &str) -> Place {
        Place::Day(text.parse().expect("a day"))
    }

    fn named(step: Step, first: &str, last: &str, more: u32) -> Vec<String> {
        ranges(step, Naming::Plain, day(first), day(last), more)
            .expect("a series")
            .into_iter()
            .map(|r| r.suffix)
            .collect()
    }

    #[test]
    fn ranges_cover_the_rows_and_some_more() {
        assert_eq!(named(Step::Months(1), "2026-11-30", "2027-01-01", 1), ["2026_11", "2026_12", "2027_01", "2027_02"]);
        assert_eq!(named(Step::Months(3), "2026-11-30", "2027-01-01", 0), ["2026_q4", "2027_q1"]);
        assert_eq!(named(Step::Months(12), "2026-11-30", "2026-11-30", 1), ["2026", "2027"]);
        assert_eq!(named(Step::Days(1), "2024-02-28", "2024-02-29", 1), ["2024_02_28", "2024_02_29", "2024_03_01"]);
        // The first days of 2027 are in the last week of 2026.
        assert_eq!(named(Step::Weeks(1), "2026-12-27", "2027-01-03", 1), ["2026_w52", "2026_w53", "2027_w01"]);
        let numbers =
            ranges(Step::Numbers(100), Naming::Plain, Place::Number(-1), Place::Number(100), 0).expect("a series");
        assert_eq!(numbers.iter().map(|r| r.suffix.as_str()).collect::<Vec<_>>(), ["m100", "0", "100"]);
    }

    #[test]
    fn shorter_ranges_fill_a_longer_one() {
        let year = range_of(Step::Months(12), Naming::Plain, day("2026-07-01")).expect("a year");
        let quarters = within(Step::Months(3), Naming::Plain, &year).expect("quarters");
        assert_eq!(
            quarters.iter().map(|r| r.suffix.as_str()).collect::<Vec<_>>(),
            ["2026_q1", "2026_q2", "2026_q3", "2026_q4"]
        );
        let hundred = range_of(Step::Numbers(100), Naming::Plain, Place::Number(5)).expect("a hundred");
        assert_eq!(within(Step::Numbers(50), Naming::Plain, &hundred).expect("two").len(), 2);
    }

    #[test]
    fn a_row_far_away_is_no_reason_for_thousands_of_partitions() {
        let far = ranges(Step::Months(1), Naming::Plain, day("0001-01-01"), day("2026-01-01"), 0);
        assert_eq!(far, Err(Unending::TooMany));
        assert_eq!(
            ranges(Step::Months(12), Naming::Plain, day("9999-01-01"), day("9999-01-01"), 0),
            Err(Unending::Beyond)
        );
    }

    proptest! {
        #[test]
        fn a_value_is_in_its_range_and_ranges_meet(offset in -700_000i64..2_000_000, n in 1u32..40, unit in 0usize..3) {
            let value = Place::Day(DAY.checked_add(offset.days()).expect("a day"));
            let step = [Step::Days(n), Step::Weeks(n), Step::Months(n)][unit];
            let range = range_of(step, Naming::Plain, value).expect("a range");
            prop_assert!(range.from <= value && value < range.to);
            let after = range_of(step, Naming::Plain, range.to).expect("the next");
            prop_assert_eq!(after.from, range.to);
            prop_assert!(after.suffix != range.suffix);
        }
    }
}
