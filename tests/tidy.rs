//! The house keeps its shape: imports go one way, from the top of this list down.

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms of `src`, top to bottom: a room uses itself and what stands below it.
const ROOMS: &[&str] = &[
    "main",
    "commands",
    "status",
    "demo",
    "run",
    "rollback",
    "keep",
    "compare",
    "monitor",
    "estimate",
    "cutover",
    "extend",
    "index",
    "prepare",
    "unconverted",
    "statistics",
    "finish",
    "fill",
    "slot",
    "context",
    "verify",
    "follow",
    "flush",
    "copy",
    "unfit",
    "journal",
    "stream",
    "throttle",
    "retry",
    "drift",
    "published",
    "ties",
    "state",
    "preflight",
    "standby",
    "plan",
    "spec",
    "cli",
    "window",
    "report",
    "pg",
    "error",
    "seams",
];

/// Pairs that look back up, and why.
const EXCEPTIONS: &[(&str, &str, &str)] =
    &[("error", "pg", "a failure keeps the server's error it comes from"), ("commands", "commands", "itself")];

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn room_of(file: &Path, src: &Path) -> String {
    let inside = file.strip_prefix(src).expect("below src");
    let first = inside.components().next().expect("a component").as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// Rooms that a line of code names through `crate::`.
fn named(line: &str) -> Vec<String> {
    line.split("crate::")
        .skip(1)
        .map(|rest| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>())
        .filter(|room| !room.is_empty())
        .collect()
}

#[test]
fn imports_go_one_way() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    assert!(files.len() > 50, "the source was not found");
    let rank = |room: &str| ROOMS.iter().position(|r| *r == room);
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for file in files.iter().filter(|f| !f.ends_with("src/lib.rs")) {
        let room = room_of(file, &src);
        let own = rank(&room).unwrap_or_else(|| panic!("room {room} has no place in the list"));
        let text = fs::read_to_string(file).expect("readable source");
        for line in text.lines().map(str::trim_start).filter(|l| !l.starts_with("//")) {
            for used in named(line) {
                let Some(other) = rank(&used) else { panic!("{} names crate::{used}", file.display()) };
                seen += 1;
                let excused = EXCEPTIONS.iter().any(|(a, b, _)| *a == room && *b == used);
                if other < own && !excused {
                    wrong.push(format!("{}: {room} uses {used}", file.display()));
                }
            }
        }
    }
    assert!(seen > 100, "only {seen} imports were seen");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
