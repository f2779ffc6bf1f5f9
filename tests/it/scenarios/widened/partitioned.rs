//! Tables that hold the key and are partitioned go with the others.

use super::application::in_partitions;
use super::*;

/// Of keys to a partitioned table those to its partitions are the server's own; before 18 these do not learn that their
/// parent was validated.
const KEYS: &str = "SELECT string_agg(concat_ws(' ', k.conrelid::regclass, k.conname, k.convalidated, pg_get_constraintdef(k.oid)), '; ' \
    ORDER BY k.conrelid::regclass::text, k.conname) FROM pg_constraint k \
    LEFT JOIN pg_constraint above ON above.oid = k.conparentid WHERE k.contype = 'f' AND above.conrelid IS DISTINCT FROM k.conrelid";

/// Panics unless schema and foreign keys are those of tables that were widened by plain statements.
fn assert_partitioned_as_by_hand(db: &Db) {
    let by_hand = in_partitions();
    by_hand.sql(WIDENED);
    by_hand.sql(TIED);
    assert_eq!(db.query_one_text(KEYS), by_hand.query_one_text(KEYS));
    let (expected, got) = (dump(&by_hand), dump(db));
    assert!(expected == got, "{}", difference(&expected, &got));
}

fn only_head(db: &Db) -> String {
    db.query_one_text("SELECT id FROM pgrecast.migration WHERE head IS NULL")
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
    let report = command(&db, &["resume", &only_head(&db)]).done();
    application.wait_for_rounds(30);
    application.stop().assert_kept(&db);
    assert_eq!(targets(&report).len(), 5);
    finish_group(&db);
    assert_partitioned_as_by_hand(&db);
}

#[test]
fn they_are_swapped_back_with_it() {
    let db = in_partitions();
    let (before, keys) = (dump(&db), db.query_one_text(KEYS));
    let application = Application::start(&db);
    let running = command(&db, &[ARGS, &["--rollback-window", "10m"]].concat());
    running.wait_for_window();
    application.wait_for_rounds(30);
    command(&db, &["verify", &only_head(&db)]).wait().ended(0);
    running.kill();
    application.wait_for_rounds(30);
    command(&db, &["rollback", &only_head(&db)]).done();
    application.wait_for_rounds(30);
    application.stop().assert_kept(&db);
    finish_group(&db);
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
    finish_group(&db);

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
