//! After the swap the old, plain table follows the partitioned one: verified, rolled back, and told where it cannot be.

use super::{BY, Mover, TABLE, command, finish, only_migration, partition, under_traffic, wait_until};
use crate::harness::migration::{SOON, phase_of};
use crate::harness::{Db, assert_nothing_left, dump, wait_for};

const WINDOW: &[&str] = &["--rollback-window", "10m"];

#[test]
fn rolled_back_every_row_is_where_it_was_put() {
    let before = {
        let db = Db::new();
        db.sql(TABLE);
        dump(&db)
    };
    let db = under_traffic(86, false, |db, mover| {
        let running = partition(db, WINDOW);
        running.wait_for_window();
        assert_eq!(db.query_one_text("SELECT relkind FROM pg_class WHERE oid = 't'::regclass"), "p");
        mover.wait_for_more(300);
        let agreed = command(db, &["verify", &only_migration(db)]).wait().done();
        assert_eq!(agreed["verify"]["differences"], 0, "{agreed}");
        assert!(agreed["verify"]["rows_compared"].as_u64() > Some(Mover::ROWS), "{agreed}");
        mover.wait_for_more(100);
        command(db, &["rollback", &only_migration(db)]).wait().done();
        running.wait().done();
        assert_eq!(phase_of(db), "rolled back");
    });
    finish(&db);
    assert_eq!(dump(&db), before);
}

#[test]
fn killed_in_the_window_it_goes_on_and_is_rolled_back() {
    let db = under_traffic(87, false, |db, mover| {
        let running = partition(db, WINDOW);
        running.wait_for_window();
        mover.wait_for_more(50);
        running.kill();
        mover.wait_for_more(100);
        let again = command(db, &["resume"]);
        again.wait_for_window();
        mover.wait_for_more(50);
        again.kill();
        // Nobody has it now: the rollback catches up by itself.
        mover.wait_for_more(50);
        command(db, &["rollback", &only_migration(db)]).wait().done();
    });
    finish(&db);
}

#[test]
fn a_partition_of_somebody_elses_ends_the_way_back_until_it_is_gone() {
    let db = Db::new();
    db.sql(TABLE);
    db.sql("INSERT INTO t (id, d) SELECT i, i % 5 FROM generate_series(1, 500) i");
    let running = partition(&db, WINDOW);
    running.wait_for_window();
    // Nothing that is followed says a word of it.
    db.sql("CREATE TABLE more PARTITION OF t FOR VALUES FROM (5) TO (9); INSERT INTO t (id, d) VALUES (501, 7)");
    let ended = running.wait();
    ended.ended(1);
    for words in ["Changed: its partitions", "Take it back first"] {
        assert!(ended.stderr.contains(words), "no {words:?} in {}", ended.stderr);
    }
    let id = only_migration(&db);
    let refused = command(&db, &["rollback", &id]).wait();
    refused.ended(1);
    assert!(refused.stderr.contains("Changed: its partitions"), "{}", refused.stderr);
    // What came into it and what went into it from others goes with it.
    db.sql("UPDATE t SET d = 8 WHERE id = 3; ALTER TABLE t DETACH PARTITION more");
    let running = command(&db, &["resume"]);
    running.wait_for_window();
    command(&db, &["rollback", &id]).wait().done();
    running.wait().done();
    assert_eq!(db.query_one_text("SELECT count(*) || ' ' || sum(id) FROM t"), "499 125247");
    finish(&db);
}

