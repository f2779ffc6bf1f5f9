//! The last words of a run.

use super::event::Phase;
use super::file::{PhaseSeconds, Report, Summary};
use super::numbers::{bytes, count, counted, seconds};

/// One headline, then one line for each thing that there is to tell.
pub(super) fn lines(summary: &Summary) -> Vec<String> {
    let report = &summary.report;
    let told = [copied(report), followed(report), phases(&report.seconds)];
    let told = told.into_iter().chain([compared(report), unconverted(report), waited(report), what_stays(summary)]);
    let mut lines = vec![headline(report)];
    lines.extend(told.flatten().map(|line| format!("  {line}")));
    lines
}

fn headline(report: &Report) -> String {
    let source = report.source.as_ref().map(|source| format!(" {source}")).unwrap_or_default();
    let took = report.seconds.total.map(|total| format!(" in {}", seconds(total))).unwrap_or_default();
    format!("{}: {}{source}{took}", report.outcome, report.command)
}

fn copied(report: &Report) -> Option<String> {
    let rows = report.rows_copied?;
    let size = report.bytes_copied.map(|size| format!(", {}", bytes(size))).unwrap_or_default();
    Some(format!("copied {}{size}", counted(rows, "row")))
}

fn followed(report: &Report) -> Option<String> {
    let flushed = report.keys_flushed?;
    let journaled = report.keys_journaled.map(|keys| format!(" ({} journaled)", count(keys))).unwrap_or_default();
    Some(format!("followed {}{journaled}", counted(flushed, "changed key")))
}

fn phases(times: &PhaseSeconds) -> Option<String> {
    let phases = [
        (Phase::Prepare, times.prepare),
        (Phase::Copy, times.copy),
        (Phase::Index, times.index),
        (Phase::CatchUp, times.catch_up),
        (Phase::Verify, times.verify),
        (Phase::Ready, times.ready),
    ];
    let told = phases.iter().filter_map(|(phase, took)| Some(format!("{phase} {}", seconds((*took)?))));
    let told: Vec<String> = told.collect();
    (!told.is_empty()).then(|| told.join(", "))
}

fn compared(report: &Report) -> Option<String> {
    let figures = &report.verify;
    Some(verified(figures.rows_compared?, figures.differences?, figures.rechecked.unwrap_or(0)))
}

fn unconverted(report: &Report) -> Option<String> {
    let found = report.unconverted.as_ref()?;
    if found.values == 0 {
        return Some("every value converted".to_owned());
    }
    let columns: Vec<String> = found.columns.iter().map(|(c, n)| format!("{c} {}", count(*n))).collect();
    let kept = found.table.as_ref().map(|t| format!(", kept in {t}")).unwrap_or_default();
    let (values, rows) = (counted(found.values, "value"), counted(found.rows, "row"));
    Some(format!("{values} of {rows} did not convert and became NULL ({}){kept}", columns.join(", ")))
}

fn waited(report: &Report) -> Option<String> {
    let figures = &report.cutover;
    let blocked = seconds(figures.write_blocked?);
    let attempt = figures.attempts.map(|attempts| format!(", attempt {attempts}")).unwrap_or_default();
    let lock = figures.lock_wait.map(|wait| format!(" (the lock came after {}{attempt})", seconds(wait)));
    Some(format!("writers waited {blocked}{}", lock.unwrap_or_default()))
}

fn what_stays(summary: &Summary) -> Option<String> {
    let old = summary.old_table.as_ref()?;
    let id = summary.report.id?;
    Some(format!("the old table stays as {old}; drop it with: pgrecast finish {id}"))
}

/// The result of a comparison.
pub(super) fn verified(rows: u64, differences: u64, rechecked: u64) -> String {
    let found = if differences == 0 { "no difference".to_owned() } else { counted(differences, "difference") };
    let again = if rechecked == 0 { String::new() } else { format!(", {} looked at twice", counted(rechecked, "key")) };
    format!("verified {}: {found}{again}", counted(rows, "row"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Unconverted, samples};

    #[test]
    fn a_done_run_tells_all_of_it() {
        let expected = [
            "done: alter public.orders in 12.3 s",
            "  copied 3.0 M rows, 128 MB",
            "  followed 1.2 k changed keys (3.4 k journaled)",
            "  prepare 300 ms, copy 6.1 s, index 3.2 s, catch up 200 ms, verify 2.0 s, ready 400 ms",
            "  verified 3.0 M rows: no difference, 12 keys looked at twice",
            "  writers waited 12 ms (the lock came after 3.0 ms, attempt 2)",
            "  the old table stays as public.orders_old; drop it with: pgrecast finish 7",
        ];
        assert_eq!(lines(&samples::summary()), expected);
    }

    #[test]
    fn a_run_that_came_to_nothing_tells_only_that() {
        let report = Report { command: "alter".to_owned(), outcome: "refused".to_owned(), ..Report::default() };
        assert_eq!(lines(&Summary { report, old_table: None }), ["refused: alter"]);
    }

    #[test]
    fn what_did_not_convert_is_told() {
        let told = |unconverted| unconverted_of(Report { unconverted: Some(unconverted), ..Report::default() });
        assert_eq!(told(Unconverted::default()), "every value converted");
        let columns = [("a".to_owned(), 2), ("b".to_owned(), 1)].into();
        let found = Unconverted { values: 3, rows: 2, columns, table: Some("public.t_quarantine".to_owned()) };
        let expected = "3 values of 2 rows did not convert and became NULL (a 2, b 1), kept in public.t_quarantine";
        assert_eq!(told(found), expected);
    }

    fn unconverted_of(report: Report) -> String {
        unconverted(&report).expect("a line")
    }

    #[test]
    fn differences_are_counted() {
        assert_eq!(verified(10, 1, 0), "verified 10 rows: 1 difference");
    }
}
