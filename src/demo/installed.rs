//! Which PostgreSQL servers this machine has.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The majors that are tested, oldest and newest.
pub const SUPPORTED: std::ops::RangeInclusive<u32> = 14..=18;

/// Directories with one subdirectory a version, and where the programs are below that.
const USUAL_PLACES: [(&str, &str); 6] = [
    ("/usr/lib/postgresql", "bin"),
    ("/usr", "bin"),
    ("/usr/local", "bin"),
    ("/opt/homebrew/opt", "bin"),
    ("/usr/local/opt", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "bin"),
];

/// The directory of the newest supported server's programs, from `PATH` and the places where packages put them.
pub fn find_installed() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut best: Option<(u32, PathBuf)> = None;
    for bin in std::env::split_paths(&path).chain(usual_places()) {
        let Some(major) = major_of(&bin) else { continue };
        if SUPPORTED.contains(&major) && best.as_ref().is_none_or(|(found, _)| major > *found) {
            best = Some((major, bin));
        }
    }
    best.map(|(_, bin)| bin)
}

fn usual_places() -> impl Iterator<Item = PathBuf> {
    USUAL_PLACES.into_iter().flat_map(|(parent, below)| {
        let mut found: Vec<PathBuf> = std::fs::read_dir(parent)
            .into_iter()
            .flatten()
            .flatten()
            // `/usr/pgsql-17`, `/usr/local/pgsql`, `/usr/lib/postgresql/17`, `…/postgresql@17`
            .filter(|e| e.file_name().to_string_lossy().starts_with(|c: char| c == 'p' || c.is_ascii_digit()))
            .map(|entry| entry.path().join(below))
            .collect();
        found.sort();
        found
    })
}

/// The major version of the server in this directory, if there is one that runs.
pub fn major_of(bin: &Path) -> Option<u32> {
    if !bin.join("initdb").is_file() || !bin.join("postgres").is_file() {
        return None;
    }
    let output = Command::new(bin.join("postgres")).arg("--version").output().ok()?;
    major_in(&String::from_utf8_lossy(&output.stdout))
}

/// `postgres (PostgreSQL) 17.2 (Debian …)` has major 17.
fn major_in(version: &str) -> Option<u32> {
    let number = version.split("(PostgreSQL)").nth(1)?.trim_start();
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_is_read_from_release_beta_and_packaged_versions() {
        assert_eq!(major_in("postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n"), Some(15));
        assert_eq!(major_in("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(major_in("something else 15.2"), None);
    }
}
