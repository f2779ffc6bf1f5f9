//! After the swap the old table follows all the new ones, and a rollback brings it back with every write.

use super::*;
use crate::harness::migration::phase_of;
use crate::harness::spawn_with;

pub(super) const WINDOW: &[&str] = &["--rollback-window", "10m"];

/// What an application does to a row of its own.
pub(super) enum Change {
    Insert(String, Row),
    Update(String, Row),
    Delete(String),
    Rekey(String, String),
}

/// A change, and whether it is taken back.
pub(super) struct Step {
    pub(super) change: Change,
    pub(super) taken_back: bool,
}

/// A kind of split, and how the other application speaks to its tables.
pub(super) struct Kind {
    pub(super) split: &'static [&'static str],
    /// Makes the table what the kind needs.
    pub(super) setup: &'static str,
    change: fn(&Change) -> String,
    /// What there is after it, beside `t`.
    tables: &'static [&'static str],
}

impl Writer {
    /// What comes next for one of the rows whose keys begin at `first`.
    pub(super) fn step(&self, first: u64) -> Step {
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        let slot = first + turn * 7 % Writer::ROWS;
        let (id, other) = (slot.to_string(), (slot + 10_000).to_string());
        let row = ((turn * 3 % 5).to_string(), format!("body {}", turn % 50), tags(turn));
        let books = self.books.lock().expect("the books");
        let (there, elsewhere) = if books.contains_key(&other) { (other, id) } else { (id, other) };
        let change = match (books.get(&there), turn % 11) {
            (None, _) => Change::Insert(there, row),
            (Some(_), 3) => Change::Delete(there),
            (Some(_), 5) => Change::Rekey(there, elsewhere),
            (Some(_), _) => Change::Update(there, row),
        };
        Step { change, taken_back: turn % 4 == 1 }
    }

    /// It is done.
    pub(super) fn book(&self, change: Change) {
        let mut books = self.books.lock().expect("the books");
        match change {
            Change::Insert(id, row) | Change::Update(id, row) => drop(books.insert(id, row)),
            Change::Delete(id) => drop(books.remove(&id)),
            Change::Rekey(id, other) => {
                let row = books.remove(&id).expect("a row");
                books.insert(other, row);
            }
        }
    }

    /// An application of the new shape, until the swap back takes its tables away.
    pub(super) fn run_new(&self, db: &Db, kind: &Kind, goes_on: &dyn Fn() -> bool) {
        let session = db.connect();
        while goes_on() {
            let Step { change, taken_back } = self.step(Writer::FIRST);
            let end = if taken_back { "ROLLBACK" } else { "COMMIT" };
            let text = format!("BEGIN; {}; {end}", (kind.change)(&change));
            if let Err(e) = session.try_sql(&text) {
                // The tables are swapped back; anything else is wrong.
                assert!(e.message.contains("does not exist"), "{e} in {text}");
                return;
            }
            if !taken_back {
                self.book(change);
            }
        }
    }
}

