//! Every kind of value is compared exactly.

use pgrecast::verify::Kind;

use super::pair::Pair;

/// Column, type, a value, and another one that is as near to it as can be.
const VALUES: &[(&str, &str, &str, &str)] = &[
    ("i2", "smallint", "1", "2"),
    ("i4", "integer", "-1", "1"),
    // The same number once it is folded to 32 bits.
    ("i8", "bigint", "1", "4294967296"),
    ("n", "numeric", "1.0", "1.00"),
    ("ns", "numeric(10,2)", "'NaN'", "0"),
    ("r", "real", "'NaN'", "'Infinity'"),
    ("f", "double precision", "'-0'", "'0'"),
    ("f2", "double precision", "'-Infinity'", "0.1"),
    ("b", "boolean", "true", "false"),
    ("tx", "text", "E'tab\\t \\\\ \\' \" ü 日本 \\u0301'", "E'tab\\t \\\\ \\' \" ü 日本'"),
    ("nul", "text", "''", "NULL"),
    ("long", "text", "repeat('x', 100000)", "repeat('x', 99999) || 'y'"),
    ("v", "varchar(20)", "'a'", "'a '"),
    ("c", "char(10)", "'ab'", "'ba'"),
    ("by", "bytea", "'\\x00ff'", "'\\x00fe'"),
    ("js", "json", "'{\"a\": 1}'", "'{\"a\":1}'"),
    ("jb", "jsonb", "'{\"a\": [1, 2.0]}'", "'{\"a\": [1, 2.00]}'"),
    ("ia", "integer[]", "'{1,NULL,3}'", "'[0:2]={1,NULL,3}'"),
    ("ta", "text[]", "'{a,\"NULL\",\"\"}'", "'{a,NULL,\"\"}'"),
    ("rg", "int4range", "'[1,5)'", "'[1,6)'"),
    ("mr", "nummultirange", "'{[1,2),[3,4)}'", "'{[1,2),[3,4]}'"),
    ("en", "mood", "'glad'", "'sad'"),
    ("co", "place", "'(1,)'", "'(1,\"\")'"),
    ("cn", "place", "'(,)'", "NULL"),
    ("dm", "word", "'a'", "'b'"),
    ("u", "uuid", "'00000000-0000-0000-0000-000000000001'", "'00000000-0000-0001-0000-000000000000'"),
    // 2^32 and one microseconds apart.
    ("ts", "timestamp", "'2000-01-01 00:00:00'", "'2000-01-01 01:11:34.967297'"),
    ("tz", "timestamptz", "'infinity'", "'-infinity'"),
    ("d", "date", "'infinity'", "'2024-02-29'"),
    ("tm", "time", "'00:00:00.000001'", "'01:11:34.967296'"),
    ("tt", "timetz", "'10:00+02'", "'09:00+01'"),
    ("iv", "interval", "'1 month'", "'30 days'"),
    ("ip", "inet", "'10.0.0.1'", "'10.0.0.1/31'"),
    ("mac", "macaddr", "'08:00:2b:01:02:03'", "'08:00:2b:01:02:04'"),
    ("x", "xml", "'<a/>'", "'<a></a>'"),
    ("p", "point", "'(1,2)'", "'(2,1)'"),
    ("bt", "bit(5)", "B'10101'", "B'10100'"),
    ("vb", "bit varying", "B'0'", "B'00'"),
    ("o", "oid", "4294967295", "4294967294"),
    ("ts2", "tsvector", "'a:1'", "'a:2'"),
    ("ch", "\"char\"", "'a'", "'b'"),
    ("nm", "name", "'a'", "'b'"),
    ("mo", "money", "1.23", "1.24"),
    ("ls", "pg_lsn", "'0/1'", "'1/0'"),
];

