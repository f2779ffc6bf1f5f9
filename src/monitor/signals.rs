//! What the server is asked for: by the throttle, and by whoever steers from another terminal.

use super::decide::{Look, Standby};
use crate::cli::MigrateOptions;
use crate::error::Failure;
use crate::pg::{Conn, Literal};
use crate::report::Progress;

/// What was asked of the run by its control row.
pub struct Asked {
    /// Its options, where they could be read.
    pub options: Option<MigrateOptions>,
    /// It is to pause.
    pub paused: bool,
    /// It is to be given up, or is already.
    aborted: bool,
}

impl Asked {
    /// Why the run is to end, if so.
    pub fn ended(&self, id: i32) -> Option<Failure> {
        self.aborted.then(|| given_up(id))
    }
}

/// What a run ends with that is aborted from elsewhere.
pub fn given_up(id: i32) -> Failure {
    Failure::failed(format!("migration {id} is given up: pgrecast abort was run elsewhere"))
        .hint("The table is as it was; pgrecast abort removes what belongs to the migration.")
}

/// What was asked.
pub async fn asked(conn: &Conn, id: i32) -> Result<Asked, Failure> {
    let sql =
        format!("SELECT options::text, paused::text, coalesce(ending, '') FROM pgrecast.migration WHERE id = {id}");
    let Some(row) = conn.simple("look for steering", &sql).await?.into_iter().next() else {
        return Ok(Asked { options: None, paused: false, aborted: true });
    };
    let text = |i: usize| row.get(i).and_then(|v| v.as_deref()).unwrap_or_default();
    Ok(Asked {
        options: serde_json::from_str(text(0)).ok(),
        paused: text(1) == "true",
        aborted: text(2) == crate::state::Ending::Abort.word(),
    })
}

/// Looks at all signals.
pub async fn look(conn: &Conn, slot: &str, query: Option<&str>, received: u64, paused: bool) -> Result<Look, Failure> {
    let slot = Literal(slot);
    let sql = format!(
        "SELECT coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::int8, 0)::text, s.safe_wal_size::text, \
         (SELECT (setting::int8 * 1048576)::text FROM pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size'), \
         pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::int8::text, \
         (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE state = 'active' AND backend_type = 'client backend' \
         AND application_name NOT LIKE 'pgrecast %')::text \
         FROM (SELECT 1) AS one LEFT JOIN pg_catalog.pg_replication_slots AS s ON s.slot_name = {slot}"
    );
    let rows = conn.simple("look at signals", &sql).await?;
    let row = rows.into_iter().next().unwrap_or_default();
    let number = |i: usize| row.get(i).cloned().flatten().and_then(|t| t.parse::<i64>().ok());
    let size = |i: usize| number(i).and_then(|n| u64::try_from(n).ok());
    let wal_end = size(3).unwrap_or(0);
    Ok(Look {
        slot_wal: size(0).unwrap_or(0),
        // At or below zero the next checkpoint may give the slot up.
        slot_room: number(1).map(|room| room.max(0).unsigned_abs()).zip(size(2)),
        wal_end,
        stream_lag: if received == 0 { 0 } else { wal_end.saturating_sub(received) },
        standbys: standbys(conn).await?,
        active: u32::try_from(number(4).unwrap_or(0)).unwrap_or(u32::MAX),
        query: match query {
            Some(sql) => Some(conn.scalar("ask throttle query", sql).await?),
            None => None,
        },
        paused,
    })
}

/// What streams to a standby; logical subscribers are none.
async fn standbys(conn: &Conn) -> Result<Vec<Standby>, Failure> {
    let sql = "SELECT application_name, pg_wal_lsn_diff(replay_lsn, '0/0')::int8::text, \
               extract(epoch FROM replay_lag)::float8::text FROM pg_catalog.pg_stat_replication \
               WHERE coalesce(state, 'streaming') IN ('streaming', 'catchup') AND pid NOT IN \
               (SELECT active_pid FROM pg_catalog.pg_replication_slots WHERE slot_type = 'logical' AND active_pid IS NOT NULL)";
    let rows = conn.simple("look at standbys", sql).await?;
    let standby = |row: Vec<Option<String>>| {
        let mut values = row.into_iter();
        let mut next = || values.next().flatten();
        Standby {
            name: next().unwrap_or_default(),
            replayed: next().and_then(|t| t.parse().ok()),
            lag: next().and_then(|t| t.parse().ok()),
        }
    };
    Ok(rows.into_iter().map(standby).collect())
}

/// Writes down how far the run is. The table is unlogged: what is lost in a crash is written again.
pub async fn keep_progress(conn: &Conn, id: i32, progress: &Progress) -> Result<(), Failure> {
    let text = serde_json::to_string(progress).map_err(|e| Failure::failed(format!("cannot keep progress: {e}")))?;
    let sql = format!(
        "INSERT INTO pgrecast.progress AS p (migration, state) VALUES ({id}, {text}::jsonb) \
         ON CONFLICT (migration) DO UPDATE SET state = EXCLUDED.state, at = clock_timestamp()",
        text = Literal(&text)
    );
    Ok(conn.batch("keep progress", &sql).await?)
}
