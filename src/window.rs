//! Off-peak hours: whether a window is open at a moment, and until when. Pure.
//!
//! A window is written by the clock of a place. Where that clock skips an hour, a bound within it is the moment of the
//! skip, so a window that lies in it does not come that day; where an hour comes twice, a bound means the first time.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

/// How many days are looked ahead: a window comes at least once a week, and may fall into a skipped hour then.
const DAYS_AHEAD: i32 = 15;

/// The short names of the days, Monday first.
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// Hours of some days of the week, by the clock of one time zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    /// Whether it begins on each day, Monday first.
    days: [bool; 7],
    /// When it begins.
    from: Time,
    /// When it ends; at or before `from` means on the next day. `None` is midnight.
    to: Option<Time>,
    zone: TimeZone,
}

/// What windows say of a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Now {
    /// Work may be done.
    Open {
        /// When they close; `None` where that is further away than is looked.
        until: Option<Timestamp>,
    },
    /// It may not.
    Closed {
        /// When they open.
        opens: Timestamp,
    },
}

impl Now {
    /// Whether work may be done.
    pub fn is_open(self) -> bool {
        matches!(self, Now::Open { .. })
    }
}

/// What several windows, all of which count, say of a moment. Without any, work may always be done.
pub fn at(windows: &[Window], moment: Timestamp) -> Now {
    if windows.is_empty() {
        return Now::Open { until: None };
    }
    let mut times: Vec<(Timestamp, Timestamp)> = windows.iter().flat_map(|w| w.times(moment)).collect();
    times.sort();
    let mut until = None;
    for (from, to) in times {
        let reached = until.unwrap_or(moment);
        if from > reached {
            return match until {
                Some(_) => Now::Open { until },
                None => Now::Closed { opens: from },
            };
        }
        if to > reached {
            until = Some(to);
        }
    }
    // Open as far as was looked, since each window comes within that time.
    Now::Open { until: None }
}

/// When they open next, other than for what is open now; `None` where they are never closed.
pub fn opens_next(windows: &[Window], moment: Timestamp) -> Option<Timestamp> {
    match at(windows, moment) {
        Now::Closed { opens } => Some(opens),
        Now::Open { until } => match at(windows, until?) {
            Now::Closed { opens } => Some(opens),
            // Windows that touch are one.
            Now::Open { .. } => None,
        },
    }
}

impl Window {
    /// The stretches of time around and after a moment in which it is open.
    fn times(&self, moment: Timestamp) -> Vec<(Timestamp, Timestamp)> {
        let today = moment.to_zoned(self.zone.clone()).date();
        (-2..=DAYS_AHEAD)
            .filter_map(|n| today.checked_add(n.days()).ok())
            .filter(|date| self.days[usize::from(date.weekday().to_monday_zero_offset().unsigned_abs())])
            .filter_map(|date| {
                let ends = match self.to {
                    Some(to) if to > self.from => date.to_datetime(to),
                    Some(to) => date.tomorrow().ok()?.to_datetime(to),
                    None => date.tomorrow().ok()?.to_datetime(Time::midnight()),
                };
                let (from, to) = (self.moment(date.to_datetime(self.from))?, self.moment(ends)?);
                (from < to).then_some((from, to))
            })
            .collect()
    }

    fn moment(&self, clock: DateTime) -> Option<Timestamp> {
        let ambiguous = self.zone.to_ambiguous_timestamp(clock);
        match ambiguous.offset() {
            AmbiguousOffset::Gap { .. } => {
                // By the offset that the skip brings, the clock's time lies before it.
                let before = ambiguous.earlier().ok()?;
                self.zone.following(before).next().map(|skip| skip.timestamp())
            }
            AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => ambiguous.compatible().ok(),
        }
    }
}