fn create() -> String {
    let columns: Vec<String> = VALUES.iter().map(|(name, kind, ..)| format!("{name} {kind}")).collect();
    let values = |n: fn(&(&str, &str, &'static str, &'static str)) -> &'static str| {
        VALUES.iter().map(n).collect::<Vec<_>>().join(", ")
    };
    format!(
        "CREATE TYPE mood AS ENUM ('glad', 'sad'); CREATE TYPE place AS (x int, note text);
         CREATE DOMAIN word AS text CHECK (VALUE <> '');
         CREATE TABLE t (id int PRIMARY KEY, {});
         INSERT INTO t SELECT i, {} FROM generate_series(1, 100) i;
         INSERT INTO t SELECT i, {} FROM generate_series(101, 200) i;
         INSERT INTO t (id) SELECT generate_series(201, 300);",
        columns.join(", "),
        values(|v| v.2),
        values(|v| v.3),
    )
}

#[tokio::test]
async fn each_type_is_equal_to_itself_and_different_from_its_neighbour() {
    let pair = Pair::new("each_type", &create(), "ALTER COLUMN id TYPE bigint, ALTER COLUMN i2 TYPE integer").await;
    let verdict = pair.verify().await;
    assert_eq!((verdict.rows_compared, verdict.rechecked, verdict.difference_count), (300, 0, 0), "{verdict:?}");

    let mut planted = String::new();
    let mut expected = Vec::new();
    for (id, (name, _, value, other)) in (1..).zip(VALUES) {
        planted.push_str(&format!(
            "UPDATE shadow SET {name} = {other} WHERE id = {id};
             UPDATE shadow SET {name} = {value} WHERE id = {id} + 100;
             UPDATE shadow SET {name} = {value} WHERE id = {id} + 200;"
        ));
        expected.extend([id, id + 100, id + 200].map(|id| (format!("id = {id}"), vec![(*name).to_owned()])));
    }
    pair.plant(&planted).await;
    let verdict = pair.verify().await;
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for difference in verdict.differences {
        assert_eq!(difference.kind, Kind::Different);
        found.push((difference.key, difference.columns));
    }
    assert_eq!(verdict.difference_count, expected.len() as u64);
    // Only the first hundred are kept.
    let unexpected: Vec<_> = found.iter().filter(|f| !expected.contains(f)).collect();
    assert!(unexpected.is_empty() && found.len() == 100, "{unexpected:?}");
}

#[tokio::test]
async fn a_change_of_many_types_is_compared_in_the_new_types() {
    let create = "CREATE TABLE t (id int PRIMARY KEY, a int, b text, c timestamp, d varchar(9), e numeric, f char(4));
         INSERT INTO t SELECT i, i, i::text, timestamp '2020-01-01' + i * interval '1 s', 'x' || i, i / 7.0, 'ab'
         FROM generate_series(1, 5000) i;
         INSERT INTO t (id) VALUES (0)";
    let clauses = "ALTER COLUMN id TYPE text, ALTER COLUMN a TYPE numeric(12,3), ALTER COLUMN b TYPE int USING b::int, \
                   ALTER COLUMN c TYPE timestamptz USING c AT TIME ZONE 'Europe/Berlin', ALTER COLUMN d TYPE text, \
                   ALTER COLUMN e TYPE numeric(8,2), ALTER COLUMN f TYPE text, ADD COLUMN g int DEFAULT 3, \
                   ADD COLUMN h float DEFAULT random(), ADD COLUMN i text";
    let pair = Pair::new("many_types", create, clauses).await;
    let verdict = pair.verify().await;
    assert_eq!((verdict.rows_compared, verdict.rechecked, verdict.difference_count), (5001, 0, 0), "{verdict:?}");
    // A volatile default is nobody's business; the others are.
    pair.plant("UPDATE shadow SET h = 2 WHERE id = '1'; UPDATE shadow SET g = 4, e = e + 0.01 WHERE id = '2'").await;
    let verdict = pair.verify().await;
    assert_eq!(verdict.difference_count, 1, "{verdict:?}");
    assert_eq!(verdict.differences[0].columns, ["e", "g"]);
}
