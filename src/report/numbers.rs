//! Numbers for people: three digits are enough to see how it goes.

use std::time::Duration;

/// `999`, `1.2 k`, `12.3 M`, `410 M`: powers of 1000.
pub fn count(number: u64) -> String {
    scaled(number, 1_000.0, &["", " k", " M", " G", " T"])
}

/// `512 B`, `1.5 kB`, `64.0 MB`, `512 MB`: powers of 1024, named as PostgreSQL names them.
pub fn bytes(number: u64) -> String {
    scaled(number, 1_024.0, &[" B", " kB", " MB", " GB", " TB"])
}

/// One decimal below a hundred of a unit, none above; the next unit where rounding would reach it.
fn scaled(number: u64, step: f64, units: &[&str; 5]) -> String {
    let mut value = number as f64;
    let mut unit = 0;
    while value.round() >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let decimals = usize::from(unit > 0 && value < 99.95);
    format!("{value:.decimals$}{}", units[unit])
}

/// `0.4 ms`, `12 ms`, `12.3 s`, `3m 05s`, `2h 05m`, `3d 04h`.
pub fn duration(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1_000.0;
    let seconds = duration.as_secs_f64().round() as u64;
    if duration.is_zero() {
        "0 ms".to_owned()
    } else if millis < 9.95 {
        format!("{millis:.1} ms")
    } else if millis < 999.5 {
        format!("{millis:.0} ms")
    } else if duration.as_secs_f64() < 59.95 {
        format!("{:.1} s", duration.as_secs_f64())
    } else if seconds < 3_600 {
        format!("{}m {:02}s", seconds / 60, seconds % 60)
    } else if seconds < 86_400 {
        format!("{}h {:02}m", seconds / 3_600, seconds % 3_600 / 60)
    } else {
        format!("{}d {:02}h", seconds / 86_400, seconds % 86_400 / 3_600)
    }
}

/// [`duration`] of seconds; a `?` for what is no length of time.
pub fn seconds(seconds: f64) -> String {
    Duration::try_from_secs_f64(seconds).map_or_else(|_| "?".to_owned(), duration)
}

/// `12 rows`, `1 row`, `1.2 M rows`.
pub fn counted(number: u64, one: &str) -> String {
    format!("{} {one}{}", count(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_powers_of_1000() {
        let cases = [
            (0, "0"),
            (999, "999"),
            (1_000, "1.0 k"),
            (1_234_567, "1.2 M"),
            (99_940, "99.9 k"),
            (99_960, "100 k"),
            (410_000, "410 k"),
            (999_499, "999 k"),
            (999_500, "1.0 M"),
            (3_000_000, "3.0 M"),
            (5_000_000_000, "5.0 G"),
            (u64::MAX, "18446744 T"),
        ];
        for (number, text) in cases {
            assert_eq!(count(number), text, "{number}");
        }
    }

    #[test]
    fn bytes_are_powers_of_1024() {
        let cases = [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1.0 kB"),
            (512 << 20, "512 MB"),
            ((1 << 20) - 1, "1.0 MB"),
            (3 << 29, "1.5 GB"),
            (2 << 40, "2.0 TB"),
            (5_000 << 40, "5000 TB"),
        ];
        for (number, text) in cases {
            assert_eq!(bytes(number), text, "{number}");
        }
    }

    #[test]
    fn durations_show_two_units_at_most() {
        let cases = [
            (0.0, "0 ms"),
            (0.000_4, "0.4 ms"),
            (0.012, "12 ms"),
            (0.999_4, "999 ms"),
            (0.999_6, "1.0 s"),
            (12.34, "12.3 s"),
            (59.96, "1m 00s"),
            (185.0, "3m 05s"),
            (3_599.7, "1h 00m"),
            (7_500.0, "2h 05m"),
            (273_600.0, "3d 04h"),
            (-1.0, "?"),
            (f64::NAN, "?"),
        ];
        for (value, text) in cases {
            assert_eq!(seconds(value), text, "{value}");
        }
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!(counted(1, "row"), "1 row");
        assert_eq!(counted(0, "row"), "0 rows");
        assert_eq!(counted(2_000, "key"), "2.0 k keys");
    }
}
