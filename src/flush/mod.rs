//! Brings a batch of changed keys up to date in the shadow, by re-reading their rows from the source (rules 5 to 7).
//!
//! A flush is one REPEATABLE READ transaction: keys that the source no longer has are deleted, the rest is upserted on
//! the target's own key. Rows that meet another unique index because a neighbour is still stale are removed from the
//! shadow and stay in the journal: their stale version was wrong anyway, and its absence lets the neighbour in.

pub mod blame;
mod snapshot;
mod statements;
mod worker;

use std::sync::Arc;

pub use snapshot::{Snapshot, widen};
use statements::Aside;
pub use statements::Statements;
use tokio_postgres::Statement;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
pub use worker::{Batch, Outcome, Settled, worker};

use crate::copy::lock_source;
use crate::drift;
use crate::pg::{Conn, Error, named};
use crate::plan::guard;
use crate::plan::parts::MISPLACED;
use crate::plan::types::{Names, Plan};
use crate::stream::Key;

/// A connection that can flush.
pub struct Flusher {
    conn: Arc<Conn>,
    /// The target, and then the parts.
    targets: Vec<Target>,
    misplaced: Option<Statement>,
    numbering: Vec<Statement>,
    unnumbered: Option<Statement>,
    strays: Option<Statement>,
    begin: String,
    check: String,
    columns: String,
}

/// What brings one table up to date.
struct Target {
    delete_gone: Statement,
    delete_all: Statement,
    plain: Writes,
    guarded: Option<Guarded>,
    exchange: Option<Statement>,
}

/// What has the projection in it.
struct Writes {
    upsert: Statement,
    around: Option<Around>,
}

impl Writes {
    async fn prepare(conn: &Conn, sql: &Statements) -> Result<Self, Error> {
        let around = match &sql.around {
            Some(around) => Some(Around {
                insert: conn.prepare("flush around neighbours", &around.insert).await?,
                left_out: conn.prepare("find neighbours", &around.left_out).await?,
            }),
            None => None,
        };
        Ok(Writes { upsert: conn.prepare("flush upserts", &sql.upsert).await?, around })
    }
}

/// What writes rows of which some do not convert, and what keeps those values in step.
struct Guarded {
    writes: Writes,
    forget: Statement,
    keep: Statement,
}

/// Writes what fits, and tells what does not.
struct Around {
    insert: Statement,
    left_out: Statement,
}

/// Keys whose rows are not in the shadow because a neighbour is in the way.
#[derive(Debug, Default)]
pub struct Conflicts {
    /// Their positions.
    pub positions: Vec<usize>,
    /// What the server says of the first of them.
    pub error: Option<Error>,
}

/// What a flush did.
pub struct Flushed {
    /// The snapshot it read.
    pub snapshot: Snapshot,
    /// Keys that met a stale neighbour.
    pub conflicts: Conflicts,
    /// Positions of keys whose rows have a value that has no number yet.
    pub waiting: Vec<usize>,
    /// Positions of keys with rows of which there can be no row in the target, and why.
    pub strays: Vec<(usize, String)>,
}

/// A deferred constraint would tell only at COMMIT that a row met a stale neighbour, when the statement that wrote it
/// can no longer be undone alone (SET CONSTRAINTS, PostgreSQL manual).
pub const CONFLICTS_AT_ONCE: &str = "SET CONSTRAINTS ALL IMMEDIATE";

impl Target {
    async fn new(conn: &Conn, plan: &Plan, names: &Names) -> Result<Self, Error> {
        let sql = Statements::new(plan, names);
        let guarded = match plan.guarded(names).zip(Aside::new(plan, names)) {
            Some((guarded, aside)) => Some(Guarded {
                writes: Writes::prepare(conn, &Statements::new(&guarded, names)).await?,
                forget: conn.prepare("flush forgets", &aside.forget).await?,
                keep: conn.prepare("flush sets aside", &aside.keep).await?,
            }),
            None => None,
        };
        let exchange = match &sql.exchange {
            Some(exchange) => Some(conn.prepare("flush exchanges", exchange).await?),
            None => None,
        };
        Ok(Target {
            guarded,
            exchange,
            delete_gone: conn.prepare("flush deletes", &sql.delete_gone).await?,
            delete_all: conn.prepare("flush removals", &sql.delete_all).await?,
            plain: Writes::prepare(conn, &sql).await?,
        })
    }

