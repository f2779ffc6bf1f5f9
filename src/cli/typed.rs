//! The command line as clap reads it. Its texts are the help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::listen::StatusArgs;
use super::name::{ColumnName, Columns, TableName};
use super::options::{Changes, DryRunArgs, OnError, path};
use super::reverse::Reverse;
use super::setting::Setting;
use super::split::OnChange;
use super::sub::Level;
use crate::report::{Format, LogFormat};

const AFTER_HELP: &str = "Example: pgrecast alter orders 'ALTER COLUMN id TYPE bigint'";

/// Enough to watch, and done within minutes on two cores.
const DEMO_ROWS: u64 = 3_000_000;
/// Below this there is nothing to see.
const MIN_ROWS: u64 = 1_000;
/// The demo widens an `integer` key and fills the disk of an ordinary machine above this.
const MAX_ROWS: u64 = 200_000_000;
/// Enough for a steady rate.
const DEFAULT_SECONDS: u64 = 5;
/// An hour.
const MAX_SECONDS: u64 = 3_600;

/// Change the shape of a live PostgreSQL table while the application keeps reading and writing it
#[derive(Debug, Parser)]
#[command(name = "pgrecast", version, after_help = AFTER_HELP, disable_help_subcommand = true, max_term_width = 100)]
pub(super) struct CommandLine {
    /// Write a log to standard error: text, or json, one object a line [default: warnings alone]
    #[arg(long, global = true, value_enum, hide_possible_values = true, value_name = "FORMAT")]
    pub(super) log_format: Option<LogFormat>,
    #[command(subcommand)]
    pub(super) command: Typed,
}

#[derive(Debug, Subcommand)]
pub(super) enum Typed {
    /// Give a table a new shape: any ALTER TABLE clauses
    Alter(Box<AlterArgs>),
    /// Make a table partitioned by range, list or hash, or a partitioned one otherwise or not at all
    Partition(Box<PartitionArgs>),
    /// Move columns or rows into new tables: they leave the old one
    Split(Box<SplitArgs>),
    /// Change a key's type, in its table and in every table that refers to it
    Widen(Box<WidenArgs>),
    /// Do what a file says, as --print-spec writes it
    Run(Box<RunArgs>),
    /// Go on with an interrupted migration
    Resume(Box<ResumeArgs>),
    /// Show all migrations
    List(Session),
    /// Show where a migration stands
    Status(OneArgs),
    /// Hold a running migration back; changes are received all the same
    Pause(OneArgs),
    /// Let it go on
    Unpause(OneArgs),
    /// Change throttle, hours or jobs of a running migration
    Set(SetArgs),
    /// Release a postponed cut-over
    Cutover(OneArgs),
    /// Give a migration up and remove all that belongs to it
    Abort(OneArgs),
    /// Compare source and targets now
    Verify(VerifyArgs),
    /// Drop the old table and all that the tool owns for it
    Finish(FinishArgs),
    /// Swap back without losing a write, while the rollback window lasts
    Rollback(RollbackArgs),
    /// Migrate a table under load on a throwaway server, and show what happened
    Demo(DemoArgs),
}

