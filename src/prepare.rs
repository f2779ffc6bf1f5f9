//! Shadow, publication, slot, settle: everything the copy rests on.
//!
//! A run that died on the way left its phase at `prepare`, and the next one begins again from a clean slate.

use std::time::{Duration, Instant};

use crate::context::{Context, Group};
use crate::drift;
use crate::error::Failure;
use crate::finish;
use crate::follow;
use crate::journal::table as journal;
use crate::pg::replication::SlotOptions;
use crate::pg::{Conn, Ident, Literal, QualifiedName, Role};
use crate::plan::ddl::{self, Purpose};
use crate::plan::kin;
use crate::plan::shape::Origin;
use crate::plan::tree::{self, Node};
use crate::plan::types::{IdentityChange, Leaf, Member, Names, Plan};
use crate::published;
use crate::report::Event;
use crate::slot;
use crate::state::{Phase, Store};

/// How long the slot's creation, and the settling after it, may wait for open transactions.
pub const WAIT_FOR_TRANSACTIONS: Duration = Duration::from_secs(300);

/// Prepares, unless an earlier run has.
pub async fn run(group: &Group) -> Result<(), Failure> {
    let context = &group.head;
    let conn = context.connector.open(Role::Control).await?;
    for table in group.tables() {
        finish::remove_ours(table, &conn).await?;
    }
    for table in group.tables() {
        conn.batch("create shadow", &create_shadow(&table.plan, &table.names, table.facts.version)).await?;
    }
    publish(group, &conn).await?;
    let x0 = conn
        .scalar("read X0", "SELECT pg_snapshot_xmin(pg_current_snapshot())::xid::text")
        .await?
        .ok_or_else(|| Failure::failed("the server gave no snapshot"))?;
    create_slot(context, &conn, context.slot()).await?;
    settle(group, &conn).await?;
    let mut measured = String::new();
    for table in group.tables() {
        measured.push_str(&measure(table, &conn, &x0).await?);
    }
    let slot = slot::begin_sql(context, &context.slot());
    let phase = Store::set_phase_sql(context.id, Phase::Prepare, Phase::Copy);
    Ok(conn.batch("commit prepare", &format!("BEGIN; {measured}{slot}{phase}; COMMIT")).await?)
}

/// The statements that note what of a table is to be copied, and since when its rows are possibly new.
async fn measure(context: &Context, conn: &Conn, x0: &str) -> Result<String, Failure> {
    let id = context.id;
    let mut sql = format!("DELETE FROM pgrecast.leaf WHERE migration = {id}; ");
    for leaf in context.plan.leaves() {
        let oid = leaf.shape.oid;
        let filenode = drift::read(conn, leaf.shape).await?.filenode;
        sql.push_str(&format!(
            "INSERT INTO pgrecast.leaf (migration, relation, filenode, blocks) SELECT {id}, {oid}, {filenode}, \
             pg_relation_size({oid}) / current_setting('block_size')::int8; "
        ));
    }
    sql.push_str(&format!(
        "UPDATE pgrecast.migration SET x0 = '{x0}', \
         blocks = (SELECT coalesce(sum(blocks), 0) FROM pgrecast.leaf WHERE migration = {id}) WHERE id = {id}; "
    ));
    Ok(sql)
}

/// The sequences that the shadow gets of its own: identity columns, and serial columns that the clauses add. On the way
/// back also that of a serial that is an identity column now.
pub fn own_sequences(plan: &Plan, names: &Names) -> Vec<(String, QualifiedName)> {
    plan.target
        .columns
        .iter()
        .enumerate()
        .filter(|(_, c)| c.sequence.is_some() && (c.origin.is_identity() || !takes_sequence(plan, &c.name)))
        .map(|(n, c)| (c.name.clone(), names.sequence(n)))
        .collect()
}

/// Whether a serial column gets the sequence of the source's.
fn takes_sequence(plan: &Plan, column: &str) -> bool {
    let source = plan.columns.iter().find(|c| c.name == column).and_then(|c| c.source.as_ref());
    source.is_some_and(|s| plan.source.column(s).is_none_or(|s| !s.origin.is_identity()))
}

/// The shadow and those of its partitions, under the names they have until the swap.
pub fn shadow_nodes<'a>(plan: &'a Plan, names: &Names) -> Vec<Node<'a>> {
    let node = |member: Member<'a>| {
        let indexes = (0..member.target.indexes.len()).map(|n| member.index(n)).collect();
        Node { shape: member.target, name: member.shadow(), hangs: member.hangs, indexes }
    };
    plan.members(names).into_iter().map(node).collect()
}

