//! Removes what carries our names. Every step is safe to repeat.

use crate::context::{Context, Group};
use crate::error::Failure;
use crate::fill;
use crate::journal::table as journal;
use crate::pg::{Conn, Ident, Literal, Role, Verdict};
use crate::plan::ddl;
use crate::plan::guard::Function;
use crate::plan::shape::Shape;
use crate::plan::types::{IdentityChange, Member, Names, OldNames, SCHEMA};
use crate::ties::{Owed, Whole, set_aside_sql, validate};

/// Removes slot, publication, shadow and journal, and gives the source its replica identity back where it still is the
/// table the application uses.
pub async fn remove_ours(context: &Context, conn: &Conn) -> Result<(), Failure> {
    drop_stream(context, conn).await?;
    drop_way_back(context, conn).await?;
    for leaf in context.plan.leaves().iter().filter(|leaf| *leaf.identity != IdentityChange::None) {
        restore_identity(context, conn, leaf.shape).await?;
    }
    drop_tables(context, conn).await?;
    let quarantine = format!("DROP TABLE IF EXISTS {}", context.names.quarantine());
    patiently(conn, "drop quarantine", &quarantine).await
}

/// Ends what a run that died has left at work on the shadow. A statement goes on after its client is gone, and one that
/// was sent as a whole commits: a chunk could be copied twice, an index built twice, a stale flush come last. Once the
/// lock is granted nothing of it is left. Sessions without a lock there can do no harm: a commit follows on a write.
pub async fn end_former_run(context: &Context) -> Result<(), Failure> {
    let conn = context.connector.open(Role::Control).await?;
    let shadow = Literal(&context.names.shadow().to_string()).to_string();
    let members = context.plan.members(&context.names);
    let beside = context.plan.beside(&context.names).into_iter().map(|(_, names)| names.shadow());
    let shadows: Vec<String> = (members.iter().map(Member::shadow).chain(beside))
        .map(|name| format!("to_regclass({})", Literal(&name.to_string())))
        .collect();
    let end = format!(
        "SELECT pg_terminate_backend(l.pid) FROM pg_catalog.pg_locks l \
         JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
         WHERE l.locktype = 'relation' AND l.granted AND l.relation IN ({}) \
         AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) \
         AND l.pid <> pg_backend_pid() AND a.application_name LIKE 'pgrecast %'",
        shadows.join(", ")
    );
    let all = context.plan.shadows(&context.names);
    let wait = format!("BEGIN; LOCK TABLE {all} IN SHARE ROW EXCLUSIVE MODE; COMMIT");
    let mut retry = crate::retry::Retry::new();
    loop {
        conn.batch("end former run", &end).await?;
        // Its last act may have been the swap.
        let exists = format!("SELECT to_regclass({shadow}) IS NOT NULL");
        if conn.scalar("look for shadow", &exists).await?.as_deref() != Some("t") {
            return Ok(());
        }
        match conn.batch("wait for former run", &wait).await {
            Ok(()) => return Ok(()),
            Err(e) => {
                conn.batch("roll back wait", "ROLLBACK").await?;
                retry.after(e).await?;
            }
        }
    }
}

/// Drops the slot and the publication.
pub async fn drop_stream(context: &Context, conn: &Conn) -> Result<(), Failure> {
    drop_named_stream(conn, &context.slot(), &context.names.publication()).await
}

/// Drops slot, publication and journal of the way back, and views that were made for it: the old table is followed no
/// more.
pub async fn drop_way_back(context: &Context, conn: &Conn) -> Result<(), Failure> {
    let names = &context.names;
    wake_maintenance(context, conn).await?;
    drop_named_stream(conn, &names.back_slot(context.facts.database_oid), &names.back_publication()).await?;
    take_identities_back(context, conn).await?;
    fill::drop_all(conn, names).await?;
    drop_functions(conn, names).await?;
    drop_journal(conn, &names.backwards(OldNames::default())).await
}