    /// What writes the rows, with the conversions guarded or not.
    fn writes(&self, guarded: bool) -> &Writes {
        self.guarded.as_ref().filter(|_| guarded).map_or(&self.plain, |guarded| &guarded.writes)
    }
}

impl Flusher {
    /// Prepares the statements on `conn`. `columns` is the source's fingerprint (rule 11).
    pub async fn new(conn: Arc<Conn>, plan: &Plan, names: &Names, columns: &str) -> Result<Self, Error> {
        let mut targets = vec![Target::new(&conn, plan, names).await?];
        for (plan, names) in plan.named_parts(names) {
            targets.push(Target::new(&conn, &plan, &names).await?);
        }
        let misplaced = match statements::misplaced(plan) {
            Some(sql) => Some(conn.prepare(MISPLACED, &sql).await?),
            None => None,
        };
        let (fill, unfilled) = statements::numbers(plan);
        let mut numbering = Vec::new();
        for sql in fill {
            numbering.push(conn.prepare("number values", &sql).await?);
        }
        let unnumbered = match unfilled {
            Some(sql) => Some(conn.prepare("find values without a number", &sql).await?),
            None => None,
        };
        let strays = match statements::strays(plan) {
            Some(sql) => Some(conn.prepare(STRAYS, &sql).await?),
            None => None,
        };
        Ok(Flusher {
            targets,
            misplaced,
            numbering,
            unnumbered,
            strays,
            begin: format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {}; {CONFLICTS_AT_ONCE}", lock_source(plan)),
            check: format!(
                "SELECT pg_current_snapshot()::text, f.columns FROM ({}) AS f(filenode, columns)",
                drift::plan_sql(plan)
            ),
            columns: columns.to_owned(),
            conn,
        })
    }

    /// The connection.
    pub fn conn(&self) -> &Conn {
        &self.conn
    }

    /// Flushes the keys in a transaction of its own; where a value does not convert and may become NULL, once more with
    /// the conversions guarded.
    pub async fn flush(&self, keys: &[Key]) -> Result<Flushed, Error> {
        match self.flush_by(keys, false).await {
            Err(e) if self.targets.iter().any(|t| t.guarded.is_some()) && guard::catches(&e) => {
                self.flush_by(keys, true).await
            }
            flushed => flushed,
        }
    }

    async fn flush_by(&self, keys: &[Key], guarded: bool) -> Result<Flushed, Error> {
        match self.attempt(keys, guarded).await {
            Err(e) if is_conflict(&e) => {
                self.roll_back().await?;
                self.careful(keys, guarded).await
            }
            Err(e) => {
                self.roll_back().await?;
                Err(e)
            }
            Ok(flushed) => Ok(flushed),
        }
    }

    /// Whether a snapshot taken now sees this transaction; 0 is one known to be visible.
    pub async fn sees(&self, xid: u64) -> Result<bool, Error> {
        let text = self.conn.scalar("read snapshot", "SELECT pg_current_snapshot()::text").await?;
        Ok(xid == 0 || text.and_then(|t| Snapshot::parse(&t)).is_some_and(|s| s.sees(xid)))
    }

    /// Whether the source has a row with this key now.
    pub async fn source_has(&self, plan: &Plan, key: &Key) -> Result<bool, Error> {
        let sql = format!("SELECT 1 FROM {} WHERE {}", plan.source_from(), blame::condition(plan, key));
        Ok(self.conn.scalar("look for row", &sql).await?.is_some())
    }

    async fn roll_back(&self) -> Result<(), Error> {
        if self.conn.is_closed() { Ok(()) } else { self.conn.batch("roll back flush", "ROLLBACK").await }
    }

