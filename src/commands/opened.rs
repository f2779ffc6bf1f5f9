//! A command's first connection, and finding the migration it is about.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cli::Connection;
use crate::context::{Context, Group};
use crate::error::{Exit, Failure};
use crate::pg::{Conn, Connector, Role, Target};
use crate::plan::types::Names;
use crate::preflight::ServerFacts;
use crate::report::Reporter;
use crate::state::{Ending, Migration, Store};

/// Connected, with the server known.
pub struct Opened {
    /// Further connections go to the same server.
    pub connector: Connector,
    /// The control schema.
    pub store: Store,
    /// The server.
    pub facts: ServerFacts,
}

/// How long a runner may take to stop.
const LET_GO_WITHIN: Duration = Duration::from_secs(60);

/// Connects.
pub async fn open(connection: &Connection, lock_timeout: Duration) -> Result<Opened, Failure> {
    let target = Target::resolve(connection.dsn.as_deref())?;
    let first = target.connect("pgrecast control", "connect").await.map_err(|e| {
        let hint = e
            .hint
            .clone()
            .unwrap_or_else(|| "Give the database with --dsn, PGRECAST_DSN or the PG* variables of libpq.".to_owned());
        Failure::failed(format!("cannot connect to {}: {}", target.describe(), e.message)).hint(hint).caused_by(&e)
    })?;
    let connector = Connector::new(target.pinned(first.route()), lock_timeout);
    drop(first);
    let control = connector.open(Role::Control).await?;
    let facts = ServerFacts::read(&control).await?;
    let connector = connector.of_server(&facts.started);
    Ok(Opened { connector, store: Store::new(control), facts })
}

impl Opened {
    /// The migration of that number, or the only one that `which` takes.
    pub async fn find(
        &self,
        id: Option<i64>,
        what: &str,
        which: impl Fn(&Migration) -> bool,
    ) -> Result<Migration, Failure> {
        let all = self.store.list().await?;
        if let Some(id) = id {
            return all.into_iter().find(|m| i64::from(m.id) == id).ok_or_else(|| {
                Failure::usage(format!("there is no migration {id}")).hint("pgrecast list shows what there is.")
            });
        }
        let mut fitting: Vec<Migration> = all.into_iter().filter(|m| which(m)).collect();
        match fitting.len() {
            1 => Ok(fitting.remove(0)),
            0 => {
                Err(Failure::usage(format!("there is no migration to {what}"))
                    .hint("pgrecast list shows what there is."))
            }
            n => Err(Failure::usage(format!("there are {n} migrations to {what}"))
                .detail(format!(
                    "They are {}.",
                    fitting.iter().map(|m| format!("{} ({})", m.id, m.source)).collect::<Vec<_>>().join(", ")
                ))
                .hint("Name one by its number.")),
        }
    }

    /// Takes the lease and makes the contexts of a migration's tables.
    pub async fn group(self, migration: &Migration, jobs: u8, reporter: Reporter) -> Result<Group, Failure> {
        self.store.lease(migration.id).await?;
        let head = Context {
            id: migration.id,
            connector: self.connector.clone().with_settings(&migration.plan.settings),
            store: Arc::new(self.store),
            names: Names::new(migration.id),
            plan: Arc::new(migration.plan.clone()),
            facts: self.facts,
            reporter,
            jobs,
            failover: migration.options.failover_slot,
        };
        let beside = |other: &Migration| {
            let names = Names::beside(other.id, head.id);
            let connector = self.connector.clone().with_settings(&other.plan.settings);
            Arc::new(Context { id: other.id, connector, names, plan: Arc::new(other.plan.clone()), ..head.clone() })
        };
        let others = migration.others.iter().map(beside).collect();
        Ok(Group { head: Arc::new(head), others })
    }

    /// The same, taken over from whoever works on it.
    ///
    /// # Errors
    /// Exit 6 where that one does not let go.
    pub async fn take_over(
        self,
        migration: &Migration,
        ending: Ending,
        jobs: u8,
        reporter: Reporter,
    ) -> Result<Group, Failure> {
        let begun = Instant::now();
        while let Err(failure) = self.store.lease(migration.id).await {
            if failure.exit != Exit::Busy {
                return Err(failure);
            }
            if begun.elapsed() > LET_GO_WITHIN {
                // Nobody is left to do what the other one would make room for.
                self.store.ask_to_end(migration.id, None).await?;
                return Err(failure);
            }
            self.store.ask_to_end(migration.id, Some(ending)).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.group(migration, jobs, reporter).await
    }

    /// A connection with the role's own search path.
    pub async fn planner(&self) -> Result<Conn, Failure> {
        Ok(self.connector.open(Role::Planner).await?)
    }
}

/// Not at its end yet.
pub fn is_unfinished(m: &Migration) -> bool {
    !m.phase.is_last()
}