/// A partition that is made ends the way back, so pg_partman has let the table rest as long as there is one.
async fn wake_maintenance(context: &Context, conn: &Conn) -> Result<(), Failure> {
    let Some(managed) = &context.plan.managed else { return Ok(()) };
    match conn.scalar("look for extension", &managed.there_sql()).await?.as_deref() {
        Some("t") => patiently(conn, "wake maintenance", &managed.wake_sql(&context.names.back_publication())).await,
        _ => Ok(()),
    }
}

/// New tables that had another replica identity for the time of the window have their own again, now that they are
/// published no more.
async fn take_identities_back(context: &Context, conn: &Conn) -> Result<(), Failure> {
    let plan = context.plan.back.as_deref().unwrap_or(&context.plan);
    for beside in plan.besides().iter().filter(|beside| beside.lends_identity) {
        let sql = format!(
            "SELECT c.oid::regclass::text FROM pg_catalog.pg_class c WHERE c.oid = {} AND c.relreplident = 'f'",
            beside.shape.oid
        );
        let Some(table) = conn.scalar("look at replica identity", &sql).await? else { continue };
        let past_vacuum = context.past_vacuum(format!("ONLY {table}"), context.connector.lock_timeout());
        let sql = format!("{past_vacuum}; ALTER TABLE ONLY {table} REPLICA IDENTITY DEFAULT");
        patiently(conn, "restore replica identity", &sql).await?;
    }
    Ok(())
}

/// Drops the functions that try conversions.
pub async fn drop_functions(conn: &Conn, names: &Names) -> Result<(), Failure> {
    for function in [Function::Conversion, Function::Refusal] {
        let sql = format!(
            "SELECT p.oid::regprocedure::text FROM pg_catalog.pg_proc p WHERE p.pronamespace = {}::regnamespace \
             AND starts_with(p.proname, {})",
            Literal(SCHEMA),
            Literal(&names.guard_prefix(function))
        );
        for made in conn.simple("find functions", &sql).await?.into_iter().flatten().flatten() {
            patiently(conn, "drop functions", &format!("DROP FUNCTION IF EXISTS {made}")).await?;
        }
    }
    Ok(())
}

async fn drop_named_stream(conn: &Conn, slot: &str, publication: &str) -> Result<(), Failure> {
    drop_slot(conn, slot).await?;
    patiently(conn, "drop publication", &format!("DROP PUBLICATION IF EXISTS {}", Ident(publication))).await
}