    async fn attempt(&self, keys: &[Key], guarded: bool) -> Result<Flushed, Error> {
        let arrays = Arrays::new(keys);
        let params = arrays.params();
        if self.unnumbered.is_some() {
            return self.numbered(keys).await;
        }
        let Some((first, parts)) = self.targets.split_first() else { return Err(no_target()) };
        // One round trip: the server works through them in this order and skips the rest behind an error.
        let (begun, checked, deleted, written, aside) = tokio::join!(
            biased;
            self.conn.batch("begin flush", &self.begin),
            self.conn.simple("check source", &self.check),
            self.run("flush deletes", &first.delete_gone, &params),
            self.run("flush upserts", &first.writes(guarded).upsert, &params),
            self.set_aside(first, guarded, &params),
        );
        begun?;
        let snapshot = self.read_check(checked?)?;
        deleted?;
        written?;
        aside?;
        for part in parts {
            self.write_to(part, guarded, &params).await?;
        }
        self.look_for_misplaced(&params).await?;
        let strays = self.strays(&params).await?;
        self.conn.batch("commit flush", "COMMIT").await?;
        Ok(Flushed { snapshot, conflicts: Conflicts::default(), waiting: Vec::new(), strays })
    }

    /// Gives numbers to values first, in transactions of their own: what several flushers and copiers bring has one number.
    async fn numbered(&self, keys: &[Key]) -> Result<Flushed, Error> {
        let arrays = Arrays::new(keys);
        let params = arrays.params();
        self.number(&params).await?;
        self.conn.batch("begin flush", &self.begin).await?;
        let snapshot = self.read_check(self.conn.simple("check source", &self.check).await?)?;
        let waiting = self.unnumbered(&params).await?;
        for target in &self.targets {
            self.write_to(target, false, &params).await?;
        }
        self.look_for_misplaced(&params).await?;
        self.conn.batch("commit flush", "COMMIT").await?;
        Ok(Flushed { snapshot, conflicts: Conflicts::default(), waiting, strays: Vec::new() })
    }

    async fn number(&self, params: &[&(dyn ToSql + Sync)]) -> Result<(), Error> {
        for statement in &self.numbering {
            self.run("number values", statement, params).await?;
        }
        Ok(())
    }

