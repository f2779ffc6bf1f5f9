//! The server and the role.

use super::Finding;
use crate::error::Failure;
use crate::pg::Conn;
use crate::pg::connector::STARTED;
use crate::pg::sql::plain_ident;
use crate::plan::types::SCHEMA;
use crate::standby;

/// What is known of server, database and role.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct ServerFacts {
    /// `server_version_num`.
    pub version: u32,
    /// `server_version`.
    pub version_text: String,
    /// The database's name.
    pub database: String,
    /// The database's oid.
    pub database_oid: u32,
    /// The role.
    pub role: String,
    /// Whether it is a superuser.
    pub superuser: bool,
    replication: bool,
    in_recovery: bool,
    wal_level: String,
    slots_free: i64,
    slots_max: i64,
    senders_free: i64,
    senders_max: i64,
    create_on_database: bool,
    temporary: bool,
    /// Whether it sees what sessions of other roles do (`pg_read_all_stats`).
    pub sees_all: bool,
    /// Whether a standby streams from the server.
    pub has_standby: bool,
    schema_usable: Option<bool>,
    /// When it was started, as [`crate::pg::connector::STARTED`] says it.
    pub started: String,
    /// `deadlock_timeout` in milliseconds.
    pub deadlock_timeout_ms: u64,
}

const FACTS: &str = "
SELECT json_build_object(
    'version', current_setting('server_version_num')::int, 'version_text', split_part(current_setting('server_version'), ' ', 1),
    'database', current_database(), 'database_oid', (SELECT oid::int8 FROM pg_catalog.pg_database WHERE datname = current_database()),
    'role', current_user, 'superuser', r.rolsuper, 'replication', r.rolreplication,
    'in_recovery', pg_catalog.pg_is_in_recovery(), 'wal_level', current_setting('wal_level'),
    'slots_max', current_setting('max_replication_slots')::int,
    'slots_free', current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_catalog.pg_replication_slots),
    'senders_max', current_setting('max_wal_senders')::int,
    'senders_free', current_setting('max_wal_senders')::int - (SELECT count(*) FROM pg_catalog.pg_stat_replication),
    'create_on_database', has_database_privilege(current_database(), 'CREATE'),
    'sees_all', pg_has_role('pg_read_all_stats', 'USAGE'),
    'has_standby', EXISTS (SELECT 1 FROM pg_catalog.pg_stat_replication s WHERE s.pid NOT IN (SELECT active_pid
        FROM pg_catalog.pg_replication_slots WHERE slot_type = 'logical' AND active_pid IS NOT NULL)),
    'temporary', has_database_privilege(current_database(), 'TEMPORARY'),
    'schema_usable', (SELECT has_schema_privilege(n.oid, 'CREATE') AND has_schema_privilege(n.oid, 'USAGE')
        FROM pg_catalog.pg_namespace n WHERE n.nspname = 'pgrecast'),
    'started', ($started),
    'deadlock_timeout_ms', (SELECT setting::int FROM pg_catalog.pg_settings WHERE name = 'deadlock_timeout'))
FROM pg_catalog.pg_roles r WHERE r.rolname = current_user";

impl ServerFacts {
    /// Reads them.
    pub async fn read(conn: &Conn) -> Result<ServerFacts, Failure> {
        let sql = FACTS.replace("$started", STARTED);
        crate::plan::read::json(conn, "read server facts", &sql).await
    }
}

pub(super) async fn findings(conn: &Conn, f: &ServerFacts) -> Result<Vec<Finding>, Failure> {
    let mut found = Vec::new();
    if f.version < 140_000 {
        found.push(Finding::new(
            format!("the server is PostgreSQL {}, and 14 is the oldest supported", f.version_text),
            "Chunks are read by TID range scans, which came with PostgreSQL 14.",
        ));
    }
    if f.in_recovery {
        found.push(Finding::new("the server is a standby", "Connect to the primary."));
    }
    if f.wal_level != "logical" {
        found.push(Finding::new(
            format!("wal_level is {}, not logical", f.wal_level),
            "ALTER SYSTEM SET wal_level = 'logical', then restart the server.",
        ));
    }
    if f.slots_free < 1 {
        found.push(Finding::new(
            format!("all {} replication slots are in use", f.slots_max),
            "Drop a slot that nobody reads (pg_replication_slots), or raise max_replication_slots and restart the server.",
        ));
    }
    if f.senders_free < 1 {
        found.push(Finding::new(
            format!("all {} WAL senders are in use", f.senders_max),
            "Raise max_wal_senders and restart the server.",
        ));
    }
    if !(f.superuser || f.replication || rds_replication(conn).await?) {
        found.push(Finding::of_role(
            format!("role {} may not use replication", plain_ident(&f.role)),
            format!("ALTER ROLE {} REPLICATION.", plain_ident(&f.role)),
        ));
    }
    if !f.create_on_database {
        found.push(Finding::of_role(
            format!(
                "role {} may not create a publication in database {}",
                plain_ident(&f.role),
                plain_ident(&f.database)
            ),
            format!("GRANT CREATE ON DATABASE {} TO {}.", plain_ident(&f.database), plain_ident(&f.role)),
        ));
    }
    if !f.temporary {
        found.push(Finding::new(
            format!(
                "role {} may not create temporary tables in database {}",
                plain_ident(&f.role),
                plain_ident(&f.database)
            ),
            format!(
                "GRANT TEMPORARY ON DATABASE {} TO {}: the clauses are tried on an empty one.",
                plain_ident(&f.database),
                plain_ident(&f.role)
            ),
        ));
    }
    if f.schema_usable == Some(false) {
        found.push(Finding::of_role(
            format!("schema {SCHEMA} exists and belongs to another role"),
            format!(
                "GRANT USAGE, CREATE ON SCHEMA {SCHEMA} TO {}, or run as the role that made it.",
                plain_ident(&f.role)
            ),
        ));
    }
    Ok(found)
}

/// What a slot that is kept on standbys needs of the server.
pub(super) async fn failover_findings(conn: &Conn, f: &ServerFacts) -> Result<Vec<Finding>, Failure> {
    let mut found = Vec::new();
    if f.version < 170_000 {
        found.push(Finding::new(
            format!("--failover-slot: the server is PostgreSQL {}, and slots fail over from 17 on", f.version_text),
            "Leave the option out.",
        ));
        return Ok(found);
    }
    let standbys = standby::read(conn).await?;
    if standbys.is_empty() {
        found.push(Finding::new(
            "--failover-slot: synchronized_standby_slots names no standby",
            "ALTER SYSTEM SET synchronized_standby_slots = 'SLOT', SLOT being the primary_slot_name of the standby that may \
             be promoted, and SELECT pg_reload_conf(). The standby needs sync_replication_slots = on, hot_standby_feedback = \
             on, and a dbname in its primary_conninfo.",
        ));
    }
    if let Some(slots) = standby::silent(&standbys) {
        found.push(Finding::new(
            format!("--failover-slot: no standby streams from {slots}, which synchronized_standby_slots names"),
            "As long as one is away, the server sends no change to a failover slot. Bring it back, or take it off the list.",
        ));
    }
    Ok(found)
}

/// Managed services grant replication by membership in a role of theirs instead of the attribute.
async fn rds_replication(conn: &Conn) -> Result<bool, Failure> {
    let sql = "SELECT bool_or(pg_has_role(oid, 'USAGE')) FROM pg_catalog.pg_roles WHERE rolname = 'rds_replication'";
    Ok(conn.scalar("look for rds_replication", sql).await?.as_deref() == Some("t"))
}
