//! `pgrecast verify` from another terminal, in the rollback window, and after it was interrupted.

use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::migration::{SOON, command, finish, phase_of, wait_until};
use crate::harness::{
    Db, Output, Running, Session, assert_nothing_left, dump, leftovers, own_server, spawn_with, wait_for,
};

const ROWS: &str = "CREATE TABLE t (id int PRIMARY KEY, v text, gone text DEFAULT 'new');
    INSERT INTO t SELECT n, 'v' || n, 'old ' || n FROM generate_series(1, 3000) n";

fn id(db: &Db) -> String {
    db.query_one_text("SELECT id FROM pgrecast.migration")
}

fn verify(db: &Db) -> Output {
    command(db, &["verify", &id(db)]).wait()
}

/// A run that is in step and waits to be told to cut over.
fn postponed(db: &Db, more: &[&str]) -> Running {
    let running =
        command(db, &[&["alter", "t", "ALTER id TYPE bigint", "--no-verify", "--postpone-cutover"], more].concat());
    running.wait_for_waiting("pgrecast cutover");
    running
}

/// A run that keeps the old table in step.
fn kept(db: &Db, clauses: &str, more: &[&str]) -> Running {
    let running = command(db, &[&["alter", "t", clauses, "--rollback-window", "10m"], more].concat());
    running.wait_for_window();
    running
}

/// Waits until a run compares because somebody asked for it.
fn asked(running: &Running) {
    running.wait_for_event("the question", SOON, |e| {
        e["event"] == "notice" && e["text"].as_str().is_some_and(|t| t.contains("as pgrecast verify asks"))
    });
}

fn notices(output: &Output) -> String {
    let text = |event: Value| event["text"].as_str().unwrap_or_default().to_owned();
    output.events("notice").into_iter().chain(output.events("warning")).map(text).collect::<Vec<_>>().join("\n")
}

fn assert_says(output: &Output, words: &[&str]) {
    for word in words {
        assert!(output.stderr.contains(word), "{word}: {}", output.stderr);
    }
}

#[test]
fn asked_from_another_terminal_the_run_compares_and_a_difference_leaves_abort_alone() {
    let db = Db::new();
    db.sql(ROWS);
    let before = dump(&db);
    let running = postponed(&db, &["--rollback-window", "1h"]);
    let agreed = verify(&db).done();
    assert_eq!((&agreed["verify"]["rows_compared"], &agreed["verify"]["differences"]), (&3000.into(), &0.into()));
    let shadow = format!("pgrecast.shadow_{}", id(&db));
    db.sql(&format!(
        "UPDATE {shadow} SET v = 'planted' WHERE id = 7; DELETE FROM {shadow} WHERE id = 8;
         INSERT INTO {shadow} VALUES (9000, 'planted')"
    ));
    let asked = verify(&db);
    asked.ended(4);
    assert_says(&asked, &["id = 7 differs in v", "id = 8 is missing in the shadow", "id = 9000 is in the shadow only"]);
    let ran = running.wait();
    ran.ended(4);
    assert_says(&ran, &["id = 9000 is in the shadow only"]);
    let id = id(&db);
    for (refused, code) in [("resume", 4), ("verify", 4), ("cutover", 4), ("rollback", 2), ("finish", 2)] {
        command(&db, &[refused, &id]).wait().ended(code);
    }
    command(&db, &["alter", "t", "ALTER id TYPE bigint", "--rollback-window", "1h"]).wait().ended(4);
    assert_says(&command(&db, &["resume", &id]).wait(), &["id = 7 differs in v", "pgrecast abort"]);
    command(&db, &["abort", &id]).wait().ended(0);
    assert_eq!(dump(&db), before);
    assert_nothing_left(&db);
}

/// A file that holds the workers back while it is there.
struct Brake(tempfile::TempDir);

