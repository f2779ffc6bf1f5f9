//! The tables, and what is done to them.

use rand::RngExt;
use rand::rngs::StdRng;

use crate::harness::Db;
use crate::harness::load::{Column, Shape};

/// A table of the load's.
pub struct Table {
    ddl: &'static str,
    /// The change, as it is typed.
    pub change: &'static [&'static str],
    /// Whether it is made, as SQL.
    pub changed: &'static str,
    /// Drops what is there on purpose after a rollback.
    pub leaves: &'static str,
    /// What the load writes.
    pub shape: Shape,
    /// The key of a filler row number `n`, as SQL; and which rows are filler.
    key: &'static str,
    is_filler: &'static str,
    /// Whether the server would truncate it.
    pub truncates: bool,
}

impl Table {
    /// One of those there are.
    pub fn random(rng: &mut StdRng) -> Table {
        let whole = Shape::plain();
        match rng.random_range(0..8) {
            0 => Table {
                ddl: "CREATE TABLE t (id integer PRIMARY KEY, u integer UNIQUE, v text, n numeric)",
                change: &["alter", "t", "ALTER id TYPE bigint, ALTER u TYPE bigint, ADD COLUMN extra text NOT NULL DEFAULT 'none'"],
                changed: "SELECT count(*) = 3 FROM pg_attribute WHERE attrelid = 't'::regclass \
                          AND (attname, atttypid::regtype::text) IN (('id', 'bigint'), ('u', 'bigint'), ('extra', 'text'))",
                leaves: "",
                shape: whole,
                key: "-n",
                is_filler: "id < 0",
                truncates: true,
            },
            1 => Table {
                ddl: "CREATE TABLE t (id integer PRIMARY KEY, u integer UNIQUE, v text, n numeric, gone int DEFAULT 7);
                      CREATE INDEX ON t (n, v text_pattern_ops) WHERE length(v) < 100;
                      CREATE TABLE child (t_id int REFERENCES t ON UPDATE CASCADE); CREATE VIEW seen AS SELECT id, v FROM t",
                change: &["alter", "t", "DROP COLUMN gone, ALTER u TYPE bigint"],
                changed: "SELECT count(*) = 1 FROM pg_attribute WHERE attrelid = 't'::regclass \
                          AND (attname, atttypid::regtype::text) IN (('gone', 'integer'), ('u', 'bigint'))",
                leaves: "",
                shape: whole,
                key: "-n",
                is_filler: "id < 0",
                truncates: false,
            },
            2 => Table {
                ddl: "CREATE TABLE t (id text PRIMARY KEY, u integer UNIQUE, v text, n numeric)",
                change: &["alter", "t", "ALTER u TYPE bigint, ALTER v SET STORAGE EXTERNAL"],
                changed: "SELECT count(*) = 1 FROM pg_attribute WHERE attrelid = 't'::regclass \
                          AND (attname, atttypid::regtype::text) IN (('u', 'bigint'))",
                leaves: "",
                shape: Shape { key: Column { cast: "text".into(), ..whole.key }, ..whole },
                key: "'filler ' || n",
                is_filler: "id LIKE 'filler%'",
                truncates: true,
            },
            3 => Table {
                ddl: "CREATE TABLE t (id numeric PRIMARY KEY, u integer UNIQUE, v text, n numeric)",
                change: &["alter", "t", "ALTER u TYPE numeric, SET (fillfactor = 80)"],
                changed: "SELECT count(*) = 1 FROM pg_attribute WHERE attrelid = 't'::regclass \
                          AND (attname, atttypid::regtype::text) IN (('u', 'numeric'))",
                leaves: "",
                shape: Shape { key: Column::whole("id", "numeric"), ..whole },
                key: "-n",
                is_filler: "id < 0",
                truncates: true,
            },
            4 => Table {
                ddl: "CREATE TABLE t (id integer PRIMARY KEY, u integer, v text, n numeric); CREATE INDEX ON t (u)",
                change: &["partition", "t", "--hash", "id", "--partitions", "3"],
                changed: "SELECT count(*) = 4 FROM pg_partition_tree('t')",
                leaves: "",
                shape: whole,
                key: "-n",
                is_filler: "id < 0",
                truncates: true,
            },
            // A row beyond the last gets its partition while it is copied or followed.
            5 => Table {
                ddl: "CREATE TABLE t (id integer PRIMARY KEY, u integer, v text, n numeric); CREATE VIEW seen AS SELECT id, v FROM t",
                change: &["partition", "t", "--range", "id", "--every", "1500", "--premake", "1"],
                changed: "SELECT relkind = 'p' FROM pg_class WHERE oid = 't'::regclass",
                leaves: "",
                shape: whole,
                key: "-n",
                is_filler: "id < 0",
                truncates: false,
            },
            6 => Table {
                ddl: "CREATE TABLE t (id integer PRIMARY KEY, u integer UNIQUE, v text, n numeric, body text DEFAULT 'none')",
                change: &[
                    "split",
                    "t",
                    "--into",
                    "bodies(body, size = length(body))",
                    "--drop",
                    "body",
                    "--foreign-key=cascade",
                    "--compat-view=before",
                ],
                changed: "SELECT to_regclass('bodies') IS NOT NULL AND count(*) = 5 FROM pg_attribute \
                          WHERE attrelid = 'before'::regclass AND attname IN ('id', 'u', 'v', 'n', 'body')",
                leaves: "DROP VIEW before",
                shape: whole,
                key: "-n",
                is_filler: "id < 0",
                truncates: false,
            },
            _ => Table {
                ddl: "CREATE TABLE t (id integer PRIMARY KEY, u integer UNIQUE, v text, n numeric);
                      CREATE TABLE child (id int PRIMARY KEY, t_id int REFERENCES t ON UPDATE CASCADE DEFERRABLE) PARTITION BY RANGE (id);
                      CREATE TABLE child_1 PARTITION OF child DEFAULT; CREATE INDEX ON child (t_id)",
                change: &["widen", "t.id", "bigint"],
                changed: "SELECT count(*) = 2 FROM pg_attribute WHERE atttypid = 'bigint'::regtype \
                          AND (attrelid, attname) IN (('t'::regclass, 'id'), ('child'::regclass, 't_id'))",
                leaves: "",
                shape: whole,
                key: "-n",
                is_filler: "id < 0",
                truncates: false,
            },
        }
    }

    /// Makes it, with so many rows beside those of the load.
    pub fn create(&self, db: &Db, filler: u32) {
        db.sql(self.ddl);
        db.sql(&format!(
            "INSERT INTO t (id, v) SELECT {}, repeat('x', 1000) FROM generate_series(1, {filler}) n",
            self.key
        ));
    }

    /// The load's rows, as it compares them.
    pub fn rows(&self) -> String {
        format!("{} WHERE NOT {}", self.shape.select_all(), self.is_filler)
    }

    /// How many of the other rows are as they were, and whether one is not.
    pub fn filler(&self) -> String {
        format!(
            "SELECT count(*) FILTER (WHERE v = repeat('x', 1000)) - count(*) FILTER (WHERE v IS DISTINCT FROM \
             repeat('x', 1000)) FROM t WHERE {}",
            self.is_filler
        )
    }

    /// A write that changes nothing that is compared.
    pub fn idle_write(&self) -> String {
        format!("UPDATE t SET v = v WHERE id = (SELECT min(id) FROM t WHERE {})", self.is_filler)
    }
}
