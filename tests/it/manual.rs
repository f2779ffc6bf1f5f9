//! What the manual says to copy, copied: the lines of cron, systemd and Kubernetes, and the SQL to watch with.

use std::path::Path;
use std::process::Command;

use pgrecast::cli::{self, Command as Typed};
use pgrecast::error::Exit;
use saphyr::{LoadableYamlNode, Yaml};

use crate::harness::load::Shape;
use crate::harness::migration::{wait_until, widen};
use crate::harness::{Db, assert_nothing_left};

const MANUAL: &str = include_str!("../../docs/operate.md");

/// The part of the manual below a heading.
fn section(heading: &str) -> &'static str {
    let (_, rest) = MANUAL.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
    rest.split("\n## ").next().unwrap_or(rest)
}

/// What stands between the fences of this language, in a part of the manual.
fn blocks(part: &'static str, language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    let all: Vec<&str> = part.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap_or(rest)).collect();
    assert!(!all.is_empty(), "no {language} in it");
    all
}

/// Panics unless these arguments run a file.
fn runs_a_file<'a>(args: impl IntoIterator<Item = &'a str>) {
    match cli::parse(std::iter::once("pgrecast").chain(args)) {
        Ok(Typed::Run(run)) => assert_eq!(run.file, Path::new("/etc/pgrecast/orders.toml")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_line_of_the_crontab_says_something_where_somebody_is_to_look() {
    let lines = blocks(section("In the night, by cron"), "crontab")[0];
    let line = lines.lines().find(|line| line.starts_with('*')).expect("a line with a time");
    assert!(!line.contains('%'), "a line's end to cron");
    let command = line.splitn(6, ' ').nth(5).expect("a command");
    let args = command.split(" >").next().expect("what is run").split(' ');
    runs_a_file(args.skip(1));
    let place = tempfile::tempdir().expect("a directory");
    let program = place.path().join("pgrecast");
    std::fs::write(&program, "#!/bin/sh\necho out; echo \"ended with $CODE\" >&2; exit $CODE\n").expect("a program");
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("its mode");
    let command = command.replace("/var/log/pgrecast", &place.path().to_string_lossy());
    let path = format!("{}:{}", place.path().display(), std::env::var("PATH").unwrap_or_default());
    for (code, worth_a_mail) in [(0, false), (75, false), (6, false), (1, true), (3, true), (4, true), (130, true)] {
        let mut shell = Command::new("/bin/sh");
        let said = shell.args(["-c", &command]).env("PATH", &path).env("CODE", code.to_string()).output();
        let said = said.expect("a shell");
        assert!(said.stderr.is_empty(), "{}", String::from_utf8_lossy(&said.stderr));
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert_eq!(said.contains(&format!("ended with {code}")), worth_a_mail, "{code}: {said}");
        assert!(worth_a_mail || said.is_empty(), "{code}: {said}");
    }
}

#[test]
fn the_units_are_right() {
    let units = blocks(section("In the night, by cron"), "ini");
    let place = tempfile::tempdir().expect("a directory");
    let mut files = Vec::new();
    for unit in &units {
        let name = unit.lines().next().and_then(|line| line.rsplit('/').next()).expect("a file's name");
        let text = unit.replace("/usr/local/bin/pgrecast", env!("CARGO_BIN_EXE_pgrecast"));
        let text = text.replace("User=pgrecast", "User=root");
        files.push(place.path().join(name));
        std::fs::write(&files[files.len() - 1], text).expect("a unit");
    }
    let start = units[0].lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a program");
    runs_a_file(start.split(' ').skip(1));
    let quiet = units[0].lines().find_map(|line| line.strip_prefix("SuccessExitStatus=")).expect("codes");
    let codes = [Exit::Paused, Exit::Busy, Exit::Interrupted].map(|exit| exit.code().to_string());
    assert_eq!(quiet.split(' ').collect::<Vec<_>>(), codes);
    // Where there is no systemd there is nobody to ask.
    let Ok(verified) = Command::new("systemd-analyze").arg("verify").args(&files).output() else { return };
    let said = String::from_utf8_lossy(&verified.stderr);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("pgrecast")).collect();
    assert!(ours.is_empty(), "{said}");
    let calendar = units[1].lines().find_map(|line| line.strip_prefix("OnCalendar=")).expect("a time");
    let times = Command::new("systemd-analyze").args(["calendar", calendar]).output().expect("systemd-analyze");
    assert!(times.status.success(), "{}", String::from_utf8_lossy(&times.stderr));
}

#[test]
fn the_cronjob_is_one_and_starts_no_pod_again_and_again() {
    let text = blocks(section("In the night, by cron"), "yaml")[0];
    let all = Yaml::load_from_str(text).unwrap_or_else(|e| panic!("{e}"));
    let job = &all[0];
    assert_eq!((job["apiVersion"].as_str(), job["kind"].as_str()), (Some("batch/v1"), Some("CronJob")));
    let spec = &job["spec"];
    assert_eq!(spec["schedule"].as_str(), Some("*/10 * * * *"));
    let of_job = &spec["jobTemplate"]["spec"];
    let rule = &of_job["podFailurePolicy"]["rules"][0];
    assert_eq!(rule["action"].as_str(), Some("FailJob"));
    let codes: Vec<Option<i64>> =
        rule["onExitCodes"]["values"].as_sequence().expect("codes").iter().map(Yaml::as_integer).collect();
    assert_eq!(codes, [Exit::Paused, Exit::Busy].map(|exit| Some(i64::from(exit.code()))));
    let pod = &of_job["template"]["spec"];
    assert_eq!(pod["restartPolicy"].as_str(), Some("Never"));
    let container = &pod["containers"][0];
    assert_eq!(rule["onExitCodes"]["containerName"].as_str(), container["name"].as_str());
    assert_eq!(container["command"][0].as_str(), Some("pgrecast"));
    runs_a_file(container["args"].as_sequence().expect("arguments").iter().filter_map(Yaml::as_str));
    assert_eq!(container["volumeMounts"][0]["name"].as_str(), pod["volumes"][0]["name"].as_str());
}

#[test]
fn every_exit_code_is_explained() {
    let table = section("Exit codes");
    let all = [
        Exit::Failed,
        Exit::Usage,
        Exit::Refused,
        Exit::Differs,
        Exit::NoLock,
        Exit::Busy,
        Exit::Paused,
        Exit::Interrupted,
    ];
    for exit in all {
        let row = format!("\n| {} | `{}` | ", exit.code(), exit.word());
        assert!(table.contains(&row), "no row {row}");
    }
}

/// What is seen of a run with SQL alone, and what removes one that died, by hand.
#[test]
fn a_run_is_watched_and_removed_with_sql_alone() {
    let db = Db::new();
    db.sql(Shape::plain_ddl());
    db.sql("INSERT INTO t (id, v) SELECT -n, 'x' FROM generate_series(2, 100) AS n");
    let running = widen(&db, &["--postpone-cutover"]);
    running.wait_for_waiting("pgrecast cutover");
    let watching = section("Watching with SQL alone");
    for statement in blocks(watching, "sql")[0].split_terminator(";\n") {
        let rows = db.rows(statement);
        assert!(!rows.is_empty() || statement.contains("create_index"), "nothing is to be seen with{statement}");
    }
    let sessions =
        db.rows("SELECT DISTINCT application_name FROM pg_stat_activity WHERE application_name ~ '^pgrecast'");
    for name in sessions.into_iter().flatten().flatten() {
        let role = name.trim_start_matches("pgrecast ");
        assert!(watching.contains(&format!("`{name}`")) || watching.contains(&format!("`{role}`")), "{name}");
    }
    let id = db.query_one_text("SELECT id FROM pgrecast.migration");
    let slot = db.query_one_text("SELECT slot_name FROM pg_replication_slots WHERE slot_name ~ '^pgrecast'");
    running.kill();
    let ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name ~ '^pgrecast'";
    wait_until(&db, "the end of its sessions", ours, "0");
    let removing = blocks(section("What a run that died has left"), "sql")[0];
    let removing = removing.replace("pgrecast_16384_7", &slot).replace("pgrecast_7", &format!("pgrecast_{id}"));
    removing.replace("public.orders", "t").lines().for_each(|statement| db.sql(statement));
    assert_nothing_left(&db);
}
