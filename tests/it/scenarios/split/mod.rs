//! A table is taken apart: what leaves it is in the new tables, as the application wrote it last.

mod back;
mod both;
mod columns;
mod compared;
mod compat;
mod many;
mod refused;
mod rows;
mod values;

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{SOON, only_migration};
use crate::harness::load::{Load, Options, Shape};
use crate::harness::migration::{command, finish, wait_until};
use crate::harness::{Db, Running, assert_nothing_left, beside, dump, pgrecast, wait_for};

/// The load's table, with columns of another application.
const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, u int, v text, n numeric, d int, body text NOT NULL DEFAULT 'none', tags text[])";

/// Starts it with more options, told as events.
fn split(db: &Db, options: &[&[&str]], more: &[&str]) -> Running {
    command(db, &[&["split", "t"], &options.concat()[..], more].concat())
}

/// What the other application knows of a row: `d`, `body` and `tags` as text.
type Row = (String, String, String);

/// Elements of a row, as text: none, equal ones, and a NULL among them.
fn tags(turn: u64) -> String {
    match turn % 5 {
        0 => "{}".to_owned(),
        1 => "{a,a}".to_owned(),
        n => format!("{{x{turn},a,NULL,y{n}}}"),
    }
}

/// An application that writes rows of its own until the swap takes columns or rows from it, and knows what each holds.
#[derive(Default)]
struct Writer {
    turns: AtomicU64,
    books: Mutex<HashMap<String, Row>>,
}

impl Writer {
    /// The first of its keys: the load's are below.
    const FIRST: u64 = 1_000_000;
    /// A prime, so that a row gets other values each time.
    const ROWS: u64 = 199;

    fn fill(db: &Db) -> Writer {
        let (first, last) = (Writer::FIRST, Writer::FIRST + Writer::ROWS - 1);
        db.sql(&format!(
            "INSERT INTO t (id, d, body, tags) SELECT i, 0, 'first', '{{}}' FROM generate_series({first}, {last}) i"
        ));
        let row = || ("0".to_owned(), "first".to_owned(), "{}".to_owned());
        Writer {
            turns: AtomicU64::new(0),
            books: Mutex::new((first..=last).map(|id| (id.to_string(), row())).collect()),
        }
    }

    /// Two rows in each statement; some transactions are taken back, some rows get another key.
    fn run(&self, db: &Db, goes_on: &dyn Fn() -> bool) {
        let session = db.connect();
        while goes_on() {
            let turn = self.turns.fetch_add(1, Ordering::Relaxed);
            let (one, other) = (Writer::FIRST + turn * 7 % Writer::ROWS, Writer::FIRST + (turn * 7 + 3) % Writer::ROWS);
            let d = turn * 3 % 5;
            let tags = tags(turn);
            let update = format!(
                "UPDATE t SET d = {d}, body = 'body {turn}', tags = '{tags}' WHERE id IN ({one}, {other}) RETURNING id"
            );
            if turn % 4 == 1 && session.try_sql(&format!("BEGIN; {update}; ROLLBACK")).is_ok() {
                continue;
            }
            // A column that is gone, or a row, ends it: the tables are swapped.
            let Ok(written) = session.try_rows(&update) else { return };
            let mut books = self.books.lock().expect("the books");
            for id in written.iter().flatten().flatten() {
                books.insert(id.clone(), (d.to_string(), format!("body {turn}"), tags.clone()));
            }
            if written.len() < 2 {
                return;
            }
        }
    }

    fn wait_for_more(&self, turns: u64) {
        let wanted = self.turns.load(Ordering::Relaxed) + turns;
        wait_for("written rows", SOON, || {
            let now = self.turns.load(Ordering::Relaxed);
            if now >= wanted { Ok(()) } else { Err(now.to_string()) }
        });
    }

    /// Row by row: the query gives id, `d`, `body` and `tags` of every row of its own, NULL where it knows nothing.
    fn assert_kept(&self, db: &Db, query: &str) {
        let mut books = self.books.lock().expect("the books").clone();
        for row in db.rows(query) {
            let [Some(id), d, body, tags] = &row[..] else { panic!("{row:?}") };
            let wanted = books.remove(id).unwrap_or_else(|| panic!("row {id} is not known, or there twice"));
            for (seen, wanted) in [(d, wanted.0), (body, wanted.1), (tags, wanted.2)] {
                assert!(seen.as_ref().is_none_or(|seen| *seen == wanted), "row {id}: {row:?}, not {wanted}");
            }
        }
        assert!(books.is_empty(), "missing: {books:?}");
    }
}

/// Both applications beside the work, which ends with the swap; then the load's books are looked at.
fn under_traffic(seed: u64, work: impl FnOnce(&Db, &Writer)) -> (Db, Writer) {
    let db = Db::new();
    db.sql(TABLE);
    let load = Load::start(&db, &Shape::plain(), &Options::paced(seed));
    let writer = Writer::fill(&db);
    beside(
        1,
        |_, goes_on| writer.run(&db, goes_on),
        || {
            work(&db, &writer);
            load.wait_for_more(300, SOON);
        },
    );
    load.stop().assert_kept(&db, &format!("{} WHERE id < {} AND id > 0", Shape::plain().select_all(), Writer::FIRST));
    (db, writer)
}

/// Lets one that waits in step cut over, once there was more traffic; its report.
fn released(db: &Db, writer: &Writer, running: Running) -> serde_json::Value {
    running.wait_for_waiting("pgrecast cutover");
    writer.wait_for_more(200);
    command(db, &["cutover"]).wait().ended(0);
    let report = running.done();
    assert_eq!(report["verify"]["differences"], 0, "{report}");
    report
}

/// Who may do what with a table or view, and with each of its columns.
fn granted(db: &Db, name: &str) -> String {
    db.query_one_text(&format!(
        "SELECT concat(c.relacl::text, array(SELECT attname || attacl::text FROM pg_attribute \
         WHERE attrelid = c.oid AND attacl IS NOT NULL ORDER BY attnum)::text) FROM pg_class c WHERE oid = '{name}'::regclass"
    ))
}

/// Panics unless two queries give the same rows, each as often.
fn assert_same(db: &Db, one: &str, other: &str) {
    for (a, b) in [(one, other), (other, one)] {
        let rows = db.rows(&format!("(({a}) EXCEPT ALL ({b})) LIMIT 5"));
        assert!(rows.is_empty(), "in one only: {rows:?}\n{a}");
    }
}
