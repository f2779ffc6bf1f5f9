//! The control schema `pgrecast`: one row a migration, one row a table whose blocks are copied, one row a copied block
//! range, one row a slot that is to outlive a failover.
//!
//! Tables that are migrated together have a row each. The first of them, the head, is the migration: its phase, its stream
//! and its lease are those of all, and the others' rows, which name it, are not shown by themselves.
//!
//! A phase change and its effect are one transaction: whoever changes the phase does it with [`Store::set_phase_sql`]
//! inside the transaction that has the effect.

use tokio_postgres::Row;

use super::Phase;
use crate::cli::MigrateOptions;
use crate::error::{Exit, Failure};
use crate::pg::{Conn, Literal};
use crate::plan::types::{OldNames, Plan};

/// First half of the two-part advisory lock keys: `pgrc` in ASCII. The second is the migration's id, 0 for the schema.
pub(super) const LOCK_CLASS: i32 = 0x7067_7263;

/// The layout of the control schema; a migration of another layout is not touched.
const LAYOUT: i32 = 7;

const CREATE: &str = "
CREATE SCHEMA IF NOT EXISTS pgrecast;
COMMENT ON SCHEMA pgrecast IS 'Control schema of pgrecast. Removed by pgrecast finish and pgrecast abort.';
CREATE TABLE IF NOT EXISTS pgrecast.migration (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    head int REFERENCES pgrecast.migration ON DELETE CASCADE,
    layout int NOT NULL,
    source_oid oid NOT NULL,
    source text NOT NULL,
    request jsonb NOT NULL,
    options jsonb NOT NULL,
    plan jsonb NOT NULL,
    phase text NOT NULL,
    x0 xid,
    published text,
    identities text,
    blocks int8,
    cutover_released boolean NOT NULL DEFAULT false,
    old_table text,
    old_names jsonb,
    swapped_at timestamptz,
    ending text,
    paused boolean NOT NULL DEFAULT false,
    to_validate jsonb NOT NULL DEFAULT '[]',
    verdict jsonb,
    asked int8 NOT NULL DEFAULT 0,
    answered int8 NOT NULL DEFAULT 0,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE UNIQUE INDEX IF NOT EXISTS migration_in_progress ON pgrecast.migration (source_oid) WHERE phase NOT IN ('complete', 'rolled back');
CREATE TABLE IF NOT EXISTS pgrecast.leaf (
    migration int NOT NULL REFERENCES pgrecast.migration ON DELETE CASCADE,
    relation oid NOT NULL,
    filenode oid NOT NULL,
    blocks int8 NOT NULL,
    copy_over boolean NOT NULL DEFAULT false,
    PRIMARY KEY (migration, relation)
);
CREATE TABLE IF NOT EXISTS pgrecast.chunk (
    migration int NOT NULL REFERENCES pgrecast.migration ON DELETE CASCADE,
    relation oid NOT NULL,
    first_block int8 NOT NULL,
    end_block int8 NOT NULL,
    rows int8 NOT NULL,
    journaled int8 NOT NULL,
    PRIMARY KEY (migration, relation, first_block)
);
CREATE TABLE IF NOT EXISTS pgrecast.slot (
    migration int NOT NULL REFERENCES pgrecast.migration ON DELETE CASCADE,
    name name NOT NULL,
    done pg_lsn NOT NULL,
    PRIMARY KEY (migration, name)
) WITH (fillfactor = 10);
CREATE UNLOGGED TABLE IF NOT EXISTS pgrecast.progress (
    migration int PRIMARY KEY REFERENCES pgrecast.migration ON DELETE CASCADE,
    state jsonb NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 10);
CREATE TABLE IF NOT EXISTS pgrecast.comparison (
    migration int PRIMARY KEY REFERENCES pgrecast.migration ON DELETE CASCADE,
    basis text NOT NULL,
    bits int NOT NULL,
    within bytea[] NOT NULL,
    done jsonb NOT NULL,
    rows int8 NOT NULL,
    sums bytea NOT NULL,
    begun_at timestamptz NOT NULL DEFAULT clock_timestamp()
);";

/// One row of `pgrecast.migration`.
#[derive(Debug, Clone)]
pub struct Migration {
    /// Its number.
    pub id: i32,
    /// The source's oid when it was planned.
    pub source_oid: u32,
    /// The source, as a person would write it.
    pub source: String,
    /// Table, clauses and whatever else makes this command this command.
    pub request: serde_json::Value,
    /// The options of the last run.
    pub options: MigrateOptions,
    /// The plan.
    pub plan: Plan,
    /// What is next.
    pub phase: Phase,
    /// Rule 1's X0, 32 bits.
    pub x0: Option<u32>,
    /// Blocks of the source to copy, its partitions' where it has any.
    pub blocks: Option<u64>,
    /// `pgrecast cutover` was given.
    pub cutover_released: bool,
    /// The old table, after the swap, as SQL.
    pub old_table: Option<String>,
    /// What the old table and its own are called, after the swap.
    pub old_names: Option<OldNames>,
    /// What was asked of whoever keeps the old table in step.
    pub ending: Option<Ending>,
    /// `pgrecast pause` was given.
    pub paused: bool,
    /// Seconds since the swap.
    pub since_swap: Option<f64>,
    /// What the last comparison that was asked for, or that found a difference, came to.
    pub verdict: Option<serde_json::Value>,
    /// Comparisons that were asked for, and up to which of them they were answered.
    pub asked: (i64, i64),
    /// When it was begun, RFC 3339.
    pub started_at: String,
    /// Rows copied so far.
    pub rows_copied: i64,
    /// The other tables of the migration, in the order in which they were planned.
    pub others: Vec<Migration>,
}

impl Migration {
    /// Its tables: this one and the others.
    pub fn tables(&self) -> impl Iterator<Item = &Migration> {
        std::iter::once(self).chain(&self.others)
    }

    /// The old tables, after the swap, for people.
    pub fn old_tables(&self) -> Option<String> {
        let all: Vec<&str> = self.tables().filter_map(|m| m.old_table.as_deref()).collect();
        (!all.is_empty()).then(|| all.join(", "))
    }
}

/// A table whose blocks are copied: the source, or one of its partitions.
#[derive(Debug, Clone)]
pub struct LeafState {
    /// Its oid.
    pub oid: u32,
    /// Its file when its blocks were measured.
    pub filenode: u32,
    /// Blocks to copy.
    pub blocks: u32,
    /// A TRUNCATE ended its copy.
    pub copy_over: bool,
    /// Block ranges copied so far: (first, end), sorted.
    pub done: Vec<(u32, u32)>,
}

/// Why a run ends before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// `pgrecast finish` takes over.
    Finish,
    /// `pgrecast rollback` does.
    Rollback,
    /// `pgrecast abort` does, before the swap.
    Abort,
}