impl Brake {
    fn new() -> Brake {
        Brake(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self) -> String {
        self.0.path().join("brake").to_string_lossy().into_owned()
    }

    fn on(&self) {
        std::fs::write(self.path(), "").expect("a file");
    }

    fn off(&self) {
        std::fs::remove_file(Path::new(&self.path())).expect("the file");
    }
}

#[test]
fn a_question_is_told_when_it_is_too_early_and_when_its_runner_dies() {
    let (db, brake) = (Db::new(), Brake::new());
    db.sql(ROWS);
    brake.on();
    let args = ["alter", "t", "ALTER id TYPE bigint", "--no-verify", "--postpone-cutover", "--throttle-file"];
    let running = command(&db, &[&args[..], &[&brake.path()]].concat());
    running.wait_for_phase("copy");
    wait_until(&db, "the copy's phase", "SELECT phase FROM pgrecast.migration", "copy");
    let early = verify(&db);
    early.ended(2);
    assert_says(&early, &["is in phase copy", "too early"]);
    brake.off();
    running.wait_for_waiting("pgrecast cutover");

    brake.on();
    running.wait_for_event("the brake", SOON, |e| {
        e["throttle"].as_str().is_some_and(|t| t.contains("file")) && e["phase"] == "ready"
    });
    let asker = command(&db, &["verify", &id(&db)]);
    asked(&running);
    // The comparison is held back, as is everything else; the runner dies in it.
    running.kill();
    let told = asker.wait();
    told.ended(1);
    assert_says(&told, &["its runner ended", "pgrecast verify"]);

    // The question is not answered by whoever comes next.
    brake.off();
    let next = command(&db, &["resume"]);
    next.wait_for_waiting("pgrecast cutover");
    command(&db, &["cutover"]).wait().ended(0);
    let next = next.wait();
    next.done();
    assert!(next.events("verify_result").is_empty(), "{}", next.stdout);
    finish(&db);
}

#[test]
fn a_comparison_that_nobody_waits_for_any_more_is_given_up() {
    let (db, brake) = (Db::new(), Brake::new());
    db.sql(ROWS);
    let running = postponed(&db, &["--throttle-file", &brake.path()]);
    brake.on();
    running.wait_for_event("the brake", SOON, |e| e["throttle"].as_str().is_some_and(|t| t.contains("file")));
    let mut asker = command(&db, &["verify"]);
    asked(&running);
    asker.signal(Signal::SIGINT);
    asker.wait().ended(130);
    running.wait_for_event("the end of it", SOON, |e| {
        e["event"] == "notice" && e["text"].as_str().is_some_and(|t| t.contains("nobody waits"))
    });
    brake.off();
    command(&db, &["cutover"]).wait().ended(0);
    running.done();
    finish(&db);
}

const CHANGE: &str = "ALTER id TYPE bigint, DROP gone, ADD more int DEFAULT 7, ALTER j TYPE jsonb, ALTER n TYPE int USING round(n), ALTER p TYPE numeric";

/// Columns that the way forth changes with a loss, one that goes, one that comes.
const LOSSY: &str =
    "CREATE TABLE t (id int PRIMARY KEY, v text, gone text DEFAULT 'new', j json, n numeric, p numeric(8,2), CHECK (v <> 'never'));
    INSERT INTO t SELECT n, 'v' || n, 'old ' || n, '{\"a\":   1}', n + 0.25, 1.5 FROM generate_series(1, 3000) n";

#[test]
fn in_the_rollback_window_what_is_lost_both_ways_is_no_difference_and_what_is_planted_is() {
    let db = Db::new();
    db.sql(LOSSY);
    let running = kept(&db, CHANGE, &["--reverse", "n = n"]);
    db.sql(
        "UPDATE t SET more = id, n = n + 1, p = 1.234 WHERE id % 3 = 0; UPDATE t SET j = '{\"b\": [2,  3]}' WHERE id % 5 = 0;
         UPDATE t SET id = id + 10000 WHERE id > 2900; DELETE FROM t WHERE id % 7 = 0;
         INSERT INTO t (id, v, n) VALUES (3000000000, 'wide', 1), (5000, 'narrow', 1)",
    );
    running.wait_for_event("the row that does not fit", SOON, |e| e["event"] == "warning");
    let agreed = verify(&db);
    assert_eq!(agreed.done()["verify"]["differences"], 0);
    let told = notices(&running_so_far(&running));
    assert!(told.contains("not compared") && told.contains("more of public.t; gone of public.t_old"), "{told}");
    for told in [told, notices(&agreed)] {
        let named = "do not fit the old table are no differences";
        assert!(told.contains(named) && told.contains(": id = 3000000000"), "{told}");
    }

    db.sql(
        "UPDATE t_old SET v = 'planted' WHERE id = 1; UPDATE t_old SET n = 700 WHERE id = 3;
         DELETE FROM t_old WHERE id = 2; INSERT INTO t_old (id, v, n) VALUES (9000, 'planted', 1)",
    );
    let asked = verify(&db);
    asked.ended(4);
    assert_says(
        &asked,
        &[
            "public.t and public.t_old differ in 4 rows",
            "id = 1 differs in v",
            "id = 2 is missing",
            "id = 3 differs in n",
            "id = 9000 is in",
        ],
    );
    // Row 1 has not been touched, so that the way back would give other numbers says nothing.
    assert!(!asked.stderr.contains("differs in v,"), "{}", asked.stderr);
    running.wait().ended(4);
    assert_eq!(phase_of(&db), "no way back");
    let left = leftovers(&db);
    assert!(!left.iter().any(|l| l.contains("slot") || l.contains("publication") || l.contains("journal")), "{left:?}");
    let id = id(&db);
    let refused = command(&db, &["rollback", &id]).wait();
    refused.ended(4);
    assert_says(&refused, &["id = 1 differs in v", "pgrecast finish"]);
    for refused in ["resume", "verify"] {
        command(&db, &[refused, &id]).wait().ended(4);
    }
    assert_eq!(db.query_one_text("SELECT v FROM t WHERE id = 1"), "v1");
    finish(&db);
}

/// Everything said by a run that goes on.
fn running_so_far(running: &Running) -> Output {
    Output { code: None, stdout: running.told(), stderr: String::new() }
}

#[test]
fn in_the_rollback_window_nobody_need_be_at_work() {
    let db = Db::new();
    db.sql(LOSSY);
    let running = kept(&db, CHANGE, &["--reverse", "n = n"]);
    running.kill();
    db.sql("UPDATE t SET v = 'later' WHERE id < 100");
    assert_eq!(verify(&db).done()["verify"]["differences"], 0);
    command(&db, &["rollback", &id(&db)]).wait().done();
    assert_eq!(
        db.query_one_text("SELECT count(*) FROM t WHERE v = 'later' AND gone = 'old ' || id AND n = id + 0.25"),
        "0"
    );
    assert_eq!(db.query_one_text("SELECT count(*) FROM t WHERE v = 'later' AND gone = 'old ' || id AND n = id"), "99");
    finish(&db);
    // Planted while nobody is at work.
    let running = kept(&db, CHANGE, &["--reverse", "n = n"]);
    running.kill();
    db.sql("DELETE FROM t_old WHERE id = 77");
    let id = id(&db);
    // Who dies behind the verdict has not taken the slot away; whoever comes next does.
    let args = ["verify", &id, "--format", "json"];
    assert_eq!(spawn_with(db.dsn(), &args, &[("PGRECAST_FAULT", "after keep verdict")]).wait().code, None);
    let slots =
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name ~ '^pgrecast' AND database = current_database()";
    assert_eq!(db.query_one_text(slots), "1");
    for asked in ["rollback", "verify"] {
        let found = command(&db, &[asked, &id]).wait();
        found.ended(4);
        assert_says(&found, &["id = 77 is missing"]);
    }
    assert_eq!(db.query_one_text(slots), "0");
    finish(&db);
}

#[test]
fn keys_of_another_spelling_are_compared_in_the_rollback_window() {
    let db = Db::new();
    db.sql(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT n, 'v' || n FROM generate_series(1, 500) n",
    );
    let running = kept(&db, "ALTER id TYPE text", &["--reverse", "id = id::int"]);
    db.sql("DELETE FROM t WHERE id IN ('7', '8'); INSERT INTO t VALUES ('007', 'seven'), ('0800', 'eight hundred')");
    assert_eq!(verify(&db).done()["verify"]["differences"], 0);
    // What cannot be told is said, and the old table goes on following.
    db.sql("INSERT INTO t VALUES ('none', 'no number'); DELETE FROM t WHERE id = '007'");
    running.wait_for_event("the row that does not fit", SOON, |e| e["event"] == "warning");
    wait_until(&db, "the deletion", "SELECT count(*) FROM t_old WHERE id = 7", "0");
    let unknown = verify(&db);
    unknown.ended(1);
    assert_says(&unknown, &["cannot be compared", "none"]);
    db.sql("DELETE FROM t WHERE id = 'none'; INSERT INTO t_old VALUES (9000, 'planted')");
    let found = verify(&db);
    found.ended(4);
    assert_says(&found, &["differ in 1 row", "id = 9000 is in"]);
    running.wait().ended(4);
    finish(&db);
}

/// A row a block, so that a comparison has much to read: 96 MiB on each side.
const WIDE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text) WITH (fillfactor = 10);
    INSERT INTO t SELECT n, repeat(md5(n::text), 20) FROM generate_series(1, 12000) n";

