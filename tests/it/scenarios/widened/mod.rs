//! `widen`: a key's type changes in every table that holds it, in one cut-over, while an application writes to all of them.

mod application;
mod partitioned;

use application::{Application, SETUP, TIED, WIDENED, assert_widened, setup, setup_untied};
use serde_json::Value;

use super::twins::difference;

use crate::harness::migration::{command, finish, only_migration, wait_until};
use crate::harness::{Db, Output, Running, assert_nothing_left, dump, pgrecast, spawn_with};

const ARGS: &[&str] = &["widen", "customers.id", "bigint", "--also", "notes.customer"];

/// What a run says that waits for its release.
const RELEASE: &str = "pgrecast cutover ";

const TYPES: &str = "SELECT string_agg(format_type(atttypid, NULL), ', ') FROM pg_attribute \
    WHERE attname = 'customer' AND attnum > 0 AND attrelid IN ('orders'::regclass, 'addresses'::regclass, 'notes'::regclass)";

fn widen(db: &Db, more: &[&str]) -> Running {
    command(db, &[ARGS, more].concat())
}

/// Runs until this place between two statements, and no further.
fn died_at(db: &Db, point: &str) {
    let args = [ARGS, &["--format", "json"]].concat();
    let output = spawn_with(db.dsn(), &args, &[("PGRECAST_FAULT", point)]).wait();
    assert_eq!(output.code, None, "it was to die {point}: {}{}", output.stdout, output.stderr);
}

/// Panics unless the schema is that of tables that were widened by plain statements.
fn assert_as_by_hand(db: &Db) {
    let by_hand = Db::new();
    for statements in [SETUP, TIED, WIDENED, TIED] {
        by_hand.sql(statements);
    }
    let (expected, got) = (dump(&by_hand), dump(db));
    assert!(expected == got, "{}", difference(&expected, &got));
}

/// The primary message, detail and hint of a run that ended with this code.
fn failure(output: &Output, code: i32) -> String {
    output.ended(code);
    output.stderr.clone()
}

fn targets(report: &Value) -> Vec<&str> {
    report["targets"].as_array().expect("a list").iter().filter_map(Value::as_str).collect()
}

#[test]
fn all_tables_that_hold_a_key_follow_it() {
    let db = setup();
    let application = Application::start(&db);
    let report = widen(&db, &[]).done();
    application.stop().assert_kept(&db);
    assert_widened(&db);
    assert_eq!(report["source"], "public.customers");
    let tables = ["public.customers", "public.address_log", "public.addresses", "public.notes", "public.orders"];
    assert_eq!(targets(&report), tables);
    assert!(report["rows_copied"].as_u64() >= Some(5_000), "{report}");
    // The tables are not shown as migrations of their own.
    assert_eq!(db.query_one_text("SELECT count(*) FROM pgrecast.migration"), "5");
    let listed = command(&db, &["list"]).wait();
    assert_eq!(listed.stdout.lines().count(), 1, "{}", listed.stdout);
    assert_eq!(db.query_one_text("SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND NOT convalidated"), "0");
    finish(&db);
    assert_as_by_hand(&db);
    assert_eq!(
        db.query_one_text("SELECT concat_ws(' ', spent(-7), (SELECT total FROM totals WHERE name = 'n7'))"),
        "7 7"
    );
    db.sql("SELECT setval('customers_id_seq', 3000000000); INSERT INTO customers (name) VALUES ('late')");
}

#[test]
fn killed_anywhere_it_goes_on() {
    let db = setup();
    let application = Application::start(&db);
    for point in ["after create publication", "after commit chunk #3", "before commit attach"] {
        died_at(&db, point);
        application.wait_for_rounds(3);
    }
    died_at(&db, "before commit cut-over");
    assert_eq!(db.query_one_text(TYPES), "integer, integer, integer", "the swap was rolled back");
    died_at(&db, "after commit cut-over");
    assert_widened(&db);
    let id = only_migration(&db);
    command(&db, &["resume", &id]).done();
    application.stop().assert_kept(&db);
    finish(&db);
}

/// There and back again, with a comparison and a kill in the window, while the application writes; its report.
fn swap_back(db: &Db) -> Value {
    let application = Application::start(db);
    let args = [ARGS, &["--rollback-window", "10m"]].concat();
    let running = command(db, &args);
    running.wait_for_window();
    application.wait_for_rounds(30);
    let id = only_migration(db);
    command(db, &["verify", &id]).wait().ended(0);
    // What follows need not have been there all the time.
    running.kill();
    application.wait_for_rounds(30);
    let report = command(db, &["rollback", &id]).done();
    application.wait_for_rounds(30);
    application.stop().assert_kept(db);
    report
}

