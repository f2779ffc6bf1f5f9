//! The ground itself: a test that stands on it may believe what it says.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pgrecast::demo::Server;
use pgrecast::demo::installed::major_of;

use crate::harness::load::{Column, Load, Options, Shape};
use crate::harness::{
    Db, Running, Session, assert_nothing_left, dump, leftovers, own_server, pgrecast, server, spawn, test_bin, wait_for,
};

const SOON: Duration = Duration::from_secs(30);

#[test]
fn the_server_is_the_one_asked_for_and_runs_unprivileged() {
    let db = Db::new();
    let major = db.query_one_text("SELECT current_setting('server_version_num')::int / 10000");
    assert_eq!(Some(major), major_of(&test_bin()).map(|major| major.to_string()));
    assert_eq!(db.query_one_text("SHOW wal_level"), "logical");
    assert_eq!(db.query_one_text("SHOW server_encoding"), "UTF8");
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(server().data_dir()).expect("its files"));
    assert_ne!(owner, 0, "PostgreSQL does not run as root");
}

#[test]
fn a_server_asks_for_passwords_over_tcp_and_not_over_its_socket() {
    let db = Db::new();
    db.sql("CREATE ROLE \"of no ☂ import\" LOGIN PASSWORD 'p@ss/word'");
    let dsn = |password| server().dsn_for("of no ☂ import", password, db.name());
    assert_eq!(Session::connect(&dsn("p@ss/word")).query_one_text("SELECT current_user"), "of no ☂ import");
    let refused = Session::try_connect(&dsn("wrong")).err().and_then(|error| error.sqlstate);
    assert_eq!(refused.as_ref().map(|state| state.code()), Some("28P01"));
    let socket =
        format!("host={} port={} user=postgres dbname=postgres", server().socket_dir().display(), server().port());
    assert_eq!(Session::connect(&socket).query_one_text("SELECT 1"), "1");
}

#[test]
fn a_server_comes_back_after_a_restart_and_after_an_immediate_stop() {
    let mut server = own_server(&[("max_connections", "33")]);
    let db = Db::on(&server);
    assert_eq!(db.query_one_text("SHOW max_connections"), "33");
    db.sql("CREATE TABLE kept AS SELECT 1 AS x");
    server.restart().expect("a restart");
    assert_eq!(db.connect().query_one_text("SELECT x FROM kept"), "1");
    server.stop_immediate();
    assert!(Session::try_connect(db.dsn()).is_err());
    server.restart().expect("a start that recovers");
    assert_eq!(db.connect().query_one_text("SELECT x FROM kept"), "1");
    assert!(server.log_tail().contains("ready to accept connections"), "{}", server.log_tail());
}

#[test]
fn a_server_from_its_programs_alone_goes_when_dropped() {
    let server = Server::start(&test_bin(), &[("fsync", "off")]).expect("a server");
    let files = server.socket_dir().to_owned();
    assert_eq!(Session::connect(&server.dsn()).query_one_text("SELECT 1"), "1");
    drop(server);
    assert!(!files.exists(), "{}", files.display());
}

#[test]
fn a_server_that_cannot_start_says_what_its_log_says() {
    let failure = Server::start(&test_bin(), &[("shared_buffers", "nonsense")]).expect_err("no such setting");
    assert!(failure.detail.expect("the log").contains("shared_buffers"));
}

/// Names the server's files for the test that kills this process.
const TELL: &str = "PGRECAST_TEST_TELL";