/// Block ranges that the control schema says are read: (side, first, end).
fn ranges_kept(db: &Db) -> Vec<(String, u32, u32)> {
    let rows = db.rows(
        "SELECT d->>'side', r->>0, r->>1 FROM pgrecast.comparison, jsonb_array_elements(done) d, jsonb_array_elements(d->'ranges') r",
    );
    let number = |text: &Option<String>| text.as_ref().and_then(|t| t.parse().ok()).expect("a number");
    rows.iter().map(|r| (r[0].clone().expect("a side"), number(&r[1]), number(&r[2]))).collect()
}

/// Block ranges that a run has read into digests: (side, first, end).
fn ranges_read(output: &Output, shadow: &str) -> Vec<(String, u32, u32)> {
    let block = |line: &str, sign: &str| {
        let (_, rest) = line.split_once(&format!("ctid {sign} '("))?;
        rest.split(',').next()?.parse().ok()
    };
    let digests = output.stderr.lines().filter(|l| l.contains("digest chunk") && l.contains("ctid >="));
    digests
        .map(|line| {
            let side = if line.contains(shadow) { "shadow" } else { "source" };
            (side.to_owned(), block(line, ">=").expect("a first block"), block(line, "<").unwrap_or(u32::MAX))
        })
        .collect()
}

