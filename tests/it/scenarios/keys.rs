//! Whatever tells a table's rows apart, every change made while the program works arrives.

use super::twins::Twins;
use super::{Postponed, each};
use crate::harness::{Db, pgrecast};

/// A key, and sixteen values of it.
struct Key {
    name: &'static str,
    /// The key columns with their types.
    columns: &'static str,
    /// Their names.
    names: &'static str,
    /// What makes them a key.
    constraint: &'static str,
    /// The n-th value, one expression a column.
    value: fn(usize) -> String,
    /// Further statements of the set-up.
    more: &'static str,
    clauses: &'static str,
    since: u32,
}

impl Key {
    const fn of(name: &'static str, columns: &'static str, value: fn(usize) -> String) -> Key {
        Key { name, columns, names: "k", constraint: "PRIMARY KEY (k)", value, more: "", clauses: PLAIN, since: 14 }
    }
}

const PLAIN: &str = "ALTER v TYPE varchar(100), ADD COLUMN x int DEFAULT 3, ALTER u TYPE bigint";

fn number(n: usize) -> String {
    (n * 7).to_string()
}

fn uuid(n: usize) -> String {
    format!("'00000000-0000-4000-8000-{:012x}'::uuid", n * 7919)
}

fn text(n: usize) -> String {
    let odd = ["", " ", "a", "A", "ä", "a b", "O''Brien", r"back\slash", "\u{2602}", "NULL", "{x,\"y\"}", "z\n"];
    format!("'{}'", odd.get(n).map_or_else(|| format!("key {n}"), |odd| (*odd).to_owned()))
}

fn pair(n: usize) -> String {
    format!("{}, 'p{}'", n / 4, n % 4)
}

impl Key {
    fn setup(&self) -> String {
        let rows: Vec<String> = (0..12)
            .map(|n| {
                format!("({}, {n}, 'v{n}', {}, {})", (self.value)(n), n + 1000, if n < 3 { LARGE } else { "NULL" })
            })
            .collect();
        format!(
            "CREATE TYPE mood AS ENUM ({}); CREATE DOMAIN word AS text CHECK (value <> '');
            CREATE TABLE t ({}, n int NOT NULL, v text, u int UNIQUE, big text, d text DEFAULT 'default', {});
            ALTER TABLE t ALTER big SET STORAGE EXTERNAL; {};
            INSERT INTO t ({}, n, v, u, big) VALUES {};",
            (0..16).map(|n| format!("'m{n}'")).collect::<Vec<_>>().join(", "),
            self.columns,
            self.constraint,
            self.more,
            self.names,
            rows.join(", ")
        )
    }

    fn meanwhile(&self) -> Vec<String> {
        let is = |n: usize| format!("({}) = ({})", self.names, (self.value)(n));
        let becomes = |n: usize| format!("({}) = ROW({})", self.names, (self.value)(n));
        let insert = |n: usize, columns: &str, values: &str| {
            format!("INSERT INTO t ({}, {columns}) VALUES ({}, {values})", self.names, (self.value)(n))
        };
        vec![
            insert(12, "n, v", "12, 'new'"),
            insert(13, "n, d", "13, NULL"),
            format!("UPDATE t SET v = NULL, u = NULL WHERE {}", is(3)),
            format!("DELETE FROM t WHERE {}", is(4)),
            // A large value that stays where it is while the key changes.
            format!("UPDATE t SET {} WHERE {}", becomes(14), is(0)),
            format!("UPDATE t SET {}, v = 'moved' WHERE {}", becomes(15), is(5)),
            format!(
                "BEGIN; UPDATE t SET u = -1 WHERE {0}; UPDATE t SET u = 1006 WHERE {1}; UPDATE t SET u = 1007 WHERE {0}; COMMIT",
                is(6),
                is(7)
            ),
            format!(
                "BEGIN; UPDATE t SET v = 'before' WHERE {0}; SAVEPOINT s; DELETE FROM t; ROLLBACK TO s; \
                 UPDATE t SET v = v || ' and after' WHERE {0}; COMMIT",
                is(8)
            ),
            format!("BEGIN; DELETE FROM t WHERE {}; {}; COMMIT", is(9), insert(9, "n, v", "9, 'again'")),
            format!("UPDATE t SET v = 'changed' WHERE {}", is(1)),
            format!("BEGIN; DELETE FROM t WHERE {}; ROLLBACK", is(2)),
            // Two keys that are swapped, by way of a third.
            format!(
                "BEGIN; UPDATE t SET {2} WHERE {0}; UPDATE t SET {3} WHERE {1}; UPDATE t SET {4} WHERE {5}; COMMIT",
                is(10),
                is(11),
                becomes(4),
                becomes(10),
                becomes(11),
                is(4)
            ),
        ]
    }

    fn check(&self) {
        let (setup, meanwhile) = (self.setup(), self.meanwhile());
        let meanwhile: Vec<&str> = meanwhile.iter().map(String::as_str).collect();
        let old_way = format!("ALTER TABLE t {}", self.clauses);
        let twins = Twins {
            setup: &setup,
            table: "t",
            clauses: self.clauses,
            old_way: &[&old_way],
            meanwhile: &meanwhile,
            compare: &["SELECT t::text FROM t ORDER BY n"],
            options: &[],
        };
        twins.check();
    }
}