#[test]
fn swapped_back_no_table_has_lost_a_write() {
    let db = setup();
    let before = dump(&db);
    let report = swap_back(&db);
    assert_eq!(targets(&report).len(), 5);
    assert_eq!(db.query_one_text("SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND NOT convalidated"), "0");
    finish(&db);
    let after = dump(&db);
    assert!(before == after, "{}", difference(&before, &after));
}

#[test]
fn given_up_it_leaves_all_tables_as_they_were() {
    let db = setup();
    let before = dump(&db);
    let application = Application::start(&db);
    let running = widen(&db, &["--postpone-cutover"]);
    running.wait_for_waiting(RELEASE);
    // Another migration of one of the tables is refused while this one lasts.
    let other = pgrecast(&db, &["alter", "orders", "ADD COLUMN x int"]);
    assert!(failure(&other, 3).contains("table public.orders is being migrated already"), "{}", other.stderr);
    running.kill();
    let aborted = pgrecast(&db, &["abort"]);
    assert!(aborted.stdout.contains("public.notes, public.orders are as they were"), "{aborted:?}");
    application.stop().assert_kept(&db);
    assert_nothing_left(&db);
    assert_eq!(dump(&db), before);
}

#[test]
fn a_difference_in_any_table_is_found() {
    let db = setup();
    let running = widen(&db, &["--postpone-cutover"]);
    running.wait_for_waiting(RELEASE);
    let id = only_migration(&db);
    command(&db, &["verify", &id]).wait().ended(0);
    let shadow =
        db.query_one_text("SELECT 'pgrecast.shadow_' || id FROM pgrecast.migration WHERE source = 'public.notes'");
    db.sql(&format!("UPDATE {shadow} SET note = 'other' WHERE id = -7"));
    let found = pgrecast(&db, &["verify", &id]);
    assert!(failure(&found, 4).contains("id = -7 differs in note of public.notes"), "{}", found.stderr);
    running.wait().ended(4);
    pgrecast(&db, &["abort"]).ended(0);
    assert_nothing_left(&db);
}

#[test]
fn one_table_that_cannot_be_locked_keeps_all_as_they_are() {
    let db = setup();
    let reader = db.connect();
    reader.sql("BEGIN; SELECT count(*) FROM address_log");
    let blocked = widen(&db, &["--cutover-attempts", "2"]).wait();
    assert!(failure(&blocked, 5).contains("SELECT count(*) FROM address_log"), "{}", blocked.stderr);
    assert_eq!(db.query_one_text(TYPES), "integer, integer, integer");
    db.sql("INSERT INTO customers VALUES (7, 'seven'); INSERT INTO notes VALUES (7, 7, 'seven')");
    reader.sql("COMMIT");
    widen(&db, &[]).done();
    assert_widened(&db);
    assert_eq!(
        db.query_one_text("SELECT note FROM notes JOIN customers ON customer = customers.id WHERE name = 'seven'"),
        "seven"
    );
    finish(&db);
}

#[test]
fn a_change_of_one_table_by_somebody_else_is_told_by_its_name() {
    let db = setup();
    let running = widen(&db, &["--postpone-cutover"]);
    running.wait_for_waiting(RELEASE);
    db.sql("ALTER TABLE notes ADD COLUMN late int");
    command(&db, &["cutover"]).wait().ended(0);
    let drifted = running.wait();
    assert!(failure(&drifted, 1).contains("public.notes"), "{}", drifted.stderr);
    pgrecast(&db, &["abort"]).ended(0);
    assert_nothing_left(&db);
}

#[test]
fn a_truncate_of_several_tables_reaches_each() {
    let db = setup();
    let running = widen(&db, &["--postpone-cutover"]);
    running.wait_for_waiting(RELEASE);
    db.sql("BEGIN; INSERT INTO notes VALUES (1, 1, 'gone'); TRUNCATE customers, notes CASCADE; INSERT INTO customers VALUES (1, 'one'); \
            INSERT INTO notes VALUES (2, 1, 'stays'); COMMIT; INSERT INTO orders VALUES (1, 1, 1)");
    command(&db, &["cutover"]).wait().ended(0);
    running.done();
    let counts = "SELECT concat_ws(' ', (SELECT count(*) FROM customers), (SELECT count(*) FROM orders), \
        (SELECT count(*) FROM addresses), (SELECT count(*) FROM address_log), (SELECT string_agg(note, ',') FROM notes))";
    assert_eq!(db.query_one_text(counts), "1 1 0 0 stays");
    finish(&db);
}

