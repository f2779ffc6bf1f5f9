//! Tables that hold the key and are partitioned go with the others.

use super::application::in_partitions;
use super::*;

/// Of keys to a partitioned table those to its partitions are the server's own; before 18 these do not learn that their
/// parent was validated.
const KEYS: &str = "SELECT string_agg(concat_ws(' ', k.conrelid::regclass, k.conname, k.convalidated, pg_get_constraintdef(k.oid)), '; ' \
    ORDER BY k.conrelid::regclass::text, k.conname) FROM pg_constraint k \
    LEFT JOIN pg_constraint above ON above.oid = k.conparentid WHERE k.contype = 'f' AND above.conrelid IS DISTINCT FROM k.conrelid \
    AND k.connamespace = 'public'::regnamespace";

/// Panics unless schema and foreign keys are those of tables that were widened by plain statements.
fn assert_partitioned_as_by_hand(db: &Db) {
    let by_hand = in_partitions();
    by_hand.sql(WIDENED);
    by_hand.sql(TIED);
    assert_eq!(db.query_one_text(KEYS), by_hand.query_one_text(KEYS));
    let (expected, got) = (dump(&by_hand), dump(db));
    assert!(expected == got, "{}", difference(&expected, &got));
}

#[test]
fn they_follow_it_in_their_partitions() {
    let db = in_partitions();
    let application = Application::start(&db);
    for point in ["after create publication", "after commit chunk #5", "before commit attach", "after commit cut-over"]
    {
        died_at(&db, point);
        application.wait_for_rounds(3);
    }
    assert_widened(&db);
    let report = command(&db, &["resume", &only_migration(&db)]).done();
    application.wait_for_rounds(30);
    application.stop().assert_kept(&db);
    assert_eq!(targets(&report).len(), 5);
    finish(&db);
    assert_partitioned_as_by_hand(&db);
}

#[test]
fn they_are_swapped_back_with_it() {
    let db = in_partitions();
    let (before, keys) = (dump(&db), db.query_one_text(KEYS));
    swap_back(&db);
    finish(&db);
    let after = dump(&db);
    assert!(before == after, "{}", difference(&before, &after));
    assert_eq!(db.query_one_text(KEYS), keys);
}

#[test]
fn they_are_given_up_with_it() {
    let db = in_partitions();
    let (before, keys) = (dump(&db), db.query_one_text(KEYS));
    let estimated = pgrecast(&db, &[ARGS, &["--dry-run", "--sample", "1s"]].concat());
    estimated.ended(0);
    assert!(estimated.stdout.contains("public.orders (key: id)"), "{}", estimated.stdout);
    let application = Application::start(&db);
    let running = widen(&db, &["--postpone-cutover"]);
    running.wait_for_waiting(RELEASE);
    application.wait_for_rounds(10);
    pgrecast(&db, &["abort"]).ended(0);
    running.wait().ended(1);
    application.stop().assert_kept(&db);
    assert_nothing_left(&db);
    assert_eq!(dump(&db), before);
    assert_eq!(db.query_one_text(KEYS), keys);
}

#[test]
fn they_go_one_by_one() {
    let db = in_partitions();
    let application = Application::start(&db);
    command(&db, &[ARGS, &["--one-by-one"]].concat()).wait().ended(0);
    application.stop().assert_kept(&db);
    assert_widened(&db);
    for id in db.rows("SELECT id FROM pgrecast.migration").into_iter().flatten().flatten() {
        command(&db, &["finish", &id]).wait().ended(0);
    }
    assert_nothing_left(&db);
    assert_partitioned_as_by_hand(&db);
}

#[test]
fn what_becomes_of_one_partition_is_noticed() {
    let db = in_partitions();
    let running = widen(&db, &["--postpone-cutover"]);
    running.wait_for_waiting(RELEASE);
    // One is emptied, and the others keep their rows.
    db.sql("TRUNCATE notes_1; INSERT INTO notes SELECT n, -1, 'late' FROM generate_series(5000, 5100) n");
    let rows = "SELECT md5(string_agg(notes::text, ';' ORDER BY id)) FROM notes";
    let expected = db.query_one_text(rows);
    command(&db, &["cutover"]).wait().ended(0);
    running.done();
    assert_eq!(db.query_one_text(rows), expected);
    finish(&db);

    let db = in_partitions();
    let running = widen(&db, &["--postpone-cutover"]);
    running.wait_for_waiting(RELEASE);
    db.sql("ALTER TABLE address_log DETACH PARTITION address_log_2");
    command(&db, &["cutover"]).wait().ended(0);
    let said = failure(&running.wait(), 1);
    assert!(said.contains("table public.address_log was changed by somebody else"), "{said}");
    pgrecast(&db, &["abort"]).ended(0);
    assert_nothing_left(&db);
    assert_ne!(db.query_one_text("SELECT count(*) FROM address_log_2"), "0");
}

/// The table of the key itself is partitioned, so that foreign keys refer to all of its partitions.
#[test]
fn the_key_may_be_that_of_a_partitioned_table() {
    let setup = || {
        let db = Db::new();
        db.sql(
            "CREATE TABLE c (id int, region int, name text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
             CREATE TABLE c_1 PARTITION OF c FOR VALUES IN (1); CREATE TABLE c_2 PARTITION OF c FOR VALUES IN (2);
             CREATE TABLE o (id int PRIMARY KEY, c int, region int, FOREIGN KEY (c, region) REFERENCES c ON UPDATE CASCADE);
             INSERT INTO c SELECT n, n % 2 + 1, 'n' FROM generate_series(1, 500) n; INSERT INTO o SELECT id, id, region FROM c",
        );
        db
    };
    let db = setup();
    let (before, keys) = (dump(&db), db.query_one_text(KEYS));
    let running = command(&db, &["widen", "c.id", "bigint", "--rollback-window", "10m"]);
    running.wait_for_window();
    let widened = db.query_one_text(KEYS);
    db.sql("INSERT INTO c VALUES (1000, 2); INSERT INTO o VALUES (1000, 1000, 2); UPDATE c SET id = id + 2000 WHERE id < 9");
    assert!(db.connect().try_sql("INSERT INTO o VALUES (2000, 9999, 1)").is_err(), "the key is checked");
    command(&db, &["rollback", &only_migration(&db)]).wait().done();
    running.wait().done();
    finish(&db);
    assert_eq!((dump(&db), db.query_one_text(KEYS)), (before, keys));
    let rows = "SELECT concat_ws(' ', (SELECT count(*) FROM c), (SELECT count(*) FROM o WHERE id = 1000 OR c > 2000), \
        (SELECT count(*) FROM o JOIN c ON (c.id, c.region) = (o.c, o.region)))";
    assert_eq!(db.query_one_text(rows), "501 9 501");
    let by_hand = setup();
    by_hand.sql("ALTER TABLE c ALTER id TYPE bigint; ALTER TABLE o ALTER c TYPE bigint");
    assert_eq!(widened, by_hand.query_one_text(KEYS));
}
