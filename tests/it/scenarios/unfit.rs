//! A row that the new shape cannot hold ends the run before the cut-over, and is named.

use super::{Postponed, each, only_migration};
use crate::harness::{Db, Output, assert_nothing_left, dump, pgrecast};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text, w int);
    INSERT INTO t SELECT n, n::text, n FROM generate_series(1, 300) AS n";

struct Unfit {
    clauses: &'static str,
    /// Makes the row.
    spoil: &'static str,
    /// Key, value and expression or constraint, as far as each applies.
    words: &'static [&'static str],
}

const CASES: &[Unfit] = &[
    Unfit {
        clauses: "ALTER v TYPE int USING v::int",
        spoil: "UPDATE t SET v = 'abc' WHERE id = 217",
        words: &["\"id\" = 217", "'abc'", "(v)::integer", "invalid input syntax for type integer"],
    },
    Unfit {
        clauses: "ADD COLUMN x int, ALTER v TYPE varchar(3)",
        spoil: "UPDATE t SET v = 'wide' WHERE id = 217",
        words: &["\"id\" = 217", "value too long for type character varying(3)"],
    },
    Unfit {
        clauses: "ALTER w TYPE smallint, ALTER v TYPE varchar",
        spoil: "UPDATE t SET w = 70000 WHERE id = 217",
        words: &["\"id\" = 217", "'70000'", "smallint out of range"],
    },
    Unfit {
        clauses: "ALTER v SET NOT NULL",
        spoil: "UPDATE t SET v = NULL WHERE id = 217",
        words: &["\"id\" = 217", "null value in column \"v\""],
    },
    Unfit {
        clauses: "ADD CONSTRAINT small CHECK (w < 1000)",
        spoil: "UPDATE t SET w = 1000 WHERE id = 217",
        words: &["\"id\" = 217", "\"small\""],
    },
    Unfit {
        clauses: "ADD CONSTRAINT once UNIQUE (v)",
        spoil: "UPDATE t SET v = '18' WHERE id = 217",
        words: &["217", "18", "once"],
    },
    Unfit { clauses: "ALTER id TYPE int USING id / 2", spoil: "UPDATE t SET w = w WHERE id = 217", words: &["t_pkey"] },
];

/// The run failed, said why, and the table is as it was: shape, rows, and open to writes; nothing stays after abort.
fn assert_untouched(db: &Db, output: &Output, case: &Unfit, schema: &str, rows: &[Vec<Option<String>>]) {
    assert_eq!(output.code, Some(1), "{}{}", output.stdout, output.stderr);
    for word in case.words {
        assert!(output.stderr.contains(word), "{word:?} is not in\n{}", output.stderr);
    }
    assert!(output.stderr.contains("pgrecast abort"), "{}", output.stderr);
    assert_eq!(db.rows(ROWS), rows);
    db.sql("UPDATE t SET v = v WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (2, '2', 2)");
    let aborted = pgrecast(db, &["abort", &only_migration(db)]);
    assert_eq!(aborted.code, Some(0), "{}", aborted.stderr);
    assert_nothing_left(db);
    assert!(dump(db) == schema, "the schema changed");
    assert_eq!(db.rows(ROWS), rows);
}

const ROWS: &str = "SELECT t::text FROM t ORDER BY id";

#[test]
fn a_row_that_the_copy_meets() {
    each(
        CASES,
        |case| case.clauses.to_owned(),
        |case| {
            let db = Db::new();
            db.sql(TABLE);
            db.sql(case.spoil);
            let (schema, rows) = (dump(&db), db.rows(ROWS));
            let output = pgrecast(&db, &["alter", "t", case.clauses]);
            assert_untouched(&db, &output, case, &schema, &rows);
        },
    );
}

#[test]
fn a_row_that_is_changed_later() {
    // The last one fails whatever is changed.
    each(
        &CASES[..CASES.len() - 1],
        |case| case.clauses.to_owned(),
        |case| {
            let db = Db::new();
            db.sql(TABLE);
            let schema = dump(&db);
            let run = Postponed::start(&db, "t", case.clauses, &[]);
            db.sql(case.spoil);
            let rows = db.rows(ROWS);
            assert_untouched(&db, &run.running.wait(), case, &schema, &rows);
        },
    );
}
