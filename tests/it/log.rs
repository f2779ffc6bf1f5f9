//! The log of a run: what each line has, and what is nowhere to be seen.

use serde_json::Value;

use crate::harness::migration::{command, finish};
use crate::harness::{Db, Output, server, spawn_with};

const PASSWORD: &str = "hush-9f3c";

/// What a row has.
const VALUE: &str = "a row's own words";

fn table() -> Db {
    let db = Db::new();
    db.sql(&format!(
        "DO $$ BEGIN CREATE ROLE keeper SUPERUSER LOGIN PASSWORD '{PASSWORD}'; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
         CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, '12'), (2, $v${VALUE}$v$)"
    ));
    db
}

/// All that anybody could read of a run on the server.
fn seen_on_the_server(db: &Db) -> String {
    let list = "SELECT string_agg(format('SELECT t::text FROM %s AS t', oid::regclass), ' UNION ALL ') FROM pg_class \
                WHERE relkind IN ('r', 'p') AND relnamespace = 'pgrecast'::regnamespace";
    let views = "SELECT a::text FROM pg_stat_activity AS a UNION ALL SELECT r::text FROM pg_stat_replication AS r";
    let rows = db.rows(&format!("{views} UNION ALL {}", db.query_one_text(list)));
    rows.into_iter().flatten().flatten().collect::<Vec<_>>().join("\n")
}

fn logged(output: &Output) -> Vec<Value> {
    output.stderr.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

#[test]
fn a_line_says_where_it_is_and_a_password_is_nowhere() {
    let db = table();
    let dsn = server().dsn_for("keeper", PASSWORD, db.name());
    let place = tempfile::tempdir().expect("a directory");
    let report = place.path().join("report.json").to_string_lossy().into_owned();
    let args = ["alter", "t", "ALTER id TYPE bigint", "--postpone-cutover", "--format", "json", "--log-format", "json"];
    let running = spawn_with(&dsn, &[&args[..], &["--report", &report]].concat(), &[("PGRECAST_LOG", "debug")]);
    running.wait_for_waiting("pgrecast cutover");
    let title = std::fs::read(format!("/proc/{}/cmdline", running.pid())).expect("the process's title");
    let on_the_server = seen_on_the_server(&db);
    assert!(on_the_server.contains("pgrecast monitor") && on_the_server.contains(VALUE), "{on_the_server}");
    command(&db, &["cutover"]).wait().ended(0);
    let output = running.wait();
    output.ended(0);
    let report = std::fs::read_to_string(&report).expect("the report");
    let title = String::from_utf8_lossy(&title);
    for text in [&output.stdout, &output.stderr, &on_the_server, &report, &*title] {
        assert!(!text.contains(PASSWORD), "{text}");
    }
    let lines = logged(&output);
    let copy = lines.iter().find(|line| line["message"].as_str().is_some_and(|m| m.starts_with("copy begins")));
    let copy = copy.expect("a line for the phase");
    assert_eq!((&copy["level"], &copy["phase"]), (&"info".into(), &"copy".into()));
    assert_eq!(copy["migration"].to_string(), db.query_one_text("SELECT id FROM pgrecast.migration"));
    assert!(lines.iter().all(|line| line["time"].is_string() && line["level"].is_string()));
    assert!(lines.iter().any(|line| line["statement"] == "copy chunk"), "{}", output.stderr);
    assert!(!output.stderr.contains(VALUE), "{}", output.stderr);
    finish(&db);
}

/// What a run ends with is told in full on standard output; the log has neither value nor password.
#[test]
fn an_error_is_logged_without_what_the_row_has() {
    let db = table();
    let run = |dsn: &str, format: &str| {
        spawn_with(dsn, &["alter", "t", "ALTER v TYPE int USING v::int", "--log-format", format], &[]).wait()
    };
    let dsn = server().dsn_for("keeper", PASSWORD, db.name());
    let ended = run(&dsn, "json");
    assert_eq!(ended.code, Some(1), "{}{}", ended.stdout, ended.stderr);
    let last = logged(&ended).pop().expect("a line");
    assert_eq!((&last["level"], &last["exit"]), (&"error".into(), &1.into()));
    assert!(last["message"].as_str().is_some_and(|m| m.contains("22P02")), "{last}");
    assert!(ended.stdout.contains(VALUE) && !ended.stderr.contains(VALUE), "{}\n{}", ended.stdout, ended.stderr);
    let again = run(&dsn, "text");
    assert!(again.stderr.contains("error migration") && !again.stderr.contains(VALUE), "{}", again.stderr);
    command(&db, &["abort"]).wait().ended(0);
    for (dsn, code) in [
        (dsn.replace(PASSWORD, &format!("{PASSWORD}-no-more")), 1),
        (format!("{dsn} {PASSWORD}"), 2),
        (format!("host=localhost password={PASSWORD} sslmode=maybe"), 2),
    ] {
        for format in ["text", "json"] {
            let ended = run(&dsn, format);
            assert_eq!(ended.code, Some(code), "{dsn}: {}", ended.stderr);
            assert!(!format!("{}{}", ended.stdout, ended.stderr).contains(PASSWORD), "{}", ended.stderr);
        }
    }
    let misplaced = spawn_with("", &["alter", "t", "", &format!("postgres://ann:{PASSWORD}@h/db")], &[]).wait();
    assert_eq!(misplaced.code, Some(2));
    assert!(misplaced.stderr.contains("postgres://ann:…@h/db"), "{}", misplaced.stderr);
}