#[test]
fn a_server_goes_with_a_process_that_is_killed() {
    if let Some(file) = std::env::var_os(TELL) {
        let server = own_server(&[]);
        let pid = server.pid().expect("a running server");
        std::fs::write(file, format!("{pid} {}\n", server.socket_dir().display())).expect("the file to tell in");
        loop {
            std::thread::park();
        }
    }
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("server");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "ground::a_server_goes_with_a_process_that_is_killed"]).env(TELL, &file);
    let other = Running::start(command);
    let told = wait_for("the other process's server", SOON, || {
        std::fs::read_to_string(&file).ok().filter(|told| told.ends_with('\n')).ok_or("nothing".into())
    });
    let (pid, files) = told.trim().split_once(' ').expect("a process id and a directory");
    let (process, files) = (Path::new("/proc").join(pid), PathBuf::from(files));
    assert!(files.is_dir());
    other.kill();
    wait_for("the end of the server and its files", SOON, || {
        if process.exists() || files.exists() { Err(told.clone()) } else { Ok(()) }
    });
}

#[test]
fn the_program_runs_and_its_lines_can_be_awaited() {
    let db = Db::new();
    let output = pgrecast(&db, &["--help"]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let dsn = server().dsn_for("somebody", "else", db.name());
    assert_eq!(spawn(&dsn, &["--help"]).wait().code, Some(0));

    let mut command = Command::new("sh");
    command.args([
        "-c",
        r#"echo oops >&2; echo plain; echo '{"phase":"copy"}'; echo '{"phase":"ready"}'; exec sleep 300"#,
    ]);
    let running = Running::start(command);
    let event = running.wait_for_event("ready", SOON, |event| event["phase"] == "ready");
    assert_eq!(event["phase"], "ready");
    let output = running.kill();
    assert_eq!((output.code, output.stderr.as_str()), (None, "oops\n"));
    assert!(output.stdout.starts_with("plain\n{\"phase\":\"copy\"}\n"), "{}", output.stdout);
}

#[test]
fn a_dump_is_the_same_for_the_same_schema_only() {
    let (one, other) = (Db::new(), Db::new());
    for db in [&one, &other] {
        db.sql(Shape::plain_ddl());
    }
    assert_eq!(dump(&one), dump(&other));
    assert!(dump(&one).contains("CREATE TABLE public.t"));
    for difference in ["COMMENT ON COLUMN t.v IS 'differs'", "ALTER TABLE t ALTER v SET (n_distinct = 5)"] {
        other.sql(difference);
        assert_ne!(dump(&one), dump(&other));
        one.sql(difference);
        assert_eq!(dump(&one), dump(&other));
    }
}

#[test]
fn leftovers_are_found() {
    let db = Db::new();
    assert_nothing_left(&db);
    db.sql("SELECT pg_create_logical_replication_slot(current_database() || '_planted', 'pgoutput')");
    db.sql("CREATE SCHEMA pgrecast; CREATE PUBLICATION pgrecast_planted; CREATE TABLE pgrecast_shadow (id int)");
    let session = db.connect();
    session.sql("SET application_name = 'pgrecast copy'; SELECT pg_advisory_lock(1)");
    let found = leftovers(&db).join("\n");
    for kind in ["slot: ", "schema: ", "publication: ", "relation: ", "advisory lock", "session: pgrecast copy"] {
        assert!(found.contains(kind), "{kind} is not in\n{found}");
    }
    drop(session);
    db.sql("SELECT pg_drop_replication_slot(current_database() || '_planted')");
    db.sql("DROP SCHEMA pgrecast; DROP PUBLICATION pgrecast_planted; DROP TABLE pgrecast_shadow");
    assert_nothing_left(&db);
}

#[test]
fn a_load_knows_its_table_and_outlives_a_change_of_type() {
    let db = Db::new();
    db.sql(Shape::plain_ddl());
    let shape = Shape::plain();
    let load = Load::start(&db, &shape, &Options::seeded(1));
    load.wait_for_more(3000, SOON);
    db.sql("ALTER TABLE t ALTER id TYPE bigint, ALTER u TYPE bigint");
    load.wait_for_more(3000, SOON);
    let report = load.stop();
    report.assert_kept(&db, &shape.select_all());
    assert!(report.statements > 6000 && report.model.len() > 1000);
    let slowest = &report.slow[0];
    assert_eq!(slowest.took, report.worst);
    assert!(slowest.at.elapsed().expect("in the past") >= slowest.took && !slowest.statement.is_empty(), "{slowest:?}");
}

#[test]
fn a_load_fits_a_table_with_other_names_and_another_key() {
    let db = Db::new();
    db.sql(r#"CREATE SCHEMA "S"; CREATE TABLE "S"."Ta ble" ("K" uuid PRIMARY KEY, "U" text UNIQUE, "V" text, "N" numeric)"#);
    let uuid = |number| format!("00000000-0000-4000-8000-{number:012x}");
    let shape = Shape {
        table: r#""S"."Ta ble""#.into(),
        key: Column { name: r#""K""#.into(), cast: "uuid".into(), render: uuid },
        unique: Column { name: r#""U""#.into(), cast: "text".into(), render: |number| format!("u{number}") },
        text: r#""V""#.into(),
        number: r#""N""#.into(),
    };
    let load = Load::start(&db, &shape, &Options { connections: 4, ..Options::seeded(4) });
    load.wait_for_more(1000, SOON);
    load.stop().assert_kept(&db, &shape.select_all());
}

#[test]
fn a_lost_an_invented_and_a_changed_row_are_noticed() {
    let db = Db::new();
    db.sql(Shape::plain_ddl());
    let shape = Shape::plain();
    let report = Load::start(&db, &shape, &Options { rows: 20, ..Options::seeded(2) }).stop();
    report.assert_kept(&db, &shape.select_all());
    for damage in [
        "UPDATE t SET v = coalesce(v, '') || 'lost' WHERE id = (SELECT min(id) FROM t)",
        "DELETE FROM t WHERE id = (SELECT min(id) FROM t)",
        "INSERT INTO t (id) VALUES (-1)",
    ] {
        db.sql(&format!("BEGIN; {damage}"));
        let differences = report.compare(&db, &shape.select_all()).expect_err(damage);
        assert!(differences.starts_with("1 of "), "{differences}");
        db.sql("ROLLBACK");
    }
}

#[test]
fn a_failed_statement_of_the_load_is_noticed() {
    let db = Db::new();
    db.sql(Shape::plain_ddl());
    let load = Load::start(&db, &Shape::plain(), &Options { per_second: Some(500), ..Options::seeded(3) });
    db.sql("ALTER TABLE t RENAME TO gone");
    load.wait_for_more(10, SOON);
    db.sql("ALTER TABLE gone RENAME TO t");
    let report = load.stop();
    assert!(report.failed.iter().any(|failed| failed.contains("42P01")), "{:?}", report.failed);
    report.compare(&db, &Shape::plain().select_all()).expect("what failed changed nothing");
}

#[test]
fn a_load_outlives_a_crash_and_its_books_notice_what_the_server_forgot() {
    // Commits that do not wait for the WAL are what a crash takes.
    let forgetful = [("synchronous_commit", "off"), ("wal_writer_delay", "10s")];
    for (settings, keeps) in [(&[][..], true), (&forgetful[..], false)] {
        let mut server = own_server(settings);
        let db = Db::on(&server);
        db.sql(Shape::plain_ddl());
        let load = Load::start(&db, &Shape::plain(), &Options { survives: true, ..Options::paced(9) });
        load.wait_for_more(100, SOON);
        assert!(load.truncate(&db.connect(), "t"));
        db.sql("CHECKPOINT");
        load.wait_for_more(200, SOON);
        server.stop_immediate();
        server.restart().expect("a start that recovers");
        let db = db.again();
        load.wait_for_more(10, SOON);
        let report = load.stop();
        let differs = report.compare(&db, &Shape::plain().select_all());
        let kept = report.failed.is_empty() && differs.is_ok();
        assert_eq!(kept, keeps, "{settings:?}: {:?}, {differs:?}", report.failed);
    }
}
