//! An estimate as text for people. Pure.

use std::fmt::Write;

use super::Estimated;
use super::facts::Facts;
use super::figure::Figure;
use super::model::{Disk, Estimate, Point};
use crate::report::numbers::{bytes, count, counted, seconds};

/// Eighths of a line, from nothing to all of it.
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The whole text.
pub fn text(estimated: &Estimated) -> String {
    let Estimated { facts, estimate, nights, trial, missing, remarks } = estimated;
    let mut out = format!("estimate for {}\n", facts.table);
    let mut line = |label: &str, text: &str| {
        let _ = writeln!(out, "  {label:<14}{text}");
    };
    there(facts, &mut line);
    match trial {
        Some(trial) => line(
            "trial",
            &format!(
                "{} from {} all over the table, copied in {}",
                counted(trial.rows, "row"),
                counted(trial.ranges, "range"),
                seconds(trial.copy_seconds)
            ),
        ),
        None => line("trial", "none: rates are those of another machine, and sizes those of the catalog"),
    }
    out.push('\n');
    table(estimate, *nights, &mut out);
    out.push('\n');
    chart(&estimate.over_time, &mut out);
    let mut list = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            let _ = write!(out, "\n{title}\n");
            lines.iter().for_each(|l| {
                let _ = writeln!(out, "  {l}");
            });
        }
    };
    list("to be known", remarks.clone());
    list("not measured", missing.iter().map(|m| format!("{}: {}", m.what, m.why)).collect());
    out.trim_end().to_owned()
}

fn there(facts: &Facts, line: &mut impl FnMut(&str, &str)) {
    let size = |value: f64| bytes(whole(value));
    line(
        "table",
        &format!(
            "{}, {} dead; {} with {} of indexes and {} of TOAST beside it",
            counted(whole(facts.rows), "row"),
            count(whole(facts.dead_rows)),
            size(facts.table_bytes),
            size(facts.index_bytes),
            size(facts.toast_bytes)
        ),
    );
    let writes = facts.writes;
    line(
        "writes",
        &format!(
            "{} inserts, {} updates, {} deletes a second, counted for {}{}",
            rate(writes.inserts),
            rate(writes.updates),
            rate(writes.deletes),
            seconds(facts.sampled_seconds),
            facts.different_share.map(|s| format!("; {:.0} % of different rows", s * 100.0)).unwrap_or_default()
        ),
    );
    line("WAL", &format!("{} a second by the whole server", size(facts.wal_bytes_per_second)));
    let standby = |s: &super::facts::Standby| match (s.lag_seconds, s.behind_bytes) {
        (Some(lag), _) => format!("{} {} behind", s.name, seconds(lag.max(0.0))),
        (None, Some(behind)) => format!("{} {} behind", s.name, size(behind.max(0.0))),
        (None, None) => format!("{} (lag not seen)", s.name),
    };
    let standbys: Vec<String> = facts.standbys.iter().map(standby).collect();
    line("standbys", &if standbys.is_empty() { "none".to_owned() } else { standbys.join(", ") });
}

fn whole(value: f64) -> u64 {
    value.max(0.0).round() as u64
}

fn rate(value: f64) -> String {
    if value > 0.0 && value < 10.0 { format!("{value:.1}") } else { count(whole(value)) }
}

