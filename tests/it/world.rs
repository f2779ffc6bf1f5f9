//! What others do to what a migration rests on: its publication, slot and shadow, the replica identity, the clock. Each is
//! noticed and named, no write is lost, and the application goes on.

use crate::harness::migration::{SOON, command, finish, wait_until};
use crate::harness::{Db, Running, Session, assert_nothing_left, own_server, server, wait_for};

const TABLE: &str = "
    CREATE TABLE t (id int PRIMARY KEY, u int NOT NULL UNIQUE, v text);
    INSERT INTO t SELECT n, n, 'value ' || n FROM generate_series(1, 2000) n";

const WRITES: &str =
    "UPDATE t SET v = v || '!' WHERE id <= 100; DELETE FROM t WHERE id > 1990; INSERT INTO t VALUES (-1, -1, 'new')";

/// What somebody does to publication `ours`.
const TO_THE_PUBLICATION: &[(&str, &str)] = &[
    ("DROP PUBLICATION ours", "was dropped"),
    ("ALTER PUBLICATION ours DROP TABLE t", "was changed"),
    ("ALTER PUBLICATION ours SET (publish = 'insert')", "was changed"),
    (
        "DO $$ BEGIN ALTER PUBLICATION ours SET (publish = 'insert'); COMMIT; UPDATE t SET v = 'unseen' WHERE id < 10; COMMIT; \
         ALTER PUBLICATION ours SET (publish = 'insert, update, delete, truncate'); END $$",
        "was changed",
    ),
    ("DROP PUBLICATION ours; CREATE PUBLICATION ours FOR TABLE t", "was changed"),
];

fn table() -> Db {
    let db = Db::new();
    db.sql(TABLE);
    db
}

fn postponed(db: &Db, more: &[&str]) -> Running {
    let args = [&["alter", "t", "ALTER id TYPE bigint", "--postpone-cutover"], more].concat();
    let running = command(db, &args);
    running.wait_for_waiting("pgrecast cutover");
    running
}

fn publication(db: &Db) -> String {
    db.query_one_text("SELECT pubname FROM pg_publication ORDER BY oid DESC LIMIT 1")
}

fn slot(db: &Db) -> String {
    db.query_one_text("SELECT slot_name FROM pg_replication_slots WHERE database = current_database()")
}

/// The run ended, with these words; the application writes, and abort leaves nothing.
fn ended_and_aborted(db: &Db, running: Running, words: &[&str]) {
    let output = running.wait();
    output.ended(1);
    for word in words.iter().chain(&["pgrecast abort"]) {
        assert!(output.stderr.contains(word), "no {word:?} in {}", output.stderr);
    }
    db.sql("UPDATE t SET v = v || '?' WHERE id = 500; DELETE FROM t WHERE id = 501");
    command(db, &["abort"]).wait().ended(0);
    assert_nothing_left(db);
}

#[test]
fn a_publication_that_is_changed_ends_the_run() {
    for (sql, what) in TO_THE_PUBLICATION {
        let db = table();
        let running = postponed(&db, &[]);
        let ours = publication(&db);
        db.sql(&sql.replace("ours", &ours));
        db.sql(WRITES);
        ended_and_aborted(&db, running, &[&ours, what]);
    }
}

#[test]
fn a_publication_that_was_changed_between_two_runs_is_noticed() {
    for (sql, what) in TO_THE_PUBLICATION {
        let db = table();
        postponed(&db, &[]).kill();
        let ours = publication(&db);
        db.sql(&sql.replace("ours", &ours));
        db.sql(WRITES);
        ended_and_aborted(&db, command(&db, &["resume"]), &[&ours, what]);
    }
}

#[test]
fn another_replica_identity_ends_the_run_and_lets_the_application_write() {
    for identity in ["FULL", "NOTHING", "USING INDEX t_u_key"] {
        let db = table();
        let running = postponed(&db, &[]);
        db.sql(&format!("ALTER TABLE t REPLICA IDENTITY {identity}"));
        wait_until(&db, "the publication to go", "SELECT count(*) FROM pg_publication", "0");
        db.sql(WRITES);
        ended_and_aborted(&db, running, &["replica identity of table public.t"]);
        let now = "SELECT relreplident FROM pg_class WHERE oid = 't'::regclass";
        assert_eq!(db.query_one_text(now), identity[..1].to_lowercase().replace('u', "i"));
    }
}

#[test]
fn an_index_made_again_is_no_other_identity() {
    let db = table();
    let running = postponed(&db, &[]);
    db.sql("REINDEX TABLE CONCURRENTLY t");
    db.sql(WRITES);
    command(&db, &["cutover"]).wait().ended(0);
    running.done();
    assert_eq!(db.query_one_text("SELECT count(*) FILTER (WHERE v LIKE '%!') || ',' || count(*) FROM t"), "100,1991");
    finish(&db);
}

