//! The demonstration, on a small table: it ends well, and leaves nothing behind however it ends.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Running, test_bin, wait_for};

const SOON: Duration = Duration::from_secs(60);

/// A demonstration whose server lives in a directory of the test's own.
struct Demo {
    place: TempDir,
    running: Running,
}

impl Demo {
    fn start(args: &[&str]) -> Demo {
        // A short path, for a Unix socket will be in it, and one that the server's own user may enter.
        let place = tempfile::Builder::new().prefix("pgrecast-test").tempdir_in("/var/tmp").expect("a directory");
        std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).expect("open to all");
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgrecast"));
        command.arg("demo").args(args).args(["--format", "json"]);
        command.env("TMPDIR", place.path()).env("PATH", format!("{}:{path}", test_bin().display()));
        Demo { place, running: Running::start(command) }
    }
}

/// Processes that name the directory, and what is in it.
fn left_in(place: &Path) -> Vec<String> {
    let name = place.to_string_lossy().into_owned();
    let processes = std::fs::read_dir("/proc").expect("processes").flatten();
    let told = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    let lines = told.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    let files = std::fs::read_dir(place).expect("the directory").flatten();
    lines.filter(|line| line.contains(&name)).chain(files.map(|file| file.path().display().to_string())).collect()
}

fn assert_nothing_left_in(place: &TempDir) {
    wait_for("the end of the server and its files", SOON, || {
        let left = left_in(place.path());
        if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
    });
}

#[test]
fn a_table_under_load_changes_its_key_and_no_client_notices() {
    let Demo { place, running } = Demo::start(&["--rows", "50000", "--seconds", "2"]);
    running.wait_for_event("the migration", SOON, |event| event["event"] == "started");
    assert!(!left_in(place.path()).is_empty(), "the server is where this test looks for it");
    let output = running.wait();
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    assert_nothing_left_in(&place);

    let last = output.stdout.lines().last().expect("the facts");
    let facts: Value = serde_json::from_str(last).expect("an object");
    assert_eq!(facts["event"], "demo_facts");
    assert_eq!(facts["table"]["rows"], 50_000);
    assert_eq!(facts["table"]["key_type_before"], "integer");
    assert_eq!(facts["table"]["key_type"], "bigint");
    assert_eq!(facts["clients"]["failed"], 0);
    assert_eq!(facts["writes"]["lost"], 0);
    assert_eq!(facts["writes"]["sum_is_right"], true);
    assert_eq!(facts["writes"]["rows"], facts["writes"]["rows_expected"]);
    let number =
        |path: &str| facts.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} in {facts}"));
    for stage in 0..3 {
        let statements = number(&format!("/clients/stages/{stage}/statements"));
        assert!(statements > 100.0, "{statements} in stage {stage}");
    }
    let (at_swap, longest) = (number("/clients/swap_pause"), number("/clients/longest_pause"));
    assert!(at_swap <= longest && longest < 10.0, "{at_swap} s of {longest} s");
    assert!(number("/migration/write_blocked") < 1.0);
    assert!(number("/writes/inserted") > 10.0 && number("/writes/updated") > 10.0);
}

#[test]
fn an_interrupt_leaves_nothing_behind_at_any_time() {
    for moment in ["notice", "phase_began"] {
        let Demo { place, mut running } = Demo::start(&["--rows", "50000", "--seconds", "2"]);
        running.wait_for_event(moment, SOON, |event| event["event"] == moment);
        running.signal(Signal::SIGINT);
        let output = running.wait();
        assert_eq!(output.code, Some(130), "{}{}", output.stdout, output.stderr);
        assert!(output.stderr.starts_with("error: interrupted\n"), "{}", output.stderr);
        assert_nothing_left_in(&place);
    }
}
