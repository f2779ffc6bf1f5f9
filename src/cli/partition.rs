//! `pgrecast partition TABLE …`.

use serde::Serialize;

use super::name::{Columns, TableName};
use super::options::MigrateOptions;
use super::session::{Begun, Connection, Output};
use super::typed::PartitionArgs;
use crate::error::Failure;

/// Partitions beyond the last row's, where nothing is typed.
const PREMAKE: u32 = 4;

/// A table that is to become partitioned.
#[derive(Debug, PartialEq)]
pub struct Partition {
    /// The table.
    pub table: TableName,
    /// By what.
    pub by: PartitionBy,
    /// By what each partition is partitioned again, level by level.
    pub below: Vec<PartitionBy>,
    /// Whether rows that belong nowhere else get a partition.
    pub default_partition: bool,
    /// Constraints, indexes and foreign keys that are left off.
    pub drop_constraints: Vec<String>,
    /// Whether pg_partman is to make the partitions that follow.
    pub pg_partman: bool,
    /// Plan only.
    pub dry_run: bool,
    /// How to run it.
    pub options: MigrateOptions,
    /// The database.
    pub connection: Connection,
    /// What is said, and where.
    pub output: Output,
}

/// What was typed of the partitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum PartitionBy {
    /// `--range COL --every LENGTH`.
    Every {
        /// The column.
        column: String,
        /// As typed.
        every: String,
        /// `--zone`.
        zone: Option<String>,
        /// `--premake`.
        premake: u32,
    },
    /// `--range COL,… --bounds A,B,…`.
    Bounds {
        /// The columns.
        columns: Vec<String>,
        /// As typed.
        bounds: String,
        /// `--zone`.
        zone: Option<String>,
    },
    /// `--list COL --values 'a;b,c'`.
    List {
        /// The column.
        column: String,
        /// As typed.
        values: String,
    },
    /// `--hash COL,… --partitions N`.
    Hash {
        /// The columns.
        columns: Vec<String>,
        /// How many.
        partitions: u32,
    },
    /// `--none`.
    Nothing,
}

impl Partition {
    pub(super) fn check(typed: PartitionArgs) -> Result<Self, Failure> {
        let Begun { dry_run, options, connection, output } = typed.beginning.check(typed.primary_key)?;
        let by = PartitionBy::check(Method {
            range: typed.range,
            every: typed.every,
            bounds: typed.bounds,
            zone: typed.zone,
            premake: typed.premake,
            list: typed.list,
            values: typed.values,
            hash: typed.hash,
            partitions: typed.partitions,
            none: typed.none,
        })?;
        let mut below: Vec<PartitionBy> = typed.sub.into_iter().map(|level| level.0).collect();
        if let Some(one) = one_below(typed.sub_hash, typed.sub_partitions, typed.sub_list, typed.sub_values)? {
            if !below.is_empty() {
                return Err(Failure::usage("--sub excludes --sub-hash and --sub-list"));
            }
            below.push(one);
        }
        if !below.is_empty() && by == PartitionBy::Nothing {
            return Err(Failure::usage("--none excludes --sub, --sub-hash and --sub-list"));
        }
        Ok(Partition {
            table: typed.table,
            by,
            below,
            default_partition: typed.default_partition,
            drop_constraints: typed.drop_constraints.into_iter().flat_map(|names| names.0).collect(),
            pg_partman: typed.pg_partman,
            dry_run,
            options,
            connection,
            output,
        })
    }
}

/// The options that say by what.
#[derive(Default)]
pub(super) struct Method {
    pub(super) range: Option<Columns>,
    pub(super) every: Option<String>,
    pub(super) bounds: Option<String>,
    pub(super) zone: Option<String>,
    pub(super) premake: Option<u32>,
    pub(super) list: Option<Columns>,
    pub(super) values: Option<String>,
    pub(super) hash: Option<Columns>,
    pub(super) partitions: Option<u32>,
    pub(super) none: bool,
}

