//! A subscriber of the table's publication neither loses a row nor gets one twice.

use std::time::{Duration, Instant};

use crate::harness::load::{Load, Options, Shape};
use crate::harness::migration::{SOON, command, wait_until};
use crate::harness::{Db, assert_nothing_left, beside, own_server, wait_for};

/// Writes one row again and again, each time until somebody asks for the whole table: what it commits then is flushed in
/// the swap's own transaction.
fn writes_until_the_swap(db: &Db, goes_on: &dyn Fn() -> bool) {
    const ASKED: &str = "SELECT count(*) FROM pg_locks WHERE relation = to_regclass('t') AND mode = 'AccessExclusiveLock' AND NOT granted";
    let (writer, observer) = (db.connect(), db.connect());
    while goes_on() {
        writer.sql("BEGIN; UPDATE t SET n = coalesce(n, 0) + 1 WHERE id = -1");
        let begun = Instant::now();
        while goes_on() && begun.elapsed() < Duration::from_millis(30) && observer.query_one_text(ASKED) == "0" {}
        writer.sql("COMMIT");
    }
}

/// Takes the table through a change of its types under traffic, and looks at the subscriber of these publications.
fn follow(publications: &[&str], seed: u64) {
    let server = own_server(&[]);
    let (db, subscriber) = (Db::on(&server), Db::on(&server));
    db.sql(Shape::plain_ddl());
    db.sql("INSERT INTO t VALUES (-1)");
    subscriber.sql(Shape::plain_ddl());
    subscriber.sql("ALTER TABLE t ALTER id TYPE bigint, ALTER u TYPE bigint");
    for (n, which) in publications.iter().enumerate() {
        db.sql(&format!("CREATE PUBLICATION told_{n} FOR {which}"));
    }
    let names = (0..publications.len()).map(|n| format!("told_{n}")).collect::<Vec<_>>().join(", ");
    // On one server a subscription cannot make its slot itself: it would wait for its own transaction.
    db.sql("SELECT pg_create_logical_replication_slot('heard', 'pgoutput')");
    subscriber.sql(&format!(
        "CREATE SUBSCRIPTION heard CONNECTION '{}' PUBLICATION {names} WITH (create_slot = false, slot_name = 'heard')",
        db.dsn()
    ));
    wait_until(&subscriber, "the first copy", "SELECT string_agg(srsubstate::text, '') FROM pg_subscription_rel", "r");
    let load = Load::start(&db, &Shape::plain(), &Options::paced(seed));
    load.wait_for_more(100, SOON);
    let change = || command(&db, &["alter", "t", "ALTER id TYPE bigint, ALTER u TYPE bigint"]).done();
    let report = beside(1, |_, goes_on| writes_until_the_swap(&db, goes_on), change);
    // Written under a name that is published from the next statement on.
    assert!(report["cutover"]["final_keys"].as_u64() > Some(0), "{report}");
    load.wait_for_more(300, SOON);
    let kept = load.stop();
    let rows = format!(
        "SELECT count(*) || ' ' || md5(string_agg(r::text, ',' ORDER BY id)) FROM ({}) AS r",
        Shape::plain().select_all()
    );
    let expected = db.query_one_text(&rows);
    wait_for("the subscriber", SOON, || {
        let seen = subscriber.query_one_text(&rows);
        if seen == expected { Ok(()) } else { Err(format!("{seen}, not {expected}")) }
    });
    // A row that comes twice stops a subscriber for a moment, and then it is tried again.
    if db.major() >= 15 {
        let errors = "SELECT apply_error_count + sync_error_count FROM pg_stat_subscription_stats";
        assert_eq!(subscriber.query_one_text(errors), "0");
    }
    db.sql("DELETE FROM t WHERE id = -1");
    kept.assert_kept(&db, &Shape::plain().select_all());
    old_table_in_the_way(&db, &subscriber, publications);
    db.sql("DELETE FROM t");
    wait_until(&subscriber, "the last of it", "SELECT count(*) FROM t", "0");
    subscriber.sql("ALTER SUBSCRIPTION heard DISABLE");
    subscriber.sql("ALTER SUBSCRIPTION heard SET (slot_name = NONE)");
    subscriber.sql("DROP SUBSCRIPTION heard");
    wait_until(&db, "its walsender to end", "SELECT count(*) FROM pg_replication_slots WHERE active", "0");
    db.sql("SELECT pg_drop_replication_slot('heard')");
    assert_nothing_left(&db);
}

/// A publication of the schema has the old table too until `finish`; one of the table has not.
fn old_table_in_the_way(db: &Db, subscriber: &Db, publications: &[&str]) {
    let listed = "SELECT string_agg(DISTINCT tablename, ',' ORDER BY tablename) FROM pg_publication_tables WHERE pubname LIKE 'told%'";
    let refresh = || subscriber.connect().try_sql("ALTER SUBSCRIPTION heard REFRESH PUBLICATION");
    if publications.iter().any(|which| which.contains("SCHEMA")) {
        assert_eq!(db.query_one_text(listed), "t,t_old");
        let missing = refresh().expect_err("the subscriber has no t_old");
        assert!(missing.to_string().contains("t_old"), "{missing}");
    }
    let id = db.query_one_text("SELECT id FROM pgrecast.migration");
    command(db, &["finish", &id]).wait().ended(0);
    assert_eq!(db.query_one_text(listed), "t");
    refresh().expect("the table that the subscriber has");
}

#[test]
fn a_subscriber_follows_from_the_old_table_to_the_new_one() {
    follow(&["TABLE t"], 301);
}

#[test]
fn a_subscriber_of_the_schema_follows_as_well() {
    if Db::new().major() >= 15 {
        follow(&["TABLES IN SCHEMA public"], 302);
        follow(&["TABLES IN SCHEMA public", "TABLE t"], 303);
    }
}