#[test]
fn a_truncate_of_one_partition_goes_back() {
    let db = Db::new();
    db.sql(TABLE);
    db.sql("INSERT INTO t (id, d) SELECT i, i % 7 FROM generate_series(1, 70) i");
    let running = partition(&db, &[WINDOW, &["--default-partition"]].concat());
    running.wait_for_window();
    let follows = |wanted: &str| {
        wait_for("the old table", SOON, || {
            let seen =
                db.query_one_text("SELECT string_agg(DISTINCT d::text, '' ORDER BY d::text) || count(*) FROM t_old");
            if seen == wanted { Ok(()) } else { Err(seen) }
        });
    };
    db.sql("BEGIN; UPDATE t SET d = 2 WHERE id = 3; TRUNCATE t_3; INSERT INTO t (id, d) VALUES (3000, 3); COMMIT");
    follows("012345662");
    db.sql("TRUNCATE t_default, t_3");
    follows("012441");
    db.sql("TRUNCATE t; INSERT INTO t (id, d) VALUES (1, 4), (2, 6)");
    follows("462");
    command(&db, &["rollback", &only_migration(&db)]).wait().done();
    running.wait().done();
    assert_eq!(db.query_one_text("SELECT string_agg(id || ' ' || d, ',' ORDER BY id) FROM t"), "1 4,2 6");
    finish(&db);
}

/// The partitioned table keeps the key unique with the partition column only.
#[test]
fn a_key_that_is_there_twice_is_named_until_it_is_there_once() {
    let db = Db::new();
    db.sql(TABLE);
    db.sql("INSERT INTO t (id, d) SELECT i, i % 5 FROM generate_series(1, 500) i");
    let running = partition(&db, WINDOW);
    running.wait_for_window();
    db.sql("INSERT INTO t (id, d) VALUES (7, 4)");
    let told = running.wait_for_event("a row that does not fit", SOON, |e| {
        e["event"] == "warning" && e["text"].as_str().is_some_and(|t| t.contains("\"id\" = 7"))
    });
    assert!(told["text"].as_str().is_some_and(|t| t.contains("t_pkey") || t.contains("t_old")), "{told}");
    db.sql("DELETE FROM t WHERE (id, d) = (7, 2)");
    command(&db, &["rollback", &only_migration(&db)]).wait().done();
    running.wait().done();
    assert_eq!(db.query_one_text("SELECT d FROM t WHERE id = 7"), "4");
    finish(&db);
}

#[test]
fn a_partition_made_on_the_way_is_followed() {
    let db = Db::new();
    db.sql(
        "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL); INSERT INTO t SELECT i, i FROM generate_series(1, 99) i",
    );
    let by = ["partition", "t", "--range", "n", "--every", "100", "--premake", "0", "--postpone-cutover"];
    let running = command(&db, &[&by[..], WINDOW].concat());
    running.wait_for_waiting("pgrecast cutover");
    db.sql("UPDATE t SET n = 550 WHERE id = 5");
    wait_until(&db, "a partition", "SELECT count(*) FROM pg_class WHERE relname = 't_500'", "1");
    command(&db, &["cutover"]).wait().ended(0);
    running.wait_for_window();
    db.sql("UPDATE t SET n = 551 WHERE id IN (5, 6); DELETE FROM t_500 WHERE id = 6");
    command(&db, &["rollback", &only_migration(&db)]).wait().done();
    running.wait().done();
    assert_eq!(db.query_one_text("SELECT count(*) || ' ' || max(n) FROM t"), "98 551");
    finish(&db);
}

#[test]
fn without_a_key_there_is_no_way_back() {
    let db = Db::new();
    db.sql(TABLE);
    let key = "CREATE TABLE child (t_id int CONSTRAINT to_t REFERENCES t)";
    let cases = [("SELECT", "t_pkey", "no primary key"), (key, "to_t", "foreign key to_t is left off")];
    for (setup, left_off, words) in cases {
        db.sql(setup);
        let refused = command(&db, &[BY, WINDOW, &["--drop-constraint", left_off]].concat()).wait();
        refused.ended(3);
        for words in ["there is no way back for --rollback-window", words] {
            assert!(refused.stderr.contains(words), "no {words:?} in {}", refused.stderr);
        }
    }
    assert_nothing_left(&db);
}
