//! Names of every kind: quoted, in mixed case, as long as a name can be, outside of ASCII, and names that are taken.

use super::twins::Twins;
use super::{Postponed, each, only_migration};
use crate::harness::{Db, assert_nothing_left, dump, pgrecast};

struct Names {
    schema: String,
    table: String,
    key: String,
    other: String,
    index: String,
    clauses: &'static str,
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// 63 bytes, the most a name can have.
fn long(filler: char) -> String {
    let width = filler.len_utf8();
    let name: String = std::iter::repeat_n(filler, 63 / width).collect();
    format!("{name}{}", "x".repeat(63 % width))
}

#[test]
fn names_of_every_kind() {
    let names = |schema: &str, table: &str, key: &str, other: &str, index: &str| Names {
        schema: schema.into(),
        table: table.into(),
        key: key.into(),
        other: other.into(),
        index: index.into(),
        clauses: "ALTER {key} TYPE bigint, ADD COLUMN {new} int DEFAULT 1",
    };
    each(
        [
            names("Sch ema", "Ta ble", "Key", "Oth.er", "In dex"),
            names("a\"b", "c\"\"d", "e\"f", "g'h", "i\"j'k"),
            names("schéma", "tablé ☂", "clé", "ключ", "インデックス"),
            names(&long('s'), &long('t'), &long('k'), &long('o'), &long('i')),
            names(&long('ä'), &long('ö'), &long('ü'), &long('é'), &long('î')),
            names("select", "user", "from", "order", "group"),
            names(r"back\slash", "new\nline", "tab\t", "$1", "%s {} %I"),
            names("s", "src", "shadow", "keys", "gone"),
            names("t", "changed", "changed", "excluded", "k1"),
            names("u", "now", "p0", "s0", "e"),
            names("w", "keys", "k1", "k2", "e"),
            names("y", "source", "src", "now", "e"),
            names("v", "x", "x", "v", "xs"),
        ],
        |names| format!("{}.{}", names.schema, names.table),
        |names| {
            let (table, key, other) = (quoted(&names.table), quoted(&names.key), quoted(&names.other));
            let qualified = format!("{}.{table}", quoted(&names.schema));
            let setup = format!(
                "CREATE SCHEMA {}; CREATE TABLE {qualified} ({key} int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                    {other} text CHECK ({other} <> ''), n serial, UNIQUE ({other}, {key}));
                CREATE INDEX {} ON {qualified} (lower({other})) WHERE {key} > 3;
                COMMENT ON COLUMN {qualified}.{other} IS 'other';
                INSERT INTO {qualified} ({other}) SELECT 'v' || n FROM generate_series(1, 40) AS n",
                quoted(&names.schema),
                quoted(&names.index)
            );
            let clauses = names.clauses.replace("{key}", &key).replace("{new}", "\"new ☂\"");
            let old_way = format!("ALTER TABLE {qualified} {clauses}");
            let meanwhile = [
                format!("UPDATE {qualified} SET {other} = NULL WHERE {key} = 3"),
                format!("DELETE FROM {qualified} WHERE {key} = 4"),
                format!("INSERT INTO {qualified} ({other}) VALUES ('new')"),
            ];
            let rows = format!("SELECT r::text FROM {qualified} AS r ORDER BY r.n");
            let next = format!("INSERT INTO {qualified} ({other}) VALUES ('next') RETURNING {key}");
            let twins = Twins {
                setup: &setup,
                table: &qualified,
                clauses: &clauses,
                old_way: &[&old_way],
                meanwhile: &meanwhile.each_ref().map(String::as_str),
                compare: &[&rows, &next],
                options: &[],
            };
            twins.check();
        },
    );
}

#[test]
fn the_old_table_takes_a_free_name() {
    let db = Db::new();
    let long = long('t');
    db.sql(&format!(
        "CREATE TABLE t (id int CONSTRAINT t_key PRIMARY KEY); CREATE TABLE t_old (); CREATE VIEW t_old1 AS SELECT 1;
        CREATE TABLE t_key_old (); CREATE TABLE {long} (id int PRIMARY KEY); CREATE TABLE {}_old ();",
        &long[..59]
    ));
    let before = dump(&db);
    for (table, old) in [("t", "t_old2".to_owned()), (long.as_str(), format!("{}_old1", &long[..58]))] {
        let output = pgrecast(&db, &["alter", table, ""]);
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        assert!(output.stdout.contains(&old), "{}", output.stdout);
        assert_eq!(db.query_one_text(&format!("SELECT to_regclass('{old}')")), old);
        assert_eq!(pgrecast(&db, &["finish", &only_migration(&db)]).code, Some(0));
        assert_nothing_left(&db);
    }
    assert_eq!(dump(&db), before);
}

#[test]
fn a_table_is_found_as_the_server_would_find_it() {
    let db = Db::new();
    db.sql(
        "CREATE SCHEMA first; CREATE TABLE first.t (id int PRIMARY KEY); CREATE TABLE t (id int PRIMARY KEY, other int);
        DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = first, public', current_database()); END $$",
    );
    let run = Postponed::start(&db, "t", "ALTER id TYPE bigint", &[]);
    assert_eq!(run.release(&db).code, Some(0));
    let type_of = |table: &str| {
        db.query_one_text(&format!(
            "SELECT atttypid::regtype FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attname = 'id'"
        ))
    };
    assert_eq!((type_of("first.t"), type_of("public.t")), ("bigint".into(), "integer".into()));
}
