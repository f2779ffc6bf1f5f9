//! A migration's replication slot as a run finds it: whether the stream goes on where the tables stand.
//!
//! A slot is no part of the WAL. A standby gets it by synchronization, beside the WAL and at another pace, so on one that
//! was promoted slot and tables are held against each other before anything rests on them (rule 9): what the slot has
//! confirmed must be covered by a position in `pgrecast.slot`, which came by the WAL and behind all that it speaks of.

use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::context::Context;
use crate::error::Failure;
use crate::pg::{Conn, Literal, Lsn};
use crate::plan::read::json;
use crate::published;
use crate::report::Event;
use crate::standby;

/// How long the standbys are waited for before a slot is dropped.
const HAND_ON_WITHIN: Duration = Duration::from_secs(30);

/// What the server says of a slot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct Seen {
    /// It is kept on standbys.
    failover: bool,
    /// Why it cannot be read any more.
    invalid: Option<String>,
    /// All that it has confirmed is journaled or flushed, by the tables' own account.
    covered: bool,
}

/// Why changes may be missing from a slot's stream.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Unfit {
    Missing,
    Invalid(String),
    Foreign,
    Ahead,
}

/// Whether the stream of a slot goes on where the tables stand. Pure.
fn judge(seen: Option<Seen>, failover: bool) -> Result<(), Unfit> {
    match seen {
        None => Err(Unfit::Missing),
        Some(Seen { invalid: Some(why), .. }) => Err(Unfit::Invalid(why)),
        Some(seen) if failover && !seen.failover => Err(Unfit::Foreign),
        Some(seen) if failover && !seen.covered => Err(Unfit::Ahead),
        Some(_) => Ok(()),
    }
}

async fn look(context: &Context, conn: &Conn, slot: &str) -> Result<Result<(), Unfit>, Failure> {
    // Columns that only later versions have are read by way of JSON. What is done is noted for each of the tables.
    let sql = format!(
        "SELECT coalesce((SELECT json_build_object('failover', coalesce((to_jsonb(s)->>'failover')::boolean, false), \
         'invalid', coalesce(to_jsonb(s)->>'invalidation_reason', CASE s.wal_status WHEN 'lost' THEN 'wal_removed' END), \
         'covered', NOT EXISTS (SELECT FROM pgrecast.migration m WHERE {} AND NOT EXISTS (SELECT FROM pgrecast.slot p \
             WHERE p.migration = m.id AND p.name = s.slot_name AND p.done >= s.confirmed_flush_lsn))) \
         FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = {}), 'null')",
        all_tables(context),
        Literal(slot)
    );
    let seen: Option<Seen> = json(conn, "look for slot", &sql).await?;
    Ok(judge(seen, context.failover))
}

/// Whether the slot can be used.
pub async fn is_fit(context: &Context, conn: &Conn, slot: &str) -> Result<bool, Failure> {
    Ok(look(context, conn, slot).await?.is_ok())
}

/// Whether a run may go on from the context's slot.
///
/// # Errors
/// Says why not, and what to do.
pub async fn check(context: &Context) -> Result<(), Failure> {
    let slot = context.slot();
    let Err(unfit) = look(context, context.store.conn(), &slot).await? else { return Ok(()) };
    let what = match &unfit {
        Unfit::Missing => format!("replication slot {slot} is not on this server"),
        Unfit::Invalid(why) => format!("replication slot {slot} is invalid: {why}"),
        Unfit::Foreign => format!("replication slot {slot} is not the one that was synchronized to this server"),
        Unfit::Ahead => format!("replication slot {slot} is ahead of the tables"),
    };
    let why = match &unfit {
        Unfit::Missing | Unfit::Foreign if context.failover => {
            "A standby has the slot once pg_replication_slots there shows it as synced and not as temporary. Promoted before \
             that, or dropped since, it does not have the changes that were still to come."
        }
        Unfit::Missing | Unfit::Foreign => {
            "Somebody dropped it, or this is a standby that was promoted, which has it only with --failover-slot."
        }
        Unfit::Invalid(_) => "The server has given up what it held; max_slot_wal_keep_size may be too small.",
        Unfit::Ahead => {
            "It has confirmed changes whose journal rows this server has never got: a standby was promoted that \
             synchronized_standby_slots did not name, or the slot was advanced by hand."
        }
    };
    let kept = match context.names.are_backwards() {
        false => "The table is as it was.",
        true => "The new table has every write.",
    };
    Err(Failure::failed(what)
        .detail(format!("{why} So the change stream cannot be followed from there."))
        .hint(format!("{kept} {}", published::way_out(&context.names))))
}

/// SQL that notes where a slot stands that was just made; nothing where it is not to outlive a failover.
pub fn begin_sql(context: &Context, slot: &str) -> String {
    if !context.failover {
        return String::new();
    }
    format!(
        "INSERT INTO pgrecast.slot (migration, name, done) SELECT m.id, s.slot_name, s.confirmed_flush_lsn \
         FROM pg_catalog.pg_replication_slots s, pgrecast.migration m WHERE s.slot_name = {} AND {} \
         ON CONFLICT (migration, name) DO UPDATE SET done = excluded.done; ",
        Literal(slot),
        all_tables(context)
    )
}

/// The tables of the migration, among all: they share its slots.
fn all_tables(context: &Context) -> String {
    format!("{} IN (m.id, m.head)", context.id)
}

/// Waits until the standbys have what was committed so far, and so the phase that needs a slot no more, before that slot
/// is dropped; for a while, since all that comes of it is that a standby promoted too early has to begin anew.
pub async fn hand_on(context: &Context, conn: &Conn) -> Result<(), Failure> {
    if !context.failover {
        return Ok(());
    }
    let end = conn.scalar("read WAL position", "SELECT pg_current_wal_flush_lsn()").await?.unwrap_or_default();
    let end: Lsn = end.parse().map_err(|e: crate::pg::InvalidLsn| Failure::failed(e.to_string()))?;
    let begun = Instant::now();
    loop {
        let standbys = standby::read(conn).await?;
        if standby::on_every_disk(end, &standbys) >= end {
            return Ok(());
        }
        if begun.elapsed() > HAND_ON_WITHIN {
            let text = "a standby is behind the swap; promoted as it is, it has to begin anew";
            context.reporter.say(Event::Warning { text: text.to_owned() });
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_held_against_the_tables_where_it_came_by_synchronization() {
        let good = Seen { failover: true, invalid: None, covered: true };
        assert_eq!(judge(Some(good.clone()), true), Ok(()));
        assert_eq!(judge(None, true), Err(Unfit::Missing));
        assert_eq!(judge(Some(Seen { failover: false, ..good.clone() }), true), Err(Unfit::Foreign));
        assert_eq!(judge(Some(Seen { covered: false, ..good.clone() }), true), Err(Unfit::Ahead));
        let invalid = Seen { invalid: Some("wal_removed".to_owned()), ..good };
        assert_eq!(judge(Some(invalid.clone()), true), Err(Unfit::Invalid("wal_removed".to_owned())));
        // A plain slot is as durable as the tables beside it.
        assert_eq!(judge(Some(Seen::default()), false), Ok(()));
        assert_eq!(judge(None, false), Err(Unfit::Missing));
        assert!(judge(Some(invalid), false).is_err());
    }
}
