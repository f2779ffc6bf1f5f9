//! Parents and children under traffic on either, through each other.

use std::sync::atomic::{AtomicU32, Ordering};

use super::difference_by_rewriting;
use super::inheritance::{family, key_of_cc};
use crate::harness::load::{Column, Load, Options, Shape};
use crate::harness::migration::{command, finish};
use crate::harness::{Db, beside, dump};
use crate::scenarios::twins::difference;

/// Counts up rows of a family through a table above them, as long as it is told to; what was counted must be there.
fn count_up(db: &Db, through: &str, ids: std::ops::Range<u32>, work: impl FnOnce()) {
    let done = AtomicU32::new(0);
    let traffic = |worker: u32, goes_on: &dyn Fn() -> bool| {
        let session = db.connect();
        let mut turn = worker;
        while goes_on() {
            let id = ids.start + turn % ids.len() as u32;
            session.sql(&format!("UPDATE {through} SET n = n + 1 WHERE id = {id}"));
            done.fetch_add(1, Ordering::Relaxed);
            turn += 4;
        }
    };
    beside(4, traffic, work);
    let counted = format!("SELECT sum(n) FROM {through} WHERE id >= {} AND id < {}", ids.start, ids.end);
    let done = done.load(Ordering::Relaxed);
    assert!(done > 200, "{done} updates");
    assert_eq!(db.query_one_text(&counted), done.to_string());
}

#[test]
fn no_write_through_a_parent_is_lost() {
    let db = Db::new();
    db.sql(&family(db.major()));
    // The one is reached through the other: grandparent, parent, child.
    count_up(&db, "p", 3001..3100, || {
        assert_eq!(difference_by_rewriting(&db, &["cc", "c", "cc", "c"]), key_of_cc(&db));
    });
}

#[test]
fn no_row_of_a_child_is_missed_while_its_parent_is_replaced() {
    let db = Db::new();
    db.sql(&family(db.major()));
    let all = db.query_one_text("SELECT count(*) FROM p");
    let reads = AtomicU32::new(0);
    let reader = |_, goes_on: &dyn Fn() -> bool| {
        let session = db.connect();
        while goes_on() {
            assert_eq!(session.query_one_text("SELECT count(*) FROM p"), all);
            reads.fetch_add(1, Ordering::Relaxed);
        }
    };
    beside(1, reader, || {
        // Rows of the parent, of a child and of a child's child.
        count_up(&db, "p", 3001..3100, || drop(difference_by_rewriting(&db, &["p", "c"])));
        count_up(&db, "p", 1..300, || drop(difference_by_rewriting(&db, &["\"P 2\"", "p"])));
    });
    assert!(reads.load(Ordering::Relaxed) > 100, "{reads:?} reads");
}

#[test]
fn parent_and_child_are_rewritten_under_traffic_on_either() {
    let db = Db::new();
    db.sql(Shape::plain_ddl());
    db.sql("CREATE TABLE child (PRIMARY KEY (id), UNIQUE (u), more int) INHERITS (t)");
    let before = dump(&db);
    let parent = Shape::plain();
    // What is written through the parent is written to rows of the child, too.
    let key = Column { render: |n| (n + 1_000_000).to_string(), ..Column::whole("id", "bigint") };
    let child = Shape { table: "public.child".into(), key, ..Shape::plain() };
    let loads = [&parent, &child].map(|shape| Load::start(&db, shape, &Options::paced(72)));
    for table in ["t", "child", "t"] {
        command(&db, &["alter", table, ""]).done();
        finish(&db);
    }
    let [of_parent, of_child] = loads.map(Load::stop);
    of_child.assert_kept(&db, &child.select_all());
    of_parent.assert_kept(&db, &parent.select_all().replace("FROM", "FROM ONLY"));
    assert!(dump(&db) == before, "{}", difference(&before, &dump(&db)));
}
