//! A dry run of each command leaves every catalog as it was, waits for nobody, and needs no more than to read the table.

use serde_json::Value;

use crate::harness::{Db, assert_nothing_left, own_server, spawn};

const TABLES: &str = "
    CREATE TABLE t (id int PRIMARY KEY, kind text NOT NULL, v text NOT NULL DEFAULT 'none');
    CREATE INDEX ON t ((id % 7));
    CREATE TABLE child (id int PRIMARY KEY, t_id int NOT NULL REFERENCES t);
    CREATE TABLE p (id int PRIMARY KEY, at date NOT NULL, v text);
    INSERT INTO t SELECT n, n % 7, 'words that are nobody''s business ' || n FROM generate_series(1, 2000) AS n;
    INSERT INTO child SELECT n, n FROM generate_series(1, 2000) AS n;
    INSERT INTO p SELECT n, date '2026-01-01' + n % 90, n FROM generate_series(1, 2000) AS n;
    ANALYZE t, child, p;
    CREATE ROLE reads_only LOGIN PASSWORD 'secret';
    GRANT SELECT ON t, child, p TO reads_only";

const COMMANDS: &[&[&str]] = &[
    &["alter", "t", "ALTER v TYPE varchar(200), ADD COLUMN w text DEFAULT 'w'"],
    &["partition", "p", "--range", "at", "--every", "1 month"],
    &["split", "t", "--into", "details(id, v)", "--drop", "v"],
    &["split", "t", "--lookup", "kind_id = kinds(name = kind)"],
    &["widen", "t.id", "bigint"],
    &["widen", "t.id", "bigint", "--one-by-one"],
];

/// Every row of every catalog, the cluster's included.
fn catalogs(db: &Db) -> Vec<Vec<Option<String>>> {
    let list =
        "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r'";
    let of = |table: String| {
        let rows = "md5(coalesce(string_agg(c::text, E'\\n' ORDER BY c::text COLLATE \"C\"), ''))";
        format!("SELECT '{table}', count(*)::text, {rows} FROM {table} AS c")
    };
    let all: Vec<String> = db.rows(list).into_iter().flatten().flatten().map(of).collect();
    assert!(all.len() > 50, "{all:?}");
    db.rows(&format!("{} ORDER BY 1", all.join(" UNION ALL ")))
}

fn estimates(stdout: &str) -> Vec<Value> {
    let events = stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter(|event| event["event"] == "estimate").map(|event| event["estimate"].clone()).collect()
}

#[test]
fn of_every_command_leaves_the_catalogs_and_needs_to_read_alone() {
    // Autovacuum would count rows in the meantime.
    let server = own_server(&[("autovacuum", "off")]);
    let db = Db::on(&server);
    db.sql(TABLES);
    // Whoever asks for more than to read waits for this one.
    let holder = db.connect();
    holder.sql("BEGIN; LOCK TABLE t, child, p IN EXCLUSIVE MODE");
    let before = catalogs(&db);
    let reads_only = server.dsn_for("reads_only", "secret", db.name());
    for line in COMMANDS {
        let args = [line, &["--dry-run", "--format", "json", "--window", "22:00-06:00 UTC"][..]].concat();
        for (dsn, owns) in [(db.dsn(), true), (&reads_only, false)] {
            let output = spawn(dsn, &args).wait();
            assert_eq!(output.code, Some(0), "{line:?}, an owner: {owns}\n{}", output.stderr);
            let found = estimates(&output.stdout);
            assert!(!found.is_empty(), "{line:?}: {}", output.stdout);
            for estimate in &found {
                assert!(estimate["nights"]["mid"].as_f64() >= Some(1.0), "{estimate}");
            }
            let said = format!("{}{}", found[0]["remarks"], found[0]["not_measured"]);
            assert_eq!(said.contains("This role could not run it"), !owns, "{line:?}: {said}");
            assert!(!output.stdout.contains("nobody's business"), "{}", output.stdout);
        }
    }
    let after = catalogs(&db);
    let changed: Vec<_> = before.iter().zip(&after).filter(|(before, after)| before != after).collect();
    assert!(changed.is_empty() && before.len() == after.len(), "{changed:?}");
    holder.sql("ROLLBACK");
    assert_nothing_left(&db);
}
