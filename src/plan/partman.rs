//! pg_partman: whether it can make the partitions that follow, and what it is told of the table.
//!
//! It finds a partition of a table by its name, so ours must be called as it calls them; and it reads the bounds of the
//! last one in the session's time zone, and counts on from there. `create_parent` would make partitions of its own, around
//! today and a default one, under an exclusive lock. What it keeps of the table is one row of its table `part_config`: that
//! row is written in the swap, and holds nobody back.

use serde::{Deserialize, Serialize};

use super::partitioning::Piece;
use super::partitioning::series::{Place, Range, partman_format};
use super::shape::Shape;
use crate::error::Failure;
use crate::pg::sql::{MAX_IDENTIFIER_BYTES, plain_ident};
use crate::pg::{Conn, Ident, Literal};
use crate::spec::partitioning::{By, Partitioning, Step};

/// Versions whose names and table are known: `major.minor`.
const KNOWN: &[&str] = &["4.7"];

/// What pg_partman is told of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Managed {
    /// The extension's schema.
    schema: String,
    /// Its version.
    version: String,
    /// The table as it calls it: with its schema, and without quotes.
    table: String,
    /// The column.
    control: String,
    step: Step,
    premake: u32,
}

impl Managed {
    fn config(&self) -> String {
        format!("{}.part_config", Ident(&self.schema))
    }

    /// Registers the table, once it has its name. With a way back its maintenance rests: a partition that is made meanwhile
    /// would end that.
    pub fn register_sql(&self, rests: bool) -> String {
        let interval = |text: String| format!("{}::pg_catalog.interval::pg_catalog.text", Literal(&text));
        let interval = match self.step {
            Step::Days(n) => interval(format!("{n} days")),
            Step::Weeks(n) => interval(format!("{n} weeks")),
            Step::Months(n) => interval(format!("{n} months")),
            Step::Numbers(n) => Literal(&n.to_string()).to_string(),
        };
        let format = partman_format(self.step).map_or_else(|| "NULL".to_owned(), |f| Literal(f).to_string());
        format!(
            "INSERT INTO {} (parent_table, control, partition_type, partition_interval, premake, datetime_string, \
             automatic_maintenance) VALUES ({}, {}, 'native', {interval}, {}, {format}, {})",
            self.config(),
            Literal(&self.table),
            Literal(&self.control),
            self.premake,
            Literal(if rests { "off" } else { "on" })
        )
    }

    /// What is said of it once that is done.
    pub fn told(&self, rests: bool) -> String {
        let Managed { table, version, .. } = self;
        let until = if rests { "; its maintenance rests until the rollback window is over" } else { "" };
        format!("{table} is registered with pg_partman {version}{until}")
    }

    /// Takes the table off the list again. The extension may be gone by then.
    pub fn forget_sql(&self) -> String {
        let config = self.config();
        let body = format!(
            "BEGIN IF pg_catalog.to_regclass({}) IS NOT NULL THEN DELETE FROM {config} WHERE parent_table = {}; END IF; END",
            Literal(&config),
            Literal(&self.table)
        );
        format!("DO {}", Literal(&body))
    }

    /// Whether its table is there.
    pub fn there_sql(&self) -> String {
        format!("SELECT pg_catalog.to_regclass({}) IS NOT NULL", Literal(&self.config()))
    }

    /// Lets maintenance come to the table as long as there is this publication of the way back.
    pub fn wake_sql(&self, publication: &str) -> String {
        format!(
            "UPDATE {} SET automatic_maintenance = 'on' WHERE parent_table = {} AND automatic_maintenance = 'off' \
             AND EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = {})",
            self.config(),
            Literal(&self.table),
            Literal(publication)
        )
    }
}

