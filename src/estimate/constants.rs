//! What the model takes for granted: the one place of every number that is not measured by the dry run itself.
//! `docs/estimate.md` says where each comes from, and which are assumed.
//!
//! Costs are given as (good case, likely, bad case).

use super::figure::Figure;

/// Copying into the shadow against copying into the scratch table, which writes no WAL and is not decoded by the WAL
/// sender.
pub const COPY_LOGGED: Figure = Figure::new(1.0, 2.0, 4.5);

/// The same for an index build, whose WAL are whole pages.
pub const BUILD_LOGGED: Figure = Figure::new(0.6, 0.95, 2.0);

/// The same for a flush, which in a run commits, and meets shadow and indexes of full size.
pub const FLUSH_LOGGED: Figure = Figure::new(1.0, 1.5, 3.0);

/// The same for the comparison, which a run reads from a table of full size.
pub const DIGEST_WHOLE: Figure = Figure::new(0.7, 1.0, 1.8);

/// What the smaller pieces of work cost that there are with `--nice`, beside the rest between them: in the copy, and in the
/// comparison, which asks for each key of a small piece instead of for sums of many.
pub const COPY_GENTLY: Figure = Figure::new(0.9, 1.0, 2.0);
/// See [`COPY_GENTLY`].
pub const DIGEST_GENTLY: Figure = Figure::new(1.5, 2.2, 4.5);

/// What a second worker adds, and each further one: two INSERT … SELECT gained 1.2 to 1.4 × on two virtual cores.
pub const WORKER_ADDS: Figure = Figure::new(0.7, 0.35, 0.0);

/// Without a trial: seconds for a row, and for each of its bytes, by one worker. From 3 M `pgbench` rows of 125 bytes,
/// and rows of one kilobyte.
pub const COPY_ROW: Figure = Figure::new(0.5e-6, 1.2e-6, 3e-6);
/// See [`COPY_ROW`].
pub const COPY_BYTE: Figure = Figure::new(2e-9, 6e-9, 20e-9);

/// Without a trial: seconds of an index build for each row and doubling of rows.
pub const BUILD_ROW: Figure = Figure::new(8e-9, 20e-9, 80e-9);

/// Without a trial: seconds to flush a key.
pub const FLUSH_KEY: Figure = Figure::new(10e-6, 30e-6, 120e-6);

/// Without a trial: seconds to read a row of both sides for the comparison.
pub const DIGEST_ROW: Figure = Figure::new(0.6e-6, 1.5e-6, 5e-6);

/// Without a trial: seconds of ANALYZE for each row of its sample.
pub const ANALYZE_ROW: Figure = Figure::new(3e-6, 7e-6, 30e-6);

/// Rows that ANALYZE samples: 300 for each unit of the statistics target, which is 100 by default (manual, "ANALYZE").
pub const ANALYZE_ROWS: f64 = 30_000.0;

/// What the phases take of a table that is next to empty. Prepare: shadow, publication, slot and settling; open write
/// transactions come on top.
pub const PREPARE: Figure = Figure::new(0.02, 0.06, 2.0);
/// Connections and chunks of the copy.
pub const COPY: Figure = Figure::new(0.03, 0.08, 0.3);
/// Connections of the index builds, and their constraints.
pub const INDEX: Figure = Figure::new(0.03, 0.06, 0.3);

/// From the last index to keys that go straight to the flushers: turns of the journal, barriers.
pub const CATCH_UP: Figure = Figure::new(0.02, 0.05, 0.5);

/// What the phases verify and ready take beside reading.
pub const TURN: Figure = Figure::new(0.03, 0.1, 0.5);

/// Looking, locking and swapping with nobody in the way, and cleaning up behind it.
pub const CUT_OVER: Figure = Figure::new(0.1, 0.2, 2.0);

/// How long writers wait for the swap, of what does not depend on their number: `write_blocked` of `scripts/bench`, its
/// median under load and its worst with five views, six foreign keys, triggers and policies.
pub const WRITE_PAUSE: Figure = Figure::new(0.004, 0.009, 0.025);

/// How long a change takes from its commit to its flush when in step.
pub const IN_STEP: f64 = 0.03;

/// Changes a second that the WAL sender decodes and we receive: 160 k alone on a core, some thousands where the
/// application's own clients take both.
pub const DECODED_PER_SECOND: Figure = Figure::new(160e3, 60e3, 8e3);

/// WAL that a standby replays a second, in bytes. Assumed: a usual disk and one process.
pub const REPLAYED_PER_SECOND: Figure = Figure::new(400e6, 150e6, 40e6);

/// WAL of an INSERT beyond what its row takes on a page: 54 bytes of record, block and tuple headers (`XLogRecord`,
/// `XLogRecordBlockHeader`, `xl_heap_insert`, `xl_heap_header`), less the 27 of line pointer and tuple header that it leaves
/// out. TOAST has as much for each of its pieces.
pub const WAL_OF_ROW: Figure = Figure::new(22.0, 27.0, 50.0);

/// A slot lets go of WAL at the server's records of running transactions, which come every 15 s; a transaction that is
/// open at one keeps what came since the one before (`LOG_SNAPSHOT_INTERVAL_MS`, `SnapBuildProcessRunningXacts`).
pub const SNAPSHOT_SECONDS: f64 = 15.0;
/// How many of them a slot lags.
pub const SNAPSHOTS_HELD: Figure = Figure::new(1.0, 2.0, 3.0);

/// A key in the journal, with its row's and page's headers, beyond its own bytes.
pub const JOURNAL_KEY: f64 = 48.0;

/// A sort of more than this goes to temporary files: what a run gives each build at least.
pub const BUILD_MEMORY: f64 = 256.0 * 1_048_576.0;
