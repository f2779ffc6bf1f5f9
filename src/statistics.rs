//! The planner's statistics of the shadow, before the swap: plans made from none would turn the application's look-ups
//! into scans.

use std::sync::{Arc, Mutex, PoisonError};

use crate::context::Context;
use crate::error::Failure;
use crate::pg::{Conn, Error, Role};
use crate::plan::types::{Member, Names, Plan};

/// The first version that takes a partitioned table without its partitions (ANALYZE, PostgreSQL manual).
const KNOWS_ONLY: u32 = 180_000;

/// What is said to the server, in this order.
#[derive(Debug)]
pub struct Statements {
    /// One for each table that holds rows; side by side.
    pub tables: Vec<String>,
    /// What keeps the next ones from them, while another session holds it.
    pub hold: Option<String>,
    /// Those of partitioned tables.
    pub above: Vec<String>,
}

impl Statements {
    /// ANALYZE of a partitioned table visits its partitions as well, one after the other, and looks at as many rows of each
    /// as of the whole. So they are visited before, several at a time, and then left out: before 18 by a lock that nobody
    /// else wants, which ANALYZE passes over where it is told to (`expand_vacuum_rel` and `vacuum_open_relation` in
    /// `src/backend/commands/vacuum.c`). To take rows from them for the whole it needs no more than to read.
    pub fn new(plan: &Plan, names: &Names, version: u32, vacuum: bool) -> Statements {
        let verb = if vacuum { "VACUUM (ANALYZE)" } else { "ANALYZE" };
        let leaves: Vec<String> = plan.holders(names).iter().map(|leaf| leaf.shadow().to_string()).collect();
        let beside: Vec<String> = plan.beside(names).iter().map(|(_, names)| names.shadow().to_string()).collect();
        let tables = leaves.iter().chain(&beside).map(|table| format!("{verb} {table}")).collect();
        let members = plan.members(names);
        let above: Vec<&Member<'_>> = members.iter().filter(|member| member.target.is_partitioned()).collect();
        if above.is_empty() {
            return Statements { tables, hold: None, above: Vec::new() };
        }
        if version >= KNOWS_ONLY {
            let above = above.iter().map(|member| format!("ANALYZE ONLY {}", member.shadow()));
            return Statements { tables, hold: None, above: above.collect() };
        }
        Statements {
            tables,
            hold: (!leaves.is_empty())
                .then(|| format!("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE", leaves.join(", "))),
            above: vec![format!("ANALYZE (SKIP_LOCKED) {}", names.shadow())],
        }
    }

    /// All of them, for whoever wants to see them.
    pub fn all(&self) -> impl Iterator<Item = &String> {
        self.tables.iter().chain(&self.hold).chain(&self.above)
    }
}

/// Gathers them. Safe to repeat.
pub async fn gather(context: &Arc<Context>, vacuum: bool) -> Result<(), Failure> {
    let statements = Statements::new(&context.plan, &context.names, context.facts.version, vacuum);
    let queue: Vec<String> = statements.tables.into_iter().rev().collect();
    let workers = usize::from(context.jobs).min(queue.len());
    let queue = Arc::new(Mutex::new(queue));
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..workers {
        all.spawn(worker(context.clone(), queue.clone()));
    }
    while let Some(ended) = all.join_next().await {
        match ended {
            Ok(visited) => visited?,
            Err(panic) => return Err(Failure::failed(format!("a task that analyzes the shadow died: {panic}"))),
        }
    }
    if statements.above.is_empty() {
        return Ok(());
    }
    let conn = context.connector.open(Role::Indexer).await?;
    // It says of each partition that it is passed over.
    conn.batch("quieten server", "SET client_min_messages = error").await?;
    match &statements.hold {
        None => Ok(visit(&conn, &statements.above).await?),
        Some(hold) => {
            let holder = context.connector.open(Role::Indexer).await?;
            holder.batch("hold partitions", &format!("BEGIN; {hold}")).await?;
            visit(&conn, &statements.above).await?;
            Ok(holder.batch("let partitions go", "COMMIT").await?)
        }
    }
}

async fn visit(conn: &Conn, statements: &[String]) -> Result<(), Error> {
    for statement in statements {
        conn.batch("analyze shadow", statement).await?;
    }
    Ok(())
}

async fn worker(context: Arc<Context>, queue: Arc<Mutex<Vec<String>>>) -> Result<(), Error> {
    let conn = context.connector.open(Role::Indexer).await?;
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
    while let Some(statement) = next() {
        conn.batch("analyze shadow", &statement).await?;
    }
    Ok(())
}
