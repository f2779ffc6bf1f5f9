//! Foreign keys with a partitioned table at one end.

use std::sync::atomic::{AtomicU32, Ordering};

use super::only_migration;
use super::twins::Twins;
use crate::harness::migration::{command, finish, kill_behind_the_swap, wait_until};
use crate::harness::{Db, Session, assert_nothing_left, beside, server, spawn};

/// A table that refers to a partitioned one and is referred to by one; a partition that came with its own key, one below
/// another.
const TABLES: &str = "
    CREATE TABLE mother (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
    CREATE TABLE mother_low PARTITION OF mother FOR VALUES FROM (0) TO (10);
    CREATE TABLE mother_high PARTITION OF mother FOR VALUES FROM (10) TO (100) PARTITION BY RANGE (id);
    CREATE TABLE mother_high_all PARTITION OF mother_high DEFAULT;
    INSERT INTO mother SELECT n, 'm' FROM generate_series(1, 30) n;
    CREATE TABLE t (id int PRIMARY KEY, m int CONSTRAINT up REFERENCES mother ON DELETE SET NULL, v text);
    INSERT INTO t SELECT n, n % 30 + 1, 'v' || n FROM generate_series(1, 300) n;
    CREATE TABLE p (k int, t_id int, at int,
        CONSTRAINT \"Down\" FOREIGN KEY (t_id) REFERENCES t ON DELETE CASCADE DEFERRABLE) PARTITION BY LIST (k);
    CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
    CREATE TABLE p2 (gone int, at int, t_id int, k int,
        CONSTRAINT of_its_own FOREIGN KEY (t_id) REFERENCES t ON DELETE CASCADE DEFERRABLE);
    ALTER TABLE p2 DROP gone; ALTER TABLE p ATTACH PARTITION p2 FOR VALUES IN (2);
    CREATE TABLE p3 (k int, t_id int, at int,
        CONSTRAINT between FOREIGN KEY (t_id) REFERENCES t ON DELETE CASCADE DEFERRABLE) PARTITION BY LIST (k);
    CREATE SCHEMA aside; CREATE TABLE aside.p3a PARTITION OF p3 FOR VALUES IN (3);
    ALTER TABLE p ATTACH PARTITION p3 FOR VALUES IN (3, 4);
    COMMENT ON CONSTRAINT \"Down\" ON p IS 'down'; COMMENT ON CONSTRAINT of_its_own ON p2 IS 'its own';
    COMMENT ON CONSTRAINT between ON p3 IS 'between';
    INSERT INTO p SELECT n % 3 + 1, n, n FROM generate_series(1, 300) n;";

/// Every foreign key to `t`, the partitions' too, by name.
const KEYS: &str = "SELECT k.conrelid::regclass::text, k.conname::text, k.conparentid <> 0, k.coninhcount, k.convalidated,
    pg_get_constraintdef(k.oid), obj_description(k.oid) FROM pg_constraint k WHERE k.contype = 'f' AND k.confrelid = 't'::regclass";

/// What is so before and afterwards.
fn assert_it_works(db: &Db) {
    for wrong in [
        "INSERT INTO p VALUES (1, 9999)",
        "INSERT INTO p VALUES (2, 9999)",
        "INSERT INTO aside.p3a VALUES (3, 9999)",
        "UPDATE p SET t_id = 9999 WHERE t_id = 100",
        "INSERT INTO t VALUES (9999, 77)",
    ] {
        let error = db.connect().try_sql(wrong).expect_err(wrong);
        assert!(error.to_string().contains("violates foreign key"), "{wrong}: {error}");
    }
    db.sql("DELETE FROM t WHERE id IN (100, 101, 102); DELETE FROM mother WHERE id = 25");
    assert_eq!(db.query_one_text("SELECT count(*) FROM p WHERE t_id IN (100, 101, 102)"), "0");
    assert_eq!(db.query_one_text("SELECT count(*) FROM t WHERE m = 25"), "0");
    db.sql("INSERT INTO p VALUES (1, 50, 0), (3, 51, 0)");
}

#[test]
fn keys_of_and_to_partitioned_tables() {
    let setup = format!("{TABLES} CREATE TABLE listed AS {KEYS}");
    let (old, new) = Twins {
        setup: &setup,
        table: "t",
        clauses: "ALTER id TYPE bigint, ADD COLUMN more text DEFAULT 'm'",
        old_way: &["ALTER TABLE t ALTER id TYPE bigint, ADD COLUMN more text DEFAULT 'm'"],
        meanwhile: &[
            "DELETE FROM t WHERE id = 7",
            "INSERT INTO p VALUES (1, 8, 0)",
            "DELETE FROM mother WHERE id = 29",
        ],
        compare: &["SELECT * FROM t ORDER BY id", "SELECT k, t_id, at FROM p ORDER BY t_id, at"],
        options: &[],
    }
    .check();
    let unlike = format!("(TABLE listed EXCEPT {KEYS}) UNION ALL ({KEYS} EXCEPT TABLE listed)");
    assert_eq!(new.rows(&unlike), Vec::<Vec<Option<String>>>::new());
    assert_eq!(new.query_one_text("SELECT count(*) FROM listed"), "5");
    assert_it_works(&old);
    assert_it_works(&new);
    // What is made of the key goes with it.
    new.sql("CREATE TABLE p4 PARTITION OF p FOR VALUES IN (5); ALTER TABLE p DETACH PARTITION p2; ALTER TABLE p DROP CONSTRAINT \"Down\"");
    assert_eq!(new.query_one_text(&format!("SELECT string_agg(conname, ',') FROM ({KEYS}) AS keys")), "of_its_own");
}

/// Stops a run after its swap, before it has come to the keys.
fn killed_behind_the_swap(db: &Db) {
    let running = command(db, &["alter", "t", "ALTER id TYPE bigint", "--postpone-cutover"]);
    running.wait_for_waiting("pgrecast cutover");
    kill_behind_the_swap(db, running);
}

#[test]
fn a_run_that_dies_behind_the_swap_is_completed_with_what_came_since() {
    let db = Db::new();
    db.sql(&format!("{TABLES} CREATE TABLE listed AS {KEYS}"));
    killed_behind_the_swap(&db);
    for wrong in ["INSERT INTO p VALUES (1, 9999)", "INSERT INTO p VALUES (2, 9999)", "INSERT INTO p VALUES (3, 9999)"]
    {
        let error = db.connect().try_sql(wrong).expect_err(wrong);
        assert!(error.to_string().contains("violates foreign key"), "new rows are checked at once: {error}");
    }
    assert_eq!(
        db.query_one_text("SELECT bool_or(convalidated) FROM pg_constraint WHERE confrelid = 't'::regclass"),
        "f"
    );
    db.sql("DELETE FROM t WHERE id = 200");
    assert_eq!(db.query_one_text("SELECT count(*) FROM p WHERE t_id = 200"), "0");
    // Partitions that come between: below the table and below a partition, one with a row that nothing refers to yet.
    db.sql(
        "CREATE TABLE late (k int, t_id int, at int); INSERT INTO late VALUES (6, 9999, 0);
         CREATE TABLE aside.late PARTITION OF p3 FOR VALUES IN (4); INSERT INTO p VALUES (4, 60, 0)",
    );
    let scans = "SELECT seq_scan FROM pg_stat_all_tables WHERE relid = 'p1'::regclass";
    if db.major() >= 15 {
        db.sql("SELECT pg_stat_force_next_flush()");
    }
    let before: u32 = db.connect().query_one_text(scans).parse().expect("a number");
    if db.major() < 18 {
        db.sql("ALTER TABLE p ATTACH PARTITION late FOR VALUES IN (6)");
        let output = command(&db, &["resume"]).wait();
        assert!(output.ended(1).stderr.contains("Down"), "{}", output.stderr);
        // Not by way of the whole, which would be a scan of each partition.
        db.sql("UPDATE late SET t_id = 61");
    } else {
        // The key is there, and looks at what is attached.
        db.sql("UPDATE late SET t_id = 61; ALTER TABLE p ATTACH PARTITION late FOR VALUES IN (6)");
    }
    command(&db, &["resume"]).done();
    finish(&db);
    let both = "conrelid NOT IN ('late'::regclass, 'aside.late'::regclass)";
    let unlike = format!("(TABLE listed EXCEPT {KEYS}) UNION ALL ({KEYS} AND {both} EXCEPT TABLE listed)");
    assert_eq!(db.rows(&unlike), Vec::<Vec<Option<String>>>::new());
    let late = format!(
        "SELECT count(*) FROM pg_constraint WHERE NOT {both} AND confrelid = 't'::regclass AND conparentid <> 0 AND convalidated"
    );
    assert_eq!(db.query_one_text(&late), "2");
    if db.major() >= 15 {
        // Once to be validated, and never again.
        wait_until(&db, "the scans of a partition", scans, &(before + 1).to_string());
    }
    assert_it_works(&db);
}

#[test]
fn an_application_of_partitions_goes_on() {
    let db = Db::new();
    db.sql(TABLES);
    let done = AtomicU32::new(0);
    let application = |worker: u32, goes_on: &dyn Fn() -> bool| {
        let session = db.connect();
        while goes_on() {
            let turn = done.fetch_add(1, Ordering::Relaxed);
            let (new, k) = (1000 + turn, turn % 3 + 1);
            session.sql(&match worker {
                1 => format!("BEGIN; UPDATE t SET v = v || '+' WHERE id = 50; SELECT pg_sleep(0.01); INSERT INTO p VALUES ({k}, 51); COMMIT"),
                2 => "SELECT count(*) FROM p JOIN t ON t.id = t_id; UPDATE mother SET v = v || 'w' WHERE id = 5".to_owned(),
                _ => format!("BEGIN; INSERT INTO t VALUES ({new}, 5); INSERT INTO p VALUES ({k}, {new}); COMMIT; DELETE FROM t WHERE id = {new}"),
            });
            session.sql("SELECT pg_sleep(0.01)");
        }
    };
    let report = beside(3, application, || command(&db, &["alter", "t", "ALTER id TYPE bigint"]).done());
    let attempts = report["cutover"]["attempts"].as_u64().expect("attempts");
    assert!(attempts < 30, "{report}");
    assert!(done.load(Ordering::Relaxed) > 20, "{done:?}");
    assert_eq!(db.query_one_text("SELECT count(*) FROM t WHERE id >= 1000"), "0");
    let keys = format!("SELECT count(*) FROM ({KEYS}) AS keys WHERE convalidated");
    assert_eq!(db.query_one_text(&keys), "5");
    finish(&db);
    assert_it_works(&db);
}

#[test]
fn a_key_that_is_not_enforced_or_not_validated_stays_so() {
    let db = Db::new();
    if db.major() < 18 {
        return;
    }
    db.sql(TABLES);
    db.sql(
        "ALTER TABLE p DROP CONSTRAINT \"Down\"; ALTER TABLE p1 ADD CONSTRAINT first FOREIGN KEY (at) REFERENCES t NOT VALID;
         ALTER TABLE p1 VALIDATE CONSTRAINT first;
         ALTER TABLE p ADD CONSTRAINT unseen FOREIGN KEY (at) REFERENCES t NOT VALID,
            ADD CONSTRAINT vain FOREIGN KEY (t_id) REFERENCES t NOT ENFORCED",
    );
    db.sql(&format!("CREATE TABLE listed AS {KEYS}"));
    command(&db, &["alter", "t", "ALTER id TYPE bigint"]).done();
    finish(&db);
    let unlike = format!("(TABLE listed EXCEPT {KEYS}) UNION ALL ({KEYS} EXCEPT TABLE listed)");
    assert_eq!(db.rows(&unlike), Vec::<Vec<Option<String>>>::new());
    assert_eq!(db.query_one_text("SELECT count(*) FROM listed WHERE convalidated"), "1");
}

#[test]
fn an_owner_of_all_partitions_and_no_more() {
    let db = Db::new();
    db.sql(TABLES);
    db.sql(&format!(
        "CREATE ROLE owner_of_parts LOGIN PASSWORD 'secret' REPLICATION; GRANT CREATE ON DATABASE {} TO owner_of_parts;
         GRANT CREATE, USAGE ON SCHEMA public, aside TO owner_of_parts; GRANT REFERENCES ON mother TO owner_of_parts;
         ALTER TABLE t OWNER TO owner_of_parts; ALTER TABLE p OWNER TO owner_of_parts; ALTER TABLE p1 OWNER TO owner_of_parts;
         ALTER TABLE p2 OWNER TO owner_of_parts; ALTER TABLE p3 OWNER TO owner_of_parts",
        db.name()
    ));
    let dsn = server().dsn_for("owner_of_parts", "secret", db.name());
    let output = spawn(&dsn, &["alter", "t", "ALTER id TYPE bigint"]).wait();
    assert_eq!(output.code, Some(3), "{}{}", output.stdout, output.stderr);
    assert!(output.stderr.contains("or has a partition that does"), "{}", output.stderr);
    assert_nothing_left(&db);
    db.sql("ALTER TABLE aside.p3a OWNER TO owner_of_parts");
    let output = spawn(&dsn, &["alter", "t", "ALTER id TYPE bigint"]).wait();
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    assert_eq!(Session::connect(&dsn).query_one_text("SELECT count(*) FROM t"), "300");
    assert_eq!(spawn(&dsn, &["finish", &only_migration(&db)]).wait().code, Some(0));
    assert_nothing_left(&db);
    assert_it_works(&db);
}

#[test]
fn a_dry_run_shows_what_is_left_for_later() {
    let db = Db::new();
    db.sql(TABLES);
    let plan = crate::harness::pgrecast(&db, &["alter", "t", "ALTER id TYPE bigint", "--dry-run"]);
    assert_eq!(plan.code, Some(0), "{}", plan.stderr);
    assert!(plan.stdout.contains("LOCK TABLE \"public\".\"p\" IN ACCESS EXCLUSIVE MODE"), "{}", plan.stdout);
    assert!(plan.stdout.contains("LOCK TABLE \"public\".\"mother\" IN ACCESS EXCLUSIVE MODE"), "{}", plan.stdout);
    let later = match db.major() {
        18.. => "ALTER TABLE \"public\".\"p\" VALIDATE CONSTRAINT \"Down\"",
        _ => "ACCESS EXCLUSIVE on the table, SHARE ROW EXCLUSIVE on that one",
    };
    assert!(plan.stdout.contains(later), "{}", plan.stdout);
    assert_nothing_left(&db);
}