/// Low, mid and high of every figure.
fn table(estimate: &Estimate, nights: Option<Figure>, out: &mut String) {
    let mut row = |label: &str, figure: Figure, show: &dyn Fn(f64) -> String| {
        let cell = |value: f64| if value.is_finite() { show(value) } else { "no end".to_owned() };
        let (low, mid, high) = (cell(figure.low), cell(figure.mid), cell(figure.high));
        let _ = writeln!(out, "  {label:<26}{low:>12}{mid:>12}{high:>12}");
    };
    let time = |value: f64| seconds(value);
    let size = |value: f64| bytes(whole(value));
    let number = |value: f64| count(whole(value));
    let s = &estimate.seconds;
    for (label, figure) in [
        ("prepare", s.prepare),
        ("copy", s.copy),
        ("index", s.index),
        ("catch up", s.catch_up),
        ("verify", s.verify),
        ("ready", s.ready),
        ("cut over", s.cut_over),
        ("in all", estimate.total_seconds),
    ] {
        row(label, figure, &time);
    }
    if let Some(nights) = nights {
        row("nights, or windows", nights, &number);
    }
    row("writers wait", estimate.write_pause_seconds, &time);
    row("backlog at most, keys", estimate.peak_backlog_keys, &number);
    row("writes/s it can follow", estimate.largest_writes_per_second, &number);
    row("slot WAL at most", estimate.peak_slot_wal_bytes, &size);
    if let Some(lag) = estimate.peak_lag_seconds {
        row("lag of a standby at most", lag, &time);
    }
    row("disk at most", estimate.peak_disk_bytes, &size);
    for Disk { tablespace, bytes } in &estimate.disk {
        row(&format!("  in {tablespace}"), *bytes, &size);
    }
    let header = format!("  {:<26}{:>12}{:>12}{:>12}\n", "", "low", "likely", "high");
    let at = out.rfind("\n\n").map_or(0, |n| n + 2);
    out.insert_str(at, &header);
}

/// The phases, and under them backlog, slot WAL and lag, each as high as its own most.
fn chart(points: &[Point], out: &mut String) {
    let end = points.last().map_or(0.0, |p| p.seconds);
    let _ = writeln!(out, "  {:<26}{}", format!("over {}, likely", seconds(end)), phases(points));
    let mut series = |label: &str, most: String, value: &dyn Fn(&Point) -> f64| {
        let top = points.iter().map(value).fold(0.0, f64::max);
        let bar = |p: &Point| {
            let eighths = if top > 0.0 { (value(p) / top * 8.0).round() as usize } else { 0 };
            BARS.get(eighths).copied().unwrap_or('█')
        };
        let _ = writeln!(out, "  {:<26}{}", format!("{label} ({most})"), points.iter().map(bar).collect::<String>());
    };
    let top = |value: fn(&Point) -> f64| points.iter().map(value).fold(0.0, f64::max);
    series("backlog", count(whole(top(|p| p.backlog_keys))), &|p| p.backlog_keys);
    series("slot WAL", bytes(whole(top(|p| p.slot_wal_bytes))), &|p| p.slot_wal_bytes);
    if points.iter().any(|p| p.lag_seconds.is_some()) {
        series("lag", seconds(top(|p| p.lag_seconds.unwrap_or(0.0))), &|p| p.lag_seconds.unwrap_or(0.0));
    }
    let _ = writeln!(out, "  {:<26}p prepare, c copy, i index, u catch up, v verify, r ready, s cut over", "");
}

fn phases(points: &[Point]) -> String {
    let letter = |p: &Point| match p.phase {
        "catch up" => 'u',
        "cut over" => 's',
        other => other.chars().next().unwrap_or(' '),
    };
    points.iter().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(seconds: f64, phase: &'static str, backlog_keys: f64) -> Point {
        Point { seconds, phase, backlog_keys, slot_wal_bytes: 2_048.0, lag_seconds: None }
    }

    #[test]
    fn a_chart_rises_and_falls_with_its_figures() {
        let points = [
            point(0.0, "prepare", 0.0),
            point(1.0, "copy", 4.0),
            point(2.0, "index", 8.0),
            point(3.0, "catch up", 1.0),
            point(4.0, "cut over", 0.0),
        ];
        let mut out = String::new();
        chart(&points, &mut out);
        let lines: Vec<&str> = out.lines().collect();
        let line = |label: &str, bars: &str| format!("  {label:<26}{bars}");
        assert_eq!(lines[0], line("over 4.0 s, likely", "pcius"));
        assert_eq!(lines[1], line("backlog (8)", " ▄█▁ "));
        assert_eq!(lines[2], line("slot WAL (2.0 kB)", "█████"));
        assert!(!out.contains("lag ("), "{out}");
    }
}
