//! What the catalog says about a database, in a form that can be compared.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use super::Db;

/// The schema as `pg_dump --schema-only` writes it, without what differs between two runs or two versions: comment lines,
/// blank lines, the random words of `\restrict`, and the versions that a server counts for each column.
pub fn dump(db: &Db) -> String {
    let output = Command::new(&*PG_DUMP)
        .args(["--schema-only", "--dbname", db.dsn()])
        .output()
        .unwrap_or_else(|e| panic!("cannot run {}: {e}", PG_DUMP.display()));
    assert!(output.status.success(), "pg_dump: {}", String::from_utf8_lossy(&output.stderr));
    normalised(&String::from_utf8_lossy(&output.stdout))
}

fn normalised(dump: &str) -> String {
    let noise = ["--", "\\restrict", "\\unrestrict"];
    let kept = dump.lines().filter(|line| !line.is_empty() && !noise.iter().any(|noise| line.starts_with(noise)));
    kept.filter_map(without_column_version).flat_map(|line| [line, "\n".into()]).collect()
}

/// Servers from the end of 2026 on (15.20 is one) keep a version of their own, `pg_attver`, among a column's options, and
/// an older `pg_dump` takes it for one of the user's.
fn without_column_version(line: &str) -> Option<String> {
    let Some((before, options)) = line.split_once(" SET (").filter(|(_, options)| options.contains("pg_attver="))
    else {
        return Some(line.into());
    };
    let options = options.trim_end_matches(");").split(", ").filter(|option| !option.starts_with("pg_attver="));
    let options = options.collect::<Vec<_>>().join(", ");
    (!options.is_empty()).then(|| format!("{before} SET ({options});"))
}

/// From `PGRECAST_TEST_CLIENTS`, else what `scripts/pg clients` finds, else the PATH; the newest reads every server.
static PG_DUMP: LazyLock<PathBuf> = LazyLock::new(|| client("pg_dump"));

/// A program of the newest major's.
pub fn client(name: &str) -> PathBuf {
    let named = std::env::var_os("PGRECAST_TEST_CLIENTS").map(PathBuf::from);
    named.or_else(fetched).map_or_else(|| PathBuf::from(name), |bin| bin.join(name))
}

fn fetched() -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/pg");
    let output = Command::new(script).arg("clients").output().ok()?;
    output.status.success().then(|| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}
