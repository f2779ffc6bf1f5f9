//! Both versions of an application at once, in the window and while it is rolled back; the old one, which goes through its
//! view, does not notice.

use super::back::{COLUMNS, Change, ELEMENTS, Kind, ROWS, VALUES, WINDOW};
use super::*;
use crate::harness::migration::phase_of;

impl Writer {
    /// The first of the old version's keys: the new one's are below.
    const OLD: u64 = 2 * Writer::FIRST;

    /// An application of the old shape, to which nothing may ever go wrong.
    fn run_old(&self, db: &Db, goes_on: &dyn Fn() -> bool) {
        let session = db.connect();
        while goes_on() {
            let step = self.step(Writer::OLD);
            let statement = match &step.change {
                Change::Insert(id, (d, body, tags)) => {
                    format!("INSERT INTO before (id, d, body, tags) VALUES ({id}, {d}, '{body}', '{tags}')")
                }
                Change::Update(id, (d, body, tags)) => {
                    format!("UPDATE before SET d = {d}, body = '{body}', tags = '{tags}' WHERE id = {id}")
                }
                Change::Delete(id) => format!("DELETE FROM before WHERE id = {id}"),
                Change::Rekey(id, other) => format!("UPDATE before SET id = {other} WHERE id = {id}"),
            };
            if step.taken_back {
                session.sql(&format!("BEGIN; {statement}; ROLLBACK"));
                continue;
            }
            assert_eq!(session.rows(&format!("{statement} RETURNING 1")).len(), 1, "{statement}");
            self.book(step.change);
        }
    }
}

fn go_back_beside_each_other(seed: u64, kind: &Kind) {
    let db = Db::new();
    db.sql(TABLE);
    db.sql(kind.setup);
    db.sql("INSERT INTO t (id, body, d, tags) SELECT -i, 'body ' || i, i % 5, ARRAY['a', NULL, i::text] FROM generate_series(1, 500) i");
    let before = dump(&db);
    let load = Load::start(&db, &Shape::plain(), &Options::paced(seed));
    let (new, old) = (Writer::fill(&db), Writer::default());
    let running = split(&db, &[kind.split, &["--compat-view", "before"]], WINDOW);
    running.wait_for_window();
    let id = only_migration(&db);
    beside(
        2,
        |n, goes_on| match n {
            1 => new.run_new(&db, kind, goes_on),
            _ => old.run_old(&db, goes_on),
        },
        || {
            new.wait_for_more(150);
            old.wait_for_more(150);
            command(&db, &["rollback", &id]).wait().done();
            running.wait().done();
            old.wait_for_more(150);
            load.wait_for_more(200, SOON);
        },
    );
    assert_eq!(phase_of(&db), "rolled back");
    load.stop().assert_kept(&db, &format!("{} WHERE id < {} AND id > 0", Shape::plain().select_all(), Writer::FIRST));
    finish(&db);
    let of = |table: &str, from: u64| {
        format!("SELECT id, d, body, tags FROM {table} WHERE id >= {from} AND id < {}", from + Writer::FIRST)
    };
    new.assert_kept(&db, &of("t", Writer::FIRST));
    for table in ["t", "before"] {
        old.assert_kept(&db, &of(table, Writer::OLD));
    }
    assert_same(&db, "SELECT * FROM t", "SELECT * FROM before");
    assert_rests_on_the_table(&db, "before");
    db.sql("DROP VIEW before");
    assert_eq!(dump(&db), before);
}

/// Nothing of ours writes what is written to the view, and whoever may do something with the table may do it with the view.
fn assert_rests_on_the_table(db: &Db, view: &str) {
    let made = format!(
        "SELECT (SELECT count(*) FROM pg_trigger WHERE tgrelid = '{view}'::regclass) \
         + (SELECT count(*) FROM pg_attrdef WHERE adrelid = '{view}'::regclass) \
         + (SELECT count(*) FROM pg_proc WHERE prorettype = 'trigger'::regtype AND pronamespace = 'public'::regnamespace)"
    );
    assert_eq!(db.query_one_text(&made), "0");
    assert_eq!(granted(db, view), granted(db, "t"));
}