/// More than a page holds, so that it is stored apart.
const LARGE: &str = "repeat('large value ', 3000)";

fn check(keys: &[Key]) {
    let here = Db::new().major();
    each(keys.iter().filter(|key| key.since <= here), |key| key.name.to_owned(), |key| key.check());
}

#[test]
fn keys_of_numbers_and_bytes() {
    check(&[
        Key::of("integer", "k integer", number),
        Key::of("bigint", "k bigint", number),
        Key::of("smallint", "k smallint", number),
        Key::of("uuid", "k uuid", uuid),
        Key::of("numeric, of several scales", "k numeric", |n| {
            format!(
                "{}::numeric",
                ["1.0", "2.00", "3", "4.50", "-1", "0", "0.001", "1e30"]
                    .get(n)
                    .map_or_else(|| format!("{n}.5{}", "0".repeat(n % 3)), |s| (*s).to_owned())
            )
        }),
        Key::of("bytea", "k bytea", |n| format!("'\\x{:02x}00ff'::bytea", n)),
    ]);
}

#[test]
fn keys_of_texts() {
    check(&[
        Key::of("text", "k text", text),
        Key::of("text in C", "k text COLLATE \"C\"", text),
        Key::of("varchar(20)", "k varchar(20)", text),
        Key::of("char(8)", "k char(8)", |n| format!("'c{n}'")),
        Key::of("enum", "k mood", |n| format!("'m{n}'::mood")),
        Key::of("domain", "k word", |n| format!("'w{n}'")),
    ]);
}

#[test]
fn keys_of_times() {
    check(&[
        Key::of("timestamptz", "k timestamptz", |n| {
            format!("'2024-10-27 00:00:00.000001+00'::timestamptz + interval '{} min'", n * 30)
        }),
        Key::of("timestamp with infinity", "k timestamp", |n| {
            if n == 0 {
                "'-infinity'::timestamp".into()
            } else {
                format!("'2024-01-01 00:00:00'::timestamp + interval '{n} s'")
            }
        }),
        Key::of("date", "k date", |n| format!("'2024-02-28'::date + {n}")),
    ]);
}

#[test]
fn keys_of_several_columns() {
    check(&[
        Key { names: "a, b", constraint: "PRIMARY KEY (a, b)", ..Key::of("two columns", "a int, b text", pair) },
        Key {
            names: "a, b",
            constraint: "PRIMARY KEY (b, a)",
            ..Key::of("two columns in another order", "a int, b text", pair)
        },
        Key {
            names: "a, b",
            constraint: "PRIMARY KEY (b, a)",
            clauses: "ALTER a TYPE bigint, ALTER b TYPE varchar(9), DROP u",
            ..Key::of("two columns that change type", "a int, b text", pair)
        },
    ]);
}

#[test]
fn keys_that_are_no_primary_key() {
    check(&[
        Key { constraint: "UNIQUE (k)", ..Key::of("a unique constraint", "k int NOT NULL", number) },
        Key {
            constraint: "CHECK (n >= 0)",
            more: "CREATE UNIQUE INDEX \"Key\" ON t (k)",
            ..Key::of("a unique index", "k int NOT NULL", number)
        },
        Key {
            constraint: "PRIMARY KEY (k) DEFERRABLE INITIALLY DEFERRED",
            ..Key::of("a deferrable primary key", "k int", number)
        },
        Key {
            constraint: "PRIMARY KEY (k) DEFERRABLE",
            more: "CREATE UNIQUE INDEX second ON t (k)",
            ..Key::of("a deferrable primary key and an index", "k int", number)
        },
        Key {
            constraint: "PRIMARY KEY (k)",
            more: "CREATE UNIQUE INDEX second ON t (n)",
            clauses: "DROP COLUMN k, ALTER v TYPE varchar",
            ..Key::of("a primary key that is dropped beside another key", "k int", number)
        },
        Key {
            constraint: "CONSTRAINT t_key PRIMARY KEY (k)",
            clauses: "DROP CONSTRAINT t_key, ADD CONSTRAINT t_key PRIMARY KEY (n)",
            ..Key::of("another primary key", "k int", number)
        },
    ]);
}

#[test]
fn replica_identities_stay_as_they_were() {
    check(&[
        Key { more: "ALTER TABLE t REPLICA IDENTITY FULL", ..Key::of("full", "k int", number) },
        Key { more: "ALTER TABLE t REPLICA IDENTITY NOTHING", ..Key::of("nothing", "k int", number) },
        Key {
            more: "CREATE UNIQUE INDEX by_n ON t (n); ALTER TABLE t REPLICA IDENTITY USING INDEX by_n",
            ..Key::of("an index", "k int", number)
        },
        Key {
            more: "CREATE UNIQUE INDEX by_n ON t (n); ALTER TABLE t REPLICA IDENTITY USING INDEX by_n",
            clauses: "ALTER n TYPE bigint, ALTER k TYPE bigint",
            ..Key::of("an index over a column that changes type", "k int", number)
        },
        Key {
            constraint: "UNIQUE (k)",
            more: "ALTER TABLE t REPLICA IDENTITY FULL",
            ..Key::of("full, without a primary key", "k int NOT NULL", number)
        },
        Key {
            constraint: "PRIMARY KEY (k) DEFERRABLE",
            more: "ALTER TABLE t REPLICA IDENTITY NOTHING",
            ..Key::of("nothing, with a deferrable key", "k int", number)
        },
    ]);
}

