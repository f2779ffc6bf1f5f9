//! Who is in the way of the lock, and until when.

use std::time::{Duration, Instant};

use super::Options;
use super::gate::Blocker;
use super::lasted::Lasted;
use crate::context::Context;
use crate::error::Failure;
use crate::pg::{Conn, Role};
use crate::prepare::PREPARED;
use crate::report::Event;
use crate::retry::Retry;

/// Between two looks.
const GLANCE: Duration = Duration::from_millis(12);
/// How long those in the way are watched after an attempt in vain.
const WATCH_FOR: Duration = Duration::from_secs(1);
/// How long a good moment is waited for, with the flushers at rest.
const MOMENT_WITHIN: Duration = Duration::from_millis(500);

/// Looks for whoever is in the way.
pub(super) struct Lookout<'a> {
    context: &'a Context,
    /// Relations that are locked besides the source.
    others: Vec<u32>,
    conn: Option<Conn>,
    retry: Retry,
    lasted: Lasted,
    /// Those in the way are to be watched before the next attempt.
    learn: bool,
}

impl<'a> Lookout<'a> {
    /// One that has seen nothing yet.
    pub fn new(context: &'a Context, others: Vec<u32>) -> Self {
        Lookout { context, others, conn: None, retry: Retry::new(), lasted: Lasted::default(), learn: false }
    }
}

impl Lookout<'_> {
    /// A request for the lock was in vain, and others waited behind it.
    pub fn failed(&mut self) {
        self.lasted.spoil();
        self.learn = true;
    }

    /// After an attempt in vain: watches for a while how long those in the way last.
    pub async fn watch(&mut self) -> Result<(), Failure> {
        if !std::mem::take(&mut self.learn) {
            return Ok(());
        }
        let begun = Instant::now();
        while begun.elapsed() < WATCH_FOR {
            self.look().await?;
            tokio::time::sleep(GLANCE).await;
        }
        Ok(())
    }

    /// Waits for a moment in which all that are there are likely to end within `pause`; says who is not, where none comes.
    pub async fn moment(&mut self, pause: Duration) -> Result<Option<String>, Failure> {
        let begun = Instant::now();
        loop {
            let seen = self.look().await?;
            let in_the_way = |b: &&Blocker| !b.hidden && !self.lasted.ends_within(b, pause);
            let who: Vec<&str> = seen.iter().filter(in_the_way).map(|b| b.who.as_str()).collect();
            if who.is_empty() {
                return Ok(None);
            }
            if begun.elapsed() >= MOMENT_WITHIN {
                return Ok(Some(who.join("; ")));
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    async fn look(&mut self) -> Result<Vec<Blocker>, Failure> {
        let seen = self.holders().await?;
        self.lasted.observe(&seen, Instant::now());
        Ok(seen)
    }

    /// Transactions with a lock on the source, or a request for one, older than `pause` and not about to end; autovacuum
    /// yields and is no blocker, a vacuum against wraparound does not and is one.
    pub async fn blockers(&mut self, pause: Duration) -> Result<Vec<Blocker>, Failure> {
        let mut seen = self.look().await?;
        if seen.iter().any(|b| b.hidden) {
            // Whose age this role may not see has it if it is still there after the pause.
            let before = seen;
            tokio::time::sleep(pause).await;
            seen = self.holders().await?;
            for blocker in seen.iter_mut().filter(|b| b.hidden) {
                let same = |b: &&Blocker| b.hidden && b.transaction == blocker.transaction;
                blocker.age_ms = if before.iter().any(|b| same(&b)) { i64::MAX } else { 0 };
            }
        }
        Ok(seen.into_iter().filter(|b| self.lasted.is_hopeless(b, pause)).collect())
    }

    async fn holders(&mut self) -> Result<Vec<Blocker>, Failure> {
        let rows = self.ask("look for blockers", &blockers_sql(self.context, &self.others)).await?;
        let broken = |e: serde_json::Error| Failure::failed(format!("look for blockers: {e}"));
        rows.into_iter()
            .filter_map(|r| r.into_iter().next().flatten())
            .map(|text| serde_json::from_str::<Blocker>(&text).map_err(broken))
            .collect()
    }

    /// Asks over a connection that is opened again where it broke.
    async fn ask(&mut self, name: &'static str, sql: &str) -> Result<Vec<Vec<Option<String>>>, Failure> {
        loop {
            let open = match self.conn.take() {
                Some(open) => Ok(open),
                None => self.context.connector.open(Role::Monitor).await,
            };
            let answer = match open {
                Ok(conn) => match conn.simple(name, sql).await {
                    Ok(rows) => {
                        self.conn = Some(conn);
                        self.retry.reset();
                        return Ok(rows);
                    }
                    Err(e) => e,
                },
                Err(e) => e,
            };
            self.retry.after(answer).await?;
        }
    }
}

fn blockers_sql(context: &Context, others: &[u32]) -> String {
    let others: String = others.iter().map(|oid| format!(", {oid}")).collect();
    format!(
        "SELECT json_build_object('pid', l.pid, 'transaction', l.virtualtransaction, \
         'hidden', p.gid IS NULL AND a.xact_start IS NULL, 'query', left(a.query, 200), 'age_ms', coalesce((extract(epoch FROM clock_timestamp() - \
         coalesce(a.xact_start, p.prepared)) * 1000)::int8, 0), 'who', CASE WHEN p.gid IS NOT NULL \
         THEN 'prepared transaction ' || p.gid ELSE format('pid %s (%s, open for %s s): %s', l.pid, a.state, \
         round(extract(epoch FROM clock_timestamp() - a.xact_start)), left(a.query, 80)) END) \
         FROM (SELECT DISTINCT pid, virtualtransaction FROM pg_catalog.pg_locks WHERE locktype = 'relation' \
         AND database = {0} AND (relation IN ({1}{2}) OR relation IN (SELECT d.objid FROM pg_catalog.pg_depend d \
         WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass \
         AND d.refobjid IN ({1}) AND d.deptype IN ('a', 'i'))) AND pid IS DISTINCT FROM pg_backend_pid()) AS l \
         LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
         LEFT JOIN {PREPARED} ON l.pid IS NULL AND p.held_as = l.virtualtransaction \
         WHERE coalesce(a.application_name, '') NOT LIKE 'pgrecast %' AND (coalesce(a.backend_type, '') <> 'autovacuum worker' \
         OR a.query LIKE '%(to prevent wraparound)%')",
        context.facts.database_oid,
        context.plan.oids(),
        others
    )
}

/// Ends blockers that are older than the user allows.
pub(super) async fn terminate(lookout: &mut Lookout<'_>, options: &Options) -> Result<(), Failure> {
    let Some(limit) = options.terminate_blockers else { return Ok(()) };
    let context = lookout.context;
    for blocker in lookout.blockers(limit.max(options.lock_timeout)).await? {
        let Some(pid) = blocker.pid else { continue };
        context.reporter.say(Event::Warning { text: format!("Ending a blocker: {}.", blocker.who) });
        if let Err(failure) = lookout.ask("end blocker", &format!("SELECT pg_terminate_backend({pid})")).await {
            context.reporter.say(Event::Warning { text: format!("It could not be ended: {}.", failure.primary) });
        }
    }
    Ok(())
}
