//! Every way to say by what, and what the partitions are called.

use super::{finish, partitioned};
use crate::harness::Db;

/// The partitions as `name bound`, in the order of the names.
const PARTITIONS: &str = "SELECT c.relname || ' ' || pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits h \
    JOIN pg_class c ON c.oid = h.inhrelid WHERE h.inhparent = 't'::regclass ORDER BY c.relname COLLATE \"C\"";

fn made(setup: &str, options: &[&str]) -> (Db, Vec<String>) {
    let db = Db::new();
    db.sql(setup);
    let before = db.query_one_text("SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM t");
    partitioned(&db, options);
    assert_eq!(db.query_one_text("SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM t"), before);
    finish(&db);
    let partitions = db.connect();
    partitions.sql("SET TimeZone = 'UTC'");
    let partitions = partitions.rows(PARTITIONS).into_iter().flatten().flatten().collect();
    (db, partitions)
}

#[test]
fn calendar_months_of_a_time_zone() {
    let setup = "CREATE TABLE t (id int PRIMARY KEY, at timestamptz NOT NULL);
        INSERT INTO t VALUES (1, '2026-03-01 00:00 Europe/Berlin'), (2, '2026-03-31 23:59:59.999999 Europe/Berlin'),
            (3, '2026-04-01 00:00 Europe/Berlin'), (4, '2026-02-28 23:30 UTC')";
    let (db, partitions) =
        made(setup, &["--range", "at", "--every", "1 month", "--zone", "Europe/Berlin", "--premake", "1"]);
    assert_eq!(
        partitions,
        [
            "t_2026_03 FOR VALUES FROM ('2026-02-28 23:00:00+00') TO ('2026-03-31 22:00:00+00')",
            "t_2026_04 FOR VALUES FROM ('2026-03-31 22:00:00+00') TO ('2026-04-30 22:00:00+00')",
            "t_2026_05 FOR VALUES FROM ('2026-04-30 22:00:00+00') TO ('2026-05-31 22:00:00+00')",
        ]
    );
    assert_eq!(db.query_one_text("SELECT string_agg(id::text, ',' ORDER BY id) FROM t_2026_03"), "1,2,4");
}

#[test]
fn days_across_a_change_of_the_clock() {
    // The clock of Santiago goes forward at midnight, so that day begins at one o'clock.
    let setup = "CREATE TABLE t (id int PRIMARY KEY, at timestamptz NOT NULL);
        INSERT INTO t VALUES (1, '2025-09-06 23:59 -04'), (2, '2025-09-07 04:00 UTC'), (3, '2025-09-08 02:59 UTC')";
    let (_, partitions) =
        made(setup, &["--range", "at", "--every", "1 day", "--zone", "America/Santiago", "--premake", "0"]);
    assert_eq!(
        partitions,
        [
            "t_2025_09_06 FOR VALUES FROM ('2025-09-06 04:00:00+00') TO ('2025-09-07 04:00:00+00')",
            "t_2025_09_07 FOR VALUES FROM ('2025-09-07 04:00:00+00') TO ('2025-09-08 03:00:00+00')",
        ]
    );
}

#[test]
fn weeks_of_dates_and_steps_of_numbers() {
    let setup = "CREATE TABLE t (id int PRIMARY KEY, d date NOT NULL); INSERT INTO t VALUES (1, '2026-12-31'), (2, '2027-01-04')";
    let (_, partitions) = made(setup, &["--range", "d", "--every", "week", "--premake", "0"]);
    assert_eq!(
        partitions,
        [
            "t_2026_w53 FOR VALUES FROM ('2026-12-28') TO ('2027-01-04')",
            "t_2027_w01 FOR VALUES FROM ('2027-01-04') TO ('2027-01-11')",
        ]
    );
    let setup = "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (-1), (2147483600)";
    let (_, partitions) = made(setup, &["--range", "id", "--every", "1000000000"]);
    assert_eq!(
        partitions,
        [
            "t_0 FOR VALUES FROM (0) TO (1000000000)",
            "t_1000000000 FOR VALUES FROM (1000000000) TO (2000000000)",
            "t_2000000000 FOR VALUES FROM (2000000000) TO (MAXVALUE)",
            "t_m1000000000 FOR VALUES FROM ('-1000000000') TO (0)",
        ]
    );
}

#[test]
fn lists_with_rows_without_a_value_and_a_default() {
    let setup = "CREATE TABLE t (id int, region text, UNIQUE (id, region)); ALTER TABLE t ALTER id SET NOT NULL;
        CREATE UNIQUE INDEX key ON t (id); INSERT INTO t VALUES (1, 'EU'), (2, 'us'), (3, 'ca'), (4, NULL), (5, 'else')";
    let (db, partitions) = made(
        setup,
        &["--list", "region", "--values", "EU;us,ca;NULL", "--default-partition", "--drop-constraint", "key"],
    );
    assert_eq!(
        partitions,
        [
            "t_default DEFAULT",
            "t_eu FOR VALUES IN ('EU')",
            "t_null FOR VALUES IN (NULL)",
            "t_us_ca FOR VALUES IN ('us', 'ca')",
        ]
    );
    assert_eq!(db.query_one_text("SELECT count(DISTINCT tableoid) FROM t"), "4");
}

#[test]
fn a_hash_of_two_columns_under_a_long_name_with_names_taken() {
    let long = "a".repeat(63);
    let db = Db::new();
    db.sql(&format!(
        "CREATE TABLE {long} (id int PRIMARY KEY, b text NOT NULL); INSERT INTO {long} SELECT i, i FROM generate_series(1, 100) i;
         CREATE VIEW {}_1 AS SELECT 1",
        &long[..60]
    ));
    let output = crate::harness::pgrecast(
        &db,
        &["partition", &long, "--hash", "id,b", "--partitions", "3", "--primary-key", "b,id"],
    );
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    let names = "SELECT string_agg(right(c.relname, 4), ' ' ORDER BY c.relname COLLATE \"C\") FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid \
        WHERE c.relkind = 'r'";
    assert_eq!(db.query_one_text(names), "_1_1 aa_0 aa_2");
    let key = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'p' AND conparentid = 0 AND conrelid = 'a'::regclass";
    assert_eq!(db.query_one_text(&key.replace("'a'", &format!("'{long}'"))), "PRIMARY KEY (b, id)");
    let indexes = "SELECT count(*) FROM pg_index WHERE indrelid IN (SELECT inhrelid FROM pg_inherits)";
    assert_eq!(db.query_one_text(indexes), "3");
    finish(&db);
}