    /// Positions of keys whose rows have changed since the values got their numbers, and have a value without one. Nothing
    /// of them was written.
    async fn unnumbered(&self, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<usize>, Error> {
        let Some(unnumbered) = &self.unnumbered else { return Ok(Vec::new()) };
        let found = named("find values without a number", self.conn.client().query(unnumbered, params)).await?;
        Ok(found.iter().filter_map(|row| usize::try_from(row.get::<_, i64>(0) - 1).ok()).collect())
    }

    /// All keys are removed first, so that rows which trade a unique value among themselves cannot meet; those that
    /// still meet a neighbour outside of the batch are left out.
    async fn careful(&self, keys: &[Key], guarded: bool) -> Result<Flushed, Error> {
        self.number(&Arrays::new(keys).params()).await?;
        self.conn.batch("begin flush", &self.begin).await?;
        let outcome = async {
            let snapshot = self.read_check(self.conn.simple("check source", &self.check).await?)?;
            let waiting = self.unnumbered(&Arrays::new(keys).params()).await?;
            let mut conflicts = self.replace_by(keys, guarded).await?;
            let strays = self.strays(&Arrays::new(keys).params()).await?;
            // What is not written at all meets nobody.
            conflicts.positions.retain(|met| strays.iter().all(|(stray, _)| stray != met));
            self.conn.batch("commit flush", "COMMIT").await?;
            Ok(Flushed { snapshot, conflicts, waiting, strays })
        }
        .await;
        if outcome.is_err() {
            self.roll_back().await?;
        }
        outcome
    }

    /// Removes the keys and writes their rows again, inside the transaction that is open; gives back those that met a
    /// neighbour, which are then absent from the shadow.
    pub async fn replace(&self, keys: &[Key]) -> Result<Conflicts, Error> {
        self.refuse_strays(&Arrays::new(keys).params()).await?;
        self.replace_by(keys, true).await
    }

    async fn replace_by(&self, keys: &[Key], guarded: bool) -> Result<Conflicts, Error> {
        let mut all = Conflicts::default();
        // Under the cut-over's lock this may be the first to need them.
        self.number(&Arrays::new(keys).params()).await?;
        for target in &self.targets {
            let conflicts = self.replace_in(target, keys, guarded).await?;
            all.positions.extend(conflicts.positions);
            all.error = all.error.or(conflicts.error);
        }
        all.positions.sort_unstable();
        all.positions.dedup();
        self.look_for_misplaced(&Arrays::new(keys).params()).await?;
        Ok(all)
    }

    async fn replace_in(&self, target: &Target, keys: &[Key], guarded: bool) -> Result<Conflicts, Error> {
        let writes = target.writes(guarded);
        let arrays = Arrays::new(keys);
        let params = arrays.params();
        if let Some(exchange) = &target.exchange {
            // What it has met stays as it was: a row of the old table has columns that only it knows.
            return self.halve("flush exchanges", exchange, keys).await;
        }
        self.set_aside(target, guarded, &params).await?;
        self.run("flush removals", &target.delete_all, &params).await?;
        let Some(around) = &writes.around else { return self.halve("flush upserts", &writes.upsert, keys).await };
        self.run("flush around neighbours", &around.insert, &params).await?;
        let left_out = named("find neighbours", self.conn.client().query(&around.left_out, &params)).await?;
        let positions = left_out.iter().filter_map(|row| usize::try_from(row.get::<_, i64>(0) - 1).ok()).collect();
        let mut conflicts = Conflicts { positions, error: None };
        // Only the server can say which row is in the way of which.
        if let Some(first) = conflicts.positions.first().copied() {
            let alone = self.halve("flush upserts", &writes.upsert, &keys[first..=first]).await?;
            conflicts.error = alone.error;
            if alone.positions.is_empty() {
                conflicts.positions.remove(0);
            }
        }
        Ok(conflicts)
    }

    /// Writes the rows of these keys with `statement`: all of them, else half by half, down to those that meet a
    /// neighbour.
    async fn halve(&self, name: &'static str, statement: &Statement, keys: &[Key]) -> Result<Conflicts, Error> {
        let mut conflicts = Conflicts::default();
        let mut parts = vec![(0, keys.len())];
        while let Some((start, end)) = parts.pop() {
            if start == end {
                continue;
            }
            self.conn.batch("savepoint", "SAVEPOINT part").await?;
            match self.run(name, statement, &Arrays::new(&keys[start..end]).params()).await {
                Ok(_) => self.conn.batch("release", "RELEASE SAVEPOINT part").await?,
                Err(e) if is_conflict(&e) => {
                    self.conn.batch("undo part", "ROLLBACK TO SAVEPOINT part; RELEASE SAVEPOINT part").await?;
                    if end - start == 1 {
                        conflicts.positions.push(start);
                        conflicts.error.get_or_insert(e);
                    } else {
                        let middle = start + (end - start) / 2;
                        parts.push((middle, end));
                        parts.push((start, middle));
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Ok(conflicts)
    }

    /// Deletes and upserts inside the transaction that is open, with the conversions guarded where they are to be: there is
    /// no second try.
    pub async fn write(&self, keys: &[Key]) -> Result<(), Error> {
        let arrays = Arrays::new(keys);
        let params = arrays.params();
        self.number(&params).await?;
        for target in &self.targets {
            self.write_to(target, true, &params).await?;
        }
        self.look_for_misplaced(&params).await?;
        self.refuse_strays(&params).await
    }

    async fn write_to(&self, target: &Target, guarded: bool, params: &[&(dyn ToSql + Sync)]) -> Result<(), Error> {
        let (deleted, written, aside) = tokio::join!(
            biased;
            self.run("flush deletes", &target.delete_gone, params),
            self.run("flush upserts", &target.writes(guarded).upsert, params),
            self.set_aside(target, guarded, params),
        );
        deleted?;
        written?;
        aside
    }

    /// Brings the values that do not convert up to date. Where the plain conversions have passed there are none.
    async fn set_aside(&self, target: &Target, guarded: bool, params: &[&(dyn ToSql + Sync)]) -> Result<(), Error> {
        let Some(aside) = &target.guarded else { return Ok(()) };
        let keep = async {
            match guarded {
                true => self.run("flush sets aside", &aside.keep, params).await,
                false => Ok(0),
            }
        };
        let (forgotten, kept) = tokio::join!(biased; self.run("flush forgets", &aside.forget, params), keep);
        forgotten?;
        kept?;
        Ok(())
    }

    /// A row that has no one place in the tables that rows go to.
    ///
    /// # Errors
    /// [`MISPLACED`], with the row.
    async fn look_for_misplaced(&self, params: &[&(dyn ToSql + Sync)]) -> Result<(), Error> {
        let Some(misplaced) = &self.misplaced else { return Ok(()) };
        let found = named(MISPLACED, self.conn.client().query(misplaced, params)).await?;
        match found.first() {
            None => Ok(()),
            Some(row) => Err(Error::client(MISPLACED, row.get::<_, String>(0))),
        }
    }

    /// Keys with rows of which there can be no row in the target.
    async fn strays(&self, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<(usize, String)>, Error> {
        let Some(strays) = &self.strays else { return Ok(Vec::new()) };
        let found = named(STRAYS, self.conn.client().query(strays, params)).await?;
        let place = |row: &tokio_postgres::Row| usize::try_from(row.get::<_, i64>(0) - 1).ok();
        Ok(found.iter().filter_map(|row| Some((place(row)?, row.get::<_, String>(1)))).collect())
    }

    /// # Errors
    /// Where there are any: see [`is_stray`].
    async fn refuse_strays(&self, params: &[&(dyn ToSql + Sync)]) -> Result<(), Error> {
        match self.strays(params).await?.into_iter().next() {
            None => Ok(()),
            Some((_, why)) => Err(Error::client(STRAYS, format!("a row has no old one: {why}"))),
        }
    }

    async fn run(
        &self,
        name: &'static str,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, Error> {
        named(name, self.conn.client().execute(statement, params)).await
    }

    fn read_check(&self, rows: Vec<Vec<Option<String>>>) -> Result<Snapshot, Error> {
        let row = rows.into_iter().next().unwrap_or_default();
        let text = |i: usize| row.get(i).cloned().flatten().unwrap_or_default();
        if text(1) != self.columns {
            return Err(Error::client("check source", drift::DRIFTED));
        }
        Snapshot::parse(&text(0)).ok_or_else(|| Error::client("check source", "the server's snapshot cannot be read"))
    }
}

/// There always is the first.
fn no_target() -> Error {
    Error::client("flush upserts", "there is no table to write to")
}

/// The name of the statement that looks for rows of which there can be none in the target.
const STRAYS: &str = "find stray rows";

/// Whether there was such a row where none may be.
pub fn is_stray(error: &Error) -> bool {
    error.statement == STRAYS && error.sqlstate.is_none() && !error.connection_lost
}

/// A row met a unique or exclusion constraint other than the one the upsert names.
pub fn is_conflict(error: &Error) -> bool {
    error.is(&SqlState::UNIQUE_VIOLATION) || error.is(&SqlState::EXCLUSION_VIOLATION)
}

/// Keys turned into one array for each key column.
struct Arrays<'a> {
    columns: Vec<Vec<&'a str>>,
}

impl<'a> Arrays<'a> {
    fn new(keys: &'a [Key]) -> Self {
        let width = keys.first().map_or(0, |k| k.columns().count());
        let mut columns = vec![Vec::with_capacity(keys.len()); width];
        for key in keys {
            for (column, value) in columns.iter_mut().zip(key.columns()) {
                column.push(value);
            }
        }
        Arrays { columns }
    }

    fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.columns.iter().map(|c| c as &(dyn ToSql + Sync)).collect()
    }
}