/// Drops the slot, if it is there; a walsender of ours that still has it is ended first.
pub async fn drop_slot(conn: &Conn, slot: &str) -> Result<(), Failure> {
    let name = Literal(slot);
    for _ in 0..100 {
        let active = conn
            .scalar(
                "look for slot",
                &format!(
                    "SELECT coalesce(active_pid, 0) FROM pg_catalog.pg_replication_slots WHERE slot_name = {name}"
                ),
            )
            .await?;
        match active.as_deref() {
            None => return Ok(()),
            Some("0") => match conn.batch("drop slot", &format!("SELECT pg_drop_replication_slot({name})")).await {
                Ok(()) => return Ok(()),
                Err(e) if e.verdict() == Verdict::Retry => {}
                Err(e) => return Err(e.into()),
            },
            Some(pid) => conn.batch("end slot's session", &format!("SELECT pg_terminate_backend({pid})")).await?,
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Err(Failure::failed(format!("replication slot {slot} is still in use")).hint(format!(
        "End the session that uses it, then run the same command again, or: SELECT pg_drop_replication_slot({name})."
    )))
}

async fn restore_identity(context: &Context, conn: &Conn, source: &Shape) -> Result<(), Failure> {
    let same = format!(
        "SELECT c.oid FROM pg_catalog.pg_class c WHERE c.oid = to_regclass({})",
        Literal(&source.name.to_string())
    );
    if conn.scalar("look for source", &same).await? != Some(source.oid.to_string()) {
        return Ok(());
    }
    let past_vacuum = context.past_vacuum(format!("ONLY {}", source.name), context.connector.lock_timeout());
    let identity = identity(source, |n| n.to_owned());
    let sql = format!("{past_vacuum}; ALTER TABLE ONLY {} REPLICA IDENTITY {identity}", source.name);
    patiently(conn, "restore replica identity", &sql).await
}

/// What follows REPLICA IDENTITY for the identity a shape has, its index under the name `rename` gives it.
pub fn identity(shape: &Shape, rename: impl Fn(&str) -> String) -> String {
    let index = shape.indexes.iter().find(|i| i.replica_identity).map(|i| rename(&i.name));
    match (shape.replica_identity, index) {
        ('i', Some(index)) => format!("USING INDEX {}", Ident(&index)),
        ('f', _) => "FULL".to_owned(),
        ('n', _) => "NOTHING".to_owned(),
        _ => "DEFAULT".to_owned(),
    }
}

/// Completes the foreign keys that the swap left unchecked; one that has gone since needs it no more.
pub async fn complete_keys(context: &Context, conn: &Conn) -> Result<(), Failure> {
    let sql = format!("SELECT to_validate::text FROM pgrecast.migration WHERE id = {}", context.id);
    let text = conn.scalar("read keys to validate", &sql).await?.unwrap_or_else(|| "[]".to_owned());
    let keys: Vec<Owed> = serde_json::from_str(&text)
        .map_err(|e| Failure::failed(format!("the control row of migration {} cannot be read: {e}", context.id)))?;
    for owed in keys {
        match &owed.whole {
            None => validate_key(conn, &owed).await?,
            Some(whole) => complete_whole(context, conn, &owed, whole).await?,
        }
    }
    Ok(())
}

async fn validate_key(conn: &Conn, owed: &Owed) -> Result<(), Failure> {
    let still = format!(
        "SELECT count(*) FROM pg_catalog.pg_constraint WHERE conrelid = to_regclass({}) AND conname = {} AND NOT convalidated",
        Literal(&owed.table),
        Literal(&owed.key)
    );
    if conn.scalar("look for foreign key", &still).await?.as_deref() == Some("1") {
        patiently(conn, "validate foreign key", &owed.statement()).await?;
    }
    Ok(())
}

/// The key of a partitioned table, once all its partitions have theirs and they are validated.
async fn complete_whole(context: &Context, conn: &Conn, owed: &Owed, whole: &Whole) -> Result<(), Failure> {
    let (table, key) = (&owed.table, &owed.key);
    let wanting = format!(
        "SELECT count(*) FROM pg_catalog.pg_class c WHERE c.oid = to_regclass({}) AND c.relkind = 'p' \
         AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid AND k.conname = {})",
        Literal(table),
        Literal(key)
    );
    if conn.scalar("look for foreign key", &wanting).await?.as_deref() != Some("1") {
        return Ok(());
    }
    for row in conn.simple("find late partitions", &whole.late_partitions(table, key)).await? {
        let [Some(partition), Some(there)] = row.as_slice() else { continue };
        if there != "t" {
            patiently(conn, "add foreign key", &whole.share(partition, key)).await?;
        }
        patiently(conn, "validate foreign key", &validate(partition, key)).await?;
    }
    // The partitions' own triggers on the table go, for which the server locks it as a whole. Some applications come to
    // the one table first and some to the other, so both orders are tried in turn.
    let past_vacuum =
        context.past_vacuum(format!("ONLY {}, {table}", whole.refers_to), context.connector.lock_timeout());
    let mut locks = [
        format!("LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"),
        format!("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE", whole.refers_to),
    ];
    let mut retry = crate::retry::Retry::new();
    loop {
        let sql = format!("{past_vacuum}; {}; {}", locks.join("; "), owed.statement());
        match conn.batch("complete foreign key", &sql).await {
            Ok(()) => return Ok(()),
            Err(e) => retry.after(e).await?,
        }
        locks.reverse();
    }
}

/// Lets autovacuum come to the partitions that were made, which the swap has spared itself.
pub async fn restore_autovacuum(context: &Context, conn: &Conn) -> Result<(), Failure> {
    for member in context.plan.holders(&context.names).iter().filter(|member| member.source.is_none()) {
        let table = &member.target.name;
        let there = format!("SELECT to_regclass({}) IS NOT NULL", Literal(&table.to_string()));
        // Somebody may have dropped it since.
        if conn.scalar("look for partition", &there).await?.as_deref() == Some("t") {
            let sql = ddl::restore_autovacuum(member.target, &table.to_string()).join("; ");
            patiently(conn, "restore autovacuum", &sql).await?;
        }
    }
    Ok(())
}

/// Drops shadow, with the views that were made on it, and journal.
pub async fn drop_tables(context: &Context, conn: &Conn) -> Result<(), Failure> {
    fill::drop_all(conn, &context.names).await?;
    let shadows = context.plan.shadows(&context.names);
    let shadow = format!("DROP TABLE IF EXISTS {shadows}, {}", context.names.stand_in());
    patiently(conn, "drop shadow", &shadow).await?;
    drop_journal(conn, &context.names).await
}

async fn drop_journal(conn: &Conn, names: &Names) -> Result<(), Failure> {
    for generation in journal::generations(conn, names).await? {
        patiently(conn, "drop journal", &format!("DROP TABLE IF EXISTS {}", names.journal(generation))).await?;
    }
    Ok(())
}

/// Drops tables by their oids, for they may have been renamed since, and those beside them; gives the names of those that
/// were still there. All at once: what one of them has for itself may depend on another.
pub async fn drop_by_oid(group: &Group, conn: &Conn, oids: &[u32], beside: &[u32]) -> Result<Vec<String>, Failure> {
    let (mut tables, mut locked, mut functions) = (Vec::new(), Vec::new(), String::new());
    for (context, oid) in group.tables().zip(oids) {
        let Some(table) = name_of(conn, *oid).await? else { continue };
        let only = if context.plan.source.is_partitioned() { "" } else { "ONLY " };
        locked.push(format!("{only}{table}"));
        tables.push(table);
        // Functions that had its row type in their signatures.
        let old = conn.simple("find old functions", &set_aside_sql(&context.names)).await?;
        old.into_iter().flatten().flatten().for_each(|function| functions.push_str(&format!("DROP {function}; ")));
    }
    for oid in beside {
        if let Some(table) = name_of(conn, *oid).await? {
            locked.push(format!("ONLY {table}"));
            tables.push(table);
        }
    }
    if !tables.is_empty() {
        let past_vacuum = group.head.past_vacuum(locked.join(", "), group.head.connector.lock_timeout());
        let drop = format!("{past_vacuum}; {functions}DROP TABLE {}", tables.join(", "));
        patiently(conn, "drop old table", &drop).await?;
    }
    Ok(tables)
}

/// What a table is called, where it still is one.
async fn name_of(conn: &Conn, oid: u32) -> Result<Option<String>, Failure> {
    let sql = format!(
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = {oid} AND c.relkind IN ('r', 'p')"
    );
    Ok(conn.scalar("find old table", &sql).await?)
}

/// Runs statements that may meet a lock for a moment, all or none: each wait is short, so nobody queues behind it for
/// long.
pub async fn patiently(conn: &Conn, name: &'static str, sql: &str) -> Result<(), Failure> {
    let mut retry = crate::retry::Retry::new();
    loop {
        match conn.batch(name, sql).await {
            Ok(()) => return Ok(()),
            Err(e) => retry.after(e).await?,
        }
    }
}
