//! Every value of every built-in type comes through as it was, copied or changed meanwhile.

use super::twins::Twins;
use super::{Postponed, only_migration};
use crate::harness::{Db, assert_nothing_left, pgrecast};

/// Column type and values of it, besides NULL.
const TYPES: &[(&str, &[&str])] = &[
    ("smallint", &["-32768", "32767"]),
    ("integer", &["-2147483648", "0"]),
    ("bigint", &["9223372036854775807", "-1"]),
    ("numeric", &["NaN", "1.00", "-Infinity", "123456789012345678901234567890.000001"]),
    ("numeric(6,2)", &["-1234.50", "0"]),
    ("real", &["NaN", "-Infinity", "-0", "1e-40", "3.4028235e38"]),
    ("double precision", &["NaN", "Infinity", "-0", "0.1", "5e-324", "1.7976931348623157e308"]),
    ("money", &["-12.34", "92233720368547758.07"]),
    ("boolean", &["t", "f"]),
    ("text", &["", " ", "\\N", "naïve ☂\n\t\\ 'quoted' \"twice\"", "NULL"]),
    ("varchar(9)", &["", "ααααααααα"]),
    ("char(5)", &["a", "  b"]),
    ("\"char\"", &["x", ""]),
    ("name", &["a name", ""]),
    ("bytea", &["\\x", "\\x00ff5c27"]),
    ("date", &["infinity", "-infinity", "0001-01-01 BC", "5874897-12-31"]),
    ("time", &["24:00:00", "00:00:00.000001"]),
    ("timetz", &["12:34:56.789+05:30", "24:00:00-15:59"]),
    ("timestamp", &["infinity", "-infinity", "4713-01-01 00:00:00 BC", "294276-12-31 23:59:59.999999"]),
    ("timestamptz", &["infinity", "-infinity", "2024-10-27 02:30:00+01", "1883-11-18 12:00:00-05"]),
    ("interval", &["1 year -2 mons 3 days -04:05:06.000007", "-178000000 years"]),
    ("uuid", &["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"]),
    ("json", &["{\"b\": 1,  \"a\": [null, 1.0, \"\\u00e9\"], \"b\": 2}", "null"]),
    ("jsonb", &["{\"b\": 1, \"a\": [null, 1.00]}", "null", "\"x\""]),
    ("jsonpath", &["$.a[*] ? (@ > 1)"]),
    ("bit(5)", &["10101"]),
    ("bit varying", &["", "1"]),
    ("point", &["(1.5,-0)", "(NaN,Infinity)"]),
    ("line", &["{1,-2,0.5}"]),
    ("lseg", &["[(0,0),(1,1)]"]),
    ("box", &["(3,4),(1,2)"]),
    ("path", &["[(0,0),(1,1)]", "((0,0),(1,1))"]),
    ("polygon", &["((0,0),(1,1),(2,0))"]),
    ("circle", &["<(1,2),3>"]),
    ("inet", &["192.168.0.1/24", "::ffff:1.2.3.4"]),
    ("cidr", &["10.0.0.0/8", "2001:db8::/32"]),
    ("macaddr", &["08:00:2b:01:02:03"]),
    ("macaddr8", &["08:00:2b:ff:fe:01:02:03"]),
    ("tsvector", &["'a':1A,3 'fat ''cat':2"]),
    ("tsquery", &["'fat' & !'rat' <2> 'cat':*"]),
    ("pg_lsn", &["16/B374D848"]),
    ("xid", &["4294967295"]),
    ("xid8", &["18446744073709551615"]),
    ("txid_snapshot", &["10:20:10,14,15"]),
    ("pg_snapshot", &["10:20:10,14,15"]),
    ("cid", &["7"]),
    ("tid", &["(4294967295,65535)"]),
    ("oid", &["4294967295"]),
    ("regtype", &["integer"]),
    ("regclass", &["pg_class"]),
    ("int2vector", &["1 2 3"]),
    ("oidvector", &["1 2"]),
    ("integer[]", &["{}", "{1,NULL,3}", "[0:1][-1:0]={{1,2},{3,4}}"]),
    ("text[]", &["{NULL,\"NULL\",\"\",\"a,b\",\"\\\"\"}"]),
    ("numeric(4,1)[]", &["{NaN,1.0}"]),
    ("timestamptz[]", &["{infinity,2024-01-01 00:00:00+00}"]),
    ("int4range", &["empty", "(,)", "[1,5)"]),
    ("int8range", &["[1,)"]),
    ("numrange", &["(1.00,2.5]"]),
    ("daterange", &["[infinity,infinity]", "[2024-01-01,2024-01-02)"]),
    ("tsrange", &["(,2024-01-01 00:00:00]"]),
    ("tstzrange", &["[2024-01-01 00:00:00+00,infinity)"]),
    ("int4multirange", &["{}", "{[1,2),[5,9)}"]),
    ("nummultirange", &["{(,1.0),(2,)}"]),
    ("int4range[]", &["{\"[1,2)\",empty}"]),
    ("mood", &["sad", "Very ☂ happy"]),
    ("mood[]", &["{sad,NULL}"]),
    ("short", &["abc"]),
    ("short[]", &["{abc,d}"]),
    ("pair", &["(1,\"a,b\")", "(,)"]),
    ("pair[]", &["{\"(1,x)\",NULL}"]),
    ("floatrange", &["[NaN,NaN]", "[-1.5,2)"]),
];

