//! The journal table: changed keys on disk while the backlog is large.
//!
//! It grows in generations. One is written while earlier ones are flushed; a generation is dropped as a whole once all
//! of its keys are, so no row of it is ever updated or deleted.

use bytes::Bytes;
use futures_util::SinkExt;

use crate::pg::{Conn, Error, Ident, Literal, named};
use crate::plan::types::{Names, Plan, SCHEMA};
use crate::stream::Key;

/// `CREATE TABLE` of a generation: the source's key columns, and the 64-bit id of the last transaction.
pub fn create_sql(plan: &Plan, names: &Names, generation: u32) -> String {
    let columns = plan
        .key
        .columns
        .iter()
        .map(|k| format!("{} {}", Ident(&k.source), k.source_type))
        .collect::<Vec<_>>()
        .join(", ");
    format!(
        "CREATE TABLE IF NOT EXISTS {} ({columns}, pgrecast_xid int8 NOT NULL) WITH (autovacuum_enabled = false)",
        names.journal(generation)
    )
}

/// Generations that exist, oldest first.
pub async fn generations(conn: &Conn, names: &Names) -> Result<Vec<u32>, Error> {
    let prefix = names.journal_prefix();
    let sql = format!(
        "SELECT substr(c.relname, {}) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = {} AND starts_with(c.relname, {}) AND c.relkind = 'r'",
        prefix.len() + 1,
        Literal(SCHEMA),
        Literal(&prefix)
    );
    let rows = conn.simple("list journal generations", &sql).await?;
    let mut found: Vec<u32> = rows.into_iter().filter_map(|r| r.into_iter().next().flatten()?.parse().ok()).collect();
    found.sort_unstable();
    Ok(found)
}

/// Keys written to a generation, repeats included.
pub async fn count(conn: &Conn, names: &Names, generation: u32) -> Result<u64, Error> {
    let sql = format!("SELECT count(*) FROM {}", names.journal(generation));
    Ok(conn.scalar("count journal", &sql).await?.and_then(|n| n.parse().ok()).unwrap_or(0))
}

/// Appends keys to a generation, all or nothing.
pub async fn append(
    conn: &Conn,
    names: &Names,
    generation: u32,
    keys: impl Iterator<Item = (&Key, u64)>,
) -> Result<(), Error> {
    const NAME: &str = "write journal";
    let lost = |e: tokio_postgres::Error| Error::from_client(NAME, &e);
    let sink = conn
        .client()
        .copy_in::<_, Bytes>(&format!("COPY {} FROM STDIN", names.journal(generation)))
        .await
        .map_err(lost)?;
    let mut sink = std::pin::pin!(sink);
    let mut buffer = Vec::with_capacity(PIECE_BYTES + 256);
    for (key, xid) in keys {
        for column in key.columns() {
            escape(column, &mut buffer);
            buffer.push(b'\t');
        }
        buffer.extend_from_slice(xid.to_string().as_bytes());
        buffer.push(b'\n');
        if buffer.len() >= PIECE_BYTES {
            sink.send(Bytes::from(std::mem::take(&mut buffer))).await.map_err(lost)?;
        }
    }
    sink.send(Bytes::from(buffer)).await.map_err(lost)?;
    named(NAME, sink.as_mut().finish()).await?;
    Ok(())
}

/// One CopyData message's size, about.
const PIECE_BYTES: usize = 32 * 1024;

/// COPY text format (COPY, PostgreSQL manual, "Text Format").
fn escape(value: &str, out: &mut Vec<u8>) {
    for byte in value.bytes() {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            _ => out.push(byte),
        }
    }
}

/// Opens the cursor over a generation's keys in key order, each once with the one of its transactions that is not to be
/// seen yet, or 0. There is one at most: who changes a key waits until the one before is visible. The highest number would
/// not do, since transactions do not commit in the order of their numbers. The cursor is held, hence
/// read into the server's temporary files at once: no snapshot is kept while its keys are flushed (DECLARE, PostgreSQL
/// manual, "WITH HOLD").
pub async fn open(conn: &Conn, plan: &Plan, names: &Names, generation: u32) -> Result<(), Error> {
    let names_list = plan.key.columns.iter().map(|k| Ident(&k.source).to_string()).collect::<Vec<_>>();
    // By the type's output function, as the stream spells keys: a cast to text differs for boolean, inet and char(n).
    let texts = names_list.iter().map(|n| format!("concat({n})")).collect::<Vec<_>>().join(", ");
    let keys = names_list.join(", ");
    let sql = format!(
        "BEGIN; DECLARE {CURSOR} CURSOR WITH HOLD FOR SELECT {texts}, coalesce(max(pgrecast_xid) FILTER (WHERE {UNSEEN}), 0)::text \
         FROM {} GROUP BY {keys} ORDER BY {keys}; COMMIT",
        names.journal(generation)
    );
    conn.batch("open journal", &sql).await
}

/// The next keys of the open generation.
pub async fn fetch(conn: &Conn, count: usize) -> Result<Vec<(Key, u64)>, Error> {
    const NAME: &str = "read journal";
    let rows = conn.simple(NAME, &format!("FETCH {count} FROM {CURSOR}")).await?;
    rows.into_iter()
        .map(|mut row| {
            let xid = row.pop().flatten().and_then(|x| x.parse().ok());
            let columns: Option<Vec<&str>> = row.iter().map(Option::as_deref).collect();
            xid.zip(columns.and_then(Key::new))
                .map(|(xid, key)| (key, xid))
                .ok_or_else(|| Error::client(NAME, "the journal holds a row without a key"))
        })
        .collect()
}

/// Closes the cursor.
pub async fn close_cursor(conn: &Conn) -> Result<(), Error> {
    conn.batch("close journal", &format!("CLOSE {CURSOR}")).await
}

/// Drops a generation; does no harm where an earlier try did it.
pub async fn close(conn: &Conn, names: &Names, generation: u32) -> Result<(), Error> {
    conn.batch("drop journal", &format!("DROP TABLE IF EXISTS {}", names.journal(generation))).await
}

/// Of most rows the first comparison tells, which is the cheap one.
const UNSEEN: &str = "CASE WHEN pgrecast_xid < (SELECT pg_snapshot_xmin(pg_current_snapshot())::text::int8) THEN false \
                      ELSE NOT pg_visible_in_snapshot(pgrecast_xid::text::xid8, pg_current_snapshot()) END";

const CURSOR: &str = "pgrecast_journal";

#[cfg(test)]
mod tests {
    #[test]
    fn copy_text_is_escaped() {
        let mut out = Vec::new();
        super::escape("a\tb\\c\nd\re", &mut out);
        assert_eq!(out, b"a\\tb\\\\c\\nd\\re");
    }
}