/// Both applications write while the window is open, behind a kill, and while it is rolled back, by runs that die at these
/// points and then by one that does not.
fn goes_back(seed: u64, kind: &Kind, killed: bool, dies: &[&str]) {
    let db = Db::new();
    db.sql(TABLE);
    db.sql(kind.setup);
    db.sql("INSERT INTO t (id, body, d, tags) SELECT -i, 'body ' || i, i % 5, CASE i % 3 WHEN 0 THEN NULL WHEN 1 THEN '{}' ELSE ARRAY['a', NULL, i::text] END FROM generate_series(1, 3000) i");
    let untouched = "SELECT md5(string_agg(t::text, ';' ORDER BY id)) FROM t WHERE id < 0";
    let (before, rows) = (dump(&db), db.query_one_text(untouched));
    let load = Load::start(&db, &Shape::plain(), &Options::paced(seed));
    let writer = Writer::fill(&db);
    let mut running = split(&db, &[kind.split], WINDOW);
    running.wait_for_window();
    let id = only_migration(&db);
    beside(
        1,
        |_, goes_on| writer.run_new(&db, kind, goes_on),
        || {
            writer.wait_for_more(150);
            let compared = command(&db, &["verify", &id]).wait().done();
            assert_eq!(compared["verify"]["differences"], 0, "{compared}");
            assert!(compared["verify"]["rows_compared"].as_u64() > Some(3_000), "{compared}");
            if killed {
                running.kill();
                writer.wait_for_more(50);
                running = command(&db, &["resume"]);
                running.wait_for_window();
                writer.wait_for_more(50);
            }
            for point in dies {
                let died = spawn_with(db.dsn(), &["rollback", &id], &[("PGRECAST_FAULT", point)]).wait();
                assert_ne!(died.code, Some(0), "{point}");
            }
            let report = command(&db, &["rollback", &id]).wait().done();
            assert_eq!(report["outcome"], "done", "{report}");
            running.wait().done();
            load.wait_for_more(200, SOON);
        },
    );
    assert_eq!(phase_of(&db), "rolled back");
    load.stop().assert_kept(&db, &format!("{} WHERE id < {} AND id > 0", Shape::plain().select_all(), Writer::FIRST));
    writer.assert_kept(&db, &format!("SELECT id, d, body, tags FROM t WHERE id >= {}", Writer::FIRST));
    assert_eq!(db.query_one_text(untouched), rows);
    for table in kind.tables {
        let there = |name: &str| db.query_one_text(&format!("SELECT to_regclass('{name}') IS NOT NULL"));
        assert_eq!((there(table), there(&format!("{table}_new"))), ("f".to_owned(), "t".to_owned()), "{table}");
    }
    finish(&db);
    assert_eq!(dump(&db), before);
}

pub(super) const COLUMNS: Kind = Kind {
    split: &[
        "--into",
        "details(key = id, body, tags, size = length(body) * 2, at = clock_timestamp())",
        "--into",
        "more(body = upper(body)) WHERE d > 2",
        "--drop",
        "body,tags",
        "--foreign-key=cascade",
    ],
    setup: "GRANT SELECT ON t TO PUBLIC; GRANT UPDATE (body, v) ON t TO PUBLIC; COMMENT ON COLUMN t.body IS 'long'",
    change: |change| match change {
        Change::Insert(id, (d, body, tags)) => format!(
            "INSERT INTO t (id, d) VALUES ({id}, {d}); INSERT INTO details (key, body, tags) VALUES ({id}, '{body}', '{tags}')"
        ),
        Change::Update(id, (d, body, tags)) => format!(
            "UPDATE t SET d = {d} WHERE id = {id}; UPDATE details SET body = '{body}', tags = '{tags}' WHERE key = {id}"
        ),
        Change::Delete(id) => format!("DELETE FROM t WHERE id = {id}"),
        Change::Rekey(id, other) => format!("UPDATE t SET id = {other} WHERE id = {id}"),
    },
    tables: &["details", "more"],
};

#[test]
fn columns_come_back_as_they_were_written_last() {
    goes_back(191, &COLUMNS, true, &[]);
}

/// The table where a row of the other application belongs.
fn place(d: &str) -> &'static str {
    match d {
        "1" => "one",
        "2" | "3" => "app.two",
        _ => "t",
    }
}

pub(super) const ROWS: Kind = Kind {
    split: &["--into", "one WHERE d = 1", "--into", "app.two WHERE d IN (2, 3)"],
    setup: "CREATE SCHEMA app; ALTER TABLE t ADD twin int GENERATED ALWAYS AS (d * 2) STORED, ADD seq serial",
    change: |change| {
        // What is not in a table is not touched there.
        let all = |statement: &dyn Fn(&str) -> String| ["t", "one", "app.two"].map(statement).join("; ");
        let insert = |id: &str, (d, body, tags): &Row| {
            format!("INSERT INTO {} (id, d, body, tags) VALUES ({id}, {d}, '{body}', '{tags}')", place(d))
        };
        match change {
            Change::Insert(id, row) => insert(id, row),
            Change::Update(id, row) => {
                let (d, body, tags) = row;
                let moved = all(&|table| match table == place(d) {
                    true => format!("UPDATE {table} SET d = {d}, body = '{body}', tags = '{tags}' WHERE id = {id}"),
                    false => format!("DELETE FROM {table} WHERE id = {id}"),
                });
                let came = insert(id, row).replace(" VALUES (", " SELECT ").trim_end_matches(')').to_owned();
                format!("{moved}; {came} WHERE NOT EXISTS (SELECT FROM {} WHERE id = {id})", place(d))
            }
            Change::Delete(id) => all(&|table| format!("DELETE FROM {table} WHERE id = {id}")),
            Change::Rekey(id, other) => all(&|table| format!("UPDATE {table} SET id = {other} WHERE id = {id}")),
        }
    },
    tables: &["one", "app.two"],
};