fn setup(db: &Db) -> String {
    let types =
        "CREATE TYPE mood AS ENUM ('sad', 'Very ☂ happy'); CREATE DOMAIN short AS text CHECK (length(value) < 4);
        CREATE TYPE pair AS (n int, t text); CREATE TYPE floatrange AS RANGE (subtype = float8);";
    // Only a server built with libxml has xml values.
    let xml = "SELECT count(*) FROM pg_config WHERE name = 'CONFIGURE' AND setting LIKE '%--with-libxml%'";
    let xml: &[(&str, &[&str])] =
        if db.query_one_text(xml) == "1" { &[("xml", &["<a>1</a><b/>", "text"])] } else { &[] };
    let all: Vec<_> = TYPES.iter().chain(xml).collect();
    let columns: Vec<String> = all.iter().enumerate().map(|(n, (sql, _))| format!("c{n} {sql}")).collect();
    let longest = all.iter().map(|(_, values)| values.len()).max().expect("some types");
    // One row without values, then each value in turn, the shorter lists wrapping round.
    let row = |r: usize| -> String {
        let value = |(_, values): &&(&str, &[&str])| match r {
            0 => "NULL".to_owned(),
            r => format!("'{}'", values[(r - 1) % values.len()].replace('\'', "''")),
        };
        format!("({}, {}, 'gone')", r, all.iter().map(value).collect::<Vec<_>>().join(", "))
    };
    let rows: Vec<String> = (0..=longest).map(row).collect();
    let again: Vec<String> = (0..all.len()).map(|n| format!("c{n}")).collect();
    let again = again.join(", ");
    format!(
        "{types}
        CREATE TABLE everything (id int PRIMARY KEY, {}, gone text);
        INSERT INTO everything VALUES {};
        INSERT INTO everything SELECT id + 100, {again}, gone FROM everything;
        INSERT INTO everything SELECT id + 200, {again}, gone FROM everything WHERE id < 100;
        ALTER TABLE everything DROP COLUMN gone;
        ALTER TABLE everything ADD COLUMN fast int DEFAULT 7, ADD COLUMN fast_text text NOT NULL DEFAULT 'it''s fast',
            ADD COLUMN late timestamptz DEFAULT '2024-01-01 00:00:00+00';
        ALTER TABLE everything ALTER fast SET DEFAULT 8;
        ALTER TABLE everything ADD COLUMN large text, ADD COLUMN apart bytea, ADD COLUMN packed text;
        ALTER TABLE everything ALTER apart SET STORAGE EXTERNAL;
        UPDATE everything SET large = (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 32768) AS n),
            apart = decode(repeat('00ff', 524288), 'hex'), packed = repeat('x', 1048576) WHERE id IN (1, 101);",
        columns.join(", "),
        rows.join(", ")
    )
}

#[test]
fn every_built_in_type_in_a_plain_rewrite_and_beside_a_change() {
    let setup = setup(&Db::new());
    for (clauses, old_way) in [
        ("", None),
        ("ALTER id TYPE bigint, DROP fast", Some("ALTER TABLE everything ALTER id TYPE bigint, DROP fast")),
    ] {
        let old_way: Vec<&str> = old_way.into_iter().collect();
        let twins = Twins {
            setup: &setup,
            table: "everything",
            clauses,
            old_way: &old_way,
            meanwhile: &[
                // Written again as they are, the large values untouched; one with a new key.
                "UPDATE everything SET c0 = c0 WHERE id BETWEEN 100 AND 199",
                "UPDATE everything SET id = 999 WHERE id = 101",
                "INSERT INTO everything (id) VALUES (500)",
                "DELETE FROM everything WHERE id = 201",
                "UPDATE everything SET large = NULL, late = NULL, fast_text = '' WHERE id = 202",
            ],
            compare: &[
                "SELECT e.id, e::text FROM everything AS e ORDER BY id",
                "SELECT id, md5(large), md5(apart), md5(packed) FROM everything ORDER BY id",
            ],
            options: &[],
        };
        twins.check();
    }
}