impl Ending {
    /// The word the control schema keeps.
    pub fn word(self) -> &'static str {
        match self {
            Ending::Finish => "finish",
            Ending::Rollback => "rollback",
            Ending::Abort => "abort",
        }
    }
}

/// What a new migration is registered with.
pub struct NewMigration<'a> {
    /// The source's oid.
    pub source_oid: u32,
    /// The source for people.
    pub source: &'a str,
    /// See [`Migration::request`].
    pub request: &'a serde_json::Value,
    /// Options.
    pub options: &'a MigrateOptions,
    /// Plan.
    pub plan: &'a Plan,
}

/// The control schema over one connection, which also holds the lease.
pub struct Store {
    conn: Conn,
}

impl Store {
    /// Over this connection.
    pub fn new(conn: Conn) -> Self {
        Store { conn }
    }

    /// The connection.
    pub fn conn(&self) -> &Conn {
        &self.conn
    }

    /// Whether there is a control schema at all.
    pub async fn exists(&self) -> Result<bool, Failure> {
        let sql = "SELECT to_regclass('pgrecast.migration') IS NOT NULL AND has_table_privilege('pgrecast.migration', 'SELECT')";
        Ok(self.conn.scalar("look for control schema", sql).await?.as_deref() == Some("t"))
    }

