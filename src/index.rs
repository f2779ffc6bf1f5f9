//! Builds what was left off for the copy: indexes and the constraints they serve, several at a time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tokio_postgres::error::SqlState;

use crate::context::{Context, Group};
use crate::error::Failure;
use crate::pg::{Conn, Error, Ident, Literal, QualifiedName, Role};
use crate::plan::shape::Index;
use crate::plan::types::{Member, Names, Plan};
use crate::plan::{ddl, tree};
use crate::prepare;
use crate::report::Event;
use crate::retry::Retry;
use crate::state::{Phase, Store};
use crate::throttle::Throttle;
use crate::unfit::with_final_names;

/// What one build has, where the server's own setting is less. A sort that fits into memory saves a pass over the disk. A
/// small table, as partitions often are, is not worth parallel workers (PostgreSQL's default asks 8 MB for the first, and
/// three times as much for each further one): to start them and to merge their sorts takes as long as they save, and
/// other builds run beside it anyway.
const BUILD_MEANS: &str = "SELECT set_config(name, CASE name WHEN 'maintenance_work_mem' THEN '256MB' ELSE '64MB' END, false) \
    FROM pg_catalog.pg_settings WHERE name = 'maintenance_work_mem' AND setting::int8 < 262144 \
    OR name = 'min_parallel_table_scan_size' AND setting::int8 < 8192";

/// The parallel workers that one build may have beside it: none where one worker is asked for, or gentle work.
fn parallel_workers(jobs: u8, throttle: &Throttle) -> &'static str {
    match jobs > 1 && !throttle.is_gentle() {
        true => "RESET max_parallel_maintenance_workers",
        false => "SET max_parallel_maintenance_workers = 0",
    }
}

/// One index to build: where, and by which statements.
#[derive(Debug, Clone)]
pub struct Build {
    /// Its name until the swap.
    pub name: QualifiedName,
    /// Its name for people.
    pub shown: String,
    /// What builds it, one transaction; empty where its constraint does.
    pub build: Vec<String>,
    /// What makes it what it is once all are built.
    pub attach: Vec<String>,
    /// The table it is on.
    table: QualifiedName,
    /// The columns it keeps unique, for blame.
    unique_columns: Option<Vec<String>>,
    /// The columns by which that names rows.
    key: Vec<String>,
}

/// Every index of the shadow's tables, in the order of the plan. Those of a partitioned table come behind those of its
/// partitions, which are attached to them.
pub fn builds(plan: &Plan, names: &Names) -> Vec<Build> {
    plan.with_parts(names).iter().flat_map(|(plan, names)| of_target(plan, names)).collect()
}

fn of_target(plan: &Plan, names: &Names) -> Vec<Build> {
    let nodes = prepare::shadow_nodes(plan, names);
    let mut list: Vec<Build> = plan.holders(names).iter().flat_map(|holder| builds_of(plan, holder)).collect();
    for (n, node) in nodes.iter().enumerate().rev().filter(|(_, node)| node.shape.is_partitioned()) {
        list.push(Build {
            name: node.name.clone(),
            shown: node.shape.name.plain(),
            build: Vec::new(),
            attach: tree::partitioned_indexes(&nodes, n),
            table: node.name.clone(),
            unique_columns: None,
            key: Vec::new(),
        });
    }
    list
}

/// Those of one table that holds rows.
pub fn builds_of(plan: &Plan, holder: &Member<'_>) -> Vec<Build> {
    let helper = plan.key.needs_helper_index.then(|| helper(plan, holder));
    let key: Vec<String> = plan.key.columns.iter().map(|k| k.target.clone()).collect();
    of_leaf(holder).into_iter().chain(helper).map(|build| Build { key: key.clone(), ..build }).collect()
}

/// The index over the key that is needed until the swap: to arbitrate upserts, or to find a row among partitions.
fn helper(plan: &Plan, holder: &Member<'_>) -> Build {
    let (name, table) = (holder.helper_index(), holder.shadow());
    let columns: Vec<String> = plan.key.columns.iter().map(|k| k.target.clone()).collect();
    let (unique, unique_columns) = match plan.makes_partitions() {
        false => ("UNIQUE ", Some(columns.clone())),
        true => ("", None),
    };
    let list = crate::pg::sql::ident_list(columns.iter().map(String::as_str));
    let build = vec![format!("CREATE {unique}INDEX {} ON {table} ({list})", Ident(&name.name))];
    Build { shown: name.plain(), name, build, attach: Vec::new(), table, unique_columns, key: Vec::new() }
}

