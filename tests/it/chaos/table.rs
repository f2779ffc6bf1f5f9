//! The tables, and what is done to them.

use rand::RngExt;
use rand::rngs::StdRng;

use crate::harness::Db;
use crate::harness::load::{Column, Shape};

/// A table of the load's.
pub struct Table {
    ddl: &'static str,
    /// The change.
    pub clauses: &'static str,
    /// Whether a column has this type and name afterwards, as SQL.
    pub changed: &'static str,
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
        match rng.random_range(0..4) {
            0 => Table {
                ddl: "CREATE TABLE t (id integer PRIMARY KEY, u integer UNIQUE, v text, n numeric)",
                clauses: "ALTER id TYPE bigint, ALTER u TYPE bigint, ADD COLUMN extra text NOT NULL DEFAULT 'none'",
                changed: "SELECT count(*) = 3 FROM pg_attribute WHERE attrelid = 't'::regclass \
                          AND (attname, atttypid::regtype::text) IN (('id', 'bigint'), ('u', 'bigint'), ('extra', 'text'))",
                shape: whole,
                key: "-n",
                is_filler: "id < 0",
                truncates: true,
            },
            1 => Table {
                ddl: "CREATE TABLE t (id integer PRIMARY KEY, u integer UNIQUE, v text, n numeric, gone int DEFAULT 7);
                      CREATE INDEX ON t (n, v text_pattern_ops) WHERE length(v) < 100;
                      CREATE TABLE child (t_id int REFERENCES t ON UPDATE CASCADE); CREATE VIEW seen AS SELECT id, v FROM t",
                clauses: "DROP COLUMN gone, ALTER u TYPE bigint",
                changed: "SELECT count(*) = 1 FROM pg_attribute WHERE attrelid = 't'::regclass \
                          AND (attname, atttypid::regtype::text) IN (('gone', 'integer'), ('u', 'bigint'))",
                shape: whole,
                key: "-n",
                is_filler: "id < 0",
                truncates: false,
            },
            2 => Table {
                ddl: "CREATE TABLE t (id text PRIMARY KEY, u integer UNIQUE, v text, n numeric)",
                clauses: "ALTER u TYPE bigint, ALTER v SET STORAGE EXTERNAL",
                changed: "SELECT count(*) = 1 FROM pg_attribute WHERE attrelid = 't'::regclass \
                          AND (attname, atttypid::regtype::text) IN (('u', 'bigint'))",
                shape: Shape { key: Column { cast: "text".into(), ..whole.key }, ..whole },
                key: "'filler ' || n",
                is_filler: "id LIKE 'filler%'",
                truncates: true,
            },
            _ => Table {
                ddl: "CREATE TABLE t (id numeric PRIMARY KEY, u integer UNIQUE, v text, n numeric)",
                clauses: "ALTER u TYPE numeric, SET (fillfactor = 80)",
                changed: "SELECT count(*) = 1 FROM pg_attribute WHERE attrelid = 't'::regclass \
                          AND (attname, atttypid::regtype::text) IN (('u', 'numeric'))",
                shape: Shape { key: Column::whole("id", "numeric"), ..whole },
                key: "-n",
                is_filler: "id < 0",
                truncates: true,
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
