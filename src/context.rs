//! What every phase of one migration shares.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use crate::copy;
use crate::error::Failure;
use crate::follow;
use crate::pg::{Conn, Connector, Literal, Verdict};
use crate::plan::types::{Names, Plan, TargetColumn, Value};
use crate::preflight::ServerFacts;
use crate::published::Published;
use crate::report::{Event, Reporter};
use crate::state::Store;
use crate::throttle::Throttle;
use crate::ties::{Carry, Ties};

/// What is migrated together: one table, or several that share a stream, a lease, their phases and the cut-over.
#[derive(Clone)]
pub struct Group {
    /// The table whose row in the control schema is the migration.
    pub head: Arc<Context>,
    /// The others.
    pub others: Vec<Arc<Context>>,
}

impl Group {
    /// Its tables, the head first.
    pub fn tables(&self) -> impl Iterator<Item = &Arc<Context>> {
        std::iter::once(&self.head).chain(&self.others)
    }

    /// Oids of all sources and their partitions, as an SQL list.
    pub fn oids(&self) -> String {
        self.tables().map(|table| table.plan.oids()).collect::<Vec<_>>().join(", ")
    }

    /// The flushers are divided among the tables; each has one at least.
    pub fn divided(&self, job: follow::Job) -> follow::Job {
        follow::Job { jobs: (job.jobs / (1 + self.others.len())).max(1), ..job }
    }

    /// Those of all but the head.
    pub fn other_oids(&self) -> Vec<u32> {
        self.others.iter().flat_map(|other| other.plan.sources().map(|shape| shape.oid)).collect()
    }
}

/// One table that is migrated, planned and registered.
#[derive(Clone)]
pub struct Context {
    /// Its number; in a [`Group`] that of the migration is the head's.
    pub id: i32,
    /// Connections, with the conversions' settings pinned.
    pub connector: Connector,
    /// The control schema, over the connection that holds the lease.
    pub store: Arc<Store>,
    /// Its plan.
    pub plan: Arc<Plan>,
    /// Its names.
    pub names: Names,
    /// The server.
    pub facts: ServerFacts,
    /// Where everything is said.
    pub reporter: Reporter,
    /// Workers.
    pub jobs: u8,
    /// Its slots are kept on standbys.
    pub failover: bool,
}

impl Context {
    /// What comes before a request for a stronger lock on `tables` in its transaction; they are named as in LOCK TABLE. SHARE UPDATE EXCLUSIVE stops nobody's
    /// reads and writes, so it may be waited for longer than the server's `deadlock_timeout`, after which a running
    /// autovacuum yields to it (PostgreSQL manual, 25.1.6); to a shorter wait it never does. Afterwards a lock is waited
    /// for `then` at most.
    pub fn past_vacuum(&self, tables: impl Display, then: Duration) -> String {
        format!(
            "SET LOCAL lock_timeout = '{}ms'; LOCK TABLE {tables} IN SHARE UPDATE EXCLUSIVE MODE; \
             SET LOCAL lock_timeout = '{}ms'",
            self.past_vacuum_ms(),
            then.as_millis().max(1)
        )
    }

    /// How long such a lock is waited for, in milliseconds.
    pub fn past_vacuum_ms(&self) -> u64 {
        self.facts.deadlock_timeout_ms + 1_000
    }

    /// What is tied to the source now.
    pub async fn ties(&self, conn: &Conn) -> Result<Ties, Failure> {
        let ties = Ties::read(conn, self.plan.source.oid, &self.names.publication(), self.facts.version).await?;
        Ok(ties.for_target(&self.plan).apart_from_former(&self.plan))
    }

    /// The same, however long somebody keeps the lock that the server takes to spell a view, as REFRESH does.
    pub async fn ties_patiently(&self, conn: &Conn) -> Result<Ties, Failure> {
        let mut said = false;
        loop {
            match self.ties(conn).await {
                Err(failure) if failure.source.as_ref().is_some_and(|e| e.verdict() == Verdict::Retry) => {
                    if !said {
                        said = true;
                        self.reporter.say(Event::Waiting { on: format!("a lock on a view: {}", failure.primary) });
                    }
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
                read => return read,
            }
        }
    }

    /// What carries those ties.
    pub fn carry<'a>(&'a self, ties: &'a Ties) -> Carry<'a> {
        Carry { plan: &self.plan, ties, role: &self.facts.role }
    }

    /// Nobody may have made what one of the parts is to be called.
    ///
    /// # Errors
    /// Names it.
    pub async fn refuse_taken(&self, conn: &Conn) -> Result<(), Failure> {
        let view = self.plan.compat_view.iter().map(|view| view.name.clone());
        for name in self.plan.beside(&self.names).into_iter().map(|(plan, _)| plan.target.name).chain(view) {
            let there = format!("SELECT to_regclass({}) IS NOT NULL", Literal(&name.to_string()));
            if conn.scalar("look for new table", &there).await?.as_deref() == Some("t") {
                return Err(Failure::failed(format!("somebody else has made {} meanwhile", name.plain()))
                    .hint("Give it another name, then run pgrecast resume."));
            }
        }
        Ok(())
    }

    /// Gives the shadow the extended statistics of the source, as far as it has not got them.
    pub async fn make_statistics(&self, conn: &Conn, ties: &Ties) -> Result<(), Failure> {
        let sql = format!(
            "SELECT stxname FROM pg_catalog.pg_statistic_ext WHERE stxrelid = {}::regclass",
            Literal(&self.names.shadow().to_string())
        );
        let rows = conn.simple("list statistics of shadow", &sql).await?;
        let there: Vec<String> = rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect();
        let statements = self.carry(ties).statistics_of_shadow(&self.names, &there);
        if statements.is_empty() {
            return Ok(());
        }
        Ok(conn.batch("make statistics", &format!("BEGIN; {}; COMMIT", statements.join(";\n"))).await?)
    }

    /// What following its source takes. On the way back a row that does not fit is no end: the application uses a table
    /// that it fits.
    pub async fn following(
        &self,
        columns: &str,
        copy: &Arc<copy::Progress>,
        throttle: &Throttle,
    ) -> Result<follow::Job, Failure> {
        Ok(follow::Job {
            connector: self.connector.clone(),
            id: self.id,
            lease: self.store.backend().await?,
            plan: self.plan.clone(),
            names: self.names.clone(),
            columns: columns.to_owned(),
            slot: self.slot(),
            failover: self.failover,
            jobs: self.flushers(),
            copy: copy.clone(),
            throttle: throttle.clone(),
            unfit: if self.names.are_backwards() { follow::Unfit::SetAside } else { follow::Unfit::End },
            reporter: self.reporter.clone(),
        })
    }

    /// One where the key's text does not tell equal keys. One on the way back, too, where columns of the old table outlive
    /// a flush: two rows that exchange a unique value must meet in one.
    fn flushers(&self) -> usize {
        let outlives = |c: &TargetColumn| self.names.are_backwards() && c.value == Value::OwnDefault;
        let alone = !self.plan.key.is_canonical() || self.plan.columns.iter().any(outlives);
        if alone { 1 } else { usize::from(self.jobs) }
    }

    /// What it follows.
    pub fn published(&self) -> Published<'_> {
        Published { id: self.names.head(), names: &self.names, source: &self.plan.source }
    }

    /// The slot's name.
    pub fn slot(&self) -> String {
        self.names.slot(self.facts.database_oid)
    }
}