#[test]
fn rows_come_back_from_wherever_they_are() {
    goes_back(192, &ROWS, false, &["after swap", "after commit cut-over"]);
}

/// The number of a value, which is made where it is new.
pub(super) const VALUES: Kind = Kind {
    split: &["--lookup", "body_id = bodies(body)"],
    setup: "ALTER TABLE t ALTER body DROP NOT NULL, ALTER body DROP DEFAULT",
    change: |change| {
        let number = |body: &str| format!("(SELECT id FROM bodies WHERE body = '{body}')");
        let made = |body: &str| format!("INSERT INTO bodies (body) VALUES ('{body}') ON CONFLICT DO NOTHING");
        match change {
            Change::Insert(id, (d, body, tags)) => format!(
                "{}; INSERT INTO t (id, d, body_id, tags) VALUES ({id}, {d}, {}, '{tags}')",
                made(body),
                number(body)
            ),
            Change::Update(id, (d, body, tags)) => format!(
                "{}; UPDATE t SET d = {d}, body_id = {}, tags = '{tags}' WHERE id = {id}",
                made(body),
                number(body)
            ),
            Change::Delete(id) => format!("DELETE FROM t WHERE id = {id}"),
            Change::Rekey(id, other) => format!("UPDATE t SET id = {other} WHERE id = {id}"),
        }
    },
    tables: &["bodies"],
};

#[test]
fn values_come_back_to_the_rows_that_refer_to_them() {
    goes_back(193, &VALUES, false, &[]);
}

pub(super) const ELEMENTS: Kind = Kind {
    split: &[
        "--into",
        "tag(tag = unnest(tags), at = generate_subscripts(tags, 1))",
        "--drop",
        "tags",
        "--foreign-key=cascade",
    ],
    setup: "",
    change: |change| {
        let elements = |id: &str, tags: &str| {
            format!(
                "INSERT INTO tag (id, tag, at) SELECT {id}, e, n FROM unnest('{tags}'::text[]) WITH ORDINALITY AS x(e, n)"
            )
        };
        match change {
            Change::Insert(id, (d, body, tags)) => {
                format!("INSERT INTO t (id, d, body) VALUES ({id}, {d}, '{body}'); {}", elements(id, tags))
            }
            Change::Update(id, (d, body, tags)) => format!(
                "UPDATE t SET d = {d}, body = '{body}' WHERE id = {id}; DELETE FROM tag WHERE id = {id}; {}",
                elements(id, tags)
            ),
            Change::Delete(id) => format!("DELETE FROM t WHERE id = {id}"),
            Change::Rekey(id, other) => format!("UPDATE t SET id = {other} WHERE id = {id}"),
        }
    },
    tables: &["tag"],
};

#[test]
fn elements_come_back_in_their_order() {
    goes_back(194, &ELEMENTS, false, &[]);
}

/// Waits until a warning says all of this.
fn warned(running: &Running, words: &[&str]) {
    running.wait_for_event(words[0], SOON, |e| {
        e["event"] == "warning" && e["text"].as_str().is_some_and(|text| words.iter().all(|word| text.contains(word)))
    });
}

