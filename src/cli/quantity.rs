//! Durations, sizes and ratios as they are typed.

use std::time::Duration;

/// The longest the server takes for a timeout: its settings hold whole milliseconds in 32 bits.
const LONGEST_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);

/// The largest size the server's `bigint` can be compared with, in bytes.
const LARGEST_SIZE: u64 = i64::MAX as u64;

/// Above this the run would sleep for more than 99 % of its time.
const LARGEST_NICE: f64 = 100.0;

/// The units of the server's own settings, as powers of 1024.
const UNITS: [(&str, u64); 5] = [("B", 1), ("kB", 1 << 10), ("MB", 1 << 20), ("GB", 1 << 30), ("TB", 1 << 40)];

/// A duration longer than zero: `1m 30s`, `250ms`, `2h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let read =
        humantime::parse_duration(text).map_err(|error| format!("{error}; durations read as 1m 30s or 250ms"))?;
    if read.is_zero() {
        return Err("the duration must be longer than zero".to_owned());
    }
    Ok(read)
}

/// A duration that the server can take as a timeout: whole milliseconds, from one to about 24 days.
pub fn timeout(text: &str) -> Result<Duration, String> {
    let read = duration(text)?;
    if read > LONGEST_TIMEOUT {
        return Err("PostgreSQL's timeouts end at 24 days".to_owned());
    }
    if !read.subsec_nanos().is_multiple_of(1_000_000) {
        return Err("PostgreSQL's timeouts are whole milliseconds".to_owned());
    }
    Ok(read)
}

/// A size in bytes, larger than zero: `10GB`, `512 MB`, `1048576`.
pub fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let number: u64 = number.parse().map_err(|_| "a size is a whole number and a unit, as in 10GB".to_owned())?;
    let bytes = if unit.is_empty() {
        Some(1)
    } else {
        UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, bytes)| *bytes)
    };
    let bytes = bytes.ok_or_else(|| format!("unknown unit {unit:?}; the units are B, kB, MB, GB and TB"))?;
    match number.checked_mul(bytes) {
        Some(0) => Err("the size must be larger than zero".to_owned()),
        Some(size) if size <= LARGEST_SIZE => Ok(size),
        Some(_) | None => Err("the size is larger than PostgreSQL can count".to_owned()),
    }
}

/// How long to sleep for each unit of work: `0` never, `1` as long as the work took.
pub fn nice(text: &str) -> Result<f64, String> {
    let ratio: f64 = text.trim().parse().map_err(|_| "a ratio is a number, as in 0.5".to_owned())?;
    if (0.0..=LARGEST_NICE).contains(&ratio) {
        Ok(ratio)
    } else {
        Err(format!("the ratio must lie between 0 and {LARGEST_NICE}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        let cases =
            [("1m 30s", 90_000), ("250ms", 250), ("1s", 1_000), ("2h", 7_200_000), ("1.5s", 1_500), ("1m30s", 90_000)];
        for (text, millis) in cases {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "1", "s", "-1s", "0s", "1 fortnight", "1s x"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_timeout_is_what_the_server_can_hold() {
        assert_eq!(timeout("1ms"), Ok(Duration::from_millis(1)));
        assert_eq!(timeout("24days"), Ok(Duration::from_secs(24 * 86_400)));
        for text in ["25days", "1us", "1ms 1us", "0ms"] {
            assert!(timeout(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        let cases = [
            ("10GB", 10 << 30),
            ("512MB", 512 << 20),
            ("1TB", 1 << 40),
            ("8kB", 8 << 10),
            ("8 KB", 8 << 10),
            ("1gb", 1 << 30),
            ("17B", 17),
            (" 1048576 ", 1 << 20),
        ];
        for (text, bytes) in cases {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GB", "0", "0GB", "-1GB", "1.5GB", "1 PB", "1G", "9000000TB", "99999999999999999999"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_ratio_is_a_number_in_bounds() {
        assert_eq!(nice("0"), Ok(0.0));
        assert_eq!(nice("0.5"), Ok(0.5));
        assert_eq!(nice("100"), Ok(100.0));
        for text in ["", "-1", "NaN", "inf", "101", "half"] {
            assert!(nice(text).is_err(), "{text}");
        }
    }
}
