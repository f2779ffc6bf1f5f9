//! A subscriber of the table's publication neither loses a row nor gets one twice.

use crate::harness::load::{Load, Options, Shape};
use crate::harness::migration::{SOON, command, wait_until};
use crate::harness::{Db, assert_nothing_left, own_server, wait_for};

#[test]
fn a_subscriber_follows_from_the_old_table_to_the_new_one() {
    let server = own_server(&[]);
    let (db, subscriber) = (Db::on(&server), Db::on(&server));
    db.sql(Shape::plain_ddl());
    subscriber.sql(Shape::plain_ddl());
    subscriber.sql("ALTER TABLE t ALTER id TYPE bigint, ALTER u TYPE bigint");
    db.sql("CREATE PUBLICATION told FOR TABLE t");
    // On one server a subscription cannot make its slot itself: it would wait for its own transaction.
    db.sql("SELECT pg_create_logical_replication_slot('heard', 'pgoutput')");
    subscriber.sql(&format!(
        "CREATE SUBSCRIPTION heard CONNECTION '{}' PUBLICATION told WITH (create_slot = false, slot_name = 'heard')",
        db.dsn()
    ));
    wait_until(&subscriber, "the first copy", "SELECT string_agg(srsubstate::text, '') FROM pg_subscription_rel", "r");
    let load = Load::start(&db, &Shape::plain(), &Options::paced(301));
    load.wait_for_more(100, SOON);
    command(&db, &["alter", "t", "ALTER id TYPE bigint, ALTER u TYPE bigint"]).done();
    load.wait_for_more(300, SOON);
    let report = load.stop();
    report.assert_kept(&db, &Shape::plain().select_all());
    let rows = format!(
        "SELECT count(*) || ' ' || md5(string_agg(r::text, ',' ORDER BY id)) FROM ({}) AS r",
        Shape::plain().select_all()
    );
    let expected = db.query_one_text(&rows);
    wait_for("the subscriber", SOON, || {
        let seen = subscriber.query_one_text(&rows);
        if seen == expected { Ok(()) } else { Err(format!("{seen}, not {expected}")) }
    });
    assert_eq!(db.query_one_text("SELECT string_agg(tablename, ',') FROM pg_publication_tables"), "t");
    let id = db.query_one_text("SELECT id FROM pgrecast.migration");
    command(&db, &["finish", &id]).wait().ended(0);
    db.sql("DELETE FROM t");
    wait_until(&subscriber, "the last of it", "SELECT count(*) FROM t", "0");
    subscriber.sql("ALTER SUBSCRIPTION heard DISABLE");
    subscriber.sql("ALTER SUBSCRIPTION heard SET (slot_name = NONE)");
    subscriber.sql("DROP SUBSCRIPTION heard");
    wait_until(&db, "its walsender to end", "SELECT count(*) FROM pg_replication_slots WHERE active", "0");
    db.sql("SELECT pg_drop_replication_slot('heard')");
    assert_nothing_left(&db);
}