#[test]
fn keys_that_change_type() {
    check(&[
        Key { clauses: "ALTER k TYPE bigint", ..Key::of("int to bigint", "k int", number) },
        Key { clauses: "ALTER k TYPE numeric USING k / 10.0", ..Key::of("int to numeric", "k int", number) },
        Key { clauses: "ALTER k TYPE text", ..Key::of("uuid to text", "k uuid", uuid) },
        Key {
            clauses: "ALTER k TYPE uuid USING k::uuid",
            ..Key::of("text to uuid", "k text", |n| uuid(n).replace("::uuid", ""))
        },
        Key { clauses: "ALTER k TYPE int USING k::int", ..Key::of("text to int", "k text", |n| format!("'{n}'")) },
        Key { clauses: "ALTER k TYPE text COLLATE \"C\"", ..Key::of("a collation", "k text", text) },
    ]);
}

/// Equal keys of several spellings, which the new type or collation may tell apart. (A server without ICU has no such
/// collation; numeric shows the same.)
#[test]
fn keys_that_are_spelled_anew() {
    let icu = Db::new().query_one_text("SELECT count(*) > 0 FROM pg_collation WHERE collprovider = 'i'") == "t";
    let loose = match icu {
        true => "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
        false => "CREATE COLLATION loose FROM \"C\"",
    };
    let letters: fn(usize) -> String = |n| format!("'Key {}'", char::from(b'a' + u8::try_from(n).expect("a letter")));
    let decimals: fn(usize) -> String = |n| format!("{n}.04::numeric");
    let text = Key::of("a collation that ignores case", "k text COLLATE loose", letters);
    let number = Key::of("numeric", "k numeric", decimals);
    let louder =
        ["UPDATE t SET k = upper(k), v = 'louder' WHERE n IN (1, 2)", "UPDATE t SET v = 'found' WHERE k = 'KEY B'"];
    let longer =
        ["UPDATE t SET k = k + 0.0000, v = 'longer' WHERE n IN (1, 2)", "UPDATE t SET v = 'found' WHERE k = 1.04"];
    each(
        [
            (&text, louder, PLAIN),
            (&text, louder, "ALTER k TYPE text COLLATE \"C\""),
            (&text, louder, "ALTER k TYPE text"),
            (&number, longer, PLAIN),
            (&number, longer, "ALTER k TYPE text USING k::text"),
            (&number, longer, "ALTER k TYPE numeric(10,1)"),
        ],
        |(key, _, clauses)| format!("{}: {clauses}", key.name),
        |(key, more, clauses)| {
            let (setup, meanwhile) = (format!("{loose}; {}", key.setup()), key.meanwhile());
            let meanwhile: Vec<&str> = meanwhile.iter().map(String::as_str).chain(*more).collect();
            let twins = Twins {
                setup: &setup,
                table: "t",
                clauses,
                old_way: &[&format!("ALTER TABLE t {clauses}")],
                meanwhile: &meanwhile,
                compare: &["SELECT t::text FROM t ORDER BY n"],
                options: &[],
            };
            twins.check();
        },
    );
}

#[test]
fn a_table_identified_by_whole_rows_has_generated_columns() {
    let db = Db::new();
    db.sql(
        "CREATE TABLE t (id int PRIMARY KEY, v int, twice int GENERATED ALWAYS AS (v * 2) STORED);
        ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t SELECT n, n FROM generate_series(1, 100) n",
    );
    let postponed = Postponed::start(&db, "t", "ALTER id TYPE bigint", &[]);
    // An UPDATE of a published table fails where its identity is not published whole.
    db.sql("UPDATE t SET v = -1 WHERE id = 7; DELETE FROM t WHERE id = 8");
    let output = postponed.release(&db);
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    assert_eq!(db.query_one_text("SELECT count(*) || ' ' || sum(twice) FROM t"), "99 10068");
    if db.major() >= 18 {
        db.sql("CREATE TABLE w (id int PRIMARY KEY, v int, twice int GENERATED ALWAYS AS (v * 2) VIRTUAL); ALTER TABLE w REPLICA IDENTITY FULL");
        let refused = pgrecast(&db, &["alter", "w", "ALTER id TYPE bigint"]);
        assert_eq!(refused.code, Some(3), "{}", refused.stderr);
        assert!(refused.stderr.contains("virtual column \"twice\""), "{}", refused.stderr);
        db.sql("INSERT INTO w VALUES (1, 1); UPDATE w SET v = 2");
    }
}