/// The statements that make the empty shadow, those of the parts, and the journal, as one transaction.
pub fn create_shadow(plan: &Plan, names: &Names, version: u32) -> String {
    let mut steps = vec!["BEGIN".to_owned()];
    for (plan, names) in plan.with_parts(names) {
        steps.extend(create_one(&plan, &names, version));
    }
    for (plan, names) in plan.named_lookups() {
        steps.extend(create_one(&plan, &names, version));
        let table = names.shadow().to_string();
        for (n, index) in plan.target.indexes.iter().enumerate() {
            let name = names.index(n);
            steps.push(ddl::index_tablespace(index));
            steps.extend(ddl::build_index(index, &table, &name.name));
            steps.extend(ddl::attach_index(index, &table, &name));
        }
    }
    steps.push(journal::create_sql(plan, names, 1));
    if let Some(guard) = &plan.guard {
        steps.extend(guard.functions(|function, n| names.guard(function, n)));
        steps.push(plan.quarantine_sql(&names.quarantine().to_string()));
    }
    steps.push("COMMIT".to_owned());
    steps.join(";\n")
}

fn create_one(plan: &Plan, names: &Names, version: u32) -> Vec<String> {
    let shadow = names.shadow();
    let table = shadow.to_string();
    let own = own_sequences(plan, names);
    let mut steps = Vec::new();
    let serial = |column: &str| {
        plan.target.column(column).filter(|c| c.origin == Origin::Plain).and_then(|c| c.sequence.as_ref())
    };
    for (column, name) in &own {
        if let Some(sequence) = serial(column) {
            steps.push(ddl::create_sequence(sequence, name));
        }
    }
    let stand_in = names.stand_in();
    steps.extend(tree::create(&shadow_nodes(plan, names), &stand_in, Purpose::Shadow, &own, version));
    for (column, name) in &own {
        if serial(column).is_some() {
            steps.push(format!("ALTER SEQUENCE {name} OWNED BY {table}.{}", Ident(column)));
        }
    }
    steps.extend(kin::ddl::fits(&plan.target.kin, &table));
    steps
}

/// The statement that publishes the keys of all sources.
pub fn publication_sql<'a>(plans: impl Iterator<Item = &'a Plan>, names: &Names, version: u32) -> String {
    let tables: Vec<String> = plans.flat_map(|plan| published(plan, version)).collect();
    let of = if tables.is_empty() { String::new() } else { format!(" FOR TABLE {}", tables.join(", ")) };
    format!("CREATE PUBLICATION {}{of} {}", Ident(&names.publication()), how(version))
}

/// From 18 on an UPDATE fails whose replica identity has generated columns that are not published, as FULL has.
fn how(version: u32) -> &'static str {
    match version {
        180_000.. => "WITH (publish = 'insert, update, delete, truncate', publish_generated_columns = stored)",
        _ => "WITH (publish = 'insert, update, delete, truncate')",
    }
}

/// The source in a publication, with its keys; of a partitioned source each partition that holds rows, so that a TRUNCATE
/// of one is told. Before 15 there are no column lists; under REPLICA IDENTITY FULL a list would make the user's updates
/// fail (CREATE PUBLICATION, PostgreSQL manual).
pub fn published(plan: &Plan, version: u32) -> Vec<String> {
    let table = |leaf: Leaf<'_>| {
        let columns = if version >= 150_000 && !leaf.identity.leaves_full(leaf.shape) {
            format!(" ({})", crate::pg::sql::ident_list(plan.key_names().iter().map(String::as_str)))
        } else {
            String::new()
        };
        format!("ONLY {}{columns}", leaf.shape.name)
    };
    // Beside what remains of a table that was taken apart.
    let beside = plan.besides().iter().map(|beside| {
        let columns = crate::pg::sql::ident_list(beside.told_by().iter().map(String::as_str));
        let columns = match version >= 150_000 && beside.shape.replica_identity != 'f' {
            true => format!(" ({columns})"),
            false => String::new(),
        };
        format!("ONLY {}{columns}", beside.shape.name)
    });
    plan.leaves().into_iter().map(table).chain(beside).collect()
}