/// What a role or a database may set, and what must neither change a value nor end a session of ours.
const HOSTILE: &[(&str, &str)] = &[
    ("datestyle", "SQL, DMY"),
    ("timezone", "Asia/Kathmandu"),
    ("intervalstyle", "sql_standard"),
    ("extra_float_digits", "-5"),
    ("bytea_output", "escape"),
    ("xmloption", "document"),
    ("standard_conforming_strings", "off"),
    ("array_nulls", "off"),
    ("transform_null_equals", "on"),
    ("quote_all_identifiers", "on"),
    ("search_path", "nowhere"),
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_read_only", "on"),
    ("default_transaction_deferrable", "on"),
    ("statement_timeout", "150ms"),
    ("lock_timeout", "1ms"),
    ("idle_in_transaction_session_timeout", "50ms"),
    ("idle_session_timeout", "50ms"),
    ("row_security", "on"),
    ("enable_tidscan", "off"),
    ("enable_seqscan", "off"),
    ("enable_indexscan", "off"),
    ("plan_cache_mode", "force_generic_plan"),
    ("work_mem", "64kB"),
    ("client_encoding", "LATIN1"),
    ("session_replication_role", "replica"),
    // Named anew in 16; new in 17.
    ("force_parallel_mode", "on"),
    ("debug_parallel_query", "on"),
    ("transaction_timeout", "150ms"),
];

#[test]
fn settings_of_the_database_change_no_value_and_end_no_session() {
    let db = Db::new();
    db.sql(&setup(&db));
    // Keys whose texts the settings shape.
    db.sql(
        "CREATE TABLE keyed (at timestamptz, f float8, i interval, b bytea, r tstzrange, v int, PRIMARY KEY (at, f, i, b, r));
         INSERT INTO keyed SELECT timestamptz '2024-01-02 03:04:05.678901+00' + n * interval '1 day', n / 3.0,
             make_interval(years => n, days => -n, secs => n / 7.0), decode(md5(n::text), 'hex'),
             tstzrange(timestamptz '2024-01-02 03:04:05+00', NULL), n FROM generate_series(1, 3000) n;",
    );
    let known = |name: &str| db.query_one_text(&format!("SELECT count(*) FROM pg_settings WHERE name = '{name}'"));
    for (name, value) in HOSTILE.iter().filter(|(name, _)| known(name) == "1") {
        db.sql(&format!("ALTER DATABASE {} SET {name} = '{value}'", db.name()));
    }
    let everything = "SELECT e.id, e::text, md5(large), md5(apart), md5(packed) FROM everything AS e ORDER BY id";
    let keyed = "SELECT k::text FROM keyed AS k ORDER BY at, f";
    for (table, clauses, rows) in [
        ("public.everything", "ALTER id TYPE bigint", everything),
        ("public.keyed", "ADD COLUMN more int, ALTER v TYPE bigint", keyed),
    ] {
        let run = Postponed::start(&db, table, clauses, &[]);
        match table {
            "public.keyed" => {
                db.sql("UPDATE keyed SET at = at + interval '1 s', v = v + 1; DELETE FROM keyed WHERE v % 10 = 0")
            }
            _ => db.sql("UPDATE everything SET id = id + 10000 WHERE id < 100; DELETE FROM everything WHERE id = 201"),
        }
        let mut expected = db.rows(rows);
        let output = run.release(&db);
        assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
        if table == "public.keyed" {
            // The column more.
            for row in expected.iter_mut().flatten().flatten() {
                row.insert(row.len() - 1, ',');
            }
        }
        let got = db.rows(rows);
        assert!(expected.len() > 6);
        let unlike: Vec<_> = expected.iter().zip(&got).filter(|(e, g)| e != g).take(5).collect();
        assert!(expected.len() == got.len() && unlike.is_empty(), "{table}: {unlike:#?}");
        let finished = pgrecast(&db, &["finish", &only_migration(&db)]);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        assert_nothing_left(&db);
    }
}