/// What it will be told; `None` where it is not asked for.
///
/// # Errors
/// Exit 3: the extension is not there, not known or not for this role; it cannot maintain such partitions; it has the
/// table already.
pub async fn look(conn: &Conn, source: &Shape, spec: &Partitioning, zone: &str) -> Result<Option<Managed>, Failure> {
    let wanted = if spec.managed { Some(series(source, spec)?) } else { None };
    let table = format!("{}.{}", source.name.schema, source.name.name);
    let Some(extension) = Extension::read(conn).await? else {
        return match wanted {
            None => Ok(None),
            Some(_) => Err(refused("it is not installed in this database")
                .hint("CREATE SCHEMA partman; CREATE EXTENSION pg_partman SCHEMA partman.")),
        };
    };
    if wanted.is_some() {
        extension.refuse(conn, source).await?;
    }
    extension.refuse_registered(conn, &table, source).await?;
    let Some((control, step, premake)) = wanted else { return Ok(None) };
    if partman_format(step).is_some()
        && source.column(&control).is_some_and(|c| c.base_type_sql.ends_with("with time zone"))
    {
        refuse_zone(conn, zone).await?;
    }
    let Extension { schema, version, .. } = extension;
    Ok(Some(Managed { schema, version, table, control, step, premake }))
}

fn refused(why: impl std::fmt::Display) -> Failure {
    Failure::refused(format!("pg_partman cannot maintain the table: {why}"))
}

/// The ranges that it could go on with.
fn series(source: &Shape, spec: &Partitioning) -> Result<(String, Step, u32), Failure> {
    let By::Series { column, step, premake, .. } = &spec.by else {
        return Err(refused("it makes ranges of one length only").hint("Give --range COL --every LENGTH."));
    };
    if !spec.below.is_empty() {
        return Err(refused("its partitions would not be partitioned again")
            .hint("Leave out what each partition is to be partitioned by, or --pg-partman."));
    }
    if *premake == 0 {
        return Err(refused("it makes one partition ahead at the least").hint("Give --premake 1 or more."));
    }
    let unreadable = |name: &&String| name.contains(['.', '\'']);
    if let Some(name) = [&source.name.schema, &source.name.name].into_iter().find(unreadable) {
        return Err(refused(format!("it does not read the name {}", plain_ident(name)))
            .hint("Rename it, so that it has no dot and no quote."));
    }
    Ok((column.clone(), *step, *premake))
}

/// Refuses ranges that it counts otherwise, and names that it would not find.
///
/// # Errors
/// Exit 3.
pub fn refuse_pieces(source: &Shape, ranges: &[Range], pieces: &[Piece]) -> Result<(), Failure> {
    if ranges.iter().any(|range| range.from < Place::Number(0) && matches!(range.from, Place::Number(_))) {
        return Err(refused("it counts its ranges of numbers from zero, and there are values below")
            .hint("Correct those rows, or leave out --pg-partman."));
    }
    for (range, piece) in ranges.iter().zip(pieces) {
        let wanted = format!("{}_{}", source.name.name, range.suffix);
        if wanted == piece.name {
            continue;
        }
        // One byte more is for the name of the array type.
        return Err(match wanted.len() < MAX_IDENTIFIER_BYTES {
            true => refused(format!("the name {} of a partition is taken", plain_ident(&wanted)))
                .detail("It finds partitions by their names.")
                .hint("Rename what is called so, table or type."),
            false => refused(format!("the name {} of a partition is too long", plain_ident(&wanted)))
                .detail("It finds partitions by their names.")
                .hint("Give the table a shorter name."),
        });
    }
    Ok(())
}

/// It reads bounds, and makes the next ones, by the clock of the session that runs its maintenance.
async fn refuse_zone(conn: &Conn, zone: &str) -> Result<(), Failure> {
    let sql = format!(
        "SELECT pg_catalog.current_setting('TimeZone'), pg_catalog.bool_and(pg_catalog.timezone({}, d) = \
         pg_catalog.timezone(pg_catalog.current_setting('TimeZone'), d)) FROM pg_catalog.generate_series(\
         pg_catalog.now()::pg_catalog.timestamp - interval '1 year', pg_catalog.now()::pg_catalog.timestamp + \
         interval '2 years', interval '1 day') AS s (d)",
        Literal(zone)
    );
    let row = conn.simple("compare time zones", &sql).await?.into_iter().next().unwrap_or_default();
    let text = |i: usize| row.get(i).cloned().flatten().unwrap_or_default();
    if text(1) == "t" {
        return Ok(());
    }
    let own = text(0);
    Err(refused(format!(
        "it makes bounds by the clock of its session, which is {own} here, and these are by that of {zone}"
    ))
    .hint(format!(
        "Give --zone {own}; or let all sessions have the other one: ALTER DATABASE … SET TimeZone = {}.",
        Literal(zone)
    )))
}