/// Publication and slot of the way back, before the swap: what the slot sends begins there. The publication is empty until
/// the swap, since what is written to the shadow before comes from the old table.
pub async fn way_back(context: &Context) -> Result<(), Failure> {
    let conn = context.connector.open(Role::Control).await?;
    let publication = context.names.back_publication();
    let there = format!("SELECT 1 FROM pg_catalog.pg_publication WHERE pubname = {}", Literal(&publication));
    if conn.scalar("look for publication", &there).await?.is_none() {
        conn.batch(
            "create publication",
            &format!("CREATE PUBLICATION {} {}", Ident(&publication), how(context.facts.version)),
        )
        .await?;
    }
    let slot = context.names.back_slot(context.facts.database_oid);
    if slot::is_fit(context, &conn, &slot).await? {
        return Ok(());
    }
    // Nothing of the new table was to be read from it yet.
    finish::drop_slot(&conn, &slot).await?;
    create_slot(context, &conn, slot.clone()).await?;
    match context.failover {
        true => Ok(conn.batch("note slot", &slot::begin_sql(context, &slot)).await?),
        false => Ok(()),
    }
}

/// The statements that give the source, or its partitions, the replica identity the key needs, if any.
pub fn identity_sql(plan: &Plan) -> Vec<String> {
    let of_leaf = |leaf: Leaf<'_>| {
        let alter = format!("ALTER TABLE ONLY {} REPLICA IDENTITY", leaf.shape.name);
        match leaf.identity {
            IdentityChange::None => None,
            IdentityChange::Index { index } => Some(format!("{alter} USING INDEX {}", Ident(index))),
            IdentityChange::Full => Some(format!("{alter} FULL")),
        }
    };
    plan.leaves().into_iter().filter_map(of_leaf).collect()
}