/// Takes the slot away from whoever has it.
fn drop_slot(db: &Db) -> String {
    let name = slot(db);
    wait_for("the slot to go", SOON, || {
        db.sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = current_database() AND active");
        let dropped = db.connect().try_sql(&format!("SELECT pg_drop_replication_slot('{name}')"));
        dropped.map_err(|e| e.to_string())
    });
    name
}

#[test]
fn a_slot_that_is_dropped_ends_the_run() {
    let db = table();
    let running = postponed(&db, &[]);
    let name = drop_slot(&db);
    db.sql(WRITES);
    ended_and_aborted(&db, running, &[&name]);
}

#[test]
fn a_slot_that_the_server_gave_up_ends_the_run() {
    let server = own_server(&[("max_slot_wal_keep_size", "20MB"), ("min_wal_size", "32MB"), ("max_wal_size", "48MB")]);
    let db = Db::on(&server);
    db.sql(TABLE);
    postponed(&db, &[]).kill();
    let name = slot(&db);
    wait_for("the slot to be given up", SOON, || {
        db.sql("INSERT INTO t SELECT n, n, 'x' FROM generate_series(3000, 3100) n; DELETE FROM t WHERE id >= 3000");
        db.sql("SELECT pg_switch_wal()");
        db.sql("CHECKPOINT");
        match db.query_one_text("SELECT wal_status FROM pg_replication_slots").as_str() {
            "lost" => Ok(()),
            status => Err(status.to_owned()),
        }
    });
    ended_and_aborted(&db, command(&db, &["resume"]), &[&name, "max_slot_wal_keep_size"]);
}

#[test]
fn a_shadow_that_is_dropped_is_named() {
    let db = table();
    let running = postponed(&db, &[]);
    db.sql("DROP TABLE pgrecast.shadow_1");
    db.sql(WRITES);
    ended_and_aborted(&db, running, &["pgrecast.shadow_1"]);
    // Where no change has told it, the cut-over finds out.
    let running = postponed(&db, &[]);
    db.sql("DROP TABLE pgrecast.shadow_1");
    command(&db, &["cutover"]).wait();
    ended_and_aborted(&db, running, &["pgrecast.shadow_1"]);
}

#[test]
fn nobody_else_may_read_or_write_the_shadow() {
    let db = table();
    db.sql(
        "DO $$ BEGIN CREATE ROLE passer_by LOGIN PASSWORD 'secret'; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
    );
    db.sql("GRANT ALL ON t TO passer_by; ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO passer_by");
    let running = postponed(&db, &[]);
    let other = Session::connect(&server().dsn_for("passer_by", "secret", db.name()));
    for sql in ["SELECT * FROM pgrecast.shadow_1", "DELETE FROM pgrecast.shadow_1", "DELETE FROM pgrecast.migration"] {
        let refused = other.try_sql(sql).expect_err(sql).to_string();
        assert!(refused.contains("permission denied for schema"), "{refused}");
    }
    drop(running);
}

/// A run in its rollback window, for an hour.
fn in_the_window(db: &Db) -> Running {
    let running = command(db, &["alter", "t", "ALTER id TYPE bigint", "--rollback-window", "1h"]);
    running.wait_for_window();
    running
}

#[test]
fn a_window_whose_changes_cannot_be_followed_can_only_be_finished() {
    let faults: [fn(&Db) -> String; 2] = [
        |db| {
            let ours = publication(db);
            db.sql(&format!("DROP PUBLICATION {ours}"));
            ours
        },
        drop_slot,
    ];
    for fault in faults {
        let db = table();
        let running = in_the_window(&db);
        let name = fault(&db);
        db.sql(WRITES);
        let output = running.wait();
        output.ended(1);
        assert!(output.stderr.contains(&name) && output.stderr.contains("pgrecast finish"), "{}", output.stderr);
        let rollback = command(&db, &["rollback", "1"]).wait();
        rollback.ended(1);
        assert!(rollback.stderr.contains(&name), "{}", rollback.stderr);
        finish(&db);
        assert_eq!(db.query_one_text("SELECT count(*) || pg_typeof(max(id))::text FROM t"), "1991bigint");
    }
}

#[test]
fn a_clock_that_jumps_ends_no_window() {
    let db = table();
    let mut running = in_the_window(&db);
    // What is to be seen of a server's clock that is put forward by a day.
    db.sql("UPDATE pgrecast.migration SET swapped_at = swapped_at - interval '1 day'");
    db.sql(WRITES);
    let followed = "SELECT count(*) FILTER (WHERE v LIKE '%!') || ',' || count(*) FROM t_old";
    wait_until(&db, "the old table to follow", followed, "100,1991");
    assert!(!running.is_over());
    command(&db, &["rollback", "1"]).wait().ended(0);
    running.wait();
    assert_eq!(db.query_one_text("SELECT count(*) || pg_typeof(max(id))::text FROM t"), "1991integer");
    finish(&db);
}