#[test]
fn a_row_without_an_old_one_is_named_at_once_and_by_the_rollback() {
    let db = Db::new();
    db.sql("CREATE TABLE t (id int PRIMARY KEY, d int, must text NOT NULL); INSERT INTO t SELECT i, i, 'm' || i FROM generate_series(1, 9) i");
    let before = dump(&db);
    let running = split(&db, &[&["--into", "n(must)", "--drop", "must"]], WINDOW);
    running.wait_for_window();
    let id = only_migration(&db);
    db.sql("INSERT INTO n VALUES (500, 'alone'); INSERT INTO t VALUES (600, 1); DELETE FROM n WHERE id = 7; UPDATE n SET must = 'later' WHERE id = 3");
    warned(&running, &["\"id\" = 500", "public.n has it, and public.t has not"]);
    warned(&running, &["\"id\" = 600", "must"]);
    warned(&running, &["\"id\" = 7", "must"]);
    let refused = command(&db, &["rollback", &id]).wait();
    refused.ended(1);
    for words in ["3 rows do not fit", "\"id\" = 500", "\"id\" = 600", "\"id\" = 7"] {
        assert!(refused.stderr.contains(words), "no {words:?} in {}", refused.stderr);
    }
    running.wait().done();
    assert_eq!(phase_of(&db), "keep in step");
    let asked = command(&db, &["verify", &id]).wait();
    asked.ended(0);
    assert!(asked.stdout.contains("no rollback is possible with them: id = 500; id = 600; id = 7"), "{}", asked.stdout);
    db.sql("INSERT INTO t VALUES (500, 5); INSERT INTO n VALUES (600, 'too'); DELETE FROM t WHERE id = 7; CREATE VIEW w AS SELECT must FROM n");
    let refused = command(&db, &["rollback", &id]).wait();
    refused.ended(3);
    assert!(refused.stderr.contains("view public.w uses table public.n"), "{}", refused.stderr);
    db.sql("DROP VIEW w");
    command(&db, &["rollback", &id]).wait().done();
    assert_eq!(
        db.query_one_text(
            "SELECT string_agg(concat_ws(' ', id, d, must), ', ' ORDER BY id) FROM t WHERE id IN (3, 7, 8) OR id > 9"
        ),
        "3 3 later, 8 8 m8, 500 5 alone, 600 1 too"
    );
    finish(&db);
    assert_eq!(dump(&db), before);
}

#[test]
fn a_row_that_is_in_two_tables_is_named() {
    let db = Db::new();
    db.sql("CREATE TABLE t (id int PRIMARY KEY, d int UNIQUE, own int GENERATED ALWAYS AS IDENTITY); INSERT INTO t SELECT i, i FROM generate_series(1, 9) i");
    let running = split(&db, &[&["--into", "few WHERE d < 4"]], WINDOW);
    running.wait_for_window();
    db.sql("INSERT INTO few VALUES (8, 80)");
    warned(&running, &["\"id\" = 8", "it is in public.t and public.few"]);
    // Unique values go round, each from another table.
    db.sql("DELETE FROM few WHERE id = 8; BEGIN; UPDATE few SET d = 100 WHERE id = 1; UPDATE t SET d = 1 WHERE id = 9; UPDATE few SET d = 9 WHERE id = 1; COMMIT");
    let seen = "SELECT string_agg(id || ' ' || d, ', ' ORDER BY id) FROM t_old WHERE id IN (1, 8, 9)";
    wait_until(&db, "rows put right", seen, "1 9, 8 8, 9 1");
    db.sql("INSERT INTO few VALUES (11, 110); TRUNCATE few; INSERT INTO few VALUES (2, 20)");
    wait_until(&db, "rows that are left", "SELECT string_agg(id::text, ' ' ORDER BY id) FROM t_old", "2 4 5 6 7 8 9");
    command(&db, &["rollback", &only_migration(&db)]).wait().done();
    running.wait().done();
    assert_eq!(
        db.query_one_text("SELECT string_agg(id || ' ' || d, ', ' ORDER BY id) FROM t"),
        "2 20, 4 4, 5 5, 6 6, 7 7, 8 8, 9 1"
    );
    // Whichever table has given a number, it is given once.
    assert_eq!(
        db.query_one_text("SELECT nextval(pg_get_serial_sequence('t', 'own')) > max(own) AND max(own) > 9 FROM t"),
        "t"
    );
    finish(&db);
}