    /// Makes the control schema where it is missing, and registers a migration: its head and the other tables. One
    /// transaction.
    pub async fn register(&self, head: &NewMigration<'_>, others: &[NewMigration<'_>]) -> Result<i32, Failure> {
        let begin = format!("BEGIN; SELECT pg_advisory_xact_lock({LOCK_CLASS}, 0)");
        self.conn.batch("begin register", &begin).await?;
        // Looked for behind the lock: whoever forgets the last migration drops the schema.
        self.conn.batch("create control schema", self.create_sql().await?).await?;
        let id = self.register_one(head, None).await?;
        for other in others {
            self.register_one(other, Some(id)).await?;
        }
        self.conn.batch("commit register", "COMMIT").await?;
        Ok(id)
    }

    async fn register_one(&self, new: &NewMigration<'_>, head: Option<i32>) -> Result<i32, Failure> {
        let json = |value: serde_json::Result<String>| {
            value.map_err(|e| Failure::failed(format!("cannot keep the plan: {e}")))
        };
        let request = new.request.to_string();
        let options = json(serde_json::to_string(new.options))?;
        let plan = json(serde_json::to_string(new.plan))?;
        let rows = self
            .conn
            .rows(
                "register migration",
                "INSERT INTO pgrecast.migration (head, layout, source_oid, source, request, options, plan, phase) \
                 VALUES ($7, $1, $2, $3, $4::text::jsonb, $5::text::jsonb, $6::text::jsonb, 'prepare') RETURNING id",
                &[&LAYOUT, &new.source_oid, &new.source, &request, &options, &plan, &head],
            )
            .await
            .map_err(|e| match e.constraint.as_deref() {
                Some("migration_in_progress") => {
                    Failure::new(Exit::Busy, format!("another runner has just begun to migrate {}", new.source))
                        .caused_by(&e)
                }
                _ => e.into(),
            })?;
        rows.first().map(|r| r.get(0)).ok_or_else(|| Failure::failed("the migration was not registered"))
    }

    /// `IF NOT EXISTS` still needs the privilege to create, so an existing schema is left alone.
    async fn create_sql(&self) -> Result<&'static str, Failure> {
        Ok(if self.exists().await? { "" } else { CREATE })
    }

    /// All migrations, oldest first, each with its other tables.
    pub async fn list(&self) -> Result<Vec<Migration>, Failure> {
        if !self.exists().await? {
            return Ok(Vec::new());
        }
        let sql =
            "SELECT m.id, m.layout, m.source_oid, m.source, m.request::text, m.options::text, m.plan::text, m.phase,
                m.x0::text, m.blocks, m.cutover_released, m.old_table,
                to_char(m.started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'),
                coalesce((SELECT sum(c.rows) FROM pgrecast.chunk c WHERE c.migration = m.id), 0)::int8,
                m.old_names::text, m.ending, extract(epoch FROM clock_timestamp() - m.swapped_at)::float8,
                m.verdict::text, m.asked, m.answered, m.paused, m.head
            FROM pgrecast.migration m ORDER BY m.id";
        let mut all: Vec<Migration> = Vec::new();
        for row in self.conn.rows("list migrations", sql, &[]).await? {
            let (migration, head): (_, Option<i32>) = (read_row(&row)?, row.get("head"));
            // A head was registered before its others.
            match head.and_then(|head| all.iter_mut().find(|m| m.id == head)) {
                Some(head) => head.others.push(migration),
                None => all.push(migration),
            }
        }
        Ok(all)
    }

    /// One migration.
    pub async fn get(&self, id: i32) -> Result<Option<Migration>, Failure> {
        Ok(self.list().await?.into_iter().find(|m| m.id == id))
    }

    /// One that was there a moment ago.
    ///
    /// # Errors
    /// Exit 1 where it is there no more.
    pub async fn get_again(&self, id: i32) -> Result<Migration, Failure> {
        self.get(id).await?.ok_or_else(|| {
            Failure::failed(format!("migration {id} is gone from the control schema"))
                .hint("It was aborted or finished by another session.")
        })
    }

    /// Takes the lease, which lasts as long as this connection, and listens on it to whoever steers.
    ///
    /// # Errors
    /// Exit 6 where another runner has it.
    pub async fn lease(&self, id: i32) -> Result<(), Failure> {
        let sql = format!("SELECT pg_try_advisory_lock({LOCK_CLASS}, {id})");
        if self.conn.scalar("take lease", &sql).await?.as_deref() == Some("t") {
            return self.listen(id).await;
        }
        let holder = format!(
            "SELECT format('pid %s, since %s', a.pid, a.backend_start::timestamptz(0)) FROM pg_catalog.pg_locks l \
             JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid WHERE l.locktype = 'advisory' AND l.granted \
             AND l.classid = {LOCK_CLASS}::oid AND l.objid = {id}::oid AND l.objsubid = 2"
        );
        let holder = self.conn.scalar("find lease holder", &holder).await?.unwrap_or_else(|| "unknown".to_owned());
        // One line: cron meets it again and again.
        Err(Failure::new(Exit::Busy, format!("another runner works on migration {id}: its server session is {holder}")))
    }

    /// Whether a runner has the lease of this migration.
    pub async fn is_leased(&self, id: i32) -> Result<bool, Failure> {
        let sql = format!(
            "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND granted \
             AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) \
             AND classid = {LOCK_CLASS}::oid AND objid = {id}::oid AND objsubid = 2)"
        );
        Ok(self.conn.scalar("look for lease", &sql).await?.as_deref() == Some("t"))
    }

    /// SQL that says whether the session of this backend still has the lease of migration `id`.
    pub fn has_lease_sql(id: i32, backend: i32) -> String {
        format!(
            "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND granted AND pid = {backend} \
             AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) \
             AND classid = {LOCK_CLASS}::oid AND objid = {id}::oid AND objsubid = 2)"
        )
    }

    /// The server's process behind this connection.
    pub async fn backend(&self) -> Result<i32, Failure> {
        let pid = self.conn.scalar("read backend pid", "SELECT pg_backend_pid()").await?;
        pid.and_then(|pid| pid.parse().ok()).ok_or_else(|| Failure::failed("the server gave no backend pid"))
    }

    /// SQL that moves migration `id`, with all its tables, from one phase to the next and fails where it is not in `from`.
    pub fn set_phase_sql(id: i32, from: Phase, to: Phase) -> String {
        debug_assert!(from.may_become(to), "{from} to {to}");
        format!(
            "UPDATE pgrecast.migration SET phase = '{to}', changed_at = clock_timestamp() \
             WHERE coalesce(head, id) = (SELECT CASE WHEN phase = '{from}' THEN id ELSE 1 / (id - id) END FROM pgrecast.migration WHERE id = {id})"
        )
    }

    /// Moves on to the next phase, where the change of phase is all there is to do.
    pub async fn set_phase(&self, id: i32, from: Phase, to: Phase) -> Result<(), Failure> {
        Ok(self.conn.batch("set phase", &Self::set_phase_sql(id, from, to)).await?)
    }

    /// Keeps the options of this run.
    pub async fn keep_options(&self, id: i32, options: &MigrateOptions) -> Result<(), Failure> {
        let text =
            serde_json::to_string(options).map_err(|e| Failure::failed(format!("cannot keep the options: {e}")))?;
        let sql = "UPDATE pgrecast.migration SET options = $2::text::jsonb WHERE id = $1";
        self.conn.execute("keep options", sql, &[&id, &text]).await?;
        Ok(())
    }

    /// Keeps a plan that has changed.
    pub async fn keep_plan(&self, id: i32, plan: &Plan) -> Result<(), Failure> {
        Ok(self.conn.batch("keep plan", &Self::keep_plan_sql(id, plan)?).await?)
    }

    /// SQL that does the same as part of a transaction.
    ///
    /// # Errors
    /// A plan that is no JSON.
    pub fn keep_plan_sql(id: i32, plan: &Plan) -> Result<String, Failure> {
        let text = serde_json::to_string(plan).map_err(|e| Failure::failed(format!("cannot keep the plan: {e}")))?;
        Ok(format!("UPDATE pgrecast.migration SET plan = {}::jsonb WHERE id = {id}", Literal(&text)))
    }

    /// The tables whose blocks are copied, as they were measured, with the block ranges copied so far.
    pub async fn leaves(&self, id: i32) -> Result<Vec<LeafState>, Failure> {
        let block = |n: i64| u32::try_from(n).map_err(|_| Failure::failed(format!("pgrecast holds block {n}")));
        let sql = "SELECT relation, filenode, blocks, copy_over FROM pgrecast.leaf WHERE migration = $1";
        let rows = self.conn.rows("read leaves", sql, &[&id]).await?;
        let leaf = |r: &Row| {
            let (oid, filenode, copy_over) = (r.get(0), r.get(1), r.get(3));
            Ok::<_, Failure>(LeafState { oid, filenode, blocks: block(r.get(2))?, copy_over, done: Vec::new() })
        };
        let mut leaves = rows.iter().map(leaf).collect::<Result<Vec<_>, _>>()?;
        let sql = "SELECT relation, first_block, end_block FROM pgrecast.chunk WHERE migration = $1 ORDER BY relation, first_block";
        for row in self.conn.rows("read chunks", sql, &[&id]).await? {
            let oid: u32 = row.get(0);
            if let Some(leaf) = leaves.iter_mut().find(|leaf| leaf.oid == oid) {
                leaf.done.push((block(row.get(1))?, block(row.get(2))?));
            }
        }
        Ok(leaves)
    }

    /// Forgets a migration, and drops the control schema with the last one: one transaction, or a run that dies in between
    /// would leave a schema that no command is about any more.
    pub async fn forget(&self, id: i32) -> Result<(), Failure> {
        let forgotten = self.forget_in_transaction(id).await;
        if forgotten.is_err() {
            self.conn.batch("roll back forget", "ROLLBACK").await?;
        }
        forgotten
    }

    async fn forget_in_transaction(&self, id: i32) -> Result<(), Failure> {
        let sql = format!(
            "BEGIN; SELECT pg_advisory_xact_lock({LOCK_CLASS}, 0); DELETE FROM pgrecast.migration WHERE id = {id}"
        );
        self.conn.batch("forget migration", &sql).await?;
        let left = self.conn.scalar("count migrations", "SELECT count(*) FROM pgrecast.migration").await?;
        if left.as_deref() == Some("0") {
            self.conn
                .batch(
                    "drop control schema",
                    "DROP TABLE pgrecast.progress; DROP TABLE pgrecast.comparison; DROP TABLE pgrecast.slot; DROP TABLE pgrecast.chunk; DROP TABLE pgrecast.leaf; DROP TABLE pgrecast.migration; DROP SCHEMA pgrecast RESTRICT",
                )
                .await
                .inspect_err(|_| tracing::warn!("schema pgrecast holds objects that are not ours"))?;
        }
        Ok(self.conn.batch("commit forget", "COMMIT").await?)
    }
}

