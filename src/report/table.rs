//! Migrations as a table, for `list` and `status`.

use comfy_table::{CellAlignment, Table, presets};
use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::Format;
use super::event::Progress;
use super::numbers::count;
use super::text::printable;

/// One migration.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MigrationRow {
    /// Its number.
    pub id: i64,
    /// The source, as a person would write it.
    pub source: String,
    /// Where it stands, in the words of its phase.
    pub phase: String,
    /// When it was begun.
    #[serde(serialize_with = "time")]
    pub started: Timestamp,
    /// Rows copied so far.
    pub rows: Option<u64>,
    /// What else there is to know, such as who runs it; may be empty.
    pub note: String,
    /// How far its run is, while there is one.
    pub progress: Option<Progress>,
}

fn time<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{at:.3}"))
}

#[derive(Serialize)]
struct Line<'a> {
    event: &'static str,
    #[serde(flatten)]
    row: &'a MigrationRow,
}

/// The rows without the last line's end: a table, or one object of event `migration` a line.
pub fn migrations(rows: &[MigrationRow], format: Format) -> serde_json::Result<String> {
    match format {
        Format::Text if rows.is_empty() => Ok("no migrations".to_owned()),
        Format::Text => Ok(table(rows)),
        Format::Json => rows.iter().map(object).collect::<Result<Vec<_>, _>>().map(|lines| lines.join("\n")),
    }
}

fn object(row: &MigrationRow) -> serde_json::Result<String> {
    serde_json::to_string(&Line { event: "migration", row })
}

/// As wide as it must be: a line that is cut or wrapped is of no use to `grep`.
fn table(rows: &[MigrationRow]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["ID", "TABLE", "PHASE", "STARTED", "ROWS", "NOTE"]);
    for row in rows {
        table.add_row([
            row.id.to_string(),
            printable(&row.source),
            printable(&row.phase),
            format!("{:.0}", row.started),
            row.rows.map_or_else(|| "-".to_owned(), count),
            printable(&row.note),
        ]);
    }
    for right in [0, 4] {
        if let Some(column) = table.column_mut(right) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::report::samples::at;

    fn rows() -> [MigrationRow; 2] {
        let row = MigrationRow {
            id: 7,
            source: "public.orders".to_owned(),
            phase: "copy".to_owned(),
            started: at(0),
            rows: Some(1_200_000),
            note: "running as pid 12".to_owned(),
            progress: None,
        };
        [row.clone(), MigrationRow { id: 12, rows: None, note: String::new(), ..row }]
    }

    #[test]
    fn a_table_lines_up() {
        let expected = [
            " ID  TABLE          PHASE  STARTED                ROWS  NOTE",
            "  7  public.orders  copy   2026-11-03T12:00:00Z  1.2 M  running as pid 12",
            " 12  public.orders  copy   2026-11-03T12:00:00Z      -",
        ];
        let text = migrations(&rows(), Format::Text).expect("a table");
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
        assert_eq!(migrations(&[], Format::Text).expect("a table"), "no migrations");
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = migrations(&rows(), Format::Json).expect("JSON");
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
        let expected = json!({"event": "migration", "id": 7, "source": "public.orders", "phase": "copy",
            "started": "2026-11-03T12:00:00.000Z", "rows": 1_200_000, "note": "running as pid 12", "progress": null});
        assert_eq!(lines[0], expected);
        assert_eq!(lines[1]["rows"], Value::Null);
        assert_eq!(migrations(&[], Format::Json).expect("JSON"), "");
    }
}
