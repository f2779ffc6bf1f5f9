//! The same table twice: one takes the blocking `ALTER TABLE`, the other the program, and both must be the same table
//! afterwards.

use super::{Postponed, only_migration};
use crate::harness::{Db, assert_nothing_left, dump, pgrecast};

/// A table, a change of its shape, and what happens to its rows meanwhile.
pub struct Twins<'a> {
    /// Statements that make the table.
    pub setup: &'a str,
    /// The table as a person names it to the program.
    pub table: &'a str,
    /// The clauses for the program.
    pub clauses: &'a str,
    /// The statements of the old way.
    pub old_way: &'a [&'a str],
    /// Statements of the application, run while the program stays in step, each by itself.
    pub meanwhile: &'a [&'a str],
    /// What is compared of the rows afterwards; statements may write too. Not to be empty.
    pub compare: &'a [&'a str],
    /// Further options of the program.
    pub options: &'a [&'a str],
}

impl Twins<'_> {
    /// Changes both, compares schema and rows, and looks that nothing is left. Gives both databases for more.
    pub fn check(&self) -> (Db, Db) {
        let (old, new) = self.change();
        let (expected, got) = (dump(&old), dump(&new));
        assert!(expected == got, "the schemas differ:\n{}", difference(&expected, &got));
        (old, new)
    }

    /// The same without the comparison of the schemas.
    pub fn change(&self) -> (Db, Db) {
        let (old, new) = (Db::new(), Db::new());
        for db in [&old, &new] {
            db.sql(self.setup);
        }
        // A session made after the set-up has the settings that it gave to role or database.
        let application = old.connect();
        self.meanwhile.iter().chain(self.old_way).for_each(|statement| application.sql(statement));
        self.migrate(&new);
        assert!(!self.compare.is_empty());
        for query in self.compare {
            let (expected, got) = (application.rows(query), new.rows(query));
            assert!(!expected.is_empty(), "{query} shows nothing");
            let unlike: Vec<_> = expected.iter().zip(&got).filter(|(e, g)| e != g).take(5).collect();
            assert!(
                expected.len() == got.len() && unlike.is_empty(),
                "{query}: {} rows the old way, {} now, unlike are {unlike:#?}",
                expected.len(),
                got.len()
            );
        }
        (old, new)
    }

    fn migrate(&self, db: &Db) {
        let before = db.query_one_text("SELECT count(*) FROM pg_class");
        let output = if self.meanwhile.is_empty() {
            pgrecast(db, &[&["alter", self.table, self.clauses][..], self.options].concat())
        } else {
            let run = Postponed::start(db, self.table, self.clauses, self.options);
            let application = db.connect();
            self.meanwhile.iter().for_each(|statement| application.sql(statement));
            run.release(db)
        };
        assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
        assert_ne!(
            db.query_one_text("SELECT count(*) FROM pg_class"),
            before,
            "the old table and the control schema stay"
        );
        let finished = pgrecast(db, &["finish", &only_migration(db)]);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        assert_nothing_left(db);
    }
}

/// Lines that only one of the two has.
pub fn difference(expected: &str, got: &str) -> String {
    let only = |one: &str, other: &str, mark: char| -> String {
        let there: Vec<&str> = other.lines().collect();
        one.lines()
            .filter(|line| !there.contains(line))
            .flat_map(|line| [format!("{mark} {line}"), "\n".into()])
            .collect()
    };
    let lines = only(expected, got, '-') + &only(got, expected, '+');
    if lines.is_empty() { "the same lines in another order".into() } else { lines }
}