/// What a time is called by its own zone's clock, for people: `2026-11-20 22:00 Europe/Berlin`.
pub fn by_clock(windows: &[Window], moment: Timestamp) -> String {
    let zone = windows.first().map_or(TimeZone::UTC, |w| w.zone.clone());
    let shown = moment.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M").to_string();
    format!("{shown} {}", zone.iana_name().unwrap_or("UTC"))
}

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str =
            "a window reads as 22:00-06:00, 'Sat,Sun 00:00-24:00' or 'Mon-Fri 22:00-06:00 Europe/Berlin'";
        let mut words = text.split_whitespace().peekable();
        let days = match words.peek() {
            Some(word) if word.starts_with(|c: char| c.is_alphabetic()) => {
                let word = words.next().unwrap_or_default();
                days(word).ok_or_else(|| format!("{word:?} names no days of the week; {FORM}"))?
            }
            Some(_) => [true; 7],
            None => return Err(FORM.to_owned()),
        };
        let (from, to) = words.next().and_then(|word| word.split_once('-')).ok_or(FORM)?;
        let midnight = to == "24:00";
        let read = |text: &str| clock(text).ok_or_else(|| format!("{text:?} is no time of the day; {FORM}"));
        let (from, to) = (read(from)?, if midnight { None } else { Some(read(to)?) });
        if to == Some(from) {
            return Err(format!("the window is empty: it ends when it begins; {FORM}"));
        }
        let zone = match words.next() {
            Some(name) => TimeZone::get(name)
                .map_err(|_| format!("{name:?} is no time zone; zones read as UTC or Europe/Berlin"))?,
            None => local().ok_or("the time zone of this machine has no name; write one behind the hours, as in 22:00-06:00 Europe/Berlin")?,
        };
        match words.next() {
            Some(more) => Err(format!("{more:?} is too much; {FORM}")),
            None => Ok(Window { days, from, to, zone }),
        }
    }
}

/// This machine's time zone, where its name is known: another machine that goes on must mean the same hours.
fn local() -> Option<TimeZone> {
    let zone = TimeZone::try_system().unwrap_or(TimeZone::UTC);
    zone.iana_name().is_some().then_some(zone)
}

fn clock(text: &str) -> Option<Time> {
    let (hour, minute) = text.split_once(':')?;
    let digits =
        |text: &str, at_least| (at_least..=2).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_digit());
    if !digits(hour, 1) || !digits(minute, 2) {
        return None;
    }
    let number = |text: &str| text.parse::<i8>().ok();
    Time::new(number(hour)?, number(minute)?, 0, 0).ok()
}

/// `Mon-Fri`, `Sat,Sun`, `Fri-Mon`.
fn days(text: &str) -> Option<[bool; 7]> {
    let number = |name: &str| DAYS.iter().position(|day| day.eq_ignore_ascii_case(name));
    let mut chosen = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        let count = (last + 7 - first) % 7;
        (0..=count).for_each(|n| chosen[(first + n) % 7] = true);
    }
    Some(chosen)
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.days.contains(&false) {
            let days: Vec<&str> = DAYS.iter().zip(self.days).filter(|(_, on)| *on).map(|(day, _)| *day).collect();
            write!(f, "{} ", days.join(","))?;
        }
        write!(f, "{:02}:{:02}-", self.from.hour(), self.from.minute())?;
        match self.to {
            Some(to) => write!(f, "{:02}:{:02}", to.hour(), to.minute())?,
            None => f.write_str("24:00")?,
        }
        write!(f, " {}", self.zone.iana_name().unwrap_or("UTC"))
    }
}

impl From<Window> for String {
    fn from(window: Window) -> String {
        window.to_string()
    }
}

impl TryFrom<String> for Window {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::{date, time};
    use jiff::{SignedDuration, ToSpan};

    use super::*;