impl Typed {
    /// What a command that begins a migration was given.
    pub(super) fn beginning(&self) -> Option<&Beginning> {
        match self {
            Typed::Alter(typed) => Some(&typed.beginning),
            Typed::Partition(typed) => Some(&typed.beginning),
            Typed::Split(typed) => Some(&typed.beginning),
            Typed::Widen(typed) => Some(&typed.beginning),
            Typed::Run(typed) => Some(&typed.beginning),
            Typed::Resume(_)
            | Typed::List(_)
            | Typed::Status(_)
            | Typed::Cutover(_)
            | Typed::Abort(_)
            | Typed::Verify(_)
            | Typed::Finish(_)
            | Typed::Rollback(_)
            | Typed::Demo(_)
            | Typed::Pause(_)
            | Typed::Unpause(_)
            | Typed::Set(_) => None,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct AlterArgs {
    /// NAME or SCHEMA.NAME, quoted as in SQL
    #[arg(value_name = "TABLE")]
    pub(super) table: TableName,
    /// What follows ALTER TABLE NAME, comma separated; '' rewrites the table without its bloat
    #[arg(value_name = "CLAUSES")]
    pub(super) clauses: String,
    /// The new table's primary key [default: the old one's]
    #[arg(long, value_name = "COL,…")]
    pub(super) primary_key: Option<Columns>,
    /// A session setting for conversions that depend on one, such as TimeZone=UTC; may be repeated
    #[arg(long = "setting", value_name = "NAME=VALUE")]
    pub(super) settings: Vec<Setting>,
    /// How an old column comes back from a new row, for --rollback-window; may be repeated
    #[arg(long = "reverse", value_name = "COL = EXPRESSION")]
    pub(super) reverse: Vec<Reverse>,
    /// A value that does not convert ends the run (abort), or becomes NULL, kept aside on request (null, quarantine)
    #[arg(long, value_name = "WHAT", value_enum, hide_possible_values = true, default_value_t = OnError::Abort)]
    pub(super) on_error: OnError,
    #[command(flatten)]
    pub(super) beginning: Beginning,
}

// No doc comment: it would be the command's own.
#[derive(Debug, Args)]
pub(super) struct Beginning {
    /// Print the plan and the estimate, and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) measures: DryRunArgs,
    /// Print this command as a spec for `pgrecast run`, and do nothing
    #[arg(long, conflicts_with = "dry_run")]
    pub(super) print_spec: bool,
    /// Keep the slots on standbys too, so that one which is promoted goes on; PostgreSQL 17 and later
    #[arg(long)]
    pub(super) failover_slot: bool,
    #[command(flatten)]
    pub(super) session: Session,
    #[command(flatten)]
    pub(super) report: ReportArgs,
    #[command(flatten)]
    pub(super) changes: Changes,
    #[command(flatten)]
    pub(super) status: StatusArgs,
}

#[derive(Debug, Args)]
pub(super) struct PartitionArgs {
    /// NAME or SCHEMA.NAME, quoted as in SQL
    #[arg(value_name = "TABLE")]
    pub(super) table: TableName,
    /// Partition by ranges of these columns
    #[arg(long, value_name = "COL,…")]
    pub(super) range: Option<Columns>,
    /// Ranges of this length over all rows there are: '1 month', '2 weeks', '1 day', '1 year', 1000000
    #[arg(long, value_name = "LENGTH")]
    pub(super) every: Option<String>,
    /// Ranges from each of these values to the next; MINVALUE and MAXVALUE are the ends
    #[arg(long, value_name = "A,B,C", allow_hyphen_values = true)]
    pub(super) bounds: Option<String>,
    /// The time zone of the bounds of a timestamptz column [default: UTC]
    #[arg(long, value_name = "ZONE")]
    pub(super) zone: Option<String>,
    /// With --every: partitions beyond that of the last row [default: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub(super) premake: Option<u32>,
    /// Partition by the values of this column
    #[arg(long, value_name = "COL")]
    pub(super) list: Option<Columns>,
    /// The values of each partition; NULL for rows without one
    #[arg(long, value_name = "'a;b,c'", allow_hyphen_values = true)]
    pub(super) values: Option<String>,
    /// Partition by a hash of these columns
    #[arg(long, value_name = "COL,…")]
    pub(super) hash: Option<Columns>,
    /// How many partitions the hash is spread over
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(super) partitions: Option<u32>,
    /// Partition each partition again: 'range COL every LENGTH', 'range COL,… bounds A,B,C', 'list COL values a;b,c' or
    /// 'hash COL,… partitions N'; may be repeated, once for each level
    #[arg(long = "sub", value_name = "LEVEL")]
    pub(super) sub: Vec<Level>,
    /// The same as --sub 'hash COL,… partitions N', for one level
    #[arg(long, value_name = "COL,…")]
    pub(super) sub_hash: Option<Columns>,
    /// How many partitions each has then
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(super) sub_partitions: Option<u32>,
    /// The same as --sub 'list COL values a;b,c', for one level
    #[arg(long, value_name = "COL")]
    pub(super) sub_list: Option<Columns>,
    /// The values of each of its partitions
    #[arg(long, value_name = "'a;b,c'", allow_hyphen_values = true)]
    pub(super) sub_values: Option<String>,
    /// Call the partitions as pg_partman does, and register the table there: it makes those that follow
    #[arg(long)]
    pub(super) pg_partman: bool,
    /// A partitioned table becomes a plain one
    #[arg(long)]
    pub(super) none: bool,
    /// A partition for rows that belong to no other
    #[arg(long)]
    pub(super) default_partition: bool,
    /// The new table's primary key [default: the old one's, and the partition columns where needed]
    #[arg(long, value_name = "COL,…")]
    pub(super) primary_key: Option<Columns>,
    /// A constraint, unique index or incoming foreign key to be left off; may be repeated
    #[arg(long = "drop-constraint", value_name = "NAME")]
    pub(super) drop_constraints: Vec<Columns>,
    #[command(flatten)]
    pub(super) beginning: Beginning,
}

#[derive(Debug, Args)]
pub(super) struct SplitArgs {
    /// NAME or SCHEMA.NAME, quoted as in SQL
    #[arg(value_name = "TABLE")]
    pub(super) table: TableName,
    /// A new table: its columns, each from one of TABLE's (the key's come first where they are not listed), or all of
    /// them with NEW alone or NEW(*); and which rows. An expression may give several rows for one: tag = unnest(tags).
    /// Without --drop the rows of the predicate leave TABLE. May be repeated
    #[arg(long = "into", value_name = "NEW(col, new = expression, …) [WHERE …]", required_unless_present = "lookup")]
    pub(super) into: Vec<String>,
    /// A new table for the distinct values of a column, each with a number; in TABLE the number takes the column's place,
    /// and refers to it by a foreign key. May be repeated
    #[arg(long, value_name = "REFERENCE = NEW(value = COL)")]
    pub(super) lookup: Vec<String>,
    /// Columns that leave TABLE
    #[arg(long, value_name = "COL,…")]
    pub(super) drop: Option<Columns>,
    /// Each row must belong to one of the new tables; the run ends at one that does not
    #[arg(long)]
    pub(super) exhaustive: bool,
    /// A foreign key from each new table to TABLE's key, with what it does when a row there goes or gets another key
    #[arg(long, value_name = "ACTION", value_enum)]
    pub(super) foreign_key: Option<OnChange>,
    /// A view with TABLE's old shape, for an old version of the application to read and write
    #[arg(long, value_name = "NAME")]
    pub(super) compat_view: Option<TableName>,
    /// How an old column comes back from the columns of TABLE and the new tables, for --compat-view: for one that they do not
    /// have as it was; may be repeated
    #[arg(long = "reverse", value_name = "COL = EXPRESSION")]
    pub(super) reverse: Vec<Reverse>,
    /// A constraint or index over columns that leave, or a foreign key to rows that may, that is to go; may be repeated
    #[arg(long = "drop-constraint", value_name = "NAME")]
    pub(super) drop_constraints: Vec<Columns>,
    /// A session setting for expressions that depend on one, such as TimeZone=UTC; may be repeated
    #[arg(long = "setting", value_name = "NAME=VALUE")]
    pub(super) settings: Vec<Setting>,
    #[command(flatten)]
    pub(super) beginning: Beginning,
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The file
    #[arg(value_name = "SPEC.toml", value_parser = path)]
    pub(super) file: PathBuf,
    #[command(flatten)]
    pub(super) beginning: Beginning,
}

#[derive(Debug, Args)]
pub(super) struct WidenArgs {
    /// The key: NAME.COLUMN or SCHEMA.NAME.COLUMN, quoted as in SQL
    #[arg(value_name = "TABLE.COLUMN")]
    pub(super) column: ColumnName,
    /// Its new type
    #[arg(id = "type", value_name = "TYPE")]
    pub(super) type_sql: String,
    /// A column that holds the key too, without a foreign key; what refers to it follows. May be repeated
    #[arg(long = "also", value_name = "TABLE.COLUMN")]
    pub(super) also: Vec<ColumnName>,
    /// For tables too large to be swapped together: one after the other, those that refer first
    #[arg(long)]
    pub(super) one_by_one: bool,
    #[command(flatten)]
    pub(super) beginning: Beginning,
}

#[derive(Debug, Args)]
pub(super) struct ResumeArgs {
    #[command(flatten)]
    pub(super) which: Which,
    #[command(flatten)]
    pub(super) session: Session,
    #[command(flatten)]
    pub(super) report: ReportArgs,
    #[command(flatten)]
    pub(super) changes: Changes,
    #[command(flatten)]
    pub(super) status: StatusArgs,
}

#[derive(Debug, Args)]
pub(super) struct OneArgs {
    #[command(flatten)]
    pub(super) which: Which,
    #[command(flatten)]
    pub(super) session: Session,
}

#[derive(Debug, Args)]
pub(super) struct SetArgs {
    /// The migration where there are several, then options without their dashes: max-lag=30s, jobs=4; NAME= is the default
    #[arg(value_name = "[ID] NAME=VALUE", required = true)]
    pub(super) values: Vec<String>,
    #[command(flatten)]
    pub(super) session: Session,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    pub(super) which: Which,
    /// Begin from the start, where a comparison that was interrupted would go on
    #[arg(long)]
    pub(super) anew: bool,
    #[command(flatten)]
    pub(super) session: Session,
    #[command(flatten)]
    pub(super) report: ReportArgs,
}

#[derive(Debug, Args)]
pub(super) struct FinishArgs {
    /// The migration, as `pgrecast list` shows it
    #[arg(value_name = "ID", value_parser = clap::value_parser!(i64).range(1..))]
    pub(super) id: i64,
    #[command(flatten)]
    pub(super) session: Session,
}

#[derive(Debug, Args)]
pub(super) struct RollbackArgs {
    /// The migration, as `pgrecast list` shows it
    #[arg(value_name = "ID", value_parser = clap::value_parser!(i64).range(1..))]
    pub(super) id: i64,
    #[command(flatten)]
    pub(super) session: Session,
    #[command(flatten)]
    pub(super) report: ReportArgs,
}

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Rows of the table
    #[arg(long, value_name = "N", default_value_t = DEMO_ROWS,
        value_parser = clap::value_parser!(u64).range(MIN_ROWS..=MAX_ROWS))]
    pub(super) rows: u64,
    /// Seconds of load before the migration, and again after it
    #[arg(long, value_name = "N", default_value_t = DEFAULT_SECONDS,
        value_parser = clap::value_parser!(u64).range(1..=MAX_SECONDS))]
    pub(super) seconds: u64,
    #[command(flatten)]
    pub(super) format: FormatArgs,
    #[command(flatten)]
    pub(super) report: ReportArgs,
}

#[derive(Debug, Args)]
pub(super) struct Which {
    /// The migration, as `pgrecast list` shows it; needed where there are several
    #[arg(value_name = "ID", value_parser = clap::value_parser!(i64).range(1..))]
    pub(super) id: Option<i64>,
}

/// What every command that talks to the database takes. The variable's value may hold a password, so help hides it.
#[derive(Debug, Args)]
pub(super) struct Session {
    /// The database, as libpq reads it [default: as libpq finds it]
    #[arg(long, value_name = "URL", env = "PGRECAST_DSN", hide_env_values = true)]
    pub(super) dsn: Option<String>,
    #[command(flatten)]
    pub(super) format: FormatArgs,
}

#[derive(Debug, Args)]
pub(super) struct FormatArgs {
    /// Standard output: text for people, or json, one object a line
    #[arg(long, value_enum, hide_possible_values = true, default_value_t = Format::Text)]
    pub(super) format: Format,
}

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Write the JSON report there at the end
    #[arg(long, value_name = "FILE", value_parser = path)]
    pub(super) report: Option<PathBuf>,
}
