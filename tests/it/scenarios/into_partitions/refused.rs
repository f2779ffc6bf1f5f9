//! What is refused, by name, and with nothing touched.

use super::super::each;
use crate::harness::{Db, assert_nothing_left, pgrecast};

const BASE: &str = "CREATE TABLE t (id int PRIMARY KEY, d int NOT NULL, at timestamptz, v text);";
const BY: &[&str] = &["--list", "d", "--values", "0;1"];

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let cases: &[(&str, &[&str], i32, &[&str])] = &[
        (
            "ALTER TABLE t ADD CONSTRAINT mail UNIQUE (v)",
            BY,
            3,
            &["mail cannot hold", "partition column d", "--drop-constraint mail"],
        ),
        (
            "CREATE UNIQUE INDEX one ON t (v); CREATE UNIQUE INDEX two ON t (lower(v))",
            BY,
            3,
            &["one", "two", "--drop-constraint one --drop-constraint two"],
        ),
        ("ALTER TABLE t ADD CONSTRAINT late UNIQUE (id, d) DEFERRABLE", BY, 3, &["late cannot hold", "deferrable"]),
        ("ALTER TABLE t ADD CONSTRAINT apart EXCLUDE (id WITH =)", BY, 3, &["apart cannot hold", "exclusion"]),
        (
            "CREATE TABLE c (t_id int CONSTRAINT to_t REFERENCES t)",
            BY,
            3,
            &["foreign key to_t of public.c", "--drop-constraint to_t"],
        ),
        (
            "ALTER TABLE t ADD up int CONSTRAINT up REFERENCES t",
            &["--hash", "id", "--partitions", "2"],
            3,
            &["foreign key up", "both ends"],
        ),
        (
            "ALTER TABLE t ADD CONSTRAINT mine CHECK (d > 0) NO INHERIT",
            BY,
            3,
            &["mine is NO INHERIT", "--drop-constraint mine"],
        ),
        ("CREATE VIEW w AS SELECT id FROM ONLY t", BY, 3, &["view public.w", "ONLY"]),
        ("CREATE PUBLICATION told FOR TABLE t", BY, 3, &["publication told", "publish_via_partition_root"]),
        (
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER g AFTER UPDATE ON t REFERENCING NEW TABLE AS n FOR EACH ROW EXECUTE FUNCTION f()",
            BY,
            3,
            &["trigger g", "transition tables"],
        ),
        ("CREATE TABLE c () INHERITS (t)", BY, 3, &["has children"]),
        ("", &["--none"], 3, &["table public.t is not partitioned"]),
        (
            "DROP TABLE t; CREATE TABLE t (id int, d int) PARTITION BY HASH (id);
             CREATE TABLE p PARTITION OF t FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
            &["--none"],
            3,
            &["no primary key"],
        ),
        (
            "DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, d int) PARTITION BY HASH (id);
             CREATE TABLE p PARTITION OF t FOR VALUES WITH (MODULUS 1, REMAINDER 0); CREATE INDEX lone ON p (d)",
            &["--none"],
            3,
            &["lone is of partition public.p alone", "--drop-constraint lone"],
        ),
        ("", &["--list", "nix", "--values", "a"], 3, &["has no column nix"]),
        ("", &["--list", "d", "--values", "0;0"], 3, &["PostgreSQL refuses the partitions", "overlap"]),
        ("", &["--list", "d", "--values", "x"], 3, &["PostgreSQL refuses the partitions", "integer"]),
        ("", &["--range", "d", "--every", "1 month"], 3, &["--every 1 month", "d is of type integer"]),
        ("", &["--range", "at", "--every", "100"], 3, &["--every 100", "timestamp with time zone"]),
        ("", &["--range", "at", "--every", "1 month", "--zone", "Nowhere/Land"], 2, &["Nowhere/Land"]),
        ("", &["--range", "d", "--every", "5", "--zone", "UTC"], 3, &["--zone is for columns of type timestamptz"]),
        ("", &["--range", "d", "--every", "1 hour"], 2, &["1 hour"]),
        ("", &["--range", "d", "--bounds", "1"], 2, &["two bounds"]),
        ("", &["--list", "d", "--values", "0", "--primary-key", "id"], 3, &["--primary-key", "partition column d"]),
        ("", &["--list", "d", "--values", "0", "--drop-constraint", "nix"], 2, &["--drop-constraint nix"]),
        (
            "INSERT INTO t VALUES (1, 2, 'infinity', ''), (2, 2, '0044-03-15 BC', '')",
            &["--range", "at", "--every", "1 month"],
            3,
            &["no year from 1 to 9999", "BC"],
        ),
        (
            "INSERT INTO t VALUES (1, 2, '0001-03-15', ''), (2, 2, '2026-03-15', '')",
            &["--range", "at", "--every", "1 day"],
            3,
            &["more than 1000", "0001-03-15"],
        ),
    ];
    let show = |(setup, args, ..): &&(&str, &[&str], i32, &[&str])| format!("{setup} {}", args.join(" "));
    each(cases, show, |(setup, args, code, words)| {
        let db = Db::new();
        db.sql(BASE);
        db.sql(setup);
        let all = "SELECT md5(string_agg(concat_ws(' ', oid, relname, xmin), ',' ORDER BY oid)) FROM pg_class";
        let before = db.query_one_text(all);
        let output = pgrecast(&db, &[&["partition", "t"], *args].concat());
        assert_eq!(output.code, Some(*code), "{}{}", output.stdout, output.stderr);
        for word in *words {
            assert!(output.stderr.contains(word), "no {word:?} in {}", output.stderr);
        }
        assert_eq!(db.query_one_text(all), before, "changed");
        assert_nothing_left(&db);
    });
}
