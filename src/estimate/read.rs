//! What the catalog and the server's views say. Thin; takes no lock on the table beyond ACCESS SHARE.

use std::time::{Duration, Instant};

use serde::Deserialize;

use super::facts::{Facts, Missing, Open, Standby, Writes};
use crate::error::Failure;
use crate::pg::{Conn, Lsn};
use crate::plan::read;
use crate::plan::types::Plan;
use crate::preflight::ServerFacts;
use crate::prepare::PREPARED;

/// One leaf of the source, or what a leaf may be split into, as the catalog has it.
#[derive(Debug, Deserialize)]
struct Size {
    oid: u32,
    blocks: u32,
    /// Main file, and the little that belongs to it.
    table: f64,
    toast: f64,
    indexes: f64,
    /// `reltuples` and `relpages`, -1 and 0 where nobody counted.
    tuples: f64,
    pages: f64,
    live: f64,
    dead: f64,
}

const SIZES: &str = "
SELECT coalesce(json_agg(json_build_object('oid', c.oid::int8,
    'blocks', pg_catalog.pg_relation_size(c.oid) / current_setting('block_size')::int8,
    'table', pg_catalog.pg_table_size(c.oid) - t.bytes, 'toast', t.bytes, 'indexes', pg_catalog.pg_indexes_size(c.oid),
    'tuples', c.reltuples, 'pages', c.relpages, 'live', coalesce(s.n_live_tup, 0), 'dead', coalesce(s.n_dead_tup, 0))), '[]')
FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_stat_all_tables s ON s.relid = c.oid
CROSS JOIN LATERAL (SELECT CASE WHEN c.reltoastrelid = 0 THEN 0 ELSE pg_catalog.pg_total_relation_size(c.reltoastrelid) END) AS t(bytes)
WHERE c.oid IN (";

/// What is counted at the beginning and at the end of a sample.
#[derive(Debug, Deserialize)]
struct Count {
    wal: Lsn,
    next_xid: u32,
    #[serde(flatten)]
    writes: Writes,
}

/// What the sample came to, besides the facts.
pub struct Sampled {
    /// Blocks of each leaf, in the order of the plan.
    pub blocks: Vec<u32>,
    /// The first transaction that counts as one of the sample's; none where nothing was written.
    pub since: Option<u32>,
    /// The tablespace of what names none.
    pub default_tablespace: String,
}

/// Looks, waits for the time of the sample, and looks again.
///
/// # Errors
/// The server's.
pub async fn run(
    conn: &Conn,
    plan: &Plan,
    server: &ServerFacts,
    sample: Duration,
    missing: &mut Vec<Missing>,
) -> Result<(Facts, Sampled), Failure> {
    let leaves: Vec<u32> = plan.leaves().iter().map(|leaf| leaf.shape.oid).collect();
    let list = leaves.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let earlier = open(conn, plan, server).await?;
    let (before, begun) = (count(conn, &list).await?, Instant::now());
    tokio::time::sleep(sample).await;
    let after = count(conn, &list).await?;
    let seconds = begun.elapsed().as_secs_f64();
    // Whose age is not to be seen has one if it is still there.
    let mut open_transactions = open(conn, plan, server).await?;
    open_transactions
        .retain(|now| now.seconds.is_some() || earlier.iter().any(|before| before.transaction == now.transaction));
    if open_transactions.iter().any(|open| open.seconds.is_none()) {
        missing.push(Missing::new("how long some transactions have been open", no_stats(server)));
    }
    let standbys = standbys(conn, server, missing).await?;
    // Behind the sample, whose rows may be in new blocks.
    let sizes: Vec<Size> = read::json(conn, "measure table for estimate", &format!("{SIZES}{list})")).await?;
    let writes = after.writes.since(before.writes, seconds);
    let sum = |of: fn(&Size) -> f64| sizes.iter().map(of).fold(0.0, |all, one| all + one);
    let facts = Facts {
        table: plan.source.name.plain(),
        rows: sum(rows),
        dead_rows: sum(|s| s.dead),
        table_bytes: sum(|s| s.table),
        toast_bytes: sum(|s| s.toast),
        index_bytes: sum(|s| s.indexes),
        blocks: sum(|s| f64::from(s.blocks)),
        sampled_seconds: seconds,
        writes,
        different_share: None,
        wal_bytes_per_second: after.wal.0.saturating_sub(before.wal.0) as f64 / seconds,
        standbys,
        open_transactions,
    };
    let blocks = leaves.iter().map(|oid| sizes.iter().find(|s| s.oid == *oid).map_or(0, |s| s.blocks)).collect();
    let sql = "SELECT spcname FROM pg_catalog.pg_tablespace t JOIN pg_catalog.pg_database d ON d.dattablespace = t.oid \
               WHERE d.datname = current_database()";
    let default_tablespace = conn.scalar("read tablespace", sql).await?.unwrap_or_default();
    let since = (writes.inserts + writes.updates > 0.0).then_some(before.next_xid);
    Ok((facts, Sampled { blocks, since, default_tablespace }))
}

/// As the planner reckons: the density when it was counted last, and the size of today.
fn rows(size: &Size) -> f64 {
    /// Of a table that nobody counted: rows of about a hundred bytes.
    const DENSITY: f64 = 64.0;
    match size {
        Size { tuples, pages, blocks, .. } if *tuples >= 0.0 && *pages > 0.0 => tuples / pages * f64::from(*blocks),
        Size { live, .. } if *live > 0.0 => *live,
        Size { blocks, .. } => f64::from(*blocks) * DENSITY,
    }
}

async fn count(conn: &Conn, leaves: &str) -> Result<Count, Failure> {
    let sql = format!(
        "SELECT json_build_object('wal', pg_catalog.pg_current_wal_lsn()::text, \
         'next_xid', pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::xid::text::int8, \
         'inserts', coalesce(sum(n_tup_ins), 0), 'updates', coalesce(sum(n_tup_upd), 0), 'deletes', coalesce(sum(n_tup_del), 0)) \
         FROM pg_catalog.pg_stat_all_tables WHERE relid IN ({leaves})"
    );
    read::json(conn, "count writes for estimate", &sql).await
}

/// Transactions that hold the table, or write anywhere in the cluster, and have been at it for a second or more, or for a
/// time that this role may not see, as it may not see what kind of backend theirs is.
async fn open(conn: &Conn, plan: &Plan, server: &ServerFacts) -> Result<Vec<Open>, Failure> {
    let sql = format!(
        "SELECT coalesce(json_agg(json_build_object('who', coalesce('prepared transaction ' || p.gid, \
         concat_ws(', ', 'pid ' || l.pid, nullif(a.application_name, ''), a.state)), \
         'seconds', extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared)), \
         'on_table', l.on_table, 'writes', l.writes, 'transaction', l.virtualtransaction) ORDER BY coalesce(a.xact_start, p.prepared)), '[]') \
         FROM (SELECT pid, virtualtransaction, bool_or(locktype = 'relation' AND database = {} AND relation IN ({})) AS on_table, \
             bool_or(locktype = 'transactionid' AND mode = 'ExclusiveLock') AS writes \
             FROM pg_catalog.pg_locks WHERE granted AND pid IS DISTINCT FROM pg_backend_pid() GROUP BY pid, virtualtransaction) AS l \
         LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
         LEFT JOIN {PREPARED} ON l.pid IS NULL AND p.held_as = l.virtualtransaction \
         WHERE (l.on_table OR l.writes) AND coalesce(a.application_name, '') NOT LIKE 'pgrecast %' \
         AND (coalesce(a.xact_start, p.prepared) < clock_timestamp() - interval '1 second' \
             OR a.pid IS NOT NULL AND a.xact_start IS NULL AND a.backend_type IS NULL)",
        server.database_oid,
        plan.oids()
    );
    read::json(conn, "look for open transactions", &sql).await
}

async fn standbys(conn: &Conn, server: &ServerFacts, missing: &mut Vec<Missing>) -> Result<Vec<Standby>, Failure> {
    let sql = "SELECT coalesce(json_agg(json_build_object('name', coalesce(nullif(application_name, ''), 'standby'), \
        'lag_seconds', extract(epoch FROM replay_lag), \
        'behind_bytes', pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), replay_lsn)) ORDER BY application_name), '[]') \
        FROM pg_catalog.pg_stat_replication WHERE pid NOT IN (SELECT active_pid FROM pg_catalog.pg_replication_slots \
        WHERE slot_type = 'logical' AND active_pid IS NOT NULL)";
    let standbys: Vec<Standby> = read::json(conn, "look at standbys for estimate", sql).await?;
    if standbys.iter().any(|s| s.behind_bytes.is_none()) && !server.sees_all {
        missing.push(Missing::new("the lag of the standbys", no_stats(server)));
    }
    Ok(standbys)
}

fn no_stats(server: &ServerFacts) -> String {
    format!("role {} has no pg_read_all_stats", crate::pg::sql::plain_ident(&server.role))
}