/// Why a run ends whose lease is gone: another runner may take over.
pub fn lease_lost() -> Failure {
    Failure::failed("the connection that holds the migration's lease was lost")
        .hint("Run the same command again to go on.")
}

fn read_row(row: &Row) -> Result<Migration, Failure> {
    let id: i32 = row.get(0);
    let layout: i32 = row.get(1);
    if layout != LAYOUT {
        return Err(Failure::refused(format!("migration {id} was begun by another version of pgrecast"))
            .hint("Finish or abort it with the version that began it."));
    }
    let broken = |what: &str, e: String| Failure::failed(format!("migration {id}: cannot read its {what}: {e}"));
    let json = |i: usize| row.get::<_, &str>(i);
    Ok(Migration {
        id,
        source_oid: row.get(2),
        source: row.get(3),
        request: serde_json::from_str(json(4)).map_err(|e| broken("request", e.to_string()))?,
        options: serde_json::from_str(json(5)).map_err(|e| broken("options", e.to_string()))?,
        plan: serde_json::from_str(json(6)).map_err(|e| broken("plan", e.to_string()))?,
        phase: row.get::<_, &str>(7).parse().map_err(|e| broken("phase", e))?,
        x0: row.get::<_, Option<&str>>(8).and_then(|x| x.parse().ok()),
        blocks: row.get::<_, Option<i64>>(9).map(i64::unsigned_abs),
        cutover_released: row.get(10),
        old_table: row.get(11),
        started_at: row.get(12),
        rows_copied: row.get(13),
        old_names: match row.get::<_, Option<&str>>(14) {
            Some(text) => Some(serde_json::from_str(text).map_err(|e| broken("old names", e.to_string()))?),
            None => None,
        },
        ending: [Ending::Finish, Ending::Rollback, Ending::Abort]
            .into_iter()
            .find(|e| row.get::<_, Option<&str>>(15) == Some(e.word())),
        since_swap: row.get(16),
        verdict: match row.get::<_, Option<&str>>(17) {
            Some(text) => Some(serde_json::from_str(text).map_err(|e| broken("verdict", e.to_string()))?),
            None => None,
        },
        asked: (row.get(18), row.get(19)),
        paused: row.get(20),
        others: Vec::new(),
    })
}