fn killed_while_keeping(db: &Db) {
    let args = ["verify", &id(db), "--format", "json"];
    let died = spawn_with(db.dsn(), &args, &[("PGRECAST_FAULT", "after keep comparison")]).wait();
    assert_eq!(died.code, None, "{}{}", died.stdout, died.stderr);
}

fn verify_logged(db: &Db, more: &[&str]) -> Output {
    let id = id(db);
    let args = [&["verify", &id, "--format", "json"], more].concat();
    spawn_with(db.dsn(), &args, &[("PGRECAST_LOG", "pgrecast::verify=trace")]).wait()
}

#[test]
fn a_crash_of_the_server_takes_back_what_was_read() {
    let server = own_server(&[]);
    let db = Db::on(&server);
    db.sql(WIDE);
    postponed(&db, &[]).kill();
    killed_while_keeping(&db);
    // The postmaster lives on.
    let other = db.connect();
    let pid: i32 = other.query_one_text("SELECT pg_backend_pid()").parse().expect("a pid");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).expect("the backend");
    wait_for("the end of every session", SOON, || match db.try_rows("SELECT 1") {
        Ok(_) => Err("it is still there".to_owned()),
        Err(_) => Ok(()),
    });
    wait_for("the server", SOON, || match Session::try_connect(db.dsn()) {
        Ok(session) => session.try_rows("SELECT 1").map(|_| ()).map_err(|e| e.to_string()),
        Err(e) => Err(e.to_string()),
    });
    let db = db.again();
    assert!(!ranges_kept(&db).is_empty());
    let anew = verify_logged(&db, &[]);
    assert_eq!(anew.done()["verify"]["rows_compared"], 12_000);
    assert!(!notices(&anew).contains("goes on"), "{}", notices(&anew));
    command(&db, &["abort"]).wait().ended(0);
}

#[test]
fn a_comparison_that_was_killed_goes_on_and_finds_what_it_had_read() {
    let db = Db::new();
    db.sql(WIDE);
    let before = dump(&db);
    postponed(&db, &[]).kill();
    let shadow = format!("shadow_{}", id(&db));
    killed_while_keeping(&db);
    let kept = ranges_kept(&db);
    let read: u32 = kept.iter().map(|(_, first, end)| end - first).sum();
    assert!(read >= 16_384, "{kept:?}");

    // It goes on: nothing of what is kept is read again, and all rows count.
    let resumed = verify_logged(&db, &[]);
    assert_eq!(resumed.done()["verify"]["rows_compared"], 12_000);
    assert!(notices(&resumed).contains("goes on with the comparison begun"), "{}", notices(&resumed));
    let again = ranges_read(&resumed, &shadow);
    assert!(!again.is_empty());
    for (side, first, end) in &again {
        let twice = kept.iter().find(|(s, f, e)| s == side && first < e && f < end);
        assert!(twice.is_none(), "{side} {first} to {end} although {twice:?} is kept");
    }
    assert_eq!(db.query_one_text("SELECT count(*) FROM pgrecast.comparison"), "0");

    // What is kept of another file is worth nothing, nor is it where all is to be read.
    killed_while_keeping(&db);
    db.sql(&format!("VACUUM FULL pgrecast.{shadow}"));
    let anew = verify_logged(&db, &[]);
    anew.done();
    assert!(!notices(&anew).contains("goes on"), "{}", notices(&anew));
    killed_while_keeping(&db);
    let anew = verify_logged(&db, &["--anew"]);
    anew.done();
    assert!(!notices(&anew).contains("goes on"), "{}", notices(&anew));

    // A difference in what was read before the kill is in the sums.
    db.sql(&format!(
        "UPDATE pgrecast.{shadow} SET v = 'planted' WHERE id = 1; DELETE FROM pgrecast.{shadow} WHERE id = 2"
    ));
    killed_while_keeping(&db);
    wait_for("the first blocks among the kept", SOON, || {
        let kept = ranges_kept(&db);
        let first = |side: &str| kept.iter().any(|(s, first, _)| s == side && *first == 0);
        if first("source") && first("shadow") { Ok(()) } else { Err(format!("{kept:?}")) }
    });
    let found = verify_logged(&db, &[]);
    found.ended(4);
    assert!(notices(&found).contains("goes on"), "{}", notices(&found));
    assert_says(&found, &["id = 1 differs in v", "id = 2 is missing"]);
    command(&db, &["abort"]).wait().ended(0);
    assert_eq!(dump(&db), before);
    assert_nothing_left(&db);
}