fn of_leaf(leaf: &Member<'_>) -> Vec<Build> {
    let shadow = leaf.shadow();
    let table = shadow.to_string();
    let one = |(n, index): (usize, &Index)| {
        let name = leaf.index(n);
        let own = Index { name: name.name.clone(), ..index.clone() };
        // Primary keys of partitions keep the other builds of their table away for as long as they take.
        let patience = index.parent.as_ref().map(|_| "SET LOCAL lock_timeout = 0".to_owned());
        let build = ddl::build_index(&own, &table, &name.name)
            .map_or_else(Vec::new, |sql| patience.into_iter().chain([ddl::index_tablespace(index), sql]).collect());
        let mut attach = match index.is_deferred_to_swap() {
            true => Vec::new(),
            false => ddl::attach_index(&own, &table, &name),
        };
        if build.is_empty() {
            attach.insert(0, ddl::index_tablespace(index));
        }
        let unique_columns = if index.unique { index.column_names() } else { None };
        let (shown, table) = (index.name.clone(), shadow.clone());
        Build { name, shown, build, attach, table, unique_columns, key: Vec::new() }
    };
    leaf.target.indexes.iter().enumerate().map(one).collect()
}

/// The first of each table, then the second of each: builds of one table may have to wait for each other.
fn in_turns<'a>(builds: impl Iterator<Item = &'a Build>) -> Vec<&'a Build> {
    let mut seen: HashMap<&QualifiedName, usize> = HashMap::new();
    let mut all: Vec<(usize, &Build)> = builds
        .map(|build| {
            let of_table = seen.entry(&build.table).or_default();
            *of_table += 1;
            (*of_table, build)
        })
        .collect();
    all.sort_by_key(|(turn, _)| *turn);
    all.into_iter().map(|(_, build)| build).collect()
}

/// What is to be built, each with the table that it belongs to.
type Queue = std::sync::Mutex<Vec<(Arc<Context>, Build)>>;

/// Builds all that are missing, so many side by side, attaches them, then moves on.
pub async fn run(group: &Group, jobs: u8, throttle: &Throttle) -> Result<(), Failure> {
    let all: Vec<(&Arc<Context>, Vec<Build>)> =
        group.tables().map(|table| (table, builds(&table.plan, &table.names))).collect();
    let turns = |(table, builds): &(&Arc<Context>, Vec<Build>)| {
        let turns = in_turns(builds.iter().filter(|b| !b.build.is_empty())).into_iter();
        turns.map(|build| (Arc::clone(table), build.clone())).collect::<Vec<_>>()
    };
    let queue: Arc<Queue> = Arc::new(std::sync::Mutex::new(all.iter().flat_map(turns).rev().collect()));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..jobs {
        workers.spawn(worker(queue.clone(), jobs, throttle.clone()));
    }
    let mut first = None;
    while let Some(ended) = workers.join_next().await {
        let failure = match ended {
            Ok(Ok(())) => continue,
            Ok(Err(failure)) => failure,
            Err(panic) => Failure::failed(format!("an index worker died: {panic}")),
        };
        first.get_or_insert(failure);
    }
    match first {
        Some(failure) => Err(failure),
        None => attach(&group.head, &all).await,
    }
}

async fn attach(head: &Context, all: &[(&Arc<Context>, Vec<Build>)]) -> Result<(), Failure> {
    let mut retry = Retry::new();
    while let Err(failure) = attach_once(head, all).await {
        retry.after_failure(failure).await?;
    }
    Ok(())
}

/// Constraints need a stronger lock on the shadow than a build beside them would allow, so they come last: all of
/// them in one transaction, which also moves on.
async fn attach_once(head: &Context, all: &[(&Arc<Context>, Vec<Build>)]) -> Result<(), Failure> {
    let conn = head.connector.open(Role::Indexer).await?;
    // The answer to an earlier COMMIT may have been lost.
    let phase = format!("SELECT phase FROM pgrecast.migration WHERE id = {}", head.id);
    if conn.scalar("look for phase", &phase).await?.as_deref() == Some(Phase::CatchUp.word()) {
        return Ok(());
    }
    conn.batch("give build means", BUILD_MEANS).await?;
    conn.batch("begin attach", "BEGIN").await?;
    let attached = all.iter().flat_map(|(context, builds)| builds.iter().map(move |build| (context, build)));
    for (context, build) in attached.filter(|(_, b)| !b.attach.is_empty()) {
        if let Err(e) = conn.batch("attach index", &build.attach.join(";\n")).await {
            conn.batch("roll back attach", "ROLLBACK").await?;
            return Err(match is_duplicate(&e) {
                true => blame(context, &conn, build, &e).await,
                false => e.into(),
            });
        }
    }
    let next = Store::set_phase_sql(head.id, Phase::Index, Phase::CatchUp);
    Ok(conn.batch("commit attach", &format!("{next}; COMMIT")).await?)
}

