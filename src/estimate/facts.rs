//! What was measured, as data.

use serde::{Deserialize, Serialize};

/// The table and its server.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Facts {
    /// The table, as a person would write it.
    pub table: String,
    /// Live rows, by the density of the sampled blocks where there was a trial, else by the catalog.
    pub rows: f64,
    /// Dead rows, by the server's statistics.
    pub dead_rows: f64,
    /// The table's main files.
    pub table_bytes: f64,
    /// Its TOAST tables, with their indexes.
    pub toast_bytes: f64,
    /// Its indexes.
    pub index_bytes: f64,
    /// Its blocks.
    #[serde(skip)]
    pub blocks: f64,
    /// How long the writes were counted.
    pub sampled_seconds: f64,
    /// Writes of the table a second.
    pub writes: Writes,
    /// Which share of them was of different rows; unknown without a trial, or where it saw too few.
    pub different_share: Option<f64>,
    /// WAL of the whole server a second.
    pub wal_bytes_per_second: f64,
    /// The standbys, as far as this role sees them.
    pub standbys: Vec<Standby>,
    /// Transactions that were open.
    pub open_transactions: Vec<Open>,
}

/// Writes of a table, or their rate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Writes {
    /// INSERT.
    pub inserts: f64,
    /// UPDATE.
    pub updates: f64,
    /// DELETE.
    pub deletes: f64,
}

impl Writes {
    /// All of them.
    pub fn all(self) -> f64 {
        self.inserts + self.updates + self.deletes
    }

    /// What was added since, a second. A reset of the statistics in between shows as nothing.
    pub fn since(self, before: Writes, seconds: f64) -> Writes {
        let rate = |now: f64, before: f64| (now - before).max(0.0) / seconds.max(0.001);
        Writes {
            inserts: rate(self.inserts, before.inserts),
            updates: rate(self.updates, before.updates),
            deletes: rate(self.deletes, before.deletes),
        }
    }
}

/// A standby that streams.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Standby {
    /// Its `application_name`.
    pub name: String,
    /// Its replay lag; unknown where it has nothing to replay.
    pub lag_seconds: Option<f64>,
    /// WAL it has not replayed.
    pub behind_bytes: Option<f64>,
}

/// An open transaction. Its statement is not shown: it may have values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Open {
    /// Its backend, or the prepared transaction's name.
    pub who: String,
    /// How long it has been open; unknown where this role may not see it.
    pub seconds: Option<f64>,
    /// It has a lock on the table, which the cut-over waits for.
    pub on_table: bool,
    /// It writes somewhere in the cluster, which the replication slot waits for.
    pub writes: bool,
    /// Its virtual transaction, which tells it from the next one of its session.
    #[serde(skip_serializing)]
    pub transaction: String,
}

/// What could not be measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
}

impl Missing {
    /// Something that is not known.
    pub fn new(what: impl Into<String>, why: impl Into<String>) -> Missing {
        Missing { what: what.into(), why: why.into() }
    }
}

/// What a trial came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Trial {
    /// Ranges of blocks that were copied.
    pub ranges: u64,
    /// Blocks in them.
    pub blocks: u64,
    /// Their rows.
    pub rows: u64,
    /// How long that took.
    pub copy_seconds: f64,
    /// What they came to in the target: the main file.
    pub table_bytes: f64,
    /// And the TOAST table.
    pub toast_bytes: f64,
    /// The target's indexes, in the order of the plan; none where one could not be built.
    pub indexes: Vec<Option<Built>>,
    /// A flush of some keys.
    pub flush: Option<Pace>,
    /// The comparison's reading of both sides.
    pub digest: Option<Pace>,
    /// ANALYZE of the rows.
    pub analyze: Option<Pace>,
    /// Rows in the blocks that were written while the writes were counted.
    pub changed: Option<f64>,
}

/// An index over the trial's rows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Built {
    /// How long it took.
    pub seconds: f64,
    /// Its size.
    pub bytes: f64,
}

/// So many in so long.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Pace {
    /// Rows or keys.
    pub rows: f64,
    /// Seconds.
    pub seconds: f64,
}

impl Pace {
    /// Seconds for one.
    pub fn each(self) -> f64 {
        self.seconds / self.rows.max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_was_added() {
        let before = Writes { inserts: 10.0, updates: 5.0, deletes: 7.0 };
        let after = Writes { inserts: 30.0, updates: 5.0, deletes: 1.0 };
        assert_eq!(after.since(before, 2.0), Writes { inserts: 10.0, updates: 0.0, deletes: 0.0 });
    }
}
