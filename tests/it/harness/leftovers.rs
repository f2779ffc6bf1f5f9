//! What the program may have left in a database that it is done with.

use std::time::Duration;

use super::{Db, wait_for};

/// A session that was told to end needs a moment; nothing else does.
const PATIENCE: Duration = Duration::from_secs(5);

/// Everything of ours that a catalog can show: `kind: name`, sorted. Logical slots and advisory locks count whatever
/// their name, for a test's own have no reason to be there at the end.
const EVERYTHING: &str = "
    SELECT 'schema: ' || nspname FROM pg_namespace WHERE nspname ~ '^pgrecast'
    UNION ALL SELECT 'relation: ' || oid::regclass FROM pg_class WHERE relname ~ 'pgrecast'
    UNION ALL SELECT 'type: ' || oid::regtype FROM pg_type WHERE typname ~ '^pgrecast'
    UNION ALL SELECT 'function: ' || oid::regprocedure FROM pg_proc WHERE proname ~ '^pgrecast'
    UNION ALL SELECT 'trigger: ' || tgname || ' on ' || tgrelid::regclass FROM pg_trigger WHERE tgname ~ '^pgrecast'
    UNION ALL SELECT 'constraint: ' || conname || ' on ' || conrelid::regclass
        FROM pg_constraint WHERE conname ~ 'pgrecast' AND conrelid <> 0
    UNION ALL SELECT 'event trigger: ' || evtname FROM pg_event_trigger WHERE evtname ~ '^pgrecast'
    UNION ALL SELECT 'publication: ' || pubname FROM pg_publication WHERE pubname ~ '^pgrecast'
    UNION ALL SELECT 'slot: ' || slot_name FROM pg_replication_slots
        WHERE database = current_database() OR slot_name ~ '^pgrecast'
    UNION ALL SELECT 'replication origin: ' || roname FROM pg_replication_origin WHERE roname ~ '^pgrecast'
    UNION ALL SELECT 'prepared transaction: ' || gid FROM pg_prepared_xacts
        WHERE database = current_database() AND gid ~ '^pgrecast'
    UNION ALL SELECT 'advisory lock of pid ' || pid FROM pg_locks
        WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    UNION ALL SELECT 'session: ' || application_name || ', ' || backend_type || ', pid ' || pid FROM pg_stat_activity
        WHERE datname = current_database() AND (application_name ~ '^pgrecast' OR backend_type = 'walsender')
    ORDER BY 1";

/// What of ours is in the database now.
pub fn leftovers(db: &Db) -> Vec<String> {
    db.rows(EVERYTHING).into_iter().flatten().flatten().collect()
}

/// Panics if something of ours stays in the database.
pub fn assert_nothing_left(db: &Db) {
    wait_for("nothing of ours in the database", PATIENCE, || {
        let found = leftovers(db);
        if found.is_empty() { Ok(()) } else { Err(found.join("; ")) }
    });
}