/// The extension as it is installed in the database.
#[derive(Debug, Deserialize)]
struct Extension {
    schema: String,
    version: String,
    /// Whether its schema is for this role.
    usable: bool,
    /// Whether the role may see what is registered.
    readable: bool,
    /// Whether it may register a table, and take it off again.
    writable: bool,
}

/// No row is no extension.
const EXTENSION: &str = "
SELECT coalesce((SELECT json_build_array(json_build_object('schema', n.nspname, 'version', e.extversion,
    'usable', pg_catalog.has_schema_privilege(n.oid, 'USAGE'),
    'readable', coalesce(pg_catalog.has_table_privilege(c.oid, 'SELECT'), false),
    'writable', coalesce(pg_catalog.has_table_privilege(c.oid, 'INSERT') AND pg_catalog.has_table_privilege(c.oid, 'UPDATE')
        AND pg_catalog.has_table_privilege(c.oid, 'DELETE'), false)))
FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = 'part_config'
WHERE e.extname = 'pg_partman'), '[]')";

impl Extension {
    async fn read(conn: &Conn) -> Result<Option<Extension>, Failure> {
        let found: Vec<Extension> = super::read::json(conn, "look for extension", EXTENSION).await?;
        Ok(found.into_iter().next())
    }

    /// Refuses a version that is not known, and a role that may not write to it.
    async fn refuse(&self, conn: &Conn, source: &Shape) -> Result<(), Failure> {
        let Extension { schema, version, usable, readable, writable } = self;
        let is =
            |known: &&str| version.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        if !KNOWN.iter().any(is) {
            return Err(refused(format!("its version {version} is not one that is known here"))
                .detail(format!("Known is {}: other versions may call partitions otherwise.", KNOWN.join(", ")))
                .hint("Leave out --pg-partman, and tell pg_partman of the table yourself."));
        }
        if !(*usable && *readable && *writable) {
            let role = conn.scalar("read role", "SELECT current_user").await?.unwrap_or_default();
            let (role, schema) = (plain_ident(&role), plain_ident(schema));
            return Err(refused(format!("role {role} may not register {} with it", source.name.plain())).hint(format!(
                "GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.part_config TO {role}."
            )));
        }
        Ok(())
    }

    /// Refuses a table that it has already: it would go on by the partitions that were there before.
    async fn refuse_registered(&self, conn: &Conn, table: &str, source: &Shape) -> Result<(), Failure> {
        if !(self.usable && self.readable) {
            return Ok(());
        }
        let config = format!("{}.part_config", Ident(&self.schema));
        let sql = format!("SELECT count(*) FROM {config} WHERE parent_table = {}", Literal(table));
        if conn.scalar("look for registration", &sql).await?.as_deref() == Some("0") {
            return Ok(());
        }
        Err(Failure::refused(format!(
            "pg_partman maintains table {}, and would go by its old partitions",
            source.name.plain()
        ))
        .hint(format!(
            "Take the table off its list first: DELETE FROM {}.part_config WHERE parent_table = {}.",
            plain_ident(&self.schema),
            Literal(table)
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_quoted_and_is_taken_back() {
        let managed = Managed {
            schema: "part\"man".to_owned(),
            version: "4.7.2".to_owned(),
            table: "a.o'b".to_owned(),
            control: "at".to_owned(),
            step: Step::Weeks(1),
            premake: 3,
        };
        let sql = managed.register_sql(true);
        assert!(sql.starts_with("INSERT INTO \"part\"\"man\".part_config ("), "{sql}");
        assert!(
            sql.contains(
                "'a.o''b', 'at', 'native', '1 weeks'::pg_catalog.interval::pg_catalog.text, 3, 'IYYY\"w\"IW', 'off')"
            ),
            "{sql}"
        );
        let numbers = Managed { step: Step::Numbers(1_000), ..managed.clone() }.register_sql(false);
        assert!(numbers.contains("'1000', 3, NULL, 'on')"), "{numbers}");
        assert!(managed.forget_sql().contains("parent_table = ''a.o''''b''"), "{}", managed.forget_sql());
        assert!(managed.wake_sql("p'q").contains("pubname = 'p''q'"));
    }
}
