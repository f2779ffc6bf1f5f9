//! The standbys that may be promoted: those that the server's `synchronized_standby_slots` names (PostgreSQL 17 and later;
//! manual 47.2.3, "Replication Slot Synchronization").
//!
//! A standby that synchronizes slots streams from a physical slot of its own, whose `restart_lsn` is what it has on its
//! disk. Everybody may read that; `pg_stat_replication` shows it to `pg_read_all_stats` alone.

use serde::Deserialize;

use crate::error::Failure;
use crate::pg::{Conn, Lsn};

/// A physical slot that `synchronized_standby_slots` names.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Standby {
    /// Its name.
    slot: String,
    /// Whether a standby streams from it.
    streams: bool,
    /// What that standby has on its disk; nothing known of a slot that is not there, is no physical one, or lost its WAL.
    flushed: Option<Lsn>,
}

/// SQL of a JSON text that [`parse`] reads; an empty list before 17.
pub const NAMED: &str = r#"(SELECT coalesce(json_agg(json_build_object('slot', n.name,
    'streams', coalesce(s.active AND s.slot_type = 'physical', false),
    'flushed', CASE s.slot_type WHEN 'physical' THEN s.restart_lsn::text END) ORDER BY n.name), '[]')::text
FROM (SELECT DISTINCT lower(btrim(item, E' \t\r\n"')) AS name
    FROM unnest(string_to_array(current_setting('synchronized_standby_slots', true), ',')) AS item) AS n
LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = n.name WHERE n.name <> '')"#;

/// Reads [`NAMED`].
pub fn parse(text: &str) -> Result<Vec<Standby>, Failure> {
    serde_json::from_str(text).map_err(|e| Failure::failed(format!("unexpected list of standbys: {e}")))
}

/// Reads them.
pub async fn read(conn: &Conn) -> Result<Vec<Standby>, Failure> {
    let text = conn.scalar("look at standbys", &format!("SELECT {NAMED}")).await?;
    parse(text.as_deref().unwrap_or("[]"))
}

/// What the server and every standby that may be promoted have on their disks; `local` is what the server has.
pub fn on_every_disk(local: Lsn, standbys: &[Standby]) -> Lsn {
    standbys.iter().map(|s| s.flushed.unwrap_or(Lsn::ZERO)).fold(local, Lsn::min)
}

/// The slots that no standby streams from: as long as there is one, the server sends no change to a failover slot.
pub fn silent(standbys: &[Standby]) -> Option<String> {
    let names: Vec<&str> = standbys.iter().filter(|s| !s.streams).map(|s| s.slot.as_str()).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standby(slot: &str, streams: bool, flushed: Option<u64>) -> Standby {
        Standby { slot: slot.to_owned(), streams, flushed: flushed.map(Lsn) }
    }

    #[test]
    fn the_one_furthest_behind_counts() {
        let (near, far) = (standby("near", true, Some(90)), standby("far", true, Some(40)));
        assert_eq!(on_every_disk(Lsn(100), &[]), Lsn(100));
        assert_eq!(on_every_disk(Lsn(100), &[near.clone(), far]), Lsn(40));
        // A standby can say that it has flushed what this look at the server's own position came too early for.
        assert_eq!(on_every_disk(Lsn(80), std::slice::from_ref(&near)), Lsn(80));
        // Of a slot that is not there nothing is known to be on a disk.
        assert_eq!(on_every_disk(Lsn(100), &[near, standby("gone", false, None)]), Lsn::ZERO);
    }

    #[test]
    fn slots_without_a_standby_are_named() {
        assert_eq!(silent(&[standby("a", true, Some(1))]), None);
        let standbys = [standby("a", false, Some(1)), standby("b", true, Some(1)), standby("c", false, None)];
        assert_eq!(silent(&standbys).as_deref(), Some("a, c"));
    }

    #[test]
    fn what_the_server_answers_is_read() {
        let read = parse(
            r#"[{"slot": "a", "streams": true, "flushed": "1/2"}, {"slot": "b", "streams": false, "flushed": null}]"#,
        );
        assert_eq!(read.expect("standbys"), [standby("a", true, Some(0x1_0000_0002)), standby("b", false, None)]);
    }
}