#[test]
fn the_plan_has_every_table_and_what_cannot_be_carried_is_refused() {
    let db = setup();
    let shown = pgrecast(&db, &[ARGS, &["--dry-run"]].concat());
    shown.ended(0);
    for part in
        ["public.customers (key: id)", "ALTER TABLE \"public\".\"notes\" RENAME TO \"notes_old\"", "CREATE PUBLICATION"]
    {
        assert!(shown.stdout.contains(part), "{part}: {}", shown.stdout);
    }
    assert_eq!(shown.stdout.matches("CREATE PUBLICATION").count(), 1);
    assert_nothing_left(&db);
    let cases: [(&str, &str, &[&str], &str); 7] = [
        (
            "CREATE MATERIALIZED VIEW m AS SELECT note FROM notes",
            "DROP MATERIALIZED VIEW m",
            ARGS,
            "view public.bills reads several of the tables",
        ),
        (
            "CREATE TABLE p (c int) PARTITION BY LIST (c); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); ALTER TABLE p1 ADD FOREIGN KEY (c) REFERENCES customers",
            "DROP TABLE p",
            ARGS,
            "public.p1 is a partition",
        ),
        (
            "CREATE UNLOGGED TABLE u (id int PRIMARY KEY, c int)",
            "DROP TABLE u",
            &[ARGS, &["--also", "u.c"]].concat(),
            "public.u: public.u is an unlogged table",
        ),
        (
            "ALTER TABLE notes DROP CONSTRAINT notes_pkey",
            "ALTER TABLE notes ADD PRIMARY KEY (id)",
            ARGS,
            "public.notes",
        ),
        ("", "", &["widen", "customers.none", "bigint"], "table customers has no column none"),
        ("", "", &["widen", "customers.id", "int"], "customers.id has that type already"),
        ("", "", &["widen", "customers.id", "date"], "cannot be cast"),
    ];
    for (before, after, args, part) in cases {
        db.sql(before);
        let refused = pgrecast(&db, args);
        assert!(failure(&refused, 3).contains(part), "{part}: {}", refused.stderr);
        db.sql(after);
    }
    assert_nothing_left(&db);
    let typed = pgrecast(&db, &["widen", "customers.id", "bigint, DROP COLUMN name"]);
    assert!(failure(&typed, 2).contains("cannot read the type"), "{}", typed.stderr);
}

#[test]
fn columns_that_hold_the_type_already_stay_as_they_are() {
    let db = setup_untied();
    db.sql("ALTER TABLE orders ALTER customer TYPE bigint");
    let report = command(&db, &["widen", "customers.id", "bigint"]).done();
    assert_eq!(targets(&report), ["public.customers", "public.address_log", "public.addresses"]);
    wait_until(&db, "valid keys", "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND NOT convalidated", "0");
    db.sql("INSERT INTO customers VALUES (3000000000, 'wide'); INSERT INTO orders VALUES (1, 3000000000, 1)");
    assert!(db.connect().try_sql("INSERT INTO orders VALUES (2, 3000000001, 1)").is_err(), "the key is checked");
    finish(&db);
}

#[test]
fn one_after_the_other_every_foreign_key_holds() {
    let db = setup();
    let application = Application::start(&db);
    let args = [ARGS, &["--one-by-one", "--no-verify"]].concat();
    let died = spawn_with(db.dsn(), &args, &[("PGRECAST_FAULT", "after commit cut-over #3")]).wait();
    assert_eq!(died.code, None, "{}{}", died.stdout, died.stderr);
    command(&db, &args).wait().ended(0);
    application.stop().assert_kept(&db);
    assert_widened(&db);
    let order = "public.address_log public.addresses public.notes public.orders public.customers";
    assert_eq!(db.query_one_text("SELECT string_agg(source, ' ' ORDER BY id) FROM pgrecast.migration"), order);
    assert_eq!(db.query_one_text("SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND NOT convalidated"), "0");
    for id in db.rows("SELECT id FROM pgrecast.migration").into_iter().flatten().flatten() {
        command(&db, &["finish", &id]).wait().ended(0);
    }
    assert_nothing_left(&db);
    assert_as_by_hand(&db);
    // Types without an equality in common cannot refer to each other in between.
    let refused = pgrecast(&db, &["widen", "customers.id", "text", "--one-by-one"]);
    assert!(failure(&refused, 3).contains("does not go with the change"), "{}", refused.stderr);
}