impl PartitionBy {
    pub(super) fn check(typed: Method) -> Result<PartitionBy, Failure> {
        let Method { range, every, bounds, zone, premake, list, values, hash, partitions, none } = typed;
        if none {
            none_of("--none", &[("--range", range.is_some()), ("--list", list.is_some()), ("--hash", hash.is_some())])?;
            none_of("--none", &[("--every", every.is_some()), ("--bounds", bounds.is_some())])?;
            none_of("--none", &[("--zone", zone.is_some()), ("--premake", premake.is_some())])?;
            none_of("--none", &[("--values", values.is_some()), ("--partitions", partitions.is_some())])?;
            return Ok(PartitionBy::Nothing);
        }
        match (range, list, hash) {
            (Some(range), None, None) => {
                none_of("--range", &[("--values", values.is_some()), ("--partitions", partitions.is_some())])?;
                match (every, bounds) {
                    (Some(every), None) => {
                        let column = only("--every", range)?;
                        Ok(PartitionBy::Every { column, every, zone, premake: premake.unwrap_or(PREMAKE) })
                    }
                    (None, Some(bounds)) => {
                        none_of("--bounds", &[("--premake", premake.is_some())])?;
                        Ok(PartitionBy::Bounds { columns: range.0, bounds, zone })
                    }
                    (Some(_), Some(_)) => Err(Failure::usage("--every and --bounds exclude each other")),
                    (None, None) => Err(Failure::usage("--range needs --every or --bounds")
                        .hint("For instance: --range created_at --every '1 month'.")),
                }
            }
            (None, Some(list), None) => {
                none_of("--list", &[("--every", every.is_some()), ("--bounds", bounds.is_some())])?;
                none_of("--list", &[("--zone", zone.is_some()), ("--premake", premake.is_some())])?;
                none_of("--list", &[("--partitions", partitions.is_some())])?;
                let column = only("--list", list)?;
                let values = values.ok_or_else(|| {
                    Failure::usage("--list needs --values").hint("For instance: --list region --values 'eu;us,ca'.")
                })?;
                Ok(PartitionBy::List { column, values })
            }
            (None, None, Some(hash)) => {
                none_of("--hash", &[("--every", every.is_some()), ("--bounds", bounds.is_some())])?;
                none_of("--hash", &[("--zone", zone.is_some()), ("--premake", premake.is_some())])?;
                none_of("--hash", &[("--values", values.is_some())])?;
                let partitions = partitions.ok_or_else(|| {
                    Failure::usage("--hash needs --partitions").hint("For instance: --hash id --partitions 8.")
                })?;
                Ok(PartitionBy::Hash { columns: hash.0, partitions })
            }
            (None, None, None) => Err(Failure::usage("one of --range, --list, --hash and --none is needed")
                .hint("For instance: pgrecast partition events --range created_at --every '1 month'.")),
            _ => Err(Failure::usage("--range, --list and --hash exclude each other")),
        }
    }
}

/// The options that say by what each partition is partitioned again, once.
fn one_below(
    hash: Option<Columns>,
    partitions: Option<u32>,
    list: Option<Columns>,
    values: Option<String>,
) -> Result<Option<PartitionBy>, Failure> {
    match (hash, list) {
        (Some(_), Some(_)) => Err(Failure::usage("--sub-hash and --sub-list exclude each other")),
        (Some(hash), None) => {
            none_of("--sub-hash", &[("--sub-values", values.is_some())])?;
            let partitions = partitions.ok_or_else(|| {
                Failure::usage("--sub-hash needs --sub-partitions")
                    .hint("For instance: --sub-hash id --sub-partitions 4.")
            })?;
            Ok(Some(PartitionBy::Hash { columns: hash.0, partitions }))
        }
        (None, Some(list)) => {
            none_of("--sub-list", &[("--sub-partitions", partitions.is_some())])?;
            let column = only("--sub-list", list)?;
            let values = values.ok_or_else(|| {
                Failure::usage("--sub-list needs --sub-values")
                    .hint("For instance: --sub-list region --sub-values 'eu;us'.")
            })?;
            Ok(Some(PartitionBy::List { column, values }))
        }
        (None, None) => match (partitions, values) {
            (None, None) => Ok(None),
            (Some(_), _) => Err(Failure::usage("--sub-partitions needs --sub-hash")),
            (None, Some(_)) => Err(Failure::usage("--sub-values needs --sub-list")),
        },
    }
}

fn none_of(method: &str, others: &[(&str, bool)]) -> Result<(), Failure> {
    match others.iter().find(|(_, typed)| *typed) {
        Some((other, _)) => Err(Failure::usage(format!("{other} is not for {method}"))),
        None => Ok(()),
    }
}

fn only(option: &str, columns: Columns) -> Result<String, Failure> {
    match <[String; 1]>::try_from(columns.0) {
        Ok([one]) => Ok(one),
        Err(all) => Err(Failure::usage(format!("{option} takes one column, not {}", all.len()))),
    }
}
