//! Does the stream still bring every change? (Rules 11 and 12.)
//!
//! A publication can be altered, dropped or made again, and a replica identity exchanged, without a word in the stream;
//! from PostgreSQL 18 on the server even passes over a publication that is gone. So the transaction that publishes a table
//! keeps a mark of both in the control row, and it is compared ever after: three times a second, and under the lock of the
//! cut-over.

use crate::error::Failure;
use crate::pg::{Conn, Ident, Literal};
use crate::plan::shape::Shape;
use crate::plan::types::Names;
use crate::state::Phase;

/// The publication and its tables as they were made: whatever alters one writes its row, and one made again has another
/// oid.
fn publication(name: &str) -> String {
    format!(
        "(SELECT concat_ws(' ', p.oid, p.xmin, (SELECT string_agg(concat_ws(' ', r.oid, r.xmin), ',' ORDER BY r.oid) \
         FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = p.oid)) FROM pg_catalog.pg_publication p WHERE p.pubname = {})",
        Literal(name)
    )
}

/// The replica identity of each of its tables. An index counts by its columns: REINDEX CONCURRENTLY makes another one.
fn identities(publication: &str) -> String {
    format!(
        "(SELECT string_agg(concat_ws(' ', c.oid, c.relreplident, i.indkey), ',' ORDER BY c.oid) \
         FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_class c ON c.oid = r.prrelid \
         LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND i.indisvalid \
          AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END \
         WHERE r.prpubid = (SELECT p.oid FROM pg_catalog.pg_publication p WHERE p.pubname = {}))",
        Literal(publication)
    )
}

/// The statement that keeps the mark, for the transaction that publishes.
pub fn keep_sql(id: i32, name: &str) -> String {
    format!(
        "UPDATE pgrecast.migration SET published = {}, identities = {} WHERE id = {id}",
        publication(name),
        identities(name)
    )
}

/// What a migration follows.
#[derive(Debug, Clone, Copy)]
pub struct Published<'a> {
    /// The migration.
    pub id: i32,
    /// Its names.
    pub names: &'a Names,
    /// The table that is published.
    pub source: &'a Shape,
}

impl Published<'_> {
    /// SQL that says whether all is as it was made. The table that is followed is the old one before the swap, and the new
    /// one after it: in any other phase there is nothing to compare.
    pub fn unchanged_sql(&self) -> String {
        let followed = |phase: &&Phase| match self.names.are_backwards() {
            true => **phase == Phase::Keep,
            false => phase.is_before_swap(),
        };
        let phases: Vec<String> = Phase::ALL.iter().filter(followed).map(|p| Literal(p.word()).to_string()).collect();
        let name = self.names.publication();
        format!(
            "coalesce((SELECT m.published IS NOT DISTINCT FROM {} AND m.identities IS NOT DISTINCT FROM {} \
             FROM pgrecast.migration m WHERE m.id = {} AND m.phase IN ({})), true)",
            publication(&name),
            identities(&name),
            self.id,
            phases.join(", ")
        )
    }

    /// All must be as it was made. What was changed is looked at, and acted on, over `other`: the transaction that compares
    /// may be rolled back.
    ///
    /// # Errors
    /// Says what was changed.
    pub async fn check(&self, conn: &Conn, other: &Conn) -> Result<(), Failure> {
        match conn.scalar("compare publication", &format!("SELECT {}", self.unchanged_sql())).await?.as_deref() {
            Some("t") => Ok(()),
            _ => Err(self.changed(other).await),
        }
    }

    /// The error where it is not.
    ///
    /// With another replica identity the application's own UPDATE and DELETE fail for as long as the table is published
    /// (CREATE PUBLICATION, PostgreSQL manual), and what they do is not told in full. The migration is lost, so it takes
    /// the publication away (rule 12).
    pub async fn changed(&self, conn: &Conn) -> Failure {
        let name = self.names.publication();
        let sql = format!(
            "SELECT m.published IS NOT DISTINCT FROM {0}, {0} IS NULL FROM pgrecast.migration m WHERE m.id = {1}",
            publication(&name),
            self.id
        );
        let row = match conn.simple("look at publication", &sql).await {
            Ok(rows) => rows.into_iter().next().unwrap_or_default(),
            Err(e) => return e.into(),
        };
        let says = |i: usize| row.get(i).and_then(|v| v.as_deref()) == Some("t");
        let missed = "Changes of the table may have been missed, so this migration cannot go on.";
        let failure = match (says(0), says(1)) {
            (true, _) => self.other_identity(conn, &name).await,
            (false, true) => Failure::failed(format!("publication {name} was dropped by somebody else")).detail(missed),
            (false, false) => {
                Failure::failed(format!("publication {name} was changed by somebody else")).detail(missed)
            }
        };
        failure.hint(way_out(self.names))
    }

    async fn other_identity(&self, conn: &Conn, publication: &str) -> Failure {
        let drop = format!("DROP PUBLICATION IF EXISTS {}", Ident(publication));
        let done = match conn.batch("drop publication", &drop).await {
            Ok(()) => format!("Publication {publication} was dropped, with which its UPDATE and DELETE could fail."),
            Err(e) => {
                format!("Its UPDATE and DELETE may fail until publication {publication} is dropped, which failed: {e}.")
            }
        };
        let table = self.source.name.plain();
        Failure::failed(format!(
            "the replica identity of table {table} was changed by somebody else during the migration"
        ))
        .detail(format!("Its changes cannot be followed any more. {done}"))
    }
}

/// What is left to do where the way back cannot be followed any more.
pub const NO_WAY_BACK: &str = "A rollback would lose writes: run pgrecast finish to drop the old table.";

/// What is left to do where changes cannot be followed any more.
pub fn way_out(names: &Names) -> &'static str {
    match names.are_backwards() {
        false => "Run pgrecast abort, then start the migration again.",
        true => NO_WAY_BACK,
    }
}