fn is_duplicate(error: &Error) -> bool {
    error.is(&SqlState::UNIQUE_VIOLATION) || error.is(&SqlState::EXCLUSION_VIOLATION)
}

async fn worker(queue: Arc<Queue>, jobs: u8, throttle: Throttle) -> Result<(), Failure> {
    let mut retry = Retry::new();
    let mut kept = None;
    let next = || queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
    while let Some((context, build)) = next() {
        throttle.pass().await;
        loop {
            let conn = match kept.take() {
                Some(conn) => conn,
                None => match context.connector.open(Role::Indexer).await {
                    Ok(conn) => conn,
                    Err(e) => {
                        retry.after(e).await?;
                        continue;
                    }
                },
            };
            match build_one(&context, &conn, &build, parallel_workers(jobs, &throttle)).await {
                Ok(()) => {
                    kept = Some(conn);
                    break;
                }
                Err(e) if is_duplicate(&e) => {
                    conn.batch("roll back index", "ROLLBACK").await?;
                    return Err(blame(&context, &conn, &build, &e).await);
                }
                Err(e) => retry.after(e).await?,
            }
        }
    }
    Ok(())
}

async fn build_one(context: &Context, conn: &Conn, build: &Build, parallel: &str) -> Result<(), Error> {
    let exists = format!("SELECT to_regclass({}) IS NOT NULL", Literal(&build.name.to_string()));
    if conn.scalar("look for index", &exists).await?.as_deref() == Some("t") {
        return Ok(());
    }
    context.reporter.say(Event::IndexBegan { name: build.shown.clone() });
    let begun = Instant::now();
    conn.batch("give build means", &format!("{BUILD_MEANS}; {parallel}")).await?;
    conn.batch("build index", &format!("BEGIN;\n{};\nCOMMIT", build.build.join(";\n"))).await?;
    context.reporter.say(Event::IndexEnded { name: build.shown.clone(), seconds: begun.elapsed().as_secs_f64() });
    Ok(())
}

/// A unique index that cannot be built names the rows that stand in its way.
async fn blame(context: &Context, conn: &Conn, build: &Build, error: &Error) -> Failure {
    let plan = &context.plan;
    let rows = match &build.unique_columns {
        Some(columns) => two_rows(conn, build, columns).await.unwrap_or_default(),
        None => String::new(),
    };
    let said = |text: &str| with_final_names(plan, &context.names, text);
    let mut detail = said(error.detail.as_deref().unwrap_or_default());
    if !rows.is_empty() {
        detail = format!("{detail} Rows with the same value: {rows}.").trim().to_owned();
    }
    Failure::failed(format!("the new table cannot have {}: {}", build.shown, said(&error.message)))
        .detail(detail)
        .hint("Correct the rows or the clauses; the table is as it was. Then run pgrecast abort and start again.")
        .caused_by(error)
}

async fn two_rows(conn: &Conn, build: &Build, columns: &[String]) -> Result<String, Error> {
    let shadow = &build.table;
    let list = crate::pg::sql::ident_list(columns.iter().map(String::as_str));
    let key = build
        .key
        .iter()
        .map(|k| format!("format('%I = %s', {}, {}::text)", Literal(k), Ident(k)))
        .collect::<Vec<_>>()
        .join(", ");
    let sql = format!(
        "SELECT concat_ws(', ', {key}) FROM {shadow} WHERE ({list}) IN \
         (SELECT {list} FROM {shadow} GROUP BY {list} HAVING count(*) > 1 LIMIT 1) LIMIT 2"
    );
    let rows = conn.simple("find duplicates", &sql).await?;
    let texts: Vec<String> = rows.into_iter().filter_map(|r| r.into_iter().next().flatten()).collect();
    Ok(texts.join(" and "))
}