#[test]
fn a_value_that_changes_changes_all_rows_that_refer_to_it() {
    let db = Db::new();
    db.sql("CREATE TABLE t (id int PRIMARY KEY, kind text, v text, o text); INSERT INTO t SELECT i, 'kind ' || i % 3, 'v' || i, 'o' FROM generate_series(1, 3000) i");
    let running =
        split(&db, &[&["--lookup", "kind_id = kinds(name = kind)", "--into", "n(v, o)", "--drop", "v,o"]], WINDOW);
    running.wait_for_window();
    let id = only_migration(&db);
    db.sql("UPDATE kinds SET name = 'other' WHERE name = 'kind 1'; UPDATE t SET kind_id = NULL WHERE id = 1; INSERT INTO kinds (name) VALUES ('new')");
    let others = "SELECT count(*) FROM t_old WHERE kind = 'other'";
    wait_until(&db, "the old rows", others, "999");
    running.kill();
    db.sql("BEGIN; UPDATE kinds SET name = 'third' WHERE name = 'other'; UPDATE kinds SET name = 'none' WHERE name = 'kind 0'; COMMIT; UPDATE n SET o = 'p' WHERE id = 2");
    let again = command(&db, &["resume", &id]);
    again.wait_for_window();
    wait_until(
        &db,
        "the old rows",
        "SELECT string_agg(DISTINCT kind, ', ' ORDER BY kind) FROM t_old",
        "kind 2, none, third",
    );
    db.sql("TRUNCATE n; INSERT INTO n VALUES (5, 'five', 'o')");
    command(&db, &["rollback", &id]).wait().done();
    again.wait().done();
    assert_eq!(
        db.query_one_text("SELECT string_agg(concat_ws(' ', kind, n, vs), ', ' ORDER BY kind) FROM (SELECT kind, count(*) AS n, string_agg(v || o, ' ') AS vs FROM t GROUP BY kind) x"),
        "kind 2 1000 fiveo, none 1000, third 999, 1"
    );
    finish(&db);
}

#[test]
fn what_an_expression_made_comes_back_by_another() {
    let db = Db::new();
    db.sql("CREATE TABLE t (id int PRIMARY KEY, cents int NOT NULL, kind text); INSERT INTO t SELECT i, i * 100 + 5, 'k' || i % 2 FROM generate_series(1, 50) i");
    let running = split(
        &db,
        &[&["--into", "prices(price = cents / 100.0)", "--lookup", "kind_id = kinds(name = kind)", "--drop", "cents"]],
        &[WINDOW, &["--reverse", "cents = round(prices.price * 100) + (kinds.id * 0)"]].concat(),
    );
    running.wait_for_window();
    db.sql("UPDATE prices SET price = price + 1 WHERE id = 1; INSERT INTO t SELECT 1000, id FROM kinds WHERE name = 'k1'; INSERT INTO prices VALUES (1000, 12.34)");
    command(&db, &["rollback", &only_migration(&db)]).wait().done();
    running.wait().done();
    let seen = "SELECT string_agg(concat_ws(' ', id, cents, kind), ', ' ORDER BY id) FROM t WHERE id IN (1, 2, 1000)";
    assert_eq!(db.query_one_text(seen), "1 205 k1, 2 205 k0, 1000 1234 k1");
    finish(&db);
}

#[test]
fn the_window_ends_and_the_new_tables_are_as_without_it() {
    let db = Db::new();
    db.sql(TABLE);
    db.sql("INSERT INTO t (id, d, tags) SELECT i, i, ARRAY['a', i::text] FROM generate_series(1, 50) i");
    let running = split(&db, &[ELEMENTS.split], WINDOW);
    running.wait_for_window();
    // It has no key, and is published all the same.
    db.sql(
        "UPDATE tag SET tag = 'b' WHERE id = 3; DELETE FROM tag WHERE id = 4 AND at = 1; DELETE FROM tag WHERE id = 5",
    );
    let seen = "SELECT string_agg(tags::text, ' ' ORDER BY id) FROM t_old WHERE id IN (3, 4, 5)";
    wait_until(&db, "the old rows", seen, "{b,b} {4} {}");
    running.kill();
    let identity = "SELECT relreplident FROM pg_class WHERE oid = 'tag'::regclass";
    assert_eq!(db.query_one_text(identity), "f");
    command(&db, &["resume", "--rollback-window", "1s"]).wait().done();
    assert_eq!(db.query_one_text(identity), "d");
    db.sql("UPDATE tag SET tag = 'c' WHERE id = 3; DELETE FROM tag WHERE id = 4");
    finish(&db);
    assert_eq!(db.query_one_text("SELECT count(*) FROM tag WHERE tag = 'c'"), "2");
}