    fn window(text: &str) -> Window {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn moment(text: &str) -> Timestamp {
        text.parse().expect(text)
    }

    fn until(windows: &[&str], text: &str) -> String {
        let windows: Vec<Window> = windows.iter().map(|w| window(w)).collect();
        match at(&windows, moment(text)) {
            Now::Open { until: Some(until) } => format!("open until {until}"),
            Now::Open { until: None } => "open".to_owned(),
            Now::Closed { opens } => format!("closed until {opens}"),
        }
    }

    #[test]
    fn a_window_reads_back_as_it_is_shown() {
        for text in
            ["22:00-06:00 UTC", "Mon,Tue,Wed,Thu,Fri 22:00-06:30 Europe/Berlin", "Sat,Sun 00:00-24:00 America/New_York"]
        {
            assert_eq!(window(text).to_string(), text);
            let kept = serde_json::to_string(&window(text)).expect("JSON");
            assert_eq!(serde_json::from_str::<Window>(&kept).expect("a window"), window(text));
        }
        assert_eq!(window("mon-fri 1:00-2:00 UTC").to_string(), "Mon,Tue,Wed,Thu,Fri 01:00-02:00 UTC");
        assert_eq!(window("Sat-Mon 01:00-02:00 UTC").to_string(), "Mon,Sat,Sun 01:00-02:00 UTC");
    }

    #[test]
    fn what_is_no_window_is_refused() {
        let wrong = [
            "",
            "22:00",
            "22-6",
            "25:00-26:00 UTC",
            "22:00-22:00 UTC",
            "22:00-06:00 Mars/Olympus",
            "22:00-06:00 UTC now",
            "Someday 22:00-06:00 UTC",
            "Mon",
            "22:0-06:00 UTC",
            "24:00-06:00 UTC",
            "+1:00-06:00 UTC",
        ];
        for text in wrong {
            assert!(text.parse::<Window>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_night_belongs_to_the_day_on_which_it_begins() {
        let friday = &["Fri 22:00-06:00 UTC"];
        // 20 November 2026 is a Friday.
        assert_eq!(until(friday, "2026-11-20T21:59:59Z"), "closed until 2026-11-20T22:00:00Z");
        assert_eq!(until(friday, "2026-11-20T22:00:00Z"), "open until 2026-11-21T06:00:00Z");
        assert_eq!(until(friday, "2026-11-21T05:59:59Z"), "open until 2026-11-21T06:00:00Z");
        assert_eq!(until(friday, "2026-11-21T06:00:00Z"), "closed until 2026-11-27T22:00:00Z");
    }

    #[test]
    fn windows_that_touch_are_one() {
        let both = &["22:00-24:00 UTC", "00:00-06:00 UTC", "05:00-07:00 UTC"];
        assert_eq!(until(both, "2026-11-20T23:00:00Z"), "open until 2026-11-21T07:00:00Z");
        assert_eq!(until(&["00:00-24:00 UTC"], "2026-11-20T23:00:00Z"), "open");
        assert_eq!(until(&[], "2026-11-20T23:00:00Z"), "open");
    }

    #[test]
    fn the_clock_of_the_place_counts_when_it_is_changed() {
        // Berlin goes from 02:00 to 03:00 on 29 March 2026, and from 03:00 back to 02:00 on 25 October.
        let night = &["22:00-06:00 Europe/Berlin"];
        assert_eq!(until(night, "2026-03-28T21:00:00Z"), "open until 2026-03-29T04:00:00Z");
        assert_eq!(until(night, "2026-10-24T20:00:00Z"), "open until 2026-10-25T05:00:00Z");
        // One that is skipped does not come; one that is half skipped is half as long.
        assert_eq!(until(&["02:10-02:50 Europe/Berlin"], "2026-03-29T00:00:00Z"), "closed until 2026-03-30T00:10:00Z");
        assert_eq!(until(&["01:30-02:30 Europe/Berlin"], "2026-03-29T00:30:00Z"), "open until 2026-03-29T01:00:00Z");
        assert_eq!(until(&["02:30-03:30 Europe/Berlin"], "2026-03-29T00:30:00Z"), "closed until 2026-03-29T01:00:00Z");
        // The first of two.
        assert_eq!(until(&["01:30-02:30 Europe/Berlin"], "2026-10-25T00:00:00Z"), "open until 2026-10-25T00:30:00Z");
    }

    /// Minute by minute through the two weeks in which the clocks change, against the clock on the wall.
    #[test]
    fn a_year_by_the_clock_on_the_wall() {
        let zone = TimeZone::get("Europe/Berlin").expect("a zone");
        let window = [window("Mon-Fri 22:00-05:00 Europe/Berlin")];
        for begin in ["2026-03-26T00:00:00Z", "2026-10-22T00:00:00Z"] {
            let begin = moment(begin);
            for minute in 0..(7 * 24 * 60) {
                let now = begin + SignedDuration::from_mins(minute);
                let wall = now.to_zoned(zone.clone());
                let evening = wall.time() >= time(22, 0, 0, 0);
                let day = if evening { wall.date() } else { wall.date() - 1.day() };
                let workday = day.weekday().to_monday_zero_offset() < 5;
                let expected = workday && (evening || wall.time() < time(5, 0, 0, 0));
                let seen = at(&window, now);
                assert_eq!(seen.is_open(), expected, "{wall}");
                if let Now::Closed { opens } = seen {
                    assert!(opens > now && at(&window, opens).is_open());
                    assert!(!at(&window, opens - SignedDuration::from_mins(1)).is_open());
                }
            }
        }
        assert_eq!(date(2026, 3, 29).weekday().to_monday_zero_offset(), 6);
    }
}