/// Identity and publication in one transaction: the table is never published without an identity (rule 12).
async fn publish(group: &Group, conn: &Conn) -> Result<(), Failure> {
    let context = &group.head;
    let plans = || group.tables().map(|table| &*table.plan);
    let identity: String = plans().flat_map(identity_sql).map(|sql| sql + "; ").collect();
    let publication = publication_sql(plans(), &context.names, context.facts.version);
    let sources = plans().map(Plan::whole_source).collect::<Vec<_>>().join(", ");
    let past_vacuum = context.past_vacuum(sources, context.connector.lock_timeout());
    let keep = published::keep_sql(context.id, &context.names.publication());
    let sql = format!("BEGIN; {past_vacuum}; {identity}{publication}; {keep}; COMMIT");
    let begun = Instant::now();
    loop {
        match conn.batch("create publication", &sql).await {
            Ok(()) => return Ok(()),
            Err(e) => {
                conn.batch("roll back publication", "ROLLBACK").await?;
                if e.verdict() == crate::pg::Verdict::Stop || begun.elapsed() > WAIT_FOR_TRANSACTIONS {
                    return Err(e.into());
                }
                let holders = holders(conn, context, &group.other_oids()).await?;
                context.reporter.say(Event::Waiting { on: format!("a lock on the table, held by {holders}") });
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }
}

/// Creates the slot; the server waits for every open write transaction of the cluster, so those are named.
async fn create_slot(context: &Context, conn: &Conn, name: String) -> Result<(), Failure> {
    let mut replication = follow::connect(&context.connector).await?;
    let pid = replication.backend_pid();
    let options = SlotOptions { temporary: false, failover: context.failover };
    let creation = tokio::spawn(async move {
        let made = replication.create_slot(&name, options).await;
        replication.close().await;
        made
    });
    let begun = Instant::now();
    let mut creation = std::pin::pin!(creation);
    let mut said = String::new();
    loop {
        tokio::select! {
            made = &mut creation => {
                return match made {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(e)) => Err(e.into()),
                    Err(panic) => Err(Failure::failed(format!("the task that creates the slot died: {panic}"))),
                };
            }
            () = tokio::time::sleep(Duration::from_secs(1)) => {
                let writers = conn.scalar("find open writers", OPEN_WRITERS).await?.unwrap_or_default();
                if !writers.is_empty() && writers != said {
                    context.reporter.say(Event::Waiting { on: format!("open write transactions, before the slot can be made: {writers}") });
                    said.clone_from(&writers);
                }
                if begun.elapsed() > WAIT_FOR_TRANSACTIONS {
                    conn.batch("cancel slot", &format!("SELECT pg_cancel_backend({pid})")).await?;
                    return Err(Failure::failed("the replication slot could not be created in time")
                        .detail(format!("Its creation waits for every open write transaction of the cluster; open are: {writers}."))
                        .hint("End them, then run the same command again."));
                }
            }
        }
    }
}

/// Every transaction with an id holds the lock on it, whoever may see what it is doing.
const OPEN_WRITERS: &str = "
SELECT string_agg(who, '; ') FROM (
    SELECT CASE WHEN p.gid IS NOT NULL THEN format('prepared transaction %s in database %s', p.gid, p.database)
        ELSE format('pid %s in database %s (%s, %s s): %s', l.pid, a.datname, coalesce(a.state, 'not to be seen by this role'),
            round(extract(epoch FROM clock_timestamp() - a.xact_start)), left(a.query, 80)) END AS who
    FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
    LEFT JOIN pg_catalog.pg_prepared_xacts p ON l.pid IS NULL AND p.transaction = l.transactionid
    WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
    LIMIT 8) AS open";

/// Rule 2: waits for every transaction that holds a write lock on the source now.
async fn settle(group: &Group, conn: &Conn) -> Result<(), Failure> {
    let (context, others) = (&group.head, group.other_oids());
    const WRITERS: &str = "SELECT virtualtransaction FROM pg_catalog.pg_locks WHERE locktype = 'relation' AND granted \
        AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) \
        AND mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') AND pid IS DISTINCT FROM pg_backend_pid() AND relation IN ";
    let list = |sql: String| async move {
        let rows = conn.simple("find writers of source", &sql).await?;
        Ok::<Vec<String>, Failure>(rows.into_iter().filter_map(|r| r.into_iter().next().flatten()).collect())
    };
    let sql = format!("{WRITERS}({})", group.oids());
    let mut before = list(sql.clone()).await?;
    let begun = Instant::now();
    let mut said = false;
    while !before.is_empty() {
        if begun.elapsed() > WAIT_FOR_TRANSACTIONS {
            return Err(Failure::failed("transactions that write to the table did not end in time")
                .detail(format!("They are {}.", holders(conn, context, &others).await?))
                .hint("End them, then run the same command again."));
        }
        if begun.elapsed() > Duration::from_secs(1) && !said {
            said = true;
            let on = format!("transactions that write to the table: {}", holders(conn, context, &others).await?);
            context.reporter.say(Event::Waiting { on });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = list(sql.clone()).await?;
        before.retain(|v| now.contains(v));
    }
    Ok(())
}

/// Prepared transactions beside the virtual transaction that `pg_locks` has their locks under: that of the session which
/// prepared them or, after a restart, one of their own. The lock on their own number tells it.
pub const PREPARED: &str = "(SELECT x.gid, x.prepared, own.virtualtransaction AS held_as FROM pg_catalog.pg_prepared_xacts x \
    JOIN pg_catalog.pg_locks own ON own.locktype = 'transactionid' AND own.transactionid = x.transaction AND own.pid IS NULL) AS p";

/// Who holds a lock on the source or on one of `others` (oids), for messages.
pub async fn holders(conn: &Conn, context: &Context, others: &[u32]) -> Result<String, Failure> {
    let others: String = others.iter().map(|oid| format!(", {oid}")).collect();
    let sql = format!(
        "SELECT string_agg(who, '; ') FROM (SELECT CASE WHEN p.gid IS NOT NULL THEN format('prepared transaction %s', p.gid) \
         ELSE format('pid %s (%s, %s s, %s): %s', l.pid, string_agg(DISTINCT l.mode, ', '), \
         round(extract(epoch FROM clock_timestamp() - a.xact_start)), a.state, left(a.query, 80)) END AS who \
         FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
         LEFT JOIN {PREPARED} ON l.pid IS NULL AND p.held_as = l.virtualtransaction \
         WHERE l.locktype = 'relation' AND l.database = {} AND l.relation IN ({}{others}) AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid() \
         AND coalesce(a.application_name, '') NOT LIKE 'pgrecast %' \
         GROUP BY l.pid, p.gid, a.xact_start, a.state, a.query ORDER BY a.xact_start LIMIT 8) AS held",
        context.facts.database_oid,
        context.plan.oids()
    );
    Ok(conn.scalar("find lock holders", &sql).await?.unwrap_or_else(|| "nobody any more".to_owned()))
}