#[test]
fn columns() {
    go_back_beside_each_other(291, &COLUMNS);
}

#[test]
fn rows() {
    go_back_beside_each_other(292, &ROWS);
}

#[test]
fn values() {
    go_back_beside_each_other(293, &VALUES);
}

#[test]
fn elements() {
    go_back_beside_each_other(294, &ELEMENTS);
}

const SPLIT: &[&str] = &["--into", "n(body)", "--drop", "body", "--compat-view", "before"];

/// With rows, split, and its window open: the run, and the migration.
fn in_window(db: &Db) -> (Running, String) {
    db.sql(
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, d int DEFAULT 7, body text);
         INSERT INTO t (d, body) SELECT i, 'b' || i FROM generate_series(1, 20) i",
    );
    let running = split(db, &[SPLIT], WINDOW);
    running.wait_for_window();
    (running, only_migration(db))
}

#[test]
fn what_somebody_made_of_the_view_is_not_replaced() {
    let db = Db::new();
    let (running, id) = in_window(&db);
    // It may be called otherwise by now, and others may read it.
    db.sql(
        "ALTER VIEW before RENAME TO old; COMMENT ON VIEW old IS 'until May'; ALTER VIEW old SET (security_barrier);
         CREATE VIEW on_it AS SELECT id, body FROM old; INSERT INTO old (body) VALUES ('through it')",
    );
    let query = db.query_one_text("SELECT pg_get_viewdef('old'::regclass)");
    db.sql(&format!("CREATE OR REPLACE VIEW old AS SELECT * FROM ({}) x WHERE id > 1", query.trim_end_matches(';')));
    let refused = command(&db, &["rollback", &id]).wait();
    refused.ended(3);
    assert!(refused.stderr.contains("view public.old was changed since the split"), "{}", refused.stderr);
    db.sql(&format!("CREATE OR REPLACE VIEW old WITH (security_barrier) AS {query}"));
    command(&db, &["rollback", &id]).wait().done();
    running.wait().done();
    finish(&db);
    assert_rests_on_the_table(&db, "old");
    // It is as any view of one table now.
    db.sql("INSERT INTO old (body) VALUES ('directly'); INSERT INTO old (d) VALUES (1) ON CONFLICT DO NOTHING");
    assert_eq!(
        db.query_one_text("SELECT string_agg(concat_ws(' ', id, d, body), ', ' ORDER BY id) FROM t WHERE id > 20"),
        "21 7 through it, 22 7 directly, 23 1"
    );
    assert_eq!(
        db.query_one_text(
            "SELECT count(*) || obj_description('old'::regclass) || (SELECT reloptions FROM pg_class WHERE oid = 'old'::regclass)::text FROM on_it"
        ),
        "23until May{security_barrier=true}"
    );
}

#[test]
fn a_view_that_is_gone_is_not_missed() {
    let db = Db::new();
    let (running, id) = in_window(&db);
    let before = db.query_one_text("SELECT pg_get_viewdef('before'::regclass)");
    // Another view of that name is none of ours, and its table goes.
    db.sql(&format!("DROP VIEW before; CREATE VIEW before AS {before}"));
    let refused = command(&db, &["rollback", &id]).wait();
    refused.ended(3);
    assert!(refused.stderr.contains("view public.before uses table public.n"), "{}", refused.stderr);
    db.sql("DROP VIEW before; UPDATE n SET body = 'later' WHERE id = 3");
    command(&db, &["rollback", &id]).wait().done();
    running.wait().done();
    finish(&db);
    assert_eq!(db.query_one_text("SELECT body FROM t WHERE id = 3"), "later");
    // Somebody may have made another function of its name.
    db.sql("DROP FUNCTION before_write()");
    assert_nothing_left(&db);
}
